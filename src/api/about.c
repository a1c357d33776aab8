#include "api/about.h"

#include "api/params.h"
#include "sched/engine.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

/* What a form has around a file, at most: its boundary, names and other fields. */
enum { FORM_BYTES = 1024 };

/* --- models ----------------------------------------------------------------------------------- */

void sp_about_time(sp_buf *out, int64_t seconds)
{
    time_t t = (time_t)seconds;
    struct tm tm;
    char text[32];
    gmtime_r(&t, &tm);
    strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &tm);
    sp_buf_printf(out, "\"%s\"", text);
}

/* What can be said of a model: by itself while it is in memory, else by its file. */
static void put_capabilities(sp_buf *out, const sp_app *app, const sp_model_row *row)
{
    sp_served *on = NULL;
    size_t n_ctx = row->facts.n_ctx;
    bool chats = row->facts.has_chat, thinks = false;
    if (sp_models_use(&on, app->models, row->name) == SP_OK && !on->encoder) {
        n_ctx = sp_engine_config(on->env.engine)->n_ctx;
        chats = on->env.chat && !sp_chat_why(on->env.chat);
        thinks = on->env.think_open != on->env.think_close;
    }
    sp_models_done(app->models, on);
    sp_buf_printf(out, ",\"context_length\":%zu,\"max_model_len\":%zu,\"file_search\":%s", n_ctx,
                  n_ctx, app->shared->know ? "true" : "false");
    if (app->shared->know)
        sp_buf_printf(out, ",\"max_file_bytes\":%zu", app->max_body - FORM_BYTES);
    sp_buf_printf(out, ",\"capabilities\":[\"completion\"%s%s]",
                  chats ? ",\"chat\",\"structured_outputs\"" : "", thinks ? ",\"reasoning\"" : "");
}

static void put_string(sp_buf *out, const char *key, const char *s, size_t n)
{
    sp_buf_printf(out, ",\"%s\":", key);
    sp_buf_json_str(out, s, n);
}

/* Where the model is, as llama.cpp's router says it. */
static void put_status(sp_buf *out, const sp_model_row *row)
{
    sp_buf_printf(out, ",\"status\":{\"value\":\"%s\",\"failed\":%s,\"bytes\":%zu,\"in_use\":%zu",
                  sp_model_state_name(row->state), row->state == SP_MODEL_FAILED ? "true" : "false",
                  row->bytes, row->n_use);
    const char *why = row->why[0] ? row->why : row->facts.why;
    if (why[0])
        put_string(out, "why", why, strlen(why));
    sp_buf_putc(out, '}');
}

static void put_encoder(sp_buf *out, const sp_model_facts *f)
{
    sp_buf_printf(out, ",\"context_length\":%zu", f->n_ctx);
    if (f->is_ranker)
        sp_buf_puts(out, ",\"capabilities\":[\"rerank\"]");
    else
        sp_buf_printf(out, ",\"dimensions\":%zu,\"capabilities\":[\"embedding\"]", f->n_dim);
}

/* Begins an entry; name: as it is listed; an alias has the model it stands for as its root. */
static void put_head(sp_buf *out, const sp_app *app, const char *name, size_t n_name,
                     const char *root)
{
    sp_buf_puts(out, "{\"id\":");
    sp_buf_json_str(out, name, n_name);
    sp_buf_printf(out, ",\"object\":\"model\",\"type\":\"model\",\"created\":%lld,\"created_at\":",
                  (long long)app->created);
    sp_about_time(out, app->created);
    sp_buf_puts(out, ",\"owned_by\":\"sparing\",\"display_name\":");
    sp_buf_json_str(out, name, n_name);
    put_string(out, "root", root, strlen(root));
}

/* The model's row; false: there is none of this name. */
static bool find_row(const sp_app *app, const char *asked, sp_model_row *out)
{
    const char *name = sp_models_find(app->models, asked);
    for (size_t i = 0; name && sp_models_row(app->models, i, out); i++)
        if (strcmp(out->name, name) == 0)
            return true;
    return false;
}

/* An entry of a list under the name `name`; false: it stands for nothing. */
static bool put_named(sp_buf *out, const sp_app *app, const char *name, size_t n_name,
                      const char *root)
{
    sp_model_row row;
    if (!find_row(app, root, &row))
        return false;
    put_head(out, app, name, n_name, row.name);
    /* what is in memory fits, however much of its file it leaves there */
    bool fits = row.bytes || row.facts.least_bytes <= sp_models_room(app->models);
    sp_buf_printf(out, ",\"size\":%zu,\"fits\":%s", row.facts.file_bytes, fits ? "true" : "false");
    if (row.facts.is_encoder)
        put_encoder(out, &row.facts);
    else
        put_capabilities(out, app, &row);
    if (sp_models_config(app->models)->is_list)
        put_status(out, &row);
    sp_buf_putc(out, '}');
    return true;
}

typedef struct list {
    sp_buf *out;
    const sp_app *app;
    char first[SP_MODEL_NAME], last[SP_MODEL_NAME];
    size_t n;
} list;

static void add(list *l, const char *name, size_t n_name, const char *root)
{
    sp_buf one = {0};
    if (put_named(&one, l->app, name, n_name, root)) {
        sp_buf_puts(l->out, l->n++ ? "," : "");
        sp_buf_put(l->out, one.p, one.len);
        snprintf(l->last, sizeof l->last, "%.*s", (int)n_name, name);
        if (l->n == 1)
            memcpy(l->first, l->last, sizeof l->first);
    }
    sp_buf_fini(&one);
}

/* The one that is meant by default comes first, then the others, the encoders and the aliases. */
static void put_list(sp_buf *out, const sp_app *app)
{
    list l = {.out = out, .app = app};
    sp_model_row row;
    const char *first = sp_models_find(app->models, NULL);
    sp_buf_puts(out, "{\"object\":\"list\",\"data\":[");
    if (first)
        add(&l, first, strlen(first), first);
    for (int encoders = 0; encoders < 2; encoders++)
        for (size_t i = 0; sp_models_row(app->models, i, &row); i++)
            if (row.name != first && row.facts.is_encoder == (encoders == 1))
                add(&l, row.name, strlen(row.name), row.name);
    for (const char *const *p = sp_models_config(app->models)->aliases; p && *p; p++) {
        const char *eq = strchr(*p, '=');
        add(&l, *p, (size_t)(eq - *p), eq + 1);
    }
    sp_buf_puts(out, "],\"has_more\":false");
    put_string(out, "first_id", l.first, strlen(l.first));
    put_string(out, "last_id", l.last, strlen(l.last));
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
    const char *one =
        strncmp(req->path, prefix, sizeof prefix - 1) == 0 ? req->path + sizeof prefix - 1 : NULL;
    json_ok(reply);
    if (!one) {
        put_list(&reply->body, app);
        return;
    }
    const char *own = sp_models_find(app->models, one);
    const char *root = own ? own : one;
    bool alias = !sp_model_same_name(root, one);
    const char *name = alias ? one : root;
    if (!put_named(&reply->body, app, name, strlen(name), root)) {
        reply->status = 404;
        sp_api_error(&reply->body, 404, "there is no model of this name", "model",
                     "model_not_found");
    }
}

/* ?model=NAME, or the default; in use until sp_models_done. NULL: it is away, and reply says so. */
static sp_served *use_model(const sp_app *app, const sp_api_req *req, sp_http_reply *reply)
{
    sp_served *on = NULL;
    const char *name = sp_models_find(app->models, sp_api_query(req, "model"));
    bool answers = name && !sp_models_is_encoder(app->models, name);
    if (answers && sp_models_use(&on, app->models, name) == SP_OK && !on->encoder)
        return on;
    sp_models_done(app->models, on);
    reply->status = !name ? 404 : answers ? 503 : 400;
    reply->type = "application/json";
    if (reply->status == 400) {
        sp_api_error(&reply->body, 400,
                     "this model is an encoder, which has no slots and writes no answers", "model",
                     NULL);
        return NULL;
    }
    sp_api_error(&reply->body, reply->status,
                 name ? "this model is not in memory; a request for an answer brings it"
                      : "there is no model of this name",
                 "model", name ? "model_not_loaded" : "model_not_found");
    return NULL;
}

/* --- the server ------------------------------------------------------------------------------- */

void sp_about_version(const sp_app *app, sp_http_reply *reply)
{
    (void)app;
    json_ok(reply);
    sp_buf_puts(&reply->body, "{\"version\":\"" SP_VERSION "\"}");
}

void sp_about_props(const sp_app *app, const sp_api_req *req, sp_http_reply *reply)
{
    sp_served *on = use_model(app, req, reply);
    sp_buf *out = &reply->body;
    if (!on)
        return;
    const sp_engine_cfg *cfg = sp_engine_config(on->env.engine);
    const sp_tok *tok = on->env.tok;
    json_ok(reply);
    sp_buf_printf(out,
                  "{\"default_generation_settings\":{\"n_ctx\":%zu,\"params\":{\"temperature\":1,"
                  "\"top_p\":1,\"top_k\":0,\"min_p\":0,\"seed\":-1}},\"total_slots\":%zu",
                  cfg->n_ctx, cfg->max_run);
    put_string(out, "model_alias", on->env.name, strlen(on->env.name));
    put_string(out, "chat_template", on->template.p, on->template.n);
    sp_str bos = sp_tok_adds_bos(tok) ? sp_tok_piece(tok, sp_tok_bos(tok)) : (sp_str){"", 0};
    put_string(out, "bos_token", bos.p, bos.n);
    sp_buf_puts(
        out,
        ",\"modalities\":{\"vision\":false,\"audio\":false},\"build_info\":\"sparing " SP_VERSION
        "\"}");
    sp_models_done(app->models, on);
}

void sp_about_slots(const sp_app *app, const sp_api_req *req, sp_http_reply *reply)
{
    sp_served *on = use_model(app, req, reply);
    if (!on)
        return;
    const sp_engine_cfg *cfg = sp_engine_config(on->env.engine);
    size_t n_run = sp_engine_running(on->env.engine);
    json_ok(reply);
    sp_buf_putc(&reply->body, '[');
    for (size_t i = 0; i < cfg->max_run; i++)
        sp_buf_printf(&reply->body, "%s{\"id\":%zu,\"n_ctx\":%zu,\"is_processing\":%s}",
                      i ? "," : "", i, cfg->n_ctx, i < n_run ? "true" : "false");
    sp_buf_putc(&reply->body, ']');
    sp_models_done(app->models, on);
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
