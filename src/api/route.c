/* Which function answers at which path; who may ask is gate.c's. */
#include "api/about.h"
#include "api/asset.h"
#include "api/codec.h"
#include "api/conversation.h"
#include "api/dialect.h"
#include "api/embedding.h"
#include "api/feedback.h"
#include "api/front.h"
#include "api/gate.h"
#include "api/knowledge.h"
#include "api/mcp.h"
#include "api/ollama.h"
#include "api/ollama_pull.h"
#include "api/params.h"
#include "api/response.h"
#include "api/rerank.h"
#include "api/running.h"
#include "api/seek.h"
#include "api/stream.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct call {
    sp_app *app;
    const sp_api_req *req;
    sp_http_reply *reply;
    sp_http_task *task;
    char tenant[SP_TENANT_BYTES];
    bool all; /* an operator's key: everybody's figures */
    void (*fn)(struct call *c);
    /* with_model's */
    sp_api_seek seek;
    sp_api_req here;   /* the request, with its body parsed */
    sp_api_place place;
    char stream[SP_STREAM_ID]; /* of an answer that goes on without its client */
    bool parked;
} call;

/* When half of what waits will be done, as predicted; or when the other server is tried again. */
void sp_api_retry_after(sp_http_reply *reply, const sp_app *app, sp_engine *e, sp_err err)
{
    char text[16] = "5";
    sp_upstream *up = app->shared->upstream;
    const sp_placement *placement = app->shared->placement;
    double wait_ms = up          ? (double)sp_upstream_wait_ms(up)
                     : placement ? (double)sp_placement_wait_ms(placement)
                                 : 0;
    double s = err == SP_AGAIN && (up || placement) ? wait_ms * 1e-3 + 0.5
                                                    : sp_engine_backlog(e ? e : app->texts) / 2;
    if (err == SP_LIMIT || err == SP_AGAIN)
        snprintf(text, sizeof text, "%.0f", s < 1 ? 1 : s > 3600 ? 3600 : s);
    else if (sp_api_status(err) != 503)
        return;
    sp_http_reply_header(reply, "Retry-After", text);
}

bool sp_api_reply_retry(sp_http_reply *reply, const sp_app *app, const sp_diag *error)
{
    if (error->code == SP_LIMIT)
        sp_api_retry_after(reply, app, NULL, error->code);
    return sp_api_reply(reply, error);
}

static void fail(call *c, int status, const char *message, const char *param, const char *code)
{
    c->reply->status = status;
    c->reply->type = "application/json";
    sp_api_error_at(c->req->path, &c->reply->body, status, message, param, code);
}

static void fail_diag(call *c, sp_err err, const sp_diag *d, const char *param)
{
    sp_api_retry_after(c->reply, c->app, c->seek.on ? c->seek.on->env.engine : NULL, err);
    fail(c, sp_api_status(err), d->msg, param && *param ? param : NULL,
         err == SP_NOTFOUND ? "model_not_found" : NULL);
}

bool sp_api_reply(sp_http_reply *reply, const sp_diag *error)
{
    reply->type = "application/json";
    reply->status = error->code ? sp_api_status(error->code) : 200;
    if (error->code)
        sp_api_error(&reply->body, reply->status, error->msg, NULL, NULL);
    if (reply->status == 503)
        sp_http_reply_header(reply, "Retry-After", "5");
    return error->code == SP_OK;
}

/* --- the model -------------------------------------------------------------------------------- */

/* The model that the body names is in use until the call is over. false: the request is parked, or
 * refused. codec NULL: in the words of plain errors. */
static bool with_model(call *c, const sp_codec *codec)
{
    sp_turn_error e = {0};
    sp_err err = sp_api_seek_model(&c->seek, c->app, c->req, codec, c->tenant, &e);
    c->parked = err == SP_AGAIN;
    if (err == SP_OK) {
        c->here = *c->req;
        c->here.json = c->seek.body;
        c->req = &c->here;
        c->place = (sp_api_place){.app = c->app, .on = c->seek.on};
    } else if (!c->parked && codec) {
        sp_api_refuse_model(c->app, codec, c->req,
                            json_string_value(json_object_get(c->seek.body, "model")), &e,
                            c->reply);
    } else if (!c->parked) {
        c->reply->status = sp_api_status(err);
        fail(c, c->reply->status, e.diag.msg, e.param[0] ? e.param : NULL, sp_api_error_code(&e));
    }
    return err == SP_OK;
}

/* The same for an encoder. ranks: a reranker will do. */
static bool with_encoder(call *c, bool ranks)
{
    sp_turn_error e = {0};
    sp_err err = sp_api_seek_encoder(&c->seek, c->app, c->req, ranks, &e);
    c->parked = err == SP_AGAIN;
    if (err == SP_OK) {
        c->here = *c->req;
        c->here.json = c->seek.body;
        c->req = &c->here;
        c->place = (sp_api_place){.app = c->app, .on = c->seek.on, .tenant = c->tenant};
    } else if (!c->parked) {
        sp_api_retry_after(c->reply, c->app, NULL, err);
        fail(c, sp_api_status(err), e.diag.msg, e.param[0] ? e.param : NULL,
             err == SP_NOTFOUND ? "model_not_found" : sp_api_error_code(&e));
    }
    return err == SP_OK;
}

/* --- endpoints -------------------------------------------------------------------------------- */

static void json_ok(call *c);

static void answer_with(call *c, const sp_codec *codec)
{
    if (c->req->hints.keep && !c->stream[0] && strcmp(codec->stream_type, SP_CODEC_SSE) == 0) {
        sp_stream_name(c->stream); /* told at once, also while the model is loaded */
        sp_http_reply_header(c->reply, "X-Sparing-Stream-Id", c->stream);
    }
    bool here = with_model(c, codec);
    c->place.stream = c->stream;
    if (here)
        sp_api_answer(&c->place, codec, c->req, c->tenant, c->reply, c->task);
}

static void prompt_with(call *c, const sp_codec *codec, sp_api_render_kind kind)
{
    if (with_model(c, codec))
        sp_api_prompt(&c->place, codec, c->req, c->tenant, kind, c->reply);
}

static void chat(call *c)
{
    answer_with(c, &sp_codec_chat);
}

static void completions(call *c)
{
    answer_with(c, &sp_codec_completion);
}

static void responses(call *c)
{
    answer_with(c, &sp_codec_response);
}

static void plan(call *c)
{
    if (with_model(c, &sp_codec_chat))
        sp_api_plan(&c->place, &sp_codec_chat, c->req, c->tenant, c->reply);
}

static void tokens(call *c)
{
    answer_with(c, &sp_codec_tokens);
}

static void render_chat(call *c)
{
    prompt_with(c, &sp_codec_chat, SP_RENDER_IDS);
}

static void render_text(call *c)
{
    prompt_with(c, &sp_codec_completion, SP_RENDER_IDS);
}

static void apply_template(call *c)
{
    prompt_with(c, &sp_codec_chat, SP_RENDER_TEXT);
}

static void json_ok(call *c);

/* ?limit=1..512 */
static void requests(call *c)
{
    int64_t n = 50;
    sp_diag d = {0};
    if (sp_params_query_int(c->req->http, "limit", &n, 1, SP_LEDGER_CAP, &d) != SP_OK) {
        fail_diag(c, SP_INVAL, &d, "limit");
        return;
    }
    json_ok(c);
    sp_ledger_write(c->app->ledger, &c->reply->body, c->all ? NULL : c->tenant, (size_t)n);
}

/* Errors of the routes where not finding is about an id. */
static void fail_id(call *c, sp_err err, const sp_diag *d, const char *bad)
{
    if (err == SP_NOTFOUND)
        fail(c, 404, d->msg, NULL, "not_found");
    else if (err != SP_OK)
        fail_diag(c, err, d, bad);
}

static void control(call *c)
{
    sp_diag d = {0};
    char bad[64];
    sp_err err = sp_api_control(c->app, c->req, c->tenant, &c->reply->body, bad, &d);
    fail_id(c, err, &d, bad);
    if (err == SP_OK)
        json_ok(c);
}

static void conversations(call *c)
{
    sp_diag d = {0};
    char bad[64] = "";
    fail_id(c, sp_api_conversation(c->app, c->req, c->tenant, c->task, bad, &d), &d, bad);
}

static void count_response(call *c)
{
    size_t n;
    if (!with_model(c, &sp_codec_response) ||
        !sp_api_count(&n, &c->place, &sp_codec_response, c->req, c->tenant, c->reply))
        return;
    json_ok(c);
    sp_buf_printf(&c->reply->body, "{\"object\":\"response.input_tokens\",\"input_tokens\":%zu}",
                  n);
}

static void response(call *c)
{
    sp_diag d = {0};
    char bad[64] = "";
    fail_id(c, sp_api_response(c->app, c->req, c->tenant, c->task, bad, &d), &d, bad);
}

static void knowledge(call *c)
{
    sp_diag d = {0};
    char bad[64] = "";
    fail_id(c, sp_api_knowledge(c->app, c->req, c->tenant, c->task, bad, &d), &d, bad);
}

static void tenant(call *c)
{
    sp_diag d = {0};
    fail_id(c, sp_api_tenant(c->app, c->req, c->tenant, c->task, &d), &d, NULL);
}

static void streams(call *c)
{
    sp_api_streams(c->app, c->req, c->tenant, c->reply, c->task);
}

static void feedback(call *c)
{
    sp_diag d = {0};
    char bad[64] = "";
    fail_id(c, sp_api_feedback(c->app, c->req, c->tenant, c->task, bad, &d), &d, bad);
}

/* An operator's key: those of all tenants. */
static void costs(call *c)
{
    sp_diag d = {0};
    char bad[64] = "";
    const char *whose = c->all ? "" : c->tenant;
    fail_id(c, sp_api_feedback(c->app, c->req, whose, c->task, bad, &d), &d, bad);
}

static void embeddings(call *c)
{
    sp_diag d = {0};
    char bad[64] = "";
    if (!with_encoder(c, false))
        return;
    sp_err err = sp_api_embedding(&c->place, c->req, c->task, bad, &d);
    if (err != SP_OK)
        fail_diag(c, err, &d, bad);
}

static void rerank(call *c)
{
    sp_diag d = {0};
    char bad[64] = "";
    if (!with_encoder(c, true))
        return;
    sp_err err = sp_api_rerank(&c->place, c->req, c->task, bad, &d);
    if (err != SP_OK)
        fail_diag(c, err, &d, bad);
}

/* What the server behind and this one have in common. */
static void shadow(call *c)
{
    if (!c->app->front) {
        fail(c, 404, "this server stands in front of no other one; see --shadow-of", NULL,
             "not_found");
        return;
    }
    json_ok(c);
    sp_front_report(c->app->front, &c->reply->body);
}

static void json_ok(call *c)
{
    c->reply->status = 200;
    c->reply->type = "application/json";
}

static void models(call *c)
{
    sp_about_models(c->app, c->req, c->reply);
}

static void version(call *c)
{
    sp_about_version(c->app, c->reply);
}

static void props(call *c)
{
    sp_about_props(c->app, c->req, c->reply);
}

static void slots(call *c)
{
    sp_about_slots(c->app, c->req, c->reply);
}

static void lacking(call *c)
{
    sp_about_lacking(c->req, c->reply);
}

static void tokenize(call *c)
{
    json_t *j = NULL;
    const char *model = NULL; /* with_model has read it */
    const json_t *content = NULL;
    bool special = false, bos = false;
    const char *bad = NULL;
    sp_diag d = {0};
    sp_ids ids = {0};
    const sp_param table[] = {{"content", SP_P_JSON, &content, 0, 0},
                              {"parse_special", SP_P_BOOL, &special, 0, 0},
                              {"add_special", SP_P_BOOL, &bos, 0, 0},
                              {"model", SP_P_STR, &model, 0, 0}};
    if (!with_model(c, NULL))
        return;
    const sp_tok *tok = c->place.on->env.tok;
    sp_err err = sp_params_parse(&j, c->req->body, c->req->n_body, &d);
    if (err == SP_OK)
        err = sp_params_read(j, table, 4, &bad, &d);
    if (err == SP_OK && !json_is_string(content))
        bad = "content", err = SP_FAIL(&d, SP_INVAL, "content must be a string");
    if (err == SP_OK && bos && sp_tok_adds_bos(tok))
        err = sp_ids_push(&ids, sp_tok_bos(tok));
    if (err == SP_OK)
        err = sp_tok_encode(tok, &ids, json_string_value(content), json_string_length(content),
                            special ? SP_SPECIAL_ALL : SP_SPECIAL_NONE, &d);
    if (err != SP_OK) {
        fail_diag(c, err, &d, bad);
    } else {
        json_ok(c);
        sp_buf_puts(&c->reply->body, "{\"tokens\":[");
        for (size_t i = 0; i < ids.n; i++)
            sp_buf_printf(&c->reply->body, "%s%u", i ? "," : "", ids.id[i]);
        sp_buf_puts(&c->reply->body, "]}");
    }
    sp_ids_fini(&ids);
    json_decref(j);
}

static void detokenize(call *c)
{
    json_t *j = NULL;
    const char *model = NULL; /* likewise */
    const json_t *list = NULL;
    const char *bad = NULL;
    sp_diag d = {0};
    sp_buf text = {0};
    const sp_param table[] = {{"tokens", SP_P_JSON, &list, 0, 0},
                              {"model", SP_P_STR, &model, 0, 0}};
    if (!with_model(c, NULL))
        return;
    const sp_tok *tok = c->place.on->env.tok;
    sp_err err = sp_params_parse(&j, c->req->body, c->req->n_body, &d);
    if (err == SP_OK)
        err = sp_params_read(j, table, 2, &bad, &d);
    if (err == SP_OK && !json_is_array(list))
        bad = "tokens", err = SP_FAIL(&d, SP_INVAL, "tokens must be a list of token ids");
    uint32_t prev = SP_TOK_NONE;
    for (size_t i = 0; err == SP_OK && i < json_array_size(list); i++) {
        const json_t *v = json_array_get(list, i);
        if (!json_is_integer(v) || json_integer_value(v) < 0 ||
            (size_t)json_integer_value(v) >= sp_tok_count(tok))
            bad = "tokens",
            err = SP_FAIL(&d, SP_INVAL, "tokens[%zu] is not a token id from 0 to %zu", i,
                          sp_tok_count(tok) - 1);
        else
            sp_tok_decode_after(tok, &text, prev, (uint32_t)json_integer_value(v), true);
        prev = err == SP_OK ? (uint32_t)json_integer_value(v) : SP_TOK_NONE;
    }
    if (err != SP_OK) {
        fail_diag(c, err, &d, bad);
    } else {
        json_ok(c);
        sp_buf_puts(&c->reply->body, "{\"content\":");
        sp_buf_json_str(&c->reply->body, sp_buf_str(&text), text.len);
        sp_buf_putc(&c->reply->body, '}');
    }
    sp_buf_fini(&text);
    json_decref(j);
}

static void health(call *c)
{
    json_ok(c);
    sp_buf_puts(&c->reply->body, "{\"status\":\"ok\"}");
}

static void ready(call *c)
{
    bool draining = atomic_load(&c->app->draining);
    json_ok(c);
    c->reply->status = draining ? 503 : 200;
    sp_buf_printf(&c->reply->body, "{\"status\":\"%s\"}", draining ? "draining" : "ready");
}

/* Everything to an operator; a tenant sees its own requests and tokens. */
static void metrics(call *c)
{
    c->reply->status = 200;
    c->reply->type = "text/plain; version=0.0.4; charset=utf-8";
    if (c->all)
        sp_metrics_render(c->app->metrics, &c->reply->body);
    else
        sp_ledger_metrics(c->app->ledger, &c->reply->body, c->tenant);
}

/* ?since=SECONDS&points=N: see obs/series.h. */
static void history(call *c)
{
    const char *since = sp_api_query(c->req, "since"), *points = sp_api_query(c->req, "points");
    char *a = NULL, *b = NULL;
    double from = since ? strtod(since, &a) : 0;
    long n = points ? strtol(points, &b, 10) : 400;
    if ((since && (a == since || *a || !(from >= 0))) ||
        (points && (b == points || *b || n < 1 || n > 5000))) {
        fail(c, 400, "since is a time in seconds, points a number from 1 to 5000",
             since && (a == since || *a) ? "since" : "points", NULL);
        return;
    }
    json_ok(c);
    sp_series_write(c->app->series, &c->reply->body, from, (size_t)n);
}

static void asset(call *c)
{
    sp_asset_reply(c->app, c->req, c->reply);
}

/* What an operator says about models. */
static void move_model(call *c)
{
    sp_turn_error e = {0};
    sp_err err = sp_api_move_model(&c->seek, c->app, c->req,
                                   strcmp(c->req->path, "/models/unload") == 0, &e);
    c->parked = err == SP_AGAIN;
    if (err == SP_OK) {
        json_ok(c);
        sp_buf_puts(&c->reply->body, "{\"success\":true}");
    } else if (!c->parked) {
        fail(c, sp_api_status(err), e.diag.msg, e.param[0] ? e.param : NULL, sp_api_error_code(&e));
    }
}

/* --- other protocols -------------------------------------------------------------------------- */

/* HEAD: Claude Code asks whether anybody is there. */
static void messages(call *c)
{
    c->reply->status = 200;
    if (strcmp(c->req->method, "POST") == 0) {
        c->reply->status = 0;
        answer_with(c, &sp_codec_anthropic);
    }
}

static void count_messages(call *c)
{
    size_t n;
    if (!with_model(c, &sp_codec_anthropic) ||
        !sp_api_count(&n, &c->place, &sp_codec_anthropic, c->req, c->tenant, c->reply))
        return;
    json_ok(c);
    sp_buf_printf(&c->reply->body, "{\"input_tokens\":%zu}", n);
}

static void ollama_answer(call *c)
{
    const sp_codec *codec =
        strcmp(c->req->path, "/api/chat") == 0 ? &sp_codec_ollama_chat : &sp_codec_ollama_generate;
    if (!sp_ollama_leaves(c->app, c->req, c->reply) && with_model(c, codec) &&
        !sp_ollama_is_load(&c->place, c->req, c->reply))
        sp_api_answer(&c->place, codec, c->req, c->tenant, c->reply, c->task);
}

static void ollama_embed(call *c)
{
    sp_diag d = {0};
    char bad[64] = "";
    if (!with_encoder(c, false))
        return;
    sp_err err = sp_ollama_embed(&c->place, c->req, c->task, bad, &d);
    if (err != SP_OK)
        fail_diag(c, err, &d, bad);
}

static void ollama_about(call *c)
{
    sp_ollama_about(c->app, c->req, c->reply);
}

static void ollama_pull(call *c)
{
    sp_ollama_pull(c->app, c->req, c->all, c->reply, c->task);
}

static void mcp(call *c)
{
    sp_api_mcp(c->app, c->req, c->tenant, c->reply, c->task);
}

typedef struct route {
    sp_rule rule; /* first: the gate hands it on */
    void (*fn)(call *c);
    /* names of the parameters it takes, each between spaces; NULL: the function looks itself */
    const char *query;
} route;

#define NONE " "
enum { META = 256 << 10, TEXTS = 8 << 20 };

static const route routes[] = {
    {{"/v1/chat/completions", false, "POST", SP_TENANTS, SP_BODY_JSON, 0}, chat, NONE},
    {{"/v1/completions", false, "POST", SP_TENANTS, SP_BODY_JSON, 0}, completions, NONE},
    {{"/v1/responses", false, "POST", SP_TENANTS, SP_BODY_JSON, 0}, responses, NONE},
    {{"/v1/responses/input_tokens", false, "POST", SP_TENANTS, SP_BODY_JSON, 0},
     count_response,
     NONE},
    {{"/v1/responses/", true, "GET, POST, DELETE", SP_TENANTS, SP_BODY_JSON, META}, response, NULL},
    {{"/v1/chat/completions/control", false, "POST", SP_TENANTS, SP_BODY_JSON, META},
     control,
     NONE},
    {{"/v1/chat/completions/render", false, "POST", SP_TENANTS, SP_BODY_JSON, 0},
     render_chat,
     NONE},
    {{"/v1/completions/render", false, "POST", SP_TENANTS, SP_BODY_JSON, 0}, render_text, NONE},
    {{"/apply-template", false, "POST", SP_TENANTS, SP_BODY_JSON, 0}, apply_template, NONE},
    {{"/inference/v1/generate", false, "POST", SP_TENANTS, SP_BODY_JSON, 0}, tokens, NONE},
    {{"/v1/plan", false, "POST", SP_TENANTS, SP_BODY_JSON, 0}, plan, NONE},
    {{"/v1/requests", false, "GET", SP_TENANTS, SP_BODY_JSON, 0}, requests, " limit "},
    {{"/v1/embeddings", false, "POST", SP_TENANTS, SP_BODY_JSON, TEXTS}, embeddings, NONE},
    {{"/v1/rerank", false, "POST", SP_TENANTS, SP_BODY_JSON, TEXTS}, rerank, NONE},
    {{"/v2/rerank", false, "POST", SP_TENANTS, SP_BODY_JSON, TEXTS}, rerank, NONE},
    {{"/rerank", false, "POST", SP_TENANTS, SP_BODY_JSON, TEXTS}, rerank, NONE},
    {{"/v1/conversations", false, "GET, POST", SP_TENANTS, SP_BODY_JSON, 0}, conversations, NULL},
    {{"/v1/conversations/", true, "GET, POST, PATCH, DELETE", SP_TENANTS, SP_BODY_JSON, 0},
     conversations,
     NULL},
    {{"/v1/streams", false, "GET", SP_TENANTS, SP_BODY_JSON, 0}, streams, NONE},
    {{"/v1/streams/", true, "GET, DELETE", SP_TENANTS, SP_BODY_JSON, 0}, streams, NONE},
    {{"/v1/files", false, "GET, POST", SP_TENANTS, SP_BODY_FORM, 0}, knowledge, NULL},
    {{"/v1/files/", true, "GET, DELETE", SP_TENANTS, SP_BODY_JSON, 0}, knowledge, NULL},
    {{"/v1/vector_stores", false, "GET, POST", SP_TENANTS, SP_BODY_JSON, META}, knowledge, NULL},
    {{"/v1/vector_stores/", true, "GET, POST, DELETE", SP_TENANTS, SP_BODY_JSON, META},
     knowledge,
     NULL},
    {{"/feedback", false, "POST", SP_TENANTS, SP_BODY_JSON, META}, feedback, NONE},
    {{"/v1/feedback", false, "GET, POST", SP_TENANTS, SP_BODY_JSON, META},
     feedback,
     " limit after "},
    {{"/api/public/scores", false, "POST", SP_TENANTS, SP_BODY_JSON, META}, feedback, NONE},
    {{"/api/v1/feedback", false, "POST", SP_TENANTS, SP_BODY_JSON, META}, feedback, NONE},
    {{"/v1/experiments", false, "GET", SP_OPERATOR, SP_BODY_JSON, 0}, feedback, NULL},
    {{"/v1/costs", false, "GET", SP_TENANTS, SP_BODY_JSON, 0}, costs, NULL},
    {{"/v1/shadow", false, "GET", SP_OPERATOR, SP_BODY_JSON, 0}, shadow, NONE},
    {{"/v1/tenant", false, "DELETE", SP_TENANTS, SP_BODY_JSON, 0}, tenant, NONE},
    {{"/v1/models", false, "GET", SP_TENANTS, SP_BODY_JSON, 0}, models, NONE},
    {{"/v1/models/", true, "GET", SP_TENANTS, SP_BODY_JSON, 0}, models, NONE},
    {{"/models", false, "GET", SP_TENANTS, SP_BODY_JSON, 0}, models, NONE},
    {{"/models/load", false, "POST", SP_OPERATOR, SP_BODY_JSON, META}, move_model, NONE},
    {{"/models/unload", false, "POST", SP_OPERATOR, SP_BODY_JSON, META}, move_model, NONE},
    {{"/tokenize", false, "POST", SP_TENANTS, SP_BODY_JSON, TEXTS}, tokenize, NONE},
    {{"/detokenize", false, "POST", SP_TENANTS, SP_BODY_JSON, TEXTS}, detokenize, NONE},
    {{"/version", false, "GET", SP_TENANTS, SP_BODY_JSON, 0}, version, NONE},
    {{"/props", false, "GET", SP_TENANTS, SP_BODY_JSON, 0}, props, NULL},
    {{"/slots", false, "GET", SP_OPERATOR, SP_BODY_JSON, 0}, slots, NULL},
    {{"/v1/audio/", true, "GET, POST", SP_TENANTS, SP_BODY_ANY, 0}, lacking, NULL},
    {{"/v1/images/", true, "GET, POST", SP_TENANTS, SP_BODY_ANY, 0}, lacking, NULL},
    {{"/v1/videos", true, "GET, POST", SP_TENANTS, SP_BODY_ANY, 0}, lacking, NULL},
    {{"/v1/moderations", false, "POST", SP_TENANTS, SP_BODY_ANY, 0}, lacking, NULL},
    {{"/v1/messages", false, "HEAD, POST", SP_TENANTS, SP_BODY_JSON, 0}, messages, " beta "},
    {{"/v1/messages/count_tokens", false, "POST", SP_TENANTS, SP_BODY_JSON, 0},
     count_messages,
     " beta "},
    {{"/api/chat", false, "POST", SP_TENANTS, SP_BODY_JSON, 0}, ollama_answer, NONE},
    {{"/api/generate", false, "POST", SP_TENANTS, SP_BODY_JSON, 0}, ollama_answer, NONE},
    {{"/api/embed", false, "POST", SP_TENANTS, SP_BODY_JSON, TEXTS}, ollama_embed, NONE},
    {{"/api/embeddings", false, "POST", SP_TENANTS, SP_BODY_JSON, TEXTS}, ollama_embed, NONE},
    {{"/api/show", false, "POST", SP_TENANTS, SP_BODY_JSON, META}, ollama_about, NONE},
    {{"/api/pull", false, "POST", SP_TENANTS, SP_BODY_JSON, META}, ollama_pull, NONE},
    {{"/api/tags", false, "GET", SP_TENANTS, SP_BODY_JSON, 0}, ollama_about, NONE},
    {{"/api/ps", false, "GET", SP_TENANTS, SP_BODY_JSON, 0}, ollama_about, NONE},
    {{"/api/version", false, "GET", SP_TENANTS, SP_BODY_JSON, 0}, ollama_about, NONE},
    {{"/api/", true, "GET, POST, DELETE", SP_TENANTS, SP_BODY_ANY, META}, ollama_about, NULL},
    {{"/mcp", false, "POST", SP_TENANTS, SP_BODY_JSON, META}, mcp, NONE},
    {{"/metrics", false, "GET", SP_TENANTS, SP_BODY_JSON, 0}, metrics, NONE},
    {{"/v1/metrics/history", false, "GET", SP_OPERATOR, SP_BODY_JSON, 0},
     history,
     " since points "},
    {{"/health", false, "GET", SP_PROBE, SP_BODY_JSON, 0}, health, NULL},
    {{"/livez", false, "GET", SP_PROBE, SP_BODY_JSON, 0}, health, NULL},
    {{"/ping", false, "GET", SP_PROBE, SP_BODY_JSON, 0}, health, NULL},
    {{"/readyz", false, "GET", SP_PROBE, SP_BODY_JSON, 0}, ready, NULL},
};

static const route asset_route = {{"/", false, "GET", SP_PAGE, SP_BODY_JSON, 0}, asset, NULL};

static const sp_rule *find_rule(const sp_app *app, const char *path)
{
    for (size_t i = 0; i < sizeof routes / sizeof routes[0]; i++) {
        const sp_rule *r = &routes[i].rule;
        if (r->prefix ? strncmp(path, r->path, strlen(r->path)) == 0 : strcmp(path, r->path) == 0)
            return r;
    }
    return sp_asset_has(app, path) ? &asset_route.rule : NULL;
}

void sp_api_gate(void *app, const sp_http_req *req, sp_http_reply *reply, sp_http_pass *pass)
{
    sp_gate_name(sp_http_header(req, "X-Request-Id"), req->path, reply);
    sp_gate_judge(app, find_rule(app, req->path), req, reply, pass);
}

void sp_api_refuse(void *app, const sp_http_conn *conn, int status, const char *why,
                   sp_http_reply *reply)
{
    const sp_app *a = app;
    if (!sp_http_is_past_gate(conn))
        sp_gate_name(NULL, sp_http_path(conn), reply);
    sp_gate_count_head(a->gate);
    if (status == 413)
        why = "the body is larger than this path accepts; see --max-body";
    reply->status = status;
    reply->type = "application/json";
    sp_api_error_at(sp_http_path(conn), &reply->body, status, why, NULL,
                    status == 413 ? "body_too_large" : NULL);
    if (status == 503)
        sp_http_reply_header(reply, "Retry-After", "1");
}

static void run_call(void *arg, const sp_api_req *req, sp_http_reply *reply, sp_http_task *task)
{
    call *c = arg;
    c->req = req;
    c->reply = reply;
    c->task = task;
    c->parked = false;
    c->fn(c);
    if (!c->parked)
        sp_api_seek_fini(&c->seek);
}

static void fini_call(void *arg)
{
    sp_api_seek_fini(&((call *)arg)->seek);
}

/* What may make a task, or reads a body: a POST on a worker, the rest at once. Other paths need no
 * task. */
static bool has_work(const route *r)
{
    return strcmp(r->rule.methods, "GET") != 0;
}

/* Does it compute for the tenant, whose budget must have something left? */
static bool spends(const route *r)
{
    static void (*const fn[])(call *) = {chat,     completions,   responses,  tokens, messages,
                                         ollama_answer, ollama_embed, embeddings, rerank};
    bool is_one = false;
    for (size_t i = 0; i < sizeof fn / sizeof *fn; i++)
        is_one = is_one || r->fn == fn[i];
    return is_one;
}

/* Is the tenant's budget spent? Then the reply says so. */
static bool refuses_spender(call *c, const route *r)
{
    sp_diag d = {0};
    int64_t wait_s = 0;
    char text[24];
    if (!spends(r) || !sp_gate_takes_body(c->req->method) ||
        sp_budgets_check(c->app->budgets, c->tenant, &wait_s, &d) == SP_OK)
        return false;
    snprintf(text, sizeof text, "%lld", (long long)wait_s);
    sp_http_reply_header(c->reply, "Retry-After", text);
    fail(c, 429, d.msg, NULL, "insufficient_quota");
    return true;
}

void sp_api_handle(void *app, const sp_http_req *req, sp_http_reply *reply, sp_http_task *task)
{
    const route *r = req->pass->route;
    sp_front *front = ((sp_app *)app)->front;
    if (sp_front_takes(front, req)) {
        sp_front_pass(front, req, reply, task);
        return;
    }
    const sp_api_req here = {.method = req->method,
                             .path = req->path,
                             .body = req->body,
                             .n_body = req->n_body,
                             .http = req};
    call c = {.app = app,
              .req = &here,
              .reply = reply,
              .task = task,
              .all = req->pass->all,
              .fn = r->fn};
    const char *bad = NULL;
    sp_diag d = {0};
    /* bodies may be read where no query is */
    bool plain = r->query || (r->rule.access == SP_TENANTS && sp_gate_takes_body(req->method));
    sp_err err = plain ? sp_params_query(req, r->query ? r->query : NONE, &bad, &d) : SP_OK;
    snprintf(c.tenant, sizeof c.tenant, "%s", req->pass->who);
    if (err == SP_OK && refuses_spender(&c, r))
        return;
    if (err == SP_OK && has_work(r))
        err = sp_work_start(
            task, c.app->workers, req, reply,
            &(sp_work_cfg){run_call, &c, sizeof c, fini_call, sp_gate_takes_body(req->method)}, &d);
    else if (err == SP_OK)
        r->fn(&c);
    if (err != SP_OK)
        fail_diag(&c, err, &d, bad);
}
