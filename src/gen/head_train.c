/* Training of a draft head: which tokens it knows, batches, the rate, and how good it is. */
#include "gen/head_train.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "gen/head_net.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    BATCH = 256,
    WARM = 50,          /* steps until the rate is whole */
    TELL = 16,          /* steps from one report to the next */
    LEAST_ROWS = 64,
    HELD_MOST = 8192    /* held-out rows that are measured */
};
static const float RATE = 2e-3f, LAST = 0.02f; /* the largest rate; share of it at the end */

typedef struct trainer {
    const sp_head_train_cfg *cfg;
    const sp_head_data *rows;
    sp_head_net *net;
    int32_t *place;  /* [n_vocab] of a token in the cut vocabulary; -1: it is not there */
    sp_head_batch b;
    sp_rng rng;
} trainer;

/* --- the cut vocabulary -------------------------------------------------------------------------
 */

typedef struct counted {
    uint32_t tok, n;
} counted;

static int by_count(const void *a, const void *b)
{
    const counted *x = a, *y = b;
    if (x->n != y->n)
        return x->n < y->n ? 1 : -1;
    return x->tok < y->tok ? -1 : x->tok > y->tok;
}

static int by_token(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

/* The tokens that the model says most often, then those of the smallest numbers, which a vocabulary
 * merged first. tok [n] ascending. */
static sp_err cut(uint32_t *tok, size_t n, const sp_head_data *r, size_t n_vocab)
{
    counted *all = sp_mem_array(n_vocab, sizeof *all);
    if (!all)
        return SP_NOMEM;
    for (size_t i = 0; i < n_vocab; i++)
        all[i].tok = (uint32_t)i;
    for (size_t i = 0; i < r->n; i++)
        all[r->next[i]].n++;
    qsort(all, n_vocab, sizeof *all, by_count);
    for (size_t i = 0; i < n; i++)
        tok[i] = all[i].tok;
    qsort(tok, n, sizeof *tok, by_token);
    sp_mem_free(all);
    return SP_OK;
}

/* --- batches ------------------------------------------------------------------------------------
 */

static float from_bf16(uint16_t h)
{
    return sp_bf16_to_f32(h);
}

/* Row i becomes sample b: at depth k the head knows token i + 1 + k and wants what the model says
 * behind it. */
static void put_sample(trainer *t, const sp_head_data *r, size_t b, size_t i)
{
    for (size_t e = 0; e < r->n_state; e++)
        t->b.x[b * r->n_state + e] = from_bf16(r->state[i * r->n_state + e]);
    for (size_t k = 0; k < SP_HEAD_DEPTH; k++) {
        size_t at = i + 1 + k;
        bool is_there = at < r->n && r->seq[at] == r->seq[i];
        t->b.tok[k][b] = is_there ? r->tok[at] : r->tok[i];
        t->b.want[k][b] = is_there ? t->place[r->next[at]] : -1;
    }
}

static void draw_batch(trainer *t)
{
    const sp_head_data *r = t->rows;
    t->b.n = BATCH;
    for (size_t b = 0; b < BATCH; b++) {
        size_t i = (size_t)(sp_rng_unit(&t->rng) * (double)(r->n - 1));
        if (r->seq[i + 1] != r->seq[i])
            i -= i > 0; /* a last row has nothing behind it */
        put_sample(t, r, b, i);
    }
}

/* --- how good it is -----------------------------------------------------------------------------
 */

/* Adds the samples of a batch: n_right counts how often all guesses up to a depth are right; a
 * token that the cut vocabulary lacks is never guessed. */
static void count_right(const trainer *t, const uint32_t *got, const size_t *row,
                        const sp_head_data *r, size_t n_right[SP_HEAD_DEPTH])
{
    for (size_t b = 0; b < t->b.n; b++)
        for (size_t k = 0; k < SP_HEAD_DEPTH; k++) {
            int32_t want = t->place[r->next[row[b] + 1 + k]];
            if (want < 0 || got[k * BATCH + b] != (uint32_t)want)
                break;
            n_right[k]++;
        }
}

/* Held-out rows that have tokens enough behind them, evenly over the list. */
static sp_err measure(trainer *t, const sp_head_data *r, sp_head_trained *out)
{
    uint32_t *got = sp_mem_array((size_t)SP_HEAD_DEPTH * BATCH, sizeof *got);
    size_t row[BATCH], n_right[SP_HEAD_DEPTH] = {0}, every = r->n / HELD_MOST + 1;
    sp_err err = got ? SP_OK : SP_NOMEM;
    t->b.n = 0;
    for (size_t i = 0; err == SP_OK && i < r->n; i += every) {
        bool is_last = i + every >= r->n;
        if (i + SP_HEAD_DEPTH < r->n && r->seq[i + SP_HEAD_DEPTH] == r->seq[i]) {
            put_sample(t, r, t->b.n, i);
            row[t->b.n++] = i;
        }
        if (!t->b.n || (t->b.n < BATCH && !is_last))
            continue;
        float loss;
        err = sp_head_net_run(t->net, &t->b, false, got, &loss);
        count_right(t, got, row, r, n_right);
        out->n_held += t->b.n;
        t->b.n = 0;
    }
    for (size_t k = 0; k < SP_HEAD_DEPTH && out->n_held; k++)
        out->right[k] = (float)n_right[k] / (float)out->n_held;
    sp_mem_free(got);
    return err;
}

/* --- training -----------------------------------------------------------------------------------
 */

/* How far training is, in [0, 1]. */
static double share_done(const sp_head_train_cfg *c, size_t i_step, uint64_t from)
{
    if (c->n_step)
        return (double)i_step / (double)c->n_step;
    uint64_t now = sp_clock_ns();
    return now >= c->until_ns ? 1 : (double)(now - from) / (double)(c->until_ns - from);
}

static sp_err learn(trainer *t, size_t *n_step)
{
    const sp_head_train_cfg *c = t->cfg;
    uint64_t from = sp_clock_ns();
    float mean = 0;
    for (size_t i = 0;; i++) {
        double done = share_done(c, i, from);
        float loss, warm = i < WARM ? (float)(i + 1) / WARM : 1;
        if (done >= 1) {
            *n_step = i;
            return SP_OK;
        }
        draw_batch(t);
        SP_TRY(sp_head_net_run(t->net, &t->b, true, NULL, &loss));
        float wave = 0.5f * (1 + cosf(3.14159265f * (float)done));
        SP_TRY(sp_head_net_step(t->net, RATE * warm * (LAST + (1 - LAST) * wave)));
        mean = i ? mean + 0.05f * (loss - mean) : loss;
        if (c->tell && i % TELL == 0)
            c->tell(c->arg, i, done, mean);
    }
}

static sp_err copy_out(sp_head_trained *out, const trainer *t)
{
    const float *mat[SP_HEAD_MATS], *norm;
    sp_head_net_weights(t->net, mat, &norm);
    for (sp_head_mat i = 0; i < SP_HEAD_MATS; i++) {
        size_t n = sp_head_rows(&out->shape, i) * sp_head_cols(&out->shape, i);
        out->mat[i] = sp_mem_array(n, sizeof(float));
        if (!out->mat[i])
            return SP_NOMEM;
        memcpy(out->mat[i], mat[i], n * sizeof(float));
    }
    out->norm = sp_mem_array(out->shape.n_embd, sizeof(float));
    if (!out->norm)
        return SP_NOMEM;
    memcpy(out->norm, norm, out->shape.n_embd * sizeof(float));
    return SP_OK;
}

static sp_err prepare(trainer *t, sp_head_trained *out, sp_diag *d)
{
    const sp_head_train_cfg *c = t->cfg;
    size_t n_vocab = sp_model_arch(c->model)->n_vocab;
    out->shape = c->shape;
    if (out->shape.n_tok > n_vocab)
        out->shape.n_tok = n_vocab;
    out->tok = sp_mem_array(out->shape.n_tok, sizeof *out->tok);
    t->place = sp_mem_array(n_vocab, sizeof *t->place);
    t->b.x = sp_mem_array(BATCH * t->rows->n_state, sizeof *t->b.x);
    bool ok = out->tok && t->place && t->b.x;
    for (size_t k = 0; k < SP_HEAD_DEPTH; k++) {
        t->b.tok[k] = sp_mem_array(BATCH, sizeof *t->b.tok[k]);
        t->b.want[k] = sp_mem_array(BATCH, sizeof *t->b.want[k]);
        ok = ok && t->b.tok[k] && t->b.want[k];
    }
    if (!ok || cut(out->tok, out->shape.n_tok, t->rows, n_vocab) != SP_OK)
        return SP_FAIL(d, SP_NOMEM, "training a draft head");
    memset(t->place, 0xff, n_vocab * sizeof *t->place);
    for (size_t i = 0; i < out->shape.n_tok; i++)
        t->place[out->tok[i]] = (int32_t)i;
    sp_rng_init(&t->rng, c->seed + 1);
    return sp_head_net_new(&t->net, c->model, c->dev, &out->shape, out->tok, BATCH, c->seed, d);
}

sp_err sp_head_train(sp_head_trained *out, const sp_head_train_cfg *cfg, const sp_head_data *train,
                     const sp_head_data *held, sp_diag *d)
{
    trainer t = {.cfg = cfg, .rows = train};
    if (train->n < LEAST_ROWS)
        return SP_FAIL(d, SP_INVAL, "%zu tokens to learn from: %d or more are needed", train->n,
                       LEAST_ROWS);
    *out = (sp_head_trained){0};
    sp_err err = prepare(&t, out, d);
    if (err == SP_OK) {
        err = learn(&t, &out->n_step);
        if (err == SP_OK)
            err = measure(&t, held, out);
        if (err == SP_OK)
            err = copy_out(out, &t);
        if (err != SP_OK)
            (void)SP_FAIL(d, err, "training a draft head: %s", sp_err_name(err));
    }
    sp_head_net_free(t.net);
    sp_mem_free(t.place);
    sp_mem_free(t.b.x);
    for (size_t k = 0; k < SP_HEAD_DEPTH; k++) {
        sp_mem_free(t.b.tok[k]);
        sp_mem_free(t.b.want[k]);
    }
    if (err != SP_OK)
        sp_head_trained_fini(out);
    return err;
}

void sp_head_trained_fini(sp_head_trained *t)
{
    for (sp_head_mat i = 0; i < SP_HEAD_MATS; i++)
        sp_mem_free(t->mat[i]);
    sp_mem_free(t->norm);
    sp_mem_free(t->tok);
    *t = (sp_head_trained){0};
}
