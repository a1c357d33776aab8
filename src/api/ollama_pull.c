/* Lines of progress as Ollama's clients read them: "status", and of a file "digest", "total",
 * "completed". */
#include "api/ollama_pull.h"

#include "api/about.h"
#include "api/ollama.h"
#include "api/params.h"
#include "base/mem.h"

#include <stdio.h>
#include <string.h>

typedef struct pull {
    sp_models_pull *op;
    bool stream, begun;
} pull;

static void refuse(sp_http_reply *reply, int status, const char *message)
{
    reply->status = status;
    reply->type = "application/json";
    sp_ollama_error(&reply->body, status, message);
}

static void succeed(sp_http_reply *reply, bool stream)
{
    reply->status = 200;
    reply->type = stream ? "application/x-ndjson" : "application/json";
    sp_buf_puts(&reply->body, "{\"status\":\"success\"}\n");
}

/* A file's name stands where Ollama has a digest: what comes has one only when it is there. */
static void put_progress(sp_buf *out, pull *p)
{
    char file[SP_MODEL_NAME];
    uint64_t done, total;
    sp_models_pull_at(p->op, file, &done, &total);
    if (!file[0]) {
        sp_buf_puts(out, "{\"status\":\"pulling manifest\"}\n");
        return;
    }
    sp_buf_puts(out, "{\"status\":\"pulling\",\"digest\":");
    sp_buf_json_str(out, file, strlen(file));
    sp_buf_printf(out, ",\"total\":%llu,\"completed\":%llu}\n", (unsigned long long)total,
                  (unsigned long long)done);
}

/* A stream begins when something comes, so that what cannot be meant is told by its status. */
static sp_err task_start(void *arg, sp_http_reply *reply)
{
    pull *p = arg;
    char file[SP_MODEL_NAME];
    uint64_t done, total;
    sp_models_pull_at(p->op, file, &done, &total);
    if (sp_op_is_done(&p->op->op)) {
        const sp_diag *d = &p->op->op.diag;
        if (d->code)
            refuse(reply, sp_api_status(d->code), d->msg);
        else
            succeed(reply, p->stream);
        return SP_OK;
    }
    if (!p->stream || !file[0])
        return SP_AGAIN;
    reply->status = 200;
    reply->type = "application/x-ndjson";
    reply->stream = true;
    return SP_OK;
}

static void task_pull(void *arg, sp_buf *out, bool ping, bool *done)
{
    pull *p = arg;
    *done = sp_op_is_done(&p->op->op);
    if (ping || !p->begun || *done)
        put_progress(out, p);
    p->begun = true;
    if (!*done)
        return;
    if (p->op->op.diag.code) {
        sp_ollama_error(out, 0, p->op->op.diag.msg);
        sp_buf_putc(out, '\n');
    } else {
        sp_buf_puts(out, "{\"status\":\"success\"}\n");
    }
}

static void task_close(void *arg)
{
    pull *p = arg;
    if (p->op)
        sp_op_put(&p->op->op);
    sp_mem_free(p);
}

/* Ollama names a file of the hub hf.co/ORG/REPO:QUANT. */
static void meant(char *out, size_t cap, const char *asked)
{
    static const char *const hub[] = {"hf.co/", "huggingface.co/"};
    snprintf(out, cap, "%s", asked);
    for (size_t i = 0; i < 2; i++)
        if (strncmp(asked, hub[i], strlen(hub[i])) == 0)
            snprintf(out, cap, "hf:%s", asked + strlen(hub[i]));
}

static void begin(sp_app *app, const sp_api_req *req, const char *asked, bool stream,
                  sp_http_reply *reply, sp_http_task *task)
{
    char what[512];
    sp_diag d = {0};
    pull *p = sp_mem_alloc(sizeof *p);
    meant(what, sizeof what, asked);
    if (p) {
        p->stream = stream;
        p->op = sp_models_pull_new(app->models, what);
    }
    sp_err err = p && p->op ? sp_op_submit(&p->op->op, sp_work_wake, req->work, &d)
                            : SP_FAIL(&d, SP_NOMEM, "request");
    if (err == SP_OK) {
        *task = (sp_http_task){p, task_start, task_pull, task_close};
        return;
    }
    refuse(reply, sp_api_status(err), d.msg);
    if (p)
        task_close(p);
}

void sp_ollama_pull(sp_app *app, const sp_api_req *req, bool may, sp_http_reply *reply,
                    sp_http_task *task)
{
    json_t *j = NULL;
    sp_diag d = {0};
    if (sp_params_parse(&j, req->body, req->n_body, &d) != SP_OK) {
        refuse(reply, 400, d.msg);
        return;
    }
    const json_t *v = json_object_get(j, "model");
    const char *asked = json_string_value(v ? v : json_object_get(j, "name"));
    bool stream = !json_is_false(json_object_get(j, "stream"));
    if (!asked || !*asked)
        refuse(reply, 400, "model is missing");
    else if (sp_models_find(app->models, asked))
        succeed(reply, stream);
    else if (!sp_models_config(app->models)->opener.pull)
        refuse(reply, 501,
               "this server pulls no models: it was started without --models-dir; run `sparing "
               "pull NAME`, and start it with that model");
    else if (!may)
        refuse(reply, 403, "pulling a model is for keys whose role is operator");
    else
        begin(app, req, asked, stream, reply, task);
    json_decref(j);
}
