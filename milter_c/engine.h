/*
 * engine.h - all of the engine that Python sees.
 *
 * build.py hands this text to cffi with its preprocessor lines taken out, so it keeps to what
 * cffi's parser knows: no macros, no inline functions. The constants and tables of protocol.def
 * are added by build.py.
 *
 * A filter waits in one of two ways.
 *
 * A thread per connection: a thread makes one connection object, waits in mlt_connection_accept(),
 * then calls mlt_connection_next() again and again: each call hands over the answer to the events
 * of the call before and comes back with the next ones, until it returns 0. Then the same object
 * accepts again.
 *
 * The pool: a few threads make one worker object each and call mlt_worker_next() again and again.
 * Each call hands over an answer likewise, and comes back with the next events of any connection.
 *
 * Text in an event points into the connection's receive buffer: it is the connection's, and good
 * until the next call that hands over an answer to it.
 *
 * Threads: a connection and a worker are used by one thread at a time; a server and a pool by any
 * number. The fields of mlt_settings are set before mlt_server_start() and only read afterwards,
 * those marked "live" excepted.
 */
#ifndef MLT_ENGINE_H
#define MLT_ENGINE_H

#include <stddef.h>
#include <stdint.h>

/* What a fallible function returns. Negative: it failed, and the text is in the object. */
enum mlt_status {
    MLT_OK = 0,
    MLT_NEED_MORE = 1,   /* not enough bytes yet; nothing was taken */
    MLT_END = 2,         /* the peer has closed, or the conversation is over */
    MLT_STOPPED = 3,     /* the server was stopped */
    MLT_NOTICE = 4,      /* nothing is lost, but the text wants to be logged; call again */
    MLT_ERR_PEER = -1,   /* the peer broke the protocol */
    MLT_ERR_CALLER = -2, /* we were called in a way that is not allowed */
    MLT_ERR_LIMIT = -3,  /* something exceeds one of the limits */
    MLT_ERR_IO = -4,     /* the operating system said no */
    MLT_ERR_TIMEOUT = -5,
    MLT_ERR_MEMORY = -6
};

/* Bytes that belong to somebody else. */
typedef struct mlt_span {
    const char *data;
    size_t len;
} mlt_span;

/* ------------------------------------------------------------------------------------------ */
/* Settings */

typedef struct mlt_settings {
    /* Limits. */
    size_t receive_frame;    /* bytes of one received packet, letter and data */
    size_t send_payload;     /* bytes of data of one sent packet */
    size_t macros_per_stage; /* macros of one stage; one more ends the connection */
    size_t macro_bytes;      /* bytes of one stage's macros */
    size_t connections;      /* open at once; further ones wait in the backlog. 0: no limit */
    /* Times, in milliseconds; negative: for ever, 0: do not wait at all. */
    int64_t packet_timeout; /* from the first byte of a packet to its last */
    int64_t idle_timeout;   /* between packets */
    int64_t write_timeout;  /* for the MTA to take what is sent */
    int64_t blocked_after;  /* for whoever sets mlt_pool_options.threshold */
    /* What the filter is, in libmilter's terms (wire spec 1.5 and 2.1). */
    uint32_t version;  /* descriptor version */
    uint32_t flags;    /* actions wanted, where there is no negotiate callback */
    uint32_t absent;   /* SMFIP_NO bits of the steps that it has no callback for */
    int32_t negotiate; /* true: it has a negotiate callback */
    int32_t mds;       /* true: agree to larger packets (SMFIP_MDS bits) */
    int32_t turns;     /* true: callbacks share a lock anyway, so threads take turns (blocking.c) */
    size_t idle_threads; /* that wait in mlt_connection_accept() at once; 0: any number */
    uint32_t unwanted;   /* live; bit 1 << MLT_STEP_x: answer that step here, do not report it */
} mlt_settings;

/* ------------------------------------------------------------------------------------------ */
/* Server: a listening socket and the connections that came over it */

typedef struct mlt_server mlt_server;

/* How to open a socket. Numbers below 0: leave as the operating system made it. */
typedef struct mlt_socket_options {
    int32_t replace; /* remove a socket that is in the way, whoever listens on it */
    int32_t backlog; /* connections that may wait for accept() */
    int32_t mode;    /* permission bits of a unix socket's file */
    int64_t owner;   /* user id of its owner */
    int64_t group;   /* group id */
} mlt_socket_options;

/* Never NULL but for want of memory. The caller frees it when no connection uses it any more; a
 * socket file that was not closed before is left where it is. */
mlt_server *mlt_server_new(void);
void mlt_server_free(mlt_server *server);

/* Part of the server; lives as long as it does. */
mlt_settings *mlt_server_settings(mlt_server *server);

/* MLT_OK, or MLT_ERR_CALLER with the text in mlt_server_error(): is settings.version one that we
 * can serve? */
int mlt_server_check_version(mlt_server *server);

/* Binds and listens on a socket specification (wire spec 6.1). A second call while it is open does
 * nothing and succeeds. On failure the text is in mlt_server_error(). */
int mlt_server_open(mlt_server *server, const char *spec, const mlt_socket_options *options);

/* Whether `spec` could be parsed, without touching the network; else the text. */
int mlt_server_check_spec(mlt_server *server, const char *spec);

/* Descriptor of the listening socket, -1 when not open. */
int mlt_server_fd(const mlt_server *server);

/* Where a unix socket is bound, or "host port" of a TCP one; "" when not open. */
const char *mlt_server_address(const mlt_server *server);

/* Text of the last failure of a function of this server; for the thread that called it. */
const char *mlt_server_error(const mlt_server *server);

/* Allows accepting, also again after a stop. No thread may be in mlt_connection_accept(). */
int mlt_server_start(mlt_server *server);

/* Stops accepting and ends every connection that is between messages; those inside a transaction
 * go on to its end. Never blocks; from any thread, more than once. */
void mlt_server_stop(mlt_server *server);

/* Stops accepting, and leaves the connections that are open alone; with a pool this is
 * mlt_pool_refuse()'s. Never blocks; from any thread, more than once. */
void mlt_server_retire(mlt_server *server);

/* Ends all connections now, at their next read or write. Never blocks. */
void mlt_server_cut(mlt_server *server);

/* Closes the listening socket and removes the socket file if it still is the one we made. */
void mlt_server_close(mlt_server *server);

/* In a process forked from the one that opened the socket: leaves the socket's file to that one,
 * and its threads and connections. Before mlt_server_start(). */
void mlt_server_disown(mlt_server *server);

/* Connections open now; threads waiting in mlt_connection_accept(). */
size_t mlt_server_active(const mlt_server *server);
size_t mlt_server_waiting(const mlt_server *server);

/* ------------------------------------------------------------------------------------------ */
/* Connection */

enum mlt_sizes {
    MLT_EVENTS = 64,     /* events in one batch at most */
    MLT_STAGES = 7,      /* macro stages */
    MLT_TEXT = 16384,    /* bytes of text that are copied to where Python finds them quickly */
    MLT_ADDRESS = 128,   /* bytes of a textual address, NUL included */
    MLT_ERROR_TEXT = 320 /* bytes of an error text, NUL included */
};

/* What becomes of the verdict on an event. */
enum mlt_owed {
    MLT_OWED_VERDICT = 0,
    MLT_OWED_NOTHING = 1, /* none goes out: its NR bit was negotiated */
    MLT_OWED_CONTINUE = 2 /* the filter asked for its NR bit, which the MTA does not know: CONTINUE
                             goes out, whatever it is */
};

/* One thing that happened. */
typedef struct mlt_event {
    int32_t step; /* MLT_STEP_x */
    int32_t owed; /* mlt_owed */
    /* Its text, without the final NUL: HELO, UNKNOWN: the argument; MAIL, RCPT: the arguments,
     * separated by NUL; HEADER: name NUL value; CONNECT: the host name; BODY: the chunk. */
    const char *data;
    size_t len;
} mlt_event;

/* The macros of one stage as the MTA sent them: name NUL value NUL ..., only whole pairs. */
typedef struct mlt_macros {
    const char *data;
    size_t len;
    uint64_t generation; /* changes whenever data does */
} mlt_macros;

/* The face of a connection: to be read, but for the fields marked "to set". */
typedef struct mlt_view {
    uint64_t id;       /* counts the connections of one server, from 1 */
    int32_t status;    /* mlt_status of what ended it; MLT_OK for an orderly end */
    int32_t alone;     /* after accept: no other thread waits there; the caller should start one */
    mlt_event *events; /* the batch, MLT_EVENTS at most */
    char *text;        /* a copy of the first event\'s text, if it has MLT_TEXT bytes at most */
    uint32_t stages;   /* bit 1 << SMFIM_x: there are macros of that stage */
    mlt_macros macros[7]; /* by SMFIM_x */
    /* Negotiation. Valid from MLT_STEP_NEGOTIATE on. */
    uint32_t offered_version;
    uint32_t offered_actions;  /* as the filter is to see them */
    uint32_t offered_protocol; /* likewise: with all NR bits */
    uint32_t absent;           /* NO bits of the steps without callback */
    uint64_t actions;          /* to set during NEGOTIATE; afterwards the actions agreed on */
    uint64_t protocol;         /* to set during NEGOTIATE; afterwards what the filter asked for */
    int32_t reported;          /* to set: its end is in the log */
    int32_t
        entering; /* to clear once Python's lock is held: the caller waits for it (blocking.c) */
    uint32_t unwanted;   /* to set at any event; as mlt_settings.unwanted, for this connection */
    size_t send_payload; /* bytes of data that a sent packet may have */
    /* CONNECT. */
    int32_t family; /* '4', '6', 'L' or 'U'; 0 before */
    int32_t port;
    char address[128]; /* MLT_ADDRESS; normalised by inet_ntop, or the path */
    char error[320];   /* MLT_ERROR_TEXT; what happened, when status is not MLT_OK */
} mlt_view;

typedef struct mlt_connection mlt_connection;

/* NULL for want of memory. The server must outlive it. */
mlt_connection *mlt_connection_new(mlt_server *server);
void mlt_connection_free(mlt_connection *connection);

/* Part of the connection; lives as long as it does. */
mlt_view *mlt_connection_view(mlt_connection *connection);

/* Waits for an MTA. MLT_OK; MLT_STOPPED; MLT_END: enough others wait; MLT_NOTICE (text in
 * view.error; call again). */
int mlt_connection_accept(mlt_connection *connection);

/* Takes over an open socket instead of accepting one. The descriptor is the connection's then. */
int mlt_connection_adopt(mlt_connection *connection, int fd);

/*
 * Answers the last batch and waits for the next.
 * done: how many of its events were handled; all before the last of these were answered CONTINUE
 *   or NOREPLY. 0 in the first call. verdict: the answer to the last of them, SMFIS_x.
 * reply: the text for a REJECT or TEMPFAIL, NULL for none (wire spec 4.3, 4.4; without NUL).
 * actions: whole packets to go out before the verdict; for NEGOTIATE the macro lists instead.
 * Returns the number of events, 0 after MLT_STEP_CLOSE of the last session, or MLT_ERR_CALLER.
 * All that goes wrong with the peer is told by ABORT and CLOSE events and view.status.
 */
int mlt_connection_next(mlt_connection *connection, size_t done, int verdict, const char *reply,
                        size_t reply_len, const char *actions, size_t actions_len);

/* Sends whole packets now, while an event is being handled. */
int mlt_connection_send(mlt_connection *connection, const char *packets, size_t len);

/* As mlt_connection_next() where all events of the batch were answered CONTINUE or NOREPLY, and
 * there is nothing to send besides. */
int mlt_connection_proceed(mlt_connection *connection);

/* Writes the texts of a run of HEADER events of the batch into the view's `text`, each ended by
 * NUL: name NUL value NUL name NUL ... The run begins with event `first`; it ends where the headers
 * or the room end. Returns their size; 0 where not even one fits. */
size_t mlt_connection_headers(mlt_connection *connection, size_t first);

/* Ends it whatever its state, without events; needed only when next() was not called to its end. */
void mlt_connection_end(mlt_connection *connection);

/* ------------------------------------------------------------------------------------------ */
/* Pool: a few threads for all connections of a server */

typedef struct mlt_pool mlt_pool;
typedef struct mlt_worker mlt_worker;

typedef struct mlt_pool_options {
    size_t threads;    /* threads at most that run callbacks */
    size_t active;     /* of these, how many may do so without one of them being blocked */
    int64_t threshold; /* ms after which a callback counts as blocked while others wait */
    int32_t shared;    /* true: other processes accept from the same socket */
    int32_t bell;      /* a byte is written to this descriptor when all threads are blocked */
} mlt_pool_options;

/* What a worker's thread is to see of it. */
typedef struct mlt_work {
    mlt_connection *connection; /* whose events these are; its memory is good until the next call */
    mlt_view *view;
    uint64_t id;          /* view->id */
    int32_t status;       /* when there are no events: why */
    int32_t start;        /* true: one more thread is wanted, with a worker of its own */
    mlt_event events[64]; /* MLT_EVENTS */
    char text[16384];     /* MLT_TEXT */
    char error[320];      /* MLT_ERROR_TEXT; after MLT_NOTICE */
} mlt_work;

/* For a server that was started. NULL, with the text in mlt_server_error(). The server must outlive
 * it; it is freed when it has no workers any more. */
mlt_pool *mlt_pool_new(mlt_server *server, const mlt_pool_options *options);
void mlt_pool_free(mlt_pool *pool);

/* Connections whose end has not been told yet. */
size_t mlt_pool_connections(mlt_pool *pool);

/* Stops accepting, for good: after mlt_server_stop() and before mlt_server_close(), or while the
 * server goes on, to retire it. Then the connections that are open go on, and what waits in a
 * shared socket is accepted still, as other processes may not have been told of it. */
void mlt_pool_refuse(mlt_pool *pool);

/* The thread that work.start asked for could not be started; it is asked for again a while later.
 */
void mlt_pool_lacks_thread(mlt_pool *pool);

/* True, once, when all threads have been blocked for a while with work waiting for them; and again
 * a minute later if they still are. */
int mlt_pool_take_exhausted(mlt_pool *pool);

/* NULL for want of memory. The pool must outlive it. */
mlt_worker *mlt_worker_new(mlt_pool *pool);
void mlt_worker_free(mlt_worker *worker);

/* Part of the worker; lives as long as it does. */
mlt_work *mlt_worker_work(mlt_worker *worker);

/*
 * Answers the last batch, as mlt_connection_next() does, and waits for the next one of whichever
 * connection. Returns the number of events; 0 with work.status MLT_END when work.connection has
 * ended and was told all, MLT_NOTICE (text in work.error) or MLT_STOPPED, after which the worker is
 * to be freed; or MLT_ERR_CALLER.
 */
int mlt_worker_next(mlt_worker *worker, size_t done, int verdict, const char *reply,
                    size_t reply_len, const char *actions, size_t actions_len);

/* As mlt_connection_proceed(). */
int mlt_worker_proceed(mlt_worker *worker);

/* Ends the connection whose events are at hand, without events. mlt_worker_next() goes on with
 * others. */
void mlt_worker_abandon(mlt_worker *worker);

/* ------------------------------------------------------------------------------------------ */
/* Framing and codec, for the MTA's side. No I/O. */

typedef struct mlt_packet {
    int32_t letter;
    mlt_span payload;
    size_t used; /* bytes of the input that it took */
} mlt_packet;

/* Takes one packet off the front. limit: bytes of letter and data at most. MLT_OK, MLT_NEED_MORE,
 * MLT_ERR_PEER (no letter) or MLT_ERR_LIMIT. Spans point into data. */
int mlt_frame_next(const char *data, size_t len, size_t limit, mlt_packet *packet);

/* The fields of one payload, by the letters of its shape in protocol.def. */
typedef struct mlt_fields {
    uint32_t number[3];
    size_t numbers;
    mlt_span text[3]; /* s, t, c and b; v, p, a and l as one span each, as on the wire */
    size_t texts;
} mlt_fields;

/* MLT_OK or MLT_ERR_PEER. Spans point into payload. */
int mlt_codec_decode(const char *shape, const char *payload, size_t len, mlt_fields *fields);

/* Writes a whole packet. Text is taken as it is, and ended by NUL where the shape says so; v, p, a
 * and l are given as on the wire; a t with data NULL is left out. Returns the packet's size; where
 * that is more than `size` there is no packet in `out`. 0: the fields do not fit the shape. */
size_t mlt_codec_encode(int letter, const char *shape, const mlt_fields *fields, char *out,
                        size_t size);

/* ------------------------------------------------------------------------------------------ */
/* The rows of protocol.def */

/* What a command is answered with. */
enum mlt_answer { MLT_ANSWER_NONE, MLT_ANSWER_ONE, MLT_ANSWER_MODS, MLT_ANSWER_OPTIONS };

/* What a reply is. */
enum mlt_reply_kind {
    MLT_REPLY_OPTIONS,
    MLT_REPLY_VERDICT,
    MLT_REPLY_PROGRESS,
    MLT_REPLY_MODIFICATION,
    MLT_REPLY_NEVER
};

typedef struct mlt_step_row {
    const char *symbol;
    const char *callback; /* its name in the `milter` module */
    const char *method;   /* the method of Milter.Base */
    int32_t letter;       /* its command */
    uint32_t no_bit;
    uint32_t nr_bit;
    int32_t stage; /* SMFIM_x, -1 for none */
    int32_t rank;  /* place in a message, -1 for none */
    int32_t repeats;
    int32_t state; /* libmilter's number for it */
} mlt_step_row;

typedef struct mlt_packet_row {
    const char *symbol;
    int32_t letter;
    const char *shape;
    int32_t kind;    /* mlt_answer of a command, mlt_reply_kind of a reply */
    uint32_t action; /* action bit that a reply needs; the `since` version of a command */
} mlt_packet_row;

typedef struct mlt_constant_row {
    const char *symbol;
    int64_t value;
    int32_t letter; /* reply letter of a verdict, command letter of a stage; else 0 */
} mlt_constant_row;

/* All in the order of protocol.def; steps are indexed by MLT_STEP_x. Ended by a NULL symbol. */
extern const mlt_step_row mlt_steps[];
extern const mlt_packet_row mlt_commands[];
extern const mlt_packet_row mlt_replies[];
extern const mlt_constant_row mlt_verdicts[];
extern const mlt_constant_row mlt_action_bits[];
extern const mlt_constant_row mlt_protocol_bits[];
extern const mlt_constant_row mlt_stages[];

/* All NO bits, all NR bits, all actions. */
uint32_t mlt_protocol_no_bits(void);
uint32_t mlt_protocol_nr_bits(void);
uint32_t mlt_protocol_actions(void);

#endif
