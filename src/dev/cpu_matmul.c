/* Weights on the CPU: packing, embedding rows, and the matrix product with its fused ends.
 *
 * A product runs in two parts: rows of x are normalised (or gated) and quantised, then tiles of 16
 * weight rows meet all tokens. Threads share tiles, never a dot product, so their number changes no
 * result. */
#include "dev/cpu.h"

#include <string.h>

enum {
    TOK_BYTES = 512 * 1024, /* activations of a token block: half of a usual L2 */
    TOK_MULTIPLE = 24,      /* whole register tiles of every ISA */
    PAD = 32 /* elements between rows of computed input: k is often a multiple of 4 KiB */
};

/* Rows that are not packed are copied as they are: memory of our own has large pages, a file's map
 * has not (decode of the 1.07 B shape in F16: 80 % of the read bandwidth from the map, 90 % from
 * the copy). */
static bool is_copied(sp_type type)
{
    return type != SP_F32 && !sp_pack_is(type);
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
            sp_pack_tile(j->at + i * sp_pack_tile_bytes(j->type, j->k), j->type,
                         j->rows + r * row_bytes, n, j->k, j->c->scratch[i_thread]);
    }
}

sp_err cpu_weight_put(sp_dev *dev, sp_dev_weight *out, void *at, sp_type type, const void *rows,
                      size_t n_row, size_t k)
{
    cpu_dev *c = (cpu_dev *)dev;
    if (cpu_weight_bytes(dev, type, n_row, k) == 0) {
        *out = (sp_dev_weight){.data = rows, .type = type, .n_row = n_row, .k = k};
        return SP_OK;
    }
    SP_TRY(cpu_scratch_reserve(c, sp_pack_scratch(k)));
    pack_job j = {c, at, rows, type, n_row, k};
    if (is_copied(type)) { /* the gap behind the last row: these bytes may be written to a file */
        size_t n = n_row * sp_type_row_bytes(type, k);
        memset((char *)at + n, 0, cpu_weight_bytes(dev, type, n_row, k) - n);
    }
    sp_pool_run(c->pool, pack_part, &j, sp_pack_tiles(n_row), 1);
    *out = (sp_dev_weight){.data = at, .type = type, .n_row = n_row, .k = k};
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
    float scale = j->scale * (j->w->scale ? *j->w->scale : 1.0f);
    (void)i_thread;
    for (size_t i = begin; i < end; i++) {
        float *row = j->out + i * j->w->k;
        sp_kern_row_f32(&j->c->kern, row, j->w->type, j->w->data, j->id[i], j->w->k);
        for (size_t e = 0; e < j->w->k && scale != 1.0f; e++)
            row[e] *= scale;
    }
}

sp_err cpu_embed(sp_dev *dev, float *out, const sp_dev_weight *w, const uint32_t *id, size_t n,
                 float scale)
{
    cpu_dev *c = (cpu_dev *)dev;
    embed_job j = {c, out, w, id, scale};
    uint64_t start = cpu_stat_begin(dev);
    sp_pool_run(c->pool, embed_part, &j, n, 8);
    cpu_stat_end(dev, SP_STAGE_REST, start, (double)(n * sp_type_row_bytes(w->type, w->k)), 0);
    return SP_OK;
}

typedef struct part_job {
    cpu_dev *c;
    const sp_dev_embed_part *a;
} part_job;

/* Rows of packed types become a tile of one row first. */
static void embed_part_rows(void *arg, size_t begin, size_t end, size_t i_thread)
{
    const part_job *j = arg;
    const sp_dev_embed_part *a = j->a;
    const sp_dev_weight *w = a->w;
    size_t row_bytes = sp_type_row_bytes(w->type, w->k), at = sp_type_row_bytes(w->type, a->from);
    float scale = a->scale * (w->scale ? *w->scale : 1.0f);
    for (size_t i = begin; i < end; i++) {
        const char *in = (const char *)w->data + a->id[i] * row_bytes + at;
        float *out = a->out + i * a->n;
        if (sp_pack_is(w->type)) {
            char *tile = j->c->scratch[i_thread];
            sp_pack_tile(tile, w->type, in, 1, a->n, tile + sp_pack_bytes(w->type, 1, a->n));
            in = tile;
        }
        sp_kern_row_f32(&j->c->kern, out, w->type, in, 0, a->n);
        for (size_t e = 0; e < a->n && scale != 1.0f; e++)
            out[e] *= scale;
    }
}

sp_err cpu_embed_part(sp_dev *dev, const sp_dev_embed_part *a)
{
    cpu_dev *c = (cpu_dev *)dev;
    part_job j = {c, a};
    uint64_t start = cpu_stat_begin(dev);
    if (sp_pack_is(a->w->type))
        SP_TRY(cpu_scratch_reserve(c, sp_pack_bytes(a->w->type, 1, a->n) + sp_pack_scratch(a->n)));
    sp_pool_run(c->pool, embed_part_rows, &j, a->n_row, 8);
    cpu_stat_end(dev, SP_STAGE_REST, start,
                 (double)(a->n_row * sp_type_row_bytes(a->w->type, a->n)), 0);
    return SP_OK;
}

void cpu_input_want(cpu_input *in, const sp_dev_weight *w)
{
    if (sp_pack_is(w->type))
        in->want_q = true;
    else if (w->type == SP_BF16 && in->c->kern.narrow_bf16)
        in->want_narrow = true;
    else
        in->want_f = true;
}

sp_err cpu_input_reserve(cpu_input *in, size_t n_row, bool computed)
{
    cpu_dev *c = in->c;
    sp_err err = SP_OK;
    SP_TRY(cpu_scratch_reserve(c, in->k * sizeof(float)));
    if (in->want_q) {
        c->acts.stride = sp_acts_stride(in->k);
        void *p = c->acts.mem;
        err = cpu_grow(&p, &c->acts_bytes, n_row * c->acts.stride);
        c->acts.mem = p;
    }
    if (in->want_narrow && err == SP_OK) {
        void *p = c->narrow;
        err = cpu_grow(&p, &c->narrow_bytes, n_row * (in->k + PAD) * sizeof *c->narrow);
        c->narrow = p;
    }
    if (in->want_f && computed && err == SP_OK) {
        void *p = c->xin;
        err = cpu_grow(&p, &c->xin_bytes, n_row * (in->k + PAD) * sizeof(float));
        c->xin = p;
        in->x = c->xin;
        in->ld_x = in->k + PAD;
    }
    return err;
}

float *cpu_input_row(const cpu_input *in, size_t t, size_t i_thread)
{
    return in->want_f ? in->c->xin + t * in->ld_x : (float *)(void *)in->c->scratch[i_thread];
}

void cpu_input_put(const cpu_input *in, size_t t, const float *x)
{
    if (in->want_q)
        in->c->kern.quant_act(&in->c->acts, t, x, in->k);
    if (in->want_narrow)
        in->c->kern.narrow_bf16(in->c->narrow + t * (in->k + PAD), x, in->k);
}

void cpu_input_copy(const cpu_input *in, size_t to, size_t from)
{
    cpu_dev *c = in->c;
    if (in->want_q)
        memcpy(c->acts.mem + to * c->acts.stride, c->acts.mem + from * c->acts.stride,
               in->k / 32 * sizeof(sp_act_blk));
    if (in->want_narrow)
        memcpy(c->narrow + to * (in->k + PAD), c->narrow + from * (in->k + PAD),
               in->k * sizeof *c->narrow);
    if (in->want_f)
        memcpy(c->xin + to * in->ld_x, c->xin + from * in->ld_x, in->k * sizeof(float));
}

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Tiles [i0, i0 + n) of one quantised weight: blocks of tokens stay in L2 while tiles pass by. */
static void quant_tiles(const cpu_input *in, const sp_dev_weight *w, float *out, size_t i0,
                        size_t n, size_t first, size_t n_tok, bool add)
{
    const sp_kern_acts *acts = &in->c->acts;
    size_t r = i0 * SP_TILE_ROWS, n_row = least(n * SP_TILE_ROWS, w->n_row - r),
           blk = TOK_BYTES / acts->stride / TOK_MULTIPLE * TOK_MULTIPLE;
    blk = blk ? blk : TOK_MULTIPLE;
    for (size_t t = 0; t < n_tok; t += blk) {
        const sp_kern_acts x = {acts->mem + (first + t) * acts->stride, acts->stride};
        const sp_gemm_args g = {.out = out + t * w->n_row + r,
                                .ld = w->n_row,
                                .w = (const char *)w->data + i0 * sp_pack_tile_bytes(w->type, w->k),
                                .x = &x,
                                .n_row = n_row,
                                .n_tok = least(n_tok - t, blk),
                                .k = w->k,
                                .add = add,
                                .scale = w->scale};
        sp_kern_gemm_q(&in->c->kern, w->type, &g);
    }
}

/* Rows [r0, r0 + n) of one plain weight, in the same blocks of tokens. */
static void float_rows(const cpu_input *in, const sp_dev_weight *w, float *out, size_t r0, size_t n,
                       size_t first, size_t n_tok, bool add)
{
    bool is_narrow = w->type == SP_BF16 && in->c->kern.narrow_bf16;
    size_t elem_bytes = is_narrow ? sizeof(uint16_t) : sizeof(float),
           blk = TOK_BYTES / (w->k * elem_bytes) + 1;
    blk = (blk + TOK_MULTIPLE - 1) / TOK_MULTIPLE * TOK_MULTIPLE;
    size_t ld_x = is_narrow ? w->k + PAD : in->ld_x;
    const char *x = is_narrow ? (const char *)in->c->narrow : (const char *)in->x;
    for (size_t t = 0; t < n_tok; t += blk) {
        const sp_gemm_f_args g = {.out = out + t * w->n_row + r0,
                                  .ld = w->n_row,
                                  .w =
                                      (const char *)w->data + r0 * sp_type_row_bytes(w->type, w->k),
                                  .x = x + (first + t) * ld_x * elem_bytes,
                                  .ld_x = ld_x,
                                  .n_row = n,
                                  .n_tok = least(n_tok - t, blk),
                                  .k = w->k,
                                  .add = add};
        in->c->kern.gemm_f[w->type](&g);
    }
}

void cpu_product(const cpu_input *in, const sp_dev_weight *w, float *out, size_t i_tile,
                 size_t n_tile, size_t first, size_t n_tok, bool add)
{
    size_t r = i_tile * SP_TILE_ROWS;
    if (sp_pack_is(w->type))
        quant_tiles(in, w, out, i_tile, n_tile, first, n_tok, add);
    else
        float_rows(in, w, out, r, least(n_tile * SP_TILE_ROWS, w->n_row - r), first, n_tok, add);
}

typedef struct matmul_job {
    cpu_input in;
    const sp_dev_matmul *a;
} matmul_job;

/* Rows of x through norm or gate, then into the forms that the weights want. */
static void input_part(void *arg, size_t begin, size_t end, size_t i_thread)
{
    const matmul_job *j = arg;
    const sp_dev_matmul *a = j->a;
    const sp_kern *kern = &j->in.c->kern;
    for (size_t t = begin; t < end; t++) {
        const float *x = a->x + t * j->in.k;
        if (a->norm || a->act) {
            float *y = cpu_input_row(&j->in, t, i_thread);
            if (a->norm)
                kern->norm_rms(y, x, a->norm, j->in.k, a->eps);
            else
                kern->glu[a->act](y, x, a->up ? a->up + t * j->in.k : NULL, j->in.k);
            x = y;
        }
        cpu_input_put(&j->in, t, x);
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
        size_t n_tile = sp_pack_tiles(w->n_row), from = begin > first ? begin - first : 0,
               to = least(end - first, n_tile);
        first += n_tile;
        if (from >= to)
            continue;
        size_t r = from * SP_TILE_ROWS, n_row = least((to - from) * SP_TILE_ROWS, w->n_row - r);
        cpu_product(&j->in, w, a->out[i], from, to - from, 0, a->n_row, a->add);
        for (size_t t = 0; a->bias && a->bias[i] && t < a->n_row; t++)
            j->in.c->kern.add(a->out[i] + t * w->n_row + r, a->bias[i] + r, n_row);
    }
}

sp_err cpu_matmul(sp_dev *dev, const sp_dev_matmul *a)
{
    cpu_dev *c = (cpu_dev *)dev;
    matmul_job j = {.in = {.c = c, .k = a->w[0].k, .x = a->x, .ld_x = a->w[0].k}, .a = a};
    uint64_t start = cpu_stat_begin(dev);
    size_t n_tile = 0, n_bytes = 0, n_w_row = 0;
    for (size_t i = 0; i < a->n_w; i++) {
        SP_DASSERT(a->w[i].k == j.in.k);
        n_tile += sp_pack_tiles(a->w[i].n_row);
        n_w_row += a->w[i].n_row;
        n_bytes += a->w[i].n_row * sp_type_row_bytes(a->w[i].type, j.in.k);
        cpu_input_want(&j.in, &a->w[i]);
    }
    SP_TRY(cpu_input_reserve(&j.in, a->n_row, a->norm || a->act));
    if (j.in.want_q || j.in.want_narrow || a->norm || a->act)
        sp_pool_run(c->pool, input_part, &j, a->n_row, 4);
    sp_pool_run(c->pool, matmul_part, &j, n_tile, CPU_MIN_TILES);
    cpu_stat_end(dev, a->stage, start, (double)n_bytes,
                 (double)(n_w_row * j.in.k) * (double)a->n_row);
    return SP_OK;
}
