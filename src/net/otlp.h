/* Sends spans to a collector over OTLP/HTTP (JSON), in batches, from a thread of its own. What does
 * not fit into the queue or is refused is counted and dropped: traces never hold up an answer.
 * Threads: any. Errors: SP_INVAL for the URL. */
#ifndef SP_NET_OTLP_H
#define SP_NET_OTLP_H

#include "obs/metric.h"

typedef struct sp_otlp sp_otlp;

/* url: the collector, up to /v1/traces, e.g. http://127.0.0.1:4318. */
SP_MUST sp_err sp_otlp_new(sp_otlp **out, const char *url, sp_metrics *m, sp_diag *d);
void sp_otlp_free(sp_otlp *o); /* sends what is queued; at most two seconds */
/* Spans as sp_trace_write gives them. */
void sp_otlp_add(sp_otlp *o, const char *spans, size_t n, size_t n_span);

#endif
