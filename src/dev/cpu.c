/* The CPU device: owns the pool, the kernel table, and scratch that grows to the largest call seen.
 * Weights and products are in cpu_matmul.c, KV pages and attention in cpu_attn.c. */
#include "dev/cpu.h"

#include "base/mem.h"
#include "dev/dev_cuda.h"

#include <math.h>
#include <string.h>

enum {
    ELEM_GRAIN = 16384, /* f32 elements below which a second thread costs more than it brings */
    TABLE_GRAIN = 2048  /* the same of cosines and sines */
};

sp_err cpu_scratch_reserve(cpu_dev *c, size_t n_bytes)
{
    for (size_t i = 0; i < sp_pool_size(c->pool); i++) {
        void *p = c->scratch[i];
        sp_err err = cpu_grow(&p, &c->scratch_bytes[i], n_bytes);
        c->scratch[i] = p;
        SP_TRY(err);
    }
    return SP_OK;
}

sp_err cpu_grow(void **p, size_t *have, size_t need)
{
    if (*have >= need)
        return SP_OK;
    void *now = sp_mem_raw(need);
    if (!now)
        return SP_NOMEM;
    sp_mem_free(*p);
    *p = now;
    *have = need;
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

static sp_err mem_raw(sp_dev *dev, void **out, size_t n_bytes)
{
    (void)dev;
    void *p = sp_mem_raw(n_bytes);
    if (!p)
        return SP_NOMEM;
    *out = p;
    return SP_OK;
}

static sp_err mem_page(sp_dev *dev, void **out, size_t n_bytes)
{
    cpu_dev *c = (cpu_dev *)dev;
    if (!sp_slab_fits(n_bytes))
        return mem_raw(dev, out, n_bytes);
    void *p = sp_slab_new(&c->slabs, n_bytes);
    if (!p)
        return SP_NOMEM;
    *out = p;
    return SP_OK;
}

static void mem_free(sp_dev *dev, void *p)
{
    cpu_dev *c = (cpu_dev *)dev;
    if (p && !sp_slab_free(&c->slabs, p))
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

typedef struct norm_job {
    const sp_kern *kern;
    float *out;
    const float *x, *w, *b;
    size_t n;
    float eps;
} norm_job;

static void norm_part(void *arg, size_t begin, size_t end, size_t i_thread)
{
    const norm_job *j = arg;
    (void)i_thread;
    for (size_t r = begin; r < end; r++)
        j->kern->norm_layer(j->out + r * j->n, j->x + r * j->n, j->w, j->b, j->n, j->eps);
}

static sp_err norm_layer(sp_dev *dev, float *out, const float *x, const float *w, const float *b,
                         size_t n_row, size_t n, float eps)
{
    cpu_dev *c = (cpu_dev *)dev;
    norm_job j = {&c->kern, out, x, w, b, n, eps};
    sp_pool_run(c->pool, norm_part, &j, n_row, 16);
    return SP_OK;
}

typedef struct heads_job {
    const sp_kern *kern;
    const sp_dev_heads *h;
} heads_job;

static void norm_heads(const heads_job *j, float *row)
{
    const sp_dev_heads *h = j->h;
    size_t n = h->is_whole ? h->n_head * h->d : h->d;
    for (size_t i = 0; i < h->n_head * h->d; i += n)
        j->kern->norm_rms(row + i, row + i, h->norm, h->n_norm ? h->n_norm : n, h->eps);
}

static void heads_part(void *arg, size_t begin, size_t end, size_t i_thread)
{
    const heads_job *j = arg;
    const sp_dev_heads *h = j->h;
    size_t n = h->n_head * h->d;
    (void)i_thread;
    for (size_t t = begin; t < end; t++) {
        float *row = h->x + t * n;
        if (h->norm && !h->norm_last)
            norm_heads(j, row);
        for (size_t i = 0; i < n && h->turn.cs; i += h->d)
            cpu_turn(j->kern, row + i, &h->turn, h->turn.cs + t * h->turn.d_rot);
        if (h->norm && h->norm_last)
            norm_heads(j, row);
        for (size_t i = 0; i < n && h->scale; i++)
            row[i] *= h->scale[t];
    }
}

typedef struct table_job {
    float *cs;
    const uint32_t *pos;
    const sp_dev_rope *r;
} table_job;

static void table_part(void *arg, size_t begin, size_t end, size_t i_thread)
{
    const table_job *j = arg;
    const sp_dev_rope *r = j->r;
    size_t half = r->d_rot / 2;
    (void)i_thread;
    for (size_t t = begin; t < end; t++) {
        float *cs = j->cs + t * r->d_rot;
        for (size_t i = 0; i < half; i++) {
            float angle = (float)j->pos[t] * r->freq[i];
            cs[i] = cosf(angle) * r->scale;
            cs[half + i] = (r->back ? -sinf(angle) : sinf(angle)) * r->scale;
        }
    }
}

static sp_err rope_table(sp_dev *dev, float *cs, const uint32_t *pos, size_t n_row,
                         const sp_dev_rope *r)
{
    table_job j = {cs, pos, r};
    uint64_t start = cpu_stat_begin(dev);
    sp_pool_run(((cpu_dev *)dev)->pool, table_part, &j, n_row, TABLE_GRAIN / r->d_rot + 1);
    cpu_stat_end(dev, SP_STAGE_REST, start, 0, 0);
    return SP_OK;
}

static sp_err heads(sp_dev *dev, const sp_dev_heads *h)
{
    cpu_dev *c = (cpu_dev *)dev;
    heads_job j = {&c->kern, h};
    uint64_t start = cpu_stat_begin(dev);
    sp_pool_run(c->pool, heads_part, &j, h->n_row, ELEM_GRAIN / (h->n_head * h->d) + 1);
    cpu_stat_end(dev, SP_STAGE_REST, start, 0, 0);
    return SP_OK;
}

typedef struct join_job {
    const sp_kern *kern;
    float *x, *y;
    const float *norm;
    float eps, scale;
    size_t n;
} join_job;

static void join_part(void *arg, size_t begin, size_t end, size_t i_thread)
{
    const join_job *j = arg;
    (void)i_thread;
    for (size_t t = begin; t < end; t++) {
        float *y = j->y + t * j->n;
        if (j->norm)
            j->kern->norm_rms(y, y, j->norm, j->n, j->eps);
        for (size_t i = 0; i < j->n && j->scale != 1.0f; i++)
            y[i] *= j->scale;
        j->kern->add(j->x + t * j->n, y, j->n);
    }
}

static sp_err join(sp_dev *dev, float *x, float *y, const float *norm, float eps, float scale,
                   size_t n_row, size_t n)
{
    cpu_dev *c = (cpu_dev *)dev;
    join_job j = {&c->kern, x, y, norm, eps, scale, n};
    uint64_t start = cpu_stat_begin(dev);
    sp_pool_run(c->pool, join_part, &j, n_row, ELEM_GRAIN / n + 1);
    cpu_stat_end(dev, SP_STAGE_REST, start, 0, 0);
    return SP_OK;
}

enum { CAP_BLOCK = 4096 };

typedef struct cap_job {
    cpu_dev *c;
    float *x;
    size_t n;
    float scale, cap;
} cap_job;

static void cap_part(void *arg, size_t begin, size_t end, size_t i_thread)
{
    const cap_job *j = arg;
    size_t last = end * CAP_BLOCK < j->n ? end * CAP_BLOCK : j->n;
    (void)i_thread;
    if (j->cap > 0)
        j->c->kern.soft_cap(j->x + begin * CAP_BLOCK, last - begin * CAP_BLOCK, j->scale, j->cap);
    for (size_t i = begin * CAP_BLOCK; i < last && !(j->cap > 0); i++)
        j->x[i] *= j->scale;
}

static sp_err soft_cap(sp_dev *dev, float *x, size_t n, float scale, float cap)
{
    cpu_dev *c = (cpu_dev *)dev;
    cap_job j = {c, x, n, scale, cap};
    sp_pool_run(c->pool, cap_part, &j, (n + CAP_BLOCK - 1) / CAP_BLOCK, 4);
    return SP_OK;
}

static sp_err add(sp_dev *dev, float *x, const float *y, size_t n)
{
    ((cpu_dev *)dev)->kern.add(x, y, n);
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
    sp_mem_free(c->acts.mem);
    sp_mem_free(c->xin);
    sp_mem_free(c->narrow);
    sp_mem_free(c->part);
    for (size_t i = 0; i < CPU_KEPT; i++)
        sp_mem_free(c->own[i]);
    sp_mem_free(c->sparse);
    sp_mem_free(c->experts);
    sp_mem_free(c->heads);
    sp_slabs_fini(&c->slabs);
    sp_mem_free(c->select);
    sp_pool_free(c->pool);
    sp_mem_free(c);
}

static const sp_dev_ops cpu_ops = {
    .name = "cpu",
    .close = cpu_close,
    .mem_new = mem_new,
    .mem_raw = mem_raw,
    .mem_page = mem_page,
    .mem_free = mem_free,
    .mem_read = mem_read,
    .mem_write = mem_write,
    .layout = "tiles of 16 rows, 1",
    .weight_bytes = cpu_weight_bytes,
    .weight_put = cpu_weight_put,
    .embed = cpu_embed,
    .embed_part = cpu_embed_part,
    .norm_layer = norm_layer,
    .matmul = cpu_matmul,
    .experts = cpu_experts,
    .each_head = cpu_each_head,
    .shelf_new = cpu_shelf_new,
    .shelf_free = cpu_shelf_free,
    .rope_table = rope_table,
    .heads = heads,
    .join = join,
    .soft_cap = soft_cap,
    .attn_paged = cpu_attn_paged,
    .kv_move = cpu_kv_move,
    .attn_full = cpu_attn_full,
    .conv = cpu_conv,
    .delta = cpu_delta,
    .ssm = cpu_ssm,
    .gate = cpu_gate,
    .halve = cpu_halve,
    .add = add,
    .copy = copy,
};

sp_err sp_dev_open(sp_dev **out, const sp_dev_cfg *cfg, sp_diag *d)
{
    if (strcmp(cfg->name, "cuda") == 0 || strncmp(cfg->name, "cuda:", 5) == 0)
        return sp_dev_cuda_open(out, cfg, d);
    if (strcmp(cfg->name, cpu_ops.name) != 0)
        return SP_FAIL(d, SP_UNSUP, "device %.100s: there are cpu and cuda", cfg->name);
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

sp_pool *sp_dev_host_pool(sp_dev *dev)
{
    return dev->ops == &cpu_ops ? ((cpu_dev *)dev)->pool : sp_dev_cuda_pool(dev);
}

const sp_kern *sp_dev_host_kern(sp_dev *dev)
{
    return dev->ops == &cpu_ops ? &((cpu_dev *)dev)->kern : sp_dev_cuda_kern(dev);
}

sp_pool *sp_dev_cpu_pool(sp_dev *dev)
{
    return dev->ops == &cpu_ops ? ((cpu_dev *)dev)->pool : NULL;
}

const sp_kern *sp_dev_cpu_kern(sp_dev *dev)
{
    return dev->ops == &cpu_ops ? &((cpu_dev *)dev)->kern : NULL;
}
