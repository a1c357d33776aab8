/* /v1/embeddings: one job a text, answered together. */
#include "api/embedding.h"

#include "api/about.h"
#include "api/known.h"
#include "base/mem.h"

#include <stdio.h>
#include <string.h>

enum { MAX_INPUT = 2048 }; /* as OpenAI's limit */

typedef struct request {
    sp_app *app;
    sp_job **job;
    size_t n, n_ended, n_tok;
    bool base64;
    sp_buf ignored; /* parameters that were accepted and had no effect */
    sp_diag error;
} request;

static sp_err add_text(request *r, const json_t *v, size_t i, sp_work *work, sp_diag *d)
{
    sp_ids ids = {0};
    if (!json_is_string(v) || json_string_length(v) == 0)
        return SP_FAIL(d, SP_INVAL, "input[%zu] is not a string with text in it", i);
    sp_err err = sp_tok_encode_whole(r->app->embed_vocab, &ids, 0, json_string_value(v), json_string_length(v), d);
    if (err == SP_OK)
        err = sp_job_embed(&r->job[r->n], r->app->env.engine, ids.id, ids.n, NULL, 0, sp_work_wake, work, d);
    if (err == SP_OK) {
        r->n++;
        r->n_tok += ids.n;
    }
    sp_ids_fini(&ids);
    return err;
}

static sp_err start_request(request *r, const json_t *j, sp_work *work, const char **bad, sp_diag *d)
{
    const char *model = NULL, *format = "float";
    const json_t *input = NULL;
    int64_t dims = 0;
    const sp_param table[] = {{"model", SP_P_STR, &model, 0, 0},          {"input", SP_P_JSON, &input, 0, 0},
                              {"encoding_format", SP_P_STR, &format, 0, 0},
                              {"dimensions", SP_P_INT, &dims, 1, 1 << 20}};
    const sp_lists lists = {.known = sp_known_embedding, .lenient = r->app->lenient, .ignored = &r->ignored, .where = ""};
    SP_TRY(sp_known_read(j, table, sizeof table / sizeof table[0], &lists, bad, d));
    *bad = "model";
    if (!r->app->embed_vocab)
        return SP_FAIL(d, SP_NOTFOUND, "this server has no embedding model");
    if (model && !sp_about_is_name(r->app, r->app->embed_name, model))
        return SP_FAIL(d, SP_NOTFOUND, "the embedding model %.80s does not exist; this server has %.80s", model, r->app->embed_name);
    *bad = "encoding_format";
    r->base64 = strcmp(format, "base64") == 0;
    if (!r->base64 && strcmp(format, "float") != 0)
        return SP_FAIL(d, SP_INVAL, "encoding_format must be float or base64");
    *bad = "dimensions";
    if (dims && (size_t)dims != r->app->embed_dim)
        return SP_FAIL(d, SP_UNSUP, "dimensions must be %zu for this model", r->app->embed_dim);
    *bad = "input";
    size_t n = json_is_array(input) ? json_array_size(input) : 1;
    if (!input || n == 0 || n > MAX_INPUT)
        return SP_FAIL(d, SP_INVAL, "input must be a string or a list of 1 to %d strings", MAX_INPUT);
    r->job = sp_mem_array(n, sizeof *r->job);
    if (!r->job)
        return SP_FAIL(d, SP_NOMEM, "request");
    for (size_t i = 0; i < n; i++)
        SP_TRY(add_text(r, json_is_array(input) ? json_array_get(input, i) : input, i, work, d));
    return SP_OK;
}

static void put_base64(sp_buf *out, const void *p, size_t n)
{
    static const char set[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const unsigned char *s = p;
    for (size_t i = 0; i < n; i += 3) {
        unsigned v = (unsigned)s[i] << 16 | (i + 1 < n ? (unsigned)s[i + 1] << 8 : 0) | (i + 2 < n ? s[i + 2] : 0);
        const char q[4] = {set[v >> 18], set[v >> 12 & 63], i + 1 < n ? set[v >> 6 & 63] : '=', i + 2 < n ? set[v & 63] : '='};
        sp_buf_put(out, q, 4);
    }
}

static void put_answer(sp_buf *out, const request *r)
{
    sp_buf_puts(out, "{\"object\":\"list\",\"data\":[");
    for (size_t i = 0; i < r->n; i++) {
        const float *v = sp_job_vector(r->job[i]);
        sp_buf_printf(out, "%s{\"object\":\"embedding\",\"index\":%zu,\"embedding\":", i ? "," : "", i);
        if (r->base64) {
            sp_buf_putc(out, '"');
            put_base64(out, v, r->app->embed_dim * sizeof *v);
            sp_buf_putc(out, '"');
        }
        for (size_t k = 0; !r->base64 && k < r->app->embed_dim; k++)
            sp_buf_printf(out, "%c%.9g", k ? ',' : '[', (double)v[k]);
        sp_buf_puts(out, r->base64 ? "}" : "]}");
    }
    sp_buf_puts(out, "],\"model\":");
    sp_buf_json_str(out, r->app->embed_name, strlen(r->app->embed_name));
    sp_buf_printf(out, ",\"usage\":{\"prompt_tokens\":%zu,\"total_tokens\":%zu", r->n_tok, r->n_tok);
    if (r->ignored.len)
        sp_buf_printf(out, ",\"sparing\":{\"ignored\":[%s]}", sp_buf_str(&r->ignored));
    sp_buf_puts(out, "}}");
}

static sp_err task_start(void *arg, sp_http_reply *reply)
{
    request *r = arg;
    sp_event *ev;
    while (r->n_ended < r->n && (ev = sp_job_next(r->job[r->n_ended]))) {
        if (ev->kind == SP_EVENT_ERROR)
            r->error = ev->diag;
        else if (ev->finish == SP_FINISH_CANCEL)
            (void)SP_FAIL(&r->error, SP_CANCEL, "the server is shutting down");
        r->n_ended++;
        sp_event_free(ev);
    }
    if (r->n_ended < r->n)
        return SP_AGAIN;
    if (sp_api_reply_retry(reply, r->app, &r->error))
        put_answer(&reply->body, r);
    return SP_OK;
}

static void task_close(void *arg)
{
    request *r = arg;
    for (size_t i = 0; i < r->n; i++)
        sp_job_put(r->job[i]);
    sp_buf_fini(&r->ignored);
    sp_mem_free(r->job);
    sp_mem_free(r);
}

sp_err sp_api_embedding(sp_app *app, const sp_api_req *req, sp_http_task *task, char bad[64], sp_diag *d)
{
    json_t *j = NULL;
    const char *name = NULL;
    bad[0] = 0;
    SP_TRY(sp_params_parse(&j, req->body, req->n_body, d));
    request *r = sp_mem_alloc(sizeof *r);
    sp_err err = r ? SP_OK : SP_FAIL(d, SP_NOMEM, "request");
    if (err == SP_OK) {
        r->app = app;
        err = start_request(r, j, req->work, &name, d);
    }
    if (err == SP_OK)
        *task = (sp_http_task){r, task_start, NULL, task_close};
    else if (r)
        task_close(r);
    snprintf(bad, 64, "%.60s", name ? name : "");
    json_decref(j);
    return err;
}
