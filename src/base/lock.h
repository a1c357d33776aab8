/* Ranked mutex: a thread may only take a lock of a higher rank than all it holds, so that no cycle
 * can form. Debug builds check it. No callback is ever made while a lock is held.
 * Threads: any. */
#ifndef SP_BASE_LOCK_H
#define SP_BASE_LOCK_H

#include <pthread.h>

typedef enum sp_lock_rank { /* outermost first */
    SP_RANK_MODELS = 1,
    SP_RANK_API,
    SP_RANK_SCHED,
    SP_RANK_JOB,
    SP_RANK_FAIR,
    SP_RANK_TIER,
    SP_RANK_KV_LOG,
    SP_RANK_KV,
    SP_RANK_KV_IO,
    SP_RANK_NET,
    SP_RANK_METRIC,
    SP_RANK_LOG
} sp_lock_rank;

typedef struct sp_lock {
    pthread_mutex_t mutex;
    sp_lock_rank rank;
} sp_lock;

void sp_lock_init(sp_lock *l, sp_lock_rank rank);
void sp_lock_fini(sp_lock *l);
void sp_lock_get(sp_lock *l);
void sp_lock_put(sp_lock *l);
/* Waits on c, which uses l; timeout_ns 0 = forever. */
void sp_lock_wait(sp_lock *l, pthread_cond_t *c, unsigned long long timeout_ns);
void sp_lock_cond_init(pthread_cond_t *c); /* on the monotonic clock */

#endif
