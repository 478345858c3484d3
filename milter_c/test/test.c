/*
 * test.c - runs the cases, and what they share.
 *
 *   tests [-v] [part of a name...]
 *
 * Prints one line per failed check and per skipped case, and at the end how many passed and failed.
 * With TEST_RESULTS in the environment these two numbers are also added to that file.
 */
#include "test.h"

#include <errno.h>
#include <ftw.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Whoever takes longer hangs; sanitizers on a busy machine are slow. */
enum { CASE_SECONDS = 120 };
enum { PASSED = 0, FAILED = 1, SKIPPED = 77 };
enum { FOLDER_BYTES = 64 };

static test_case *first_case;
static test_case **last_case = &first_case;
static const test_case *running;
static const char *row;
static atomic_int failures;
static char *folder; /* shared with the parent, which removes it */

void test_add(test_case *one)
{
    *last_case = one;
    last_case = &one->next;
}

/* ------------------------------------------------------------------------------------------ */
/* Checks */

void test_row(const char *name)
{
    row = name;
}

void test_skip(const char *reason)
{
    printf("skipped: %s: %s\n", running->name, reason);
    fflush(stdout);
    _exit(SKIPPED);
}

static void complain(const char *file, int line, const char *what)
{
    atomic_fetch_add(&failures, 1);
    printf("%s:%d: %s%s%s: %s\n", file, line, running->name, row != NULL ? ": " : "",
           row != NULL ? row : "", what);
}

void check_true(const char *file, int line, const char *what, bool holds)
{
    if (holds)
        return;
    complain(file, line, what);
    printf("    does not hold\n");
    fflush(stdout);
}

void require_true(const char *file, int line, const char *what, bool holds)
{
    check_true(file, line, what, holds);
    if (!holds)
        _exit(FAILED);
}

void check_int(const char *file, int line, const char *what, int64_t expected, int64_t actual)
{
    if (expected == actual)
        return;
    complain(file, line, what);
    printf("    expected %" PRId64 " (0x%" PRIx64 ")\n", expected, (uint64_t)expected);
    printf("    actual   %" PRId64 " (0x%" PRIx64 ")\n", actual, (uint64_t)actual);
    fflush(stdout);
}

void check_text(const char *file, int line, const char *what, const char *expected,
                const char *actual)
{
    if (strcmp(expected, actual) == 0)
        return;
    complain(file, line, what);
    printf("    expected \"%s\"\n    actual   \"%s\"\n", expected, actual);
    fflush(stdout);
}

static void print_bytes(const char *title, const void *data, size_t len)
{
    const unsigned char *at = data;
    printf("    %s %zu bytes:", title, len);
    for (size_t i = 0; i < len && i < 64; i++)
        printf(" %02X", at[i]);
    printf("%s\n", len > 64 ? " ..." : "");
}

void check_bytes(const char *file, int line, const char *what, const void *expected,
                 size_t expected_len, const void *actual, size_t actual_len)
{
    if (expected_len == actual_len &&
        (expected_len == 0 || memcmp(expected, actual, expected_len) == 0))
        return;
    complain(file, line, what);
    print_bytes("expected", expected, expected_len);
    print_bytes("actual  ", actual, actual_len);
    fflush(stdout);
}

/* ------------------------------------------------------------------------------------------ */
/* Bytes */

static int digit(char c)
{
    static const char digits[] = "0123456789ABCDEF";
    const char *found = c != '\0' ? strchr(digits, c) : NULL;
    require_true(__FILE__, __LINE__, "a hex digit in the test's bytes", found != NULL);
    return (int)(found - digits);
}

test_bytes hex(const char *digits)
{
    test_bytes out = {0};
    while (*digits != '\0') {
        if (*digits == ' ') {
            digits++;
            continue;
        }
        require_true(__FILE__, __LINE__, "room for the test's bytes", out.len < sizeof out.data);
        out.data[out.len++] = (char)(digit(digits[0]) << 4 | digit(digits[1]));
        digits += 2;
    }
    return out;
}

/* ------------------------------------------------------------------------------------------ */
/* Hooks */

test_hooks hooks = {
    .fail_allocation = -1, .receive_limit = -1, .send_limit = -1, .prepare_pause = -1};

void *__real_malloc(size_t size);
void *__wrap_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__wrap_calloc(size_t count, size_t size);
ssize_t __real_recv(int fd, void *data, size_t len, int flags);
ssize_t __wrap_recv(int fd, void *data, size_t len, int flags);
ssize_t __real_sendmsg(int fd, const struct msghdr *message, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags);
int __real_getsockname(int fd, struct sockaddr *address, socklen_t *len);
int __wrap_getsockname(int fd, struct sockaddr *address, socklen_t *len);
int __real_accept4(int fd, struct sockaddr *address, socklen_t *len, int flags);
int __wrap_accept4(int fd, struct sockaddr *address, socklen_t *len, int flags);

int64_t __real_mlt_socket_now(void);
int64_t __wrap_mlt_socket_now(void);

static bool allocation_fails(void)
{
    atomic_fetch_add(&hooks.allocations, 1);
    return atomic_load(&hooks.fail_allocation) >= 0 &&
           atomic_fetch_sub(&hooks.fail_allocation, 1) == 0;
}

void *__wrap_malloc(size_t size)
{
    return allocation_fails() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t count, size_t size)
{
    return allocation_fails() ? NULL : __real_calloc(count, size);
}

ssize_t __wrap_recv(int fd, void *data, size_t len, int flags)
{
    atomic_fetch_add(&hooks.receive_calls, 1);
    if (atomic_load(&hooks.interrupt_receive) > 0) {
        atomic_fetch_sub(&hooks.interrupt_receive, 1);
        errno = EINTR;
        return -1;
    }
    atomic_fetch_add(&hooks.clock_ahead, atomic_load(&hooks.clock_per_receive));
    if (atomic_load(&hooks.stutter) && (flags & MSG_DONTWAIT) != 0 &&
        atomic_load(&hooks.receive_calls) % 2 == 0) {
        errno = EAGAIN;
        return -1;
    }
    long limit = atomic_load(&hooks.receive_limit);
    if (limit >= 0 && (size_t)limit < len)
        len = (size_t)limit;
    ssize_t got = __real_recv(fd, data, len, flags);
    if (got > 0)
        atomic_fetch_add(&hooks.received, got);
    return got;
}

ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags)
{
    atomic_fetch_add(&hooks.send_calls, 1);
    if (atomic_load(&hooks.interrupt_send) > 0) {
        atomic_fetch_sub(&hooks.interrupt_send, 1);
        errno = EINTR;
        return -1;
    }
    long limit = atomic_load(&hooks.send_limit);
    if (limit < 0)
        return __real_sendmsg(fd, message, flags);
    struct iovec parts[8];
    struct msghdr part = *message;
    size_t left = (size_t)limit;
    require_true(__FILE__, __LINE__, "parts of a message", message->msg_iovlen <= 8);
    part.msg_iov = parts;
    part.msg_iovlen = 0;
    for (size_t i = 0; i < message->msg_iovlen && left > 0; i++) {
        parts[i] = message->msg_iov[i];
        if (parts[i].iov_len > left)
            parts[i].iov_len = left;
        left -= parts[i].iov_len;
        part.msg_iovlen++;
    }
    return __real_sendmsg(fd, &part, flags);
}

int __wrap_getsockname(int fd, struct sockaddr *address, socklen_t *len)
{
    long pause = atomic_exchange(&hooks.prepare_pause, -1);
    if (pause > 0)
        test_pause((int)pause);
    return __real_getsockname(fd, address, len);
}

int __wrap_accept4(int fd, struct sockaddr *address, socklen_t *len, int flags)
{
    atomic_fetch_add(&hooks.accept_calls, 1);
    int error = (int)atomic_load(&hooks.accept_error);
    if (error != 0) {
        errno = error;
        return -1;
    }
    return __real_accept4(fd, address, len, flags);
}

int64_t __wrap_mlt_socket_now(void)
{
    return __real_mlt_socket_now() + atomic_load(&hooks.clock_ahead);
}

/* ------------------------------------------------------------------------------------------ */
/* Time and files */

int64_t test_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

void test_pause(int ms)
{
    struct timespec time = {ms / 1000, (long)(ms % 1000) * 1000000};
    nanosleep(&time, NULL);
}

const char *test_folder(void)
{
    if (*folder == '\0') {
        char name[FOLDER_BYTES] = "/tmp/mlt-test-XXXXXX";
        require_true(__FILE__, __LINE__, "mkdtemp", mkdtemp(name) != NULL);
        memcpy(folder, name, sizeof name);
    }
    return folder;
}

static int remove_one(const char *path, const struct stat *info, int type, struct FTW *where)
{
    (void)info;
    (void)type;
    (void)where;
    return remove(path);
}

/* ------------------------------------------------------------------------------------------ */
/* Running */

/* What a case left behind that is not its own end: PASSED, FAILED or SKIPPED. */
static int run(const test_case *one)
{
    fflush(stdout);
    fflush(stderr);
    pid_t child = fork();
    if (child == 0) {
        running = one;
        alarm(CASE_SECONDS);
        one->run();
        fflush(stdout);
        /* By exit(), so that leaks are looked for. */
        exit(atomic_load(&failures) > 0 ? FAILED : PASSED);
    }
    int status = 0;
    while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    if (*folder != '\0')
        nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    *folder = '\0';
    if (child > 0 && WIFEXITED(status)) {
        int code = WEXITSTATUS(status);
        if (code == PASSED || code == SKIPPED)
            return code;
        printf("FAILED: %s (%s), exit status %d\n", one->name, one->file, code);
    } else if (child > 0 && WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM) {
        printf("FAILED: %s (%s), not done after %d s\n", one->name, one->file, CASE_SECONDS);
    } else {
        printf("FAILED: %s (%s), signal %d\n", one->name, one->file, WTERMSIG(status));
    }
    return FAILED;
}

static bool is_chosen(const test_case *one, char **parts)
{
    if (*parts == NULL)
        return true;
    for (; *parts != NULL; parts++) {
        if (strstr(one->name, *parts) != NULL)
            return true;
    }
    return false;
}

int main(int argc, char **argv)
{
    (void)argc;
    int passed = 0;
    int failed = 0;
    int skipped = 0;
    argv++;
    bool verbose = *argv != NULL && strcmp(*argv, "-v") == 0;
    argv += verbose;
    folder = mmap(NULL, FOLDER_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (folder == MAP_FAILED)
        return FAILED;
    for (const test_case *one = first_case; one != NULL; one = one->next) {
        if (!is_chosen(one, argv))
            continue;
        int64_t start = test_now();
        int result = run(one);
        passed += result == PASSED;
        skipped += result == SKIPPED;
        failed += result == FAILED;
        if (verbose)
            printf("%6" PRId64 " ms  %s\n", test_now() - start, one->name);
    }
    const char *results = getenv("TEST_RESULTS");
    FILE *file = results != NULL ? fopen(results, "a") : NULL;
    if (file != NULL) {
        fprintf(file, "%d %d\n", passed, failed);
        fclose(file);
    }
    if (skipped > 0)
        printf("%d skipped\n", skipped);
    printf("%d passed, %d failed\n", passed, failed);
    return failed > 0 || passed == 0 ? FAILED : PASSED;
}
