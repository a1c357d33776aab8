/* sparing certify-format: how far a format of KV pages moves a model's distributions from those
 * over f16 pages, on a text that is kept in the program or a given one; with --device-weights fp8,
 * how far weights do that were rounded. A server asks the same before it uses fp8 pages or weights,
 * and refuses a model that they move too far.
 *
 * Pages of f32 are attended beside: they are more exact than the f16 ones, so what they move is the
 * model's own noise, which rounding sets off. A format may move a model by the limits beyond it. */
#include "cmd/cmd.h"

#include "api/asset.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { N_TOK = 512, CHUNK = SP_PAGE_TOK, MAX_INPUT_BYTES = 1 << 24, POOL_BYTES = 1 << 30 };

#define MAX_KL 0.005
#define MIN_TOP1 0.97

enum { YARDSTICK, NOISE, FORMAT, SIDES };

/* One model and format: its pages, the logits of a chunk, and how far they are from those of the
 * yardstick. */
typedef struct side {
    const sp_model *model;
    sp_model_work *work;
    sp_kv_pool *pool;
    sp_kv_seq seq;
    bool is_open;
    float *logits;     /* [CHUNK, n_vocab] */
    double kl, n_same; /* summed over positions */
} side;

static double log_sum(const float *x, size_t n)
{
    double top = -INFINITY, sum = 0;
    for (size_t i = 0; i < n; i++)
        top = fmax(top, (double)x[i]);
    for (size_t i = 0; i < n; i++)
        sum += exp((double)x[i] - top);
    return top + log(sum);
}

/* One position: over the yardstick's pages, and over the side's own. */
static void compare(side *s, const float *want, const float *got, size_t n)
{
    double base = log_sum(want, n), own = log_sum(got, n), kl = 0;
    size_t top[2] = {0, 0};
    for (size_t i = 0; i < n; i++) {
        double lp = (double)want[i] - base;
        kl += exp(lp) * (lp - ((double)got[i] - own));
        top[0] = want[i] > want[top[0]] ? i : top[0];
        top[1] = got[i] > got[top[1]] ? i : top[1];
    }
    s->kl += kl;
    s->n_same += top[0] == top[1];
}

static sp_err open_side(side *s, const sp_model *m, sp_dev *dev, const sp_kv_format *format,
                        sp_diag *d)
{
    s->model = m;
    SP_TRY(sp_model_work_new(&s->work, m, CHUNK, CHUNK, d));
    const sp_kv_cfg kv = {.shape = sp_model_kv_shape(m, format),
                          .cap_bytes = POOL_BYTES,
                          .window = sp_model_kv_window(m),
                          .state_bytes = sp_model_state_bytes(m),
                          .kept_bytes = sp_model_kept_bytes(m),
                          .model_id = *sp_model_id(m),
                          .variant = sp_dev_host_kern(dev)->isa};
    SP_TRY(sp_kv_pool_new(&s->pool, dev, &kv, d));
    SP_TRY(sp_kv_seq_init(&s->seq, s->pool, "local", NULL));
    s->is_open = true;
    s->logits = sp_mem_array(CHUNK * sp_model_arch(m)->n_vocab, sizeof *s->logits);
    return s->logits ? SP_OK : SP_FAIL(d, SP_NOMEM, "logits of %d tokens", CHUNK);
}

static void close_side(side *s)
{
    if (s->is_open)
        sp_kv_seq_fini(&s->seq, s->pool);
    sp_kv_pool_free(s->pool);
    sp_model_work_free(s->work);
    sp_mem_free(s->logits);
}

static sp_err run_chunk(side *s, const uint32_t *tok, size_t n, sp_diag *d)
{
    const float *logits;
    const sp_model_span span = {.seq = &s->seq, .tok = tok, .n = n, .n_logits = n};
    sp_err err = sp_kv_seq_reserve(&s->seq, s->pool, n);
    if (err != SP_OK)
        return SP_FAIL(d, err, "no memory for the pages of %d tokens", N_TOK);
    SP_TRY(sp_model_forward(s->model, s->work, s->pool, &span, 1, &logits, d));
    memcpy(s->logits, logits, n * sp_model_arch(s->model)->n_vocab * sizeof *logits);
    return SP_OK;
}

/* Whole pages; those of the first page see no other and say nothing. */
static sp_err run_text(size_t *n_pos, side s[SIDES], const uint32_t *tok, size_t n, sp_diag *d)
{
    size_t n_vocab = sp_model_arch(s->model)->n_vocab;
    sp_err err = SP_OK;
    for (size_t at = 0; at + CHUNK <= n && err == SP_OK; at += CHUNK) {
        for (size_t i = 0; i < SIDES && err == SP_OK; i++)
            err = run_chunk(&s[i], tok + at, CHUNK, d);
        for (size_t i = 0; i < CHUNK && at && err == SP_OK; i++, ++*n_pos)
            for (side *of = s + NOISE; of < s + SIDES; of++)
                compare(of, s[YARDSTICK].logits + i * n_vocab, of->logits + i * n_vocab, n_vocab);
    }
    return err;
}

static sp_err tokens_of(sp_ids *out, const sp_tok *tok, size_t n_ctx, const char *text,
                        size_t n_bytes, sp_diag *d)
{
    if (sp_tok_adds_bos(tok))
        SP_TRY(sp_ids_push(out, sp_tok_bos(tok)));
    SP_TRY(sp_tok_encode(tok, out, text, n_bytes, SP_SPECIAL_NONE, d));
    out->n = out->n < N_TOK ? out->n : N_TOK;
    out->n = out->n < n_ctx ? out->n : n_ctx;
    if (out->n < 2 * CHUNK)
        return SP_FAIL(d, SP_INVAL,
                       "the text has %zu tokens within the context; two pages of %d are needed",
                       out->n, CHUNK);
    return SP_OK;
}

/* The limits, beyond what rounding alone moves. */
static double most_kl(const sp_certified *c)
{
    return MAX_KL + c->noise_kl;
}
static double least_top1(const sp_certified *c)
{
    return MIN_TOP1 * c->noise_top1;
}

sp_err sp_cmd_certify(sp_certified *out, const sp_certify *a, sp_diag *d)
{
    side s[SIDES] = {{0}, {0}, {0}};
    const sp_kv_format *const of[SIDES] = {sp_kv_format_find("f16"), sp_kv_format_find("f32"),
                                           a->plain ? sp_kv_format_find("f16") : a->format};
    sp_ids ids = {0};
    const sp_asset *kept = sp_asset_named("certify.txt");
    *out = (sp_certified){.name = a->plain ? "fp8" : a->format->name,
                          .what = a->plain ? "weights" : "pages"};
    SP_ASSERT(kept);
    sp_err err = tokens_of(&ids, a->tok, a->n_ctx, a->text ? a->text : (const char *)kept->p,
                           a->text ? a->n_text : kept->n, d);
    for (size_t i = 0; i < SIDES && err == SP_OK; i++)
        err = open_side(&s[i], a->plain && i != FORMAT ? a->plain : a->model, a->dev, of[i], d);
    if (err == SP_OK)
        err = run_text(&out->n, s, ids.id, ids.n, d);
    for (size_t i = 0; i < SIDES; i++)
        close_side(&s[i]);
    sp_ids_fini(&ids);
    if (out->n) {
        out->kl = s[FORMAT].kl / (double)out->n;
        out->top1 = s[FORMAT].n_same / (double)out->n;
        out->noise_kl = s[NOISE].kl / (double)out->n;
        out->noise_top1 = s[NOISE].n_same / (double)out->n;
    }
    out->holds = out->kl <= most_kl(out) && out->top1 >= least_top1(out);
    return err;
}

sp_err sp_cmd_gate(const sp_certify *a, const char *gate, const char *model, sp_diag *d)
{
    sp_certified c;
    SP_TRY(sp_cmd_certify(&c, a, d));
    if (c.holds) {
        sp_log(SP_LOG_INFO, "%s: %s %s hold: KL %.5f, top-1 %.2f%% over %zu positions", model,
               c.name, c.what, c.kl, 100 * c.top1, c.n);
        return SP_OK;
    }
    if (strcmp(gate, "warn") == 0) {
        sp_log(SP_LOG_WARN, "%s: %s %s move its answers: KL %.5f, top-1 %.2f%% over %zu positions",
               model, c.name, c.what, c.kl, 100 * c.top1, c.n);
        return SP_OK;
    }
    return SP_FAIL(d, SP_UNSUP,
                   "%.60s: %s %s fails: KL %.5f (<= %.5f), top-1 %.2f%% (>= %.2f); see --kv-gate",
                   model, a->plain ? "device-weights" : "kv-type", c.name, c.kl, most_kl(&c),
                   100 * c.top1, 100 * least_top1(&c));
}

int sp_cmd_certify_format(const sp_opts *o)
{
    sp_loaded l;
    sp_diag d = {0};
    sp_buf text = {0};
    sp_certified c = {0};
    const char *file = sp_opt_str(o, "file");
    if (sp_cmd_load(&l, o, NULL, &d) != SP_OK)
        return sp_cmd_fail(EXIT_MODEL, &d);
    sp_err err = file ? sp_file_read(&text, file, MAX_INPUT_BYTES, &d) : SP_OK;
    sp_model *plain = NULL;
    sp_certify a = {.model = l.model,
                    .dev = l.dev,
                    .tok = l.tok,
                    .n_ctx = l.n_ctx,
                    .format = sp_kv_pool_shape(l.pool)->format,
                    .text = file ? sp_buf_str(&text) : NULL,
                    .n_text = text.len};
    if (err == SP_OK && sp_cmd_wants_fp8(o))
        err = sp_cmd_load_plain(&plain, &l, &d);
    a.plain = plain;
    if (err == SP_OK)
        err = sp_cmd_certify(&c, &a, &d);
    int code = err != SP_OK ? sp_cmd_fail(EXIT_RUN, &d) : c.holds ? EXIT_DONE : EXIT_RUN;
    if (err == SP_OK && sp_opt_flag(o, "json"))
        printf("{\"format\":\"%s\",\"of\":\"%s\",\"positions\":%zu,\"kl\":%.6f,\"top1\":%.5f,"
               "\"noise_kl\":%.6f,\"noise_top1\":%.5f,\"holds\":%s}\n",
               c.name, c.what, c.n, c.kl, c.top1, c.noise_kl, c.noise_top1,
               c.holds ? "true" : "false");
    else if (err == SP_OK)
        printf("%s %s against %s: KL %.5f, top-1 %.2f%% over %zu positions: they %s (KL <= "
               "%.5f, top-1 >= %.2f%%; f32 pages move it by %.5f, %.2f%%)\n",
               c.name, c.what, plain ? "the file's" : "f16", c.kl, 100 * c.top1, c.n,
               c.holds ? "hold" : "do not hold", most_kl(&c), 100 * least_top1(&c), c.noise_kl,
               100 * c.noise_top1);
    sp_buf_fini(&text);
    sp_model_free(plain);
    sp_cmd_unload(&l);
    return code;
}
