/* Completions. A request is up to MAX_CHOICE jobs (prompts x n); their events become either one
 * JSON body at the end or a stream of chunks. Owner of a request's state: its HTTP task. */
#include "api/completion.h"

#include "api/conversation.h"
#include "api/file_search.h"
#include "api/params.h"
#include "api/structured.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "gen/grammar.h"
#include "pipe/intent.h"
#include "pipe/passages.h"
#include "pipe/prompt.h"

#include <stdio.h>
#include <string.h>

enum { MAX_CHOICE = 16, FRAME_TOK = 16, PASSAGE_SHARE = 3, MAX_QUERY = 4096 };

typedef struct choice {
    sp_job *job;
    bool ended, opened;
    sp_finish finish;
    sp_buf text;     /* whole answer, when not streaming */
    sp_buf logprobs; /* JSON entries so far, joined by commas */
} choice;

typedef struct request {
    sp_app *app;
    bool chat, stream, include_usage, logprobs;
    char id[40];
    int64_t created;
    choice choice[MAX_CHOICE];
    size_t n_choice, n_ended;
    size_t n_prompt_tok; /* each prompt counted once */
    sp_receipt receipt;
    sp_diag error;       /* code != SP_OK: the request failed */
    /* with a conversation: PREPARE, the answer, SAVE; with documents: a search before the answer */
    sp_history_op *prepare, *save;
    sp_know_op *find;
    bool splice;             /* passages are computed by themselves and put in place */
    bool insist;             /* passages go into the prompt even if they do not bear on the question */
    size_t n_passage, n_fact; /* of find's hits and facts, in the prompt */
    sp_session_cfg *session; /* until the prompt is there */
    int64_t max_tok, seed, n;
    size_t n_new;            /* messages of the request */
    sp_chat_msg *new_msg;    /* in prepare's or find's arena */
    char tenant[SP_TENANT_BYTES];
    sp_http_conn *conn;
    sp_structured parts;       /* parts of the prompt; message.len 0: it has none */
    sp_arena arena;            /* of the parts */
    sp_buf pattern;            /* what the answer may be; empty: anything */
    char *dense[SP_DENSE_MAX]; /* texts that attention never leaves out */
    size_t n_dense;
} request;

/* --- reading ---------------------------------------------------------------------------------- */

typedef struct body {
    const char *model;
    const char *conversation, *previous;
    bool store;
    const json_t *messages, *prompt, *stop, *logit_bias, *stream_options, *response_format, *logprobs;
    bool stream, ignore_eos, splice;
    double temperature, top_p, min_p, presence, frequency, repetition, epsilon, keep;
    const json_t *sparing, *dense, *tools, *tool_choice;
    int64_t top_k, max_tok, n, seed, top_logprobs;
    const char *regex;
    const json_t *choices, *part[SP_PARTS];
    bool structured;
} body;

static sp_err read_stop(sp_session_cfg *out, const json_t *v, sp_diag *d)
{
    size_t n = json_is_array(v) ? json_array_size(v) : 1;
    if (!v)
        return SP_OK;
    if (n > SP_STOP_MAX)
        return SP_FAIL(d, SP_INVAL, "stop holds %zu strings, at most %d are supported", n, SP_STOP_MAX);
    for (size_t i = 0; i < n; i++) {
        const json_t *s = json_is_array(v) ? json_array_get(v, i) : v;
        size_t len = json_string_length(s);
        if (!json_is_string(s) || len == 0 || len >= SP_STOP_BYTES || memchr(json_string_value(s), 0, len))
            return SP_FAIL(d, SP_INVAL, "stop must be a string, or a list of strings, of 1 to %d bytes", SP_STOP_BYTES - 1);
        memcpy(out->stop[out->n_stop++], json_string_value(s), len + 1);
    }
    return SP_OK;
}

static sp_err read_bias(sp_sample_cfg *out, const json_t *v, size_t n_vocab, sp_diag *d)
{
    const char *key;
    json_t *val;
    if (!v)
        return SP_OK;
    if (!json_is_object(v) || json_object_size(v) > SP_BIAS_MAX)
        return SP_FAIL(d, SP_INVAL, "logit_bias must be an object of at most %d token ids", SP_BIAS_MAX);
    json_object_foreach((json_t *)(uintptr_t)v, key, val)
    {
        char *end;
        unsigned long long id = strtoull(key, &end, 10);
        double x = json_number_value(val);
        if (key[0] < '0' || key[0] > '9' || *end || id >= n_vocab || !json_is_number(val) || !(x >= -100 && x <= 100))
            return SP_FAIL(d, SP_INVAL, "logit_bias[%.20s]: ids go from 0 to %zu, values from -100 to 100", key, n_vocab - 1);
        out->bias[out->n_bias++] = (sp_bias){(uint32_t)id, (float)x};
    }
    return SP_OK;
}

static sp_err read_logprobs(sp_session_cfg *out, const body *b, bool chat, sp_diag *d)
{
    out->n_logprobs = -1;
    if (!chat) {
        json_int_t n = json_integer_value(b->logprobs);
        if (b->logprobs && (!json_is_integer(b->logprobs) || n < 0 || n > SP_TOP_MAX))
            return SP_FAIL(d, SP_INVAL, "logprobs must be an integer from 0 to %d", SP_TOP_MAX);
        if (b->logprobs)
            out->n_logprobs = (int)n;
        return SP_OK;
    }
    if (b->logprobs && !json_is_boolean(b->logprobs))
        return SP_FAIL(d, SP_INVAL, "logprobs must be true or false");
    if (b->top_logprobs >= 0 && !json_is_true(b->logprobs))
        return SP_FAIL(d, SP_INVAL, "top_logprobs needs logprobs to be true");
    if (json_is_true(b->logprobs))
        out->n_logprobs = b->top_logprobs > 0 ? (int)b->top_logprobs : 0;
    return SP_OK;
}

static sp_err read_stream_options(request *r, const body *b, sp_diag *d)
{
    const char *bad;
    if (!b->stream_options)
        return SP_OK;
    const sp_param table[] = {{"include_usage", SP_P_BOOL, &r->include_usage, 0, 0}};
    if (!json_is_object(b->stream_options) || !b->stream)
        return SP_FAIL(d, SP_INVAL, "stream_options must be an object and needs stream to be true");
    return sp_params_read(b->stream_options, table, 1, &bad, d);
}

/* What only this server knows: {"sparing": {"epsilon": 0.02, "prefill_keep": 0.25, "dense": ["the task"]}}. */
static sp_err read_own(body *b, bool chat, const char **bad, sp_diag *d)
{
    enum { ANY = 5 }; /* those behind it are for chat only */
    const sp_param table[] = {{"epsilon", SP_P_NUM, &b->epsilon, 0, 0.5}, {"prefill_keep", SP_P_NUM, &b->keep, 0, 1},
                              {"dense", SP_P_JSON, &b->dense, 0, 0}, {"regex", SP_P_STR, &b->regex, 0, 0}, {"choices", SP_P_JSON, &b->choices, 0, 0},
                              {"splice", SP_P_BOOL, &b->splice, 0, 0},
                              {"structured", SP_P_BOOL, &b->structured, 0, 0}, {"task", SP_P_JSON, &b->part[SP_PART_TASK], 0, 0},
                              {"steps", SP_P_JSON, &b->part[SP_PART_STEPS], 0, 0}, {"context", SP_P_JSON, &b->part[SP_PART_CONTEXT], 0, 0},
                              {"output", SP_P_JSON, &b->part[SP_PART_OUTPUT], 0, 0}};
    if (!b->sparing)
        return SP_OK;
    *bad = "sparing";
    if (!json_is_object(b->sparing))
        return SP_FAIL(d, SP_INVAL, "sparing must be an object");
    return sp_params_read(b->sparing, table, chat ? sizeof table / sizeof table[0] : ANY, bad, d);
}

static sp_err check_model(const sp_app *app, const char *model, sp_diag *d)
{
    if (model && strcmp(model, app->model_name) != 0)
        return SP_FAIL(d, SP_NOTFOUND, "the model %.80s does not exist; this server has %.80s", model, app->model_name);
    return SP_OK;
}

static sp_err read_body(body *b, const json_t *j, bool chat, const char **bad, sp_diag *d)
{
    *b = (body){.temperature = 1, .top_p = 1, .repetition = 1, .n = 1, .seed = -1, .top_logprobs = -1, .epsilon = -1};
    const sp_param table[] = {
        {"model", SP_P_STR, &b->model, 0, 0},
        {chat ? "messages" : "prompt", SP_P_JSON, chat ? &b->messages : &b->prompt, 0, 0},
        {"stream", SP_P_BOOL, &b->stream, 0, 0},
        {"stream_options", SP_P_JSON, &b->stream_options, 0, 0},
        {"temperature", SP_P_NUM, &b->temperature, 0, 2},
        {"top_p", SP_P_NUM, &b->top_p, 1e-6, 1},
        {"min_p", SP_P_NUM, &b->min_p, 0, 1},
        {"top_k", SP_P_INT, &b->top_k, -1, 1 << 30},
        {"max_tokens", SP_P_INT, &b->max_tok, 1, 1 << 30},
        {chat ? "max_completion_tokens" : "max_tokens", SP_P_INT, &b->max_tok, 1, 1 << 30},
        {"n", SP_P_INT, &b->n, 1, MAX_CHOICE},
        {"seed", SP_P_INT, &b->seed, 0, 9.2e18},
        {"stop", SP_P_JSON, &b->stop, 0, 0},
        {"presence_penalty", SP_P_NUM, &b->presence, -2, 2},
        {"frequency_penalty", SP_P_NUM, &b->frequency, -2, 2},
        {"repetition_penalty", SP_P_NUM, &b->repetition, 0.01, 10},
        {"logit_bias", SP_P_JSON, &b->logit_bias, 0, 0},
        {"logprobs", SP_P_JSON, &b->logprobs, 0, 0},
        {chat ? "top_logprobs" : "logprobs", chat ? SP_P_INT : SP_P_JSON, chat ? (void *)&b->top_logprobs : &b->logprobs, 0, SP_TOP_MAX},
        {"ignore_eos", SP_P_BOOL, &b->ignore_eos, 0, 0},
        {"user", SP_P_IGNORE, NULL, 0, 0},
        {"sparing", SP_P_JSON, &b->sparing, 0, 0},
        {chat ? "response_format" : "ignore_eos", chat ? SP_P_JSON : SP_P_BOOL, chat ? (void *)&b->response_format : &b->ignore_eos, 0, 0},
        {chat ? "conversation" : "user", chat ? SP_P_STR : SP_P_IGNORE, &b->conversation, 0, 0},
        {chat ? "previous_response_id" : "user", chat ? SP_P_STR : SP_P_IGNORE, &b->previous, 0, 0},
        {chat ? "store" : "user", chat ? SP_P_BOOL : SP_P_IGNORE, &b->store, 0, 0},
        {"tools", chat ? SP_P_JSON : SP_P_REFUSE, &b->tools, 0, 0},
        {"tool_choice", chat ? SP_P_JSON : SP_P_REFUSE, &b->tool_choice, 0, 0},
        {"functions", SP_P_REFUSE, NULL, 0, 0},
        {"best_of", SP_P_REFUSE, NULL, 0, 0},
        {"echo", SP_P_REFUSE, NULL, 0, 0},
        {"suffix", SP_P_REFUSE, NULL, 0, 0}};
    SP_TRY(sp_params_read(j, table, sizeof table / sizeof table[0], bad, d));
    return read_own(b, chat, bad, d);
}

/* Each answer compiles its own; here only to name the parameter that is wrong. */
static sp_err check_pattern(const request *r, sp_diag *d)
{
    sp_grammar *g = NULL;
    if (r->pattern.failed)
        return SP_FAIL(d, SP_NOMEM, "request");
    if (r->pattern.len)
        SP_TRY(sp_grammar_regex(&g, r->app->tok, sp_buf_str(&r->pattern), d));
    sp_grammar_free(g);
    return SP_OK;
}

static bool is_user(const sp_chat_msg *m)
{
    return m->role.n == 4 && memcmp(m->role.p, "user", 4) == 0;
}

static bool has_parts(const body *b)
{
    return b->part[SP_PART_TASK] || b->part[SP_PART_STEPS] || b->part[SP_PART_OUTPUT] || b->part[SP_PART_CONTEXT];
}

/* Parts of the prompt take the place of the last message, or come after the others. */
static sp_err read_parts(request *r, const body *b, sp_chat_msg *msg, size_t *n, sp_diag *d)
{
    bool as_json = has_parts(b);
    if (as_json && b->structured)
        return SP_FAIL(d, SP_INVAL, "sparing.structured is for parts written as tags; task, steps, context and output are there too");
    if (as_json) {
        SP_TRY(sp_structured_json(&r->parts, &r->arena, b->part, d));
        *n += 1;
    } else if (b->structured) {
        if (*n == 0 || !is_user(&msg[*n - 1]))
            return SP_FAIL(d, SP_INVAL, "sparing.structured: the last message must be the user's");
        SP_TRY(sp_structured_text(&r->parts, msg[*n - 1].content.p, msg[*n - 1].content.n, d));
    } else {
        return SP_OK;
    }
    msg[*n - 1] = (sp_chat_msg){{"user", 4}, {r->parts.message.p, r->parts.message.len}};
    if (r->parts.parts.part[SP_PART_OUTPUT].budget && !r->max_tok)
        r->max_tok = (int64_t)r->parts.parts.part[SP_PART_OUTPUT].budget;
    if (r->parts.pattern.len && r->pattern.len)
        return SP_FAIL(d, SP_INVAL, "output says what the answer may be, and so does another parameter");
    if (r->parts.pattern.len)
        sp_buf_put(&r->pattern, r->parts.pattern.p, r->parts.pattern.len);
    return check_pattern(r, d);
}

static sp_err build_chat(sp_context *out, request *r, const body *b, sp_diag *d)
{
    sp_chat_msg *msg = NULL, one;
    size_t n = 0;
    if (b->messages)
        SP_TRY(sp_api_messages(&msg, &n, &r->arena, b->messages, "messages", d));
    else
        msg = &one;
    SP_TRY(read_parts(r, b, msg, &n, d));
    if (n == 0)
        return SP_FAIL(d, SP_INVAL, "messages is missing");
    return sp_prompt_chat(out, r->app->tok, r->app->chat, msg, n, d);
}

/* One prompt of /v1/completions: a string or a list of token ids. */
static sp_err build_text(sp_context *out, const sp_app *app, const json_t *v, sp_diag *d)
{
    if (json_is_string(v))
        return sp_prompt_text(out, app->tok, json_string_value(v), json_string_length(v), d);
    size_t n = json_array_size(v);
    uint32_t *id = sp_mem_array(n ? n : 1, sizeof *id);
    sp_err err = id ? SP_OK : SP_FAIL(d, SP_NOMEM, "prompt");
    for (size_t i = 0; i < n && err == SP_OK; i++) {
        json_int_t x = json_integer_value(json_array_get(v, i));
        if (!json_is_integer(json_array_get(v, i)) || x < 0 || x > UINT32_MAX)
            err = SP_FAIL(d, SP_INVAL, "prompt must be a string, a list of strings, or lists of token ids");
        else
            id[i] = (uint32_t)x;
    }
    if (err == SP_OK)
        err = sp_prompt_ids(out, app->tok, id, n, d);
    sp_mem_free(id);
    return err;
}

/* --- submitting ------------------------------------------------------------------------------- */

static void make_id(request *r)
{
    uint64_t v[2] = {sp_rng_entropy(), sp_rng_entropy()};
    snprintf(r->id, sizeof r->id, "%s-%016llx%04x", r->chat ? "chatcmpl" : "cmpl", (unsigned long long)v[0], (unsigned)(v[1] & 0xffff));
}

/* Parts of the prompt that attention never leaves out, by their text. */
static sp_err find_dense(sp_session_cfg *out, const request *r, const sp_context *ctx, sp_diag *d)
{
    for (size_t i = 0; i < r->n_dense; i++) {
        size_t first, end;
        sp_err err = sp_prompt_find(&first, &end, ctx, r->app->tok, 0, r->dense[i], strlen(r->dense[i]));
        if (err != SP_OK)
            return SP_FAIL(d, err == SP_NOTFOUND ? SP_INVAL : err, "sparing.dense[%zu]: the prompt does not hold '%.40s'", i, r->dense[i]);
        out->dense[out->n_dense++] = (sp_dev_range){(uint32_t)first, (uint32_t)end};
    }
    return SP_OK;
}

static sp_err read_dense(request *r, const json_t *v, sp_diag *d)
{
    size_t n = json_array_size(v);
    if (v && (!json_is_array(v) || n > SP_DENSE_MAX))
        return SP_FAIL(d, SP_INVAL, "sparing.dense must be a list of at most %d strings", SP_DENSE_MAX);
    for (size_t i = 0; i < n; i++) {
        const json_t *s = json_array_get(v, i);
        if (!json_is_string(s) || json_string_length(s) == 0 || strlen(json_string_value(s)) != json_string_length(s))
            return SP_FAIL(d, SP_INVAL, "sparing.dense[%zu] must be a string that is not empty", i);
        r->dense[r->n_dense] = sp_mem_strdup(json_string_value(s));
        if (!r->dense[r->n_dense++])
            return SP_FAIL(d, SP_NOMEM, "request");
    }
    return SP_OK;
}

/* What the answer may be, as a pattern: response_format, sparing.regex or sparing.choices. */
static sp_err read_format(request *r, const body *b, const char **bad, sp_diag *d)
{
    const char *type = json_string_value(json_object_get(b->response_format, "type"));
    const json_t *schema = json_object_get(json_object_get(b->response_format, "json_schema"), "schema");
    bool is_schema = type && strcmp(type, "json_schema") == 0;
    *bad = "response_format";
    if (b->response_format && !is_schema && (!type || strcmp(type, "text") != 0))
        return SP_FAIL(d, SP_UNSUP, "response_format: only {\"type\": \"text\"} and {\"type\": \"json_schema\"} are supported");
    if (is_schema && !schema)
        return SP_FAIL(d, SP_INVAL, "response_format: json_schema.schema is missing");
    if (is_schema + (b->regex != NULL) + (b->choices != NULL) > 1)
        return SP_FAIL(d, SP_INVAL, "response_format, sparing.regex and sparing.choices exclude each other");
    if (is_schema)
        SP_TRY(sp_grammar_schema(&r->pattern, schema, d));
    *bad = is_schema ? *bad : "sparing";
    if (b->regex)
        sp_buf_puts(&r->pattern, b->regex);
    if (b->choices)
        SP_TRY(sp_structured_choices(&r->pattern, b->choices, "sparing.choices", d));
    return check_pattern(r, d);
}

/* What parts ask for beside their text: parts that are never left out, the strictest epsilon of the others, and from where pages are
 * not for others. */
static sp_err apply_parts(sp_session_cfg *out, request *r, const sp_context *ctx, sp_diag *d)
{
    double least = 1;
    if (!r->parts.message.len)
        return SP_OK;
    SP_TRY(sp_parts_find(&r->parts.parts, ctx, r->app->tok, d));
    for (size_t i = 0; i < SP_PARTS; i++) {
        const sp_part *p = &r->parts.parts.part[i];
        if (p->is_private && p->end && (!out->private_from || p->first < out->private_from))
            out->private_from = p->first ? p->first : 1;
        if (p->epsilon > 0 && p->epsilon < least)
            least = p->epsilon;
        if (p->epsilon == 0 && p->end) {
            if (out->n_dense == SP_DENSE_MAX)
                return SP_FAIL(d, SP_INVAL, "more than %d parts of the prompt are never to be left out", SP_DENSE_MAX);
            out->dense[out->n_dense++] = (sp_dev_range){(uint32_t)p->first, (uint32_t)p->end};
        }
    }
    if (least < 1) {
        out->eps = (float)least;
        out->eps_prompt = true;
        out->eps_from = 0;
    }
    return SP_OK;
}

/* The n answers to one prompt. The later ones fork from the first. */
static sp_err submit(request *r, const sp_context *ctx, const sp_session_cfg *session, int64_t n, sp_diag *d)
{
    sp_job_cfg cfg = {.session = *session, .tok = ctx->prompt.id, .n_tok = ctx->prompt.n, .tenant = r->tenant,
                      .ms_retrieval = ctx->ms, .notify = (void (*)(void *))sp_http_wake, .arg = r->conn};
    sp_intent_plan(&cfg.plan, (size_t)r->max_tok, sp_engine_config(r->app->engine)->n_ctx);
    SP_TRY(find_dense(&cfg.session, r, ctx, d));
    SP_TRY(apply_parts(&cfg.session, r, ctx, d));
    cfg.plan.retrieve = r->find != NULL;
    cfg.plan.epsilon = (double)cfg.session.eps;
    cfg.plan.prefill_keep = (double)session->keep;
    cfg.session.max_tok = cfg.plan.max_tok;
    cfg.session.pattern = r->pattern.len ? sp_buf_str(&r->pattern) : NULL;
    cfg.session.splice = ctx->splice;
    cfg.session.n_splice = ctx->n_splice;
    cfg.ms_intent = cfg.plan.ms;
    r->n_prompt_tok += ctx->prompt.n;
    uint64_t seed = r->seed >= 0 ? (uint64_t)r->seed : sp_rng_entropy();
    for (int64_t i = 0; i < n; i++) {
        cfg.session.sample.seed = seed + (uint64_t)i;
        SP_TRY(sp_job_submit(&r->choice[r->n_choice].job, r->app->engine, &cfg, d));
        if (i == 0)
            cfg.fork_of = r->choice[r->n_choice].job;
        r->n_choice++;
    }
    return SP_OK;
}

static sp_err submit_all(request *r, const body *b, const sp_session_cfg *session, sp_diag *d)
{
    const json_t *v = r->chat ? b->messages : b->prompt;
    bool many = !r->chat && json_is_array(v) && !json_is_integer(json_array_get(v, 0));
    size_t n = many ? json_array_size(v) : 1;
    if (!v && !r->chat)
        return SP_FAIL(d, SP_INVAL, "prompt is missing");
    if (n == 0 || n * (size_t)b->n > MAX_CHOICE)
        return SP_FAIL(d, SP_INVAL, "%zu prompts with n = %lld: 1 to %d answers a request are supported", n, (long long)b->n, MAX_CHOICE);
    for (size_t i = 0; i < n; i++) {
        sp_context ctx;
        const json_t *one = many ? json_array_get(v, i) : v;
        if (!r->chat && !json_is_string(one) && !json_is_array(one))
            return SP_FAIL(d, SP_INVAL, "prompt must be a string, a list of strings, or lists of token ids");
        SP_TRY(r->chat ? build_chat(&ctx, r, b, d) : build_text(&ctx, r->app, one, d));
        sp_err err = submit(r, &ctx, session, b->n, d);
        sp_context_fini(&ctx);
        SP_TRY(err);
    }
    return SP_OK;
}

static size_t room_for_answer(const request *r, const body *b)
{
    size_t n_ctx = sp_engine_config(r->app->engine)->n_ctx;
    return b->max_tok && (size_t)b->max_tok < n_ctx / 2 ? (size_t)b->max_tok : n_ctx / 4;
}

/* Tokens that passages may take. */
static size_t room_for_passages(const request *r)
{
    return sp_engine_config(r->app->engine)->n_ctx / PASSAGE_SHARE;
}

/* --- documents -------------------------------------------------------------------------------- */

/* none: no search. auto: passages that bear on the question. required: passages. */
static sp_err read_choice(request *r, bool *want, const json_t *v, sp_diag *d)
{
    const char *s = json_is_object(v) ? json_string_value(json_object_get(v, "type")) : json_string_value(v);
    *want = true;
    if (!v || (json_is_string(v) && strcmp(s, "auto") == 0))
        return SP_OK;
    if (json_is_string(v) && strcmp(s, "none") == 0) {
        *want = false;
        return SP_OK;
    }
    r->insist = s && strcmp(s, json_is_object(v) ? "file_search" : "required") == 0;
    return r->insist ? SP_OK : SP_FAIL(d, SP_INVAL, "tool_choice must be none, auto, required or {\"type\": \"file_search\"}");
}

/* Does the request end with a plain question of the user's? */
static bool is_question(const body *b)
{
    const json_t *last = json_array_get(b->messages, json_array_size(b->messages) - 1);
    const char *role = json_string_value(json_object_get(last, "role"));
    return !has_parts(b) && !b->structured && role && strcmp(role, "user") == 0 && json_string_length(json_object_get(last, "content"));
}

/* As the server was told to: passages come in where they bear on the question. */
static sp_err look_always(request *r, sp_diag *d)
{
    r->find = sp_know_op_new(r->app->know, SP_KNOW_SEARCH, r->tenant);
    if (!r->find)
        return SP_FAIL(d, SP_NOMEM, "request");
    r->find->by_name = r->app->retrieve;
    r->find->cap = SP_FILE_SEARCH_CAP;
    return SP_OK;
}

static sp_err read_tools(request *r, const body *b, const char **bad, sp_diag *d)
{
    bool want;
    *bad = "tool_choice";
    SP_TRY(read_choice(r, &want, b->tool_choice, d));
    *bad = "sparing";
    r->splice = b->splice;
    if (b->splice && json_array_size(b->tools) == 0)
        return SP_FAIL(d, SP_INVAL, "sparing.splice is for passages: it needs the file_search tool");
    *bad = "tools";
    if (b->tools && !json_is_array(b->tools))
        return SP_FAIL(d, SP_INVAL, "tools must be a list");
    if (!b->tools && !b->tool_choice && r->app->retrieve && is_question(b))
        return look_always(r, d);
    if (!b->tools || json_array_size(b->tools) == 0)
        return r->insist ? SP_FAIL(d, SP_INVAL, "tool_choice asks for a tool and tools has none") : SP_OK;
    if (json_array_size(b->tools) > 1)
        return SP_FAIL(d, SP_UNSUP, "tools: only one of {\"type\": \"file_search\"} is supported");
    if (!r->app->know)
        return SP_FAIL(d, SP_UNSUP, "tools: this server keeps no documents; it was started without --knowledge");
    r->find = sp_know_op_new(r->app->know, SP_KNOW_SEARCH, r->tenant);
    if (!r->find)
        return SP_FAIL(d, SP_NOMEM, "request");
    SP_TRY(sp_api_file_search(r->find, json_array_get(b->tools, 0), d));
    if (want)
        return SP_OK;
    sp_op_put(&r->find->op);
    r->find = NULL;
    return SP_OK;
}

/* The last message is the question. */
static sp_err start_search(request *r, const json_t *messages, sp_diag *d)
{
    sp_know_op *op = r->find;
    sp_chat_msg *msg;
    size_t n;
    SP_TRY(sp_api_messages(&msg, &n, &op->op.a, messages, "messages", d));
    if (!r->prepare) {
        r->new_msg = msg;
        r->n_new = n;
    }
    if (!is_user(&msg[n - 1]) || msg[n - 1].content.n == 0)
        return SP_FAIL(d, SP_INVAL, "messages: with file_search the last one must be the user's question");
    size_t len = msg[n - 1].content.n < MAX_QUERY ? msg[n - 1].content.n : MAX_QUERY - sp_utf8_tail(msg[n - 1].content.p, MAX_QUERY);
    op->query = sp_arena_strndup(&op->op.a, msg[n - 1].content.p, len);
    if (!op->query)
        return SP_FAIL(d, SP_NOMEM, "request");
    return sp_op_submit(&op->op, (void (*)(void *))sp_http_wake, r->conn, d);
}

/* What was found goes before the question. */
static sp_err add_passages(request *r, sp_chat_msg *msg, size_t n_msg, sp_diag *d)
{
    sp_know_op *op = r->find;
    sp_chat_msg *last = &msg[n_msg - 1];
    sp_buf text = {0};
    bool bear = r->insist || sp_passages_bear(op->hit, op->n);
    if (!bear && op->n_fact == 0)
        return SP_OK;
    if (bear)
        r->n_passage = sp_passages_pick(op->hit, op->n, r->app->tok, room_for_passages(r));
    r->n_fact = op->n_fact;
    if (r->n_passage + r->n_fact == 0)
        return SP_OK;
    sp_passages_put(&text, op->hit, r->n_passage, op->fact, r->n_fact, last->content.p, last->content.n);
    char *all = text.failed ? NULL : sp_arena_strndup(&op->op.a, text.p, text.len);
    last->content = (sp_str){all, text.len};
    sp_buf_fini(&text);
    return all ? SP_OK : SP_FAIL(d, SP_NOMEM, "request");
}

/* --- what comes before the prompt ------------------------------------------------------------- */

/* Asks for the conversation; its messages come before those of the request. */
static sp_err start_turn(request *r, const body *b, const char **bad, sp_diag *d)
{
    size_t n_ctx = sp_engine_config(r->app->engine)->n_ctx;
    size_t taken = room_for_answer(r, b) + FRAME_TOK + (r->find ? room_for_passages(r) : 0);
    *bad = b->conversation ? "conversation" : b->previous ? "previous_response_id" : "store";
    if (!r->app->history)
        return SP_FAIL(d, SP_UNSUP, "this server keeps no conversations; it was started without --history");
    if (b->conversation && b->previous)
        return SP_FAIL(d, SP_INVAL, "conversation and previous_response_id exclude each other");
    if (strlen(b->conversation ? b->conversation : b->previous ? b->previous : "") >= SP_ID_BYTES)
        return SP_FAIL(d, SP_INVAL, "%s is too long for an id", *bad);
    if (b->n != 1)
        return SP_FAIL(d, SP_INVAL, "n must be 1 in a conversation");
    r->prepare = sp_history_op_new(r->app->history, SP_HISTORY_PREPARE, r->tenant);
    if (!r->prepare)
        return SP_FAIL(d, SP_NOMEM, "request");
    sp_history_op *op = r->prepare;
    snprintf(op->conv, sizeof op->conv, "%s", b->conversation ? b->conversation : "");
    snprintf(op->previous, sizeof op->previous, "%s", b->previous ? b->previous : "");
    op->budget = n_ctx > taken ? n_ctx - taken : 1;
    *bad = "messages";
    SP_TRY(sp_api_messages(&op->msg, &op->n_msg, &op->op.a, b->messages, "messages", d));
    r->n_new = op->n_msg;
    r->new_msg = sp_arena_alloc(&op->op.a, (op->n_msg + 1) * sizeof *op->msg);
    if (!r->new_msg)
        return SP_FAIL(d, SP_NOMEM, "request");
    memcpy(r->new_msg, op->msg, op->n_msg * sizeof *op->msg); /* as they came: recall adds to the prompt's copy */
    return sp_op_submit(&op->op, (void (*)(void *))sp_http_wake, r->conn, d);
}

/* A conversation, documents, or both must be asked first. */
static sp_err start_later(request *r, const body *b, const sp_session_cfg *session, const char **bad, sp_diag *d)
{
    r->session = sp_mem_alloc(sizeof *r->session);
    if (!r->session)
        return SP_FAIL(d, SP_NOMEM, "request");
    *r->session = *session;
    r->n = b->n;
    *bad = "sparing";
    if (b->structured || has_parts(b))
        return SP_FAIL(d, SP_UNSUP, "a structured prompt cannot be part of a conversation or of a search in documents");
    if (b->conversation || b->previous || b->store)
        SP_TRY(start_turn(r, b, bad, d));
    *bad = "messages";
    return r->find ? start_search(r, b->messages, d) : SP_OK;
}

/* They have answered: from messages to running jobs. */
static sp_err continue_request(request *r, sp_diag *d)
{
    sp_context ctx;
    sp_history_op *talk = r->prepare;
    sp_know_op *find = r->find;
    const sp_diag *bad = talk && talk->op.diag.code ? &talk->op.diag : find ? &find->op.diag : &talk->op.diag;
    sp_chat_msg *msg = talk ? talk->msg : r->new_msg;
    size_t n_msg = talk ? talk->n_msg : r->n_new;
    if (bad->code) {
        *d = *bad;
        return d->code;
    }
    if (find)
        SP_TRY(add_passages(r, msg, n_msg, d));
    SP_TRY(sp_prompt_chat(&ctx, r->app->tok, r->app->chat, msg, n_msg, d));
    sp_err err = r->splice && r->n_passage ? sp_passages_splice(&ctx, find->hit, r->n_passage, r->app->tok, r->app->chat, d) : SP_OK;
    ctx.ms += talk ? talk->op.ms : 0;
    ctx.ms += find ? find->op.ms : 0;
    if (talk)
        snprintf(r->session->conv, sizeof r->session->conv, "%s", talk->conv);
    if (err == SP_OK)
        err = submit(r, &ctx, r->session, r->n, d);
    sp_context_fini(&ctx);
    r->receipt.chunks = (talk ? talk->n_item : 0) + r->n_passage;
    sp_mem_free(r->session);
    r->session = NULL;
    return err;
}

/* The answer is whole: it and the new messages are kept before the client hears of the end. */
static sp_err save_turn(request *r, sp_diag *d)
{
    choice *c = &r->choice[0];
    r->save = sp_history_op_new(r->app->history, SP_HISTORY_SAVE, r->tenant);
    if (!r->save)
        return SP_FAIL(d, SP_NOMEM, "request");
    sp_history_op *op = r->save;
    snprintf(op->conv, sizeof op->conv, "%s", r->prepare->conv);
    snprintf(op->response, sizeof op->response, "%s", r->id);
    op->n_msg = r->n_new + 1;
    op->msg = sp_arena_alloc(&op->op.a, op->n_msg * sizeof *op->msg);
    if (!op->msg)
        return SP_FAIL(d, SP_NOMEM, "request");
    memcpy(op->msg, r->new_msg, r->n_new * sizeof *op->msg); /* prepare lives as long as the request */
    op->msg[r->n_new] = (sp_chat_msg){{"assistant", 9}, {sp_buf_str(&c->text), c->text.len}};
    for (size_t i = 0; i < op->n_msg; i++) { /* but not as long as this operation, if the client leaves */
        char *copy = sp_arena_strndup(&op->op.a, op->msg[i].content.p, op->msg[i].content.n);
        if (!copy)
            return SP_FAIL(d, SP_NOMEM, "request");
        op->msg[i].content.p = copy;
    }
    return sp_op_submit(&op->op, (void (*)(void *))sp_http_wake, r->conn, d);
}

/* What comes before the prompt. SP_AGAIN: wait for a wake. Errors go to r->error. */
static sp_err advance(request *r)
{
    if (r->session && r->error.code == SP_OK) {
        if ((r->prepare && !sp_op_is_done(&r->prepare->op)) || (r->find && !sp_op_is_done(&r->find->op)))
            return SP_AGAIN;
        (void)continue_request(r, &r->error);
    }
    return SP_OK;
}

static bool is_saved(request *r)
{
    if (!r->prepare || r->error.code)
        return true;
    if (!r->save && save_turn(r, &r->error) != SP_OK)
        return true;
    if (!sp_op_is_done(&r->save->op))
        return false;
    r->error = r->save->op.diag;
    return true;
}

static sp_err start_request(request *r, const json_t *j, const char **bad, sp_diag *d)
{
    body b;
    sp_session_cfg *session = sp_mem_alloc(sizeof *session);
    if (!session)
        return SP_FAIL(d, SP_NOMEM, "request");
    sp_err err = read_body(&b, j, r->chat, bad, d);
    if (err == SP_OK) {
        sp_sample_cfg_init(&session->sample);
        sp_sample_cfg *s = &session->sample;
        s->temperature = (float)b.temperature;
        s->top_p = (float)b.top_p;
        s->min_p = (float)b.min_p;
        s->top_k = b.top_k > 0 ? (size_t)b.top_k : 0;
        s->presence_penalty = (float)b.presence;
        s->frequency_penalty = (float)b.frequency;
        s->repetition_penalty = (float)b.repetition;
        session->ignore_end = b.ignore_eos;
        session->eps = b.epsilon >= 0 ? (float)b.epsilon : r->app->eps;
        session->eps_prompt = b.epsilon > 0; /* by default not: it saves work, but no time yet */
        session->keep = b.keep < 1 ? (float)b.keep : 0;
        session->eps_from = b.epsilon >= 0 || b.keep > 0 ? 0 : r->app->eps_from;
        r->stream = b.stream;
        r->max_tok = b.max_tok;
        r->seed = b.seed;
        *bad = "model";
        err = check_model(r->app, b.model, d);
    }
    if (err == SP_OK)
        *bad = "sparing", err = read_dense(r, b.dense, d);
    if (err == SP_OK)
        err = read_format(r, &b, bad, d);
    if (err == SP_OK)
        err = read_tools(r, &b, bad, d);
    if (err == SP_OK)
        *bad = "stop", err = read_stop(session, b.stop, d);
    if (err == SP_OK)
        *bad = "logit_bias", err = read_bias(&session->sample, b.logit_bias, sp_tok_count(r->app->tok), d);
    if (err == SP_OK)
        *bad = "logprobs", err = read_logprobs(session, &b, r->chat, d);
    if (err == SP_OK)
        *bad = "stream_options", err = read_stream_options(r, &b, d);
    if (err == SP_OK) {
        r->logprobs = session->n_logprobs >= 0;
        *bad = r->chat ? "messages" : "prompt";
        err = r->find || b.conversation || b.previous || b.store ? start_later(r, &b, session, bad, d) : submit_all(r, &b, session, d);
    }
    sp_mem_free(session);
    return err;
}

/* --- writing ---------------------------------------------------------------------------------- */

static void put_token(sp_buf *out, const request *r, uint32_t id, double logprob)
{
    sp_str p = sp_tok_piece(r->app->tok, id);
    sp_buf_puts(out, "{\"token\":");
    sp_buf_json_str(out, p.p, p.n);
    sp_buf_puts(out, ",\"logprob\":");
    sp_buf_json_num(out, logprob);
    sp_buf_puts(out, ",\"bytes\":[");
    for (size_t i = 0; i < p.n; i++)
        sp_buf_printf(out, "%s%u", i ? "," : "", (unsigned char)p.p[i]);
    sp_buf_putc(out, ']');
}

/* Entries in the chat format, on both endpoints: it keeps bytes and order, which the older parallel
 * lists of /v1/completions cannot. */
static void put_logprobs(sp_buf *out, const request *r, const sp_event *ev)
{
    for (size_t i = 0; i < ev->n_tok; i++) {
        const sp_event_tok *t = &ev->tok[i];
        if (out->len)
            sp_buf_putc(out, ',');
        put_token(out, r, t->id, (double)t->logprob);
        sp_buf_puts(out, ",\"top_logprobs\":[");
        for (size_t k = 0; k < t->n_top; k++) {
            if (k)
                sp_buf_putc(out, ',');
            put_token(out, r, t->top[k].id, (double)t->top[k].logprob);
            sp_buf_putc(out, '}');
        }
        sp_buf_puts(out, "]}");
    }
}

static const char *finish_name(sp_finish f)
{
    return f == SP_FINISH_LENGTH ? "length" : "stop";
}

static void put_usage(sp_buf *out, const request *r)
{
    const sp_receipt *c = &r->receipt;
    sp_buf_printf(out,
                  "{\"prompt_tokens\":%zu,\"completion_tokens\":%zu,\"total_tokens\":%zu,"
                  "\"prompt_tokens_details\":{\"cached_tokens\":%zu",
                  r->n_prompt_tok, c->tok_out, r->n_prompt_tok + c->tok_out,
                  r->n_prompt_tok > c->tok_computed ? r->n_prompt_tok - c->tok_computed : 0);
    for (size_t i = 0; i < SP_PARTS && r->parts.message.len; i++)
        if (r->parts.parts.part[i].end)
            sp_buf_printf(out, ",\"%s_tokens\":%zu", sp_part_name((sp_part_kind)i), r->parts.parts.part[i].end - r->parts.parts.part[i].first);
    sp_buf_puts(out, "},\"sparing\":");
    sp_receipt_write(c, out);
    sp_buf_putc(out, '}');
}

static void put_head(sp_buf *out, const request *r, bool chunk)
{
    const char *object = !r->chat ? "text_completion" : chunk ? "chat.completion.chunk" : "chat.completion";
    sp_buf_printf(out, "{\"id\":\"%s\",\"object\":\"%s\",\"created\":%lld,\"model\":", r->id, object, (long long)r->created);
    sp_buf_json_str(out, r->app->model_name, strlen(r->app->model_name));
    if (r->prepare)
        sp_buf_printf(out, ",\"conversation\":{\"id\":\"%s\"}", r->prepare->conv);
}

static void put_choice_logprobs(sp_buf *out, const request *r, const sp_buf *entries)
{
    if (!r->logprobs)
        sp_buf_puts(out, ",\"logprobs\":null");
    else
        sp_buf_printf(out, ",\"logprobs\":{\"content\":[%s]}", sp_buf_str(entries));
}

static void put_annotations(sp_buf *out, const request *r, size_t i, const char *before)
{
    if (!r->find)
        return;
    sp_buf_puts(out, before);
    sp_api_annotations(out, &r->choice[i].text, r->find->hit, r->n_passage);
}

static void put_retrieved(sp_buf *out, const request *r)
{
    if (r->find)
        sp_api_retrieved(out, r->find->hit, r->n_passage, r->find->fact, r->n_fact);
}

static void put_chunk(sp_buf *out, const request *r, size_t i, const char *text, size_t n, const sp_buf *entries,
                      const char *finish)
{
    sp_buf_puts(out, "data: ");
    put_head(out, r, true);
    sp_buf_printf(out, ",\"choices\":[{\"index\":%zu,", i);
    if (r->chat)
        sp_buf_puts(out, finish ? "\"delta\":{" : text ? "\"delta\":{\"content\":" : "\"delta\":{\"role\":\"assistant\",\"content\":\"\"}");
    else
        sp_buf_puts(out, "\"text\":");
    if (text && !(r->chat && finish))
        sp_buf_json_str(out, text, n);
    if (r->chat && finish)
        put_annotations(out, r, i, "");
    if (r->chat && text)
        sp_buf_putc(out, '}');
    put_choice_logprobs(out, r, entries);
    sp_buf_printf(out, finish ? ",\"finish_reason\":\"%s\"}]" : ",\"finish_reason\":null}]", finish);
    if (finish)
        put_retrieved(out, r);
    sp_buf_puts(out, r->include_usage ? ",\"usage\":null}\n\n" : "}\n\n");
}

/* Takes one event in; out is the stream, or NULL for a whole answer. */
static void take(request *r, size_t i, const sp_event *ev, sp_buf *out)
{
    choice *c = &r->choice[i];
    const sp_buf none = {0};
    if (ev->kind == SP_EVENT_TEXT) {
        sp_buf entries = {0};
        put_logprobs(out ? &entries : &c->logprobs, r, ev);
        if (out)
            put_chunk(out, r, i, ev->text.p, ev->text.len, &entries, NULL);
        if (!out || r->prepare || r->find)
            sp_buf_put(&c->text, ev->text.p, ev->text.len);
        sp_buf_fini(&entries);
        return;
    }
    c->ended = true;
    r->n_ended++;
    sp_receipt_add(&r->receipt, &ev->receipt);
    if (ev->kind == SP_EVENT_ERROR) {
        r->error = ev->diag;
    } else if (ev->finish == SP_FINISH_CANCEL) {
        (void)SP_FAIL(&r->error, SP_CANCEL, "the server is shutting down");
    } else {
        c->finish = ev->finish;
        if (out)
            put_chunk(out, r, i, "", 0, &none, finish_name(ev->finish));
    }
}

static void drain(request *r, sp_buf *out)
{
    for (size_t i = 0; i < r->n_choice; i++) {
        choice *c = &r->choice[i];
        if (out && !c->opened && r->chat)
            put_chunk(out, r, i, NULL, 0, &(sp_buf){0}, NULL);
        c->opened = true;
        for (sp_event *ev; !c->ended && (ev = sp_job_next(c->job)); sp_event_free(ev))
            take(r, i, ev, out);
    }
}

static void put_answer(sp_buf *out, const request *r)
{
    put_head(out, r, false);
    sp_buf_puts(out, ",\"choices\":[");
    for (size_t i = 0; i < r->n_choice; i++) {
        const choice *c = &r->choice[i];
        sp_buf_printf(out, "%s{\"index\":%zu,%s", i ? "," : "", i,
                      r->chat ? "\"message\":{\"role\":\"assistant\",\"content\":" : "\"text\":");
        sp_buf_json_str(out, sp_buf_str(&c->text), c->text.len);
        if (r->chat) {
            sp_buf_puts(out, ",\"refusal\":null");
            put_annotations(out, r, i, ",");
            sp_buf_putc(out, '}');
        }
        put_choice_logprobs(out, r, &c->logprobs);
        sp_buf_printf(out, ",\"finish_reason\":\"%s\"}", finish_name(c->finish));
    }
    sp_buf_putc(out, ']');
    put_retrieved(out, r);
    sp_buf_puts(out, ",\"usage\":");
    put_usage(out, r);
    sp_buf_putc(out, '}');
}

static sp_err task_start(void *arg, sp_http_reply *reply)
{
    request *r = arg;
    if (advance(r) == SP_AGAIN)
        return SP_AGAIN;
    if (r->stream && r->error.code && (r->prepare || r->find)) { /* nothing was sent yet: an ordinary error */
        (void)sp_api_reply(reply, &r->error);
        return SP_OK;
    }
    if (r->stream) {
        reply->status = 200;
        reply->type = "text/event-stream; charset=utf-8";
        reply->stream = true;
        sp_http_reply_header(reply, "Cache-Control", "no-cache");
        sp_http_reply_header(reply, "X-Accel-Buffering", "no");
        return SP_OK;
    }
    drain(r, NULL);
    if (r->error.code == SP_OK && (r->n_ended < r->n_choice || !is_saved(r)))
        return SP_AGAIN;
    if (sp_api_reply(reply, &r->error))
        put_answer(&reply->body, r);
    return SP_OK;
}

static void task_pull(void *arg, sp_buf *out, bool ping, bool *done)
{
    request *r = arg;
    drain(r, out);
    bool ended = r->error.code == SP_OK && r->n_ended == r->n_choice && is_saved(r);
    if (r->error.code) {
        sp_buf_puts(out, "data: ");
        sp_api_error(out, sp_api_status(r->error.code), r->error.msg, NULL, NULL);
        sp_buf_puts(out, "\n\n"); /* and no [DONE]: the answer is not whole */
        *done = true;
    } else if (ended) {
        sp_buf_puts(out, r->include_usage ? "data: " : ": receipt ");
        if (r->include_usage) {
            put_head(out, r, true);
            sp_buf_puts(out, ",\"choices\":[],\"usage\":");
            put_usage(out, r);
            sp_buf_putc(out, '}');
        } else {
            sp_receipt_write(&r->receipt, out);
        }
        sp_buf_puts(out, "\n\ndata: [DONE]\n\n");
        *done = true;
    } else if (ping && !out->len) {
        sp_buf_puts(out, ": ping\n\n");
    }
}

static void task_close(void *arg)
{
    request *r = arg;
    for (size_t i = 0; i < MAX_CHOICE; i++) {
        sp_job_put(r->choice[i].job);
        sp_buf_fini(&r->choice[i].text);
        sp_buf_fini(&r->choice[i].logprobs);
    }
    sp_op_put((sp_op *)r->prepare);
    sp_op_put((sp_op *)r->save);
    sp_op_put((sp_op *)r->find);
    for (size_t i = 0; i < r->n_dense; i++)
        sp_mem_free(r->dense[i]);
    sp_buf_fini(&r->pattern);
    sp_structured_fini(&r->parts);
    sp_arena_fini(&r->arena);
    sp_mem_free(r->session);
    sp_mem_free(r);
}

sp_err sp_api_completion(sp_app *app, bool chat, const sp_http_req *req, const char *tenant, sp_http_task *task,
                         char bad[64], sp_diag *d)
{
    json_t *j = NULL;
    const char *name = NULL;
    SP_TRY(sp_params_parse(&j, req->body, req->n_body, d));
    request *r = sp_mem_alloc(sizeof *r);
    sp_err err = r ? SP_OK : SP_FAIL(d, SP_NOMEM, "request");
    if (err == SP_OK) {
        r->app = app;
        r->chat = chat;
        r->created = sp_clock_wall();
        make_id(r);
        r->conn = req->conn;
        sp_arena_init(&r->arena, 0);
        snprintf(r->tenant, sizeof r->tenant, "%s", tenant);
        err = start_request(r, j, &name, d);
    }
    if (err == SP_OK)
        *task = (sp_http_task){r, task_start, task_pull, task_close};
    else if (r)
        task_close(r);
    snprintf(bad, 64, "%.60s", name ? name : "");
    json_decref(j);
    return err;
}
