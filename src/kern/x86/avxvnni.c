/* AVX-VNNI kernels, vpdpbusd in registers of 256 bits, for CPUs that have it but no AVX-512:
 * Intel's for desktops and laptops since 2021. The rest is avx2.c. */
#include "kern/x86/avx2.h"

#define MAX_T 6
#define TILES(T) T(1) T(2) T(3) T(4) T(5) T(6)
#include "kern/gemm_tile.h"

static uint64_t int_peak(size_t rounds, uint32_t *out)
{
    __m256i a[12], x = _mm256_set1_epi8(3);
    for (int k = 0; k < 12; k++)
        a[k] = _mm256_set1_epi32(k);
    for (size_t i = 0; i < rounds; i++)
        for (int k = 0; k < 12; k++)
            a[k] = dot256(a[k], x, x);
    for (int k = 1; k < 12; k++)
        a[0] = _mm256_add_epi32(a[0], a[k]);
    *out = (uint32_t)_mm256_extract_epi32(a[0], 0);
    return (uint64_t)rounds * 12 * 32;
}

void sp_kern_init_avxvnni(sp_kern *k)
{
    k->isa = "avxvnni";
    tile_init(k);
    sp_attn_avxvnni_init(k);
    k->int_peak = int_peak;
}
