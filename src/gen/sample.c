#include "gen/sample.h"

#include "base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Of the temperature: two logits that differ by 1e-3 are then e^100 apart. */
#define GREEDY_BELOW 1e-5f

typedef struct cand {
    uint32_t id;
    float logit; /* below the best, divided by the temperature: at most 0 */
} cand;

struct sp_sampler {
    sp_sample_cfg cfg;
    size_t n_vocab;
    sp_rng rng;
    uint32_t *count; /* [n_vocab] in the answer; NULL without penalties */
    bool *seen;      /* [n_vocab] in prompt or answer */
    float *work;     /* [n_vocab] logits after penalties */
    cand *cand;      /* [n_vocab] */
    const sp_bias *bend; /* [n_bend] of the next pick */
    size_t n_bend;
};

void sp_sample_cfg_init(sp_sample_cfg *c)
{
    *c = (sp_sample_cfg){.top_p = 1, .repetition_penalty = 1};
}

sp_err sp_sampler_new(sp_sampler **out, const sp_sample_cfg *cfg, size_t n_vocab)
{
    sp_sampler *s = sp_mem_alloc(sizeof *s);
    if (!s)
        return SP_NOMEM;
    s->cfg = *cfg;
    s->n_vocab = n_vocab;
    sp_rng_init(&s->rng, cfg->seed);
    s->count = sp_mem_array(n_vocab, sizeof *s->count);
    s->seen = sp_mem_array(n_vocab, sizeof *s->seen);
    s->work = sp_mem_array(n_vocab, sizeof *s->work);
    s->cand = sp_mem_array(n_vocab, sizeof *s->cand);
    if (!s->count || !s->seen || !s->work || !s->cand) {
        sp_sampler_free(s);
        return SP_NOMEM;
    }
    *out = s;
    return SP_OK;
}

void sp_sampler_free(sp_sampler *s)
{
    if (!s)
        return;
    sp_mem_free(s->count);
    sp_mem_free(s->seen);
    sp_mem_free(s->work);
    sp_mem_free(s->cand);
    sp_mem_free(s);
}

void sp_sampler_bend(sp_sampler *s, const sp_bias *bend, size_t n)
{
    s->bend = bend;
    s->n_bend = n;
}

void sp_sampler_see(sp_sampler *s, uint32_t id)
{
    s->seen[id] = true;
}

/* What is not allowed (0, else 1) cannot be chosen. In blocks of bits without a branch, of which
 * the compiler makes vectors: a branch for each of 49,152 tokens took 0.09 ms, 4 % of a small
 * model's step. */
static void forbid(float *x, const uint8_t *allowed, size_t n)
{
    enum { LANES = 16 };
    static const uint32_t below_all = 0xff800000; /* the bits of -INFINITY */
    size_t i = 0;
    for (size_t end = n - n % LANES; i < end; i += LANES) {
        uint32_t w[LANES];
        memcpy(w, x + i, sizeof w);
        for (size_t k = 0; k < LANES; k++) {
            uint32_t no = (uint32_t)allowed[i + k] - 1;
            w[k] = (w[k] & ~no) | (below_all & no);
        }
        memcpy(x + i, w, sizeof w);
    }
    for (; i < n; i++)
        x[i] = allowed[i] ? x[i] : -INFINITY;
}

static bool penalises(const sp_sample_cfg *c)
{
    return c->repetition_penalty != 1 || c->presence_penalty != 0 || c->frequency_penalty != 0;
}

bool sp_sampler_bends(const sp_sampler *s)
{
    return penalises(&s->cfg) || s->cfg.n_bias || s->n_bend;
}

/* The logits with biases and penalties, in s->work; without any of these: as they came. */
static const float *adjust(sp_sampler *s, const float *logits, const uint8_t *allowed)
{
    const sp_sample_cfg *c = &s->cfg;
    const bool is_bent = sp_sampler_bends(s);
    if (!is_bent && !allowed)
        return logits;
    memcpy(s->work, logits, s->n_vocab * sizeof *s->work);
    for (size_t i = 0; i < c->n_bias; i++)
        s->work[c->bias[i].id] += c->bias[i].add;
    for (size_t i = 0; i < s->n_bend; i++)
        s->work[s->bend[i].id] += s->bend[i].add;
    for (size_t i = 0; penalises(c) && i < s->n_vocab; i++) {
        float *l = &s->work[i];
        if (s->seen[i]) /* Keskar et al. 2019 (CTRL) section 4.1 */
            *l = *l > 0 ? *l / c->repetition_penalty : *l * c->repetition_penalty;
        if (s->count[i])
            *l -= c->presence_penalty + c->frequency_penalty * (float)s->count[i];
    }
    if (allowed)
        forbid(s->work, allowed, s->n_vocab);
    return s->work;
}

/* The first of the largest that are numbers. */
static size_t arg_max(const float *x, size_t n)
{
    enum { LANES = 16 }; /* independent, so that the compiler makes vectors of them */
    float most[LANES];
    size_t i = 0, end = n - n % LANES;
    for (size_t k = 0; k < LANES; k++)
        most[k] = -INFINITY;
    for (; i < end; i += LANES)
        for (size_t k = 0; k < LANES; k++)
            most[k] = x[i + k] > most[k] ? x[i + k] : most[k];
    for (; i < n; i++)
        most[0] = x[i] > most[0] ? x[i] : most[0];
    for (size_t k = 1; k < LANES; k++)
        most[0] = most[k] > most[0] ? most[k] : most[0];
    for (i = 0; i < n; i++)
        if (x[i] == most[0])
            return i;
    return 0;
}

static int by_logit(const void *a, const void *b)
{
    const cand *x = a, *y = b;
    if (x->logit != y->logit)
        return x->logit < y->logit ? 1 : -1;
    return (x->id > y->id) - (x->id < y->id);
}

static void swap(cand *a, cand *b)
{
    cand t = *a;
    *a = *b;
    *b = t;
}

/* Moves the k best to the front, unordered. by_logit is a strict order, so no two are equal. */
static void select_top(cand *c, size_t n, size_t k)
{
    size_t lo = 0, hi = n;
    while (lo < k && k < hi) {
        size_t at = lo;
        swap(&c[lo + (hi - lo) / 2], &c[hi - 1]);
        for (size_t i = lo; i + 1 < hi; i++)
            if (by_logit(&c[i], &c[hi - 1]) < 0)
                swap(&c[i], &c[at++]);
        swap(&c[at], &c[hi - 1]);
        if (at < k)
            lo = at + 1;
        else
            hi = at;
    }
}

static double mass(const cand *c, size_t n)
{
    double total = 0;
    for (size_t i = 0; i < n; i++)
        total += exp((double)c[i].logit);
    return total;
}

/* Shortens to the fewest best candidates that hold top_p of the mass. */
static size_t nucleus(cand *c, size_t n, float top_p)
{
    double goal = mass(c, n) * (double)top_p;
    for (size_t k = 64; ; k *= 8) { /* most nuclei are small: do not sort a whole vocabulary */
        k = k < n ? k : n;
        select_top(c, n, k);
        qsort(c, k, sizeof *c, by_logit);
        double sum = 0;
        for (size_t i = 0; i < k; i++) {
            sum += exp((double)c[i].logit);
            if (sum >= goal)
                return i + 1;
        }
        if (k == n)
            return n;
    }
}

/* Draws among those that top_k and top_p left; the best one's logit is 0. */
static uint32_t draw_of(sp_sampler *s, cand *c, size_t n)
{
    const sp_sample_cfg *cfg = &s->cfg;
    if (cfg->min_p > 0) {
        size_t kept = 0;
        for (size_t i = 0; i < n; i++)
            if (c[i].logit >= logf(cfg->min_p))
                c[kept++] = c[i];
        n = kept;
    }
    double at = sp_rng_unit(&s->rng) * mass(c, n);
    for (size_t i = 0; i + 1 < n; i++) {
        at -= exp((double)c[i].logit);
        if (at < 0)
            return c[i].id;
    }
    return c[n - 1].id;
}

/* Draws among candidates. */
static uint32_t draw(sp_sampler *s, cand *c, size_t n)
{
    const sp_sample_cfg *cfg = &s->cfg;
    if (cfg->top_k && cfg->top_k < n) {
        select_top(c, n, cfg->top_k);
        n = cfg->top_k;
        qsort(c, n, sizeof *c, by_logit); /* so that sp_sampler_best draws alike */
    }
    if (cfg->top_p < 1)
        n = nucleus(c, n, cfg->top_p);
    return draw_of(s, c, n);
}

/* How many of the n best, in falling order, hold top_p of `all`, which is known to 1e-5; 0: it is
 * not certain, or more than these do. */
static size_t nucleus_of(const cand *c, size_t n, float top_p, double all)
{
    double goal = all * (double)top_p, unsure = all * 1e-4, sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += exp((double)c[i].logit);
        if (sum >= goal - unsure)
            return sum >= goal + unsure ? i + 1 : 0;
    }
    return 0;
}

static int by_id(const void *a, const void *b)
{
    const cand *x = a, *y = b;
    return (x->id > y->id) - (x->id < y->id);
}

/* Of the n candidates that were listed of a row, in falling order, the draw is among the first: how
 * many; 0: others may belong to them. is_all: they are all that may be chosen. */
static size_t drawn_from(const sp_sampler *s, cand *c, size_t n, const sp_dev_best *b, bool is_all,
                         bool is_masked)
{
    const sp_sample_cfg *cfg = &s->cfg;
    float least = (b->logit[b->n - 1] - b->logit[0]) / cfg->temperature, shift = 0;
    if (is_all) { /* as they come from all logits */
        qsort(c, n, sizeof *c, by_id);
        return n;
    }
    if (cfg->top_k)
        return cfg->top_k <= n ? cfg->top_k : 0;
    if (cfg->top_p < 1)
        return is_masked ? 0 : nucleus_of(c, n, cfg->top_p, (double)b->mass);
    for (size_t i = 0; i < b->n && is_masked; i++) /* the best that may be chosen has logit 0 */
        if (b->id[i] == c[0].id)
            shift = (b->logit[i] - b->logit[0]) / cfg->temperature;
    if (!(cfg->min_p > 0) || !(least - shift < logf(cfg->min_p) - 1e-3f))
        return 0;
    size_t kept = 0;
    while (kept < n && c[kept].logit >= logf(cfg->min_p))
        kept++;
    qsort(c, kept, sizeof *c, by_id);
    return kept;
}

bool sp_sampler_best(sp_sampler *s, uint32_t *out, const sp_dev_best *b, const uint8_t *allowed)
{
    cand *c = s->cand;
    size_t n = 0;
    if (sp_sampler_bends(s))
        return false;
    for (size_t i = 0; i < b->n; i++)
        if (!allowed || allowed[b->id[i]])
            c[n++] = (cand){b->id[i], b->logit[i]};
    if (!n)
        return false;
    uint32_t id = c[0].id;
    if (s->cfg.temperature >= GREEDY_BELOW) {
        const float top = c[0].logit;
        for (size_t i = 0; i < n; i++)
            c[i].logit = (c[i].logit - top) / s->cfg.temperature;
        const bool is_all = b->n == b->n_finite;
        n = drawn_from(s, c, n, b, is_all, allowed != NULL);
        if (!n)
            return false;
        bool is_cut = !is_all && !s->cfg.top_k && s->cfg.top_p < 1; /* by nucleus_of */
        id = is_cut ? draw_of(s, c, n) : draw(s, c, n);
    }
    s->count[id]++;
    s->seen[id] = true;
    *out = id;
    return true;
}

sp_err sp_sampler_next(sp_sampler *s, uint32_t *out, const float *logits, const uint8_t *allowed)
{
    const float *l = adjust(s, logits, allowed);
    s->n_bend = 0;
    uint32_t id = (uint32_t)arg_max(l, s->n_vocab);
    if (!isfinite(l[id]))
        return SP_FORMAT;
    if (s->cfg.temperature >= GREEDY_BELOW) {
        size_t n = 0;
        for (uint32_t i = 0; i < s->n_vocab; i++)
            if (isfinite(l[i])) /* the difference first: a quotient of large logits overflows */
                s->cand[n++] = (cand){i, (l[i] - l[id]) / s->cfg.temperature};
        id = draw(s, s->cand, n);
    }
    s->count[id]++;
    s->seen[id] = true;
    *out = id;
    return SP_OK;
}

void sp_sampler_take(sp_sampler *s, uint32_t id)
{
    if (s->cfg.temperature >= GREEDY_BELOW)
        (void)sp_rng_unit(&s->rng); /* what a draw among one takes */
    s->count[id]++;
    s->seen[id] = true;
}

void sp_sample_logprobs(const float *logits, size_t n_vocab, uint32_t id, float *logprob,
                        sp_top *top, size_t n_top)
{
    double total = 0;
    float best = logits[arg_max(logits, n_vocab)];
    for (size_t i = 0; i < n_vocab; i++)
        total += exp((double)(logits[i] - best));
    double log_total = log(total) + (double)best;
    *logprob = (float)((double)logits[id] - log_total);
    size_t n = 0;
    for (uint32_t i = 0; i < n_vocab && n_top; i++) { /* insertion into a short sorted list */
        if (n == n_top && !(logits[i] > top[n - 1].logprob))
            continue;
        size_t at = n < n_top ? n++ : n - 1;
        for (; at > 0 && logits[i] > top[at - 1].logprob; at--)
            top[at] = top[at - 1];
        top[at] = (sp_top){i, logits[i]};
    }
    for (size_t i = 0; i < n; i++)
        top[i].logprob = (float)((double)top[i].logprob - log_total);
}
