/* What the HTTP and gRPC surfaces share: the engine, the texts' side of the model, and the rules of
 * who may ask. Built by cmd/serve; immutable while serving, except keys (see auth.h).
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
#include "net/upstream.h"
#include "pipe/history.h"
#include "pipe/knowledge.h"
#include "pipe/plan.h"
#include "pipe/shadow.h"
#include "sched/engine.h"
#include "text/chat.h"

#include <stdatomic.h>

typedef struct sp_app {
    sp_engine *engine;
    sp_workers *workers;
    sp_history *history;          /* NULL: no conversations */
    const char *retrieve; /* collection that every chat looks into; NULL: only those that ask */
    sp_know *know;                /* NULL: no documents */
    const sp_tok *tok;
    const sp_chat *chat;          /* NULL: the model has no template */
    const sp_tok *embed_vocab;     /* NULL: no embedding model */
    size_t embed_dim;
    const char *model_name, *embed_name;
    const char *const *aliases;   /* "NAME=MODEL", NULL-terminated: more names of the two */
    sp_str template;              /* the model's chat template; empty: it has none */
    int64_t created;              /* start of the server, seconds since 1970 */
    sp_metrics *metrics;
    sp_ledger *ledger;
    sp_shadow *shadow;            /* NULL: no light answer is checked */
    sp_otlp *otlp;                /* NULL: no traces are sent */
    sp_series *series;            /* the last hours of the metrics */
    sp_upstream *upstream;        /* NULL: there is none */
    const sp_intent_model *intent;
    sp_plan_cfg plan;             /* has_passages is filled in for each request */
    uint32_t think_open, think_close; /* equal: the model does not mark what it thinks */
    double price[2][2];           /* of a million tokens: here, upstream; of a prompt, of an answer */
    sp_auth *auth;
    struct sp_gate *gate;
    const char *const *hosts;     /* names this server answers to, NULL-terminated */
    const char *const *origins;   /* origins allowed across sites, NULL-terminated */
    float eps;                    /* of requests that name none: share of the attention that may be left out, */
    size_t eps_from;              /* from this position on */
    bool lenient;                 /* names of parameters that nobody knows are accepted */
    _Atomic bool draining;
} sp_app;

/* The gate, the handler and the refuser of the whole server (see net/http.h); app is an sp_app. */
void sp_api_gate(void *app, const sp_http_req *req, sp_http_reply *reply, sp_http_pass *pass);
void sp_api_refuse(void *app, const sp_http_conn *conn, int status, const char *why, sp_http_reply *reply);
void sp_api_handle(void *app, const sp_http_req *req, sp_http_reply *reply, sp_http_task *task);

/* Makes a JSON reply: OpenAI's error object when error says one, else 200, whose body the caller
 * writes. True: the body is the caller's. */
bool sp_api_reply(sp_http_reply *reply, const sp_diag *error);
/* The same with Retry-After, where a later request may fare better. */
bool sp_api_reply_retry(sp_http_reply *reply, const sp_app *app, const sp_diag *error);

/* A file built into the binary (web/, openapi.json). NULL when there is none of that name. */
typedef struct sp_asset {
    const char *name, *type;
    const unsigned char *p;
    size_t n;
} sp_asset;
extern const sp_asset sp_assets[];

#endif
