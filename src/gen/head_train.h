/* Trains a draft head for one model on this machine's cores: rows of hidden states and what the
 * model itself says next, gathered from texts it reads or from its own greedy answers; then the
 * head's forward and backward pass over batches of them, with Adam.
 *
 * A row is a token at a place of a sequence: the states behind the tapped layers, the token, and
 * the token that the model takes for likeliest next. From row i the head is run SP_HEAD_DEPTH
 * times: over the states of row i and token i + 1, then over its own state and token i + 2, and so
 * on. The loss is the cross-entropy against what the model says at those rows, over the cut
 * vocabulary.
 *
 * Owner:   the caller frees rows and head.
 * Threads: one; it drives the model's device.
 * Errors:  SP_LIMIT: a page or a row too many; SP_INVAL: too little to learn from; SP_NOMEM.
 * Source:  Zhang et al. 2024 (ReDrafter), a recurrent head over the last state; Li et al. 2024 and
 * 2025
 *          (EAGLE, EAGLE-3), the newest token beside the state, and states of several layers;
 *          Kingma
 *          and Ba 2015 (Adam). */
#ifndef SP_GEN_HEAD_TRAIN_H
#define SP_GEN_HEAD_TRAIN_H

#include "gen/head.h"
#include "model/model.h"
#include "text/tokenizer.h"

/* Rows, sequence behind sequence. */
typedef struct sp_head_data {
    size_t n_state;    /* numbers of a row's states: n_tap * n_embd */
    size_t n, cap;
    uint16_t *state;   /* [n, n_state] bf16, each layer's part brought to a mean square of 1 */
    uint32_t *tok, *next, *seq; /* [n] the token, what the model says next, its sequence */
    uint32_t n_seq;
} sp_head_data;

void sp_head_data_fini(sp_head_data *r);

/* How rows are gathered. */
typedef struct sp_head_gather {
    const sp_model *model;
    sp_dev *dev;
    sp_kv_pool *pool;
    const sp_tok *tok;
    size_t layer[SP_DRAFT_LAYERS]; /* [n_tap] */
    size_t n_tap;
    size_t n_out;           /* tokens of an answer, at most */
    size_t most;            /* rows in all */
    uint64_t until_ns;      /* when to stop (sp_clock_ns); 0: no matter */
    void (*tell)(void *arg, size_t n_row); /* now and then; may be NULL */
    void *arg;
} sp_head_gather;

typedef struct sp_head_text {
    const uint32_t *tok; /* [n] */
    size_t n;
} sp_head_text;

/* Greedy answers to prompts [n_text], which go into one list or the other by is_held [n_text]. An
 * answer ends where it begins to repeat itself: from there on every drafter is right. Returns with
 * what there is when time or rows are up. */
SP_MUST sp_err sp_head_gather_answers(sp_head_data *train, sp_head_data *held,
                                      const sp_head_gather *g, const sp_head_text *text,
                                      const bool *is_held, size_t n_text, sp_diag *d);
/* Texts as they are. */
SP_MUST sp_err sp_head_gather_texts(sp_head_data *out, const sp_head_gather *g,
                                    const sp_head_text *text, size_t n_text, sp_diag *d);

typedef struct sp_head_train_cfg {
    const sp_model *model;
    sp_dev *dev;
    sp_head_shape shape;  /* n_tok: at most; layers as gathered */
    uint64_t seed;
    size_t n_step;        /* 0: until the time is up */
    uint64_t until_ns;    /* with n_step 0 */
    void (*tell)(void *arg, size_t i_step, double done, float loss); /* now and then; may be NULL */
    void *arg;
} sp_head_train_cfg;

typedef struct sp_head_trained {
    sp_head_shape shape;       /* n_tok as it came out */
    float *mat[SP_HEAD_MATS];  /* f32 rows */
    float *norm;               /* [n_embd] */
    uint32_t *tok;             /* [n_tok] ascending */
    size_t n_step, n_held;
    float right[SP_HEAD_DEPTH]; /* as sp_head_about.right, on held */
} sp_head_trained;

SP_MUST sp_err sp_head_train(sp_head_trained *out, const sp_head_train_cfg *cfg,
                             const sp_head_data *train, const sp_head_data *held, sp_diag *d);
void sp_head_trained_fini(sp_head_trained *t);

#endif
