/* NEON primitives of the kernel templates. __ARM_FEATURE_DOTPROD selects sdot over widening
 * multiplies. Codes of up to 6 bits are valid s8; 8-bit codes are taken as s8. */
#ifndef SP_KERN_ARM_NEON_H
#define SP_KERN_ARM_NEON_H

#include "kern/kern.h"

#include <arm_neon.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")
#define PREFETCH(p) __builtin_prefetch(p)

#define VR 4
typedef uint8x16_t vi;
typedef int32x4_t vs, va;
typedef float32x4_t vf;

INLINE vi vi_load(const uint8_t *p)
{
    return vld1q_u8(p);
}
INLINE vi vi_or(vi a, vi b)
{
    return vorrq_u8(a, b);
}
INLINE vi vi_bits(vi v, int from, int n, int to)
{
    v = vshlq_u8(v, vdupq_n_s8((int8_t)(to - from)));
    return vandq_u8(v, vdupq_n_u8((uint8_t)(((1 << n) - 1) << to)));
}
INLINE vi vi_level(vi index, const int8_t *level, int zero)
{
    return vreinterpretq_u8_s8(
        vqtbl1q_s8(vaddq_s8(vld1q_s8(level), vdupq_n_s8((int8_t)zero)), index));
}
INLINE vi vi_q8(vi v)
{
    return veorq_u8(v, vdupq_n_u8(0x80));
}
INLINE uint32_t word_at(const void *p)
{
    uint32_t w;
    memcpy(&w, p, 4);
    return w;
}
INLINE vs vs_zero(void)
{
    return vdupq_n_s32(0);
}
INLINE vs vs_add(vs a, vs b)
{
    return vaddq_s32(a, b);
}
INLINE vs vs_u8(const uint8_t *p)
{
    uint16x8_t h = vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(word_at(p))));
    return vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(h)));
}
INLINE vs vs_s8(const uint8_t *p)
{
    return vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_u32(vdup_n_u32(word_at(p))))));
}
INLINE vs vs_u16(const uint8_t *p)
{
    uint16_t h[4];
    memcpy(h, p, sizeof h);
    return vreinterpretq_s32_u32(vmovl_u16(vld1_u16(h)));
}
INLINE vs vs_and(vs a, int b)
{
    return vandq_s32(a, vdupq_n_s32(b));
}
INLINE vs vs_or(vs a, vs b)
{
    return vorrq_s32(a, b);
}
INLINE vs vs_sll(vs a, int n)
{
    return vshlq_s32(a, vdupq_n_s32(n));
}
INLINE vs vs_srl(vs a, int n)
{
    return vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(a), vdupq_n_s32(-n)));
}
INLINE vs vs_addi(vs a, int b)
{
    return vaddq_s32(a, vdupq_n_s32(b));
}
INLINE vi vi_of(vs a)
{
    return vreinterpretq_u8_s32(a);
}
INLINE vi vi_gather(const uint32_t *table, vs index)
{
    uint32_t at[VR], word[VR];
    vst1q_u32(at, vreinterpretq_u32_s32(index));
    for (size_t i = 0; i < VR; i++)
        word[i] = table[at[i]];
    return vreinterpretq_u8_u32(vld1q_u32(word));
}
INLINE vs vs_load(const uint8_t *p)
{
    return vreinterpretq_s32_u8(vld1q_u8(p));
}
INLINE void vs_store(uint8_t *p, vs a)
{
    vst1q_u8(p, vreinterpretq_u8_s32(a));
}
INLINE void vs_put(int32_t *p, vs a)
{
    vst1q_s32(p, a);
}
INLINE void vs_put8(int8_t *p, vs a)
{
    int16x4_t w = vmovn_s32(a);
    int8x8_t b = vmovn_s16(vcombine_s16(w, w));
    vst1_lane_s32((int32_t *)(void *)p, vreinterpret_s32_s8(b), 0);
}
INLINE int32_t vs_sum(vs a)
{
    return vaddvq_s32(a);
}
INLINE vs vs_clamp(vs a)
{
    return vminq_s32(vmaxq_s32(a, vdupq_n_s32(0)), vdupq_n_s32(255));
}
INLINE vs vs_round(vf a)
{
    return vcvtnq_s32_f32(a);
}
INLINE vf vf_zero(void)
{
    return vdupq_n_f32(0);
}
INLINE vf vf_half(const uint8_t *p)
{
    uint16_t h[4];
    memcpy(h, p, sizeof h);
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(h)));
}
INLINE vf vf_bf16(const uint8_t *p)
{
    uint16_t h[4];
    memcpy(h, p, sizeof h);
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(h), 16));
}
INLINE vf vf_bits(vs a)
{
    return vreinterpretq_f32_s32(a);
}
INLINE vf vf_cvt(vs a)
{
    return vcvtq_f32_s32(a);
}
INLINE vf vf_mul(vf a, vf b)
{
    return vmulq_f32(a, b);
}
INLINE vf vf_mul1(vf a, float b)
{
    return vmulq_n_f32(a, b);
}
INLINE vf vf_fma(vf a, vf b, vf c)
{
    return vfmaq_f32(c, a, b);
}
INLINE vf vf_fma1(vf a, float b, vf c)
{
    return vfmaq_n_f32(c, a, b);
}
INLINE vf vf_fmav1(vf a, vf b, float b1, vf c)
{ /* a * (b * b1) + c */
    return vfmaq_f32(c, a, vmulq_n_f32(b, b1));
}
INLINE void vf_store(float *p, vf v, size_t n, bool add)
{
    float all[VR];
    if (n == VR) {
        vst1q_f32(p, add ? vaddq_f32(v, vld1q_f32(p)) : v);
        return;
    }
    vst1q_f32(all, v);
    for (size_t i = 0; i < n; i++)
        p[i] = add ? all[i] + p[i] : all[i];
}
INLINE vf vf_load(const float *p)
{
    return vld1q_f32(p);
}
INLINE void vf_put(float *p, vf a)
{
    vst1q_f32(p, a);
}
INLINE vf vf_set1(float a)
{
    return vdupq_n_f32(a);
}
INLINE vf vf_add(vf a, vf b)
{
    return vaddq_f32(a, b);
}
INLINE vf vf_sub(vf a, vf b)
{
    return vsubq_f32(a, b);
}
INLINE vf vf_div(vf a, vf b)
{
    return vdivq_f32(a, b);
}
INLINE vf vf_max(vf a, vf b)
{
    return vmaxq_f32(a, b);
}
INLINE vf vf_min(vf a, vf b)
{
    return vminq_f32(a, b);
}
INLINE vf vf_sqrt(vf a)
{
    return vsqrtq_f32(a);
}
/* 2^(x - top) for x <= top, or up to 6.2 % above it: the exponent's own straight lines;
 * 2^SP_POW2_LEAST far below. */
INLINE vf vf_pow2_up(vf x, float top)
{
    vf bits = vfmaq_f32(vdupq_n_f32((127.00002f - top) * 8388608.0f), x, vdupq_n_f32(8388608.0f));
    return vreinterpretq_f32_s32(
        vcvtnq_s32_f32(vmaxq_f32(bits, vdupq_n_f32((127 + SP_POW2_LEAST) * 8388608.0f))));
}
INLINE vf vf_below(vf a, vf b, vf c)
{
    return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(a), vcltq_f32(b, c)));
}
INLINE vf vf_absmax(vf a, vf b)
{
    return vmaxq_f32(vabsq_f32(b), a);
}
INLINE float vf_hmax(vf a)
{
    return vmaxvq_f32(a);
}
INLINE float vf_sum(vf a)
{ /* (l, l + 2), then the two */
    float32x2_t h = vadd_f32(vget_low_f32(a), vget_high_f32(a));
    return vget_lane_f32(h, 0) + vget_lane_f32(h, 1);
}
INLINE void vf_sum4(float out[4], vf a, vf b, vf c, vf d)
{
    vst1q_f32(out, vpaddq_f32(vpaddq_f32(a, b), vpaddq_f32(c, d)));
}
/* 2^x, 0 far below and 2^126 at most; Cephes exp2f coefficients as in x86/avx512.h. */
INLINE vf vf_exp2(vf x)
{
    vf t = vmaxq_f32(vminq_f32(x, vdupq_n_f32(126.0f)), vdupq_n_f32(-126.0f));
    vf n = vrndnq_f32(t), f = vsubq_f32(t, n);
    vf p = vdupq_n_f32(1.535336188319500e-4f);
    p = vfmaq_f32(vdupq_n_f32(1.339887440266574e-3f), p, f);
    p = vfmaq_f32(vdupq_n_f32(9.618437357674640e-3f), p, f);
    p = vfmaq_f32(vdupq_n_f32(5.550332471162809e-2f), p, f);
    p = vfmaq_f32(vdupq_n_f32(2.402264791363012e-1f), p, f);
    p = vfmaq_f32(vdupq_n_f32(6.931472028550421e-1f), p, f);
    p = vfmaq_f32(vdupq_n_f32(1.0f), p, f);
    int32x4_t e = vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127)), 23);
    vf y = vmulq_f32(p, vreinterpretq_f32_s32(e));
    return vreinterpretq_f32_u32(
        vandq_u32(vreinterpretq_u32_f32(y), vcgeq_f32(x, vdupq_n_f32(-126.0f))));
}

#define Q8_ZERO 0.0f
#define VA_FULL(bits) 4
INLINE va va_zero(void)
{
    return vdupq_n_s32(0);
}
INLINE va va_dot(va a, vi w, const int8_t *x, bool is_signed)
{
    (void)is_signed;
    int8x16_t ws = vreinterpretq_s8_u8(w), xs = vreinterpretq_s8_u32(vdupq_n_u32(word_at(x)));
#ifdef __ARM_FEATURE_DOTPROD
    return vdotq_s32(a, ws, xs);
#else
    int16x8_t lo = vmull_s8(vget_low_s8(ws), vget_low_s8(xs)),
              hi = vmull_s8(vget_high_s8(ws), vget_high_s8(xs));
    return vaddq_s32(a, vpaddq_s32(vpaddlq_s16(lo), vpaddlq_s16(hi)));
#endif
}
INLINE vs va_sum(va a, bool is_signed)
{
    (void)is_signed;
    return a;
}

#endif
