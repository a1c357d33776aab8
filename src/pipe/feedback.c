#include "pipe/feedback.h"

#include "base/clock.h"
#include "base/lock.h"
#include "base/log.h"
#include "pipe/feedback_int.h"

#include <stdio.h>
#include <string.h>

enum { LOOK_MS = 2000 /* how long an experiment that is stopped may go on */ };

struct sp_feedback {
    sp_db *db; /* owner: the desk's thread */
    sp_experiments *experiments;
    uint64_t looked_ns; /* when it was read which are stopped; 0: not yet */
    int64_t seen[SP_EXPERIMENTS]; /* draws that were read; owner: the desk's thread */
    sp_desk *desk;
    const char *right;
    sp_metric *notes, *lost, *given;
    sp_metric *rated[2], *rated_cost; /* wrong, right */
};

static sp_err keep_note(sp_feedback *f, sp_feedback_op *op)
{
    sp_err err =
        sp_fdb_note(f->db, op->tenant, op->conv[0] ? op->conv : NULL, &op->answer, &op->op.diag);
    for (size_t i = 0; i < op->n_exposure && err == SP_OK; i++)
        err = sp_fdb_expose(f->db, op->answer.id, op->exposure[i].experiment->name,
                            sp_exposure_name(&op->exposure[i]), &op->op.diag);
    for (size_t i = 0; i < op->n_exposure && err == SP_OK; i++)
        if (op->exposure[i].experiment->adapt)
            err = sp_adapt_draw(f->db, &op->exposure[i], op->answer.unit, &op->op.diag);
    for (size_t i = 0; i < op->n_credit && err == SP_OK; i++)
        err = sp_fdb_put_credit(f->db, op->answer.id, op->credited->name, &op->credit[i],
                                &op->op.diag);
    return err;
}

static sp_err run_note(sp_feedback *f, sp_feedback_op *op)
{
    sp_err err = sp_db_begin(f->db, &op->op.diag);
    if (err == SP_OK)
        err = sp_db_finish(f->db, keep_note(f, op), &op->op.diag);
    if (err == SP_OK) {
        sp_metric_add(f->notes, 1);
        return SP_OK;
    }
    sp_metric_add(f->lost, 1);
    sp_log(SP_LOG_WARN, "an answer is not noted for feedback: %s", op->op.diag.msg);
    return err;
}

static sp_err run_give(sp_feedback *f, sp_feedback_op *op)
{
    sp_hdb_id(op->id, "fb");
    SP_TRY(sp_fdb_knows(f->db, op->tenant, &op->given, &op->op.diag));
    if (op->dry)
        return SP_OK;
    const sp_fdb_given *g = &op->given;
    double cost = -1;
    if (f->right && g->is_boolean && g->answer && strcmp(g->metric, f->right) == 0 &&
        sp_fdb_unrated(f->db, op->tenant, g->answer, f->right, &cost, NULL) != SP_OK)
        cost = -1;
    SP_TRY(sp_fdb_give(f->db, op->tenant, op->id, g, &op->op.diag));
    sp_metric_add(f->given, 1);
    if (cost >= 0) {
        sp_metric_add(f->rated[g->value > 0], 1);
        sp_metric_add(f->rated_cost, cost);
    }
    return SP_OK;
}

static sp_err run_list(sp_feedback *f, sp_feedback_op *op)
{
    bool more;
    int64_t last;
    sp_buf_puts(&op->json, "{\"object\":\"list\",\"data\":[");
    SP_TRY(
        sp_fdb_list(f->db, op->tenant, op->after, op->cap, &op->json, &last, &more, &op->op.diag));
    sp_buf_printf(&op->json, "],\"last\":%lld,\"has_more\":%s}", (long long)last,
                  more ? "true" : "false");
    return op->json.failed ? SP_NOMEM : SP_OK;
}

static sp_err run_op(void *self, sp_op *base)
{
    sp_feedback *f = self;
    sp_feedback_op *op = (sp_feedback_op *)base;
    switch (op->kind) {
    case SP_FEEDBACK_NOTE: return run_note(f, op);
    case SP_FEEDBACK_GIVE: return run_give(f, op);
    case SP_FEEDBACK_LIST: return run_list(f, op);
    case SP_FEEDBACK_FORGET:
        return sp_fdb_forget(f->db, op->tenant, op->conv, &op->n, &op->op.diag);
    case SP_FEEDBACK_REPORT:
        return sp_feedback_report(f->db, f->experiments, op->alpha, &op->json, &op->op.diag);
    case SP_FEEDBACK_COSTS:
        return sp_fdb_costs(f->db, op->tenant, f->right, op->after, &op->json, &op->op.diag);
    }
    return SP_INVAL;
}

/* Which experiments are stopped, and what those that adapt draw by. */
static sp_err look(sp_feedback *f, sp_diag *d)
{
    sp_arena a;
    const char *const *name;
    size_t n;
    f->looked_ns = sp_clock_ns();
    if (!f->experiments)
        return SP_OK;
    sp_arena_init(&a, 0);
    sp_err err = sp_fdb_stopped(f->db, &a, &name, &n, d);
    if (err == SP_OK)
        sp_experiments_stop(f->experiments, name, n);
    sp_arena_fini(&a);
    return err == SP_OK ? sp_adapt_look(f->db, f->experiments, f->seen, d) : err;
}

/* A database that cannot be asked just now leaves everything as it is. */
static bool idle(void *self)
{
    sp_feedback *f = self;
    if (sp_clock_ms(f->looked_ns) >= LOOK_MS)
        (void)look(f, NULL);
    return false;
}

static void set_metrics(sp_feedback *f, sp_metrics *m)
{
    static const char rated[] = "Answers by the first rating that says whether they are right.";
    f->notes = sp_metric_counter(m, "sparing_feedback_answers_total",
                                 "Answers noted with their receipts.", NULL);
    f->lost = sp_metric_counter(m, "sparing_feedback_lost_total",
                                "Answers that could not be noted.", NULL);
    f->given =
        sp_metric_counter(m, "sparing_feedback_given_total", "Feedback that was kept.", NULL);
    f->rated[0] =
        sp_metric_counter(m, "sparing_rated_answers_total", rated, "right=\"false\"");
    f->rated[1] = sp_metric_counter(m, "sparing_rated_answers_total", rated, "right=\"true\"");
    f->rated_cost =
        sp_metric_counter(m, "sparing_rated_cost_total", "Cost of these answers.", NULL);
}

sp_err sp_feedback_open(sp_feedback **out, const sp_feedback_cfg *cfg, sp_diag *d)
{
    sp_feedback *f = sp_mem_alloc(sizeof *f);
    if (!f)
        return SP_FAIL(d, SP_NOMEM, "feedback");
    f->experiments = cfg->experiments;
    f->right = cfg->right;
    set_metrics(f, cfg->metrics);
    sp_err err = sp_fdb_open(&f->db, cfg->path, d);
    if (err == SP_OK)
        err = look(f, d);
    if (err == SP_OK)
        err = sp_desk_start(&f->desk, &(sp_desk_cfg){"feedback", run_op, idle, f, NULL}, d);
    if (err == SP_OK)
        *out = f;
    else
        sp_feedback_close(f);
    return err;
}

void sp_feedback_close(sp_feedback *f)
{
    if (!f)
        return;
    sp_desk_stop(f->desk);
    sp_db_close(f->db);
    sp_mem_free(f);
}

static void fini_op(sp_op *base)
{
    sp_buf_fini(&((sp_feedback_op *)base)->json);
}

sp_feedback_op *sp_feedback_op_new(sp_feedback *f, sp_feedback_kind kind, const char *tenant)
{
    sp_feedback_op *op = sp_op_new(f->desk, sizeof *op);
    if (!op)
        return NULL;
    op->op.fini = fini_op;
    op->kind = kind;
    snprintf(op->tenant, sizeof op->tenant, "%s", tenant);
    return op;
}

void sp_feedback_note(sp_feedback *f, sp_feedback_op *op)
{
    if (!op || sp_op_submit(&op->op, NULL, NULL, NULL) != SP_OK)
        sp_metric_add(f->lost, 1);
    sp_op_put((sp_op *)op);
}

typedef struct waiting {
    sp_lock lock; /* rank API */
    pthread_cond_t changed;
    bool done;
} waiting;

static void end_waiting(void *arg)
{
    waiting *w = arg;
    sp_lock_get(&w->lock);
    w->done = true;
    pthread_cond_signal(&w->changed);
    sp_lock_put(&w->lock);
}

sp_err sp_feedback_forget(sp_feedback *f, const char *tenant, const char *conv, sp_diag *d)
{
    waiting w = {0};
    sp_feedback_op *op = f ? sp_feedback_op_new(f, SP_FEEDBACK_FORGET, tenant) : NULL;
    if (!f)
        return SP_OK;
    if (!op)
        return SP_FAIL(d, SP_NOMEM, "feedback");
    snprintf(op->conv, sizeof op->conv, "%s", conv);
    sp_lock_init(&w.lock, SP_RANK_API);
    sp_lock_cond_init(&w.changed);
    sp_err err = sp_op_submit(&op->op, end_waiting, &w, d);
    sp_lock_get(&w.lock);
    while (err == SP_OK && !w.done)
        sp_lock_wait(&w.lock, &w.changed, 0);
    sp_lock_put(&w.lock);
    if (err == SP_OK && (err = op->op.diag.code) != SP_OK && d)
        *d = op->op.diag;
    sp_op_put(&op->op); /* end_waiting has returned after this */
    pthread_cond_destroy(&w.changed);
    sp_lock_fini(&w.lock);
    return err;
}
