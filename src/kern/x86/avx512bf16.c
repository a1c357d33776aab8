/* AVX-512 BF16: products of BF16 weights, with activations rounded to BF16 (as the weights are).
 * Two products a lane and instruction; the rest is avx512vnni.c. */
#include "kern/x86/avx512.h"

#define ROWS_PAIRS 1
typedef __m512bh vw;

INLINE vw rows_x(const char *x)
{
    return (vw)_mm512_loadu_si512(x);
}
INLINE vw rows_w(sp_type type, const char *w)
{
    (void)type;
    return rows_x(w);
}
INLINE vf rows_add(vf acc, vw w, vw x)
{
    return _mm512_dpbf16_ps(acc, w, x);
}

#define ROWS_R 4
#define ROWS_T 6
#include "kern/gemm_rows.h"

static void narrow_bf16(uint16_t *out, const float *x, size_t k)
{
    for (size_t i = 0; i < k; i += 16) {
        __mmask16 in = first16(k - i);
        __m256i h = (__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(in, x + i));
        _mm256_mask_storeu_epi16(out + i, in, h);
    }
}

void sp_kern_init_avx512bf16(sp_kern *k)
{
    k->isa = "avx512bf16";
    k->narrow_bf16 = narrow_bf16;
    k->gemm_f[SP_BF16] = gemm_bf16;
}
