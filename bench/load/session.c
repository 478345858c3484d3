/* Owns the order of things in one connection: what follows which answer, what an answer may be
 * (wire spec 2.7, 4.2 and 8.9), and when bytes are written. What the bytes are is the script's. */
#include "session.h"

#include "wire.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    SCRIPTS_MOST = 64, /* a filter that negotiates differently every time would eat all memory */
};

int64_t session_clock(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static void end_connection(struct load *load, struct session *s)
{
    if (s->fd >= 0) {
        close(s->fd);
    }
    s->fd = -1;
    s->next = load->ended;
    load->ended = s;
}

/* The one way into an error: counts it, keeps the text of the first, ends the connection. */
__attribute__((format(printf, 3, 4))) static void fail(struct load *load, struct session *s,
                                                       const char *format, ...)
{
    if (load->errors++ == 0) {
        char what[160];
        char where[64] = "connecting";
        va_list arguments;

        va_start(arguments, format);
        vsnprintf(what, sizeof what, format, arguments);
        va_end(arguments);
        if (s->parked) {
            snprintf(where, sizeof where, "silent after HELO");
        } else if (s->script == NULL && s->owed && s->out_count == 0) {
            snprintf(where, sizeof where, "negotiating");
        } else if (s->script != NULL) {
            snprintf(where, sizeof where, "message %u, after command %c", s->messages + 1,
                     s->script->steps[s->asked].command);
        }
        snprintf(load->first_error, sizeof load->first_error, "%s (%s)", what, where);
    }
    end_connection(load, s);
}

static void watch(struct load *load, struct session *s, bool writing)
{
    if (s->watched != writing) {
        struct epoll_event event = {.events = EPOLLIN | (writing ? EPOLLOUT : 0), .data.ptr = s};
        epoll_ctl(load->epoll, EPOLL_CTL_MOD, s->fd, &event);
        s->watched = writing;
    }
}

/* Queues bytes behind those queued, to which they are joined if they follow them in memory. Never
 * more than two pieces: one jump at most lies between two writes. */
static void queue(struct session *s, struct span span)
{
    if (span.size == 0) {
        return;
    }
    if (s->out_count > 0) {
        struct iovec *last = &s->out[s->out_count - 1];
        if ((const uint8_t *)last->iov_base + last->iov_len == span.data) {
            last->iov_len += span.size;
            return;
        }
    }
    s->out[s->out_count++] = (struct iovec){(void *)(uintptr_t)span.data, span.size};
}

/* Writes what is queued; false if not all of it could be, now or ever. */
static bool write_queued(struct load *load, struct session *s)
{
    s->since = load->now;
    while (s->out_count > 0) {
        struct msghdr message = {.msg_iov = s->out, .msg_iovlen = (size_t)s->out_count};
        ssize_t written = s->out_count == 1
                              ? send(s->fd, s->out[0].iov_base, s->out[0].iov_len, MSG_NOSIGNAL)
                              : sendmsg(s->fd, &message, MSG_NOSIGNAL);
        if (written < 0) {
            if (errno == EINTR) {
                continue;
            }
            if (errno == EAGAIN) {
                watch(load, s, true);
            } else {
                fail(load, s, "cannot write: %s", strerror(errno));
            }
            return false;
        }
        size_t left = (size_t)written;
        while (s->out_count > 0 && left >= s->out[0].iov_len) {
            left -= s->out[0].iov_len;
            s->out[0] = s->out[1];
            s->out_count--;
        }
        if (s->out_count > 0) {
            s->out[0].iov_base = (uint8_t *)s->out[0].iov_base + left;
            s->out[0].iov_len -= left;
        }
    }
    s->flush = false;
    watch(load, s, false);
    return true;
}

static void queue_quit(struct session *s)
{
    queue(s, s->script->quit);
    s->flush = true;
    s->quitting = true;
}

/* Queues the next step, or what comes instead of it between two messages. */
static void queue_next(struct load *load, struct session *s)
{
    const struct script *script = s->script;

    if (!s->in_message && s->step == script->message) {
        if (s->idle) {
            s->parked = true;
            load->parked++;
            s->flush = s->out_count > 0;
            return;
        }
        if (s->messages == load->messages || load->stopping) {
            if (load->messages == 0) {
                tally_time(&load->tally, session_clock() - s->opened);
            }
            queue_quit(s);
            return;
        }
        s->in_message = true;
        s->refused = 0;
        s->message = session_clock();
        if (s->messages > 0) {
            queue(s, script->renew);
        }
    }
    const struct step *step = &script->steps[s->step];
    queue(s, step->span);
    s->owed = step->answered;
    s->flush = step->written;
    s->asked = s->step++;
}

static void finish(struct load *load, struct session *s)
{
    load->tally.connections++;
    end_connection(load, s);
}

/* Goes on until the filter has to do something. */
static void advance(struct load *load, struct session *s)
{
    for (;;) {
        if (s->flush && !write_queued(load, s)) {
            return;
        }
        if (s->quitting) {
            finish(load, s);
            return;
        }
        if (s->owed || s->parked) {
            if (!s->flush) {
                return;
            }
        } else {
            queue_next(load, s);
        }
    }
}

/* The answer to the offer: checks it, finds the script for it. */
static void take_negotiation(struct load *load, struct session *s)
{
    const struct reply *reply = &s->reply;
    struct script *script = load->scripts;
    unsigned count = 0;

    if (reply->size > REPLY_KEPT) {
        fail(load, s, "the negotiation's answer has %u bytes", reply->size);
        return;
    }
    for (; script != NULL; script = script->next) {
        if (script->negotiated_size == reply->size &&
            memcmp(script->negotiated, reply->kept, reply->size) == 0) {
            s->script = script;
            return;
        }
        count++;
    }
    uint32_t version = wire_get(reply->kept);
    uint32_t actions = wire_get(reply->kept + 4);
    uint32_t protocol = wire_get(reply->kept + 8);
    if (version < 2 || version > WIRE_VERSION) {
        fail(load, s, "version %u was not offered", version);
    } else if ((actions & ~(uint32_t)WIRE_ACTIONS) != 0) {
        fail(load, s, "actions 0x%x were not offered", actions);
    } else if ((protocol & ~(uint32_t)WIRE_PROTOCOL) != 0) {
        fail(load, s, "protocol bits 0x%x were not offered", protocol);
    } else if (count == SCRIPTS_MOST) {
        fail(load, s, "the filter has negotiated in more than %d ways", SCRIPTS_MOST);
    } else {
        script = script_make(&load->workload, reply->kept, reply->size);
        if (script == NULL) {
            fail(load, s, "out of memory");
            return;
        }
        script->next = load->scripts;
        load->scripts = script;
        s->script = script;
    }
}

static void end_message(struct load *load, struct session *s)
{
    tally_time(&load->tally, session_clock() - s->message);
    load->tally.messages++;
    s->messages++;
    s->in_message = false;
    s->step = s->script->message;
}

/* The filter has decided over the connection, at CONNECT or HELO. QUIT then, as Sendmail does;
 * Postfix would close without it. */
static void end_refused(struct load *load, struct session *s, char command, char letter)
{
    bool refused = letter != 'a';
    enum expectation expected = command == 'C' ? EXPECT_AT_CONNECT : EXPECT_AT_HELO;

    if (s->idle) {
        fail(load, s, "an idle connection was answered %c", letter);
        return;
    }
    if (load->expectation != EXPECT_ANYTHING && (!refused || load->expectation != expected)) {
        fail(load, s, "the connection was not expected to be answered %c", letter);
        return;
    }
    tally_time(&load->tally, session_clock() - s->opened);
    load->tally.refused += refused;
    queue(s, (struct span){s->script->quit.data + s->script->quit.size - WIRE_HEAD, WIRE_HEAD});
    s->flush = true;
    s->quitting = true;
}

/* The verdict on what was last sent; `s->step` is what follows. */
static void take_verdict(struct load *load, struct session *s)
{
    char letter = s->reply.letter;
    char command = s->script->steps[s->asked].command;
    bool refusal = letter == 'r' || letter == 't' || letter == 'y';

    if (command == 'C' || command == 'H') {
        /* DISCARD does nothing to a connection. */
        if (letter != 'c' && letter != 'd') {
            end_refused(load, s, command, letter);
        } else if (load->expectation == (command == 'C' ? EXPECT_AT_CONNECT : EXPECT_AT_HELO)) {
            fail(load, s, "the connection was expected to be refused");
        }
        return;
    }
    if (letter == 'y' && memcmp(s->reply.kept, "421", 3) == 0) {
        end_message(load, s);
        queue_quit(s); /* 421 ends the SMTP session */
        return;
    }
    if (command == 'R' && refusal) {
        /* Only this recipient; without any there is no message. */
        if (++s->refused == load->workload.recipients) {
            end_message(load, s);
        }
    } else if (letter != 'c' || command == 'E') {
        end_message(load, s);
    }
}

/* A complete reply while one was owed. */
static void take_reply(struct load *load, struct session *s)
{
    char letter = s->reply.letter;
    enum reply_class class = reply_class(letter);
    const char *breach = reply_breach(&s->reply);
    char command = s->script != NULL ? s->script->steps[s->asked].command : 'O';

    load->tally.replies[(uint8_t)letter]++;
    if (breach != NULL) {
        fail(load, s, "reply 0x%02x to %c: %s", (uint8_t)letter, command, breach);
        return;
    }
    if ((class == REPLY_NEGOTIATION) != (command == 'O')) {
        fail(load, s, "reply %c to %c", letter, command);
        return;
    }
    if (s->out_count > 0) {
        fail(load, s, "reply %c to %c before all of it was sent", letter, command);
        return;
    }
    switch (class) {
    case REPLY_PROGRESS:
        if (command != 'E' && load->workload.style == STYLE_SENDMAIL) {
            fail(load, s, "progress in answer to %c", command);
        }
        return;
    case REPLY_MODIFICATION:
        if (command != 'E') {
            fail(load, s, "modification %c in answer to %c", letter, command);
        } else if ((s->script->actions & reply_action(letter)) == 0) {
            fail(load, s, "modification %c was not negotiated", letter);
        }
        return;
    case REPLY_SKIP:
        if (command != 'B' || (s->script->protocol & WIRE_SKIP) == 0) {
            fail(load, s, "skip in answer to %c", command);
            return;
        }
        s->step = s->script->end;
        break;
    case REPLY_NEGOTIATION:
        take_negotiation(load, s);
        break;
    default:
        take_verdict(load, s);
        break;
    }
    s->owed = false;
}

static void read_replies(struct load *load, struct session *s)
{
    ssize_t got = recv(s->fd, load->input, sizeof load->input, 0);
    size_t size = got < 0 ? 0 : (size_t)got;
    size_t at = 0;

    if (got < 0) {
        if (errno != EAGAIN && errno != EINTR) {
            fail(load, s, "cannot read: %s", strerror(errno));
        }
        return;
    }
    if (got == 0) {
        fail(load, s, "the filter closed the connection");
        return;
    }
    s->since = load->now;
    while (at < size && s->fd >= 0) {
        size_t taken;
        if (!s->owed) {
            fail(load, s, "%zu bytes (the first 0x%02x) when no answer was owed", size - at,
                 load->input[at]);
            return;
        }
        enum reply_state state = reply_feed(&s->reply, load->input + at, size - at, &taken);
        if (state == REPLY_BROKEN) {
            fail(load, s, "a reply of %u bytes", wire_get(s->reply.head));
            return;
        }
        if (state == REPLY_COMPLETE) {
            take_reply(load, s);
            reply_begin(&s->reply);
        }
        at += taken;
    }
    if (s->fd >= 0 && !s->owed) {
        advance(load, s);
    }
}

void session_ready(struct load *load, struct session *session, uint32_t events)
{
    if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) {
        read_replies(load, session);
    }
    if ((events & EPOLLOUT) != 0 && session->fd >= 0) {
        advance(load, session);
    }
}

void session_enqueue(struct load *load, struct session *session)
{
    session->next = NULL;
    session->opened = 0;
    if (load->waiting == NULL) {
        load->waiting = session;
    } else {
        load->waiting_last->next = session;
    }
    load->waiting_last = session;
}

/* Begins to connect; false if the filter's backlog is full. */
static bool open_connection(struct load *load, struct session *s)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = s};

    if (s->opened == 0) {
        s->opened = session_clock();
    }
    s->parked = s->watched = s->owed = s->flush = s->quitting = s->in_message = false;
    s->script = NULL;
    s->step = s->asked = 0;
    s->messages = s->refused = 0;
    s->out_count = 0;
    s->since = load->now;
    reply_begin(&s->reply);
    s->fd = socket(load->address.family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (s->fd < 0) {
        fail(load, s, "no socket: %s", strerror(errno));
        return true;
    }
    if (connect(s->fd, (const struct sockaddr *)&load->address.storage, load->address.size) != 0) {
        if (errno == EAGAIN) {
            close(s->fd);
            s->fd = -1;
            return false;
        }
        /* On TCP what is written waits for the connection by itself. */
        if (errno != EINPROGRESS) {
            fail(load, s, "cannot connect: %s", strerror(errno));
            return true;
        }
    }
    if (epoll_ctl(load->epoll, EPOLL_CTL_ADD, s->fd, &event) != 0) {
        fail(load, s, "cannot be polled: %s", strerror(errno));
        return true;
    }
    queue(s, script_offer());
    s->owed = s->flush = true;
    advance(load, s);
    return true;
}

void session_open_waiting(struct load *load)
{
    while (load->waiting != NULL) {
        struct session *session = load->waiting;
        load->waiting = session->next;
        if (!open_connection(load, session)) {
            load->retries++;
            session->next = load->waiting;
            load->waiting = session;
            return;
        }
    }
}

void session_quit(struct load *load, struct session *session)
{
    if (session->fd >= 0 && session->parked) {
        session->parked = false;
        queue_quit(session);
        advance(load, session);
    }
}

void session_check_timeout(struct load *load, struct session *session, int64_t timeout)
{
    if (session->fd >= 0 && (session->owed || session->flush) &&
        load->now - session->since > timeout) {
        fail(load, session, "no answer for %.1f s", (double)timeout / 1e9);
    }
}
