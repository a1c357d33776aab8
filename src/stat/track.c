#include "stat/track.h"

#include <math.h>

enum { HALVES = 50 };

static double clamp(double x, double low, double high)
{
    return x < low ? low : x > high ? high : x;
}

static double mean_at(size_t i)
{
    return (double)i / (SP_TRACK_MEANS - 1);
}

void sp_track_init(sp_track *t, size_t n_arm)
{
    *t = (sp_track){.n_arm = n_arm};
    for (size_t b = 0; b < n_arm; b++) {
        for (size_t i = 0; i < SP_TRACK_MEANS; i++) {
            sp_wager_init(&t->arm[b].above[i], mean_at(i), false);
            sp_wager_init(&t->arm[b].below[i], mean_at(i), true);
        }
        for (size_t a = 0; a < n_arm; a++)
            sp_wager_init(&t->pair[b][a], 0.5, false);
    }
}

/* A sample of `arm` speaks for it against `other`, or against it. q: the share of `arm` among both.
 * The difference of the two is (x - centre) / q where the sample is of `arm`, and minus that of the
 * other one; both are put into [0, 1], so that no difference is a half. */
static void bet(sp_track *t, const sp_epoch *e, size_t arm, size_t other, double x)
{
    double q = e->share[arm] / (e->share[arm] + e->share[other]);
    double most = 1 / fmin(q, 1 - q), y = 0.5 * (x - e->centre) / (q * most);
    sp_wager_add(&t->pair[arm][other], 0.5 + y);
    sp_wager_add(&t->pair[other][arm], 0.5 - y);
}

void sp_track_add(sp_track *t, const sp_epoch *e, size_t arm, double x)
{
    sp_track_arm *a = &t->arm[arm];
    x = clamp(x, 0, 1);
    for (size_t i = 0; i < SP_TRACK_MEANS; i++) {
        sp_wager_add(&a->above[i], x);
        sp_wager_add(&a->below[i], x);
    }
    for (size_t k = 0; k < t->n_arm; k++)
        if (k != arm)
            bet(t, e, arm, k, x);
    a->n++;
    a->sum += x;
    a->weighed += (x - e->centre) / e->share[arm];
    t->n++;
    t->centres += e->centre;
}

double sp_track_mean(const sp_track *t, size_t arm)
{
    return t->n ? (t->centres + t->arm[arm].weighed) / (double)t->n : NAN;
}

size_t sp_track_best(const sp_track *t)
{
    size_t best = 0;
    for (size_t i = 1; i < t->n_arm; i++)
        best = sp_track_mean(t, i) > sp_track_mean(t, best) ? i : best;
    return best;
}

/* The wealth on "above m" falls as m rises and that on "below m" rises, so between two means of the
 * grid their product is at least that of the smaller ones. */
static double log_arms(const sp_track_arm *b, const sp_track_arm *a)
{
    double least = INFINITY;
    for (size_t i = 0; i + 1 < SP_TRACK_MEANS; i++)
        least = fmin(least, sp_wager_log(&b->above[i + 1]) + sp_wager_log(&a->below[i]));
    return least;
}

double sp_track_log(const sp_track *t, size_t best)
{
    double least = INFINITY;
    for (size_t a = 0; a < t->n_arm; a++)
        if (a != best)
            least = fmin(least, fmin(log_arms(&t->arm[best], &t->arm[a]),
                                     sp_wager_log(&t->pair[best][a])));
    return least;
}

/* --- shares ----------------------------------------------------------------------------------- */

/* Of two booleans with these means: Kullback and Leibler's divergence. */
static double divergence(double p, double q)
{
    return p * log(p / q) + (1 - p) * log((1 - p) / (1 - q));
}

/* What a sample of the best one and x of another tell about which is better, where both had the
 * mean m if they were alike. */
static double told(double best, double other, double x)
{
    double m = (best + x * other) / (1 + x);
    return divergence(best, m) + x * divergence(other, m);
}

/* How many samples of `other` a sample of the best one needs beside it to tell y. */
static double samples_for(double best, double other, double y)
{
    double low = 0, high = 1;
    while (told(best, other, high) < y && high < 1e9)
        high *= 2;
    for (size_t i = 0; i < HALVES; i++) {
        double at = 0.5 * (low + high);
        *(told(best, other, at) < y ? &low : &high) = at;
    }
    return high;
}

/* Samples of each variant for one of the best, if all others are to be told apart from it at once.
 * Returns how much the best one's samples weigh against the others': 1 where it is balanced. */
static double balance(double *x, const double *mean, size_t n, size_t best, double y)
{
    double sum = 0;
    for (size_t a = 0; a < n; a++) {
        if (a == best)
            continue;
        x[a] = samples_for(mean[best], mean[a], y);
        double m = (mean[best] + x[a] * mean[a]) / (1 + x[a]);
        sum += divergence(mean[best], m) / divergence(mean[a], m);
    }
    x[best] = 1;
    return sum;
}

/* Shares with which the best variant is told from all others soonest; means are apart. */
static void find_shares(double *x, const double *mean, size_t n, size_t best)
{
    double high = INFINITY, low = 0, sum = 0;
    for (size_t a = 0; a < n; a++) /* what no number of samples of the other one tells more than */
        if (a != best)
            high = fmin(high, divergence(mean[best], mean[a]));
    for (size_t i = 0; i < HALVES; i++) {
        double y = 0.5 * (low + high);
        *(balance(x, mean, n, best, y) < 1 ? &low : &high) = y;
    }
    (void)balance(x, mean, n, best, low);
    for (size_t a = 0; a < n; a++)
        sum += x[a];
    for (size_t a = 0; a < n; a++)
        x[a] /= sum;
}

void sp_track_next(sp_epoch *out, const sp_track *t, double even)
{
    double mean[SP_TRACK_ARMS], x[SP_TRACK_ARMS], sum = 0;
    size_t best = 0;
    for (size_t i = 0; i < t->n_arm; i++) {
        const sp_track_arm *a = &t->arm[i];
        mean[i] = (a->sum + 1) / ((double)a->n + 2); /* never 0 or 1 */
        best = mean[i] > mean[best] ? i : best;
        sum += a->sum;
    }
    for (size_t i = 0; i < t->n_arm; i++) /* no two alike: they would need samples without end */
        if (i != best)
            mean[i] = fmin(mean[i], mean[best] - 0.01 * fmin(mean[best], 1 - mean[best]));
    find_shares(x, mean, t->n_arm, best);
    *out = (sp_epoch){.centre = t->n ? sum / (double)t->n : 0.5};
    for (size_t i = 0; i < t->n_arm; i++)
        out->share[i] = (1 - even) * x[i] + even / (double)t->n_arm;
}
