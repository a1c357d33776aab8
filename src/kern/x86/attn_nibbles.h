/* Attention over quantised pages in registers of 256 bits: the arithmetic of attn_vnni.c, by
 * vpmaddubsw or by vpdpbusd of AVX-VNNI. Queries and weights are rounded to 8 bits, sums are exact
 * integers, and a query's result depends on nothing but the query and the pages.
 *
 * vpmaddubsw adds pairs of products in 16 bits, which 8-bit codes would overflow. So codes stay in
 * nibbles, 0 to 15, and each plane has a sum of its own: eight products fit 16 bits. vpdpbusd adds
 * in 32 bits and takes the same layout. A page
 * is laid out once for all queries of a call, then up to four queries at a time read it:
 *   keys    u8 [4 groups of 8 tokens][d / 8][hi low, hi high, lo low, lo high][8 tokens][4]
 *   values  u8 [d / 8][low, high][hi, lo][4][2 halves of 16 tokens][4 dimensions][4 tokens]
 *   mean    f32 [d]
 * hi and lo are planes; low and high are nibbles, of dimensions below d / 2 and above. */
#include "kern/x86/avx2.h"

#include "kern/cap_tile.h"
#include "kern/scan_rank.h"

enum {
    TOK = SP_PAGE_TOK,
    GROUP = 8, /* tokens whose scores share a register */
    GROUPS = TOK / GROUP,
    MOST_T = 4, /* queries that read a page together */
    AHEAD = 2,
    SCAN_AHEAD = 4
};

#define MASS_UNIT 4194304.0f /* 2^22: 32 of them fit an int32 */
#define LO_MEAN 7.5f         /* what a dropped lo plane reads as */

/* --- queries ---------------------------------------------------------------------------------- */

/* A prepared query: q s8 [d], f f32 [d], scale and sum of q f32. */
static size_t query_bytes(size_t d)
{
    return 5 * d + 64;
}

static void attn_prep(void *prep, const float *q, size_t n_q, size_t d)
{
    for (size_t t = 0; t < n_q; t++) {
        int8_t *to = (int8_t *)prep + t * query_bytes(d);
        float *f = (float *)(void *)(to + d);
        const float *x = q + t * d;
        vf top = vf_zero();
        vs total = vs_zero();
        for (size_t i = 0; i < d; i += VR)
            top = vf_absmax(top, vf_load(x + i));
        float most = vf_hmax(top), inv = most > 0 ? 127.0f / most : 0;
        for (size_t i = 0; i < d; i += VR) {
            vs v = vs_round(vf_mul1(vf_load(x + i), inv));
            total = vs_add(total, v);
            vs_put8(to + i, v);
        }
        memcpy(f, x, d * sizeof *f);
        f[d] = most / 127.0f;
        f[d + 1] = (float)vs_sum(total);
    }
}

/* The floats of prepared query t: f, scale and sum. */
INLINE const float *floats_of(const int8_t *prep, size_t t, size_t d)
{
    return (const float *)(const void *)(prep + t * query_bytes(d) + d);
}

/* Adds products of bytes u and s, one side of which are nibbles: in 16 bits, which hold eight
 * products, or in 32. nibbles_hi and nibbles_lo: what such sums add to a sum of codes. */
INLINE __m256i nibbles_add(__m256i a, __m256i u, __m256i s)
{
#if HAS_DPBUSD
    return dot256(a, u, s);
#else
    return _mm256_add_epi16(a, _mm256_maddubs_epi16(u, s));
#endif
}
INLINE __m256i nibbles_hi(__m256i a)
{
    return HAS_DPBUSD ? _mm256_slli_epi32(a, 4) : _mm256_madd_epi16(a, _mm256_set1_epi16(16));
}
INLINE __m256i nibbles_lo(__m256i a)
{
    return HAS_DPBUSD ? a : _mm256_madd_epi16(a, _mm256_set1_epi16(1));
}

/* --- laying out a page ------------------------------------------------------------------------ */

INLINE __m256i two_rows(const uint8_t *a, const uint8_t *b, size_t n)
{ /* 16 bytes of each, or the 8 that are left */
    const __m128i *pa = (const __m128i *)(const void *)a, *pb = (const __m128i *)(const void *)b;
    return n < 16 ? _mm256_set_m128i(_mm_loadl_epi64(pb), _mm_loadl_epi64(pa))
                  : _mm256_set_m128i(_mm_loadu_si128(pb), _mm_loadu_si128(pa));
}

INLINE void put_nibbles(uint8_t *low, uint8_t *high, __m256i v)
{
    const __m256i mask = _mm256_set1_epi8(15);
    vs_store(low, _mm256_and_si256(v, mask));
    vs_store(high, _mm256_and_si256(_mm256_srli_epi16(v, 4), mask));
}

/* Four words (two where n = 8 bytes are left) of each of 8 rows, turned: word i of row j to lane j
 * of out[i]. */
INLINE void turn_words(__m256i out[4], const uint8_t *const row[GROUP], size_t at, size_t n)
{
    __m256i z[4], t[4];
    UNROLL
    for (size_t m = 0; m < 4; m++)
        z[m] = two_rows(row[m] + at, row[4 + m] + at, n);
    t[0] = _mm256_unpacklo_epi32(z[0], z[1]);
    t[1] = _mm256_unpackhi_epi32(z[0], z[1]);
    t[2] = _mm256_unpacklo_epi32(z[2], z[3]);
    t[3] = _mm256_unpackhi_epi32(z[2], z[3]);
    out[0] = _mm256_unpacklo_epi64(t[0], t[2]);
    out[1] = _mm256_unpackhi_epi64(t[0], t[2]);
    out[2] = _mm256_unpacklo_epi64(t[1], t[3]);
    out[3] = _mm256_unpackhi_epi64(t[1], t[3]);
}

/* hi NULL: no hi plane. lo: the rows of 32 tokens; NULL: no lo plane. */
INLINE void lay_keys(uint8_t *to, const uint8_t *hi, const uint8_t *const *lo, size_t d)
{
    for (size_t h = 0; h < GROUPS; h++, to += d * 16) {
        for (size_t i = 0; hi && i < d / 8; i++)
            put_nibbles(to + i * 128, to + i * 128 + 32, vs_load(hi + i * 128 + h * 32));
        for (size_t c = 0; lo && c < d / 8; c += 4) {
            size_t left = d / 2 - 4 * c;
            __m256i word[4];
            turn_words(word, lo + h * GROUP, 4 * c, left);
            UNROLL
            for (size_t x = 0; x < 4; x++) {
                if (x < 2 || left >= 16)
                    put_nibbles(to + (c + x) * 128 + 64, to + (c + x) * 128 + 96, word[x]);
            }
        }
    }
}

/* plane: 0 the hi plane, 1 the lo plane; row: of 32 tokens. */
INLINE void lay_values(uint8_t *to, size_t plane, const uint8_t *const row[TOK], size_t d)
{
    for (size_t c = 0; c < d / 2; c += 16) {
        size_t left = d / 2 - c;
        for (size_t u = 0; u < 4; u++) {
            __m256i r[4], t[4], o[4];
            UNROLL
            for (size_t j = 0; j < 4; j++)
                r[j] = two_rows(row[4 * u + j] + c, row[16 + 4 * u + j] + c, left);
            t[0] = _mm256_unpacklo_epi8(r[0], r[1]);
            t[1] = _mm256_unpackhi_epi8(r[0], r[1]);
            t[2] = _mm256_unpacklo_epi8(r[2], r[3]);
            t[3] = _mm256_unpackhi_epi8(r[2], r[3]);
            o[0] = _mm256_unpacklo_epi16(t[0], t[2]);
            o[1] = _mm256_unpackhi_epi16(t[0], t[2]);
            o[2] = _mm256_unpacklo_epi16(t[1], t[3]);
            o[3] = _mm256_unpackhi_epi16(t[1], t[3]);
            UNROLL
            for (size_t v = 0; v < 4; v++) {
                uint8_t *at = to + (c / 4 + v) * 512 + plane * 128 + u * 32;
                if (v < 2 || left >= 16)
                    put_nibbles(at, at + 256, o[v]);
            }
        }
    }
}

typedef struct laid {
    uint8_t *k, *v; /* 64 d bytes each */
    float *mean;
    float ks[TOK], vs[TOK];
    bool has_lo;
} laid;

static laid laid_at(void *scratch, size_t d)
{
    uint8_t *p = scratch;
    return (laid){.k = p, .v = p + 64 * d, .mean = (float *)(void *)(p + 128 * d)};
}

/* The keys' mean and scales. */
static void lay_scales(laid *p, const sp_planes *g, size_t d)
{
    for (size_t i = 0; i < d; i += VR)
        vf_put(p->mean + i, vf_half((const uint8_t *)(g->k_mean + i)));
    for (size_t j = 0; j < TOK; j += VR)
        vf_put(p->ks + j, vf_half((const uint8_t *)(g->k_scale + j)));
}

static void lay_page(laid *p, const sp_planes *g, size_t d)
{
    const uint8_t *v_hi[TOK], *k_lo[TOK], *v_lo[TOK];
    for (size_t j = 0; j < TOK; j++) {
        v_hi[j] = g->v_hi + j * (d / 2);
        k_lo[j] = g->k_lo ? g->k_lo + j * d : NULL;
        v_lo[j] = g->k_lo ? g->v_lo + j * d : NULL;
    }
    p->has_lo = g->k_lo != NULL;
    lay_keys(p->k, g->k_hi, p->has_lo ? k_lo : NULL, d);
    lay_values(p->v, 0, v_hi, d);
    if (p->has_lo)
        lay_values(p->v, 1, v_lo, d);
    lay_scales(p, g, d);
    for (size_t j = 0; j < TOK; j += VR)
        vf_put(p->vs + j, vf_half((const uint8_t *)(g->v_scale + j)));
}

/* --- T queries -------------------------------------------------------------------------------- */

/* Products of T queries with the codes of 8 tokens: those of the planes that are there. k: of the
 * group's layout. */
INLINE void dot_keys(__m256i *dot, const uint8_t *k, const int8_t *prep, size_t d, const size_t T,
                     const bool has_hi, const bool has_lo)
{
    UNROLL
    for (size_t t = 0; t < T; t++)
        dot[t] = _mm256_setzero_si256();
    for (size_t c = 0; c < d / 8; c += 4) {
        __m256i hi[MOST_T], lo[MOST_T];
        UNROLL
        for (size_t t = 0; t < T; t++)
            hi[t] = lo[t] = _mm256_setzero_si256();
        UNROLL
        for (size_t x = 0; x < 4; x++) {
            const uint8_t *at = k + (c + x) * 128;
            if (x >= 2 && c + x >= d / 8)
                continue;
            UNROLL
            for (size_t t = 0; t < T; t++) {
                const int8_t *q = prep + t * query_bytes(d) + 4 * (c + x);
                __m256i a = quad256(q), b = quad256(q + d / 2);
                if (has_hi) {
                    hi[t] = nibbles_add(hi[t], vs_load(at), a);
                    hi[t] = nibbles_add(hi[t], vs_load(at + 32), b);
                }
                if (has_lo) {
                    lo[t] = nibbles_add(lo[t], vs_load(at + 64), a);
                    lo[t] = nibbles_add(lo[t], vs_load(at + 96), b);
                }
            }
        }
        UNROLL
        for (size_t t = 0; t < T; t++) {
            if (has_hi)
                dot[t] = _mm256_add_epi32(dot[t], nibbles_hi(hi[t]));
            if (has_lo)
                dot[t] = _mm256_add_epi32(dot[t], nibbles_lo(lo[t]));
        }
    }
}

/* What a query weighs 32 tokens with: weights as bytes, and acc = acc * keep + sum * scale. */
typedef struct weights {
    __m256i w;
    float keep, scale;
    int32_t sum;
} weights;

/* Keys of lower score than `least` weigh nothing; their weights are added to *drop. */
typedef struct cutting {
    const float *least;
    float *drop;
} cutting;

/* Joins 32 scores to the state of query t; -INFINITY weighs nothing, and one is larger. */
INLINE void join(weights *out, float *max, float *sum, const vf s[GROUPS], const float *vs_,
                 const cutting *cut, size_t t)
{
    const __m256i order = _mm256_set_epi32(7, 3, 6, 2, 5, 1, 4, 0);
    float here = vf_hmax(vf_max(vf_max(s[0], s[1]), vf_max(s[2], s[3])));
    vf p[GROUPS], most = vf_zero(), lost = vf_zero();
    vs mass = vs_zero(), w[GROUPS];
    UNROLL
    for (size_t h = 0; h < GROUPS; h++) {
        p[h] = vf_exp2(vf_sub(s[h], vf_set1(here)));
        if (cut) {
            vf off = vf_below(p[h], s[h], vf_set1(cut->least[t]));
            lost = vf_add(lost, off);
            p[h] = vf_sub(p[h], off);
        }
        mass = vs_add(mass, vs_round(vf_mul1(p[h], MASS_UNIT)));
        p[h] = vf_mul(p[h], vf_load(vs_ + h * GROUP));
        most = vf_max(most, p[h]);
    }
    float largest = vf_hmax(most), inv = largest > 0 ? 255.0f / largest : 0;
    vs total = vs_zero();
    UNROLL
    for (size_t h = 0; h < GROUPS; h++) {
        w[h] = vs_round(vf_mul1(p[h], inv));
        total = vs_add(total, w[h]);
    }
    __m256i bytes =
        _mm256_packus_epi16(_mm256_packus_epi32(w[0], w[1]), _mm256_packus_epi32(w[2], w[3]));
    float top = *max > here ? *max : here, pair[VR] = {*max - top, here - top};
    vf_put(pair, vf_exp2(vf_load(pair))); /* 2^(old maximum - top), 2^(theirs - top) */
    *out = (weights){.w = _mm256_permutevar8x32_epi32(bytes, order),
                     .keep = pair[0],
                     .scale = largest * (1.0f / 255.0f) * pair[1],
                     .sum = vs_sum(total)};
    *max = top;
    if (cut)
        cut->drop[t] = __builtin_fmaf(vf_sum(lost), pair[1], cut->drop[t] * pair[0]);
    *sum = __builtin_fmaf((float)vs_sum(mass) * (1.0f / MASS_UNIT), pair[1], *sum * pair[0]);
}

/* Adds the values that v holds to T accumulators, of the n_use quarters of the tokens in use;
 * NULL: all. */
INLINE void add_values(float *acc, const weights *to, const uint8_t *v, size_t d,
                       const uint8_t *use, size_t n_use, const size_t T, const bool has_lo)
{
    __m256i w[MOST_T][4];
    UNROLL
    for (size_t t = 0; t < T; t++) {
        w[t][0] = _mm256_shuffle_epi32(to[t].w, 0x00);
        w[t][1] = _mm256_shuffle_epi32(to[t].w, 0x55);
        w[t][2] = _mm256_shuffle_epi32(to[t].w, 0xaa);
        w[t][3] = _mm256_shuffle_epi32(to[t].w, 0xff);
    }
    for (size_t i = 0; i < d / 4; i++) { /* four dimensions of a nibble */
        const uint8_t *at = v + i * 256;
        float *o = acc + (i % 2 ? d / 2 : 0) + i / 2 * 4;
        __m256i hi[MOST_T], lo[MOST_T];
        UNROLL
        for (size_t t = 0; t < T; t++)
            hi[t] = lo[t] = _mm256_setzero_si256();
        UNROLL
        for (size_t k = 0; k < 4; k++) {
            size_t u = use ? use[k] : k;
            if (use && k == n_use)
                break;
            UNROLL
            for (size_t t = 0; t < T; t++) {
                hi[t] = nibbles_add(hi[t], w[t][u], vs_load(at + 32 * u));
                if (has_lo)
                    lo[t] = nibbles_add(lo[t], w[t][u], vs_load(at + 128 + 32 * u));
            }
        }
        UNROLL
        for (size_t t = 0; t < T; t++) {
            __m256i x = nibbles_hi(hi[t]);
            if (has_lo)
                x = _mm256_add_epi32(x, nibbles_lo(lo[t]));
            __m128i y = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
            y = _mm_sub_epi32(y, _mm_set1_epi32(128 * to[t].sum));
            __m128 f = _mm_cvtepi32_ps(y), old = _mm_loadu_ps(o + t * d);
            if (!has_lo)
                f = _mm_add_ps(f, _mm_set1_ps((float)to[t].sum * LO_MEAN));
            old = _mm_mul_ps(old, _mm_set1_ps(to[t].keep));
            _mm_storeu_ps(o + t * d, _mm_fmadd_ps(f, _mm_set1_ps(to[t].scale), old));
        }
    }
}

INLINE float query_mean(const float *f, const float *mean, size_t d)
{
    vf part = vf_zero();
    for (size_t i = 0; i < d; i += VR)
        part = vf_fma(vf_load(f + i), vf_load(mean + i), part);
    return vf_sum(part);
}

/* Which tokens 4 u to 4 u + 3 and 16 further weigh anything to any of T queries. */
INLINE size_t used(uint8_t use[4], const weights *to, const size_t T)
{
    __m256i any = to[0].w;
    UNROLL
    for (size_t t = 1; t < T; t++)
        any = _mm256_or_si256(any, to[t].w);
    __m128i both = _mm_or_si128(_mm256_castsi256_si128(any), _mm256_extracti128_si256(any, 1));
    both = _mm_cmpeq_epi32(both, _mm_setzero_si128());
    int none = _mm_movemask_ps(_mm_castsi128_ps(both));
    size_t n = 0;
    for (size_t u = 0; u < 4; u++) {
        use[n] = (uint8_t)u;
        n += !(none >> u & 1);
    }
    return n;
}

/* T queries over one page. Keys before `from`, at most 31, are not seen. Returns how many quarters
 * of the values were read. */
INLINE size_t page_of(float *acc, float *max, float *sum, const cutting *cut, const int8_t *prep,
                      const laid *p, size_t d, size_t from, float cap, const size_t T,
                      const bool has_lo)
{
    vf s[MOST_T][GROUPS];
    weights to[MOST_T];
    float mean[MOST_T];
    const vs lane = _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0);
    for (size_t t = 0; t < T; t++)
        mean[t] = query_mean(floats_of(prep, t, d), p->mean, d);
    for (size_t h = 0; h < GROUPS; h++) {
        __m256i dot[MOST_T];
        vf ks = vf_load(p->ks + h * GROUP);
        dot_keys(dot, p->k + h * d * 16, prep, d, T, true, has_lo);
        UNROLL
        for (size_t t = 0; t < T; t++) {
            const float *f = floats_of(prep, t, d);
            vf x = vf_cvt(vs_addi(dot[t], -128 * (int)f[d + 1]));
            if (!has_lo)
                x = vf_add(x, vf_set1(f[d + 1] * LO_MEAN));
            x = vf_fma(vf_mul(x, ks), vf_set1(f[d]), vf_set1(mean[t]));
            if (cap > 0)
                x = vf_cap(x, cap);
            if (from) {
                vs off = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)from - (int)(h * GROUP)), lane);
                x = _mm256_blendv_ps(x, vf_set1(-__builtin_inff()), _mm256_castsi256_ps(off));
            }
            s[t][h] = x;
        }
    }
    UNROLL
    for (size_t t = 0; t < T; t++)
        join(&to[t], &max[t], &sum[t], s[t], p->vs, cut, t);
    uint8_t use[4];
    size_t n_use = cut ? used(use, to, T) : 4;
    add_values(acc, to, p->v, d, cut ? use : NULL, n_use, T, has_lo);
    return n_use;
}

#define PAGE_OF(cut, T)                                                      \
    (p->has_lo ? page_of(acc, max, sum, cut, prep, p, d, from, cap, T, true) \
               : page_of(acc, max, sum, cut, prep, p, d, from, cap, T, false))

static __attribute__((noinline)) size_t page_cut(float *acc, float *max, float *sum,
                                                 const cutting *cut, const int8_t *prep,
                                                 const laid *p, size_t d, size_t n, size_t from,
                                                 float cap)
{
    return n == 4   ? PAGE_OF(cut, 4)
           : n == 3 ? PAGE_OF(cut, 3)
           : n == 2 ? PAGE_OF(cut, 2)
                    : PAGE_OF(cut, 1);
}

static __attribute__((noinline)) size_t page_whole(float *acc, float *max, float *sum,
                                                   const int8_t *prep, const laid *p, size_t d,
                                                   size_t n, size_t from, float cap)
{
    return n == 4   ? PAGE_OF(NULL, 4)
           : n == 3 ? PAGE_OF(NULL, 3)
           : n == 2 ? PAGE_OF(NULL, 2)
                    : PAGE_OF(NULL, 1);
}

/* --- pages ------------------------------------------------------------------------------------ */

/* Pages lie far apart, and each is too short for the hardware to see a stream: ask for it early. */
static void fetch(const void *p, size_t n)
{
    for (size_t at = 0; at < n; at += 64)
        PREFETCH((const char *)p + at);
}

/* What a scan reads: the hi plane of keys, and all that is small. */
static void fetch_keys(const sp_planes *g, size_t d)
{
    fetch(g->k_hi, 16 * d);
    fetch(g->k_scale, sp_planes_hi_used(d) - 32 * d);
}

static void fetch_page(const sp_planes *g, size_t d)
{
    fetch(g->k_hi, sp_planes_hi_bytes(d));
    if (g->k_lo)
        fetch(g->k_lo, sp_planes_lo_bytes(d));
}

/* All queries over a page that is laid out. */
static void each_query(float *acc, float *max, float *sum, const sp_attn_pages *a, const laid *p,
                       size_t g)
{
    const size_t d = a->d, n_q = a->n_q;
    sp_cut *cut = n_q > SP_FEW ? a->cut : NULL;
    bool is_whole = true;
    size_t n_quad = (n_q + 15) / 16 * (TOK / 4), n_seen = 0, n_used = 0;
    for (size_t t = 0; a->see.from && t < n_q; t++)
        is_whole &= a->see.from[t] <= g * TOK;
    for (size_t t = 0, n; t < n_q; t += n) {
        const int8_t *q = (const int8_t *)a->prep + t * query_bytes(d);
        size_t from = is_whole || a->see.from[t] <= g * TOK ? 0 : a->see.from[t] - g * TOK;
        n = !is_whole ? 1 : n_q - t < MOST_T ? n_q - t : MOST_T;
        if (from >= TOK)
            continue;
        if (!cut) {
            page_whole(acc + t * d, max + t, sum + t, q, p, d, n, from, a->see.cap);
            continue;
        }
        const cutting by = {cut->least + t, cut->drop + t};
        n_seen += 4;
        n_used += page_cut(acc + t * d, max + t, sum + t, &by, q, p, d, n, from, a->see.cap);
    }
    if (cut) { /* in the unit of sp_cut */
        cut->n_quad += n_quad;
        cut->n_used += n_seen ? (n_quad * n_used + n_seen - 1) / n_seen : 0;
    }
}

static void attn_planes(float *acc, float *max, float *sum, const sp_attn_pages *a)
{
    const size_t d = a->d;
    laid p = laid_at(a->scratch, d);
    memset(acc, 0, a->n_q * d * sizeof *acc);
    for (size_t t = 0; t < a->n_q; t++) {
        max[t] = -__builtin_inff();
        sum[t] = 0;
        if (a->cut)
            a->cut->drop[t] = 0;
    }
    for (size_t g = 0; g < a->n_page && g < AHEAD; g++)
        fetch_page(&a->page[g], d);
    for (size_t g = 0; g < a->n_page; g++) {
        if (g + AHEAD < a->n_page)
            fetch_page(&a->page[g + AHEAD], d);
        lay_page(&p, &a->page[g], d);
        each_query(acc, max, sum, a, &p, g);
    }
}

#include "kern/x86/attn_nibbles_scan.h"

static void attn_init(sp_kern *k)
{
    k->attn_prep = attn_prep;
    k->attn_planes = attn_planes;
    k->attn_scan = attn_scan;
    k->attn_rows = attn_rows;
}
