/* Packed weights times many tokens at once, for CPUs that multiply small matrices in one
 * instruction. Rows are laid out once for all tokens: the codes of a block, [8 quads][VR][4], have
 * the form that such an instruction wants of its second matrix. The including file defines, beside
 * the primitives of gemm_tile.h,
 *
 *   mx_dot(c, a, stride, b, n)  c[t][r] = the sum over 4 n numbers of a row of a (s8, rows `stride`
 *                               bytes apart) and of b's row r (u8, [n][VR][4]), TALL_T rows of a
 *   mx_begin(), mx_end()        around the products of a call
 *
 * Float operations and their order are those of gemm_tile.h, so that results are, too. */
#include "kern/gemm_tile.h"

enum { TALL_T = SP_GEMM_TALL };

/* VR rows that are laid out by tokens [t0, t0 + TALL_T), of which those from `from` on are wanted.
 * n_out: rows that exist. */
INLINE void tall_rows(const sp_gemm_args *g, float *out, const uint8_t *laid, size_t n_out,
                      size_t t0, size_t from, const size_t n_half)
{
    const size_t stride = g->x->stride;
    const uint8_t *x = g->x->mem + t0 * stride;
    vf acc[TALL_T];
    UNROLL
    for (size_t t = 0; t < TALL_T; t++)
        acc[t] = vf_zero();
    for (size_t i = 0; i < g->k / 32; i++, x += sizeof(sp_act_blk)) {
        UNROLL
        for (size_t h = 0; h < n_half; h++) {
            _Alignas(64) int32_t dot[TALL_T][VR];
            vf d = vf_load((const float *)(const void *)(laid + (8 + 2 * h) * sizeof(vf))),
               m = vf_load((const float *)(const void *)(laid + (9 + 2 * h) * sizeof(vf)));
            mx_dot(dot, (const int8_t *)x + 16 * h, stride, laid + 4 * h * sizeof(vi), 8 / n_half);
            UNROLL
            for (size_t t = 0; t < TALL_T; t++)
                acc[t] = tile_scaled(acc[t], vs_load((const uint8_t *)dot[t]), d, m,
                                     (const void *)(x + t * stride), h, n_half, SP_SIGN_NONE);
        }
        laid += laid_blk_bytes(n_half, 1);
    }
    UNROLL
    for (size_t t = 0; t < TALL_T; t++)
        if (t0 + t >= from)
            tile_put(g, out + (t0 + t) * g->ld, acc[t], n_out);
}

/* All tokens: the last ones with some before them. */
static void tall_tokens(const sp_gemm_args *g, float *out, const uint8_t *laid, size_t n_out,
                        size_t n_half)
{
    for (size_t t = 0; t < g->n_tok; t += TALL_T) {
        size_t t0 = t + TALL_T <= g->n_tok ? t : g->n_tok - TALL_T;
        if (n_half == 1)
            tall_rows(g, out, laid, n_out, t0, t, 1);
        else
            tall_rows(g, out, laid, n_out, t0, t, 2);
    }
}

INLINE void tall_all(const sp_gemm_args *g, sp_type type)
{
    const size_t tile_bytes = sp_pack_tile_bytes(type, g->k);
    const size_t n_blk = g->k / 32, unit_bytes = sp_pack_unit_bytes(type),
                 blk_bytes = laid_blk_bytes(tile_halves(type), 1);
    _Alignas(64) uint8_t laid[SP_GEMM_TALL_K / 32 * 12 * sizeof(vi)];
    mx_begin();
    for (size_t i = 0; i < g->n_row; i += VR) {
        const uint8_t *tile = (const uint8_t *)g->w + i / SP_TILE_ROWS * tile_bytes;
        size_t left = g->n_row - i;
        for (size_t b = 0; b < n_blk; b += 8)
            tile_lay_out(laid + b * blk_bytes, tile + b / 8 * unit_bytes,
                         n_blk - b < 8 ? n_blk - b : 8, i % SP_TILE_ROWS, type, 1);
        tall_tokens(g, g->out + i, laid, left < VR ? left : VR, tile_halves(type));
    }
    mx_end();
}

#define TALL_GEMM(type)                                                                            \
    static void tall_##type(const sp_gemm_args *g)                                                 \
    {                                                                                              \
        tall_all(g, type);                                                                         \
    }
TILE_TYPES(TALL_GEMM)
#undef TALL_GEMM

static void tall_init(sp_kern *kern)
{
#define TALL_SET(type) kern->gemm_tall[type] = tall_##type;
    TILE_TYPES(TALL_SET)
#undef TALL_SET
    kern->gemm_tall[SP_TQ1_0] = tall_SP_TQ2_0; /* one packed form */
}
