/* Reading pieces from objects: a thread each, in one ranged request for the head and the first
 * layer, then the rest. */
#include "kv/tier_int.h"

typedef struct cold_read {
    sp_kv_piece *p;
    sp_buf b;       /* bytes not taken yet, from `at` of the object */
    uint8_t *block; /* one unpacked layer */
    sp_err err;
} cold_read;

/* Copies a layer's wanted parts to the pages. */
static void scatter(const sp_kv_piece *p, uint32_t layer, const uint8_t *block)
{
    const sp_kv_rec *c = &p->run->rec;
    const sp_kv_item *item = p->load->item + p->item;
    for (uint32_t i = 0; i < p->n; i++) {
        if (item[i].hi)
            memcpy((uint8_t *)item[i].hi + (size_t)layer * c->hi_bytes,
                   block + sp_kv_rec_hi_at(c, p->page + i), c->hi_bytes);
        if (item[i].lo)
            memcpy((uint8_t *)item[i].lo + (size_t)layer * c->lo_bytes,
                   block + sp_kv_rec_lo_at(c, p->page + i), c->lo_bytes);
    }
}

/* Takes bytes of an object as they come: first the head, then a block at a time. */
static bool take_bytes(void *arg, const void *bytes, size_t n)
{
    cold_read *r = arg;
    sp_kv_piece *p = r->p;
    sp_buf_put(&r->b, bytes, n);
    if (r->b.failed) {
        r->err = SP_NOMEM;
        return false;
    }
    size_t at = 0, head = sp_kv_rec_head_bytes(&p->run->rec);
    if (!p->head->head_bytes) {
        if (r->b.len < head)
            return true;
        memcpy(p->head_bytes, r->b.p, head);
        sp_diag d = {0};
        r->err = sp_kv_head_read(p->head, p->head_bytes, head, &d);
        if (r->err != SP_OK || !sp_kv_piece_fits(p) || !p->head->rec.packed) {
            r->err = SP_CORRUPT;
            return false;
        }
        at = head;
    }
    uint32_t from = p->layer;
    for (; p->layer < p->head->rec.n_layer; p->layer++) {
        size_t size = (size_t)sp_kv_head_size(p->head, p->layer);
        if (r->b.len - at < size)
            break;
        r->err = sp_kv_block_unpack(r->block, p->head, p->layer, r->b.p + at, size);
        if (r->err != SP_OK)
            return false;
        scatter(p, p->layer, r->block);
        at += size;
        if (p->layer == 0) { /* the first layer opens the gate; later ones may come in bunches */
            sp_kv_piece_delivered(p, 0, 1);
            from = 1;
        }
    }
    sp_buf_drop(&r->b, at);
    if (p->layer > from)
        sp_kv_piece_delivered(p, from, p->layer);
    return true;
}

static void fetch_piece(sp_kv_tier *t, sp_kv_piece *p)
{
    char key[128];
    sp_diag d = {0};
    sp_kv_load *l = p->load;
    cold_read r = {.p = p, .block = sp_mem_raw(sp_kv_rec_layer_bytes(&p->run->rec))};
    uint64_t t_first = 0;
    sp_err err = r.block && sp_kv_piece_head(p) ? SP_OK : SP_NOMEM;
    if (err == SP_OK && p->item >= atomic_load(&l->n_good))
        err = SP_CANCEL;
    if (err == SP_OK) {
        /* One ranged request for the head and the first layer, so that this comes soon from every
         * object; then the rest. */
        uint64_t all = l->item[p->item].hit.cold_bytes,
                 first = sp_kv_rec_head_bytes(&p->run->rec) + sp_kv_rec_layer_bytes(&p->run->rec) +
                         1024;
        first = first < all ? first : all;
        sp_kv_object_key(key, p->run);
        err = t->cfg.cold->get(t->cfg.cold->arg, key, 0, first, take_bytes, &r, &d);
        t_first = sp_clock_ns();
        if (err == SP_OK && first < all)
            err = t->cfg.cold->get(t->cfg.cold->arg, key, first, all - first, take_bytes, &r, &d);
        if (err == SP_CANCEL && r.err != SP_OK)
            err = r.err;
        if (err == SP_OK && p->layer < l->n_layer)
            err = SP_CORRUPT;
        sp_kv_cold_went(t, err == SP_NOTFOUND || err == SP_CORRUPT ? SP_OK : err, &d);
    }
    if (err != SP_OK) {
        sp_kv_piece_failed(p);
        if (err == SP_CORRUPT || err == SP_NOTFOUND) {
            sp_log(SP_LOG_WARN, "object %s %s: its pages are computed again", key,
                   err == SP_NOTFOUND ? "is gone" : "is not what was written");
            sp_kv_store_corrupt(t->store, p->run);
        }
    }
    sp_buf_fini(&r.b);
    sp_mem_free(r.block);
    sp_kv_load_finished(l, 1, 1, err == SP_OK ? t_first : 0);
}

void *sp_kv_fetch_main(void *arg)
{
    sp_kv_tier *t = arg;
    sp_lock_get(&t->lock);
    for (;;) {
        while (!t->fetch && !t->stop)
            sp_lock_wait(&t->lock, &t->work_fetch, 0);
        sp_kv_piece *p = t->fetch;
        if (!p)
            break;
        t->fetch = p->next;
        if (!t->fetch)
            t->fetch_tail = &t->fetch;
        sp_lock_put(&t->lock);
        fetch_piece(t, p);
        sp_lock_get(&t->lock);
    }
    sp_lock_put(&t->lock);
    return NULL;
}
