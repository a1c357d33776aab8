/* Packed weights times 8-bit activations, written once for every ISA. The including file defines
 * the vector of VR rows and its primitives; everything below is inlined with a constant type and a
 * constant number of tokens, so that each pair becomes one loop over registers.
 *
 *   VR               rows of one vector: 4, 8 or 16
 *   MAX_T, TILES(T)  tokens of the largest register tile; T(1) .. T(MAX_T). Without MAX_T only
 *                    what lays rows out is here
 *   vi               4 codes of each row (u8)     vi_load, vi_bits(v, from, n, to), vi_or,
 *                                                 vi_of (the bytes of a vs), vi_level(v, level,
 *                                                 zero): level[v] + zero for v < 16, and
 *                                                 vi_gather(table, index): a word for each row
 *   vs               one i32 a row                vs_zero, vs_add, vs_u8, vs_s8, vs_u16 (loads),
 *                                                 vs_and, vs_or, vs_sll, vs_srl, vs_addi
 *   vf               one f32 a row                vf_zero, vf_half (load f16), vf_cvt, vf_mul,
 *                                                 vf_bits (of a vs), vf_mul1, vf_fma1, vf_fmav1,
 *                                                 vf_store(p, v, n, add)
 *   va               partial sums of products: va_zero, va_dot(a, w, x, sign), va_sum (to i32)
 *   PREFETCH(p)      asks for a line that will be read
 *   VA_FULL(bits)    pairs of quads va_dot may add before va_sum must be called
 *   Q8_ZERO          128 where 8-bit codes are taken as u8, 0 where as s8 (value, no minimum)
 *   vi_q8            turns stored codes (value + 128) into that form
 *   VA_PAIRS         1 where two tokens at a time are better: va_pair(a, w0, w1, x0, x1, i0, i1)
 *                    adds the
 *                    products of w0 with x0 + i0 and x1 + i0, and of w1 at i1, to a[0] and a[1] in
 *                    an
 *                    order of its own; va_unpair(a) brings them into the order of va_dot
 *
 * A (row, token) pair sees the same float operations in the same order in every tile size: for each
 * scale, acc = dot * (d * x.d) + acc, then acc = m * x.sum + acc. */
#include "fmt/grid.h"
#include "kern/sign.h"

#ifndef VR
#error "define the primitives first"
#endif

/* Vectors of rows that a pass over a tile takes with one token: all of its rows, so that memory is
 * read without a pause. */
#define MAX_R (SP_TILE_ROWS / VR)

/* From how many tokens on a type is laid out, and the tile of LAID_R vectors of rows and LAID_T
 * tokens that then meets it. */
#ifndef LAID_T
#define LAID_FROM(type) (sp_grid_is(type) ? 2 * MAX_T : SIZE_MAX)
#define LAID_R 1
#define LAID_T MAX_T
#endif

#define NOINLINE __attribute__((noinline))

#ifndef VA_PAIRS
#define VA_PAIRS 0
INLINE void va_pair(va *a, vi w0, vi w1, const int8_t *x0, const int8_t *x1, size_t i0, size_t i1)
{
    (void)a, (void)w0, (void)w1, (void)x0, (void)x1, (void)i0, (void)i1;
}
INLINE void va_unpair(va *a)
{
    (void)a;
}
#endif

/* Types whose products are made here; TQ1_0 has TQ2_0's packed form. */
#define TILE_TYPES(X)                                                                              \
    X(SP_Q4_0) X(SP_Q4_1) X(SP_Q5_0) X(SP_Q5_1) X(SP_Q8_0) X(SP_Q2_K) X(SP_Q3_K) X(SP_Q4_K)        \
    X(SP_Q5_K) X(SP_Q6_K) X(SP_IQ4_NL) X(SP_IQ4_XS) X(SP_MXFP4) X(SP_TQ2_0) X(SP_NVFP4)            \
    X(SP_IQ1_S) X(SP_IQ1_M) X(SP_IQ2_XXS) X(SP_IQ2_XS) X(SP_IQ2_S) X(SP_IQ3_XXS)                   \
    X(SP_IQ3_S)

/* What codes stand for, where they are indices of levels. */
INLINE vi tile_level(sp_type type, vi v)
{
    switch (type) {
    case SP_IQ4_NL:
    case SP_IQ4_XS:
        return vi_level(v, sp_iq4_level, (int)Q8_ZERO);
    case SP_MXFP4:
    case SP_NVFP4:
        return vi_level(v, sp_fp4_level, SP_FP4_ZERO);
    case SP_IQ1_S:
    case SP_IQ1_M:
        return vi_level(v, sp_grid_level_iq1, SP_IQ1_ZERO);
    case SP_IQ2_XXS:
    case SP_IQ2_XS:
    case SP_IQ2_S:
        return vi_level(v, sp_grid_level_iq2, (int)Q8_ZERO);
    case SP_IQ3_XXS:
        return vi_level(v, sp_grid_level_iq3_xxs, (int)Q8_ZERO);
    case SP_IQ3_S:
        return vi_level(v, sp_grid_level_iq3_s, SP_IQ3_ZERO);
    default:
        return v;
    }
}

/* Quad j of the block whose planes start at p, for rows from r0 on. */
INLINE vi tile_quad(sp_type type, const uint8_t *p, size_t j, size_t r0)
{
    const size_t bits = sp_pack_bits(type);
    p += 4 * r0;
    if (bits == 8)
        return vi_q8(vi_load(p + 64 * j));
    if (bits >= 4) {
        vi v = vi_load(p + 64 * (j % 4));
        v = j < 4 ? vi_bits(v, 0, 4, 0) : vi_bits(v, 4, 4, 0);
        if (bits == 5)
            v = vi_or(v, vi_bits(vi_load(p + 256), (int)j, 1, 4));
        if (bits == 6)
            v = vi_or(v, vi_bits(vi_load(p + 256 + 64 * (j / 4)), (int)(2 * (j % 4)), 2, 4));
        return tile_level(type, v);
    }
    vi v = vi_bits(vi_load(p + 64 * (j / 4)), (int)(2 * (j % 4)), 2, 0);
    return bits == 3 ? vi_or(v, vi_bits(vi_load(p + 128), (int)j, 1, 2)) : v;
}

/* Digits of entry e of block b of a unit. p: the block's planes; s: the unit's fields. */
INLINE vi tile_entry(sp_type type, const uint8_t *p, const uint8_t *s, size_t b, size_t e,
                     size_t r0)
{
    const uint8_t *high = s + 2 * SP_TILE_ROWS + r0;
    vs at = vs_u8(p + SP_TILE_ROWS * e + r0);
    switch (type) {
    case SP_IQ1_S:
    case SP_IQ1_M: {
        vs h = vs_srl(vs_u8(high + SP_TILE_ROWS * (2 * b + e / 2)), (int)(e % 2 * 4));
        vs up = vs_and(vs_srl(h, 3), 1); /* 0: 8 is added to each digit */
        at = vs_or(at, vs_sll(vs_and(h, 7), 8));
        return vi_or(vi_gather(sp_grid_iq1, at), vi_of(vs_and(vs_addi(up, -1), (int)0x88888888u)));
    }
    case SP_IQ2_XXS:
        return vi_gather(sp_grid_iq2_xxs, at);
    case SP_IQ2_XS:
        high += SP_TILE_ROWS * (b / 2);
        at = vs_or(at, vs_sll(vs_and(vs_srl(vs_u8(high), (int)(b % 2 * 4 + e)), 1), 8));
        return vi_gather(sp_grid_iq2_xs, at);
    case SP_IQ2_S:
        high += SP_TILE_ROWS * b;
        at = vs_or(at, vs_sll(vs_and(vs_srl(vs_u8(high), (int)(2 * e)), 3), 8));
        return vi_gather(sp_grid_iq2_s, at);
    case SP_IQ3_XXS:
        return vi_gather(sp_grid_iq3_xxs, at);
    default: /* SP_IQ3_S */
        high += SP_TILE_ROWS * b;
        at = vs_or(at, vs_sll(vs_and(vs_srl(vs_u8(high), (int)e), 1), 8));
        return vi_gather(sp_grid_iq3_s, at);
    }
}

/* Two quads whose products are added one after the other: of a block's halves, or neighbours where
 * a scale or an entry ends with 16 or 8 elements. */
INLINE void tile_pair(vi w[2], size_t j[2], sp_type type, const uint8_t *p, const uint8_t *s,
                      size_t b, size_t v, size_t r0)
{
    const size_t bits = sp_pack_bits(type);
    if (!sp_grid_is(type)) {
        w[0] = tile_quad(type, p, j[0], r0);
        w[1] = tile_quad(type, p, j[1], r0);
        return;
    }
    vi sign = vi_load(p + 64 * (bits - 1) + 4 * r0);
    if (bits == 3) {
        w[0] = tile_entry(type, p, s, b, j[0], r0);
        w[1] = tile_entry(type, p, s, b, j[1], r0);
    } else {
        vi digits = tile_entry(type, p, s, b, v, r0);
        w[0] = vi_bits(digits, 0, 4, 0);
        w[1] = vi_bits(digits, 4, 4, 0);
    }
    UNROLL
    for (size_t i = 0; i < 2; i++)
        w[i] = tile_level(type, bits == 1 ? w[i] : vi_or(w[i], vi_bits(sign, (int)j[i], 1, 3)));
}

/* Has every 16 elements their own scale? */
INLINE size_t tile_halves(sp_type type)
{
    return type == SP_Q6_K || type == SP_Q3_K || type == SP_Q2_K || type == SP_NVFP4 ||
                   type == SP_IQ1_M || type == SP_IQ2_XS || type == SP_IQ2_S
               ? 2
               : 1;
}

/* Bits of the numbers that products see, without a sign. */
INLINE size_t tile_dot_bits(sp_type type)
{
    bool is_five = type == SP_MXFP4 || type == SP_NVFP4 || type == SP_IQ1_S || type == SP_IQ1_M ||
                   type == SP_IQ3_S;
    return is_five ? 5 : sp_pack_sign(type) == SP_SIGN_SMALL ? 6 : sp_pack_bits(type);
}

/* Scale d and minimum m of half h of block b of a unit, for rows from r0 on. s: its scale
 * section. */
INLINE void tile_scale(vf *d, vf *m, sp_type type, const uint8_t *s, size_t b, size_t h, size_t r0)
{
    size_t j = 2 * b + h; /* 16-block of the unit */
    switch (type) {
    case SP_Q4_0:
    case SP_Q5_0:
    case SP_Q8_0:
    case SP_IQ4_NL:
        *d = vf_half(s + 32 * b + 2 * r0);
        *m = vf_mul1(*d, type == SP_Q4_0 ? -8.0f : type == SP_Q5_0 ? -16.0f : -Q8_ZERO);
        return;
    case SP_Q4_1:
    case SP_Q5_1:
        *d = vf_half(s + 64 * b + 2 * r0);
        *m = vf_half(s + 64 * b + 32 + 2 * r0);
        return;
    case SP_Q4_K:
    case SP_Q5_K: {
        const uint8_t *six = s + 64 + 16 * (b % 4) + r0; /* as sp_k4_scale_min */
        vs sc, mn;
        if (b < 4) {
            sc = vs_and(vs_u8(six), 63);
            mn = vs_and(vs_u8(six + 64), 63);
        } else {
            vs top = vs_u8(six + 128);
            sc = vs_or(vs_and(top, 15), vs_sll(vs_srl(vs_u8(six), 6), 4));
            mn = vs_or(vs_srl(top, 4), vs_sll(vs_srl(vs_u8(six + 64), 6), 4));
        }
        *d = vf_mul(vf_half(s + 2 * r0), vf_cvt(sc));
        *m = vf_mul(vf_mul1(vf_half(s + 32 + 2 * r0), -1.0f), vf_cvt(mn));
        return;
    }
    case SP_Q6_K:
        *d = vf_mul(vf_half(s + 2 * r0), vf_cvt(vs_s8(s + 32 + 16 * j + r0)));
        *m = vf_mul1(*d, -32.0f);
        return;
    case SP_Q3_K: {
        const uint8_t *six = s + 32 + r0;
        vs low = vs_and(vs_srl(vs_u8(six + 16 * (j % 8)), j < 8 ? 0 : 4), 15);
        vs high = vs_and(vs_srl(vs_u8(six + 16 * (8 + j % 4)), (int)(j / 4 * 2)), 3);
        *d = vf_mul(vf_half(s + 2 * r0), vf_cvt(vs_addi(vs_or(low, vs_sll(high, 4)), -32)));
        *m = vf_mul1(*d, -4.0f);
        return;
    }
    case SP_Q2_K: {
        vs sc = vs_u8(s + 64 + 16 * j + r0);
        *d = vf_mul(vf_half(s + 2 * r0), vf_cvt(vs_and(sc, 15)));
        *m = vf_mul(vf_mul1(vf_half(s + 32 + 2 * r0), -1.0f), vf_cvt(vs_srl(sc, 4)));
        return;
    }
    case SP_MXFP4:
        *d = vf_mul1(vf_bits(vs_sll(vs_u8(s + 16 * b + r0), 23)), 0.5f);
        *m = vf_mul1(*d, -SP_FP4_ZERO);
        return;
    case SP_NVFP4: /* the bits of f32, 2^116 too small */
        *d = vf_mul1(vf_bits(vs_sll(vs_u8(s + 16 * j + r0), 20)), 0x1p116f);
        *m = vf_mul1(*d, -SP_FP4_ZERO);
        return;
    case SP_TQ2_0:
        *d = vf_half(s + 2 * r0);
        *m = vf_mul1(*d, -1.0f);
        return;
    case SP_IQ4_XS: {
        vs low = vs_and(vs_srl(vs_u8(s + 64 + 16 * (b / 2) + r0), (int)(b % 2 * 4)), 15);
        vs high = vs_and(vs_srl(vs_u16(s + 32 + 2 * r0), (int)(2 * b)), 3);
        *d = vf_mul(vf_half(s + 2 * r0), vf_cvt(vs_addi(vs_or(low, vs_sll(high, 4)), -32)));
        *m = vf_mul1(*d, -Q8_ZERO);
        return;
    }
    default: { /* types with a grid: 4 bits for 16 or 32 elements behind the fields of tile_entry */
        const size_t i = tile_halves(type) == 2 ? j : b;
        const uint8_t *half =
            s + SP_TILE_ROWS * (sp_pack_field_bytes(type) - (tile_halves(type) == 2 ? 8 : 4)) + r0;
        vs n = vs_and(vs_srl(vs_u8(half + SP_TILE_ROWS * (i / 2)), (int)(i % 2 * 4)), 15);
        const float zero = sp_pack_sign(type) ? Q8_ZERO
                           : type == SP_IQ3_S ? SP_IQ3_ZERO
                                              : SP_IQ1_ZERO;
        *d = vf_mul1(vf_half(s + 2 * r0), sp_grid_unit(type));
        *d = vf_mul(*d, vf_cvt(vs_addi(vs_sll(n, 1), 1)));
        *m = vf_mul1(*d, -zero);
        return;
    }
    }
}

/* Rows laid out: what T tokens after T tokens would unpack again. A block of R vectors of rows is
 *   codes vi [8 quads][R]   as products see them
 *   d, m  vf [halves][2][R]
 */
INLINE size_t laid_blk_bytes(const size_t n_half, const size_t R)
{
    return (8 + 2 * n_half) * R * sizeof(vi);
}

/* The n blocks of a unit. */
INLINE void tile_lay_out(uint8_t *to, const uint8_t *unit, size_t n, size_t r0, sp_type type,
                         const size_t R)
{
    const size_t bits = sp_pack_bits(type), n_half = tile_halves(type),
                 unit_bytes = sp_pack_unit_bytes(type);
    const uint8_t *scale = unit + n * 64 * bits;
    for (size_t b = 0; b < n; b++, to += laid_blk_bytes(n_half, R)) {
        UNROLL
        for (size_t line = 0; line < (unit_bytes / 8 + 63) / 64; line++)
            PREFETCH(unit + b * (unit_bytes / 8) + SP_AHEAD_BYTES + 64 * line);
        UNROLL
        for (size_t r = 0; r < R; r++) {
            UNROLL
            for (size_t v = 0; v < 4; v++) {
                const bool is_near = tile_halves(type) == 2 || sp_grid_is(type);
                size_t j[2] = {is_near ? 2 * v : v, is_near ? 2 * v + 1 : v + 4};
                vi w[2];
                tile_pair(w, j, type, unit + b * 64 * bits, scale, b, v, r0 + r * VR);
                __builtin_memcpy(to + (j[0] * R + r) * sizeof(vi), &w[0], sizeof(vi));
                __builtin_memcpy(to + (j[1] * R + r) * sizeof(vi), &w[1], sizeof(vi));
            }
            UNROLL
            for (size_t h = 0; h < n_half; h++) {
                vf d, m;
                tile_scale(&d, &m, type, scale, b, h, r0 + r * VR);
                __builtin_memcpy(to + ((8 + 2 * h) * R + r) * sizeof(vf), &d, sizeof d);
                __builtin_memcpy(to + ((9 + 2 * h) * R + r) * sizeof(vf), &m, sizeof m);
            }
        }
    }
}

/* Adds the products of half h of a block (or of all of it) with what a holds, to a sum. d, m: its
 * scale and minimum. */
INLINE vf tile_scaled(vf acc, vs dot, vf d, vf m, const sp_act_blk *a, size_t h,
                      const size_t n_half, const int sign)
{
    acc = vf_fmav1(vf_cvt(dot), d, a->d, acc);
    return sign && Q8_ZERO == 0 ? acc : vf_fma1(m, n_half == 1 ? a->sum32 : a->sum16[h], acc);
}

/* Sums of n rows that exist, to where they belong. */
INLINE void tile_put(const sp_gemm_args *g, float *out, vf acc, size_t n)
{
    vf_store(out, g->scale ? vf_mul1(acc, *g->scale) : acc, n, g->add);
}

#ifdef MAX_T
/* Rows [r0, r0 + R * VR) of one tile by T tokens. n_out: rows that exist. */
INLINE void tile_rows(const sp_gemm_args *g, float *out, const uint8_t *tile, size_t r0,
                      size_t n_out, size_t t0, sp_type type, const size_t T, const size_t R)
{
    const size_t k = g->k, stride = g->x->stride;
    const size_t bits = sp_pack_bits(type), n_half = tile_halves(type),
                 unit_bytes = sp_pack_unit_bytes(type);
    const int sign = sp_pack_sign(type);
    vf acc[MAX_R][MAX_T];
    UNROLL
    for (size_t r = 0; r < R; r++)
        UNROLL
        for (size_t t = 0; t < T; t++)
            acc[r][t] = vf_zero();
    /* Token t is at x[t / 3] + (t % 3) * stride: few enough registers for 12 of them. */
    const uint8_t *x[(MAX_T + 2) / 3];
    UNROLL
    for (size_t t = 0; t < T; t += 3)
        x[t / 3] = g->x->mem + (t0 + t) * stride;
#define ACT(t) ((const sp_act_blk *)(const void *)(x[(t) / 3] + (t) % 3 * stride))
    for (size_t i = 0; i < k / 32; i++) {
        const size_t b = i % 8, n_blk = k / 32 - (i - b) < 8 ? k / 32 - (i - b) : 8;
        const uint8_t *unit = tile + i / 8 * unit_bytes, *planes = unit + b * 64 * bits,
                      *scale = unit + n_blk * 64 * bits;
        UNROLL /* past page ends, where the hardware stops fetching by itself */
        for (size_t line = 0; line < (unit_bytes / 8 + 63) / 64; line++)
            PREFETCH(unit + b * (unit_bytes / 8) + SP_AHEAD_BYTES + 64 * line);
        UNROLL
        for (size_t h = 0; h < n_half; h++) {
            va a[MAX_R][MAX_T];
            vs dot[MAX_R][MAX_T];
            UNROLL
            for (size_t r = 0; r < R; r++)
                UNROLL
                for (size_t t = 0; t < T; t++) {
                    a[r][t] = va_zero();
                    dot[r][t] = vs_zero();
                }
            const size_t n_pair = 4 / n_half;
            UNROLL
            for (size_t v = 0; v < n_pair; v++) {
                const bool is_near = n_half == 2 || sp_grid_is(type);
                size_t j[2] = {is_near ? 4 * h + 2 * v : v, is_near ? 4 * h + 2 * v + 1 : v + 4};
                UNROLL
                for (size_t r = 0; r < R; r++) {
                    vi w[2];
                    tile_pair(w, j, type, planes, scale, b, 2 * h + v, r0 + r * VR);
                    UNROLL
                    for (size_t t = 0; t < T; t += VA_PAIRS && t + 1 < T ? 2 : 1) {
                        if (VA_PAIRS && t + 1 < T) {
                            va_pair(&a[r][t], w[0], w[1], ACT(t)->q, ACT(t + 1)->q, 4 * j[0],
                                    4 * j[1]);
                            continue;
                        }
                        a[r][t] = va_dot(a[r][t], w[0], ACT(t)->q + 4 * j[0], sign);
                        a[r][t] = va_dot(a[r][t], w[1], ACT(t)->q + 4 * j[1], sign);
                    }
                    if ((v + 1) % VA_FULL(tile_dot_bits(type)) && v + 1 < n_pair)
                        continue;
                    UNROLL
                    for (size_t t = 0; t < T; t++) {
                        if (VA_PAIRS && t % 2 == 0 && t + 1 < T)
                            va_unpair(&a[r][t]);
                        dot[r][t] = vs_add(dot[r][t], va_sum(a[r][t], sign));
                        a[r][t] = va_zero();
                    }
                }
            }
            UNROLL
            for (size_t r = 0; r < R; r++) {
                vf d, m;
                tile_scale(&d, &m, type, scale, b, h, r0 + r * VR);
                UNROLL
                for (size_t t = 0; t < T; t++)
                    acc[r][t] = tile_scaled(acc[r][t], dot[r][t], d, m, ACT(t), h, n_half, sign);
            }
        }
        UNROLL
        for (size_t t = 0; t < T; t += 3)
            x[t / 3] += sizeof(sp_act_blk);
    }
#undef ACT
    UNROLL
    for (size_t r = 0; r < R; r++) {
        size_t left = n_out > r * VR ? n_out - r * VR : 0, n = left < VR ? left : VR;
        UNROLL
        for (size_t t = 0; t < T; t++)
            tile_put(g, out + (t0 + t) * g->ld + r * VR, acc[r][t], n);
    }
}

/* Blocks [i0, i0 + n) of rows, laid out, by tokens [t0, t0 + T), added to their sums in memory,
 * [T][R]. bits: of the numbers that products see. */
INLINE void laid_rows(const sp_gemm_args *g, float *sums, const uint8_t *laid, size_t i0, size_t n,
                      size_t t0, const int sign, const size_t n_half, const size_t bits,
                      const size_t T, const size_t R)
{
    const size_t stride = g->x->stride;
    (void)bits; /* VA_FULL may be the same for all */
    vf acc[MAX_R][LAID_T];
    UNROLL
    for (size_t r = 0; r < R; r++)
        UNROLL
        for (size_t t = 0; t < T; t++)
            __builtin_memcpy(&acc[r][t], sums + (t * R + r) * VR, sizeof(vf));
    const uint8_t *x[(LAID_T + 2) / 3];
    UNROLL
    for (size_t t = 0; t < T; t += 3)
        x[t / 3] = g->x->mem + (t0 + t) * stride + i0 * sizeof(sp_act_blk);
#define ACT(t) ((const sp_act_blk *)(const void *)(x[(t) / 3] + (t) % 3 * stride))
    for (size_t i = 0; i < n; i++, laid += laid_blk_bytes(n_half, R)) {
        UNROLL
        for (size_t h = 0; h < n_half; h++) {
            va a[MAX_R][LAID_T];
            vs dot[MAX_R][LAID_T];
            UNROLL
            for (size_t r = 0; r < R; r++)
                UNROLL
                for (size_t t = 0; t < T; t++) {
                    a[r][t] = va_zero();
                    dot[r][t] = vs_zero();
                }
            const size_t n_pair = 4 / n_half;
            UNROLL
            for (size_t v = 0; v < n_pair; v++) {
                const size_t j = 2 * (n_pair * h + v);
                vi w[MAX_R][2];
                UNROLL
                for (size_t r = 0; r < R; r++) {
                    __builtin_memcpy(&w[r][0], laid + (j * R + r) * sizeof(vi), sizeof(vi));
                    __builtin_memcpy(&w[r][1], laid + ((j + 1) * R + r) * sizeof(vi), sizeof(vi));
                }
                UNROLL
                for (size_t t = 0; t < T; t += VA_PAIRS && t + 1 < T ? 2 : 1)
                    UNROLL
                    for (size_t r = 0; r < R; r++) {
                        if (VA_PAIRS && t + 1 < T) {
                            va_pair(&a[r][t], w[r][0], w[r][1], ACT(t)->q, ACT(t + 1)->q, 4 * j,
                                    4 * j + 4);
                            continue;
                        }
                        a[r][t] = va_dot(a[r][t], w[r][0], ACT(t)->q + 4 * j, sign);
                        a[r][t] = va_dot(a[r][t], w[r][1], ACT(t)->q + 4 * j + 4, sign);
                    }
                if ((v + 1) % VA_FULL(bits) && v + 1 < n_pair)
                    continue;
                UNROLL
                for (size_t r = 0; r < R; r++)
                    UNROLL
                    for (size_t t = 0; t < T; t++) {
                        if (VA_PAIRS && t % 2 == 0 && t + 1 < T)
                            va_unpair(&a[r][t]);
                        dot[r][t] = vs_add(dot[r][t], va_sum(a[r][t], sign));
                        a[r][t] = va_zero();
                    }
            }
            UNROLL
            for (size_t r = 0; r < R; r++) {
                vf d, m;
                __builtin_memcpy(&d, laid + ((8 + 2 * h) * R + r) * sizeof(vf), sizeof d);
                __builtin_memcpy(&m, laid + ((9 + 2 * h) * R + r) * sizeof(vf), sizeof m);
                UNROLL
                for (size_t t = 0; t < T; t++)
                    acc[r][t] = tile_scaled(acc[r][t], dot[r][t], d, m, ACT(t), h, n_half, sign);
            }
        }
        UNROLL
        for (size_t t = 0; t < T; t += 3)
            x[t / 3] += sizeof(sp_act_blk);
    }
#undef ACT
    UNROLL
    for (size_t r = 0; r < R; r++)
        UNROLL
        for (size_t t = 0; t < T; t++)
            __builtin_memcpy(sums + (t * R + r) * VR, &acc[r][t], sizeof(vf));
}

/* Tokens [t, end) by rows that are laid out; the last four are two and two rather than three and
 * one. A function for each kind of numbers serves all types. */
#define LAID_STEP(T, sign, n_half, bits)                                                           \
    for (; LAID_T >= (T) && t + (T) <= end && !((T) == 3 && end - t == 4);                         \
         t += (T), sums += (T)*LAID_R * VR)                                                        \
        laid_rows(g, sums, laid, i0, n, t, sign, n_half, bits, LAID_T >= (T) ? (T) : 1, LAID_R);
#define LAID_KIND(name, sign, n_half, bits)                                                        \
    static NOINLINE void laid_##name(const sp_gemm_args *g, float *sums, const uint8_t *laid,      \
                                     size_t i0, size_t n, size_t t, size_t end)                    \
    {                                                                                              \
        LAID_STEP(LAID_T, sign, n_half, bits)                                                      \
        LAID_STEP(8, sign, n_half, bits)                                                           \
        LAID_STEP(4, sign, n_half, bits)                                                           \
        LAID_STEP(2, sign, n_half, bits)                                                           \
        LAID_STEP(1, sign, n_half, bits)                                                           \
    }
LAID_KIND(bits4, SP_SIGN_NONE, 1, 4)
LAID_KIND(bits4_half, SP_SIGN_NONE, 2, 4)
LAID_KIND(bits5, SP_SIGN_NONE, 1, 5)
LAID_KIND(bits5_half, SP_SIGN_NONE, 2, 5)
LAID_KIND(bits6_half, SP_SIGN_NONE, 2, 6)
LAID_KIND(small, SP_SIGN_SMALL, 1, 6)
LAID_KIND(small_half, SP_SIGN_SMALL, 2, 6)
LAID_KIND(full, SP_SIGN_FULL, 1, 8)
#undef LAID_KIND
#undef LAID_STEP

INLINE void laid_all(const sp_gemm_args *g, float *sums, const uint8_t *laid, size_t i0, size_t n,
                     size_t t, size_t end, sp_type type)
{
    const bool is_half = tile_halves(type) == 2;
    const int sign = sp_pack_sign(type);
    if (sign == SP_SIGN_FULL)
        laid_full(g, sums, laid, i0, n, t, end);
    else if (sign == SP_SIGN_SMALL)
        (is_half ? laid_small_half : laid_small)(g, sums, laid, i0, n, t, end);
    else if (tile_dot_bits(type) > 5)
        laid_bits6_half(g, sums, laid, i0, n, t, end);
    else if (tile_dot_bits(type) == 5)
        (is_half ? laid_bits5_half : laid_bits5)(g, sums, laid, i0, n, t, end);
    else
        (is_half ? laid_bits4_half : laid_bits4)(g, sums, laid, i0, n, t, end);
}

/* Types that most files have. Their tiles have all sizes; those of the others have a few, because
 * each size of each type takes the compiler seconds. */
INLINE bool tile_usual(sp_type type)
{
    return type == SP_Q4_0 || type == SP_Q4_1 || type == SP_Q8_0 || type == SP_Q4_K ||
           type == SP_Q5_K || type == SP_Q6_K || type == SP_MXFP4;
}

INLINE bool tile_is(sp_type type, size_t n)
{
    return n < LAID_FROM(type) &&
           (tile_usual(type) || n == 1 || n == 2 || n == 4 || n == 8 || n == 12);
}

/* Tokens of the next tile: as few tiles as there can be, all of about the same size, since weights
 * are unpacked for each. */
INLINE size_t tile_next(sp_type type, size_t left)
{
    size_t n_tile = (left + MAX_T - 1) / MAX_T, n = (left + n_tile - 1) / n_tile;
    if (!tile_usual(type) && left >= MAX_T)
        n = MAX_T;
    while (!tile_is(type, n))
        n--;
    return n;
}

INLINE void tile_all(const sp_gemm_args *g, sp_type type)
{
    const size_t tile_bytes = sp_pack_tile_bytes(type, g->k),
                 rows = MAX_R > 1 && g->n_tok == 1 ? SP_TILE_ROWS : VR;
    for (size_t i = 0; i < g->n_row; i += rows) {
        const uint8_t *tile = (const uint8_t *)g->w + i / SP_TILE_ROWS * tile_bytes;
        size_t left = g->n_row - i, n_out = left < rows ? left : rows;
        if (MAX_R > 1 && g->n_tok == 1) {
            tile_rows(g, g->out + i, tile, 0, n_out, 0, type, 1, MAX_R);
            continue;
        }
        for (size_t t = 0, n; t < g->n_tok; t += n) {
            n = tile_next(type, g->n_tok - t);
            switch (n) {
#define TILE(T)                                                                                    \
    case T:                                                                                        \
        if (tile_is(type, (T)))                                                                    \
            tile_rows(g, g->out + i, tile, i % SP_TILE_ROWS, n_out, t, type, (T), 1);              \
        break;
                TILES(TILE)
#undef TILE
            }
        }
    }
}

/* The same where rows are laid out first: a unit at a time, so that what is laid out stays in L1
 * while all tokens meet it. */
enum { LAID_TOK = 256 /* tokens whose sums are on the stack */ };
INLINE void tile_many(const sp_gemm_args *g, sp_type type)
{
    const size_t tile_bytes = sp_pack_tile_bytes(type, g->k), rows = LAID_R * VR,
                 n_blk = g->k / 32, unit_bytes = sp_pack_unit_bytes(type);
    _Alignas(64) uint8_t laid[8 * (8 + 2 * 2) * LAID_R * sizeof(vi)];
    _Alignas(64) float sums[LAID_TOK * LAID_R * VR];
    for (size_t t = 0, end; t < g->n_tok; t = end) {
        end = g->n_tok - t < LAID_TOK ? g->n_tok : t + LAID_TOK;
        for (size_t i = 0; i < g->n_row; i += rows) {
            const uint8_t *unit = (const uint8_t *)g->w + i / SP_TILE_ROWS * tile_bytes;
            size_t left = g->n_row - i;
            __builtin_memset(sums, 0, (end - t) * rows * sizeof *sums);
            for (size_t b = 0; b < n_blk; b += 8, unit += unit_bytes) {
                size_t n = n_blk - b < 8 ? n_blk - b : 8;
                tile_lay_out(laid, unit, n, i % SP_TILE_ROWS, type, LAID_R);
                laid_all(g, sums, laid, b, n, t, end, type);
            }
            for (size_t r = 0; r < LAID_R && r * VR < left; r++)
                for (size_t u = t; u < end; u++) {
                    vf acc;
                    __builtin_memcpy(&acc, sums + ((u - t) * LAID_R + r) * VR, sizeof acc);
                    tile_put(g, g->out + u * g->ld + i + r * VR, acc,
                             left - r * VR < VR ? left - r * VR : VR);
                }
        }
    }
}

/* Only what lays out has its large frame. */
#define TILE_GEMM(type)                                                                            \
    static NOINLINE void many_##type(const sp_gemm_args *g)                                        \
    {                                                                                              \
        tile_many(g, type);                                                                        \
    }                                                                                              \
    static void gemm_##type(const sp_gemm_args *g)                                                 \
    {                                                                                              \
        if (g->n_tok >= LAID_FROM(type))                                                           \
            many_##type(g);                                                                        \
        else                                                                                       \
            tile_all(g, type);                                                                     \
    }
TILE_TYPES(TILE_GEMM)
#undef TILE_GEMM

static void tile_init(sp_kern *kern)
{
#define TILE_SET(type) kern->gemm_q[type] = gemm_##type;
    TILE_TYPES(TILE_SET)
#undef TILE_SET
    kern->gemm_q[SP_TQ1_0] = gemm_SP_TQ2_0; /* one packed form */
}
#endif
