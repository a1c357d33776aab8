/* Every kernel of every ISA level this CPU has, against ref/: random shapes, odd sizes, poisoned
 * outputs. Integer results must be equal; float ones within the named tolerance. */
#include "test.h"

#include "base/mem.h"
#include "kern/ref/ref.h"

#include <math.h>
#include <stdio.h>
#include <time.h>

/* Rounding order only: relative to the sum of magnitudes that were added. */
#define TOL_GEMM 2e-6
#define TOL_NORM 2e-6
#define TOL_SILU 1e-6
#define TOL_DELTA 2e-6
#define TOL_GELU 4e-7
#define TOL_ATTN 4e-6
#define TOL_ROT 1e-6
#define TOL_BF16 4e-3 /* activations rounded to 8 bits of mantissa */
/* 8-bit queries and weights, relative to the largest value: a query's rounding moves a score of these
 * tests by about 1/60 bit, a weight's by 1/510 of the page's largest. */
#define TOL_ATTN8 0.02
#define POISON 0xa5

static uint16_t bf16_up(float x)
{
    union { float f; uint32_t u; } v = {.f = x};
    return (uint16_t)((v.u + 0xffffu) >> 16);
}

static sp_kern ref, now;
#if defined(__x86_64__)
void sp_kern_init_imitated(sp_kern *k); /* src/kern/x86/avxvnni.c: see test/CMakeLists.txt */
void sp_kern_init_tiles_imitated(sp_kern *k); /* src/kern/x86/amx.c, likewise */
#endif
static sp_kern same; /* attention over quantised pages must have its bits; isa NULL: there is none */
void check_levels(void **state); /* kern_levels.c */

static void *buf(size_t n_bytes)
{
    void *p = sp_mem_align(n_bytes);
    assert_non_null(p);
    memset(p, POISON, n_bytes);
    return p;
}

static float *floats(uint64_t *s, size_t n)
{
    float *p = buf(n * sizeof *p);
    for (size_t i = 0; i < n; i++)
        p[i] = test_float(s) * 3;
    return p;
}

static void near(float a, float b, double scale, double tol)
{
    if (!(fabs((double)a - (double)b) <= tol * scale + 1e-30)) {
        print_error("%g is not %g (scale %g, tolerance %g)\n", (double)a, (double)b, scale, tol);
        fail();
    }
}

static void random_rows(uint64_t *s, void *p, sp_type type, size_t k)
{
    static const struct { sp_type t; size_t at[2]; } scales[] = {
        {SP_Q4_0, {0, 0}}, {SP_Q4_1, {0, 2}}, {SP_Q5_0, {0, 0}}, {SP_Q5_1, {0, 2}}, {SP_Q8_0, {0, 0}},
        {SP_Q2_K, {80, 82}}, {SP_Q3_K, {108, 108}}, {SP_Q4_K, {0, 2}}, {SP_Q5_K, {0, 2}}, {SP_Q6_K, {208, 208}},
        {SP_IQ4_NL, {0, 0}}, {SP_IQ4_XS, {0, 0}}, {SP_TQ1_0, {52, 52}}, {SP_TQ2_0, {64, 64}}, {SP_IQ1_S, {0, 0}},
        {SP_IQ2_XXS, {0, 0}}, {SP_IQ2_XS, {0, 0}}, {SP_IQ2_S, {0, 0}}, {SP_IQ3_XXS, {0, 0}}, {SP_IQ3_S, {0, 0}}};
    const sp_type_info *t = sp_type_get(type);
    uint8_t *b = p;
    size_t n = k / t->blk_elem * t->blk_bytes;
    for (size_t i = 0; i < n; i++)
        b[i] = (uint8_t)test_rand(s);
    for (size_t i = 0; type == SP_MXFP4 && i < n; i += t->blk_bytes)
        b[i] = (uint8_t)(120 + b[i] % 9);
    for (size_t i = 0; type == SP_NVFP4 && i < n; i += t->blk_bytes)
        for (size_t j = 0; j < 4; j++)
            b[i + j] = i % 5 == j ? (uint8_t)(b[i] % 8) : i % 7 == j ? 127 : (uint8_t)(8 + b[i + j] % 32);
    for (size_t i = 0; type == SP_IQ1_M && i < n; i += t->blk_bytes) /* the scale is the top digits of four words */
        for (size_t j = 0; j < 4; j++)
            b[i + 49 + 2 * j] = (uint8_t)((b[i + 49 + 2 * j] & 0x0f) | (const uint8_t[]){0x70, 0x30, 0xe0, 0x20}[j]);
    for (size_t i = 0; i < sizeof scales / sizeof scales[0]; i++)
        for (size_t blk = 0; scales[i].t == type && blk < k / t->blk_elem; blk++)
            for (size_t j = 0; j < 2; j++) {
                sp_f16 h = sp_f16_from_f32(test_float(s) * 0.1f);
                memcpy(b + blk * t->blk_bytes + scales[i].at[j], &h, 2);
            }
}

/* Packing moves bits and loses none: every row comes back as the reference reads the GGUF row. */
static void check_pack(void **state)
{
    (void)state;
    uint64_t s = 1;
    for (uint32_t type = 0; type < SP_TYPE_COUNT; type++) {
        if (!sp_type_get(type) || !sp_ref_expand((sp_type)type))
            continue;
        assert_true(sp_pack_is((sp_type)type));
        size_t step = sp_type_get(type)->blk_elem;
        for (size_t k = step; k <= 5 * step; k += step) {
            size_t row_bytes = sp_type_row_bytes((sp_type)type, k), n_row = k / step == 2 ? 5 : 16;
            size_t tile_bytes = sp_pack_tile_bytes((sp_type)type, k);
            uint8_t *rows = buf(16 * row_bytes), *tile = buf(tile_bytes + 64);
            void *scratch = buf(sp_pack_scratch(k));
            /* TQ1_0 in TQ2_0's form takes 22 % more */
            assert_true(tile_bytes < 16 * row_bytes * 5 / 4 + 64);
            for (size_t r = 0; r < n_row; r++)
                random_rows(&s, rows + r * row_bytes, (sp_type)type, k);
            sp_pack_tile(tile, (sp_type)type, rows, n_row, k, scratch);
            for (size_t i = 0; i < 64; i++)
                assert_int_equal(tile[tile_bytes + i], POISON);
            uint8_t *q1 = buf(k), *q2 = buf(k);
            float *d1 = buf(k / 4), *d2 = buf(k / 4), *m1 = buf(k / 4), *m2 = buf(k / 4);
            for (size_t r = 0; r < n_row; r++) {
                sp_ref_expand((sp_type)type)(q1, d1, m1, rows + r * row_bytes, k);
                for (size_t u = 0; u * 256 < k; u++)
                    assert_int_equal(sp_pack_get(q2 + u * 256, d2 + u * 16, m2 + u * 16, tile, (sp_type)type, k, r, u),
                                     k - u * 256 < 256 ? k - u * 256 : 256);
                assert_memory_equal(q1, q2, k);
                assert_memory_equal(d1, d2, k / 4);
                assert_memory_equal(m1, m2, k / 4);
            }
            void *const all[] = {rows, tile, scratch, q1, q2, d1, d2, m1, m2};
            for (size_t i = 0; i < 9; i++)
                sp_mem_free(all[i]);
        }
    }
}

static void check_widen(void **state)
{
    (void)state;
    uint64_t s = 2;
    for (size_t k = 1; k < 70; k += 3) {
        uint16_t *row = buf(k * 2);
        float *a = buf(k * 4 + 64), *b = buf(k * 4 + 64);
        for (size_t i = 0; i < k; i++)
            row[i] = (uint16_t)(test_rand(&s) & 0xfbff); /* finite f16, also finite as bf16 */
        ref.widen[SP_F16](a, row, k);
        now.widen[SP_F16](b, row, k);
        assert_memory_equal(a, b, k * 4 + 64);
        uint16_t *h1 = buf(k * 2 + 64), *h2 = buf(k * 2 + 64);
        ref.narrow_f16(h1, a, k);
        now.narrow_f16(h2, a, k);
        assert_memory_equal(h1, h2, k * 2 + 64);
        assert_memory_equal(h1, row, k * 2); /* f16 -> f32 -> f16 is exact */
        for (size_t i = 0; i < k; i++)
            a[i] = test_float(&s) * 70000.0f * (i % 3 ? 1e-6f : 1.0f); /* overflow, subnormals, ties */
        ref.narrow_f16(h1, a, k);
        now.narrow_f16(h2, a, k);
        assert_memory_equal(h1, h2, k * 2);
        ref.widen[SP_BF16](a, row, k);
        now.widen[SP_BF16](b, row, k);
        assert_memory_equal(a, b, k * 4);
        void *const all[] = {row, a, b, h1, h2};
        for (size_t i = 0; i < 5; i++)
            sp_mem_free(all[i]);
    }
}

/* sum of |w| * |x| of a (row, token), to which the tolerance is relative */
static double magnitude(const void *tile, sp_type type, size_t k, size_t r, const sp_kern_acts *x, size_t t)
{
    double sum = 1e-9;
    uint8_t q[256];
    float d[16], m[16];
    for (size_t from = 0; from < k; from += 256) {
        size_t n = sp_pack_get(q, d, m, tile, type, k, r % 16, from / 256);
        for (size_t i = 0; i < n; i++)
            sum += (fabs((double)d[i / 16]) * q[i] + fabs((double)m[i / 16])) * fabs(sp_acts_row(x, t)[(from + i) / 32].q[i % 32] * (double)sp_acts_row(x, t)[(from + i) / 32].d);
    }
    return sum;
}

static void check_gemm_type(uint64_t *s, sp_type type, size_t k)
{
    static const size_t rows[] = {1, 3, 16, 21, 32, 37}, toks[] = {1, 2, 16, 5, 13, 27};
    size_t nr = 37, nt = 27, ld = 41, row_bytes = sp_type_row_bytes(type, k), tile_bytes = sp_pack_tile_bytes(type, k);
    uint8_t *raw = buf(nr * row_bytes), *w = buf(3 * tile_bytes);
    void *scratch = buf(sp_pack_scratch(k));
    for (size_t r = 0; r < nr; r++)
        random_rows(s, raw + r * row_bytes, type, k);
    for (size_t i = 0; i < 3; i++)
        sp_pack_tile(w + i * tile_bytes, type, raw + 16 * i * row_bytes, i < 2 ? 16 : nr - 32, k, scratch);
    sp_kern_acts x1 = {buf(nt * sp_acts_stride(k)), sp_acts_stride(k)}, x2 = {buf(nt * sp_acts_stride(k)), sp_acts_stride(k)};
    float *x = floats(s, nt * k), *o1 = buf(nt * ld * 4), *o2 = buf(nt * ld * 4), one;
    for (size_t i = 0; i < k; i++)
        x[i] = 0; /* a row of zeros has scale 0 */
    for (size_t i = k; i < 2 * k; i++)
        x[i] = i % 2 ? 127.0f : -127.0f; /* saturates whatever can saturate */
    for (size_t t = 0; t < nt; t++) {
        ref.quant_act(&x1, t, x + t * k, k);
        now.quant_act(&x2, t, x + t * k, k);
    }
    assert_memory_equal(x1.mem, x2.mem, nt * x1.stride);
    for (size_t i = 0; i < 6; i++) {
        memset(o2, POISON, nt * ld * 4);
        memset(o1, POISON, nt * ld * 4);
        sp_gemm_args g = {o1, ld, w, &x1, rows[i], toks[i], k, false, NULL};
        ref.gemm_q[type](&g);
        g.out = o2;
        sp_kern_gemm_q(&now, type, &g);
        for (size_t j = 0; j < nt * ld; j++) {
            size_t r = j % ld, t = j / ld;
            if (r >= rows[i] || t >= toks[i]) {
                assert_memory_equal(&o1[j], &o2[j], 4); /* untouched */
                continue;
            }
            near(o2[j], o1[j], magnitude(w + r / 16 * tile_bytes, type, k, r, &x1, t), TOL_GEMM);
            /* the same bits alone as in company */
            const sp_kern_acts xt = {x1.mem + t * x1.stride, x1.stride};
            float lone[16];
            const sp_gemm_args alone = {lone, 16, w + r / 16 * tile_bytes, &xt, r % 16 + 1, 1, k, false, NULL};
            sp_kern_gemm_q(&now, type, &alone);
            assert_memory_equal(&lone[r % 16], &o2[j], 4);
        }
        /* add: each sum once on top of what is there */
        memcpy(o1, o2, nt * ld * 4);
        g.add = true;
        sp_kern_gemm_q(&now, type, &g);
        for (size_t t = 0; t < toks[i]; t++)
            near(o2[t * ld], 2 * o1[t * ld], 2 * magnitude(w, type, k, 0, &x1, t), TOL_GEMM);
        memcpy(o2, o1, nt * ld * 4);
        /* the same on top of another number */
        one = 2.5f;
        float o = 2.5f;
        const sp_gemm_args add = {&o, ld, w, &x1, 1, 1, k, true, NULL};
        sp_kern_gemm_q(&now, type, &add);
        near(o, one + o2[0], 2.5 + magnitude(w, type, k, 0, &x1, 0), TOL_GEMM);
        /* a factor: the sum times it */
        const float by = 0.3f, want = o2[0] * by;
        const sp_gemm_args times = {&o, ld, w, &x1, 1, 1, k, false, &by};
        sp_kern_gemm_q(&now, type, &times);
        assert_memory_equal(&o, &want, sizeof o);
        ref.gemm_q[type](&times);
        near(o, want, magnitude(w, type, k, 0, &x1, 0), TOL_GEMM);
    }
    void *const all[] = {raw, w, scratch, x1.mem, x2.mem, x, o1, o2};
    for (size_t i = 0; i < 8; i++)
        sp_mem_free(all[i]);
}

/* The largest sums there can be, of types whose blocks start with a scale: blocks whose other bytes are all the same, which
 * meets entries of the largest magnitudes, by activations of 127 with the sign of the weight. One, two and nine tokens. */
static void check_largest(sp_type type)
{
    enum { K = 256, TOKS = 9 };
    size_t stride = sp_acts_stride(K), n = sp_type_get(type)->blk_bytes;
    uint8_t raw[256], q[K], *w = buf(sp_pack_tile_bytes(type, K));
    void *scratch = buf(sp_pack_scratch(K));
    sp_kern_acts acts = {buf(TOKS * stride), stride};
    float d[16], m[16], x[K], want[TOKS], got[TOKS], most = 0;
    for (int v = 0; v < 256; v++) {
        sp_f16 one = sp_f16_from_f32(1.0f);
        memset(raw, v, n);
        memcpy(raw, &one, 2);
        sp_pack_tile(w, type, raw, 1, K, scratch);
        assert_int_equal(sp_pack_get(q, d, m, w, type, K, 0, 0), K);
        for (size_t i = 0; i < K; i++)
            x[i] = d[i / 16] * (float)q[i] + m[i / 16] < 0 ? -127.0f : 127.0f;
        for (size_t t = 0; t < TOKS; t++)
            now.quant_act(&acts, t, x, K);
        sp_gemm_args g = {want, 1, w, &acts, 1, TOKS, K, false, NULL};
        ref.gemm_q[type](&g);
        g.out = got;
        double size = magnitude(w, type, K, 0, &acts, 0);
        static const size_t toks[] = {1, 2, TOKS};
        for (size_t j = 0; j < 3; j++) {
            g.n_tok = toks[j];
            memset(got, POISON, sizeof got);
            now.gemm_q[type](&g);
            for (size_t t = 0; t < toks[j]; t++)
                near(got[t], want[t], size, TOL_GEMM);
        }
        for (size_t i = 0; i < K; i++) /* in units of the scale, whose value without d is a number of the type */
            most = fmaxf(most, fabsf((float)q[i] + m[i / 16] / d[i / 16]));
    }
    assert_true(most >= 25);
    void *const all[] = {w, scratch, acts.mem};
    for (size_t i = 0; i < 3; i++)
        sp_mem_free(all[i]);
}

static void check_gemm_q(void **state)
{
    (void)state;
    uint64_t s = 3;
    static const sp_type largest[] = {SP_IQ2_XXS, SP_IQ2_XS, SP_IQ2_S, SP_IQ3_XXS};
    for (size_t i = 0; i < 4; i++)
        check_largest(largest[i]);
    for (uint32_t type = 0; type < SP_TYPE_COUNT; type++) {
        if (!sp_pack_is((sp_type)type))
            continue;
        size_t step = sp_type_get(type)->blk_elem;
        static const size_t ks[] = {1, 2, 3, 5, 18};
        for (size_t i = 0; i < 5; i++)
            check_gemm_type(&s, (sp_type)type, ks[i] * step);
    }
}

static void check_gemm_f(void **state)
{
    static const struct { sp_type type; size_t bytes; } types[] = {{SP_F32, 4}, {SP_F16, 2}, {SP_BF16, 2}};
    (void)state;
    uint64_t s = 4;
    for (size_t it = 0; it < 3; it++) {
        bool is_narrow = types[it].type == SP_BF16 && now.narrow_bf16;
        for (size_t k = 1; k < 5000; k = k * 2 + 1) {
            for (size_t nr = 1; nr < 8; nr += 3) {
                for (size_t nt = 1; nt < 15; nt += 6) {
                    size_t ld = nr + 2, bytes = types[it].bytes;
                    float *w = floats(&s, nr * k), *x = floats(&s, nt * k), *o1 = buf(nt * ld * 4), *o2 = buf(nt * ld * 4), one;
                    uint16_t *h = buf(nr * k * 2), *xh = buf(nt * k * 2);
                    void *rows = w, *x2 = x;
                    for (size_t i = 0; bytes == 2 && i < nr * k; i++)
                        h[i] = it == 1 ? sp_f16_from_f32(w[i]) : (uint16_t)(bf16_up(fabsf(w[i])) | (w[i] < 0 ? 0x8000 : 0));
                    if (bytes == 2)
                        rows = h;
                    if (is_narrow) {
                        now.narrow_bf16(xh, x, nt * k);
                        x2 = xh;
                    }
                    sp_gemm_f_args g = {o1, ld, rows, x, k, nr, nt, k, false};
                    ref.gemm_f[types[it].type](&g);
                    g.out = o2, g.x = x2;
                    now.gemm_f[types[it].type](&g);
                    for (size_t i = 0; i < nt * ld; i++) {
                        size_t r = i % ld, t = i / ld;
                        if (r >= nr) {
                            assert_memory_equal(&o1[i], &o2[i], 4);
                            continue;
                        }
                        near(o2[i], o1[i], 9.0 * (double)k, is_narrow ? TOL_BF16 : TOL_GEMM);
                        const sp_gemm_f_args alone = {&one, 1, (char *)rows + r * k * bytes, (char *)x2 + t * k * (is_narrow ? 2 : 4), k, 1, 1, k, false};
                        now.gemm_f[types[it].type](&alone);
                        assert_memory_equal(&one, &o2[i], 4);
                    }
                    void *const all[] = {w, x, o1, o2, h, xh};
                    for (size_t i = 0; i < 6; i++)
                        sp_mem_free(all[i]);
                }
            }
        }
    }
}

static void check_rows(void **state)
{
    (void)state;
    uint64_t s = 5;
    for (size_t n = 1; n < 100; n += 7) {
        float *x = floats(&s, n), *w = floats(&s, n), *a = buf(n * 4 + 64), *b = buf(n * 4 + 64);
        ref.norm_rms(a, x, w, n, 1e-5f);
        now.norm_rms(b, x, w, n, 1e-5f);
        for (size_t i = 0; i < n; i++)
            near(b[i], a[i], fabs((double)a[i]) + 1e-3, TOL_NORM);
        for (size_t i = 0; i < n; i++)
            x[i] *= i % 5 == 0 ? 60.0f : 1.0f; /* saturated gates too */
        for (int act = SP_ACT_SILU; act < SP_ACTS; act++) {
            bool clamps = act == SP_ACT_CLAMPED, squares = act == SP_ACT_RELU2;
            for (int alone = 0; alone < (clamps ? 1 : 2); alone++) {
                ref.glu[act](a, x, alone ? NULL : w, n);
                now.glu[act](b, x, alone ? NULL : w, n);
                for (size_t i = 0; i < n; i++) {
                    double up = alone ? 1 : (double)w[i] + clamps, by = act == SP_ACT_SIGMOID ? 1 : fabs((double)x[i]);
                    near(b[i], a[i], by * (squares ? by : 1) * fabs(up) + 1e-6, act == SP_ACT_GELU_ERF ? TOL_GELU : TOL_SILU);
                }
                assert_memory_equal(a + n, b + n, 64);
            }
        }
        memcpy(a, x, n * 4), memcpy(b, x, n * 4);
        ref.soft_cap(a, n, 2.0f, 30.0f);
        now.soft_cap(b, n, 2.0f, 30.0f);
        for (size_t i = 0; i < n; i++)
            near(b[i], a[i], 30, TOL_SILU);
        assert_memory_equal(a + n, b + n, 64);
        memcpy(a, x, n * 4), memcpy(b, x, n * 4);
        ref.turn_halves(a, w, n / 2);
        now.turn_halves(b, w, n / 2);
        for (size_t i = 0; i < n; i++)
            near(b[i], a[i], 120, TOL_SILU);
        assert_memory_equal(a + n, b + n, 64);
        const float *in[3] = {x, w, x};
        ref.mul(a, x, w, n);
        now.mul(b, x, w, n);
        assert_memory_equal(a, b, n * 4 + 64);
        for (size_t taps = 1; taps <= 3 && n >= 3; taps++) {
            ref.conv(a, in, w, n / 3, taps == 2 ? NULL : x, taps, n / 3);
            now.conv(b, in, w, n / 3, taps == 2 ? NULL : x, taps, n / 3);
            for (size_t i = 0; i < n / 3; i++)
                near(b[i], a[i], 60 * 4, TOL_SILU);
            assert_memory_equal(a + n, b + n, 64);
        }
        memcpy(a, x, n * 4), memcpy(b, x, n * 4);
        ref.add(a, w, n);
        now.add(b, w, n);
        assert_memory_equal(a, b, n * 4 + 64);
        ref.norm_layer(a, x, w, w, n, 1e-12f);
        now.norm_layer(b, x, w, w, n, 1e-12f);
        for (size_t i = 0; i < n && n > 1; i++)
            near(b[i], a[i], 4, TOL_NORM);
        assert_memory_equal(a + n, b + n, 64);
        sp_mem_free(x), sp_mem_free(w), sp_mem_free(a), sp_mem_free(b);
    }
}

/* Integers: equal to a sum in 64 bits, at the extremes too. */
/* The delta rule in another order of sums; in two pieces the same bits as in one. */
static void check_delta(void **state)
{
    (void)state;
    enum { N = 7, C = SP_DELTA_COLS, LD = C + 5 };
    static const size_t size[] = {16, 32, 80, 128};
    uint64_t s = 9;
    for (size_t i = 0; i < sizeof size / sizeof size[0]; i++) {
        size_t d = size[i];
        float *q = floats(&s, N * d), *k = floats(&s, N * d), *v = floats(&s, N * LD), *gate = floats(&s, 2 * N), *from = floats(&s, d * C);
        float *unit = buf(d * sizeof *unit), *out[3], *is[3];
        for (size_t j = 0; j < d; j++)
            unit[j] = 1.0f / sqrtf((float)d);
        for (size_t t = 0; t < N; t++) {
            ref.norm_rms(q + t * d, q + t * d, unit, d, 1e-6f);
            ref.norm_rms(k + t * d, k + t * d, unit, d, 1e-6f);
        }
        ref.glu[SP_ACT_SIGMOID](gate, gate, NULL, 2 * N);
        for (int w = 0; w < 3; w++) {
            size_t cut = w == 2 ? 3 : N;
            out[w] = buf(N * LD * sizeof(float)), is[w] = buf(d * C * sizeof(float));
            memcpy(is[w], from, d * C * sizeof(float));
            for (size_t t = 0; t < N; t += cut, cut = N - t) {
                const sp_delta_args a = {.out = out[w] + t * LD, .ld_out = LD, .state = is[w], .q = q + t * d, .k = k + t * d, .v = v + t * LD,
                                         .ld_v = LD, .decay = gate + t, .beta = gate + N + t, .n = cut, .d_k = d};
                (w ? now : ref).delta(&a);
            }
        }
        for (size_t t = 0; t < N; t++)
            for (size_t c = 0; c < C; c++)
                near(out[1][t * LD + c], out[0][t * LD + c], 10, TOL_DELTA);
        for (size_t j = 0; j < d * C; j++)
            near(is[1][j], is[0][j], 10, TOL_DELTA);
        assert_memory_equal(out[1], out[2], N * LD * sizeof(float));
        assert_memory_equal(is[1], is[2], d * C * sizeof(float));
        for (int w = 0; w < 3; w++)
            sp_mem_free(out[w]), sp_mem_free(is[w]);
        sp_mem_free(q), sp_mem_free(k), sp_mem_free(v), sp_mem_free(gate), sp_mem_free(from), sp_mem_free(unit);
    }
}

/* A state space in another order of sums; in pieces of any size the same bits as in one. */
static void check_ssm(void **state)
{
    (void)state;
    enum { N = 11, C = SP_DELTA_COLS, LD_OUT = C + 3 };
    static const size_t size[] = {16, 32, 80, 128}, piece[] = {N, N, 1, 2, 5, 7};
    enum { WAYS = sizeof piece / sizeof piece[0] };
    uint64_t s = 10;
    for (size_t i = 0; i < sizeof size / sizeof size[0]; i++) {
        size_t d = size[i], ld = C + 2 * d + 1;
        float *x = floats(&s, N * ld), *gate = floats(&s, 2 * N), *from = floats(&s, d * C), *out[WAYS], *is[WAYS];
        ref.glu[SP_ACT_SIGMOID](gate, gate, NULL, 2 * N);
        for (size_t w = 0; w < WAYS; w++) {
            out[w] = buf(N * LD_OUT * sizeof(float)), is[w] = buf(d * C * sizeof(float));
            memcpy(is[w], from, d * C * sizeof(float));
            for (size_t t = 0, n; t < N; t += n) {
                n = N - t < piece[w] ? N - t : piece[w];
                const sp_ssm_args a = {.out = out[w] + t * LD_OUT, .ld_out = LD_OUT, .state = is[w], .b = x + t * ld + C,
                                       .c = x + t * ld + C + d, .x = x + t * ld, .ld = ld, .decay = gate + t, .step = gate + N + t,
                                       .skip = 0.7f, .n = n, .d = d};
                (w ? now : ref).ssm(&a);
            }
        }
        for (size_t t = 0; t < N; t++)
            for (size_t c = 0; c < C; c++)
                near(out[1][t * LD_OUT + c], out[0][t * LD_OUT + c], 10 * (double)d, TOL_DELTA);
        for (size_t j = 0; j < d * C; j++)
            near(is[1][j], is[0][j], 10, TOL_DELTA);
        for (size_t w = 2; w < WAYS; w++) {
            assert_memory_equal(out[1], out[w], N * LD_OUT * sizeof(float));
            assert_memory_equal(is[1], is[w], d * C * sizeof(float));
        }
        for (size_t w = 0; w < WAYS; w++)
            sp_mem_free(out[w]), sp_mem_free(is[w]);
        sp_mem_free(x), sp_mem_free(gate), sp_mem_free(from);
    }
}

static void check_dot(void **state)
{
    (void)state;
    uint64_t s = 12;
    static const size_t ns[] = {1, 31, 64, 100, 384, 65536};
    enum { ROWS = 5 };
    for (size_t in = 0; in < sizeof ns / sizeof ns[0]; in++) {
        size_t n = ns[in];
        int8_t *q = buf(n), *rows = buf(ROWS * n);
        int32_t out[ROWS + 1] = {[ROWS] = 0x5a5a5a5a};
        for (size_t i = 0; i < n; i++)
            q[i] = (int8_t)test_rand(&s);
        for (size_t i = 0; i < ROWS * n; i++)
            rows[i] = i < n ? -128 : (int8_t)test_rand(&s);
        if (in % 2)
            memset(q, -128, n);
        now.dot_i8(out, q, rows, ROWS, n);
        for (size_t r = 0; r < ROWS; r++) {
            int64_t want = 0;
            for (size_t i = 0; i < n; i++)
                want += q[i] * rows[r * n + i];
            assert_int_equal(out[r], want);
        }
        assert_int_equal(out[ROWS], 0x5a5a5a5a);
        sp_mem_free(q), sp_mem_free(rows);
    }
}

/* Page 0: all see all; 1: from none to all of its first keys; 2: of its last keys; 3: from a to b, some nothing. */
static void see_some(uint16_t *from, uint16_t *to, size_t page, size_t i)
{
    *to = (uint16_t)(page == 1 || page == 3 ? (i * 13 + page) % 33 : 32);
    *from = (uint16_t)(page >= 2 ? (i * 7 + page) % 33 : 0);
}

static void check_attn(void **state)
{
    (void)state;
    uint64_t s = 6;
    static const size_t ds[] = {16, 64, 96, 112, 128, 192, 256};
    for (size_t id = 0; id < 7; id++) {
        for (size_t nq = 1; nq < 10; nq++) {
            size_t d = ds[id];
            float cap = nq % 2 ? 0 : 3.0f;
            float *q = floats(&s, nq * d), *a1 = buf(nq * d * 4), *a2 = buf(nq * d * 4), *o = buf(d * 4);
            float m1[16], m2[16], s1[16], s2[16], mo, so;
            uint16_t from[4][16], to[4][16];
            float *kt[4], *v[4];
            memset(a1, 0, nq * d * 4), memset(a2, 0, nq * d * 4), memset(o, 0, d * 4);
            for (size_t i = 0; i < nq; i++) {
                m1[i] = m2[i] = -INFINITY;
                s1[i] = s2[i] = 0;
            }
            mo = -INFINITY, so = 0;
            for (size_t p = 0; p < 4; p++) {
                kt[p] = floats(&s, d * 32), v[p] = floats(&s, d * 32);
                for (size_t i = 0; i < nq; i++)
                    see_some(&from[p][i], &to[p][i], p, i);
                const sp_attn_see see = {from[p], to[p], cap}, last = {&from[p][nq - 1], &to[p][nq - 1], cap};
                ref.attn_page(a1, m1, s1, q, kt[p], v[p], &see, nq, d);
                now.attn_page(a2, m2, s2, q, kt[p], v[p], &see, nq, d);
                now.attn_page(o, &mo, &so, q + (nq - 1) * d, kt[p], v[p], &last, 1, d);
            }
            for (size_t i = 0; i < nq * d; i++)
                near(a2[i] / s2[i / d], a1[i] / s1[i / d], 3.0 * (double)d, TOL_ATTN);
            assert_memory_equal(o, a2 + (nq - 1) * d, d * 4); /* alone as in company */
            for (size_t p = 0; p < 4; p++)
                sp_mem_free(kt[p]), sp_mem_free(v[p]);
            sp_mem_free(q), sp_mem_free(a1), sp_mem_free(a2), sp_mem_free(o);
        }
    }
}

static void check_rotate(void **state)
{
    (void)state;
    uint64_t s = 7;
    static const size_t ds[] = {16, 48, 64, 80, 96, 112, 128, 192, 256, 512, 576};
    for (size_t id = 0; id < 11; id++) {
        size_t d = ds[id];
        float *x = floats(&s, d), *y = floats(&s, d), *a = buf(d * 4 + 64), *b = buf(d * 4);
        double dot = 0, turned = 0;
        now.rotate(a, x, 0.5f, d, false), ref.rotate(b, x, 0.5f, d, false);
        for (size_t i = 0; i < d; i++) {
            assert_true(a[i] == b[i]); /* the order of additions is part of the rule */
            dot += (double)x[i] * (double)y[i];
        }
        assert_int_equal(((uint8_t *)a)[d * 4], POISON);
        now.rotate(y, y, 2, d, false);
        for (size_t i = 0; i < d; i++)
            turned += (double)a[i] * (double)y[i];
        near((float)turned, (float)dot, 9.0 * (double)d, TOL_ROT);
        ref.rotate(b, a, 2, d, true);
        now.rotate(a, a, 2, d, true);
        for (size_t i = 0; i < d; i++) {
            assert_true(a[i] == b[i]);
            near(a[i], x[i], 3 * sqrt((double)d), TOL_ROT);
        }
        sp_mem_free(x), sp_mem_free(y), sp_mem_free(a), sp_mem_free(b);
    }
}

/* A full f16 page with what keys look like: a common part, outliers, now and then zeros or tiny ones. */
static sp_f16 *random_page(uint64_t *s, size_t d)
{
    sp_f16 *p = buf(2 * d * 32 * sizeof *p);
    float scale = test_rand(s) % 5 == 0 ? 1e-7f : 1.0f;
    for (size_t i = 0; i < d; i++) {
        float common = test_float(s) * 4;
        for (size_t j = 0; j < 32; j++) {
            float r = test_float(s) * (test_rand(s) % 50 ? 1.0f : 8.0f);
            p[i * 32 + j] = sp_f16_from_f32(test_rand(s) % 400 ? (common + r) * scale : 0);
            p[d * 32 + j * d + i] = sp_f16_from_f32(test_float(s) * scale);
        }
    }
    return p;
}

typedef struct page_mem {
    void *hi, *lo;
    sp_planes full, demoted;
} page_mem;

static page_mem new_planes(size_t d)
{
    page_mem m = {buf(sp_planes_hi_bytes(d)), buf(sp_planes_lo_bytes(d)), {0}, {0}};
    m.full = sp_planes_at(m.hi, m.lo, d);
    m.demoted = sp_planes_at(m.hi, NULL, d);
    return m;
}

/* Quantising equals the reference bit by bit; a page written without lo planes equals one whose lo
 * planes were dropped; reading back is within half a step. */
static void check_planes(void **state)
{
    (void)state;
    uint64_t s = 8;
    static const size_t ds[] = {16, 48, 64, 80, 96, 112, 128, 192, 256};
    for (size_t id = 0; id < 9; id++) {
        for (size_t round = 0; round < 20; round++) {
            size_t d = ds[id], hi = sp_planes_hi_bytes(d), lo = sp_planes_lo_bytes(d);
            sp_f16 *page = random_page(&s, d);
            page_mem a = new_planes(d), b = new_planes(d), c = new_planes(d);
            ref.planes_put(&a.full, page, page + d * 32, d);
            now.planes_put(&b.full, page, page + d * 32, d);
            now.planes_put(&c.demoted, page, page + d * 32, d);
            assert_memory_equal(a.hi, b.hi, hi);
            assert_memory_equal(a.lo, b.lo, lo);
            assert_memory_equal(a.hi, c.hi, hi);
            float *k1 = buf(d * 128), *v1 = buf(d * 128), *k2 = buf(d * 128), *v2 = buf(d * 128);
            for (int demoted = 0; demoted < 2; demoted++) {
                ref.planes_get(k1, v1, demoted ? &a.demoted : &a.full, d);
                now.planes_get(k2, v2, demoted ? &a.demoted : &a.full, d);
                for (size_t i = 0; i < d * 32; i++) {
                    double step = sp_f16_to_f32(a.full.k_scale[i % 32]), step_v = sp_f16_to_f32(a.full.v_scale[i / d]);
                    double most = demoted ? 8.01 : 0.501;
                    near(k2[i], k1[i], fabs((double)k1[i]) + 128 * step, 1e-6);
                    assert_true(v1[i] == v2[i]);
                    assert_true(fabs((double)k1[i] - (double)sp_f16_to_f32(page[i])) <= most * step + 1e-6 * fabs((double)k1[i]));
                    assert_true(fabs((double)v1[i] - (double)sp_f16_to_f32(page[d * 32 + i])) <= most * step_v);
                }
            }
            void *const all[] = {page, a.hi, a.lo, b.hi, b.lo, c.hi, c.lo, k1, v1, k2, v2};
            for (size_t i = 0; i < 11; i++)
                sp_mem_free(all[i]);
        }
    }
}

/* T1 of the certificate: what the hi plane leaves of a score is bounded for each token, and for all of a
 * page together, 10^7 times. */
static void check_bounds(void **state)
{
    (void)state;
    uint64_t s = 9;
    const size_t d = 64, n_page = now.isa == ref.isa ? 150 : 500;
    static float kt[64 * 32], v[64 * 32], kh[64 * 32], q[625 * 64];
    page_mem m = new_planes(d);
    for (size_t i = 0; i < 625 * d; i++)
        q[i] = test_float(&s) * (i / d % 7 == 0 ? 1e-20f : 5.0f) + (i % d == 3 ? 20.0f : 0);
    for (size_t p = 0; p < n_page; p++) {
        sp_f16 *page = random_page(&s, d);
        now.planes_put(&m.full, page, page + d * 32, d);
        ref.planes_get(kt, v, &m.full, d);
        ref.planes_get(kh, v, &m.demoted, d);
        const sp_planes_bound *b = m.full.bound;
        for (size_t t = 0; t < 625; t++) {
            double norm = 0, gap[32] = {0}, all = 0;
            for (size_t i = 0; i < d; i++) {
                norm += (double)q[t * d + i] * (double)q[t * d + i];
                for (size_t j = 0; j < 32; j++)
                    gap[j] += (double)q[t * d + i] * ((double)kt[i * 32 + j] - (double)kh[i * 32 + j]);
            }
            norm = sqrt(norm);
            for (size_t j = 0; j < 32; j++) {
                double scale = sp_f16_to_f32(m.full.k_scale[j]);
                /* reading kt and kh back rounds to f32 once each */
                if (!(fabs(gap[j]) <= norm * (scale * (double)b->err + 1e-5)))
                    fail_msg("score moved by %g, bound %g", gap[j], norm * scale * (double)b->err);
                all += scale > 1e-3 ? gap[j] / scale * gap[j] / scale : 0;
            }
            if (!(sqrt(all) <= norm * (double)b->spec * (1 + 1e-3)))
                fail_msg("page moved by %g, bound %g", sqrt(all), norm * (double)b->spec);
        }
        /* The bound is met: the page's own residuals reach most of it. */
        assert_true(b->spec >= b->err * 0.999f && (double)b->spec <= (double)b->err * sqrt(32.0) * 1.12);
        sp_mem_free(page);
    }
    sp_mem_free(m.hi), sp_mem_free(m.lo);
}

/* What a page adds to a query of the reference: keys before `from` of all pages are not seen. */
static uint16_t seen_from(uint16_t from, size_t page)
{
    return (uint16_t)(from <= page * 32 ? 0 : from - page * 32 < 32 ? from - page * 32 : 32);
}

/* 8-bit attention over pages: near the reference in f32, and the same bits for a query alone (few)
 * and among 40 (many), and with a cut that cuts nothing. rule: 1 some keys are not seen, 2 a cap. */
static void check_attn_planes_of(uint64_t *s, size_t d, bool demoted, int rule)
{
    enum { N_Q = 40, N_PAGE = 5 };
    page_mem m[N_PAGE];
    sp_planes page[N_PAGE];
    float *q = floats(s, N_Q * d), *a1 = buf(N_Q * d * 4), *a2 = buf(N_Q * d * 4), *a3 = buf(N_Q * d * 4);
    float m1[N_Q], m2[N_Q], m3[N_Q], s1[N_Q], s2[N_Q], s3[N_Q], least[N_Q], drop[N_Q], *kt = buf(d * 128), *v = buf(d * 128);
    uint16_t from[N_Q], here[N_Q];
    void *prep = buf(sp_attn_prep_bytes(N_Q, d)), *scratch = buf(sp_attn_scratch_bytes(N_Q, d));
    const sp_attn_see see = {.from = rule & 1 ? from : NULL, .cap = rule & 2 ? 2.5f : 0};
    for (size_t i = 0; i < N_Q * d; i++)
        q[i] *= 1.0f / sqrtf((float)d);
    memset(a1, 0, N_Q * d * 4);
    for (size_t i = 0; i < N_Q; i++) {
        m1[i] = -INFINITY;
        least[i] = -INFINITY;
        s1[i] = 0;
        from[i] = (uint16_t)(i < 4 ? 31 + i : i % 3 == 0 ? 0 : test_rand(s) % (32 * N_PAGE));
    }
    for (size_t p = 0; p < N_PAGE; p++) {
        sp_f16 *raw = random_page(s, d);
        const sp_attn_see of = {.from = rule & 1 ? here : NULL, .cap = see.cap};
        for (size_t i = 0; i < N_Q; i++)
            here[i] = seen_from(from[i], p);
        m[p] = new_planes(d);
        ref.planes_put(&m[p].full, raw, raw + d * 32, d);
        page[p] = demoted ? m[p].demoted : m[p].full;
        ref.planes_get(kt, v, &page[p], d);
        ref.attn_page(a1, m1, s1, q, kt, v, &of, N_Q, d);
        sp_mem_free(raw);
    }
    now.attn_prep(prep, q, N_Q, d);
    now.attn_planes(a2, m2, s2, &(sp_attn_pages){prep, page, N_PAGE, N_Q, d, see, NULL, scratch});
    for (size_t i = 0; i < N_Q * d; i++)
        near(a2[i] / s2[i / d], a1[i] / s1[i / d], 1, TOL_ATTN8);
    if (same.isa) {
        same.attn_prep(prep, q, N_Q, d);
        same.attn_planes(a3, m3, s3, &(sp_attn_pages){prep, page, N_PAGE, N_Q, d, see, NULL, scratch});
        assert_memory_equal(a3, a2, N_Q * d * 4);
        assert_memory_equal(m3, m2, sizeof m2);
        assert_memory_equal(s3, s2, sizeof s2);
    }
    sp_cut cut = {.least = least, .drop = drop};
    now.attn_planes(a3, m3, s3, &(sp_attn_pages){prep, page, N_PAGE, N_Q, d, see, &cut, scratch});
    assert_memory_equal(a3, a2, N_Q * d * 4);
    assert_memory_equal(s3, s2, sizeof s2);
    for (size_t at = 0; at < N_Q; at += 5) { /* 1 to 5 queries at a time */
        size_t n = at / 5 % 5 + 1;
        const sp_attn_see some = {.from = rule & 1 ? from + at : NULL, .cap = see.cap};
        now.attn_prep(prep, q + at * d, n, d);
        now.attn_planes(a3, m3, s3, &(sp_attn_pages){prep, page, N_PAGE, n, d, some, NULL, scratch});
        assert_memory_equal(a3, a2 + at * d, n * d * 4);
        assert_memory_equal(m3, m2 + at, n * 4);
        assert_memory_equal(s3, s2 + at, n * 4);
    }
    for (size_t p = 0; p < N_PAGE; p++)
        sp_mem_free(m[p].hi), sp_mem_free(m[p].lo);
    void *const all[] = {q, a1, a2, a3, kt, v, prep, scratch};
    for (size_t i = 0; i < 8; i++)
        sp_mem_free(all[i]);
}

static void check_attn_planes(void **state)
{
    (void)state;
    uint64_t s = 10;
    static const size_t ds[] = {16, 64, 80, 96, 112, 128, 192, 256};
    for (size_t id = 0; id < 8 && now.attn_planes; id++)
        for (int way = 0; way < 8; way++)
            check_attn_planes_of(&s, ds[id], way & 1, way >> 1);
}

/* The cap of every ISA, on all that scores can be: also as the certificate needs it, never larger than what it caps. */
static void check_cap(void **state)
{
    (void)state;
    uint64_t s = 31;
    float *kt = buf(16 * 128), *v = buf(16 * 128), q[16] = {1}, acc[16];
    for (size_t round = 0; round < 400; round++) {
        float cap = round % 3 == 0 ? 72 : round % 3 == 1 ? 1 : 1000, max = -INFINITY, sum = 0;
        const uint16_t from = 0, to = 1; /* one key alone: max is its capped score */
        const sp_attn_see see = {&from, &to, cap};
        memset(kt, 0, 16 * 128), memset(v, 0, 16 * 128), memset(acc, 0, sizeof acc);
        kt[0] = round == 0 ? 0 : round == 3 ? 3e38f : round == 6 ? -3e38f : test_float(&s) * cap * (round % 5 ? 10 : 0.1f);
        now.attn_page(acc, &max, &sum, q, kt, v, &see, 1, 16);
        double want = (double)cap * tanh((double)kt[0] / (double)cap);
        near(max, (float)want, fabs(want), 6e-7);
        assert_true(fabs((double)max) <= fabs((double)kt[0]) * (1 + 6e-7));
    }
    sp_mem_free(kt), sp_mem_free(v);
}

/* What a certificate is made of, against f64: T1, T2, T4, T5. */
typedef struct cert_case {
    size_t d, n_q, n_page;
    float cap;
    float *q;
    double *score; /* [n_q][512], element order, bits; as the level computes them: see seen() */
    sp_planes page[SP_PART_PAGES];
    page_mem mem[SP_PART_PAGES];
} cert_case;

/* The query that scores are made of: rounded to 8 bits where attention is. */
static double seen(const cert_case *c, size_t t, size_t i)
{
    const float *q = c->q + t * c->d;
    float top = 0;
    for (size_t e = 0; e < c->d; e++)
        top = fmaxf(top, fabsf(q[e]));
    return now.attn_planes && top > 0 ? (double)nearbyintf(q[i] * (127.0f / top)) * (double)(top / 127.0f) : (double)q[i];
}

enum { RANDOM, NEEDLE, FAR };

static void make_case(cert_case *c, uint64_t *s, size_t d, size_t n_q, size_t n_page, int kind, float cap)
{
    float *kt = buf(d * 128), *v = buf(d * 128);
    *c = (cert_case){.d = d, .n_q = n_q, .n_page = n_page, .cap = cap, .q = floats(s, n_q * d), .score = buf(n_q * SP_PART_TOK * 8)};
    float size = (float)(1 + test_rand(s) % 8) / (float)d; /* scores to some hundred bits: f32 carries them */
    for (size_t i = 0; i < n_q * d; i++)
        c->q[i] *= size;
    for (size_t i = 0; i < n_q * SP_PART_TOK; i++)
        c->score[i] = -INFINITY;
    for (size_t g = 0; g < n_page; g++) {
        sp_f16 *raw = random_page(s, d);
        for (size_t i = 0; kind == FAR && g == 0 && i < d; i++) /* one key some ten bits above all others */
            raw[i * 32 + 7] = sp_f16_from_f32((c->q[i] > 0 ? 1.0f : -1.0f) * 40 / (size * (float)d));
        if (kind == NEEDLE) /* tiny keys, and one that is half hidden behind its quantisation error */
            for (size_t i = 0; i < d * 32; i++)
                raw[i] = sp_f16_from_f32(i % 32 == 7 ? (c->q[i / 32] > 0 ? 1.0f : -1.0f) * (float)(g + 1) : 1e-3f * test_float(s));
        c->mem[g] = new_planes(d);
        c->page[g] = c->mem[g].full;
        now.planes_put(&c->page[g], raw, raw + d * 32, d);
        ref.planes_get(kt, v, &c->page[g], d);
        for (size_t t = 0; t < n_q; t++) {
            double mean = 0, x[SP_PAGE_TOK] = {0};
            for (size_t i = 0; i < d; i++) {
                double m = sp_f16_to_f32(c->page[g].k_mean[i]), qi = seen(c, t, i);
                mean += (double)c->q[t * d + i] * m;
                for (size_t j = 0; j < SP_PAGE_TOK; j++)
                    x[j] += qi * ((double)kt[i * 32 + j] - m);
            }
            for (size_t j = 0; j < SP_PAGE_TOK; j++)
                c->score[t * SP_PART_TOK + j * SP_PART_PAGES + g] = cap > 0 ? (double)cap * tanh((mean + x[j]) / (double)cap) : mean + x[j];
        }
        sp_mem_free(raw);
    }
    sp_mem_free(kt), sp_mem_free(v);
}

static void drop_case(cert_case *c)
{
    for (size_t g = 0; g < c->n_page; g++)
        sp_mem_free(c->mem[g].hi), sp_mem_free(c->mem[g].lo);
    sp_mem_free(c->q), sp_mem_free(c->score);
}

static void check_cut(const cert_case *c, const sp_scan *scan, const void *prep, const float *z, float cut, float *last, void *scratch)
{
    static uint16_t at[SP_PART_TOK + SP_PAGE_TOK];
    static float acc[SP_FEW * 256];
    float left[SP_FEW], plain[SP_FEW], max[SP_FEW], sum[SP_FEW];
    bool kept[SP_PART_TOK] = {false};
    size_t n_pair, n = now.attn_pick(at, &n_pair, scan, z, cut, 0, c->n_q);
    now.attn_tail(left, plain, scan, z, cut, 0, c->n_q);
    now.attn_rows(acc, max, sum, scan, c->q, prep, c->page, at, n, c->n_q, c->d, scratch);
    assert_true(n <= c->n_page * SP_PAGE_TOK && n_pair <= n && n <= 2 * n_pair);
    for (size_t i = 0; i < n; i++)
        kept[at[i]] = true;
    for (size_t t = 0; t < c->n_q; t++) {
        double dropped = 0, have = 0, top = (double)scan->max[t];
        const double *score = c->score + t * SP_PART_TOK;
        for (size_t i = 0; i < SP_PART_TOK; i++)
            *(kept[i] ? &have : &dropped) += exp2(score[i] - top);
        if (!((double)left[t] >= dropped))
            fail_msg("d %zu query %zu cut %g: %g is left out, bound %g", c->d, t, (double)cut, dropped, (double)left[t]);
        assert_true(left[t] >= last[t]); /* a larger cut leaves out more */
        last[t] = left[t];
        if (n)
            assert_true(fabs((double)sum[t] * exp2((double)max[t] - top) - have) <= (2e-5 + 4e-7 * fabs(top)) * have + 1e-30);
    }
}

static void check_certified(void **state)
{
    (void)state;
    static const size_t ds[] = {64, 96, 128, 256, 48, 16, 112, 192};
    uint64_t s = 21;
    if (!now.attn_scan)
        return;
    for (size_t round = 0; round < 120; round++) {
        cert_case c;
        make_case(&c, &s, ds[round % 8], 1 + test_rand(&s) % SP_FEW, 1 + test_rand(&s) % SP_PART_PAGES, (int)(round % 5 == 4 ? NEEDLE : round % 5 == 3 ? FAR : RANDOM),
                  round % 4 == 1 ? 3.0f : round % 4 == 3 ? 60.0f : 0);
        void *mem = buf(sp_scan_bytes(c.n_q, c.cap)), *prep = buf(sp_attn_prep_bytes(c.n_q, c.d)), *scratch = buf(c.d * 256);
        sp_scan scan = sp_scan_at(mem, c.n_q, c.cap);
        float norm[SP_FEW] = {0}, z[SP_FEW], last[SP_FEW] = {0};
        for (size_t t = 0; t < c.n_q; t++) {
            double n = 0, plain = 0, top = 0; /* the norm as the device bounds it, which holds for the rounded query */
            for (size_t i = 0; i < c.d; i++) {
                double x = (double)c.q[t * c.d + i];
                n += seen(&c, t, i) * seen(&c, t, i);
                plain += x * x;
                top = fmax(top, fabs(x));
            }
            norm[t] = (float)(sqrt(plain) + (now.attn_prep ? 0.5 * sqrt((double)c.d) * top / 127 : 0)) * SP_ERR_UP;
            assert_true((double)norm[t] >= sqrt(n));
            z[t] = 0.5f + (float)t;
        }
        if (now.attn_prep)
            now.attn_prep(prep, c.q, c.n_q, c.d);
        now.attn_scan(&scan, c.q, prep, c.page, c.n_page, c.n_q, c.d);
        now.attn_mass(&scan, norm, c.page, c.n_page, c.n_q);
        for (float cut = 1e-9f; cut < 64; cut *= 4)
            check_cut(&c, &scan, prep, z, cut, last, scratch);
        sp_mem_free(mem), sp_mem_free(prep), sp_mem_free(scratch);
        drop_case(&c);
    }
}

/* Two parts joined are the whole. */
static void check_join(void **state)
{
    (void)state;
    uint64_t s = 11;
    size_t n_q = 5, d = 48;
    float *q = floats(&s, n_q * d), *k1 = floats(&s, d * 32), *k2 = floats(&s, d * 32), *v1 = floats(&s, d * 32), *v2 = floats(&s, d * 32);
    float *a = buf(n_q * d * 4), *b = buf(n_q * d * 4), *c = buf(n_q * d * 4), ma[5], mb[5], mc[5], sa[5], sb[5], sc[5];
    const uint16_t some[5] = {1, 0, 17, 32, 5};
    const sp_attn_see all = {0}, few = {.to = some};
    memset(a, 0, n_q * d * 4), memset(b, 0, n_q * d * 4), memset(c, 0, n_q * d * 4);
    for (size_t i = 0; i < n_q; i++) {
        ma[i] = mb[i] = mc[i] = -INFINITY;
        sa[i] = sb[i] = sc[i] = 0;
    }
    ref.attn_page(a, ma, sa, q, k1, v1, &all, n_q, d);
    ref.attn_page(a, ma, sa, q, k2, v2, &few, n_q, d);
    now.attn_page(b, mb, sb, q, k1, v1, &all, n_q, d);
    now.attn_page(c, mc, sc, q, k2, v2, &few, n_q, d);
    now.attn_join(b, mb, sb, c, mc, sc, n_q, d);
    for (size_t i = 0; i < n_q * d; i++)
        near(b[i] / sb[i / d], a[i] / sa[i / d], 9.0, TOL_ATTN);
    void *const mem[] = {q, k1, k2, v1, v2, a, b, c};
    for (size_t i = 0; i < 8; i++)
        sp_mem_free(mem[i]);
}

/* `test_kern --bench`: one thread, operands in cache, in % of the level's own multiply-add peak. */
typedef struct kern_bench {
    sp_type type;
    sp_gemm_args q;
    sp_gemm_f_args f;
    float *acc, *max, *sum;
    void *prep, *scratch;
    sp_planes page[16];
    sp_scan scan;
    uint16_t tok[SP_PART_TOK + SP_PAGE_TOK];
    const float *x;
    size_t n_q, d;
    float cap;
} kern_bench;

static void bench_gemm(kern_bench *b)
{
    if (sp_pack_is(b->type))
        sp_kern_gemm_q(&now, b->type, &b->q);
    else
        now.gemm_f[b->type](&b->f);
}

static void bench_attn(kern_bench *b)
{
    now.attn_planes(b->acc, b->max, b->sum, &(sp_attn_pages){b->prep, b->page, 16, b->n_q, b->d, {.cap = b->cap}, NULL, b->scratch});
}

/* The way of levels without attn_planes: pages read back as f32. */
static void bench_f32(kern_bench *b)
{
    static float kt[256 * 32], v[256 * 32];
    for (size_t g = 0; g < 16; g++) {
        now.planes_get(kt, v, &b->page[g], b->d);
        now.attn_page(b->acc, b->max, b->sum, b->x, kt, v, &(sp_attn_see){.cap = b->cap}, b->n_q, b->d);
    }
}

static void bench_scan(kern_bench *b)
{
    now.attn_scan(&b->scan, b->x, b->prep, b->page, 16, b->n_q, b->d);
}

static void bench_mass(kern_bench *b)
{
    static const float norm[SP_FEW] = {1, 1, 1, 1, 1, 1, 1, 1};
    now.attn_mass(&b->scan, norm, b->page, 16, b->n_q);
}

static void bench_tail(kern_bench *b)
{
    static const float z[SP_FEW] = {1, 1, 1, 1, 1, 1, 1, 1};
    float plain[SP_FEW];
    now.attn_tail(b->sum, plain, &b->scan, z, 1e-4f, 0, b->n_q);
}

static void bench_rows(kern_bench *b)
{
    now.attn_rows(b->acc, b->max, b->sum, &b->scan, b->x, b->prep, b->page, b->tok, 128, b->n_q, b->d, b->scratch);
}

/* Of this thread alone: others on the machine change less. */
static double thread_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void bench_one(const char *name, size_t n, void (*fn)(kern_bench *), kern_bench *b, double macs, double peak)
{
    uint64_t rounds = 0;
    fn(b);
    double start = thread_seconds(), seconds;
    for (; (seconds = thread_seconds() - start) < 0.03; rounds++)
        fn(b);
    double rate = macs * (double)rounds / seconds;
    printf("%-10s %-10s %3zu %9.1f GMAC/s %5.1f %%\n", now.isa, name, n, rate * 1e-9, 100 * rate / peak);
}

static void bench_level(void)
{
    static const sp_type types[] = {SP_Q4_0, SP_Q4_1, SP_Q8_0, SP_Q2_K, SP_Q3_K, SP_Q4_K, SP_Q5_K, SP_Q6_K,
                                    SP_IQ4_XS, SP_MXFP4, SP_NVFP4, SP_TQ1_0, SP_IQ1_S, SP_IQ1_M, SP_IQ2_XXS, SP_IQ2_XS,
                                    SP_IQ2_S, SP_IQ3_XXS, SP_IQ3_S, SP_F32, SP_F16, SP_BF16};
    static const size_t toks[] = {1, 8, 48};
    enum { K = 2048, ROWS = 64, TOKS = 48, D = 64 };
    uint64_t s = 12;
    uint32_t sink;
    double start = thread_seconds(), peak = (double)now.int_peak(2000000, &sink) / (thread_seconds() - start);
    float *x = floats(&s, TOKS * K), *out = buf(TOKS * ROWS * 4);
    void *rows = buf(ROWS * K * 4), *w = buf(ROWS * K * 4), *scratch = buf(sp_pack_scratch(K)), *narrow = buf(TOKS * K * 2);
    sp_kern_acts acts = {buf(TOKS * sp_acts_stride(K)), sp_acts_stride(K)};
    for (size_t t = 0; t < TOKS; t++)
        now.quant_act(&acts, t, x + t * K, K);
    if (now.narrow_bf16)
        now.narrow_bf16(narrow, x, TOKS * K);
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        sp_type type = types[i];
        memset(rows, 0, ROWS * K * 4);
        if (sp_pack_is(type)) {
            random_rows(&s, rows, type, ROWS * K);
            for (size_t t = 0; t < ROWS / 16; t++)
                sp_pack_tile((char *)w + t * sp_pack_tile_bytes(type, K), type, (char *)rows + t * 16 * sp_type_row_bytes(type, K), 16, K, scratch);
        }
        for (size_t j = 0; j < 3; j++) {
            kern_bench b = {.type = type, .q = {out, ROWS, w, &acts, ROWS, toks[j], K, false, NULL},
                            .f = {out, ROWS, rows, type == SP_BF16 && now.narrow_bf16 ? narrow : (void *)x, K, ROWS, toks[j], K, false}};
            bench_one(sp_type_name(type), toks[j], bench_gemm, &b, (double)(ROWS * K * toks[j]), peak);
        }
    }
    static const size_t n_qs[] = {3, 48};
    for (size_t j = 0; now.attn_planes && j < 2; j++) {
        kern_bench b = {.acc = out, .max = out + TOKS * D, .sum = out + TOKS * D + TOKS, .n_q = n_qs[j], .d = D,
                        .prep = buf(sp_attn_prep_bytes(TOKS, D)), .scratch = buf(sp_attn_scratch_bytes(TOKS, D))};
        page_mem m[16];
        for (size_t p = 0; p < 16; p++) {
            sp_f16 *raw = random_page(&s, D);
            m[p] = new_planes(D);
            now.planes_put(&m[p].full, raw, raw + D * 32, D);
            b.page[p] = m[p].full;
            sp_mem_free(raw);
        }
        b.acc = buf(TOKS * (D + 2) * 4), b.max = b.acc + TOKS * D, b.sum = b.max + TOKS;
        now.attn_prep(b.prep, x, b.n_q, D);
        b.x = x;
        bench_one("attention", b.n_q, bench_attn, &b, 2.0 * 16 * 32 * D * (double)b.n_q, peak);
        bench_one("in f32", b.n_q, bench_f32, &b, 2.0 * 16 * 32 * D * (double)b.n_q, peak);
        if (b.n_q <= SP_FEW) { /* in units of the dense products they stand in for; rows: a quarter of the keys */
            void *mem = buf(sp_scan_bytes(b.n_q, 0));
            b.scan = sp_scan_at(mem, b.n_q, 0);
            for (size_t i = 0; i < 128; i++)
                b.tok[i] = (uint16_t)(4 * i + i % 3);
            bench_one("scan", b.n_q, bench_scan, &b, 2.0 * 16 * 32 * D * (double)b.n_q, peak);
            bench_one("mass", b.n_q, bench_mass, &b, 2.0 * 16 * 32 * D * (double)b.n_q, peak);
            bench_one("tail", b.n_q, bench_tail, &b, 2.0 * 16 * 32 * D * (double)b.n_q, peak);
            bench_one("rows", b.n_q, bench_rows, &b, 2.0 * 16 * 32 * D * (double)b.n_q, peak);
            sp_mem_free(mem);
        }
        for (size_t p = 0; p < 16; p++)
            sp_mem_free(m[p].hi), sp_mem_free(m[p].lo);
        sp_mem_free(b.acc), sp_mem_free(b.prep), sp_mem_free(b.scratch);
    }
    void *const all[] = {x, out, rows, w, scratch, narrow, acts.mem};
    for (size_t i = 0; i < 7; i++)
        sp_mem_free(all[i]);
}

/* Level `level` into `now`; false where this CPU lacks it. SP_CPU_LEVELS: AVX-VNNI with its
 * instruction imitated, of which everything must be as AVX-VNNI has it; one more: AMX over that. */
static bool take_level(int level)
{
    same = (sp_kern){0};
#if defined(__x86_64__)
    if (level >= SP_CPU_LEVELS) {
        sp_kern_init(&now, SP_CPU_AVX2);
        if (strcmp(now.isa, "avx2") != 0)
            return false;
        same = now;
        sp_kern_init_imitated(&now);
        now.isa = "avxvnni, imitated";
        if (level > SP_CPU_LEVELS) {
            sp_kern_init_tiles_imitated(&now);
            now.isa = "amx, imitated";
        }
        return true;
    }
    if (level == SP_CPU_AVXVNNI)
        sp_kern_init(&same, SP_CPU_AVX2);
#endif
    if (level >= SP_CPU_LEVELS)
        return false;
    sp_kern_init(&now, (sp_cpu_level)level);
    return strcmp(now.isa, sp_cpu_level_name((sp_cpu_level)level)) == 0;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(check_pack), cmocka_unit_test(check_widen),
                                       cmocka_unit_test(check_gemm_q), cmocka_unit_test(check_gemm_f),
                                       cmocka_unit_test(check_rows),   cmocka_unit_test(check_attn),
                                       cmocka_unit_test(check_rotate), cmocka_unit_test(check_planes),
                                       cmocka_unit_test(check_dot),    cmocka_unit_test(check_delta), cmocka_unit_test(check_ssm),
                                       cmocka_unit_test(check_bounds), cmocka_unit_test(check_attn_planes), cmocka_unit_test(check_cap),
                                       cmocka_unit_test(check_certified),
                                       cmocka_unit_test(check_join), cmocka_unit_test(check_levels)};
    int failed = 0;
    sp_kern_init_ref(&ref);
    for (int level = SP_CPU_SCALAR; level <= SP_CPU_LEVELS + 1; level++) {
        if (!take_level(level))
            continue;
        if (argc > 1 && strcmp(argv[1], "--bench") == 0) {
            if (level > SP_CPU_SCALAR)
                bench_level();
            continue;
        }
        print_message("kernels: %s\n", now.isa);
        failed += cmocka_run_group_tests_name(now.isa, tests, NULL, NULL);
    }
    return failed;
}
