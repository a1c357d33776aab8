/* Trial answers of a model that thinks (rule SP_PRUNE_TRIAL of rules.h): at the end of a line of
 * thoughts a fork of the sequence draws what the answer would begin with if the thoughts ended
 * there. Two trials in a row that come to the same, the second of them surely, end the thoughts.
 *
 * A trial is greedy: think_close, then at most SP_TRIAL_TOK tokens, up to the end of a line or of
 * the answer. What it comes to is the conclusion that the rule `thinking` would find in it, or else
 * its letters and digits. It is computed in steps beside its text, which goes on meanwhile; at the
 * end of the next line the text waits for it, so that where thoughts end depends on tokens
 * alone. What a trial computes leaves no pages or snapshots for others.
 *
 * Owner:   the trial owns its sequence, whose pages go back with sp_trial_drop; cfg and the
 *          tokenizer are borrowed.
 * Threads: owner: step thread.
 * Source:  Yang et al. 2025, "Dynamic Early Exit in Reasoning Models" (arXiv 2504.15895), whose
 *          trial answers end thoughts where one of them is sure. */
#ifndef SP_GEN_TRIAL_H
#define SP_GEN_TRIAL_H

#include "gen/session.h"

typedef struct sp_trial sp_trial;

/* *out NULL: cfg does not ask for trials, or the model does not think. */
SP_MUST sp_err sp_trial_new(sp_trial **out, const sp_session_cfg *cfg, const sp_tok *t);
void sp_trial_free(sp_trial *x); /* what it computed is dropped already; NULL allowed */

/* A line of thoughts has ended behind n_tok tokens of the text. true: the thoughts end with
 * it. */
bool sp_trial_at_line(sp_trial *x, size_t n_tok);
/* Is a trial due, or being made? Due is one that waits until its text is computed so far. */
bool sp_trial_is_on(const sp_trial *x);
bool sp_trial_is_due(const sp_trial *x);
/* Is it due, and behind so many tokens? */
bool sp_trial_begins_at(const sp_trial *x, size_t n_tok);
/* Must the text wait for it? */
bool sp_trial_is_awaited(const sp_trial *x);
/* The text's sequence stands there: takes a fork of it. Errors: SP_NOMEM. */
SP_MUST sp_err sp_trial_fork(sp_trial *x, const sp_kv_seq *text, sp_kv_pool *pool);
/* Of one that is being made: its next token, with room for it. SP_AGAIN: there is no room. */
SP_MUST sp_err sp_trial_span(sp_trial *x, sp_kv_pool *pool, sp_model_span *out);
/* The logits behind that token. *ends: the text waited, and its thoughts end where it stands.
 * Errors: SP_NOMEM. */
SP_MUST sp_err sp_trial_take(sp_trial *x, sp_kv_pool *pool, const float *logits, bool *ends);
/* Gives up the trial that is on; left_out: it is counted as one for which there was no place. */
void sp_trial_drop(sp_trial *x, sp_kv_pool *pool, bool left_out);
/* Adds its counts. NULL allowed. */
void sp_trial_did(const sp_trial *x, sp_receipt_control *did);

#endif
