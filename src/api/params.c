#include "api/params.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A value takes 32 bytes and more of the heap, and the process stands still while a tree of 200 MB
 * is given back: 77 ms for 7 million. */
enum { MAX_METADATA = 16, MAX_VALUES = 2000000 };

/* Refuses what is too deep for the parser, which recurses, or too much, before it is parsed. */
static sp_err check_size(const char *s, size_t n, sp_diag *d)
{
    size_t depth = 0, n_value = 1;
    bool in_string = false;
    for (size_t i = 0; i < n; i++) {
        if (in_string) {
            if (s[i] == '\\')
                i++;
            else if (s[i] == '"')
                in_string = false;
        } else if (s[i] == '"') {
            in_string = true;
        } else if (s[i] == '[' || s[i] == '{') {
            if (++depth > SP_JSON_DEPTH)
                return SP_FAIL(d, SP_INVAL, "the JSON is nested deeper than %d", SP_JSON_DEPTH);
        } else if (s[i] == ',') {
            if (++n_value > MAX_VALUES)
                return SP_FAIL(d, SP_INVAL, "the JSON has more than %d values", MAX_VALUES);
        } else if ((s[i] == ']' || s[i] == '}') && depth) {
            depth--;
        }
    }
    return SP_OK;
}

sp_err sp_params_parse(json_t **out, const char *body, size_t n, sp_diag *d)
{
    json_error_t je;
    if (n >= 3 && memcmp(body, "\xef\xbb\xbf", 3) == 0) /* a byte-order mark */
        body += 3, n -= 3;
    if (n == 0)
        return SP_FAIL(d, SP_INVAL, "the body is empty; a JSON object was expected");
    SP_TRY(check_size(body, n, d));
    json_t *j = json_loadb(body, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &je);
    if (!j)
        return SP_FAIL(d, SP_INVAL, "line %d column %d: %.150s", je.line, je.column, je.text);
    if (!json_is_object(j)) {
        json_decref(j);
        return SP_FAIL(d, SP_INVAL, "the body is not a JSON object");
    }
    *out = j;
    return SP_OK;
}

/* 2 and 2.0 are the same number. */
static bool is_whole(const json_t *v)
{
    double x = json_number_value(v);
    return json_is_integer(v) || (json_is_real(v) && x == floor(x) && fabs(x) < 0x1p53);
}

sp_err sp_params_read_one(const sp_param *p, const json_t *v, sp_diag *d)
{
    if (json_is_null(v) && p->kind & SP_P_FIRM)
        return SP_FAIL(d, SP_INVAL, "%s must not be null; leave it out to ask for nothing",
                       p->name);
    if (json_is_null(v))
        return SP_OK;
    switch (p->kind & ~(unsigned)SP_P_FIRM) {
    case SP_P_NUM:
    case SP_P_INT: {
        double x = json_number_value(v);
        bool ok = p->kind == SP_P_INT ? is_whole(v) : json_is_number(v);
        if (!ok)
            return SP_FAIL(d, SP_INVAL, "%s must be %s", p->name,
                           p->kind == SP_P_INT ? "an integer" : "a number");
        if (!(x >= p->min && x <= p->max))
            return SP_FAIL(d, SP_INVAL, "%s is %.9g; it must be from %.9g to %.9g", p->name, x,
                           p->min, p->max);
        if (p->kind == SP_P_INT)
            *(int64_t *)p->out = json_is_integer(v) ? json_integer_value(v) : (int64_t)x;
        else
            *(double *)p->out = x;
        return SP_OK;
    }
    case SP_P_BOOL:
        if (!json_is_boolean(v))
            return SP_FAIL(d, SP_INVAL, "%s must be true or false", p->name);
        *(bool *)p->out = json_is_true(v);
        return SP_OK;
    case SP_P_STR:
        if (!json_is_string(v))
            return SP_FAIL(d, SP_INVAL, "%s must be a string", p->name);
        /* read as C text, it would end there */
        if (strlen(json_string_value(v)) != json_string_length(v))
            return SP_FAIL(d, SP_INVAL, "%s must not hold the character U+0000", p->name);
        *(const char **)p->out = json_string_value(v);
        return SP_OK;
    case SP_P_JSON:
        *(const json_t **)p->out = v;
        return SP_OK;
    case SP_P_IGNORE:
        return SP_OK;
    default:
        return SP_FAIL(d, SP_UNSUP, "%s is not supported", p->name);
    }
}

const sp_param *sp_params_find(const sp_param *table, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(table[i].name, name) == 0)
            return &table[i];
    return NULL;
}

sp_err sp_params_read(const json_t *obj, const sp_param *table, size_t n, const char **bad,
                      sp_diag *d)
{
    const char *name;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)obj, name, v)
    {
        const sp_param *p = sp_params_find(table, n, name);
        *bad = p ? p->name : name;
        if (!p)
            return SP_FAIL(d, SP_UNSUP, "%.80s is not a parameter of this server", name);
        SP_TRY(sp_params_read_one(p, v, d));
    }
    *bad = NULL;
    return SP_OK;
}

sp_err sp_params_query(const sp_http_req *req, const char *names, const char **bad, sp_diag *d)
{
    for (size_t i = 0; req && req->head && i < req->head->n_query; i++) {
        const char *name = req->head->query[i].name, *at = names;
        size_t n = strlen(name);
        while (n && (at = strstr(at, name)) && (at == names || at[-1] != ' ' || at[n] != ' '))
            at++;
        *bad = name;
        if (!n || !at)
            return SP_FAIL(d, SP_INVAL, "%.60s is not a query parameter of this path", name);
    }
    *bad = NULL;
    return SP_OK;
}

sp_err sp_params_query_int(const sp_http_req *req, const char *name, int64_t *out, int64_t min,
                           int64_t max, sp_diag *d)
{
    const char *v = req ? sp_http_query(req, name) : NULL;
    char *end = NULL;
    if (!v)
        return SP_OK;
    size_t n = strlen(v);
    int64_t x = n && n <= 18 && strspn(v, "0123456789") == n ? strtoll(v, &end, 10) : -1;
    if (x < min || x > max)
        return SP_FAIL(d, SP_INVAL, "%s must be a number from %lld to %lld", name, (long long)min,
                       (long long)max);
    *out = x;
    return SP_OK;
}

int sp_api_status(sp_err err)
{
    switch (err) {
    case SP_INVAL: case SP_UNSUP: case SP_FORMAT: return 400;
    case SP_NOTFOUND: return 404;
    case SP_LIMIT: return 429;
    case SP_NET: return 502;
    case SP_TIMEOUT: return 504;
    case SP_NOMEM: case SP_AGAIN: case SP_CANCEL: case SP_DEV: return 503;
    default: return 500;
    }
}

sp_err sp_params_keep(const char **out, sp_arena *a, const json_t *v, sp_diag *d)
{
    char *text = json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY);
    *out = text ? sp_arena_strndup(a, text, strlen(text)) : NULL;
    free(text);
    return *out ? SP_OK : SP_FAIL(d, SP_NOMEM, "request");
}

sp_err sp_params_metadata(const char **out, sp_arena *a, const json_t *v, const char *name,
                          bool strings, sp_diag *d)
{
    const char *key;
    json_t *val;
    if (!v)
        return SP_OK;
    if (!json_is_object(v) || json_object_size(v) > MAX_METADATA)
        return SP_FAIL(d, SP_INVAL, "%s must be an object of at most %d entries", name,
                       MAX_METADATA);
    json_object_foreach((json_t *)(uintptr_t)v, key, val)
    {
        bool ok = json_is_string(val) ? json_string_length(val) <= 512
                                      : !strings && (json_is_number(val) || json_is_boolean(val));
        if (!ok || strlen(key) > 64)
            return SP_FAIL(d, SP_INVAL,
                           "%s.%.64s must be a string%s; strings have at most 512 bytes, names 64",
                           name, key, strings ? "" : ", number or boolean");
    }
    return sp_params_keep(out, a, v, d);
}

void sp_api_error(sp_buf *out, int status, const char *message, const char *param, const char *code)
{
    const char *type = status == 401   ? "authentication_error"
                       : status == 403 ? "permission_error"
                       : status == 429 ? "rate_limit_error"
                       : status >= 500 ? "server_error"
                                       : "invalid_request_error";
    sp_buf_puts(out, "{\"error\":{\"message\":");
    sp_buf_json_str(out, message, strlen(message));
    sp_buf_printf(out, ",\"type\":\"%s\",\"param\":", type);
    if (param)
        sp_buf_json_str(out, param, strlen(param));
    else
        sp_buf_puts(out, "null");
    sp_buf_puts(out, ",\"code\":");
    if (code)
        sp_buf_json_str(out, code, strlen(code));
    else
        sp_buf_puts(out, "null");
    sp_buf_puts(out, "}}");
}
