/* sparing perplexity: the text in windows of --ctx tokens; the second half of each window is scored
 * given all before it. The same definition as llama.cpp's llama-perplexity. */
#include "cmd/cmd.h"

#include "base/file.h"
#include "base/mem.h"

#include <math.h>
#include <stdio.h>
#include <unistd.h>

enum { MAX_INPUT_BYTES = 1 << 30, CHUNK = 256 };

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
static sp_err score(double *nll, size_t *n_scored, sp_loaded *l, sp_model_work *w, const uint32_t *tok, size_t n, sp_diag *d)
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
        const sp_model_span span = {&seq, tok + at, m, n_logits};
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

static sp_err run(sp_loaded *l, size_t n_win, const sp_ids *ids, double *nll, size_t *n_scored, sp_diag *d)
{
    sp_model_work *w;
    size_t n_chunk = ids->n / n_win;
    SP_TRY(sp_model_work_new(&w, l->model, CHUNK, CHUNK, d));
    sp_err err = SP_OK;
    for (size_t i = 0; i < n_chunk && err == SP_OK; i++) {
        uint32_t *tok = ids->id + i * n_win;
        if (sp_tok_adds_bos(l->tok))
            tok[0] = sp_tok_bos(l->tok);
        err = score(nll, n_scored, l, w, tok, n_win, d);
        if (isatty(STDERR_FILENO))
            fprintf(stderr, "\r%zu/%zu  %.4f ", i + 1, n_chunk, exp(*nll / (double)*n_scored));
    }
    if (isatty(STDERR_FILENO))
        fputc('\n', stderr);
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
    size_t n_scored = 0, n_win = 0;
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
        if (n_win < 4 || ids.n < 2 * n_win)
            err = SP_FAIL(&d, SP_INVAL, "the text has %zu tokens; -c %zu needs at least %zu", ids.n, n_win, 2 * n_win);
    }
    if (err == SP_OK)
        err = run(&l, n_win, &ids, &nll, &n_scored, &d);
    int code = err == SP_OK ? EXIT_DONE : sp_cmd_fail(EXIT_RUN, &d);
    double ppl = exp(nll / (double)(n_scored ? n_scored : 1));
    if (code == EXIT_DONE && sp_opt_flag(o, "json"))
        printf("{\"perplexity\":%.6f,\"tokens\":%zu,\"scored\":%zu,\"ctx\":%zu}\n", ppl, ids.n, n_scored, n_win);
    else if (code == EXIT_DONE)
        printf("perplexity %.4f over %zu of %zu tokens, windows of %zu\n", ppl, n_scored, ids.n, n_win);
    sp_ids_fini(&ids);
    sp_buf_fini(&text);
    sp_cmd_unload(&l);
    return code;
}
