/* AVX-512 F/BW/DQ/VL/VBMI/VNNI kernels. Compiled with those flags; called only where cpuid and
 * xgetbv allow it.
 *
 * gemm_q: 64 weights (u8) meet 64 activations (s8) in one vpdpbusd; each of the 16 i32 lanes holds
 * the sum of 4 products, so lanes 4j..4j+3 belong to 16-block j and take its scale. Every (row,
 * token) pair has its own accumulator and the same order of operations in every tile size, which
 * keeps results independent of the batch. */
#include "kern/kern.h"

#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

/* exp(x) for x <= 0 and sums near it: 2^n * p(f), Cody-Waite split, degree-6 polynomial,
 * relative error < 2e-7 over [-87, 88]; below -87 it is 0. */
INLINE __m512 exp512(__m512 x)
{
    const __m512 log2e = _mm512_set1_ps(1.44269504f);
    __m512 t = _mm512_max_ps(x, _mm512_set1_ps(-104.0f));
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(t, log2e), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 f = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), t);
    f = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), f);
    __m512 p = _mm512_set1_ps(1.9875691500e-4f); /* Cephes expf coefficients */
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.3981999507e-3f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(8.3334519073e-3f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(4.1665795894e-2f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.6666665459e-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(5.0000001201e-1f));
    p = _mm512_fmadd_ps(p, _mm512_mul_ps(f, f), _mm512_add_ps(f, _mm512_set1_ps(1.0f)));
    return _mm512_scalef_ps(p, n);
}

/* Mask of the first `left` of 16 lanes. */
INLINE __mmask16 first16(size_t left)
{
    return (__mmask16)(left >= 16 ? 0xffffu : (1u << left) - 1);
}

INLINE __m512i nibble_pair(__m256i b)
{ /* 32 packed bytes: low nibbles to the first half, high ones to the second */
    const __m512i mask = _mm512_set1_epi8(15);
    __m512i wide = _mm512_inserti64x4(_mm512_castsi256_si512(b), _mm256_srli_epi16(b, 4), 1);
    return _mm512_and_si512(wide, mask);
}

/* Two 16-byte nibble blocks of 32 elements each, to 64 bytes in element order. */
INLINE __m512i nibbles_2x32(const uint8_t *a, const uint8_t *b)
{
    __m128i x = _mm_loadu_si128((const __m128i *)a), y = _mm_loadu_si128((const __m128i *)b);
    __m256i lo = _mm256_inserti128_si256(_mm256_castsi128_si256(x), _mm_srli_epi16(x, 4), 1);
    __m256i hi = _mm256_inserti128_si256(_mm256_castsi128_si256(y), _mm_srli_epi16(y, 4), 1);
    return _mm512_and_si512(_mm512_inserti64x4(_mm512_castsi256_si512(lo), hi, 1), _mm512_set1_epi8(15));
}

INLINE float half(sp_f16 h)
{
    return _cvtsh_ss(h);
}

INLINE void put_scale(float *d, float *m, float dv, float mv)
{
    d[0] = d[1] = dv;
    m[0] = m[1] = mv;
}

static void expand_q4_0(uint8_t *q, float *d, float *m, const void *row, size_t k)
{
    const sp_blk_q4_0 *b = row;
    size_t n = k / 32;
    for (size_t i = 0; i < n; i += 2) {
        const sp_blk_q4_0 *next = i + 1 < n ? &b[i + 1] : &b[i];
        __m512i v = nibbles_2x32(b[i].qs, next->qs);
        float d0 = half(b[i].d);
        put_scale(d + 2 * i, m + 2 * i, d0, -8.0f * d0);
        if (i + 1 == n) {
            _mm256_storeu_si256((__m256i *)(q + 32 * i), _mm512_castsi512_si256(v));
            return;
        }
        float d1 = half(next->d);
        put_scale(d + 2 * i + 2, m + 2 * i + 2, d1, -8.0f * d1);
        _mm512_storeu_si512(q + 32 * i, v);
    }
}

static void expand_q4_1(uint8_t *q, float *d, float *m, const void *row, size_t k)
{
    const sp_blk_q4_1 *b = row;
    size_t n = k / 32;
    for (size_t i = 0; i < n; i += 2) {
        const sp_blk_q4_1 *next = i + 1 < n ? &b[i + 1] : &b[i];
        __m512i v = nibbles_2x32(b[i].qs, next->qs);
        put_scale(d + 2 * i, m + 2 * i, half(b[i].d), half(b[i].m));
        if (i + 1 == n) {
            _mm256_storeu_si256((__m256i *)(q + 32 * i), _mm512_castsi512_si256(v));
            return;
        }
        put_scale(d + 2 * i + 2, m + 2 * i + 2, half(next->d), half(next->m));
        _mm512_storeu_si512(q + 32 * i, v);
    }
}

static void expand_q8_0(uint8_t *q, float *d, float *m, const void *row, size_t k)
{
    const sp_blk_q8_0 *b = row;
    const __m256i flip = _mm256_set1_epi8((char)0x80); /* q + 128 */
    for (size_t i = 0; i < k / 32; i++) {
        float dv = half(b[i].d);
        _mm256_storeu_si256((__m256i *)(q + 32 * i),
                            _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)b[i].qs), flip));
        put_scale(d + 2 * i, m + 2 * i, dv, -128.0f * dv);
    }
}

static void expand_q4_k(uint8_t *q, float *d, float *m, const void *row, size_t k)
{
    const sp_blk_q4_k *b = row;
    for (size_t i = 0; i < k / 256; i++, q += 256, d += 16, m += 16) {
        float dv = half(b[i].d), mv = half(b[i].dmin);
        for (size_t j = 0; j < 4; j++) {
            __m256i v = _mm256_loadu_si256((const __m256i *)(b[i].qs + 32 * j));
            _mm512_storeu_si512(q + 64 * j, nibble_pair(v));
        }
        for (size_t j = 0; j < 8; j++) {
            uint8_t sc, mn;
            sp_k4_scale_min(&sc, &mn, j, b[i].scales);
            put_scale(d + 2 * j, m + 2 * j, dv * (float)sc, -mv * (float)mn);
        }
    }
}

static void expand_q6_k(uint8_t *q, float *d, float *m, const void *row, size_t k)
{
    const sp_blk_q6_k *b = row;
    const __m512i low4 = _mm512_set1_epi8(15), top2 = _mm512_set1_epi8(0x30);
    for (size_t i = 0; i < k / 256; i++, q += 256, d += 16, m += 16) {
        for (size_t h = 0; h < 2; h++) {
            __m512i ql = _mm512_loadu_si512(b[i].ql + 64 * h);
            __m512i qh = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)(b[i].qh + 32 * h)));
            /* quarters 0,1 take bits 0-1 and 2-3 of qh, quarters 2,3 take bits 4-5 and 6-7 */
            __m512i hi01 = _mm512_sllv_epi16(qh, _mm512_set_epi64(0x0002000200020002, 0x0002000200020002,
                0x0002000200020002, 0x0002000200020002, 0x0004000400040004, 0x0004000400040004,
                0x0004000400040004, 0x0004000400040004));
            __m512i hi23 = _mm512_srlv_epi16(qh, _mm512_set_epi64(0x0002000200020002, 0x0002000200020002,
                0x0002000200020002, 0x0002000200020002, 0, 0, 0, 0));
            __m512i a = _mm512_or_si512(_mm512_and_si512(ql, low4), _mm512_and_si512(hi01, top2));
            __m512i c = _mm512_or_si512(_mm512_and_si512(_mm512_srli_epi16(ql, 4), low4),
                                        _mm512_and_si512(hi23, top2));
            _mm512_storeu_si512(q + 128 * h, a);
            _mm512_storeu_si512(q + 128 * h + 64, c);
        }
        __m512 dv = _mm512_mul_ps(_mm512_set1_ps(half(b[i].d)),
                                  _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(
                                      _mm_loadu_si128((const __m128i *)b[i].scales))));
        _mm512_storeu_ps(d, dv);
        _mm512_storeu_ps(m, _mm512_mul_ps(dv, _mm512_set1_ps(-32.0f)));
    }
}

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

static void quant_act(int8_t *q, float *d, float *sum, const float *x, size_t k)
{
    for (size_t b = 0; b < k / 32; b++) {
        __m512 lo = _mm512_loadu_ps(x + 32 * b), hi = _mm512_loadu_ps(x + 32 * b + 16);
        float top = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(lo), _mm512_abs_ps(hi)));
        __m512 inv = _mm512_set1_ps(top > 0 ? 127.0f / top : 0);
        __m512i ql = _mm512_cvtps_epi32(_mm512_mul_ps(lo, inv)), qh = _mm512_cvtps_epi32(_mm512_mul_ps(hi, inv));
        d[b] = top / 127.0f;
        sum[2 * b] = d[b] * (float)_mm512_reduce_add_epi32(ql);
        sum[2 * b + 1] = d[b] * (float)_mm512_reduce_add_epi32(qh);
        _mm_storeu_si128((__m128i *)(q + 32 * b), _mm512_cvtepi32_epi8(ql));
        _mm_storeu_si128((__m128i *)(q + 32 * b + 16), _mm512_cvtepi32_epi8(qh));
    }
}

/* R rows by T tokens; both constants after inlining, so everything lives in registers. */
INLINE void tile_q(float *out, size_t ld, const sp_kern_rows *w, const sp_kern_acts *x, size_t r0,
                   size_t t0, size_t k, size_t R, size_t T)
{
    const __m512i four = _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0);
    const __m512i eight = _mm512_set_epi32(1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0);
    __m512 acc[4][4];
    for (size_t r = 0; r < R; r++)
        for (size_t t = 0; t < T; t++)
            acc[r][t] = _mm512_setzero_ps();
    for (size_t c = 0; c < k; c += 64) {
        __mmask64 in = k - c >= 64 ? (__mmask64)-1 : 0xffffffffu; /* k is a multiple of 32 */
        __mmask8 in_d = k - c >= 64 ? 15 : 3, in_x = k - c >= 64 ? 3 : 1;
        __m512i xv[4];
        __m512 xd[4];
        for (size_t t = 0; t < T; t++) {
            size_t at = (t0 + t) * k + c;
            xv[t] = _mm512_maskz_loadu_epi8(in, x->q + at);
            __m128 two = _mm_maskz_loadu_ps(in_x, x->d + at / 32);
            xd[t] = _mm512_permutexvar_ps(eight, _mm512_castps128_ps512(two));
        }
        for (size_t r = 0; r < R; r++) {
            size_t at = (r0 + r) * k + c;
            __m512i wv = _mm512_maskz_loadu_epi8(in, w->q + at);
            __m512 wd = _mm512_permutexvar_ps(
                four, _mm512_castps128_ps512(_mm_maskz_loadu_ps(in_d, w->d + at / 16)));
            for (size_t t = 0; t < T; t++) {
                __m512i dot = _mm512_dpbusd_epi32(_mm512_setzero_si512(), wv, xv[t]);
                acc[r][t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), _mm512_mul_ps(wd, xd[t]), acc[r][t]);
            }
        }
    }
    for (size_t c = 0; c < k / 16; c += 16) { /* the minimum's part: m . sum */
        size_t left = k / 16 - c;
        __mmask16 in = first16(left);
        for (size_t r = 0; r < R; r++) {
            __m512 wm = _mm512_maskz_loadu_ps(in, w->m + (r0 + r) * (k / 16) + c);
            for (size_t t = 0; t < T; t++)
                acc[r][t] = _mm512_fmadd_ps(
                    wm, _mm512_maskz_loadu_ps(in, x->sum + (t0 + t) * (k / 16) + c), acc[r][t]);
        }
    }
    for (size_t r = 0; r < R; r++)
        for (size_t t = 0; t < T; t++)
            out[(t0 + t) * ld + r0 + r] = _mm512_reduce_add_ps(acc[r][t]);
}

INLINE void tile_f(float *out, size_t ld, const float *w, const float *x, size_t r0, size_t t0,
                   size_t k, size_t R, size_t T)
{
    __m512 acc[4][4];
    for (size_t r = 0; r < R; r++)
        for (size_t t = 0; t < T; t++)
            acc[r][t] = _mm512_setzero_ps();
    for (size_t c = 0; c < k; c += 16) {
        __mmask16 in = first16(k - c);
        __m512 xv[4];
        for (size_t t = 0; t < T; t++)
            xv[t] = _mm512_maskz_loadu_ps(in, x + (t0 + t) * k + c);
        for (size_t r = 0; r < R; r++) {
            __m512 wv = _mm512_maskz_loadu_ps(in, w + (r0 + r) * k + c);
            for (size_t t = 0; t < T; t++)
                acc[r][t] = _mm512_fmadd_ps(wv, xv[t], acc[r][t]);
        }
    }
    for (size_t r = 0; r < R; r++)
        for (size_t t = 0; t < T; t++)
            out[(t0 + t) * ld + r0 + r] = _mm512_reduce_add_ps(acc[r][t]);
}

/* Walks the output in 4x4 tiles, with 4x1, 1x4 and 1x1 at the borders. */
#define WALK(tile, ...)                                                                            \
    do {                                                                                           \
        size_t r = 0, t;                                                                           \
        for (; r + 4 <= n_row; r += 4) {                                                           \
            for (t = 0; t + 4 <= n_tok; t += 4)                                                    \
                tile(__VA_ARGS__, r, t, k, 4, 4);                                                  \
            for (; t < n_tok; t++)                                                                 \
                tile(__VA_ARGS__, r, t, k, 4, 1);                                                  \
        }                                                                                          \
        for (; r < n_row; r++) {                                                                   \
            for (t = 0; t + 4 <= n_tok; t += 4)                                                    \
                tile(__VA_ARGS__, r, t, k, 1, 4);                                                  \
            for (; t < n_tok; t++)                                                                 \
                tile(__VA_ARGS__, r, t, k, 1, 1);                                                  \
        }                                                                                          \
    } while (0)

static void gemm_q(float *out, size_t ld, const sp_kern_rows *w, const sp_kern_acts *x,
                   size_t n_row, size_t n_tok, size_t k)
{
    WALK(tile_q, out, ld, w, x);
}

static void gemm_f(float *out, size_t ld, const float *w, const float *x, size_t n_row,
                   size_t n_tok, size_t k)
{
    WALK(tile_f, out, ld, w, x);
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
            keep[t] = _mm512_cvtss_f32(exp512(_mm512_set1_ps(max[t] - top)));
            if (max[t] == -__builtin_inff())
                keep[t] = 0;
            __m512 m = _mm512_set1_ps(top);
            a = _mm512_maskz_mov_ps((__mmask16)bits, exp512(_mm512_sub_ps(a, m)));
            b = _mm512_maskz_mov_ps((__mmask16)(bits >> 16), exp512(_mm512_sub_ps(b, m)));
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

static uint64_t int_peak(size_t rounds, uint32_t *out)
{
    __m512i a[12], x = _mm512_set1_epi8(3);
    for (int k = 0; k < 12; k++)
        a[k] = _mm512_set1_epi32(k);
    for (size_t i = 0; i < rounds; i++)
        for (int k = 0; k < 12; k++)
            a[k] = _mm512_dpbusd_epi32(a[k], x, x);
    for (int k = 1; k < 12; k++)
        a[0] = _mm512_add_epi32(a[0], a[k]);
    *out = (uint32_t)_mm512_cvtsi512_si32(a[0]);
    return (uint64_t)rounds * 12 * 64;
}

void sp_kern_init_avx512vnni(sp_kern *k)
{
    k->isa = "avx512vnni";
    k->expand[SP_Q4_0] = expand_q4_0;
    k->expand[SP_Q4_1] = expand_q4_1;
    k->expand[SP_Q8_0] = expand_q8_0;
    k->expand[SP_Q4_K] = expand_q4_k;
    k->expand[SP_Q6_K] = expand_q6_k;
    k->widen[SP_F16] = widen_f16;
    k->widen[SP_BF16] = widen_bf16;
    k->quant_act = quant_act;
    k->gemm_q = gemm_q;
    k->gemm_f = gemm_f;
    k->norm_rms = norm_rms;
    k->glu_silu = glu_silu;
    k->attn_page = attn_page;
    k->int_peak = int_peak;
}
