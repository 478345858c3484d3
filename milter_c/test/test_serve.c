/*
 * test_serve.c - servers: several threads that accept, limits, stopping, starting again.
 *
 * Threads are the way it is used: each has a connection object, waits in mlt_connection_accept(),
 * and serves what comes. What they saw is looked at when they are done.
 */
#include "../serve.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "../protocol.h"
#include "dialogue.h"
#include "test.h"

/* ------------------------------------------------------------------------------------------ */
/* A server on a unix socket, and threads that serve */

enum { WORKERS = 4 };

typedef struct host {
    char path[100];
    mlt_server *server;
} host;

static const mlt_socket_options plain = {.backlog = 100, .mode = -1, .owner = -1, .group = -1};

static host start_host_at(const char *name)
{
    host it;
    snprintf(it.path, sizeof it.path, "%s/%s", test_folder(), name);
    it.server = mlt_server_new();
    REQUIRE(it.server != NULL);
    mlt_server_settings(it.server)->negotiate = false;
    CHECK_INT(MLT_OK, mlt_server_open(it.server, it.path, &plain));
    CHECK_INT(MLT_OK, mlt_server_start(it.server));
    return it;
}

static host start_host(void)
{
    return start_host_at("socket");
}

static void end_host(host *it)
{
    mlt_server_close(it->server);
    mlt_server_free(it->server);
}

/* A thread that accepts and serves until the server stops. */
typedef struct worker {
    mlt_server *server;
    pthread_t thread;
    int serve;           /* connections to serve at most; 0: until the stop */
    atomic_int accepted; /* so far */
    atomic_int ended;
    atomic_int notices;
    atomic_int alone;     /* how often it was the last that waited */
    atomic_int last_step; /* the event that it works on */
    int status;           /* of the last accept */
    int end_status;       /* view.status of the last connection */
    char story[400];      /* events of the last connection */
} worker;

static void serve_one(worker *it, mlt_connection *connection)
{
    mlt_view *view = mlt_connection_view(connection);
    size_t len = 0;
    int count = 0;
    it->story[0] = '\0';
    while ((count = mlt_connection_next(connection, (size_t)count, SMFIS_CONTINUE, NULL, 0, NULL,
                                        0)) > 0) {
        for (int i = 0; i < count; i++) {
            int step = view->events[i].step;
            if (len < sizeof it->story)
                len += (size_t)snprintf(it->story + len, sizeof it->story - len, "%s%s",
                                        len > 0 ? " " : "", mlt_steps[step].callback);
            atomic_store(&it->last_step, step);
        }
    }
    CHECK_INT(0, count);
    it->end_status = view->status;
}

static void *work(void *data)
{
    worker *it = data;
    mlt_connection *connection = mlt_connection_new(it->server);
    REQUIRE(connection != NULL);
    for (int served = 0; it->serve == 0 || served < it->serve;) {
        it->status = mlt_connection_accept(connection);
        if (it->status == MLT_NOTICE) {
            CHECK(strstr(mlt_connection_view(connection)->error, "cannot accept a connection") !=
                  NULL);
            atomic_fetch_add(&it->notices, 1);
            continue;
        }
        if (it->status != MLT_OK)
            break;
        atomic_fetch_add(&it->alone, mlt_connection_view(connection)->alone);
        atomic_fetch_add(&it->accepted, 1);
        serve_one(it, connection);
        atomic_fetch_add(&it->ended, 1);
        served++;
    }
    mlt_connection_free(connection);
    return NULL;
}

static void start_worker(worker *it, mlt_server *server)
{
    it->server = server;
    atomic_store(&it->last_step, -1);
    REQUIRE(pthread_create(&it->thread, NULL, work, it) == 0);
}

static void start_workers(worker *them, size_t count, mlt_server *server)
{
    memset(them, 0, count * sizeof *them);
    for (size_t i = 0; i < count; i++)
        start_worker(&them[i], server);
}

static void join_workers(worker *them, size_t count)
{
    for (size_t i = 0; i < count; i++)
        pthread_join(them[i].thread, NULL);
}

static int total(worker *them, size_t count)
{
    int sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += atomic_load(&them[i].accepted);
    return sum;
}

/* ------------------------------------------------------------------------------------------ */
/* The MTA */

static int dial(const host *to)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    snprintf(address.sun_path, sizeof address.sun_path, "%s", to->path);
    REQUIRE(fd >= 0);
    REQUIRE(connect(fd, (struct sockaddr *)&address, sizeof address) == 0);
    return fd;
}

/* Writes the packets of a script; false if the other side has gone. */
static bool put(int fd, const char *text)
{
    dialogue_script script;
    dialogue one = {.script = text, .raw = true};
    dialogue_parse(&one, &script);
    return send(fd, script.data, script.len, MSG_NOSIGNAL) == (ssize_t)script.len;
}

/* Reads `count` packets and returns their letters. */
static const char *get(int fd, size_t count)
{
    static _Thread_local char letters[20];
    char data[100];
    size_t len = 0;
    size_t found = 0;
    while (found < count && found < sizeof letters - 1) {
        mlt_packet packet;
        int status = mlt_frame_next(data, len, sizeof data, &packet);
        if (status == MLT_OK) {
            letters[found++] = (char)packet.letter;
            memmove(data, data + packet.used, len - packet.used);
            len -= packet.used;
            continue;
        }
        /* Never more than the packets that were asked for: the rest stays in the socket. */
        ssize_t got = read(fd, data + len, 1);
        if (status != MLT_NEED_MORE || got <= 0)
            break;
        len += (size_t)got;
    }
    letters[found] = '\0';
    return letters;
}

/* Whether the other side has closed; waits for it to do or say something. */
static bool is_closed(int fd)
{
    char byte;
    return read(fd, &byte, 1) <= 0;
}

/* ------------------------------------------------------------------------------------------ */
/* Accepting */

/* Many connections at once, served by several threads: all get every answer, and each its own
 * number. */
TEST(serve_several_threads)
{
    enum { CLIENTS = 40 };
    static worker workers[WORKERS];
    int clients[CLIENTS];
    host it = start_host();
    start_workers(workers, WORKERS, it.server);
    for (int i = 0; i < CLIENTS; i++)
        clients[i] = -1;
    /* More than there are threads, so some wait; open clients are ended in the order they came. */
    for (int i = 0; i < CLIENTS + WORKERS; i++) {
        if (i < CLIENTS) {
            clients[i] = dial(&it);
            CHECK(put(clients[i], "O C H M R T L N B E"));
        }
        int ripe = i - WORKERS;
        if (ripe >= 0) {
            CHECK_TEXT("Occccccccc", get(clients[ripe], 10));
            CHECK(put(clients[ripe], "Q"));
            CHECK(is_closed(clients[ripe]));
            close(clients[ripe]);
        }
    }
    WAIT_UNTIL(mlt_server_active(it.server) == 0);
    WAIT_UNTIL(mlt_server_waiting(it.server) == WORKERS);
    CHECK_INT(CLIENTS, total(workers, WORKERS));
    mlt_server_stop(it.server);
    join_workers(workers, WORKERS);
    for (int i = 0; i < WORKERS; i++)
        CHECK_INT(MLT_STOPPED, workers[i].status);
    CHECK_INT(0, mlt_server_waiting(it.server));
    mlt_connection *connection = mlt_connection_new(it.server);
    int pair[2];
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    CHECK_INT(MLT_OK, mlt_connection_adopt(connection, pair[0]));
    CHECK_INT(CLIENTS + 1, mlt_connection_view(connection)->id);
    mlt_connection_free(connection);
    close(pair[1]);
    end_host(&it);
}

/* Who accepts learns whether anybody else waits: the last one is to start another thread. */
TEST(serve_tells_the_last_one)
{
    static worker workers[2];
    host it = start_host();
    start_workers(workers, 2, it.server);
    WAIT_UNTIL(mlt_server_waiting(it.server) == 2);
    int first = dial(&it);
    WAIT_UNTIL(total(workers, 2) == 1);
    CHECK_INT(0, workers[0].alone + workers[1].alone);
    WAIT_UNTIL(mlt_server_waiting(it.server) == 1);
    int second = dial(&it);
    WAIT_UNTIL(total(workers, 2) == 2);
    CHECK_INT(1, workers[0].alone + workers[1].alone);
    CHECK_INT(2, mlt_server_active(it.server));
    CHECK_INT(0, mlt_server_waiting(it.server));
    close(first);
    close(second);
    WAIT_UNTIL(mlt_server_active(it.server) == 0);
    mlt_server_stop(it.server);
    join_workers(workers, 2);
    end_host(&it);
}

/* At the limit of connections the next one waits until another has ended. */
TEST(serve_connection_limit)
{
    static worker workers[2];
    host it = start_host();
    mlt_server_settings(it.server)->connections = 1;
    start_workers(workers, 2, it.server);
    int first = dial(&it);
    CHECK(put(first, "O C"));
    CHECK_TEXT("Oc", get(first, 2));
    int second = dial(&it);
    CHECK(put(second, "O C"));
    /* It has not been accepted, as far as that can be told: nothing comes back for a while. */
    char byte;
    struct timeval while_ = {0, 100000};
    setsockopt(second, SOL_SOCKET, SO_RCVTIMEO, &while_, sizeof while_);
    CHECK_INT(-1, recvfrom(second, &byte, 1, 0, NULL, NULL));
    CHECK_INT(1, total(workers, 2));
    while_ = (struct timeval){0, 0};
    setsockopt(second, SOL_SOCKET, SO_RCVTIMEO, &while_, sizeof while_);
    close(first);
    CHECK_TEXT("Oc", get(second, 2));
    CHECK_INT(2, total(workers, 2));
    close(second);
    WAIT_UNTIL(mlt_server_active(it.server) == 0);
    mlt_server_stop(it.server);
    join_workers(workers, 2);
    end_host(&it);
}

/* The limit holds also while a connection that was just accepted is not registered yet. */
TEST(serve_connection_limit_is_exact)
{
    static worker workers[2];
    host it = start_host();
    mlt_server_settings(it.server)->connections = 1;
    /* The first to be accepted takes its time over its socket's settings. */
    atomic_store(&hooks.prepare_pause, 200);
    start_workers(workers, 2, it.server);
    WAIT_UNTIL(mlt_server_waiting(it.server) == 2);
    int first = dial(&it);
    int second = dial(&it);
    WAIT_UNTIL(total(workers, 2) == 1);
    /* The other one would have been accepted in the meantime. */
    CHECK_INT(1, hooks.accept_calls);
    CHECK_INT(1, mlt_server_active(it.server));
    close(first);
    close(second);
    WAIT_UNTIL(total(workers, 2) == 2);
    WAIT_UNTIL(mlt_server_active(it.server) == 0);
    mlt_server_stop(it.server);
    join_workers(workers, 2);
    end_host(&it);
}

/* Row 189: when no descriptors are left, it is said once, accept() is left alone more and more, and
 * the connection is served as soon as there are some again. */
TEST(serve_out_of_descriptors)
{
    static worker workers[1];
    struct rlimit limit, before;
    host it = start_host();
    start_workers(workers, 1, it.server);
    WAIT_UNTIL(mlt_server_waiting(it.server) == 1);
    int client = dial(&it);
    WAIT_UNTIL(total(workers, 1) == 1);
    close(client);
    WAIT_UNTIL(mlt_server_waiting(it.server) == 1);
    /* The client's descriptor is the last one: none is left for the server's end. */
    client = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", it.path);
    REQUIRE(getrlimit(RLIMIT_NOFILE, &before) == 0);
    limit = before;
    /* Descriptors below the client's may be free: fill these up. */
    int filler = dup(client);
    while (filler >= 0 && filler < client)
        filler = dup(client);
    limit.rlim_cur = (rlim_t)filler + 1;
    REQUIRE(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    REQUIRE(dup(client) < 0 && errno == EMFILE);
    atomic_store(&hooks.accept_calls, 0);
    CHECK_INT(0, connect(client, (struct sockaddr *)&address, sizeof address));
    WAIT_UNTIL(atomic_load(&hooks.accept_calls) >= 3);
    int64_t start = test_now();
    test_pause(400);
    /* Pauses of 10, 20, 40 ... ms: these are at most eight or so tries, and not thousands. */
    CHECK(atomic_load(&hooks.accept_calls) < 20 + (test_now() - start) / 100);
    CHECK_INT(1, workers[0].notices);
    CHECK_INT(1, total(workers, 1));
    REQUIRE(setrlimit(RLIMIT_NOFILE, &before) == 0);
    CHECK(put(client, "O C"));
    CHECK_TEXT("Oc", get(client, 2));
    CHECK_INT(1, workers[0].notices);
    close(client);
    close(filler);
    mlt_server_stop(it.server);
    join_workers(workers, 1);
    end_host(&it);
}

/* A failure that lasts is told again after a minute. A stop ends the pause after it. */
TEST(serve_stop_while_accept_fails)
{
    static worker workers[2];
    host it = start_host();
    atomic_store(&hooks.accept_error, EMFILE);
    start_workers(workers, 2, it.server);
    int client = dial(&it);
    WAIT_UNTIL(atomic_load(&hooks.accept_calls) >= 4);
    /* Who got the notice may be slower to count it than the other one is to try again. */
    WAIT_UNTIL(workers[0].notices + workers[1].notices == 1);
    atomic_store(&hooks.clock_ahead, 61000);
    WAIT_UNTIL(workers[0].notices + workers[1].notices == 2);
    mlt_server_stop(it.server);
    join_workers(workers, 2);
    CHECK_INT(MLT_STOPPED, workers[0].status);
    CHECK_INT(2, workers[0].notices + workers[1].notices);
    close(client);
    end_host(&it);
}

/* ------------------------------------------------------------------------------------------ */
/* Stopping */

/* A stop wakes up everybody who waits, also more than once, and from another thread. */
TEST(serve_stop_while_waiting)
{
    static worker workers[WORKERS];
    host it = start_host();
    start_workers(workers, WORKERS, it.server);
    WAIT_UNTIL(mlt_server_waiting(it.server) == WORKERS);
    mlt_server_stop(it.server);
    mlt_server_stop(it.server);
    join_workers(workers, WORKERS);
    for (int i = 0; i < WORKERS; i++)
        CHECK_INT(MLT_STOPPED, workers[i].status);
    CHECK(mlt_server_stopping(it.server));
    /* Who only lets go of it leaves the file to those who may still be listening on it. */
    mlt_server_free(it.server);
    CHECK_INT(0, access(it.path, F_OK));
}

/* And those who wait for room. */
TEST(serve_stop_while_waiting_for_room)
{
    static worker workers[3];
    host it = start_host();
    mlt_server_settings(it.server)->connections = 1;
    start_workers(workers, 3, it.server);
    int client = dial(&it);
    CHECK(put(client, "O C H M"));
    CHECK_TEXT("Occc", get(client, 4));
    WAIT_UNTIL(mlt_server_waiting(it.server) == 2);
    mlt_server_stop(it.server);
    WAIT_UNTIL(mlt_server_waiting(it.server) == 0);
    close(client);
    join_workers(workers, 3);
    end_host(&it);
}

/* A connection between messages ends at once at a stop, in order; one inside a transaction goes on
 * to its end, with every answer, and ends then. */
TEST(serve_stop_lets_messages_finish)
{
    static const struct {
        const char *name;
        const char *before;
        const char *replies;
        const char *after; /* NULL: it ends at the stop */
        const char *more;
        const char *story;
    } rows[] = {
        {"nothing said", "", "", NULL, NULL, "close"},
        {"after O", "O", "O", NULL, NULL, "close"},
        {"after H", "O C H", "Occ", NULL, NULL, "connect helo close"},
        {"after a message", "O C M R E", "Occcc", NULL, NULL, "connect envfrom envrcpt eom close"},
        {"after an aborted one", "O C M A H", "Occc", NULL, NULL,
         "connect envfrom abort helo close"},
        {"in MAIL", "O C M", "Occ", "R T N B E", "ccccc",
         "connect envfrom envrcpt data eoh body eom close"},
        {"in BODY", "O C M R N B", "Occccc", "E", "c",
         "connect envfrom envrcpt eoh body eom close"},
        {"in MAIL, then aborted", "O C M", "Occ", "A", "", "connect envfrom abort close"},
        {"in MAIL, then another", "O C M", "Occ", "R E M R E", "cc",
         "connect envfrom envrcpt eom close"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        static worker workers[1];
        host it = start_host();
        test_row(rows[i].name);
        start_workers(workers, 1, it.server);
        int client = dial(&it);
        WAIT_UNTIL(total(workers, 1) == 1);
        CHECK(put(client, rows[i].before));
        CHECK_TEXT(rows[i].replies, get(client, strlen(rows[i].replies)));
        /* Until it waits for the MTA again a stop could not tell where it is; it looks itself. */
        mlt_server_stop(it.server);
        if (rows[i].after != NULL) {
            CHECK(!atomic_load(&workers[0].ended));
            /* One by one: what follows the message is not there yet when it is over. */
            static dialogue_script script;
            dialogue rest = {.script = rows[i].after, .raw = true};
            dialogue_parse(&rest, &script);
            char got[20] = "";
            for (size_t n = 0; n < script.count; n++) {
                size_t from = n == 0 ? 0 : script.ends[n - 1];
                if (send(client, script.data + from, script.ends[n] - from, MSG_NOSIGNAL) < 0)
                    break;
                if (script.letters[n] != 'A')
                    strcat(got, get(client, 1));
            }
            CHECK_TEXT(rows[i].more, got);
        }
        CHECK(is_closed(client));
        join_workers(workers, 1);
        CHECK_TEXT(rows[i].story, workers[0].story);
        CHECK_INT(MLT_OK, workers[0].end_status);
        close(client);
        end_host(&it);
    }
}

/* A stop while the filter works on an event: its answer goes out, then the connection ends or, in a
 * message, goes on. */
TEST(serve_stop_during_a_callback)
{
    int pair[2];
    host it = start_host();
    mlt_connection *connection = mlt_connection_new(it.server);
    mlt_view *view = mlt_connection_view(connection);
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    CHECK_INT(MLT_OK, mlt_connection_adopt(connection, pair[1]));
    CHECK(put(pair[0], "O C"));
    CHECK_INT(1, mlt_connection_next(connection, 0, 0, NULL, 0, NULL, 0));
    mlt_server_stop(it.server);
    CHECK_INT(1, mlt_connection_next(connection, 1, SMFIS_CONTINUE, NULL, 0, NULL, 0));
    CHECK_INT(MLT_STEP_CLOSE, view->events[0].step);
    CHECK_INT(MLT_OK, view->status);
    CHECK_INT(0, mlt_connection_next(connection, 1, SMFIS_CONTINUE, NULL, 0, NULL, 0));
    CHECK_TEXT("Oc", get(pair[0], 3));
    close(pair[0]);

    CHECK_INT(MLT_OK, mlt_server_start(it.server));
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    CHECK_INT(MLT_OK, mlt_connection_adopt(connection, pair[1]));
    CHECK(put(pair[0], "O C M"));
    CHECK_INT(1, mlt_connection_next(connection, 0, 0, NULL, 0, NULL, 0));
    CHECK_INT(1, mlt_connection_next(connection, 1, SMFIS_CONTINUE, NULL, 0, NULL, 0));
    CHECK_INT(MLT_STEP_MAIL, view->events[0].step);
    mlt_server_stop(it.server);
    CHECK(put(pair[0], "R E"));
    CHECK_INT(1, mlt_connection_next(connection, 1, SMFIS_CONTINUE, NULL, 0, NULL, 0));
    CHECK_INT(MLT_STEP_RCPT, view->events[0].step);
    CHECK_INT(1, mlt_connection_next(connection, 1, SMFIS_CONTINUE, NULL, 0, NULL, 0));
    CHECK_INT(MLT_STEP_EOM, view->events[0].step);
    CHECK_INT(1, mlt_connection_next(connection, 1, SMFIS_CONTINUE, NULL, 0, NULL, 0));
    CHECK_INT(MLT_STEP_CLOSE, view->events[0].step);
    CHECK_INT(0, mlt_connection_next(connection, 1, SMFIS_CONTINUE, NULL, 0, NULL, 0));
    CHECK_TEXT("Occcc", get(pair[0], 6));
    close(pair[0]);

    /* A connection that comes when it has been stopped ends without a word. */
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    CHECK_INT(MLT_OK, mlt_connection_adopt(connection, pair[1]));
    CHECK(put(pair[0], "O C"));
    CHECK_INT(1, mlt_connection_next(connection, 0, 0, NULL, 0, NULL, 0));
    CHECK_INT(MLT_STEP_CLOSE, view->events[0].step);
    CHECK_INT(0, mlt_connection_next(connection, 1, SMFIS_CONTINUE, NULL, 0, NULL, 0));
    CHECK_TEXT("", get(pair[0], 1));
    close(pair[0]);
    mlt_connection_free(connection);
    end_host(&it);
}

/* A cut ends every connection at once: with abort and an error inside a message, in order outside;
 * half a packet does not hold it up. */
TEST(serve_cut)
{
    static const struct {
        const char *name;
        const char *before;
        const char *replies;
        const char *story;
        int status;
    } rows[] = {
        {"idle", "O C H", "Occ", "connect helo close", MLT_OK},
        {"in a message", "O C M R", "Occc", "connect envfrom envrcpt abort close", MLT_STOPPED},
        {"in a packet", "O C {00 00}", "Oc", "connect close", MLT_STOPPED},
        {"in a message's packet", "O C M {00 00 00 07 52}", "Occ", "connect envfrom abort close",
         MLT_STOPPED},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        static worker workers[1];
        host it = start_host();
        test_row(rows[i].name);
        mlt_server_settings(it.server)->packet_timeout = -1;
        mlt_server_settings(it.server)->idle_timeout = -1;
        start_workers(workers, 1, it.server);
        int client = dial(&it);
        CHECK(put(client, rows[i].before));
        CHECK_TEXT(rows[i].replies, get(client, strlen(rows[i].replies)));
        mlt_server_stop(it.server);
        mlt_server_cut(it.server);
        mlt_server_cut(it.server);
        CHECK(is_closed(client));
        join_workers(workers, 1);
        CHECK_TEXT(rows[i].story, workers[0].story);
        CHECK_INT(rows[i].status, workers[0].end_status);
        close(client);
        end_host(&it);
    }
}

/* Stops and cuts that come at any moment, while connections come and go: every connection ends,
 * every thread returns. */
TEST(serve_stop_at_any_time)
{
    for (int round = 0; round < 20; round++) {
        static worker workers[WORKERS];
        int clients[8];
        host it = start_host();
        start_workers(workers, WORKERS, it.server);
        for (int i = 0; i < 8; i++) {
            clients[i] = dial(&it);
            put(clients[i], i % 2 == 0 ? "O C H M R" : "O C H M R E");
            if (i == round % 8)
                mlt_server_stop(it.server);
        }
        for (int i = 0; i < 8; i += 2)
            put(clients[i], "E");
        if (round % 3 == 0)
            mlt_server_cut(it.server);
        for (int i = 0; i < 8; i++)
            shutdown(clients[i], SHUT_WR);
        join_workers(workers, WORKERS);
        CHECK_INT(0, mlt_server_active(it.server));
        for (int i = 0; i < WORKERS; i++)
            CHECK_INT(MLT_STOPPED, workers[i].status);
        for (int i = 0; i < 8; i++)
            close(clients[i]);
        end_host(&it);
    }
}

/* After a stop a server can be started again, over the same socket or a new one. */
TEST(serve_restart)
{
    static worker workers[2];
    host it = start_host();
    for (int round = 0; round < 3; round++) {
        start_workers(workers, 2, it.server);
        int client = dial(&it);
        CHECK(put(client, "O C Q"));
        CHECK_TEXT("Oc", get(client, 2));
        CHECK(is_closed(client));
        close(client);
        mlt_server_stop(it.server);
        join_workers(workers, 2);
        if (round == 1) {
            mlt_server_close(it.server);
            CHECK_INT(-1, access(it.path, F_OK));
            CHECK_INT(-1, mlt_server_fd(it.server));
            CHECK_INT(MLT_ERR_CALLER, mlt_server_start(it.server));
            CHECK_INT(MLT_OK, mlt_server_open(it.server, it.path, &plain));
        }
        CHECK_INT(MLT_OK, mlt_server_start(it.server));
        CHECK(!mlt_server_stopping(it.server));
    }
    end_host(&it);
}

/* ------------------------------------------------------------------------------------------ */
/* Calls */

/* Opening, closing and their texts. */
TEST(serve_open_and_close)
{
    char path[100];
    mlt_server *server = mlt_server_new();
    REQUIRE(server != NULL);
    snprintf(path, sizeof path, "%s/socket", test_folder());
    CHECK_INT(-1, mlt_server_fd(server));
    CHECK_TEXT("", mlt_server_address(server));
    CHECK_INT(MLT_ERR_CALLER, mlt_server_start(server));
    CHECK_TEXT("the socket is not open", mlt_server_error(server));
    mlt_server_stop(server);
    mlt_server_cut(server);
    mlt_server_close(server);
    CHECK_INT(MLT_ERR_CALLER, mlt_server_check_spec(server, "tcp:1"));
    CHECK(strncmp(mlt_server_error(server), "unknown socket type tcp", 23) == 0);
    CHECK_INT(MLT_OK, mlt_server_check_spec(server, path));
    CHECK_INT(MLT_ERR_IO, mlt_server_open(server, "/no/such/folder/socket", &plain));
    CHECK_INT(-1, mlt_server_fd(server));
    CHECK_INT(MLT_OK, mlt_server_open(server, path, &plain));
    int fd = mlt_server_fd(server);
    CHECK(fd >= 0);
    /* Row 178: a second time changes nothing, whatever is asked for. */
    CHECK_INT(MLT_OK, mlt_server_open(server, "inet:0@127.0.0.1", &plain));
    CHECK_INT(fd, mlt_server_fd(server));
    CHECK_TEXT(path, mlt_server_address(server));
    mlt_server_close(server);
    mlt_server_close(server);
    CHECK_INT(-1, access(path, F_OK));
    CHECK_TEXT("", mlt_server_address(server));
    mlt_server_free(server);
    mlt_server_free(NULL);
    CHECK(mlt_server_settings(NULL) == NULL);
}

/* Row 180: which descriptor versions can be served, and what is said of the others. */
TEST(serve_versions)
{
    static const struct {
        uint32_t version;
        int status;
    } rows[] = {
        {2, MLT_OK},
        {3, MLT_OK},
        {4, MLT_OK},
        {0x01000000, MLT_OK},
        {0x01000001, MLT_OK},
        {0x0100007F, MLT_OK},
        {0, MLT_ERR_CALLER},
        {1, MLT_ERR_CALLER},
        {5, MLT_ERR_CALLER},
        {6, MLT_ERR_CALLER},
        {0x01000080, MLT_ERR_CALLER},
        {0x01000100, MLT_ERR_CALLER},
        {0x02000001, MLT_ERR_CALLER},
        {0xFFFFFFFF, MLT_ERR_CALLER},
    };
    mlt_server *server = mlt_server_new();
    REQUIRE(server != NULL);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        mlt_server_settings(server)->version = rows[i].version;
        CHECK_INT(rows[i].status, mlt_server_check_version(server));
        if (rows[i].status != MLT_OK) {
            char text[100];
            snprintf(text, sizeof text,
                     "smfi_register: version mismatch application: %lu != milter: 16777217",
                     (unsigned long)rows[i].version);
            CHECK_TEXT(text, mlt_server_error(server));
        }
    }
    mlt_server_free(server);
}

/* The settings that a new server has. */
TEST(serve_defaults)
{
    mlt_server *server = mlt_server_new();
    REQUIRE(server != NULL);
    const mlt_settings *settings = mlt_server_settings(server);
    CHECK_INT(1048576, settings->receive_frame);
    CHECK_INT(65535, settings->send_payload);
    CHECK_INT(256, settings->macros_per_stage);
    CHECK_INT(65536, settings->macro_bytes);
    CHECK_INT(0, settings->connections);
    CHECK_INT(120000, settings->packet_timeout);
    CHECK_INT(7210000, settings->idle_timeout);
    CHECK_INT(300000, settings->write_timeout);
    CHECK_INT(0x01000001, settings->version);
    CHECK_INT(0, settings->unwanted);
    mlt_server_free(server);
}

/* Two servers in one process know nothing of each other. */
TEST(serve_two_servers)
{
    static worker one[1], two[1];
    host first = start_host();
    host second = start_host_at("second");
    start_workers(one, 1, first.server);
    start_workers(two, 1, second.server);
    int client = dial(&second);
    CHECK(put(client, "O C"));
    CHECK_TEXT("Oc", get(client, 2));
    mlt_server_stop(first.server);
    mlt_server_cut(first.server);
    join_workers(one, 1);
    CHECK(put(client, "H"));
    CHECK_TEXT("c", get(client, 1));
    close(client);
    WAIT_UNTIL(atomic_load(&two[0].ended) == 1);
    mlt_server_stop(second.server);
    join_workers(two, 1);
    mlt_server_free(first.server);
    mlt_server_free(second.server);
}
