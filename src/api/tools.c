#include "api/tools.h"

#include <string.h>

static sp_err keep(sp_str *out, sp_ask *q, const char *text, sp_diag *d)
{
    *out =
        (sp_str){text ? sp_arena_strndup(&q->a, text, strlen(text)) : "", text ? strlen(text) : 0};
    return out->p ? SP_OK : SP_FAIL(d, SP_NOMEM, "tools");
}

sp_err sp_api_tool_room(sp_ask *q, const json_t *list, sp_diag *d)
{
    size_t n = json_array_size(list);
    if (list && !json_is_array(list))
        return SP_FAIL(d, SP_INVAL, "tools must be a list");
    if (n > SP_ASK_TOOLS)
        return SP_FAIL(d, SP_INVAL, "tools holds %zu tools, at most %d are supported", n,
                       SP_ASK_TOOLS);
    q->tool = sp_arena_alloc(&q->a, (n + 1) * sizeof *q->tool);
    return q->tool ? SP_OK : SP_FAIL(d, SP_NOMEM, "tools");
}

sp_err sp_api_tool(sp_ask *q, const json_t *tool, const sp_lists *lists, sp_diag *d)
{
    const char *type = NULL, *name = NULL, *description = NULL, *bad, *schema = NULL;
    const json_t *fn = NULL, *parameters = NULL;
    sp_ask_tool *out = &q->tool[q->n_tool];
    const sp_param outer[] = {{"type", SP_P_STR, &type, 0, 0}, {"function", SP_P_JSON, &fn, 0, 0}};
    const sp_param inner[] = {{"name", SP_P_STR, &name, 0, 0},
                              {"description", SP_P_STR, &description, 0, 0},
                              {"parameters", SP_P_JSON, &parameters, 0, 0},
                              {"strict", SP_P_BOOL, &out->strict, 0, 0}};
    SP_TRY(sp_known_read(tool, outer, 2, lists, &bad, d));
    if (!json_is_object(fn))
        return SP_FAIL(d, SP_INVAL, "tools[%zu].function is missing", q->n_tool);
    SP_TRY(sp_known_read(fn, inner, 4, lists, &bad, d));
    if (!name)
        return SP_FAIL(d, SP_INVAL, "tools[%zu].function.name is missing", q->n_tool);
    if (parameters && !json_is_object(parameters))
        return SP_FAIL(d, SP_INVAL, "tools[%zu].function.parameters must be a JSON schema",
                       q->n_tool);
    if (parameters)
        SP_TRY(sp_params_keep(&schema, &q->a, parameters, d));
    SP_TRY(keep(&out->name, q, name, d));
    SP_TRY(keep(&out->description, q, description, d));
    out->parameters = schema ? (sp_str){schema, strlen(schema)} : (sp_str){"", 0};
    q->n_tool++;
    return SP_OK;
}

sp_err sp_api_tool_named(sp_ask *q, const char *name, sp_diag *d)
{
    for (size_t i = 0; i < q->n_tool; i++)
        if (strlen(name) == q->tool[i].name.n &&
            memcmp(name, q->tool[i].name.p, q->tool[i].name.n) == 0) {
            q->calls = SP_CALLS_NAMED;
            q->named = i;
            return SP_OK;
        }
    return SP_FAIL(d, SP_INVAL, "tool_choice: there is no tool named %.80s", name);
}

sp_err sp_api_tool_choice(sp_ask *q, const json_t *v, sp_diag *d)
{
    static const struct {
        const char *name;
        sp_ask_calls calls;
    } words[] = {{"auto", SP_CALLS_AUTO}, {"none", SP_CALLS_NONE}, {"required", SP_CALLS_REQUIRED}};
    static const char rule[] = "tool_choice must be none, auto, required or {\"type\": "
                               "\"function\", \"function\": {\"name\": …}}";
    const char *type = json_string_value(json_object_get(v, "type")),
               *name = json_string_value(json_object_get(json_object_get(v, "function"), "name"));
    if (!v)
        return SP_OK;
    for (size_t i = 0; json_is_string(v) && i < sizeof words / sizeof words[0]; i++)
        if (strcmp(json_string_value(v), words[i].name) == 0) {
            q->calls = words[i].calls;
            return SP_OK;
        }
    if (!type || strcmp(type, "function") != 0 || !name)
        return SP_FAIL(d, SP_INVAL, "%s", rule);
    return sp_api_tool_named(q, name, d);
}
