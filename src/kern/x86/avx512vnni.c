/* AVX-512 VNNI kernels: what vpdpbusd makes faster; the rest is avx512.c. */
#include "kern/x86/avx512.h"

#define MAX_T 12
#define TILE_STEPS STEP(12); STEP(8); STEP(4); STEP(2); STEP(1);
#include "kern/gemm_tile.h"

static uint64_t int_peak(size_t rounds, uint32_t *out)
{
    __m512i a[12], x = _mm512_set1_epi8(3);
    for (int k = 0; k < 12; k++)
        a[k] = _mm512_set1_epi32(k);
    for (size_t i = 0; i < rounds; i++)
        for (int k = 0; k < 12; k++)
            a[k] = _mm512_dpbusd_epi32(a[k], x, x);
    for (int k = 1; k < 12; k++)
        a[0] = _mm512_add_epi32(a[0], a[k]);
    *out = (uint32_t)_mm512_cvtsi512_si32(a[0]);
    return (uint64_t)rounds * 12 * 64;
}

void sp_kern_init_avx512vnni(sp_kern *k)
{
    k->isa = "avx512vnni";
    tile_init(k);
    sp_attn_vnni_init(k);
    k->int_peak = int_peak;
}
