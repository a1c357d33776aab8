/* Latents on the CUDA device: attention against the CPU's over the same keys, pages to the byte,
 * products of heads against f64. */
#include "cuda.h"

enum { HEADS = 5, MOST = 580, MAX_D = 576, PAGES = (MOST + 31) / 32 };

static float q[MOST * HEADS * MAX_D], k[MOST * MAX_D];
static float wants[MOST * HEADS * MAX_D], got[MOST * HEADS * MAX_D], again[MOST * HEADS * MAX_D];
static double want[MOST * HEADS * MAX_D];
static const float sinks[HEADS] = {0.5f, -1, 2, 3.5f, -20};

typedef struct rule {
    size_t window;
    float cap;
    bool sinks;
} rule;

static void fill(size_t n_tok, size_t d)
{
    uint64_t s = 29 + d;
    float size = 8.0f / sqrtf((float)d);
    for (size_t i = 0; i < n_tok * HEADS * d; i++)
        q[i] = test_float(&s) * size;
    for (size_t i = 0; i < n_tok * d; i++)
        k[i] = test_float(&s) * 2 + (float)(i % d % 5) * 0.1f;
}

typedef struct seq {
    sp_dev *dev;
    void *page[PAGES], *lo[PAGES], *open;
} seq;

static void open_seq(seq *s, sp_dev *dev, const sp_kv_shape *shape)
{
    size_t lo = sp_kv_lo_bytes(shape), hi = sp_kv_page_bytes(shape) - lo;
    *s = (seq){.dev = dev};
    for (size_t i = 0; i < PAGES; i++) {
        assert_int_equal(dev->ops->mem_page(dev, &s->page[i], hi), SP_OK);
        if (lo && (i == 0 || !shape->format->is_demoted))
            assert_int_equal(dev->ops->mem_page(dev, &s->lo[i], lo), SP_OK);
    }
    if (sp_kv_open_bytes(shape))
        assert_int_equal(dev->ops->mem_new(dev, &s->open, sp_kv_open_bytes(shape)), SP_OK);
}

static void close_seq(seq *s)
{
    for (size_t i = 0; i < PAGES; i++) {
        s->dev->ops->mem_free(s->dev, s->page[i]);
        s->dev->ops->mem_free(s->dev, s->lo[i]);
    }
    s->dev->ops->mem_free(s->dev, s->open);
}

/* Tokens [at, at + n) behind those before them. */
static void attend(seq *s, float *out, const sp_kv_shape *shape, const rule *r, size_t at, size_t n)
{
    sp_dev *dev = s->dev;
    const sp_dev_kv_view kv = sp_kv_page_view(shape, 0);
    const sp_dev_span span = {.n = n, .pos = at, .page = s->page, .lo = s->lo, .open = s->open};
    size_t n_out = n * HEADS * kv.n_latent;
    float *to = on(dev, NULL, n_out * sizeof *to);
    const sp_dev_attn a = {.out = to,
                           .q = on(dev, q + at * HEADS * kv.d, n * HEADS * kv.d * sizeof *q),
                           .k = on(dev, k + at * kv.d, n * kv.d * sizeof *k),
                           .kv = &kv,
                           .n_q_head = HEADS,
                           .scale = 0.25f,
                           .span = &span,
                           .n_span = 1,
                           .window = r->window,
                           .cap = r->cap,
                           .sinks = r->sinks ? on(dev, sinks, sizeof sinks) : NULL};
    assert_int_equal(dev->ops->attn_paged(dev, &a), SP_OK);
    get(dev, out + at * HEADS * kv.n_latent, to, n_out * sizeof *to);
    done();
}

static void run(sp_dev *dev, float *out, const sp_kv_shape *shape, const rule *r, size_t n_tok,
                size_t chunk)
{
    seq s;
    open_seq(&s, dev, shape);
    for (size_t pos = 0, n; pos < n_tok; pos += n) {
        n = chunk < n_tok - pos ? chunk : n_tok - pos;
        attend(&s, out, shape, r, pos, n);
    }
    close_seq(&s);
}

static sp_kv_shape shape_of(const char *format, size_t d, size_t n_latent)
{
    return (sp_kv_shape){.format = sp_kv_format_find(format),
                         .n_layer = 1,
                         .n_head = 1,
                         .d = d,
                         .n_latent = n_latent};
}

/* f16 keeps 11 bits of queries, keys and weights. */
void test_cuda_latents(void **state)
{
    (void)state;
    enum { N = 75 };
    static const char *const formats[] = {"f32", "f16", "bf16", "q8", "q4"};
    static const rule rules[] = {{0, 0, false}, {33, 0, false}, {0, 3, true}, {64, 4, true}};
    static const size_t sizes[][2] = {{64, 48}, {64, 64}, {576, 512}, {192, 128}};
    devices d = open_devices();
    for (size_t i = 0; i < 5 * 4; i++) {
        size_t size = sizes[i % 4][0], n_out = N * HEADS * sizes[i % 4][1];
        const sp_kv_shape shape = shape_of(formats[i % 5], size, sizes[i % 4][1]);
        fill(N, size);
        run(d.cpu, wants, &shape, &rules[i / 5], N, N);
        for (size_t e = 0; e < n_out; e++)
            want[e] = (double)wants[e];
        set_order(orders[i % ORDERS]);
        run(d.cuda, got, &shape, &rules[i / 5], N, N);
        set_order(0);
        check_near(formats[i % 5], got, want, n_out, 6e-3);
    }
    close_devices(&d);
}

/* Prompts in chunks, token by token, in other orders of threads, over more than a part. */
void test_cuda_latent_chunks_change_no_bit(void **state)
{
    (void)state;
    enum { N = 60, D = 64, LATENT = 48 };
    static const size_t chunks[ORDERS] = {1, 7, 33, 60};
    static const rule r = {50, 4, true}, wide = {0, 0, false};
    static const char *const formats[] = {"f16", "q8"};
    devices d = open_devices();
    for (size_t f = 0; f < 2; f++) {
        const sp_kv_shape shape = shape_of(formats[f], D, LATENT);
        size_t n_bytes = N * HEADS * LATENT * sizeof *got;
        fill(MOST, D);
        run(d.cuda, got, &shape, &r, N, N);
        for (size_t o = 0; o < ORDERS; o++) {
            set_order(orders[o]);
            run(d.cuda, again, &shape, &r, N, chunks[o]);
            assert_memory_equal(got, again, n_bytes);
        }
        set_order(0);
        run(d.cuda, got, &shape, &wide, MOST, MOST);
        run(d.cuda, again, &shape, &wide, MOST, MOST - 1);
        assert_memory_equal(got, again, MOST * HEADS * LATENT * sizeof *got);
    }
    close_devices(&d);
}

void test_cuda_latent_pages_are_those_of_the_cpu(void **state)
{
    (void)state;
    enum { N = 100 };
    static const char *const formats[] = {"f32", "f16", "bf16", "q8", "q4"};
    devices d = open_devices();
    for (size_t i = 0; i < 10; i++) {
        const sp_kv_shape shape = shape_of(formats[i / 2], i % 2 ? 576 : 64, i % 2 ? 512 : 48);
        size_t lo = sp_kv_lo_bytes(&shape), hi = sp_kv_page_bytes(&shape) - lo;
        seq s[2];
        fill(N, shape.d);
        set_order(orders[i % ORDERS]);
        for (size_t j = 0; j < 2; j++) {
            open_seq(&s[j], j ? d.cpu : d.cuda, &shape);
            attend(&s[j], got, &shape, &(rule){0}, 0, 5);
            attend(&s[j], got, &shape, &(rule){0}, 5, N - 5);
        }
        for (size_t p = 0; p < N / 32; p++) {
            assert_memory_equal(s[0].page[p], s[1].page[p], hi);
            if (s[0].lo[p])
                assert_memory_equal(s[0].lo[p], s[1].lo[p], lo);
        }
        close_seq(&s[0]);
        close_seq(&s[1]);
    }
    set_order(0);
    close_devices(&d);
}

/* F32 and Q8_0 weights; rows have gaps, which stay as they were, and a tail that is copied. */
void test_cuda_products_of_heads(void **state)
{
    (void)state;
    enum { N_OUT = 48, N_IN = 64, COPY = 3, LD_X = N_IN + COPY + 2, LD_OUT = N_OUT + COPY + 1 };
    enum { TOKS = 11, IN = TOKS * HEADS * LD_X, OUT = TOKS * HEADS * LD_OUT };
    static float w[HEADS * N_OUT * N_IN], x[IN], before[OUT], out[OUT], other[OUT];
    static sp_blk_q8_0 blocks[HEADS * N_OUT * N_IN / 32];
    static double right[OUT];
    devices d = open_devices();
    sp_dev *dev = d.cuda;
    uint64_t s = 41;
    for (size_t i = 0; i < HEADS * N_OUT * N_IN; i++) {
        blocks[i / 32].d = sp_f16_from_f32(0.0625f);
        blocks[i / 32].qs[i % 32] = (int8_t)(test_rand(&s) % 61 - 30);
        w[i] = 0.0625f * (float)blocks[i / 32].qs[i % 32];
    }
    for (size_t i = 0; i < IN; i++)
        x[i] = test_float(&s);
    for (size_t i = 0; i < OUT; i++)
        right[i] = (double)(before[i] = test_float(&s));
    for (size_t i = 0; i < TOKS * HEADS; i++) {
        for (size_t r = 0; r < N_OUT + COPY; r++)
            right[i * LD_OUT + r] = r < N_OUT ? 0 : (double)x[i * LD_X + N_IN + r - N_OUT];
        for (size_t r = 0; r < N_OUT * N_IN; r++)
            right[i * LD_OUT + r / N_IN] +=
                (double)w[i % HEADS * N_OUT * N_IN + r] * (double)x[i * LD_X + r % N_IN];
    }
    for (size_t i = 0; i < 2 * ORDERS; i++) {
        sp_type type = i % 2 ? SP_F32 : SP_Q8_0;
        sp_dev_weight m;
        void *at = on(dev, NULL, dev->ops->weight_bytes(dev, type, HEADS * N_OUT, N_IN));
        assert_int_equal(dev->ops->weight_put(dev, &m, at, type, i % 2 ? (void *)w : blocks,
                                              HEADS * N_OUT, N_IN),
                         SP_OK);
        float *to = on(dev, before, sizeof before), *from = on(dev, x, sizeof x);
        sp_dev_each_head a = {.out = to, .ld_out = LD_OUT, .x = from, .ld_x = LD_X, .n_copy = COPY,
                              .w = &m, .n_head = HEADS, .n_row = TOKS};
        set_order(orders[i / 2]);
        assert_int_equal(dev->ops->each_head(dev, &a), SP_OK);
        get(dev, out, to, sizeof out);
        check_near("products of heads", out, right, OUT, i % 2 ? 1e-3 : 2e-2);
        a.out += (TOKS - 1) * HEADS * LD_OUT; /* the last token alone */
        a.x += (TOKS - 1) * HEADS * LD_X;
        a.n_row = 1;
        assert_int_equal(dev->ops->each_head(dev, &a), SP_OK);
        get(dev, other, to, sizeof other);
        assert_memory_equal(out, other, sizeof out);
        done();
    }
    set_order(0);
    close_devices(&d);
}
