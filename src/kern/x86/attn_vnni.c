/* Attention over quantised pages with vpdpbusd: queries and weights are rounded to 8 bits, sums are
 * exact integers, and a page's result depends on nothing but the page and the query.
 *
 * Two forms that give the same bits: with many queries, 16 of them lie in the lanes and keys are
 * broadcast (no horizontal operation anywhere); with few, tokens or dimensions lie in the lanes.
 *   score[j] = (dot of codes - zero) * k_scale[j] * q_scale + q . mean      in bits
 *   p[j] = 2^(score - page's maximum); mass = sum of p in units of 2^-22, as integers
 *   w[j] = round(255 p[j] v_scale[j] / largest such);  out = sum of w * value codes, integers
 * then pages join by their maxima. Error: 8-bit rounding of q (1/254 of its largest element) and of
 * w; bounds are measured in test/unit/kern_check.c (attn_planes). */
#include "kern/x86/avx512.h"

#include "kern/cap_tile.h"
#include "kern/scan_rank.h"

enum { TOK = SP_PAGE_TOK, LANES = 16, FEW = SP_FEW, AHEAD = 2, SCAN_AHEAD = 4 };

#define MASS_UNIT 4194304.0f /* 2^22: 32 of them fit an int32 */
#define LO_MEAN 7.5f         /* what a dropped lo plane reads as */

/* Prepared queries. Few: one record a query. Many: one record for 16. d in elements:
 *   few   q s8 [d]          f f32 [d]       scale, sum f32          5 d + 8 bytes, padded to 64
 *   many  q u8 [d/4][16][4] f f32 [d][16]   scale, sum f32 [16]     16 times that; q + 128 */
static size_t few_bytes(size_t d)
{
    return 5 * d + 64;
}

/* One query to 8 bits, q = round(x * 127 / max), and the sum of q. */
INLINE void quant_query(int8_t *q, float *scale, float *sum, const float *x, size_t d)
{
    __m512 top = _mm512_setzero_ps();
    __m512i total = _mm512_setzero_si512();
    for (size_t i = 0; i < d; i += 16)
        top = _mm512_max_ps(top, _mm512_abs_ps(_mm512_loadu_ps(x + i)));
    float t = _mm512_reduce_max_ps(top);
    __m512 inv = _mm512_set1_ps(t > 0 ? 127.0f / t : 0);
    for (size_t i = 0; i < d; i += 16) {
        __m512i v = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + i), inv));
        total = _mm512_add_epi32(total, v);
        _mm_storeu_si128((__m128i *)(void *)(q + i), _mm512_cvtepi32_epi8(v));
    }
    *scale = t / 127.0f;
    *sum = (float)_mm512_reduce_add_epi32(total);
}

static void attn_prep(void *prep, const float *q, size_t n_q, size_t d)
{
    if (n_q <= FEW) {
        for (size_t t = 0; t < n_q; t++) {
            int8_t *to = (int8_t *)prep + t * few_bytes(d);
            float *f = (float *)(void *)(to + d);
            quant_query(to, f + d, f + d + 1, q + t * d, d);
            memcpy(f, q + t * d, d * sizeof *f);
        }
        return;
    }
    for (size_t t0 = 0; t0 < n_q; t0 += LANES) {
        uint8_t *to = (uint8_t *)prep + t0 * few_bytes(d);
        float *f = (float *)(void *)(to + LANES * d), *scale = f + LANES * d, *sum = scale + LANES;
        memset(to, 0, LANES * few_bytes(d));
        for (size_t t = t0; t < n_q && t < t0 + LANES; t++) {
            int8_t row[SP_MAX_HEAD];
            quant_query(row, &scale[t - t0], &sum[t - t0], q + t * d, d);
            for (size_t i = 0; i < d; i++) {
                to[i / 4 * 64 + (t - t0) * 4 + i % 4] = (uint8_t)(row[i] + 128);
                f[i * LANES + t - t0] = q[t * d + i];
            }
        }
    }
}

INLINE __m512i low_codes(__m512i hi, __m512i lo)
{ /* codes of the low nibbles' elements: hi << 4 | lo & 15 */
    const __m512i mask = _mm512_set1_epi8((char)0xf0);
    return _mm512_ternarylogic_epi64(mask, _mm512_slli_epi16(hi, 4), lo, 0xca); /* mask ? hi : lo */
}

INLINE __m512i high_codes(__m512i hi, __m512i lo)
{
    const __m512i mask = _mm512_set1_epi8((char)0xf0);
    return _mm512_ternarylogic_epi64(mask, hi, _mm512_srli_epi16(lo, 4), 0xca);
}

INLINE __m128i row16(const uint8_t *at, size_t n)
{ /* 16 bytes, or the 8 that are left */
    return n < 16 ? _mm_loadl_epi64((const __m128i *)(const void *)at)
                  : _mm_loadu_si128((const __m128i *)(const void *)at);
}

/* Four words (two where n = 8 bytes are left) of each of 16 rows, turned: word i of row j to lane j
 * of out[i]. */
INLINE void turn_words(__m512i out[4], const uint8_t *const row[16], size_t at, size_t n)
{
    __m512i z[4], t[4];
    UNROLL
    for (size_t m = 0; m < 4; m++) {
        z[m] = _mm512_castsi128_si512(row16(row[m] + at, n));
        z[m] = _mm512_inserti32x4(z[m], row16(row[4 + m] + at, n), 1);
        z[m] = _mm512_inserti32x4(z[m], row16(row[8 + m] + at, n), 2);
        z[m] = _mm512_inserti32x4(z[m], row16(row[12 + m] + at, n), 3);
    }
    t[0] = _mm512_unpacklo_epi32(z[0], z[1]);
    t[1] = _mm512_unpackhi_epi32(z[0], z[1]);
    t[2] = _mm512_unpacklo_epi32(z[2], z[3]);
    t[3] = _mm512_unpackhi_epi32(z[2], z[3]);
    out[0] = _mm512_unpacklo_epi64(t[0], t[2]);
    out[1] = _mm512_unpackhi_epi64(t[0], t[2]);
    out[2] = _mm512_unpacklo_epi64(t[1], t[3]);
    out[3] = _mm512_unpackhi_epi64(t[1], t[3]);
}

/* Key words [at, at + 4) of the lo plane for tokens [j, j + 16) of a page. */
INLINE void lo_words(__m512i out[4], const sp_planes *g, size_t j, size_t at, size_t d,
                     const bool has_lo)
{
    const uint8_t *row[16];
    UNROLL
    for (size_t i = 0; i < 4; i++)
        out[i] = _mm512_setzero_si512();
    if (!has_lo)
        return;
    UNROLL
    for (size_t i = 0; i < 16; i++)
        row[i] = g->k_lo + (j + i) * d;
    turn_words(out, row, 4 * at, d / 2 - 4 * at);
}

/* Values as bytes, code - 128: dimensions [c, c + n) and [d / 2 + c, ..), n <= 32, of 4 tokens, a
 * quad of tokens to each lane. Vector k holds dimensions 16 l + 4 k .. + 3 in its 128-bit part l,
 * where parts 2 and 3 are of the second range; turn_parts brings vectors of that order into the
 * natural one. */
INLINE __m512i twice(const uint8_t *row, size_t n)
{ /* n <= 32 bytes, in both halves */
    if (n == 32)
        return _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)(const void *)row));
    return _mm512_broadcast_i64x4(_mm256_maskz_loadu_epi8((1u << n) - 1, row));
}

INLINE void value_quads(__m512i out[4], const uint8_t *const hi[4], const uint8_t *const lo[4],
                        size_t c, size_t n, const bool has_lo)
{
    const __m512i up = _mm512_set_epi64(0, 0, 0, 0, 4, 4, 4, 4),
                  down = _mm512_set_epi64(4, 4, 4, 4, 0, 0, 0, 0);
    const __m512i mask = _mm512_set1_epi8((char)0xf0), flip = _mm512_set1_epi8((char)0x80);
    __m512i r[4], t[4];
    UNROLL
    for (size_t j = 0; j < 4; j++) {
        __m512i h = twice(hi[j] + c, n), l = has_lo ? twice(lo[j] + c, n) : _mm512_setzero_si512();
        r[j] = _mm512_ternarylogic_epi64(mask, _mm512_sllv_epi64(h, up), _mm512_srlv_epi64(l, down),
                                         0xca);
        r[j] = _mm512_xor_si512(r[j], flip);
    }
    t[0] = _mm512_unpacklo_epi8(r[0], r[1]);
    t[1] = _mm512_unpackhi_epi8(r[0], r[1]);
    t[2] = _mm512_unpacklo_epi8(r[2], r[3]);
    t[3] = _mm512_unpackhi_epi8(r[2], r[3]);
    out[0] = _mm512_unpacklo_epi16(t[0], t[2]);
    out[1] = _mm512_unpackhi_epi16(t[0], t[2]);
    out[2] = _mm512_unpacklo_epi16(t[1], t[3]);
    out[3] = _mm512_unpackhi_epi16(t[1], t[3]);
}

/* 4 vectors as a 4 x 4 matrix of 128-bit parts, transposed. */
INLINE void turn_parts(__m512i v[4])
{
    __m512i a = _mm512_shuffle_i32x4(v[0], v[1], 0x44), b = _mm512_shuffle_i32x4(v[0], v[1], 0xee);
    __m512i c = _mm512_shuffle_i32x4(v[2], v[3], 0x44), e = _mm512_shuffle_i32x4(v[2], v[3], 0xee);
    v[0] = _mm512_shuffle_i32x4(a, c, 0x88);
    v[1] = _mm512_shuffle_i32x4(a, c, 0xdd);
    v[2] = _mm512_shuffle_i32x4(b, e, 0x88);
    v[3] = _mm512_shuffle_i32x4(b, e, 0xdd);
}

/* Part l of a turned quadruple: its first dimension, and which of its 16 there are. */
INLINE size_t part_at(size_t l, size_t c, size_t d)
{
    return (l < 2 ? c : d / 2 + c) + 16 * (l % 2);
}
INLINE __mmask16 part_mask(size_t l, size_t n)
{
    return n > 16 * (l % 2) ? first16(n - 16 * (l % 2)) : 0;
}

/* Scores to weights of one query over 32 tokens; returns the page's maximum and mass, and the value
 * scale of the weights. wsum: the weights' sum. */
INLINE void few_weights(uint8_t w[TOK], float *max, float *mass, float *scale, float *wsum,
                        __m512 s0, __m512 s1, __m512 v0, __m512 v1)
{
    float top = _mm512_reduce_max_ps(_mm512_max_ps(s0, s1));
    __m512 m = _mm512_set1_ps(top), unit = _mm512_set1_ps(MASS_UNIT);
    __m512 p0 = exp2_512(_mm512_sub_ps(s0, m)), p1 = exp2_512(_mm512_sub_ps(s1, m));
    __m512i n = _mm512_add_epi32(_mm512_cvtps_epi32(_mm512_mul_ps(p0, unit)),
                                 _mm512_cvtps_epi32(_mm512_mul_ps(p1, unit)));
    p0 = _mm512_mul_ps(p0, v0);
    p1 = _mm512_mul_ps(p1, v1);
    float most = _mm512_reduce_max_ps(_mm512_max_ps(p0, p1));
    __m512 inv = _mm512_set1_ps(most > 0 ? 255.0f / most : 0);
    __m512i w0 = _mm512_cvtps_epi32(_mm512_mul_ps(p0, inv)),
            w1 = _mm512_cvtps_epi32(_mm512_mul_ps(p1, inv));
    _mm_storeu_si128((__m128i *)(void *)w, _mm512_cvtusepi32_epi8(w0));
    _mm_storeu_si128((__m128i *)(void *)(w + 16), _mm512_cvtusepi32_epi8(w1));
    *max = top;
    *mass = (float)_mm512_reduce_add_epi32(n) * (1.0f / MASS_UNIT);
    *scale = most * (1.0f / 255.0f);
    *wsum = (float)_mm512_reduce_add_epi32(_mm512_add_epi32(w0, w1)) * LO_MEAN;
}

/* Adds the values of 32 tokens, weighted by w, to T accumulators: acc = acc * keep + sum *
 * scale. wsum: what dropped lo planes add. hi, lo: rows of the tokens, lo[0] NULL where they are
 * dropped. */
INLINE void few_values(float *acc, uint8_t w[][TOK], const float *keep, const float *scale,
                       const float *wsum, const uint8_t *const hi[TOK],
                       const uint8_t *const lo[TOK], size_t c, size_t n, size_t d, const size_t T,
                       const bool has_lo)
{
    {
        __m512i o[4][4];
        UNROLL
        for (size_t t = 0; t < T; t++) {
            UNROLL
            for (size_t k = 0; k < 4; k++)
                o[t][k] = _mm512_setzero_si512();
        }
        for (size_t u = 0; u < TOK; u += 4) {
            __m512i v[4];
            value_quads(v, hi + u, lo + u, c, n, has_lo);
            UNROLL
            for (size_t t = 0; t < T; t++) {
                __m512i q = quad512((const int8_t *)w[t] + u);
                UNROLL
                for (size_t k = 0; k < 4; k++)
                    o[t][k] = _mm512_dpbusd_epi32(o[t][k], q, v[k]);
            }
        }
        UNROLL
        for (size_t t = 0; t < T; t++) {
            turn_parts(o[t]);
            UNROLL
            for (size_t l = 0; l < 4; l++) {
                __mmask16 m = part_mask(l, n);
                float *at = acc + t * d + part_at(l, c, d);
                __m512 v = _mm512_cvtepi32_ps(o[t][l]), old = _mm512_maskz_loadu_ps(m, at);
                if (!has_lo)
                    v = _mm512_add_ps(v, _mm512_set1_ps(wsum[t]));
                old = _mm512_mul_ps(old, _mm512_set1_ps(keep[t]));
                _mm512_mask_storeu_ps(at, m, _mm512_fmadd_ps(v, _mm512_set1_ps(scale[t]), old));
            }
        }
    }
}

/* Joins 32 tokens of scores s to the state of a query: their weights, and what to scale old and new
 * by. */
INLINE void few_join(uint8_t w[TOK], float *max, float *sum, float *keep, float *scale, float *wsum,
                     __m512 s0, __m512 s1, __m512 v0, __m512 v1)
{
    float here, mass, pair[16];
    few_weights(w, &here, &mass, scale, wsum, s0, s1, v0, v1);
    float top = *max > here ? *max : here;
    __m512 e = exp2_512(_mm512_sub_ps(
        _mm512_mask_mov_ps(_mm512_set1_ps(here), 1, _mm512_set1_ps(*max)), _mm512_set1_ps(top)));
    _mm512_storeu_ps(pair, e); /* 2^(old maximum - top), 2^(theirs - top) */
    *keep = pair[0];
    *max = top;
    *sum = __builtin_fmaf(mass, pair[1], *sum * *keep);
    *scale *= pair[1];
}

INLINE float query_mean(const float *f, const sp_planes *g, size_t d)
{
    __m512 part = _mm512_setzero_ps();
    for (size_t i = 0; i < d; i += 16)
        part = _mm512_fmadd_ps(_mm512_loadu_ps(f + i), vf_half((const uint8_t *)(g->k_mean + i)),
                               part);
    return sum512(part);
}

/* T queries over one page: tokens in the lanes for keys, dimensions for values. Keys before `from`,
 * at most 31, are not seen. */
INLINE void few_page(float *acc, float *max, float *sum, const int8_t *prep, const sp_planes *g,
                     size_t d, size_t from, float cap, const size_t T, const bool has_lo)
{
    const size_t step = few_bytes(d);
    const uint8_t *hi[TOK], *lo[TOK];
    __m512i dot[4][2];
    float scale[4], wsum[4], keep[4];
    uint8_t w[4][TOK];
    UNROLL
    for (size_t t = 0; t < T; t++) {
        const float *f = (const float *)(const void *)(prep + t * step + d);
        dot[t][0] = dot[t][1] = _mm512_set1_epi32(-128 * (int)f[d + 1]);
    }
    for (size_t c = 0; c < d / 8; c += 4) {
        UNROLL
        for (size_t h = 0; h < 2; h++) {
            __m512i low[4];
            lo_words(low, g, 16 * h, c, d, has_lo);
            UNROLL
            for (size_t x = 0; x < 4; x++) {
                size_t i = c + x;
                if (x >= 2 && i >= d / 8)
                    continue;
                __m512i high = _mm512_loadu_si512(g->k_hi + i * 128 + h * 64);
                __m512i a = low_codes(high, low[x]), b = high_codes(high, low[x]);
                UNROLL
                for (size_t t = 0; t < T; t++) {
                    const int8_t *q = prep + t * step + 4 * i;
                    dot[t][h] = dot512(dot[t][h], a, q);
                    dot[t][h] = dot512(dot[t][h], b, q + d / 2);
                }
            }
        }
    }
    __m512 ks0 = vf_half((const uint8_t *)g->k_scale),
           ks1 = vf_half((const uint8_t *)(g->k_scale + 16));
    __m512 vs0 = vf_half((const uint8_t *)g->v_scale),
           vs1 = vf_half((const uint8_t *)(g->v_scale + 16));
    UNROLL
    for (size_t t = 0; t < T; t++) {
        const float *f = (const float *)(const void *)(prep + t * step + d);
        __m512 mean = _mm512_set1_ps(query_mean(f, g, d)), qs = _mm512_set1_ps(f[d]);
        __m512 s0 = _mm512_cvtepi32_ps(dot[t][0]), s1 = _mm512_cvtepi32_ps(dot[t][1]);
        if (!has_lo) {
            s0 = _mm512_add_ps(s0, _mm512_set1_ps(f[d + 1] * LO_MEAN));
            s1 = _mm512_add_ps(s1, _mm512_set1_ps(f[d + 1] * LO_MEAN));
        }
        s0 = _mm512_fmadd_ps(_mm512_mul_ps(s0, ks0), qs, mean);
        s1 = _mm512_fmadd_ps(_mm512_mul_ps(s1, ks1), qs, mean);
        if (cap > 0) {
            s0 = vf_cap(s0, cap);
            s1 = vf_cap(s1, cap);
        }
        if (from) {
            uint32_t off = (1u << from) - 1;
            s0 = _mm512_mask_mov_ps(s0, (__mmask16)off, _mm512_set1_ps(-__builtin_inff()));
            s1 = _mm512_mask_mov_ps(s1, (__mmask16)(off >> 16), _mm512_set1_ps(-__builtin_inff()));
        }
        few_join(w[t], &max[t], &sum[t], &keep[t], &scale[t], &wsum[t], s0, s1, vs0, vs1);
    }
    for (size_t j = 0; j < TOK; j++) {
        hi[j] = g->v_hi + j * (d / 2);
        lo[j] = g->v_lo + (has_lo ? j * d : 0);
    }
    size_t c = 0;
    for (; c + 32 <= d / 2; c += 32)
        few_values(acc, w, keep, scale, wsum, hi, lo, c, 32, d, T, has_lo);
    if (c < d / 2)
        few_values(acc, w, keep, scale, wsum, hi, lo, c, d / 2 - c, d, T, has_lo);
}

/* A page as bytes: k s8 [d/4][32][4], v s8 [8][d][4], sum of each key's codes, scales and mean in
 * f32. */
typedef struct wide {
    int8_t *k, *v;
    float *mean; /* [d] */
    float ks[TOK], vs[TOK];
    int32_t k_sum[TOK];
    bool lo;
} wide;

static void widen_page(wide *p, const sp_planes *g, size_t d)
{
    const __m512i flip = _mm512_set1_epi8((char)0x80), one = _mm512_set1_epi8(1);
    __m512i sum[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
    for (size_t c = 0; c < d / 8; c += 4) {
        for (size_t h = 0; h < 2; h++) {
            __m512i low[4];
            lo_words(low, g, 16 * h, c, d, g->k_lo != NULL);
            UNROLL
            for (size_t x = 0; x < 4; x++) {
                size_t at = (c + x) * 128 + h * 64;
                if (x >= 2 && c + x >= d / 8)
                    continue;
                __m512i high = _mm512_loadu_si512(g->k_hi + at);
                __m512i a = _mm512_xor_si512(low_codes(high, low[x]), flip),
                        b = _mm512_xor_si512(high_codes(high, low[x]), flip);
                sum[h] = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(sum[h], one, a), one, b);
                _mm512_storeu_si512(p->k + at, a);
                _mm512_storeu_si512(p->k + d * 16 + at, b);
            }
        }
    }
    for (size_t u = 0; u < TOK / 4; u++) {
        const uint8_t *hi[4], *lo[4];
        for (size_t j = 0; j < 4; j++) {
            hi[j] = g->v_hi + (4 * u + j) * (d / 2);
            lo[j] = g->v_lo ? g->v_lo + (4 * u + j) * d : NULL;
        }
        for (size_t c = 0; c < d / 2; c += 32) {
            size_t n = d / 2 - c < 32 ? d / 2 - c : 32;
            __m512i v[4];
            value_quads(v, hi, lo, c, n, g->v_lo != NULL);
            turn_parts(v);
            UNROLL
            for (size_t l = 0; l < 4; l++)
                _mm512_mask_storeu_epi32(p->v + (u * d + part_at(l, c, d)) * 4, part_mask(l, n),
                                         v[l]);
        }
    }
    for (size_t h = 0; h < 2; h++) {
        _mm512_storeu_si512(p->k_sum + 16 * h, sum[h]);
        _mm512_storeu_ps(p->ks + 16 * h, vf_half((const uint8_t *)(g->k_scale + 16 * h)));
        _mm512_storeu_ps(p->vs + 16 * h, vf_half((const uint8_t *)(g->v_scale + 16 * h)));
    }
    for (size_t i = 0; i < d; i += 16)
        _mm512_storeu_ps(p->mean + i, vf_half((const uint8_t *)(g->k_mean + i)));
    p->lo = g->k_lo != NULL;
}

typedef struct many_sum {
    __m512 keep, scale, shift; /* acc = acc * keep + (sum + shift) * scale */
    bool has_lo;
    /* queries that see any key of the page: the others keep their state to the bit */
    __mmask16 live;
} many_sum;

/* What 16 queries see of a page. */
typedef struct many_see {
    __m512i from; /* first key, up to 32 */
    bool any;     /* is any not 0? */
    float cap;    /* 0: none */
} many_see;

/* Adds the values of N quads of keys, those in use or with NULL the first, to 16 accumulators. */
INLINE void many_values(float *acc, const __m512i *w, const size_t *use, const int8_t *v,
                        const many_sum *to, size_t d, const size_t N, const bool all)
{
    for (size_t i = 0; i < d; i += 4) {
        __m512i o[4];
        UNROLL
        for (size_t e = 0; e < 4; e++)
            o[e] = _mm512_setzero_si512();
        UNROLL
        for (size_t n = 0; n < N; n++) {
            UNROLL
            for (size_t e = 0; e < 4; e++)
                o[e] = dot512(o[e], w[n], v + ((use ? use[n] : n) * d + i + e) * 4);
        }
        UNROLL
        for (size_t e = 0; e < 4; e++) {
            __m512 x = _mm512_cvtepi32_ps(o[e]),
                   was = _mm512_mul_ps(_mm512_loadu_ps(acc + (i + e) * LANES), to->keep);
            if (!to->has_lo)
                x = _mm512_add_ps(x, to->shift);
            x = _mm512_fmadd_ps(x, to->scale, was);
            if (all)
                _mm512_storeu_ps(acc + (i + e) * LANES, x);
            else
                _mm512_mask_storeu_ps(acc + (i + e) * LANES, to->live, x);
        }
    }
}

/* The values of those quads of keys that weigh anything. */
static __attribute__((noinline)) void many_values_used(float *acc, const __m512i *w,
                                                       const size_t *use, size_t n_use,
                                                       const int8_t *v, const many_sum *to,
                                                       size_t d)
{
    switch (n_use) {
#define CASE(n) case n: many_values(acc, w, use, v, to, d, n, false); break
        CASE(0);
        CASE(1);
        CASE(2);
        CASE(3);
        CASE(4);
        CASE(5);
        CASE(6);
        CASE(7);
        CASE(8);
#undef CASE
    }
}

/* Caps and hides scores; returns the largest of each query. */
INLINE __m512 many_seen(__m512 score[TOK], const many_see *see)
{
    const __m512 none = _mm512_set1_ps(-__builtin_inff());
    __m512 top = none;
    for (size_t j = 0; j < TOK; j++) {
        __m512 s = see->cap > 0 ? vf_cap(score[j], see->cap) : score[j];
        if (see->any)
            s = _mm512_mask_mov_ps(s, _mm512_cmpgt_epi32_mask(see->from, _mm512_set1_epi32((int)j)),
                                   none);
        score[j] = s;
        top = _mm512_max_ps(top, s);
    }
    return top;
}

/* 16 queries over one page. acc [d][16], max and sum [16]. Keys whose score is below cut [16] weigh
 * nothing; what they would have weighed is added to drop [16]. Returns how many quads of keys had
 * any weight. */
INLINE size_t many_any(float *acc, float *max, float *sum, float *drop, const float *cut,
                       const many_see *see, const uint8_t *prep, const wide *p, size_t d,
                       const bool cuts, const bool sees)
{
    const float *f = (const float *)(const void *)(prep + LANES * d);
    __m512 qs = _mm512_loadu_ps(f + LANES * d), qsum = _mm512_loadu_ps(f + LANES * d + LANES);
    __m512 score[TOK], part[LANES], top = _mm512_set1_ps(-__builtin_inff());
    UNROLL
    for (size_t l = 0; l < LANES; l++)
        part[l] = _mm512_setzero_ps();
    for (size_t i = 0; i < d; i += LANES) {
        UNROLL
        for (size_t l = 0; l < LANES; l++)
            part[l] = _mm512_fmadd_ps(_mm512_loadu_ps(f + (i + l) * LANES),
                                      _mm512_set1_ps(p->mean[i + l]), part[l]);
    }
    for (size_t n = LANES / 2; n; n /= 2) /* the order of sum512 */
        for (size_t l = 0; l < n; l++)
            part[l] = _mm512_add_ps(part[l], part[l + n]);
    for (size_t h = 0; h < TOK; h += LANES) {
        __m512i dot[LANES];
        UNROLL
        for (size_t j = 0; j < LANES; j++)
            dot[j] = _mm512_set1_epi32(-128 * p->k_sum[h + j]);
        for (size_t i = 0; i < d / 4; i++) {
            __m512i q = _mm512_loadu_si512(prep + i * 64);
            UNROLL
            for (size_t j = 0; j < LANES; j++)
                dot[j] = dot512(dot[j], q, p->k + i * 128 + (h + j) * 4);
        }
        UNROLL
        for (size_t j = 0; j < LANES; j++) {
            __m512 s = _mm512_cvtepi32_ps(dot[j]);
            if (!p->lo)
                s = _mm512_add_ps(s, _mm512_mul_ps(qsum, _mm512_set1_ps(LO_MEAN)));
            s = _mm512_fmadd_ps(_mm512_mul_ps(s, _mm512_set1_ps(p->ks[h + j])), qs, part[0]);
            score[h + j] = s;
            top = _mm512_max_ps(top, s);
        }
    }
    __mmask16 live = 0xffff;
    if (sees) {
        top = many_seen(score, see);
        live = _mm512_cmp_ps_mask(top, _mm512_set1_ps(-__builtin_inff()), _CMP_NEQ_UQ);
        top = _mm512_maskz_mov_ps(live, top);
    }
    __m512i mass = _mm512_setzero_si512(), wsum = mass, w[TOK / 4];
    __m512 most = _mm512_setzero_ps(), least = cuts ? _mm512_loadu_ps(cut) : most, lost = most;
    for (size_t j = 0; j < TOK; j++) {
        __m512 e = exp2_512(_mm512_sub_ps(score[j], top));
        if (cuts) {
            __mmask16 off = _mm512_cmp_ps_mask(score[j], least, _CMP_LT_OQ);
            lost = _mm512_mask_add_ps(lost, off, lost, e);
            e = _mm512_maskz_mov_ps((__mmask16)~off, e);
        }
        mass =
            _mm512_add_epi32(mass, _mm512_cvtps_epi32(_mm512_mul_ps(e, _mm512_set1_ps(MASS_UNIT))));
        score[j] = _mm512_mul_ps(e, _mm512_set1_ps(p->vs[j]));
        most = _mm512_max_ps(most, score[j]);
    }
    __mmask16 any = _mm512_cmp_ps_mask(most, _mm512_setzero_ps(), _CMP_GT_OQ);
    __m512 inv = _mm512_maskz_div_ps(any, _mm512_set1_ps(255.0f), most);
    size_t n_use = 0, use[TOK / 4];
    UNROLL
    for (size_t u = 0; u < TOK / 4; u++) {
        __m512i word = _mm512_setzero_si512();
        UNROLL
        for (size_t j = 0; j < 4; j++) {
            __m512i c = _mm512_cvtps_epi32(_mm512_mul_ps(score[4 * u + j], inv));
            wsum = _mm512_add_epi32(wsum, c);
            word = _mm512_or_si512(word, _mm512_slli_epi32(c, (unsigned)(8 * j)));
        }
        w[cuts ? n_use : u] = word; /* quads that weigh nothing are skipped */
        use[n_use] = u;
        n_use += cuts && _mm512_test_epi32_mask(word, word);
    }
    __m512 old = _mm512_loadu_ps(max), now = _mm512_max_ps(old, top);
    __m512 keep = exp2_512(_mm512_sub_ps(old, now)), add = exp2_512(_mm512_sub_ps(top, now));
    if (sees) {
        now = _mm512_mask_mov_ps(old, live, now);
        keep = _mm512_mask_mov_ps(_mm512_set1_ps(1.0f), live, keep);
        add = _mm512_maskz_mov_ps(live, add);
    }
    __m512 page_mass = _mm512_mul_ps(_mm512_cvtepi32_ps(mass), _mm512_set1_ps(1.0f / MASS_UNIT));
    _mm512_storeu_ps(max, now);
    _mm512_storeu_ps(sum,
                     _mm512_fmadd_ps(page_mass, add, _mm512_mul_ps(_mm512_loadu_ps(sum), keep)));
    if (cuts)
        _mm512_storeu_ps(drop,
                         _mm512_fmadd_ps(lost, add, _mm512_mul_ps(_mm512_loadu_ps(drop), keep)));
    __m512 scale = _mm512_mul_ps(_mm512_mul_ps(most, _mm512_set1_ps(1.0f / 255.0f)), add);
    __m512 shift = _mm512_mul_ps(_mm512_cvtepi32_ps(wsum), _mm512_set1_ps(LO_MEAN));
    const many_sum to = {keep, scale, shift, p->lo, live};
    if (!cuts) {
        many_values(acc, w, NULL, p->v, &to, d, TOK / 4, true);
        return TOK / 4;
    }
    many_values_used(acc, w, use, n_use, p->v, &to, d);
    return n_use;
}

/* Functions of their own: inside the loop over groups they would spill. The third serves whatever
 * the first two do not: with a cut of -INFINITY, quads that weigh nothing are left out, which
 * changes no sum. */
static __attribute__((noinline)) void many_page(float *acc, float *max, float *sum,
                                                const uint8_t *prep, const wide *p, size_t d)
{
    (void)many_any(acc, max, sum, NULL, NULL, NULL, prep, p, d, false, false);
}
static __attribute__((noinline)) size_t many_page_cut(float *acc, float *max, float *sum,
                                                      float *drop, const float *cut,
                                                      const uint8_t *prep, const wide *p, size_t d)
{
    return many_any(acc, max, sum, drop, cut, NULL, prep, p, d, true, false);
}
static __attribute__((noinline)) size_t many_page_see(float *acc, float *max, float *sum,
                                                      float *drop, const float *cut,
                                                      const many_see *see, const uint8_t *prep,
                                                      const wide *p, size_t d)
{
    return many_any(acc, max, sum, drop, cut, see, prep, p, d, true, true);
}

/* Pages lie far apart, and each is too short for the hardware to see a stream: ask for it early. */
static void fetch_page(const sp_planes *g, size_t d)
{
    for (size_t at = 0; at < sp_planes_hi_bytes(d); at += 64)
        _mm_prefetch((const char *)g->k_hi + at, _MM_HINT_T0);
    for (size_t at = 0; g->k_lo && at < sp_planes_lo_bytes(d); at += 64)
        _mm_prefetch((const char *)g->k_lo + at, _MM_HINT_T0);
}

#define FEW_PAGE(T)                                                                                \
    (g->k_lo ? few_page(acc, max, sum, prep, g, d, from, cap, T, true)                             \
             : few_page(acc, max, sum, prep, g, d, from, cap, T, false))

static void few_any(float *acc, float *max, float *sum, const int8_t *prep, const sp_planes *g,
                    size_t d, size_t n_q, size_t from, float cap)
{
    if (n_q >= 4)
        FEW_PAGE(4);
    else if (n_q == 3)
        FEW_PAGE(3);
    else if (n_q == 2)
        FEW_PAGE(2);
    else
        FEW_PAGE(1);
}

/* Few queries: four by four, one by one where a page is not seen whole. */
static void attn_few(float *acc, float *max, float *sum, const sp_attn_pages *a)
{
    size_t d = a->d;
    for (size_t g = 0; g < a->n_page && g < AHEAD; g++)
        fetch_page(&a->page[g], d);
    for (size_t g = 0; g < a->n_page; g++) {
        bool is_whole = true;
        if (g + AHEAD < a->n_page)
            fetch_page(&a->page[g + AHEAD], d);
        for (size_t t = 0; a->see.from && t < a->n_q; t++)
            is_whole &= a->see.from[t] <= g * TOK;
        for (size_t t = 0, n = is_whole ? 4 : 1; t < a->n_q; t += n) {
            size_t from = is_whole || a->see.from[t] <= g * TOK ? 0 : a->see.from[t] - g * TOK;
            size_t n_q = is_whole ? a->n_q - t : 1;
            if (from < TOK)
                few_any(acc + t * d, max + t, sum + t, (const int8_t *)a->prep + t * few_bytes(d),
                        &a->page[g], d, n_q, from, a->see.cap);
        }
    }
}

/* What queries [16 i, 16 i + 16) see of page g. */
static many_see see_group(const sp_attn_pages *a, size_t i, size_t g)
{
    int32_t from[LANES] = {0};
    many_see see = {.cap = a->see.cap};
    for (size_t l = 0, t = i * LANES; a->see.from && l < LANES && t < a->n_q; l++, t++) {
        size_t at = a->see.from[t] <= g * TOK ? 0 : a->see.from[t] - g * TOK;
        from[l] = (int32_t)(at < TOK ? at : TOK);
        see.any |= at > 0;
    }
    see.from = _mm512_loadu_si512(from);
    return see;
}

/* Many queries: all groups of 16 see a page while its bytes are in L1. State in scratch: acc
 * [d][16], max, sum, drop and cut [16] of every group. */
static void attn_many(float *acc, float *max, float *sum, const sp_attn_pages *a)
{
    size_t d = a->d, n_q = a->n_q;
    wide p = {.k = a->scratch,
              .v = (int8_t *)a->scratch + 32 * d,
              .mean = (float *)(void *)((char *)a->scratch + 64 * d)};
    float *state = p.mean + d;
    size_t n_group = (n_q + LANES - 1) / LANES, step = LANES * (d + 4);
    sp_cut *cut = a->cut;
    memset(state, 0, n_group * step * sizeof *state);
    for (size_t i = 0; i < n_group * LANES; i++) {
        float *s = state + i / LANES * step + LANES * d + i % LANES;
        s[0] = -__builtin_inff();
        s[3 * LANES] = !cut ? -__builtin_inff() : i < n_q ? cut->least[i] : __builtin_inff();
    }
    fetch_page(&a->page[0], d);
    for (size_t g = 0; g < a->n_page; g++) {
        if (g + 1 < a->n_page)
            fetch_page(&a->page[g + 1], d);
        widen_page(&p, &a->page[g], d);
        for (size_t i = 0; i < n_group; i++) {
            float *s = state + i * step, *m = s + LANES * d;
            const uint8_t *q = (const uint8_t *)a->prep + i * LANES * few_bytes(d);
            const many_see see = see_group(a, i, g);
            size_t n_used = 0;
            if (see.any || see.cap > 0)
                n_used =
                    many_page_see(s, m, m + LANES, m + 2 * LANES, m + 3 * LANES, &see, q, &p, d);
            else if (cut)
                n_used = many_page_cut(s, m, m + LANES, m + 2 * LANES, m + 3 * LANES, q, &p, d);
            else
                many_page(s, m, m + LANES, q, &p, d);
            if (cut) {
                cut->n_used += n_used;
                cut->n_quad += TOK / 4;
            }
        }
    }
    for (size_t t = 0; t < n_q; t++) {
        const float *s = state + t / LANES * step;
        for (size_t i = 0; i < d; i++)
            acc[t * d + i] = s[i * LANES + t % LANES];
        max[t] = s[LANES * d + t % LANES];
        sum[t] = s[LANES * d + LANES + t % LANES];
        if (cut)
            cut->drop[t] = s[LANES * d + 2 * LANES + t % LANES];
    }
}

static void attn_planes(float *acc, float *max, float *sum, const sp_attn_pages *a)
{
    for (size_t t = 0; t < a->n_q; t++) {
        max[t] = -__builtin_inff();
        sum[t] = 0;
        if (a->cut)
            a->cut->drop[t] = 0;
    }
    memset(acc, 0, a->n_q * a->d * sizeof *acc);
    if (a->n_q <= FEW)
        attn_few(acc, max, sum, a);
    else
        attn_many(acc, max, sum, a);
}

/* Scores of T queries from the hi plane of a page, est [T][16 pages][32]. */
INLINE void scan_page(float *est, const int8_t *prep, const sp_planes *g, size_t d, const size_t T)
{
    const size_t step = few_bytes(d);
    const __m512i mask = _mm512_set1_epi8((char)0xf0);
    __m512i dot[4][2];
    UNROLL
    for (size_t t = 0; t < T; t++)
        dot[t][0] = dot[t][1] = _mm512_setzero_si512();
    for (size_t i = 0; i < d / 8; i++) {
        UNROLL
        for (size_t h = 0; h < 2; h++) {
            __m512i hi = _mm512_loadu_si512(g->k_hi + i * 128 + h * 64);
            __m512i a = _mm512_and_si512(_mm512_slli_epi16(hi, 4), mask),
                    b = _mm512_and_si512(hi, mask);
            UNROLL
            for (size_t t = 0; t < T; t++) {
                const int8_t *q = prep + t * step + 4 * i;
                dot[t][h] = dot512(dot[t][h], a, q);
                dot[t][h] = dot512(dot[t][h], b, q + d / 2);
            }
        }
    }
    UNROLL
    for (size_t t = 0; t < T; t++) {
        const float *f = (const float *)(const void *)(prep + t * step + d);
        __m512 mean = _mm512_set1_ps(query_mean(f, g, d)),
               zero = _mm512_set1_ps(f[d + 1] * (LO_MEAN - 128.0f));
        UNROLL
        for (size_t h = 0; h < 2; h++) {
            __m512 ks = _mm512_mul_ps(vf_half((const uint8_t *)(g->k_scale + 16 * h)),
                                      _mm512_set1_ps(f[d]));
            __m512 x = _mm512_add_ps(_mm512_cvtepi32_ps(dot[t][h]), zero);
            _mm512_storeu_ps(est + t * SP_PART_TOK + 16 * h, _mm512_fmadd_ps(x, ks, mean));
        }
    }
}

static void fetch_keys(const sp_planes *g, size_t d)
{
    for (size_t at = 0; at < 16 * d; at += 64)
        _mm_prefetch((const char *)g->k_hi + at, _MM_HINT_T0);
    for (size_t at = 0; at < sp_planes_hi_used(d) - 32 * d; at += 64)
        _mm_prefetch((const char *)g->k_scale + at, _MM_HINT_T0);
}

/* 16 rows of 16, 32 apart, to columns. */
static void turn_16(float *out, const float *in)
{
    __m512 a[16], b[16];
    UNROLL
    for (size_t i = 0; i < 16; i++)
        a[i] = _mm512_loadu_ps(in + i * TOK);
    UNROLL
    for (size_t i = 0; i < 16; i += 2) { /* pairs of rows */
        b[i] = _mm512_unpacklo_ps(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
    }
    UNROLL
    for (size_t i = 0; i < 16;
         i += 4) { /* column c of 4 rows, in 128-bit parts of columns c, c + 4, ... */
        a[i] = _mm512_castpd_ps(
            _mm512_unpacklo_pd(_mm512_castps_pd(b[i]), _mm512_castps_pd(b[i + 2])));
        a[i + 1] = _mm512_castpd_ps(
            _mm512_unpackhi_pd(_mm512_castps_pd(b[i]), _mm512_castps_pd(b[i + 2])));
        a[i + 2] = _mm512_castpd_ps(
            _mm512_unpacklo_pd(_mm512_castps_pd(b[i + 1]), _mm512_castps_pd(b[i + 3])));
        a[i + 3] = _mm512_castpd_ps(
            _mm512_unpackhi_pd(_mm512_castps_pd(b[i + 1]), _mm512_castps_pd(b[i + 3])));
    }
    UNROLL
    for (size_t c = 0; c < 4; c++) {
        __m512i v[4] = {_mm512_castps_si512(a[c]), _mm512_castps_si512(a[4 + c]),
                        _mm512_castps_si512(a[8 + c]), _mm512_castps_si512(a[12 + c])};
        turn_parts(v);
        UNROLL
        for (size_t l = 0; l < 4; l++)
            _mm512_storeu_si512(out + (4 * l + c) * SP_PART_PAGES, v[l]);
    }
}

static void attn_scan(const sp_scan *s, const float *q, const void *prep, const sp_planes *page,
                      size_t n_page, size_t n_q, size_t d)
{
    float est[(SP_FEW + 1) * SP_PART_TOK], *scale = est + n_q * SP_PART_TOK;
    (void)q;
    for (size_t g = 0; g < n_page && g < SCAN_AHEAD; g++)
        fetch_keys(&page[g], d);
    for (size_t g = 0; g < n_page; g++) {
        if (g + SCAN_AHEAD < n_page)
            fetch_keys(&page[g + SCAN_AHEAD], d);
        for (size_t t = 0; t < n_q; t += 4) {
            const int8_t *p = (const int8_t *)prep + t * few_bytes(d);
            float *to = est + t * SP_PART_TOK + g * TOK;
            if (n_q - t >= 4)
                scan_page(to, p, &page[g], d, 4);
            else if (n_q - t == 3)
                scan_page(to, p, &page[g], d, 3);
            else if (n_q - t == 2)
                scan_page(to, p, &page[g], d, 2);
            else
                scan_page(to, p, &page[g], d, 1);
        }
        for (size_t h = 0; h < TOK; h += 16)
            _mm512_storeu_ps(scale + g * TOK + h, vf_half((const uint8_t *)(page[g].k_scale + h)));
    }
    for (size_t t = 0; t <= n_q; t++) {
        __m512 none = _mm512_set1_ps(t < n_q ? -__builtin_inff() : 0);
        for (size_t i = n_page * TOK; i < SP_PART_TOK; i += 16)
            _mm512_storeu_ps(est + t * SP_PART_TOK + i, none);
        float *to = t < n_q ? s->raw + t * SP_PART_TOK : s->scale;
        turn_16(to, est + t * SP_PART_TOK);
        turn_16(to + 16 * SP_PART_PAGES, est + t * SP_PART_TOK + 16);
    }
    scan_cap(s, n_page, n_q);
}

/* 32 keys of a part, wherever they lie. */
typedef struct pick {
    const uint8_t *lo[TOK], *v_hi[TOK], *v_lo[TOK];
    float v_scale[TOK];
    size_t n;
} pick;

/* Their lo planes complete the scores of T queries. */
INLINE void rows_32(float *acc, float *max, float *sum, const float *est, const sp_scan *s,
                    const int8_t *prep, const pick *p, const uint16_t *at, size_t d, const size_t T)
{
    const size_t step = few_bytes(d);
    const __m512i low = _mm512_set1_epi8(15);
    __m512i dot[4][2], index[2];
    __mmask16 some[2];
    __m512 scale_k[2];
    float scale[4], wsum[4], keep[4];
    uint8_t w[4][TOK];
    UNROLL
    for (size_t t = 0; t < T; t++)
        dot[t][0] = dot[t][1] = _mm512_setzero_si512();
    for (size_t c = 0; c < d / 8; c += 4) {
        UNROLL
        for (size_t h = 0; h < 2; h++) {
            __m512i word[4];
            turn_words(word, p->lo + 16 * h, 4 * c, d / 2 - 4 * c);
            UNROLL
            for (size_t x = 0; x < 4; x++) {
                if (x >= 2 && c + x >= d / 8)
                    continue;
                __m512i a = _mm512_and_si512(word[x], low),
                        b = _mm512_and_si512(_mm512_srli_epi16(word[x], 4), low);
                UNROLL
                for (size_t t = 0; t < T; t++) {
                    const int8_t *q = prep + t * step + 4 * (c + x);
                    dot[t][h] = dot512(dot[t][h], a, q);
                    dot[t][h] = dot512(dot[t][h], b, q + d / 2);
                }
            }
        }
    }
    UNROLL
    for (size_t h = 0; h < 2; h++) {
        some[h] = p->n > 16 * h ? first16(p->n - 16 * h) : 0;
        index[h] =
            _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)(at + 16 * h)));
        scale_k[h] = _mm512_mask_i32gather_ps(_mm512_setzero_ps(), some[h], index[h], s->scale, 4);
    }
    UNROLL
    for (size_t t = 0; t < T; t++) {
        const float *f = (const float *)(const void *)(prep + t * step + d);
        __m512 x[2];
        UNROLL
        for (size_t h = 0; h < 2; h++) {
            x[h] = _mm512_sub_ps(_mm512_cvtepi32_ps(dot[t][h]), _mm512_set1_ps(f[d + 1] * LO_MEAN));
            x[h] =
                _mm512_fmadd_ps(x[h], _mm512_mul_ps(scale_k[h], _mm512_set1_ps(f[d])),
                                _mm512_mask_i32gather_ps(_mm512_set1_ps(-__builtin_inff()), some[h],
                                                         index[h], est + t * SP_PART_TOK, 4));
            if (s->cap > 0)
                x[h] = _mm512_mask_mov_ps(_mm512_set1_ps(-__builtin_inff()), some[h],
                                          vf_cap(x[h], s->cap));
        }
        few_join(w[t], &max[t], &sum[t], &keep[t], &scale[t], &wsum[t], x[0], x[1],
                 _mm512_loadu_ps(p->v_scale), _mm512_loadu_ps(p->v_scale + 16));
    }
    size_t c = 0;
    for (; c + 32 <= d / 2; c += 32)
        few_values(acc, w, keep, scale, wsum, p->v_hi, p->v_lo, c, 32, d, T, true);
    if (c < d / 2)
        few_values(acc, w, keep, scale, wsum, p->v_hi, p->v_lo, c, d / 2 - c, d, T, true);
}

/* Looks up n keys and asks for their rows; the rest of 32 repeats the last one. */
static void pick_32(pick *p, const sp_planes *page, const uint16_t *at, size_t n, size_t d)
{
    p->n = n;
    for (size_t i = 0; i < TOK; i++) {
        size_t e = at[i < n ? i : n - 1], j = e / SP_PART_PAGES;
        const sp_planes *g = &page[e % SP_PART_PAGES];
        p->lo[i] = g->k_lo + j * d;
        p->v_lo[i] = g->v_lo + j * d;
        p->v_hi[i] = g->v_hi + j * (d / 2);
        for (size_t b = 0; b < d; b += 64)
            _mm_prefetch((const char *)p->lo[i] + b, _MM_HINT_T0);
        for (size_t b = 0; b < d / 2; b += 64)
            _mm_prefetch((const char *)p->v_hi[i] + b, _MM_HINT_T0);
        p->v_scale[i] = _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(g->v_scale[j])));
    }
}

static void attn_rows(float *acc, float *max, float *sum, const sp_scan *s, const float *q,
                      const void *prep, const sp_planes *page, const uint16_t *at, size_t n,
                      size_t n_q, size_t d, void *scratch)
{
    pick p[2];
    (void)q;
    (void)scratch;
    for (size_t t = 0; t < n_q; t++) {
        max[t] = -__builtin_inff();
        sum[t] = 0;
    }
    memset(acc, 0, n_q * d * sizeof *acc);
    if (n)
        pick_32(&p[0], page, at, n < TOK ? n : TOK, d);
    for (size_t from = 0, i = 0; from < n; from += TOK, i++) {
        size_t next = from + TOK;
        if (next < n)
            pick_32(&p[(i + 1) % 2], page, at + next, n - next < TOK ? n - next : TOK, d);
        for (size_t t = 0; t < n_q; t += 4) {
            const int8_t *of = (const int8_t *)prep + t * few_bytes(d);
            const float *est = s->raw + t * SP_PART_TOK;
            float *o = acc + t * d;
            if (n_q - t >= 4)
                rows_32(o, max + t, sum + t, est, s, of, &p[i % 2], at + from, d, 4);
            else if (n_q - t == 3)
                rows_32(o, max + t, sum + t, est, s, of, &p[i % 2], at + from, d, 3);
            else if (n_q - t == 2)
                rows_32(o, max + t, sum + t, est, s, of, &p[i % 2], at + from, d, 2);
            else
                rows_32(o, max + t, sum + t, est, s, of, &p[i % 2], at + from, d, 1);
        }
    }
}

static size_t attn_pick(uint16_t *to, size_t *n_pair, const sp_scan *s, const float *z, float cut,
                        uint32_t always, size_t n_q)
{
    const __m512 least = _mm512_set1_ps(cut);
    __m512i at = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    size_t n = 0;
    unsigned last = 0;
    *n_pair = 0;
    for (size_t i = 0; i < SP_PART_TOK; i += 16) {
        vf a[SP_FEW];
        __mmask16 m =
            _mm512_cmp_ps_mask(scan_rank(a, s, z, i, n_q), least, _CMP_GE_OQ) | (__mmask16)always;
        _mm256_storeu_si256((__m256i *)(void *)(to + n),
                            _mm512_cvtepi32_epi16(_mm512_maskz_compress_epi32(m, at)));
        n += (size_t)__builtin_popcount(m);
        *n_pair += i / 16 % 2 ? (size_t)__builtin_popcount(m | last) : 0;
        last = m;
        at = _mm512_add_epi32(at, _mm512_set1_epi32(16));
    }
    return n;
}

void sp_attn_vnni_init(sp_kern *k)
{
    k->attn_prep = attn_prep;
    k->attn_planes = attn_planes;
    k->attn_scan = attn_scan;
    k->attn_rows = attn_rows;
    k->attn_pick = attn_pick;
}
