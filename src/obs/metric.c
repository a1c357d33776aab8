#include "obs/metric_int.h"

#include "base/lock.h"
#include "base/mem.h"

#include <stdio.h>
#include <string.h>

enum { MAX_LABELS = 512 /* bytes of all labels of a metric */ };

struct sp_metrics {
    sp_lock lock;       /* of a root: guards its list and its views */
    sp_metric *first;
    sp_metrics *root;   /* of a view; NULL: this is a root */
    sp_metrics *next;   /* of a root: its views, one after the other */
    char label[MAX_LABELS / 2]; /* of a view */
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
    for (sp_metric *x = m->first, *next; x; x = next) {
        next = atomic_load(&x->next);
        sp_mem_free(x);
    }
    for (sp_metrics *v = m->next, *next; v; v = next) {
        next = v->next;
        sp_mem_free(v);
    }
    sp_lock_fini(&m->lock);
    sp_mem_free(m);
}

sp_metrics *sp_metrics_root(sp_metrics *m)
{
    return m->root ? m->root : m;
}

/* key="value", with what the text format escapes. A value that is too long is cut. */
static void write_label(char *out, size_t cap, const char *key, const char *value)
{
    size_t n = (size_t)snprintf(out, cap, "%.32s=\"", key);
    for (const char *p = value; *p && n + 4 < cap; p++) {
        bool special = *p == '"' || *p == '\\' || *p == '\n';
        if (special)
            out[n++] = '\\';
        out[n++] = *p;
        if (*p == '\n')
            out[n - 1] = 'n';
    }
    out[n++] = '"';
    out[n] = 0;
}

sp_err sp_metrics_labelled(sp_metrics **out, sp_metrics *m, const char *key, const char *value)
{
    sp_metrics *v = sp_mem_alloc(sizeof *v), *same;
    if (!v)
        return SP_NOMEM;
    v->root = m;
    write_label(v->label, sizeof v->label, key, value);
    sp_lock_get(&m->lock);
    for (same = m->next; same && strcmp(same->label, v->label) != 0;)
        same = same->next;
    if (!same) {
        v->next = m->next;
        m->next = v;
    }
    sp_lock_put(&m->lock);
    if (same)
        sp_mem_free(v);
    *out = same ? same : v;
    return SP_OK;
}

static sp_metric *metric_new(sp_metric_kind k, const char *name, const char *help,
                             const char *labels)
{
    size_t n = labels ? strlen(labels) + 1 : 0;
    sp_metric *x = sp_mem_alloc(sizeof *x + n);
    if (!x)
        return NULL;
    x->kind = k;
    x->name = name;
    x->help = help;
    x->labels = labels ? memcpy(x + 1, labels, n) : NULL;
    return x;
}

static bool has_labels(const sp_metric *x, const char *labels)
{
    return x->labels && labels ? strcmp(x->labels, labels) == 0 : !x->labels && !labels;
}

/* Puts x behind those of its name, whoever registered them, else at the end. The lock is held. */
static void insert(sp_metrics *m, sp_metric *x)
{
    sp_metric *last = NULL, *end = NULL;
    for (sp_metric *y = m->first; y; y = atomic_load(&y->next)) {
        last = strcmp(y->name, x->name) == 0 ? y : last;
        end = y;
    }
    last = last ? last : end;
    atomic_store(&x->next, last ? atomic_load(&last->next) : NULL);
    if (last)
        atomic_store(&last->next, x);
    else
        m->first = x;
}

static sp_metric *add(sp_metrics *to, sp_metric_kind k, const char *name, const char *help,
                      const char *own)
{
    char all[MAX_LABELS];
    sp_metrics *m = sp_metrics_root(to);
    if (to->root)
        snprintf(all, sizeof all, own ? "%s,%s" : "%s", to->label, own);
    const char *labels = to->root ? all : own;
    sp_metric *x = metric_new(k, name, help, labels), *same = NULL;
    if (!x)
        return NULL;
    sp_lock_get(&m->lock);
    for (sp_metric *y = m->first; y && !same; y = atomic_load(&y->next))
        same = strcmp(y->name, name) == 0 && has_labels(y, labels) ? y : NULL;
    if (!same)
        insert(m, x);
    sp_lock_put(&m->lock);
    if (same)
        sp_mem_free(x);
    return same ? same : x;
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

const sp_metric *sp_metric_next(const sp_metric *x)
{
    return atomic_load(&x->next);
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
            sp_buf_printf(out, "%s_bucket{%s%sle=\"%g\"} %llu\n", x->name, l, comma,
                          sp_metric_bound(i), (unsigned long long)n);
        else
            sp_buf_printf(out, "%s_bucket{%s%sle=\"+Inf\"} %llu\n", x->name, l, comma,
                          (unsigned long long)n);
    }
    const char *open = x->labels ? "{" : "", *close = x->labels ? "}" : "";
    sp_buf_printf(out, "%s_sum%s%s%s %.9g\n", x->name, open, l, close, atomic_load(&x->value));
    sp_buf_printf(out, "%s_count%s%s%s %llu\n", x->name, open, l, close, (unsigned long long)n);
}

void sp_metrics_render(sp_metrics *m, sp_buf *out)
{
    static const char *const type[] = {"counter", "gauge", "histogram"};
    const char *last = "";
    for (const sp_metric *x = sp_metric_first(m); x; x = sp_metric_next(x)) {
        if (strcmp(x->name, last) != 0)
            sp_buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", x->name, x->help, x->name,
                          type[x->kind]);
        last = x->name;
        if (x->kind == SP_METRIC_SECONDS)
            render_histogram(x, out);
        else
            sp_buf_printf(out, "%s%s%s%s %.17g\n", x->name, x->labels ? "{" : "",
                          x->labels ? x->labels : "", x->labels ? "}" : "", atomic_load(&x->value));
    }
}
