/*
 * connection.h - one connection: socket, buffer, frames, session.
 *
 * mlt_connection_next(), declared in engine.h, is the only thing here that waits, and it waits in
 * one place (fill(), connection.c). Knows its server only for the settings, for whether it is
 * stopping, and to be found by it.
 */
#ifndef MLT_CONNECTION_H
#define MLT_CONNECTION_H

#include <stdatomic.h>
#include <stdbool.h>

#include "buffer.h"
#include "engine.h"
#include "session.h"

struct mlt_connection {
    mlt_server *server; /* borrowed */
    /* The server's list of open connections; guarded by its lock, as is the descriptor's end. */
    struct mlt_connection *before;
    struct mlt_connection *after;
    int fd; /* -1: not connected */
    bool tcp;
    bool turn;           /* its events are being handled in a turn */
    bool ending;         /* no more is read; the filter gets the events that it is owed */
    atomic_bool between; /* waiting, outside of a message: a stop may end it */
    atomic_bool cut;     /* shut down by the server */
    int64_t deadline;    /* for the packet that has begun to come in; 0: none has */
    mlt_buffer in;
    mlt_session session;
    /* The batch that was reported last: its size, and what each event leaves behind. */
    size_t count;
    size_t ends[MLT_EVENTS];    /* bytes of `in` taken, with this event's packet */
    mlt_mark marks[MLT_EVENTS]; /* the session behind this event, had it been CONTINUE */
    mlt_view view;
};

/* Takes over a connected socket and makes the connection new. */
void mlt_connection_begin(mlt_connection *connection, int fd, uint64_t id);

#endif
