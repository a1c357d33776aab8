/* Metrics in Prometheus text format 0.0.4: counters, gauges, histograms.
 * Naming: sparing_*, base units, _total for counters. A metric lives as long as its registry; who
 * registers the same name and labels again gets the same metric, so that a model that is loaded a
 * second time goes on counting where it was.
 * Threads: any. Updates are atomic; rendering may run beside them. */
#ifndef SP_OBS_METRIC_H
#define SP_OBS_METRIC_H

#include "base/buf.h"

#include <stdatomic.h>
#include <stdint.h>

typedef struct sp_metric sp_metric;
typedef struct sp_metrics sp_metrics;

SP_MUST sp_err sp_metrics_new(sp_metrics **out);
void sp_metrics_free(sp_metrics *m);
/* A view of m: what is registered through it gets the label key="value" before its own. Owned by m,
 * which returns the same view for the same label. SP_NOMEM. */
SP_MUST sp_err sp_metrics_labelled(sp_metrics **out, sp_metrics *m, const char *key,
                                   const char *value);
/* The registry behind a view, for what is counted once for all of them; m itself if it is none. */
sp_metrics *sp_metrics_root(sp_metrics *m);

/* labels: "path=\"light\"" or NULL; copied. Metrics of one name stand together, in order of
 * registration. NULL when memory is short; every update accepts NULL. name and help are
 * borrowed. */
sp_metric *sp_metric_counter(sp_metrics *m, const char *name, const char *help, const char *labels);
sp_metric *sp_metric_gauge(sp_metrics *m, const char *name, const char *help, const char *labels);
/* Buckets from 1 ms to about 2 min, doubling. */
sp_metric *sp_metric_seconds(sp_metrics *m, const char *name, const char *help, const char *labels);

void sp_metric_add(sp_metric *x, double v);
void sp_metric_set(sp_metric *x, double v);
void sp_metric_observe(sp_metric *x, double seconds);
double sp_metric_value(const sp_metric *x);
void sp_metrics_render(sp_metrics *m, sp_buf *out);

#endif
