/* Certified decoding on the CUDA device against its own dense attention. Pages are filled by the
 * CPU device, whose bytes are the same. */
#include "cuda.h"

enum { HEADS = 2, MAX_GROUP = 8, MAX_D = 256, MOST = 700, PAGES = (MOST + 31) / 32, SPANS = 3 };

typedef struct rule {
    size_t window;
    float cap;
    bool sinks;
    float sink_up, q_up; /* added to each sink; queries are multiplied by it */
} rule;

typedef struct setup {
    size_t d, group, n_tok;
    float eps, scale;
    rule rule;
    const sp_dev_range *dense;
    bool is_demoted; /* one page lacks its lo part */
} setup;

static float q[MOST * HEADS * MAX_GROUP * MAX_D], k[MOST * HEADS * MAX_D], v[MOST * HEADS * MAX_D];
static float dense[SPANS * HEADS * MAX_GROUP * MAX_D], one[SPANS * HEADS * MAX_GROUP * MAX_D],
    other[SPANS * HEADS * MAX_GROUP * MAX_D];

/* The value of key j is 1 at j % d and 0 elsewhere: rotated, it is exact in 8 bits where d is a
 * power of two, and an answer says how much keys weighed. */
static void fill(size_t d)
{
    uint64_t s = 5 + d;
    float size = 5.0f / sqrtf((float)d);
    for (size_t i = 0; i < MOST * HEADS * MAX_GROUP * d; i++)
        q[i] = test_float(&s) * 2 * size;
    for (size_t i = 0; i < MOST * HEADS * d; i++) {
        k[i] = test_float(&s) * 2 + (float)(i % d % 5) * 0.1f;
        v[i] = i / (HEADS * d) % d == i % d;
    }
}

static void *page_of(sp_dev *dev, size_t n_bytes)
{
    void *p;
    assert_int_equal(dev->ops->mem_page(dev, &p, n_bytes), SP_OK);
    return p;
}

typedef struct seq {
    void *page[PAGES], *lo[PAGES], *open;
} seq;

/* A copy of a sequence in the pages of another device: they are memory of the host, too. */
static void open_seq(seq *s, sp_dev *dev, const sp_kv_shape *shape, const seq *from)
{
    size_t lo = sp_kv_lo_bytes(shape), hi = sp_kv_page_bytes(shape) - lo;
    *s = (seq){.open = page_of(dev, sp_kv_open_bytes(shape))};
    for (size_t i = 0; i < PAGES; i++) {
        s->page[i] = page_of(dev, hi);
        s->lo[i] = page_of(dev, lo);
        if (from) {
            memcpy(s->page[i], from->page[i], hi);
            memcpy(s->lo[i], from->lo[i], lo);
        }
    }
    if (from)
        memcpy(s->open, from->open, sp_kv_open_bytes(shape));
}

static void close_seq(seq *s, sp_dev *dev)
{
    for (size_t i = 0; i < PAGES; i++) {
        dev->ops->mem_free(dev, s->page[i]);
        dev->ops->mem_free(dev, s->lo[i]);
    }
    dev->ops->mem_free(dev, s->open);
}

static sp_dev_span span_of(const seq *s, size_t row, size_t n, size_t pos)
{
    return (
        sp_dev_span){.row = row, .n = n, .pos = pos, .page = s->page, .lo = s->lo, .open = s->open};
}

/* The first n tokens, by the CPU. */
static void fill_pages(sp_dev *cpu, const seq *s, const sp_kv_shape *shape, size_t n)
{
    static float out[MOST * HEADS * MAX_D];
    const sp_dev_kv_view kv = sp_kv_page_view(shape, 0);
    const sp_dev_span span = span_of(s, 0, n, 0);
    const sp_dev_attn a = {.out = out,
                           .q = q,
                           .k = k,
                           .v = v,
                           .kv = &kv,
                           .n_q_head = HEADS,
                           .scale = 0.1f,
                           .span = &span,
                           .n_span = 1};
    assert_int_equal(cpu->ops->attn_paged(cpu, &a), SP_OK);
}

/* A step of n_span sequences; the i-th has its token at n_tok - 9 i. The first one's counters. */
static void step(const devices *d, float *out, const setup *t, float eps, size_t n_span,
                 sp_dev_cert *cert)
{
    static const float sinks[HEADS * MAX_GROUP] = {0.5f, -1, 2, 3.5f, -20, 1, 0, 2, 1};
    const sp_kv_shape shape = {.format = sp_kv_format_find("q8"),
                               .n_layer = 1,
                               .n_head = HEADS,
                               .d = t->d};
    const sp_dev_kv_view kv = sp_kv_page_view(&shape, 0);
    size_t n_head = HEADS * t->group, n_q = n_head * t->d, n_k = HEADS * t->d;
    float rows[SPANS * HEADS * MAX_GROUP * MAX_D], sink[HEADS * MAX_GROUP];
    sp_dev_span span[SPANS];
    seq s[SPANS];
    float *to = on(d->cuda, NULL, n_span * n_q * sizeof *to);
    float *qs = on(d->cuda, NULL, n_span * n_q * sizeof *qs),
          *ks = on(d->cuda, NULL, n_span * n_k * sizeof *ks),
          *vs = on(d->cuda, NULL, n_span * n_k * sizeof *vs);
    for (size_t i = 0; i < n_head; i++)
        sink[i] = sinks[i] + t->rule.sink_up;
    for (size_t i = 0; i < n_span; i++) {
        size_t at = t->n_tok - 9 * i;
        seq filled;
        open_seq(&filled, d->cpu, &shape, NULL);
        fill_pages(d->cpu, &filled, &shape, at);
        open_seq(&s[i], d->cuda, &shape, &filled);
        close_seq(&filled, d->cpu);
        span[i] = span_of(&s[i], i, 1, at);
        span[i].eps = eps;
        span[i].cert = i ? NULL : cert;
        span[i].dense = t->dense;
        span[i].n_dense = t->dense != NULL;
        for (size_t e = 0; e < n_q; e++)
            rows[e] = q[at * n_q + e] * t->rule.q_up;
        assert_int_equal(d->cuda->ops->mem_write(d->cuda, qs + i * n_q, rows, n_q * 4), SP_OK);
        assert_int_equal(d->cuda->ops->mem_write(d->cuda, ks + i * n_k, k + at * n_k, n_k * 4),
                         SP_OK);
        assert_int_equal(d->cuda->ops->mem_write(d->cuda, vs + i * n_k, v + at * n_k, n_k * 4),
                         SP_OK);
        void *lo = s[i].lo[3];
        s[i].lo[3] = t->is_demoted ? NULL : lo;
        if (t->is_demoted)
            d->cuda->ops->mem_free(d->cuda, lo);
    }
    const sp_dev_attn a = {.out = to,
                           .q = qs,
                           .k = ks,
                           .v = vs,
                           .kv = &kv,
                           .n_q_head = n_head,
                           .scale = t->scale,
                           .span = span,
                           .n_span = n_span,
                           .window = t->rule.window,
                           .cap = t->rule.cap,
                           .sinks = t->rule.sinks ? on(d->cuda, sink, n_head * 4) : NULL};
    assert_int_equal(d->cuda->ops->attn_paged(d->cuda, &a), SP_OK);
    assert_int_equal(d->cuda->ops->settle(d->cuda), SP_OK);
    get(d->cuda, out, to, n_span * n_q * sizeof *out);
    for (size_t i = 0; i < n_span; i++)
        close_seq(&s[i], d->cuda);
    done();
}

/* An answer with `loss` left out is the dense one's kept part, scaled up: no element can have grown
 * by more. */
static void check_loss(const setup *t, const sp_dev_cert *c)
{
    for (size_t i = 0; i < HEADS * t->group * t->d; i++)
        if (!(one[i] * (1 - c->max_loss) <= dense[i] + 1e-3f &&
              dense[i] - one[i] <= c->max_loss + 1e-3f))
            fail_msg("d %zu, window %zu, element %zu: %g is said to lose %g of %g", t->d,
                     t->rule.window, i, (double)one[i], (double)c->max_loss, (double)dense[i]);
}

/* T3 and T4 (docs/ATTENTION.md): what a step reports is within epsilon and bounds what its answer
 * moves; neither threads' order nor company change a bit; epsilon 0 is dense. */
void test_cuda_certified_steps(void **state)
{
    (void)state;
    static const rule rules[] = {{0, 0, false, 0, 1},
                                 {0, 3, true, 0, 1},
                                 {409, 0, false, 0, 1},
                                 {300, 3, true, 0, 1},
                                 {297, 0, true, 0, 4}};
    static const size_t n_seen[] = {18, 18, 12, 8, 8}; /* pages that are seen whole */
    devices d = open_devices();
    fill(64);
    for (size_t i = 0; i < 5; i++) {
        const setup t = {.d = 64, .group = 3, .n_tok = 600, .scale = 0.25f, .rule = rules[i]};
        uint64_t kept = UINT64_MAX;
        sp_dev_cert none = {0};
        step(&d, dense, &t, 0, 1, &none);
        assert_int_equal(none.n_call, 0);
        for (float eps = 0.01f; eps < 0.5f; eps *= 5) {
            sp_dev_cert cert = {0}, again = {0};
            step(&d, one, &t, eps, 1, &cert);
            set_order(orders[i % ORDERS]);
            step(&d, other, &t, eps, i % 2 ? 3 : 1, &again);
            set_order(0);
            assert_memory_equal(one, other, HEADS * 3 * 64 * sizeof *one);
            assert_memory_equal(&cert, &again, sizeof cert);
            assert_true(cert.n_call == HEADS && cert.max_loss <= eps && cert.n_kept <= kept);
            assert_true(cert.max_loss > 0 && cert.sum_loss <= HEADS * (double)cert.max_loss);
            assert_int_equal(cert.n_seen, HEADS * 32 * n_seen[i]);
            assert_int_equal(cert.n_dense, 0);
            assert_true(cert.bytes < cert.dense_bytes);
            check_loss(&t, &cert);
            kept = cert.n_kept;
        }
        assert_true(kept < HEADS * 32 * n_seen[i] / (rules[i].q_up > 1 ? 2 : 1));
    }
    const sp_dev_range most = {100, 500};
    const setup keeps =
        {.d = 64, .group = 3, .n_tok = 600, .scale = 0.25f, .rule = rules[0], .dense = &most};
    sp_dev_cert cert = {0};
    step(&d, one, &keeps, 0.3f, 1, &cert);
    assert_true(cert.n_kept >= HEADS * 14 * 32); /* pages 3 to 15 and the first one */
    /* A sink that outweighs everything is in the denominator: only the first page need be read. */
    const setup heavy = {.d = 64,
                         .group = 3,
                         .n_tok = 600,
                         .scale = 0.25f,
                         .rule = {0, 0, true, 40, 1}};
    cert = (sp_dev_cert){0};
    step(&d, one, &heavy, 0.01f, 1, &cert);
    assert_true(cert.n_kept <= HEADS * 32 && cert.max_loss < 1e-3f);
    close_devices(&d);
}

void test_cuda_certified_heads(void **state)
{
    (void)state;
    static const struct {
        size_t d, group;
    } sizes[] = {{48, 1}, {80, 3}, {128, 8}, {192, 2}, {256, 4}};
    devices d = open_devices();
    for (size_t i = 0; i < 5; i++) {
        const setup t = {.d = sizes[i].d,
                         .group = sizes[i].group,
                         .n_tok = 330,
                         .scale = 0.25f,
                         .rule = {0, 0, i % 2, 0, 1}};
        sp_dev_cert cert = {0};
        fill(t.d);
        step(&d, dense, &t, 0, 1, NULL);
        set_order(orders[i % ORDERS]);
        step(&d, one, &t, 0.2f, 1, &cert);
        set_order(0);
        assert_true(cert.n_call == HEADS && cert.n_dense == 0 && cert.max_loss <= 0.2f);
        assert_true(cert.n_kept < cert.n_seen);
        check_loss(&t, &cert);
    }
    close_devices(&d);
}

/* Where scores are too large for the bounds, and where a page cannot be completed, answers are
 * those of dense attention, to the bit. */
void test_cuda_dense_after_all(void **state)
{
    (void)state;
    static const setup all[] = {
        {.d = 64, .group = 3, .n_tok = 600, .scale = 0.25f, .rule = {0, 0, true, 0, 400}},
        {.d = 64, .group = 3, .n_tok = 600, .scale = 0.25f, .rule = {300, 0, false, 0, 400}},
        {.d = 64,
         .group = 3,
         .n_tok = 600,
         .scale = 0.25f,
         .rule = {0, 0, false, 0, 1},
         .is_demoted = true},
        {.d = 64, .group = 3, .n_tok = 8 * 32 - 1, .scale = 0.25f, .rule = {0, 0, false, 0, 1}}};
    static const size_t calls[] = {HEADS, HEADS, 0, 0};
    devices d = open_devices();
    fill(64);
    for (size_t i = 0; i < 4; i++) {
        sp_dev_cert cert = {0};
        step(&d, dense, &all[i], 0, 1, NULL);
        step(&d, one, &all[i], 0.1f, 1, &cert);
        assert_memory_equal(one, dense, HEADS * 3 * 64 * sizeof *one);
        assert_int_equal(cert.n_call, calls[i]);
        assert_int_equal(cert.n_dense, calls[i]);
        assert_int_equal(cert.n_kept, cert.n_seen);
        assert_true(cert.max_loss == 0 && cert.bytes >= cert.dense_bytes);
    }
    close_devices(&d);
}

/* What the hi plane leaves out of each key points along the query: test_the_bound_is_met of
 * dev_main.c. A bound half as large would leave all far keys out, which hold a tenth. */
void test_cuda_bound_is_met(void **state)
{
    (void)state;
    enum { FAR = 640, D = 64, ROW = HEADS * D };
    const float eps = 0.05f, unit = 1.0f / 64, scale = 0.125f, t = 3.0f / (480 * unit * scale),
                own = 8.47f / (scale * (D - 1) * t * t);
    devices d = open_devices();
    const sp_kern *kern = sp_dev_cpu_kern(d.cpu);
    float turned[D], query[D];
    for (size_t i = 0; i < D; i++)
        turned[i] = i == 0 ? 0 : i % 2 ? t : -t;
    kern->rotate(query, turned, 1, D, true);
    for (size_t i = 0; i <= FAR; i++)
        for (size_t h = 0; h < HEADS; h++) {
            for (size_t e = 0; e < D; e++)
                turned[e] = unit * (e == 0                     ? (i % 2 ? 127.0f : -127.0f)
                                    : e % 2 == 0               ? 0.0f
                                    : i / 2 % 16 == e / 2 % 16 ? 15.0f
                                                               : -1.0f);
            kern->rotate(k + i * ROW + h * D, turned, 1, D, true);
            for (size_t e = 0; e < D; e++) {
                k[i * ROW + h * D + e] = i == FAR ? own * query[e] : k[i * ROW + h * D + e];
                v[i * ROW + h * D + e] = i < FAR;
                q[i * ROW + h * D + e] = query[e];
            }
        }
    const setup far = {.d = D, .group = 1, .n_tok = FAR, .scale = scale, .rule = {.q_up = 1}};
    sp_dev_cert cert = {0};
    step(&d, dense, &far, 0, 1, NULL);
    step(&d, one, &far, eps, 1, &cert);
    assert_int_equal(cert.n_call, HEADS);
    for (size_t h = 0; h < HEADS; h++)
        if (!(dense[h * D] > 0.09f && dense[h * D] < 0.14f &&
              dense[h * D] - one[h * D] <= eps + 0.005f))
            fail_msg("dense %g, certified %g, said to lose %g", (double)dense[h * D],
                     (double)one[h * D], (double)cert.max_loss);
    close_devices(&d);
}
