/* Passing on. */
#include "api/front_int.h"

#include "api/params.h"
#include "base/clock.h"
#include "base/mem.h"

#include <string.h>
#include <strings.h>

typedef struct pass {
    sp_front *front;
    sp_relay_call *call;
    sp_buf request, answer; /* of a chat that may be compared; else empty */
    bool compares, stream, whole;
    int status;
    uint64_t begin_ns;
    double ms;
    char tenant[64];
} pass;

static const struct {
    const char *method, *path;
    bool compares;
} PASSED[] = {{"POST", "/v1/chat/completions", true},
              {"POST", "/v1/completions", false},
              {"POST", "/v1/embeddings", false},
              {"GET", "/v1/models", false}};

static int find(const sp_http_req *req)
{
    for (size_t i = 0; i < sizeof PASSED / sizeof *PASSED; i++)
        if (strcmp(req->path, PASSED[i].path) == 0 && strcmp(req->method, PASSED[i].method) == 0)
            return (int)i;
    return -1;
}

bool sp_front_takes(const sp_front *f, const sp_http_req *req)
{
    return f && find(req) >= 0;
}

/* --- the task --------------------------------------------------------------------------------- */

static void count(sp_front *f, bool whole)
{
    sp_metric_add(whole ? f->passed : f->broken, 1);
    sp_lock_get(&f->lock);
    f->n_passed += whole;
    f->n_broken += !whole;
    sp_lock_put(&f->lock);
}

static sp_err task_start(void *arg, sp_http_reply *reply)
{
    pass *p = arg;
    sp_diag d = {0};
    const sp_relay_head *head;
    sp_err err = sp_relay_head_of(&head, p->call, &d);
    if (err == SP_AGAIN)
        return SP_AGAIN;
    if (err != SP_OK) {
        reply->status = sp_api_status(err);
        reply->type = "application/json";
        sp_api_error(&reply->body, reply->status, d.msg, NULL, "server_behind");
        return SP_OK;
    }
    p->status = reply->status = head->status;
    p->stream = strncasecmp(head->type, "text/event-stream", 17) == 0;
    reply->type = *head->type ? head->type : "application/octet-stream";
    reply->stream = true;
    for (size_t i = 0; i < head->n_field && reply->n_header < SP_HTTP_HEADERS; i++)
        if (strcasecmp(head->field[i].name, "x-request-id") != 0) /* the gate has one */
            sp_http_reply_header(reply, head->field[i].name, head->field[i].value);
    return SP_OK;
}

static void task_pull(void *arg, sp_buf *out, bool ping, bool *done)
{
    pass *p = arg;
    size_t from = out->len;
    (void)ping; /* not a byte of ours goes in between */
    sp_relay_take(p->call, out, done, &p->whole);
    if (p->compares && out->len > from)
        sp_buf_put(&p->answer, out->p + from, out->len - from);
    if (p->answer.len > SP_FRONT_TEXT || p->answer.failed)
        p->compares = false;
    p->ms = sp_clock_ms(p->begin_ns);
}

static void task_close(void *arg)
{
    pass *p = arg;
    sp_relay_put(p->call);
    count(p->front, p->whole);
    if (p->compares && p->whole && p->status == 200) {
        const sp_front_said said = {.tenant = p->tenant,
                                    .request = p->request.p,
                                    .answer = p->answer.p,
                                    .n_request = p->request.len,
                                    .n_answer = p->answer.len,
                                    .stream = p->stream,
                                    .ms = p->ms};
        sp_front_offer(p->front, &said);
    }
    sp_buf_fini(&p->request);
    sp_buf_fini(&p->answer);
    sp_mem_free(p);
}

static void wake(void *conn)
{
    sp_http_wake(conn);
}

/* Fields of the request that the existing server may want. */
static size_t pick_fields(sp_relay_field out[SP_HEAD_FIELDS], const sp_http_req *req)
{
    static const char *const never[] = {
        "host",       "connection",        "content-length", "expect",
        "keep-alive", "transfer-encoding", "upgrade",        "te",
        "trailer",    "accept-encoding",   "cookie",         "origin"};
    size_t n = 0;
    for (size_t i = 0; i < req->head->n_field; i++) {
        bool keep = true;
        for (size_t k = 0; k < sizeof never / sizeof *never; k++)
            keep = keep && strcasecmp(req->head->field[i].name, never[k]) != 0;
        if (keep && *req->head->field[i].value)
            out[n++] = (sp_relay_field){req->head->field[i].name, req->head->field[i].value};
    }
    return n;
}

void sp_front_pass(sp_front *f, const sp_http_req *req, sp_http_reply *reply, sp_http_task *task)
{
    sp_diag d = {0};
    sp_relay_field field[SP_HEAD_FIELDS];
    pass *p = sp_mem_alloc(sizeof *p);
    int at = find(req);
    sp_err err = p ? SP_OK : SP_FAIL(&d, SP_NOMEM, "request");
    if (p) {
        p->front = f;
        p->begin_ns = sp_clock_ns();
        p->compares = PASSED[at].compares;
        snprintf(p->tenant, sizeof p->tenant, "%s", req->pass->who);
        if (p->compares)
            sp_buf_put(&p->request, req->body, req->n_body);
        p->compares = p->compares && !p->request.failed;
        const sp_relay_ask ask = {.method = req->method,
                                  .path = req->path + strlen("/v1"),
                                  .body = req->body,
                                  .n_body = req->n_body,
                                  .field = field,
                                  .n_field = pick_fields(field, req),
                                  .notify = wake,
                                  .arg = req->conn};
        err = sp_relay_start(&p->call, f->relay, &ask, &d);
    }
    if (err == SP_OK) {
        *task = (sp_http_task){p, task_start, task_pull, task_close};
        return;
    }
    (void)sp_api_reply(reply, &d);
    if (p)
        task_close(p);
}

/* --- the front -------------------------------------------------------------------------------- */

sp_err sp_front_new(sp_front **out, const sp_front_cfg *cfg, sp_diag *d)
{
    sp_front *f = sp_mem_alloc(sizeof *f);
    if (!f)
        return SP_FAIL(d, SP_NOMEM, "front");
    f->cfg = *cfg;
    sp_lock_init(&f->lock, SP_RANK_API);
    f->url = sp_mem_strdup(cfg->relay.url);
    static const char
        passed[] = "sparing_front_passed_total",
        says[] = "Requests passed on to the server behind, by whether its answer came whole.";
    f->passed = sp_metric_counter(cfg->metrics, passed, says, "result=\"whole\"");
    f->broken = sp_metric_counter(cfg->metrics, passed, says, "result=\"broken\"");
    f->compared =
        sp_metric_counter(cfg->metrics, "sparing_front_compared_total",
                          "Answers of the server behind that were compared with ours.", NULL);
    f->agreement = sp_metric_counter(cfg->metrics, "sparing_front_agreement_total",
                                     "Sum over them of how far the two agree, 0 to 1.", NULL);
    sp_err err = f->url ? sp_relay_new(&f->relay, &cfg->relay, d) : SP_FAIL(d, SP_NOMEM, "front");
    if (err == SP_OK)
        err = sp_front_start_desk(f, d);
    if (err == SP_OK)
        *out = f;
    else
        sp_front_free(f);
    return err;
}

void sp_front_free(sp_front *f)
{
    if (!f)
        return;
    sp_desk_stop(f->desk);
    sp_relay_free(f->relay);
    sp_lock_fini(&f->lock);
    sp_mem_free(f->url);
    sp_mem_free(f);
}
