/* What an answer may be: a regular language, compiled for a vocabulary. At each step the tokens that keep the answer inside it
 * are known; all others cannot be chosen.
 *
 * A pattern becomes a nondeterministic automaton over bytes, and that a deterministic one as states are met; a state's tokens
 * are computed once. Two answers in one grammar may share it if they run on one thread.
 *
 * Patterns: literals, ., [a-z], [^"], \d \w \s \n \t \\ and \xHH, ( ), |, *, +, ?, {m}, {m,n}. Anchored at both ends. . and [^…] are
 * whole UTF-8 characters; classes name ASCII.
 * JSON schemas: object (all properties, in order), array, string (enum, maxLength), integer, number, boolean, null, enum, const,
 * anyOf; anything else is refused by name.
 *
 * Owner:   sp_grammar owns its tables; the tokenizer is borrowed.
 * Threads: one at a time.
 * Errors:  SP_INVAL with the place in the pattern, or naming the budget that it passes; SP_UNSUP names a schema keyword; SP_LIMIT when
 *          too many states are met, or one token or mask needs too many steps (SP_GRAMMAR_LIMIT says it in words).
 * Source:  Willard & Louf 2023 (states of an automaton as masks over a vocabulary). */
#ifndef SP_GEN_GRAMMAR_H
#define SP_GEN_GRAMMAR_H

#include "text/tokenizer.h"

#include <jansson.h>

typedef struct sp_grammar sp_grammar;

SP_MUST sp_err sp_grammar_regex(sp_grammar **out, const sp_tok *tok, const char *pattern, sp_diag *d);
/* Appends the pattern of a schema. */
SP_MUST sp_err sp_grammar_schema(sp_buf *out, const json_t *schema, sp_diag *d);
/* Appends a pattern that is exactly this text. */
void sp_grammar_quote(sp_buf *out, const char *p, size_t n);
void sp_grammar_free(sp_grammar *g);

#define SP_GRAMMAR_LIMIT "the pattern is too large to follow: it meets more than 4096 states, or one token needs more than 2097152 steps"
enum { SP_GRAMMAR_PATTERN = 64 * 1024 }; /* bytes of a pattern at most */

enum { SP_GRAMMAR_START = 1 }; /* state 0: no way on */
/* The state after some bytes; 0 when they leave the language. SP_LIMIT, SP_NOMEM. */
SP_MUST sp_err sp_grammar_step(sp_grammar *g, uint32_t *state, const char *p, size_t n);
bool sp_grammar_may_end(const sp_grammar *g, uint32_t state);
/* No byte can follow: the answer is complete. */
bool sp_grammar_must_end(sp_grammar *g, uint32_t state);
/* A byte for each token: may it come next? Tokens that end an answer may where the answer may end. Valid
 * until the next call. */
SP_MUST sp_err sp_grammar_mask(sp_grammar *g, uint32_t state, const uint8_t **out);

#endif
