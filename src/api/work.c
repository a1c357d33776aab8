/* Invariants:
 * 1. busy: a worker may touch request, reply and inner; the HTTP thread does not.
 * 2. The last of connection and worker closes inner: close while busy sets left, and the worker
 * looks at it when it has finished.
 * 3. conn is used under lock, and only while left is false. */
#include "api/work.h"

#include "base/clock.h"
#include "base/lock.h"

#include <string.h>

enum {
    LARGE_BODY = 64 * 1024,
    EARLY_MS = 900 /* a stream that waits for longer begins without its answer */
};

struct sp_workers {
    sp_desk *small, *large;
};

struct sp_work {
    sp_op op; /* first: a desk's operation */
    /* rank API; guards the next four; never destroyed: a desk may still wake what is dropped */
    sp_lock lock;
    sp_http_conn *conn;
    bool busy, left, rung;
    /* owner: the worker while busy, else the HTTP thread */
    char *text; /* method, path, headers and body, one behind the other */
    sp_api_req req;
    sp_work_fn *fn; /* NULL: it has run */
    void *arg;
    void (*again)(void *arg);
    void *again_arg;
    void (*fini)(void *arg);
    sp_http_reply reply;
    sp_http_task inner;
    bool parked;             /* the handler runs again */
    /* the stream has begun without an answer; it is the inner task's now */
    bool early, joined;
    uint64_t parked_ns;
    sp_park park;
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
    if (w->fini)
        w->fini(w->arg);
    w->fini = NULL;
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

void sp_work_ring(void *work)
{
    sp_work *w = work;
    if (!w)
        return;
    sp_lock_get(&w->lock);
    w->rung = true;
    sp_lock_put(&w->lock);
    sp_work_wake(w);
}

void sp_work_park(sp_work *w, const sp_park *p)
{
    if (!w->parked_ns)
        w->parked_ns = sp_clock_ns();
    w->parked = true;
    w->park = *p;
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
    w->parked = false;
    if (w->fn && !left) /* whoever has left while it waited costs nothing more */
        w->fn(w->arg, &w->req, &w->reply, &w->inner);
    else if (!left)
        w->again(w->again_arg);
    if (!w->parked)
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

static sp_err submit(sp_work *w, sp_diag *d)
{
    w->busy = true; /* before it is handed over */
    sp_err err = sp_op_submit(&w->op, sp_work_wake, w, d);
    if (err != SP_OK)
        w->busy = false;
    return err;
}

/* Is a parked request still waiting? Else its handler runs again. */
static bool is_parked(sp_work *w)
{
    bool parked = w->parked;
    sp_lock_get(&w->lock);
    bool due = parked && (w->rung || sp_clock_ns() >= w->park.end_ns);
    w->rung = w->rung && !due;
    sp_lock_put(&w->lock);
    if (due && submit(w, NULL) != SP_OK) { /* too many wait: at the next tick */
        sp_lock_get(&w->lock);
        w->rung = true;
        sp_lock_put(&w->lock);
    }
    return parked;
}

/* A stream begins with nothing but its head. */
static void begin_early(sp_work *w, sp_http_reply *reply)
{
    memcpy(reply->header, w->reply.header, sizeof reply->header);
    reply->n_header = w->reply.n_header;
    reply->status = 200;
    reply->type = w->park.stream_type;
    reply->stream = true;
    sp_http_reply_header(reply, "Cache-Control", "no-cache");
    sp_http_reply_header(reply, "X-Accel-Buffering", "no");
    w->early = true;
}

static sp_err task_start(void *arg, sp_http_reply *reply)
{
    sp_work *w = arg;
    if (is_busy(w))
        return SP_AGAIN;
    if (is_parked(w)) {
        if (!w->park.stream_type || sp_clock_ms(w->parked_ns) < EARLY_MS)
            return SP_AGAIN;
        begin_early(w, reply);
        return SP_OK;
    }
    if (w->inner.arg) { /* its headers come behind those that every reply has */
        memcpy(reply->header, w->reply.header, sizeof reply->header);
        reply->n_header = w->reply.n_header;
        return w->inner.start(w->inner.arg, reply);
    }
    *reply = w->reply;
    w->reply.body = (sp_buf){0};
    return SP_OK;
}

/* The handler has answered a stream that began without it. Its head is dropped; an error is the
 * stream's last event. false: not yet. */
static bool join(sp_work *w, sp_buf *out, bool *done)
{
    sp_http_reply late = {0};
    if (w->inner.arg && w->inner.start(w->inner.arg, &late) == SP_AGAIN)
        return false;
    w->joined = true;
    if (late.stream)
        return true;
    const sp_buf *body = w->inner.arg ? &late.body : &w->reply.body;
    sp_buf_puts(out, w->park.error_event ? w->park.error_event : "data: ");
    sp_buf_put(out, body->p, body->len);
    sp_buf_puts(out, "\n\n");
    sp_buf_fini(&late.body);
    *done = true;
    return true;
}

static void task_pull(void *arg, sp_buf *out, bool ping, bool *done)
{
    sp_work *w = arg;
    bool waits = is_busy(w) || (w->early && !w->joined && (is_parked(w) || !join(w, out, done)));
    if (waits && w->early && ping && w->park.ping)
        w->park.ping(out);
    if (!waits && !*done)
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
    const char *trace = sp_http_header(req, "traceparent"),
               *type = sp_http_header(req, "Content-Type");
    const char *const all[] = {req->method, req->path, trace, type, req->body ? req->body : ""};
    const size_t n[] = {strlen(all[0]), strlen(all[1]), trace ? strlen(trace) : 0,
                        type ? strlen(type) : 0, req->n_body};
    SP_TRY(sp_hints_read(&w->req.hints, req, d));
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

sp_err sp_work_start(sp_http_task *task, sp_workers *all, const sp_http_req *req,
                     const sp_http_reply *head, const sp_work_cfg *cfg, sp_diag *d)
{
    sp_work *w = sp_op_new(req->n_body > LARGE_BODY ? all->large : all->small, sizeof *w);
    if (!w)
        return SP_FAIL(d, SP_NOMEM, "request");
    sp_lock_init(&w->lock, SP_RANK_API);
    w->conn = req->conn;
    w->fn = cfg->fn;
    memcpy(w->reply.header, head->header, sizeof head->header);
    w->reply.n_header = head->n_header;
    w->arg = sp_arena_alloc(&w->op.a, cfg->n_arg);
    sp_err err = w->arg ? copy_request(w, req, d) : SP_FAIL(d, SP_NOMEM, "request");
    if (err == SP_OK) {
        memcpy(w->arg, cfg->arg, cfg->n_arg);
        w->fini = cfg->fini;
    }
    if (err == SP_OK && cfg->later)
        err = submit(w, d);
    if (err == SP_OK && !cfg->later) {
        w->req.http = req;
        cfg->fn(w->arg, &w->req, &w->reply, &w->inner);
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

sp_err sp_work_operate(sp_http_task *task, sp_err err, sp_op *op, sp_work *w,
                       const sp_http_task *as, sp_diag *d)
{
    if (err == SP_OK)
        err = sp_op_submit(op, sp_work_wake, w, d);
    if (err == SP_OK)
        *task = *as;
    else
        as->close(as->arg);
    return err;
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
