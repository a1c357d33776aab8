/* What an answer may be: a language, compiled for a vocabulary. At each step the tokens that keep
 * the answer inside it are known; all others cannot be chosen.
 *
 * One notation serves all: patterns. JSON schemas (schema.h) and GBNF (gbnf.h) become patterns, and
 * parts of patterns may be joined. A pattern is the whole answer.
 *   x  .  [a-z]  [^"]        characters; classes and . are whole characters, not bytes
 *   \d \w \s \D \W \S        classes of ASCII, and what is not in them
 *   \n \t \r \f \xHH \uHHHH \u{H…}   one character
 *   ( )  (?: )  |            groups, alternatives
 *   * + ? {m} {m,} {m,n}     repeats up to 1,000,000; a question mark behind one changes nothing
 *   ^ $                      at the ends of the pattern; they change nothing
 *   (?(DEFINE)(?<name>…)…)   names rules; it matches the empty text and may stand anywhere
 *   (?&name)                 what a rule matches; rules may call themselves
 *   (?j:…)                   characters as JSON strings spell them (\" for "), found anywhere in
 *                            the text unless ^ and $ stand around an alternative: the keyword
 *                            `pattern` of JSON schema
 *   (?!)                     nothing
 *   (?mark)                  SP_GRAMMAR_MARK, the byte before the text of a control token. No text
 *                            has this byte, so that text does not pass for a control token
 *
 * A pattern becomes an automaton over bytes with a stack of calls (at most 200). Its states are
 * made as they are met and do not hold what lies below them on the stack, so that a string in one
 * place of a schema is the same state as a string in another. What a state allows of the vocabulary
 * is computed once; only tokens that reach beyond the state's own rule are looked at again in each
 * place.
 *
 * Owner:   sp_grammars owns the vocabulary's tree and shares of the grammars that were asked for
 *          last; the tokenizer is borrowed. A grammar must be put before its sp_grammars is freed.
 * Threads: sp_grammar_get, _share, _put: any. The others: all holders of one grammar on one thread.
 * Errors:  SP_INVAL with the place in the pattern, or naming the budget that it passes, or saying
 *          that nothing can match; SP_LIMIT when too many states are met, or one token or mask
 *          needs too many steps (SP_GRAMMAR_LIMIT says it in words); SP_NOMEM.
 * Source:  Willard & Louf 2023 (states of an automaton as masks over a vocabulary); Dong et al.
 *          2024 (XGrammar: masks apart from the stack); Woods 1970 (transition networks). */
#ifndef SP_GEN_GRAMMAR_H
#define SP_GEN_GRAMMAR_H

#include "text/tokenizer.h"

typedef struct sp_grammars sp_grammars;
typedef struct sp_grammar sp_grammar;

/* Sorts the vocabulary: tens of milliseconds for 150,000 tokens. */
SP_MUST sp_err sp_grammars_new(sp_grammars **out, const sp_tok *tok, sp_diag *d);
void sp_grammars_free(sp_grammars *g);

/* The grammar of a pattern, compiled or known from before. What cannot even begin is refused. */
SP_MUST sp_err sp_grammar_get(sp_grammar **out, sp_grammars *all, const char *pattern, sp_diag *d);
sp_grammar *sp_grammar_share(sp_grammar *g); /* another share of it; NULL is fine */
void sp_grammar_put(sp_grammar *g);

/* Appends a pattern that is exactly this text. */
void sp_grammar_quote(sp_buf *out, const char *p, size_t n);
#define SP_GRAMMAR_MARK "\xff"
/* The pattern that it was made of; lives as long as the grammar. */
const char *sp_grammar_pattern(const sp_grammar *g);

#define SP_GRAMMAR_LIMIT                                                                           \
    "the pattern is too large to follow: it meets too many states, or one token needs more than "  \
    "2097152 steps"
enum { SP_GRAMMAR_PATTERN = 256 * 1024 }; /* bytes of a pattern at most */

/* Where an answer stands in a grammar. */
typedef struct sp_grammar_at {
    uint32_t state; /* 0: outside, no way back */
    uint32_t below; /* the calls to return to */
} sp_grammar_at;

sp_grammar_at sp_grammar_start(const sp_grammar *g);
/* The place after some bytes. SP_LIMIT, SP_NOMEM. */
SP_MUST sp_err sp_grammar_step(sp_grammar *g, sp_grammar_at *at, const char *p, size_t n);
bool sp_grammar_may_end(const sp_grammar *g, sp_grammar_at at);
/* No byte can follow: the answer is complete. */
bool sp_grammar_must_end(const sp_grammar *g, sp_grammar_at at);
/* The bytes that must come next: *n of them in run [cap]. *ends: nothing can follow them. SP_LIMIT,
 * SP_NOMEM. */
SP_MUST sp_err sp_grammar_run(sp_grammar *g, sp_grammar_at at, char *run, size_t cap, size_t *n,
                              bool *ends);
/* A byte for each token: may it come next? Tokens that end an answer may where the answer may end.
 * Other control tokens may not; whoever lets them steps SP_GRAMMAR_MARK and their text.
 * Valid until the next call. */
SP_MUST sp_err sp_grammar_mask(sp_grammar *g, sp_grammar_at at, const uint8_t **out);

#endif
