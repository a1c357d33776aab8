/* Mixtures of experts on the CUDA device, against the CPU device: every way of choosing, all forms
 * of the matrices, few rows and many. */
#include "cuda.h"

#include <stdio.h>

enum { K = 64, FF = 48, EXPERTS = 8, MOST = 40, USED = 3 };

typedef struct data {
    float x[MOST * K], norm[2][K], router[EXPERTS * K], bias[6][EXPERTS * 2 * K];
    float pair[EXPERTS * 2 * FF * K], down[EXPERTS * K * FF];
} data;

enum {
    PAIR = 1,
    PLAIN = 2,
    BIASES = 4,
    GROUPS = 8,
    BY_ONE = 16,
    NORMED = 32,
    PICK_BIAS = 64,
    EQUAL = 128, /* all experts: the first are taken */
    FACTORS = 256
};

static const float scales[EXPERTS] = {1, 2, 0.5f, 4, 1, 3, 0.25f, 2};

/* Rows of all experts. A scaled matrix has factors on the CUDA device, and is multiplied by them
 * before on the CPU, whose plain types have none. */
static sp_dev_weight put(sp_dev *dev, const float *rows, size_t n_row, size_t k, bool is_scaled)
{
    static float scaled[EXPERTS * 2 * FF * K];
    const bool is_cpu = sp_dev_cpu_pool(dev) != NULL;
    sp_dev_weight w;
    for (size_t i = 0; i < n_row * k; i++)
        scaled[i] = rows[i] * (is_scaled && is_cpu ? scales[i / (n_row / EXPERTS * k)] : 1);
    size_t n_bytes = dev->ops->weight_bytes(dev, SP_F32, n_row, k);
    void *at = on(dev, n_bytes ? NULL : scaled, n_bytes ? n_bytes : n_row * k * sizeof *rows);
    assert_int_equal(
        dev->ops->weight_put(dev, &w, at, SP_F32, n_bytes ? scaled : at, n_row, k), SP_OK);
    w.scale = is_scaled && !is_cpu ? scales : NULL;
    return w;
}

static void run(sp_dev *dev, float *got, const data *d, size_t first, size_t n_row, sp_score score,
                unsigned is)
{
    static const float zeros[EXPERTS * K];
    const sp_dev_weight router = put(dev, is & EQUAL ? zeros : d->router, EXPERTS, K, false);
    const sp_dev_weight down = put(dev, d->down, EXPERTS * K, FF, is & FACTORS);
    const size_t n_glu = is & PAIR ? EXPERTS * 2 * FF : EXPERTS * FF;
    const sp_dev_weight glu[2] = {
        put(dev, d->pair, n_glu, K, is & FACTORS),
        put(dev, d->pair + EXPERTS * FF * K, EXPERTS * FF, K, is & FACTORS)};
    const float *biases[2] = {is & BIASES ? on(dev, d->bias[0], EXPERTS * FF * 4) : NULL,
                              is & BIASES ? on(dev, d->bias[1], EXPERTS * FF * 4) : NULL};
    const sp_dev_experts a = {
        .out = on(dev, NULL, n_row * K * 4),
        .x = on(dev, d->x + first * K, n_row * K * 4),
        .norm = on(dev, d->norm[0], K * 4),
        .eps = 1e-5f,
        .n_row = n_row,
        .n_ff = FF,
        .route = {score, EXPERTS, USED, is & GROUPS ? 4 : 1, is & GROUPS ? 2 : 1, is & BY_ONE,
                  is & NORMED, 1.5f},
        .router = &router,
        .router_bias = is & BIASES ? on(dev, d->bias[2], EXPERTS * 4) : NULL,
        .router_norm = is & FACTORS ? on(dev, d->norm[1], K * 4) : NULL,
        .router_scale = is & FACTORS ? 0.25f : 0,
        .weight_scale = is & FACTORS ? on(dev, d->bias[3], EXPERTS * 4) : NULL,
        .pick_bias = is & PICK_BIAS ? on(dev, d->bias[4], EXPERTS * 4) : NULL,
        .glu = glu,
        .is_pair = is & PAIR,
        .is_plain = is & PLAIN,
        .glu_bias = biases,
        .act = is & PLAIN ? SP_ACT_RELU2 : SP_ACT_SILU,
        .down = &down,
        .down_bias = is & BIASES ? on(dev, d->bias[5], EXPERTS * K * 4) : NULL};
    assert_int_equal(dev->ops->experts(dev, &a), SP_OK);
    get(dev, got, a.out, n_row * K * 4);
    done();
}

/* As the CPU, the same in all orders of threads, and each row as if it came alone. */
static void check(const devices *d, const data *of, size_t n_row, sp_score score, unsigned is)
{
    static float got[MOST * K], again[MOST * K], cpu[MOST * K];
    static double want[MOST * K];
    run(d->cpu, cpu, of, 0, n_row, score, is);
    for (size_t i = 0; i < n_row * K; i++)
        want[i] = (double)cpu[i];
    for (size_t o = 0; o < ORDERS; o++) {
        set_order(orders[o]);
        run(d->cuda, o ? again : got, of, 0, n_row, score, is);
        if (o)
            assert_memory_equal(got, again, n_row * K * 4);
    }
    set_order(0);
    char what[64];
    snprintf(what, sizeof what, "%zu rows, score %d, form %u", n_row, (int)score, is);
    check_near(what, got, want, n_row * K, 2e-3);
    run(d->cuda, again, of, n_row - 1, 1, score, is);
    assert_memory_equal(got + (n_row - 1) * K, again, K * 4);
}

static void fill(float *x, size_t n, float size, uint64_t *seed)
{
    for (size_t i = 0; i < n; i++)
        x[i] = size * test_float(seed);
}

void test_cuda_experts(void **state)
{
    (void)state;
    static data of;
    uint64_t seed = 17;
    devices d = open_devices();
    fill(of.x, MOST * K, 2, &seed);
    fill(of.norm[0], 2 * K, 1, &seed);
    fill(of.router, EXPERTS * K, 0.5f, &seed);
    fill(of.bias[0], 6 * EXPERTS * 2 * K, 0.5f, &seed);
    fill(of.pair, EXPERTS * 2 * FF * K, 0.2f, &seed);
    fill(of.down, EXPERTS * K * FF, 0.2f, &seed);
    check(&d, &of, 1, SP_SCORE_SOFTMAX, 0);
    check(&d, &of, 5, SP_SCORE_SOFTMAX, NORMED | PAIR);
    check(&d, &of, 5, SP_SCORE_SOFTMAX, EQUAL | BIASES | FACTORS);
    check(&d, &of, 9, SP_SCORE_SIGMOID, GROUPS | PICK_BIAS | NORMED);
    check(&d, &of, 9, SP_SCORE_SIGMOID, GROUPS | PICK_BIAS | BY_ONE | PLAIN);
    check(&d, &of, 3, SP_SCORE_CHOSEN, PAIR | FACTORS);
    check(&d, &of, 3, SP_SCORE_CHOSEN, EQUAL);
    check(&d, &of, MOST, SP_SCORE_CHOSEN, BIASES); /* pieces of 32 rows */
    check(&d, &of, MOST, SP_SCORE_SIGMOID, EQUAL); /* three experts have all of them */
    close_devices(&d);
}
