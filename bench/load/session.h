/* The MTA's end of the connections: each a small state machine on a non-blocking socket. */
#ifndef BENCH_SESSION_H
#define BENCH_SESSION_H

#include "address.h"
#include "reply.h"
#include "script.h"
#include "tally.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct session;

/* Where the filter is expected to refuse the connection. */
enum expectation {
    EXPECT_ANYTHING,
    EXPECT_NO_REFUSAL,
    EXPECT_AT_CONNECT,
    EXPECT_AT_HELO,
};

/* What all sessions share. The caller sets the first part and keeps `now` and `stopping`. */
struct load {
    struct address address;
    struct workload workload;
    unsigned messages; /* in each connection */
    enum expectation expectation;
    int epoll;

    int64_t now;   /* nanoseconds of the monotonic clock, about */
    bool stopping; /* messages are ended, none is begun */

    struct script *scripts;  /* owned: one for each answer to the offer */
    struct session *waiting; /* to be opened, the first first */
    struct session *waiting_last;
    struct session *ended; /* whose connection has ended; the caller empties the list */
    unsigned parked;       /* idle sessions that have fallen silent so far */
    struct tally tally;
    uint64_t retries; /* connects put off because the filter's backlog was full */
    uint64_t errors;
    char first_error[256];

    uint8_t input[65536]; /* what is read, before it is taken apart */
};

/* One session: one connection after another. All zero but `fd`, which is -1, is a fresh one. */
struct session {
    int fd;
    bool idle;     /* to be silent after HELO */
    bool parked;   /* is so now */
    bool watched;  /* the poller waits until it can be written to, too */
    bool owed;     /* the filter's answer is waited for */
    bool flush;    /* what is queued is to be written */
    bool quitting; /* nothing comes after what is queued */
    bool in_message;
    const struct script *script; /* NULL until negotiated; owned by the load */
    size_t step;                 /* what is queued next */
    size_t asked;                /* what was last queued: what the answer is to */
    unsigned messages;           /* ended in this connection */
    unsigned refused;            /* recipients of this message */
    int64_t opened;              /* when connecting began; 0 before */
    int64_t message;             /* when the message began */
    int64_t since;               /* when the filter last did something, or was last asked */
    struct iovec out[2];         /* queued: the script's own bytes */
    int out_count;
    struct reply reply;
    struct session *next; /* in load.waiting or load.ended */
};

/* Nanoseconds of the monotonic clock. */
int64_t session_clock(void);

/* Puts a session without a connection at the end of those to be opened. */
void session_enqueue(struct load *load, struct session *session);

/* Opens those that wait, until the filter's backlog is full. */
void session_open_waiting(struct load *load);

/* Goes on after the poller has reported the connection. */
void session_ready(struct load *load, struct session *session, uint32_t events);

/* Ends a parked connection as an MTA does. */
void session_quit(struct load *load, struct session *session);

/* Ends the connection with an error if the filter has owed an answer for longer than `timeout`
 * nanoseconds. */
void session_check_timeout(struct load *load, struct session *session, int64_t timeout);

#endif
