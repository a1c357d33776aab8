/* The parameters of Anthropic's /v1/messages. */
#include "api/anthropic_int.h"

#include "api/form.h"
#include "api/tools.h"

#include <string.h>

/* A body as it was read; borrowed from the JSON. */
typedef struct body {
    const char *model;
    const json_t *system, *messages, *stop, *tools, *tool_choice, *thinking, *output, *format;
    int64_t max_tok, top_k;
    double temperature, top_p;
    bool stream;
} body;

/* Bookkeeping of the caller's, and what this server does by itself (cache_control: all of a prompt
 * is kept that can be). */
static const sp_known known_body[] = {{"metadata", NULL, NULL},
                                      {"service_tier", NULL, NULL},
                                      {"context_management", NULL, NULL},
                                      {"cache_control", NULL, NULL},
                                      {"inference_geo", NULL, NULL},
                                      {"speed", NULL, NULL},
                                      {"betas", NULL, NULL},
                                      {"anthropic_beta", NULL, NULL},
                                      {"anthropic_version", NULL, NULL},
                                      {"diagnostics", NULL, NULL},
                                      {"user_profile_id", NULL, NULL},
                                      {"workspace_id", NULL, NULL},
                                      {"container", "[\"\"]", "this server runs no code"},
                                      {"mcp_servers", "[[]]", "this server calls no other"},
                                      {"thread", "[]", "all messages of a conversation are sent"},
                                      {NULL, NULL, NULL}};
static const sp_known known_thinking[] = {{"display", NULL, NULL}, {NULL, NULL, NULL}};
static const sp_known known_output[] = {{"task_budget", NULL, NULL}, {NULL, NULL, NULL}};

static sp_lists lists_of(request *r, const sp_known *known, const char *where)
{
    return (sp_lists){.known = known,
                      .lenient = r->app->lenient,
                      .ignored = &r->ignored,
                      .where = where};
}

static sp_err read_stops(sp_session_cfg *out, const json_t *v, sp_diag *d)
{
    if (v && (!json_is_array(v) || json_array_size(v) > SP_STOP_MAX))
        return SP_FAIL(d, SP_INVAL, "stop_sequences must be a list of at most %d strings",
                       SP_STOP_MAX);
    for (size_t i = 0; i < json_array_size(v); i++) {
        const char *s = json_string_value(json_array_get(v, i));
        size_t n = json_string_length(json_array_get(v, i));
        if (!s || n == 0 || n >= SP_STOP_BYTES || strlen(s) != n)
            return SP_FAIL(d, SP_INVAL, "stop_sequences.%zu must be a string of 1 to %d bytes", i,
                           SP_STOP_BYTES - 1);
        memcpy(out->stop[out->n_stop++], s, n + 1);
    }
    return SP_OK;
}

/* {"type": "enabled", "budget_tokens": n}, {"type": "adaptive"} or {"type": "disabled"} */
static sp_err read_thinking(request *r, const json_t *v, sp_diag *d)
{
    const char *type = NULL, *bad;
    int64_t budget = -1;
    const sp_param table[] = {{"type", SP_P_STR, &type, 0, 0},
                              {"budget_tokens", SP_P_INT, &budget, 1, 1 << 30}};
    const sp_lists lists = lists_of(r, known_thinking, "thinking.");
    if (!v)
        return SP_OK;
    if (!json_is_object(v))
        return SP_FAIL(d, SP_INVAL, "thinking must be an object");
    SP_TRY(sp_known_read(v, table, 2, &lists, &bad, d));
    if (type && strcmp(type, "disabled") == 0)
        r->ask->plan.think_tok = 0, r->ask->think = SP_THINK_OFF;
    else if (type && strcmp(type, "enabled") == 0)
        r->ask->plan.think_tok = budget;
    else if (!type || strcmp(type, "adaptive") != 0)
        return SP_FAIL(d, SP_INVAL, "thinking.type must be enabled, adaptive or disabled");
    return SP_OK;
}

/* {"type": "json_schema", "schema": {...}} */
static sp_err read_format(request *r, const json_t *v, sp_diag *d)
{
    const char *type = json_string_value(json_object_get(v, "type"));
    const json_t *schema = json_object_get(v, "schema");
    if (!v)
        return SP_OK;
    if (!type || strcmp(type, "json_schema") != 0 || !schema)
        return SP_FAIL(d, SP_INVAL,
                       "the format must be {\"type\": \"json_schema\", \"schema\": {...}}");
    return sp_api_form(r->ask, r->on, schema, false, d);
}

static sp_err read_output(request *r, body *b, sp_diag *d)
{
    const char *effort = NULL, *bad;
    const sp_param table[] = {{"effort", SP_P_STR, &effort, 0, 0},
                              {"format", SP_P_JSON, &b->format, 0, 0}};
    const sp_lists lists = lists_of(r, known_output, "output_config.");
    if (!b->output)
        return SP_OK;
    if (!json_is_object(b->output))
        return SP_FAIL(d, SP_INVAL, "output_config must be an object");
    SP_TRY(sp_known_read(b->output, table, 2, &lists, &bad, d));
    if (effort)
        r->ask->effort =
            (sp_str){sp_arena_strndup(&r->ask->a, effort, strlen(effort)), strlen(effort)};
    return effort && !r->ask->effort.p ? SP_FAIL(d, SP_NOMEM, "request") : SP_OK;
}

static sp_err read_table(request *r, body *b, const json_t *j, const char **bad, sp_diag *d)
{
    const sp_param table[] = {{"model", SP_P_STR, &b->model, 0, 0},
                              {"max_tokens", SP_P_INT, &b->max_tok, 1, 1 << 30},
                              {"messages", SP_P_JSON, &b->messages, 0, 0},
                              {"system", SP_P_JSON, &b->system, 0, 0},
                              {"stop_sequences", SP_P_JSON, &b->stop, 0, 0},
                              {"stream", SP_P_BOOL, &b->stream, 0, 0},
                              {"temperature", SP_P_NUM, &b->temperature, 0, 2},
                              {"top_p", SP_P_NUM, &b->top_p, 0, 1},
                              {"top_k", SP_P_INT, &b->top_k, 0, 1 << 30},
                              {"tools", SP_P_JSON, &b->tools, 0, 0},
                              {"tool_choice", SP_P_JSON, &b->tool_choice, 0, 0},
                              {"thinking", SP_P_JSON, &b->thinking, 0, 0},
                              {"output_config", SP_P_JSON, &b->output, 0, 0},
                              {"output_format", SP_P_JSON, &b->format, 0, 0}};
    const sp_lists lists = lists_of(r, known_body, "");
    return sp_known_read(j, table, sizeof table / sizeof table[0], &lists, bad, d);
}

static void fill_session(request *r, const body *b)
{
    sp_ask *q = r->ask;
    sp_sample_cfg *s = &q->session->sample;
    s->temperature = (float)b->temperature;
    s->top_p = sp_api_top_p(b->top_p);
    s->top_k = (size_t)b->top_k;
    q->plan.max_tok = (size_t)b->max_tok;
    q->stream = b->stream;
}

sp_err sp_anthropic_read(void *state, sp_ask *q, const sp_app *app, const sp_served *on,
                         const json_t *j, const char **bad, sp_diag *d)
{
    request *r = state;
    body b = {.temperature = 1, .top_p = 1};
    r->app = app;
    r->on = on;
    r->ask = q;
    SP_TRY(read_table(r, &b, j, bad, d));
    SP_TRY(sp_anthropic_tools(r, b.tools, b.tool_choice, bad, d));
    *bad = "stop_sequences";
    SP_TRY(read_stops(q->session, b.stop, d));
    *bad = "thinking";
    SP_TRY(read_thinking(r, b.thinking, d));
    *bad = "output_config";
    SP_TRY(read_output(r, &b, d));
    SP_TRY(read_format(r, b.format, d));
    fill_session(r, &b);
    SP_TRY(sp_anthropic_messages(r, b.system, b.messages, bad, d));
    return sp_api_keep(&q->ignored, q, &r->ignored, d);
}
