/* A JSON schema becomes a pattern; see schema.h for what is enforced.
 *
 * Each $ref is a rule, written once however often it is called; each value that stands in several places of a pattern is one too. What
 * can have no value is written as such, (?!), and taken for what it is when the pattern is compiled: a property that may be left out is,
 * a branch falls away.
 * Budgets: nested schemas, steps (schemas looked at and merged), bytes of the pattern. */
#include "gen/schema_int.h"

#include "base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_DEPTH = 64, MAX_STEPS = 50000, MAX_NAMED = 24 /* properties that are counted */, MAX_TIMES = 1000000 };

/* --- rules ------------------------------------------------------------------------------------ */

#define ESCAPE "\\\\(?:[\"\\\\/bfnrt]|u(?:[0-9A-CEFa-cef][0-9A-Fa-f]{3}|[Dd][0-7][0-9A-Fa-f]{2}|[Dd][89ABab][0-9A-Fa-f]{2}\\\\u[Dd][C-Fc-f][0-9A-Fa-f]{2}))"

/* @: the schema's own mark, so that two schemas may stand in one pattern. */
static const struct { const char *name, *pattern; unsigned needs; } LIB[] = {
    [SC_CHAR] = {"char", "[^\"\\\\\\x00-\\x1f]|" ESCAPE, 0},
    [SC_NAME] = {"name", "[^\"\\\\\\x00-\\x1f]|\\\\[\"\\\\bfnrt]", 0},
    [SC_STRING] = {"string", "\"(?&char@)*\"", 1u << SC_CHAR},
    [SC_INTEGER] = {"integer", "-?(?:0|[1-9]\\d{0,17})", 0},
    [SC_NUMBER] = {"number", "-?(?:0|[1-9]\\d{0,17})(?:\\.\\d{1,17})?(?:[eE][+\\-]?\\d{1,2})?", 0},
    [SC_VALUE] = {"value", "(?&string@)|(?&number@)|true|false|null|(?&object@)|\\[(?:(?&value@)(?:, ?(?&value@))*)?\\]",
                  1u << SC_CHAR | 1u << SC_NAME | 1u << SC_STRING | 1u << SC_NUMBER | 1u << SC_OBJECT},
    [SC_OBJECT] = {"object", "\\{(?:(?&pair@)(?:, ?(?&pair@))*)?\\})(?<pair@>\"(?&name@)*\": ?(?&value@)", 1u << SC_VALUE},
};

void sc_put_lib(sc_walk *w, sp_buf *out, sc_lib what)
{
    w->lib |= 1u << what;
    sp_buf_printf(out, "(?&%s%zu)", LIB[what].name, w->id);
}

void sc_put_rule(const sc_walk *w, sp_buf *out, size_t rule)
{
    sp_buf_printf(out, "(?&s%zu_%zu)", w->id, rule);
}

static sp_err check_size(sc_walk *w, const sp_buf *b)
{
    if (b->failed)
        return SP_FAIL(w->d, SP_NOMEM, "schema");
    return b->len > SP_GRAMMAR_PATTERN ? SP_FAIL(w->d, SP_INVAL, "schema: its pattern has more than %d bytes", SP_GRAMMAR_PATTERN) : SP_OK;
}

sp_err sc_define(sc_walk *w, size_t rule, sp_buf *body)
{
    sp_err err = check_size(w, body);
    sp_buf_printf(&w->rules, "(?<s%zu_%zu>", w->id, rule);
    sp_buf_put(&w->rules, sp_buf_str(body), body->len);
    sp_buf_putc(&w->rules, ')');
    sp_buf_fini(body);
    return err == SP_OK ? check_size(w, &w->rules) : err;
}

sp_err sc_step(sc_walk *w)
{
    return ++w->n_step > MAX_STEPS ? SP_FAIL(w->d, SP_INVAL, "schema: it takes more than %d steps to read", MAX_STEPS) : SP_OK;
}

sp_err sc_loose(sc_walk *w, const char *what)
{
    sp_buf name = {0};
    if (!w->loose)
        return SP_FAIL(w->d, SP_UNSUP, "schema: %.80s cannot be enforced here; without strict it is accepted and named in the receipt", what);
    sp_buf_json_str(&name, what, strlen(what) < 80 ? strlen(what) : 80);
    if (!name.failed && (!w->loose->len || !strstr(w->loose->p, name.p)) && w->loose->len < 4096)
        sp_buf_printf(w->loose, "%s%s", w->loose->len ? "," : "", name.p);
    sp_buf_fini(&name);
    return w->loose->failed ? SP_FAIL(w->d, SP_NOMEM, "schema") : SP_OK;
}

sp_err sc_count(sc_walk *w, json_int_t *out, const json_t *s, const char *key, json_int_t fallback)
{
    const json_t *v = json_object_get(s, key);
    double x = json_number_value(v);
    *out = fallback;
    if (v && (!json_is_number(v) || !(x >= 0) || x != floor(x)))
        return SP_FAIL(w->d, SP_INVAL, "schema: %s must be an integer of at least 0", key);
    if (v)
        *out = x < 1e15 ? (json_int_t)x : (json_int_t)1e15;
    return SP_OK;
}

/* --- values ----------------------------------------------------------------------------------- */

sp_err sc_put_value(sc_walk *w, sp_buf *out, const json_t *v)
{
    char *text = json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(15));
    json_t *back = text ? json_loads(text, JSON_DECODE_ANY, NULL) : NULL;
    if (text && !json_equal(back, v)) { /* a number with more digits */
        free(text);
        text = json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY);
    }
    json_decref(back);
    if (!text)
        return SP_FAIL(w->d, SP_NOMEM, "schema");
    sp_grammar_quote(out, text, strlen(text));
    free(text);
    return check_size(w, out);
}

/* Those of a list that the rest of the schema allows. */
static sp_err put_values(sc_walk *w, sp_buf *out, const json_t *s, const json_t *list)
{
    size_t n = 0;
    if (!json_is_array(list))
        return SP_FAIL(w->d, SP_INVAL, "schema: enum must be a list");
    sp_buf_puts(out, "(?:");
    for (size_t i = 0; i < json_array_size(list); i++) {
        if (!sc_fits(s, json_array_get(list, i)))
            continue;
        sp_buf_puts(out, n++ ? "|" : "");
        SP_TRY(sc_put_value(w, out, json_array_get(list, i)));
    }
    sp_buf_puts(out, n ? ")" : "(?!))");
    return SP_OK;
}

/* --- keywords ---------------------------------------------------------------------------------- */

static sp_err check_keys(sc_walk *w, const json_t *s)
{
    static const char known[] =
        " type nullable enum const anyOf oneOf properties required additionalProperties patternProperties propertyNames minProperties maxProperties items prefixItems minItems maxItems"
        " uniqueItems minLength maxLength pattern format minimum maximum exclusiveMinimum exclusiveMaximum multipleOf"
        " $schema $id $comment $defs definitions title description default examples example readOnly writeOnly deprecated discriminator ";
    const char *key;
    json_t *v;
    json_object_foreach ((json_t *)(uintptr_t)s, key, v) {
        char with_space[66];
        snprintf(with_space, sizeof with_space, " %.60s ", key);
        bool is_known = strlen(key) <= 60 && !strchr(key, ' ') && strstr(known, with_space);
        bool tuple = strcmp(key, "additionalItems") == 0 && json_is_array(json_object_get(s, "items"));
        if (!is_known && !tuple)
            SP_TRY(sc_loose(w, key));
    }
    return SP_OK;
}

/* Has a schema one of these words? Each stands between spaces. */
static bool speaks_of(const json_t *s, const char *words)
{
    const char *key;
    json_t *v;
    json_object_foreach ((json_t *)(uintptr_t)s, key, v) {
        char with_space[66];
        snprintf(with_space, sizeof with_space, " %.60s ", key);
        if (strstr(words, with_space))
            return true;
    }
    return false;
}

static sp_err put_schema(sc_walk *w, sp_buf *out, const json_t *s, int depth);

/* A schema as a rule of its own. */
static sp_err make_rule(sc_walk *w, size_t *rule, const json_t *s, int depth)
{
    sp_buf body = {0};
    *rule = w->n_rule++;
    sp_err err = put_schema(w, &body, s, depth);
    if (err == SP_OK)
        return sc_define(w, *rule, &body);
    sp_buf_fini(&body);
    return err;
}

/* --- objects ---------------------------------------------------------------------------------- */

typedef struct object {
    const json_t *s;
    const json_t *names;     /* properties, those that only `required` names among them */
    size_t n;
    const char **name;       /* [n] */
    size_t *rule;            /* [n] "name": value */
    bool *is_needed;         /* [n] */
    bool has_extra;
    size_t extra;            /* a rule: one pair beyond them */
    json_int_t least, most;
    bool counts;             /* least and most say more than what is required */
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
    const json_t *p = json_object_get(o->s, "properties"), *need = json_object_get(o->s, "required"), *more = json_object_get(o->s, "additionalProperties");
    json_t *all = p ? json_copy((json_t *)(uintptr_t)p) : json_object();
    if ((p && !json_is_object(p)) || (need && !json_is_array(need)) || !all || json_array_append_new(w->own, all) != 0) {
        json_decref(all);
        return SP_FAIL(w->d, SP_INVAL, p && !json_is_object(p) ? "schema: properties must be an object" : "schema: required must be a list of names");
    }
    for (size_t i = 0; i < json_array_size(need); i++) {
        const char *name = json_string_value(json_array_get(need, i));
        if (!name)
            return SP_FAIL(w->d, SP_INVAL, "schema: required[%zu] is not a string", i);
        if (!json_object_get(all, name))
            json_object_set_new(all, name, more ? json_incref((json_t *)(uintptr_t)more) : json_true());
    }
    o->names = all;
    o->n = json_object_size(all);
    return SP_OK;
}

/* What patternProperties say of a property that has a name. */
static sp_err with_patterns(sc_walk *w, const json_t **v, const object *o, const char *name, bool *hit)
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
        *hit = true;
    }
    return SP_OK;
}

static sp_err put_properties(sc_walk *w, object *o, int depth, bool *hit)
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
        if (err == SP_OK)
            err = with_patterns(w, &v, o, key, hit);
        if (err == SP_OK)
            err = put_schema(w, &body, v, depth);
        if (err != SP_OK)
            return sp_buf_fini(&body), err;
        SP_TRY(sc_define(w, o->rule[i++], &body));
    }
    return SP_OK;
}

/* Keys of pairs beyond the properties: a schema of strings. *ok: false, none can be told from the properties. */
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
    SP_TRY(check_keys(w, flat));
    if (speaks_of(flat, " anyOf oneOf const "))
        SP_TRY(sc_loose(w, "propertyNames"));
    flat = json_copy(flat);
    if (!flat || json_array_append_new(w->own, flat) != 0 || json_object_set_new(flat, "type", json_string("string")) != 0)
        return SP_FAIL(w->d, SP_NOMEM, "schema");
    v = json_object_get(flat, "enum");
    sp_err err = v ? put_values(w, &key, flat, v) : sc_put_string(w, &key, flat);
    if (err == SP_OK)
        sp_buf_put(out, sp_buf_str(&key), key.len);
    for (size_t i = 0; i < o->n && err == SP_OK && *ok; i++) { /* a property's name among them would stand there twice */
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

/* Pairs of patternProperties. With more than one pattern a key may match two: that both hold is then not enforced. */
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
        SP_TRY(put_schema(w, out, v, depth));
    }
    return SP_OK;
}

static sp_err make_extra(sc_walk *w, object *o, int depth)
{
    const json_t *more = json_object_get(o->s, "additionalProperties"), *patterns = json_object_get(o->s, "patternProperties");
    sp_buf body = {0}, key = {0};
    size_t n = 0;
    bool ok = false;
    sp_err err = put_pattern_pairs(w, &body, o, &n, depth);
    bool open = more ? !json_is_false(more) : json_object_size(json_object_get(o->s, "properties")) == 0;
    if (err == SP_OK && open && !json_object_size(patterns)) /* beside patterns, keys that match none are left out */
        err = put_key(w, &key, o, &ok);
    if (err == SP_OK && ok) {
        sp_buf_printf(&body, "%s%s: ?", n++ ? "|" : "", sp_buf_str(&key));
        if (more && !json_is_true(more))
            err = put_schema(w, &body, more, depth);
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

/* lo to hi parts apart by commas; after: others came before them. hi MAX_TIMES: no end. */
static void put_list(sc_walk *w, sp_buf *out, size_t rule, json_int_t lo, json_int_t hi, bool after)
{
    if (lo > hi) {
        sp_buf_puts(out, "(?!)");
        return;
    }
    if (hi == 0)
        return;
    sp_buf_puts(out, "(?:");
    if (!after) {
        sc_put_rule(w, out, rule);
        sp_buf_puts(out, "(?:");
    }
    sp_buf_puts(out, ", ?");
    sc_put_rule(w, out, rule);
    json_int_t from = lo - !after;
    sp_buf_printf(out, hi >= MAX_TIMES ? "){%lld,}" : "){%lld,%lld}", (long long)(from > 0 ? from : 0), (long long)(hi - !after));
    if (!after)
        sp_buf_puts(out, lo ? ")" : ")?");
}

/* The rules of what may stand from property i on when k came before it (only whether any did, where nothing is counted), the last one
 * first. first: the number of the rule of i = 0, k = 0; the rule of i, k is first + i * width + k. */
static sp_err put_rest(sc_walk *w, const object *o, size_t first, size_t width)
{
    for (size_t i = o->n + 1; i-- > 0;) {
        for (size_t k = 0; k < width && k <= i; k++) {
            sp_buf body = {0};
            json_int_t had = (json_int_t)k;
            size_t more = o->counts || k == 0 ? k + 1 : k, next = first + (i + 1) * width;
            SP_TRY(sc_step(w));
            if (i == o->n && o->has_extra) {
                put_list(w, &body, o->extra, o->counts && o->least > had ? o->least - had : 0, !o->counts || o->most == MAX_TIMES ? MAX_TIMES : o->most - had, k > 0);
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
    o->counts = o->least > (json_int_t)n_need || o->most < (json_int_t)o->n || (o->most < MAX_TIMES && o->has_extra);
    if (o->counts && o->n > MAX_NAMED) {
        o->counts = false;
        if (o->least > (json_int_t)n_need)
            SP_TRY(sc_loose(w, "minProperties"));
        if (o->most < MAX_TIMES)
            SP_TRY(sc_loose(w, "maxProperties"));
    }
    if (n_need == o->n && !o->has_extra && !o->counts) { /* as it is written, one behind the other */
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

static sp_err put_object(sc_walk *w, sp_buf *out, const json_t *s, int depth)
{
    object o = {.s = s};
    bool hit = false;
    const json_t *p = json_object_get(s, "properties");
    if ((!p || (json_is_object(p) && !json_object_size(p))) && !json_object_get(s, "required") && !json_object_get(s, "patternProperties") &&
        !json_object_get(s, "propertyNames") && !json_object_get(s, "minProperties") && !json_object_get(s, "maxProperties") &&
        (!json_object_get(s, "additionalProperties") || json_is_true(json_object_get(s, "additionalProperties")))) {
        sc_put_lib(w, out, SC_OBJECT);
        return SP_OK;
    }
    SP_TRY(sc_count(w, &o.least, s, "minProperties", 0));
    SP_TRY(sc_count(w, &o.most, s, "maxProperties", MAX_TIMES));
    o.most = o.most < MAX_TIMES ? o.most : MAX_TIMES;
    SP_TRY(list_names(w, &o));
    o.name = calloc(o.n + 1, sizeof *o.name);
    o.rule = calloc(o.n + 1, sizeof *o.rule);
    o.is_needed = calloc(o.n + 1, sizeof *o.is_needed);
    sp_err err = o.name && o.rule && o.is_needed ? SP_OK : SP_FAIL(w->d, SP_NOMEM, "schema");
    if (err == SP_OK)
        err = put_properties(w, &o, depth, &hit);
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

/* --- arrays ----------------------------------------------------------------------------------- */

/* Items with places of their own, as rules one behind the other: the one of place i is first + i, the last one what follows them. */
static sp_err put_places(sc_walk *w, const json_t *list, size_t first, json_int_t lo, json_int_t hi, const size_t *item, int depth)
{
    json_int_t n = (json_int_t)json_array_size(list);
    for (json_int_t i = n; i >= 0; i--) {
        sp_buf body = {0};
        size_t rule;
        if (i == n && item) {
            put_list(w, &body, *item, lo > n ? lo - n : 0, hi == MAX_TIMES ? MAX_TIMES : hi > n ? hi - n : 0, n > 0);
        } else if (i == n) {
            sp_buf_puts(&body, lo > n ? "(?!)" : "");
        } else if (i < hi) {
            SP_TRY(make_rule(w, &rule, json_array_get(list, (size_t)i), depth));
            sp_buf_puts(&body, i ? ", ?" : "");
            sc_put_rule(w, &body, rule);
            sc_put_rule(w, &body, first + (size_t)i + 1);
            sp_buf_puts(&body, i >= lo ? "|" : "");
        }
        SP_TRY(sc_define(w, first + (size_t)i, &body));
    }
    return SP_OK;
}

static sp_err put_array(sc_walk *w, sp_buf *out, const json_t *s, int depth)
{
    const json_t *items = json_object_get(s, "items"), *places = json_object_get(s, "prefixItems");
    json_int_t lo, hi;
    size_t item;
    SP_TRY(sc_count(w, &lo, s, "minItems", 0));
    SP_TRY(sc_count(w, &hi, s, "maxItems", MAX_TIMES));
    hi = hi < MAX_TIMES ? hi : MAX_TIMES;
    if (json_is_array(items)) { /* before 2020-12 */
        places = items;
        items = json_object_get(s, "additionalItems");
    }
    if (places && !json_is_array(places))
        return SP_FAIL(w->d, SP_INVAL, "schema: prefixItems must be a list");
    if (json_is_true(json_object_get(s, "uniqueItems")) && hi > 1)
        SP_TRY(sc_loose(w, "uniqueItems"));
    if (lo > hi) {
        sp_buf_puts(out, "(?!)");
        return SP_OK;
    }
    SP_TRY(make_rule(w, &item, items ? items : json_true(), depth));
    sp_buf_puts(out, "\\[");
    if (json_array_size(places)) {
        size_t first = w->n_rule;
        w->n_rule += json_array_size(places) + 1;
        sc_put_rule(w, out, first);
        SP_TRY(put_places(w, places, first, lo, hi, json_is_false(items) ? NULL : &item, depth));
    } else {
        put_list(w, out, item, lo, hi, false);
    }
    sp_buf_puts(out, "\\]");
    return SP_OK;
}

/* --- all -------------------------------------------------------------------------------------- */

/* Which types a schema without one speaks of: those that its keywords are for; none: all. */
static const char *const TYPES[] = {"object", "array", "string", "integer", "number", "boolean", "null"};
enum { OBJECT, ARRAY, STRING, INTEGER, NUMBER, BOOLEAN, NIL, N_TYPES };

static sp_err read_types(sc_walk *w, bool is[N_TYPES], const json_t *s)
{
    const json_t *t = json_object_get(s, "type");
    size_t n = json_is_array(t) ? json_array_size(t) : 1;
    memset(is, 0, N_TYPES * sizeof *is);
    for (size_t i = 0; t && i < n; i++) {
        const char *name = json_string_value(json_is_array(t) ? json_array_get(t, i) : t);
        size_t k = 0;
        while (name && k < N_TYPES && strcmp(TYPES[k], name) != 0)
            k++;
        if (!name || k == N_TYPES)
            return SP_FAIL(w->d, SP_INVAL, "schema: type %.30s is none of object, array, string, integer, number, boolean, null", name ? name : "that is no name");
        is[k] = true;
    }
    if (!t) {
        is[OBJECT] = speaks_of(s, " properties required additionalProperties patternProperties propertyNames minProperties maxProperties ");
        is[ARRAY] = speaks_of(s, " items prefixItems minItems maxItems uniqueItems ");
        is[STRING] = speaks_of(s, " minLength maxLength pattern format ");
        is[NUMBER] = speaks_of(s, " minimum maximum exclusiveMinimum exclusiveMaximum multipleOf ");
        bool any = is[OBJECT] || is[ARRAY] || is[STRING] || is[NUMBER];
        for (size_t k = 0; k < N_TYPES && !any; k++)
            is[k] = true;
    }
    is[NIL] = is[NIL] || json_is_true(json_object_get(s, "nullable"));
    is[INTEGER] = is[INTEGER] && !is[NUMBER];
    return SP_OK;
}

static sp_err put_type(sc_walk *w, sp_buf *out, const json_t *s, int type, int depth)
{
    switch (type) {
    case OBJECT: return put_object(w, out, s, depth);
    case ARRAY: return put_array(w, out, s, depth);
    case STRING: return sc_put_string(w, out, s);
    case INTEGER: case NUMBER: return sc_put_number(w, out, s, type == INTEGER);
    case BOOLEAN: return sp_buf_puts(out, "true|false"), SP_OK;
    default: return sp_buf_puts(out, "null"), SP_OK;
    }
}

/* Each of the types that a value may have. */
static sp_err put_types(sc_walk *w, sp_buf *out, const json_t *s, int depth)
{
    bool is[N_TYPES];
    size_t n = 0;
    SP_TRY(read_types(w, is, s));
    sp_buf_puts(out, "(?:");
    for (int i = 0; i < N_TYPES; i++) {
        if (!is[i])
            continue;
        sp_buf_puts(out, n++ ? "|" : "");
        SP_TRY(put_type(w, out, s, i, depth));
    }
    sp_buf_puts(out, n ? ")" : "(?!))");
    return SP_OK;
}

/* Do the branches of oneOf leave each other alone? Then one of them is exactly one. */
static sp_err check_apart(sc_walk *w, const json_t *list)
{
    size_t n = json_array_size(list);
    for (size_t i = 0; i < n; i++) {
        for (size_t k = i + 1; k < n; k++) {
            json_t *a, *b;
            if (!json_is_object(json_array_get(list, i)) || !json_is_object(json_array_get(list, k)))
                continue;
            SP_TRY(sc_step(w));
            SP_TRY(sc_flatten(w, &a, json_array_get(list, i)));
            SP_TRY(sc_flatten(w, &b, json_array_get(list, k)));
            if (!sc_is_apart(a, b))
                return sc_loose(w, "oneOf");
        }
    }
    return SP_OK;
}

/* The branches of anyOf or oneOf, each with what stands beside them. */
static sp_err put_branches(sc_walk *w, sp_buf *out, const json_t *s, const char *word, int depth)
{
    const json_t *list = json_object_get(s, word);
    json_t *rest = json_copy((json_t *)(uintptr_t)s);
    if (!json_is_array(list) || json_array_size(list) == 0 || !rest || json_array_append_new(w->own, rest) != 0)
        return SP_FAIL(w->d, SP_INVAL, "schema: %s needs a list that is not empty", word);
    json_object_del(rest, word);
    if (word[0] == 'o')
        SP_TRY(check_apart(w, list));
    bool alone = !speaks_of(rest, " type nullable enum const anyOf oneOf properties required additionalProperties patternProperties propertyNames minProperties maxProperties items prefixItems"
                                  " minItems maxItems uniqueItems minLength maxLength pattern format minimum maximum exclusiveMinimum exclusiveMaximum multipleOf ");
    sp_buf_puts(out, "(?:");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *one = json_array_get(list, i);
        json_t *joined = alone ? NULL : json_pack("{s:[O,O]}", "allOf", rest, one);
        if (joined && json_array_append_new(w->own, joined) != 0)
            return SP_FAIL(w->d, SP_NOMEM, "schema");
        sp_buf_puts(out, i ? "|" : "");
        SP_TRY(put_schema(w, out, joined ? joined : one, depth));
    }
    sp_buf_putc(out, ')');
    return SP_OK;
}

/* A schema that is nothing but a $ref: the rule of that place. */
static sp_err put_ref(sc_walk *w, sp_buf *out, const char *ref)
{
    const json_t *at, *known = json_object_get(w->names, ref);
    size_t rule = (size_t)json_integer_value(known);
    SP_TRY(sc_resolve(w, &at, ref));
    if (!known) {
        rule = w->n_rule++;
        if (json_object_set_new(w->names, ref, json_integer((json_int_t)rule)) != 0 || json_array_append_new(w->todo, json_string(ref)) != 0)
            return SP_FAIL(w->d, SP_NOMEM, "schema");
    }
    sc_put_rule(w, out, rule);
    return SP_OK;
}

static bool is_only_ref(const json_t *s)
{
    return json_is_string(json_object_get(s, "$ref")) && !speaks_of(s, " allOf type nullable enum const anyOf oneOf properties required additionalProperties patternProperties propertyNames minProperties"
               " maxProperties items prefixItems minItems maxItems uniqueItems minLength maxLength pattern format minimum maximum exclusiveMinimum exclusiveMaximum multipleOf ");
}

static sp_err put_schema(sc_walk *w, sp_buf *out, const json_t *s, int depth)
{
    json_t *flat;
    if (depth++ > MAX_DEPTH)
        return SP_FAIL(w->d, SP_INVAL, "schema: nested deeper than %d", MAX_DEPTH);
    SP_TRY(sc_step(w));
    SP_TRY(check_size(w, out));
    if (json_is_false(s)) {
        sp_buf_puts(out, "(?!)");
        return SP_OK;
    }
    if (json_is_true(s) || (json_is_object(s) && json_object_size(s) == 0)) {
        sc_put_lib(w, out, SC_VALUE);
        return SP_OK;
    }
    if (!json_is_object(s))
        return SP_FAIL(w->d, SP_INVAL, "schema: an object is expected");
    if (is_only_ref(s))
        return put_ref(w, out, json_string_value(json_object_get(s, "$ref")));
    SP_TRY(sc_flatten(w, &flat, s));
    SP_TRY(check_keys(w, flat));
    if (json_object_get(flat, "const")) {
        json_t *one = json_pack("[O]", json_object_get(flat, "const"));
        if (!one || json_array_append_new(w->own, one) != 0)
            return SP_FAIL(w->d, SP_NOMEM, "schema");
        return put_values(w, out, flat, one);
    }
    if (json_object_get(flat, "enum"))
        return put_values(w, out, flat, json_object_get(flat, "enum"));
    if (json_object_get(flat, "anyOf"))
        return put_branches(w, out, flat, "anyOf", depth);
    if (json_object_get(flat, "oneOf"))
        return put_branches(w, out, flat, "oneOf", depth);
    return put_types(w, out, flat, depth);
}

/* Rules of places that were referred to; each may refer to others. */
static sp_err put_refs(sc_walk *w)
{
    for (size_t i = 0; i < json_array_size(w->todo); i++) {
        const char *ref = json_string_value(json_array_get(w->todo, i));
        const json_t *at = NULL;
        sp_buf body = {0};
        SP_TRY(sc_resolve(w, &at, ref));
        sp_err err = put_schema(w, &body, at, 0);
        if (err != SP_OK)
            return sp_buf_fini(&body), err;
        SP_TRY(sc_define(w, (size_t)json_integer_value(json_object_get(w->names, ref)), &body));
    }
    return SP_OK;
}

static void put_library(sc_walk *w)
{
    for (size_t round = 0; round < 2; round++) /* what is needed by what is needed */
        for (size_t i = 0; i < sizeof LIB / sizeof LIB[0]; i++)
            w->lib |= w->lib >> i & 1 ? LIB[i].needs : 0;
    for (size_t i = 0; i < sizeof LIB / sizeof LIB[0]; i++)
        if (w->lib >> i & 1) {
            sp_buf_printf(&w->rules, "(?<%s%zu>", LIB[i].name, w->id);
            for (const char *p = LIB[i].pattern; *p; p++)
                if (*p == '@')
                    sp_buf_printf(&w->rules, "%zu", w->id);
                else
                    sp_buf_putc(&w->rules, *p);
            sp_buf_putc(&w->rules, ')');
        }
}

sp_err sp_grammar_schema(sp_buf *out, sp_buf *loose, const json_t *schema, sp_diag *d)
{
    sc_walk w = {.loose = loose, .root = schema, .own = json_array(), .names = json_object(), .todo = json_array(), .id = out->len, .d = d};
    sp_buf main = {0};
    sp_err err = w.own && w.names && w.todo ? put_schema(&w, &main, schema, 0) : SP_FAIL(d, SP_NOMEM, "schema");
    if (err == SP_OK)
        err = put_refs(&w);
    if (err == SP_OK) {
        put_library(&w);
        sp_buf_printf(out, "(?:(?(DEFINE)%s)%s)", sp_buf_str(&w.rules), sp_buf_str(&main));
        err = check_size(&w, out);
        if (err == SP_OK && (w.rules.failed || main.failed))
            err = SP_FAIL(d, SP_NOMEM, "schema");
    }
    sp_buf_fini(&main);
    sp_buf_fini(&w.rules);
    json_decref(w.own);
    json_decref(w.names);
    json_decref(w.todo);
    return err;
}

sp_err sp_grammar_object(sp_buf *out, sp_diag *d)
{
    json_t *s = json_pack("{s:s}", "type", "object");
    sp_err err = s ? sp_grammar_schema(out, NULL, s, d) : SP_FAIL(d, SP_NOMEM, "schema");
    json_decref(s);
    return err;
}
