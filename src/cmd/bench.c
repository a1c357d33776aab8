/* sparing bench: prompt and generation speed, beside what this machine can do at best, measured
 * in the same run. No reuse, no sampling. With --epsilon, rows for each value, in alternating
 * rounds. */
#include "cmd/cmd.h"
#include "cmd/term.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/host.h"
#include "base/mem.h"
#include "dev/peak.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    WARM_TOK = 8,
    MAX_LIST = 16,
    CHUNK = 512,
    MAX_SEQ = 64,
    MAX_REPEAT = 100,
    MAX_TEXT = 1 << 26
};

typedef struct bench {
    sp_loaded l;
    sp_model_work *work;
    sp_peak peak;
    sp_model_flops flops;
    size_t repeat;
    bool json, any, stages;
    float eps[MAX_LIST], keep;
    size_t n_eps;
    sp_ids text;
    sp_dev_stat stat[MAX_LIST][SP_STAGES]; /* of the last run, for each epsilon */
    sp_dev_cert cert[MAX_LIST];            /* of all its runs */
} bench;

static sp_err read_list(size_t *out, size_t *n, const sp_opts *o, const char *name, size_t min,
                        size_t max, sp_diag *d)
{
    const char *p = sp_opt_str(o, name);
    *n = 0;
    for (char *end; *p; p = *end ? end + 1 : end) {
        unsigned long long v = strtoull(p, &end, 10);
        if (end == p || (*end && *end != ',') || v < min || v > max || *n == MAX_LIST)
            return SP_FAIL(d, SP_INVAL, "%s: '%.40s' is not a list of numbers from %zu to %zu",
                           name, sp_opt_str(o, name), min, max);
        out[(*n)++] = (size_t)v;
    }
    return SP_OK;
}

static uint32_t token_at(const bench *b, size_t i)
{
    return b->text.n ? b->text.id[i % b->text.n]
                     : (uint32_t)(i * 7919 % sp_model_arch(b->l.model)->n_vocab);
}

/* Adds n positions to a sequence. */
static sp_err feed(bench *b, sp_kv_seq *s, size_t n, sp_diag *d)
{
    uint32_t tok[CHUNK];
    const float *logits;
    while (n) {
        size_t m = n < CHUNK ? n : CHUNK;
        for (size_t i = 0; i < m; i++)
            tok[i] = token_at(b, s->n_tok + i);
        if (sp_kv_seq_reserve(s, b->l.pool, m) != SP_OK)
            return SP_FAIL(d, SP_LIMIT, "no KV memory for this depth; see --kv-bytes");
        const sp_model_span span = {.seq = s, .tok = tok, .n = m, .n_logits = m == n};
        SP_TRY(sp_model_forward(b->l.model, b->work, b->l.pool, &span, 1, &logits, d));
        n -= m;
    }
    return SP_OK;
}

static sp_err decode(bench *b, sp_kv_seq *s, size_t n_seq, size_t n, sp_diag *d)
{
    sp_model_span span[MAX_SEQ];
    uint32_t tok[MAX_SEQ];
    const float *logits;
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < n_seq; k++) {
            tok[k] = token_at(b, s[k].n_tok + k);
            if (sp_kv_seq_reserve(&s[k], b->l.pool, 1) != SP_OK)
                return SP_FAIL(d, SP_LIMIT, "no KV memory; see --kv-bytes");
            span[k] = (sp_model_span){.seq = &s[k], .tok = &tok[k], .n = 1, .n_logits = 1};
        }
        SP_TRY(sp_model_forward(b->l.model, b->work, b->l.pool, span, n_seq, &logits, d));
    }
    return SP_OK;
}

/* Seconds of a run for one epsilon, on copies of the sequences in `base`. */
static sp_err run_eps(bench *b, double *seconds, const sp_kv_seq *base, size_t i_eps, size_t n,
                      size_t n_seq, sp_diag *d)
{
    sp_kv_seq s[MAX_SEQ];
    size_t n_open = 0, n_want = n_seq ? n_seq : 1;
    sp_err err = SP_OK;
    for (; n_open < n_want && err == SP_OK; n_open += err == SP_OK) {
        err = sp_kv_seq_fork(&s[n_open], &base[n_open], b->l.pool);
        if (err != SP_OK)
            break;
        s[n_open].eps = b->eps[i_eps];
        s[n_open].eps_prompt = true;
        s[n_open].keep = b->eps[i_eps] > 0 ? b->keep : 0;
        s[n_open].keep_to = sp_kv_keep_to(s[n_open].n_tok + n);
        s[n_open].cert = &b->cert[i_eps];
    }
    memset(b->stat[i_eps], 0, sizeof b->stat[i_eps]);
    b->l.dev->stat = b->stat[i_eps];
    uint64_t t = sp_clock_ns();
    if (err == SP_OK)
        err = n_seq ? decode(b, s, n_seq, n, d) : feed(b, &s[0], n, d);
    *seconds = sp_clock_ms(t) * 1e-3;
    b->l.dev->stat = NULL;
    for (size_t i = 0; i < n_open; i++)
        sp_kv_seq_fini(&s[i], b->l.pool);
    return err;
}

/* Sequences of `depth` positions, to run on copies of. */
static sp_err open_base(bench *b, sp_kv_seq *s, size_t *n_open, size_t depth, size_t n, sp_diag *d)
{
    for (*n_open = 0; *n_open < n;) {
        sp_err err = sp_kv_seq_init(&s[(*n_open)++], b->l.pool, "bench", NULL);
        if (err == SP_OK && depth)
            err = feed(b, &s[*n_open - 1], depth, d);
        SP_TRY(err);
    }
    return SP_OK;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Where the last run's time went, and how near each stage is to what bounds it. */
static void print_stages(const bench *b, size_t i_eps, double seconds)
{
    static const char *const name[SP_STAGES] = {"qkv",  "attention", "attn out", "gate+up",
                                                "down", "logits",    "rest"};
    double left = seconds * 1e3;
    for (size_t i = 0; i < SP_STAGES; i++) {
        const sp_dev_stat *s = &b->stat[i_eps][i];
        double sec = (double)s->ns * 1e-9, bw = sec > 0 ? s->bytes / sec : 0,
               mac = sec > 0 ? s->macs / sec : 0;
        left -= sec * 1e3;
        printf("  %-10s %9.3f ms %5.1f%% %9.2f GB/s %5.1f%% %9.1f GFLOP/s %5.1f%%\n", name[i],
               sec * 1e3, 100 * sec / seconds, bw * 1e-9, 100 * bw / b->peak.read_bytes_s,
               2e-9 * mac, 100 * mac / b->peak.mac_s);
    }
    printf("  %-10s %9.3f ms %5.1f%%\n", "outside", left, 100 * left / (seconds * 1e3));
}

static void print_row(bench *b, size_t i_eps, double *s, const double *base, size_t n, size_t depth,
                      size_t n_seq)
{
    double last = s[b->repeat - 1], ratio[MAX_REPEAT];
    const sp_dev_cert *c = &b->cert[i_eps];
    for (size_t i = 0; i < b->repeat; i++)
        ratio[i] = base[i] / s[i];
    qsort(s, b->repeat, sizeof *s, by_value);
    qsort(ratio, b->repeat, sizeof *ratio, by_value);
    double mid = s[b->repeat / 2], n_tok = (double)n * (double)(n_seq ? n_seq : 1);
    double rate = n_tok / mid, spread = (s[b->repeat - 1] - s[0]) / mid,
           times = ratio[b->repeat / 2];
    double share = c->dense_bytes ? (double)c->bytes / (double)c->dense_bytes : 1,
           kept = c->n_seen ? (double)c->n_kept / (double)c->n_seen : 1;
    /* Generation reads all weights and the keys and values seen once a step. */
    sp_kv_stat kv;
    sp_kv_pool_stat(b->l.pool, &kv);
    double kv_tok = (double)kv.page_bytes / SP_PAGE_TOK;
    double step_bytes = sp_model_weight_bytes(b->l.model, n_seq) +
                        (double)n_seq * kv_tok * ((double)depth + (double)n / 2) * share;
    double bytes_s = n_seq ? step_bytes * (double)n / mid : 0;
    double macs = n_tok * b->flops.per_tok / 2 + (n_seq ? n_tok : 1) * b->flops.per_logits / 2;
    double share_bw = 100 * bytes_s / b->peak.read_bytes_s,
           share_mac = 100 * macs / mid / b->peak.mac_s;
    if (b->json)
        printf("%s{\"test\":\"%s\",\"n\":%zu,\"depth\":%zu,\"seqs\":%zu,\"tok_s\":%.2f,\"spread\":%"
               ".4f,\"bytes_s\":%.4g,"
               "\"bandwidth_pct\":%.1f,\"int_peak_pct\":%.1f,\"epsilon\":%.4g,\"speedup\":[%.4f,%."
               "4f,%.4f],\"kept\":%.4f,"
               "\"kv_bytes\":%.4f,\"dense_heads\":%.4f,\"mean_loss\":%.5f,\"max_loss\":%.5f}",
               b->any ? ",\n" : "", n_seq ? "gen" : "prompt", n, depth, n_seq, rate, spread,
               bytes_s, share_bw, share_mac, (double)b->eps[i_eps], ratio[0], times,
               ratio[b->repeat - 1], kept, share,
               c->n_call ? (double)c->n_dense / (double)c->n_call : 0,
               c->n_call ? c->sum_loss / (double)c->n_call : 0, (double)c->max_loss);
    else
        printf("%-7s %6zu %7zu %5zu %10.1f %7.1f%% %9.2f %8.1f%% %9.1f%%\n",
               n_seq ? "gen" : "prompt", n, depth, n_seq, rate, 100 * spread, bytes_s * 1e-9,
               share_bw, share_mac);
    if (!b->json && b->eps[i_eps] > 0)
        printf("  epsilon %.3g: %.2f x (%.2f-%.2f) the first row; keys kept %.1f%%, KV bytes "
               "%.1f%%, certified loss %.2f%% (mean) %.2f%% (most), %.1f%% of calls dense\n",
               (double)b->eps[i_eps], times, ratio[0], ratio[b->repeat - 1], 100 * kept,
               100 * share, c->n_call ? 100 * c->sum_loss / (double)c->n_call : 0,
               100 * (double)c->max_loss,
               c->n_call ? 100.0 * (double)c->n_dense / (double)c->n_call : 0);
    if (!b->json && c->n_page)
        printf("  pages attended %.1f%% of those before a chunk; missed by %llu sampled queries: "
               "%.2f%% (mean) %.1f%% (most)\n",
               100 * (double)c->n_chosen / (double)c->n_page, (unsigned long long)c->n_sample,
               100 * c->sum_missed / (double)c->n_sample, 100 * (double)c->max_missed);
    if (!b->json && c->n_quad)
        printf("  values read %.1f%%\n", 100 * (double)c->n_used / (double)c->n_quad);
    if (b->stages && !b->json)
        print_stages(b, i_eps, last);
    b->any = true;
}

/* Rounds alternate between the epsilons, so that a ratio is of neighbours in time. n_seq 0: a
 * prompt of n. */
static sp_err measure(bench *b, size_t n, size_t depth, size_t n_seq, sp_diag *d)
{
    double s[MAX_LIST][MAX_REPEAT];
    sp_kv_seq base[MAX_SEQ];
    size_t n_open;
    memset(b->cert, 0, sizeof b->cert);
    sp_err err = open_base(b, base, &n_open, depth, n_seq ? n_seq : 1, d);
    uint64_t since = sp_clock_ns();
    for (size_t i = 0; i < b->repeat && err == SP_OK; i++) {
        for (size_t e = 0; e < b->n_eps && err == SP_OK; e++)
            err = run_eps(b, &s[e][i], base, e, n, n_seq, d);
        if (isatty(STDERR_FILENO)) {
            fprintf(stderr, "\r%s %zu depth %zu: %zu/%zu", n_seq ? "gen" : "prompt", n, depth,
                    i + 1, b->repeat);
            sp_term_put_left(stderr, since, i + 1, b->repeat);
            fputs("   ", stderr);
        }
    }
    if (isatty(STDERR_FILENO))
        fputs("\r\033[K", stderr);
    for (size_t i = 0; i < n_open; i++)
        sp_kv_seq_fini(&base[i], b->l.pool);
    double first[MAX_REPEAT];
    memcpy(first, s[0], sizeof first);
    for (size_t e = 0; e < b->n_eps && err == SP_OK; e++)
        print_row(b, e, s[e], first, n, depth, n_seq);
    return err;
}

static sp_err read_text(bench *b, const sp_opts *o, sp_diag *d)
{
    const char *path = sp_opt_str(o, "text");
    sp_buf text = {0};
    if (!*path)
        return SP_OK;
    sp_err err = sp_file_read(&text, path, MAX_TEXT, d);
    if (err == SP_OK)
        err = sp_tok_encode(b->l.tok, &b->text, sp_buf_str(&text), text.len, SP_SPECIAL_NONE, d);
    sp_buf_fini(&text);
    return err != SP_OK ? err : b->text.n ? SP_OK : SP_FAIL(d, SP_INVAL, "text: %s is empty", path);
}

static sp_err run(bench *b, const sp_opts *o, sp_diag *d)
{
    size_t p[MAX_LIST], g[MAX_LIST], depth[MAX_LIST], seqs[MAX_LIST], n_p, n_g, n_d, n_s;
    SP_TRY(read_list(p, &n_p, o, "prompt", 0, 1 << 20, d));
    SP_TRY(read_list(g, &n_g, o, "gen", 0, 1 << 20, d));
    SP_TRY(read_list(depth, &n_d, o, "depth", 0, 1 << 20, d));
    SP_TRY(read_list(seqs, &n_s, o, "seqs", 1, MAX_SEQ, d));
    b->keep = (float)sp_opt_num(o, "keep");
    SP_TRY(sp_cmd_epsilons(b->eps, MAX_LIST, &b->n_eps, o, d));
    SP_TRY(sp_cmd_load(&b->l, o, NULL, d));
    SP_TRY(read_text(b, o, d));
    SP_TRY(sp_model_work_new(&b->work, b->l.model, CHUNK, MAX_SEQ, d));
    SP_TRY(sp_dev_peak(&b->peak, b->l.dev, d));
    sp_kv_seq empty;
    double warm; /* touches every weight once, not counted */
    SP_TRY(sp_kv_seq_init(&empty, b->l.pool, "bench", NULL));
    sp_err err = run_eps(b, &warm, &empty, 0, WARM_TOK, 0, d);
    sp_kv_seq_fini(&empty, b->l.pool);
    SP_TRY(err);
    b->flops = sp_model_flops_of(b->l.model);
    sp_host host;
    sp_host_read(&host, "");
    const char *isa = sp_dev_cpu_kern(b->l.dev)->isa;
    size_t n_thread = sp_pool_size(sp_dev_cpu_pool(b->l.dev));
    if (b->json)
        printf("{\"model\":\"%s\",\"cpu\":\"%s\",\"cores\":%zu,\"l2_bytes\":%zu,\"l3_bytes\":%zu,"
               "\"numa\":%zu,\"isa\":\"%s\",\"threads\":%zu,\"read_bytes_s\":%.4g,\"int_mac_s\":%."
               "4g,\"results\":[\n",
               b->l.name, host.cpu, host.n_core, host.l2_bytes, host.l3_bytes, host.n_numa, isa,
               n_thread, b->peak.read_bytes_s, b->peak.mac_s);
    else
        printf("%s: %zu cores, L2 %zu KiB, L3 %zu MiB, %zu NUMA nodes\n%s, %s, %zu threads; read "
               "bandwidth %.1f GB/s, integer peak %.0f GMAC/s\n"
               "test         n   depth  seqs      tok/s  spread      GB/s  of read  of int peak\n",
               host.cpu, host.n_core, host.l2_bytes >> 10, host.l3_bytes >> 20, host.n_numa,
               b->l.name, isa, n_thread, b->peak.read_bytes_s * 1e-9, b->peak.mac_s * 1e-9);
    for (size_t k = 0; k < n_d; k++) {
        for (size_t i = 0; i < n_p; i++)
            if (p[i])
                SP_TRY(measure(b, p[i], depth[k], 0, d));
        for (size_t i = 0; i < n_g; i++)
            for (size_t s = 0; s < n_s && g[i]; s++)
                SP_TRY(measure(b, g[i], depth[k], seqs[s], d));
    }
    if (b->json)
        printf("]}\n");
    return SP_OK;
}

int sp_cmd_bench(const sp_opts *o)
{
    sp_diag d = {0};
    bench b = {.repeat = (size_t)sp_opt_int(o, "repeat"),
               .json = sp_opt_flag(o, "json"),
               .stages = sp_opt_flag(o, "stages")};
    sp_err err = run(&b, o, &d);
    sp_model_work_free(b.work);
    sp_ids_fini(&b.text);
    sp_cmd_unload(&b.l);
    return err == SP_OK ? EXIT_DONE : sp_cmd_fail(err == SP_INVAL ? EXIT_USAGE : EXIT_RUN, &d);
}
