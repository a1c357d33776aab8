/* Rows of f32 into the types that `sparing convert` writes. Pure.
 * Exact: F16, BF16, Q8_0 and Q4_0 are bit for bit what ggml's reference makes of them; Q4_K is a
 * search of our own in the same format. */
#ifndef SP_FMT_QUANTISE_H
#define SP_FMT_QUANTISE_H

#include "fmt/quant.h"

#include <stdbool.h>

bool sp_quantise_can(sp_type type);
/* x [n], n a multiple of the type's block; out: sp_type_row_bytes(type, n). */
void sp_quantise_row(void *out, sp_type type, const float *x, size_t n);

#endif
