/* Who comes in and who goes out: admission, small jobs, deadlines, preemption. */
#include "sched/engine_int.h"

/* Of more work than most: these leave half of the places free. */
static const double HEAVY = 1.5, WORK_SHARE = 0.05;
enum {
    STEP_TEXTS = 32,
    STEP_TEXT_TOK = 256 /* of an encoder's texts in a step: as long as a part of a prompt */
};

/* Of several texts the next ones, as many as a step takes, at least one. */
static sp_err run_next_texts(sp_job *j, sp_diag *d)
{
    sp_model_text text[STEP_TEXTS];
    size_t n = 0, first = j->i_text, n_tok = 0, at = first ? j->end[first - 1] : 0;
    for (size_t i = first; i < j->n_text && n < STEP_TEXTS; i++) {
        size_t len = j->end[i] - at;
        if (n && n_tok + len > STEP_TEXT_TOK)
            break;
        text[n++] = (sp_model_text){j->ids.id + at, len, j->second ? j->second[i] : 0};
        n_tok += len;
        at = j->end[i];
    }
    j->i_text += n;
    return sp_encoder_run_texts(j->encoder, j->vector + first * sp_encoder_dim(j->encoder), text, n,
                                d);
}

/* What is left of several texts waits behind the jobs that came meanwhile. */
static void run_embedding(sp_engine *e, sp_job *j)
{
    sp_diag d = {0};
    sp_engine_take_cores(e);
    sp_err err =
        j->end ? run_next_texts(j, &d)
               : sp_encoder_run(j->encoder, j->vector, j->ids.id, j->ids.n, j->part, j->n_part, &d);
    if (err != SP_OK)
        sp_job_fail(e, j, &d);
    if (err == SP_DEV)
        sp_engine_lose(e);
    if (err != SP_OK)
        return;
    if (j->i_text < j->n_text)
        sp_engine_wait_last(e, j);
    else
        sp_job_end(e, j, SP_EVENT_FINISH, SP_FINISH_STOP, NULL);
}

static void run_forget(sp_engine *e, sp_job *j)
{
    sp_kv_forget f = {.tag = j->forget, .conv = j->forget_conv ? j->forget + SP_KV_TAG : NULL};
    sp_kv_pool_forget(e->cfg.pool, &f);
    for (size_t i = 0; i < e->drafts.n; i++) {
        sp_draft_source *s = e->drafts.source[i];
        if (s->kind->forget)
            s->kind->forget(s, f.tag, f.conv);
    }
    j->n_prompt = f.n_page;
    sp_job_end(e, j, SP_EVENT_FINISH, SP_FINISH_STOP, NULL);
}

static void run_call(sp_engine *e, sp_job *j)
{
    j->call.fn(j->call.arg, e->cfg.pool);
    sp_job_end(e, j, SP_EVENT_FINISH, SP_FINISH_STOP, NULL);
}

/* A fork waits until its parent has computed the prompt, or runs alone if the parent is gone. */
static bool must_wait_for_parent(const sp_job *j)
{
    return j->fork_of && j->fork_of->state != ENDED &&
           (j->fork_of->state == WAITING || !sp_session_is_decoding(j->fork_of->session));
}

/* One a step, so that embeddings never starve decoding. */
static bool run_small(sp_engine *e)
{
    sp_job *j = sp_engine_pop(e, false);
    if (!j)
        return false;
    if (atomic_load(&j->cancel))
        sp_job_end(e, j, SP_EVENT_FINISH, SP_FINISH_CANCEL, NULL);
    else if (j->forget)
        run_forget(e, j);
    else if (j->call.fn)
        run_call(e, j);
    else
        run_embedding(e, j);
    return true;
}

bool sp_job_expire(sp_engine *e, sp_job *j)
{
    uint64_t now = sp_clock_ns();
    if (!j->deadline || now < j->deadline)
        return false;
    sp_diag d = {0};
    (void)SP_FAIL(&d, SP_TIMEOUT, "the deadline passed %s, %.1f s after the request came",
                  j->state == WAITING ? "in the queue" : "before the answer was whole",
                  (double)(now - j->t_submit) * 1e-9);
    sp_metric_add(e->m.expired, 1);
    sp_job_fail(e, j, &d);
    return true;
}

/* Does another tenant wait? Then the place is the least served one's, whatever it brings: kept
 * free, it would be another's. */
static bool others_wait(sp_engine *e, const sp_account *a)
{
    bool found = false;
    sp_lock_get(&e->lock);
    for (const sp_job *j = e->waiting; j && !found; j = j->next)
        found = j->account && j->account->tenant != a->tenant;
    sp_lock_put(&e->lock);
    return found;
}

/* Ends what waits and whose time is over: it would never be asked for, and its caller waits to hear
 * so. */
static void expire_waiting(sp_engine *e)
{
    for (;;) {
        uint64_t now = sp_clock_ns();
        sp_lock_get(&e->lock);
        sp_job **at = &e->waiting;
        while (*at && (!(*at)->deadline || now < (*at)->deadline))
            at = &(*at)->next;
        sp_job *j = sp_engine_take(e, at);
        sp_lock_put(&e->lock);
        if (!j)
            return;
        (void)sp_job_expire(e, j);
    }
}

static size_t count_known(const sp_job *j)
{
    sp_session_source from = sp_session_reused(j->session);
    return from.ram + from.ssd + from.s3;
}

/* Is less of its prompt known than it asks for? Only when it comes in for the first time. */
static bool lacks_known(const sp_job *j)
{
    size_t known = count_known(j);
    return j->least_known > 0 && !j->t_start &&
           (known == 0 || (double)known < j->least_known * (double)j->n_prompt);
}

bool sp_engine_admit(sp_engine *e)
{
    bool worked = run_small(e);
    sp_job *later = NULL;
    expire_waiting(e);
    while (e->n_run < e->cfg.max_run) {
        sp_job *j = sp_engine_pop(e, true);
        if (!j)
            break;
        if (atomic_load(&j->cancel)) {
            sp_job_end(e, j, SP_EVENT_FINISH, SP_FINISH_CANCEL, NULL);
            continue;
        }
        bool heavy = !e->cfg.fcfs && e->work_mean > 0 && sp_job_work(e, j) > HEAVY * e->work_mean;
        if (must_wait_for_parent(j) ||
            (heavy && e->n_heavy >= (e->cfg.max_run + 1) / 2 && !others_wait(e, j->account))) {
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
        if (lacks_known(j)) {
            sp_job_end(e, j, SP_EVENT_FINISH, SP_FINISH_UNKNOWN, NULL);
            continue;
        }
        if (!j->t_start) {
            atomic_store(&j->n_read, 1); /* it reads, or fetches what is known */
            atomic_store(&j->n_known, count_known(j));
            j->t_start = sp_clock_ns();
            j->receipt.ms_queue = (double)(j->t_start - j->t_submit) * 1e-6;
            sp_metric_observe(e->m.queue, j->receipt.ms_queue * 1e-3);
        }
        if (j->work <= 0) {
            j->work = sp_job_work(e, j);
            e->work_mean += (e->work_mean > 0 ? WORK_SHARE : 1) * (j->work - e->work_mean);
        }
        j->is_heavy = heavy;
        e->n_heavy += heavy;
        j->state = RUNNING;
        e->run[e->n_run++] = j;
    }
    while (later) { /* back to the front, in their old order */
        sp_job *j = later;
        later = j->next;
        sp_engine_wait_first(e, j);
    }
    return worked;
}

/* Frees pages by sending the youngest other session back to the queue. */
static bool preempt_for(sp_engine *e, const sp_job *keep)
{
    for (size_t i = e->n_run; i-- > 0;) {
        sp_job *j = e->run[i];
        if (j == keep)
            return false; /* only younger ones give way: the oldest always moves on */
        sp_engine_drop(e, j);
        sp_metric_add(e->m.preempted, 1);
        sp_session_preempt(j->session, e->cfg.pool);
        sp_engine_wait_first(e, j);
        return true;
    }
    return false;
}

bool sp_engine_reserve(sp_engine *e, sp_job *j, size_t n)
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
        (void)SP_FAIL(&d, err == SP_AGAIN ? SP_LIMIT : err,
                      "the KV memory cannot hold this sequence");
        sp_engine_drop(e, j);
        sp_job_fail(e, j, &d);
        return false;
    }
}

void sp_engine_restart(sp_engine *e)
{
    for (size_t i = 0; i < e->n_run;) {
        sp_job *j = e->run[i];
        const sp_kv_seq *s = sp_session_seq(j->session);
        bool expired = (s->load && sp_kv_load_expired(s->load)) ||
                       (s->snap_load && sp_kv_load_expired(s->snap_load));
        if (!s->load_failed && !expired) {
            i++;
            continue;
        }
        j->no_fetch = true;
        sp_engine_drop(e, j);
        sp_session_preempt(j->session, e->cfg.pool);
        sp_engine_wait_first(e, j);
    }
}
