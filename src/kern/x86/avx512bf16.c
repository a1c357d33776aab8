/* AVX-512 BF16: products of BF16 weights, with activations rounded to BF16 (as the weights are). Two
 * products a lane and instruction; the rest is avx512vnni.c. */
#include "kern/x86/avx512.h"

enum { R = 4, T = 6, STEP = 32, K_CHUNK = 2048, AHEAD_BYTES = 8192 };

static void narrow_bf16(uint16_t *out, const float *x, size_t k)
{
    for (size_t i = 0; i < k; i += 16) {
        __mmask16 in = first16(k - i);
        __m256i h = (__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(in, x + i));
        _mm256_mask_storeu_epi16(out + i, in, h);
    }
}

INLINE __m512bh load_pairs(const uint16_t *p, __mmask32 in)
{
    return (__m512bh)_mm512_maskz_loadu_epi16(in, p);
}

INLINE void step(__m512 acc[R][T], const uint16_t *w, size_t k, const uint16_t *x, size_t ld, __mmask32 in,
                 const size_t n_r, const size_t n_t)
{
    __m512bh wv[R];
    UNROLL
    for (size_t r = 0; r < n_r; r++) {
        wv[r] = load_pairs(w + r * k, in);
        PREFETCH((const char *)(w + r * k) + (n_t == 1 ? AHEAD_BYTES : n_r * k * sizeof *w)); /* else the next rows */
    }
    UNROLL
    for (size_t t = 0; t < n_t; t++) {
        __m512bh xv = load_pairs(x + t * ld, in);
        UNROLL
        for (size_t r = 0; r < n_r; r++)
            acc[r][t] = _mm512_dpbf16_ps(acc[r][t], wv[r], xv);
    }
}

INLINE void tile(const sp_gemm_f_args *g, size_t r0, size_t t0, size_t from, size_t to, const size_t n_r, const size_t n_t)
{
    const size_t k = g->k, ld = g->ld_x;
    const uint16_t *w = (const uint16_t *)g->w + r0 * k, *x = (const uint16_t *)g->x + t0 * ld;
    __m512 acc[R][T];
    size_t i = from;
    UNROLL
    for (size_t r = 0; r < n_r; r++) {
        UNROLL
        for (size_t t = 0; t < n_t; t++)
            acc[r][t] = _mm512_setzero_ps();
    }
    for (; i + STEP <= to; i += STEP)
        step(acc, w + i, k, x + i, ld, 0xffffffffu, n_r, n_t);
    if (i < to)
        step(acc, w + i, k, x + i, ld, (1u << (to - i)) - 1, n_r, n_t);
    bool add = g->add || from > 0;
    UNROLL
    for (size_t r = 0; r < n_r; r++) {
        UNROLL
        for (size_t t = 0; t < n_t; t++) {
            float sum = sum512(acc[r][t]), *o = &g->out[(t0 + t) * g->ld + r0 + r];
            *o = add ? *o + sum : sum;
        }
    }
}

INLINE size_t chunk_end(size_t k, size_t from)
{
    return k - from < K_CHUNK ? k : from + K_CHUNK;
}

INLINE void strip(const sp_gemm_f_args *g, size_t t, const size_t n_t)
{
    for (size_t from = 0; from < g->k; from += K_CHUNK) {
        size_t to = chunk_end(g->k, from), r = 0;
        for (; r + R <= g->n_row; r += R)
            tile(g, r, t, from, to, R, n_t);
        for (; r < g->n_row; r++)
            tile(g, r, t, from, to, 1, n_t);
    }
}

static void gemm_bf16(const sp_gemm_f_args *g)
{
    size_t t = 0;
    for (; t + T <= g->n_tok; t += T)
        strip(g, t, T);
    for (; t + 2 <= g->n_tok; t += 2)
        strip(g, t, 2);
    for (; t < g->n_tok; t++) /* bound by memory: one stream, row after row */
        for (size_t r = 0; r < g->n_row; r++)
            for (size_t from = 0; from < g->k; from += K_CHUNK)
                tile(g, r, t, from, chunk_end(g->k, from), 1, 1);
}

void sp_kern_init_avx512bf16(sp_kern *k)
{
    k->isa = "avx512bf16";
    k->narrow_bf16 = narrow_bf16;
    k->gemm_f[SP_BF16] = gemm_bf16;
}
