/* KV pages and attention on the CPU. */
#include "dev/cpu.h"

#include <math.h>
#include <string.h>

enum { Q_BLK = 64 }; /* queries that share one widened page in prefill */

/* One token's K and V of one head into slot of its page: K column-wise, V as a row. */
static void store_head(const cpu_dev *c, const sp_dev_kv_view *kv, char *head, size_t slot, const float *k,
                       const float *v, sp_f16 *tmp)
{
    size_t d = kv->d;
    if (kv->type == SP_F32) {
        float *f = (float *)(void *)head;
        for (size_t e = 0; e < d; e++)
            f[e * SP_PAGE_TOK + slot] = k[e];
        memcpy(f + d * SP_PAGE_TOK + slot * d, v, d * sizeof *f);
        return;
    }
    sp_f16 *h = (sp_f16 *)(void *)head;
    c->kern.narrow_f16(tmp, k, d);
    for (size_t e = 0; e < d; e++)
        h[e * SP_PAGE_TOK + slot] = tmp[e];
    c->kern.narrow_f16(h + d * SP_PAGE_TOK + slot * d, v, d);
}

sp_err cpu_kv_write(sp_dev *dev, const sp_dev_kv_view *kv, const float *k, const float *v,
                       const sp_dev_span *span, size_t n_span)
{
    cpu_dev *c = (cpu_dev *)dev;
    SP_TRY(cpu_scratch_reserve(c, kv->d * sizeof(sp_f16)));
    sp_f16 *tmp = (sp_f16 *)(void *)c->scratch[0];
    for (const sp_dev_span *s = span; s < span + n_span; s++) {
        for (size_t i = 0; i < s->n; i++) {
            size_t at = s->pos + i;
            char *layer = (char *)s->page[at / SP_PAGE_TOK] + kv->layer_at;
            for (size_t h = 0; h < kv->n_head; h++) {
                size_t from = ((s->row + i) * kv->n_head + h) * kv->d;
                store_head(c, kv, layer + h * kv->head_bytes, at % SP_PAGE_TOK, k + from, v + from, tmp);
            }
        }
    }
    return SP_OK;
}

typedef struct attn_job {
    cpu_dev *c;
    float *out;
    const float *q;
    const sp_dev_kv_view *kv;
    const sp_dev_span *span;
    size_t n_span, n_q_head, tok_blk; /* tok_blk: tokens of a span whose heads form one tile */
    float scale;
} attn_job;

/* One tile: the query heads of one KV head, for n_tok tokens of a span from i_tok on. */
static void attn_tile(const attn_job *j, const sp_dev_span *s, size_t head, size_t i_tok,
                      size_t n_tok, char *scratch)
{
    const sp_dev_kv_view *kv = j->kv;
    const sp_kern *kern = &j->c->kern;
    size_t d = kv->d, group = j->n_q_head / kv->n_head, n_q = n_tok * group;
    size_t half_page = d * SP_PAGE_TOK;
    float *page = (float *)(void *)scratch, *q = page + 2 * half_page, *acc = q + n_q * d;
    float *max = acc + n_q * d, *sum = max + n_q;
    uint8_t *vis = (uint8_t *)(sum + n_q);
    for (size_t i = 0; i < n_q; i++) {
        const float *src = j->q + ((s->row + i_tok + i / group) * j->n_q_head + head * group + i % group) * d;
        for (size_t e = 0; e < d; e++)
            q[i * d + e] = src[e] * j->scale;
        max[i] = -INFINITY;
        sum[i] = 0;
    }
    memset(acc, 0, n_q * d * sizeof *acc);
    size_t last = s->pos + i_tok + n_tok; /* positions seen by the last token */
    for (size_t base = 0; base < last; base += SP_PAGE_TOK) {
        const char *raw = (const char *)s->page[base / SP_PAGE_TOK] + kv->layer_at + head * kv->head_bytes;
        const float *kt = page;
        if (kv->type == SP_F32)
            kt = (const float *)(const void *)raw;
        else
            kern->widen[kv->type](page, raw, 2 * half_page);
        for (size_t i = 0; i < n_q; i++) {
            size_t seen = s->pos + i_tok + i / group + 1;
            size_t in = seen > base ? seen - base : 0;
            vis[i] = (uint8_t)(in < SP_PAGE_TOK ? in : SP_PAGE_TOK);
        }
        kern->attn_page(acc, max, sum, q, kt, kt + half_page, vis, n_q, d);
    }
    for (size_t i = 0; i < n_q; i++) {
        float *dst = j->out + ((s->row + i_tok + i / group) * j->n_q_head + head * group + i % group) * d;
        float inv = 1.0f / sum[i];
        for (size_t e = 0; e < d; e++)
            dst[e] = acc[i * d + e] * inv;
    }
}

/* Items are (span, token block, KV head) tiles in that order. */
static void attn_part(void *arg, size_t begin, size_t end, size_t i_thread)
{
    const attn_job *j = arg;
    size_t first = 0;
    for (const sp_dev_span *s = j->span; s < j->span + j->n_span && first < end; s++) {
        size_t n_blk = (s->n + j->tok_blk - 1) / j->tok_blk, n_item = n_blk * j->kv->n_head;
        for (size_t i = begin > first ? begin - first : 0; i < n_item && first + i < end; i++) {
            size_t i_tok = i / j->kv->n_head * j->tok_blk;
            size_t n_tok = s->n - i_tok < j->tok_blk ? s->n - i_tok : j->tok_blk;
            attn_tile(j, s, i % j->kv->n_head, i_tok, n_tok, j->c->scratch[i_thread]);
        }
        first += n_item;
    }
}

sp_err cpu_attn_paged(sp_dev *dev, float *out, const float *q, const sp_dev_kv_view *kv,
                         size_t n_q_head, float scale, const sp_dev_span *span, size_t n_span)
{
    cpu_dev *c = (cpu_dev *)dev;
    size_t group = n_q_head / kv->n_head, tok_blk = Q_BLK / group ? Q_BLK / group : 1;
    size_t n_q = tok_blk * group, n_item = 0;
    SP_DASSERT(n_q_head % kv->n_head == 0 && kv->d % 16 == 0);
    SP_TRY(cpu_scratch_reserve(c, (2 * kv->d * SP_PAGE_TOK + 2 * n_q * kv->d + 2 * n_q) * sizeof(float) + n_q));
    attn_job j = {c, out, q, kv, span, n_span, n_q_head, tok_blk, scale};
    for (size_t i = 0; i < n_span; i++)
        n_item += (span[i].n + tok_blk - 1) / tok_blk * kv->n_head;
    sp_pool_run(c->pool, attn_part, &j, n_item, 1);
    return SP_OK;
}

typedef struct full_job {
    cpu_dev *c;
    float *out;
    const float *q, *k, *v;
    size_t n, n_head, d;
    float scale;
} full_job;

static void full_part(void *arg, size_t begin, size_t end, size_t i_thread)
{
    const full_job *j = arg;
    size_t n = j->n, d = j->d, ld = j->n_head * d;
    float *kh = (float *)(void *)j->c->scratch[i_thread], *p = kh + n * d;
    for (size_t h = begin; h < end; h++) {
        for (size_t t = 0; t < n; t++)
            memcpy(kh + t * d, j->k + t * ld + h * d, d * sizeof *kh);
        for (size_t t = 0; t < n; t++) {
            float top = -INFINITY, sum = 0, *o = j->out + t * ld + h * d;
            j->c->kern.gemm_f(p, n, kh, j->q + t * ld + h * d, n, 1, d, false);
            for (size_t i = 0; i < n; i++)
                top = fmaxf(top, p[i] * j->scale);
            for (size_t i = 0; i < n; i++)
                sum += p[i] = expf(p[i] * j->scale - top);
            memset(o, 0, d * sizeof *o);
            for (size_t i = 0; i < n; i++)
                for (size_t e = 0; e < d; e++)
                    o[e] += p[i] / sum * j->v[i * ld + h * d + e];
        }
    }
}

sp_err cpu_attn_full(sp_dev *dev, float *out, const float *q, const float *k, const float *v,
                        size_t n, size_t n_head, size_t d, float scale)
{
    cpu_dev *c = (cpu_dev *)dev;
    SP_TRY(cpu_scratch_reserve(c, (n * d + n) * sizeof(float)));
    full_job j = {c, out, q, k, v, n, n_head, d, scale};
    sp_pool_run(c->pool, full_part, &j, n_head, 1);
    return SP_OK;
}
