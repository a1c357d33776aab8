#include "base/rng.h"
#include "stat/evidence.h"
#include "test.h"

#include <math.h>

static double draw(sp_rng *r, double p)
{
    return sp_rng_unit(r) < p;
}

/* The share of experiments without an effect in which a wager that is looked at after each of n samples reaches 1 / alpha. */
static double refused_falsely(sp_rng *r, double p, bool below, size_t n_exp, size_t n, double alpha)
{
    size_t n_refused = 0;
    for (size_t e = 0; e < n_exp; e++) {
        sp_wager w;
        bool refused = false;
        sp_wager_init(&w, p, below);
        for (size_t i = 0; i < n && !refused; i++) {
            sp_wager_add(&w, draw(r, p));
            refused = sp_wager_log(&w) >= -log(alpha);
        }
        n_refused += refused;
    }
    return (double)n_refused / (double)n_exp;
}

/* The same for a test by the normal distribution that is meant for one look at the end. */
static double refused_by_peeking(sp_rng *r, double p, size_t n_exp, size_t n)
{
    size_t n_refused = 0;
    for (size_t e = 0; e < n_exp; e++) {
        double sum = 0;
        bool refused = false;
        for (size_t i = 1; i <= n && !refused; i++) {
            sum += draw(r, p);
            refused = i >= 10 && (sum / (double)i - p) / sqrt(p * (1 - p) / (double)i) >= 1.645;
        }
        n_refused += refused;
    }
    return (double)n_refused / (double)n_exp;
}

static void test_looking_often_costs_nothing(void **state)
{
    (void)state;
    enum { N_EXP = 100000, N = 200 };
    static const double p[] = {0.02, 0.3, 0.5, 0.9};
    sp_rng r;
    sp_rng_init(&r, 1);
    for (size_t i = 0; i < sizeof p / sizeof *p; i++) {
        assert_true(refused_falsely(&r, p[i], false, N_EXP / 4, N, 0.05) <= 0.05);
        assert_true(refused_falsely(&r, p[i], true, N_EXP / 4, N, 0.05) <= 0.05);
    }
    assert_true(refused_by_peeking(&r, 0.5, N_EXP / 10, N) > 0.15); /* the control must fail */
}

/* Two variants answer the same prompts; one is better by ten points. */
static void test_a_better_variant_is_found(void **state)
{
    (void)state;
    enum { N_EXP = 2000, N = 200 };
    size_t n_found = 0;
    sp_rng r;
    sp_rng_init(&r, 2);
    for (size_t e = 0; e < N_EXP; e++) {
        sp_wager w;
        bool found = false;
        sp_wager_init(&w, 0.5, false);
        for (size_t i = 0; i < N && !found; i++) {
            double u = sp_rng_unit(&r), x = u < 0.12 ? 1 : u < 0.14 ? 0 : 0.5; /* won, lost, equal */
            sp_wager_add(&w, x);
            found = sp_wager_log(&w) >= log(20);
        }
        n_found += found;
    }
    assert_true(n_found >= N_EXP * 9 / 10);
}

static void test_intervals_hold_at_all_times(void **state)
{
    (void)state;
    enum { N_EXP = 300, N = 120 };
    size_t n_out = 0;
    double x[N], last = 0;
    sp_rng r;
    sp_rng_init(&r, 3);
    for (size_t e = 0; e < N_EXP; e++) {
        bool out = false;
        for (size_t i = 0; i < N; i++) {
            x[i] = 0.5 * (draw(&r, 0.4) + sp_rng_unit(&r)); /* mean 0.45 */
            if (i % 8 && i > 16)
                continue;
            sp_interval got = sp_interval_of(x, i + 1, 0.05);
            assert_true(0 <= got.low && got.low < got.high && got.high <= 1);
            out |= got.low > 0.45 || got.high < 0.45;
            last = got.high - got.low;
        }
        n_out += out;
        assert_true(last < 0.35);
    }
    assert_true(n_out <= N_EXP / 20);
    sp_interval none = sp_interval_of(x, 0, 0.05);
    assert_true(none.low == 0 && none.high == 1);
}

/* Nothing depends on the order of samples, and the mirror image has the mirrored interval. */
static void test_intervals_know_no_order(void **state)
{
    (void)state;
    enum { N = 50 };
    double x[N], back[N], mirror[N];
    sp_rng r;
    sp_rng_init(&r, 4);
    for (size_t i = 0; i < N; i++) {
        x[i] = back[N - 1 - i] = sp_rng_unit(&r);
        mirror[i] = 1 - x[i];
    }
    sp_interval a = sp_interval_of(x, N, 0.1), b = sp_interval_of(back, N, 0.1), c = sp_interval_of(mirror, N, 0.1);
    assert_true(fabs(a.low - b.low) < 1e-6 && fabs(a.high - b.high) < 1e-6);
    assert_true(fabs(a.low - (1 - c.high)) < 1e-6 && fabs(a.high - (1 - c.low)) < 1e-6);
}

/* Times and costs have no bound: exponential ones, looked at from the hundredth on. */
static void test_intervals_by_variance(void **state)
{
    (void)state;
    enum { N_EXP = 4000, N = 1500 };
    size_t n_out = 0;
    double width = 0;
    sp_rng r;
    sp_rng_init(&r, 5);
    for (size_t e = 0; e < N_EXP; e++) {
        double mean = 0, m2 = 0;
        bool out = false;
        for (size_t i = 1; i <= N; i++) {
            double x = -log(1 - sp_rng_unit(&r)), d = x - mean;
            mean += d / (double)i;
            m2 += d * (x - mean);
            sp_interval got = sp_interval_by_variance(i, mean, m2 / (double)i, 0.05, 500);
            out |= got.low > 1 || got.high < 1;
            width = got.high - got.low;
        }
        n_out += out;
    }
    assert_true(n_out <= N_EXP / 20);
    assert_true(width < 0.25);
}

/* Two streams that are looked at now and then: a difference that is not there is rarely found, one of 30 points is. */
static void test_differences_of_streams(void **state)
{
    (void)state;
    enum { N_EXP = 600, N = 160 };
    static const double p[][2] = {{0.5, 0.5}, {0.1, 0.1}, {0.35, 0.65}};
    double x[N], y[N];
    sp_rng r;
    sp_rng_init(&r, 8);
    for (size_t c = 0; c < 3; c++) {
        size_t n_found = 0;
        for (size_t e = 0; e < N_EXP; e++) {
            bool found = false;
            for (size_t i = 0; i < N; i++) {
                x[i] = draw(&r, p[c][0]);
                y[i] = draw(&r, p[c][1]);
                if ((i + 1) % 40 == 0)
                    found = found || sp_differ_log(x, i + 1, y, i + 1) >= log(20);
            }
            n_found += found;
        }
        assert_true(c < 2 ? n_found <= N_EXP / 20 : n_found >= N_EXP * 9 / 10);
    }
    assert_true(fabs(sp_differ_log(x, N, y, N) - sp_differ_log(y, N, x, N)) < 1e-9);
    assert_true(sp_differ_log(x, 0, y, N) == 0);
    size_t n_false = 0, n_true = 0;
    for (size_t e = 0; e < 2 * N_EXP; e++) {
        sp_moments s[2] = {{0}};
        for (size_t k = 0; k < 2; k++) {
            double m2 = 0, shift = e < N_EXP ? 0 : 0.5 * (double)k;
            for (size_t i = 1; i <= 400; i++) {
                double v = shift - log(1 - sp_rng_unit(&r)), d = v - s[k].mean;
                s[k].mean += d / (double)i;
                m2 += d * (v - s[k].mean);
            }
            s[k] = (sp_moments){400, s[k].mean, m2 / 400};
        }
        *(e < N_EXP ? &n_false : &n_true) += sp_differ_by_variance_log(&s[0], &s[1], 0.05, 500) >= log(20);
    }
    assert_true(n_false <= N_EXP / 20 && n_true >= N_EXP * 9 / 10);
    const sp_moments few = {99, 0, 1}, many = {5000, 1, 1};
    assert_true(sp_differ_by_variance_log(&few, &many, 0.05, 500) == 0);
}

static void test_many_metrics(void **state)
{
    (void)state;
    enum { N = 10 };
    double none[N] = {0}, some[N] = {[3] = log(500), [7] = log(120), [8] = log(15)};
    bool out[N];
    assert_int_equal(sp_refused(out, none, N, 0.05), SP_OK);
    for (size_t i = 0; i < N; i++)
        assert_false(out[i]);
    assert_int_equal(sp_refused(out, some, N, 0.05), SP_OK); /* limits 200, 100, 66.7 */
    for (size_t i = 0; i < N; i++)
        assert_int_equal(out[i], i == 3 || i == 7);
    some[3] = log(150); /* two of at least 100, though none of 200 */
    assert_int_equal(sp_refused(out, some, N, 0.05), SP_OK);
    assert_true(out[3] && out[7] && !out[8]);
    assert_int_equal(sp_refused(out, some, 0, 0.05), SP_OK);
}

static void test_a_broken_assignment_is_seen(void **state)
{
    (void)state;
    enum { N_EXP = 5000, N = 400 };
    static const double share[3] = {0.5, 0.3, 0.2};
    size_t n_false = 0, n_found = 0;
    sp_rng r;
    sp_rng_init(&r, 6);
    for (size_t e = 0; e < 2 * N_EXP; e++) {
        size_t count[3] = {0};
        bool alarm = false;
        for (size_t i = 0; i < N && !alarm; i++) {
            double u = sp_rng_unit(&r), first = e < N_EXP ? 0.5 : 0.35;
            count[u < first ? 0 : u < first + 0.3 ? 1 : 2]++;
            alarm = sp_mismatch_log(count, share, 3) >= log(20);
        }
        *(e < N_EXP ? &n_false : &n_found) += alarm;
    }
    assert_true(n_false <= N_EXP / 20);
    assert_true(n_found >= N_EXP * 95 / 100);
    size_t nobody[3] = {0}, forbidden[2] = {3, 1};
    double all[2] = {1, 0};
    assert_true(fabs(sp_mismatch_log(nobody, share, 3)) < 1e-9);
    assert_true(isinf(sp_mismatch_log(forbidden, all, 2)));
}

static void test_a_covariate_takes_variance(void **state)
{
    (void)state;
    enum { N = 500 };
    double y[N], x[N], mean = 0, mean2 = 0, var = 0, flat[3] = {1, 1, 1}, z[3] = {1, 2, 3};
    sp_rng r;
    sp_rng_init(&r, 7);
    for (size_t i = 0; i < N; i++) {
        x[i] = sp_rng_unit(&r);
        y[i] = 3 * x[i] + 0.1 * sp_rng_unit(&r);
        mean += y[i] / N;
    }
    sp_adjust(y, x, N);
    for (size_t i = 0; i < N; i++) {
        mean2 += y[i] / N;
        var += (y[i] - mean) * (y[i] - mean) / N;
    }
    assert_true(fabs(mean - mean2) < 1e-9);
    assert_true(var < 0.01); /* 0.75 before */
    sp_adjust(z, flat, 3);
    assert_true(z[0] == 1 && z[2] == 3);
}

void test_known_wealth(void **state);
void test_known_intervals(void **state);
void test_known_bounds(void **state);
void test_known_mismatch_and_residuals(void **state);
void test_track_is_rarely_wrong(void **state);
void test_track_saves_samples(void **state);
void test_track_under_drift(void **state);
void test_track_shares(void **state);
void test_decide_without_effect(void **state);
void test_decide_finds(void **state);
void test_decide_guards(void **state);

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_looking_often_costs_nothing), cmocka_unit_test(test_a_better_variant_is_found),
        cmocka_unit_test(test_intervals_hold_at_all_times), cmocka_unit_test(test_intervals_know_no_order),
        cmocka_unit_test(test_intervals_by_variance),       cmocka_unit_test(test_many_metrics),
        cmocka_unit_test(test_differences_of_streams),
        cmocka_unit_test(test_a_broken_assignment_is_seen), cmocka_unit_test(test_a_covariate_takes_variance),
        cmocka_unit_test(test_track_is_rarely_wrong),        cmocka_unit_test(test_track_saves_samples),
        cmocka_unit_test(test_track_under_drift),            cmocka_unit_test(test_track_shares),
        cmocka_unit_test(test_decide_without_effect),        cmocka_unit_test(test_decide_finds),
        cmocka_unit_test(test_decide_guards),                cmocka_unit_test(test_known_wealth),
        cmocka_unit_test(test_known_intervals),              cmocka_unit_test(test_known_bounds),
        cmocka_unit_test(test_known_mismatch_and_residuals)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
