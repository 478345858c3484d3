/*
 * clock.h - conditions that are waited for by a clock that nobody sets.
 *
 * Knows threads and time, and nothing of what is waited for.
 */
#ifndef MLT_CLOCK_H
#define MLT_CLOCK_H

#include <pthread.h>
#include <stdint.h>

/* Makes a condition for mlt_clock_wait(). */
void mlt_clock_init(pthread_cond_t *condition);

/* Waits for the condition, `microseconds` at most; as with any condition, perhaps for nothing. The
 * mutex is held by the caller. */
void mlt_clock_wait(pthread_cond_t *condition, pthread_mutex_t *mutex, int64_t microseconds);

#endif
