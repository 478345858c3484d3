/*
 * test.h - checks, cases, guarded memory and hooked system calls for the C tests.
 *
 * Needs libc only. Each case runs in a process of its own (test.c), so one that crashes, hangs or
 * changes a limit is that case's failure and nobody else's.
 */
#ifndef MLT_TEST_H
#define MLT_TEST_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "guard.h"

/* ------------------------------------------------------------------------------------------ */
/* Cases and checks */

typedef struct test_case {
    const char *file;
    const char *name;
    void (*run)(void);
    struct test_case *next;
} test_case;

void test_add(test_case *one);

/* Defines a case; it registers itself. The comment above it says what holds. */
#define TEST(title)                                             \
    static void title(void);                                    \
    __attribute__((constructor)) static void add_##title(void)  \
    {                                                           \
        static test_case one = {__FILE__, #title, title, NULL}; \
        test_add(&one);                                         \
    }                                                           \
    static void title(void)

/* Names the row of a table that is being checked; it is printed with what fails. NULL: none. */
void test_row(const char *name);

/* Ends the case as not run; the reason is printed and counted. */
_Noreturn void test_skip(const char *reason);

/* A check that fails prints both values and lets the case go on. */
void check_true(const char *file, int line, const char *what, bool holds);
void check_int(const char *file, int line, const char *what, int64_t expected, int64_t actual);
void check_text(const char *file, int line, const char *what, const char *expected,
                const char *actual);
void check_bytes(const char *file, int line, const char *what, const void *expected,
                 size_t expected_len, const void *actual, size_t actual_len);

#define CHECK(condition) check_true(__FILE__, __LINE__, #condition, condition)
#define CHECK_INT(expected, actual) \
    check_int(__FILE__, __LINE__, #actual, (int64_t)(expected), (int64_t)(actual))
#define CHECK_TEXT(expected, actual) check_text(__FILE__, __LINE__, #actual, expected, actual)
#define CHECK_BYTES(expected, expected_len, actual, actual_len) \
    check_bytes(__FILE__, __LINE__, #actual, expected, expected_len, actual, actual_len)

/* Checks that hold or end the case at once: what comes after makes no sense without them. */
#define REQUIRE(condition) require_true(__FILE__, __LINE__, #condition, condition)
void require_true(const char *file, int line, const char *what, bool holds);

/* ------------------------------------------------------------------------------------------ */
/* Bytes */

typedef struct test_bytes {
    size_t len;
    char data[1024];
} test_bytes;

/* Bytes written as hex digits; blanks between them are skipped. */
test_bytes hex(const char *digits);

#define CHECK_HEX(digits, actual, actual_len)                     \
    do {                                                          \
        test_bytes wanted = hex(digits);                          \
        CHECK_BYTES(wanted.data, wanted.len, actual, actual_len); \
    } while (0)

/* ------------------------------------------------------------------------------------------ */
/* Hooks: the linker puts these between the engine and libc (--wrap, see the Makefile). All are
 * off to begin with; -1 means off. */

typedef struct test_hooks {
    atomic_long allocations;       /* calls of malloc and calloc */
    atomic_long fail_allocation;   /* counted down by each; the one that finds 0 fails */
    atomic_long receive_calls;     /* calls of recv */
    atomic_long received;          /* bytes that they brought */
    atomic_long receive_limit;     /* bytes that one of them brings at most */
    atomic_long interrupt_receive; /* so many of the next ones fail with EINTR */
    atomic_long stutter;           /* true: every other recv that must not wait finds nothing */
    atomic_long send_calls;        /* calls of sendmsg */
    atomic_long send_limit;        /* bytes that one of them takes at most */
    atomic_long interrupt_send;    /* so many of the next ones fail with EINTR */
    atomic_long prepare_pause;     /* ms that the next getsockname takes longer */
    atomic_long accept_error;      /* errno that each accept fails with */
    atomic_long accept_calls;
    atomic_long clock_ahead;       /* ms that mlt_socket_now() is ahead */
    atomic_long clock_per_receive; /* ms that each recv puts it forward */
} test_hooks;

extern test_hooks hooks;

/* ------------------------------------------------------------------------------------------ */
/* Time and files */

/* Polls until the condition holds, with a generous end. */
#define WAIT_UNTIL(condition)                             \
    do {                                                  \
        bool held;                                        \
        int64_t end = test_now() + 20000;                 \
        while (!(held = (condition)) && test_now() < end) \
            test_pause(1);                                \
        check_true(__FILE__, __LINE__, #condition, held); \
    } while (0)

int64_t test_now(void); /* ms */
void test_pause(int ms);
const char *test_folder(void); /* this case's own; removed after it */

#endif
