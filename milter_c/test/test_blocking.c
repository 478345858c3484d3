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

enum { THREADS = 300, CROWD = 128 }; /* the latter as in blocking.c */

static pthread_barrier_t begin;
static atomic_int inside; /* callbacks that run */
static atomic_bool open;  /* they may return */

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
    WAIT_UNTIL(atomic_load(&open));
    while (count > 0) {
        it->events += count;
        count =
            mlt_connection_next(it->connection, (size_t)count, SMFIS_CONTINUE, NULL, 0, NULL, 0);
    }
    mlt_connection_free(it->connection); /* gives back a turn, too, which is this thread's */
    return NULL;
}

/* When all connections have something to say at once, no more threads go back to Python than a
 * crowd and at most one each millisecond; as those that went first do not return, all go in the
 * end. When they do return, so do all others. */
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
    for (int now = 0; now < THREADS && test_now() < start + 20000;) {
        now = atomic_load(&inside);
        int64_t elapsed = test_now() - start;
        REQUIRE(now <= 1 + CROWD + elapsed + 1); /* one has the turn; a millisecond has begun */
    }
    CHECK_INT(THREADS, atomic_load(&inside));
    atomic_store(&open, true);
    for (int i = 0; i < THREADS; i++) {
        pthread_join(callers[i].thread, NULL);
        CHECK_INT(2, callers[i].events); /* connect and close */
        close(callers[i].peer);
    }
    pthread_barrier_destroy(&begin);
    mlt_server_free(server);
}
