/*
 * blocking.c - the first way of waiting: a thread per connection, which blocks.
 *
 * The threads are the caller's. They wait in mlt_connection_accept() themselves, so that a new
 * connection costs no hand-over; one of them polls, the others stand behind it. A connection waits
 * for bytes in one place, fill().
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

#include "clock.h"
#include "connection.h"
#include "protocol.h"
#include "serve.h"
#include "socket.h"

enum {
    /* How long a thread waits for its turn before it takes the holder to be waiting itself. */
    TURN_NANOSECONDS = 1000 * 1000,
    /* How often it looks before it goes to sleep for its turn: for about as long as it takes to
     * sleep and be woken. */
    SPINS = 500,
    /* How often the next of a crowd looks whether another has Python's lock, at least, */
    CROWD_MICROSECONDS = 1000,
    /* and how often in vain, until it goes all the same. */
    CROWD_LOOKS = 100
};

/* A connection and the place for its events. */
typedef struct thread_connection {
    mlt_connection connection;
    mlt_batch batch;
    mlt_event events[MLT_EVENTS];
    char text[MLT_TEXT];
} thread_connection;

mlt_connection *mlt_connection_new(mlt_server *server)
{
    if (server == NULL)
        return NULL;
    thread_connection *its = calloc(1, sizeof *its);
    if (its == NULL)
        return NULL;
    mlt_connection_init(&its->connection, server);
    mlt_connection_lend(&its->connection, &its->batch, its->events, its->text);
    return &its->connection;
}

void mlt_connection_free(mlt_connection *connection)
{
    if (connection == NULL)
        return;
    mlt_connection_release(connection);
    free(connection); /* the first member of what was allocated */
}

/* ------------------------------------------------------------------------------------------ */
/* Turns
 *
 * Python runs one thread at a time. Threads that come out of recv() together would fight for its
 * lock, which costs several futex calls and context switches per event; so they line up here before
 * they go back to Python. As most callbacks take but a few microseconds, the first in the line does
 * not sleep at once, where there is another processor for the holder to run on. It is only a
 * courtesy: a thread whose turn does not come within a millisecond goes all the same, and until the
 * holder is back - its callback waits for a database, say - nobody waits.
 *
 * Unless they are a crowd. A thread that waits for Python's lock looks for it 200 times a second;
 * some thousands, when an MTA ends and closes all its connections at once, would do nothing else
 * for minutes. So only so many wait for it at a time: the others line up until one of these has it,
 * which Python shows by clearing `entering`, or is back. Those whose callbacks wait for something
 * else have had the lock, and keep nobody. */

static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

static bool try_turn(mlt_server *server)
{
    if (pthread_mutex_trylock(&server->turn) != 0)
        return false;
    atomic_store_explicit(&server->turn_taken, true, memory_order_relaxed);
    return true;
}

/* Looks for a while whether the turn becomes free, unless somebody else does. */
static bool spin_for_turn(mlt_server *server)
{
    bool got = false;
    if (server->processors < 2 || atomic_exchange(&server->spinning, true))
        return false;
    for (int i = 0; i < SPINS && !got; i++) {
        relax();
        if (!atomic_load_explicit(&server->turn_taken, memory_order_relaxed))
            got = try_turn(server);
    }
    atomic_store(&server->spinning, false);
    return got;
}

/* Not under gcc's ThreadSanitizer, which would not see the lock. */
#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 30) && !defined(__SANITIZE_THREAD__)
#define CLOCKLOCK
#endif

static int lock_for(pthread_mutex_t *mutex, long nanoseconds)
{
#ifdef CLOCKLOCK
    const clockid_t clock = CLOCK_MONOTONIC;
#else
    const clockid_t clock = CLOCK_REALTIME;
#endif
    struct timespec until;
    clock_gettime(clock, &until);
    until.tv_nsec += nanoseconds;
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
    }
#ifdef CLOCKLOCK
    return pthread_mutex_clocklock(mutex, clock, &until);
#else
    return pthread_mutex_timedlock(mutex, &until);
#endif
}

static bool wait_for_turn(mlt_server *server)
{
    if (try_turn(server))
        return true;
    if (atomic_load(&server->turn_lost))
        return false;
    if (spin_for_turn(server))
        return true;
    if (lock_for(&server->turn, TURN_NANOSECONDS) == 0) {
        atomic_store_explicit(&server->turn_taken, true, memory_order_relaxed);
        return true;
    }
    atomic_store(&server->turn_lost, true);
    return false;
}

/* Whether this one still waits for Python's lock. */
static bool is_entering(const mlt_connection *connection)
{
    return connection != NULL && __atomic_load_n(&connection->view.entering, __ATOMIC_RELAXED) != 0;
}

/* Returns a place in the crowd, from 1; 0: there is none. The crowd's lock is held. */
static size_t free_place(const mlt_server *server)
{
    for (size_t i = 0; i < MLT_CROWD; i++) {
        if (!is_entering(server->crowd[i]))
            return i + 1;
    }
    return 0;
}

static void join_crowd(mlt_connection *connection)
{
    mlt_server *server = connection->server;
    pthread_mutex_lock(&server->line); /* the first in the line waits, the others behind it */
    pthread_mutex_lock(&server->crowd_lock);
    size_t place = free_place(server);
    for (int i = 0; place == 0 && i < CROWD_LOOKS; i++) {
        mlt_clock_wait(&server->back, &server->crowd_lock, CROWD_MICROSECONDS);
        place = free_place(server);
    }
    if (place > 0) {
        server->crowd[place - 1] = connection;
        __atomic_store_n(&connection->view.entering, 1, __ATOMIC_RELAXED);
    }
    connection->crowd = place;
    pthread_mutex_unlock(&server->crowd_lock);
    pthread_mutex_unlock(&server->line);
}

static void leave_crowd(mlt_connection *connection)
{
    mlt_server *server = connection->server;
    size_t place = connection->crowd;
    pthread_mutex_lock(&server->crowd_lock);
    /* Its place may be another's by now. */
    if (server->crowd[place - 1] == connection)
        server->crowd[place - 1] = NULL;
    __atomic_store_n(&connection->view.entering, 0, __ATOMIC_RELAXED);
    pthread_cond_signal(&server->back);
    pthread_mutex_unlock(&server->crowd_lock);
}

static void take_turn(mlt_connection *connection)
{
    mlt_server *server = connection->server;
    if (!server->settings.turns)
        return;
    connection->turn = wait_for_turn(server);
    if (!connection->turn)
        join_crowd(connection);
}

static void return_turn(mlt_server *server)
{
    atomic_store(&server->turn_lost, false);
    atomic_store_explicit(&server->turn_taken, false, memory_order_relaxed);
    pthread_mutex_unlock(&server->turn);
}

static void give_turn(mlt_connection *connection)
{
    if (connection->turn)
        return_turn(connection->server);
    if (connection->crowd > 0)
        leave_crowd(connection);
    connection->turn = false;
    connection->crowd = 0;
}

void mlt_connection_end(mlt_connection *connection)
{
    if (connection != NULL)
        give_turn(connection);
    if (connection != NULL && connection->fd >= 0)
        mlt_server_forget(connection->server, connection);
}

/* ------------------------------------------------------------------------------------------ */
/* Reading */

/* Reads more of a packet that has begun, up to its deadline. */
static ssize_t read_rest(mlt_connection *connection, char *to, size_t room)
{
    int64_t time = mlt_connection_packet_time(mlt_server_settings(connection->server));
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

/* Gets more bytes, or the connection's end. The one place where a connection waits for long. */
static void fill(mlt_connection *connection)
{
    char *to;
    size_t room;
    bool begun = mlt_buffer_len(&connection->in) > 0;
    mlt_connection_shrink(connection);
    if (!mlt_connection_room(connection, &to, &room) || !mlt_connection_may_wait(connection))
        return;
    const mlt_settings *settings = mlt_server_settings(connection->server);
    ssize_t got = begun ? read_rest(connection, to, room)
                        : mlt_socket_read(connection->fd, to, room, settings->idle_timeout != 0,
                                          connection->tcp);
    mlt_connection_received(connection, got, errno);
}

int mlt_connection_next(mlt_connection *connection, size_t done, int verdict, const char *reply,
                        size_t reply_len, const char *actions, size_t actions_len)
{
    if (connection == NULL || !mlt_connection_may_answer(connection, done))
        return MLT_ERR_CALLER;
    give_turn(connection);
    mlt_connection_settle(connection, done, verdict, (mlt_span){reply, reply_len},
                          (mlt_span){actions, actions_len});
    int count = mlt_connection_gather(connection);
    while (count == MLT_GATHER_MORE) {
        fill(connection);
        count = mlt_connection_gather(connection);
    }
    if (count == 0)
        mlt_connection_end(connection);
    take_turn(connection);
    return count;
}

int mlt_connection_proceed(mlt_connection *connection)
{
    if (connection == NULL)
        return MLT_ERR_CALLER;
    return mlt_connection_next(connection, connection->batch->count, SMFIS_CONTINUE, NULL, 0, NULL,
                               0);
}

/* ------------------------------------------------------------------------------------------ */
/* Accepting */

/* Waits until there may be one more connection. */
static void wait_for_room(mlt_server *server)
{
    size_t limit = server->settings.connections;
    pthread_mutex_lock(&server->lock);
    while (limit > 0 && server->active >= limit && mlt_server_accepting(server))
        pthread_cond_wait(&server->room, &server->lock);
    pthread_mutex_unlock(&server->lock);
}

/* Leaves a failing accept() alone for a while. True if it is time to say so. */
static bool back_off(mlt_server *server, int code, mlt_view *view)
{
    struct pollfd stop = {server->wake[0], POLLIN, 0};
    int64_t pause = mlt_server_accept_failed(server, code, view->error);
    poll(&stop, 1, (int)pause);
    return view->error[0] != '\0';
}

/* Waits for one connection; the gate is held. */
static int accept_one(mlt_server *server, mlt_view *view, int *fd)
{
    for (;;) {
        struct pollfd ready[2] = {{server->listener.fd, POLLIN, 0}, {server->wake[0], POLLIN, 0}};
        wait_for_room(server);
        if (!mlt_server_accepting(server))
            return MLT_STOPPED;
        int count = poll(ready, 2, -1);
        if (!mlt_server_accepting(server))
            return MLT_STOPPED;
        if (count < 0 && errno == EINTR)
            continue;
        *fd = count < 0 ? -1 : mlt_socket_accept(&server->listener, true);
        if (*fd >= 0) {
            server->pause = 0;
            return MLT_OK;
        }
        if (count > 0 &&
            (errno == EINTR || errno == EAGAIN || errno == EWOULDBLOCK || errno == ECONNABORTED))
            continue;
        if (back_off(server, errno, view))
            return MLT_NOTICE;
    }
}

int mlt_connection_accept(mlt_connection *connection)
{
    if (connection == NULL || connection->fd >= 0)
        return MLT_ERR_CALLER;
    mlt_server *server = connection->server;
    int fd = -1;
    give_turn(connection);
    size_t others = atomic_fetch_add(&server->waiting, 1);
    if (server->settings.idle_threads > 0 && others >= server->settings.idle_threads) {
        atomic_fetch_sub(&server->waiting, 1);
        return MLT_END;
    }
    pthread_mutex_lock(&server->gate);
    int status = accept_one(server, &connection->view, &fd);
    /* Counted before the next one may come, or the limit would not hold. */
    if (status == MLT_OK)
        mlt_server_adopt(server, connection, fd);
    pthread_mutex_unlock(&server->gate);
    size_t before = atomic_fetch_sub(&server->waiting, 1);
    connection->view.alone = before == 1;
    if (status == MLT_OK)
        take_turn(connection);
    return status;
}
