/* Rows of the types that are multiplied as f32: IQ1_S to IQ3_S, MXFP4, NVFP4, TQ1_0 and TQ2_0. Every value is a small integer times
 * a scale of at most 16 bits of mantissa, so a value is exact in f32 whatever the order of its products.
 *
 * A grid's entry of 8 (or 4) digits is spread to one byte each inside a 64-bit word, where magnitudes and signs are made for
 * all 8 at once. Words are little-endian, as the files are. */
#include "kern/widen.h"

#include "fmt/grid.h"

#include <stdbool.h>
#include <string.h>

static const uint64_t each = 0x0101010101010101u;

/* 8 digits of 2 bits, and 2 times 4 digits of 3 bits, to bytes. */
static uint64_t digits2(uint64_t x)
{
    x = (x | x << 24) & 0x000000ff000000ffu;
    x = (x | x << 12) & 0x000f000f000f000fu;
    return (x | x << 6) & (3 * each);
}

static uint64_t digits3(uint64_t lo, uint64_t hi)
{
    uint64_t x = lo | hi << 32;
    x = (x | x << 10) & 0x003f003f003f003fu;
    return (x | x << 5) & (7 * each);
}

/* Magnitudes of digits: 8, 25, 43; 4, 12, ... 52, 62; 1, 3, ... 15. */
static uint64_t level2(unsigned entry)
{
    uint64_t x = digits2(entry);
    return 8 * each + 17 * x + (x >> 1 & each);
}

static uint64_t level3_xxs(unsigned lo, unsigned hi)
{
    uint64_t x = digits3(sp_grid_iq3_xxs[lo], sp_grid_iq3_xxs[hi]);
    return 4 * each + 8 * x + 2 * (x & x >> 1 & x >> 2 & each);
}

/* Bytes below 128 and above 0, negated where the bit of `signs` is set. */
static uint64_t with_signs(uint64_t level, unsigned signs)
{
    uint64_t bit = (signs & 255u) * each & 0x8040201008040201u;
    uint64_t one = (bit | (bit + 0x7f * each)) >> 7 & each; /* 1 in each byte that has its bit: none carries into the next */
    return (level ^ one * 255) + one;
}

static void put8(float *out, uint64_t bytes, float d)
{
    int8_t v[8];
    memcpy(v, &bytes, 8);
    for (size_t i = 0; i < 8; i++)
        out[i] = d * (float)v[i];
}

/* Seven stored signs; the eighth makes their number even. */
static unsigned even_signs(unsigned s)
{
    return s | (unsigned)__builtin_parity(s) << 7;
}

static void iq2_xxs(float *out, const void *row, size_t k)
{
    const sp_blk_iq2_xxs *b = row;
    for (size_t i = 0; i < k / 32; i++) {
        const sp_blk_iq2_xxs *at = b + i / 8;
        const uint8_t *qs = at->qs + i % 8 * 8;
        uint32_t rest;
        memcpy(&rest, qs + 4, 4);
        float d = sp_f16_to_f32(at->d) * (0.5f + (float)(rest >> 28)) * 0.25f;
        for (size_t l = 0; l < 4; l++, out += 8)
            put8(out, with_signs(level2(sp_grid_iq2_xxs[qs[l]]), even_signs(rest >> (7 * l) & 127)), d);
    }
}

static void iq2_xs(float *out, const void *row, size_t k)
{
    const sp_blk_iq2_xs *b = row;
    for (size_t i = 0; i < k / 8; i++, out += 8) {
        const sp_blk_iq2_xs *at = b + i / 32;
        unsigned q = at->qs[i % 32], s = at->scales[i % 32 / 4] >> (i % 4 / 2 * 4) & 15u;
        put8(out, with_signs(level2(sp_grid_iq2_xs[q & 511]), even_signs(q >> 9)), sp_f16_to_f32(at->d) * (0.5f + (float)s) * 0.25f);
    }
}

static void iq2_s(float *out, const void *row, size_t k)
{
    const sp_blk_iq2_s *b = row;
    for (size_t i = 0; i < k / 8; i++, out += 8) {
        const sp_blk_iq2_s *at = b + i / 32;
        size_t j = i % 32;
        unsigned q = at->qs[j] | (at->qh[j / 4] >> (j % 4 * 2) & 3u) << 8, s = at->scales[j / 4] >> (j % 4 / 2 * 4) & 15u;
        put8(out, with_signs(level2(sp_grid_iq2_s[q]), at->signs[j]), sp_f16_to_f32(at->d) * (0.5f + (float)s) * 0.25f);
    }
}

static void iq3_xxs(float *out, const void *row, size_t k)
{
    const sp_blk_iq3_xxs *b = row;
    for (size_t i = 0; i < k / 8; i++, out += 8) {
        const sp_blk_iq3_xxs *at = b + i / 32;
        size_t j = i % 32;
        uint32_t rest;
        memcpy(&rest, at->signs + j / 4 * 4, 4);
        float d = sp_f16_to_f32(at->d) * (0.5f + (float)(rest >> 28)) * 0.5f;
        put8(out, with_signs(level3_xxs(at->qs[2 * j], at->qs[2 * j + 1]), even_signs(rest >> (j % 4 * 7) & 127)), d);
    }
}

static void iq3_s(float *out, const void *row, size_t k)
{
    const sp_blk_iq3_s *b = row;
    for (size_t i = 0; i < k / 8; i++, out += 8) {
        const sp_blk_iq3_s *at = b + i / 32;
        size_t j = i % 32;
        unsigned high = at->qh[j / 4] >> (j % 4 * 2), s = at->scales[j / 8] >> (j / 4 % 2 * 4) & 15u;
        unsigned lo = at->qs[2 * j] | (high & 1u) << 8, hi = at->qs[2 * j + 1] | (high >> 1 & 1u) << 8;
        uint64_t level = 2 * digits3(sp_grid_iq3_s[lo], sp_grid_iq3_s[hi]) + each;
        put8(out, with_signs(level, at->signs[j]), sp_f16_to_f32(at->d) * (1.0f + 2.0f * (float)s));
    }
}

/* Eight times (digit - 1) and the shift of an eighth, up or down; the caller's scale is an eighth. */
static void put_ternary(float *out, unsigned entry, bool down, float d)
{
    uint64_t x = digits2(sp_grid_iq1[entry]);
    int8_t v[8];
    memcpy(v, &x, 8);
    for (size_t i = 0; i < 8; i++)
        out[i] = d * (float)(8 * v[i] + (down ? -9 : -7));
}

static void iq1_s(float *out, const void *row, size_t k)
{
    const sp_blk_iq1_s *b = row;
    for (size_t i = 0; i < k / 8; i++, out += 8) {
        const sp_blk_iq1_s *at = b + i / 32;
        size_t j = i % 32;
        unsigned h = at->qh[j / 4];
        float d = sp_f16_to_f32(at->d) * (float)(2 * (h >> 12 & 7) + 1) * 0.125f;
        put_ternary(out, at->qs[j] | (h >> (3 * (j % 4)) & 7) << 8, h & 0x8000, d);
    }
}

static void iq1_m(float *out, const void *row, size_t k)
{
    const sp_blk_iq1_m *b = row;
    for (size_t i = 0; i < k / 8; i++, out += 8) {
        const sp_blk_iq1_m *at = b + i / 32;
        const uint16_t *s = at->scales;
        size_t j = i % 32;
        sp_f16 top = (sp_f16)(s[0] >> 12 | (s[1] >> 8 & 0xf0) | (s[2] >> 4 & 0xf00) | (s[3] & 0xf000));
        unsigned h = at->qh[j / 2] >> (j % 2 * 4) & 15u, scale = s[j / 8] >> (j / 2 % 4 * 3) & 7u;
        put_ternary(out, at->qs[j] | (h & 7) << 8, h & 8, sp_f16_to_f32(top) * (float)(2 * scale + 1) * 0.125f);
    }
}

/* The first digit of q's base-3 fraction q / 256, after `skip` digits are shifted out. */
static float trit(uint8_t q, size_t skip)
{
    static const uint8_t pow3[5] = {1, 3, 9, 27, 81};
    uint8_t left = (uint8_t)(q * pow3[skip]);
    return (float)((left * 3) >> 8) - 1.0f;
}

static void tq1_0(float *out, const void *row, size_t k)
{
    const sp_blk_tq1_0 *b = row;
    for (size_t i = 0; i < k / 256; i++) {
        float d = sp_f16_to_f32(b[i].d);
        for (size_t j = 0; j < 160; j++)
            *out++ = trit(b[i].qs[j % 32], j / 32) * d;
        for (size_t j = 0; j < 80; j++)
            *out++ = trit(b[i].qs[32 + j % 16], j / 16) * d;
        for (size_t j = 0; j < 16; j++)
            *out++ = trit(b[i].qh[j % 4], j / 4) * d;
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

static void nvfp4(float *out, const void *row, size_t k)
{
    const sp_blk_nvfp4 *b = row;
    for (size_t i = 0; i < k / 16; i++, out += 16) {
        const uint8_t *qs = b[i / 4].qs + i % 4 * 8;
        float d = half_e4m3(b[i / 4].d[i % 4]);
        for (size_t j = 0; j < 8; j++) {
            out[j] = d * (float)sp_fp4_level[qs[j] & 15];
            out[j + 8] = d * (float)sp_fp4_level[qs[j] >> 4];
        }
    }
}

sp_ref_widen_fn *sp_ref_widen(sp_type type)
{
    static sp_ref_widen_fn *const of[SP_TYPE_COUNT] = {
        [SP_IQ2_XXS] = iq2_xxs, [SP_IQ2_XS] = iq2_xs, [SP_IQ2_S] = iq2_s, [SP_IQ3_XXS] = iq3_xxs, [SP_IQ3_S] = iq3_s, [SP_IQ1_S] = iq1_s,
        [SP_IQ1_M] = iq1_m,     [SP_TQ1_0] = tq1_0,   [SP_NVFP4] = nvfp4};
    return of[type];
}
