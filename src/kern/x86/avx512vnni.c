/* AVX-512 VNNI kernels: what vpdpbusd makes faster; the rest is avx512.c. */
#include "kern/x86/avx512.h"

#define MAX_T 12
#define TILES(T) T(1) T(2) T(3) T(4) T(5) T(6) T(7) T(8) T(9) T(10) T(11) T(12)
#include "kern/gemm_tile.h"

/* vpdpbusd takes one side unsigned: rows get 128 added by a flipped sign bit, and 128 times the sum
 * of q is taken away. */
static void dot_i8(int32_t *out, const int8_t *q, const int8_t *rows, size_t n_row, size_t n)
{
    const __m512i sign = _mm512_set1_epi8((char)0x80);
    const __mmask64 rest = ~(__mmask64)0 >> ((64 - n % 64) % 64);
    int32_t shift = 0;
    for (size_t i = 0; i < n; i++)
        shift += 128 * q[i];
    for (size_t r = 0; r < n_row; r++, rows += n) {
        __m512i sum = _mm512_setzero_si512();
        for (size_t i = 0; i < n; i += 64) {
            __mmask64 m = i + 64 > n ? rest : ~(__mmask64)0;
            sum = _mm512_dpbusd_epi32(sum,
                                      _mm512_xor_si512(_mm512_maskz_loadu_epi8(m, rows + i), sign),
                                      _mm512_maskz_loadu_epi8(m, q + i));
        }
        out[r] = _mm512_reduce_add_epi32(sum) - shift;
    }
}

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
    k->dot_i8 = dot_i8;
}
