/* What the controllers share: control.c (the chain and its small ones), control_grammar.c,
 * control_rules.c and control_doubt.c. */
#ifndef SP_GEN_CONTROL_INT_H
#define SP_GEN_CONTROL_INT_H

#include "gen/control.h"
#include "gen/policy.h"

/* The states of all controllers: each is its own controller's to write; others may read. */
typedef struct sp_grammar_hold {
    sp_grammar *grammar;
    sp_grammar_at at; /* where the answer stands in it */
    bool holds;       /* it binds the next token */
} sp_grammar_hold;

typedef struct sp_grammar_control {
    sp_grammar_hold form, call; /* of cfg.grammar and cfg.calls. Both hold: the answer may still
                                   become the one or the other */
    uint8_t *merged; /* [n_vocab] the mask of both, or one with control tokens; NULL: not needed
                        yet */
    char tail[64 + 256]; /* [n_tail] the newest bytes of the answer, in which cfg.trigger is looked
                            for */
    size_t n_tail;
    sp_force force; /* what its grammar leaves no choice about */
} sp_grammar_control;

typedef struct sp_rules sp_rules; /* control_rules.c */
typedef struct sp_doubt sp_doubt; /* control_doubt.c */
typedef struct sp_learned sp_learned; /* control_learned.c */

struct sp_control {
    const sp_session_cfg *cfg;
    const sp_tok *t;
    uint8_t *going; /* least: [n_vocab] forbids what ends the answer; NULL: nothing asks for it */
    bool thinking;  /* between think_open and think_close */
    size_t n_thought;
    bool is_thought_out; /* a rule says that more thinking gives nothing */
    /* thinking: [n_vocab] allows think_close alone; NULL: the model does not think */
    uint8_t *only;
    sp_grammar_control grammar;
    sp_rules *rules; /* NULL: none */
    sp_doubt *doubt; /* NULL: nothing asks for it */
    sp_learned *learned; /* NULL: no policy */
    /* watch: sum of the log-probabilities of the likeliest tokens, the newest watch_tok of them */
    double watched;
    float late[SP_WATCH_TOK]; /* watch_all: these */
    size_t n_watched;
    bool is_trusted; /* the watch is over, or there is none */
};

/* One controller. NULL: it has nothing to say there. */
typedef struct sp_control_kind {
    const char *name;
    sp_err (*start)(sp_control *c, const uint32_t *tok, size_t n);
    sp_err (*allow)(sp_control *c, size_t n_out, const uint8_t **allowed);
    sp_err (*force)(sp_control *c, uint32_t *id);
    sp_err (*took)(sp_control *c, const sp_control_now *now, sp_verdict *v);
} sp_control_kind;

extern const sp_control_kind sp_control_grammar, sp_control_rules, sp_control_doubt;

/* What the controller that prunes knows of the answer. */
typedef struct sp_rules_facts {
    const sp_ids *ids;   /* tokens of the answer */
    size_t n_same;       /* conclusions in a row that came to the same */
    size_t n_conclusion; /* in all */
    double loops;        /* how often the newest tokens repeat what stands before them */
    float overlap;       /* share of the newest sentence's words that the answer had said */
    size_t n_again;      /* sentences in a row that were said before */
    bool is_plain;       /* nothing of this sentence is protected */
} sp_rules_facts;

SP_MUST sp_err sp_learned_new(sp_learned **out, const sp_session_cfg *cfg);
void sp_learned_free(sp_learned *l);
void sp_learned_see(sp_learned *l, const float *logits, size_t n_vocab); /* the next token's */
/* n_out: tokens of the answer; at_end: a sentence has just ended. */
SP_MUST sp_err sp_learned_decide(sp_control *c, const sp_rules_facts *f, size_t n_out, bool at_end,
                                 sp_policy_act *act);
void sp_rules_free(sp_rules *r);
/* What a sentence comes to, as a hash; 0: it concludes nothing. And a byte more into a hash. */
uint64_t sp_rules_conclusion(const sp_buf *sentence);
uint64_t sp_rules_hash(uint64_t h, char c);
void sp_doubt_free(sp_doubt *q);
void sp_control_look(sp_control *c, const float *logits); /* the next token's */
void sp_control_moved(sp_control *c, size_t n); /* so many bytes of the held text have left */

#endif
