#include "gen/window.h"

#include <math.h>
#include <string.h>

/* Log-odds that a guess is right: constant, logarithm of the tokens that agree, share of late
 * guesses that were right, mean entropy, a tenth of the mean margin, log-odds that the drafter
 * itself gives. The first five are fitted to lookup's 3,940 guesses in 72 answers of the default
 * model (docs/DECISIONS.md) and stand for the other drafters that search; the model's are a
 * start. */
#define SEARCH {-3.2, 1.9, 0.23, 0.28, 1.2, 0}
static const double START[SP_DRAFTERS][SP_ACCEPT_WEIGHTS] = {
    [SP_DRAFT_LOOKUP] = SEARCH,
    [SP_DRAFT_PREDICTION] = SEARCH,
    [SP_DRAFT_EARLIER] = SEARCH,
    [SP_DRAFT_MODEL] = {-0.5, 0, 1.3, 0, 0, 0.8},
    [SP_DRAFT_HEAD] = {-0.5, 0, 1, 0, 0, 0.9},
    [SP_DRAFT_MTP] = {-0.5, 0, 1, 0, 0, 0.9},
};
/* Of a step of gradient descent; and how much of the way back to START each step goes. */
static const double RATE = 0.02, HOLD = 0.002;
/* Hedge: a gain of 1 multiplies a weight by 1.6; half of it is forgotten in 35 tokens. */
static const double ETA = 0.5, RETURN = 0.02;
static const double MOST_ODDS = 6, MOST_WORTH = 2;

void sp_accept_init(sp_accept *a)
{
    memcpy(a->w, START, sizeof START);
}

double sp_window_entropy(const sp_window *w)
{
    size_t n = w->n_seen < SP_WINDOW ? w->n_seen : SP_WINDOW;
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)w->entropy[i];
    return n ? sum / (double)n : 0;
}

double sp_window_margin(const sp_window *w)
{
    size_t n = w->n_seen < SP_WINDOW ? w->n_seen : SP_WINDOW;
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)w->margin[i];
    return n ? sum / (double)n : 0;
}

sp_accept_at sp_window_at(const sp_window *w, sp_draft_id id, const sp_draft *d, size_t i)
{
    double late = (double)__builtin_popcount(w->right[id] & ((1u << SP_WINDOW) - 1)) / SP_WINDOW;
    double own = (double)d->p[i];
    double odds = own > 0 ? log((own + 1e-4) / (1 - own + 1e-4)) : 0;
    odds = odds > MOST_ODDS ? MOST_ODDS : odds < -MOST_ODDS ? -MOST_ODDS : odds;
    return (sp_accept_at){{1, d->match ? log(1 + (double)(d->match + i)) : 0, late,
                           sp_window_entropy(w), sp_window_margin(w) / 10, odds}};
}

double sp_accept_of(const sp_accept *a, sp_draft_id id, const sp_accept_at *at)
{
    double z = 0;
    for (size_t k = 0; k < SP_ACCEPT_WEIGHTS; k++)
        z += a->w[id][k] * at->x[k];
    return 1 / (1 + exp(-z));
}

void sp_accept_note(sp_accept *a, sp_draft_id id, const sp_accept_at *at, bool right)
{
    double miss = (right ? 1 : 0) - sp_accept_of(a, id, at), norm = 0;
    for (size_t k = 0; k < SP_ACCEPT_WEIGHTS; k++)
        norm += at->x[k] * at->x[k];
    for (size_t k = 0; k < SP_ACCEPT_WEIGHTS; k++)
        a->w[id][k] += RATE * miss * at->x[k] / (1 + norm / SP_ACCEPT_WEIGHTS) +
                       HOLD * (START[id][k] - a->w[id][k]);
}

/* The largest two of x [n]. */
static void find_top(const float *x, size_t n, float *first, float *second)
{
    enum { LANES = 16 };
    float a[LANES], b[LANES];
    for (size_t l = 0; l < LANES; l++)
        a[l] = b[l] = -INFINITY;
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (size_t l = 0; l < LANES; l++) {
            float v = x[i + l], low = v < a[l] ? v : a[l];
            a[l] = v > a[l] ? v : a[l];
            b[l] = low > b[l] ? low : b[l];
        }
    *first = *second = -INFINITY;
    for (size_t l = 0; l < 2 * LANES + n - i; l++) {
        float v = l < LANES ? a[l] : l < 2 * LANES ? b[l - LANES] : x[i + l - 2 * LANES];
        *second = v > *first ? *first : v > *second ? v : *second;
        *first = v > *first ? v : *first;
    }
}

void sp_window_measure(sp_window_look *out, const float *logits, size_t n)
{
    enum {
        DEEP = 12
    }; /* what lies further below the best adds less than e^-12 of it for each token */
    float first, second;
    double sum = 0, mean = 0;
    *out = (sp_window_look){0};
    find_top(logits, n, &first, &second);
    if (!isfinite(first))
        return;
    for (size_t i = 0; i < n; i++) {
        double d = (double)(logits[i] - first);
        if (d < -DEEP)
            continue;
        double e = exp(d);
        sum += e;
        mean += e * d;
    }
    if (!(sum > 0))
        return;
    out->logprob = (float)-log(sum);
    out->entropy = (float)(log(sum) - mean / sum);
    out->margin = isfinite(second) ? first - second : 0;
}

void sp_window_see(sp_window *w, const float *logits, size_t n)
{
    sp_window_look look;
    sp_window_measure(&look, logits, n);
    w->entropy[w->n_seen % SP_WINDOW] = look.entropy;
    w->margin[w->n_seen % SP_WINDOW] = look.margin;
    w->n_seen++;
}

void sp_window_note(sp_window *w, sp_draft_id id, bool had, bool right, double p, double more)
{
    bool would = had && p > more; /* a guess that is not worth its cost would not have been made */
    double gain = would ? (right ? 1 : 0) - more : 0;
    double worth = (1 - RETURN) * w->worth[id] + ETA * gain;
    w->n_had[id] += had;
    if (had || id < SP_DRAFT_MODEL) /* a drafter that was not run has said nothing */
        w->right[id] = w->right[id] << 1 | (had && right);
    w->worth[id] = worth > MOST_WORTH ? MOST_WORTH : worth < -MOST_WORTH ? -MOST_WORTH : worth;
}
