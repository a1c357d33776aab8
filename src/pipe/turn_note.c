/* Experiments of a turn: which variants answer it, and the note of what the answer cost. */
#include "pipe/turn_int.h"

#include "base/clock.h"
#include "pipe/feedback.h"
#include "pipe/version.h"

#include <stdio.h>
#include <string.h>

sp_err sp_turn_expose(sp_turn *t, sp_diag *d)
{
    sp_buf text = {0};
    const sp_version *now = sp_versions_now(t->env->versions);
    const sp_intent_model *trained = sp_version_intent(now);
    const sp_policy *learned = sp_version_policy(now);
    t->intent = trained && t->env->intent ? trained : t->env->intent;
    t->policy = t->env->policy;
    if (!t->env->experiments && !now)
        return SP_OK;
    sp_settings below = now ? now->set : (sp_settings){0};
    if (learned && !sp_policy_is_for(learned, t->env->name))
        below.policy = NULL; /* it is another model's */
    t->version = now ? now->number : 0;
    sp_err err = sp_experiments_apply(t->env->experiments, &below, t->ask, t->exposure,
                                      &t->n_exposure);
    if (learned && t->ask->set.policy && !t->ask->ruled)
        t->policy = learned;
    for (size_t i = 0; i < t->n_exposure; i++) { /* names need no escapes */
        const sp_exposure *x = &t->exposure[i];
        sp_buf_printf(&text, "%s{\"name\":\"%s\",\"variant\":\"%s\"", i ? "," : "",
                      x->experiment->name, sp_exposure_name(x));
        if (x->experiment->adapt)
            sp_buf_printf(&text, ",\"epoch\":%u,\"share\":%.6g", x->draw.epoch, x->draw.share);
        sp_buf_putc(&text, '}');
    }
    if (err == SP_OK && text.len) {
        t->experiment = text.failed ? NULL : sp_arena_strndup(&t->ask->a, text.p, text.len);
        err = t->experiment ? SP_OK : SP_NOMEM;
    }
    sp_buf_fini(&text);
    return err == SP_OK ? SP_OK : SP_FAIL(d, err, "experiments");
}

/* Whose passages the answer cites, where two ranks were interleaved. */
static void put_credit(sp_feedback_op *op, const sp_turn *t)
{
    const sp_turn_answer *a = &t->choice[0].answer;
    for (size_t i = 0; t->find && i < t->n_exposure; i++)
        if (!t->exposure[i].variant)
            op->credited = t->exposure[i].experiment;
    for (size_t i = 0; op->credited && i < t->n_passage && i < SP_FDB_PASSAGES; i++) {
        sp_fdb_credit *c = &op->credit[op->n_credit++];
        *c = (sp_fdb_credit){.passage = i + 1, .team = t->find->hit[i].team};
        for (size_t k = 0; k < a->n_cite; k++)
            c->cited = c->cited || a->cite[k].hit == i;
    }
}

/* A copy in the operation's arena, which is NULL where there is no memory. */
static const char *keep(sp_feedback_op *op, const char *text)
{
    return sp_arena_strndup(&op->op.a, text, strlen(text));
}

void sp_turn_note(const sp_turn *t)
{
    char unit[65];
    sp_buf json = {0};
    sp_receipt r;
    if (!t->env->feedback || t->ask->plan.is_private || !t->n_choice || !t->ask->id[0])
        return;
    sp_feedback_op *op = sp_feedback_op_new(t->env->feedback, SP_FEEDBACK_NOTE, t->ask->tenant);
    if (op) {
        sp_turn_receipt(&r, t);
        sp_receipt_write(&r, &json);
        sp_experiments_hash(unit, t->ask->tenant, sp_experiments_unit(t->ask));
        op->answer = (sp_fdb_answer){.id = keep(op, t->ask->id),
                                     .model = keep(op, t->env->name ? t->env->name : ""),
                                     .path = sp_path_name(r.path),
                                     .receipt = json.failed ? "{}" : keep(op, sp_buf_str(&json)),
                                     .unit = keep(op, unit),
                                     .failed = t->error.diag.code != SP_OK,
                                     .ms = sp_clock_ms(t->ask->begin_ns),
                                     .ms_first = t->ms_first,
                                     .cost = r.cost,
                                     .n_prompt = t->n_prompt_tok,
                                     .n_out = r.tok_out};
        memcpy(op->exposure, t->exposure, sizeof op->exposure);
        op->n_exposure = t->n_exposure;
        put_credit(op, t);
        snprintf(op->conv, sizeof op->conv, "%s", t->prepare ? t->prepare->conv : "");
        sp_buf_fini(&json);
    }
    const sp_fdb_answer *a = op ? &op->answer : NULL;
    if (a && !(a->id && a->model && a->receipt && a->unit)) {
        sp_op_put(&op->op);
        op = NULL;
    }
    sp_feedback_note(t->env->feedback, op);
}
