/* Rows of floats and plain attention, written once for every ISA over the primitives of gemm_tile.h
 * and
 *   vf_load, vf_put, vf_bf16, vf_set1, vf_add, vf_sub, vf_div, vf_max, vf_min, vf_sqrt, vf_absmax,
 *   vf_fma, vf_exp2,
 *   vf_sum, vf_hmax, vs_sum (over lanes), vs_round, vs_put, vs_put8 (lanes to memory as i32, as i8)
 *   vf_below (a where b < c, else 0)
 *   ATTN_T   queries that share each load of a key column and a value row */

#include "kern/cap_tile.h"

static void widen_f16(float *out, const void *row, size_t k)
{
    const sp_f16 *p = row;
    size_t i = 0;
    for (; i + VR <= k; i += VR)
        vf_put(out + i, vf_half((const uint8_t *)(p + i)));
    for (; i < k; i++)
        out[i] = sp_f16_to_f32(p[i]);
}

static void widen_bf16(float *out, const void *row, size_t k)
{
    const uint16_t *p = row;
    size_t i = 0;
    for (; i + VR <= k; i += VR)
        vf_put(out + i, vf_bf16((const uint8_t *)(p + i)));
    for (; i < k; i++)
        out[i] = sp_bf16_to_f32(p[i]);
}

static void quant_act(const sp_kern_acts *out, size_t t, const float *x, size_t k)
{
    sp_act_blk *to = sp_acts_row(out, t);
    for (size_t b = 0; b < k / 32; b++, to++, x += 32) {
        vf most = vf_zero();
        int32_t sum[2] = {0, 0};
        UNROLL
        for (size_t i = 0; i < 32; i += VR)
            most = vf_absmax(most, vf_load(x + i));
        float top = vf_hmax(most), inv = top > 0 ? 127.0f / top : 0;
        UNROLL
        for (size_t i = 0; i < 32; i += VR) {
            vs code = vs_round(vf_mul1(vf_load(x + i), inv));
            vs_put8(to->q + i, code);
            sum[i / 16] += vs_sum(code);
        }
        to->d = top / 127.0f;
        to->sum16[0] = to->d * (float)sum[0];
        to->sum16[1] = to->d * (float)sum[1];
        to->sum32 = to->d * (float)(sum[0] + sum[1]);
    }
}

static void norm_rms(float *out, const float *x, const float *w, size_t n, float eps)
{
    vf acc = vf_zero();
    size_t i = 0;
    for (; i + VR <= n; i += VR)
        acc = vf_fma(vf_load(x + i), vf_load(x + i), acc);
    float sum = vf_sum(acc);
    for (; i < n; i++)
        sum += x[i] * x[i];
    float scale = 1.0f / __builtin_sqrtf(sum / (float)n + eps);
    for (i = 0; i + VR <= n; i += VR)
        vf_put(out + i, vf_mul(vf_mul1(vf_load(x + i), scale), vf_load(w + i)));
    for (; i < n; i++)
        out[i] = x[i] * scale * w[i];
}

static void turn_halves(float *x, const float *cs, size_t half)
{
    size_t i = 0;
    for (; i + VR <= half; i += VR) {
        vf a = vf_load(x + i), b = vf_load(x + half + i), c = vf_load(cs + i),
           s = vf_load(cs + half + i);
        vf_put(x + i, vf_sub(vf_mul(a, c), vf_mul(b, s)));
        vf_put(x + half + i, vf_add(vf_mul(a, s), vf_mul(b, c)));
    }
    for (; i < half; i++) {
        float a = x[i], b = x[half + i];
        x[i] = a * cs[i] - b * cs[half + i];
        x[half + i] = a * cs[half + i] + b * cs[i];
    }
}

static void mul(float *out, const float *x, const float *y, size_t n)
{
    size_t i = 0;
    for (; i + VR <= n; i += VR)
        vf_put(out + i, vf_mul(vf_load(x + i), vf_load(y + i)));
    for (; i < n; i++)
        out[i] = x[i] * y[i];
}

static void conv(float *out, const float *const *in, const float *w, size_t ld, const float *bias,
                 size_t n_tap, size_t n)
{
    size_t i = 0;
    for (; i + VR <= n; i += VR) {
        vf sum = bias ? vf_load(bias + i) : vf_zero();
        for (size_t j = 0; j < n_tap; j++)
            sum = vf_fma(vf_load(w + j * ld + i), vf_load(in[j] + i), sum);
        vf_put(out + i, sum);
    }
    for (; i < n; i++) {
        float sum = bias ? bias[i] : 0;
        for (size_t j = 0; j < n_tap; j++)
            sum += w[j * ld + i] * in[j][i];
        out[i] = sum;
    }
}

enum { SSM_TOK = VR == SP_DELTA_COLS ? 4 : 2 /* as many as registers hold */ };

/* One token: what k and q see of the state is read before it changes, so that it is read and
 * written once. With d = beta (v - decay k^T S), out = q^T (decay S + k d^T) = decay q^T S + (q^T
 * k) d. */
INLINE void delta_token(const sp_delta_args *a, size_t t)
{
    enum { N = SP_DELTA_COLS / VR, U = 4 /* sums beside each other: one waits for itself */ };
    const float *k = a->k + t * a->d_k, *q = a->q + t * a->d_k;
    vf by_k[U][N], by_q[U][N], kq = vf_zero(), d[N];
    UNROLL
    for (size_t u = 0; u < U; u++) {
        UNROLL
        for (size_t b = 0; b < N; b++)
            by_k[u][b] = by_q[u][b] = vf_zero();
    }
    for (size_t i = 0; i < a->d_k; i += VR)
        kq = vf_fma(vf_load(k + i), vf_load(q + i), kq);
    for (size_t i = 0; i < a->d_k; i += U) {
        UNROLL
        for (size_t u = 0; u < U; u++) {
            UNROLL
            for (size_t b = 0; b < N; b++) {
                vf row = vf_load(a->state + (i + u) * SP_DELTA_COLS + b * VR);
                by_k[u][b] = vf_fma1(row, k[i + u], by_k[u][b]);
                by_q[u][b] = vf_fma1(row, q[i + u], by_q[u][b]);
            }
        }
    }
    UNROLL
    for (size_t b = 0; b < N; b++) {
        vf seen = vf_add(vf_add(by_k[0][b], by_k[1][b]), vf_add(by_k[2][b], by_k[3][b]));
        vf said = vf_add(vf_add(by_q[0][b], by_q[1][b]), vf_add(by_q[2][b], by_q[3][b]));
        d[b] = vf_mul1(vf_sub(vf_load(a->v + t * a->ld_v + b * VR), vf_mul1(seen, a->decay[t])),
                       a->beta[t]);
        vf_put(a->out + t * a->ld_out + b * VR,
               vf_fma1(d[b], vf_sum(kq), vf_mul1(said, a->decay[t])));
    }
    for (size_t i = 0; i < a->d_k; i++) {
        float *row = a->state + i * SP_DELTA_COLS;
        UNROLL
        for (size_t b = 0; b < N; b++)
            vf_put(row + b * VR, vf_fma1(d[b], k[i], vf_mul1(vf_load(row + b * VR), a->decay[t])));
    }
}

static void delta(const sp_delta_args *a)
{
    for (size_t t = 0; t < a->n; t++)
        delta_token(a, t);
}

/* T tokens at once: the state passes through the registers once for all of them. What a token gets
 * does not depend on T: its sum is of two parts, over even and over odd elements. */
INLINE void ssm_tokens(const sp_ssm_args *a, size_t first, const size_t T)
{
    enum { N = SP_DELTA_COLS / VR, U = 2 };
    vf said[SSM_TOK][U][N], in[SSM_TOK][N];
    UNROLL
    for (size_t t = 0; t < T; t++) {
        UNROLL
        for (size_t j = 0; j < N; j++) {
            in[t][j] = vf_mul1(vf_load(a->x + (first + t) * a->ld + j * VR), a->step[first + t]);
            said[t][0][j] = said[t][1][j] = vf_zero();
        }
    }
    for (size_t i = 0; i < a->d; i += U) {
        UNROLL
        for (size_t u = 0; u < U; u++) {
            UNROLL
            for (size_t j = 0; j < N; j++) {
                float *row = a->state + (i + u) * SP_DELTA_COLS + j * VR;
                vf s = vf_load(row);
                UNROLL
                for (size_t t = 0; t < T; t++) {
                    size_t at = (first + t) * a->ld + i + u;
                    s = vf_fma1(in[t][j], a->b[at], vf_mul1(s, a->decay[first + t]));
                    said[t][u][j] = vf_fma1(s, a->c[at], said[t][u][j]);
                }
                vf_put(row, s);
            }
        }
    }
    UNROLL
    for (size_t t = 0; t < T; t++) {
        UNROLL
        for (size_t j = 0; j < N; j++) {
            vf x = vf_load(a->x + (first + t) * a->ld + j * VR);
            vf_put(a->out + (first + t) * a->ld_out + j * VR,
                   vf_fma1(x, a->skip, vf_add(said[t][0][j], said[t][1][j])));
        }
    }
}

static void ssm(const sp_ssm_args *a)
{
    size_t t = 0;
    for (; t + SSM_TOK <= a->n; t += SSM_TOK)
        ssm_tokens(a, t, SSM_TOK);
    for (; t < a->n; t++)
        ssm_tokens(a, t, 1);
}

static void add(float *out, const float *x, size_t n)
{
    size_t i = 0;
    for (; i + VR <= n; i += VR)
        vf_put(out + i, vf_add(vf_load(out + i), vf_load(x + i)));
    for (; i < n; i++)
        out[i] += x[i];
}

static void norm_layer(float *out, const float *x, const float *w, const float *b, size_t n,
                       float eps)
{
    vf acc = vf_zero();
    size_t i = 0;
    for (; i + VR <= n; i += VR)
        acc = vf_add(acc, vf_load(x + i));
    float sum = vf_sum(acc), sq;
    for (; i < n; i++)
        sum += x[i];
    vf mean = vf_set1(sum / (float)n);
    acc = vf_zero();
    for (i = 0; i + VR <= n; i += VR) {
        vf off = vf_sub(vf_load(x + i), mean);
        acc = vf_fma(off, off, acc);
    }
    sq = vf_sum(acc);
    for (; i < n; i++)
        sq += (x[i] - sum / (float)n) * (x[i] - sum / (float)n);
    float scale = 1.0f / __builtin_sqrtf(sq / (float)n + eps);
    for (i = 0; i + VR <= n; i += VR)
        vf_put(out + i, vf_fma(vf_mul1(vf_sub(vf_load(x + i), mean), scale), vf_load(w + i),
                               vf_load(b + i)));
    for (; i < n; i++)
        out[i] = (x[i] - sum / (float)n) * scale * w[i] + b[i];
}

/* max(x, 0) - |x| erfc(|x| / sqrt 2) / 2, with erfc from Abramowitz & Stegun 7.1.26 (error below
 * 1.5e-7). */
INLINE vf gelu_of(vf x)
{
    static const float c[] = {1.061405429f, -1.453152027f, 1.421413741f, -0.284496736f,
                              0.254829592f};
    vf a = vf_max(x, vf_mul1(x, -1.0f)), one = vf_set1(1.0f),
       t = vf_div(one, vf_fma1(a, 0.3275911f * 0.70710678f, one)), p = vf_set1(c[0]);
    UNROLL
    for (size_t i = 1; i < 5; i++)
        p = vf_fma(p, t, vf_set1(c[i]));
    vf e = vf_exp2(vf_mul1(vf_mul(a, a), -0.72134752f)); /* e^(-x^2 / 2) */
    return vf_fma(vf_mul1(vf_mul(vf_mul(p, t), e), -0.5f), a, vf_max(x, vf_zero()));
}

/* x / (1 + e^-y); the exponential's inf and 0 at the ends give 0 and x. */
INLINE vf gate_by(vf x, vf y)
{
    return vf_div(x, vf_add(vf_exp2(vf_mul1(y, -1.44269504f)), vf_set1(1.0f)));
}

INLINE vf glu_of(sp_act act, vf x, vf up)
{
    switch (act) {
    case SP_ACT_SILU:
        return vf_mul(gate_by(x, x), up);
    case SP_ACT_GELU_TANH: /* 2 sqrt(2 / pi) (x + 0.044715 x^3) */
        return vf_mul(gate_by(x, vf_mul(x, vf_fma1(vf_mul(x, x), 1.59576912f * 0.044715f,
                                                   vf_set1(1.59576912f)))),
                      up);
    case SP_ACT_GELU_ERF:
        return vf_mul(gelu_of(x), up);
    case SP_ACT_RELU2:
        x = vf_max(x, vf_zero());
        return vf_mul(vf_mul(x, x), up);
    case SP_ACT_SIGMOID:
        return vf_mul(gate_by(vf_set1(1.0f), x), up);
    default: /* SP_ACT_CLAMPED */
        x = vf_min(x, vf_set1(7.0f));
        up = vf_min(vf_max(up, vf_set1(-7.0f)), vf_set1(7.0f));
        return vf_mul(gate_by(x, vf_mul1(x, 1.702f)), vf_add(up, vf_set1(1.0f)));
    }
}

INLINE void glu_rows(sp_act act, float *out, const float *gate, const float *up, size_t n)
{
    float a[VR] = {0}, b[VR] = {0};
    size_t i = 0, left;
    for (; i + VR <= n; i += VR)
        vf_put(out + i, glu_of(act, vf_load(gate + i), up ? vf_load(up + i) : vf_set1(1.0f)));
    if ((left = n - i) == 0)
        return;
    memcpy(a, gate + i, left * sizeof *a);
    vf_put(b, vf_set1(1.0f));
    if (up)
        memcpy(b, up + i, left * sizeof *b);
    vf_put(a, glu_of(act, vf_load(a), vf_load(b)));
    memcpy(out + i, a, left * sizeof *a);
}

static void glu_silu(float *out, const float *gate, const float *up, size_t n)
{
    glu_rows(SP_ACT_SILU, out, gate, up, n);
}

static void glu_gelu_tanh(float *out, const float *gate, const float *up, size_t n)
{
    glu_rows(SP_ACT_GELU_TANH, out, gate, up, n);
}

static void glu_gelu_erf(float *out, const float *gate, const float *up, size_t n)
{
    glu_rows(SP_ACT_GELU_ERF, out, gate, up, n);
}

static void glu_relu2(float *out, const float *gate, const float *up, size_t n)
{
    glu_rows(SP_ACT_RELU2, out, gate, up, n);
}

static void glu_sigmoid(float *out, const float *gate, const float *up, size_t n)
{
    glu_rows(SP_ACT_SIGMOID, out, gate, up, n);
}

static void glu_clamped(float *out, const float *gate, const float *up, size_t n)
{
    glu_rows(SP_ACT_CLAMPED, out, gate, up, n);
}

/* cap tanh(y) = cap - 2 cap / (1 + e^2y) */
static void soft_cap(float *x, size_t n, float scale, float cap)
{
    float a[VR] = {0}, by = 2.88539008f * scale / cap;
    for (size_t i = 0; i < n; i += VR) {
        size_t left = n - i < VR ? n - i : VR;
        memcpy(a, x + i, left * sizeof *a);
        vf e = vf_add(vf_exp2(vf_mul1(vf_load(a), by)), vf_set1(1.0f));
        vf_put(a, vf_sub(vf_set1(cap), vf_div(vf_set1(2.0f * cap), e)));
        memcpy(x + i, a, left * sizeof *a);
    }
}

/* Does query t see any key of a page? */
INLINE bool attn_sees(const sp_attn_see *see, size_t t)
{
    return (see->from ? see->from[t] : 0) < (see->to ? see->to[t] : SP_PAGE_TOK);
}

INLINE void attn_tile(float *acc, float *max, float *sum, const float *q, const float *kt,
                      const float *v, const sp_attn_see *see, size_t d, const size_t T)
{
    enum { N = SP_PAGE_TOK / VR };
    vf s[ATTN_T][N];
    float p[ATTN_T][SP_PAGE_TOK], keep[ATTN_T];
    UNROLL
    for (size_t t = 0; t < T; t++) {
        UNROLL
        for (size_t b = 0; b < N; b++)
            s[t][b] = vf_zero();
    }
    for (size_t i = 0; i < d; i++) {
        UNROLL
        for (size_t b = 0; b < N; b++) {
            vf key = vf_load(kt + i * SP_PAGE_TOK + b * VR);
            UNROLL
            for (size_t t = 0; t < T; t++)
                s[t][b] = vf_fma1(key, q[t * d + i], s[t][b]);
        }
    }
    UNROLL
    for (size_t t = 0; t < T; t++) {
        UNROLL
        for (size_t b = 0; b < N; b++)
            vf_put(p[t] + b * VR, see->cap > 0 ? vf_cap(s[t][b], see->cap) : s[t][b]);
        for (size_t j = 0; see->from && j < see->from[t]; j++)
            p[t][j] = -__builtin_inff();
        for (size_t j = see->to ? see->to[t] : SP_PAGE_TOK; j < SP_PAGE_TOK; j++)
            p[t][j] = -__builtin_inff();
        vf most = vf_set1(max[t]), mass = vf_zero();
        UNROLL
        for (size_t b = 0; b < N; b++)
            most = vf_max(most, vf_load(p[t] + b * VR));
        float top = vf_hmax(most), first[VR];
        vf_put(first, vf_exp2(vf_set1(max[t] - top)));
        keep[t] = first[0];
        UNROLL
        for (size_t b = 0; b < N; b++) {
            vf e = vf_exp2(vf_sub(vf_load(p[t] + b * VR), vf_set1(top)));
            mass = vf_add(mass, e);
            vf_put(p[t] + b * VR, e);
        }
        max[t] = top;
        sum[t] = sum[t] * keep[t] + vf_sum(mass);
    }
    for (size_t i = 0; i < d; i += VR) {
        vf o[ATTN_T];
        UNROLL
        for (size_t t = 0; t < T; t++)
            o[t] = vf_mul1(vf_load(acc + t * d + i), keep[t]);
        for (size_t j = 0; j < SP_PAGE_TOK; j++) {
            vf value = vf_load(v + j * d + i);
            UNROLL
            for (size_t t = 0; t < T; t++)
                o[t] = vf_fma1(value, p[t][j], o[t]);
        }
        UNROLL
        for (size_t t = 0; t < T; t++)
            vf_put(acc + t * d + i, o[t]);
    }
}

static void attn_page(float *acc, float *max, float *sum, const float *q, const float *kt,
                      const float *v, const sp_attn_see *see, size_t n_q, size_t d)
{
    for (size_t t = 0, n; t < n_q; t += n) {
        const sp_attn_see of = {see->from ? see->from + t : NULL, see->to ? see->to + t : NULL,
                                see->cap};
        for (n = 0; n < ATTN_T && t + n < n_q && attn_sees(&of, n); n++) {}
        if (n == ATTN_T)
            attn_tile(acc + t * d, max + t, sum + t, q + t * d, kt, v, &of, d, ATTN_T);
        else if (n > 0)
            attn_tile(acc + t * d, max + t, sum + t, q + t * d, kt, v, &of, d, n = 1);
        else
            n = 1; /* sees nothing */
    }
}

static void attn_join(float *acc, float *max, float *sum, const float *p_acc, const float *p_max,
                      const float *p_sum, size_t n_q, size_t d)
{
    for (size_t t = 0; t < n_q; t++) {
        if (p_max[t] == -__builtin_inff())
            continue;
        float top = max[t] > p_max[t] ? max[t] : p_max[t], keep[VR], part[VR];
        vf_put(keep, vf_exp2(vf_set1(max[t] - top)));
        vf_put(part, vf_exp2(vf_set1(p_max[t] - top)));
        max[t] = top;
        sum[t] = sum[t] * keep[0] + p_sum[t] * part[0];
        for (size_t i = t * d; i < (t + 1) * d; i += VR)
            vf_put(acc + i,
                   vf_fma1(vf_load(p_acc + i), part[0], vf_mul1(vf_load(acc + i), keep[0])));
    }
}

static void vec_init(sp_kern *kern)
{
    kern->widen[SP_F16] = widen_f16;
    kern->widen[SP_BF16] = widen_bf16;
    kern->quant_act = quant_act;
    kern->norm_rms = norm_rms;
    kern->glu[SP_ACT_SILU] = glu_silu;
    kern->glu[SP_ACT_GELU_TANH] = glu_gelu_tanh;
    kern->glu[SP_ACT_GELU_ERF] = glu_gelu_erf;
    kern->glu[SP_ACT_RELU2] = glu_relu2;
    kern->glu[SP_ACT_SIGMOID] = glu_sigmoid;
    kern->glu[SP_ACT_CLAMPED] = glu_clamped;
    kern->soft_cap = soft_cap;
    kern->turn_halves = turn_halves;
    kern->mul = mul;
    kern->conv = conv;
    kern->delta = delta;
    kern->ssm = ssm;
    kern->add = add;
    kern->norm_layer = norm_layer;
    kern->attn_page = attn_page;
    kern->attn_join = attn_join;
    kern->planes_put = planes_put;
    kern->planes_get = planes_get;
}
