/* Requests for answers, whatever their protocol: a body becomes an ask, its turn runs, the codec
 * writes what comes. Owner of an answer's state: its HTTP task. */
#include "api/codec.h"

#include "api/params.h"
#include "api/running.h"
#include "api/stream.h"
#include "base/clock.h"
#include "base/mem.h"

#include <stdio.h>
#include <string.h>

typedef struct answer {
    sp_app *app;
    const sp_codec *codec;
    sp_served *on;  /* in use until the answer is closed */
    sp_turn *turn;
    sp_work *work;
    void *state;
    sp_trace trace;
    int64_t created;
    double wall_ns; /* when it came, since 1970 */
    bool counted;   /* it began, and is noted when it ends */
} answer;

/* --- the task --------------------------------------------------------------------------------- */

static sp_err defer(void *work, void (*fn)(void *arg), void *arg, sp_diag *d)
{
    return sp_work_again(work, fn, arg, d);
}

void sp_api_fail(sp_http_reply *reply, const sp_app *app, const sp_served *on,
                 const sp_codec *codec, const sp_turn_error *e)
{
    reply->type = "application/json";
    reply->status = sp_api_error_status(e);
    sp_api_retry_after(reply, app, on ? on->env.engine : NULL, e->diag.code);
    codec->fail(&reply->body, reply->status, e);
}

/* What was asked before is not computed again. false: that is not so. */
static bool give_stored(answer *a, sp_http_reply *reply)
{
    const sp_hdb_item *item = sp_turn_stored(a->turn);
    if (!item || !a->codec->stored || item->status == SP_HDB_RUNNING)
        return false;
    reply->status = 200;
    reply->type = sp_turn_ask(a->turn)->stream ? a->codec->stream_type : "application/json";
    a->codec->stored(a->state, &reply->body, a->turn, item);
    return true;
}

static sp_err start_stream(answer *a, sp_http_reply *reply)
{
    if (sp_turn_ready(a->turn) == SP_AGAIN)
        return SP_AGAIN;
    /* nothing was sent yet: an ordinary error */
    if (sp_turn_error_of(a->turn)->diag.code && !sp_turn_has_words(a->turn)) {
        if (!give_stored(a, reply))
            sp_api_fail(reply, a->app, a->on, a->codec, sp_turn_error_of(a->turn));
        return SP_OK;
    }
    reply->status = 200;
    reply->type = a->codec->stream_type;
    reply->stream = true;
    sp_http_reply_header(reply, "Cache-Control", "no-cache");
    sp_http_reply_header(reply, "X-Accel-Buffering", "no");
    return SP_OK;
}

static sp_err task_start(void *arg, sp_http_reply *reply)
{
    answer *a = arg;
    sp_turn_event ev;
    if (sp_turn_ask(a->turn)->stream)
        return start_stream(a, reply);
    if (sp_turn_next(a->turn, &ev) == SP_AGAIN)
        return SP_AGAIN;
    if (ev.kind == SP_TURN_ERROR) {
        if (!give_stored(a, reply))
            sp_api_fail(reply, a->app, a->on, a->codec, ev.error);
        return SP_OK;
    }
    reply->status = 200;
    reply->type = "application/json";
    a->codec->whole(a->state, &reply->body, a->turn);
    return SP_OK;
}

static void task_pull(void *arg, sp_buf *out, bool ping, bool *done)
{
    answer *a = arg;
    sp_turn_event ev;
    while (!*done && sp_turn_next(a->turn, &ev) == SP_OK) {
        a->codec->event(a->state, out, a->turn, &ev);
        *done = ev.kind == SP_TURN_END || ev.kind == SP_TURN_ERROR;
    }
    if (ping && !out->len && a->codec->ping)
        a->codec->ping(out);
}

/* The same for a stream that goes on without its client: it has begun, whatever comes. */
static void pull_kept(void *arg, sp_buf *out, bool ping, bool *done)
{
    answer *a = arg;
    sp_turn_event ev;
    (void)ping;
    while (!*done && sp_turn_next(a->turn, &ev) == SP_OK) {
        const sp_hdb_item *stored = ev.kind == SP_TURN_ERROR ? sp_turn_stored(a->turn) : NULL;
        if (stored && a->codec->stored && stored->status != SP_HDB_RUNNING)
            a->codec->stored(a->state, out, a->turn, stored);
        else
            a->codec->event(a->state, out, a->turn, &ev);
        *done = ev.kind == SP_TURN_END || ev.kind == SP_TURN_ERROR;
    }
}

/* --- books ------------------------------------------------------------------------------------ */

void sp_api_trace(sp_app *app, const sp_trace *t, sp_trace_end *end, const sp_receipt *r)
{
    sp_buf spans = {0};
    if (!app->otlp || !t->sampled)
        return;
    end->address = app->address;
    end->port = app->port;
    sp_trace_write(&spans, t, end, r);
    if (!spans.failed)
        sp_otlp_add(app->otlp, spans.p, spans.len, 1);
    sp_buf_fini(&spans);
}

static void put_finish(sp_buf *out, const sp_turn *t)
{
    static const char *const names[] = {[SP_FINISH_STOP] = "stop",
                                        [SP_FINISH_LENGTH] = "length",
                                        [SP_FINISH_CANCEL] = "cancelled",
                                        [SP_FINISH_UNSURE] = "stop",
                                        [SP_FINISH_FILTER] = "content_filter",
                                        [SP_FINISH_CALLS] = "tool_calls",
                                        [SP_FINISH_UNKNOWN] = "cache_threshold"};
    for (size_t i = 0; i < sp_turn_answers(t); i++)
        sp_buf_printf(out, "%s\"%s\"", i ? "," : "", names[sp_turn_answer_of(t, i)->finish]);
}

/* Few words for an error, as dashboards group by them. */
static void error_type(char out[32], int status, const sp_turn_error *e)
{
    const char *code = sp_api_error_code(e);
    if (code)
        snprintf(out, 32, "%s", code);
    else
        snprintf(out, 32, "%d", status);
}

static void send_spans(const answer *a, const sp_entry *e)
{
    char type[32];
    sp_buf reasons = {0};
    const sp_ask *q = sp_turn_ask(a->turn);
    const sp_sample_cfg *s = &q->session->sample;
    const sp_turn_usage used = sp_turn_used(a->turn);
    if (e->status == 200)
        put_finish(&reasons, a->turn);
    error_type(type, e->status, sp_turn_error_of(a->turn));
    sp_trace_end end = {.operation = a->codec->span,
                        .model = sp_turn_env_of(a->turn)->name,
                        .id = e->id,
                        .finish = reasons.len ? sp_buf_str(&reasons) : NULL,
                        .error = e->error[0] ? e->error : NULL,
                        .error_type = type,
                        .begin_ns = a->wall_ns,
                        .ms = e->ms,
                        .status = e->status,
                        .n_prompt = used.n_prompt,
                        .n_cached = used.n_cached,
                        .max_tok = q->plan.max_tok,
                        .temperature = (double)s->temperature,
                        .top_p = (double)s->top_p};
    sp_api_trace(a->app, &a->trace, &end, &e->receipt);
    sp_buf_fini(&reasons);
}

/* A request that was refused before anything was computed. */
static void send_refusal(sp_app *app, const sp_codec *codec, const sp_trace *trace, double wall_ns,
                         const char *model, int status, const sp_turn_error *e)
{
    char type[32];
    error_type(type, status, e);
    sp_trace_end end = {.operation = codec->span,
                        .model = model,
                        .error = e->diag.msg,
                        .error_type = type,
                        .begin_ns = wall_ns,
                        .ms = (sp_clock_wall_ns() - wall_ns) * 1e-6,
                        .status = status,
                        .temperature = -1,
                        .top_p = -1};
    sp_api_trace(app, trace, &end, NULL);
}

void sp_api_refuse_model(sp_app *app, const sp_codec *codec, const sp_api_req *req,
                         const char *asked, const sp_turn_error *e, sp_http_reply *reply)
{
    sp_trace trace;
    double now = sp_clock_wall_ns();
    sp_trace_start(&trace, req->traceparent);
    sp_api_fail(reply, app, NULL, codec, e);
    send_refusal(app, codec, &trace, now, asked ? asked : "", reply->status, e);
}

/* What the list of requests and the metrics over receipts need. */
static void note(const answer *a)
{
    const sp_turn_error *bad = sp_turn_error_of(a->turn);
    const sp_ask *q = sp_turn_ask(a->turn);
    bool left = !sp_turn_is_over(a->turn);
    sp_entry e = {.created = a->created,
                  .ms = sp_clock_ms(q->begin_ns),
                  .ms_first = sp_turn_ms_first(a->turn),
                  .n_prompt = sp_turn_used(a->turn).n_prompt};
    snprintf(e.id, sizeof e.id, "%s", q->id);
    snprintf(e.tenant, sizeof e.tenant, "%s", q->tenant);
    e.status = left ? 499 : bad->diag.code ? sp_api_error_status(bad) : 200;
    snprintf(e.error, sizeof e.error, "%.119s",
             left             ? "the client left"
             : bad->diag.code ? bad->diag.msg
                              : "");
    sp_turn_receipt(&e.receipt, a->turn);
    sp_ledger_add(a->app->ledger, &e);
    send_spans(a, &e);
}

static void task_close(void *arg)
{
    answer *a = arg;
    if (a->counted)
        note(a);
    sp_running_remove(a->app->running, a->turn);
    sp_turn_free(a->turn);
    if (a->codec->close)
        a->codec->close(a->state);
    sp_mem_free(a->state);
    sp_models_done(a->app->models, a->on);
    sp_mem_free(a);
}

/* --- from a body to a turn -------------------------------------------------------------------- */

static sp_err read_body(answer *a, sp_ask *q, const sp_api_req *req, sp_turn_error *e)
{
    json_t *j = NULL;
    const char *bad = NULL;
    if (req->json)
        j = json_incref(req->json);
    else
        SP_TRY(sp_params_parse(&j, req->body, req->n_body, &e->diag));
    sp_err err = a->codec->read(a->state, q, a->app, a->on, j, &bad, &e->diag);
    if (err != SP_OK)
        snprintf(e->param, sizeof e->param, "%.60s", bad ? bad : "");
    json_decref(j);
    return err;
}

static sp_err open_turn(answer *a, const sp_api_req *req, const char *tenant, sp_turn_error *e)
{
    sp_ask *q = sp_ask_new(tenant);
    if (!q)
        return SP_FAIL(&e->diag, SP_NOMEM, "request");
    a->created = sp_clock_wall();
    a->wall_ns = sp_clock_wall_ns();
    sp_trace_start(&a->trace, req->traceparent);
    sp_trace_header(q->traceparent, &a->trace);
    sp_ask_name(q, a->codec->id_prefix);
    sp_hints_apply(q, &req->hints);
    sp_err err = read_body(a, q, req, e);
    if (err == SP_OK)
        return sp_turn_open(&a->turn, &a->on->env, q, e);
    sp_ask_free(q);
    return err;
}

static answer *answer_new(const sp_api_place *at, const sp_codec *codec, sp_work *work)
{
    answer *a = sp_mem_alloc(sizeof *a);
    void *state = sp_mem_alloc(codec->state_bytes + 1);
    if (!a || !state) {
        sp_mem_free(a);
        sp_mem_free(state);
        return NULL;
    }
    sp_models_use_again(at->app->models, at->on);
    *a = (answer){.app = at->app, .on = at->on, .codec = codec, .work = work, .state = state};
    return a;
}

/* Is the message being answered already? Then this request reads along. false: no, or it cannot. */
static bool join_live(answer *a, const sp_api_place *at, sp_work *work, sp_http_reply *reply,
                      sp_http_task *task)
{
    const sp_ask *q = sp_turn_ask(a->turn);
    sp_stream *s = q->stream ? sp_stream_find(at->app->streams, q) : NULL;
    bool joined =
        s && sp_stream_attach(task, s, at->stream && at->stream[0] ? NULL : sp_stream_id(s), work,
                              NULL) == SP_OK;
    for (size_t i = 0; i < reply->n_header && joined; i++)
        if (strcmp(reply->header[i].name, "X-Sparing-Stream-Id") == 0)
            snprintf(reply->header[i].value, sizeof reply->header[i].value, "%s", sp_stream_id(s));
    sp_stream_put(s);
    return joined;
}

/* The turn starts, for the request alone or for a stream that outlives it. */
static sp_err start_turn(answer *a, const sp_api_place *at, const sp_api_req *req,
                         sp_http_task *task, sp_turn_error *e)
{
    sp_stream *s;
    sp_turn_run run;
    if (!req->hints.keep) {
        SP_TRY(sp_turn_start(a->turn, &(sp_turn_run){sp_work_wake, defer, req->work}, e));
        *task = (sp_http_task){a, task_start, task_pull, task_close};
        return SP_OK;
    }
    snprintf(e->param, sizeof e->param, "stream");
    if (!sp_turn_ask(a->turn)->stream)
        return SP_FAIL(&e->diag, SP_INVAL,
                       "x-sparing-stream: keep is for streams: stream is not true");
    SP_TRY(sp_stream_open(&s, at->app->streams, at->stream, sp_turn_ask(a->turn), &run, &e->diag));
    sp_err err = sp_stream_attach(task, s, NULL, req->work, &e->diag);
    if (err == SP_OK)
        err = sp_turn_start(a->turn, &run, e);
    if (err != SP_OK) {
        if (task->arg)
            task->close(task->arg);
        *task = (sp_http_task){0};
        sp_stream_drop(s);
        return err;
    }
    a->counted = true;
    sp_stream_go(s, &(sp_stream_source){a, a->turn, pull_kept, task_close});
    sp_stream_put(s);
    return SP_OK;
}

void sp_api_answer(const sp_api_place *at, const sp_codec *codec, const sp_api_req *req,
                   const char *tenant, sp_http_reply *reply, sp_http_task *task)
{
    sp_turn_error e = {0};
    answer *a = answer_new(at, codec, req->work);
    sp_err err = a ? open_turn(a, req, tenant, &e) : SP_FAIL(&e.diag, SP_NOMEM, "request");
    if (err == SP_OK && join_live(a, at, req->work, reply, task)) {
        task_close(a);
        return;
    }
    if (err == SP_OK && sp_running_add(at->app->running, a->turn) != SP_OK)
        err = SP_FAIL(&e.diag, SP_NOMEM, "request");
    bool kept = req->hints.keep;
    if (err == SP_OK)
        err = start_turn(a, at, req, task, &e);
    if (err == SP_OK && kept)
        return; /* the answer is the stream's */
    if (err == SP_OK) {
        a->counted = true;
        return;
    }
    sp_api_fail(reply, at->app, at->on, codec, &e);
    if (a)
        send_refusal(a->app, codec, &a->trace, a->wall_ns, a->on->env.name, reply->status, &e);
    if (a)
        task_close(a);
}

static void put_plan(sp_buf *out, const sp_turn *t)
{
    const sp_turn_env *env = sp_turn_env_of(t);
    const sp_plan *p = sp_turn_plan(t);
    sp_buf_printf(out, "{\"object\":\"plan\",\"path\":\"%s\",\"why\":\"%s\",",
                  sp_path_name(p->path), p->why);
    if (p->judged)
        sp_buf_printf(out, "\"class\":\"%s\",\"sure\":%.4f,\"difficulty\":%.4f,\"need\":%.4f,",
                      sp_class_name(p->cls), p->sure, p->difficulty, p->need);
    sp_buf_printf(out, "\"retrieve\":%s,\"max_tokens\":%zu,\"votes\":%zu,\"draft\":%zu,",
                  p->retrieve ? "true" : "false", p->max_tok, p->votes, p->draft);
    if (env->think_open != env->think_close)
        sp_buf_printf(out, "\"think_tokens\":%zu,", p->think_tok);
    if (p->watch_tok)
        sp_buf_printf(out, "\"escalates\":{\"after_tokens\":%zu,\"below_logprob\":%.3f},",
                      p->watch_tok, p->watch_least);
    sp_receipt r;
    sp_turn_receipt(&r, t);
    sp_receipt_write_place(&r.place, out);
    sp_buf_printf(out, "\"private\":%s,\"backlog_s\":%.3f,\"ms\":%.4f,\"intent_model\":",
                  sp_turn_ask(t)->plan.is_private ? "true" : "false",
                  sp_engine_backlog(env->engine), p->ms);
    sp_buf_json_str(out, env->intent->origin, env->intent->n_origin);
    sp_buf_putc(out, '}');
}

void sp_api_plan(const sp_api_place *at, const sp_codec *codec, const sp_api_req *req,
                 const char *tenant, sp_http_reply *reply)
{
    sp_turn_error e = {0};
    answer *a = answer_new(at, codec, req->work);
    sp_err err = a ? open_turn(a, req, tenant, &e) : SP_FAIL(&e.diag, SP_NOMEM, "request");
    if (err == SP_OK) {
        reply->status = 200;
        reply->type = "application/json";
        put_plan(&reply->body, a->turn);
    } else {
        sp_api_fail(reply, at->app, at->on, codec, &e);
    }
    if (a)
        task_close(a);
}

void sp_api_prompt(const sp_api_place *at, const sp_codec *codec, const sp_api_req *req,
                   const char *tenant, sp_api_render_kind kind, sp_http_reply *reply)
{
    sp_turn_error e = {0};
    sp_buf out = {0};
    answer *a = answer_new(at, codec, req->work);
    sp_err err = a ? open_turn(a, req, tenant, &e) : SP_FAIL(&e.diag, SP_NOMEM, "request");
    if (err == SP_OK)
        err = sp_api_render(&out, a->turn, kind, &e);
    if (err == SP_OK) {
        reply->status = 200;
        reply->type = "application/json";
        sp_buf_put(&reply->body, out.p, out.len);
    } else {
        sp_api_fail(reply, at->app, at->on, codec, &e);
    }
    sp_buf_fini(&out);
    if (a)
        task_close(a);
}

bool sp_api_count(size_t *out, const sp_api_place *at, const sp_codec *codec, const sp_api_req *req,
                  const char *tenant, sp_http_reply *reply)
{
    sp_turn_error e = {0};
    answer *a = answer_new(at, codec, req->work);
    sp_err err = a ? open_turn(a, req, tenant, &e) : SP_FAIL(&e.diag, SP_NOMEM, "request");
    if (err == SP_OK)
        err = sp_turn_count(out, a->turn, &e);
    if (err != SP_OK)
        sp_api_fail(reply, at->app, at->on, codec, &e);
    if (a)
        task_close(a);
    return err == SP_OK;
}

const char *sp_api_error_code(const sp_turn_error *e)
{
    return e->why == SP_WHY_TOO_LONG     ? "context_length_exceeded"
           : e->why == SP_WHY_NO_MODEL   ? "model_not_found"
           : e->why == SP_WHY_NOT_LOADED ? "model_not_loaded"
           : e->why == SP_WHY_UNKNOWN    ? "prefix_not_cached"
           : e->why == SP_WHY_NO_PARENT  ? "parent_not_found"
           : e->why == SP_WHY_REPEATED   ? "answer_in_progress"
                                         : NULL;
}

int sp_api_error_status(const sp_turn_error *e)
{
    return e->why == SP_WHY_NO_PARENT || e->why == SP_WHY_REPEATED ? 409
           : e->why == SP_WHY_UNKNOWN                              ? 412
                                                                   : sp_api_status(e->diag.code);
}
