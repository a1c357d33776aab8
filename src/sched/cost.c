#include "sched/cost.h"

/* Share of a new measurement: the noise of single steps is about 10 %. The slope over depth changes
 * less and is found among more steps. */
static const double SHARE = 0.1, SLOPE_SHARE = 0.02;
/* Of a drafter's run that was faster than was known: it is asked seldom where it looks dear. */
static const double FASTER = 0.5;
/* A step counts as so many times what was expected, at most: another process had the CPU meanwhile.
 */
static const double MOST = 2;
/* What was not measured of late goes back to c(1) with each step of a few tokens, half of the way
 * in 350: one slow step (the first of its size, or with another process in it) would else end
 * guessing for good, because nothing would measure its size again. */
static const double RETURN = 0.002;
static const double LEAST_SPREAD =
    64; /* positions: depths that differ by less say nothing about the slope */
enum {
    HALF_PAGE = 16,
    DECODE = 32 /* tokens: steps with prompts vary by more than depth makes out */
};

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

double sp_cost_at(const sp_cost *c, size_t n, double seen)
{
    double flat = sp_cost_of(c, n);
    return flat > 0 ? flat + c->per_seen * seen : 0;
}

double sp_cost_seen(size_t pos, size_t n)
{
    return (double)pos * (double)((n + HALF_PAGE - 1) / HALF_PAGE);
}

double sp_cost_prompt(const sp_cost *c, size_t n_chunk, size_t from, size_t to)
{
    double n = (double)(to - from);
    return n * sp_cost_of(c, n_chunk) / (double)n_chunk +
           c->per_seen * sp_cost_seen(to, to - from) / 2;
}

/* The slope of a line through late steps. */
static void note_depth(sp_cost *c, double seen, double beyond)
{
    if (c->mean_seen <= 0) {
        c->mean_seen = seen;
        c->mean_sec = beyond;
    }
    double d_seen = seen - c->mean_seen, d_sec = beyond - c->mean_sec;
    c->mean_seen += SLOPE_SHARE * d_seen;
    c->mean_sec += SLOPE_SHARE * d_sec;
    c->both += SLOPE_SHARE * (d_seen * d_sec - c->both);
    c->square += SLOPE_SHARE * (d_seen * d_seen - c->square);
    double slope = c->both / (c->square + LEAST_SPREAD * LEAST_SPREAD);
    c->per_seen = slope > 0 ? slope : 0;
}

void sp_cost_note(sp_cost *c, size_t n, double seen, double whole)
{
    double expected = sp_cost_at(c, n, seen);
    if (expected > 0 && whole > MOST * expected)
        whole = MOST * expected;
    double flat = sp_cost_of(c, n), seconds = whole - c->per_seen * seen;
    if (flat > 0 && n <= DECODE)
        note_depth(c, seen, whole - flat);
    if (seconds < whole / 4) /* most of a step is its weights, whatever the slope says */
        seconds = whole / 4;
    for (int i = 1; i < SP_COST_POINTS && n <= DECODE && (size_t)1 << i <= DECODE; i++)
        if (c->sec[0] > 0 && c->sec[i] > 0)
            c->sec[i] += RETURN * (c->sec[0] - c->sec[i]);
    int nearest = 0;
    while (nearest + 1 < SP_COST_POINTS &&
           (size_t)3 << nearest <= 2 * n) /* from 1.5 x 2^i on, 2^(i+1) is nearer */
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

void sp_cost_note_run(double *cost, double seconds)
{
    double share = *cost <= 0 ? 1 : seconds < *cost ? FASTER : SHARE;
    seconds = *cost > 0 && seconds > MOST * *cost ? MOST * *cost : seconds;
    *cost += share * (seconds - *cost);
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
