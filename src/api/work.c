/* Invariants:
 * 1. busy: a worker may touch request, reply and inner; the HTTP thread does not.
 * 2. The last of connection and worker closes inner: close while busy sets left, and the worker looks at it when it has finished.
 * 3. conn is used under lock, and only while left is false. */
#include "api/work.h"

#include "base/lock.h"

#include <string.h>

enum { LARGE_BODY = 64 * 1024 };

struct sp_workers {
    sp_desk *small, *large;
};

struct sp_work {
    sp_op op; /* first: a desk's operation */
    sp_lock lock; /* rank API; guards the next three; never destroyed: a desk may still wake what is dropped */
    sp_http_conn *conn;
    bool busy, left;
    /* owner: the worker while busy, else the HTTP thread */
    char *text; /* method, path, headers and body, one behind the other */
    sp_api_req req;
    sp_work_fn *fn; /* NULL: it has run */
    void *arg;
    void (*again)(void *arg);
    void *again_arg;
    sp_http_reply reply;
    sp_http_task inner;
};

const char *sp_api_query(const sp_api_req *r, const char *name)
{
    return r->http ? sp_http_query(r->http, name) : NULL;
}

static void drop(sp_work *w)
{
    if (w->inner.arg)
        w->inner.close(w->inner.arg);
    w->inner.arg = NULL;
    sp_buf_fini(&w->reply.body);
    sp_mem_free(w->text);
}

void sp_work_wake(void *work)
{
    sp_work *w = work;
    if (!w)
        return;
    sp_lock_get(&w->lock);
    if (!w->left)
        sp_http_wake(w->conn);
    sp_lock_put(&w->lock);
}

static void forget_request(sp_work *w)
{
    sp_mem_free(w->text);
    w->text = NULL;
    w->req = (sp_api_req){0};
    w->fn = NULL;
}

/* On a worker. */
static sp_err run(void *self, sp_op *op)
{
    sp_work *w = (sp_work *)op;
    (void)self;
    sp_lock_get(&w->lock);
    bool left = w->left;
    sp_lock_put(&w->lock);
    if (w->fn && !left) /* whoever has left while it waited costs nothing more */
        w->fn(w->arg, &w->req, &w->reply, &w->inner);
    else if (!left)
        w->again(w->again_arg);
    forget_request(w);
    sp_lock_get(&w->lock);
    w->busy = false;
    left = w->left;
    sp_lock_put(&w->lock);
    if (left)
        drop(w); /* the connection let go of it: nobody else knows it any more */
    return SP_OK;
}

static bool is_busy(sp_work *w)
{
    sp_lock_get(&w->lock);
    bool busy = w->busy;
    sp_lock_put(&w->lock);
    return busy;
}

static sp_err task_start(void *arg, sp_http_reply *reply)
{
    sp_work *w = arg;
    if (is_busy(w))
        return SP_AGAIN;
    if (w->inner.arg) { /* its headers come behind those that every reply has */
        memcpy(reply->header, w->reply.header, sizeof reply->header);
        reply->n_header = w->reply.n_header;
        return w->inner.start(w->inner.arg, reply);
    }
    *reply = w->reply;
    w->reply.body = (sp_buf){0};
    return SP_OK;
}

static void task_pull(void *arg, sp_buf *out, bool ping, bool *done)
{
    sp_work *w = arg;
    if (!is_busy(w))
        w->inner.pull(w->inner.arg, out, ping, done);
}

static void task_close(void *arg)
{
    sp_work *w = arg;
    sp_lock_get(&w->lock);
    bool busy = w->busy;
    w->left = true;
    sp_lock_put(&w->lock);
    if (!busy)
        drop(w);
    sp_op_put(&w->op);
}

/* Copies a text to *at and moves *at behind it. */
static const char *add_text(char **at, const char *s, size_t n)
{
    char *to = *at;
    if (!s)
        return NULL;
    memcpy(to, s, n);
    to[n] = 0;
    *at += n + 1;
    return to;
}

/* The request's own copy: the connection may go while a worker reads it. */
static sp_err copy_request(sp_work *w, const sp_http_req *req, sp_diag *d)
{
    const char *trace = sp_http_header(req, "traceparent"), *type = sp_http_header(req, "Content-Type");
    const char *const all[] = {req->method, req->path, trace, type, req->body ? req->body : ""};
    const size_t n[] = {strlen(all[0]), strlen(all[1]), trace ? strlen(trace) : 0, type ? strlen(type) : 0, req->n_body};
    char *at = w->text = sp_mem_grow(NULL, n[0] + n[1] + n[2] + n[3] + n[4] + 5);
    if (!at)
        return SP_FAIL(d, SP_NOMEM, "request");
    w->req.method = add_text(&at, all[0], n[0]);
    w->req.path = add_text(&at, all[1], n[1]);
    w->req.traceparent = add_text(&at, all[2], n[2]);
    w->req.content_type = add_text(&at, all[3], n[3]);
    w->req.body = add_text(&at, all[4], n[4]);
    w->req.n_body = req->n_body;
    w->req.work = w;
    return SP_OK;
}

static sp_err submit(sp_work *w, sp_diag *d)
{
    w->busy = true; /* before it is handed over */
    sp_err err = sp_op_submit(&w->op, sp_work_wake, w, d);
    if (err != SP_OK)
        w->busy = false;
    return err;
}

sp_err sp_work_start(sp_http_task *task, sp_workers *all, const sp_http_req *req, const sp_http_reply *head, sp_work_fn *fn, const void *arg,
                     size_t n_arg, bool later, sp_diag *d)
{
    sp_work *w = sp_op_new(req->n_body > LARGE_BODY ? all->large : all->small, sizeof *w);
    if (!w)
        return SP_FAIL(d, SP_NOMEM, "request");
    sp_lock_init(&w->lock, SP_RANK_API);
    w->conn = req->conn;
    w->fn = fn;
    memcpy(w->reply.header, head->header, sizeof head->header);
    w->reply.n_header = head->n_header;
    w->arg = sp_arena_alloc(&w->op.a, n_arg);
    sp_err err = w->arg ? copy_request(w, req, d) : SP_FAIL(d, SP_NOMEM, "request");
    if (err == SP_OK)
        memcpy(w->arg, arg, n_arg);
    if (err == SP_OK && later)
        err = submit(w, d);
    if (err == SP_OK && !later) {
        w->req.http = req;
        fn(w->arg, &w->req, &w->reply, &w->inner);
        forget_request(w);
    }
    *task = (sp_http_task){w, task_start, task_pull, task_close};
    if (err == SP_OK)
        return SP_OK;
    *task = (sp_http_task){0};
    drop(w);
    sp_op_put(&w->op);
    return err;
}

sp_err sp_work_again(sp_work *w, void (*fn)(void *arg), void *arg, sp_diag *d)
{
    w->again = fn;
    w->again_arg = arg;
    return submit(w, d);
}

sp_err sp_workers_start(sp_workers **out, sp_diag *d)
{
    const sp_desk_cfg cfg = {.name = "requests", .run = run};
    sp_workers *w = sp_mem_alloc(sizeof *w);
    if (!w)
        return SP_FAIL(d, SP_NOMEM, "requests");
    sp_err err = sp_desk_start(&w->small, &cfg, d);
    if (err == SP_OK)
        err = sp_desk_start(&w->large, &cfg, d);
    if (err == SP_OK)
        *out = w;
    else
        sp_workers_stop(w);
    return err;
}

void sp_workers_stop(sp_workers *w)
{
    if (!w)
        return;
    sp_desk_stop(w->small);
    sp_desk_stop(w->large);
    sp_mem_free(w);
}
