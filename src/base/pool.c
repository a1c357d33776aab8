/* Thread pool. Invariants:
 * 1. `epoch` rises by one for each run; a worker executes each epoch exactly once.
 * 2. Pieces are taken from `next`, up to MOST a thread, so that an unequal core cannot hold up a
 * run; they are
 *    as many for each thread and differ by one item at most, so that equal cores end together.
 * 3. The caller returns only when `left` is 0; then no worker touches the run's arguments.
 * Guard: fn, arg, n, n_piece are written by the caller while left == 0 and read after `epoch`. */
#include "base/pool.h"

#include "base/host.h"
#include "base/mem.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* Spinning bridges the gap between two operations of one forward pass (a few microseconds);
 * about 50 us of it, then the worker sleeps so that an idle server uses no CPU. */
enum { SPIN_ROUNDS = 20000, CALLER_SPINS = 4000, MAX_THREAD = 256, MOST = 8, LINE = 64 };

/* What waiting workers read, what all write, and what ending ones write lie in lines of their
 * own. */
struct sp_pool {
    _Atomic uint32_t epoch;
    _Atomic bool stop;
    _Atomic uint32_t n_sleep;
    sp_pool_fn *fn;
    void *arg;
    size_t n, n_piece, n_thread;
    _Alignas(LINE) _Atomic size_t next;
    _Alignas(LINE) _Atomic size_t left;
    _Alignas(LINE) pthread_mutex_t mutex;
    pthread_cond_t wake;
    pthread_t *thread;
};

typedef struct worker_arg {
    sp_pool *pool;
    size_t i_thread;
} worker_arg;

static void pause_cpu(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static void work(sp_pool *p, size_t i_thread)
{
    for (;;) {
        size_t i = atomic_fetch_add(&p->next, 1);
        if (i >= p->n_piece)
            return;
        p->fn(p->arg, i * p->n / p->n_piece, (i + 1) * p->n / p->n_piece, i_thread);
    }
}

static void wait_epoch(sp_pool *p, uint32_t seen)
{
    for (int i = 0; i < SPIN_ROUNDS; i++) {
        if (atomic_load(&p->epoch) != seen || atomic_load(&p->stop))
            return;
        pause_cpu();
    }
    pthread_mutex_lock(&p->mutex);
    atomic_fetch_add(&p->n_sleep, 1);
    while (atomic_load(&p->epoch) == seen && !atomic_load(&p->stop))
        pthread_cond_wait(&p->wake, &p->mutex);
    atomic_fetch_sub(&p->n_sleep, 1);
    pthread_mutex_unlock(&p->mutex);
}

static void *worker_main(void *arg)
{
    worker_arg w = *(worker_arg *)arg;
    sp_mem_free(arg);
    for (uint32_t seen = 0;; seen++) {
        wait_epoch(w.pool, seen);
        if (atomic_load(&w.pool->stop))
            return NULL;
        work(w.pool, w.i_thread);
        atomic_fetch_sub(&w.pool->left, 1);
    }
}

static void stop_workers(sp_pool *p, size_t n_started)
{
    pthread_mutex_lock(&p->mutex);
    atomic_store(&p->stop, true);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->mutex);
    for (size_t i = 0; i < n_started; i++)
        pthread_join(p->thread[i], NULL);
}

sp_err sp_pool_new(sp_pool **out, size_t n_thread, sp_diag *d)
{
    if (n_thread == 0) {
        sp_host h;
        sp_host_read(&h, "");
        n_thread = h.n_thread < MAX_THREAD ? h.n_thread : MAX_THREAD;
    }
    if (n_thread > MAX_THREAD)
        return SP_FAIL(d, SP_INVAL, "threads: %zu is more than %d", n_thread, MAX_THREAD);
    sp_pool *p = sp_mem_align(sizeof *p);
    if (!p)
        return SP_FAIL(d, SP_NOMEM, "thread pool");
    p->n_thread = n_thread;
    p->thread = sp_mem_array(n_thread, sizeof *p->thread);
    pthread_mutex_init(&p->mutex, NULL);
    pthread_cond_init(&p->wake, NULL);
    size_t n_started = 0;
    for (; p->thread && n_started + 1 < n_thread; n_started++) {
        worker_arg *w = sp_mem_alloc(sizeof *w);
        if (!w)
            break;
        *w = (worker_arg){p, n_started + 1};
        if (pthread_create(&p->thread[n_started], NULL, worker_main, w) != 0) {
            sp_mem_free(w);
            break;
        }
    }
    if (!p->thread || n_started + 1 < n_thread) {
        stop_workers(p, n_started);
        sp_mem_free(p->thread);
        sp_mem_free(p);
        return SP_FAIL(d, SP_NOMEM, "cannot start %zu threads", n_thread);
    }
    *out = p;
    return SP_OK;
}

void sp_pool_free(sp_pool *p)
{
    if (!p)
        return;
    stop_workers(p, p->n_thread - 1);
    pthread_mutex_destroy(&p->mutex);
    pthread_cond_destroy(&p->wake);
    sp_mem_free(p->thread);
    sp_mem_free(p);
}

size_t sp_pool_size(const sp_pool *p)
{
    return p->n_thread;
}

void sp_pool_run(sp_pool *p, sp_pool_fn *fn, void *arg, size_t n, size_t grain)
{
    if (n <= grain || p->n_thread == 1) {
        fn(arg, 0, n, 0);
        return;
    }
    size_t each = n / (p->n_thread * grain);
    each = each < 1 ? 1 : each < MOST ? each : MOST;
    p->fn = fn;
    p->arg = arg;
    p->n = n;
    p->n_piece = p->n_thread * each < n ? p->n_thread * each : n;
    atomic_store(&p->next, 0);
    atomic_store(&p->left, p->n_thread - 1);
    atomic_fetch_add(&p->epoch, 1);
    if (atomic_load(&p->n_sleep)) {
        pthread_mutex_lock(&p->mutex);
        pthread_cond_broadcast(&p->wake);
        pthread_mutex_unlock(&p->mutex);
    }
    work(p, 0);
    for (int i = 0; atomic_load(&p->left); i++) {
        if (i < CALLER_SPINS)
            pause_cpu();
        else
            sched_yield(); /* a worker may wait for this very core */
    }
}
