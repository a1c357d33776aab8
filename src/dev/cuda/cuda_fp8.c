/* Weights that the CUDA device holds as e4m3, and their products (lib.h: sp_cuda_fp8).
 *
 * A row has one scale. E4M3 is a floating format: its relative step is the same over 15 powers of
 * two, so a scale for each block of a row would change what is far below the row's largest element
 * only. The scale is a power of two and rounds nothing. */
#include "dev/cuda/cuda.h"

#include "base/mem.h"
#include "kern/fp8.h"

#include <math.h>
#include <string.h>

enum { ROWS = SP_CUDA_FP8_ROWS, K = SP_CUDA_FP8_K };

static size_t tiles_of(size_t k)
{
    return (k + K - 1) / K;
}

static size_t band_bytes(size_t k)
{
    return tiles_of(k) * ROWS * K + ROWS * sizeof(float);
}

size_t cuda_fp8_bytes(sp_dev *dev, size_t n_row, size_t k)
{
    (void)dev;
    return (n_row + ROWS - 1) / ROWS * band_bytes(k);
}

/* Row r of a band. A row that is not finite becomes NaNs by its scale, as its products are. */
static void put_row(char *band, size_t r, const float *x, size_t k)
{
    float top = 0, unit = 1;
    bool is_odd = false;
    for (size_t i = 0; i < k; i++) {
        is_odd |= !isfinite(x[i]);
        top = fmaxf(top, fabsf(x[i]));
    }
    unit = is_odd ? NAN : sp_fp8_scale(top);
    for (size_t i = 0; i < k && !is_odd; i += 16) {
        char *to = band + i / K * ROWS * K + r * K + ((i % K / 16 ^ r % 8) << 4);
        for (size_t e = 0; e < 16 && i + e < k; e++)
            to[e] = (char)sp_fp8_code(x[i + e] * (1 / unit));
    }
    memcpy(band + tiles_of(k) * ROWS * K + r * sizeof unit, &unit, sizeof unit);
}

typedef struct put_job {
    const cuda_dev *c;
    char *band, *wide; /* wide: for each thread */
    const char *rows;
    size_t n_row, k, wide_bytes;
    sp_type type;
} put_job;

static void put_bands(void *arg, size_t begin, size_t end, size_t i_thread)
{
    const put_job *j = arg;
    const size_t in_bytes = sp_type_row_bytes(j->type, j->k), n_bytes = band_bytes(j->k);
    float *wide = (float *)(void *)(j->wide + i_thread * j->wide_bytes);
    for (size_t i = begin; i < end; i++) {
        char *band = j->band + i * n_bytes;
        memset(band, 0, n_bytes);
        for (size_t r = 0; r < ROWS && i * ROWS + r < j->n_row; r++) {
            cuda_widen(j->c, wide, j->type, j->rows + (i * ROWS + r) * in_bytes, j->k);
            put_row(band, r, wide, j->k);
        }
    }
}

sp_err cuda_fp8_put(sp_dev *dev, sp_dev_weight *out, void *at, sp_type type, const void *rows,
                    size_t n_row, size_t k)
{
    cuda_dev *c = (cuda_dev *)dev;
    const size_t n_bytes = cuda_fp8_bytes(dev, n_row, k);
    put_job j = {.c = c, .rows = rows, .n_row = n_row, .k = k, .type = type};
    j.wide_bytes = (cuda_wide_bytes(type, k) + 63) & ~(size_t)63;
    j.band = sp_mem_align(n_bytes);
    j.wide = sp_mem_align(j.wide_bytes * sp_pool_size(c->pool));
    sp_err err = j.band && j.wide ? SP_OK : SP_NOMEM;
    if (err == SP_OK) {
        sp_pool_run(c->pool, put_bands, &j, (n_row + ROWS - 1) / ROWS, 1);
        err = cuda_try(c, c->lib->write(at, j.band, n_bytes), "a weight");
    }
    sp_mem_free(j.band);
    sp_mem_free(j.wide);
    if (err == SP_OK)
        *out = (sp_dev_weight){.data = at, .type = type, .n_row = n_row, .k = k, .is_fp8 = true};
    return err;
}

sp_err cuda_fp8_prepare(cuda_dev *c, sp_cuda_prep p)
{
    const size_t n_tile = tiles_of(p.k), n_place = (p.n_row + 7) / 8 * 8;
    p.k_pad = (uint32_t)(n_tile * K);
    p.ld = p.k;
    SP_TRY(cuda_grow(c, &c->codes, n_tile * n_place * K));
    SP_TRY(cuda_grow(c, &c->code_unit, n_tile * n_place * sizeof(float)));
    p.codes = c->codes.p;
    p.unit = c->code_unit.p;
    return cuda_try(c, c->lib->prep(&p), "rows of a product");
}

sp_err cuda_fp8_product(cuda_dev *c, const sp_dev_matmul *a, size_t i)
{
    const sp_dev_weight *w = &a->w[i];
    const sp_cuda_fp8 p = {.out = a->out[i],
                           .w = w->data,
                           .x = c->codes.p,
                           .unit = c->code_unit.p,
                           .bias = a->bias ? a->bias[i] : NULL,
                           .n_tok = (uint32_t)a->n_row,
                           .n_out = (uint32_t)w->n_row,
                           .n_kb = (uint32_t)tiles_of(w->k),
                           .ld = (uint32_t)w->n_row,
                           .add = a->add,
                           .scale = w->scale ? *w->scale : 1.0f};
    return cuda_try(c, c->lib->fp8(&p), "a product of e4m3");
}
