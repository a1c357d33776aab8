/* kern/attn_tile.h in registers of 256 bits, by vpmaddubsw or by vpdpbusd of AVX-VNNI.
 *
 * vpmaddubsw adds pairs of products in 16 bits, which 8-bit codes would overflow. So codes stay in
 * nibbles, 0 to 15, and each plane has a sum of its own: eight products fit 16 bits. vpdpbusd adds
 * in 32 bits and takes the same layout:
 *   keys    u8 [4 groups of 8 tokens][d / 8][hi low, hi high, lo low, lo high][8 tokens][4]
 *   values  u8 [d / 8][low, high][hi, lo][4][2 halves of 16 tokens][4 dimensions][4 tokens]
 * hi and lo are planes; low and high are nibbles, of dimensions below d / 2 and above. */
#include "kern/x86/avx2.h"

typedef __m256i vw;
#include "kern/attn_query.h"

#define KEYS_BYTES(d) (64 * (d))
#define VALUES_BYTES(d) (64 * (d))

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

/* plane: 0 the hi plane, 1 the lo plane. */
INLINE void lay_plane(uint8_t *to, size_t plane, const uint8_t *const row[TOK], size_t d)
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

INLINE void lay_values(uint8_t *to, const uint8_t *const hi[TOK], const uint8_t *const *lo,
                       size_t d)
{
    lay_plane(to, 0, hi, d);
    if (lo)
        lay_plane(to, 1, lo, d);
}

/* --- T queries -------------------------------------------------------------------------------- */

INLINE void dot_keys(vs *dot, const uint8_t *k, size_t h, const int8_t *prep, size_t d,
                     const size_t T, const bool has_hi, const bool has_lo)
{
    k += h * d * 16;
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

INLINE vw weights_of(const vs w[GROUPS])
{
    const __m256i order = _mm256_set_epi32(7, 3, 6, 2, 5, 1, 4, 0);
    __m256i bytes =
        _mm256_packus_epi16(_mm256_packus_epi32(w[0], w[1]), _mm256_packus_epi32(w[2], w[3]));
    return _mm256_permutevar8x32_epi32(bytes, order);
}

INLINE vf vf_none_below(vf x, size_t n)
{
    const vs lane = _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0);
    vs off = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), lane);
    return _mm256_blendv_ps(x, vf_set1(-__builtin_inff()), _mm256_castsi256_ps(off));
}

INLINE vf vf_or_none(vf x, vf raw)
{
    return _mm256_blendv_ps(x, raw, _mm256_cmp_ps(raw, vf_set1(-__builtin_inff()), _CMP_EQ_OQ));
}

/* --- certified attention ---------------------------------------------------------------------- */

/* 8 rows of 8 floats, ld apart, to columns SP_PART_PAGES apart. */
static void turn_8(float *out, const float *in, size_t ld)
{
    vf a[8], b[8];
    UNROLL
    for (size_t i = 0; i < 8; i++)
        a[i] = vf_load(in + i * ld);
    UNROLL
    for (size_t i = 0; i < 8; i += 2) {
        b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]);
        b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
    }
    UNROLL
    for (size_t i = 0; i < 8; i += 4) {
        a[i] = _mm256_shuffle_ps(b[i], b[i + 2], 0x44);
        a[i + 1] = _mm256_shuffle_ps(b[i], b[i + 2], 0xee);
        a[i + 2] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0x44);
        a[i + 3] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0xee);
    }
    UNROLL
    for (size_t i = 0; i < 4; i++) {
        vf_put(out + i * SP_PART_PAGES, _mm256_permute2f128_ps(a[i], a[i + 4], 0x20));
        vf_put(out + (i + 4) * SP_PART_PAGES, _mm256_permute2f128_ps(a[i], a[i + 4], 0x31));
    }
}

static void turn_part(float *out, const float *in)
{
    for (size_t j = 0; j < TOK; j += 8) {
        for (size_t g = 0; g < SP_PART_PAGES; g += 8)
            turn_8(out + j * SP_PART_PAGES + g, in + g * TOK + j, TOK);
    }
}

#include "kern/attn_tile.h"
