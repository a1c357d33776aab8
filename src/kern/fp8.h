/* A KV page of one KV head of one layer in FP8: 32 keys and values in E4M3, a scale for all keys
 * and one for all values. Keys and values are rotated (sp_kern.rotate), which is what lets 4 bits
 * of precision do: no channel stands out. There is nothing to demote and no bound to certify with.
 *
 *   k     e4m3 [32 tok][d]     key = scale_k * code
 *   v     e4m3 [d][32 tok]     value = scale_v * code
 *   scale f32  [2]             of keys, of values; powers of two, so that they round nothing
 *   zeros to 64 bytes
 *
 * The order is that in which a GPU's lanes read (dev/cuda/pages.h). A scale is the smallest power
 * of two that brings the largest magnitude to 448 or less; magnitudes below 2^-6 of it lose
 * precision, below 2^-10 they are zero. There are no codes of NaNs: a NaN becomes 448. d a multiple
 * of 16. Source: Micikevicius et al. 2022 (FP8 formats), section 3.1. Pure. */
#ifndef SP_KERN_FP8_H
#define SP_KERN_FP8_H

#include "fmt/quant.h"

enum { SP_FP8_HEAD = 256 /* largest d */ };

static inline size_t sp_fp8_bytes(size_t d)
{
    return 64 * d + 64;
}

/* The code of x, to nearest even, at most 448 of either sign. */
uint8_t sp_fp8_code(float x);
/* The smallest power of two, 2^-125 at least, that brings `top` >= 0 to 448 or less; of 0 it
 * is 1. */
float sp_fp8_scale(float top);

/* From a full f16 page kt [d, 32], v [32, d], and back to f32. */
void sp_fp8_put(void *page, const sp_f16 *kt, const sp_f16 *v, size_t d);
void sp_fp8_get(float *kt, float *v, const void *page, size_t d);

#endif
