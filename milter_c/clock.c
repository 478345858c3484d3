/*
 * clock.c - conditions that are waited for by a clock that nobody sets.
 */
#include "clock.h"

#include <time.h>

/* macOS has no pthread_condattr_setclock(). */
#ifdef __APPLE__
static const clockid_t used = CLOCK_REALTIME;
#else
static const clockid_t used = CLOCK_MONOTONIC;
#endif

void mlt_clock_init(pthread_cond_t *condition)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
#ifndef __APPLE__
    pthread_condattr_setclock(&attributes, used);
#endif
    pthread_cond_init(condition, &attributes);
    pthread_condattr_destroy(&attributes);
}

void mlt_clock_wait(pthread_cond_t *condition, pthread_mutex_t *mutex, int64_t microseconds)
{
    struct timespec until;
    clock_gettime(used, &until);
    until.tv_sec += (time_t)(microseconds / 1000000);
    until.tv_nsec += (long)(microseconds % 1000000) * 1000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
    }
    pthread_cond_timedwait(condition, mutex, &until);
}
