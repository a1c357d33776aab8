/* Monotonic time and a thread's processor time in nanoseconds, and wall time in seconds since
 * 1970. */
#ifndef SP_BASE_CLOCK_H
#define SP_BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline uint64_t sp_clock_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}
static inline double sp_clock_ms(uint64_t since_ns)
{
    return (double)(sp_clock_ns() - since_ns) * 1e-6;
}
static inline uint64_t sp_clock_cpu_ns(void) /* of the calling thread */
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}
static inline double sp_clock_wall_ns(void) /* to about 200 ns */
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}
static inline int64_t sp_clock_wall(void)
{
    return (int64_t)time(NULL);
}

#endif
