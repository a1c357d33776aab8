/* Thread pool for data-parallel work: every call runs one function over [0, n) in contiguous
 * pieces and returns when all are done. Workers spin briefly between calls, then sleep.
 *
 * Exact:   results of our kernels never depend on n_thread: pieces only split independent outputs.
 * Threads: sp_pool_run from one thread at a time (the step thread owns the pool). */
#ifndef SP_BASE_POOL_H
#define SP_BASE_POOL_H

#include "base/err.h"

#include <stddef.h>

typedef struct sp_pool sp_pool;
/* Runs over items [begin, end); i_thread in [0, n_thread) picks scratch memory. */
typedef void sp_pool_fn(void *arg, size_t begin, size_t end, size_t i_thread);

/* n_thread includes the caller; 0 = the cores this process may use. */
SP_MUST sp_err sp_pool_new(sp_pool **out, size_t n_thread, sp_diag *d);
void sp_pool_free(sp_pool *p);
size_t sp_pool_size(const sp_pool *p);
/* grain: work of no more items stays on the caller, and a thread gets a second piece only if each
 * holds as many. */
void sp_pool_run(sp_pool *p, sp_pool_fn *fn, void *arg, size_t n, size_t grain);

#endif
