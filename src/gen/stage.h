/* The three structs between the stages, and nothing else passes: sp_plan (intent to all),
 * sp_context (retrieval to generation), sp_event (generation to client). Plain data, so that a
 * stage can be a function call or a service on another host. */
#ifndef SP_GEN_STAGE_H
#define SP_GEN_STAGE_H

#include "gen/sample.h"
#include "obs/receipt.h"
#include "text/tokenizer.h"

typedef enum sp_class {
    SP_CLASS_FACT,
    SP_CLASS_CHAT,
    SP_CLASS_EXTRACT,
    SP_CLASS_SUMMARY,
    SP_CLASS_CODE,
    SP_CLASS_MATHS,
    SP_CLASS_PLAN,
    SP_CLASSES
} sp_class;

/* What intent decided for a request. */
typedef struct sp_plan {
    sp_path path;
    sp_class cls;        /* what is asked for */
    bool judged;         /* false: nobody looked at the request, and the three below mean nothing */
    double sure;         /* probability of cls */
    double difficulty;   /* probability that the light path is not enough */
    double need;         /* probability that it needs passages */
    size_t think_tok;    /* tokens a reasoning model may spend thinking; 0: none */
    size_t votes;        /* answers drawn, of which the most common one counts; 1: just one */
    /* the answer's first tokens, whose probability decides whether it is taken; 0: it is */
    size_t watch_tok;
    double watch_least;  /* below this mean log-probability it is not */
    bool watch_all;      /* not only the first: any watch_tok tokens in a row */
    const char *why;     /* the deciding reason, static text */
    double epsilon;      /* share of the attention a call may leave out, certified; 0 = dense */
    double prefill_keep; /* share of its pages that a long prompt attends; 0 = all */
    size_t max_tok;      /* tokens of the answer */
    bool retrieve;       /* look for passages */
    size_t draft;        /* tokens guessed ahead in a step, at most; 0: none */
    unsigned drafters;   /* who may guess: bits 1 << sp_draft_id */
    /* as many as can be are guessed, whatever a step costs: counts depend on no clock then */
    bool draft_fixed;
    double ms;           /* spent deciding */
} sp_plan;

/* A part of a prompt that is computed by itself, once, and put in place: a passage read behind a
 * beginning of its own. */
typedef struct sp_splice {
    size_t first, n;     /* tokens of the prompt */
    sp_ids alone;        /* what is computed instead; owned */
    size_t at;           /* where the part begins in it */
} sp_splice;

/* What retrieval gives to generation: the prompt, ready to compute. */
typedef struct sp_context {
    sp_ids prompt;       /* owned by whoever holds the context */
    sp_splice *splice;   /* [n_splice] ascending, apart; owned likewise */
    size_t n_splice;
    double ms;           /* spent retrieving and building */
} sp_context;

void sp_splice_free(sp_splice *p, size_t n);

/* PROMPT comes first, and only where it was asked for. */
typedef enum sp_event_kind {
    SP_EVENT_TEXT,
    SP_EVENT_CALLS,
    SP_EVENT_FINISH,
    SP_EVENT_ERROR,
    SP_EVENT_PROMPT
} sp_event_kind;
/* FILTER and CALLS come from another server only. UNKNOWN: the cache holds less of the prompt than
 * was asked for, and nothing was computed. */
typedef enum sp_finish {
    SP_FINISH_STOP,
    SP_FINISH_LENGTH,
    SP_FINISH_CANCEL,
    SP_FINISH_UNSURE,
    SP_FINISH_FILTER,
    SP_FINISH_CALLS,
    SP_FINISH_UNKNOWN
} sp_finish;

typedef struct sp_event_tok { /* logprobs of one token, when asked for */
    uint32_t id;
    float logprob;
    size_t n_top;
    sp_top top[SP_TOP_MAX];
} sp_event_tok;

/* What a token cost; see sp_event.how. */
typedef enum sp_tok_how {
    SP_TOK_INSIDE,  /* no token ends here */
    SP_TOK_CHOSEN,  /* a step of its own */
    SP_TOK_GUESSED, /* guessed ahead, and computed beside another one */
    SP_TOK_FORCED   /* put without being chosen: nothing else could come */
} sp_tok_how;

typedef struct sp_event_mark { /* bytes of a text that are a control token's */
    size_t at, n;
} sp_event_mark;

/* The tokens of an answer that ended in doubt, or behind a sentence. */
typedef struct sp_event_cut {
    sp_ids id;
    size_t n_kept; /* of them, those whose text was given */
    sp_buf rest;   /* the text of the others */
    sp_buf steps;   /* what its policy did, as sp_policy_step */
    float logprob, entropy, margin; /* means that made it unsure */
} sp_event_cut;

typedef struct sp_event sp_event;
struct sp_event {
    sp_event *next;
    sp_event_kind kind;
    /* TEXT: whole UTF-8 characters as far as the model gave them; CALLS: a JSON list, pieces of
     * tool calls */
    sp_buf text;
    /* TEXT: [n_tok], NULL without logprobs; PROMPT: all of the prompt's, the first without a
     * logprob: NAN, n_top 0 */
    sp_event_tok *tok;
    size_t n_tok;
    sp_event_mark *mark;  /* TEXT: [n_mark] ascending; only where the session was asked for them */
    size_t n_mark;
    /* TEXT: for each byte of text a sp_tok_how, at the last byte of its token; only where the
     * session was asked for it, else empty */
    sp_buf how;
    sp_finish finish;     /* FINISH */
    /* FINISH: which of the session's stop strings ended the answer, from 1; 0: none of them */
    size_t stop_at;
    sp_event_cut *cut;    /* FINISH: of a session with doubt or one_sentence; else NULL */
    sp_receipt receipt;   /* FINISH */
    size_t n_prompt;      /* FINISH */
    sp_diag diag;         /* ERROR */
};

void sp_event_free(sp_event *e);
void sp_event_cut_free(sp_event_cut *c);

#endif
