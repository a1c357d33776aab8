/* kern/attn_tile.h by sdot and udot of Armv8.2. Codes are bytes: keys take signed ones, code - 128,
 * because sdot has no unsigned side; values and weights are unsigned.
 *   keys    s8 [8 groups of 4 tokens][d / 8][low, high][4 tokens][4]
 *   values  u8 [low, high][d / 8][8 groups of 4 tokens][4 dimensions][4 tokens]
 * low and high: dimensions below d / 2 and above. */
#include "kern/arm/neon.h"

typedef uint8x16x2_t vw;
#include "kern/attn_query.h"

#define KEYS_BYTES(d) (32 * (d))
#define VALUES_BYTES(d) (32 * (d))

/* --- laying out a page ------------------------------------------------------------------------ */

/* The codes of dimensions below d / 2 and above: hi nibbles in the high half of a byte. */
INLINE uint8x16_t codes_low(uint8x16_t hi, uint8x16_t lo)
{
    return vsliq_n_u8(lo, hi, 4);
}
INLINE uint8x16_t codes_high(uint8x16_t hi, uint8x16_t lo)
{
    return vsriq_n_u8(hi, lo, 4);
}

/* Keys without a hi plane: the lo codes alone. Without a lo plane: 16 hi. */
INLINE void lay_keys(uint8_t *to, const uint8_t *hi, const uint8_t *const *lo, size_t d)
{
    const uint8x16_t sign = vdupq_n_u8(0x80), four = vdupq_n_u8(15);
    for (size_t h = 0; h < GROUPS; h++, to += 4 * d) {
        for (size_t i = 0; i < d / 8; i++) {
            uint32_t word[GROUP] = {0};
            for (size_t j = 0; lo && j < GROUP; j++)
                word[j] = word_at(lo[h * GROUP + j] + 4 * i);
            uint8x16_t l = vreinterpretq_u8_u32(vld1q_u32(word)),
                       v = hi ? vld1q_u8(hi + i * 128 + h * 16) : l;
            vst1q_u8(to + i * 32, hi ? veorq_u8(codes_low(v, l), sign) : vandq_u8(l, four));
            vst1q_u8(to + i * 32 + 16, hi ? veorq_u8(codes_high(v, l), sign) : vshrq_n_u8(l, 4));
        }
    }
}

/* Four bytes of each of four rows, turned: byte i of row j to byte j of word i. */
INLINE uint8x16_t turn_bytes(const uint32_t row[4])
{
    const uint8x16_t order = {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15};
    return vqtbl1q_u8(vreinterpretq_u8_u32(vld1q_u32(row)), order);
}

INLINE void lay_values(uint8_t *to, const uint8_t *const hi[TOK], const uint8_t *const *lo,
                       size_t d)
{
    for (size_t i = 0; i < d / 8; i++) {
        for (size_t g = 0; g < GROUPS; g++) {
            uint32_t h[4], l[4] = {0};
            for (size_t j = 0; j < 4; j++) {
                h[j] = word_at(hi[4 * g + j] + 4 * i);
                if (lo)
                    l[j] = word_at(lo[4 * g + j] + 4 * i);
            }
            uint8x16_t u = turn_bytes(h), v = turn_bytes(l);
            vst1q_u8(to + i * 128 + g * 16, codes_low(u, v));
            vst1q_u8(to + (d / 8 + i) * 128 + g * 16, codes_high(u, v));
        }
    }
}

/* --- T queries -------------------------------------------------------------------------------- */

INLINE void dot_keys(vs *dot, const uint8_t *k, size_t h, const int8_t *prep, size_t d,
                     const size_t T, const bool has_hi, const bool has_lo)
{
    (void)has_lo; /* lay_keys knows */
    k += 4 * h * d;
    UNROLL
    for (size_t t = 0; t < T; t++) /* what `code - 128` leaves out */
        dot[t] = vdupq_n_s32(has_hi ? 128 * (int)floats_of(prep, t, d)[d + 1] : 0);
    for (size_t i = 0; i < d / 8; i++) {
        int8x16_t low = vreinterpretq_s8_u8(vld1q_u8(k + i * 32)),
                  high = vreinterpretq_s8_u8(vld1q_u8(k + i * 32 + 16));
        UNROLL
        for (size_t t = 0; t < T; t++) {
            const int8_t *q = prep + t * query_bytes(d) + 4 * i;
            dot[t] = vdotq_s32(dot[t], low, vreinterpretq_s8_u32(vdupq_n_u32(word_at(q))));
            dot[t] = vdotq_s32(dot[t], high, vreinterpretq_s8_u32(vdupq_n_u32(word_at(q + d / 2))));
        }
    }
}

/* Products of a quarter of the values, tokens 4 u to 4 u + 3 and 16 further. */
INLINE uint32x4_t add_quarter(uint32x4_t a, vw w, const uint8_t *v, size_t u)
{
    const uint8_t *at = v + 16 * u, *next = at + 64;
    uint8x16_t first = vreinterpretq_u8_u32(
                   vdupq_n_u32(vreinterpretq_u32_u8(w.val[0])[u])),
               second = vreinterpretq_u8_u32(
                   vdupq_n_u32(vreinterpretq_u32_u8(w.val[1])[u]));
    return vdotq_u32(vdotq_u32(a, vld1q_u8(at), first), vld1q_u8(next), second);
}

INLINE void add_values(float *acc, const weights *to, const uint8_t *v, size_t d,
                       const uint8_t *use, size_t n_use, const size_t T, const bool has_lo)
{
    for (size_t i = 0; i < d / 4; i++, v += 128) {
        uint32x4_t sum[MOST_T];
        UNROLL
        for (size_t t = 0; t < T; t++)
            sum[t] = vdupq_n_u32(0);
        UNROLL
        for (size_t k = 0; k < 4; k++) {
            size_t u = use ? use[k] : k;
            if (use && k == n_use)
                break;
            UNROLL
            for (size_t t = 0; t < T; t++)
                sum[t] = add_quarter(sum[t], to[t].w, v, u);
        }
        UNROLL
        for (size_t t = 0; t < T; t++) {
            float *o = acc + t * d + 4 * i;
            vs x = vsubq_s32(vreinterpretq_s32_u32(sum[t]), vdupq_n_s32(128 * to[t].sum));
            vf f = vf_cvt(x);
            if (!has_lo)
                f = vf_add(f, vf_set1((float)to[t].sum * LO_MEAN));
            vf_put(o, vf_fma1(f, to[t].scale, vf_mul1(vf_load(o), to[t].keep)));
        }
    }
}

INLINE size_t used(uint8_t use[4], const weights *to, const size_t T)
{
    uint8x16_t any = vdupq_n_u8(0);
    size_t n = 0;
    UNROLL
    for (size_t t = 0; t < T; t++)
        any = vorrq_u8(any, vorrq_u8(to[t].w.val[0], to[t].w.val[1]));
    for (size_t u = 0; u < 4; u++) {
        use[n] = (uint8_t)u;
        n += vreinterpretq_u32_u8(any)[u] != 0;
    }
    return n;
}

INLINE vw weights_of(const vs w[GROUPS])
{
    vw out;
    UNROLL
    for (size_t i = 0; i < 2; i++) {
        uint16x8_t a = vcombine_u16(vqmovun_s32(w[4 * i]), vqmovun_s32(w[4 * i + 1])),
                   b = vcombine_u16(vqmovun_s32(w[4 * i + 2]), vqmovun_s32(w[4 * i + 3]));
        out.val[i] = vcombine_u8(vqmovn_u16(a), vqmovn_u16(b));
    }
    return out;
}

INLINE vf vf_none_below(vf x, size_t n)
{
    const uint32x4_t lane = {0, 1, 2, 3};
    return vbslq_f32(vcgtq_u32(vdupq_n_u32((uint32_t)n), lane), vf_set1(-__builtin_inff()), x);
}

INLINE vf vf_or_none(vf x, vf raw)
{
    return vbslq_f32(vceqq_f32(raw, vf_set1(-__builtin_inff())), raw, x);
}

static void turn_part(float *out, const float *in)
{
    for (size_t j = 0; j < TOK; j++) {
        for (size_t g = 0; g < SP_PART_PAGES; g++)
            out[j * SP_PART_PAGES + g] = in[g * TOK + j];
    }
}

#include "kern/attn_tile.h"
