#include "sched/cost.h"

/* Share of a new measurement: the noise of single steps is about 10 %, and depth moves a step's cost slowly. */
static const double SHARE = 0.1;

/* The points around n: *lo known at or below, *hi known above, -1: none. */
static void around(const sp_cost *c, size_t n, int *lo, int *hi)
{
    *lo = *hi = -1;
    for (int i = 0; i < SP_COST_POINTS; i++) {
        if (c->sec[i] <= 0)
            continue;
        if ((size_t)1 << i <= n)
            *lo = i;
        else if (*hi < 0)
            *hi = i;
    }
}

double sp_cost_of(const sp_cost *c, size_t n)
{
    int lo, hi;
    n = n ? n : 1;
    around(c, n, &lo, &hi);
    if (lo < 0 && hi < 0)
        return 0;
    if (lo < 0)
        return c->sec[hi]; /* a step costs its weights, however few tokens it has */
    double at = (double)((size_t)1 << lo);
    if (hi < 0)
        return c->sec[lo] * (double)n / at;
    double f = ((double)n - at) / ((double)((size_t)1 << hi) - at);
    return c->sec[lo] + f * (c->sec[hi] - c->sec[lo]);
}

void sp_cost_note(sp_cost *c, size_t n, double seconds)
{
    int nearest = 0;
    while (nearest + 1 < SP_COST_POINTS && (size_t)3 << nearest <= 2 * n) /* from 1.5 x 2^i on, 2^(i+1) is nearer */
        nearest++;
    double at = (double)((size_t)1 << nearest), scaled = seconds;
    double known = sp_cost_of(c, n), there = c->sec[nearest];
    if (there > 0 && known > 0)
        scaled = there * seconds / known;
    else if ((double)n > at)
        scaled = seconds * at / (double)n;
    c->sec[nearest] = there > 0 ? there + SHARE * (scaled - there) : scaled;
    for (int i = nearest; i-- > 0;) /* more tokens never cost less */
        if (c->sec[i] > c->sec[nearest])
            c->sec[i] = c->sec[nearest];
    for (int i = nearest + 1; i < SP_COST_POINTS; i++)
        if (c->sec[i] > 0 && c->sec[i] < c->sec[nearest])
            c->sec[i] = c->sec[nearest];
}

size_t sp_cost_fit(const sp_cost *c, size_t n_before, double seconds, size_t cap)
{
    if (sp_cost_of(c, 1) <= 0)
        return cap;
    size_t lo = 0, hi = cap;
    while (lo < hi) {
        size_t mid = (lo + hi + 1) / 2;
        if (sp_cost_of(c, n_before + mid) <= seconds)
            lo = mid;
        else
            hi = mid - 1;
    }
    return lo;
}
