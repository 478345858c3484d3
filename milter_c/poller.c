/*
 * poller.c - waiting for many descriptors at once, by epoll, kqueue or poll().
 */
#include "poller.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#if defined(MLT_POLLER_EPOLL)
#include <sys/epoll.h>
#elif defined(MLT_POLLER_KQUEUE)
#include <sys/event.h>
#include <sys/time.h>
#else
#include <pthread.h>

#include "socket.h"
#endif

/* ------------------------------------------------------------------------------------------ */
/* What epoll and kqueue share: the kernel keeps the table, and is found by a descriptor */

#if !defined(MLT_POLLER_POLL)

/* What one system call brings at most; it fits on the stack. */
enum { BATCH = 128 };

struct mlt_poller {
    int fd;
};

static mlt_poller *new_poller(int fd)
{
    mlt_poller *poller = fd >= 0 ? malloc(sizeof *poller) : NULL;
    if (poller != NULL) {
        poller->fd = fd;
    } else if (fd >= 0) {
        close(fd);
        errno = ENOMEM;
    }
    return poller;
}

void mlt_poller_free(mlt_poller *poller)
{
    if (poller == NULL)
        return;
    close(poller->fd);
    free(poller);
}

bool mlt_poller_ready(mlt_poller *poller)
{
    struct pollfd asked = {poller->fd, POLLIN, 0};
    return poll(&asked, 1, 0) > 0;
}

int mlt_poller_fd(const mlt_poller *poller)
{
    return poller->fd;
}

#endif

/* ------------------------------------------------------------------------------------------ */
/* epoll */

#if defined(MLT_POLLER_EPOLL)

/* Since Linux 4.5; older kernels take no notice of it. */
#ifndef EPOLLEXCLUSIVE
#define EPOLLEXCLUSIVE 0
#endif

mlt_poller *mlt_poller_new(void)
{
    return new_poller(epoll_create1(EPOLL_CLOEXEC));
}

static int control(const mlt_poller *poller, int operation, int fd, void *tag, uint32_t events)
{
    struct epoll_event event = {.events = events, .data = {.ptr = tag}};
    return epoll_ctl(poller->fd, operation, fd, &event);
}

static uint32_t to_events(unsigned wants)
{
    return (wants & MLT_POLL_READ ? (uint32_t)EPOLLIN : 0) |
           (wants & MLT_POLL_WRITE ? (uint32_t)EPOLLOUT : 0);
}

/* epoll cannot be asked to keep a hang-up to itself, so what is asleep is not there at all. */

int mlt_poller_add(mlt_poller *poller, int fd, void *tag, unsigned wants)
{
    return wants == 0 ? 0 : control(poller, EPOLL_CTL_ADD, fd, tag, to_events(wants));
}

int mlt_poller_add_shared(mlt_poller *poller, int fd, void *tag)
{
    return control(poller, EPOLL_CTL_ADD, fd, tag, EPOLLIN | EPOLLEXCLUSIVE);
}

int mlt_poller_change(mlt_poller *poller, int fd, void *tag, unsigned wants)
{
    if (wants == 0)
        return mlt_poller_remove(poller, fd);
    if (control(poller, EPOLL_CTL_MOD, fd, tag, to_events(wants)) == 0)
        return 0;
    return errno == ENOENT ? control(poller, EPOLL_CTL_ADD, fd, tag, to_events(wants)) : -1;
}

int mlt_poller_remove(mlt_poller *poller, int fd)
{
    return control(poller, EPOLL_CTL_DEL, fd, NULL, 0) == 0 || errno == ENOENT ? 0 : -1;
}

int mlt_poller_wait(mlt_poller *poller, void **tags, int max, int64_t timeout)
{
    struct epoll_event events[BATCH];
    int count = epoll_wait(poller->fd, events, max < BATCH ? max : BATCH,
                           timeout < 0         ? -1
                           : timeout > INT_MAX ? INT_MAX
                                               : (int)timeout);
    for (int i = 0; i < count; i++)
        tags[i] = events[i].data.ptr;
    return count < 0 && errno == EINTR ? 0 : count;
}

/* ------------------------------------------------------------------------------------------ */
/* kqueue */

#elif defined(MLT_POLLER_KQUEUE)

mlt_poller *mlt_poller_new(void)
{
    int fd = kqueue();
    if (fd >= 0)
        fcntl(fd, F_SETFD, FD_CLOEXEC);
    return new_poller(fd);
}

/* One call for each filter: of several changes in one call, the first that fails hides the others.
 */
static int control(const mlt_poller *poller, int fd, short filter, bool wanted, void *tag)
{
    struct kevent event;
    /* NetBSD had a number for a tag until version 10. */
    EV_SET(&event, (uintptr_t)fd, filter, wanted ? EV_ADD : EV_DELETE, 0, 0,
           (__typeof__(event.udata))tag);
    return kevent(poller->fd, &event, 1, NULL, 0, NULL) == 0 || (!wanted && errno == ENOENT) ? 0
                                                                                             : -1;
}

int mlt_poller_add(mlt_poller *poller, int fd, void *tag, unsigned wants)
{
    if (wants & MLT_POLL_READ && control(poller, fd, EVFILT_READ, true, tag) != 0)
        return -1;
    if (wants & MLT_POLL_WRITE && control(poller, fd, EVFILT_WRITE, true, tag) != 0) {
        int error = errno;
        control(poller, fd, EVFILT_READ, false, NULL);
        errno = error;
        return -1;
    }
    return 0;
}

int mlt_poller_add_shared(mlt_poller *poller, int fd, void *tag)
{
    return mlt_poller_add(poller, fd, tag, MLT_POLL_READ);
}

int mlt_poller_change(mlt_poller *poller, int fd, void *tag, unsigned wants)
{
    int read = control(poller, fd, EVFILT_READ, wants & MLT_POLL_READ, tag);
    int write = control(poller, fd, EVFILT_WRITE, wants & MLT_POLL_WRITE, tag);
    return read == 0 && write == 0 ? 0 : -1;
}

int mlt_poller_remove(mlt_poller *poller, int fd)
{
    return mlt_poller_change(poller, fd, NULL, 0);
}

/* Whether this is the second of two events of one descriptor that can be read and written. */
static bool is_told_twice(const struct kevent *event, const struct kevent *events, int count)
{
    if (event->filter != EVFILT_WRITE)
        return false;
    for (int i = 0; i < count; i++) {
        if (events[i].filter == EVFILT_READ && events[i].ident == event->ident)
            return true;
    }
    return false;
}

int mlt_poller_wait(mlt_poller *poller, void **tags, int max, int64_t timeout)
{
    struct kevent events[BATCH];
    int64_t ms = timeout > INT_MAX ? INT_MAX : timeout;
    struct timespec time = {(time_t)(ms / 1000), (long)(ms % 1000) * 1000000};
    int count =
        kevent(poller->fd, NULL, 0, events, max < BATCH ? max : BATCH, timeout < 0 ? NULL : &time);
    int told = 0;
    for (int i = 0; i < count; i++) {
        if (!is_told_twice(&events[i], events, count))
            tags[told++] = (void *)events[i].udata;
    }
    return count < 0 && errno != EINTR ? -1 : told;
}

/* ------------------------------------------------------------------------------------------ */
/* poll */

#else

/* The tables have a place for so many descriptors to begin with. */
enum { FIRST_CAPACITY = 64 };

/* What is kept of a descriptor besides its place in `wanted`. */
typedef struct entry {
    void *tag;
    uint64_t changed; /* the count of changes at its last one */
} entry;

/* Both tables have a descriptor at the place of its number, so that all is found at once, and so
 * that the order in which descriptors get their turn does not depend on others coming and going. */
struct mlt_poller {
    pthread_mutex_t lock; /* of everything but what is marked "the waiter's" */
    size_t capacity;
    struct pollfd *wanted; /* fd -1: not registered, or asleep */
    entry *entries;
    size_t used; /* behind the last descriptor that is wanted */
    uint64_t changes;
    bool waiting; /* somebody is in poll(), for what was wanted before */
    bool woken;   /* there is a byte in the pipe */
    int pipe[2];  /* its reading end is among what is wanted */
    /* The waiter's: what it asks for, while others change what is wanted. */
    struct pollfd *asked;
    size_t asked_capacity;
    size_t asked_used;
    uint64_t asked_changes; /* the count of changes when it was copied */
    size_t next;            /* the descriptor whose turn it is */
};

/* Makes a place for this descriptor. 0, or -1 with errno and all as it was. */
static int grow(mlt_poller *poller, size_t fd)
{
    size_t old = poller->capacity;
    size_t capacity = old > 0 ? old : FIRST_CAPACITY;
    while (capacity <= fd)
        capacity *= 2;
    struct pollfd *wanted = malloc(capacity * sizeof *wanted);
    entry *entries = malloc(capacity * sizeof *entries);
    if (wanted == NULL || entries == NULL) {
        free(wanted);
        free(entries);
        errno = ENOMEM;
        return -1;
    }
    for (size_t i = old; i < capacity; i++) {
        wanted[i] = (struct pollfd){-1, 0, 0};
        entries[i] = (entry){NULL, 0};
    }
    if (old > 0) {
        memcpy(wanted, poller->wanted, old * sizeof *wanted);
        memcpy(entries, poller->entries, old * sizeof *entries);
    }
    free(poller->wanted);
    free(poller->entries);
    poller->wanted = wanted;
    poller->entries = entries;
    poller->capacity = capacity;
    return 0;
}

/* Enters what a descriptor is waited for, and lets a wait that is under way know. */
static int set(mlt_poller *poller, int fd, void *tag, unsigned wants)
{
    if (fd < 0) {
        errno = EBADF;
        return -1;
    }
    size_t at = (size_t)fd;
    int result = 0;
    pthread_mutex_lock(&poller->lock);
    if (at >= poller->capacity && wants != 0)
        result = grow(poller, at);
    if (result == 0 && at < poller->capacity) {
        int events = (wants & MLT_POLL_READ ? POLLIN : 0) | (wants & MLT_POLL_WRITE ? POLLOUT : 0);
        poller->wanted[at] = (struct pollfd){wants != 0 ? fd : -1, (short)events, 0};
        poller->entries[at] = (entry){tag, ++poller->changes};
        if (wants != 0 && at >= poller->used)
            poller->used = at + 1;
        while (poller->used > 0 && poller->wanted[poller->used - 1].fd < 0)
            poller->used--;
        if (poller->waiting && !poller->woken)
            poller->woken = write(poller->pipe[1], "", 1) == 1;
    }
    pthread_mutex_unlock(&poller->lock);
    return result;
}

mlt_poller *mlt_poller_new(void)
{
    mlt_poller *poller = calloc(1, sizeof *poller);
    if (poller == NULL || pipe(poller->pipe) != 0) {
        int error = poller == NULL ? ENOMEM : errno;
        free(poller);
        errno = error;
        return NULL;
    }
    pthread_mutex_init(&poller->lock, NULL);
    for (int i = 0; i < 2; i++) {
        fcntl(poller->pipe[i], F_SETFD, FD_CLOEXEC);
        fcntl(poller->pipe[i], F_SETFL, O_NONBLOCK);
    }
    if (set(poller, poller->pipe[0], NULL, MLT_POLL_READ) != 0) {
        mlt_poller_free(poller);
        errno = ENOMEM;
        return NULL;
    }
    return poller;
}

void mlt_poller_free(mlt_poller *poller)
{
    if (poller == NULL)
        return;
    close(poller->pipe[0]);
    close(poller->pipe[1]);
    pthread_mutex_destroy(&poller->lock);
    free(poller->wanted);
    free(poller->entries);
    free(poller->asked);
    free(poller);
}

int mlt_poller_add(mlt_poller *poller, int fd, void *tag, unsigned wants)
{
    return set(poller, fd, tag, wants);
}

int mlt_poller_add_shared(mlt_poller *poller, int fd, void *tag)
{
    return set(poller, fd, tag, MLT_POLL_READ);
}

int mlt_poller_change(mlt_poller *poller, int fd, void *tag, unsigned wants)
{
    return set(poller, fd, tag, wants);
}

int mlt_poller_remove(mlt_poller *poller, int fd)
{
    return set(poller, fd, NULL, 0);
}

/* Takes over what is wanted now, if that has changed. 0, or -1 with errno. */
static int ask(mlt_poller *poller)
{
    if (poller->asked_changes == poller->changes)
        return 0;
    if (poller->asked_capacity < poller->used) {
        struct pollfd *asked = malloc(poller->capacity * sizeof *asked);
        if (asked == NULL) {
            errno = ENOMEM;
            return -1;
        }
        free(poller->asked);
        poller->asked = asked;
        poller->asked_capacity = poller->capacity;
    }
    memcpy(poller->asked, poller->wanted, poller->used * sizeof *poller->asked);
    poller->asked_used = poller->used;
    poller->asked_changes = poller->changes;
    return 0;
}

/* Tells what poll() found, from the one whose turn it is. ready: how many it found. What was
 * changed meanwhile is left out: the answer is to another question, perhaps of another file. */
static int tell(mlt_poller *poller, int ready, void **tags, int max)
{
    int count = 0;
    size_t start = poller->next < poller->asked_used ? poller->next : 0;
    for (size_t i = 0; i < poller->asked_used && ready > 0 && count < max; i++) {
        size_t at = start + i < poller->asked_used ? start + i : start + i - poller->asked_used;
        if (poller->asked[at].revents == 0)
            continue;
        ready--;
        if (poller->asked[at].fd != poller->pipe[0] &&
            poller->entries[at].changed <= poller->asked_changes) {
            tags[count++] = poller->entries[at].tag;
            poller->next = at + 1;
        }
    }
    return count;
}

int mlt_poller_wait(mlt_poller *poller, void **tags, int max, int64_t timeout)
{
    int64_t limit = timeout > INT_MAX ? INT_MAX : timeout;
    int64_t deadline = limit > 0 ? mlt_socket_now() + limit : 0;
    int64_t left = limit;
    int count = 0;
    int ready;
    do {
        pthread_mutex_lock(&poller->lock);
        if (ask(poller) != 0) {
            pthread_mutex_unlock(&poller->lock);
            return -1;
        }
        poller->waiting = true;
        pthread_mutex_unlock(&poller->lock);
        ready = poll(poller->asked, (nfds_t)poller->asked_used, left < 0 ? -1 : (int)left);
        int error = errno;
        pthread_mutex_lock(&poller->lock);
        poller->waiting = false;
        if (poller->woken) {
            char byte;
            poller->woken = read(poller->pipe[0], &byte, 1) != 1;
        }
        if (ready > 0)
            count = tell(poller, ready, tags, max);
        pthread_mutex_unlock(&poller->lock);
        errno = error;
        if (limit > 0) {
            left = deadline - mlt_socket_now();
            if (left < 0)
                left = 0;
        }
    } while (ready > 0 && count == 0);
    return ready < 0 && errno != EINTR ? -1 : count;
}

bool mlt_poller_ready(mlt_poller *poller)
{
    pthread_mutex_lock(&poller->lock);
    int ready = poll(poller->wanted, (nfds_t)poller->used, 0);
    bool woken = poller->wanted[poller->pipe[0]].revents != 0;
    pthread_mutex_unlock(&poller->lock);
    return ready - woken > 0;
}

int mlt_poller_fd(const mlt_poller *poller)
{
    (void)poller;
    return -1;
}

#endif
