/* Running a compiled template: expressions, statements, scopes. A name is looked up from the
 * innermost scope outwards, then among the variables of the run. Assignments in a loop, a macro or
 * a captured block end with it. */
#include "text/jinja_run.h"

#include <math.h>

/* --- names ------------------------------------------------------------------------------------ */

static bool same(sp_str a, sp_str b)
{
    return a.n == b.n && memcmp(a.p, b.p, a.n) == 0;
}

sp_err sp_jinja_name(jrun *r, sp_jval *out, sp_str name)
{
    size_t seen = 0;
    for (const jscope *s = r->scope; s; s = s->up)
        for (const jvar *v = s->vars; v; v = v->next, seen++)
            if (same(v->name, name)) {
                *out = v->v;
                return sp_jinja_spend(r, seen / 16);
            }
    const sp_jval *v, key = sp_jinja_str(name.p, name.n);
    SP_TRY(sp_jinja_spend(r, seen / 16));
    SP_TRY(sp_jinja_find(r, &v, r->globals, &key));
    *out = v ? *v
             : (sp_jval){.kind = sp_jinja_lookup(JT_FUNCTION, name) >= 0 ? SP_J_FUNC : SP_J_UNDEF};
    return SP_OK;
}

sp_err sp_jinja_bind(jrun *r, sp_str name, sp_jval v)
{
    size_t seen = 0;
    for (jvar *i = r->scope->vars; i; i = i->next, seen++)
        if (same(i->name, name)) {
            i->v = v;
            return sp_jinja_spend(r, seen / 16);
        }
    jvar *n = r->spare;
    if (n)
        r->spare = n->next;
    else if (!(n = sp_arena_alloc(r->a, sizeof *n)))
        return sp_jinja_full(r);
    *n = (jvar){.next = r->scope->vars, .name = name, .v = v};
    r->scope->vars = n;
    return sp_jinja_spend(r, seen / 16);
}

sp_err sp_jinja_scope_in(jrun *r, jscope *up)
{
    jscope *s = sp_arena_alloc(r->a, sizeof *s);
    if (!s)
        return sp_jinja_full(r);
    s->up = up;
    r->scope = s;
    return SP_OK;
}

void sp_jinja_scope_clear(jrun *r)
{
    while (r->scope->vars) {
        jvar *v = r->scope->vars;
        r->scope->vars = v->next;
        v->next = r->spare;
        r->spare = v;
    }
}

/* --- operators -------------------------------------------------------------------------------- */

static sp_err contains(jrun *r, const jnode *n, bool *out, const sp_jval *x, const sp_jval *in)
{
    const sp_jval *hit;
    *out = false;
    if (in->kind == SP_J_STR && x->kind == SP_J_STR) {
        SP_TRY(sp_jinja_spend_bytes(r, in->u.s.n));
        *out = memmem(in->u.s.p, in->u.s.n, x->u.s.p, x->u.s.n) != NULL;
        return SP_OK;
    }
    if (in->kind == SP_J_UNDEF)
        return SP_OK;
    if (in->kind == SP_J_MAP) {
        SP_TRY(sp_jinja_find(r, &hit, in, x));
        *out = hit != NULL;
        return SP_OK;
    }
    if (in->kind != SP_J_LIST)
        return SP_JINJA_TYPE(r, n, "'in' needs a string, list or map on its right");
    for (size_t i = 0; i < in->u.list->n && !*out; i++)
        SP_TRY(sp_jinja_equal(r, out, x, &in->u.list->item[i]));
    return SP_OK;
}

static sp_err arithmetic(jrun *r, sp_jval *out, const jnode *n, const sp_jval *a, const sp_jval *b)
{
    if (!sp_jinja_is_number(a) || !sp_jinja_is_number(b))
        return SP_JINJA_TYPE(r, n, "arithmetic on a value that is not a number");
    if (n->op == JO_DIV || a->kind == SP_J_FLOAT || b->kind == SP_J_FLOAT) {
        double x = sp_jinja_float(a), y = sp_jinja_float(b), z;
        if (y == 0 && (n->op == JO_DIV || n->op == JO_IDIV || n->op == JO_MOD))
            return SP_JINJA_TYPE(r, n, "division by zero");
        z = n->op == JO_ADD    ? x + y
            : n->op == JO_SUB  ? x - y
            : n->op == JO_MUL  ? x * y
            : n->op == JO_DIV  ? x / y
            : n->op == JO_IDIV ? floor(x / y)
                               : x - floor(x / y) * y;
        *out = (sp_jval){.kind = SP_J_FLOAT, .u.f = z};
        return SP_OK;
    }
    int64_t x = sp_jinja_whole(a), y = sp_jinja_whole(b), z = 0;
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
    *out = sp_jinja_int(z);
    return bad ? SP_JINJA_TYPE(r, n, "integer overflow or division by zero") : SP_OK;
}

static sp_err concat(jrun *r, sp_jval *out, const sp_jval *a, const sp_jval *b)
{
    jtext t = {0};
    sp_err err = sp_jinja_put_value(r, &t, a);
    if (err == SP_OK)
        err = sp_jinja_put_value(r, &t, b);
    return sp_jinja_keep(r, out, &t, err);
}

/* `+` of strings: where one went through the filter `safe`, the other is escaped. */
static sp_err add_strings(jrun *r, sp_jval *out, sp_jval a, sp_jval b)
{
    bool safe = a.is_safe || b.is_safe;
    if (safe && !a.is_safe)
        SP_TRY(sp_jinja_escape(r, &a, &a));
    if (safe && !b.is_safe)
        SP_TRY(sp_jinja_escape(r, &b, &b));
    SP_TRY(concat(r, out, &a, &b));
    out->is_safe = safe;
    return SP_OK;
}

static sp_err repeat(jrun *r, sp_jval *out, const sp_jval *v, int64_t times)
{
    jtext t = {0};
    sp_err err = SP_OK;
    if (v->kind == SP_J_LIST)
        SP_TRY(sp_jinja_make(r, out, SP_J_LIST));
    for (int64_t i = 0; i < times && err == SP_OK; i++) {
        err = sp_jinja_spend(r, 1);
        if (err == SP_OK && v->kind == SP_J_STR)
            err = sp_jinja_put_str(r, &t, v);
        for (size_t k = 0; v->kind == SP_J_LIST && k < v->u.list->n && err == SP_OK; k++)
            err = sp_jinja_push(r, out, v->u.list->item[k]);
    }
    return v->kind == SP_J_STR ? sp_jinja_keep(r, out, &t, err) : err;
}

static sp_err add_lists(jrun *r, sp_jval *out, const sp_jval *a, const sp_jval *b)
{
    SP_TRY(sp_jinja_make(r, out, SP_J_LIST));
    for (size_t i = 0, n = a->u.list->n, end = n + b->u.list->n; i < end; i++)
        SP_TRY(sp_jinja_push(r, out, i < n ? a->u.list->item[i] : b->u.list->item[i - n]));
    return SP_OK;
}

static sp_err binary(jrun *r, sp_jval *out, const jnode *n)
{
    sp_jval a, b;
    SP_TRY(sp_jinja_eval(r, &a, n->a));
    SP_TRY(sp_jinja_eval(r, &b, n->b));
    int c = 0;
    bool yes = false;
    switch (n->op) {
    case JO_EQ: case JO_NE:
        SP_TRY(sp_jinja_equal(r, &yes, &a, &b));
        *out = sp_jinja_bool(yes == (n->op == JO_EQ));
        return SP_OK;
    case JO_IN: case JO_NOT_IN:
        SP_TRY(contains(r, n, &yes, &a, &b));
        *out = sp_jinja_bool(yes == (n->op == JO_IN));
        return SP_OK;
    case JO_LT: case JO_LE: case JO_GT: case JO_GE:
        SP_TRY(sp_jinja_compare(r, n, &c, &a, &b));
        *out = sp_jinja_bool(n->op == JO_LT   ? c < 0
                             : n->op == JO_LE ? c <= 0
                             : n->op == JO_GT ? c > 0
                                              : c >= 0);
        return SP_OK;
    case JO_CAT:
        return concat(r, out, &a, &b);
    default:
        break;
    }
    if (n->op == JO_ADD && a.kind == SP_J_STR && b.kind == SP_J_STR)
        return add_strings(r, out, a, b);
    if (n->op == JO_ADD && a.kind == SP_J_LIST && b.kind == SP_J_LIST)
        return add_lists(r, out, &a, &b);
    bool text_a = a.kind == SP_J_STR || a.kind == SP_J_LIST,
         text_b = b.kind == SP_J_STR || b.kind == SP_J_LIST;
    if (n->op == JO_MUL && text_a && b.kind == SP_J_INT)
        return repeat(r, out, &a, b.u.i);
    if (n->op == JO_MUL && text_b && a.kind == SP_J_INT)
        return repeat(r, out, &b, a.u.i);
    return arithmetic(r, out, n, &a, &b);
}

/* --- access ----------------------------------------------------------------------------------- */

sp_err sp_jinja_item(jrun *r, sp_jval *out, const jnode *n, const sp_jval *a, const sp_jval *key)
{
    *out = (sp_jval){.kind = SP_J_UNDEF};
    if (a->kind == SP_J_UNDEF)
        return SP_JINJA_TYPE(r, n, "looking into an undefined value");
    if (a->kind == SP_J_STR)
        SP_TRY(sp_jinja_spend_bytes(r, a->u.s.n)); /* its characters are counted */
    if (a->kind == SP_J_MAP) {
        const sp_jval *v;
        SP_TRY(sp_jinja_find(r, &v, a, key));
        if (v) {
            *out = *v;
            return SP_OK;
        }
    }
    if (key->kind == SP_J_STR && sp_jinja_has_method(a, (sp_str){key->u.s.p, key->u.s.n}))
        *out = (sp_jval){.kind = SP_J_FUNC};
    if ((a->kind != SP_J_LIST && a->kind != SP_J_STR) || key->kind != SP_J_INT)
        return SP_OK; /* as jinja2: undefined */
    int64_t len = (int64_t)(a->kind == SP_J_LIST ? a->u.list->n : sp_jinja_chars(a)), i = key->u.i;
    i = i < 0 ? i + len : i;
    if (i < 0 || i >= len)
        return SP_OK;
    if (a->kind == SP_J_LIST) {
        *out = a->u.list->item[i];
    } else {
        size_t at = sp_jinja_char_at(a, (size_t)i);
        *out = sp_jinja_part(a, at, at + sp_jinja_char_len(a, at));
    }
    return SP_OK;
}

/* a.name: a method comes before an item of that name, as in jinja2. */
sp_err sp_jinja_attr(jrun *r, sp_jval *out, const jnode *n, const sp_jval *a, sp_str name)
{
    const sp_jval key = sp_jinja_str(name.p, name.n);
    if (sp_jinja_has_method(a, name)) {
        *out = (sp_jval){.kind = SP_J_FUNC};
        return SP_OK;
    }
    return sp_jinja_item(r, out, n, a, &key);
}

static sp_err slice(jrun *r, sp_jval *out, const jnode *n)
{
    sp_jval a, part[3] = {{.kind = SP_J_NONE}, {.kind = SP_J_NONE}, {.kind = SP_J_NONE}};
    const jnode *const expr[3] = {n->b, n->c, n->d};
    SP_TRY(sp_jinja_eval(r, &a, n->a));
    for (int i = 0; i < 3; i++) {
        if (expr[i])
            SP_TRY(sp_jinja_eval(r, &part[i], expr[i]));
        if (part[i].kind != SP_J_NONE && part[i].kind != SP_J_INT)
            return SP_JINJA_TYPE(r, n, "slice bounds must be integers");
    }
    return sp_jinja_slice(r, out, n, &a, part);
}

/* --- expressions ------------------------------------------------------------------------------ */

static sp_err literal_items(jrun *r, sp_jval *out, const jnode *n)
{
    SP_TRY(sp_jinja_make(r, out, n->kind == J_MAP ? SP_J_MAP : SP_J_LIST));
    if (n->op == JO_TUPLE)
        out->u.list->form = SP_J_TUPLE;
    for (const jnode *i = n->args; i; i = i->next) {
        sp_jval k, v;
        SP_TRY(sp_jinja_eval(r, &k, i));
        if (n->kind == J_LIST) {
            SP_TRY(sp_jinja_push(r, out, k));
            continue;
        }
        i = i->next;
        if (k.kind != SP_J_STR && k.kind != SP_J_INT && k.kind != SP_J_BOOL && k.kind != SP_J_NONE)
            return SP_JINJA_TYPE(r, n, "keys of a map must be strings or integers");
        SP_TRY(sp_jinja_spend(r, out->u.list->n / 16));
        SP_TRY(sp_jinja_eval(r, &v, i));
        if (sp_jinja_map_put(out, r->a, k, v) != SP_OK)
            return sp_jinja_full(r);
    }
    return SP_OK;
}

static sp_err negative(jrun *r, sp_jval *out, const jnode *n)
{
    sp_jval a;
    SP_TRY(sp_jinja_eval(r, &a, n->a));
    if (a.kind == SP_J_FLOAT)
        *out = (sp_jval){.kind = SP_J_FLOAT, .u.f = -a.u.f};
    else if (a.kind == SP_J_BOOL || (a.kind == SP_J_INT && a.u.i != INT64_MIN))
        *out = sp_jinja_int(-sp_jinja_whole(&a));
    else
        return SP_JINJA_TYPE(r, n, "minus of a value that is not a number");
    return SP_OK;
}

static sp_err filtered(jrun *r, sp_jval *out, const jnode *n)
{
    sp_jval v;
    jargs a;
    SP_TRY(sp_jinja_eval(r, &v, n->a));
    SP_TRY(sp_jinja_args(r, &a, n));
    SP_TRY(sp_jinja_filter(r, out, n, n->id, &v, &a));
    return sp_jinja_args_done(r, &a, n, sp_jinja_filters[n->id]);
}

static sp_err tested(jrun *r, sp_jval *out, const jnode *n)
{
    sp_jval v;
    jargs a;
    bool yes;
    SP_TRY(sp_jinja_eval(r, &v, n->a));
    SP_TRY(sp_jinja_args(r, &a, n));
    SP_TRY(sp_jinja_test(r, &yes, n, n->id, &v, &a));
    *out = sp_jinja_bool(yes != (n->op == JO_NOT_IN));
    return SP_OK;
}

static sp_err eval_node(jrun *r, sp_jval *out, const jnode *n)
{
    sp_jval a, b;
    switch (n->kind) {
    case J_LIT: *out = n->lit; return SP_OK;
    case J_NAME: return sp_jinja_name(r, out, n->name);
    case J_LIST: case J_MAP: return literal_items(r, out, n);
    case J_INDEX:
        SP_TRY(sp_jinja_eval(r, &a, n->a));
        SP_TRY(sp_jinja_eval(r, &b, n->b));
        return sp_jinja_item(r, out, n, &a, &b);
    case J_ATTR:
        SP_TRY(sp_jinja_eval(r, &a, n->a));
        return sp_jinja_attr(r, out, n, &a, n->name);
    case J_SLICE: return slice(r, out, n);
    case J_CALL: return sp_jinja_call(r, out, n);
    case J_METHOD: return sp_jinja_method(r, out, n);
    case J_FILTER: return filtered(r, out, n);
    case J_TEST: return tested(r, out, n);
    case J_NOT:
        SP_TRY(sp_jinja_eval(r, &a, n->a));
        *out = sp_jinja_bool(!sp_jinja_truthy(&a));
        return SP_OK;
    case J_NEG: return negative(r, out, n);
    case J_AND: case J_OR:
        SP_TRY(sp_jinja_eval(r, &a, n->a));
        if (sp_jinja_truthy(&a) == (n->kind == J_OR)) {
            *out = a;
            return SP_OK;
        }
        return sp_jinja_eval(r, out, n->b);
    case J_COND:
        SP_TRY(sp_jinja_eval(r, &a, n->b));
        if (sp_jinja_truthy(&a))
            return sp_jinja_eval(r, out, n->a);
        *out = (sp_jval){.kind = SP_J_UNDEF};
        return n->c ? sp_jinja_eval(r, out, n->c) : SP_OK;
    case J_CAPTURE: {
        jscope *outer = r->scope;
        SP_TRY(sp_jinja_scope_in(r, outer));
        SP_TRY(sp_jinja_capture(r, out, n->body));
        sp_jinja_scope_clear(r);
        r->scope = outer;
        return SP_OK;
    }
    default: return binary(r, out, n);
    }
}

sp_err sp_jinja_eval(jrun *r, sp_jval *out, const jnode *n)
{
    SP_TRY(sp_jinja_enter(r, n));
    sp_err err = eval_node(r, out, n);
    r->depth--;
    return err;
}

/* --- statements ------------------------------------------------------------------------------- */

static sp_err exec(jrun *r, const jnode *n);

sp_err sp_jinja_capture(jrun *r, sp_jval *out, const jnode *body)
{
    jtext t = {0}, *outer = r->out;
    r->out = &t;
    sp_err err = exec(r, body);
    r->out = outer;
    return sp_jinja_keep(r, out, &t, err);
}

static sp_err bind_target(jrun *r, const jnode *n, const sp_jval *item)
{
    sp_jval pair;
    if (!n->name2.n)
        return sp_jinja_bind(r, n->name, *item);
    SP_TRY(sp_jinja_iter(r, &pair, n, item));
    if (pair.u.list->n != 2)
        return SP_JINJA_TYPE(r, n, "for with two names needs pairs");
    SP_TRY(sp_jinja_bind(r, n->name, pair.u.list->item[0]));
    return sp_jinja_bind(r, n->name2, pair.u.list->item[1]);
}

/* The variable `loop`, one map for all its rounds. */
static sp_err set_loop(jrun *r, sp_jval *loop, const sp_jlist *items, size_t i)
{
    sp_jval undef = {.kind = SP_J_UNDEF};
    int64_t at = (int64_t)i, n = (int64_t)items->n;
    const struct { const char *key; sp_jval v; } vars[] = {
        {"index", sp_jinja_int(at + 1)},   {"index0", sp_jinja_int(at)},
        {"revindex", sp_jinja_int(n - at)}, {"revindex0", sp_jinja_int(n - at - 1)},
        {"first", sp_jinja_bool(i == 0)},  {"last", sp_jinja_bool(at == n - 1)},
        {"length", sp_jinja_int(n)},       {"previtem", i ? items->item[i - 1] : undef},
        {"nextitem", at < n - 1 ? items->item[i + 1] : undef}, {"depth", sp_jinja_int(1)},
        {"depth0", sp_jinja_int(0)}};
    for (size_t k = 0; k < sizeof vars / sizeof vars[0]; k++)
        if (loop->u.list->n > 2 * k)
            loop->u.list->item[2 * k + 1] = vars[k].v;
        else if (sp_jinja_map_set(loop, r->a, vars[k].key, vars[k].v) != SP_OK)
            return sp_jinja_full(r);
    return SP_OK;
}

/* The filter decides first: loop.index counts what is left. */
static sp_err pick_items(jrun *r, sp_jval *items, const jnode *n)
{
    sp_jval picked, yes;
    if (!n->b)
        return SP_OK;
    SP_TRY(sp_jinja_make(r, &picked, SP_J_LIST));
    for (size_t i = 0; i < items->u.list->n; i++) {
        SP_TRY(bind_target(r, n, &items->u.list->item[i]));
        SP_TRY(sp_jinja_eval(r, &yes, n->b));
        sp_jinja_scope_clear(r);
        if (sp_jinja_truthy(&yes))
            SP_TRY(sp_jinja_push(r, &picked, items->u.list->item[i]));
    }
    *items = picked;
    return SP_OK;
}

static sp_err exec_for(jrun *r, const jnode *n)
{
    sp_jval v, items, loop;
    jscope *outer = r->scope;
    SP_TRY(sp_jinja_eval(r, &v, n->a));
    SP_TRY(sp_jinja_iter(r, &items, n, &v));
    SP_TRY(sp_jinja_scope_in(r, outer));
    SP_TRY(pick_items(r, &items, n));
    SP_TRY(sp_jinja_make(r, &loop, SP_J_MAP));
    loop.u.list->form = SP_J_LOOP;
    bool any = items.u.list->n > 0;
    for (size_t i = 0; i < items.u.list->n && r->flow != JF_BREAK; i++) {
        sp_jval item = items.u.list->item[i];
        r->flow = JF_ON;
        SP_TRY(sp_jinja_spend(r, 1));
        SP_TRY(bind_target(r, n, &item));
        SP_TRY(set_loop(r, &loop, items.u.list, i));
        SP_TRY(sp_jinja_bind(r, (sp_str){"loop", 4}, loop));
        SP_TRY(exec(r, n->body));
        sp_jinja_scope_clear(r);
    }
    r->flow = JF_ON;
    r->scope = outer;
    return any ? SP_OK : exec(r, n->other);
}

static sp_err exec_set(jrun *r, const jnode *n)
{
    sp_jval v, ns;
    SP_TRY(sp_jinja_eval(r, &v, n->a));
    if (!n->name2.n)
        return sp_jinja_bind(r, n->name, v);
    SP_TRY(sp_jinja_name(r, &ns, n->name));
    if (ns.kind != SP_J_MAP || ns.u.list->form != SP_J_NAMESPACE)
        return SP_JINJA_TYPE(r, n, "only a namespace() can be assigned into");
    SP_TRY(sp_jinja_spend(r, ns.u.list->n / 16));
    return sp_jinja_map_put(&ns, r->a, sp_jinja_str(n->name2.p, n->name2.n), v) == SP_OK
               ? SP_OK
               : sp_jinja_full(r);
}

static sp_err exec_macro(jrun *r, const jnode *n)
{
    struct sp_jmacro *m = sp_arena_alloc(r->a, sizeof *m);
    if (!m)
        return sp_jinja_full(r);
    *m = (struct sp_jmacro){n, r->scope};
    return sp_jinja_bind(r, n->name, (sp_jval){.kind = SP_J_FUNC, .u.macro = m});
}

static sp_err exec_scope(jrun *r, const jnode *n)
{
    jscope *outer = r->scope;
    SP_TRY(sp_jinja_scope_in(r, outer));
    SP_TRY(exec(r, n->body));
    sp_jinja_scope_clear(r);
    r->scope = outer;
    return SP_OK;
}

static sp_err exec_one(jrun *r, const jnode *n)
{
    sp_jval v;
    switch (n->kind) {
    case J_TEXT: return sp_jinja_put_str(r, r->out, &n->lit);
    case J_PRINT:
        SP_TRY(sp_jinja_eval(r, &v, n->a));
        return sp_jinja_put_value(r, r->out, &v);
    case J_IF:
        SP_TRY(sp_jinja_eval(r, &v, n->a));
        return exec(r, sp_jinja_truthy(&v) ? n->body : n->other);
    case J_FOR: return exec_for(r, n);
    case J_MACRO: return exec_macro(r, n);
    case J_SCOPE: return exec_scope(r, n);
    case J_BREAK: case J_CONTINUE:
        r->flow = n->kind == J_BREAK ? JF_BREAK : JF_CONTINUE;
        return SP_OK;
    default: return exec_set(r, n);
    }
}

static sp_err exec(jrun *r, const jnode *n)
{
    for (; n && r->flow == JF_ON; n = n->next) {
        SP_TRY(sp_jinja_enter(r, n));
        SP_TRY(exec_one(r, n));
        r->depth--;
    }
    return SP_OK;
}

/* The stretches of t that are foreign. */
static sp_err foreign_ranges(sp_jranges *out, sp_arena *a, const jtext *t, sp_diag *d)
{
    size_t n = 0, len = t->b.len;
    const char *mark = t->is_mixed ? sp_buf_str(&t->mark) : NULL;
    bool all = !mark && t->from == sp_jinja_from && len;
    for (size_t i = 0; mark && i < len; i++)
        n += mark[i] && (i == 0 || !mark[i - 1]);
    sp_jrange *r = sp_arena_alloc(a, (n + all + 1) * sizeof *r);
    if (!r)
        return SP_FAIL(d, SP_LIMIT, "chat template: out of memory");
    *out = (sp_jranges){r, n + all};
    if (all)
        r[0] = (sp_jrange){0, len};
    for (size_t i = 0, k = 0; mark && i < len; i++) {
        if (mark[i] && (i == 0 || !mark[i - 1]))
            r[k++].at = i;
        if (mark[i])
            r[k - 1].end = i + 1;
    }
    return SP_OK;
}

sp_err sp_jinja_run(const sp_jinja *j, sp_buf *out, sp_jranges *foreign, sp_arena *a,
                    const sp_jval *vars, sp_diag *d)
{
    jtext t = {0};
    jscope root = {0};
    jrun r = {.out = &t, .a = a, .globals = vars, .scope = &root, .d = d};
    sp_err err = exec(&r, j->root);
    if (err == SP_OK && foreign)
        err = foreign_ranges(foreign, a, &t, d);
    if (err == SP_OK)
        sp_buf_put(out, sp_buf_str(&t.b), t.b.len);
    if (err == SP_OK && out->failed)
        err = SP_FAIL(d, SP_NOMEM, "chat template");
    sp_jinja_text_fini(&t);
    return err;
}
