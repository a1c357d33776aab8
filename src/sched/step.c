/* One step of the engine: who comes in, who is computed, what becomes of the logits. */
#include "sched/engine_int.h"

enum { IDLE_NS = 20000000, LEAST_CHUNK = SP_PAGE_TOK / 2 /* prompts move, however many decode */ };

/* --- lists ------------------------------------------------------------------------------------ */

static void run_remove(sp_engine *e, sp_job *j)
{
    e->n_heavy -= j->is_heavy;
    j->is_heavy = false;
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

/* The least served tenant that waits; NULL: nobody. */
static const sp_account *least_served(const sp_engine *e)
{
    const sp_account *least = NULL;
    for (const sp_job *j = e->waiting; j; j = j->next)
        if (j->account && (!least || j->account->served < least->served))
            least = j->account;
    return least;
}

/* The link to the job that comes next, or to NULL. */
static sp_job **choose(sp_engine *e, bool completion)
{
    uint64_t now = sp_clock_ns();
    const sp_account *tenant = completion && !e->cfg.fcfs ? least_served(e) : NULL;
    sp_job **best = NULL;
    double least = 0;
    for (sp_job **at = &e->waiting; *at; at = &(*at)->next) {
        if (((*at)->session != NULL) != completion || (tenant && (*at)->account != tenant))
            continue;
        double rank = completion && !e->cfg.fcfs ? sp_job_rank(e, *at, now) : 0;
        if (!best || rank < least) {
            best = at;
            least = rank;
        }
    }
    return best;
}

/* Takes the job behind a link out of the waiting list; NULL: there is none. The lock is held. */
static sp_job *wait_take(sp_engine *e, sp_job **at)
{
    sp_job *j = at ? *at : NULL;
    if (!j)
        return NULL;
    *at = j->next;
    if (!j->next)
        e->waiting_tail = at;
    j->next = NULL;
    e->n_waiting--;
    return j;
}

sp_job *sp_engine_pop(sp_engine *e, bool completion)
{
    sp_lock_get(&e->lock);
    sp_job *j = wait_take(e, choose(e, completion));
    sp_lock_put(&e->lock);
    return j;
}

/* --- order ------------------------------------------------------------------------------------ */

/* A job waits at most twenty times its work behind a stream of shorter ones. With a quarter instead, whatever waited in a burst was old
 * and short ones fell back to the order of arrival (docs/SERVING.md). */
static const double AGE_SHARE = 0.05;
/* Of more work than most: these leave half of the places free. */
static const double HEAVY = 1.5, WORK_SHARE = 0.05;
/* A step beside answers that come before its prompts, in c(1): shorter ones lose more to the fixed cost of steps than the answers gain. */
static const double LEAST_STEP = 2;
/* A guess beside prompts or waiting work takes the place of other tokens, and costs less than half of one, for it reads the keys with its answer's newest token. */
static const double GUESS_BESIDE = 0.5, GUESS_ALONE = 0.1;
enum { BATCH = 8 }; /* sequences that decode together, when nobody knows how many there will be */

double sp_job_work(const sp_engine *e, const sp_job *j)
{
    if (!j->session)
        return 0;
    size_t n_out = sp_session_out(j->session), n_prompt = 0;
    if (j->state == WAITING)
        n_prompt = sp_session_tokens(j->session);
    else if (!sp_session_is_decoding(j->session))
        n_prompt = sp_session_todo(j->session);
    double expect = e->out_mean[j->plan.cls], most = (double)j->max_out;
    double left = (expect < most ? expect : most) - (double)n_out;
    return (double)n_prompt * sp_cost_of(&e->cost, e->cfg.chunk_tok) / (double)e->cfg.chunk_tok +
           (left > 1 ? left : 1) * sp_cost_of(&e->cost, BATCH) / BATCH;
}

double sp_job_rank(const sp_engine *e, const sp_job *j, uint64_t now)
{
    double work = sp_job_work(e, j), age = (double)(now - j->t_submit) * 1e-9;
    if (j->deadline && now + (uint64_t)(2e9 * work) > j->deadline)
        return -1e9 + (double)j->deadline * 1e-9 - age; /* now or never */
    for (int i = 0; i < j->priority; i++)
        work /= 4;
    for (int i = 0; i > j->priority; i--)
        work *= 4;
    return work - AGE_SHARE * age;
}

/* --- admission -------------------------------------------------------------------------------- */

enum { STEP_TEXTS = 32, STEP_TEXT_TOK = 256 /* of an encoder's texts in a step: as long as a part of a prompt */ };

static void wait_push_back(sp_engine *e, sp_job *j)
{
    sp_lock_get(&e->lock);
    *e->waiting_tail = j;
    e->waiting_tail = &j->next;
    e->n_waiting++;
    sp_lock_put(&e->lock);
}

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
    return sp_encoder_run_texts(j->encoder, j->vector + first * sp_encoder_dim(j->encoder), text, n, d);
}

/* What is left of several texts waits behind the jobs that came meanwhile. */
static void run_embedding(sp_engine *e, sp_job *j)
{
    sp_diag d = {0};
    sp_err err = j->end ? run_next_texts(j, &d) : sp_encoder_run(j->encoder, j->vector, j->ids.id, j->ids.n, j->part, j->n_part, &d);
    if (err != SP_OK)
        sp_job_fail(e, j, &d);
    else if (j->i_text < j->n_text)
        wait_push_back(e, j);
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
    else
        run_embedding(e, j);
    return true;
}

/* Ends a job whose time is over; it is in no list. */
static bool is_expired(sp_engine *e, sp_job *j)
{
    uint64_t now = sp_clock_ns();
    if (!j->deadline || now < j->deadline)
        return false;
    sp_diag d = {0};
    (void)SP_FAIL(&d, SP_TIMEOUT, "the deadline passed %s, %.1f s after the request came", j->state == WAITING ? "in the queue" : "before the answer was whole",
                  (double)(now - j->t_submit) * 1e-9);
    sp_metric_add(e->m.expired, 1);
    sp_job_fail(e, j, &d);
    return true;
}

/* Does another tenant wait? Then the place is the least served one's, whatever it brings: kept free, it would be another's. */
static bool others_wait(sp_engine *e, const sp_account *a)
{
    bool found = false;
    sp_lock_get(&e->lock);
    for (const sp_job *j = e->waiting; j && !found; j = j->next)
        found = j->account && j->account != a;
    sp_lock_put(&e->lock);
    return found;
}

/* Ends what waits and whose time is over: it would never be asked for, and its caller waits to hear so. */
static void expire_waiting(sp_engine *e)
{
    for (;;) {
        uint64_t now = sp_clock_ns();
        sp_lock_get(&e->lock);
        sp_job **at = &e->waiting;
        while (*at && (!(*at)->deadline || now < (*at)->deadline))
            at = &(*at)->next;
        sp_job *j = wait_take(e, at);
        sp_lock_put(&e->lock);
        if (!j)
            return;
        (void)is_expired(e, j);
    }
}

/* true: an embedding was computed. */
static bool admit(sp_engine *e)
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
        if (must_wait_for_parent(j) || (heavy && e->n_heavy >= (e->cfg.max_run + 1) / 2 && !others_wait(e, j->account))) {
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
        sp_metric_add(e->m.preempted, 1);
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

/* Running jobs in the order they are served, into e->order. */
static void set_order(sp_engine *e)
{
    uint64_t now = sp_clock_ns();
    for (size_t i = 0; i < e->n_run; i++) {
        sp_job *j = e->run[i];
        size_t at = i;
        j->rank = e->cfg.fcfs ? (double)i : sp_job_rank(e, j, now);
        for (; at > 0 && e->order[at - 1]->rank > j->rank; at--)
            e->order[at] = e->order[at - 1];
        e->order[at] = j;
    }
}

/* Prompt tokens that fit into a step beside so many that decode. Answers that come before the first prompt pass through many steps and
 * gain when these are short; all others lose, for short steps are less efficient. The majority decides. */
static size_t prompt_budget(sp_engine *e, size_t n_decode)
{
    size_t cap = e->cfg.chunk_tok, n_first = 0;
    if (e->cfg.fcfs || n_decode == 0 || e->cfg.step_ms <= 0)
        return cap;
    while (n_first < e->n_run && sp_session_is_decoding(e->order[n_first]->session))
        n_first++;
    sp_lock_get(&e->lock);
    size_t n_all = e->n_run + e->n_waiting;
    sp_lock_put(&e->lock);
    double want = e->cfg.step_ms * 1e-3, least = LEAST_STEP * sp_cost_of(&e->cost, 1);
    size_t n = sp_cost_fit(&e->cost, n_decode, 2 * n_first >= n_all || want < least ? least : want, cap);
    return n > LEAST_CHUNK ? n : cap < LEAST_CHUNK ? cap : LEAST_CHUNK;
}

/* Of the n tokens that j may have, those up to the end of a half page: tokens of one page share the reading of all earlier ones. */
static size_t to_half_page(const sp_job *j, size_t n)
{
    size_t over = (sp_session_seq(j->session)->n_tok + n) % (SP_PAGE_TOK / 2);
    return n > over ? n - over : n;
}

/* What each of n spans could guess, into e->guess. Returns how many of it are taken for sure, whether they pay or not. */
static size_t find_guesses(sp_engine *e, size_t n)
{
    size_t n_fixed = 0;
    for (size_t i = 0; i < n; i++) {
        const sp_job *j = e->span_job[i];
        sp_guess *g = &e->guess[i];
        g->n = j->plan.draft ? sp_session_guess(j->session, j->plan.draft, g->p) : 0;
        g->n_taken = !j->plan.draft_fixed ? 0 : g->n < SP_GUESS_STEP - n_fixed ? g->n : SP_GUESS_STEP - n_fixed;
        n_fixed += g->n_taken;
    }
    return n_fixed;
}

/* Gives free places of the step to guesses, the likeliest first, as long as tokens come sooner so: a guess that is right with probability p
 * is worth p tokens. n: spans so far, all of them decoding. Returns their tokens. */
static size_t add_guesses(sp_engine *e, size_t n)
{
    double tokens = (double)n, least = n < e->n_run ? GUESS_BESIDE : GUESS_ALONE;
    size_t n_tok = n + find_guesses(e, n);
    double cost = sp_cost_of(&e->cost, n_tok);
    while (n_tok < n + SP_GUESS_STEP) {
        sp_guess *best = NULL;
        for (size_t i = 0; i < n; i++) {
            sp_guess *g = &e->guess[i];
            if (g->n_taken < g->n && (!best || g->p[g->n_taken] > best->p[best->n_taken]))
                best = g;
        }
        double more = sp_cost_of(&e->cost, n_tok + 1) - cost, p = best ? best->p[best->n_taken] : 0;
        if (p < least || p * cost < tokens * more)
            break;
        best->n_taken++;
        tokens += p;
        cost += more;
        n_tok++;
    }
    for (size_t i = 0; i < n; i++) {
        sp_session *s = e->span_job[i]->session;
        if (e->guess[i].n_taken && sp_kv_seq_reserve(sp_session_seq(s), e->cfg.pool, 1 + e->guess[i].n_taken) == SP_OK)
            e->span[i] = sp_session_span(s, 1 + e->guess[i].n_taken);
    }
    return n_tok;
}

/* Decodes first, then prompt chunks, those of least rank first, while the budget lasts. Preemption may remove a
 * job that already has a span, so spans are built again from what still runs. */
static size_t plan_step(sp_engine *e)
{
    size_t n_span, n_before;
    do {
        size_t budget = 0, rows = SP_PROMPT_ROWS;
        n_span = 0;
        n_before = e->n_run;
        set_order(e);
        for (int decoding = 1; decoding >= 0; decoding--) {
            if (!decoding)
                budget = prompt_budget(e, n_span ? add_guesses(e, n_span) : 0);
            for (size_t i = 0; i < n_before && e->n_run == n_before; i++) {
                sp_job *j = e->order[i];
                if (sp_session_is_decoding(j->session) != (decoding == 1) || is_planned(e, n_span, j))
                    continue;
                if (!is_loaded(j, n_span > 0) || !place_parts(e, j))
                    continue;
                size_t n = sp_session_todo(j->session);
                if (!decoding && n > budget)
                    n = to_half_page(j, budget);
                if (sp_session_asks_all(j->session) && n > rows)
                    n = to_half_page(j, rows);
                if (n == 0 || !make_room(e, j, n))
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

static double count_flops(const sp_engine *e, sp_job *j, const sp_model_span *s, size_t pos)
{
    double spent = (double)s->n * e->flops.per_tok + sp_model_flops_seen(&e->flops, pos, s->n) + (double)s->n_logits * e->flops.per_logits;
    j->receipt.flops_spent += spent;
    return spent;
}

/* What the step gave to each tenant. */
static void charge(sp_engine *e, size_t n_span)
{
    sp_lock_get(&e->lock);
    for (size_t i = 0; i < n_span; i++) { /* after its first token, a span with logits is the answer's: of guesses one token is sure */
        bool is_answer = e->span[i].n_logits && e->span_job[i]->t_first;
        e->span_job[i]->account->served += is_answer ? SP_FAIR_ANSWER : (double)e->span[i].n * SP_FAIR_PROMPT;
    }
    sp_lock_put(&e->lock);
}

/* false: the answer ended. */
static bool take_token(sp_engine *e, sp_job *j, const float *logits)
{
    sp_event *ev = NULL;
    sp_finish finish;
    sp_diag d = {0};
    bool done = false;
    uint64_t now = sp_clock_ns();
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
    run_remove(e, j);
    if (err != SP_OK)
        sp_job_fail(e, j, &d);
    else
        sp_job_end(e, j, SP_EVENT_FINISH, finish, NULL);
    return false;
}

/* The tokens of a span: the one that follows its newest, and as long as guesses were right the ones that follow these. */
static void take_tokens(sp_engine *e, sp_job *j, const sp_model_span *span, const float *logits)
{
    size_t n_right = 0, n_guess = span->n_logits - 1;
    bool predicted = n_guess && sp_session_is_predicted(j->session);
    j->receipt.steps++;
    j->receipt.tok_drafted += n_guess;
    j->receipt.tok_predicted += predicted ? n_guess : 0;
    while (take_token(e, j, logits + n_right * sp_model_arch(e->cfg.model)->n_vocab)) {
        size_t n_brought = sp_session_brought(j->session);
        if (n_right == n_guess || n_brought || !sp_session_was_guessed(j->session)) {
            sp_kv_seq_take_back(span->seq, sp_session_tokens(j->session) - 1 - n_brought);
            break;
        }
        n_right++;
        j->receipt.tok_accepted++;
        j->receipt.tok_predicted_right += predicted;
        sp_lock_get(&e->lock);
        j->account->served += SP_FAIR_ANSWER;
        sp_lock_put(&e->lock);
    }
}

/* Logits of prompt tokens that were asked for: leaves in *span and *logits what is left for the next token. false: the job has ended. */
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
        run_remove(e, j);
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
        sp_job *j = wait_take(e, at);
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
        bool cancelled = atomic_load(&j->cancel);
        if (!cancelled && (!j->deadline || sp_clock_ns() < j->deadline)) {
            i++;
            continue;
        }
        run_remove(e, j);
        if (cancelled)
            sp_job_end(e, j, SP_EVENT_FINISH, SP_FINISH_CANCEL, NULL);
        else
            (void)is_expired(e, j);
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
        cost += (double)e->span[i].n + sp_model_flops_seen(&e->flops, e->span[i].seq->n_tok, e->span[i].n) / e->flops.per_tok;
    }
    uint64_t t = sp_clock_ns();
    sp_err err = sp_model_forward(e->cfg.model, e->work, e->cfg.pool, e->span, n_span, &logits, &d);
    if (err != SP_OK && loading)
        for (size_t i = 0; i < n_span; i++)
            if (e->span[i].seq->load_failed)
                return; /* nothing was committed; restart_failed takes it from here */
    if (e->cfg.tier && !loading && n_tok >= e->cfg.chunk_tok)
        sp_kv_tier_note_compute(e->cfg.tier, cost, (double)(sp_clock_ns() - t) * 1e-9);
    uint64_t now = sp_clock_ns();
    double flops = 0;
    sp_metric_add(e->m.tok_step, (double)n_tok);
    for (size_t i = 0; i < n_span && err == SP_OK; i++)
        flops += count_flops(e, e->span_job[i], &e->span[i], e->span[i].seq->n_tok - e->span[i].n);
    sp_engine_meter(e, t, now, flops);
    if (!loading) {
        sp_lock_get(&e->lock);
        sp_cost_note(&e->cost, n_tok, (double)(now - t) * 1e-9);
        sp_lock_put(&e->lock);
    }
    charge(e, n_span);
    for (size_t i = 0; i < n_span; i++) {
        sp_job *j = e->span_job[i];
        if (err != SP_OK) {
            run_remove(e, j);
            sp_job_fail(e, j, &d);
            continue;
        }
        if (!take_prompt(e, j, &e->span[i], &logits) || !e->span[i].n_logits)
            continue;
        if (!j->t_first) {
            sp_kv_seq_save(e->span[i].seq, e->cfg.pool);
            start_forks(e, j, logits);
        }
        take_tokens(e, j, &e->span[i], logits);
        logits += e->span[i].n_logits * sp_model_arch(e->cfg.model)->n_vocab;
    }
}
