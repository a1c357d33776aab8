/* What the HTTP and gRPC surfaces share: the models, what stands beside them, and the rules of who
 * may ask. Built by cmd/serve; immutable while serving, except keys (see auth.h).
 * Owner: borrows everything. */
#ifndef SP_API_APP_H
#define SP_API_APP_H

#include "api/auth.h"
#include "api/ledger.h"
#include "api/work.h"
#include "net/http.h"
#include "obs/series.h"
#include "obs/trace.h"
#include "net/otlp.h"
#include "pipe/models.h"

#include <stdatomic.h>

typedef struct sp_app {
    sp_models *models;            /* which ones are here; each has an env of its own */
    /* what stands beside every model: conversations, documents, the other server */
    const sp_turn_env *shared;
    sp_engine *texts;             /* runs the encoders */
    sp_workers *workers;
    const char *encoder, *reranker; /* own names of those that are meant where a request names none;
                                       NULL: there is none */
    int64_t created;              /* start of the server, seconds since 1970 */
    sp_metrics *metrics;
    sp_ledger *ledger;
    sp_budgets *budgets;          /* NULL: there are none */
    struct sp_front *front;       /* NULL: there is no server behind this one */
    struct sp_streams *streams;   /* answers that go on without their client */
    struct sp_running *running;   /* requests that are being answered */
    sp_otlp *otlp;                /* NULL: no traces are sent */
    const char *address;          /* of this server, as it was told to listen, and its port */
    uint16_t port;
    sp_series *series;            /* the last hours of the metrics */
    sp_auth *auth;
    struct sp_gate *gate;
    const char *const *hosts;     /* names this server answers to, NULL-terminated */
    const char *const *origins;   /* origins allowed across sites, NULL-terminated */
    /* pages are read from this folder at each request; NULL: those built in */
    const char *web_dir;
    size_t max_body;              /* of a request, bytes */
    bool lenient;                 /* names of parameters that nobody knows are accepted */
    _Atomic bool draining;
} sp_app;

/* The gate, the handler and the refuser of the whole server (see net/http.h); app is an sp_app. */
void sp_api_gate(void *app, const sp_http_req *req, sp_http_reply *reply, sp_http_pass *pass);
void sp_api_refuse(void *app, const sp_http_conn *conn, int status, const char *why,
                   sp_http_reply *reply);
void sp_api_handle(void *app, const sp_http_req *req, sp_http_reply *reply, sp_http_task *task);

/* Makes a JSON reply: OpenAI's error object when error says one, else 200, whose body the caller
 * writes. True: the body is the caller's. */
bool sp_api_reply(sp_http_reply *reply, const sp_diag *error);
/* The same with Retry-After, where a later request may fare better. */
bool sp_api_reply_retry(sp_http_reply *reply, const sp_app *app, const sp_diag *error);
/* Adds Retry-After where a later request may fare better. e: the engine whose work waits; NULL: the
 * encoders'. */
void sp_api_retry_after(sp_http_reply *reply, const sp_app *app, sp_engine *e, sp_err err);

/* Sends the spans of a request, if it is traced; fills in the server's part of end. r as in
 * sp_trace_write. */
void sp_api_trace(sp_app *app, const sp_trace *t, sp_trace_end *end, const sp_receipt *r);

#endif
