/* What certified attention of every device has in common: pages that are never left out, and the
 * counters of a receipt (docs/ATTENTION.md). */
#ifndef SP_DEV_CERT_H
#define SP_DEV_CERT_H

#include "dev/dev.h"

#include <math.h>

enum { SP_CERT_MIN_PAGES = 8 /* fewer are attended densely */ };

/* Is page i always attended? The first one: sinks. */
static inline bool sp_cert_is_always(const sp_dev_span *s, size_t i)
{
    for (size_t k = 0; k < s->n_dense; k++)
        if (s->dense[k].from < (i + 1) * SP_PAGE_TOK && s->dense[k].to > i * SP_PAGE_TOK)
            return true;
    return i == 0;
}

/* Those of pages [from, to), 32 or fewer, a bit each. */
static inline uint32_t sp_cert_always(const sp_dev_span *s, size_t from, size_t to)
{
    uint32_t bits = 0;
    for (size_t i = from; i < to; i++)
        bits |= (uint32_t)sp_cert_is_always(s, i) << (i - from);
    return bits;
}

/* One KV head of one query token: n_page pages of heads of d elements were scanned, n_kept of
 * their keys attended, in n_pair pairs of neighbours. */
typedef struct sp_cert_call {
    size_t n_page, d, n_kept, n_pair;
    bool is_dense; /* they were attended densely after all */
    float loss;    /* certified, the largest of the queries */
} sp_cert_call;

/* Cache lines that rows of n_bytes take, of n keys in n_pair pairs; at most. */
static inline size_t sp_cert_lines(size_t n, size_t n_pair, size_t n_bytes)
{
    return n_bytes <= 32 ? n_pair : n * ((n_bytes + 63) / 64);
}

static inline void sp_cert_add(sp_dev_cert *c, const sp_cert_call *a)
{
    size_t d = a->d, all = a->n_page * (sp_planes_hi_bytes(d) + sp_planes_lo_bytes(d));
    size_t rest = (sp_planes_hi_used(d) - 32 * d + 63) / 64 * 64;
    size_t rows =
        64 * (sp_cert_lines(a->n_kept, a->n_pair, d) + sp_cert_lines(a->n_kept, a->n_pair, d / 2));
    c->n_call++;
    c->n_dense += a->is_dense;
    c->n_seen += a->n_page * SP_PAGE_TOK;
    c->n_kept += a->is_dense ? a->n_page * SP_PAGE_TOK : a->n_kept;
    c->bytes += a->n_page * (16 * d + rest) + (a->is_dense ? all : rows);
    c->dense_bytes += all;
    c->sum_loss += (double)a->loss;
    c->max_loss = fmaxf(c->max_loss, a->loss);
}

#endif
