/*
 * fuzz.h - the fuzz target and what helps to find inputs for it.
 */
#ifndef MLT_FUZZ_H
#define MLT_FUZZ_H

#include <stddef.h>
#include <stdint.h>

/* An input: settings, as many verdicts as the last byte of these says, then the MTA's bytes. */
enum {
    FUZZ_SETTINGS =
        9, /* bytes: flags, absent (2), protocol bits to ask for (3), unwanted (2), count */
    FUZZ_VERDICTS = 31 /* verdicts at most; a mask */
};

/* The flags. */
enum {
    FUZZ_NEGOTIATE = 1,    /* the filter has a negotiate callback */
    FUZZ_ALL_OPTS = 2,     /* and says so in it */
    FUZZ_REFUSE = 4,       /* or gives up there */
    FUZZ_LARGER = 8,       /* larger packets are agreed to */
    FUZZ_SMALL_LIMITS = 16 /* of packets and macros */
};

/* Plays one input; what does not hold ends the process by abort(). Returns 0. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* Writes an input to begin with. Its size; 0 where `number` is above the last one. */
size_t fuzz_seed(size_t number, uint8_t *out, size_t room);

/* Changes an input in one place. Its new size. *random is the state of a generator, not 0. */
size_t fuzz_mutate(uint8_t *data, size_t len, size_t room, uint32_t *random);

#endif
