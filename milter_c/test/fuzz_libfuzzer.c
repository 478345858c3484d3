/*
 * fuzz_libfuzzer.c - lets libFuzzer use our mutations beside its own.
 */
#include "fuzz.h"

size_t LLVMFuzzerMutate(uint8_t *data, size_t len, size_t room);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t len, size_t room, unsigned seed);

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t len, size_t room, unsigned seed)
{
    uint32_t random = seed | 1;
    if (seed % 4 == 0)
        return LLVMFuzzerMutate(data, len, room);
    for (unsigned i = 0; i <= seed / 4 % 4; i++)
        len = fuzz_mutate(data, len, room, &random);
    return len;
}
