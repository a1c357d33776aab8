/* CPU kernels behind one table of function pointers. `ref/` fills the whole table in plain C and is
 * the specification; `x86/` and `arm/` override entries by what the CPU has and the mask allows.
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

#include "kern/pack.h"
#include "kern/planes.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* 32 activations quantised to 8 bits: x[i] ~ d * q[i], |q| <= 127. What a product wants of a block
 * lies together, so that one address register serves it. */
typedef struct sp_act_blk {
    int8_t q[32];
    float d, sum32, sum16[2]; /* d * (sum of q of the block, of each half) */
} sp_act_blk;

/* Activations of tokens, k / 32 blocks each. Rows are an odd number of cache lines apart, so that
 * the rows of a tile do not fall into the same cache set. */
typedef struct sp_kern_acts {
    uint8_t *mem; /* 64-byte aligned */
    size_t stride;
} sp_kern_acts;

static inline size_t sp_acts_stride(size_t k)
{
    return ((k / 32 * sizeof(sp_act_blk) + 63) / 64 | 1) * 64;
}
static inline sp_act_blk *sp_acts_row(const sp_kern_acts *a, size_t t)
{
    return (sp_act_blk *)(void *)(a->mem + t * a->stride);
}

/* out[t * ld + r] = sum_i w[r][i] * x[t][i] for packed rows [0, n_row) and tokens [0, n_tok). */
typedef struct sp_gemm_args {
    float *out;
    size_t ld;
    const void *w; /* tiles of kern/pack.h; the first row is the first of a tile */
    const sp_kern_acts *x;
    size_t n_row, n_tok, k;
    bool add;           /* add to out instead of writing it */
    const float *scale; /* what all sums are multiplied by; NULL: 1 */
} sp_gemm_args;

enum { SP_GEMM_TALL = 16, SP_GEMM_TALL_K = 1 << 14 };

/* The same over plain rows w [n_row, k] of F32, F16 or BF16; x f32, or bf16 (narrow_bf16), rows
 * ld_x elements apart. */
typedef struct sp_gemm_f_args {
    float *out;
    size_t ld;
    const void *w, *x;
    size_t ld_x;
    size_t n_row, n_tok, k;
    bool add;
} sp_gemm_f_args;

/* What stands between the two matrices of a feed-forward part. */
typedef enum sp_act {
    SP_ACT_NONE,
    SP_ACT_SILU,      /* x / (1 + e^-x) */
    SP_ACT_GELU_TANH, /* x / (1 + e^-2z), z = sqrt(2 / pi) (x + 0.044715 x^3) */
    SP_ACT_GELU_ERF,  /* x (1 + erf(x / sqrt 2)) / 2 */
    SP_ACT_RELU2,     /* max(x, 0)^2 */
    SP_ACT_SIGMOID,   /* 1 / (1 + e^-x) */
    /* x / (1 + e^-1.702x) with x <= 7; up + 1 in the place of up, within -7 and 7 */
    SP_ACT_CLAMPED,
    SP_ACTS
} sp_act;

enum { SP_FEW = 8, SP_PART_PAGES = 16, SP_PART_TOK = SP_PART_PAGES * SP_PAGE_TOK };

/* How much keys of each page of a part can weigh beyond what their hi planes say, to one query: see
 * attn_tail in scan_tile.h. */
typedef struct sp_tail {
    float lin[SP_PART_PAGES], quad[SP_PART_PAGES], few[SP_PART_PAGES];
} sp_tail;

/* What a scan of one part leaves for n_q queries. Key j of page g is element j * SP_PART_PAGES + g
 * of each array of SP_PART_TOK; pages that are not there weigh nothing. */
typedef struct sp_scan {
    float *est;       /* [n_q][SP_PART_TOK]: scores in bits, from the hi planes */
    float *raw;       /* [n_q][SP_PART_TOK]: the same before the cap; est where there is none */
    float cap;        /* sp_attn_see's */
    float *scale;     /* [SP_PART_TOK] of the keys */
    sp_tail *tail;    /* [n_q] */
    float *max, *sum; /* [n_q]: of est, and of 2^(est - max) */
} sp_scan;

static inline size_t sp_scan_bytes(size_t n_q, float cap)
{
    return (((cap > 0) * n_q + n_q + 1) * SP_PART_TOK + 2 * 16) * sizeof(float) +
           n_q * sizeof(sp_tail);
}
static inline sp_scan sp_scan_at(void *at, size_t n_q, float cap)
{
    sp_scan s = {.est = at, .raw = at, .cap = cap};
    s.scale = s.est + n_q * SP_PART_TOK;
    s.max = s.scale + SP_PART_TOK;
    s.sum = s.max + 16;
    s.tail = (sp_tail *)(void *)(s.sum + 16);
    if (cap > 0)
        s.raw = (float *)(void *)(s.tail + n_q);
    return s;
}

/* Many queries: keys that weigh too little to matter, by exact scores. */
typedef struct sp_cut {
    const float *least; /* [n_q] bits: keys of lower score weigh nothing */
    float *drop;        /* out [n_q]: what they would have weighed, in units of 2^max */
    /* added to: groups of 4 keys and 16 queries, and those whose values were read */
    size_t n_quad, n_used;
} sp_cut;

/* Which keys queries see, counted from the first of a call's pages, and what becomes of their
 * scores. */
typedef struct sp_attn_see {
    const uint16_t *from; /* [n_q]: keys before it are not seen; NULL: all 0 */
    const uint16_t *to;   /* [n_q]: nor those from here on; NULL: all are */
    float cap;            /* bits: a score s counts as cap * tanh(s / cap); 0: as s */
} sp_attn_see;

/* Quantised pages and who attends to them. */
typedef struct sp_attn_pages {
    const void *prep; /* of the queries */
    const sp_planes *page;
    size_t n_page, n_q, d;
    sp_attn_see see; /* without `to` */
    /* NULL, or which keys to leave out; taken into account with more than SP_FEW queries only */
    sp_cut *cut;
    void *scratch;   /* sp_attn_scratch_bytes(n_q, d) */
} sp_attn_pages;

enum { SP_DELTA_COLS = 16 /* values of a head whose part of the state lies together */ };

/* The gated delta rule over n tokens, for SP_DELTA_COLS values of one head. With the state S [d_k,
 * SP_DELTA_COLS]:
 *   S = decay S;   S += k (beta (v - k^T S))^T;   out = q^T S
 * Source: Yang, Kautz and Hatamizadeh 2024 (Gated Delta Networks), equation 10. */
typedef struct sp_delta_args {
    float *out;           /* rows of SP_DELTA_COLS, ld_out apart */
    size_t ld_out;
    float *state;         /* in place */
    const float *q, *k;   /* [n, d_k] */
    const float *v;       /* rows of SP_DELTA_COLS, ld_v apart */
    size_t ld_v;
    const float *decay, *beta; /* [n] */
    size_t n, d_k;        /* d_k a multiple of 16 */
} sp_delta_args;

/* A state space over n tokens, for SP_DELTA_COLS values of one head. With the state S [d,
 * SP_DELTA_COLS]:
 *   S = decay S + b (step x)^T;   out = c^T S + skip x
 * Source: Dao and Gu 2024 (Mamba-2), section 3.1. */
typedef struct sp_ssm_args {
    float *out;          /* rows of SP_DELTA_COLS, ld_out apart */
    size_t ld_out;
    float *state;        /* in place */
    const float *b, *c;  /* rows of d, ld apart */
    const float *x;      /* rows of SP_DELTA_COLS, ld apart */
    size_t ld;
    const float *decay, *step; /* [n] */
    float skip;
    size_t n, d;         /* d even */
} sp_ssm_args;

typedef struct sp_kern sp_kern;
struct sp_kern {
    const char *isa; /* "scalar", "avx2", ... */

    /* One row of k elements to f32, for F32, F16 and BF16. NULL for quantised types. */
    void (*widen[SP_TYPE_COUNT])(float *out, const void *row, size_t k);

    /* x f32 [k] to f16, round to nearest even */
    void (*narrow_f16)(sp_f16 *out, const float *x, size_t k);
    /* x f32 [k] to the record of token t; q rounds x * (127 / max|x|) to nearest even. */
    void (*quant_act)(const sp_kern_acts *out, size_t t, const float *x, size_t k);
    /* Over packed weights; NULL for F32, F16 and BF16. sp_kern_gemm_q chooses between both. */
    void (*gemm_q[SP_TYPE_COUNT])(const sp_gemm_args *g);
    /* The same bits, faster, for SP_GEMM_TALL tokens or more and k up to SP_GEMM_TALL_K; NULL where
     * a level has nothing of the kind. */
    void (*gemm_tall[SP_TYPE_COUNT])(const sp_gemm_args *g);
    /* Over plain rows; NULL for packed types. */
    void (*gemm_f[SP_TYPE_COUNT])(const sp_gemm_f_args *g);
    /* x f32 [k] to bf16, to nearest even. Not NULL: gemm_f[SP_BF16] takes its x so. */
    void (*narrow_bf16)(uint16_t *out, const float *x, size_t k);

    /* out[i] = x[i] * w[i] / sqrt(mean(x^2) + eps) */
    void (*norm_rms)(float *out, const float *x, const float *w, size_t n, float eps);
    /* out[i] = act(gate[i]) * up[i]; up NULL: act(gate[i]) alone, not for SP_ACT_CLAMPED. May run
     * in place. */
    void (*glu[SP_ACTS])(float *out, const float *gate, const float *up, size_t n);
    /* x[i] = cap * tanh(x[i] * scale / cap), in place */
    void (*soft_cap)(float *x, size_t n, float scale, float cap);

    /* turns (x[i], x[half + i]) by the angle whose cos is cs[i] and whose sin is cs[half + i], for
     * i < half */
    void (*turn_halves)(float *x, const float *cs, size_t half);
    /* out[i] = x[i] * y[i]; may run in place */
    void (*mul)(float *out, const float *x, const float *y, size_t n);
    /* out[i] = bias[i] + the sum of w[j * ld + i] * in[j][i] over j < n_tap, in this order, for i <
     * n; bias NULL: 0 */
    void (*conv)(float *out, const float *const *in, const float *w, size_t ld, const float *bias,
                 size_t n_tap, size_t n);
    void (*delta)(const sp_delta_args *a);
    void (*ssm)(const sp_ssm_args *a);
    /* out[i] += x[i] */
    void (*add)(float *out, const float *x, size_t n);
    /* out = (x - mean) / sqrt(variance + eps) * w + b, over n; may run in place */
    void (*norm_layer)(float *out, const float *x, const float *w, const float *b, size_t n,
                       float eps);

    /* out = scale * x [d], turned into the space keys and values are stored in: signs, then a
     * Hadamard transform of blocks of the largest power of two in d, orthonormal. back: the
     * inverse. d a multiple of 16; may run in place. */
    void (*rotate)(float *out, const float *x, float scale, size_t d, bool back);

    /* One page of online-softmax attention for n_q queries of one KV head. Scores are in bits: q is
     * scaled by log2(e), weights are 2^(score - max).
     *   acc  [n_q, d]   running sum of p * v      max, sum  [n_q]   running maximum and mass
     *   q    [n_q, d]   already scaled            kt [d, 32], v [32, d]   the page, widened Start
     *        with acc = 0, max = -INFINITY, sum = 0; the answer is acc / sum. A query that sees no
     *        key of the page keeps its state to the bit. d a multiple of 16. Source: Milakov &
     *        Gimelshein 2018 (online softmax). */
    void (*attn_page)(float *acc, float *max, float *sum, const float *q, const float *kt,
                      const float *v, const sp_attn_see *see, size_t n_q, size_t d);
    /* Joins the state (p_acc, p_max, p_sum) of other keys into (acc, max, sum). */
    void (*attn_join)(float *acc, float *max, float *sum, const float *p_acc, const float *p_max,
                      const float *p_sum, size_t n_q, size_t d);

    /* Quantised pages (kern/planes.h): from a full f16 page kt [d, 32], v [32, d], and back to f32.
     * v NULL: keys only. */
    void (*planes_put)(const sp_planes *out, const sp_f16 *kt, const sp_f16 *v, size_t d);
    void (*planes_get)(float *kt, float *v, const sp_planes *in, size_t d);
    /* Attention over quantised pages with 8-bit queries and weights; NULL where planes_get and
     * attn_page are faster. prep: sp_attn_prep_bytes(n_q, d), made once for the queries. Writes the
     * state (acc, max, sum) of these pages alone. */
    void (*attn_prep)(void *prep, const float *q, size_t n_q, size_t d);
    void (*attn_planes)(float *acc, float *max, float *sum, const sp_attn_pages *a);

    /* Certified attention (docs/ATTENTION.md) of n_q <= SP_FEW queries of one KV head over one part
     * of its pages; NULL where there is none. n_page <= SP_PART_PAGES, prepared by attn_prep. In
     * this order:
     *   scan  s->est, raw and scale
     *   mass  s->max, sum and tail, from est and norm [n_q] = |q|
     *   tail  left [n_q]: the most that keys of rank < cut can weigh, in units of 2^max; plain
     *         [n_q]: about what
     *         they weigh by est. A key's rank is the largest of 2^(est - max) z over the queries,
     *         or a little
     *         above; that of keys in the pages `always`, a bit each, is infinite
     *   pick  elements of rank >= cut; returns how many. Writes up to 16 more. *n_pair: pairs of
     *         neighbours that
     *         hold any, for counting cache lines
     *   rows  as attn_planes, over the keys of elements at [n] only, whose lo planes it reads */
    void (*attn_scan)(const sp_scan *s, const float *q, const void *prep, const sp_planes *page,
                      size_t n_page, size_t n_q, size_t d);
    void (*attn_mass)(const sp_scan *s, const float *norm, const sp_planes *page, size_t n_page,
                      size_t n_q);
    void (*attn_tail)(float *left, float *plain, const sp_scan *s, const float *z, float cut,
                      uint32_t always, size_t n_q);
    size_t (*attn_pick)(uint16_t *at, size_t *n_pair, const sp_scan *s, const float *z, float cut,
                        uint32_t always, size_t n_q);
    void (*attn_rows)(float *acc, float *max, float *sum, const sp_scan *s, const float *q,
                      const void *prep, const sp_planes *page, const uint16_t *at, size_t n,
                      size_t n_q, size_t d, void *scratch);

    /* out[r] = sum of q[i] * rows[r][i] over i < n, exact; rows [n_row, n] dense, n <= 2^16 */
    void (*dot_i8)(int32_t *out, const int8_t *q, const int8_t *rows, size_t n_row, size_t n);

    /* Does 8-bit multiply-adds on registers as fast as this level can; returns how many. out: a
     * value that depends on all of them. For measuring the machine, not for models. */
    uint64_t (*int_peak)(size_t rounds, uint32_t *out);
    /* Reads n_bytes (a multiple of 512) front to back as fast as this level can. */
    uint64_t (*read_all)(const void *p, size_t n_bytes);
};

/* Products of packed weights by gemm_tall where it may be asked, else by gemm_q. */
static inline void sp_kern_gemm_q(const sp_kern *k, sp_type type, const sp_gemm_args *g)
{
    bool is_tall = k->gemm_tall[type] && g->n_tok >= SP_GEMM_TALL && g->k <= SP_GEMM_TALL_K;
    (is_tall ? k->gemm_tall : k->gemm_q)[type](g);
}

typedef enum sp_cpu_level {
    SP_CPU_SCALAR,
#if defined(__aarch64__)
    SP_CPU_NEON,
    SP_CPU_DOTPROD,
    SP_CPU_I8MM, /* and DotProd */
#else
    SP_CPU_AVX2,
    SP_CPU_AVXVNNI, /* and AVX2; many CPUs of the levels below lack it */
    SP_CPU_AVX512, /* F, BW, DQ, VL */
    SP_CPU_AVX512VNNI,
    SP_CPU_AVX512BF16, /* and VNNI */
    SP_CPU_AMX,        /* products of 8 bits; and BF16 */
#endif
    SP_CPU_LEVELS
} sp_cpu_level;

/* Best level of this CPU and operating system (cpuid and xgetbv; AMX: the system is asked for its
 * registers). */
sp_cpu_level sp_cpu_detect(void);
/* Are the kernels of every level built? false: those of the machine where it was built, alone. */
bool sp_cpu_is_whole(void);
#if defined(__x86_64__)
/* What cpuid (by leaf and register) and xgetbv say of a CPU and its operating system. */
typedef struct sp_cpuid {
    uint32_t leaf1_c, leaf7_b, leaf7_c, leaf7_d, leaf7_1_a;
    uint64_t xcr0;
    bool may_tile; /* the system lets this process use tile registers */
} sp_cpuid;
/* The levels such a CPU has, a bit each. */
uint32_t sp_cpu_levels_of(const sp_cpuid *r);
#endif
const char *sp_cpu_level_name(sp_cpu_level level);
/* All names, for messages: "scalar, avx2, ...". */
const char *sp_cpu_level_names(void);
/* Parses a level name; false if there is none of that name. */
bool sp_cpu_level_parse(sp_cpu_level *out, const char *name);

/* Fills the table from all levels up to `mask` that the CPU has: each overrides entries of those
 * before it. */
void sp_kern_init(sp_kern *k, sp_cpu_level mask);
/* Row r of a weight matrix of any supported type to f32 [k]: packed tiles for quantised types,
 * plain rows for F32, F16 and BF16. */
void sp_kern_row_f32(const sp_kern *kern, float *out, sp_type type, const void *w, size_t r,
                     size_t k);

/* The layers below sp_kern_init; not for other folders. */
void sp_kern_init_ref(sp_kern *k);
void sp_kern_init_neon(sp_kern *k);
void sp_kern_init_dotprod(sp_kern *k);
void sp_kern_init_i8mm(sp_kern *k);
void sp_kern_init_avx2(sp_kern *k);
void sp_kern_init_avxvnni(sp_kern *k);
void sp_kern_init_avx512(sp_kern *k);
void sp_kern_init_avx512vnni(sp_kern *k);
void sp_kern_init_avx512bf16(sp_kern *k);
void sp_kern_init_amx(sp_kern *k);
void sp_attn_avx2_init(sp_kern *k);
void sp_attn_avxvnni_init(sp_kern *k);
void sp_attn_vnni_init(sp_kern *k);

#endif
