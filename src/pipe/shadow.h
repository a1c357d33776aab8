/* The shadow sample: some light answers are given once more on the full path, in the background, to
 * see how far the two agree. It is the live check on the router: if light answers drift from full
 * ones, the agreement falls.
 *
 * A desk: one sample at a time, as a turn of its own (pipe/turn.h) at the lowest priority, at most
 * a few waiting; more are not taken. Nothing of it is kept but the sums. Agreement is the F1 of the
 * two answers' words (small letters, without punctuation), 0 to 1; where both end in a number,
 * whether it is the same.
 *
 * Threads: any.      Errors: none; what cannot be sampled is not. */
#ifndef SP_PIPE_SHADOW_H
#define SP_PIPE_SHADOW_H

#include "pipe/turn.h"

typedef struct sp_shadow sp_shadow;

typedef struct sp_shadow_cfg {
    double share;           /* of light answers */
    /* on which they are given once more: each on the model that gave it, as long as that is in
     * memory */
    struct sp_models *models;
    sp_metrics *metrics;
} sp_shadow_cfg;

SP_MUST sp_err sp_shadow_new(sp_shadow **out, const sp_shadow_cfg *cfg, sp_diag *d);
void sp_shadow_free(sp_shadow *s);
/* A light answer: copied, if it is drawn for the sample. */
void sp_shadow_offer(sp_shadow *s, const char *model, const char *tenant, const sp_chat_msg *msg,
                     size_t n_msg, const char *answer, size_t n, size_t max_tok);
/* 0..1, see above. */
double sp_shadow_agreement(const char *a, size_t n_a, const char *b, size_t n_b);

#endif
