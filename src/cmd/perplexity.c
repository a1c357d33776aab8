/* sparing perplexity: the text in windows of --ctx tokens; the second half of each window is scored
 * given all before it. The same definition as llama.cpp's llama-perplexity. With --epsilon E,…: the
 * text's first --ctx tokens are decoded one by one by sequences side by side, one dense and one for
 * each E, and every position's distributions are compared. */
#include "cmd/cmd.h"
#include "cmd/term.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"

#include <math.h>
#include <stdio.h>
#include <unistd.h>

enum { MAX_INPUT_BYTES = 1 << 30, CHUNK = 256, MAX_RIVAL = 6 };

static double log_prob(const float *logits, size_t n, uint32_t id)
{
    double top = -INFINITY, sum = 0;
    for (size_t i = 0; i < n; i++)
        top = fmax(top, (double)logits[i]);
    for (size_t i = 0; i < n; i++)
        sum += exp((double)logits[i] - top);
    return (double)logits[id] - top - log(sum);
}

/* Adds the negative log-likelihood of one window's second half. */
static sp_err score(double *nll, size_t *n_scored, sp_loaded *l, sp_model_work *w,
                    const uint32_t *tok, size_t n, sp_diag *d)
{
    sp_kv_seq seq;
    SP_TRY(sp_kv_seq_init(&seq, l->pool, "local", NULL));
    size_t first = n / 2, n_vocab = sp_model_arch(l->model)->n_vocab;
    sp_err err = sp_kv_seq_reserve(&seq, l->pool, n);
    if (err != SP_OK)
        err = SP_FAIL(d, err, "no memory for %zu positions; see --kv-bytes", n);
    for (size_t at = 0; at < n && err == SP_OK;) {
        size_t m = n - at < CHUNK ? n - at : CHUNK, from = at > first ? at : first;
        size_t n_logits = at + m > from ? at + m - from : 0;
        const float *logits;
        const sp_model_span span = {.seq = &seq, .tok = tok + at, .n = m, .n_logits = n_logits};
        err = sp_model_forward(l->model, w, l->pool, &span, 1, &logits, d);
        for (size_t i = from; i < at + m && err == SP_OK; i++, logits += n_vocab) {
            if (i + 1 >= n)
                break;
            *nll -= log_prob(logits, n_vocab, tok[i + 1]);
            ++*n_scored;
        }
        at += m;
    }
    sp_kv_seq_fini(&seq, l->pool);
    return err;
}

static sp_err run(sp_loaded *l, size_t n_win, const sp_ids *ids, double *nll, size_t *n_scored,
                  sp_diag *d)
{
    sp_model_work *w;
    size_t n_chunk = ids->n / n_win;
    SP_TRY(sp_model_work_new(&w, l->model, CHUNK, CHUNK, d));
    sp_err err = SP_OK;
    uint64_t since = sp_clock_ns();
    for (size_t i = 0; i < n_chunk && err == SP_OK; i++) {
        uint32_t *tok = ids->id + i * n_win;
        if (sp_tok_adds_bos(l->tok))
            tok[0] = sp_tok_bos(l->tok);
        err = score(nll, n_scored, l, w, tok, n_win, d);
        if (isatty(STDERR_FILENO)) {
            fprintf(stderr, "\r%zu/%zu  %.4f", i + 1, n_chunk, exp(*nll / (double)*n_scored));
            sp_term_put_left(stderr, since, i + 1, n_chunk);
            fputs("   ", stderr);
        }
    }
    if (isatty(STDERR_FILENO))
        fputc('\n', stderr);
    sp_model_work_free(w);
    return err;
}

/* One sequence's agreement with the dense one, over all positions. */
typedef struct rival {
    float eps;
    sp_kv_seq seq;
    sp_dev_cert cert;
    double nll, kl;
    size_t n_same;
} rival;

static void compare(rival *r, const float *dense, const float *now, size_t n_vocab, uint32_t next)
{
    double base = log_prob(dense, n_vocab, 0) - (double)dense[0],
           own = log_prob(now, n_vocab, 0) - (double)now[0], kl = 0;
    size_t top[2] = {0, 0};
    for (size_t i = 0; i < n_vocab; i++) {
        double lp = (double)dense[i] + base, lq = (double)now[i] + own;
        kl += exp(lp) * (lp - lq);
        top[0] = dense[i] > dense[top[0]] ? i : top[0];
        top[1] = now[i] > now[top[1]] ? i : top[1];
    }
    r->kl += kl;
    r->nll -= (double)now[next] + own;
    r->n_same += top[0] == top[1];
}

/* Decodes tok [n] after a common start; [0] is the dense one. */
static sp_err race(rival *r, size_t n_rival, sp_loaded *l, sp_model_work *w, const uint32_t *tok,
                   size_t n, sp_diag *d)
{
    size_t n_vocab = sp_model_arch(l->model)->n_vocab;
    const float *logits;
    for (size_t i = 0; i + 1 < n; i++) {
        sp_model_span span[MAX_RIVAL];
        for (size_t k = 0; k < n_rival; k++) {
            if (sp_kv_seq_reserve(&r[k].seq, l->pool, 1) != SP_OK)
                return SP_FAIL(d, SP_LIMIT,
                               "no memory for %zu sequences of %zu positions; see --kv-bytes",
                               n_rival, n);
            span[k] = (sp_model_span){.seq = &r[k].seq, .tok = tok + i, .n = 1, .n_logits = 1};
        }
        SP_TRY(sp_model_forward(l->model, w, l->pool, span, n_rival, &logits, d));
        for (size_t k = 0; k < n_rival; k++)
            compare(&r[k], logits, logits + k * n_vocab, n_vocab, tok[i + 1]);
        if (isatty(STDERR_FILENO) && i % 64 == 0)
            fprintf(stderr, "\r%zu/%zu ", i, n);
    }
    if (isatty(STDERR_FILENO))
        fputs("\r\033[K", stderr);
    return SP_OK;
}

static void print_rival(const rival *r, const rival *dense, size_t n, bool json, bool first)
{
    const sp_dev_cert *c = &r->cert;
    double n_call = c->n_call ? (double)c->n_call : 1, seen = c->n_seen ? (double)c->n_seen : 1,
           ppl = exp(r->nll / (double)n);
    printf(json ? "%s{\"epsilon\":%.4g,\"positions\":%zu,\"kl\":%.6f,\"top1\":%.5f,\"perplexity\":%"
                  ".5f,\"against_dense\":%.6f,\"kept\":%.4f,"
                  "\"kv_bytes\":%.4f,\"mean_loss\":%.5f,\"max_loss\":%.5f}"
                : "%sepsilon %-5.4g %6zu positions: KL %.5f, top-1 %.2f%%, perplexity %.4f (x "
                  "%.5f); keys %.3f, KV bytes %.3f, certified loss %.4f (mean) %.4f (most)\n",
           !json ? "" : first ? "[" : ",\n", (double)r->eps, n, r->kl / (double)n,
           json ? (double)r->n_same / (double)n : 100 * (double)r->n_same / (double)n, ppl,
           ppl / exp(dense->nll / (double)n), c->n_call ? (double)c->n_kept / seen : 1,
           c->n_call ? (double)c->bytes / (double)c->dense_bytes : 1, c->sum_loss / n_call,
           (double)c->max_loss);
}

static sp_err compare_all(sp_loaded *l, const float *eps, size_t n_eps, const uint32_t *tok,
                          size_t n, bool json, sp_diag *d)
{
    static rival r[MAX_RIVAL];
    sp_model_work *w = NULL;
    size_t n_open = 0;
    sp_err err = sp_model_work_new(&w, l->model, MAX_RIVAL, MAX_RIVAL, d);
    for (; n_open <= n_eps && err == SP_OK; n_open++) {
        r[n_open] = (rival){.eps = n_open ? eps[n_open - 1] : 0};
        err = sp_kv_seq_init(&r[n_open].seq, l->pool, "local", NULL);
        r[n_open].seq.eps = r[n_open].eps;
        r[n_open].seq.cert = &r[n_open].cert;
    }
    if (err == SP_OK)
        err = race(r, n_open, l, w, tok, n, d);
    for (size_t i = 0; i < n_open && err == SP_OK; i++)
        print_rival(&r[i], &r[0], n - 1, json, i == 0);
    if (err == SP_OK && json)
        puts("]");
    for (size_t i = 0; i < n_open; i++)
        sp_kv_seq_fini(&r[i].seq, l->pool);
    sp_model_work_free(w);
    return err;
}

int sp_cmd_perplexity(const sp_opts *o)
{
    sp_loaded l;
    sp_diag d = {0};
    sp_buf text = {0};
    sp_ids ids = {0};
    double nll = 0;
    float eps[MAX_RIVAL - 1];
    size_t n_scored = 0, n_win = 0, n_eps;
    if (sp_cmd_epsilons(eps, MAX_RIVAL - 1, &n_eps, o, &d) != SP_OK)
        return sp_cmd_fail(EXIT_USAGE, &d);
    bool compares = n_eps > 1 || eps[0] > 0;
    if (!sp_opt_str(o, "file")) {
        (void)SP_FAIL(&d, SP_INVAL, "name the text with -f FILE");
        return sp_cmd_fail(EXIT_USAGE, &d);
    }
    if (sp_cmd_load(&l, o, NULL, &d) != SP_OK)
        return sp_cmd_fail(EXIT_MODEL, &d);
    sp_err err = sp_file_read(&text, sp_opt_str(o, "file"), MAX_INPUT_BYTES, &d);
    if (err == SP_OK && sp_tok_adds_bos(l.tok))
        err = sp_ids_push(&ids, sp_tok_bos(l.tok));
    if (err == SP_OK)
        err = sp_tok_encode(l.tok, &ids, sp_buf_str(&text), text.len, SP_SPECIAL_NONE, &d);
    if (err == SP_OK) {
        n_win = sp_opt_int(o, "ctx") ? l.n_ctx : 512;
        if (n_win < 4 || ids.n < (compares ? 1 : 2) * n_win)
            err = SP_FAIL(&d, SP_INVAL, "the text has %zu tokens; -c %zu needs at least %zu", ids.n,
                          n_win, (compares ? 1 : 2) * n_win);
    }
    if (err == SP_OK && compares)
        err = compare_all(&l, eps, n_eps, ids.id, n_win, sp_opt_flag(o, "json"), &d);
    else if (err == SP_OK)
        err = run(&l, n_win, &ids, &nll, &n_scored, &d);
    int code = err == SP_OK ? EXIT_DONE : sp_cmd_fail(EXIT_RUN, &d);
    double ppl = exp(nll / (double)(n_scored ? n_scored : 1));
    if (code == EXIT_DONE && !compares && sp_opt_flag(o, "json"))
        printf("{\"perplexity\":%.6f,\"tokens\":%zu,\"scored\":%zu,\"ctx\":%zu}\n", ppl, ids.n,
               n_scored, n_win);
    else if (code == EXIT_DONE && !compares)
        printf("perplexity %.4f over %zu of %zu tokens, windows of %zu\n", ppl, n_scored, ids.n,
               n_win);
    sp_ids_fini(&ids);
    sp_buf_fini(&text);
    sp_cmd_unload(&l);
    return code;
}
