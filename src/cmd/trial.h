/* An engine in this process, for the commands that ask it questions themselves: what stands beside
 * its model, and a turn from its beginning to its end. */
#ifndef SP_CMD_TRIAL_H
#define SP_CMD_TRIAL_H

#include "cmd/cmd.h"
#include "cmd/prices.h"
#include "pipe/turn.h"

/* An engine that answers one request at a time, with the draft head of that path, if it is not
 * NULL. learned: as in sp_engine_cfg. *metrics, which is made where it is NULL, and *drafters are
 * the caller's to free, after an error too. */
SP_MUST sp_err sp_cmd_engine(sp_engine **out, sp_metrics **metrics, sp_cmd_drafter *drafters,
                             const sp_loaded *l, const char *head, sp_engine_learned *learned,
                             sp_diag *d);

/* Documents, and what makes vectors of questions. */
typedef struct sp_documents {
    sp_encoder *encoder;
    sp_engine *texts; /* which runs it */
    sp_know *know;    /* NULL: there are none */
} sp_documents;

/* out is zeroed; closed by the caller, after an error too. path: of --knowledge; chunk_tok: only
 * reading documents uses it. */
SP_MUST sp_err sp_documents_open(sp_documents *out, const char *path, size_t chunk_tok, sp_dev *dev,
                                 sp_metrics *m, const sp_opts *o, sp_diag *d);
void sp_documents_close(sp_documents *docs);

typedef struct sp_trial {
    sp_loaded l;
    sp_metrics *metrics;
    sp_cmd_drafter drafters;
    sp_engine *engine;
    sp_engine_learned learned; /* with --draft-head, or none */
    sp_intent_model intent;
    sp_buf intent_file;
    sp_documents docs;
    sp_cmd_prices prices;
    sp_turn_env env;
} sp_trial;

/* Zeroed; closed by the caller, after an error too. whole: requests are judged by the intent model,
 * --knowledge is searched, and the paths are those that the options say. */
SP_MUST sp_err sp_trial_open(sp_trial *t, const sp_opts *o, bool whole, sp_diag *d);
void sp_trial_close(sp_trial *t);

/* Closes the engine of t, so that its model and pages are free for training. Nothing can be
 * answered until sp_trial_resume. */
void sp_trial_pause(sp_trial *t);
/* An engine with the draft head of that path, NULL: with none, that goes on with what one of the
 * same head has learned. learned lives as long as the engine. */
SP_MUST sp_err sp_trial_resume(sp_trial *t, const char *head, sp_engine_learned *learned,
                               sp_diag *d);

/* What is told of a turn that runs: its next event, or NULL every tenth of a second. */
typedef void (*sp_trial_fn)(void *arg, sp_turn *turn, const sp_turn_event *ev);

/* Answers a request, which it takes. *out is the turn behind its end, to be read and freed by the
 * caller; NULL on error. fn may be NULL. */
SP_MUST sp_err sp_trial_answer(sp_turn **out, const sp_trial *t, sp_ask *q, sp_trial_fn fn,
                               void *arg, sp_diag *d);

/* A line of a file of prompts: {"prompt"} or {"messages": [{"role", "content"}, …]}. *out borrows
 * its texts; greedy, always with the same seed, and computed whole: no page of an earlier answer is
 * found. SP_FORMAT: it has neither. */
struct json_t;
SP_MUST sp_err sp_trial_ask(sp_ask **out, const sp_trial *t, const struct json_t *line,
                            size_t max_tok, sp_diag *d);

/* --path, --full-from, --need-from, --escalate-below, --draft, --light-tokens, --think-tokens. */
SP_MUST sp_err sp_cmd_plan(sp_plan_cfg *out, const sp_opts *o, sp_diag *d);
/* The model of intent that --intent-model names, or the one built in; file keeps its bytes. */
SP_MUST sp_err sp_cmd_intent(sp_intent_model *out, sp_buf *file, const sp_opts *o, sp_diag *d);

#endif
