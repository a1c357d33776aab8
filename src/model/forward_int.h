/* What the files of the forward pass share. Only work.c, forward.c, ffn.c, latent.c, beside.c and
 * recurrent.c include this. */
#ifndef SP_MODEL_FORWARD_INT_H
#define SP_MODEL_FORWARD_INT_H

#include "model/weights.h"

/* What a span of recurrent layers leaves for taking tokens back, and what it begins with because
 * some were. */
typedef struct sp_forward_kept {
    float *mem;             /* sp_kv_seq.kept: layer by layer [SP_KV_GUESS_TOK - 1, what is mixed],
                               then [.., numbers beside it] */
    size_t n_keep, n_again; /* leading tokens of the span to keep; kept tokens to pass again
                               first */
    const void *before;     /* the state before those; NULL: zeros */
    void *settled;          /* where the state behind them goes, which the span begins with */
} sp_forward_kept;

struct sp_model_work {
    sp_dev *dev;
    size_t cap_tok, cap_logits, n_vocab;
    /* [cap_tok, n_embd]: the residual stream, and a branch before it is added, or what a branch
     * takes */
    float *x, *y;
    float *cs[SP_ROPE_TABLES]; /* [cap_tok, d_rot]: cos and sin of each position */
    float *q, *k, *v, *o;  /* [cap_tok, heads * d] */
    float *temp;           /* [cap_tok]: factor of each position's queries; NULL: none */
    float *host_temp;      /* the host's copy */
    float *gate, *up;      /* [cap_tok, n_ff] */
    float *z;              /* [cap_tok, n_embd]: a second branch */
    float *first;          /* [cap_tok, n_embd]: the stream as it began */
    float *side, *side_in; /* [cap_tok, n_side] */
    float *next, *next_in; /* [cap_tok, n_embd], [cap_tok, 2 n_embd]: what a block that guesses
                              begins with */
    /* [cap_tok, of mix_in]: what recurrent layers mix, before and behind the convolution;
     * queries with their gates */
    float *mix, *mixed;
    float *gates, *ab;     /* [cap_tok, ..]: gates of what was mixed, and numbers of each head */
    float *last, *logits;  /* [cap_logits, n_embd], [cap_logits, n_vocab] */
    float *host_logits;    /* what callers read */
    sp_dev_best *best;     /* [cap_logits]; as are temperature and is_left */
    float *temperature;
    bool *is_left;         /* the host has NaNs in this row's place */
    float *keep[SP_MODEL_KEEP]; /* [cap_tok, n_embd] each: the stream behind layer keep_of */
    size_t keep_of[SP_MODEL_KEEP], n_keep;
    uint32_t *tok, *pos, *type; /* [cap_tok], host */
    sp_dev_span *span;     /* [cap_tok], host: a span has at least one token */
    sp_dev_span *each;     /* [cap_tok], host: what attention gets where guesses are queries of
                              their own */
    sp_forward_kept *kept; /* [cap_tok], host, by span */
    sp_dev_span *again;    /* [cap_tok], host */
    sp_dev_kv_view *view;  /* [n_layer], host */
    sp_dev_turn *turn;     /* [n_layer], host */
};

/* Is what a branch gives worked on before it is added to the stream? */
static inline bool sp_forward_joins(const sp_arch *a)
{
    return a->post_norm || a->branch_scale != 1.0f;
}

/* How layer i turns queries and keys; `first` is that of keys. */
sp_dev_turn sp_forward_turn(const sp_model *m, const sp_model_work *w, size_t i);
/* What a branch's first product takes of the stream, with norm and bias [n_embd] or without: it
 * norms rows itself where it can. */
SP_MUST sp_err sp_forward_take(const sp_model *m, sp_model_work *w, sp_dev_matmul *first,
                               const float *norm, const float *bias);
/* Adds a branch's last product to the stream: at once where nothing stands between. sum_norm: of
 * the stream then, weights and bias. */
SP_MUST sp_err sp_forward_add(const sp_model *m, sp_model_work *w, const sp_dev_matmul *last,
                              const float *post_norm, float *const sum_norm[2]);
/* The step between two layers' products: queries w->q over the pages of sequences, or over the
 * whole texts that stand in the batch (shape NULL), to w->o. */
SP_MUST sp_err sp_forward_attend(const sp_model *m, sp_model_work *w, const sp_kv_shape *shape,
                                 size_t i, const sp_model_span *of, size_t n_span);
/* down(act(gate) * up), or, without a gate, down(act(up)), from the stream into the stream. */
SP_MUST sp_err sp_forward_dense(const sp_model *m, sp_model_work *w, size_t i, size_t n_tok);
/* The experts of layer i over the stream; out, norm and scales of the router are the caller's. */
sp_dev_experts sp_forward_experts_of(const sp_model *m, const sp_model_work *w, size_t i,
                                     size_t n_tok);
/* The stream's experts, and what all tokens take beside them; likewise. */
SP_MUST sp_err sp_forward_experts(const sp_model *m, sp_model_work *w, size_t i, size_t n_tok);
/* A layer's dense part and its experts, each with its norms, from the stream into the stream. */
SP_MUST sp_err sp_forward_beside(const sp_model *m, sp_model_work *w, size_t i, size_t n_tok);
/* What a layer adds of the tokens w->tok: a gate of the stream times what their rows and the
 * stream's beginning say. */
SP_MUST sp_err sp_forward_side(const sp_model *m, sp_model_work *w, size_t i, size_t n_tok);
/* Attention over latents, from the stream into the stream. */
SP_MUST sp_err sp_forward_latent(const sp_model *m, sp_model_work *w, const sp_kv_shape *shape,
                                 size_t i, const sp_model_span *of, size_t n_tok, size_t n_span);
/* A short convolution of the gated stream, gated again, from the stream into the stream. The spans'
 * states move. */
SP_MUST sp_err sp_forward_conv(const sp_model *m, sp_model_work *w, size_t i, size_t n_tok,
                               size_t n_span);
/* The gated delta rule over what a short convolution gives, normed and gated; likewise. */
SP_MUST sp_err sp_forward_delta(const sp_model *m, sp_model_work *w, size_t i, size_t n_tok,
                                size_t n_span);
/* A state space over what a short convolution gives, gated and normed, in two steps: what it takes
 * of the stream, and what it adds to it. Attention of the same stream may stand between them. */
SP_MUST sp_err sp_forward_ssm_take(const sp_model *m, sp_model_work *w, size_t i, size_t n_tok,
                                   size_t n_span);
SP_MUST sp_err sp_forward_ssm(const sp_model *m, sp_model_work *w, size_t i, size_t n_tok,
                              size_t n_span);

#endif
