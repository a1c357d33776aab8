/* AVX2 + FMA + F16C kernels. Compiled with those flags; called only where the CPU has them.
 *
 * vpmaddubsw adds pairs of u8 * s8 in 16 bits. Codes of up to 6 bits cannot overflow it; 8-bit
 * codes are taken as s8 and multiplied as |w| * (x with the sign of w), which fits too. */
#include "kern/x86/avx2.h"

#define MAX_T 4
#define TILES(T) T(1) T(2) T(3) T(4)
/* Two vectors of rows share each load of activations; with three tokens their sums fill the 16
 * registers. Fewer tokens are quicker by a tile, but where unpacking takes a gather. */
#define LAID_FROM(type) (sp_grid_is(type) ? 2 : sp_pack_bits(type) == 8 ? 8 : 5)
#define LAID_R 2
#define LAID_T 3
#include "kern/gemm_tile.h"
#include "kern/x86/grid_avx2.h"
#include "kern/planes_tile.h"
#define ATTN_T 2
#include "kern/vec_tile.h"

#include "kern/dot_tile.h"
#include "kern/scan_tile.h"
#define ROWS_R 3
#define ROWS_T 4
#include "kern/gemm_rows.h"

INLINE vf vf_swap(vf v, size_t h)
{
    return h == 1 ? _mm256_permute_ps(v, 0xb1)
         : h == 2 ? _mm256_permute_ps(v, 0x4e)
                  : _mm256_permute2f128_ps(v, v, 1);
}
INLINE vf vf_minus(vf v, unsigned m)
{
    const __m256i lane = _mm256_set_epi32(128, 64, 32, 16, 8, 4, 2, 1);
    __m256i in = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32((int)m), lane), lane);
    return _mm256_xor_ps(v, _mm256_castsi256_ps(_mm256_slli_epi32(in, 31)));
}
#include "kern/rotate_tile.h"

static void narrow_f16(sp_f16 *out, const float *x, size_t k)
{
    size_t i = 0;
    for (; i + 8 <= k; i += 8)
        _mm_storeu_si128((__m128i *)(out + i),
                         _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT));
    for (; i < k; i++)
        out[i] = _cvtss_sh(x[i], _MM_FROUND_TO_NEAREST_INT);
}

static uint64_t int_peak(size_t rounds, uint32_t *out)
{
    __m256i a[8], x = _mm256_set1_epi16(3);
    for (int k = 0; k < 8; k++)
        a[k] = _mm256_set1_epi16((short)k);
    for (size_t i = 0; i < rounds; i++)
        for (int k = 0; k < 8; k++)
            a[k] = _mm256_add_epi16(a[k], _mm256_maddubs_epi16(x, a[k]));
    for (int k = 1; k < 8; k++)
        a[0] = _mm256_add_epi32(a[0], a[k]);
    *out = (uint32_t)_mm256_extract_epi32(a[0], 0);
    return (uint64_t)rounds * 8 * 32;
}

void sp_kern_init_avx2(sp_kern *k)
{
    k->isa = "avx2";
    tile_init(k);
    grid_init(k);
    rows_init(k);
    vec_init(k);
    scan_init(k);
    sp_attn_avx2_init(k);
    k->rotate = rotate;
    k->narrow_f16 = narrow_f16;
    k->dot_i8 = dot_i8;
    k->int_peak = int_peak;
}
