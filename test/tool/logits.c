/* Test tool: logits of every position. usage: logits MODEL KV_FORMAT [CPU_LEVEL [CHUNK [WORD...]]], token
 * ids on stdin, a line for each text, f32 rows [n_tok, n_vocab] of one text after the other on stdout. CHUNK tokens are computed at a time; 0: all. Words:
 *   exact   weights are dequantised to f32 first, so that activations are not rounded to 8 bits
 *   batch   each call also computes the same number of other tokens in two other sequences
 *   next=N  of the block that guesses: first rows [n_tok, n_embd] of the model's states, normed, then the block's [n_tok - 1, N];
 *           0: of all tokens
 *   rows=A,B-C…   of these positions alone; chunks end behind them too
 *   ctx=N   sequences are at most N tokens long
 *   experts=N   experts stay in the file, and N bytes of memory hold those that are needed
 *   threads=N     1 otherwise
 *   device=NAME   another device than cpu
 *   fp8     large matrices are held as e4m3 */
#include "opened.h"

#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

static int fail(const sp_diag *d)
{
    fprintf(stderr, "logits: %s\n", d->msg);
    return 1;
}

/* n_scale: how many factors the weight has, each of as many rows. */
static bool widen(const sp_kern *k, sp_dev_weight *w, size_t n_scale)
{
    float *p = sp_mem_align(w->n_row * w->k * sizeof *p);
    for (size_t i = 0; p && i < w->n_row; i++)
        sp_kern_row_f32(k, p + i * w->k, w->type, w->data, i, w->k);
    for (size_t i = 0; p && w->scale && i < w->n_row * w->k; i++)
        p[i] *= w->scale[i / (w->n_row / n_scale * w->k)];
    w->data = p;
    w->type = SP_F32;
    w->scale = NULL;
    return p != NULL;
}

static bool make_exact(sp_model *m)
{
    const sp_kern *k = sp_dev_cpu_kern(m->dev);
    bool tied = m->output.data == m->embd.data, ok = widen(k, &m->embd, 1) && (tied || widen(k, &m->output, 1));
    if (tied)
        m->output = m->embd;
    sp_dev_weight *w;
    for (size_t i = 0; ok && (w = sp_weights_matrix(m, i)); i++)
        ok = !w->data || widen(k, w, sp_weights_is_experts(i) ? m->arch.route.n_expert : 1);
    return ok;
}

/* The other sequences of a batch hold the tokens turned about, and so end in other places of their pages. */
typedef struct company {
    sp_kv_seq seq[2];
    size_t n;
} company;

static bool join_in(company *c, opened *o)
{
    for (c->n = 0; c->n < 2; c->n++)
        if (sp_kv_seq_init(&c->seq[c->n], o->pool, "t", NULL) != SP_OK || sp_kv_seq_reserve(&c->seq[c->n], o->pool, o->n) != SP_OK)
            return false;
    return true;
}

static void leave(company *c, opened *o)
{
    for (size_t i = 0; i < c->n; i++)
        sp_kv_seq_fini(&c->seq[i], o->pool);
}

/* "A,B-C…" */
static bool read_rows(bool wanted[CAP_TOK], const char *text)
{
    for (size_t first, last; *text; text += strcspn(text, ","), text += *text == ',') {
        int n = sscanf(text, "%zu-%zu", &first, &last);
        last = n == 2 ? last : first;
        if (n < 1 || first > last || last >= CAP_TOK)
            return false;
        for (size_t i = first; i <= last; i++)
            wanted[i] = true;
    }
    return true;
}

/* How many tokens from `at` on, at most k, end with the next ones that are wanted; so many are wanted: *n_logits. */
static size_t piece(size_t *n_logits, const bool *wanted, size_t at, size_t k)
{
    size_t i = 0, n = 0;
    while (i < k && !wanted[at + i])
        i++;
    while (i + n < k && wanted[at + i + n])
        n++;
    *n_logits = n;
    return i + n;
}

/* Logits of the last n_logits of the tokens [at, at + k) of the sequence, in the company of the others. */
static sp_err run(opened *o, company *c, size_t at, size_t k, size_t n_logits, const float **logits)
{
    static uint32_t turned[2][CAP_TOK];
    sp_model_span span[3];
    size_t n = 0;
    for (size_t i = 0; i < c->n; i++) {
        size_t few = i ? k : (k + 1) / 2;
        for (size_t j = 0; j < few; j++)
            turned[i][j] = o->tok[o->n - 1 - (at + j) % o->n];
        span[n++] = (sp_model_span){.seq = &c->seq[i], .tok = turned[i], .n = few, .n_logits = 0};
        if (i == 0)
            span[n++] = (sp_model_span){.seq = &o->seq, .tok = o->tok + at, .n = k, .n_logits = n_logits};
    }
    if (!c->n)
        span[n++] = (sp_model_span){.seq = &o->seq, .tok = o->tok + at, .n = k, .n_logits = n_logits};
    return sp_model_forward(o->model, o->work, o->pool, span, n, logits, &o->d);
}

/* What the block that guesses makes of the text: of the model's state at each token and the token behind it. */
static sp_err run_next(opened *o, size_t chunk, size_t n_head)
{
    sp_model *block;
    sp_model_work *work;
    sp_kv_seq seq;
    sp_kv_pool *pool;
    const float *logits;
    size_t n = o->n, n_embd = sp_model_arch(o->model)->n_embd, k;
    SP_TRY(sp_model_load_next(&block, o->gguf, o->model, n_head, &o->d));
    SP_TRY(sp_model_work_new(&work, block, n, n, &o->d));
    sp_kv_cfg kv = {.shape = sp_model_kv_shape(block, sp_kv_format_find("f32")), .cap_bytes = 1 << 26};
    SP_TRY(sp_kv_pool_new(&pool, o->dev, &kv, &o->d));
    SP_TRY(sp_kv_seq_init(&seq, pool, "t", NULL));
    float *state = sp_mem_align(n * n_embd * sizeof *state);
    const sp_model_span all = {.seq = &o->seq, .tok = o->tok, .n = n};
    SP_TRY(sp_model_forward(o->model, o->work, o->pool, &all, 1, &logits, &o->d));
    memcpy(state, sp_model_states(o->model, o->work, sp_model_arch(o->model)->n_layer - 1), n * n_embd * sizeof *state);
    SP_TRY(sp_model_norm_states(o->model, state, n));
    fwrite(state, sizeof *state, n * n_embd, stdout);
    for (size_t at = 0; at + 1 < n; at += k) {
        k = chunk && chunk < n - 1 - at ? chunk : n - 1 - at;
        const sp_model_span span = {.seq = &seq, .tok = o->tok + at + 1, .n = k, .n_logits = k, .hidden = state + at * n_embd};
        SP_TRY(sp_kv_seq_reserve(&seq, pool, k));
        SP_TRY(sp_model_forward(block, work, pool, &span, 1, &logits, &o->d));
        fwrite(logits, sizeof *logits, k * sp_model_n_logits(block), stdout);
    }
    sp_kv_seq_fini(&seq, pool);
    sp_kv_pool_free(pool);
    sp_model_work_free(work);
    sp_model_free(block);
    sp_mem_free(state);
    return SP_OK;
}

int main(int argc, char **argv)
{
    static opened o;
    static company c;
    static bool wanted[CAP_TOK];
    sp_cpu_level mask = SP_CPU_LEVELS - 1;
    size_t chunk = argc > 4 ? strtoul(argv[4], NULL, 10) : 0, n_ctx = 0, expert_bytes = 0, n_head = 0;
    const sp_kv_format *format = argc > 2 ? sp_kv_format_find(argv[2]) : NULL;
    bool is_exact = false, is_batch = false, is_next = false, has_rows = false;
    for (int i = 5; i < argc; i++) {
        is_exact = is_exact || strcmp(argv[i], "exact") == 0;
        is_next = is_next || strncmp(argv[i], "next=", 5) == 0;
        n_head = strncmp(argv[i], "next=", 5) == 0 ? strtoul(argv[i] + 5, NULL, 10) : n_head;
        has_rows = has_rows || strncmp(argv[i], "rows=", 5) == 0;
        if (strncmp(argv[i], "rows=", 5) == 0 && !read_rows(wanted, argv[i] + 5))
            return 2;
        is_batch = is_batch || strcmp(argv[i], "batch") == 0;
        expert_bytes = strncmp(argv[i], "experts=", 8) == 0 ? strtoul(argv[i] + 8, NULL, 10) : expert_bytes;
        o.device = strncmp(argv[i], "device=", 7) == 0 ? argv[i] + 7 : o.device;
        o.n_thread = strncmp(argv[i], "threads=", 8) == 0 ? strtoul(argv[i] + 8, NULL, 10) : o.n_thread;
        o.is_fp8 = o.is_fp8 || strcmp(argv[i], "fp8") == 0;
        n_ctx = strncmp(argv[i], "ctx=", 4) == 0 ? strtoul(argv[i] + 4, NULL, 10) : n_ctx;
    }
    if (!format || (argc > 3 && !sp_cpu_level_parse(&mask, argv[3])))
        return 2;
    if (!open_model(&o, argv[1], mask, n_ctx, expert_bytes))
        return fail(&o.d);
    if (is_exact && !make_exact(o.model)) /* its memory lives as long as this process */
        return 1;
    size_t n_text = 0, n_wanted = 0;
    for (size_t i = 0; i < CAP_TOK; i++)
        n_wanted += wanted[i] = wanted[i] || !has_rows;
    do {
        if (n_text++) {
            leave(&c, &o);
            close_seq(&o);
        }
        if (!open_seq(&o, format, n_wanted < o.n ? n_wanted : o.n) || (is_batch && !join_in(&c, &o)))
            return fail(&o.d);
        if (is_next) {
            if (run_next(&o, chunk, n_head) != SP_OK)
                return fail(&o.d);
            continue;
        }
        for (size_t at = 0, k, n; at < o.n; at += k) {
            k = piece(&n, wanted, at, chunk && chunk < o.n - at ? chunk : o.n - at);
            const float *logits;
            if (run(&o, &c, at, k, n, &logits) != SP_OK)
                return fail(&o.d);
            fwrite(logits, sizeof *logits, n * sp_model_arch(o.model)->n_vocab, stdout);
        }
    } while (read_text(&o));
    leave(&c, &o);
    close_all(&o);
    return 0;
}
