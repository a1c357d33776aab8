/* Who may ask, and which function answers. Order: Host, Origin, route, key, method. */
#include "api/completion.h"
#include "api/conversation.h"
#include "api/knowledge.h"
#include "api/params.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

typedef struct call {
    sp_app *app;
    const sp_http_req *req;
    sp_http_reply *reply;
    sp_http_task *task;
    char tenant[SP_TENANT_BYTES];
} call;

/* When half of what waits will be done, as predicted. */
static void retry_after(call *c)
{
    char text[16];
    double s = sp_engine_backlog(c->app->engine) / 2;
    snprintf(text, sizeof text, "%.0f", s < 1 ? 1 : s > 3600 ? 3600 : s);
    sp_http_reply_header(c->reply, "Retry-After", text);
}

static void fail(call *c, int status, const char *message, const char *param, const char *code)
{
    c->reply->status = status;
    c->reply->type = "application/json";
    sp_api_error(&c->reply->body, status, message, param, code);
    if (status == 429)
        retry_after(c);
}

static void fail_diag(call *c, sp_err err, const sp_diag *d, const char *param)
{
    bool too_long = err == SP_INVAL && strstr(d->msg, "the context holds") != NULL;
    fail(c, sp_api_status(err), d->msg, param && *param ? param : NULL,
         too_long ? "context_length_exceeded" : err == SP_NOTFOUND ? "model_not_found" : NULL);
}

bool sp_api_reply(sp_http_reply *reply, const sp_diag *error)
{
    reply->type = "application/json";
    reply->status = error->code ? sp_api_status(error->code) : 200;
    if (error->code)
        sp_api_error(&reply->body, reply->status, error->msg, NULL, NULL);
    return error->code == SP_OK;
}

/* --- endpoints -------------------------------------------------------------------------------- */

static void chat(call *c)
{
    sp_diag d = {0};
    char bad[64] = "";
    sp_err err = sp_api_completion(c->app, true, c->req, c->tenant, c->task, bad, &d);
    if (err != SP_OK)
        fail_diag(c, err, &d, bad);
}

static void completions(call *c)
{
    sp_diag d = {0};
    char bad[64] = "";
    sp_err err = sp_api_completion(c->app, false, c->req, c->tenant, c->task, bad, &d);
    if (err != SP_OK)
        fail_diag(c, err, &d, bad);
}

static void json_ok(call *c);

static void plan(call *c)
{
    sp_diag d = {0};
    char bad[64] = "";
    sp_err err = sp_api_plan(c->app, c->req, c->tenant, &c->reply->body, bad, &d);
    if (err != SP_OK)
        fail_diag(c, err, &d, bad);
    else
        json_ok(c);
}

/* ?limit=1..512 */
static void requests(call *c)
{
    const char *v = sp_http_query(c->req, "limit");
    char *end = NULL;
    long n = v ? strtol(v, &end, 10) : 50;
    if (v && (*end || end == v || n < 1 || n > SP_LEDGER_CAP)) {
        fail(c, 400, "limit must be a number from 1 to 512", "limit", NULL);
        return;
    }
    json_ok(c);
    sp_ledger_write(c->app->ledger, &c->reply->body, c->tenant, (size_t)n);
}

/* Errors of the routes where not finding is about an id. */
static void fail_id(call *c, sp_err err, const sp_diag *d, const char *bad)
{
    if (err == SP_NOTFOUND)
        fail(c, 404, d->msg, NULL, "not_found");
    else if (err != SP_OK)
        fail_diag(c, err, d, bad);
}

static void conversations(call *c)
{
    sp_diag d = {0};
    char bad[64] = "";
    fail_id(c, sp_api_conversation(c->app, c->req, c->tenant, c->task, bad, &d), &d, bad);
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

static void embeddings(call *c)
{
    sp_diag d = {0};
    char bad[64] = "";
    sp_err err = sp_api_embedding(c->app, c->req, c->task, bad, &d);
    if (err != SP_OK)
        fail_diag(c, err, &d, bad);
}

static void put_model(sp_buf *out, const sp_app *app, const char *name)
{
    sp_buf_puts(out, "{\"id\":");
    sp_buf_json_str(out, name, strlen(name));
    sp_buf_printf(out, ",\"object\":\"model\",\"created\":%lld,\"owned_by\":\"sparing\"", (long long)app->created);
    if (strcmp(name, app->model_name) == 0)
        sp_buf_printf(out, ",\"max_model_len\":%zu,\"file_search\":%s", sp_engine_config(app->engine)->n_ctx, app->know ? "true" : "false");
    sp_buf_putc(out, '}');
}

static void json_ok(call *c)
{
    c->reply->status = 200;
    c->reply->type = "application/json";
}

static void models(call *c)
{
    static const char prefix[] = "/v1/models/";
    const char *one = strncmp(c->req->path, prefix, sizeof prefix - 1) == 0 ? c->req->path + sizeof prefix - 1 : NULL;
    const sp_app *app = c->app;
    if (one) {
        bool known = strcmp(one, app->model_name) == 0 || (app->embed_vocab && strcmp(one, app->embed_name) == 0);
        if (!known) {
            fail(c, 404, "there is no model of this name", "model", "model_not_found");
            return;
        }
        json_ok(c);
        put_model(&c->reply->body, app, one);
        return;
    }
    json_ok(c);
    sp_buf_puts(&c->reply->body, "{\"object\":\"list\",\"data\":[");
    put_model(&c->reply->body, app, app->model_name);
    if (app->embed_vocab) {
        sp_buf_putc(&c->reply->body, ',');
        put_model(&c->reply->body, app, app->embed_name);
    }
    sp_buf_puts(&c->reply->body, "]}");
}

static void tokenize(call *c)
{
    json_t *j = NULL;
    const json_t *content = NULL;
    bool special = false, bos = false;
    const char *bad = NULL;
    sp_diag d = {0};
    sp_ids ids = {0};
    const sp_param table[] = {{"content", SP_P_JSON, &content, 0, 0}, {"parse_special", SP_P_BOOL, &special, 0, 0},
                              {"add_special", SP_P_BOOL, &bos, 0, 0}};
    sp_err err = sp_params_parse(&j, c->req->body, c->req->n_body, &d);
    if (err == SP_OK)
        err = sp_params_read(j, table, 3, &bad, &d);
    if (err == SP_OK && !json_is_string(content))
        bad = "content", err = SP_FAIL(&d, SP_INVAL, "content must be a string");
    if (err == SP_OK && bos && sp_tok_adds_bos(c->app->tok))
        err = sp_ids_push(&ids, sp_tok_bos(c->app->tok));
    if (err == SP_OK)
        err = sp_tok_encode(c->app->tok, &ids, json_string_value(content), json_string_length(content),
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
    const json_t *list = NULL;
    const char *bad = NULL;
    sp_diag d = {0};
    sp_buf text = {0};
    const sp_param table[] = {{"tokens", SP_P_JSON, &list, 0, 0}};
    sp_err err = sp_params_parse(&j, c->req->body, c->req->n_body, &d);
    if (err == SP_OK)
        err = sp_params_read(j, table, 1, &bad, &d);
    if (err == SP_OK && !json_is_array(list))
        bad = "tokens", err = SP_FAIL(&d, SP_INVAL, "tokens must be a list of token ids");
    for (size_t i = 0; err == SP_OK && i < json_array_size(list); i++) {
        const json_t *v = json_array_get(list, i);
        if (!json_is_integer(v) || json_integer_value(v) < 0 || (size_t)json_integer_value(v) >= sp_tok_count(c->app->tok))
            bad = "tokens", err = SP_FAIL(&d, SP_INVAL, "tokens[%zu] is not a token id from 0 to %zu", i, sp_tok_count(c->app->tok) - 1);
        else
            sp_tok_decode(c->app->tok, &text, (uint32_t)json_integer_value(v), true);
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

static void metrics(call *c)
{
    c->reply->status = 200;
    c->reply->type = "text/plain; version=0.0.4; charset=utf-8";
    sp_metrics_render(c->app->metrics, &c->reply->body);
}

/* ?since=SECONDS&points=N: see obs/series.h. */
static void history(call *c)
{
    const char *since = sp_http_query(c->req, "since"), *points = sp_http_query(c->req, "points");
    char *a = NULL, *b = NULL;
    double from = since ? strtod(since, &a) : 0;
    long n = points ? strtol(points, &b, 10) : 400;
    if ((since && (a == since || *a || !(from >= 0))) || (points && (b == points || *b || n < 1 || n > 5000))) {
        fail(c, 400, "since is a time in seconds, points a number from 1 to 5000", since && (a == since || *a) ? "since" : "points", NULL);
        return;
    }
    json_ok(c);
    sp_series_write(c->app->series, &c->reply->body, from, (size_t)n);
}

static void asset(call *c)
{
    static const struct { const char *path, *name; } map[] = {
        {"/dashboard", "dashboard.html"}, {"/dashboard.css", "dashboard.css"}, {"/dashboard.js", "dashboard.js"},
        {"/uplot.js", "uplot.js"}, {"/uplot.css", "uplot.css"}, {"/", "chat.html"}, {"/chat.css", "chat.css"}, {"/chat.js", "chat.js"}, {"/openapi.json", "openapi.json"}};
    for (size_t i = 0; i < sizeof map / sizeof map[0]; i++) {
        if (strcmp(map[i].path, c->req->path) != 0)
            continue;
        for (const sp_asset *a = sp_assets; a->name; a++) {
            if (strcmp(a->name, map[i].name) != 0)
                continue;
            c->reply->status = 200;
            c->reply->type = a->type;
            sp_http_reply_header(c->reply, "Content-Security-Policy", "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'");
            sp_http_reply_header(c->reply, "X-Content-Type-Options", "nosniff");
            sp_buf_put(&c->reply->body, a->p, a->n);
            return;
        }
    }
}

typedef struct route {
    const char *path;
    bool prefix, post, open; /* open: no key asked */
    void (*fn)(call *c);
    bool any;                /* the function looks at the method itself */
} route;

static const route routes[] = {
    {"/v1/chat/completions", false, true, false, chat, false},
    {"/v1/completions", false, true, false, completions, false},
    {"/v1/plan", false, true, false, plan, false},
    {"/v1/requests", false, false, false, requests, false},
    {"/v1/embeddings", false, true, false, embeddings, false},
    {.path = "/v1/conversations", .fn = conversations, .any = true},
    {.path = "/v1/conversations/", .prefix = true, .fn = conversations, .any = true},
    {.path = "/v1/files", .fn = knowledge, .any = true},
    {.path = "/v1/files/", .prefix = true, .fn = knowledge, .any = true},
    {.path = "/v1/vector_stores", .fn = knowledge, .any = true},
    {.path = "/v1/vector_stores/", .prefix = true, .fn = knowledge, .any = true},
    {.path = "/v1/tenant", .fn = tenant, .any = true},
    {"/v1/models", false, false, false, models, false},
    {"/v1/models/", true, false, false, models, false},
    {"/tokenize", false, true, false, tokenize, false},
    {"/detokenize", false, true, false, detokenize, false},
    {"/health", false, false, true, health, false},
    {"/livez", false, false, true, health, false},
    {"/readyz", false, false, true, ready, false},
    {"/metrics", false, false, false, metrics, false},
    {"/v1/metrics/history", false, false, false, history, false},
    {"/dashboard", false, false, true, asset, false},
    {"/dashboard.css", false, false, true, asset, false},
    {"/dashboard.js", false, false, true, asset, false},
    {"/uplot.js", false, false, true, asset, false},
    {"/uplot.css", false, false, true, asset, false},
    {"/", false, false, true, asset, false},
    {"/chat.css", false, false, true, asset, false},
    {"/chat.js", false, false, true, asset, false},
    {"/openapi.json", false, false, true, asset, false},
};

/* --- gates ------------------------------------------------------------------------------------ */

static bool in_list(const char *const *list, const char *p, size_t n)
{
    for (; *list; list++)
        if (strlen(*list) == n && strncasecmp(*list, p, n) == 0)
            return true;
    return false;
}

/* Host without its port. A page that rebinds a name to this address sends its own name. */
static bool host_ok(const call *c)
{
    const char *host = sp_http_header(c->req, "Host");
    if (!host)
        return false;
    const char *end = host[0] == '[' ? strchr(host, ']') : NULL;
    size_t n = end ? (size_t)(end + 1 - host) : strcspn(host, ":");
    return in_list(c->app->hosts, host, n);
}

/* Absent, this server itself, or on the list. */
static bool origin_ok(const call *c, const char *origin)
{
    const char *host = sp_http_header(c->req, "Host"), *at = origin ? strstr(origin, "://") : NULL;
    if (!origin)
        return true;
    if (at && host && strcasecmp(at + 3, host) == 0)
        return true;
    return in_list(c->app->origins, origin, strlen(origin));
}

static void allow_origin(call *c, const char *origin)
{
    if (!origin)
        return;
    sp_http_reply_header(c->reply, "Access-Control-Allow-Origin", origin);
    sp_http_reply_header(c->reply, "Vary", "Origin");
    if (strcmp(c->req->method, "OPTIONS") == 0) {
        sp_http_reply_header(c->reply, "Access-Control-Allow-Methods", "GET, POST, DELETE");
        sp_http_reply_header(c->reply, "Access-Control-Allow-Headers", "Authorization, Content-Type");
    }
}

static const route *find_route(const char *path)
{
    for (size_t i = 0; i < sizeof routes / sizeof routes[0]; i++) {
        const route *r = &routes[i];
        if (r->prefix ? strncmp(path, r->path, strlen(r->path)) == 0 : strcmp(path, r->path) == 0)
            return r;
    }
    return NULL;
}

void sp_api_handle(void *app, const sp_http_req *req, sp_http_reply *reply, sp_http_task *task)
{
    call c = {.app = app, .req = req, .reply = reply, .task = task};
    const char *origin = sp_http_header(req, "Origin");
    if (!host_ok(&c)) {
        fail(&c, 403, "this server does not answer to that Host; see --allow-host", NULL, "host_not_allowed");
        return;
    }
    if (!origin_ok(&c, origin)) {
        fail(&c, 403, "requests from that Origin are not allowed; see --cors-origin", NULL, "origin_not_allowed");
        return;
    }
    allow_origin(&c, origin);
    const route *r = find_route(req->path);
    if (!r) {
        fail(&c, 404, "there is nothing at this path", NULL, "not_found");
    } else if (strcmp(req->method, "OPTIONS") == 0) {
        reply->status = 204;
    } else if (!r->open && !sp_auth_check(c.app->auth, sp_http_header(req, "Authorization"), c.tenant)) {
        fail(&c, 401, "a valid API key is needed: Authorization: Bearer KEY", NULL, "invalid_api_key");
        sp_http_reply_header(reply, "WWW-Authenticate", "Bearer");
    } else if (!r->any && strcmp(req->method, r->post ? "POST" : "GET") != 0 && (r->post || strcmp(req->method, "HEAD") != 0)) {
        fail(&c, 405, r->post ? "this path takes POST" : "this path takes GET", NULL, "method_not_allowed");
        sp_http_reply_header(reply, "Allow", r->post ? "POST, OPTIONS" : "GET, HEAD, OPTIONS");
    } else if (req->too_large) {
        fail(&c, 413, "the body is larger than this server accepts; see --max-body", NULL, "body_too_large");
    } else {
        r->fn(&c);
    }
}
