/* Reference expansion of every quantised type into the affine form of ref.h.
 * Symmetric types store w = d * (q - zero); here m = -zero * d, which is exact in f32 because
 * zero is a power of two, or 12 times one (FP4). */
#include "kern/ref/ref.h"

#include "fmt/grid.h"

static void fill(float *d, float *m, size_t n, float dv, float mv)
{
    for (size_t i = 0; i < n; i++) {
        d[i] = dv;
        m[i] = mv;
    }
}

/* 16 bytes of nibbles: low ones first, high ones 16 elements later. */
static void nibbles(uint8_t *q, const uint8_t *qs, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        q[i] = qs[i] & 15;
        q[i + n] = qs[i] >> 4;
    }
}

static void fifth_bit(uint8_t *q, const uint8_t qh[4])
{
    for (size_t i = 0; i < 32; i++)
        q[i] = (uint8_t)(q[i] | ((qh[i / 8] >> (i % 8)) & 1) << 4);
}

static void q4_0(uint8_t *q, float *d, float *m, const void *row, size_t k)
{
    const sp_blk_q4_0 *b = row;
    for (size_t i = 0; i < k / 32; i++, q += 32) {
        float dv = sp_f16_to_f32(b[i].d);
        nibbles(q, b[i].qs, 16);
        fill(d + 2 * i, m + 2 * i, 2, dv, -8.0f * dv);
    }
}

static void q4_1(uint8_t *q, float *d, float *m, const void *row, size_t k)
{
    const sp_blk_q4_1 *b = row;
    for (size_t i = 0; i < k / 32; i++, q += 32) {
        nibbles(q, b[i].qs, 16);
        fill(d + 2 * i, m + 2 * i, 2, sp_f16_to_f32(b[i].d), sp_f16_to_f32(b[i].m));
    }
}

static void q5_0(uint8_t *q, float *d, float *m, const void *row, size_t k)
{
    const sp_blk_q5_0 *b = row;
    for (size_t i = 0; i < k / 32; i++, q += 32) {
        float dv = sp_f16_to_f32(b[i].d);
        nibbles(q, b[i].qs, 16);
        fifth_bit(q, b[i].qh);
        fill(d + 2 * i, m + 2 * i, 2, dv, -16.0f * dv);
    }
}

static void q5_1(uint8_t *q, float *d, float *m, const void *row, size_t k)
{
    const sp_blk_q5_1 *b = row;
    for (size_t i = 0; i < k / 32; i++, q += 32) {
        nibbles(q, b[i].qs, 16);
        fifth_bit(q, b[i].qh);
        fill(d + 2 * i, m + 2 * i, 2, sp_f16_to_f32(b[i].d), sp_f16_to_f32(b[i].m));
    }
}

static void q8_0(uint8_t *q, float *d, float *m, const void *row, size_t k)
{
    const sp_blk_q8_0 *b = row;
    for (size_t i = 0; i < k / 32; i++, q += 32) {
        float dv = sp_f16_to_f32(b[i].d);
        for (size_t j = 0; j < 32; j++)
            q[j] = (uint8_t)(b[i].qs[j] + 128);
        fill(d + 2 * i, m + 2 * i, 2, dv, -128.0f * dv);
    }
}

static void q2_k(uint8_t *q, float *d, float *m, const void *row, size_t k)
{
    const sp_blk_q2_k *b = row;
    for (size_t i = 0; i < k / 256; i++, q += 256, d += 16, m += 16) {
        float dv = sp_f16_to_f32(b[i].d), mv = sp_f16_to_f32(b[i].dmin);
        for (size_t j = 0; j < 256; j++)
            q[j] = (b[i].qs[j / 128 * 32 + j % 32] >> (j / 32 % 4 * 2)) & 3;
        for (size_t j = 0; j < 16; j++) {
            d[j] = dv * (float)(b[i].scales[j] & 15);
            m[j] = -mv * (float)(b[i].scales[j] >> 4);
        }
    }
}

static void q3_k(uint8_t *q, float *d, float *m, const void *row, size_t k)
{
    const sp_blk_q3_k *b = row;
    for (size_t i = 0; i < k / 256; i++, q += 256, d += 16, m += 16) {
        float dv = sp_f16_to_f32(b[i].d);
        for (size_t j = 0; j < 256; j++) {
            int low = (b[i].qs[j / 128 * 32 + j % 32] >> (j / 32 % 4 * 2)) & 3;
            q[j] = (uint8_t)(low | ((b[i].hmask[j % 32] >> (j / 32)) & 1) << 2);
        }
        for (size_t j = 0; j < 16; j++) {
            const uint8_t *s = b[i].scales;
            int low = j < 8 ? s[j] & 15 : s[j - 8] >> 4, high = (s[8 + j % 4] >> (j / 4 * 2)) & 3;
            d[j] = dv * (float)((low | high << 4) - 32);
            m[j] = -4.0f * d[j];
        }
    }
}

static void k4_scales(float *d, float *m, const uint8_t s[12], sp_f16 dh, sp_f16 mh)
{
    float dv = sp_f16_to_f32(dh), mv = sp_f16_to_f32(mh);
    for (size_t j = 0; j < 8; j++) {
        uint8_t sc, mn;
        sp_k4_scale_min(&sc, &mn, j, s);
        fill(d + 2 * j, m + 2 * j, 2, dv * (float)sc, -mv * (float)mn);
    }
}

static void q4_k(uint8_t *q, float *d, float *m, const void *row, size_t k)
{
    const sp_blk_q4_k *b = row;
    for (size_t i = 0; i < k / 256; i++, q += 256) {
        for (size_t j = 0; j < 4; j++)
            nibbles(q + 64 * j, b[i].qs + 32 * j, 32);
        k4_scales(d + 16 * i, m + 16 * i, b[i].scales, b[i].d, b[i].dmin);
    }
}

static void q5_k(uint8_t *q, float *d, float *m, const void *row, size_t k)
{
    const sp_blk_q5_k *b = row;
    for (size_t i = 0; i < k / 256; i++, q += 256) {
        for (size_t j = 0; j < 4; j++)
            nibbles(q + 64 * j, b[i].qs + 32 * j, 32);
        for (size_t j = 0; j < 256; j++)
            q[j] = (uint8_t)(q[j] | ((b[i].qh[j % 32] >> (j / 32)) & 1) << 4);
        k4_scales(d + 16 * i, m + 16 * i, b[i].scales, b[i].d, b[i].dmin);
    }
}

static void q6_k(uint8_t *q, float *d, float *m, const void *row, size_t k)
{
    const sp_blk_q6_k *b = row;
    for (size_t i = 0; i < k / 256; i++, q += 256, d += 16, m += 16) {
        float dv = sp_f16_to_f32(b[i].d);
        for (size_t j = 0; j < 256; j++) {
            size_t half = j / 128, l = j % 32, quarter = j / 32 % 4;
            uint8_t ql = b[i].ql[half * 64 + quarter % 2 * 32 + l], qh = b[i].qh[half * 32 + l];
            q[j] = (uint8_t)((quarter < 2 ? ql & 15 : ql >> 4) | ((qh >> (2 * quarter)) & 3) << 4);
        }
        for (size_t j = 0; j < 16; j++) {
            d[j] = dv * (float)b[i].scales[j];
            m[j] = -32.0f * d[j];
        }
    }
}

static void iq4_levels(uint8_t *q, const uint8_t qs[16])
{
    for (size_t j = 0; j < 16; j++) {
        q[j] = (uint8_t)(sp_iq4_level[qs[j] & 15] + 128);
        q[j + 16] = (uint8_t)(sp_iq4_level[qs[j] >> 4] + 128);
    }
}

static void iq4_nl(uint8_t *q, float *d, float *m, const void *row, size_t k)
{
    const sp_blk_iq4_nl *b = row;
    for (size_t i = 0; i < k / 32; i++, q += 32) {
        float dv = sp_f16_to_f32(b[i].d);
        iq4_levels(q, b[i].qs);
        fill(d + 2 * i, m + 2 * i, 2, dv, -128.0f * dv);
    }
}

static void iq4_xs(uint8_t *q, float *d, float *m, const void *row, size_t k)
{
    const sp_blk_iq4_xs *b = row;
    for (size_t i = 0; i < k / 256; i++) {
        for (size_t j = 0; j < 8; j++, q += 32, d += 2, m += 2) {
            int low = (b[i].scales_l[j / 2] >> (j % 2 * 4)) & 15,
                high = (b[i].scales_h >> (2 * j)) & 3;
            float dv = sp_f16_to_f32(b[i].d) * (float)((low | high << 4) - 32);
            iq4_levels(q, b[i].qs + 16 * j);
            fill(d, m, 2, dv, -128.0f * dv);
        }
    }
}

/* 2^(e - 128), half an E8M0 number, of which the least two are subnormal. Kernels take 0 for the
 * least. */
static float half_e8m0(uint8_t e)
{
    union { uint32_t u; float f; } v = {.u = e < 2 ? 0x00200000u << e : (e - 1u) << 23};
    return v.f;
}

static void mxfp4(uint8_t *q, float *d, float *m, const void *row, size_t k)
{
    const sp_blk_mxfp4 *b = row;
    for (size_t i = 0; i < k / 32; i++, q += 32) {
        float dv = half_e8m0(b[i].e);
        for (size_t j = 0; j < 16; j++) {
            q[j] = (uint8_t)(sp_fp4_level[b[i].qs[j] & 15] + SP_FP4_ZERO);
            q[j + 16] = (uint8_t)(sp_fp4_level[b[i].qs[j] >> 4] + SP_FP4_ZERO);
        }
        fill(d + 2 * i, m + 2 * i, 2, dv, -SP_FP4_ZERO * dv);
    }
}

static void tq2_0(uint8_t *q, float *d, float *m, const void *row, size_t k)
{
    const sp_blk_tq2_0 *b = row;
    for (size_t i = 0; i < k / 256; i++, q += 256) {
        float dv = sp_f16_to_f32(b[i].d);
        for (size_t j = 0; j < 256; j++)
            q[j] = b[i].qs[j / 128 * 32 + j % 32] >> (j / 32 % 4 * 2) & 3;
        fill(d + 16 * i, m + 16 * i, 16, dv, -dv);
    }
}

/* Digit `skip` of five base-3 digits, which are the fraction q / 256. */
static uint8_t trit(uint8_t q, size_t skip)
{
    static const uint8_t pow3[5] = {1, 3, 9, 27, 81};
    uint8_t left = (uint8_t)(q * pow3[skip]);
    return (uint8_t)((left * 3) >> 8);
}

static void tq1_0(uint8_t *q, float *d, float *m, const void *row, size_t k)
{
    const sp_blk_tq1_0 *b = row;
    for (size_t i = 0; i < k / 256; i++) {
        float dv = sp_f16_to_f32(b[i].d);
        for (size_t j = 0; j < 160; j++)
            *q++ = trit(b[i].qs[j % 32], j / 32);
        for (size_t j = 0; j < 80; j++)
            *q++ = trit(b[i].qs[32 + j % 16], j / 16);
        for (size_t j = 0; j < 16; j++)
            *q++ = trit(b[i].qh[j % 4], j / 4);
        fill(d + 16 * i, m + 16 * i, 16, dv, -dv);
    }
}

/* Half of an E4M3 number without a sign; 127 stands for nothing. */
static float half_e4m3(uint8_t x)
{
    unsigned e = x >> 3 & 15u, m = x & 7u;
    if (x == 127)
        return 0;
    return e ? (float)(8 + m) * (float)(1u << e) * 0x1p-11f : (float)m * 0x1p-10f;
}

static void nvfp4(uint8_t *q, float *d, float *m, const void *row, size_t k)
{
    const sp_blk_nvfp4 *b = row;
    for (size_t i = 0; i < k / 16; i++, q += 16) {
        const uint8_t *qs = b[i / 4].qs + i % 4 * 8;
        for (size_t j = 0; j < 8; j++) {
            q[j] = (uint8_t)(sp_fp4_level[qs[j] & 15] + SP_FP4_ZERO);
            q[j + 8] = (uint8_t)(sp_fp4_level[qs[j] >> 4] + SP_FP4_ZERO);
        }
        d[i] = half_e4m3(b[i / 4].d[i % 4]);
        m[i] = -SP_FP4_ZERO * d[i];
    }
}

#define GRID(type)                                                                                 \
    static void grid_##type(uint8_t *q, float *d, float *m, const void *row, size_t k)             \
    {                                                                                              \
        const uint8_t *blk = row;                                                                  \
        sp_grid_blk b;                                                                             \
        for (size_t i = 0; i < k / 256; i++, blk += sp_type_get(type)->blk_bytes) {                \
            sp_ref_grid_split(&b, type, blk);                                                      \
            sp_ref_grid_values(q + 256 * i, d + 16 * i, m + 16 * i, type, &b);                     \
        }                                                                                          \
    }
GRID(SP_IQ1_S)
GRID(SP_IQ1_M)
GRID(SP_IQ2_XXS)
GRID(SP_IQ2_XS)
GRID(SP_IQ2_S)
GRID(SP_IQ3_XXS)
GRID(SP_IQ3_S)
#undef GRID

sp_ref_expand_fn *sp_ref_expand(sp_type type)
{
    static sp_ref_expand_fn *const of[SP_TYPE_COUNT] = {
        [SP_Q4_0] = q4_0,
        [SP_Q4_1] = q4_1,
        [SP_Q5_0] = q5_0,
        [SP_Q5_1] = q5_1,
        [SP_Q8_0] = q8_0,
        [SP_Q2_K] = q2_k,
        [SP_Q3_K] = q3_k,
        [SP_Q4_K] = q4_k,
        [SP_Q5_K] = q5_k,
        [SP_Q6_K] = q6_k,
        [SP_IQ4_NL] = iq4_nl,
        [SP_IQ4_XS] = iq4_xs,
        [SP_MXFP4] = mxfp4,
        [SP_NVFP4] = nvfp4,
        [SP_TQ1_0] = tq1_0,
        [SP_TQ2_0] = tq2_0,
        [SP_IQ1_S] = grid_SP_IQ1_S,
        [SP_IQ1_M] = grid_SP_IQ1_M,
        [SP_IQ2_XXS] = grid_SP_IQ2_XXS,
        [SP_IQ2_XS] = grid_SP_IQ2_XS,
        [SP_IQ2_S] = grid_SP_IQ2_S,
        [SP_IQ3_XXS] = grid_SP_IQ3_XXS,
        [SP_IQ3_S] = grid_SP_IQ3_S};
    return of[type];
}
