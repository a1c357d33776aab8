/* Functions, macros and methods that templates call. */
#include "text/jinja_run.h"

#include <ctype.h>
#include <stdio.h>
#include <time.h>

enum { MAX_RANGE = 100000, NO_LIMIT = -1 };

enum { F_RAISE, F_RANGE, F_NAMESPACE, F_STRFTIME, F_DICT };
const char *const sp_jinja_functions[] = {"raise_exception", "range", "namespace",
                                          "strftime_now",    "dict",  NULL};

/* Those up to M_SETDEFAULT are methods of maps, those up to M_EXTEND of lists, M_POP of both; the
 * others of strings. */
enum {
    M_GET,
    M_ITEMS,
    M_KEYS,
    M_VALUES,
    M_UPDATE,
    M_COPY,
    M_SETDEFAULT,
    M_POP,
    M_APPEND,
    M_EXTEND,
    M_INDEX,
    M_COUNT,
    M_STRIP,
    M_LSTRIP,
    M_RSTRIP,
    M_SPLIT,
    M_RSPLIT,
    M_SPLITLINES,
    M_STARTSWITH,
    M_ENDSWITH,
    M_UPPER,
    M_LOWER,
    M_TITLE,
    M_CAPITALIZE,
    M_REPLACE,
    M_FIND,
    M_JOIN,
    M_FORMAT,
    M_ISDIGIT,
    M_REMOVEPREFIX,
    M_REMOVESUFFIX
};
const char *const sp_jinja_methods[] = {
    "get",     "items",        "keys",         "values",     "update",     "copy",     "setdefault",
    "pop",     "append",       "extend",       "index",      "count",      "strip",    "lstrip",
    "rstrip",  "split",        "rsplit",       "splitlines", "startswith", "endswith", "upper",
    "lower",   "title",        "capitalize",   "replace",    "find",       "join",     "format",
    "isdigit", "removeprefix", "removesuffix", NULL};

int sp_jinja_lookup(jtable table, sp_str name)
{
    const char *const *const tables[] = {sp_jinja_functions, sp_jinja_methods, sp_jinja_filters,
                                         sp_jinja_tests};
    for (int i = 0; tables[table][i]; i++)
        if (strlen(tables[table][i]) == name.n && memcmp(tables[table][i], name.p, name.n) == 0)
            return i;
    return -1;
}

bool sp_jinja_has_method(const sp_jval *v, sp_str name)
{
    int id = sp_jinja_lookup(JT_METHOD, name);
    if (id < 0)
        return false;
    if (v->kind == SP_J_MAP)
        return v->u.list->form == SP_J_PLAIN && id <= M_POP;
    return v->kind == SP_J_LIST ? id >= M_POP && id <= M_COUNT
                                : v->kind == SP_J_STR && id >= M_INDEX;
}

/* --- arguments -------------------------------------------------------------------------------- */

sp_err sp_jinja_args(jrun *r, jargs *out, const jnode *n)
{
    out->n = 0;
    out->used = 0;
    for (const jnode *a = n->args; a; a = a->next) {
        if (out->n == SP_JINJA_ARGS)
            return SP_FAIL(r->d, SP_LIMIT, "chat template, line %u: more than %d arguments",
                           n->line, SP_JINJA_ARGS);
        out->key[out->n] = a->name2;
        SP_TRY(sp_jinja_eval(r, &out->v[out->n], a));
        out->n++;
    }
    return SP_OK;
}

const sp_jval *sp_jinja_arg(jargs *a, size_t i, const char *name)
{
    for (size_t k = 0; k < a->n; k++) {
        bool hit = a->key[k].n
                       ? strlen(name) == a->key[k].n && memcmp(name, a->key[k].p, a->key[k].n) == 0
                       : k == i;
        if (hit) {
            a->used |= 1u << k;
            return &a->v[k];
        }
    }
    return NULL;
}

sp_err sp_jinja_args_done(jrun *r, const jargs *a, const jnode *n, const char *what)
{
    for (size_t i = 0; i < a->n; i++)
        if (!(a->used >> i & 1))
            return SP_FAIL(
                r->d, SP_UNSUP, "chat template, line %u: argument %zu%s%.*s of %s is not supported",
                n->line, i + 1, a->key[i].n ? ", " : "", (int)(a->key[i].n < 40 ? a->key[i].n : 40),
                a->key[i].n ? a->key[i].p : "", what);
    return SP_OK;
}

/* --- functions -------------------------------------------------------------------------------- */

static sp_err call_range(jrun *r, sp_jval *out, const jnode *n, jargs *a)
{
    const sp_jval *v[3] = {sp_jinja_arg(a, 0, ""), sp_jinja_arg(a, 1, ""), sp_jinja_arg(a, 2, "")};
    for (int i = 0; i < 3; i++)
        if (v[i] && v[i]->kind != SP_J_INT)
            return SP_JINJA_TYPE(r, n, "range() takes integers");
    if (!v[0] || (v[2] && v[2]->u.i == 0))
        return SP_JINJA_TYPE(r, n, "range() takes 1 to 3 integers, the step not 0");
    int64_t lo = v[1] ? v[0]->u.i : 0, hi = v[v[1] ? 1 : 0]->u.i, by = v[2] ? v[2]->u.i : 1;
    SP_TRY(sp_jinja_make(r, out, SP_J_LIST));
    for (int64_t i = lo; by > 0 ? i < hi : i > hi;) {
        if (out->u.list->n >= MAX_RANGE)
            return SP_FAIL(r->d, SP_LIMIT, "chat template, line %u: range() of more than %d",
                           n->line, MAX_RANGE);
        SP_TRY(sp_jinja_push(r, out, sp_jinja_int(i)));
        if (__builtin_add_overflow(i, by, &i))
            break;
    }
    return SP_OK;
}

static sp_err call_strftime(jrun *r, sp_jval *out, const jnode *n, jargs *a)
{
    char fmt[64], text[256];
    time_t now = time(NULL);
    struct tm tm;
    const sp_jval *v = sp_jinja_arg(a, 0, "format");
    if (!v || v->kind != SP_J_STR || v->u.s.n >= sizeof fmt)
        return SP_JINJA_TYPE(r, n, "strftime_now() takes one short string");
    memcpy(fmt, v->u.s.p, v->u.s.n);
    fmt[v->u.s.n] = 0;
    localtime_r(&now, &tm);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    size_t len = strftime(text, sizeof text, fmt, &tm);
#pragma GCC diagnostic pop
    jtext t = {0};
    sp_err err = sp_jinja_put(r, &t, text, len, v->mark == NULL ? NULL : sp_jinja_from);
    return sp_jinja_keep(r, out, &t, err);
}

/* namespace() and dict(): of maps and keyword arguments. */
static sp_err call_map(jrun *r, sp_jval *out, const jnode *n)
{
    SP_TRY(sp_jinja_make(r, out, SP_J_MAP));
    if (n->id == F_NAMESPACE)
        out->u.list->form = SP_J_NAMESPACE;
    for (const jnode *k = n->args; k; k = k->next) {
        sp_jval v;
        SP_TRY(sp_jinja_eval(r, &v, k));
        if (!k->name2.n && v.kind != SP_J_MAP)
            return SP_JINJA_TYPE(r, n, "namespace() and dict() take maps and keyword arguments");
        SP_TRY(sp_jinja_spend(r, out->u.list->n / 16));
        if (k->name2.n &&
            sp_jinja_map_put(out, r->a, sp_jinja_str(k->name2.p, k->name2.n), v) != SP_OK)
            return sp_jinja_full(r);
        for (size_t i = 0; !k->name2.n && i < v.u.list->n; i += 2) {
            SP_TRY(sp_jinja_spend(r, 1 + out->u.list->n / 16));
            if (sp_jinja_map_put(out, r->a, v.u.list->item[i], v.u.list->item[i + 1]) != SP_OK)
                return sp_jinja_full(r);
        }
    }
    return SP_OK;
}

/* Binds the arguments of a call to the parameters of a macro, in the macro's own scope. The values
 * were computed in the caller's: they stand in a list, and the keywords' in a map. */
static sp_err bind_macro(jrun *r, const jnode *n, const jnode *m, const sp_jval *by_place,
                         const sp_jval *by_name)
{
    size_t i = 0, named = 0;
    for (const jnode *p = m->args; p; p = p->next, i++) {
        sp_jval key = sp_jinja_str(p->name.p, p->name.n), v = {.kind = SP_J_UNDEF};
        const sp_jval *given = NULL;
        SP_TRY(sp_jinja_find(r, &given, by_name, &key));
        if (given && i < by_place->u.list->n)
            return SP_FAIL(r->d, SP_FORMAT, "chat template, line %u: %.*s is given twice", n->line,
                           (int)(p->name.n < 40 ? p->name.n : 40), p->name.p);
        named += given != NULL;
        if (i < by_place->u.list->n)
            given = &by_place->u.list->item[i];
        if (!given && p->a)
            SP_TRY(sp_jinja_eval(r, &v, p->a));
        SP_TRY(sp_jinja_bind(r, p->name, given ? *given : v));
    }
    if (by_place->u.list->n > i || by_name->u.list->n / 2 > named)
        return SP_FAIL(r->d, SP_FORMAT,
                       "chat template, line %u: an argument that macro %.*s does not have", n->line,
                       (int)(m->name.n < 40 ? m->name.n : 40), m->name.p);
    return SP_OK;
}

static sp_err call_macro(jrun *r, sp_jval *out, const jnode *n, const struct sp_jmacro *m)
{
    sp_jval by_place, by_name;
    SP_TRY(sp_jinja_make(r, &by_place, SP_J_LIST));
    SP_TRY(sp_jinja_make(r, &by_name, SP_J_MAP));
    for (const jnode *k = n->args; k; k = k->next) {
        sp_jval v;
        SP_TRY(sp_jinja_eval(r, &v, k));
        SP_TRY(sp_jinja_spend(r, 1 + by_name.u.list->n / 16));
        if (k->name2.n
                ? sp_jinja_map_put(&by_name, r->a, sp_jinja_str(k->name2.p, k->name2.n), v) != SP_OK
                : sp_jinja_list_add(&by_place, r->a, v) != SP_OK)
            return sp_jinja_full(r);
    }
    jscope *caller = r->scope;
    SP_TRY(sp_jinja_scope_in(r, m->scope));
    SP_TRY(bind_macro(r, n, m->node, &by_place, &by_name));
    SP_TRY(sp_jinja_capture(r, out, m->node->body));
    sp_jinja_scope_clear(r);
    r->scope = caller;
    return SP_OK;
}

sp_err sp_jinja_call(jrun *r, sp_jval *out, const jnode *n)
{
    sp_jval f;
    jargs a;
    SP_TRY(sp_jinja_name(r, &f, n->name));
    if (f.kind == SP_J_FUNC && f.u.macro)
        return call_macro(r, out, n, f.u.macro);
    if (f.kind != SP_J_FUNC || n->id < 0)
        return SP_FAIL(r->d, SP_UNSUP, "chat template, line %u: function %.*s is not supported",
                       n->line, (int)(n->name.n < 40 ? n->name.n : 40), n->name.p);
    if (n->id == F_NAMESPACE || n->id == F_DICT)
        return call_map(r, out, n);
    SP_TRY(sp_jinja_args(r, &a, n));
    if (n->id == F_RAISE) {
        const sp_jval *v = sp_jinja_arg(&a, 0, "message");
        if (a.n != 1 || !v || v->kind != SP_J_STR)
            return SP_JINJA_TYPE(r, n, "raise_exception() takes one string");
        return SP_FAIL(r->d, SP_INVAL, "the chat template refuses these messages: %.*s",
                       (int)(v->u.s.n < 140 ? v->u.s.n : 140), v->u.s.p);
    }
    SP_TRY(n->id == F_RANGE ? call_range(r, out, n, &a) : call_strftime(r, out, n, &a));
    return sp_jinja_args_done(r, &a, n, sp_jinja_functions[n->id]);
}

/* --- methods ---------------------------------------------------------------------------------- */

sp_err sp_jinja_view(jrun *r, sp_jval *out, const jnode *n, const sp_jval *m, char which)
{
    if (m->kind != SP_J_MAP)
        return SP_JINJA_TYPE(r, n, "the items of a value that is not a map");
    SP_TRY(sp_jinja_make(r, out, SP_J_LIST));
    for (size_t i = 0; i < m->u.list->n; i += 2) {
        sp_jval v = m->u.list->item[which == 'v' ? i + 1 : i];
        if (which == 'i') {
            SP_TRY(sp_jinja_make(r, &v, SP_J_LIST));
            v.mark = m->mark;
            v.u.list->form = SP_J_TUPLE;
            SP_TRY(sp_jinja_push(r, &v, m->u.list->item[i]));
            SP_TRY(sp_jinja_push(r, &v, m->u.list->item[i + 1]));
        }
        SP_TRY(sp_jinja_push(r, out, v));
    }
    return SP_OK;
}

static sp_err pop(jrun *r, sp_jval *out, const jnode *n, sp_jval *s, const sp_jval *at,
                  const sp_jval *other)
{
    sp_jlist *l = s->u.list;
    size_t each = s->kind == SP_J_MAP ? 2 : 1, i = l->n;
    SP_TRY(sp_jinja_spend(r, 1 + l->n / 16));
    if (s->kind == SP_J_MAP) {
        const sp_jval *hit = NULL;
        if (at)
            SP_TRY(sp_jinja_find(r, &hit, s, at));
        i = hit ? (size_t)(hit - l->item) - 1 : l->n;
    } else if (!at || at->kind == SP_J_INT) {
        int64_t k = at ? at->u.i : -1;
        k = k < 0 ? k + (int64_t)l->n : k;
        i = k >= 0 && (size_t)k < l->n ? (size_t)k : l->n;
    }
    if (i >= l->n && !other)
        return SP_JINJA_TYPE(r, n, "pop() of what is not there");
    *out = i < l->n ? l->item[i + each - 1] : *other;
    if (i < l->n) {
        memmove(&l->item[i], &l->item[i + each], (l->n - i - each) * sizeof *l->item);
        l->n -= each;
    }
    return SP_OK;
}

static sp_err method_of_map(jrun *r, sp_jval *out, const jnode *n, sp_jval *s, jargs *a)
{
    const sp_jval *hit = NULL, *key = sp_jinja_arg(a, 0, ""), *other = NULL,
                  none = {.kind = SP_J_NONE};
    switch (n->id) {
    case M_ITEMS: return sp_jinja_view(r, out, n, s, 'i');
    case M_KEYS: return sp_jinja_view(r, out, n, s, 'k');
    case M_VALUES: return sp_jinja_view(r, out, n, s, 'v');
    case M_COPY: case M_UPDATE:
        if (n->id == M_UPDATE && (!key || key->kind != SP_J_MAP))
            return SP_JINJA_TYPE(r, n, "update() takes a map");
        sp_jval to = *s, from = n->id == M_UPDATE ? *key : *s;
        if (n->id == M_COPY)
            SP_TRY(sp_jinja_make(r, &to, SP_J_MAP));
        to.mark = s->mark;
        for (size_t i = 0, end = from.u.list->n; i < end; i += 2) {
            SP_TRY(sp_jinja_spend(r, 1 + to.u.list->n / 16));
            if (sp_jinja_map_put(&to, r->a, from.u.list->item[i], from.u.list->item[i + 1]) !=
                SP_OK)
                return sp_jinja_full(r);
        }
        *out = n->id == M_COPY ? to : none;
        return SP_OK;
    default: break;
    }
    other = sp_jinja_arg(a, 1, "");
    if (!key)
        return SP_JINJA_TYPE(r, n, "get(), pop() and setdefault() of a map take a key");
    if (n->id == M_POP)
        return pop(r, out, n, s, key, other);
    SP_TRY(sp_jinja_find(r, &hit, s, key));
    *out = hit ? *hit : other ? *other : none;
    if (n->id == M_SETDEFAULT && !hit && sp_jinja_map_put(s, r->a, *key, *out) != SP_OK)
        return sp_jinja_full(r);
    return SP_OK;
}

static sp_err method_of_list(jrun *r, sp_jval *out, const jnode *n, sp_jval *s, jargs *a)
{
    const sp_jval *v = sp_jinja_arg(a, 0, "");
    int64_t count = 0;
    *out = (sp_jval){.kind = SP_J_NONE};
    if (n->id == M_POP)
        return pop(r, out, n, s, v, NULL);
    if (!v || s->u.list->form == SP_J_TUPLE)
        return SP_JINJA_TYPE(r, n, "a method of a list takes a value");
    if (n->id == M_APPEND)
        return sp_jinja_push(r, s, *v);
    if (n->id == M_EXTEND) {
        sp_jval more;
        SP_TRY(sp_jinja_iter(r, &more, n, v));
        for (size_t i = 0, end = more.u.list->n; i < end; i++)
            SP_TRY(sp_jinja_push(r, s, more.u.list->item[i]));
        return SP_OK;
    }
    for (size_t i = 0; i < s->u.list->n; i++) {
        bool same;
        SP_TRY(sp_jinja_equal(r, &same, v, &s->u.list->item[i]));
        if (same && n->id == M_INDEX) {
            *out = sp_jinja_int((int64_t)i);
            return SP_OK;
        }
        count += same;
    }
    *out = sp_jinja_int(count);
    return n->id == M_INDEX ? SP_JINJA_TYPE(r, n, "index() of what is not there") : SP_OK;
}

static bool begins(const sp_jval *s, const sp_jval *with, bool at_end)
{
    size_t n = with->u.s.n, at = at_end && s->u.s.n >= n ? s->u.s.n - n : 0;
    return s->u.s.n >= n && memcmp(s->u.s.p + at, with->u.s.p, n) == 0;
}

/* startswith() and endswith() take a string or a tuple of them. */
static sp_err begins_any(jrun *r, sp_jval *out, const jnode *n, const sp_jval *s, const sp_jval *v)
{
    bool yes = false, end = n->id == M_ENDSWITH, list = v && v->kind == SP_J_LIST;
    for (size_t i = 0; list && i < v->u.list->n; i++) {
        const sp_jval *one = &v->u.list->item[i];
        SP_TRY(sp_jinja_spend(r, 1));
        if (one->kind != SP_J_STR)
            return SP_JINJA_TYPE(r, n, "startswith() and endswith() take strings");
        yes = yes || begins(s, one, end);
    }
    if (!list && (!v || v->kind != SP_J_STR))
        return SP_JINJA_TYPE(r, n, "startswith() and endswith() take strings");
    *out = sp_jinja_bool(list ? yes : begins(s, v, end));
    return SP_OK;
}

static sp_err search(jrun *r, sp_jval *out, const jnode *n, const sp_jval *s, const sp_jval *v)
{
    const char *p = s->u.s.p, *end = p + s->u.s.n, *hit;
    int64_t count = 0;
    SP_TRY(sp_jinja_spend_bytes(r, s->u.s.n));
    if (n->id != M_COUNT) {
        hit = memmem(p, s->u.s.n, v->u.s.p, v->u.s.n);
        sp_jval before = sp_jinja_part(s, 0, hit ? (size_t)(hit - p) : 0);
        *out = sp_jinja_int(hit ? (int64_t)sp_jinja_chars(&before) : -1);
        return !hit && n->id == M_INDEX ? SP_JINJA_TYPE(r, n, "index() of what is not there")
                                        : SP_OK;
    }
    if (!v->u.s.n)
        count = (int64_t)sp_jinja_chars(s) + 1;
    while (v->u.s.n && (hit = memmem(p, (size_t)(end - p), v->u.s.p, v->u.s.n))) {
        count++;
        p = hit + v->u.s.n;
    }
    *out = sp_jinja_int(count);
    return SP_OK;
}

static sp_err join_strings(jrun *r, sp_jval *out, const jnode *n, const sp_jval *s,
                           const sp_jval *list)
{
    jtext t = {0};
    sp_jval items;
    sp_err err = SP_OK;
    SP_TRY(sp_jinja_iter(r, &items, n, list));
    for (size_t i = 0; i < items.u.list->n && err == SP_OK; i++) {
        if (i)
            err = sp_jinja_put_str(r, &t, s);
        if (err == SP_OK && items.u.list->item[i].kind != SP_J_STR)
            err = SP_JINJA_TYPE(r, n, "join() of a list that holds more than strings");
        if (err == SP_OK)
            err = sp_jinja_put_str(r, &t, &items.u.list->item[i]);
    }
    return sp_jinja_keep(r, out, &t, err);
}

static sp_err is_digit(jrun *r, sp_jval *out, const sp_jval *s)
{
    bool yes = s->u.s.n > 0;
    SP_TRY(sp_jinja_spend_bytes(r, s->u.s.n));
    for (size_t i = 0; i < s->u.s.n; i++)
        yes = yes && isdigit((unsigned char)s->u.s.p[i]);
    *out = sp_jinja_bool(yes);
    return SP_OK;
}

static sp_err method_of_string(jrun *r, sp_jval *out, const jnode *n, sp_jval *s, jargs *a)
{
    if (n->id == M_FORMAT)
        return sp_jinja_format(r, out, n, s, a);
    const sp_jval *v = sp_jinja_arg(a, 0, n->id == M_SPLIT || n->id == M_RSPLIT ? "sep" : ""),
                  *w = NULL;
    if (v)
        SP_TRY(sp_jinja_spend_bytes(r, v->kind == SP_J_STR ? v->u.s.n : 0));
    switch (n->id) {
    case M_STARTSWITH: case M_ENDSWITH: return begins_any(r, out, n, s, v);
    case M_UPPER: return sp_jinja_recase(r, out, s, 'u');
    case M_LOWER: return sp_jinja_recase(r, out, s, 'l');
    case M_TITLE: return sp_jinja_recase(r, out, s, 't');
    case M_CAPITALIZE: return sp_jinja_recase(r, out, s, 'c');
    case M_SPLITLINES: return sp_jinja_lines(r, out, s);
    case M_ISDIGIT: return is_digit(r, out, s);
    case M_JOIN:
        return v ? join_strings(r, out, n, s, v) : SP_JINJA_TYPE(r, n, "join() takes a list");
    default: break;
    }
    bool may_lack = n->id == M_STRIP || n->id == M_LSTRIP || n->id == M_RSTRIP ||
                    n->id == M_SPLIT || n->id == M_RSPLIT;
    if (v && v->kind == SP_J_NONE && may_lack)
        v = NULL;
    if (v ? v->kind != SP_J_STR : !may_lack)
        return SP_JINJA_TYPE(r, n, "a string method with an argument that is not a string");
    if (may_lack && n->id <= M_RSTRIP)
        return sp_jinja_strip(r, out, s, v, n->id != M_RSTRIP, n->id != M_LSTRIP);
    if (may_lack) {
        w = sp_jinja_arg(a, 1, "maxsplit");
        if ((v && !v->u.s.n) || (w && w->kind != SP_J_INT))
            return SP_JINJA_TYPE(r, n, "split() takes a string that is not empty, and a number");
        return sp_jinja_split(r, out, s, v, w && w->u.i >= 0 ? w->u.i : NO_LIMIT,
                              n->id == M_RSPLIT);
    }
    switch (n->id) {
    case M_REPLACE: {
        const sp_jval *most = sp_jinja_arg(a, 2, "count");
        w = sp_jinja_arg(a, 1, "");
        if (!w || w->kind != SP_J_STR || (most && most->kind != SP_J_INT))
            return SP_JINJA_TYPE(r, n, "replace() takes two strings, and a number");
        return sp_jinja_replace(r, out, s, v, w, most && most->u.i >= 0 ? most->u.i : NO_LIMIT);
    }
    case M_REMOVEPREFIX: case M_REMOVESUFFIX: {
        bool end = n->id == M_REMOVESUFFIX, hit = begins(s, v, end);
        *out = hit ? sp_jinja_part(s, end ? 0 : v->u.s.n, s->u.s.n - (end ? v->u.s.n : 0)) : *s;
        return SP_OK;
    }
    default: return search(r, out, n, s, v);
    }
}

sp_err sp_jinja_method(jrun *r, sp_jval *out, const jnode *n)
{
    sp_jval s;
    jargs a;
    SP_TRY(sp_jinja_eval(r, &s, n->a));
    if (s.kind == SP_J_UNDEF)
        return SP_FAIL(r->d, SP_FORMAT, "chat template, line %u: method %.*s of an undefined value",
                       n->line, (int)(n->name.n < 40 ? n->name.n : 40), n->name.p);
    if (n->id < 0 || !sp_jinja_has_method(&s, n->name))
        return SP_FAIL(r->d, SP_UNSUP,
                       "chat template, line %u: method %.*s of this value is not supported",
                       n->line, (int)(n->name.n < 40 ? n->name.n : 40), n->name.p);
    SP_TRY(sp_jinja_args(r, &a, n));
    SP_TRY(s.kind == SP_J_MAP    ? method_of_map(r, out, n, &s, &a)
           : s.kind == SP_J_LIST ? method_of_list(r, out, n, &s, &a)
                                 : method_of_string(r, out, n, &s, &a));
    return sp_jinja_args_done(r, &a, n, sp_jinja_methods[n->id]);
}
