/* Products and attention by sdot and udot (Armv8.2 DotProd); the rest is neon.c. */
#include "kern/arm/neon.h"

#define MAX_T 6
#define TILES(T) T(1) T(2) T(3) T(4) T(5) T(6)
#include "kern/gemm_tile.h"

#include "kern/arm/attn_dot.h"

static uint64_t int_peak(size_t rounds, uint32_t *out)
{
    int32x4_t a[12];
    int8x16_t x = vdupq_n_s8(3);
    for (int k = 0; k < 12; k++)
        a[k] = vdupq_n_s32(k);
    for (size_t i = 0; i < rounds; i++) {
        UNROLL
        for (int k = 0; k < 12; k++)
            a[k] = vdotq_s32(a[k], x, x);
    }
    for (int k = 1; k < 12; k++)
        a[0] = vaddq_s32(a[0], a[k]);
    *out = (uint32_t)vaddvq_s32(a[0]);
    return (uint64_t)rounds * 12 * 16;
}

void sp_kern_init_dotprod(sp_kern *k)
{
    k->isa = "dotprod";
    tile_init(k);
    attn_init(k);
    k->int_peak = int_peak;
}
