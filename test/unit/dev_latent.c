/* Attention over latents and products of single heads on the CPU device, against f64: every level and format; chunks and threads
 * change no bit. Parts of rows that stay in the file are those of the same rows in the device's layout. */
#include "test.h"

#include "base/mem.h"
#include "fmt/quantise.h"
#include "kv/page.h"

#include <math.h>

enum { HEADS = 5, LATENT = 48, D = 64, N_TOK = 300, PAGES = (N_TOK + 31) / 32, N_OUT = 24, N_IN = 40, N_COPY = 3 };

static float q[N_TOK * HEADS * D], k[N_TOK * D];
static double truth[N_TOK * HEADS * LATENT];
static const float scale = 0.25f;

static void fill(void)
{
    static double score[N_TOK];
    uint64_t s = 3;
    for (size_t i = 0; i < N_TOK * HEADS * D; i++)
        q[i] = test_float(&s) * 1.2f;
    for (size_t i = 0; i < N_TOK * D; i++)
        k[i] = test_float(&s) * 2 + (float)(i % D % 5) * 0.1f;
    for (size_t p = 0; p < N_TOK; p++) {
        for (size_t h = 0; h < HEADS; h++) {
            double top = -INFINITY, sum = 0, *out = truth + (p * HEADS + h) * LATENT;
            for (size_t j = 0; j <= p; j++) {
                score[j] = 0;
                for (size_t e = 0; e < D; e++)
                    score[j] += (double)q[(p * HEADS + h) * D + e] * (double)k[j * D + e] * (double)scale;
                top = fmax(top, score[j]);
            }
            for (size_t j = 0; j <= p; j++)
                sum += exp(score[j] - top);
            for (size_t j = 0; j <= p; j++)
                for (size_t e = 0; e < LATENT; e++)
                    out[e] += exp(score[j] - top) / sum * (double)k[j * D + e];
        }
    }
}

static sp_dev *open_dev(int level, size_t n_thread)
{
    sp_dev *dev;
    sp_dev_cfg cfg = {.name = "cpu", .n_thread = n_thread, .mask = (sp_cpu_level)level};
    assert_int_equal(sp_dev_open(&dev, &cfg, NULL), SP_OK);
    return dev;
}

static void run(float *out, const sp_kv_shape *shape, int level, size_t n_thread, size_t chunk)
{
    sp_dev *dev = open_dev(level, n_thread);
    const sp_dev_kv_view kv = sp_kv_page_view(shape, 0);
    size_t lo = sp_kv_lo_bytes(shape), hi = sp_kv_page_bytes(shape) - lo;
    void *page[PAGES], *low[PAGES], *open = sp_mem_align(sp_kv_open_bytes(shape) + 64);
    for (size_t i = 0; i < PAGES; i++) {
        page[i] = sp_mem_align(hi);
        low[i] = lo && (i == 0 || !shape->format->is_demoted) ? sp_mem_align(lo) : NULL;
    }
    for (size_t pos = 0, n; pos < N_TOK; pos += n) {
        n = chunk < N_TOK - pos ? chunk : N_TOK - pos;
        const sp_dev_span span = {.n = n, .pos = pos, .page = page, .lo = low, .open = open};
        const sp_dev_attn a = {.out = out + pos * HEADS * LATENT, .q = q + pos * HEADS * D, .k = k + pos * D, .kv = &kv, .n_q_head = HEADS,
                               .scale = scale, .span = &span, .n_span = 1};
        assert_int_equal(dev->ops->attn_paged(dev, &a), SP_OK);
    }
    for (size_t i = 0; i < PAGES; i++) {
        sp_mem_free(page[i]);
        sp_mem_free(low[i]);
    }
    sp_mem_free(open);
    sp_dev_close(dev);
}

void test_latent_attention(void **state)
{
    (void)state;
    static const struct { const char *name; double tol; } formats[] = {{"f32", 2e-5}, {"f16", 4e-3}, {"bf16", 4e-2}, {"q8", 0.06}, {"q4", 0.8}};
    static float whole[N_TOK * HEADS * LATENT], parts[N_TOK * HEADS * LATENT];
    fill();
    for (size_t f = 0; f < sizeof formats / sizeof formats[0]; f++) {
        const sp_kv_shape shape = {.format = sp_kv_format_find(formats[f].name), .n_layer = 1, .n_head = 1, .d = D, .n_latent = LATENT};
        for (int level = SP_CPU_SCALAR; level <= (int)sp_cpu_detect(); level++) {
            run(whole, &shape, level, 1, N_TOK);
            for (size_t i = 0; i < N_TOK * HEADS * LATENT; i++)
                if (!(fabs((double)whole[i] - truth[i]) <= formats[f].tol))
                    fail_msg("%s at level %d: element %zu is %g, not %g", formats[f].name, level, i, (double)whole[i], truth[i]);
            run(parts, &shape, level, 2, 37);
            assert_memory_equal(whole, parts, sizeof whole);
            run(parts, &shape, level, 1, 1);
            assert_memory_equal(whole, parts, sizeof whole);
        }
    }
}

/* A page of keys only takes about half of one with values. */
void test_latent_pages_hold_keys_once(void **state)
{
    (void)state;
    static const char *const formats[] = {"f32", "f16", "q8"};
    for (size_t f = 0; f < 3; f++) {
        sp_kv_shape shape = {.format = sp_kv_format_find(formats[f]), .n_layer = 3, .n_head = 1, .d = 576};
        size_t both = sp_kv_page_bytes(&shape), both_open = sp_kv_open_bytes(&shape);
        shape.n_latent = 512;
        assert_true(sp_kv_shape_fits(&shape));
        assert_true(20 * sp_kv_page_bytes(&shape) <= 11 * both);
        assert_true(2 * sp_kv_open_bytes(&shape) == both_open);
    }
    const sp_kv_shape wide = {.format = sp_kv_format_find("q8"), .n_layer = 1, .n_head = 1, .d = 576};
    assert_false(sp_kv_shape_fits(&wide));
}

void test_products_of_heads(void **state)
{
    (void)state;
    enum { ROWS = 7, LD_X = N_IN + N_COPY + 2, LD_OUT = N_OUT + N_COPY + 1 };
    static float w[HEADS * N_OUT * N_IN], x[ROWS * HEADS * LD_X], out[ROWS * HEADS * LD_OUT], one[HEADS * LD_OUT];
    uint64_t s = 5;
    for (size_t i = 0; i < sizeof w / sizeof w[0]; i++)
        w[i] = test_float(&s);
    for (size_t i = 0; i < sizeof x / sizeof x[0]; i++)
        x[i] = test_float(&s);
    for (int level = SP_CPU_SCALAR; level <= (int)sp_cpu_detect(); level++) {
        sp_dev *dev = open_dev(level, 2);
        const sp_dev_weight m = {.data = w, .type = SP_F32, .n_row = HEADS * N_OUT, .k = N_IN};
        sp_dev_each_head a = {.out = out, .ld_out = LD_OUT, .x = x, .ld_x = LD_X, .n_copy = N_COPY, .w = &m, .n_head = HEADS, .n_row = ROWS};
        memset(out, 0, sizeof out);
        assert_int_equal(dev->ops->each_head(dev, &a), SP_OK);
        for (size_t i = 0; i < ROWS * HEADS; i++) {
            for (size_t r = 0; r < N_OUT; r++) {
                double want = 0;
                for (size_t e = 0; e < N_IN; e++)
                    want += (double)w[(i % HEADS * N_OUT + r) * N_IN + e] * (double)x[i * LD_X + e];
                assert_true(fabs((double)out[i * LD_OUT + r] - want) <= 1e-5);
            }
            assert_memory_equal(out + i * LD_OUT + N_OUT, x + i * LD_X + N_IN, N_COPY * sizeof *x);
            assert_true(out[i * LD_OUT + N_OUT + N_COPY] == 0);
        }
        a.n_row = 1;
        for (size_t t = 0; t < ROWS; t++) {
            a.out = one;
            a.x = x + t * HEADS * LD_X;
            assert_int_equal(dev->ops->each_head(dev, &a), SP_OK);
            assert_memory_equal(one, out + t * HEADS * LD_OUT, sizeof one);
        }
        sp_dev_close(dev);
    }
}

void test_parts_of_rows_in_the_file(void **state)
{
    (void)state;
    enum { VOCAB = 5, K = 768, N = 256, IDS = 3 };
    static const sp_type types[] = {SP_F32, SP_F16, SP_Q8_0, SP_Q4_0, SP_Q4_K};
    static const uint32_t id[IDS] = {4, 0, 3};
    static float x[VOCAB * K], whole[IDS * K], part[IDS * N];
    static uint64_t raw[VOCAB * K / 2];
    uint64_t s = 9;
    for (size_t i = 0; i < VOCAB * K; i++)
        x[i] = test_float(&s);
    for (size_t t = 0; t < sizeof types / sizeof types[0]; t++) {
        sp_dev *dev = open_dev(SP_CPU_LEVELS - 1, 2);
        sp_dev_weight packed, file = {.data = raw, .type = types[t], .n_row = VOCAB, .k = K};
        void *mem = NULL;
        for (size_t r = 0; r < VOCAB; r++)
            sp_quantise_row((char *)raw + r * sp_type_row_bytes(types[t], K), types[t], x + r * K, K);
        assert_int_equal(dev->ops->mem_raw(dev, &mem, dev->ops->weight_bytes(dev, types[t], VOCAB, K) + 64), SP_OK);
        assert_int_equal(dev->ops->weight_put(dev, &packed, mem, types[t], raw, VOCAB, K), SP_OK);
        assert_int_equal(dev->ops->embed(dev, whole, &packed, id, IDS, 3), SP_OK);
        for (size_t from = 0; from < K; from += N) {
            const sp_dev_embed_part a = {.out = part, .w = &file, .id = id, .n_row = IDS, .from = from, .n = N, .scale = 3};
            assert_int_equal(dev->ops->embed_part(dev, &a), SP_OK);
            for (size_t i = 0; i < IDS; i++)
                assert_memory_equal(part + i * N, whole + i * K + from, N * sizeof *part);
        }
        dev->ops->mem_free(dev, mem);
        sp_dev_close(dev);
    }
}

/* In packed types, too, each head's product is to the bit that of a matrix of its rows alone. */
void test_packed_products_of_heads(void **state)
{
    (void)state;
    enum { K = 256, OUT = 48, ROWS = 5, ALL = HEADS * OUT };
    static const sp_type types[] = {SP_F16, SP_Q8_0, SP_Q4_0, SP_Q4_K};
    static float w[ALL * K], x[ROWS * HEADS * K], out[ROWS * ALL], row[ROWS * K], one[ROWS * OUT];
    static uint64_t raw[ALL * K / 2];
    uint64_t s = 11;
    for (size_t i = 0; i < ALL * K; i++)
        w[i] = test_float(&s);
    for (size_t i = 0; i < ROWS * HEADS * K; i++)
        x[i] = test_float(&s);
    for (size_t i = 0; i < 2 * sizeof types / sizeof types[0]; i++) {
        sp_type type = types[i / 2];
        sp_dev *dev = open_dev(i % 2 ? SP_CPU_LEVELS - 1 : SP_CPU_AVX2, 2);
        size_t row_bytes = sp_type_row_bytes(type, K);
        sp_dev_weight all, head;
        void *mem[2] = {NULL, NULL};
        for (size_t r = 0; r < ALL; r++)
            sp_quantise_row((char *)raw + r * row_bytes, type, w + r * K, K);
        assert_int_equal(dev->ops->mem_raw(dev, &mem[0], dev->ops->weight_bytes(dev, type, ALL, K)), SP_OK);
        assert_int_equal(dev->ops->mem_raw(dev, &mem[1], dev->ops->weight_bytes(dev, type, OUT, K)), SP_OK);
        assert_int_equal(dev->ops->weight_put(dev, &all, mem[0], type, raw, ALL, K), SP_OK);
        const sp_dev_each_head a = {.out = out, .ld_out = OUT, .x = x, .ld_x = K, .w = &all, .n_head = HEADS, .n_row = ROWS};
        assert_int_equal(dev->ops->each_head(dev, &a), SP_OK);
        for (size_t h = 0; h < HEADS; h++) {
            float *to = one;
            assert_int_equal(dev->ops->weight_put(dev, &head, mem[1], type, (char *)raw + h * OUT * row_bytes, OUT, K), SP_OK);
            for (size_t t = 0; t < ROWS; t++)
                memcpy(row + t * K, x + (t * HEADS + h) * K, K * sizeof *row);
            const sp_dev_matmul m = {.out = &to, .x = row, .w = &head, .n_w = 1, .n_row = ROWS};
            assert_int_equal(dev->ops->matmul(dev, &m), SP_OK);
            for (size_t t = 0; t < ROWS; t++)
                assert_memory_equal(one + t * OUT, out + (t * HEADS + h) * OUT, OUT * sizeof *one);
        }
        dev->ops->mem_free(dev, mem[0]);
        dev->ops->mem_free(dev, mem[1]);
        sp_dev_close(dev);
    }
}

typedef struct tape {
    void *page[PAGES], *low[PAGES], *open;
} tape;

static void open_tape(tape *t, const sp_kv_shape *shape)
{
    size_t lo = sp_kv_lo_bytes(shape), hi = sp_kv_page_bytes(shape) - lo;
    t->open = sp_mem_align(sp_kv_open_bytes(shape) + 64);
    for (size_t i = 0; i < PAGES; i++) {
        t->page[i] = sp_mem_align(hi);
        t->low[i] = lo ? sp_mem_align(lo) : NULL;
    }
}

static void close_tape(tape *t)
{
    for (size_t i = 0; i < PAGES; i++) {
        sp_mem_free(t->page[i]);
        sp_mem_free(t->low[i]);
    }
    sp_mem_free(t->open);
}

enum { ANGLES = 16 };
static const float freq[ANGLES / 2] = {1, 0.5f, 0.25f, 0.1f, 0.01f, 0.001f};

/* Rows [row, row + n) of k, and of q as values, at positions [pos, pos + n) of all layers, whose heads have D elements together.
 * out [n_layer][n, D]: what queries q see there; or NULL. */
static void store_rows(sp_dev *dev, const sp_kv_shape *shape, const tape *t, size_t row, size_t n, size_t pos, float *out)
{
    static float keys[N_TOK * D], cs[N_TOK * ANGLES], none[N_TOK * D];
    static uint32_t at[N_TOK];
    const sp_dev_rope rope = {.freq = freq, .d_rot = ANGLES, .scale = 1};
    const sp_dev_span span = {.n = n, .pos = pos, .page = t->page, .lo = t->low, .open = t->open};
    for (size_t i = 0; i < n; i++)
        at[i] = (uint32_t)(pos + i);
    assert_int_equal(dev->ops->rope_table(dev, cs, at, n, &rope), SP_OK);
    for (size_t layer = 0; layer < shape->n_layer; layer++) {
        const sp_dev_kv_view kv = sp_kv_page_view(shape, layer);
        const sp_dev_heads h = {.x = keys, .n_row = n, .n_head = kv.n_head, .d = kv.d,
                                .turn = {.cs = cs, .d_rot = ANGLES, .first = kv.n_latent}};
        const sp_dev_attn a = {.out = out ? out + layer * n * D : none, .q = q, .k = keys, .v = kv.n_latent ? NULL : q + row * D, .kv = &kv,
                               .n_q_head = kv.n_head, .scale = scale, .span = &span, .n_span = 1};
        memcpy(keys, k + row * D, n * D * sizeof *keys);
        assert_int_equal(dev->ops->heads(dev, &h), SP_OK);
        assert_int_equal(dev->ops->attn_paged(dev, &a), SP_OK);
    }
}

/* Keys and values that were moved are seen as those that were stored where they are now, latents and layers of other sizes too. */
void test_moved_latents_and_other_sizes(void **state)
{
    (void)state;
    enum { N = 40, AT = 7, TO = 45, ASK = 9 };
    static const sp_kv_heads sizes[] = {{2, 32}, {1, 64}};
    static const struct { const char *name; double tol; } formats[] = {{"f32", 1e-4}, {"f16", 1e-2}, {"q8", 0.1}};
    static float moved[2 * ASK * D], direct[2 * ASK * D];
    fill();
    for (size_t i = 0; i < 6; i++) {
        const sp_kv_format *format = sp_kv_format_find(formats[i / 2].name);
        const sp_kv_shape latents = {.format = format, .n_layer = 1, .n_head = 1, .d = D, .n_latent = LATENT};
        const sp_kv_shape others = {.format = format, .n_layer = 2, .of = sizes}, *shape = i % 2 ? &others : &latents;
        const sp_dev_kv_view kv[] = {sp_kv_page_view(shape, 0), sp_kv_page_view(shape, shape->n_layer - 1)};
        const sp_dev_rope rope = {.freq = freq, .d_rot = ANGLES, .scale = 1};
        const uint32_t way = TO - AT;
        float cs[ANGLES];
        const sp_dev_turn turn = {.cs = cs, .d_rot = ANGLES, .first = shape->n_latent}, turns[] = {turn, turn};
        sp_dev *dev = open_dev(SP_CPU_LEVELS - 1, 2);
        tape from, here, there;
        open_tape(&from, shape);
        open_tape(&here, shape);
        open_tape(&there, shape);
        const sp_dev_span source = {.n = N, .pos = AT, .page = from.page, .lo = from.low, .open = from.open};
        const sp_dev_span target = {.n = N, .pos = TO, .page = here.page, .lo = here.low, .open = here.open};
        store_rows(dev, shape, &from, 0, 64, 0, NULL);
        store_rows(dev, shape, &here, 100, TO, 0, NULL);
        assert_int_equal(dev->ops->rope_table(dev, cs, &way, 1, &rope), SP_OK);
        assert_int_equal(dev->ops->kv_move(dev, kv, shape->n_layer, &target, &source, turns), SP_OK);
        store_rows(dev, shape, &here, 200, ASK, TO + N, moved);
        store_rows(dev, shape, &there, 100, TO, 0, NULL);
        store_rows(dev, shape, &there, AT, N, TO, NULL);
        store_rows(dev, shape, &there, 200, ASK, TO + N, direct);
        for (size_t e = 0; e < shape->n_layer * ASK * D; e++)
            if (!(fabs((double)moved[e] - (double)direct[e]) <= formats[i / 2].tol))
                fail_msg("%s, %s: element %zu is %g, not %g", formats[i / 2].name, i % 2 ? "other sizes" : "latents", e, (double)moved[e],
                         (double)direct[e]);
        close_tape(&from);
        close_tape(&here);
        close_tape(&there);
        sp_dev_close(dev);
    }
}
