/* Reference quantisation of KV pages, and its inverse: the specification of kern/planes.h. */
#include "kern/ref/ref.h"

#include <math.h>

enum { TOK = SP_PAGE_TOK };

static uint8_t code_of(float x, float inv)
{
    float c = nearbyintf(x * inv) + 128.0f;
    return (uint8_t)fminf(fmaxf(c, 0), 255.0f); /* a NaN becomes 0 */
}

static void put_nibble(uint8_t *plane, unsigned code, unsigned shift)
{
    *plane = (uint8_t)((*plane & (0xf0u >> shift)) | code << shift);
}

static void put_code(uint8_t *hi, uint8_t *lo, unsigned code, unsigned shift)
{
    put_nibble(hi, code >> 4, shift);
    if (lo)
        put_nibble(lo, code & 15, shift);
}

static unsigned get_code(const uint8_t *hi, const uint8_t *lo, unsigned shift)
{
    return (*hi >> shift & 15u) << 4 | (lo ? *lo >> shift & 15u : 0);
}

/* Where element i of token j lies, and in which nibble. */
static size_t key_at(size_t i, size_t j, size_t d, unsigned *shift)
{
    size_t g = i / 4;
    *shift = g >= d / 8 ? 4 : 0;
    return (g % (d / 8) * TOK + j) * 4 + i % 4;
}

static size_t value_at(size_t i, size_t j, size_t d, unsigned *shift)
{
    *shift = j >= TOK / 2 ? 4 : 0;
    return (j / 4 % 4 * d + i) * 4 + j % 4;
}

void sp_ref_planes_put(const sp_planes *out, const sp_f16 *kt, const sp_f16 *v, size_t d)
{
    float mean[SP_MAX_HEAD];
    unsigned shift;
    sp_planes_zero_rest(out, d);
    for (size_t i = 0; i < d; i++) {
        float sum[TOK];
        for (size_t j = 0; j < TOK; j++)
            sum[j] = sp_f16_to_f32(kt[i * TOK + j]);
        for (size_t n = TOK / 2; n; n /= 2) /* by halves, as vectors add */
            for (size_t j = 0; j < n; j++)
                sum[j] += sum[j + n];
        out->k_mean[i] = sp_f16_from_f32(sum[0] / TOK);
        mean[i] = sp_f16_to_f32(out->k_mean[i]);
    }
    for (size_t j = 0; j < TOK; j++) {
        float k_top = 0, v_top = 0, left = 0;
        for (size_t i = 0; i < d; i++) {
            k_top = fmaxf(k_top, fabsf(sp_f16_to_f32(kt[i * TOK + j]) - mean[i]));
            v_top = fmaxf(v_top, fabsf(sp_f16_to_f32(v[j * d + i])));
        }
        out->k_scale[j] = sp_f16_up(k_top / 127.0f);
        out->v_scale[j] = sp_f16_up(v_top / 127.0f);
        float ks = sp_f16_to_f32(out->k_scale[j]), vs = sp_f16_to_f32(out->v_scale[j]);
        float k_inv = ks > 0 ? 1.0f / ks : 0, v_inv = vs > 0 ? 1.0f / vs : 0;
        for (size_t i = 0; i < d; i++) {
            unsigned c = code_of(sp_f16_to_f32(kt[i * TOK + j]) - mean[i], k_inv);
            size_t at = key_at(i, j, d, &shift);
            float lo = (float)(c & 15) - 7.5f;
            left += lo * lo;
            put_code(out->k_hi + at, out->k_lo ? out->k_lo + at : NULL, c, shift);
            at = value_at(i, j, d, &shift);
            put_code(out->v_hi + at, out->v_lo ? out->v_lo + at : NULL, code_of(sp_f16_to_f32(v[j * d + i]), v_inv), shift);
        }
        out->k_err[j] = sp_bf16_up(ks * sqrtf(left) * SP_ERR_UP);
    }
}

void sp_ref_planes_get(float *kt, float *v, const sp_planes *in, size_t d)
{
    float zero = in->k_lo ? 128.0f : 120.5f;
    unsigned shift;
    for (size_t j = 0; j < TOK; j++) {
        float ks = sp_f16_to_f32(in->k_scale[j]), vs = sp_f16_to_f32(in->v_scale[j]);
        for (size_t i = 0; i < d; i++) {
            size_t at = key_at(i, j, d, &shift);
            unsigned c = get_code(in->k_hi + at, in->k_lo ? in->k_lo + at : NULL, shift);
            kt[i * TOK + j] = sp_f16_to_f32(in->k_mean[i]) + ks * ((float)c - zero);
            at = value_at(i, j, d, &shift);
            c = get_code(in->v_hi + at, in->v_lo ? in->v_lo + at : NULL, shift);
            v[j * d + i] = vs * ((float)c - zero);
        }
    }
}
