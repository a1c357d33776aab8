/* The kernels of the CUDA device as a table of plain C functions, which a shared library gives:
 * libsparing_cuda.so where nvcc built it, libsparing_cuda_host.so where g++ built the same sources
 * over threads that are imitated (simt_host.h). The server loads one when it starts, so it neither
 * needs CUDA to be built nor to run.
 *
 * This header is read by C, by g++ and by nvcc: plain types only, and no other header of the
 * project. Pointers are device memory unless said. Functions return 0 or an error number for
 * error_text; work is ordered on one stream, and read, write and sync wait for what was started
 * before. Threads: one at a time, as sp_dev says. */
#ifndef SP_DEV_CUDA_LIB_H
#define SP_DEV_CUDA_LIB_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { SP_CUDA_VERSION = 4 };
enum {
    SP_CUDA_ROWS = 16 /* queries that one block attends with */,
    SP_CUDA_LATENT_ROWS = 32 /* the same over latents, whose heads share one key */,
    SP_CUDA_PART = 16 /* pages whose attention is one state */,
    SP_CUDA_FEW = 8 /* query heads a KV head that certified attention takes at most */,
    SP_CUDA_CUTS = 8 /* that a search looks at together */,
    SP_CUDA_SAMPLE = 4 /* tokens of a span whose queries choose pages */,
    SP_CUDA_LOOK = 64 /* tokens that they are taken from */,
    SP_CUDA_BEST = 64 /* logits of a row that are listed */,
    SP_CUDA_BEST_PART = 8192 /* logits of a block */,
    SP_CUDA_FP8_ROWS = 64 /* rows of a band of an e4m3 weight */,
    SP_CUDA_FP8_K = 128 /* elements of k of a tile, and that share a scale of the other factor */
};

/* Which memory: SP_CUDA_PAGED can be read and written by the host too, between operations. */
typedef enum sp_cuda_mem { SP_CUDA_DEVICE, SP_CUDA_PAGED } sp_cuda_mem;

typedef enum sp_cuda_type {
    SP_CUDA_F32,
    SP_CUDA_F16,
    SP_CUDA_BF16,
    SP_CUDA_Q8_0,
    SP_CUDA_Q4_0,
    SP_CUDA_Q4_1,
    SP_CUDA_Q4_K,
    SP_CUDA_Q5_K,
    SP_CUDA_Q6_K,
    SP_CUDA_MXFP4,
    SP_CUDA_TYPES
} sp_cuda_type;

/* Rows of a weight: quants first, what else a block holds at at[0..2] of the row; each part begins
 * at 16 bytes. Q4_K: 16-byte heads {d, dmin, scales} at at[0]; Q5_K: the same, then high bits;
 * Q6_K: high bits, scales, d; Q4_1: pairs {d, m}; MXFP4: exponents, a byte each. */
typedef struct sp_cuda_rows {
    const void *data;
    sp_cuda_type type;
    uint32_t n_row, k, k_pad; /* k_pad: k rounded up to 32; elements behind k are zeros */
    uint32_t row_bytes, at[3];
} sp_cuda_rows;

/* out[i] = scale * row id[i] of w, elements [from, from + n) */
typedef struct sp_cuda_embed {
    float *out;
    sp_cuda_rows w;
    const uint32_t *id;
    uint32_t n_id, from, n;
    float scale;
} sp_cuda_embed;

/* f(x) in the form that a product takes: f16 times 2^shift for each row, or hi + lo in bf16, or
 * codes of sp_cuda_fp8. */
typedef struct sp_cuda_prep {
    uint16_t *hi, *lo; /* [n_row, k_pad]; lo NULL: f16 */
    char *codes;       /* NULL; or sp_cuda_fp8.x, and hi and lo are not written; k_pad: to 128 */
    float *unit;       /* f16: [n_row], what products are multiplied by; codes: sp_cuda_fp8.unit */
    const float *x;    /* rows ld apart */
    const float *norm; /* RMS, [k], or NULL */
    const float *up;   /* act: [n_row, k] or NULL */
    const uint32_t *row; /* [n_row]: which row of x each is; NULL: its own */
    uint32_t n_row, k, k_pad, act, ld;
    float eps;
} sp_cuda_prep;

/* Slots [from, from + n) of an expert. */
typedef struct sp_cuda_tile {
    uint32_t expert, from, n;
} sp_cuda_tile;

/* Of experts, tile given: rows of hi, lo, unit and out are slots, and of w expert e has rows
 * [e * each + skip, + n_out). n_beside given: token t of head h < n_beside is row t * n_beside + h
 * of hi, lo, unit and out, and meets rows [h * each, + n_out). Else n_out is all rows of w. */
typedef struct sp_cuda_product {
    float *out; /* rows ld apart */
    sp_cuda_rows w;
    const uint16_t *hi, *lo;
    const float *unit, *bias; /* bias NULL or [experts, n_out] */
    const sp_cuda_tile *tile; /* NULL or [n_tile] */
    const float *scales;      /* tile: NULL or [experts], in the place of scale */
    uint32_t n_tok, add, ld, n_out, n_tile, tile_tok, each, skip, n_beside;
    float scale;
} sp_cuda_product;

/* out[tok] = scale * w . x[tok], both in e4m3. Tiles are as a tensor core reads them: byte k of
 * row r at 128 r + ((k / 16 ^ r % 8) << 4) + k % 16, 128 elements of k. n_kb: k / 128, rounded up;
 * what lies behind k is 0.
 *   w     bands of 64 rows, each n_kb tiles of 64 rows, then f32 [64], what its rows are multiplied
 *         by; from a multiple of 16 bytes
 *   x     [n_kb, n_group] tiles of 8 tokens, n_group = n_tok / 8 rounded up; the last may hold
 *         anything in rows that are no tokens
 *   unit  f32 [n_kb, 8 n_group], what a token's elements of a tile are multiplied by */
typedef struct sp_cuda_fp8 {
    float *out; /* rows ld apart */
    const void *w, *x;
    const float *unit, *bias; /* bias NULL or [n_out] */
    uint32_t n_tok, n_out, n_kb, ld, add;
    float scale;
} sp_cuda_fp8;

/* dev.h: sp_dev_route. score: logits, in whose places scores come. */
typedef struct sp_cuda_choose {
    uint32_t *pick; /* [n_row, n_used] */
    float *weight;  /* [n_row, n_used] */
    float *score;   /* [n_row, n_expert] */
    const float *pick_bias, *weight_scale;
    uint32_t n_row, n_expert, n_used, n_group, n_group_used, by_one, kind, normed;
    float router_scale, scale;
} sp_cuda_choose;

/* Gives choices their slots, experts in order, and in each the rows in order. */
typedef struct sp_cuda_sort {
    const uint32_t *pick;
    uint32_t *slot;     /* [n_slot] of choice i */
    uint32_t *row;      /* [n_slot] of slot i */
    uint32_t *first;    /* [n_expert + 1]: an expert's slots end where the next one's begin */
    sp_cuda_tile *tile; /* [n_tile], no fewer than min(n_slot, n_expert) + n_slot / tile_tok */
    uint32_t n_slot, n_used, n_expert, n_tile, tile_tok;
} sp_cuda_sort;

/* out [n_row, k] = the sum of weight times y [slot] over each row's choices */
typedef struct sp_cuda_gather {
    float *out;
    const float *y, *weight;
    const uint32_t *slot;
    uint32_t n_row, n_used, k;
} sp_cuda_gather;

/* out [n_row, n] = x, rows ld apart */
typedef struct sp_cuda_tail {
    float *out;
    const float *x;
    uint32_t n_row, n, ld_out, ld_x;
} sp_cuda_tail;

typedef struct sp_cuda_norm {
    float *out;
    const float *x, *w, *b; /* b NULL: RMS without one */
    uint32_t n_row, n;
    float eps;
} sp_cuda_norm;

typedef struct sp_cuda_table {
    float *cs;
    const uint32_t *pos;
    const float *freq;
    uint32_t n_row, half, back;
    float scale;
} sp_cuda_table;

typedef struct sp_cuda_heads {
    float *x;
    const float *norm, *cs, *scale;
    uint32_t n_row, n_head, d, n_norm, whole, norm_last, d_rot, halves, first;
    float eps;
} sp_cuda_heads;

typedef struct sp_cuda_join {
    float *x, *y;
    const float *norm;
    uint32_t n_row, n;
    float eps, scale;
} sp_cuda_join;

typedef struct sp_cuda_gate {
    float *x;
    const float *norm, *gate;
    uint32_t n_row, n_head, d, norm_last, act, is_row;
    float eps;
} sp_cuda_gate;

/* How pages hold keys and values. */
typedef enum sp_cuda_kv {
    SP_CUDA_KV_F32,
    SP_CUDA_KV_F16,
    SP_CUDA_KV_BF16,
    SP_CUDA_KV_Q8, /* from here on they are rotated */
    SP_CUDA_KV_FP8,
    SP_CUDA_KVS
} sp_cuda_kv;

/* Tokens of one span that fall into one page. Addresses are of what all layers share: a layer lies
 * own_at, hi_at or lo_at behind, so that one list serves all layers of a step. */
typedef struct sp_cuda_store_item {
    char *own; /* plain elements */
    char *hi;  /* NULL; or the page is full then, and its heads are written here */
    char *lo;  /* NULL: demoted */
    uint32_t row, slot, n;
} sp_cuda_store_item;

typedef struct sp_cuda_store {
    const float *k, *v; /* v NULL: latents, pages hold keys only */
    const sp_cuda_store_item *item;
    uint32_t n_item, n_head, d, kind, own_at, hi_at, lo_at, plain_bytes, hi_bytes, lo_bytes;
} sp_cuda_store;

/* Slots [slot, slot + n) of a page become rows [row, + n). */
typedef struct sp_cuda_move_item {
    const char *hi, *lo; /* as in sp_cuda_page */
    uint32_t slot, n, row;
} sp_cuda_move_item;

/* Keys and values of pages, not rotated, as k, v [rows, n_head, d]; v NULL: latents. Keys turn by
 * the one row cs (dev.h: sp_dev_turn). */
typedef struct sp_cuda_move {
    float *k, *v;
    const sp_cuda_move_item *item;
    const float *cs, *norm; /* or NULL */
    uint32_t n_item, n_head, d, kind, hi_at, lo_at, hi_bytes, lo_bytes, d_rot, halves, first;
} sp_cuda_move;

/* n_rows queries (of sp_cuda_attn) or fewer of one span and page, and which pages they meet. Query
 * i of a KV head is head i % group of token i / group. */
typedef struct sp_cuda_attn_item {
    const char *own;   /* plain page of the queries, met last; NULL: not here */
    uint32_t row, pos; /* of the page's first token of the span */
    uint32_t q0, n_q;  /* queries [q0, q0 + n_q) */
    uint32_t tab;      /* page i is tab[tab + i] */
    uint32_t from, to; /* pages */
    uint32_t state;    /* where the result goes */
    uint32_t starts;   /* begins with the sinks */
    uint32_t cert;     /* with `only`: of which certified query it is a part */
    /* 0; or page i of KV head h is tab[tab + list[list + h * n_list + i]] */
    uint32_t list, n_list;
} sp_cuda_attn_item;

/* Joins states [state, state + n_state) and writes the answers. */
typedef struct sp_cuda_attn_end {
    uint32_t row, q0, n_q, state, n_state, starts;
} sp_cuda_attn_end;

typedef struct sp_cuda_page {
    const char *hi, *lo; /* lo NULL: none, or demoted */
} sp_cuda_page;

/* What certified attention found of one query token and KV head. */
typedef struct sp_cuda_cert_head {
    float norm[SP_CUDA_FEW];                   /* of the queries, in bits, from above */
    float top[SP_CUDA_FEW], mass[SP_CUDA_FEW]; /* of estimates: 2^top times mass */
    float left[SP_CUDA_FEW];                   /* most that is left out, in units of 2^top */
    float kept[SP_CUDA_FEW]; /* at least what was attended, the same; 0: nothing was yet */
    float scale;             /* largest of the keys that were scanned */
    float cut[SP_CUDA_CUTS]; /* ascending, that are looked at; step apart as logarithms */
    float first, step;       /* logarithm of cut[0] */
    float best;              /* keys of rank below are left out; 0: none is known yet */
    float loss;              /* certified, the largest of the queries */
    uint32_t is_open;        /* it is being searched */
    uint32_t is_dense;       /* everything is attended */
    uint32_t n_kept, n_pair; /* scanned keys that were attended; pairs of neighbours of them */
} sp_cuda_cert_head;

typedef struct sp_cuda_attn {
    float *out;
    const float *q;
    uint16_t *qh; /* [rows * n_q_head, d]: scratch */
    float *state; /* [states, n_head, n_rows, d + 2]: scratch; then max and sum */
    const sp_cuda_page *tab;
    const sp_cuda_attn_item *item;
    const sp_cuda_attn_end *end;
    const float *sinks;
    const uint32_t *list;          /* NULL; or of items */
    const sp_cuda_cert_head *only; /* NULL; or [..., n_head]: items run where theirs is dense */
    /* n_rows: SP_CUDA_ROWS, or of latents SP_CUDA_LATENT_ROWS; n_out: elements of an answer, d or
     * those of a latent */
    uint32_t n_row, n_item, n_end, n_head, group, d, kind, own_at, hi_at, lo_at, hi_bytes, lo_bytes,
        plain_bytes, window, n_rows, n_out;
    float scale, cap;
} sp_cuda_attn;

/* One query token whose attention is certified (docs/ATTENTION.md). Its own page is attended as an
 * item of sp_cuda_attn before. */
typedef struct sp_cuda_cert_item {
    uint32_t row;          /* of the token */
    uint32_t part, n_part; /* parts [part, part + n_part) */
    uint32_t own;          /* state of its own page */
    uint32_t n_page;       /* that are scanned */
    float eps;
} sp_cuda_cert_item;

/* Pages [from, to) of one part, and where their state goes. The query sees tokens from `seen` on.
 * Pages from `whole` on are scanned; one before it is attended. */
typedef struct sp_cuda_cert_part {
    uint32_t item, tab, from, to, whole, seen, state;
    uint32_t always; /* bit i % SP_CUDA_PART: page i is attended whatever it weighs */
} sp_cuda_cert_part;

/* What is known of a part and a KV head. */
typedef struct sp_cuda_cert_work {
    float max[SP_CUDA_FEW], sum[SP_CUDA_FEW]; /* of estimates: 2^max times sum */
    float scale_max;
    float bound[SP_CUDA_PART][2];
    float scale[SP_CUDA_PART * 32];
    /* Of keys below a cut, in units of 2^max: what they weigh at most; estimated. */
    float tail[SP_CUDA_CUTS][SP_CUDA_FEW][2];
    uint32_t n_kept, n_pair;
} sp_cuda_cert_work;

typedef struct sp_cuda_cert {
    sp_cuda_attn a;
    const sp_cuda_cert_item *item;
    const sp_cuda_cert_part *part;
    sp_cuda_cert_work *work; /* [n_part, n_head]: scratch */
    float *raw;              /* [n_part, n_head, group, SP_CUDA_PART * 32]: scratch, estimates */
    sp_cuda_cert_head *head; /* [n_item, n_head] */
    uint32_t n_item, n_part;
} sp_cuda_cert;

/* One span whose pages are chosen: pages [0, n_page) before it, of which each head's list gets
 * n_list - n_own, then the n_own behind them. */
typedef struct sp_cuda_keep_item {
    uint32_t row, n_look, step; /* tokens that are looked at: row + i * step, i < n_look */
    uint32_t n_page, n_own, n_list, tab;
    uint32_t mass; /* pages of the items before it */
    uint32_t must; /* bit i % 32 of must[must + i / 32]: page i is attended in any case */
    uint32_t list; /* list[list + h * n_list]: of KV head h */
    uint32_t out;
} sp_cuda_keep_item;

typedef struct sp_cuda_keep_part {
    uint32_t item, from, to;
} sp_cuda_keep_part;

/* What pages that were left out weigh to the sampled queries: in all, and to the worst. */
typedef struct sp_cuda_kept {
    float sum_missed, max_missed;
} sp_cuda_kept;

typedef struct sp_cuda_keep {
    sp_cuda_attn a;
    const sp_cuda_keep_item *item;
    const sp_cuda_keep_part *part;
    uint32_t *sample; /* [n_item, n_head, SP_CUDA_SAMPLE]: scratch, as are mass and rank */
    float *mass;      /* [pages, n_head, SP_CUDA_SAMPLE * group] */
    float *rank;      /* [pages, n_head] */
    const uint32_t *must;
    uint32_t *list;
    sp_cuda_kept *out; /* [n_item, n_head] */
    uint32_t n_item, n_part;
} sp_cuda_keep;

typedef struct sp_cuda_full {
    float *out;
    const float *q, *k, *v;
    uint32_t n, n_head, n_head_kv, d, causal, window;
    float scale;
} sp_cuda_full;

/* dev.h: sp_dev_best. is_odd: some logit is a NaN or +infinity. */
typedef struct sp_cuda_best_row {
    uint32_t id[SP_CUDA_BEST];
    float logit[SP_CUDA_BEST];
    uint32_t n, n_finite, is_odd;
    float mass;
} sp_cuda_best_row;

typedef struct sp_cuda_best {
    sp_cuda_best_row *out;  /* [n_row] */
    sp_cuda_best_row *part; /* [n_row, n_part]: scratch */
    const float *x;         /* [n_row, n] */
    const float *temperature;
    uint32_t n_row, n, n_part; /* n_part: n / SP_CUDA_BEST_PART, rounded up */
} sp_cuda_best;

/* A copy of the state behind the first n tokens of a pass. */
typedef struct sp_cuda_mark {
    uint32_t n;
    char *state;
} sp_cuda_mark;

/* Rows [row, row + n) of one sequence go through its state; mark [mark, mark + n_mark) ascend. */
typedef struct sp_cuda_pass {
    uint32_t row, n, mark, n_mark;
    const char *state; /* NULL: zeros */
    char *next;        /* may be `state` */
} sp_cuda_pass;

/* dev.h: sp_dev_conv, sp_dev_delta, sp_dev_ssm */
typedef struct sp_cuda_conv {
    float *out, *x;
    const float *in_gate, *out_gate, *w, *bias;
    const sp_cuda_pass *pass;
    const sp_cuda_mark *mark;
    uint32_t ld, n_tap, n_chan, is_silu, n_pass;
    size_t state_at;
} sp_cuda_conv;

typedef struct sp_cuda_delta {
    float *out;
    const float *x, *beta, *alpha, *dt, *a;
    const sp_cuda_pass *pass;
    const sp_cuda_mark *mark;
    uint32_t ld, n_beside, step, n_head_k, n_head, d_k, d_v, neighbours, n_pass;
    float eps;
    size_t state_at;
} sp_cuda_delta;

typedef struct sp_cuda_ssm {
    float *out;
    const float *x, *dt, *dt_bias, *a, *skip;
    const sp_cuda_pass *pass;
    const sp_cuda_mark *mark;
    uint32_t n_group, n_head, d_k, d_v, n_pass;
    size_t state_at;
} sp_cuda_ssm;

/* Graphs of steps (record.h): made, started, and arguments that they were told afterwards. */
typedef struct sp_cuda_counts {
    uint64_t n_made, n_started, n_told;
} sp_cuda_counts;

typedef struct sp_cuda_lib {
    uint32_t version;
    const char *name; /* "cuda", "cuda_host" */
    /* 0, or why [n] says what is missing: a driver, a device */
    int (*open)(char *why, size_t n);
    void (*close)(void); /* drops graphs */
    const char *(*error_text)(int err);
    int (*mem_new)(void **out, size_t n_bytes, sp_cuda_mem kind);
    int (*mem_free)(void *p);
    int (*read)(void *host, const void *p, size_t n_bytes);
    int (*write)(void *p, const void *host, size_t n_bytes);
    int (*copy)(void *to, const void *from, size_t n_bytes);
    int (*zero)(void *p, size_t n_bytes);
    int (*sync)(void);
    /* Between the two what is started may be put off until something is read; end_step waits. */
    int (*begin_step)(void);
    int (*end_step)(void);
    void (*counts)(sp_cuda_counts *out);

    int (*embed)(const sp_cuda_embed *a);
    int (*prep)(const sp_cuda_prep *a);
    int (*product)(const sp_cuda_product *a);
    int (*fp8)(const sp_cuda_fp8 *a);
    int (*choose)(const sp_cuda_choose *a);
    int (*sort)(const sp_cuda_sort *a);
    int (*gather)(const sp_cuda_gather *a);
    int (*tail)(const sp_cuda_tail *a);
    int (*conv)(const sp_cuda_conv *a);
    int (*delta)(const sp_cuda_delta *a);
    int (*ssm)(const sp_cuda_ssm *a);
    int (*norm)(const sp_cuda_norm *a);
    int (*table)(const sp_cuda_table *a);
    int (*heads)(const sp_cuda_heads *a);
    int (*join)(const sp_cuda_join *a);
    int (*gate)(const sp_cuda_gate *a);
    int (*soft_cap)(float *x, size_t n, float scale, float cap);
    int (*add)(float *x, const float *y, size_t n);
    int (*halve)(float *first, float *second, const float *x, size_t n_row, size_t n_head,
                 size_t d);
    int (*store)(const sp_cuda_store *a);
    int (*move)(const sp_cuda_move *a);
    /* query, then keep, then any number of attn and cert, or of latent, then attn_end */
    int (*query)(const sp_cuda_attn *a);
    int (*keep)(const sp_cuda_keep *a);
    int (*attn)(const sp_cuda_attn *a);
    int (*latent)(const sp_cuda_attn *a);
    int (*cert)(const sp_cuda_cert *a);
    int (*attn_end)(const sp_cuda_attn *a);
    int (*full)(const sp_cuda_full *a);
    int (*best)(const sp_cuda_best *a);
} sp_cuda_lib;

/* What a library exports. */
const sp_cuda_lib *sp_cuda_library(void);

int sp_cuda_has_wgmma(void); /* has the device that was opened what bulk.h needs? */

/* The operations, each in its own .cu. */
int sp_cuda_embed_run(const sp_cuda_embed *a);
int sp_cuda_prep_run(const sp_cuda_prep *a);
int sp_cuda_product_run(const sp_cuda_product *a);
int sp_cuda_fp8_run(const sp_cuda_fp8 *a);
int sp_cuda_choose_run(const sp_cuda_choose *a);
int sp_cuda_sort_run(const sp_cuda_sort *a);
int sp_cuda_gather_run(const sp_cuda_gather *a);
int sp_cuda_tail_run(const sp_cuda_tail *a);
int sp_cuda_conv_run(const sp_cuda_conv *a);
int sp_cuda_delta_run(const sp_cuda_delta *a);
int sp_cuda_ssm_run(const sp_cuda_ssm *a);
int sp_cuda_norm_run(const sp_cuda_norm *a);
int sp_cuda_table_run(const sp_cuda_table *a);
int sp_cuda_heads_run(const sp_cuda_heads *a);
int sp_cuda_join_run(const sp_cuda_join *a);
int sp_cuda_gate_run(const sp_cuda_gate *a);
int sp_cuda_soft_cap_run(float *x, size_t n, float scale, float cap);
int sp_cuda_add_run(float *x, const float *y, size_t n);
int sp_cuda_halve_run(float *first, float *second, const float *x, size_t n_row, size_t n_head,
                      size_t d);
int sp_cuda_store_run(const sp_cuda_store *a);
int sp_cuda_move_run(const sp_cuda_move *a);
int sp_cuda_query_run(const sp_cuda_attn *a);
int sp_cuda_keep_run(const sp_cuda_keep *a);
int sp_cuda_attn_run(const sp_cuda_attn *a);
int sp_cuda_latent_run(const sp_cuda_attn *a);
int sp_cuda_cert_run(const sp_cuda_cert *a);
int sp_cuda_attn_end_run(const sp_cuda_attn *a);
int sp_cuda_full_run(const sp_cuda_full *a);
int sp_cuda_best_run(const sp_cuda_best *a);

#ifdef __cplusplus
}
#endif
#endif
