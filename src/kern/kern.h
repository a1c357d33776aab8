/* CPU kernels behind one table of function pointers. `ref/` fills the whole table in plain C and is
 * the specification; `x86/` overrides entries by what the CPU has and the mask allows.
 *
 * Two properties every implementation keeps:
 * 1. A result for (row, token) never depends on how many rows or tokens share the call, so that
 *    batching, chunking and threads change no answer.
 * 2. Integer parts are exact; float parts differ from ref/ only by rounding order.
 *
 * Needs:   all pointers are to f32 unless said; no alignment is required except where stated.
 * Errors:  none; callers validate. Threads: pure; concurrent calls may share inputs.
 * Exact:   tolerances per entry are named in test/kern/check.c. */
#ifndef SP_KERN_KERN_H
#define SP_KERN_KERN_H

#include "fmt/quant.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Quantised rows taken apart into one common form, whatever their type:
 *     w[i] = d[i / 16] * q[i] + m[i / 16]
 * A scale for each 16 elements fits every supported type (Q6_K, Q3_K and Q2_K have blocks of 16).
 *   q  u8  [n_row, k]         d, m  f32 [n_row, k / 16]      k a multiple of 32 */
typedef struct sp_kern_rows {
    uint8_t *q;
    float *d, *m;
} sp_kern_rows;

/* Activations quantised to 8 bits: x[i] ~ d[i / 32] * q[i], |q| <= 127.
 *   q  s8 [n_tok, k]   d  f32 [n_tok, k / 32]   sum  f32 [n_tok, k / 16] = d * (sum of 16 q) */
typedef struct sp_kern_acts {
    int8_t *q;
    float *d, *sum;
} sp_kern_acts;

typedef struct sp_kern sp_kern;
struct sp_kern {
    const char *isa; /* "scalar", "avx2", "avx512vnni" */

    /* One quantised row of k elements into q, d, m. NULL for F32, F16 and BF16. */
    void (*expand[SP_TYPE_COUNT])(uint8_t *q, float *d, float *m, const void *row, size_t k);
    /* One row of k elements to f32, for F32, F16 and BF16. NULL for quantised types. */
    void (*widen[SP_TYPE_COUNT])(float *out, const void *row, size_t k);

    /* x f32 [k] to f16, round to nearest even */
    void (*narrow_f16)(sp_f16 *out, const float *x, size_t k);
    /* x f32 [k] to q s8 [k], d [k/32], sum [k/16]; round to nearest even of x * (127 / max|x|). */
    void (*quant_act)(int8_t *q, float *d, float *sum, const float *x, size_t k);

    /* out[t * ld + r] = sum_i w[r][i] * x[t][i], over affine rows and quantised activations. */
    void (*gemm_q)(float *out, size_t ld, const sp_kern_rows *w, const sp_kern_acts *x,
                   size_t n_row, size_t n_tok, size_t k);
    /* The same in f32: w [n_row, k], x [n_tok, k]. */
    void (*gemm_f)(float *out, size_t ld, const float *w, const float *x, size_t n_row,
                   size_t n_tok, size_t k);

    /* out[i] = x[i] * w[i] / sqrt(mean(x^2) + eps) */
    void (*norm_rms)(float *out, const float *x, const float *w, size_t n, float eps);
    /* out[i] = silu(gate[i]) * up[i]; may run in place */
    void (*glu_silu)(float *out, const float *gate, const float *up, size_t n);

    /* One page of online-softmax attention for n_q queries of one KV head.
     *   acc  [n_q, d]   running sum of p * v      max, sum  [n_q]   running maximum and mass
     *   q    [n_q, d]   already scaled            kt [d, 32], v [32, d]   the page, widened
     *   vis  [n_q]      keys of this page each query may see, 0..32
     * Start with acc = 0, max = -INFINITY, sum = 0; the answer is acc / sum.
     * d a multiple of 16. Source: Milakov & Gimelshein 2018 (online softmax). */
    void (*attn_page)(float *acc, float *max, float *sum, const float *q, const float *kt,
                      const float *v, const uint8_t *vis, size_t n_q, size_t d);

    /* Does 8-bit multiply-adds on registers as fast as this level can; returns how many. out: a
     * value that depends on all of them. For measuring the machine, not for models. */
    uint64_t (*int_peak)(size_t rounds, uint32_t *out);
};

enum { SP_PAGE_TOK = 32 }; /* tokens of a KV page; DESIGN section 4 */

typedef enum sp_cpu_level { SP_CPU_SCALAR, SP_CPU_AVX2, SP_CPU_AVX512VNNI, SP_CPU_LEVELS } sp_cpu_level;

/* Best level of this CPU and operating system (cpuid and xgetbv). */
sp_cpu_level sp_cpu_detect(void);
const char *sp_cpu_level_name(sp_cpu_level level);
/* Parses a level name; false if there is none of that name. */
bool sp_cpu_level_parse(sp_cpu_level *out, const char *name);

/* Fills the table for at most `mask`, and never above what the CPU has. */
void sp_kern_init(sp_kern *k, sp_cpu_level mask);
/* Dequantises one row of any supported type with this table. scratch: k bytes + k/8 floats. */
void sp_kern_row_f32(const sp_kern *kern, float *out, sp_type type, const void *row, size_t k,
                     void *scratch);
static inline size_t sp_kern_row_scratch(size_t k)
{
    return k + k / 16 * 2 * sizeof(float);
}

/* The layers below sp_kern_init; not for other folders. */
void sp_kern_init_ref(sp_kern *k);
void sp_kern_init_avx2(sp_kern *k);
void sp_kern_init_avx512vnni(sp_kern *k);

#endif
