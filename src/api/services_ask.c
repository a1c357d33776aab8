#include "api/services_ask.h"

#include "api/seek.h"
#include "base/clock.h"

#include <stdio.h>
#include <string.h>

static void ring(void *arg)
{
    const sp_service_model *m = arg;
    sp_grpc_wake(m->s->g, m->call);
}

static sp_err bring(sp_service_model *m, sp_models *models, const char *name, sp_turn_error *e)
{
    double wait_s = sp_models_config(models)->wait_s;
    if (!m->end_ns)
        m->end_ns = sp_clock_ns() + (uint64_t)(wait_s * 1e9);
    e->why = SP_WHY_NOT_LOADED;
    if (sp_clock_ns() >= m->end_ns)
        return SP_FAIL(&e->diag, SP_TIMEOUT, "the model %.80s was not in memory after %.0f s", name,
                       wait_s);
    m->op = sp_models_op_new(models, name, false);
    if (!m->op)
        return SP_FAIL(&e->diag, SP_NOMEM, "request");
    m->op->end_ns = m->end_ns;
    SP_TRY(sp_op_submit(&m->op->op, ring, m, &e->diag));
    e->why = SP_WHY_OTHER;
    return SP_AGAIN;
}

sp_err sp_service_model_find(sp_service_model *m, sp_services *s, const char *asked, uint64_t call,
                             sp_turn_error *e)
{
    sp_models *models = s->app->models;
    const char *name = sp_models_find(models, asked[0] ? asked : NULL);
    m->s = s;
    m->call = call;
    if (!name)
        return sp_api_no_model(s->app, asked[0] ? asked : NULL, e);
    if (sp_models_use(&m->on, models, name) == SP_OK)
        return SP_OK;
    if (m->op && m->op->op.diag.code) {
        e->diag = m->op->op.diag;
        e->why = SP_WHY_NOT_LOADED;
        return e->diag.code;
    }
    sp_op_put((sp_op *)m->op);
    m->op = NULL;
    return bring(m, models, name, e);
}

bool sp_service_model_is_due(const sp_service_model *m)
{
    return m->op && sp_op_is_done(&m->op->op);
}

void sp_service_model_fini(sp_service_model *m, sp_services *s)
{
    sp_op_put((sp_op *)m->op);
    sp_models_done(s->app->models, m->on);
}

sp_err sp_service_salt(sp_ask *q, const char *salt, sp_diag *d)
{
    if (strlen(salt) >= sizeof q->session->salt)
        return SP_FAIL(d, SP_INVAL, "cache_salt has more than %zu bytes",
                       sizeof q->session->salt - 1);
    snprintf(q->session->salt, sizeof q->session->salt, "%s", salt);
    return SP_OK;
}

static sp_err take_messages(sp_ask *q, const Sparing__V1__Prompt *p, sp_diag *d)
{
    static const char *const roles[] = {"system", "developer", "user", "assistant", "tool"};
    sp_chat_msg *msg = sp_arena_alloc(&q->a, p->n_messages * sizeof *msg);
    if (!msg)
        return SP_FAIL(d, SP_NOMEM, "request");
    for (size_t i = 0; i < p->n_messages; i++) {
        const Sparing__V1__Message *m = p->messages[i];
        size_t k = 0;
        while (k < sizeof roles / sizeof roles[0] && strcmp(roles[k], m->role) != 0)
            k++;
        if (k == sizeof roles / sizeof roles[0])
            return SP_FAIL(d, SP_INVAL,
                           "messages[%zu].role is none of system, developer, user, assistant, tool",
                           i);
        msg[i] = sp_chat_say(roles[k], m->content, strlen(m->content));
    }
    q->chat = true;
    q->n_msg = p->n_messages;
    return sp_ask_copy(&q->msg, &q->a, msg, p->n_messages) == SP_OK
               ? SP_OK
               : SP_FAIL(d, SP_NOMEM, "request");
}

static sp_err take_ids(sp_ask_prompt *out, sp_ask *q, const Sparing__V1__Prompt *p,
                       const sp_served *on, sp_diag *d)
{
    size_t n = p->n_token_ids, n_vocab = sp_tok_count(on->env.tok);
    uint32_t *id = sp_arena_alloc(&q->a, n * sizeof *id);
    if (!id)
        return SP_FAIL(d, SP_NOMEM, "request");
    for (size_t i = 0; i < n; i++) {
        id[i] = p->token_ids[i];
        if (id[i] >= n_vocab)
            return SP_FAIL(d, SP_INVAL, "token_ids[%zu] is not a token id from 0 to %zu", i,
                           n_vocab - 1);
    }
    *out = (sp_ask_prompt){.id = id, .n_id = n};
    return SP_OK;
}

sp_err sp_service_prompt(sp_ask *q, const Sparing__V1__Prompt *p, const sp_served *on, sp_diag *d)
{
    size_t n_form =
        p ? (size_t)(p->n_messages > 0) + (size_t)(p->text[0] != 0) + (size_t)(p->n_token_ids > 0)
          : 0;
    if (n_form != 1)
        return SP_FAIL(d, SP_INVAL,
                       "prompt must have messages, or text, or token_ids, and one of them only");
    if (p->n_messages)
        return take_messages(q, p, d);
    q->chat = false;
    q->n_prompt = 1;
    q->prompt = sp_arena_alloc(&q->a, sizeof *q->prompt);
    if (!q->prompt)
        return SP_FAIL(d, SP_NOMEM, "request");
    if (p->n_token_ids)
        return take_ids(q->prompt, q, p, on, d);
    size_t n = strlen(p->text);
    *q->prompt = (sp_ask_prompt){.text = {sp_arena_strndup(&q->a, p->text, n), n}};
    return q->prompt->text.p ? SP_OK : SP_FAIL(d, SP_NOMEM, "request");
}
