#include "kern/fp8.h"

#include <math.h>
#include <string.h>

enum { TOK = 32 };

static uint32_t bits_of(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static float float_of(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

uint8_t sp_fp8_code(float x)
{
    uint32_t u = bits_of(x), sign = u >> 24 & 0x80, rest = u & 0x7fffffff;
    if (rest >= 0x43e00000)
        return (uint8_t)(sign | 0x7e);
    if (rest < 0x3c800000) /* below 2^-6: multiples of 2^-9, the last place of 2^14 */
        return (uint8_t)(sign | (bits_of(float_of(rest) + 16384.0f) - 0x46800000));
    rest += 0x7ffff + (rest >> 20 & 1) - 0x3c000000;
    return (uint8_t)(sign | rest >> 20);
}

/* The code's bits in an f32's place are its value times 2^-120. */
static float value_of(uint8_t code)
{
    return float_of((uint32_t)(code & 0x80) << 24 | (uint32_t)(code & 0x7f) << 20) * 0x1p120f;
}

float sp_fp8_scale(float top)
{
    uint32_t u = (bits_of(top / 448.0f) + 0x7fffff) & 0x7f800000;
    return top > 0 ? float_of(u < 0x1000000 ? 0x1000000 : u) : 1;
}

static float scale_of(const sp_f16 *x, size_t n)
{
    float top = 0;
    for (size_t i = 0; i < n; i++)
        top = fmaxf(top, fabsf(sp_f16_to_f32(x[i])));
    return sp_fp8_scale(top);
}

void sp_fp8_put(void *page, const sp_f16 *kt, const sp_f16 *v, size_t d)
{
    uint8_t *k_out = page, *v_out = k_out + TOK * d;
    float scale[16] = {scale_of(kt, TOK * d), scale_of(v, TOK * d)};
    float k_inv = 1 / scale[0], v_inv = 1 / scale[1];
    for (size_t i = 0; i < d; i++) {
        for (size_t j = 0; j < TOK; j++) {
            k_out[j * d + i] = sp_fp8_code(sp_f16_to_f32(kt[i * TOK + j]) * k_inv);
            v_out[i * TOK + j] = sp_fp8_code(sp_f16_to_f32(v[j * d + i]) * v_inv);
        }
    }
    memcpy(v_out + TOK * d, scale, sizeof scale);
}

void sp_fp8_get(float *kt, float *v, const void *page, size_t d)
{
    const uint8_t *k_in = page, *v_in = k_in + TOK * d;
    float scale[2];
    memcpy(scale, v_in + TOK * d, sizeof scale);
    for (size_t i = 0; i < d; i++) {
        for (size_t j = 0; j < TOK; j++) {
            kt[i * TOK + j] = value_of(k_in[j * d + i]) * scale[0];
            v[j * d + i] = value_of(v_in[i * TOK + j]) * scale[1];
        }
    }
}
