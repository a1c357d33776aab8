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
    case SP_Q4_1: return SP_CUDA_Q4_1;
    case SP_Q4_K: return SP_CUDA_Q4_K;
    case SP_Q5_K: return SP_CUDA_Q5_K;
    case SP_Q6_K: return SP_CUDA_Q6_K;
    case SP_MXFP4: return SP_CUDA_MXFP4;
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
    case SP_CUDA_Q4_1:
        r.at[0] = round16(k / 2);
        r.row_bytes = r.at[0] + round16(k / 32 * 4);
        break;
    case SP_CUDA_Q4_K:
        r.at[0] = (uint32_t)(k / 2);
        r.row_bytes = (uint32_t)(k / 2 + k / 16);
        break;
    case SP_CUDA_Q5_K:
        r.at[0] = (uint32_t)(k / 2);
        r.at[1] = r.at[0] + (uint32_t)(k / 16);
        r.row_bytes = r.at[1] + (uint32_t)(k / 8);
        break;
    case SP_CUDA_Q6_K:
        r.at[0] = (uint32_t)(k / 2);
        r.at[1] = r.at[0] + (uint32_t)(k / 4);
        r.at[2] = r.at[1] + (uint32_t)(k / 16);
        r.row_bytes = r.at[2] + round16(k / 256 * 2);
        break;
    case SP_CUDA_MXFP4:
        r.at[0] = round16(k / 2);
        r.row_bytes = r.at[0] + round16(k / 32);
        break;
    case SP_CUDA_F32: r.row_bytes = r.k_pad * 4; break;
    default: r.row_bytes = r.k_pad * 2;
    }
    return r;
}

sp_cuda_rows cuda_rows(const sp_dev_weight *w)
{
    sp_cuda_rows r = layout(w->type, w->n_row, w->k);
    SP_ASSERT(!w->is_fp8);
    r.data = w->data;
    return r;
}

size_t cuda_weight_bytes(sp_dev *dev, sp_type type, size_t n_row, size_t k)
{
    (void)dev;
    return (n_row * layout(type, n_row, k).row_bytes + 63) & ~(size_t)63;
}

void cuda_widen(const cuda_dev *c, float *out, sp_type type, const char *row, size_t k)
{
    if (sp_pack_is(type)) {
        char *tile = (char *)(out + k);
        sp_pack_tile(tile, type, row, 1, k, tile + sp_pack_bytes(type, 1, k));
        row = tile;
    }
    sp_kern_row_f32(&c->kern, out, type, row, 0, k);
}

/* What packing needs lies behind the row. */
size_t cuda_wide_bytes(sp_type type, size_t k)
{
    return k * sizeof(float) +
           (sp_pack_is(type) ? sp_pack_bytes(type, 1, k) + sp_pack_scratch(k) : 0);
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
    case SP_CUDA_Q4_1:
        for (size_t b = 0; b < n; b++, row += sizeof(sp_blk_q4_1)) {
            memcpy(out + r->at[0] + 4 * b, row, 4);
            memcpy(out + 16 * b, row + 4, 16);
        }
        return;
    case SP_CUDA_Q4_K:
        for (size_t b = 0; b < k / 256; b++, row += sizeof(sp_blk_q4_k)) {
            memcpy(out + r->at[0] + 16 * b, row, 16);
            memcpy(out + 128 * b, row + 16, 128);
        }
        return;
    case SP_CUDA_Q5_K:
        for (size_t b = 0; b < k / 256; b++, row += sizeof(sp_blk_q5_k)) {
            memcpy(out + r->at[0] + 16 * b, row, 16);
            memcpy(out + r->at[1] + 32 * b, row + 16, 32);
            memcpy(out + 128 * b, row + 48, 128);
        }
        return;
    case SP_CUDA_MXFP4:
        for (size_t b = 0; b < n; b++, row += sizeof(sp_blk_mxfp4)) {
            memcpy(out + r->at[0] + b, row, 1);
            memcpy(out + 16 * b, row + 1, 16);
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
            cuda_widen(c, wide, type, row, k);
            c->kern.narrow_f16((sp_f16 *)(void *)out, wide, k);
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
    char *slice = sp_mem_align(n * r.row_bytes);
    float *wide = sp_mem_align(cuda_wide_bytes(type, k));
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
        *out = (sp_dev_weight){.data = at, .type = type, .n_row = n_row, .k = k};
    return err;
}

sp_err cuda_embed(sp_dev *dev, float *out, const sp_dev_weight *w, const uint32_t *id, size_t n,
                  float scale)
{
    cuda_dev *c = (cuda_dev *)dev;
    uint64_t start = cuda_stat_begin(dev);
    SP_TRY(cuda_put(c, &c->ids, id, n * sizeof *id));
    const sp_cuda_embed a = {out,
                             cuda_rows(w),
                             c->ids.p,
                             (uint32_t)n,
                             0,
                             (uint32_t)w->k,
                             scale * (w->scale ? *w->scale : 1.0f)};
    SP_TRY(cuda_try(c, c->lib->embed(&a), "embedding"));
    cuda_stat_end(dev, SP_STAGE_REST, start, (double)(n * sp_type_row_bytes(w->type, w->k)), 0);
    return SP_OK;
}

sp_err cuda_embed_part(sp_dev *dev, const sp_dev_embed_part *a)
{
    cuda_dev *c = (cuda_dev *)dev;
    const sp_dev_weight *w = a->w;
    size_t row_bytes = sp_type_row_bytes(w->type, w->k), at = sp_type_row_bytes(w->type, a->from);
    float scale = a->scale * (w->scale ? *w->scale : 1.0f);
    uint64_t start = cuda_stat_begin(dev);
    float *rows = sp_mem_align(a->n_row * a->n * sizeof *rows + cuda_wide_bytes(w->type, a->n));
    if (!rows)
        return SP_NOMEM;
    for (size_t i = 0; i < a->n_row; i++) { /* behind a row is room for the next ones */
        float *out = rows + i * a->n;
        cuda_widen(c, out, w->type, (const char *)w->data + a->id[i] * row_bytes + at, a->n);
        for (size_t e = 0; e < a->n; e++)
            out[e] *= scale;
    }
    sp_err err =
        cuda_try(c, c->lib->write(a->out, rows, a->n_row * a->n * sizeof *rows), "rows of tokens");
    sp_mem_free(rows);
    SP_TRY(err);
    cuda_stat_end(dev, SP_STAGE_REST, start, (double)(a->n_row * sp_type_row_bytes(w->type, a->n)),
                  0);
    return SP_OK;
}

bool cuda_takes_two(const sp_dev_weight *w)
{
    sp_cuda_type type = type_of(w->type);
    return type == SP_CUDA_BF16 || type == SP_CUDA_F32 || type == SP_CUDA_MXFP4;
}

sp_err cuda_prepare(cuda_dev *c, sp_cuda_prep p, bool two)
{
    p.k_pad = (p.k + 31) & ~31u;
    p.ld = p.ld ? p.ld : p.k;
    size_t n_bytes = (size_t)p.n_row * p.k_pad * sizeof(uint16_t);
    SP_TRY(cuda_grow(c, two ? &c->hi : &c->half, n_bytes));
    SP_TRY(two ? cuda_grow(c, &c->lo, n_bytes) : cuda_grow(c, &c->unit, p.n_row * sizeof(float)));
    p.hi = two ? c->hi.p : c->half.p;
    p.lo = two ? c->lo.p : NULL;
    p.unit = c->unit.p;
    return cuda_try(c, c->lib->prep(&p), "rows of a product");
}

static sp_err product(cuda_dev *c, const sp_dev_matmul *a, size_t i)
{
    const sp_cuda_rows w = cuda_rows(&a->w[i]);
    const bool two = cuda_takes_two(&a->w[i]);
    const sp_cuda_product p = {.out = a->out[i],
                               .w = w,
                               .hi = two ? c->hi.p : c->half.p,
                               .lo = two ? c->lo.p : NULL,
                               .unit = c->unit.p,
                               .bias = a->bias ? a->bias[i] : NULL,
                               .n_tok = (uint32_t)a->n_row,
                               .add = a->add,
                               .ld = w.n_row,
                               .n_out = w.n_row,
                               .scale = a->w[i].scale ? *a->w[i].scale : 1.0f};
    return cuda_try(c, c->lib->product(&p), "a product");
}

sp_err cuda_matmul(sp_dev *dev, const sp_dev_matmul *a)
{
    enum { HALF, TWO, CODES, FORMS };
    cuda_dev *c = (cuda_dev *)dev;
    uint64_t start = cuda_stat_begin(dev);
    double n_bytes = 0, n_w_row = 0;
    bool is_ready[FORMS] = {false};
    const sp_cuda_prep in = {.x = a->x,
                             .norm = a->norm,
                             .up = a->up,
                             .n_row = (uint32_t)a->n_row,
                             .k = (uint32_t)a->w[0].k,
                             .act = (uint32_t)a->act,
                             .eps = a->eps};
    for (size_t i = 0; i < a->n_w; i++) {
        const sp_dev_weight *w = &a->w[i];
        int form = w->is_fp8 ? CODES : cuda_takes_two(w) ? TWO : HALF;
        if (!is_ready[form])
            SP_TRY(form == CODES ? cuda_fp8_prepare(c, in) : cuda_prepare(c, in, form == TWO));
        is_ready[form] = true;
        SP_TRY(form == CODES ? cuda_fp8_product(c, a, i) : product(c, a, i));
        n_bytes += (double)(w->is_fp8 ? cuda_fp8_bytes(dev, w->n_row, w->k)
                                      : cuda_weight_bytes(dev, w->type, w->n_row, w->k));
        n_w_row += (double)w->n_row;
    }
    cuda_stat_end(dev, a->stage, start, n_bytes, n_w_row * (double)a->w[0].k * (double)a->n_row);
    return SP_OK;
}

sp_err cuda_each_head(sp_dev *dev, const sp_dev_each_head *a)
{
    cuda_dev *c = (cuda_dev *)dev;
    uint64_t start = cuda_stat_begin(dev);
    const sp_cuda_rows w = cuda_rows(a->w);
    const uint32_t n_row = (uint32_t)(a->n_row * a->n_head), n_out = w.n_row / (uint32_t)a->n_head;
    const bool two = cuda_takes_two(a->w);
    const sp_cuda_prep in = {.x = a->x, .n_row = n_row, .k = w.k, .ld = (uint32_t)a->ld_x};
    SP_TRY(cuda_prepare(c, in, two));
    const sp_cuda_product p = {.out = a->out,
                               .w = w,
                               .hi = two ? c->hi.p : c->half.p,
                               .lo = two ? c->lo.p : NULL,
                               .unit = c->unit.p,
                               .n_tok = (uint32_t)a->n_row,
                               .ld = (uint32_t)a->ld_out,
                               .n_out = n_out,
                               .each = n_out,
                               .n_beside = (uint32_t)a->n_head,
                               .scale = a->w->scale ? *a->w->scale : 1.0f};
    const sp_cuda_tail tail = {.out = a->out + n_out,
                               .x = a->x + w.k,
                               .n_row = n_row,
                               .n = (uint32_t)a->n_copy,
                               .ld_out = (uint32_t)a->ld_out,
                               .ld_x = (uint32_t)a->ld_x};
    SP_TRY(cuda_try(c, c->lib->product(&p), "a product of heads"));
    if (a->n_copy)
        SP_TRY(cuda_try(c, c->lib->tail(&tail), "what lies behind heads"));
    cuda_stat_end(dev, a->stage, start, (double)w.n_row * (double)w.row_bytes,
                  (double)w.n_row * (double)w.k * (double)a->n_row);
    return SP_OK;
}
