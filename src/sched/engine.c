/* The engine's thread, and the way in and out of it. */
#include "sched/engine_int.h"

#include "base/log.h"
#include "dev/peak.h"

#include <string.h>

enum { OUT_START = 128 /* tokens of an answer, before there were any */, MEASURE_MS = 1500 };

/* c(M) for a few M, before the first request. What cannot be measured here comes with the first
 * steps. */
static void measure_cost(sp_engine *e)
{
    static const size_t points[] = {64, 1, 4, 16, 64, 256};
    uint32_t tok[256];
    sp_kv_seq s;
    for (size_t i = 0; i < 256; i++) /* of many kinds: what a step reads may depend on them */
        tok[i] = (uint32_t)(i * 7919 % sp_model_arch(e->cfg.model)->n_vocab);
    if (sp_kv_seq_init(&s, e->cfg.pool, "", NULL) != SP_OK)
        return;
    s.private_from = 1;
    uint64_t begin = sp_clock_ns();
    for (size_t i = 0; i < sizeof points / sizeof points[0] && points[i] <= e->cfg.chunk_tok &&
                       sp_clock_ms(begin) < MEASURE_MS;
         i++) {
        const sp_model_span span = {.seq = &s, .tok = tok, .n = points[i], .n_logits = 1};
        const float *logits;
        if (s.n_tok + points[i] > e->cfg.n_ctx ||
            sp_kv_seq_reserve(&s, e->cfg.pool, points[i]) != SP_OK)
            break;
        sp_engine_take_cores(e);
        uint64_t t = sp_clock_ns();
        if (sp_model_forward(e->cfg.model, e->work, e->cfg.pool, &span, 1, &logits, NULL) != SP_OK)
            break;
        double seconds = sp_clock_ms(t) * 1e-3;
        sp_lock_get(&e->lock);
        if (i > 0) /* the first one touches the weights */
            sp_cost_note(&e->cost, points[i], sp_cost_seen(s.n_tok, points[i]), seconds);
        sp_lock_put(&e->lock);
    }
    sp_kv_seq_fini(&s, e->cfg.pool);
    sp_log(SP_LOG_DEBUG, "a step of 1, 4, 16, 64, 256 tokens takes %.1f, %.1f, %.1f, %.1f, %.1f ms",
           1e3 * sp_cost_of(&e->cost, 1), 1e3 * sp_cost_of(&e->cost, 4),
           1e3 * sp_cost_of(&e->cost, 16), 1e3 * sp_cost_of(&e->cost, 64),
           1e3 * sp_cost_of(&e->cost, 256));
}

static bool knows(const sp_engine *e)
{
    return e->cfg.learned && e->cfg.learned->is_known;
}

static void take_learned(sp_engine *e)
{
    if (!knows(e))
        return;
    e->cost = e->cfg.learned->cost;
    e->drafts.accept = e->cfg.learned->accept;
    memcpy(e->run_cost, e->cfg.learned->run_cost, sizeof e->run_cost);
}

/* Its thread has ended. */
static void give_learned(const sp_engine *e)
{
    sp_engine_learned *to = e->cfg.learned;
    if (!to)
        return;
    *to = (sp_engine_learned){.is_known = true, .cost = e->cost, .accept = e->drafts.accept};
    memcpy(to->run_cost, e->run_cost, sizeof to->run_cost);
}

/* Is there nothing to do? */
static bool is_free(sp_engine *e)
{
    sp_lock_get(&e->lock);
    bool is = !e->waiting && e->n_run == 0;
    sp_lock_put(&e->lock);
    return is;
}

void sp_engine_lose(sp_engine *e)
{
    sp_diag d = {0};
    (void)SP_FAIL(&d, SP_DEV, "the device is lost: the server ends");
    sp_lock_get(&e->lock);
    e->lost = true;
    sp_lock_put(&e->lock);
    while (e->n_run) {
        sp_job *j = e->run[0];
        sp_engine_drop(e, j);
        sp_job_fail(e, j, &d);
    }
    for (sp_job *j; (j = sp_engine_pop(e, false)) || (j = sp_engine_pop(e, true));)
        sp_job_fail(e, j, &d);
    if (e->cfg.lost)
        atomic_store(e->cfg.lost, true);
}

static void *engine_main(void *arg)
{
    sp_engine *e = arg;
    if (e->cfg.model && !knows(e))
        measure_cost(e);
    for (;;) {
        if (is_free(e))
            sp_engine_leave_cores(e);
        sp_lock_get(&e->lock);
        while (!e->stop && !e->waiting && e->n_run == 0 && !e->poked)
            sp_lock_wait(&e->lock, &e->wake, 0);
        bool stop = e->stop;
        sp_lock_put(&e->lock);
        if (stop)
            break;
        sp_engine_step(e);
        sp_engine_publish(e);
    }
    sp_engine_leave_cores(e);
    while (e->n_run) {
        sp_job *j = e->run[--e->n_run];
        sp_job_end(e, j, SP_EVENT_FINISH, SP_FINISH_CANCEL, NULL);
    }
    for (sp_job *j; (j = sp_engine_pop(e, false)) || (j = sp_engine_pop(e, true));)
        sp_job_end(e, j, SP_EVENT_FINISH, SP_FINISH_CANCEL, NULL);
    return NULL;
}

/* --- public ----------------------------------------------------------------------------------- */

static void poke(void *arg)
{
    sp_engine *e = arg;
    sp_lock_get(&e->lock);
    e->poked = true;
    pthread_cond_signal(&e->wake);
    sp_lock_put(&e->lock);
}

static void set_drafts(sp_engine *e)
{
    static sp_draft_source lookup = {.kind = &sp_draft_lookup},
                           prediction = {
                               .kind = &sp_draft_prediction}; /* without state; never written */
    sp_drafts *d = &e->drafts;
    sp_accept_init(&d->accept);
    d->source[d->n++] = &lookup;
    d->source[d->n++] = &prediction;
    for (size_t i = 0; i < e->cfg.n_draft && d->n < SP_DRAFTERS; i++)
        d->source[d->n++] = e->cfg.draft[i];
}

/* The hidden states that drafters ask for. */
static sp_err keep_states(sp_engine *e, sp_diag *d)
{
    for (size_t k = 0; k < e->drafts.n; k++)
        for (size_t i = 0; i < e->drafts.source[k]->n_layer; i++) {
            size_t layer = e->drafts.source[k]->layer[i];
            if (layer + 1 < sp_model_arch(e->cfg.model)->n_layer)
                SP_TRY(sp_model_work_keep(e->work, e->cfg.model, layer, d));
        }
    return SP_OK;
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
    sp_fair_init(&e->own_fair);
    e->fair = cfg->cores ? sp_cores_fair(cfg->cores) : &e->own_fair;
    sp_fair_join(e->fair, &e->part);
    e->tok_weight = cfg->tok_weight > 0 ? cfg->tok_weight : 1;
    if (cfg->model)
        e->flops = sp_model_flops_of(cfg->model);
    sp_engine_metrics(e);
    for (int i = 0; i < SP_CLASSES; i++)
        e->out_mean[i] = OUT_START;
    /* measured once: later, others may be computing */
    if (cfg->dev && !(sp_metric_value(e->m.peak) > 0))
        sp_metric_set(e->m.peak, 2 * sp_dev_peak_macs(cfg->dev));
    e->run = sp_mem_array(cfg->max_run, sizeof *e->run);
    e->order = sp_mem_array(cfg->max_run, sizeof *e->order);
    e->span = sp_mem_array(cfg->max_run + SP_TRIAL_STEP, sizeof *e->span);
    e->span_job = sp_mem_array(cfg->max_run + SP_TRIAL_STEP, sizeof *e->span_job);
    e->best = sp_mem_array(cfg->max_run, sizeof *e->best);
    e->guess = sp_mem_array(cfg->max_run, sizeof *e->guess);
    e->draft_run = sp_mem_array(cfg->max_run, sizeof *e->draft_run);
    set_drafts(e);
    take_learned(e);
    sp_err err = e->run && e->order && e->span && e->span_job && e->best && e->guess && e->draft_run
                     ? SP_OK
                     : SP_FAIL(d, SP_NOMEM, "engine");
    if (err == SP_OK && cfg->model)
        err = sp_model_work_new(&e->work, cfg->model,
                                sp_engine_step_tok(cfg->chunk_tok, cfg->max_run),
                                sp_engine_step_logits(cfg->max_run), d);
    if (err == SP_OK && cfg->model)
        err = keep_states(e, d);
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
    while (sp_engine_take_news(e) || (e->cfg.pool && sp_kv_pool_is_busy(e->cfg.pool)))
        sp_engine_idle(e);
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
        give_learned(e);
        e->stop = false; /* idle waits again */
        settle(e);
        if (e->cfg.tier)
            sp_kv_tier_on_change(e->cfg.tier, NULL, NULL);
        sp_engine_unpublish(e);
    }
    sp_model_work_free(e->work);
    sp_mem_free(e->run);
    sp_mem_free(e->order);
    sp_fair_quit(e->fair, &e->part);
    sp_fair_fini(&e->own_fair);
    sp_mem_free(e->span);
    sp_mem_free(e->span_job);
    sp_mem_free(e->best);
    sp_mem_free(e->guess);
    sp_mem_free(e->draft_run);
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

size_t sp_engine_running(sp_engine *e)
{
    sp_lock_get(&e->lock);
    size_t n = e->n_running;
    sp_lock_put(&e->lock);
    return n;
}

double sp_engine_prompt_s(sp_engine *e, size_t from, size_t to)
{
    sp_lock_get(&e->lock);
    double s = sp_cost_prompt(&e->cost, e->cfg.chunk_tok, from, to);
    sp_lock_put(&e->lock);
    return s;
}

double sp_engine_backlog(sp_engine *e)
{
    sp_lock_get(&e->lock);
    double s = e->backlog + sp_fair_others(e->fair, &e->part).backlog;
    sp_lock_put(&e->lock);
    return s;
}

const sp_engine_cfg *sp_engine_config(const sp_engine *e)
{
    return &e->cfg;
}

/* May n jobs with so much work come in? The limits hold over all engines. The lock is held. */
static sp_err claim(sp_engine *e, bool completion, size_t n, double work, sp_diag *d)
{
    const sp_fair_part here = {.n_waiting = e->n_waiting, .backlog = e->backlog},
                       more = {.n_waiting = n, .backlog = work};
    const sp_fair_part most = {.n_waiting = e->cfg.max_queue,
                               .backlog = completion ? e->cfg.max_wait_s : 0};
    sp_fair_part all;
    if (e->lost)
        return SP_FAIL(d, SP_DEV, "the device is lost: the server ends");
    if (e->drain || e->stop)
        return SP_FAIL(d, SP_CANCEL, "the server is shutting down");
    if (sp_fair_claim(e->fair, &e->part, &here, &more, &most, &all))
        return SP_OK;
    sp_metric_add(e->m.refused, 1);
    return all.n_waiting >= most.n_waiting
               ? SP_FAIL(d, SP_LIMIT, "%zu requests are waiting already", all.n_waiting)
               : SP_FAIL(d, SP_LIMIT, "%.0f s of work are waiting already", all.backlog);
}

static sp_err open_accounts(sp_engine *e, sp_job *const *j, size_t n, sp_diag *d)
{
    for (size_t i = 0; i < n && j[i]->session; i++) {
        if (sp_fair_enter(e->fair, &j[i]->account, j[i]->tenant, j[i]->flow) == SP_OK)
            continue;
        while (i--)
            sp_fair_leave(e->fair, j[i]->account);
        return SP_FAIL(d, SP_NOMEM, "request");
    }
    return SP_OK;
}

/* Jobs of one request, all or none: no step begins between the first and the last of them. The
 * later ones fork from the first. */
static sp_err enqueue(sp_engine *e, sp_job *const *j, size_t n, sp_diag *d)
{
    double work = 0;
    sp_lock_get(&e->lock);
    for (size_t i = 0; i < n; i++)
        work += sp_job_work(e, j[i]);
    sp_err err = claim(e, j[0]->session != NULL, n, work, d);
    if (err == SP_OK)
        err = open_accounts(e, j, n, d);
    if (err != SP_OK)
        sp_fair_tell(e->fair, &e->part, e->n_waiting, e->backlog);
    for (size_t i = 0; i < n && err == SP_OK; i++) {
        j[i]->fork_of = i ? j[0] : NULL;
        j[0]->ref += i > 0;
        j[i]->ref += 2;
        j[i]->t_submit = sp_clock_ns();
        j[i]->deadline = j[i]->deadline ? j[i]->deadline + j[i]->t_submit : 0;
        j[i]->goal_first = j[i]->goal_first ? j[i]->goal_first + j[i]->t_submit : 0;
        *e->waiting_tail = j[i];
        e->waiting_tail = &j[i]->next;
        e->n_waiting++;
    }
    if (err == SP_OK) {
        e->backlog += work;
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

/* Positions one sequence can use: the context, or all pages if they hold less and the model needs
 * them all. */
static size_t position_cap(const sp_engine *e)
{
    size_t pool_cap = sp_kv_pool_positions(e->cfg.pool, e->cfg.chunk_tok);
    return e->cfg.n_ctx < pool_cap ? e->cfg.n_ctx : pool_cap;
}

size_t sp_engine_room(const sp_engine *e, size_t n_tok)
{
    size_t n_kv = sp_kv_pool_positions(e->cfg.pool, e->cfg.chunk_tok),
           used = n_tok + SP_PAGE_TOK /* its last page is open */;
    size_t left = used < n_kv ? n_kv - used : 0, cap = position_cap(e);
    return left < cap ? left : cap;
}

sp_err sp_engine_fits(const sp_engine *e, size_t n_tok, sp_diag *d)
{
    size_t cap = position_cap(e);
    if (n_tok == 0)
        return SP_FAIL(d, SP_INVAL, "the prompt is empty");
    if (n_tok >= cap)
        return SP_FAIL(
            d, SP_LIMIT,
            "the prompt has %zu tokens, the context holds %zu and the answer needs at least one",
            n_tok, cap);
    return SP_OK;
}

/* Answer number i to the prompt. Takes nothing on failure. */
static sp_err new_answer(sp_job **out, sp_engine *e, const sp_job_cfg *cfg, size_t i, sp_diag *d)
{
    sp_job *j = job_new(e, cfg->notify, cfg->arg);
    if (!j)
        return SP_FAIL(d, SP_NOMEM, "request");
    sp_session_cfg session = cfg->session;
    size_t room = position_cap(e) - cfg->n_tok;
    session.max_tok = session.max_tok < room ? session.max_tok : room;
    session.drafts = cfg->plan.draft ? &e->drafts : NULL;
    session.drafters = cfg->plan.drafters;
    session.sample.seed += i;
    session.sample.temperature =
        cfg->temperature ? cfg->temperature[i] : session.sample.temperature;
    session.prompt_logprobs = session.prompt_logprobs && i == 0;
    j->plan = cfg->plan;
    j->max_out = session.max_tok;
    j->is_cut = session.doubt.n_tok || session.one_sentence || session.traces;
    j->priority = cfg->priority;
    j->deadline = cfg->deadline_ms > 0 ? (uint64_t)(cfg->deadline_ms * 1e6) : 0;
    j->n_prompt = j->n_asked = cfg->n_tok;
    j->receipt.ms_intent = cfg->ms_intent;
    j->receipt.ms_retrieval = cfg->ms_retrieval;
    j->least_known = cfg->least_known;
    j->goal_first = (uint64_t)(cfg->goal_first_ms * 1e6);
    j->goal_tok_ms = cfg->goal_tok_ms;
    j->tenant = sp_mem_strdup(cfg->tenant);
    j->flow = sp_mem_strdup(cfg->flow ? cfg->flow : "");
    sp_err err = j->tenant && j->flow
                     ? sp_session_new(&j->session, &session, e->cfg.tok, cfg->tok, cfg->n_tok, d)
                     : SP_FAIL(d, SP_NOMEM, "request");
    if (err == SP_OK)
        *out = j;
    else
        sp_job_free(j);
    return err;
}

sp_err sp_job_submit(sp_job **out, sp_engine *e, const sp_job_cfg *cfg, sp_diag *d)
{
    sp_job *job[SP_JOB_ANSWERS] = {0};
    size_t n = cfg->n_answer ? cfg->n_answer : 1;
    SP_ASSERT(n <= SP_JOB_ANSWERS);
    if (sp_engine_fits(e, cfg->n_tok, d) != SP_OK) {
        if (d)
            d->code = SP_INVAL; /* SP_LIMIT is for what may fare better later */
        return SP_INVAL;
    }
    sp_err err = SP_OK;
    for (size_t i = 0; i < n && err == SP_OK; i++)
        err = new_answer(&job[i], e, cfg, i, d);
    if (err == SP_OK)
        err = enqueue(e, job, n, d);
    if (err == SP_OK) {
        memcpy(out, job, n * sizeof *job);
        return SP_OK;
    }
    for (size_t i = 0; i < n && job[i]; i++) {
        sp_session_free(job[i]->session, e->cfg.pool);
        sp_job_free(job[i]);
    }
    return err;
}

/* A job of an encoder's, with room for so many vectors; none of its texts is there yet. */
static sp_err new_embedding(sp_job **out, sp_engine *e, sp_encoder *encoder, size_t n_vector,
                            void (*notify)(void *arg), void *arg, sp_diag *d)
{
    if (!encoder)
        return SP_FAIL(d, SP_UNSUP, "no embedding model is loaded");
    sp_job *j = job_new(e, notify, arg);
    if (j)
        j->vector = sp_mem_array(n_vector * sp_encoder_dim(encoder), sizeof *j->vector);
    if (j && !j->vector) {
        sp_job_free(j);
        j = NULL;
    }
    if (j)
        j->encoder = encoder;
    *out = j;
    return j ? SP_OK : SP_FAIL(d, SP_NOMEM, "request");
}

static sp_err check_length(const sp_job *j, size_t n, sp_diag *d)
{
    size_t cap = sp_encoder_cap(j->encoder);
    return n <= cap
               ? SP_OK
               : SP_FAIL(d, SP_INVAL,
                         "the text has %zu tokens, the embedding model takes at most %zu", n, cap);
}

/* Takes the job, whatever comes of it. */
static sp_err enqueue_embedding(sp_job **out, sp_job *j, const uint32_t *id, size_t n, sp_diag *d)
{
    j->n_prompt = n;
    sp_err err = sp_ids_add(&j->ids, id, n) == SP_OK ? enqueue(j->engine, &j, 1, d)
                                                     : SP_FAIL(d, SP_NOMEM, "request");
    if (err == SP_OK)
        *out = j;
    else
        sp_job_free(j);
    return err;
}

sp_err sp_job_embed(sp_job **out, sp_engine *e, const uint32_t *id, size_t n,
                    const sp_enc_part *part, size_t n_part, void (*notify)(void *arg), void *arg,
                    sp_diag *d)
{
    sp_job *j;
    SP_TRY(new_embedding(&j, e, e->cfg.encoder, 1 + n_part, notify, arg, d));
    j->part = sp_mem_array(n_part + 1, sizeof *j->part);
    j->n_part = n_part;
    sp_err err = j->part ? check_length(j, n, d) : SP_FAIL(d, SP_NOMEM, "request");
    if (err != SP_OK) {
        sp_job_free(j);
        return err;
    }
    if (n_part)
        memcpy(j->part, part, n_part * sizeof *part);
    return enqueue_embedding(out, j, id, n, d);
}

static sp_err copy_texts(sp_job *j, const sp_texts *t, sp_diag *d)
{
    j->n_text = t->n;
    j->end = sp_mem_array(t->n, sizeof *j->end);
    j->second = t->second ? sp_mem_array(t->n, sizeof *j->second) : NULL;
    if (!t->n || !j->end || (t->second && !j->second))
        return SP_FAIL(d, SP_NOMEM, "request");
    memcpy(j->end, t->end, t->n * sizeof *j->end);
    if (t->second)
        memcpy(j->second, t->second, t->n * sizeof *j->second);
    for (size_t i = 0; i < t->n; i++)
        SP_TRY(check_length(j, t->end[i] - (i ? t->end[i - 1] : 0), d));
    return SP_OK;
}

sp_err sp_job_texts(sp_job **out, sp_engine *e, const sp_texts *t, void (*notify)(void *arg),
                    void *arg, sp_diag *d)
{
    sp_job *j;
    SP_TRY(new_embedding(&j, e, t->encoder ? t->encoder : e->cfg.encoder, t->n, notify, arg, d));
    sp_err err = copy_texts(j, t, d);
    if (err != SP_OK) {
        sp_job_free(j);
        return err;
    }
    SP_TRY(enqueue_embedding(out, j, t->id, t->end[t->n - 1], d));
    (*out)->done = t->done; /* it is not freed while the caller holds it */
    (*out)->done_arg = t->arg;
    return SP_OK;
}

sp_err sp_job_forget(sp_job **out, sp_engine *e, const uint8_t *tag, const uint8_t *conv,
                     sp_diag *d)
{
    sp_job *j = job_new(e, NULL, NULL);
    if (j)
        j->forget = sp_mem_alloc(2 * SP_KV_TAG);
    if (!j || !j->forget) {
        if (j)
            sp_job_free(j);
        return SP_FAIL(d, SP_NOMEM, "request");
    }
    memcpy(j->forget, tag, SP_KV_TAG);
    if (conv)
        memcpy(j->forget + SP_KV_TAG, conv, SP_KV_TAG);
    j->forget_conv = conv != NULL;
    sp_err err = enqueue(e, &j, 1, d);
    if (err == SP_OK)
        *out = j;
    else
        sp_job_free(j);
    return err;
}

sp_err sp_job_call(sp_job **out, sp_engine *e, const sp_job_call_cfg *cfg, sp_diag *d)
{
    sp_job *j = job_new(e, cfg->notify, cfg->notify_arg);
    if (!j)
        return SP_FAIL(d, SP_NOMEM, "request");
    j->call = *cfg;
    sp_err err = enqueue(e, &j, 1, d);
    if (err == SP_OK) {
        *out = j;
    } else {
        j->call.fini = NULL;
        sp_job_free(j);
    }
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

void sp_job_answer_now(sp_job *j)
{
    atomic_store(&j->answer_now, true);
}

void sp_job_progress(const sp_job *j, size_t *done, size_t *total)
{
    size_t n = atomic_load(&j->n_read);
    *total = j->n_asked;
    *done = n < j->n_asked ? n : j->n_asked;
}

void sp_job_used(sp_job_use *out, const sp_job *j)
{
    size_t n = atomic_load(&j->n_read), known = atomic_load(&j->n_known);
    *out = (sp_job_use){.n_prompt = n < j->n_asked ? n : j->n_asked,
                        .n_out = n > j->n_asked ? n - j->n_asked : 0,
                        .ms_machine = (double)atomic_load(&j->machine_ns) * 1e-6};
    out->n_known = known < out->n_prompt ? known : out->n_prompt;
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
    sp_job_unref(e, j);
}
