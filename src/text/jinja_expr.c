/* Expressions of a template: recursive descent with a depth cap. Precedence follows Jinja: ternary,
 * or, and, not, comparison, + -, ~,
 * * / // %, unary, postfix, then filters and tests. */
#include "text/jinja_parse.h"

#include <stdlib.h>

static sp_err unary(parser *p, jnode **out, bool with_filter);
static sp_err postfix(parser *p, jnode **out);

/* Arguments up to the closing bracket, which is consumed. name2 of each holds its keyword. */
static sp_err arguments(parser *p, jnode **out, const char *close)
{
    jnode **tail = out;
    while (!sp_jinja_is_op(p, close)) {
        SP_TRY(sp_jinja_expression(p, tail));
        if (sp_jinja_is_op(p, "=") && (*tail)->kind == J_NAME) {
            sp_str key = (*tail)->name;
            SP_TRY(sp_jinja_advance(p));
            SP_TRY(sp_jinja_expression(p, tail));
            (*tail)->name2 = key;
        }
        tail = &(*tail)->next;
        if (!sp_jinja_is_op(p, ","))
            break;
        SP_TRY(sp_jinja_advance(p));
    }
    return sp_jinja_expect(p, close);
}

/* A }} that closes a map is lexed as the end of a tag; split it. */
static sp_err close_map(parser *p)
{
    if (p->kind == T_END && p->tok.n == 2 && p->tok.p[0] == '}') {
        p->at = (size_t)(p->tok.p - p->s) + 1;
        return sp_jinja_advance(p);
    }
    return sp_jinja_expect(p, "}");
}

static sp_err map_literal(parser *p, jnode *m)
{
    jnode **tail = &m->args;
    while (!sp_jinja_is_op(p, "}") && p->kind != T_END) {
        SP_TRY(sp_jinja_expression(p, tail));
        tail = &(*tail)->next;
        SP_TRY(sp_jinja_expect(p, ":"));
        SP_TRY(sp_jinja_expression(p, tail));
        tail = &(*tail)->next;
        if (!sp_jinja_is_op(p, ","))
            break;
        SP_TRY(sp_jinja_advance(p));
    }
    return close_map(p);
}

static sp_err literal(parser *p, jnode **out, sp_jval v)
{
    SP_TRY(sp_jinja_node(p, out, J_LIT));
    (*out)->lit = v;
    return sp_jinja_advance(p);
}

static sp_err resolve(parser *p, jnode *n, jtable table, const char *what)
{
    int id = sp_jinja_lookup(table, n->name);
    if (id < 0)
        return SP_FAIL(p->d, SP_UNSUP, "chat template, line %u: %s %.*s is not supported", n->line,
                       what, (int)(n->name.n < 40 ? n->name.n : 40), n->name.p);
    n->id = id;
    return SP_OK;
}

static sp_err name_or_call(parser *p, jnode **out)
{
    static const struct { const char *word; sp_jval v; } words[] = {
        {"true", {.kind = SP_J_BOOL, .u.b = true}},   {"True", {.kind = SP_J_BOOL, .u.b = true}},
        {"false", {.kind = SP_J_BOOL, .u.b = false}}, {"False", {.kind = SP_J_BOOL, .u.b = false}},
        {"none", {.kind = SP_J_NONE}},      {"None", {.kind = SP_J_NONE}}};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (sp_jinja_is_word(p, words[i].word))
            return literal(p, out, words[i].v);
    SP_TRY(sp_jinja_node(p, out, J_NAME));
    (*out)->name = p->tok;
    SP_TRY(sp_jinja_advance(p));
    if (!sp_jinja_is_op(p, "("))
        return SP_OK;
    (*out)->kind = J_CALL; /* of a macro, unless the name is a function's */
    (*out)->id = sp_jinja_lookup(JT_FUNCTION, (*out)->name);
    SP_TRY(sp_jinja_advance(p));
    return arguments(p, &(*out)->args, ")");
}

/* Literals that follow each other are one. */
static sp_err string_literal(parser *p, jnode **out)
{
    SP_TRY(literal(p, out, sp_jinja_str(p->tok.p, p->tok.n)));
    while (p->kind == T_STR) {
        size_t have = (*out)->lit.u.s.n, n = have + p->tok.n;
        char *both = sp_arena_alloc(&p->j->arena, n + 1);
        if (!both)
            return SP_FAIL(p->d, SP_LIMIT, "chat template is too large");
        memcpy(both, (*out)->lit.u.s.p, have);
        memcpy(both + have, p->tok.p, p->tok.n);
        (*out)->lit = sp_jinja_str(both, n);
        SP_TRY(sp_jinja_advance(p));
    }
    return SP_OK;
}

/* (a), or a tuple: (), (a,), (a, b). */
static sp_err parenthesis(parser *p, jnode **out)
{
    jnode *list;
    SP_TRY(sp_jinja_advance(p));
    if (!sp_jinja_is_op(p, ")")) {
        SP_TRY(sp_jinja_expression(p, out));
        if (!sp_jinja_is_op(p, ","))
            return sp_jinja_expect(p, ")");
    }
    SP_TRY(sp_jinja_node(p, &list, J_LIST));
    list->op = JO_TUPLE;
    if (!sp_jinja_is_op(p, ")")) {
        list->args = *out;
        SP_TRY(sp_jinja_advance(p));
    }
    *out = list;
    return arguments(p, list->args ? &list->args->next : &list->args, ")");
}

static sp_err primary(parser *p, jnode **out)
{
    char num[32];
    if (p->kind == T_NAME)
        return name_or_call(p, out);
    if (p->kind == T_STR)
        return string_literal(p, out);
    if (p->kind == T_INT || p->kind == T_FLOAT) {
        if (p->tok.n > (p->kind == T_INT ? 18 : sizeof num - 1))
            return BAD(p, "%u: number is too long", p->line);
        memcpy(num, p->tok.p, p->tok.n);
        num[p->tok.n] = 0;
        sp_jval v = {.kind = p->kind == T_INT ? SP_J_INT : SP_J_FLOAT};
        if (p->kind == T_INT)
            v.u.i = strtoll(num, NULL, 10);
        else
            v.u.f = strtod(num, NULL);
        return literal(p, out, v);
    }
    bool list = sp_jinja_is_op(p, "["), map = sp_jinja_is_op(p, "{");
    if (list || map) {
        SP_TRY(sp_jinja_node(p, out, list ? J_LIST : J_MAP));
        SP_TRY(sp_jinja_advance(p));
        return list ? arguments(p, &(*out)->args, "]") : map_literal(p, *out);
    }
    if (sp_jinja_is_op(p, "("))
        return parenthesis(p, out);
    return BAD(p, "%u: unexpected '%.*s'", p->line, (int)(p->tok.n < 20 ? p->tok.n : 20), p->tok.p);
}

static sp_err subscript(parser *p, jnode *n)
{
    jnode **part[3] = {&n->b, &n->c, &n->d};
    n->kind = J_INDEX;
    for (int i = 0; i < 3; i++) {
        if (!sp_jinja_is_op(p, ":") && !sp_jinja_is_op(p, "]"))
            SP_TRY(sp_jinja_expression(p, part[i]));
        if (!sp_jinja_is_op(p, ":") || i == 2)
            break;
        n->kind = J_SLICE;
        SP_TRY(sp_jinja_advance(p));
    }
    if (n->kind == J_INDEX && !n->b)
        return BAD(p, "%u: empty index", p->line);
    return sp_jinja_expect(p, "]");
}

static sp_err postfix(parser *p, jnode **out)
{
    while (sp_jinja_is_op(p, "[") || sp_jinja_is_op(p, ".")) {
        bool dot = sp_jinja_is_op(p, ".");
        jnode *n;
        SP_TRY(sp_jinja_node(p, &n, J_ATTR));
        n->a = *out;
        *out = n;
        SP_TRY(sp_jinja_advance(p));
        if (!dot) {
            SP_TRY(subscript(p, n));
            continue;
        }
        if (p->kind != T_NAME)
            return BAD(p, "%u: expected a name after '.'", p->line);
        n->name = p->tok;
        SP_TRY(sp_jinja_advance(p));
        if (sp_jinja_is_op(p, "(")) {
            n->kind = J_METHOD;
            n->id = sp_jinja_lookup(JT_METHOD, n->name);
            SP_TRY(sp_jinja_advance(p));
            SP_TRY(arguments(p, &n->args, ")"));
        }
    }
    return SP_OK;
}

/* Does what stands here begin the argument of a test that has no brackets: x is divisibleby 3 */
static bool begins_argument(const parser *p)
{
    static const char *const words[] = {"else", "or", "and", "if", "is", "in", "not"};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (sp_jinja_is_word(p, words[i]))
            return false;
    return p->kind == T_NAME || p->kind == T_STR || p->kind == T_INT || p->kind == T_FLOAT ||
           sp_jinja_is_op(p, "[") || sp_jinja_is_op(p, "{");
}

/* A filter or a test of *out. Its name is the current token. */
sp_err sp_jinja_filter_or_test(parser *p, jnode **out, bool filter)
{
    jnode *n;
    SP_TRY(sp_jinja_node(p, &n, filter ? J_FILTER : J_TEST));
    n->a = *out;
    *out = n;
    if (!filter && sp_jinja_is_word(p, "not")) {
        n->op = JO_NOT_IN;
        SP_TRY(sp_jinja_advance(p));
    }
    if (p->kind != T_NAME)
        return BAD(p, "%u: expected the name of a %s", p->line, filter ? "filter" : "test");
    n->name = p->tok;
    SP_TRY(resolve(p, n, filter ? JT_FILTER : JT_TEST, filter ? "filter" : "test"));
    SP_TRY(sp_jinja_advance(p));
    if (sp_jinja_is_op(p, "(")) {
        SP_TRY(sp_jinja_advance(p));
        return arguments(p, &n->args, ")");
    }
    if (filter || !begins_argument(p))
        return SP_OK;
    SP_TRY(primary(p, &n->args));
    return postfix(p, &n->args);
}

sp_err sp_jinja_suffixes(parser *p, jnode **out)
{
    while (sp_jinja_is_op(p, "|") || sp_jinja_is_word(p, "is")) {
        bool filter = sp_jinja_is_op(p, "|");
        SP_TRY(sp_jinja_advance(p));
        SP_TRY(sp_jinja_filter_or_test(p, out, filter));
    }
    return SP_OK;
}

static sp_err unary(parser *p, jnode **out, bool with_filter)
{
    SP_TRY(sp_jinja_nest(p));
    if (sp_jinja_is_op(p, "-") || sp_jinja_is_op(p, "+")) {
        bool neg = sp_jinja_is_op(p, "-");
        jnode *n;
        SP_TRY(sp_jinja_node(p, &n, J_NEG));
        SP_TRY(sp_jinja_advance(p));
        SP_TRY(unary(p, &n->a, false));
        *out = neg ? n : n->a;
    } else {
        SP_TRY(primary(p, out));
    }
    SP_TRY(postfix(p, out));
    if (with_filter)
        SP_TRY(sp_jinja_suffixes(p, out));
    p->depth--;
    return SP_OK;
}

typedef struct level {
    const char *op;
    jop code;
    int rank; /* 1: + -, 2: ~, 3: * / // % */
} level;

static const level levels[] = {{"+", JO_ADD, 1}, {"-", JO_SUB, 1}, {"~", JO_CAT, 2},
                               {"*", JO_MUL, 3}, {"/", JO_DIV, 3}, {"//", JO_IDIV, 3},
                               {"%", JO_MOD, 3}};

static sp_err math(parser *p, jnode **out, int rank)
{
    if (rank > 3)
        return unary(p, out, true);
    SP_TRY(math(p, out, rank + 1));
    for (;;) {
        const level *found = NULL;
        for (size_t i = 0; i < sizeof levels / sizeof levels[0]; i++)
            if (levels[i].rank == rank && sp_jinja_is_op(p, levels[i].op))
                found = &levels[i];
        if (!found)
            return SP_OK;
        jnode *n;
        SP_TRY(sp_jinja_node(p, &n, J_BIN));
        n->op = found->code;
        n->a = *out;
        *out = n;
        SP_TRY(sp_jinja_advance(p));
        SP_TRY(math(p, &n->b, rank + 1));
    }
}

static bool comparison_op(const parser *p, jop *op)
{
    static const struct {
        const char *s;
        jop op;
    } ops[] = {{"==", JO_EQ}, {"!=", JO_NE}, {"<", JO_LT},
               {"<=", JO_LE}, {">", JO_GT},  {">=", JO_GE}};
    for (size_t i = 0; i < sizeof ops / sizeof ops[0]; i++) {
        if (sp_jinja_is_op(p, ops[i].s)) {
            *op = ops[i].op;
            return true;
        }
    }
    *op = sp_jinja_is_word(p, "in") ? JO_IN : JO_NOT_IN;
    return sp_jinja_is_word(p, "in") || sp_jinja_is_word(p, "not");
}

/* a < b < c is a < b and b < c. */
static sp_err comparison(parser *p, jnode **out)
{
    jop op;
    SP_TRY(math(p, out, 1));
    for (jnode *left = *out, *first = NULL; comparison_op(p, &op);) {
        jnode *n, *both;
        SP_TRY(sp_jinja_node(p, &n, J_BIN));
        n->op = op;
        n->a = left;
        SP_TRY(sp_jinja_advance(p));
        if (op == JO_NOT_IN) {
            if (!sp_jinja_is_word(p, "in"))
                return BAD(p, "%u: expected 'in' after 'not'", p->line);
            SP_TRY(sp_jinja_advance(p));
        }
        SP_TRY(math(p, &n->b, 1));
        left = n->b;
        if (first) {
            SP_TRY(sp_jinja_node(p, &both, J_AND));
            both->a = first;
            both->b = n;
            n = both;
        }
        *out = first = n;
    }
    return SP_OK;
}

static sp_err negation(parser *p, jnode **out)
{
    if (!sp_jinja_is_word(p, "not"))
        return comparison(p, out);
    SP_TRY(sp_jinja_nest(p));
    SP_TRY(sp_jinja_node(p, out, J_NOT));
    SP_TRY(sp_jinja_advance(p));
    SP_TRY(negation(p, &(*out)->a));
    p->depth--;
    return SP_OK;
}

sp_err sp_jinja_logic(parser *p, jnode **out, jnode_kind kind)
{
    SP_TRY(kind == J_OR ? sp_jinja_logic(p, out, J_AND) : negation(p, out));
    while (sp_jinja_is_word(p, kind == J_OR ? "or" : "and")) {
        jnode *n;
        SP_TRY(sp_jinja_node(p, &n, kind));
        n->a = *out;
        *out = n;
        SP_TRY(sp_jinja_advance(p));
        SP_TRY(kind == J_OR ? sp_jinja_logic(p, &n->b, J_AND) : negation(p, &n->b));
    }
    return SP_OK;
}

sp_err sp_jinja_expression(parser *p, jnode **out)
{
    SP_TRY(sp_jinja_nest(p));
    SP_TRY(sp_jinja_logic(p, out, J_OR));
    if (sp_jinja_is_word(p, "if")) {
        jnode *n;
        SP_TRY(sp_jinja_node(p, &n, J_COND));
        n->a = *out;
        *out = n;
        SP_TRY(sp_jinja_advance(p));
        SP_TRY(sp_jinja_logic(p, &n->b, J_OR));
        if (sp_jinja_is_word(p, "else")) {
            SP_TRY(sp_jinja_advance(p));
            SP_TRY(sp_jinja_expression(p, &n->c));
        }
    }
    p->depth--;
    return SP_OK;
}
