/* A quantised KV page of one KV head of one layer: 32 keys and values as two planes of 4 bits.
 *
 * Keys are rotated (sp_kern.rotate) and centred: with the page's mean c, a key is
 *     k[i] = c[i] + s * (code[i] - 128),   code = 16 hi + lo, 8 bits The hi plane alone reads as
 *     k[i] = c[i] + s * (16 hi[i] + 7.5 - 128). What that leaves out of key j is s[j] * r[j] with r
 *     = lo - 7.5, and the page states two bounds on it, rounded up, so that scores can be bounded
 *     before the lo plane is read (docs/ATTENTION.md):
 *     |r[j]| <= err for each token            |q . r[j] s[j]| <= |q| s[j] err      (Cauchy-Schwarz)
 *     the matrix of all r has norm <= spec    sum over j of (q . r[j])^2 <= (|q| spec)^2
 * Values are v[i] = s_v * (code[i] - 128), and
 * likewise without lo. Dropping the lo planes is all that demotion does.
 *
 * Keys of the hi plane lie with tokens side by side, because all of them are always read;
 * everything that may be read for single tokens lies in rows:
 *   k_hi        [d / 8][32 tok][4]  byte (g, j, i): dimension 4 g + i in the low nibble and
 *                                   4 (g + d / 8) + i in the high one
 *   v_hi        [32 tok][d / 2]     byte (j, i): dimension i low, i + d / 2 high
 *   k_scale f16 [32]   v_scale f16 [32]   k_mean f16 [d]   bound f32 [2]: err, spec
 *   lo          [32 tok][d]         d / 2 bytes of the key, byte 4 g + i as in k_hi; d / 2 of the
 *               value A page of keys only, whose values are the keys themselves, lacks v_hi and
 *               v_scale, and its lo rows have d / 2 bytes. The hi part (both hi planes and what
 *               follows) and the lo part are each contiguous; docs/FORMATS.md gives the bytes. d a
 *               multiple of 16.
 *
 * Source: DESIGN section 4; rotation as in QuaRot (Ashkboos et al. 2024). Pure. */
#ifndef SP_KERN_PLANES_H
#define SP_KERN_PLANES_H

#include "fmt/quant.h"

#include <string.h>

enum { SP_PAGE_TOK = 32 }; /* tokens of a KV page; DESIGN section 4 */
enum { SP_MAX_HEAD = 512 }; /* largest d of a quantised page */
/* the same of keys only: a latent of 512 and 64 elements that RoPE turns */
enum { SP_MAX_KEY = 576 };

#define SP_ERR_UP 1.000001f  /* covers the rounding of a root */
#define SP_SPEC_UP 1.0005f   /* covers the rounding of the products behind spec */
/* A weight counts as this power of two of the largest at least: bounds are made of its square,
 * which must not underflow. */
#define SP_POW2_LEAST -40

/* Smallest f16 that is not below x >= 0. */
static inline sp_f16 sp_f16_up(float x)
{
    sp_f16 h = sp_f16_from_f32(x);
    return sp_f16_to_f32(h) < x ? (sp_f16)(h + 1) : h;
}

/* Signs of the rotation for elements i .. i + 15, one bit each, 1 for minus: an integer hash, as
 * arbitrary as a fixed rule can be. */
static inline uint16_t sp_rot_minus(size_t i)
{
    uint32_t x = (uint32_t)(i + 1) * 0x9e3779b1u;
    x = (x ^ x >> 15) * 0x85ebca77u;
    return (uint16_t)(x ^ x >> 13);
}

typedef struct sp_planes_bound {
    float err, spec;
} sp_planes_bound;

typedef struct sp_planes {
    uint8_t *k_hi, *v_hi; /* v_hi, v_lo, v_scale NULL: keys only */
    uint8_t *k_lo, *v_lo; /* of token 0, lo_row bytes to the next; NULL on a demoted page */
    sp_f16 *k_scale, *v_scale, *k_mean;
    sp_planes_bound *bound;
    size_t lo_row, n_rest; /* n_rest: bytes behind bound that belong to the hi part */
} sp_planes;

static inline size_t sp_planes_lo_bytes(size_t d)
{
    return 32 * d;
}
static inline size_t sp_planes_hi_used(size_t d)
{
    return 32 * d + 2 * 2 * SP_PAGE_TOK + 2 * d + sizeof(sp_planes_bound);
}
static inline size_t sp_planes_hi_bytes(size_t d)
{
    return (sp_planes_hi_used(d) + 63) & ~(size_t)63;
}
/* hi, lo: the two parts, 64-byte aligned; lo NULL where it was dropped. */
static inline sp_planes sp_planes_at(void *hi, void *lo, size_t d)
{
    uint8_t *h = hi, *l = lo;
    sp_planes p = {.k_hi = h,
                   .v_hi = h + 16 * d,
                   .k_lo = l,
                   .v_lo = l ? l + d / 2 : NULL,
                   .lo_row = d,
                   .n_rest = sp_planes_hi_bytes(d) - sp_planes_hi_used(d)};
    p.k_scale = (sp_f16 *)(void *)(h + 32 * d);
    p.v_scale = p.k_scale + SP_PAGE_TOK;
    p.k_mean = p.v_scale + SP_PAGE_TOK;
    p.bound = (sp_planes_bound *)(void *)(p.k_mean + d);
    return p;
}

/* The same of keys only. */
static inline size_t sp_planes_keys_lo_bytes(size_t d)
{
    return 16 * d;
}
static inline size_t sp_planes_keys_hi_used(size_t d)
{
    return 16 * d + 2 * SP_PAGE_TOK + 2 * d + sizeof(sp_planes_bound);
}
static inline size_t sp_planes_keys_hi_bytes(size_t d)
{
    return (sp_planes_keys_hi_used(d) + 63) & ~(size_t)63;
}
static inline sp_planes sp_planes_keys_at(void *hi, void *lo, size_t d)
{
    uint8_t *h = hi;
    sp_planes p = {.k_hi = h, .k_lo = lo, .lo_row = d / 2,
                   .n_rest = sp_planes_keys_hi_bytes(d) - sp_planes_keys_hi_used(d)};
    p.k_scale = (sp_f16 *)(void *)(h + 16 * d);
    p.k_mean = p.k_scale + SP_PAGE_TOK;
    p.bound = (sp_planes_bound *)(void *)(p.k_mean + d);
    return p;
}

/* The bytes of a hi part behind its last field, so that pages on disk hold nothing undefined. */
static inline void sp_planes_zero_rest(const sp_planes *p)
{
    memset(p->bound + 1, 0, p->n_rest);
}

/* Where element i of token j lies, and in which nibble. */
typedef struct sp_nibble {
    uint8_t *hi, *lo; /* lo NULL on a demoted page */
    unsigned shift;
} sp_nibble;

static inline sp_nibble sp_planes_key(const sp_planes *p, size_t i, size_t j, size_t d)
{
    size_t g = i / 4 % (d / 8), e = i % 4;
    return (sp_nibble){p->k_hi + (g * SP_PAGE_TOK + j) * 4 + e,
                       p->k_lo ? p->k_lo + j * p->lo_row + 4 * g + e : NULL, i < d / 2 ? 0 : 4};
}
static inline sp_nibble sp_planes_value(const sp_planes *p, size_t i, size_t j, size_t d)
{
    size_t b = i % (d / 2);
    return (sp_nibble){p->v_hi + j * (d / 2) + b, p->v_lo ? p->v_lo + j * p->lo_row + b : NULL,
                       i < d / 2 ? 0 : 4};
}

/* The norm of what the lo plane adds, from above: with G the Gram matrix of r, its largest
 * eigenvalue l satisfies l^16 <= trace(G^16) = |G^8|^2, three squarings. Each step scales by the
 * trace so that nothing overflows. spec <= n^(1/32) = 1.11 times the truth. */
enum { SP_SPEC_STEPS = 3 };
static inline float sp_spec_scale(float g[SP_PAGE_TOK * SP_PAGE_TOK])
{
    float t = 0;
    for (size_t i = 0; i < SP_PAGE_TOK; i++)
        t += g[i * SP_PAGE_TOK + i];
    for (size_t i = 0; i < SP_PAGE_TOK * SP_PAGE_TOK; i++)
        g[i] *= 1.0f / t;
    return t;
}
static inline float sp_spec_bound(const float g[SP_PAGE_TOK * SP_PAGE_TOK],
                                  const float t[SP_SPEC_STEPS])
{
    double f = 0;
    for (size_t i = 0; i < SP_PAGE_TOK * SP_PAGE_TOK; i++)
        f += (double)g[i] * (double)g[i];
    float l = (float)__builtin_sqrt(f);
    for (size_t s = SP_SPEC_STEPS; s-- > 0;)
        l = t[s] * __builtin_sqrtf(l);
    return __builtin_sqrtf(l) * SP_SPEC_UP;
}

/* What sp_kern.attn_prep and attn_planes need for n_q queries. */
static inline size_t sp_attn_prep_bytes(size_t n_q, size_t d)
{
    return (n_q + 15) / 16 * 16 * (5 * d + 64);
}
static inline size_t sp_attn_scratch_bytes(size_t n_q, size_t d)
{
    /* a page in bytes, states of 16 */
    return 68 * d + (n_q + 15) / 16 * 16 * (d + 4) * sizeof(float);
}

#endif
