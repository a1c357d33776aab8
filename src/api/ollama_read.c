/* Requests of Ollama's /api/chat and /api/generate. */
#include "api/ollama_int.h"

#include "api/form.h"
#include "api/tools.h"

#include <string.h>

enum { MAX_MESSAGES = 100000 };

/* What Ollama samples with where a request says nothing. Its penalty of repetitions, 1.1 over the
 * last 64 tokens, is not among it: here penalties look at the whole text. */
static const double TEMPERATURE = 0.8, TOP_P = 0.9;
enum { TOP_K = 40 };

/* A body as it was read; borrowed from the JSON. */
typedef struct body {
    const char *model, *prompt, *system, *suffix, *template;
    const json_t *messages, *images, *options, *format, *think, *context, *tools, *stop;
    bool stream, raw, logprobs;
    int64_t n_top;
    int64_t n_predict, top_k, seed, n_ctx;
    double temperature, top_p, min_p, repeat, presence, frequency;
} body;

static const sp_known known_body[] = {{"keep_alive", NULL, NULL},
                                      {"truncate", NULL, NULL},
                                      {"shift", NULL, NULL},
                                      {"width", "[0]", "this server draws nothing"},
                                      {"height", "[0]", "this server draws nothing"},
                                      {"steps", "[0]", "this server draws nothing"},
                                      {NULL, NULL, NULL}};

/* How a model is loaded and computed, and ways of sampling that this server does not have. */
static const sp_known known_option[] = {
    {"numa", NULL, NULL},           {"num_batch", NULL, NULL},     {"num_gpu", NULL, NULL},
    {"main_gpu", NULL, NULL},       {"low_vram", NULL, NULL},      {"f16_kv", NULL, NULL},
    {"logits_all", NULL, NULL},     {"vocab_only", NULL, NULL},    {"use_mmap", NULL, NULL},
    {"use_mlock", NULL, NULL},      {"embedding_only", NULL, NULL}, {"num_thread", NULL, NULL},
    {"num_keep", NULL, NULL},       {"repeat_last_n", NULL, NULL}, {"tfs_z", NULL, NULL},
    {"typical_p", NULL, NULL},      {"mirostat", NULL, NULL},      {"mirostat_tau", NULL, NULL},
    {"mirostat_eta", NULL, NULL},   {"penalize_newline", NULL, NULL}, {"num_gqa", NULL, NULL},
    {"rope_frequency_base", NULL, NULL}, {"rope_frequency_scale", NULL, NULL},
    {NULL, NULL, NULL}};

static const sp_known known_message[] = {{"type", NULL, NULL}, {NULL, NULL, NULL}};

#define NO_VISION "images cannot be read: this server has no vision encoder"

static sp_lists lists_of(request *r, const sp_known *known, const char *where)
{
    return (sp_lists){.known = known,
                      .lenient = r->app->lenient,
                      .ignored = &r->ignored,
                      .where = where};
}

static sp_err no_memory(sp_diag *d)
{
    return SP_FAIL(d, SP_NOMEM, "request");
}

static sp_err keep(sp_str *out, sp_ask *q, const char *s, size_t n, sp_diag *d)
{
    char *p = sp_arena_strndup(&q->a, s, n);
    *out = (sp_str){p, n};
    return p ? SP_OK : no_memory(d);
}

/* --- messages --------------------------------------------------------------------------------- */

/* [{"function": {"name": ..., "arguments": {...}}}] */
static sp_err read_call(sp_chat_call *c, request *r, const json_t *v, size_t i, size_t k,
                        sp_diag *d)
{
    const json_t *fn = json_object_get(v, "function"), *args = json_object_get(fn, "arguments");
    const char *name = json_string_value(json_object_get(fn, "name")), *text;
    const json_t *id = json_object_get(v, "id");
    if (!name || (args && !json_is_object(args)))
        return SP_FAIL(d, SP_INVAL,
                       "messages[%zu].tool_calls[%zu].function needs a name, and arguments that "
                       "are an object",
                       i, k);
    SP_TRY(keep(&c->name, r->ask, name, strlen(name), d));
    if (json_is_string(id))
        SP_TRY(keep(&c->id, r->ask, json_string_value(id), json_string_length(id), d));
    if (args) {
        SP_TRY(sp_params_keep(&text, &r->ask->a, args, d));
        c->arguments = (sp_str){text, strlen(text)};
    }
    return SP_OK;
}

static sp_err read_calls(sp_chat_msg *out, request *r, const json_t *list, size_t i, sp_diag *d)
{
    size_t n = json_array_size(list);
    if (!list)
        return SP_OK;
    if (!json_is_array(list))
        return SP_FAIL(d, SP_INVAL, "messages[%zu].tool_calls must be a list", i);
    sp_chat_call *call = sp_arena_alloc(&r->ask->a, (n + 1) * sizeof *call);
    if (!call)
        return no_memory(d);
    for (size_t k = 0; k < n; k++)
        SP_TRY(read_call(&call[k], r, json_array_get(list, k), i, k, d));
    out->call = call;
    out->n_call = n;
    return SP_OK;
}

static sp_err check_images(const json_t *v, const char *where, size_t i, sp_diag *d)
{
    if (json_array_size(v) == 0)
        return SP_OK;
    return SP_FAIL(d, SP_UNSUP, "%s[%zu].images: " NO_VISION, where, i);
}

static sp_err read_role(sp_chat_msg *out, const char *role, size_t i, sp_diag *d)
{
    static const char *const roles[] = {"system", "user", "assistant", "tool"};
    for (size_t k = 0; role && k < sizeof roles / sizeof roles[0]; k++)
        if (strcmp(roles[k], role) == 0) {
            out->role = (sp_str){roles[k], strlen(roles[k])};
            return SP_OK;
        }
    return SP_FAIL(d, SP_INVAL, "messages[%zu].role must be system, user, assistant or tool", i);
}

static sp_err read_message(sp_chat_msg *out, request *r, const json_t *m, size_t i, sp_diag *d)
{
    const char *role = NULL, *thinking = NULL, *tool = NULL, *id = NULL, *bad;
    const json_t *content = NULL, *images = NULL, *calls = NULL;
    const sp_lists lists = lists_of(r, known_message, "messages[].");
    const sp_param table[] = {{"role", SP_P_STR, &role, 0, 0},
                              {"content", SP_P_JSON, &content, 0, 0},
                              {"thinking", SP_P_STR, &thinking, 0, 0},
                              {"images", SP_P_JSON, &images, 0, 0},
                              {"tool_calls", SP_P_JSON, &calls, 0, 0},
                              {"tool_name", SP_P_STR, &tool, 0, 0},
                              {"name", SP_P_STR, &tool, 0, 0},
                              {"tool_call_id", SP_P_STR, &id, 0, 0}};
    sp_diag inner = {0};
    if (!json_is_object(m))
        return SP_FAIL(d, SP_INVAL, "messages[%zu] is not an object", i);
    if (sp_known_read(m, table, sizeof table / sizeof table[0], &lists, &bad, &inner) != SP_OK)
        return SP_FAIL(d, inner.code, "messages[%zu]: %.140s", i, inner.msg);
    SP_TRY(read_role(out, role, i, d));
    SP_TRY(check_images(images, "messages", i, d));
    if (content && !json_is_string(content))
        return SP_FAIL(d, SP_INVAL, "messages[%zu].content must be a string", i);
    SP_TRY(keep(&out->content, r->ask, content ? json_string_value(content) : "",
                json_string_length(content), d));
    if (thinking)
        SP_TRY(keep(&out->reasoning, r->ask, thinking, strlen(thinking), d));
    if (tool)
        SP_TRY(keep(&out->name, r->ask, tool, strlen(tool), d));
    if (id)
        SP_TRY(keep(&out->call_id, r->ask, id, strlen(id), d));
    return read_calls(out, r, calls, i, d);
}

static sp_err read_messages(request *r, const body *b, sp_diag *d)
{
    sp_ask *q = r->ask;
    size_t n = json_array_size(b->messages);
    if (!json_is_array(b->messages) || n == 0 || n > MAX_MESSAGES)
        return SP_FAIL(d, SP_INVAL, "messages must be a list of 1 to %d messages", MAX_MESSAGES);
    q->msg = sp_arena_alloc(&q->a, (n + 1) * sizeof *q->msg); /* and one for an answer */
    if (!q->msg)
        return no_memory(d);
    for (size_t i = 0; i < n; i++)
        SP_TRY(read_message(&q->msg[i], r, json_array_get(b->messages, i), i, d));
    q->n_msg = n;
    return SP_OK;
}

/* A prompt is the user's only message, or, raw, the prompt as it is. */
static sp_err read_prompt(request *r, const body *b, const char **bad, sp_diag *d)
{
    sp_ask *q = r->ask;
    sp_str text;
    *bad = "images";
    if (json_array_size(b->images))
        return SP_FAIL(d, SP_UNSUP, "images: " NO_VISION);
    *bad = "template";
    if (b->template && *b->template)
        return SP_FAIL(d, SP_UNSUP, "template: no template from a request is ever run");
    *bad = "suffix";
    if (b->suffix && *b->suffix)
        return SP_FAIL(d, SP_UNSUP, "suffix: this model has no marks for filling in");
    *bad = "context";
    if (json_array_size(b->context))
        return SP_FAIL(d, SP_UNSUP, "context: send the conversation's messages to /api/chat");
    *bad = "prompt";
    if (!b->prompt)
        return SP_FAIL(d, SP_INVAL, "prompt is missing");
    SP_TRY(keep(&text, q, b->prompt, strlen(b->prompt), d));
    if (b->raw || !r->on->env.chat) {
        q->chat = false;
        q->prompt = sp_arena_alloc(&q->a, sizeof *q->prompt);
        q->n_prompt = 1;
        if (q->prompt)
            q->prompt->text = text;
        return q->prompt ? SP_OK : no_memory(d);
    }
    q->msg = sp_arena_alloc(&q->a, 3 * sizeof *q->msg);
    if (!q->msg)
        return no_memory(d);
    if (b->system && *b->system) {
        sp_chat_msg *m = &q->msg[q->n_msg++];
        *m = sp_chat_say("system", "", 0);
        SP_TRY(keep(&m->content, q, b->system, strlen(b->system), d));
    }
    q->msg[q->n_msg++] = sp_chat_say("user", text.p, text.n);
    return SP_OK;
}

/* --- parameters ------------------------------------------------------------------------------- */

static sp_err read_options(request *r, body *b, sp_diag *d)
{
    const char *bad;
    const sp_lists lists = lists_of(r, known_option, "options.");
    const sp_param table[] = {{"num_predict", SP_P_INT, &b->n_predict, -2, 1 << 30},
                              {"temperature", SP_P_NUM, &b->temperature, 0, 100},
                              {"top_k", SP_P_INT, &b->top_k, -1, 1 << 30},
                              {"top_p", SP_P_NUM, &b->top_p, 0, 1},
                              {"min_p", SP_P_NUM, &b->min_p, 0, 1},
                              {"seed", SP_P_INT, &b->seed, -1, 9.2e18},
                              {"stop", SP_P_JSON, &b->stop, 0, 0},
                              {"repeat_penalty", SP_P_NUM, &b->repeat, 0.01, 10},
                              {"presence_penalty", SP_P_NUM, &b->presence, -2, 2},
                              {"frequency_penalty", SP_P_NUM, &b->frequency, -2, 2},
                              {"num_ctx", SP_P_INT, &b->n_ctx, 0, 1 << 30}};
    sp_diag inner = {0};
    if (!b->options)
        return SP_OK;
    if (!json_is_object(b->options))
        return SP_FAIL(d, SP_INVAL, "options must be an object");
    if (sp_known_read(b->options, table, sizeof table / sizeof table[0], &lists, &bad, &inner))
        return SP_FAIL(d, inner.code, "options: %.140s", inner.msg);
    size_t n_ctx = sp_engine_config(r->on->env.engine)->n_ctx;
    if ((uint64_t)b->n_ctx > n_ctx)
        return SP_FAIL(d, SP_INVAL, "options: num_ctx is %lld, the context of this server is %zu",
                       (long long)b->n_ctx, n_ctx);
    return SP_OK;
}

static sp_err read_stop(sp_session_cfg *out, const json_t *v, sp_diag *d)
{
    size_t n = !v ? 0 : json_is_array(v) ? json_array_size(v) : 1;
    if (n > SP_STOP_MAX)
        return SP_FAIL(d, SP_INVAL, "options: stop holds %zu strings, at most %d are supported", n,
                       SP_STOP_MAX);
    for (size_t i = 0; i < n; i++) {
        const json_t *s = json_is_array(v) ? json_array_get(v, i) : v;
        size_t len = json_string_length(s);
        if (!json_is_string(s) || len == 0 || len >= SP_STOP_BYTES ||
            strlen(json_string_value(s)) != len)
            return SP_FAIL(d, SP_INVAL, "options: stop must be strings of 1 to %d bytes",
                           SP_STOP_BYTES - 1);
        memcpy(out->stop[out->n_stop++], json_string_value(s), len + 1);
    }
    return SP_OK;
}

/* true, false, or how much: low, medium, high. */
static sp_err read_think(request *r, const json_t *v, sp_diag *d)
{
    const sp_lists lists = lists_of(r, known_body, "");
    if (v && !json_is_boolean(v) && !json_is_string(v))
        return SP_FAIL(d, SP_INVAL, "think must be true, false or a string");
    if (json_is_false(v))
        r->ask->plan.think_tok = 0;
    if (json_is_string(v))
        sp_known_ignore(&lists, "think");
    return SP_OK;
}

/* "json", or a schema. */
static sp_err read_format(request *r, const json_t *v, sp_diag *d)
{
    const char *word = json_string_value(v);
    if (!v || (word && !*word))
        return SP_OK;
    if (json_is_object(v))
        return sp_api_form(r->ask, r->on, v, false, d);
    if (word && strcmp(word, "json") == 0)
        return sp_api_form(r->ask, r->on, NULL, false, d);
    return SP_FAIL(d, SP_INVAL, "format must be \"json\" or a JSON schema");
}

/* Functions that the model may call, as in OpenAI's chat completions. The protocol has no way to
 * say which of them must be called. */
static sp_err read_tools(request *r, const json_t *list, sp_diag *d)
{
    const sp_lists lists = lists_of(r, sp_known_tool, "tools[].");
    sp_ask *q = r->ask;
    SP_TRY(sp_api_tool_room(q, list, d));
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *tool = json_array_get(list, i);
        const char *type = json_string_value(json_object_get(tool, "type"));
        if (!json_is_object(tool) || (type && strcmp(type, "function") != 0))
            return SP_FAIL(d, SP_UNSUP, "tools[%zu]: its type must be function", i);
        SP_TRY(sp_api_tool(q, tool, &lists, d));
    }
    return sp_ask_check_tools(q, d);
}

static sp_err read_table(request *r, body *b, const json_t *j, const char **bad, sp_diag *d)
{
    const sp_lists lists = lists_of(r, known_body, "");
    const sp_param table[] = {{"model", SP_P_STR, &b->model, 0, 0},
                              {"stream", SP_P_BOOL, &b->stream, 0, 0},
                              {"options", SP_P_JSON, &b->options, 0, 0},
                              {"format", SP_P_JSON, &b->format, 0, 0},
                              {"think", SP_P_JSON, &b->think, 0, 0},
                              {"logprobs", SP_P_BOOL, &b->logprobs, 0, 0},
                              {"top_logprobs", SP_P_INT, &b->n_top, 0, SP_TOP_MAX},
                              {r->chat ? "messages" : "prompt", r->chat ? SP_P_JSON : SP_P_STR,
                               r->chat ? (void *)&b->messages : (void *)&b->prompt, 0, 0},
                              {r->chat ? "tools" : "images", SP_P_JSON,
                               r->chat ? &b->tools : &b->images, 0, 0},
                              /* from here on: of /api/generate alone */
                              {"system", SP_P_STR, &b->system, 0, 0},
                              {"suffix", SP_P_STR, &b->suffix, 0, 0},
                              {"template", SP_P_STR, &b->template, 0, 0},
                              {"context", SP_P_JSON, &b->context, 0, 0},
                              {"raw", SP_P_BOOL, &b->raw, 0, 0}};
    size_t n = sizeof table / sizeof table[0] - (r->chat ? 5 : 0);
    return sp_known_read(j, table, n, &lists, bad, d);
}

static void fill_session(request *r, const body *b)
{
    sp_ask *q = r->ask;
    sp_sample_cfg *s = &q->session->sample;
    s->temperature = (float)b->temperature;
    s->top_p = sp_api_top_p(b->top_p);
    s->min_p = (float)b->min_p;
    s->top_k = b->top_k > 0 ? (size_t)b->top_k : 0;
    s->repetition_penalty = (float)b->repeat;
    s->presence_penalty = (float)b->presence;
    s->frequency_penalty = (float)b->frequency;
    r->logprobs = b->logprobs;
    q->session->n_logprobs = b->logprobs ? (int)b->n_top : -1;
    q->plan.max_tok = b->n_predict > 0 ? (size_t)b->n_predict : 0;
    q->seed = b->seed;
    q->stream = b->stream;
}

sp_err sp_ollama_read(request *r, const json_t *j, const char **bad, sp_diag *d)
{
    body b = {.stream = true, .n_predict = -1, .seed = -1, .temperature = TEMPERATURE,
              .top_k = TOP_K, .top_p = TOP_P, .repeat = 1};
    sp_ask *q = r->ask;
    SP_TRY(read_table(r, &b, j, bad, d));
    *bad = "options";
    SP_TRY(read_options(r, &b, d));
    SP_TRY(read_stop(q->session, b.stop, d));
    *bad = "think";
    SP_TRY(read_think(r, b.think, d));
    *bad = "format";
    SP_TRY(read_format(r, b.format, d));
    *bad = "tools";
    SP_TRY(read_tools(r, b.tools, d));
    fill_session(r, &b);
    *bad = "messages";
    SP_TRY(r->chat ? read_messages(r, &b, d) : read_prompt(r, &b, bad, d));
    return sp_api_keep(&q->ignored, q, &r->ignored, d);
}
