#include "cmd/trial.h"

#include "api/asset.h"
#include "base/clock.h"
#include "base/file.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WAIT_NS = 100000000, CHUNK = 256 };
/* who may guess, where there is one */
#define DRAFTERS (1u << SP_DRAFT_LOOKUP | 1u << SP_DRAFT_HEAD)

sp_err sp_cmd_plan(sp_plan_cfg *p, const sp_opts *o, sp_diag *d)
{
    if (sp_want_read(&p->want, sp_opt_str(o, "path")) != SP_OK)
        return SP_FAIL(d, SP_INVAL, "path: '%.20s' is none of auto, light, full, upstream",
                       sp_opt_str(o, "path"));
    p->full_from = sp_opt_num(o, "full-from");
    p->need_from = sp_opt_num(o, "need-from");
    p->watch_least = sp_opt_num(o, "escalate-below");
    p->draft = (size_t)sp_opt_int(o, "draft");
    p->light_tok = (size_t)sp_opt_int(o, "light-tokens");
    p->think_tok = (size_t)sp_opt_int(o, "think-tokens");
    return SP_OK;
}

sp_err sp_cmd_intent(sp_intent_model *out, sp_buf *file, const sp_opts *o, sp_diag *d)
{
    const char *path = sp_opt_str(o, "intent-model");
    if (path) {
        SP_TRY(sp_file_read(file, path, SP_INTENT_BYTES, d));
        return sp_intent_open(out, sp_buf_str(file), file->len, d);
    }
    const sp_asset *built_in = sp_asset_named("intent.model");
    return built_in ? sp_intent_open(out, built_in->p, built_in->n, d)
                    : SP_FAIL(d, SP_NOTFOUND, "no intent model is built in");
}

sp_err sp_cmd_engine(sp_engine **out, sp_metrics **metrics, sp_cmd_drafter *drafters,
                     const sp_loaded *l, const char *head, sp_engine_learned *learned, sp_diag *d)
{
    if (!*metrics && sp_metrics_new(metrics) != SP_OK)
        return SP_FAIL(d, SP_NOMEM, "metrics");
    sp_engine_cfg cfg = {.model = l->model,
                         .tok = l->tok,
                         .pool = l->pool,
                         .metrics = *metrics,
                         .n_ctx = l->n_ctx,
                         .max_run = 1,
                         .max_queue = 1,
                         .chunk_tok = CHUNK,
                         .learned = learned};
    SP_TRY(sp_cmd_open_head(drafters, l, 1, head, d));
    cfg.n_draft = sp_cmd_drafters(cfg.draft, drafters);
    return sp_engine_new(out, &cfg, d);
}

sp_err sp_documents_open(sp_documents *out, const char *path, size_t chunk_tok, sp_dev *dev,
                         sp_metrics *m, const sp_opts *o, sp_diag *d)
{
    SP_TRY(sp_cmd_encoder(&out->encoder, dev, o, d));
    const sp_engine_cfg texts = {.encoder = out->encoder,
                                 .metrics = m,
                                 .max_run = 1,
                                 .chunk_tok = CHUNK,
                                 .max_queue = 16};
    SP_TRY(sp_engine_new(&out->texts, &texts, d));
    const sp_know_cfg cfg = {.path = path,
                             .hnsw_from = (size_t)sp_opt_int(o, "hnsw-from"),
                             .engine = out->texts,
                             .vocab = sp_encoder_vocab(out->encoder),
                             .kern = sp_dev_host_kern(dev),
                             .chunk_tok = chunk_tok,
                             .metrics = m};
    return sp_know_open(&out->know, &cfg, d);
}

void sp_documents_close(sp_documents *docs)
{
    sp_know_close(docs->know);
    sp_engine_free(docs->texts);
    sp_encoder_close(docs->encoder);
    *docs = (sp_documents){0};
}

static sp_err open_knowledge(sp_trial *t, const sp_opts *o, sp_diag *d)
{
    const char *path = sp_opt_str(o, "knowledge"), *retrieve = sp_opt_str(o, "retrieve");
    if (!path)
        return retrieve
                   ? SP_FAIL(d, SP_INVAL, "--retrieve looks into documents: it needs --knowledge")
                   : SP_OK;
    size_t chunk_tok = (size_t)sp_opt_int(o, "chunk-tokens");
    SP_TRY(sp_documents_open(&t->docs, path, chunk_tok, t->l.dev, t->metrics, o, d));
    t->env.know = t->docs.know;
    t->env.retrieve = retrieve;
    return SP_OK;
}

sp_err sp_trial_open(sp_trial *t, const sp_opts *o, bool whole, sp_diag *d)
{
    SP_TRY(sp_cmd_load(&t->l, o, NULL, d));
    SP_TRY(sp_cmd_engine(&t->engine, &t->metrics, &t->drafters, &t->l, sp_opt_str(o, "draft-head"),
                         &t->learned, d));
    t->env =
        (sp_turn_env){.name = t->l.name, .engine = t->engine, .tok = t->l.tok, .chat = t->l.chat};
    t->env.plan.drafters = DRAFTERS;
    if (!whole)
        return SP_OK;
    SP_TRY(sp_cmd_plan(&t->env.plan, o, d));
    SP_TRY(sp_cmd_prices_open(&t->prices, &t->env, o, t->l.name, false, d));
    SP_TRY(sp_cmd_intent(&t->intent, &t->intent_file, o, d));
    t->env.intent = &t->intent;
    return open_knowledge(t, o, d);
}

void sp_trial_pause(sp_trial *t)
{
    sp_engine_free(t->engine);
    t->env.engine = t->engine = NULL;
    sp_cmd_close_drafters(&t->drafters);
}

sp_err sp_trial_resume(sp_trial *t, const char *head, sp_engine_learned *learned, sp_diag *d)
{
    sp_trial_pause(t);
    SP_TRY(sp_cmd_engine(&t->engine, &t->metrics, &t->drafters, &t->l, head, learned, d));
    t->env.engine = t->engine;
    return SP_OK;
}

void sp_trial_close(sp_trial *t)
{
    sp_documents_close(&t->docs);
    sp_engine_free(t->engine);
    sp_cmd_close_drafters(&t->drafters);
    sp_metrics_free(t->metrics);
    sp_cmd_prices_close(&t->prices);
    sp_buf_fini(&t->intent_file);
    sp_cmd_unload(&t->l);
}

sp_err sp_trial_answer(sp_turn **out, const sp_trial *t, sp_ask *q, sp_trial_fn fn, void *arg,
                       sp_diag *d)
{
    sp_turn *turn = NULL;
    sp_turn_error e = {0};
    sp_turn_event ev = {0};
    sp_err err = sp_turn_open(&turn, &t->env, q, &e);
    if (err == SP_OK)
        err = sp_turn_start(turn, &(sp_turn_run){0}, &e);
    while (err == SP_OK && ev.kind != SP_TURN_END && ev.kind != SP_TURN_ERROR) {
        bool waits = sp_turn_next(turn, &ev) == SP_AGAIN;
        if (waits) {
            sp_turn_wait(turn, WAIT_NS);
            ev = (sp_turn_event){0};
        }
        if (fn)
            fn(arg, turn, waits ? NULL : &ev);
    }
    if (ev.kind == SP_TURN_ERROR)
        e = *ev.error;
    if (e.diag.code == SP_OK) {
        *out = turn;
        return SP_OK;
    }
    sp_turn_free(turn);
    *d = e.diag;
    return d->code;
}

/* A message of the file: {"role", "content"}, both texts. */
static sp_err add_message(sp_ask *q, const json_t *m)
{
    const char *role = json_string_value(json_object_get(m, "role")),
               *text = json_string_value(json_object_get(m, "content"));
    if (!role || !text)
        return SP_FORMAT;
    q->msg[q->n_msg++] = sp_chat_say(role, text, strlen(text));
    return SP_OK;
}

static sp_err fill(sp_ask *q, const sp_trial *t, const json_t *line, size_t max_tok)
{
    const json_t *list = json_object_get(line, "messages"),
                 *prompt = json_object_get(line, "prompt");
    size_t n = json_array_size(list), i;
    json_t *m;
    q->plan.cap_tok = max_tok; /* a path may allow fewer */
    q->seed = 1;
    /* a salt of its own: who answers second must not find the prompt known by the first one */
    snprintf(q->session->salt, sizeof q->session->salt, "%llx", (unsigned long long)sp_clock_ns());
    q->chat = t->l.chat && !(prompt && !t->l.chat);
    q->look = t->env.retrieve != NULL;
    /* and two more, as sp_ask_copy leaves room */
    q->msg = sp_arena_alloc(&q->a, (n + 2) * sizeof *q->msg);
    q->prompt = sp_arena_alloc(&q->a, sizeof *q->prompt);
    if (!q->msg || !q->prompt)
        return SP_NOMEM;
    json_array_foreach(list, i, m) SP_TRY(add_message(q, m));
    if (json_is_string(prompt)) {
        q->n_prompt = 1;
        q->prompt->text = (sp_str){json_string_value(prompt), json_string_length(prompt)};
        if (q->chat && !n)
            q->msg[q->n_msg++] = sp_chat_say("user", q->prompt->text.p, q->prompt->text.n);
    }
    return q->n_msg || q->n_prompt ? SP_OK : SP_FORMAT;
}

sp_err sp_trial_ask(sp_ask **out, const sp_trial *t, const struct json_t *line, size_t max_tok,
                    sp_diag *d)
{
    sp_ask *q = sp_ask_new("local");
    sp_err err = q ? fill(q, t, line, max_tok) : SP_NOMEM;
    if (err == SP_OK) {
        *out = q;
        return SP_OK;
    }
    sp_ask_free(q);
    return SP_FAIL(d, err,
                   err == SP_NOMEM ? "request"
                                   : "it has neither messages of role and content nor a prompt");
}
