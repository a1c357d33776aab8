/* The trainable net of a draft head: forward and backward pass of a batch, and Adam. Not for other
 * folders; gen/head.h says what the net computes.
 *
 * Products run on the device over bf16 copies of the weights, sums are f32. A matrix [out, in] is
 * kept twice, as it is and turned round, so that every product is one of rows with rows.
 * Owner: the caller frees. Threads: one; it drives the device. */
#ifndef SP_GEN_HEAD_NET_H
#define SP_GEN_HEAD_NET_H

#include "gen/head_train.h"

typedef struct sp_head_net sp_head_net;

/* A batch: row b of each list is one sample. */
typedef struct sp_head_batch {
    size_t n;             /* at most the net's cap */
    float *x;             /* [n, n_tap * n_embd] */
    uint32_t *tok[SP_HEAD_DEPTH]; /* [n] the newest token at each depth */
    int32_t *want[SP_HEAD_DEPTH]; /* [n] a place in the cut vocabulary; -1: not there, or no
                                     sample */
} sp_head_batch;

/* tok [shape->n_tok] is copied. */
SP_MUST sp_err sp_head_net_new(sp_head_net **out, const sp_model *m, sp_dev *dev,
                               const sp_head_shape *shape, const uint32_t *tok, size_t cap,
                               uint64_t seed, sp_diag *d);
void sp_head_net_free(sp_head_net *net); /* NULL allowed */
/* Runs a batch. got [SP_HEAD_DEPTH][cap]: the likeliest of the cut vocabulary at each depth, or
 * NULL. learn: adds to the gradients. *loss: mean over samples and depths. */
SP_MUST sp_err sp_head_net_run(sp_head_net *net, const sp_head_batch *b, bool learn, uint32_t *got,
                               float *loss);
/* A step of Adam with the gradients so far, which are zero then. */
SP_MUST sp_err sp_head_net_step(sp_head_net *net, float rate);
/* What was learned: f32 rows of each matrix, and the norm; borrowed until the next step. */
void sp_head_net_weights(const sp_head_net *net, const float *mat[SP_HEAD_MATS],
                         const float **norm);

#endif
