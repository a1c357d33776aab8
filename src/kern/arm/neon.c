/* NEON kernels for every AArch64 CPU. */
#include "kern/arm/neon.h"

#define MAX_T 6
#define TILES(T) T(1) T(2) T(3) T(4) T(5) T(6)
#include "kern/gemm_tile.h"
#include "kern/planes_tile.h"
#define ATTN_T 2
#include "kern/vec_tile.h"

#include "kern/dot_tile.h"
#include "kern/scan_tile.h"
#define ROWS_R 4
#define ROWS_T 4
#include "kern/gemm_rows.h"

INLINE vf vf_swap(vf v, size_t h)
{
    return h == 1 ? vrev64q_f32(v) : vextq_f32(v, v, 2);
}
INLINE vf vf_minus(vf v, unsigned m)
{
    const uint32x4_t lane = {1, 2, 4, 8};
    uint32x4_t in = vtstq_u32(vdupq_n_u32(m), lane);
    return vreinterpretq_f32_u32(veorq_u32(vreinterpretq_u32_f32(v), vshlq_n_u32(in, 31)));
}
#include "kern/rotate_tile.h"

static void narrow_f16(sp_f16 *out, const float *x, size_t k)
{
    size_t i = 0;
    for (; i + 4 <= k; i += 4)
        vst1_u16(out + i, vreinterpret_u16_f16(vcvt_f16_f32(vld1q_f32(x + i))));
    for (; i < k; i++)
        out[i] = sp_f16_from_f32(x[i]);
}

void sp_kern_init_neon(sp_kern *k)
{
    k->isa = "neon";
    tile_init(k);
    rows_init(k);
    vec_init(k);
    scan_init(k);
    k->rotate = rotate;
    k->narrow_f16 = narrow_f16;
    k->dot_i8 = dot_i8;
}
