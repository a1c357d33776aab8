/* AVX-512 kernels (F, BW, DQ, VL). Compiled with those flags; called only where cpuid and xgetbv
 * allow it. Integer products without VNNI go through vpmaddubsw, see avx512.h. */
#include "kern/x86/avx512.h"

#define MAX_T 8
#define TILE_STEPS STEP(8); STEP(4); STEP(2); STEP(1);
#include "kern/gemm_tile.h"
#include "kern/planes_tile.h"
#define ROWS_R 4
#define ROWS_T 6
#include "kern/gemm_rows.h"

static void widen_f16(float *out, const void *row, size_t k)
{
    const sp_f16 *p = row;
    for (size_t i = 0; i < k; i += 16) {
        __mmask16 in = first16(k - i);
        _mm512_mask_storeu_ps(out + i, in, _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(in, p + i)));
    }
}

static void widen_bf16(float *out, const void *row, size_t k)
{
    const uint16_t *p = row;
    for (size_t i = 0; i < k; i += 16) {
        __mmask16 in = first16(k - i);
        __m512i v = _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(in, p + i)), 16);
        _mm512_mask_storeu_ps(out + i, in, _mm512_castsi512_ps(v));
    }
}

static void quant_act(const sp_kern_acts *out, size_t t, const float *x, size_t k)
{
    sp_act_blk *to = sp_acts_row(out, t);
    for (size_t b = 0; b < k / 32; b++, to++, x += 32) {
        __m512 lo = _mm512_loadu_ps(x), hi = _mm512_loadu_ps(x + 16);
        float top = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(lo), _mm512_abs_ps(hi)));
        __m512 inv = _mm512_set1_ps(top > 0 ? 127.0f / top : 0);
        __m512i ql = _mm512_cvtps_epi32(_mm512_mul_ps(lo, inv)), qh = _mm512_cvtps_epi32(_mm512_mul_ps(hi, inv));
        int sl = _mm512_reduce_add_epi32(ql), sh = _mm512_reduce_add_epi32(qh);
        to->d = top / 127.0f;
        to->sum16[0] = to->d * (float)sl;
        to->sum16[1] = to->d * (float)sh;
        to->sum32 = to->d * (float)(sl + sh);
        _mm_storeu_si128((__m128i *)(void *)to->q, _mm512_cvtepi32_epi8(ql));
        _mm_storeu_si128((__m128i *)(void *)(to->q + 16), _mm512_cvtepi32_epi8(qh));
    }
}

static void norm_rms(float *out, const float *x, const float *w, size_t n, float eps)
{
    __m512 acc = _mm512_setzero_ps();
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        __m512 v = _mm512_loadu_ps(x + i);
        acc = _mm512_fmadd_ps(v, v, acc);
    }
    float sum = _mm512_reduce_add_ps(acc);
    for (; i < n; i++)
        sum += x[i] * x[i];
    float scale = 1.0f / __builtin_sqrtf(sum / (float)n + eps);
    for (i = 0; i < n; i++)
        out[i] = x[i] * scale * w[i];
}

static void glu_silu(float *out, const float *gate, const float *up, size_t n)
{
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 in = first16(n - i);
        __m512 g = _mm512_maskz_loadu_ps(in, gate + i), u = _mm512_maskz_loadu_ps(in, up + i);
        __m512 e = exp512(_mm512_sub_ps(_mm512_setzero_ps(), _mm512_min_ps(_mm512_max_ps(g,
                          _mm512_set1_ps(-88.0f)), _mm512_set1_ps(88.0f))));
        __m512 s = _mm512_div_ps(g, _mm512_add_ps(e, _mm512_set1_ps(1.0f)));
        _mm512_mask_storeu_ps(out + i, in, _mm512_mul_ps(s, u));
    }
}

/* T queries at once share each load of a key column and a value row. */
INLINE void attn_tile(float *acc, float *max, float *sum, const float *q, const float *kt,
                      const float *v, const uint8_t *vis, size_t d, size_t T)
{
    __m512 s[4][2];
    float p[4][SP_PAGE_TOK];
    for (size_t t = 0; t < T; t++)
        s[t][0] = s[t][1] = _mm512_setzero_ps();
    for (size_t i = 0; i < d; i++) {
        __m512 k0 = _mm512_loadu_ps(kt + i * SP_PAGE_TOK), k1 = _mm512_loadu_ps(kt + i * SP_PAGE_TOK + 16);
        for (size_t t = 0; t < T; t++) {
            __m512 qi = _mm512_set1_ps(q[t * d + i]);
            s[t][0] = _mm512_fmadd_ps(qi, k0, s[t][0]);
            s[t][1] = _mm512_fmadd_ps(qi, k1, s[t][1]);
        }
    }
    float keep[4];
    for (size_t t = 0; t < T; t++) {
        const __m512 none = _mm512_set1_ps(-__builtin_inff());
        uint32_t bits = vis[t] >= 32 ? 0xffffffffu : (1u << vis[t]) - 1;
        __m512 a = _mm512_mask_mov_ps(none, (__mmask16)bits, s[t][0]);
        __m512 b = _mm512_mask_mov_ps(none, (__mmask16)(bits >> 16), s[t][1]);
        float top = _mm512_reduce_max_ps(_mm512_max_ps(a, b));
        top = top > max[t] ? top : max[t];
        if (!vis[t]) { /* nothing to see: keep everything, add nothing */
            keep[t] = 1.0f;
            a = b = _mm512_setzero_ps();
        } else {
            keep[t] = _mm512_cvtss_f32(exp2_512(_mm512_set1_ps(max[t] - top)));
            __m512 m = _mm512_set1_ps(top);
            a = _mm512_maskz_mov_ps((__mmask16)bits, exp2_512(_mm512_sub_ps(a, m)));
            b = _mm512_maskz_mov_ps((__mmask16)(bits >> 16), exp2_512(_mm512_sub_ps(b, m)));
            max[t] = top;
        }
        sum[t] = sum[t] * keep[t] + _mm512_reduce_add_ps(_mm512_add_ps(a, b));
        _mm512_storeu_ps(p[t], a);
        _mm512_storeu_ps(p[t] + 16, b);
    }
    for (size_t i = 0; i < d; i += 16) {
        __m512 o[4];
        for (size_t t = 0; t < T; t++)
            o[t] = _mm512_mul_ps(_mm512_loadu_ps(acc + t * d + i), _mm512_set1_ps(keep[t]));
        for (size_t j = 0; j < SP_PAGE_TOK; j++) {
            __m512 vj = _mm512_loadu_ps(v + j * d + i);
            for (size_t t = 0; t < T; t++)
                o[t] = _mm512_fmadd_ps(_mm512_set1_ps(p[t][j]), vj, o[t]);
        }
        for (size_t t = 0; t < T; t++)
            _mm512_storeu_ps(acc + t * d + i, o[t]);
    }
}

static void attn_page(float *acc, float *max, float *sum, const float *q, const float *kt,
                      const float *v, const uint8_t *vis, size_t n_q, size_t d)
{
    size_t t = 0;
    for (; t + 4 <= n_q; t += 4)
        attn_tile(acc + t * d, max + t, sum + t, q + t * d, kt, v, vis + t, d, 4);
    for (; t < n_q; t++)
        attn_tile(acc + t * d, max + t, sum + t, q + t * d, kt, v, vis + t, d, 1);
}

static void attn_join(float *acc, float *max, float *sum, const float *p_acc, const float *p_max,
                      const float *p_sum, size_t n_q, size_t d)
{
    for (size_t t = 0; t < n_q; t++) {
        if (p_max[t] == -__builtin_inff())
            continue;
        float top = max[t] > p_max[t] ? max[t] : p_max[t];
        __m512 keep = exp2_512(_mm512_set1_ps(max[t] - top)), part = exp2_512(_mm512_set1_ps(p_max[t] - top));
        max[t] = top;
        sum[t] = sum[t] * _mm512_cvtss_f32(keep) + p_sum[t] * _mm512_cvtss_f32(part);
        for (size_t i = t * d; i < (t + 1) * d; i += 16) {
            __m512 old = _mm512_mul_ps(_mm512_loadu_ps(acc + i), keep);
            _mm512_storeu_ps(acc + i, _mm512_fmadd_ps(_mm512_loadu_ps(p_acc + i), part, old));
        }
    }
}

/* x (+/-) its neighbour at distance h inside each group of 2 h lanes. */
INLINE __m512 butterfly(__m512 x, __m512 y, __mmask16 high)
{
    return _mm512_mask_sub_ps(_mm512_add_ps(x, y), high, y, x);
}

INLINE __m512 hadamard16(__m512 x)
{
    x = butterfly(x, _mm512_permute_ps(x, 0xb1), 0xaaaa);
    x = butterfly(x, _mm512_permute_ps(x, 0x4e), 0xcccc);
    x = butterfly(x, _mm512_shuffle_f32x4(x, x, 0xb1), 0xf0f0);
    return butterfly(x, _mm512_shuffle_f32x4(x, x, 0x4e), 0xff00);
}

static void rotate(float *x, size_t d, bool back)
{
    size_t n = d & (~d + 1); /* largest power of two that divides d; at least 16 */
    const __m512 scale = _mm512_set1_ps(1.0f / __builtin_sqrtf((float)n));
    for (size_t i = 0; i < d; i += 16) {
        __m512 v = _mm512_loadu_ps(x + i);
        if (!back)
            v = _mm512_mask_sub_ps(v, sp_rot_minus(i), _mm512_setzero_ps(), v);
        _mm512_storeu_ps(x + i, hadamard16(v));
    }
    for (size_t h = 16; h < n; h *= 2) {
        for (size_t i = 0; i < d; i += i % (2 * h) + 16 == h ? h + 16 : 16) {
            __m512 a = _mm512_loadu_ps(x + i), b = _mm512_loadu_ps(x + i + h);
            _mm512_storeu_ps(x + i, _mm512_add_ps(a, b));
            _mm512_storeu_ps(x + i + h, _mm512_sub_ps(a, b));
        }
    }
    for (size_t i = 0; i < d; i += 16) {
        __m512 v = _mm512_mul_ps(_mm512_loadu_ps(x + i), scale);
        if (back)
            v = _mm512_mask_sub_ps(v, sp_rot_minus(i), _mm512_setzero_ps(), v);
        _mm512_storeu_ps(x + i, v);
    }
}

static uint64_t int_peak(size_t rounds, uint32_t *out)
{
    __m512i a[12], x = _mm512_set1_epi8(3);
    for (int k = 0; k < 12; k++)
        a[k] = _mm512_set1_epi16((short)k);
    for (size_t i = 0; i < rounds; i++)
        for (int k = 0; k < 12; k++)
            a[k] = _mm512_add_epi16(a[k], _mm512_maddubs_epi16(x, a[k]));
    for (int k = 1; k < 12; k++)
        a[0] = _mm512_add_epi32(a[0], a[k]);
    *out = (uint32_t)_mm512_cvtsi512_si32(a[0]);
    return (uint64_t)rounds * 12 * 64;
}

static uint64_t read_all(const void *p, size_t n_bytes)
{
    __m512i s[8];
    for (size_t k = 0; k < 8; k++)
        s[k] = _mm512_setzero_si512();
    for (size_t i = 0; i < n_bytes; i += 512) {
        UNROLL
        for (size_t k = 0; k < 8; k++)
            s[k] = _mm512_add_epi64(s[k], _mm512_loadu_si512((const char *)p + i + 64 * k));
    }
    for (size_t k = 1; k < 8; k++)
        s[0] = _mm512_add_epi64(s[0], s[k]);
    return (uint64_t)_mm512_reduce_add_epi64(s[0]);
}

void sp_kern_init_avx512(sp_kern *k)
{
    k->isa = "avx512";
    k->widen[SP_F16] = widen_f16;
    k->widen[SP_BF16] = widen_bf16;
    k->quant_act = quant_act;
    tile_init(k);
    rows_init(k);
    k->norm_rms = norm_rms;
    k->glu_silu = glu_silu;
    k->rotate = rotate;
    k->attn_page = attn_page;
    k->attn_join = attn_join;
    k->planes_put = planes_put;
    k->planes_get = planes_get;
    k->int_peak = int_peak;
    k->read_all = read_all;
}
