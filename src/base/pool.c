/* Thread pool. Invariants:
 * 1. A ticket names a run, how many pieces it has, and the next of them. Taking a piece and
 *    learning which run it belongs to is one operation, so that a thread which comes late, because
 *    the system ran another program, takes a piece of the present run or none.
 * 2. Pieces are as many for each thread, up to MOST, and differ by one item at most: equal cores
 *    end together, and an unequal one cannot hold up a run.
 * 3. The caller returns when `left`, pieces that are not done, is 0. It waits for threads that have
 *    a piece, and not for those that took none.
 * Guard: fn, arg, n are written by the caller while left == 0, before the ticket, and read by who
 * has a piece of it. */
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

/* run << 32 | pieces << 16 | next; each thread passes the last piece once at most. */
typedef uint64_t ticket;

static uint32_t run_of(ticket t)
{
    return (uint32_t)(t >> 32);
}

static size_t pieces_of(ticket t)
{
    return t >> 16 & 0xffff;
}

static size_t next_of(ticket t)
{
    return t & 0xffff;
}

/* What waiting workers read, what all write, and what ending ones write lie in lines of their
 * own. */
struct sp_pool {
    _Atomic bool stop;
    _Atomic uint32_t n_sleep;
    sp_pool_fn *fn;
    void *arg;
    size_t n, n_thread;
    _Alignas(LINE) _Atomic ticket ticket;
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

/* Takes pieces until there is none. Returns the run that has none left. */
static uint32_t work(sp_pool *p, size_t i_thread)
{
    for (;;) {
        const ticket t = atomic_fetch_add(&p->ticket, 1);
        const size_t i = next_of(t), n_piece = pieces_of(t);
        if (i >= n_piece)
            return run_of(t);
        p->fn(p->arg, i * p->n / n_piece, (i + 1) * p->n / n_piece, i_thread);
        atomic_fetch_sub(&p->left, 1);
    }
}

static bool is_over(sp_pool *p, uint32_t seen)
{
    return run_of(atomic_load(&p->ticket)) != seen || atomic_load(&p->stop);
}

/* Until there is another run than `seen`, or the pool ends. */
static void wait_run(sp_pool *p, uint32_t seen)
{
    for (int i = 0; i < SPIN_ROUNDS; i++) {
        if (is_over(p, seen))
            return;
        pause_cpu();
    }
    pthread_mutex_lock(&p->mutex);
    atomic_fetch_add(&p->n_sleep, 1);
    while (!is_over(p, seen))
        pthread_cond_wait(&p->wake, &p->mutex);
    atomic_fetch_sub(&p->n_sleep, 1);
    pthread_mutex_unlock(&p->mutex);
}

static void *worker_main(void *arg)
{
    worker_arg w = *(worker_arg *)arg;
    sp_mem_free(arg);
    for (uint32_t seen = 0;;) {
        wait_run(w.pool, seen);
        if (atomic_load(&w.pool->stop))
            return NULL;
        seen = work(w.pool, w.i_thread);
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
    size_t n_piece = p->n_thread * each < n ? p->n_thread * each : n;
    atomic_store(&p->left, n_piece);
    atomic_store(&p->ticket, (ticket)(run_of(atomic_load(&p->ticket)) + 1) << 32 | n_piece << 16);
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
