/* One step of the engine: who comes in, who is computed, what becomes of the logits. */
#include "sched/engine_int.h"

enum { IDLE_NS = 20000000 };

/* --- lists ------------------------------------------------------------------------------------ */

static void run_remove(sp_engine *e, const sp_job *j)
{
    size_t i = 0;
    while (i < e->n_run && e->run[i] != j)
        i++;
    SP_ASSERT(i < e->n_run);
    memmove(&e->run[i], &e->run[i + 1], (e->n_run - i - 1) * sizeof *e->run);
    e->n_run--;
}

static void wait_push_front(sp_engine *e, sp_job *j)
{
    sp_lock_get(&e->lock);
    j->state = WAITING;
    j->next = e->waiting;
    if (!e->waiting)
        e->waiting_tail = &j->next;
    e->waiting = j;
    e->n_waiting++;
    sp_lock_put(&e->lock);
}

sp_job *sp_engine_pop(sp_engine *e)
{
    sp_lock_get(&e->lock);
    sp_job *j = e->waiting;
    if (j) {
        e->waiting = j->next;
        if (!e->waiting)
            e->waiting_tail = &e->waiting;
        j->next = NULL;
        e->n_waiting--;
    }
    sp_lock_put(&e->lock);
    return j;
}

/* --- admission -------------------------------------------------------------------------------- */

static void run_embedding(sp_engine *e, sp_job *j)
{
    sp_diag d = {0};
    sp_err err = sp_encoder_run(e->cfg.encoder, j->vector, j->ids.id, j->ids.n, j->part, j->n_part, &d);
    if (err != SP_OK)
        sp_job_fail(e, j, &d);
    else
        sp_job_end(e, j, SP_EVENT_FINISH, SP_FINISH_STOP, NULL);
}

static void run_forget(sp_engine *e, sp_job *j)
{
    sp_kv_forget f = {.tag = j->forget, .conv = j->forget_conv ? j->forget + SP_KV_TAG : NULL};
    sp_kv_pool_forget(e->cfg.pool, &f);
    j->n_prompt = f.n_page;
    sp_job_end(e, j, SP_EVENT_FINISH, SP_FINISH_STOP, NULL);
}

/* A fork waits until its parent has computed the prompt, or runs alone if the parent is gone. */
static bool must_wait_for_parent(const sp_job *j)
{
    return j->fork_of && j->fork_of->state != ENDED &&
           (j->fork_of->state == WAITING || !sp_session_is_decoding(j->fork_of->session));
}

/* true: an embedding was computed. */
static bool admit(sp_engine *e)
{
    bool worked = false;
    sp_job *later = NULL;
    while (e->n_run < e->cfg.max_run) {
        sp_job *j = sp_engine_pop(e);
        if (!j)
            break;
        if (atomic_load(&j->cancel)) {
            sp_job_end(e, j, SP_EVENT_FINISH, SP_FINISH_CANCEL, NULL);
            continue;
        }
        if (!j->session) {
            if (j->forget)
                run_forget(e, j);
            else
                run_embedding(e, j);
            worked = true;
            break; /* one a step, so that embeddings never starve decoding */
        }
        if (must_wait_for_parent(j)) {
            j->next = later;
            later = j;
            continue;
        }
        sp_diag d = {0};
        uint64_t t = sp_clock_ns();
        sp_err err = sp_session_attach(j->session, e->cfg.pool, j->tenant, !j->no_fetch);
        sp_metric_observe(e->m.attach, (double)(sp_clock_ns() - t) * 1e-9);
        j->receipt.ms_attach = sp_clock_ms(t);
        if (err == SP_AGAIN) { /* another session is loading this prefix */
            j->next = later;
            later = j;
            continue;
        }
        if (err != SP_OK) {
            (void)SP_FAIL(&d, SP_NOMEM, "no memory for another sequence");
            sp_job_fail(e, j, &d);
            continue;
        }
        if (!j->t_start) {
            j->t_start = sp_clock_ns();
            j->receipt.ms_queue = (double)(j->t_start - j->t_submit) * 1e-6;
            sp_metric_observe(e->m.queue, j->receipt.ms_queue * 1e-3);
        }
        j->state = RUNNING;
        e->run[e->n_run++] = j;
    }
    while (later) { /* back to the front, in their old order */
        sp_job *j = later;
        later = j->next;
        wait_push_front(e, j);
    }
    return worked;
}

/* --- one step --------------------------------------------------------------------------------- */

/* Frees pages by sending the youngest other session back to the queue. */
static bool preempt_for(sp_engine *e, const sp_job *keep)
{
    for (size_t i = e->n_run; i-- > 0;) {
        sp_job *j = e->run[i];
        if (j == keep)
            return false; /* only younger ones give way: the oldest always moves on */
        run_remove(e, j);
        sp_session_preempt(j->session, e->cfg.pool);
        wait_push_front(e, j);
        return true;
    }
    return false;
}

/* Room for n more tokens of j. false: it waits this step, or has been ended. */
static bool make_room(sp_engine *e, sp_job *j, size_t n)
{
    for (;;) {
        sp_err err = sp_kv_seq_reserve(sp_session_seq(j->session), e->cfg.pool, n);
        if (err == SP_OK)
            return true;
        if (err == SP_AGAIN && preempt_for(e, j))
            continue;
        if (err == SP_AGAIN && (e->run[0] != j || sp_kv_pool_is_busy(e->cfg.pool)))
            return false; /* pages come back when they are written */
        sp_diag d = {0};
        (void)SP_FAIL(&d, err == SP_AGAIN ? SP_LIMIT : err, "the KV memory cannot hold this sequence");
        run_remove(e, j);
        sp_job_fail(e, j, &d);
        return false;
    }
}

/* Puts the parts of j's prompt in place that are computed by themselves. false: it waits this step, or has been ended. */
static bool place_parts(sp_engine *e, sp_job *j)
{
    size_t n;
    sp_err err;
    while ((err = sp_session_part(j->session, e->cfg.pool, !j->no_fetch, &n)) == SP_OK && n) {
        if (!make_room(e, j, n))
            return false;
        err = sp_session_splice(j->session, e->cfg.pool, e->cfg.model, e->work);
        if (err != SP_OK)
            break;
    }
    if (err == SP_OK || err == SP_AGAIN)
        return err == SP_OK;
    sp_diag d = {0};
    (void)SP_FAIL(&d, err, "putting a passage in place failed: %s", sp_err_name(err));
    run_remove(e, j);
    sp_job_fail(e, j, &d);
    return false;
}

static bool is_planned(const sp_engine *e, size_t n_span, const sp_job *j)
{
    for (size_t i = 0; i < n_span; i++)
        if (e->span_job[i] == j)
            return true;
    return false;
}

/* May j be computed now? What is still loading runs beside its load, a layer behind it, when there is nothing
 * else to do: then nobody else waits for the disk. */
static bool is_loaded(const sp_job *j, bool others)
{
    const sp_kv_load *l = sp_session_seq(j->session)->load;
    return !l || (!others && sp_kv_load_layers(l) > 0);
}

/* A load that failed, or takes longer than computing: start again with what there is. */
static void restart_failed(sp_engine *e)
{
    for (size_t i = 0; i < e->n_run;) {
        sp_job *j = e->run[i];
        const sp_kv_seq *s = sp_session_seq(j->session);
        bool expired = s->load && sp_kv_load_expired(s->load);
        if (!s->load_failed && !expired) {
            i++;
            continue;
        }
        j->no_fetch = true;
        run_remove(e, j);
        sp_session_preempt(j->session, e->cfg.pool);
        wait_push_front(e, j);
    }
}

/* Decodes first, then prompt chunks oldest first while the budget lasts. Preemption may remove a
 * job that already has a span, so spans are built again from what still runs. */
static size_t plan_step(sp_engine *e)
{
    size_t n_span, n_before;
    do {
        size_t budget = e->cfg.chunk_tok;
        n_span = 0;
        n_before = e->n_run;
        for (int decoding = 1; decoding >= 0; decoding--) {
            for (size_t i = 0; i < e->n_run; i++) {
                sp_job *j = e->run[i];
                if (sp_session_is_decoding(j->session) != (decoding == 1) || is_planned(e, n_span, j))
                    continue;
                if (!is_loaded(j, n_span > 0) || !place_parts(e, j))
                    continue;
                size_t n = sp_session_todo(j->session);
                if (!decoding)
                    n = n < budget ? n : budget;
                if (n == 0 || !make_room(e, j, n))
                    continue;
                budget -= decoding ? 0 : n;
                e->span[n_span] = sp_session_span(j->session, n);
                e->span_job[n_span++] = j;
            }
        }
    } while (e->n_run != n_before); /* ends: every repeat has fewer running jobs */
    return n_span;
}

static void count_flops(const sp_engine *e, sp_job *j, const sp_model_span *s, size_t pos)
{
    double n = (double)s->n, seen = n * (double)pos + n * (n + 1) / 2;
    j->receipt.flops_spent += n * e->flops.per_tok + seen * e->flops.per_seen + (double)s->n_logits * e->flops.per_logits;
}

static void take_token(sp_engine *e, sp_job *j, const float *logits)
{
    sp_event *ev = NULL;
    sp_finish finish;
    sp_diag d = {0};
    bool done = false;
    uint64_t now = sp_clock_ns();
    sp_err err = sp_session_accept(j->session, logits, &ev, &done, &finish, &d);
    if (!j->t_first)
        j->t_first = now;
    j->receipt.steps++;
    sp_metric_add(e->m.tok_out, 1);
    if (ev) {
        if (!j->gave_first)
            sp_metric_observe(e->m.ttft, (double)(now - j->t_submit) * 1e-9);
        else
            sp_metric_observe(e->m.itl, (double)(now - j->t_last) * 1e-9);
        j->gave_first = true;
        j->t_last = now;
        sp_job_post(j, ev);
    }
    if (err == SP_OK && !done)
        return;
    run_remove(e, j);
    if (err != SP_OK)
        sp_job_fail(e, j, &d);
    else
        sp_job_end(e, j, SP_EVENT_FINISH, finish, NULL);
}

static void start_forks(sp_engine *e, sp_job *parent, const float *logits)
{
    while (e->n_run < e->cfg.max_run) {
        sp_lock_get(&e->lock);
        sp_job **at = &e->waiting;
        while (*at && ((*at)->fork_of != parent || atomic_load(&(*at)->cancel)))
            at = &(*at)->next;
        sp_job *j = *at;
        if (j) {
            *at = j->next;
            if (!j->next)
                e->waiting_tail = at;
            j->next = NULL;
            e->n_waiting--;
        }
        sp_lock_put(&e->lock);
        if (!j)
            return;
        sp_diag d = {0};
        if (sp_session_fork(j->session, parent->session, e->cfg.pool) != SP_OK) {
            (void)SP_FAIL(&d, SP_NOMEM, "no memory for another answer");
            sp_job_fail(e, j, &d);
            continue;
        }
        j->t_start = sp_clock_ns();
        j->receipt.ms_queue = (double)(j->t_start - j->t_submit) * 1e-6;
        j->state = RUNNING;
        e->run[e->n_run++] = j;
        take_token(e, j, logits);
    }
}

/* Nothing can be computed just now: until a load or a write has news. The timeout bounds what a lost wake costs. */
void sp_engine_idle(sp_engine *e)
{
    sp_lock_get(&e->lock);
    if (!e->poked && !e->stop)
        sp_lock_wait(&e->lock, &e->wake, IDLE_NS);
    sp_lock_put(&e->lock);
}

/* Takes in what the tiers have finished. News that comes from here on is another poke, so none is slept over. */
bool sp_engine_take_news(sp_engine *e)
{
    sp_lock_get(&e->lock);
    e->poked = false;
    sp_lock_put(&e->lock);
    return sp_kv_pool_poll(e->cfg.pool);
}

void sp_engine_step(sp_engine *e)
{
    for (size_t i = 0; i < e->n_run;) {
        sp_job *j = e->run[i];
        if (!atomic_load(&j->cancel)) {
            i++;
            continue;
        }
        run_remove(e, j);
        sp_job_end(e, j, SP_EVENT_FINISH, SP_FINISH_CANCEL, NULL);
    }
    (void)sp_engine_take_news(e);
    restart_failed(e);
    bool worked = admit(e);
    size_t n_span = plan_step(e), n_tok = 0;
    if (n_span == 0 && !worked && sp_kv_pool_is_busy(e->cfg.pool))
        sp_engine_idle(e);
    if (n_span == 0)
        return;
    const float *logits;
    sp_diag d = {0};
    bool loading = false;
    double cost = 0;
    for (size_t i = 0; i < n_span; i++) {
        loading = loading || e->span[i].seq->load;
        n_tok += e->span[i].n;
        cost += (double)e->span[i].n * (1 + (double)e->span[i].seq->n_tok * e->flops.per_seen / e->flops.per_tok);
    }
    uint64_t t = sp_clock_ns();
    sp_err err = sp_model_forward(e->cfg.model, e->work, e->cfg.pool, e->span, n_span, &logits, &d);
    if (err != SP_OK && loading)
        for (size_t i = 0; i < n_span; i++)
            if (e->span[i].seq->load_failed)
                return; /* nothing was committed; restart_failed takes it from here */
    if (e->cfg.tier && !loading && n_tok >= e->cfg.chunk_tok)
        sp_kv_tier_note_compute(e->cfg.tier, cost, (double)(sp_clock_ns() - t) * 1e-9);
    sp_metric_add(e->m.tok_step, (double)n_tok);
    for (size_t i = 0; i < n_span && err == SP_OK; i++)
        count_flops(e, e->span_job[i], &e->span[i], e->span[i].seq->n_tok - e->span[i].n);
    for (size_t i = 0; i < n_span; i++) {
        sp_job *j = e->span_job[i];
        if (err != SP_OK) {
            run_remove(e, j);
            sp_job_fail(e, j, &d);
            continue;
        }
        if (!e->span[i].n_logits)
            continue;
        if (!j->t_first) {
            sp_kv_seq_save(e->span[i].seq, e->cfg.pool);
            start_forks(e, j, logits);
        }
        take_token(e, j, logits);
        logits += sp_model_arch(e->cfg.model)->n_vocab;
    }
}
