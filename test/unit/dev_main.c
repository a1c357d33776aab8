/* Attention over pages on the CPU device: chunks, threads and batching change no bit; a page that is
 * full is never written again; quantised formats stay near plain ones. */
#include "test.h"

#include "base/mem.h"
#include "kv/page.h"

#include <math.h>

enum { HEADS = 2, GROUP = 3, D = 64, TOKS = 700, ROW = HEADS * D, Q_ROW = ROW * GROUP,
       LONG = 1200, PAGES = (LONG + 31) / 32 };

typedef struct seq {
    void *page[PAGES], *lo[PAGES], *open;
} seq;

static float q[LONG * Q_ROW], k[LONG * ROW], v[LONG * ROW];

static void fill(void)
{
    uint64_t s = 5;
    for (size_t i = 0; i < LONG * Q_ROW; i++)
        q[i] = test_float(&s) * 2;
    for (size_t i = 0; i < LONG * ROW; i++) {
        k[i] = test_float(&s) * 2 + (float)(i % D % 5);
        v[i] = test_float(&s);
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

/* Rows [row, row + n) of a batch as positions [pos, pos + n) of s, dense. */
static sp_dev_span span_of(const seq *s, size_t row, size_t n, size_t pos)
{
    return (sp_dev_span){.row = row, .n = n, .pos = pos, .page = s->page, .lo = s->lo, .open = s->open};
}

static sp_dev_attn attn_of(float *out, const float *qs, const float *ks, const float *vs, const sp_dev_kv_view *kv, float scale,
                           const sp_dev_span *span, size_t n_span)
{
    return (sp_dev_attn){.out = out, .q = qs, .k = ks, .v = vs, .kv = kv, .n_q_head = HEADS * GROUP, .scale = scale, .span = span, .n_span = n_span};
}

/* Runs all tokens in chunks of the given sizes (cycled) and checks that full pages keep their bytes. */
static void run(float *out, const sp_kv_shape *shape, sp_cpu_level level, size_t n_thread, const size_t *chunk, size_t n_chunk)
{
    static uint8_t before[PAGES][64 * 1024];
    sp_dev *dev;
    sp_dev_cfg cfg = {.name = "cpu", .n_thread = n_thread, .mask = level};
    assert_int_equal(sp_dev_open(&dev, &cfg, NULL), SP_OK);
    seq s;
    open_seq(&s, shape);
    const sp_dev_kv_view kv = sp_kv_page_view(shape, 1);
    size_t hi = sp_kv_page_bytes(shape) - sp_kv_lo_bytes(shape), n_full = 0;
    assert_true(hi <= sizeof before[0]);
    for (size_t pos = 0, c = 0; pos < TOKS; c++) {
        size_t n = chunk[c % n_chunk] < TOKS - pos ? chunk[c % n_chunk] : TOKS - pos;
        const sp_dev_span span = span_of(&s, 0, n, pos);
        const sp_dev_attn a = attn_of(out + pos * Q_ROW, q + pos * Q_ROW, k + pos * ROW, v + pos * ROW, &kv, 0.125f, &span, 1);
        assert_int_equal(dev->ops->attn_paged(dev, &a), SP_OK);
        for (size_t i = 0; i < n_full; i++)
            assert_memory_equal(before[i], s.page[i], hi);
        pos += n;
        while ((n_full + 1) * 32 <= pos) {
            memcpy(before[n_full], s.page[n_full], hi);
            n_full++;
        }
    }
    close_seq(&s);
    sp_dev_close(dev);
}

static void test_chunks_threads_and_levels(void **state)
{
    (void)state;
    static float whole[TOKS * Q_ROW], parts[TOKS * Q_ROW], exact[TOKS * Q_ROW];
    static const size_t one[] = {TOKS}, mixed[] = {1, 31, 40, 7, 64, 1, 1, 33}, single[] = {1};
    static const struct { const char *name; double tol; } formats[] = {{"f32", 2e-5}, {"f16", 2e-3}, {"bf16", 2e-2}, {"q8", 0.03}, {"q4", 0.4}, {"fp8", 0.2}};
    fill();
    const sp_kv_shape plain = {.format = sp_kv_format_find("f32"), .n_layer = 2, .n_head = HEADS, .d = D};
    run(exact, &plain, SP_CPU_SCALAR, 1, one, 1);
    for (size_t f = 0; f < sizeof formats / sizeof formats[0]; f++) {
        const sp_kv_shape shape = {.format = sp_kv_format_find(formats[f].name), .n_layer = 2, .n_head = HEADS, .d = D};
        for (int level = SP_CPU_SCALAR; level <= (int)sp_cpu_detect(); level++) {
            run(whole, &shape, (sp_cpu_level)level, 1, one, 1);
            double worst = 0;
            for (size_t i = 0; i < TOKS * Q_ROW; i++)
                if (fabs((double)whole[i] - (double)exact[i]) > worst)
                    worst = fabs((double)whole[i] - (double)exact[i]);
            if (!(worst <= formats[f].tol))
                fail_msg("%s at level %d is off by %g", formats[f].name, level, worst);
            run(parts, &shape, (sp_cpu_level)level, 3, mixed, 8);
            assert_memory_equal(whole, parts, sizeof whole);
            run(parts, &shape, (sp_cpu_level)level, 2, single, 1);
            assert_memory_equal(whole, parts, sizeof whole);
        }
    }
}

/* Three sequences in one call give what each gives alone. */
static void test_batch_equals_singles(void **state)
{
    (void)state;
    static float alone[TOKS * Q_ROW], batch[TOKS * Q_ROW];
    const sp_kv_shape shape = {.format = sp_kv_format_find("q8"), .n_layer = 2, .n_head = HEADS, .d = D};
    static const size_t n[] = {300, 1, 399}; /* rows of the batch; each sequence starts at 0 */
    sp_dev *dev;
    sp_dev_cfg cfg = {.name = "cpu", .n_thread = 2, .mask = SP_CPU_LEVELS - 1};
    assert_int_equal(sp_dev_open(&dev, &cfg, NULL), SP_OK);
    const sp_dev_kv_view kv = sp_kv_page_view(&shape, 0);
    seq s[6];
    sp_dev_span span[3];
    for (size_t i = 0, row = 0; i < 3; row += n[i++]) {
        open_seq(&s[i], &shape);
        open_seq(&s[i + 3], &shape);
        span[i] = span_of(&s[i], row, n[i], 0);
        const sp_dev_span lone = span_of(&s[i + 3], 0, n[i], 0);
        const sp_dev_attn a = attn_of(alone + row * Q_ROW, q + row * Q_ROW, k + row * ROW, v + row * ROW, &kv, 0.125f, &lone, 1);
        assert_int_equal(dev->ops->attn_paged(dev, &a), SP_OK);
    }
    const sp_dev_attn a = attn_of(batch, q, k, v, &kv, 0.125f, span, 3);
    assert_int_equal(dev->ops->attn_paged(dev, &a), SP_OK);
    assert_memory_equal(alone, batch, sizeof alone);
    for (size_t i = 0; i < 6; i++)
        close_seq(&s[i]);
    sp_dev_close(dev);
}

/* A decoding step with eps over SPLIT tokens of q, k, v; the other rows of the batch are other positions of it. */
static void step(float *out, sp_cpu_level level, size_t n_thread, float eps, size_t n_span, sp_dev_cert *cert)
{
    enum { SPLIT = 640 };
    const sp_kv_shape shape = {.format = sp_kv_format_find("q8"), .n_layer = 2, .n_head = HEADS, .d = D};
    const sp_dev_kv_view kv = sp_kv_page_view(&shape, 0);
    sp_dev_cfg cfg = {.name = "cpu", .n_thread = n_thread, .mask = level};
    sp_dev *dev;
    seq s[3];
    sp_dev_span span[3];
    assert_int_equal(sp_dev_open(&dev, &cfg, NULL), SP_OK);
    for (size_t i = 0; i < n_span; i++) {
        static float first[SPLIT * Q_ROW];
        open_seq(&s[i], &shape);
        const sp_dev_span all = span_of(&s[i], 0, SPLIT - 32 * i, 0);
        const sp_dev_attn a = attn_of(first, q, k, v, &kv, 0.125f, &all, 1);
        assert_int_equal(dev->ops->attn_paged(dev, &a), SP_OK);
        span[i] = span_of(&s[i], i, 1, SPLIT - 32 * i);
        span[i].eps = eps;
        span[i].cert = cert;
    }
    const sp_dev_attn a = attn_of(out, q + SPLIT * Q_ROW, k + SPLIT * ROW, v + SPLIT * ROW, &kv, 0.5f, span, n_span);
    assert_int_equal(dev->ops->attn_paged(dev, &a), SP_OK);
    for (size_t i = 0; i < n_span; i++)
        close_seq(&s[i]);
    sp_dev_close(dev);
}

/* T3 and T4, and that a certified step depends on neither threads nor its neighbours in the batch. */
static void test_certified_steps(void **state)
{
    (void)state;
    static float dense[3 * Q_ROW], one[3 * Q_ROW], other[3 * Q_ROW];
    fill();
    for (int level = SP_CPU_SCALAR; level <= (int)sp_cpu_detect(); level++) {
        sp_dev_cert none = {0};
        uint64_t kept = UINT64_MAX;
        step(dense, (sp_cpu_level)level, 2, 0, 1, &none);
        assert_int_equal(none.n_call, 0);
        for (float eps = 0.002f; eps < 0.5f; eps *= 3) {
            sp_dev_cert cert = {0}, again = {0};
            step(one, (sp_cpu_level)level, 1, eps, 1, &cert);
            for (size_t n_thread = 2; n_thread <= 4; n_thread++) {
                step(other, (sp_cpu_level)level, n_thread, eps, 1, &again);
                assert_memory_equal(one, other, Q_ROW * sizeof *one);
            }
            step(other, (sp_cpu_level)level, 2, eps, 3, &again);
            assert_memory_equal(one, other, Q_ROW * sizeof *one);
            if (level == SP_CPU_SCALAR) { /* the reference is dense */
                assert_memory_equal(one, dense, Q_ROW * sizeof *one);
                continue;
            }
            assert_true(cert.n_call == HEADS && cert.max_loss <= eps && cert.n_kept <= kept && cert.n_seen == HEADS * 640);
            kept = cert.n_kept;
            for (size_t i = 0; i < Q_ROW; i++) /* |values| <= 1: the loss bounds what an output can move */
                assert_true(fabs((double)one[i] - (double)dense[i]) <= 2 * (double)cert.max_loss * 8 + 0.03);
        }
        assert_true(level == SP_CPU_SCALAR || kept < HEADS * 640 / 2);
    }
}

/* Keys made so that the bound is met: what the hi plane leaves out of each of them points along the query, so that each weighs
 * exp(3) times what the hi plane says. The far keys (values 1) hold a tenth of the softmax, the query's own key (value 0) the
 * rest; a bound half as large would leave all of the far ones out. In rotated codes: 15 or -1 from the middle where the
 * query is positive (lo is 15, all of them sum to 0), 0 where it is negative (lo is 0), and 127 once for the scale. */
static void test_the_bound_is_met(void **state)
{
    (void)state;
    enum { FAR = 640 };
    const float eps = 0.05f, step = 1.0f / 64, scale = 0.125f, t = 3.0f / (480 * step * scale), own = 8.47f / (scale * (D - 1) * t * t);
    static float first[FAR * Q_ROW], out[Q_ROW];
    const sp_kv_shape shape = {.format = sp_kv_format_find("q8"), .n_layer = 2, .n_head = HEADS, .d = D};
    const sp_dev_kv_view kv = sp_kv_page_view(&shape, 0);
    for (int level = SP_CPU_SCALAR; level <= (int)sp_cpu_detect(); level++) {
        sp_dev_cfg cfg = {.name = "cpu", .n_thread = 2, .mask = (sp_cpu_level)level};
        sp_dev_cert cert = {0};
        sp_dev *dev;
        seq s;
        assert_int_equal(sp_dev_open(&dev, &cfg, NULL), SP_OK);
        const sp_kern *kern = sp_dev_cpu_kern(dev);
        float turned[D], query[D];
        for (size_t i = 0; i < D; i++)
            turned[i] = i == 0 ? 0 : i % 2 ? t : -t;
        kern->rotate(query, turned, 1, D, true);
        for (size_t i = 0; i <= FAR; i++) {
            for (size_t e = 0; e < D; e++)
                turned[e] = step * (e == 0 ? (i % 2 ? 127.0f : -127.0f) : e % 2 == 0 ? 0.0f : i / 2 % 16 == e / 2 % 16 ? 15.0f : -1.0f);
            for (size_t h = 0; h < HEADS; h++) {
                kern->rotate(k + i * ROW + h * D, turned, 1, D, true);
                for (size_t e = 0; e < D; e++) {
                    if (i == FAR)
                        k[i * ROW + h * D + e] = own * query[e];
                    v[i * ROW + h * D + e] = i < FAR;
                }
            }
            for (size_t e = 0; e < Q_ROW; e++)
                q[i * Q_ROW + e] = query[e % D];
        }
        open_seq(&s, &shape);
        sp_dev_span span = span_of(&s, 0, FAR, 0);
        const sp_dev_attn before = {.out = first, .q = q, .k = k, .v = v, .kv = &kv, .n_q_head = HEADS * GROUP, .scale = scale, .span = &span, .n_span = 1};
        assert_int_equal(dev->ops->attn_paged(dev, &before), SP_OK);
        float got[2];
        for (int cut = 0; cut < 2; cut++) {
            span = span_of(&s, 0, 1, FAR);
            span.eps = cut ? eps : 0;
            span.cert = &cert;
            const sp_dev_attn a = {.out = out, .q = q + FAR * Q_ROW, .k = k + FAR * ROW, .v = v + FAR * ROW, .kv = &kv, .n_q_head = HEADS * GROUP, .scale = scale, .span = &span, .n_span = 1};
            assert_int_equal(dev->ops->attn_paged(dev, &a), SP_OK);
            got[cut] = out[0];
        }
        if (!(got[0] > 0.09f && got[0] < 0.14f && got[0] - got[1] <= eps + 0.005f))
            fail_msg("level %d: dense %g, certified %g, said to lose %g", level, (double)got[0], (double)got[1], (double)cert.max_loss);
        close_seq(&s);
        sp_dev_close(dev);
    }
}

/* Pages chosen by a sample: from keep_to on nothing is left out; before it something is, and it is counted. */
static void test_the_end_of_a_prompt_attends_everything(void **state)
{
    (void)state;
    enum { FIRST = 1056, TAIL_AT = 1152, N = LONG - FIRST, BEFORE = (TAIL_AT - FIRST) * Q_ROW };
    static float out[2][LONG * Q_ROW];
    const sp_kv_shape shape = {.format = sp_kv_format_find("q8"), .n_layer = 2, .n_head = HEADS, .d = D};
    const sp_dev_kv_view kv = sp_kv_page_view(&shape, 0);
    fill();
    for (int level = SP_CPU_SCALAR; level <= (int)sp_cpu_detect(); level++) {
        sp_dev_cfg cfg = {.name = "cpu", .n_thread = 2, .mask = (sp_cpu_level)level};
        sp_dev_cert cert = {0};
        bool is_8_bit = false;
        for (int keeps = 0; keeps < 2; keeps++) {
            sp_dev *dev;
            seq s;
            assert_int_equal(sp_dev_open(&dev, &cfg, NULL), SP_OK);
            open_seq(&s, &shape);
            sp_dev_span span[] = {span_of(&s, 0, FIRST, 0), span_of(&s, 0, N, FIRST)};
            span[1].keep = keeps ? 0.1f : 0;
            span[1].keep_to = TAIL_AT;
            span[1].cert = &cert;
            for (size_t i = 0; i < 2; i++) {
                size_t at = span[i].pos;
                const sp_dev_attn a = attn_of(out[keeps] + at * Q_ROW, q + at * Q_ROW, k + at * ROW, v + at * ROW, &kv, 0.125f, &span[i], 1);
                assert_int_equal(dev->ops->attn_paged(dev, &a), SP_OK);
            }
            is_8_bit = sp_dev_cpu_kern(dev)->attn_planes != NULL;
            close_seq(&s);
            sp_dev_close(dev);
        }
        assert_true((cert.n_page > 0) == is_8_bit); /* levels without 8-bit attention attend everything */
        assert_true((memcmp(out[0] + FIRST * Q_ROW, out[1] + FIRST * Q_ROW, BEFORE * sizeof(float)) != 0) == is_8_bit);
        assert_memory_equal(out[0] + TAIL_AT * Q_ROW, out[1] + TAIL_AT * Q_ROW, (LONG - TAIL_AT) * Q_ROW * sizeof(float));
        int64_t left = (int64_t)(cert.n_page - cert.n_chosen) * 32 * (TAIL_AT - FIRST) * GROUP;
        assert_true(cert.n_skipped == left - (int64_t)cert.n_sample * (FIRST / 32) * 32);
    }
}

/* Stores rows [row, row + n) as positions [pos, pos + n) of both layers, keys turned to where they stand; attends if out is set. */
static void store(sp_dev *dev, const sp_kv_shape *shape, seq *s, size_t row, size_t n, size_t pos, bool halves, const float *norm, float *out)
{
    static float turned[TOKS * ROW], cs[TOKS * D], none[TOKS * Q_ROW];
    static uint32_t at[TOKS];
    static const float freq[D / 2] = {1, 0.5f, 0.25f, 0.1f, 0.01f, 0.001f};
    const sp_dev_rope rope = {freq, D, 1, false};
    for (size_t i = 0; i < n; i++)
        at[i] = (uint32_t)(pos + i);
    memcpy(turned, k + row * ROW, n * ROW * sizeof *k);
    assert_int_equal(dev->ops->rope_table(dev, cs, at, n, &rope), SP_OK);
    const sp_dev_heads h = {.x = turned, .n_row = n, .n_head = HEADS, .d = D, .norm = norm, .norm_last = true, .eps = 1e-6f,
                            .turn = {.cs = cs, .d_rot = D, .halves = halves}};
    assert_int_equal(dev->ops->heads(dev, &h), SP_OK);
    for (size_t layer = 0; layer < 2; layer++) {
        const sp_dev_kv_view kv = sp_kv_page_view(shape, layer);
        const sp_dev_span span = span_of(s, 0, n, pos);
        const sp_dev_attn a = attn_of(out ? out : none, q + row * Q_ROW, turned, v + row * ROW, &kv, 0.125f, &span, 1);
        assert_int_equal(dev->ops->attn_paged(dev, &a), SP_OK);
    }
}

static void naive_norm(double *x, const float *w, size_t n, double eps)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += x[i] * x[i];
    for (size_t i = 0; i < n; i++)
        x[i] = x[i] / sqrt(sum / (double)n + eps) * (double)w[i];
}

/* Norm, RoPE over a part of a head and a row's factor, by their formulas. */
static void naive_heads(double *x, const sp_dev_heads *h, const uint32_t *pos, const float *freq)
{
    size_t n = h->n_head * h->d, by = h->is_whole ? n : h->d, rot = h->turn.d_rot;
    for (size_t t = 0; t < h->n_row; t++, x += n) {
        for (size_t i = 0; h->norm && !h->norm_last && i < n; i += by)
            naive_norm(x + i, h->norm, by, (double)h->eps);
        for (size_t i = 0; h->turn.cs && i < n; i += h->d) {
            for (size_t p = 0; p < rot / 2; p++) {
                double *a = &x[i + (h->turn.halves ? p : 2 * p)], *b = &x[i + (h->turn.halves ? p + rot / 2 : 2 * p + 1)];
                double angle = pos[t] * (double)freq[p], was = *a;
                *a = was * cos(angle) - *b * sin(angle);
                *b = was * sin(angle) + *b * cos(angle);
            }
        }
        for (size_t i = 0; h->norm && h->norm_last && i < n; i += by)
            naive_norm(x + i, h->norm, by, (double)h->eps);
        for (size_t i = 0; h->scale && i < n; i++)
            x[i] *= (double)h->scale[t];
    }
}

static void test_heads(void **state)
{
    (void)state;
    enum { ROWS = 3, N = HEADS * D, ROT = 48 };
    static const uint32_t pos[ROWS] = {0, 3, 40};
    static const float scale[ROWS] = {1, 0.5f, 1.25f};
    float w[N], x[ROWS * N], cs[ROWS * ROT], freq[ROT / 2];
    uint64_t seed = 3;
    sp_dev *dev;
    sp_dev_cfg cfg = {.name = "cpu", .n_thread = 2, .mask = SP_CPU_LEVELS - 1};
    assert_int_equal(sp_dev_open(&dev, &cfg, NULL), SP_OK);
    for (size_t i = 0; i < ROT / 2; i++)
        freq[i] = 1.0f / (float)(i + 1);
    for (size_t i = 0; i < N; i++)
        w[i] = test_float(&seed) + 1;
    const sp_dev_rope rope = {freq, ROT, 1, false};
    assert_int_equal(dev->ops->rope_table(dev, cs, pos, ROWS, &rope), SP_OK);
    for (unsigned v = 0; v < 64; v++) {
        double want[ROWS * N];
        const sp_dev_heads h = {.x = x, .n_row = ROWS, .n_head = HEADS, .d = D, .norm = v & 1 ? w : NULL, .is_whole = v & 2,
                                .norm_last = v & 4 && !(v & 2), .eps = 0.01f, .turn = {.cs = v & 8 ? cs : NULL, .d_rot = ROT, .halves = v & 16},
                                .scale = v & 32 ? scale : NULL};
        for (size_t i = 0; i < ROWS * N; i++)
            want[i] = (double)(x[i] = test_float(&seed) * 3);
        naive_heads(want, &h, pos, freq);
        assert_int_equal(dev->ops->heads(dev, &h), SP_OK);
        for (size_t i = 0; i < ROWS * N; i++)
            if (!(fabs((double)x[i] - want[i]) <= 2e-5))
                fail_msg("variant %u, element %zu: %g for %g", v, i, (double)x[i], want[i]);
    }
    sp_dev_close(dev);
}

static void test_join_and_caps(void **state)
{
    (void)state;
    enum { ROWS = 2, N = 40 };
    float x[ROWS * N], y[ROWS * N], w[N];
    uint64_t seed = 4;
    sp_dev *dev;
    sp_dev_cfg cfg = {.name = "cpu", .n_thread = 2, .mask = SP_CPU_LEVELS - 1};
    assert_int_equal(sp_dev_open(&dev, &cfg, NULL), SP_OK);
    for (size_t i = 0; i < N; i++)
        w[i] = test_float(&seed) + 1;
    for (unsigned v = 0; v < 4; v++) {
        double want[ROWS * N], branch[ROWS * N], scale = v & 2 ? 0.25 : 1;
        for (size_t i = 0; i < ROWS * N; i++) {
            want[i] = (double)(x[i] = test_float(&seed));
            branch[i] = (double)(y[i] = test_float(&seed) * 4);
        }
        for (size_t t = 0; t < ROWS && v & 1; t++)
            naive_norm(branch + t * N, w, N, 0.01);
        assert_int_equal(dev->ops->join(dev, x, y, v & 1 ? w : NULL, 0.01f, (float)scale, ROWS, N), SP_OK);
        for (size_t i = 0; i < ROWS * N; i++)
            assert_true(fabs((double)x[i] - (want[i] + scale * branch[i])) <= 1e-5);
        for (size_t i = 0; i < ROWS * N; i++)
            want[i] = v & 1 ? 3 * tanh((double)x[i] * 0.5 / 3) : (double)x[i] * 0.5;
        assert_int_equal(dev->ops->soft_cap(dev, x, ROWS * N, 0.5f, v & 1 ? 3 : 0), SP_OK);
        for (size_t i = 0; i < ROWS * N; i++)
            assert_true(fabs((double)x[i] - want[i]) <= 1e-5);
    }
    sp_dev_close(dev);
}

/* Keys and values moved from where another sequence computed them are those computed here, forwards and backwards, whatever pages
 * begin and end within them. */
static void test_moved(void **state)
{
    (void)state;
    static float moved[TOKS * Q_ROW], direct[TOKS * Q_ROW];
    static const struct { const char *name; double tol; } formats[] = {{"f32", 1e-4}, {"f16", 4e-3}, {"bf16", 3e-2}, {"q8", 0.05}, {"fp8", 0.2}};
    static const struct { size_t at, to, n; } way[] = {{57, 200, 150}, {40, 3, 20}, {5, 64, 96}, {100, 90, 1}, {33, 33, 64}};
    static const float freq[D / 2] = {1, 0.5f, 0.25f, 0.1f, 0.01f, 0.001f};
    float weights[D];
    fill();
    for (size_t i = 0; i < D; i++)
        weights[i] = 0.5f + 0.02f * (float)i;
    for (size_t f = 0; f < sizeof formats / sizeof formats[0]; f++) {
        const sp_kv_shape shape = {.format = sp_kv_format_find(formats[f].name), .n_layer = 2, .n_head = HEADS, .d = D};
        const sp_dev_kv_view kv[] = {sp_kv_page_view(&shape, 0), sp_kv_page_view(&shape, 1)};
        for (size_t i = 0; i < 5 * (size_t)(sp_cpu_detect() + 1); i++) {
            size_t at = way[i % 5].at, to = way[i % 5].to, n = way[i % 5].n;
            bool halves = (i + f) % 2;
            const float *norm = (i + f) % 3 ? NULL : weights;
            sp_dev *dev;
            sp_dev_cfg cfg = {.name = "cpu", .n_thread = 2, .mask = (sp_cpu_level)(i / 5)};
            assert_int_equal(sp_dev_open(&dev, &cfg, NULL), SP_OK);
            seq from, here, there;
            open_seq(&from, &shape);
            open_seq(&here, &shape);
            open_seq(&there, &shape);
            const sp_dev_span source = {.n = n, .pos = at, .page = from.page, .lo = from.lo, .open = from.open};
            const sp_dev_span target = {.n = n, .pos = to, .page = here.page, .lo = here.lo, .open = here.open};
            const sp_dev_rope rope = {freq, D, 1, to < at};
            const uint32_t turn = (uint32_t)(to < at ? at - to : to - at);
            float cs[D];
            /* rows 0.. before it, 300.. it, 600.. the questions after it */
            store(dev, &shape, &from, 300 - at, (at + n + 31) / 32 * 32, 0, halves, norm, NULL);
            store(dev, &shape, &here, 0, to, 0, halves, norm, NULL);
            assert_int_equal(dev->ops->rope_table(dev, cs, &turn, 1, &rope), SP_OK);
            const sp_dev_turn turn_by = {.cs = cs, .d_rot = D, .halves = halves, .norm = norm}, turns[] = {turn_by, turn_by};
            assert_int_equal(dev->ops->kv_move(dev, kv, 2, &target, &source, turns), SP_OK);
            store(dev, &shape, &here, 600, 40, to + n, halves, norm, moved);
            store(dev, &shape, &there, 0, to, 0, halves, norm, NULL);
            store(dev, &shape, &there, 300, n, to, halves, norm, NULL);
            store(dev, &shape, &there, 600, 40, to + n, halves, norm, direct);
            for (size_t j = 0; j < 40 * Q_ROW; j++)
                if (!(fabs((double)moved[j] - (double)direct[j]) <= formats[f].tol))
                    fail_msg("%s from %zu to %zu at level %zu: %g for %g", formats[f].name, at, to, i / 5, (double)moved[j], (double)direct[j]);
            close_seq(&from);
            close_seq(&here);
            close_seq(&there);
            sp_dev_close(dev);
        }
    }
}

/* dev_attn.c */
void test_attn_rules(void **state);
void test_attn_window_borders(void **state);
void test_attn_head_sizes(void **state);
void test_attn_rules_in_a_batch(void **state);
void test_attn_full_window(void **state);
void test_attn_certified_rules(void **state);
void test_attn_certified_prompt(void **state);
/* dev_latent.c */
void test_latent_attention(void **state);
void test_latent_pages_hold_keys_once(void **state);
void test_products_of_heads(void **state);
void test_packed_products_of_heads(void **state);
void test_parts_of_rows_in_the_file(void **state);
void test_moved_latents_and_other_sizes(void **state);
/* dev_experts.c */
void test_packed_round(void **state);
void test_packed_refused(void **state);
void test_packed_failing_disk(void **state);
void test_packed_full_disk(void **state);
void test_packed_budget(void **state);
void test_packed_writers(void **state);
void test_packed_layout(void **state);

void test_experts_agree_with_the_formula(void **state);
void test_experts_read_the_union(void **state);
void test_experts_on_a_shelf(void **state);

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_chunks_threads_and_levels),
                                       cmocka_unit_test(test_batch_equals_singles), cmocka_unit_test(test_certified_steps), cmocka_unit_test(test_the_bound_is_met),
                                       cmocka_unit_test(test_the_end_of_a_prompt_attends_everything),
                                       cmocka_unit_test(test_heads), cmocka_unit_test(test_join_and_caps),
                                       cmocka_unit_test(test_moved), cmocka_unit_test(test_attn_rules),
                                       cmocka_unit_test(test_attn_window_borders), cmocka_unit_test(test_attn_head_sizes),
                                       cmocka_unit_test(test_attn_rules_in_a_batch), cmocka_unit_test(test_attn_full_window),
                                       cmocka_unit_test(test_attn_certified_rules), cmocka_unit_test(test_attn_certified_prompt),
                                       cmocka_unit_test(test_experts_agree_with_the_formula),
                                       cmocka_unit_test(test_experts_read_the_union), cmocka_unit_test(test_experts_on_a_shelf),
                                       cmocka_unit_test(test_latent_attention), cmocka_unit_test(test_latent_pages_hold_keys_once),
                                       cmocka_unit_test(test_products_of_heads), cmocka_unit_test(test_packed_products_of_heads),
                                       cmocka_unit_test(test_parts_of_rows_in_the_file),
                                       cmocka_unit_test(test_moved_latents_and_other_sizes),
                                       cmocka_unit_test(test_packed_round), cmocka_unit_test(test_packed_refused),
                                       cmocka_unit_test(test_packed_failing_disk), cmocka_unit_test(test_packed_full_disk),
                                       cmocka_unit_test(test_packed_budget), cmocka_unit_test(test_packed_writers),
                                       cmocka_unit_test(test_packed_layout)};
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
