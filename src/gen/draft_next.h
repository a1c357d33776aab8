/* A drafter that runs the block which a model's file has for guessing (MTP, "nextn"): it takes the
 * model's hidden state at a token and the token that came next, and gives what comes behind that.
 * For the guesses behind the first one it runs again on its own state and its own guess.
 *
 * The block attends, so that each answer has a sequence of its own pages here. What the model did
 * not compute (a cached prefix, the prompt of a fork) the block does not see: it guesses worse
 * then, and the answer stays the same.
 *
 * Owner:   borrows model, block and pool, which outlive it.
 * Threads: as gen/draft.h. */
#ifndef SP_GEN_DRAFT_NEXT_H
#define SP_GEN_DRAFT_NEXT_H

#include "gen/draft.h"
#include "model/model.h"

typedef struct sp_draft_next_cfg {
    const sp_model *model; /* whose hidden states are seen */
    const sp_model *block; /* sp_model_load_next of it */
    sp_kv_pool *pool;      /* of the block's shape, without reuse */
    sp_dev *dev;
    size_t n_vocab; /* tokens that may be guessed, at most */
    size_t n_ctx;
    size_t cap_seq; /* answers that are guessed for at a time */
} sp_draft_next_cfg;

SP_MUST sp_err sp_draft_next_new(sp_draft_source **out, const sp_draft_next_cfg *cfg, sp_diag *d);
void sp_draft_next_free(sp_draft_source *s); /* NULL allowed */

#endif
