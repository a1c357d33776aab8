/* Loads: pieces of runs read layer by layer, from the SSD by one thread with many reads in flight,
 * from objects by several threads with one request each. */
#include "kv/tier_int.h"

#include <errno.h>

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
            l->piece[l->n_piece++] =
                (sp_kv_piece){.load = l, .run = it->hit.run, .item = i, .page = it->hit.page, .cold = !it->hit.warm};
        sp_kv_piece *p = &l->piece[l->n_piece - 1];
        const sp_kv_rec *c = &it->hit.run->rec;
        it->cold = p->cold;
        p->n++;
        l->bytes[p->cold] += (uint64_t)c->n_layer * ((it->hi ? c->hi_bytes : 0) + (it->lo ? c->lo_bytes : 0));
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
        work += SP_PAGE_TOK * (1 + (double)(h->run->rec.first + h->page) * SP_PAGE_TOK * t->cfg.depth_cost);
    }
    for (size_t i = 0; i < l->n_piece; i++)
        sp_kv_store_used(t->store, l->piece[i].run);
    sp_lock_get(&t->lock);
    double ms = t->tok_s * work * 1e3;
    l->ns_limit = t->cfg.fetch == SP_KV_FETCH_ALWAYS ? UINT64_MAX : (uint64_t)((ms > LIMIT_MIN_MS ? ms : LIMIT_MIN_MS) * 1e6);
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
static void delivered(sp_kv_piece *p, uint32_t from, uint32_t to)
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
        sp_metric_observe(t->m.first_s[l->bytes[1] > 0], (double)(sp_clock_ns() - l->t_start) * 1e-9);
        sp_kv_notify(t);
    }
}

/* Pages from this piece on are not coming. Tells waiters at once. */
static void failed(sp_kv_piece *p)
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
static void finished(sp_kv_load *l, size_t n, int tier, uint64_t t_first)
{
    sp_kv_tier *t = l->tier;
    uint64_t now = sp_clock_ns();
    sp_lock_get(&t->lock);
    l->n_busy -= n;
    bool end = l->n_busy == 0;
    if (n && t_first && !sp_kv_load_failed(l))
        learn(&t->rate[tier], (double)(t_first - l->t_start) * 1e-9, (double)(now - l->t_start) * 1e-9, (double)l->bytes[tier]);
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
            sp_metric_add(t->m.fetch[k + 1], l->bytes[k] ? 1 : 0);
        }
    }
    sp_lock_put(&t->lock); /* from here the step thread may free l */
    if (end)
        sp_kv_notify(t);
}

/* Is the head the one the index promised? */
static bool head_fits(const sp_kv_piece *p)
{
    const sp_kv_rec *a = &p->head->rec, *b = &p->run->rec;
    return a->n_page == b->n_page && a->n_layer == b->n_layer && a->hi_bytes == b->hi_bytes && a->lo_bytes == b->lo_bytes &&
           a->lo_mask == b->lo_mask && memcmp(a->parent.b, b->parent.b, 32) == 0 &&
           memcmp(a->page, b->page, a->n_page * sizeof *a->page) == 0;
}

/* --- SSD -------------------------------------------------------------------------------------- */

static bool make_head(sp_kv_piece *p)
{
    p->head = sp_mem_alloc(sizeof *p->head);
    p->head_bytes = sp_mem_raw(sp_kv_rec_head_bytes(&p->run->rec));
    return p->head && p->head_bytes;
}

/* Reads for what piece p wants of a layer: one range if its parts lie side by side, else two. */
static int layer_reqs(const sp_kv_piece *p, uint32_t layer, int fd, uint64_t at, sp_kv_io_req *out)
{
    const sp_kv_rec *c = &p->run->rec;
    const sp_kv_item *item = p->load->item + p->item;
    uint64_t block = at + sp_kv_rec_head_bytes(c) + layer * (uint64_t)sp_kv_rec_layer_bytes(c), end = 0;
    int n = 0;
    for (int lo = 0; lo < 2; lo++) {
        for (uint32_t i = 0; i < p->n; i++) {
            void *to = lo ? item[i].lo : item[i].hi;
            if (!to)
                continue;
            size_t bytes = lo ? c->lo_bytes : c->hi_bytes;
            uint64_t from = block + (lo ? sp_kv_rec_lo_at(c, p->page + i) : sp_kv_rec_hi_at(c, p->page + i));
            if (n == 0 || from != end || out[n - 1].n_iov == SP_KV_IO_IOV) {
                out[n] = (sp_kv_io_req){.fd = fd, .at = from, .layer = layer};
                n++;
            }
            sp_kv_io_req *r = &out[n - 1];
            r->iov[r->n_iov++] = (struct iovec){(uint8_t *)to + layer * bytes, bytes};
            end = from + bytes;
        }
    }
    return n;
}

static bool check_layer(const sp_kv_piece *p, uint32_t layer)
{
    const sp_kv_rec *c = &p->run->rec;
    const sp_kv_item *item = p->load->item + p->item;
    for (uint32_t i = 0; i < p->n; i++) {
        if (item[i].hi && sp_kv_sum((uint8_t *)item[i].hi + (size_t)layer * c->hi_bytes, c->hi_bytes) !=
                              sp_kv_head_sum(p->head, layer, p->page + i, false))
            return false;
        if (item[i].lo && sp_kv_sum((uint8_t *)item[i].lo + (size_t)layer * c->lo_bytes, c->lo_bytes) !=
                              sp_kv_head_sum(p->head, layer, p->page + i, true))
            return false;
    }
    return true;
}

static void drop_piece(sp_kv_tier *t, sp_kv_piece *p, int e)
{
    if (p->bad)
        return;
    if (e)
        sp_log(SP_LOG_WARN, "a run on disk cannot be read (%s): its pages are computed again", strerror(e));
    else
        sp_log(SP_LOG_WARN, "a run on disk is not what was written: its pages are computed again");
    failed(p);
    sp_kv_store_corrupt(t->store, p->run);
}

typedef struct warm_read { /* owner: warm thread */
    sp_kv_io_req req[SP_KV_IO_DEPTH];
    sp_kv_io_req *free_list;
    size_t n_free;
    uint32_t *out; /* [n_piece * n_layer] reads in flight of a layer of a piece */
} warm_read;

static void submit_reqs(sp_kv_tier *t, warm_read *w, const sp_kv_io_req *made, int n, uint32_t piece)
{
    for (int i = 0; i < n; i++) {
        sp_kv_io_req *r = w->free_list;
        w->free_list = r->next;
        w->n_free--;
        *r = made[i];
        r->piece = piece;
        sp_kv_io_submit(t->io, r);
    }
}

static sp_kv_io_req *collect(sp_kv_tier *t, warm_read *w)
{
    sp_kv_io_req *r = sp_kv_io_collect(t->io);
    if (r) {
        r->next = w->free_list;
        w->free_list = r;
        w->n_free++;
    }
    return r;
}

static void read_heads(sp_kv_tier *t, sp_kv_load *l, warm_read *w)
{
    size_t next = 0;
    for (;;) {
        while (next < l->n_piece && w->n_free) {
            sp_kv_piece *p = &l->piece[next];
            int fd;
            uint64_t at;
            next++;
            if (p->cold)
                continue;
            if (!make_head(p)) {
                failed(p);
            } else if (sp_kv_store_place(t->store, p->run, &fd, &at) != SP_OK) {
                failed(p);
            } else {
                const sp_kv_io_req r = {
                    .fd = fd, .at = at, .n_iov = 1, .iov = {{p->head_bytes, sp_kv_rec_head_bytes(&p->run->rec)}}};
                submit_reqs(t, w, &r, 1, (uint32_t)(next - 1));
            }
        }
        sp_kv_io_req *r = collect(t, w);
        if (!r && next == l->n_piece)
            return;
        if (!r)
            continue;
        sp_kv_piece *p = &l->piece[r->piece];
        sp_diag d = {0};
        if (r->result || sp_kv_head_read(p->head, p->head_bytes, sp_kv_rec_head_bytes(&p->run->rec), &d) != SP_OK ||
            !head_fits(p))
            drop_piece(t, p, r->result);
    }
}

/* Layer by layer over all pieces, as many reads in flight as there are. */
static void read_layers(sp_kv_tier *t, sp_kv_load *l, warm_read *w, uint64_t *t_first)
{
    size_t next = 0, n = l->n_piece * l->n_layer;
    for (;;) {
        while (next < n && w->n_free >= 2 * SP_KV_RUN) {
            uint32_t layer = (uint32_t)(next / l->n_piece), i = (uint32_t)(next % l->n_piece);
            sp_kv_piece *p = &l->piece[i];
            int fd;
            uint64_t at;
            next++;
            if (p->cold || p->bad || p->item >= atomic_load(&l->n_good))
                continue;
            if (sp_kv_store_place(t->store, p->run, &fd, &at) != SP_OK) {
                failed(p);
                continue;
            }
            sp_kv_io_req made[2 * SP_KV_RUN];
            int k = layer_reqs(p, layer, fd, at, made);
            w->out[(size_t)layer * l->n_piece + i] = (uint32_t)k;
            submit_reqs(t, w, made, k, i);
            if (k == 0)
                delivered(p, layer, layer + 1);
        }
        sp_kv_io_req *r = collect(t, w);
        if (!r && next == n)
            return;
        if (!r)
            continue;
        sp_kv_piece *p = &l->piece[r->piece];
        if (r->result)
            drop_piece(t, p, r->result);
        if (--w->out[(size_t)r->layer * l->n_piece + r->piece] || p->bad)
            continue;
        if (!check_layer(p, r->layer)) {
            drop_piece(t, p, 0);
            continue;
        }
        delivered(p, r->layer, r->layer + 1);
        if (r->layer == 0)
            *t_first = sp_clock_ns();
    }
}

static void read_warm(sp_kv_tier *t, sp_kv_load *l)
{
    static _Thread_local warm_read w; /* 40 KB; one warm thread */
    uint64_t t_first = 0;
    size_t n_warm = 0;
    w.free_list = NULL;
    w.n_free = SP_KV_IO_DEPTH;
    for (size_t i = 0; i < SP_KV_IO_DEPTH; i++) {
        w.req[i].next = w.free_list;
        w.free_list = &w.req[i];
    }
    for (size_t i = 0; i < l->n_piece; i++)
        n_warm += !l->piece[i].cold;
    w.out = sp_mem_array(l->n_piece * l->n_layer, sizeof *w.out);
    if (w.out) {
        read_heads(t, l, &w);
        read_layers(t, l, &w, &t_first);
    } else {
        for (size_t i = 0; i < l->n_piece; i++)
            if (!l->piece[i].cold)
                failed(&l->piece[i]);
    }
    sp_mem_free(w.out);
    finished(l, n_warm, 0, t_first);
}

void *sp_kv_warm_main(void *arg)
{
    sp_kv_tier *t = arg;
    sp_lock_get(&t->lock);
    for (;;) {
        while (!t->warm && !t->stop)
            sp_lock_wait(&t->lock, &t->work_warm, 0);
        sp_kv_load *l = t->warm;
        if (!l)
            break;
        t->warm = l->next;
        if (!t->warm)
            t->warm_tail = &t->warm;
        l->next = NULL;
        sp_lock_put(&t->lock);
        read_warm(t, l);
        sp_lock_get(&t->lock);
    }
    sp_lock_put(&t->lock);
    return NULL;
}

/* --- objects ---------------------------------------------------------------------------------- */

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
            memcpy((uint8_t *)item[i].hi + (size_t)layer * c->hi_bytes, block + sp_kv_rec_hi_at(c, p->page + i), c->hi_bytes);
        if (item[i].lo)
            memcpy((uint8_t *)item[i].lo + (size_t)layer * c->lo_bytes, block + sp_kv_rec_lo_at(c, p->page + i), c->lo_bytes);
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
        if (r->err != SP_OK || !head_fits(p) || !p->head->rec.packed) {
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
            delivered(p, 0, 1);
            from = 1;
        }
    }
    sp_buf_drop(&r->b, at);
    if (p->layer > from)
        delivered(p, from, p->layer);
    return true;
}

static void fetch_piece(sp_kv_tier *t, sp_kv_piece *p)
{
    char key[128];
    sp_diag d = {0};
    sp_kv_load *l = p->load;
    cold_read r = {.p = p, .block = sp_mem_raw(sp_kv_rec_layer_bytes(&p->run->rec))};
    uint64_t t_first = 0;
    sp_err err = r.block && make_head(p) ? SP_OK : SP_NOMEM;
    if (err == SP_OK && p->item >= atomic_load(&l->n_good))
        err = SP_CANCEL;
    if (err == SP_OK) {
        /* One ranged request for the head and the first layer, so that this comes soon from every object; then the rest. */
        uint64_t all = l->item[p->item].hit.cold_bytes,
                 first = sp_kv_rec_head_bytes(&p->run->rec) + sp_kv_rec_layer_bytes(&p->run->rec) + 1024;
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
        failed(p);
        if (err == SP_CORRUPT || err == SP_NOTFOUND) {
            sp_log(SP_LOG_WARN, "object %s %s: its pages are computed again", key,
                   err == SP_NOTFOUND ? "is gone" : "is not what was written");
            sp_kv_store_corrupt(t->store, p->run);
        }
    }
    sp_buf_fini(&r.b);
    sp_mem_free(r.block);
    finished(l, 1, 1, err == SP_OK ? t_first : 0);
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
