/* Attention and pages of the CUDA device against the CPU's reference kernels, over the same keys,
 * values and pages. */
#include "cuda.h"

enum {
    HEADS = 2,
    GROUP = 3,
    ROWS = HEADS * GROUP,
    MAX_D = 256,
    MOST = 1200,
    PAGES = (MOST + 31) / 32
};

typedef struct rule {
    size_t window;
    float cap;
    bool sinks;
    float keep;
    size_t keep_to;
    const sp_dev_range *dense; /* one; NULL: none */
    sp_dev_cert *cert;
} rule;

typedef struct seq {
    sp_dev *dev;
    void *page[PAGES], *lo[PAGES], *open;
} seq;

static float q[MOST * ROWS * MAX_D], k[MOST * HEADS * MAX_D], v[MOST * HEADS * MAX_D];
static float wants[MOST * ROWS * MAX_D], got[MOST * ROWS * MAX_D], again[MOST * ROWS * MAX_D];
static double want[MOST * ROWS * MAX_D];
static const float sinks[ROWS] = {0.5f, -1, 2, 3.5f, -20, 1};

static void fill(size_t n_tok, size_t d)
{
    uint64_t s = 17 + d;
    float size = 5.0f / sqrtf((float)d);
    for (size_t i = 0; i < n_tok * ROWS * d; i++)
        q[i] = test_float(&s) * 2 * size;
    for (size_t i = 0; i < n_tok * HEADS * d; i++) {
        k[i] = test_float(&s) * 2 + (float)(i % d % 5) * 0.1f;
        v[i] = test_float(&s);
    }
}

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

/* Tokens [at, at + n) of the layer behind those before it. */
static void attend(seq *s, float *out, const sp_kv_shape *shape, const rule *r, size_t layer,
                   size_t at, size_t n)
{
    sp_dev *dev = s->dev;
    const sp_dev_kv_view kv = sp_kv_page_view(shape, layer);
    size_t d = shape->d, n_q = n * ROWS * d, n_k = n * HEADS * d;
    const sp_dev_span span = {.n = n,
                              .pos = at,
                              .page = s->page,
                              .lo = s->lo,
                              .open = s->open,
                              .keep = r->keep,
                              .keep_to = r->keep_to,
                              .dense = r->dense,
                              .n_dense = r->dense != NULL,
                              .cert = r->cert};
    float *to = on(dev, NULL, n_q * sizeof *to);
    const sp_dev_attn a = {.out = to,
                           .q = on(dev, q + at * ROWS * d, n_q * sizeof *q),
                           .k = on(dev, k + at * HEADS * d, n_k * sizeof *k),
                           .v = on(dev, v + at * HEADS * d, n_k * sizeof *v),
                           .kv = &kv,
                           .n_q_head = ROWS,
                           .scale = 0.25f,
                           .span = &span,
                           .n_span = 1,
                           .window = r->window,
                           .cap = r->cap,
                           .sinks = r->sinks ? on(dev, sinks, sizeof sinks) : NULL};
    assert_int_equal(dev->ops->attn_paged(dev, &a), SP_OK);
    get(dev, out + at * ROWS * d, to, n_q * sizeof *to);
    done();
}

static void run(sp_dev *dev, float *out, const sp_kv_shape *shape, const rule *r, size_t n_tok,
                const size_t *chunk, size_t n_chunk)
{
    seq s;
    open_seq(&s, dev, shape);
    for (size_t pos = 0, c = 0, n; pos < n_tok; pos += n, c++) {
        n = chunk[c % n_chunk] < n_tok - pos ? chunk[c % n_chunk] : n_tok - pos;
        attend(&s, out, shape, r, 0, pos, n);
    }
    close_seq(&s);
}

static const size_t one[] = {MOST};

void test_pages_are_those_of_the_cpu(void **state)
{
    (void)state;
    enum { N = 100 };
    static const char *const formats[] = {"f32", "f16", "bf16", "q8", "q4", "fp8"};
    static const size_t ds[] = {48, 64, 80, 128, 256};
    devices d = open_devices();
    for (size_t i = 0; i < 6 * 5; i++) {
        const sp_kv_shape shape = {.format = sp_kv_format_find(formats[i % 6]),
                                   .n_layer = 2,
                                   .n_head = HEADS,
                                   .d = ds[i / 6]};
        size_t lo = sp_kv_lo_bytes(&shape), hi = sp_kv_page_bytes(&shape) - lo;
        seq s[2];
        fill(N, shape.d);
        set_order(orders[i % ORDERS]);
        for (size_t j = 0; j < 2; j++) {
            open_seq(&s[j], j ? d.cpu : d.cuda, &shape);
            for (size_t layer = 0; layer < 2; layer++) {
                attend(&s[j], got, &shape, &(rule){0}, layer, 0, 5);
                attend(&s[j], got, &shape, &(rule){0}, layer, 5, N - 5);
            }
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

/* f16 keeps 11 bits of queries, weights and values; attention sums them up. */
static void check_rule(const devices *d, const char *format, size_t n_tok, size_t size,
                       const rule *r, unsigned order)
{
    const sp_kv_shape shape = {.format = sp_kv_format_find(format),
                               .n_layer = 1,
                               .n_head = HEADS,
                               .d = size};
    fill(n_tok, size);
    run(d->cpu, wants, &shape, r, n_tok, one, 1);
    for (size_t i = 0; i < n_tok * ROWS * size; i++)
        want[i] = (double)wants[i];
    set_order(order);
    run(d->cuda, got, &shape, r, n_tok, one, 1);
    set_order(0);
    check_near(format, got, want, n_tok * ROWS * size, 4e-3);
}

void test_cuda_attention(void **state)
{
    (void)state;
    static const rule rules[] = {{.window = 0}, {.window = 33}, {.cap = 3, .sinks = true}, {.window = 64, .cap = 4, .sinks = true}};
    static const char *const formats[] = {"f32", "f16", "bf16", "q8", "q4", "fp8"};
    static const size_t ds[] = {16, 48, 64, 80, 112, 128, 192, 256};
    devices d = open_devices();
    for (size_t i = 0; i < 6 * 4; i++)
        check_rule(&d, formats[i % 6], 75, 64, &rules[i / 6], orders[i % ORDERS]);
    for (size_t i = 0; i < 8; i++)
        check_rule(&d, formats[i % 3 + 1 + (i % 3 > 0) + i % 3 / 2], 40, ds[i], &rules[i % 4], orders[i % ORDERS]);
    check_rule(&d, "q8", 1, 128, &rules[0], 0);
    check_rule(&d, "q8", 32, 128, &rules[2], 0);
    close_devices(&d);
}

/* Prompts in chunks, token by token, in other orders of threads, in one block or split over parts.
 */
void test_cuda_chunks_change_no_bit(void **state)
{
    (void)state;
    enum { N = 60, LONG = 580, D = 64 };
    static const size_t mixed[] = {1, 31, 7, 3, 18}, single[] = {1};
    static const rule r = {.window = 50, .cap = 4, .sinks = true},
                      wide = {.window = 550, .sinks = true};
    devices d = open_devices();
    for (size_t f = 0; f < 3; f++) {
        const sp_kv_shape shape = {.format = sp_kv_format_find(f == 0 ? "f16" : f == 1 ? "q8" : "fp8"),
                                   .n_layer = 1,
                                   .n_head = HEADS,
                                   .d = D};
        fill(LONG, D);
        run(d.cuda, got, &shape, &r, N, one, 1);
        for (size_t o = 0; o < ORDERS; o++) {
            set_order(orders[o]);
            run(d.cuda, again, &shape, &r, N, o % 2 ? mixed : single, o % 2 ? 5 : 1);
            assert_memory_equal(got, again, N * ROWS * D * sizeof *got);
        }
        set_order(0);
        seq s;
        open_seq(&s, d.cuda, &shape);
        attend(&s, got, &shape, &wide, 0, 0, LONG); /* of more than a part */
        close_seq(&s);
        static const size_t two[] = {LONG - 1, 1};
        run(d.cuda, again, &shape, &wide, LONG, two, 2);
        assert_memory_equal(got, again, LONG * ROWS * D * sizeof *got);
    }
    close_devices(&d);
}

/* What queries at TO + N see where N keys and values were moved to TO. */
static void move_and_ask(sp_dev *dev, float *out, const sp_kv_shape *shape, size_t at, size_t to,
                         size_t n, size_t ask, unsigned how)
{
    enum { ROT = 16 };
    static const float freq[ROT / 2] = {1, 0.5f, 0.25f, 0.1f, 0.01f, 0.001f};
    static const rule none = {0};
    const sp_dev_kv_view kv = sp_kv_page_view(shape, 0);
    const sp_dev_rope rope = {freq, ROT, 1, to < at};
    const uint32_t way = (uint32_t)(to < at ? at - to : to - at);
    float norm[MAX_D];
    seq from, here;
    open_seq(&from, dev, shape);
    open_seq(&here, dev, shape);
    attend(&from, out, shape, &none, 0, 0, (at + n + 31) / 32 * 32);
    attend(&here, out, shape, &none, 0, 0, to);
    for (size_t i = 0; i < shape->d; i++)
        norm[i] = i == 3 ? 0 : 0.5f + 0.02f * (float)i;
    float *cs = on(dev, NULL, ROT * sizeof *cs);
    assert_int_equal(dev->ops->rope_table(dev, cs, &way, 1, &rope), SP_OK);
    const sp_dev_turn turn = {.cs = how % 3 ? cs : NULL,
                              .d_rot = ROT,
                              .halves = how % 2,
                              .first = 16,
                              .norm = how % 4 == 3 ? on(dev, norm, sizeof norm) : NULL};
    const sp_dev_span source = {.n = n, .pos = at, .page = from.page, .lo = from.lo};
    const sp_dev_span target = {
        .n = n, .pos = to, .page = here.page, .lo = here.lo, .open = here.open};
    assert_int_equal(dev->ops->kv_move(dev, &kv, 1, &target, &source, &turn), SP_OK);
    done();
    attend(&here, out, shape, &none, 0, to + n, ask);
    close_seq(&from);
    close_seq(&here);
}

/* Forwards and backwards, whatever pages begin and end within them. */
void test_cuda_moved(void **state)
{
    (void)state;
    enum { ASK = 9, D = 64 };
    static const char *const formats[] = {"f32", "f16", "bf16", "q8", "q4", "fp8"};
    static const size_t ways[][3] = {{57, 100, 80}, {40, 3, 20}, {5, 64, 96}, {100, 90, 1}};
    devices d = open_devices();
    fill(300, D);
    for (unsigned i = 0; i < 6 * 4; i++) {
        const sp_kv_shape shape = {.format = sp_kv_format_find(formats[i % 6]),
                                   .n_layer = 1,
                                   .n_head = HEADS,
                                   .d = D};
        const size_t *w = ways[i / 6], first = (w[1] + w[2]) * ROWS * D, n = ASK * ROWS * D;
        move_and_ask(d.cpu, wants, &shape, w[0], w[1], w[2], ASK, i);
        for (size_t e = 0; e < n; e++)
            want[e] = (double)wants[first + e];
        set_order(orders[i % ORDERS]);
        move_and_ask(d.cuda, got, &shape, w[0], w[1], w[2], ASK, i);
        set_order(0);
        /* a value on the border between two codes may fall on either side */
        check_near(formats[i % 6], got + first, want, n, i % 6 == 4 ? 3e-2 : 6e-3);
    }
    close_devices(&d);
}

/* A span whose earlier pages are chosen, then one token that sees them all: the same pages as on the
 * CPU, the same counters, in all orders of threads. */
void test_cuda_chosen_pages(void **state)
{
    (void)state;
    enum { D = 64, BEFORE = 1100, N = 90 };
    static const sp_dev_range dense = {300, 310};
    static const char *const formats[] = {"q8", "q4"};
    static const rule fills = {.window = 32};
    devices d = open_devices();
    d.cpu->ops->close(d.cpu); /* pages are chosen at AVX2 and above */
    const sp_dev_cfg cfg = {.name = "cpu", .n_thread = 1, .mask = SP_CPU_LEVELS - 1};
    assert_int_equal(sp_dev_open(&d.cpu, &cfg, NULL), SP_OK);
    fill(BEFORE + N, D);
    for (unsigned i = 0; i < 4; i++) {
        const sp_kv_shape shape = {.format = sp_kv_format_find(formats[i / 2]),
                                   .n_layer = 1,
                                   .n_head = HEADS,
                                   .d = D};
        sp_dev_cert cert[2] = {{0}, {0}};
        for (unsigned j = 0; j < 2; j++) {
            sp_dev *dev = j ? d.cpu : d.cuda;
            const rule r = {.cap = i % 2 ? 4 : 0,
                            .sinks = i % 2,
                            .keep = 0.3f,
                            .keep_to = i % 2 ? BEFORE + 20 : 4000,
                            .dense = &dense,
                            .cert = &cert[j]};
            seq s;
            open_seq(&s, dev, &shape);
            attend(&s, got, &shape, &fills, 0, 0, BEFORE);
            set_order(orders[i]);
            attend(&s, j ? wants : got, &shape, &r, 0, BEFORE, N);
            set_order(0);
            if (dev->ops->settle)
                assert_int_equal(dev->ops->settle(dev), SP_OK);
            close_seq(&s);
        }
        for (size_t e = BEFORE * ROWS * D; e < (BEFORE + N) * ROWS * D; e++)
            want[e] = (double)wants[e];
        /* the CPU's keys and queries have 8 bits here */
        check_near(formats[i / 2], got + BEFORE * ROWS * D, want + BEFORE * ROWS * D, N * ROWS * D,
                   2e-2);
        assert_true(cert[0].n_sample == cert[1].n_sample && cert[0].n_page == cert[1].n_page);
        assert_true(cert[0].n_page == HEADS * (BEFORE / 32) && cert[0].n_chosen == HEADS * 11);
        assert_true(cert[0].n_chosen == cert[1].n_chosen && cert[0].n_skipped == cert[1].n_skipped);
        assert_true(fabs(cert[0].sum_missed - cert[1].sum_missed) <= 0.02 * cert[1].sum_missed);
        assert_true(fabsf(cert[0].max_missed - cert[1].max_missed) <= 0.02f * cert[1].max_missed);
    }
    close_devices(&d);
}

void test_cuda_attention_without_pages(void **state)
{
    (void)state;
    enum { N = 45, D = 32 };
    static const size_t windows[] = {0, 1, 31, 40, 200};
    devices d = open_devices();
    fill(N, D);
    for (size_t i = 0; i < 10; i++) {
        sp_dev *dev[] = {d.cpu, d.cuda};
        for (size_t j = 0; j < 2; j++) {
            float *out = on(dev[j], NULL, N * ROWS * D * sizeof *out);
            const sp_dev_attn_full a = {.out = out,
                                        .q = on(dev[j], q, N * ROWS * D * sizeof *q),
                                        .k = on(dev[j], k, N * HEADS * D * sizeof *k),
                                        .v = on(dev[j], v, N * HEADS * D * sizeof *v),
                                        .n = N,
                                        .n_head = ROWS,
                                        .n_head_kv = HEADS,
                                        .d = D,
                                        .scale = 0.25f,
                                        .causal = i % 2,
                                        .window = windows[i / 2]};
            set_order(orders[i % ORDERS]);
            assert_int_equal(dev[j]->ops->attn_full(dev[j], &a), SP_OK);
            get(dev[j], j ? got : wants, out, N * ROWS * D * sizeof *out);
            done();
        }
        for (size_t e = 0; e < N * ROWS * D; e++)
            want[e] = (double)wants[e];
        check_near("attention without pages", got, want, N * ROWS * D, 2e-5);
    }
    set_order(0);
    close_devices(&d);
}
