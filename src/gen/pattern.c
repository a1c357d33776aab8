/* A pattern becomes the nodes of an automaton; see grammar.h for the notation, grammar_int.h for
 * nodes.
 *
 * Built from the end: each part is compiled with the node that follows it. To know what follows
 * before reading on, a part is read into a tree first. Its height is bounded by MAX_DEPTH groups of
 * MAX_STACK repeats each: sequences and alternatives are lists. Budgets: bytes of the pattern,
 * groups in groups, repeats of repeats, calls that build nodes, nodes, rules. */
#include "gen/pattern_int.h"

#include "base/mem.h"
#include "base/utf8.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_DEPTH = 96, MAX_TIMES = 1000000, MAX_STACK = 4, MAX_RULES = 16384, MAX_RANGES = 512 };

typedef struct chars { /* a class in the making */
    range r[MAX_RANGES];
    size_t n;
    bool full, named; /* named: it holds \w or the like */
} chars;

typedef struct reader {
    const char *start, *p;
    sp_arena a;
    sp_diag *d;
    sp_err err;
    int depth;
    bool json; /* inside of (?j: */
    chars c;   /* the class in the making: one at a time, and too large for a stack of groups */
    gr_program *out;
    tree **body; /* [rules] what is defined */
    size_t cap_body;
} reader;

typedef enum ends { TOP, SEARCH, INNER } ends; /* what ^ and $ mean around an alternative */

static tree *fail(reader *r, const char *what)
{
    if (r->err == SP_OK)
        r->err = SP_FAIL(r->d, SP_INVAL, "pattern, byte %zu: %s", (size_t)(r->p - r->start), what);
    return NULL;
}

static void *no_memory(reader *r)
{
    if (r->err == SP_OK)
        r->err = SP_FAIL(r->d, SP_NOMEM, "pattern");
    return NULL;
}

static tree *new_tree(reader *r, kind k, tree *last)
{
    tree *t = r->err == SP_OK ? sp_arena_alloc(&r->a, sizeof *t) : NULL;
    if (!t)
        return no_memory(r);
    *t = (tree){.kind = k, .last = last};
    return t;
}

/* --- classes ---------------------------------------------------------------------------------- */

static void add_range(chars *c, uint32_t lo, uint32_t hi)
{
    size_t i = c->n;
    if (c->n == MAX_RANGES) {
        c->full = true;
        return;
    }
    for (; i > 0 && c->r[i - 1].lo > lo; i--)
        c->r[i] = c->r[i - 1];
    c->r[i] = (range){lo, hi};
    c->n++;
}

/* Joins ranges that touch. */
static void join(chars *c)
{
    size_t n = 0;
    for (size_t i = 0; i < c->n; i++) {
        if (n && c->r[i].lo <= c->r[n - 1].hi + 1)
            c->r[n - 1].hi = c->r[i].hi > c->r[n - 1].hi ? c->r[i].hi : c->r[n - 1].hi;
        else
            c->r[n++] = c->r[i];
    }
    c->n = n;
}

static void invert(chars *c, uint32_t most)
{
    chars no = {.n = 0, .full = c->full};
    uint32_t from = 0;
    join(c);
    for (size_t i = 0; i < c->n && from <= most; i++) {
        if (c->r[i].lo > from)
            add_range(&no, from, c->r[i].lo - 1 < most ? c->r[i].lo - 1 : most);
        from = c->r[i].hi + 1;
    }
    if (from <= most)
        add_range(&no, from, most);
    *c = no;
}

/* \d \w \s and their opposites, which are ASCII in JSON strings: engines differ in what is a letter
 * beyond. */
static void add_named(chars *c, char name, bool ascii)
{
    chars one = {.n = 0};
    char small = (char)(name | 32);
    if (small == 'd' || small == 'w')
        add_range(&one, '0', '9');
    if (small == 'w')
        add_range(&one, 'a', 'z'), add_range(&one, 'A', 'Z'), add_range(&one, '_', '_');
    if (small == 's')
        add_range(&one, ' ', ' '), add_range(&one, '\t', '\r');
    if (name != small)
        invert(&one, ascii ? 0x7f : MAX_CP);
    for (size_t i = 0; i < one.n; i++)
        add_range(c, one.r[i].lo, one.r[i].hi);
    c->named = true;
}

static int hex(char c)
{
    return c >= '0' && c <= '9'                 ? c - '0'
           : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10
                                                : -1;
}

/* n hexadecimal digits, or with n 0 up to six and a brace behind them; -1: they are not there. */
static int32_t read_hex(reader *r, int n)
{
    int32_t v = 0;
    int i = 0;
    for (; i < (n ? n : 6) && hex(*r->p) >= 0; i++)
        v = v * 16 + hex(*r->p++);
    if (i == 0 || (n && i < n) || (!n && *r->p++ != '}'))
        return -1;
    return v;
}

/* After \x or \u: a code point. Two \u that are halves of one are one. */
static int32_t read_code(reader *r, char c)
{
    int32_t v = c == 'x'       ? read_hex(r, 2)
                : *r->p == '{' ? (r->p++, read_hex(r, 0))
                               : read_hex(r, 4);
    if (v >= 0xd800 && v < 0xdc00 && r->p[0] == '\\' && r->p[1] == 'u') {
        r->p += 2;
        int32_t low = read_hex(r, 4);
        v = low >= 0xdc00 && low < 0xe000 ? 0x10000 + ((v - 0xd800) << 10) + (low - 0xdc00) : -1;
    }
    return v > MAX_CP || (v >= 0xd800 && v < 0xe000) ? -1 : v;
}

/* After a backslash. *one: the character it stands for, or -1 for a class. */
static bool read_escape(reader *r, chars *out, int32_t *one)
{
    static const char name[] = "ntrfv0", is[] = "\n\t\r\f\v";
    char c = *r->p;
    const char *at = c ? strchr(name, c) : NULL;
    *one = -1;
    if (!c)
        return fail(r, "a backslash at the end") != NULL;
    r->p++;
    if (strchr("dwsDWS", c)) {
        add_named(out, c, r->json);
        return true;
    }
    if (c == 'x' || c == 'u') {
        *one = read_code(r, c);
        if (*one < 0)
            return fail(r, "\\x needs two hexadecimal digits, \\u four, and a character that there "
                           "is") != NULL;
    } else if (at && !(c == '0' && *r->p >= '0' && *r->p <= '9')) {
        *one = is[at - name];
    } else if ((c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z')) {
        return fail(r, "an escape that is not known") != NULL;
    } else {
        r->p--;
        size_t n = sp_utf8_decode((uint32_t *)one, r->p, strnlen(r->p, 4));
        if (n == 0)
            return fail(r, "text that is not UTF-8") != NULL;
        r->p += n;
    }
    add_range(out, (uint32_t)*one, (uint32_t)*one);
    return true;
}

static bool read_char(reader *r, uint32_t *cp)
{
    size_t n = sp_utf8_decode(cp, r->p, strnlen(r->p, 4));
    if (n == 0)
        return fail(r, "text that is not UTF-8") != NULL;
    r->p += n;
    return true;
}

/* Leaves out what UTF-8 cannot spell. */
static void drop_surrogates(chars *c)
{
    size_t n = c->n;
    for (size_t i = 0; i < n; i++) {
        range x = c->r[i];
        if (x.hi < 0xd800 || x.lo > 0xdfff)
            continue;
        c->r[i] = x.lo < 0xd800 ? (range){x.lo, 0xd7ff} : (range){0xe000, x.hi};
        if (x.lo < 0xd800 && x.hi > 0xdfff)
            add_range(c, 0xe000, x.hi);
        if (x.lo >= 0xd800 && x.hi <= 0xdfff)
            memmove(&c->r[i], &c->r[i + 1], (--c->n - i) * sizeof x);
        return; /* ranges are apart: a second one inside would have been joined, or is cut off whole
                   by the first */
    }
}

static tree *new_class(reader *r, chars *c)
{
    join(c);
    drop_surrogates(c);
    if (c->full)
        return fail(r, "a class of more than 512 ranges");
    tree *t = new_tree(r, c->n ? CLASS : NEVER, NULL);
    range *copy = t ? sp_arena_alloc(&r->a, (c->n + 1) * sizeof *copy) : NULL;
    if (!copy)
        return no_memory(r);
    memcpy(copy, c->r, c->n * sizeof *copy);
    t->r = copy;
    t->n = c->n;
    t->json = r->json;
    return t;
}

static chars *fresh(reader *r)
{
    r->c.n = 0;
    r->c.full = r->c.named = false;
    return &r->c;
}

static tree *read_class(reader *r)
{
    chars *c = fresh(r);
    bool no = *r->p == '^';
    r->p += no;
    for (bool first = true; *r->p != ']' || first; first = false) {
        uint32_t cp = 0;
        int32_t from, to;
        if (!*r->p)
            return fail(r, "[ without ]");
        if (*r->p == '\\') {
            r->p++;
            if (!read_escape(r, c, &from))
                return NULL;
        } else {
            if (!read_char(r, &cp))
                return NULL;
            from = (int32_t)cp;
            add_range(c, cp, cp);
        }
        if (from < 0 || r->p[0] != '-' || r->p[1] == ']' || !r->p[1])
            continue;
        r->p++;
        if (*r->p == '\\') { /* it is named twice, which is no harm */
            r->p++;
            if (!read_escape(r, c, &to))
                return NULL;
        } else {
            if (!read_char(r, &cp))
                return NULL;
            to = (int32_t)cp;
        }
        if (to < from)
            return fail(r, "a range in a class that goes backwards");
        add_range(c, (uint32_t)from, (uint32_t)to);
    }
    r->p++;
    if (no)
        invert(c, r->json && c->named ? 0x7f : MAX_CP);
    return new_class(r, c);
}

/* --- the rest of the notation ----------------------------------------------------------------- */

static tree *read_alt(reader *r, ends e);

static bool same_name(const void *all, uint32_t i, const void *one)
{
    const gr_rule *a = &((const gr_program *)all)->rule[i];
    const sp_str *b = one;
    return a->name.n == b->n && memcmp(a->name.p, b->p, b->n) == 0;
}

static uint64_t hash_name(const sp_str *s)
{
    uint64_t h = 1;
    for (size_t i = 0; i < s->n; i++)
        h = gr_mix(h, (unsigned char)s->p[i]);
    return h;
}

static uint64_t hash_rule(const void *all, uint32_t i)
{
    return hash_name(&((const gr_program *)all)->rule[i].name);
}

/* The rule of the name that ends with `end`. false: it is no name, or a budget is spent. */
static bool read_name(reader *r, char end, size_t *rule)
{
    gr_program *p = r->out;
    sp_str name = {r->p, 0};
    while ((*r->p >= '0' && *r->p <= '9') || ((*r->p | 32) >= 'a' && (*r->p | 32) <= 'z') ||
           *r->p == '_' || *r->p == '-')
        r->p++;
    name.n = (size_t)(r->p - name.p);
    if (!name.n || *r->p != end)
        return fail(r, "the name of a rule is expected") != NULL;
    r->p++;
    if (!gr_index_room(&p->by_name, hash_rule, p) ||
        !sp_mem_has_room(&p->rule, &p->cap_rule, p->n_rule, sizeof *p->rule) ||
        !sp_mem_has_room(&r->body, &r->cap_body, p->n_rule, sizeof *r->body))
        return no_memory(r) != NULL;
    uint32_t *slot = gr_index_find(&p->by_name, hash_name(&name), same_name, p, &name);
    if (!*slot && p->n_rule == MAX_RULES)
        return fail(r, "more than 16384 rules") != NULL;
    if (!*slot) {
        p->rule[p->n_rule] = (gr_rule){name, GR_NONE};
        r->body[p->n_rule] = NULL;
        p->by_name.n++;
        *slot = (uint32_t)++p->n_rule;
    }
    *rule = *slot - 1;
    return true;
}

static tree *close_group(reader *r, tree *t)
{
    if (t && *r->p != ')')
        return fail(r, "( without )");
    r->p++;
    return t;
}

/* (?<name>…)… up to the ) of the DEFINE. */
static tree *read_rules(reader *r)
{
    while (r->err == SP_OK && r->p[0] == '(' && r->p[1] == '?' && r->p[2] == '<') {
        size_t rule;
        r->p += 3;
        if (!read_name(r, '>', &rule))
            return NULL;
        if (r->body[rule])
            return fail(r, "a rule that is defined twice");
        tree *t = close_group(r, read_alt(r, INNER));
        if (t)
            r->body[rule] = t;
    }
    return r->err == SP_OK ? close_group(r, new_tree(r, EMPTY, NULL)) : NULL;
}

/* After "(?". */
static tree *read_special(reader *r)
{
    size_t rule = 0;
    if (r->p[0] == ':') {
        r->p++;
        return close_group(r, read_alt(r, INNER));
    }
    if (r->p[0] == '!' && r->p[1] == ')') {
        r->p += 2;
        return new_tree(r, NEVER, NULL);
    }
    if (strncmp(r->p, "mark)", 5) == 0) {
        r->p += 5;
        return new_tree(r, MARK, NULL);
    }
    if (r->p[0] == '&') {
        r->p++;
        tree *t = read_name(r, ')', &rule) ? new_tree(r, CALL, NULL) : NULL;
        if (t)
            t->n = rule;
        return t;
    }
    if (strncmp(r->p, "(DEFINE)", 8) == 0) {
        r->p += 8;
        return read_rules(r);
    }
    if (strncmp(r->p, "j:", 2) == 0 && !r->json) {
        r->p += 2;
        r->json = true;
        tree *t = close_group(r, read_alt(r, SEARCH));
        r->json = false;
        return t;
    }
    if (r->p[0] == '<' && r->p[1] != '=' &&
        r->p[1] != '!') { /* a name for a group: nothing refers to it */
        while (*r->p && *r->p != '>')
            r->p++;
        r->p += *r->p == '>';
        return close_group(r, read_alt(r, INNER));
    }
    return fail(r, "(? is followed by what is not known");
}

static tree *read_atom(reader *r)
{
    uint32_t cp = 0;
    int32_t one;
    if (*r->p == '(') {
        r->p++;
        if (++r->depth > MAX_DEPTH)
            return fail(r, "groups are nested too deep");
        bool special = *r->p == '?';
        r->p += special;
        tree *t = special ? read_special(r) : close_group(r, read_alt(r, INNER));
        r->depth--;
        return t;
    }
    if (strchr("*+?{", *r->p))
        return fail(r, "nothing to repeat");
    if (strchr("^$", *r->p))
        return fail(r, "^ and $ may stand at the ends only");
    if (*r->p == '[') {
        r->p++;
        return read_class(r);
    }
    if (*r->p == '\\') {
        r->p++;
        chars *c = fresh(r);
        return read_escape(r, c, &one) ? new_class(r, c) : NULL;
    }
    if (*r->p == '.') {
        r->p++;
        chars *c = fresh(r);
        add_range(c, '\n', '\n');
        if (r->json) /* what some engines take for the end of a line */
            add_range(c, '\r', '\r'), add_range(c, 0x2028, 0x2029);
        invert(c, MAX_CP);
        return new_class(r, c);
    }
    if (!read_char(r, &cp))
        return NULL;
    chars *c = fresh(r);
    add_range(c, cp, cp);
    return new_class(r, c);
}

/* Up to seven digits; false: there are none. */
static bool read_number(reader *r, uint32_t *n)
{
    int i = 0;
    for (*n = 0; i < 7 && *r->p >= '0' && *r->p <= '9'; i++, r->p++)
        *n = *n * 10 + (uint32_t)(*r->p - '0');
    return i > 0;
}

static bool read_bounds(reader *r, uint32_t *min, uint32_t *max)
{
    if (!read_number(r, min))
        return false;
    *max = *min;
    if (*r->p == ',') {
        r->p++;
        *max = UINT32_MAX;
        if (*r->p != '}' && !read_number(r, max))
            return false;
    }
    bool ok = *r->p == '}' && *min <= MAX_TIMES && (*max <= MAX_TIMES || *max == UINT32_MAX) &&
              *max >= *min;
    r->p += ok;
    return ok;
}

static tree *read_repeat(reader *r)
{
    tree *t = read_atom(r);
    for (int i = 0; t && *r->p && strchr("*+?{", *r->p); i++) {
        char c = *r->p++;
        uint32_t min = c == '+', max = c == '?' ? 1 : UINT32_MAX;
        if (i == MAX_STACK)
            return fail(r, "more than 4 repeats of repeats");
        if (c == '{' && !read_bounds(r, &min, &max))
            return fail(r, "{m,n} needs numbers up to 1000000, in order");
        if (*r->p == '?') /* as few as possible: the language is the same */
            r->p++;
        if (max == 0 || t->kind == EMPTY) {
            t = new_tree(r, EMPTY, NULL);
            continue;
        }
        t = new_tree(r, REPEAT, t);
        if (t)
            t->min = min, t->max = max;
    }
    return t;
}

static tree *add_part(reader *r, tree *list, kind k, tree *part)
{
    if (!list || !part)
        return part;
    if (list->kind != k || !list->n) { /* n marks a list that is being made */
        list->before = NULL;
        list = new_tree(r, k, list);
        if (!list)
            return NULL;
        list->n = 1;
    }
    part->before = list->last;
    list->last = part;
    return list;
}

/* Any text, before or behind what is searched for. */
static tree *any_text(reader *r)
{
    chars *c = fresh(r);
    add_range(c, 0, MAX_CP);
    tree *t = new_tree(r, REPEAT, new_class(r, c));
    if (t)
        t->max = UINT32_MAX;
    return t;
}

static tree *read_cat(reader *r, ends e)
{
    tree *list = NULL;
    bool from = false, to = false;
    if (e != INNER && *r->p == '^') {
        r->p++;
        from = true;
    }
    if (e == SEARCH && !from)
        list = any_text(r);
    while (r->err == SP_OK && *r->p && *r->p != '|' && *r->p != ')') {
        if (e != INNER && *r->p == '$' && (!r->p[1] || r->p[1] == '|' || r->p[1] == ')')) {
            r->p++;
            to = true;
            break;
        }
        tree *part = read_repeat(r);
        list = part ? add_part(r, list, CAT, part) : NULL;
        if (!list)
            return NULL;
    }
    if (e == SEARCH && !to)
        list = add_part(r, list, CAT, any_text(r));
    if (list && list->kind == CAT)
        list->n = 0; /* it is made */
    return list ? list : r->err == SP_OK ? new_tree(r, EMPTY, NULL) : NULL;
}

static tree *read_alt(reader *r, ends e)
{
    tree *list = read_cat(r, e);
    while (list && *r->p == '|') {
        r->p++;
        tree *part = read_cat(r, e);
        list = part ? add_part(r, list, ALT, part) : NULL;
    }
    if (list && list->kind == ALT)
        list->n = 0;
    return list;
}

sp_err gr_program_read(gr_program *p, const char *pattern, sp_diag *d)
{
    reader r = {.start = pattern, .p = pattern, .d = d, .out = p};
    if (strlen(pattern) > SP_GRAMMAR_PATTERN)
        return SP_FAIL(d, SP_INVAL, "the pattern has more than %d bytes", SP_GRAMMAR_PATTERN);
    sp_arena_init(&r.a, 0);
    tree *t = read_alt(&r, TOP);
    if (t && *r.p)
        t = fail(&r, ") without (");
    sp_err err = t ? gr_program_build(p, t, r.body, d) : r.err;
    sp_arena_fini(&r.a);
    sp_mem_free(r.body);
    return err;
}
