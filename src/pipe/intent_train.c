#include "pipe/intent_train.h"

#include "base/mem.h"
#include "base/rng.h"
#include "base/sha256.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { FOLDS = 5, EPOCHS = 40, ROUNDS = 400, BINS = 10, COLUMNS = 6, MAX_PROMPTS = 200000 };
static const double RATE = 0.5, DECAY = 2e-5, DROP = 0.4, DENSE_RATE = 0.1;

typedef struct example {
    sp_intent_features f;
    size_t family, n_bytes;
    bool held;
    sp_class cls;
    double target[SP_INTENT_OUT];
    double score[SP_INTENT_OUT]; /* out of fold, or of the model under test */
} example;

typedef struct weights {
    double dense[SP_INTENT_DENSE][SP_INTENT_OUT], bias[SP_INTENT_OUT];
    double hashed[SP_INTENT_HASH][SP_INTENT_OUT];
} weights;

typedef struct set {
    example *e;
    size_t n, n_family;
} set;

/* --- reading ---------------------------------------------------------------------------------- */

static bool is(sp_str s, const char *name)
{
    return s.n == strlen(name) && memcmp(s.p, name, s.n) == 0;
}

static sp_err read_line(example *e, sp_str col[COLUMNS], size_t line, sp_diag *d)
{
    size_t cls = 0;
    if (!is(col[1], "train") && !is(col[1], "test"))
        return SP_FAIL(d, SP_FORMAT, "line %zu: column 2 is neither train nor test", line);
    while (cls < SP_CLASSES && !is(col[2], sp_class_name((sp_class)cls)))
        cls++;
    if (cls == SP_CLASSES)
        return SP_FAIL(d, SP_FORMAT, "line %zu: there is no class '%.*s'", line,
                       (int)(col[2].n < 40 ? col[2].n : 40), col[2].p);
    if (!is(col[3], "light") && !is(col[3], "full"))
        return SP_FAIL(d, SP_FORMAT, "line %zu: column 4 is neither light nor full", line);
    if (!is(col[4], "yes") && !is(col[4], "no"))
        return SP_FAIL(d, SP_FORMAT, "line %zu: column 5 is neither yes nor no", line);
    e->held = is(col[1], "test");
    e->cls = (sp_class)cls;
    e->target[cls] = 1;
    e->target[SP_INTENT_FULL] = is(col[3], "full");
    e->target[SP_INTENT_NEED] = is(col[4], "yes");
    sp_buf text = {0};
    for (size_t i = 0; i < col[5].n; i++) {
        bool line_break = col[5].p[i] == '\\' && i + 1 < col[5].n && col[5].p[i + 1] == 'n';
        sp_buf_putc(&text, line_break ? '\n' : col[5].p[i]);
        i += line_break;
    }
    e->n_bytes = text.len;
    sp_intent_read(&e->f, sp_buf_str(&text), text.len);
    bool failed = text.failed;
    sp_buf_fini(&text);
    return failed ? SP_FAIL(d, SP_NOMEM, "prompts") : SP_OK;
}

/* Families are numbered as they come; lines of a family stand together. */
static sp_err read_set(set *out, const char *text, size_t n, sp_diag *d)
{
    size_t n_line = 0;
    for (size_t i = 0; i < n; i++)
        n_line += text[i] == '\n';
    if (n_line == 0 || n_line > MAX_PROMPTS || text[n - 1] != '\n')
        return SP_FAIL(d, SP_FORMAT, "%zu whole lines: 1 to %d are read", n_line, MAX_PROMPTS);
    out->e = sp_mem_array(n_line, sizeof *out->e);
    if (!out->e)
        return SP_FAIL(d, SP_NOMEM, "prompts");
    sp_str family = {"", 0};
    for (const char *p = text; p < text + n;) {
        const char *end = memchr(p, '\n', (size_t)(text + n - p));
        sp_str col[COLUMNS];
        for (size_t k = 0; k < COLUMNS; k++) {
            const char *tab = k + 1 < COLUMNS ? memchr(p, '\t', (size_t)(end - p)) : end;
            if (!tab || tab == p)
                return SP_FAIL(d, SP_FORMAT, "line %zu: column %zu of %d is missing", out->n + 1,
                               k + 1, COLUMNS);
            col[k] = (sp_str){p, (size_t)(tab - p)};
            p = tab + 1;
        }
        if (col[0].n != family.n || memcmp(col[0].p, family.p, family.n) != 0)
            out->n_family++;
        family = col[0];
        out->e[out->n].family = out->n_family - 1;
        SP_TRY(read_line(&out->e[out->n], col, out->n + 1, d));
        out->n++;
    }
    return SP_OK;
}

/* --- training --------------------------------------------------------------------------------- */

static void score(const weights *w, double out[SP_INTENT_OUT], const sp_intent_features *f,
                  const uint8_t *keep, double weight)
{
    memcpy(out, w->bias, sizeof w->bias);
    for (size_t i = 0; i < SP_INTENT_DENSE; i++)
        for (size_t k = 0; k < SP_INTENT_OUT; k++)
            out[k] += w->dense[i][k] * (double)f->dense[i];
    for (size_t i = 0; i < f->n; i++)
        for (size_t k = 0; (!keep || keep[i]) && k < SP_INTENT_OUT; k++)
            out[k] += w->hashed[f->hashed[i]][k] * weight;
}

/* What each score is off by: softmax over the classes, logistic for the other two. */
static void error(double out[SP_INTENT_OUT], const double s[SP_INTENT_OUT],
                  const double target[SP_INTENT_OUT])
{
    double most = s[0], sum = 0;
    for (size_t k = 1; k < SP_CLASSES; k++)
        most = s[k] > most ? s[k] : most;
    for (size_t k = 0; k < SP_CLASSES; k++)
        sum += exp(s[k] - most);
    for (size_t k = 0; k < SP_INTENT_OUT; k++)
        out[k] = (k < SP_CLASSES ? exp(s[k] - most) / sum : sp_intent_logistic(s[k])) - target[k];
}

static void learn(weights *w, const example *e, double rate, sp_rng *rng)
{
    uint8_t keep[SP_INTENT_FEATURES];
    double s[SP_INTENT_OUT], off[SP_INTENT_OUT];
    size_t n = 0;
    for (size_t i = 0; i < e->f.n; i++)
        n += keep[i] = sp_rng_unit(rng) >= DROP;
    double weight = n ? 1 / sqrt((double)n) : 0;
    score(w, s, &e->f, keep, weight);
    error(off, s, e->target);
    for (size_t k = 0; k < SP_INTENT_OUT; k++) {
        w->bias[k] -= DENSE_RATE * rate * off[k];
        for (size_t i = 0; i < SP_INTENT_DENSE; i++)
            w->dense[i][k] -= DENSE_RATE * rate * off[k] * (double)e->f.dense[i];
    }
    for (size_t i = 0; i < e->f.n; i++) {
        double *h = w->hashed[e->f.hashed[i]];
        for (size_t k = 0; keep[i] && k < SP_INTENT_OUT; k++)
            h[k] -= rate * (off[k] * weight + DECAY * 100 * h[k]);
    }
}

/* On what is not held out and not of the fold; fold FOLDS: on all of it. */
static void train(weights *w, const set *s, size_t fold)
{
    sp_rng rng;
    sp_rng_init(&rng, 8 + fold);
    memset(w, 0, sizeof *w);
    for (size_t epoch = 0; epoch < EPOCHS; epoch++) {
        double rate = RATE / (1 + 0.1 * (double)epoch);
        for (size_t i = 0; i < s->n; i++) {
            const example *e = &s->e[sp_rng_next(&rng) % s->n];
            if (!e->held && e->family % FOLDS != fold)
                learn(w, e, rate, &rng);
        }
    }
}

/* Slope and shift that make scores probabilities (Platt 1999), over the examples that were trained
 * on. */
static void calibrate(float out[2], const set *s, size_t k)
{
    double a = 1, b = 0;
    /* Newton's method would do in ten; this cannot diverge */
    for (size_t round = 0; round < ROUNDS; round++) {
        double ga = 0, gb = 0, n = 0;
        for (size_t i = 0; i < s->n; i++) {
            if (s->e[i].held)
                continue;
            double off = sp_intent_logistic(a * s->e[i].score[k] + b) - s->e[i].target[k];
            ga += off * s->e[i].score[k];
            gb += off;
            n++;
        }
        a -= 0.5 * ga / n;
        b -= 0.5 * gb / n;
    }
    out[0] = (float)a;
    out[1] = (float)b;
}

/* One slope for all classes: it keeps their order. */
static void calibrate_classes(float out[SP_INTENT_OUT][2], const set *s)
{
    double best = 0, best_loss = INFINITY;
    for (double a = 0.1; a < 3; a *= 1.05) {
        double loss = 0;
        for (size_t i = 0; i < s->n; i++) {
            double most = -INFINITY, sum = 0;
            for (size_t k = 0; k < SP_CLASSES; k++)
                most = s->e[i].score[k] > most ? s->e[i].score[k] : most;
            for (size_t k = 0; k < SP_CLASSES; k++)
                sum += exp(a * (s->e[i].score[k] - most));
            if (!s->e[i].held)
                loss += log(sum) - a * (s->e[i].score[s->e[i].cls] - most);
        }
        if (loss < best_loss) {
            best_loss = loss;
            best = a;
        }
    }
    for (size_t k = 0; k < SP_CLASSES; k++) {
        out[k][0] = (float)best;
        out[k][1] = 0;
    }
}

static void put(sp_buf *out, const weights *w, float calibration[SP_INTENT_OUT][2])
{
    float dense[SP_INTENT_DENSE][SP_INTENT_OUT], bias[SP_INTENT_OUT], scale[SP_INTENT_OUT] = {0};
    for (size_t k = 0; k < SP_INTENT_OUT; k++) {
        bias[k] = (float)w->bias[k];
        for (size_t i = 0; i < SP_INTENT_DENSE; i++)
            dense[i][k] = (float)w->dense[i][k];
        for (size_t i = 0; i < SP_INTENT_HASH; i++)
            scale[k] = fmaxf(scale[k], (float)fabs(w->hashed[i][k]) / 127);
        scale[k] = fmaxf(scale[k], 1e-9f);
    }
    sp_buf_put(out, dense, sizeof dense);
    sp_buf_put(out, bias, sizeof bias);
    sp_buf_put(out, scale, sizeof scale);
    sp_buf_put(out, calibration, SP_INTENT_OUT * 2 * sizeof(float));
    for (size_t i = 0; i < SP_INTENT_HASH; i++)
        for (size_t k = 0; k < SP_INTENT_OUT; k++)
            sp_buf_putc(out, (char)(int8_t)lround(w->hashed[i][k] / (double)scale[k]));
}

/* --- measuring -------------------------------------------------------------------------------- */

typedef struct ranked {
    double key;
    bool full;
} ranked;

static int by_key(const void *a, const void *b)
{
    double x = ((const ranked *)a)->key, y = ((const ranked *)b)->key;
    return (x < y) - (x > y);
}

/* Quality when the share of prompts ranked highest goes to the full path: the share whose path is
 * enough. */
static double quality(const ranked *r, size_t n, double share)
{
    size_t sent = (size_t)lround(share * (double)n), right = 0;
    for (size_t i = 0; i < n; i++)
        right += i < sent || !r[i].full;
    return (double)right / (double)n;
}

static double ece(const set *s, const sp_intent_model *m, size_t k)
{
    double n[BINS] = {0}, p[BINS] = {0}, hit[BINS] = {0}, sum = 0, all = 0;
    for (size_t i = 0; i < s->n; i++) {
        if (!s->e[i].held)
            continue;
        double q = sp_intent_logistic((double)m->calibration[k][0] * s->e[i].score[k] +
                                      (double)m->calibration[k][1]);
        size_t bin = q >= 1 ? BINS - 1 : (size_t)(q * BINS);
        n[bin]++;
        p[bin] += q;
        hit[bin] += s->e[i].target[k];
        all++;
    }
    for (size_t b = 0; b < BINS; b++)
        sum += fabs(p[b] - hit[b]);
    return all > 0 ? sum / all : 0;
}

static sp_err measure(sp_intent_result *r, set *s, const sp_intent_model *m, sp_diag *d)
{
    ranked *model = sp_mem_array(s->n, sizeof *model), *length = sp_mem_array(s->n, sizeof *length);
    size_t n = 0, n_full = 0;
    *r = (sp_intent_result){.n_family = s->n_family, .least_gain = 1, .least_gain_length = 1};
    if (!model || !length) {
        sp_mem_free(model);
        sp_mem_free(length);
        return SP_FAIL(d, SP_NOMEM, "prompts");
    }
    for (size_t i = 0; i < s->n; i++) {
        example *e = &s->e[i];
        r->n_train += !e->held;
        r->n_held += e->held && (i == 0 || s->e[i - 1].family != e->family);
        if (!e->held)
            continue;
        sp_intent_score(m, e->score, &e->f);
        size_t best = 0;
        for (size_t k = 1; k < SP_CLASSES; k++)
            best = e->score[k] > e->score[best] ? k : best;
        double p_full = (double)m->calibration[SP_INTENT_FULL][0] * e->score[SP_INTENT_FULL] +
                        (double)m->calibration[SP_INTENT_FULL][1];
        double p_need = (double)m->calibration[SP_INTENT_NEED][0] * e->score[SP_INTENT_NEED] +
                        (double)m->calibration[SP_INTENT_NEED][1];
        bool full = e->target[SP_INTENT_FULL] > 0;
        r->cls += best == e->cls;
        r->full += (p_full > 0) == full;
        r->need += (p_need > 0) == (e->target[SP_INTENT_NEED] > 0);
        model[n] = (ranked){p_full, full};
        length[n++] = (ranked){(double)e->n_bytes, full};
        n_full += full;
    }
    if (n) {
        r->n_test = n;
        r->cls /= (double)n;
        r->full /= (double)n;
        r->need /= (double)n;
        r->ece_full = ece(s, m, SP_INTENT_FULL);
        r->ece_need = ece(s, m, SP_INTENT_NEED);
        qsort(model, n, sizeof *model, by_key);
        qsort(length, n, sizeof *length, by_key);
        double base = 1 - (double)n_full / (double)n;
        for (int i = 0; i <= 100; i++) {
            double share = i / 100.0, q[3] = {quality(model, n, share), quality(length, n, share),
                                              base + (1 - base) * share};
            r->area += q[0] / 101;
            r->area_length += q[1] / 101;
            r->area_random += q[2] / 101;
            if (i >= 5 && i <= 95) {
                r->least_gain = fmin(r->least_gain, q[0] - q[2]);
                r->least_gain_length = fmin(r->least_gain_length, q[0] - q[1]);
            }
            for (int k = 0; k < 3 && i % 10 == 0; k++)
                r->curve[k][i / 10] = q[k];
        }
    }
    sp_mem_free(model);
    sp_mem_free(length);
    return SP_OK;
}

sp_err sp_intent_test(sp_intent_result *r, const sp_intent_model *m, const char *text, size_t n,
                      sp_diag *d)
{
    set s = {0};
    sp_err err = read_set(&s, text, n, d);
    if (err == SP_OK)
        err = measure(r, &s, m, d);
    sp_mem_free(s.e);
    return err;
}

static sp_err put_origin(sp_buf *out, const set *s, const char *text, size_t n)
{
    sp_sha256 id = {0};
    char hex[65];
    const sp_sha256_part all = {text, n};
    size_t held = 0;
    SP_TRY(sp_sha256_of(&id, &all, 1));
    sp_sha256_hex(hex, &id);
    for (size_t i = 0; i < s->n; i++)
        held += s->e[i].held;
    sp_buf_printf(
        out, "sparing intent 1\nsparing %s, %zu prompts of %zu families, %zu held out, sha256 %s\n",
        SP_VERSION, s->n, s->n_family, held, hex);
    return SP_OK;
}

sp_err sp_intent_train(sp_buf *out, sp_intent_result *r, const char *text, size_t n, sp_diag *d)
{
    set s = {0};
    float calibration[SP_INTENT_OUT][2];
    sp_intent_model m;
    weights *w = sp_mem_alloc(sizeof *w);
    sp_err err = w ? read_set(&s, text, n, d) : SP_FAIL(d, SP_NOMEM, "intent model");
    if (err == SP_OK) {
        for (size_t fold = 0; fold < FOLDS; fold++) {
            train(w, &s, fold);
            for (size_t i = 0; i < s.n; i++)
                if (s.e[i].family % FOLDS == fold)
                    score(w, s.e[i].score, &s.e[i].f, NULL, (double)s.e[i].f.weight);
        }
        calibrate_classes(calibration, &s);
        calibrate(calibration[SP_INTENT_FULL], &s, SP_INTENT_FULL);
        calibrate(calibration[SP_INTENT_NEED], &s, SP_INTENT_NEED);
        train(w, &s, FOLDS);
        err = put_origin(out, &s, text, n);
        put(out, w, calibration);
        err = err != SP_OK  ? SP_FAIL(d, err, "intent model")
              : out->failed ? SP_FAIL(d, SP_NOMEM, "intent model")
                            : sp_intent_open(&m, out->p, out->len, d);
    }
    if (err == SP_OK)
        err = measure(r, &s, &m, d);
    sp_mem_free(s.e);
    sp_mem_free(w);
    return err;
}
