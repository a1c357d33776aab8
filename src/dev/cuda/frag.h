/* Numbers of 16 and 8 bits, and the tensor cores' product of 16 x 16 by 16 x 8, for both readings
 * of simt.h.
 *
 * mma: with g = lane / 4 and t = lane % 4, A holds rows g and g + 8, B column g. A lane's elements
 * of k are called 0..3: a[0] row g elements 0, 1; a[1] row g + 8, the same; a[2], a[3] elements 2,
 * 3; b[0] elements 0, 1; b[1] elements 2, 3. Which k these are is up to the caller, as long as A
 * and B agree. c[0], c[1]: row g, columns 2 t, 2 t + 1; c[2], c[3]: row g + 8. Source: PTX ISA,
 * "Matrix Fragments for mma.m16n8k16". */
#ifndef SP_DEV_CUDA_FRAG_H
#define SP_DEV_CUDA_FRAG_H

#include "dev/cuda/simt.h"

SP_DEV uint32_t bits_of(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}
SP_DEV float float_of(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}
SP_DEV float pow2(int e) /* -126 <= e <= 127 */
{
    return float_of((uint32_t)(e + 127) << 23);
}

SP_DEV float f16_to_f32(uint16_t h)
{
#ifdef __CUDACC__
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
    return f;
#else
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, rest = h & 0x7fffu;
    if (rest >= 0x7c00u)
        return float_of(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
    return float_of(sign | bits_of(float_of(rest << 13) * 0x1p112f));
#endif
}

SP_DEV uint16_t f32_to_f16(float f) /* to nearest even */
{
#ifdef __CUDACC__
    uint16_t h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f));
    return h;
#else
    uint32_t u = bits_of(f), sign = u >> 16 & 0x8000u, rest = u & 0x7fffffffu;
    if (rest > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u | (rest >> 13 & 0x3ffu));
    if (rest >= 0x477ff000u) /* 65520 and above */
        return (uint16_t)(sign | 0x7c00u);
    if (rest < 0x38800000u) /* below 2^-14: adding 1/2 rounds to multiples of 2^-24 */
        return (uint16_t)(sign | (bits_of(float_of(rest) + 0.5f) - 0x3f000000u));
    rest += 0xfffu + (rest >> 13 & 1) - 0x38000000u;
    return (uint16_t)(sign | rest >> 13);
#endif
}

/* lo in the low half */
SP_DEV uint32_t f16_pair(float lo, float hi)
{
#ifdef __CUDACC__
    uint32_t p;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(p) : "f"(hi), "f"(lo));
    return p;
#else
    return (uint32_t)f32_to_f16(lo) | (uint32_t)f32_to_f16(hi) << 16;
#endif
}

SP_DEV float bf16_to_f32(uint16_t h)
{
    return float_of((uint32_t)h << 16);
}
SP_DEV uint16_t f32_to_bf16(float f)
{
    uint32_t u = bits_of(f);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(u >> 16 | 0x40u);
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1)) >> 16);
}

/* E4M3 without infinities, to nearest even, at most 448; not of NaNs. Only when pages are filled.
 */
SP_DEV uint8_t f32_to_e4m3(float f)
{
    uint32_t u = bits_of(f), sign = u >> 24 & 0x80u, rest = u & 0x7fffffffu;
    if (rest >= 0x43e00000u)
        return (uint8_t)(sign | 0x7eu);
    if (rest < 0x3c800000u) /* below 2^-6: multiples of 2^-9 */
        return (uint8_t)(sign | (bits_of(float_of(rest) + 16384.0f) - 0x46800000u));
    rest += 0x7ffffu + (rest >> 20 & 1) - 0x3c000000u;
    return (uint8_t)(sign | rest >> 20);
}

/* A power of two that brings `top` > 0 to 224 to 448. */
SP_DEV float e4m3_unit(float top)
{
    int e = (int)(bits_of(top) >> 23) - 127 - 8 + ((bits_of(top) & 0x7fffffu) > 0x600000u);
    return pow2(e < -126 ? -126 : e > 126 ? 126 : e);
}

/* Four codes to two pairs of f16, exactly. Pages hold no NaN. */
SP_DEV void e4m3_to_f16(uint32_t out[2], uint32_t codes)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
    asm("{.reg .b16 a, b; mov.b32 {a, b}, %2; cvt.rn.f16x2.e4m3x2 %0, a; cvt.rn.f16x2.e4m3x2 %1, "
        "b;}"
        : "=r"(out[0]), "=r"(out[1])
        : "r"(codes));
#elif defined(__CUDACC__)
    for (int i = 0; i < 2;
         i++, codes >>= 16) { /* the code's exponent and mantissa in an f16's place, times 2^8 */
        uint32_t two = (codes & 0xff) | (codes & 0xff00) << 8;
        uint32_t p = (two & 0x00800080u) << 8 | (two & 0x007f007fu) << 7;
        asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(out[i]) : "r"(p), "r"(0x5c005c00u));
    }
#else
    uint32_t h[4];
    for (int i = 0; i < 4; i++) {
        uint32_t c = codes >> 8 * i & 0xff, e = c >> 3 & 15, m = c & 7;
        uint32_t top = m & 4 ? 2 : m & 2 ? 1 : 0; /* 2^-9 m as an f16 */
        h[i] = (c & 0x80) << 8 | (e   ? (e + 8) << 10 | m << 7
                                  : m ? (6 + top) << 10 | (m << (10 - top) & 0x3ffu)
                                      : 0);
    }
    out[0] = h[0] | h[1] << 16;
    out[1] = h[2] | h[3] << 16;
#endif
}

/* Products and sums of pairs of f16. */
SP_DEV uint32_t f16_mul2(uint32_t a, uint32_t b)
{
#ifdef __CUDACC__
    uint32_t p;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(p) : "r"(a), "r"(b));
    return p;
#else
    return f16_pair(f16_to_f32((uint16_t)a) * f16_to_f32((uint16_t)b),
                    f16_to_f32((uint16_t)(a >> 16)) * f16_to_f32((uint16_t)(b >> 16)));
#endif
}

SP_DEV uint32_t f16_add2(uint32_t a, uint32_t b)
{
#ifdef __CUDACC__
    uint32_t p;
    asm("add.rn.f16x2 %0, %1, %2;" : "=r"(p) : "r"(a), "r"(b));
    return p;
#else
    return f16_pair(f16_to_f32((uint16_t)a) + f16_to_f32((uint16_t)b),
                    f16_to_f32((uint16_t)(a >> 16)) + f16_to_f32((uint16_t)(b >> 16)));
#endif
}

/* Codes 0..255 in two 16-bit fields to their f16 less 128: 0x6400 | c is 1024 + c. */
SP_DEV uint32_t codes_to_f16(uint32_t two, uint32_t less)
{
    uint32_t p = two | 0x64006400u;
#ifdef __CUDACC__
    asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(p) : "r"(p), "r"(less));
    return p;
#else
    return f16_pair(f16_to_f32((uint16_t)p) - f16_to_f32((uint16_t)less),
                    f16_to_f32((uint16_t)(p >> 16)) - f16_to_f32((uint16_t)(less >> 16)));
#endif
}

#ifndef __CUDACC__
/* Every lane gives its registers and computes its four sums, k in the order of lanes. */
template <float widen(uint16_t)>
SP_DEV __attribute__((no_sanitize("thread"))) void mma_host(float c[4], const uint32_t a[4],
                                                            const uint32_t b[2], int line,
                                                            const char *file)
{
    uint32_t own[12];
    for (unsigned i = 0; i < 4; i++) {
        own[2 * i] = bits_of(widen((uint16_t)a[i]));
        own[2 * i + 1] = bits_of(widen((uint16_t)(a[i] >> 16)));
    }
    for (unsigned i = 0; i < 2; i++) {
        own[8 + 2 * i] = bits_of(widen((uint16_t)b[i]));
        own[9 + 2 * i] = bits_of(widen((uint16_t)(b[i] >> 16)));
    }
    const float *all = reinterpret_cast<const float *>(sp_simt_exchange(own, 12, line, file));
    unsigned g = lane_id() / 4, t = lane_id() % 4;
    for (unsigned i = 0; i < 4; i++)
        for (unsigned l = 0; l < 4; l++) {
            const float *ra = all + (4 * g + l) * 12 + (i / 2) * 2,
                        *rb = all + (4 * (2 * t + i % 2) + l) * 12 + 8;
            c[i] += ra[0] * rb[0] + ra[1] * rb[1] + ra[4] * rb[2] + ra[5] * rb[3];
        }
}
SP_DEV void mma_f16(float c[4], const uint32_t a[4], const uint32_t b[2],
                    int line = __builtin_LINE(), const char *file = __builtin_FILE())
{
    mma_host<f16_to_f32>(c, a, b, line, file);
}
SP_DEV void mma_bf16(float c[4], const uint32_t a[4], const uint32_t b[2],
                     int line = __builtin_LINE(), const char *file = __builtin_FILE())
{
    mma_host<bf16_to_f32>(c, a, b, line, file);
}
#else
#define SP_MMA(name, type)                                                       \
    SP_DEV void name(float c[4], const uint32_t a[4], const uint32_t b[2])       \
    {                                                                            \
        asm("mma.sync.aligned.m16n8k16.row.col.f32." type "." type               \
            ".f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"         \
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                     \
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1])); \
    }
SP_MMA(mma_f16, "f16")
SP_MMA(mma_bf16, "bf16")
#endif

/* b of mma from 16 rows of f16 in shared memory, ld elements apart. Columns are `from` and the
 * seven behind it: a lane's elements of k are rows 2 t, 2 t + 1, 2 t + 8 and 2 t + 9. Rows begin at
 * multiples of 16 bytes. */
SP_DEV void load_columns(uint32_t b[2], const uint16_t *from, unsigned ld)
{
#ifdef __CUDACC__
    uint32_t at = (uint32_t)__cvta_generic_to_shared(from + lane_id() % 16 * ld);
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(b[0]), "=r"(b[1])
                 : "r"(at)
                 : "memory");
#else
    const uint16_t *x = from + lane_id() % 4 * 2 * ld + lane_id() / 4;
    b[0] = (uint32_t)x[0] | (uint32_t)x[ld] << 16;
    b[1] = (uint32_t)x[8 * ld] | (uint32_t)x[9 * ld] << 16;
#endif
}

SP_DEV float exp2_of(float x)
{
#ifdef __CUDACC__
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#else
    return exp2f(x);
#endif
}

SP_DEV uint32_t load_u32(const void *p)
{
    return *static_cast<const uint32_t *>(p);
}
/* Aligned to what is read. */
SP_DEV void load_16(uint32_t w[4], const void *p)
{
#ifdef __CUDACC__
    uint4 v = *static_cast<const uint4 *>(p);
    w[0] = v.x;
    w[1] = v.y;
    w[2] = v.z;
    w[3] = v.w;
#else
    memcpy(w, p, 16);
#endif
}
SP_DEV void load_8(uint32_t w[2], const void *p)
{
#ifdef __CUDACC__
    uint2 v = *static_cast<const uint2 *>(p);
    w[0] = v.x;
    w[1] = v.y;
#else
    memcpy(w, p, 8);
#endif
}

#endif
