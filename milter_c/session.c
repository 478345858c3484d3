/*
 * session.c - what may follow what, macro scope, which reply is legal.
 */
#include "session.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "frame.h"

/* Words of MTAs that offer none: protocol version 1 (wire spec 2.1, step 4). */
enum { FIRST_ACTIONS = 0x0F, FIRST_PROTOCOL = 0x3F };
enum { RESERVED_BITS = 0x70000000 };
enum { RANK_RCPT = 1, RANK_DATA = 2 };

int mlt_view_fail(mlt_view *view, int status, const char *format, ...)
{
    if (view->status == MLT_OK) {
        view->status = status;
        va_list args;
        va_start(args, format);
        vsnprintf(view->error, sizeof view->error, format, args);
        va_end(args);
    }
    return status;
}

static mlt_take failed(mlt_session *session, const char *what, const char *command)
{
    mlt_view_fail(session->view, MLT_ERR_PEER, "%s%s", what, command);
    return MLT_TAKE_FAILED;
}

static void forget_pending(mlt_session *session)
{
    session->pending.scope = MLT_SCOPE_NONE;
    session->pending.delivered = false;
    mlt_buffer_clear(&session->pending.text, SIZE_MAX);
}

/* A transaction is over for the MTA, or the next one begins. */
static void end_message(mlt_session *session)
{
    session->at = (mlt_mark){false, false, 0, MLT_FINAL_NONE};
    if (session->pending.scope == MLT_SCOPE_SESSION)
        session->pending.delivered = false;
    else
        forget_pending(session);
}

/* ------------------------------------------------------------------------------------------ */
/* Macros (wire spec 3.5) */

static void publish_macros(mlt_session *session, int stage)
{
    mlt_macros *face = &session->view->macros[stage];
    face->data = mlt_buffer_data(&session->macros[stage]);
    face->len = mlt_buffer_len(&session->macros[stage]);
    face->generation++;
    session->view->stages &= ~(UINT32_C(1) << stage);
    if (face->len > 0)
        session->view->stages |= UINT32_C(1) << stage;
}

static void clear_macros(mlt_session *session, int stage)
{
    if (session->view->macros[stage].len == 0)
        return;
    mlt_buffer_clear(&session->macros[stage], SIZE_MAX);
    publish_macros(session, stage);
}

/* The commands of connection and envelope clear the stages that come after their own. */
static void clear_macros_after(mlt_session *session, int letter)
{
    if (letter != SMFIC_CONNECT && letter != SMFIC_HELO && letter != SMFIC_MAIL &&
        letter != SMFIC_RCPT)
        return;
    bool after = false;
    for (const mlt_constant_row *row = mlt_stages; row->symbol != NULL; row++) {
        if (after)
            clear_macros(session, (int)row->value);
        else
            after = row->letter == letter;
    }
}

static void clear_all_macros(mlt_session *session)
{
    for (int stage = 0; stage < MLT_STAGES; stage++)
        clear_macros(session, stage);
}

static mlt_take receive_macros(mlt_session *session, const mlt_packet *packet, mlt_event *event)
{
    const mlt_settings *settings = session->settings;
    int letter;
    mlt_span pairs;
    size_t count;
    int status = mlt_codec_macros(packet->payload, &letter, &pairs, &count);
    if (status == MLT_ERR_PEER)
        return failed(session, "MACRO without a stage", "");
    int stage = mlt_protocol_stage(letter);
    if (stage < 0)
        return MLT_TAKE_NOTHING;
    if (letter == SMFIC_MAIL && (session->want & SMFIP_NOMAIL) != 0) {
        /* Sendmail sends no ABORT on RSET to a filter that wants no MAIL; its macros are all that
         * tells of the next transaction (wire spec 3.3, Q10). */
        bool open = session->at.open;
        end_message(session);
        if (open) {
            *event = (mlt_event){MLT_STEP_ABORT, MLT_OWED_NOTHING, NULL, 0};
            return MLT_TAKE_FIRST;
        }
    }
    if (status == MLT_END)
        return MLT_TAKE_NOTHING;
    if (count > settings->macros_per_stage || pairs.len > settings->macro_bytes) {
        mlt_view_fail(session->view, MLT_ERR_LIMIT,
                      "%zu macros with %zu bytes for stage %c, more than %zu or %zu bytes", count,
                      pairs.len, letter, settings->macros_per_stage, settings->macro_bytes);
        return MLT_TAKE_FAILED;
    }
    mlt_buffer *store = &session->macros[stage];
    mlt_buffer_clear(store, SIZE_MAX);
    if (mlt_buffer_append(store, pairs.data, pairs.len, SIZE_MAX) != MLT_OK) {
        mlt_view_fail(session->view, MLT_ERR_MEMORY, "no memory for macros");
        return MLT_TAKE_FAILED;
    }
    publish_macros(session, stage);
    return MLT_TAKE_NOTHING;
}

/* ------------------------------------------------------------------------------------------ */
/* Life */

void mlt_session_init(mlt_session *session, const mlt_settings *settings, mlt_view *view)
{
    memset(session, 0, sizeof *session);
    session->settings = settings;
    session->view = view;
    mlt_buffer_init(&session->pending.text);
    for (int stage = 0; stage < MLT_STAGES; stage++)
        mlt_buffer_init(&session->macros[stage]);
}

void mlt_session_free(mlt_session *session)
{
    mlt_buffer_free(&session->pending.text);
    for (int stage = 0; stage < MLT_STAGES; stage++)
        mlt_buffer_free(&session->macros[stage]);
}

static void start_anew(mlt_session *session)
{
    session->connected = false;
    session->resetting = false;
    session->at = (mlt_mark){false, false, 0, MLT_FINAL_NONE};
    session->view->family = 0;
    session->view->port = 0;
    session->view->address[0] = '\0';
    forget_pending(session);
    clear_all_macros(session);
}

void mlt_session_reset(mlt_session *session)
{
    mlt_view *view = session->view;
    view->status = MLT_OK;
    view->error[0] = '\0';
    view->reported = false;
    view->unwanted = 0;
    view->offered_version = 0;
    view->offered_actions = view->offered_protocol = view->absent = 0;
    view->actions = view->protocol = 0;
    view->send_payload = session->settings->send_payload;
    session->negotiated = false;
    session->close_owed = true;
    session->want = session->sent = 0;
    start_anew(session);
}

/* ------------------------------------------------------------------------------------------ */
/* Negotiation (wire spec 2.1) */

/* The steps without callback; a descriptor of an old version cannot have some of them. */
static uint32_t absent_bits(const mlt_settings *settings)
{
    uint32_t absent = settings->absent & mlt_protocol_no_bits();
    if (settings->version <= 2)
        absent |= SMFIP_NOUNKNOWN;
    if (settings->version <= 3)
        absent |= SMFIP_NODATA;
    return absent;
}

static uint32_t larger_packets(const mlt_session *session)
{
    if (!session->settings->mds)
        return 0;
    if ((session->offered_protocol & SMFIP_MDS_1M) != 0)
        return SMFIP_MDS_1M;
    return session->offered_protocol & SMFIP_MDS_256K;
}

static mlt_take receive_options(mlt_session *session, const mlt_packet *packet, mlt_event *event)
{
    mlt_view *view = session->view;
    uint32_t version, actions, protocol;
    if (mlt_codec_options(packet->payload, &version, &actions, &protocol) != MLT_OK) {
        mlt_view_fail(view, MLT_ERR_PEER, "st_optionneg[%" PRIu64 "]: len too short %zu < 12",
                      view->id, packet->payload.len);
        return MLT_TAKE_FAILED;
    }
    if ((int32_t)version < MLT_PROTOCOL_OLDEST) {
        mlt_view_fail(view, MLT_ERR_PEER,
                      "st_optionneg[%" PRIu64 "]: protocol version too old %" PRId32 " < %d",
                      view->id, (int32_t)version, MLT_PROTOCOL_OLDEST);
        return MLT_TAKE_FAILED;
    }
    clear_all_macros(session);
    view->offered_version = version < MLT_PROTOCOL_NEWEST ? version : MLT_PROTOCOL_NEWEST;
    session->offered_actions = actions != 0 ? actions : FIRST_ACTIONS;
    session->offered_protocol = protocol != 0 ? protocol : FIRST_PROTOCOL;
    uint32_t larger = larger_packets(session);
    session->offered_protocol = (session->offered_protocol & ~(uint32_t)RESERVED_BITS) | larger;
    view->absent = absent_bits(session->settings);
    view->offered_actions = session->offered_actions;
    view->offered_protocol = session->offered_protocol | mlt_protocol_nr_bits();
    if (session->settings->negotiate && session->settings->version > 4) {
        view->actions = session->offered_actions;
        view->protocol = view->absent | (session->offered_protocol & SMFIP_SKIP);
        *event = (mlt_event){MLT_STEP_NEGOTIATE, MLT_OWED_VERDICT, NULL, 0};
        session->close_owed = true; /* again, if there was a QUIT_NC before */
        return MLT_TAKE_EVENT;
    }
    view->actions = session->settings->flags;
    view->protocol = view->absent;
    bool lists;
    if (mlt_session_negotiate(session, SMFIS_CONTINUE, 0, &lists) != MLT_OK)
        return MLT_TAKE_FAILED;
    session->answer = (mlt_reply){SMFIR_OPTNEG, {session->options, sizeof session->options}, false};
    return MLT_TAKE_ANSWER;
}

int mlt_session_negotiate(mlt_session *session, int verdict, size_t lists_len, bool *lists)
{
    mlt_view *view = session->view;
    uint32_t offered = session->offered_protocol;
    uint64_t actions;
    uint32_t want, send;
    if (verdict == SMFIS_ALL_OPTS) {
        actions = session->offered_actions;
        want = view->absent;
        send = want | (offered & SMFIP_SKIP);
    } else if (verdict == SMFIS_CONTINUE) {
        actions = view->actions;
        want = send = (uint32_t)view->protocol;
    } else {
        return mlt_view_fail(view, MLT_ERR_CALLER,
                             "st_optionneg[%" PRIu64 "]: xxfi_negotiate returned %d "
                             "(protocol options=0x%" PRIx32 ", actions=0x%" PRIx32 ")",
                             view->id, verdict, offered, session->offered_actions);
    }
    uint32_t larger = larger_packets(session);
    /* Reserved bits that the filter touched are refused; the one we agreed on is ours to set. */
    send &= ~(larger | (mlt_protocol_nr_bits() & ~offered));
    if ((actions & ~(uint64_t)session->offered_actions) != 0)
        return mlt_view_fail(view, MLT_ERR_CALLER,
                             "st_optionneg[%" PRIu64 "]: 0x%" PRIx32
                             " does not fulfill action requirements 0x%" PRIx64,
                             view->id, session->offered_actions, actions);
    if ((send & ~offered) != 0)
        send &= offered | ~(uint32_t)(SMFIP_NODATA | SMFIP_NOUNKNOWN);
    if ((send & ~offered) != 0)
        return mlt_view_fail(view, MLT_ERR_CALLER,
                             "st_optionneg[%" PRIu64 "]: 0x%" PRIx32
                             " does not fulfill protocol requirements 0x%" PRIx32,
                             view->id, offered, send);
    /* Old MTAs could choke on lists that they did not ask for (wire spec 2.5). */
    *lists = lists_len > 0 && (session->offered_actions & SMFIF_SETSYMLIST) != 0;
    if (*lists)
        actions |= SMFIF_SETSYMLIST;
    if (larger == SMFIP_MDS_1M)
        view->send_payload = 1048575;
    else if (larger == SMFIP_MDS_256K)
        view->send_payload = 262143;
    session->want = want;
    session->sent = send;
    session->negotiated = true;
    view->actions = actions;
    view->protocol = want | send;
    mlt_frame_put_u32(session->options, view->offered_version);
    mlt_frame_put_u32(session->options + 4, (uint32_t)actions);
    mlt_frame_put_u32(session->options + 8, send | larger);
    return MLT_OK;
}

/* ------------------------------------------------------------------------------------------ */
/* Commands (wire spec 3.4) */

static bool is_reported(const mlt_session *session, int step)
{
    uint32_t unwanted = session->settings->unwanted | session->view->unwanted;
    return (session->view->absent & mlt_steps[step].no_bit) == 0 && (unwanted >> step & 1) == 0;
}

/* The answer to a step is not sent, as agreed with the MTA. */
static bool is_silent(const mlt_session *session, int step)
{
    return (session->sent & mlt_steps[step].nr_bit) != 0;
}

/* The filter does not answer the step, whether or not the MTA knows. */
static bool is_unanswered(const mlt_session *session, int step)
{
    return (session->want & mlt_steps[step].nr_bit) != 0;
}

static int owed(const mlt_session *session, int step)
{
    if (is_silent(session, step))
        return MLT_OWED_NOTHING;
    return is_unanswered(session, step) ? MLT_OWED_CONTINUE : MLT_OWED_VERDICT;
}

static mlt_take answer(mlt_session *session, int step, int letter)
{
    if (is_silent(session, step))
        return MLT_TAKE_NOTHING;
    session->answer = (mlt_reply){letter, {NULL, 0}, false};
    return MLT_TAKE_ANSWER;
}

static mlt_take abort_first(mlt_session *session, mlt_event *event)
{
    session->at.open = false;
    *event = (mlt_event){MLT_STEP_ABORT, MLT_OWED_NOTHING, NULL, 0};
    return MLT_TAKE_FIRST;
}

/* What the remembered verdict says to a step. */
static mlt_take deliver_pending(mlt_session *session, int step, mlt_event *event)
{
    mlt_pending *pending = &session->pending;
    /* Where the filter promised not to answer but the MTA waits all the same, this is the answer.
     */
    if (pending->delivered || is_silent(session, step))
        return MLT_TAKE_NOTHING;
    /* Only a recipient was refused, but nobody can say that any more: the filter's message ends. */
    if (session->at.open)
        return abort_first(session, event);
    bool refusal = pending->verdict == SMFIS_REJECT || pending->verdict == SMFIS_TEMPFAIL;
    session->answer = (mlt_reply){mlt_protocol_verdict(pending->verdict), {NULL, 0}, false};
    if (refusal && mlt_buffer_len(&pending->text) > 0)
        session->answer =
            (mlt_reply){SMFIR_REPLYCODE,
                        {mlt_buffer_data(&pending->text), mlt_buffer_len(&pending->text)},
                        true};
    /* At RCPT a refusal is that recipient's alone, and the next one needs it too. */
    if (step == MLT_STEP_HELO)
        pending->scope = MLT_SCOPE_NONE;
    else if (step != MLT_STEP_RCPT || !refusal)
        pending->delivered = true;
    return MLT_TAKE_ANSWER;
}

static mlt_take report(mlt_session *session, mlt_event *event)
{
    if (!is_reported(session, event->step))
        return answer(session, event->step, SMFIR_CONTINUE);
    event->owed = owed(session, event->step);
    return MLT_TAKE_EVENT;
}

static mlt_take receive_connect(mlt_session *session, const mlt_client *client, mlt_event *event)
{
    mlt_view *view = session->view;
    if (session->connected)
        return failed(session, "CONNECT where none belongs", "");
    session->connected = true;
    view->family = client->family;
    view->port = client->port;
    memcpy(view->address, client->address, sizeof view->address);
    clear_macros_after(session, SMFIC_CONNECT);
    return report(session, event);
}

/* HELO and MAIL, which both begin something new. */
static mlt_take receive_beginning(mlt_session *session, mlt_event *event)
{
    if (session->at.open)
        return abort_first(session, event);
    int step = event->step;
    session->connected = true; /* from here on it is too late for CONNECT */
    end_message(session);
    if (step == MLT_STEP_HELO && session->pending.scope == MLT_SCOPE_SESSION &&
        session->pending.step == MLT_STEP_HELO)
        forget_pending(session);
    clear_macros_after(session, mlt_steps[step].letter);
    if (session->pending.scope != MLT_SCOPE_NONE)
        return deliver_pending(session, step, event);
    session->at.open = step == MLT_STEP_MAIL;
    return report(session, event);
}

/* Whether a message may begin with this step, because all that would come before was negotiated
 * away. */
static bool may_begin(const mlt_session *session, int rank)
{
    return (session->want & SMFIP_NOMAIL) != 0 &&
           (rank == RANK_RCPT || (session->want & SMFIP_NORCPT) != 0);
}

/* RCPT to BODYEOB. */
static mlt_take receive_content(mlt_session *session, const mlt_packet *packet, mlt_event *event)
{
    mlt_mark *at = &session->at;
    const mlt_step_row *row = &mlt_steps[event->step];
    if (session->pending.scope != MLT_SCOPE_NONE) {
        clear_macros_after(session, row->letter);
        mlt_take take = deliver_pending(session, event->step, event);
        if (row->letter == SMFIC_BODYEOB && take != MLT_TAKE_FIRST)
            end_message(session);
        return take;
    }
    if (at->final != MLT_FINAL_NONE) {
        /* The same BODYEOB again, after its data was reported as BODY. */
        bool decided = at->final == MLT_FINAL_DECIDED;
        at->final = MLT_FINAL_NONE;
        return decided ? MLT_TAKE_NOTHING : report(session, event);
    }
    if (!at->open) {
        if (!may_begin(session, row->rank))
            return at->decided ? MLT_TAKE_NOTHING
                               : failed(session, mlt_protocol_command(row->letter)->symbol,
                                        " outside of a message");
        *at = (mlt_mark){true, false, 0, MLT_FINAL_NONE};
        session->connected = true;
    }
    bool needs_rcpt = row->rank >= RANK_DATA && (session->want & SMFIP_NORCPT) == 0;
    if (row->rank < at->rank || (row->rank == at->rank && !row->repeats))
        return failed(session, mlt_protocol_command(row->letter)->symbol,
                      " after a later part of the message");
    if (needs_rcpt && at->rank < RANK_RCPT)
        return failed(session, mlt_protocol_command(row->letter)->symbol, " without a recipient");
    at->rank = row->rank;
    clear_macros_after(session, row->letter);
    if (row->letter == SMFIC_BODYEOB) {
        at->open = false;
        if (packet->payload.len > 0 && is_reported(session, MLT_STEP_BODY)) {
            at->final = MLT_FINAL_BODY;
            *event = (mlt_event){MLT_STEP_BODY, MLT_OWED_VERDICT, packet->payload.data,
                                 packet->payload.len};
            return MLT_TAKE_FIRST;
        }
    }
    return report(session, event);
}

static mlt_take receive_quit(mlt_session *session, int letter, mlt_event *event)
{
    if (session->resetting) {
        start_anew(session);
        return MLT_TAKE_NOTHING;
    }
    if (session->at.open)
        return abort_first(session, event);
    if (letter == SMFIC_QUIT)
        return MLT_TAKE_OVER;
    /* Macros stay readable in the callback, so they go only when the packet comes again. */
    session->resetting = true;
    if (!mlt_session_finish(session, event))
        return receive_quit(session, letter, event);
    return MLT_TAKE_FIRST;
}

/* A command that is a step of its own. */
static mlt_take receive_step(mlt_session *session, const mlt_packet *packet, int step,
                             mlt_event *event)
{
    mlt_client client;
    const char *why;
    if (step == MLT_STEP_CONNECT && (session->view->absent & SMFIP_NOCONNECT) != 0) {
        /* Not even looked at where nobody asked for it. */
        client = (mlt_client){'U', 0, ""};
        *event = (mlt_event){step, MLT_OWED_VERDICT, NULL, 0};
    } else if (mlt_codec_event(step, packet->payload, event, &client, &why) != MLT_OK) {
        return failed(session, mlt_protocol_command(packet->letter)->symbol, why);
    }
    switch (step) {
    case MLT_STEP_CONNECT:
        return receive_connect(session, &client, event);
    case MLT_STEP_HELO:
    case MLT_STEP_MAIL:
        return receive_beginning(session, event);
    case MLT_STEP_ABORT: {
        bool open = session->at.open;
        end_message(session);
        event->owed = MLT_OWED_NOTHING;
        return open ? MLT_TAKE_EVENT : MLT_TAKE_NOTHING;
    }
    case MLT_STEP_UNKNOWN:
        /* Changes nothing: it may come at any time (wire spec 3.3, Q1). */
        return report(session, event);
    default:
        return receive_content(session, packet, event);
    }
}

mlt_take mlt_session_receive(mlt_session *session, const mlt_packet *packet, mlt_event *event)
{
    int letter = packet->letter;
    const mlt_packet_row *row = mlt_protocol_command(letter);
    if (row == NULL) {
        mlt_view_fail(session->view, MLT_ERR_PEER, "unknown command 0x%02X", (unsigned)letter);
        return MLT_TAKE_FAILED;
    }
    if (letter == SMFIC_MACRO)
        return receive_macros(session, packet, event);
    if (letter == SMFIC_QUIT || letter == SMFIC_QUIT_NC)
        return receive_quit(session, letter, event);
    if (letter == SMFIC_OPTNEG) {
        if (session->negotiated)
            return failed(session, "second OPTNEG", "");
        return receive_options(session, packet, event);
    }
    if (!session->negotiated)
        return failed(session, row->symbol, " before OPTNEG");

    mlt_take take = receive_step(session, packet, mlt_protocol_step(letter), event);
    /* The filter is told of this session's end if it has been told of anything in it. An ABORT
     * begins nothing. */
    if (take != MLT_TAKE_FAILED && letter != SMFIC_ABORT)
        session->close_owed = true;
    return take;
}

bool mlt_session_may_run_ahead(const mlt_session *session, const mlt_packet *packet)
{
    /* What is remembered would be told, and that cannot be taken back. */
    if (session->pending.scope != MLT_SCOPE_NONE)
        return false;
    switch (packet->letter) {
    case SMFIC_DATA:
    case SMFIC_HEADER:
    case SMFIC_EOH:
    case SMFIC_BODY:
    case SMFIC_BODYEOB:
        return is_reported(session, mlt_protocol_step(packet->letter));
    case SMFIC_MACRO:
        /* Postfix sends macros for steps that have no stage. */
        return packet->payload.len > 0 &&
               mlt_protocol_stage((unsigned char)packet->payload.data[0]) < 0;
    default:
        return false;
    }
}

/* ------------------------------------------------------------------------------------------ */
/* Verdicts (wire spec 4.1 and 2.3) */

static bool is_refusal(int verdict)
{
    return verdict == SMFIS_REJECT || verdict == SMFIS_TEMPFAIL;
}

static bool is_final(int verdict)
{
    return is_refusal(verdict) || verdict == SMFIS_ACCEPT || verdict == SMFIS_DISCARD;
}

static void remember(mlt_session *session, int step, int verdict, mlt_span text)
{
    mlt_pending *pending = &session->pending;
    pending->scope =
        step == MLT_STEP_CONNECT || step == MLT_STEP_HELO ? MLT_SCOPE_SESSION : MLT_SCOPE_MESSAGE;
    pending->step = step;
    pending->verdict = verdict;
    pending->delivered = false;
    mlt_buffer_clear(&pending->text, SIZE_MAX);
    /* Without memory for the text the verdict goes out without it. */
    if (text.data != NULL)
        mlt_buffer_append(&pending->text, text.data, text.len, SIZE_MAX);
}

mlt_reply mlt_session_verdict(mlt_session *session, int step, int verdict, mlt_span text)
{
    const mlt_reply nothing = {0, {NULL, 0}, false};
    mlt_mark *at = &session->at;
    if (step == MLT_STEP_ABORT || step == MLT_STEP_CLOSE)
        return nothing;
    int letter = mlt_protocol_verdict(verdict);
    if (letter < 0 || verdict == SMFIS_ALL_OPTS) {
        /* The caller should have seen it; nobody may be left waiting. */
        verdict = SMFIS_TEMPFAIL;
        letter = SMFIR_TEMPFAIL;
    }
    if (at->final == MLT_FINAL_BODY) {
        /* The data of BODYEOB: what is neither CONTINUE nor a way to say so answers BODYEOB. */
        at->final = is_final(verdict) ? MLT_FINAL_DECIDED : MLT_FINAL_EOM;
        if (!is_final(verdict))
            return nothing;
    } else {
        /* A refused recipient, or an unknown command, leaves the transaction as it is. */
        if (is_final(verdict) && mlt_steps[step].rank >= 0 &&
            (step != MLT_STEP_RCPT || verdict == SMFIS_ACCEPT)) {
            at->decided = step != MLT_STEP_EOM;
            at->open = false;
        }
        if (is_unanswered(session, step)) {
            if (is_final(verdict) && step != MLT_STEP_UNKNOWN)
                remember(session, step, verdict, text);
            return is_silent(session, step) ? nothing
                                            : (mlt_reply){SMFIR_CONTINUE, {NULL, 0}, false};
        }
        /* Nobody may be left waiting; and at SKIP where it is not expected Sendmail stops using the
         * filter, so that mail would pass it by (wire spec 2.4). */
        bool may_skip = step == MLT_STEP_BODY && (session->sent & SMFIP_SKIP) != 0;
        if (verdict == SMFIS_NOREPLY || (verdict == SMFIS_SKIP && !may_skip))
            letter = SMFIR_CONTINUE;
    }
    if (is_refusal(verdict) && text.data != NULL)
        return (mlt_reply){SMFIR_REPLYCODE, text, true};
    return (mlt_reply){letter, {NULL, 0}, false};
}

/* ------------------------------------------------------------------------------------------ */

bool mlt_session_finish(mlt_session *session, mlt_event *event)
{
    if (session->at.open) {
        session->at.open = false;
        *event = (mlt_event){MLT_STEP_ABORT, MLT_OWED_NOTHING, NULL, 0};
        return true;
    }
    if (session->close_owed) {
        session->close_owed = false;
        *event = (mlt_event){MLT_STEP_CLOSE, MLT_OWED_NOTHING, NULL, 0};
        return true;
    }
    return false;
}

bool mlt_session_in_message(const mlt_session *session)
{
    return session->at.open ||
           (session->pending.scope == MLT_SCOPE_MESSAGE && !session->pending.delivered);
}
