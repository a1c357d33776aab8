#include "api/about.h"

#include "api/params.h"
#include "sched/engine.h"

#include <string.h>
#include <strings.h>
#include <time.h>

/* --- names ------------------------------------------------------------------------------------ */

/* Bytes of a name without what clients add to it. */
static size_t bare(const char *name)
{
    static const char *const tail[] = {":latest", ".gguf"};
    size_t n = strlen(name);
    for (size_t i = 0; i < sizeof tail / sizeof tail[0]; i++) {
        size_t k = strlen(tail[i]);
        if (n > k && strncasecmp(name + n - k, tail[i], k) == 0)
            n -= k;
    }
    return n;
}

static bool is_same(const char *a, const char *b)
{
    size_t n = bare(a);
    return n == bare(b) && strncasecmp(a, b, n) == 0;
}

/* The name that an alias NAME=MODEL stands for; NULL: it is none. */
static const char *find_alias(const sp_app *app, const char *asked)
{
    for (const char *const *p = app->aliases; p && *p; p++) {
        const char *eq = strchr(*p, '=');
        size_t n = bare(asked);
        if (eq && (size_t)(eq - *p) == n && strncasecmp(*p, asked, n) == 0)
            return eq + 1;
    }
    return NULL;
}

bool sp_about_is_name(const sp_app *app, const char *own, const char *asked)
{
    const char *other = find_alias(app, asked);
    return is_same(own, asked) || (other && is_same(own, other));
}

/* --- models ----------------------------------------------------------------------------------- */

static void put_time(sp_buf *out, int64_t seconds)
{
    time_t t = (time_t)seconds;
    struct tm tm;
    char text[32];
    gmtime_r(&t, &tm);
    strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &tm);
    sp_buf_printf(out, "\"%s\"", text);
}

static void put_capabilities(sp_buf *out, const sp_app *app)
{
    sp_buf_printf(out, ",\"context_length\":%zu,\"max_model_len\":%zu,\"file_search\":%s", sp_engine_config(app->env.engine)->n_ctx,
                  sp_engine_config(app->env.engine)->n_ctx, app->env.know ? "true" : "false");
    sp_buf_printf(out, ",\"capabilities\":[\"completion\"%s%s]", app->env.chat && !sp_chat_why(app->env.chat) ? ",\"chat\",\"tools\",\"structured_outputs\"" : "",
                  app->env.think_open != app->env.think_close ? ",\"reasoning\"" : "");
}

static void put_encoder(sp_buf *out, const sp_encoder *e)
{
    sp_buf_printf(out, ",\"context_length\":%zu", sp_encoder_cap(e));
    if (sp_encoder_is_ranker(e))
        sp_buf_puts(out, ",\"capabilities\":[\"rerank\"]");
    else
        sp_buf_printf(out, ",\"dimensions\":%zu,\"capabilities\":[\"embedding\"]", sp_encoder_dim(e));
}

/* name: as it is listed; an alias has the model it stands for as its root. */
static void put_model(sp_buf *out, const sp_app *app, const char *name, size_t n_name, const char *root)
{
    bool answers = strcmp(root, app->env.name) == 0;
    sp_buf_puts(out, "{\"id\":");
    sp_buf_json_str(out, name, n_name);
    sp_buf_printf(out, ",\"object\":\"model\",\"type\":\"model\",\"created\":%lld,\"created_at\":", (long long)app->created);
    put_time(out, app->created);
    sp_buf_puts(out, ",\"owned_by\":\"sparing\",\"display_name\":");
    sp_buf_json_str(out, name, n_name);
    sp_buf_puts(out, ",\"root\":");
    sp_buf_json_str(out, root, strlen(root));
    if (answers)
        put_capabilities(out, app);
    else
        put_encoder(out, sp_about_encoder(app, root));
    sp_buf_putc(out, '}');
}

sp_encoder *sp_about_encoder(const sp_app *app, const char *asked)
{
    for (size_t i = 0; i < app->n_encoder; i++)
        if (sp_about_is_name(app, sp_encoder_name(app->encoders[i]), asked))
            return app->encoders[i];
    return app->reranker && sp_about_is_name(app, sp_encoder_name(app->reranker), asked) ? app->reranker : NULL;
}

/* The server's own name of a model; NULL: there is none. */
static const char *find_model(const sp_app *app, const char *asked)
{
    if (sp_about_is_name(app, app->env.name, asked))
        return app->env.name;
    const sp_encoder *e = sp_about_encoder(app, asked);
    return e ? sp_encoder_name(e) : NULL;
}

static void put_string(sp_buf *out, const char *key, const char *s, size_t n)
{
    sp_buf_printf(out, ",\"%s\":", key);
    sp_buf_json_str(out, s, n);
}

static void put_list(sp_buf *out, const sp_app *app)
{
    const char *last = app->env.name;
    size_t n_last = strlen(last);
    sp_buf_puts(out, "{\"object\":\"list\",\"data\":[");
    put_model(out, app, last, n_last, app->env.name);
    for (size_t i = 0; i < app->n_encoder + (app->reranker ? 1 : 0); i++) {
        sp_buf_putc(out, ',');
        last = sp_encoder_name(i < app->n_encoder ? app->encoders[i] : app->reranker);
        n_last = strlen(last);
        put_model(out, app, last, n_last, last);
    }
    for (const char *const *p = app->aliases; p && *p; p++) {
        const char *eq = strchr(*p, '='), *root = find_model(app, eq + 1);
        if (!root)
            continue;
        sp_buf_putc(out, ',');
        last = *p;
        n_last = (size_t)(eq - *p);
        put_model(out, app, last, n_last, root);
    }
    sp_buf_puts(out, "],\"has_more\":false");
    put_string(out, "first_id", app->env.name, strlen(app->env.name));
    put_string(out, "last_id", last, n_last);
    sp_buf_putc(out, '}');
}

static void json_ok(sp_http_reply *reply)
{
    reply->status = 200;
    reply->type = "application/json";
}

void sp_about_models(const sp_app *app, const sp_api_req *req, sp_http_reply *reply)
{
    static const char prefix[] = "/v1/models/";
    const char *one = strncmp(req->path, prefix, sizeof prefix - 1) == 0 ? req->path + sizeof prefix - 1 : NULL;
    const char *root = one ? find_model(app, one) : NULL;
    json_ok(reply);
    if (!one) {
        put_list(&reply->body, app);
    } else if (root) {
        bool alias = find_alias(app, one) != NULL;
        put_model(&reply->body, app, alias ? one : root, strlen(alias ? one : root), root);
    } else {
        reply->status = 404;
        sp_api_error(&reply->body, 404, "there is no model of this name", "model", "model_not_found");
    }
}

/* --- the server ------------------------------------------------------------------------------- */

void sp_about_version(const sp_app *app, sp_http_reply *reply)
{
    (void)app;
    json_ok(reply);
    sp_buf_puts(&reply->body, "{\"version\":\"" SP_VERSION "\"}");
}

void sp_about_props(const sp_app *app, sp_http_reply *reply)
{
    const sp_engine_cfg *cfg = sp_engine_config(app->env.engine);
    sp_buf *out = &reply->body;
    json_ok(reply);
    sp_buf_printf(out, "{\"default_generation_settings\":{\"n_ctx\":%zu,\"params\":{\"temperature\":1,\"top_p\":1,\"top_k\":0,\"min_p\":0,\"seed\":-1}},\"total_slots\":%zu",
                  cfg->n_ctx, cfg->max_run);
    put_string(out, "model_alias", app->env.name, strlen(app->env.name));
    put_string(out, "chat_template", app->template.p, app->template.n);
    sp_str bos = sp_tok_adds_bos(app->env.tok) ? sp_tok_piece(app->env.tok, sp_tok_bos(app->env.tok)) : (sp_str){"", 0};
    put_string(out, "bos_token", bos.p, bos.n);
    sp_buf_puts(out, ",\"modalities\":{\"vision\":false,\"audio\":false},\"build_info\":\"sparing " SP_VERSION "\"}");
}

void sp_about_slots(const sp_app *app, sp_http_reply *reply)
{
    const sp_engine_cfg *cfg = sp_engine_config(app->env.engine);
    size_t n_run = sp_engine_running(app->env.engine);
    json_ok(reply);
    sp_buf_putc(&reply->body, '[');
    for (size_t i = 0; i < cfg->max_run; i++)
        sp_buf_printf(&reply->body, "%s{\"id\":%zu,\"n_ctx\":%zu,\"is_processing\":%s}", i ? "," : "", i, cfg->n_ctx, i < n_run ? "true" : "false");
    sp_buf_putc(&reply->body, ']');
}

void sp_about_lacking(const sp_api_req *req, sp_http_reply *reply)
{
    static const struct {
        const char *path, *lacks;
    } of[] = {{"/v1/audio/speech", "this server writes text only: it has no model that speaks"},
              {"/v1/audio/", "this server reads text only: it has no model that hears"},
              {"/v1/images/", "this server writes text only: it has no model that draws"},
              {"/v1/videos", "this server writes text only: it has no model that makes videos"},
              {"/v1/moderations", "this server has no model that classifies texts for moderation"}};
    const char *why = "this server cannot do that";
    for (size_t i = sizeof of / sizeof of[0]; i-- > 0;) /* the first of the table that fits */
        if (strncmp(req->path, of[i].path, strlen(of[i].path)) == 0)
            why = of[i].lacks;
    reply->status = 400;
    reply->type = "application/json";
    sp_api_error(&reply->body, 400, why, NULL, "not_supported");
}
