/* One answer in the making: its sequence, sampler, stop rules and the text not yet sent.
 *
 * The scheduler asks what to compute next (sp_session_todo), runs it, and hands back the logits
 * (sp_session_accept), which yields events for the client. Guessed tokens (sp_session_choose) may
 * be computed ahead; what the model did not choose must be taken back (sp_kv_seq_take_back) before
 * the next step.
 * Owner: the session owns all it holds; events go to the caller. Threads: owner: step thread. */
#ifndef SP_GEN_SESSION_H
#define SP_GEN_SESSION_H

#include "gen/force.h"
#include "gen/grammar.h"
#include "gen/guesser.h"
#include "gen/policy.h"
#include "gen/rules.h"
#include "gen/stage.h"
#include "model/model.h"

enum {
    SP_WATCH_TOK = 32,
    SP_STOP_MAX = 16,
    SP_STOP_BYTES = 256,
    SP_DENSE_MAX = 16,
    SP_MARK_MAX = 16,
    SP_SALT_BYTES = 129 /* NUL included */
};

/* When an answer is unsure: see control_doubt.c. */
typedef struct sp_doubt_cfg {
    size_t n_tok;  /* tokens in a row that are judged, SP_WATCH_TOK at most; 0: it never is */
    double below;  /* their mean log-probability of the likeliest token, */
    double entropy; /* and their mean entropy in nats, above this */
} sp_doubt_cfg;

typedef struct sp_session_cfg {
    sp_sample_cfg sample;
    size_t max_tok;
    char stop[SP_STOP_MAX][SP_STOP_BYTES]; /* stop[i] ends the answer and is not part of it */
    size_t n_stop;
    uint32_t stop_id[SP_STOP_MAX]; /* tokens that end the answer, as the model's own do */
    size_t n_stop_id;
    bool keep_stop;    /* what ended the answer, of stop and stop_id, is part of it */
    /* before so many tokens nothing of stop, stop_id and the model's own ends the answer; not
     * with a pattern */
    size_t min_tok;
    int n_logprobs;    /* -1: none; else so many alternatives with each token */
    /* those of the prompt's tokens too, n_logprobs >= 0 alternatives with each: an event PROMPT.
     * Nothing known of the prompt is reused then, and it has no splices. */
    bool prompt_logprobs;
    /* ends with SP_FINISH_LENGTH when the prompt is computed; max_tok means nothing */
    bool no_answer;
    /* The tokens begin a longer prompt: pages of all of them are computed or known, and the model
     * is asked for nothing. Ends with SP_FINISH_LENGTH (sp_session_is_read); max_tok means
     * nothing. Not with n_logprobs, prompt_logprobs or splices. */
    bool beginning;
    char conv[64];     /* the conversation its pages belong to; "": none */
    char salt[SP_SALT_BYTES]; /* pages are shared with sessions of the same salt only; "": with
                                 those that have none */
    /* [n_predicted] what the answer is said to be like: a source of guesses; copied */
    const uint32_t *predicted;
    size_t n_predicted;
    sp_drafts *drafts;  /* what guesses tokens ahead; borrowed, NULL: nothing does */
    unsigned drafters;  /* of them, those whose bit 1 << sp_draft_id is set */
    bool is_private;    /* drafters keep nothing of it */
    float eps, keep;   /* as in sp_kv_seq; 0: exact */
    bool eps_prompt;   /* prompts too, not only decoding steps */
    sp_dev_range dense[SP_DENSE_MAX]; /* parts of the prompt that are never left out */
    size_t n_dense;
    size_t eps_from;
    size_t private_from; /* as in sp_kv_seq */
    /* text is held until so many tokens are there; if the mean log-probability of the likeliest
     * token at each is below watch_least, the answer ends with SP_FINISH_UNSURE and without
     * text; 0: no watch */
    size_t watch_tok;
    double watch_least;
    /* likewise for any watch_tok tokens in a row, SP_WATCH_TOK at most; only the first ones are
     * held */
    bool watch_all;
    sp_doubt_cfg doubt; /* where it is unsure the answer ends with SP_FINISH_UNSURE and the text
                           before that sentence (sp_session_cut); not with grammar, calls or
                           rules */
    bool one_sentence;  /* the answer ends with SP_FINISH_LENGTH behind its first sentence */
    size_t n_said;      /* the last n_said tokens of the prompt are the answer's beginning:
                           penalties count them */
    /* tokens around what a reasoning model thinks; equal: it does not */
    uint32_t think_open, think_close;
    size_t think_tok;  /* tokens it may think, then think_close is put */
    size_t think_same; /* conclusions in a row that are the same and end what it thinks, with the
                          rule SP_PRUNE_THINKING; 0: SP_THINK_SAME */
    size_t trial_tok;  /* of trials, with the rule SP_PRUNE_TRIAL, at most; 0: SP_TRIAL_ALL */
    double trial_sure; /* and how sure the second must be; 0: SP_TRIAL_SURE */
    /* control tokens are part of the text, and its events say where (sp_event.mark): for whoever
     * takes it apart */
    bool marks;
    /* bits 1 << sp_prune: what of the answer is pruned; not with log-probabilities; needs how */
    unsigned rules;
    const sp_policy *policy; /* with the rule SP_PRUNE_LEARNED; borrowed, longer than the session */
    bool traces;       /* what the policy does is drawn by the seed, and told at the end
                          (sp_event.cut) */
    bool judged;       /* cls is known */
    sp_class cls;
    bool how;          /* its events say what each token cost (sp_event.how) */
    bool ignore_end;   /* keep going past the model's end-of-answer token */
    const sp_splice *splice; /* [n_splice] parts computed by themselves; copied */
    size_t n_splice;
    /* what the answer may be; NULL: anything. The session takes a share of it. */
    sp_grammar *grammar;
    sp_grammar *calls;   /* A share. Without grammar: what follows trigger wherever the model writes
                            it, outside of thoughts; then the answer is free again. With grammar:
                            behind its thoughts the answer is the one or the other, whole. */
    /* "": only the beginning of the answer is looked at, and what does not begin as calls do is
     * free */
    char trigger[64];
    bool one_call;       /* the answer ends where calls does */
    bool is_loose;       /* calls is only how calls begin: behind it the answer is free */
    uint32_t mark[SP_MARK_MAX]; /* [n_mark] control tokens in grammar and calls */
    size_t n_mark;
} sp_session_cfg;

typedef struct sp_session sp_session;

/* tok [n] is copied. */
SP_MUST sp_err sp_session_new(sp_session **out, const sp_session_cfg *cfg, const sp_tok *t,
                              const uint32_t *tok, size_t n, sp_diag *d);
void sp_session_free(sp_session *s, sp_kv_pool *pool); /* gives its pages back */
/* Pins what is known of the prompt; fetch: beyond RAM too. SP_AGAIN: another session is loading the
 * same. */
SP_MUST sp_err sp_session_attach(sp_session *s, sp_kv_pool *pool, const char *tenant, bool fetch);
/* Takes the pages of a session whose prompt is computed; ask for the next token of both. */
SP_MUST sp_err sp_session_fork(sp_session *s, const sp_session *from, sp_kv_pool *pool);
/* Gives the pages back; the session starts again from its tokens, answer included. */
void sp_session_preempt(sp_session *s, sp_kv_pool *pool);
/* The model thinks no further: what it thinks now ends with the next token that is chosen. */
void sp_session_answer_now(sp_session *s);

/* Trials of what it thinks (trial.h). Before a step that may have one: begins the one that is due
 * if the text stands there, and gives up one whose thoughts have ended. Is there one to compute?
 * Errors: SP_NOMEM. */
SP_MUST sp_err sp_session_trial(sp_session *s, sp_kv_pool *pool, bool *is_on);
/* Its text has to wait for it. */
bool sp_session_awaits_trial(const sp_session *s);
/* The next token of the trial, with room for it. SP_AGAIN: there is no room. */
SP_MUST sp_err sp_session_trial_span(sp_session *s, sp_kv_pool *pool, sp_model_span *out);
/* Takes the logits of that token. */
SP_MUST sp_err sp_session_trial_take(sp_session *s, sp_kv_pool *pool, const float *logits);
/* There is no place for the trial that is due or being made: the text goes on without. */
void sp_session_trial_drop(sp_session *s, sp_kv_pool *pool);

/* The sequence that is computed now, its own or that of a part computed by itself, and the tokens
 * to compute there before the next one can be chosen or something is put in place. */
size_t sp_session_todo(const sp_session *s);
bool sp_session_is_decoding(const sp_session *s);
/* With cfg.beginning: all of it is in pages, and nothing of it is still being loaded. */
bool sp_session_is_read(const sp_session *s);
/* While it is decoding: how many tokens may be guessed ahead in the next step, at most cap. */
size_t sp_session_guess_cap(const sp_session *s, size_t cap);
/* Then sp_guesser_look, sp_guesser_run and sp_guesser_choose for this answer; ask->cap is what
 * sp_session_guess_cap gave. */
size_t sp_session_look(sp_session *s, const sp_guess_ask *ask, sp_draft_id *runner);
sp_draft_run sp_session_run(sp_session *s, size_t n);
size_t sp_session_choose(sp_session *s, const sp_guess_ask *ask, double *p);
/* Whose guesses the last sp_session_choose gave. */
sp_draft_id sp_session_drafter(const sp_session *s);
/* The answer came to its own end: drafters may learn from it. */
void sp_session_end(sp_session *s);
/* A span of the next n tokens, asking for logits when they are the last; where it is decoding,
 * those behind the first are guesses, and each token has its logits, as it has where
 * sp_session_asks_all says so. Room must be reserved. */
sp_model_span sp_session_span(sp_session *s, size_t n);
/* Behind a step that computed n tokens of the sequence's text which stay, its rows from `row` on in
 * w: drafters that want them see their hidden states. The tokens are those before sp_session_seq's
 * end. */
void sp_session_see(sp_session *s, const sp_model *m, const sp_model_work *w, size_t row, size_t n);
/* After a token was accepted: was it the next guess of the span? Then the next logits are for the
 * token behind it. */
bool sp_session_was_guessed(const sp_session *s);
/* Does it ask for the logits of each token of its prompt, and has not given their log-probabilities
 * yet? */
bool sp_session_asks_all(const sp_session *s);
/* Then takes those of a span of n tokens, which were computed just now: rows of n_row floats. When
 * they end the prompt, *out is the event PROMPT and the last row is for sp_session_accept; else
 * NULL. */
SP_MUST sp_err sp_session_note_prompt(sp_session *s, const float *logits, size_t n_row, size_t n,
                                      sp_event **out);
sp_kv_seq *sp_session_seq(sp_session *s);
const sp_kv_seq *sp_session_text_seq(const sp_session *s); /* its own, whatever is computed now */
/* Where a part computed by itself begins: its *n_ready tokens can be put in place, or 0 and it is
 * computed or loaded first.
 * Elsewhere: 0. SP_AGAIN: another session is loading it. */
SP_MUST sp_err sp_session_part(sp_session *s, sp_kv_pool *pool, bool fetch, size_t *n_ready);
/* Puts them in place; room must be reserved. Errors: see sp_model_splice. */
SP_MUST sp_err sp_session_splice(sp_session *s, sp_kv_pool *pool, const sp_model *m,
                                 sp_model_work *w);
/* Tokens that the last accepted one brought along, for nothing else can follow it: they are
 * computed with it. */
size_t sp_session_brought(const sp_session *s);
size_t sp_session_forced(const sp_session *s); /* the same, of the whole answer */
size_t sp_session_tokens(const sp_session *s); /* prompt and answer so far */

/* Does the next token need no more of its logits than a device's list of the best, of this
 * temperature? */
bool sp_session_takes_best(const sp_session *s, float *temperature);
/* Such a list, borrowed for the next sp_session_accept, whose logits are not read before
 * `read` has brought them. */
typedef sp_err sp_session_read(void *arg);
void sp_session_offer(sp_session *s, const sp_dev_best *best, sp_session_read *read, void *arg);
/* Chooses the next token from logits. *out gets a TEXT event, or NULL while text is held back
 * (inside a character, or at what may become a stop string). *done: the answer ended; then its
 * reason is in *finish and all text has been given. */
SP_MUST sp_err sp_session_accept(sp_session *s, const float *logits, sp_event **out, bool *done,
                                 sp_finish *finish, sp_diag *d);
size_t sp_session_out(const sp_session *s); /* tokens of the answer */
size_t sp_session_thought(const sp_session *s); /* of them, thought */
/* Which of cfg.stop ended the answer, from 1; 0: none of them. */
size_t sp_session_stop(const sp_session *s);
/* Prompt tokens that came from the cache, by where they lay; demoted: of them, attended without lo
 * parts. */
typedef struct sp_session_source {
    size_t ram, ssd, s3, demoted;
    size_t placed, spliced; /* tokens put in place; of them, those whose part was known before */
} sp_session_source;
sp_session_source sp_session_reused(const sp_session *s);
/* Of an answer that ended with doubt or one_sentence: its tokens, those before its last sentence,
 * and what made it unsure. */
typedef struct sp_session_end_at {
    const uint32_t *id; /* [n_id] valid while the session is */
    size_t n_id, n_kept;
    const char *rest;   /* [n_rest] text behind n_kept tokens that was not given */
    size_t n_rest;
    float logprob, entropy, margin;
    const sp_buf *steps; /* of the policy, as sp_policy_step; NULL: none */
} sp_session_end_at;
sp_session_end_at sp_session_cut(const sp_session *s);
sp_receipt_control sp_session_control(const sp_session *s); /* what rules did so far */
const sp_dev_cert *sp_session_cert(const sp_session *s); /* what attention left out so far */

#endif
