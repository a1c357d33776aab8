/* What kern/attn_tile.h and the code of a level that it calls share: prepared queries, weights, and
 * the sizes of a part of a page. The including file has the primitives of gemm_tile.h and
 * vec_tile.h, and defines vw, a register (or a few) with the weights of 32 tokens as bytes. */
#include "kern/cap_tile.h"
#include "kern/scan_rank.h"

enum {
    TOK = SP_PAGE_TOK,
    GROUP = VR, /* tokens whose scores share a register */
    GROUPS = TOK / GROUP,
    MOST_T = 4, /* queries that read a page together */
    AHEAD = 2,
    SCAN_AHEAD = 4
};

#define MASS_UNIT 4194304.0f /* 2^22: 32 of them fit an int32 */
#define LO_MEAN 7.5f         /* what a dropped lo plane reads as */

/* A prepared query: q s8 [d], f f32 [d], scale and sum of q f32. */
static size_t query_bytes(size_t d)
{
    return 5 * d + 64;
}

/* The floats of prepared query t: f, scale and sum. */
INLINE const float *floats_of(const int8_t *prep, size_t t, size_t d)
{
    return (const float *)(const void *)(prep + t * query_bytes(d) + d);
}

/* What a query weighs 32 tokens with: weights as bytes, and acc = acc * keep + sum * scale. */
typedef struct weights {
    vw w;
    float keep, scale;
    int32_t sum;
} weights;
