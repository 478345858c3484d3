/*
 * fuzz_input.c - inputs for the fuzz target: some to begin with, and changes of packets as wholes,
 * of bytes, and of what the filter wants and says.
 */
#include <string.h>

#include "fuzz.h"

/* Frames of wire spec 1.3, and some that are none. */
static const struct piece {
    size_t len;
    const char *bytes;
} pieces[] = {
#define PIECE(text) {sizeof(text) - 1, text}
    PIECE("\0\0\0\x0DO\0\0\0\6\0\0\1\xFF\0\x1F\xFF\xFF"),
    PIECE("\0\0\0\x0DO\0\0\0\2\0\0\0\x3F\0\0\0\x7F"),
    PIECE("\0\0\0\x0DO\0\0\0\6\0\0\1\xFF\x30\x1F\xFF\xFF"),
    PIECE("\0\0\0\x10"
          "Ch\0004\4\xD2"
          "192.0.2.1\0"),
    PIECE("\0\0\0\x0F"
          "Ch\0006\0\x19IPv6:::1\0"),
    PIECE("\0\0\0\x09"
          "Ch\0L\0\0/s\0"),
    PIECE("\0\0\0\4"
          "Ch\0U"),
    PIECE("\0\0\0\3Hh\0"),
    PIECE("\0\0\0\7M<a@b>\0"),
    PIECE("\0\0\0\x0EM<a@b>\0SIZE=9\0"),
    PIECE("\0\0\0\7R<c@d>\0"),
    PIECE("\0\0\0\1T"),
    PIECE("\0\0\0\x0CLSubject\0hi\0"),
    PIECE("\0\0\0\x08LX\0a\n\tb\0"),
    PIECE("\0\0\0\1N"),
    PIECE("\0\0\0\5"
          "Bhi\r\n"),
    PIECE("\0\0\0\1E"),
    PIECE("\0\0\0\5"
          "Ehi\r\n"),
    PIECE("\0\0\0\1A"),
    PIECE("\0\0\0\1Q"),
    PIECE("\0\0\0\1K"),
    PIECE("\0\0\0\x09UFOO bar\0"),
    PIECE("\0\0\0\6"
          "DCi\0001\0"),
    PIECE("\0\0\0\6"
          "DHi\0002\0"),
    PIECE("\0\0\0\6"
          "DMi\0003\0"),
    PIECE("\0\0\0\2"
          "DM"),
    PIECE("\0\0\0\6"
          "DRi\0004\0"),
    PIECE("\0\0\0\6"
          "DTi\0005\0"),
    PIECE("\0\0\0\6"
          "DNi\0006\0"),
    PIECE("\0\0\0\6"
          "DEi\0007\0"),
    PIECE("\0\0\0\2"
          "DL"),
    PIECE("\0\0\0\6"
          "DBi\0008\0"),
    PIECE("\0\0\0\5"
          "DCi\0001"),
    PIECE("\0\0\0\0"),
    PIECE("\0\0\0\1X"),
    PIECE("\0\0\0\2Hh"),
    PIECE("\xFF\xFF\xFF\xFFN"),
    PIECE("\0\1\0\0"
          "B"),
#undef PIECE
};
enum { PIECES = sizeof pieces / sizeof *pieces };

/* Whole conversations to begin with, as numbers of the pieces above. */
static const unsigned char conversations[][24] = {
    {0, 3, 7, 8, 10, 11, 12, 14, 15, 16, 19},
    {0, 22, 3, 23, 7, 24, 8, 26, 10, 27, 11, 30, 12, 30, 12, 28, 14, 31, 15, 15, 29, 16, 18, 19},
    {0, 3, 7, 8, 10, 10, 11, 12, 12, 12, 14, 15, 15, 16, 8, 10, 17, 19},
    {0, 3, 7, 8, 10, 18, 18, 8, 21, 10, 21, 11, 21, 12, 18, 19},
    {0, 3, 7, 9, 10, 16, 20, 4, 7, 8, 10, 11, 16, 19},
    {0, 7, 24, 10, 11, 24, 10, 11, 12, 14, 16, 25, 10, 16},
    {1, 3, 7, 8, 10, 12, 14, 15, 16},
    {0, 3, 7, 8, 21, 10, 21, 11, 21, 12, 21, 14, 21, 15, 21, 16, 8, 10, 21, 16, 19},
    {0, 16, 16},
};
enum { CONVERSATIONS = sizeof conversations / sizeof *conversations };

size_t fuzz_seed(size_t number, uint8_t *out, size_t room)
{
    static const uint8_t settings[][FUZZ_SETTINGS] = {
        {0},
        {FUZZ_NEGOTIATE},
        {FUZZ_NEGOTIATE, 0, 0, 0x0F, 0xF0, 0x80},
        {FUZZ_NEGOTIATE, 0, 4, 0x0F, 0xF0, 0x84},
        {0, 3, 0x6F},
        {FUZZ_NEGOTIATE | FUZZ_SMALL_LIMITS, 0, 0, 0x0C, 0, 0x80},
        {FUZZ_NEGOTIATE | FUZZ_ALL_OPTS | FUZZ_LARGER},
    };
    size_t count = sizeof settings / sizeof *settings;
    if (number >= count * CONVERSATIONS)
        return 0;
    size_t len = FUZZ_SETTINGS + 16;
    memset(out, 0, room);
    memcpy(out, settings[number % count], FUZZ_SETTINGS);
    out[8] = 16;
    const unsigned char *list = conversations[number / count];
    for (size_t i = 0; i < sizeof conversations[0] && (i == 0 || list[i] != 0); i++) {
        if (pieces[list[i]].len > room - len)
            break;
        memcpy(out + len, pieces[list[i]].bytes, pieces[list[i]].len);
        len += pieces[list[i]].len;
    }
    return len;
}

static uint32_t big(const uint8_t *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

/* Where the packets begin, the end included; at most `most` of them. */
static size_t find_packets(const uint8_t *data, size_t len, size_t *at, size_t most)
{
    size_t count = 0;
    size_t next = FUZZ_SETTINGS + (len > 8 ? data[8] & FUZZ_VERDICTS : 0);
    while (next < len && count + 1 < most) {
        at[count++] = next;
        if (len - next < 4)
            break;
        size_t size = 4 + (size_t)big(data + next);
        if (size > len - next)
            break;
        next += size;
    }
    at[count] = next < len ? next : len;
    return count;
}

/* Replaces `gone` bytes at `at`. */
static size_t replace(uint8_t *data, size_t len, size_t room, size_t at, size_t gone,
                      const void *piece, size_t size)
{
    if (at > len || gone > len - at || size > room - (len - gone))
        return len;
    memmove(data + at + size, data + at + gone, len - at - gone);
    memcpy(data + at, piece, size);
    return len - gone + size;
}

static uint32_t next_random(uint32_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state;
}

size_t fuzz_mutate(uint8_t *data, size_t len, size_t room, uint32_t *random)
{
    enum { MOST = 128, LONGEST = 256 };
    size_t at[MOST];
    uint8_t copy[LONGEST];
    if (len < FUZZ_SETTINGS)
        return fuzz_seed(next_random(random) % 8, data, room);
    size_t count = find_packets(data, len, at, MOST);
    size_t one = count > 0 ? next_random(random) % count : 0;
    size_t start = count > 0 ? at[one] : len;
    size_t size = count > 0 ? at[one + 1] - start : 0;
    const struct piece *piece = &pieces[next_random(random) % PIECES];
    switch (next_random(random) % 12) {
    case 0:
    case 1:
    case 2: /* a packet more */
        return replace(data, len, room, start, 0, piece->bytes, piece->len);
    case 3: /* another one */
        return replace(data, len, room, start, size, piece->bytes, piece->len);
    case 4: /* one less */
        return replace(data, len, room, start, size, "", 0);
    case 5: /* one twice, or somewhere else too */
        if (size > sizeof copy)
            return len;
        memcpy(copy, data + start, size);
        start = count > 0 ? at[next_random(random) % (count + 1)] : len;
        return replace(data, len, room, start, 0, copy, size);
    case 6: /* an end */
        return start + (size > 0 ? next_random(random) % size : 0);
    case 7: /* another byte somewhere */
        data[next_random(random) % len] = (uint8_t)next_random(random);
        return len;
    case 8: /* another bit in a packet */
        if (size > 0)
            data[start + next_random(random) % size] ^= (uint8_t)(1 << next_random(random) % 8);
        return len;
    case 9: /* other settings */
        data[next_random(random) % (FUZZ_SETTINGS - 1)] = (uint8_t)next_random(random);
        return len;
    default: { /* another verdict, mostly of the final ones */
        size_t verdicts = data[8] & FUZZ_VERDICTS;
        if (verdicts > 0 && verdicts <= len - FUZZ_SETTINGS)
            data[FUZZ_SETTINGS + next_random(random) % verdicts] =
                (uint8_t)(next_random(random) % 3 == 0 ? 0 : 9 + next_random(random) % 119);
        return len;
    }
    }
}
