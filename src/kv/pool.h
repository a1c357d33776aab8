/* Pages, the sequences made of them, and the prefix index that lets a new sequence start from pages
 * another one has already computed. RAM only.
 *
 * Owner:   the pool owns every page; a sequence pins the pages it uses.
 * Threads: owner: step thread. src/kv/README.md has the pin rules.
 * Errors:  SP_AGAIN when every page is pinned; SP_NOMEM when the system has no memory. */
#ifndef SP_KV_POOL_H
#define SP_KV_POOL_H

#include "base/sha256.h"
#include "kv/page.h"

typedef struct sp_kv_pool sp_kv_pool;

typedef struct sp_kv_cfg {
    sp_kv_shape shape;
    size_t cap_bytes;     /* pages' budget; at least one page is always allowed */
    sp_sha256 model_id;   /* weights, page format, RoPE and tokenizer: whatever changes K or V */
    bool reuse;           /* false: no prefix index */
} sp_kv_cfg;

typedef struct sp_kv_stat {
    size_t page_bytes, n_cap; /* bytes of a page without its lo parts where only first pages have them */
    size_t n_pinned;          /* in use by sequences */
    size_t n_cached;          /* kept for reuse, free to evict */
    uint64_t n_hit_tok, n_miss_tok, n_evicted; /* since start; hit + miss = tokens looked up */
} sp_kv_stat;

/* One sequence. Its first n_tok positions are computed; page[i] holds [32 i, 32 i + 32). */
typedef struct sp_kv_seq {
    uint32_t *id;     /* page numbers */
    void **page, **lo; /* their device addresses; lo NULL where a page has no lo parts */
    void *open;       /* device memory of the open page of quantised formats, else NULL */
    size_t n_page, cap_page;
    size_t n_tok;
    sp_sha256 chain;                 /* identity of all full pages so far */
    uint32_t tail[SP_PAGE_TOK];      /* tokens of the page being filled */
} sp_kv_seq;

SP_MUST sp_err sp_kv_pool_new(sp_kv_pool **out, sp_dev *dev, const sp_kv_cfg *cfg, sp_diag *d);
void sp_kv_pool_free(sp_kv_pool *p); /* every sequence must be gone */
void sp_kv_pool_stat(const sp_kv_pool *p, sp_kv_stat *out);
size_t sp_kv_pool_cap(const sp_kv_pool *p); /* pages; immutable, so any thread may ask */
const sp_kv_shape *sp_kv_pool_shape(const sp_kv_pool *p);

/* tenant names whose pages may be shared: it comes from authentication, never from a request. */
SP_MUST sp_err sp_kv_seq_init(sp_kv_seq *s, const sp_kv_pool *p, const char *tenant);
void sp_kv_seq_fini(sp_kv_seq *s, sp_kv_pool *p);
/* Attaches the longest known prefix of tok [n], whole pages only and never all of it, so that at
 * least one token is left to compute. s must be empty. *n_found: tokens attached. */
SP_MUST sp_err sp_kv_seq_attach(sp_kv_seq *s, sp_kv_pool *p, const uint32_t *tok, size_t n,
                                size_t *n_found);
/* Makes room to write positions [n_tok, n_tok + n); a shared tail page is copied first. */
SP_MUST sp_err sp_kv_seq_reserve(sp_kv_seq *s, sp_kv_pool *p, size_t n);
/* Says that tok [n] were computed at the end of s. Pages that became full enter the index. */
SP_MUST sp_err sp_kv_seq_commit(sp_kv_seq *s, sp_kv_pool *p, const uint32_t *tok, size_t n);
/* A second sequence over the same pages (n > 1 answers). */
SP_MUST sp_err sp_kv_seq_fork(sp_kv_seq *out, const sp_kv_seq *s, sp_kv_pool *p);
/* Walks every page and list; false after printing to d what is inconsistent. For tests. */
SP_MUST sp_err sp_kv_pool_check(const sp_kv_pool *p, sp_diag *d);

#endif
