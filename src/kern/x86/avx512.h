/* What the two AVX-512 levels share: exp, masks, and the primitives of kern/gemm_tile.h. Included
 * by files compiled with at least -mavx512f -mavx512bw -mavx512dq -mavx512vl; __AVX512VNNI__
 * selects vpdpbusd over its emulation by vpmaddubsw. */
#ifndef SP_KERN_X86_AVX512_H
#define SP_KERN_X86_AVX512_H

#include "kern/kern.h"

#include <immintrin.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define PREFETCH(p) _mm_prefetch((const char *)(p), _MM_HINT_T0)
#define UNROLL _Pragma("GCC unroll 16")

/* 2^x, 0 far below and infinity far above; Cephes exp2f coefficients over [-1/2, 1/2], relative
 * error < 2e-7. */
INLINE __m512 exp2_512(__m512 x)
{
    __m512 n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    /* 0 at infinities */
    __m512 f = _mm512_reduce_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 p = _mm512_set1_ps(1.535336188319500e-4f);
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.339887440266574e-3f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(9.618437357674640e-3f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(5.550332471162809e-2f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.402264791363012e-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.931472028550421e-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, n);
}

/* Sum and maximum of 16 lanes by halves: (l, l + 8), (l, l + 4), ... */
INLINE float sum512(__m512 v)
{
    __m256 a = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}

/* Mask of the first `left` of 16 lanes. */
INLINE __mmask16 first16(size_t left)
{
    return (__mmask16)(left >= 16 ? 0xffffu : (1u << left) - 1);
}

INLINE __m512i quad512(const int8_t *x)
{ /* four codes of a token, to every lane */
    int32_t w;
    memcpy(&w, x, 4);
    return _mm512_set1_epi32(w);
}

#ifdef __AVX512VNNI__
typedef int32_t word_any __attribute__((may_alias, aligned(1)));

/* a += the sum of 4 products of u8 w and the four s8 at x, in each lane. Written out because the
 * compiler loads x by an instruction of its own. */
INLINE __m512i dot512(__m512i a, __m512i w, const void *x)
{
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(a) : "v"(w), "m"(*(const word_any *)x));
    return a;
}
#endif

#define VR 16
typedef __m512i vi, vs, va;
typedef __m512 vf;

INLINE vi vi_load(const uint8_t *p)
{
    return _mm512_loadu_si512(p);
}
INLINE vi vi_or(vi a, vi b)
{
    return _mm512_or_si512(a, b);
}
#ifdef __clang__ /* the compilers' headers disagree about the type of a count */
#define COUNT(n) ((unsigned)(n))
#else
#define COUNT(n) (n)
#endif
INLINE vi vi_bits(vi v, int from, int n, int to)
{
    const __m512i mask = _mm512_set1_epi8((char)(((1 << n) - 1) << to));
    if (from > to)
        v = _mm512_srli_epi16(v, COUNT(from - to));
    if (from < to)
        v = _mm512_slli_epi16(v, COUNT(to - from));
    return _mm512_and_si512(v, mask);
}
INLINE vs vs_zero(void)
{
    return _mm512_setzero_si512();
}
INLINE vs vs_add(vs a, vs b)
{
    return _mm512_add_epi32(a, b);
}
INLINE vs vs_u8(const uint8_t *p)
{
    return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
}
INLINE vs vs_s8(const uint8_t *p)
{
    return _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
}
INLINE vs vs_u16(const uint8_t *p)
{
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)p));
}
INLINE vs vs_and(vs a, int b)
{
    return _mm512_and_si512(a, _mm512_set1_epi32(b));
}
INLINE vs vs_or(vs a, vs b)
{
    return _mm512_or_si512(a, b);
}
INLINE vs vs_sll(vs a, int n)
{
    return _mm512_sll_epi32(a, _mm_cvtsi32_si128(n));
}
INLINE vs vs_srl(vs a, int n)
{
    return _mm512_srl_epi32(a, _mm_cvtsi32_si128(n));
}
INLINE vs vs_addi(vs a, int b)
{
    return _mm512_add_epi32(a, _mm512_set1_epi32(b));
}
INLINE vf vf_zero(void)
{
    return _mm512_setzero_ps();
}
INLINE vf vf_half(const uint8_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}
INLINE vf vf_bits(vs a)
{
    return _mm512_castsi512_ps(a);
}
INLINE vf vf_cvt(vs a)
{
    return _mm512_cvtepi32_ps(a);
}
INLINE vf vf_mul(vf a, vf b)
{
    return _mm512_mul_ps(a, b);
}
INLINE vf vf_mul1(vf a, float b)
{
    return _mm512_mul_ps(a, _mm512_set1_ps(b));
}
INLINE vf vf_fma1(vf a, float b, vf c)
{
    return _mm512_fmadd_ps(a, _mm512_set1_ps(b), c);
}
INLINE vf vf_fmav1(vf a, vf b, float b1, vf c)
{ /* a * (b * b1) + c */
    return _mm512_fmadd_ps(a, _mm512_mul_ps(b, _mm512_set1_ps(b1)), c);
}
INLINE void vf_store(float *p, vf v, size_t n, bool add)
{
    if (add)
        v = _mm512_add_ps(v, _mm512_maskz_loadu_ps(first16(n), p));
    _mm512_mask_storeu_ps(p, first16(n), v);
}
INLINE vi vi_of(vs a)
{
    return a;
}
INLINE vi vi_level(vi index, const int8_t *level, int zero)
{
    __m128i t = _mm_add_epi8(_mm_loadu_si128((const __m128i *)(const void *)level),
                             _mm_set1_epi8((char)zero));
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(t), index);
}
/* Four words of a table. On an Ice Lake vpgatherdd takes 1.6 times as long for 16 rows, and 3 times
 * for 8. */
INLINE __m128i words_at(const uint32_t *table, const uint32_t *at)
{
    __m128i v = _mm_cvtsi32_si128((int)table[at[0]]);
    v = _mm_insert_epi32(v, (int)table[at[1]], 1);
    v = _mm_insert_epi32(v, (int)table[at[2]], 2);
    return _mm_insert_epi32(v, (int)table[at[3]], 3);
}
INLINE vi vi_gather(const uint32_t *table, vs index)
{
    uint32_t at[VR];
    _mm512_storeu_si512(at, index);
    __m256i lo = _mm256_inserti128_si256(_mm256_castsi128_si256(words_at(table, at)),
                                         words_at(table, at + 4), 1);
    __m256i hi = _mm256_inserti128_si256(_mm256_castsi128_si256(words_at(table, at + 8)),
                                         words_at(table, at + 12), 1);
    return _mm512_inserti64x4(_mm512_castsi256_si512(lo), hi, 1);
}
INLINE va va_zero(void)
{
    return _mm512_setzero_si512();
}

INLINE vs vs_load(const uint8_t *p)
{
    return _mm512_loadu_si512(p);
}
INLINE void vs_store(uint8_t *p, vs a)
{
    _mm512_storeu_si512(p, a);
}
INLINE vs vs_clamp(vs a)
{
    return _mm512_min_epi32(_mm512_max_epi32(a, _mm512_setzero_si512()), _mm512_set1_epi32(255));
}
INLINE vs vs_round(vf a)
{
    return _mm512_cvtps_epi32(a);
}
INLINE vf vf_load(const float *p)
{
    return _mm512_loadu_ps(p);
}
INLINE vf vf_bf16(const uint8_t *p)
{
    __m512i v = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(v, 16));
}
INLINE float vf_sum(vf a)
{
    return sum512(a);
}
/* Four sums at once: lanes of pairs, then of fours, stay beside each other. */
INLINE void vf_sum4(float out[4], vf a, vf b, vf c, vf d)
{
    vf ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)),
       cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    __m512d lo = _mm512_castps_pd(ab), hi = _mm512_castps_pd(cd);
    vf all = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(lo, hi)),
                           _mm512_castpd_ps(_mm512_unpackhi_pd(lo, hi)));
    __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
    _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
}
INLINE void vf_put(float *p, vf a)
{
    _mm512_storeu_ps(p, a);
}
INLINE vf vf_set1(float a)
{
    return _mm512_set1_ps(a);
}
INLINE vf vf_add(vf a, vf b)
{
    return _mm512_add_ps(a, b);
}
INLINE vf vf_sub(vf a, vf b)
{
    return _mm512_sub_ps(a, b);
}
INLINE vf vf_absmax(vf a, vf b)
{
    return _mm512_max_ps(_mm512_abs_ps(b), a);
}
INLINE vf vf_max(vf a, vf b)
{
    return _mm512_max_ps(a, b);
}
INLINE vf vf_min(vf a, vf b)
{
    return _mm512_min_ps(a, b);
}
INLINE vf vf_sqrt(vf a)
{
    return _mm512_sqrt_ps(a);
}
/* 2^(x - top) for x <= top, or up to 6.2 % above it: the exponent's own straight lines;
 * 2^SP_POW2_LEAST far below. */
INLINE vf vf_pow2_up(vf x, float top)
{
    vf bits = _mm512_fmadd_ps(x, _mm512_set1_ps(8388608.0f),
                              _mm512_set1_ps((127.00002f - top) * 8388608.0f));
    return _mm512_castsi512_ps(_mm512_cvtps_epi32(
        _mm512_max_ps(bits, _mm512_set1_ps((127 + SP_POW2_LEAST) * 8388608.0f))));
}
INLINE vf vf_below(vf a, vf b, vf c)
{
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(b, c, _CMP_LT_OQ), a);
}
INLINE vf vf_div(vf a, vf b)
{
    return _mm512_div_ps(a, b);
}
INLINE vf vf_exp2(vf a)
{
    return exp2_512(a);
}
INLINE float vf_hmax(vf a)
{
    return _mm512_reduce_max_ps(a);
}
INLINE void vs_put(int32_t *p, vs a)
{
    _mm512_storeu_si512(p, a);
}
INLINE void vs_put8(int8_t *p, vs a)
{
    _mm_storeu_si128((__m128i *)(void *)p, _mm512_cvtepi32_epi8(a));
}
INLINE int32_t vs_sum(vs a)
{
    return _mm512_reduce_add_epi32(a);
}
INLINE vf vf_fma(vf a, vf b, vf c)
{
    return _mm512_fmadd_ps(a, b, c);
}

#ifdef __AVX512VNNI__
#define Q8_ZERO 128.0f
#define VA_FULL(bits) 4
INLINE vi vi_q8(vi v)
{
    return v;
}
INLINE va va_dot(va a, vi w, const int8_t *x, bool is_signed)
{
    (void)is_signed;
    return dot512(a, w, x);
}
INLINE vs va_sum(va a, bool is_signed)
{
    (void)is_signed;
    return a;
}
#else
#define Q8_ZERO 0.0f
/* Sums of pairs stay in 16 bits: (2^bits - 1) * 127 * 2 a quad. */
#define VA_FULL(bits) ((bits) <= 4 ? 4 : (bits) == 5 ? 2 : 1)
INLINE vi vi_q8(vi v)
{
    return _mm512_xor_si512(v, _mm512_set1_epi8((char)0x80));
}
INLINE va va_dot(va a, vi w, const int8_t *x, bool is_signed)
{
    if (!is_signed)
        return _mm512_add_epi16(a, _mm512_maddubs_epi16(w, quad512(x)));
    /* |w| * (x with the sign of w): 128 * 127 * 2 fits 16 bits */
    __m512i xs = quad512(x), zero = _mm512_setzero_si512();
    xs = _mm512_mask_sub_epi8(xs, _mm512_movepi8_mask(w), zero, xs);
    __m512i pair = _mm512_maddubs_epi16(_mm512_abs_epi8(w), xs);
    return _mm512_add_epi32(a, _mm512_madd_epi16(pair, _mm512_set1_epi16(1)));
}
INLINE vs va_sum(va a, bool is_signed)
{
    return is_signed ? a : _mm512_madd_epi16(a, _mm512_set1_epi16(1));
}
#endif

#endif
