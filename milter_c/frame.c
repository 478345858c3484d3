/*
 * frame.c - length-prefixed framing.
 */
#include "frame.h"

#include <assert.h>

uint32_t mlt_frame_get_u32(const char *bytes)
{
    const unsigned char *b = (const unsigned char *)bytes;
    return (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | (uint32_t)b[3];
}

void mlt_frame_put_u32(char *bytes, uint32_t value)
{
    bytes[0] = (char)(value >> 24);
    bytes[1] = (char)(value >> 16);
    bytes[2] = (char)(value >> 8);
    bytes[3] = (char)value;
}

void mlt_frame_put_head(char bytes[MLT_FRAME_HEAD], int letter, size_t payload)
{
    assert(payload < UINT32_MAX);
    mlt_frame_put_u32(bytes, (uint32_t)payload + 1);
    bytes[MLT_FRAME_LENGTH] = (char)letter;
}

int mlt_frame_next(const char *data, size_t len, size_t limit, mlt_packet *packet)
{
    if (len < MLT_FRAME_LENGTH)
        return MLT_NEED_MORE;
    size_t size = mlt_frame_get_u32(data);
    /* Judged before the rest has come: what a peer merely promises is never waited for. */
    if (size == 0)
        return MLT_ERR_PEER;
    if (size > limit)
        return MLT_ERR_LIMIT;
    if (len - MLT_FRAME_LENGTH < size)
        return MLT_NEED_MORE;
    packet->letter = (unsigned char)data[MLT_FRAME_LENGTH];
    packet->payload.data = data + MLT_FRAME_HEAD;
    packet->payload.len = size - 1;
    packet->used = MLT_FRAME_LENGTH + size;
    return MLT_OK;
}
