/*
 * fuzz_main.c - runs the fuzz target where there is no libFuzzer, and prepares what libFuzzer
 * needs.
 *
 *   fuzz SECONDS [SEED]    mutated inputs for so long; the same ones for the same seed
 *   fuzz -s FOLDER         writes the inputs to begin with, a file each
 *   fuzz FILE...           plays these inputs
 *
 * The input that is being played stands in the file that FUZZ_INPUT names, to be looked at after a
 * crash.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "fuzz.h"

enum { ROOM = 4096 };

/* Memory that outlives us, with the size in front. */
typedef struct current {
    uint64_t len;
    uint8_t data[ROOM];
} current;

static int write_seeds(const char *folder)
{
    static uint8_t data[ROOM];
    char path[500];
    size_t len;
    for (size_t i = 0; (len = fuzz_seed(i, data, sizeof data)) > 0; i++) {
        snprintf(path, sizeof path, "%s/seed-%zu", folder, i);
        FILE *file = fopen(path, "wb");
        if (file == NULL || fwrite(data, 1, len, file) != len || fclose(file) != 0) {
            perror(path);
            return 1;
        }
    }
    return 0;
}

static int play(const char *path)
{
    static uint8_t data[1 << 20];
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        perror(path);
        return 1;
    }
    size_t len = fread(data, 1, sizeof data, file);
    fclose(file);
    printf("%s: %zu bytes\n", path, len);
    LLVMFuzzerTestOneInput(data, len);
    return 0;
}

static int fuzz(double seconds, uint32_t random)
{
    static current aside;
    current *now = &aside;
    const char *path = getenv("FUZZ_INPUT");
    int fd = path != NULL ? open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600) : -1;
    if (fd >= 0 && ftruncate(fd, sizeof *now) == 0) {
        void *memory = mmap(NULL, sizeof *now, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (memory != MAP_FAILED)
            now = memory;
    }
    struct timespec start, end;
    uint64_t rounds = 0;
    size_t seeds = 0;
    static uint8_t seed[ROOM];
    while (fuzz_seed(seeds, seed, sizeof seed) > 0)
        seeds++;
    clock_gettime(CLOCK_MONOTONIC, &start);
    end = start;
    while ((double)(end.tv_sec - start.tv_sec) + (double)(end.tv_nsec - start.tv_nsec) / 1e9 <
           seconds) {
        /* A hundred inputs take a few milliseconds. */
        alarm(60);
        for (int i = 0; i < 100; i++, rounds++) {
            size_t len = fuzz_seed(rounds % seeds, now->data, ROOM);
            /* The first round over the inputs is of the inputs as they are. */
            for (uint64_t n = rounds < seeds ? 0 : 1 + rounds / seeds % 24; n > 0; n--)
                len = fuzz_mutate(now->data, len, ROOM, &random);
            now->len = len;
            /* Of exactly its size, so that a byte behind it is noticed. */
            uint8_t *exact = malloc(len > 0 ? len : 1);
            if (exact == NULL)
                return 1;
            memcpy(exact, now->data, len);
            LLVMFuzzerTestOneInput(exact, len);
            free(exact);
        }
        clock_gettime(CLOCK_MONOTONIC, &end);
    }
    printf("%" PRIu64 " inputs, each played in five ways: nothing broken\n", rounds);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "-s") == 0)
        return write_seeds(argv[2]);
    char *rest = argv[0];
    double seconds = argc > 1 ? strtod(argv[1], &rest) : 0;
    if (argc > 1 && *rest == '\0')
        return fuzz(seconds, argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 0) | 1 : 20261120);
    int result = argc < 2;
    for (int i = 1; i < argc; i++)
        result |= play(argv[i]);
    return result;
}
