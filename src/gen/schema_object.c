/* Objects of a schema: properties in their order, those that may be left out, pairs beyond them. */
#include "gen/schema_int.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_NAMED = 24 /* properties that are counted */ };

typedef struct object {
    const json_t *s;
    const json_t *names; /* properties, those that only `required` names among them */
    size_t n;
    const char **name; /* [n] */
    size_t *rule;      /* [n] "name": value */
    bool *is_needed;   /* [n] */
    bool has_extra;
    size_t extra; /* a rule: one pair beyond them */
    json_int_t least, most;
    bool counts; /* least and most say more than what is required */
} object;

static bool is_required(const json_t *s, const char *name)
{
    const json_t *list = json_object_get(s, "required");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *r = json_string_value(json_array_get(list, i));
        if (r && strcmp(r, name) == 0)
            return true;
    }
    return false;
}

/* The properties, and what is required beyond them, which is as additionalProperties says. */
static sp_err list_names(sc_walk *w, object *o)
{
    const json_t *p = json_object_get(o->s, "properties"),
                 *need = json_object_get(o->s, "required"),
                 *more = json_object_get(o->s, "additionalProperties");
    json_t *all = p ? json_copy((json_t *)(uintptr_t)p) : json_object();
    if ((p && !json_is_object(p)) || (need && !json_is_array(need)) || !all ||
        json_array_append_new(w->own, all) != 0) {
        json_decref(all);
        return SP_FAIL(w->d, SP_INVAL,
                       p && !json_is_object(p) ? "schema: properties must be an object"
                                               : "schema: required must be a list of names");
    }
    for (size_t i = 0; i < json_array_size(need); i++) {
        const char *name = json_string_value(json_array_get(need, i));
        if (!name)
            return SP_FAIL(w->d, SP_INVAL, "schema: required[%zu] is not a string", i);
        if (!json_object_get(all, name))
            json_object_set_new(all, name,
                                more ? json_incref((json_t *)(uintptr_t)more) : json_true());
    }
    o->names = all;
    o->n = json_object_size(all);
    return SP_OK;
}

/* What patternProperties say of a property that has a name. */
static sp_err with_patterns(sc_walk *w, const json_t **v, const object *o, const char *name)
{
    const char *pattern;
    json_t *more;
    json_object_foreach (json_object_get(o->s, "patternProperties"), pattern, more) {
        bool is = false;
        if (!sc_is_pattern(pattern))
            continue; /* it is named where extra pairs are made */
        SP_TRY(sc_matches(w, &is, pattern, name));
        if (!is)
            continue;
        json_t *joined = json_pack("{s:[O,O]}", "allOf", *v, more);
        if (!joined || json_array_append_new(w->own, joined) != 0)
            return SP_FAIL(w->d, SP_NOMEM, "schema");
        *v = joined;
    }
    return SP_OK;
}

/* May a property have this name, as propertyNames says? */
static sp_err is_name_allowed(sc_walk *w, const object *o, const char *name, bool *is)
{
    const json_t *s = json_object_get(o->s, "propertyNames"), *list;
    json_t *flat, *v;
    *is = !json_is_false(s);
    if (!json_is_object(s))
        return SP_OK;
    SP_TRY(sc_flatten(w, &flat, s));
    v = json_string(name);
    if (!v)
        return SP_FAIL(w->d, SP_NOMEM, "schema");
    list = json_object_get(flat, "enum");
    *is = sc_fits(flat, v) && (!list || sc_holds(list, v));
    json_decref(v);
    const char *pattern = json_string_value(json_object_get(flat, "pattern"));
    if (*is && pattern && sc_is_pattern(pattern))
        return sc_matches(w, is, pattern, name);
    return SP_OK;
}

static sp_err put_properties(sc_walk *w, object *o, int depth)
{
    const char *key;
    json_t *value;
    size_t i = 0;
    json_object_foreach ((json_t *)(uintptr_t)o->names, key, value) {
        const json_t *v = value;
        sp_buf body = {0};
        json_t *name = json_string(key);
        o->name[i] = key;
        o->is_needed[i] = is_required(o->s, key);
        o->rule[i] = w->n_rule++;
        sp_err err = name ? sc_put_value(w, &body, name) : SP_FAIL(w->d, SP_NOMEM, "schema");
        json_decref(name);
        sp_buf_puts(&body, ": ?");
        bool allowed = true;
        if (err == SP_OK)
            err = is_name_allowed(w, o, key, &allowed);
        if (!allowed)
            v = json_false();
        if (err == SP_OK)
            err = with_patterns(w, &v, o, key);
        if (err == SP_OK)
            err = sc_put_schema(w, &body, v, depth);
        if (err != SP_OK)
            return sp_buf_fini(&body), err;
        SP_TRY(sc_define(w, o->rule[i++], &body));
    }
    return SP_OK;
}

/* Keys of pairs beyond the properties: a schema of strings. *ok: false, none can be told from the
 * properties. */
static sp_err put_key(sc_walk *w, sp_buf *out, const object *o, bool *ok)
{
    const json_t *s = json_object_get(o->s, "propertyNames"), *v;
    json_t *flat;
    sp_buf key = {0};
    *ok = true;
    if (!s || json_is_true(s)) {
        if (o->n)
            return sc_put_other_names(w, out, o->names);
        sp_buf_putc(out, '"');
        sc_put_lib(w, out, SC_NAME);
        sp_buf_puts(out, "*\"");
        return SP_OK;
    }
    *ok = !json_is_false(s);
    if (!*ok)
        return SP_OK;
    SP_TRY(sc_flatten(w, &flat, s));
    SP_TRY(sc_check_keys(w, flat));
    if (sc_speaks_of(flat, " anyOf oneOf const "))
        SP_TRY(sc_loose(w, "propertyNames"));
    json_t *text = json_string(""),
           *type = json_pack("{s:O*}", "type", json_object_get(flat, "type"));
    *ok = text && type && sc_fits(type, text); /* a key is a string */
    json_decref(text);
    json_decref(type);
    if (!*ok)
        return SP_OK;
    flat = json_copy(flat);
    if (!flat || json_array_append_new(w->own, flat) != 0 ||
        json_object_set_new(flat, "type", json_string("string")) != 0)
        return SP_FAIL(w->d, SP_NOMEM, "schema");
    v = json_object_get(flat, "enum");
    sp_err err = v ? sc_put_values(w, &key, flat, v) : sc_put_string(w, &key, flat);
    if (err == SP_OK)
        sp_buf_put(out, sp_buf_str(&key), key.len);
    for (size_t i = 0; i < o->n && err == SP_OK && *ok;
         i++) { /* a property's name among them would stand there twice */
        bool hit = v != NULL;
        const char *pattern = json_string_value(json_object_get(flat, "pattern"));
        for (size_t k = 0; v && k < json_array_size(v); k++) {
            const char *one = json_string_value(json_array_get(v, k));
            hit = one && strcmp(one, o->name[i]) == 0;
            if (hit)
                break;
        }
        if (!v && pattern && sc_is_pattern(pattern))
            err = sc_matches(w, &hit, pattern, o->name[i]);
        else if (!v)
            hit = true;
        *ok = !hit;
    }
    sp_buf_fini(&key);
    return err;
}

/* Pairs of patternProperties. With more than one pattern a key may match two: that both hold is
 * then not enforced. */
static sp_err put_pattern_pairs(sc_walk *w, sp_buf *out, const object *o, size_t *n, int depth)
{
    const json_t *all = json_object_get(o->s, "patternProperties");
    const char *pattern;
    json_t *v, *first = NULL;
    if (json_object_get(o->s, "propertyNames"))
        return all ? sc_loose(w, "patternProperties") : SP_OK;
    json_object_foreach ((json_t *)(uintptr_t)all, pattern, v) {
        bool hit = false;
        if (!sc_is_pattern(pattern)) {
            SP_TRY(sc_loose(w, "patternProperties"));
            continue;
        }
        for (size_t i = 0; i < o->n && !hit; i++)
            SP_TRY(sc_matches(w, &hit, pattern, o->name[i]));
        if (hit)
            continue; /* free keys could repeat a property; without them the object is valid too */
        if (first && !json_equal(first, v))
            SP_TRY(sc_loose(w, "patternProperties"));
        first = first ? first : v;
        sp_buf_printf(out, "%s\"(?j:%s)\": ?", (*n)++ ? "|" : "", pattern);
        SP_TRY(sc_put_schema(w, out, v, depth));
    }
    return SP_OK;
}

static sp_err make_extra(sc_walk *w, object *o, int depth)
{
    const json_t *more = json_object_get(o->s, "additionalProperties"),
                 *patterns = json_object_get(o->s, "patternProperties");
    sp_buf body = {0}, key = {0};
    size_t n = 0;
    bool ok = false;
    sp_err err = put_pattern_pairs(w, &body, o, &n, depth);
    bool open =
        more ? !json_is_false(more) : json_object_size(json_object_get(o->s, "properties")) == 0;
    if (err == SP_OK && open &&
        !json_object_size(patterns)) /* beside patterns, keys that match none are left out */
        err = put_key(w, &key, o, &ok);
    if (err == SP_OK && ok) {
        sp_buf_printf(&body, "%s%s: ?", n++ ? "|" : "", sp_buf_str(&key));
        if (more && !json_is_true(more))
            err = sc_put_schema(w, &body, more, depth);
        else
            sc_put_lib(w, &body, SC_VALUE);
    }
    sp_buf_fini(&key);
    o->has_extra = n > 0;
    if (err != SP_OK || !n) {
        sp_buf_fini(&body);
        return err;
    }
    o->extra = w->n_rule++;
    return sc_define(w, o->extra, &body);
}

/* The rules of what may stand from property i on when k came before it (only whether any did, where
 * nothing is counted), the last one first. first: the number of the rule of i = 0, k = 0; the rule
 * of i, k is first + i * width + k. */
static sp_err put_rest(sc_walk *w, const object *o, size_t first, size_t width)
{
    for (size_t i = o->n + 1; i-- > 0;) {
        for (size_t k = 0; k < width && k <= i; k++) {
            sp_buf body = {0};
            json_int_t had = (json_int_t)k;
            size_t more = o->counts || k == 0 ? k + 1 : k, next = first + (i + 1) * width;
            SP_TRY(sc_step(w));
            if (i == o->n && o->has_extra) {
                sc_put_list(w, &body, o->extra, o->counts && o->least > had ? o->least - had : 0,
                            !o->counts || o->most == SC_TIMES ? SC_TIMES : o->most - had, k > 0);
            } else if (i == o->n) {
                sp_buf_puts(&body, o->counts && (had < o->least || had > o->most) ? "(?!)" : "");
            } else {
                sp_buf_puts(&body, k ? ", ?" : "");
                sc_put_rule(w, &body, o->rule[i]);
                sc_put_rule(w, &body, next + more);
                sp_buf_puts(&body, o->is_needed[i] ? "" : "|");
                if (!o->is_needed[i])
                    sc_put_rule(w, &body, next + k);
            }
            SP_TRY(sc_define(w, first + i * width + k, &body));
        }
    }
    return SP_OK;
}

static sp_err put_members(sc_walk *w, sp_buf *out, object *o)
{
    size_t n_need = 0, width;
    for (size_t i = 0; i < o->n; i++)
        n_need += o->is_needed[i];
    o->counts = o->least > (json_int_t)n_need || o->most < (json_int_t)o->n ||
                (o->most < SC_TIMES && o->has_extra);
    if (o->counts && o->n > MAX_NAMED) {
        o->counts = false;
        if (o->least > (json_int_t)n_need)
            SP_TRY(sc_loose(w, "minProperties"));
        if (o->most < SC_TIMES)
            SP_TRY(sc_loose(w, "maxProperties"));
    }
    if (n_need == o->n && !o->has_extra &&
        !o->counts) { /* as it is written, one behind the other */
        for (size_t i = 0; i < o->n; i++) {
            sp_buf_puts(out, i ? ", ?" : "");
            sc_put_rule(w, out, o->rule[i]);
        }
        return SP_OK;
    }
    width = o->counts ? o->n + 1 : 2;
    size_t first = w->n_rule;
    w->n_rule += (o->n + 1) * width;
    sc_put_rule(w, out, first);
    return put_rest(w, o, first, width);
}

sp_err sc_put_object(sc_walk *w, sp_buf *out, const json_t *s, int depth)
{
    object o = {.s = s};
    const json_t *p = json_object_get(s, "properties");
    if ((!p || (json_is_object(p) && !json_object_size(p))) && !json_object_get(s, "required") &&
        !json_object_get(s, "patternProperties") && !json_object_get(s, "propertyNames") &&
        !json_object_get(s, "minProperties") && !json_object_get(s, "maxProperties") &&
        (!json_object_get(s, "additionalProperties") ||
         json_is_true(json_object_get(s, "additionalProperties")))) {
        sc_put_lib(w, out, SC_OBJECT);
        return SP_OK;
    }
    SP_TRY(sc_count(w, &o.least, s, "minProperties", 0));
    SP_TRY(sc_count(w, &o.most, s, "maxProperties", SC_TIMES));
    o.most = o.most < SC_TIMES ? o.most : SC_TIMES;
    SP_TRY(list_names(w, &o));
    o.name = calloc(o.n + 1, sizeof *o.name);
    o.rule = calloc(o.n + 1, sizeof *o.rule);
    o.is_needed = calloc(o.n + 1, sizeof *o.is_needed);
    sp_err err = o.name && o.rule && o.is_needed ? SP_OK : SP_FAIL(w->d, SP_NOMEM, "schema");
    if (err == SP_OK)
        err = put_properties(w, &o, depth);
    if (err == SP_OK)
        err = make_extra(w, &o, depth);
    sp_buf_puts(out, "\\{");
    if (err == SP_OK)
        err = put_members(w, out, &o);
    sp_buf_puts(out, "\\}");
    free(o.name);
    free(o.rule);
    free(o.is_needed);
    return err;
}
