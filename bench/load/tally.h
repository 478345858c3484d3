/* What is counted, and how long things took: fixed memory, a few instructions per entry. No I/O. */
#ifndef BENCH_TALLY_H
#define BENCH_TALLY_H

#include <stdint.h>

enum {
    TALLY_FINE = 128,     /* steps to each doubling: values are right within 0.8 % */
    TALLY_DOUBLINGS = 36, /* from 128 ns to two hours */
    TALLY_BUCKETS = TALLY_FINE * (TALLY_DOUBLINGS + 1),
};

/* All zero: nothing was counted. */
struct tally {
    uint64_t messages;
    uint64_t connections;
    uint64_t refused;      /* connections that the filter refused at CONNECT or HELO */
    uint64_t replies[256]; /* by letter */
    uint64_t timed;        /* how many times were noted */
    int64_t longest;       /* in nanoseconds */
    uint64_t buckets[TALLY_BUCKETS];
};

/* Notes how long something took, in nanoseconds. */
void tally_time(struct tally *tally, int64_t nanoseconds);

/* The time, in nanoseconds, that `part` of all noted times do not exceed (0.5: the median); 0 if
 * none was noted. */
int64_t tally_percentile(const struct tally *tally, double part);

#endif
