/* Requests in work. What grows with what a client sent (parsing, rendering, tokenising, compiling)
 * runs on workers, never on the thread that serves every connection: small bodies on one, large
 * ones on another, so that a large one delays its like alone.
 *
 * A work is the HTTP task of one request. A handler runs on a worker and answers with a reply, or
 * with a task of its own, which the work then passes on to the connection. A client that leaves
 * while a worker is busy leaves the work to the worker, which closes it.
 *
 * Threads: sp_work_wake from any; the rest on the HTTP thread. While a worker is busy with a work,
 * nothing of the handler's runs on
 *          the HTTP thread. Errors: SP_LIMIT when too many requests wait, SP_NOMEM. */
#ifndef SP_API_WORK_H
#define SP_API_WORK_H

#include "api/hints.h"
#include "pipe/desk.h"

typedef struct sp_workers sp_workers;

/* How a request waits for something that takes long. */
typedef struct sp_park {
    /* of a stream, which begins before its answer is known; NULL: it is silent until then */
    const char *stream_type;
    void (*ping)(sp_buf *out);     /* keeps that stream alive; NULL: nothing is sent */
    /* before the body of an error that comes later, which ends the stream; NULL: "data: " */
    const char *error_event;
    uint64_t end_ns;               /* the handler runs again then, whatever has happened */
} sp_park;
typedef struct sp_work sp_work;

/* A request as handlers see it on any thread. */
typedef struct sp_api_req {
    const char *method, *path;
    const char *body; /* complete; NUL-terminated beyond n_body; until the handler returns */
    size_t n_body;
    const char *traceparent, *content_type; /* headers; NULL: absent */
    sp_hints hints;
    const sp_http_req *http; /* NULL on a worker */
    sp_work *work;           /* for notifications: sp_work_wake with it */
    struct json_t *json;     /* the body, parsed; NULL: it is not yet */
} sp_api_req;

/* A value of the query string; NULL when absent, and on a worker. */
const char *sp_api_query(const sp_api_req *r, const char *name);

/* Answers by filling reply (status != 0) or task (arg != NULL). arg: the caller's, borrowed until
 * the work is closed. */
typedef void sp_work_fn(void *arg, const sp_api_req *req, sp_http_reply *reply, sp_http_task *task);

SP_MUST sp_err sp_workers_start(sp_workers **out, sp_diag *d);
/* After every connection is closed. Finishes what clients have left. NULL is fine. */
void sp_workers_stop(sp_workers *w);

typedef struct sp_work_cfg {
    sp_work_fn *fn;
    const void *arg;         /* [n_arg] copied */
    size_t n_arg;
    void (*fini)(void *arg); /* of the copy, when the work is closed; NULL: nothing */
    bool later;              /* on a worker; else at once */
} sp_work_cfg;

/* Makes the task of a request. head: its headers go into the reply. */
SP_MUST sp_err sp_work_start(sp_http_task *task, sp_workers *w, const sp_http_req *req,
                             const sp_http_reply *head, const sp_work_cfg *cfg, sp_diag *d);
/* How a handler ends whose work is an operation. err SP_OK: op is submitted, and the task is `as`;
 * else, and where op cannot be submitted, as.arg is closed. Gives what is wrong. */
SP_MUST sp_err sp_work_operate(sp_http_task *task, sp_err err, sp_op *op, sp_work *w,
                               const sp_http_task *as, sp_diag *d);
/* For notify functions: wakes the connection of a work as long as there is one. Any thread;
 * harmless on NULL. */
void sp_work_wake(void *work);
/* From a handler on a worker, which then answers nothing: it runs again, with the same arg, when
 * the work is rung for. */
void sp_work_park(sp_work *w, const sp_park *p);
/* For notify functions of what a parked request waits for. Any thread; harmless on NULL. */
void sp_work_ring(void *work);
/* From the handler's own task: fn(arg) runs on a worker; start and pull come again after it. */
SP_MUST sp_err sp_work_again(sp_work *w, void (*fn)(void *arg), void *arg, sp_diag *d);

#endif
