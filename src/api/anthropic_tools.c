/* Tools of Anthropic's Messages: those of the client become functions of the ask. */
#include "api/anthropic_int.h"

#include "api/tools.h"

#include <stdio.h>
#include <string.h>

/* What says nothing to the model, or is done for every tool. */
static const sp_known known_tool[] = {{"cache_control", NULL, NULL},
                                      {"eager_input_streaming", NULL, NULL},
                                      {"defer_loading", NULL, NULL},
                                      {"allowed_callers", NULL, NULL},
                                      {"input_examples", NULL, NULL},
                                      {NULL, NULL, NULL}};
static const sp_known known_choice[] = {{NULL, NULL, NULL}};

static sp_err keep(sp_str *out, request *r, const char *s, sp_diag *d)
{
    *out = (sp_str){sp_arena_strndup(&r->ask->a, s, strlen(s)), strlen(s)};
    return out->p ? SP_OK : SP_FAIL(d, SP_NOMEM, "tools");
}

/* A tool that Anthropic's own servers run, or whose arguments its models know by heart. */
static bool is_foreign(const json_t *tool)
{
    const char *type = json_string_value(json_object_get(tool, "type"));
    return type && strcmp(type, "custom") != 0;
}

static void skip(request *r, const json_t *tool)
{
    const sp_lists lists = {.ignored = &r->ignored, .where = "tools: "};
    sp_known_ignore(&lists, json_string_value(json_object_get(tool, "type")));
}

static sp_err read_tool(request *r, const json_t *v, size_t i, sp_diag *d)
{
    const char *name = NULL, *description = NULL, *schema = NULL, *bad;
    const json_t *input = NULL;
    sp_ask_tool *out = &r->ask->tool[r->ask->n_tool];
    const sp_lists lists = {.known = known_tool, .lenient = r->app->lenient,
                            .ignored = &r->ignored, .where = "tools[]."};
    const sp_param table[] = {{"type", SP_P_IGNORE, NULL, 0, 0},
                              {"name", SP_P_STR, &name, 0, 0},
                              {"description", SP_P_STR, &description, 0, 0},
                              {"input_schema", SP_P_JSON, &input, 0, 0},
                              {"strict", SP_P_BOOL, &out->strict, 0, 0}};
    sp_diag inner = {0};
    if (!json_is_object(v))
        return SP_FAIL(d, SP_INVAL, "tools.%zu is not an object", i);
    if (sp_known_read(v, table, sizeof table / sizeof table[0], &lists, &bad, &inner) != SP_OK)
        return SP_FAIL(d, inner.code, "tools.%zu: %.140s", i, inner.msg);
    if (!name)
        return SP_FAIL(d, SP_INVAL, "tools.%zu.name is missing", i);
    if (input && !json_is_object(input))
        return SP_FAIL(d, SP_INVAL, "tools.%zu.input_schema must be a JSON schema", i);
    SP_TRY(keep(&out->name, r, name, d));
    SP_TRY(keep(&out->description, r, description ? description : "", d));
    if (input)
        SP_TRY(sp_params_keep(&schema, &r->ask->a, input, d));
    out->parameters = schema ? (sp_str){schema, strlen(schema)} : (sp_str){"", 0};
    r->ask->n_tool++;
    return SP_OK;
}

/* {"type": "auto" | "any" | "tool" | "none", "name", "disable_parallel_tool_use"} */
static sp_err read_choice(request *r, const json_t *v, sp_diag *d)
{
    const char *type = NULL, *name = NULL, *bad;
    sp_ask *q = r->ask;
    const sp_lists lists = {.known = known_choice, .lenient = r->app->lenient,
                            .ignored = &r->ignored, .where = "tool_choice."};
    const sp_param table[] = {{"type", SP_P_STR, &type, 0, 0},
                              {"name", SP_P_STR, &name, 0, 0},
                              {"disable_parallel_tool_use", SP_P_BOOL, &q->one_call, 0, 0}};
    if (!v)
        return SP_OK;
    if (!json_is_object(v))
        return SP_FAIL(d, SP_INVAL, "tool_choice must be an object");
    SP_TRY(sp_known_read(v, table, 3, &lists, &bad, d));
    if (type && strcmp(type, "tool") == 0)
        return name ? sp_api_tool_named(q, name, d)
                    : SP_FAIL(d, SP_INVAL, "tool_choice: name is missing");
    if (!type ||
        (strcmp(type, "auto") != 0 && strcmp(type, "any") != 0 && strcmp(type, "none") != 0))
        return SP_FAIL(d, SP_INVAL, "tool_choice.type must be auto, any, tool or none");
    q->calls = type[0] == 'n' ? SP_CALLS_NONE : type[1] == 'n' ? SP_CALLS_REQUIRED : SP_CALLS_AUTO;
    return SP_OK;
}

sp_err sp_anthropic_tools(request *r, const json_t *tools, const json_t *choice, const char **bad,
                          sp_diag *d)
{
    sp_ask *q = r->ask;
    *bad = "tools";
    SP_TRY(sp_api_tool_room(q, tools, d));
    for (size_t i = 0; i < json_array_size(tools); i++) {
        const json_t *tool = json_array_get(tools, i);
        if (is_foreign(tool))
            skip(r, tool);
        else
            SP_TRY(read_tool(r, tool, i, d));
    }
    *bad = "tool_choice";
    SP_TRY(read_choice(r, choice, d));
    return sp_ask_check_tools(q, d);
}
