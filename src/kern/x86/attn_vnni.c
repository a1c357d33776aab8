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

enum { TOK = SP_PAGE_TOK, LANES = 16, FEW = 8, AHEAD = 2 };

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

INLINE __m512i load_lo(const uint8_t *lo, size_t at)
{
    return lo ? _mm512_loadu_si512(lo + at) : _mm512_setzero_si512();
}

/* Scores to weights of one query over 32 tokens; returns the page's maximum and mass, and the value
 * scale of the weights. wsum: the weights' sum. */
INLINE void few_weights(uint8_t w[TOK], float *max, float *mass, float *scale, float *wsum, __m512 s0, __m512 s1,
                        __m512 v0, __m512 v1)
{
    float top = _mm512_reduce_max_ps(_mm512_max_ps(s0, s1));
    __m512 m = _mm512_set1_ps(top), unit = _mm512_set1_ps(MASS_UNIT);
    __m512 p0 = exp2_512(_mm512_sub_ps(s0, m)), p1 = exp2_512(_mm512_sub_ps(s1, m));
    __m512i n = _mm512_add_epi32(_mm512_cvtps_epi32(_mm512_mul_ps(p0, unit)), _mm512_cvtps_epi32(_mm512_mul_ps(p1, unit)));
    p0 = _mm512_mul_ps(p0, v0);
    p1 = _mm512_mul_ps(p1, v1);
    float most = _mm512_reduce_max_ps(_mm512_max_ps(p0, p1));
    __m512 inv = _mm512_set1_ps(most > 0 ? 255.0f / most : 0);
    __m512i w0 = _mm512_cvtps_epi32(_mm512_mul_ps(p0, inv)), w1 = _mm512_cvtps_epi32(_mm512_mul_ps(p1, inv));
    _mm_storeu_si128((__m128i *)(void *)w, _mm512_cvtusepi32_epi8(w0));
    _mm_storeu_si128((__m128i *)(void *)(w + 16), _mm512_cvtusepi32_epi8(w1));
    *max = top;
    *mass = (float)_mm512_reduce_add_epi32(n) * (1.0f / MASS_UNIT);
    *scale = most * (1.0f / 255.0f);
    *wsum = (float)_mm512_reduce_add_epi32(_mm512_add_epi32(w0, w1)) * LO_MEAN;
}

/* T queries over one page: tokens in the lanes for keys, dimensions for values. */
INLINE void few_page(float *acc, float *max, float *sum, const int8_t *prep, const sp_planes *g, size_t d, const size_t T)
{
    const size_t step = few_bytes(d);
    __m512i dot[4][2];
    float scale[4], wsum[4], keep[4];
    uint8_t w[4][TOK];
    UNROLL
    for (size_t t = 0; t < T; t++) {
        const float *f = (const float *)(const void *)(prep + t * step + d);
        dot[t][0] = dot[t][1] = _mm512_set1_epi32(-128 * (int)f[d + 1]);
    }
    for (size_t i = 0; i < d / 8; i++) {
        UNROLL
        for (size_t h = 0; h < 2; h++) {
            __m512i hi = _mm512_loadu_si512(g->k_hi + i * 128 + h * 64), lo = load_lo(g->k_lo, i * 128 + h * 64);
            __m512i a = low_codes(hi, lo), b = high_codes(hi, lo);
            UNROLL
            for (size_t t = 0; t < T; t++) {
                const int8_t *q = prep + t * step + 4 * i;
                dot[t][h] = dot512(dot[t][h], a, q);
                dot[t][h] = dot512(dot[t][h], b, q + d / 2);
            }
        }
    }
    __m512 ks0 = vf_half((const uint8_t *)g->k_scale), ks1 = vf_half((const uint8_t *)(g->k_scale + 16));
    __m512 vs0 = vf_half((const uint8_t *)g->v_scale), vs1 = vf_half((const uint8_t *)(g->v_scale + 16));
    UNROLL
    for (size_t t = 0; t < T; t++) {
        const float *f = (const float *)(const void *)(prep + t * step + d);
        __m512 part = _mm512_setzero_ps();
        for (size_t i = 0; i < d; i += 16)
            part = _mm512_fmadd_ps(_mm512_loadu_ps(f + i), vf_half((const uint8_t *)(g->k_mean + i)), part);
        __m512 mean = _mm512_set1_ps(sum512(part)), qs = _mm512_set1_ps(f[d]);
        __m512 s0 = _mm512_cvtepi32_ps(dot[t][0]), s1 = _mm512_cvtepi32_ps(dot[t][1]);
        if (!g->k_lo) {
            s0 = _mm512_add_ps(s0, _mm512_set1_ps(f[d + 1] * LO_MEAN));
            s1 = _mm512_add_ps(s1, _mm512_set1_ps(f[d + 1] * LO_MEAN));
        }
        s0 = _mm512_fmadd_ps(_mm512_mul_ps(s0, ks0), qs, mean);
        s1 = _mm512_fmadd_ps(_mm512_mul_ps(s1, ks1), qs, mean);
        float page_max, mass;
        few_weights(w[t], &page_max, &mass, &scale[t], &wsum[t], s0, s1, vs0, vs1);
        float top = max[t] > page_max ? max[t] : page_max;
        __m512 e = exp2_512(_mm512_sub_ps(_mm512_mask_mov_ps(_mm512_set1_ps(page_max), 1, _mm512_set1_ps(max[t])),
                                          _mm512_set1_ps(top)));
        float pair[16];
        _mm512_storeu_ps(pair, e); /* 2^(old maximum - top), 2^(page's - top) */
        keep[t] = pair[0];
        max[t] = top;
        sum[t] = __builtin_fmaf(mass, pair[1], sum[t] * keep[t]);
        scale[t] *= pair[1];
    }
    const __m512i flip = _mm512_set1_epi8((char)0x80);
    for (size_t i = 0; i < d; i += 16) {
        __m512i o[4];
        UNROLL
        for (size_t t = 0; t < T; t++)
            o[t] = _mm512_setzero_si512();
        UNROLL
        for (size_t u = 0; u < 4; u++) {
            size_t at = (u * d + i) * 4;
            __m512i hi = _mm512_loadu_si512(g->v_hi + at), lo = load_lo(g->v_lo, at);
            __m512i a = _mm512_xor_si512(low_codes(hi, lo), flip), b = _mm512_xor_si512(high_codes(hi, lo), flip);
            UNROLL
            for (size_t t = 0; t < T; t++) {
                o[t] = _mm512_dpbusd_epi32(o[t], quad512((const int8_t *)w[t] + 4 * u), a);
                o[t] = _mm512_dpbusd_epi32(o[t], quad512((const int8_t *)w[t] + 4 * u + 16), b);
            }
        }
        UNROLL
        for (size_t t = 0; t < T; t++) {
            __m512 v = _mm512_cvtepi32_ps(o[t]), old = _mm512_loadu_ps(acc + t * d + i);
            if (!g->v_lo)
                v = _mm512_add_ps(v, _mm512_set1_ps(wsum[t]));
            old = _mm512_mul_ps(old, _mm512_set1_ps(keep[t]));
            _mm512_storeu_ps(acc + t * d + i, _mm512_fmadd_ps(v, _mm512_set1_ps(scale[t]), old));
        }
    }
}

/* A page as bytes: k s8 [d/4][32][4], v s8 [8][d][4], sum of each key's codes, scales and mean in f32. */
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
    for (size_t i = 0; i < d / 8; i++) {
        for (size_t h = 0; h < 2; h++) {
            size_t at = i * 128 + h * 64;
            __m512i hi = _mm512_loadu_si512(g->k_hi + at), lo = load_lo(g->k_lo, at);
            __m512i a = _mm512_xor_si512(low_codes(hi, lo), flip), b = _mm512_xor_si512(high_codes(hi, lo), flip);
            sum[h] = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(sum[h], one, a), one, b);
            _mm512_storeu_si512(p->k + at, a);
            _mm512_storeu_si512(p->k + d * 16 + at, b);
        }
    }
    for (size_t at = 0; at < 16 * d; at += 64) {
        __m512i hi = _mm512_loadu_si512(g->v_hi + at), lo = load_lo(g->v_lo, at);
        _mm512_storeu_si512(p->v + at, _mm512_xor_si512(low_codes(hi, lo), flip));
        _mm512_storeu_si512(p->v + 16 * d + at, _mm512_xor_si512(high_codes(hi, lo), flip));
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

/* 16 queries over one page. acc [d][16], max and sum [16]. */
static void many_page(float *acc, float *max, float *sum, const uint8_t *prep, const wide *p, size_t d)
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
            part[l] = _mm512_fmadd_ps(_mm512_loadu_ps(f + (i + l) * LANES), _mm512_set1_ps(p->mean[i + l]), part[l]);
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
    __m512i mass = _mm512_setzero_si512(), wsum = mass, w[TOK / 4];
    __m512 most = _mm512_setzero_ps();
    for (size_t j = 0; j < TOK; j++) {
        __m512 e = exp2_512(_mm512_sub_ps(score[j], top));
        mass = _mm512_add_epi32(mass, _mm512_cvtps_epi32(_mm512_mul_ps(e, _mm512_set1_ps(MASS_UNIT))));
        score[j] = _mm512_mul_ps(e, _mm512_set1_ps(p->vs[j]));
        most = _mm512_max_ps(most, score[j]);
    }
    __mmask16 any = _mm512_cmp_ps_mask(most, _mm512_setzero_ps(), _CMP_GT_OQ);
    __m512 inv = _mm512_maskz_div_ps(any, _mm512_set1_ps(255.0f), most);
    UNROLL
    for (size_t u = 0; u < TOK / 4; u++) {
        __m512i word = _mm512_setzero_si512();
        UNROLL
        for (size_t j = 0; j < 4; j++) {
            __m512i c = _mm512_cvtps_epi32(_mm512_mul_ps(score[4 * u + j], inv));
            wsum = _mm512_add_epi32(wsum, c);
            word = _mm512_or_si512(word, _mm512_slli_epi32(c, (unsigned)(8 * j)));
        }
        w[u] = word;
    }
    __m512 old = _mm512_loadu_ps(max), now = _mm512_max_ps(old, top);
    __m512 keep = exp2_512(_mm512_sub_ps(old, now)), add = exp2_512(_mm512_sub_ps(top, now));
    __m512 page_mass = _mm512_mul_ps(_mm512_cvtepi32_ps(mass), _mm512_set1_ps(1.0f / MASS_UNIT));
    _mm512_storeu_ps(max, now);
    _mm512_storeu_ps(sum, _mm512_fmadd_ps(page_mass, add, _mm512_mul_ps(_mm512_loadu_ps(sum), keep)));
    __m512 scale = _mm512_mul_ps(_mm512_mul_ps(most, _mm512_set1_ps(1.0f / 255.0f)), add);
    __m512 shift = _mm512_mul_ps(_mm512_cvtepi32_ps(wsum), _mm512_set1_ps(LO_MEAN));
    for (size_t i = 0; i < d; i += 4) {
        __m512i o[4];
        UNROLL
        for (size_t e = 0; e < 4; e++)
            o[e] = _mm512_setzero_si512();
        UNROLL
        for (size_t u = 0; u < TOK / 4; u++) {
            UNROLL
            for (size_t e = 0; e < 4; e++)
                o[e] = dot512(o[e], w[u], p->v + (u * d + i + e) * 4);
        }
        UNROLL
        for (size_t e = 0; e < 4; e++) {
            __m512 v = _mm512_cvtepi32_ps(o[e]), was = _mm512_mul_ps(_mm512_loadu_ps(acc + (i + e) * LANES), keep);
            if (!p->lo)
                v = _mm512_add_ps(v, shift);
            _mm512_storeu_ps(acc + (i + e) * LANES, _mm512_fmadd_ps(v, scale, was));
        }
    }
}

/* Pages lie far apart, and each is too short for the hardware to see a stream: ask for it early. */
static void fetch_page(const sp_planes *g, size_t d)
{
    for (size_t at = 0; at < sp_planes_hi_bytes(d); at += 64)
        _mm_prefetch((const char *)g->k_hi + at, _MM_HINT_T0);
    for (size_t at = 0; g->k_lo && at < sp_planes_lo_bytes(d); at += 64)
        _mm_prefetch((const char *)g->k_lo + at, _MM_HINT_T0);
}

static void attn_planes(float *acc, float *max, float *sum, const void *prep, const sp_planes *page,
                        size_t n_page, size_t n_q, size_t d, void *scratch)
{
    for (size_t t = 0; t < n_q; t++) {
        max[t] = -__builtin_inff();
        sum[t] = 0;
    }
    memset(acc, 0, n_q * d * sizeof *acc);
    if (n_q <= FEW) {
        for (size_t g = 0; g < n_page && g < AHEAD; g++)
            fetch_page(&page[g], d);
        for (size_t g = 0; g < n_page; g++) {
            size_t t = 0;
            if (g + AHEAD < n_page)
                fetch_page(&page[g + AHEAD], d);
            for (; t + 4 <= n_q; t += 4)
                few_page(acc + t * d, max + t, sum + t, (const int8_t *)prep + t * few_bytes(d), &page[g], d, 4);
            const int8_t *rest = (const int8_t *)prep + t * few_bytes(d);
            if (n_q - t == 3)
                few_page(acc + t * d, max + t, sum + t, rest, &page[g], d, 3);
            else if (n_q - t == 2)
                few_page(acc + t * d, max + t, sum + t, rest, &page[g], d, 2);
            else if (n_q - t == 1)
                few_page(acc + t * d, max + t, sum + t, rest, &page[g], d, 1);
        }
        return;
    }
    /* All groups of 16 see a page while its bytes are in L1. State [d][16] of every group in scratch. */
    wide p = {.k = scratch, .v = (int8_t *)scratch + 32 * d, .mean = (float *)(void *)((char *)scratch + 64 * d)};
    float *state = p.mean + d;
    size_t n_group = (n_q + LANES - 1) / LANES, step = LANES * d + 2 * LANES;
    memset(state, 0, n_group * step * sizeof *state);
    for (size_t i = 0; i < n_group; i++)
        _mm512_storeu_ps(state + i * step + LANES * d, _mm512_set1_ps(-__builtin_inff()));
    for (size_t g = 0; g < n_page; g++) {
        widen_page(&p, &page[g], d);
        for (size_t i = 0; i < n_group; i++) {
            float *s = state + i * step;
            many_page(s, s + LANES * d, s + LANES * d + LANES, (const uint8_t *)prep + i * LANES * few_bytes(d), &p, d);
        }
    }
    for (size_t t = 0; t < n_q; t++) {
        const float *s = state + t / LANES * step;
        for (size_t i = 0; i < d; i++)
            acc[t * d + i] = s[i * LANES + t % LANES];
        max[t] = s[LANES * d + t % LANES];
        sum[t] = s[LANES * d + LANES + t % LANES];
    }
}

void sp_attn_vnni_init(sp_kern *k)
{
    k->attn_prep = attn_prep;
    k->attn_planes = attn_planes;
}
