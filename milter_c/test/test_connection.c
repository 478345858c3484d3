/*
 * test_connection.c - connections over socket pairs: what comes in how many reads, what goes out in
 * how many writes, and what the filter is told when something goes wrong.
 */
#include "../connection.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../frame.h"
#include "dialogue.h"
#include "test.h"

/* A connection and the MTA's end of it. */
typedef struct line {
    int mta;
    mlt_server *server;
    mlt_connection *connection;
    mlt_view *view;
} line;

static void connect_line(line *it)
{
    int pair[2];
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    it->mta = pair[0];
    CHECK_INT(MLT_OK, mlt_connection_adopt(it->connection, pair[1]));
}

/* `one`: what the row says of the filter; its script is not looked at. */
static line open_line(const dialogue *one)
{
    line it;
    it.server = mlt_server_new();
    REQUIRE(it.server != NULL);
    dialogue_settings(one, mlt_server_settings(it.server));
    it.connection = mlt_connection_new(it.server);
    REQUIRE(it.connection != NULL);
    it.view = mlt_connection_view(it.connection);
    connect_line(&it);
    return it;
}

static void close_line(line *it)
{
    close(it->mta);
    mlt_connection_free(it->connection);
    CHECK_INT(0, mlt_server_active(it->server));
    mlt_server_free(it->server);
}

/* The MTA writes the packets of a script, all at once. */
static void put(line *it, const char *text)
{
    static dialogue_script script;
    dialogue one = {.script = text, .raw = true};
    dialogue_parse(&one, &script);
    REQUIRE(write(it->mta, script.data, script.len) == (ssize_t)script.len);
}

/* Checks what the MTA has received since it looked last. */
static void check_received(line *it, const char *digits)
{
    char data[4096];
    ssize_t got = recvfrom(it->mta, data, sizeof data, MSG_DONTWAIT, NULL, NULL);
    CHECK_HEX(digits, data, got > 0 ? (size_t)got : 0);
}

/* The next batch, the last one answered with a verdict. */
static int answer(line *it, size_t done, int verdict)
{
    return mlt_connection_next(it->connection, done, verdict, NULL, 0, NULL, 0);
}

#define CONTINUE_ALL(it, count) answer(it, (size_t)(count), SMFIS_CONTINUE)

/* Goes to the end with CONTINUE, first to the `count` events at hand, and returns the names of the
 * events that come after them. */
static const char *story(line *it, int count)
{
    static char text[2000];
    size_t len = 0;
    text[0] = '\0';
    while ((count = CONTINUE_ALL(it, count)) > 0) {
        for (int i = 0; i < count; i++) {
            const mlt_event *event = &it->view->events[i];
            if (event->step == MLT_STEP_NEGOTIATE)
                it->view->protocol = 0;
            len += (size_t)snprintf(text + len, sizeof text - len, "%s%s", len > 0 ? " " : "",
                                    mlt_steps[event->step].callback);
            REQUIRE(len < sizeof text);
        }
    }
    CHECK_INT(0, count);
    return text;
}

static const dialogue any_filter = {.name = ""};

/* ------------------------------------------------------------------------------------------ */
/* Reads and writes */

/* Macros and command come in one read; modifications and verdict go out in one write; nothing else
 * is read or written. */
TEST(connection_one_read_one_write)
{
    line it = open_line(&any_filter);
    put(&it, "O");
    put(&it, "D:C C");
    CHECK_INT(1, answer(&it, 0, 0));
    CHECK_INT(MLT_STEP_CONNECT, it.view->events[0].step);
    CHECK_INT(1, hooks.receive_calls);
    CHECK_INT(1, hooks.send_calls);
    check_received(&it, "0000000D 4F 00000006 000001FF 00000000");
    for (int i = 0; i < 3; i++) {
        static const char *const scripts[] = {"D:H H", "D:M M", "D:R R"};
        put(&it, scripts[i]);
        CHECK_INT(1, answer(&it, 1, SMFIS_CONTINUE));
        CHECK_INT(2 + i, hooks.receive_calls);
        CHECK_INT(2 + i, hooks.send_calls);
        check_received(&it, "00000001 63");
    }
    put(&it, "E");
    CHECK_INT(1, answer(&it, 1, SMFIS_CONTINUE));
    CHECK_INT(MLT_STEP_EOM, it.view->events[0].step);
    check_received(&it, "00000001 63");
    test_bytes actions = hex("00000005 68 58 00 76 00 00000005 71 77 68 79 00");
    shutdown(it.mta, SHUT_WR);
    CHECK_INT(1, mlt_connection_next(it.connection, 1, SMFIS_REJECT, "550 5.7.1 no", 12,
                                     actions.data, actions.len));
    CHECK_INT(6, hooks.send_calls);
    check_received(&it, "00000005 68 58 00 76 00 00000005 71 77 68 79 00 "
                        "0000000E 79 35 35 30 20 35 2E 37 2E 31 20 6E 6F 00");
    CHECK_INT(MLT_STEP_CLOSE, it.view->events[0].step);
    CHECK_INT(0, answer(&it, 1, 0));
    CHECK_INT(6, hooks.send_calls);
    close_line(&it);
}

/* What is in the buffer already costs no read, however many packets that are. */
TEST(connection_pipelined_commands)
{
    line it = open_line(&any_filter);
    put(&it, "O C H M R T N E Q");
    CHECK_TEXT("connect helo envfrom envrcpt data eoh eom close", story(&it, 0));
    CHECK_INT(1, hooks.receive_calls);
    CHECK_INT(8, hooks.send_calls);
    CHECK_INT(MLT_OK, it.view->status);
    CHECK_TEXT("", it.view->error);
    check_received(&it,
                   "0000000D 4F 00000006 000001FF 00000000 00000001 63 00000001 63 00000001 63 "
                   "00000001 63 00000001 63 00000001 63 00000001 63");
    close_line(&it);
}

/* Output that the system takes byte by byte, and calls that signals interrupt, change nothing. */
TEST(connection_interrupted)
{
    line it = open_line(&any_filter);
    atomic_store(&hooks.send_limit, 1);
    atomic_store(&hooks.interrupt_send, 3);
    atomic_store(&hooks.interrupt_receive, 3);
    put(&it, "O C");
    CHECK_INT(1, answer(&it, 0, 0));
    put(&it, "H Q");
    atomic_store(&hooks.interrupt_receive, 3);
    CHECK_INT(
        1, mlt_connection_next(it.connection, 1, SMFIS_TEMPFAIL, "450 4.7.1 later", 15, NULL, 0));
    CHECK_TEXT("close", story(&it, 1));
    check_received(&it, "0000000D 4F 00000006 000001FF 00000000 "
                        "00000011 79 34 35 30 20 34 2E 37 2E 31 20 6C 61 74 65 72 00 00000001 63");
    close_line(&it);
}

/* Packets that the filter sends while it handles an event go out at once and before its verdict. */
TEST(connection_send)
{
    line it = open_line(&any_filter);
    put(&it, "O C H M R E");
    int count = answer(&it, 0, 0);
    while (count == 1 && it.view->events[0].step != MLT_STEP_EOM)
        count = answer(&it, 1, SMFIS_CONTINUE);
    check_received(&it,
                   "0000000D 4F 00000006 000001FF 00000000 00000001 63 00000001 63 00000001 63 "
                   "00000001 63");
    test_bytes progress = hex("00000001 70");
    CHECK_INT(MLT_OK, mlt_connection_send(it.connection, progress.data, progress.len));
    CHECK_INT(MLT_OK, mlt_connection_send(it.connection, NULL, 0));
    check_received(&it, "00000001 70");
    shutdown(it.mta, SHUT_WR);
    CHECK_INT(1, answer(&it, 1, SMFIS_ACCEPT));
    check_received(&it, "00000001 61");
    /* In the close callback there is nobody to send to any more. */
    CHECK_INT(MLT_END, mlt_connection_send(it.connection, progress.data, progress.len));
    CHECK_INT(0, answer(&it, 1, 0));
    CHECK_INT(MLT_ERR_CALLER, mlt_connection_send(it.connection, progress.data, progress.len));
    check_received(&it, "");
    close_line(&it);
}

/* ------------------------------------------------------------------------------------------ */
/* Batches of events without answer */

static const dialogue silent_content = {.name = "",
                                        .want = SMFIP_NR_HDR | SMFIP_NR_EOH | SMFIP_NR_BODY};

/* Brings a line to where the content comes: after RCPT, whose event is still to be answered. */
static void begin_content(line *it)
{
    put(it, "O C H M R");
    CHECK_INT(1, answer(it, 0, 0));
    CHECK_INT(MLT_STEP_NEGOTIATE, it->view->events[0].step);
    it->view->protocol = silent_content.want;
    for (int i = 0; i < 4; i++)
        CHECK_INT(1, answer(it, 1, SMFIS_CONTINUE));
    CHECK_INT(MLT_STEP_RCPT, it->view->events[0].step);
    check_received(it,
                   "0000000D 4F 00000006 000001FF 000C0080 00000001 63 00000001 63 00000001 63");
}

/* A burst of events without answer comes in one read and as one batch, with the event that is
 * answered at its end; macros for none of the stages do not break it. One write answers it. */
TEST(connection_burst)
{
    line it = open_line(&silent_content);
    begin_content(&it);
    atomic_store(&hooks.receive_calls, 0);
    atomic_store(&hooks.send_calls, 0);
    put(&it, "d:L [4C 41 00 31 00] D:L [4C 42 00 32 00] N d:B [42 61] D:B [42 62 63] E");
    CHECK_INT(6, answer(&it, 1, SMFIS_CONTINUE));
    static const struct {
        int step;
        const char *data;
        size_t len;
    } rows[] = {
        {MLT_STEP_HEADER, "A\0001", 3}, {MLT_STEP_HEADER, "B\0002", 3}, {MLT_STEP_EOH, NULL, 0},
        {MLT_STEP_BODY, "a", 1},        {MLT_STEP_BODY, "bc", 2},       {MLT_STEP_EOM, NULL, 0},
    };
    for (size_t i = 0; i < 6; i++) {
        CHECK_INT(rows[i].step, it.view->events[i].step);
        CHECK_INT(i < 5 ? MLT_OWED_NOTHING : MLT_OWED_VERDICT, it.view->events[i].owed);
        CHECK_BYTES(rows[i].data, rows[i].len, it.view->events[i].data, it.view->events[i].len);
    }
    check_received(&it, "00000001 63");
    shutdown(it.mta, SHUT_WR);
    CHECK_INT(1, answer(&it, 6, SMFIS_CONTINUE));
    check_received(&it, "00000001 63");
    CHECK_INT(2, hooks.receive_calls);
    CHECK_INT(2, hooks.send_calls);
    CHECK_INT(MLT_STEP_CLOSE, it.view->events[0].step);
    CHECK_TEXT("", story(&it, 1));
    close_line(&it);
}

/* Macros of one of the stages end a batch: its events must not see them. */
TEST(connection_burst_ends_at_macros)
{
    line it = open_line(&silent_content);
    begin_content(&it);
    put(&it, "L D:N N L");
    CHECK_INT(1, answer(&it, 1, SMFIS_CONTINUE));
    CHECK_INT(MLT_STEP_HEADER, it.view->events[0].step);
    CHECK_INT(0, it.view->macros[SMFIM_EOH].len);
    CHECK_INT(1, answer(&it, 1, SMFIS_CONTINUE));
    CHECK_INT(MLT_STEP_EOH, it.view->events[0].step);
    CHECK_INT(4, it.view->macros[SMFIM_EOH].len);
    /* The header after it is an error, and is one only when its turn has come. */
    CHECK_INT(MLT_OK, it.view->status);
    CHECK_TEXT("", it.view->error);
    CHECK_INT(1, answer(&it, 1, SMFIS_CONTINUE));
    CHECK_INT(MLT_STEP_ABORT, it.view->events[0].step);
    CHECK_INT(MLT_ERR_PEER, it.view->status);
    CHECK_TEXT("close", story(&it, 1));
    close_line(&it);
}

/* A batch has 64 events at most; the rest come in the next one, without another read. */
TEST(connection_burst_of_many)
{
    line it = open_line(&silent_content);
    begin_content(&it);
    for (int i = 0; i < 100; i++)
        put(&it, "L");
    put(&it, "N E Q");
    CHECK_INT(64, answer(&it, 1, SMFIS_CONTINUE));
    CHECK_INT(38, CONTINUE_ALL(&it, 64));
    CHECK_INT(MLT_STEP_HEADER, it.view->events[35].step);
    CHECK_INT(MLT_STEP_EOH, it.view->events[36].step);
    CHECK_INT(MLT_STEP_EOM, it.view->events[37].step);
    CHECK_TEXT("close", story(&it, 38));
    close_line(&it);
}

/* A verdict on any event of a batch takes back what was looked at behind it: those events are not
 * reported again, the MTA is told at the end of the message, and the next message is complete. */
TEST(connection_burst_is_taken_back)
{
    for (size_t stop = 1; stop <= 6; stop++) {
        line it = open_line(&silent_content);
        char name[40];
        snprintf(name, sizeof name, "verdict on event %zu", stop);
        test_row(name);
        begin_content(&it);
        put(&it, "L L N B B E M R L E Q");
        CHECK_INT(6, answer(&it, 1, SMFIS_CONTINUE));
        check_received(&it, "00000001 63");
        CHECK_INT(1, answer(&it, stop, SMFIS_REJECT));
        check_received(&it, "00000001 72");
        CHECK_INT(MLT_STEP_MAIL, it.view->events[0].step);
        CHECK_TEXT("envrcpt header eom close", story(&it, 1));
        close_line(&it);
    }
}

/* Events of a batch that were not handled come again. */
TEST(connection_burst_in_part)
{
    line it = open_line(&silent_content);
    begin_content(&it);
    put(&it, "[4C 41 00 31 00] [4C 42 00 32 00] [4C 43 00 33 00] N E Q");
    CHECK_INT(5, answer(&it, 1, SMFIS_CONTINUE));
    CHECK_INT(4, answer(&it, 1, SMFIS_CONTINUE));
    CHECK_BYTES("B\0002", 3, it.view->events[0].data, it.view->events[0].len);
    CHECK_INT(2, answer(&it, 2, SMFIS_NOREPLY));
    CHECK_INT(MLT_STEP_EOH, it.view->events[0].step);
    CHECK_INT(1, CONTINUE_ALL(&it, 2));
    CHECK_INT(MLT_STEP_CLOSE, it.view->events[0].step);
    CHECK_INT(0, CONTINUE_ALL(&it, 1));
    close_line(&it);
}

/* ------------------------------------------------------------------------------------------ */
/* Ends */

/* The MTA may vanish after any byte: events of all whole packets, abort where a message is open,
 * one close; never a signal. */
TEST(connection_peer_vanishes)
{
    static const struct {
        const char *packet;
        const char *event; /* NULL: none */
        int open;          /* 1: opens, 0: closes, -1: neither */
    } rows[] = {
        {"O", NULL, -1},      {"D:C", NULL, -1},    {"C", "connect", -1}, {"D:H", NULL, -1},
        {"H", "helo", -1},    {"D:M", NULL, -1},    {"M", "envfrom", 1},  {"D:R", NULL, -1},
        {"R", "envrcpt", -1}, {"T", "data", -1},    {"L", "header", -1},  {"N", "eoh", -1},
        {"B", "body", -1},    {"U", "unknown", -1}, {"E", "eom", 0},      {"A", NULL, -1},
        {"M", "envfrom", 1},  {"R", "envrcpt", -1}, {"A", "abort", 0},    {"A", NULL, -1},
    };
    enum { ROWS = sizeof rows / sizeof *rows };
    static dialogue_script script;
    char text[200] = "";
    for (size_t i = 0; i < ROWS; i++) {
        strcat(text, rows[i].packet);
        strcat(text, " ");
    }
    dialogue one = {.script = text, .raw = true};
    dialogue_parse(&one, &script);
    for (size_t len = 0; len <= script.len; len++) {
        char name[40], expected[400] = "";
        bool open = false, in_packet = len > 0;
        snprintf(name, sizeof name, "after %zu bytes", len);
        test_row(name);
        for (size_t i = 0; i < ROWS && script.ends[i] <= len; i++) {
            in_packet = script.ends[i] != len;
            if (rows[i].event != NULL)
                strcat(strcat(expected, rows[i].event), " ");
            if (rows[i].open >= 0)
                open = rows[i].open;
        }
        strcat(expected, open ? "abort close" : "close");
        line it = open_line(&any_filter);
        REQUIRE(write(it.mta, script.data, len) == (ssize_t)len);
        shutdown(it.mta, SHUT_WR);
        CHECK_TEXT(expected, story(&it, 0));
        CHECK_INT(in_packet ? MLT_ERR_PEER : open ? MLT_END : MLT_OK, it.view->status);
        close_line(&it);
        /* Now for good: the first reply goes nowhere, unless there is none to be sent. */
        it = open_line(&any_filter);
        REQUIRE(write(it.mta, script.data, len) == (ssize_t)len);
        close(it.mta);
        CHECK_TEXT("close", story(&it, 0));
        CHECK_INT(len == 0                ? MLT_OK
                  : script.ends[0] <= len ? MLT_ERR_IO
                                          : MLT_ERR_PEER,
                  it.view->status);
        it.mta = -1;
        close_line(&it);
    }
}

/* Row 185, wire spec 7.5: a reply that cannot be written ends the session, with abort where the
 * message is still open behind that command. */
TEST(connection_reply_to_a_closed_socket)
{
    static const struct {
        const char *before;
        int packets; /* events up to the one whose answer fails */
        const char *story;
    } rows[] = {
        {"O C", 1, "close"},
        {"O C H M", 3, "abort close"},
        {"O C H M R", 4, "abort close"},
        {"O C H M R E", 5, "close"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        line it = open_line(&any_filter);
        test_row(rows[i].before);
        put(&it, rows[i].before);
        int count = 0;
        for (int n = 0; n < rows[i].packets; n++)
            count = CONTINUE_ALL(&it, count);
        close(it.mta);
        it.mta = -1;
        char told[100] = "";
        while ((count = CONTINUE_ALL(&it, count)) > 0) {
            if (*told != '\0')
                strcat(told, " ");
            strcat(told, mlt_steps[it.view->events[0].step].callback);
        }
        CHECK_TEXT(rows[i].story, told);
        CHECK_INT(MLT_ERR_IO, it.view->status);
        CHECK(strstr(it.view->error, "cannot write to the MTA") != NULL);
        close_line(&it);
    }
}

/* A send by the filter that fails is remembered: the event's verdict is not sent after it. */
TEST(connection_send_to_a_closed_socket)
{
    line it = open_line(&any_filter);
    put(&it, "O C H M");
    for (int i = 0; i < 3; i++)
        answer(&it, i > 0, SMFIS_CONTINUE);
    close(it.mta);
    it.mta = -1;
    test_bytes progress = hex("00000001 70");
    CHECK_INT(MLT_ERR_IO, mlt_connection_send(it.connection, progress.data, progress.len));
    long sends = hooks.send_calls;
    CHECK_INT(MLT_ERR_IO, mlt_connection_send(it.connection, progress.data, progress.len));
    CHECK_INT(1, answer(&it, 1, SMFIS_CONTINUE));
    CHECK_INT(MLT_STEP_ABORT, it.view->events[0].step);
    CHECK_INT(sends, hooks.send_calls);
    CHECK_INT(1, answer(&it, 1, SMFIS_CONTINUE));
    CHECK_INT(0, answer(&it, 1, SMFIS_CONTINUE));
    close_line(&it);
}

/* An MTA that takes nothing is given up after the time for writing; at once where that is 0. */
TEST(connection_peer_does_not_read)
{
    static char much[4 * 1024 * 1024];
    static const int64_t times[] = {30, 0};
    for (size_t i = 0; i < 2; i++) {
        line it = open_line(&any_filter);
        mlt_connection_end(it.connection);
        close(it.mta);
        mlt_server_settings(it.server)->write_timeout = times[i];
        connect_line(&it);
        put(&it, "O C H M R E");
        int count = 0;
        do {
            count = CONTINUE_ALL(&it, count);
        } while (count == 1 && it.view->events[0].step != MLT_STEP_EOM);
        CHECK_INT(
            1, mlt_connection_next(it.connection, 1, SMFIS_CONTINUE, NULL, 0, much, sizeof much));
        CHECK_INT(MLT_ERR_TIMEOUT, it.view->status);
        CHECK_INT(MLT_STEP_CLOSE, it.view->events[0].step);
        CHECK_INT(0, answer(&it, 1, SMFIS_CONTINUE));
        close_line(&it);
    }
}

/* Bytes behind a goodbye are not looked at. */
TEST(connection_nothing_after_quit)
{
    line it = open_line(&any_filter);
    put(&it, "O C Q H {00 00 00 00}");
    CHECK_TEXT("connect close", story(&it, 0));
    CHECK_INT(MLT_OK, it.view->status);
    close_line(&it);
}

/* ------------------------------------------------------------------------------------------ */
/* Time-outs */

/* Rows 186, 187: silence between packets, and in a packet, ends the connection; each has its own
 * time, and 0 is none at all. */
TEST(connection_timeouts)
{
    static const struct {
        const char *name;
        const char *script;
        int64_t packet, idle;
        const char *story;
        const char *text;
    } rows[] = {
        {"idle", "O C H", -1, 50, "connect helo close", "nothing came from the MTA"},
        {"idle in a message", "O M", 30000, 50, "envfrom abort close", "nothing came from the MTA"},
        {"idle from the beginning", "", 30000, 50, "close", "nothing came from the MTA"},
        {"half a packet", "O M {00 00 00 07 52}", 50, 30000, "envfrom abort close",
         "does not complete a packet"},
        {"half a length", "O {00 00}", 50, -1, "close", "does not complete a packet"},
        {"half a packet, idle is shorter", "O {00 00}", 30000, 50, "close",
         "does not complete a packet"},
        {"half a packet, only idle", "O {00 00}", -1, 50, "close", "does not complete a packet"},
        {"no time between packets", "O C", 30000, 0, "connect close", "nothing came from the MTA"},
        {"no time in a packet", "O {00}", 0, 30000, "close", "does not complete a packet"},
        {"no time at all", "", 0, 0, "close", "nothing came from the MTA"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        line it = open_line(&any_filter);
        test_row(rows[i].name);
        mlt_connection_end(it.connection);
        close(it.mta);
        mlt_server_settings(it.server)->packet_timeout = rows[i].packet;
        mlt_server_settings(it.server)->idle_timeout = rows[i].idle;
        connect_line(&it);
        put(&it, rows[i].script);
        CHECK_TEXT(rows[i].story, story(&it, 0));
        CHECK_INT(MLT_ERR_TIMEOUT, it.view->status);
        CHECK(strstr(it.view->error, rows[i].text) != NULL);
        close_line(&it);
    }
}

typedef struct drip {
    int fd;
    const char *data;
    size_t len;
    int pause;
    atomic_size_t written;
} drip;

static void *write_slowly(void *data)
{
    drip *it = data;
    for (size_t i = 0; i < it->len; i++) {
        if (send(it->fd, it->data + i, 1, MSG_NOSIGNAL) != 1)
            break;
        atomic_fetch_add(&it->written, 1);
        test_pause(it->pause);
    }
    return NULL;
}

/* Row 188: bytes that come one by one do not put off the packet's end. */
TEST(connection_slow_packet)
{
    static char packet[4000] = {0, 0, 0x0F, (char)0x9C, 'L', 'a'};
    line it = open_line(&any_filter);
    drip slow = {it.mta, packet, sizeof packet, 20, 0};
    pthread_t thread;
    mlt_server_settings(it.server)->packet_timeout = 200;
    put(&it, "O M R");
    REQUIRE(pthread_create(&thread, NULL, write_slowly, &slow) == 0);
    CHECK_TEXT("envfrom envrcpt abort close", story(&it, 0));
    CHECK_INT(MLT_ERR_TIMEOUT, it.view->status);
    /* All of them would take 80 s. */
    CHECK(atomic_load(&slow.written) < sizeof packet);
    pthread_join(thread, NULL);
    close_line(&it);
}

/* A packet's time is its own: packets that each come in time may be as slow together as they like.
 * The clock goes by the reads here, each of a byte or of nothing. */
TEST(connection_slow_packets)
{
    static const struct {
        const char *script;
        int status;
    } rows[] = {
        {"A A A A A A A A A A Q", MLT_OK},
        {"[4E 7A 7A 7A 7A 7A 7A 7A 7A 7A 7A 7A 7A 7A 7A 7A 7A 7A 7A] Q", MLT_ERR_TIMEOUT},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        line it = open_line(&any_filter);
        mlt_server_settings(it.server)->packet_timeout = 3000;
        atomic_store(&hooks.receive_limit, 1);
        atomic_store(&hooks.stutter, true);
        atomic_store(&hooks.clock_per_receive, 0);
        put(&it, "O C");
        CHECK_INT(1, answer(&it, 0, 0));
        /* About 2 x 5 of them for each A, and 2 x 23 for the long packet. */
        atomic_store(&hooks.clock_per_receive, 100);
        put(&it, rows[i].script);
        CHECK_TEXT("close", story(&it, 1));
        CHECK_INT(rows[i].status, it.view->status);
        close_line(&it);
    }
}

/* ------------------------------------------------------------------------------------------ */
/* Memory */

static void *write_all(void *data)
{
    drip *it = data;
    while (it->len > 0) {
        ssize_t done = send(it->fd, it->data, it->len, MSG_NOSIGNAL);
        if (done <= 0)
            break;
        it->data += done;
        it->len -= (size_t)done;
    }
    return NULL;
}

/* Rows 3, 4: packets up to the limit are taken, whatever the size of the reads; the memory of large
 * ones is given back, and what is merely promised costs none. */
TEST(connection_large_packets)
{
    static char packet[4 + 1024 * 1024];
    line it = open_line(&any_filter);
    pthread_t thread;
    memset(packet, 'x', sizeof packet);
    mlt_frame_put_u32(packet, 1024 * 1024);
    packet[4] = 'B';
    put(&it, "O M R");
    CHECK_INT(1, answer(&it, 0, 0));
    CHECK_INT(1, answer(&it, 1, SMFIS_CONTINUE));
    drip body = {it.mta, packet, sizeof packet, 0, 0};
    REQUIRE(pthread_create(&thread, NULL, write_all, &body) == 0);
    CHECK_INT(1, answer(&it, 1, SMFIS_CONTINUE));
    pthread_join(thread, NULL);
    CHECK_INT(MLT_STEP_BODY, it.view->events[0].step);
    CHECK_BYTES(packet + 5, sizeof packet - 5, it.view->events[0].data, it.view->events[0].len);
    put(&it, "E");
    CHECK_INT(1, answer(&it, 1, SMFIS_CONTINUE));
    CHECK(it.connection->in.capacity <= 64 * 1024);
    /* One byte more is refused, before it has come. */
    put(&it, "M R {00 10 00 00 42 78}");
    CHECK_INT(1, answer(&it, 1, SMFIS_CONTINUE));
    CHECK_INT(1, answer(&it, 1, SMFIS_CONTINUE));
    shutdown(it.mta, SHUT_WR);
    CHECK_INT(1, answer(&it, 1, SMFIS_CONTINUE));
    CHECK_INT(MLT_ERR_PEER, it.view->status);
    CHECK(it.connection->in.capacity <= 64 * 1024);
    CHECK_TEXT("close", story(&it, 1));
    close(it.mta);
    connect_line(&it);
    put(&it, "O M R {00 10 00 01 42}");
    CHECK_TEXT("envfrom envrcpt abort close", story(&it, 0));
    CHECK_INT(MLT_ERR_LIMIT, it.view->status);
    CHECK_TEXT("packet of 1048577 bytes, not 1 to 1048576", it.view->error);
    close_line(&it);
}

/* One read takes all that there is, also of a body, once the buffer has grown to its chunks. */
TEST(connection_reads_of_a_body)
{
    static char packet[4 + 65536];
    line it = open_line(&any_filter);
    memset(packet, 'x', sizeof packet);
    mlt_frame_put_u32(packet, 65536);
    packet[4] = 'B';
    put(&it, "O M R");
    CHECK_INT(1, answer(&it, 0, 0));
    CHECK_INT(1, answer(&it, 1, SMFIS_CONTINUE));
    for (int i = 0; i < 5; i++) {
        CHECK_INT((ssize_t)sizeof packet, write(it.mta, packet, sizeof packet));
        long before = atomic_load(&hooks.receive_calls);
        CHECK_INT(1, answer(&it, 1, SMFIS_CONTINUE));
        CHECK_INT(65535, (long)it.view->events[0].len);
        if (i > 0)
            CHECK_INT(1, atomic_load(&hooks.receive_calls) - before);
    }
    put(&it, "E");
    CHECK_INT(1, answer(&it, 1, SMFIS_CONTINUE));
    put(&it, "H");
    CHECK_INT(1, answer(&it, 1, SMFIS_CONTINUE));
    CHECK(it.connection->in.capacity <= 64 * 1024);
    close_line(&it);
}

/* Without memory nothing is made; a connection that is open ends with the events it is owed. */
TEST(connection_without_memory)
{
    atomic_store(&hooks.fail_allocation, 0);
    CHECK(mlt_server_new() == NULL);
    line it = open_line(&any_filter);
    atomic_store(&hooks.fail_allocation, 0);
    CHECK(mlt_connection_new(it.server) == NULL);
    /* The first buffer. */
    put(&it, "O");
    atomic_store(&hooks.fail_allocation, 0);
    CHECK_TEXT("close", story(&it, 0));
    CHECK_INT(MLT_ERR_MEMORY, it.view->status);
    close(it.mta);
    /* A larger one. */
    static char packet[20000];
    mlt_frame_put_u32(packet, sizeof packet - 4);
    memset(packet + 4, 'U', sizeof packet - 4);
    connect_line(&it);
    put(&it, "O M");
    CHECK_INT(1, answer(&it, 0, 0));
    CHECK_INT((ssize_t)sizeof packet, write(it.mta, packet, sizeof packet));
    atomic_store(&hooks.fail_allocation, 0);
    CHECK_INT(1, answer(&it, 1, SMFIS_CONTINUE));
    CHECK_INT(MLT_STEP_ABORT, it.view->events[0].step);
    CHECK_INT(MLT_ERR_MEMORY, it.view->status);
    CHECK_INT(1, answer(&it, 1, SMFIS_CONTINUE));
    CHECK_INT(MLT_STEP_CLOSE, it.view->events[0].step);
    CHECK_INT(0, answer(&it, 1, SMFIS_CONTINUE));
    close_line(&it);
}

/* ------------------------------------------------------------------------------------------ */
/* Negotiation and calls */

/* 48: macro lists follow the words of the reply; 51: lists that exceed a packet end it. */
TEST(connection_macro_lists)
{
    static char lists[65535];
    dialogue asks = {.name = "", .want = SMFIP_SKIP};
    line it = open_line(&asks);
    test_bytes two = hex("00000000 6A 20 5F 00 00000003 00");
    put(&it, "O");
    CHECK_INT(1, answer(&it, 0, 0));
    shutdown(it.mta, SHUT_WR);
    CHECK_INT(1, mlt_connection_next(it.connection, 1, SMFIS_CONTINUE, NULL, 0, two.data, two.len));
    check_received(&it, "0000001A 4F 00000006 000001FF 00000400 00000000 6A 20 5F 00 00000003 00");
    CHECK_INT(0, answer(&it, 1, 0));
    close(it.mta);
    for (size_t len = 65535 - 12; len <= 65535 - 11; len++) {
        bool fits = len == 65535 - 12;
        connect_line(&it);
        put(&it, "O");
        shutdown(it.mta, SHUT_WR);
        CHECK_INT(1, answer(&it, 0, 0));
        CHECK_INT(1, mlt_connection_next(it.connection, 1, SMFIS_CONTINUE, NULL, 0, lists, len));
        CHECK_INT(MLT_STEP_CLOSE, it.view->events[0].step);
        CHECK_INT(fits ? MLT_OK : MLT_ERR_LIMIT, it.view->status);
        CHECK_INT(0, answer(&it, 1, 0));
        char head[5] = "";
        CHECK_INT(fits ? 5 : 0, recvfrom(it.mta, head, 5, MSG_DONTWAIT, NULL, NULL));
        if (fits)
            CHECK_HEX("00010000 4F", head, 5);
        close(it.mta);
    }
    it.mta = -1;
    close_line(&it);
}

/* 45: a negotiation that fails ends it, and not one byte was sent. */
TEST(connection_failed_negotiation)
{
    dialogue asks = {.name = "", .want = SMFIP_SKIP};
    line it = open_line(&asks);
    put(&it, "O C");
    CHECK_INT(1, answer(&it, 0, 0));
    CHECK_INT(1, answer(&it, 1, SMFIS_REJECT));
    CHECK_INT(MLT_STEP_CLOSE, it.view->events[0].step);
    CHECK_INT(MLT_ERR_CALLER, it.view->status);
    CHECK_INT(0, answer(&it, 1, 0));
    check_received(&it, "");
    close_line(&it);
}

/* Calls that make no sense are refused and change nothing. */
TEST(connection_wrong_calls)
{
    int pair[2];
    line it = open_line(&any_filter);
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    put(&it, "O C H");
    CHECK_INT(MLT_ERR_CALLER, answer(&it, 1, SMFIS_CONTINUE));
    CHECK_INT(1, answer(&it, 0, 0));
    CHECK_INT(MLT_ERR_CALLER, answer(&it, 0, 0));
    CHECK_INT(MLT_ERR_CALLER, answer(&it, 2, SMFIS_CONTINUE));
    CHECK_INT(MLT_ERR_CALLER, answer(&it, SIZE_MAX, SMFIS_CONTINUE));
    CHECK_INT(MLT_ERR_CALLER, mlt_connection_adopt(it.connection, pair[0]));
    CHECK_INT(MLT_ERR_CALLER, mlt_connection_accept(it.connection));
    CHECK_INT(MLT_STEP_CONNECT, it.view->events[0].step);
    CHECK_INT(1, answer(&it, 1, SMFIS_CONTINUE));
    CHECK_INT(MLT_STEP_HELO, it.view->events[0].step);
    shutdown(it.mta, SHUT_WR);
    CHECK_INT(1, answer(&it, 1, SMFIS_CONTINUE));
    CHECK_INT(0, answer(&it, 1, SMFIS_CONTINUE));
    CHECK_INT(MLT_ERR_CALLER, answer(&it, 0, 0));
    CHECK_INT(MLT_ERR_CALLER, answer(&it, 1, 0));
    CHECK_INT(MLT_ERR_CALLER, mlt_connection_adopt(it.connection, -1));
    CHECK_INT(MLT_ERR_CALLER, mlt_connection_next(NULL, 0, 0, NULL, 0, NULL, 0));
    CHECK_INT(MLT_ERR_CALLER, mlt_connection_send(NULL, "", 0));
    CHECK_INT(MLT_ERR_CALLER, mlt_connection_adopt(NULL, 0));
    CHECK_INT(MLT_ERR_CALLER, mlt_connection_accept(NULL));
    CHECK(mlt_connection_new(NULL) == NULL);
    CHECK(mlt_connection_view(NULL) == NULL);
    mlt_connection_end(NULL);
    mlt_connection_free(NULL);
    close(pair[0]);
    close(pair[1]);
    close_line(&it);
}

/* end() closes whatever the state, without events; and the object serves the next connection as if
 * it were new. */
TEST(connection_is_used_again)
{
    line it = open_line(&any_filter);
    put(&it, "O D:C C D:H H D:M M [58]");
    CHECK_INT(1, it.view->id);
    CHECK_INT(1, mlt_server_active(it.server));
    for (int i = 0; i < 3; i++)
        CHECK_INT(1, answer(&it, i > 0, SMFIS_CONTINUE));
    CHECK_INT('4', it.view->family);
    CHECK(it.view->macros[SMFIM_ENVFROM].len > 0);
    it.view->unwanted = UINT32_MAX;
    mlt_connection_end(it.connection);
    mlt_connection_end(it.connection);
    CHECK_INT(0, mlt_server_active(it.server));
    char byte;
    char rest[100];
    CHECK(read(it.mta, rest, sizeof rest) > 0);
    CHECK(read(it.mta, &byte, 1) <= 0);
    close(it.mta);
    connect_line(&it);
    CHECK_INT(2, it.view->id);
    CHECK_INT(MLT_OK, it.view->status);
    CHECK_INT(0, it.view->family);
    CHECK_INT(0, it.view->unwanted);
    for (int stage = 0; stage < MLT_STAGES; stage++)
        CHECK_INT(0, it.view->macros[stage].len);
    put(&it, "O C [58]");
    CHECK_TEXT("connect close", story(&it, 0));
    CHECK_INT(MLT_ERR_PEER, it.view->status);
    CHECK_TEXT("unknown command 0x58", it.view->error);
    close(it.mta);
    connect_line(&it);
    CHECK_INT(MLT_OK, it.view->status);
    CHECK_TEXT("", it.view->error);
    put(&it, "O C Q");
    CHECK_TEXT("connect close", story(&it, 0));
    close_line(&it);
}
