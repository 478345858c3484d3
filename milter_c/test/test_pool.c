/*
 * test_pool.c - the pool: a few threads for all connections.
 *
 * Threads do what Python's do (Milter/_threads.py): each has a worker object, answers the events
 * that it is given, and starts one more thread when it is asked to. The filter is told what to do
 * by the MTA, in the text of an UNKNOWN or a HELO, see obey(). What it saw of each connection it
 * notes down without any locking: the pool promises that callbacks of one connection never overlap
 * and see what those before them wrote. ThreadSanitizer watches that promise.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../engine.h"
#include "../protocol.h"
#include "dialogue.h"
#include "test.h"

enum {
    THREADS = 16,
    SESSIONS = 32000,
    GATES = 10,
    ANSWER_SECONDS = 30, /* until an MTA takes an answer to be lost */
    NEVER = 1000000,     /* ms; a threshold that is never reached */
    ABANDON = -1,        /* in the place of a verdict */
    MEBIBYTE = 1024 * 1024
};

/* ------------------------------------------------------------------------------------------ */
/* The filter and its threads */

/* What the filter knows of a connection. No locks: see above. */
typedef struct session {
    atomic_bool inside; /* relaxed, so that it orders nothing */
    bool permit;        /* of house.permits */
    int events;
    int hand; /* thread of the last event */
    int moves;
    int status;
    size_t len;
    char story[100];
    atomic_int ended; /* told the end; what is above may be read after that */
} session;

typedef struct house house;

/* One thread. */
typedef struct hand {
    house *its;
    pthread_t thread;
    int number;
    const char *actions; /* to be sent with the answer */
    size_t actions_len;
} hand;

struct house {
    char path[100];
    mlt_server *server;
    mlt_pool *pool;
    mlt_pool_options options;
    int bell[2];
    int (*filter)(hand *, session *, mlt_view *, const mlt_event *);
    atomic_bool no_threads; /* none can be started */
    atomic_bool lame;       /* further threads take their time to begin */
    atomic_int asked;       /* to start one */
    atomic_int running;
    atomic_int born;      /* threads that got a worker, */
    atomic_int stillborn; /* and that got none */
    atomic_int events;
    atomic_int ends;
    atomic_int notices;
    atomic_int sent; /* status of the last mlt_connection_send() that failed */
    pthread_mutex_t lock;
    pthread_cond_t change;
    /* Guarded by the lock. */
    int hired;
    hand hands[THREADS];
    bool open[GATES];
    uint64_t mourned;         /* connection whose end takes until gate 9 is open */
    atomic_int before[GATES]; /* callbacks that wait there; read without the lock */
    int permits;
    int meeting;
    session sessions[SESSIONS];
};

static house here;

static void *work(void *data);

static bool hire(house *it)
{
    if (atomic_load(&it->no_threads))
        return false;
    pthread_mutex_lock(&it->lock);
    REQUIRE(it->hired < THREADS);
    hand *one = &it->hands[it->hired];
    *one = (hand){.its = it, .number = it->hired};
    it->hired++;
    atomic_fetch_add(&it->running, 1);
    REQUIRE(pthread_create(&one->thread, NULL, work, one) == 0);
    pthread_mutex_unlock(&it->lock);
    return true;
}

static void wait_at_gate(house *it, int gate)
{
    pthread_mutex_lock(&it->lock);
    atomic_fetch_add(&it->before[gate], 1);
    while (!it->open[gate])
        pthread_cond_wait(&it->change, &it->lock);
    atomic_fetch_sub(&it->before[gate], 1);
    pthread_mutex_unlock(&it->lock);
}

static void open_gate(house *it, int gate)
{
    pthread_mutex_lock(&it->lock);
    it->open[gate] = true;
    pthread_cond_broadcast(&it->change);
    pthread_mutex_unlock(&it->lock);
}

/* Waits for so many callbacks to be here at once. */
static void meet(house *it, int count)
{
    pthread_mutex_lock(&it->lock);
    it->meeting++;
    pthread_cond_broadcast(&it->change);
    while (it->meeting < count)
        pthread_cond_wait(&it->change, &it->lock);
    pthread_mutex_unlock(&it->lock);
}

static void take_permit(house *it)
{
    pthread_mutex_lock(&it->lock);
    while (it->permits == 0)
        pthread_cond_wait(&it->change, &it->lock);
    it->permits--;
    pthread_mutex_unlock(&it->lock);
}

static void give_permit(house *it)
{
    pthread_mutex_lock(&it->lock);
    it->permits++;
    pthread_cond_broadcast(&it->change);
    pthread_mutex_unlock(&it->lock);
}

/* Sends so many mebibytes of PROGRESS, in packets of 5 bytes each, until that fails. */
static void send_much(hand *me, mlt_connection *connection, int mebibytes)
{
    enum { ONCE = 13107 }; /* packets in a call */
    static _Thread_local char packets[ONCE * 5];
    for (size_t i = 0; i < ONCE; i++)
        memcpy(packets + i * 5, "\0\0\0\1p", 5);
    for (int i = 0; i < mebibytes * 16; i++) {
        int status = mlt_connection_send(connection, packets, sizeof packets);
        if (status != MLT_OK) {
            atomic_store(&me->its->sent, status);
            return;
        }
    }
}

/* Does what the MTA says; the digits behind the letter are N.
 *   q  nothing            b  waits at gate N       z  sleeps N ms
 *   j  puts the clock N ms forward                 p  sends N MiB of PROGRESS at once, by send()
 *   a  N MiB go out with the answer                m  waits until N callbacks are here
 *   x  gives the connection up                     r  rejects                                  */
static int obey(hand *me, session *of, mlt_view *view, const mlt_event *event)
{
    static char *much;
    char text[20] = "";
    (void)of;
    (void)view;
    if (event->step != MLT_STEP_UNKNOWN && event->step != MLT_STEP_HELO)
        return SMFIS_CONTINUE;
    memcpy(text, event->data, event->len < sizeof text ? event->len : sizeof text - 1);
    int number = atoi(text + 1);
    switch (text[0]) {
    case 'b':
        wait_at_gate(me->its, number);
        break;
    case 'z':
        test_pause(number);
        break;
    case 'j':
        atomic_fetch_add(&hooks.clock_ahead, number);
        break;
    case 'a':
        me->actions_len = (size_t)number * MEBIBYTE;
        much = realloc(much, me->actions_len);
        REQUIRE(much != NULL);
        /* One packet of all of it, which no MTA would take; this one counts bytes. */
        memset(much, 'x', me->actions_len);
        me->actions = much;
        break;
    case 'm':
        meet(me->its, number);
        break;
    case 'x':
        return ABANDON;
    case 'r':
        return SMFIS_REJECT;
    default:
        break;
    }
    return SMFIS_CONTINUE;
}

static int handle(hand *me, mlt_work *given, const mlt_event *event)
{
    house *it = me->its;
    REQUIRE(given->id > 0 && given->id < SESSIONS && given->view->id == given->id);
    session *of = &it->sessions[given->id];
    CHECK(!atomic_exchange_explicit(&of->inside, true, memory_order_relaxed));
    CHECK_INT(0, atomic_load_explicit(&of->ended, memory_order_relaxed));
    of->moves += of->events > 0 && of->hand != me->number;
    of->events++;
    of->hand = me->number;
    if (of->len < sizeof of->story)
        of->len += (size_t)snprintf(of->story + of->len, sizeof of->story - of->len, "%s%s",
                                    of->len > 0 ? " " : "", mlt_steps[event->step].callback);
    int verdict = SMFIS_CONTINUE;
    if (event->step == MLT_STEP_UNKNOWN && event->len > 1 && event->data[0] == 'p')
        send_much(me, given->connection, atoi(event->data + 1));
    else
        verdict = it->filter(me, of, given->view, event);
    atomic_fetch_add(&it->events, 1);
    CHECK(atomic_exchange_explicit(&of->inside, false, memory_order_relaxed));
    return verdict;
}

/* One thread's loop, until the pool ends it. */
static void serve(hand *me, mlt_worker *worker)
{
    house *it = me->its;
    mlt_work *given = mlt_worker_work(worker);
    size_t done = 0;
    int verdict = SMFIS_CONTINUE;
    for (;;) {
        int count =
            verdict == SMFIS_CONTINUE && me->actions_len == 0
                ? mlt_worker_proceed(worker)
                : mlt_worker_next(worker, done, verdict, NULL, 0, me->actions, me->actions_len);
        done = 0;
        verdict = SMFIS_CONTINUE;
        me->actions_len = 0;
        if (count > 0) {
            if (given->start) {
                atomic_fetch_add(&it->asked, 1);
                if (!hire(it))
                    mlt_pool_lacks_thread(it->pool);
            }
            CHECK_INT(MLT_OK, given->status);
            while (done < (size_t)count && verdict == SMFIS_CONTINUE)
                verdict = handle(me, given, &given->events[done++]);
            if (verdict == ABANDON) {
                mlt_worker_abandon(worker);
                verdict = SMFIS_CONTINUE;
            }
            continue;
        }
        CHECK_INT(0, count);
        CHECK(!given->start);
        if (given->status == MLT_NOTICE) {
            CHECK(strstr(given->error, "cannot accept a connection") != NULL);
            atomic_fetch_add(&it->notices, 1);
        } else if (given->status == MLT_END) {
            session *of = &it->sessions[given->id];
            of->status = given->view->status;
            if (given->id == it->mourned)
                wait_at_gate(it, 9);
            CHECK_INT(0, atomic_exchange(&of->ended, 1));
            atomic_fetch_add(&it->ends, 1);
        } else {
            CHECK_INT(MLT_STOPPED, given->status);
            return;
        }
    }
}

static void *work(void *data)
{
    hand *me = data;
    mlt_worker *worker = mlt_worker_new(me->its->pool);
    if (worker == NULL) {
        mlt_pool_lacks_thread(me->its->pool);
        atomic_fetch_add(&me->its->stillborn, 1);
    } else {
        atomic_fetch_add(&me->its->born, 1);
        while (me->number > 0 && atomic_load(&me->its->lame))
            test_pause(1);
        serve(me, worker);
    }
    mlt_worker_free(worker);
    atomic_fetch_sub(&me->its->running, 1);
    return NULL;
}

/* ------------------------------------------------------------------------------------------ */
/* Opening and closing */

static const mlt_socket_options plain = {.backlog = 1000, .mode = -1, .owner = -1, .group = -1};

/* A server; what it is set to may still be changed. */
static house *prepare(void)
{
    house *it = &here;
    snprintf(it->path, sizeof it->path, "%s/socket", test_folder());
    it->server = mlt_server_new();
    REQUIRE(it->server != NULL);
    mlt_server_settings(it->server)->negotiate = false;
    it->filter = obey;
    it->options = (mlt_pool_options){.threads = 4, .active = 1, .threshold = 1, .bell = -1};
    pthread_mutex_init(&it->lock, NULL);
    pthread_cond_init(&it->change, NULL);
    return it;
}

static void open_pool(house *it)
{
    CHECK_INT(MLT_OK, mlt_server_open(it->server, it->path, &plain));
    CHECK_INT(MLT_OK, mlt_server_start(it->server));
    it->pool = mlt_pool_new(it->server, &it->options);
    REQUIRE(it->pool != NULL);
}

static void begin(house *it)
{
    open_pool(it);
    REQUIRE(hire(it));
}

static house *start_house(size_t threads, int64_t threshold)
{
    house *it = prepare();
    it->options.threads = threads;
    it->options.threshold = threshold;
    begin(it);
    return it;
}

static void stop(house *it)
{
    mlt_server_stop(it->server);
    mlt_pool_refuse(it->pool);
    mlt_server_close(it->server);
}

static int running(house *it)
{
    return atomic_load(&it->running);
}

static void join(house *it)
{
    WAIT_UNTIL(running(it) == 0);
    REQUIRE(running(it) == 0);
    for (int i = 0; i < it->hired; i++)
        pthread_join(it->hands[i].thread, NULL);
    it->hired = 0;
    CHECK_INT(0, mlt_pool_connections(it->pool));
    CHECK_INT(0, mlt_server_active(it->server));
    mlt_pool_free(it->pool);
}

static void end_house(house *it)
{
    stop(it);
    join(it);
    mlt_server_free(it->server);
}

static int hired(house *it)
{
    pthread_mutex_lock(&it->lock);
    int count = it->hired;
    pthread_mutex_unlock(&it->lock);
    return count;
}

static session *seen(house *it, int id)
{
    return &it->sessions[id];
}

static bool has_ended(house *it, int id)
{
    return atomic_load(&it->sessions[id].ended);
}

static int waiting_at(house *it, int gate)
{
    return atomic_load(&it->before[gate]);
}

/* ------------------------------------------------------------------------------------------ */
/* The MTA */

static int dial(const house *to)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct timeval patience = {ANSWER_SECONDS, 0};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    snprintf(address.sun_path, sizeof address.sun_path, "%s", to->path);
    REQUIRE(fd >= 0);
    REQUIRE(connect(fd, (struct sockaddr *)&address, sizeof address) == 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    return fd;
}

static bool put_bytes(int fd, const void *data, size_t len)
{
    return send(fd, data, len, MSG_NOSIGNAL) == (ssize_t)len;
}

/* Writes the packets of a script; false if the other side has gone. */
static bool put(int fd, const char *text)
{
    dialogue_script script;
    dialogue one = {.script = text, .raw = true};
    dialogue_parse(&one, &script);
    return put_bytes(fd, script.data, script.len);
}

/* A packet with this letter and text; its size. */
static size_t make(char *out, char letter, const char *text)
{
    size_t len = strlen(text) + 1;
    memcpy(out, "\0\0\0", 3);
    out[3] = (char)(len + 1);
    out[4] = letter;
    memcpy(out + 5, text, len);
    return 5 + len;
}

static bool put_text(int fd, char letter, const char *text)
{
    char packet[100];
    return put_bytes(fd, packet, make(packet, letter, text));
}

/* Tells the filter what to do, by an UNKNOWN. */
static bool say(int fd, const char *text)
{
    return put_text(fd, 'U', text);
}

/* Reads so many bytes; how many came. */
static size_t take(int fd, char *to, size_t len)
{
    size_t all = 0;
    while (all < len) {
        ssize_t got = recv(fd, to + all, len - all, 0);
        if (got <= 0)
            break;
        all += (size_t)got;
    }
    return all;
}

/* Reads `count` packets and returns their letters, "" for those that do not come. */
static const char *get(int fd, size_t count)
{
    static _Thread_local char letters[40];
    size_t found = 0;
    REQUIRE(count < sizeof letters);
    while (found < count) {
        unsigned char head[5];
        char rest[100];
        if (take(fd, (char *)head, 5) < 5)
            break;
        size_t left = ((size_t)head[2] << 8 | head[3]) - 1;
        if (left > sizeof rest || take(fd, rest, left) < left)
            break;
        letters[found++] = (char)head[4];
    }
    letters[found] = '\0';
    return letters;
}

/* Whether so many packets come, all of them CONTINUE. */
static bool hear(int fd, int count)
{
    for (; count > 0; count--) {
        if (strcmp(get(fd, 1), "c") != 0)
            return false;
    }
    return true;
}

/* Whether the other side has closed; waits for it to do or say something. */
static bool is_closed(int fd)
{
    char byte;
    ssize_t got = recv(fd, &byte, 1, 0);
    return got == 0 || (got < 0 && errno != EAGAIN);
}

/* Whether nothing has come so far. */
static bool is_silent(int fd)
{
    char byte;
    return recv(fd, &byte, 1, MSG_DONTWAIT | MSG_PEEK) < 0 && errno == EAGAIN;
}

static bool ask(int fd, const char *text)
{
    return say(fd, text) && hear(fd, 1);
}

/* A connection past its CONNECT. */
static int dial_in(const house *to)
{
    int fd = dial(to);
    CHECK(put(fd, "O C"));
    CHECK_TEXT("Oc", get(fd, 2));
    return fd;
}

/* When this returns the pool has been at all that was sent before, and waits for more; where one
 * thread does everything. */
static void let_settle(int fd)
{
    for (int i = 0; i < 3; i++)
        CHECK(ask(fd, "q"));
}

/* ------------------------------------------------------------------------------------------ */
/* Leaders */

/* While no callback blocks, one thread serves all connections; one more stands by. */
TEST(pool_one_leader)
{
    enum { CLIENTS = 40 };
    int clients[CLIENTS];
    house *it = start_house(4, NEVER);
    for (int i = 0; i < CLIENTS; i++)
        clients[i] = dial(it);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < CLIENTS; i++)
            CHECK(put(clients[i], round == 0 ? "O C H M R T L N B E" : "M R R T L L N B B E"));
        for (int i = 0; i < CLIENTS; i++)
            CHECK_TEXT(round == 0 ? "Occccccccc" : "cccccccccc", get(clients[i], 10));
    }
    WAIT_UNTIL(running(it) == 2);
    CHECK_INT(CLIENTS, mlt_pool_connections(it->pool));
    CHECK_INT(CLIENTS, mlt_server_active(it->server));
    for (int i = 0; i < CLIENTS; i++) {
        CHECK(put(clients[i], "Q"));
        CHECK(is_closed(clients[i]));
        close(clients[i]);
    }
    WAIT_UNTIL(mlt_pool_connections(it->pool) == 0);
    CHECK_INT(1, it->asked);
    CHECK_INT(2, hired(it));
    for (int i = 1; i <= CLIENTS; i++) {
        CHECK(has_ended(it, i));
        CHECK_INT(0, seen(it, i)->moves);
        CHECK_INT(MLT_OK, seen(it, i)->status);
        CHECK_INT(seen(it, 1)->hand, seen(it, i)->hand);
        CHECK_INT(9 + 10 + 10 + 1, seen(it, i)->events);
    }
    end_house(it);
}

/* A pool of one thread never asks for another; what blocks holds up everybody, for as long. */
TEST(pool_of_one_thread)
{
    house *it = start_house(1, 1);
    int one = dial_in(it);
    int two = dial_in(it);
    CHECK(say(one, "b0"));
    WAIT_UNTIL(waiting_at(it, 0) == 1);
    CHECK(say(two, "q"));
    test_pause(50);
    CHECK(is_silent(two));
    open_gate(it, 0);
    CHECK(hear(one, 1));
    CHECK(hear(two, 1));
    for (int i = 0; i < 100; i++)
        CHECK(ask(i % 2 == 0 ? one : two, "b0"));
    CHECK_INT(0, it->asked);
    close(one);
    close(two);
    end_house(it);
}

/* Until the thread that was asked for has come to rest no further one is asked for. */
TEST(pool_starts_one_thread_at_a_time)
{
    house *it = prepare();
    it->options.threshold = NEVER;
    atomic_store(&it->lame, true);
    begin(it);
    int one = dial_in(it);
    WAIT_UNTIL(atomic_load(&it->born) == 2);
    for (int i = 0; i < 20; i++)
        CHECK(ask(one, "q"));
    CHECK_INT(1, it->asked);
    atomic_store(&it->lame, false);
    close(one);
    end_house(it);
}

/* While a callback blocks another thread serves the others; the connection with the callback goes
 * on when it returns. */
TEST(pool_takeover)
{
    house *it = start_house(4, 1);
    int one = dial_in(it);
    int two = dial_in(it);
    CHECK(say(one, "b0"));
    WAIT_UNTIL(waiting_at(it, 0) == 1);
    CHECK(ask(two, "q"));
    int three = dial_in(it);
    CHECK(ask(three, "q"));
    CHECK_INT(1, waiting_at(it, 0));
    CHECK(is_silent(one));
    open_gate(it, 0);
    CHECK(hear(one, 1));
    CHECK(ask(one, "q"));
    close(one);
    close(two);
    close(three);
    WAIT_UNTIL(atomic_load(&it->ends) == 3);
    CHECK(seen(it, 1)->events == 4 && seen(it, 2)->events == 3 && seen(it, 3)->events == 3);
    end_house(it);
}

/* Likewise while the end of a connection takes its time: a log may be slow. */
TEST(pool_takeover_at_an_end)
{
    house *it = prepare();
    it->mourned = 1;
    begin(it);
    int one = dial_in(it);
    int two = dial_in(it);
    close(one);
    WAIT_UNTIL(waiting_at(it, 9) == 1);
    CHECK(ask(two, "q"));
    CHECK(!has_ended(it, 1));
    open_gate(it, 9);
    WAIT_UNTIL(has_ended(it, 1));
    CHECK_INT(MLT_OK, seen(it, 1)->status);
    close(two);
    end_house(it);
}

/* As long as nobody waits for the blocked thread it stays the leader. */
TEST(pool_no_takeover_for_nobody)
{
    house *it = start_house(4, 1);
    int one = dial_in(it);
    int two = dial_in(it);
    WAIT_UNTIL(running(it) == 2);
    CHECK(say(one, "b0"));
    WAIT_UNTIL(waiting_at(it, 0) == 1);
    test_pause(100);
    open_gate(it, 0);
    CHECK(hear(one, 1));
    CHECK(ask(two, "q"));
    CHECK(ask(one, "q"));
    /* One by one, and without a hang-up, which would wait to be read while the end is told: nobody
     * waits here either, even if the system keeps the thread from its work for a while. */
    CHECK(put(one, "Q"));
    WAIT_UNTIL(mlt_pool_connections(it->pool) == 1);
    CHECK(put(two, "Q"));
    WAIT_UNTIL(atomic_load(&it->ends) == 2);
    close(one);
    close(two);
    CHECK_INT(0, seen(it, 1)->moves);
    CHECK_INT(0, seen(it, 2)->moves);
    end_house(it);
}

/* After how many ms `other` has its answer while a callback of `blocker` blocks. */
static int64_t blocked_for(house *it, int blocker, int other, int gate)
{
    char text[] = {'b', (char)('0' + gate), '\0'};
    int64_t start = test_now();
    CHECK(say(blocker, text));
    WAIT_UNTIL(waiting_at(it, gate) == 1);
    CHECK(put(other, "H"));
    CHECK(hear(other, 1));
    int64_t time = test_now() - start;
    open_gate(it, gate);
    CHECK(hear(blocker, 1));
    return time;
}

/* The thread of a step that blocked lately gives up the lead before it goes there, so nobody waits
 * for the threshold; after 64 quick callbacks of that step it no longer does. */
TEST(pool_slow_step)
{
    enum { THRESHOLD = 800 };
    house *it = start_house(4, THRESHOLD);
    int one = dial_in(it);
    int two = dial_in(it);
    /* The watcher looks twice. */
    CHECK(blocked_for(it, one, two, 0) >= THRESHOLD / 2);
    /* A busy machine may take its time, but not every time. */
    bool ahead = false;
    for (int gate = 1; gate < 4 && !ahead; gate++)
        ahead = blocked_for(it, one, two, gate) < THRESHOLD;
    CHECK(ahead);
    for (int i = 0; i < 70; i++)
        CHECK(ask(one, "q"));
    CHECK(blocked_for(it, one, two, 4) >= THRESHOLD / 2);
    close(one);
    close(two);
    end_house(it);
}

/* That a thread which has just taken the lead gets more time goes for its first callback alone. */
TEST(pool_grace_is_for_the_first_callback)
{
    enum { THRESHOLD = 400 };
    char both[100];
    house *it = start_house(4, THRESHOLD);
    int one = dial_in(it);
    int two = dial_in(it);
    int three = dial_in(it);
    CHECK(put_text(one, 'H', "b0"));
    WAIT_UNTIL(waiting_at(it, 0) == 1);
    /* A callback over more than one look of the watcher, and at once another that blocks. */
    size_t len = make(both, 'U', "z700");
    len += make(both + len, 'U', "b1");
    CHECK(put_bytes(two, both, len));
    WAIT_UNTIL(waiting_at(it, 1) == 1);
    int64_t start = test_now();
    CHECK(ask(three, "q"));
    /* Two looks, and not twelve. */
    CHECK(test_now() - start < 10 * THRESHOLD);
    open_gate(it, 0);
    open_gate(it, 1);
    CHECK(hear(one, 1));
    CHECK(hear(two, 2));
    close(one);
    close(two);
    close(three);
    end_house(it);
}

static bool is_exhausted(house *it)
{
    return mlt_pool_take_exhausted(it->pool);
}

/* With all threads blocked and somebody waiting the pool says so after a while, by its bell, and
 * again after a minute; when one returns it goes on. */
TEST(pool_all_blocked)
{
    int bell[2];
    char byte;
    REQUIRE(pipe(bell) == 0);
    fcntl(bell[0], F_SETFL, O_NONBLOCK);
    house *it = prepare();
    it->options.threads = 2;
    it->options.bell = bell[1];
    begin(it);
    int one = dial_in(it);
    int two = dial_in(it);
    CHECK(say(one, "b0"));
    CHECK(say(two, "b1"));
    WAIT_UNTIL(waiting_at(it, 0) == 1 && waiting_at(it, 1) == 1);
    /* Nobody waits yet. */
    atomic_fetch_add(&hooks.clock_ahead, 10000);
    test_pause(50);
    CHECK(!is_exhausted(it));
    int64_t start = test_now();
    int three = dial(it);
    CHECK(put(three, "O C"));
    /* For a second that is no news. */
    test_pause(20);
    bool early = is_exhausted(it);
    CHECK(!early || test_now() - start >= 1000);
    atomic_fetch_add(&hooks.clock_ahead, 1100);
    WAIT_UNTIL(early || is_exhausted(it));
    WAIT_UNTIL(read(bell[0], &byte, 1) == 1); /* it is rung after that is noted */
    CHECK(is_silent(three));
    test_pause(50);
    CHECK(!is_exhausted(it));
    atomic_fetch_add(&hooks.clock_ahead, 60000);
    WAIT_UNTIL(is_exhausted(it));
    WAIT_UNTIL(read(bell[0], &byte, 1) == 1);
    CHECK_INT(-1, read(bell[0], &byte, 1));
    open_gate(it, 1);
    CHECK(hear(two, 1));
    CHECK_TEXT("Oc", get(three, 2));
    CHECK(ask(three, "q"));
    CHECK(is_silent(one));
    open_gate(it, 0);
    CHECK(hear(one, 1));
    CHECK_INT(2, hired(it));
    close(one);
    close(two);
    close(three);
    end_house(it);
    close(bell[0]);
    close(bell[1]);
}

static int with_permits(hand *me, session *of, mlt_view *view, const mlt_event *event)
{
    (void)view;
    if (event->step == MLT_STEP_MAIL) {
        take_permit(me->its);
        of->permit = true;
    } else if (event->step == MLT_STEP_EOM) {
        CHECK(of->permit);
        of->permit = false;
        give_permit(me->its);
    }
    return SMFIS_CONTINUE;
}

/* A semaphore that is taken in one callback and given back in a later one, with fewer permits than
 * connections: those who wait for it do not keep back those who are to give it back. */
TEST(pool_semaphore)
{
    enum { CLIENTS = 8, MESSAGES = 6 };
    int clients[CLIENTS];
    house *it = prepare();
    it->options.threads = 8;
    it->permits = 2;
    it->filter = with_permits;
    begin(it);
    for (int i = 0; i < CLIENTS; i++)
        clients[i] = dial_in(it);
    int sent[CLIENTS] = {0};
    int step[CLIENTS] = {0};
    int done = 0;
    for (int i = 0; i < CLIENTS; i++)
        CHECK(put(clients[i], "M"));
    int64_t end = test_now() + 60000;
    while (done < CLIENTS && test_now() < end) {
        for (int i = 0; i < CLIENTS; i++) {
            char head[5];
            if (sent[i] == MESSAGES ||
                recv(clients[i], head, sizeof head, MSG_DONTWAIT) != (ssize_t)sizeof head)
                continue;
            CHECK_INT('c', head[4]);
            step[i] = (step[i] + 1) % 3;
            sent[i] += step[i] == 0;
            done += sent[i] == MESSAGES;
            if (sent[i] < MESSAGES)
                CHECK(put(clients[i], step[i] == 0 ? "M" : step[i] == 1 ? "R" : "E"));
        }
        test_pause(1);
    }
    CHECK_INT(CLIENTS, done);
    CHECK_INT(2, it->permits);
    for (int i = 0; i < CLIENTS; i++)
        close(clients[i]);
    end_house(it);
}

/* With more than one active thread two run callbacks at once without either being blocked. */
TEST(pool_several_leaders)
{
    house *it = prepare();
    it->options.threads = 4;
    it->options.active = 3;
    it->options.threshold = NEVER;
    begin(it);
    int clients[4];
    for (int i = 0; i < 4; i++)
        clients[i] = dial_in(it);
    /* What comes meanwhile is found together. */
    CHECK(say(clients[3], "b0"));
    WAIT_UNTIL(waiting_at(it, 0) == 1);
    for (int i = 0; i < 3; i++)
        CHECK(say(clients[i], "m3"));
    open_gate(it, 0);
    for (int i = 0; i < 4; i++)
        CHECK(hear(clients[i], 1));
    /* And with nothing to do for some of them all goes on. */
    for (int i = 0; i < 200; i++)
        CHECK(ask(clients[i % 4], "q"));
    for (int i = 0; i < 4; i++)
        close(clients[i]);
    WAIT_UNTIL(mlt_pool_connections(it->pool) == 0);
    end_house(it);
}

/* ------------------------------------------------------------------------------------------ */
/* Order */

static int number_in(const mlt_event *event)
{
    char text[20] = "";
    memcpy(text, event->data, event->len < sizeof text ? event->len : sizeof text - 1);
    return atoi(text + 1);
}

/* Of each connection: its UNKNOWNs are numbered. */
static int in_order(hand *me, session *of, mlt_view *view, const mlt_event *event)
{
    if (event->step == MLT_STEP_UNKNOWN && event->data[0] == 'n') {
        CHECK_INT(of->events - 1, number_in(event));
        return SMFIS_CONTINUE;
    }
    return obey(me, of, view, event);
}

/* Sends `count` numbered UNKNOWNs after the CONNECT in one go. */
static void put_numbers(int fd, int count)
{
    static char all[100000];
    size_t len = 0;
    for (int i = 1; i <= count; i++) {
        char text[20];
        snprintf(text, sizeof text, "n%d", i);
        len += make(all + len, 'U', text);
        REQUIRE(len < sizeof all - 100);
    }
    CHECK(put_bytes(fd, all, len));
}

/* A connection that sends without waiting is served in order, and does not keep the others from
 * being served: of it 16 batches at most come before theirs. */
TEST(pool_fairness)
{
    enum { MANY = 3000 };
    house *it = prepare();
    it->filter = in_order;
    it->options.threads = 1;
    begin(it);
    int greedy = dial_in(it);
    int modest = dial_in(it);
    int blocker = dial_in(it);
    CHECK(say(blocker, "b0"));
    WAIT_UNTIL(waiting_at(it, 0) == 1);
    put_numbers(greedy, MANY);
    CHECK(say(modest, "q"));
    int before = atomic_load(&it->events);
    open_gate(it, 0);
    CHECK(hear(modest, 1));
    /* The blocker's, the modest one's, and what was served after that, which is not much, because
     * the greedy one does not read: its answers fill its socket. */
    CHECK(hear(greedy, MANY));
    CHECK(before <= 5);
    for (int i = 0; i < 50; i++)
        CHECK(ask(modest, "q"));
    close(greedy);
    close(modest);
    close(blocker);
    WAIT_UNTIL(atomic_load(&it->ends) == 3);
    CHECK_INT(MANY + 2, seen(it, 1)->events);
    end_house(it);
}

/* Where the modest one's event came in the row of all. */
static atomic_int place;
static int note_place(hand *me, session *of, mlt_view *view, const mlt_event *event)
{
    if (event->step == MLT_STEP_UNKNOWN && event->data[0] == 'w')
        atomic_store(&place, atomic_load(&me->its->events));
    return obey(me, of, view, event);
}

TEST(pool_turns_are_short)
{
    house *it = prepare();
    it->filter = note_place;
    it->options.threads = 1;
    begin(it);
    int greedy = dial_in(it);
    int modest = dial_in(it);
    int blocker = dial_in(it);
    CHECK(say(blocker, "b0"));
    WAIT_UNTIL(waiting_at(it, 0) == 1);
    put_numbers(greedy, 500);
    CHECK(say(modest, "w"));
    int before = atomic_load(&it->events);
    open_gate(it, 0);
    CHECK(hear(modest, 1));
    CHECK(hear(greedy, 500));
    CHECK(atomic_load(&place) - before <= 1 + 16);
    /* And for those that come while it is being served. */
    CHECK(put_text(blocker, 'H', "b1"));
    WAIT_UNTIL(waiting_at(it, 1) == 1);
    put_numbers(greedy, 500);
    open_gate(it, 1);
    CHECK(hear(greedy, 1));
    before = atomic_load(&it->events);
    CHECK(ask(modest, "w"));
    CHECK(hear(greedy, 499));
    close(greedy);
    close(modest);
    close(blocker);
    end_house(it);
}

/* A connection that had its turn and has more goes on also where the thread that served it is no
 * longer the leader, and the leader has nothing else to do. */
TEST(pool_turn_of_a_detached_thread)
{
    house *it = start_house(2, 1);
    int one = dial_in(it);
    int two = dial_in(it);
    char packets[1000];
    size_t len = make(packets, 'U', "b0");
    for (int i = 0; i < 60; i++)
        len += make(packets + len, 'U', "q");
    CHECK(put_bytes(one, packets, len));
    WAIT_UNTIL(waiting_at(it, 0) == 1);
    CHECK(ask(two, "q"));
    test_pause(20); /* so that the other thread waits for more */
    open_gate(it, 0);
    CHECK(hear(one, 61));
    close(one);
    close(two);
    end_house(it);
}

/* ------------------------------------------------------------------------------------------ */
/* Times */

/* A connection that says nothing for too long ends, and not before; any packet starts the time
 * anew. */
TEST(pool_idle_timeout)
{
    house *it = prepare();
    mlt_server_settings(it->server)->idle_timeout = 60000;
    it->options.threads = 1;
    begin(it);
    int idle = dial_in(it);
    int other = dial_in(it);
    let_settle(other);
    atomic_fetch_add(&hooks.clock_ahead, 40000);
    let_settle(other);
    CHECK(ask(idle, "q"));
    let_settle(other);
    atomic_fetch_add(&hooks.clock_ahead, 40000);
    let_settle(other);
    CHECK(!has_ended(it, 1));
    CHECK(is_silent(idle));
    CHECK(ask(idle, "q"));
    CHECK(ask(idle, "q"));
    let_settle(other);
    atomic_fetch_add(&hooks.clock_ahead, 61000);
    CHECK(say(other, "q"));
    CHECK(is_closed(idle));
    WAIT_UNTIL(has_ended(it, 1));
    CHECK_INT(MLT_ERR_TIMEOUT, seen(it, 1)->status);
    close(idle);
    close(other);
    end_house(it);
}

/* Without time to wait, whoever says nothing at once is gone. */
TEST(pool_idle_timeout_of_nothing)
{
    house *it = prepare();
    mlt_server_settings(it->server)->idle_timeout = 0;
    it->options.threads = 1;
    begin(it);
    int idle = dial(it);
    CHECK(is_closed(idle));
    WAIT_UNTIL(has_ended(it, 1));
    CHECK_INT(MLT_ERR_TIMEOUT, seen(it, 1)->status);
    close(idle);
    end_house(it);
}

/* Without a limit a connection stays for a year. */
TEST(pool_no_timeouts)
{
    house *it = prepare();
    mlt_settings *settings = mlt_server_settings(it->server);
    settings->idle_timeout = settings->packet_timeout = settings->write_timeout = -1;
    it->options.threads = 1;
    begin(it);
    int idle = dial_in(it);
    int half = dial_in(it);
    int other = dial_in(it);
    CHECK(put_bytes(half, "\0\0", 2));
    let_settle(other);
    atomic_fetch_add(&hooks.clock_ahead, 365L * 86400 * 1000);
    let_settle(other);
    CHECK(put_bytes(half, "\0\3Uq", 5));
    CHECK(hear(half, 1));
    CHECK(ask(idle, "q"));
    close(idle);
    close(half);
    close(other);
    end_house(it);
}

/* A packet that has begun must come to its end in time; each packet has its own time, also where
 * there is never a moment without one. */
TEST(pool_packet_timeout)
{
    house *it = prepare();
    mlt_server_settings(it->server)->packet_timeout = 60000;
    it->options.threads = 1;
    begin(it);
    int slow = dial_in(it);
    int other = dial_in(it);
    CHECK(put_bytes(slow, "\0", 1));
    for (int i = 0; i < 4; i++) {
        let_settle(other);
        atomic_fetch_add(&hooks.clock_ahead, 50000);
        let_settle(other);
        /* The rest, and the beginning of the next. */
        CHECK(put_bytes(slow, "\0\0\3Uq\0\0", 7));
        CHECK(hear(slow, 1));
    }
    let_settle(other);
    /* Some of it comes, but not the end. */
    atomic_fetch_add(&hooks.clock_ahead, 30000);
    let_settle(other);
    CHECK(put_bytes(slow, "\0", 1));
    let_settle(other);
    CHECK(!has_ended(it, 1));
    atomic_fetch_add(&hooks.clock_ahead, 31000);
    CHECK(say(other, "q"));
    CHECK(is_closed(slow));
    WAIT_UNTIL(has_ended(it, 1));
    CHECK_INT(MLT_ERR_TIMEOUT, seen(it, 1)->status);
    close(slow);
    close(other);
    end_house(it);
}

/* And when more of it comes too late. */
TEST(pool_packet_timeout_with_bytes)
{
    house *it = prepare();
    mlt_server_settings(it->server)->packet_timeout = 60000;
    it->options.threads = 1;
    begin(it);
    int slow = dial_in(it);
    int other = dial_in(it);
    CHECK(put_bytes(slow, "\0", 1));
    let_settle(other);
    CHECK(say(other, "b0"));
    WAIT_UNTIL(waiting_at(it, 0) == 1);
    atomic_fetch_add(&hooks.clock_ahead, 61000);
    CHECK(put_bytes(slow, "\0", 1));
    open_gate(it, 0);
    CHECK(is_closed(slow));
    WAIT_UNTIL(has_ended(it, 1));
    CHECK_INT(MLT_ERR_TIMEOUT, seen(it, 1)->status);
    close(slow);
    close(other);
    end_house(it);
}

/* The time begins when the connection begins to wait, not when the thread last looked: callbacks
 * may take longer than a time-out. */
TEST(pool_time_begins_with_waiting)
{
    house *it = prepare();
    mlt_settings *settings = mlt_server_settings(it->server);
    settings->idle_timeout = 60000;
    settings->packet_timeout = 60000;
    it->options.threads = 1;
    begin(it);
    int one = dial_in(it);
    int two = dial_in(it);
    let_settle(two);
    CHECK(ask(one, "j61000"));
    /* Each of these has the pool look at the time. `two` may have run into its own time-out. */
    int three = dial_in(it);
    let_settle(three);
    CHECK(!has_ended(it, 1));
    CHECK(ask(one, "q"));
    /* Likewise with the beginning of a packet behind. */
    CHECK(put_bytes(one, "\0\0\0\10Uj61000\0\0\0\0\3", 16));
    CHECK(hear(one, 1));
    int four = dial_in(it);
    let_settle(four);
    CHECK(!has_ended(it, 1));
    CHECK(put_bytes(one, "Uq", 3));
    CHECK(hear(one, 1));
    close(one);
    close(two);
    close(three);
    close(four);
    end_house(it);
}

/* What begins to wait while another thread is waiting for something later, or for nothing, ends in
 * time. */
TEST(pool_deadline_during_a_wait)
{
    house *it = prepare();
    mlt_settings *settings = mlt_server_settings(it->server);
    settings->idle_timeout = -1;
    settings->packet_timeout = 200;
    begin(it);
    int one = dial_in(it);
    int two = dial_in(it);
    char packets[100];
    size_t len = make(packets, 'U', "b0");
    len += make(packets + len, 'U', "q");
    CHECK(put_bytes(one, packets, len - 1));
    WAIT_UNTIL(waiting_at(it, 0) == 1);
    CHECK(ask(two, "q"));
    test_pause(20);
    open_gate(it, 0);
    CHECK(hear(one, 1));
    CHECK(is_closed(one));
    WAIT_UNTIL(has_ended(it, 1));
    CHECK_INT(MLT_ERR_TIMEOUT, seen(it, 1)->status);
    close(one);
    close(two);
    end_house(it);
}

/* Where bytes have come by the time that a connection is ended for its silence, it is not: there
 * may be more connections ready than one look at them brings. */
TEST(pool_bytes_before_the_deadline)
{
    enum { CLIENTS = 400 };
    static int clients[CLIENTS];
    house *it = prepare();
    mlt_server_settings(it->server)->idle_timeout = 60000;
    mlt_server_settings(it->server)->packet_timeout = 120000;
    it->options.threads = 1;
    begin(it);
    for (int i = 0; i < CLIENTS; i++)
        clients[i] = dial_in(it);
    let_settle(clients[0]);
    CHECK(say(clients[0], "b0"));
    WAIT_UNTIL(waiting_at(it, 0) == 1);
    for (int i = 1; i < CLIENTS; i++)
        CHECK(put_bytes(clients[i], "\0\0\0", 3));
    atomic_fetch_add(&hooks.clock_ahead, 60500);
    open_gate(it, 0);
    CHECK(hear(clients[0], 1));
    let_settle(clients[0]);
    int answered = 0;
    for (int i = 1; i < CLIENTS; i++)
        answered += put_bytes(clients[i], "\3Uq", 4) && hear(clients[i], 1);
    CHECK_INT(CLIENTS - 1, answered);
    CHECK_INT(0, it->ends);
    for (int i = 0; i < CLIENTS; i++)
        close(clients[i]);
    end_house(it);
}

/* ------------------------------------------------------------------------------------------ */
/* An MTA that does not read */

/* Reads away so many mebibytes of PROGRESS; false if something else comes. */
static bool drain(int fd, int mebibytes)
{
    static _Thread_local char data[13107 * 5];
    for (int i = 0; i < mebibytes * 16; i++) {
        if (take(fd, data, sizeof data) < sizeof data)
            return false;
        for (size_t at = 0; at < sizeof data; at += 5) {
            if (memcmp(data + at, "\0\0\0\1p", 5) != 0)
                return false;
        }
    }
    return true;
}

/* What an MTA does not read holds up nobody; when it reads, all comes in order, and then the
 * packets that it has sent meanwhile are answered. */
TEST(pool_mta_that_does_not_read)
{
    house *it = start_house(1, 1);
    int deaf = dial_in(it);
    int other = dial_in(it);
    CHECK(say(deaf, "p8"));
    CHECK(say(deaf, "p1"));
    CHECK(say(deaf, "r"));
    CHECK(say(deaf, "q"));
    for (int i = 0; i < 50; i++)
        CHECK(ask(other, "q"));
    CHECK(drain(deaf, 8));
    CHECK_TEXT("c", get(deaf, 1));
    CHECK(ask(other, "q"));
    CHECK(drain(deaf, 1));
    CHECK_TEXT("crc", get(deaf, 3));
    CHECK(ask(deaf, "q"));
    close(deaf);
    close(other);
    WAIT_UNTIL(atomic_load(&it->ends) == 2);
    CHECK_INT(MLT_OK, seen(it, 1)->status);
    end_house(it);
}

/* More than 64 MiB may not wait, else a filter could fill the memory. */
TEST(pool_limit_of_what_waits)
{
    house *it = start_house(1, 1);
    int deaf = dial_in(it);
    int other = dial_in(it);
    CHECK(say(deaf, "p200"));
    WAIT_UNTIL(atomic_load(&it->sent) == MLT_ERR_LIMIT);
    CHECK(ask(other, "q"));
    WAIT_UNTIL(has_ended(it, 1));
    CHECK_INT(MLT_ERR_LIMIT, seen(it, 1)->status);
    CHECK_TEXT("connect unknown close", seen(it, 1)->story);
    close(deaf);
    close(other);
    end_house(it);
}

/* Where the MTA does read, a filter may send any amount with one answer. */
TEST(pool_large_answer)
{
    static char data[MEBIBYTE];
    house *it = start_house(1, 1);
    int one = dial_in(it);
    CHECK(say(one, "a80"));
    for (int i = 0; i < 80; i++)
        REQUIRE(take(one, data, sizeof data) == sizeof data);
    CHECK(hear(one, 1));
    CHECK(ask(one, "q"));
    close(one);
    WAIT_UNTIL(has_ended(it, 1));
    CHECK_INT(MLT_OK, seen(it, 1)->status);
    end_house(it);
}

/* An MTA that does not read for too long is given up; the time begins anew whenever it reads
 * something. */
TEST(pool_write_timeout)
{
    static char data[4 * MEBIBYTE];
    house *it = prepare();
    mlt_server_settings(it->server)->write_timeout = 60000;
    mlt_server_settings(it->server)->idle_timeout = -1;
    it->options.threads = 1;
    begin(it);
    int deaf = dial_in(it);
    int other = dial_in(it);
    CHECK(say(deaf, "p16"));
    for (int i = 0; i < 2; i++) {
        let_settle(other);
        atomic_fetch_add(&hooks.clock_ahead, 40000);
        let_settle(other);
        CHECK(!has_ended(it, 1));
        REQUIRE(take(deaf, data, sizeof data) == sizeof data);
    }
    let_settle(other);
    atomic_fetch_add(&hooks.clock_ahead, 61000);
    let_settle(other);
    WAIT_UNTIL(has_ended(it, 1));
    CHECK_INT(MLT_ERR_TIMEOUT, seen(it, 1)->status);
    CHECK_TEXT("connect unknown close", seen(it, 1)->story);
    close(deaf);
    close(other);
    end_house(it);
}

/* An MTA that hangs up instead of reading. */
TEST(pool_hangs_up_instead_of_reading)
{
    house *it = start_house(1, 1);
    int deaf = dial_in(it);
    CHECK(put(deaf, "H M"));
    CHECK(hear(deaf, 2));
    CHECK(say(deaf, "p8"));
    int other = dial_in(it);
    let_settle(other);
    close(deaf);
    WAIT_UNTIL(has_ended(it, 1));
    CHECK_INT(MLT_ERR_IO, seen(it, 1)->status);
    CHECK_TEXT("connect helo envfrom unknown abort close", seen(it, 1)->story);
    close(other);
    end_house(it);
}

/* Answers that the engine gives by itself wait for the MTA, too, and none is lost by a goodbye
 * behind them. */
TEST(pool_own_answers_wait)
{
    enum { MANY = 20000 };
    static char packets[MANY * 7 + 5];
    size_t len = 0;
    house *it = prepare();
    mlt_server_settings(it->server)->unwanted = 1 << MLT_STEP_UNKNOWN;
    it->options.threads = 1;
    begin(it);
    int deaf = dial_in(it);
    int other = dial_in(it);
    for (int i = 0; i < MANY; i++)
        len += make(packets + len, 'U', "q");
    memcpy(packets + len, "\0\0\0\1Q", 5);
    len += 5;
    /* It does not wait for answers, and neither for there being room for all. */
    fcntl(deaf, F_SETFL, O_NONBLOCK);
    size_t sent = 0;
    for (int pauses = 0; sent < len && pauses < 100;) {
        ssize_t done = send(deaf, packets + sent, len - sent, MSG_NOSIGNAL);
        sent += done > 0 ? (size_t)done : 0;
        if (done < 0) {
            CHECK(put(other, "H"));
            CHECK(hear(other, 1));
            pauses++;
        }
    }
    fcntl(deaf, F_SETFL, 0);
    int answers = 0;
    while (answers < MANY && hear(deaf, 1)) {
        answers++;
        if (sent < len) {
            ssize_t done = send(deaf, packets + sent, len - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
            sent += done > 0 ? (size_t)done : 0;
        }
    }
    CHECK_INT(len, sent);
    CHECK_INT(MANY, answers);
    CHECK(is_closed(deaf));
    close(deaf);
    close(other);
    end_house(it);
}

/* Wants no answer to unknown commands. */
static int quiet(hand *me, session *of, mlt_view *view, const mlt_event *event)
{
    if (event->step == MLT_STEP_NEGOTIATE)
        view->protocol = SMFIP_NR_UNKN;
    return obey(me, of, view, event);
}

/* An answer is not held up for longer than a tenth of a millisecond by callbacks that need none. */
TEST(pool_answer_before_quiet_callbacks)
{
    house *it = prepare();
    mlt_server_settings(it->server)->negotiate = true;
    it->filter = quiet;
    it->options.threads = 1;
    it->options.threshold = NEVER;
    begin(it);
    int blocker = dial_in(it);
    int asking = dial_in(it);
    int busy = dial_in(it);
    int last = dial_in(it);
    CHECK(put_text(blocker, 'H', "b0"));
    WAIT_UNTIL(waiting_at(it, 0) == 1);
    CHECK(put_text(asking, 'H', "q"));
    CHECK(say(busy, "z5"));
    CHECK(say(last, "b1"));
    open_gate(it, 0);
    WAIT_UNTIL(waiting_at(it, 1) == 1);
    CHECK(hear(asking, 1));
    CHECK_INT(1, waiting_at(it, 1));
    open_gate(it, 1);
    CHECK(hear(blocker, 1));
    close(blocker);
    close(asking);
    close(busy);
    close(last);
    end_house(it);
}

/* ------------------------------------------------------------------------------------------ */
/* Ends */

static int64_t cpu_ms(void)
{
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return (int64_t)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1000 +
           (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1000;
}

/* While a blocked callback has its connection, neither a hang-up nor more packets of its MTA keep
 * the leader busy; both are found when the callback has returned. */
TEST(pool_hang_up_during_a_callback)
{
    house *it = start_house(4, 1);
    int one = dial_in(it);
    int two = dial_in(it);
    int three = dial_in(it);
    CHECK(put(one, "H M"));
    CHECK(hear(one, 2));
    CHECK(say(one, "b0"));
    CHECK(say(two, "b0"));
    WAIT_UNTIL(waiting_at(it, 0) == 2);
    CHECK(ask(three, "q"));
    close(one);
    CHECK(say(two, "q"));
    CHECK(say(two, "r"));
    CHECK(ask(three, "q"));
    int64_t used = cpu_ms();
    int64_t start = test_now();
    test_pause(300);
    CHECK(cpu_ms() - used < (test_now() - start) / 2);
    CHECK(ask(three, "q"));
    CHECK(!has_ended(it, 1));
    open_gate(it, 0);
    CHECK_TEXT("ccr", get(two, 3));
    WAIT_UNTIL(has_ended(it, 1));
    CHECK_TEXT("connect helo envfrom unknown abort close", seen(it, 1)->story);
    CHECK(ask(two, "q"));
    close(two);
    close(three);
    end_house(it);
}

/* A stop ends who is between messages, lets messages finish, and waits for blocked callbacks. */
TEST(pool_stop)
{
    house *it = start_house(4, 1);
    int idle = dial_in(it);
    int fresh = dial(it);
    int inside = dial_in(it);
    int blocked = dial_in(it);
    CHECK(put(inside, "H M"));
    CHECK(hear(inside, 2));
    CHECK(put(blocked, "M"));
    CHECK(hear(blocked, 1));
    CHECK(say(blocked, "b0"));
    WAIT_UNTIL(waiting_at(it, 0) == 1);
    int other = dial_in(it);
    stop(it);
    CHECK(is_closed(idle));
    CHECK(is_closed(fresh));
    CHECK(is_closed(other));
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", it->path);
    int late = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK_INT(-1, connect(late, (struct sockaddr *)&address, sizeof address));
    close(late);
    for (int i = 0; i < 4; i++) {
        static const char *const rest[] = {"R", "N", "B", "E"};
        CHECK(put(inside, rest[i]));
        CHECK(hear(inside, 1));
    }
    CHECK(is_closed(inside));
    WAIT_UNTIL(mlt_pool_connections(it->pool) == 1);
    open_gate(it, 0);
    CHECK(hear(blocked, 1));
    CHECK(put(blocked, "R"));
    CHECK(hear(blocked, 1));
    CHECK(put(blocked, "E"));
    CHECK(hear(blocked, 1));
    CHECK(is_closed(blocked));
    join(it);
    CHECK_TEXT("connect helo envfrom envrcpt eoh body eom close", seen(it, 3)->story);
    CHECK_TEXT("connect envfrom unknown envrcpt eom close", seen(it, 4)->story);
    for (int i = 1; i <= 5; i++)
        CHECK_INT(MLT_OK, seen(it, i)->status);
    close(idle);
    close(fresh);
    close(inside);
    close(blocked);
    close(other);
    mlt_server_free(it->server);
}

/* The last connection ends in a thread that had been blocked, while another waits for nothing any
 * more: both return. */
TEST(pool_stop_ends_all_threads)
{
    house *it = start_house(3, 1);
    int one = dial_in(it);
    int two = dial_in(it);
    CHECK(say(one, "b0"));
    WAIT_UNTIL(waiting_at(it, 0) == 1);
    CHECK(ask(two, "q"));
    stop(it);
    CHECK(is_closed(two));
    WAIT_UNTIL(mlt_pool_connections(it->pool) == 1);
    test_pause(20); /* so that the leader waits */
    CHECK_INT(2, running(it) - (hired(it) - 2));
    open_gate(it, 0);
    CHECK(hear(one, 1));
    CHECK(is_closed(one));
    join(it);
    close(one);
    close(two);
    mlt_server_free(it->server);
}

/* A stop with nobody there; with a connection that nobody has accepted; more than once. */
TEST(pool_stop_of_an_idle_pool)
{
    house *it = start_house(4, 1);
    stop(it);
    stop(it);
    join(it);
    CHECK_INT(MLT_OK, mlt_server_open(it->server, it->path, &plain));
    CHECK_INT(MLT_OK, mlt_server_start(it->server));
    /* Before there is a pool: it has nothing to do, and says so at once. */
    mlt_server_stop(it->server);
    it->pool = mlt_pool_new(it->server, &it->options);
    REQUIRE(it->pool != NULL);
    REQUIRE(hire(it));
    end_house(it);
}

/* A cut ends all at once: with abort and an error inside a message, in order outside; callbacks
 * that block return first. */
TEST(pool_cut)
{
    house *it = start_house(4, 1);
    int idle = dial_in(it);
    int inside = dial_in(it);
    int half = dial_in(it);
    int blocked = dial_in(it);
    int deaf = dial_in(it);
    CHECK(put(inside, "H M R"));
    CHECK(hear(inside, 3));
    CHECK(put(half, "{00 00}"));
    CHECK(put(blocked, "M"));
    CHECK(hear(blocked, 1));
    CHECK(say(deaf, "p8"));
    CHECK(say(blocked, "b0"));
    WAIT_UNTIL(waiting_at(it, 0) == 1);
    let_settle(idle);
    mlt_server_stop(it->server);
    mlt_pool_refuse(it->pool);
    mlt_server_cut(it->server);
    mlt_server_cut(it->server);
    mlt_server_close(it->server);
    CHECK(is_closed(idle));
    CHECK(is_closed(inside));
    CHECK(is_closed(half));
    WAIT_UNTIL(mlt_pool_connections(it->pool) == 1);
    CHECK(is_closed(blocked));
    open_gate(it, 0);
    join(it);
    static const struct {
        const char *story;
        int status;
    } rows[] = {
        {"connect unknown unknown unknown close", MLT_OK},
        {"connect helo envfrom envrcpt abort close", MLT_STOPPED},
        {"connect close", MLT_STOPPED},
        {"connect envfrom unknown abort close", MLT_STOPPED},
        {"connect unknown close", MLT_STOPPED},
    };
    for (int i = 0; i < 5; i++) {
        CHECK_TEXT(rows[i].story, seen(it, i + 1)->story);
        CHECK_INT(rows[i].status, seen(it, i + 1)->status);
    }
    close(idle);
    close(inside);
    close(half);
    close(blocked);
    close(deaf);
    mlt_server_free(it->server);
}

/* After a stop the same server starts again with a new pool. */
TEST(pool_restart)
{
    house *it = start_house(4, 1);
    for (int round = 0;; round++) {
        int first = round * 2 + 1;
        int one = dial_in(it);
        int two = dial_in(it);
        CHECK(say(one, "b0"));
        CHECK(ask(two, "q"));
        open_gate(it, 0);
        CHECK(hear(one, 1));
        stop(it);
        CHECK(is_closed(one));
        CHECK(is_closed(two));
        join(it);
        CHECK(has_ended(it, first) && has_ended(it, first + 1));
        close(one);
        close(two);
        if (round == 2)
            break;
        it->open[0] = false;
        begin(it);
    }
    mlt_server_free(it->server);
}

/* A pool with a callback that has not returned when the next pool begins has nothing to do with
 * it, accepts nothing, and ends when that callback has returned. */
TEST(pool_restart_with_a_straggler)
{
    house *it = start_house(3, 1);
    int one = dial_in(it);
    int two = dial_in(it);
    CHECK(say(one, "b0"));
    CHECK(ask(two, "q"));
    WAIT_UNTIL(waiting_at(it, 0) == 1);
    stop(it);
    CHECK(is_closed(two));
    WAIT_UNTIL(mlt_pool_connections(it->pool) == 1);
    mlt_server_cut(it->server);
    mlt_pool *old = it->pool;
    CHECK_INT(MLT_OK, mlt_server_open(it->server, it->path, &plain));
    CHECK_INT(MLT_OK, mlt_server_start(it->server));
    mlt_pool_options options = it->options;
    mlt_pool *new = mlt_pool_new(it->server, &options);
    REQUIRE(new != NULL);
    int three = dial(it);
    CHECK(put(three, "O C"));
    open_gate(it, 0);
    WAIT_UNTIL(running(it) == 0);
    REQUIRE(running(it) == 0);
    CHECK_INT(0, mlt_pool_connections(old));
    CHECK(is_silent(three));
    for (int i = 0; i < it->hired; i++)
        pthread_join(it->hands[i].thread, NULL);
    it->hired = 0;
    mlt_pool_free(old);
    it->pool = new;
    REQUIRE(hire(it));
    CHECK_TEXT("Oc", get(three, 2));
    close(one);
    close(two);
    close(three);
    end_house(it);
}

/* ------------------------------------------------------------------------------------------ */
/* Accepting */

/* At the limit of connections the next ones wait until others have ended. */
TEST(pool_connection_limit)
{
    house *it = prepare();
    mlt_server_settings(it->server)->connections = 2;
    begin(it);
    int clients[6];
    for (int i = 0; i < 6; i++) {
        clients[i] = dial(it);
        CHECK(put(clients[i], "O C"));
    }
    for (int i = 0; i < 6; i++) {
        CHECK_TEXT("Oc", get(clients[i], 2));
        if (i + 1 < 6)
            CHECK(ask(clients[i], "q"));
        if (i + 2 < 6)
            CHECK(is_silent(clients[i + 2]));
        CHECK(mlt_server_active(it->server) <= 2);
        if (i > 0)
            close(clients[i - 1]);
    }
    close(clients[5]);
    WAIT_UNTIL(atomic_load(&it->ends) == 6);
    end_house(it);
}

/* The limit is the server's; the pool notices, too, when it is another's connection that ends. */
TEST(pool_room_made_by_others)
{
    int pairs[2][2];
    mlt_connection *others[2];
    house *it = prepare();
    mlt_server_settings(it->server)->connections = 1;
    for (int i = 0; i < 2; i++) {
        others[i] = mlt_connection_new(it->server);
        REQUIRE(others[i] != NULL);
        REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, pairs[i]) == 0);
    }
    CHECK_INT(MLT_OK, mlt_connection_adopt(others[0], pairs[0][0]));
    begin(it);
    int one = dial(it);
    CHECK(put(one, "O C"));
    test_pause(50);
    CHECK(is_silent(one));
    mlt_connection_free(others[0]);
    CHECK_TEXT("Oc", get(one, 2));
    /* When the pool's connection ends there is no room for the next, because of another again. */
    CHECK_INT(MLT_OK, mlt_connection_adopt(others[1], pairs[1][0]));
    int two = dial(it);
    CHECK(put(two, "O C"));
    close(one);
    WAIT_UNTIL(has_ended(it, 2));
    test_pause(50);
    CHECK(is_silent(two));
    mlt_connection_free(others[1]);
    CHECK_TEXT("Oc", get(two, 2));
    close(two);
    close(pairs[0][1]);
    close(pairs[1][1]);
    end_house(it);
}

/* Row 189: when accept() fails it is said once, and again after a minute; it is left alone more and
 * more; connections that are there go on; and new ones are served as soon as it works again. */
TEST(pool_accept_fails)
{
    house *it = start_house(2, 1);
    int one = dial_in(it);
    atomic_store(&hooks.accept_calls, 0);
    atomic_store(&hooks.accept_error, EMFILE);
    int two = dial(it);
    CHECK(put(two, "O C"));
    WAIT_UNTIL(atomic_load(&hooks.accept_calls) >= 3);
    CHECK(ask(one, "q"));
    int64_t start = test_now();
    test_pause(400);
    CHECK(atomic_load(&hooks.accept_calls) < 20 + (test_now() - start) / 100);
    WAIT_UNTIL(atomic_load(&it->notices) == 1);
    atomic_fetch_add(&hooks.clock_ahead, 61000);
    CHECK(ask(one, "q"));
    WAIT_UNTIL(atomic_load(&it->notices) == 2);
    CHECK(is_silent(two));
    atomic_store(&hooks.accept_error, 0);
    CHECK_TEXT("Oc", get(two, 2));
    CHECK_INT(2, it->notices);
    /* Then it fails again, and the pool stops. */
    atomic_store(&hooks.accept_error, ENFILE);
    int three = dial(it);
    int calls = (int)atomic_load(&hooks.accept_calls);
    WAIT_UNTIL(atomic_load(&hooks.accept_calls) > calls);
    close(one);
    close(two);
    end_house(it);
    close(three);
}

/* What fails because of the connection that was to be accepted is no failure. */
TEST(pool_accept_of_nothing)
{
    static const int codes[] = {ECONNABORTED, EINTR, EAGAIN};
    house *it = start_house(2, 1);
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
        atomic_store(&hooks.accept_error, codes[i]);
        int calls = (int)atomic_load(&hooks.accept_calls);
        int one = dial(it);
        WAIT_UNTIL(atomic_load(&hooks.accept_calls) > calls);
        atomic_store(&hooks.accept_error, 0);
        CHECK(put(one, "O C"));
        CHECK_TEXT("Oc", get(one, 2));
        close(one);
    }
    CHECK_INT(0, it->notices);
    end_house(it);
}

/* ------------------------------------------------------------------------------------------ */
/* Workers */

/* A worker that is freed with events at hand ends their connection; another one goes on with the
 * rest. */
TEST(pool_worker_freed_at_work)
{
    house *it = prepare();
    open_pool(it);
    mlt_worker *worker = mlt_worker_new(it->pool);
    mlt_work *given = mlt_worker_work(worker);
    int one = dial(it);
    CHECK(put(one, "O C"));
    CHECK_INT(1, mlt_worker_next(worker, 0, 0, NULL, 0, NULL, 0));
    CHECK_INT(MLT_STEP_CONNECT, given->events[0].step);
    int two = dial(it);
    CHECK(put(two, "O C"));
    CHECK_INT(1, mlt_worker_proceed(worker));
    CHECK_INT(2, given->id);
    CHECK_INT(2, mlt_pool_connections(it->pool));
    /* What may not be said. */
    CHECK_INT(MLT_ERR_CALLER, mlt_worker_next(worker, 0, SMFIS_CONTINUE, NULL, 0, NULL, 0));
    CHECK_INT(MLT_ERR_CALLER, mlt_worker_next(worker, 2, SMFIS_CONTINUE, NULL, 0, NULL, 0));
    CHECK_INT(MLT_ERR_CALLER, mlt_worker_next(NULL, 1, SMFIS_CONTINUE, NULL, 0, NULL, 0));
    CHECK_INT(MLT_ERR_CALLER, mlt_worker_proceed(NULL));
    CHECK(mlt_worker_work(NULL) == NULL);
    CHECK(mlt_worker_new(NULL) == NULL);
    mlt_worker_free(worker);
    mlt_worker_free(NULL);
    mlt_pool_free(NULL);
    CHECK_TEXT("O", get(two, 1));
    CHECK(is_closed(two));
    CHECK_INT(1, mlt_pool_connections(it->pool));
    REQUIRE(hire(it));
    CHECK_TEXT("Oc", get(one, 2));
    CHECK(ask(one, "q"));
    close(one);
    close(two);
    end_house(it);
}

/* A connection that is given up ends without a word to the filter; the others go on. */
TEST(pool_abandon)
{
    house *it = start_house(2, 1);
    int one = dial_in(it);
    int two = dial_in(it);
    CHECK(put(one, "H M"));
    CHECK(hear(one, 2));
    CHECK(say(one, "x"));
    CHECK(is_closed(one));
    CHECK(ask(two, "q"));
    WAIT_UNTIL(mlt_pool_connections(it->pool) == 1);
    CHECK_INT(0, it->ends);
    CHECK_TEXT("connect helo envfrom unknown", seen(it, 1)->story);
    close(one);
    close(two);
    end_house(it);
}

/* A thread that cannot be started is asked for again, though not at once. */
TEST(pool_lacks_thread)
{
    house *it = start_house(3, 1);
    atomic_store(&it->no_threads, true);
    int64_t start = test_now();
    int one = dial_in(it);
    int two = dial_in(it);
    for (int i = 0; i < 20; i++)
        CHECK(ask(one, "q"));
    CHECK(it->asked <= 1 + (test_now() - start) / 1000);
    int before = it->asked;
    atomic_fetch_add(&hooks.clock_ahead, 1100);
    for (int i = 0; i < 20; i++)
        CHECK(ask(one, "q"));
    CHECK(it->asked > before);
    CHECK(it->asked <= 2 + (test_now() - start) / 1000);
    CHECK(say(one, "b0"));
    WAIT_UNTIL(waiting_at(it, 0) == 1);
    CHECK(say(two, "q"));
    /* All threads that there can be are blocked. */
    test_pause(20);
    atomic_fetch_add(&hooks.clock_ahead, 900);
    WAIT_UNTIL(is_exhausted(it));
    open_gate(it, 0);
    CHECK(hear(one, 1));
    CHECK(hear(two, 1));
    int asked = atomic_load(&it->asked);
    atomic_store(&it->no_threads, false);
    atomic_fetch_add(&hooks.clock_ahead, 1100);
    CHECK(ask(one, "q"));
    CHECK_INT(asked + 1, it->asked);
    WAIT_UNTIL(running(it) == 2);
    CHECK(say(one, "b1"));
    CHECK(ask(two, "q"));
    open_gate(it, 1);
    CHECK(hear(one, 1));
    close(one);
    close(two);
    end_house(it);
}

/* Whatever allocation fails, either a call says so or a connection ends; nobody else suffers. */
TEST(pool_without_memory)
{
    static char body[60000];
    for (long fails = 0; fails < 40; fails++) {
        house *it = prepare();
        it->options.threads = 1;
        CHECK_INT(MLT_OK, mlt_server_open(it->server, it->path, &plain));
        CHECK_INT(MLT_OK, mlt_server_start(it->server));
        int one = dial(it);
        CHECK(put(one, "D:C O D:H C H M R"));
        body[2] = (char)((sizeof body - 4) >> 8);
        body[3] = (char)((sizeof body - 4) & 0xFF);
        body[4] = 'B';
        CHECK(put_bytes(one, body, 30000));
        atomic_store(&hooks.fail_allocation, fails);
        it->pool = mlt_pool_new(it->server, &it->options);
        if (it->pool == NULL) {
            CHECK(strlen(mlt_server_error(it->server)) > 0);
            close(one);
            mlt_server_close(it->server);
            mlt_server_free(it->server);
            memset(&here, 0, sizeof here);
            continue;
        }
        REQUIRE(hire(it));
        WAIT_UNTIL(atomic_load(&it->born) + atomic_load(&it->stillborn) == 1);
        if (atomic_load(&it->born) == 0)
            REQUIRE(hire(it));
        /* Until the failure there was, or there is nothing more to fail. */
        bool ended = false;
        char head[5];
        for (int replies = 0; replies < 5 && !ended; replies++)
            ended = take(one, head, replies == 0 ? 4 : 5) < 4 ||
                    (replies == 0 && take(one, body + 100, 13) < 13);
        CHECK(put_bytes(one, body + 30000, 30000) || ended);
        atomic_store(&hooks.fail_allocation, -1);
        int two = dial_in(it);
        CHECK(ask(two, "q"));
        close(one);
        close(two);
        end_house(it);
        memset(&here, 0, sizeof here);
    }
}

/* A process that was forked from a callback has but a copy of the pool, without its threads; it can
 * let go of it. */
TEST(pool_in_a_forked_process)
{
    house *it = start_house(4, 1);
    int one = dial_in(it);
    CHECK(ask(one, "q"));
    pid_t child = fork();
    if (child == 0) {
        alarm(20);
        mlt_server_stop(it->server);
        mlt_pool_refuse(it->pool);
        mlt_pool_free(it->pool);
        _exit(0);
    }
    int status = -1;
    REQUIRE(child > 0);
    CHECK_INT(child, waitpid(child, &status, 0));
    CHECK_INT(0, status);
    CHECK(ask(one, "q"));
    close(one);
    end_house(it);
}

/* ------------------------------------------------------------------------------------------ */
/* Everything at once */

static uint32_t next_random(uint32_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state;
}

/* Sometimes sleeps, sometimes takes long, sometimes gives the connection up; headers and body need
 * no answer. */
static int moody(hand *me, session *of, mlt_view *view, const mlt_event *event)
{
    static const uint32_t silent = SMFIP_NR_HDR | SMFIP_NR_EOH | SMFIP_NR_BODY;
    static _Thread_local uint32_t random;
    if (random == 0)
        random = (uint32_t)me->number * 2654435761u + 1;
    if (event->step == MLT_STEP_NEGOTIATE) {
        view->protocol |= silent;
        return SMFIS_CONTINUE;
    }
    if (event->step == MLT_STEP_UNKNOWN)
        return in_order(me, of, view, event);
    uint32_t mood = next_random(&random) % 1000;
    if (mood < 20)
        test_pause((int)(mood % 8));
    else if (mood < 24)
        usleep(200);
    else if (mood < 26 && event->step == MLT_STEP_EOM)
        return ABANDON;
    return SMFIS_CONTINUE;
}

typedef struct mta {
    house *to;
    pthread_t thread;
    uint32_t random;
    int64_t end;
    int messages;
    int lost;
} mta;

/* One message; false when the connection has ended. */
static bool send_message(mta *me, int fd)
{
    uint32_t mood = next_random(&me->random) % 100;
    if (!put(fd, "D:M M") || !hear(fd, 1))
        return false;
    if (mood < 5)
        return false; /* hangs up */
    if (mood < 10)
        return put(fd, "A");
    if (!put(fd, mood % 2 == 0 ? "D:R R R" : "R R") || !hear(fd, 2))
        return false;
    if (mood < 40) {
        if (!put(fd, "L L L L N B B E") || !hear(fd, 1))
            return false;
    } else if (mood < 60) {
        /* Byte by byte, more or less. */
        static const char tail[] = "\0\0\0\x0CLSubject\0hi\0\0\0\0\1N\0\0\0\1E";
        for (size_t at = 0; at < sizeof tail - 1; at += 5) {
            size_t left = sizeof tail - 1 - at;
            if (!put_bytes(fd, tail + at, left < 5 ? left : 5))
                return false;
            if (at % 15 == 0)
                usleep(100);
        }
        if (!hear(fd, 1))
            return false;
    } else if (mood < 63) {
        /* Does not read for a while. */
        if (!say(fd, "p1") || !put(fd, "L N E"))
            return false;
        test_pause(10);
        if (!drain(fd, 1) || !hear(fd, 2))
            return false;
    } else if (mood < 66) {
        /* May be too slow for the time-outs. */
        if (!put_bytes(fd, "\0\0", 2))
            return false;
        test_pause(35);
        if (!put_bytes(fd, "\0\1E", 3) || !hear(fd, 1))
            return false;
    } else if (!put(fd, "L N E") || !hear(fd, 1)) {
        return false;
    }
    me->messages++;
    return true;
}

static void *send_mail(void *data)
{
    mta *me = data;
    for (int i = 0; i < 5000 && test_now() < me->end; i++) {
        int fd = dial(me->to);
        bool good = put(fd, "O C H") && strcmp(get(fd, 3), "Occ") == 0;
        for (uint32_t left = next_random(&me->random) % 6; good && left > 0; left--)
            good = send_message(me, fd);
        me->lost += !good;
        if (good && next_random(&me->random) % 2 == 0)
            put(fd, "Q");
        close(fd);
    }
    return NULL;
}

static void stress(size_t active, int64_t patience, int64_t ms)
{
    enum { MTAS = 6 };
    mta mtas[MTAS];
    house *it = prepare();
    it->filter = moody;
    mlt_server_settings(it->server)->negotiate = true;
    mlt_server_settings(it->server)->connections = MTAS + 2;
    it->options.threads = 6;
    it->options.active = active;
    mlt_server_settings(it->server)->packet_timeout = patience;
    mlt_server_settings(it->server)->idle_timeout = patience < 0 ? patience : patience * 2;
    begin(it);
    for (int i = 0; i < MTAS; i++) {
        mtas[i] = (mta){.to = it, .random = (uint32_t)i * 77777u + 1, .end = test_now() + ms};
        REQUIRE(pthread_create(&mtas[i].thread, NULL, send_mail, &mtas[i]) == 0);
    }
    int messages = 0;
    for (int i = 0; i < MTAS; i++) {
        pthread_join(mtas[i].thread, NULL);
        messages += mtas[i].messages;
    }
    CHECK(messages > 0);
    WAIT_UNTIL(mlt_pool_connections(it->pool) == 0);
    end_house(it);
}

/* MTAs of all kinds and a filter in all moods: all comes to an end, nothing overlaps, and all
 * threads return. */
TEST(pool_stress)
{
    stress(1, -1, 3000);
}

/* Likewise with time-outs that are short enough to come now and then. */
TEST(pool_stress_short_timeouts)
{
    stress(1, 30, 2000);
}

/* Likewise with several leaders. */
TEST(pool_stress_several_leaders)
{
    stress(3, 1000, 3000);
}

/* Stops at any moment, with cuts or without, while connections come and go. */
TEST(pool_stop_at_any_time)
{
    for (int round = 0; round < 30; round++) {
        int clients[8];
        house *it = prepare();
        it->options.active = round % 2 == 0 ? 1 : 2;
        begin(it);
        for (int i = 0; i < 8; i++) {
            clients[i] = dial(it);
            put(clients[i], i % 2 == 0 ? "O C H M R" : "O C H M R E");
            put_text(clients[i], 'U', i % 3 == 0 ? "z2" : "q");
            if (i == round % 8)
                mlt_server_stop(it->server);
        }
        mlt_pool_refuse(it->pool);
        mlt_server_close(it->server);
        for (int i = 0; i < 8; i += 2)
            put(clients[i], "E");
        if (round % 3 == 0)
            mlt_server_cut(it->server);
        for (int i = 0; i < 8; i++)
            shutdown(clients[i], SHUT_WR);
        join(it);
        for (int i = 0; i < 8; i++)
            close(clients[i]);
        mlt_server_free(it->server);
        memset(&here, 0, sizeof here);
    }
}
