/* What the parser of templates shares; used by jinja_lex.c, jinja_expr.c and jinja_parse.c only.
 * Owner: nodes and decoded strings live in the program's arena. Errors: SP_FORMAT names the line,
 * SP_LIMIT. */
#ifndef SP_TEXT_JINJA_PARSE_H
#define SP_TEXT_JINJA_PARSE_H

#include "text/jinja_ast.h"

#include <string.h>

enum { MAX_DEPTH = 64 }; /* of statements and expressions */

typedef enum tok_kind { T_END, T_NAME, T_STR, T_INT, T_FLOAT, T_OP } tok_kind;

typedef struct parser {
    sp_jinja *j;
    const char *s;
    size_t n, at;
    uint32_t line, depth;
    uint32_t loops; /* for statements around, as far as the macro */
    tok_kind kind;  /* current token inside a tag */
    sp_str tok;     /* its text; decoded for strings */
    sp_diag *d;
    bool trim_next; /* the last tag asked to strip what follows: -%} */
    bool after_block;
} parser;

#define BAD(p, ...) SP_FAIL((p)->d, SP_FORMAT, "chat template, line " __VA_ARGS__)

/* A new node of a kind, with the line of the place where the parser is. */
SP_MUST sp_err sp_jinja_node(parser *p, jnode **out, jnode_kind kind);
/* One level deeper; the caller takes it back from p->depth. Errors: SP_LIMIT. */
SP_MUST sp_err sp_jinja_nest(parser *p);

/* Whether the current token is this operator, or this name. */
bool sp_jinja_is_op(const parser *p, const char *op);
bool sp_jinja_is_word(const parser *p, const char *w);
/* The next token of a tag. The tag's own end (%} }} -%} -}}) comes as T_END, not consumed. */
SP_MUST sp_err sp_jinja_advance(parser *p);
/* The same behind an operator that must stand here. */
SP_MUST sp_err sp_jinja_expect(parser *p, const char *op);

/* An expression from the current token on; the token behind it is then the current one. */
SP_MUST sp_err sp_jinja_expression(parser *p, jnode **out);
/* Operands of `or` (J_OR) or `and` (J_AND): an expression without a ternary. */
SP_MUST sp_err sp_jinja_logic(parser *p, jnode **out, jnode_kind kind);
/* Puts the filters and tests that follow around *out. */
SP_MUST sp_err sp_jinja_suffixes(parser *p, jnode **out);
/* One of them, at its name. */
SP_MUST sp_err sp_jinja_filter_or_test(parser *p, jnode **out, bool filter);

#endif
