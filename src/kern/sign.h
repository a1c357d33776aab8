/* Which types have numbers that products of bytes take with a sign. For gemm_tile.h and the
 * primitives that it is written over. */
#ifndef SP_KERN_SIGN_H
#define SP_KERN_SIGN_H

#include "fmt/quant.h"

/* SMALL: of magnitude 62 at most, so that 16 bits hold two sums of two products with 127. */
enum { SP_SIGN_NONE, SP_SIGN_SMALL, SP_SIGN_FULL };
static inline int sp_pack_sign(sp_type type)
{
    switch (type) {
    case SP_Q8_0:
    case SP_IQ4_NL:
    case SP_IQ4_XS:
        return SP_SIGN_FULL;
    case SP_IQ2_XXS:
    case SP_IQ2_XS:
    case SP_IQ2_S:
    case SP_IQ3_XXS:
        return SP_SIGN_SMALL;
    default:
        return SP_SIGN_NONE;
    }
}

#endif
