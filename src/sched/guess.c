/* Which tokens a step guesses ahead. */
#include "sched/engine_int.h"

/* A guess beside prompts or waiting work takes the place of other tokens, and costs less than half
 * of one, for it reads the keys with its answer's newest token. */
static const double GUESS_BESIDE = 0.5, GUESS_ALONE = 0.1;
/* By so much a guess must bring tokens sooner. With 1 as many tokens come and a tenth more guesses
 * are wrong; with 1.05 copies are slower (docs/DECISIONS.md). */
static const double GAIN = 1.02;
enum {
    READ_FEW = 16 /* tokens of a text that a drafter reads before it guesses, where its run is
                     measured: a prompt is another matter */
};

/* What 1, 2, .. guesses cost beside n spans, as a share of the step without them: more
 * [SP_DRAFT_MAX]; and what drafters' runs cost: run [SP_DRAFTERS]. */
static sp_guess_ask ask_of(const sp_engine *e, size_t n, double seen, double *more, double *run)
{
    double before = sp_cost_at(&e->cost, n, seen);
    for (size_t k = 0; k < SP_DRAFT_MAX; k++)
        more[k] = before > 0 ? sp_cost_at(&e->cost, n + 1 + k, seen) / before - 1 : 0;
    for (size_t id = 0; id < SP_DRAFTERS; id++)
        run[id] = before > 0 ? e->run_cost[id] / before : 0;
    return (sp_guess_ask){.more = more, .run = run, .n_seq = n};
}

/* Runs the drafters that compute, for the answers that want it, as one batch. What fails leaves
 * them without a guess. */
static void run_drafters(sp_engine *e, size_t n)
{
    for (size_t k = 0; k < e->drafts.n; k++) {
        sp_draft_source *s = e->drafts.source[k];
        size_t n_run = 0, most = 0;
        for (size_t i = 0; i < n && s->kind->run; i++) {
            if (!e->guess[i].n_run || e->guess[i].runner != s->kind->id)
                continue;
            e->draft_run[n_run++] = sp_session_run(e->span_job[i]->session, e->guess[i].n_run);
            most = e->guess[i].n_run > most ? e->guess[i].n_run : most;
        }
        if (!n_run)
            continue;
        uint64_t t = sp_clock_ns();
        sp_err err = s->kind->run(s, e->draft_run, n_run);
        bool few = true;
        for (size_t i = 0; i < n_run; i++)
            few = few && e->draft_run[i].n_read <= READ_FEW;
        double each = (double)(sp_clock_ns() - t) * 1e-9 / (double)most;
        double *cost = &e->run_cost[s->kind->id];
        if (err == SP_OK && few)
            sp_cost_note_run(cost, each);
    }
}

/* What each of n spans could guess, into e->guess. Returns how many of it are taken for sure,
 * whether they pay or not. */
static size_t find_guesses(sp_engine *e, size_t n, double seen)
{
    double more[SP_DRAFT_MAX], run[SP_DRAFTERS];
    sp_guess_ask ask = ask_of(e, n, seen, more, run);
    size_t n_fixed = 0;
    for (size_t i = 0; i < n; i++) {
        const sp_job *j = e->span_job[i];
        sp_guess *g = &e->guess[i];
        g->cap = ask.cap = j->plan.draft ? sp_session_guess_cap(j->session, j->plan.draft) : 0;
        ask.fixed = j->plan.draft_fixed;
        g->n_run = g->cap ? sp_session_look(j->session, &ask, &g->runner) : 0;
    }
    run_drafters(e, n);
    for (size_t i = 0; i < n; i++) {
        const sp_job *j = e->span_job[i];
        sp_guess *g = &e->guess[i];
        ask.cap = g->cap;
        ask.fixed = j->plan.draft_fixed;
        g->n = g->cap ? sp_session_choose(j->session, &ask, g->p) : 0;
        g->n_taken = !ask.fixed                       ? 0
                     : g->n < SP_GUESS_STEP - n_fixed ? g->n
                                                      : SP_GUESS_STEP - n_fixed;
        n_fixed += g->n_taken;
    }
    return n_fixed;
}

/* The span whose next guess is likeliest; NULL: there is no guess left. */
static sp_guess *likeliest(sp_engine *e, size_t n)
{
    sp_guess *best = NULL;
    for (size_t i = 0; i < n; i++) {
        sp_guess *g = &e->guess[i];
        if (g->n_taken < g->n && (!best || g->p[g->n_taken] > best->p[best->n_taken]))
            best = g;
    }
    return best;
}

size_t sp_engine_guess(sp_engine *e, size_t n)
{
    double seen = 0, tokens = (double)n, least = n < e->n_run ? GUESS_BESIDE : GUESS_ALONE;
    for (size_t i = 0; i < n; i++)
        seen += sp_cost_seen(sp_session_tokens(e->span_job[i]->session), 1);
    size_t n_tok = n + find_guesses(e, n, seen);
    double cost = sp_cost_at(&e->cost, n_tok, seen);
    while (n_tok < n + SP_GUESS_STEP) {
        sp_guess *best = likeliest(e, n);
        double more = sp_cost_at(&e->cost, n_tok + 1, seen) - cost,
               p = best ? best->p[best->n_taken] : 0;
        if (p < least || (tokens + p) * cost < GAIN * tokens * (cost + more))
            break;
        best->n_taken++;
        tokens += p;
        cost += more;
        n_tok++;
    }
    for (size_t i = 0; i < n; i++) {
        sp_session *s = e->span_job[i]->session;
        if (e->guess[i].n_taken && sp_kv_seq_reserve_guess(sp_session_seq(s), e->cfg.pool,
                                                           1 + e->guess[i].n_taken) == SP_OK)
            e->span[i] = sp_session_span(s, 1 + e->guess[i].n_taken);
    }
    return n_tok;
}
