/*
 * test_codec.c - payloads to fields and back. Bytes are those of wire spec 1.3 and 1.4, the rest
 * made by hand from the layouts there; row numbers are those of wire spec 8.
 */
#include "../codec.h"

#include <stdio.h>
#include <string.h>

#include "test.h"

#define SPAN(text) {text, sizeof(text) - 1}
#define NO_SPAN {NULL, 0}

/* A packet as a whole frame, and the fields in it. */
static const struct example {
    bool reply;
    const char *frame;
    mlt_fields fields;
} examples[] = {
    /* Commands, wire spec 1.3. */
    {false,
     "00 00 00 0D 4F 00 00 00 06 00 00 01 FF 00 1F FF FF",
     {{6, 0x1FF, 0x1FFFFF}, 3, {{0}}, 0}},
    {false, "00 00 00 07 44 43 6A 00 6D 78 00", {{0}, 0, {SPAN("C"), SPAN("j\0mx\0")}, 2}},
    {false, "00 00 00 02 44 48", {{0}, 0, {SPAN("H"), SPAN("")}, 2}},
    {false,
     "00 00 00 13 43 68 2E 65 78 00 34 04 D2 31 39 32 2E 30 2E 32 2E 31 00",
     {{1234}, 1, {SPAN("h.ex"), SPAN("4"), SPAN("192.0.2.1")}, 3}},
    {false,
     "00 00 00 0F 43 68 00 36 00 19 49 50 76 36 3A 3A 3A 31 00",
     {{25}, 1, {SPAN("h"), SPAN("6"), SPAN("IPv6:::1")}, 3}},
    {false,
     "00 00 00 09 43 68 00 4C 00 00 2F 73 00",
     {{0}, 1, {SPAN("h"), SPAN("L"), SPAN("/s")}, 3}},
    {false,
     "00 00 00 0C 43 6C 6F 63 61 6C 68 6F 73 74 00 55",
     {{0}, 0, {SPAN("localhost"), SPAN("U"), NO_SPAN}, 3}},
    {false, "00 00 00 06 48 63 2E 65 78 00", {{0}, 0, {SPAN("c.ex")}, 1}},
    {false,
     "00 00 00 0E 4D 3C 61 40 62 3E 00 53 49 5A 45 3D 39 00",
     {{0}, 0, {SPAN("<a@b>\0SIZE=9")}, 1}},
    {false, "00 00 00 07 52 3C 63 40 64 3E 00", {{0}, 0, {SPAN("<c@d>")}, 1}},
    {false, "00 00 00 01 54", {{0}, 0, {{0}}, 0}},
    {false,
     "00 00 00 0C 4C 53 75 62 6A 65 63 74 00 68 69 00",
     {{0}, 0, {SPAN("Subject"), SPAN("hi")}, 2}},
    {false, "00 00 00 08 4C 58 00 61 0A 09 62 00", {{0}, 0, {SPAN("X"), SPAN("a\n\tb")}, 2}},
    {false, "00 00 00 01 4E", {{0}, 0, {{0}}, 0}},
    {false, "00 00 00 05 42 68 69 0D 0A", {{0}, 0, {SPAN("hi\r\n")}, 1}},
    {false, "00 00 00 01 45", {{0}, 0, {SPAN("")}, 1}},
    {false, "00 00 00 01 41", {{0}, 0, {{0}}, 0}},
    {false, "00 00 00 01 51", {{0}, 0, {{0}}, 0}},
    {false, "00 00 00 01 4B", {{0}, 0, {{0}}, 0}},
    {false, "00 00 00 09 55 46 4F 4F 20 62 61 72 00", {{0}, 0, {SPAN("FOO bar")}, 1}},
    /* Replies, wire spec 1.4. */
    {true,
     "00 00 00 13 4F 00 00 00 06 00 00 00 01 00 00 04 00 00 00 00 03 69 00",
     {{6, 1, 0x400}, 3, {SPAN("\0\0\0\3i\0")}, 1}},
    {true, "00 00 00 01 63", {{0}, 0, {{0}}, 0}},
    {true, "00 00 00 01 61", {{0}, 0, {{0}}, 0}},
    {true, "00 00 00 01 72", {{0}, 0, {{0}}, 0}},
    {true, "00 00 00 01 74", {{0}, 0, {{0}}, 0}},
    {true, "00 00 00 01 64", {{0}, 0, {{0}}, 0}},
    {true, "00 00 00 01 73", {{0}, 0, {{0}}, 0}},
    {true, "00 00 00 01 70", {{0}, 0, {{0}}, 0}},
    {true,
     "00 00 00 0E 79 35 35 30 20 35 2E 37 2E 31 20 6E 6F 00",
     {{0}, 0, {SPAN("550 5.7.1 no")}, 1}},
    {true,
     "00 00 00 1A 79 35 35 30 2D 35 2E 37 2E 31 20 61 0D 0A 35 35 30 20 35 2E 37 2E 31 20 62 00",
     {{0}, 0, {SPAN("550-5.7.1 a\r\n550 5.7.1 b")}, 1}},
    {true, "00 00 00 05 68 58 00 76 00", {{0}, 0, {SPAN("X"), SPAN("v")}, 2}},
    {true, "00 00 00 09 69 00 00 00 00 58 00 76 00", {{0}, 1, {SPAN("X"), SPAN("v")}, 2}},
    {true, "00 00 00 09 6D 00 00 00 01 58 00 76 00", {{1}, 1, {SPAN("X"), SPAN("v")}, 2}},
    {true, "00 00 00 08 6D 00 00 00 01 58 00 00", {{1}, 1, {SPAN("X"), SPAN("")}, 2}},
    {true, "00 00 00 05 62 68 69 0D 0A", {{0}, 0, {SPAN("hi\r\n")}, 1}},
    {true, "00 00 00 01 62", {{0}, 0, {SPAN("")}, 1}},
    {true, "00 00 00 07 2B 3C 72 40 65 3E 00", {{0}, 0, {SPAN("<r@e>")}, 1}},
    {true,
     "00 00 00 14 32 3C 72 40 65 3E 00 4E 4F 54 49 46 59 3D 4E 45 56 45 52 00",
     {{0}, 0, {SPAN("<r@e>"), SPAN("NOTIFY=NEVER")}, 2}},
    {true, "00 00 00 07 32 3C 72 40 65 3E 00", {{0}, 0, {SPAN("<r@e>"), NO_SPAN}, 2}},
    {true, "00 00 00 08 32 3C 72 40 65 3E 00 00", {{0}, 0, {SPAN("<r@e>"), SPAN("")}, 2}},
    {true, "00 00 00 07 2D 3C 72 40 65 3E 00", {{0}, 0, {SPAN("<r@e>")}, 1}},
    {true,
     "00 00 00 0E 65 3C 6E 40 65 3E 00 53 49 5A 45 3D 31 00",
     {{0}, 0, {SPAN("<n@e>"), SPAN("SIZE=1")}, 2}},
    {true, "00 00 00 05 71 77 68 79 00", {{0}, 0, {SPAN("why")}, 1}},
};
enum { EXAMPLES = sizeof examples / sizeof *examples };

static const char *shape_of(const struct example *one, int letter)
{
    const mlt_packet_row *row =
        one->reply ? mlt_protocol_reply(letter) : mlt_protocol_command(letter);
    REQUIRE(row != NULL);
    return row->shape;
}

/* Every example of the wire spec comes apart into its fields, reading nothing behind its end. */
TEST(codec_decodes_the_examples)
{
    for (size_t i = 0; i < EXAMPLES; i++) {
        const struct example *one = &examples[i];
        test_bytes frame = hex(one->frame);
        const char *payload = guarded(frame.data + 5, frame.len - 5);
        mlt_fields fields;
        test_row(one->frame);
        CHECK_INT(MLT_OK,
                  mlt_codec_decode(shape_of(one, frame.data[4]), payload, frame.len - 5, &fields));
        CHECK_INT(one->fields.numbers, fields.numbers);
        for (size_t n = 0; n < one->fields.numbers; n++)
            CHECK_INT(one->fields.number[n], fields.number[n]);
        CHECK_INT(one->fields.texts, fields.texts);
        for (size_t t = 0; t < one->fields.texts; t++)
            CHECK_BYTES(one->fields.text[t].data, one->fields.text[t].len, fields.text[t].data,
                        fields.text[t].len);
    }
}

/* Fields for mlt_codec_encode(), which takes v and a as they are on the wire: v with its last NUL,
 * a as port and address in one. */
static mlt_fields as_on_the_wire(int letter, const mlt_fields *fields, test_bytes *room)
{
    mlt_fields out = *fields;
    room->len = 0;
    if (letter == 'M' || letter == 'R') {
        memcpy(room->data, out.text[0].data, out.text[0].len + 1);
        out.text[0] = (mlt_span){room->data, out.text[0].len + 1};
    } else if (letter == 'C') {
        if (out.text[2].data != NULL) {
            room->data[0] = (char)(out.number[0] >> 8);
            room->data[1] = (char)out.number[0];
            memcpy(room->data + 2, out.text[2].data, out.text[2].len + 1);
            out.text[2] = (mlt_span){room->data, out.text[2].len + 3};
        }
        out.numbers = 0;
    }
    return out;
}

/* And the fields make the example's bytes again, in a space of exactly their size. */
TEST(codec_encodes_the_examples)
{
    for (size_t i = 0; i < EXAMPLES; i++) {
        const struct example *one = &examples[i];
        test_bytes frame = hex(one->frame);
        test_bytes room;
        int letter = frame.data[4];
        mlt_fields fields = as_on_the_wire(letter, &one->fields, &room);
        test_row(one->frame);
        /* Written right before a page that cannot be written to. */
        char *out = (char *)(uintptr_t)guarded("", 0) - frame.len;
        CHECK_INT(frame.len,
                  mlt_codec_encode(letter, shape_of(one, letter), &fields, out, frame.len));
        CHECK_BYTES(frame.data, frame.len, out, frame.len);
    }
}

/* The size comes out also where there is no room for the packet; nothing is written past the room,
 * however small. */
TEST(codec_encode_without_room)
{
    for (size_t i = 0; i < EXAMPLES; i++) {
        const struct example *one = &examples[i];
        test_bytes frame = hex(one->frame);
        test_bytes room;
        int letter = frame.data[4];
        mlt_fields fields = as_on_the_wire(letter, &one->fields, &room);
        test_row(one->frame);
        CHECK_INT(frame.len, mlt_codec_encode(letter, shape_of(one, letter), &fields, NULL, 0));
        for (size_t size = 0; size < frame.len; size++) {
            char *out = (char *)(uintptr_t)guarded("", 0) - size;
            CHECK_INT(frame.len,
                      mlt_codec_encode(letter, shape_of(one, letter), &fields, out, size));
        }
    }
}

/* Too few or too many fields for a shape make no packet. */
TEST(codec_encode_with_wrong_fields)
{
    char out[100];
    mlt_fields none = {{0}, 0, {{0}}, 0};
    mlt_fields one = {{0}, 0, {SPAN("a")}, 1};
    mlt_fields two = {{0}, 0, {SPAN("a"), SPAN("b")}, 2};
    mlt_fields number = {{1}, 1, {SPAN("a"), SPAN("b")}, 2};
    CHECK_INT(0, mlt_codec_encode('h', "ss", &one, out, sizeof out));
    CHECK_INT(0, mlt_codec_encode('h', "ss", &number, out, sizeof out));
    CHECK_INT(0, mlt_codec_encode('m', "uss", &two, out, sizeof out));
    CHECK_INT(0, mlt_codec_encode('c', "", &one, out, sizeof out));
    CHECK_INT(0, mlt_codec_encode('b', "b", &none, out, sizeof out));
    CHECK_INT(9, mlt_codec_encode('h', "ss", &two, out, sizeof out));
}

/* Bytes after the last field are refused, unless the shape ends in a dot. */
TEST(codec_rest_of_a_payload)
{
    mlt_fields fields;
    test_bytes rest = hex("61 00 7A 7A");
    const char *payload = guarded(rest.data, rest.len);
    CHECK_INT(MLT_ERR_PEER, mlt_codec_decode("s", payload, rest.len, &fields));
    CHECK_INT(MLT_ERR_PEER, mlt_codec_decode("", payload, rest.len, &fields));
    CHECK_INT(MLT_OK, mlt_codec_decode("s.", payload, rest.len, &fields));
    CHECK_BYTES("a", 1, fields.text[0].data, fields.text[0].len);
    CHECK_INT(MLT_ERR_CALLER, mlt_codec_decode("?", payload, rest.len, &fields));
}

/* Macro lists of an OPTNEG reply are pairs of number and string, whole ones only. */
TEST(codec_macro_lists)
{
    static const struct {
        const char *lists;
        int status;
    } rows[] = {
        {"", MLT_OK},
        {"00 00 00 00 6A 20 5F 00 00 00 00 03 00", MLT_OK},
        {"00 00 00 00 6A", MLT_ERR_PEER},
        {"00 00 00 00", MLT_ERR_PEER},
        {"00 00 00", MLT_ERR_PEER},
        {"00 00 00 00 6A 00 00", MLT_ERR_PEER},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        test_bytes lists = hex(rows[i].lists);
        mlt_fields fields;
        test_row(rows[i].lists);
        CHECK_INT(rows[i].status,
                  mlt_codec_decode("l", guarded(lists.data, lists.len), lists.len, &fields));
    }
}

/* ------------------------------------------------------------------------------------------ */
/* Events */

/* What each command's payload becomes, or that it is refused (rows 8, 9, 16, 65 to 75). */
TEST(codec_events)
{
    static const struct {
        int step;
        const char *payload;
        int status;
        mlt_span data;
    } rows[] = {
        {MLT_STEP_HELO, "", MLT_ERR_PEER, NO_SPAN},
        {MLT_STEP_HELO, "68 65 6C 6F", MLT_ERR_PEER, NO_SPAN},
        {MLT_STEP_HELO, "61 00 62 00", MLT_OK, SPAN("a")},
        {MLT_STEP_HELO, "61 00 62", MLT_ERR_PEER, NO_SPAN},
        {MLT_STEP_HELO, "00", MLT_OK, SPAN("")},
        {MLT_STEP_MAIL, "", MLT_ERR_PEER, NO_SPAN},
        {MLT_STEP_MAIL, "3C 61 3E", MLT_ERR_PEER, NO_SPAN},
        {MLT_STEP_MAIL, "00", MLT_OK, SPAN("")},
        {MLT_STEP_MAIL, "3C 61 3E 00 53 3D 31 00 42 3D 38 00", MLT_OK, SPAN("<a>\0S=1\0B=8")},
        {MLT_STEP_MAIL, "3C 61 3E 00 53 3D 31", MLT_OK, SPAN("<a>")},
        {MLT_STEP_MAIL, "3C 61 3E 00 00 42 00", MLT_OK, SPAN("<a>\0\0B")},
        {MLT_STEP_RCPT, "", MLT_ERR_PEER, NO_SPAN},
        {MLT_STEP_RCPT, "3C 61", MLT_ERR_PEER, NO_SPAN},
        {MLT_STEP_RCPT, "3C 61 3E 00", MLT_OK, SPAN("<a>")},
        {MLT_STEP_DATA, "", MLT_OK, NO_SPAN},
        {MLT_STEP_DATA, "78 79 7A", MLT_OK, NO_SPAN},
        {MLT_STEP_HEADER, "", MLT_ERR_PEER, NO_SPAN},
        {MLT_STEP_HEADER, "41 00", MLT_ERR_PEER, NO_SPAN},
        {MLT_STEP_HEADER, "41 00 62", MLT_ERR_PEER, NO_SPAN},
        {MLT_STEP_HEADER, "00 76 00", MLT_ERR_PEER, NO_SPAN},
        {MLT_STEP_HEADER, "00 00", MLT_ERR_PEER, NO_SPAN},
        {MLT_STEP_HEADER, "41 00 00", MLT_OK, SPAN("A\0")},
        {MLT_STEP_HEADER, "41 00 62 00", MLT_OK, SPAN("A\0b")},
        {MLT_STEP_HEADER, "41 00 62 00 63 00", MLT_OK, SPAN("A\0b")},
        {MLT_STEP_HEADER, "41 00 62 00 63", MLT_ERR_PEER, NO_SPAN},
        {MLT_STEP_HEADER, "41 00 FF 0A 09 80 00", MLT_OK, SPAN("A\0\xFF\n\t\x80")},
        {MLT_STEP_EOH, "", MLT_OK, NO_SPAN},
        {MLT_STEP_EOH, "7A 7A", MLT_OK, NO_SPAN},
        {MLT_STEP_BODY, "", MLT_ERR_PEER, NO_SPAN},
        {MLT_STEP_BODY, "00", MLT_OK, SPAN("\0")},
        {MLT_STEP_BODY, "78 79 0D 0A", MLT_OK, SPAN("xy\r\n")},
        {MLT_STEP_EOM, "", MLT_OK, SPAN("")},
        {MLT_STEP_EOM, "78 79", MLT_OK, SPAN("xy")},
        {MLT_STEP_ABORT, "78", MLT_OK, NO_SPAN},
        {MLT_STEP_UNKNOWN, "", MLT_ERR_PEER, NO_SPAN},
        {MLT_STEP_UNKNOWN, "46 4F 4F", MLT_ERR_PEER, NO_SPAN},
        {MLT_STEP_UNKNOWN, "46 4F 4F 00", MLT_OK, SPAN("FOO")},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char name[100];
        test_bytes payload = hex(rows[i].payload);
        mlt_span span = {guarded(payload.data, payload.len), payload.len};
        mlt_event event;
        mlt_client client;
        const char *why = "";
        snprintf(name, sizeof name, "%s %s", mlt_steps[rows[i].step].symbol, rows[i].payload);
        test_row(name);
        CHECK_INT(rows[i].status, mlt_codec_event(rows[i].step, span, &event, &client, &why));
        if (rows[i].status != MLT_OK) {
            CHECK(*why != '\0');
            continue;
        }
        CHECK_INT(rows[i].step, event.step);
        CHECK_BYTES(rows[i].data.data, rows[i].data.len, event.data, event.len);
    }
}

/* What CONNECT says of the client: rows 56 to 61, 63, 64. Addresses come out as inet_ntop() writes
 * them. An abbreviated IPv4 address is refused. */
TEST(codec_connect)
{
    static const struct {
        const char *name;
        mlt_span payload;
        int family; /* 0: refused */
        int port;
        const char *host;
        const char *address;
    } rows[] = {
        {"IPv4",
         SPAN("h\0"
              "4"
              "\x04\xD2"
              "192.0.2.1\0"),
         '4', 1234, "h", "192.0.2.1"},
        {"IPv4, port 65535",
         SPAN("h\0"
              "4"
              "\xFF\xFF"
              "192.0.2.1\0"),
         '4', 65535, "h", "192.0.2.1"},
        {"IPv4, more behind",
         SPAN("h\0"
              "4"
              "\0\0"
              "192.0.2.1\0zz\0"),
         '4', 0, "h", "192.0.2.1"},
        {"IPv4, more behind without NUL",
         SPAN("h\0"
              "4"
              "\0\0"
              "192.0.2.1\0zz"),
         0, 0, NULL, NULL},
        {"IPv6",
         SPAN("h\0"
              "6"
              "\0\x19"
              "2001:db8::1\0"),
         '6', 25, "h", "2001:db8::1"},
        {"IPv6 with tag",
         SPAN("h\0"
              "6"
              "\0\0"
              "IPv6:2001:db8::1\0"),
         '6', 0, "h", "2001:db8::1"},
        {"IPv6 with tag in lower case",
         SPAN("h\0"
              "6"
              "\0\0"
              "ipv6:::1\0"),
         '6', 0, "h", "::1"},
        {"IPv6 written at length",
         SPAN("h\0"
              "6"
              "\0\0"
              "2001:0DB8:0:0:0:0:0:1\0"),
         '6', 0, "h", "2001:db8::1"},
        {"IPv4 in IPv6",
         SPAN("h\0"
              "6"
              "\0\0"
              "::ffff:192.0.2.1\0"),
         '6', 0, "h", "::ffff:192.0.2.1"},
        {"unix",
         SPAN("h\0"
              "L"
              "\0\0"
              "/s\0"),
         'L', 0, "h", "/s"},
        {"unix without path",
         SPAN("h\0"
              "L"
              "\0\0"
              "\0"),
         'L', 0, "h", ""},
        {"unknown",
         SPAN("localhost\0"
              "U"),
         'U', 0, "localhost", ""},
        {"unknown, more behind",
         SPAN("localhost\0"
              "U"
              "\0\0zz"),
         'U', 0, "localhost", ""},
        {"empty host",
         SPAN("\0"
              "4"
              "\0\0"
              "192.0.2.1\0"),
         '4', 0, "", "192.0.2.1"},
        {"empty", SPAN(""), 0, 0, NULL, NULL},
        {"host without NUL", SPAN("h"), 0, 0, NULL, NULL},
        {"only host", SPAN("h\0"), 0, 0, NULL, NULL},
        {"host, family",
         SPAN("h\0"
              "4"),
         0, 0, NULL, NULL},
        {"host, family, half a port",
         SPAN("h\0"
              "4"
              "\0"),
         0, 0, NULL, NULL},
        {"host, family, port",
         SPAN("h\0"
              "4"
              "\0\0"),
         0, 0, NULL, NULL},
        {"address without NUL",
         SPAN("h\0"
              "4"
              "\0\0"
              "192.0.2.1"),
         0, 0, NULL, NULL},
        {"family X",
         SPAN("h\0"
              "X"
              "\0\0"
              "192.0.2.1\0"),
         0, 0, NULL, NULL},
        {"family NUL",
         SPAN("h\0"
              "\0"
              "\0\0"
              "192.0.2.1\0"),
         0, 0, NULL, NULL},
        {"family u",
         SPAN("h\0"
              "u"),
         0, 0, NULL, NULL},
        {"IPv6 for IPv4",
         SPAN("h\0"
              "4"
              "\0\0"
              "::1\0"),
         0, 0, NULL, NULL},
        {"IPv4 for IPv6",
         SPAN("h\0"
              "6"
              "\0\0"
              "192.0.2.1\0"),
         0, 0, NULL, NULL},
        {"empty IPv4",
         SPAN("h\0"
              "4"
              "\0\0"
              "\0"),
         0, 0, NULL, NULL},
        {"empty IPv6",
         SPAN("h\0"
              "6"
              "\0\0"
              "\0"),
         0, 0, NULL, NULL},
        {"only a tag",
         SPAN("h\0"
              "6"
              "\0\0"
              "IPv6:\0"),
         0, 0, NULL, NULL},
        {"short IPv4",
         SPAN("h\0"
              "4"
              "\0\0"
              "127.1\0"),
         0, 0, NULL, NULL},
        {"IPv4 out of range",
         SPAN("h\0"
              "4"
              "\0\0"
              "192.0.2.256\0"),
         0, 0, NULL, NULL},
        {"blank behind",
         SPAN("h\0"
              "4"
              "\0\0"
              "192.0.2.1 \0"),
         0, 0, NULL, NULL},
        {"garbage",
         SPAN("h\0"
              "6"
              "\0\0"
              "x\0"),
         0, 0, NULL, NULL},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        mlt_span payload = {guarded(rows[i].payload.data, rows[i].payload.len),
                            rows[i].payload.len};
        mlt_event event;
        mlt_client client;
        const char *why = "";
        test_row(rows[i].name);
        int status = mlt_codec_event(MLT_STEP_CONNECT, payload, &event, &client, &why);
        CHECK_INT(rows[i].family != 0 ? MLT_OK : MLT_ERR_PEER, status);
        if (rows[i].family == 0) {
            CHECK(*why != '\0');
        } else if (status == MLT_OK) {
            CHECK_INT(rows[i].family, client.family);
            CHECK_INT(rows[i].port, client.port);
            CHECK_TEXT(rows[i].address, client.address);
            CHECK_BYTES(rows[i].host, strlen(rows[i].host), event.data, event.len);
        }
    }
}

/* A unix path may be 107 bytes long and not 108 (rows 58, 59); an IP address as long is none. */
TEST(codec_connect_with_long_addresses)
{
    static const size_t lengths[] = {106, 107, 108, 109, 127, 128, 129, 5000};
    static const char families[] = {'L', '4', '6'};
    static char payload[6000];
    for (size_t f = 0; f < 3; f++) {
        for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
            size_t len = lengths[i];
            memcpy(payload, "h\0", 2);
            payload[2] = families[f];
            payload[3] = payload[4] = 0;
            memset(payload + 5, 'a', len);
            payload[5 + len] = '\0';
            mlt_span span = {guarded(payload, len + 6), len + 6};
            mlt_event event;
            mlt_client client;
            const char *why = "";
            int status = mlt_codec_event(MLT_STEP_CONNECT, span, &event, &client, &why);
            CHECK_INT(families[f] == 'L' && len <= 107 ? MLT_OK : MLT_ERR_PEER, status);
            if (status == MLT_OK)
                CHECK_INT(len, strlen(client.address));
        }
    }
}

/* ------------------------------------------------------------------------------------------ */
/* Macros and options */

/* MACRO comes apart into stage and whole pairs; one that names nothing at all is told apart from
 * one that names too little (wire spec 3.5, rows 76 to 82). */
TEST(codec_macros)
{
    static const struct {
        const char *payload;
        int status;
        int letter;
        mlt_span pairs;
        size_t count;
    } rows[] = {
        {"", MLT_ERR_PEER, 0, NO_SPAN, 0},
        {"43", MLT_END, 'C', NO_SPAN, 0},
        {"43 62", MLT_END, 'C', NO_SPAN, 0},
        {"43 00", MLT_OK, 'C', SPAN(""), 0},
        {"43 61 00", MLT_OK, 'C', SPAN(""), 0},
        {"43 61 00 31", MLT_OK, 'C', SPAN(""), 0},
        {"43 61 00 31 00", MLT_OK, 'C', SPAN("a\0001\0"), 1},
        {"43 61 00 00", MLT_OK, 'C', SPAN("a\0\0"), 1},
        {"43 00 00", MLT_OK, 'C', SPAN("\0\0"), 1},
        {"43 61 00 31 00 62 00", MLT_OK, 'C', SPAN("a\0001\0"), 1},
        {"43 61 00 31 00 62 00 7A 7A", MLT_OK, 'C', SPAN("a\0001\0"), 1},
        {"43 61 00 31 00 62 00 32 00", MLT_OK, 'C', SPAN("a\0001\0b\0002\0"), 2},
        {"58 61 00 31 00", MLT_OK, 'X', SPAN("a\0001\0"), 1},
        {"FF 61 00 31 00", MLT_OK, 0xFF, SPAN("a\0001\0"), 1},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        test_bytes payload = hex(rows[i].payload);
        mlt_span in = {guarded(payload.data, payload.len), payload.len};
        int letter = -1;
        mlt_span pairs = NO_SPAN;
        size_t count = 99;
        test_row(rows[i].payload);
        CHECK_INT(rows[i].status, mlt_codec_macros(in, &letter, &pairs, &count));
        if (rows[i].status == MLT_ERR_PEER)
            continue;
        CHECK_INT(rows[i].letter, letter);
        if (rows[i].status == MLT_OK) {
            CHECK_BYTES(rows[i].pairs.data, rows[i].pairs.len, pairs.data, pairs.len);
            CHECK_INT(rows[i].count, count);
        }
    }
}

/* OPTNEG wants twelve bytes and takes no offence at more (rows 21, 22). */
TEST(codec_options)
{
    test_bytes all = hex("00 00 00 06 00 00 01 FF 80 1F FF FF 01 02 03 04 05 06 07 08");
    for (size_t len = 0; len <= all.len; len++) {
        mlt_span payload = {guarded(all.data, len), len};
        uint32_t version = 0, actions = 0, protocol = 0;
        int status = mlt_codec_options(payload, &version, &actions, &protocol);
        CHECK_INT(len < 12 ? MLT_ERR_PEER : MLT_OK, status);
        if (len >= 12) {
            CHECK_INT(6, version);
            CHECK_INT(0x1FF, actions);
            CHECK_INT(0x801FFFFF, protocol);
        }
    }
}
