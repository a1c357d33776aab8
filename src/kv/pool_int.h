/* What pool.c (pages, index, LRU, budget) and attach.c (prefixes, loads, saves) share. Invariants
 * (sp_kv_pool_check walks them):
 * 1. A page is in exactly one state: BLANK (no memory yet or content void; on the free list),
 * PINNED
 *    (ref > 0), or CACHED (ref == 0 and indexed; on the LRU list).
 * 2. An indexed page is full and immutable. Only a page with ref == 1 that is not indexed is
 * written.
 * 3. The index holds an identity at most once. A lookup compares identity, parent and all 32
 * tokens.
 * 4. n_blank + n_pinned + n_cached == n_cap.
 * 5. Lo parts are memory of their own. A BLANK page has none: they are on the free list. Memory of
 * pages
 *    (n_mem) and of lo parts (n_lo) together stays within the budget, but for one whole page.
 * 6. A page that is LOADING is pinned by its load, and indexed so that others wait for it.
 * 7. A sequence pins its pages from n_gone on; before it, its ids are NONE.
 * Transitions: take_page BLANK|CACHED -> PINNED; pin CACHED -> PINNED; unpin PINNED -> CACHED when
 * indexed, -> BLANK otherwise. */
#ifndef SP_KV_POOL_INT_H
#define SP_KV_POOL_INT_H

#include "base/mem.h"
#include "kv/pool.h"

#include <string.h>

#define NONE UINT32_MAX


typedef struct page {
    void *mem; /* device memory; kept once allocated */
    void *lo;  /* lo parts; NULL: none */
    uint32_t ref;
    bool indexed, loading, stored; /* stored: on disk when last heard of */
    uint32_t next_hash;            /* chain of a bucket */
    uint32_t prev, next;           /* LRU list (CACHED) or free list (BLANK, next only) */
    sp_sha256 id, parent;
    uint32_t tok[SP_PAGE_TOK];
    uint8_t tag[SP_KV_TAG], conv[SP_KV_TAG];
} page;

struct sp_kv_pool {
    sp_dev *dev;
    sp_kv_cfg cfg;
    size_t page_bytes, lo_bytes; /* of mem and of lo */
    bool whole;                  /* every page is meant to have lo parts */
    page *pages;
    size_t n_cap, n_whole, n_pinned, n_cached; /* n_whole: pages with all parts the budget holds */
    size_t n_mem, n_lo;
    void **spare_lo; /* [n_cap]: lo parts of no page */
    size_t n_spare_lo;
    uint32_t *bucket; /* [n_cap rounded to a power of two] */
    size_t n_bucket;
    uint32_t blank;          /* free list */
    uint32_t oldest, newest; /* LRU */
    uint32_t demote_at;      /* no page older than this can be demoted */
    void *zero;              /* a page of zeros, to clear reused ones */
    size_t n_saving;         /* pages given to the tier */
    size_t n_state_saving;   /* snapshots given to it */
    sp_kv_watch watch;       /* stored NULL: nobody */
    sp_kv_states *states;    /* NULL: the model has no recurrent layers */
    uint64_t n_hit_tok, n_miss_tok, n_evicted, n_unsaved;
};

/* pool.c */
uint32_t sp_kvp_index_find(const sp_kv_pool *p, const sp_sha256 *id, const sp_sha256 *parent,
                           const uint32_t *tok);
/* Page i is page number `at` of s. */
void sp_kvp_index_add(sp_kv_pool *p, uint32_t i, const sp_kv_key *key, const sp_kv_seq *s,
                      size_t at);
void sp_kvp_index_drop(sp_kv_pool *p, uint32_t i);
/* Out of the index; in use it lives on until its sequences end, unknown to others. */
void sp_kvp_drop_indexed(sp_kv_pool *p, uint32_t i);
void sp_kvp_pin(sp_kv_pool *p, uint32_t i);
void sp_kvp_unpin(sp_kv_pool *p, uint32_t i);
SP_MUST sp_err sp_kvp_take_lo(sp_kv_pool *p, void **out);
SP_MUST sp_err sp_kvp_take_page(sp_kv_pool *p, bool with_lo, uint32_t *out);
/* is page `number` of a sequence meant to have lo parts? */
bool sp_kvp_wants_lo(const sp_kv_pool *p, size_t number);
/* First page that a query at position n_tok or, after taking tokens back, in the same page still
 * sees. */
static inline size_t sp_kvp_first_seen(const sp_kv_pool *p, size_t n_tok)
{
    size_t at = n_tok / SP_PAGE_TOK * SP_PAGE_TOK + 1;
    return p->cfg.window && at > p->cfg.window ? (at - p->cfg.window) / SP_PAGE_TOK : 0;
}
/* Gives back pages that s sees no more; with a tier, those that need not be written first. */
void sp_kvp_leave_behind(sp_kv_seq *s, sp_kv_pool *p);
/* mark.c; nothing where there are no states. */
/* Room for the state behind the next step. */
SP_MUST sp_err sp_kvp_state_reserve(sp_kv_seq *s, sp_kv_pool *p);
/* s has come to the end of a page, whose identity is s->chain. share: others may start from
 * here. */
void sp_kvp_state_at_page_end(sp_kv_seq *s, sp_kv_pool *p, bool share);
/* A step of n tokens is committed: the state behind it is that of s. */
void sp_kvp_state_move(sp_kv_seq *s, sp_kv_pool *p, size_t n);
/* Goes back to the state behind n tokens, or to the one that is held: returns how many tokens it is
 * behind. */
size_t sp_kvp_state_back(sp_kv_seq *s, sp_kv_pool *p, size_t n);
/* s is at position s->n_tok, the end of a page, by a snapshot. */
void sp_kvp_state_attach(sp_kv_seq *s, sp_kv_pool *p);
void sp_kvp_state_fini(sp_kv_seq *s, sp_kv_pool *p);
/* keep.c: snapshots beyond RAM */
/* n_page, n_layer and hi_bytes of a state's record: a form of n bytes lies in blocks of equally
 * many bytes, of which the last may end with zeros. */
void sp_kvp_state_shape(sp_kv_rec *r, size_t n);
/* Is there one at the end of this chain of pages? The hit is pinned. */
bool sp_kvp_snap_stored(const sp_kv_pool *p, const sp_sha256 *chain, sp_kv_hit *hit);
/* Gives a snapshot to the tier, which holds the state until sp_kvp_snap_saved. */
void sp_kvp_snap_save(sp_kv_pool *p, const sp_kv_snap *of, sp_kv_state *state);
/* The tier is done with v, written or not. Takes v. */
void sp_kvp_snap_saved(sp_kv_pool *p, sp_kv_save *v);
/* Begins to load a snapshot into the state of s. Takes the hit's pin, if SP_OK. SP_NOMEM. */
SP_MUST sp_err sp_kvp_snap_fetch(sp_kv_seq *s, sp_kv_pool *p, const sp_kv_hit *hit);
/* Waits for it, if there is one. SP_CORRUPT, SP_TIMEOUT: s must start again. */
SP_MUST sp_err sp_kvp_snap_wait(sp_kv_seq *s, sp_kv_pool *p);
/* s does not want what is being loaded any more. */
void sp_kvp_snap_leave(sp_kv_seq *s);
/* A load has ended: true, and l is taken, if it was of a snapshot. */
bool sp_kvp_snap_loaded(sp_kv_pool *p, sp_kv_load *l);
SP_MUST sp_err sp_kvp_grow(sp_kv_seq *s, size_t n_page);
void sp_kvp_append(sp_kv_seq *s, const sp_kv_pool *p, uint32_t i); /* NONE: one that is gone */
/* What page `at` of s was computed with. */
typedef struct sp_kvp_lossy {
    float eps, keep;
} sp_kvp_lossy;
static inline sp_kvp_lossy sp_kvp_page_lossy(const sp_kv_seq *s, size_t at)
{
    return (at + 1) * SP_PAGE_TOK > s->eps_from ? (sp_kvp_lossy){s->eps, s->keep}
                                                : (sp_kvp_lossy){0, 0};
}
SP_MUST sp_err sp_kvp_next_chain(sp_sha256 *out, const sp_sha256 *parent, const uint32_t *tok,
                                 sp_kvp_lossy lossy);

#endif
