/* JSON schemas as patterns; see grammar.h. */
#include "gen/grammar.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_DEPTH = 24, MAX_REPEAT = 512, MAX_PATTERN = SP_GRAMMAR_PATTERN };

void sp_grammar_quote(sp_buf *out, const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if ((unsigned char)p[i] < 0x20)
            sp_buf_printf(out, "\\x%02x", (unsigned char)p[i]);
        else {
            if (strchr("\\.[](){}|*+?^$", p[i]))
                sp_buf_putc(out, '\\');
            sp_buf_putc(out, p[i]);
        }
    }
}

static sp_err put_value(sp_buf *out, const json_t *v, sp_diag *d)
{
    char *text = json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY);
    if (!text)
        return SP_FAIL(d, SP_NOMEM, "schema");
    sp_grammar_quote(out, text, strlen(text));
    free(text);
    return SP_OK;
}

/* A name as it stands in JSON: in quotes, with what must be escaped. */
static sp_err put_name(sp_buf *out, const char *name, sp_diag *d)
{
    json_t *v = json_string(name);
    sp_err err = v ? put_value(out, v, d) : SP_FAIL(d, SP_NOMEM, "schema");
    json_decref(v);
    return err;
}

static sp_err check_keys(const json_t *s, const char *allowed, sp_diag *d)
{
    const char *key;
    json_t *v;
    json_object_foreach ((json_t *)(uintptr_t)s, key, v) {
        char with_space[66];
        if (strlen(key) > 60)
            return SP_FAIL(d, SP_UNSUP, "schema: %.60s… is not supported", key);
        snprintf(with_space, sizeof with_space, " %s ", key);
        if (!strstr(allowed, with_space))
            return SP_FAIL(d, SP_UNSUP, "schema: %s is not supported here", key);
    }
    return SP_OK;
}

static sp_err put_schema(sp_buf *out, const json_t *s, int depth, sp_diag *d);

/* Checked after each part: one part adds at most what it stands for in the request. */
static sp_err check_size(const sp_buf *out, sp_diag *d)
{
    return out->len > MAX_PATTERN ? SP_FAIL(d, SP_INVAL, "schema: its pattern has more than %d bytes", MAX_PATTERN) : SP_OK;
}

static bool is_of_type(const json_t *v, const char *type)
{
    switch (json_typeof(v)) {
    case JSON_OBJECT: return strcmp(type, "object") == 0;
    case JSON_ARRAY: return strcmp(type, "array") == 0;
    case JSON_STRING: return strcmp(type, "string") == 0;
    case JSON_INTEGER: return strcmp(type, "integer") == 0 || strcmp(type, "number") == 0;
    case JSON_REAL: return strcmp(type, "number") == 0;
    case JSON_NULL: return strcmp(type, "null") == 0;
    default: return strcmp(type, "boolean") == 0;
    }
}

/* The values of an enum that its type allows. */
static sp_err put_values(sp_buf *out, const json_t *list, const char *type, sp_diag *d)
{
    size_t n = 0;
    if (!json_is_array(list) || json_array_size(list) == 0)
        return SP_FAIL(d, SP_INVAL, "schema: enum needs a list that is not empty");
    sp_buf_putc(out, '(');
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *v = json_array_get(list, i);
        if (type && !is_of_type(v, type))
            continue;
        sp_buf_puts(out, n++ ? "|" : "");
        SP_TRY(put_value(out, v, d));
        SP_TRY(check_size(out, d));
    }
    sp_buf_putc(out, ')');
    return n ? SP_OK : SP_FAIL(d, SP_INVAL, "schema: no value of enum is of the type %.30s", type);
}

static sp_err put_choices(sp_buf *out, const json_t *list, int depth, sp_diag *d)
{
    if (!json_is_array(list) || json_array_size(list) == 0)
        return SP_FAIL(d, SP_INVAL, "schema: anyOf needs a list that is not empty");
    sp_buf_putc(out, '(');
    for (size_t i = 0; i < json_array_size(list); i++) {
        sp_buf_puts(out, i ? "|" : "");
        SP_TRY(put_schema(out, json_array_get(list, i), depth, d));
    }
    sp_buf_putc(out, ')');
    return SP_OK;
}

/* Every name is one of the properties, and stands there once. */
static sp_err check_required(const json_t *required, const json_t *properties, sp_diag *d)
{
    json_t *seen = required ? json_object() : NULL;
    sp_err err = !required || json_is_array(required) ? SP_OK : SP_FAIL(d, SP_INVAL, "schema: required must be a list of names");
    for (size_t i = 0; i < json_array_size(required) && err == SP_OK; i++) {
        const char *name = json_string_value(json_array_get(required, i));
        if (!name)
            err = SP_FAIL(d, SP_INVAL, "schema: required[%zu] is not a string", i);
        else if (!json_object_get(properties, name))
            err = SP_FAIL(d, SP_INVAL, "schema: required names %.80s, which is no property", name);
        else if (json_object_get(seen, name) || json_object_set_new(seen, name, json_true()) != 0)
            err = SP_FAIL(d, SP_INVAL, "schema: required names %.80s twice", name);
    }
    if (err == SP_OK && required && json_array_size(required) != json_object_size(properties))
        err = SP_FAIL(d, SP_UNSUP, "schema: required must name every property");
    json_decref(seen);
    return err;
}

static sp_err put_object(sp_buf *out, const json_t *s, int depth, sp_diag *d)
{
    const json_t *p = json_object_get(s, "properties"), *more = json_object_get(s, "additionalProperties");
    const char *key;
    json_t *v;
    size_t n = 0;
    SP_TRY(check_keys(s, " type properties required additionalProperties title description ", d));
    if (!json_is_object(p) || (more && !json_is_false(more)))
        return SP_FAIL(d, SP_UNSUP, "schema: an object needs properties, and additionalProperties can only be false");
    SP_TRY(check_required(json_object_get(s, "required"), p, d));
    sp_buf_puts(out, "\\{");
    json_object_foreach ((json_t *)(uintptr_t)p, key, v) {
        sp_buf_puts(out, n++ ? ", ?" : "");
        SP_TRY(put_name(out, key, d));
        sp_buf_puts(out, ": ?");
        SP_TRY(put_schema(out, v, depth, d));
    }
    sp_buf_puts(out, "\\}");
    return SP_OK;
}

/* An integer from 0 to MAX_REPEAT; absent: fallback. */
static sp_err read_count(json_int_t *out, const json_t *s, const char *key, json_int_t fallback, sp_diag *d)
{
    const json_t *v = json_object_get(s, key);
    *out = v ? json_integer_value(v) : fallback;
    if (v && (!json_is_integer(v) || *out < 0))
        return SP_FAIL(d, SP_INVAL, "schema: %s must be an integer of at least 0", key);
    return *out <= MAX_REPEAT ? SP_OK : SP_FAIL(d, SP_UNSUP, "schema: %s is more than %d", key, MAX_REPEAT);
}

static sp_err put_array(sp_buf *out, const json_t *s, int depth, sp_diag *d)
{
    json_int_t lo, hi;
    SP_TRY(check_keys(s, " type items minItems maxItems title description ", d));
    SP_TRY(read_count(&lo, s, "minItems", 0, d));
    SP_TRY(read_count(&hi, s, "maxItems", -1, d));
    if (hi >= 0 && hi < lo)
        return SP_FAIL(d, SP_INVAL, "schema: minItems is more than maxItems");
    if (!json_object_get(s, "items"))
        return SP_FAIL(d, SP_UNSUP, "schema: an array needs items");
    sp_buf item = {0};
    sp_err err = put_schema(&item, json_object_get(s, "items"), depth, d);
    if (err == SP_OK && hi == 0)
        sp_buf_puts(out, "\\[\\]");
    if (err == SP_OK && hi != 0) { /* the item stands there twice: each level at most doubles what check_size has seen */
        const char *p = sp_buf_str(&item);
        sp_buf_printf(out, lo ? "\\[%s(, ?%s){%lld," : "\\[(%s(, ?%s){%lld,", p, p, (long long)(lo ? lo - 1 : 0));
        if (hi > 0)
            sp_buf_printf(out, "%lld", (long long)hi - 1);
        sp_buf_puts(out, lo ? "}\\]" : "})?\\]");
    }
    sp_buf_fini(&item);
    return err == SP_OK ? check_size(out, d) : err;
}

static sp_err put_string(sp_buf *out, const json_t *s, sp_diag *d)
{
    json_int_t max;
    SP_TRY(check_keys(s, " type maxLength title description ", d));
    SP_TRY(read_count(&max, s, "maxLength", -1, d));
    sp_buf_puts(out, "\"([^\"\\\\\\x00-\\x1f]|\\\\[\"\\\\/bfnrt])");
    if (max >= 0)
        sp_buf_printf(out, "{0,%lld}\"", (long long)max);
    else
        sp_buf_puts(out, "*\"");
    return SP_OK;
}

static sp_err put_const(sp_buf *out, const json_t *v, const char *type, sp_diag *d)
{
    if (type && !is_of_type(v, type))
        return SP_FAIL(d, SP_INVAL, "schema: const is not of the type %.30s", type);
    SP_TRY(put_value(out, v, d));
    return check_size(out, d);
}

static sp_err put_scalar(sp_buf *out, const json_t *s, const char *type, sp_diag *d)
{
    static const struct { const char *type, *pattern; } of[] = {
        {"integer", "-?(0|[1-9]\\d{0,17})"}, {"number", "-?(0|[1-9]\\d{0,17})(\\.\\d{1,17})?([eE][+\\-]?\\d{1,3})?"},
        {"boolean", "(true|false)"}, {"null", "null"}};
    SP_TRY(check_keys(s, " type title description ", d));
    for (size_t i = 0; i < sizeof of / sizeof of[0]; i++) {
        if (strcmp(of[i].type, type) == 0) {
            sp_buf_puts(out, of[i].pattern);
            return SP_OK;
        }
    }
    return SP_FAIL(d, SP_UNSUP, "schema: type %.30s is not supported", type);
}

static sp_err put_schema(sp_buf *out, const json_t *s, int depth, sp_diag *d)
{
    const char *type = json_string_value(json_object_get(s, "type"));
    if (!json_is_object(s))
        return SP_FAIL(d, SP_INVAL, "schema: an object is expected");
    if (depth++ > MAX_DEPTH)
        return SP_FAIL(d, SP_INVAL, "schema: nested deeper than %d", MAX_DEPTH);
    SP_TRY(check_size(out, d));
    if (json_object_get(s, "type") && !type)
        return SP_FAIL(d, SP_UNSUP, "schema: type must be one string");
    if (json_object_get(s, "enum")) {
        SP_TRY(check_keys(s, " type enum title description ", d));
        return put_values(out, json_object_get(s, "enum"), type, d);
    }
    if (json_object_get(s, "const")) {
        SP_TRY(check_keys(s, " type const title description ", d));
        return put_const(out, json_object_get(s, "const"), type, d);
    }
    if (json_object_get(s, "anyOf")) {
        SP_TRY(check_keys(s, " anyOf title description ", d));
        return put_choices(out, json_object_get(s, "anyOf"), depth, d);
    }
    if (!type)
        return SP_FAIL(d, SP_UNSUP, "schema: type must be one string, or there must be enum, const or anyOf");
    return strcmp(type, "object") == 0  ? put_object(out, s, depth, d)
           : strcmp(type, "array") == 0  ? put_array(out, s, depth, d)
           : strcmp(type, "string") == 0 ? put_string(out, s, d)
                                         : put_scalar(out, s, type, d);
}

sp_err sp_grammar_schema(sp_buf *out, const json_t *schema, sp_diag *d)
{
    SP_TRY(put_schema(out, schema, 0, d));
    return out->failed ? SP_FAIL(d, SP_NOMEM, "schema") : SP_OK;
}
