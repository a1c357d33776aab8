#include "stat/evidence.h"

#include "base/mem.h"

#include <math.h>
#include <stdlib.h>

static double clamp(double x, double low, double high)
{
    return x < low ? low : x > high ? high : x;
}

/* What each bet risks: from almost all to what suits a million samples. */
static const double RISK[SP_EVIDENCE_BETS] = {
    0.95,        1.3 / 2,    1.3 / 4,    1.3 / 8,    1.3 / 16,   1.3 / 32,   1.3 / 64,
    1.3 / 128,   1.3 / 256,  1.3 / 512,  1.3 / 1024, 1.3 / 2048, 1.3 / 4096, 1.3 / 8192};

/* Shares of the first wealth, which sum to 1: more for bets that few samples can win. */
static double share_of(size_t bet)
{
    double whole = 1.0 / 3 - 1.0 / (SP_EVIDENCE_BETS + 3);
    return 1 / ((double)(bet + 3) * (double)(bet + 4)) / whole;
}

void sp_wager_init(sp_wager *w, double mean, bool below)
{
    *w = (sp_wager){.mean = clamp(mean, 1e-9, 1 - 1e-9), .below = below};
    for (size_t i = 0; i < SP_EVIDENCE_BETS; i++)
        w->wealth[i] = share_of(i);
}

void sp_wager_add(sp_wager *w, double x)
{
    double mean = w->below ? 1 - w->mean : w->mean;
    double gain = clamp(w->below ? 1 - x : x, 0, 1) / mean - 1;
    for (size_t i = 0; i < SP_EVIDENCE_BETS; i++)
        w->wealth[i] *= 1 + RISK[i] * gain;
    w->n++;
}

double sp_wager_log(const sp_wager *w)
{
    double sum = 0;
    for (size_t i = 0; i < SP_EVIDENCE_BETS; i++)
        sum += w->wealth[i];
    return log(sum);
}

static double wealth_log(const double *x, size_t n, double mean, bool below)
{
    sp_wager w;
    sp_wager_init(&w, mean, below);
    for (size_t i = 0; i < n; i++)
        sp_wager_add(&w, x[i]);
    return sp_wager_log(&w);
}

/* The border of the means that are not refused. The wealth on "above m" falls as m rises, and that
 * on "below m" rises with it: a search by halves finds the border. */
static double border(const double *x, size_t n, double limit, bool below)
{
    double refused = below ? 1 : 0, kept = below ? 0 : 1;
    for (int i = 0; i < 26; i++) {
        double at = 0.5 * (refused + kept);
        if (wealth_log(x, n, at, below) >= limit)
            refused = at;
        else
            kept = at;
    }
    return refused; /* on the safe side of the border */
}

sp_interval sp_interval_of(const double *x, size_t n, double alpha)
{
    if (!n)
        return (sp_interval){0, 1};
    double limit = log(2 / alpha);
    return (sp_interval){border(x, n, limit, false), border(x, n, limit, true)};
}

/* Wealth on "x above a common mean, y below it", at the mean where it is least: on a grid, and then
 * on finer ones around the best point. It is flat there, so what lies between the last points is
 * less by far less than what decides. */
static double apart_log(const double *x, size_t n, const double *y, size_t m)
{
    enum { POINTS = 32, FINER = 8, LEVELS = 3 };
    double best = 0.5, step = 1.0 / POINTS, least = INFINITY;
    for (size_t level = 0; level < LEVELS; level++) {
        double from = level ? best - step : 0;
        size_t n_point = level ? 2 * FINER : POINTS;
        step = level ? step / FINER : step;
        for (size_t i = 0; i <= n_point; i++) {
            double at = clamp(from + (double)i * step, 0, 1),
                   sum = wealth_log(x, n, at, false) + wealth_log(y, m, at, true);
            best = sum < least ? at : best;
            least = sum < least ? sum : least;
        }
    }
    return least;
}

double sp_differ_log(const double *x, size_t n, const double *y, size_t m)
{
    if (!n || !m)
        return 0;
    double above = apart_log(x, n, y, m), below = apart_log(y, m, x, n),
           more = above > below ? above : below, less = above > below ? below : above;
    return more + log(0.5 + 0.5 * exp(less - more));
}

/* The weight of the mixture for which intervals are narrowest near n_best samples. */
static double rho2_of(double alpha, size_t n_best)
{
    double log_alpha = log(alpha);
    return (-2 * log_alpha + log(1 - 2 * log_alpha)) / (double)(n_best ? n_best : 1);
}

/* Of the mixture's logarithm at distance d from the mean: the factor of d * d. */
static double steepness(const sp_moments *s, double rho2)
{
    double n = (double)s->n;
    return s->variance > 0 ? rho2 * n * n / (2 * s->variance * (n * rho2 + 1)) : 0;
}

double sp_differ_by_variance_log(const sp_moments *x, const sp_moments *y, double alpha,
                                 size_t n_best)
{
    if (x->n < SP_EVIDENCE_ASYMPTOTIC || y->n < SP_EVIDENCE_ASYMPTOTIC)
        return 0;
    double rho2 = rho2_of(alpha, n_best), a = steepness(x, rho2), b = steepness(y, rho2),
           d = x->mean - y->mean;
    /* the common mean at which both together say least lies between the two, nearer the steeper */
    double apart = a + b > 0 ? a * b / (a + b) * d * d : 0;
    return apart - 0.5 * log((double)x->n * rho2 + 1) - 0.5 * log((double)y->n * rho2 + 1);
}

sp_interval sp_interval_by_variance(size_t n, double mean, double variance, double alpha,
                                    size_t n_best)
{
    if (n < SP_EVIDENCE_ASYMPTOTIC)
        return (sp_interval){-INFINITY, INFINITY};
    double log_alpha = log(alpha), rho2 = rho2_of(alpha, n_best);
    double nr = (double)n * rho2 + 1,
           half = sqrt(variance * 2 * nr / ((double)n * (double)n * rho2) *
                       (0.5 * log(nr) - log_alpha));
    return (sp_interval){mean - half, mean + half};
}

static int falling(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x < y) - (x > y);
}

sp_err sp_refused(bool *out, const double *log_e, size_t n, double alpha)
{
    double limit = INFINITY, *sorted = sp_mem_alloc((n ? n : 1) * sizeof *sorted);
    if (!sorted)
        return SP_NOMEM;
    for (size_t i = 0; i < n; i++)
        sorted[i] = log_e[i];
    qsort(sorted, n, sizeof *sorted, falling);
    for (size_t k = 1; k <= n; k++)
        if (sorted[k - 1] >= log((double)n / ((double)k * alpha)))
            limit = sorted[k - 1];
    for (size_t i = 0; i < n; i++)
        out[i] = log_e[i] >= limit;
    sp_mem_free(sorted);
    return SP_OK;
}

double sp_mismatch_log(const size_t *count, const double *share, size_t n)
{
    /* A Dirichlet mixture that is centred on the shares, with the weight of n samples. */
    double sum = 0, total = 0, weight = (double)n;
    for (size_t i = 0; i < n; i++) {
        double prior = weight * share[i], c = (double)count[i];
        if (share[i] <= 0) {
            if (count[i])
                return INFINITY; /* an arm that nobody should get */
            continue;
        }
        sum += lgamma(prior + c) - lgamma(prior) - c * log(share[i]);
        total += c;
    }
    return sum + lgamma(weight) - lgamma(weight + total);
}

void sp_adjust(double *y, const double *x, size_t n)
{
    double mx = 0, my = 0, xx = 0, xy = 0;
    for (size_t i = 0; i < n; i++) {
        mx += x[i] / (double)n;
        my += y[i] / (double)n;
    }
    for (size_t i = 0; i < n; i++) {
        xx += (x[i] - mx) * (x[i] - mx);
        xy += (x[i] - mx) * (y[i] - my);
    }
    for (size_t i = 0; i < n && xx > 0; i++)
        y[i] -= xy / xx * (x[i] - mx);
}
