#include "obs/metric_int.h"

#include "base/lock.h"
#include "base/mem.h"

#include <string.h>

struct sp_metrics {
    sp_lock lock; /* guards the list */
    sp_metric *first;
};

sp_err sp_metrics_new(sp_metrics **out)
{
    sp_metrics *m = sp_mem_alloc(sizeof *m);
    if (!m)
        return SP_NOMEM;
    sp_lock_init(&m->lock, SP_RANK_METRIC);
    *out = m;
    return SP_OK;
}

void sp_metrics_free(sp_metrics *m)
{
    if (!m)
        return;
    for (sp_metric *x = m->first; x;) {
        sp_metric *next = x->next;
        sp_mem_free(x);
        x = next;
    }
    sp_lock_fini(&m->lock);
    sp_mem_free(m);
}

static sp_metric *add(sp_metrics *m, sp_metric_kind k, const char *name, const char *help, const char *labels)
{
    sp_metric *x = sp_mem_alloc(sizeof *x);
    if (!x)
        return NULL;
    x->kind = k;
    x->name = name;
    x->help = help;
    x->labels = labels;
    sp_lock_get(&m->lock);
    sp_metric **at = &m->first, *last = NULL; /* behind those of its name, whoever registered them, else at the end */
    for (sp_metric *y = m->first; y; y = y->next)
        last = strcmp(y->name, name) == 0 ? y : last;
    if (last)
        at = &last->next;
    while (!last && *at)
        at = &(*at)->next;
    x->next = *at;
    *at = x;
    sp_lock_put(&m->lock);
    return x;
}

sp_metric *sp_metric_counter(sp_metrics *m, const char *name, const char *help, const char *labels)
{
    return add(m, SP_METRIC_COUNTER, name, help, labels);
}

sp_metric *sp_metric_gauge(sp_metrics *m, const char *name, const char *help, const char *labels)
{
    return add(m, SP_METRIC_GAUGE, name, help, labels);
}

sp_metric *sp_metric_seconds(sp_metrics *m, const char *name, const char *help, const char *labels)
{
    return add(m, SP_METRIC_SECONDS, name, help, labels);
}

const sp_metric *sp_metric_first(sp_metrics *m)
{
    sp_lock_get(&m->lock);
    const sp_metric *first = m->first;
    sp_lock_put(&m->lock);
    return first;
}

void sp_metric_add(sp_metric *x, double v)
{
    if (!x)
        return;
    double old = atomic_load(&x->value);
    while (!atomic_compare_exchange_weak(&x->value, &old, old + v)) {
    }
}

void sp_metric_set(sp_metric *x, double v)
{
    if (x)
        atomic_store(&x->value, v);
}

double sp_metric_value(const sp_metric *x)
{
    return x ? atomic_load(&x->value) : 0;
}

double sp_metric_bound(size_t i)
{
    return 0.001 * (double)(1u << i);
}

void sp_metric_observe(sp_metric *x, double seconds)
{
    if (!x)
        return;
    size_t i = 0;
    while (i < SP_METRIC_BUCKETS && seconds > sp_metric_bound(i))
        i++;
    atomic_fetch_add(&x->bucket[i], 1);
    sp_metric_add(x, seconds);
}

static void render_histogram(const sp_metric *x, sp_buf *out)
{
    const char *l = x->labels ? x->labels : "", *comma = x->labels ? "," : "";
    uint64_t n = 0;
    for (size_t i = 0; i <= SP_METRIC_BUCKETS; i++) {
        n += atomic_load(&x->bucket[i]);
        if (i < SP_METRIC_BUCKETS)
            sp_buf_printf(out, "%s_bucket{%s%sle=\"%g\"} %llu\n", x->name, l, comma, sp_metric_bound(i), (unsigned long long)n);
        else
            sp_buf_printf(out, "%s_bucket{%s%sle=\"+Inf\"} %llu\n", x->name, l, comma, (unsigned long long)n);
    }
    const char *open = x->labels ? "{" : "", *close = x->labels ? "}" : "";
    sp_buf_printf(out, "%s_sum%s%s%s %.9g\n", x->name, open, l, close, atomic_load(&x->value));
    sp_buf_printf(out, "%s_count%s%s%s %llu\n", x->name, open, l, close, (unsigned long long)n);
}

void sp_metrics_render(sp_metrics *m, sp_buf *out)
{
    static const char *const type[] = {"counter", "gauge", "histogram"};
    const char *last = "";
    for (const sp_metric *x = sp_metric_first(m); x; x = x->next) {
        if (strcmp(x->name, last) != 0)
            sp_buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", x->name, x->help, x->name, type[x->kind]);
        last = x->name;
        if (x->kind == SP_METRIC_SECONDS)
            render_histogram(x, out);
        else
            sp_buf_printf(out, "%s%s%s%s %.17g\n", x->name, x->labels ? "{" : "", x->labels ? x->labels : "",
                          x->labels ? "}" : "", atomic_load(&x->value));
    }
}
