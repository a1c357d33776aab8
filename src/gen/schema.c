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

static sp_err put_list(sp_buf *out, const json_t *list, bool values, int depth, sp_diag *d)
{
    if (!json_is_array(list) || json_array_size(list) == 0)
        return SP_FAIL(d, SP_INVAL, "schema: enum and anyOf need a list that is not empty");
    sp_buf_putc(out, '(');
    for (size_t i = 0; i < json_array_size(list); i++) {
        if (i)
            sp_buf_putc(out, '|');
        SP_TRY(values ? put_value(out, json_array_get(list, i), d) : put_schema(out, json_array_get(list, i), depth, d));
    }
    sp_buf_putc(out, ')');
    return SP_OK;
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
    if (json_object_get(s, "required") && json_array_size(json_object_get(s, "required")) != json_object_size(p))
        return SP_FAIL(d, SP_UNSUP, "schema: required must name every property");
    sp_buf_puts(out, "\\{");
    json_object_foreach ((json_t *)(uintptr_t)p, key, v) {
        sp_buf_puts(out, n++ ? ", ?\"" : "\"");
        sp_grammar_quote(out, key, strlen(key));
        sp_buf_puts(out, "\": ?");
        SP_TRY(put_schema(out, v, depth, d));
    }
    sp_buf_puts(out, "\\}");
    return SP_OK;
}

static sp_err put_array(sp_buf *out, const json_t *s, int depth, sp_diag *d)
{
    const json_t *min = json_object_get(s, "minItems"), *max = json_object_get(s, "maxItems");
    json_int_t lo = json_integer_value(min), hi = max ? json_integer_value(max) : -1;
    SP_TRY(check_keys(s, " type items minItems maxItems title description ", d));
    if (!json_object_get(s, "items") || lo < 0 || lo > MAX_REPEAT || hi > MAX_REPEAT || (max && (hi < lo || hi < 1)))
        return SP_FAIL(d, SP_UNSUP, "schema: an array needs items, and minItems and maxItems from 0 to %d", MAX_REPEAT);
    sp_buf item = {0};
    sp_err err = put_schema(&item, json_object_get(s, "items"), depth, d);
    if (err == SP_OK) {
        const char *p = sp_buf_str(&item);
        sp_buf_printf(out, lo ? "\\[%s(, ?%s){%lld," : "\\[(%s(, ?%s){%lld,", p, p, (long long)(lo ? lo - 1 : 0));
        if (hi > 0)
            sp_buf_printf(out, "%lld", (long long)hi - 1);
        sp_buf_puts(out, lo ? "}\\]" : "})?\\]");
    }
    sp_buf_fini(&item);
    return err;
}

static sp_err put_schema(sp_buf *out, const json_t *s, int depth, sp_diag *d)
{
    const char *type = json_string_value(json_object_get(s, "type"));
    const json_t *max = json_object_get(s, "maxLength");
    if (!json_is_object(s))
        return SP_FAIL(d, SP_INVAL, "schema: an object is expected");
    if (depth++ > MAX_DEPTH || out->len > MAX_PATTERN)
        return SP_FAIL(d, SP_INVAL, "schema: too large, or nested deeper than %d", MAX_DEPTH);
    if (json_object_get(s, "enum")) {
        SP_TRY(check_keys(s, " type enum title description ", d));
        return put_list(out, json_object_get(s, "enum"), true, depth, d);
    }
    if (json_object_get(s, "const")) {
        SP_TRY(check_keys(s, " type const title description ", d));
        return put_value(out, json_object_get(s, "const"), d);
    }
    if (json_object_get(s, "anyOf")) {
        SP_TRY(check_keys(s, " anyOf title description ", d));
        return put_list(out, json_object_get(s, "anyOf"), false, depth, d);
    }
    if (!type)
        return SP_FAIL(d, SP_UNSUP, "schema: type must be one string, or there must be enum, const or anyOf");
    if (strcmp(type, "object") == 0)
        return put_object(out, s, depth, d);
    if (strcmp(type, "array") == 0)
        return put_array(out, s, depth, d);
    SP_TRY(check_keys(s, strcmp(type, "string") == 0 ? " type maxLength title description " : " type title description ", d));
    if (max && (!json_is_integer(max) || json_integer_value(max) < 0 || json_integer_value(max) > MAX_REPEAT))
        return SP_FAIL(d, SP_UNSUP, "schema: maxLength must be from 0 to %d", MAX_REPEAT);
    if (strcmp(type, "string") == 0 && max)
        sp_buf_printf(out, "\"([^\"\\\\\\x00-\\x1f]|\\\\[\"\\\\/bfnrt]){0,%lld}\"", (long long)json_integer_value(max));
    else if (strcmp(type, "string") == 0)
        sp_buf_puts(out, "\"([^\"\\\\\\x00-\\x1f]|\\\\[\"\\\\/bfnrt])*\"");
    else if (strcmp(type, "integer") == 0)
        sp_buf_puts(out, "-?(0|[1-9]\\d{0,17})");
    else if (strcmp(type, "number") == 0)
        sp_buf_puts(out, "-?(0|[1-9]\\d{0,17})(\\.\\d{1,17})?([eE][+\\-]?\\d{1,3})?");
    else if (strcmp(type, "boolean") == 0)
        sp_buf_puts(out, "(true|false)");
    else if (strcmp(type, "null") == 0)
        sp_buf_puts(out, "null");
    else
        return SP_FAIL(d, SP_UNSUP, "schema: type %.30s is not supported", type);
    return SP_OK;
}

sp_err sp_grammar_schema(sp_buf *out, const json_t *schema, sp_diag *d)
{
    SP_TRY(put_schema(out, schema, 0, d));
    return out->failed ? SP_FAIL(d, SP_NOMEM, "schema") : SP_OK;
}
