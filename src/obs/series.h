/* The last hours of all metrics, so that a page opened late still shows the trend.
 *
 * Every interval one row is kept of each metric that is registered: what a counter grew by, what a
 * gauge was, and of a histogram what its count grew by and the median and 95th percentile of that.
 * The oldest rows give way.
 *
 * Owner:   owns a thread and its rows (4 bytes a value, taken at once).      Threads: any.
 * Errors:  SP_NOMEM. */
#ifndef SP_OBS_SERIES_H
#define SP_OBS_SERIES_H

#include "obs/metric.h"

#include <stddef.h>

typedef struct sp_series sp_series;

SP_MUST sp_err sp_series_new(sp_series **out, sp_metrics *m, double interval_s, size_t n_row);
void sp_series_free(sp_series *s);
/* JSON {"interval", "t": [...], "counter": {name: [...]}, "gauge", "p50", "p95"}: the rows after
 * `since` (seconds since 1970), drawn together to at most n_point points; a value of a histogram in
 * which nothing happened is null. "t" is the end of each point, "interval" its length. Metrics that
 * never moved are left out. */
void sp_series_write(sp_series *s, sp_buf *out, double since, size_t n_point);

#endif
