/* The rotation of stored keys and values (sp_kern.rotate), by one warp, bit for bit as kern/ref
 * does it. */
#ifndef SP_DEV_CUDA_ROTATE_H
#define SP_DEV_CUDA_ROTATE_H

#include "dev/cuda/frag.h"

SP_DEV bool rot_is_minus(unsigned i)
{
    uint32_t x = ((i & ~15u) + 1) * 0x9e3779b1u;
    x = (x ^ x >> 15) * 0x85ebca77u;
    return ((x ^ x >> 13) & 0xffffu) >> (i % 16) & 1;
}

/* x [d] in shared memory, written by this warp's lanes: element i by lane i % 32. So it is left,
 * too. */
SP_DEV void rotate_row(float *x, unsigned d, bool back)
{
    unsigned n = d & (~d + 1);
    float unit = 1.0f / sqrtf((float)n);
    for (unsigned i = lane_id(); i < d && !back; i += 32)
        x[i] = rot_is_minus(i) ? -x[i] : x[i];
    for (unsigned h = 1; h < n; h *= 2) {
        warp_sync();
        for (unsigned p = lane_id(); p < d / 2; p += 32) {
            float *at = x + p / h * 2 * h + p % h, a = at[0], b = at[h];
            at[0] = a + b;
            at[h] = a - b;
        }
    }
    warp_sync();
    for (unsigned i = lane_id(); i < d; i += 32)
        x[i] *= back && rot_is_minus(i) ? -unit : unit;
}

#endif
