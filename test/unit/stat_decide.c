/* The decision whether a try replaces what is in force, by simulation. */
#include "base/rng.h"
#include "stat/decide.h"
#include "test.h"

#include <math.h>

enum { N = 200 };

static const sp_decide_cfg CFG = {
    .alpha = 0.05, .margin = 0.05, .gain = 0.05, .floor = 0, .slower = 1.25};

/* A pair: won, lost or equal; the cost of the try is around `cost` times the other one's. */
static sp_pair draw(sp_rng *r, double won, double lost, double cost)
{
    double u = sp_rng_unit(r), right = sp_rng_unit(r) < 0.6;
    sp_pair p = {.quality = {right, right},
                 .cost = {0.5 + sp_rng_unit(r), (0.5 + sp_rng_unit(r)) * cost},
                 .ms = {100, 100}};
    if (u < won + lost)
        p.quality[u < won ? 1 : 0] = 1, p.quality[u < won ? 0 : 1] = 0;
    return p;
}

static double share_won(sp_rng *r, size_t n_round, double won, double lost, double cost)
{
    size_t wins = 0;
    for (size_t e = 0; e < n_round; e++) {
        sp_pair p[N];
        sp_decision s;
        for (size_t i = 0; i < N; i++)
            p[i] = draw(r, won, lost, cost);
        sp_decide(&s, &CFG, p, N);
        wins += s.wins;
    }
    return (double)wins / (double)n_round;
}

void test_decide_without_effect(void **state)
{
    (void)state;
    sp_rng r;
    sp_rng_init(&r, 11);
    assert_true(share_won(&r, 2000, 0.1, 0.1, 1) <= 0.05);
    assert_true(share_won(&r, 2000, 0, 0, 1) <= 0.05);
    assert_true(share_won(&r, 500, 0.05, 0.15, 0.5) <= 0.05); /* it is cheap, and worse */
}

void test_decide_finds(void **state)
{
    (void)state;
    sp_rng r;
    sp_rng_init(&r, 12);
    assert_true(share_won(&r, 1000, 0.12, 0.02, 1) >= 0.9); /* better by ten points */
    assert_true(share_won(&r, 1000, 0, 0, 0.6) >= 0.9);     /* as good, and cheaper */
}

void test_decide_guards(void **state)
{
    (void)state;
    sp_rng r;
    sp_rng_init(&r, 13);
    sp_pair p[N];
    sp_decision s;
    for (size_t i = 0; i < N; i++)
        p[i] = draw(&r, 0.2, 0, 0.5);
    sp_decide(&s, &CFG, p, N);
    assert_true(s.wins && s.lost == SP_GUARD_NONE && s.difference.low > 0 && s.share.low > 0.5);
    sp_decide_cfg high = CFG;
    high.floor = 0.99;
    sp_decide(&s, &high, p, N);
    assert_true(s.proven && !s.wins && s.lost == SP_GUARD_FLOOR);
    p[7].failed[1] = true;
    sp_decide(&s, &CFG, p, N);
    assert_true(s.proven && !s.wins && s.lost == SP_GUARD_FAILED);
    p[7].failed[0] = true; /* the one in force fails there too */
    sp_decide(&s, &CFG, p, N);
    assert_true(s.wins);
    for (size_t i = 0; i < N; i++)
        p[i].ms[1] = 126;
    sp_decide(&s, &CFG, p, N);
    assert_true(s.proven && !s.wins && s.lost == SP_GUARD_SLOWER);
    for (size_t i = 0; i < N; i++) {
        p[i].ms[1] = 100;
        if (i % 8 == 0) { /* one class loses all that it had */
            p[i].cls = 3;
            p[i].quality[0] = 1;
            p[i].quality[1] = 0;
        }
    }
    for (size_t i = 0; i < N; i++)
        if (i % 8)
            p[i].quality[0] = i % 2, p[i].quality[1] = 1;
    sp_decide(&s, &CFG, p, N);
    assert_true(s.proven && !s.wins && s.lost == SP_GUARD_CLASS);
    sp_decide(&s, &CFG, p, 0);
    assert_true(!s.proven && !s.wins && s.n == 0);
}
