/*
 * buffer.c - growable bytes with a hard limit.
 */
#include "buffer.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"

/* Enough for the macros of a step. */
enum { FIRST_CAPACITY = 256 };

void mlt_buffer_init(mlt_buffer *buffer)
{
    *buffer = (mlt_buffer){NULL, 0, 0, 0};
}

void mlt_buffer_free(mlt_buffer *buffer)
{
    free(buffer->bytes);
    mlt_buffer_init(buffer);
}

int mlt_buffer_reserve(mlt_buffer *buffer, size_t room, size_t limit)
{
    size_t len = mlt_buffer_len(buffer);
    if (room > limit || len > limit - room)
        return MLT_ERR_LIMIT;
    if (buffer->capacity - buffer->end >= room)
        return MLT_OK;
    if (buffer->capacity - len < room) {
        size_t capacity = buffer->capacity > 0 ? buffer->capacity : FIRST_CAPACITY;
        while (capacity - len < room)
            capacity = capacity > limit / 2 ? limit : capacity * 2;
        char *bytes = malloc(capacity);
        if (bytes == NULL)
            return MLT_ERR_MEMORY;
        if (len > 0)
            memcpy(bytes, mlt_buffer_data(buffer), len);
        free(buffer->bytes);
        buffer->bytes = bytes;
        buffer->capacity = capacity;
    } else {
        memmove(buffer->bytes, buffer->bytes + buffer->start, len);
    }
    buffer->start = 0;
    buffer->end = len;
    return MLT_OK;
}

int mlt_buffer_append(mlt_buffer *buffer, const void *bytes, size_t len, size_t limit)
{
    int status = mlt_buffer_reserve(buffer, len, limit);
    if (status == MLT_OK && len > 0) {
        memcpy(buffer->bytes + buffer->end, bytes, len);
        buffer->end += len;
    }
    return status;
}

void mlt_buffer_take(mlt_buffer *buffer, size_t len)
{
    assert(len <= mlt_buffer_len(buffer));
    buffer->start += len;
    if (buffer->start == buffer->end)
        buffer->start = buffer->end = 0;
}

void mlt_buffer_clear(mlt_buffer *buffer, size_t keep)
{
    if (buffer->capacity > keep)
        mlt_buffer_free(buffer);
    buffer->start = buffer->end = 0;
}
