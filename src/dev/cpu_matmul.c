/* Weights on the CPU: packing, embedding rows, and the matrix product with its fused ends.
 *
 * A product runs in two parts: rows of x are normalised (or gated) and quantised, then tiles of 16
 * weight rows meet all tokens. Threads share tiles, never a dot product, so their number changes no
 * result. */
#include "dev/cpu.h"

#include <string.h>

enum {
    TOK_BYTES = 512 * 1024,   /* activations of a token block: half of a usual L2 */
    TOK_MULTIPLE = 24,        /* whole register tiles of every ISA */
    PAD = 32,                 /* elements between rows of computed input: k is often a multiple of 4 KiB */
    MIN_TILES = 4             /* below this a second thread costs more than it brings */
};

/* F16 and BF16 rows are copied as they are: memory of our own has large pages, a file's map has not
 * (decode of the 1.07 B shape in F16: 80 % of the read bandwidth from the map, 90 % from the copy). */
static bool is_copied(sp_type type)
{
    return type == SP_F16 || type == SP_BF16;
}

size_t cpu_weight_bytes(sp_dev *dev, sp_type type, size_t n_row, size_t k)
{
    (void)dev;
    if (is_copied(type))
        return (n_row * sp_type_row_bytes(type, k) + 63) & ~(size_t)63;
    return sp_pack_is(type) ? sp_pack_bytes(type, n_row, k) : 0;
}

typedef struct pack_job {
    cpu_dev *c;
    char *at;
    const char *rows;
    sp_type type;
    size_t n_row, k;
} pack_job;

/* Items are tiles of 16 rows. */
static void pack_part(void *arg, size_t begin, size_t end, size_t i_thread)
{
    const pack_job *j = arg;
    size_t row_bytes = sp_type_row_bytes(j->type, j->k);
    for (size_t i = begin; i < end; i++) {
        size_t r = i * SP_TILE_ROWS, n = j->n_row - r < SP_TILE_ROWS ? j->n_row - r : SP_TILE_ROWS;
        if (is_copied(j->type))
            memcpy(j->at + r * row_bytes, j->rows + r * row_bytes, n * row_bytes);
        else
            sp_pack_tile(j->at + i * sp_pack_tile_bytes(j->type, j->k), j->type, j->rows + r * row_bytes, n, j->k,
                         j->c->scratch[i_thread]);
    }
}

sp_err cpu_weight_put(sp_dev *dev, sp_dev_weight *out, void *at, sp_type type, const void *rows, size_t n_row,
                      size_t k)
{
    cpu_dev *c = (cpu_dev *)dev;
    if (cpu_weight_bytes(dev, type, n_row, k) == 0) {
        *out = (sp_dev_weight){rows, type, n_row, k};
        return SP_OK;
    }
    SP_TRY(cpu_scratch_reserve(c, sp_pack_scratch(k)));
    pack_job j = {c, at, rows, type, n_row, k};
    sp_pool_run(c->pool, pack_part, &j, sp_pack_tiles(n_row), 1);
    *out = (sp_dev_weight){at, type, n_row, k};
    return SP_OK;
}

typedef struct embed_job {
    cpu_dev *c;
    float *out;
    const sp_dev_weight *w;
    const uint32_t *id;
    float scale;
} embed_job;

static void embed_part(void *arg, size_t begin, size_t end, size_t i_thread)
{
    const embed_job *j = arg;
    (void)i_thread;
    for (size_t i = begin; i < end; i++) {
        float *row = j->out + i * j->w->k;
        sp_kern_row_f32(&j->c->kern, row, j->w->type, j->w->data, j->id[i], j->w->k);
        for (size_t e = 0; e < j->w->k && j->scale != 1.0f; e++)
            row[e] *= j->scale;
    }
}

sp_err cpu_embed(sp_dev *dev, float *out, const sp_dev_weight *w, const uint32_t *id, size_t n, float scale)
{
    cpu_dev *c = (cpu_dev *)dev;
    embed_job j = {c, out, w, id, scale};
    uint64_t start = cpu_stat_begin(dev);
    sp_pool_run(c->pool, embed_part, &j, n, 8);
    cpu_stat_end(dev, SP_STAGE_REST, start, (double)(n * sp_type_row_bytes(w->type, w->k)), 0);
    return SP_OK;
}

typedef struct matmul_job {
    cpu_dev *c;
    const sp_dev_matmul *a;
    const float *x; /* input of float weights, rows ld_x apart */
    size_t k, ld_x, tok_blk;
    bool want_q, want_f, want_narrow;
} matmul_job;

/* Rows of x through norm or gate, then to 8 bits, to bf16 or to xin, whatever the weights want. */
static void input_part(void *arg, size_t begin, size_t end, size_t i_thread)
{
    const matmul_job *j = arg;
    const sp_dev_matmul *a = j->a;
    const sp_kern *kern = &j->c->kern;
    for (size_t t = begin; t < end; t++) {
        const float *x = a->x + t * j->k;
        if (a->norm || a->act) {
            float *y = j->want_f ? j->c->xin + t * j->ld_x : (float *)(void *)j->c->scratch[i_thread];
            if (a->norm)
                kern->norm_rms(y, x, a->norm, j->k, a->eps);
            else
                kern->glu[a->act](y, x, a->up ? a->up + t * j->k : NULL, j->k);
            x = y;
        }
        if (j->want_q)
            kern->quant_act(&j->c->acts, t, x, j->k);
        if (j->want_narrow)
            kern->narrow_bf16(j->c->narrow + t * (j->k + PAD), x, j->k);
    }
}

/* Tiles [i0, i0 + n) of one quantised weight: blocks of tokens stay in L2 while tiles pass by. */
static void quant_tiles(const matmul_job *j, const sp_dev_weight *w, float *out, size_t i0, size_t n)
{
    size_t r = i0 * SP_TILE_ROWS, n_row = n * SP_TILE_ROWS;
    n_row = w->n_row - r < n_row ? w->n_row - r : n_row;
    for (size_t t = 0; t < j->a->n_row; t += j->tok_blk) {
        size_t n_tok = j->a->n_row - t < j->tok_blk ? j->a->n_row - t : j->tok_blk;
        const sp_kern_acts x = {j->c->acts.mem + t * j->c->acts.stride, j->c->acts.stride};
        const sp_gemm_args g = {out + t * w->n_row + r, w->n_row,
                                (const char *)w->data + i0 * sp_pack_tile_bytes(w->type, w->k),
                                &x, n_row, n_tok, w->k, j->a->add};
        j->c->kern.gemm_q[w->type](&g);
    }
}

/* Rows [r0, r0 + n) of one plain weight, in the same blocks of tokens. */
static void float_rows(const matmul_job *j, const sp_dev_weight *w, float *out, size_t r0, size_t n)
{
    bool is_narrow = w->type == SP_BF16 && j->c->kern.narrow_bf16;
    size_t elem_bytes = is_narrow ? sizeof(uint16_t) : sizeof(float), tok_blk = TOK_BYTES / (w->k * elem_bytes) + 1;
    tok_blk = (tok_blk + TOK_MULTIPLE - 1) / TOK_MULTIPLE * TOK_MULTIPLE;
    size_t ld_x = is_narrow ? w->k + PAD : j->ld_x;
    const char *x = is_narrow ? (const char *)j->c->narrow : (const char *)j->x;
    for (size_t t = 0; t < j->a->n_row; t += tok_blk) {
        const sp_gemm_f_args g = {.out = out + t * w->n_row + r0,
                                  .ld = w->n_row,
                                  .w = (const char *)w->data + r0 * sp_type_row_bytes(w->type, w->k),
                                  .x = x + t * ld_x * elem_bytes,
                                  .ld_x = ld_x,
                                  .n_row = n,
                                  .n_tok = j->a->n_row - t < tok_blk ? j->a->n_row - t : tok_blk,
                                  .k = w->k,
                                  .add = j->a->add};
        j->c->kern.gemm_f[w->type](&g);
    }
}

/* Items are tiles of 16 rows of all weights laid end to end. */
static void matmul_part(void *arg, size_t begin, size_t end, size_t i_thread)
{
    const matmul_job *j = arg;
    (void)i_thread;
    const sp_dev_matmul *a = j->a;
    size_t first = 0;
    for (size_t i = 0; i < a->n_w && first < end; i++) {
        const sp_dev_weight *w = &a->w[i];
        size_t n_tile = sp_pack_tiles(w->n_row), from = begin > first ? begin - first : 0;
        size_t to = end - first < n_tile ? end - first : n_tile, r = from * SP_TILE_ROWS;
        first += n_tile;
        if (from >= to)
            continue;
        size_t n_row = (to - from) * SP_TILE_ROWS;
        n_row = w->n_row - r < n_row ? w->n_row - r : n_row;
        if (sp_pack_is(w->type))
            quant_tiles(j, w, a->out[i], from, to - from);
        else
            float_rows(j, w, a->out[i], r, n_row);
        for (size_t t = 0; a->bias && a->bias[i] && t < a->n_row; t++)
            j->c->kern.add(a->out[i] + t * w->n_row + r, a->bias[i] + r, n_row);
    }
}

sp_err cpu_matmul(sp_dev *dev, const sp_dev_matmul *a)
{
    cpu_dev *c = (cpu_dev *)dev;
    matmul_job j = {.c = c, .a = a, .x = a->x, .k = a->w[0].k, .ld_x = a->w[0].k};
    uint64_t start = cpu_stat_begin(dev);
    size_t n_tile = 0, n_bytes = 0, n_w_row = 0;
    for (size_t i = 0; i < a->n_w; i++) {
        SP_DASSERT(a->w[i].k == j.k);
        n_tile += sp_pack_tiles(a->w[i].n_row);
        n_w_row += a->w[i].n_row;
        n_bytes += a->w[i].n_row * sp_type_row_bytes(a->w[i].type, j.k);
        if (sp_pack_is(a->w[i].type))
            j.want_q = true;
        else if (a->w[i].type == SP_BF16 && c->kern.narrow_bf16)
            j.want_narrow = true;
        else
            j.want_f = true;
    }
    SP_TRY(cpu_scratch_reserve(c, j.k * sizeof(float)));
    if (j.want_q) {
        c->acts.stride = sp_acts_stride(j.k);
        void *p = c->acts.mem;
        sp_err err = cpu_grow(&p, &c->acts_bytes, a->n_row * c->acts.stride);
        c->acts.mem = p;
        SP_TRY(err);
        j.tok_blk = TOK_BYTES / c->acts.stride / TOK_MULTIPLE * TOK_MULTIPLE;
        j.tok_blk = j.tok_blk ? j.tok_blk : TOK_MULTIPLE;
    }
    if (j.want_narrow) {
        void *p = c->narrow;
        sp_err err = cpu_grow(&p, &c->narrow_bytes, a->n_row * (j.k + PAD) * sizeof *c->narrow);
        c->narrow = p;
        SP_TRY(err);
    }
    if (j.want_f && (a->norm || a->act)) {
        void *p = c->xin;
        sp_err err = cpu_grow(&p, &c->xin_bytes, a->n_row * (j.k + PAD) * sizeof(float));
        c->xin = p;
        SP_TRY(err);
        j.x = c->xin;
        j.ld_x = j.k + PAD;
    }
    if (j.want_q || j.want_narrow || a->norm || a->act)
        sp_pool_run(c->pool, input_part, &j, a->n_row, 4);
    sp_pool_run(c->pool, matmul_part, &j, n_tile, MIN_TILES);
    cpu_stat_end(dev, a->stage, start, (double)n_bytes, (double)(n_w_row * j.k) * (double)a->n_row);
    return SP_OK;
}
