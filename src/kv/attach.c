/* Sequences and what lies beyond the pool: attaching known prefixes, loading, writing,
 * forgetting. */
#include "kv/pool_int.h"

enum { SAVE_SHARE = 4 }; /* at most 1/4 of all pages wait to be written */

/* A prefix in the making: what a load will fill. */
typedef struct fetch {
    sp_kv_key *key; /* [n_full]: identities along the prompt */
    sp_kv_hit *hit;
    sp_kv_item *item;
    size_t n_item;
} fetch;

static void fetch_fini(fetch *f)
{
    sp_mem_free(f->key);
    sp_mem_free(f->hit);
    sp_mem_free(f->item);
}

static sp_err fetch_init(fetch *f, const sp_kv_seq *s, const uint32_t *tok, size_t n_full)
{
    f->key = sp_mem_array(n_full + 1, sizeof *f->key);
    f->hit = sp_mem_array(n_full + 1, sizeof *f->hit);
    f->item = sp_mem_array(n_full + 1, sizeof *f->item);
    if (!f->key || !f->hit || !f->item)
        return SP_NOMEM;
    for (size_t i = 0; i < n_full; i++) {
        f->key[i] =
            (sp_kv_key){.parent = i ? f->key[i - 1].id : s->chain, .tok = tok + i * SP_PAGE_TOK};
        SP_TRY(sp_kvp_next_chain(&f->key[i].id, &f->key[i].parent, f->key[i].tok,
                                 sp_kvp_page_lossy(s, i)));
    }
    return SP_OK;
}

/* Lo parts for a cached page that lost them. false: it cannot be used. */
static bool promote(sp_kv_pool *p, fetch *f, uint32_t at, const sp_kv_key *key)
{
    sp_kv_hit hit;
    void *lo;
    if (!p->cfg.tier || sp_kv_store_find(sp_kv_tier_store(p->cfg.tier), key, 1, false, &hit) == 0) {
        sp_kvp_drop_indexed(p, at); /* the disk has lost it: worth nothing to an exact answer */
        return false;
    }
    sp_kvp_pin(p, at);
    if (!(hit.run->rec.lo_mask >> hit.page & 1) || sp_kvp_take_lo(p, &lo) != SP_OK) {
        sp_kvp_unpin(p, at);
        sp_kv_store_unpin(sp_kv_tier_store(p->cfg.tier), hit.run);
        return false;
    }
    p->pages[at].lo = lo;
    p->pages[at].loading = true;
    f->item[f->n_item++] = (sp_kv_item){.hit = hit, .lo = lo, .page = at};
    return true;
}

/* Pages RAM holds, from the front. */
static sp_err attach_ram(sp_kv_seq *s, sp_kv_pool *p, fetch *f, size_t n_full, bool may_fetch)
{
    for (size_t i = 0; i < n_full; i++) {
        uint32_t at = sp_kvp_index_find(p, &f->key[i].id, &f->key[i].parent, f->key[i].tok);
        if (at == NONE)
            return SP_OK;
        page *g = &p->pages[at];
        if (g->loading) /* by another sequence, unless this one has given that load up */
            return may_fetch ? SP_AGAIN : SP_OK;
        bool lacking = p->whole && !g->lo;
        if (lacking && p->cfg.attend_demoted)
            s->n_tok_demoted += SP_PAGE_TOK;
        if (lacking && !p->cfg.attend_demoted) {
            if (!may_fetch || !promote(p, f, at, &f->key[i]))
                return SP_OK;
        } else {
            sp_kvp_pin(p, at);
        }
        sp_kvp_append(s, p, at);
        if (lacking && !p->cfg.attend_demoted)
            s->n_tok_ssd += SP_PAGE_TOK;
        else
            s->n_tok_ram += SP_PAGE_TOK;
    }
    return SP_OK;
}

/* With a window: the longest prefix of which RAM holds what a query after it sees, whatever lies
 * before. A page's identity covers all tokens before it, so it stands for them. *n: its pages, 0
 * for none that can be used as it lies. */
static sp_err find_windowed(size_t *n, const sp_kv_pool *p, const fetch *f, size_t n_full,
                            bool may_fetch)
{
    size_t n_held = 0; /* in a row, up to here */
    *n = 0;
    for (size_t i = 0; i < n_full; i++) {
        uint32_t at = sp_kvp_index_find(p, &f->key[i].id, &f->key[i].parent, f->key[i].tok);
        if (at != NONE && p->pages[at].loading && may_fetch)
            return SP_AGAIN;
        n_held =
            at == NONE || p->pages[at].loading || (p->whole && !p->pages[at].lo) ? 0 : n_held + 1;
        if (n_held && n_held >= i + 1 - sp_kvp_first_seen(p, (i + 1) * SP_PAGE_TOK))
            *n = i + 1;
    }
    return SP_OK;
}

static sp_err attach_windowed(sp_kv_seq *s, sp_kv_pool *p, const fetch *f, size_t n_full,
                              bool may_fetch)
{
    size_t n;
    SP_TRY(find_windowed(&n, p, f, n_full, may_fetch));
    for (size_t i = 0; i < n; i++) {
        uint32_t at = NONE;
        if (i >= sp_kvp_first_seen(p, n * SP_PAGE_TOK)) {
            at = sp_kvp_index_find(p, &f->key[i].id, &f->key[i].parent, f->key[i].tok);
            sp_kvp_pin(p, at);
        }
        sp_kvp_append(s, p, at);
        s->n_tok_ram += SP_PAGE_TOK;
    }
    return SP_OK;
}

/* One page found beyond RAM: into a page of its own, unless RAM has it behind a gap. false: stop
 * here. */
static bool attach_one(sp_kv_seq *s, sp_kv_pool *p, fetch *f, const sp_kv_key *key,
                       const sp_kv_hit *h)
{
    bool stored_lo = h->run->rec.lo_mask >> h->page & 1;
    bool want_lo = stored_lo && (!p->cfg.attend_demoted || s->n_page == 0);
    uint32_t at = sp_kvp_index_find(p, &key->id, &key->parent, key->tok);
    if (at != NONE) {
        if (p->pages[at].loading || (p->whole && !p->pages[at].lo))
            return false;
        sp_kvp_pin(p, at);
        sp_kvp_append(s, p, at);
        s->n_tok_ram += SP_PAGE_TOK;
        sp_kv_store_unpin(sp_kv_tier_store(p->cfg.tier), h->run);
        return true;
    }
    if (sp_kvp_take_page(p, want_lo, &at) != SP_OK)
        return false;
    page *g = &p->pages[at];
    g->loading = true;
    memcpy(g->tag, s->tag, sizeof s->tag);
    memcpy(g->conv, h->run->rec.conv, sizeof g->conv);
    sp_kvp_index_add(p, at, key, s, s->n_page);
    f->item[f->n_item++] = (sp_kv_item){.hit = *h, .hi = g->mem, .lo = g->lo, .page = at};
    sp_kvp_append(s, p, at);
    s->n_tok_demoted += stored_lo && !want_lo ? SP_PAGE_TOK : 0;
    *(h->warm ? &s->n_tok_ssd : &s->n_tok_s3) += SP_PAGE_TOK;
    return true;
}

/* Pages beyond RAM, as far as fetching pays and memory is there. */
static void attach_tier(sp_kv_seq *s, sp_kv_pool *p, fetch *f, size_t n_full)
{
    size_t first = s->n_page,
           n = sp_kv_tier_plan(p->cfg.tier, f->key + first, n_full - first, first, f->hit), i = 0;
    while (i < n && attach_one(s, p, f, &f->key[first + i], &f->hit[i]))
        i++;
    for (; i < n; i++)
        sp_kv_store_unpin(sp_kv_tier_store(p->cfg.tier), f->hit[i].run);
}

/* Undoes what attach did for an item of a load that did not start. */
static void drop_item(sp_kv_pool *p, const sp_kv_item *it)
{
    page *g = &p->pages[it->page];
    g->loading = false;
    if (g->indexed)
        sp_kvp_index_drop(p, it->page);
    sp_kv_store_unpin(sp_kv_tier_store(p->cfg.tier), it->hit.run);
}

static void drop_items(sp_kv_pool *p, fetch *f)
{
    for (size_t i = 0; i < f->n_item; i++)
        drop_item(p, &f->item[i]);
}

/* Recurrent layers: the longest prefix of n pages at whose end there is a snapshot, in RAM or,
 * beyond, elsewhere. */
static size_t reach(const sp_kv_pool *p, const fetch *f, size_t n, bool beyond)
{
    sp_kv_hit hit;
    for (; p->states && n && !sp_kv_snap_find(p->states, &f->key[n - 1].id, false); n--) {
        if (!beyond || !sp_kvp_snap_stored(p, &f->key[n - 1].id, &hit))
            continue;
        sp_kv_store_unpin(sp_kv_tier_store(p->cfg.tier), hit.run);
        return n;
    }
    return n;
}

/* How many of the attached pages stay. Where their snapshot is not in RAM, it is being fetched
 * then. */
static size_t settle(sp_kv_seq *s, sp_kv_pool *p, const fetch *f, bool beyond)
{
    sp_kv_hit hit;
    size_t near = reach(p, f, s->n_page, false), n = beyond ? reach(p, f, s->n_page, true) : near;
    if (n == near || !sp_kvp_snap_stored(p, &f->key[n - 1].id, &hit))
        return near;
    if (sp_kv_tier_state_pays(p->cfg.tier, &hit, near, n - near) &&
        sp_kvp_snap_fetch(s, p, &hit) == SP_OK)
        return n;
    sp_kv_store_unpin(sp_kv_tier_store(p->cfg.tier), hit.run);
    return reach(p, f, near, false); /* memory for a state may have been that of snapshots */
}

/* Gives the last attached page back. */
static void drop_last(sp_kv_seq *s, sp_kv_pool *p, fetch *f)
{
    uint32_t at = s->id[--s->n_page];
    size_t *from = &s->n_tok_ram;
    if (f->n_item && f->item[f->n_item - 1].page == at) {
        const sp_kv_item *it = &f->item[--f->n_item];
        from = it->hit.warm ? &s->n_tok_ssd : &s->n_tok_s3;
        drop_item(p, it);
    }
    *from -= SP_PAGE_TOK;
    if (s->n_tok_demoted && p->whole && !p->pages[at].lo)
        s->n_tok_demoted -= SP_PAGE_TOK;
    sp_kvp_unpin(p, at);
}

static sp_err start_load(sp_kv_seq *s, sp_kv_pool *p, fetch *f)
{
    sp_err err = sp_kv_tier_load(&s->load, p->cfg.tier, f->item, f->n_item);
    if (err != SP_OK) {
        drop_items(p, f);
        return err;
    }
    for (size_t i = 0; i < f->n_item; i++)
        p->pages[f->item[i].page].ref++; /* the load's own pin, beside the sequence's */
    sp_kv_load_set_owner(s->load, s);
    return SP_OK;
}

sp_err sp_kv_seq_attach(sp_kv_seq *s, sp_kv_pool *p, const uint32_t *tok, size_t n, bool may_fetch,
                        size_t *n_found)
{
    SP_ASSERT(s->n_tok == 0 && s->n_page == 0);
    size_t n_full = n && p->cfg.reuse ? (n - 1) / SP_PAGE_TOK : 0;
    bool beyond = p->states && p->cfg.tier && may_fetch;
    fetch f = {0};
    SP_TRY(sp_kvp_grow(s, n_full));
    sp_err err = fetch_init(&f, s, tok, n_full);
    if (err == SP_OK)
        n_full = reach(p, &f, n_full, beyond);
    if (err == SP_OK && p->cfg.window && !s->holds_all)
        err = attach_windowed(s, p, &f, n_full, may_fetch);
    if (err == SP_OK && s->n_page == 0)
        err = attach_ram(s, p, &f, n_full, may_fetch);
    if (err == SP_OK && p->cfg.tier && may_fetch && s->n_page < n_full)
        attach_tier(s, p, &f, n_full);
    for (size_t last = err == SP_OK ? settle(s, p, &f, beyond) : s->n_page; s->n_page > last;)
        drop_last(s, p, &f);
    if (err == SP_AGAIN) /* nothing was promised yet but to pages promoted on the way */
        drop_items(p, &f);
    else if (err == SP_OK && f.n_item)
        err = start_load(s, p, &f);
    if (err != SP_OK) {
        sp_kvp_snap_leave(s);
        sp_kv_state_put(p->states, s->state);
        s->state = NULL;
        while (s->n_page > s->n_gone)
            sp_kvp_unpin(p, s->id[--s->n_page]);
        s->n_page = s->n_gone = 0;
        s->n_tok_ram = s->n_tok_ssd = s->n_tok_s3 = s->n_tok_demoted = 0;
    } else if (s->n_page) {
        s->chain = f.key[s->n_page - 1].id;
        s->n_tok = s->n_page * SP_PAGE_TOK;
        /* what came from objects goes to the disk again */
        s->n_saved = (s->n_tok - s->n_tok_s3) / SP_PAGE_TOK;
        s->inexact = s->n_tok_demoted > 0;
        sp_kvp_state_attach(s, p);
        p->n_hit_tok += s->n_tok_ram;
    }
    if (err == SP_OK)
        p->n_miss_tok += n - s->n_tok_ram;
    sp_kvp_leave_behind(s, p);
    fetch_fini(&f);
    *n_found = s->n_tok;
    return err;
}

sp_err sp_kv_seq_wait(sp_kv_seq *s, size_t layer)
{
    if (!s->load)
        return SP_OK;
    sp_err err = sp_kv_load_wait(s->load, layer);
    s->load_failed = s->load_failed || err != SP_OK;
    return err;
}

void sp_kv_seq_times(const sp_kv_seq *s, double *first_ms, double *all_ms)
{
    *first_ms = s->ms_first_layer;
    *all_ms = s->ms_load;
    if (s->load)
        sp_kv_load_times(s->load, first_ms, all_ms);
}

/* --- writing ---------------------------------------------------------------------------------- */

/* One run of pages from number `first` on; its pages stay pinned until they are written. */
static sp_kv_save *make_save(sp_kv_seq *s, sp_kv_pool *p, size_t first, size_t n)
{
    sp_kv_save *v = sp_mem_alloc(sizeof *v);
    if (!v)
        return NULL;
    sp_kv_rec_shape(&v->rec, &p->cfg.shape);
    v->rec.n_page = (uint32_t)n;
    v->rec.first = (uint32_t)first;
    v->rec.parent = p->pages[s->id[first]].parent;
    v->rec.page = v->page;
    memcpy(v->rec.tag, s->tag, sizeof s->tag);
    memcpy(v->rec.conv, p->pages[s->id[first]].conv, sizeof v->rec.conv);
    for (uint32_t i = 0; i < n; i++) {
        page *g = &p->pages[s->id[first + i]];
        v->page[i].id = g->id;
        memcpy(v->page[i].tok, g->tok, sizeof g->tok);
        v->hi[i] = g->mem;
        v->lo[i] = g->lo;
        v->rec.lo_mask |= (uint32_t)(g->lo != NULL) << i;
        v->number[i] = s->id[first + i];
        g->ref++;
    }
    p->n_saving += n;
    return v;
}

static bool can_save(const sp_kv_pool *p, const sp_kv_seq *s, size_t i)
{
    const page *g = &p->pages[s->id[i]];
    return g->indexed && !g->stored && !g->loading && (g->lo || !sp_kvp_wants_lo(p, i));
}

void sp_kv_seq_save(sp_kv_seq *s, sp_kv_pool *p)
{
    size_t n_full = s->n_tok / SP_PAGE_TOK;
    while (p->cfg.tier && !s->load && s->n_saved < n_full) {
        size_t first = s->n_saved, n = 0;
        while (n < SP_KV_RUN && first + n < n_full && can_save(p, s, first + n) &&
               memcmp(p->pages[s->id[first + n]].conv, p->pages[s->id[first]].conv, SP_KV_TAG) == 0)
            n++;
        s->n_saved += n ? n : 1;
        if (n == 0)
            continue;
        sp_kv_save *v =
            p->n_saving + n <= p->n_cap / SAVE_SHARE + SP_KV_RUN ? make_save(s, p, first, n) : NULL;
        if (v)
            sp_kv_tier_save(p->cfg.tier, v);
        else
            p->n_unsaved += n;
    }
}

/* --- what the tier has finished --------------------------------------------------------------- */

static void take_load(sp_kv_pool *p, sp_kv_load *l)
{
    size_t n, n_good;
    if (sp_kvp_snap_loaded(p, l))
        return;
    const sp_kv_item *item = sp_kv_load_items(l, &n, &n_good);
    sp_kv_seq *s = sp_kv_load_owner(l);
    if (s) {
        s->load = NULL;
        sp_kv_load_times(l, &s->ms_first_layer, &s->ms_load);
        s->load_failed = s->load_failed || n_good < n;
    }
    for (size_t i = 0; i < n; i++) {
        page *g = &p->pages[item[i].page];
        g->loading = false;
        if (i < n_good)
            g->stored = item[i].hit.warm;
        else if (g->indexed)
            sp_kvp_index_drop(p, item[i].page);
    }
    for (size_t i = n; i-- > 0;)
        sp_kvp_unpin(p, item[i].page);
    sp_kv_load_release(l);
}

bool sp_kv_pool_poll(sp_kv_pool *p)
{
    bool any = false;
    sp_kv_load *l;
    sp_kv_save *v;
    while (p->cfg.tier && (l = sp_kv_tier_done(p->cfg.tier))) {
        take_load(p, l);
        any = true;
    }
    while (p->cfg.tier && (v = sp_kv_tier_saved(p->cfg.tier))) {
        any = true;
        if (v->state) {
            sp_kvp_snap_saved(p, v);
            continue;
        }
        for (size_t i = v->rec.n_page; i-- > 0;) {
            p->pages[v->number[i]].stored = v->stored >> i & 1;
            sp_kvp_unpin(p, v->number[i]);
        }
        p->n_saving -= v->rec.n_page;
        p->demote_at = p->oldest; /* some of them can be demoted now */
        sp_mem_free(v);
    }
    return any;
}

bool sp_kv_pool_is_busy(const sp_kv_pool *p)
{
    return p->cfg.tier && (p->n_saving || p->n_state_saving || sp_kv_tier_loading(p->cfg.tier));
}

/* A forgotten page's bytes stay in blank memory until it is used again; this process alone sees
 * it. */
void sp_kv_pool_forget(sp_kv_pool *p, sp_kv_forget *f)
{
    for (uint32_t i = 0; i < p->n_cap; i++) {
        if (!p->pages[i].indexed || !sp_kv_forget_hits(f, p->pages[i].tag, p->pages[i].conv))
            continue;
        f->n_page++;
        sp_kvp_drop_indexed(p, i);
    }
    if (p->states)
        sp_kv_snap_forget(p->states, f);
}
