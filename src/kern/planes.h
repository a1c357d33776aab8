/* A quantised KV page of one KV head of one layer: 32 keys and values as two planes of 4 bits.
 *
 * Keys are rotated (sp_kern.rotate) and centred: with the page's mean c, a key is
 *     k[i] = c[i] + s * (code[i] - 128),   code = 16 hi + lo, 8 bits
 * The hi plane alone reads as k[i] = c[i] + s * (16 hi[i] + 7.5 - 128), and `err` bounds what is lost:
 * |q . k - q . k_hi| <= |q| * err (Cauchy-Schwarz), err = s * |lo - 7.5| rounded up.
 * Values are v[i] = s_v * (code[i] - 128), and likewise without lo. Dropping the lo planes is all that
 * demotion does.
 *
 *   k_hi, k_lo  [d / 8][32 tok][4]  byte (g, j, i): dimension 4 g + i in the low nibble and
 *                                   4 (g + d / 8) + i in the high one
 *   v_hi, v_lo  [4][d][4 tok]       byte (u, i, j): token 4 u + j low, 4 (u + 4) + j high
 *   k_scale f16 [32]   k_err bf16 [32]   v_scale f16 [32]   k_mean f16 [d]
 * The hi part (both hi planes and the scales) and the lo part are each contiguous; docs/FORMATS.md
 * gives the bytes. d a multiple of 16.
 *
 * Source: DESIGN section 4; rotation as in QuaRot (Ashkboos et al. 2024). Pure. */
#ifndef SP_KERN_PLANES_H
#define SP_KERN_PLANES_H

#include "fmt/quant.h"

#include <string.h>

enum { SP_PAGE_TOK = 32 }; /* tokens of a KV page; DESIGN section 4 */
enum { SP_MAX_HEAD = 512 }; /* largest d of a quantised page */

#define SP_ERR_UP 1.000001f /* covers the rounding of a norm's product and root */

/* Smallest f16, and smallest bf16, that is not below x >= 0. */
static inline sp_f16 sp_f16_up(float x)
{
    sp_f16 h = sp_f16_from_f32(x);
    return sp_f16_to_f32(h) < x ? (sp_f16)(h + 1) : h;
}
static inline uint16_t sp_bf16_up(float x)
{
    union { float f; uint32_t u; } v = {.f = x};
    return (uint16_t)((v.u + 0xffffu) >> 16);
}

/* Signs of the rotation for elements i .. i + 15, one bit each, 1 for minus: an integer hash, as
 * arbitrary as a fixed rule can be. */
static inline uint16_t sp_rot_minus(size_t i)
{
    uint32_t x = (uint32_t)(i + 1) * 0x9e3779b1u;
    x = (x ^ x >> 15) * 0x85ebca77u;
    return (uint16_t)(x ^ x >> 13);
}

typedef struct sp_planes {
    uint8_t *k_hi, *v_hi, *k_lo, *v_lo; /* lo planes NULL on a demoted page */
    sp_f16 *k_scale, *v_scale, *k_mean;
    uint16_t *k_err;
} sp_planes;

static inline size_t sp_planes_lo_bytes(size_t d)
{
    return 32 * d;
}
static inline size_t sp_planes_hi_bytes(size_t d)
{
    return (32 * d + 3 * 2 * SP_PAGE_TOK + 2 * d + 63) & ~(size_t)63;
}
/* hi, lo: the two parts, 64-byte aligned; lo NULL where it was dropped. */
static inline sp_planes sp_planes_at(void *hi, void *lo, size_t d)
{
    uint8_t *h = hi, *l = lo;
    sp_planes p = {.k_hi = h, .v_hi = h + 16 * d, .k_lo = l, .v_lo = l ? l + 16 * d : NULL};
    p.k_scale = (sp_f16 *)(void *)(h + 32 * d);
    p.k_err = p.k_scale + SP_PAGE_TOK;
    p.v_scale = p.k_err + SP_PAGE_TOK;
    p.k_mean = p.v_scale + SP_PAGE_TOK;
    return p;
}

/* The bytes of a hi part behind its last field, so that pages on disk hold nothing undefined. */
static inline void sp_planes_zero_rest(const sp_planes *p, size_t d)
{
    memset(p->k_mean + d, 0, sp_planes_hi_bytes(d) - (32 * d + 3 * 2 * SP_PAGE_TOK + 2 * d));
}

/* What sp_kern.attn_prep and attn_planes need for n_q queries. */
static inline size_t sp_attn_prep_bytes(size_t n_q, size_t d)
{
    return (n_q + 15) / 16 * 16 * (5 * d + 64);
}
static inline size_t sp_attn_scratch_bytes(size_t n_q, size_t d)
{
    return 68 * d + (n_q + 15) / 16 * 16 * (d + 2) * sizeof(float); /* a page in bytes, states of 16 */
}

#endif
