/* The CPU device: splits each operation over the thread pool and calls the kernel table.
 * Owns the pool, the kernel table, and scratch that grows to the largest call seen.
 * Guard: everything here belongs to the thread that drives the device; scratch of a worker is
 * indexed by i_thread. */
#include "dev/dev.h"

#include "base/mem.h"

#include <math.h>
#include <string.h>

enum {
    ROW_BLK = 8,      /* weight rows expanded at once: 8 x 1536 bytes and scales stay in L1/L2 */
    Q_BLK = 64,       /* queries that share one widened page in prefill */
    MIN_ROW_WORK = 64 /* weight rows below which a second thread costs more than it brings */
};

typedef struct cpu_dev {
    sp_dev dev; /* first */
    sp_kern kern;
    sp_pool *pool;
    char **scratch; /* [n_thread] */
    size_t *scratch_bytes;
    sp_kern_acts acts;
    size_t acts_cap; /* elements */
} cpu_dev;

static void *scratch_get(cpu_dev *c, size_t i_thread, size_t n_bytes)
{
    if (c->scratch_bytes[i_thread] < n_bytes) {
        char *p = sp_mem_align(n_bytes);
        if (!p)
            return NULL;
        sp_mem_free(c->scratch[i_thread]);
        c->scratch[i_thread] = p;
        c->scratch_bytes[i_thread] = n_bytes;
    }
    return c->scratch[i_thread];
}

/* Grows every thread's scratch before a parallel part, which then cannot fail. */
static sp_err scratch_reserve(cpu_dev *c, size_t n_bytes)
{
    for (size_t i = 0; i < sp_pool_size(c->pool); i++)
        if (!scratch_get(c, i, n_bytes))
            return SP_NOMEM;
    return SP_OK;
}

static sp_err mem_new(sp_dev *dev, void **out, size_t n_bytes)
{
    (void)dev;
    void *p = sp_mem_align(n_bytes);
    if (!p)
        return SP_NOMEM;
    *out = p;
    return SP_OK;
}

static void mem_free(sp_dev *dev, void *p)
{
    (void)dev;
    sp_mem_free(p);
}

static sp_err mem_read(sp_dev *dev, void *host, const void *p, size_t n_bytes)
{
    (void)dev;
    memcpy(host, p, n_bytes);
    return SP_OK;
}

static sp_err mem_write(sp_dev *dev, void *p, const void *host, size_t n_bytes)
{
    (void)dev;
    memcpy(p, host, n_bytes);
    return SP_OK;
}

static sp_err embed(sp_dev *dev, float *out, const sp_dev_weight *w, const uint32_t *id, size_t n)
{
    cpu_dev *c = (cpu_dev *)dev;
    void *scratch = scratch_get(c, 0, sp_kern_row_scratch(w->k));
    if (!scratch)
        return SP_NOMEM;
    size_t row_bytes = sp_type_row_bytes(w->type, w->k);
    for (size_t i = 0; i < n; i++) {
        SP_DASSERT(id[i] < w->n_row);
        sp_kern_row_f32(&c->kern, out + i * w->k, w->type, (const char *)w->data + id[i] * row_bytes,
                        w->k, scratch);
    }
    return SP_OK;
}

static sp_err norm_rms(sp_dev *dev, float *out, const float *x, const float *w, size_t n_row, size_t n,
                       float eps)
{
    cpu_dev *c = (cpu_dev *)dev;
    for (size_t i = 0; i < n_row; i++)
        c->kern.norm_rms(out + i * n, x + i * n, w, n, eps);
    return SP_OK;
}

static sp_err norm_layer(sp_dev *dev, float *out, const float *x, const float *w, const float *b,
                         size_t n_row, size_t n, float eps)
{
    (void)dev;
    for (size_t r = 0; r < n_row; r++, x += n, out += n) {
        double sum = 0, sq = 0;
        for (size_t i = 0; i < n; i++)
            sum += (double)x[i];
        double mean = sum / (double)n;
        for (size_t i = 0; i < n; i++)
            sq += ((double)x[i] - mean) * ((double)x[i] - mean);
        float scale = (float)(1.0 / sqrt(sq / (double)n + (double)eps));
        for (size_t i = 0; i < n; i++)
            out[i] = (x[i] - (float)mean) * scale * w[i] + b[i];
    }
    return SP_OK;
}

typedef struct quant_job {
    cpu_dev *c;
    const float *x;
    size_t k;
} quant_job;

static void quant_part(void *arg, size_t begin, size_t end, size_t i_thread)
{
    const quant_job *j = arg;
    const sp_kern_acts *a = &j->c->acts;
    (void)i_thread;
    for (size_t t = begin; t < end; t++)
        j->c->kern.quant_act(a->q + t * j->k, a->d + t * (j->k / 32), a->sum + t * (j->k / 16),
                             j->x + t * j->k, j->k);
}

static sp_err quantise(cpu_dev *c, const float *x, size_t n_row, size_t k)
{
    if (c->acts_cap < n_row * k) {
        size_t cap = n_row * k;
        sp_kern_acts a = {sp_mem_align(cap), sp_mem_align(cap / 8), sp_mem_align(cap / 4)};
        if (!a.q || !a.d || !a.sum) {
            sp_mem_free(a.q);
            sp_mem_free(a.d);
            sp_mem_free(a.sum);
            return SP_NOMEM;
        }
        sp_mem_free(c->acts.q);
        sp_mem_free(c->acts.d);
        sp_mem_free(c->acts.sum);
        c->acts = a;
        c->acts_cap = cap;
    }
    quant_job j = {c, x, k};
    sp_pool_run(c->pool, quant_part, &j, n_row, 16);
    return SP_OK;
}

typedef struct matmul_job {
    cpu_dev *c;
    float *const *out;
    const float *x;
    const sp_dev_weight *w;
    const float *const *bias;
    size_t n_w, n_row;
} matmul_job;

/* Up to ROW_BLK rows of one weight against all tokens. */
static void matmul_rows(const matmul_job *j, const sp_dev_weight *w, float *out, const float *bias,
                        size_t r0, size_t n, char *scratch)
{
    const sp_kern *kern = &j->c->kern;
    size_t k = w->k, row_bytes = sp_type_row_bytes(w->type, k);
    const char *row = (const char *)w->data + r0 * row_bytes;
    if (kern->widen[w->type]) {
        const float *wf = (const float *)(const void *)row;
        if (w->type != SP_F32) {
            for (size_t i = 0; i < n; i++)
                kern->widen[w->type]((float *)(void *)scratch + i * k, row + i * row_bytes, k);
            wf = (const float *)(const void *)scratch;
        }
        kern->gemm_f(out + r0, w->n_row, wf, j->x, n, j->n_row, k);
    } else {
        sp_kern_rows rows = {.d = (float *)(void *)scratch};
        rows.m = rows.d + ROW_BLK * (k / 16);
        rows.q = (uint8_t *)(rows.m + ROW_BLK * (k / 16));
        for (size_t i = 0; i < n; i++)
            kern->expand[w->type](rows.q + i * k, rows.d + i * (k / 16), rows.m + i * (k / 16),
                                  row + i * row_bytes, k);
        kern->gemm_q(out + r0, w->n_row, &rows, &j->c->acts, n, j->n_row, k);
    }
    if (bias)
        for (size_t t = 0; t < j->n_row; t++)
            for (size_t i = 0; i < n; i++)
                out[t * w->n_row + r0 + i] += bias[r0 + i];
}

/* Items are rows of all weights laid end to end. */
static void matmul_part(void *arg, size_t begin, size_t end, size_t i_thread)
{
    const matmul_job *j = arg;
    size_t first = 0;
    for (size_t i = 0; i < j->n_w && first < end; first += j->w[i].n_row, i++) {
        size_t r = begin > first ? begin - first : 0;
        size_t stop = end - first < j->w[i].n_row ? end - first : j->w[i].n_row;
        while (r < stop) {
            size_t n = stop - r < ROW_BLK ? stop - r : ROW_BLK;
            matmul_rows(j, &j->w[i], j->out[i], j->bias ? j->bias[i] : NULL, r, n,
                        j->c->scratch[i_thread]);
            r += n;
        }
    }
}

static sp_err matmul(sp_dev *dev, float *const *out, const float *x, const sp_dev_weight *w,
                     const float *const *bias, size_t n_w, size_t n_row)
{
    cpu_dev *c = (cpu_dev *)dev;
    size_t total = 0, k = w[0].k;
    bool quantised = false;
    for (size_t i = 0; i < n_w; i++) {
        SP_DASSERT(w[i].k == k);
        total += w[i].n_row;
        quantised = quantised || !c->kern.widen[w[i].type];
    }
    SP_TRY(scratch_reserve(c, ROW_BLK * k * sizeof(float)));
    if (quantised)
        SP_TRY(quantise(c, x, n_row, k));
    matmul_job j = {c, out, x, w, bias, n_w, n_row};
    sp_pool_run(c->pool, matmul_part, &j, total, MIN_ROW_WORK);
    return SP_OK;
}

static sp_err rope(sp_dev *dev, float *x, const uint32_t *pos, size_t n_row, size_t n_head, size_t d,
                   const sp_dev_rope *r)
{
    cpu_dev *c = (cpu_dev *)dev;
    float *cs = scratch_get(c, 0, r->d_rot * sizeof *cs);
    if (!cs)
        return SP_NOMEM;
    for (size_t t = 0; t < n_row; t++) {
        for (size_t i = 0; i < r->d_rot / 2; i++) {
            float angle = (float)pos[t] * r->freq[i];
            cs[2 * i] = cosf(angle) * r->scale;
            cs[2 * i + 1] = sinf(angle) * r->scale;
        }
        for (size_t h = 0; h < n_head; h++) {
            float *v = x + (t * n_head + h) * d;
            for (size_t i = 0; i < r->d_rot; i += 2) {
                float a = v[i], b = v[i + 1];
                v[i] = a * cs[i] - b * cs[i + 1];
                v[i + 1] = a * cs[i + 1] + b * cs[i];
            }
        }
    }
    return SP_OK;
}

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

static sp_err kv_write(sp_dev *dev, const sp_dev_kv_view *kv, const float *k, const float *v,
                       const sp_dev_span *span, size_t n_span)
{
    cpu_dev *c = (cpu_dev *)dev;
    sp_f16 *tmp = scratch_get(c, 0, kv->d * sizeof *tmp);
    if (!tmp)
        return SP_NOMEM;
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

static sp_err attn_paged(sp_dev *dev, float *out, const float *q, const sp_dev_kv_view *kv,
                         size_t n_q_head, float scale, const sp_dev_span *span, size_t n_span)
{
    cpu_dev *c = (cpu_dev *)dev;
    size_t group = n_q_head / kv->n_head, tok_blk = Q_BLK / group ? Q_BLK / group : 1;
    size_t n_q = tok_blk * group, n_item = 0;
    SP_DASSERT(n_q_head % kv->n_head == 0 && kv->d % 16 == 0);
    SP_TRY(scratch_reserve(c, (2 * kv->d * SP_PAGE_TOK + 2 * n_q * kv->d + 2 * n_q) * sizeof(float) + n_q));
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
            j->c->kern.gemm_f(p, n, kh, j->q + t * ld + h * d, n, 1, d);
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

static sp_err attn_full(sp_dev *dev, float *out, const float *q, const float *k, const float *v,
                        size_t n, size_t n_head, size_t d, float scale)
{
    cpu_dev *c = (cpu_dev *)dev;
    SP_TRY(scratch_reserve(c, (n * d + n) * sizeof(float)));
    full_job j = {c, out, q, k, v, n, n_head, d, scale};
    sp_pool_run(c->pool, full_part, &j, n_head, 1);
    return SP_OK;
}

typedef struct glu_job {
    cpu_dev *c;
    float *out;
    const float *gate, *up;
} glu_job;

static void glu_part(void *arg, size_t begin, size_t end, size_t i_thread)
{
    const glu_job *j = arg;
    (void)i_thread;
    j->c->kern.glu_silu(j->out + begin, j->gate + begin, j->up + begin, end - begin);
}

static sp_err glu_silu(sp_dev *dev, float *out, const float *gate, const float *up, size_t n)
{
    cpu_dev *c = (cpu_dev *)dev;
    glu_job j = {c, out, gate, up};
    sp_pool_run(c->pool, glu_part, &j, n, 16384); /* a multiple of every vector width */
    return SP_OK;
}

static sp_err gelu(sp_dev *dev, float *x, size_t n)
{
    (void)dev;
    for (size_t i = 0; i < n; i++)
        x[i] = 0.5f * x[i] * (1.0f + erff(x[i] * 0.70710678f));
    return SP_OK;
}

static sp_err add(sp_dev *dev, float *x, const float *y, size_t n)
{
    (void)dev;
    for (size_t i = 0; i < n; i++)
        x[i] += y[i];
    return SP_OK;
}

static sp_err copy(sp_dev *dev, void *to, const void *from, size_t n_bytes)
{
    (void)dev;
    memcpy(to, from, n_bytes);
    return SP_OK;
}

static void cpu_close(sp_dev *dev)
{
    cpu_dev *c = (cpu_dev *)dev;
    for (size_t i = 0; c->scratch && i < sp_pool_size(c->pool); i++)
        sp_mem_free(c->scratch[i]);
    sp_mem_free(c->scratch);
    sp_mem_free(c->scratch_bytes);
    sp_mem_free(c->acts.q);
    sp_mem_free(c->acts.d);
    sp_mem_free(c->acts.sum);
    sp_pool_free(c->pool);
    sp_mem_free(c);
}

static const sp_dev_ops cpu_ops = {
    .name = "cpu", .close = cpu_close, .mem_new = mem_new, .mem_free = mem_free,
    .mem_read = mem_read, .mem_write = mem_write, .embed = embed, .norm_rms = norm_rms,
    .norm_layer = norm_layer, .matmul = matmul, .rope = rope, .kv_write = kv_write,
    .attn_paged = attn_paged, .attn_full = attn_full, .glu_silu = glu_silu, .gelu = gelu,
    .add = add, .copy = copy,
};

sp_err sp_dev_open(sp_dev **out, const sp_dev_cfg *cfg, sp_diag *d)
{
    if (strcmp(cfg->name, cpu_ops.name) != 0)
        return SP_FAIL(d, SP_UNSUP, "device %s is not part of this build (cpu is)", cfg->name);
    cpu_dev *c = sp_mem_alloc(sizeof *c);
    if (!c)
        return SP_FAIL(d, SP_NOMEM, "device");
    c->dev.ops = &cpu_ops;
    sp_kern_init(&c->kern, cfg->mask);
    sp_err err = sp_pool_new(&c->pool, cfg->n_thread, d);
    if (err == SP_OK) {
        c->scratch = sp_mem_array(sp_pool_size(c->pool), sizeof *c->scratch);
        c->scratch_bytes = sp_mem_array(sp_pool_size(c->pool), sizeof *c->scratch_bytes);
        if (!c->scratch || !c->scratch_bytes)
            err = SP_FAIL(d, SP_NOMEM, "device scratch");
    }
    if (err == SP_OK)
        *out = &c->dev;
    else
        cpu_close(&c->dev);
    return err;
}

sp_pool *sp_dev_cpu_pool(sp_dev *dev)
{
    return dev->ops == &cpu_ops ? ((cpu_dev *)dev)->pool : NULL;
}

const sp_kern *sp_dev_cpu_kern(sp_dev *dev)
{
    return dev->ops == &cpu_ops ? &((cpu_dev *)dev)->kern : NULL;
}
