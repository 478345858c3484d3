/*
 * guard.h - memory that ends right before a page that cannot be read.
 */
#ifndef MLT_GUARD_H
#define MLT_GUARD_H

#include <stddef.h>

/* A copy of at most 2 MiB, whose next byte crashes. Good until the eighth call after it. */
const char *guarded(const void *data, size_t len);

#endif
