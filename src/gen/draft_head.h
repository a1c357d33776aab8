/* A drafter that runs a draft head (gen/head.h) over the hidden state of the newest token that the
 * model computed, for all answers of a step as one batch.
 *
 * It keeps that one state of an answer and nothing else, so that it needs no pages, and guesses
 * again with the first step behind a cached prefix. Where the newest state is not known (the first
 * step of a fork, tokens that a grammar brought along) it guesses nothing.
 *
 * Owner:   borrows the model and the device; the file may be closed after new. The caller frees the
 *          source when no drafter lives any more.
 * Threads: owner: step thread.
 * Errors:  SP_UNSUP: the head is another model's; SP_FORMAT: a token or a layer is not the model's;
 *          SP_NOMEM. */
#ifndef SP_GEN_DRAFT_HEAD_H
#define SP_GEN_DRAFT_HEAD_H

#include "gen/head.h"
#include "model/model.h"

typedef struct sp_draft_head_cfg {
    const sp_model *model;
    sp_dev *dev; /* the model's */
    const sp_head_file *file;
    size_t cap_seq; /* answers that run together */
} sp_draft_head_cfg;

SP_MUST sp_err sp_draft_head_new(sp_draft_source **out, const sp_draft_head_cfg *cfg, sp_diag *d);
void sp_draft_head_free(sp_draft_source *s); /* NULL allowed */
/* Does the file fit the model? Errors as above. */
SP_MUST sp_err sp_head_fits(const sp_head_file *f, const sp_model *m, sp_diag *d);
/* Bytes of weights that a guess reads. */
size_t sp_draft_head_bytes(const sp_draft_source *s);

#endif
