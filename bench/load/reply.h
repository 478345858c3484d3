/* The filter's replies: read as they trickle in, and checked for their shape. No I/O. */
#ifndef BENCH_REPLY_H
#define BENCH_REPLY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    REPLY_KEPT = 2048, /* bytes kept of a negotiation's answer: the options and its macro lists */
};

enum reply_class {
    REPLY_UNKNOWN, /* no reply that a filter may send */
    REPLY_NEGOTIATION,
    REPLY_VERDICT,
    REPLY_SKIP,
    REPLY_MODIFICATION,
    REPLY_PROGRESS,
};

/* One reply, as much of it as has come. All zero: nothing has. */
struct reply {
    uint8_t head[5];
    uint8_t head_size;
    uint8_t last; /* the last byte of the data so far */
    char letter;
    uint32_t size;            /* of the data, without the letter */
    uint32_t read;            /* how much of the data has come */
    uint32_t zeros;           /* bytes 0 in the data behind its leading integer */
    uint8_t kept[REPLY_KEPT]; /* the first bytes of a negotiation, the first four of others */
};

enum reply_state {
    REPLY_MORE,     /* the reply is not complete yet; all bytes were taken */
    REPLY_COMPLETE, /* reply_class() and reply_breach() may be asked */
    REPLY_BROKEN,   /* the length cannot be right */
};

/* Forgets the reply; the next byte begins another. */
void reply_begin(struct reply *reply);

/* Takes bytes up to the end of the reply; *taken says how many. */
enum reply_state reply_feed(struct reply *reply, const uint8_t *data, size_t size, size_t *taken);

enum reply_class reply_class(char letter);

/* The bit of the negotiated actions that a modification needs; 0 for every other reply. */
uint32_t reply_action(char letter);

/* What is wrong with the complete reply's data (a static text), or NULL. */
const char *reply_breach(const struct reply *reply);

#endif
