#include "obs/series.h"

#include "base/clock.h"
#include "base/lock.h"
#include "base/mem.h"
#include "obs/metric_int.h"

#include <math.h>
#include <string.h>

typedef struct column {
    const sp_metric *metric;
    double before;                  /* value, or count, at the last row */
    uint64_t bucket[SP_METRIC_BUCKETS + 1]; /* likewise */
    float *row, *p50, *p95;         /* [n_row]; the last two for histograms */
    bool moved;
} column;

struct sp_series {
    sp_lock lock; /* rank NET: metrics are looked at under it */
    pthread_cond_t wake;
    pthread_t thread;
    bool started, stop;
    double interval_s;
    sp_metrics *metrics;
    column *col;    /* [n_col] guard: lock, as the rest */
    size_t n_col, n_row, n; /* n: rows ever written */
    double *t;      /* [n_row] */
};

/* Of what fell into each bucket; linear inside one, as PromQL's histogram_quantile. */
static float quantile(const uint64_t grown[SP_METRIC_BUCKETS + 1], uint64_t n, double q)
{
    double want = q * (double)n, sum = 0;
    for (size_t i = 0; i <= SP_METRIC_BUCKETS; i++) {
        double lo = i ? sp_metric_bound(i - 1) : 0, here = (double)grown[i];
        if (here > 0 && sum + here >= want)
            return (float)(i < SP_METRIC_BUCKETS
                               ? lo + (sp_metric_bound(i) - lo) * (want - sum) / here
                               : lo);
        sum += here;
    }
    return NAN;
}

static void sample(column *c, size_t at)
{
    const sp_metric *x = c->metric;
    if (x->kind != SP_METRIC_SECONDS) {
        double v = atomic_load(&x->value);
        c->row[at] = (float)(x->kind == SP_METRIC_GAUGE ? v : v - c->before);
        c->moved = c->moved || v > 0 || v < 0;
        c->before = v;
        return;
    }
    uint64_t grown[SP_METRIC_BUCKETS + 1], n = 0;
    for (size_t i = 0; i <= SP_METRIC_BUCKETS; i++) {
        uint64_t v = atomic_load(&x->bucket[i]);
        grown[i] = v - c->bucket[i];
        c->bucket[i] = v;
        n += grown[i];
    }
    c->row[at] = (float)n;
    c->p50[at] = quantile(grown, n, 0.5);
    c->p95[at] = quantile(grown, n, 0.95);
    c->moved = c->moved || n;
}

static void column_fini(column *c)
{
    sp_mem_free(c->row);
    sp_mem_free(c->p50);
    sp_mem_free(c->p95);
}

/* Before a metric was there nothing happened: its counters grew by nothing, and there is no
 * quantile. */
static sp_err column_init(column *c, const sp_metric *x, size_t n_row)
{
    *c = (column){.metric = x, .row = sp_mem_array(n_row, sizeof *c->row)};
    bool ok = c->row != NULL;
    if (x->kind == SP_METRIC_SECONDS) {
        c->p50 = sp_mem_array(n_row, sizeof *c->p50);
        c->p95 = sp_mem_array(n_row, sizeof *c->p95);
        ok = ok && c->p50 && c->p95;
    }
    for (size_t i = 0; i < n_row && ok && c->p50; i++)
        c->p50[i] = c->p95[i] = NAN;
    if (ok)
        return SP_OK;
    column_fini(c);
    return SP_NOMEM;
}

static bool has_column(const sp_series *s, const sp_metric *x)
{
    for (size_t i = 0; i < s->n_col; i++)
        if (s->col[i].metric == x)
            return true;
    return false;
}

/* Columns for the metrics that have none yet: a model that was loaded later brings its own. */
static sp_err take_new(sp_series *s)
{
    size_t n = 0;
    for (const sp_metric *x = sp_metric_first(s->metrics); x; x = sp_metric_next(x))
        n++;
    if (n == s->n_col)
        return SP_OK;
    column *more = sp_mem_grow(s->col, n * sizeof *more);
    if (!more)
        return SP_NOMEM;
    s->col = more;
    for (const sp_metric *x = sp_metric_first(s->metrics); x && s->n_col < n;
         x = sp_metric_next(x)) {
        if (has_column(s, x))
            continue;
        SP_TRY(column_init(&s->col[s->n_col], x, s->n_row));
        s->n_col++;
    }
    return SP_OK;
}

static void *series_main(void *arg)
{
    sp_series *s = arg;
    uint64_t next = sp_clock_ns(), step = (uint64_t)(s->interval_s * 1e9);
    sp_lock_get(&s->lock);
    for (;;) {
        next += step;
        for (uint64_t now; !s->stop && (now = sp_clock_ns()) < next;)
            sp_lock_wait(&s->lock, &s->wake, next - now);
        if (s->stop)
            break;
        (void)!take_new(s); /* without memory for more, those that are there go on */
        s->t[s->n % s->n_row] = sp_clock_wall_ns() * 1e-9;
        for (size_t i = 0; i < s->n_col; i++)
            sample(&s->col[i], s->n % s->n_row);
        s->n++;
    }
    sp_lock_put(&s->lock);
    return NULL;
}

sp_err sp_series_new(sp_series **out, sp_metrics *m, double interval_s, size_t n_row)
{
    sp_series *s = sp_mem_alloc(sizeof *s);
    if (!s)
        return SP_NOMEM;
    sp_lock_init(&s->lock, SP_RANK_NET);
    sp_lock_cond_init(&s->wake);
    s->interval_s = interval_s;
    s->n_row = n_row;
    s->metrics = m;
    s->t = sp_mem_array(n_row, sizeof *s->t);
    bool ok = s->t && take_new(s) == SP_OK;
    s->started = ok && pthread_create(&s->thread, NULL, series_main, s) == 0;
    if (!s->started) {
        sp_series_free(s);
        return SP_NOMEM;
    }
    *out = s;
    return SP_OK;
}

void sp_series_free(sp_series *s)
{
    if (!s)
        return;
    if (s->started) {
        sp_lock_get(&s->lock);
        s->stop = true;
        pthread_cond_broadcast(&s->wake);
        sp_lock_put(&s->lock);
        pthread_join(s->thread, NULL);
    }
    for (size_t i = 0; i < s->n_col; i++)
        column_fini(&s->col[i]);
    sp_mem_free(s->col);
    sp_mem_free(s->t);
    sp_lock_fini(&s->lock);
    pthread_cond_destroy(&s->wake);
    sp_mem_free(s);
}

/* --- writing ---------------------------------------------------------------------------------- */

typedef struct window {
    size_t first, n, stride; /* rows as counted since start */
} window;

static void put_values(sp_buf *out, const sp_series *s, const window *w, const float *row,
                       sp_metric_kind kind)
{
    for (size_t i = 0; i < w->n; i += w->stride) {
        double sum = 0, last = NAN;
        size_t n = 0;
        for (size_t k = i; k < i + w->stride && k < w->n; k++) {
            double v = (double)row[(w->first + k) % s->n_row];
            if (!isnan(v)) {
                sum += v;
                last = v;
                n++;
            }
        }
        double v = kind == SP_METRIC_COUNTER ? sum
                   : kind == SP_METRIC_GAUGE ? last
                   : n                       ? sum / (double)n
                                             : NAN;
        if (i)
            sp_buf_putc(out, ',');
        if (isnan(v))
            sp_buf_puts(out, "null");
        else
            sp_buf_printf(out, "%.6g", v);
    }
}

/* kind: how points of several rows are drawn together; SECONDS: their mean. */
static void put_group(sp_buf *out, const sp_series *s, const window *w, const char *name,
                      sp_metric_kind want, bool p50, bool p95)
{
    size_t n = 0;
    sp_buf_printf(out, ",\"%s\":{", name);
    for (size_t i = 0; i < s->n_col; i++) {
        const column *c = &s->col[i];
        bool seconds = c->metric->kind == SP_METRIC_SECONDS,
             counts = want == SP_METRIC_COUNTER && seconds;
        if (!c->moved || (c->metric->kind != want && !counts))
            continue;
        sp_buf text = {0};
        sp_buf_printf(&text, "%s%s%s%s%s", c->metric->name, counts ? "_count" : "",
                      c->metric->labels ? "{" : "", c->metric->labels ? c->metric->labels : "",
                      c->metric->labels ? "}" : "");
        if (n++)
            sp_buf_putc(out, ',');
        sp_buf_json_str(out, sp_buf_str(&text), text.len);
        sp_buf_puts(out, ":[");
        put_values(out, s, w, p50 ? c->p50 : p95 ? c->p95 : c->row, want);
        sp_buf_putc(out, ']');
        sp_buf_fini(&text);
    }
    sp_buf_putc(out, '}');
}

void sp_series_write(sp_series *s, sp_buf *out, double since, size_t n_point)
{
    sp_lock_get(&s->lock);
    window w = {.first = s->n > s->n_row ? s->n - s->n_row : 0};
    /* times are given in whole ms */
    while (w.first < s->n && s->t[w.first % s->n_row] <= since + 5e-4)
        w.first++;
    w.n = s->n - w.first;
    w.stride = n_point && w.n > n_point ? (w.n + n_point - 1) / n_point : 1;
    sp_buf_printf(out, "{\"interval\":%.6g,\"t\":[", s->interval_s * (double)w.stride);
    for (size_t i = 0; i < w.n; i += w.stride) {
        size_t last = i + w.stride < w.n ? i + w.stride - 1 : w.n - 1;
        sp_buf_printf(out, "%s%.3f", i ? "," : "", s->t[(w.first + last) % s->n_row]);
    }
    sp_buf_putc(out, ']');
    put_group(out, s, &w, "counter", SP_METRIC_COUNTER, false, false);
    put_group(out, s, &w, "gauge", SP_METRIC_GAUGE, false, false);
    put_group(out, s, &w, "p50", SP_METRIC_SECONDS, true, false);
    put_group(out, s, &w, "p95", SP_METRIC_SECONDS, false, true);
    sp_buf_putc(out, '}');
    sp_lock_put(&s->lock);
}
