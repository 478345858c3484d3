/*
 * test_poller.c - waiting for many descriptors: the same cases for each backend.
 *
 * The Makefile builds them with epoll, and once more with poll(). Tags are small numbers here.
 */
#include "../poller.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "test.h"

enum { TAGS = 16 };

static void *tag(int number)
{
    return (void *)(intptr_t)number;
}

static int number(void *of)
{
    return (int)(intptr_t)of;
}

/* Two sockets that are connected: the one that is waited for, and its peer. */
typedef struct pair {
    int ours;
    int theirs;
} pair;

static pair new_pair(void)
{
    int both[2];
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, both) == 0);
    return (pair){both[0], both[1]};
}

/* A pair with something to read in it. */
static pair full_pair(void)
{
    pair it = new_pair();
    CHECK_INT(1, write(it.theirs, "x", 1));
    return it;
}

static void end_pair(pair it)
{
    close(it.ours);
    close(it.theirs);
}

static void put(pair it)
{
    CHECK_INT(1, write(it.theirs, "x", 1));
}

static void take(pair it)
{
    char byte;
    CHECK_INT(1, read(it.ours, &byte, 1));
}

static mlt_poller *new_poller(void)
{
    mlt_poller *poller = mlt_poller_new();
    REQUIRE(poller != NULL);
    return poller;
}

static int compare(const void *a, const void *b)
{
    const intptr_t *left = a;
    const intptr_t *right = b;
    return (*left > *right) - (*left < *right);
}

/* Tags in ascending order, as text. */
static const char *to_text(void **tags, int count)
{
    static char text[TAGS * 12];
    size_t len = 0;
    text[0] = '\0';
    if (count > 0)
        qsort(tags, (size_t)count, sizeof *tags, compare);
    for (int i = 0; i < count; i++)
        len += (size_t)snprintf(text + len, sizeof text - len, "%s%d", i > 0 ? " " : "",
                                number(tags[i]));
    return text;
}

/* What is ready now. Whichever way it is asked for, the answer is the same. */
static const char *ready_now(mlt_poller *poller)
{
    void *tags[TAGS];
    bool ready = mlt_poller_ready(poller);
    struct pollfd outside = {mlt_poller_fd(poller), POLLIN, 0};
    bool readable = poll(&outside, 1, 0) > 0;
    int count = mlt_poller_wait(poller, tags, TAGS, 0);
    CHECK(count >= 0);
    CHECK_INT(count > 0, ready);
    if (outside.fd >= 0)
        CHECK_INT(count > 0, readable);
    return to_text(tags, count);
}

/* ------------------------------------------------------------------------------------------ */
/* What is told */

/* With nothing registered nothing is ready, and a poller may be freed with descriptors in it. */
TEST(poller_empty)
{
    mlt_poller *poller = new_poller();
    CHECK_TEXT("", ready_now(poller));
    pair one = full_pair();
    CHECK_INT(0, mlt_poller_add(poller, one.ours, tag(1), MLT_POLL_READ));
    mlt_poller_free(poller);
    mlt_poller_free(NULL);
    take(one);
    end_pair(one);
}

/* The tags that come back are those of the descriptors that are ready, and no others. */
TEST(poller_tells_tags)
{
    mlt_poller *poller = new_poller();
    pair pairs[5];
    for (int i = 0; i < 5; i++) {
        pairs[i] = new_pair();
        CHECK_INT(0, mlt_poller_add(poller, pairs[i].ours, tag(i + 1), MLT_POLL_READ));
    }
    CHECK_TEXT("", ready_now(poller));
    put(pairs[3]);
    CHECK_TEXT("4", ready_now(poller));
    put(pairs[0]);
    put(pairs[4]);
    CHECK_TEXT("1 4 5", ready_now(poller));
    take(pairs[3]);
    CHECK_TEXT("1 5", ready_now(poller));
    for (int i = 0; i < 5; i++)
        end_pair(pairs[i]);
    mlt_poller_free(poller);
}

/* A tag is the caller's: the same one twice, NULL and any other pointer come back as they are. */
TEST(poller_takes_any_tag)
{
    mlt_poller *poller = new_poller();
    pair pairs[4];
    for (int i = 0; i < 4; i++)
        pairs[i] = full_pair();
    CHECK_INT(0, mlt_poller_add(poller, pairs[0].ours, NULL, MLT_POLL_READ));
    CHECK_INT(0, mlt_poller_add(poller, pairs[1].ours, NULL, MLT_POLL_READ));
    CHECK_INT(0, mlt_poller_add(poller, pairs[2].ours, pairs, MLT_POLL_READ));
    CHECK_INT(0, mlt_poller_add(poller, pairs[3].ours, (void *)UINTPTR_MAX, MLT_POLL_READ));
    void *tags[TAGS];
    CHECK_INT(4, mlt_poller_wait(poller, tags, TAGS, 0));
    int seen[3] = {0};
    for (int i = 0; i < 4; i++) {
        seen[0] += tags[i] == NULL;
        seen[1] += tags[i] == pairs;
        seen[2] += tags[i] == (void *)UINTPTR_MAX;
        end_pair(pairs[i]);
    }
    CHECK_INT(2, seen[0]);
    CHECK_INT(1, seen[1]);
    CHECK_INT(1, seen[2]);
    mlt_poller_free(poller);
}

/* What is ready is told again and again, until nothing is left to read. */
TEST(poller_tells_a_state)
{
    mlt_poller *poller = new_poller();
    pair one = new_pair();
    CHECK_INT(0, mlt_poller_add(poller, one.ours, tag(1), MLT_POLL_READ));
    put(one);
    put(one);
    for (int i = 0; i < 3; i++)
        CHECK_TEXT("1", ready_now(poller));
    take(one);
    for (int i = 0; i < 3; i++)
        CHECK_TEXT("1", ready_now(poller));
    take(one);
    for (int i = 0; i < 3; i++)
        CHECK_TEXT("", ready_now(poller));
    end_pair(one);
    mlt_poller_free(poller);
}

/* What was there before a descriptor was registered is told as well. */
TEST(poller_tells_what_was_there_before)
{
    mlt_poller *poller = new_poller();
    pair one = full_pair();
    CHECK_INT(0, mlt_poller_add(poller, one.ours, tag(1), MLT_POLL_READ));
    CHECK_TEXT("1", ready_now(poller));
    end_pair(one);
    mlt_poller_free(poller);
}

static void fill(int fd)
{
    static const char bytes[4096];
    while (write(fd, bytes, sizeof bytes) > 0) {
    }
    CHECK_INT(EAGAIN, errno);
}

/* Only what is wanted makes a descriptor ready, and one that is ready in both ways is told once. */
TEST(poller_wants)
{
    static const struct {
        const char *name;
        unsigned wants;
        bool readable;
        bool writable;
        const char *told;
    } rows[] = {
        {"read: none", MLT_POLL_READ, false, true, ""},
        {"read: some", MLT_POLL_READ, true, false, "1"},
        {"write: no room", MLT_POLL_WRITE, true, false, ""},
        {"write: room", MLT_POLL_WRITE, false, true, "1"},
        {"both: neither", MLT_POLL_READ | MLT_POLL_WRITE, false, false, ""},
        {"both: some to read", MLT_POLL_READ | MLT_POLL_WRITE, true, false, "1"},
        {"both: room", MLT_POLL_READ | MLT_POLL_WRITE, false, true, "1"},
        {"both: both", MLT_POLL_READ | MLT_POLL_WRITE, true, true, "1"},
        {"asleep", 0, true, true, ""},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        test_row(rows[i].name);
        pair one = rows[i].readable ? full_pair() : new_pair();
        if (!rows[i].writable)
            fill(one.ours);
        /* Whether it is registered so, or made so afterwards. */
        for (unsigned before = 0; before <= 4; before++) {
            mlt_poller *poller = new_poller();
            CHECK_INT(0, mlt_poller_add(poller, one.ours, tag(before < 4 ? 9 : 1),
                                        before < 4 ? before : rows[i].wants));
            if (before < 4)
                CHECK_INT(0, mlt_poller_change(poller, one.ours, tag(1), rows[i].wants));
            CHECK_TEXT(rows[i].told, ready_now(poller));
            mlt_poller_free(poller);
        }
        end_pair(one);
    }
}

/* A change of the tag alone is one too, and holds until the next. */
TEST(poller_change_of_tag)
{
    mlt_poller *poller = new_poller();
    pair one = full_pair();
    CHECK_INT(0, mlt_poller_add(poller, one.ours, tag(1), MLT_POLL_READ));
    for (int i = 2; i < 6; i++) {
        CHECK_INT(0, mlt_poller_change(poller, one.ours, tag(i), MLT_POLL_READ));
        char text[12];
        snprintf(text, sizeof text, "%d", i);
        CHECK_TEXT(text, ready_now(poller));
        CHECK_TEXT(text, ready_now(poller));
    }
    end_pair(one);
    mlt_poller_free(poller);
}

/* What was removed is not told any more; the others are. It may be registered again. */
TEST(poller_remove)
{
    mlt_poller *poller = new_poller();
    pair one = full_pair();
    pair two = full_pair();
    CHECK_INT(0, mlt_poller_add(poller, one.ours, tag(1), MLT_POLL_READ));
    CHECK_INT(0, mlt_poller_add(poller, two.ours, tag(2), MLT_POLL_READ));
    CHECK_INT(0, mlt_poller_remove(poller, two.ours));
    CHECK_TEXT("1", ready_now(poller));
    CHECK_INT(0, mlt_poller_remove(poller, one.ours));
    CHECK_TEXT("", ready_now(poller));
    CHECK_INT(0, mlt_poller_add(poller, two.ours, tag(3), MLT_POLL_READ));
    CHECK_TEXT("3", ready_now(poller));
    end_pair(one);
    end_pair(two);
    mlt_poller_free(poller);
}

/* Whether it is registered, asleep or neither, it can be removed. */
TEST(poller_remove_what_is_not_there)
{
    mlt_poller *poller = new_poller();
    pair one = full_pair();
    CHECK_INT(0, mlt_poller_remove(poller, one.ours));
    CHECK_INT(0, mlt_poller_add(poller, one.ours, tag(1), 0));
    CHECK_INT(0, mlt_poller_remove(poller, one.ours));
    CHECK_INT(0, mlt_poller_add(poller, one.ours, tag(1), MLT_POLL_READ));
    CHECK_INT(0, mlt_poller_change(poller, one.ours, tag(1), 0));
    CHECK_INT(0, mlt_poller_remove(poller, one.ours));
    CHECK_INT(0, mlt_poller_remove(poller, one.ours));
    CHECK_TEXT("", ready_now(poller));
    end_pair(one);
    mlt_poller_free(poller);
}

/* A number that is used again for another file has its own tag, and is ready when that file is. */
TEST(poller_number_used_again)
{
    mlt_poller *poller = new_poller();
    pair one = full_pair();
    CHECK_INT(0, mlt_poller_add(poller, one.ours, tag(1), MLT_POLL_READ));
    CHECK_TEXT("1", ready_now(poller));
    CHECK_INT(0, mlt_poller_remove(poller, one.ours));
    pair two = new_pair();
    CHECK_INT(one.ours, dup2(two.ours, one.ours)); /* closes what was there */
    CHECK_INT(0, mlt_poller_add(poller, one.ours, tag(2), MLT_POLL_READ));
    CHECK_TEXT("", ready_now(poller));
    put(two);
    CHECK_TEXT("2", ready_now(poller));
    end_pair(one);
    end_pair(two);
    mlt_poller_free(poller);
}

/* A descriptor that cannot be one is refused. */
TEST(poller_bad_descriptor)
{
    mlt_poller *poller = new_poller();
    errno = 0;
    CHECK_INT(-1, mlt_poller_add(poller, -1, tag(1), MLT_POLL_READ));
    CHECK_INT(EBADF, errno);
    errno = 0;
    CHECK_INT(-1, mlt_poller_change(poller, -1, tag(1), MLT_POLL_READ));
    CHECK_INT(EBADF, errno);
    errno = 0;
    CHECK_INT(-1, mlt_poller_add_shared(poller, -1, tag(1)));
    CHECK_INT(EBADF, errno);
    CHECK_TEXT("", ready_now(poller));
    mlt_poller_free(poller);
}

/* ------------------------------------------------------------------------------------------ */
/* Hang-ups, and descriptors that are asleep */

/* The end of the peer is told to those that want to read, and to those that want to write and have
 * no room. */
TEST(poller_hang_up)
{
    for (unsigned wants = 1; wants <= 3; wants++) {
        mlt_poller *poller = new_poller();
        pair one = new_pair();
        fill(one.ours);
        CHECK_INT(0, mlt_poller_add(poller, one.ours, tag(1), wants));
        CHECK_TEXT("", ready_now(poller));
        close(one.theirs);
        CHECK_TEXT("1", ready_now(poller));
        CHECK_TEXT("1", ready_now(poller));
        CHECK_INT(0, mlt_poller_remove(poller, one.ours));
        CHECK_TEXT("", ready_now(poller));
        close(one.ours);
        mlt_poller_free(poller);
    }
}

/* While a descriptor is asleep nothing is told of it, neither what there is to read nor the peer's
 * end; when it wakes up, all is. However it fell asleep, and more than once. */
TEST(poller_asleep)
{
    for (int started_asleep = 0; started_asleep < 2; started_asleep++) {
        mlt_poller *poller = new_poller();
        pair one = new_pair();
        unsigned wants = started_asleep ? 0 : MLT_POLL_READ;
        CHECK_INT(0, mlt_poller_add(poller, one.ours, tag(1), wants));
        if (!started_asleep)
            CHECK_INT(0, mlt_poller_change(poller, one.ours, tag(1), 0));
        put(one);
        CHECK_TEXT("", ready_now(poller));
        CHECK_INT(0, mlt_poller_change(poller, one.ours, tag(2), MLT_POLL_READ));
        CHECK_TEXT("2", ready_now(poller));
        CHECK_INT(0, mlt_poller_change(poller, one.ours, tag(3), 0));
        CHECK_INT(0, mlt_poller_change(poller, one.ours, tag(4), 0));
        take(one);
        close(one.theirs);
        CHECK_TEXT("", ready_now(poller));
        CHECK_TEXT("", ready_now(poller));
        CHECK_INT(0, mlt_poller_change(poller, one.ours, tag(5), MLT_POLL_READ));
        CHECK_TEXT("5", ready_now(poller));
        /* And asleep after the hang-up was told. */
        CHECK_INT(0, mlt_poller_change(poller, one.ours, tag(6), 0));
        CHECK_TEXT("", ready_now(poller));
        CHECK_INT(0, mlt_poller_change(poller, one.ours, tag(7), MLT_POLL_WRITE));
        CHECK_TEXT("7", ready_now(poller));
        close(one.ours);
        mlt_poller_free(poller);
    }
}

/* A hang-up is not told of one that was asleep from the start either, before it is woken up. */
TEST(poller_added_asleep)
{
    mlt_poller *poller = new_poller();
    pair one = new_pair();
    CHECK_INT(0, mlt_poller_add(poller, one.ours, tag(1), 0));
    close(one.theirs);
    CHECK_TEXT("", ready_now(poller));
    CHECK_INT(0, mlt_poller_change(poller, one.ours, tag(2), MLT_POLL_READ));
    CHECK_TEXT("2", ready_now(poller));
    close(one.ours);
    mlt_poller_free(poller);
}

/* One that sleeps does not hide others. */
TEST(poller_asleep_among_others)
{
    mlt_poller *poller = new_poller();
    pair pairs[6];
    for (int i = 0; i < 6; i++) {
        pairs[i] = full_pair();
        CHECK_INT(0, mlt_poller_add(poller, pairs[i].ours, tag(i), MLT_POLL_READ));
    }
    for (int i = 1; i < 6; i += 2)
        CHECK_INT(0, mlt_poller_change(poller, pairs[i].ours, tag(i), 0));
    CHECK_TEXT("0 2 4", ready_now(poller));
    CHECK_INT(0, mlt_poller_change(poller, pairs[5].ours, tag(5), MLT_POLL_READ));
    CHECK_INT(0, mlt_poller_change(poller, pairs[0].ours, tag(0), 0));
    CHECK_TEXT("2 4 5", ready_now(poller));
    for (int i = 0; i < 6; i++)
        end_pair(pairs[i]);
    mlt_poller_free(poller);
}

/* ------------------------------------------------------------------------------------------ */
/* Many descriptors */

/* No more than `max` tags are written. */
TEST(poller_max)
{
    mlt_poller *poller = new_poller();
    pair pairs[8];
    for (int i = 0; i < 8; i++) {
        pairs[i] = full_pair();
        CHECK_INT(0, mlt_poller_add(poller, pairs[i].ours, tag(i), MLT_POLL_READ));
    }
    for (int max = 1; max <= 10; max++) {
        void *tags[TAGS];
        for (int i = 0; i < TAGS; i++)
            tags[i] = tag(-1);
        CHECK_INT(max < 8 ? max : 8, mlt_poller_wait(poller, tags, max, 0));
        for (int i = max < 8 ? max : 8; i < TAGS; i++)
            CHECK_INT(-1, number(tags[i]));
    }
    for (int i = 0; i < 8; i++)
        end_pair(pairs[i]);
    mlt_poller_free(poller);
}

enum { CROWD = 100 };

/* How many different ones of a crowd that is always ready come in so many calls. After each call
 * those that were told may be put to sleep and woken up again. */
static int count_told(mlt_poller *poller, const pair *crowd, int calls, int max, bool nap)
{
    bool seen[CROWD] = {false};
    void *tags[CROWD];
    int different = 0;
    for (int i = 0; i < calls; i++) {
        int count = mlt_poller_wait(poller, tags, max, 0);
        CHECK_INT(max, count);
        for (int j = 0; j < count; j++) {
            int at = number(tags[j]);
            different += !seen[at];
            seen[at] = true;
            if (nap) {
                CHECK_INT(0, mlt_poller_change(poller, crowd[at].ours, tags[j], 0));
                CHECK_INT(0, mlt_poller_change(poller, crowd[at].ours, tags[j], MLT_POLL_READ));
            }
        }
    }
    return different;
}

/* With more ready than fits, calls come round to all, in as few calls as that takes. */
TEST(poller_comes_round_to_all)
{
    mlt_poller *poller = new_poller();
    pair crowd[CROWD];
    for (int i = 0; i < CROWD; i++) {
        crowd[i] = full_pair();
        CHECK_INT(0, mlt_poller_add(poller, crowd[i].ours, tag(i), MLT_POLL_READ));
    }
    for (int round = 0; round < 3; round++) {
        CHECK_INT(CROWD, count_told(poller, crowd, 15, 7, false));
        CHECK_INT(CROWD, count_told(poller, crowd, CROWD, 1, false));
        CHECK_INT(CROWD, count_told(poller, crowd, 15, 7, true));
        CHECK_INT(CROWD, count_told(poller, crowd, CROWD, 1, true));
    }
    for (int i = 0; i < CROWD; i++)
        end_pair(crowd[i]);
    mlt_poller_free(poller);
}

/* One that becomes ready has its turn before the busy ones had theirs twice, wherever it stands. */
TEST(poller_late_one_has_its_turn)
{
    enum { BUSY = 10 };
    pair all[BUSY + 1];
    for (int i = 0; i <= BUSY; i++)
        all[i] = new_pair();
    for (int late = 0; late <= BUSY; late++) {
        mlt_poller *poller = new_poller();
        for (int i = 0; i <= BUSY; i++) {
            if (i != late)
                put(all[i]);
            CHECK_INT(0, mlt_poller_add(poller, all[i].ours, tag(i), MLT_POLL_READ));
        }
        void *told;
        for (int i = 0; i < BUSY / 2; i++)
            CHECK_INT(1, mlt_poller_wait(poller, &told, 1, 0));
        put(all[late]);
        int calls = 0;
        do {
            CHECK_INT(1, mlt_poller_wait(poller, &told, 1, 0));
            calls++;
        } while (number(told) != late && calls < 10 * BUSY);
        CHECK(calls <= 2 * BUSY);
        for (int i = 0; i <= BUSY; i++)
            take(all[i]);
        mlt_poller_free(poller);
    }
    for (int i = 0; i <= BUSY; i++)
        end_pair(all[i]);
}

enum { MANY = 5000 };

/* The tags that waiting brings until each of so many came once; whether they are all of the even
 * ones, or just all. */
static void check_all_told(mlt_poller *poller, int expected, bool even)
{
    static bool seen[MANY];
    void *tags[200];
    int different = 0;
    memset(seen, 0, sizeof seen);
    for (int calls = 0; different < expected && calls < 2 * MANY / 100; calls++) {
        int count = mlt_poller_wait(poller, tags, 200, 0);
        CHECK(count > 0);
        for (int i = 0; i < count; i++) {
            int at = number(tags[i]);
            CHECK(!even || at % 2 == 0);
            different += !seen[at];
            seen[at] = true;
        }
    }
    CHECK_INT(expected, different);
}

/* 5,000 descriptors: one among them that is ready is found, and all when all are; they fall asleep,
 * wake up and leave one by one. Once all are registered, nothing of that allocates memory. */
TEST(poller_thousands)
{
    struct rlimit limit;
    REQUIRE(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    if (limit.rlim_max < MANY + 50)
        test_skip("the hard limit of descriptors is too low");
    if (limit.rlim_cur < MANY + 50) {
        limit.rlim_cur = MANY + 50;
        REQUIRE(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    }
    /* Both ends of each pair are registered: 2i and 2i + 1. */
    static pair pairs[MANY / 2];
    mlt_poller *poller = new_poller();
    for (int i = 0; i < MANY / 2; i++) {
        pairs[i] = new_pair();
        CHECK_INT(0, mlt_poller_add(poller, pairs[i].ours, tag(2 * i), MLT_POLL_READ));
        CHECK_INT(0, mlt_poller_add(poller, pairs[i].theirs, tag(2 * i + 1), MLT_POLL_READ));
    }
    CHECK_TEXT("", ready_now(poller));
    atomic_store(&hooks.allocations, 0);
    static const int some[] = {0, 1, 31, 32, 1000, MANY / 2 - 1};
    for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
        char text[12];
        snprintf(text, sizeof text, "%d", 2 * some[i]);
        put(pairs[some[i]]);
        CHECK_TEXT(text, ready_now(poller));
        take(pairs[some[i]]);
    }
    CHECK_TEXT("", ready_now(poller));
    for (int i = 0; i < MANY / 2; i++) {
        put(pairs[i]);
        CHECK_INT(1, write(pairs[i].ours, "x", 1));
    }
    check_all_told(poller, MANY, false);
    for (int i = 0; i < MANY / 2; i++)
        CHECK_INT(0, mlt_poller_change(poller, pairs[i].theirs, tag(2 * i + 1), 0));
    check_all_told(poller, MANY / 2, true);
    for (int i = 0; i < MANY / 2; i++)
        CHECK_INT(0, mlt_poller_change(poller, pairs[i].theirs, tag(2 * i + 1), MLT_POLL_READ));
    check_all_told(poller, MANY, false);
    for (int i = 0; i < MANY / 2; i++)
        CHECK_INT(0, mlt_poller_remove(poller, pairs[i].theirs));
    check_all_told(poller, MANY / 2, true);
    for (int i = 0; i < MANY / 2 - 1; i++)
        CHECK_INT(0, mlt_poller_remove(poller, pairs[i].ours));
    CHECK_TEXT("4998", ready_now(poller));
    CHECK_INT(0, hooks.allocations);
    for (int i = 0; i < MANY / 2; i++)
        end_pair(pairs[i]);
    mlt_poller_free(poller);
}

/* ------------------------------------------------------------------------------------------ */
/* Time, signals and other threads */

/* A thread that waits once. */
typedef struct waiter {
    mlt_poller *poller;
    int64_t timeout;
    pthread_t thread;
    atomic_int id; /* the system's, once it is about to wait */
    atomic_bool done;
    int count;
    void *tags[TAGS];
} waiter;

static void *wait_once(void *data)
{
    waiter *it = data;
    atomic_store(&it->id, (int)syscall(SYS_gettid));
    it->count = mlt_poller_wait(it->poller, it->tags, TAGS, it->timeout);
    atomic_store(&it->done, true);
    return NULL;
}

/* Whether the system says that this thread of ours is asleep. */
static bool sleeps(int id)
{
    char path[64];
    char text[256];
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", id);
    int fd = open(path, O_RDONLY);
    ssize_t len = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
    close(fd);
    text[len > 0 ? len : 0] = '\0';
    const char *end = strrchr(text, ')');
    return end != NULL && strncmp(end, ") S", 3) == 0;
}

/* Returns when the thread is in its wait. */
static void start_waiter(waiter *it, mlt_poller *poller, int64_t timeout)
{
    *it = (waiter){.poller = poller, .timeout = timeout};
    REQUIRE(pthread_create(&it->thread, NULL, wait_once, it) == 0);
    WAIT_UNTIL(atomic_load(&it->id) != 0 && sleeps(atomic_load(&it->id)));
}

/* What its wait brought. */
static const char *end_waiter(waiter *it)
{
    WAIT_UNTIL(atomic_load(&it->done));
    pthread_join(it->thread, NULL);
    CHECK(it->count >= 0);
    return to_text(it->tags, it->count);
}

/* With nothing ready a wait takes its time and brings nothing; 0 does not wait. */
TEST(poller_timeout)
{
    mlt_poller *poller = new_poller();
    pair one = new_pair();
    CHECK_INT(0, mlt_poller_add(poller, one.ours, tag(1), MLT_POLL_READ));
    void *told = tag(9);
    static const int64_t times[] = {0, 1, 30};
    for (size_t i = 0; i < sizeof times / sizeof *times; i++) {
        int64_t start = test_now();
        CHECK_INT(0, mlt_poller_wait(poller, &told, 1, times[i]));
        int64_t took = test_now() - start;
        CHECK(took >= times[i]);
        CHECK(took < 10000);
    }
    CHECK_INT(9, number(told));
    end_pair(one);
    mlt_poller_free(poller);
}

/* What is ready ends a wait at once, however long it may take; sizes that do not fit an int are not
 * cut to one that does. */
TEST(poller_long_timeouts)
{
    static const int64_t times[] = {-1, INT64_MIN, 60000, INT_MAX, (int64_t)1 << 32, INT64_MAX};
    for (size_t i = 0; i < sizeof times / sizeof *times; i++) {
        mlt_poller *poller = new_poller();
        pair one = new_pair();
        waiter other;
        CHECK_INT(0, mlt_poller_add(poller, one.ours, tag(1), MLT_POLL_READ));
        start_waiter(&other, poller, times[i]);
        put(one);
        CHECK_TEXT("1", end_waiter(&other));
        end_pair(one);
        mlt_poller_free(poller);
    }
}

static void ignore(int signal)
{
    (void)signal;
}

/* A signal ends a wait with nothing. */
TEST(poller_signal)
{
    mlt_poller *poller = new_poller();
    struct sigaction action = {.sa_handler = ignore};
    waiter other;
    CHECK_INT(0, sigaction(SIGUSR1, &action, NULL));
    start_waiter(&other, poller, -1);
    CHECK_INT(0, pthread_kill(other.thread, SIGUSR1));
    CHECK_TEXT("", end_waiter(&other));
    mlt_poller_free(poller);
}

/* What is changed while another thread waits holds for that wait. */
TEST(poller_change_during_a_wait)
{
    static const struct {
        const char *name;
        const char *told;
    } rows[] = {
        {"add", "1"}, {"wake", "2"}, {"other wants", "3"}, {"other tag", "4"}, {"add shared", "5"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        test_row(rows[i].name);
        mlt_poller *poller = new_poller();
        pair one = i == 3 ? new_pair() : full_pair();
        waiter other;
        if (i == 1)
            CHECK_INT(0, mlt_poller_add(poller, one.ours, tag(9), 0));
        if (i == 2)
            fill(one.ours);
        if (i == 2 || i == 3)
            CHECK_INT(0, mlt_poller_add(poller, one.ours, tag(9),
                                        i == 2 ? MLT_POLL_WRITE : MLT_POLL_READ));
        start_waiter(&other, poller, -1);
        if (i == 0)
            CHECK_INT(0, mlt_poller_add(poller, one.ours, tag(1), MLT_POLL_READ));
        else if (i == 4)
            CHECK_INT(0, mlt_poller_add_shared(poller, one.ours, tag(5)));
        else
            CHECK_INT(0, mlt_poller_change(poller, one.ours, tag((int)i + 1), MLT_POLL_READ));
        if (i == 3)
            put(one);
        CHECK_TEXT(rows[i].told, end_waiter(&other));
        end_pair(one);
        mlt_poller_free(poller);
    }
}

/* What is removed or put to sleep while another thread waits is not told to it, and neither is it
 * woken for nothing. */
TEST(poller_sleep_during_a_wait)
{
    for (int removed = 0; removed < 2; removed++) {
        mlt_poller *poller = new_poller();
        pair one = new_pair();
        pair two = new_pair();
        waiter other;
        CHECK_INT(0, mlt_poller_add(poller, one.ours, tag(1), MLT_POLL_READ));
        CHECK_INT(0, mlt_poller_add(poller, two.ours, tag(2), MLT_POLL_READ));
        start_waiter(&other, poller, -1);
        if (removed)
            CHECK_INT(0, mlt_poller_remove(poller, one.ours));
        else
            CHECK_INT(0, mlt_poller_change(poller, one.ours, tag(1), 0));
        put(one);
        close(one.theirs);
        CHECK(!mlt_poller_ready(poller));
        /* Nothing else tells that it would have returned. */
        test_pause(20);
        CHECK(!atomic_load(&other.done));
        put(two);
        CHECK_TEXT("2", end_waiter(&other));
        close(one.ours);
        end_pair(two);
        mlt_poller_free(poller);
    }
}

/* A descriptor that is removed during a wait and then closed is closed for its peer too, though the
 * wait goes on. */
TEST(poller_removed_is_let_go)
{
    mlt_poller *poller = new_poller();
    pair one = new_pair();
    pair two = new_pair();
    waiter other;
    CHECK_INT(0, mlt_poller_add(poller, one.ours, tag(1), MLT_POLL_READ));
    CHECK_INT(0, mlt_poller_add(poller, two.ours, tag(2), MLT_POLL_READ));
    start_waiter(&other, poller, -1);
    CHECK_INT(0, mlt_poller_remove(poller, one.ours));
    close(one.ours);
    char byte;
    WAIT_UNTIL(read(one.theirs, &byte, 1) == 0);
    CHECK(!atomic_load(&other.done));
    put(two);
    CHECK_TEXT("2", end_waiter(&other));
    close(one.theirs);
    end_pair(two);
    mlt_poller_free(poller);
}

/* Changes that make nothing ready neither end a wait nor make its time start anew, and asking
 * meanwhile takes nothing away. */
TEST(poller_idle_changes_during_a_wait)
{
    mlt_poller *poller = new_poller();
    pair one = new_pair();
    pair two = new_pair();
    waiter other;
    CHECK_INT(0, mlt_poller_add(poller, one.ours, tag(1), MLT_POLL_READ));
    start_waiter(&other, poller, -1);
    for (int i = 0; i < 300; i++) {
        CHECK_INT(0, mlt_poller_add(poller, two.ours, tag(2), MLT_POLL_READ));
        CHECK(!mlt_poller_ready(poller));
        CHECK_INT(0, mlt_poller_change(poller, two.ours, tag(3), 0));
        CHECK(!mlt_poller_ready(poller));
        CHECK_INT(0, mlt_poller_remove(poller, two.ours));
    }
    CHECK(!atomic_load(&other.done));
    put(one);
    WAIT_UNTIL(mlt_poller_ready(poller));
    CHECK_TEXT("1", end_waiter(&other));
    CHECK(mlt_poller_ready(poller));
    take(one);
    int64_t start = test_now();
    start_waiter(&other, poller, 100);
    WAIT_UNTIL(mlt_poller_change(poller, one.ours, tag(1), MLT_POLL_READ) != 0 ||
               atomic_load(&other.done));
    CHECK(test_now() - start >= 100);
    CHECK_TEXT("", end_waiter(&other));
    end_pair(one);
    end_pair(two);
    mlt_poller_free(poller);
}

enum { LAST = 1, ROUNDS = 3000 };

/* A thread that waits until it is told LAST. */
typedef struct watcher {
    mlt_poller *poller;
    pthread_t thread;
    atomic_int told;  /* tags that may come */
    atomic_int wrong; /* tags of what was never ready */
} watcher;

static void *watch(void *data)
{
    watcher *it = data;
    void *tags[TAGS];
    for (;;) {
        int count = mlt_poller_wait(it->poller, tags, TAGS, -1);
        CHECK(count >= 0);
        for (int i = 0; i < count; i++) {
            if (number(tags[i]) == LAST)
                return NULL;
            atomic_fetch_add(number(tags[i]) % 2 == 0 ? &it->told : &it->wrong, 1);
        }
    }
}

static void start_watcher(watcher *it, mlt_poller *poller)
{
    *it = (watcher){.poller = poller};
    REQUIRE(pthread_create(&it->thread, NULL, watch, it) == 0);
}

static void end_watcher(watcher *it)
{
    pair last = full_pair();
    CHECK_INT(0, mlt_poller_add(it->poller, last.ours, tag(LAST), MLT_POLL_READ));
    pthread_join(it->thread, NULL);
    CHECK_INT(0, mlt_poller_remove(it->poller, last.ours));
    end_pair(last);
}

/* While a thread waits, a number changes hands between a file that is ready and one that is not:
 * never is the second one's tag told because of the first one's readiness. Even tags are of the
 * first, odd ones of the second. */
TEST(poller_number_used_again_during_waits)
{
    mlt_poller *poller = new_poller();
    pair ready = full_pair();
    pair idle = new_pair();
    int fd = dup(idle.ours);
    watcher other;
    start_watcher(&other, poller);
    for (int i = 1; i <= ROUNDS; i++) {
        CHECK_INT(fd, dup2(ready.ours, fd));
        CHECK_INT(0, mlt_poller_add(poller, fd, tag(2 * i), MLT_POLL_READ));
        /* Now and then it is certain that the other thread is at it. */
        if (i % 100 == 0) {
            int before = atomic_load(&other.told);
            WAIT_UNTIL(atomic_load(&other.told) > before);
        }
        CHECK_INT(0, mlt_poller_remove(poller, fd));
        CHECK_INT(fd, dup2(idle.ours, fd));
        CHECK_INT(0, mlt_poller_add(poller, fd, tag(2 * i + 1), MLT_POLL_READ));
        if (i % 2 == 0)
            CHECK_INT(0, mlt_poller_change(poller, fd, tag(2 * i + 1), 0));
        CHECK_INT(0, mlt_poller_remove(poller, fd));
    }
    end_watcher(&other);
    CHECK_INT(0, other.wrong);
    close(fd);
    end_pair(ready);
    end_pair(idle);
    mlt_poller_free(poller);
}

/* A thread that registers, changes and removes descriptors of its own, and asks what is ready. */
typedef struct changer {
    mlt_poller *poller;
    pthread_t thread;
} changer;

static void *change(void *data)
{
    changer *it = data;
    for (unsigned i = 0; i < ROUNDS / 10; i++) {
        pair one = new_pair();
        CHECK_INT(0, mlt_poller_add(it->poller, one.ours, tag(2), 0));
        CHECK_INT(0, mlt_poller_change(it->poller, one.ours, tag(4), MLT_POLL_READ));
        put(one);
        mlt_poller_ready(it->poller);
        CHECK_INT(0, mlt_poller_change(it->poller, one.ours, tag(6), i % 4));
        CHECK_INT(0, mlt_poller_remove(it->poller, one.ours));
        end_pair(one);
    }
    return NULL;
}

/* Several threads change while one waits; numbers pass from one of them to another. A descriptor
 * that is ready all the time is told among all that. */
TEST(poller_many_threads_change)
{
    mlt_poller *poller = new_poller();
    changer changers[4];
    watcher other;
    start_watcher(&other, poller);
    for (int i = 0; i < 4; i++) {
        changers[i].poller = poller;
        REQUIRE(pthread_create(&changers[i].thread, NULL, change, &changers[i]) == 0);
    }
    for (int i = 0; i < 4; i++)
        pthread_join(changers[i].thread, NULL);
    pair one = full_pair();
    atomic_store(&other.told, 0);
    CHECK_INT(0, mlt_poller_add(poller, one.ours, tag(8), MLT_POLL_READ));
    WAIT_UNTIL(atomic_load(&other.told) > 0);
    CHECK_INT(0, mlt_poller_remove(poller, one.ours));
    end_watcher(&other);
    CHECK_INT(0, other.wrong);
    CHECK_TEXT("", ready_now(poller));
    end_pair(one);
    mlt_poller_free(poller);
}

/* ------------------------------------------------------------------------------------------ */
/* A listening socket that several wait on */

static int new_listener(struct sockaddr_un *address)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    snprintf(address->sun_path, sizeof address->sun_path, "%s/listener", test_folder());
    REQUIRE(fd >= 0);
    REQUIRE(bind(fd, (struct sockaddr *)address, sizeof *address) == 0);
    REQUIRE(listen(fd, 10) == 0);
    return fd;
}

static int new_connection(const struct sockaddr_un *address)
{
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    REQUIRE(fd >= 0);
    REQUIRE(connect(fd, (const struct sockaddr *)address, sizeof *address) == 0);
    return fd;
}

/* A connection is told until it is accepted, and not once the socket is removed. */
TEST(poller_shared)
{
    struct sockaddr_un address;
    mlt_poller *poller = new_poller();
    int listener = new_listener(&address);
    CHECK_INT(0, mlt_poller_add_shared(poller, listener, tag(1)));
    CHECK_TEXT("", ready_now(poller));
    int connection = new_connection(&address);
    CHECK_TEXT("1", ready_now(poller));
    CHECK_TEXT("1", ready_now(poller));
    int accepted = accept(listener, NULL, NULL);
    CHECK(accepted >= 0);
    CHECK_TEXT("", ready_now(poller));
    int second = new_connection(&address);
    CHECK_INT(0, mlt_poller_remove(poller, listener));
    CHECK_TEXT("", ready_now(poller));
    CHECK_INT(0, mlt_poller_add_shared(poller, listener, tag(2)));
    CHECK_TEXT("2", ready_now(poller));
    close(second);
    close(accepted);
    close(connection);
    close(listener);
    mlt_poller_free(poller);
}

/* Whoever waits hears of a connection, even if another, who is busy, was there first. */
TEST(poller_shared_with_a_busy_one)
{
    struct sockaddr_un address;
    mlt_poller *busy = new_poller();
    mlt_poller *idle = new_poller();
    int listener = new_listener(&address);
    waiter other;
    CHECK_INT(0, mlt_poller_add_shared(busy, listener, tag(1)));
    CHECK_INT(0, mlt_poller_add_shared(idle, listener, tag(2)));
    for (int i = 0; i < 3; i++) {
        start_waiter(&other, idle, -1);
        int connection = new_connection(&address);
        CHECK_TEXT("2", end_waiter(&other));
        int accepted = accept(listener, NULL, NULL);
        CHECK(accepted >= 0);
        close(accepted);
        close(connection);
    }
    close(listener);
    mlt_poller_free(busy);
    mlt_poller_free(idle);
}

#if defined(MLT_POLLER_EPOLL)
/* The kernel knows that the socket is shared; it does not promise to wake only one, so that the
 * flag is all that can be looked at. */
TEST(poller_shared_is_exclusive)
{
    struct sockaddr_un address;
    mlt_poller *poller = new_poller();
    int listener = new_listener(&address);
    char path[64];
    char text[512];
    unsigned events = 0;
    CHECK_INT(0, mlt_poller_add_shared(poller, listener, tag(1)));
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", mlt_poller_fd(poller));
    int fd = open(path, O_RDONLY);
    ssize_t len = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    REQUIRE(len > 0);
    text[len] = '\0';
    const char *at = strstr(text, "events:");
    REQUIRE(at != NULL);
    CHECK_INT(1, sscanf(at, "events: %x", &events));
    CHECK(events & 1U << 28); /* EPOLLEXCLUSIVE */
    close(fd);
    close(listener);
    mlt_poller_free(poller);
}
#endif

/* ------------------------------------------------------------------------------------------ */
/* Want of memory and of descriptors */

static int lowest_free(void)
{
    int fd = dup(STDOUT_FILENO);
    close(fd);
    return fd;
}

/* How many of the descriptors that a case may have are open. */
static int count_open(void)
{
    int count = 0;
    for (int fd = 0; fd < 64; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

/* Without memory there is no poller, errno says why, and no descriptor is left behind. */
TEST(poller_new_without_memory)
{
    int before = count_open();
    int failed = 0;
    for (;; failed++) {
        atomic_store(&hooks.fail_allocation, failed);
        errno = 0;
        mlt_poller *poller = mlt_poller_new();
        int error = errno;
        if (poller != NULL) {
            mlt_poller_free(poller);
            break;
        }
        CHECK_INT(ENOMEM, error);
        CHECK_INT(before, count_open());
    }
    atomic_store(&hooks.fail_allocation, -1);
    CHECK(failed > 0);
    CHECK_INT(before, count_open());
}

/* Without descriptors there is none either. */
TEST(poller_new_without_descriptors)
{
    struct rlimit limit;
    int opened = count_open();
    int first = lowest_free();
    REQUIRE(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    int failed = 0;
    for (;; failed++) {
        limit.rlim_cur = (rlim_t)(first + failed);
        REQUIRE(setrlimit(RLIMIT_NOFILE, &limit) == 0);
        errno = 0;
        mlt_poller *poller = mlt_poller_new();
        int error = errno;
        if (poller != NULL) {
            mlt_poller_free(poller);
            break;
        }
        CHECK_INT(EMFILE, error);
        CHECK_INT(opened, count_open());
    }
    CHECK(failed > 0);
    CHECK_INT(opened, count_open());
}

/* A new poller's descriptors do not reach a program that is executed. */
TEST(poller_closes_on_exec)
{
    int before = lowest_free();
    mlt_poller *poller = new_poller();
    int after = lowest_free();
    CHECK(after > before);
    for (int fd = before; fd < after; fd++)
        CHECK_INT(FD_CLOEXEC, fcntl(fd, F_GETFD));
    mlt_poller_free(poller);
}

#if defined(MLT_POLLER_POLL)
/* A wait that is woken for nothing, when its time has passed, ends. */
TEST(poller_woken_too_late)
{
    mlt_poller *poller = new_poller();
    pair one = new_pair();
    waiter other;
    start_waiter(&other, poller, 100000);
    atomic_store(&hooks.clock_ahead, 200000);
    CHECK_INT(0, mlt_poller_add(poller, one.ours, tag(1), MLT_POLL_READ));
    CHECK_TEXT("", end_waiter(&other));
    end_pair(one);
    mlt_poller_free(poller);
}

/* Where the table cannot grow for a large number, all stays as it was; nor is anything lost when
 * there is no memory for the copy that is waited on. */
TEST(poller_table_without_memory)
{
    mlt_poller *poller = new_poller();
    pair one = full_pair();
    pair two = full_pair();
    CHECK_INT(0, mlt_poller_add(poller, one.ours, tag(1), MLT_POLL_READ));
    CHECK_TEXT("1", ready_now(poller));
    CHECK_INT(300, dup2(two.ours, 300));
    for (int i = 0; i < 2; i++) {
        atomic_store(&hooks.fail_allocation, i);
        errno = 0;
        CHECK_INT(-1, mlt_poller_add(poller, 300, tag(2), MLT_POLL_READ));
        CHECK_INT(ENOMEM, errno);
        CHECK_TEXT("1", ready_now(poller));
    }
    CHECK_INT(0, mlt_poller_add(poller, 300, tag(2), MLT_POLL_READ));
    void *told;
    atomic_store(&hooks.fail_allocation, 0);
    errno = 0;
    CHECK_INT(-1, mlt_poller_wait(poller, &told, 1, 0));
    CHECK_INT(ENOMEM, errno);
    CHECK_TEXT("1 2", ready_now(poller));
    close(300);
    end_pair(one);
    end_pair(two);
    mlt_poller_free(poller);
}
#endif
