/* Simulated experiments whose shares follow the evidence: how often a variant that is not the best
 * is named, how many samples are saved, and what drift does to the estimates. */
#include "base/rng.h"
#include "stat/track.h"
#include "test.h"

#include <math.h>
#include <string.h>

enum { LEAST = 8, PART = 8, FIRST = 30 };

#define ALPHA 0.05
#define EVEN 0.25

typedef struct world {
    double mean[SP_TRACK_ARMS];
    double rate[SP_TRACK_ARMS]; /* of conversations that are rated */
    size_t n;
    double drift; /* of all means, from the first sample to the last */
    bool equal;   /* shares stay equal */
} world;

typedef struct outcome {
    bool named; /* a variant is proven to be the best */
    size_t best, n;
    bool peeked; /* a test for one look, made after each sample, would have named one */
    double weighed[SP_TRACK_ARMS], plain[SP_TRACK_ARMS];
} outcome;

/* The two highest means by the normal distribution, as if this were the only look. */
static bool names_by_peeking(const sp_track *t)
{
    size_t a = 0, b = SP_TRACK_ARMS;
    for (size_t i = 0; i < t->n_arm; i++)
        if (!t->arm[i].n)
            return false;
    for (size_t i = 1; i < t->n_arm; i++)
        if (t->arm[i].sum / (double)t->arm[i].n > t->arm[a].sum / (double)t->arm[a].n)
            a = i;
    for (size_t i = 0; i < t->n_arm; i++)
        if (i != a && (b == SP_TRACK_ARMS || t->arm[i].sum / (double)t->arm[i].n >
                                                 t->arm[b].sum / (double)t->arm[b].n))
            b = i;
    double n[2] = {(double)t->arm[a].n, (double)t->arm[b].n};
    double p[2] = {t->arm[a].sum / n[0], t->arm[b].sum / n[1]};
    double error = sqrt(p[0] * (1 - p[0]) / n[0] + p[1] * (1 - p[1]) / n[1]);
    return error > 0 && (p[0] - p[1]) / error >= 1.96;
}

static size_t draw_arm(sp_rng *r, const sp_epoch *e, size_t n)
{
    double u = sp_rng_unit(r), at = e->share[0];
    size_t i = 0;
    while (u >= at && i + 1 < n)
        at += e->share[++i];
    return i;
}

static outcome live(sp_rng *r, const world *w, size_t most)
{
    static sp_track t;
    outcome o = {0};
    sp_epoch now = {.centre = 0.5}, next;
    size_t in_epoch = 0;
    for (size_t i = 0; i < w->n; i++)
        now.share[i] = 1 / (double)w->n;
    sp_track_init(&t, w->n);
    while (t.n < most && !o.named) {
        size_t arm = draw_arm(r, &now, w->n);
        double p = w->mean[arm] + w->drift * (double)t.n / (double)most;
        in_epoch++;
        if (w->rate[arm] == 0 || sp_rng_unit(r) < w->rate[arm])
            sp_track_add(&t, &now, arm, sp_rng_unit(r) < p);
        o.peeked = o.peeked || (t.n >= FIRST && names_by_peeking(&t));
        if (in_epoch < LEAST * w->n || in_epoch < t.n / PART)
            continue;
        in_epoch = 0;
        o.best = sp_track_best(&t);
        o.named = sp_track_log(&t, o.best) >= log((double)w->n / ALPHA);
        sp_track_next(&next, &t, EVEN);
        now.centre = next.centre;
        if (!w->equal)
            now = next;
    }
    o.n = t.n;
    for (size_t i = 0; i < w->n; i++) {
        o.weighed[i] = sp_track_mean(&t, i);
        o.plain[i] = t.arm[i].sum / (double)t.arm[i].n;
    }
    return o;
}

/* No variant is better than the others, so each that is named is an error: under means that stay
 * and unequal rates of rating, and under means that move together. */
void test_track_is_rarely_wrong(void **state)
{
    enum { N_EXP = 120, N = 500 };
    static const world w[] = {{.mean = {0.6, 0.6, 0.6}, .n = 3},
                              {.mean = {0.85, 0.85}, .rate = {0.3, 1}, .n = 2},
                              {.mean = {0.2, 0.2, 0.2}, .drift = 0.6, .n = 3}};
    sp_rng r;
    (void)state;
    sp_rng_init(&r, 11);
    for (size_t k = 0; k < sizeof w / sizeof *w; k++) {
        size_t named = 0, peeked = 0;
        for (size_t i = 0; i < N_EXP; i++) {
            outcome o = live(&r, &w[k], N);
            named += o.named;
            peeked += o.peeked;
        }
        assert_true(named <= N_EXP * ALPHA);
        assert_true(peeked > 2 * N_EXP * ALPHA); /* the control must fail */
    }
}

void test_track_saves_samples(void **state)
{
    enum { N_EXP = 24, N = 3000 };
    static const world follows = {.mean = {0.4, 0.4, 0.5, 0.65, 0.8}, .n = 5};
    world equal = follows;
    size_t n[2] = {0}, right = 0;
    sp_rng r;
    (void)state;
    equal.equal = true;
    sp_rng_init(&r, 12);
    for (size_t i = 0; i < N_EXP; i++) {
        outcome o = live(&r, &follows, N);
        right += o.named && o.best == 4;
        n[0] += o.n;
        n[1] += live(&r, &equal, N).n;
    }
    assert_true(right >= N_EXP * 95 / 100);
    assert_true((double)n[0] <= 0.7 * (double)n[1]);
}

/* All means rise while the shares move to the better variant: the plain difference is too large,
 * for the worse ones have their samples early. The weighed one is right. */
void test_track_under_drift(void **state)
{
    enum { N_EXP = 150, N = 500 };
    static const world w = {.mean = {0.2, 0.2, 0.3}, .drift = 0.5, .n = 3};
    double weighed = 0, plain = 0;
    sp_rng r;
    (void)state;
    sp_rng_init(&r, 13);
    for (size_t i = 0; i < N_EXP; i++) {
        outcome o = live(&r, &w, N);
        weighed += (o.weighed[2] - 0.5 * (o.weighed[0] + o.weighed[1])) / N_EXP;
        plain += (o.plain[2] - 0.5 * (o.plain[0] + o.plain[1])) / N_EXP;
    }
    assert_true(fabs(weighed - 0.1) < 0.02);
    assert_true(plain > 0.12);
}

/* Shares sum to 1, each variant has its part of the even share, and who is close to the best has
 * more than who is not. */
void test_track_shares(void **state)
{
    static const double mean[] = {0.8, 0.7, 0.3, 0.3};
    sp_track t;
    sp_epoch first = {{0.25, 0.25, 0.25, 0.25}, 0.5}, next;
    (void)state;
    sp_track_init(&t, 4);
    assert_true(isnan(sp_track_mean(&t, 0)));
    sp_track_next(&next, &t, EVEN);
    for (size_t i = 0; i < 4; i++)
        assert_true(next.share[i] > EVEN / 4 && next.centre == 0.5);
    for (size_t arm = 0; arm < 4; arm++)
        for (size_t i = 0; i < 100; i++)
            sp_track_add(&t, &first, arm, (double)i < 100 * mean[arm]);
    sp_track_next(&next, &t, EVEN);
    double sum = 0;
    for (size_t i = 0; i < 4; i++) {
        sum += next.share[i];
        assert_true(next.share[i] >= EVEN / 4);
        assert_true(fabs(sp_track_mean(&t, i) - mean[i]) < 1e-9); /* equal shares: the plain mean */
    }
    assert_true(fabs(sum - 1) < 1e-9 && fabs(next.centre - 0.525) < 1e-9);
    assert_true(next.share[0] > 0.3 && next.share[1] > 0.3 && next.share[2] < 0.12);
    assert_true(sp_track_best(&t) == 0 && sp_track_log(&t, 0) < log(4 / ALPHA));
    assert_true(sp_track_log(&t, 2) < 0);
    /* Two that are as far apart as can be. */
    sp_track_init(&t, 2);
    first = (sp_epoch){{0.5, 0.5}, 0.5};
    for (size_t i = 0; i < 30; i++)
        sp_track_add(&t, &first, i % 2, (double)(i % 2));
    assert_true(sp_track_best(&t) == 1 && sp_track_log(&t, 1) >= log(2 / ALPHA));
}
