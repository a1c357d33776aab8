/* Reference kernels: the specification of sp_kern, in plain C. */
#include "kern/ref/ref.h"

#include <math.h>
#include <string.h>

static void widen_f32(float *out, const void *row, size_t k)
{
    memcpy(out, row, k * sizeof *out);
}

static void widen_f16(float *out, const void *row, size_t k)
{
    const sp_f16 *p = row;
    for (size_t i = 0; i < k; i++)
        out[i] = sp_f16_to_f32(p[i]);
}

static void widen_bf16(float *out, const void *row, size_t k)
{
    const uint16_t *p = row;
    for (size_t i = 0; i < k; i++)
        out[i] = sp_bf16_to_f32(p[i]);
}

static void narrow_f16(sp_f16 *out, const float *x, size_t k)
{
    for (size_t i = 0; i < k; i++)
        out[i] = sp_f16_from_f32(x[i]);
}

static void quant_act(int8_t *q, float *d, float *sum, const float *x, size_t k)
{
    for (size_t b = 0; b < k / 32; b++) {
        float top = 0;
        for (size_t i = 0; i < 32; i++)
            top = fmaxf(top, fabsf(x[32 * b + i]));
        d[b] = top / 127.0f;
        float inv = top > 0 ? 127.0f / top : 0;
        for (size_t h = 0; h < 2; h++) {
            int s = 0;
            for (size_t i = 32 * b + 16 * h; i < 32 * b + 16 * h + 16; i++) {
                q[i] = (int8_t)nearbyintf(x[i] * inv);
                s += q[i];
            }
            sum[2 * b + h] = d[b] * (float)s;
        }
    }
}

static void gemm_q(float *out, size_t ld, const sp_kern_rows *w, const sp_kern_acts *x,
                   size_t n_row, size_t n_tok, size_t k)
{
    for (size_t r = 0; r < n_row; r++) {
        const float *wd = w->d + r * (k / 16), *wm = w->m + r * (k / 16);
        for (size_t t = 0; t < n_tok; t++) {
            float acc = 0;
            for (size_t b = 0; b < k / 16; b++) {
                int32_t dot = 0;
                for (size_t i = 16 * b; i < 16 * b + 16; i++)
                    dot += w->q[r * k + i] * x->q[t * k + i];
                acc += wd[b] * x->d[t * (k / 32) + b / 2] * (float)dot;
                acc += wm[b] * x->sum[t * (k / 16) + b];
            }
            out[t * ld + r] = acc;
        }
    }
}

static void gemm_f(float *out, size_t ld, const float *w, const float *x, size_t n_row,
                   size_t n_tok, size_t k)
{
    for (size_t r = 0; r < n_row; r++) {
        for (size_t t = 0; t < n_tok; t++) {
            float acc = 0;
            for (size_t i = 0; i < k; i++)
                acc += w[r * k + i] * x[t * k + i];
            out[t * ld + r] = acc;
        }
    }
}

static void norm_rms(float *out, const float *x, const float *w, size_t n, float eps)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    float scale = 1.0f / sqrtf((float)(sum / (double)n) + eps);
    for (size_t i = 0; i < n; i++)
        out[i] = x[i] * scale * w[i];
}

static void glu_silu(float *out, const float *gate, const float *up, size_t n)
{
    for (size_t i = 0; i < n; i++)
        out[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
}

static void attn_page(float *acc, float *max, float *sum, const float *q, const float *kt,
                      const float *v, const uint8_t *vis, size_t n_q, size_t d)
{
    for (size_t iq = 0; iq < n_q; iq++) {
        float p[SP_PAGE_TOK], top = max[iq];
        for (size_t j = 0; j < vis[iq]; j++) {
            p[j] = 0;
            for (size_t i = 0; i < d; i++)
                p[j] += q[iq * d + i] * kt[i * SP_PAGE_TOK + j];
            top = fmaxf(top, p[j]);
        }
        if (vis[iq] == 0)
            continue;
        float keep = expf(max[iq] - top); /* exp(-inf) = 0 on the first page */
        max[iq] = top;
        sum[iq] *= keep;
        for (size_t i = 0; i < d; i++)
            acc[iq * d + i] *= keep;
        for (size_t j = 0; j < vis[iq]; j++) {
            float e = expf(p[j] - top);
            sum[iq] += e;
            for (size_t i = 0; i < d; i++)
                acc[iq * d + i] += e * v[j * d + i];
        }
    }
}

static uint64_t int_peak(size_t rounds, uint32_t *out)
{
    uint32_t a[8] = {1, 2, 3, 4, 5, 6, 7, 8}, sum = 0;
    for (size_t i = 0; i < rounds; i++)
        for (uint32_t k = 0; k < 8; k++)
            a[k] += (a[(k + 1) % 8] & 255) * (uint32_t)(k + 3);
    for (size_t k = 0; k < 8; k++)
        sum += a[k];
    *out = sum;
    return rounds * 8;
}

void sp_kern_init_ref(sp_kern *k)
{
    *k = (sp_kern){
        .isa = "scalar",
        .widen = {[SP_F32] = widen_f32, [SP_F16] = widen_f16, [SP_BF16] = widen_bf16},
        .narrow_f16 = narrow_f16,
        .quant_act = quant_act,
        .gemm_q = gemm_q,
        .gemm_f = gemm_f,
        .norm_rms = norm_rms,
        .glu_silu = glu_silu,
        .attn_page = attn_page,
        .int_peak = int_peak,
    };
    sp_ref_expand_init(k);
}
