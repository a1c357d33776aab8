/* Test tool: runs a template. stdin: JSON {"template": …, "vars": {…}} a line; stdout: JSON
 * {"out": …, "foreign": [[at, end], …]} or {"error": …} a line. All of vars is foreign. */
#include "text/jinja.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static sp_err convert(sp_jval *out, sp_arena *a, const json_t *v)
{
    const char *key;
    json_t *item;
    size_t i;
    if (json_is_string(v)) {
        *out = sp_jinja_foreign(json_string_value(v), json_string_length(v));
    } else if (json_is_boolean(v)) {
        *out = sp_jinja_bool(json_is_true(v));
    } else if (json_is_integer(v)) {
        *out = (sp_jval){.kind = SP_J_INT, .u.i = json_integer_value(v)};
    } else if (json_is_real(v)) {
        *out = (sp_jval){.kind = SP_J_FLOAT, .u.f = json_real_value(v)};
    } else if (json_is_null(v)) {
        *out = (sp_jval){.kind = SP_J_NONE};
    } else if (json_is_array(v)) {
        SP_TRY(sp_jinja_list_new(out, a));
        json_array_foreach((json_t *)(uintptr_t)v, i, item)
        {
            sp_jval x;
            SP_TRY(convert(&x, a, item));
            SP_TRY(sp_jinja_list_add(out, a, x));
        }
    } else {
        SP_TRY(sp_jinja_map_new(out, a));
        json_object_foreach((json_t *)(uintptr_t)v, key, item)
        {
            sp_jval x;
            SP_TRY(convert(&x, a, item));
            SP_TRY(sp_jinja_map_put(out, a, sp_jinja_foreign(key, strlen(key)), x));
        }
    }
    out->mark = sp_jinja_from;
    return SP_OK;
}

int main(void)
{
    char *line = NULL;
    size_t cap = 0;
    while (getline(&line, &cap, stdin) > 0) {
        json_t *j = json_loads(line, JSON_ALLOW_NUL, NULL);
        const json_t *t = json_object_get(j, "template");
        sp_diag d = {0};
        sp_jinja *p = NULL;
        sp_arena a;
        sp_jval vars;
        sp_jranges foreign = {0};
        sp_buf out = {0}, text = {0};
        sp_arena_init(&a, 0);
        sp_err err = sp_jinja_compile(&p, json_string_value(t), json_string_length(t), &d);
        if (err == SP_OK)
            err = convert(&vars, &a, json_object_get(j, "vars"));
        if (err == SP_OK)
            err = sp_jinja_run(p, &out, &foreign, &a, &vars, &d);
        sp_buf_puts(&text, err == SP_OK ? "{\"out\":" : "{\"error\":");
        sp_buf_json_str(&text, err == SP_OK ? sp_buf_str(&out) : d.msg, err == SP_OK ? out.len : strlen(d.msg));
        sp_buf_puts(&text, err == SP_OK ? ",\"foreign\":[" : "");
        for (size_t i = 0; err == SP_OK && i < foreign.n; i++)
            sp_buf_printf(&text, "%s[%zu,%zu]", i ? "," : "", foreign.r[i].at, foreign.r[i].end);
        printf("%s%s}\n", sp_buf_str(&text), err == SP_OK ? "]" : "");
        sp_buf_fini(&out);
        sp_buf_fini(&text);
        sp_jinja_free(p);
        sp_arena_fini(&a);
        json_decref(j);
    }
    free(line);
    return 0;
}
