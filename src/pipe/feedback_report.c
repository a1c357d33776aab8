/* What is known of experiments. One conversation is one sample: its answers and its ratings depend
 * on each other. */
#include "pipe/feedback_int.h"

#include "stat/evidence.h"

#include <math.h>
#include <string.h>

enum {
    N_BEST = 500, /* samples at which intervals by variance are narrowest */
    POINTS = 12   /* of a metric over time */
};

/* A metric of one variant. */
typedef struct known {
    size_t n;
    double mean, variance;
    sp_interval is; /* at alpha / 2, so that two of them bound a difference at alpha */
    double *x;      /* [n] the samples, of a control; else NULL */
    double *before; /* [n] what was known of each before; likewise, and NULL where it is not */
    /* against the control: the logarithm of the e-value of a difference, and whether it holds among
     * all metrics and variants of the experiment */
    double log_e;
    bool holds;
    /* the difference without what the question's difficulty explains of it (CUPED) */
    bool is_adjusted;
    double adjusted;
    sp_interval adjusted_is;
} known;

typedef struct metric {
    const char *name;
    bool bounded; /* its values lie in [0, 1] */
    bool is_own;  /* of answers themselves, and no rating */
} metric;

static known know(const double *x, size_t n, bool bounded, double alpha)
{
    known k = {.n = n};
    double m2 = 0;
    for (size_t i = 0; i < n; i++) {
        double d = x[i] - k.mean;
        k.mean += d / (double)(i + 1);
        m2 += d * (x[i] - k.mean);
    }
    k.variance = n ? m2 / (double)n : 0;
    k.is = bounded ? sp_interval_of(x, n, alpha)
                   : sp_interval_by_variance(n, k.mean, k.variance, alpha, N_BEST);
    return k;
}

static void put_number(sp_buf *out, double v)
{
    if (isfinite(v))
        sp_buf_json_num(out, v);
    else
        sp_buf_puts(out, "null");
}

static void put_interval(sp_buf *out, const char *name, double value, sp_interval is)
{
    sp_buf_printf(out, "\"%s\":", name);
    put_number(out, value);
    sp_buf_puts(out, ",\"low\":");
    put_number(out, is.low);
    sp_buf_puts(out, ",\"high\":");
    put_number(out, is.high);
}

/* What was known of the metric after each twelfth of the samples, which are in their order. */
static void put_over_time(sp_buf *out, const double *x, size_t n, bool bounded, double alpha)
{
    sp_buf_puts(out, ",\"over_time\":[");
    for (size_t i = 1, before = 0; i <= POINTS; i++) {
        size_t until = n * i / POINTS;
        if (until == before)
            continue;
        known k = know(x, until, bounded, alpha);
        sp_buf_printf(out, "%s{\"n\":%zu,", before ? "," : "", until);
        put_interval(out, "mean", k.mean, k.is);
        sp_buf_putc(out, '}');
        before = until;
    }
    sp_buf_putc(out, ']');
}

static void put_adjusted(sp_buf *out, const known *k)
{
    bool known_sign = k->adjusted_is.low > 0 || k->adjusted_is.high < 0;
    if (!k->is_adjusted)
        return;
    sp_buf_puts(out, ",\"adjusted\":{");
    put_interval(out, "difference", k->adjusted, k->adjusted_is);
    sp_buf_printf(out, ",\"decided\":%s}", known_sign ? "true" : "false");
}

/* control NULL: it is the control itself. */
static void put_metric(sp_buf *out, const metric *m, const known *k, const known *control)
{
    sp_buf_json_str(out, m->name, strlen(m->name));
    sp_buf_printf(out, ":{\"n\":%zu,", k->n);
    put_interval(out, "mean", k->n ? k->mean : NAN, k->is);
    if (control) {
        sp_interval by = {k->is.low - control->is.high, k->is.high - control->is.low};
        bool known_sign = by.low > 0 || by.high < 0;
        sp_buf_puts(out, ",\"against_control\":{");
        put_interval(out, "difference", k->n && control->n ? k->mean - control->mean : NAN, by);
        sp_buf_puts(out, ",\"log_evidence\":");
        put_number(out, k->log_e);
        sp_buf_printf(out, ",\"decided\":%s,\"holds_among_all\":%s",
                      known_sign ? "true" : "false", k->holds ? "true" : "false");
        put_adjusted(out, k);
        sp_buf_putc(out, '}');
    }
    sp_buf_putc(out, '}');
}

/* The metrics of an experiment: those of answers, then those that were given. SP_NOMEM, SP_IO. */
static sp_err list_metrics(metric **out, size_t *n, sp_db *db, sp_arena *a, const sp_experiment *e,
                           sp_diag *d)
{
    static const metric own[] = {{"failed", true, true},
                                 {"ms", false, true},
                                 {"ms_first", false, true},
                                 {"cost", false, true},
                                 {"tokens", false, true}};
    size_t n_own = sizeof own / sizeof *own, n_given;
    const char **name;
    bool *is_boolean;
    SP_TRY(sp_fdb_metrics(db, a, e->name, &name, &is_boolean, &n_given, d));
    metric *all = sp_arena_alloc(a, (n_own + n_given) * sizeof *all);
    if (!all)
        return SP_FAIL(d, SP_NOMEM, "report");
    memcpy(all, own, sizeof own);
    for (size_t i = 0; i < n_given; i++)
        all[n_own + i] = (metric){name[i], is_boolean[i], false};
    *out = all;
    *n = n_own + n_given;
    return SP_OK;
}

static bool is_bounded(const metric *m, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(m[i].name, name) == 0)
            return m[i].bounded;
    return false;
}

/* Evidence that the metric of a variant is another one than the control's. */
static double differ_log(const metric *m, const known *k, const double *x, const known *control,
                         double alpha)
{
    const sp_moments a = {k->n, k->mean, k->variance},
                     b = {control->n, control->mean, control->variance};
    return m->bounded ? sp_differ_log(x, k->n, control->x, control->n)
                      : sp_differ_by_variance_log(&a, &b, alpha, N_BEST);
}

/* The difference of both after one factor took out what is explained by what was known before. */
static sp_err adjust(known *to, const double *x, const double *before, const known *control,
                     double alpha, sp_diag *d)
{
    size_t n = control->n, both = n + to->n;
    if (!before || !control->before || !n || !to->n)
        return SP_OK;
    double *y = sp_mem_array(both, sizeof *y), *z = sp_mem_array(both, sizeof *z);
    if (y && z) {
        memcpy(y, control->x, n * sizeof *y);
        memcpy(y + n, x, to->n * sizeof *y);
        memcpy(z, control->before, n * sizeof *z);
        memcpy(z + n, before, to->n * sizeof *z);
        sp_adjust(y, z, both);
        const known a = know(y, n, false, alpha / 2), b = know(y + n, to->n, false, alpha / 2);
        to->is_adjusted = true;
        to->adjusted = b.mean - a.mean;
        to->adjusted_is = (sp_interval){b.is.low - a.is.high, b.is.high - a.is.low};
    }
    sp_err err = y && z ? SP_OK : SP_FAIL(d, SP_NOMEM, "report");
    sp_mem_free(y);
    sp_mem_free(z);
    return err;
}

/* One metric of one variant; control NULL: it is the control. */
static sp_err learn_one(known *to, sp_db *db, const char *experiment, const char *variant,
                        const metric *m, const known *control, double alpha, sp_diag *d)
{
    double *x, *before = NULL;
    size_t n;
    bool adjusts = m->is_own && !m->bounded;
    SP_TRY(adjusts
               ? sp_fdb_values_before(db, experiment, variant, m->name, &x, &before, &n, d)
               : sp_fdb_values(db, experiment, variant, m->name, &x, &n, d));
    *to = know(x, n, m->bounded, alpha / 2);
    if (!control) {
        to->x = x;
        to->before = before;
        return SP_OK;
    }
    to->log_e = differ_log(m, to, x, control, alpha);
    sp_err err = adjust(to, x, before, control, alpha, d);
    sp_mem_free(x);
    sp_mem_free(before);
    return err;
}

/* What is known of all metrics of all variants: all [n_variant][n_metric]. */
static sp_err learn(known *all, sp_db *db, const sp_experiment *e, const metric *m, size_t n_metric,
                    double alpha, sp_diag *d)
{
    for (size_t i = 0; i < e->n_variant; i++)
        for (size_t k = 0; k < n_metric; k++)
            SP_TRY(learn_one(&all[i * n_metric + k], db, e->name, e->variant[i].name, &m[k],
                             i ? &all[k] : NULL, alpha, d));
    return SP_OK;
}

/* Of all differences together, those that are refused with a false discovery rate of alpha. */
static sp_err refuse(known *all, sp_arena *a, size_t n_variant, size_t n_metric, double alpha,
                     sp_diag *d)
{
    size_t n = (n_variant - 1) * n_metric;
    double *log_e = sp_arena_alloc(a, n * sizeof *log_e);
    bool *out = sp_arena_alloc(a, n * sizeof *out);
    if (!log_e || !out)
        return SP_FAIL(d, SP_NOMEM, "report");
    for (size_t i = 0; i < n; i++)
        log_e[i] = all[n_metric + i].log_e;
    SP_TRY(sp_refused(out, log_e, n, alpha));
    for (size_t i = 0; i < n; i++)
        all[n_metric + i].holds = out[i];
    return SP_OK;
}

static sp_err put_variant(sp_buf *out, sp_db *db, const sp_experiment *e, size_t i, const metric *m,
                          size_t n_metric, const known *all, size_t units, double alpha,
                          sp_diag *d)
{
    const char *name = e->variant[i].name;
    sp_buf_puts(out, i ? ",{\"name\":" : "{\"name\":");
    sp_buf_json_str(out, name, strlen(name));
    sp_buf_printf(out, ",\"conversations\":%zu", units);
    if (e->metric && !e->adapt) {
        double *x;
        size_t n;
        SP_TRY(sp_fdb_values(db, e->name, name, e->metric, &x, &n, d));
        put_over_time(out, x, n, is_bounded(m, n_metric, e->metric), alpha / 2);
        sp_mem_free(x);
    }
    sp_buf_puts(out, ",\"metrics\":{");
    for (size_t k = 0; k < n_metric; k++) {
        sp_buf_puts(out, k ? "," : "");
        put_metric(out, &m[k], &all[i * n_metric + k], i ? &all[k] : NULL);
    }
    sp_buf_puts(out, "}}");
    return SP_OK;
}

static sp_err put_variants(sp_buf *out, sp_db *db, sp_arena *a, const sp_experiment *e,
                           const metric *m, size_t n_metric, const size_t *units, double alpha,
                           sp_diag *d)
{
    known *all = sp_arena_alloc(a, e->n_variant * n_metric * sizeof *all);
    if (!all)
        return SP_FAIL(d, SP_NOMEM, "report");
    memset(all, 0, e->n_variant * n_metric * sizeof *all);
    sp_err err = learn(all, db, e, m, n_metric, alpha, d);
    if (err == SP_OK)
        err = refuse(all, a, e->n_variant, n_metric, alpha, d);
    for (size_t i = 0; i < e->n_variant && err == SP_OK; i++)
        err = put_variant(out, db, e, i, m, n_metric, all, units[i], alpha, d);
    for (size_t k = 0; k < n_metric; k++) {
        sp_mem_free(all[k].x);
        sp_mem_free(all[k].before);
    }
    return err;
}

/* Which of two ranks of passages is better: the share of conversations that used more of the second
 * one's. */
static sp_err put_interleaved(sp_buf *out, sp_db *db, const sp_experiment *e, bool stopped,
                              double alpha, sp_diag *d)
{
    double *x;
    size_t n, units;
    SP_TRY(sp_fdb_units(db, e->name, "interleaved", &units, d));
    SP_TRY(sp_fdb_preferred(db, e->name, &x, &n, d));
    const known k = know(x, n, true, alpha);
    bool decided = n && (k.is.low > 0.5 || k.is.high < 0.5);
    sp_mem_free(x);
    sp_buf_printf(out, "{\"stopped\":%s,\"name\":", stopped ? "true" : "false");
    sp_buf_json_str(out, e->name, strlen(e->name));
    sp_buf_printf(out, ",\"interleaved\":{\"first\":\"%s\",\"second\":\"%s\",",
                  e->variant[0].name, e->variant[1].name);
    sp_buf_printf(out, "\"conversations\":%zu,\"n\":%zu,", units, n);
    put_interval(out, "second_preferred", n ? k.mean : NAN, k.is);
    sp_buf_printf(out, ",\"decided\":%s}}", decided ? "true" : "false");
    return SP_OK;
}

static sp_err put_experiment(sp_buf *out, sp_db *db, sp_arena *a, const sp_experiment *e,
                             bool stopped, double alpha, sp_diag *d)
{
    size_t n_metric, *units = sp_arena_alloc(a, e->n_variant * sizeof *units);
    double *share = sp_arena_alloc(a, e->n_variant * sizeof *share), sum = 0;
    metric *m;
    SP_TRY(list_metrics(&m, &n_metric, db, a, e, d));
    if (!units || !share)
        return SP_FAIL(d, SP_NOMEM, "report");
    for (size_t i = 0; i < e->n_variant; i++) {
        share[i] = e->variant[i].weight ? *e->variant[i].weight : 1;
        sum += share[i];
        SP_TRY(sp_fdb_units(db, e->name, e->variant[i].name, &units[i], d));
    }
    for (size_t i = 0; i < e->n_variant; i++)
        share[i] /= sum;
    sp_buf_printf(out, "{\"stopped\":%s,\"name\":", stopped ? "true" : "false");
    sp_buf_json_str(out, e->name, strlen(e->name));
    sp_buf_puts(out, ",\"metric\":");
    if (e->metric)
        sp_buf_json_str(out, e->metric, strlen(e->metric));
    else
        sp_buf_puts(out, "null");
    double mismatch = 0;
    if (e->adapt)
        SP_TRY(sp_adapt_report(out, &mismatch, db, e, d));
    else
        mismatch = sp_mismatch_log(units, share, e->n_variant);
    sp_buf_printf(out, ",\"assignment_broken\":%s,\"variants\":[",
                  mismatch >= -log(alpha) ? "true" : "false");
    SP_TRY(put_variants(out, db, a, e, m, n_metric, units, alpha, d));
    sp_buf_puts(out, "]}");
    return SP_OK;
}

sp_err sp_feedback_report(sp_db *db, const sp_experiments *x, double alpha, sp_buf *out, sp_diag *d)
{
    sp_arena a;
    sp_err err = SP_OK;
    sp_arena_init(&a, 0);
    sp_buf_printf(out, "{\"object\":\"experiments\",\"alpha\":%g,\"experiments\":[", alpha);
    for (size_t i = 0; x && i < x->n && err == SP_OK; i++) {
        sp_buf_puts(out, i ? "," : "");
        const sp_experiment *e = &x->experiment[i];
        bool stopped = sp_experiments_is_stopped(x, e);
        err = e->interleave ? put_interleaved(out, db, e, stopped, alpha, d)
                            : put_experiment(out, db, &a, e, stopped, alpha, d);
    }
    sp_buf_puts(out, "]}");
    sp_arena_fini(&a);
    return err == SP_OK && out->failed ? SP_FAIL(d, SP_NOMEM, "report") : err;
}
