/* The device `cuda`: loads the library of kernels (lib.h), owns its memory, and gives it what the
 * table of dev.h asks for. Weights and products are in cuda_weight.c, attention in cuda_attn.c.
 * docs/CUDA.md says what is proven, and how. */
#include "dev/cuda/cuda.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "dev/dev_cuda.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const char file_name[] = "libsparing_cuda.so";

sp_err cuda_try(const cuda_dev *c, int err, const char *what)
{
    if (!err)
        return SP_OK;
    sp_log(SP_LOG_ERROR, "cuda: %s: %s", what, c->lib->error_text(err));
    return SP_DEV;
}

/* SP_NOMEM is logged with the bytes. */
static sp_err new_memory(const cuda_dev *c, void **out, size_t n_bytes, sp_cuda_mem kind)
{
    int err = c->lib->mem_new(out, n_bytes, kind);
    if (!err)
        return SP_OK;
    sp_log(SP_LOG_ERROR, "cuda: %zu bytes of memory: %s", n_bytes, c->lib->error_text(err));
    return SP_NOMEM;
}

sp_err cuda_grow(cuda_dev *c, cuda_buf *b, size_t n_bytes)
{
    void *p;
    if (b->n_bytes >= n_bytes)
        return SP_OK;
    SP_TRY(cuda_try(c, c->lib->sync(), "waiting")); /* what was started may still read it */
    SP_TRY(new_memory(c, &p, n_bytes, SP_CUDA_DEVICE));
    (void)c->lib->mem_free(b->p);
    *b = (cuda_buf){p, n_bytes};
    return SP_OK;
}

sp_err cuda_put(cuda_dev *c, cuda_buf *b, const void *host, size_t n_bytes)
{
    SP_TRY(cuda_grow(c, b, n_bytes));
    return n_bytes ? cuda_try(c, c->lib->write(b->p, host, n_bytes), "a copy to the device")
                   : SP_OK;
}

sp_err cuda_get(cuda_dev *c, void **out, const cuda_buf *b, size_t n, size_t each)
{
    *out = sp_mem_array(n, each);
    if (!*out)
        return SP_NOMEM;
    sp_err err = cuda_try(c, c->lib->read(*out, b->p, n * each), "a copy from the device");
    if (err != SP_OK) {
        sp_mem_free(*out);
        *out = NULL;
    }
    return err;
}

uint64_t cuda_stat_begin(const sp_dev *dev)
{
    if (!dev->stat)
        return 0;
    (void)((const cuda_dev *)dev)->lib->sync();
    return sp_clock_ns();
}

void cuda_stat_end(sp_dev *dev, sp_dev_stage stage, uint64_t from, double bytes, double macs)
{
    if (!dev->stat)
        return;
    (void)((cuda_dev *)dev)->lib->sync();
    dev->stat[stage].ns += sp_clock_ns() - from;
    dev->stat[stage].bytes += bytes;
    dev->stat[stage].macs += macs;
}

static sp_err mem_raw(sp_dev *dev, void **out, size_t n_bytes)
{
    return new_memory((cuda_dev *)dev, out, n_bytes, SP_CUDA_DEVICE);
}

static sp_err mem_new(sp_dev *dev, void **out, size_t n_bytes)
{
    cuda_dev *c = (cuda_dev *)dev;
    void *p;
    SP_TRY(mem_raw(dev, &p, n_bytes));
    sp_err err = cuda_try(c, c->lib->zero(p, n_bytes), "zeros");
    if (err == SP_OK)
        *out = p;
    else
        (void)c->lib->mem_free(p);
    return err;
}

/* Tiers read and write pages where they lie. */
static sp_err mem_page(sp_dev *dev, void **out, size_t n_bytes)
{
    return new_memory((cuda_dev *)dev, out, n_bytes, SP_CUDA_PAGED);
}

static void mem_free(sp_dev *dev, void *p)
{
    (void)((cuda_dev *)dev)->lib->mem_free(p);
}

static sp_err mem_read(sp_dev *dev, void *host, const void *p, size_t n_bytes)
{
    cuda_dev *c = (cuda_dev *)dev;
    return cuda_try(c, c->lib->read(host, p, n_bytes), "a copy from the device");
}

static sp_err mem_write(sp_dev *dev, void *p, const void *host, size_t n_bytes)
{
    cuda_dev *c = (cuda_dev *)dev;
    return cuda_try(c, c->lib->write(p, host, n_bytes), "a copy to the device");
}

static sp_err norm_layer(sp_dev *dev, float *out, const float *x, const float *w, const float *b,
                         size_t n_row, size_t n, float eps)
{
    cuda_dev *c = (cuda_dev *)dev;
    const sp_cuda_norm a = {out, x, w, b, (uint32_t)n_row, (uint32_t)n, eps};
    return cuda_try(c, c->lib->norm(&a), "norm");
}

static sp_err rope_table(sp_dev *dev, float *cs, const uint32_t *pos, size_t n_row,
                         const sp_dev_rope *r)
{
    cuda_dev *c = (cuda_dev *)dev;
    size_t half = r->d_rot / 2;
    SP_TRY(cuda_put(c, &c->pos, pos, n_row * sizeof *pos));
    SP_TRY(cuda_put(c, &c->freq, r->freq, half * sizeof *r->freq));
    const sp_cuda_table a = {cs,      c->pos.p, c->freq.p, (uint32_t)n_row, (uint32_t)half,
                             r->back, r->scale};
    return cuda_try(c, c->lib->table(&a), "RoPE's table");
}

static sp_err heads(sp_dev *dev, const sp_dev_heads *h)
{
    cuda_dev *c = (cuda_dev *)dev;
    const sp_cuda_heads a = {.x = h->x,
                             .norm = h->norm,
                             .cs = h->turn.cs,
                             .scale = h->scale,
                             .n_row = (uint32_t)h->n_row,
                             .n_head = (uint32_t)h->n_head,
                             .d = (uint32_t)h->d,
                             .n_norm = (uint32_t)h->n_norm,
                             .whole = h->is_whole,
                             .norm_last = h->norm_last,
                             .d_rot = (uint32_t)h->turn.d_rot,
                             .halves = h->turn.halves,
                             .first = (uint32_t)h->turn.first,
                             .eps = h->eps};
    return cuda_try(c, c->lib->heads(&a), "heads");
}

static sp_err join(sp_dev *dev, float *x, float *y, const float *norm, float eps, float scale,
                   size_t n_row, size_t n)
{
    cuda_dev *c = (cuda_dev *)dev;
    const sp_cuda_join a = {x, y, norm, (uint32_t)n_row, (uint32_t)n, eps, scale};
    return cuda_try(c, c->lib->join(&a), "join");
}

static sp_err soft_cap(sp_dev *dev, float *x, size_t n, float scale, float cap)
{
    cuda_dev *c = (cuda_dev *)dev;
    return cuda_try(c, c->lib->soft_cap(x, n, scale, cap), "soft cap");
}

static sp_err attn_full(sp_dev *dev, const sp_dev_attn_full *f)
{
    cuda_dev *c = (cuda_dev *)dev;
    const sp_cuda_full a = {f->out,
                            f->q,
                            f->k,
                            f->v,
                            (uint32_t)f->n,
                            (uint32_t)f->n_head,
                            (uint32_t)f->n_head_kv,
                            (uint32_t)f->d,
                            f->causal,
                            (uint32_t)f->window,
                            f->scale};
    return cuda_try(c, c->lib->full(&a), "attention without pages");
}

static sp_err gate(sp_dev *dev, const sp_dev_gate *g)
{
    cuda_dev *c = (cuda_dev *)dev;
    const sp_cuda_gate a = {.x = g->x,
                            .norm = g->norm,
                            .gate = g->gate,
                            .n_row = (uint32_t)g->n_row,
                            .n_head = (uint32_t)g->n_head,
                            .d = (uint32_t)g->d,
                            .norm_last = g->norm_last,
                            .act = (uint32_t)g->act,
                            .is_row = g->is_row,
                            .eps = g->eps};
    return cuda_try(c, c->lib->gate(&a), "gate");
}

static sp_err halve(sp_dev *dev, float *first, float *second, const float *x, size_t n_row,
                    size_t n_head, size_t d)
{
    cuda_dev *c = (cuda_dev *)dev;
    return cuda_try(c, c->lib->halve(first, second, x, n_row, n_head, d), "halve");
}

static sp_err add(sp_dev *dev, float *x, const float *y, size_t n)
{
    cuda_dev *c = (cuda_dev *)dev;
    return cuda_try(c, c->lib->add(x, y, n), "add");
}

static sp_err copy(sp_dev *dev, void *to, const void *from, size_t n_bytes)
{
    cuda_dev *c = (cuda_dev *)dev;
    return cuda_try(c, c->lib->copy(to, from, n_bytes), "a copy on the device");
}

static sp_err best(sp_dev *dev, sp_dev_best *out, const float *x, const float *temperature,
                   size_t n_row, size_t n)
{
    cuda_dev *c = (cuda_dev *)dev;
    const size_t n_part = (n + SP_CUDA_BEST_PART - 1) / SP_CUDA_BEST_PART;
    sp_cuda_best_row *row = sp_mem_array(n_row, sizeof *row);
    sp_err err = row ? SP_OK : SP_NOMEM;
    if (err == SP_OK)
        err = cuda_put(c, &c->temperatures, temperature, n_row * sizeof *temperature);
    if (err == SP_OK)
        err = cuda_grow(c, &c->best, n_row * (n_part + 1) * sizeof *row);
    const sp_cuda_best a = {.out = c->best.p,
                            .part = (sp_cuda_best_row *)c->best.p + n_row,
                            .x = x,
                            .temperature = c->temperatures.p,
                            .n_row = (uint32_t)n_row,
                            .n = (uint32_t)n,
                            .n_part = (uint32_t)n_part};
    if (err == SP_OK)
        err = cuda_try(c, c->lib->best(&a), "the likeliest tokens");
    if (err == SP_OK)
        err = cuda_try(c, c->lib->read(row, a.out, n_row * sizeof *row), "the likeliest tokens");
    for (size_t i = 0; i < n_row && err == SP_OK; i++) {
        out[i] = (sp_dev_best){
            .n = row[i].is_odd ? 0 : row[i].n, .n_finite = row[i].n_finite, .mass = row[i].mass};
        memcpy(out[i].id, row[i].id, row[i].n * sizeof *row[i].id);
        memcpy(out[i].logit, row[i].logit, row[i].n * sizeof *row[i].logit);
    }
    sp_mem_free(row);
    return err;
}

/* Stages whose times are taken wait for the device each. */
static sp_err begin_step(sp_dev *dev)
{
    cuda_dev *c = (cuda_dev *)dev;
    return dev->stat ? SP_OK : cuda_try(c, c->lib->begin_step(), "a step");
}

static sp_err end_step(sp_dev *dev)
{
    cuda_dev *c = (cuda_dev *)dev;
    return cuda_try(c, c->lib->end_step(), "a step");
}

/* Experts do not stay in the file. */
static void shelf_free(sp_dev *dev, sp_dev_shelf *s)
{
    (void)dev;
    SP_ASSERT(!s);
}

static void cuda_close(sp_dev *dev)
{
    cuda_dev *c = (cuda_dev *)dev;
    cuda_buf *all[] = {&c->ids,    &c->pos,    &c->freq,  &c->hi,     &c->lo,
                       &c->half,   &c->unit,   &c->qh,    &c->state,  &c->items,
                       &c->ends,   &c->stores, &c->tab,   &c->own[0], &c->own[1],
                       &c->own[2], &c->routes, &c->slots, &c->scales, &c->passes,
                       &c->moves,  &c->moved,  &c->best,  &c->temperatures,
                       &c->codes,  &c->code_unit};
    for (size_t i = 0; c->lib && i < sizeof all / sizeof all[0]; i++)
        (void)c->lib->mem_free(all[i]->p);
    if (c->lib)
        c->lib->close();
    cuda_lists_free(c->lists);
    cuda_cert_free(c);
    cuda_keep_free(c);
    sp_pool_free(c->pool);
    if (c->handle)
        dlclose(c->handle);
    sp_mem_free(c);
}

/* What is missing here is not done on this device yet: sp_model_load refuses models that want it.
 */
static const sp_dev_ops cuda_ops = {
    .name = "cuda",
    .max_head = 256,
    .begin_step = begin_step,
    .end_step = end_step,
    .close = cuda_close,
    .mem_new = mem_new,
    .mem_raw = mem_raw,
    .mem_page = mem_page,
    .mem_free = mem_free,
    .mem_read = mem_read,
    .mem_write = mem_write,
    .weight_bytes = cuda_weight_bytes,
    .weight_put = cuda_weight_put,
    .fp8_bytes = cuda_fp8_bytes,
    .fp8_put = cuda_fp8_put,
    .embed = cuda_embed,
    .embed_part = cuda_embed_part,
    .norm_layer = norm_layer,
    .matmul = cuda_matmul,
    .experts = cuda_experts,
    .each_head = cuda_each_head,
    .conv = cuda_conv,
    .delta = cuda_delta,
    .ssm = cuda_ssm,
    .shelf_free = shelf_free,
    .rope_table = rope_table,
    .heads = heads,
    .join = join,
    .soft_cap = soft_cap,
    .attn_paged = cuda_attn_paged,
    .best = best,
    .settle = cuda_settle,
    .kv_move = cuda_kv_move,
    .attn_full = attn_full,
    .gate = gate,
    .halve = halve,
    .add = add,
    .copy = copy,
};

/* `given`, or the library beside the program, or wherever the system's loader looks. */
static void *open_library(const char *given, char *why, size_t n)
{
    char path[1024];
    ssize_t len = readlink("/proc/self/exe", path, sizeof path - sizeof file_name);
    const char *name = given ? given : file_name;
    if (!given && len > 0) {
        while (len > 0 && path[len - 1] != '/')
            len--;
        memcpy(path + len, file_name, sizeof file_name);
        if (access(path, R_OK) == 0)
            name = path;
    }
    void *handle = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (!handle)
        snprintf(why, n, "no library: %.140s", dlerror());
    return handle;
}

static sp_err start_library(cuda_dev *c, const char *given, sp_diag *d)
{
    char why[160] = "";
    const sp_cuda_lib *(*get)(void);
    c->handle = open_library(given, why, sizeof why);
    if (!c->handle)
        return SP_FAIL(d, SP_UNSUP, "device cuda: %s", why);
    void *symbol = dlsym(c->handle, "sp_cuda_library");
    memcpy(&get, &symbol, sizeof get);
    const sp_cuda_lib *lib = symbol ? get() : NULL;
    if (!lib || lib->version != SP_CUDA_VERSION)
        return SP_FAIL(d, SP_UNSUP, "device cuda: the library is of another version");
    if (lib->open(why, sizeof why))
        return SP_FAIL(d, SP_UNSUP, "device cuda: %s", why);
    c->lib = lib;
    return SP_OK;
}

sp_err sp_dev_cuda_open(sp_dev **out, const sp_dev_cfg *cfg, sp_diag *d)
{
    const char *colon = strchr(cfg->name, ':');
    cuda_dev *c = sp_mem_alloc(sizeof *c);
    if (!c)
        return SP_FAIL(d, SP_NOMEM, "device");
    c->dev.ops = &cuda_ops;
    sp_kern_init(&c->kern, cfg->mask);
    sp_err err = start_library(c, colon ? colon + 1 : NULL, d);
    if (err == SP_OK)
        err = sp_pool_new(&c->pool, cfg->n_thread, d);
    if (err == SP_OK) {
        c->kern.isa = c->lib->name;
        *out = &c->dev;
    } else {
        cuda_close(&c->dev);
    }
    return err;
}

sp_pool *sp_dev_cuda_pool(sp_dev *dev)
{
    return ((cuda_dev *)dev)->pool;
}

const sp_kern *sp_dev_cuda_kern(sp_dev *dev)
{
    return &((cuda_dev *)dev)->kern;
}
