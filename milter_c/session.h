/*
 * session.h - the conversation: what may follow what, which reply is legal, who is owed one.
 *
 * No I/O. Packets are put in, it says what to do with each; verdicts are put in, it says which
 * letter goes out. It owns the macros and the words that were negotiated, and publishes both in
 * the connection's view. Source: wire spec, sections 2, 3 and 4.
 */
#ifndef MLT_SESSION_H
#define MLT_SESSION_H

#include <stdbool.h>

#include "buffer.h"
#include "codec.h"
#include "engine.h"

/* What is to be done with a packet. */
typedef enum mlt_take {
    MLT_TAKE_EVENT,   /* report the event */
    MLT_TAKE_FIRST,   /* report the event, then put the same packet in again */
    MLT_TAKE_ANSWER,  /* report nothing and send the session's answer */
    MLT_TAKE_NOTHING, /* report nothing and send nothing */
    MLT_TAKE_OVER,    /* the MTA has said goodbye */
    MLT_TAKE_FAILED   /* the view says why; the connection is to end */
} mlt_take;

/* Whose fate a verdict decides that could not be told at once. */
typedef enum mlt_scope { MLT_SCOPE_NONE, MLT_SCOPE_MESSAGE, MLT_SCOPE_SESSION } mlt_scope;

/* A packet to send: a letter and, for some, data. */
typedef struct mlt_reply {
    int letter; /* 0: nothing */
    mlt_span text;
    bool nul; /* the text is to be ended by NUL */
} mlt_reply;

/*
 * A verdict other than CONTINUE out of a step whose answers were negotiated away. libmilter drops
 * it; we keep it for the next step that may be answered (wire spec 2.3).
 */
typedef struct mlt_pending {
    mlt_scope scope;
    int step;       /* where it comes from */
    int verdict;    /* SMFIS_x */
    bool delivered; /* the MTA knows; the rest of this message is of no interest */
    mlt_buffer text;
} mlt_pending;

/* How far BODYEOB with data has got: its data is a body event, then it is the end of message. */
typedef enum mlt_final {
    MLT_FINAL_NONE,
    MLT_FINAL_BODY,
    MLT_FINAL_EOM,
    MLT_FINAL_DECIDED
} mlt_final;

/* The part of the state that a run of no-reply events changes, to go back to one of them. */
typedef struct mlt_mark {
    bool open;    /* a transaction is open: its end will be told, by EOM or by ABORT */
    bool decided; /* the filter has decided about the message; what still comes is dropped */
    int rank;     /* how far the message has got; mlt_step_row.rank */
    mlt_final final;
} mlt_mark;

typedef struct mlt_session {
    const mlt_settings *settings; /* borrowed */
    mlt_view *view;               /* borrowed */
    bool negotiated;
    bool connected;  /* CONNECT has been, or what comes after it */
    bool close_owed; /* the filter has been told, or is to be told, of this session */
    bool resetting;  /* QUIT_NC: CLOSE was reported, the session starts anew */
    mlt_mark at;
    uint32_t offered_actions;
    uint32_t offered_protocol;
    uint32_t want; /* protocol bits as the filter wants them */
    uint32_t sent; /* and as the MTA knows them; NR bits that it did not offer are missing */
    mlt_pending pending;
    mlt_buffer macros[MLT_STAGES];
    mlt_reply answer; /* after MLT_TAKE_ANSWER */
    char options[12]; /* of the OPTNEG reply */
} mlt_session;

/* settings and view must outlive it. */
void mlt_session_init(mlt_session *session, const mlt_settings *settings, mlt_view *view);
void mlt_session_free(mlt_session *session);

/* Makes it new for the next connection. Memory is kept. */
void mlt_session_reset(mlt_session *session);

/* Puts in one packet. `event` is set for MLT_TAKE_EVENT and MLT_TAKE_FIRST. */
mlt_take mlt_session_receive(mlt_session *session, const mlt_packet *packet, mlt_event *event);

/* Whether a packet may be looked at before the events ahead of it were handled: it changes
 * nothing that their callbacks can see. */
bool mlt_session_may_run_ahead(const mlt_session *session, const mlt_packet *packet);

/* Puts in the filter's verdict on an event. What is to be sent is returned, letter 0 for nothing.
 * `text` is that of a REJECT or TEMPFAIL, data NULL for none. */
mlt_reply mlt_session_verdict(mlt_session *session, int step, int verdict, mlt_span text);

/* Puts in the verdict on NEGOTIATE, with the words in the view. MLT_OK: the reply's fixed part is
 * in session->options, and *lists tells whether the macro lists may follow. Else the view says why.
 */
int mlt_session_negotiate(mlt_session *session, int verdict, size_t lists_len, bool *lists);

/* The connection has ended, with or without a goodbye: the next event that the filter is owed,
 * ABORT, then CLOSE. False when there is none any more. */
bool mlt_session_finish(mlt_session *session, mlt_event *event);

/* Whether the MTA is in the middle of a message. */
bool mlt_session_in_message(const mlt_session *session);

/* The one place where a connection's error is set. The first one stays. Returns `status`. */
int mlt_view_fail(mlt_view *view, int status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
