/* The statistics beside other people's: values of confseq 0.0.11 (numpy 1.26.4, scipy 1.15.3), made by test/tool/stat_known.py on 1 December
 * 2026. Neither is needed to build or to test. */
#include "stat/evidence.h"
#include "test.h"

#include <math.h>

enum { N = 120, REAL = 0, BOOL = 1 };

static void samples(double out[2][N])
{
    for (long i = 0; i < N; i++) {
        out[REAL][i] = (double)((i * 7919 + 13) % 1000) / 999;
        out[BOOL][i] = (i * i * 31 + 7 * i) % 100 < 60;
    }
}

/* Wealth of the same bets, by confseq.betting.diversified_betting_mart. */
static const struct {
    int of;
    size_t n;
    double mean, above, below;
} WEALTH[] = {
    {REAL, 40, 0.3, 8.51660449296, -1.42068936347},   {REAL, 40, 0.5, -0.762329480977, -0.900697793496},
    {REAL, 40, 0.7, -1.39094170412, 7.40744746512},   {REAL, 120, 0.3, 30.7073473844, -1.79872071981},
    {REAL, 120, 0.5, -0.848289343937, -1.15059507374}, {REAL, 120, 0.7, -1.76168974217, 25.2703458419},
    {BOOL, 40, 0.3, 8.06795374411, -1.60077216422},   {BOOL, 40, 0.5, 0.458594353727, -1.45430863155},
    {BOOL, 40, 0.7, -1.09208161027, -0.840295389694}, {BOOL, 120, 0.3, 18.705200149, -1.91672518109},
    {BOOL, 120, 0.5, 0.399484524193, -1.66189346023}, {BOOL, 120, 0.7, -1.59362115903, 1.23021390355}};

void test_known_wealth(void **state)
{
    (void)state;
    double x[2][N];
    samples(x);
    for (size_t i = 0; i < sizeof WEALTH / sizeof *WEALTH; i++) {
        sp_wager above, below;
        sp_wager_init(&above, WEALTH[i].mean, false);
        sp_wager_init(&below, WEALTH[i].mean, true);
        for (size_t k = 0; k < WEALTH[i].n; k++) {
            sp_wager_add(&above, x[WEALTH[i].of][k]);
            sp_wager_add(&below, x[WEALTH[i].of][k]);
        }
        assert_true(fabs(sp_wager_log(&above) - WEALTH[i].above) < 1e-9);
        assert_true(fabs(sp_wager_log(&below) - WEALTH[i].below) < 1e-9);
    }
}

/* low, high: the means that this wealth does not refuse, by scipy.optimize.brentq. Theirs: the hedged
 * confidence sequence that confseq.betting.betting_cs makes by bets of its own, which adapt. */
static const struct {
    int of;
    size_t n;
    double low, high, their_low, their_high;
} INTERVAL[] = {{REAL, 40, 0.357703971, 0.656461755, 0.3755, 0.64225},
                {REAL, 120, 0.422003303, 0.598683701, 0.43, 0.58675},
                {BOOL, 40, 0.383807502, 0.860929683, 0.4405, 0.9055},
                {BOOL, 120, 0.438379325, 0.737424895, 0.467, 0.78025}};

void test_known_intervals(void **state)
{
    (void)state;
    double x[2][N];
    samples(x);
    for (size_t i = 0; i < sizeof INTERVAL / sizeof *INTERVAL; i++) {
        sp_interval is = sp_interval_of(x[INTERVAL[i].of], INTERVAL[i].n, 0.05);
        double theirs = INTERVAL[i].their_high - INTERVAL[i].their_low;
        assert_true(fabs(is.low - INTERVAL[i].low) < 1e-6 && fabs(is.high - INTERVAL[i].high) < 1e-6);
        assert_true(is.low < INTERVAL[i].their_high && is.high > INTERVAL[i].their_low);
        assert_true(is.high - is.low < 1.15 * theirs);
    }
}

/* By confseq.boundaries.normal_mixture_bound, whose weight is the best one for n_best; ours is an approximation of it. */
static const struct {
    size_t n, best;
    double variance, alpha, half;
} BOUND[] = {{100, 500, 1, 0.05, 0.336388772578},
             {500, 500, 1, 0.05, 0.135738672568},
             {3000, 500, 0.25, 0.05, 0.0289868213131},
             {800, 200, 9, 0.01, 0.387489670799}};

void test_known_bounds(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof BOUND / sizeof *BOUND; i++) {
        sp_interval is = sp_interval_by_variance(BOUND[i].n, 3, BOUND[i].variance, BOUND[i].alpha, BOUND[i].best);
        assert_true(fabs(0.5 * (is.low + is.high) - 3) < 1e-12);
        assert_true(fabs(0.5 * (is.high - is.low) / BOUND[i].half - 1) < 0.01);
    }
}

/* By scipy.stats: dirichlet_multinomial over multinomial, and linregress. */
static const struct {
    size_t count[3];
    double share[3], log_e;
} MISMATCH[] = {{{52, 31, 17}, {0.5, 0.3, 0.2}, -3.44714734355},
                {{80, 10, 10}, {0.5, 0.3, 0.2}, 15.8656756247},
                {{3, 0, 0}, {0.2, 0.5, 0.3}, 1.64865862559}};

void test_known_mismatch_and_residuals(void **state)
{
    (void)state;
    double x[2][N];
    samples(x);
    for (size_t i = 0; i < sizeof MISMATCH / sizeof *MISMATCH; i++)
        assert_true(fabs(sp_mismatch_log(MISMATCH[i].count, MISMATCH[i].share, 3) - MISMATCH[i].log_e) < 1e-9);
    sp_adjust(x[REAL], x[BOOL], N);
    assert_true(fabs(x[REAL][0] + 0.00889856993143) < 1e-9 && fabs(x[REAL][17] - 0.668386073148) < 1e-9);
    assert_true(fabs(x[REAL][N - 1] - 0.35246279143) < 1e-9);
}
