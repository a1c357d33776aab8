/* Calls whose arguments stand between marks, one by one. What a value is, text or JSON, is said by
 * an attribute, by the tool's schema, or by the value: what reads as JSON is JSON. A value is
 * reported when it is whole. */
#include "text/calls_int.h"

enum { T_NAME, T_NAME_TAIL, T_ARGS, T_KEY, T_ATTR, T_BEFORE_VALUE, T_VALUE, T_VALUE_TAIL };

/* --- what a value is -------------------------------------------------------------------------- */

static const sp_jval *in_map(const sp_jval *map, const sp_buf *key)
{
    for (size_t i = 0; map && map->kind == SP_J_MAP && i < map->u.list->n; i += 2) {
        const sp_jval *k = &map->u.list->item[i];
        if (k->kind == SP_J_STR && k->u.s.n == key->len &&
            memcmp(k->u.s.p, sp_buf_str(key), key->len) == 0)
            return k + 1;
    }
    return NULL;
}

static const sp_jval *get(const sp_jval *map, const char *key)
{
    return map ? sp_jinja_map_get(map, key) : NULL;
}

static bool is_word(const sp_jval *v, const char *word)
{
    return v && v->kind == SP_J_STR && v->u.s.n == strlen(word) &&
           memcmp(v->u.s.p, word, v->u.s.n) == 0;
}

/* The schema of the argument a->key of the function a->name; NULL: not known. */
static const sp_jval *schema_of(const sp_answer *a)
{
    for (size_t i = 0; a->tools.kind == SP_J_LIST && i < a->tools.u.list->n; i++) {
        const sp_jval *f = get(&a->tools.u.list->item[i], "function"), *name = get(f, "name");
        if (name && name->kind == SP_J_STR && name->u.s.n == a->name.len &&
            memcmp(name->u.s.p, a->name.p, a->name.len) == 0)
            return in_map(get(get(f, "parameters"), "properties"), &a->key);
    }
    return NULL;
}

/* Whether a schema lets a value be of a type; one without a type says nothing. */
static bool allows(const sp_jval *schema, const char *type)
{
    const sp_jval *t = get(schema, "type");
    if (!t || t->kind != SP_J_LIST)
        return is_word(t, type);
    for (size_t i = 0; i < t->u.list->n; i++)
        if (is_word(&t->u.list->item[i], type))
            return true;
    return false;
}

static bool is_text(const sp_buf *b, const char *word)
{
    return b->len == strlen(word) && memcmp(sp_buf_str(b), word, b->len) == 0;
}

void sp_call_guess(sp_buf *out, const char *p, size_t n)
{
    sp_arena arena;
    sp_jval x;
    size_t len = out->len;
    sp_arena_init(&arena, 64 * SP_CALL_VALUE);
    bool json = sp_call_parse(&x, &arena, p, n);
    sp_arena_fini(&arena);
    if (json) {
        sp_buf_put(out, p, n);
    } else if (!n || !sp_call_python(out, p, n)) {
        out->len = len;
        sp_buf_json_str(out, p, n);
    }
}

/* --- reporting -------------------------------------------------------------------------------- */

static void unwrap(sp_answer *a)
{
    static const char open[] = "<![CDATA[", close[] = "]]>";
    sp_buf *v = &a->value;
    size_t n = sizeof open - 1, m = sizeof close - 1;
    if (v->len >= n + m && memcmp(v->p, open, n) == 0 && memcmp(v->p + v->len - m, close, m) == 0) {
        v->len -= m;
        sp_buf_drop(v, n);
    }
    if (a->cfg.format->is_trimmed && v->len && v->p[v->len - 1] == '\n')
        v->len--;
    if (a->cfg.format->is_trimmed && v->len && v->p[0] == '\n')
        sp_buf_drop(v, 1);
}

static void put_value(sp_answer *a, sp_buf *out)
{
    const sp_jval *schema = schema_of(a);
    bool text = a->is_text, known = a->cfg.format->attr_end != NULL;
    if (!known && schema) {
        bool null =
            allows(schema, "null") && (is_text(&a->value, "None") || is_text(&a->value, "null"));
        text = allows(schema, "string") && !null;
    }
    const char *p = sp_buf_str(&a->value);
    if (a->cfg.format->is_nested && sp_call_nested(out, p, a->value.len, a->cfg.format))
        return;
    if (text)
        sp_buf_json_str(out, p, a->value.len);
    else
        sp_call_guess(out, p, a->value.len);
}

static void report_value(sp_answer *a)
{
    sp_buf out = {0};
    unwrap(a);
    sp_buf_puts(&out, a->n_arg++ ? ", " : "{");
    sp_buf_json_str(&out, sp_buf_str(&a->key), a->key.len);
    sp_buf_puts(&out, ": ");
    put_value(a, &out);
    sp_call_args(a, out.p, out.len);
    a->args.failed = a->args.failed || out.failed;
    sp_buf_fini(&out);
    sp_buf_clear(&a->key);
    sp_buf_clear(&a->value);
}

static step finish(sp_answer *a)
{
    if (a->n_arg)
        sp_call_args(a, "}", 1);
    sp_call_end(a);
    return STEP_DONE;
}

/* --- the states ------------------------------------------------------------------------------- */

/* Bytes go to a buffer until one of two marks comes; its index, or -1; -2: too many. */
static int collect(sp_answer *a, char c, sp_buf *to, size_t most, const char *one, const char *two)
{
    const char *const mark[] = {one, two};
    int hit = sp_mark_take(&a->held, c, mark, 2, &a->loose);
    if (to)
        sp_buf_put(to, sp_buf_str(&a->loose), a->loose.len);
    sp_buf_clear(&a->loose);
    return to && to->len > most ? -2 : hit;
}

static step take_name(sp_answer *a, char c)
{
    const sp_call_format *f = a->cfg.format;
    int hit = f->sep ? collect(a, c, &a->name, SP_CALL_NAME, f->sep, NULL)
                     : collect(a, c, &a->name, SP_CALL_NAME, f->key, f->end);
    if (hit == -1)
        return STEP_MORE;
    if (hit == -2 || !sp_call_named(a))
        return STEP_BAD;
    if (!f->sep && hit == 1)
        return finish(a);
    a->sub = !f->sep ? T_KEY : f->name_tail ? T_NAME_TAIL : T_ARGS;
    return STEP_MORE;
}

static step take_args(sp_answer *a, char c)
{
    const sp_call_format *f = a->cfg.format;
    const char *const mark[] = {f->key, f->end};
    if (!a->held.n && sp_call_blank(c))
        return STEP_MORE;
    int hit = sp_mark_take(&a->held, c, mark, 2, &a->loose);
    if (a->loose.len)
        return STEP_BAD;
    if (hit == 1)
        return finish(a);
    if (hit == 0)
        a->sub = T_KEY;
    return STEP_MORE;
}

static step take_key(sp_answer *a, char c)
{
    const sp_call_format *f = a->cfg.format;
    int hit = collect(a, c, &a->key, SP_CALL_NAME, f->key_end, NULL);
    if (hit == -2)
        return STEP_BAD;
    if (hit != 0)
        return STEP_MORE;
    if (f->close_key && is_text(&a->key, f->close_key))
        return finish(a);
    a->is_text = false;
    a->n_list = 0;
    a->is_streamed = false;
    a->sub = f->attr_end ? T_ATTR : f->value ? T_BEFORE_VALUE : T_VALUE;
    return STEP_MORE;
}

static step take_attr(sp_answer *a, char c)
{
    const sp_call_format *f = a->cfg.format;
    int hit = collect(a, c, &a->value, SP_CALL_NAME, f->attr_end, NULL);
    if (hit != 0)
        return hit == -2 ? STEP_BAD : STEP_MORE;
    a->is_text = is_text(&a->value, f->attr_text);
    sp_buf_clear(&a->value);
    a->sub = T_VALUE;
    return STEP_MORE;
}

/* A value of elements: it ends with the closing tag that no opening one in it waits for. */
static step take_elements(sp_answer *a, char c)
{
    const sp_call_format *f = a->cfg.format;
    if (a->is_streamed) { /* the first byte of a tag */
        a->is_streamed = false;
        if (c == '/' && a->n_list-- == 0) {
            report_value(a);
            a->sub = T_VALUE_TAIL;
            return STEP_MORE;
        }
        a->n_list += c != '/';
        sp_buf_puts(&a->value, f->key);
        sp_buf_putc(&a->value, c);
        return STEP_MORE;
    }
    int hit = collect(a, c, &a->value, SP_CALL_VALUE, f->key, NULL);
    a->is_streamed = hit == 0;
    return hit == -2 ? STEP_BAD : STEP_MORE;
}

static step take_value(sp_answer *a, char c)
{
    const sp_call_format *f = a->cfg.format;
    int hit = collect(a, c, &a->value, SP_CALL_VALUE, f->value_end, NULL);
    if (hit != 0)
        return hit == -2 ? STEP_BAD : STEP_MORE;
    report_value(a);
    a->sub = f->value_tail ? T_VALUE_TAIL : T_ARGS;
    return STEP_MORE;
}

step sp_call_tagged(sp_answer *a, char c)
{
    const sp_call_format *f = a->cfg.format;
    switch (a->sub) {
    case T_NAME: return take_name(a, c);
    case T_ARGS: return take_args(a, c);
    case T_KEY: return take_key(a, c);
    case T_ATTR: return take_attr(a, c);
    case T_VALUE: return f->is_nested ? take_elements(a, c) : take_value(a, c);
    case T_BEFORE_VALUE:
        if (!a->held.n && sp_call_blank(c))
            return STEP_MORE;
        if (collect(a, c, &a->value, 0, f->value, NULL) == 0)
            a->sub = T_VALUE;
        return a->value.len ? STEP_BAD : STEP_MORE;
    default: /* T_NAME_TAIL, T_VALUE_TAIL */
        if (collect(a, c, NULL, 0, a->sub == T_NAME_TAIL ? f->name_tail : f->value_tail, NULL) == 0)
            a->sub = T_ARGS;
        return STEP_MORE;
    }
}
