/*
 * pool.h - the pool, as its files see it: pool.c, pool_accept.c and pool_watch.c.
 *
 * How it works is at the top of pool.c. What is said to be held or guarded here is the pool's lock.
 */
#ifndef MLT_POOL_H
#define MLT_POOL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "connection.h"
#include "poller.h"
#include "serve.h"

enum {
    MLT_POOL_SPARES = 8, /* receive buffers kept for later */
    /* Quick callbacks of a step until it is no longer taken for slow. */
    MLT_POOL_SLOW_STEPS = 64,
    /* ms with all threads blocked until that is said; and until a thread is asked for again. */
    MLT_POOL_EXHAUSTED_AFTER = 1000
};

enum mlt_pooled_state {
    MLT_POOLED_READY,   /* queued: a worker is to look at it */
    MLT_POOLED_BUSY,    /* a worker works for it */
    MLT_POOLED_SENDING, /* answered; the answer is about to be sent, with others */
    MLT_POOLED_PARKED,  /* waits in the poller */
    MLT_POOLED_DEAD     /* ended; its memory is about to be freed */
};

typedef struct mlt_pooled {
    mlt_connection connection; /* the first member: what Python has a pointer to */
    enum mlt_pooled_state state;
    bool registered;         /* with the poller, */
    unsigned wants;          /* for this */
    bool expired;            /* its deadline has come */
    struct mlt_pooled *next; /* in the queue, or among the dead */
    /* Its place among those that wait for the same thing, and until when in ms; 0: nowhere. */
    struct mlt_timers *timers;
    struct mlt_pooled *earlier;
    struct mlt_pooled *later;
    int64_t deadline;
} mlt_pooled;

/* Connections in the order of their deadlines, which is that of their coming: all wait equally
 * long. */
typedef struct mlt_timers {
    mlt_pooled *first;
    mlt_pooled *last;
} mlt_timers;

typedef struct mlt_queue {
    mlt_pooled *first;
    mlt_pooled *last;
} mlt_queue;

struct mlt_worker {
    mlt_pool *pool;
    mlt_worker *next_worker;
    mlt_worker *next_parked;
    pthread_cond_t wake;
    bool active;    /* counts as one of pool->active; guarded by the lock, as what follows */
    bool promoted;  /* woken to become active */
    bool fresh;     /* neither active nor parked so far */
    bool ended;     /* `one` has ended, and Python has been told */
    unsigned first; /* beat of the first batch since it took the lead */
    unsigned seen;  /* beat when the watcher looked last */
    size_t stuck;   /* ticks since then */
    atomic_bool in_callback;
    atomic_uint beat;     /* counts the batches handed out */
    atomic_int step;      /* of the batch's last event */
    int64_t since;        /* us; when a callback began that was expected to be slow; else 0 */
    mlt_queue unsent;     /* connections with answers; guarded by the lock */
    int answers;          /* about as many */
    int64_t first_answer; /* us; when the first of them was given */
    mlt_pooled *one;      /* whose events it handles */
    int streak;           /* batches of `one` in a row */
    mlt_buffer buffer;    /* to lend */
    mlt_batch batch;
    mlt_work work;
};

struct mlt_pool {
    mlt_server *server;
    pid_t process; /* that made it */
    mlt_pool_options options;
    mlt_poller *poller;
    pthread_t watcher;
    pthread_mutex_t lock;
    pthread_cond_t watch;
    atomic_bool armed;     /* the watcher looks */
    atomic_bool lacking;   /* a parked thread would be good to have */
    atomic_uchar slow[32]; /* by step: how long it is still to be taken for slow */
    /* Guarded by the lock. */
    bool closing;
    bool over;            /* stopped, and nothing left to do */
    bool polling;         /* somebody is in mlt_poller_wait(), */
    int64_t polling_end;  /* ms; until then, if nothing comes */
    int kick;             /* a descriptor that is always readable, */
    bool kicked;          /* registered to end that wait */
    bool refused;         /* accepts no more, whatever becomes of the server */
    bool listening;       /* the listening socket is registered */
    bool waking;          /* the server's wake pipe is registered */
    bool starting;        /* a thread was asked for */
    int64_t start_again;  /* ms; when to ask again after that failed */
    int64_t accept_again; /* ms; when to accept again after that failed; 0: nothing failed */
    int64_t now;          /* ms; when somebody looked last */
    int64_t exhausted_since;
    int64_t exhausted_again;
    atomic_bool exhausted;
    size_t threads; /* workers there are */
    size_t active;
    size_t open;
    mlt_worker *workers;
    mlt_worker *parked;
    mlt_queue ready;
    mlt_queue stuck; /* unsent answers of threads that are in a slow callback */
    mlt_queue again; /* had their turn and have more; they come after the others */
    mlt_timers idle;
    mlt_timers partial;
    mlt_timers writing;
    mlt_pooled *dead;
    size_t spares;
    mlt_buffer spare[MLT_POOL_SPARES];
};

/* ------------------------------------------------------------------------------------------ */
/* Lists; the lock is held */

static inline void mlt_queue_push(mlt_queue *to, mlt_pooled *one)
{
    one->next = NULL;
    if (to->last != NULL)
        to->last->next = one;
    else
        to->first = one;
    to->last = one;
}

static inline mlt_pooled *mlt_queue_pop(mlt_queue *from)
{
    mlt_pooled *one = from->first;
    if (one == NULL)
        return NULL;
    from->first = one->next;
    if (from->first == NULL)
        from->last = NULL;
    one->next = NULL;
    return one;
}

/* ------------------------------------------------------------------------------------------ */
/* pool.c; the lock is held for these */

/* Ends the wait that is under way: there is something new that the poller does not know of. */
void mlt_pool_end_wait(mlt_pool *pool);

/* Queues it for a worker. */
void mlt_pool_make_ready(mlt_pool *pool, mlt_pooled *one);

/* Has it carry on alone, and another take the lead. */
void mlt_worker_detach(mlt_worker *worker);

/* And for these it is not. */

/* Sends the answers of connections that were SENDING, and has them wait for more. */
void mlt_pool_send_answers(mlt_pool *pool, mlt_queue *from);

/* A forked child has neither the threads nor, perhaps, a lock that anybody will ever release. */
bool mlt_pool_is_copy(const mlt_pool *pool);

/* ------------------------------------------------------------------------------------------ */
/* pool_accept.c; the lock is held */

/* Listens, if it may and does not. False, with errno: the poller refused. */
bool mlt_pool_listen(mlt_pool *pool);

/* Leaves the listening socket alone, until told otherwise. */
void mlt_pool_listen_no_more(mlt_pool *pool);

/* Hears no more of the server's stop. */
void mlt_pool_hear_no_more(mlt_pool *pool);

/* Accepts what waits. False: a notice was written. */
bool mlt_pool_accept(mlt_pool *pool, char *notice);

/* ------------------------------------------------------------------------------------------ */
/* pool_watch.c; the lock is not held */

/* 0, or why there is no watcher. It ends when the pool is closing. */
int mlt_pool_start_watcher(mlt_pool *pool);

/* Somebody is at work. */
void mlt_pool_wake_watcher(mlt_pool *pool);

#endif
