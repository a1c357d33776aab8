/* Filters of templates. */
#include "text/jinja_run.h"

#include <math.h>
#include <stdlib.h>

enum {
    L_TRIM,
    L_LENGTH,
    L_COUNT,
    L_UPPER,
    L_LOWER,
    L_CAPITALIZE,
    L_TITLE,
    L_JOIN,
    L_DEFAULT,
    L_D,
    L_FIRST,
    L_LAST,
    L_TOJSON,
    L_FROM_JSON,
    L_REPLACE,
    L_STRING,
    L_INT,
    L_FLOAT,
    L_ABS,
    L_LIST,
    L_ITEMS,
    L_DICTSORT,
    L_SAFE,
    L_ESCAPE,
    L_E,
    L_INDENT,
    L_MAP,
    L_SELECT,
    L_REJECT,
    L_SELECTATTR,
    L_REJECTATTR,
    L_SORT,
    L_UNIQUE,
    L_MIN,
    L_MAX,
    L_SUM,
    L_REVERSE,
    L_ATTR
};
const char *const sp_jinja_filters[] = {
    "trim",    "length", "count", "upper",  "lower",   "capitalize", "title",      "join",
    "default", "d",      "first", "last",   "tojson",  "from_json",  "replace",    "string",
    "int",     "float",  "abs",   "list",   "items",   "dictsort",   "safe",       "escape",
    "e",       "indent", "map",   "select", "reject",  "selectattr", "rejectattr", "sort",
    "unique",  "min",    "max",   "sum",    "reverse", "attr",       NULL};

sp_err sp_jinja_iter(jrun *r, sp_jval *out, const jnode *n, const sp_jval *v)
{
    if (v->kind == SP_J_LIST) {
        *out = *v;
        return SP_OK;
    }
    if (v->kind == SP_J_MAP && v->u.list->form == SP_J_PLAIN)
        return sp_jinja_view(r, out, n, v, 'k');
    SP_TRY(sp_jinja_make(r, out, SP_J_LIST));
    if (v->kind == SP_J_UNDEF)
        return SP_OK;
    if (v->kind != SP_J_STR)
        return SP_JINJA_TYPE(r, n, "a walk over a value that is not a list, map or string");
    for (size_t i = 0; i < v->u.s.n;) {
        size_t len = sp_jinja_char_len(v, i);
        SP_TRY(sp_jinja_push(r, out, sp_jinja_part(v, i, i + len)));
        i += len;
    }
    return SP_OK;
}

/* a.b.0 of a value, as `attribute` names it. */
static sp_err path(jrun *r, sp_jval *out, const jnode *n, const sp_jval *v, const sp_jval *name)
{
    *out = *v;
    if (!name)
        return SP_OK;
    if (name->kind == SP_J_INT)
        return sp_jinja_item(r, out, n, v, name);
    if (name->kind != SP_J_STR)
        return SP_JINJA_TYPE(r, n, "the name of an attribute is a string");
    for (size_t at = 0; at <= name->u.s.n;) {
        const char *dot = memchr(name->u.s.p + at, '.', name->u.s.n - at);
        size_t end = dot ? (size_t)(dot - name->u.s.p) : name->u.s.n;
        sp_jval from = *out, key = sp_jinja_part(name, at, end);
        char digits[8] = "";
        if (end > at && end - at < sizeof digits &&
            strspn(name->u.s.p + at, "0123456789") >= end - at) {
            memcpy(digits, name->u.s.p + at, end - at);
            key = sp_jinja_int(atoi(digits));
        }
        SP_TRY(sp_jinja_item(r, out, n, &from, &key));
        at = end + 1;
    }
    return SP_OK;
}

static sp_err join(jrun *r, sp_jval *out, const jnode *n, const sp_jval *v, jargs *a)
{
    jtext t = {0};
    const sp_jval *sep = sp_jinja_arg(a, 0, "d"), *name = sp_jinja_arg(a, 1, "attribute");
    sp_jval items, one;
    SP_TRY(sp_jinja_iter(r, &items, n, v));
    sp_err err = SP_OK;
    for (size_t i = 0; i < items.u.list->n && err == SP_OK; i++) {
        err = sp_jinja_spend(r, 1);
        if (err == SP_OK && i && sep)
            err = sp_jinja_put_value(r, &t, sep);
        if (err == SP_OK)
            err = path(r, &one, n, &items.u.list->item[i], name);
        if (err == SP_OK)
            err = sp_jinja_put_value(r, &t, &one);
    }
    return sp_jinja_keep(r, out, &t, err);
}

/* A text that is no number is the default, as in jinja2. */
static sp_err to_number(jrun *r, sp_jval *out, const jnode *n, const sp_jval *v, jargs *a,
                        bool whole)
{
    char text[64] = "", *end, *fraction;
    sp_jval s;
    const sp_jval *other = sp_jinja_arg(a, 0, "default");
    sp_jval otherwise = other ? *other : whole ? sp_jinja_int(0) : (sp_jval){.kind = SP_J_FLOAT};
    if (v->kind == SP_J_FLOAT && whole && !(fabs(v->u.f) < 9.2e18))
        return SP_JINJA_TYPE(r, n, "int of a number that is too large");
    if (sp_jinja_is_number(v)) {
        *out = !whole ? (sp_jval){.kind = SP_J_FLOAT, .u.f = sp_jinja_float(v)}
                      : sp_jinja_int(v->kind == SP_J_FLOAT ? (int64_t)v->u.f : sp_jinja_whole(v));
        out->mark = v->mark;
        return SP_OK;
    }
    *out = otherwise;
    if (v->kind != SP_J_STR)
        return SP_OK;
    SP_TRY(sp_jinja_strip(r, &s, v, NULL, true, true));
    if (!s.u.s.n || s.u.s.n >= sizeof text)
        return SP_OK;
    memcpy(text, s.u.s.p, s.u.s.n);
    if (strspn(text, "0123456789+-.eE") != s.u.s.n)
        return SP_OK;
    int64_t i = strtoll(text, &end, 10);
    double f = strtod(text, &fraction);
    if (!whole && !*fraction)
        *out = (sp_jval){.kind = SP_J_FLOAT, .u.f = f};
    else if (whole && !*end)
        *out = sp_jinja_int(i);
    else if (whole && !*fraction && fabs(f) < 9.2e18)
        *out = sp_jinja_int((int64_t)f);
    return SP_OK;
}

/* What sort, unique, min and max compare: texts without their case. */
static sp_err sort_key(jrun *r, sp_jval *out, const jnode *n, const sp_jval *v, const sp_jval *name,
                       bool by_case)
{
    sp_jval s;
    SP_TRY(path(r, &s, n, v, name));
    *out = s;
    return s.kind == SP_J_STR && !by_case ? sp_jinja_recase(r, out, &s, 'l') : SP_OK;
}

/* Merge sort of items by keys, both of n. Stable; also when reversed, as Python's. */
static sp_err sort_items(jrun *r, const jnode *n, sp_jval *item, sp_jval *key, size_t count,
                         bool reverse)
{
    sp_jval *to = sp_arena_alloc(r->a, (count + 1) * sizeof *to),
            *to_key = sp_arena_alloc(r->a, (count + 1) * sizeof *to);
    if (!to || !to_key)
        return sp_jinja_full(r);
    for (size_t width = 1; width < count; width *= 2) {
        for (size_t lo = 0; lo < count; lo += 2 * width) {
            size_t mid = lo + width < count ? lo + width : count,
                   hi = mid + width < count ? mid + width : count;
            for (size_t i = lo, j = mid, k = lo; k < hi; k++) {
                int c = 0;
                SP_TRY(sp_jinja_spend(r, 1));
                if (i < mid && j < hi)
                    SP_TRY(sp_jinja_compare(r, n, &c, &key[i], &key[j]));
                bool left = j >= hi || (i < mid && (reverse ? c >= 0 : c <= 0));
                to[k] = item[left ? i : j];
                to_key[k] = key[left ? i++ : j++];
            }
        }
        memcpy(item, to, count * sizeof *item);
        memcpy(key, to_key, count * sizeof *key);
    }
    return SP_OK;
}

static sp_err sort_list(jrun *r, sp_jval *out, const jnode *n, const sp_jval *items,
                        const sp_jval *name, bool by_case, bool reverse)
{
    sp_jval keys, k;
    SP_TRY(sp_jinja_make(r, out, SP_J_LIST));
    SP_TRY(sp_jinja_make(r, &keys, SP_J_LIST));
    for (size_t i = 0; i < items->u.list->n; i++) {
        SP_TRY(sort_key(r, &k, n, &items->u.list->item[i], name, by_case));
        SP_TRY(sp_jinja_push(r, &keys, k));
        SP_TRY(sp_jinja_push(r, out, items->u.list->item[i]));
    }
    return sort_items(r, n, out->u.list->item, keys.u.list->item, out->u.list->n, reverse);
}

static sp_err sort(jrun *r, sp_jval *out, const jnode *n, const sp_jval *v, jargs *a)
{
    const sp_jval *reverse = sp_jinja_arg(a, 0, "reverse"),
                  *by_case = sp_jinja_arg(a, 1, "case_sensitive");
    const sp_jval *name = sp_jinja_arg(a, 2, "attribute");
    sp_jval items;
    SP_TRY(sp_jinja_iter(r, &items, n, v));
    return sort_list(r, out, n, &items, name, by_case && sp_jinja_truthy(by_case),
                     reverse && sp_jinja_truthy(reverse));
}

static sp_err dictsort(jrun *r, sp_jval *out, const jnode *n, const sp_jval *v, jargs *a)
{
    const sp_jval *by_case = sp_jinja_arg(a, 0, "case_sensitive"), *by = sp_jinja_arg(a, 1, "by"),
                  *reverse = sp_jinja_arg(a, 2, "reverse");
    /* "value" */
    sp_jval items, at = sp_jinja_int(by && by->kind == SP_J_STR && by->u.s.n == 5 ? 1 : 0);
    SP_TRY(sp_jinja_view(r, &items, n, v, 'i'));
    return sort_list(r, out, n, &items, &at, by_case && sp_jinja_truthy(by_case),
                     reverse && sp_jinja_truthy(reverse));
}

static sp_err extreme(jrun *r, sp_jval *out, const jnode *n, const sp_jval *v, jargs *a, int sign)
{
    const sp_jval *by_case = sp_jinja_arg(a, 0, "case_sensitive"),
                  *name = sp_jinja_arg(a, 1, "attribute");
    sp_jval items, best = {0}, key;
    *out = (sp_jval){.kind = SP_J_UNDEF};
    SP_TRY(sp_jinja_iter(r, &items, n, v));
    for (size_t i = 0; i < items.u.list->n; i++) {
        int c = sign;
        SP_TRY(sort_key(r, &key, n, &items.u.list->item[i], name,
                        by_case && sp_jinja_truthy(by_case)));
        if (i)
            SP_TRY(sp_jinja_compare(r, n, &c, &key, &best));
        if (c * sign > 0) {
            best = key;
            *out = items.u.list->item[i];
        }
    }
    return SP_OK;
}

static sp_err unique(jrun *r, sp_jval *out, const jnode *n, const sp_jval *v, jargs *a)
{
    const sp_jval *by_case = sp_jinja_arg(a, 0, "case_sensitive"),
                  *name = sp_jinja_arg(a, 1, "attribute");
    sp_jval items, seen, key;
    SP_TRY(sp_jinja_iter(r, &items, n, v));
    SP_TRY(sp_jinja_make(r, out, SP_J_LIST));
    SP_TRY(sp_jinja_make(r, &seen, SP_J_LIST));
    for (size_t i = 0; i < items.u.list->n; i++) {
        bool have = false;
        SP_TRY(sort_key(r, &key, n, &items.u.list->item[i], name,
                        by_case && sp_jinja_truthy(by_case)));
        for (size_t k = 0; k < seen.u.list->n && !have; k++)
            SP_TRY(sp_jinja_equal(r, &have, &key, &seen.u.list->item[k]));
        if (have)
            continue;
        SP_TRY(sp_jinja_push(r, &seen, key));
        SP_TRY(sp_jinja_push(r, out, items.u.list->item[i]));
    }
    return SP_OK;
}

/* map, select and their like take every value that is false for an empty list, as in jinja2. */
static sp_err walk(jrun *r, sp_jval *out, const jnode *n, const sp_jval *v)
{
    return sp_jinja_truthy(v) ? sp_jinja_iter(r, out, n, v) : sp_jinja_make(r, out, SP_J_LIST);
}

/* The arguments after the first `drop`; a keyword's stay with their names. */
static void rest(jargs *out, const jargs *a, size_t drop)
{
    *out = (jargs){0};
    for (size_t i = drop; i < a->n; i++) {
        out->v[out->n] = a->v[i];
        out->key[out->n++] = a->key[i];
    }
}

/* select, reject, selectattr, rejectattr: items of which a test, or without one their truth,
 * holds. */
static sp_err pick(jrun *r, sp_jval *out, const jnode *n, const sp_jval *v, jargs *a, bool attr,
                   bool want)
{
    const sp_jval *name = attr ? sp_jinja_arg(a, 0, "") : NULL, *test = sp_jinja_arg(a, attr, "");
    sp_jval items, one;
    int id = test && test->kind == SP_J_STR
                 ? sp_jinja_lookup(JT_TEST, (sp_str){test->u.s.p, test->u.s.n})
                 : -1;
    if (attr && !name)
        return SP_JINJA_TYPE(r, n, "selectattr and rejectattr take the name of an attribute");
    if (test && id < 0)
        return SP_FAIL(r->d, SP_UNSUP,
                       "chat template, line %u: the test that a filter names is not supported",
                       n->line);
    SP_TRY(walk(r, &items, n, v));
    SP_TRY(sp_jinja_make(r, out, SP_J_LIST));
    for (size_t i = 0; i < items.u.list->n; i++) {
        jargs more;
        bool yes;
        rest(&more, a, (size_t)attr + 1);
        SP_TRY(path(r, &one, n, &items.u.list->item[i], name));
        yes = sp_jinja_truthy(&one);
        if (test)
            SP_TRY(sp_jinja_test(r, &yes, n, id, &one, &more));
        if (yes == want)
            SP_TRY(sp_jinja_push(r, out, items.u.list->item[i]));
    }
    a->used = ~0u;
    return SP_OK;
}

static sp_err map(jrun *r, sp_jval *out, const jnode *n, const sp_jval *v, jargs *a)
{
    const sp_jval *name = sp_jinja_arg(a, SP_JINJA_ARGS, "attribute"),
                  *other = sp_jinja_arg(a, SP_JINJA_ARGS, "default");
    const sp_jval *filter = name ? NULL : sp_jinja_arg(a, 0, "");
    sp_jval items, one;
    int id = filter && filter->kind == SP_J_STR
                 ? sp_jinja_lookup(JT_FILTER, (sp_str){filter->u.s.p, filter->u.s.n})
                 : -1;
    if (!name && id < 0)
        return SP_FAIL(r->d, SP_UNSUP,
                       "chat template, line %u: map takes `attribute` or the name of a filter that "
                       "is supported",
                       n->line);
    SP_TRY(walk(r, &items, n, v));
    SP_TRY(sp_jinja_make(r, out, SP_J_LIST));
    for (size_t i = 0; i < items.u.list->n; i++) {
        jargs more;
        rest(&more, a, 1);
        SP_TRY(sp_jinja_spend(r, 1));
        SP_TRY(name ? path(r, &one, n, &items.u.list->item[i], name)
                    : sp_jinja_filter(r, &one, n, id, &items.u.list->item[i], &more));
        SP_TRY(sp_jinja_push(r, out, name && other && one.kind == SP_J_UNDEF ? *other : one));
    }
    if (!name)
        a->used = ~0u;
    return SP_OK;
}

static sp_err indent_lines(jrun *r, jtext *t, const sp_jval *lines, const sp_jval *by, bool first,
                           bool blank)
{
    for (size_t i = 0; i < lines->u.list->n; i++) {
        const sp_jval *line = &lines->u.list->item[i];
        if (i)
            SP_TRY(sp_jinja_put(r, t, "\n", 1, NULL));
        if (i ? line->u.s.n || blank : first)
            SP_TRY(sp_jinja_put_str(r, t, by));
        SP_TRY(sp_jinja_put_str(r, t, line));
    }
    return SP_OK;
}

static sp_err indent(jrun *r, sp_jval *out, const jnode *n, const sp_jval *s, jargs *a)
{
    static const char spaces[65] =
        "                                                                ";
    const sp_jval *width = sp_jinja_arg(a, 0, "width"), *first = sp_jinja_arg(a, 1, "first"),
                  *blank = sp_jinja_arg(a, 2, "blank");
    sp_jval by = sp_jinja_str(spaces, 4), lines, whole = *s;
    jtext t = {0};
    if (width && width->kind == SP_J_STR)
        by = *width;
    else if (width && (width->kind != SP_J_INT || width->u.i > 64))
        return SP_JINJA_TYPE(r, n, "indent takes a string or a number up to 64");
    else if (width)
        by.u.s.n = width->u.i < 0 ? 0 : (size_t)width->u.i;
    bool ends = s->u.s.n && s->u.s.p[s->u.s.n - 1] == '\n';
    SP_TRY(sp_jinja_lines(r, &lines, &whole));
    /* jinja2 adds a line's end first: what follows the last one is a line of its own */
    if (ends || !s->u.s.n)
        SP_TRY(sp_jinja_push(r, &lines, sp_jinja_str("", 0)));
    sp_err err = indent_lines(r, &t, &lines, &by, first && sp_jinja_truthy(first),
                              blank && sp_jinja_truthy(blank));
    return sp_jinja_keep(r, out, &t, err);
}

static sp_err reverse(jrun *r, sp_jval *out, const jnode *n, const sp_jval *v)
{
    const sp_jval part[3] = {{.kind = SP_J_NONE},
                             {.kind = SP_J_NONE},
                             {.kind = SP_J_INT, .u.i = -1}};
    sp_jval items = *v;
    if (v->kind != SP_J_STR)
        SP_TRY(sp_jinja_iter(r, &items, n, v));
    return sp_jinja_slice(r, out, n, &items, part);
}

static sp_err sum(jrun *r, sp_jval *out, const jnode *n, const sp_jval *v, jargs *a)
{
    const sp_jval *name = sp_jinja_arg(a, 0, "attribute"), *start = sp_jinja_arg(a, 1, "start");
    sp_jval items, one;
    SP_TRY(sp_jinja_iter(r, &items, n, v));
    *out = start ? *start : sp_jinja_int(0);
    for (size_t i = 0; i < items.u.list->n; i++) {
        SP_TRY(sp_jinja_spend(r, 1));
        SP_TRY(path(r, &one, n, &items.u.list->item[i], name));
        if (!sp_jinja_is_number(&one) || !sp_jinja_is_number(out))
            return SP_JINJA_TYPE(r, n, "sum of values that are not numbers");
        bool whole = one.kind != SP_J_FLOAT && out->kind != SP_J_FLOAT;
        if (whole && __builtin_add_overflow(sp_jinja_whole(out), sp_jinja_whole(&one), &out->u.i))
            return SP_JINJA_TYPE(r, n, "integer overflow");
        *out = whole ? sp_jinja_int(out->u.i)
                     : (sp_jval){.kind = SP_J_FLOAT,
                                 .u.f = sp_jinja_float(out) + sp_jinja_float(&one)};
    }
    return SP_OK;
}

static sp_err length(jrun *r, sp_jval *out, const jnode *n, const sp_jval *v)
{
    if (v->kind != SP_J_STR && v->kind != SP_J_LIST && v->kind != SP_J_MAP && v->kind != SP_J_UNDEF)
        return SP_JINJA_TYPE(r, n, "length of a value that has none");
    SP_TRY(sp_jinja_spend_bytes(r, v->kind == SP_J_STR ? v->u.s.n : 0));
    *out = sp_jinja_int(v->kind == SP_J_UNDEF ? 0
                                              : (int64_t)(v->kind == SP_J_STR   ? sp_jinja_chars(v)
                                                          : v->kind == SP_J_MAP ? v->u.list->n / 2
                                                                                : v->u.list->n));
    return SP_OK;
}

static sp_err absolute(jrun *r, sp_jval *out, const jnode *n, const sp_jval *v)
{
    if (!sp_jinja_is_number(v) || (v->kind == SP_J_INT && v->u.i == INT64_MIN))
        return SP_JINJA_TYPE(r, n, "abs of a value that is not a number");
    *out = v->kind == SP_J_FLOAT
               ? (sp_jval){.kind = SP_J_FLOAT, .u.f = fabs(v->u.f)}
               : sp_jinja_int(sp_jinja_whole(v) < 0 ? -sp_jinja_whole(v) : sp_jinja_whole(v));
    return SP_OK;
}

/* Filters of texts: the value becomes one first. */
static sp_err filter_text(jrun *r, sp_jval *out, const jnode *n, int id, const sp_jval *v, jargs *a)
{
    sp_jval s;
    SP_TRY(sp_jinja_as_text(r, &s, v));
    switch (id) {
    case L_TRIM: {
        const sp_jval *set = sp_jinja_arg(a, 0, "chars");
        if (set && set->kind == SP_J_NONE)
            set = NULL;
        if (set && set->kind != SP_J_STR)
            return SP_JINJA_TYPE(r, n, "trim takes a string");
        return sp_jinja_strip(r, out, &s, set, true, true);
    }
    case L_STRING: *out = s; return SP_OK;
    case L_SAFE:
        *out = s;
        out->is_safe = true;
        return SP_OK;
    case L_ESCAPE: case L_E:
        *out = s;
        return s.is_safe ? SP_OK : sp_jinja_escape(r, out, &s);
    case L_UPPER: return sp_jinja_recase(r, out, &s, 'u');
    case L_LOWER: return sp_jinja_recase(r, out, &s, 'l');
    case L_CAPITALIZE: return sp_jinja_recase(r, out, &s, 'c');
    case L_TITLE: return sp_jinja_recase(r, out, &s, 't');
    case L_INDENT: return indent(r, out, n, &s, a);
    default: {
        const sp_jval *from = sp_jinja_arg(a, 0, "old"), *to = sp_jinja_arg(a, 1, "new"),
                      *most = sp_jinja_arg(a, 2, "count");
        sp_jval f, t;
        if (!from || !to || (most && most->kind != SP_J_INT && most->kind != SP_J_NONE))
            return SP_JINJA_TYPE(r, n, "replace takes two strings, and a number");
        SP_TRY(sp_jinja_as_text(r, &f, from));
        SP_TRY(sp_jinja_as_text(r, &t, to));
        return sp_jinja_replace(r, out, &s, &f, &t,
                                most && most->kind == SP_J_INT && most->u.i >= 0 ? most->u.i : -1);
    }
    }
}

sp_err sp_jinja_filter(jrun *r, sp_jval *out, const jnode *n, int id, const sp_jval *v, jargs *a)
{
    const sp_jval *x, *y;
    sp_jval items, zero = sp_jinja_int(0), minus = sp_jinja_int(-1);
    switch (id) {
    case L_DEFAULT: case L_D:
        x = sp_jinja_arg(a, 0, "default_value");
        y = sp_jinja_arg(a, 1, "boolean");
        *out = v->kind == SP_J_UNDEF || (y && sp_jinja_truthy(y) && !sp_jinja_truthy(v))
                   ? (x ? *x : sp_jinja_str("", 0))
                   : *v;
        return SP_OK;
    case L_LENGTH: case L_COUNT: return length(r, out, n, v);
    case L_FIRST: case L_LAST:
        SP_TRY(sp_jinja_iter(r, &items, n, v));
        return sp_jinja_item(r, out, n, &items, id == L_FIRST ? &zero : &minus);
    case L_JOIN: return join(r, out, n, v, a);
    case L_ITEMS:
        return v->kind == SP_J_UNDEF ? sp_jinja_make(r, out, SP_J_LIST)
                                     : sp_jinja_view(r, out, n, v, 'i');
    case L_LIST: {
        const sp_jval all[3] = {{.kind = SP_J_NONE}, {.kind = SP_J_NONE}, {.kind = SP_J_NONE}};
        SP_TRY(sp_jinja_iter(r, &items, n, v));
        return sp_jinja_slice(r, out, n, &items, all); /* a list of its own */
    }
    case L_TOJSON: return sp_jinja_to_json(r, out, n, v, a);
    case L_FROM_JSON: return sp_jinja_from_json(r, out, n, v);
    case L_INT: return to_number(r, out, n, v, a, true);
    case L_FLOAT: return to_number(r, out, n, v, a, false);
    case L_ABS: return absolute(r, out, n, v);
    case L_DICTSORT: return dictsort(r, out, n, v, a);
    case L_MAP: return map(r, out, n, v, a);
    case L_SELECT: return pick(r, out, n, v, a, false, true);
    case L_REJECT: return pick(r, out, n, v, a, false, false);
    case L_SELECTATTR: return pick(r, out, n, v, a, true, true);
    case L_REJECTATTR: return pick(r, out, n, v, a, true, false);
    case L_SORT: return sort(r, out, n, v, a);
    case L_UNIQUE: return unique(r, out, n, v, a);
    case L_MIN: return extreme(r, out, n, v, a, -1);
    case L_MAX: return extreme(r, out, n, v, a, 1);
    case L_SUM: return sum(r, out, n, v, a);
    case L_REVERSE: return reverse(r, out, n, v);
    case L_ATTR:
        x = sp_jinja_arg(a, 0, "name");
        if (!x || x->kind != SP_J_STR)
            return SP_JINJA_TYPE(r, n, "attr takes a name");
        return sp_jinja_item(r, out, n, v, x);
    default: return filter_text(r, out, n, id, v, a);
    }
}
