#include "kv/pool_int.h"

static size_t at_least_1(size_t n)
{
    return n == 0 ? 1 : n >= NONE ? NONE - 1 : n;
}

sp_err sp_kv_pool_new(sp_kv_pool **out, sp_dev *dev, const sp_kv_cfg *cfg, sp_diag *d)
{
    sp_kv_pool *p = sp_mem_alloc(sizeof *p);
    if (!p)
        return SP_FAIL(d, SP_NOMEM, "kv pool");
    *p = (sp_kv_pool){.dev = dev,
                      .cfg = *cfg,
                      .lo_bytes = sp_kv_lo_bytes(&cfg->shape),
                      .blank = NONE,
                      .oldest = NONE,
                      .newest = NONE,
                      .demote_at = NONE,
                      .n_bucket = 1};
    p->page_bytes = sp_kv_page_bytes(&cfg->shape) - p->lo_bytes;
    p->whole = p->lo_bytes && !cfg->shape.format->is_demoted;
    p->n_whole =
        at_least_1(p->whole                       ? cfg->cap_bytes / (p->page_bytes + p->lo_bytes)
                   : cfg->cap_bytes > p->lo_bytes ? (cfg->cap_bytes - p->lo_bytes) / p->page_bytes
                                                  : 0);
    p->n_cap = p->whole && !cfg->tier
                   ? p->n_whole
                   : at_least_1(cfg->cap_bytes / p->page_bytes); /* demotion makes room for more */
    while (p->n_bucket < p->n_cap)
        p->n_bucket *= 2;
    p->pages = sp_mem_array(p->n_cap, sizeof *p->pages);
    p->bucket = sp_mem_array(p->n_bucket, sizeof *p->bucket);
    p->spare_lo = sp_mem_array(p->n_cap, sizeof *p->spare_lo);
    SP_ASSERT(!cfg->state_bytes || !cfg->window);
    sp_err err = p->pages && p->bucket && p->spare_lo
                     ? dev->ops->mem_new(dev, &p->zero, p->page_bytes)
                     : SP_NOMEM;
    if (err == SP_OK && cfg->state_bytes)
        err = sp_kv_states_new(&p->states, dev,
                               &(sp_kv_states_cfg){cfg->state_bytes, cfg->kept_bytes,
                                                   cfg->reuse ? cfg->snap_bytes : 0});
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
    sp_kv_states_free(p->states);
    p->dev->ops->mem_free(p->dev, p->zero);
    sp_mem_free(p->pages);
    sp_mem_free(p->bucket);
    sp_mem_free(p);
}

void sp_kv_pool_stat(const sp_kv_pool *p, sp_kv_stat *out)
{
    size_t n_lo = p->n_lo - p->n_spare_lo;
    *out = (sp_kv_stat){.page_bytes = p->page_bytes + (p->whole && !p->cfg.tier ? p->lo_bytes : 0),
                        .n_cap = p->n_cap,
                        .n_bytes = (p->n_pinned + p->n_cached) * p->page_bytes + n_lo * p->lo_bytes,
                        .n_demoted = p->whole ? p->n_pinned + p->n_cached - n_lo : 0,
                        .n_pinned = p->n_pinned,
                        .n_cached = p->n_cached,
                        .n_hit_tok = p->n_hit_tok,
                        .n_miss_tok = p->n_miss_tok,
                        .n_evicted = p->n_evicted,
                        .n_unsaved = p->n_unsaved};
}

void sp_kv_pool_watch(sp_kv_pool *p, const sp_kv_watch *w)
{
    p->watch = *w;
}

size_t sp_kv_pool_cap(const sp_kv_pool *p)
{
    return p->n_whole;
}

size_t sp_kv_pool_positions(const sp_kv_pool *p, size_t n_step)
{
    /* Beside window and step: the pages at both ends, and with a tier runs that gather before they
     * are written. */
    size_t n_pos = p->n_whole * SP_PAGE_TOK,
           beside = (p->cfg.tier ? 2 + 2 * SP_KV_RUN : 2) * SP_PAGE_TOK;
    return p->cfg.window && p->cfg.window + n_step + beside <= n_pos ? SIZE_MAX : n_pos;
}

const sp_kv_shape *sp_kv_pool_shape(const sp_kv_pool *p)
{
    return &p->cfg.shape;
}

sp_kv_states *sp_kv_pool_states(const sp_kv_pool *p)
{
    return p->states;
}

static uint32_t *bucket_of(const sp_kv_pool *p, const sp_sha256 *id)
{
    uint64_t h;
    memcpy(&h, id->b, sizeof h);
    return &p->bucket[h & (p->n_bucket - 1)];
}

void sp_kvp_index_drop(sp_kv_pool *p, uint32_t i)
{
    uint32_t *at = bucket_of(p, &p->pages[i].id);
    while (*at != i)
        at = &p->pages[*at].next_hash;
    *at = p->pages[i].next_hash;
    p->pages[i].indexed = false;
    if (p->watch.removed)
        p->watch.removed(p->watch.arg, &p->pages[i].id);
}

uint32_t sp_kvp_index_find(const sp_kv_pool *p, const sp_sha256 *id, const sp_sha256 *parent,
                           const uint32_t *tok)
{
    for (uint32_t i = *bucket_of(p, id); i != NONE; i = p->pages[i].next_hash) {
        const page *g = &p->pages[i];
        if (memcmp(g->id.b, id->b, sizeof id->b) == 0 &&
            memcmp(g->parent.b, parent->b, sizeof parent->b) == 0 &&
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
    if (p->demote_at == i)
        p->demote_at = g->next;
    p->n_cached--;
}

static void lru_add(sp_kv_pool *p, uint32_t i)
{
    page *g = &p->pages[i];
    g->prev = p->newest;
    g->next = NONE;
    *(p->newest == NONE ? &p->oldest : &p->pages[p->newest].next) = i;
    p->newest = i;
    if (p->demote_at == NONE)
        p->demote_at = i;
    p->n_cached++;
}

static void make_blank(sp_kv_pool *p, uint32_t i)
{
    page *g = &p->pages[i];
    if (g->lo)
        p->spare_lo[p->n_spare_lo++] = g->lo;
    g->lo = NULL;
    g->stored = false;
    g->next = p->blank;
    p->blank = i;
}

void sp_kvp_pin(sp_kv_pool *p, uint32_t i)
{
    if (p->pages[i].ref++ == 0) {
        lru_drop(p, i);
        p->n_pinned++;
    }
}

void sp_kvp_unpin(sp_kv_pool *p, uint32_t i)
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
    sp_kvp_index_drop(p, i);
    p->n_evicted++;
    make_blank(p, i);
    return SP_OK;
}

/* Takes the lo parts of the cached page unused for longest that is on disk. */
static bool demote(sp_kv_pool *p)
{
    while (p->demote_at != NONE) {
        page *g = &p->pages[p->demote_at];
        p->demote_at = g->next;
        if (!g->lo || !g->stored || !p->whole)
            continue;
        p->spare_lo[p->n_spare_lo++] = g->lo;
        g->lo = NULL;
        return true;
    }
    return false;
}

static bool fits(const sp_kv_pool *p, size_t n_bytes)
{
    size_t used = p->n_mem * p->page_bytes + p->n_lo * p->lo_bytes;
    return used + n_bytes <= p->cfg.cap_bytes || used + n_bytes <= p->page_bytes + p->lo_bytes;
}

/* Gives memory of a blank page or spare lo parts back to the system. */
static bool release_spare(sp_kv_pool *p, bool of_pages)
{
    if (!of_pages && p->n_spare_lo) {
        p->dev->ops->mem_free(p->dev, p->spare_lo[--p->n_spare_lo]);
        p->n_lo--;
        return true;
    }
    for (uint32_t i = p->blank; of_pages && i != NONE; i = p->pages[i].next) {
        if (!p->pages[i].mem)
            continue;
        p->dev->ops->mem_free(p->dev, p->pages[i].mem);
        p->pages[i].mem = NULL;
        p->n_mem--;
        return true;
    }
    return false;
}

sp_err sp_kvp_take_lo(sp_kv_pool *p, void **out)
{
    while (p->n_spare_lo == 0 && !fits(p, p->lo_bytes))
        if (!demote(p) && !release_spare(p, true))
            SP_TRY(evict(p));
    if (p->n_spare_lo == 0) {
        SP_TRY(p->dev->ops->mem_page(p->dev, out, p->lo_bytes));
        p->n_lo++;
        return SP_OK;
    }
    *out = p->spare_lo[--p->n_spare_lo];
    return SP_OK;
}

/* A blank page with memory, still on the free list, at its head. */
static sp_err find_blank(sp_kv_pool *p)
{
    if (p->blank == NONE)
        SP_TRY(evict(p));
    while (!p->pages[p->blank].mem) {
        if (fits(p, p->page_bytes)) {
            SP_TRY(p->dev->ops->mem_page(p->dev, &p->pages[p->blank].mem, p->page_bytes));
            p->n_mem++;
        } else if (p->n_spare_lo || demote(p)) {
            (void)release_spare(p, false);
        } else {
            SP_TRY(evict(p)); /* its page is the next blank one, with memory */
        }
    }
    return SP_OK;
}

/* A page with one pin: a blank one, else the cached one unused for longest. Plain pages are zeroed
 * because attention multiplies unseen slots by 0, and 0 * (another sequence's infinity) is NaN;
 * quantised ones are read only once they are full. */
sp_err sp_kvp_take_page(sp_kv_pool *p, bool with_lo, uint32_t *out)
{
    void *lo = NULL;
    if (with_lo)
        SP_TRY(sp_kvp_take_lo(p, &lo));
    sp_err err = find_blank(p);
    uint32_t i = p->blank;
    page *g = err == SP_OK ? &p->pages[i] : NULL;
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

bool sp_kvp_wants_lo(const sp_kv_pool *p, size_t number)
{
    return p->lo_bytes && (number == 0 || p->whole);
}

void sp_kv_seq_fini(sp_kv_seq *s, sp_kv_pool *p)
{
    sp_kv_seq_save(s, p);
    if (s->load) /* the load keeps its pages until it has ended */
        sp_kv_load_set_owner(s->load, NULL);
    sp_kvp_snap_leave(s);
    /* Last page first: a prefix is worth more than what follows it, so it is evicted later. */
    for (size_t i = s->n_page; i-- > s->n_gone;)
        sp_kvp_unpin(p, s->id[i]);
    sp_kvp_state_fini(s, p);
    p->dev->ops->mem_free(p->dev, s->open);
    sp_mem_free(s->id);
    sp_mem_free(s->page);
    sp_mem_free(s->lo);
    *s = (sp_kv_seq){0};
}

sp_err sp_kvp_grow(sp_kv_seq *s, size_t n_page)
{
    if (n_page <= s->cap_page)
        return SP_OK;
    size_t cap = n_page + n_page / 2 + 8;
    uint32_t *id = sp_mem_grow(s->id, cap * sizeof *id);
    if (id)
        s->id = id;
    void **mem = sp_mem_grow(s->page, cap * sizeof *mem),
         **lo = sp_mem_grow(s->lo, cap * sizeof *lo);
    if (mem)
        s->page = mem;
    if (lo)
        s->lo = lo;
    if (!id || !mem || !lo)
        return SP_NOMEM;
    s->cap_page = cap;
    return SP_OK;
}

void sp_kvp_append(sp_kv_seq *s, const sp_kv_pool *p, uint32_t i)
{
    s->id[s->n_page] = i;
    s->n_gone += i == NONE;
    s->lo[s->n_page] = i == NONE ? NULL : p->pages[i].lo;
    s->page[s->n_page++] = i == NONE ? NULL : p->pages[i].mem;
}

void sp_kvp_leave_behind(sp_kv_seq *s, sp_kv_pool *p)
{
    size_t first = sp_kvp_first_seen(p, s->n_tok);
    if (s->load || s->holds_all)
        return;
    if (p->cfg.tier && first > s->n_saved)
        first = s->n_saved;
    for (; s->n_gone < first; s->n_gone++) {
        sp_kvp_unpin(p, s->id[s->n_gone]);
        s->id[s->n_gone] = NONE;
        s->page[s->n_gone] = s->lo[s->n_gone] = NULL;
    }
}

void sp_kvp_index_add(sp_kv_pool *p, uint32_t i, const sp_kv_key *key, const sp_kv_seq *s,
                      size_t at)
{
    page *g = &p->pages[i];
    g->id = key->id;
    g->parent = key->parent;
    memcpy(g->tok, key->tok, sizeof g->tok);
    g->next_hash = *bucket_of(p, &key->id);
    *bucket_of(p, &key->id) = i;
    g->indexed = true;
    if (p->watch.stored)
        p->watch.stored(p->watch.arg, &key->id, &key->parent, key->tok, at, s->salt);
}

/* Out of the index; in use it lives on until its sequences end, unknown to others. */
void sp_kvp_drop_indexed(sp_kv_pool *p, uint32_t i)
{
    sp_kvp_index_drop(p, i);
    if (p->pages[i].ref == 0) {
        lru_drop(p, i);
        make_blank(p, i);
    }
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
    SP_TRY(sp_kvp_take_page(p, sp_kvp_wants_lo(p, at), &i));
    sp_err err = SP_OK;
    if (!p->lo_bytes) /* of a quantised page nothing is written before it is full */
        err = p->dev->ops->copy(p->dev, p->pages[i].mem, s->page[at], p->page_bytes);
    if (err != SP_OK) {
        sp_kvp_unpin(p, i);
        return err;
    }
    sp_kvp_unpin(p, s->id[at]);
    s->id[at] = i;
    s->page[at] = p->pages[i].mem;
    s->lo[at] = p->pages[i].lo;
    return SP_OK;
}

sp_err sp_kv_seq_reserve(sp_kv_seq *s, sp_kv_pool *p, size_t n)
{
    size_t need = (s->n_tok + n + SP_PAGE_TOK - 1) / SP_PAGE_TOK;
    SP_TRY(sp_kvp_grow(s, need));
    SP_TRY(own_tail(s, p));
    if (!s->open && sp_kv_open_bytes(&p->cfg.shape))
        SP_TRY(p->dev->ops->mem_new(p->dev, &s->open, sp_kv_open_bytes(&p->cfg.shape)));
    SP_TRY(sp_kvp_state_reserve(s, p));
    while (s->n_page < need) {
        uint32_t i;
        /* pages taken so far stay with s: the retry continues there */
        SP_TRY(sp_kvp_take_page(p, sp_kvp_wants_lo(p, s->n_page), &i));
        sp_kvp_append(s, p, i);
    }
    return SP_OK;
}

static sp_err publish(sp_kv_seq *s, sp_kv_pool *p, uint32_t i)
{
    sp_sha256 id;
    SP_TRY(sp_kvp_next_chain(&id, &s->chain, s->tail,
                             sp_kvp_page_lossy(s, s->n_tok / SP_PAGE_TOK - 1)));
    bool share = p->cfg.reuse && !s->inexact && !(s->private_from && s->n_tok > s->private_from);
    uint32_t old = sp_kvp_index_find(p, &id, &s->chain, s->tail);
    /* a demoted one: this is better */
    if (share && old != NONE && p->whole && !p->pages[old].lo && !p->pages[old].loading) {
        sp_kvp_drop_indexed(p, old);
        old = NONE;
    }
    if (share && old == NONE) {
        sp_kvp_index_add(p, i, &(sp_kv_key){.id = id, .parent = s->chain, .tok = s->tail}, s,
                         s->n_tok / SP_PAGE_TOK - 1);
        memcpy(p->pages[i].tag, s->tag, sizeof s->tag);
        memcpy(p->pages[i].conv, s->conv, sizeof s->conv);
    }
    s->chain = id;
    sp_kvp_state_at_page_end(s, p, share);
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
    sp_kvp_state_move(s, p, n);
    if (s->n_tok / SP_PAGE_TOK >= s->n_saved + SP_KV_RUN)
        sp_kv_seq_save(s, p);
    sp_kvp_leave_behind(s, p);
    return SP_OK;
}

sp_err sp_kv_seq_reserve_guess(sp_kv_seq *s, sp_kv_pool *p, size_t n)
{
    SP_ASSERT(n <= SP_KV_GUESS_TOK);
    SP_TRY(sp_kv_seq_reserve(s, p, n));
    return p->states && !s->kept ? sp_kv_kept_take(p->states, &s->kept) : SP_OK;
}

size_t sp_kv_seq_take_back(sp_kv_seq *s, sp_kv_pool *p, size_t n)
{
    SP_ASSERT(n <= s->n_tok && n / SP_PAGE_TOK == s->n_tok / SP_PAGE_TOK);
    if (p->states && n < s->n_tok)
        n = sp_kvp_state_back(s, p, n);
    s->n_tok = n;
    return n;
}

sp_err sp_kv_seq_fork(sp_kv_seq *out, const sp_kv_seq *s, sp_kv_pool *p)
{
    sp_kv_seq f = *s;
    SP_ASSERT(!s->n_again); /* a session forks behind its prompt */
    f.id = NULL;
    f.page = f.lo = NULL;
    f.open = NULL;
    /* a session forks after its first pass, which waited for every layer */
    f.load = f.snap_load = NULL;
    f.n_page = f.cap_page = f.n_gone = 0;
    f.next = f.trail = f.settled = f.sure = NULL;
    f.kept = NULL;
    f.n_mark = f.n_border = 0;
    size_t n_used = (s->n_tok + SP_PAGE_TOK - 1) / SP_PAGE_TOK,
           n_open = sp_kv_open_bytes(&p->cfg.shape);
    sp_err err = sp_kvp_grow(&f, n_used);
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
        if (s->id[i] != NONE)
            sp_kvp_pin(p, s->id[i]);
        sp_kvp_append(&f, p, s->id[i]);
    }
    if (f.state)
        f.state->ref++;
    *out = f;
    return SP_OK;
}

sp_err sp_kv_pool_check(const sp_kv_pool *p, sp_diag *d)
{
    size_t n_blank = 0, n_cached = 0, n_pinned = 0, n_indexed = 0, n_chained = 0,
           n_lo = p->n_spare_lo;
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
        return SP_FAIL(
            d, SP_CORRUPT, "pages: blank %zu cached %zu/%zu pinned %zu/%zu of %zu; indexed %zu/%zu",
            n_blank, n_cached, p->n_cached, n_pinned, p->n_pinned, p->n_cap, n_chained, n_indexed);
    size_t n_mem = 0;
    for (size_t i = 0; i < p->n_cap; i++)
        n_mem += p->pages[i].mem != NULL;
    if (n_lo != p->n_lo || n_mem != p->n_mem || !fits(p, 0))
        return SP_FAIL(d, SP_CORRUPT, "memory: %zu of %zu lo parts, %zu of %zu pages, in %zu bytes",
                       n_lo, p->n_lo, n_mem, p->n_mem, p->cfg.cap_bytes);
    return p->states ? sp_kv_states_check(p->states, d) : SP_OK;
}
