/* Products of weights whose rows are widened to f32, against sums in f64 of the same values: every type, rows and tokens that are
 * no whole tiles, more than one piece of k; a token alone and in company gets the same bits. */
#include "test.h"

#include "base/mem.h"
#include "dev/dev.h"
#include "fmt/grid.h"
#include "kern/widen.h"

#include <math.h>

enum { K = 768, N = 37, TOKS = 29 };

static const struct { int type; size_t at; } types[] = {
    {SP_IQ1_S, 0}, {SP_IQ1_M, 0}, {SP_IQ2_XXS, 0}, {SP_IQ2_XS, 0}, {SP_IQ2_S, 0}, {SP_IQ3_XXS, 0}, {SP_IQ3_S, 0},
    {SP_TQ1_0, 52}, {SP_NVFP4, 0}};
enum { TYPES = sizeof types / sizeof types[0] };

/* Random blocks with scales of moderate size. */
static void fill_blocks(uint8_t *p, size_t i, uint64_t *s)
{
    const sp_type_info *t = sp_type_get((uint32_t)types[i].type);
    for (size_t b = 0; b < N * K / t->blk_elem; b++, p += t->blk_bytes) {
        for (size_t j = 0; j < t->blk_bytes; j++)
            p[j] = (uint8_t)test_rand(s);
        sp_f16 h = sp_f16_from_f32(test_float(s) * 0.01f);
        if (types[i].type == SP_NVFP4)
            p[0] = p[1] = p[2] = p[3] = (uint8_t)(8 + p[0] % 32);
        else if (types[i].type == SP_IQ1_M) /* the scale's digits are the top ones of four words: 2^-6 and some more */
            p[49] &= 0x0f, p[51] &= 0x0f, p[53] = (uint8_t)((p[53] & 0x0f) | 0x40), p[55] = (uint8_t)((p[55] & 0x0f) | 0x20);
        else
            memcpy(p + types[i].at, &h, sizeof h);
    }
}

static void run(sp_dev *dev, float *out, const sp_dev_weight *w, const float *x, size_t n_tok)
{
    const sp_dev_matmul a = {.out = (float *const[]){out}, .x = x, .w = w, .n_w = 1, .n_row = n_tok};
    assert_int_equal(dev->ops->matmul(dev, &a), SP_OK);
}

void test_widened_products(void **state)
{
    (void)state;
    uint64_t s = 3;
    static float x[TOKS * K], out[TOKS * N], lone[N], row[K];
    for (size_t i = 0; i < TOKS * K; i++)
        x[i] = test_float(&s);
    for (size_t i = 0; i < TYPES * SP_CPU_LEVELS; i++) {
        const sp_dev_cfg cfg = {.name = "cpu", .n_thread = 2, .mask = (sp_cpu_level)(i / TYPES)};
        sp_type type = (sp_type)types[i % TYPES].type;
        sp_dev *dev;
        sp_dev_weight w;
        size_t row_bytes = sp_type_row_bytes(type, K);
        assert_int_equal(sp_dev_open(&dev, &cfg, NULL), SP_OK);
        uint8_t *raw = sp_mem_align(N * row_bytes), *at = sp_mem_align(dev->ops->weight_bytes(dev, type, N, K));
        fill_blocks(raw, i % TYPES, &s);
        assert_int_equal(dev->ops->weight_put(dev, &w, at, type, raw, N, K), SP_OK);
        run(dev, out, &w, x, TOKS);
        for (size_t r = 0; r < N; r++) {
            sp_ref_widen(type)(row, raw + r * row_bytes, K);
            for (size_t t = 0; t < TOKS; t++) {
                double sum = 0, size = 1e-9;
                for (size_t j = 0; j < K; j++) {
                    sum += (double)row[j] * (double)x[t * K + j];
                    size += fabs((double)row[j] * (double)x[t * K + j]);
                }
                if (!(fabs((double)out[t * N + r] - sum) <= 1e-6 * size))
                    fail_msg("%s row %zu token %zu: %g for %g", sp_type_name(type), r, t, (double)out[t * N + r], sum);
            }
        }
        for (size_t t = 0; t < TOKS; t += 7) {
            run(dev, lone, &w, x + t * K, 1);
            assert_memory_equal(lone, out + t * N, sizeof lone);
        }
        sp_mem_free(raw);
        sp_mem_free(at);
        sp_dev_close(dev);
    }
}
