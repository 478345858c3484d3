/*
 * connection.c - one connection = socket + frames + codec + session.
 */
#include "connection.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "frame.h"
#include "serve.h"
#include "socket.h"

enum {
    KEEP_IDLE = 16 * 1024,        /* receive buffer that is kept while nothing comes */
    KEEP_IN_MESSAGE = 256 * 1024, /* and inside a message: MTAs send chunks of 65535 bytes */
    ROOM_BYTES = 4096,            /* free bytes that are worth a read */
    READ_BYTES = 64 * 1024,       /* as much as an MTA writes at once */
    KEEP_OUT = 256,               /* enough for an ordinary answer */
    OUT_BYTES = 64 * 1024 * 1024  /* that may wait to be written */
};

void mlt_connection_init(mlt_connection *connection, mlt_server *server)
{
    connection->server = server;
    connection->fd = -1;
    connection->batch = NULL;
    mlt_buffer_init(&connection->in);
    mlt_buffer_init(&connection->out);
    mlt_session_init(&connection->session, mlt_server_settings(server), &connection->view);
}

void mlt_connection_release(mlt_connection *connection)
{
    mlt_connection_end(connection);
    mlt_session_free(&connection->session);
    mlt_buffer_free(&connection->in);
    mlt_buffer_free(&connection->out);
}

mlt_view *mlt_connection_view(mlt_connection *connection)
{
    return connection == NULL ? NULL : &connection->view;
}

void mlt_connection_lend(mlt_connection *connection, mlt_batch *batch, mlt_event *events,
                         char *text)
{
    batch->count = 0;
    batch->events = events;
    batch->text = text;
    connection->batch = batch;
    connection->view.events = events;
    connection->view.text = text;
}

void mlt_connection_begin(mlt_connection *connection, int fd, uint64_t id)
{
    const mlt_settings *settings = mlt_server_settings(connection->server);
    if (connection->nonblocking)
        mlt_socket_prepare(fd, -1, -1, &connection->tcp);
    else
        mlt_socket_prepare(fd, settings->idle_timeout, settings->write_timeout, &connection->tcp);
    connection->fd = fd;
    connection->ending = false;
    connection->deadline = 0;
    if (connection->batch != NULL)
        connection->batch->count = 0;
    atomic_store(&connection->between, false);
    atomic_store(&connection->cut, false);
    mlt_buffer_clear(&connection->in, KEEP_IDLE);
    mlt_buffer_clear(&connection->out, 0);
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

/* ------------------------------------------------------------------------------------------ */
/* Out */

static int write_failed(mlt_connection *connection, int status, int code)
{
    connection->ending = true;
    mlt_buffer_clear(&connection->out, 0);
    if (atomic_load(&connection->cut))
        return mlt_view_fail(&connection->view, MLT_STOPPED,
                             "ended inside a message because the server stops");
    if (status == MLT_ERR_TIMEOUT)
        return mlt_view_fail(&connection->view, status, "the MTA does not read what is sent to it");
    return mlt_view_fail(&connection->view, status, "cannot write to the MTA: %s", strerror(code));
}

void mlt_connection_write_timeout(mlt_connection *connection)
{
    write_failed(connection, MLT_ERR_TIMEOUT, 0);
}

/* Keeps for later what the socket did not take. */
static int keep(mlt_connection *connection, const struct iovec *parts, int count)
{
    /* One answer may be of any size, as the filter has it in memory already. */
    int status = mlt_buffer_len(&connection->out) > OUT_BYTES ? MLT_ERR_LIMIT : MLT_OK;
    for (int i = 0; i < count; i++) {
        if (status == MLT_OK)
            status =
                mlt_buffer_append(&connection->out, parts[i].iov_base, parts[i].iov_len, SIZE_MAX);
        if (status != MLT_OK) {
            connection->ending = true;
            mlt_buffer_clear(&connection->out, 0);
            return mlt_view_fail(&connection->view, status,
                                 "the MTA does not read the %d bytes that wait for it", OUT_BYTES);
        }
    }
    return MLT_OK;
}

/* Writes the parts, which it changes. */
static int write_parts(mlt_connection *connection, struct iovec *parts, int count)
{
    if (connection->deferring)
        return keep(connection, parts, count);
    if (mlt_buffer_len(&connection->out) > 0) {
        mlt_connection_flush(connection);
        if (connection->ending)
            return connection->view.status;
        if (mlt_buffer_len(&connection->out) > 0)
            return keep(connection, parts, count);
    }
    int status = mlt_socket_write(connection->fd, parts, count);
    if (status == MLT_OK)
        return MLT_OK;
    if (status == MLT_ERR_TIMEOUT && connection->nonblocking)
        return keep(connection, parts, count);
    return write_failed(connection, status, errno);
}

void mlt_connection_flush(mlt_connection *connection)
{
    mlt_buffer *out = &connection->out;
    struct iovec rest = {out->bytes + out->start, mlt_buffer_len(out)};
    int status = mlt_socket_write(connection->fd, &rest, 1);
    mlt_buffer_take(out, mlt_buffer_len(out) - rest.iov_len);
    if (status == MLT_OK)
        mlt_buffer_clear(out, KEEP_OUT);
    else if (status != MLT_ERR_TIMEOUT)
        write_failed(connection, status, errno);
}

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
    return write_parts(connection, parts, count);
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

bool mlt_connection_may_answer(const mlt_connection *connection, size_t done)
{
    size_t count = connection->batch->count;
    return connection->fd >= 0 && done <= count && (done == 0) == (count == 0);
}

void mlt_connection_settle(mlt_connection *connection, size_t done, int verdict, mlt_span text,
                           mlt_span actions)
{
    mlt_batch *batch = connection->batch;
    if (done == 0)
        return;
    const mlt_event *event = &batch->events[done - 1];
    /* What was looked at beyond the last of them is looked at again, in the light of its verdict.
     */
    if (done < batch->count)
        connection->session.at = batch->marks[done - 1];
    mlt_buffer_take(&connection->in, batch->ends[done - 1]);
    batch->count = 0;
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

int64_t mlt_connection_packet_time(const mlt_settings *settings)
{
    int64_t packet = settings->packet_timeout;
    int64_t idle = settings->idle_timeout;
    if (packet < 0)
        return idle;
    return idle >= 0 && idle < packet ? idle : packet;
}

bool mlt_connection_room(mlt_connection *connection, char **to, size_t *room)
{
    mlt_buffer *in = &connection->in;
    const mlt_settings *settings = mlt_server_settings(connection->server);
    /* Grows with what has come, never with what a length promises. Where there is a large buffer
     * already, reads are large, too. */
    size_t wanted = in->capacity - mlt_buffer_len(in) >= READ_BYTES ? READ_BYTES : ROOM_BYTES;
    int status =
        mlt_buffer_reserve(in, wanted, settings->receive_frame + MLT_FRAME_LENGTH + wanted);
    if (status != MLT_OK) {
        mlt_view_fail(&connection->view, status, "no memory for a packet");
        connection->ending = true;
        return false;
    }
    *to = in->bytes + in->end;
    *room = in->capacity - in->end;
    return true;
}

void mlt_connection_shrink(mlt_connection *connection)
{
    if (mlt_buffer_len(&connection->in) == 0)
        mlt_buffer_clear(&connection->in, mlt_session_in_message(&connection->session)
                                              ? KEEP_IN_MESSAGE
                                              : KEEP_IDLE);
}

bool mlt_connection_may_wait(mlt_connection *connection)
{
    /* Said before looking whether the server stops: so either we see that, or it sees us. */
    bool between =
        mlt_buffer_len(&connection->in) == 0 && !mlt_session_in_message(&connection->session);
    atomic_store(&connection->between, between);
    if (!between || !mlt_server_stopping(connection->server))
        return true;
    atomic_store(&connection->cut, true);
    mlt_connection_received(connection, 0, 0);
    return false;
}

void mlt_connection_received(mlt_connection *connection, ssize_t got, int code)
{
    mlt_view *view = &connection->view;
    atomic_store(&connection->between, false);
    if (got > 0) {
        connection->in.end += (size_t)got;
        return;
    }
    bool begun = mlt_buffer_len(&connection->in) > 0;
    bool in_message = mlt_session_in_message(&connection->session);
    connection->ending = true;
    if (atomic_load(&connection->cut)) {
        if (begun || in_message)
            mlt_view_fail(view, MLT_STOPPED, "ended inside a message because the server stops");
    } else if (got == 0 && begun) {
        mlt_view_fail(view, MLT_ERR_PEER, "the MTA closed the connection inside a packet");
    } else if (got == 0) {
        if (in_message)
            mlt_view_fail(view, MLT_END, "the MTA closed the connection inside a message");
    } else if (code == EAGAIN || code == EWOULDBLOCK) {
        mlt_view_fail(view, MLT_ERR_TIMEOUT,
                      begun ? "the MTA does not complete a packet"
                            : "nothing came from the MTA within the time-out");
    } else {
        mlt_view_fail(view, MLT_ERR_IO, "cannot read from the MTA: %s", strerror(code));
    }
}

/* Adds the event that stands behind the batch. */
static void add(mlt_connection *connection, size_t end)
{
    mlt_batch *batch = connection->batch;
    batch->ends[batch->count] = end;
    batch->marks[batch->count] = connection->session.at;
    batch->count++;
}

/* What the filter is still owed; 0 and the end of everything when that is nothing. */
static int finish(mlt_connection *connection)
{
    connection->ending = true;
    if (mlt_session_finish(&connection->session, &connection->view.events[0])) {
        add(connection, 0);
        return 1;
    }
    return 0;
}

/* A run of events that need no answer is reported at once. */
static int gather(mlt_connection *connection)
{
    if (connection->ending)
        return finish(connection);
    mlt_batch *batch = connection->batch;
    mlt_buffer *in = &connection->in;
    mlt_view *view = &connection->view;
    mlt_session *session = &connection->session;
    size_t limit = mlt_server_settings(connection->server)->receive_frame;
    size_t used = 0; /* bytes of packets in the batch */
    mlt_packet packet;
    for (;;) {
        int status =
            mlt_frame_next(mlt_buffer_data(in) + used, mlt_buffer_len(in) - used, limit, &packet);
        if (batch->count > 0 && (status != MLT_OK || !mlt_session_may_run_ahead(session, &packet)))
            return (int)batch->count;
        if (status == MLT_NEED_MORE)
            return MLT_GATHER_MORE;
        if (status != MLT_OK) {
            size_t size = mlt_frame_get_u32(mlt_buffer_data(in));
            mlt_view_fail(view, status, "packet of %zu bytes, not 1 to %zu", size, limit);
            return finish(connection);
        }
        connection->deadline = 0;
        mlt_mark mark = session->at;
        mlt_event *event = &view->events[batch->count];
        mlt_take take = mlt_session_receive(session, &packet, event);
        if (batch->count > 0 && take != MLT_TAKE_EVENT &&
            !(take == MLT_TAKE_NOTHING && packet.letter == SMFIC_MACRO)) {
            /* As if it had not been looked at: it may be something else after the batch. */
            session->at = mark;
            view->status = MLT_OK;
            view->error[0] = '\0';
            return (int)batch->count;
        }
        switch (take) {
        case MLT_TAKE_EVENT:
            used += packet.used;
            add(connection, used);
            if (event->owed != MLT_OWED_NOTHING || event->step == MLT_STEP_ABORT ||
                batch->count == MLT_EVENTS)
                return (int)batch->count;
            break;
        case MLT_TAKE_FIRST:
            add(connection, used);
            return (int)batch->count;
        case MLT_TAKE_ANSWER:
            send_reply(connection, NULL, 0, session->answer, (mlt_span){NULL, 0});
            mlt_buffer_take(in, packet.used);
            if (connection->ending)
                return finish(connection);
            /* First the MTA is to read that: the end may be behind it, or any number of answers. */
            if (mlt_buffer_len(&connection->out) > 0)
                return MLT_GATHER_MORE;
            break;
        case MLT_TAKE_NOTHING:
            if (batch->count > 0)
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

int mlt_connection_gather(mlt_connection *connection)
{
    int count = gather(connection);
    if (count > 0) {
        const mlt_event *first = &connection->batch->events[0];
        if (first->len > 0 && first->len <= MLT_TEXT)
            memcpy(connection->batch->text, first->data, first->len);
    }
    return count;
}

size_t mlt_connection_headers(mlt_connection *connection, size_t first)
{
    const mlt_batch *batch = connection->batch;
    size_t len = 0;
    for (size_t i = first; i < batch->count && batch->events[i].step == MLT_STEP_HEADER; i++) {
        const mlt_event *event = &batch->events[i];
        if (event->len >= MLT_TEXT - len)
            break;
        memcpy(batch->text + len, event->data, event->len);
        len += event->len;
        batch->text[len++] = '\0';
    }
    return len;
}
