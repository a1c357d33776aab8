/* Drafters: guesses at the tokens that come next. A step computes the guessed tokens beside the
 * newest one and keeps those that the model, asked at each, chooses as well: the answer is the
 * same, and takes fewer steps where it was foreseen.
 *
 * A source is what an engine has of a drafter: shared state, such as a model or an index. It starts
 * one sp_drafter for each answer. The order of calls for a drafter: start; then before a step
 * sp_draft_kind.run, where there is one, and propose; for each token that the answer gets, took;
 * behind a step, see; at the end, end. guesser.h calls them and chooses among the drafters.
 *
 * Owner:   a source outlives the drafters that it started; `end` frees a drafter.
 * Threads: all calls come from the step thread. */
#ifndef SP_GEN_DRAFT_H
#define SP_GEN_DRAFT_H

#include "base/err.h"
#include "obs/receipt.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    SP_DRAFT_MAX = 15,
    SP_DRAFT_MATCH = 32, /* tokens that are compared at most */
    SP_DRAFT_LAYERS = 4  /* layers whose hidden states one source may ask for */
};

/* A guess: what may come next. */
typedef struct sp_draft {
    uint32_t tok[SP_DRAFT_MAX]; /* [n] */
    float p[SP_DRAFT_MAX];      /* [n] the drafter's own probability of each; 0: it has none */
    size_t n;
    size_t match; /* how many tokens before it agree with the text that the guess is from; 0: it is
                     from no text */
} sp_draft;

/* The prompt and the answer so far. */
typedef struct sp_draft_text {
    const uint32_t *tok; /* [n] */
    size_t n, n_prompt;
} sp_draft_text;

/* The answer that a drafter is started for. */
typedef struct sp_draft_answer {
    const char *tenant;        /* whose it is; from authentication */
    const char *conv;          /* the conversation, or NULL */
    const char *salt;          /* of its pages (sp_kv_seq_salt): nothing is taken from answers of
                                  another one; NULL: none */
    bool is_private;           /* nothing of it may be kept */
    const uint32_t *predicted; /* [n_predicted] what the client says the answer is like; lives as
                                  long as the drafter */
    size_t n_predicted;
} sp_draft_answer;

typedef struct sp_draft_kind sp_draft_kind;

/* Begins the state of each kind's drafters. */
typedef struct sp_drafter {
    const sp_draft_kind *kind;
} sp_drafter;

/* Begins the state of each kind's sources. */
typedef struct sp_draft_source {
    const sp_draft_kind *kind;
    size_t layer[SP_DRAFT_LAYERS]; /* [n_layer] the model's layers whose hidden states `see` gets */
    size_t n_layer;
} sp_draft_source;

/* Hidden states of tokens [first, first + n) of an answer's text: what the last step computed of
 * them, prompt chunks included. Guesses that were not taken are left out. What was known before (a
 * cached prefix, the prompt of a fork) is never computed: `first` may lie behind the end of what
 * came before. It may also go back, where an answer was preempted and is read again. */
typedef struct sp_draft_states {
    const float *row[SP_DRAFT_LAYERS]; /* of source->layer[i]: f32 [n, n_embd], the stream behind
                                          that layer, before the output norm. Device memory,
                                          borrowed for the call: it is the pass's own, not a
                                          copy. */
    size_t first, n;
} sp_draft_states;

/* A drafter that takes part in sp_draft_kind.run. */
typedef struct sp_draft_run {
    sp_drafter *drafter;
    sp_draft_text text;
    size_t n;      /* tokens to guess, at most; 0: only what is known is read */
    size_t n_read; /* out: tokens of the text that were read first */
} sp_draft_run;

struct sp_draft_kind {
    sp_draft_id id;
    /* A drafter for one answer. *out NULL: this answer gets none of the kind. */
    sp_err (*start)(sp_draft_source *s, sp_drafter **out, const sp_draft_answer *a);
    /* Runs what is needed before the drafters' next guesses as one batch. NULL: nothing is. An
     * error leaves drafters without a guess. */
    sp_err (*run)(sp_draft_source *s, sp_draft_run *r, size_t n);
    /* Guesses what follows t; *out is zeroed. */
    void (*propose)(sp_drafter *d, sp_draft *out, const sp_draft_text *t);
    /* The last token of t is new; guess is what the drafter guessed to come, from that token on: n
     * 0: it had no guess. NULL: the kind does not want to know. */
    void (*took)(sp_drafter *d, const sp_draft_text *t, const sp_draft *guess);
    /* A step computed tokens of t; the newest token of t is not among them. NULL: the kind does not
     * want to know. */
    void (*see)(sp_drafter *d, const sp_draft_text *t, const sp_draft_states *s);
    /* The answer ended, as t where it came to its own end, or with t NULL. */
    void (*end)(sp_drafter *d, const sp_draft_text *t);
    /* Forgets what it keeps of a tenant, or of one of its conversations; NULL: it keeps nothing. */
    void (*forget)(sp_draft_source *s, const uint8_t *tag, const uint8_t *conv);
};

/* Behind the longest earlier occurrence of the newest tokens in the prompt or the answer (prompt
 * lookup). */
extern const sp_draft_kind sp_draft_lookup;
/* Behind the newest tokens in sp_draft_answer.predicted. As long as it is right of late, it counts
 * as if more tokens agreed. */
extern const sp_draft_kind sp_draft_prediction;

/* How many tokens agree: those before a [n_a] and before b [n_b], at most SP_DRAFT_MATCH. */
size_t sp_draft_agree(const uint32_t *a, size_t n_a, const uint32_t *b, size_t n_b);

#endif
