/*
 * pool.c - the second way of waiting: a few threads for all connections.
 *
 * The threads are the caller's, one worker object each. Normally one of them, the leader, waits in
 * the poller, reads what is ready and runs the callbacks; the others are parked. Three things make
 * another thread take the lead:
 *
 * - The watcher, a thread of ours that looks once a millisecond while there is work, finds that a
 *   callback has not come back and that others wait. The callback's thread is detached: it
 *   carries on alone, and asks for the lead again when it has nothing left to do.
 * - A callback of a step that was slow lately is about to run: its thread detaches itself first.
 *   So filters that wait for a database in each message do not cost a millisecond each.
 * - Without an interpreter's lock several may lead at once (mlt_pool_options.active); each takes
 *   connections from the same queue, and one at a time waits in the poller.
 *
 * A connection is in one of a few states, see enum mlt_pooled_state; its events are handled by one
 * worker at a time, and everything that one worker did to it is seen by the next because both held
 * the lock in between. The poller tells a state, not a change, so what is registered is left alone
 * while a connection is worked for; only when that makes a leader's wait return in vain is it put
 * to sleep.
 *
 * Answers leave together: those of the connections that were ready at the same time are written one
 * after the other when there is nothing else to do, when they are many, or when the first has
 * waited for a tenth of a millisecond. An MTA that serves several sessions from one process is then
 * woken once and not once for each, which costs both sides more than all the rest of an answer. No
 * callback holds them up: before one that is expected to be slow they are sent, and when one turns
 * out to be slow the watcher sends them.
 *
 * An idle connection owns no receive buffer: workers lend theirs. Memory of a connection that ended
 * is freed when no wait is under way that could still tell its tag.
 *
 * Which connections are accepted is pool_accept.c's matter, the watcher is pool_watch.c.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "pool.h"
#include "protocol.h"
#include "socket.h"

enum {
    TAGS = 256,              /* ready connections that one wait tells */
    ANSWERS_TOGETHER = 16,   /* sent one after the other at the latest; and */
    ANSWER_DELAY = 100,      /* us after the first of them was given */
    TOGETHER_BYTES = 4096,   /* of a reply and its actions; what is larger is sent at once */
    BATCHES_IN_A_ROW = 16,   /* of one connection, before others get their turn */
    LENT_BYTES = 256 * 1024, /* a worker's receive buffer: MTAs send chunks of 65535 bytes */
    SMALL_BYTES = 4 * 1024   /* the beginning of a packet that a connection keeps a copy of */
};

static int64_t now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

/* ------------------------------------------------------------------------------------------ */
/* Lists; the lock is held */

void mlt_pool_end_wait(mlt_pool *pool)
{
    if (pool->polling && !pool->kicked)
        pool->kicked = 0 == mlt_poller_add(pool->poller, pool->kick, &pool->kick, MLT_POLL_READ);
}

static void stop_timer(mlt_pooled *one)
{
    mlt_timers *list = one->timers;
    if (list == NULL)
        return;
    if (one->earlier != NULL)
        one->earlier->later = one->later;
    else
        list->first = one->later;
    if (one->later != NULL)
        one->later->earlier = one->earlier;
    else
        list->last = one->earlier;
    one->timers = NULL;
    one->earlier = one->later = NULL;
}

/* time: ms from pool->now; negative: no deadline. */
static void start_timer(mlt_pool *pool, mlt_pooled *one, mlt_timers *list, int64_t time)
{
    stop_timer(one);
    if (time < 0)
        return;
    one->deadline = pool->now + time;
    if (one->deadline < pool->polling_end)
        mlt_pool_end_wait(pool);
    one->timers = list;
    one->earlier = list->last;
    one->later = NULL;
    if (list->last != NULL)
        list->last->later = one;
    else
        list->first = one;
    list->last = one;
}

void mlt_pool_make_ready(mlt_pool *pool, mlt_pooled *one)
{
    one->state = MLT_POOLED_READY;
    mlt_queue_push(&pool->ready, one);
    mlt_pool_end_wait(pool);
}

/* ------------------------------------------------------------------------------------------ */
/* Threads; the lock is held */

static void count_spare_threads(mlt_pool *pool)
{
    atomic_store(&pool->lacking, pool->parked == NULL && pool->threads < pool->options.threads &&
                                     !pool->starting && !pool->over);
}

/* Has a parked thread take the lead, if there may be one more. */
static void promote(mlt_pool *pool)
{
    mlt_worker *worker = pool->parked;
    if (worker == NULL || pool->active >= pool->options.active)
        return;
    pool->parked = worker->next_parked;
    pool->active++;
    worker->active = true;
    worker->promoted = true;
    worker->first = atomic_load(&worker->beat) + 1;
    pthread_cond_signal(&worker->wake);
    count_spare_threads(pool);
}

void mlt_worker_detach(mlt_worker *worker)
{
    if (!worker->active)
        return;
    worker->active = false;
    worker->pool->active--;
    promote(worker->pool);
}

/* Nothing is left to do: everybody may go. */
static void end_pool(mlt_pool *pool)
{
    pool->over = true;
    for (mlt_worker *worker = pool->parked; worker != NULL; worker = worker->next_parked)
        pthread_cond_signal(&worker->wake);
    mlt_pool_end_wait(pool);
    count_spare_threads(pool);
}

/* ------------------------------------------------------------------------------------------ */
/* Connections */

static void free_pooled(mlt_pooled *one)
{
    mlt_connection_release(&one->connection);
    free(one);
}

/* Its socket goes, its memory stays until Python has read why. */
static void end_connection(mlt_pool *pool, mlt_pooled *one)
{
    pthread_mutex_lock(&pool->lock);
    stop_timer(one);
    if (one->registered)
        mlt_poller_remove(pool->poller, one->connection.fd);
    one->registered = false;
    one->state = MLT_POOLED_DEAD;
    pthread_mutex_unlock(&pool->lock);
    mlt_connection_end(&one->connection);
}

/* Frees it, or leaves that to whoever waits in the poller and may just be told its tag. */
static void bury(mlt_pool *pool, mlt_pooled *one)
{
    pthread_mutex_lock(&pool->lock);
    pool->open--;
    pool->now = mlt_socket_now();
    mlt_pool_listen(pool);
    if (pool->polling) {
        one->next = pool->dead;
        pool->dead = one;
        one = NULL;
    }
    pthread_mutex_unlock(&pool->lock);
    if (one != NULL)
        free_pooled(one);
}

/* The lock is held and nobody waits in the poller. */
static void bury_all(mlt_pool *pool)
{
    while (pool->dead != NULL) {
        mlt_pooled *one = pool->dead;
        pool->dead = one->next;
        free_pooled(one);
    }
}

/* ------------------------------------------------------------------------------------------ */
/* Buffers */

static void spare_buffer(mlt_pool *pool, mlt_buffer *buffer)
{
    mlt_buffer_clear(buffer, LENT_BYTES);
    pthread_mutex_lock(&pool->lock);
    if (buffer->capacity == LENT_BYTES && pool->spares < MLT_POOL_SPARES) {
        pool->spare[pool->spares++] = *buffer;
        mlt_buffer_init(buffer);
    }
    pthread_mutex_unlock(&pool->lock);
    mlt_buffer_free(buffer);
}

static void lend_buffer(mlt_worker *worker, mlt_pooled *one)
{
    mlt_pool *pool = worker->pool;
    mlt_buffer *own = &one->connection.in;
    if (own->capacity >= LENT_BYTES)
        return;
    if (worker->buffer.capacity == 0) {
        pthread_mutex_lock(&pool->lock);
        if (pool->spares > 0)
            worker->buffer = pool->spare[--pool->spares];
        pthread_mutex_unlock(&pool->lock);
        /* Without memory it goes on with what it has, and asks for little when it reads. */
        if (mlt_buffer_reserve(&worker->buffer, LENT_BYTES, LENT_BYTES) != MLT_OK)
            return;
    }
    if (mlt_buffer_append(&worker->buffer, mlt_buffer_data(own), mlt_buffer_len(own), LENT_BYTES) !=
        MLT_OK)
        return;
    mlt_buffer_free(own);
    *own = worker->buffer;
    mlt_buffer_init(&worker->buffer);
}

/* Takes it back; a little that has come in is copied. */
static void return_buffer(mlt_worker *worker, mlt_pooled *one)
{
    mlt_buffer *own = &one->connection.in;
    mlt_buffer small;
    if (own->capacity == 0 || mlt_buffer_len(own) > SMALL_BYTES)
        return;
    mlt_buffer_init(&small);
    if (mlt_buffer_append(&small, mlt_buffer_data(own), mlt_buffer_len(own), SMALL_BYTES) != MLT_OK)
        return;
    mlt_buffer_take(own, mlt_buffer_len(own));
    if (own->capacity == LENT_BYTES && worker->buffer.capacity == 0)
        worker->buffer = *own;
    else
        spare_buffer(worker->pool, own);
    *own = small;
}

/* ------------------------------------------------------------------------------------------ */
/* Working for a connection */

/* A packet has begun; the connection's deadline, which its last byte clears, says so. */
static void start_packet_timer(mlt_pool *pool, mlt_pooled *one)
{
    int64_t time = mlt_connection_packet_time(mlt_server_settings(pool->server));
    start_timer(pool, one, &pool->partial, time);
    one->connection.deadline = time < 0 ? INT64_MAX : one->deadline;
}

/* Has it wait in the poller. False: it is not to wait any more. */
static bool park(mlt_pool *pool, mlt_pooled *one)
{
    mlt_connection *connection = &one->connection;
    const mlt_settings *settings = mlt_server_settings(pool->server);
    bool write = mlt_buffer_len(&connection->out) > 0;
    if (!write && !mlt_connection_may_wait(connection))
        return false;
    if (!write && connection->deadline != 0 && mlt_socket_now() >= connection->deadline) {
        mlt_connection_received(connection, -1, EAGAIN);
        return false;
    }
    unsigned wants = write ? MLT_POLL_WRITE : MLT_POLL_READ;
    pthread_mutex_lock(&pool->lock);
    pool->now = mlt_socket_now();
    if (write)
        start_timer(pool, one, &pool->writing, settings->write_timeout);
    else if (mlt_buffer_len(&connection->in) == 0)
        start_timer(pool, one, &pool->idle, settings->idle_timeout);
    else if (connection->deadline == 0) /* else it has the deadline of this packet already */
        start_packet_timer(pool, one);
    one->state = MLT_POOLED_PARKED;
    one->expired = false;
    int failed = 0;
    if (!one->registered)
        failed = mlt_poller_add(pool->poller, connection->fd, one, wants);
    else if (one->wants != wants)
        failed = mlt_poller_change(pool->poller, connection->fd, one, wants);
    int code = errno;
    if (failed == 0) {
        one->registered = true;
        one->wants = wants;
    } else {
        one->state = MLT_POOLED_BUSY;
    }
    pthread_mutex_unlock(&pool->lock);
    if (failed != 0)
        mlt_connection_received(connection, -1, code);
    return failed == 0;
}

static void work_for(mlt_worker *worker, mlt_pooled *one)
{
    worker->one = one;
    worker->streak = 0;
    worker->work.connection = &one->connection;
    worker->work.view = &one->connection.view;
    worker->work.id = one->connection.view.id;
    mlt_connection_lend(&one->connection, &worker->batch, worker->work.events, worker->work.text);
    lend_buffer(worker, one);
}

/* Reads once. False: there was nothing to read. */
static bool read_some(mlt_pooled *one)
{
    mlt_connection *connection = &one->connection;
    char *to;
    size_t room;
    if (!mlt_connection_room(connection, &to, &room))
        return true;
    ssize_t got = mlt_socket_read(connection->fd, to, room, false, connection->tcp);
    int code = errno;
    if (got < 0 && (code == EAGAIN || code == EWOULDBLOCK) && !one->expired)
        return false;
    one->expired = false;
    mlt_connection_received(connection, got, code);
    return true;
}

void mlt_pool_send_answers(mlt_pool *pool, mlt_queue *from)
{
    pthread_mutex_lock(&pool->lock);
    mlt_queue todo = *from;
    *from = (mlt_queue){NULL, NULL};
    pthread_mutex_unlock(&pool->lock);
    for (mlt_pooled *one = mlt_queue_pop(&todo); one != NULL; one = mlt_queue_pop(&todo)) {
        mlt_connection *connection = &one->connection;
        mlt_connection_flush(connection);
        bool more = mlt_buffer_len(&connection->out) == 0 && mlt_buffer_len(&connection->in) > 0;
        if (connection->ending || more || !park(pool, one)) {
            pthread_mutex_lock(&pool->lock);
            mlt_pool_make_ready(pool, one);
            mlt_pool_end_wait(pool);
            pthread_mutex_unlock(&pool->lock);
        }
    }
}

static void send_own_answers(mlt_worker *worker)
{
    worker->answers = 0;
    mlt_pool_send_answers(worker->pool, &worker->unsent);
}

/* Leaves an answer to be sent with others. */
static void send_later(mlt_worker *worker, mlt_pooled *one)
{
    int64_t now = now_us();
    pthread_mutex_lock(&worker->pool->lock);
    one->state = MLT_POOLED_SENDING;
    mlt_queue_push(&worker->unsent, one);
    pthread_mutex_unlock(&worker->pool->lock);
    worker->one = NULL;
    if (worker->answers++ == 0)
        worker->first_answer = now;
    else if (worker->answers >= ANSWERS_TOGETHER || now - worker->first_answer >= ANSWER_DELAY)
        send_own_answers(worker);
}

/* Brings `one` forward: the number of events to report, or 0: it has ended. MLT_GATHER_MORE: it
 * waits in the poller and is no longer the worker's. */
static int drive(mlt_worker *worker, bool readable)
{
    mlt_pooled *one = worker->one;
    mlt_connection *connection = &one->connection;
    if (readable && mlt_buffer_len(&connection->out) > 0) {
        mlt_connection_flush(connection);
        if (mlt_buffer_len(&connection->out) > 0 && one->expired)
            mlt_connection_write_timeout(connection);
        one->expired = false;
    }
    for (;;) {
        int count = MLT_GATHER_MORE;
        if (mlt_buffer_len(&connection->out) == 0 || connection->ending)
            count = mlt_connection_gather(connection);
        if (count == 0)
            end_connection(worker->pool, one);
        if (count != MLT_GATHER_MORE)
            return count;
        if (readable && mlt_buffer_len(&connection->out) == 0 && read_some(one)) {
            /* Another read makes sense only for the rest of a packet. */
            readable = mlt_buffer_len(&connection->in) > 0;
            continue;
        }
        return_buffer(worker, one);
        if (!readable && mlt_buffer_len(&connection->out) > 0) {
            send_later(worker, one);
            return MLT_GATHER_MORE;
        }
        if (park(worker->pool, one)) {
            worker->one = NULL;
            return MLT_GATHER_MORE;
        }
    }
}

/* ------------------------------------------------------------------------------------------ */
/* Finding work; the lock is held */

/* Whether a worker has answers to send before it does what it would do now. */
static bool is_to_send(const mlt_worker *worker)
{
    return worker->unsent.first != NULL && (worker->pool->ready.first == NULL || !worker->active);
}

/* Milliseconds until something is due, -1 for nothing. */
static int64_t time_left(const mlt_pool *pool)
{
    const mlt_timers *lists[] = {&pool->idle, &pool->partial, &pool->writing};
    int64_t first = pool->accept_again != 0 ? pool->accept_again : INT64_MAX;
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        if (lists[i]->first != NULL && lists[i]->first->deadline < first)
            first = lists[i]->first->deadline;
    }
    if (first == INT64_MAX)
        return -1;
    int64_t now = mlt_socket_now();
    return first > now ? first - now : 0;
}

static void expire(mlt_pool *pool, mlt_timers *list)
{
    while (list->first != NULL && list->first->deadline <= pool->now) {
        mlt_pooled *one = list->first;
        stop_timer(one);
        /* One that is worked for gets a new deadline when it waits again. */
        if (one->state == MLT_POOLED_PARKED) {
            one->expired = true;
            mlt_pool_make_ready(pool, one);
        }
    }
}

/* What the poller said. False: a notice was written. */
static bool sort_out(mlt_pool *pool, void **tags, int count, char *notice)
{
    bool accepting = false;
    for (int i = 0; i < count; i++) {
        mlt_pooled *one = tags[i];
        if (tags[i] == pool->server) {
            accepting = true;
        } else if (tags[i] == &pool->waking) {
            /* The server stops. The pipe stays readable, so it is taken out. */
            mlt_pool_hear_no_more(pool);
            mlt_pool_listen_no_more(pool);
        } else if (tags[i] == &pool->kick) {
            mlt_poller_remove(pool->poller, pool->kick);
            pool->kicked = false;
        } else if (one->state == MLT_POOLED_PARKED) {
            mlt_pool_make_ready(pool, one);
        } else if ((one->state == MLT_POOLED_BUSY || one->state == MLT_POOLED_SENDING) &&
                   one->registered && one->wants != 0) {
            /* A detached thread has it; until it is back, waiting for it would never wait. */
            mlt_poller_change(pool->poller, one->connection.fd, one, 0);
            one->wants = 0;
        }
    }
    expire(pool, &pool->idle);
    expire(pool, &pool->partial);
    expire(pool, &pool->writing);
    if (pool->accept_again != 0 && pool->accept_again <= pool->now) {
        pool->accept_again = 0;
        mlt_pool_listen(pool);
    }
    bury_all(pool);
    return !accepting || mlt_pool_accept(pool, notice);
}

/* Waits in the poller. MLT_OK or MLT_NOTICE. */
static int poll_once(mlt_worker *worker)
{
    mlt_pool *pool = worker->pool;
    void *tags[TAGS];
    int64_t time = pool->again.first != NULL ? 0 : time_left(pool);
    pool->polling = true;
    pool->polling_end = time < 0 ? INT64_MAX : mlt_socket_now() + time;
    pthread_mutex_unlock(&pool->lock);
    int count = mlt_poller_wait(pool->poller, tags, TAGS, time);
    pthread_mutex_lock(&pool->lock);
    pool->polling = false;
    pool->polling_end = 0;
    pool->now = mlt_socket_now();
    bool quiet = sort_out(pool, tags, count > 0 ? count : 0, worker->work.error);
    for (mlt_pooled *one = mlt_queue_pop(&pool->again); one != NULL;
         one = mlt_queue_pop(&pool->again))
        mlt_queue_push(&pool->ready, one);
    /* More than this thread can do, and more threads that may. */
    if (pool->ready.first != pool->ready.last)
        promote(pool);
    return quiet ? MLT_OK : MLT_NOTICE;
}

/* The thread that was asked for is there. */
static void arrive(mlt_worker *worker)
{
    if (worker->fresh)
        worker->pool->starting = false;
    worker->fresh = false;
    count_spare_threads(worker->pool);
}

static void wait_parked(mlt_worker *worker)
{
    mlt_pool *pool = worker->pool;
    worker->next_parked = pool->parked;
    pool->parked = worker;
    arrive(worker);
    while (!worker->promoted && !pool->over)
        pthread_cond_wait(&worker->wake, &pool->lock);
    if (!worker->promoted) {
        mlt_worker **place = &pool->parked;
        while (*place != worker)
            place = &(*place)->next_parked;
        *place = worker->next_parked;
    }
    worker->promoted = false;
}

/* Waits for a connection to work for. MLT_OK, MLT_NOTICE or MLT_STOPPED. */
static int find_work(mlt_worker *worker)
{
    mlt_pool *pool = worker->pool;
    int status = MLT_OK;
    mlt_pooled *one = NULL;
    pthread_mutex_lock(&pool->lock);
    while (one == NULL && status == MLT_OK) {
        if (is_to_send(worker)) {
            pthread_mutex_unlock(&pool->lock);
            send_own_answers(worker);
            pthread_mutex_lock(&pool->lock);
            continue;
        }
        if (pool->open == 0 && !pool->over && (pool->refused || mlt_server_stopping(pool->server)))
            end_pool(pool);
        if (pool->over) {
            mlt_worker_detach(worker);
            status = MLT_STOPPED;
        } else if (!worker->active && pool->active < pool->options.active) {
            worker->active = true;
            pool->active++;
            arrive(worker);
        } else if (!worker->active) {
            wait_parked(worker);
        } else if ((one = mlt_queue_pop(&pool->ready)) != NULL) {
            one->state = MLT_POOLED_BUSY;
            if (pool->ready.first != NULL)
                promote(pool);
        } else if (pool->polling) {
            worker->active = false;
            pool->active--;
            wait_parked(worker);
        } else {
            status = poll_once(worker);
        }
    }
    pthread_mutex_unlock(&pool->lock);
    if (one != NULL)
        work_for(worker, one);
    return status;
}

/* ------------------------------------------------------------------------------------------ */
/* To Python and back */

static void ask_for_thread(mlt_worker *worker)
{
    mlt_pool *pool = worker->pool;
    pthread_mutex_lock(&pool->lock);
    count_spare_threads(pool);
    if (atomic_load(&pool->lacking) && mlt_socket_now() >= pool->start_again) {
        pool->starting = true;
        pool->start_again = 0;
        worker->work.start = true;
        count_spare_threads(pool);
    }
    pthread_mutex_unlock(&pool->lock);
}

/* The caller is at work now, until come_back(). */
static void leave(mlt_worker *worker, int step)
{
    atomic_store_explicit(&worker->step, step, memory_order_relaxed);
    atomic_fetch_add_explicit(&worker->beat, 1, memory_order_relaxed);
    atomic_store(&worker->in_callback, true);
    if (!atomic_load(&worker->pool->armed))
        mlt_pool_wake_watcher(worker->pool);
}

/* Goes to the callbacks of `count` events. */
static int go(mlt_worker *worker, int count)
{
    mlt_pool *pool = worker->pool;
    int step = worker->work.events[count - 1].step;
    worker->work.start = false;
    worker->work.status = MLT_OK;
    worker->streak++;
    if (atomic_load_explicit(&pool->lacking, memory_order_relaxed))
        ask_for_thread(worker);
    /* Callbacks that need no answer would not send what waits, however many there are. */
    if (worker->answers > 0 && now_us() - worker->first_answer >= ANSWER_DELAY)
        send_own_answers(worker);
    if (atomic_load_explicit(&pool->slow[step], memory_order_relaxed) > 0) {
        if (worker->answers > 0)
            send_own_answers(worker);
        pthread_mutex_lock(&pool->lock);
        mlt_worker_detach(worker);
        pthread_mutex_unlock(&pool->lock);
        worker->since = now_us();
    }
    leave(worker, step);
    return count;
}

/* Back from there. */
static void come_back(mlt_worker *worker)
{
    atomic_store_explicit(&worker->in_callback, false, memory_order_release);
    if (worker->since == 0)
        return;
    /* It was expected to be slow. */
    atomic_uchar *slow = &worker->pool->slow[atomic_load(&worker->step)];
    unsigned char left = atomic_load(slow);
    bool quick = now_us() - worker->since < worker->pool->options.threshold * 1000;
    worker->since = 0;
    if (!quick)
        atomic_store(slow, MLT_POOL_SLOW_STEPS);
    else if (left > 0)
        atomic_compare_exchange_strong(slow, &left, (unsigned char)(left - 1));
}

static int ended(mlt_worker *worker, int status)
{
    worker->work.status = status;
    worker->work.start = false;
    /* What is logged now may take its time, too. */
    if (status != MLT_STOPPED)
        leave(worker, MLT_STEP_CLOSE);
    return 0;
}

int mlt_worker_next(mlt_worker *worker, size_t done, int verdict, const char *reply,
                    size_t reply_len, const char *actions, size_t actions_len)
{
    if (worker == NULL)
        return MLT_ERR_CALLER;
    mlt_pooled *one = worker->one;
    int count = MLT_GATHER_MORE;
    come_back(worker);
    if (one != NULL && worker->ended) {
        worker->one = NULL;
        worker->ended = false;
        bury(worker->pool, one);
    } else if (one != NULL) {
        if (!mlt_connection_may_answer(&one->connection, done) || done == 0)
            return MLT_ERR_CALLER;
        one->connection.deferring = reply_len + actions_len < TOGETHER_BYTES;
        mlt_connection_settle(&one->connection, done, verdict, (mlt_span){reply, reply_len},
                              (mlt_span){actions, actions_len});
        one->connection.deferring = false;
        if (worker->streak >= BATCHES_IN_A_ROW && mlt_buffer_len(&one->connection.in) > 0 &&
            mlt_buffer_len(&one->connection.out) == 0) {
            return_buffer(worker, one);
            pthread_mutex_lock(&worker->pool->lock);
            one->state = MLT_POOLED_READY;
            mlt_queue_push(&worker->pool->again, one);
            mlt_pool_end_wait(worker->pool);
            pthread_mutex_unlock(&worker->pool->lock);
            worker->one = NULL;
        } else {
            count = drive(worker, false);
        }
    }
    while (count == MLT_GATHER_MORE) {
        int status = find_work(worker);
        if (status != MLT_OK)
            return ended(worker, status);
        count = drive(worker, true);
    }
    if (count > 0)
        return go(worker, count);
    worker->ended = true;
    return ended(worker, MLT_END);
}

int mlt_worker_proceed(mlt_worker *worker)
{
    if (worker == NULL)
        return MLT_ERR_CALLER;
    return mlt_worker_next(worker, worker->batch.count, SMFIS_CONTINUE, NULL, 0, NULL, 0);
}

void mlt_worker_abandon(mlt_worker *worker)
{
    mlt_pooled *one = worker->one;
    if (one == NULL || worker->ended)
        return;
    come_back(worker);
    end_connection(worker->pool, one);
    worker->ended = true;
}

/* ------------------------------------------------------------------------------------------ */
/* Life */

bool mlt_pool_is_copy(const mlt_pool *pool)
{
    return pool->process != getpid();
}

mlt_work *mlt_worker_work(mlt_worker *worker)
{
    return worker == NULL ? NULL : &worker->work;
}

mlt_worker *mlt_worker_new(mlt_pool *pool)
{
    mlt_worker *worker = pool == NULL ? NULL : calloc(1, sizeof *worker);
    if (worker == NULL)
        return NULL;
    worker->pool = pool;
    mlt_buffer_init(&worker->buffer);
    pthread_cond_init(&worker->wake, NULL);
    pthread_mutex_lock(&pool->lock);
    worker->next_worker = pool->workers;
    pool->workers = worker;
    pool->threads++;
    worker->fresh = true;
    pool->start_again = 0;
    pthread_mutex_unlock(&pool->lock);
    return worker;
}

void mlt_worker_free(mlt_worker *worker)
{
    if (worker == NULL || mlt_pool_is_copy(worker->pool))
        return;
    mlt_pool *pool = worker->pool;
    mlt_worker_abandon(worker);
    send_own_answers(worker);
    if (worker->one != NULL)
        bury(pool, worker->one);
    pthread_mutex_lock(&pool->lock);
    mlt_worker **place = &pool->workers;
    while (*place != worker)
        place = &(*place)->next_worker;
    *place = worker->next_worker;
    pool->threads--;
    mlt_worker_detach(worker);
    arrive(worker);
    pthread_mutex_unlock(&pool->lock);
    mlt_buffer_free(&worker->buffer);
    pthread_cond_destroy(&worker->wake);
    free(worker);
}

size_t mlt_pool_connections(mlt_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    size_t open = pool->open;
    pthread_mutex_unlock(&pool->lock);
    return open;
}

void mlt_pool_lacks_thread(mlt_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    pool->starting = false;
    pool->start_again = mlt_socket_now() + MLT_POOL_EXHAUSTED_AFTER;
    count_spare_threads(pool);
    pthread_mutex_unlock(&pool->lock);
}

/* The reading end of a pipe that nobody writes to. -1 with errno. */
static int always_readable(void)
{
    int ends[2];
    if (pipe(ends) != 0)
        return -1;
    close(ends[1]);
    fcntl(ends[0], F_SETFD, FD_CLOEXEC);
    return ends[0];
}

static void release(mlt_pool *pool)
{
    mlt_poller_free(pool->poller);
    if (pool->kick >= 0)
        close(pool->kick);
    pthread_cond_destroy(&pool->watch);
    pthread_mutex_destroy(&pool->lock);
    free(pool);
}

mlt_pool *mlt_pool_new(mlt_server *server, const mlt_pool_options *options)
{
    mlt_pool *pool = calloc(1, sizeof *pool);
    if (pool == NULL) {
        mlt_server_fail(server, MLT_ERR_MEMORY, "no memory for the pool");
        return NULL;
    }
    pool->server = server;
    pool->process = getpid();
    pool->options = *options;
    pool->now = mlt_socket_now();
    pthread_mutex_init(&pool->lock, NULL);
    mlt_clock_init(&pool->watch);
    pool->kick = always_readable();
    pool->poller = pool->kick < 0 ? NULL : mlt_poller_new();
    int code = errno;
    if (pool->poller != NULL) {
        pool->waking =
            0 == mlt_poller_add(pool->poller, server->wake[0], &pool->waking, MLT_POLL_READ);
        code = !pool->waking || !mlt_pool_listen(pool) ? errno : mlt_pool_start_watcher(pool);
        if (code == 0)
            return pool;
    }
    mlt_server_fail(server, MLT_ERR_IO, "cannot make the pool: %s", strerror(code));
    release(pool);
    return NULL;
}

void mlt_pool_free(mlt_pool *pool)
{
    if (pool == NULL || mlt_pool_is_copy(pool))
        return;
    pthread_mutex_lock(&pool->lock);
    pool->closing = true;
    pthread_cond_signal(&pool->watch);
    pthread_mutex_unlock(&pool->lock);
    pthread_join(pool->watcher, NULL);
    bury_all(pool);
    while (pool->spares > 0)
        mlt_buffer_free(&pool->spare[--pool->spares]);
    release(pool);
}
