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

sp_interval sp_interval_by_variance(size_t n, double mean, double variance, double alpha,
                                    size_t n_best)
{
    if (n < SP_EVIDENCE_ASYMPTOTIC)
        return (sp_interval){-INFINITY, INFINITY};
    double log_alpha = log(alpha),
           rho2 = (-2 * log_alpha + log(1 - 2 * log_alpha)) / (double)(n_best ? n_best : 1);
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
