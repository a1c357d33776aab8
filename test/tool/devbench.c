/* Test tool: how fast a device does what decoding and prompts are made of. usage: devbench DEVICE
 * [quick]; JSON lines on stdout, one a shape, each the median of five. quick: small shapes and one
 * run, to see that all of it works. What is read is larger than caches: every sequence has pages of
 * its own. */
#include "base/clock.h"
#include "base/mem.h"
#include "kv/page.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RUNS = 5, MAX_SEQ = 64 };

typedef struct bench {
    sp_dev *dev;
    bool is_quick;
} bench;

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

typedef sp_err operate(const bench *b, const void *arg);

/* Seconds of one run; a small read waits for the device. */
static sp_err time_of(double *out, const bench *b, operate *op, const void *arg, const void *mark)
{
    double s[RUNS];
    size_t n = b->is_quick ? 1 : RUNS;
    float one;
    SP_TRY(op(b, arg));
    SP_TRY(b->dev->ops->mem_read(b->dev, &one, mark, sizeof one));
    for (size_t i = 0; i < n; i++) {
        uint64_t from = sp_clock_ns();
        SP_TRY(op(b, arg));
        SP_TRY(b->dev->ops->mem_read(b->dev, &one, mark, sizeof one));
        s[i] = (double)(sp_clock_ns() - from) * 1e-9;
    }
    qsort(s, n, sizeof s[0], by_size);
    *out = s[n / 2];
    return SP_OK;
}

/* Small numbers that are not alike. */
static float number(uint32_t *s)
{
    *s = *s * 1664525u + 1013904223u;
    return (float)(*s >> 8) / 8388608.0f - 1.0f;
}

static sp_err floats(const bench *b, float **out, size_t n)
{
    void *p;
    uint32_t s = 7;
    float *host = sp_mem_array(n, sizeof *host);
    sp_err err = host ? b->dev->ops->mem_raw(b->dev, &p, n * sizeof *host) : SP_NOMEM;
    for (size_t i = 0; i < n && err == SP_OK; i++)
        host[i] = number(&s);
    if (err == SP_OK)
        err = b->dev->ops->mem_write(b->dev, *out = p, host, n * sizeof *host);
    sp_mem_free(host);
    return err;
}

typedef struct copy_arg {
    void *to, *from;
    size_t n_bytes;
} copy_arg;

static sp_err copy_once(const bench *b, const void *arg)
{
    const copy_arg *a = arg;
    return b->dev->ops->copy(b->dev, a->to, a->from, a->n_bytes);
}

static sp_err bench_copy(const bench *b)
{
    copy_arg a = {.n_bytes = b->is_quick ? 1 << 20 : 1 << 30};
    double s;
    SP_TRY(b->dev->ops->mem_new(b->dev, &a.to, a.n_bytes));
    SP_TRY(b->dev->ops->mem_new(b->dev, &a.from, a.n_bytes));
    SP_TRY(time_of(&s, b, copy_once, &a, a.to));
    printf("{\"what\":\"copy\",\"bytes\":%zu,\"seconds\":%.4g,\"bytes_s\":%.4g}\n", a.n_bytes, s,
           2 * (double)a.n_bytes / s);
    b->dev->ops->mem_free(b->dev, a.to);
    b->dev->ops->mem_free(b->dev, a.from);
    return SP_OK;
}

static sp_err product_once(const bench *b, const void *arg)
{
    return b->dev->ops->matmul(b->dev, arg);
}

/* A weight of small scales and any codes, as the type is held or as e4m3. *at is its memory. */
static sp_err weight(const bench *b, sp_dev_weight *w, void **at, sp_type type, size_t n_row,
                     size_t k, bool is_fp8)
{
    const sp_dev_ops *ops = b->dev->ops;
    size_t row_bytes = sp_type_row_bytes(type, k);
    char *rows = sp_mem_array(n_row, row_bytes);
    SP_TRY(rows ? SP_OK : SP_NOMEM);
    for (size_t i = 0; i < n_row * row_bytes; i++)
        rows[i] = (char)(i % 61);
    sp_err err = ops->mem_raw(b->dev, at,
                              is_fp8 ? ops->fp8_bytes(b->dev, n_row, k)
                                     : ops->weight_bytes(b->dev, type, n_row, k));
    if (err == SP_OK)
        err = (is_fp8 ? ops->fp8_put : ops->weight_put)(b->dev, w, *at, type, rows, n_row, k);
    sp_mem_free(rows);
    return err;
}

/* n_row x k of a type, for so many tokens. */
static sp_err bench_product(const bench *b, sp_type type, size_t n_row, size_t k, size_t n_tok,
                            bool is_fp8)
{
    sp_dev_weight w;
    void *at;
    float *x, *out;
    size_t row_bytes = is_fp8 ? k : sp_type_row_bytes(type, k);
    double s;
    SP_TRY(weight(b, &w, &at, type, n_row, k, is_fp8));
    SP_TRY(floats(b, &x, n_tok * k));
    SP_TRY(floats(b, &out, n_tok * n_row));
    const sp_dev_matmul a = {.out = &out, .x = x, .w = &w, .n_w = 1, .n_row = n_tok};
    SP_TRY(time_of(&s, b, product_once, &a, out));
    printf("{\"what\":\"product\",\"type\":\"%s\",\"rows\":%zu,\"k\":%zu,\"tokens\":%zu,"
           "\"seconds\":%.4g,\"bytes_s\":%.4g,\"flops\":%.4g}\n",
           is_fp8 ? "fp8" : sp_type_name(type), n_row, k, n_tok, s, (double)(n_row * row_bytes) / s,
           2.0 * (double)(n_row * k * n_tok) / s);
    b->dev->ops->mem_free(b->dev, at);
    b->dev->ops->mem_free(b->dev, x);
    b->dev->ops->mem_free(b->dev, out);
    return SP_OK;
}

static sp_err experts_once(const bench *b, const void *arg)
{
    return b->dev->ops->experts(b->dev, arg);
}

/* Eight of 128 experts of Q8_0 for each token; quick: two of four. Bytes are those of the experts
 * that so many tokens can keep busy. */
static sp_err bench_experts(const bench *b, size_t n_tok)
{
    const size_t n_expert = b->is_quick ? 4 : 128, n_used = b->is_quick ? 2 : 8,
                 n_ff = b->is_quick ? 32 : 768, k = b->is_quick ? 256 : 2048,
                 n_busy = n_tok * n_used < n_expert ? n_tok * n_used : n_expert;
    sp_dev_weight router, glu[2], down;
    void *at[3];
    float *x, *norm, *out, *scores;
    double s;
    SP_TRY(floats(b, &x, n_tok * k));
    SP_TRY(floats(b, &norm, k));
    SP_TRY(floats(b, &out, n_tok * k));
    SP_TRY(weight(b, &glu[0], &at[0], SP_Q8_0, n_expert * n_ff, k, false));
    SP_TRY(weight(b, &glu[1], &at[1], SP_Q8_0, n_expert * n_ff, k, false));
    SP_TRY(weight(b, &down, &at[2], SP_Q8_0, n_expert * k, n_ff, false));
    SP_TRY(floats(b, &scores, n_expert * k)); /* F32 rows of whole blocks lie as in the file */
    router = (sp_dev_weight){.data = scores, .type = SP_F32, .n_row = n_expert, .k = k};
    const sp_dev_experts a = {.out = out,
                              .x = x,
                              .norm = norm,
                              .eps = 1e-5f,
                              .n_row = n_tok,
                              .n_ff = n_ff,
                              .route = {SP_SCORE_SOFTMAX, n_expert, n_used, 1, 1, false, true, 1},
                              .router = &router,
                              .glu = glu,
                              .glu_bias = (const float *const[]){NULL, NULL},
                              .act = SP_ACT_SILU,
                              .down = &down};
    SP_TRY(time_of(&s, b, experts_once, &a, out));
    printf("{\"what\":\"experts\",\"experts\":%zu,\"used\":%zu,\"k\":%zu,\"ff\":%zu,"
           "\"tokens\":%zu,\"seconds\":%.4g,\"bytes_s\":%.4g,\"flops\":%.4g}\n",
           n_expert, n_used, k, n_ff, n_tok, s,
           3 * (double)(n_busy * n_ff * sp_type_row_bytes(SP_Q8_0, k)) / s,
           6.0 * (double)(n_tok * n_used * n_ff * k) / s);
    void *const all[] = {x, norm, out, scores, at[0], at[1], at[2]};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        b->dev->ops->mem_free(b->dev, all[i]);
    return SP_OK;
}

typedef struct attn_shape {
    const char *format;
    size_t n_seq, n_tok, n_head, group, d;
    size_t n_latent; /* 0; or of pages of keys only */
    bool is_prompt; /* all tokens of one sequence at once */
} attn_shape;

static sp_err attend_once(const bench *b, const void *arg)
{
    return b->dev->ops->attn_paged(b->dev, arg);
}

typedef struct seqs {
    void **page, **lo, *open[MAX_SEQ];
    sp_dev_span span[MAX_SEQ];
} seqs;

/* Pages of all sequences; those but the first are copies of it. */
static sp_err fill_pages(const bench *b, seqs *q, const attn_shape *s, const sp_kv_shape *shape,
                         sp_dev_attn a)
{
    size_t n_page = (s->n_tok + SP_PAGE_TOK - 1) / SP_PAGE_TOK, lo = sp_kv_lo_bytes(shape),
           hi = sp_kv_page_bytes(shape) - lo;
    for (size_t i = 0; i < s->n_seq * n_page; i++) {
        SP_TRY(b->dev->ops->mem_page(b->dev, &q->page[i], hi));
        if (lo)
            SP_TRY(b->dev->ops->mem_page(b->dev, &q->lo[i], lo));
    }
    for (size_t i = 0; i < s->n_seq && sp_kv_open_bytes(shape); i++)
        SP_TRY(b->dev->ops->mem_new(b->dev, &q->open[i], sp_kv_open_bytes(shape)));
    const sp_dev_span first = {.n = SP_PAGE_TOK, .page = q->page, .lo = q->lo, .open = q->open[0]};
    a.span = &first;
    a.n_span = 1;
    SP_TRY(b->dev->ops->attn_paged(b->dev, &a));
    for (size_t i = 1; i < s->n_seq * n_page; i++) {
        SP_TRY(b->dev->ops->copy(b->dev, q->page[i], q->page[0], hi));
        if (lo)
            SP_TRY(b->dev->ops->copy(b->dev, q->lo[i], q->lo[0], lo));
    }
    for (size_t i = 0; i < s->n_seq; i++)
        q->span[i] = (sp_dev_span){.row = i,
                                   .n = s->is_prompt ? s->n_tok : 1,
                                   .pos = s->is_prompt ? 0 : s->n_tok - 1,
                                   .page = q->page + i * n_page,
                                   .lo = q->lo + i * n_page,
                                   .open = q->open[i]};
    return SP_OK;
}

static sp_err bench_attn(const bench *b, const attn_shape *s)
{
    const sp_kv_shape shape = {.format = sp_kv_format_find(s->format),
                               .n_layer = 1,
                               .n_head = s->n_head,
                               .d = s->d,
                               .n_latent = s->n_latent};
    const sp_dev_kv_view kv = sp_kv_page_view(&shape, 0);
    size_t n_page = (s->n_tok + SP_PAGE_TOK - 1) / SP_PAGE_TOK,
           n_row = s->is_prompt ? s->n_tok : s->n_seq;
    size_t rows = n_row > SP_PAGE_TOK ? n_row : SP_PAGE_TOK, q_row = s->n_head * s->group * s->d,
           kv_row = s->n_head * s->d;
    static seqs q;
    float *query, *k, *v, *out;
    double sec, n_pair = s->is_prompt ? (double)s->n_tok * (double)(s->n_tok + 1) / 2
                                      : (double)(s->n_seq * s->n_tok);
    q.page = sp_mem_array(s->n_seq * n_page, sizeof *q.page);
    q.lo = sp_mem_array(s->n_seq * n_page, sizeof *q.lo);
    SP_TRY(q.page && q.lo ? SP_OK : SP_NOMEM);
    SP_TRY(floats(b, &query, rows * q_row));
    SP_TRY(floats(b, &k, rows * kv_row));
    SP_TRY(floats(b, &v, rows * kv_row));
    SP_TRY(floats(b, &out, rows * q_row));
    sp_dev_attn a = {.out = out,
                     .q = query,
                     .k = k,
                     .v = s->n_latent ? NULL : v,
                     .kv = &kv,
                     .n_q_head = s->n_head * s->group,
                     .scale = 0.1f,
                     .span = q.span,
                     .n_span = s->n_seq};
    SP_TRY(fill_pages(b, &q, s, &shape, a));
    SP_TRY(time_of(&sec, b, attend_once, &a, out));
    double bytes =
        (double)(s->n_seq * n_page) * (double)(s->n_head * (kv.head_bytes + kv.lo_bytes));
    printf("{\"what\":\"%s\",\"pages\":\"%s\",\"seqs\":%zu,\"tokens\":%zu,\"kv_heads\":%zu,"
           "\"group\":%zu,\"d\":%zu,\"latent\":%zu,\"seconds\":%.4g,\"bytes_s\":%.4g,"
           "\"flops\":%.4g}\n",
           s->is_prompt ? "prompt" : "decode", s->format, s->n_seq, s->n_tok, s->n_head, s->group,
           s->d, s->n_latent, sec, bytes / sec, 4 * n_pair * (double)q_row / sec);
    float *const all[] = {query, k, v, out};
    for (size_t i = 0; i < 4; i++)
        b->dev->ops->mem_free(b->dev, all[i]);
    for (size_t i = 0; i < s->n_seq * n_page; i++) {
        b->dev->ops->mem_free(b->dev, q.page[i]);
        b->dev->ops->mem_free(b->dev, q.lo[i]);
    }
    for (size_t i = 0; i < MAX_SEQ; i++) {
        b->dev->ops->mem_free(b->dev, q.open[i]);
        q.open[i] = NULL;
    }
    sp_mem_free(q.page);
    sp_mem_free(q.lo);
    return SP_OK;
}

typedef struct best_arg {
    sp_dev_best *out;
    const float *x, *temperature;
    size_t n_row, n;
} best_arg;

static sp_err best_once(const bench *b, const void *arg)
{
    const best_arg *a = arg;
    return b->dev->ops->best(b->dev, a->out, a->x, a->temperature, a->n_row, a->n);
}

/* The likeliest tokens of a batch's logits. */
static sp_err bench_best(const bench *b)
{
    static sp_dev_best out[MAX_SEQ];
    static float temperature[MAX_SEQ];
    best_arg a = {out, NULL, temperature, b->is_quick ? 2 : MAX_SEQ, b->is_quick ? 9000 : 151936};
    float *x;
    double s;
    for (size_t i = 0; i < MAX_SEQ; i++)
        temperature[i] = 1;
    SP_TRY(floats(b, &x, a.n_row * a.n));
    a.x = x;
    SP_TRY(time_of(&s, b, best_once, &a, x));
    printf("{\"what\":\"best\",\"rows\":%zu,\"n\":%zu,\"seconds\":%.4g,\"bytes_s\":%.4g}\n",
           a.n_row, a.n, s, (double)(a.n_row * a.n * sizeof(float)) / s);
    b->dev->ops->mem_free(b->dev, x);
    return SP_OK;
}

static sp_err run_all(const bench *b)
{
    static const sp_type types[] = {SP_F16,  SP_BF16, SP_Q8_0, SP_Q4_0, SP_Q4_1,
                                    SP_Q4_K, SP_Q5_K, SP_Q6_K, SP_MXFP4};
    static const size_t toks[] = {1, 8, 64, 512, 4096};
    static const char *const formats[] = {"fp8", "q8", "f16", "bf16"};
    static const size_t ds[] = {64, 128, 256};
    size_t n_row = b->is_quick ? 32 : 14336, k = b->is_quick ? 256 : 4096;
    SP_TRY(bench_copy(b));
    for (size_t i = 0; i < 12; i++) {
        const attn_shape s = {.format = formats[i % 4],
                              .n_seq = b->is_quick ? 2 : MAX_SEQ,
                              .n_tok = b->is_quick ? 40 : 16384,
                              .n_head = b->is_quick ? 1 : 8,
                              .group = b->is_quick ? 2 : 8,
                              .d = ds[i / 4]};
        SP_TRY(bench_attn(b, &s));
    }
    for (size_t i = 1; i < 4; i++) {
        const attn_shape s = {.format = formats[i],
                              .n_seq = b->is_quick ? 2 : MAX_SEQ,
                              .n_tok = b->is_quick ? 40 : 16384,
                              .n_head = 1,
                              .group = b->is_quick ? 2 : 128,
                              .d = 576,
                              .n_latent = 512};
        SP_TRY(bench_attn(b, &s));
    }
    if (b->dev->ops->best)
        SP_TRY(bench_best(b));
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        for (size_t t = 0; t < (b->is_quick ? 2 : 4); t++)
            SP_TRY(bench_product(b, types[i], n_row, k, toks[t], false));
    for (size_t t = 0; b->dev->ops->fp8_put && t < (b->is_quick ? 3 : 5); t++)
        SP_TRY(bench_product(b, SP_Q8_0, n_row, k, toks[t], true));
    for (size_t t = 0; t < (b->is_quick ? 2 : 4); t++)
        SP_TRY(bench_experts(b, toks[t]));
    for (size_t i = 0; i < 3; i++) {
        const attn_shape s = {
            formats[i], 1,   b->is_quick ? 40 : 8192, b->is_quick ? 1 : 8, b->is_quick ? 2 : 4,
            128,        0,   true};
        SP_TRY(bench_attn(b, &s));
    }
    return SP_OK;
}

int main(int argc, char **argv)
{
    sp_diag d = {0};
    bench b = {.is_quick = argc > 2 && strcmp(argv[2], "quick") == 0};
    const sp_dev_cfg cfg = {.name = argc > 1 ? argv[1] : "cpu", .mask = SP_CPU_LEVELS - 1};
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (sp_dev_open(&b.dev, &cfg, &d) != SP_OK) {
        fprintf(stderr, "devbench: %s\n", d.msg);
        return 1;
    }
    sp_err err = run_all(&b);
    if (err != SP_OK)
        fprintf(stderr, "devbench: %s\n", sp_err_name(err));
    sp_dev_close(b.dev);
    return err != SP_OK;
}
