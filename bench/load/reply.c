/* Owns what a reply looks like (wire spec 1.4); knows nothing of when one may come. */
#include "reply.h"

#include "wire.h"

#include <string.h>

static const struct kind {
    char letter;
    enum reply_class class;
    uint32_t action;
    uint32_t leading; /* bytes of an integer in front of the strings */
    uint32_t fewest;  /* strings, each ended by a byte 0, that fill the rest */
    uint32_t most;
    bool raw; /* any data at all */
} kinds[] = {
    {'O', REPLY_NEGOTIATION, 0, 12, 0, 0, true},
    {'c', REPLY_VERDICT, 0, 0, 0, 0, false},
    {'a', REPLY_VERDICT, 0, 0, 0, 0, false},
    {'r', REPLY_VERDICT, 0, 0, 0, 0, false},
    {'t', REPLY_VERDICT, 0, 0, 0, 0, false},
    {'d', REPLY_VERDICT, 0, 0, 0, 0, false},
    {'y', REPLY_VERDICT, 0, 0, 1, 1, false},
    {'s', REPLY_SKIP, 0, 0, 0, 0, false},
    {'p', REPLY_PROGRESS, 0, 0, 0, 0, false},
    {'h', REPLY_MODIFICATION, 0x01, 0, 2, 2, false},
    {'i', REPLY_MODIFICATION, 0x01, 4, 2, 2, false},
    {'m', REPLY_MODIFICATION, 0x10, 4, 2, 2, false},
    {'b', REPLY_MODIFICATION, 0x02, 0, 0, 0, true},
    {'+', REPLY_MODIFICATION, 0x04, 0, 1, 1, false},
    {'2', REPLY_MODIFICATION, 0x80, 0, 1, 2, false},
    {'-', REPLY_MODIFICATION, 0x08, 0, 1, 1, false},
    {'e', REPLY_MODIFICATION, 0x40, 0, 1, 2, false},
    {'q', REPLY_MODIFICATION, 0x20, 0, 1, 1, false},
};

static const struct kind unknown = {0, REPLY_UNKNOWN, 0, 0, 0, 0, true};

static const struct kind *kind_of(char letter)
{
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if (kinds[i].letter == letter) {
            return &kinds[i];
        }
    }
    return &unknown;
}

void reply_begin(struct reply *reply)
{
    reply->head_size = 0;
}

/* Notes the next bytes of the data. */
static void take(struct reply *reply, const uint8_t *data, uint32_t size)
{
    const struct kind *kind = kind_of(reply->letter);
    uint32_t room = kind->class == REPLY_NEGOTIATION ? REPLY_KEPT : 4;

    if (reply->read < room) {
        uint32_t kept = size < room - reply->read ? size : room - reply->read;
        memcpy(reply->kept + reply->read, data, kept);
    }
    for (uint32_t i = 0; !kind->raw && i < size; i++) {
        reply->zeros += data[i] == 0 && reply->read + i >= kind->leading;
    }
    reply->read += size;
    reply->last = data[size - 1];
}

enum reply_state reply_feed(struct reply *reply, const uint8_t *data, size_t size, size_t *taken)
{
    size_t used = 0;

    while (reply->head_size < WIRE_HEAD && used < size) {
        reply->head[reply->head_size++] = data[used++];
        if (reply->head_size == WIRE_HEAD) {
            uint32_t length = wire_get(reply->head);
            if (length == 0 || length > WIRE_LARGEST) {
                return REPLY_BROKEN;
            }
            reply->size = length - 1;
            reply->letter = (char)reply->head[4];
            reply->read = 0;
            reply->zeros = 0;
        }
    }
    if (reply->head_size == WIRE_HEAD && used < size && reply->read < reply->size) {
        uint32_t left = reply->size - reply->read;
        uint32_t now = size - used < left ? (uint32_t)(size - used) : left;
        take(reply, data + used, now);
        used += now;
    }
    *taken = used;
    return reply->head_size == WIRE_HEAD && reply->read == reply->size ? REPLY_COMPLETE
                                                                       : REPLY_MORE;
}

enum reply_class reply_class(char letter)
{
    return kind_of(letter)->class;
}

uint32_t reply_action(char letter)
{
    return kind_of(letter)->action;
}

const char *reply_breach(const struct reply *reply)
{
    const struct kind *kind = kind_of(reply->letter);

    if (kind->class == REPLY_UNKNOWN) {
        return "no letter that a filter may send";
    }
    if (reply->size < kind->leading) {
        return "shorter than its integers";
    }
    if (kind->raw) {
        return NULL;
    }
    if (kind->most == 0 && reply->size > 0) {
        return "data where there must be none";
    }
    if (kind->fewest > 0 && (reply->size == kind->leading || reply->last != 0)) {
        return "no byte 0 at the end";
    }
    if (reply->zeros < kind->fewest || reply->zeros > kind->most) {
        return "the wrong number of strings";
    }
    if (reply->letter == 'y' && reply->kept[0] != '4' && reply->kept[0] != '5') {
        return "a reply text that begins with neither 4 nor 5";
    }
    return NULL;
}
