/* Mixtures of experts on the CPU device, against the formula in f64: every way of choosing, weight types, every level; rows in company,
 * alone and on any number of threads get the same bits; what no row goes to is not read. */
#include "test.h"

#include "base/mem.h"
#include "dev/dev.h"

#include <math.h>
#include <stdio.h>

enum { K = 64, FF = 96, N = 12, ROWS = 70 };

typedef struct mix {
    const char *name;
    sp_dev_route route;
    bool router_bias, pick_bias, biases, pair;
    sp_act act;
} mix;

static const mix mixes[] = {
    {"softmax", {SP_SCORE_SOFTMAX, N, 2, 1, 1, false, true, 1}, false, false, false, false, SP_ACT_SILU},
    {"not normed", {SP_SCORE_SOFTMAX, N, 4, 1, 1, false, false, 2.5f}, false, false, false, true, SP_ACT_GELU_TANH},
    {"biased choice", {SP_SCORE_SOFTMAX, N, 3, 1, 1, false, true, 1}, false, true, false, false, SP_ACT_SILU},
    {"groups", {SP_SCORE_SIGMOID, N, 4, 4, 2, false, true, 1.5f}, false, true, false, true, SP_ACT_SILU},
    {"groups by their best", {SP_SCORE_SOFTMAX, N, 4, 4, 2, true, false, 1.5f}, false, true, false, true, SP_ACT_SILU},
    {"groups of one", {SP_SCORE_SIGMOID, N, 3, N, 5, false, false, 1}, false, true, false, false, SP_ACT_SILU},
    {"over the chosen", {SP_SCORE_CHOSEN, N, 4, 1, 1, false, true, 1}, true, false, true, false, SP_ACT_CLAMPED},
    {"all", {SP_SCORE_SOFTMAX, N, N, 1, 1, false, true, 1}, false, false, true, false, SP_ACT_SILU}};
enum { MIXES = sizeof mixes / sizeof mixes[0] };

static float x[ROWS * K], norm[K], router[N * K], router_bias[N], pick_bias[N], gate[N * FF * K], up[N * FF * K], pair[2 * N * FF * K],
    down[N * K * FF], gate_bias[N * FF], up_bias[N * FF], down_bias[N * K];

static void fill_one(float *p, size_t n, float size, uint64_t seed)
{
    for (size_t i = 0; i < n; i++)
        p[i] = test_float(&seed) * size;
}

static void fill(void)
{
    fill_one(x, ROWS * K, 2, 1);
    fill_one(norm, K, 1.5f, 2);
    fill_one(router, N * K, 0.4f, 3);
    fill_one(router_bias, N, 2, 4);
    fill_one(pick_bias, N, 0.5f, 5);
    fill_one(gate, N * FF * K, 0.6f, 6);
    fill_one(up, N * FF * K, 0.6f, 7);
    fill_one(down, N * K * FF, 0.2f, 8);
    fill_one(gate_bias, N * FF, 4, 9);
    fill_one(up_bias, N * FF, 4, 10);
    fill_one(down_bias, N * K, 1, 11);
}

/* Rows of a weight type, from f32 that become what it can hold. */
static void *encode(float *w, size_t n, sp_type type)
{
    size_t n_bytes = sp_type_row_bytes(type, n);
    uint8_t *p = sp_mem_align(n_bytes);
    if (type == SP_F32)
        memcpy(p, w, n_bytes);
    for (size_t i = 0; i < n && (type == SP_F16 || type == SP_BF16); i++) {
        uint32_t bits;
        memcpy(&bits, &w[i], 4);
        bits &= 0xffff0000u;
        uint16_t h = (uint16_t)(bits >> 16);
        memcpy(&w[i], &bits, 4);
        if (type == SP_F16)
            h = sp_f16_from_f32(w[i]);
        memcpy(p + 2 * i, &h, 2);
    }
    for (size_t b = 0; b * 32 < n && type == SP_Q8_0; b++) {
        sp_blk_q8_0 blk = {.d = sp_f16_from_f32(1.0f / 256)};
        for (size_t i = 0; i < 32; i++) {
            blk.qs[i] = (int8_t)lrintf(fmaxf(fminf(w[32 * b + i] * 256, 127), -127));
            w[32 * b + i] = (float)blk.qs[i] / 256;
        }
        memcpy(p + b * sizeof blk, &blk, sizeof blk);
    }
    return p;
}

static sp_dev_weight put(sp_dev *dev, float *w, size_t n_row, size_t k, sp_type type, void *keep[2])
{
    sp_dev_weight out;
    size_t n_bytes = dev->ops->weight_bytes(dev, type, n_row, k);
    keep[0] = encode(w, n_row * k, type);
    keep[1] = n_bytes ? sp_mem_align(n_bytes) : NULL;
    assert_int_equal(dev->ops->weight_put(dev, &out, keep[1], type, keep[0], n_row, k), SP_OK);
    return out;
}

static double act(sp_act a, double g, double u)
{
    switch (a) {
    case SP_ACT_GELU_TANH:
        return 0.5 * g * (1 + tanh(sqrt(2 / 3.14159265358979323846) * (g + 0.044715 * g * g * g))) * u;
    case SP_ACT_CLAMPED:
        g = fmin(g, 7);
        return g / (1 + exp(-1.702 * g)) * (fmin(fmax(u, -7), 7) + 1);
    default:
        return g / (1 + exp(-g)) * u;
    }
}

static double dot(const float *w, const double *f, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)w[i] * f[i];
    return sum;
}

/* weight [N]: 0 where a row does not go. By sorting: nothing of the device's way of choosing. */
static void choose(double *weight, const double *f, const mix *m)
{
    const sp_dev_route *r = &m->route;
    double s[N], p[N], sum = 0, group[N] = {0};
    bool open[N];
    for (size_t e = 0; e < N; e++)
        s[e] = dot(router + e * K, f, K) + (m->router_bias ? (double)router_bias[e] : 0);
    for (size_t e = 0; e < N; e++)
        sum += exp(s[e]);
    for (size_t e = 0; e < N; e++) {
        s[e] = r->score == SP_SCORE_SOFTMAX ? exp(s[e]) / sum : r->score == SP_SCORE_SIGMOID ? 1 / (1 + exp(-s[e])) : s[e];
        p[e] = s[e] + (m->pick_bias ? (double)pick_bias[e] : 0);
    }
    size_t each = N / r->n_group;
    for (size_t g = 0; g < r->n_group; g++) /* of all pairs in a group the best */
        for (size_t i = g * each; i < (g + 1) * each; i++)
            for (size_t j = g * each; j < (g + 1) * each; j++)
                if ((i != j || each == 1 || r->group_by_one) && (p[i] + p[j] > group[g] || (i == g * each && j <= i + !r->group_by_one)))
                    group[g] = p[i] + p[j];
    for (size_t e = 0; e < N; e++) {
        size_t better = 0;
        for (size_t g = 0; g < r->n_group; g++)
            better += group[g] > group[e / each];
        open[e] = better < r->n_group_used;
    }
    sum = 0;
    for (size_t e = 0; e < N; e++) {
        size_t better = 0;
        for (size_t i = 0; i < N; i++)
            better += open[i] && p[i] > p[e];
        weight[e] = !open[e] || better >= r->n_used ? 0 : r->score == SP_SCORE_CHOSEN ? exp(s[e]) : s[e];
        sum += weight[e];
    }
    for (size_t e = 0; e < N; e++)
        weight[e] *= (double)r->scale / (r->normed ? sum : 1);
}

static void formula(double *out, const mix *m)
{
    for (size_t t = 0; t < ROWS; t++) {
        double f[K], weight[N], h[FF], square = 0;
        for (size_t i = 0; i < K; i++)
            square += (double)x[t * K + i] * (double)x[t * K + i];
        for (size_t i = 0; i < K; i++)
            f[i] = (double)x[t * K + i] * (double)norm[i] / sqrt(square / K + 1e-5);
        choose(weight, f, m);
        for (size_t i = 0; i < K; i++)
            out[t * K + i] = 0;
        for (size_t e = 0; e < N; e++) {
            for (size_t i = 0; i < FF && weight[e] != 0; i++) {
                size_t r = e * FF + i;
                h[i] = act(m->act, dot(gate + r * K, f, K) + (m->biases ? (double)gate_bias[r] : 0),
                           dot(up + r * K, f, K) + (m->biases ? (double)up_bias[r] : 0));
            }
            for (size_t i = 0; i < K && weight[e] != 0; i++)
                out[t * K + i] += weight[e] * (dot(down + (e * K + i) * FF, h, FF) + (m->biases ? (double)down_bias[e * K + i] : 0));
        }
    }
}

/* A device with the weights of one type. */
typedef struct bed {
    sp_dev *dev;
    sp_dev_weight router, glu[2], pair, down;
    void *keep[5][2];
} bed;

static void open_bed(bed *b, sp_cpu_level level, size_t n_thread, sp_type type)
{
    sp_dev_cfg cfg = {.name = "cpu", .n_thread = n_thread, .mask = level};
    assert_int_equal(sp_dev_open(&b->dev, &cfg, NULL), SP_OK);
    fill();
    b->router = put(b->dev, router, N, K, SP_F32, b->keep[0]);
    b->glu[0] = put(b->dev, gate, N * FF, K, type, b->keep[1]);
    b->glu[1] = put(b->dev, up, N * FF, K, type, b->keep[2]);
    b->down = put(b->dev, down, N * K, FF, type, b->keep[3]);
    for (size_t e = 0; e < N; e++) {
        memcpy(pair + 2 * e * FF * K, gate + e * FF * K, FF * K * sizeof *pair);
        memcpy(pair + (2 * e + 1) * FF * K, up + e * FF * K, FF * K * sizeof *pair);
    }
    b->pair = put(b->dev, pair, 2 * N * FF, K, type, b->keep[4]);
}

static void close_bed(bed *b)
{
    for (size_t i = 0; i < 5; i++)
        for (size_t j = 0; j < 2; j++)
            sp_mem_free(b->keep[i][j]);
    sp_dev_close(b->dev);
}

static void run_from(float *out, bed *b, const mix *m, size_t first, size_t n, sp_dev_shelf *shelf, size_t shelf_first)
{
    const float *const glu_bias[2] = {m->biases ? gate_bias : NULL, m->biases ? up_bias : NULL};
    const sp_dev_experts e = {.out = out + first * K, .x = x + first * K, .norm = norm, .eps = 1e-5f, .n_row = n, .n_ff = FF, .route = m->route,
                              .router = &b->router, .router_bias = m->router_bias ? router_bias : NULL,
                              .pick_bias = m->pick_bias ? pick_bias : NULL, .glu = m->pair ? &b->pair : b->glu, .is_pair = m->pair,
                              .glu_bias = glu_bias, .act = m->act, .down = &b->down, .down_bias = m->biases ? down_bias : NULL,
                              .shelf = shelf, .shelf_first = shelf_first};
    assert_int_equal(b->dev->ops->experts(b->dev, &e), SP_OK);
}

static void run(float *out, bed *b, const mix *m, size_t first, size_t n)
{
    run_from(out, b, m, first, n, NULL, 0);
}

void test_experts_agree_with_the_formula(void **state)
{
    (void)state;
    static double want[ROWS * K];
    static float got[ROWS * K], parts[ROWS * K];
    static const struct { sp_type type; double nmse; } types[] = {{SP_F32, 1e-11}, {SP_F16, 1e-11}, {SP_BF16, 1e-4}, {SP_Q8_0, 5e-4}};
    static const size_t chunk[] = {1, 40, 3, 1, 25};
    for (size_t i = 0; i < 4 * MIXES * (size_t)(sp_cpu_detect() + 1); i++) {
        const mix *m = &mixes[i / 4 % MIXES];
        sp_cpu_level level = (sp_cpu_level)(i / 4 / MIXES);
        double off = 0, all = 0;
        bed b;
        open_bed(&b, level, 1, types[i % 4].type);
        formula(want, m);
        run(got, &b, m, 0, ROWS);
        close_bed(&b);
        for (size_t j = 0; j < ROWS * K; j++) {
            off += ((double)got[j] - want[j]) * ((double)got[j] - want[j]);
            all += want[j] * want[j];
        }
        if (!(off <= types[i % 4].nmse * all))
            fail_msg("%s in %s at level %d: off by %g", m->name, sp_type_name(types[i % 4].type), (int)level, off / all);
        open_bed(&b, level, 3, types[i % 4].type);
        for (size_t c = 0, at = 0; c < 5; at += chunk[c++])
            run(parts, &b, m, at, chunk[c]);
        close_bed(&b);
        if (memcmp(got, parts, sizeof got) != 0)
            fail_msg("%s in %s at level %d: rows in other company have other bits", m->name, sp_type_name(types[i % 4].type), (int)level);
    }
}

/* Weights of experts that no row goes to are no numbers; those of the others are counted once, however many rows go there. */
void test_experts_read_the_union(void **state)
{
    (void)state;
    const mix m = {"one", {SP_SCORE_SIGMOID, N, 3, 1, 1, false, true, 1}, false, true, false, false, SP_ACT_SILU};
    static const size_t chosen[] = {2, 7, 11};
    static float out[ROWS * K];
    float before[N];
    sp_dev_stat stat[SP_STAGES] = {{0}};
    bed b;
    open_bed(&b, SP_CPU_LEVELS - 1, 2, SP_F32);
    memcpy(before, pick_bias, sizeof before);
    for (size_t e = 0; e < N; e++) {
        bool is_chosen = e == chosen[0] || e == chosen[1] || e == chosen[2];
        pick_bias[e] = is_chosen ? 10 : -10;
        for (size_t i = 0; i < FF * K && !is_chosen; i++)
            ((float *)b.keep[1][0])[e * FF * K + i] = ((float *)b.keep[2][0])[e * FF * K + i] = ((float *)b.keep[3][0])[e * FF * K + i] = NAN;
    }
    b.dev->stat = stat;
    run(out, &b, &m, 0, ROWS);
    for (size_t i = 0; i < ROWS * K; i++)
        assert_true(isfinite(out[i]));
    assert_true(stat[SP_STAGE_GLU].bytes == 4.0 * (N * K + 2 * 3 * FF * K));
    assert_true(stat[SP_STAGE_DOWN].bytes == 4.0 * 3 * FF * K);
    assert_true(stat[SP_STAGE_DOWN].macs == 3.0 * ROWS * FF * K);
    memcpy(pick_bias, before, sizeof before);
    close_bed(&b);
}

/* Experts of two layers that stay in the file give the same bits, with room for those of one layer and a few, whoever had to make room. */
void test_experts_on_a_shelf(void **state)
{
    (void)state;
    static float want[ROWS * K], got[ROWS * K];
    static const sp_type types[] = {SP_F32, SP_F16, SP_Q8_0};
    static const size_t chunk[] = {1, 40, 3, 1, 25};
    for (size_t i = 0; i < 3 * MIXES; i++) {
        const mix *m = &mixes[i / 3];
        sp_dev_shelf *shelf;
        bed b, raw;
        open_bed(&b, SP_CPU_LEVELS - 1, 2, types[i % 3]);
        run(want, &b, m, 0, ROWS);
        size_t each = 2 * b.dev->ops->weight_bytes(b.dev, types[i % 3], FF, K) + b.dev->ops->weight_bytes(b.dev, types[i % 3], K, FF);
        assert_int_equal(b.dev->ops->shelf_new(b.dev, &shelf, 2 * N, N + 3, each), SP_OK);
        raw = b; /* the same rows as in the file */
        raw.glu[0].data = b.keep[1][0];
        raw.glu[1].data = b.keep[2][0];
        raw.down.data = b.keep[3][0];
        raw.pair.data = b.keep[4][0];
        for (size_t c = 0, at = 0; c < 5; at += chunk[c++]) {
            run_from(got, &raw, m, at, chunk[c], shelf, N);
            run_from(got, &raw, m, at, chunk[c], shelf, 0);
            run_from(got, &raw, m, at, chunk[c], shelf, N);
        }
        b.dev->ops->shelf_free(b.dev, shelf);
        close_bed(&b);
        if (memcmp(got, want, sizeof got) != 0)
            fail_msg("%s in %s: other bits", m->name, sp_type_name(types[i % 3]));
    }
}
