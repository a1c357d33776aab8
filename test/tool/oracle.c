/* Test tool: what guesses of the file's own block are worth where they are right as often as said. usage: oracle MODEL KV_FORMAT N THREADS P:K...,
 * the prompt's token ids on stdin. N tokens are computed greedily, one a step; then again for each P:K with K guesses a step, each
 * of which is right with probability P if those before it were. The block is run for each guess; what it says is then replaced by
 * the known answer, or by another token. Prints a line for each P:K: tokens a second without and with, their ratio, tokens a step,
 * and how much of a step's time the block had. Ends with 1 where the answers differ, and with 2 where arguments are wrong. */
#include "opened.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_OUT = 1024, MAX_GUESS = 8, HEAD = 32768 };

typedef struct oracle {
    opened o;
    sp_model *block;
    sp_model_work *work;
    sp_kv_pool *pool;
    sp_kv_seq seq;
    size_t n_embd, n_out;
    uint32_t want[MAX_OUT + MAX_GUESS + 1], got[MAX_OUT + MAX_GUESS + 1];
    float *state;      /* [CAP_TOK, n_embd]: of the tokens that the block has not read */
    size_t n_state;
    double block_s;
} oracle;

static uint32_t best_of(const float *logits, size_t n)
{
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        best = logits[i] > logits[best] ? i : best;
    return (uint32_t)best;
}

/* Reads the prompt; the first token of the answer. */
static sp_err read_prompt(oracle *x, uint32_t *first)
{
    const float *logits;
    opened *o = &x->o;
    const sp_model_span span = {.seq = &o->seq, .tok = o->tok, .n = o->n, .n_logits = 1};
    SP_TRY(sp_kv_seq_reserve(&o->seq, o->pool, o->n));
    SP_TRY(sp_model_forward(o->model, o->work, o->pool, &span, 1, &logits, &o->d));
    *first = best_of(logits, sp_model_n_logits(o->model));
    return SP_OK;
}

/* Takes the states of the last step's leading n tokens. */
static sp_err take_states(oracle *x, size_t n)
{
    const float *all = sp_model_states(x->o.model, x->o.work, sp_model_arch(x->o.model)->n_layer - 1);
    memcpy(x->state, all, n * x->n_embd * sizeof *all);
    x->n_state = n;
    return sp_model_norm_states(x->o.model, x->state, n);
}

static sp_err plain(oracle *x, double *seconds)
{
    opened *o = &x->o;
    const float *logits;
    SP_TRY(read_prompt(x, &x->want[0]));
    uint64_t t = sp_clock_ns();
    for (size_t i = 0; i + 1 < x->n_out + MAX_GUESS; i++) {
        const sp_model_span span = {.seq = &o->seq, .tok = &x->want[i], .n = 1, .n_logits = 1};
        SP_TRY(sp_kv_seq_reserve(&o->seq, o->pool, 1));
        SP_TRY(sp_model_forward(o->model, o->work, o->pool, &span, 1, &logits, &o->d));
        x->want[i + 1] = best_of(logits, sp_model_n_logits(o->model));
        if (i + 2 == x->n_out)
            *seconds = (double)(sp_clock_ns() - t) * 1e-9;
    }
    return SP_OK;
}

/* Runs the block for k guesses; tok [n_state]: the tokens behind the states. What it guesses is not used. */
static sp_err run_block(oracle *x, const uint32_t *tok, size_t k)
{
    const float *logits;
    uint64_t t = sp_clock_ns();
    size_t n = x->n_state, sure = x->seq.n_tok + n;
    for (size_t i = 0; i < k; i++) {
        const sp_model_span span = {.seq = &x->seq, .tok = tok, .n = n, .n_logits = 1, .hidden = x->state};
        SP_TRY(sp_kv_seq_reserve(&x->seq, x->pool, n));
        SP_TRY(sp_model_forward(x->block, x->work, x->pool, &span, 1, &logits, &x->o.d));
        (void)best_of(logits, sp_model_n_logits(x->block));
        memcpy(x->state, sp_model_states(x->block, x->work, 0) + (n - 1) * x->n_embd, x->n_embd * sizeof *x->state);
        SP_TRY(sp_model_norm_states(x->block, x->state, 1));
        tok += n - 1;
        n = 1;
        if ((x->seq.n_tok + 1) % SP_PAGE_TOK == 0)
            break;
    }
    if (x->seq.n_tok > sure)
        (void)sp_kv_seq_take_back(&x->seq, x->pool, sure);
    x->block_s += (double)(sp_clock_ns() - t) * 1e-9;
    return SP_OK;
}

/* The answer again, with k guesses a step. */
static sp_err guessed(oracle *x, size_t k, double p, double *seconds, size_t *n_step)
{
    opened *o = &x->o;
    const float *logits;
    sp_rng rng;
    size_t n = 0, n_vocab = sp_model_n_logits(o->model);
    uint32_t span_tok[MAX_GUESS + 1];
    sp_rng_init(&rng, 1);
    SP_TRY(read_prompt(x, &x->got[0]));
    SP_TRY(take_states(x, o->n));
    x->o.tok[o->n] = x->got[0];
    SP_TRY(run_block(x, o->tok + 1, 1)); /* the prompt is not part of what is measured */
    x->n_state = 0;
    x->block_s = 0;
    uint64_t t = sp_clock_ns();
    for (*n_step = 0; n + 1 < x->n_out; ++*n_step) {
        size_t room = SP_PAGE_TOK - 1 - (o->seq.n_tok + 1) % SP_PAGE_TOK, n_guess = k < room ? k : room, n_right = 0;
        if (x->n_state && n_guess)
            SP_TRY(run_block(x, x->got + n + 1 - x->n_state, n_guess));
        span_tok[0] = x->got[n];
        for (size_t i = 1; i <= n_guess; i++) {
            bool right = sp_rng_unit(&rng) < p;
            span_tok[i] = right ? x->want[n + i] : (x->want[n + i] + 1) % (uint32_t)n_vocab;
        }
        const sp_model_span span = {.seq = &o->seq, .tok = span_tok, .n = 1 + n_guess, .n_logits = 1 + n_guess, .may_go_back = true};
        SP_TRY(sp_kv_seq_reserve_guess(&o->seq, o->pool, 1 + n_guess));
        SP_TRY(sp_model_forward(o->model, o->work, o->pool, &span, 1, &logits, &o->d));
        do
            x->got[++n] = best_of(logits + n_right * n_vocab, n_vocab);
        while (n_right < n_guess && span_tok[++n_right] == x->got[n]);
        size_t n_sure = o->n + n;
        SP_TRY(take_states(x, n_sure - (o->seq.n_tok - 1 - n_guess)));
        (void)sp_kv_seq_take_back(&o->seq, o->pool, n_sure);
    }
    *seconds = (double)(sp_clock_ns() - t) * 1e-9 * (double)(x->n_out - 1) / (double)n;
    return memcmp(x->got, x->want, x->n_out * sizeof *x->got) == 0 ? SP_OK : SP_FAIL(&o->d, SP_CORRUPT, "the answers differ");
}

static sp_err restart(oracle *x)
{
    sp_kv_seq_fini(&x->o.seq, x->o.pool);
    sp_kv_seq_fini(&x->seq, x->pool);
    SP_TRY(sp_kv_seq_init(&x->o.seq, x->o.pool, "t", NULL));
    return sp_kv_seq_init(&x->seq, x->pool, "t", NULL);
}

/* P:K. */
static bool read_case(const char *arg, double *p, size_t *k)
{
    char *end;
    *p = strtod(arg, &end);
    if (end == arg || *end != ':' || *p < 0 || *p > 1)
        return false;
    const char *from = end + 1;
    *k = strtoul(from, &end, 10);
    return end != from && !*end && *k >= 1 && *k <= MAX_GUESS;
}

static sp_err run(oracle *x, const char *format, int n_case, char **arg)
{
    opened *o = &x->o;
    double before = 0, with = 0;
    const sp_kv_format *f = sp_kv_format_find(format);
    SP_TRY(sp_model_load_next(&x->block, o->gguf, o->model, HEAD, &o->d));
    sp_kv_cfg kv = {.shape = sp_model_kv_shape(o->model, f), .state_bytes = sp_model_state_bytes(o->model), .kept_bytes = sp_model_kept_bytes(o->model),
                    .cap_bytes = 1u << 28};
    SP_TRY(sp_kv_pool_new(&o->pool, o->dev, &kv, &o->d));
    kv = (sp_kv_cfg){.shape = sp_model_kv_shape(x->block, f), .cap_bytes = 1u << 26};
    SP_TRY(sp_kv_pool_new(&x->pool, o->dev, &kv, &o->d));
    SP_TRY(sp_model_work_new(&o->work, o->model, o->n + MAX_GUESS, MAX_GUESS + 1, &o->d));
    SP_TRY(sp_model_work_new(&x->work, x->block, o->n + MAX_GUESS, 1, &o->d));
    x->n_embd = sp_model_arch(o->model)->n_embd;
    x->state = sp_mem_align(CAP_TOK * x->n_embd * sizeof *x->state);
    SP_TRY(sp_kv_seq_init(&o->seq, o->pool, "t", NULL));
    SP_TRY(sp_kv_seq_init(&x->seq, x->pool, "t", NULL));
    for (int i = 0; i < n_case; i++) { /* each beside plain decoding: other work on the machine slows both */
        size_t n_step, n_guess;
        double p;
        if (!read_case(arg[i], &p, &n_guess))
            return SP_FAIL(&o->d, SP_INVAL, "'%s' is not P:K with P from 0 to 1 and K from 1 to %d", arg[i], MAX_GUESS);
        SP_TRY(plain(x, &before));
        SP_TRY(restart(x));
        SP_TRY(guessed(x, n_guess, p, &with, &n_step));
        double n = (double)(x->n_out - 1);
        printf("P %.2f K %zu: %.2f -> %.2f tokens/s, %.2f x, %.2f tokens/step, block %.1f %%\n", p, n_guess, n / before, n / with,
               before / with, n / (double)n_step, 100 * x->block_s / with);
        fflush(stdout);
        SP_TRY(restart(x));
    }
    return SP_OK;
}

int main(int argc, char **argv)
{
    static oracle x;
    if (argc < 6)
        return 2;
    x.n_out = strtoul(argv[3], NULL, 10);
    x.n_out = x.n_out < MAX_OUT ? x.n_out : MAX_OUT;
    x.o.n_thread = strtoul(argv[4], NULL, 10);
    if (open_model(&x.o, argv[1], SP_CPU_LEVELS - 1, 0, 0) && run(&x, argv[2], argc - 5, argv + 5) == SP_OK)
        return 0;
    fprintf(stderr, "oracle: %s\n", x.o.d.msg);
    return x.o.d.code == SP_INVAL ? 2 : 1;
}
