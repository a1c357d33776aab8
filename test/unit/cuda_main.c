/* The operations of the CUDA device, whose kernels run here over threads that are imitated
 * (src/dev/cuda/simt_host.h): against f64 and the CPU device, in several orders of threads, whose
 * results are the same to the bit. Memory ends at pages that cannot be touched. */
#include "cuda.h"

#include "dev/cuda/lib.h"

#include <dlfcn.h>
#include <stdio.h>

enum { MAX_COPIES = 256 };

/* Another library than the imitated one, on a machine with a GPU: scripts/gpu. */
static const char *library(void)
{
    const char *given = getenv("SPARING_CUDA_LIBRARY");
    return given ? given : TEST_CUDA;
}

static struct {
    sp_dev *dev;
    void *p;
} copies[MAX_COPIES];
static size_t n_copy;

devices open_devices(void)
{
    devices d;
    char name[1024];
    snprintf(name, sizeof name, "cuda:%s", library());
    const sp_dev_cfg cuda = {.name = name, .mask = SP_CPU_LEVELS - 1};
    const sp_dev_cfg cpu = {.name = "cpu", .n_thread = 1, .mask = SP_CPU_SCALAR};
    sp_diag why = {0};
    if (sp_dev_open(&d.cuda, &cuda, &why) != SP_OK)
        fail_msg("%s", why.msg);
    assert_int_equal(sp_dev_open(&d.cpu, &cpu, NULL), SP_OK);
    return d;
}

void close_devices(devices *d)
{
    done();
    sp_dev_close(d->cuda);
    sp_dev_close(d->cpu);
}

void set_order(unsigned seed)
{
    void *lib = dlopen(library(), RTLD_NOW), *symbol = lib ? dlsym(lib, "sp_simt_order") : NULL;
    void (*order)(unsigned);
    assert_true(symbol || getenv("SPARING_CUDA_LIBRARY")); /* a GPU has an order of its own */
    memcpy(&order, &symbol, sizeof order);
    if (order)
        order(seed);
    dlclose(lib);
}

void *on(sp_dev *dev, const void *p, size_t n_bytes)
{
    void *q;
    assert_true(n_copy < MAX_COPIES);
    assert_int_equal(dev->ops->mem_raw(dev, &q, n_bytes), SP_OK);
    if (p)
        assert_int_equal(dev->ops->mem_write(dev, q, p, n_bytes), SP_OK);
    copies[n_copy].dev = dev;
    copies[n_copy++].p = q;
    return q;
}

void done(void)
{
    while (n_copy) {
        n_copy--;
        copies[n_copy].dev->ops->mem_free(copies[n_copy].dev, copies[n_copy].p);
    }
}

void get(sp_dev *dev, void *host, const void *p, size_t n_bytes)
{
    assert_int_equal(dev->ops->mem_read(dev, host, p, n_bytes), SP_OK);
}

void check_near(const char *what, const float *got, const double *want, size_t n, double tol)
{
    for (size_t i = 0; i < n; i++)
        if (!(fabs((double)got[i] - want[i]) <= tol))
            fail_msg("%s: element %zu is %g, not %g", what, i, (double)got[i], want[i]);
}

/* Rows of a type: random bytes whose scales are sane. */
static void fill_rows(uint8_t *rows, sp_type type, size_t n_row, size_t k, uint64_t *s)
{
    const sp_type_info *t = sp_type_get(type);
    size_t n_blk = n_row * k / t->blk_elem;
    for (size_t b = 0; b < n_blk; b++) {
        uint8_t *at = rows + b * t->blk_bytes;
        sp_f16 d = sp_f16_from_f32(0.01f + 0.01f * fabsf(test_float(s))),
               m = sp_f16_from_f32(0.02f * fabsf(test_float(s)));
        for (size_t i = 0; i < t->blk_bytes; i++)
            at[i] = (uint8_t)test_rand(s);
        float x = test_float(s);
        sp_f16 h = sp_f16_from_f32(x);
        uint32_t u;
        memcpy(&u, &x, 4);
        uint16_t bf = (uint16_t)(u >> 16);
        memcpy(at,
               type == SP_F32    ? (void *)&x
               : type == SP_F16  ? (void *)&h
               : type == SP_BF16 ? (void *)&bf
                                 : (void *)&d,
               type == SP_F32 ? 4 : 2);
        if (type == SP_Q4_K || type == SP_Q5_K || type == SP_Q4_1)
            memcpy(at + 2, &m, 2);
        if (type == SP_MXFP4) {
            at[0] = (uint8_t)(118 + test_rand(s) % 8);
            at[1] = (uint8_t)test_rand(s);
        }
        if (type == SP_Q6_K) {
            memcpy(at + 208, &d, 2);
            at[0] = (uint8_t)test_rand(s);
        }
    }
}

/* The same values by the CPU's way of reading rows. */
static void widen_rows(const devices *d, float *out, sp_type type, const void *rows, size_t n_row,
                       size_t k)
{
    sp_dev_weight w;
    size_t n_bytes = d->cpu->ops->weight_bytes(d->cpu, type, n_row, k);
    void *at = sp_mem_align(n_bytes + 64);
    assert_int_equal(d->cpu->ops->weight_put(d->cpu, &w, at, type, rows, n_row, k), SP_OK);
    for (size_t r = 0; r < n_row; r++)
        sp_kern_row_f32(sp_dev_cpu_kern(d->cpu), out + r * k, type, w.data, r, k);
    sp_mem_free(at);
}

static sp_dev_weight put_rows(const devices *d, sp_type type, const void *rows, size_t n_row,
                              size_t k)
{
    sp_dev_weight w;
    void *at = on(d->cuda, NULL, d->cuda->ops->weight_bytes(d->cuda, type, n_row, k));
    assert_int_equal(d->cuda->ops->weight_put(d->cuda, &w, at, type, rows, n_row, k), SP_OK);
    return w;
}

/* Q5_0 has no kernel of its own: it becomes f16. */
static const sp_type types[] = {SP_F32,  SP_F16,  SP_BF16, SP_Q8_0, SP_Q4_0,  SP_Q4_1,
                                SP_Q4_K, SP_Q5_K, SP_Q6_K, SP_Q5_0, SP_MXFP4};
enum { TYPES = sizeof types / sizeof types[0] };

static void test_rows_of_each_type(void **state)
{
    (void)state;
    enum { ROWS = 5, K = 512, IDS = 3 };
    static uint8_t rows[ROWS * K * 4];
    static float want[ROWS * K], got[IDS * K];
    static const uint32_t id[IDS] = {4, 0, 2};
    devices d = open_devices();
    uint64_t seed = 5;
    for (size_t t = 0; t < TYPES; t++) {
        fill_rows(rows, types[t], ROWS, K, &seed);
        widen_rows(&d, want, types[t], rows, ROWS, K);
        const sp_dev_weight w = put_rows(&d, types[t], rows, ROWS, K);
        float *out = on(d.cuda, NULL, sizeof got);
        assert_int_equal(d.cuda->ops->embed(d.cuda, out, &w, id, IDS, 2), SP_OK);
        get(d.cuda, got, out, sizeof got);
        for (size_t i = 0; i < IDS * K; i++) {
            float x = 2 * want[id[i / K] * K + i % K];
            if (!(fabsf(got[i] - x) <= (types[t] == SP_Q5_0 ? 5e-4f : 2e-7f) * (1 + fabsf(x))))
                fail_msg("%s: element %zu is %g, not %g", sp_type_name(types[t]), i, (double)got[i],
                         (double)x);
        }
        done();
    }
    close_devices(&d);
}

/* What goes into a product, in f64. */
static double input_of(const sp_dev_matmul *a, const float *x, const float *norm, const float *up,
                       size_t i, size_t k)
{
    double sum = 0;
    if (norm) {
        for (size_t e = 0; e < k; e++)
            sum += (double)x[e] * (double)x[e];
        return (double)x[i] / sqrt(sum / (double)k + (double)a->eps) * (double)norm[i];
    }
    return a->act ? (double)x[i] / (1 + exp(-(double)x[i])) * (double)up[i] : (double)x[i];
}

typedef struct shape {
    size_t n_row, k, n_tok;
} shape;

/* One type and shape with norm (0), gate (1) or neither (2): against f64, in all orders, and each
 * token alone. */
static void check_product(const devices *d, sp_type type, shape s, unsigned kind, uint64_t *seed)
{
    enum { MOST = 1 << 16 };
    static uint8_t rows[4 * MOST];
    static float wide[MOST], x[MOST], up[MOST], norm[MOST], bias[MOST], got[MOST], again[MOST],
        before[MOST];
    static double in[MOST], want[MOST];
    sp_dev *dev = d->cuda;
    size_t n_out = s.n_row * s.n_tok;
    assert_true(s.n_row * s.k <= MOST && s.n_tok * s.k <= MOST && n_out <= MOST);
    fill_rows(rows, type, s.n_row, s.k, seed);
    widen_rows(d, wide, type, rows, s.n_row, s.k);
    for (size_t i = 0; i < s.n_tok * s.k; i++) {
        x[i] = test_float(seed) * 3;
        up[i] = test_float(seed);
        norm[i] = 1 + test_float(seed) / 2;
    }
    for (size_t i = 0; i < n_out; i++)
        bias[i] = before[i] = test_float(seed);
    const sp_dev_weight w = put_rows(d, type, rows, s.n_row, s.k);
    float *out = on(dev, NULL, n_out * sizeof *out), *dx = on(dev, x, s.n_tok * s.k * sizeof *x);
    const float *const biases[] = {kind == 2 ? NULL : on(dev, bias, s.n_row * sizeof *bias)};
    sp_dev_matmul a = {.out = &out,
                       .x = dx,
                       .norm = kind == 0 ? on(dev, norm, s.k * sizeof *norm) : NULL,
                       .eps = 1e-5f,
                       .act = kind == 1 ? SP_ACT_SILU : SP_ACT_NONE,
                       .up = kind == 1 ? on(dev, up, s.n_tok * s.k * sizeof *up) : NULL,
                       .w = &w,
                       .bias = biases,
                       .n_w = 1,
                       .n_row = s.n_tok,
                       .add = kind == 1};
    double most = 0;
    for (size_t t = 0; t < s.n_tok; t++) {
        for (size_t i = 0; i < s.k; i++)
            in[i] = input_of(&a, x + t * s.k, kind == 0 ? norm : NULL, up + t * s.k, i, s.k);
        for (size_t r = 0; r < s.n_row; r++) {
            double sum = 0, size = 0;
            for (size_t i = 0; i < s.k; i++) {
                sum += in[i] * (double)wide[r * s.k + i];
                size += fabs(in[i] * (double)wide[r * s.k + i]);
            }
            most = fmax(most, size);
            want[t * s.n_row + r] = sum + (a.add ? (double)before[t * s.n_row + r] : 0) +
                                    (biases[0] ? (double)bias[r] : 0);
        }
    }
    for (size_t o = 0; o < ORDERS; o++) {
        set_order(orders[o]);
        assert_int_equal(dev->ops->mem_write(dev, out, before, n_out * sizeof *out), SP_OK);
        assert_int_equal(dev->ops->matmul(dev, &a), SP_OK);
        get(dev, o ? again : got, out, n_out * sizeof *out);
        if (o)
            assert_memory_equal(got, again, n_out * sizeof *out);
    }
    set_order(0);
    check_near(sp_type_name(type), got, want, n_out,
               (type == SP_F32 || type == SP_BF16 || type == SP_MXFP4 ? 5e-5 : 6e-4) * (1 + most));
    a.n_row = 1;
    size_t t = s.n_tok - 1; /* the last token alone */
    a.x = dx + t * s.k;
    a.up = a.up ? a.up + t * s.k : NULL;
    out += t * s.n_row;
    assert_int_equal(dev->ops->mem_write(dev, out, before + t * s.n_row, s.n_row * sizeof *out),
                     SP_OK);
    assert_int_equal(dev->ops->matmul(dev, &a), SP_OK);
    get(dev, again, out, s.n_row * sizeof *out);
    assert_memory_equal(got + t * s.n_row, again, s.n_row * sizeof *out);
    done();
}

static void test_products_of_each_type(void **state)
{
    (void)state;
    static const shape shapes[] = {{1, 256, 1}, {17, 512, 3}, {31, 256, 9}, {65, 256, 33}};
    devices d = open_devices();
    uint64_t seed = 11;
    for (size_t t = 0; t < TYPES; t++)
        for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
            check_product(&d, types[t], shapes[i], (unsigned)(t + i) % 3, &seed);
    check_product(&d, SP_F16, (shape){20, 72, 2}, 0, &seed); /* k is no multiple of 32 */
    check_product(&d, SP_BF16, (shape){20, 40, 2}, 1, &seed);
    close_devices(&d);
}

/* Rows after an operation on both devices. */
typedef void operate(sp_dev *dev, float *x, const void *arg);

static void check_both(const devices *d, const char *what, operate *op, const void *arg,
                       const float *x, size_t n, double tol)
{
    float *got = sp_mem_array(n, sizeof *got), *again = sp_mem_array(n, sizeof *again),
          *cpu = sp_mem_array(n, sizeof *cpu);
    double *want = sp_mem_array(n, sizeof *want);
    memcpy(cpu, x, n * sizeof *cpu);
    op(d->cpu, cpu, arg);
    for (size_t i = 0; i < n; i++)
        want[i] = (double)cpu[i];
    for (size_t o = 0; o < ORDERS; o++) {
        float *at = on(d->cuda, x, n * sizeof *x);
        set_order(orders[o]);
        op(d->cuda, at, arg);
        get(d->cuda, o ? again : got, at, n * sizeof *x);
        if (o)
            assert_memory_equal(got, again, n * sizeof *x);
        done();
    }
    set_order(0);
    check_near(what, got, want, n, tol);
    sp_mem_free(got);
    sp_mem_free(again);
    sp_mem_free(cpu);
    sp_mem_free(want);
}

enum { N_ROW = 3, N_HEAD = 5, D = 64, N = N_HEAD * D, ROT = 48 };
static float weights[N], more[N_ROW * N];

static void put_heads(sp_dev *dev, float *x, const void *arg)
{
    static const uint32_t pos[N_ROW] = {0, 3, 4000};
    static const float scale[N_ROW] = {1, 0.5f, 1.25f};
    unsigned v = *(const unsigned *)arg;
    float freq[ROT / 2];
    for (size_t i = 0; i < ROT / 2; i++)
        freq[i] = 1.0f / (float)(i + 1);
    const sp_dev_rope rope = {freq, ROT, 1.5f, v & 1};
    float *cs = on(dev, NULL, N_ROW * ROT * sizeof *cs);
    assert_int_equal(dev->ops->rope_table(dev, cs, pos, N_ROW, &rope), SP_OK);
    const sp_dev_heads h = {
        .x = x,
        .n_row = N_ROW,
        .n_head = N_HEAD,
        .d = D,
        .norm = v & 1 ? on(dev, weights, sizeof weights) : NULL,
        .is_whole = v & 2,
        .norm_last = v & 4 && !(v & 2),
        .n_norm = v & 64 && !(v & 2) ? 32 : 0,
        .eps = 0.01f,
        .turn = {.cs = v & 8 ? cs : NULL, .d_rot = ROT, .halves = v & 16, .first = v & 64 ? 16 : 0},
        .scale = v & 32 ? on(dev, scale, sizeof scale) : NULL};
    assert_int_equal(dev->ops->heads(dev, &h), SP_OK);
}

static void put_join(sp_dev *dev, float *x, const void *arg)
{
    unsigned v = *(const unsigned *)arg;
    float *y = on(dev, more, sizeof more);
    assert_int_equal(dev->ops->join(dev, x, y, v & 1 ? on(dev, weights, sizeof weights) : NULL,
                                    0.01f, v & 2 ? 0.25f : 1, N_ROW, N),
                     SP_OK);
    assert_int_equal(dev->ops->soft_cap(dev, x, N_ROW * N, 0.5f, v & 1 ? 3 : 0), SP_OK);
    assert_int_equal(dev->ops->add(dev, x, on(dev, more, sizeof more), N_ROW * N), SP_OK);
}

static void put_norm(sp_dev *dev, float *x, const void *arg)
{
    (void)arg;
    assert_int_equal(dev->ops->norm_layer(dev, x, x, on(dev, weights, sizeof weights),
                                          on(dev, more, sizeof weights), N_ROW, N, 0.01f),
                     SP_OK);
}

static void put_gate(sp_dev *dev, float *x, const void *arg)
{
    unsigned v = *(const unsigned *)arg;
    const sp_dev_gate g = {.x = x,
                           .n_row = N_ROW,
                           .n_head = N_HEAD,
                           .d = D,
                           .norm = v & 1 ? on(dev, weights, sizeof weights) : NULL,
                           .norm_last = v & 1 && v & 2,
                           .eps = 0.01f,
                           .act = SP_ACT_SIGMOID,
                           .gate = on(dev, more, sizeof more),
                           .is_row = v & 4 && !(v & 2)};
    assert_int_equal(dev->ops->gate(dev, &g), SP_OK);
}

static void put_halves(sp_dev *dev, float *x, const void *arg)
{
    (void)arg;
    float *first = on(dev, NULL, N_ROW * N / 2 * sizeof *first),
          *second = on(dev, NULL, N_ROW * N / 2 * sizeof *second);
    assert_int_equal(dev->ops->halve(dev, first, second, x, N_ROW, N_HEAD, D / 2), SP_OK);
    assert_int_equal(dev->ops->copy(dev, x, second, N_ROW * N / 2 * sizeof *first), SP_OK);
    assert_int_equal(dev->ops->copy(dev, x + N_ROW * N / 2, first, N_ROW * N / 2 * sizeof *first),
                     SP_OK);
}

static void test_operations_on_rows(void **state)
{
    (void)state;
    float x[N_ROW * N];
    uint64_t seed = 3;
    devices d = open_devices();
    for (size_t i = 0; i < N; i++)
        weights[i] = test_float(&seed) + 1;
    for (size_t i = 0; i < N_ROW * N; i++) {
        x[i] = test_float(&seed) * 3;
        more[i] = test_float(&seed) * 2;
    }
    for (unsigned v = 0; v < 128; v++)
        check_both(&d, "heads", put_heads, &v, x, N_ROW * N, 3e-5);
    for (unsigned v = 0; v < 4; v++)
        check_both(&d, "join", put_join, &v, x, N_ROW * N, 1e-5);
    for (unsigned v = 0; v < 8; v++)
        check_both(&d, "gate", put_gate, &v, x, N_ROW * N, 1e-5);
    check_both(&d, "norm", put_norm, NULL, x, N_ROW * N, 2e-5);
    check_both(&d, "halves", put_halves, NULL, x, N_ROW * N, 0);
    close_devices(&d);
}

/* The list of sp_dev_best by sorting. */
static int by_size(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

static void check_best(const sp_dev_best *b, const float *x, size_t n, float temperature)
{
    static float sorted[20000];
    double mass = 0;
    size_t n_finite = 0;
    for (size_t i = 0; i < n; i++)
        if (isfinite(x[i]))
            sorted[n_finite++] = x[i];
    qsort(sorted, n_finite, sizeof *sorted, by_size);
    for (size_t i = 0; i < n_finite; i++)
        mass += exp((double)(sorted[i] - sorted[0]) / (double)temperature);
    assert_int_equal(b->n_finite, n_finite);
    assert_int_equal(b->n, n_finite < SP_DEV_BEST ? n_finite : SP_DEV_BEST);
    assert_true(fabs((double)b->mass - mass) <= 1e-5 * mass);
    for (size_t i = 0; i < b->n; i++) {
        assert_true(b->logit[i] == sorted[i] && x[b->id[i]] == sorted[i]);
        assert_true(!i || b->logit[i] < b->logit[i - 1] || b->id[i] > b->id[i - 1]);
    }
}

/* Rows of several parts and of less than one, with equal logits, with ones that may not be chosen,
 * with no number at all and with what is none. */
static void test_best_of_logits(void **state)
{
    (void)state;
    enum { ROWS = 5, MOST = 20000 };
    static float x[ROWS * MOST];
    static const size_t sizes[] = {MOST, 8192, 700, 40, 1};
    static const float temperature[ROWS] = {1, 0.5f, 2, 0.05f, 1};
    static sp_dev_best got[ROWS], again[ROWS];
    devices d = open_devices();
    uint64_t seed = 51;
    for (size_t s = 0; s < 5; s++) {
        size_t n = sizes[s];
        for (size_t i = 0; i < ROWS * n; i++) {
            x[i] = test_float(&seed) * 9;
            if (i / n == 1)
                x[i] = (float)(test_rand(&seed) % 50); /* many are equal */
            if (i / n == 2 && test_rand(&seed) % 100)
                x[i] = -INFINITY;
            if (i / n == 3)
                x[i] = -INFINITY;
        }
        x[2 * n] = -50;
        x[5 * n - 1] = s % 2 ? NAN : INFINITY;
        float *at = on(d.cuda, x, ROWS * n * sizeof *x);
        for (size_t o = 0; o < ORDERS; o++) {
            set_order(orders[o]);
            memset(again, 0, sizeof again);
            assert_int_equal(d.cuda->ops->best(d.cuda, again, at, temperature, ROWS, n), SP_OK);
            if (o)
                assert_memory_equal(got, again, sizeof got);
            memcpy(got, again, sizeof got);
        }
        set_order(0);
        for (size_t r = 0; r < 3; r++)
            check_best(&got[r], x + r * n, n, temperature[r]);
        assert_true(got[3].n == 0 && got[3].n_finite == 0 && got[4].n == 0);
        done();
    }
    close_devices(&d);
}

static sp_cuda_counts counts(void)
{
    sp_cuda_counts out;
    const sp_cuda_lib *(*find)(void);
    void *lib = dlopen(library(), RTLD_NOW), *symbol = lib ? dlsym(lib, "sp_cuda_library") : NULL;
    assert_non_null(symbol);
    memcpy(&find, &symbol, sizeof find);
    find()->counts(&out);
    dlclose(lib);
    return out;
}

/* Ten operations over row id [n] of w, in x. */
static void step(const devices *d, const sp_dev_weight *w, const uint32_t *id, size_t n, float *x,
                 float *y, bool is_step)
{
    const sp_dev_ops *ops = d->cuda->ops;
    const sp_dev_matmul a = {.out = &y, .x = x, .w = w, .n_w = 1, .n_row = n};
    if (is_step)
        assert_int_equal(ops->begin_step(d->cuda), SP_OK);
    for (size_t i = 0; i < 3; i++) { /* the second begins over another's memory */
        assert_int_equal(ops->embed(d->cuda, x, w, id + i, n, 1), SP_OK);
        assert_int_equal(ops->matmul(d->cuda, &a), SP_OK);
        assert_int_equal(ops->add(d->cuda, x, y, n * w->k), SP_OK);
        assert_int_equal(ops->copy(d->cuda, y, x, n * w->k * sizeof *x), SP_OK);
    }
    if (is_step)
        assert_int_equal(ops->end_step(d->cuda), SP_OK);
}

/* Steps that are put off, then made graphs, then told other rows, memory and sizes, give what their
 * operations give one by one. */
static void test_steps_as_graphs(void **state)
{
    (void)state;
    enum { K = 64, MOST = 4, ROUNDS = 9 };
    static const uint32_t id[] = {3, 1, 60, 7, 22, 45, 9, 63, 0, 12, 5, 33, 2, 17};
    static float rows[K * K], got[MOST * K], want[MOST * K];
    devices d = open_devices();
    uint64_t seed = 77;
    for (size_t i = 0; i < K * K; i++)
        rows[i] = test_float(&seed);
    const sp_dev_weight w = put_rows(&d, SP_F32, rows, K, K);
    const sp_cuda_counts before = counts();
    for (size_t i = 0; i < ROUNDS; i++) {
        size_t n = 1 + i % MOST;
        float *x = on(d.cuda, NULL, sizeof got), *y = on(d.cuda, NULL, sizeof got);
        step(&d, &w, id + i % 8, n, x, y, false);
        get(d.cuda, want, x, n * K * sizeof *want);
        float *other = on(d.cuda, NULL, sizeof got);
        step(&d, &w, id + i % 8, n, i % 2 ? other : x, y, true);
        get(d.cuda, got, i % 2 ? other : x, n * K * sizeof *got);
        assert_memory_equal(got, want, n * K * sizeof *got);
    }
    const sp_cuda_counts after = counts();
    assert_int_equal(after.n_made - before.n_made, 1);
    assert_int_equal(after.n_started - before.n_started, ROUNDS - 1);
    assert_true(after.n_told > before.n_told);
    close_devices(&d);
}

/* What is read or freed within a step is done by then, and so is what a step writes over. */
static void test_reads_within_a_step(void **state)
{
    (void)state;
    enum { N = 64 };
    static float x[N], got[N];
    devices d = open_devices();
    const sp_dev_ops *ops = d.cuda->ops;
    for (size_t i = 0; i < N; i++)
        x[i] = (float)i;
    float *a = on(d.cuda, x, sizeof x), *b = on(d.cuda, x, sizeof x);
    assert_int_equal(ops->begin_step(d.cuda), SP_OK);
    for (size_t i = 0; i < 20; i++)
        assert_int_equal(ops->add(d.cuda, a, b, N), SP_OK);
    assert_int_equal(ops->mem_write(d.cuda, b, got, sizeof got), SP_OK); /* zeros */
    assert_int_equal(ops->add(d.cuda, a, b, N), SP_OK);
    get(d.cuda, got, a, sizeof got);
    assert_true(got[0] == 0 && got[1] == 21 && got[N - 1] == 21 * (N - 1));
    assert_int_equal(ops->add(d.cuda, a, a, N), SP_OK);
    assert_int_equal(ops->end_step(d.cuda), SP_OK);
    get(d.cuda, got, a, sizeof got);
    assert_true(got[1] == 42);
    close_devices(&d);
}

static void test_acts_of_each_kind(void **state)
{
    (void)state;
    enum { K = 64 };
    float x[K], up[K], one[K * K] = {0}, got[K], want[K];
    uint64_t seed = 9;
    devices d = open_devices();
    for (size_t i = 0; i < K; i++) {
        x[i] = test_float(&seed) * 8;
        up[i] = test_float(&seed) * 9;
        one[i * K + i] = 1;
    }
    for (sp_act act = SP_ACT_SILU; act < SP_ACTS; act++) {
        const sp_dev_weight w = put_rows(&d, SP_F32, one, K, K);
        float *out = on(d.cuda, NULL, sizeof got);
        const sp_dev_matmul a = {.out = &out,
                                 .x = on(d.cuda, x, sizeof x),
                                 .act = act,
                                 .up = on(d.cuda, up, sizeof up),
                                 .w = &w,
                                 .n_w = 1,
                                 .n_row = 1};
        assert_int_equal(d.cuda->ops->matmul(d.cuda, &a), SP_OK);
        get(d.cuda, got, out, sizeof got);
        sp_dev_cpu_kern(d.cpu)->glu[act](want, x, up, K);
        for (size_t i = 0; i < K; i++)
            if (!(fabsf(got[i] - want[i]) <= 1e-4f * (1 + fabsf(want[i]))))
                fail_msg("act %d of %g and %g: %g, not %g", (int)act, (double)x[i], (double)up[i],
                         (double)got[i], (double)want[i]);
        done();
    }
    close_devices(&d);
}

/* What is missing is said. */
static void test_no_library(void **state)
{
    (void)state;
    sp_dev *dev;
    sp_diag d = {0};
    const sp_dev_cfg cfg = {.name = "cuda:/nowhere/libsparing_cuda.so", .mask = SP_CPU_LEVELS - 1},
                     other = {.name = "tpu", .mask = SP_CPU_LEVELS - 1};
    assert_int_equal(sp_dev_open(&dev, &cfg, &d), SP_UNSUP);
    assert_memory_equal(d.msg, "device cuda: no library", 23);
    assert_int_equal(sp_dev_open(&dev, &other, &d), SP_UNSUP);
}

/* A device without memory says so and goes on; one that is lost refuses. */
static void test_memory_that_ends_and_a_lost_device(void **state)
{
    (void)state;
    enum { N = 64 };
    float x[N] = {0}, rows[N * N] = {0};
    void *p = NULL;
    devices d = open_devices();
    const sp_dev_weight w = put_rows(&d, SP_F32, rows, N, N);
    float *out = on(d.cuda, NULL, sizeof x);
    const sp_dev_matmul a = {
        .out = &out, .x = on(d.cuda, x, sizeof x), .w = &w, .n_w = 1, .n_row = 1};
    if (getenv("SPARING_CUDA_LIBRARY")) /* a GPU is not lost at will */
        return;
    assert_int_equal(setenv("SPARING_SIMT_FULL", "/", 1), 0);
    assert_int_equal(d.cuda->ops->matmul(d.cuda, &a), SP_NOMEM); /* of its rows */
    assert_int_equal(d.cuda->ops->mem_raw(d.cuda, &p, 1), SP_NOMEM);
    assert_int_equal(d.cuda->ops->mem_page(d.cuda, &p, 1), SP_NOMEM);
    assert_int_equal(unsetenv("SPARING_SIMT_FULL"), 0);
    assert_int_equal(d.cuda->ops->matmul(d.cuda, &a), SP_OK);
    assert_int_equal(setenv("SPARING_SIMT_LOST", "/", 1), 0);
    assert_int_equal(d.cuda->ops->matmul(d.cuda, &a), SP_DEV);
    assert_int_equal(d.cuda->ops->mem_read(d.cuda, x, out, sizeof x), SP_DEV);
    assert_int_equal(unsetenv("SPARING_SIMT_LOST"), 0);
    close_devices(&d);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_no_library),
                                       cmocka_unit_test(test_memory_that_ends_and_a_lost_device),
                                       cmocka_unit_test(test_rows_of_each_type),
                                       cmocka_unit_test(test_products_of_each_type),
                                       cmocka_unit_test(test_operations_on_rows),
                                       cmocka_unit_test(test_acts_of_each_kind),
                                       cmocka_unit_test(test_best_of_logits),
                                       cmocka_unit_test(test_steps_as_graphs),
                                       cmocka_unit_test(test_reads_within_a_step),
                                       cmocka_unit_test(test_cuda_experts),
                                       cmocka_unit_test(test_cuda_fp8),
                                       cmocka_unit_test(test_cuda_fp8_beside),
                                       cmocka_unit_test(test_cuda_states),
                                       cmocka_unit_test(test_pages_are_those_of_the_cpu),
                                       cmocka_unit_test(test_cuda_attention),
                                       cmocka_unit_test(test_cuda_chunks_change_no_bit),
                                       cmocka_unit_test(test_cuda_attention_without_pages),
                                       cmocka_unit_test(test_cuda_moved),
                                       cmocka_unit_test(test_cuda_chosen_pages),
                                       cmocka_unit_test(test_cuda_latents),
                                       cmocka_unit_test(test_cuda_latent_chunks_change_no_bit),
                                       cmocka_unit_test(
                                           test_cuda_latent_pages_are_those_of_the_cpu),
                                       cmocka_unit_test(test_cuda_products_of_heads),
                                       cmocka_unit_test(test_cuda_certified_steps),
                                       cmocka_unit_test(test_cuda_certified_heads),
                                       cmocka_unit_test(test_cuda_dense_after_all),
                                       cmocka_unit_test(test_cuda_bound_is_met)};
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
