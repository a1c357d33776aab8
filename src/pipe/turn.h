/* The one way of a request: ask, plan, history, search, submit, escalate, save, vote. Every
 * protocol, the terminal and the shadow sample go it; none of them knows a step of it.
 *
 *   sp_turn_open    the plan is made            (POST /v1/plan stops here)
 *   sp_turn_start   what comes first is begun: the conversation, the search, or the answer itself
 *   sp_turn_next    events, one after the other, until END or ERROR
 *   sp_turn_free    at any time; what still runs is cancelled
 *
 * Events of one answer (choice) come in this order, and answers of one request may be mixed:
 *   BEGIN, then any of TEXT, REFERENCE, REASONING and calls (CALL, ARGS…, CALL_END; one call at a
 *   time), then CITATIONS if documents were searched,
 *   then FINISH. After the FINISH of all answers: END, or instead of anything at any time: ERROR.
 *   Both are the last. An ask without `stream` yields nothing but END or ERROR; what was answered
 *   is read with sp_turn_answer_of then.
 *
 * What grows with the request (rendering, tokenising) does not run in the thread that reads events
 * where the runner has `defer`.
 *
 * Owner:   the turn owns the ask. Everything that its functions return is borrowed until
 *          sp_turn_free, an event's texts until the
 *          next sp_turn_next.
 * Threads: one at a time. After SP_AGAIN the turn may be at work elsewhere: nothing of it may be
 * touched until the runner says so (where
 *          `defer` is NULL: at any time).
 * Errors:  as a sp_turn_error: a code, what is wrong with it, and the parameter. No caller reads
 *          the message. */
#ifndef SP_PIPE_TURN_H
#define SP_PIPE_TURN_H

#include "net/upstream.h"
#include "obs/power.h"
#include "pipe/ask.h"
#include "pipe/passages.h"
#include "pipe/placement.h"
#include "pipe/prices.h"

typedef struct sp_turn sp_turn;
struct sp_shadow;
struct sp_models;
struct sp_served;
struct sp_feedback;
struct sp_experiments;

/* A model that answers, and what stands beside it. Immutable while it serves; everything in it is
 * borrowed. */
typedef struct sp_turn_env {
    /* where the model is in use as long as a turn runs; NULL: it is always there */
    struct sp_models *models;
    struct sp_served *served;     /* the model there; with models */
    const char *name;             /* of the model, as clients know it */
    sp_engine *engine;
    const sp_tok *tok;
    sp_grammars *grammars;        /* over tok; NULL: no answer is bound to one */
    const sp_chat *chat;          /* NULL: the model has no template */
    sp_history *history;          /* NULL: no conversations */
    sp_know *know;                /* NULL: no documents */
    /* collection that every chat looks into; NULL: only those that ask */
    const char *retrieve;
    sp_upstream *upstream;        /* NULL: there is none */
    /* its places stand in the stead of upstream; NULL: there are no rules */
    const sp_placement *placement;
    const sp_intent_model *intent; /* NULL: no request is judged */
    const sp_policy *policy;      /* of the rule learned, for the model that it is for; NULL:
                                     none */
    struct sp_shadow *shadow;     /* NULL: no light answer is checked */
    struct sp_feedback *feedback; /* NULL: answers are not noted */
    const struct sp_experiments *experiments; /* NULL: there are none */
    const struct sp_versions *versions; /* of settings; NULL: those of the options alone */
    /* the server's; upstream and passages are filled in for each request */
    sp_plan_cfg plan;
    /* tokens around what the model thinks; equal: it does not mark it */
    uint32_t think_open, think_close;
    size_t think_same; /* of asks that say nothing of rules: sp_session_cfg.think_same; 0: the
                                     rule is off */
    /* of asks that name none: share of the attention that may be left out, */
    float eps;
    size_t eps_from;              /* from this position on */
    sp_price price[2];            /* here, upstream */
    const sp_prices *prices;      /* of machine, electricity and places; NULL: they cost nothing */
    sp_power *power;              /* NULL: electricity costs nothing */
} sp_turn_env;

/* Where a turn works. All NULL: in the thread that calls it, which waits with sp_turn_wait. */
typedef struct sp_turn_run {
    void (*wake)(void *arg);  /* there may be an event; from any thread, without locks */
    /* fn(fn_arg) runs on another thread, and wake comes after it. Errors: SP_LIMIT, SP_NOMEM. */
    sp_err (*defer)(void *arg, void (*fn)(void *fn_arg), void *fn_arg, sp_diag *d);
    void *arg;
} sp_turn_run;

/* What an error is about, beyond its code. */
typedef enum sp_turn_why {
    SP_WHY_OTHER,
    SP_WHY_TOO_LONG, /* the prompt does not fit into the context */
    SP_WHY_NO_MODEL, /* there is no model of this name */
    SP_WHY_NOT_LOADED, /* it could not be brought into memory, or not in time */
    SP_WHY_UNKNOWN,    /* the cache holds nothing of the prompt, and the request is for what it
                          holds */
    SP_WHY_NO_PARENT,  /* the conversation has no message of that id */
    SP_WHY_REPEATED    /* the message was sent before: sp_turn_stored has its answer */
} sp_turn_why;

typedef struct sp_turn_error {
    sp_diag diag;      /* code != SP_OK: there is an error */
    sp_turn_why why;
    /* what of the request is wrong, in the words of chat completions; "": unknown, or all of it */
    char param[64];
} sp_turn_error;

typedef enum sp_turn_kind {
    SP_TURN_BEGIN,     /* an answer begins */
    /* text: more of the answer; tok: its tokens, if log-probabilities were asked for. text may
     * be empty where tok is not */
    SP_TURN_TEXT,
    /* ref: a span of the answer that repeats a source of the ask; only where it asked for marks */
    SP_TURN_REFERENCE,
    SP_TURN_REASONING, /* text: more of what the model thinks before it answers */
    SP_TURN_CALL,      /* call, call_id, name: a tool is called */
    /* call, text: more of the call's arguments, which are one JSON object when they are whole */
    SP_TURN_ARGS,
    SP_TURN_CALL_END,  /* call: the arguments are whole */
    SP_TURN_CITATIONS, /* cite: sentences of the answer that passages support; maybe none */
    SP_TURN_FINISH,    /* finish: the answer is whole, and why it ended */
    /* text, static: what was begun is given up, and begun again on another path. Nothing of it
     * had left. */
    SP_TURN_AGAIN,
    /* all answers are whole, and kept if they had to be. sp_turn_receipt and the others have
     * their last values */
    SP_TURN_END,
    SP_TURN_ERROR      /* error: no answer is whole */
} sp_turn_kind;

typedef struct sp_turn_event {
    sp_turn_kind kind;
    size_t choice;      /* the answer it belongs to; all but AGAIN, END and ERROR */
    sp_str text;
    size_t call;        /* index among the answer's calls, from 0 */
    sp_str call_id, name;
    const sp_event_tok *tok; /* [n_tok] */
    size_t n_tok;
    /* [text.n] TEXT: as sp_event.how, only where the ask wants costs, and they are known; else
     * NULL */
    const char *how;
    sp_reference ref;
    const sp_citation *cite; /* [n_cite] */
    size_t n_cite;
    sp_finish finish;
    const sp_turn_error *error;
} sp_turn_event;

/* A tool call of an answer. */
typedef struct sp_turn_call {
    sp_buf id, name, args;
} sp_turn_call;

/* One answer, as far as it has come. */
typedef struct sp_turn_answer {
    sp_buf text, reasoning;
    sp_turn_call *call;  /* [n_call] */
    size_t n_call;
    sp_buf how;          /* of text, as sp_event.how; only where the ask wants marks or costs */
    /* before END, where the ask wants marks and no stream: text without the spans that are
     * marks, */
    sp_buf sent;
    sp_reference *ref;   /* [n_ref] and these */
    size_t n_ref;
    sp_event_tok *tok;   /* [n_tok] of text; only with log-probabilities */
    size_t n_tok;
    /* [n_prompt_tok] of the prompt, if asked for; only of the first answer to each prompt,
     * before its text */
    sp_event_tok *prompt_tok;
    size_t n_prompt_tok;
    sp_citation *cite;   /* [n_cite] after FINISH, where documents were searched */
    size_t n_cite;
    sp_finish finish;    /* after FINISH */
    /* after FINISH: the stop string that ended it, of the ask; NULL: none did */
    const char *stop;
} sp_turn_answer;

/* What a search gave to the prompt. */
typedef struct sp_turn_found {
    /* NULL: nothing was searched. op->hit [n_passage] and op->fact [n_fact] are in the prompt. */
    const sp_know_op *op;
    size_t n_passage, n_fact;
    size_t n_left;        /* hits behind n_passage that bear on the question and did not fit */
    bool looked;          /* the server looked, or would have, of its own accord */
} sp_turn_found;

typedef struct sp_turn_usage {
    size_t n_prompt;      /* tokens, each prompt once */
    size_t n_cached;      /* of them, not computed anew */
    size_t n_out;         /* of all answers */
    size_t n_think;       /* of them, thought */
} sp_turn_usage;

/* Makes the plan. Takes the ask, also on failure; then *e says why, if e is not NULL. */
SP_MUST sp_err sp_turn_open(sp_turn **out, const sp_turn_env *env, sp_ask *ask, sp_turn_error *e);
/* Counts the tokens of the prompt as it is before any search, of an ask with messages; nothing is
 * begun. */
SP_MUST sp_err sp_turn_count(size_t *out, sp_turn *t, sp_turn_error *e);
/* Begins. A failure here means that nothing was begun: *e says why, and the turn can only be
 * freed. */
SP_MUST sp_err sp_turn_start(sp_turn *t, const sp_turn_run *run, sp_turn_error *e);
/* Is everything done that comes before an answer: conversation, search, prompt, and an upstream
 * model's first words, or the answer's own where it may be refused for what the cache does not
 * hold? SP_AGAIN: not yet. Optional; an error that came up (sp_turn_error_of) before there are
 * words can be told before the head of a stream. */
SP_MUST sp_err sp_turn_ready(sp_turn *t);
/* Does more wait to be told than that an answer begins? */
bool sp_turn_has_words(const sp_turn *t);
/* SP_OK: *ev is the next event. SP_AGAIN: there is none yet. Not called again after END or
 * ERROR. */
SP_MUST sp_err sp_turn_next(sp_turn *t, sp_turn_event *ev);
/* The ids of prompt i (a chat has one) as they would be computed, without what only an answer has:
 * a conversation, passages. Instead of sp_turn_start. SP_UNSUP where the request asks for these. */
SP_MUST sp_err sp_turn_prompt(sp_turn *t, sp_ids *out, size_t i, sp_turn_error *e);
/* Waits until there may be an event, or timeout_ns have passed. */
void sp_turn_wait(sp_turn *t, uint64_t timeout_ns);
/* Waits for the end of a turn whose events nobody reads. SP_TIMEOUT behind `most_ms`; else what the
 * turn's error says. */
SP_MUST sp_err sp_turn_await(sp_turn *t, uint64_t most_ms, sp_diag *d);
/* The answers end where they are, as if they were whole: SP_FINISH_CANCEL. */
void sp_turn_stop(sp_turn *t);
/* The model thinks no further, and answers. The jobs hear of it when the turn is next asked for
 * events, as every token makes its owner do. From any thread while the turn lives. */
void sp_turn_answer_now(sp_turn *t);
void sp_turn_free(sp_turn *t);

const sp_ask *sp_turn_ask(const sp_turn *t); /* parts with their places in the prompt */
const sp_turn_env *sp_turn_env_of(const sp_turn *t);
const sp_plan *sp_turn_plan(const sp_turn *t);
size_t sp_turn_answers(const sp_turn *t);  /* how many there are */
/* as far as it has come; NULL: there is none */
const sp_turn_answer *sp_turn_answer_of(const sp_turn *t, size_t choice);
sp_turn_found sp_turn_searched(const sp_turn *t);
/* The answer that the request asked for before, SP_WHY_REPEATED; else NULL. */
const sp_hdb_item *sp_turn_stored(const sp_turn *t);
const char *sp_turn_conversation(const sp_turn *t); /* its id; NULL: the request is part of none */
sp_turn_usage sp_turn_used(const sp_turn *t);
/* the sum over its answers, and what the plan says */
void sp_turn_receipt(sp_receipt *out, const sp_turn *t);
const sp_turn_error *sp_turn_error_of(const sp_turn *t);  /* diag.code SP_OK: there is none */
/* from the request to its first text; 0: there was none */
double sp_turn_ms_first(const sp_turn *t);
/* What is being done. done, total: tokens of the prompt while it is read, else 0. */
typedef enum sp_turn_stage {
    SP_STAGE_QUEUE,
    SP_STAGE_SEARCH,
    SP_STAGE_READ,
    SP_STAGE_WRITE
} sp_turn_stage;
sp_turn_stage sp_turn_stage_of(const sp_turn *t, size_t *done, size_t *total);
bool sp_turn_is_over(const sp_turn *t);    /* END or ERROR has come, or would come next */

#endif
