/*
 * frame.h - length-prefixed framing: 4 bytes length, 1 byte letter, data.
 *
 * No I/O, no memory of its own, and no idea what a letter means. The length counts the letter and
 * the data (wire spec 1.1). mlt_frame_next(), the reading half, is declared in engine.h because
 * Python uses it too.
 */
#ifndef MLT_FRAME_H
#define MLT_FRAME_H

#include "engine.h"

enum {
    MLT_FRAME_LENGTH = 4,                 /* bytes of the length */
    MLT_FRAME_HEAD = MLT_FRAME_LENGTH + 1 /* and of the letter */
};

/* Wire integers: big-endian, unaligned. */
uint32_t mlt_frame_get_u32(const char *bytes);
void mlt_frame_put_u32(char *bytes, uint32_t value);

/* Writes the head of a packet with `payload` bytes of data. */
void mlt_frame_put_head(char bytes[MLT_FRAME_HEAD], int letter, size_t payload);

#endif
