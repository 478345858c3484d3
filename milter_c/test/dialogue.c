/*
 * dialogue.c - plays conversations.
 */
#include "dialogue.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../connection.h"
#include "../frame.h"
#include "../session.h"
#include "test.h"

/* ------------------------------------------------------------------------------------------ */
/* Scripts */

/* Frames as in wire spec 8's conventions and 1.3's examples. */
static const struct {
    const char *name;
    const char *frame;
} packets[] = {
    {"C", "00 00 00 10 43 68 00 34 04 D2 31 39 32 2E 30 2E 32 2E 31 00"},
    {"H", "00 00 00 03 48 68 00"},
    {"M", "00 00 00 07 4D 3C 61 40 62 3E 00"},
    {"R", "00 00 00 07 52 3C 63 40 64 3E 00"},
    {"T", "00 00 00 01 54"},
    {"L", "00 00 00 0C 4C 53 75 62 6A 65 63 74 00 68 69 00"},
    {"N", "00 00 00 01 4E"},
    {"B", "00 00 00 05 42 78 79 0D 0A"},
    {"E", "00 00 00 01 45"},
    {"E+", "00 00 00 05 45 78 79 0D 0A"},
    {"A", "00 00 00 01 41"},
    {"Q", "00 00 00 01 51"},
    {"K", "00 00 00 01 4B"},
    {"U", "00 00 00 05 55 46 4F 4F 00"},
};

static void append(dialogue_script *out, const void *data, size_t len)
{
    REQUIRE(out->len + len <= sizeof out->data);
    memcpy(out->data + out->len, data, len);
    out->len += len;
}

static void append_word(dialogue_script *out, uint32_t word)
{
    unsigned char data[4] = {(unsigned char)(word >> 24), (unsigned char)(word >> 16),
                             (unsigned char)(word >> 8), (unsigned char)word};
    append(out, data, sizeof data);
}

static void append_packet(const dialogue *one, dialogue_script *out, const char *name, size_t len)
{
    if (len == 1 && *name == 'O') {
        append(out, "\0\0\0\x0DO\0\0\0\6\0\0\1\xFF", 13);
        append_word(out, one->offer != 0 ? one->offer : 0x1FFFFF);
        return;
    }
    if (len == 3 && memcmp(name, "D:", 2) == 0) {
        append(out, "\0\0\0\6D", 5);
        append(out, name + 2, 1);
        append(out, "i\0001\0", 4);
        return;
    }
    if (len == 3 && memcmp(name, "d:", 2) == 0) {
        append(out, "\0\0\0\2D", 5);
        append(out, name + 2, 1);
        return;
    }
    for (size_t i = 0; i < sizeof packets / sizeof *packets; i++) {
        if (strlen(packets[i].name) == len && memcmp(packets[i].name, name, len) == 0) {
            test_bytes frame = hex(packets[i].frame);
            append(out, frame.data, frame.len);
            return;
        }
    }
    printf("no packet %.*s\n", (int)len, name);
    REQUIRE(false);
}

static void append_hex(dialogue_script *out, const char *digits, size_t len, bool framed)
{
    char copy[512];
    REQUIRE(len < sizeof copy);
    memcpy(copy, digits, len);
    copy[len] = '\0';
    test_bytes data = hex(copy);
    if (framed)
        append_word(out, (uint32_t)data.len);
    append(out, data.data, data.len);
}

static void add_packet(const dialogue *one, dialogue_script *out, const char *name, size_t len,
                       bool traced)
{
    REQUIRE(out->count < DIALOGUE_PACKETS);
    size_t start = out->len;
    if (*name == '[')
        append_hex(out, name + 1, len - 2, true);
    else if (*name == '{')
        append_hex(out, name + 1, len - 2, false);
    else
        append_packet(one, out, name, len);
    out->letters[out->count] = out->len - start > 4 ? out->data[start + 4] : '\0';
    out->traced[out->count] = traced;
    out->answers[out->count][0] = out->answers[out->count][1] = 'c';
    out->ends[out->count++] = out->len;
}

void dialogue_parse(const dialogue *one, dialogue_script *out)
{
    memset(out, 0, sizeof *out);
    if (!one->raw)
        add_packet(one, out, "O", 1, false);
    for (const char *at = one->script; *at != '\0';) {
        if (*at == ' ') {
            at++;
            continue;
        }
        size_t len = *at == '['   ? strcspn(at, "]") + 1
                     : *at == '{' ? strcspn(at, "}") + 1
                                  : strcspn(at, " =");
        add_packet(one, out, at, len, true);
        at += len;
        if (*at == '=') {
            for (int i = 0; *++at != '\0' && *at != ' '; i++) {
                REQUIRE(i < 2);
                out->answers[out->count - 1][i] = *at;
            }
        }
    }
}

void dialogue_settings(const dialogue *one, mlt_settings *settings)
{
    settings->absent = one->absent;
    settings->flags = 0x1FF;
    settings->negotiate = one->want != 0;
    settings->unwanted = one->unwanted;
    if (one->bytes != 0)
        settings->receive_frame = one->bytes;
}

int dialogue_verdict(char answer, mlt_span *text)
{
    *text = (mlt_span){NULL, 0};
    switch (answer) {
    case 'c':
        return SMFIS_CONTINUE;
    case 'r':
        return SMFIS_REJECT;
    case 'd':
        return SMFIS_DISCARD;
    case 'a':
        return SMFIS_ACCEPT;
    case 't':
        return SMFIS_TEMPFAIL;
    case 's':
        return SMFIS_SKIP;
    case 'n':
        return SMFIS_NOREPLY;
    case 'o':
        return SMFIS_ALL_OPTS;
    case '?':
        return 99;
    case 'y':
        *text = (mlt_span){"550 5.7.1 no", 12};
        return SMFIS_REJECT;
    case 'z':
        *text = (mlt_span){"450 4.7.1 later", 15};
        return SMFIS_TEMPFAIL;
    default:
        REQUIRE(false);
        return -1;
    }
}

/* ------------------------------------------------------------------------------------------ */
/* Traces */

typedef struct trace {
    size_t len;
    char text[DIALOGUE_TRACE];
} trace;

static void trace_text(trace *to, const char *text, size_t len)
{
    REQUIRE(to->len + len + 1 < sizeof to->text);
    memcpy(to->text + to->len, text, len);
    to->len += len;
    to->text[to->len] = '\0';
}

static void trace_token(trace *to, const char *token)
{
    if (to->len > 0)
        trace_text(to, " ", 1);
    trace_text(to, token, strlen(token));
}

/* A reply: its letter, and of a REPLYCODE the text without NUL. */
static void trace_reply(trace *to, bool alone, int letter, const char *payload, size_t len)
{
    char name[] = {'>', (char)letter, '\0'};
    if (alone)
        trace_token(to, name);
    else
        trace_text(to, name, 2);
    if (letter == 'y') {
        trace_text(to, "(", 1);
        trace_text(to, payload, len);
        trace_text(to, ")", 1);
    }
}

/* Of a trace only the events, or only the replies. */
static void project(const char *whole, bool replies, trace *to)
{
    *to = (trace){0, ""};
    for (const char *at = whole; *at != '\0';) {
        /* A text may have blanks in it. */
        size_t word = strcspn(at, " >");
        size_t end = word;
        if (at[word] == '>') {
            const char *close = at[word + 2] == '(' ? strchr(at + word, ')') : NULL;
            end = close != NULL ? (size_t)(close - at) + 1 : word + 2;
        }
        bool is_event = word > 0 && *at != '-' && strncmp(at, "FAIL", word) != 0;
        const char *part = replies ? at + word : at;
        size_t len = replies ? end - word : (is_event ? word : 0);
        if (len > 0) {
            if (to->len > 0)
                trace_text(to, " ", 1);
            trace_text(to, part, len);
        }
        at += end;
        at += *at == ' ';
    }
}

/* ------------------------------------------------------------------------------------------ */
/* Without a socket */

/* The filter's part in a negotiation. */
static void ask(const dialogue *one, mlt_view *view)
{
    view->protocol |= one->want;
}

/* Puts in one packet. False: the connection is over. */
static bool play_packet(const dialogue *one, const dialogue_script *script, size_t number,
                        mlt_session *session, const mlt_packet *packet, trace *to)
{
    bool told = false;
    bool traced = script->traced[number];
    for (int turn = 0;; turn++) {
        mlt_event event;
        mlt_span text;
        mlt_reply reply = {0, {NULL, 0}, false};
        mlt_take take = mlt_session_receive(session, packet, &event);
        switch (take) {
        case MLT_TAKE_EVENT:
        case MLT_TAKE_FIRST:
            if (traced)
                trace_token(to, mlt_steps[event.step].callback);
            told = true;
            if (event.step == MLT_STEP_NEGOTIATE) {
                bool lists;
                ask(one, session->view);
                if (mlt_session_negotiate(session, SMFIS_CONTINUE, 0, &lists) != MLT_OK) {
                    trace_token(to, "FAIL");
                    return false;
                }
                reply = (mlt_reply){'O', {session->options, sizeof session->options}, false};
            } else {
                bool second =
                    packet->letter == 'E' && event.step == MLT_STEP_EOM && packet->payload.len > 0;
                int verdict = dialogue_verdict(script->answers[number][second], &text);
                reply = mlt_session_verdict(session, event.step, verdict, text);
                if (event.owed != MLT_OWED_VERDICT)
                    CHECK_INT(event.owed == MLT_OWED_NOTHING ? 0 : 'c', reply.letter);
            }
            if (reply.letter != 0 && traced)
                trace_reply(to, false, reply.letter, reply.text.data, reply.text.len);
            CHECK_INT(reply.letter == 'y', reply.nul);
            if (take == MLT_TAKE_EVENT)
                return true;
            /* Nobody is asked more than three times about one packet: abort, close or body, it. */
            REQUIRE(turn < 3);
            continue;
        case MLT_TAKE_ANSWER:
            if (traced)
                trace_reply(to, true, session->answer.letter, session->answer.text.data,
                            session->answer.text.len);
            CHECK_INT(session->answer.letter == 'y', session->answer.nul);
            return true;
        case MLT_TAKE_NOTHING:
            if (!told && traced && packet->letter != 'D')
                trace_token(to, "-");
            return true;
        case MLT_TAKE_OVER:
            return false;
        case MLT_TAKE_FAILED:
            trace_token(to, "FAIL");
            CHECK(session->view->status < 0);
            CHECK(session->view->error[0] != '\0');
            return false;
        }
    }
}

static void play_session(const dialogue *one, const dialogue_script *script,
                         const mlt_settings *settings, size_t step, trace *to)
{
    mlt_view *view = calloc(1, sizeof *view);
    mlt_session session;
    mlt_event event;
    REQUIRE(view != NULL);
    mlt_session_init(&session, settings, view);
    mlt_session_reset(&session);
    *to = (trace){0, ""};
    size_t start = 0; /* of what was not taken yet */
    size_t number = 0;
    bool going = true;
    for (size_t len = step < script->len ? step : script->len; going; len += step) {
        if (len > script->len)
            len = script->len;
        for (;;) {
            mlt_packet packet;
            const char *data = guarded(script->data + start, len - start);
            int status = mlt_frame_next(data, len - start, settings->receive_frame, &packet);
            if (status == MLT_NEED_MORE)
                break;
            if (status != MLT_OK) {
                trace_token(to, "FAIL");
                going = false;
                break;
            }
            REQUIRE(number < script->count);
            CHECK_INT(script->ends[number], start + packet.used);
            going = play_packet(one, script, number, &session, &packet, to);
            if (!going)
                break;
            number++;
            start += packet.used;
        }
        if (len == script->len)
            going = false;
    }
    while (mlt_session_finish(&session, &event))
        trace_token(to, mlt_steps[event.step].callback);
    mlt_session_free(&session);
    free(view);
}

/* ------------------------------------------------------------------------------------------ */
/* Over a socket pair */

/* Which packet an event belongs to: the one that ends there, counted from `start`; or, where
 * nothing was taken yet, the one that begins there. */
static size_t packet_of(const dialogue_script *script, size_t start, size_t end)
{
    for (size_t i = 0; i < script->count; i++) {
        size_t place = end > 0 ? script->ends[i] : (i == 0 ? 0 : script->ends[i - 1]);
        if (place == start + end)
            return i;
    }
    return SIZE_MAX;
}

static void read_replies(const dialogue *one, int fd, trace *to)
{
    static char data[DIALOGUE_BYTES];
    size_t len = 0;
    ssize_t got;
    bool skip = !one->raw;
    while (len < sizeof data && (got = read(fd, data + len, sizeof data - len)) > 0)
        len += (size_t)got;
    *to = (trace){0, ""};
    for (size_t at = 0; at < len;) {
        mlt_packet packet;
        REQUIRE(mlt_frame_next(data + at, len - at, sizeof data, &packet) == MLT_OK);
        at += packet.used;
        if (!skip) {
            bool text = packet.letter == 'y';
            if (text)
                CHECK_INT('\0', packet.payload.data[packet.payload.len - 1]);
            trace_reply(to, true, packet.letter, packet.payload.data, packet.payload.len - text);
        }
        skip = false;
    }
}

static void play_connection(const dialogue *one, const dialogue_script *script, mlt_server *server,
                            trace *events, trace *replies)
{
    int pair[2];
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    REQUIRE(write(pair[0], script->data, script->len) == (ssize_t)script->len);
    shutdown(pair[0], SHUT_WR);
    mlt_connection *connection = mlt_connection_new(server);
    REQUIRE(connection != NULL);
    mlt_view *view = mlt_connection_view(connection);
    CHECK_INT(MLT_OK, mlt_connection_adopt(connection, pair[1]));
    atomic_store(&hooks.received, 0);
    *events = (trace){0, ""};
    size_t done = 0;
    int verdict = 0;
    mlt_span text = {NULL, 0};
    for (;;) {
        int count = mlt_connection_next(connection, done, verdict, text.data, text.len, NULL, 0);
        REQUIRE(count >= 0);
        if (count == 0)
            break;
        size_t start = (size_t)atomic_load(&hooks.received) - mlt_buffer_len(&connection->in);
        for (done = 0, verdict = SMFIS_CONTINUE; done < (size_t)count && verdict == 0; done++) {
            const mlt_event *event = &view->events[done];
            bool last = done + 1 == (size_t)count;
            CHECK(event->owed == MLT_OWED_NOTHING || last);
            if (event->step == MLT_STEP_NEGOTIATE) {
                ask(one, view);
                if (!one->raw)
                    continue;
            }
            trace_token(events, mlt_steps[event->step].callback);
            if (event->step == MLT_STEP_ABORT || event->step == MLT_STEP_CLOSE ||
                event->step == MLT_STEP_NEGOTIATE)
                continue;
            size_t number = packet_of(script, start, connection->batch->ends[done]);
            REQUIRE(number < script->count);
            bool second = event->step == MLT_STEP_EOM && script->letters[number] == 'E' &&
                          script->ends[number] - script->ends[number - 1] > 5;
            verdict = dialogue_verdict(script->answers[number][second], &text);
            if (verdict == SMFIS_NOREPLY && !last)
                verdict = SMFIS_CONTINUE;
        }
    }
    CHECK_INT(-1, connection->fd);
    CHECK_INT(strstr(one->trace, "FAIL") != NULL, view->status < 0);
    CHECK_INT(view->status != MLT_OK, view->error[0] != '\0');
    mlt_connection_free(connection);
    read_replies(one, pair[0], replies);
    close(pair[0]);
}

void dialogue_play(const dialogue *rows, size_t count)
{
    static dialogue_script script;
    static trace got, expected, replies;
    for (size_t i = 0; i < count; i++) {
        const dialogue *one = &rows[i];
        char name[200];
        mlt_server *server = mlt_server_new();
        REQUIRE(server != NULL);
        dialogue_parse(one, &script);
        dialogue_settings(one, mlt_server_settings(server));

        snprintf(name, sizeof name, "%s (session, whole)", one->name);
        test_row(name);
        play_session(one, &script, mlt_server_settings(server), script.len, &got);
        CHECK_TEXT(one->trace, got.text);

        snprintf(name, sizeof name, "%s (session, byte by byte)", one->name);
        play_session(one, &script, mlt_server_settings(server), 1, &got);
        CHECK_TEXT(one->trace, got.text);

        for (int limit = -1; limit <= 1; limit += 2) {
            snprintf(name, sizeof name, "%s (connection, %s)", one->name,
                     limit < 0 ? "whole" : "byte by byte");
            atomic_store(&hooks.receive_limit, limit);
            play_connection(one, &script, server, &got, &replies);
            project(one->trace, false, &expected);
            CHECK_TEXT(expected.text, got.text);
            project(one->trace, true, &expected);
            CHECK_TEXT(expected.text, replies.text);
        }
        atomic_store(&hooks.receive_limit, -1);
        CHECK_INT(0, mlt_server_active(server));
        mlt_server_free(server);
        test_row(NULL);
    }
}
