/* Values of a template's run: building, truth, order, equality; the run's budgets. */
#include "text/jinja_run.h"

enum { STEP_BYTES = 64, MAX_EVAL = 512 };

static const char from_outside;
const char *const sp_jinja_from = &from_outside;

sp_jval sp_jinja_str(const char *p, size_t n)
{
    return (sp_jval){.kind = SP_J_STR, .u.s = {p, n}};
}

sp_jval sp_jinja_foreign(const char *p, size_t n)
{
    return (sp_jval){.kind = SP_J_STR, .u.s = {p, n}, .mark = sp_jinja_from};
}

sp_jval sp_jinja_bool(bool b)
{
    return (sp_jval){.kind = SP_J_BOOL, .u.b = b};
}

sp_jval sp_jinja_int(int64_t i)
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

/* Keys are strings and whole numbers. */
static bool same_key(const sp_jval *a, const sp_jval *b)
{
    if (a->kind == SP_J_STR && b->kind == SP_J_STR)
        return a->u.s.n == b->u.s.n && memcmp(a->u.s.p, b->u.s.p, a->u.s.n) == 0;
    bool whole = (a->kind == SP_J_INT || a->kind == SP_J_BOOL) &&
                 (b->kind == SP_J_INT || b->kind == SP_J_BOOL);
    return whole ? sp_jinja_whole(a) == sp_jinja_whole(b)
                 : a->kind == SP_J_NONE && b->kind == SP_J_NONE;
}

static sp_jval *map_at(const sp_jval *m, const sp_jval *key)
{
    for (size_t i = 0; i < m->u.list->n; i += 2)
        if (same_key(&m->u.list->item[i], key))
            return &m->u.list->item[i + 1];
    return NULL;
}

sp_err sp_jinja_map_put(sp_jval *m, sp_arena *a, sp_jval key, sp_jval v)
{
    sp_jval *have = map_at(m, &key);
    if (have) {
        *have = v;
        return SP_OK;
    }
    SP_TRY(sp_jinja_list_add(m, a, key));
    return sp_jinja_list_add(m, a, v);
}

sp_err sp_jinja_map_set(sp_jval *map, sp_arena *a, const char *key, sp_jval v)
{
    return sp_jinja_map_put(map, a, sp_jinja_str(key, strlen(key)), v);
}

const sp_jval *sp_jinja_map_get(const sp_jval *map, const char *key)
{
    sp_jval k = sp_jinja_str(key, strlen(key));
    return map->kind == SP_J_MAP ? map_at(map, &k) : NULL;
}

bool sp_jinja_truthy(const sp_jval *v)
{
    switch (v->kind) {
    case SP_J_BOOL: return v->u.b;
    case SP_J_INT: return v->u.i != 0;
    case SP_J_FLOAT: return v->u.f != 0;
    case SP_J_STR: return v->u.s.n != 0;
    case SP_J_LIST: return v->u.list->n != 0;
    case SP_J_MAP:
        return v->u.list->n != 0 || v->u.list->form == SP_J_NAMESPACE ||
               v->u.list->form == SP_J_LOOP;
    case SP_J_FUNC: return true;
    default: return false;
    }
}

bool sp_jinja_is_number(const sp_jval *v)
{
    return v->kind == SP_J_INT || v->kind == SP_J_FLOAT || v->kind == SP_J_BOOL;
}

double sp_jinja_float(const sp_jval *v)
{
    return v->kind == SP_J_FLOAT ? v->u.f : v->kind == SP_J_BOOL ? (double)v->u.b : (double)v->u.i;
}

int64_t sp_jinja_whole(const sp_jval *v)
{
    return v->kind == SP_J_BOOL ? v->u.b : v->u.i;
}

sp_err sp_jinja_full(jrun *r)
{
    return SP_FAIL(r->d, SP_LIMIT, "chat template: out of memory");
}

sp_err sp_jinja_spend(jrun *r, size_t n)
{
    if (n > SP_JINJA_STEPS - r->steps)
        return SP_FAIL(r->d, SP_LIMIT, "chat template: more than %d steps", SP_JINJA_STEPS);
    r->steps += n;
    return SP_OK;
}

sp_err sp_jinja_spend_bytes(jrun *r, size_t n)
{
    return sp_jinja_spend(r, n / STEP_BYTES);
}

/* Long chains such as a + b + c or a.b.c nest to the left. */
sp_err sp_jinja_enter(jrun *r, const jnode *n)
{
    if (++r->depth > MAX_EVAL)
        return SP_FAIL(r->d, SP_LIMIT, "chat template, line %u: nested deeper than %d", n->line,
                       MAX_EVAL);
    return sp_jinja_spend(r, 1);
}

sp_err sp_jinja_make(jrun *r, sp_jval *out, sp_jkind kind)
{
    return container(out, r->a, kind) == SP_OK ? SP_OK : sp_jinja_full(r);
}

sp_err sp_jinja_push(jrun *r, sp_jval *list, sp_jval v)
{
    SP_TRY(sp_jinja_spend(r, 1));
    return sp_jinja_list_add(list, r->a, v) == SP_OK ? SP_OK : sp_jinja_full(r);
}

sp_err sp_jinja_find(jrun *r, const sp_jval **out, const sp_jval *map, const sp_jval *key)
{
    SP_TRY(sp_jinja_spend(r, map->u.list->n / 16));
    *out = map_at(map, key);
    return SP_OK;
}

static sp_err equal(jrun *r, bool *out, const sp_jval *a, const sp_jval *b, size_t depth);

static sp_err equal_items(jrun *r, bool *out, const sp_jval *a, const sp_jval *b, size_t depth)
{
    bool map = a->kind == SP_J_MAP;
    *out = a->u.list->n == b->u.list->n;
    if (depth > SP_JINJA_DEPTH)
        return SP_FAIL(r->d, SP_LIMIT, "chat template: a value is nested deeper than %d",
                       SP_JINJA_DEPTH);
    for (size_t i = map; i < a->u.list->n && *out; i += 1 + map) {
        const sp_jval *other = &b->u.list->item[i];
        if (map) {
            SP_TRY(sp_jinja_spend(r, b->u.list->n / 2));
            other = map_at(b, &a->u.list->item[i - 1]);
        }
        *out = other != NULL;
        if (other)
            SP_TRY(equal(r, out, &a->u.list->item[i], other, depth + 1));
    }
    return SP_OK;
}

static sp_err equal(jrun *r, bool *out, const sp_jval *a, const sp_jval *b, size_t depth)
{
    SP_TRY(sp_jinja_spend(r, 1));
    if (sp_jinja_is_number(a) && sp_jinja_is_number(b)) {
        bool whole = a->kind != SP_J_FLOAT && b->kind != SP_J_FLOAT;
        *out =
            whole ? sp_jinja_whole(a) == sp_jinja_whole(b) : sp_jinja_float(a) == sp_jinja_float(b);
        return SP_OK;
    }
    *out = a->kind == b->kind; /* none and undefined have no more to compare */
    if (*out && a->kind == SP_J_FUNC)
        *out = a->u.macro == b->u.macro;
    if (!*out || (a->kind != SP_J_STR && a->kind != SP_J_LIST && a->kind != SP_J_MAP))
        return SP_OK;
    if (a->kind != SP_J_STR)
        return equal_items(r, out, a, b, depth);
    SP_TRY(sp_jinja_spend_bytes(r, a->u.s.n == b->u.s.n ? a->u.s.n : 0));
    *out = same_key(a, b);
    return SP_OK;
}

sp_err sp_jinja_equal(jrun *r, bool *out, const sp_jval *a, const sp_jval *b)
{
    return equal(r, out, a, b, 0);
}

sp_err sp_jinja_compare(jrun *r, const jnode *n, int *out, const sp_jval *a, const sp_jval *b)
{
    if (sp_jinja_is_number(a) && sp_jinja_is_number(b)) {
        double x = sp_jinja_float(a), y = sp_jinja_float(b);
        *out = (x > y) - (x < y);
        return SP_OK;
    }
    if (a->kind != SP_J_STR || b->kind != SP_J_STR)
        return SP_JINJA_TYPE(r, n, "these values cannot be ordered");
    size_t len = a->u.s.n < b->u.s.n ? a->u.s.n : b->u.s.n;
    SP_TRY(sp_jinja_spend_bytes(r, len));
    /* the order of UTF-8 is that of code points */
    int c = len ? memcmp(a->u.s.p, b->u.s.p, len) : 0;
    *out = c ? c : (a->u.s.n > b->u.s.n) - (a->u.s.n < b->u.s.n);
    return SP_OK;
}
