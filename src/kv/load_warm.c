/* Reading pieces from the SSD: one thread, many reads in flight, layer by layer over all pieces of
 * a load. */
#include "kv/tier_int.h"

/* Reads for what piece p wants of a layer: one range if its parts lie side by side, else two. */
static int layer_reqs(const sp_kv_piece *p, uint32_t layer, int fd, uint64_t at, sp_kv_io_req *out)
{
    const sp_kv_rec *c = &p->run->rec;
    const sp_kv_item *item = p->load->item + p->item;
    uint64_t block = at + sp_kv_rec_head_bytes(c) + layer * (uint64_t)sp_kv_rec_layer_bytes(c),
             end = 0;
    int n = 0;
    for (int lo = 0; lo < 2; lo++) {
        for (uint32_t i = 0; i < p->n; i++) {
            void *to = lo ? item[i].lo : item[i].hi;
            if (!to)
                continue;
            size_t bytes = lo ? c->lo_bytes : c->hi_bytes;
            uint64_t from =
                block + (lo ? sp_kv_rec_lo_at(c, p->page + i) : sp_kv_rec_hi_at(c, p->page + i));
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
        if (item[i].hi &&
            sp_kv_sum((uint8_t *)item[i].hi + (size_t)layer * c->hi_bytes, c->hi_bytes) !=
                sp_kv_head_sum(p->head, layer, p->page + i, false))
            return false;
        if (item[i].lo &&
            sp_kv_sum((uint8_t *)item[i].lo + (size_t)layer * c->lo_bytes, c->lo_bytes) !=
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
        sp_log(SP_LOG_WARN, "a run on disk cannot be read (%s): its pages are computed again",
               strerror(e));
    else
        sp_log(SP_LOG_WARN, "a run on disk is not what was written: its pages are computed again");
    sp_kv_piece_failed(p);
    sp_kv_store_corrupt(t->store, p->run);
}

typedef struct warm_read { /* owner: warm thread */
    sp_kv_io_req req[SP_KV_IO_DEPTH];
    sp_kv_io_req *free_list;
    size_t n_free;
    uint32_t *out; /* [n_piece * n_layer] reads in flight of a layer of a piece */
} warm_read;

static void submit_reqs(sp_kv_tier *t, warm_read *w, const sp_kv_io_req *made, int n,
                        uint32_t piece)
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
            if (!sp_kv_piece_head(p)) {
                sp_kv_piece_failed(p);
            } else if (sp_kv_store_place(t->store, p->run, &fd, &at) != SP_OK) {
                sp_kv_piece_failed(p);
            } else {
                const sp_kv_io_req r = {
                    .fd = fd,
                    .at = at,
                    .n_iov = 1,
                    .iov = {{p->head_bytes, sp_kv_rec_head_bytes(&p->run->rec)}}};
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
        if (r->result ||
            sp_kv_head_read(p->head, p->head_bytes, sp_kv_rec_head_bytes(&p->run->rec), &d) !=
                SP_OK ||
            !sp_kv_piece_fits(p))
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
                sp_kv_piece_failed(p);
                continue;
            }
            sp_kv_io_req made[2 * SP_KV_RUN];
            int k = layer_reqs(p, layer, fd, at, made);
            w->out[(size_t)layer * l->n_piece + i] = (uint32_t)k;
            submit_reqs(t, w, made, k, i);
            if (k == 0)
                sp_kv_piece_delivered(p, layer, layer + 1);
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
        sp_kv_piece_delivered(p, r->layer, r->layer + 1);
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
                sp_kv_piece_failed(&l->piece[i]);
    }
    sp_mem_free(w.out);
    sp_kv_load_finished(l, n_warm, 0, t_first);
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
