/* Tests of templates: what stands after `is`, and what select and reject name. */
#include "text/jinja_run.h"

enum {
    S_DEFINED,
    S_UNDEFINED,
    S_NONE,
    S_STRING,
    S_NUMBER,
    S_INTEGER,
    S_FLOAT,
    S_BOOLEAN,
    S_MAPPING,
    S_ITERABLE,
    S_SEQUENCE,
    S_TRUE,
    S_FALSE,
    S_ODD,
    S_EVEN,
    S_DIVISIBLEBY,
    S_EQUALTO,
    S_EQ,
    S_NE,
    S_LT,
    S_LE,
    S_GT,
    S_GE,
    S_IN
};
const char *const sp_jinja_tests[] = {"defined",     "undefined", "none",    "string",  "number",
                                      "integer",     "float",     "boolean", "mapping", "iterable",
                                      "sequence",    "true",      "false",   "odd",     "even",
                                      "divisibleby", "equalto",   "eq",      "ne",      "lt",
                                      "le",          "gt",        "ge",      "in",      NULL};

static sp_err compared(jrun *r, bool *out, const jnode *n, int id, const sp_jval *v,
                       const sp_jval *x)
{
    int c = 0;
    if (!x)
        return SP_JINJA_TYPE(r, n, "this test takes one value");
    switch (id) {
    case S_EQUALTO: case S_EQ: return sp_jinja_equal(r, out, v, x);
    case S_NE:
        SP_TRY(sp_jinja_equal(r, out, v, x));
        *out = !*out;
        return SP_OK;
    case S_IN: {
        const jnode at = {.line = n->line};
        sp_jval items;
        *out = false;
        if (x->kind == SP_J_STR && v->kind == SP_J_STR) {
            SP_TRY(sp_jinja_spend_bytes(r, x->u.s.n));
            *out = memmem(x->u.s.p, x->u.s.n, v->u.s.p, v->u.s.n) != NULL;
            return SP_OK;
        }
        SP_TRY(sp_jinja_iter(r, &items, &at, x));
        for (size_t i = 0; i < items.u.list->n && !*out; i++)
            SP_TRY(sp_jinja_equal(r, out, v, &items.u.list->item[i]));
        return SP_OK;
    }
    case S_DIVISIBLEBY:
        if (x->kind != SP_J_INT || x->u.i == 0 || x->u.i == -1)
            return SP_JINJA_TYPE(r, n, "divisibleby takes an integer, not 0 or -1");
        *out = v->u.i % x->u.i == 0;
        return SP_OK;
    default:
        SP_TRY(sp_jinja_compare(r, n, &c, v, x));
        *out = id == S_LT ? c < 0 : id == S_LE ? c <= 0 : id == S_GT ? c > 0 : c >= 0;
        return SP_OK;
    }
}

sp_err sp_jinja_test(jrun *r, bool *out, const jnode *n, int id, const sp_jval *v, jargs *a)
{
    bool whole = v->kind == SP_J_INT,
         plain_map = v->kind == SP_J_MAP && v->u.list->form == SP_J_PLAIN;
    bool walks = v->kind == SP_J_LIST || v->kind == SP_J_STR || v->kind == SP_J_UNDEF || plain_map;
    if ((id == S_ODD || id == S_EVEN || id == S_DIVISIBLEBY) && !whole)
        return SP_JINJA_TYPE(r, n, "odd, even and divisibleby test integers");
    switch (id) {
    case S_DEFINED: *out = v->kind != SP_J_UNDEF; break;
    case S_UNDEFINED: *out = v->kind == SP_J_UNDEF; break;
    case S_NONE: *out = v->kind == SP_J_NONE; break;
    case S_STRING: *out = v->kind == SP_J_STR; break;
    case S_NUMBER: *out = sp_jinja_is_number(v); break;
    case S_INTEGER: *out = whole; break;
    case S_FLOAT: *out = v->kind == SP_J_FLOAT; break;
    case S_BOOLEAN: *out = v->kind == SP_J_BOOL; break;
    case S_MAPPING: *out = plain_map; break;
    case S_ITERABLE: case S_SEQUENCE: *out = walks; break;
    case S_TRUE: *out = v->kind == SP_J_BOOL && v->u.b; break;
    case S_FALSE: *out = v->kind == SP_J_BOOL && !v->u.b; break;
    case S_ODD: *out = v->u.i % 2 != 0; break;
    case S_EVEN: *out = v->u.i % 2 == 0; break;
    default: SP_TRY(compared(r, out, n, id, v, sp_jinja_arg(a, 0, ""))); break;
    }
    return sp_jinja_args_done(r, a, n, "a test");
}
