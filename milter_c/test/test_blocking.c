/*
 * test_blocking.c - turns: who goes back to Python when many threads want to.
 *
 * That a connection is served, stopped and cut with a thread of its own is test_serve.c's and
 * test_connection.c's.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../protocol.h"
#include "../serve.h"
#include "dialogue.h"
#include "test.h"

enum { THREADS = 300, MS_EACH = 100 }; /* the latter: after which one goes all the same */

static pthread_barrier_t begin;
static atomic_int inside;    /* threads that have gone back to Python */
static atomic_bool has_lock; /* they have Python's lock, one after the other */
static atomic_bool open;     /* their callbacks may return */

typedef struct caller {
    pthread_t thread;
    mlt_connection *connection;
    int peer;
    int events; /* that it has seen */
} caller;

static void *call(void *data)
{
    caller *it = data;
    pthread_barrier_wait(&begin);
    int count = mlt_connection_next(it->connection, 0, 0, NULL, 0, NULL, 0);
    atomic_fetch_add(&inside, 1);
    WAIT_UNTIL(atomic_load(&has_lock));
    __atomic_store_n(&mlt_connection_view(it->connection)->entering, 0, __ATOMIC_RELAXED);
    WAIT_UNTIL(atomic_load(&open));
    while (count > 0) {
        it->events += count;
        count =
            mlt_connection_next(it->connection, (size_t)count, SMFIS_CONTINUE, NULL, 0, NULL, 0);
    }
    mlt_connection_free(it->connection); /* gives back a turn, too, which is this thread's */
    return NULL;
}

/* When all connections have something to say at once, no more threads go back to Python than may
 * wait for its lock, and one each tenth of a second. Once these have the lock all others follow,
 * though no callback returns. */
TEST(blocking_crowd)
{
    static caller callers[THREADS];
    const dialogue talk = {.script = "O C Q", .raw = true};
    dialogue_script script;
    dialogue_parse(&talk, &script);
    mlt_server *server = mlt_server_new();
    REQUIRE(server != NULL);
    mlt_server_settings(server)->negotiate = false;
    mlt_server_settings(server)->turns = true;
    REQUIRE(pthread_barrier_init(&begin, NULL, THREADS + 1) == 0);
    for (int i = 0; i < THREADS; i++) {
        int pair[2];
        REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
        callers[i].peer = pair[0];
        callers[i].connection = mlt_connection_new(server);
        REQUIRE(callers[i].connection != NULL);
        CHECK_INT(MLT_OK, mlt_connection_adopt(callers[i].connection, pair[1]));
        CHECK_INT(script.len, send(pair[0], script.data, script.len, MSG_NOSIGNAL));
        REQUIRE(pthread_create(&callers[i].thread, NULL, call, &callers[i]) == 0);
    }
    int64_t start = test_now();
    pthread_barrier_wait(&begin);
    WAIT_UNTIL(atomic_load(&inside) >= 1 + MLT_CROWD); /* one has the turn */
    test_pause(50);
    int now = atomic_load(&inside);
    CHECK(now <= 1 + MLT_CROWD + (test_now() - start) / MS_EACH);
    atomic_store(&has_lock, true);
    WAIT_UNTIL(atomic_load(&inside) == THREADS);
    atomic_store(&open, true);
    for (int i = 0; i < THREADS; i++) {
        pthread_join(callers[i].thread, NULL);
        CHECK_INT(2, callers[i].events); /* connect and close */
        close(callers[i].peer);
    }
    pthread_barrier_destroy(&begin);
    mlt_server_free(server);
}
