#include "gen/guesser.h"

#include <math.h>
#include <string.h>

/* How often a drafter that computes is right with its first guess, while nothing is known; it
 * counts as so many guesses. */
static const double MODEL_GUESS = 0.6, PRIOR = 2;
/* Share of a step's time that goes into asking a drafter which nobody would ask; at most so many
 * steps' time is spared for it. docs/GENERATION.md has what it brings. */
static const double EXPLORE = 0.01, MOST_SPARE = 4;

sp_err sp_guesser_start(sp_guesser *m, sp_drafts *all, unsigned which, const sp_draft_answer *a)
{
    m->all = all;
    m->is_started = true;
    m->runner = SP_DRAFTERS;
    for (size_t i = 0; i < all->n; i++) {
        sp_draft_source *s = all->source[i];
        sp_draft_id id = s->kind->id;
        if (!(which & 1u << id))
            continue;
        SP_TRY(s->kind->start(s, &m->drafter[id], a));
        m->source[id] = m->drafter[id] ? s : NULL;
    }
    return SP_OK;
}

void sp_guesser_end(sp_guesser *m, const sp_draft_text *whole)
{
    for (size_t id = 0; id < SP_DRAFTERS; id++)
        if (m->drafter[id])
            m->drafter[id]->kind->end(m->drafter[id], whole);
    *m = (sp_guesser){0};
}

/* Tokens for the step's time, as a share of those without guesses: n_guess guesses promise `right`
 * tokens; run: what computing each costs beside the step. */
static double value_of(const sp_guess_ask *a, double right, size_t n_guess, double run)
{
    double more = a->more[n_guess - 1] + run * (double)n_guess;
    return a->fixed ? 1 + right : (1 + right / (double)a->n_seq) / (1 + more);
}

/* The best that drafter id's guess can give; p [cap] as in sp_guesser_choose, or NULL. */
static double best_value(const sp_guesser *m, sp_draft_id id, const sp_guess_ask *a, double *p)
{
    const sp_draft *d = &m->draft[id];
    double each = 1, right = 0, best = 0;
    for (size_t i = 0; i < d->n && i < a->cap; i++) {
        sp_accept_at at = sp_window_at(&m->window, id, d, i);
        each *= sp_accept_of(&m->all->accept, id, &at);
        right += each;
        double value = value_of(a, right, i + 1, 0); /* what it computed is computed */
        best = value > best ? value : best;
        if (p)
            p[i] = each;
    }
    return best;
}

/* Whose guess is best, by its value and what it was worth of late. false: none is better than no
 * guess. */
static bool find_best(sp_guesser *m, const sp_guess_ask *a, double *value)
{
    double most = 0;
    *value = 1;
    bool found = false;
    for (size_t id = 0; id < SP_DRAFTERS;
         id++) /* the best one's own past does not make it better than it promises */
        most = m->draft[id].n && m->window.worth[id] > most ? m->window.worth[id] : most;
    for (size_t id = 0; id < SP_DRAFTERS; id++) {
        double v = m->draft[id].n ? best_value(m, (sp_draft_id)id, a, NULL) *
                                        (a->fixed ? 1 : exp(m->window.worth[id] - most))
                                  : 0;
        if (v <= *value)
            continue;
        *value = v;
        m->chosen = (sp_draft_id)id;
        found = true;
    }
    return found;
}

/* How many tokens a drafter that computes should guess, if that promises more than *value, which it
 * raises then. */
static size_t run_count(const sp_guesser *m, sp_draft_id id, const sp_guess_ask *a, double *value)
{
    size_t n_known = m->window.n_had[id] < SP_WINDOW ? m->window.n_had[id] : SP_WINDOW;
    double n_right = (double)__builtin_popcount(m->window.right[id] & ((1u << SP_WINDOW) - 1));
    double p = (n_right + PRIOR * MODEL_GUESS) / ((double)n_known + PRIOR), each = 1, right = 0;
    size_t n = 0;
    for (size_t i = 0; i < a->cap; i++) {
        each *= p;
        right += each;
        double v = value_of(a, right, i + 1, a->run[id]) *
                   (a->fixed ? 1 : exp(fmin(0, m->window.worth[id])));
        if (v > *value) {
            *value = v;
            n = i + 1;
        }
    }
    return n;
}

/* Nothing that computes promises enough: one that has saved the time of a run is asked for a guess,
 * the one that has saved most. */
static size_t explore(sp_guesser *m, const sp_guess_ask *a)
{
    double most = 0;
    for (size_t id = SP_DRAFT_MODEL; id < SP_DRAFTERS; id++) {
        double *spare = &m->all->spare[id];
        if (!m->drafter[id])
            continue;
        *spare = fmin(MOST_SPARE, *spare + EXPLORE / (double)a->n_seq);
        if (m->draft[id].n || *spare < fmin(MOST_SPARE, a->run[id]) || *spare <= most)
            continue;
        most = *spare;
        m->runner = (sp_draft_id)id;
    }
    if (m->runner == SP_DRAFTERS)
        return 0;
    m->all->spare[m->runner] -= fmin(MOST_SPARE, a->run[m->runner]);
    return 1;
}

size_t sp_guesser_look(sp_guesser *m, const sp_draft_text *t, const sp_guess_ask *a)
{
    double value;
    m->more = a->cap ? a->more[0] * (double)a->n_seq : 0;
    m->runner = SP_DRAFTERS;
    if (!a->cap)
        return 0;
    for (size_t id = 0; id < SP_DRAFTERS; id++)
        if (m->drafter[id] && !m->source[id]->kind->run && !m->draft[id].n) {
            m->draft[id] = (sp_draft){0};
            m->drafter[id]->kind->propose(m->drafter[id], &m->draft[id], t);
        }
    (void)find_best(m, a, &value);
    size_t n = 0;
    for (size_t id = SP_DRAFT_MODEL; id < SP_DRAFTERS; id++) {
        size_t k = m->drafter[id] && !m->draft[id].n ? run_count(m, (sp_draft_id)id, a, &value) : 0;
        m->runner = k ? (sp_draft_id)id : m->runner;
        n = k ? k : n;
    }
    return n || a->fixed ? n : explore(m, a); /* what is fixed depends on no clock */
}

sp_draft_run sp_guesser_run(sp_guesser *m, const sp_draft_text *t, size_t n)
{
    return (sp_draft_run){.drafter = m->drafter[m->runner], .text = *t, .n = n};
}

size_t sp_guesser_choose(sp_guesser *m, const sp_draft_text *t, const sp_guess_ask *a, double *p)
{
    double value;
    size_t id = m->runner;
    if (!a->cap)
        return 0;
    if (id < SP_DRAFTERS && !m->draft[id].n)
        m->drafter[id]->kind->propose(m->drafter[id], &m->draft[id], t);
    if (!find_best(m, a, &value))
        return 0;
    (void)best_value(m, m->chosen, a, p);
    size_t n = m->draft[m->chosen].n;
    return n < a->cap ? n : a->cap;
}

/* Takes the newest token off a guess, which ends where it was wrong. */
static void shift(sp_draft *d, bool right)
{
    if (!right) {
        *d = (sp_draft){0};
        return;
    }
    d->n--;
    memmove(d->tok, d->tok + 1, d->n * sizeof *d->tok);
    memmove(d->p, d->p + 1, d->n * sizeof *d->p);
    d->match += d->match > 0;
}

void sp_guesser_note(sp_guesser *m, const sp_draft_text *t)
{
    for (size_t id = 0; id < SP_DRAFTERS; id++) {
        sp_draft *d = &m->draft[id];
        bool had = d->n > 0, right = had && d->tok[0] == t->tok[t->n - 1];
        double p = 0;
        if (!m->drafter[id])
            continue;
        if (had) {
            sp_accept_at at = sp_window_at(&m->window, (sp_draft_id)id, d, 0);
            p = sp_accept_of(&m->all->accept, (sp_draft_id)id, &at);
            sp_accept_note(&m->all->accept, (sp_draft_id)id, &at, right);
        }
        sp_window_note(&m->window, (sp_draft_id)id, had, right, p, m->more);
        if (m->chosen == id)
            m->was_right = right;
        if (m->drafter[id]->kind->took)
            m->drafter[id]->kind->took(m->drafter[id], t, d);
        shift(d, right);
    }
}
