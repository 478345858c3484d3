/*
 * connection.c - one connection = socket + frames + codec + session.
 */
#include "connection.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "frame.h"
#include "serve.h"
#include "socket.h"

enum {
    KEEP_BYTES = 64 * 1024,       /* receive buffer that is kept while nothing comes */
    KEEP_IN_MESSAGE = 256 * 1024, /* and inside a message: MTAs send chunks of 65535 bytes */
    ROOM_BYTES = 1024             /* free bytes that are worth a read */
};

mlt_connection *mlt_connection_new(mlt_server *server)
{
    if (server == NULL)
        return NULL;
    mlt_connection *connection = calloc(1, sizeof *connection);
    if (connection == NULL)
        return NULL;
    connection->server = server;
    connection->fd = -1;
    mlt_buffer_init(&connection->in);
    mlt_session_init(&connection->session, mlt_server_settings(server), &connection->view);
    return connection;
}

void mlt_connection_free(mlt_connection *connection)
{
    if (connection == NULL)
        return;
    mlt_connection_end(connection);
    mlt_session_free(&connection->session);
    mlt_buffer_free(&connection->in);
    free(connection);
}

mlt_view *mlt_connection_view(mlt_connection *connection)
{
    return connection == NULL ? NULL : &connection->view;
}

void mlt_connection_begin(mlt_connection *connection, int fd, uint64_t id)
{
    const mlt_settings *settings = mlt_server_settings(connection->server);
    mlt_socket_prepare(fd, settings->idle_timeout, settings->write_timeout, &connection->tcp);
    connection->fd = fd;
    connection->ending = false;
    connection->deadline = 0;
    connection->count = 0;
    atomic_store(&connection->between, false);
    atomic_store(&connection->cut, false);
    mlt_buffer_clear(&connection->in, KEEP_BYTES);
    mlt_session_reset(&connection->session);
    connection->view.id = id;
}

int mlt_connection_adopt(mlt_connection *connection, int fd)
{
    if (connection == NULL || connection->fd >= 0 || fd < 0)
        return MLT_ERR_CALLER;
    mlt_server_adopt(connection->server, connection, fd);
    return MLT_OK;
}

static void give_turn(mlt_connection *connection)
{
    if (connection->turn)
        mlt_server_give_turn(connection->server);
    connection->turn = false;
}

void mlt_connection_end(mlt_connection *connection)
{
    if (connection != NULL)
        give_turn(connection);
    if (connection != NULL && connection->fd >= 0)
        mlt_server_forget(connection->server, connection);
}

/* ------------------------------------------------------------------------------------------ */
/* Out */

/* Sends actions and a reply in one write. */
static int send_reply(mlt_connection *connection, const char *actions, size_t actions_len,
                      mlt_reply reply, mlt_span tail)
{
    char head[MLT_FRAME_HEAD];
    char nul = '\0';
    struct iovec parts[5];
    int count = 0;
    if (actions_len > 0)
        parts[count++] = (struct iovec){(void *)(uintptr_t)actions, actions_len};
    if (reply.letter != 0) {
        size_t payload = reply.text.len + tail.len + (reply.nul ? 1 : 0);
        mlt_frame_put_head(head, reply.letter, payload);
        parts[count++] = (struct iovec){head, sizeof head};
        if (reply.text.len > 0)
            parts[count++] = (struct iovec){(void *)(uintptr_t)reply.text.data, reply.text.len};
        if (tail.len > 0)
            parts[count++] = (struct iovec){(void *)(uintptr_t)tail.data, tail.len};
        if (reply.nul)
            parts[count++] = (struct iovec){&nul, 1};
    }
    if (count == 0)
        return MLT_OK;
    int status = mlt_socket_write(connection->fd, parts, count);
    if (status == MLT_OK)
        return MLT_OK;
    connection->ending = true;
    if (atomic_load(&connection->cut))
        return mlt_view_fail(&connection->view, MLT_STOPPED,
                             "ended inside a message because the server stops");
    if (status == MLT_ERR_TIMEOUT)
        return mlt_view_fail(&connection->view, status, "the MTA does not read what is sent to it");
    return mlt_view_fail(&connection->view, status, "cannot write to the MTA: %s", strerror(errno));
}

int mlt_connection_send(mlt_connection *connection, const char *packets, size_t len)
{
    if (connection == NULL || connection->fd < 0)
        return MLT_ERR_CALLER;
    if (connection->ending)
        return connection->view.status != MLT_OK ? connection->view.status : MLT_END;
    return send_reply(connection, packets, len, (mlt_reply){0, {NULL, 0}, false},
                      (mlt_span){NULL, 0});
}

static void answer_options(mlt_connection *connection, int verdict, mlt_span lists)
{
    mlt_session *session = &connection->session;
    bool wanted;
    if (mlt_session_negotiate(session, verdict, lists.len, &wanted) != MLT_OK) {
        connection->ending = true;
        return;
    }
    if (!wanted)
        lists.len = 0;
    if (sizeof session->options + lists.len > connection->view.send_payload) {
        connection->ending = true;
        mlt_view_fail(&connection->view, MLT_ERR_LIMIT, "macro lists of %zu bytes are too long",
                      lists.len);
        return;
    }
    mlt_reply reply = {SMFIR_OPTNEG, {session->options, sizeof session->options}, false};
    send_reply(connection, NULL, 0, reply, lists);
}

/* Takes in what the filter said to the first `done` events of the batch. */
static void settle(mlt_connection *connection, size_t done, int verdict, mlt_span text,
                   mlt_span actions)
{
    const mlt_event *event = &connection->view.events[done - 1];
    /* What was looked at beyond the last of them is looked at again, in the light of its verdict.
     */
    if (done < connection->count)
        connection->session.at = connection->marks[done - 1];
    mlt_buffer_take(&connection->in, connection->ends[done - 1]);
    if (connection->ending)
        return;
    if (event->step == MLT_STEP_NEGOTIATE) {
        answer_options(connection, verdict, actions);
        return;
    }
    mlt_reply reply = mlt_session_verdict(&connection->session, event->step, verdict, text);
    send_reply(connection, actions.data, actions.len, reply, (mlt_span){NULL, 0});
}

/* ------------------------------------------------------------------------------------------ */
/* In */

static int64_t packet_time(const mlt_settings *settings)
{
    int64_t packet = settings->packet_timeout;
    int64_t idle = settings->idle_timeout;
    if (packet < 0)
        return idle;
    return idle >= 0 && idle < packet ? idle : packet;
}

/* Reads more of a packet that has begun, up to its deadline. */
static ssize_t read_rest(mlt_connection *connection, char *to, size_t room)
{
    int64_t time = packet_time(mlt_server_settings(connection->server));
    int64_t left = -1;
    if (time >= 0) {
        int64_t now = mlt_socket_now();
        if (connection->deadline == 0)
            connection->deadline = now + time;
        left = connection->deadline > now ? connection->deadline - now : 0;
    }
    ssize_t got = mlt_socket_read(connection->fd, to, room, false, connection->tcp);
    if (got >= 0 || (errno != EAGAIN && errno != EWOULDBLOCK))
        return got;
    if (left == 0 || mlt_socket_wait(connection->fd, left) == 0) {
        errno = EAGAIN;
        return -1;
    }
    return mlt_socket_read(connection->fd, to, room, false, connection->tcp);
}

/* Reads the beginning of the next packet. The one place where a connection waits for long. */
static ssize_t read_first(mlt_connection *connection, char *to, size_t room)
{
    const mlt_settings *settings = mlt_server_settings(connection->server);
    /* Said before looking whether the server stops: so either we see that, or it sees us. */
    atomic_store(&connection->between, !mlt_session_in_message(&connection->session));
    if (atomic_load(&connection->between) && mlt_server_stopping(connection->server)) {
        atomic_store(&connection->cut, true);
        return 0;
    }
    ssize_t got =
        mlt_socket_read(connection->fd, to, room, settings->idle_timeout != 0, connection->tcp);
    int code = errno;
    atomic_store(&connection->between, false);
    errno = code;
    return got;
}

/* Gets more bytes. False: there are none, the view says why if that is not in order. */
static bool fill(mlt_connection *connection)
{
    mlt_buffer *in = &connection->in;
    mlt_view *view = &connection->view;
    bool begun = mlt_buffer_len(in) > 0;
    const mlt_settings *settings = mlt_server_settings(connection->server);
    if (!begun)
        mlt_buffer_clear(in, mlt_session_in_message(&connection->session) ? KEEP_IN_MESSAGE
                                                                          : KEEP_BYTES);
    /* Grows with what has come, never with what a length promises. */
    int status =
        mlt_buffer_reserve(in, ROOM_BYTES, settings->receive_frame + MLT_FRAME_LENGTH + ROOM_BYTES);
    if (status != MLT_OK) {
        mlt_view_fail(view, status, "no memory for a packet");
        return false;
    }
    char *to = in->bytes + in->end;
    size_t room = in->capacity - in->end;
    ssize_t got = begun ? read_rest(connection, to, room) : read_first(connection, to, room);
    if (got > 0) {
        in->end += (size_t)got;
        return true;
    }
    int code = errno;
    if (atomic_load(&connection->cut)) {
        if (begun || mlt_session_in_message(&connection->session))
            mlt_view_fail(view, MLT_STOPPED, "ended inside a message because the server stops");
    } else if (got == 0 && begun) {
        mlt_view_fail(view, MLT_ERR_PEER, "the MTA closed the connection inside a packet");
    } else if (got == 0) {
        if (mlt_session_in_message(&connection->session))
            mlt_view_fail(view, MLT_END, "the MTA closed the connection inside a message");
    } else if (code == EAGAIN || code == EWOULDBLOCK) {
        mlt_view_fail(view, MLT_ERR_TIMEOUT,
                      begun ? "the MTA does not complete a packet"
                            : "nothing came from the MTA within the time-out");
    } else {
        mlt_view_fail(view, MLT_ERR_IO, "cannot read from the MTA: %s", strerror(code));
    }
    return false;
}

/* Adds the event that stands behind the batch. */
static void add(mlt_connection *connection, size_t end)
{
    connection->ends[connection->count] = end;
    connection->marks[connection->count] = connection->session.at;
    connection->count++;
}

/* What the filter is still owed; 0 and the end of everything when that is nothing. */
static int finish(mlt_connection *connection)
{
    connection->ending = true;
    if (mlt_session_finish(&connection->session, &connection->view.events[0])) {
        add(connection, 0);
        return 1;
    }
    mlt_connection_end(connection);
    return 0;
}

/* Takes packets out of the buffer until there is something to report. A run of events that need
 * no answer is reported at once. */
static int gather(mlt_connection *connection)
{
    mlt_buffer *in = &connection->in;
    mlt_view *view = &connection->view;
    mlt_session *session = &connection->session;
    size_t limit = mlt_server_settings(connection->server)->receive_frame;
    size_t used = 0; /* bytes of packets in the batch */
    mlt_packet packet;
    for (;;) {
        int status =
            mlt_frame_next(mlt_buffer_data(in) + used, mlt_buffer_len(in) - used, limit, &packet);
        if (connection->count > 0 &&
            (status != MLT_OK || !mlt_session_may_run_ahead(session, &packet)))
            return (int)connection->count;
        if (status == MLT_NEED_MORE) {
            if (!fill(connection))
                return finish(connection);
            continue;
        }
        if (status != MLT_OK) {
            size_t size = mlt_frame_get_u32(mlt_buffer_data(in));
            mlt_view_fail(view, status, "packet of %zu bytes, not 1 to %zu", size, limit);
            return finish(connection);
        }
        connection->deadline = 0;
        mlt_mark mark = session->at;
        mlt_event *event = &view->events[connection->count];
        mlt_take take = mlt_session_receive(session, &packet, event);
        if (connection->count > 0 && take != MLT_TAKE_EVENT &&
            !(take == MLT_TAKE_NOTHING && packet.letter == SMFIC_MACRO)) {
            /* As if it had not been looked at: it may be something else after the batch. */
            session->at = mark;
            view->status = MLT_OK;
            view->error[0] = '\0';
            return (int)connection->count;
        }
        switch (take) {
        case MLT_TAKE_EVENT:
            used += packet.used;
            add(connection, used);
            if (!event->noreply || event->step == MLT_STEP_ABORT || connection->count == MLT_EVENTS)
                return (int)connection->count;
            break;
        case MLT_TAKE_FIRST:
            add(connection, used);
            return (int)connection->count;
        case MLT_TAKE_ANSWER:
            send_reply(connection, NULL, 0, session->answer, (mlt_span){NULL, 0});
            mlt_buffer_take(in, packet.used);
            if (connection->ending)
                return finish(connection);
            break;
        case MLT_TAKE_NOTHING:
            if (connection->count > 0)
                used += packet.used;
            else
                mlt_buffer_take(in, packet.used);
            break;
        case MLT_TAKE_OVER:
        case MLT_TAKE_FAILED:
            return finish(connection);
        }
    }
}

int mlt_connection_next(mlt_connection *connection, size_t done, int verdict, const char *reply,
                        size_t reply_len, const char *actions, size_t actions_len)
{
    if (connection == NULL || connection->fd < 0 || done > connection->count ||
        (done == 0) != (connection->count == 0))
        return MLT_ERR_CALLER;
    give_turn(connection);
    if (done > 0)
        settle(connection, done, verdict, (mlt_span){reply, reply_len},
               (mlt_span){actions, actions_len});
    connection->count = 0;
    int count = connection->ending ? finish(connection) : gather(connection);
    if (count > 0)
        connection->turn = mlt_server_take_turn(connection->server);
    return count;
}
