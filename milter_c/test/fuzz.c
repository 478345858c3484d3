/*
 * fuzz.c - the fuzz target: an MTA that may send anything, a filter that may answer anything. It
 * holds:
 *   1. Nothing outside of what was received is read: not in a packet, not in the receive buffer.
 *   2. A command is answered exactly once, or not at all where that was agreed or the MTA knows
 * already.
 *   3. Events make sense in their order; abort and close come exactly where they are owed; and
 * neither they nor the answers depend on how the bytes were cut into reads or the events into
 * batches, or on the way of waiting.
 *
 * The connection runs over memory: recv() and sendmsg() are the linker's wrappers below. The pool
 * needs a socket to wait for besides, which always has something to read. With
 * libFuzzer the target and the mutator at the end are called by it, otherwise by fuzz_main.c.
 */
#include "fuzz.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "../codec.h"
#include "../connection.h"
#include "../frame.h"
#include "guard.h"

#if defined(__SANITIZE_ADDRESS__)
#define POISONS 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define POISONS 1
#endif
#endif
#ifdef POISONS
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, size) ((void)(address), (void)(size))
#define ASAN_UNPOISON_MEMORY_REGION(address, size) ((void)(address), (void)(size))
#endif

enum { LOG = 1 << 20 };

typedef struct input {
    int flags;
    uint32_t absent;
    uint32_t want;
    uint32_t unwanted;
    const uint8_t *verdicts;
    size_t verdict_count;
    const char *data;
    size_t len;
} input;

/* How the bytes come in, and the events are taken. */
typedef enum way { LOCKSTEP, BURST, BYTES, ONE_BY_ONE, POOLED, WAYS } way;
static const char *const way_names[] = {"packet by packet", "all at once", "byte by byte",
                                        "all at once, event by event",
                                        "piece by piece, in the pool"};

/* What can be seen of a run. */
typedef struct record {
    size_t len;
    char data[LOG];
} record;

static struct {
    const input *in;
    way way;
    size_t given; /* bytes of the input that recv() has brought */
    mlt_server *server;
    mlt_connection *connection; /* of a thread of its own */
    mlt_worker *worker;         /* of the pool, */
    int listener;               /* whose socket this is */
    mlt_view *view;             /* of the connection that is played */
    size_t reads;
    /* Rule 2. */
    size_t packet; /* where the last packet begins; SIZE_MAX: none, or not a whole one */
    size_t packet_size;
    size_t replies; /* to it: options and verdicts */
    size_t others;  /* to it: modifications */
    int last_reply;
    bool told; /* the MTA knows what becomes of this message */
    bool negotiated;
    uint32_t agreed; /* protocol bits of the OPTNEG reply */
    record sent;
    /* Rule 3. */
    size_t events;
    bool open;
    bool live;
    bool begun;
    bool connected;
    record seen;
} run;

/* ------------------------------------------------------------------------------------------ */

static void broken(const char *what, const char *detail)
{
    fprintf(stderr, "broken: %s (%s); %s, %zu bytes in, %zu events\n", what, detail,
            way_names[run.way], run.given, run.events);
    abort();
}

static void require(bool holds, const char *what, const char *detail)
{
    if (!holds)
        broken(what, detail);
}

static void write_down(record *to, const void *data, size_t len)
{
    require(len <= sizeof to->data - to->len, "room in the record", "fuzz.c");
    if (len > 0)
        memcpy(to->data + to->len, data, len);
    to->len += len;
}

static void write_number(record *to, int64_t number)
{
    write_down(to, &number, sizeof number);
}

/* ------------------------------------------------------------------------------------------ */
/* Rule 2: answers */

static uint32_t big(const char *at)
{
    const unsigned char *byte = (const unsigned char *)at;
    return (uint32_t)byte[0] << 24 | (uint32_t)byte[1] << 16 | (uint32_t)byte[2] << 8 | byte[3];
}

/* Size of the packet at the beginning of some bytes; 0 where there is no whole and good one. */
static size_t packet_at(const char *data, size_t len)
{
    size_t limit = mlt_server_settings(run.server)->receive_frame;
    if (len < 4)
        return 0;
    size_t size = big(data);
    return size >= 1 && size <= limit && size <= len - 4 ? size + 4 : 0;
}

static void see_reply(int letter, const char *payload, size_t len)
{
    static const char modifications[] = "h";
    if (strchr(modifications, letter) != NULL) {
        require(run.way != LOCKSTEP || run.replies == 0, "a modification after the verdict",
                "sendmsg");
        run.others++;
        return;
    }
    run.replies++;
    run.last_reply = letter;
    switch (letter) {
    case 'O':
        require(len == 12, "OPTNEG of 12 bytes", "sendmsg");
        require(!run.negotiated, "only one OPTNEG", "sendmsg");
        run.negotiated = true;
        run.agreed = big(payload + 8);
        break;
    case 'y':
        require(len >= 2 && payload[len - 1] == '\0' && memchr(payload, 0, len - 1) == NULL,
                "REPLYCODE ends in its only NUL", "sendmsg");
        break;
    default:
        require(letter != '\0' && strchr("carstd", letter) != NULL, "a letter that may be sent",
                "sendmsg");
        require(len == 0, "a verdict without data", "sendmsg");
    }
}

/* The connection wants more, or has ended (`over`): were the answers to the last packet right? */
static void judge_packet(bool over)
{
    if (run.packet == SIZE_MAX) {
        require(run.replies == 0, "no answer without a packet", "judge");
        return;
    }
    const char *packet = run.in->data + run.packet;
    int letter = packet[4];
    char name[3] = {(char)letter, (char)run.last_reply, '\0'};
    require(run.replies <= 1, "one answer at most", name);
    require(run.others == 0 || letter == 'E', "modifications only at the end", name);
    switch (letter) {
    case 'D':
        if (run.packet_size > 5 && packet[5] == 'M' && (run.agreed & 0x4) != 0)
            run.told = false;
        require(run.replies == 0, "no answer", name);
        break;
    case 'A':
    case 'K':
    case 'Q':
        run.told = false;
        require(run.replies == 0, "no answer", name);
        require(over || letter != 'Q', "nothing behind a goodbye", name);
        break;
    case 'O':
        require(over || run.replies == 1, "an answer", name);
        require(run.replies == 0 || run.last_reply == 'O', "OPTNEG", name);
        break;
    default: {
        static const struct {
            char letter;
            uint32_t bit;
        } silent[] = {{'C', 0x1000},  {'H', 0x2000}, {'M', 0x4000},  {'R', 0x8000}, {'T', 0x10000},
                      {'U', 0x20000}, {'L', 0x80},   {'N', 0x40000}, {'B', 0x80000}};
        bool agreed = false;
        for (size_t i = 0; i < sizeof silent / sizeof *silent; i++)
            agreed = agreed || (silent[i].letter == letter && (run.agreed & silent[i].bit) != 0);
        if (letter == 'M' || letter == 'H')
            run.told = false;
        require(!agreed || run.replies == 0, "no answer, as agreed", name);
        require(over || agreed || run.told || run.replies == 1, "an answer", name);
        require(run.replies == 0 || run.last_reply != 'O', "a verdict", name);
        require(run.replies == 0 || run.last_reply != 's' ||
                    (letter == 'B' && (run.agreed & 0x400) != 0),
                "SKIP only where it was agreed", name);
        if (run.replies == 1) {
            bool final = strchr("artdy", run.last_reply) != NULL;
            if (strchr("MTLNB", letter) != NULL && final)
                run.told = true;
            if (letter == 'R' && (run.last_reply == 'a' || run.last_reply == 'd'))
                run.told = true;
        }
    }
    }
}

/* ------------------------------------------------------------------------------------------ */
/* The socket */

ssize_t __wrap_recv(int fd, void *data, size_t room, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags);

ssize_t __wrap_recv(int fd, void *data, size_t room, int flags)
{
    (void)fd;
    (void)flags;
    const char *next = run.in->data + run.given;
    size_t left = run.in->len - run.given;
    size_t size = left < room ? left : room;
    if (run.way == BYTES && size > 1)
        size = 1;
    if (run.way == POOLED) {
        /* Between two pieces nothing is there, so it waits in the poller. */
        if (run.reads++ % 2 == 1) {
            errno = EAGAIN;
            return -1;
        }
        size_t piece = 1 + run.reads * 7 % 61;
        size = size < piece ? size : piece;
    }
    if (run.way == LOCKSTEP) {
        size_t whole = packet_at(next, left);
        if (run.packet_size > 0 && run.given < run.packet + run.packet_size) {
            /* The rest of one that was larger than the room. */
            size_t rest = run.packet + run.packet_size - run.given;
            size = rest < size ? rest : size;
        } else {
            judge_packet(false);
            run.packet = whole > 0 ? run.given : SIZE_MAX;
            run.packet_size = whole;
            run.replies = run.others = 0;
            size = whole > 0 && whole < size ? whole : size;
        }
    }
    /* Rule 1: what is behind these bytes is no business of anybody. */
    ASAN_UNPOISON_MEMORY_REGION(data, room);
    if (size > 0)
        memcpy(data, next, size);
    /* What the pool lends is used again for others. */
    if (run.way != POOLED)
        ASAN_POISON_MEMORY_REGION((char *)data + size, room - size);
    run.given += size;
    return (ssize_t)size;
}

ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags)
{
    (void)fd;
    (void)flags;
    size_t start = run.sent.len;
    for (size_t i = 0; i < message->msg_iovlen; i++)
        write_down(&run.sent, message->msg_iov[i].iov_base, message->msg_iov[i].iov_len);
    for (size_t at = start; at < run.sent.len;) {
        require(run.sent.len - at >= 5, "whole packets", "sendmsg");
        size_t size = big(run.sent.data + at);
        require(size >= 1 && size <= run.sent.len - at - 4, "whole packets", "sendmsg");
        see_reply(run.sent.data[at + 4], run.sent.data + at + 5, size - 1);
        at += 4 + size;
    }
    return (ssize_t)(run.sent.len - start);
}

/* ------------------------------------------------------------------------------------------ */
/* Rule 3: events */

/* The steps that open a message are not reported, so it may be open without our knowing. */
static bool is_mail_hidden(void)
{
    return ((run.in->absent | run.agreed) & 0x4) != 0 ||
           (run.in->unwanted >> MLT_STEP_MAIL & 1) != 0;
}

/* A number for all the macros that a callback could ask for. */
static int64_t macros_seen(const mlt_view *view)
{
    uint64_t sum = 14695981039346656037u;
    for (int stage = 0; stage < MLT_STAGES; stage++) {
        for (size_t i = 0; i < view->macros[stage].len; i++)
            sum = (sum ^ (unsigned char)view->macros[stage].data[i]) * 1099511628211u;
        sum = (sum ^ view->macros[stage].len) * 1099511628211u;
    }
    return (int64_t)(sum >> 1);
}

static void see_event(const mlt_event *event)
{
    const mlt_view *view = run.view;
    const char *name = mlt_steps[event->step].callback;
    bool in_message = mlt_steps[event->step].rank >= 0;
    uint32_t no_bit = mlt_steps[event->step].no_bit;
    uint32_t nr_bit = mlt_steps[event->step].nr_bit;
    bool ends = event->step == MLT_STEP_ABORT || event->step == MLT_STEP_CLOSE;
    run.events++;
    write_number(&run.seen, event->step);
    write_number(&run.seen, (int64_t)event->len);
    write_down(&run.seen, event->data, event->len);
    write_number(&run.seen, macros_seen(view));
    require((run.in->absent & no_bit) == 0, "a step without callback is not reported", name);
    require((run.in->unwanted >> event->step & 1) == 0 || ends || event->step == MLT_STEP_NEGOTIATE,
            "an unwanted step is not reported", name);
    require(event->owed != MLT_OWED_NOTHING || ends || (run.agreed & nr_bit) != 0,
            "silent only as agreed", name);
    switch (event->step) {
    case MLT_STEP_NEGOTIATE:
        require(!run.begun, "negotiation comes first", name);
        run.live = true;
        return;
    case MLT_STEP_CLOSE:
        /* Of a session without callbacks its end is all that is seen. */
        require(run.live || (run.in->absent | run.in->unwanted) != 0, "close ends a session", name);
        require(!run.open, "abort before close", name);
        run.live = false;
        run.connected = false;
        return;
    case MLT_STEP_ABORT:
        require(run.open || is_mail_hidden(), "abort ends a message", name);
        run.open = false;
        return;
    case MLT_STEP_CONNECT:
        require(!run.connected && !run.open, "connect is first, and once", name);
        require(view->family == '4' || view->family == '6' || view->family == 'L' ||
                    view->family == 'U',
                "a family that exists", name);
        run.connected = true;
        break;
    case MLT_STEP_HELO:
        require(!run.open, "abort before helo", name);
        run.connected = true;
        break;
    case MLT_STEP_MAIL:
        require(!run.open, "abort before envfrom", name);
        run.connected = true;
        run.open = true;
        break;
    default:
        break;
    }
    run.begun = true;
    run.live = true;
    if (in_message && event->step != MLT_STEP_MAIL) {
        require(run.open || is_mail_hidden(), "a message's part in a message", name);
        run.connected = true;
        run.open = event->step != MLT_STEP_EOM;
    }
}

/* The filter's answer to the event that was seen last. */
static int decide(const mlt_event *event, mlt_span *text, mlt_span *actions)
{
    static const char header[] = "\0\0\0\5hX\0v";
    const input *in = run.in;
    size_t number = run.events - 1;
    int choice = number < in->verdict_count ? in->verdicts[number] : 0;
    int verdict;
    *text = (mlt_span){NULL, 0};
    *actions = (mlt_span){NULL, 0};
    if (event->step == MLT_STEP_NEGOTIATE) {
        mlt_view *view = run.view;
        view->protocol |= in->want;
        return (in->flags & FUZZ_REFUSE) != 0     ? SMFIS_REJECT
               : (in->flags & FUZZ_ALL_OPTS) != 0 ? SMFIS_ALL_OPTS
                                                  : SMFIS_CONTINUE;
    }
    if (event->step == MLT_STEP_EOM && (choice & 0x20) != 0)
        *actions = (mlt_span){header, sizeof header};
    switch (choice & 0xF) {
    case 9:
        verdict = SMFIS_REJECT;
        break;
    case 10:
        verdict = SMFIS_DISCARD;
        break;
    case 11:
        verdict = SMFIS_ACCEPT;
        break;
    case 12:
        verdict = SMFIS_TEMPFAIL;
        break;
    case 13:
        verdict = SMFIS_NOREPLY;
        break;
    case 14:
        verdict = SMFIS_SKIP;
        break;
    case 15:
        verdict = (choice & 0x40) != 0 ? SMFIS_ALL_OPTS : 99;
        break;
    default:
        verdict = SMFIS_CONTINUE;
    }
    if ((choice & 0x10) != 0 && verdict == SMFIS_REJECT)
        *text = (mlt_span){"550 5.7.1 no", 12};
    if ((choice & 0x10) != 0 && verdict == SMFIS_TEMPFAIL)
        *text = (mlt_span){"450 4.7.1 later", 15};
    bool final = verdict != SMFIS_CONTINUE && verdict != SMFIS_NOREPLY && verdict != SMFIS_SKIP;
    bool keeps = event->step == MLT_STEP_RCPT && verdict != SMFIS_ACCEPT;
    if (final && mlt_steps[event->step].rank >= 0 && !keeps)
        run.open = false;
    return verdict;
}

/* ------------------------------------------------------------------------------------------ */
/* One conversation */

/* Makes the pool that POOLED is played in. */
static void open_pool(void)
{
    static const mlt_socket_options plain = {.backlog = 1, .mode = -1, .owner = -1, .group = -1};
    static const mlt_pool_options options = {.threads = 1, .active = 1, .threshold = 1, .bell = -1};
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char spec[20];
    run.listener = socket(AF_UNIX, SOCK_STREAM, 0);
    /* The system chooses a name that is no file's. */
    require(bind(run.listener, (struct sockaddr *)&address, sizeof address.sun_family) == 0,
            "a socket", "bind");
    snprintf(spec, sizeof spec, "fd:%d", run.listener);
    require(mlt_server_open(run.server, spec, &plain) == MLT_OK, "a listening socket", spec);
    require(mlt_server_start(run.server) == MLT_OK, "a server", "fuzz.c");
    mlt_pool *pool = mlt_pool_new(run.server, &options);
    run.worker = mlt_worker_new(pool);
    require(run.worker != NULL, "a pool", mlt_server_error(run.server));
}

/* The MTA's end of a connection to the pool, on which the pool always finds something to read. */
static int dial(void)
{
    struct sockaddr_un address;
    socklen_t len = sizeof address;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    require(getsockname(run.listener, (struct sockaddr *)&address, &len) == 0 &&
                connect(fd, (struct sockaddr *)&address, len) == 0 && write(fd, "", 1) == 1,
            "a connection", "dial");
    return fd;
}

/* As mlt_connection_next() and mlt_worker_next(). */
static int next(size_t done, int verdict, mlt_span text, mlt_span actions)
{
    if (run.way != POOLED)
        return mlt_connection_next(run.connection, done, verdict, text.data, text.len, actions.data,
                                   actions.len);
    int count =
        mlt_worker_next(run.worker, done, verdict, text.data, text.len, actions.data, actions.len);
    const mlt_work *work = mlt_worker_work(run.worker);
    require(count != 0 || work->status == MLT_END, "an end", "mlt_worker_next");
    run.view = work->view;
    return count;
}

static void converse(const input *in, way how)
{
    mlt_settings *settings = mlt_server_settings(run.server);
    run.in = in;
    run.way = how;
    run.given = 0;
    run.packet = SIZE_MAX;
    run.packet_size = run.replies = run.others = run.events = 0;
    run.told = run.negotiated = run.open = run.begun = run.connected = false;
    run.live = true;
    run.agreed = 0;
    run.sent.len = run.seen.len = 0;
    settings->negotiate = (in->flags & FUZZ_NEGOTIATE) != 0;
    settings->mds = (in->flags & FUZZ_LARGER) != 0;
    settings->absent = in->absent;
    settings->unwanted = in->unwanted;
    settings->flags = 0;
    settings->receive_frame = (in->flags & FUZZ_SMALL_LIMITS) != 0 ? 40 : 100000;
    settings->macros_per_stage = (in->flags & FUZZ_SMALL_LIMITS) != 0 ? 2 : 100;
    settings->macro_bytes = (in->flags & FUZZ_SMALL_LIMITS) != 0 ? 20 : 10000;

    int fd = how == POOLED ? dial() : open("/dev/null", O_RDWR | O_CLOEXEC);
    run.reads = 0;
    run.view = mlt_connection_view(run.connection);
    if (how != POOLED)
        require(fd >= 0 && mlt_connection_adopt(run.connection, fd) == MLT_OK, "a connection",
                "fuzz.c");
    size_t done = 0;
    int verdict = 0;
    mlt_span text = {NULL, 0};
    mlt_span actions = {NULL, 0};
    for (;;) {
        int count = next(done, verdict, text, actions);
        require(count >= 0 && count <= MLT_EVENTS, "a number of events", "next");
        if (count == 0)
            break;
        verdict = SMFIS_CONTINUE;
        for (done = 0; done < (size_t)count;) {
            const mlt_event *event = &run.view->events[done++];
            require(event->owed == MLT_OWED_NOTHING || done == (size_t)count,
                    "an answer ends the batch", "next");
            see_event(event);
            verdict = decide(event, &text, &actions);
            if ((verdict != SMFIS_CONTINUE && verdict != SMFIS_NOREPLY) || how == ONE_BY_ONE)
                break;
        }
    }
    if (how == LOCKSTEP)
        judge_packet(true);
    const mlt_view *view = run.view;
    require(!run.open, "abort before the end", "end");
    require(!run.live, "close before the end", "end");
    require((view->status != MLT_OK) == (view->error[0] != '\0'), "a text with each error", "end");
    write_number(&run.seen, view->status);
    /* Some texts have the connection's number, which is another one each time. */
    const char *why = strchr(view->error, ']');
    why = why != NULL ? why : view->error;
    write_down(&run.seen, why, strlen(why));
    if (how == POOLED)
        close(fd);
}

/* ------------------------------------------------------------------------------------------ */
/* Packets by themselves, in front of a guard page */

static void take_apart(const input *in)
{
    size_t at = 0;
    mlt_packet packet;
    const char *data = in->data; /* of exactly its size */
    while (mlt_frame_next(data + at, in->len - at, 100000, &packet) == MLT_OK) {
        mlt_span payload = {guarded(packet.payload.data, packet.payload.len), packet.payload.len};
        mlt_fields fields;
        mlt_event event;
        mlt_client client;
        mlt_span pairs;
        size_t count;
        int letter;
        const char *why;
        uint32_t words[3];
        at += packet.used;
        for (const mlt_packet_row *row = mlt_commands; row->symbol != NULL; row++)
            mlt_codec_decode(row->shape, payload.data, payload.len, &fields);
        for (const mlt_packet_row *row = mlt_replies; row->symbol != NULL; row++) {
            static char again[200000];
            if (mlt_codec_decode(row->shape, payload.data, payload.len, &fields) != MLT_OK)
                continue;
            /* Replies have no room for anything that would be lost on the way. */
            size_t size = mlt_codec_encode(packet.letter, row->shape, &fields, again, sizeof again);
            require(size == packet.used && memcmp(again, data + at - packet.used, size) == 0,
                    "the same packet again", row->symbol);
        }
        int step = mlt_protocol_step(packet.letter);
        if (step >= 0)
            mlt_codec_event(step, payload, &event, &client, &why);
        mlt_codec_macros(payload, &letter, &pairs, &count);
        mlt_codec_options(payload, &words[0], &words[1], &words[2]);
    }
}

/* ------------------------------------------------------------------------------------------ */

static bool read_input(const uint8_t *data, size_t len, input *in)
{
    if (len < FUZZ_SETTINGS)
        return false;
    in->flags = data[0];
    in->absent = ((uint32_t)data[1] << 8 | data[2]) & 0x37F;
    in->want = ((uint32_t)data[3] << 16 | (uint32_t)data[4] << 8 | data[5]) & 0x1FFFFF;
    in->unwanted = (uint32_t)data[6] << 8 | data[7];
    /* Hidden, the end of a message could not be told from its going on. */
    in->unwanted &= ~(UINT32_C(1) << MLT_STEP_EOM);
    in->verdict_count = data[8] & FUZZ_VERDICTS;
    if (in->verdict_count > len - FUZZ_SETTINGS)
        in->verdict_count = len - FUZZ_SETTINGS;
    in->verdicts = data + FUZZ_SETTINGS;
    in->data = (const char *)data + FUZZ_SETTINGS + in->verdict_count;
    in->len = len - FUZZ_SETTINGS - in->verdict_count;
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static record seen, sent;
    input in;
    if (run.server == NULL) {
        run.server = mlt_server_new();
        run.connection = mlt_connection_new(run.server);
        require(run.connection != NULL, "memory", "fuzz.c");
        open_pool();
    }
    if (!read_input(data, len, &in))
        return 0;
    take_apart(&in);
    for (way how = 0; how < WAYS; how++) {
        converse(&in, how);
        if (how > 0) {
            require(seen.len == run.seen.len && memcmp(seen.data, run.seen.data, seen.len) == 0,
                    "the same events", "ways");
            require(sent.len == run.sent.len && memcmp(sent.data, run.sent.data, sent.len) == 0,
                    "the same answers", "ways");
        } else {
            seen.len = sent.len = 0;
            write_down(&seen, run.seen.data, run.seen.len);
            write_down(&sent, run.sent.data, run.sent.len);
        }
    }
    return 0;
}
