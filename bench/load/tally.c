/* Owns the counters and the histogram of times. */
#include "tally.h"

static unsigned bucket_of(int64_t nanoseconds)
{
    uint64_t value = nanoseconds < 0 ? 0 : (uint64_t)nanoseconds;
    unsigned doublings = 0;

    while (value >= 2 * TALLY_FINE) {
        value >>= 1;
        doublings++;
    }
    unsigned bucket = doublings * TALLY_FINE + (unsigned)value;
    return bucket < TALLY_BUCKETS ? bucket : TALLY_BUCKETS - 1;
}

/* The middle of what falls into a bucket. */
static int64_t value_of(unsigned bucket)
{
    if (bucket < 2 * TALLY_FINE) {
        return bucket;
    }
    unsigned doublings = bucket / TALLY_FINE - 1;
    int64_t least = (int64_t)(bucket - doublings * TALLY_FINE) << doublings;
    return least + ((int64_t)1 << doublings) / 2;
}

void tally_time(struct tally *tally, int64_t nanoseconds)
{
    tally->buckets[bucket_of(nanoseconds)]++;
    tally->timed++;
    if (nanoseconds > tally->longest) {
        tally->longest = nanoseconds;
    }
}

int64_t tally_percentile(const struct tally *tally, double part)
{
    uint64_t rank = (uint64_t)(part * (double)tally->timed + 0.999999);
    uint64_t seen = 0;

    for (unsigned i = 0; i < TALLY_BUCKETS; i++) {
        seen += tally->buckets[i];
        if (seen > 0 && seen >= rank) {
            int64_t value = value_of(i);
            return value < tally->longest ? value : tally->longest;
        }
    }
    return 0;
}
