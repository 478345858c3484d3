/*
 * pool_watch.c - the watcher: a thread of the pool's own that finds callbacks which do not come
 * back.
 *
 * It looks once a millisecond while somebody is at work, and sleeps otherwise. It has others take
 * the lead, sends the answers that a blocked thread has not sent, and says when no thread is left.
 */
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include "clock.h"
#include "pool.h"
#include "socket.h"

enum {
    GRACE_TICKS = 10,           /* for a new leader's first callback: it may wait for the GIL */
    QUIET_TICKS = 20,           /* without a callback, until the watcher goes to sleep */
    LONG_TICKS = 100,           /* in one callback, until the watcher looks less often, */
    LONG_FACTOR = 10,           /* by this */
    EXHAUSTED_AGAIN = 60 * 1000 /* ms until it is said again that all threads are blocked */
};

static bool others_wait(mlt_pool *pool)
{
    return pool->ready.first != NULL || pool->again.first != NULL ||
           (!pool->polling && mlt_poller_ready(pool->poller));
}

/* Says so if all threads have been blocked for a while. */
static void look_for_exhaustion(mlt_pool *pool, bool blocked)
{
    int64_t now = mlt_socket_now();
    if (!blocked) {
        pool->exhausted_since = 0;
        return;
    }
    if (pool->exhausted_since == 0)
        pool->exhausted_since = now;
    if (now - pool->exhausted_since < MLT_POOL_EXHAUSTED_AFTER || now < pool->exhausted_again)
        return;
    pool->exhausted_again = now + EXHAUSTED_AGAIN;
    atomic_store(&pool->exhausted, true);
    if (pool->options.bell >= 0) {
        ssize_t written = write(pool->options.bell, "", 1);
        (void)written; /* full: then it has been rung already */
    }
}

/* One look at all threads. Returns for how many ticks all callbacks have been running at least; 0
 * for no callback at all. */
static size_t look_once(mlt_pool *pool)
{
    size_t least = 0;
    size_t stuck = 0;
    for (mlt_worker *worker = pool->workers; worker != NULL; worker = worker->next_worker) {
        unsigned beat = atomic_load(&worker->beat);
        if (!atomic_load(&worker->in_callback)) {
            worker->stuck = 0;
            continue;
        }
        if (beat != worker->seen) {
            worker->seen = beat;
            worker->stuck = 0;
        }
        worker->stuck++;
        if (least == 0 || worker->stuck < least)
            least = worker->stuck;
        if (worker->stuck < 2)
            continue;
        stuck++;
        for (mlt_pooled *one = mlt_queue_pop(&worker->unsent); one != NULL;
             one = mlt_queue_pop(&worker->unsent))
            mlt_queue_push(&pool->stuck, one);
        size_t grace = beat == worker->first ? GRACE_TICKS : 0;
        if (worker->active && worker->stuck >= 2 + grace && others_wait(pool)) {
            atomic_store(&pool->slow[atomic_load(&worker->step)], MLT_POOL_SLOW_STEPS);
            mlt_worker_detach(worker);
        }
    }
    bool all = stuck > 0 && stuck == pool->threads && pool->parked == NULL &&
               (pool->threads == pool->options.threads || pool->start_again != 0);
    look_for_exhaustion(pool, all && others_wait(pool));
    return least;
}

static bool is_any_at_work(const mlt_pool *pool)
{
    const mlt_worker *worker = pool->workers;
    while (worker != NULL && !atomic_load(&worker->in_callback))
        worker = worker->next_worker;
    return worker != NULL;
}

static void *watch(void *argument)
{
    mlt_pool *pool = argument;
    int quiet = 0;
    size_t least = 0;
    pthread_mutex_lock(&pool->lock);
    while (!pool->closing) {
        if (!atomic_load(&pool->armed)) {
            pthread_cond_wait(&pool->watch, &pool->lock);
            quiet = 0;
            continue;
        }
        int64_t tick = pool->options.threshold;
        if (least >= LONG_TICKS)
            tick *= LONG_FACTOR;
        mlt_clock_wait(&pool->watch, &pool->lock, tick * 1000);
        least = look_once(pool);
        if (pool->stuck.first != NULL) {
            pthread_mutex_unlock(&pool->lock);
            mlt_pool_send_answers(pool, &pool->stuck);
            pthread_mutex_lock(&pool->lock);
        }
        quiet = least > 0 ? 0 : quiet + 1;
        if (quiet <= QUIET_TICKS)
            continue;
        /* Said before looking once more: so either we see who goes to work now, or it wakes us. */
        atomic_store(&pool->armed, false);
        if (is_any_at_work(pool))
            atomic_store(&pool->armed, true);
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

void mlt_pool_wake_watcher(mlt_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    if (!atomic_exchange(&pool->armed, true))
        pthread_cond_signal(&pool->watch);
    pthread_mutex_unlock(&pool->lock);
}

/* The watcher's signals are none of its business: the interpreter handles them. */
int mlt_pool_start_watcher(mlt_pool *pool)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int code = pthread_create(&pool->watcher, NULL, watch, pool);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return code;
}

int mlt_pool_take_exhausted(mlt_pool *pool)
{
    return atomic_exchange(&pool->exhausted, false);
}
