/* Reasoning over gRPC: what is to be done with a request, and its prompt computed. The answer is a
 * ticket to the prompt's pages. ReasonAhead gives the ticket before they are computed. */
#include "api/services_turn.h"

#include "kv/seq.h"

#include <stdio.h>
#include <string.h>

static sp_err fill(sp_ask *q, const sp_service_turn *t, const Sparing__V1__ReasonRequest *m,
                   sp_diag *d)
{
    q->plan.is_private = m->private_;
    q->deadline_ms = sp_service_turn_left_ms(t);
    SP_TRY(sp_service_salt(q, m->cache_salt, d));
    return sp_service_prompt(q, m->prompt, t->model.on, d);
}

static sp_err new_ask(sp_ask **out, const sp_service_turn *t, sp_diag *d)
{
    sp_ask *q = sp_ask_new(t->who);
    if (!q)
        return SP_FAIL(d, SP_NOMEM, "request");
    sp_ask_name(q, "reason");
    sp_err err = fill(q, t, (const Sparing__V1__ReasonRequest *)t->asked, d);
    if (err == SP_OK)
        *out = q;
    else
        sp_ask_free(q);
    return err;
}

/* What intent says of the request, and its prompt as the model reads it. */
static sp_err judge(sp_service_turn *t)
{
    sp_ask *q;
    sp_turn *turn;
    SP_TRY(new_ask(&q, t, &t->e.diag));
    SP_TRY(sp_turn_open(&turn, &t->model.on->env, q, &t->e));
    t->plan = *sp_turn_plan(turn);
    sp_err err = sp_turn_prompt(turn, &t->ids, 0, &t->e);
    sp_turn_free(turn);
    return err;
}

static sp_err name_pages(sp_service_turn *t)
{
    const Sparing__V1__ReasonRequest *m = (const Sparing__V1__ReasonRequest *)t->asked;
    const sp_kv_pool *pool = sp_engine_config(t->model.on->env.engine)->pool;
    if (t->ids.n) /* an answer computes the prompt's last token itself */
        t->n_page = (t->ids.n - 1) / SP_PAGE_TOK;
    t->page = sp_mem_array(t->n_page + 1, sizeof *t->page);
    if (!t->page)
        return SP_FAIL(&t->e.diag, SP_NOMEM, "request");
    return sp_kv_seq_names(t->page, pool, t->who, m->cache_salt[0] ? m->cache_salt : NULL,
                           t->ids.id, t->n_page * SP_PAGE_TOK);
}

/* The pages of the ticket are computed exactly, and nothing behind them: what the last page lacks
 * is computed with the answer, and here nobody could take it. Of a prompt that fills no page, all
 * of it. */
static sp_err begin(sp_service_turn *t)
{
    sp_ask *q;
    SP_TRY(judge(t));
    SP_TRY(name_pages(t));
    SP_TRY(new_ask(&q, t, &t->e.diag));
    q->chat = false;
    q->n_prompt = 1;
    q->prompt = sp_arena_alloc(&q->a, sizeof *q->prompt);
    uint32_t *id = sp_arena_alloc(&q->a, (t->ids.n + 1) * sizeof *id);
    if (!q->prompt || !id) {
        sp_ask_free(q);
        return SP_FAIL(&t->e.diag, SP_NOMEM, "request");
    }
    memcpy(id, t->ids.id, t->ids.n * sizeof *id);
    *q->prompt = (sp_ask_prompt){.id = id,
                                 .n_id = t->n_page ? t->n_page * SP_PAGE_TOK : t->ids.n};
    q->session->beginning = true;
    q->epsilon = 0;
    SP_TRY(sp_turn_open(&t->turn, &t->model.on->env, q, &t->e));
    return sp_service_turn_start(t);
}

/* --- on the gRPC thread ----------------------------------------------------------------------- */

/* before: the prompt is still being computed. */
static void send_reasons(sp_service_turn *t, ProtobufCBinaryData *page, bool before)
{
    Sparing__V1__ReasonResponse out = SPARING__V1__REASON_RESPONSE__INIT;
    Sparing__V1__Ticket ticket = SPARING__V1__TICKET__INIT;
    sp_sha256 id = t->model.on->id;
    sp_receipt receipt;
    sp_buf text = {0};
    for (size_t i = 0; i < t->n_page; i++)
        page[i] = (ProtobufCBinaryData){sizeof t->page[i].b, t->page[i].b};
    ticket.server = (char *)(uintptr_t)t->s->name;
    ticket.model = (char *)(uintptr_t)t->model.on->env.name;
    ticket.model_id = (ProtobufCBinaryData){sizeof id.b, id.b};
    ticket.n_tokens = (uint32_t)(t->n_page * SP_PAGE_TOK);
    ticket.n_page = t->n_page;
    ticket.page = page;
    ticket.ahead = before;
    out.ticket = &ticket;
    out.n_token_ids = t->ids.n;
    out.token_ids = t->ids.id;
    out.path = (char *)(uintptr_t)sp_path_name(t->plan.path);
    out.why = (char *)(uintptr_t)t->plan.why;
    out.max_tokens = (uint32_t)t->plan.max_tok;
    out.difficulty = t->plan.judged ? t->plan.difficulty : 0;
    out.need = t->plan.judged ? t->plan.need : 0;
    if (!before) {
        sp_turn_receipt(&receipt, t->turn);
        sp_receipt_write(&receipt, &text);
    }
    out.receipt = (char *)(uintptr_t)sp_buf_str(&text);
    sp_service_send(t->c, &out.base);
    sp_buf_fini(&text);
}

static void tell(sp_service_turn *t, bool before)
{
    ProtobufCBinaryData *page = sp_mem_array(t->n_page + 1, sizeof *page);
    if (page)
        send_reasons(t, page, before);
    else
        sp_grpc_finish(t->c, SP_GRPC_RESOURCE_EXHAUSTED, "no memory for the answer", 1000);
    sp_mem_free(page);
}

static void give(sp_service_turn *t)
{
    sp_turn_event ev;
    while (sp_turn_next(t->turn, &ev) == SP_OK) {
        if (ev.kind == SP_TURN_ERROR) {
            sp_service_fail(t->c, t->s, t->model.on->env.engine, ev.error);
            return;
        }
        if (ev.kind != SP_TURN_END)
            continue;
        tell(t, false);
        sp_grpc_finish(t->c, SP_GRPC_OK, NULL, 0);
        return;
    }
}

static void give_ahead(sp_service_turn *t)
{
    if (!t->ahead) {
        t->ahead = true;
        t->next_ahead = t->s->ahead;
        t->s->ahead = t;
        tell(t, true);
    }
    give(t);
}

sp_service_turn *sp_service_turn_ahead(const sp_services *s, const char *who,
                                       const sp_sha256 *name, size_t at)
{
    sp_service_turn *t = s->ahead;
    while (t && !(at < t->n_page && strcmp(t->who, who) == 0 &&
                  memcmp(&t->page[at], name, sizeof *name) == 0))
        t = t->next_ahead;
    return t;
}

void sp_service_turn_end_ahead(sp_service_turn *t)
{
    sp_service_turn **at = &t->s->ahead;
    if (!t->ahead)
        return;
    while (*at != t)
        at = &(*at)->next_ahead;
    *at = t->next_ahead;
    t->ahead = false;
    if (t->follower)
        sp_grpc_wake(t->s->g, t->follower);
}

static const char *model_of(const ProtobufCMessage *m)
{
    return ((const Sparing__V1__ReasonRequest *)m)->model;
}

void sp_service_reason(void *app, sp_grpc_call *c, const uint8_t *p, size_t n)
{
    static const sp_service_kind kind = {&sparing__v1__reason_request__descriptor, model_of, NULL,
                                         begin, give};
    sp_service_turn_new(app, c, &kind, p, n);
}

void sp_service_reason_ahead(void *app, sp_grpc_call *c, const uint8_t *p, size_t n)
{
    static const sp_service_kind kind = {&sparing__v1__reason_request__descriptor, model_of, NULL,
                                         begin, give_ahead};
    sp_service_turn_new(app, c, &kind, p, n);
}
