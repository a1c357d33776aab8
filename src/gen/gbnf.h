/* GBNF, llama.cpp's notation of grammars, as patterns (grammar.h).
 *
 * Rules are `name ::= …` with literals "…", classes [a-z] and [^…], ., names of rules, ( ), |, *,
 * +, ?, {m}, {m,}, {m,n} and comments from # to the end of the line; escapes are \n \r \t \\ \" \[
 * \] \xHH \uHHHH \UHHHHHHHH. A rule ends at the end of its line unless brackets are open or |
 * stands before or behind the end. The answer is what the rule `root` matches. Rules may call
 * themselves, to the left too.
 *
 * Threads: pure.
 * Errors:  SP_INVAL with the line; SP_UNSUP for tokens (<…>).
 * Source:  llama.cpp, grammars/README.md. */
#ifndef SP_GEN_GBNF_H
#define SP_GEN_GBNF_H

#include "gen/grammar.h"

/* Appends the pattern of a grammar. */
SP_MUST sp_err sp_grammar_gbnf(sp_buf *out, const char *text, sp_diag *d);

#endif
