/* One body of OTLP/HTTP (JSON) to a collector, and again while the collector says that it may come
 * again: 429, 502, 503, 504, or no answer. The wait doubles from a quarter of a second; Retry-After
 * stands above it. Six attempts, of ten seconds each; a wait is a minute at most.
 *
 * Errors:  SP_NET: the last attempt's words; SP_INVAL: the URL is none; SP_NOMEM.
 * Threads: one at a time. Blocks.
 * Source:  opentelemetry.io, OTLP specification 1.x, "OTLP/HTTP Response" and "Partial Success". */
#ifndef SP_NET_OTLP_POST_H
#define SP_NET_OTLP_POST_H

#include "base/buf.h"

#include <stdint.h>

/* *refused: records of the body that the collector took none of, and will not (partialSuccess). */
SP_MUST sp_err sp_otlp_post(const char *url, const sp_buf *body, int64_t *refused, sp_diag *d);

#endif
