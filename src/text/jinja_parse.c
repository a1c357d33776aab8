/* Template source to syntax tree: lexing on the fly, recursive descent with a depth cap.
 * Precedence follows Jinja: ternary, or, and, not, comparison, + -, ~, * / // %, unary, postfix,
 * then filters and tests. */
#include "text/jinja_ast.h"

#include "base/utf8.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_SRC = 256 * 1024, MAX_DEPTH = 64, MAX_NODE_BYTES = 32 << 20 };

typedef enum tok_kind { T_END, T_NAME, T_STR, T_INT, T_FLOAT, T_OP } tok_kind;

typedef struct parser {
    sp_jinja *j;
    const char *s;
    size_t n, at;
    uint32_t line, depth;
    uint32_t loops; /* for statements around, as far as the macro */
    tok_kind kind; /* current token inside a tag */
    sp_str tok;    /* its text; decoded for strings */
    sp_diag *d;
    bool trim_next; /* the last tag asked to strip what follows: -%} */
    bool after_block;
} parser;

#define BAD(p, ...) SP_FAIL((p)->d, SP_FORMAT, "chat template, line " __VA_ARGS__)

static sp_err node(parser *p, jnode **out, jnode_kind kind)
{
    jnode *n = sp_arena_alloc(&p->j->arena, sizeof *n);
    if (!n)
        return SP_FAIL(p->d, SP_LIMIT, "chat template is too large");
    n->kind = kind;
    n->line = p->line;
    n->id = -1;
    *out = n;
    return SP_OK;
}

static bool is_op(const parser *p, const char *op)
{
    return p->kind == T_OP && strlen(op) == p->tok.n && memcmp(p->tok.p, op, p->tok.n) == 0;
}

static bool is_word(const parser *p, const char *w)
{
    return p->kind == T_NAME && strlen(w) == p->tok.n && memcmp(p->tok.p, w, p->tok.n) == 0;
}

/* Up to `most` hexadecimal digits, or octal ones. */
static uint32_t lex_digits(parser *p, size_t most, uint32_t base)
{
    uint32_t v = 0;
    for (; most > 0 && p->at < p->n; most--, p->at++) {
        int c = (unsigned char)p->s[p->at];
        uint32_t digit = isdigit(c) ? (uint32_t)(c - '0') : isxdigit(c) ? (uint32_t)((c | 32) - 'a' + 10) : 99;
        if (digit >= base)
            break;
        v = v * base + digit;
    }
    return v;
}

/* What stands after a backslash, as in Python; an unknown escape keeps it. Returns the bytes written. */
static size_t lex_escape(parser *p, char *out)
{
    static const char letters[] = "ntrabfv\\'\"", means[] = "\n\t\r\a\b\f\v\\'\"";
    char c = p->s[p->at++];
    const char *hit = c ? strchr(letters, c) : NULL;
    if (c == '\n') { /* the literal goes on in the next line */
        p->line++;
        return 0;
    }
    if (hit) {
        out[0] = means[hit - letters];
        return 1;
    }
    bool octal = c >= '0' && c <= '7';
    size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : octal ? 3 : 0, from = p->at;
    if (octal)
        from = --p->at;
    if (digits) {
        uint32_t cp = lex_digits(p, digits, octal ? 8 : 16);
        if ((octal || p->at - from == digits) && cp <= 0x10ffff && (cp < 0xd800 || cp > 0xdfff))
            return sp_utf8_encode(out, cp);
        p->at = from;
    }
    out[0] = '\\';
    if (octal)
        return 1;
    out[1] = c;
    return 2;
}

static sp_err lex_string(parser *p)
{
    char quote = p->s[p->at++];
    size_t n = 0, end = p->at;
    while (end < p->n && p->s[end] != quote)
        end += p->s[end] == '\\' ? 2 : 1;
    end = end < p->n ? end : p->n;
    char *out = sp_arena_alloc(&p->j->arena, end - p->at + 5);
    if (!out)
        return SP_FAIL(p->d, SP_LIMIT, "chat template is too large");
    while (p->at < p->n && p->s[p->at] != quote) {
        char c = p->s[p->at++];
        if (c == '\n')
            p->line++;
        if (c == '\\' && p->at < p->n)
            n += lex_escape(p, out + n);
        else
            out[n++] = c;
    }
    if (p->at >= p->n)
        return BAD(p, "%u: string without an end", p->line);
    p->at++;
    p->kind = T_STR;
    p->tok = (sp_str){out, n};
    return SP_OK;
}

/* Next token of a tag. The tag's own end (%} }} -%} -}}) comes as T_END, not consumed. */
static sp_err advance(parser *p)
{
    static const char *const ops[] = {"==", "!=", "<=", ">=", "//", "**"};
    while (p->at < p->n && isspace((unsigned char)p->s[p->at]))
        if (p->s[p->at++] == '\n')
            p->line++;
    if (p->at >= p->n)
        return BAD(p, "%u: tag without an end", p->line);
    const char *s = p->s + p->at;
    size_t left = p->n - p->at;
    size_t dash = s[0] == '-' || s[0] == '+' ? 1 : 0;
    if (left >= dash + 2 && (s[dash] == '%' || s[dash] == '}') && s[dash + 1] == '}') {
        /* }} may also close two maps; a map inside an output tag is told apart by depth there */
        p->kind = T_END;
        p->tok = (sp_str){s, dash + 2};
        return SP_OK;
    }
    if (*s == '"' || *s == '\'')
        return lex_string(p);
    size_t len = 1;
    if (isalpha((unsigned char)*s) || *s == '_') {
        while (len < left && (isalnum((unsigned char)s[len]) || s[len] == '_'))
            len++;
        p->kind = T_NAME;
    } else if (isdigit((unsigned char)*s)) {
        while (len < left && isdigit((unsigned char)s[len]))
            len++;
        p->kind = T_INT;
        if (len + 1 < left && s[len] == '.' && isdigit((unsigned char)s[len + 1])) {
            p->kind = T_FLOAT;
            for (len++; len < left && isdigit((unsigned char)s[len]);)
                len++;
        }
        size_t sign = len + 1 < left && (s[len + 1] == '+' || s[len + 1] == '-');
        if (len + 1 + sign < left && (s[len] | 32) == 'e' && isdigit((unsigned char)s[len + 1 + sign])) {
            p->kind = T_FLOAT;
            for (len += 1 + sign; len < left && isdigit((unsigned char)s[len]);)
                len++;
        }
    } else {
        p->kind = T_OP;
        for (size_t i = 0; i < sizeof ops / sizeof ops[0]; i++)
            if (left > 1 && memcmp(s, ops[i], 2) == 0)
                len = 2;
        if (len == 1 && !strchr("+-*/%~<>=()[]{}.,:|", *s))
            return BAD(p, "%u: unexpected character '%c'", p->line, *s);
    }
    p->tok = (sp_str){s, len};
    p->at += len;
    return SP_OK;
}

static sp_err expect(parser *p, const char *op)
{
    if (!is_op(p, op))
        return BAD(p, "%u: expected '%s' before '%.*s'", p->line, op, (int)(p->tok.n < 20 ? p->tok.n : 20), p->tok.p);
    return advance(p);
}

static sp_err expression(parser *p, jnode **out);
static sp_err unary(parser *p, jnode **out, bool with_filter);
static sp_err postfix(parser *p, jnode **out);

static sp_err enter(parser *p)
{
    return ++p->depth > MAX_DEPTH ? SP_FAIL(p->d, SP_LIMIT, "chat template, line %u: nested deeper than %d", p->line, MAX_DEPTH)
                                  : SP_OK;
}

/* Arguments up to the closing bracket, which is consumed. name2 of each holds its keyword. */
static sp_err arguments(parser *p, jnode **out, const char *close)
{
    jnode **tail = out;
    while (!is_op(p, close)) {
        SP_TRY(expression(p, tail));
        if (is_op(p, "=") && (*tail)->kind == J_NAME) {
            sp_str key = (*tail)->name;
            SP_TRY(advance(p));
            SP_TRY(expression(p, tail));
            (*tail)->name2 = key;
        }
        tail = &(*tail)->next;
        if (!is_op(p, ","))
            break;
        SP_TRY(advance(p));
    }
    return expect(p, close);
}

/* A }} that closes a map is lexed as the end of a tag; split it. */
static sp_err close_map(parser *p)
{
    if (p->kind == T_END && p->tok.n == 2 && p->tok.p[0] == '}') {
        p->at = (size_t)(p->tok.p - p->s) + 1;
        return advance(p);
    }
    return expect(p, "}");
}

static sp_err map_literal(parser *p, jnode *m)
{
    jnode **tail = &m->args;
    while (!is_op(p, "}") && p->kind != T_END) {
        SP_TRY(expression(p, tail));
        tail = &(*tail)->next;
        SP_TRY(expect(p, ":"));
        SP_TRY(expression(p, tail));
        tail = &(*tail)->next;
        if (!is_op(p, ","))
            break;
        SP_TRY(advance(p));
    }
    return close_map(p);
}

static sp_err literal(parser *p, jnode **out, sp_jval v)
{
    SP_TRY(node(p, out, J_LIT));
    (*out)->lit = v;
    return advance(p);
}

static sp_err resolve(parser *p, jnode *n, jtable table, const char *what)
{
    int id = sp_jinja_lookup(table, n->name);
    if (id < 0)
        return SP_FAIL(p->d, SP_UNSUP, "chat template, line %u: %s %.*s is not supported", n->line, what,
                       (int)(n->name.n < 40 ? n->name.n : 40), n->name.p);
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
        if (is_word(p, words[i].word))
            return literal(p, out, words[i].v);
    SP_TRY(node(p, out, J_NAME));
    (*out)->name = p->tok;
    SP_TRY(advance(p));
    if (!is_op(p, "("))
        return SP_OK;
    (*out)->kind = J_CALL; /* of a macro, unless the name is a function's */
    (*out)->id = sp_jinja_lookup(JT_FUNCTION, (*out)->name);
    SP_TRY(advance(p));
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
        SP_TRY(advance(p));
    }
    return SP_OK;
}

/* (a), or a tuple: (), (a,), (a, b). */
static sp_err parenthesis(parser *p, jnode **out)
{
    jnode *list;
    SP_TRY(advance(p));
    if (!is_op(p, ")")) {
        SP_TRY(expression(p, out));
        if (!is_op(p, ","))
            return expect(p, ")");
    }
    SP_TRY(node(p, &list, J_LIST));
    list->op = JO_TUPLE;
    if (!is_op(p, ")")) {
        list->args = *out;
        SP_TRY(advance(p));
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
    bool list = is_op(p, "["), map = is_op(p, "{");
    if (list || map) {
        SP_TRY(node(p, out, list ? J_LIST : J_MAP));
        SP_TRY(advance(p));
        return list ? arguments(p, &(*out)->args, "]") : map_literal(p, *out);
    }
    if (is_op(p, "("))
        return parenthesis(p, out);
    return BAD(p, "%u: unexpected '%.*s'", p->line, (int)(p->tok.n < 20 ? p->tok.n : 20), p->tok.p);
}

static sp_err subscript(parser *p, jnode *n)
{
    jnode **part[3] = {&n->b, &n->c, &n->d};
    n->kind = J_INDEX;
    for (int i = 0; i < 3; i++) {
        if (!is_op(p, ":") && !is_op(p, "]"))
            SP_TRY(expression(p, part[i]));
        if (!is_op(p, ":") || i == 2)
            break;
        n->kind = J_SLICE;
        SP_TRY(advance(p));
    }
    if (n->kind == J_INDEX && !n->b)
        return BAD(p, "%u: empty index", p->line);
    return expect(p, "]");
}

static sp_err postfix(parser *p, jnode **out)
{
    while (is_op(p, "[") || is_op(p, ".")) {
        bool dot = is_op(p, ".");
        jnode *n;
        SP_TRY(node(p, &n, J_ATTR));
        n->a = *out;
        *out = n;
        SP_TRY(advance(p));
        if (!dot) {
            SP_TRY(subscript(p, n));
            continue;
        }
        if (p->kind != T_NAME)
            return BAD(p, "%u: expected a name after '.'", p->line);
        n->name = p->tok;
        SP_TRY(advance(p));
        if (is_op(p, "(")) {
            n->kind = J_METHOD;
            n->id = sp_jinja_lookup(JT_METHOD, n->name);
            SP_TRY(advance(p));
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
        if (is_word(p, words[i]))
            return false;
    return p->kind == T_NAME || p->kind == T_STR || p->kind == T_INT || p->kind == T_FLOAT || is_op(p, "[") || is_op(p, "{");
}

/* A filter or a test of *out. Its name is the current token. */
static sp_err filter_or_test(parser *p, jnode **out, bool filter)
{
    jnode *n;
    SP_TRY(node(p, &n, filter ? J_FILTER : J_TEST));
    n->a = *out;
    *out = n;
    if (!filter && is_word(p, "not")) {
        n->op = JO_NOT_IN;
        SP_TRY(advance(p));
    }
    if (p->kind != T_NAME)
        return BAD(p, "%u: expected the name of a %s", p->line, filter ? "filter" : "test");
    n->name = p->tok;
    SP_TRY(resolve(p, n, filter ? JT_FILTER : JT_TEST, filter ? "filter" : "test"));
    SP_TRY(advance(p));
    if (is_op(p, "(")) {
        SP_TRY(advance(p));
        return arguments(p, &n->args, ")");
    }
    if (filter || !begins_argument(p))
        return SP_OK;
    SP_TRY(primary(p, &n->args));
    return postfix(p, &n->args);
}

static sp_err filters_and_tests(parser *p, jnode **out)
{
    while (is_op(p, "|") || is_word(p, "is")) {
        bool filter = is_op(p, "|");
        SP_TRY(advance(p));
        SP_TRY(filter_or_test(p, out, filter));
    }
    return SP_OK;
}

static sp_err unary(parser *p, jnode **out, bool with_filter)
{
    SP_TRY(enter(p));
    if (is_op(p, "-") || is_op(p, "+")) {
        bool neg = is_op(p, "-");
        jnode *n;
        SP_TRY(node(p, &n, J_NEG));
        SP_TRY(advance(p));
        SP_TRY(unary(p, &n->a, false));
        *out = neg ? n : n->a;
    } else {
        SP_TRY(primary(p, out));
    }
    SP_TRY(postfix(p, out));
    if (with_filter)
        SP_TRY(filters_and_tests(p, out));
    p->depth--;
    return SP_OK;
}

typedef struct level {
    const char *op;
    jop code;
    int rank; /* 1: + -, 2: ~, 3: * / // % */
} level;

static const level levels[] = {{"+", JO_ADD, 1}, {"-", JO_SUB, 1},   {"~", JO_CAT, 2}, {"*", JO_MUL, 3},
                               {"/", JO_DIV, 3}, {"//", JO_IDIV, 3}, {"%", JO_MOD, 3}};

static sp_err math(parser *p, jnode **out, int rank)
{
    if (rank > 3)
        return unary(p, out, true);
    SP_TRY(math(p, out, rank + 1));
    for (;;) {
        const level *found = NULL;
        for (size_t i = 0; i < sizeof levels / sizeof levels[0]; i++)
            if (levels[i].rank == rank && is_op(p, levels[i].op))
                found = &levels[i];
        if (!found)
            return SP_OK;
        jnode *n;
        SP_TRY(node(p, &n, J_BIN));
        n->op = found->code;
        n->a = *out;
        *out = n;
        SP_TRY(advance(p));
        SP_TRY(math(p, &n->b, rank + 1));
    }
}

static bool comparison_op(const parser *p, jop *op)
{
    static const struct { const char *s; jop op; } ops[] = {{"==", JO_EQ}, {"!=", JO_NE}, {"<", JO_LT},
                                                            {"<=", JO_LE}, {">", JO_GT},  {">=", JO_GE}};
    for (size_t i = 0; i < sizeof ops / sizeof ops[0]; i++) {
        if (is_op(p, ops[i].s)) {
            *op = ops[i].op;
            return true;
        }
    }
    *op = is_word(p, "in") ? JO_IN : JO_NOT_IN;
    return is_word(p, "in") || is_word(p, "not");
}

/* a < b < c is a < b and b < c. */
static sp_err comparison(parser *p, jnode **out)
{
    jop op;
    SP_TRY(math(p, out, 1));
    for (jnode *left = *out, *first = NULL; comparison_op(p, &op);) {
        jnode *n, *both;
        SP_TRY(node(p, &n, J_BIN));
        n->op = op;
        n->a = left;
        SP_TRY(advance(p));
        if (op == JO_NOT_IN) {
            if (!is_word(p, "in"))
                return BAD(p, "%u: expected 'in' after 'not'", p->line);
            SP_TRY(advance(p));
        }
        SP_TRY(math(p, &n->b, 1));
        left = n->b;
        if (first) {
            SP_TRY(node(p, &both, J_AND));
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
    if (!is_word(p, "not"))
        return comparison(p, out);
    SP_TRY(enter(p));
    SP_TRY(node(p, out, J_NOT));
    SP_TRY(advance(p));
    SP_TRY(negation(p, &(*out)->a));
    p->depth--;
    return SP_OK;
}

static sp_err logic(parser *p, jnode **out, jnode_kind kind)
{
    SP_TRY(kind == J_OR ? logic(p, out, J_AND) : negation(p, out));
    while (is_word(p, kind == J_OR ? "or" : "and")) {
        jnode *n;
        SP_TRY(node(p, &n, kind));
        n->a = *out;
        *out = n;
        SP_TRY(advance(p));
        SP_TRY(kind == J_OR ? logic(p, &n->b, J_AND) : negation(p, &n->b));
    }
    return SP_OK;
}

static sp_err expression(parser *p, jnode **out)
{
    SP_TRY(enter(p));
    SP_TRY(logic(p, out, J_OR));
    if (is_word(p, "if")) {
        jnode *n;
        SP_TRY(node(p, &n, J_COND));
        n->a = *out;
        *out = n;
        SP_TRY(advance(p));
        SP_TRY(logic(p, &n->b, J_OR));
        if (is_word(p, "else")) {
            SP_TRY(advance(p));
            SP_TRY(expression(p, &n->c));
        }
    }
    p->depth--;
    return SP_OK;
}

/* --- statements ------------------------------------------------------------------------------- */

static sp_err end_tag(parser *p, char kind)
{
    size_t n = p->tok.n;
    if (p->kind != T_END || p->tok.p[n - 2] != kind)
        return BAD(p, "%u: unexpected '%.*s' in a tag", p->line, (int)(n < 20 ? n : 20), p->tok.p);
    p->at = (size_t)(p->tok.p - p->s) + n;
    p->trim_next = p->tok.p[0] == '-';
    p->after_block = kind == '%' && p->tok.p[0] != '+';
    return SP_OK;
}

/* Text up to the next tag, with the whitespace rules of trim_blocks and lstrip_blocks applied. */
static sp_err text(parser *p, jnode ***tail)
{
    size_t start = p->at, i = p->at;
    while (i < p->n && !(p->s[i] == '{' && i + 1 < p->n && strchr("{%#", p->s[i + 1])))
        i++;
    size_t end = i;
    for (size_t k = start; k < i; k++)
        p->line += p->s[k] == '\n';
    if (p->trim_next)
        while (start < end && isspace((unsigned char)p->s[start]))
            start++;
    else if (p->after_block && start < end && p->s[start] == '\n')
        start++;
    else if (p->after_block && start + 1 < end && p->s[start] == '\r' && p->s[start + 1] == '\n')
        start += 2;
    p->trim_next = p->after_block = false;
    char sign = i + 2 < p->n ? p->s[i + 2] : 0;
    if (i < p->n && sign == '-') {
        while (end > start && isspace((unsigned char)p->s[end - 1]))
            end--;
    } else if (i < p->n && p->s[i + 1] != '{' && sign != '+') {
        size_t k = end;
        while (k > p->at && (p->s[k - 1] == ' ' || p->s[k - 1] == '\t'))
            k--;
        if (k == 0 || p->s[k - 1] == '\n')
            end = k > start ? k : start;
    } else if (i >= p->n && end > start && p->s[end - 1] == '\n') {
        end--; /* keep_trailing_newline is off */
    }
    p->at = i;
    if (end <= start)
        return SP_OK;
    jnode *n;
    SP_TRY(node(p, &n, J_TEXT));
    n->lit = sp_jinja_str(p->s + start, end - start);
    **tail = n;
    *tail = &n->next;
    return SP_OK;
}

static sp_err block(parser *p, jnode **out, const char *const *stops, const char **stop);

static sp_err if_statement(parser *p, jnode *n)
{
    static const char *const stops[] = {"elif", "else", "endif", NULL};
    const char *stop;
    SP_TRY(enter(p));
    SP_TRY(expression(p, &n->a));
    SP_TRY(end_tag(p, '%'));
    SP_TRY(block(p, &n->body, stops, &stop));
    for (jnode *at = n; strcmp(stop, "endif") != 0;) {
        if (strcmp(stop, "elif") == 0) {
            SP_TRY(node(p, &at->other, J_IF));
            at = at->other;
            SP_TRY(expression(p, &at->a));
            SP_TRY(end_tag(p, '%'));
            SP_TRY(block(p, &at->body, stops, &stop));
        } else {
            SP_TRY(end_tag(p, '%'));
            SP_TRY(block(p, &at->other, stops + 2, &stop));
        }
    }
    p->depth--;
    return end_tag(p, '%');
}

static sp_err for_statement(parser *p, jnode *n)
{
    static const char *const stops[] = {"else", "endfor", NULL};
    const char *stop;
    SP_TRY(enter(p));
    for (int i = 0; i < 2; i++) {
        if (p->kind != T_NAME)
            return BAD(p, "%u: expected a name after 'for'", p->line);
        *(i ? &n->name2 : &n->name) = p->tok;
        SP_TRY(advance(p));
        if (i || !is_op(p, ","))
            break;
        SP_TRY(advance(p));
    }
    if (!is_word(p, "in"))
        return BAD(p, "%u: expected 'in'", p->line);
    SP_TRY(advance(p));
    SP_TRY(logic(p, &n->a, J_OR));
    if (is_word(p, "if")) {
        SP_TRY(advance(p));
        SP_TRY(expression(p, &n->b));
    }
    SP_TRY(end_tag(p, '%'));
    p->loops++;
    SP_TRY(block(p, &n->body, stops, &stop));
    p->loops--;
    if (strcmp(stop, "else") == 0) {
        SP_TRY(end_tag(p, '%'));
        SP_TRY(block(p, &n->other, stops + 1, &stop));
    }
    p->depth--;
    return end_tag(p, '%');
}

/* Statements up to one that is `end`, and that one. */
static sp_err body_until(parser *p, jnode **out, const char *end)
{
    const char *const stops[] = {end, NULL}, *stop;
    SP_TRY(enter(p));
    SP_TRY(end_tag(p, '%'));
    SP_TRY(block(p, out, stops, &stop));
    if (p->kind == T_NAME) /* {% endmacro name %} */
        SP_TRY(advance(p));
    p->depth--;
    return end_tag(p, '%');
}

static sp_err macro_statement(parser *p, jnode *n)
{
    uint32_t loops = p->loops;
    if (p->kind != T_NAME)
        return BAD(p, "%u: expected a name after 'macro'", p->line);
    n->name = p->tok;
    SP_TRY(advance(p));
    SP_TRY(expect(p, "("));
    for (jnode **tail = &n->args; !is_op(p, ")"); tail = &(*tail)->next) {
        if (p->kind != T_NAME)
            return BAD(p, "%u: expected the name of a macro's parameter", p->line);
        SP_TRY(node(p, tail, J_NAME));
        (*tail)->name = p->tok;
        SP_TRY(advance(p));
        if (is_op(p, "=")) {
            SP_TRY(advance(p));
            SP_TRY(expression(p, &(*tail)->a));
        }
        if (!is_op(p, ","))
            break;
        SP_TRY(advance(p));
    }
    SP_TRY(expect(p, ")"));
    p->loops = 0;
    SP_TRY(body_until(p, &n->body, "endmacro"));
    p->loops = loops;
    return SP_OK;
}

/* {% filter f | g %}: the body's text goes through them and is written. */
static sp_err filter_statement(parser *p, jnode *n)
{
    jnode *text;
    SP_TRY(node(p, &text, J_CAPTURE));
    n->a = text;
    SP_TRY(filter_or_test(p, &n->a, true));
    SP_TRY(filters_and_tests(p, &n->a));
    return body_until(p, &text->body, "endfilter");
}

/* {% set x %} or {% set x | f %}: the text of the body. */
static sp_err set_block(parser *p, jnode *n)
{
    jnode *text;
    SP_TRY(node(p, &text, J_CAPTURE));
    n->a = text;
    SP_TRY(filters_and_tests(p, &n->a));
    return body_until(p, &text->body, "endset");
}

/* Text up to {% endraw %}, whose tag's signs act as they do elsewhere. */
static sp_err raw_statement(parser *p, jnode *n)
{
    static const char word[] = "endraw";
    SP_TRY(end_tag(p, '%'));
    size_t from = p->at;
    if (p->trim_next)
        while (from < p->n && isspace((unsigned char)p->s[from]))
            from++;
    else if (p->after_block && from < p->n && p->s[from] == '\n')
        from++;
    p->trim_next = p->after_block = false;
    for (size_t at = p->at; at + 1 < p->n; at++) {
        if (p->s[at] != '{' || p->s[at + 1] != '%')
            continue;
        size_t k = at + 2, end = at;
        char sign = k < p->n && (p->s[k] == '-' || p->s[k] == '+') ? p->s[k++] : 0;
        while (k < p->n && isspace((unsigned char)p->s[k]))
            k++;
        if (p->n - k < sizeof word - 1 || memcmp(p->s + k, word, sizeof word - 1) != 0)
            continue;
        while (sign == '-' && end > from && isspace((unsigned char)p->s[end - 1]))
            end--;
        while (!sign && end > from && (p->s[end - 1] == ' ' || p->s[end - 1] == '\t'))
            end--;
        if (!sign && end > from && p->s[end - 1] != '\n')
            end = at;
        n->lit = sp_jinja_str(p->s + from, end > from ? end - from : 0);
        for (size_t i = p->at; i < k; i++)
            p->line += p->s[i] == '\n';
        p->at = k + sizeof word - 1;
        SP_TRY(advance(p));
        return end_tag(p, '%');
    }
    return BAD(p, "%u: endraw is missing", p->line);
}

static sp_err set_statement(parser *p, jnode *n)
{
    if (p->kind != T_NAME)
        return BAD(p, "%u: expected a name after 'set'", p->line);
    n->name = p->tok;
    SP_TRY(advance(p));
    if (is_op(p, ".")) {
        SP_TRY(advance(p));
        if (p->kind != T_NAME)
            return BAD(p, "%u: expected a name after '.'", p->line);
        n->name2 = p->tok;
        SP_TRY(advance(p));
    }
    if (!is_op(p, "="))
        return set_block(p, n);
    SP_TRY(advance(p));
    SP_TRY(expression(p, &n->a));
    return end_tag(p, '%');
}

static sp_err jump_statement(parser *p, const jnode *n)
{
    if (!p->loops)
        return BAD(p, "%u: break and continue stand in a loop", n->line);
    return end_tag(p, '%');
}

/* One {% … %}; *stop is set when it is one of stops, whose name is consumed. */
static sp_err statement(parser *p, jnode ***tail, const char *const *stops, const char **stop)
{
    if (p->kind != T_NAME)
        return BAD(p, "%u: expected a statement", p->line);
    for (size_t i = 0; stops[i]; i++) {
        if (is_word(p, stops[i])) {
            *stop = stops[i];
            return advance(p);
        }
    }
    static const struct { const char *word; jnode_kind kind; } words[] = {
        {"if", J_IF}, {"for", J_FOR}, {"set", J_SET}, {"macro", J_MACRO}, {"filter", J_PRINT}, {"raw", J_TEXT},
        {"break", J_BREAK}, {"continue", J_CONTINUE}, {"generation", J_SCOPE}}; /* generation: marks for training, no output */
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        if (!is_word(p, words[i].word))
            continue;
        jnode *n;
        SP_TRY(node(p, &n, words[i].kind));
        **tail = n;
        *tail = &n->next;
        SP_TRY(advance(p));
        switch (n->kind) {
        case J_IF: return if_statement(p, n);
        case J_FOR: return for_statement(p, n);
        case J_SET: return set_statement(p, n);
        case J_MACRO: return macro_statement(p, n);
        case J_PRINT: return filter_statement(p, n);
        case J_TEXT: return raw_statement(p, n);
        case J_SCOPE: return body_until(p, &n->body, "endgeneration");
        default: return jump_statement(p, n);
        }
    }
    return SP_FAIL(p->d, SP_UNSUP, "chat template, line %u: statement %.*s is not supported", p->line,
                   (int)(p->tok.n < 40 ? p->tok.n : 40), p->tok.p);
}

static sp_err block(parser *p, jnode **out, const char *const *stops, const char **stop)
{
    jnode **tail = out;
    *stop = NULL;
    for (;;) {
        SP_TRY(text(p, &tail));
        if (p->at >= p->n && !stops[0])
            return SP_OK;
        if (p->at >= p->n) {
            while (stops[1])
                stops++;
            return BAD(p, "%u: %s is missing", p->line, stops[0]);
        }
        char kind = p->s[p->at + 1];
        if (kind == '#') {
            const char *from = p->s + p->at + 2, *end = memmem(from, p->n - p->at - 2, "#}", 2);
            if (!end)
                return BAD(p, "%u: comment without an end", p->line);
            for (const char *c = from; c < end; c++)
                p->line += *c == '\n';
            p->trim_next = end > from && end[-1] == '-';
            p->after_block = true;
            p->at = (size_t)(end - p->s) + 2;
            continue;
        }
        p->at += 2;
        if (p->at < p->n && (p->s[p->at] == '-' || p->s[p->at] == '+'))
            p->at++;
        SP_TRY(advance(p));
        if (kind == '%') {
            SP_TRY(statement(p, &tail, stops, stop));
            if (*stop)
                return SP_OK;
            continue;
        }
        jnode *n;
        SP_TRY(node(p, &n, J_PRINT));
        SP_TRY(expression(p, &n->a));
        *tail = n;
        tail = &n->next;
        SP_TRY(end_tag(p, '}'));
    }
}

sp_err sp_jinja_compile(sp_jinja **out, const char *src, size_t n, sp_diag *d)
{
    static const char *const no_stop[] = {NULL};
    if (n > MAX_SRC)
        return SP_FAIL(d, SP_LIMIT, "chat template is %zu bytes long, limit %d", n, MAX_SRC);
    sp_jinja *j = sp_mem_alloc(sizeof *j);
    if (!j)
        return SP_FAIL(d, SP_NOMEM, "chat template");
    sp_arena_init(&j->arena, MAX_NODE_BYTES);
    j->src = sp_mem_alloc(n + 1);
    sp_err err = j->src ? SP_OK : SP_FAIL(d, SP_NOMEM, "chat template");
    if (err == SP_OK) {
        const char *stop;
        size_t k = 0;
        for (size_t i = 0; i < n; i++) /* \r\n and \r end a line, as \n does */
            if (src[i] != '\r' || i + 1 == n || src[i + 1] != '\n')
                j->src[k++] = src[i] == '\r' ? '\n' : src[i];
        n = k;
        parser p = {.j = j, .s = j->src, .n = n, .line = 1, .d = d};
        err = block(&p, &j->root, no_stop, &stop);
    }
    if (err == SP_OK)
        *out = j;
    else
        sp_jinja_free(j);
    return err;
}

void sp_jinja_free(sp_jinja *j)
{
    if (!j)
        return;
    sp_arena_fini(&j->arena);
    sp_mem_free(j->src);
    sp_mem_free(j);
}
