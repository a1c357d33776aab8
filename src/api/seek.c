#include "api/seek.h"

#include "api/params.h"
#include "base/clock.h"
#include "base/mem.h"
#include "pipe/experiment.h"

#include <stdio.h>
#include <string.h>

sp_err sp_api_no_model(const sp_app *app, const char *asked, sp_turn_error *e)
{
    char names[120];
    sp_models_names(app->models, names, sizeof names);
    snprintf(e->param, sizeof e->param, "model");
    if (!asked)
        return SP_FAIL(&e->diag, SP_INVAL, "model is missing; this server has %s", names);
    e->why = SP_WHY_NO_MODEL;
    return SP_FAIL(&e->diag, SP_NOTFOUND,
                   "model '%.60s' not found: it does not exist here; this server has %s", asked,
                   names);
}

/* How a failed load is told: what is wrong with a file is not the request's fault. */
static sp_err tell_failure(const sp_models_op *op, sp_turn_error *e)
{
    e->diag = op->op.diag;
    e->why = SP_WHY_NOT_LOADED;
    snprintf(e->param, sizeof e->param, "model");
    if (e->diag.code != SP_CANCEL && e->diag.code != SP_TIMEOUT && e->diag.code != SP_NOMEM)
        e->diag.code = SP_IO;
    if (op->why[0])
        snprintf(e->diag.msg, sizeof e->diag.msg, "%.199s", op->why);
    return e->diag.code;
}

static sp_err wait_for(sp_api_seek *s, const char *name, bool leave, const sp_api_req *req,
                       const sp_park *park, sp_turn_error *e)
{
    sp_park p = *park;
    if (!s->end_ns)
        s->end_ns = sp_clock_ns() + (uint64_t)(sp_models_config(s->models)->wait_s * 1e9);
    if (sp_clock_ns() >= s->end_ns) {
        e->why = SP_WHY_NOT_LOADED;
        return SP_FAIL(&e->diag, SP_TIMEOUT,
                       leave ? "the model %.80s was still in use after %.0f s"
                             : "the model %.80s was not in memory after %.0f s",
                       name, sp_models_config(s->models)->wait_s);
    }
    if (!s->op) {
        s->op = sp_models_op_new(s->models, name, leave);
        if (!s->op)
            return SP_FAIL(&e->diag, SP_NOMEM, "request");
        s->op->end_ns = s->end_ns;
        SP_TRY(sp_op_submit(&s->op->op, sp_work_ring, req->work, &e->diag));
    }
    p.end_ns = s->end_ns;
    sp_work_park(req->work, &p);
    return SP_AGAIN;
}

/* The model of this own name in use, or brought. */
static sp_err seek(sp_api_seek *s, const sp_api_req *req, const char *name, const sp_park *park,
                   sp_turn_error *e)
{
    if (sp_models_use(&s->on, s->models, name) == SP_OK)
        return SP_OK;
    if (s->op && sp_op_is_done(&s->op->op)) {
        if (s->op->op.diag.code)
            return tell_failure(s->op, e);
        sp_op_put(&s->op->op); /* it came, and has left again */
        s->op = NULL;
    }
    return wait_for(s, name, false, req, park, e);
}

/* It is here, but as a model of another kind: to this request there is none of its name. */
static sp_err refuse_kind(sp_turn_error *e, const char *name, const char *what)
{
    snprintf(e->param, sizeof e->param, "model");
    e->why = SP_WHY_NO_MODEL;
    return SP_FAIL(&e->diag, SP_NOTFOUND, "the model %.80s %s", name, what);
}

sp_err sp_api_seek_name(sp_api_seek *s, sp_app *app, const sp_api_req *req, const char *asked,
                        const sp_park *park, sp_turn_error *e)
{
    static const char what[] = "is an encoder and writes no answers";
    s->models = app->models;
    const char *name = sp_models_find(s->models, asked);
    if (!name)
        return sp_api_no_model(app, asked, e);
    if (sp_models_is_encoder(s->models, name))
        return refuse_kind(e, name, what);
    SP_TRY(seek(s, req, name, park, e));
    return s->on->encoder ? refuse_kind(e, name, what) : SP_OK; /* its file may have changed */
}

/* Which encoder a request means. */
static sp_err choose_encoder(const char **out, const sp_app *app, const char *asked, bool ranks,
                             sp_turn_error *e)
{
    const char *usual = ranks && app->reranker ? app->reranker : app->encoder,
               *has = usual ? usual : "none by default";
    const char *name = asked ? sp_models_find(app->models, asked) : usual;
    sp_model_row row = {0};
    snprintf(e->param, sizeof e->param, "model");
    if (!asked && !usual)
        return SP_FAIL(&e->diag, SP_NOTFOUND,
                       ranks ? "this server has neither a reranker nor an embedding model"
                             : "this server has no embedding model");
    for (size_t i = 0; name && sp_models_row(app->models, i, &row) && row.name != name;)
        i++;
    if (!name || !row.facts.is_encoder)
        return SP_FAIL(
            &e->diag, SP_NOTFOUND,
            ranks ? "the model %.80s does not exist or ranks nothing; this server has %.80s"
                  : "the embedding model %.80s does not exist; this server has %.80s",
            asked, has);
    if (row.facts.is_ranker && !ranks)
        return SP_FAIL(
            &e->diag, SP_INVAL,
            "the model %.80s is a reranker and makes no vectors; this server has %.80s for them",
            asked, has);
    e->param[0] = 0;
    *out = name;
    return SP_OK;
}

sp_err sp_api_seek_encoder(sp_api_seek *s, sp_app *app, const sp_api_req *req, bool ranks,
                           sp_turn_error *e)
{
    const char *name = NULL;
    s->models = app->models;
    if (!s->body)
        SP_TRY(sp_params_parse(&s->body, req->body, req->n_body, &e->diag));
    SP_TRY(
        choose_encoder(&name, app, json_string_value(json_object_get(s->body, "model")), ranks, e));
    SP_TRY(seek(s, req, name, &(sp_park){0}, e));
    return s->on->encoder && (ranks || !sp_encoder_is_ranker(s->on->encoder))
               ? SP_OK
               : refuse_kind(e, name, "is another one by now");
}

static bool wants_stream(const json_t *body, const sp_codec *codec)
{
    const json_t *v = json_object_get(body, "stream");
    return codec && (v && !json_is_null(v) ? json_is_true(v) : codec->stream_is_default);
}

/* Each second while the model comes into memory, of a stream that tells what is done. */
static void ping_loading(sp_buf *out)
{
    sp_buf_puts(out, "event: sparing.progress\ndata: "
                     "{\"stage\":\"load\",\"done\":0,\"total\":0,\"eta_ms\":null}\n\n");
}

/* The model of the conversation's variant. The body is read once more for what stays the same in
 * the conversation; one that is wrong has none, and is refused when it is answered. */
static sp_err find_variant(sp_api_seek *s, const sp_app *app, const sp_codec *codec,
                           const char *tenant, sp_turn_error *e)
{
    const char *bad, *name = NULL;
    sp_diag why = {0};
    void *state = sp_mem_alloc(codec->state_bytes);
    sp_ask *q = state ? sp_ask_new(tenant) : NULL;
    if (q && codec->read(state, q, app, s->on, s->body, &bad, &why) == SP_OK)
        name = sp_experiments_model(s->on->env.experiments, tenant, sp_experiments_unit(q));
    sp_err err = q && why.code != SP_NOMEM ? SP_OK : SP_FAIL(&e->diag, SP_NOMEM, "request");
    sp_ask_free(q);
    if (state && codec->close)
        codec->close(state);
    sp_mem_free(state);
    s->variant = name ? sp_models_find(s->models, name) : NULL;
    return err;
}

/* Puts the variant's model in the stead of the default one, which is in use. */
static sp_err take_variant(sp_api_seek *s, const sp_app *app, const sp_codec *codec,
                           const char *tenant, const char *asked, sp_turn_error *e)
{
    const char *usual = sp_models_find(s->models, NULL);
    bool is_usual = !asked || sp_models_find(s->models, asked) == usual;
    if (!codec || !is_usual || !sp_experiments_has_models(s->on->env.experiments))
        return SP_OK;
    SP_TRY(find_variant(s, app, codec, tenant, e));
    if (!s->variant || strcmp(s->variant, s->on->env.name) == 0)
        return SP_OK;
    sp_models_done(s->models, s->on);
    s->on = NULL;
    if (s->op)
        sp_op_put(&s->op->op);
    s->op = NULL;
    return SP_OK;
}

sp_err sp_api_seek_model(sp_api_seek *s, sp_app *app, const sp_api_req *req, const sp_codec *codec,
                         const char *tenant, sp_turn_error *e)
{
    sp_park park = {0};
    if (!s->body)
        SP_TRY(sp_params_parse(&s->body, req->body, req->n_body, &e->diag));
    if (wants_stream(s->body, codec))
        park = (sp_park){.stream_type = codec->stream_type,
                         .ping = req->hints.keep && codec->ping ? ping_loading : codec->ping,
                         .error_event = codec->error_event};
    const char *asked = json_string_value(json_object_get(s->body, "model"));
    if (!s->variant) {
        SP_TRY(sp_api_seek_name(s, app, req, asked, &park, e));
        SP_TRY(take_variant(s, app, codec, tenant, asked, e));
    }
    return s->on ? SP_OK : sp_api_seek_name(s, app, req, s->variant, &park, e);
}

sp_err sp_api_move_model(sp_api_seek *s, sp_app *app, const sp_api_req *req, bool leave,
                         sp_turn_error *e)
{
    if (!s->body)
        SP_TRY(sp_params_parse(&s->body, req->body, req->n_body, &e->diag));
    const char *asked = json_string_value(json_object_get(s->body, "model")),
               *name = asked ? sp_models_find(app->models, asked) : NULL;
    s->models = app->models;
    if (!name)
        return sp_api_no_model(app, asked, e);
    if (!leave)
        return seek(s, req, name, &(sp_park){0}, e);
    if (!sp_models_config(s->models)->is_list)
        return SP_FAIL(&e->diag, SP_UNSUP, "this server has one model, which stays");
    if (sp_models_stays(s->models, name))
        return SP_FAIL(&e->diag, SP_UNSUP,
                       "the model %.80s stays: search and conversations need it", name);
    if (s->op && sp_op_is_done(&s->op->op))
        return s->op->op.diag.code ? tell_failure(s->op, e) : SP_OK;
    return wait_for(s, name, true, req, &(sp_park){0}, e);
}

void sp_api_seek_fini(sp_api_seek *s)
{
    sp_models_done(s->models, s->on);
    if (s->op)
        sp_op_put(&s->op->op);
    json_decref(s->body);
    *s = (sp_api_seek){0};
}
