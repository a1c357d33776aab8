/* Ranked mutex. The set of held ranks is a bit mask in thread-local storage (debug only). */
#include "base/lock.h"

#include "base/err.h"

#include <time.h>

#ifdef SP_DEBUG
static _Thread_local unsigned held;
#endif

void sp_lock_init(sp_lock *l, sp_lock_rank rank)
{
    pthread_mutex_init(&l->mutex, NULL);
    l->rank = rank;
}

void sp_lock_fini(sp_lock *l)
{
    pthread_mutex_destroy(&l->mutex);
}

void sp_lock_get(sp_lock *l)
{
#ifdef SP_DEBUG
    SP_ASSERT(held >> l->rank == 0);
    held |= 1u << l->rank;
#endif
    pthread_mutex_lock(&l->mutex);
}

void sp_lock_put(sp_lock *l)
{
#ifdef SP_DEBUG
    held &= ~(1u << l->rank); /* before: who waits for the lock may free it */
#endif
    pthread_mutex_unlock(&l->mutex);
}

void sp_lock_cond_init(pthread_cond_t *c)
{
    pthread_condattr_t a;
    pthread_condattr_init(&a);
    pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
    pthread_cond_init(c, &a);
    pthread_condattr_destroy(&a);
}

void sp_lock_wait(sp_lock *l, pthread_cond_t *c, unsigned long long timeout_ns)
{
    if (!timeout_ns) {
        pthread_cond_wait(c, &l->mutex);
        return;
    }
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    unsigned long long ns = (unsigned long long)t.tv_nsec + timeout_ns;
    t.tv_sec += (time_t)(ns / 1000000000u);
    t.tv_nsec = (long)(ns % 1000000000u);
    pthread_cond_timedwait(c, &l->mutex, &t);
}
