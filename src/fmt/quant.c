/* The table of element types. */
#include "fmt/grid.h"

static const sp_type_info table[SP_TYPE_COUNT] = {
    [SP_F32] = {"F32", 1, 4},
    [SP_F16] = {"F16", 1, 2},
    [SP_BF16] = {"BF16", 1, 2},
    [SP_Q4_0] = {"Q4_0", 32, sizeof(sp_blk_q4_0)},
    [SP_Q4_1] = {"Q4_1", 32, sizeof(sp_blk_q4_1)},
    [SP_Q5_0] = {"Q5_0", 32, sizeof(sp_blk_q5_0)},
    [SP_Q5_1] = {"Q5_1", 32, sizeof(sp_blk_q5_1)},
    [SP_Q8_0] = {"Q8_0", 32, sizeof(sp_blk_q8_0)},
    [SP_Q2_K] = {"Q2_K", 256, sizeof(sp_blk_q2_k)},
    [SP_Q3_K] = {"Q3_K", 256, sizeof(sp_blk_q3_k)},
    [SP_Q4_K] = {"Q4_K", 256, sizeof(sp_blk_q4_k)},
    [SP_Q5_K] = {"Q5_K", 256, sizeof(sp_blk_q5_k)},
    [SP_Q6_K] = {"Q6_K", 256, sizeof(sp_blk_q6_k)},
    [SP_IQ4_NL] = {"IQ4_NL", 32, sizeof(sp_blk_iq4_nl)},
    [SP_IQ4_XS] = {"IQ4_XS", 256, sizeof(sp_blk_iq4_xs)},
    [SP_IQ2_XXS] = {"IQ2_XXS", 256, sizeof(sp_blk_iq2_xxs)},
    [SP_IQ2_XS] = {"IQ2_XS", 256, sizeof(sp_blk_iq2_xs)},
    [SP_IQ2_S] = {"IQ2_S", 256, sizeof(sp_blk_iq2_s)},
    [SP_IQ3_XXS] = {"IQ3_XXS", 256, sizeof(sp_blk_iq3_xxs)},
    [SP_IQ3_S] = {"IQ3_S", 256, sizeof(sp_blk_iq3_s)},
    [SP_IQ1_S] = {"IQ1_S", 256, sizeof(sp_blk_iq1_s)},
    [SP_IQ1_M] = {"IQ1_M", 256, sizeof(sp_blk_iq1_m)},
    [SP_TQ1_0] = {"TQ1_0", 256, sizeof(sp_blk_tq1_0)},
    [SP_TQ2_0] = {"TQ2_0", 256, sizeof(sp_blk_tq2_0)},
    [SP_NVFP4] = {"NVFP4", 64, sizeof(sp_blk_nvfp4)},
    [SP_MXFP4] = {"MXFP4", 32, sizeof(sp_blk_mxfp4)},
};

_Static_assert(sizeof(sp_blk_q4_0) == 18 && sizeof(sp_blk_q4_1) == 20, "block layout");
_Static_assert(sizeof(sp_blk_q5_0) == 22 && sizeof(sp_blk_q5_1) == 24, "block layout");
_Static_assert(sizeof(sp_blk_q8_0) == 34 && sizeof(sp_blk_q2_k) == 84, "block layout");
_Static_assert(sizeof(sp_blk_q3_k) == 110 && sizeof(sp_blk_q4_k) == 144, "block layout");
_Static_assert(sizeof(sp_blk_q5_k) == 176 && sizeof(sp_blk_q6_k) == 210, "block layout");
_Static_assert(sizeof(sp_blk_iq4_nl) == 18 && sizeof(sp_blk_iq4_xs) == 136, "block layout");
_Static_assert(sizeof(sp_blk_iq2_xxs) == 66 && sizeof(sp_blk_iq2_xs) == 74 &&
                   sizeof(sp_blk_iq2_s) == 82,
               "block layout");
_Static_assert(sizeof(sp_blk_iq3_xxs) == 98 && sizeof(sp_blk_iq3_s) == 110 &&
                   sizeof(sp_blk_iq1_s) == 50,
               "block layout");
_Static_assert(sizeof(sp_blk_iq1_m) == 56 && sizeof(sp_blk_tq1_0) == 54 &&
                   sizeof(sp_blk_tq2_0) == 66,
               "block layout");
_Static_assert(sizeof(sp_blk_nvfp4) == 36 && sizeof(sp_blk_mxfp4) == 17, "block layout");

const int8_t sp_iq4_level[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                 1,    13,   25,  38,  53,  69,  89,  113};
const int8_t sp_fp4_level[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

const sp_type_info *sp_type_get(uint32_t type)
{
    return type < SP_TYPE_COUNT && table[type].name ? &table[type] : 0;
}

const char *sp_type_name(uint32_t type)
{
    static const char *const other[] = {
        [9] = "Q8_1", [15] = "Q8_K", [24] = "I8",   [25] = "I16", [26] = "I32",
        [27] = "I64", [28] = "F64",  [41] = "Q1_0", [42] = "Q2_0"};
    const sp_type_info *t = sp_type_get(type);
    if (t)
        return t->name;
    return type < sizeof other / sizeof other[0] && other[type] ? other[type] : "unknown";
}

size_t sp_type_row_bytes(sp_type type, size_t n)
{
    return n / table[type].blk_elem * table[type].blk_bytes;
}

float sp_f16_to_f32(sp_f16 h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exp = h >> 10 & 31, frac = h & 1023;
    union { uint32_t u; float f; } v;
    if (exp == 31) {
        v.u = sign | 0x7f800000u | frac << 13;
    } else if (exp) {
        v.u = sign | (exp + 112) << 23 | frac << 13;
    } else { /* subnormal: frac * 2^-24 is exact in f32 */
        v.f = (float)frac * 0x1p-24f;
        v.u |= sign;
    }
    return v.f;
}

sp_f16 sp_f16_from_f32(float f)
{
    union { float f; uint32_t u; } v = {f};
    uint16_t sign = (uint16_t)(v.u >> 16 & 0x8000);
    uint32_t mag = v.u & 0x7fffffffu;
    if (mag > 0x7f800000u)
        return (sp_f16)(sign | 0x7e00);
    if (mag >= 0x477ff000u) /* rounds to 65536 or more */
        return (sp_f16)(sign | 0x7c00);
    if (mag < 0x38800000u) { /* below 2^-14: the FPU rounds to multiples of 2^-24 for us */
        union { float f; uint32_t u; } s = {.u = mag};
        s.f += 0.5f; /* ulp(0.5) == 2^-24 */
        return (sp_f16)(sign | (s.u - 0x3f000000u));
    }
    uint32_t odd = mag >> 13 & 1;
    return (sp_f16)(sign | ((mag + 0xfff + odd - 0x38000000u) >> 13));
}
