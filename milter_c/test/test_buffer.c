/*
 * test_buffer.c - growable bytes with a hard limit.
 */
#include "../buffer.h"

#include <stdint.h>
#include <string.h>

#include "../engine.h"
#include "test.h"

/* An empty buffer has no bytes, a readable address, and may be freed twice. */
TEST(buffer_empty)
{
    mlt_buffer buffer;
    mlt_buffer_init(&buffer);
    CHECK_INT(0, mlt_buffer_len(&buffer));
    CHECK(mlt_buffer_data(&buffer) != NULL);
    CHECK_INT(MLT_OK, mlt_buffer_append(&buffer, NULL, 0, 0));
    mlt_buffer_take(&buffer, 0);
    mlt_buffer_clear(&buffer, 0);
    mlt_buffer_free(&buffer);
    mlt_buffer_free(&buffer);
    CHECK(buffer.bytes == NULL);
}

/* Bytes come out in the order in which they went in, however much is taken between. */
TEST(buffer_is_first_in_first_out)
{
    mlt_buffer buffer;
    mlt_buffer_init(&buffer);
    unsigned put = 0;
    unsigned got = 0;
    for (unsigned round = 0; round < 400; round++) {
        for (unsigned i = 0; i < round % 37 + 20; i++) {
            char byte = (char)put++;
            CHECK_INT(MLT_OK, mlt_buffer_append(&buffer, &byte, 1, SIZE_MAX));
        }
        for (unsigned i = 0; i < round % 29 + 10 && got < put; i++) {
            CHECK_INT((char)got, *mlt_buffer_data(&buffer));
            mlt_buffer_take(&buffer, 1);
            got++;
        }
        CHECK_INT(put - got, mlt_buffer_len(&buffer));
    }
    mlt_buffer_free(&buffer);
}

/* The limit is of the content: as much as it goes in, one byte more does not, and then the content
 * is as it was. Tried around the first allocation too. */
TEST(buffer_limit)
{
    static const size_t limits[] = {0, 1, 2, 100, 4095, 4096, 4097, 8191, 8192, 100000};
    static char bytes[100001];
    memset(bytes, 'x', sizeof bytes);
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        size_t limit = limits[i];
        mlt_buffer buffer;
        mlt_buffer_init(&buffer);
        CHECK_INT(MLT_ERR_LIMIT, mlt_buffer_append(&buffer, bytes, limit + 1, limit));
        CHECK_INT(0, mlt_buffer_len(&buffer));
        CHECK_INT(MLT_OK, mlt_buffer_append(&buffer, bytes, limit, limit));
        CHECK_BYTES(bytes, limit, mlt_buffer_data(&buffer), mlt_buffer_len(&buffer));
        CHECK_INT(MLT_ERR_LIMIT, mlt_buffer_append(&buffer, "y", 1, limit));
        CHECK_BYTES(bytes, limit, mlt_buffer_data(&buffer), mlt_buffer_len(&buffer));
        if (limit > 0) {
            /* What was taken does not count. */
            mlt_buffer_take(&buffer, 1);
            CHECK_INT(MLT_OK, mlt_buffer_append(&buffer, "y", 1, limit));
            CHECK_INT(limit, mlt_buffer_len(&buffer));
            CHECK_INT('y', mlt_buffer_data(&buffer)[limit - 1]);
        }
        mlt_buffer_free(&buffer);
    }
}

/* Sizes near the end of size_t are refused, not wrapped around. */
TEST(buffer_does_not_wrap_around)
{
    mlt_buffer buffer;
    mlt_buffer_init(&buffer);
    CHECK_INT(MLT_OK, mlt_buffer_append(&buffer, "abc", 3, 10));
    CHECK_INT(MLT_ERR_LIMIT, mlt_buffer_reserve(&buffer, SIZE_MAX, 10));
    CHECK_INT(MLT_ERR_LIMIT, mlt_buffer_reserve(&buffer, SIZE_MAX, SIZE_MAX));
    CHECK_INT(MLT_ERR_LIMIT, mlt_buffer_reserve(&buffer, SIZE_MAX - 2, SIZE_MAX));
    CHECK_BYTES("abc", 3, mlt_buffer_data(&buffer), mlt_buffer_len(&buffer));
    mlt_buffer_free(&buffer);
}

/* reserve() makes that much room behind the content, and all of it may be written. */
TEST(buffer_reserved_room_is_there)
{
    static const size_t rooms[] = {0, 1, 1024, 4096, 4097, 70000};
    for (size_t i = 0; i < sizeof rooms / sizeof *rooms; i++) {
        mlt_buffer buffer;
        mlt_buffer_init(&buffer);
        CHECK_INT(MLT_OK, mlt_buffer_append(&buffer, "abcd", 4, SIZE_MAX));
        mlt_buffer_take(&buffer, 2);
        CHECK_INT(MLT_OK, mlt_buffer_reserve(&buffer, rooms[i], rooms[i] + 2));
        CHECK(buffer.capacity - buffer.end >= rooms[i]);
        memset(buffer.bytes + buffer.end, 'z', rooms[i]);
        CHECK_BYTES("cd", 2, mlt_buffer_data(&buffer), mlt_buffer_len(&buffer));
        mlt_buffer_free(&buffer);
    }
}

/* Room that was taken off the front is used again before more memory is asked for. */
TEST(buffer_compacts_before_it_grows)
{
    static char bytes[4096];
    mlt_buffer buffer;
    mlt_buffer_init(&buffer);
    CHECK_INT(MLT_OK, mlt_buffer_append(&buffer, bytes, 4000, SIZE_MAX));
    mlt_buffer_take(&buffer, 3990);
    size_t capacity = buffer.capacity;
    atomic_store(&hooks.allocations, 0);
    CHECK_INT(MLT_OK, mlt_buffer_append(&buffer, bytes, 4000, SIZE_MAX));
    CHECK_INT(0, hooks.allocations);
    CHECK_INT(capacity, buffer.capacity);
    CHECK_INT(4010, mlt_buffer_len(&buffer));
    mlt_buffer_free(&buffer);
}

/* Without memory the status says so and the content is as it was. */
TEST(buffer_without_memory)
{
    static char bytes[10000];
    mlt_buffer buffer;
    mlt_buffer_init(&buffer);
    atomic_store(&hooks.fail_allocation, 0);
    CHECK_INT(MLT_ERR_MEMORY, mlt_buffer_append(&buffer, "abc", 3, SIZE_MAX));
    CHECK_INT(0, mlt_buffer_len(&buffer));
    CHECK_INT(MLT_OK, mlt_buffer_append(&buffer, "abc", 3, SIZE_MAX));
    atomic_store(&hooks.fail_allocation, 0);
    CHECK_INT(MLT_ERR_MEMORY, mlt_buffer_append(&buffer, bytes, sizeof bytes, SIZE_MAX));
    CHECK_BYTES("abc", 3, mlt_buffer_data(&buffer), mlt_buffer_len(&buffer));
    mlt_buffer_free(&buffer);
}

/* clear() empties, and gives the memory back only above what may be kept. */
TEST(buffer_clear)
{
    mlt_buffer buffer;
    mlt_buffer_init(&buffer);
    CHECK_INT(MLT_OK, mlt_buffer_append(&buffer, "abc", 3, SIZE_MAX));
    size_t capacity = buffer.capacity;
    mlt_buffer_clear(&buffer, capacity);
    CHECK_INT(0, mlt_buffer_len(&buffer));
    CHECK_INT(capacity, buffer.capacity);
    mlt_buffer_clear(&buffer, capacity - 1);
    CHECK_INT(0, buffer.capacity);
    CHECK(buffer.bytes == NULL);
    mlt_buffer_free(&buffer);
}
