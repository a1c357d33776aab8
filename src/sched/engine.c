/* The step engine. Invariants:
 * 1. A job is in one list: `waiting` (submitted, no session pages) or `running`, or it has ended.
 * 2. Only the step thread touches sessions, the pool and the model. The lock guards the waiting
 *    list and each job's event list, cancel flag and notify pointer.
 * 3. A job's events end with exactly one FINISH or ERROR.
 * 4. notify runs without the lock; `notifying` keeps sp_job_put from returning meanwhile.
 * States: WAITING -> RUNNING -> ENDED; RUNNING -> WAITING by preemption. A fork stays WAITING until
 * its parent's prompt is computed, then takes the parent's pages and logits. */
#include "sched/engine.h"

#include "base/clock.h"
#include "base/lock.h"
#include "base/mem.h"

#include <stdatomic.h>
#include <string.h>

enum { IDLE_NS = 20000000 };

typedef enum state { WAITING, RUNNING, ENDED } state;

struct sp_job {
    sp_engine *engine;
    sp_job *next; /* in its list */
    int ref;      /* guard: lock */
    state state;
    _Atomic bool cancel;
    bool notifying;
    sp_event *events, **events_tail; /* guard: lock */
    sp_event *last;                  /* the event that will end it */
    void (*notify)(void *arg);
    void *arg;
    /* owner: step thread, once submitted */
    sp_session *session; /* NULL: an embedding */
    sp_plan plan;
    sp_job *fork_of;     /* holds a reference while waiting */
    char *tenant;
    sp_ids ids;
    float *vector;
    sp_enc_part *part;   /* [n_part] */
    size_t n_part;
    uint8_t *forget;     /* [2][SP_KV_TAG] tenant and conversation: a deletion; NULL: another kind */
    bool forget_conv;
    sp_receipt receipt;
    uint64_t t_submit, t_start, t_first, t_last;
    size_t n_prompt;
    bool gave_first;
    bool no_fetch; /* a load failed or was too slow: compute */
};

typedef struct engine_metrics {
    sp_metric *ttft, *itl, *queue, *e2e, *waiting, *running, *tok_computed, *tok_ram, *tok_ssd, *tok_s3, *tok_spliced, *tok_out, *tok_step;
    sp_metric *flops_spent, *flops_dense, *attn_seen, *attn_kept, *kv_read, *kv_dense, *page_pinned, *page_cached, *evicted, *cancelled, *finished, *failed;
    sp_metric *kv_bytes, *demoted, *attach, *unsaved, *hit_ram;
} engine_metrics;

struct sp_engine {
    sp_engine_cfg cfg;
    pthread_t thread;
    bool started;
    sp_lock lock; /* rank SCHED */
    pthread_cond_t wake, changed;
    sp_job *waiting, **waiting_tail; /* guard: lock */
    size_t n_waiting, n_running;     /* guard: lock */
    bool stop, drain, poked;         /* guard: lock; poked: the tiers have news */
    sp_job **run;                    /* [max_run] oldest first; owner: step thread */
    size_t n_run;
    sp_model_work *work;
    sp_model_span *span;
    sp_job **span_job;
    sp_model_flops flops;
    engine_metrics m;
};

/* --- events ----------------------------------------------------------------------------------- */

static void job_free(sp_job *j)
{
    while (j->events) {
        sp_event *e = j->events;
        j->events = e->next;
        sp_event_free(e);
    }
    sp_event_free(j->last);
    sp_mem_free(j->tenant);
    sp_mem_free(j->vector);
    sp_mem_free(j->part);
    sp_mem_free(j->forget);
    sp_ids_fini(&j->ids);
    sp_mem_free(j);
}

static void job_unref(sp_engine *e, sp_job *j)
{
    sp_lock_get(&e->lock);
    bool last = --j->ref == 0;
    sp_lock_put(&e->lock);
    if (last)
        job_free(j);
}

/* Appends an event and tells the submitter. Takes the event. */
static void post(sp_job *j, sp_event *ev)
{
    sp_engine *e = j->engine;
    sp_lock_get(&e->lock);
    *j->events_tail = ev;
    j->events_tail = &ev->next;
    void (*notify)(void *) = j->notify;
    void *arg = j->arg;
    j->notifying = notify != NULL;
    pthread_cond_broadcast(&e->changed);
    sp_lock_put(&e->lock);
    if (!notify)
        return;
    notify(arg);
    sp_lock_get(&e->lock);
    j->notifying = false;
    pthread_cond_broadcast(&e->changed);
    sp_lock_put(&e->lock);
}

static void count_finish(sp_engine *e, const sp_job *j)
{
    const sp_receipt *r = &j->receipt;
    sp_metric_add(e->m.tok_computed, (double)r->tok_computed);
    sp_metric_add(e->m.tok_ram, (double)r->tok_ram);
    sp_metric_add(e->m.hit_ram, r->tok_ram > 0);
    sp_metric_add(e->m.tok_ssd, (double)r->tok_ssd);
    sp_metric_add(e->m.tok_s3, (double)r->tok_s3);
    sp_metric_add(e->m.tok_spliced, (double)r->tok_spliced);
    sp_metric_add(e->m.flops_spent, r->flops_spent);
    sp_metric_add(e->m.flops_dense, r->flops_dense);
    sp_metric_add(e->m.attn_seen, r->attn_seen);
    sp_metric_add(e->m.attn_kept, r->attn_kept);
    sp_metric_add(e->m.kv_read, r->kv_bytes);
    sp_metric_add(e->m.kv_dense, r->kv_dense);
    sp_metric_observe(e->m.e2e, (double)(sp_clock_ns() - j->t_submit) * 1e-9);
}

/* What attention left out, and the work that saved. */
static void fill_attention(const sp_engine *e, sp_receipt *r, const sp_dev_cert *c)
{
    const sp_kv_shape *shape = sp_kv_pool_shape(e->cfg.pool);
    r->attn_seen = (double)c->n_seen;
    r->attn_kept = (double)c->n_kept;
    r->attn_bound = (double)c->max_loss;
    r->attn_loss = c->sum_loss;
    r->attn_calls = (double)c->n_call;
    r->attn_dense_calls = (double)c->n_dense;
    r->values_seen = (double)c->n_quad;
    r->values_read = (double)c->n_used;
    r->pages_seen = (double)c->n_page;
    r->pages_kept = (double)c->n_chosen;
    r->samples = (double)c->n_sample;
    r->missed = c->sum_missed;
    r->missed_most = (double)c->max_missed;
    r->kv_bytes = (double)c->bytes;
    r->kv_dense = (double)c->dense_bytes;
    /* per_seen is of a query and a key in all layers and heads: scores are half of it, values the other. */
    double n_head = (double)sp_model_arch(e->cfg.model)->n_head, pair = e->flops.per_seen / ((double)shape->n_layer * n_head);
    r->flops_spent -= 0.5 * pair * (double)(c->n_seen - c->n_kept) * n_head / (double)shape->n_head;
    r->flops_spent -= 0.5 * pair * (double)(c->n_quad - c->n_used) * 64 + pair * (double)c->n_skipped;
}

/* Closes the job's books, posts its last event and drops the engine's reference. */
static void end_job(sp_engine *e, sp_job *j, sp_event_kind kind, sp_finish finish, const sp_diag *d)
{
    sp_event *ev = j->last; /* allocated with the job: an end can always be told */
    j->last = NULL;
    uint64_t now = sp_clock_ns();
    ev->kind = kind;
    ev->finish = finish;
    ev->n_prompt = j->n_prompt;
    if (d)
        ev->diag = *d;
    if (j->session) {
        sp_receipt *r = &j->receipt;
        size_t n_out = sp_session_out(j->session);
        r->path = j->plan.path;
        sp_kv_seq_times(sp_session_seq(j->session), &r->ms_first_layer, &r->ms_load);
        r->tok_out = n_out;
        sp_session_source from = sp_session_reused(j->session);
        r->tok_ram = from.ram;
        r->tok_ssd = from.ssd;
        r->tok_s3 = from.s3;
        r->tok_demoted = from.demoted;
        r->tok_spliced = from.spliced;
        r->placed = from.placed;
        r->tok_computed = j->n_prompt - from.ram - from.ssd - from.s3 - from.spliced;
        r->attn_epsilon = j->plan.epsilon;
        r->prefill_keep = j->plan.prefill_keep;
        fill_attention(e, r, sp_session_cert(j->session));
        r->ms_prefill = j->t_first ? (double)(j->t_first - j->t_start) * 1e-6 : 0;
        r->ms_decode = j->t_first ? (double)(now - j->t_first) * 1e-6 : 0;
        /* Dense: the prompt and each step's token go through the layers once, seeing all before. */
        double n = r->steps ? (double)(j->n_prompt + r->steps - 1) : 0;
        r->flops_dense = n * e->flops.per_tok + n * (n + 1) / 2 * e->flops.per_seen + (double)r->steps * e->flops.per_logits;
        ev->receipt = *r;
        sp_session_free(j->session, e->cfg.pool);
        j->session = NULL;
    }
    if (kind == SP_EVENT_FINISH)
        count_finish(e, j);
    sp_metric_add(kind == SP_EVENT_ERROR ? e->m.failed : finish == SP_FINISH_CANCEL ? e->m.cancelled : e->m.finished, 1);
    j->state = ENDED;
    if (j->fork_of)
        job_unref(e, j->fork_of);
    j->fork_of = NULL;
    post(j, ev);
    job_unref(e, j);
}

static void fail_job(sp_engine *e, sp_job *j, const sp_diag *d)
{
    end_job(e, j, SP_EVENT_ERROR, SP_FINISH_STOP, d);
}

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

static sp_job *wait_pop(sp_engine *e)
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
        fail_job(e, j, &d);
    else
        end_job(e, j, SP_EVENT_FINISH, SP_FINISH_STOP, NULL);
}

static void run_forget(sp_engine *e, sp_job *j)
{
    sp_kv_forget f = {.tag = j->forget, .conv = j->forget_conv ? j->forget + SP_KV_TAG : NULL};
    sp_kv_pool_forget(e->cfg.pool, &f);
    j->n_prompt = f.n_page;
    end_job(e, j, SP_EVENT_FINISH, SP_FINISH_STOP, NULL);
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
        sp_job *j = wait_pop(e);
        if (!j)
            break;
        if (atomic_load(&j->cancel)) {
            end_job(e, j, SP_EVENT_FINISH, SP_FINISH_CANCEL, NULL);
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
            fail_job(e, j, &d);
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
        fail_job(e, j, &d);
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
    fail_job(e, j, &d);
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
        post(j, ev);
    }
    if (err == SP_OK && !done)
        return;
    run_remove(e, j);
    if (err != SP_OK)
        fail_job(e, j, &d);
    else
        end_job(e, j, SP_EVENT_FINISH, finish, NULL);
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
            fail_job(e, j, &d);
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
static void idle(sp_engine *e)
{
    sp_lock_get(&e->lock);
    if (!e->poked && !e->stop)
        sp_lock_wait(&e->lock, &e->wake, IDLE_NS);
    sp_lock_put(&e->lock);
}

/* Takes in what the tiers have finished. News that comes from here on is another poke, so none is slept over. */
static bool take_news(sp_engine *e)
{
    sp_lock_get(&e->lock);
    e->poked = false;
    sp_lock_put(&e->lock);
    return sp_kv_pool_poll(e->cfg.pool);
}

static void step(sp_engine *e)
{
    for (size_t i = 0; i < e->n_run;) {
        sp_job *j = e->run[i];
        if (!atomic_load(&j->cancel)) {
            i++;
            continue;
        }
        run_remove(e, j);
        end_job(e, j, SP_EVENT_FINISH, SP_FINISH_CANCEL, NULL);
    }
    (void)take_news(e);
    restart_failed(e);
    bool worked = admit(e);
    size_t n_span = plan_step(e), n_tok = 0;
    if (n_span == 0 && !worked && sp_kv_pool_is_busy(e->cfg.pool))
        idle(e);
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
            fail_job(e, j, &d);
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

static void publish(sp_engine *e)
{
    sp_kv_stat st;
    sp_kv_pool_stat(e->cfg.pool, &st);
    sp_metric_set(e->m.page_pinned, (double)st.n_pinned);
    sp_metric_set(e->m.page_cached, (double)st.n_cached);
    sp_metric_set(e->m.kv_bytes, (double)st.n_bytes);
    sp_metric_set(e->m.demoted, (double)st.n_demoted);
    sp_metric_set(e->m.unsaved, (double)st.n_unsaved);
    sp_metric_set(e->m.evicted, (double)st.n_evicted);
    sp_metric_set(e->m.running, (double)e->n_run);
    sp_lock_get(&e->lock);
    sp_metric_set(e->m.waiting, (double)e->n_waiting);
    e->n_running = e->n_run;
    sp_lock_put(&e->lock);
}

static void *engine_main(void *arg)
{
    sp_engine *e = arg;
    for (;;) {
        sp_lock_get(&e->lock);
        while (!e->stop && !e->waiting && e->n_run == 0 && !e->poked)
            sp_lock_wait(&e->lock, &e->wake, 0);
        bool stop = e->stop;
        sp_lock_put(&e->lock);
        if (stop)
            break;
        step(e);
        publish(e);
    }
    while (e->n_run) {
        sp_job *j = e->run[--e->n_run];
        end_job(e, j, SP_EVENT_FINISH, SP_FINISH_CANCEL, NULL);
    }
    for (sp_job *j; (j = wait_pop(e));)
        end_job(e, j, SP_EVENT_FINISH, SP_FINISH_CANCEL, NULL);
    return NULL;
}

/* --- public ----------------------------------------------------------------------------------- */

static void add_metrics(sp_engine *e)
{
    sp_metrics *m = e->cfg.metrics;
    e->m = (engine_metrics){
        .ttft = sp_metric_seconds(m, "sparing_time_to_first_token_seconds", "From arrival to the first text.", NULL),
        .itl = sp_metric_seconds(m, "sparing_inter_token_latency_seconds", "Between two pieces of text.", NULL),
        .queue = sp_metric_seconds(m, "sparing_queue_time_seconds", "From arrival to the first step.", NULL),
        .e2e = sp_metric_seconds(m, "sparing_request_duration_seconds", "From arrival to the end.", NULL),
        .waiting = sp_metric_gauge(m, "sparing_requests_waiting", "Requests in the queue.", NULL),
        .running = sp_metric_gauge(m, "sparing_requests_running", "Sequences that move in each step.", NULL),
        .tok_computed = sp_metric_counter(m, "sparing_prompt_tokens_total", "Prompt tokens by source.", "source=\"computed\""),
        .tok_ram = sp_metric_counter(m, "sparing_prompt_tokens_total", "Prompt tokens by source.", "source=\"ram\""),
        .tok_ssd = sp_metric_counter(m, "sparing_prompt_tokens_total", "Prompt tokens by source.", "source=\"ssd\""),
        .tok_s3 = sp_metric_counter(m, "sparing_prompt_tokens_total", "Prompt tokens by source.", "source=\"s3\""),
        .tok_spliced = sp_metric_counter(m, "sparing_prompt_tokens_total", "Prompt tokens by source.", "source=\"spliced\""),
        .tok_out = sp_metric_counter(m, "sparing_generated_tokens_total", "Tokens chosen.", NULL),
        .tok_step = sp_metric_counter(m, "sparing_computed_tokens_total", "Tokens that went through the layers.", NULL),
        .flops_spent = sp_metric_counter(m, "sparing_flops_total", "Arithmetic of finished requests.", "kind=\"spent\""),
        .flops_dense = sp_metric_counter(m, "sparing_flops_total", "Arithmetic of finished requests.", "kind=\"dense\""),
        .attn_seen = sp_metric_counter(m, "sparing_attention_keys_total", "Keys in certified attention.", "kind=\"seen\""),
        .attn_kept = sp_metric_counter(m, "sparing_attention_keys_total", "Keys in certified attention.", "kind=\"kept\""),
        .kv_read = sp_metric_counter(m, "sparing_attention_bytes_total", "Keys and values in certified attention.", "kind=\"read\""),
        .kv_dense = sp_metric_counter(m, "sparing_attention_bytes_total", "Keys and values in certified attention.", "kind=\"dense\""),
        .page_pinned = sp_metric_gauge(m, "sparing_kv_pages", "KV pages in RAM.", "state=\"pinned\""),
        .page_cached = sp_metric_gauge(m, "sparing_kv_pages", "KV pages in RAM.", "state=\"cached\""),
        .kv_bytes = sp_metric_gauge(m, "sparing_kv_bytes", "Bytes of KV pages.", "tier=\"ram\""),
        .demoted = sp_metric_gauge(m, "sparing_kv_demoted_pages", "Pages in RAM that gave up their lo parts.", NULL),
        .unsaved = sp_metric_gauge(m, "sparing_kv_unsaved_pages", "Pages not written because too many were waiting, since start.", NULL),
        .hit_ram = sp_metric_counter(m, "sparing_kv_hits_total", "Loads of prefixes by tier.", "source=\"ram\""),
        .attach = sp_metric_seconds(m, "sparing_kv_attach_seconds", "Looking up and pinning what is known of a prompt.", NULL),
        .evicted = sp_metric_gauge(m, "sparing_kv_evicted_pages", "Cached pages given up since start.", NULL),
        .finished = sp_metric_counter(m, "sparing_requests_total", "Ended requests.", "result=\"finished\""),
        .cancelled = sp_metric_counter(m, "sparing_requests_total", "Ended requests.", "result=\"cancelled\""),
        .failed = sp_metric_counter(m, "sparing_requests_total", "Ended requests.", "result=\"failed\""),
    };
}

static void poke(void *arg)
{
    sp_engine *e = arg;
    sp_lock_get(&e->lock);
    e->poked = true;
    pthread_cond_signal(&e->wake);
    sp_lock_put(&e->lock);
}

sp_err sp_engine_new(sp_engine **out, const sp_engine_cfg *cfg, sp_diag *d)
{
    sp_engine *e = sp_mem_alloc(sizeof *e);
    if (!e)
        return SP_FAIL(d, SP_NOMEM, "engine");
    e->cfg = *cfg;
    sp_lock_init(&e->lock, SP_RANK_SCHED);
    sp_lock_cond_init(&e->wake);
    sp_lock_cond_init(&e->changed);
    e->waiting_tail = &e->waiting;
    e->flops = sp_model_flops_of(cfg->model);
    add_metrics(e);
    e->run = sp_mem_array(cfg->max_run, sizeof *e->run);
    e->span = sp_mem_array(cfg->max_run, sizeof *e->span);
    e->span_job = sp_mem_array(cfg->max_run, sizeof *e->span_job);
    sp_err err = e->run && e->span && e->span_job ? SP_OK : SP_FAIL(d, SP_NOMEM, "engine");
    if (err == SP_OK)
        err = sp_model_work_new(&e->work, cfg->model, cfg->chunk_tok + cfg->max_run, cfg->max_run, d);
    if (err == SP_OK && pthread_create(&e->thread, NULL, engine_main, e) != 0)
        err = SP_FAIL(d, SP_NOMEM, "engine: cannot start its thread");
    e->started = err == SP_OK;
    if (err == SP_OK && cfg->tier)
        sp_kv_tier_on_change(cfg->tier, poke, e);
    if (err == SP_OK)
        *out = e;
    else
        sp_engine_free(e);
    return err;
}

/* Loads and writes borrow the pool's pages: they end before it does. */
static void settle(sp_engine *e)
{
    while (take_news(e) || sp_kv_pool_is_busy(e->cfg.pool))
        idle(e);
}

void sp_engine_free(sp_engine *e)
{
    if (!e)
        return;
    if (e->started) {
        sp_lock_get(&e->lock);
        e->stop = true;
        pthread_cond_broadcast(&e->wake);
        sp_lock_put(&e->lock);
        pthread_join(e->thread, NULL);
        e->stop = false; /* idle waits again */
        settle(e);
        if (e->cfg.tier)
            sp_kv_tier_on_change(e->cfg.tier, NULL, NULL);
    }
    sp_model_work_free(e->work);
    sp_mem_free(e->run);
    sp_mem_free(e->span);
    sp_mem_free(e->span_job);
    sp_lock_fini(&e->lock);
    pthread_cond_destroy(&e->wake);
    pthread_cond_destroy(&e->changed);
    sp_mem_free(e);
}

void sp_engine_drain(sp_engine *e)
{
    sp_lock_get(&e->lock);
    e->drain = true;
    sp_lock_put(&e->lock);
}

bool sp_engine_is_idle(sp_engine *e)
{
    sp_lock_get(&e->lock);
    bool idle = !e->waiting && e->n_running == 0;
    sp_lock_put(&e->lock);
    return idle;
}

const sp_engine_cfg *sp_engine_config(const sp_engine *e)
{
    return &e->cfg;
}

static sp_err enqueue(sp_engine *e, sp_job *j, sp_diag *d)
{
    sp_err err = SP_OK;
    sp_lock_get(&e->lock);
    if (e->drain || e->stop) {
        err = SP_FAIL(d, SP_CANCEL, "the server is shutting down");
    } else if (e->n_waiting >= e->cfg.max_queue) {
        err = SP_FAIL(d, SP_LIMIT, "%zu requests are waiting already", e->n_waiting);
    } else {
        if (j->fork_of)
            j->fork_of->ref++;
        j->ref = 2;
        j->t_submit = sp_clock_ns();
        *e->waiting_tail = j;
        e->waiting_tail = &j->next;
        e->n_waiting++;
        e->n_running += e->n_running == 0; /* not idle between here and the next step */
        pthread_cond_signal(&e->wake);
    }
    sp_lock_put(&e->lock);
    return err;
}

static sp_job *job_new(sp_engine *e, void (*notify)(void *arg), void *arg)
{
    sp_job *j = sp_mem_alloc(sizeof *j);
    if (!j)
        return NULL;
    j->last = sp_mem_alloc(sizeof *j->last);
    if (!j->last) {
        sp_mem_free(j);
        return NULL;
    }
    j->engine = e;
    j->events_tail = &j->events;
    j->notify = notify;
    j->arg = arg;
    return j;
}

/* Positions one sequence can use: the context, or all pages if they hold less. */
static size_t position_cap(const sp_engine *e)
{
    size_t pool_cap = sp_kv_pool_cap(e->cfg.pool) * SP_PAGE_TOK;
    return e->cfg.n_ctx < pool_cap ? e->cfg.n_ctx : pool_cap;
}

static sp_err check_fit(const sp_engine *e, const sp_job_cfg *cfg, sp_diag *d)
{
    size_t cap = position_cap(e);
    if (cfg->n_tok == 0)
        return SP_FAIL(d, SP_INVAL, "the prompt is empty");
    if (cfg->n_tok >= cap)
        return SP_FAIL(d, SP_INVAL, "the prompt has %zu tokens, the context holds %zu and the answer needs at least one",
                       cfg->n_tok, cap);
    return SP_OK;
}

sp_err sp_job_submit(sp_job **out, sp_engine *e, const sp_job_cfg *cfg, sp_diag *d)
{
    SP_TRY(check_fit(e, cfg, d));
    sp_job *j = job_new(e, cfg->notify, cfg->arg);
    if (!j)
        return SP_FAIL(d, SP_NOMEM, "request");
    sp_session_cfg session = cfg->session;
    size_t room = position_cap(e) - cfg->n_tok;
    session.max_tok = session.max_tok < room ? session.max_tok : room;
    j->plan = cfg->plan;
    j->n_prompt = cfg->n_tok;
    j->receipt.ms_intent = cfg->ms_intent;
    j->receipt.ms_retrieval = cfg->ms_retrieval;
    j->fork_of = cfg->fork_of;
    j->tenant = sp_mem_strdup(cfg->tenant);
    sp_err err = j->tenant ? sp_session_new(&j->session, &session, e->cfg.tok, cfg->tok, cfg->n_tok, d) : SP_FAIL(d, SP_NOMEM, "request");
    if (err == SP_OK)
        err = enqueue(e, j, d);
    if (err == SP_OK) {
        *out = j;
    } else {
        sp_session_free(j->session, e->cfg.pool);
        job_free(j);
    }
    return err;
}

sp_err sp_job_embed(sp_job **out, sp_engine *e, const uint32_t *id, size_t n, const sp_enc_part *part, size_t n_part,
                    void (*notify)(void *arg), void *arg, sp_diag *d)
{
    if (!e->cfg.encoder)
        return SP_FAIL(d, SP_UNSUP, "no embedding model is loaded");
    if (n > sp_encoder_cap(e->cfg.encoder))
        return SP_FAIL(d, SP_INVAL, "the text has %zu tokens, the embedding model takes at most %zu", n,
                       sp_encoder_cap(e->cfg.encoder));
    sp_job *j = job_new(e, notify, arg);
    if (!j)
        return SP_FAIL(d, SP_NOMEM, "request");
    j->n_prompt = n;
    j->vector = sp_mem_array((1 + n_part) * sp_encoder_dim(e->cfg.encoder), sizeof *j->vector);
    j->part = sp_mem_array(n_part + 1, sizeof *j->part);
    j->n_part = n_part;
    sp_err err = j->vector && j->part ? SP_OK : SP_NOMEM;
    if (err == SP_OK && n_part)
        memcpy(j->part, part, n_part * sizeof *part);
    if (err == SP_OK)
        err = sp_ids_add(&j->ids, id, n);
    err = err != SP_OK ? SP_FAIL(d, err, "request") : enqueue(e, j, d);
    if (err == SP_OK)
        *out = j;
    else
        job_free(j);
    return err;
}

sp_err sp_job_forget(sp_job **out, sp_engine *e, const uint8_t *tag, const uint8_t *conv, sp_diag *d)
{
    sp_job *j = job_new(e, NULL, NULL);
    if (j)
        j->forget = sp_mem_alloc(2 * SP_KV_TAG);
    if (!j || !j->forget) {
        if (j)
            job_free(j);
        return SP_FAIL(d, SP_NOMEM, "request");
    }
    memcpy(j->forget, tag, SP_KV_TAG);
    if (conv)
        memcpy(j->forget + SP_KV_TAG, conv, SP_KV_TAG);
    j->forget_conv = conv != NULL;
    sp_err err = enqueue(e, j, d);
    if (err == SP_OK)
        *out = j;
    else
        job_free(j);
    return err;
}

sp_event *sp_job_next(sp_job *j)
{
    sp_engine *e = j->engine;
    sp_lock_get(&e->lock);
    sp_event *ev = j->events;
    if (ev) {
        j->events = ev->next;
        if (!j->events)
            j->events_tail = &j->events;
        ev->next = NULL;
    }
    sp_lock_put(&e->lock);
    return ev;
}

void sp_job_wait(sp_job *j, uint64_t timeout_ns)
{
    sp_engine *e = j->engine;
    sp_lock_get(&e->lock);
    if (!j->events)
        sp_lock_wait(&e->lock, &e->changed, timeout_ns);
    sp_lock_put(&e->lock);
}

const float *sp_job_vector(const sp_job *j)
{
    return j->vector;
}

void sp_job_cancel(sp_job *j)
{
    atomic_store(&j->cancel, true);
}

void sp_job_put(sp_job *j)
{
    if (!j)
        return;
    sp_engine *e = j->engine;
    sp_job_cancel(j);
    sp_lock_get(&e->lock);
    j->notify = NULL;
    while (j->notifying)
        sp_lock_wait(&e->lock, &e->changed, 0);
    sp_lock_put(&e->lock);
    job_unref(e, j);
}
