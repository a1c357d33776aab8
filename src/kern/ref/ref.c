/* Reference kernels: the specification of sp_kern, in plain C. */
#include "kern/ref/ref.h"

#include "kern/dot_tile.h"

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

static void quant_act(const sp_kern_acts *out, size_t t, const float *x, size_t k)
{
    sp_act_blk *to = sp_acts_row(out, t);
    for (size_t b = 0; b < k / 32; b++, to++, x += 32) {
        float top = 0;
        for (size_t i = 0; i < 32; i++)
            top = fmaxf(top, fabsf(x[i]));
        to->d = top / 127.0f;
        float inv = top > 0 ? 127.0f / top : 0;
        int s[2] = {0, 0};
        for (size_t i = 0; i < 32; i++) {
            to->q[i] = (int8_t)nearbyintf(x[i] * inv);
            s[i / 16] += to->q[i];
        }
        to->sum16[0] = to->d * (float)s[0];
        to->sum16[1] = to->d * (float)s[1];
        to->sum32 = to->d * (float)(s[0] + s[1]);
    }
}

/* The specification: every type through sp_pack_get, one row at a time. */
static void gemm_any(const sp_gemm_args *g, sp_type type)
{
    float scale = g->scale ? *g->scale : 1.0f;
    for (size_t r = 0; r < g->n_row; r++) {
        const char *tile = (const char *)g->w + r / SP_TILE_ROWS * sp_pack_tile_bytes(type, g->k);
        for (size_t t = 0; t < g->n_tok && !g->add; t++)
            g->out[t * g->ld + r] = 0;
        for (size_t from = 0; from < g->k; from += SP_PACK_UNIT) {
            uint8_t q[SP_PACK_UNIT];
            float d[SP_PACK_UNIT / 16], m[SP_PACK_UNIT / 16];
            size_t n =
                sp_pack_get(q, d, m, tile, type, g->k, r % SP_TILE_ROWS, from / SP_PACK_UNIT);
            for (size_t t = 0; t < g->n_tok; t++) {
                const sp_act_blk *x = sp_acts_row(g->x, t) + from / 32;
                float acc = g->out[t * g->ld + r];
                for (size_t b = 0; b < n / 16; b++) {
                    int32_t dot = 0;
                    for (size_t i = 16 * b; i < 16 * b + 16; i++)
                        dot += q[i] * x[i / 32].q[i % 32];
                    acc += (d[b] * x[b / 2].d * (float)dot + m[b] * x[b / 2].sum16[b % 2]) * scale;
                }
                g->out[t * g->ld + r] = acc;
            }
        }
    }
}

#define GEMM(type)                                                                                 \
    static void gemm_##type(const sp_gemm_args *g)                                                 \
    {                                                                                              \
        gemm_any(g, type);                                                                         \
    }
GEMM(SP_Q4_0)
GEMM(SP_Q4_1)
GEMM(SP_Q5_0)
GEMM(SP_Q5_1)
GEMM(SP_Q8_0)
GEMM(SP_Q2_K)
GEMM(SP_Q3_K)
GEMM(SP_Q4_K)
GEMM(SP_Q5_K)
GEMM(SP_Q6_K)
GEMM(SP_IQ4_NL)
GEMM(SP_IQ4_XS)
GEMM(SP_MXFP4)
GEMM(SP_TQ2_0)
GEMM(SP_NVFP4)
GEMM(SP_TQ1_0)
GEMM(SP_IQ1_S)
GEMM(SP_IQ1_M)
GEMM(SP_IQ2_XXS)
GEMM(SP_IQ2_XS)
GEMM(SP_IQ2_S)
GEMM(SP_IQ3_XXS)
GEMM(SP_IQ3_S)
#undef GEMM

static void gemm_rows(const sp_gemm_f_args *g, void (*widen)(float *, const void *, size_t),
                      size_t elem_bytes)
{
    for (size_t r = 0; r < g->n_row; r++) {
        for (size_t t = 0; t < g->n_tok; t++) {
            float acc = g->add ? g->out[t * g->ld + r] : 0;
            for (size_t i = 0; i < g->k; i++) {
                float w;
                widen(&w, (const char *)g->w + (r * g->k + i) * elem_bytes, 1);
                acc += w * ((const float *)g->x)[t * g->ld_x + i];
            }
            g->out[t * g->ld + r] = acc;
        }
    }
}

static void gemm_f32(const sp_gemm_f_args *g)
{
    gemm_rows(g, widen_f32, 4);
}

static void gemm_f16(const sp_gemm_f_args *g)
{
    gemm_rows(g, widen_f16, 2);
}

static void gemm_bf16(const sp_gemm_f_args *g)
{
    gemm_rows(g, widen_bf16, 2);
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
        out[i] = gate[i] / (1.0f + expf(-gate[i])) * (up ? up[i] : 1.0f);
}

static void glu_gelu_tanh(float *out, const float *gate, const float *up, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float z = 0.79788456f * (gate[i] + 0.044715f * gate[i] * gate[i] * gate[i]);
        out[i] = 0.5f * gate[i] * (1.0f + tanhf(z)) * (up ? up[i] : 1.0f);
    }
}

static void glu_gelu_erf(float *out, const float *gate, const float *up, size_t n)
{
    for (size_t i = 0; i < n; i++)
        out[i] = 0.5f * gate[i] * (1.0f + erff(gate[i] * 0.70710678f)) * (up ? up[i] : 1.0f);
}

static void glu_relu2(float *out, const float *gate, const float *up, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float x = fmaxf(gate[i], 0);
        out[i] = x * x * (up ? up[i] : 1.0f);
    }
}

static void glu_sigmoid(float *out, const float *gate, const float *up, size_t n)
{
    for (size_t i = 0; i < n; i++)
        out[i] = 1.0f / (1.0f + expf(-gate[i])) * (up ? up[i] : 1.0f);
}

static void glu_clamped(float *out, const float *gate, const float *up, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float g = fminf(gate[i], 7.0f), u = fminf(fmaxf(up[i], -7.0f), 7.0f);
        out[i] = g / (1.0f + expf(-1.702f * g)) * (u + 1.0f);
    }
}

static void soft_cap(float *x, size_t n, float scale, float cap)
{
    for (size_t i = 0; i < n; i++)
        x[i] = cap * tanhf(x[i] * scale / cap);
}

static void mul(float *out, const float *x, const float *y, size_t n)
{
    for (size_t i = 0; i < n; i++)
        out[i] = x[i] * y[i];
}

static void conv(float *out, const float *const *in, const float *w, size_t ld, const float *bias,
                 size_t n_tap, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float sum = bias ? bias[i] : 0;
        for (size_t j = 0; j < n_tap; j++)
            sum += w[j * ld + i] * in[j][i];
        out[i] = sum;
    }
}

static void delta(const sp_delta_args *a)
{
    for (size_t t = 0; t < a->n; t++) {
        const float *k = a->k + t * a->d_k, *q = a->q + t * a->d_k;
        for (size_t c = 0; c < SP_DELTA_COLS; c++) {
            float *s = a->state + c, seen = 0, out = 0;
            for (size_t i = 0; i < a->d_k; i++) {
                s[i * SP_DELTA_COLS] *= a->decay[t];
                seen += k[i] * s[i * SP_DELTA_COLS];
            }
            float more = (a->v[t * a->ld_v + c] - seen) * a->beta[t];
            for (size_t i = 0; i < a->d_k; i++) {
                s[i * SP_DELTA_COLS] += k[i] * more;
                out += q[i] * s[i * SP_DELTA_COLS];
            }
            a->out[t * a->ld_out + c] = out;
        }
    }
}

static void ssm(const sp_ssm_args *a)
{
    for (size_t t = 0; t < a->n; t++) {
        for (size_t j = 0; j < SP_DELTA_COLS; j++) {
            float *s = a->state + j, x = a->x[t * a->ld + j], out = a->skip * x;
            for (size_t i = 0; i < a->d; i++) {
                s[i * SP_DELTA_COLS] =
                    a->decay[t] * s[i * SP_DELTA_COLS] + a->b[t * a->ld + i] * (a->step[t] * x);
                out += a->c[t * a->ld + i] * s[i * SP_DELTA_COLS];
            }
            a->out[t * a->ld_out + j] = out;
        }
    }
}

static void turn_halves(float *x, const float *cs, size_t half)
{
    for (size_t i = 0; i < half; i++) {
        float a = x[i], b = x[half + i];
        x[i] = a * cs[i] - b * cs[half + i];
        x[half + i] = a * cs[half + i] + b * cs[i];
    }
}

static void add(float *out, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        out[i] += x[i];
}

static void norm_layer(float *out, const float *x, const float *w, const float *b, size_t n,
                       float eps)
{
    double sum = 0, sq = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)x[i];
    double mean = sum / (double)n;
    for (size_t i = 0; i < n; i++)
        sq += ((double)x[i] - mean) * ((double)x[i] - mean);
    float scale = (float)(1.0 / sqrt(sq / (double)n + (double)eps));
    for (size_t i = 0; i < n; i++)
        out[i] = (x[i] - (float)mean) * scale * w[i] + b[i];
}

static void hadamard(float *x, size_t n)
{
    for (size_t h = 1; h < n; h *= 2) {
        for (size_t i = 0; i < n; i += 2 * h) {
            for (size_t j = i; j < i + h; j++) {
                float a = x[j], b = x[j + h];
                x[j] = a + b;
                x[j + h] = a - b;
            }
        }
    }
}

static void rotate(float *out, const float *x, float scale, size_t d, bool back)
{
    size_t n = d & (~d + 1); /* largest power of two that divides d */
    float unit = 1.0f / sqrtf((float)n);
    for (size_t i = 0; i < d; i++)
        out[i] = (!back && (sp_rot_minus(i & ~(size_t)15) >> (i % 16) & 1) ? -x[i] : x[i]) * scale;
    for (size_t i = 0; i < d; i += n)
        hadamard(out + i, n);
    for (size_t i = 0; i < d; i++)
        out[i] *= back && (sp_rot_minus(i & ~(size_t)15) >> (i % 16) & 1) ? -unit : unit;
}

static void attn_page(float *acc, float *max, float *sum, const float *q, const float *kt,
                      const float *v, const sp_attn_see *see, size_t n_q, size_t d)
{
    for (size_t iq = 0; iq < n_q; iq++) {
        size_t from = see->from ? see->from[iq] : 0, to = see->to ? see->to[iq] : SP_PAGE_TOK;
        float p[SP_PAGE_TOK], top = max[iq];
        for (size_t j = from; j < to; j++) {
            p[j] = 0;
            for (size_t i = 0; i < d; i++)
                p[j] += q[iq * d + i] * kt[i * SP_PAGE_TOK + j];
            if (see->cap > 0)
                p[j] = see->cap * tanhf(p[j] / see->cap);
            top = fmaxf(top, p[j]);
        }
        if (from >= to)
            continue;
        float keep = exp2f(max[iq] - top); /* 0 on the first page */
        max[iq] = top;
        sum[iq] *= keep;
        for (size_t i = 0; i < d; i++)
            acc[iq * d + i] *= keep;
        for (size_t j = from; j < to; j++) {
            float e = exp2f(p[j] - top);
            sum[iq] += e;
            for (size_t i = 0; i < d; i++)
                acc[iq * d + i] += e * v[j * d + i];
        }
    }
}

static void attn_join(float *acc, float *max, float *sum, const float *p_acc, const float *p_max,
                      const float *p_sum, size_t n_q, size_t d)
{
    for (size_t t = 0; t < n_q; t++) {
        if (p_max[t] == -INFINITY)
            continue;
        float top = fmaxf(max[t], p_max[t]), keep = exp2f(max[t] - top),
              part = exp2f(p_max[t] - top);
        max[t] = top;
        sum[t] = sum[t] * keep + p_sum[t] * part;
        for (size_t i = t * d; i < (t + 1) * d; i++)
            acc[i] = acc[i] * keep + p_acc[i] * part;
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

static uint64_t read_all(const void *p, size_t n_bytes)
{
    const uint64_t *w = p;
    uint64_t s[8] = {0};
    for (size_t i = 0; i < n_bytes / 8; i += 64) /* 8 lines at once, enough for one core */
        for (size_t k = 0; k < 8; k++)
            s[k] += w[i + 8 * k] ^ w[i + 8 * k + 7];
    return s[0] + s[1] + s[2] + s[3] + s[4] + s[5] + s[6] + s[7];
}

void sp_kern_init_ref(sp_kern *k)
{
    *k = (sp_kern){
        .isa = "scalar",
        .widen = {[SP_F32] = widen_f32, [SP_F16] = widen_f16, [SP_BF16] = widen_bf16},
        .narrow_f16 = narrow_f16,
        .dot_i8 = dot_i8,
        .quant_act = quant_act,
        .gemm_q = {[SP_Q4_0] = gemm_SP_Q4_0,       [SP_Q4_1] = gemm_SP_Q4_1,
                   [SP_Q5_0] = gemm_SP_Q5_0,       [SP_Q5_1] = gemm_SP_Q5_1,
                   [SP_Q8_0] = gemm_SP_Q8_0,       [SP_Q2_K] = gemm_SP_Q2_K,
                   [SP_Q3_K] = gemm_SP_Q3_K,       [SP_Q4_K] = gemm_SP_Q4_K,
                   [SP_Q5_K] = gemm_SP_Q5_K,       [SP_Q6_K] = gemm_SP_Q6_K,
                   [SP_IQ4_NL] = gemm_SP_IQ4_NL,   [SP_IQ4_XS] = gemm_SP_IQ4_XS,
                   [SP_MXFP4] = gemm_SP_MXFP4,     [SP_NVFP4] = gemm_SP_NVFP4,
                   [SP_TQ1_0] = gemm_SP_TQ1_0,     [SP_TQ2_0] = gemm_SP_TQ2_0,
                   [SP_IQ1_S] = gemm_SP_IQ1_S,     [SP_IQ1_M] = gemm_SP_IQ1_M,
                   [SP_IQ2_XXS] = gemm_SP_IQ2_XXS, [SP_IQ2_XS] = gemm_SP_IQ2_XS,
                   [SP_IQ2_S] = gemm_SP_IQ2_S,     [SP_IQ3_XXS] = gemm_SP_IQ3_XXS,
                   [SP_IQ3_S] = gemm_SP_IQ3_S},
        .gemm_f = {[SP_F32] = gemm_f32, [SP_F16] = gemm_f16, [SP_BF16] = gemm_bf16},
        .norm_rms = norm_rms,
        .glu = {[SP_ACT_SILU] = glu_silu,
                [SP_ACT_GELU_TANH] = glu_gelu_tanh,
                [SP_ACT_GELU_ERF] = glu_gelu_erf,
                [SP_ACT_RELU2] = glu_relu2,
                [SP_ACT_SIGMOID] = glu_sigmoid,
                [SP_ACT_CLAMPED] = glu_clamped},
        .soft_cap = soft_cap,
        .turn_halves = turn_halves,
        .mul = mul,
        .conv = conv,
        .delta = delta,
        .ssm = ssm,
        .add = add,
        .norm_layer = norm_layer,
        .rotate = rotate,
        .attn_page = attn_page,
        .attn_join = attn_join,
        .planes_put = sp_ref_planes_put,
        .planes_get = sp_ref_planes_get,
        .int_peak = int_peak,
        .read_all = read_all,
    };
}
