/* What Ollama's clients ask about the models here, and embeddings in its shape. */
#include "api/ollama.h"

#include "api/about.h"
#include "api/embedding.h"
#include "api/ollama_int.h"
#include "api/params.h"
#include "base/clock.h"

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

static void put_time(sp_buf *out, int64_t seconds)
{
    time_t t = (time_t)seconds;
    struct tm tm;
    char text[32];
    gmtime_r(&t, &tm);
    strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &tm);
    sp_buf_printf(out, "\"%s\"", text);
}

/* --- models ----------------------------------------------------------------------------------- */

/* What is known of a model; the encoders keep no file. */
typedef struct about {
    const char *name;
    const sp_arch *arch;     /* NULL: of an encoder */
    const sp_sha256 *id;     /* NULL likewise */
    double n_param;
    size_t n_bytes;
    const char *type;        /* of most of its weights */
} about;

static void count_weights(about *m, const sp_gguf *file)
{
    double of[SP_TYPE_COUNT] = {0};
    sp_type most = SP_F32;
    for (size_t i = 0; i < sp_gguf_tensor_count(file); i++) {
        const sp_tensor *t = sp_gguf_tensor_at(file, i);
        double n = (double)t->dim[0] * (double)t->dim[1] * (double)t->dim[2] * (double)t->dim[3];
        m->n_param += n;
        of[t->type] += n;
        most = of[t->type] > of[most] ? t->type : most;
    }
    m->type = sp_type_name(most);
}

static about about_model(const sp_app *app)
{
    const sp_model *model = sp_engine_config(app->env.engine)->model;
    about m = {.name = app->env.name, .arch = sp_model_arch(model), .id = sp_model_id(model),
               .n_bytes = sp_gguf_file_bytes(app->file)};
    count_weights(&m, app->file);
    return m;
}

static about about_encoder(const sp_encoder *e)
{
    return (about){.name = sp_encoder_name(e), .type = ""};
}

static void put_details(sp_buf *out, const about *m)
{
    const char *family = m->arch ? m->arch->name : "encoder";
    put_string(out, "\"details\":{\"parent_model\":\"\",\"format\":\"gguf\",\"family\":", family);
    put_string(out, ",\"families\":[", family);
    sp_buf_puts(out, "],\"parameter_size\":\"");
    if (m->n_param >= 1e9)
        sp_buf_printf(out, "%.1fB", m->n_param * 1e-9);
    else if (m->n_param > 0)
        sp_buf_printf(out, "%.1fM", m->n_param * 1e-6);
    put_string(out, "\",\"quantization_level\":", m->type);
    sp_buf_putc(out, '}');
}

/* "name", "model", "size", "digest" and details. */
static void put_model(sp_buf *out, const about *m)
{
    put_string(out, "{\"name\":", m->name);
    put_string(out, ",\"model\":", m->name);
    sp_buf_printf(out, ",\"size\":%zu,\"digest\":\"", m->n_bytes);
    for (size_t i = 0; m->id && i < sizeof m->id->b; i++)
        sp_buf_printf(out, "%02x", m->id->b[i]);
    sp_buf_puts(out, "\",");
    put_details(out, m);
}

/* The models as /api/tags and /api/ps list them: all are loaded, and none is unloaded. */
static void put_models(sp_buf *out, const sp_app *app, bool running)
{
    static const int64_t FOR_EVER = 253402300799; /* the end of the year 9999 */
    sp_buf_puts(out, "{\"models\":[");
    for (size_t i = 0; i <= app->n_encoder; i++) {
        const about m = i ? about_encoder(app->encoders[i - 1]) : about_model(app);
        sp_buf_puts(out, i ? "," : "");
        put_model(out, &m);
        sp_buf_puts(out, running ? ",\"expires_at\":" : ",\"modified_at\":");
        put_time(out, running ? FOR_EVER : app->created);
        if (running)
            sp_buf_puts(out, ",\"size_vram\":0");
        if (running && m.arch)
            sp_buf_printf(out, ",\"context_length\":%zu",
                          sp_engine_config(app->env.engine)->n_ctx);
        sp_buf_putc(out, '}');
    }
    sp_buf_puts(out, "]}");
}

static void put_info(sp_buf *out, const about *m)
{
    const sp_arch *a = m->arch;
    put_string(out, "\"model_info\":{\"general.architecture\":", a ? a->name : "encoder");
    if (a)
        sp_buf_printf(out,
                      ",\"general.parameter_count\":%.0f,\"%s.context_length\":%zu,"
                      "\"%s.embedding_length\":%zu,\"%s.block_count\":%zu,"
                      "\"%s.attention.head_count\":%zu,\"%s.attention.head_count_kv\":%zu",
                      m->n_param, a->name, a->n_ctx, a->name, a->n_embd, a->name, a->n_layer,
                      a->name, a->n_head, a->name, a->n_head_kv);
    sp_buf_putc(out, '}');
}

static void put_show(sp_buf *out, const sp_app *app, const about *m)
{
    bool thinks = app->env.think_open != app->env.think_close;
    bool calls = app->env.chat && !sp_chat_why(app->env.chat);
    put_string(out, "{\"modelfile\":", "");
    put_string(out, ",\"parameters\":", "");
    sp_buf_puts(out, ",\"template\":");
    sp_buf_json_str(out, m->arch ? app->template.p : "", m->arch ? app->template.n : 0);
    sp_buf_putc(out, ',');
    put_details(out, m);
    sp_buf_putc(out, ',');
    put_info(out, m);
    sp_buf_puts(out, ",\"capabilities\":[");
    sp_buf_puts(out, !m->arch ? "\"embedding\"" : "\"completion\"");
    sp_buf_puts(out, m->arch && calls ? ",\"tools\"" : "");
    sp_buf_puts(out, m->arch && thinks ? ",\"thinking\"" : "");
    sp_buf_puts(out, "],\"modified_at\":");
    put_time(out, app->created);
    sp_buf_putc(out, '}');
}

/* The body's model, or name as older clients say. NULL: it names none that is here, and reply says
 * so. */
static bool find_model(about *out, const sp_app *app, const json_t *body, sp_http_reply *reply)
{
    const json_t *v = json_object_get(body, "model");
    const char *name = json_string_value(v ? v : json_object_get(body, "name"));
    sp_diag d = {0};
    if (!name || !*name) {
        refuse(reply, 400, "model is missing");
        return false;
    }
    const sp_encoder *e = sp_about_encoder(app, name);
    bool here = e || sp_about_is_name(app, app->env.name, name);
    if (here)
        *out = e ? about_encoder(e) : about_model(app);
    else
        (void)SP_FAIL(&d, SP_NOTFOUND, "model '%.80s' not found", name);
    if (!here)
        refuse(reply, 404, d.msg);
    return here;
}

/* A model that is here is pulled already; another one would have to be loaded. */
static void pull(const json_t *body, const sp_app *app, sp_http_reply *reply)
{
    about m;
    if (find_model(&m, app, body, reply)) {
        ok(reply);
        reply->type = json_is_false(json_object_get(body, "stream")) ? reply->type
                                                                     : "application/x-ndjson";
        sp_buf_puts(&reply->body, "{\"status\":\"success\"}\n");
    } else if (reply->status == 404) {
        sp_buf_clear(&reply->body);
        refuse(reply, 501, "a running server pulls no models: run `sparing pull NAME`, and start "
                           "it with that model");
    }
}

static void post(const sp_app *app, const sp_api_req *req, sp_http_reply *reply)
{
    json_t *j = NULL;
    sp_diag d = {0};
    about m;
    if (sp_params_parse(&j, req->body, req->n_body, &d) != SP_OK) {
        refuse(reply, 400, d.msg);
    } else if (strcmp(req->path, "/api/pull") == 0) {
        pull(j, app, reply);
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
    if (is_post && (strcmp(path, "/api/show") == 0 || strcmp(path, "/api/pull") == 0)) {
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

bool sp_ollama_is_load(const sp_app *app, const sp_api_req *req, sp_http_reply *reply)
{
    bool chat = strcmp(req->path, "/api/chat") == 0;
    const char *what = chat ? "messages" : "prompt";
    json_t *j = NULL;
    about m;
    if (req->n_body > MAX_LOAD || sp_params_parse(&j, req->body, req->n_body, NULL) != SP_OK)
        return false;
    const json_t *v = json_object_get(j, what), *keep = json_object_get(j, "keep_alive");
    bool is_load = !v || json_is_null(v) || (json_is_array(v) && json_array_size(v) == 0) ||
                   (json_is_string(v) && json_string_length(v) == 0);
    if (is_load && find_model(&m, app, j, reply)) {
        bool unload = json_is_number(keep) && json_number_value(keep) == 0;
        ok(reply);
        put_string(&reply->body, "{\"model\":", m.name);
        sp_buf_puts(&reply->body, ",\"created_at\":");
        sp_ollama_time(&reply->body);
        sp_buf_puts(&reply->body, chat ? ",\"message\":{\"role\":\"assistant\",\"content\":\"\"}"
                                       : ",\"response\":\"\"");
        sp_buf_printf(&reply->body, ",\"done\":true,\"done_reason\":\"%s\"}\n",
                      unload ? "unload" : "load");
    }
    json_decref(j);
    return is_load;
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

sp_err sp_ollama_embed(sp_app *app, const sp_api_req *req, sp_http_task *task, char bad[64],
                       sp_diag *d)
{
    bool old = strcmp(req->path, "/api/embeddings") == 0;
    json_t *j = NULL;
    bad[0] = 0;
    SP_TRY(sp_params_parse(&j, req->body, req->n_body, d));
    json_t *own = translate(j, old, d);
    sp_err err = d->code;
    if (err == SP_OK)
        err = sp_api_embed(app, own, req, old ? put_embedding : put_embed, task, bad, d);
    json_decref(own);
    json_decref(j);
    return err;
}
