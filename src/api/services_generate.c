/* Generation over gRPC: a request becomes a turn, its events become messages. */
#include "api/services_turn.h"

#include "api/codec.h"

#include <stdio.h>
#include <string.h>

static sp_err read_ask(sp_ask *q, const sp_service_turn *g, const Sparing__V1__GenerateRequest *m,
                       sp_diag *d)
{
    sp_session_cfg *s = q->session;
    s->sample.temperature = m->temperature;
    s->sample.top_p = m->top_p > 0 ? sp_api_top_p((double)m->top_p) : 1;
    s->sample.top_k = m->top_k;
    s->sample.min_p = m->min_p;
    if (!(m->temperature >= 0 && m->temperature <= 2) || !(m->top_p >= 0 && m->top_p <= 1) ||
        !(m->min_p >= 0 && m->min_p <= 1))
        return SP_FAIL(d, SP_INVAL, "temperature is from 0 to 2, top_p and min_p from 0 to 1");
    if (m->priority < -3 || m->priority > 3)
        return SP_FAIL(d, SP_INVAL, "priority is from -3 to 3");
    if (m->n_stop > SP_STOP_MAX)
        return SP_FAIL(d, SP_INVAL, "stop has more than %d texts", SP_STOP_MAX);
    for (size_t i = 0; i < m->n_stop; i++) {
        if (!m->stop[i][0] || strlen(m->stop[i]) >= SP_STOP_BYTES)
            return SP_FAIL(d, SP_INVAL, "stop[%zu] must be a text of 1 to %d bytes", i,
                           SP_STOP_BYTES - 1);
        snprintf(s->stop[s->n_stop++], SP_STOP_BYTES, "%s", m->stop[i]);
    }
    s->ignore_end = m->ignore_end;
    q->seed = m->seed ? (int64_t)(m->seed & INT64_MAX) : -1;
    q->priority = m->priority;
    q->stream = true;
    q->plan.max_tok = m->max_tokens;
    q->plan.is_private = m->private_;
    q->plan.bare = q->plan.plain =
        q->chat && !m->cache_salt[0] && !m->ignore_end && m->min_p == 0 && m->top_k == 0;
    q->deadline_ms = sp_service_turn_left_ms(g);
    SP_TRY(sp_service_salt(q, m->cache_salt, d));
    return sp_service_prompt(q, m->prompt, g->model.on, d);
}

static sp_err begin(sp_service_turn *g)
{
    sp_ask *q = sp_ask_new(g->who);
    if (!q)
        return SP_FAIL(&g->e.diag, SP_NOMEM, "request");
    sp_ask_name(q, "gen");
    sp_err err = read_ask(q, g, (const Sparing__V1__GenerateRequest *)g->asked, &g->e.diag);
    if (err != SP_OK) {
        sp_ask_free(q);
        return err;
    }
    SP_TRY(sp_turn_open(&g->turn, &g->model.on->env, q, &g->e));
    return sp_service_turn_start(g);
}

/* --- on the gRPC thread ----------------------------------------------------------------------- */

static void send_text(sp_service_turn *g, const sp_turn_event *ev)
{
    Sparing__V1__GenerateEvent m = SPARING__V1__GENERATE_EVENT__INIT;
    char *text = sp_mem_alloc(ev->text.n + 1);
    if (!text) {
        sp_grpc_finish(g->c, SP_GRPC_RESOURCE_EXHAUSTED, "no memory for the answer", 1000);
        return;
    }
    memcpy(text, ev->text.p, ev->text.n);
    bool thinks = ev->kind == SP_TURN_REASONING;
    m.event_case = thinks ? SPARING__V1__GENERATE_EVENT__EVENT_REASONING
                          : SPARING__V1__GENERATE_EVENT__EVENT_TEXT;
    if (thinks)
        m.reasoning = text;
    else
        m.text = text;
    sp_service_send(g->c, &m.base);
    sp_mem_free(text);
}

static const char *finish_name(sp_finish f)
{
    return f == SP_FINISH_LENGTH   ? "length"
           : f == SP_FINISH_CALLS  ? "tool_calls"
           : f == SP_FINISH_FILTER ? "content_filter"
                                   : "stop";
}

static void send_end(sp_service_turn *g)
{
    Sparing__V1__GenerateEvent m = SPARING__V1__GENERATE_EVENT__INIT;
    Sparing__V1__Finish f = SPARING__V1__FINISH__INIT;
    const sp_turn_usage used = sp_turn_used(g->turn);
    sp_receipt receipt;
    sp_buf text = {0};
    sp_turn_receipt(&receipt, g->turn);
    receipt.handed = g->handed;
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

static void give_events(sp_service_turn *g)
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

static const char *model_of(const ProtobufCMessage *m)
{
    return ((const Sparing__V1__GenerateRequest *)m)->model;
}

static const Sparing__V1__Ticket *ticket_of(const ProtobufCMessage *m)
{
    return ((const Sparing__V1__GenerateRequest *)m)->ticket;
}

void sp_service_generate(void *app, sp_grpc_call *c, const uint8_t *p, size_t n)
{
    static const sp_service_kind kind = {&sparing__v1__generate_request__descriptor, model_of,
                                         ticket_of, begin, give_events};
    sp_service_turn_new(app, c, &kind, p, n);
}
