/*
 * serve.h - a server: settings, the listening socket, the open connections, stopping.
 *
 * Waits for nothing; that is for blocking.[ch] and pool.[ch], which are what includes this header
 * besides connection.c. The functions here are for them; those for everybody are in engine.h.
 */
#ifndef MLT_SERVE_H
#define MLT_SERVE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "engine.h"
#include "socket.h"

/* So many threads without a turn wait for Python's lock at a time (blocking.c). */
enum { MLT_CROWD = 64 };

struct mlt_server {
    mlt_settings settings;
    mlt_listener listener;
    atomic_int process; /* that started it; a forked child has but a copy */
    int wake[2];        /* a pipe; readable once the server stops */
    atomic_bool stopping;
    atomic_bool retiring;   /* no new connections; those that are open go on */
    atomic_size_t waiting;  /* threads in mlt_connection_accept() */
    pthread_mutex_t turn;   /* held while a callback runs (blocking.c) */
    atomic_bool turn_taken; /* the same, to look at */
    atomic_bool turn_lost;  /* its holder is not at work, it waits for something */
    atomic_bool spinning;   /* somebody looks whether it becomes free */
    pthread_mutex_t line;   /* held by the first of those who are to join a crowd (blocking.c) */
    /* Guarded by the crowd's lock. */
    pthread_mutex_t crowd_lock;
    pthread_cond_t back;                     /* one of the crowd has come back */
    struct mlt_connection *crowd[MLT_CROWD]; /* that went to Python without a turn */
    long processors;
    pthread_mutex_t gate; /* held by the one thread that accepts */
    /* Guarded by the gate. */
    int64_t pause;
    int64_t next_notice;
    size_t failures;
    /* Guarded by the lock. */
    pthread_mutex_t lock;
    pthread_cond_t room; /* fewer connections than before, or the server stops */
    mlt_connection *first;
    size_t active;
    uint64_t last_id;
    char error[MLT_ERROR_TEXT];
};

/* Sets mlt_server_error(). Returns `status`. */
int mlt_server_fail(mlt_server *server, int status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Registers a connection over a socket that is open already. */
void mlt_server_adopt(mlt_server *server, mlt_connection *connection, int fd);

/* Closes a connection's socket and takes it off the list. */
void mlt_server_forget(mlt_server *server, mlt_connection *connection);

bool mlt_server_stopping(const mlt_server *server);

/* Whether connections are accepted: it neither stops nor retires. */
bool mlt_server_accepting(const mlt_server *server);

/* Whether there may be one more connection. */
bool mlt_server_has_room(mlt_server *server);

/* Says for how many ms accept(), which failed with `code`, is to be left alone. The gate is held.
 * notice: what to write to the log, "" for nothing; MLT_ERROR_TEXT bytes. */
int64_t mlt_server_accept_failed(mlt_server *server, int code, char *notice);

#endif
