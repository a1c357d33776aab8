/* A drafter that is a smaller model; one of another vocabulary is asked by draft_text.h. Before a
 * step it runs for all answers that want it as one batch: first over what it has not read yet, then
 * token after token, each the likeliest, as long as the guess as a whole is likely enough.
 *
 * Its keys and values lie in a pool of their own, by tenant as the model's do, and are forgotten
 * with them. Of a prompt that it has not read it reads a part in each run; until it is through it
 * guesses nothing. Guesses stay inside one page, because a full page cannot be taken back.
 *
 * Owner:   borrows model and pool; the caller frees the source before them, when no drafter lives
 * any more. Threads: owner: step thread. Errors:  SP_NOMEM. Where pages or memory run out the
 * drafter guesses nothing: an answer never fails for it. */
#ifndef SP_GEN_DRAFT_MODEL_H
#define SP_GEN_DRAFT_MODEL_H

#include "gen/draft.h"
#include "model/model.h"
#include "text/tokenizer.h"

typedef struct sp_draft_model_cfg {
    const sp_model *model;
    sp_kv_pool *pool; /* its own, without a tier */
    size_t n_vocab;   /* tokens that it may guess: those of the vocabulary */
    size_t n_ctx;     /* positions that its sequences may have */
    size_t cap_seq;   /* answers that run together */
} sp_draft_model_cfg;

SP_MUST sp_err sp_draft_model_new(sp_draft_source **out, const sp_draft_model_cfg *cfg, sp_diag *d);
void sp_draft_model_free(sp_draft_source *s);
/* Do two vocabularies have the same tokens under the same numbers? SP_INVAL: no, with the first
 * difference. */
SP_MUST sp_err sp_draft_same_vocab(const sp_tok *a, const sp_tok *b, sp_diag *d);

#endif
