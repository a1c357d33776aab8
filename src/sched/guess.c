/* Which tokens a step guesses ahead. */
#include "sched/engine_int.h"

/* A guess beside prompts or waiting work takes the place of other tokens, and costs less than half of one, for it reads the keys with its answer's newest token. */
static const double GUESS_BESIDE = 0.5, GUESS_ALONE = 0.1;

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

size_t sp_engine_guess(sp_engine *e, size_t n)
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
