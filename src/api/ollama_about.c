/* What Ollama's clients ask about the models here, and embeddings in its shape. */
#include "api/ollama.h"

#include "api/about.h"
#include "api/embedding.h"
#include "api/ollama_int.h"
#include "api/params.h"
#include "base/clock.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_LOAD = 4096 /* bytes of a body that asks for nothing */ };

static void ok(sp_http_reply *reply)
{
    reply->status = 200;
    reply->type = "application/json";
}

static void refuse(sp_http_reply *reply, int status, const char *message)
{
    reply->status = status;
    reply->type = "application/json";
    sp_ollama_error(&reply->body, status, message);
}

static void put_string(sp_buf *out, const char *before, const char *s)
{
    sp_buf_puts(out, before);
    sp_buf_json_str(out, s, strlen(s));
}

/* --- models ----------------------------------------------------------------------------------- */

/* What is known of a model. */
typedef struct about {
    const char *name;
    bool is_encoder;
    sp_model_row row;
} about;

static bool is_loaded(const about *m)
{
    return m->row.state == SP_MODEL_READY || m->row.state == SP_MODEL_LEAVING;
}

static void put_details(sp_buf *out, const about *m)
{
    const sp_model_facts *f = &m->row.facts;
    const char *family = m->is_encoder ? "encoder" : f->arch;
    put_string(out, "\"details\":{\"parent_model\":\"\",\"format\":\"gguf\",\"family\":", family);
    put_string(out, ",\"families\":[", family);
    sp_buf_puts(out, "],\"parameter_size\":\"");
    if (f->n_weight >= 1000000000)
        sp_buf_printf(out, "%.1fB", (double)f->n_weight * 1e-9);
    else if (f->n_weight)
        sp_buf_printf(out, "%.1fM", (double)f->n_weight * 1e-6);
    put_string(out, "\",\"quantization_level\":", f->type);
    sp_buf_putc(out, '}');
}

/* "name", "model", "size", "digest" and details. A model's digest is known once it is in memory. */
static void put_model(sp_buf *out, const about *m)
{
    put_string(out, "{\"name\":", m->name);
    put_string(out, ",\"model\":", m->name);
    sp_buf_printf(out, ",\"size\":%zu,\"digest\":\"",
                  m->is_encoder && m->row.bytes ? m->row.bytes : m->row.facts.file_bytes);
    for (size_t i = 0; !m->is_encoder && is_loaded(m) && i < sizeof m->row.id.b; i++)
        sp_buf_printf(out, "%02x", m->row.id.b[i]);
    sp_buf_puts(out, "\",");
    put_details(out, m);
}

/* An entry of /api/tags, or, running, of /api/ps. */
static void put_entry(sp_buf *out, const sp_app *app, const about *m, bool running, size_t *n)
{
    static const int64_t FOR_EVER = 253402300799; /* the end of the year 9999 */
    double left = m->row.expires_s;
    if (running && !is_loaded(m))
        return;
    sp_buf_puts(out, (*n)++ ? "," : "");
    put_model(out, m);
    sp_buf_puts(out, running ? ",\"expires_at\":" : ",\"modified_at\":");
    sp_about_time(out, !running   ? app->created
                       : left < 0 ? FOR_EVER
                                  : sp_clock_wall() + (int64_t)left);
    if (running)
        sp_buf_puts(out, ",\"size_vram\":0");
    if (running)
        sp_buf_printf(out, ",\"context_length\":%zu", m->row.facts.n_ctx);
    sp_buf_putc(out, '}');
}

static void put_models(sp_buf *out, const sp_app *app, bool running)
{
    size_t n = 0;
    about m = {0};
    sp_buf_puts(out, "{\"models\":[");
    for (int encoders = 0; encoders < 2; encoders++)
        for (size_t i = 0; sp_models_row(app->models, i, &m.row); i++) {
            m.name = m.row.name;
            m.is_encoder = m.row.facts.is_encoder;
            if (m.is_encoder == (encoders == 1) && (running || !m.row.facts.is_ranker))
                put_entry(out, app, &m, running, &n);
        }
    sp_buf_puts(out, "]}");
}

static void put_info(sp_buf *out, const about *m)
{
    const sp_model_facts *f = &m->row.facts;
    put_string(out,
               "\"model_info\":{\"general.architecture\":", m->is_encoder ? "encoder" : f->arch);
    if (!m->is_encoder)
        sp_buf_printf(out,
                      ",\"general.parameter_count\":%zu,\"%s.context_length\":%zu,"
                      "\"%s.embedding_length\":%zu,\"%s.block_count\":%zu,"
                      "\"%s.attention.head_count\":%zu,\"%s.attention.head_count_kv\":%zu",
                      f->n_weight, f->arch, f->n_ctx, f->arch, f->n_embd, f->arch, f->n_layer,
                      f->arch, f->n_head, f->arch, f->n_head_kv);
    sp_buf_putc(out, '}');
}

/* The template and what a model thinks between are known of those in memory. */
static void put_show(sp_buf *out, const sp_app *app, const about *m)
{
    sp_served *on = NULL;
    if (!m->is_encoder && sp_models_use(&on, app->models, m->name) != SP_OK)
        on = NULL;
    bool thinks = on && !on->encoder && on->env.think_open != on->env.think_close;
    put_string(out, "{\"modelfile\":", "");
    put_string(out, ",\"parameters\":", "");
    sp_buf_puts(out, ",\"template\":");
    sp_buf_json_str(out, on ? on->template.p : "", on ? on->template.n : 0);
    sp_buf_putc(out, ',');
    put_details(out, m);
    sp_buf_putc(out, ',');
    put_info(out, m);
    sp_buf_puts(out, ",\"capabilities\":[");
    sp_buf_puts(out, m->is_encoder           ? "\"embedding\""
                     : m->row.facts.has_chat ? "\"completion\",\"tools\""
                                             : "\"completion\"");
    sp_buf_puts(out, thinks ? ",\"thinking\"" : "");
    sp_buf_puts(out, "],\"modified_at\":");
    sp_about_time(out, app->created);
    sp_buf_putc(out, '}');
    sp_models_done(app->models, on);
}

static const char *asked_model(const json_t *body)
{
    const json_t *v = json_object_get(body, "model");
    return json_string_value(v ? v : json_object_get(body, "name"));
}

/* The body's model, or name as older clients say. NULL: it names none that is here, and reply says
 * so. */
static bool find_model(about *out, const sp_app *app, const json_t *body, sp_http_reply *reply)
{
    const char *asked = asked_model(body);
    sp_diag d = {0};
    *out = (about){0};
    if (!asked || !*asked) {
        refuse(reply, 400, "model is missing");
        return false;
    }
    out->name = sp_models_find(app->models, asked);
    for (size_t i = 0;
         out->name && sp_models_row(app->models, i, &out->row) && out->row.name != out->name;)
        i++;
    out->is_encoder = out->row.facts.is_encoder;
    if (!out->name) {
        (void)SP_FAIL(&d, SP_NOTFOUND, "model '%.80s' not found", asked);
        refuse(reply, 404, d.msg);
    }
    return out->name != NULL;
}

static void post(const sp_app *app, const sp_api_req *req, sp_http_reply *reply)
{
    json_t *j = NULL;
    sp_diag d = {0};
    about m;
    if (sp_params_parse(&j, req->body, req->n_body, &d) != SP_OK) {
        refuse(reply, 400, d.msg);
    } else if (find_model(&m, app, j, reply)) {
        ok(reply);
        put_show(&reply->body, app, &m);
    }
    json_decref(j);
}

void sp_ollama_about(const sp_app *app, const sp_api_req *req, sp_http_reply *reply)
{
    const char *path = req->path;
    bool is_post = strcmp(req->method, "POST") == 0;
    if (is_post && strcmp(path, "/api/show") == 0) {
        post(app, req, reply);
    } else if (!is_post && (strcmp(path, "/api/tags") == 0 || strcmp(path, "/api/ps") == 0)) {
        ok(reply);
        put_models(&reply->body, app, path[5] == 'p');
    } else if (!is_post && strcmp(path, "/api/version") == 0) {
        ok(reply);
        sp_buf_puts(&reply->body, "{\"version\":\"" SP_VERSION "\"}");
    } else {
        refuse(reply, 501, "this server's models are chosen when it starts: it creates, copies, "
                           "pushes and deletes none");
    }
}

/* --- models that are brought or sent away by a request without a question
 * ------------------------ */

/* Seconds of Ollama's keep_alive: a number, or text such as "5m", "1h30m" or "-1". SP_INVAL: it is
 * neither. */
static sp_err read_keep(double *out, const json_t *v)
{
    static const struct {
        const char *unit;
        double s;
    } units[] = {{"ms", 1e-3}, {"h", 3600}, {"m", 60}, {"s", 1}};
    const char *p = json_string_value(v);
    double sum = 0;
    if (json_is_number(v)) {
        *out = json_number_value(v);
        return SP_OK;
    }
    for (bool first = true; p && (*p || first); first = false) {
        char *end;
        double x = strtod(p, &end), unit = *end || !first ? 0 : 1; /* a number alone is seconds */
        size_t k = 0;
        while (k < 4 && strncmp(end, units[k].unit, strlen(units[k].unit)) != 0)
            k++;
        if (end == p || (k == 4 && unit <= 0) || !isfinite(x))
            return SP_INVAL;
        sum += x * (k < 4 ? units[k].s : unit);
        p = end + (k < 4 ? strlen(units[k].unit) : 0);
    }
    *out = sum;
    return p ? SP_OK : SP_INVAL;
}

static bool has_question(const json_t *body, bool chat)
{
    const json_t *v = json_object_get(body, chat ? "messages" : "prompt");
    return v && !json_is_null(v) && !(json_is_array(v) && json_array_size(v) == 0) &&
           !(json_is_string(v) && json_string_length(v) == 0);
}

static void put_done(sp_http_reply *reply, const char *model, bool chat, const char *reason)
{
    ok(reply);
    put_string(&reply->body, "{\"model\":", model);
    sp_buf_puts(&reply->body, ",\"created_at\":");
    sp_ollama_time(&reply->body);
    sp_buf_puts(&reply->body, chat ? ",\"message\":{\"role\":\"assistant\",\"content\":\"\"}"
                                   : ",\"response\":\"\"");
    sp_buf_printf(&reply->body, ",\"done\":true,\"done_reason\":\"%s\"}\n", reason);
}

bool sp_ollama_leaves(const sp_app *app, const sp_api_req *req, sp_http_reply *reply)
{
    bool chat = strcmp(req->path, "/api/chat") == 0;
    json_t *j = NULL;
    double keep = -1;
    if (req->n_body > MAX_LOAD || sp_params_parse(&j, req->body, req->n_body, NULL) != SP_OK)
        return false;
    const json_t *v = json_object_get(j, "keep_alive");
    const char *name = sp_models_find(app->models, asked_model(j));
    bool leaves = !has_question(j, chat) && name && v && read_keep(&keep, v) == SP_OK &&
                  keep >= 0 && keep <= 0;
    if (leaves) {
        sp_models_keep(app->models, name, 0);
        put_done(reply, name, chat, "unload");
    }
    json_decref(j);
    return leaves;
}

bool sp_ollama_is_load(const sp_api_place *at, const sp_api_req *req, sp_http_reply *reply)
{
    bool chat = strcmp(req->path, "/api/chat") == 0;
    const json_t *v = json_object_get(req->json, "keep_alive");
    double keep;
    if (v && !json_is_null(v) && read_keep(&keep, v) != SP_OK) {
        refuse(reply, 400, "keep_alive is neither a number of seconds nor a text such as 5m");
        return true;
    }
    if (v && !json_is_null(v))
        sp_models_keep(at->app->models, at->on->env.name, keep);
    if (has_question(req->json, chat))
        return false;
    put_done(reply, at->on->env.name, chat, "load");
    return true;
}

/* --- embeddings ------------------------------------------------------------------------------- */

static void put_vector(sp_buf *out, const sp_embed_answer *a, size_t i)
{
    for (size_t k = 0; k < a->dim; k++)
        sp_buf_printf(out, "%c%.9g", k ? ',' : '[', (double)a->vector[i * a->dim + k]);
    sp_buf_putc(out, ']');
}

static void put_embed(sp_buf *out, const sp_embed_answer *a)
{
    put_string(out, "{\"model\":", a->model);
    sp_buf_puts(out, ",\"embeddings\":[");
    for (size_t i = 0; i < a->n; i++) {
        sp_buf_puts(out, i ? "," : "");
        put_vector(out, a, i);
    }
    sp_buf_printf(out,
                  "],\"total_duration\":%llu,\"load_duration\":0,\"prompt_eval_count\":%zu}",
                  (unsigned long long)(sp_clock_ms(a->begin_ns) * 1e6), a->n_tok);
}

static void put_embedding(sp_buf *out, const sp_embed_answer *a)
{
    sp_buf_puts(out, "{\"embedding\":");
    put_vector(out, a, 0);
    sp_buf_putc(out, '}');
}

/* The same request in the words of /v1/embeddings. Long texts are cut unless the body says no. */
static json_t *translate(const json_t *body, bool old, sp_diag *d)
{
    const json_t *input = json_object_get(body, old ? "prompt" : "input");
    json_t *out = json_object();
    static const char *const same[] = {"model", "truncate", "dimensions", "keep_alive"};
    for (size_t i = 0; i < sizeof same / sizeof same[0]; i++) {
        json_t *v = json_object_get(body, same[i]);
        if (v && json_object_set(out, same[i], v) != 0)
            (void)SP_FAIL(d, SP_NOMEM, "request");
    }
    if (!json_object_get(out, "truncate") && json_object_set_new(out, "truncate", json_true()) != 0)
        (void)SP_FAIL(d, SP_NOMEM, "request");
    if (old && !json_is_string(input))
        (void)SP_FAIL(d, SP_INVAL, "prompt must be a string");
    else if (!input)
        (void)SP_FAIL(d, SP_INVAL, "input is missing");
    else if (json_object_set(out, "input", (json_t *)(uintptr_t)input) != 0)
        (void)SP_FAIL(d, SP_NOMEM, "request");
    return out;
}

sp_err sp_ollama_embed(const sp_api_place *at, const sp_api_req *req, sp_http_task *task,
                       char bad[64], sp_diag *d)
{
    bool old = strcmp(req->path, "/api/embeddings") == 0;
    const json_t *v = json_object_get(req->json, "keep_alive");
    double keep;
    snprintf(bad, 64, "keep_alive");
    if (v && !json_is_null(v) && read_keep(&keep, v) != SP_OK)
        return SP_FAIL(d, SP_INVAL,
                       "keep_alive is neither a number of seconds nor a text such as 5m");
    if (v && !json_is_null(v))
        sp_models_keep(at->app->models, at->on->env.name, keep);
    bad[0] = 0;
    json_t *own = translate(req->json, old, d);
    sp_err err = d->code;
    if (err == SP_OK)
        err = sp_api_embed(at, own, req, old ? put_embedding : put_embed, task, bad, d);
    json_decref(own);
    return err;
}
