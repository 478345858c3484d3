/*
 * buffer.h - bytes that come in at the end and are taken off the front.
 *
 * Knows nothing of packets. The bytes between `start` and `end` are the content; what is before
 * has been taken and what is behind is free. Pointers into it are good until the next call that
 * may grow, shrink or compact it.
 */
#ifndef MLT_BUFFER_H
#define MLT_BUFFER_H

#include <stddef.h>

typedef struct mlt_buffer {
    char *bytes; /* owned; NULL when nothing is allocated */
    size_t start;
    size_t end;
    size_t capacity;
} mlt_buffer;

/* An empty buffer owns no memory. */
void mlt_buffer_init(mlt_buffer *buffer);
void mlt_buffer_free(mlt_buffer *buffer);

static inline size_t mlt_buffer_len(const mlt_buffer *buffer)
{
    return buffer->end - buffer->start;
}

static inline const char *mlt_buffer_data(const mlt_buffer *buffer)
{
    return buffer->bytes == NULL ? "" : buffer->bytes + buffer->start;
}

/* Makes room for at least `room` bytes behind the content, which may hold `limit` bytes in all at
 * most. MLT_OK, MLT_ERR_LIMIT or MLT_ERR_MEMORY; in both the content is as it was. */
int mlt_buffer_reserve(mlt_buffer *buffer, size_t room, size_t limit);

/* Appends a copy. Errors as mlt_buffer_reserve(). */
int mlt_buffer_append(mlt_buffer *buffer, const void *bytes, size_t len, size_t limit);

/* Takes `len` bytes off the front. */
void mlt_buffer_take(mlt_buffer *buffer, size_t len);

/* Empties it; gives the memory back if it is more than `keep` bytes. */
void mlt_buffer_clear(mlt_buffer *buffer, size_t keep);

#endif
