#include "kv/seq.h"

#include "kv/pool_int.h"

/* --- identity --------------------------------------------------------------------------------- */

sp_err sp_kv_seq_init(sp_kv_seq *s, const sp_kv_pool *p, const char *tenant, const char *conv)
{
    const char *variant = p->cfg.variant ? p->cfg.variant : "";
    *s = (sp_kv_seq){0};
    const sp_sha256_part part[] = {
        {"sparing kv 3", 12},
        {p->cfg.model_id.b, sizeof p->cfg.model_id.b},
        {p->cfg.shape.format->name, strlen(p->cfg.shape.format->name) + 1},
        {variant, strlen(variant) + 1},
        {tenant, strlen(tenant)}};
    SP_TRY(sp_kv_tag(s->tag, tenant));
    if (conv)
        SP_TRY(sp_kv_tag(s->conv, conv));
    return sp_sha256_of(&s->chain, part, 5);
}

sp_err sp_kv_seq_salt(sp_kv_seq *s, const char *salt)
{
    const sp_sha256_part part[] = {{"salt", 5},
                                   {s->chain.b, sizeof s->chain.b},
                                   {salt, strlen(salt)}};
    SP_ASSERT(s->n_tok == 0 && s->n_page == 0);
    s->salt = salt;
    return sp_sha256_of(&s->chain, part, 3);
}

sp_err sp_kvp_next_chain(sp_sha256 *out, const sp_sha256 *parent, const uint32_t *tok,
                         sp_kvp_lossy lossy)
{
    const sp_sha256_part part[] = {{parent->b, sizeof parent->b},
                                   {tok, SP_PAGE_TOK * sizeof *tok},
                                   {&lossy, sizeof lossy}};
    return sp_sha256_of(out, part, lossy.eps > 0 || lossy.keep > 0 ? 3 : 2);
}

sp_err sp_kv_seq_names(sp_sha256 *out, const sp_kv_pool *p, const char *tenant, const char *salt,
                       const uint32_t *tok, size_t n)
{
    sp_kv_seq s;
    SP_TRY(sp_kv_seq_init(&s, p, tenant, NULL));
    if (salt)
        SP_TRY(sp_kv_seq_salt(&s, salt));
    for (size_t i = 0; i < n / SP_PAGE_TOK; i++) {
        SP_TRY(sp_kvp_next_chain(&out[i], i ? &out[i - 1] : &s.chain, tok + i * SP_PAGE_TOK,
                                 (sp_kvp_lossy){0, 0}));
    }
    return SP_OK;
}

/* --- pages as bytes --------------------------------------------------------------------------- */

/* A page that can be given away: known to others, whole, of this tenant. NONE: there is none. */
static uint32_t find_own(const sp_kv_pool *p, const sp_sha256 *id, const uint8_t *tag)
{
    uint64_t h;
    memcpy(&h, id->b, sizeof h);
    uint32_t i = p->bucket[h & (p->n_bucket - 1)];
    while (i != NONE && memcmp(&p->pages[i].id, id, sizeof *id) != 0)
        i = p->pages[i].next_hash;
    if (i == NONE || p->pages[i].loading || memcmp(p->pages[i].tag, tag, SP_KV_TAG) != 0)
        return NONE;
    return p->whole && !p->pages[i].lo ? NONE : i;
}

/* The pages at `at` into a record, one at a time through staged: what is copied twice is then still
 * in the cache. */
static sp_err put_pages(uint8_t *record, const sp_kv_rec *r, const sp_kv_pool *p,
                        const uint32_t *at, uint8_t *staged)
{
    sp_kv_rec_begin(record, r);
    for (uint32_t i = 0; i < r->n_page; i++) {
        const page *g = &p->pages[at[i]];
        uint8_t *lo = g->lo ? staged + p->page_bytes : NULL;
        SP_TRY(p->dev->ops->mem_read(p->dev, staged, g->mem, p->page_bytes));
        if (lo)
            SP_TRY(p->dev->ops->mem_read(p->dev, lo, g->lo, p->lo_bytes));
        sp_kv_rec_put(record, r, i, staged, lo);
    }
    sp_kv_rec_end(record, r);
    return SP_OK;
}

sp_err sp_kv_pool_count(size_t *out, const sp_kv_pool *p, const char *tenant, const sp_sha256 *id,
                        size_t n)
{
    uint8_t tag[SP_KV_TAG];
    size_t k = 0;
    SP_TRY(sp_kv_tag(tag, tenant));
    while (k < n && find_own(p, &id[k], tag) != NONE)
        k++;
    *out = k;
    return SP_OK;
}

sp_err sp_kv_bytes_fit(sp_kv_bytes *b, size_t n)
{
    if (b->cap < n) {
        sp_mem_free(b->p);
        *b = (sp_kv_bytes){.p = sp_mem_raw(n)};
        b->cap = b->p ? n : 0;
    }
    b->n = b->p ? n : 0;
    return b->p ? SP_OK : SP_NOMEM;
}

sp_err sp_kv_pool_export(sp_kv_bytes *out, size_t *n_page, sp_kv_pool *p, const char *tenant,
                         const sp_sha256 *id, size_t n, size_t first)
{
    uint8_t tag[SP_KV_TAG];
    uint32_t at[SP_KV_HAND];
    sp_kv_rec_page page_of[SP_KV_HAND];
    sp_kv_rec r = {.first = (uint32_t)first, .page = page_of};
    size_t k = 0;
    SP_TRY(sp_kv_tag(tag, tenant));
    while (k < n && k < SP_KV_HAND && (at[k] = find_own(p, &id[k], tag)) != NONE &&
           (k == 0 || memcmp(&p->pages[at[k]].parent, &id[k - 1], sizeof *id) == 0))
        k++;
    if (k == 0)
        return SP_NOTFOUND;
    sp_kv_rec_shape(&r, &p->cfg.shape);
    r.n_page = (uint32_t)k;
    r.parent = p->pages[at[0]].parent;
    memcpy(r.tag, tag, sizeof tag);
    for (size_t i = 0; i < k; i++) {
        page_of[i].id = p->pages[at[i]].id;
        memcpy(page_of[i].tok, p->pages[at[i]].tok, sizeof page_of[i].tok);
        r.lo_mask |= (uint32_t)(p->pages[at[i]].lo != NULL) << i;
    }
    SP_TRY(sp_kv_bytes_fit(out, sp_kv_rec_bytes(&r)));
    uint8_t *staged = sp_mem_raw(p->page_bytes + p->lo_bytes);
    sp_err err = staged ? put_pages(out->p, &r, p, at, staged) : SP_NOMEM;
    sp_mem_free(staged);
    *n_page = k;
    return err;
}

sp_err sp_kv_pool_export_state(sp_kv_bytes *out, sp_kv_pool *p, const char *tenant,
                               const sp_sha256 *id, size_t n)
{
    uint8_t tag[SP_KV_TAG];
    sp_kv_rec_page name;
    sp_kv_rec r = {.page = &name};
    const sp_kv_snap *of = NULL;
    SP_TRY(sp_kv_tag(tag, tenant));
    while (p->states && n && !of) {
        of = sp_kv_snap_of(p->states, &id[--n]);
        if (of && memcmp(of->tag, tag, sizeof tag) != 0)
            of = NULL;
    }
    if (!of)
        return SP_NOTFOUND;
    sp_kvp_state_shape(&r, p->cfg.state_bytes);
    sp_kv_rec_state_name(&name, &of->id, false, p->cfg.state_bytes);
    r.parent = of->id;
    r.first = (uint32_t)(of->n_tok / SP_PAGE_TOK);
    r.lo_bytes = (uint32_t)of->n_tok; /* there, nothing before it is known */
    memcpy(r.tag, tag, sizeof tag);
    SP_TRY(sp_kv_bytes_fit(out, sp_kv_rec_bytes(&r)));
    void *const staged = sp_mem_alloc((size_t)r.n_layer * r.hi_bytes);
    const sp_kv_state *state = sp_kv_snap_find(p->states, &of->id, true);
    sp_err err =
        staged ? p->dev->ops->mem_read(p->dev, staged, state->mem, p->cfg.state_bytes) : SP_NOMEM;
    if (err == SP_OK)
        sp_kv_rec_build(out->p, &r, &staged, NULL);
    sp_mem_free(staged);
    return err;
}

/* A state's record that has come through sp_kv_rec_verify. */
static sp_err check_state(const sp_kv_rec *r, const sp_kv_pool *p, size_t n, sp_diag *d)
{
    sp_kv_rec own = {0};
    sp_kv_rec_page name;
    if (!p->states)
        return SP_FAIL(d, SP_FORMAT, "states of layers that this model does not have");
    sp_kvp_state_shape(&own, p->cfg.state_bytes);
    sp_kv_rec_state_name(&name, &r->parent, false, p->cfg.state_bytes);
    if (r->packed || n != sp_kv_rec_bytes(r) || r->n_layer != own.n_layer ||
        r->hi_bytes != own.hi_bytes || r->lo_mask || r->first == 0 ||
        r->first > UINT32_MAX / SP_PAGE_TOK || memcmp(&name, r->page, sizeof name) != 0)
        return SP_FAIL(d, SP_FORMAT, "the states are of another shape or form");
    return SP_OK;
}

sp_err sp_kv_hand_read(sp_kv_hand *out, const sp_kv_pool *p, const char *tenant,
                       const uint8_t *bytes, size_t n, sp_diag *d)
{
    sp_kv_rec own = {0};
    uint8_t tag[SP_KV_TAG];
    SP_TRY(sp_kv_rec_verify(bytes, n, d));
    SP_TRY(sp_kv_head_read(&out->head, bytes, n, d));
    const sp_kv_rec *r = &out->head.rec;
    sp_kv_rec_shape(&own, &p->cfg.shape);
    SP_TRY(sp_kv_tag(tag, tenant));
    out->bytes = bytes;
    if (memcmp(r->tag, tag, sizeof tag) != 0)
        return SP_FAIL(d, SP_FORMAT, "the pages are another tenant's");
    if (sp_kv_rec_is_state(r))
        return check_state(r, p, n, d);
    if (r->packed || r->n_page > SP_KV_HAND || n != sp_kv_rec_bytes(r))
        return SP_FAIL(d, SP_FORMAT, "these bytes are not pages that are handed over");
    if (r->n_layer != own.n_layer || r->hi_bytes != own.hi_bytes || r->lo_bytes != own.lo_bytes)
        return SP_FAIL(d, SP_FORMAT, "the pages are of another shape or format");
    for (uint32_t i = 0; i < r->n_page; i++) {
        sp_sha256 id;
        SP_TRY(sp_kvp_next_chain(&id, i ? &r->page[i - 1].id : &r->parent, r->page[i].tok,
                                 (sp_kvp_lossy){0, 0}));
        if (memcmp(&id, &r->page[i].id, sizeof id) != 0 ||
            (p->whole && p->lo_bytes && !(r->lo_mask >> i & 1)))
            return SP_FAIL(d, SP_FORMAT, "page %u is not what its name says", i);
    }
    return SP_OK;
}

/* One page's parts lie block by block in a record. */
static sp_err write_page(sp_kv_pool *p, uint32_t at, const sp_kv_hand *h, uint32_t i,
                         uint8_t *staged)
{
    const sp_kv_rec *r = &h->head.rec;
    for (uint32_t b = 0; b < r->n_layer; b++) {
        const uint8_t *block = h->bytes + sp_kv_head_block_at(&h->head, b);
        memcpy(staged + b * r->hi_bytes, block + sp_kv_rec_hi_at(r, i), r->hi_bytes);
        if (p->pages[at].lo)
            memcpy(staged + p->page_bytes + b * r->lo_bytes, block + sp_kv_rec_lo_at(r, i),
                   r->lo_bytes);
    }
    SP_TRY(p->dev->ops->mem_write(p->dev, p->pages[at].mem, staged, p->page_bytes));
    return p->pages[at].lo ? p->dev->ops->mem_write(p->dev, p->pages[at].lo, staged + p->page_bytes,
                                                    p->lo_bytes)
                           : SP_OK;
}

sp_err sp_kv_pool_import(size_t *n_new, sp_kv_pool *p, const sp_kv_hand *h, const char *salt)
{
    const sp_kv_rec *r = &h->head.rec;
    const sp_kv_seq of = {.salt = salt};
    uint8_t *staged = sp_mem_raw(p->page_bytes + p->lo_bytes);
    sp_err err = staged ? SP_OK : SP_NOMEM;
    *n_new = 0;
    for (uint32_t i = 0; i < r->n_page && err == SP_OK && p->cfg.reuse; i++) {
        const sp_kv_key key = {.id = r->page[i].id,
                               .parent = i ? r->page[i - 1].id : r->parent,
                               .tok = r->page[i].tok};
        uint32_t at;
        if (sp_kvp_index_find(p, &key.id, &key.parent, key.tok) != NONE)
            continue;
        err = sp_kvp_take_page(p, p->lo_bytes && r->lo_mask >> i & 1, &at);
        if (err != SP_OK)
            break;
        err = write_page(p, at, h, i, staged);
        if (err == SP_OK) {
            memcpy(p->pages[at].tag, r->tag, sizeof r->tag);
            memset(p->pages[at].conv, 0, sizeof p->pages[at].conv);
            sp_kvp_index_add(p, at, &key, &of, r->first + i);
            ++*n_new;
        }
        sp_kvp_unpin(p, at); /* cached now, or blank */
    }
    sp_mem_free(staged);
    return err;
}

sp_err sp_kv_pool_import_state(size_t *n_new, sp_kv_pool *p, const sp_kv_hand *h)
{
    const sp_kv_rec *r = &h->head.rec;
    sp_kv_snap of = {.id = r->parent, .n_tok = (size_t)r->first * SP_PAGE_TOK};
    sp_kv_state *state;
    *n_new = 0;
    if (!p->cfg.reuse || !sp_kv_states_keep(p->states) || sp_kv_snap_of(p->states, &of.id))
        return SP_OK;
    memcpy(of.tag, r->tag, sizeof of.tag);
    SP_TRY(sp_kv_state_take(p->states, &state));
    /* Without lo parts the blocks lie one behind the other, as the state does. */
    sp_err err = p->dev->ops->mem_write(p->dev, state->mem,
                                        h->bytes + sp_kv_head_block_at(&h->head, 0),
                                        p->cfg.state_bytes);
    if (err == SP_OK) {
        sp_kv_snap_add(p->states, &of, state);
        *n_new = 1;
    }
    sp_kv_state_put(p->states, state);
    return err;
}
