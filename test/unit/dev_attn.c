/* Windows, soft caps and sinks on the CPU device, against attention in f64: every level, format and head size; window borders on both sides of
 * page edges; chunks, threads and batching change no bit. */
#include "test.h"

#include "base/mem.h"
#include "kv/page.h"

#include <math.h>

enum { HEADS = 2, GROUP = 3, MAX_D = 256, LONG = 640, MOST = 1200, PAGES = (MOST + 31) / 32, ROWS = HEADS * GROUP };

typedef struct rule {
    size_t window;
    float cap;
    bool sinks;
    float sink_up; /* added to each */
} rule;

typedef struct seq {
    void *page[PAGES], *lo[PAGES], *open;
} seq;

static float q[MOST * ROWS * MAX_D], k[MOST * HEADS * MAX_D], v[MOST * HEADS * MAX_D];
static double truth[LONG * ROWS * MAX_D];
static const float sinks_of[ROWS] = {0.5f, -1, 2, 3.5f, -20, 1};
static float sinks[ROWS];
static const float scale = 0.25f;

static void fill(size_t d)
{
    uint64_t s = 17 + d;
    float size = 5.0f / sqrtf((float)d); /* scores to about 6 */
    for (size_t i = 0; i < MOST * ROWS * d; i++)
        q[i] = test_float(&s) * 2 * size;
    for (size_t i = 0; i < MOST * HEADS * d; i++) {
        k[i] = test_float(&s) * 2 + (float)(i % d % 5) * 0.1f;
        v[i] = test_float(&s);
    }
}

static void compute_truth(size_t n_tok, size_t d, const rule *r)
{
    static double score[LONG];
    for (size_t p = 0; p < n_tok; p++) {
        for (size_t h = 0; h < ROWS; h++) {
            size_t row = (p * ROWS + h) * d;
            double top = r->sinks ? (double)sinks_of[h] : -INFINITY, sum;
            for (size_t j = 0; j <= p; j++) {
                score[j] = -INFINITY;
                if (r->window && p - j >= r->window)
                    continue;
                score[j] = 0;
                for (size_t e = 0; e < d; e++)
                    score[j] += (double)q[row + e] * (double)k[(j * HEADS + h / GROUP) * d + e] * (double)scale;
                if (r->cap > 0)
                    score[j] = (double)r->cap * tanh(score[j] / (double)r->cap);
                top = fmax(top, score[j]);
            }
            sum = r->sinks ? exp((double)sinks_of[h] - top) : 0;
            for (size_t e = 0; e < d; e++)
                truth[row + e] = 0;
            for (size_t j = 0; j <= p; j++) {
                double w = exp(score[j] - top);
                sum += w;
                for (size_t e = 0; e < d; e++)
                    truth[row + e] += w * (double)v[(j * HEADS + h / GROUP) * d + e];
            }
            for (size_t e = 0; e < d; e++)
                truth[row + e] /= sum;
        }
    }
}

static void open_seq(seq *s, const sp_kv_shape *shape)
{
    size_t lo = sp_kv_lo_bytes(shape), hi = sp_kv_page_bytes(shape) - lo;
    for (size_t i = 0; i < PAGES; i++) {
        s->page[i] = sp_mem_align(hi);
        s->lo[i] = lo && (i == 0 || !shape->format->is_demoted) ? sp_mem_align(lo) : NULL;
    }
    s->open = sp_kv_open_bytes(shape) ? sp_mem_align(sp_kv_open_bytes(shape)) : NULL;
}

static void close_seq(seq *s)
{
    for (size_t i = 0; i < PAGES; i++) {
        sp_mem_free(s->page[i]);
        sp_mem_free(s->lo[i]);
    }
    sp_mem_free(s->open);
}

static sp_dev *open_dev(int level, size_t n_thread)
{
    sp_dev *dev;
    sp_dev_cfg cfg = {.name = "cpu", .n_thread = n_thread, .mask = (sp_cpu_level)level};
    assert_int_equal(sp_dev_open(&dev, &cfg, NULL), SP_OK);
    return dev;
}

static sp_dev_span span_of(const seq *s, size_t row, size_t n, size_t pos)
{
    return (sp_dev_span){.row = row, .n = n, .pos = pos, .page = s->page, .lo = s->lo, .open = s->open};
}

/* Attends rows [row, ...) of the tokens, whose spans count from there. */
static void attend(sp_dev *dev, float *out, size_t row, const sp_dev_kv_view *kv, const rule *r, const sp_dev_span *span, size_t n_span)
{
    size_t d = kv->d;
    for (size_t i = 0; i < ROWS; i++)
        sinks[i] = sinks_of[i] + r->sink_up;
    const sp_dev_attn a = {.out = out + row * ROWS * d, .q = q + row * ROWS * d, .k = k + row * HEADS * d, .v = v + row * HEADS * d, .kv = kv,
                           .n_q_head = ROWS, .scale = scale, .span = span, .n_span = n_span, .window = r->window, .cap = r->cap,
                           .sinks = r->sinks ? sinks : NULL};
    assert_int_equal(dev->ops->attn_paged(dev, &a), SP_OK);
}

static void run(float *out, const sp_kv_shape *shape, const rule *r, size_t n_tok, int level, size_t n_thread, const size_t *chunk, size_t n_chunk)
{
    sp_dev *dev = open_dev(level, n_thread);
    const sp_dev_kv_view kv = sp_kv_page_view(shape, 0);
    seq s;
    open_seq(&s, shape);
    for (size_t pos = 0, c = 0, n; pos < n_tok; pos += n, c++) {
        n = chunk[c % n_chunk] < n_tok - pos ? chunk[c % n_chunk] : n_tok - pos;
        const sp_dev_span span = span_of(&s, 0, n, pos);
        attend(dev, out, pos, &kv, r, &span, 1);
    }
    close_seq(&s);
    sp_dev_close(dev);
}

static const struct { const char *name; double tol; } formats[] = {{"f32", 2e-5}, {"f16", 2e-3}, {"bf16", 2e-2}, {"q8", 0.03}, {"q4", 0.4}, {"fp8", 0.2}};

/* All formats and levels against f64, and in other chunks on other threads against themselves. */
static void check_rule(size_t n_tok, size_t d, const rule *r)
{
    static float whole[LONG * ROWS * MAX_D], parts[LONG * ROWS * MAX_D];
    static const size_t one[] = {LONG}, mixed[] = {1, 31, 40, 7, 64, 1, 1, 33}, single[] = {1};
    compute_truth(n_tok, d, r);
    for (size_t f = 0; f < sizeof formats / sizeof formats[0]; f++) {
        const sp_kv_shape shape = {.format = sp_kv_format_find(formats[f].name), .n_layer = 1, .n_head = HEADS, .d = d};
        for (int level = SP_CPU_SCALAR; level <= (int)sp_cpu_detect(); level++) {
            if (level == SP_CPU_SCALAR && f % 2) /* slow, and alike */
                continue;
            run(whole, &shape, r, n_tok, level, 1, one, 1);
            for (size_t i = 0; i < n_tok * ROWS * d; i++)
                if (!(fabs((double)whole[i] - truth[i]) <= formats[f].tol))
                    fail_msg("%s at level %d, d %zu, window %zu, cap %g, sinks %d: token %zu is %g, not %g", formats[f].name, level, d, r->window,
                             (double)r->cap, r->sinks, i / (ROWS * d), (double)whole[i], truth[i]);
            if (level == SP_CPU_SCALAR)
                continue;
            run(parts, &shape, r, n_tok, level, 2, mixed, 8);
            assert_memory_equal(whole, parts, n_tok * ROWS * d * sizeof *whole);
            run(parts, &shape, r, n_tok, level, 1, single, 1); /* split in parts all the same */
            assert_memory_equal(whole, parts, n_tok * ROWS * d * sizeof *whole);
        }
    }
}

void test_attn_rules(void **state)
{
    (void)state;
    static const rule rules[] = {{33, 0, false, 0}, {0, 3, true, 0}, {600, 3, true, 0}};
    fill(64);
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++)
        check_rule(LONG, 64, &rules[i]);
}

void test_attn_window_borders(void **state)
{
    (void)state;
    static const size_t windows[] = {1, 31, 32, 33, 63, 64, 65, 150};
    fill(16);
    for (size_t i = 0; i < sizeof windows / sizeof windows[0]; i++)
        check_rule(150, 16, &(rule){windows[i], 0, false, 0});
}

void test_attn_head_sizes(void **state)
{
    (void)state;
    static const size_t ds[] = {48, 80, 96, 112, 128, 192, 256};
    for (size_t i = 0; i < sizeof ds / sizeof ds[0]; i++) {
        fill(ds[i]);
        check_rule(100, ds[i], &(rule){0, 0, false, 0});
        check_rule(130, ds[i], &(rule){65, 4, true, 0});
    }
}

/* A decoding step of three sequences beside a prompt: each row as if it were alone. */
void test_attn_rules_in_a_batch(void **state)
{
    (void)state;
    enum { N = 4, STEP = 570, D = 64 };
    static float alone[LONG * ROWS * D], batch[LONG * ROWS * D];
    static const size_t n[N] = {1, 1, 40, 1}, before[N] = {STEP, STEP - 33, 50, 31}, at[N] = {0, 1, 2, 42};
    const rule r = {100, 4, true, 0};
    fill(D);
    for (int level = SP_CPU_SCALAR; level <= (int)sp_cpu_detect(); level++) {
        const sp_kv_shape shape = {.format = sp_kv_format_find("q8"), .n_layer = 1, .n_head = HEADS, .d = D};
        const sp_dev_kv_view kv = sp_kv_page_view(&shape, 0);
        sp_dev *dev = open_dev(level, 2);
        seq s[2][N];
        sp_dev_span span[N];
        for (size_t b = 0; b < 2; b++) {
            for (size_t i = 0; i < N; i++) {
                open_seq(&s[b][i], &shape);
                const sp_dev_span all = span_of(&s[b][i], 0, before[i], 0);
                attend(dev, batch, 0, &kv, &r, &all, 1);
                span[i] = span_of(&s[b][i], at[i], n[i], before[i]);
            }
            for (size_t i = 0; b == 0 && i < N; i++)
                attend(dev, alone, 0, &kv, &r, &span[i], 1);
        }
        attend(dev, batch, 0, &kv, &r, span, N);
        assert_memory_equal(alone, batch, 43 * ROWS * D * sizeof *batch);
        for (size_t i = 0; i < 2 * N; i++)
            close_seq(&s[i / N][i % N]);
        sp_dev_close(dev);
    }
}

/* Attention without pages, with a window and fewer KV heads than heads, both ways and causal. */
void test_attn_full_window(void **state)
{
    (void)state;
    enum { N = 90, D = 32 };
    static float out[N * ROWS * D];
    static const size_t windows[] = {0, 1, 2, 31, 64, 65, 178, 400};
    fill(D);
    for (size_t i = 0; i < 2 * sizeof windows / sizeof windows[0] * (size_t)(sp_cpu_detect() + 1); i++) {
        bool causal = i % 2;
        size_t w = windows[i / 2 % 8], ahead = causal ? 0 : w ? w / 2 : N, back = !w ? N : causal ? w - 1 : w / 2;
        sp_dev *dev = open_dev((int)(i / 16), 2);
        const sp_dev_attn_full a = {.out = out, .q = q, .k = k, .v = v, .n = N, .n_head = ROWS, .n_head_kv = HEADS, .d = D, .scale = scale, .causal = causal, .window = w};
        assert_int_equal(dev->ops->attn_full(dev, &a), SP_OK);
        for (size_t row = 0; row < N * ROWS; row++) {
            double sum = 0, want[D] = {0};
            for (size_t j = 0, p = row / ROWS, h = row % ROWS / GROUP; j < N; j++) {
                double s = 0;
                for (size_t e = 0; e < D; e++)
                    s += (double)q[row * D + e] * (double)k[(j * HEADS + h) * D + e] * (double)scale;
                double w_j = j > p + ahead || p > j + back ? 0 : exp(s);
                sum += w_j;
                for (size_t e = 0; e < D; e++)
                    want[e] += w_j * (double)v[(j * HEADS + h) * D + e];
            }
            for (size_t e = 0; e < D; e++)
                if (!(fabs((double)out[row * D + e] - want[e] / sum) <= 2e-5))
                    fail_msg("window %zu, causal %d, token %zu: %g, not %g", w, causal, row / ROWS, (double)out[row * D + e], want[e] / sum);
        }
        sp_dev_close(dev);
    }
}

/* A decoding step at position 600 beside two others of the same batch. */
static void certified_step(float *out, const rule *r, int level, size_t n_thread, float eps, size_t n_span, sp_dev_cert *cert)
{
    enum { D = 64, AT = 600 };
    static float first[MOST * ROWS * D];
    const sp_kv_shape shape = {.format = sp_kv_format_find("q8"), .n_layer = 1, .n_head = HEADS, .d = D};
    const sp_dev_kv_view kv = sp_kv_page_view(&shape, 0);
    sp_dev *dev = open_dev(level, n_thread);
    seq s[3];
    sp_dev_span span[3];
    for (size_t i = 0; i < n_span; i++) {
        open_seq(&s[i], &shape);
        const sp_dev_span all = span_of(&s[i], 0, AT - 9 * i, 0);
        attend(dev, first, 0, &kv, r, &all, 1);
        span[i] = span_of(&s[i], i, 1, AT - 9 * i);
        span[i].eps = eps;
        span[i].cert = i ? NULL : cert;
    }
    attend(dev, first, 0, &kv, r, span, n_span);
    memcpy(out, first, ROWS * D * sizeof *out);
    for (size_t i = 0; i < n_span; i++)
        close_seq(&s[i]);
    sp_dev_close(dev);
}

/* T3 and T4 under these rules: what a step reports is within eps and bounds what its answer moves; pages before the window are not counted;
 * threads and neighbours change no bit. */
void test_attn_certified_rules(void **state)
{
    (void)state;
    enum { N = ROWS * 64 };
    static const rule rules[] = {{0, 3, false, 0}, {0, 0, true, 0}, {409, 0, false, 0}, {300, 3, true, 0}, {297, 0, true, 0}};
    static const size_t n_seen[] = {18, 18, 12, 8, 8}; /* pages that the query sees whole, before its own */
    static float dense[N], one[N], other[N];
    fill(64);
    for (int level = SP_CPU_SCALAR + 1; level <= (int)sp_cpu_detect(); level++) {
        for (size_t i = 0; i < 5; i++) {
            sp_dev_cert none = {0};
            uint64_t kept = UINT64_MAX;
            certified_step(dense, &rules[i], level, 1, 0, 1, &none);
            assert_int_equal(none.n_call, 0);
            for (float eps = 0.01f; eps < 0.5f; eps *= 5) {
                sp_dev_cert cert = {0}, again = {0};
                certified_step(one, &rules[i], level, 1, eps, 1, &cert);
                certified_step(other, &rules[i], level, 2, eps, 3, &again);
                assert_memory_equal(one, other, sizeof one);
                assert_true(cert.n_call == HEADS && cert.max_loss <= eps && cert.n_kept <= kept);
                assert_int_equal(cert.n_seen, HEADS * 32 * n_seen[i]);
                kept = cert.n_kept;
                for (size_t e = 0; e < N; e++)
                    assert_true(fabs((double)one[e] - (double)dense[e]) <= 2 * (double)cert.max_loss + 0.03);
            }
            assert_true(kept < HEADS * 32 * n_seen[i]);
        }
        /* A sink that outweighs everything is in the denominator: nothing needs to be read but the first page. */
        sp_dev_cert heavy = {0};
        certified_step(one, &(rule){0, 0, true, 40}, level, 1, 0.01f, 1, &heavy);
        assert_true(heavy.n_kept <= HEADS * 32 && heavy.max_loss < 1e-3f);
    }
}

/* A long prompt that may leave out eps, under these rules. */
void test_attn_certified_prompt(void **state)
{
    (void)state;
    enum { D = 64 };
    static float dense[MOST * ROWS * D], cut[MOST * ROWS * D];
    static const rule rules[] = {{0, 3, true, 0}, {1100, 0, true, 0}};
    const sp_kv_shape shape = {.format = sp_kv_format_find("q8"), .n_layer = 1, .n_head = HEADS, .d = D};
    const sp_dev_kv_view kv = sp_kv_page_view(&shape, 0);
    fill(D);
    for (int level = SP_CPU_SCALAR + 1; level <= (int)sp_cpu_detect(); level++) {
        for (size_t i = 0; i < 2; i++) {
            sp_dev_cert cert = {0};
            sp_dev *dev = open_dev(level, 2);
            bool is_8_bit = sp_dev_cpu_kern(dev)->attn_planes != NULL;
            for (int eps = 0; eps < 2; eps++) {
                seq s;
                open_seq(&s, &shape);
                sp_dev_span span = span_of(&s, 0, MOST, 0);
                span.eps = eps ? 0.2f : 0;
                span.cert = &cert;
                attend(dev, eps ? cut : dense, 0, &kv, &rules[i], &span, 1);
                close_seq(&s);
            }
            if (cert.max_loss > 0.2f || (cert.max_loss > 0) != is_8_bit || (cert.n_quad > 0) != is_8_bit)
                fail_msg("level %d, rule %zu: loss %g, %llu of %llu", level, i, (double)cert.max_loss, (unsigned long long)cert.n_used, (unsigned long long)cert.n_quad);
            for (size_t e = 0; e < MOST * ROWS * D; e++)
                assert_true(fabs((double)dense[e] - (double)cut[e]) <= 2 * (double)cert.max_loss + 1e-5);
            sp_dev_close(dev);
        }
    }
}
