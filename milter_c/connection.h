/*
 * connection.h - one connection: socket, buffer, frames, session.
 *
 * Waits for nothing: it says when it needs more bytes, and one of the two ways of waiting
 * (blocking.h, pool.h) gets them. Knows its server only for the settings, for whether it is
 * stopping, and to be found by it.
 */
#ifndef MLT_CONNECTION_H
#define MLT_CONNECTION_H

#include <stdatomic.h>
#include <stdbool.h>
#include <sys/types.h>

#include "buffer.h"
#include "engine.h"
#include "session.h"

/* The events that were reported last. Lent to a connection by the thread that works for it. */
typedef struct mlt_batch {
    size_t count;
    const mlt_event *events;
    char *text;                 /* MLT_TEXT bytes */
    size_t ends[MLT_EVENTS];    /* bytes of `in` taken, with this event's packet */
    mlt_mark marks[MLT_EVENTS]; /* the session behind this event, had it been CONTINUE */
} mlt_batch;

struct mlt_connection {
    mlt_server *server; /* borrowed */
    /* The server's list of open connections; guarded by its lock, as is the descriptor's end. */
    struct mlt_connection *before;
    struct mlt_connection *after;
    int fd; /* -1: not connected */
    bool tcp;
    bool nonblocking;    /* what cannot be written at once is kept in `out` */
    bool deferring;      /* nothing is written: all is kept in `out` for mlt_connection_flush() */
    bool turn;           /* its events are being handled in a turn (blocking.c), */
    size_t crowd;        /* or without one, at this place of the crowd, from 1 */
    bool ending;         /* no more is read; the filter gets the events that it is owed */
    atomic_bool between; /* waiting, outside of a message: a stop may end it */
    atomic_bool cut;     /* shut down by the server */
    int64_t deadline;    /* for the packet that has begun to come in; 0: none has */
    mlt_buffer in;
    mlt_buffer out; /* what the socket has not taken yet */
    mlt_session session;
    mlt_batch *batch; /* borrowed */
    mlt_view view;
};

/* mlt_connection_gather(): nothing to report before more has been read. */
enum { MLT_GATHER_MORE = -1 };

/* Prepares a connection object. It has no batch yet. */
void mlt_connection_init(mlt_connection *connection, mlt_server *server);
/* The opposite of mlt_connection_init(). */
void mlt_connection_release(mlt_connection *connection);

/* Lends it the place for its next events. */
void mlt_connection_lend(mlt_connection *connection, mlt_batch *batch, mlt_event *events,
                         char *text);

/* Takes over a connected socket and makes the connection new. */
void mlt_connection_begin(mlt_connection *connection, int fd, uint64_t id);

/* Whether mlt_connection_next() or its like may be called with `done`. */
bool mlt_connection_may_answer(const mlt_connection *connection, size_t done);

/* Takes in, and sends, what the filter said to the first `done` events of the batch. */
void mlt_connection_settle(mlt_connection *connection, size_t done, int verdict, mlt_span text,
                           mlt_span actions);

/* Takes packets out of the buffer until there is something to report: the number of events; 0 when
 * all has been reported and the connection is over, or MLT_GATHER_MORE. */
int mlt_connection_gather(mlt_connection *connection);

/* Makes room for a read behind what has come. False: no memory, and the view says so. */
bool mlt_connection_room(mlt_connection *connection, char **to, size_t *room);

/* Gives back the memory that an idle connection has no use for. */
void mlt_connection_shrink(mlt_connection *connection);

/* Puts in how a read ended: bytes, 0 at the end, or -1 and `code`, EAGAIN for a time-out. */
void mlt_connection_received(mlt_connection *connection, ssize_t got, int code);

/* Said before waiting for a packet. False: the server is stopping and the connection is not to
 * wait; it is over. */
bool mlt_connection_may_wait(mlt_connection *connection);

/* Writes what is left in `out`, as far as it goes. */
void mlt_connection_flush(mlt_connection *connection);

/* The MTA has not taken what was sent within the time. */
void mlt_connection_write_timeout(mlt_connection *connection);

/* Milliseconds that the rest of a packet may take. */
int64_t mlt_connection_packet_time(const mlt_settings *settings);

#endif
