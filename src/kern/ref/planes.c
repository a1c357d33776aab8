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

static void put_code(const sp_nibble *at, unsigned code)
{
    put_nibble(at->hi, code >> 4, at->shift);
    if (at->lo)
        put_nibble(at->lo, code & 15, at->shift);
}

static unsigned get_code(const sp_nibble *at)
{
    return ((unsigned)*at->hi >> at->shift & 15u) << 4 |
           (at->lo ? (unsigned)*at->lo >> at->shift & 15u : 0);
}

/* out[i][j] = sum over k of a[k][i] * a[k][j], 32 columns; fused and in this order on every ISA. */
static void gram(float *out, const float *a, size_t n_k)
{
    for (size_t i = 0; i < TOK; i++)
        for (size_t j = 0; j < TOK; j++) {
            float acc = 0;
            for (size_t k = 0; k < n_k; k++)
                acc = fmaf(a[k * TOK + j], a[k * TOK + i], acc);
            out[i * TOK + j] = acc;
        }
}

static float spectral(const float *left, size_t d)
{
    float g[2][TOK * TOK], t[SP_SPEC_STEPS];
    gram(g[0], left, d);
    for (size_t s = 0; s < SP_SPEC_STEPS; s++) {
        t[s] = sp_spec_scale(g[s % 2]);
        gram(g[(s + 1) % 2], g[s % 2], TOK);
    }
    return sp_spec_bound(g[SP_SPEC_STEPS % 2], t);
}

static void put_values(const sp_planes *out, const sp_f16 *v, size_t d)
{
    for (size_t j = 0; j < TOK; j++) {
        float top = 0;
        for (size_t i = 0; i < d; i++)
            top = fmaxf(top, fabsf(sp_f16_to_f32(v[j * d + i])));
        out->v_scale[j] = sp_f16_up(top / 127.0f);
        float scale = sp_f16_to_f32(out->v_scale[j]), inv = scale > 0 ? 1.0f / scale : 0;
        for (size_t i = 0; i < d; i++) {
            sp_nibble at = sp_planes_value(out, i, j, d);
            put_code(&at, code_of(sp_f16_to_f32(v[j * d + i]), inv));
        }
    }
}

void sp_ref_planes_put(const sp_planes *out, const sp_f16 *kt, const sp_f16 *v, size_t d)
{
    float mean[SP_MAX_KEY], left[SP_MAX_KEY * TOK], err = 0;
    sp_planes_zero_rest(out);
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
        float k_top = 0, rest = 0;
        for (size_t i = 0; i < d; i++)
            k_top = fmaxf(k_top, fabsf(sp_f16_to_f32(kt[i * TOK + j]) - mean[i]));
        out->k_scale[j] = sp_f16_up(k_top / 127.0f);
        float ks = sp_f16_to_f32(out->k_scale[j]), k_inv = ks > 0 ? 1.0f / ks : 0;
        for (size_t i = 0; i < d; i++) {
            unsigned c = code_of(sp_f16_to_f32(kt[i * TOK + j]) - mean[i], k_inv);
            sp_nibble at = sp_planes_key(out, i, j, d);
            float lo = (float)(c & 15) - 7.5f;
            left[i * TOK + j] = lo;
            rest += lo * lo; /* exact: multiples of 1/4 */
            put_code(&at, c);
        }
        err = fmaxf(err, rest);
    }
    *out->bound = (sp_planes_bound){sqrtf(err) * SP_ERR_UP, spectral(left, d)};
    if (v)
        put_values(out, v, d);
}

void sp_ref_planes_get(float *kt, float *v, const sp_planes *in, size_t d)
{
    float zero = in->k_lo ? 128.0f : 120.5f;
    for (size_t j = 0; j < TOK; j++) {
        float ks = sp_f16_to_f32(in->k_scale[j]), vs = v ? sp_f16_to_f32(in->v_scale[j]) : 0;
        for (size_t i = 0; i < d; i++) {
            sp_nibble key = sp_planes_key(in, i, j, d);
            kt[i * TOK + j] = sp_f16_to_f32(in->k_mean[i]) + ks * ((float)get_code(&key) - zero);
        }
        for (size_t i = 0; v && i < d; i++) {
            sp_nibble value = sp_planes_value(in, i, j, d);
            v[j * d + i] = vs * ((float)get_code(&value) - zero);
        }
    }
}
