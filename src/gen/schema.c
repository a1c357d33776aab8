/* A JSON schema becomes a pattern; see schema.h for what is enforced.
 *
 * Each $ref is a rule, written once however often it is called; each value that stands in several
 * places of a pattern is one too. What can have no value is written as such, (?!), and taken for
 * what it is when the pattern is compiled: a property that may be left out is, a branch falls away.
 * Budgets: nested schemas, steps (schemas looked at and merged), bytes of the pattern. */
#include "gen/schema_int.h"

#include "base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_DEPTH = 64, MAX_STEPS = 50000 };

/* --- rules ------------------------------------------------------------------------------------ */

#define ESCAPE                                                                                     \
    "\\\\(?:[\"\\\\/"                                                                              \
    "bfnrt]|u(?:[0-9A-CEFa-cef][0-9A-Fa-f]{3}|[Dd][0-7][0-9A-Fa-f]{2}|[Dd][89ABab][0-9A-Fa-f]{2}"  \
    "\\\\u[Dd][C-Fc-f][0-9A-Fa-f]{2}))"

/* @: the schema's own mark, so that two schemas may stand in one pattern. */
static const struct {
    const char *name, *pattern;
    unsigned needs;
} LIB[] = {
    [SC_CHAR] = {"char", "[^\"\\\\\\x00-\\x1f]|" ESCAPE, 0},
    [SC_NAME] = {"name", "[^\"\\\\\\x00-\\x1f]|\\\\[\"\\\\bfnrt]", 0},
    [SC_STRING] = {"string", "\"(?&char@)*\"", 1u << SC_CHAR},
    [SC_INTEGER] = {"integer", "-?(?:0|[1-9]\\d{0,17})", 0},
    [SC_NUMBER] = {"number", "-?(?:0|[1-9]\\d{0,17})(?:\\.\\d{1,17})?(?:[eE][+\\-]?\\d{1,2})?", 0},
    [SC_VALUE] = {"value",
                  "(?&string@)|(?&number@)|true|false|null|(?&object@)|\\[(?:(?&value@)(?:, "
                  "?(?&value@))*)?\\]",
                  1u << SC_CHAR | 1u << SC_NAME | 1u << SC_STRING | 1u << SC_NUMBER |
                      1u << SC_OBJECT},
    [SC_OBJECT] = {"object",
                   "\\{(?:(?&pair@)(?:, ?(?&pair@))*)?\\})(?<pair@>\"(?&name@)*\": ?(?&value@)",
                   1u << SC_VALUE},
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
    return b->len > SP_GRAMMAR_PATTERN
               ? SP_FAIL(w->d, SP_INVAL, "schema: its pattern has more than %d bytes",
                         SP_GRAMMAR_PATTERN)
               : SP_OK;
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
    return ++w->n_step > MAX_STEPS
               ? SP_FAIL(w->d, SP_INVAL, "schema: it takes more than %d steps to read", MAX_STEPS)
               : SP_OK;
}

sp_err sc_loose(sc_walk *w, const char *what)
{
    sp_buf name = {0};
    if (!w->loose)
        return SP_FAIL(w->d, SP_UNSUP,
                       "schema: %.80s cannot be enforced here; without strict it is accepted and "
                       "named in the receipt",
                       what);
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
sp_err sc_put_values(sc_walk *w, sp_buf *out, const json_t *s, const json_t *list)
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

/* Keywords that are enforced, and those that say nothing of a value. */
#define OBJECT_WORDS                                                                               \
    " properties required additionalProperties patternProperties propertyNames minProperties "     \
    "maxProperties "
#define ARRAY_WORDS " items prefixItems minItems maxItems uniqueItems "
#define STRING_WORDS " minLength maxLength pattern format "
#define NUMBER_WORDS " minimum maximum exclusiveMinimum exclusiveMaximum multipleOf "
#define WORDS                                                                                      \
    " type nullable enum const anyOf oneOf " OBJECT_WORDS ARRAY_WORDS STRING_WORDS NUMBER_WORDS
#define NOTES                                                                                      \
    " $schema $id $comment $defs definitions title description default examples example readOnly " \
    "writeOnly deprecated discriminator "

/* --- keywords --------------------------------------------------------------------------------- */

static bool is_among(const char *words, const char *word)
{
    char with_space[66];
    snprintf(with_space, sizeof with_space, " %.60s ", word);
    return strlen(word) <= 60 && !strchr(word, ' ') && strstr(words, with_space);
}

sp_err sc_check_keys(sc_walk *w, const json_t *s)
{
    const char *key;
    json_t *v;
    json_object_foreach ((json_t *)(uintptr_t)s, key, v) {
        bool is_tuple = strcmp(key, "additionalItems") == 0;
        is_tuple = is_tuple && json_is_array(json_object_get(s, "items"));
        if (!is_among(WORDS NOTES, key) && !is_tuple)
            SP_TRY(sc_loose(w, key));
    }
    return SP_OK;
}

/* Has a schema one of these words? Each stands between spaces. */
bool sc_speaks_of(const json_t *s, const char *words)
{
    const char *key;
    json_t *v;
    json_object_foreach ((json_t *)(uintptr_t)s, key, v)
        if (is_among(words, key))
            return true;
    return false;
}

/* A schema as a rule of its own. */
static sp_err make_rule(sc_walk *w, size_t *rule, const json_t *s, int depth)
{
    sp_buf body = {0};
    *rule = w->n_rule++;
    sp_err err = sc_put_schema(w, &body, s, depth);
    if (err == SP_OK)
        return sc_define(w, *rule, &body);
    sp_buf_fini(&body);
    return err;
}

/* --- arrays ----------------------------------------------------------------------------------- */

/* lo to hi parts apart by commas; after: others came before them. hi SC_TIMES: no end. */
void sc_put_list(sc_walk *w, sp_buf *out, size_t rule, json_int_t lo, json_int_t hi, bool after)
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
    sp_buf_printf(out, hi >= SC_TIMES ? "){%lld,}" : "){%lld,%lld}",
                  (long long)(from > 0 ? from : 0), (long long)(hi - !after));
    if (!after)
        sp_buf_puts(out, lo ? ")" : ")?");
}

/* Items with places of their own, as rules one behind the other: the one of place i is first + i,
 * the last one what follows them. */
static sp_err put_places(sc_walk *w, const json_t *list, size_t first, json_int_t lo, json_int_t hi,
                         const size_t *item, int depth)
{
    json_int_t n = (json_int_t)json_array_size(list);
    for (json_int_t i = n; i >= 0; i--) {
        sp_buf body = {0};
        size_t rule;
        if (i == n && item) {
            sc_put_list(w, &body, *item, lo > n ? lo - n : 0,
                        hi == SC_TIMES ? SC_TIMES
                        : hi > n       ? hi - n
                                       : 0,
                        n > 0);
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
    SP_TRY(sc_count(w, &hi, s, "maxItems", SC_TIMES));
    hi = hi < SC_TIMES ? hi : SC_TIMES;
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
        sc_put_list(w, out, item, lo, hi, false);
    }
    sp_buf_puts(out, "\\]");
    return SP_OK;
}

/* --- all -------------------------------------------------------------------------------------- */

/* Which types a schema without one speaks of: those that its keywords are for; none: all. */
static const char *const TYPES[] = {"object", "array",   "string", "integer",
                                    "number", "boolean", "null"};
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
            return SP_FAIL(w->d, SP_INVAL,
                           "schema: type %.30s is none of object, array, string, integer, number, "
                           "boolean, null",
                           name ? name : "that is no name");
        is[k] = true;
    }
    if (!t) {
        is[OBJECT] = sc_speaks_of(s, OBJECT_WORDS);
        is[ARRAY] = sc_speaks_of(s, ARRAY_WORDS);
        is[STRING] = sc_speaks_of(s, STRING_WORDS);
        is[NUMBER] = sc_speaks_of(s, NUMBER_WORDS);
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
    case OBJECT: return sc_put_object(w, out, s, depth);
    case ARRAY: return put_array(w, out, s, depth);
    case STRING: return sc_put_string(w, out, s);
    case INTEGER:
    case NUMBER: return sc_put_number(w, out, s, type == INTEGER);
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
            if (!json_is_object(json_array_get(list, i)) ||
                !json_is_object(json_array_get(list, k)))
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
    if (!json_is_array(list) || json_array_size(list) == 0)
        return SP_FAIL(w->d, SP_INVAL, "schema: %s needs a list that is not empty", word);
    json_t *rest = json_copy((json_t *)(uintptr_t)s);
    if (!rest || json_array_append_new(w->own, rest) != 0)
        return SP_FAIL(w->d, SP_NOMEM, "schema");
    json_object_del(rest, word);
    if (word[0] == 'o')
        SP_TRY(check_apart(w, list));
    bool alone = !sc_speaks_of(rest, WORDS);
    sp_buf_puts(out, "(?:");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *one = json_array_get(list, i);
        json_t *joined = alone ? NULL : json_pack("{s:[O,O]}", "allOf", rest, one);
        if (joined && json_array_append_new(w->own, joined) != 0)
            return SP_FAIL(w->d, SP_NOMEM, "schema");
        sp_buf_puts(out, i ? "|" : "");
        SP_TRY(sc_put_schema(w, out, joined ? joined : one, depth));
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
        if (json_object_set_new(w->names, ref, json_integer((json_int_t)rule)) != 0 ||
            json_array_append_new(w->todo, json_string(ref)) != 0)
            return SP_FAIL(w->d, SP_NOMEM, "schema");
    }
    sc_put_rule(w, out, rule);
    return SP_OK;
}

static bool is_only_ref(const json_t *s)
{
    const char *key;
    json_t *v;
    size_t n = 0;
    json_object_foreach ((json_t *)(uintptr_t)s, key, v)
        n += strcmp(key, "$ref") == 0 || is_among(NOTES, key);
    return n == json_object_size(s) && json_is_string(json_object_get(s, "$ref"));
}

/* Keywords beside a list of values that sc_fits does not look at: they are not enforced, where one
 * of the values is of the type that they are for. */
static sp_err check_beside(sc_walk *w, const json_t *s, const json_t *list)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *value = json_array_get(list, i);
        const char *words = json_is_object(value)   ? OBJECT_WORDS
                            : json_is_array(value)  ? ARRAY_WORDS
                            : json_is_string(value) ? " pattern format "
                                                    : "";
        const char *key;
        json_t *v;
        if (!sc_fits(s, value))
            continue;
        json_object_foreach ((json_t *)(uintptr_t)s, key, v)
            if (is_among(words, key))
                SP_TRY(sc_loose(w, key));
    }
    return SP_OK;
}

sp_err sc_put_schema(sc_walk *w, sp_buf *out, const json_t *s, int depth)
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
    SP_TRY(sc_check_keys(w, flat));
    if (json_object_get(flat, "anyOf"))
        return put_branches(w, out, flat, "anyOf", depth);
    if (json_object_get(flat, "oneOf"))
        return put_branches(w, out, flat, "oneOf", depth);
    if (json_object_get(flat, "const")) {
        const json_t *list = json_object_get(flat, "enum"), *value = json_object_get(flat, "const");
        json_t *one = json_array();
        if (!one || json_array_append_new(w->own, one) != 0)
            return SP_FAIL(w->d, SP_NOMEM, "schema");
        if (!list || sc_holds(list, value))
            json_array_append(one, (json_t *)(uintptr_t)value);
        SP_TRY(check_beside(w, flat, one));
        return sc_put_values(w, out, flat, one);
    }
    if (json_object_get(flat, "enum")) {
        SP_TRY(check_beside(w, flat, json_object_get(flat, "enum")));
        return sc_put_values(w, out, flat, json_object_get(flat, "enum"));
    }
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
        sp_err err = sc_put_schema(w, &body, at, 0);
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
    sc_walk w = {.loose = loose,
                 .root = schema,
                 .own = json_array(),
                 .names = json_object(),
                 .todo = json_array(),
                 .id = out->len,
                 .d = d};
    sp_buf main = {0};
    sp_err err = w.own && w.names && w.todo ? sc_put_schema(&w, &main, schema, 0)
                                            : SP_FAIL(d, SP_NOMEM, "schema");
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
