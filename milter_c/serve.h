/*
 * serve.h - a server, and the first way of waiting: one thread per connection, blocking.
 *
 * The threads are the caller's. They wait in mlt_connection_accept() themselves, so that a new
 * connection costs no hand-over; one of them polls, the others stand behind it. The functions here
 * are for connection.c; those for everybody are in engine.h.
 */
#ifndef MLT_SERVE_H
#define MLT_SERVE_H

#include <stdbool.h>

#include "engine.h"

/* Registers a connection over a socket that is open already. */
void mlt_server_adopt(mlt_server *server, mlt_connection *connection, int fd);

/* Closes a connection's socket and takes it off the list. */
void mlt_server_forget(mlt_server *server, mlt_connection *connection);

/*
 * Turns. Python runs one thread at a time. Threads that come out of recv() together would fight for
 * its lock, which costs several futex calls and context switches per event; so they line up here
 * before they go back to Python. It is only a courtesy: a thread whose turn does not come within a
 * millisecond goes all the same, and until the holder is back - its callback waits for a database,
 * say - nobody waits. True: the turn was taken, and the same thread is to give it back.
 */
bool mlt_server_take_turn(mlt_server *server);
void mlt_server_give_turn(mlt_server *server);

bool mlt_server_stopping(const mlt_server *server);

#endif
