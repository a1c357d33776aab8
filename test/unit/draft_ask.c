/* Who is listened to, and who is asked, in a simulation: drafters that are right by chance, a step's
 * time from a table. No clock. */
#include "test.h"

#include "gen/guesser.h"
#include "sched/cost.h"

void test_asking(void **state);

enum { TOK = 6000, AHEAD = 4 };

/* A drafter whose guesses are right with probability `right`, and say so. */
typedef struct fake {
    sp_draft_source base;
    double right;
    double run;   /* what each guess takes, in steps; 0: it computes nothing */
    size_t n_run; /* guesses that were asked for */
    size_t until; /* before this token it is always wrong */
    uint64_t seed;
    bool is_ready; /* it was run */
} fake;

typedef struct fake_drafter {
    sp_drafter base;
    fake *source;
} fake_drafter;

static uint32_t truth[TOK + SP_DRAFT_MAX];
static fake_drafter drafter[SP_DRAFTERS];

static double chance(uint64_t *seed)
{
    return (double)(test_rand(seed) % 1000) / 1000;
}

static sp_err start(sp_draft_source *s, sp_drafter **out, const sp_draft_answer *a)
{
    fake_drafter *d = &drafter[s->kind->id];
    (void)a;
    *d = (fake_drafter){.base.kind = s->kind, .source = (fake *)s};
    *out = &d->base;
    return SP_OK;
}

static void propose(sp_drafter *d, sp_draft *out, const sp_draft_text *t)
{
    fake *f = ((fake_drafter *)d)->source;
    if (f->run > 0 && !f->is_ready)
        return;
    f->is_ready = false;
    out->match = f->run > 0 ? 0 : 1;
    for (out->n = 0; out->n < AHEAD; out->n++) {
        bool right = t->n >= f->until && chance(&f->seed) < f->right;
        out->tok[out->n] = truth[t->n + out->n] + !right;
        out->p[out->n] = f->run > 0 ? (float)f->right : 0;
    }
}

static sp_err run(sp_draft_source *s, sp_draft_run *r, size_t n)
{
    fake *f = (fake *)s;
    assert_int_equal(n, 1);
    f->is_ready = true;
    f->n_run += r->n;
    return SP_OK;
}

static void end(sp_drafter *d, const sp_draft_text *t)
{
    (void)d;
    (void)t;
}

static const sp_draft_kind
    lookup = {.id = SP_DRAFT_LOOKUP, .start = start, .propose = propose, .end = end},
    head = {.id = SP_DRAFT_HEAD, .start = start, .run = run, .propose = propose, .end = end};

/* Guesses that the step takes of the n, as sched/guess.c does. */
static size_t taken(const double *p, size_t n, const double *more)
{
    double tokens = 1, cost = 1;
    for (size_t k = 0; k < n; k++) {
        if (p[k] < 0.1 || (tokens + p[k]) * cost < 1.02 * tokens * (1 + more[k]))
            return k;
        tokens += p[k];
        cost = 1 + more[k];
    }
    return n;
}

/* Steps' time for an answer of TOK tokens with these drafters, in steps of one token. */
static double simulate(fake *of[], size_t n_of, double each, double believed)
{
    double more[SP_DRAFT_MAX], cost[SP_DRAFTERS] = {0}, p[SP_DRAFT_MAX], time = 0;
    sp_drafts all = {.n = n_of};
    sp_guesser g = {0};
    sp_accept_init(&all.accept);
    for (size_t i = 0; i < SP_DRAFT_MAX; i++)
        more[i] = each * (double)(i + 1);
    for (size_t i = 0; i < n_of; i++) {
        all.source[i] = &of[i]->base;
        of[i]->n_run = 0;
        of[i]->seed = 7 + i;
        cost[of[i]->base.kind->id] = believed > 0 ? believed : of[i]->run;
    }
    assert_int_equal(sp_guesser_start(&g, &all, ~0u, &(sp_draft_answer){.tenant = "t"}), SP_OK);
    for (size_t i = 1; i < TOK;) {
        sp_draft_text t = {truth, i, 0};
        sp_guess_ask ask = {.cap = 8, .more = more, .run = cost, .n_seq = 1};
        size_t n_run = sp_guesser_look(&g, &t, &ask);
        if (n_run) {
            sp_draft_run r = sp_guesser_run(&g, &t, n_run);
            fake *f = ((fake_drafter *)r.drafter)->source;
            assert_int_equal(r.drafter->kind->run(&f->base, &r, 1), SP_OK);
            time += f->run * (double)n_run;
            sp_cost_note_run(&cost[f->base.kind->id], f->run);
        }
        size_t n = taken(p, sp_guesser_choose(&g, &t, &ask, p), more), k = 0;
        time += n ? 1 + more[n - 1] : 1;
        do {
            t.n = ++i;
            sp_guesser_note(&g, &t);
        } while (k++ < n && g.was_right && i < TOK);
    }
    sp_guesser_end(&g, NULL);
    return time;
}

/* Tokens for a step's time. */
static double pace(fake *of[], size_t n, double believed)
{
    return TOK / simulate(of, n, 0.15, believed);
}

void test_asking(void **state)
{
    (void)state;
    uint64_t seed = 3;
    for (size_t i = 0; i < TOK + SP_DRAFT_MAX; i++)
        truth[i] = 10 * (uint32_t)(test_rand(&seed) % 1000);
    fake poor = {.base.kind = &lookup, .right = 0.3},
         good = {.base.kind = &head, .right = 0.55, .run = 0.05}, late = good, bad = good,
         dear = good;
    late.until = 200;
    bad.right = 0.02;
    dear.run = 0.6;
    fake *searches[] = {&poor}, *all[] = {&poor, &good};
    double one = pace(searches, 1, 0), other = pace(all + 1, 1, 0), both = pace(all, 2, 0);
    assert_true(one > 1.08 && other > 1.25); /* bad luck does not end asking for good */
    assert_true(both > 0.99 * other);        /* a search with little to say keeps nobody from it */
    fake fair = {.base.kind = &lookup, .right = 0.5}, better = good;
    better.right = 0.8;
    fake *mixed[] = {&fair, &better};
    double best = pace(mixed + 1, 1, 0), beside = pace(mixed, 2, 0);
    assert_true(beside > 0.99 * best); /* nor one that is often right from who is right more often */
    assert_true(pace((fake *[]){&late}, 1, 0) > 1.22); /* nor does a bad beginning */
    assert_true(pace(all + 1, 1, 4) > 1.18);           /* nor a first run that was slow */
    /* What gives nothing costs a hundredth. */
    assert_true(pace((fake *[]){&bad}, 1, 0) > 0.98 && bad.n_run > 100);
    assert_true(pace((fake *[]){&dear}, 1, 0) > 0.98 && dear.n_run > 10);
    assert_true(pace((fake *[]){&poor, &dear}, 2, 0) > 0.98 * one);
}
