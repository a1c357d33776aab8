/* Rows of types that have no product of their own, as f32.
 *
 * Pure. Exact: each value is a small integer times a scale of few bits, which f32 holds. */
#ifndef SP_KERN_WIDEN_H
#define SP_KERN_WIDEN_H

#include "fmt/quant.h"

/* One row of k elements, whole blocks. */
typedef void sp_ref_widen_fn(float *out, const void *row, size_t k);

/* NULL for types of sp_kern's tables. */
sp_ref_widen_fn *sp_ref_widen(sp_type type);

#endif
