/*
 * test_frame.c - length-prefixed framing. The frames are those of wire spec 1.3 and 1.4.
 */
#include "../frame.h"

#include <string.h>

#include "test.h"

enum { LIMIT = 65536 };

static const struct {
    const char *frame;
    char letter;
    size_t payload;
} examples[] = {
    {"00 00 00 0D 4F 00 00 00 06 00 00 01 FF 00 1F FF FF", 'O', 12},
    {"00 00 00 07 44 43 6A 00 6D 78 00", 'D', 6},
    {"00 00 00 02 44 48", 'D', 1},
    {"00 00 00 13 43 68 2E 65 78 00 34 04 D2 31 39 32 2E 30 2E 32 2E 31 00", 'C', 18},
    {"00 00 00 0C 43 6C 6F 63 61 6C 68 6F 73 74 00 55", 'C', 11},
    {"00 00 00 06 48 63 2E 65 78 00", 'H', 5},
    {"00 00 00 0E 4D 3C 61 40 62 3E 00 53 49 5A 45 3D 39 00", 'M', 13},
    {"00 00 00 01 54", 'T', 0},
    {"00 00 00 0C 4C 53 75 62 6A 65 63 74 00 68 69 00", 'L', 11},
    {"00 00 00 05 42 68 69 0D 0A", 'B', 4},
    {"00 00 00 01 51", 'Q', 0},
};

/* Each example frame is taken whole: its letter, its payload, its size. */
TEST(frame_examples)
{
    for (size_t i = 0; i < sizeof examples / sizeof *examples; i++) {
        test_bytes frame = hex(examples[i].frame);
        const char *data = guarded(frame.data, frame.len);
        mlt_packet packet;
        test_row(examples[i].frame);
        CHECK_INT(MLT_OK, mlt_frame_next(data, frame.len, LIMIT, &packet));
        CHECK_INT(examples[i].letter, packet.letter);
        CHECK_INT(frame.len, packet.used);
        CHECK_INT(examples[i].payload, packet.payload.len);
        CHECK(packet.payload.data == data + 5);
    }
}

/* Every beginning of a frame, from no byte to all but one, wants more and reads nothing behind. */
TEST(frame_beginnings_need_more)
{
    for (size_t i = 0; i < sizeof examples / sizeof *examples; i++) {
        test_bytes frame = hex(examples[i].frame);
        test_row(examples[i].frame);
        for (size_t len = 0; len < frame.len; len++) {
            mlt_packet packet = {-7, {NULL, 0}, 99};
            CHECK_INT(MLT_NEED_MORE, mlt_frame_next(guarded(frame.data, len), len, LIMIT, &packet));
            CHECK_INT(-7, packet.letter);
            CHECK_INT(99, packet.used);
        }
    }
}

/* Of two frames in a row only the first is taken. */
TEST(frame_takes_only_one)
{
    test_bytes two = hex("00 00 00 01 54 00 00 00 01 41");
    mlt_packet packet;
    const char *data = guarded(two.data, two.len);
    CHECK_INT(MLT_OK, mlt_frame_next(data, two.len, LIMIT, &packet));
    CHECK_INT('T', packet.letter);
    CHECK_INT(5, packet.used);
    CHECK_INT(MLT_OK, mlt_frame_next(data + 5, two.len - 5, LIMIT, &packet));
    CHECK_INT('A', packet.letter);
}

/* A length of 0 and one above the limit are judged as soon as the four bytes of it are there, by
 * their unsigned value (wire spec 1.2: nothing wraps around). */
TEST(frame_bad_lengths)
{
    static const struct {
        const char *bytes;
        int status;
    } rows[] = {
        {"00 00 00 00", MLT_ERR_PEER},     {"00 00 00 00 48", MLT_ERR_PEER},
        {"00 01 00 01", MLT_ERR_LIMIT},    {"00 01 00 00", MLT_NEED_MORE},
        {"FF FF FF FF 4E", MLT_ERR_LIMIT}, {"80 00 00 01 45", MLT_ERR_LIMIT},
        {"80 00 00 00 45", MLT_ERR_LIMIT}, {"7F FF FF FF 45", MLT_ERR_LIMIT},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        test_bytes frame = hex(rows[i].bytes);
        mlt_packet packet;
        test_row(rows[i].bytes);
        CHECK_INT(rows[i].status,
                  mlt_frame_next(guarded(frame.data, frame.len), frame.len, LIMIT, &packet));
    }
}

/* Letter and data together may be as long as the limit and not one byte longer: limits 1, 2 and
 * 65536. */
TEST(frame_limit)
{
    static char frame[4 + LIMIT + 1] = {0};
    static const size_t limits[] = {1, 2, LIMIT};
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        size_t limit = limits[i];
        mlt_packet packet;
        mlt_frame_put_head(frame, 'B', limit - 1);
        CHECK_INT(MLT_OK, mlt_frame_next(guarded(frame, limit + 4), limit + 4, limit, &packet));
        CHECK_INT(limit - 1, packet.payload.len);
        CHECK_INT(MLT_NEED_MORE,
                  mlt_frame_next(guarded(frame, limit + 3), limit + 3, limit, &packet));
        mlt_frame_put_head(frame, 'B', limit);
        CHECK_INT(MLT_ERR_LIMIT,
                  mlt_frame_next(guarded(frame, limit + 5), limit + 5, limit, &packet));
    }
}

/* Letters are unsigned: 0x80 and 0xFF are not negative. */
TEST(frame_letters_are_unsigned)
{
    test_bytes frame = hex("00 00 00 01 FF");
    mlt_packet packet;
    CHECK_INT(MLT_OK, mlt_frame_next(guarded(frame.data, frame.len), frame.len, LIMIT, &packet));
    CHECK_INT(0xFF, packet.letter);
}

/* Wire integers are big-endian, and use all their bits. */
TEST(frame_integers)
{
    static const struct {
        const char *bytes;
        uint32_t value;
    } rows[] = {
        {"00 00 00 00", 0},          {"00 00 00 01", 1},          {"01 02 03 04", 0x01020304},
        {"7F FF FF FF", 0x7FFFFFFF}, {"80 00 00 00", 0x80000000}, {"FF FE FD FC", 0xFFFEFDFC},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char out[4];
        test_bytes in = hex(rows[i].bytes);
        CHECK_INT(rows[i].value, mlt_frame_get_u32(guarded(in.data, 4)));
        mlt_frame_put_u32(out, rows[i].value);
        CHECK_HEX(rows[i].bytes, out, 4);
    }
}

/* The head counts letter and data. */
TEST(frame_head)
{
    char head[MLT_FRAME_HEAD];
    mlt_frame_put_head(head, 'c', 0);
    CHECK_HEX("00 00 00 01 63", head, sizeof head);
    mlt_frame_put_head(head, 'b', 65535);
    CHECK_HEX("00 01 00 00 62", head, sizeof head);
}
