/* The primitives of kern/gemm_tile.h and kern/vec_tile.h over AVX2 + FMA + F16C. Included by files
 * that are compiled with those flags; __AVXVNNI__ selects vpdpbusd over vpmaddubsw. */
#ifndef SP_KERN_X86_AVX2_H
#define SP_KERN_X86_AVX2_H

#include "kern/kern.h"
#include "kern/sign.h"

#include <immintrin.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define PREFETCH(p) _mm_prefetch((const char *)(p), _MM_HINT_T0)
#define UNROLL _Pragma("GCC unroll 16")

/* 2^x, 0 far below; as exp2_512 in avx512.h, but 2^126 is the most. */
INLINE __m256 exp2_256(__m256 x)
{
    __m256 t = _mm256_max_ps(_mm256_min_ps(x, _mm256_set1_ps(126.0f)), _mm256_set1_ps(-126.0f));
    __m256 n = _mm256_round_ps(t, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
           f = _mm256_sub_ps(t, n);
    __m256 p = _mm256_set1_ps(1.535336188319500e-4f);
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(1.339887440266574e-3f));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(9.618437357674640e-3f));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(5.550332471162809e-2f));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(2.402264791363012e-1f));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(6.931472028550421e-1f));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(1.0f));
    __m256i e =
        _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    __m256 y = _mm256_mul_ps(p, _mm256_castsi256_ps(e));
    return _mm256_and_ps(y, _mm256_cmp_ps(x, _mm256_set1_ps(-126.0f), _CMP_GE_OQ));
}

INLINE float sum256(__m256 v)
{
    __m128 a = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    a = _mm_add_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)));
}

INLINE float max256(__m256 v)
{
    __m128 a = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    a = _mm_max_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_max_ss(a, _mm_movehdup_ps(a)));
}

#define VR 8
typedef __m256i vi, vs, va;
typedef __m256 vf;

INLINE vi vi_load(const uint8_t *p)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)p);
}
INLINE vi vi_or(vi a, vi b)
{
    return _mm256_or_si256(a, b);
}
INLINE vi vi_bits(vi v, int from, int n, int to)
{
    const __m256i mask = _mm256_set1_epi8((char)(((1 << n) - 1) << to));
    if (from > to)
        v = _mm256_srli_epi16(v, from - to);
    if (from < to)
        v = _mm256_slli_epi16(v, to - from);
    return _mm256_and_si256(v, mask);
}
INLINE vs vs_zero(void)
{
    return _mm256_setzero_si256();
}
INLINE vs vs_add(vs a, vs b)
{
    return _mm256_add_epi32(a, b);
}
INLINE vs vs_u8(const uint8_t *p)
{
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p));
}
INLINE vs vs_s8(const uint8_t *p)
{
    return _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p));
}
INLINE vs vs_u16(const uint8_t *p)
{
    return _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
}
INLINE vs vs_and(vs a, int b)
{
    return _mm256_and_si256(a, _mm256_set1_epi32(b));
}
INLINE vs vs_or(vs a, vs b)
{
    return _mm256_or_si256(a, b);
}
INLINE vs vs_sll(vs a, int n)
{
    return _mm256_sll_epi32(a, _mm_cvtsi32_si128(n));
}
INLINE vs vs_srl(vs a, int n)
{
    return _mm256_srl_epi32(a, _mm_cvtsi32_si128(n));
}
INLINE vs vs_addi(vs a, int b)
{
    return _mm256_add_epi32(a, _mm256_set1_epi32(b));
}
INLINE vf vf_zero(void)
{
    return _mm256_setzero_ps();
}
INLINE vf vf_half(const uint8_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
}
INLINE vf vf_bits(vs a)
{
    return _mm256_castsi256_ps(a);
}
INLINE vf vf_cvt(vs a)
{
    return _mm256_cvtepi32_ps(a);
}
INLINE vf vf_mul(vf a, vf b)
{
    return _mm256_mul_ps(a, b);
}
INLINE vf vf_mul1(vf a, float b)
{
    return _mm256_mul_ps(a, _mm256_set1_ps(b));
}
INLINE vf vf_fma1(vf a, float b, vf c)
{
    return _mm256_fmadd_ps(a, _mm256_set1_ps(b), c);
}
INLINE vf vf_fmav1(vf a, vf b, float b1, vf c)
{ /* a * (b * b1) + c */
    return _mm256_fmadd_ps(a, _mm256_mul_ps(b, _mm256_set1_ps(b1)), c);
}
INLINE void vf_store(float *p, vf v, size_t n, bool add)
{
    if (n == VR) {
        _mm256_storeu_ps(p, add ? _mm256_add_ps(v, _mm256_loadu_ps(p)) : v);
        return;
    }
    float all[VR];
    _mm256_storeu_ps(all, v);
    for (size_t i = 0; i < n; i++)
        p[i] = add ? all[i] + p[i] : all[i];
}
INLINE vi vi_of(vs a)
{
    return a;
}
INLINE vi vi_level(vi index, const int8_t *level, int zero)
{
    __m128i t = _mm_add_epi8(_mm_loadu_si128((const __m128i *)(const void *)level),
                             _mm_set1_epi8((char)zero));
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(t), index);
}
/* Four words of a table: faster than vpgatherdd, see avx512.h. */
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
    _mm256_storeu_si256((__m256i *)(void *)at, index);
    return _mm256_inserti128_si256(_mm256_castsi128_si256(words_at(table, at)),
                                   words_at(table, at + 4), 1);
}
INLINE va va_zero(void)
{
    return _mm256_setzero_si256();
}
INLINE vs vs_load(const uint8_t *p)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)p);
}
INLINE void vs_store(uint8_t *p, vs a)
{
    _mm256_storeu_si256((__m256i *)(void *)p, a);
}
INLINE vs vs_clamp(vs a)
{
    return _mm256_min_epi32(_mm256_max_epi32(a, _mm256_setzero_si256()), _mm256_set1_epi32(255));
}
INLINE vs vs_round(vf a)
{
    return _mm256_cvtps_epi32(a);
}
INLINE vf vf_load(const float *p)
{
    return _mm256_loadu_ps(p);
}
INLINE vf vf_bf16(const uint8_t *p)
{
    __m256i v = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(v, 16));
}
INLINE float vf_sum(vf a)
{
    return sum256(a);
}
INLINE void vf_sum4(float out[4], vf a, vf b, vf c, vf d)
{
    vf all = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1)));
}
INLINE void vf_put(float *p, vf a)
{
    _mm256_storeu_ps(p, a);
}
INLINE vf vf_set1(float a)
{
    return _mm256_set1_ps(a);
}
INLINE vf vf_add(vf a, vf b)
{
    return _mm256_add_ps(a, b);
}
INLINE vf vf_sub(vf a, vf b)
{
    return _mm256_sub_ps(a, b);
}
INLINE vf vf_absmax(vf a, vf b)
{
    return _mm256_max_ps(_mm256_andnot_ps(_mm256_set1_ps(-0.0f), b), a);
}
INLINE vf vf_max(vf a, vf b)
{
    return _mm256_max_ps(a, b);
}
INLINE vf vf_min(vf a, vf b)
{
    return _mm256_min_ps(a, b);
}
INLINE vf vf_sqrt(vf a)
{
    return _mm256_sqrt_ps(a);
}
/* 2^(x - top) for x <= top, or up to 6.2 % above it: the exponent's own straight lines;
 * 2^SP_POW2_LEAST far below. */
INLINE vf vf_pow2_up(vf x, float top)
{
    vf bits = _mm256_fmadd_ps(x, _mm256_set1_ps(8388608.0f),
                              _mm256_set1_ps((127.00002f - top) * 8388608.0f));
    return _mm256_castsi256_ps(_mm256_cvtps_epi32(
        _mm256_max_ps(bits, _mm256_set1_ps((127 + SP_POW2_LEAST) * 8388608.0f))));
}
INLINE vf vf_below(vf a, vf b, vf c)
{
    return _mm256_and_ps(a, _mm256_cmp_ps(b, c, _CMP_LT_OQ));
}
INLINE vf vf_div(vf a, vf b)
{
    return _mm256_div_ps(a, b);
}
INLINE vf vf_exp2(vf a)
{
    return exp2_256(a);
}
INLINE float vf_hmax(vf a)
{
    return max256(a);
}
INLINE void vs_put(int32_t *p, vs a)
{
    _mm256_storeu_si256((__m256i *)(void *)p, a);
}
INLINE void vs_put8(int8_t *p, vs a)
{
    __m128i w = _mm_packs_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    _mm_storel_epi64((__m128i *)(void *)p, _mm_packs_epi16(w, w));
}
INLINE int32_t vs_sum(vs a)
{
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}
INLINE vf vf_fma(vf a, vf b, vf c)
{
    return _mm256_fmadd_ps(a, b, c);
}
/* Four codes of a token to every lane. */
INLINE __m256i quad256(const int8_t *x)
{
    int32_t four;
    memcpy(&four, x, 4);
    return _mm256_set1_epi32(four);
}

/* dot256: a + the sum of 4 products of u8 w and s8 x in each lane. */
#if defined(__AVXVNNI__)
#define HAS_DPBUSD 1
INLINE __m256i dot256(__m256i a, __m256i w, __m256i x)
{
    return _mm256_dpbusd_avx_epi32(a, w, x);
}
#elif defined(SP_DPBUSD_BODY) /* the same sums on CPUs without the instruction, for tests */
#define HAS_DPBUSD 1
INLINE __m256i dot256(__m256i a, __m256i w, __m256i x)
{
    const __m256i even = _mm256_and_si256(w, _mm256_set1_epi16(255)), odd = _mm256_srli_epi16(w, 8);
    a = _mm256_add_epi32(a, _mm256_madd_epi16(even, _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8)));
    return _mm256_add_epi32(a, _mm256_madd_epi16(odd, _mm256_srai_epi16(x, 8)));
}
#else
#define HAS_DPBUSD 0
#endif

#if HAS_DPBUSD
#define Q8_ZERO 128.0f
#define VA_FULL(bits) 4
INLINE vi vi_q8(vi v)
{
    return v;
}
INLINE va va_dot(va a, vi w, const int8_t *x, bool is_signed)
{
    (void)is_signed;
    return dot256(a, w, quad256(x));
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
    return _mm256_xor_si256(v, _mm256_set1_epi8((char)0x80));
}
INLINE va va_dot(va a, vi w, const int8_t *x, int sign)
{
    __m256i xs = quad256(x);
    if (sign == SP_SIGN_NONE)
        return _mm256_add_epi16(a, _mm256_maddubs_epi16(w, xs));
    __m256i pair = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(xs, w));
    if (sign == SP_SIGN_SMALL)
        return _mm256_add_epi16(a, pair);
    return _mm256_add_epi32(a, _mm256_madd_epi16(pair, _mm256_set1_epi16(1)));
}
INLINE vs va_sum(va a, int sign)
{
    return sign == SP_SIGN_FULL ? a : _mm256_madd_epi16(a, _mm256_set1_epi16(1));
}
#endif

#endif
