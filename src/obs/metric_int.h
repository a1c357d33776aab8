/* What a metric is made of, for the files of obs that read them all. */
#ifndef SP_OBS_METRIC_INT_H
#define SP_OBS_METRIC_INT_H

#include "obs/metric.h"

#include <stddef.h>

enum { SP_METRIC_BUCKETS = 18 };

typedef enum sp_metric_kind {
    SP_METRIC_COUNTER,
    SP_METRIC_GAUGE,
    SP_METRIC_SECONDS
} sp_metric_kind;

struct sp_metric {
    sp_metric *_Atomic next;
    sp_metric_kind kind;
    const char *name, *help, *labels; /* labels: behind the struct, or NULL */
    _Atomic double value; /* of a histogram: the sum */
    _Atomic uint64_t bucket[SP_METRIC_BUCKETS + 1];
};

/* The list, which only grows. A metric may come in anywhere: `next` is read with sp_metric_next. */
const sp_metric *sp_metric_first(sp_metrics *m);
const sp_metric *sp_metric_next(const sp_metric *x);
double sp_metric_bound(size_t i_bucket); /* seconds, the upper one */

#endif
