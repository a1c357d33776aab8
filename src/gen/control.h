/* A chain of small controllers between the sampler and an answer. Each says which tokens may come,
 * or that only one can; is told of each token that the answer gets; and may end the answer or hold
 * its text.
 *
 * The order is that of control.c's chain[]. Of several that allow or force, the last that says
 * anything counts; the first that ends the answer ends it, and those behind it are not asked. least
 * nothing ends the answer before sp_session_cfg.min_tok tokens thinking  a reasoning model's
 * thoughts have a budget of tokens grammar   what the answer, or a call of a tool within it, may be
 * (control_grammar.c) stop      stop strings; text that may become one is held
 *   doubt     where an answer becomes unsure, or its first sentence ends (control_doubt.c)
 *   rules     what the request wants pruned (control_rules.c)
 *   length    max_tok
 *   watch     text is held until the first tokens are sure enough
 *
 * Owner:   sp_control owns its controllers and borrows cfg and the tokenizer.
 * Threads: owner: step thread.
 * Errors:  SP_NOMEM; of grammars also SP_LIMIT and SP_FORMAT (grammar.h). */
#ifndef SP_GEN_CONTROL_H
#define SP_GEN_CONTROL_H

#include "gen/held.h"
#include "gen/session.h"
#include "gen/window.h"

typedef struct sp_control sp_control;

/* What a chain knows of the answer just now. */
typedef struct sp_control_now {
    size_t n_out;       /* tokens of the answer, the newest included */
    uint32_t id;        /* the newest */
    /* text not given out yet, the newest token's included; rules take some of it back */
    sp_held *held;
} sp_control_now;

/* What the controllers say of the newest token. */
typedef struct sp_verdict {
    bool ends;
    sp_finish finish; /* with ends */
    size_t stop_at;   /* which of cfg.stop ended it, from 1; 0: none */
    size_t n_give;    /* bytes of the held text that may leave */
} sp_verdict;

/* tok [n]: the prompt. */
SP_MUST sp_err sp_control_new(sp_control **out, const sp_session_cfg *cfg, const sp_tok *t,
                              const uint32_t *tok, size_t n);
void sp_control_free(sp_control *c);
/* Which tokens may come behind n_out tokens: *allowed NULL: all, or a byte for each. */
SP_MUST sp_err sp_control_allow(sp_control *c, size_t n_out, const uint8_t **allowed);
/* Does this token end an answer by itself? By cfg.stop_id; or by these or as the model's own end.
 */
bool sp_control_is_stop_id(const sp_session_cfg *cfg, uint32_t id);
bool sp_control_is_last(const sp_session_cfg *cfg, const sp_tok *t, uint32_t id);
/* The token that must come, or SP_TOK_NONE. */
SP_MUST sp_err sp_control_force(sp_control *c, uint32_t *id);
/* It is taken; sp_control_took follows. */
void sp_control_take_forced(sp_control *c);
/* May forced tokens be put without logits of their own just now? */
bool sp_control_may_bring(const sp_control *c);
/* The model's logits for the token that is being chosen; once for each chosen one. */
void sp_control_see(sp_control *c, const float *logits);
/* false: it would look at none of them. */
bool sp_control_looks(const sp_control *c);
/* A token that does not end the answer by itself is part of it now. */
SP_MUST sp_err sp_control_took(sp_control *c, const sp_control_now *now, sp_verdict *v);
/* Asked when a chosen token and what it brought are taken; done: the answer has ended. true: it is
 * not sure enough, and ends without text. */
bool sp_control_doubts(sp_control *c, bool done);
/* With the rule SP_PRUNE_TRIAL: did the newest token end a line of thoughts that go on? */
bool sp_control_ended_thought(const sp_control *c);
/* This rule says that more thinking gives nothing. */
void sp_control_end_thoughts(sp_control *c, sp_prune rule);
bool sp_control_is_thinking(const sp_control *c);
/* The answer comes to its own end: is what is held of it unsure? Then *v says so. */
bool sp_control_doubts_end(sp_control *c, sp_verdict *v);
/* Tokens of the answer before its last sentence, and whether that made it unsure: the means over
 * the tokens that were judged. */
bool sp_control_unsure(const sp_control *c, size_t *n_kept, sp_window_look *mean);
/* What is added to the logits of the next token: rules bend them. Valid until the next token. */
const sp_bias *sp_control_bend(sp_control *c, size_t *n);
/* The answer has ended, and of what is held *n bytes are to leave: rules may take some of them
 * back. */
void sp_control_end(sp_control *c, sp_held *held, size_t *n);
/* So many bytes of the held text have left. */
void sp_control_gave(sp_control *c, size_t n);
sp_receipt_control sp_control_did(const sp_control *c);
/* Decisions of the policy so far, as sp_policy_step; NULL: there is none. */
const sp_buf *sp_control_steps(const sp_control *c);
/* Is there a grammar that binds the next token? */
bool sp_control_is_bound(const sp_control *c);
size_t sp_control_thought(const sp_control *c); /* tokens thought so far */

#endif
