/* KV page pool. Invariants (sp_kv_pool_check walks them):
 * 1. A page is in exactly one state: BLANK (no memory yet or content void; on the free list), PINNED
 *    (ref > 0), or CACHED (ref == 0 and indexed; on the LRU list).
 * 2. An indexed page is full and immutable. Only a page with ref == 1 that is not indexed is written.
 * 3. The index holds an identity at most once. A lookup compares identity, parent and all 32 tokens.
 * 4. n_blank + n_pinned + n_cached == n_cap.
 * 5. Lo parts of quantised pages: every page has one, or in a demoted format the first page of each
 *    sequence. A BLANK page has none: it is on the free list of lo parts, of which n_lo exist.
 * Transitions: take_page BLANK|CACHED -> PINNED; pin CACHED -> PINNED; unpin PINNED -> CACHED when
 * indexed, -> BLANK otherwise. */
#include "kv/pool.h"

#include "base/mem.h"

#include <string.h>

#define NONE UINT32_MAX

enum { FIRST_SHARE = 8 }; /* demoted formats: one page in 8 may be a first one, with lo parts */

typedef struct page {
    void *mem; /* device memory; kept once allocated */
    void *lo;  /* lo parts; NULL: none */
    uint32_t ref;
    bool indexed;
    uint32_t next_hash;  /* chain of a bucket */
    uint32_t prev, next; /* LRU list (CACHED) or free list (BLANK, next only) */
    sp_sha256 id, parent;
    uint32_t tok[SP_PAGE_TOK];
} page;

struct sp_kv_pool {
    sp_dev *dev;
    sp_kv_cfg cfg;
    size_t page_bytes, lo_bytes; /* of mem and of lo */
    page *pages;
    size_t n_cap, n_pinned, n_cached;
    void **spare_lo; /* [cap_lo]: lo parts of no page */
    size_t n_spare_lo, n_lo, cap_lo;
    uint32_t *bucket; /* [n_cap rounded to a power of two] */
    size_t n_bucket;
    uint32_t blank;            /* free list */
    uint32_t oldest, newest;   /* LRU */
    void *zero;                /* a page of zeros, to clear reused ones */
    uint64_t n_hit_tok, n_miss_tok, n_evicted;
};

sp_err sp_kv_pool_new(sp_kv_pool **out, sp_dev *dev, const sp_kv_cfg *cfg, sp_diag *d)
{
    sp_kv_pool *p = sp_mem_alloc(sizeof *p);
    if (!p)
        return SP_FAIL(d, SP_NOMEM, "kv pool");
    *p = (sp_kv_pool){.dev = dev, .cfg = *cfg, .lo_bytes = sp_kv_lo_bytes(&cfg->shape),
                      .blank = NONE, .oldest = NONE, .newest = NONE, .n_bucket = 1};
    p->page_bytes = sp_kv_page_bytes(&cfg->shape) - p->lo_bytes;
    bool all_lo = p->lo_bytes && !cfg->shape.format->is_demoted;
    p->n_cap = cfg->cap_bytes / (p->page_bytes + (all_lo ? p->lo_bytes : p->lo_bytes / FIRST_SHARE));
    if (p->n_cap == 0)
        p->n_cap = 1;
    if (p->n_cap >= NONE)
        p->n_cap = NONE - 1;
    p->cap_lo = all_lo ? p->n_cap : p->lo_bytes ? p->n_cap / FIRST_SHARE + 1 : 0;
    while (p->n_bucket < p->n_cap)
        p->n_bucket *= 2;
    p->pages = sp_mem_array(p->n_cap, sizeof *p->pages);
    p->bucket = sp_mem_array(p->n_bucket, sizeof *p->bucket);
    p->spare_lo = sp_mem_array(p->cap_lo, sizeof *p->spare_lo);
    sp_err err = p->pages && p->bucket && p->spare_lo ? dev->ops->mem_new(dev, &p->zero, p->page_bytes) : SP_NOMEM;
    if (err != SP_OK) {
        p->n_cap = p->pages ? p->n_cap : 0;
        sp_kv_pool_free(p);
        return SP_FAIL(d, err, "kv pool of %zu pages", p->n_cap);
    }
    for (size_t i = 0; i < p->n_bucket; i++)
        p->bucket[i] = NONE;
    for (size_t i = p->n_cap; i-- > 0;) {
        p->pages[i].next = p->blank;
        p->blank = (uint32_t)i;
    }
    *out = p;
    return SP_OK;
}

void sp_kv_pool_free(sp_kv_pool *p)
{
    if (!p)
        return;
    for (size_t i = 0; i < p->n_cap; i++) {
        p->dev->ops->mem_free(p->dev, p->pages[i].mem);
        p->dev->ops->mem_free(p->dev, p->pages[i].lo);
    }
    for (size_t i = 0; i < p->n_spare_lo; i++)
        p->dev->ops->mem_free(p->dev, p->spare_lo[i]);
    sp_mem_free(p->spare_lo);
    p->dev->ops->mem_free(p->dev, p->zero);
    sp_mem_free(p->pages);
    sp_mem_free(p->bucket);
    sp_mem_free(p);
}

void sp_kv_pool_stat(const sp_kv_pool *p, sp_kv_stat *out)
{
    *out = (sp_kv_stat){p->page_bytes + (p->cap_lo == p->n_cap ? p->lo_bytes : 0), p->n_cap,     p->n_pinned, p->n_cached,
                        p->n_hit_tok,  p->n_miss_tok, p->n_evicted};
}

size_t sp_kv_pool_cap(const sp_kv_pool *p)
{
    return p->n_cap;
}

const sp_kv_shape *sp_kv_pool_shape(const sp_kv_pool *p)
{
    return &p->cfg.shape;
}

static uint32_t *bucket_of(const sp_kv_pool *p, const sp_sha256 *id)
{
    uint64_t h;
    memcpy(&h, id->b, sizeof h);
    return &p->bucket[h & (p->n_bucket - 1)];
}

static void index_drop(sp_kv_pool *p, uint32_t i)
{
    uint32_t *at = bucket_of(p, &p->pages[i].id);
    while (*at != i)
        at = &p->pages[*at].next_hash;
    *at = p->pages[i].next_hash;
    p->pages[i].indexed = false;
}

static uint32_t index_find(const sp_kv_pool *p, const sp_sha256 *id, const sp_sha256 *parent,
                           const uint32_t *tok)
{
    for (uint32_t i = *bucket_of(p, id); i != NONE; i = p->pages[i].next_hash) {
        const page *g = &p->pages[i];
        if (memcmp(g->id.b, id->b, sizeof id->b) == 0 && memcmp(g->parent.b, parent->b, sizeof parent->b) == 0 &&
            memcmp(g->tok, tok, sizeof g->tok) == 0)
            return i;
    }
    return NONE;
}

static void lru_drop(sp_kv_pool *p, uint32_t i)
{
    page *g = &p->pages[i];
    *(g->prev == NONE ? &p->oldest : &p->pages[g->prev].next) = g->next;
    *(g->next == NONE ? &p->newest : &p->pages[g->next].prev) = g->prev;
    p->n_cached--;
}

static void lru_add(sp_kv_pool *p, uint32_t i)
{
    page *g = &p->pages[i];
    g->prev = p->newest;
    g->next = NONE;
    *(p->newest == NONE ? &p->oldest : &p->pages[p->newest].next) = i;
    p->newest = i;
    p->n_cached++;
}

static void make_blank(sp_kv_pool *p, uint32_t i)
{
    page *g = &p->pages[i];
    if (g->lo)
        p->spare_lo[p->n_spare_lo++] = g->lo;
    g->lo = NULL;
    g->next = p->blank;
    p->blank = i;
}

static void pin(sp_kv_pool *p, uint32_t i)
{
    if (p->pages[i].ref++ == 0) {
        lru_drop(p, i);
        p->n_pinned++;
    }
}

static void unpin(sp_kv_pool *p, uint32_t i)
{
    page *g = &p->pages[i];
    SP_ASSERT(g->ref > 0);
    if (--g->ref > 0)
        return;
    p->n_pinned--;
    if (g->indexed)
        lru_add(p, i);
    else
        make_blank(p, i);
}

/* Turns the cached page unused for longest into a blank one. */
static sp_err evict(sp_kv_pool *p)
{
    uint32_t i = p->oldest;
    if (i == NONE)
        return SP_AGAIN;
    lru_drop(p, i);
    index_drop(p, i);
    p->n_evicted++;
    make_blank(p, i);
    return SP_OK;
}

static sp_err take_lo(sp_kv_pool *p, void **out)
{
    while (p->n_spare_lo == 0 && p->n_lo == p->cap_lo)
        SP_TRY(evict(p));
    if (p->n_spare_lo == 0) {
        SP_TRY(p->dev->ops->mem_raw(p->dev, out, p->lo_bytes));
        p->n_lo++;
        return SP_OK;
    }
    *out = p->spare_lo[--p->n_spare_lo];
    return SP_OK;
}

/* A page with one pin: a blank one, else the cached one unused for longest. Plain pages are zeroed
 * because attention multiplies unseen slots by 0, and 0 * (another sequence's infinity) is NaN;
 * quantised ones are read only once they are full. */
static sp_err take_page(sp_kv_pool *p, bool is_first, uint32_t *out)
{
    if (p->blank == NONE)
        SP_TRY(evict(p));
    void *lo = NULL;
    if (p->lo_bytes && (is_first || !p->cfg.shape.format->is_demoted))
        SP_TRY(take_lo(p, &lo));
    uint32_t i = p->blank;
    page *g = &p->pages[i];
    sp_err err = SP_OK;
    if (!g->mem)
        err = p->dev->ops->mem_raw(p->dev, &g->mem, p->page_bytes);
    if (err == SP_OK && !p->lo_bytes)
        err = p->dev->ops->copy(p->dev, g->mem, p->zero, p->page_bytes);
    if (err != SP_OK) {
        if (lo)
            p->spare_lo[p->n_spare_lo++] = lo;
        return err;
    }
    p->blank = g->next;
    g->lo = lo;
    g->ref = 1;
    p->n_pinned++;
    *out = i;
    return SP_OK;
}

sp_err sp_kv_seq_init(sp_kv_seq *s, const sp_kv_pool *p, const char *tenant)
{
    *s = (sp_kv_seq){0};
    const sp_sha256_part part[] = {
        {"sparing kv 1", 12},
        {p->cfg.model_id.b, sizeof p->cfg.model_id.b},
        {p->cfg.shape.format->name, strlen(p->cfg.shape.format->name) + 1},
        {tenant, strlen(tenant)}};
    return sp_sha256_of(&s->chain, part, 4);
}

void sp_kv_seq_fini(sp_kv_seq *s, sp_kv_pool *p)
{
    /* Last page first: a prefix is worth more than what follows it, so it is evicted later. */
    for (size_t i = s->n_page; i-- > 0;)
        unpin(p, s->id[i]);
    p->dev->ops->mem_free(p->dev, s->open);
    sp_mem_free(s->id);
    sp_mem_free(s->page);
    sp_mem_free(s->lo);
    *s = (sp_kv_seq){0};
}

static sp_err grow(sp_kv_seq *s, size_t n_page)
{
    if (n_page <= s->cap_page)
        return SP_OK;
    size_t cap = n_page + n_page / 2 + 8;
    uint32_t *id = sp_mem_grow(s->id, cap * sizeof *id);
    if (id)
        s->id = id;
    void **mem = sp_mem_grow(s->page, cap * sizeof *mem), **lo = sp_mem_grow(s->lo, cap * sizeof *lo);
    if (mem)
        s->page = mem;
    if (lo)
        s->lo = lo;
    if (!id || !mem || !lo)
        return SP_NOMEM;
    s->cap_page = cap;
    return SP_OK;
}

static void append(sp_kv_seq *s, const sp_kv_pool *p, uint32_t i)
{
    s->id[s->n_page] = i;
    s->lo[s->n_page] = p->pages[i].lo;
    s->page[s->n_page++] = p->pages[i].mem;
}

static sp_err next_chain(sp_sha256 *out, const sp_sha256 *parent, const uint32_t *tok)
{
    const sp_sha256_part part[] = {{parent->b, sizeof parent->b}, {tok, SP_PAGE_TOK * sizeof *tok}};
    return sp_sha256_of(out, part, 2);
}

sp_err sp_kv_seq_attach(sp_kv_seq *s, sp_kv_pool *p, const uint32_t *tok, size_t n, size_t *n_found)
{
    SP_ASSERT(s->n_tok == 0);
    size_t n_full = n ? (n - 1) / SP_PAGE_TOK : 0;
    SP_TRY(grow(s, n_full));
    for (size_t i = 0; p->cfg.reuse && i < n_full; i++) {
        sp_sha256 id;
        SP_TRY(next_chain(&id, &s->chain, tok + i * SP_PAGE_TOK));
        uint32_t at = index_find(p, &id, &s->chain, tok + i * SP_PAGE_TOK);
        if (at == NONE)
            break;
        pin(p, at);
        append(s, p, at);
        s->chain = id;
        s->n_tok += SP_PAGE_TOK;
    }
    p->n_hit_tok += s->n_tok;
    p->n_miss_tok += n - s->n_tok;
    *n_found = s->n_tok;
    return SP_OK;
}

/* The page being filled may be shared with a fork: then this sequence gets its own copy. */
static sp_err own_tail(sp_kv_seq *s, sp_kv_pool *p)
{
    if (s->n_tok % SP_PAGE_TOK == 0)
        return SP_OK;
    size_t at = s->n_tok / SP_PAGE_TOK;
    if (p->pages[s->id[at]].ref == 1)
        return SP_OK;
    uint32_t i;
    SP_TRY(take_page(p, at == 0, &i));
    sp_err err = SP_OK;
    if (!p->lo_bytes) /* of a quantised page nothing is written before it is full */
        err = p->dev->ops->copy(p->dev, p->pages[i].mem, s->page[at], p->page_bytes);
    if (err != SP_OK) {
        unpin(p, i);
        return err;
    }
    unpin(p, s->id[at]);
    s->id[at] = i;
    s->page[at] = p->pages[i].mem;
    s->lo[at] = p->pages[i].lo;
    return SP_OK;
}

sp_err sp_kv_seq_reserve(sp_kv_seq *s, sp_kv_pool *p, size_t n)
{
    size_t need = (s->n_tok + n + SP_PAGE_TOK - 1) / SP_PAGE_TOK;
    SP_TRY(grow(s, need));
    SP_TRY(own_tail(s, p));
    if (!s->open && sp_kv_open_bytes(&p->cfg.shape))
        SP_TRY(p->dev->ops->mem_new(p->dev, &s->open, sp_kv_open_bytes(&p->cfg.shape)));
    while (s->n_page < need) {
        uint32_t i;
        SP_TRY(take_page(p, s->n_page == 0, &i)); /* pages taken so far stay with s: the retry continues there */
        append(s, p, i);
    }
    return SP_OK;
}

static sp_err publish(sp_kv_seq *s, sp_kv_pool *p, uint32_t i)
{
    sp_sha256 id;
    SP_TRY(next_chain(&id, &s->chain, s->tail));
    if (p->cfg.reuse && index_find(p, &id, &s->chain, s->tail) == NONE) {
        page *g = &p->pages[i];
        g->id = id;
        g->parent = s->chain;
        memcpy(g->tok, s->tail, sizeof g->tok);
        g->next_hash = *bucket_of(p, &id);
        *bucket_of(p, &id) = i;
        g->indexed = true;
    }
    s->chain = id;
    return SP_OK;
}

sp_err sp_kv_seq_commit(sp_kv_seq *s, sp_kv_pool *p, const uint32_t *tok, size_t n)
{
    SP_ASSERT(s->n_tok + n <= s->n_page * SP_PAGE_TOK);
    for (size_t i = 0; i < n; i++) {
        s->tail[s->n_tok++ % SP_PAGE_TOK] = tok[i];
        if (s->n_tok % SP_PAGE_TOK == 0)
            SP_TRY(publish(s, p, s->id[s->n_tok / SP_PAGE_TOK - 1]));
    }
    return SP_OK;
}

sp_err sp_kv_seq_fork(sp_kv_seq *out, const sp_kv_seq *s, sp_kv_pool *p)
{
    sp_kv_seq f = *s;
    f.id = NULL;
    f.page = f.lo = NULL;
    f.open = NULL;
    f.n_page = f.cap_page = 0;
    size_t n_used = (s->n_tok + SP_PAGE_TOK - 1) / SP_PAGE_TOK, n_open = sp_kv_open_bytes(&p->cfg.shape);
    sp_err err = grow(&f, n_used);
    if (err == SP_OK && s->open && s->n_tok % SP_PAGE_TOK) {
        err = p->dev->ops->mem_new(p->dev, &f.open, n_open);
        if (err == SP_OK)
            err = p->dev->ops->copy(p->dev, f.open, s->open, n_open);
    }
    if (err != SP_OK) {
        p->dev->ops->mem_free(p->dev, f.open);
        sp_mem_free(f.id);
        sp_mem_free(f.page);
        sp_mem_free(f.lo);
        return err;
    }
    for (size_t i = 0; i < n_used; i++) {
        pin(p, s->id[i]);
        append(&f, p, s->id[i]);
    }
    *out = f;
    return SP_OK;
}

sp_err sp_kv_pool_check(const sp_kv_pool *p, sp_diag *d)
{
    size_t n_blank = 0, n_cached = 0, n_pinned = 0, n_indexed = 0, n_chained = 0, n_lo = p->n_spare_lo;
    for (uint32_t i = p->blank; i != NONE; i = p->pages[i].next, n_blank++)
        if (p->pages[i].ref || p->pages[i].indexed || p->pages[i].lo || n_blank > p->n_cap)
            return SP_FAIL(d, SP_CORRUPT, "blank page %u: ref %u indexed %d", i, p->pages[i].ref,
                           p->pages[i].indexed);
    for (uint32_t i = p->oldest; i != NONE; i = p->pages[i].next, n_cached++)
        if (p->pages[i].ref || !p->pages[i].indexed || n_cached > p->n_cap)
            return SP_FAIL(d, SP_CORRUPT, "cached page %u: ref %u indexed %d", i, p->pages[i].ref,
                           p->pages[i].indexed);
    for (size_t i = 0; i < p->n_cap; i++) {
        n_pinned += p->pages[i].ref > 0;
        n_indexed += p->pages[i].indexed;
        n_lo += p->pages[i].lo != NULL;
    }
    for (size_t b = 0; b < p->n_bucket; b++)
        for (uint32_t i = p->bucket[b]; i != NONE; i = p->pages[i].next_hash)
            n_chained++;
    if (n_blank + n_cached + n_pinned != p->n_cap || n_cached != p->n_cached ||
        n_pinned != p->n_pinned || n_chained != n_indexed)
        return SP_FAIL(d, SP_CORRUPT, "pages: blank %zu cached %zu/%zu pinned %zu/%zu of %zu; indexed %zu/%zu",
                       n_blank, n_cached, p->n_cached, n_pinned, p->n_pinned, p->n_cap, n_chained, n_indexed);
    if (n_lo != p->n_lo || p->n_lo > p->cap_lo)
        return SP_FAIL(d, SP_CORRUPT, "lo parts: %zu found, %zu made, %zu allowed", n_lo, p->n_lo, p->cap_lo);
    return SP_OK;
}
