/* Running a compiled template. Names are looked up in one stack of variables.
 * Budgets: every node, loop iteration and element is a step, and so are STEP_BYTES bytes that are read, compared, copied or written;
 * each is counted before it is spent. Output and memory have caps, evaluation and the printing or comparing of values a depth: a
 * namespace can hold itself, and a loop can nest or double a list without end. */
#include "text/jinja_ast.h"

#include "base/utf8.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MAX_VARS = 256, MAX_OUTPUT = 16 << 20, MAX_RANGE = 100000, STEP_BYTES = 64, MAX_EVAL = 512, MAX_VALUE = 64 };

typedef struct var {
    sp_str name;
    sp_jval v;
} var;

typedef struct run {
    sp_buf *out;
    size_t out_base;
    sp_arena *a;
    const sp_jval *globals;
    var vars[MAX_VARS];
    size_t n_var;
    size_t steps;
    size_t depth; /* of evaluation */
    sp_diag *d;
} run;

enum { F_RAISE, F_RANGE, F_NAMESPACE, F_STRFTIME };
enum { M_STRIP, M_LSTRIP, M_RSTRIP, M_SPLIT, M_STARTSWITH, M_ENDSWITH, M_UPPER, M_LOWER, M_REPLACE, M_GET,
       M_ITEMS, M_KEYS, M_VALUES };
enum { L_TRIM, L_LENGTH, L_COUNT, L_UPPER, L_LOWER, L_CAPITALIZE, L_JOIN, L_DEFAULT, L_D, L_FIRST, L_LAST,
       L_TOJSON, L_REPLACE, L_STRING, L_INT, L_LIST, L_ITEMS, L_SAFE };
enum { S_DEFINED, S_UNDEFINED, S_NONE, S_STRING, S_NUMBER, S_INTEGER, S_BOOLEAN, S_MAPPING, S_ITERABLE,
       S_SEQUENCE, S_TRUE, S_FALSE, S_ODD, S_EVEN, S_DIVISIBLEBY, S_EQUALTO };

int sp_jinja_lookup(jtable table, sp_str name)
{
    static const char *const functions[] = {"raise_exception", "range", "namespace", "strftime_now", NULL};
    static const char *const methods[] = {"strip", "lstrip", "rstrip", "split", "startswith", "endswith",
                                          "upper", "lower", "replace", "get", "items", "keys", "values", NULL};
    static const char *const filters[] = {"trim", "length", "count", "upper", "lower", "capitalize", "join",
                                          "default", "d", "first", "last", "tojson", "replace", "string", "int",
                                          "list", "items", "safe", NULL};
    static const char *const tests[] = {"defined", "undefined", "none", "string", "number", "integer", "boolean",
                                        "mapping", "iterable", "sequence", "true", "false", "odd", "even",
                                        "divisibleby", "equalto", NULL};
    static const char *const *const tables[] = {functions, methods, filters, tests};
    for (int i = 0; tables[table][i]; i++)
        if (strlen(tables[table][i]) == name.n && memcmp(tables[table][i], name.p, name.n) == 0)
            return i;
    return -1;
}

#define TYPE_ERROR(r, n, what) SP_FAIL((r)->d, SP_FORMAT, "chat template, line %u: %s", (n)->line, (what))

sp_jval sp_jinja_str(const char *p, size_t n)
{
    return (sp_jval){.kind = SP_J_STR, .u.s = {p, n}};
}

sp_jval sp_jinja_bool(bool b)
{
    return (sp_jval){.kind = SP_J_BOOL, .u.b = b};
}

static sp_jval integer(int64_t i)
{
    return (sp_jval){.kind = SP_J_INT, .u.i = i};
}

static sp_err container(sp_jval *out, sp_arena *a, sp_jkind kind)
{
    sp_jlist *l = sp_arena_alloc(a, sizeof *l);
    if (!l)
        return SP_NOMEM;
    *out = (sp_jval){.kind = kind, .u.list = l};
    return SP_OK;
}

sp_err sp_jinja_map_new(sp_jval *out, sp_arena *a)
{
    return container(out, a, SP_J_MAP);
}

sp_err sp_jinja_list_new(sp_jval *out, sp_arena *a)
{
    return container(out, a, SP_J_LIST);
}

sp_err sp_jinja_list_add(sp_jval *list, sp_arena *a, sp_jval v)
{
    sp_jlist *l = list->u.list;
    if (l->n == l->cap) {
        size_t cap = l->cap ? l->cap * 2 : 8;
        sp_jval *p = sp_arena_alloc(a, cap * sizeof *p);
        if (!p)
            return SP_NOMEM;
        if (l->n)
            memcpy(p, l->item, l->n * sizeof *p);
        l->item = p;
        l->cap = cap;
    }
    l->item[l->n++] = v;
    return SP_OK;
}

static bool str_eq(const sp_jval *a, const char *p, size_t n)
{
    return a->kind == SP_J_STR && a->u.s.n == n && memcmp(a->u.s.p, p, n) == 0;
}

static sp_jval *map_at(const sp_jval *m, const char *p, size_t n)
{
    for (size_t i = 0; i < m->u.list->n; i += 2)
        if (str_eq(&m->u.list->item[i], p, n))
            return &m->u.list->item[i + 1];
    return NULL;
}

static sp_err map_put(sp_jval *m, sp_arena *a, sp_jval key, sp_jval v)
{
    sp_jval *have = map_at(m, key.u.s.p, key.u.s.n);
    if (have) {
        *have = v;
        return SP_OK;
    }
    SP_TRY(sp_jinja_list_add(m, a, key));
    return sp_jinja_list_add(m, a, v);
}

sp_err sp_jinja_map_set(sp_jval *map, sp_arena *a, const char *key, sp_jval v)
{
    return map_put(map, a, sp_jinja_str(key, strlen(key)), v);
}

static bool truthy(const sp_jval *v)
{
    switch (v->kind) {
    case SP_J_BOOL: return v->u.b;
    case SP_J_INT: return v->u.i != 0;
    case SP_J_FLOAT: return v->u.f != 0;
    case SP_J_STR: return v->u.s.n != 0;
    case SP_J_LIST: case SP_J_MAP: return v->u.list->n != 0;
    default: return false;
    }
}

static bool is_number(const sp_jval *v)
{
    return v->kind == SP_J_INT || v->kind == SP_J_FLOAT || v->kind == SP_J_BOOL;
}

static double as_float(const sp_jval *v)
{
    return v->kind == SP_J_FLOAT ? v->u.f : v->kind == SP_J_BOOL ? (double)v->u.b : (double)v->u.i;
}

static int64_t as_int(const sp_jval *v)
{
    return v->kind == SP_J_BOOL ? v->u.b : v->u.i;
}

static sp_err full(run *r)
{
    return SP_FAIL(r->d, SP_LIMIT, "chat template: out of memory");
}

/* n steps, before they are taken. */
static sp_err spend(run *r, size_t n)
{
    if (n > SP_JINJA_STEPS - r->steps)
        return SP_FAIL(r->d, SP_LIMIT, "chat template: more than %d steps", SP_JINJA_STEPS);
    r->steps += n;
    return SP_OK;
}

static sp_err step(run *r)
{
    return spend(r, 1);
}

static sp_err spend_bytes(run *r, size_t n)
{
    return spend(r, n / STEP_BYTES);
}

static sp_err check_depth(run *r, size_t depth)
{
    return depth > MAX_VALUE ? SP_FAIL(r->d, SP_LIMIT, "chat template: a value is nested deeper than %d", MAX_VALUE) : SP_OK;
}

/* Room for n more bytes of a text. */
static sp_err room(run *r, const sp_buf *b, size_t n)
{
    if (b->failed || n > MAX_OUTPUT || b->len > MAX_OUTPUT - n)
        return SP_FAIL(r->d, SP_LIMIT, "chat template: a text larger than %d bytes", MAX_OUTPUT);
    return spend_bytes(r, n);
}

static sp_err equal(run *r, bool *out, const sp_jval *a, const sp_jval *b, size_t depth);

static sp_err equal_items(run *r, bool *out, const sp_jval *a, const sp_jval *b, size_t depth)
{
    bool map = a->kind == SP_J_MAP;
    *out = a->u.list->n == b->u.list->n;
    SP_TRY(check_depth(r, depth));
    for (size_t i = map; i < a->u.list->n && *out; i += 1 + map) {
        const sp_jval *other = &b->u.list->item[i];
        if (map) {
            SP_TRY(spend(r, b->u.list->n / 2));
            other = map_at(b, a->u.list->item[i - 1].u.s.p, a->u.list->item[i - 1].u.s.n);
        }
        *out = other != NULL;
        if (other)
            SP_TRY(equal(r, out, &a->u.list->item[i], other, depth + 1));
    }
    return SP_OK;
}

static sp_err equal(run *r, bool *out, const sp_jval *a, const sp_jval *b, size_t depth)
{
    SP_TRY(step(r));
    if (is_number(a) && is_number(b)) {
        *out = as_float(a) == as_float(b);
        return SP_OK;
    }
    *out = a->kind == b->kind; /* none and undefined have no more to compare */
    if (!*out || (a->kind != SP_J_STR && a->kind != SP_J_LIST && a->kind != SP_J_MAP))
        return SP_OK;
    if (a->kind != SP_J_STR)
        return equal_items(r, out, a, b, depth);
    SP_TRY(spend_bytes(r, a->u.s.n == b->u.s.n ? a->u.s.n : 0));
    *out = str_eq(a, b->u.s.p, b->u.s.n);
    return SP_OK;
}

static void put_float(sp_buf *b, double f)
{
    char s[40];
    int digits = 1;
    do /* Python's repr: the shortest digits that read back */
        snprintf(s, sizeof s, "%.*g", digits, f);
    while (strtod(s, NULL) != f && ++digits <= 17);
    sp_buf_puts(b, s);
    if (!strpbrk(s, ".en"))
        sp_buf_puts(b, ".0");
}

static sp_err put_repr(run *r, sp_buf *b, const sp_jval *v, bool json, size_t depth);

static sp_err put_items(run *r, sp_buf *b, const sp_jval *v, bool json, size_t depth)
{
    bool map = v->kind == SP_J_MAP;
    SP_TRY(check_depth(r, depth));
    sp_buf_putc(b, map ? '{' : '[');
    for (size_t i = 0; i < v->u.list->n; i++) {
        if (i)
            sp_buf_puts(b, map && i % 2 ? ": " : ", ");
        SP_TRY(put_repr(r, b, &v->u.list->item[i], json, depth + 1));
    }
    sp_buf_putc(b, map ? '}' : ']');
    return SP_OK;
}

/* Python's repr of a string: single quotes unless it holds one and no double quote. */
static void put_quoted(sp_buf *b, const sp_jval *v)
{
    const char *p = v->u.s.p;
    size_t n = v->u.s.n;
    char q = memchr(p, '\'', n) && !memchr(p, '"', n) ? '"' : '\'';
    sp_buf_putc(b, q);
    for (size_t i = 0; i < n; i++) {
        if (p[i] == q || p[i] == '\\')
            sp_buf_putc(b, '\\');
        if (p[i] == '\n' || p[i] == '\t' || p[i] == '\r')
            sp_buf_puts(b, p[i] == '\n' ? "\\n" : p[i] == '\t' ? "\\t" : "\\r");
        else
            sp_buf_putc(b, p[i]);
    }
    sp_buf_putc(b, q);
}

static sp_err put_repr(run *r, sp_buf *b, const sp_jval *v, bool json, size_t depth)
{
    SP_TRY(step(r));
    SP_TRY(room(r, b, v->kind == SP_J_STR ? v->u.s.n : 0));
    switch (v->kind) {
    case SP_J_UNDEF: sp_buf_puts(b, json ? "null" : "Undefined"); break;
    case SP_J_NONE: sp_buf_puts(b, json ? "null" : "None"); break;
    case SP_J_BOOL: sp_buf_puts(b, v->u.b ? (json ? "true" : "True") : (json ? "false" : "False")); break;
    case SP_J_INT: sp_buf_printf(b, "%lld", (long long)v->u.i); break;
    case SP_J_FLOAT: put_float(b, v->u.f); break;
    case SP_J_STR:
        if (json)
            sp_buf_json_str(b, v->u.s.p, v->u.s.n);
        else
            put_quoted(b, v);
        break;
    case SP_J_LIST: case SP_J_MAP: return put_items(r, b, v, json, depth);
    }
    return SP_OK;
}

static sp_err put_value(run *r, sp_buf *b, const sp_jval *v)
{
    if (v->kind == SP_J_UNDEF)
        return SP_OK;
    if (v->kind != SP_J_STR)
        return put_repr(r, b, v, false, 0);
    SP_TRY(room(r, b, v->u.s.n));
    sp_buf_put(b, v->u.s.p, v->u.s.n);
    return SP_OK;
}

/* Moves a buffer's text into the arena, unless err says that it is not whole. */
static sp_err keep(run *r, sp_jval *out, sp_buf *b, sp_err err)
{
    char *p = b->failed || err != SP_OK ? NULL : sp_arena_strndup(r->a, sp_buf_str(b), b->len);
    size_t n = b->len;
    sp_buf_fini(b);
    SP_TRY(err);
    if (!p)
        return SP_FAIL(r->d, SP_LIMIT, "chat template: out of memory");
    *out = sp_jinja_str(p, n);
    return SP_OK;
}

static sp_jval lookup(const run *r, sp_str name)
{
    for (size_t i = r->n_var; i-- > 0;)
        if (r->vars[i].name.n == name.n && memcmp(r->vars[i].name.p, name.p, name.n) == 0)
            return r->vars[i].v;
    const sp_jval *v = map_at(r->globals, name.p, name.n);
    return v ? *v : (sp_jval){.kind = SP_J_UNDEF};
}

static sp_err bind(run *r, size_t scope, sp_str name, sp_jval v)
{
    for (size_t i = r->n_var; i-- > scope;) {
        if (r->vars[i].name.n == name.n && memcmp(r->vars[i].name.p, name.p, name.n) == 0) {
            r->vars[i].v = v;
            return SP_OK;
        }
    }
    if (r->n_var == MAX_VARS)
        return SP_FAIL(r->d, SP_LIMIT, "chat template: more than %d variables", MAX_VARS);
    r->vars[r->n_var++] = (var){name, v};
    return SP_OK;
}

static sp_err eval(run *r, sp_jval *out, const jnode *n);

/* --- strings ---------------------------------------------------------------------------------- */

static size_t char_count(const sp_jval *s)
{
    size_t n = 0;
    for (size_t i = 0; i < s->u.s.n; i++)
        n += ((unsigned char)s->u.s.p[i] & 0xc0) != 0x80;
    return n;
}

/* Byte offset of character i. */
static size_t char_at(const sp_jval *s, size_t i)
{
    size_t at = 0;
    for (; at < s->u.s.n; at++)
        if (((unsigned char)s->u.s.p[at] & 0xc0) != 0x80 && i-- == 0)
            break;
    return at;
}

static sp_err strip(run *r, sp_jval *out, const sp_jval *s, const sp_jval *set, bool left, bool right)
{
    bool is_in[256] = {false};
    const char *p = s->u.s.p;
    size_t a = 0, b = s->u.s.n;
    SP_TRY(spend_bytes(r, s->u.s.n + (set ? set->u.s.n : 0)));
    for (size_t i = 0; set && i < set->u.s.n; i++)
        is_in[(unsigned char)set->u.s.p[i]] = true;
    for (int i = 0; !set && i < 128; i++)
        is_in[i] = isspace(i);
    while (left && a < b && is_in[(unsigned char)p[a]])
        a++;
    while (right && b > a && is_in[(unsigned char)p[b - 1]])
        b--;
    *out = sp_jinja_str(p + a, b - a);
    return SP_OK;
}

static sp_err recase(run *r, sp_jval *out, const sp_jval *s, bool up, bool first_only)
{
    SP_TRY(spend_bytes(r, s->u.s.n));
    char *p = sp_arena_strndup(r->a, s->u.s.p, s->u.s.n);
    if (!p)
        return full(r);
    for (size_t i = 0; i < s->u.s.n; i++) {
        bool upper = first_only ? i == 0 : up;
        if ((unsigned char)p[i] < 0x80)
            p[i] = (char)(upper ? toupper(p[i]) : tolower(p[i]));
    }
    *out = sp_jinja_str(p, s->u.s.n);
    return SP_OK;
}

static sp_err replace(run *r, sp_jval *out, const sp_jval *s, const sp_jval *from, const sp_jval *to)
{
    sp_buf b = {0};
    const char *p = s->u.s.p, *end = p + s->u.s.n;
    if (from->u.s.n == 0)
        return SP_FAIL(r->d, SP_FORMAT, "chat template: replace of an empty string");
    sp_err err = spend_bytes(r, s->u.s.n);
    for (const char *hit; err == SP_OK && (hit = memmem(p, (size_t)(end - p), from->u.s.p, from->u.s.n)); p = hit + from->u.s.n) {
        err = step(r);
        if (err == SP_OK)
            err = room(r, &b, (size_t)(hit - p) + to->u.s.n);
        if (err != SP_OK)
            break;
        sp_buf_put(&b, p, (size_t)(hit - p));
        sp_buf_put(&b, to->u.s.p, to->u.s.n);
    }
    if (err == SP_OK)
        err = room(r, &b, (size_t)(end - p));
    if (err == SP_OK)
        sp_buf_put(&b, p, (size_t)(end - p));
    return keep(r, out, &b, err);
}

static sp_err add_piece(run *r, sp_jval *list, const char *p, size_t n)
{
    SP_TRY(step(r));
    return sp_jinja_list_add(list, r->a, sp_jinja_str(p, n)) == SP_OK ? SP_OK : full(r);
}

static sp_err split(run *r, sp_jval *out, const sp_jval *s, const sp_jval *sep)
{
    const char *p = s->u.s.p, *end = p + s->u.s.n;
    SP_TRY(spend_bytes(r, s->u.s.n));
    if (sp_jinja_list_new(out, r->a) != SP_OK)
        return full(r);
    for (const char *hit; sep && sep->u.s.n && (hit = memmem(p, (size_t)(end - p), sep->u.s.p, sep->u.s.n)); p = hit + sep->u.s.n)
        SP_TRY(add_piece(r, out, p, (size_t)(hit - p)));
    while (!sep && p < end) { /* words */
        while (p < end && isspace((unsigned char)*p))
            p++;
        const char *from = p;
        while (p < end && !isspace((unsigned char)*p))
            p++;
        if (p > from)
            SP_TRY(add_piece(r, out, from, (size_t)(p - from)));
    }
    return sep ? add_piece(r, out, p, (size_t)(end - p)) : SP_OK;
}

/* --- operators -------------------------------------------------------------------------------- */

static sp_err contains(run *r, const jnode *n, bool *out, const sp_jval *x, const sp_jval *in)
{
    if (in->kind == SP_J_STR && x->kind == SP_J_STR) {
        SP_TRY(spend_bytes(r, in->u.s.n));
        *out = memmem(in->u.s.p, in->u.s.n, x->u.s.p, x->u.s.n) != NULL;
        return SP_OK;
    }
    if (in->kind != SP_J_LIST && in->kind != SP_J_MAP)
        return TYPE_ERROR(r, n, "'in' needs a string, list or map on its right");
    *out = false;
    for (size_t i = 0; i < in->u.list->n && !*out; i += in->kind == SP_J_MAP ? 2 : 1)
        SP_TRY(equal(r, out, x, &in->u.list->item[i], 0));
    return SP_OK;
}

static sp_err compare(run *r, const jnode *n, int *out, const sp_jval *a, const sp_jval *b)
{
    if (is_number(a) && is_number(b)) {
        double x = as_float(a), y = as_float(b);
        *out = (x > y) - (x < y);
        return SP_OK;
    }
    if (a->kind != SP_J_STR || b->kind != SP_J_STR)
        return TYPE_ERROR(r, n, "these values cannot be ordered");
    size_t len = a->u.s.n < b->u.s.n ? a->u.s.n : b->u.s.n;
    SP_TRY(spend_bytes(r, len));
    int c = memcmp(a->u.s.p, b->u.s.p, len);
    *out = c ? c : (a->u.s.n > b->u.s.n) - (a->u.s.n < b->u.s.n);
    return SP_OK;
}

static sp_err arithmetic(run *r, sp_jval *out, const jnode *n, const sp_jval *a, const sp_jval *b)
{
    if (!is_number(a) || !is_number(b))
        return TYPE_ERROR(r, n, "arithmetic on a value that is not a number");
    if (n->op == JO_DIV || a->kind == SP_J_FLOAT || b->kind == SP_J_FLOAT) {
        double x = as_float(a), y = as_float(b), z;
        if (y == 0 && (n->op == JO_DIV || n->op == JO_IDIV || n->op == JO_MOD))
            return TYPE_ERROR(r, n, "division by zero");
        z = n->op == JO_ADD ? x + y : n->op == JO_SUB ? x - y : n->op == JO_MUL ? x * y : n->op == JO_DIV ? x / y
            : n->op == JO_IDIV ? floor(x / y) : x - floor(x / y) * y;
        *out = (sp_jval){.kind = SP_J_FLOAT, .u.f = z};
        return SP_OK;
    }
    int64_t x = as_int(a), y = as_int(b), z = 0;
    bool bad = false;
    if (n->op == JO_ADD)
        bad = __builtin_add_overflow(x, y, &z);
    else if (n->op == JO_SUB)
        bad = __builtin_sub_overflow(x, y, &z);
    else if (n->op == JO_MUL)
        bad = __builtin_mul_overflow(x, y, &z);
    else if (y == 0 || (y == -1 && x == INT64_MIN))
        bad = true;
    else if (n->op == JO_IDIV)
        z = x / y - (x % y != 0 && (x < 0) != (y < 0));
    else
        z = x % y + (x % y != 0 && (x < 0) != (y < 0) ? y : 0);
    *out = integer(z);
    return bad ? TYPE_ERROR(r, n, "integer overflow or division by zero") : SP_OK;
}

static sp_err concat(run *r, sp_jval *out, const sp_jval *a, const sp_jval *b)
{
    sp_buf s = {0};
    sp_err err = put_value(r, &s, a);
    if (err == SP_OK)
        err = put_value(r, &s, b);
    return keep(r, out, &s, err);
}

static sp_err binary(run *r, sp_jval *out, const jnode *n)
{
    sp_jval a, b;
    SP_TRY(eval(r, &a, n->a));
    SP_TRY(eval(r, &b, n->b));
    int c = 0;
    bool yes = false;
    switch (n->op) {
    case JO_EQ: case JO_NE:
        SP_TRY(equal(r, &yes, &a, &b, 0));
        *out = sp_jinja_bool(yes == (n->op == JO_EQ));
        return SP_OK;
    case JO_IN: case JO_NOT_IN:
        SP_TRY(contains(r, n, &yes, &a, &b));
        *out = sp_jinja_bool(yes == (n->op == JO_IN));
        return SP_OK;
    case JO_LT: case JO_LE: case JO_GT: case JO_GE:
        SP_TRY(compare(r, n, &c, &a, &b));
        *out = sp_jinja_bool(n->op == JO_LT ? c < 0 : n->op == JO_LE ? c <= 0 : n->op == JO_GT ? c > 0 : c >= 0);
        return SP_OK;
    case JO_CAT:
        return concat(r, out, &a, &b);
    default:
        break;
    }
    if (n->op == JO_ADD && a.kind == SP_J_STR && b.kind == SP_J_STR)
        return concat(r, out, &a, &b);
    if (n->op == JO_ADD && a.kind == SP_J_LIST && b.kind == SP_J_LIST) {
        if (sp_jinja_list_new(out, r->a) != SP_OK)
            return full(r);
        for (size_t i = 0; i < a.u.list->n + b.u.list->n; i++)
            if (step(r) != SP_OK || sp_jinja_list_add(out, r->a, i < a.u.list->n ? a.u.list->item[i]
                                                      : b.u.list->item[i - a.u.list->n]) != SP_OK)
                return full(r);
        return SP_OK;
    }
    return arithmetic(r, out, n, &a, &b);
}

/* --- access ----------------------------------------------------------------------------------- */

static sp_err get_item(run *r, sp_jval *out, const jnode *n, const sp_jval *a, const sp_jval *key)
{
    *out = (sp_jval){.kind = SP_J_UNDEF};
    if (a->kind == SP_J_STR)
        SP_TRY(spend_bytes(r, a->u.s.n)); /* its characters are counted */
    if (a->kind == SP_J_MAP) {
        SP_TRY(spend(r, a->u.list->n / 16));
        const sp_jval *v = key->kind == SP_J_STR ? map_at(a, key->u.s.p, key->u.s.n) : NULL;
        if (v)
            *out = *v;
        return SP_OK;
    }
    if (a->kind == SP_J_UNDEF)
        return TYPE_ERROR(r, n, "looking into an undefined value");
    if ((a->kind != SP_J_LIST && a->kind != SP_J_STR) || key->kind != SP_J_INT)
        return SP_OK; /* as jinja2: undefined */
    int64_t len = (int64_t)(a->kind == SP_J_LIST ? a->u.list->n : char_count(a)), i = key->u.i;
    i = i < 0 ? i + len : i;
    if (i < 0 || i >= len)
        return SP_OK;
    if (a->kind == SP_J_LIST) {
        *out = a->u.list->item[i];
    } else {
        size_t at = char_at(a, (size_t)i);
        *out = sp_jinja_str(a->u.s.p + at, char_at(a, (size_t)i + 1) - at);
    }
    return SP_OK;
}

/* Characters from bound[0] to before bound[1]: a stretch of the text itself, or a copy of some of its characters. */
static sp_err slice_text(run *r, sp_jval *out, const sp_jval *s, const int64_t bound[2], int64_t by)
{
    sp_buf text = {0};
    SP_TRY(spend_bytes(r, 2 * s->u.s.n));
    if (by == 1) {
        size_t from = char_at(s, (size_t)bound[0]), to = bound[1] > bound[0] ? char_at(s, (size_t)bound[1]) : from;
        *out = sp_jinja_str(s->u.s.p + from, to - from);
        return SP_OK;
    }
    size_t len = char_count(s), at = 0;
    SP_TRY(spend(r, len));
    uint32_t *start = sp_arena_alloc(r->a, (len + 1) * sizeof *start);
    if (!start)
        return full(r);
    for (size_t i = 0; i < s->u.s.n; i++)
        if (((unsigned char)s->u.s.p[i] & 0xc0) != 0x80)
            start[at++] = (uint32_t)i;
    start[len] = (uint32_t)s->u.s.n;
    for (int64_t i = bound[0]; by > 0 ? i < bound[1] : i > bound[1]; i += by)
        sp_buf_put(&text, s->u.s.p + start[i], start[i + 1] - start[i]);
    return keep(r, out, &text, SP_OK);
}

static sp_err slice(run *r, sp_jval *out, const jnode *n)
{
    sp_jval a, part[3] = {{.kind = SP_J_NONE}, {.kind = SP_J_NONE}, {.kind = SP_J_NONE}};
    const jnode *const expr[3] = {n->b, n->c, n->d};
    SP_TRY(eval(r, &a, n->a));
    for (int i = 0; i < 3; i++) {
        if (expr[i])
            SP_TRY(eval(r, &part[i], expr[i]));
        if (part[i].kind != SP_J_NONE && part[i].kind != SP_J_INT)
            return TYPE_ERROR(r, n, "slice bounds must be integers");
    }
    if (a.kind != SP_J_LIST && a.kind != SP_J_STR)
        return TYPE_ERROR(r, n, "only lists and strings can be sliced");
    int64_t len = (int64_t)(a.kind == SP_J_LIST ? a.u.list->n : char_count(&a));
    int64_t by = part[2].kind == SP_J_INT ? part[2].u.i : 1;
    if (by == 0 || by < -len - 1 || by > len + 1)
        by = by == 0 ? 0 : by < 0 ? -len - 1 : len + 1;
    if (by == 0)
        return TYPE_ERROR(r, n, "slice step is zero");
    int64_t bound[2] = {by > 0 ? 0 : len - 1, by > 0 ? len : -1};
    for (int i = 0; i < 2; i++) {
        if (part[i].kind != SP_J_INT)
            continue;
        int64_t v = part[i].u.i < -len ? -len - 1 : part[i].u.i > len ? len : part[i].u.i;
        v = v < 0 ? v + len : v;
        bound[i] = v < 0 ? (by > 0 ? 0 : -1) : by < 0 && v >= len ? len - 1 : v;
    }
    if (a.kind == SP_J_STR)
        return slice_text(r, out, &a, bound, by);
    if (sp_jinja_list_new(out, r->a) != SP_OK)
        return full(r);
    for (int64_t i = bound[0]; by > 0 ? i < bound[1] : i > bound[1]; i += by) {
        SP_TRY(step(r));
        if (sp_jinja_list_add(out, r->a, a.u.list->item[i]) != SP_OK)
            return full(r);
    }
    return SP_OK;
}

/* --- calls ------------------------------------------------------------------------------------ */

typedef struct args {
    sp_jval pos[4];
    size_t n;
    bool has_key; /* a keyword argument was given (namespace, default) */
} args;

static sp_err eval_args(run *r, args *out, const jnode *n)
{
    *out = (args){0};
    for (const jnode *a = n->args; a; a = a->next) {
        if (out->n == 4)
            return TYPE_ERROR(r, n, "more than 4 arguments");
        out->has_key = out->has_key || a->name2.n;
        SP_TRY(eval(r, &out->pos[out->n++], a));
    }
    return SP_OK;
}

static sp_err call_range(run *r, sp_jval *out, const jnode *n, const args *a)
{
    for (size_t i = 0; i < a->n; i++)
        if (a->pos[i].kind != SP_J_INT)
            return TYPE_ERROR(r, n, "range() takes integers");
    if (a->n < 1 || a->n > 3 || (a->n == 3 && a->pos[2].u.i == 0))
        return TYPE_ERROR(r, n, "range() takes 1 to 3 integers, the step not 0");
    int64_t lo = a->n > 1 ? a->pos[0].u.i : 0, hi = a->pos[a->n > 1 ? 1 : 0].u.i, by = a->n > 2 ? a->pos[2].u.i : 1;
    if (sp_jinja_list_new(out, r->a) != SP_OK)
        return full(r);
    for (int64_t i = lo; by > 0 ? i < hi : i > hi;) {
        if (out->u.list->n >= MAX_RANGE)
            return SP_FAIL(r->d, SP_LIMIT, "chat template, line %u: range() of more than %d", n->line, MAX_RANGE);
        SP_TRY(step(r));
        if (sp_jinja_list_add(out, r->a, integer(i)) != SP_OK)
            return full(r);
        if (__builtin_add_overflow(i, by, &i))
            break;
    }
    return SP_OK;
}

static sp_err call_strftime(run *r, sp_jval *out, const jnode *n, const args *a)
{
    char fmt[64], text[256];
    time_t now = time(NULL);
    struct tm tm;
    if (a->n != 1 || a->pos[0].kind != SP_J_STR || a->pos[0].u.s.n >= sizeof fmt)
        return TYPE_ERROR(r, n, "strftime_now() takes one short string");
    memcpy(fmt, a->pos[0].u.s.p, a->pos[0].u.s.n);
    fmt[a->pos[0].u.s.n] = 0;
    localtime_r(&now, &tm);
    sp_buf b = {0};
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    sp_buf_put(&b, text, strftime(text, sizeof text, fmt, &tm));
#pragma GCC diagnostic pop
    return keep(r, out, &b, SP_OK);
}

static sp_err call_function(run *r, sp_jval *out, const jnode *n)
{
    args a;
    if (n->id == F_NAMESPACE) {
        if (sp_jinja_map_new(out, r->a) != SP_OK)
            return full(r);
        out->u.list->is_namespace = true;
        for (const jnode *k = n->args; k; k = k->next) {
            sp_jval v;
            if (!k->name2.n)
                return TYPE_ERROR(r, n, "namespace() takes keyword arguments");
            SP_TRY(eval(r, &v, k));
            if (map_put(out, r->a, sp_jinja_str(k->name2.p, k->name2.n), v) != SP_OK)
                return full(r);
        }
        return SP_OK;
    }
    SP_TRY(eval_args(r, &a, n));
    if (n->id == F_RANGE)
        return call_range(r, out, n, &a);
    if (n->id == F_STRFTIME)
        return call_strftime(r, out, n, &a);
    if (a.n == 1 && a.pos[0].kind == SP_J_STR)
        return SP_FAIL(r->d, SP_INVAL, "the chat template refuses these messages: %.*s",
                       (int)(a.pos[0].u.s.n < 140 ? a.pos[0].u.s.n : 140), a.pos[0].u.s.p);
    return TYPE_ERROR(r, n, "raise_exception() takes one string");
}

static sp_err map_view(run *r, sp_jval *out, const jnode *n, const sp_jval *m, uint32_t which)
{
    if (m->kind != SP_J_MAP)
        return TYPE_ERROR(r, n, "items() of a value that is not a map");
    if (sp_jinja_list_new(out, r->a) != SP_OK)
        return full(r);
    for (size_t i = 0; i < m->u.list->n; i += 2) {
        SP_TRY(step(r));
        sp_jval v = m->u.list->item[which == M_VALUES ? i + 1 : i];
        if (which == M_ITEMS && (sp_jinja_list_new(&v, r->a) != SP_OK ||
                                 sp_jinja_list_add(&v, r->a, m->u.list->item[i]) != SP_OK ||
                                 sp_jinja_list_add(&v, r->a, m->u.list->item[i + 1]) != SP_OK))
            return full(r);
        if (sp_jinja_list_add(out, r->a, v) != SP_OK)
            return full(r);
    }
    return SP_OK;
}

static sp_err call_method(run *r, sp_jval *out, const jnode *n)
{
    sp_jval s;
    args a;
    SP_TRY(eval(r, &s, n->a));
    SP_TRY(eval_args(r, &a, n));
    if (n->id == M_ITEMS || n->id == M_KEYS || n->id == M_VALUES)
        return map_view(r, out, n, &s, n->id);
    if (n->id == M_GET) {
        if (s.kind != SP_J_MAP || a.n < 1 || a.pos[0].kind != SP_J_STR)
            return TYPE_ERROR(r, n, "get() needs a map and a string");
        const sp_jval *v = map_at(&s, a.pos[0].u.s.p, a.pos[0].u.s.n);
        *out = v ? *v : a.n > 1 ? a.pos[1] : (sp_jval){.kind = SP_J_NONE};
        return SP_OK;
    }
    bool strings = s.kind == SP_J_STR;
    for (size_t i = 0; i < a.n; i++)
        strings = strings && a.pos[i].kind == SP_J_STR;
    size_t need = n->id == M_REPLACE ? 2 : n->id == M_STARTSWITH || n->id == M_ENDSWITH ? 1 : 0;
    if (!strings || a.n < need)
        return TYPE_ERROR(r, n, "a string method on a value, or with an argument, that is not a string");
    size_t sn = s.u.s.n, an = a.n ? a.pos[0].u.s.n : 0;
    SP_TRY(spend_bytes(r, an));
    switch (n->id) {
    case M_STRIP: case M_LSTRIP: case M_RSTRIP:
        return strip(r, out, &s, a.n ? &a.pos[0] : NULL, n->id != M_RSTRIP, n->id != M_LSTRIP);
    case M_STARTSWITH:
        *out = sp_jinja_bool(sn >= an && memcmp(s.u.s.p, a.pos[0].u.s.p, an) == 0);
        return SP_OK;
    case M_ENDSWITH:
        *out = sp_jinja_bool(sn >= an && memcmp(s.u.s.p + sn - an, a.pos[0].u.s.p, an) == 0);
        return SP_OK;
    case M_SPLIT: return split(r, out, &s, a.n ? &a.pos[0] : NULL);
    case M_REPLACE: return replace(r, out, &s, &a.pos[0], &a.pos[1]);
    default: return recase(r, out, &s, n->id == M_UPPER, false);
    }
}

static sp_err as_text(run *r, sp_jval *out, const sp_jval *v)
{
    if (v->kind == SP_J_STR) {
        *out = *v;
        return SP_OK;
    }
    sp_buf b = {0};
    sp_err err = put_value(r, &b, v);
    return keep(r, out, &b, err);
}

static sp_err join(run *r, sp_jval *out, const jnode *n, const sp_jval *v, const args *a)
{
    sp_buf b = {0};
    if (v->kind != SP_J_LIST)
        return TYPE_ERROR(r, n, "join of a value that is not a list");
    sp_err err = SP_OK;
    for (size_t i = 0; i < v->u.list->n && err == SP_OK; i++) {
        err = step(r);
        if (err == SP_OK && i && a->n)
            err = put_value(r, &b, &a->pos[0]);
        if (err == SP_OK)
            err = put_value(r, &b, &v->u.list->item[i]);
    }
    return keep(r, out, &b, err);
}

/* A text that begins with no number is 0, as in jinja2. */
static sp_err to_int(run *r, sp_jval *out, const jnode *n, const sp_jval *v)
{
    char text[24] = "";
    sp_jval s;
    if (v->kind == SP_J_FLOAT && !(fabs(v->u.f) < 9.2e18))
        return TYPE_ERROR(r, n, "int of a number that is too large");
    if (is_number(v)) {
        *out = integer(v->kind == SP_J_FLOAT ? (int64_t)v->u.f : as_int(v));
        return SP_OK;
    }
    SP_TRY(as_text(r, &s, v));
    memcpy(text, s.u.s.p, s.u.s.n < sizeof text - 1 ? s.u.s.n : sizeof text - 1); /* a part of a longer text does not end with a NUL */
    *out = integer(strtoll(text, NULL, 10));
    return SP_OK;
}

static sp_err filter(run *r, sp_jval *out, const jnode *n)
{
    sp_jval v, s, zero = integer(0), minus = integer(-1);
    args a;
    sp_buf b = {0};
    sp_err err;
    SP_TRY(eval(r, &v, n->a));
    SP_TRY(eval_args(r, &a, n));
    bool list = v.kind == SP_J_LIST || v.kind == SP_J_MAP;
    switch (n->id) {
    case L_DEFAULT: case L_D: {
        bool use = v.kind == SP_J_UNDEF || (a.n > 1 && truthy(&a.pos[1]) && !truthy(&v));
        *out = use ? (a.n ? a.pos[0] : sp_jinja_str("", 0)) : v;
        return SP_OK;
    }
    case L_LENGTH: case L_COUNT:
        if (!list && v.kind != SP_J_STR)
            return TYPE_ERROR(r, n, "length of a value that has none");
        SP_TRY(spend_bytes(r, v.kind == SP_J_STR ? v.u.s.n : 0));
        *out = integer((int64_t)(v.kind == SP_J_STR ? char_count(&v) : v.kind == SP_J_MAP ? v.u.list->n / 2 : v.u.list->n));
        return SP_OK;
    case L_FIRST: return get_item(r, out, n, &v, &zero);
    case L_LAST: return get_item(r, out, n, &v, &minus);
    case L_JOIN: return join(r, out, n, &v, &a);
    case L_ITEMS: return map_view(r, out, n, &v, M_ITEMS);
    case L_LIST:
        if (v.kind == SP_J_MAP)
            return map_view(r, out, n, &v, M_KEYS);
        *out = v;
        return v.kind == SP_J_LIST ? SP_OK : TYPE_ERROR(r, n, "list of a value that is not one");
    case L_TOJSON:
        err = put_repr(r, &b, &v, true, 0);
        return keep(r, out, &b, err);
    case L_SAFE:
        *out = v;
        return SP_OK;
    case L_INT: return to_int(r, out, n, &v);
    default:
        break;
    }
    SP_TRY(as_text(r, &s, &v));
    switch (n->id) {
    case L_TRIM: return strip(r, out, &s, NULL, true, true);
    case L_STRING: *out = s; return SP_OK;
    case L_UPPER: case L_LOWER: case L_CAPITALIZE: return recase(r, out, &s, n->id == L_UPPER, n->id == L_CAPITALIZE);
    default:
        if (a.n < 2 || a.pos[0].kind != SP_J_STR || a.pos[1].kind != SP_J_STR)
            return TYPE_ERROR(r, n, "replace takes two strings");
        return replace(r, out, &s, &a.pos[0], &a.pos[1]);
    }
}

static sp_err test(run *r, sp_jval *out, const jnode *n)
{
    sp_jval v;
    args a;
    SP_TRY(eval(r, &v, n->a));
    SP_TRY(eval_args(r, &a, n));
    bool yes = false, integral = v.kind == SP_J_INT;
    if ((n->id == S_ODD || n->id == S_EVEN || n->id == S_DIVISIBLEBY) && !integral)
        return TYPE_ERROR(r, n, "odd, even and divisibleby test integers");
    switch (n->id) {
    case S_DEFINED: yes = v.kind != SP_J_UNDEF; break;
    case S_UNDEFINED: yes = v.kind == SP_J_UNDEF; break;
    case S_NONE: yes = v.kind == SP_J_NONE; break;
    case S_STRING: yes = v.kind == SP_J_STR; break;
    case S_NUMBER: yes = is_number(&v); break;
    case S_INTEGER: yes = integral; break;
    case S_BOOLEAN: yes = v.kind == SP_J_BOOL; break;
    case S_MAPPING: yes = v.kind == SP_J_MAP; break;
    case S_ITERABLE: case S_SEQUENCE: yes = v.kind == SP_J_LIST || v.kind == SP_J_MAP || v.kind == SP_J_STR; break;
    case S_TRUE: yes = v.kind == SP_J_BOOL && v.u.b; break;
    case S_FALSE: yes = v.kind == SP_J_BOOL && !v.u.b; break;
    case S_ODD: yes = v.u.i % 2 != 0; break;
    case S_EVEN: yes = v.u.i % 2 == 0; break;
    case S_DIVISIBLEBY:
        if (a.n != 1 || a.pos[0].kind != SP_J_INT || a.pos[0].u.i == 0 || a.pos[0].u.i == -1)
            return TYPE_ERROR(r, n, "divisibleby takes an integer, not 0 or -1");
        yes = v.u.i % a.pos[0].u.i == 0;
        break;
    default:
        if (a.n != 1)
            return TYPE_ERROR(r, n, "equalto takes one value");
        SP_TRY(equal(r, &yes, &v, &a.pos[0], 0));
    }
    *out = sp_jinja_bool(yes != (n->op == JO_NOT_IN));
    return SP_OK;
}

static sp_err literal_items(run *r, sp_jval *out, const jnode *n)
{
    if (container(out, r->a, n->kind == J_MAP ? SP_J_MAP : SP_J_LIST) != SP_OK)
        return full(r);
    for (const jnode *i = n->args; i; i = i->next) {
        sp_jval k, v;
        SP_TRY(eval(r, &k, i));
        if (n->kind == J_LIST) {
            if (sp_jinja_list_add(out, r->a, k) != SP_OK)
                return full(r);
            continue;
        }
        i = i->next;
        if (k.kind != SP_J_STR)
            return TYPE_ERROR(r, n, "keys of a map must be strings");
        SP_TRY(spend(r, out->u.list->n / 16));
        SP_TRY(eval(r, &v, i));
        if (map_put(out, r->a, k, v) != SP_OK)
            return full(r);
    }
    return SP_OK;
}

static sp_err eval_node(run *r, sp_jval *out, const jnode *n);

/* Long chains such as a + b + c or a.b.c nest to the left. */
static sp_err enter(run *r, const jnode *n)
{
    return ++r->depth > MAX_EVAL ? SP_FAIL(r->d, SP_LIMIT, "chat template, line %u: nested deeper than %d", n->line, MAX_EVAL) : step(r);
}

static sp_err eval(run *r, sp_jval *out, const jnode *n)
{
    SP_TRY(enter(r, n));
    sp_err err = eval_node(r, out, n);
    r->depth--;
    return err;
}

static sp_err eval_node(run *r, sp_jval *out, const jnode *n)
{
    sp_jval a, b;
    switch (n->kind) {
    case J_LIT: *out = n->lit; return SP_OK;
    case J_NAME: *out = lookup(r, n->name); return SP_OK;
    case J_LIST: case J_MAP: return literal_items(r, out, n);
    case J_INDEX:
        SP_TRY(eval(r, &a, n->a));
        SP_TRY(eval(r, &b, n->b));
        return get_item(r, out, n, &a, &b);
    case J_ATTR:
        SP_TRY(eval(r, &a, n->a));
        b = sp_jinja_str(n->name.p, n->name.n);
        return get_item(r, out, n, &a, &b);
    case J_SLICE: return slice(r, out, n);
    case J_CALL: return call_function(r, out, n);
    case J_METHOD: return call_method(r, out, n);
    case J_FILTER: return filter(r, out, n);
    case J_TEST: return test(r, out, n);
    case J_NOT:
        SP_TRY(eval(r, &a, n->a));
        *out = sp_jinja_bool(!truthy(&a));
        return SP_OK;
    case J_NEG:
        SP_TRY(eval(r, &a, n->a));
        if (a.kind == SP_J_FLOAT)
            *out = (sp_jval){.kind = SP_J_FLOAT, .u.f = -a.u.f};
        else if (a.kind == SP_J_INT && a.u.i != INT64_MIN)
            *out = integer(-a.u.i);
        else
            return TYPE_ERROR(r, n, "minus of a value that is not a number");
        return SP_OK;
    case J_AND: case J_OR:
        SP_TRY(eval(r, &a, n->a));
        if (truthy(&a) == (n->kind == J_OR)) {
            *out = a;
            return SP_OK;
        }
        return eval(r, out, n->b);
    case J_COND:
        SP_TRY(eval(r, &a, n->b));
        if (truthy(&a))
            return eval(r, out, n->a);
        *out = (sp_jval){.kind = SP_J_UNDEF};
        return n->c ? eval(r, out, n->c) : SP_OK;
    default: return binary(r, out, n);
    }
}

/* --- statements ------------------------------------------------------------------------------- */

static sp_err exec(run *r, const jnode *n, size_t scope);

/* Items a for statement walks: a list itself, the keys of a map, the characters of a string. */
static sp_err loop_items(run *r, sp_jval *out, const jnode *n)
{
    sp_jval v;
    SP_TRY(eval(r, &v, n->a));
    if (v.kind == SP_J_MAP)
        return map_view(r, out, n, &v, M_KEYS);
    if (v.kind == SP_J_LIST) {
        *out = v;
        return SP_OK;
    }
    if (sp_jinja_list_new(out, r->a) != SP_OK)
        return full(r);
    if (v.kind == SP_J_UNDEF)
        return SP_OK;
    if (v.kind != SP_J_STR)
        return TYPE_ERROR(r, n, "for over a value that is not a list, map or string");
    for (size_t i = 0; i < v.u.s.n;) {
        size_t len = 1;
        while (i + len < v.u.s.n && ((unsigned char)v.u.s.p[i + len] & 0xc0) == 0x80)
            len++;
        SP_TRY(step(r));
        if (sp_jinja_list_add(out, r->a, sp_jinja_str(v.u.s.p + i, len)) != SP_OK)
            return full(r);
        i += len;
    }
    return SP_OK;
}

static sp_err bind_target(run *r, const jnode *n, sp_jval item)
{
    if (!n->name2.n)
        return bind(r, r->n_var, n->name, item);
    if (item.kind != SP_J_LIST || item.u.list->n != 2)
        return TYPE_ERROR(r, n, "for with two names needs pairs");
    SP_TRY(bind(r, r->n_var, n->name, item.u.list->item[0]));
    return bind(r, r->n_var, n->name2, item.u.list->item[1]);
}

static sp_err loop_vars(run *r, const sp_jlist *items, size_t i)
{
    sp_jval loop, undef = {.kind = SP_J_UNDEF};
    int64_t at = (int64_t)i, n = (int64_t)items->n;
    if (sp_jinja_map_new(&loop, r->a) != SP_OK)
        return full(r);
    const struct { const char *key; sp_jval v; } vars[] = {
        {"index", integer(at + 1)},        {"index0", integer(at)},
        {"revindex", integer(n - at)},     {"revindex0", integer(n - at - 1)},
        {"first", sp_jinja_bool(i == 0)},  {"last", sp_jinja_bool(at == n - 1)},
        {"length", integer(n)},            {"previtem", i ? items->item[i - 1] : undef},
        {"nextitem", at < n - 1 ? items->item[i + 1] : undef}};
    for (size_t k = 0; k < sizeof vars / sizeof vars[0]; k++)
        if (sp_jinja_map_set(&loop, r->a, vars[k].key, vars[k].v) != SP_OK)
            return full(r);
    return bind(r, r->n_var, (sp_str){"loop", 4}, loop);
}

static sp_err exec_for(run *r, const jnode *n)
{
    sp_jval items, picked;
    size_t scope = r->n_var;
    SP_TRY(loop_items(r, &items, n));
    if (n->b) { /* the filter decides first: loop.index counts what is left */
        if (sp_jinja_list_new(&picked, r->a) != SP_OK)
            return full(r);
        for (size_t i = 0; i < items.u.list->n; i++) {
            sp_jval yes;
            SP_TRY(bind_target(r, n, items.u.list->item[i]));
            SP_TRY(eval(r, &yes, n->b));
            r->n_var = scope;
            if (truthy(&yes) && sp_jinja_list_add(&picked, r->a, items.u.list->item[i]) != SP_OK)
                return full(r);
        }
        items = picked;
    }
    for (size_t i = 0; i < items.u.list->n; i++) {
        SP_TRY(step(r));
        SP_TRY(bind_target(r, n, items.u.list->item[i]));
        SP_TRY(loop_vars(r, items.u.list, i));
        SP_TRY(exec(r, n->body, scope));
        r->n_var = scope;
    }
    return SP_OK;
}

static sp_err exec_set(run *r, const jnode *n, size_t scope)
{
    sp_jval v;
    SP_TRY(eval(r, &v, n->a));
    if (!n->name2.n)
        return bind(r, scope, n->name, v);
    sp_jval ns = lookup(r, n->name);
    if (ns.kind != SP_J_MAP || !ns.u.list->is_namespace)
        return TYPE_ERROR(r, n, "only a namespace() can be assigned into");
    return map_put(&ns, r->a, sp_jinja_str(n->name2.p, n->name2.n), v) == SP_OK ? SP_OK : full(r);
}

static sp_err print(run *r, const sp_jval *v)
{
    SP_TRY(put_value(r, r->out, v));
    if (r->out->failed || r->out->len - r->out_base > MAX_OUTPUT)
        return SP_FAIL(r->d, SP_LIMIT, "chat template: output larger than %d bytes", MAX_OUTPUT);
    return SP_OK;
}

static sp_err exec(run *r, const jnode *n, size_t scope)
{
    sp_jval v;
    for (; n; n = n->next) {
        SP_TRY(step(r));
        switch (n->kind) {
        case J_TEXT: SP_TRY(print(r, &n->lit)); break;
        case J_PRINT:
            SP_TRY(eval(r, &v, n->a));
            SP_TRY(print(r, &v));
            break;
        case J_IF:
            SP_TRY(eval(r, &v, n->a));
            SP_TRY(enter(r, n));
            SP_TRY(exec(r, truthy(&v) ? n->body : n->other, scope));
            r->depth--;
            break;
        case J_FOR:
            SP_TRY(enter(r, n));
            SP_TRY(exec_for(r, n));
            r->depth--;
            break;
        default: SP_TRY(exec_set(r, n, scope)); break;
        }
    }
    return SP_OK;
}

sp_err sp_jinja_run(const sp_jinja *j, sp_buf *out, sp_arena *a, const sp_jval *vars, sp_diag *d)
{
    run *r = sp_mem_alloc(sizeof *r);
    if (!r)
        return SP_FAIL(d, SP_NOMEM, "chat template");
    *r = (run){.out = out, .out_base = out->len, .a = a, .globals = vars, .d = d};
    sp_err err = exec(r, j->root, 0);
    sp_mem_free(r);
    return err;
}
