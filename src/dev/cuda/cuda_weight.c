/* Weights on the CUDA device. A row's quants, scales and other parts lie apart, each from a
 * multiple of 16 bytes, so that lanes read whole words (lib.h: sp_cuda_rows). Types that have no
 * kernel of their own are widened to f16 when they are put. */
#include "dev/cuda/cuda.h"

#include "base/mem.h"

#include <string.h>

static uint32_t round16(size_t n)
{
    return (uint32_t)((n + 15) & ~(size_t)15);
}

static sp_cuda_type type_of(sp_type type)
{
    switch (type) {
    case SP_F32: return SP_CUDA_F32;
    case SP_BF16: return SP_CUDA_BF16;
    case SP_Q8_0: return SP_CUDA_Q8_0;
    case SP_Q4_0: return SP_CUDA_Q4_0;
    case SP_Q4_K: return SP_CUDA_Q4_K;
    case SP_Q6_K: return SP_CUDA_Q6_K;
    default: return SP_CUDA_F16;
    }
}

static sp_cuda_rows layout(sp_type type, size_t n_row, size_t k)
{
    sp_cuda_rows r = {.type = type_of(type),
                      .n_row = (uint32_t)n_row,
                      .k = (uint32_t)k,
                      .k_pad = (uint32_t)((k + 31) & ~(size_t)31)};
    switch (r.type) {
    case SP_CUDA_Q8_0:
        r.at[0] = round16(k);
        r.row_bytes = r.at[0] + round16(k / 32 * 2);
        break;
    case SP_CUDA_Q4_0:
        r.at[0] = round16(k / 2);
        r.row_bytes = r.at[0] + round16(k / 32 * 2);
        break;
    case SP_CUDA_Q4_K:
        r.at[0] = (uint32_t)(k / 2);
        r.row_bytes = (uint32_t)(k / 2 + k / 16);
        break;
    case SP_CUDA_Q6_K:
        r.at[0] = (uint32_t)(k / 2);
        r.at[1] = r.at[0] + (uint32_t)(k / 4);
        r.at[2] = r.at[1] + (uint32_t)(k / 16);
        r.row_bytes = r.at[2] + round16(k / 256 * 2);
        break;
    case SP_CUDA_F32: r.row_bytes = r.k_pad * 4; break;
    default: r.row_bytes = r.k_pad * 2;
    }
    return r;
}

static sp_cuda_rows rows_of(const sp_dev_weight *w)
{
    sp_cuda_rows r = layout(w->type, w->n_row, w->k);
    r.data = w->data;
    return r;
}

size_t cuda_weight_bytes(sp_dev *dev, sp_type type, size_t n_row, size_t k)
{
    (void)dev;
    return (n_row * layout(type, n_row, k).row_bytes + 63) & ~(size_t)63;
}

/* A row of a type without a kernel, as f16. wide: f32 [k], then what packing needs. */
static void put_wide(const cuda_dev *c, char *out, sp_type type, const char *row, size_t k,
                     float *wide)
{
    if (sp_pack_is(type)) {
        char *tile = (char *)(wide + k);
        sp_pack_tile(tile, type, row, 1, k, tile + sp_pack_bytes(type, 1, k));
        row = tile;
    }
    sp_kern_row_f32(&c->kern, wide, type, row, 0, k);
    c->kern.narrow_f16((sp_f16 *)(void *)out, wide, k);
}

/* The parts of a row's blocks, apart. out is zeroed. */
static void put_row(const cuda_dev *c, char *out, const sp_cuda_rows *r, sp_type type,
                    const char *row, float *wide)
{
    size_t k = r->k, n = k / 32;
    switch (r->type) {
    case SP_CUDA_Q8_0:
        for (size_t b = 0; b < n; b++, row += sizeof(sp_blk_q8_0)) {
            memcpy(out + r->at[0] + 2 * b, row, 2);
            memcpy(out + 32 * b, row + 2, 32);
        }
        return;
    case SP_CUDA_Q4_0:
        for (size_t b = 0; b < n; b++, row += sizeof(sp_blk_q4_0)) {
            memcpy(out + r->at[0] + 2 * b, row, 2);
            memcpy(out + 16 * b, row + 2, 16);
        }
        return;
    case SP_CUDA_Q4_K:
        for (size_t b = 0; b < k / 256; b++, row += sizeof(sp_blk_q4_k)) {
            memcpy(out + r->at[0] + 16 * b, row, 16);
            memcpy(out + 128 * b, row + 16, 128);
        }
        return;
    case SP_CUDA_Q6_K:
        for (size_t b = 0; b < k / 256; b++, row += sizeof(sp_blk_q6_k)) {
            memcpy(out + 128 * b, row, 128);
            memcpy(out + r->at[0] + 64 * b, row + 128, 64);
            memcpy(out + r->at[1] + 16 * b, row + 192, 16);
            memcpy(out + r->at[2] + 2 * b, row + 208, 2);
        }
        return;
    case SP_CUDA_F16:
        if (type != SP_F16) {
            put_wide(c, out, type, row, k, wide);
            return;
        }
        memcpy(out, row, 2 * k);
        return;
    case SP_CUDA_F32: memcpy(out, row, 4 * k); return;
    default: memcpy(out, row, 2 * k);
    }
}

sp_err cuda_weight_put(sp_dev *dev, sp_dev_weight *out, void *at, sp_type type, const void *rows,
                       size_t n_row, size_t k)
{
    enum { SLICE = 1 << 22 };
    cuda_dev *c = (cuda_dev *)dev;
    const sp_cuda_rows r = layout(type, n_row, k);
    size_t n = SLICE / r.row_bytes + 1, in_bytes = sp_type_row_bytes(type, k);
    size_t more = sp_pack_is(type) ? sp_pack_bytes(type, 1, k) + sp_pack_scratch(k) : 0;
    char *slice = sp_mem_align(n * r.row_bytes);
    float *wide = sp_mem_align(k * sizeof *wide + more);
    sp_err err = slice && wide ? SP_OK : SP_NOMEM;
    for (size_t i = 0; i < n_row && err == SP_OK; i += n) {
        size_t m = n_row - i < n ? n_row - i : n;
        memset(slice, 0, m * r.row_bytes);
        for (size_t j = 0; j < m; j++)
            put_row(c, slice + j * r.row_bytes, &r, type, (const char *)rows + (i + j) * in_bytes,
                    wide);
        err = cuda_try(c, c->lib->write((char *)at + i * r.row_bytes, slice, m * r.row_bytes),
                       "a weight");
    }
    sp_mem_free(slice);
    sp_mem_free(wide);
    if (err == SP_OK)
        *out = (sp_dev_weight){at, type, n_row, k, NULL};
    return err;
}

sp_err cuda_embed(sp_dev *dev, float *out, const sp_dev_weight *w, const uint32_t *id, size_t n,
                  float scale)
{
    cuda_dev *c = (cuda_dev *)dev;
    uint64_t start = cuda_stat_begin(dev);
    SP_TRY(cuda_put(c, &c->ids, id, n * sizeof *id));
    const sp_cuda_embed a = {out,
                             rows_of(w),
                             c->ids.p,
                             (uint32_t)n,
                             0,
                             (uint32_t)w->k,
                             scale * (w->scale ? *w->scale : 1.0f)};
    SP_TRY(cuda_try(c, c->lib->embed(&a), "embedding"));
    cuda_stat_end(dev, SP_STAGE_REST, start, (double)(n * sp_type_row_bytes(w->type, w->k)), 0);
    return SP_OK;
}

/* Rows in the form that weights of a type take: two bf16 terms, or f16 and its units. */
static bool takes_two(sp_cuda_type type)
{
    return type == SP_CUDA_BF16 || type == SP_CUDA_F32;
}

static sp_err prepare(cuda_dev *c, const sp_dev_matmul *a, bool two)
{
    size_t k = a->w[0].k, k_pad = (k + 31) & ~(size_t)31,
           n_bytes = a->n_row * k_pad * sizeof(uint16_t);
    SP_TRY(cuda_grow(c, two ? &c->hi : &c->half, n_bytes));
    SP_TRY(two ? cuda_grow(c, &c->lo, n_bytes) : cuda_grow(c, &c->unit, a->n_row * sizeof(float)));
    const sp_cuda_prep p = {.hi = two ? c->hi.p : c->half.p,
                            .lo = two ? c->lo.p : NULL,
                            .unit = c->unit.p,
                            .x = a->x,
                            .norm = a->norm,
                            .up = a->up,
                            .n_row = (uint32_t)a->n_row,
                            .k = (uint32_t)k,
                            .k_pad = (uint32_t)k_pad,
                            .act = (uint32_t)a->act,
                            .ld = (uint32_t)k,
                            .eps = a->eps};
    return cuda_try(c, c->lib->prep(&p), "rows of a product");
}

sp_err cuda_matmul(sp_dev *dev, const sp_dev_matmul *a)
{
    cuda_dev *c = (cuda_dev *)dev;
    uint64_t start = cuda_stat_begin(dev);
    double n_bytes = 0, n_w_row = 0;
    bool is_ready[2] = {false, false};
    for (size_t i = 0; i < a->n_w; i++) {
        const sp_cuda_rows w = rows_of(&a->w[i]);
        bool two = takes_two(w.type);
        if (!is_ready[two])
            SP_TRY(prepare(c, a, two));
        is_ready[two] = true;
        const sp_cuda_product p = {.out = a->out[i],
                                   .w = w,
                                   .hi = two ? c->hi.p : c->half.p,
                                   .lo = two ? c->lo.p : NULL,
                                   .unit = c->unit.p,
                                   .bias = a->bias ? a->bias[i] : NULL,
                                   .n_tok = (uint32_t)a->n_row,
                                   .add = a->add,
                                   .ld = w.n_row,
                                   .scale = a->w[i].scale ? *a->w[i].scale : 1.0f};
        SP_TRY(cuda_try(c, c->lib->product(&p), "a product"));
        n_bytes += (double)w.n_row * (double)w.row_bytes;
        n_w_row += (double)w.n_row;
    }
    cuda_stat_end(dev, a->stage, start, n_bytes, n_w_row * (double)a->w[0].k * (double)a->n_row);
    return SP_OK;
}
