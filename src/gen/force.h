/* Tokens that a grammar leaves no choice about.
 *
 * Bytes can be forced though tokens are not: many tokens may spell `"name": `. The rule: a run of
 * bytes that must come is spelled as the tokenizer spells it, all but the last token of it, which
 * may still join what follows; where nothing can follow, all of it. Sessions obey the rule whether
 * or not a token is computed by itself, so that an answer does not depend on it. A tokenizer that
 * does not give the bytes back unaltered (one that puts a space before a text) forces nothing.
 * Control tokens are put only where they are among those that the caller names.
 *
 * Owner:   sp_force owns its ids; zeroed it is empty.
 * Threads: as the grammar.
 * Errors:  SP_NOMEM; SP_LIMIT as sp_grammar_step. */
#ifndef SP_GEN_FORCE_H
#define SP_GEN_FORCE_H

#include "gen/grammar.h"

typedef struct sp_force {
    sp_ids ids;  /* tokens that are forced from some place on */
    size_t next; /* of them, taken */
} sp_force;

void sp_force_fini(sp_force *f);
/* Where it is asked: a place in a grammar, the vocabulary, and the control tokens mark [n_mark]
 * that may be put for their text. */
typedef struct sp_force_ask {
    sp_grammar *grammar;
    sp_grammar_at at;
    const sp_tok *tok;
    const uint32_t *mark;
    size_t n_mark;
} sp_force_ask;

/* *id: the token that must come at this place, or SP_TOK_NONE. */
SP_MUST sp_err sp_force_look(sp_force *f, uint32_t *id, const sp_force_ask *ask);
/* The token that was looked at is taken. */
void sp_force_take(sp_force *f);

#endif
