/* Parts of the reference table. Only kern/ includes this. */
#ifndef SP_KERN_REF_REF_H
#define SP_KERN_REF_REF_H

#include "kern/kern.h"

/* One GGUF row of k elements as w[i] = d[i / 16] * q[i] + m[i / 16]: q u8 [k], d and m f32 [k /
 * 16]. A scale for each 16 fits every type (Q6_K, Q3_K and Q2_K have blocks of 16). */
typedef void sp_ref_expand_fn(uint8_t *q, float *d, float *m, const void *row, size_t k);

/* NULL for F32, F16 and BF16. */
sp_ref_expand_fn *sp_ref_expand(sp_type type);

/* Takes one GGUF block of a type with a grid apart. False, and nothing done, for other types. */
bool sp_ref_grid_split(sp_grid_blk *out, sp_type type, const void *blk);
/* The 256 values of such a block in the form of sp_ref_expand_fn: q u8 [256], d and m f32 [16]. */
void sp_ref_grid_values(uint8_t *q, float *d, float *m, sp_type type, const sp_grid_blk *b);

/* Quantised pages by the definition in kern/planes.h, as sp_kern's planes_put and planes_get. */
void sp_ref_planes_put(const sp_planes *out, const sp_f16 *kt, const sp_f16 *v, size_t d);
void sp_ref_planes_get(float *kt, float *v, const sp_planes *in, size_t d);

#endif
