/* States of recurrent layers as fewer bytes: blocks of 64 numbers, turned by an orthonormal
 * Hadamard transform so that a large one does not set the step of its neighbours, then rounded to
 * 12 bits of the block's largest. An error is about 1/2400 of a block's root mean square
 * (docs/BENCHMARKS.md). docs/FORMATS.md gives the bytes. Pure. */
#ifndef SP_KV_SQUEEZE_H
#define SP_KV_SQUEEZE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

size_t sp_kv_squeeze_bytes(size_t n); /* of n numbers: 100 for each 64 or part of 64 */
/* out [sp_kv_squeeze_bytes(n)] of x f32 [n]. false: a number is not finite, out is undefined. */
bool sp_kv_squeeze(uint8_t *out, const float *x, size_t n);
/* out f32 [n] of what sp_kv_squeeze wrote. */
void sp_kv_unsqueeze(float *out, const uint8_t *in, size_t n);

#endif
