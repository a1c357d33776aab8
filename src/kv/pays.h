/* From which length on certified attention takes less time than dense attention does, here. It
 * depends on memory, cores and the model's heads (docs/BENCHMARKS.md: 1.2 times as fast on two
 * cores of one kind, 0.6 on sixteen of another), so it is measured, on keys that are made up and
 * about as spread as those of trained heads.
 *
 * Errors:  SP_NOMEM, SP_DEV. */
#ifndef SP_KV_PAYS_H
#define SP_KV_PAYS_H

#include "kv/page.h"

/* *out: the first of a few lengths up to n_ctx tokens from which on all pay; SIZE_MAX where the
 * longest does not, and, untried, where attention is not 8-bit (0.65 times as fast on AVX2) or
 * pages have no lo planes. Takes some 64 MiB while it runs, and a tenth or two of a second. The
 * device must be idle. */
SP_MUST sp_err sp_kv_pays_from(size_t *out, sp_dev *dev, const sp_kv_shape *s, size_t n_q_head,
                               float eps, size_t n_ctx);

#endif
