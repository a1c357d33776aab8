/* A device: memory, and about twenty coarse operations on f32 rows. The model is written once
 * against this table; CPU and GPU implement it. No model name appears below this line.
 *
 * Pointers named `out`, `x`, … are device memory (on the CPU: ordinary memory). Rows are dense,
 * row-major. An operation is complete when it returns on the CPU and ordered with later ones on a
 * GPU.
 *
 * Errors:  SP_NOMEM or SP_DEV; shapes are the caller's promise (debug builds assert).
 * Owner:   sp_dev_weight borrows its bytes: the caller's device memory, or the file.
 * Threads: one thread drives a device at a time (the step thread).
 * Exact:   a row's result never depends on the other rows of the call. */
#ifndef SP_DEV_DEV_H
#define SP_DEV_DEV_H

#include "base/err.h"
#include "base/pool.h"
#include "fmt/quant.h"
#include "kern/kern.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct sp_dev sp_dev;

/* Where the time goes, for benchmarks: added up while sp_dev.stat is set. */
typedef enum sp_dev_stage {
    SP_STAGE_QKV,
    SP_STAGE_ATTN,
    SP_STAGE_ATTN_OUT,
    SP_STAGE_GLU,
    SP_STAGE_DOWN,
    SP_STAGE_OUTPUT,
    SP_STAGE_REST, /* embedding, RoPE */
    SP_STAGES
} sp_dev_stage;

typedef struct sp_dev_stat {
    uint64_t ns;
    double bytes, macs; /* weights or KV read, multiply-adds done */
} sp_dev_stat;

/* A weight matrix w [n_row, k] of any supported type, in the device's own layout. */
typedef struct sp_dev_weight {
    const void *data; /* device address */
    sp_type type;
    size_t n_row, k;
    /* NULL; or what all its values are multiplied by, in host memory: one number, of experts one
     * for each. Only where the type is widened to f32 before a product (fmt/grid.h): the value that
     * is multiplied is the widened one. */
    const float *scale;
    bool is_fp8; /* it is held as e4m3 (fp8_put); type is that of the file */
} sp_dev_weight;

/* out[j] [n_row, w[j].n_row] = f(x) . w[j]^T (+ bias[j]), for n_w weights that share x [n_row, k].
 * f: RMS norm with weights norm and eps where norm is given, act(x) * up where act is given (up
 * NULL: act(x)), else x. add: the product is added to out (the residual stream). */
typedef struct sp_dev_matmul {
    float *const *out;
    const float *x;
    const float *norm; /* [k] or NULL */
    float eps;
    sp_act act;
    const float *up; /* [n_row, k] or NULL */
    const sp_dev_weight *w;
    const float *const *bias; /* NULL, or n_w pointers of which any may be NULL */
    size_t n_w, n_row;
    bool add;
    sp_dev_stage stage; /* what to book the time under */
} sp_dev_matmul;

/* How a router's logits become scores of experts. */
typedef enum sp_score {
    SP_SCORE_SOFTMAX, /* over all experts */
    SP_SCORE_SIGMOID, /* of each */
    SP_SCORE_CHOSEN,  /* softmax over those chosen, which are the ones of the largest logits */
    SP_SCORES
} sp_score;

/* Which experts a row goes to, and how much each counts: the n_used of the largest score +
 * pick_bias, in this order, equal ones in the order of their numbers. n_group > 1: of the
 * n_group_used groups (n_expert / n_group neighbours) whose two largest have the largest sum, or,
 * group_by_one, whose largest is the largest. Weights are the scores without the bias; normed:
 * divided by their sum, but not by less than 6.1e-5. */
typedef struct sp_dev_route {
    sp_score score;
    size_t n_expert, n_used, n_group, n_group_used;
    bool group_by_one;
    bool normed;
    float scale; /* of the weights, last */
} sp_dev_route;

/* Experts that stay in the file, of which those that rows go to are brought into the device's
 * layout. */
typedef struct sp_dev_shelf sp_dev_shelf;

/* out [n_row, k] = the sum over a row's experts e, in the order of their choice, of its weight
 * times
 *   down[e] . (act(gate[e] . f) * (up[e] . f)) (+ biases), f the RMS norm of x [n_row, k] with
 *   weights norm and eps. The matrices of all experts lie one behind the other, as one tall matrix;
 *   rows of each in packed types are a multiple of 16. Each expert that a row goes to is read once
 *   for all its rows; the others are not. */
typedef struct sp_dev_experts {
    float *out;
    const float *x, *norm;
    float eps;
    size_t n_row, n_ff;
    sp_dev_route route;
    const sp_dev_weight *router;   /* [n_expert, k] */
    const float *router_bias;      /* [n_expert] or NULL */
    const float *router_norm;      /* weights of the norm of what the router takes; NULL: norm */
    float router_scale;            /* of the router's products; 0: none */
    const float *weight_scale;     /* [n_expert]: of a row's weights, last; or NULL */
    const float *pick_bias;        /* [n_expert] or NULL */
    /* 2: gate, up [n_expert * n_ff, k]; is_pair: 1 [n_expert * 2 n_ff, k], gate before up in
     * each */
    const sp_dev_weight *glu;
    bool is_pair;
    bool is_plain;                 /* no gate: down[e] . act(up[e] . f); glu[0] is not read */
    const float *const *glu_bias;  /* 2: [n_expert * n_ff] or NULL */
    sp_act act;
    const sp_dev_weight *down;     /* [n_expert * k, n_ff] */
    const float *down_bias;        /* [n_expert * k] or NULL */
    /* NULL; or the tall matrices are rows of the file, and expert e is the shelf's shelf_first +
     * e */
    sp_dev_shelf *shelf;
    size_t shelf_first;
} sp_dev_experts;

/* How pages store one layer; see sp_kv_format in kv/page.h for whole pages. */
typedef struct sp_dev_kv_view {
    /* of plain pages: SP_F16, SP_BF16 or SP_F32; of the open page of quantised ones: SP_F16 */
    sp_type type;
    bool is_planes;    /* full pages are kern/planes.h */
    bool is_fp8;       /* ... kern/fp8.h: one part; rotated and with an open page as planes are */
    /* KV heads, elements of each; planes: d <= SP_MAX_HEAD, latent ones SP_MAX_KEY */
    size_t n_head, d;
    /* 0; or pages hold keys only, and the first n_latent elements of a key are its value */
    size_t n_latent;
    size_t layer_at;   /* byte offset of the layer inside a page (planes: of its hi parts) */
    /* plain: K^T [d, 32] then V [32, d], which latent pages lack; planes: one hi part */
    size_t head_bytes;
    size_t lo_at, lo_bytes;     /* the same of the lo parts */
    size_t open_at, open_bytes; /* the layer in the open page, and one plain head there */
} sp_dev_kv_view;

/* What attention left out, summed over calls (one call: one KV head of one layer);
 * docs/ATTENTION.md. */
typedef struct sp_dev_cert {
    uint64_t n_call, n_dense;     /* calls; of them, those that read everything after all */
    /* keys before the query's own page; of them, those that were attended */
    uint64_t n_seen, n_kept;
    /* of keys and values read, in whole cache lines; and what dense reads */
    uint64_t bytes, dense_bytes;
    double sum_loss;              /* of the largest certified loss of each call */
    /* many queries at once: groups of 4 keys and 16 queries; those whose values were read */
    uint64_t n_quad, n_used;
    float max_loss;
    uint64_t n_sample;            /* keep: sampled queries; */
    double sum_missed;            /* what pages not chosen would have weighed to them, summed */
    float max_missed;
    uint64_t n_page, n_chosen;    /* pages before a span; those that were attended */
    /* pairs of query and key that were not looked at for it, less those of the sample */
    int64_t n_skipped;
} sp_dev_cert;

/* Positions [from, to). */
typedef struct sp_dev_range {
    uint32_t from, to;
} sp_dev_range;

/* Recurrent layers: where else the state is written that a sequence has behind the first n tokens
 * of its span. */
typedef struct sp_dev_mark {
    size_t n;    /* 1 .. the span's n */
    void *state;
} sp_dev_mark;

/* Queries of one sequence in a batch: rows [row, row + n) are its positions [pos, pos + n). */
typedef struct sp_dev_span {
    size_t row, n, pos;
    void *const *page; /* page i holds positions [32 i, 32 i + 32) */
    void *const *lo;   /* planes: its lo parts, NULL where it is demoted */
    void *open;        /* planes: the plain page being filled; NULL else */
    float eps;         /* share of the attention a head may leave out, certified; 0: none, dense */
    /* > 0, many queries: attend this share of the pages before the span, chosen by a sample of
     * its queries; not certified. 0: all */
    float keep;
    /* keep > 0: from this position on, a whole number of pages, queries attend all of them */
    size_t keep_to;
    /* eps or keep > 0: the pages of these positions are never left out */
    const sp_dev_range *dense;
    size_t n_dense;
    sp_dev_cert *cert; /* eps or keep > 0: added to; or NULL */
    const void *state; /* recurrent layers: the state before the span; NULL: zeros */
    void *next;        /* ... the one behind it is written here, elsewhere than `state` or in its
                          place */
    const sp_dev_mark *mark; /* [n_mark] ascending */
    size_t n_mark;
} sp_dev_span;

/* A causal convolution of each channel over the tokens of a sequence:
 *   out[t][c] = act(bias[c] + sum over j of w[j][c] * u[t - n_tap + 1 + j][c]) * out_gate[t][c],
 *   u = x * in_gate Inputs before the span are in its state, f32 [n_tap - 1, n_chan], oldest first;
 *   the newest take their place. */
typedef struct sp_dev_conv {
    float *out;            /* [n_row, n_chan] */
    float *x;              /* rows of n_chan, ld apart; become u */
    size_t ld;
    const float *in_gate, *out_gate; /* rows as those of x; NULL: none */
    const float *w;        /* [n_tap, n_chan] */
    const float *bias;     /* [n_chan] or NULL */
    sp_act act;            /* SP_ACT_NONE or SP_ACT_SILU */
    size_t n_tap, n_chan;
    const sp_dev_span *span;
    size_t n_span, state_at; /* byte offset of its inputs in a state */
} sp_dev_conv;

/* Stores k, v [n_row, n_head, d] of each span, then attends causally: out, q [n_row, n_q_head, d]
 * over all positions of the span so far, or those of the window. With latent pages out has n_latent
 * elements for each head, and v is NULL. A score is q . k times scale; where cap is given, s
 * becomes cap * tanh(s / cap). A sink is one more score of a query head, of which only the weight
 * in the softmax's denominator counts; scale and cap do not change it. Pages that no query of the
 * call sees are not read. */
typedef struct sp_dev_attn {
    float *out;
    const float *q, *k, *v;
    const sp_dev_kv_view *kv;
    size_t n_q_head;
    float scale;
    const sp_dev_span *span;
    size_t n_span;
    size_t window;      /* 0: none; position p0 is visible to a query at p1 if p1 - p0 < window */
    float cap;          /* 0: none */
    const float *sinks; /* [n_q_head], device memory; NULL: none */
    /* k NULL: an earlier call with the same spans, kv and, > 0, the same kept has stored keys and
     * values. 1 or 2: what the device holds of them outside the pages is kept for such calls, apart
     * from what calls with another number hold. */
    unsigned kept;
} sp_dev_attn;

/* The gated delta rule (kern.h: sp_delta_args) of each head over the tokens of a sequence. A head's
 * queries and keys are brought to length 1 (x / sqrt(sum of x^2 + eps)), queries times 1 /
 * sqrt(d_k) then; its decay is exp(a * ln(1 + e^(alpha + dt))), its beta 1 / (1 + e^-beta). Its
 * state is f32 [d_v / 16, d_k, 16]. d_k and d_v are multiples of 16. */
typedef struct sp_dev_delta {
    float *out;               /* [n_row, n_head, d_v] */
    const float *x;           /* [n_row, 2 n_head_k d_k + n_head d_v]: queries, keys, values */
    const float *beta, *alpha; /* rows ld apart; of head h at h / n_beside * step + h % n_beside */
    size_t ld, n_beside, step;
    const float *dt, *a;      /* [n_head] */
    size_t n_head_k, n_head, d_k, d_v;
    /* neighbouring heads share a head of queries and keys; else those n_head_k apart */
    bool neighbours;
    float eps;
    const sp_dev_span *span;
    size_t n_span, state_at;  /* byte offset of all heads' states in a state */
} sp_dev_delta;

/* A state space (kern.h: sp_ssm_args) of each head over the tokens of a sequence. A head's step is
 * ln(1 + e^(dt + dt_bias)), its decay e^(a * step). Neighbouring heads, n_head / n_group of them,
 * share b and c. Its state is f32 [d_v / 16, d_k, 16]. d_k and d_v are multiples of 16. */
typedef struct sp_dev_ssm {
    float *out;                       /* [n_row, n_head, d_v] */
    const float *x;                   /* [n_row, n_head d_v + 2 n_group d_k]: values, b, c */
    const float *dt;                  /* [n_row, n_head] */
    const float *dt_bias, *a, *skip;  /* [n_head] */
    size_t n_group, n_head, d_k, d_v;
    const sp_dev_span *span;
    size_t n_span, state_at;          /* byte offset of all heads' states in a state */
} sp_dev_ssm;

/* x [n_row, n_head, d] = f(x) * act(gate), f: RMS norm of each head with weights norm [d] and eps
 * where norm is given; norm_last: f(x * act(gate)), each head with weights of its own, norm
 * [n_head, d]. */
typedef struct sp_dev_gate {
    float *x;
    size_t n_row, n_head, d;
    const float *norm;
    bool norm_last;
    float eps;
    sp_act act;
    const float *gate; /* as x; is_row: [n_row], one number for all of a row */
    bool is_row;
} sp_dev_gate;

/* Attention inside [0, n) without pages: each query head attends to KV head `its number / (n_head /
 * n_head_kv)`. */
typedef struct sp_dev_attn_full {
    float *out;         /* [n, n_head, d] */
    const float *q;     /* [n, n_head, d] */
    const float *k, *v; /* [n, n_head_kv, d] */
    size_t n, n_head, n_head_kv, d;
    float scale;
    bool causal;   /* positions behind a query are not visible to it */
    /* 0: none; position p0 is visible from p1 if |p1 - p0| <= window / 2; causal: if p1 - p0 <
     * window */
    size_t window;
} sp_dev_attn_full;

typedef struct sp_dev_rope {
    const float *freq; /* [d_rot / 2] radians per position */
    size_t d_rot;      /* leading elements of each head that turn, even */
    float scale;       /* of cos and sin (YaRN's attention factor); usually 1 */
    bool back;         /* turns the other way */
} sp_dev_rope;

/* How heads are turned by a row's angles: elements (2i, 2i + 1) together, or, `halves`, i and i +
 * d_rot / 2. */
typedef struct sp_dev_turn {
    const float *cs; /* [n_row, d_rot] of rope_table; NULL: not at all */
    size_t d_rot;
    bool halves;
    size_t first;      /* element of the head that d_rot counts from */
    /* kv_move: what keys were multiplied by after they were turned, [d]; or NULL */
    const float *norm;
} sp_dev_turn;

/* Queries or keys x [n_row, n_head, d] between their product and attention, in place: RMS norm with
 * weights norm and eps, RoPE, and row i times scale[i]. */
typedef struct sp_dev_heads {
    float *x;
    size_t n_row, n_head, d;
    /* NULL; [d], the same for each head alone; whole: [n_head * d], over all of a row's heads as
     * one */
    const float *norm;
    bool is_whole;
    /* > 0: the norm is over this many leading elements of each head; not whole */
    size_t n_norm;
    bool norm_last;    /* the norm comes after RoPE; not whole */
    float eps;
    sp_dev_turn turn;
    const float *scale; /* [n_row] or NULL */
} sp_dev_heads;

/* A product of its own for each head: out[t, h] = rows of head h of w . x[t, h] [w->k], for n_row
 * rows t; behind it the next n_copy elements of x[t, h] as they are. The rows of w for one head,
 * n_row / n_head of them, lie behind those of the one before; in packed types their number is a
 * multiple of 16. */
typedef struct sp_dev_each_head {
    float *out;
    size_t ld_out;   /* elements from a head's beginning in out to the next head's */
    const float *x;
    size_t ld_x;     /* the same in x */
    size_t n_copy;
    const sp_dev_weight *w;
    size_t n_head, n_row;
    sp_dev_stage stage;
} sp_dev_each_head;

typedef struct sp_dev_embed_part {
    float *out;
    const sp_dev_weight *w;
    const uint32_t *id; /* [n_row], host */
    size_t n_row, from, n;
    float scale;
} sp_dev_embed_part;

/* The likeliest tokens of a row of logits. */
enum { SP_DEV_BEST = 64 };
typedef struct sp_dev_best {
    /* the largest that are finite, min(SP_DEV_BEST, n_finite) of them, in falling order; of equal
     * ones the lower id comes first. n 0: there is none, or some logit is a NaN or +infinity */
    uint32_t id[SP_DEV_BEST];
    float logit[SP_DEV_BEST];
    uint32_t n, n_finite;
    /* sum over all finite ones of e^((logit - logit[0]) / temperature), to 1e-5 of it */
    float mass;
} sp_dev_best;

typedef struct sp_dev_ops {
    const char *name;
    void (*close)(sp_dev *dev);
    /* 0, or heads have at most so many elements, latent keys SP_MAX_KEY, and a multiple of 16 */
    size_t max_head;
    /* NULL; or operations between the two may be put off until something is read, and a step like
     * one before it is started as a whole. end_step follows whatever failed in between, and
     * may come without begin_step: it returns when all that was started is done, so that the host
     * may read pages. */
    sp_err (*begin_step)(sp_dev *dev);
    sp_err (*end_step)(sp_dev *dev);
    /* NULL; or what a sampler mostly needs of logits that stay on the device: of rows x [n_row, n],
     * out [n_row]; out and temperature [n_row] > 0 are host memory */
    sp_err (*best)(sp_dev *dev, sp_dev_best *out, const float *x, const float *temperature,
                   size_t n_row, size_t n);
    sp_err (*mem_new)(sp_dev *dev, void **out, size_t n_bytes); /* zeroed, 64-byte aligned */
    sp_err (*mem_raw)(sp_dev *dev, void **out, size_t n_bytes); /* the same, contents undefined */
    /* mem_raw, for one of many blocks of this size */
    sp_err (*mem_page)(sp_dev *dev, void **out, size_t n_bytes);
    void (*mem_free)(sp_dev *dev, void *p);
    sp_err (*mem_read)(sp_dev *dev, void *host, const void *p, size_t n_bytes);
    sp_err (*mem_write)(sp_dev *dev, void *p, const void *host, size_t n_bytes);

    /* The form in which weight_put lays weights, with a number that rises when it changes: bytes of
     * one form are the same on all machines. NULL: they are not in the host's memory. */
    const char *layout;
    /* Weights: device bytes one needs, 0 where the GGUF rows are used as they lie; and building it
     * at `at` (that many bytes) from rows of the file, which may be dropped afterwards unless 0. A
     * matrix may be put in slices of a multiple of 64 rows, each at the weight_bytes of the rows
     * before. */
    size_t (*weight_bytes)(sp_dev *dev, sp_type type, size_t n_row, size_t k);
    sp_err (*weight_put)(sp_dev *dev, sp_dev_weight *out, void *at, sp_type type, const void *rows,
                         size_t n_row, size_t k);

    /* NULL, or the same of weights that are rounded to e4m3 when they are put, with a scale for
     * each row: for matmul alone, which rounds its other factor likewise, with a scale for each
     * 128 elements. Slices as above */
    size_t (*fp8_bytes)(sp_dev *dev, size_t n_row, size_t k);
    sp_err (*fp8_put)(sp_dev *dev, sp_dev_weight *out, void *at, sp_type type, const void *rows,
                      size_t n_row, size_t k);

    /* out[i] = scale * row id[i] of w; id is host memory */
    sp_err (*embed)(sp_dev *dev, float *out, const sp_dev_weight *w, const uint32_t *id, size_t n,
                    float scale);
    /* out[i] [n] = scale * elements [from, from + n) of row id[i] of w, which stays in the file:
     * data is host memory, and only what is asked for is read. from and n are whole blocks of the
     * type. */
    sp_err (*embed_part)(sp_dev *dev, const sp_dev_embed_part *a);
    sp_err (*norm_layer)(sp_dev *dev, float *out, const float *x, const float *w, const float *b,
                         size_t n_row, size_t n, float eps);
    sp_err (*matmul)(sp_dev *dev, const sp_dev_matmul *a);
    sp_err (*experts)(sp_dev *dev, const sp_dev_experts *a);
    sp_err (*each_head)(sp_dev *dev, const sp_dev_each_head *a);
    /* for n_expert experts of all layers, of which n_room, no fewer than a layer has, are kept;
     * each_bytes: the weight_bytes of all matrices of an expert, at most */
    sp_err (*shelf_new)(sp_dev *dev, sp_dev_shelf **out, size_t n_expert, size_t n_room,
                        size_t each_bytes);
    void (*shelf_free)(sp_dev *dev, sp_dev_shelf *s); /* NULL allowed */
    /* cs [n_row, d_rot]: of each row cos of pos[row] * freq[i], d_rot / 2 of them, then sin of the
     * same; pos is host memory */
    sp_err (*rope_table)(sp_dev *dev, float *cs, const uint32_t *pos, size_t n_row,
                         const sp_dev_rope *r);
    sp_err (*heads)(sp_dev *dev, const sp_dev_heads *h);
    /* x [n_row, n] += scale * y, or scale times y's RMS norm with weights norm [n] and eps where
     * norm is given; y is lost */
    sp_err (*join)(sp_dev *dev, float *x, float *y, const float *norm, float eps, float scale,
                   size_t n_row, size_t n);
    /* x[i] = scale * x[i]; with cap > 0 cap * tanh(scale * x[i] / cap) */
    sp_err (*soft_cap)(sp_dev *dev, float *x, size_t n, float scale, float cap);
    sp_err (*attn_paged)(sp_dev *dev, const sp_dev_attn *a);
    /* Adds to the certs of spans what calls before have not added yet; NULL: nothing is ever left.
     * Comes before they go. */
    sp_err (*settle)(sp_dev *dev);
    /* stores at the positions of `to` what full pages of `from` hold at its positions, as many, in
     * all layers kv [n_layer]; keys of layer i turn by turn[i], one row: the cos and sin of the way
     * between them */
    sp_err (*kv_move)(sp_dev *dev, const sp_dev_kv_view *kv, size_t n_layer, const sp_dev_span *to,
                      const sp_dev_span *from, const sp_dev_turn *turn);
    sp_err (*attn_full)(sp_dev *dev, const sp_dev_attn_full *a);
    sp_err (*conv)(sp_dev *dev, const sp_dev_conv *a);
    sp_err (*delta)(sp_dev *dev, const sp_dev_delta *a);
    sp_err (*ssm)(sp_dev *dev, const sp_dev_ssm *a);
    sp_err (*gate)(sp_dev *dev, const sp_dev_gate *a);
    /* first, second [n_row, n_head, d]: the two parts of each head in x [n_row, n_head, 2, d] */
    sp_err (*halve)(sp_dev *dev, float *first, float *second, const float *x, size_t n_row,
                    size_t n_head, size_t d);
    sp_err (*add)(sp_dev *dev, float *x, const float *y, size_t n);
    /* copies a whole KV page (copy-on-write) */
    sp_err (*copy)(sp_dev *dev, void *to, const void *from, size_t n_bytes);
} sp_dev_ops;

struct sp_dev {
    const sp_dev_ops *ops;
    sp_dev_stat *stat; /* NULL or [SP_STAGES], the caller's */
};

typedef struct sp_dev_cfg {
    const char *name;   /* "cpu" */
    size_t n_thread;    /* 0: all cores */
    sp_cpu_level mask;  /* SP_CPU_LEVELS - 1: no mask */
} sp_dev_cfg;

/* Errors: SP_UNSUP for a device this build does not have. */
SP_MUST sp_err sp_dev_open(sp_dev **out, const sp_dev_cfg *cfg, sp_diag *d);
static inline void sp_dev_close(sp_dev *dev)
{
    if (dev)
        dev->ops->close(dev);
}

/* What the host does beside any device: hashing, searches. isa names the device's arithmetic, whose
 * bits may differ from another's. */
sp_pool *sp_dev_host_pool(sp_dev *dev);
const sp_kern *sp_dev_host_kern(sp_dev *dev);

/* The CPU device's parts, whose memory is the host's, for benchmarks and tools; NULL on another
 * device. */
sp_pool *sp_dev_cpu_pool(sp_dev *dev);
const sp_kern *sp_dev_cpu_kern(sp_dev *dev);

#endif
