/* Tensor element types and the layout of their blocks, as GGUF stores them: the one definition.
 *
 * A block holds blk_elem consecutive elements of a row in blk_bytes bytes, little-endian.
 * Values of an element: see each struct; f16 fields are IEEE binary16.
 * Source: the GGUF specification and ggml's published block layouts. Pure, immutable. */
#ifndef SP_FMT_QUANT_H
#define SP_FMT_QUANT_H

#include <stddef.h>
#include <stdint.h>

typedef enum sp_type { /* numbers are GGUF's */
    SP_F32 = 0,
    SP_F16 = 1,
    SP_Q4_0 = 2,
    SP_Q4_1 = 3,
    SP_Q5_0 = 6,
    SP_Q5_1 = 7,
    SP_Q8_0 = 8,
    SP_Q2_K = 10,
    SP_Q3_K = 11,
    SP_Q4_K = 12,
    SP_Q5_K = 13,
    SP_Q6_K = 14,
    SP_IQ2_XXS = 16,
    SP_IQ2_XS = 17,
    SP_IQ3_XXS = 18,
    SP_IQ1_S = 19,
    SP_IQ4_NL = 20,
    SP_IQ3_S = 21,
    SP_IQ2_S = 22,
    SP_IQ4_XS = 23,
    SP_IQ1_M = 29,
    SP_BF16 = 30,
    SP_TQ1_0 = 34,
    SP_TQ2_0 = 35,
    SP_MXFP4 = 39,
    SP_NVFP4 = 40,
    SP_TYPE_COUNT = 41
} sp_type;

typedef struct sp_type_info {
    const char *name; /* NULL: not supported */
    uint16_t blk_elem, blk_bytes;
} sp_type_info;

/* NULL for a type that is not supported. */
const sp_type_info *sp_type_get(uint32_t type);
/* Name of any GGUF type number, also of unsupported ones; "unknown" otherwise. */
const char *sp_type_name(uint32_t type);
/* Bytes of a row of n elements; n is a multiple of blk_elem. */
size_t sp_type_row_bytes(sp_type type, size_t n);

typedef uint16_t sp_f16; /* binary16 bits */

/* d*(q-8); qs[i]: low = i, high = i+16 */
typedef struct sp_blk_q4_0 { sp_f16 d; uint8_t qs[16]; } sp_blk_q4_0;
typedef struct sp_blk_q4_1 { sp_f16 d, m; uint8_t qs[16]; } sp_blk_q4_1; /* d*q + m */
/* d*(q-16); qh: bit i = 5th bit of i */
typedef struct sp_blk_q5_0 { sp_f16 d; uint8_t qh[4], qs[16]; } sp_blk_q5_0;
typedef struct sp_blk_q5_1 { sp_f16 d, m; uint8_t qh[4], qs[16]; } sp_blk_q5_1; /* d*q + m */
typedef struct sp_blk_q8_0 { sp_f16 d; int8_t qs[32]; } sp_blk_q8_0; /* d*q */
typedef struct sp_blk_q2_k { uint8_t scales[16], qs[64]; sp_f16 d, dmin; } sp_blk_q2_k;
typedef struct sp_blk_q3_k { uint8_t hmask[32], qs[64], scales[12]; sp_f16 d; } sp_blk_q3_k;
typedef struct sp_blk_q4_k { sp_f16 d, dmin; uint8_t scales[12], qs[128]; } sp_blk_q4_k;
typedef struct sp_blk_q5_k { sp_f16 d, dmin; uint8_t scales[12], qh[32], qs[128]; } sp_blk_q5_k;
typedef struct sp_blk_q6_k { uint8_t ql[128], qh[64]; int8_t scales[16]; sp_f16 d; } sp_blk_q6_k;
typedef struct sp_blk_iq4_nl { sp_f16 d; uint8_t qs[16]; } sp_blk_iq4_nl; /* d*table[q] */
typedef struct sp_blk_iq4_xs {
    sp_f16 d;
    uint16_t scales_h;
    uint8_t scales_l[4], qs[128];
} sp_blk_iq4_xs;

/* 2^(e - 128) * level[q]: twice the level of FP4 times half the E8M0 scale; nibbles as in Q4_0.
 * Source: OCP Microscaling Formats (MX) 1.0, and ggml's order of the nibbles. */
typedef struct sp_blk_mxfp4 { uint8_t e, qs[16]; } sp_blk_mxfp4;
/* d * (q - 1), two bits each */
typedef struct sp_blk_tq2_0 { uint8_t qs[64]; sp_f16 d; } sp_blk_tq2_0;

/* The 16 levels of IQ4_NL and IQ4_XS. */
extern const int8_t sp_iq4_level[16];
/* Twice the 16 values of FP4 (E2M1): a sign, two bits of exponent, one of mantissa. */
extern const int8_t sp_fp4_level[16];

/* Scale and minimum j (0..7) of a Q4_K / Q5_K super-block: 6 bits each, packed into 12 bytes. */
static inline void sp_k4_scale_min(uint8_t *scale, uint8_t *min, size_t j, const uint8_t s[12])
{
    if (j < 4) {
        *scale = s[j] & 63;
        *min = s[j + 4] & 63;
    } else {
        *scale = (uint8_t)((s[j + 4] & 0xf) | (s[j - 4] >> 6) << 4);
        *min = (uint8_t)(s[j + 4] >> 4 | (s[j] >> 6) << 4);
    }
}

/* Exact widening, and rounding to nearest even. */
float sp_f16_to_f32(sp_f16 h);
sp_f16 sp_f16_from_f32(float f);
static inline float sp_bf16_to_f32(uint16_t h)
{
    union { uint32_t u; float f; } v = {.u = (uint32_t)h << 16};
    return v.f;
}
static inline uint16_t sp_bf16_from_f32(float f)
{
    union { float f; uint32_t u; } v = {.f = f};
    if ((v.u & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(v.u >> 16 | 64); /* a quiet NaN stays one */
    return (uint16_t)((v.u + 0x7fff + (v.u >> 16 & 1)) >> 16);
}

#endif
