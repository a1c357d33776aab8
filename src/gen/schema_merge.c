/* Several schemas that must all hold become one. */
#include "gen/schema_int.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_REFS = 32, MAX_PRODUCT = 256 };

/* --- $ref ------------------------------------------------------------------------------------- */

static int hex(char c)
{
    return c >= '0' && c <= '9'                 ? c - '0'
           : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10
                                                : -1;
}

/* One name of a JSON pointer (RFC 6901) in a URI fragment, up to the next slash. */
static const char *read_part(sp_buf *out, const char *p)
{
    for (; *p && *p != '/'; p++) {
        if (p[0] == '%' && hex(p[1]) >= 0 && hex(p[2]) >= 0) {
            sp_buf_putc(out, (char)(hex(p[1]) * 16 + hex(p[2])));
            p += 2;
        } else if (p[0] == '~' && (p[1] == '0' || p[1] == '1')) {
            sp_buf_putc(out, p[1] == '0' ? '~' : '/');
            p++;
        } else {
            sp_buf_putc(out, *p);
        }
    }
    return p;
}

sp_err sc_resolve(sc_walk *w, const json_t **out, const char *ref)
{
    const json_t *at = w->root;
    const char *p = ref + 1;
    if (ref[0] != '#' || (*p && *p != '/'))
        return SP_FAIL(
            w->d, SP_UNSUP,
            "schema: $ref %.80s: only places in the same schema can be referred to (#/…)", ref);
    while (*p && at) {
        sp_buf part = {0};
        p = read_part(&part, p + 1);
        const char *name = sp_buf_str(&part);
        at = json_is_array(at) ? json_array_get(at, strtoul(name, NULL, 10))
                               : json_object_get(at, name);
        sp_buf_fini(&part);
    }
    if (!at)
        return SP_FAIL(w->d, SP_INVAL, "schema: $ref %.80s: there is no such place in the schema",
                       ref);
    *out = at;
    return SP_OK;
}

/* --- merging ---------------------------------------------------------------------------------- */

static bool is_one_of(const char *word, const char *const *list)
{
    for (; *list; list++)
        if (strcmp(*list, word) == 0)
            return true;
    return false;
}

static json_t *both(const json_t *a, const json_t *b)
{
    return json_pack("{s:[O,O]}", "allOf", a, b);
}

/* Types as a list; a schema without any: NULL. */
static json_t *type_list(const json_t *v)
{
    return json_is_array(v)    ? json_copy((json_t *)(uintptr_t)v)
           : json_is_string(v) ? json_pack("[O]", v)
                               : NULL;
}

static bool has_word(const json_t *list, const char *word)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *s = json_string_value(json_array_get(list, i));
        if (s && strcmp(s, word) == 0)
            return true;
    }
    return false;
}

static json_t *common_types(const json_t *a, const json_t *b)
{
    json_t *x = type_list(a), *y = type_list(b), *out = json_array();
    for (size_t i = 0; i < json_array_size(x); i++) {
        const char *s = json_string_value(json_array_get(x, i));
        if (s && (has_word(y, s) || (strcmp(s, "integer") == 0 && has_word(y, "number"))))
            json_array_append_new(out, json_string(s));
        else if (s && strcmp(s, "number") == 0 && has_word(y, "integer"))
            json_array_append_new(out, json_string("integer"));
    }
    json_decref(x);
    json_decref(y);
    return out;
}

bool sc_holds(const json_t *list, const json_t *v)
{
    for (size_t i = 0; i < json_array_size(list); i++)
        if (json_equal(json_array_get(list, i), v))
            return true;
    return false;
}

static json_t *common_values(const json_t *a, const json_t *b)
{
    json_t *out = json_array();
    for (size_t i = 0; i < json_array_size(a); i++)
        if (sc_holds(b, json_array_get(a, i)))
            json_array_append(out, json_array_get(a, i));
    return out;
}

static json_t *all_values(const json_t *a, const json_t *b)
{
    json_t *out = json_copy((json_t *)(uintptr_t)a);
    for (size_t i = 0; i < json_array_size(b); i++)
        if (!sc_holds(out, json_array_get(b, i)))
            json_array_append(out, json_array_get(b, i));
    return out;
}

/* One of each list, in every combination. */
static json_t *product(const json_t *a, const json_t *b)
{
    json_t *out = json_array();
    for (size_t i = 0; i < json_array_size(a); i++)
        for (size_t k = 0; k < json_array_size(b); k++)
            json_array_append_new(out, both(json_array_get(a, i), json_array_get(b, k)));
    return out;
}

/* What additionalProperties of one says holds for the properties that only the other one has. */
static void bound_properties(json_t *properties, const json_t *other)
{
    const json_t *more = json_object_get(other, "additionalProperties"),
                 *known = json_object_get(other, "properties");
    const char *key;
    json_t *v;
    if (!more || json_is_true(more) || json_object_get(other, "patternProperties"))
        return;
    json_object_foreach (properties, key, v)
        if (!json_object_get(known, key))
            json_object_set_new(properties, key,
                                json_is_false(more) ? json_false() : both(v, more));
}

static json_t *all_properties(const json_t *a, const json_t *b, const json_t *of_a,
                              const json_t *of_b, bool named)
{
    json_t *x = json_copy((json_t *)(uintptr_t)a), *y = json_copy((json_t *)(uintptr_t)b), *v;
    const char *key;
    if (named) {
        bound_properties(x, of_b);
        bound_properties(y, of_a);
    }
    json_object_foreach (y, key, v) {
        json_t *old = json_object_get(x, key);
        json_object_set_new(x, key, old && !json_equal(old, v) ? both(old, v) : json_incref(v));
    }
    json_decref(y);
    return x;
}

static json_t *all_items(const json_t *a, const json_t *b)
{
    json_t *out = json_array();
    size_t n = json_array_size(a), m = json_array_size(b);
    for (size_t i = 0; i < n || i < m; i++) {
        json_t *x = json_array_get(a, i), *y = json_array_get(b, i);
        json_array_append_new(out, x && y ? both(x, y) : json_incref(x ? x : y));
    }
    return out;
}

/* The value of a keyword that both have; NULL: it is none of those that can be joined. */
static json_t *join(const char *key, const json_t *x, const json_t *y, const json_t *a,
                    const json_t *b)
{
    static const char *const least[] = {"minimum",  "exclusiveMinimum", "minLength",
                                        "minItems", "minProperties",    NULL};
    static const char *const most[] = {"maximum",  "exclusiveMaximum", "maxLength",
                                       "maxItems", "maxProperties",    NULL};
    static const char *const inner[] = {"items", "additionalProperties", "propertyNames", NULL};
    static const char *const notes[] = {"title",         "description", "default",  "examples",
                                        "$schema",       "$id",         "$comment", "readOnly",
                                        "writeOnly",     "deprecated",  "$defs",    "definitions",
                                        "discriminator", NULL};
    if (is_one_of(key, notes))
        return json_incref((json_t *)(uintptr_t)x);
    if (is_one_of(key, least) && json_is_number(x) && json_is_number(y))
        return json_incref(
            (json_t *)(uintptr_t)(json_number_value(x) >= json_number_value(y) ? x : y));
    if (is_one_of(key, most) && json_is_number(x) && json_is_number(y))
        return json_incref(
            (json_t *)(uintptr_t)(json_number_value(x) <= json_number_value(y) ? x : y));
    if (is_one_of(key, inner))
        return json_is_true(x) || json_is_false(y)   ? json_incref((json_t *)(uintptr_t)y)
               : json_is_true(y) || json_is_false(x) ? json_incref((json_t *)(uintptr_t)x)
                                                     : both(x, y);
    if (strcmp(key, "type") == 0)
        return common_types(x, y);
    if (strcmp(key, "enum") == 0)
        return common_values(x, y);
    if (strcmp(key, "required") == 0)
        return all_values(x, y);
    if (strcmp(key, "properties") == 0 || strcmp(key, "patternProperties") == 0)
        return all_properties(x, y, a, b, key[1] == 'r');
    if (strcmp(key, "prefixItems") == 0)
        return all_items(x, y);
    if ((strcmp(key, "anyOf") == 0 || strcmp(key, "oneOf") == 0) &&
        json_array_size(x) * json_array_size(y) <= MAX_PRODUCT)
        return product(x, y);
    if (strcmp(key, "nullable") == 0)
        return json_boolean(json_is_true(x) && json_is_true(y));
    if (strcmp(key, "uniqueItems") == 0)
        return json_boolean(json_is_true(x) || json_is_true(y));
    return NULL;
}

sp_err sc_merge(sc_walk *w, json_t *a, const json_t *b)
{
    const char *key;
    json_t *y, *before = json_copy(a);
    sp_err err = before ? sc_step(w) : SP_FAIL(w->d, SP_NOMEM, "schema");
    if (err == SP_OK && json_object_get(a, "properties") &&
        !json_object_get(b, "properties")) { /* b's additionalProperties holds for a's */
        json_t *p = json_copy(json_object_get(a, "properties"));
        bound_properties(p, b);
        json_object_set_new(a, "properties", p);
    }
    json_object_foreach ((json_t *)(uintptr_t)b, key, y) {
        json_t *x = json_object_get(a, key), *j;
        if (err != SP_OK)
            break;
        if (!x && strcmp(key, "properties") == 0) {
            j = json_copy(y);
            bound_properties(j, before);
            json_object_set_new(a, key, j);
        } else if (!x) {
            json_object_set(a, key, y);
        } else if (!json_equal(x, y)) {
            j = join(key, x, y, before, b);
            if (j)
                json_object_set_new(a, key, j);
            else if (strcmp(key, "const") == 0)
                json_object_set_new(a, "enum", json_array()); /* no value */
            else
                err = sc_loose(w, key);
        }
    }
    json_decref(before);
    return err;
}

static sp_err add(sc_walk *w, json_t *to, const json_t *s, int depth);

/* The parts that a schema refers to, after its own words. */
static sp_err add_parts(sc_walk *w, json_t *to, const json_t *s, int depth)
{
    const json_t *ref = json_object_get(s, "$ref"), *all = json_object_get(s, "allOf"), *at;
    if (ref && !json_is_string(ref))
        return SP_FAIL(w->d, SP_INVAL, "schema: $ref must be a string");
    if (ref) {
        SP_TRY(sc_resolve(w, &at, json_string_value(ref)));
        SP_TRY(add(w, to, at, depth));
    }
    if (all && (!json_is_array(all) || json_array_size(all) == 0))
        return SP_FAIL(w->d, SP_INVAL, "schema: allOf needs a list that is not empty");
    for (size_t i = 0; i < json_array_size(all); i++)
        SP_TRY(add(w, to, json_array_get(all, i), depth));
    return SP_OK;
}

static sp_err add(sc_walk *w, json_t *to, const json_t *s, int depth)
{
    if (depth > MAX_REFS)
        return SP_FAIL(w->d, SP_INVAL,
                       "schema: $ref and allOf lead on more than %d times, or in a circle",
                       MAX_REFS);
    if (json_is_true(s))
        return SP_OK;
    if (json_is_false(s))
        return json_object_set_new(to, "enum", json_array()) == 0
                   ? SP_OK
                   : SP_FAIL(w->d, SP_NOMEM, "schema");
    if (!json_is_object(s))
        return SP_FAIL(w->d, SP_INVAL, "schema: an object is expected");
    json_t *own = json_copy((json_t *)(uintptr_t)s);
    if (!own)
        return SP_FAIL(w->d, SP_NOMEM, "schema");
    json_object_del(own, "$ref");
    json_object_del(own, "allOf");
    sp_err err = sc_merge(w, to, own);
    json_decref(own);
    return err == SP_OK ? add_parts(w, to, s, depth + 1) : err;
}

sp_err sc_flatten(sc_walk *w, json_t **out, const json_t *s)
{
    if (!json_object_get(s, "$ref") && !json_object_get(s, "allOf")) {
        *out = (json_t *)(uintptr_t)s;
        return SP_OK;
    }
    json_t *to = json_object();
    if (!to || json_array_append_new(w->own, to) != 0)
        return SP_FAIL(w->d, SP_NOMEM, "schema");
    SP_TRY(add(w, to, s, 0));
    *out = to;
    return SP_OK;
}

/* --- what can be known of two ----------------------------------------------------------------- */

static bool is_of(const json_t *v, const char *type)
{
    switch (json_typeof(v)) {
    case JSON_OBJECT: return strcmp(type, "object") == 0;
    case JSON_ARRAY: return strcmp(type, "array") == 0;
    case JSON_STRING: return strcmp(type, "string") == 0;
    case JSON_INTEGER: return strcmp(type, "integer") == 0 || strcmp(type, "number") == 0;
    case JSON_REAL:
        return strcmp(type, "number") == 0 ||
               (strcmp(type, "integer") == 0 && json_real_value(v) == floor(json_real_value(v)));
    case JSON_NULL: return strcmp(type, "null") == 0;
    default: return strcmp(type, "boolean") == 0;
    }
}

static bool is_in_bounds(const json_t *s, const char *lo, const char *hi, double v)
{
    const json_t *a = json_object_get(s, lo), *b = json_object_get(s, hi);
    return !(json_is_number(a) && v < json_number_value(a)) &&
           !(json_is_number(b) && v > json_number_value(b));
}

static size_t n_chars(const json_t *v)
{
    size_t n = 0;
    for (const char *p = json_string_value(v); p && *p; p++)
        n += (*p & 0xc0) != 0x80;
    return n;
}

bool sc_fits(const json_t *s, const json_t *v)
{
    const json_t *type = json_object_get(s, "type"), *lo = json_object_get(s, "exclusiveMinimum"),
                 *hi = json_object_get(s, "exclusiveMaximum");
    bool ok = !type || (json_is_string(type) && is_of(v, json_string_value(type))) ||
              (json_is_null(v) && json_is_true(json_object_get(s, "nullable")));
    for (size_t i = 0; i < json_array_size(type) && !ok; i++)
        ok = json_is_string(json_array_get(type, i)) &&
             is_of(v, json_string_value(json_array_get(type, i)));
    if (json_is_number(v))
        ok = ok && is_in_bounds(s, "minimum", "maximum", json_number_value(v)) &&
             !(json_is_number(lo) && json_number_value(v) <= json_number_value(lo)) &&
             !(json_is_number(hi) && json_number_value(v) >= json_number_value(hi));
    double multiple = json_number_value(json_object_get(s, "multipleOf"));
    if (json_is_number(v) && multiple >= 1)
        ok = ok && fmod(json_number_value(v), multiple) == 0;
    if (json_is_string(v))
        ok = ok && is_in_bounds(s, "minLength", "maxLength", (double)n_chars(v));
    return ok;
}

/* The values that a schema names; NULL: it names none. The caller lets go of it. */
static json_t *values_of(const json_t *s)
{
    json_t *one = json_object_get(s, "const"), *list = json_object_get(s, "enum");
    return one ? json_pack("[O]", one) : json_is_array(list) ? json_incref(list) : NULL;
}

static bool are_apart(json_t *x, json_t *y)
{
    bool apart = x && y;
    for (size_t i = 0; i < json_array_size(x) && apart; i++)
        apart = !sc_holds(y, json_array_get(x, i));
    json_decref(x);
    json_decref(y);
    return apart;
}

/* Does a need a property that b forbids, or of which b needs another value? */
static bool is_told_apart(const json_t *a, const json_t *b)
{
    const json_t *need = json_object_get(a, "required"), *pa = json_object_get(a, "properties"),
                 *pb = json_object_get(b, "properties");
    for (size_t i = 0; i < json_array_size(need); i++) {
        const char *name = json_string_value(json_array_get(need, i));
        const json_t *other = name ? json_object_get(pb, name) : NULL;
        if (name && !other && json_is_false(json_object_get(b, "additionalProperties")) &&
            !json_object_get(b, "patternProperties"))
            return true;
        if (other && are_apart(values_of(json_object_get(pa, name)), values_of(other)))
            return true;
    }
    return false;
}

bool sc_is_apart(const json_t *a, const json_t *b)
{
    json_t *x = type_list(json_object_get(a, "type")), *y = type_list(json_object_get(b, "type"));
    bool nullable = json_is_true(json_object_get(a, "nullable")) &&
                    json_is_true(json_object_get(b, "nullable"));
    json_t *common = x && y ? common_types(x, y) : NULL;
    bool apart = common && json_array_size(common) == 0 && !nullable;
    bool objects =
        common && json_array_size(common) == 1 && has_word(common, "object") && !nullable;
    json_decref(common);
    json_decref(x);
    json_decref(y);
    return apart || are_apart(values_of(a), values_of(b)) ||
           (objects && (is_told_apart(a, b) || is_told_apart(b, a)));
}
