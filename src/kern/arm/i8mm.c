/* Products by smmla (Armv8.6 I8MM): 2 rows by 2 tokens by 8 elements an instruction; single tokens
 * take sdot. The rest is neon.c. */
#include "kern/arm/neon.h"

#define VA_PAIRS 1

/* a[0], a[1]: rows 0-1 and 2-3 as (row, token) = (0,0) (0,1) (1,0) (1,1). */
INLINE void va_pair(va *a, vi w0, vi w1, const int8_t *x0, const int8_t *x1, size_t i0, size_t i1)
{
    uint32x4_t u0 = vreinterpretq_u32_u8(w0), u1 = vreinterpretq_u32_u8(w1);
    uint32x4_t x = vdupq_n_u32(word_at(x0 + i0));
    x = vsetq_lane_u32(word_at(x0 + i1), x, 1);
    x = vsetq_lane_u32(word_at(x1 + i0), x, 2);
    x = vsetq_lane_u32(word_at(x1 + i1), x, 3);
    int8x16_t xs = vreinterpretq_s8_u32(x);
    a[0] = vmmlaq_s32(a[0], vreinterpretq_s8_u32(vzip1q_u32(u0, u1)), xs);
    a[1] = vmmlaq_s32(a[1], vreinterpretq_s8_u32(vzip2q_u32(u0, u1)), xs);
}

INLINE void va_unpair(va *a)
{
    va even = vuzp1q_s32(a[0], a[1]), odd = vuzp2q_s32(a[0], a[1]);
    a[0] = even;
    a[1] = odd;
}

#define MAX_T 6
#define TILES(T) T(1) T(2) T(3) T(4) T(5) T(6)
#include "kern/gemm_tile.h"

void sp_kern_init_i8mm(sp_kern *k)
{
    k->isa = "i8mm";
    tile_init(k);
}
