/* A drafter of another vocabulary, through text: what the answer says is given to it in its own
 * tokens, and what it guesses comes back in the answer's.
 *
 * The prompt is encoded as a whole, what an answer gains then piece by piece, so that nothing that
 * the drafter has read changes: its tokens may then be cut otherwise than it would cut the whole
 * text. A control token is one for the drafter too, where it has one of the same text. Where a
 * character is not whole yet, nothing is guessed. All of this moves only how often a guess is
 * right.
 *
 * Owner:   borrows the inner source and both tokenizers, which must outlive it.
 * Threads: owner: step thread. Errors:  SP_NOMEM. */
#ifndef SP_GEN_DRAFT_TEXT_H
#define SP_GEN_DRAFT_TEXT_H

#include "gen/draft.h"
#include "text/tokenizer.h"

typedef struct sp_draft_text_cfg {
    sp_draft_source *inner;  /* computes (it has run) */
    const sp_tok *ours, *its; /* the answers' vocabulary; the inner source's */
    size_t cap_seq;          /* answers that run together */
} sp_draft_text_cfg;

SP_MUST sp_err sp_draft_text_new(sp_draft_source **out, const sp_draft_text_cfg *cfg, sp_diag *d);
void sp_draft_text_free(sp_draft_source *s); /* NULL allowed; the inner one stays */

#endif
