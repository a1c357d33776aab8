/* OpenAI's responses: a body becomes an ask. */
#include "api/response_int.h"

#include "api/form.h"
#include "api/tools.h"
#include "base/clock.h"

#include <string.h>

/* A body as it was read; borrowed from the JSON. */
typedef struct body {
    const char *model, *instructions, *previous;
    const json_t *input, *store, *conversation, *tools, *tool_choice, *text, *reasoning, *include,
        *metadata, *stream_options;
    bool stream, parallel;
    double temperature, top_p;
    int64_t max_tok;
} body;

static sp_lists lists_of(sp_response *r, const sp_known *known, const char *where)
{
    return (sp_lists){
        .known = known, .lenient = r->app->lenient, .ignored = &r->ignored, .where = where};
}

static bool is(const json_t *v, const char *what)
{
    return json_is_string(v) && strcmp(json_string_value(v), what) == 0;
}

static sp_err keep(const char **out, sp_ask *q, const char *text, sp_diag *d)
{
    *out = text ? sp_arena_strndup(&q->a, text, strlen(text)) : NULL;
    return text && !*out ? SP_FAIL(d, SP_NOMEM, "request") : SP_OK;
}

static sp_err read_body(sp_response *r, body *b, const json_t *j, const char **bad, sp_diag *d)
{
    const sp_lists lists = lists_of(r, sp_known_response, "");
    *b = (body){.temperature = 1, .top_p = 1, .parallel = true};
    const sp_param table[] = {{"model", SP_P_STR, &b->model, 0, 0},
                              {"input", SP_P_JSON, &b->input, 0, 0},
                              {"instructions", SP_P_STR, &b->instructions, 0, 0},
                              {"stream", SP_P_BOOL, &b->stream, 0, 0},
                              {"stream_options", SP_P_JSON, &b->stream_options, 0, 0},
                              {"temperature", SP_P_NUM, &b->temperature, 0, 2},
                              {"top_p", SP_P_NUM, &b->top_p, 0, 1},
                              {"max_output_tokens", SP_P_INT, &b->max_tok, 1, 1 << 30},
                              {"store", SP_P_JSON, &b->store, 0, 0},
                              {"previous_response_id", SP_P_STR, &b->previous, 0, 0},
                              {"conversation", SP_P_JSON, &b->conversation, 0, 0},
                              {"tools", SP_P_JSON, &b->tools, 0, 0},
                              {"tool_choice", SP_P_JSON, &b->tool_choice, 0, 0},
                              {"parallel_tool_calls", SP_P_BOOL, &b->parallel, 0, 0},
                              {"text", SP_P_JSON, &b->text, 0, 0},
                              {"reasoning", SP_P_JSON, &b->reasoning, 0, 0},
                              {"include", SP_P_JSON, &b->include, 0, 0},
                              {"metadata", SP_P_JSON, &b->metadata, 0, 0}};
    return sp_known_read(j, table, sizeof table / sizeof table[0], &lists, bad, d);
}

/* --- objects of the body ---------------------------------------------------------------------- */

/* An object of the body, whose errors name it. */
static sp_err read_object(const json_t *v, const char *name, const sp_param *table, size_t n,
                          const sp_lists *lists, sp_diag *d)
{
    sp_diag inner = {0};
    const char *bad;
    if (v && !json_is_object(v))
        return SP_FAIL(d, SP_INVAL, "%s must be an object", name);
    sp_err err = v ? sp_known_read(v, table, n, lists, &bad, &inner) : SP_OK;
    return err == SP_OK ? SP_OK : SP_FAIL(d, err, "%s: %.140s", name, inner.msg);
}

/* {"type": "json_schema", "name", "schema", "strict"}: strict refuses what cannot be enforced, else
 * it is noted. */
static sp_err read_format(sp_response *r, sp_ask *q, const json_t *format, sp_diag *d)
{
    const json_t *type = json_object_get(format, "type"),
                 *schema = json_object_get(format, "schema"),
                 *strict = json_object_get(format, "strict");
    if (!format || is(type, "text"))
        return SP_OK;
    if (is(type, "json_object"))
        return sp_api_form(q, r->on, NULL, false, d);
    if (!is(type, "json_schema"))
        return SP_FAIL(d, SP_UNSUP,
                       "text.format: its type must be text, json_object or json_schema");
    if (!schema)
        return SP_FAIL(d, SP_INVAL, "text.format: schema is missing");
    if (strict && !json_is_boolean(strict) && !json_is_null(strict))
        return SP_FAIL(d, SP_INVAL, "text.format: strict must be true or false");
    return sp_api_form(q, r->on, schema, json_is_true(strict), d);
}

static sp_err read_text(sp_response *r, sp_ask *q, const body *b, sp_diag *d)
{
    const json_t *format = NULL;
    const sp_param table[] = {{"format", SP_P_JSON, &format, 0, 0}};
    const sp_lists lists = lists_of(r, sp_known_response_text, "text.");
    SP_TRY(read_object(b->text, "text", table, 1, &lists, d));
    return read_format(r, q, format, d);
}

/* A model that marks no thoughts has no effort to make. */
static sp_err read_reasoning(sp_response *r, sp_ask *q, const body *b, sp_diag *d)
{
    const char *effort = NULL;
    const sp_lists lists = lists_of(r, sp_known_response_reasoning, "reasoning.");
    const sp_param table[] = {{"effort", SP_P_STR, &effort, 0, 0}};
    SP_TRY(read_object(b->reasoning, "reasoning", table, 1, &lists, d));
    if (!effort)
        return SP_OK;
    if (r->on->env.think_open == r->on->env.think_close)
        sp_known_ignore(&lists, "effort");
    if (strcmp(effort, "none") == 0)
        q->think = SP_THINK_OFF;
    SP_TRY(keep(&effort, q, effort, d));
    q->effort = (sp_str){effort, strlen(effort)};
    return SP_OK;
}

static sp_err read_include(sp_response *r, const body *b, sp_diag *d)
{
    const sp_lists lists = lists_of(r, sp_known_response, "include.");
    if (b->include && !json_is_array(b->include))
        return SP_FAIL(d, SP_INVAL, "include must be a list of strings");
    for (size_t i = 0; i < json_array_size(b->include); i++) {
        const json_t *v = json_array_get(b->include, i);
        if (!json_is_string(v))
            return SP_FAIL(d, SP_INVAL, "include[%zu] must be a string", i);
        if (is(v, "file_search_call.results"))
            r->results = true;
        else
            sp_known_ignore(&lists, json_string_value(v));
    }
    return SP_OK;
}

/* --- tools ------------------------------------------------------------------------------------ */

/* A function as chat has it: what describes it stands in an object of its own there. */
static sp_err read_function(sp_ask *q, const json_t *tool, const sp_lists *lists, sp_diag *d)
{
    const char *name;
    json_t *v, *inner = json_object(), *outer = json_object();
    bool ok = inner && outer;
    json_object_foreach((json_t *)(uintptr_t)tool, name, v) ok =
        ok && json_object_set(strcmp(name, "type") == 0 ? outer : inner, name, v) == 0;
    ok = ok && json_object_set(outer, "function", inner) == 0;
    sp_err err = ok ? sp_api_tool(q, outer, lists, d) : SP_FAIL(d, SP_NOMEM, "tools");
    json_decref(inner);
    json_decref(outer);
    return err;
}

/* Kinds that this server does not have are named, and left out. */
static sp_err read_tools(sp_response *r, sp_ask *q, const body *b, sp_diag *d)
{
    const sp_lists kinds = lists_of(r, sp_known_response, "tools[]."),
                   lists = lists_of(r, sp_known_tool, "tools[].");
    SP_TRY(sp_api_tool_room(q, b->tools, d));
    for (size_t i = 0; i < json_array_size(b->tools); i++) {
        const json_t *tool = json_array_get(b->tools, i), *type = json_object_get(tool, "type");
        if (!json_string_length(type))
            return SP_FAIL(d, SP_INVAL, "tools[%zu].type must say what kind of tool it is", i);
        if (is(type, "file_search") && q->find)
            return SP_FAIL(d, SP_UNSUP, "tools: only one file_search is supported");
        if (is(type, "file_search"))
            SP_TRY(sp_api_file_search(q, r->on->env.know, tool, d));
        else if (is(type, "function"))
            SP_TRY(read_function(q, tool, &lists, d));
        else
            sp_known_ignore(&kinds, json_string_value(type));
    }
    q->one_call = !b->parallel;
    return sp_ask_check_tools(q, d);
}

static void drop_search(sp_ask *q)
{
    sp_op_put((sp_op *)q->find);
    q->find = NULL;
}

/* {"type": "function", "name"}; in chat the name stands in an object of its own. */
static sp_err read_named(sp_ask *q, const json_t *v, sp_diag *d)
{
    json_t *as_chat = json_pack("{s:s, s:{s:O}}", "type", "function", "function", "name",
                                json_object_get(v, "name"));
    if (!as_chat)
        return SP_FAIL(d, SP_INVAL, "tool_choice: name is missing");
    sp_err err = sp_api_tool_choice(q, as_chat, d);
    json_decref(as_chat);
    return err;
}

/* A search is made unless no tool is wanted; required is about functions where there are some. */
static sp_err read_choice(sp_ask *q, const body *b, sp_diag *d)
{
    const json_t *v = b->tool_choice, *type = json_object_get(v, "type");
    if (!v || is(v, "auto"))
        return SP_OK;
    if (is(v, "none")) {
        drop_search(q);
        q->calls = SP_CALLS_NONE;
        return SP_OK;
    }
    if (is(type, "function"))
        return read_named(q, v, d);
    if (is(v, "required") && q->n_tool)
        return sp_api_tool_choice(q, v, d);
    if (!is(v, "required") && !is(type, "file_search"))
        return SP_FAIL(d, SP_INVAL,
                       "tool_choice must be none, auto, required, {\"type\": \"file_search\"} or "
                       "{\"type\": \"function\", \"name\": …}");
    q->insist = true;
    return q->find ? SP_OK : SP_FAIL(d, SP_INVAL, "tool_choice asks for a tool and tools has none");
}

/* --- conversations ---------------------------------------------------------------------------- */

/* A server with conversations keeps what does not say otherwise, as OpenAI's does:
 * previous_response_id goes on from it. */
static sp_err read_conversation(sp_response *r, sp_ask *q, const body *b, bool *store,
                                const char **bad, sp_diag *d)
{
    const json_t *id =
        json_is_object(b->conversation) ? json_object_get(b->conversation, "id") : b->conversation;
    const sp_lists lists = lists_of(r, sp_known_response, "");
    *bad = "store";
    if (b->store && !json_is_boolean(b->store))
        return SP_FAIL(d, SP_INVAL, "store must be true or false");
    *bad = "conversation";
    if (b->conversation && !json_string_length(id))
        return SP_FAIL(d, SP_INVAL, "conversation must be an id, or {\"id\": …}");
    *store = (b->store ? json_is_true(b->store) : r->on->env.history != NULL) || id || b->previous;
    if (*store && !r->on->env.history && !id && !b->previous) {
        sp_known_ignore(&lists, "store");
        *store = false;
    }
    q->plan.conversation = *store;
    SP_TRY(keep(&q->conversation, q, json_string_value(id), d));
    return keep(&q->previous, q, b->previous, d);
}

/* --- messages --------------------------------------------------------------------------------- */

static sp_err read_messages(sp_response *r, sp_ask *q, const body *b, const char **bad, sp_diag *d)
{
    const sp_lists lists = lists_of(r, sp_known_response_item, "input[].");
    const char *text;
    sp_chat_msg first;
    size_t n_call = 0;
    *bad = "instructions";
    SP_TRY(keep(&text, q, b->instructions, d));
    if (text && *text) {
        first = sp_chat_say("system", text, strlen(text));
        q->msg = &first;
        q->n_msg = q->n_front = 1;
    }
    *bad = "input";
    SP_TRY(sp_response_items(&q->msg, &q->n_msg, &n_call, &q->a, b->input, &lists, d));
    const sp_chat_msg *last = &q->msg[q->n_msg - 1];
    q->look = r->on->env.retrieve && !b->tools && !b->tool_choice && last->role.n == 4 &&
              memcmp(last->role.p, "user", 4) == 0 && last->content.n;
    q->plan.bare = !n_call && !q->grammar;
    q->plan.plain = q->plan.bare && !q->n_tool && !q->plan.conversation && !q->find;
    return SP_OK;
}

/* --- what was asked, as the answer says it again ------------------------------------------------
 */

static sp_err echo(sp_response *r, sp_ask *q, const json_t *j, bool store, sp_diag *d)
{
    static const char *const of[][2] = {{"instructions", "null"},
                                        {"max_output_tokens", "null"},
                                        {"metadata", "{}"},
                                        {"parallel_tool_calls", "true"},
                                        {"previous_response_id", "null"},
                                        {"prompt_cache_key", "null"},
                                        {"reasoning", "{\"effort\":null,\"summary\":null}"},
                                        {"safety_identifier", "null"},
                                        {"service_tier", "\"default\""},
                                        {"temperature", "1"},
                                        {"text", "{\"format\":{\"type\":\"text\"}}"},
                                        {"tool_choice", "\"auto\""},
                                        {"tools", "[]"},
                                        {"top_p", "1"},
                                        {"truncation", "\"disabled\""},
                                        {"user", "null"}};
    sp_buf all = {0};
    sp_err err = SP_OK;
    sp_buf_printf(&all, "\"store\":%s", store ? "true" : "false");
    for (size_t i = 0; i < sizeof of / sizeof of[0] && err == SP_OK; i++) {
        const json_t *v = json_object_get(j, of[i][0]);
        const char *text = of[i][1];
        if (v && !json_is_null(v))
            err = sp_params_keep(&text, &q->a, v, d);
        sp_buf_printf(&all, ",\"%s\":%s", of[i][0], err == SP_OK ? text : "null");
    }
    r->echo = all.failed ? NULL : sp_arena_strndup(&q->a, all.p, all.len);
    sp_buf_fini(&all);
    return err != SP_OK ? err : r->echo ? SP_OK : SP_FAIL(d, SP_NOMEM, "request");
}

/* --- the codec -------------------------------------------------------------------------------- */

static sp_err read_settings(sp_response *r, sp_ask *q, const body *b, const char **bad, sp_diag *d)
{
    const sp_lists options = lists_of(r, sp_known_stream, "stream_options.");
    const char *metadata;
    q->session->sample.temperature = (float)b->temperature;
    q->session->sample.top_p = sp_api_top_p(b->top_p);
    q->stream = b->stream;
    q->plan.max_tok = (size_t)b->max_tok;
    *bad = "stream_options";
    SP_TRY(read_object(b->stream_options, "stream_options", NULL, 0, &options, d));
    *bad = "metadata";
    SP_TRY(sp_params_metadata(&metadata, &q->a, b->metadata, "metadata", true, d));
    *bad = "text";
    SP_TRY(read_text(r, q, b, d));
    *bad = "reasoning";
    SP_TRY(read_reasoning(r, q, b, d));
    *bad = "include";
    SP_TRY(read_include(r, b, d));
    *bad = "tools";
    SP_TRY(read_tools(r, q, b, d));
    *bad = "tool_choice";
    return read_choice(q, b, d);
}

static sp_err read(void *state, sp_ask *q, const sp_app *app, const sp_served *on, const json_t *j,
                   const char **bad, sp_diag *d)
{
    sp_response *r = state;
    body b;
    bool store;
    r->app = app;
    r->on = on;
    r->created = sp_clock_wall();
    SP_TRY(read_body(r, &b, j, bad, d));
    SP_TRY(read_settings(r, q, &b, bad, d));
    SP_TRY(read_conversation(r, q, &b, &store, bad, d));
    SP_TRY(read_messages(r, q, &b, bad, d));
    *bad = NULL;
    SP_TRY(sp_api_keep(&q->ignored, q, &r->ignored, d));
    return echo(r, q, j, store, d);
}

/* What a turn says in the words of chat, in those of responses. */
static void fail(sp_buf *out, int status, const sp_turn_error *e)
{
    const char *param = strcmp(e->param, "messages") == 0 ? "input" : e->param[0] ? e->param : NULL;
    sp_api_error(out, status, e->diag.msg, param, sp_api_error_code(e));
}

static void close_response(void *state)
{
    sp_response *r = state;
    sp_buf_fini(&r->ignored);
    sp_buf_fini(&r->output);
}

const sp_codec sp_codec_response = {.span = "response",
                                    .id_prefix = "resp_",
                                    .stream_type = SP_CODEC_SSE,
                                    .state_bytes = sizeof(sp_response),
                                    .read = read,
                                    .event = sp_response_event,
                                    .whole = sp_response_whole,
                                    .ping = sp_api_ping,
                                    .fail = fail,
                                    .error_event = "event: error\ndata: ",
                                    .close = close_response};
