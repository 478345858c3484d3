/* Random waits before and after the calls by which processes and threads meet each other, so that a
 * race which a quiet machine always wins is lost now and then. Preloaded by scripts/test-shaken.
 *
 * DELAYS_ONE_IN: one call in so many waits, 0 none does. DELAYS_US: at most so many microseconds.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static unsigned one_in, most_us;
static __thread uint64_t state;

static unsigned number(const char *name, unsigned otherwise)
{
    const char *text = getenv(name);
    return text ? (unsigned)strtoul(text, NULL, 10) : otherwise;
}

__attribute__((constructor)) static void begin(void)
{
    one_in = number("DELAYS_ONE_IN", 20);
    most_us = number("DELAYS_US", 20000);
}

static void maybe_wait(void)
{
    if (!one_in)
        return;
    if (!state) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        /* Another sequence for each thread; xorshift's state must not be 0. */
        state = ((uint64_t)now.tv_nsec << 32 ^ (uintptr_t)&state ^ (uint64_t)getpid()) | 1;
    }
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    if (state % one_in)
        return;
    int kept = errno;
    uint64_t us = (state >> 20) % (most_us + 1ULL);
    struct timespec wait = {(time_t)(us / 1000000), (long)(us % 1000000) * 1000};
    syscall(SYS_nanosleep, &wait, NULL);
    errno = kept;
}

#define SHAKEN(type, name, parameters, arguments)               \
    type name parameters                                        \
    {                                                           \
        static type(*real) parameters;                          \
        if (!real)                                              \
            real = (type(*) parameters)dlsym(RTLD_NEXT, #name); \
        maybe_wait();                                           \
        type result = real arguments;                           \
        maybe_wait();                                           \
        return result;                                          \
    }

SHAKEN(int, bind, (int fd, const struct sockaddr *to, socklen_t size), (fd, to, size))
SHAKEN(int, listen, (int fd, int backlog), (fd, backlog))
SHAKEN(int, connect, (int fd, const struct sockaddr *to, socklen_t size), (fd, to, size))
SHAKEN(int, accept4, (int fd, struct sockaddr *from, socklen_t *size, int flags),
       (fd, from, size, flags))
SHAKEN(int, shutdown, (int fd, int how), (fd, how))
SHAKEN(int, close, (int fd), (fd))
SHAKEN(ssize_t, recv, (int fd, void *data, size_t size, int flags), (fd, data, size, flags))
SHAKEN(ssize_t, send, (int fd, const void *data, size_t size, int flags), (fd, data, size, flags))
SHAKEN(ssize_t, sendmsg, (int fd, const struct msghdr *message, int flags), (fd, message, flags))
SHAKEN(ssize_t, write, (int fd, const void *data, size_t size), (fd, data, size))
SHAKEN(int, poll, (struct pollfd * fds, nfds_t count, int timeout), (fds, count, timeout))
SHAKEN(int, epoll_wait, (int fd, struct epoll_event *events, int count, int timeout),
       (fd, events, count, timeout))
SHAKEN(int, kill, (pid_t process, int number), (process, number))
