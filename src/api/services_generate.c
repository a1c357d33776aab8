/* Generation over gRPC: a request becomes a turn (pipe/turn.h), its events become messages.
 *
 * A call's state is shared by its task and by what runs for it on the desk; the last of them frees it. Between the two only one
 * works at a time: while an operation is under way, the task touches nothing. */
#include "api/services_ask.h"

#include "api/codec.h"
#include "base/clock.h"

#include <stdio.h>
#include <string.h>

typedef struct generate {
    sp_services *s;
    sp_grpc_call *c;      /* owner: the gRPC thread, until left */
    uint64_t id, deadline_ns;
    char who[64];
    uint8_t *body;        /* [n_body] of the message; NULL once it was read */
    size_t n_body;
    _Atomic int ref;
    _Atomic bool left;    /* the call is over */
    sp_op *op;            /* what runs on the desk; NULL: nothing */
    ProtobufCMessage *asked;
    sp_service_model model;
    sp_turn *turn;
    sp_turn_error e;
    bool started;
    int64_t created;
} generate;

static void note(generate *g);

static void release(void *arg)
{
    generate *g = arg;
    if (atomic_fetch_sub(&g->ref, 1) > 1)
        return;
    if (g->started)
        note(g);
    sp_turn_free(g->turn);
    sp_service_model_fini(&g->model, g->s);
    sp_service_free(g->asked);
    sp_mem_free(g->body);
    sp_mem_free(g);
}

/* The list of requests and the sums over receipts, as over HTTP. */
static void note(generate *g)
{
    const sp_turn_error *bad = sp_turn_error_of(g->turn);
    const sp_ask *q = sp_turn_ask(g->turn);
    bool early = !sp_turn_is_over(g->turn);
    sp_entry e = {.created = g->created, .ms = sp_clock_ms(q->begin_ns), .ms_first = sp_turn_ms_first(g->turn), .n_prompt = sp_turn_used(g->turn).n_prompt};
    snprintf(e.id, sizeof e.id, "%s", q->id);
    snprintf(e.tenant, sizeof e.tenant, "%s", q->tenant);
    e.status = early ? 499 : bad->diag.code ? sp_api_error_status(bad) : 200;
    snprintf(e.error, sizeof e.error, "%.119s", early ? "the client left" : bad->diag.code ? bad->diag.msg : "");
    sp_turn_receipt(&e.receipt, g->turn);
    sp_ledger_add(g->s->app->ledger, &e);
}

/* --- on the desk ---------------------------------------------------------------------------------- */

static void wake(void *arg)
{
    const generate *g = arg;
    sp_grpc_wake(g->s->g, g->id);
}

static sp_err submit(generate *g, void (*fn)(void *arg), void *arg, sp_diag *d)
{
    sp_op *old = g->op, *op;
    atomic_fetch_add(&g->ref, 1);
    sp_err err = sp_service_defer_for(&op, g->s, g->id, fn, arg, release, g, d);
    if (err != SP_OK) {
        release(g);
        return err;
    }
    g->op = op;
    sp_op_put(old);
    return SP_OK;
}

static sp_err defer(void *arg, void (*fn)(void *arg), void *fn_arg, sp_diag *d)
{
    return submit(arg, fn, fn_arg, d);
}

static sp_err read_ask(sp_ask *q, const generate *g, const Sparing__V1__GenerateRequest *m, sp_diag *d)
{
    sp_session_cfg *s = q->session;
    s->sample.temperature = m->temperature;
    s->sample.top_p = m->top_p > 0 ? sp_api_top_p((double)m->top_p) : 1;
    s->sample.top_k = m->top_k;
    s->sample.min_p = m->min_p;
    if (!(m->temperature >= 0 && m->temperature <= 2) || !(m->top_p >= 0 && m->top_p <= 1) || !(m->min_p >= 0 && m->min_p <= 1))
        return SP_FAIL(d, SP_INVAL, "temperature is from 0 to 2, top_p and min_p from 0 to 1");
    if (m->priority < -3 || m->priority > 3)
        return SP_FAIL(d, SP_INVAL, "priority is from -3 to 3");
    if (m->n_stop > SP_STOP_MAX)
        return SP_FAIL(d, SP_INVAL, "stop has more than %d texts", SP_STOP_MAX);
    for (size_t i = 0; i < m->n_stop; i++) {
        if (!m->stop[i][0] || strlen(m->stop[i]) >= SP_STOP_BYTES)
            return SP_FAIL(d, SP_INVAL, "stop[%zu] must be a text of 1 to %d bytes", i, SP_STOP_BYTES - 1);
        snprintf(s->stop[s->n_stop++], SP_STOP_BYTES, "%s", m->stop[i]);
    }
    s->ignore_end = m->ignore_end;
    q->seed = m->seed ? (int64_t)(m->seed & INT64_MAX) : -1;
    q->priority = m->priority;
    q->stream = true;
    q->plan.max_tok = m->max_tokens;
    q->plan.is_private = m->private_;
    q->plan.plain = q->chat && !m->cache_salt[0] && !m->ignore_end && m->min_p == 0 && m->top_k == 0;
    uint64_t now = sp_clock_ns();
    if (g->deadline_ns)
        q->deadline_ms = g->deadline_ns > now ? (double)(g->deadline_ns - now) * 1e-6 : 1e-3;
    SP_TRY(sp_service_salt(q, m->cache_salt, d));
    return sp_service_prompt(q, m->prompt, g->model.on, d);
}

static sp_err begin(generate *g)
{
    const Sparing__V1__GenerateRequest *m = (const Sparing__V1__GenerateRequest *)g->asked;
    sp_ask *q = sp_ask_new(g->who);
    if (!q)
        return SP_FAIL(&g->e.diag, SP_NOMEM, "request");
    sp_ask_name(q, "gen");
    sp_err err = read_ask(q, g, m, &g->e.diag);
    if (err != SP_OK) {
        sp_ask_free(q);
        return err;
    }
    SP_TRY(sp_turn_open(&g->turn, &g->model.on->env, q, &g->e));
    g->created = sp_clock_wall();
    SP_TRY(sp_turn_start(g->turn, &(sp_turn_run){wake, defer, g}, &g->e));
    g->started = true;
    return SP_OK;
}

/* Reads the message, finds its model, and begins. Comes again when the model is there. */
static void start(void *arg)
{
    generate *g = arg;
    sp_err err = SP_OK;
    if (atomic_load(&g->left))
        return;
    if (g->body) {
        g->asked = sp_service_read(&sparing__v1__generate_request__descriptor, g->body, g->n_body);
        sp_mem_free(g->body);
        g->body = NULL;
        if (!g->asked)
            err = SP_FAIL(&g->e.diag, SP_FORMAT, "the message cannot be read, or is too large once it is");
    }
    if (err == SP_OK)
        err = sp_service_model_find(&g->model, g->s, ((const Sparing__V1__GenerateRequest *)g->asked)->model, g->id, &g->e);
    if (err == SP_OK)
        err = begin(g);
    if (err != SP_AGAIN && err != SP_OK && !g->e.diag.code)
        g->e.diag.code = err;
}

/* --- on the gRPC thread --------------------------------------------------------------------------- */

static void send_text(generate *g, const sp_turn_event *ev)
{
    Sparing__V1__GenerateEvent m = SPARING__V1__GENERATE_EVENT__INIT;
    char *text = sp_mem_alloc(ev->text.n + 1);
    if (!text) {
        sp_grpc_finish(g->c, SP_GRPC_RESOURCE_EXHAUSTED, "no memory for the answer", 1000);
        return;
    }
    memcpy(text, ev->text.p, ev->text.n);
    bool thinks = ev->kind == SP_TURN_REASONING;
    m.event_case = thinks ? SPARING__V1__GENERATE_EVENT__EVENT_REASONING : SPARING__V1__GENERATE_EVENT__EVENT_TEXT;
    if (thinks)
        m.reasoning = text;
    else
        m.text = text;
    sp_service_send(g->c, &m.base);
    sp_mem_free(text);
}

static const char *finish_name(sp_finish f)
{
    return f == SP_FINISH_LENGTH ? "length" : f == SP_FINISH_CALLS ? "tool_calls" : f == SP_FINISH_FILTER ? "content_filter" : "stop";
}

static void send_end(generate *g)
{
    Sparing__V1__GenerateEvent m = SPARING__V1__GENERATE_EVENT__INIT;
    Sparing__V1__Finish f = SPARING__V1__FINISH__INIT;
    const sp_turn_usage used = sp_turn_used(g->turn);
    sp_receipt receipt;
    sp_buf text = {0};
    sp_turn_receipt(&receipt, g->turn);
    sp_receipt_write(&receipt, &text);
    f.reason = (char *)(uintptr_t)finish_name(sp_turn_answer_of(g->turn, 0)->finish);
    f.prompt_tokens = (uint32_t)used.n_prompt;
    f.cached_tokens = (uint32_t)used.n_cached;
    f.completion_tokens = (uint32_t)used.n_out;
    f.receipt = (char *)(uintptr_t)sp_buf_str(&text);
    m.event_case = SPARING__V1__GENERATE_EVENT__EVENT_FINISH;
    m.finish = &f;
    sp_service_send(g->c, &m.base);
    sp_buf_fini(&text);
    sp_grpc_finish(g->c, SP_GRPC_OK, NULL, 0);
}

static void give_events(generate *g)
{
    sp_turn_event ev;
    while (sp_grpc_room(g->c) && sp_turn_next(g->turn, &ev) == SP_OK) {
        if ((ev.kind == SP_TURN_TEXT || ev.kind == SP_TURN_REASONING) && ev.text.n)
            send_text(g, &ev);
        else if (ev.kind == SP_TURN_END)
            send_end(g);
        else if (ev.kind == SP_TURN_ERROR)
            sp_service_fail(g->c, g->s, g->model.on->env.engine, ev.error);
    }
}

static void pull(void *arg)
{
    generate *g = arg;
    if (g->op && !sp_op_is_done(g->op))
        return;
    if (g->e.diag.code)
        sp_service_fail(g->c, g->s, g->model.on ? g->model.on->env.engine : NULL, &g->e);
    else if (g->started)
        give_events(g);
    else if (sp_service_model_is_due(&g->model) && submit(g, start, g, &g->e.diag) != SP_OK)
        sp_service_fail(g->c, g->s, NULL, &g->e);
}

static void close_generate(void *arg)
{
    generate *g = arg;
    atomic_store(&g->left, true);
    sp_op *op = g->op;
    g->op = NULL;
    sp_op_put(op);
    release(g);
}

void sp_service_generate(void *app, sp_grpc_call *c, const uint8_t *p, size_t n)
{
    sp_turn_error e = {0};
    generate *g = sp_mem_alloc(sizeof *g);
    uint8_t *body = sp_mem_alloc(n + 1);
    if (!g || !body) {
        sp_mem_free(g);
        sp_mem_free(body);
        sp_grpc_finish(c, SP_GRPC_RESOURCE_EXHAUSTED, "no memory for the request", 1000);
        return;
    }
    memcpy(body, p, n);
    *g = (generate){.s = app, .c = c, .id = sp_grpc_id(c), .deadline_ns = sp_grpc_deadline_ns(c), .body = body, .n_body = n, .ref = 1};
    snprintf(g->who, sizeof g->who, "%s", sp_grpc_who(c));
    if (submit(g, start, g, &e.diag) != SP_OK) {
        sp_service_fail(c, app, NULL, &e);
        close_generate(g);
        return;
    }
    sp_grpc_set_task(c, &(sp_grpc_task){g, pull, close_generate});
}
