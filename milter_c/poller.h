/*
 * poller.h - waits for many descriptors at once.
 *
 * One of three backends, chosen here: epoll on Linux, kqueue on the BSDs and macOS, poll() anywhere
 * else. -DMLT_POLLER_POLL takes poll() where there is something better, so that it can be tested.
 * Knows descriptors and the pointers that they are registered with, and nothing of what they are.
 *
 * All three tell a state, not a change: what is ready is told by every wait until it no longer is.
 * A hang-up or an error counts as ready when anything is wanted.
 *
 * Threads: mlt_poller_wait() is for one thread at a time, and nothing may be in use when it is
 * freed. All other functions may be called from any thread at any time, though not by two for the
 * same descriptor, and take effect for a wait that is under way. A poller is not carried over a
 * fork: make it in the process that uses it.
 */
#ifndef MLT_POLLER_H
#define MLT_POLLER_H

#include <stdbool.h>
#include <stdint.h>

#if defined(MLT_POLLER_POLL) || defined(MLT_POLLER_KQUEUE)
/* Chosen already. */
#elif defined(__linux__)
#define MLT_POLLER_EPOLL
#elif defined(__APPLE__) || defined(__FreeBSD__) || defined(__NetBSD__) || defined(__OpenBSD__) || \
    defined(__DragonFly__)
#define MLT_POLLER_KQUEUE
#else
#define MLT_POLLER_POLL
#endif

/* What a descriptor is waited for; 0: registered, but asleep. */
enum mlt_poll_wants { MLT_POLL_READ = 1, MLT_POLL_WRITE = 2 };

typedef struct mlt_poller mlt_poller;

/* NULL with errno. */
mlt_poller *mlt_poller_new(void);

/* Descriptors that are still registered stay open. NULL is nothing to free. */
void mlt_poller_free(mlt_poller *poller);

/* Registers a descriptor that is not registered yet; `tag` is what mlt_poller_wait() tells when it
 * is ready. 0, or -1 with errno. */
int mlt_poller_add(mlt_poller *poller, int fd, void *tag, unsigned wants);

/* Registers a listening socket, for reading, on which several processes wait: where the system can
 * do that, a connection wakes one of them instead of all. Whoever is told of one must accept it,
 * because the others may not hear of it before the next. Not to be changed afterwards, only
 * removed. 0, or -1 with errno. */
int mlt_poller_add_shared(mlt_poller *poller, int fd, void *tag);

/* Makes a registered descriptor wait for this from now on, and with this tag. While it is asleep
 * not even a hang-up is told. 0, or -1 with errno. */
int mlt_poller_change(mlt_poller *poller, int fd, void *tag, unsigned wants);

/* Forgets a descriptor; to be called before it is closed. One that is not registered needs no
 * forgetting. A wait in another thread that is just returning may still tell its tag. 0, or -1 with
 * errno. */
int mlt_poller_remove(mlt_poller *poller, int fd);

/*
 * Writes the tags of what is ready into `tags`, at most `max` of them (1 or more), each descriptor
 * once. timeout: milliseconds, counted up to INT_MAX; negative: for ever. Where more is ready than
 * `max`, further calls come round to all of it. Returns their count; 0 when the time is over or a
 * signal came; -1 with errno.
 */
int mlt_poller_wait(mlt_poller *poller, void **tags, int max, int64_t timeout);

/* Whether something is ready, without taking it; also while another thread waits. With kqueue it
 * may go on to say so until the next wait, even if it no longer is. */
bool mlt_poller_ready(mlt_poller *poller);

/* A descriptor that is readable while something is ready, for an event loop around us; it stays the
 * poller's. -1 where the backend has none. */
int mlt_poller_fd(const mlt_poller *poller);

#endif
