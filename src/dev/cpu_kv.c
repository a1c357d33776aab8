/* Moving keys and values from one sequence to another: docs/RETRIEVAL.md, "Passages put in
 * place". */
#include "dev/cpu_attn.h"

#include <string.h>

typedef struct move_job {
    cpu_dev *c;
    const sp_dev_kv_view *kv; /* [layer] */
    const sp_dev_span *to, *from;
    const sp_dev_turn *turn; /* [layer] */
    size_t n_head, d;        /* the most that any layer has */
} move_job;

/* One head of page i_page as f32: K^T [d, 32], then V [32, d], which latent pages lack; both
 * rotated where pages are. */
static void read_head(const move_job *j, float *out, const sp_dev_kv_view *kv, size_t i_page,
                      size_t head)
{
    size_t n = kv->d * SP_PAGE_TOK, n_all = kv->n_latent ? n : 2 * n;
    const char *raw = (const char *)j->from->page[i_page] + kv->layer_at + head * kv->head_bytes;
    if (kv->is_fp8) {
        sp_fp8_get(out, out + n, raw, kv->d);
    } else if (kv->is_planes) {
        const sp_planes page = cpu_planes_head(kv, j->from, i_page, head);
        j->c->kern.planes_get(out, kv->n_latent ? NULL : out + n, &page, kv->d);
    } else if (kv->type == SP_F32) {
        memcpy(out, raw, n_all * sizeof *out);
    } else {
        j->c->kern.widen[kv->type](out, raw, n_all);
    }
}

/* Column `slot` of K^T, turned. */
static void turn_key(const move_job *j, float *k, const float *kt, const sp_dev_kv_view *kv,
                     const sp_dev_turn *turn, size_t slot)
{
    for (size_t e = 0; e < kv->d; e++)
        k[e] = kt[e * SP_PAGE_TOK + slot];
    if (cpu_has_open(kv))
        j->c->kern.rotate(k, k, 1, kv->d, true);
    for (size_t e = 0; turn->norm && e < kv->d; e++)
        k[e] = turn->norm[e] == 0 ? 0 : k[e] / turn->norm[e];
    if (turn->cs)
        cpu_turn(&j->c->kern, k, turn, turn->cs);
    for (size_t e = 0; turn->norm && e < kv->d; e++)
        k[e] *= turn->norm[e];
    if (cpu_has_open(kv))
        j->c->kern.rotate(k, k, 1, kv->d, false);
}

/* All pages of one head of one layer, first to last: the open page is the first's until the last
 * one takes it. */
static void move_head(const move_job *j, float *in, char *plain, const sp_dev_kv_view *kv,
                      const sp_dev_turn *turn, size_t head)
{
    const sp_dev_span *to = j->to;
    float k[SP_MAX_KEY];
    char *open = cpu_has_open(kv) ? (char *)to->open + kv->open_at + head * kv->open_bytes : NULL;
    size_t in_page = SIZE_MAX;
    for (size_t i_page = first_page(to); i_page <= last_page(to); i_page++) {
        char *page = (char *)to->page[i_page] + kv->layer_at + head * kv->head_bytes;
        char *out = !cpu_has_open(kv) ? page : i_page == last_page(to) ? open : plain;
        size_t at = i_page == first_page(to) ? to->pos : i_page * SP_PAGE_TOK,
               stop = (i_page + 1) * SP_PAGE_TOK;
        if (out == plain && at % SP_PAGE_TOK)
            memcpy(plain, open, kv->open_bytes);
        for (; at < stop && at < to->pos + to->n; at++) {
            size_t src = at - to->pos + j->from->pos;
            if (src / SP_PAGE_TOK != in_page)
                read_head(j, in, kv, in_page = src / SP_PAGE_TOK, head);
            turn_key(j, k, in, kv, turn, src % SP_PAGE_TOK);
            const float *v = kv->n_latent ? NULL : in + (SP_PAGE_TOK + src % SP_PAGE_TOK) * kv->d;
            cpu_store_token(j->c, kv, out, at % SP_PAGE_TOK, k, v);
        }
        if (cpu_has_open(kv) && at == stop)
            cpu_fill_page(j->c, kv, to, i_page, head, out);
    }
}

/* Items are (layer, KV head). */
static void move_part(void *arg, size_t begin, size_t end, size_t i_thread)
{
    const move_job *j = arg;
    float *in = (float *)(void *)j->c->scratch[i_thread];
    char *plain = (char *)(in + 2 * j->d * SP_PAGE_TOK);
    for (size_t i = begin, layer, head; i < end; i++) {
        layer = i / j->n_head;
        head = i % j->n_head;
        if (head < j->kv[layer].n_head)
            move_head(j, in, plain, &j->kv[layer], &j->turn[layer], head);
    }
}

sp_err cpu_kv_move(sp_dev *dev, const sp_dev_kv_view *kv, size_t n_layer, const sp_dev_span *to,
                   const sp_dev_span *from, const sp_dev_turn *turn)
{
    move_job j = {.c = (cpu_dev *)dev, .kv = kv, .to = to, .from = from, .turn = turn};
    size_t open_bytes = 0;
    uint64_t start = cpu_stat_begin(dev);
    for (size_t i = 0; i < n_layer; i++) {
        j.n_head = kv[i].n_head > j.n_head ? kv[i].n_head : j.n_head;
        j.d = kv[i].d > j.d ? kv[i].d : j.d;
        open_bytes = kv[i].open_bytes > open_bytes ? kv[i].open_bytes : open_bytes;
    }
    SP_DASSERT(to->n == from->n && j.d <= SP_MAX_KEY);
    SP_TRY(cpu_scratch_reserve(j.c, 2 * j.d * SP_PAGE_TOK * sizeof(float) + open_bytes));
    sp_pool_run(j.c->pool, move_part, &j, n_layer * j.n_head, 1);
    cpu_stat_end(dev, SP_STAGE_REST, start, 0, 0);
    return SP_OK;
}
