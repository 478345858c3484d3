/*
 * socket.h - socket specifications, and the system calls that move bytes.
 *
 * Knows the operating system and nothing of the protocol. Every text goes to an error buffer of
 * MLT_ERROR_TEXT bytes; the wording is libmilter's where it has one (wire spec 6.1), because
 * administrators search for it.
 */
#ifndef MLT_SOCKET_H
#define MLT_SOCKET_H

#include <stdbool.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "engine.h"

/* A listening socket. */
typedef struct mlt_listener {
    int fd; /* -1: none */
    int family;
    bool made_file; /* the file at `address` was made by us; device and inode say whether it still
                       is */
    dev_t device;
    ino_t inode;
    char address[MLT_ADDRESS]; /* path, or "host port" */
} mlt_listener;

/* Parses, resolves, binds and listens. MLT_OK, MLT_ERR_CALLER (bad spec) or MLT_ERR_IO. */
int mlt_socket_listen(mlt_listener *listener, const char *spec, const mlt_socket_options *options,
                      char *error);

/* Only the parsing. */
int mlt_socket_check(const char *spec, char *error);

/* Closes it and removes the file that it made, if that still is the one it made. */
void mlt_socket_close(mlt_listener *listener);

/* Accepts one connection, close on exec: its descriptor, or -1 with errno. */
int mlt_socket_accept(const mlt_listener *listener, bool blocking);

/* Prepares a connected socket: keep-alive, no Nagle, time-outs for blocking reads and writes in
 * milliseconds (negative: none; 0: none for reads, which know how not to wait, and next to no time
 * for writes). *tcp tells whether it is TCP. */
void mlt_socket_prepare(int fd, int64_t read_timeout, int64_t write_timeout, bool *tcp);

/* Reads what is there, at most `room` bytes; waits for the first. > 0, 0 at the end, -1 with errno.
 */
ssize_t mlt_socket_read(int fd, char *bytes, size_t room, bool wait, bool tcp);

/* Waits up to `timeout` ms (negative: for ever) until there is something to read. > 0, 0: no, -1.
 */
int mlt_socket_wait(int fd, int64_t timeout);

/* Writes everything. MLT_OK, MLT_ERR_IO or MLT_ERR_TIMEOUT with errno; the latter, too, where the
 * socket does not block and is full. What was written is taken off `parts`. */
int mlt_socket_write(int fd, struct iovec *parts, int count);

/* Monotonic time in milliseconds. */
int64_t mlt_socket_now(void);

#endif
