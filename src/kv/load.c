/* The life of a load: pieces of runs, which load_warm.c and load_cold.c read, and the layers that
 * are there. */
#include "kv/tier_int.h"

enum { LIMIT_MIN_MS = 100 };

/* --- a load's life ---------------------------------------------------------------------------- */

static bool same_piece(const sp_kv_item *a, const sp_kv_item *b)
{
    return a->hit.run == b->hit.run && a->hit.page + 1 == b->hit.page;
}

static void cut_pieces(sp_kv_load *l)
{
    for (size_t i = 0; i < l->n_item; i++) {
        sp_kv_item *it = &l->item[i];
        if (i == 0 || !same_piece(it - 1, it))
            l->piece[l->n_piece++] = (sp_kv_piece){.load = l,
                                                   .run = it->hit.run,
                                                   .item = i,
                                                   .page = it->hit.page,
                                                   .cold = !it->hit.warm};
        sp_kv_piece *p = &l->piece[l->n_piece - 1];
        const sp_kv_rec *c = &it->hit.run->rec;
        p->n++;
        l->bytes[p->cold] +=
            (uint64_t)c->n_layer * ((it->hi ? c->hi_bytes : 0) + (it->lo ? c->lo_bytes : 0));
    }
}

sp_err sp_kv_tier_load(sp_kv_load **out, sp_kv_tier *t, const sp_kv_item *item, size_t n)
{
    sp_kv_load *l = sp_mem_alloc(sizeof *l);
    if (!l)
        return SP_NOMEM;
    l->tier = t;
    l->n_item = n;
    l->n_layer = item[0].hit.run->rec.n_layer;
    l->t_start = sp_clock_ns();
    l->item = sp_mem_array(n, sizeof *l->item);
    l->piece = sp_mem_array(n, sizeof *l->piece);
    l->left = sp_mem_array(l->n_layer, sizeof *l->left);
    if (!l->item || !l->piece || !l->left) {
        sp_mem_free(l->item);
        sp_mem_free(l->piece);
        sp_mem_free(l->left);
        sp_mem_free(l);
        return SP_NOMEM;
    }
    memcpy(l->item, item, n * sizeof *item);
    cut_pieces(l);
    l->n_busy = l->n_piece;
    atomic_init(&l->n_good, n);
    atomic_init(&l->ready, 0);
    for (uint32_t i = 0; i < l->n_layer; i++)
        l->left[i] = (uint32_t)l->n_piece;
    double work = 0;
    for (size_t i = 0; i < n; i++) {
        const sp_kv_hit *h = &l->item[i].hit;
        double at = (double)(h->run->rec.first + h->page) * SP_PAGE_TOK;
        if (sp_kv_rec_is_state(&h->run->rec)) /* without it all before it is computed */
            work += at * (1 + at / 2 * t->cfg.depth_cost);
        else
            work += SP_PAGE_TOK * (1 + at * t->cfg.depth_cost);
    }
    for (size_t i = 0; i < l->n_piece; i++)
        sp_kv_store_used(t->store, l->piece[i].run);
    sp_lock_get(&t->lock);
    double ms = t->tok_s * work * 1e3;
    l->ns_limit = t->cfg.fetch == SP_KV_FETCH_ALWAYS
                      ? UINT64_MAX
                      : (uint64_t)((ms > LIMIT_MIN_MS ? ms : LIMIT_MIN_MS) * 1e6);
    t->n_loading++;
    for (int k = 0; k < 2; k++)
        t->queued_bytes[k] += l->bytes[k];
    if (l->bytes[0]) {
        *t->warm_tail = l;
        t->warm_tail = &l->next;
        pthread_cond_signal(&t->work_warm);
    }
    for (size_t i = 0; i < l->n_piece; i++) {
        if (!l->piece[i].cold)
            continue;
        *t->fetch_tail = &l->piece[i];
        t->fetch_tail = &l->piece[i].next;
    }
    pthread_cond_broadcast(&t->work_fetch);
    sp_lock_put(&t->lock);
    *out = l;
    return SP_OK;
}

size_t sp_kv_load_layers(const sp_kv_load *l)
{
    return atomic_load_explicit(&l->ready, memory_order_acquire);
}

bool sp_kv_load_failed(const sp_kv_load *l)
{
    return atomic_load(&l->n_good) < l->n_item;
}

bool sp_kv_load_expired(const sp_kv_load *l)
{
    return sp_kv_load_layers(l) < l->n_layer && sp_clock_ns() - l->t_start > l->ns_limit;
}

sp_err sp_kv_load_wait(sp_kv_load *l, size_t layer)
{
    sp_kv_tier *t = l->tier;
    if (sp_kv_load_layers(l) > layer)
        return SP_OK;
    sp_err err = SP_OK;
    sp_lock_get(&t->lock);
    while (sp_kv_load_layers(l) <= layer && err == SP_OK) {
        if (sp_kv_load_failed(l))
            err = SP_CORRUPT;
        else if (sp_kv_load_expired(l))
            err = SP_TIMEOUT;
        else
            sp_lock_wait(&t->lock, &t->changed_cond, 20000000);
    }
    sp_lock_put(&t->lock);
    return err;
}

sp_kv_load *sp_kv_tier_done(sp_kv_tier *t)
{
    sp_lock_get(&t->lock);
    sp_kv_load *l = t->done;
    if (l)
        t->done = l->next;
    sp_lock_put(&t->lock);
    return l;
}

const sp_kv_item *sp_kv_load_items(const sp_kv_load *l, size_t *n, size_t *n_good)
{
    *n = l->n_item;
    *n_good = atomic_load(&l->n_good);
    return l->item;
}

void sp_kv_load_times(const sp_kv_load *l, double *first_ms, double *all_ms)
{
    size_t ready = sp_kv_load_layers(l);
    *first_ms = ready ? (double)(l->t_first - l->t_start) * 1e-6 : 0;
    *all_ms = ready == l->n_layer ? (double)(l->t_all - l->t_start) * 1e-6 : 0;
}

void sp_kv_load_set_owner(sp_kv_load *l, void *owner)
{
    l->owner = owner;
}

void *sp_kv_load_owner(const sp_kv_load *l)
{
    return l->owner;
}

void sp_kv_load_release(sp_kv_load *l)
{
    sp_kv_tier *t = l->tier;
    if (!l->owner && l->t_end - l->t_start > l->ns_limit)
        sp_metric_add(t->m.abandoned, 1);
    for (size_t i = 0; i < l->n_item; i++)
        sp_kv_store_unpin(t->store, l->item[i].hit.run);
    for (size_t i = 0; i < l->n_piece; i++) {
        sp_mem_free(l->piece[i].head_bytes);
        sp_mem_free(l->piece[i].head);
    }
    sp_lock_get(&t->lock);
    t->n_loading--;
    sp_lock_put(&t->lock);
    sp_mem_free(l->item);
    sp_mem_free(l->piece);
    sp_mem_free(l->left);
    sp_mem_free(l);
}

size_t sp_kv_tier_loading(const sp_kv_tier *t)
{
    sp_kv_tier *w = (sp_kv_tier *)(uintptr_t)t;
    sp_lock_get(&w->lock);
    size_t n = t->n_loading;
    sp_lock_put(&w->lock);
    return n;
}

/* A piece has delivered layers [from, to). */
void sp_kv_piece_delivered(sp_kv_piece *p, uint32_t from, uint32_t to)
{
    sp_kv_load *l = p->load;
    sp_kv_tier *t = l->tier;
    bool first = false;
    sp_lock_get(&t->lock);
    for (uint32_t i = from; i < to; i++)
        l->left[i]--;
    uint32_t ready = atomic_load(&l->ready), before = ready;
    while (ready < l->n_layer && l->left[ready] == 0)
        ready++;
    if (ready > before && !sp_kv_load_failed(l)) {
        uint64_t now = sp_clock_ns();
        l->t_first = before == 0 ? now : l->t_first;
        l->t_all = ready == l->n_layer ? now : 0;
        atomic_store_explicit(&l->ready, ready, memory_order_release);
        first = before == 0;
        pthread_cond_broadcast(&t->changed_cond);
    }
    sp_lock_put(&t->lock);
    if (first) {
        sp_metric_observe(t->m.first_s[l->bytes[1] > 0],
                          (double)(sp_clock_ns() - l->t_start) * 1e-9);
        sp_kv_notify(t);
    }
}

/* Pages from this piece on are not coming. Tells waiters at once. */
void sp_kv_piece_failed(sp_kv_piece *p)
{
    sp_kv_load *l = p->load;
    p->bad = true;
    sp_lock_get(&l->tier->lock);
    if (p->item < atomic_load(&l->n_good))
        atomic_store(&l->n_good, p->item);
    pthread_cond_broadcast(&l->tier->changed_cond);
    sp_lock_put(&l->tier->lock);
}

static void learn(sp_kv_rate *r, double first_s, double all_s, double bytes)
{
    if (bytes < 1 << 16 || all_s <= 0)
        return;
    double rest = all_s - first_s > all_s / 10 ? all_s - first_s : all_s / 10;
    r->lat_s += (first_s - r->lat_s) * 0.3;
    r->bps += (bytes / rest - r->bps) * 0.3;
}

/* n pieces are finished, one way or the other. */
void sp_kv_load_finished(sp_kv_load *l, size_t n, int tier, uint64_t t_first)
{
    sp_kv_tier *t = l->tier;
    uint64_t now = sp_clock_ns();
    sp_lock_get(&t->lock);
    l->n_busy -= n;
    bool end = l->n_busy == 0;
    if (n && t_first && !sp_kv_load_failed(l))
        learn(&t->rate[tier], (double)(t_first - l->t_start) * 1e-9,
              (double)(now - l->t_start) * 1e-9, (double)l->bytes[tier]);
    if (end) {
        l->t_end = now;
        l->next = t->done;
        t->done = l;
        for (int k = 0; k < 2; k++)
            t->queued_bytes[k] -= l->bytes[k];
        pthread_cond_broadcast(&t->changed_cond);
        sp_metric_observe(t->m.load_s[l->bytes[1] > 0], (double)(now - l->t_start) * 1e-9);
        for (int k = 0; k < 2; k++) {
            sp_metric_add(t->m.bytes_read[k], (double)l->bytes[k]);
            sp_metric_add(t->m.fetch[k], l->bytes[k] ? 1 : 0);
        }
    }
    sp_lock_put(&t->lock); /* from here the step thread may free l */
    if (end)
        sp_kv_notify(t);
}

/* Is the head the one the index promised? */
bool sp_kv_piece_fits(const sp_kv_piece *p)
{
    const sp_kv_rec *a = &p->head->rec, *b = &p->run->rec;
    return a->n_page == b->n_page && a->n_layer == b->n_layer && a->hi_bytes == b->hi_bytes &&
           a->lo_bytes == b->lo_bytes && a->lo_mask == b->lo_mask &&
           memcmp(a->parent.b, b->parent.b, 32) == 0 &&
           memcmp(a->page, b->page, a->n_page * sizeof *a->page) == 0;
}

bool sp_kv_piece_head(sp_kv_piece *p)
{
    p->head = sp_mem_alloc(sizeof *p->head);
    p->head_bytes = sp_mem_raw(sp_kv_rec_head_bytes(&p->run->rec));
    return p->head && p->head_bytes;
}
