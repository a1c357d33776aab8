/* Another server that speaks OpenAI's API (vLLM, SGLang, llama.cpp, another sparing, a cloud), for
 * requests whose plan says so.
 *
 * A call streams a chat completion; its events are those of a job. Each runs in a thread of its
 * own, at most cap_call together.
 * Budgets: bytes that are read (BYTES_TOK in upstream.c for each token asked for), seconds in all,
 *          and tokens: a piece of text counts as one, and an answer with more than max_tok of them
 *          ends there, as if the other server had kept to it.
 *
 * Circuit breaker: after three failures in a row nothing is sent for a while (cfg.retry_ms, then
 * twice that, up to a minute); then one call tries, and the others wait for how it ends.
 *
 * The guard is asked at the one place where bytes leave; what it refuses is not sent, and its error
 * is the call's.
 *
 * Threads: everything from any thread. notify runs on the call's thread, without locks.
 * Errors:  SP_AGAIN when the circuit is open (sp_upstream_wait_ms), SP_LIMIT when cap_call run; in
 *          events: SP_NET for a failure or bad data, SP_TIMEOUT, SP_AGAIN where the other server is
 *          overloaded (429, 503), SP_INVAL where it refuses the request (400, 413, 422), each with
 *          the status. A refused request counts neither for nor against the server. Nothing of an
 *          answer was sent before an event of text or calls. */
#ifndef SP_NET_UPSTREAM_H
#define SP_NET_UPSTREAM_H

#include "gen/stage.h"
#include "obs/metric.h"

typedef struct sp_upstream sp_upstream;
typedef struct sp_call sp_call;

typedef struct sp_upstream_cfg {
    const char *url;        /* up to /v1; http or https */
    const char *key;        /* bearer token, or NULL; never logged */
    const char *model;      /* the name the other server knows */
    uint64_t connect_ms, silence_ms; /* without an answer, between two pieces of it */
    uint64_t retry_ms, total_ms; /* total_ms: from a request to its last byte; 0: no bound */
    size_t cap_call;
    /* Asked before a byte of a call leaves, with the call's facts: what it holds. NULL: nobody
     * is. */
    sp_err (*guard)(void *arg, const void *facts, sp_diag *d);
    void *guard_arg;
    sp_metrics *metrics;
} sp_upstream_cfg;

typedef struct sp_call_cfg {
    const char *messages;   /* JSON list, copied */
    const char *stop;       /* JSON, or NULL */
    const char *tools;      /* JSON list, or NULL */
    const char *tool_choice; /* JSON, or NULL */
    const void *facts;      /* for the guard; NULL: nothing is known of it */
    size_t max_tok;
    double temperature, top_p, presence, frequency;
    int64_t seed;           /* < 0: none */
    const char *traceparent; /* or NULL */
    void (*notify)(void *arg);
    void *arg;
} sp_call_cfg;

SP_MUST sp_err sp_upstream_new(sp_upstream **out, const sp_upstream_cfg *cfg, sp_diag *d);
void sp_upstream_free(sp_upstream *u); /* every call is put; waits for their threads */
bool sp_upstream_is_open(sp_upstream *u); /* the circuit: nothing is sent */
uint64_t sp_upstream_wait_ms(sp_upstream *u); /* until it is tried again; 0: now */

SP_MUST sp_err sp_call_start(sp_call **out, sp_upstream *u, const sp_call_cfg *cfg, sp_diag *d);
sp_event *sp_call_next(sp_call *c); /* as sp_job_next */
/* cancels if it still runs; notify is not called after this returns */
void sp_call_put(sp_call *c);

#endif
