/* Text of an answer that was not given out yet, and what belongs to it: log-probabilities of its
 * tokens, and where control tokens stand.
 *
 * Owner:   zeroed it is empty; sp_held_fini frees what it holds. Events go to the caller.
 * Threads: owner: step thread.
 * Errors:  SP_NOMEM. */
#ifndef SP_GEN_HELD_H
#define SP_GEN_HELD_H

#include "gen/stage.h"

typedef struct sp_held {
    sp_buf text;
    sp_event_tok *tok; /* [n_tok] */
    size_t n_tok, cap_tok;
    sp_event_mark *mark; /* [n_mark] ascending */
    size_t n_mark, cap_mark;
    sp_buf how;          /* as sp_event.how */
} sp_held;

void sp_held_fini(sp_held *h);
/* Notes the log-probabilities of token id and of the n_top likeliest by logits [n_vocab]. */
SP_MUST sp_err sp_held_logprobs(sp_held *h, const float *logits, size_t n_vocab, uint32_t id,
                                size_t n_top);
/* The text from byte `at` on is a control token's. */
SP_MUST sp_err sp_held_mark(sp_held *h, size_t at);
/* The text from byte `at` on is a token of this kind. */
SP_MUST sp_err sp_held_how(sp_held *h, size_t at, sp_tok_how how);
/* Takes n bytes at `at` back, in which no control token stands. Returns how many tokens ended
 * there, as far as sp_held_how was told. */
size_t sp_held_drop(sp_held *h, size_t at, size_t n);
/* Moves the first n bytes, their marks and all log-probabilities into an event; *out NULL: there is
 * nothing to give. A control token is never cut: fewer bytes are given then. */
SP_MUST sp_err sp_held_give(sp_held *h, size_t n, sp_event **out);

#endif
