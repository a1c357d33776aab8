/* Trial answers in free places of a step (gen/trial.h). */
#include "sched/engine_int.h"

/* A token more may cost so much of a step with one token: else its place is not free. */
static const double FREE = 0.5;

/* Is a place of this step free? Prompts that are read, and who waits, have need of it. */
static bool is_free(sp_engine *e, size_t n_tok, double seen, const sp_job *j)
{
    if (j->plan.draft_fixed || n_tok == 0)
        return true;
    for (size_t i = 0; i < e->n_run; i++)
        if (!sp_session_is_decoding(e->run[i]->session))
            return false;
    sp_lock_get(&e->lock);
    bool is_alone = e->n_waiting == 0;
    sp_lock_put(&e->lock);
    double own = sp_cost_seen(sp_session_tokens(j->session), 1);
    double more = sp_cost_at(&e->cost, n_tok + 1, seen + own) - sp_cost_at(&e->cost, n_tok, seen);
    return is_alone && more <= FREE * sp_cost_at(&e->cost, 1, own);
}

bool sp_engine_begin_trials(sp_engine *e)
{
    bool tries = false;
    for (size_t i = 0; i < e->n_run; i++) {
        sp_job *j = e->run[i];
        if (sp_session_trial(j->session, e->cfg.pool, &j->tries) != SP_OK)
            sp_session_trial_drop(j->session, e->cfg.pool);
        tries = tries || j->tries;
    }
    return tries;
}

size_t sp_engine_try(sp_engine *e, size_t n_span)
{
    sp_step_size size = sp_engine_size_of(e, n_span);
    size_t n = 0;
    for (size_t i = 0; i < e->n_run; i++) {
        sp_job *j = e->order[i];
        if (!j->tries)
            continue;
        if (n == SP_TRIAL_STEP || !is_free(e, size.n_tok, size.seen, j) ||
            sp_session_trial_span(j->session, e->cfg.pool, &e->span[n_span + n]) != SP_OK) {
            sp_session_trial_drop(j->session, e->cfg.pool);
            continue;
        }
        e->span_job[n_span + n++] = j;
        size.seen += sp_cost_seen(sp_session_tokens(j->session), 1);
        size.n_tok++;
    }
    return n;
}

void sp_engine_take_trials(sp_engine *e, size_t n_span, size_t n_try, const float *logits)
{
    size_t n_vocab = sp_model_arch(e->cfg.model)->n_vocab;
    for (size_t i = 0; i < n_span; i++)
        logits += e->span[i].n_logits * n_vocab;
    for (size_t i = 0; i < n_try; i++, logits += n_vocab) {
        sp_session *s = e->span_job[n_span + i]->session;
        if (sp_session_trial_take(s, e->cfg.pool, logits) != SP_OK)
            sp_session_trial_drop(s, e->cfg.pool);
    }
}
