/* One step of the engine: what is computed, and what becomes of the logits. */
#include "sched/engine_int.h"

enum { IDLE_NS = 20000000, LEAST_CHUNK = SP_PAGE_TOK / 2 /* prompts move, however many decode */ };
/* A step beside answers that come before its prompts, in c(1): shorter ones lose more to the fixed
 * cost of steps than the answers gain. */
static const double LEAST_STEP = 2;

/* Puts the parts of j's prompt in place that are computed by themselves. false: it waits this step,
 * or has been ended. */
static bool place_parts(sp_engine *e, sp_job *j)
{
    size_t n;
    sp_err err;
    while ((err = sp_session_part(j->session, e->cfg.pool, !j->no_fetch, &n)) == SP_OK && n) {
        if (!sp_engine_reserve(e, j, n))
            return false;
        err = sp_session_splice(j->session, e->cfg.pool, e->cfg.model, e->work);
        if (err != SP_OK)
            break;
    }
    if (err == SP_OK || err == SP_AGAIN)
        return err == SP_OK;
    sp_diag d = {0};
    (void)SP_FAIL(&d, err, "putting a passage in place failed: %s", sp_err_name(err));
    sp_engine_drop(e, j);
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

/* May j be computed now? What is still loading runs beside its load, a layer behind it, when there
 * is nothing else to do: then nobody else waits for the disk. */
static bool is_loaded(const sp_job *j, bool others)
{
    const sp_kv_seq *s = sp_session_seq(j->session);
    const sp_kv_load *l = s->load;
    if (s->snap_load && others)
        return false;
    return !l || (!others && sp_kv_load_layers(l) > 0);
}

/* Prompt tokens that fit into a step beside so many that decode. Answers that come before the first
 * prompt pass through many steps and gain when these are short; all others lose, for short steps
 * are less efficient. The majority decides. */
static size_t prompt_budget(sp_engine *e, size_t n_decode)
{
    size_t cap = e->cfg.chunk_tok, n_first = 0;
    double seen = 0;
    if (e->cfg.fcfs || n_decode == 0 || e->cfg.step_ms <= 0)
        return cap;
    while (n_first < e->n_run && sp_session_is_decoding(e->order[n_first]->session))
        n_first++;
    for (size_t i = 0; i < e->n_run; i++)
        seen += sp_session_is_decoding(e->run[i]->session)
                    ? sp_cost_seen(sp_session_tokens(e->run[i]->session), 1)
                    : 0;
    sp_lock_get(&e->lock);
    size_t n_all = e->n_run + e->n_waiting;
    sp_lock_put(&e->lock);
    double want = e->cfg.step_ms * 1e-3,
           least = LEAST_STEP * sp_cost_at(&e->cost, 1, seen / (double)n_decode),
           read = e->cost.per_seen * seen;
    size_t n = sp_cost_fit(&e->cost, n_decode,
                           (2 * n_first >= n_all || want < least ? least : want) - read, cap);
    return n > LEAST_CHUNK ? n : cap < LEAST_CHUNK ? cap : LEAST_CHUNK;
}

/* Of the n tokens that j may have, those up to the end of a half page: tokens of one page share the
 * reading of all earlier ones. */
static size_t to_half_page(const sp_job *j, size_t n)
{
    size_t over = (sp_session_seq(j->session)->n_tok + n) % (SP_PAGE_TOK / 2);
    return n > over ? n - over : n;
}

/* Decodes first, then prompt chunks, those of least rank first, while the budget lasts. Preemption
 * may remove a job that already has a span, so spans are built again from what still runs. */
static size_t plan_step(sp_engine *e)
{
    size_t n_span, n_before;
    do {
        size_t budget = 0, rows = SP_PROMPT_ROWS;
        n_span = 0;
        n_before = e->n_run;
        sp_engine_order(e);
        for (int decoding = 1; decoding >= 0; decoding--) {
            if (!decoding)
                budget = prompt_budget(e, n_span ? sp_engine_guess(e, n_span) : 0);
            for (size_t i = 0; i < n_before && e->n_run == n_before; i++) {
                sp_job *j = e->order[i];
                if (sp_session_is_decoding(j->session) != (decoding == 1) ||
                    is_planned(e, n_span, j) || sp_session_awaits_trial(j->session))
                    continue;
                if (!is_loaded(j, n_span > 0) || !place_parts(e, j))
                    continue;
                size_t n = sp_session_todo(j->session);
                if (!decoding && n > budget)
                    n = to_half_page(j, budget);
                if (sp_session_asks_all(j->session) && n > rows)
                    n = to_half_page(j, rows);
                if (n == 0 || !sp_engine_reserve(e, j, n))
                    continue;
                budget -= decoding ? 0 : n;
                rows -= sp_session_asks_all(j->session) ? n : 0;
                e->span[n_span] = sp_session_span(j->session, n);
                e->span_job[n_span++] = j;
            }
        }
    } while (e->n_run != n_before); /* ends: every repeat has fewer running jobs */
    return n_span;
}

/* Of a span that was computed. */
static double flops_of(const sp_engine *e, const sp_model_span *s)
{
    return (double)s->n * e->flops.per_tok +
           sp_model_flops_seen(&e->flops, s->seq->n_tok - s->n, s->n) +
           (double)s->n_logits * e->flops.per_logits;
}

/* Each job has its share of the step's arithmetic and time. Returns the arithmetic of all. */
static double share_out(sp_engine *e, size_t n_span, uint64_t ns)
{
    double all = 0;
    for (size_t i = 0; i < n_span; i++)
        all += flops_of(e, &e->span[i]);
    for (size_t i = 0; i < n_span; i++) {
        double part = flops_of(e, &e->span[i]);
        e->span_job[i]->receipt.flops_spent += part;
        atomic_fetch_add(&e->span_job[i]->machine_ns, (uint64_t)((double)ns * part / all));
    }
    return all;
}

/* What the step gave to each tenant. */
static void charge(sp_engine *e, size_t n_span)
{
    /* after its first token, a span with logits is the answer's: of guesses one token is sure */
    for (size_t i = 0; i < n_span; i++) {
        bool is_answer = e->span[i].n_logits && e->span_job[i]->t_first;
        double weight = is_answer ? SP_FAIR_ANSWER : (double)e->span[i].n * SP_FAIR_PROMPT;
        sp_fair_serve(e->fair, e->span_job[i]->account, weight * e->tok_weight);
    }
}

/* false: the answer ended. */
static bool take_token(sp_engine *e, sp_job *j, const float *logits)
{
    sp_event *ev = NULL;
    sp_finish finish;
    sp_diag d = {0};
    bool done = false;
    uint64_t now = sp_clock_ns();
    if (atomic_load(&j->answer_now))
        sp_session_answer_now(j->session);
    sp_err err = sp_session_accept(j->session, logits, &ev, &done, &finish, &d);
    if (!j->t_first)
        j->t_first = now;
    if (sp_session_out(j->session))
        sp_metric_add(e->m.tok_out, 1 + (double)sp_session_brought(j->session));
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
        return true;
    sp_engine_drop(e, j);
    if (err != SP_OK)
        sp_job_fail(e, j, &d);
    else
        sp_job_end(e, j, SP_EVENT_FINISH, finish, NULL);
    return false;
}

/* The tokens of a span: the one that follows its newest, and as long as guesses were right the ones
 * that follow these. false: the answer ended. */
static bool take_tokens(sp_engine *e, sp_job *j, const sp_model_span *span, const float *logits)
{
    size_t n_right = 0, n_guess = span->n_logits - 1;
    sp_receipt_draft *by = &j->receipt.draft[sp_session_drafter(j->session)];
    j->receipt.steps++;
    j->receipt.tok_drafted += n_guess;
    by->drafted += n_guess;
    while (take_token(e, j, logits + n_right * sp_model_arch(e->cfg.model)->n_vocab)) {
        size_t n_brought = sp_session_brought(j->session);
        if (n_right == n_guess || n_brought || !sp_session_was_guessed(j->session)) {
            (void)sp_kv_seq_take_back(span->seq, e->cfg.pool,
                                      sp_session_tokens(j->session) - 1 - n_brought);
            return true;
        }
        n_right++;
        j->receipt.tok_accepted++;
        by->accepted++;
        sp_fair_serve(e->fair, j->account, SP_FAIR_ANSWER * e->tok_weight);
    }
    return false;
}

/* Logits of prompt tokens that were asked for: leaves in *span and *logits what is left for the
 * next token. false: the job has ended. */
static bool take_prompt(sp_engine *e, sp_job *j, sp_model_span *span, const float **logits)
{
    sp_event *ev;
    sp_diag d = {0};
    size_t n_vocab = sp_model_arch(e->cfg.model)->n_vocab;
    if (!sp_session_asks_all(j->session))
        return true;
    sp_err err = sp_session_note_prompt(j->session, *logits, n_vocab, span->n, &ev);
    if (err != SP_OK) {
        *logits += span->n_logits * n_vocab;
        (void)SP_FAIL(&d, err, "log-probabilities of the prompt");
        sp_engine_drop(e, j);
        sp_job_fail(e, j, &d);
        return false;
    }
    size_t left = ev != NULL;
    j->n_row += span->n_logits - left;
    *logits += (span->n_logits - left) * n_vocab;
    span->n_logits = left;
    if (ev)
        sp_job_post(j, ev);
    return true;
}

static void start_forks(sp_engine *e, sp_job *parent, const float *logits)
{
    while (e->n_run < e->cfg.max_run) {
        sp_lock_get(&e->lock);
        sp_job **at = &e->waiting;
        while (*at && ((*at)->fork_of != parent || atomic_load(&(*at)->cancel)))
            at = &(*at)->next;
        sp_job *j = sp_engine_take(e, at);
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
        atomic_store(&j->n_known, j->n_asked);
        j->state = RUNNING;
        e->run[e->n_run++] = j;
        take_token(e, j, logits);
    }
}

void sp_engine_take_cores(sp_engine *e)
{
    if (e->cfg.cores)
        sp_engine_tell_tenants(e);
    if (e->is_inside)
        sp_cores_pass(e->cfg.cores, &e->seat);
    else
        sp_cores_enter(e->cfg.cores, &e->seat);
    e->is_inside = true;
}

void sp_engine_leave_cores(sp_engine *e)
{
    if (e->is_inside)
        sp_cores_leave(e->cfg.cores, &e->seat);
    e->is_inside = false;
}

/* Nothing can be computed just now: until a load or a write has news. The timeout bounds what a
 * lost wake costs. */
void sp_engine_idle(sp_engine *e)
{
    sp_engine_leave_cores(e);
    sp_lock_get(&e->lock);
    if (!e->poked && !e->stop)
        sp_lock_wait(&e->lock, &e->wake, IDLE_NS);
    sp_lock_put(&e->lock);
}

/* Takes in what the tiers have finished. News that comes from here on is another poke, so none is
 * slept over. */
bool sp_engine_take_news(sp_engine *e)
{
    sp_lock_get(&e->lock);
    e->poked = false;
    sp_lock_put(&e->lock);
    return e->cfg.pool && sp_kv_pool_poll(e->cfg.pool);
}

/* Ends running jobs that were cancelled or whose time is over. */
static void end_due(sp_engine *e)
{
    for (size_t i = 0; i < e->n_run;) {
        sp_job *j = e->run[i];
        bool cancelled = atomic_load(&j->cancel);
        if (!cancelled && (!j->deadline || sp_clock_ns() < j->deadline)) {
            i++;
            continue;
        }
        sp_engine_drop(e, j);
        if (cancelled)
            sp_job_end(e, j, SP_EVENT_FINISH, SP_FINISH_CANCEL, NULL);
        else
            (void)sp_job_expire(e, j);
    }
}

/* Ends those of which only the pages were wanted, and these are there. */
static void end_read(sp_engine *e)
{
    for (size_t i = 0; i < e->n_run;) {
        sp_job *j = e->run[i];
        if (!sp_session_is_read(j->session)) {
            i++;
            continue;
        }
        j->t_first = sp_clock_ns();
        sp_engine_drop(e, j);
        sp_job_end(e, j, SP_EVENT_FINISH, SP_FINISH_LENGTH, NULL);
    }
}

static bool is_loading(const sp_engine *e, size_t n_span)
{
    for (size_t i = 0; i < n_span; i++)
        if (e->span[i].seq->load || e->span[i].seq->snap_load)
            return true;
    return false;
}

static bool has_failed_load(const sp_engine *e, size_t n_span)
{
    for (size_t i = 0; i < n_span; i++)
        if (e->span[i].seq->load_failed)
            return true;
    return false;
}

sp_step_size sp_engine_size_of(const sp_engine *e, size_t n_span)
{
    sp_step_size s = {0};
    for (size_t i = 0; i < n_span; i++) {
        const sp_model_span *x = &e->span[i];
        s.n_tok += x->n;
        s.seen += sp_cost_seen(x->seq->n_tok + x->n, x->n);
        s.cost +=
            (double)x->n + sp_model_flops_seen(&e->flops, x->seq->n_tok, x->n) / e->flops.per_tok;
    }
    return s;
}

/* What was computed from `from` to `to` enters the metrics and what is known of this machine. */
static void note_step(sp_engine *e, size_t n_span, const sp_step_size *size, bool loading,
                      uint64_t from, uint64_t to)
{
    double tok_bytes = (double)sp_kv_page_bytes(sp_kv_pool_shape(e->cfg.pool)) / SP_PAGE_TOK;
    sp_metric_add(e->m.tok_step, (double)size->n_tok);
    sp_metric_add(e->m.step_bytes, sp_model_weight_bytes(e->cfg.model, size->n_tok) +
                                       size->seen * tok_bytes);
    sp_engine_meter(e, from, to, share_out(e, n_span, to - from));
    if (loading)
        return;
    if (e->cfg.tier && size->n_tok >= e->cfg.chunk_tok)
        sp_kv_tier_note_compute(e->cfg.tier, size->cost, (double)(to - from) * 1e-9);
    sp_lock_get(&e->lock);
    sp_cost_note(&e->cost, size->n_tok, size->seen, (double)(to - from) * 1e-9);
    sp_lock_put(&e->lock);
}

/* Logits stay on the device where the likeliest of them are all that the next token needs. The
 * first one's are also for answers that begin with the same prompt. */
static void leave_logits(sp_engine *e, size_t n_span)
{
    for (size_t i = 0; i < n_span && sp_model_gives_best(e->cfg.model); i++) {
        sp_model_span *x = &e->span[i];
        const sp_job *j = e->span_job[i];
        if (x->n_logits == 1 && j->t_first && sp_session_takes_best(j->session, &x->temperature))
            x->best = &e->best[i];
    }
}

typedef struct row_at {
    sp_engine *e;
    size_t row;
} row_at;

static sp_err read_row(void *arg)
{
    const row_at *at = arg;
    return sp_model_read_logits(at->e->cfg.model, at->e->work, at->row);
}

/* Each job takes the tokens that its logits say. */
static void take_spans(sp_engine *e, size_t n_span, const float *logits)
{
    const float *first = logits;
    size_t row = 0;
    for (size_t i = 0; i < n_span; row += e->span[i++].n) {
        sp_job *j = e->span_job[i];
        const sp_model_span *x = &e->span[i];
        size_t n_left = x->n, n_before = x->seq->n_tok - x->n;
        bool is_text = x->seq == sp_session_text_seq(j->session),
             runs = take_prompt(e, j, &e->span[i], &logits);
        if (is_text)
            atomic_store(&j->n_read, x->seq->n_tok);
        if (runs && x->n_logits) {
            if (!j->t_first) {
                sp_kv_seq_save(x->seq, e->cfg.pool);
                start_forks(e, j, logits);
            }
            row_at at = {e, (size_t)(logits - first) / sp_model_arch(e->cfg.model)->n_vocab};
            if (x->best)
                sp_session_offer(j->session, x->best, read_row, &at);
            runs = take_tokens(e, j, x, logits);
            logits += x->n_logits * sp_model_arch(e->cfg.model)->n_vocab;
            n_left = runs ? x->seq->n_tok - n_before : 0;
        }
        if (runs && is_text)
            sp_session_see(j->session, e->cfg.model, e->work, row, n_left);
    }
}

/* The last n_try of all spans are of trial answers. */
static void run_spans(sp_engine *e, size_t n_span, size_t n_try)
{
    const float *logits;
    sp_diag d = {0};
    size_t n_all = n_span + n_try;
    bool loading = is_loading(e, n_span);
    sp_step_size size = sp_engine_size_of(e, n_all);
    leave_logits(e, n_span);
    sp_engine_take_cores(e);
    uint64_t t = sp_clock_ns();
    sp_err err = sp_model_forward(e->cfg.model, e->work, e->cfg.pool, e->span, n_all, &logits, &d);
    if (err != SP_OK && loading && has_failed_load(e, n_span))
        return; /* nothing was committed; sp_engine_restart takes it from here */
    for (size_t i = n_span; i < n_all && err != SP_OK; i++)
        sp_session_trial_drop(e->span_job[i]->session, e->cfg.pool);
    for (size_t i = 0; i < n_span && err != SP_OK; i++) {
        sp_engine_drop(e, e->span_job[i]);
        sp_job_fail(e, e->span_job[i], &d);
    }
    if (err == SP_DEV)
        sp_engine_lose(e);
    if (err != SP_OK)
        return;
    note_step(e, n_all, &size, loading, t, sp_clock_ns());
    charge(e, n_all);
    sp_engine_take_trials(e, n_span, n_try, logits);
    take_spans(e, n_span, logits);
}

void sp_engine_step(sp_engine *e)
{
    end_due(e);
    (void)sp_engine_take_news(e);
    sp_engine_restart(e);
    bool worked = sp_engine_admit(e);
    end_read(e);
    bool tries = sp_engine_begin_trials(e);
    size_t n_span = plan_step(e), n_try = tries ? sp_engine_try(e, n_span) : 0;
    if (n_span + n_try)
        run_spans(e, n_span, n_try);
    else if (!worked && e->cfg.pool && sp_kv_pool_is_busy(e->cfg.pool))
        sp_engine_idle(e);
}
