/*
 * serve.c - servers: settings, the listening socket, the open connections, stopping.
 */
#include "serve.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clock.h"
#include "connection.h"
#include "protocol.h"
#include "socket.h"

/* Defaults of the limits. */
enum {
    RECEIVE_FRAME = 1024 * 1024,
    SEND_PAYLOAD = 65535,
    MACROS_PER_STAGE = 256,
    MACRO_BYTES = 64 * 1024,
    PACKET_TIMEOUT = 120 * 1000,
    IDLE_TIMEOUT = 7210 * 1000, /* above SMTP's two hours, so that the MTA gives up first */
    WRITE_TIMEOUT = 300 * 1000,
    BLOCKED_AFTER = 1
};

/* When accept() fails: how long to leave it alone, doubled each time, and how often to say so. */
enum { FIRST_PAUSE = 10, LONGEST_PAUSE = 1000, NOTICE_INTERVAL = 60 * 1000 };

int mlt_server_fail(mlt_server *server, int status, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(server->error, sizeof server->error, format, args);
    va_end(args);
    return status;
}

static void init_locks(mlt_server *server)
{
    pthread_mutex_init(&server->gate, NULL);
    pthread_mutex_init(&server->lock, NULL);
    pthread_mutex_init(&server->turn, NULL);
    pthread_mutex_init(&server->line, NULL);
    pthread_mutex_init(&server->crowd_lock, NULL);
    pthread_cond_init(&server->room, NULL);
    mlt_clock_init(&server->back);
    atomic_store(&server->turn_lost, false);
    atomic_store(&server->turn_taken, false);
    atomic_store(&server->spinning, false);
    memset(server->crowd, 0, sizeof server->crowd);
}

mlt_server *mlt_server_new(void)
{
    mlt_server *server = calloc(1, sizeof *server);
    if (server == NULL)
        return NULL;
    server->settings = (mlt_settings){
        .receive_frame = RECEIVE_FRAME,
        .send_payload = SEND_PAYLOAD,
        .macros_per_stage = MACROS_PER_STAGE,
        .macro_bytes = MACRO_BYTES,
        .packet_timeout = PACKET_TIMEOUT,
        .idle_timeout = IDLE_TIMEOUT,
        .write_timeout = WRITE_TIMEOUT,
        .blocked_after = BLOCKED_AFTER,
        .version = SMFI_VERSION,
        .negotiate = true,
    };
    server->listener.fd = -1;
    server->wake[0] = server->wake[1] = -1;
    atomic_init(&server->stopping, false);
    atomic_init(&server->retiring, false);
    atomic_init(&server->waiting, 0);
    init_locks(server);
    server->processors = sysconf(_SC_NPROCESSORS_ONLN);
    return server;
}

static void close_wake(mlt_server *server)
{
    for (int i = 0; i < 2; i++) {
        if (server->wake[i] >= 0)
            close(server->wake[i]);
        server->wake[i] = -1;
    }
}

void mlt_server_free(mlt_server *server)
{
    if (server == NULL)
        return;
    /* Its file stays: another process that was forked from this one may go on listening on it. */
    mlt_server_disown(server);
    mlt_server_close(server);
    close_wake(server);
    pthread_cond_destroy(&server->back);
    pthread_cond_destroy(&server->room);
    pthread_mutex_destroy(&server->crowd_lock);
    pthread_mutex_destroy(&server->line);
    pthread_mutex_destroy(&server->turn);
    pthread_mutex_destroy(&server->lock);
    pthread_mutex_destroy(&server->gate);
    free(server);
}

mlt_settings *mlt_server_settings(mlt_server *server)
{
    return server == NULL ? NULL : &server->settings;
}

const char *mlt_server_error(const mlt_server *server)
{
    return server->error;
}

bool mlt_server_stopping(const mlt_server *server)
{
    return atomic_load(&server->stopping);
}

bool mlt_server_accepting(const mlt_server *server)
{
    return !atomic_load(&server->stopping) && !atomic_load(&server->retiring);
}

size_t mlt_server_active(const mlt_server *server)
{
    mlt_server *mutable = (mlt_server *)(uintptr_t)server;
    pthread_mutex_lock(&mutable->lock);
    size_t active = server->active;
    pthread_mutex_unlock(&mutable->lock);
    return active;
}

size_t mlt_server_waiting(const mlt_server *server)
{
    return atomic_load(&server->waiting);
}

int mlt_server_check_version(mlt_server *server)
{
    /* The patch level is of no interest, and 2, 3 and 4 are the numbers that descriptors had
     * before there were levels (wire spec 1.5). */
    uint32_t version = server->settings.version;
    if ((version & ~UINT32_C(0x7F)) == ((uint32_t)SMFI_VERSION & ~UINT32_C(0x7F)) ||
        (version >= 2 && version <= 4))
        return MLT_OK;
    return mlt_server_fail(server, MLT_ERR_CALLER,
                           "smfi_register: version mismatch application: %" PRIu32 " != milter: %d",
                           version, SMFI_VERSION);
}

/* ------------------------------------------------------------------------------------------ */
/* The listening socket */

int mlt_server_check_spec(mlt_server *server, const char *spec)
{
    return mlt_socket_check(spec, server->error);
}

int mlt_server_open(mlt_server *server, const char *spec, const mlt_socket_options *options)
{
    if (server->listener.fd >= 0)
        return MLT_OK;
    return mlt_socket_listen(&server->listener, spec, options, server->error);
}

int mlt_server_fd(const mlt_server *server)
{
    return server->listener.fd;
}

const char *mlt_server_address(const mlt_server *server)
{
    return server->listener.address;
}

void mlt_server_close(mlt_server *server)
{
    /* A thread of the pool may be accepting at this moment. */
    pthread_mutex_lock(&server->gate);
    mlt_socket_close(&server->listener);
    pthread_mutex_unlock(&server->gate);
}

void mlt_server_disown(mlt_server *server)
{
    server->listener.made_file = false;
    /* The threads that may have held a lock, or a connection, are not in this process. */
    init_locks(server);
    atomic_store(&server->waiting, 0);
    server->first = NULL;
    server->active = 0;
    server->last_id = 0;
}

int mlt_server_start(mlt_server *server)
{
    if (server->listener.fd < 0)
        return mlt_server_fail(server, MLT_ERR_CALLER, "the socket is not open");
    int wake[2];
    if (pipe(wake) != 0)
        return mlt_server_fail(server, MLT_ERR_IO, "cannot make a pipe: %s", strerror(errno));
    for (int i = 0; i < 2; i++)
        fcntl(wake[i], F_SETFD, FD_CLOEXEC);
    /* Under the lock, as another thread may be stopping the server at this moment. */
    pthread_mutex_lock(&server->lock);
    close_wake(server);
    memcpy(server->wake, wake, sizeof wake);
    pthread_mutex_unlock(&server->lock);
    atomic_store(&server->process, getpid());
    server->pause = server->next_notice = 0;
    server->failures = 0;
    atomic_store(&server->stopping, false);
    atomic_store(&server->retiring, false);
    return MLT_OK;
}

/* The pipe and the sockets of a forked child are its parent's too, which goes on; and the lock may
 * have been held by a thread that the child does not have. */
static bool is_copy(const mlt_server *server)
{
    int process = atomic_load(&server->process);
    return process != 0 && process != getpid();
}

/* Wakes those who wait for connections. The pipe is never read, so everybody who polls sees it. A
 * few bytes always fit. The lock is held. */
static void wake(mlt_server *server)
{
    if (server->wake[1] >= 0) {
        ssize_t written = write(server->wake[1], "", 1);
        (void)written;
    }
    pthread_cond_broadcast(&server->room);
}

void mlt_server_retire(mlt_server *server)
{
    if (is_copy(server))
        return;
    pthread_mutex_lock(&server->lock);
    /* A thread says that it waits before it looks at the flag. */
    if (!atomic_exchange(&server->retiring, true) && atomic_load(&server->waiting) > 0)
        wake(server);
    pthread_mutex_unlock(&server->lock);
}

void mlt_server_stop(mlt_server *server)
{
    if (is_copy(server)) {
        atomic_store(&server->stopping, true);
        return;
    }
    pthread_mutex_lock(&server->lock);
    if (!atomic_exchange(&server->stopping, true))
        wake(server);
    for (mlt_connection *connection = server->first; connection != NULL;
         connection = connection->after) {
        char next;
        /* What has come in already is read, and looks at `stopping` itself before it waits again:
         * if it is the beginning of a message, that message may still finish. */
        if (atomic_load(&connection->between) &&
            recv(connection->fd, &next, 1, MSG_PEEK | MSG_DONTWAIT) <= 0) {
            atomic_store(&connection->cut, true);
            shutdown(connection->fd, SHUT_RD);
        }
    }
    pthread_mutex_unlock(&server->lock);
}

void mlt_server_cut(mlt_server *server)
{
    if (is_copy(server))
        return;
    pthread_mutex_lock(&server->lock);
    for (mlt_connection *connection = server->first; connection != NULL;
         connection = connection->after) {
        atomic_store(&connection->cut, true);
        shutdown(connection->fd, SHUT_RDWR);
    }
    pthread_mutex_unlock(&server->lock);
}

/* ------------------------------------------------------------------------------------------ */
/* Connections */

static void add(mlt_server *server, mlt_connection *connection)
{
    connection->before = NULL;
    connection->after = server->first;
    if (server->first != NULL)
        server->first->before = connection;
    server->first = connection;
    server->active++;
}

void mlt_server_adopt(mlt_server *server, mlt_connection *connection, int fd)
{
    pthread_mutex_lock(&server->lock);
    uint64_t id = ++server->last_id;
    pthread_mutex_unlock(&server->lock);
    /* Made ready before anybody can find it. */
    mlt_connection_begin(connection, fd, id);
    pthread_mutex_lock(&server->lock);
    add(server, connection);
    pthread_mutex_unlock(&server->lock);
}

void mlt_server_forget(mlt_server *server, mlt_connection *connection)
{
    pthread_mutex_lock(&server->lock);
    if (connection->before != NULL)
        connection->before->after = connection->after;
    else
        server->first = connection->after;
    if (connection->after != NULL)
        connection->after->before = connection->before;
    server->active--;
    /* Under the lock, so that nobody shuts down a descriptor that has become something else. The
     * MTA is to see the end even where a forked process still has a copy of the descriptor. */
    shutdown(connection->fd, SHUT_RDWR);
    close(connection->fd);
    connection->fd = -1;
    pthread_cond_signal(&server->room);
    pthread_mutex_unlock(&server->lock);
}

bool mlt_server_has_room(mlt_server *server)
{
    size_t limit = server->settings.connections;
    return limit == 0 || mlt_server_active(server) < limit;
}

int64_t mlt_server_accept_failed(mlt_server *server, int code, char *notice)
{
    int64_t now = mlt_socket_now();
    server->pause = server->pause == 0 ? FIRST_PAUSE : server->pause * 2;
    if (server->pause > LONGEST_PAUSE)
        server->pause = LONGEST_PAUSE;
    server->failures++;
    notice[0] = '\0';
    if (now >= server->next_notice) {
        server->next_notice = now + NOTICE_INTERVAL;
        snprintf(notice, MLT_ERROR_TEXT,
                 "cannot accept a connection: %s; trying again (%zu failures so far)",
                 strerror(code), server->failures);
    }
    return server->pause;
}
