/* Weights that are held as e4m3, and their products: by warpgroups and by warps, against f64 of
 * numbers that were rounded here. */
#include "cuda.h"

#include <stdio.h>

typedef struct sizes {
    size_t n_out, k, n_tok;
} sizes;

enum { MOST = 1 << 18 };
static float rows[MOST], x[MOST], up[MOST], norm[MOST], bias[MOST], before[MOST], got[MOST],
    again[MOST];
static double w[MOST], in[MOST], want[MOST];

/* The nearest number of e4m3, of two the one whose last bit is 0. */
static double e4m3(double v)
{
    double size = fabs(v), step = 0x1p-9;
    while (step * 16 <= size)
        step *= 2;
    double n = rint(size / step) * step;
    return copysign(n > 448 ? 448 : n, v);
}

/* n numbers that share a scale. */
static void round_all(double *v, size_t n)
{
    double top = 0, unit = 1;
    for (size_t i = 0; i < n; i++)
        top = fmax(top, fabs(v[i]));
    while (top > 0 && top / unit > 448)
        unit *= 2;
    while (top > 0 && top / unit <= 224)
        unit /= 2;
    for (size_t i = 0; i < n; i++)
        v[i] = e4m3(v[i] / unit) * unit;
}

/* What goes into a product with norm (0), gate (1) or neither (2), before it is rounded. */
static void input_of(double *out, const float *row, const float *beside, size_t k, unsigned kind)
{
    double sum = 0;
    for (size_t i = 0; i < k; i++)
        sum += (double)row[i] * (double)row[i];
    for (size_t i = 0; i < k; i++)
        out[i] = kind == 0   ? (double)row[i] / sqrt(sum / (double)k + 1e-5) * (double)norm[i]
                 : kind == 1 ? (double)row[i] / (1 + exp(-(double)row[i])) * (double)beside[i]
                             : (double)row[i];
}

static void fill(sizes s, uint16_t *out, uint64_t *seed)
{
    for (size_t i = 0; i < s.n_out * s.k; i++) { /* each row has a size of its own, some are 0 */
        float v = test_float(seed) * exp2f((float)(i / s.k % 40) - 30) * (i / s.k % 7 == 5 ? 0 : 1);
        uint32_t u;
        memcpy(&u, &v, sizeof u);
        u &= 0xffff0000u;
        memcpy(&rows[i], &u, sizeof u);
        out[i] = (uint16_t)(u >> 16);
        w[i] = (double)rows[i];
    }
    for (size_t r = 0; r < s.n_out; r++)
        round_all(w + r * s.k, s.k);
    for (size_t i = 0; i < s.n_tok * s.k; i++) {
        x[i] = test_float(seed) * (i % s.k == 3 ? 900.0f : 3.0f);
        up[i] = test_float(seed);
        norm[i % s.k] = 1 + test_float(seed) / 2;
    }
    for (size_t i = 0; i < s.n_out * s.n_tok; i++)
        bias[i % s.n_out] = before[i] = test_float(seed);
}

/* One shape on the device d: against f64, in all orders, and each of the first tokens alone. */
static void check_fp8(const devices *d, sizes s, unsigned kind, uint64_t *seed)
{
    static uint16_t narrow[MOST];
    sp_dev *dev = d->cuda;
    const sp_dev_ops *ops = dev->ops;
    sp_dev_weight weight;
    const size_t n_out = s.n_out * s.n_tok;
    assert_true(s.n_out * s.k <= MOST && s.n_tok * s.k <= MOST && n_out <= MOST);
    fill(s, narrow, seed);
    void *at = on(dev, NULL, ops->fp8_bytes(dev, s.n_out, s.k));
    assert_int_equal(ops->fp8_put(dev, &weight, at, SP_BF16, narrow, s.n_out, s.k), SP_OK);
    assert_true(weight.is_fp8 && weight.type == SP_BF16 && weight.n_row == s.n_out);
    float *out = on(dev, NULL, n_out * sizeof *out), *dx = on(dev, x, s.n_tok * s.k * sizeof *x);
    const float factor = 0.75f;
    const float *const biases[] = {kind == 2 ? NULL : on(dev, bias, s.n_out * sizeof *bias)};
    sp_dev_matmul a = {.out = &out,
                       .x = dx,
                       .norm = kind == 0 ? on(dev, norm, s.k * sizeof *norm) : NULL,
                       .eps = 1e-5f,
                       .act = kind == 1 ? SP_ACT_SILU : SP_ACT_NONE,
                       .up = kind == 1 ? on(dev, up, s.n_tok * s.k * sizeof *up) : NULL,
                       .w = &weight,
                       .bias = biases,
                       .n_w = 1,
                       .n_row = s.n_tok,
                       .add = kind == 1};
    weight.scale = kind == 2 ? &factor : NULL;
    static double tol[MOST];
    for (size_t t = 0; t < s.n_tok; t++) {
        input_of(in, x + t * s.k, up + t * s.k, s.k, kind);
        for (size_t k = 0; k < s.k; k += 128)
            round_all(in + k, s.k - k < 128 ? s.k - k : 128);
        for (size_t r = 0; r < s.n_out; r++) {
            double sum = 0, size = 0;
            for (size_t i = 0; i < s.k; i++) {
                sum += in[i] * w[r * s.k + i];
                size += fabs(in[i] * w[r * s.k + i]);
            }
            const size_t o = t * s.n_out + r;
            want[o] = sum * (weight.scale ? 0.75 : 1) + (a.add ? (double)before[o] : 0) +
                      (biases[0] ? (double)bias[r] : 0);
            /* a norm or gate in f32 may round an element to the other of two codes */
            tol[o] = (kind == 2 ? 1e-5 : 3e-3) * size + 2e-6;
        }
    }
    for (size_t o = 0; o < ORDERS; o++) {
        set_order(orders[o]);
        assert_int_equal(ops->mem_write(dev, out, before, n_out * sizeof *out), SP_OK);
        assert_int_equal(ops->matmul(dev, &a), SP_OK);
        get(dev, o ? again : got, out, n_out * sizeof *out);
        if (o)
            assert_memory_equal(got, again, n_out * sizeof *out);
    }
    set_order(0);
    for (size_t o = 0; o < n_out; o++)
        check_near("e4m3", got + o, want + o, 1, tol[o]);
    a.n_row = 1;
    float *const all = out;
    for (size_t t = 0; t < s.n_tok; t += 1 + s.n_tok / 3) {
        out = all + t * s.n_out;
        a.x = dx + t * s.k;
        a.up = kind == 1 ? on(dev, up + t * s.k, s.k * sizeof *up) : NULL;
        assert_int_equal(ops->mem_write(dev, out, before + t * s.n_out, s.n_out * sizeof *out),
                         SP_OK);
        assert_int_equal(ops->matmul(dev, &a), SP_OK);
        get(dev, again, out, s.n_out * sizeof *out);
        assert_memory_equal(got + t * s.n_out, again, s.n_out * sizeof *out);
    }
    done();
}

static void check_all(void)
{
    static const sizes shapes[] = {{1, 128, 1},    {64, 256, 8},   {65, 1240, 9},
                                   {130, 200, 41}, {140, 520, 65}, {70, 64, 131}};
    devices d = open_devices();
    uint64_t seed = 41;
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        check_fp8(&d, shapes[i], (unsigned)(i + 2) % 3, &seed);
    check_fp8(&d, (sizes){136, 1100, 70}, 2, &seed); /* more pieces of k than are on their way */
    close_devices(&d);
}

void test_cuda_fp8(void **state)
{
    (void)state;
    check_all(); /* by warpgroups, or what the GPU has */
    if (getenv("SPARING_CUDA_LIBRARY"))
        return;
    assert_int_equal(setenv("SPARING_SIMT_MAJOR", "8", 1), 0);
    check_all();
    assert_int_equal(unsetenv("SPARING_SIMT_MAJOR"), 0);
}

/* Weights of the other types, slices, and products that share a row with weights of other kinds. */
void test_cuda_fp8_beside(void **state)
{
    (void)state;
    enum { N = 192, K = 256, TOK = 3 };
    static sp_f16 half[N * K];
    devices d = open_devices();
    const sp_dev_ops *ops = d.cuda->ops;
    uint64_t seed = 4;
    sp_dev_weight all, part, plain, mixed[2];
    for (size_t i = 0; i < N * K; i++)
        half[i] = sp_f16_from_f32((float)(int)(test_rand(&seed) % 15) - 7); /* e4m3 holds them */
    for (size_t i = 0; i < TOK * K; i++)
        x[i] = (float)(int)(test_rand(&seed) % 15) - 7;
    char *at = on(d.cuda, NULL, ops->fp8_bytes(d.cuda, N, K)),
         *sliced = on(d.cuda, NULL, ops->fp8_bytes(d.cuda, N, K)),
         *f16 = on(d.cuda, NULL, ops->weight_bytes(d.cuda, SP_F16, N, K));
    assert_int_equal(ops->fp8_put(d.cuda, &all, at, SP_F16, half, N, K), SP_OK);
    assert_int_equal(ops->fp8_put(d.cuda, &part, sliced, SP_F16, half, 128, K), SP_OK);
    assert_int_equal(ops->fp8_put(d.cuda, &mixed[0], sliced + ops->fp8_bytes(d.cuda, 128, K),
                                  SP_F16, half + 128 * K, N - 128, K),
                     SP_OK);
    assert_int_equal(ops->weight_put(d.cuda, &plain, f16, SP_F16, half, N, K), SP_OK);
    part.n_row = N;
    float *out[3];
    for (size_t i = 0; i < 3; i++)
        out[i] = on(d.cuda, NULL, N * TOK * sizeof(float));
    const sp_dev_weight three[] = {plain, all, part};
    const sp_dev_matmul a = {.out = out,
                             .x = on(d.cuda, x, TOK * K * sizeof *x),
                             .w = three,
                             .n_w = 3,
                             .n_row = TOK};
    assert_int_equal(ops->matmul(d.cuda, &a), SP_OK);
    get(d.cuda, got, out[0], N * TOK * sizeof(float));
    for (size_t i = 1; i < 3; i++) {
        get(d.cuda, again, out[i], N * TOK * sizeof(float));
        for (size_t e = 0; e < N * TOK; e++) /* whole numbers below 2^24: none is rounded */
            assert_true(again[e] == got[e]);
    }
    x[K + 5] = NAN; /* a row that is no number is none behind it either, and alone */
    assert_int_equal(ops->mem_write(d.cuda, (void *)(uintptr_t)a.x, x, TOK * K * sizeof *x), SP_OK);
    assert_int_equal(ops->matmul(d.cuda, &a), SP_OK);
    get(d.cuda, again, out[1], N * TOK * sizeof(float));
    for (size_t e = 0; e < N * TOK; e++)
        assert_true(e / N == 1 ? isnan(again[e]) : again[e] == got[e]);
    close_devices(&d);
}
