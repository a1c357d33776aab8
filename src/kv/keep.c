/* Snapshots beyond RAM. To the tier a snapshot is a record of one page without tokens, so that
 * checks, tenants, deletions, budget and objects are those of pages; record.h says how one is
 * known. It is brought into its form on the disk by the thread that writes it, and brought back by
 * the step thread when it is needed or has come. */
#include "kv/pool_int.h"
#include "kv/squeeze.h"

enum { BLOCK_MAX = 4 << 20 /* bytes of a block of a record */ };

static size_t form_bytes(const sp_kv_pool *p)
{
    size_t n = p->cfg.state_bytes;
    return p->cfg.squeeze ? sp_kv_squeeze_bytes(n / sizeof(float)) : n;
}

void sp_kvp_state_shape(sp_kv_rec *r, size_t n)
{
    size_t n_block = (n + BLOCK_MAX - 1) / BLOCK_MAX;
    r->n_page = 1;
    r->n_layer = (uint32_t)n_block;
    r->hi_bytes = (uint32_t)((n + n_block - 1) / n_block);
}

static void shape(sp_kv_rec *r, const sp_kv_pool *p)
{
    sp_kvp_state_shape(r, form_bytes(p));
}

static size_t buffer_bytes(const sp_kv_rec *r)
{
    return (size_t)r->n_layer * r->hi_bytes;
}

static void name(sp_kv_rec_page *out, const sp_kv_pool *p, const sp_sha256 *chain)
{
    sp_kv_rec_state_name(out, chain, p->cfg.squeeze, p->cfg.state_bytes);
}

bool sp_kvp_snap_stored(const sp_kv_pool *p, const sp_sha256 *chain, sp_kv_hit *hit)
{
    sp_kv_rec_page entry;
    sp_kv_rec want = {0};
    name(&entry, p, chain);
    const sp_kv_key key = {.id = entry.id, .parent = *chain, .tok = entry.tok};
    if (!sp_kv_tier_find_state(p->cfg.tier, &key, hit))
        return false;
    shape(&want, p);
    const sp_kv_rec *has = &hit->run->rec;
    if (has->n_page == 1 && has->n_layer == want.n_layer && has->hi_bytes == want.hi_bytes &&
        !has->lo_mask)
        return true;
    sp_kv_store_unpin(sp_kv_tier_store(p->cfg.tier), hit->run);
    return false;
}

/* --- writing ---------------------------------------------------------------------------------- */

/* In the writer's thread; state->mem does not change while the save holds it. */
static bool form(sp_kv_save *v)
{
    size_t n = buffer_bytes(&v->rec), used = v->state_bytes;
    if (v->squeeze)
        used = sp_kv_squeeze_bytes(v->state_bytes / sizeof(float));
    uint8_t *out = sp_mem_raw(n);
    if (!out)
        return false;
    v->hi[0] = out;
    memset(out + used, 0, n - used);
    if (v->squeeze)
        return sp_kv_squeeze(out, v->state->mem, v->state_bytes / sizeof(float));
    memcpy(out, v->state->mem, v->state_bytes);
    return true;
}

void sp_kvp_snap_save(sp_kv_pool *p, const sp_kv_snap *of, sp_kv_state *state)
{
    sp_kv_rec_page entry;
    if (!p->cfg.tier)
        return;
    name(&entry, p, &of->id);
    if (sp_kv_store_has(sp_kv_tier_store(p->cfg.tier), &entry.id))
        return;
    sp_kv_save *v = p->n_state_saving < SP_KV_MARKS ? sp_mem_alloc(sizeof *v) : NULL;
    if (!v) {
        p->n_unsaved++;
        return;
    }
    shape(&v->rec, p);
    v->page[0] = entry;
    v->rec.page = v->page;
    v->rec.parent = of->id;
    v->rec.first = (uint32_t)(of->n_tok / SP_PAGE_TOK);
    v->rec.lo_bytes = (uint32_t)(of->n_tok - of->n_before);
    memcpy(v->rec.tag, of->tag, sizeof of->tag);
    memcpy(v->rec.conv, of->conv, sizeof of->conv);
    v->state = state;
    v->state_bytes = p->cfg.state_bytes;
    v->squeeze = p->cfg.squeeze;
    v->form = form;
    state->ref++;
    p->n_state_saving++;
    sp_kv_tier_save(p->cfg.tier, v);
}

void sp_kvp_snap_saved(sp_kv_pool *p, sp_kv_save *v)
{
    sp_mem_free(v->hi[0]);
    sp_kv_state_put(p->states, v->state);
    p->n_state_saving--;
    sp_mem_free(v);
}

/* --- reading ---------------------------------------------------------------------------------- */

sp_err sp_kvp_snap_fetch(sp_kv_seq *s, sp_kv_pool *p, const sp_kv_hit *hit)
{
    sp_kv_state *state = NULL;
    void *buf = sp_mem_raw(buffer_bytes(&hit->run->rec));
    sp_err err = buf ? sp_kv_state_take(p->states, &state) : SP_NOMEM;
    const sp_kv_item item = {.hit = *hit, .hi = buf, .page = NONE};
    if (err == SP_OK)
        err = sp_kv_tier_load(&s->snap_load, p->cfg.tier, &item, 1);
    if (err != SP_OK) {
        sp_kv_state_put(p->states, state);
        sp_mem_free(buf);
        return err;
    }
    sp_kv_load_set_owner(s->snap_load, s);
    s->state = state;
    return SP_OK;
}

/* What has come becomes the state of s, and a snapshot in RAM. */
static void take(sp_kv_seq *s, sp_kv_pool *p)
{
    size_t n, n_good;
    const sp_kv_item *item = sp_kv_load_items(s->snap_load, &n, &n_good);
    const sp_kv_rec *rec = &item[0].hit.run->rec;
    /* No step has been made since it was asked for. */
    sp_kv_snap of = {.id = s->chain, .n_tok = s->n_tok};
    of.n_before = rec->lo_bytes && rec->lo_bytes < of.n_tok ? of.n_tok - rec->lo_bytes : 0;
    memcpy(of.tag, rec->tag, sizeof of.tag);
    memcpy(of.conv, rec->conv, sizeof of.conv);
    if (p->cfg.squeeze)
        sp_kv_unsqueeze(s->state->mem, item[0].hi, p->cfg.state_bytes / sizeof(float));
    else
        memcpy(s->state->mem, item[0].hi, p->cfg.state_bytes);
    sp_kv_snap_add(p->states, &of, s->state);
    sp_kvp_snap_leave(s);
}

void sp_kvp_snap_leave(sp_kv_seq *s)
{
    if (s->snap_load)
        sp_kv_load_set_owner(s->snap_load, NULL);
    s->snap_load = NULL;
}

sp_err sp_kvp_snap_wait(sp_kv_seq *s, sp_kv_pool *p)
{
    if (!s->snap_load)
        return SP_OK;
    size_t n, n_good;
    const sp_kv_item *item = sp_kv_load_items(s->snap_load, &n, &n_good);
    sp_err err = sp_kv_load_wait(s->snap_load, item[0].hit.run->rec.n_layer - 1);
    s->load_failed = s->load_failed || err != SP_OK;
    if (err == SP_OK)
        take(s, p);
    return err;
}

bool sp_kvp_snap_loaded(sp_kv_pool *p, sp_kv_load *l)
{
    size_t n, n_good;
    const sp_kv_item *item = sp_kv_load_items(l, &n, &n_good);
    sp_kv_seq *s = sp_kv_load_owner(l);
    if (item[0].page != NONE)
        return false;
    if (s && n_good == n)
        take(s, p);
    else if (s)
        s->load_failed = true;
    if (s)
        sp_kvp_snap_leave(s);
    sp_mem_free(item[0].hi);
    sp_kv_load_release(l);
    return true;
}
