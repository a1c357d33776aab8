#include "gen/draft_head.h"

#include "base/mem.h"
#include "fmt/quantise.h"

#include <math.h>
#include <string.h>

enum { SLICE = 1024 /* output rows that are brought over at once */ };
/* A guess ends where it would be right as a whole with less than this. */
static const float LEAST = 0.1f;

typedef struct source {
    sp_draft_source base;
    const sp_model *model;
    sp_dev *dev;
    sp_head_shape shape;
    char tenant[SP_HEAD_NAME];
    uint32_t *tok;                   /* [n_tok] */
    sp_dev_weight mat[SP_HEAD_MATS]; /* device, as everything below but host, of and newest */
    sp_dev_weight out;               /* [n_tok, n_embd] */
    void *at[SP_HEAD_MATS], *out_at; /* their memory, where it is not the file's */
    float *norm, *ones;              /* [n_embd] */
    size_t n_bytes, cap;
    float *x;                        /* [cap, n_tap * n_embd] states of the answers of a run */
    float *s, *z, *e, *gate, *up;    /* [cap, n_embd], .., [cap, n_ff] */
    float *logits, *host;            /* [cap, n_tok] */
    size_t *of;                      /* [cap] whose row it is: a place in the runs */
    uint32_t *newest;                /* [cap] */
} source;

typedef struct drafter {
    sp_drafter base;
    source *source;
    float *state;    /* device [n_tap, n_embd]: of the text's token n_state - 1 */
    size_t n_state;  /* 0: none */
    size_t guess_at; /* the guess is for a text of so many tokens */
    sp_draft guess;
    float each; /* probability of the guess as a whole */
} drafter;

/* --- a run --------------------------------------------------------------------------------------
 */

static sp_err product(source *s, float *const *out, const float *x, const float *norm,
                      const sp_dev_weight *w, size_t n_w, size_t n, bool add)
{
    const sp_dev_matmul a = {.out = out,
                             .x = x,
                             .norm = norm,
                             .eps = SP_HEAD_EPS,
                             .w = w,
                             .n_w = n_w,
                             .n_row = n,
                             .add = add,
                             .stage = SP_STAGE_REST};
    return s->dev->ops->matmul(s->dev, &a);
}

/* s0 of n answers. */
static sp_err begin(source *s, size_t n)
{
    const sp_dev_heads rms = {.x = s->x,
                              .n_row = n,
                              .n_head = s->shape.n_tap,
                              .d = s->shape.n_embd,
                              .norm = s->ones,
                              .eps = SP_HEAD_EPS};
    SP_TRY(s->dev->ops->heads(s->dev, &rms));
    return product(s, &s->s, s->x, NULL, &s->mat[SP_HEAD_TAP], 1, n, false);
}

/* s' of n answers, and what comes next, to host. */
static sp_err step(source *s, size_t n)
{
    const sp_dev_weight *m = s->mat;
    const sp_dev_matmul down = {.out = &s->z,
                                .x = s->gate,
                                .act = SP_ACT_SILU,
                                .up = s->up,
                                .w = &m[SP_HEAD_DOWN],
                                .n_w = 1,
                                .n_row = n,
                                .add = true,
                                .stage = SP_STAGE_REST};
    SP_TRY(sp_model_embed(s->model, s->e, s->newest, n));
    SP_TRY(product(s, &s->z, s->s, s->ones, &m[SP_HEAD_STATE], 1, n, false));
    SP_TRY(product(s, &s->z, s->e, s->ones, &m[SP_HEAD_TOKEN], 1, n, true));
    SP_TRY(product(s, (float *const[]){s->gate, s->up}, s->z, s->ones, &m[SP_HEAD_GATE], 2, n,
                   false));
    SP_TRY(s->dev->ops->matmul(s->dev, &down));
    SP_TRY(product(s, &s->logits, s->z, s->norm, &s->out, 1, n, false));
    float *old = s->s;
    s->s = s->z;
    s->z = old;
    return s->dev->ops->mem_read(s->dev, s->host, s->logits, n * s->shape.n_tok * sizeof(float));
}

/* The likeliest of the cut vocabulary, and its probability. */
static size_t best_of(const float *logits, size_t n, float *p)
{
    size_t best = 0;
    float sum = 0;
    for (size_t i = 1; i < n; i++)
        best = logits[i] > logits[best] ? i : best;
    for (size_t i = 0; i < n; i++)
        sum += logits[i] > logits[best] - 16 ? expf(logits[i] - logits[best]) : 0;
    *p = 1 / sum;
    return best;
}

/* Takes the next token of each row's guess. The rows that go on are moved to the front; returns how
 * many there are. */
static sp_err take_guesses(source *s, sp_draft_run *r, size_t *n)
{
    size_t n_on = 0, row_bytes = s->shape.n_embd * sizeof(float);
    for (size_t i = 0; i < *n; i++) {
        const sp_draft_run *x = &r[s->of[i]];
        drafter *p = (drafter *)x->drafter;
        float own;
        size_t best = best_of(s->host + i * s->shape.n_tok, s->shape.n_tok, &own);
        p->each = p->guess.n ? p->each * own : own;
        p->guess_at = x->text.n;
        if (!isfinite(own) || p->each < LEAST)
            continue;
        p->guess.tok[p->guess.n] = s->tok[best];
        p->guess.p[p->guess.n++] = own;
        if (p->guess.n == x->n)
            continue;
        if (n_on < i)
            SP_TRY(s->dev->ops->copy(s->dev, s->s + n_on * s->shape.n_embd,
                                     s->s + i * s->shape.n_embd, row_bytes));
        s->of[n_on] = s->of[i];
        s->newest[n_on++] = s->tok[best];
    }
    *n = n_on;
    return SP_OK;
}

static sp_err run(sp_draft_source *base, sp_draft_run *r, size_t n)
{
    source *s = (source *)base;
    size_t n_on = 0, width = s->shape.n_tap * s->shape.n_embd;
    for (size_t i = 0; i < n; i++) {
        drafter *p = (drafter *)r[i].drafter;
        r[i].n_read = 0;
        p->guess = (sp_draft){0};
        p->guess_at = 0;
        if (!p->n_state || p->n_state + 1 != r[i].text.n || !r[i].n || n_on == s->cap)
            continue;
        SP_TRY(s->dev->ops->copy(s->dev, s->x + n_on * width, p->state, width * sizeof(float)));
        s->newest[n_on] = r[i].text.tok[r[i].text.n - 1];
        s->of[n_on++] = i;
    }
    if (n_on)
        SP_TRY(begin(s, n_on));
    while (n_on) {
        SP_TRY(step(s, n_on));
        SP_TRY(take_guesses(s, r, &n_on));
    }
    return SP_OK;
}

static void propose(sp_drafter *d, sp_draft *out, const sp_draft_text *t)
{
    const drafter *p = (const drafter *)d;
    if (p->guess_at == t->n)
        *out = p->guess;
}

/* The newest state of the text is what a guess needs. */
static void see(sp_drafter *d, const sp_draft_text *t, const sp_draft_states *seen)
{
    drafter *p = (drafter *)d;
    source *s = p->source;
    size_t n_embd = s->shape.n_embd;
    (void)t;
    p->n_state = seen->first + seen->n;
    for (size_t i = 0; i < s->shape.n_tap; i++)
        if (s->dev->ops->copy(s->dev, p->state + i * n_embd, seen->row[i] + (seen->n - 1) * n_embd,
                              n_embd * sizeof(float)) != SP_OK)
            p->n_state = 0;
}

static sp_err start(sp_draft_source *base, sp_drafter **out, const sp_draft_answer *a)
{
    source *s = (source *)base;
    void *state;
    *out = NULL;
    if (s->tenant[0] && strcmp(s->tenant, a->tenant) != 0)
        return SP_OK;
    drafter *p = sp_mem_alloc(sizeof *p);
    if (!p)
        return SP_NOMEM;
    sp_err err = s->dev->ops->mem_raw(s->dev, &state,
                                      s->shape.n_tap * s->shape.n_embd * sizeof(float));
    if (err != SP_OK) {
        sp_mem_free(p);
        return err;
    }
    *p = (drafter){.base.kind = base->kind, .source = s, .state = state};
    *out = &p->base;
    return SP_OK;
}

static void end(sp_drafter *d, const sp_draft_text *t)
{
    drafter *p = (drafter *)d;
    (void)t;
    p->source->dev->ops->mem_free(p->source->dev, p->state);
    sp_mem_free(p);
}

static const sp_draft_kind kind = {.id = SP_DRAFT_HEAD,
                                   .start = start,
                                   .run = run,
                                   .propose = propose,
                                   .see = see,
                                   .end = end};

/* --- building -----------------------------------------------------------------------------------
 */

sp_err sp_head_fits(const sp_head_file *f, const sp_model *m, sp_diag *d)
{
    char id[65];
    const sp_arch *a = sp_model_arch(m);
    const sp_head_shape *s = &f->shape;
    sp_sha256_hex(id, sp_model_id(m));
    if (strcmp(id, f->about.model) != 0)
        return SP_FAIL(d, SP_UNSUP,
                       "draft head: it was trained for %.60s (%.12s), not this model (%.12s)",
                       f->about.name, f->about.model, id);
    if (s->n_embd != a->n_embd || s->layer[s->n_tap - 1] >= a->n_layer ||
        sp_head_token(f, s->n_tok - 1) >= a->n_vocab)
        return SP_FAIL(d, SP_FORMAT, "draft head: its width, layers or tokens are not the model's");
    return SP_OK;
}

/* One matrix of the file onto the device. */
static sp_err put_weight(source *s, sp_dev_weight *w, void **at, sp_type type, const void *rows,
                         size_t n_row, size_t k)
{
    const sp_dev_ops *ops = s->dev->ops;
    size_t n_bytes = ops->weight_bytes(s->dev, type, n_row, k);
    bool as_is = !n_bytes; /* then its rows are used as they lie, which must not be in the file */
    n_bytes = as_is ? n_row * sp_type_row_bytes(type, k) : n_bytes;
    SP_TRY(ops->mem_raw(s->dev, at, n_bytes));
    s->n_bytes += n_bytes;
    if (as_is)
        SP_TRY(ops->mem_write(s->dev, *at, rows, n_bytes));
    return ops->weight_put(s->dev, w, *at, type, as_is ? *at : rows, n_row, k);
}

/* The model's output rows of the cut vocabulary, in 8 bits where they come in whole blocks. */
static sp_err put_output(source *s)
{
    size_t n_embd = s->shape.n_embd, n_tok = s->shape.n_tok;
    sp_type type = n_embd % sp_type_get(SP_Q8_0)->blk_elem ? SP_F32 : SP_Q8_0;
    size_t row_bytes = sp_type_row_bytes(type, n_embd);
    char *rows = sp_mem_raw(n_tok * row_bytes);
    float *host = sp_mem_raw(SLICE * n_embd * sizeof *host);
    void *dev = NULL;
    sp_err err = rows && host ? s->dev->ops->mem_raw(s->dev, &dev, SLICE * n_embd * sizeof *host)
                              : SP_NOMEM;
    for (size_t r = 0; r < n_tok && err == SP_OK; r += SLICE) {
        size_t n = n_tok - r < SLICE ? n_tok - r : SLICE;
        err = sp_model_output_rows(s->model, dev, s->tok + r, n);
        if (err == SP_OK)
            err = s->dev->ops->mem_read(s->dev, host, dev, n * n_embd * sizeof *host);
        for (size_t i = 0; i < n && err == SP_OK; i++)
            if (type == SP_F32)
                memcpy(rows + (r + i) * row_bytes, host + i * n_embd, row_bytes);
            else
                sp_quantise_row(rows + (r + i) * row_bytes, type, host + i * n_embd, n_embd);
    }
    if (err == SP_OK)
        err = put_weight(s, &s->out, &s->out_at, type, rows, n_tok, n_embd);
    s->dev->ops->mem_free(s->dev, dev);
    sp_mem_free(host);
    sp_mem_free(rows);
    return err;
}

static sp_err new_rows(source *s, float **out, size_t n)
{
    void *p;
    SP_TRY(s->dev->ops->mem_raw(s->dev, &p, n * sizeof **out));
    *out = p;
    return SP_OK;
}

static sp_err new_buffers(source *s)
{
    const sp_head_shape *h = &s->shape;
    SP_TRY(new_rows(s, &s->norm, h->n_embd));
    SP_TRY(new_rows(s, &s->ones, h->n_embd));
    SP_TRY(new_rows(s, &s->x, s->cap * h->n_tap * h->n_embd));
    SP_TRY(new_rows(s, &s->s, s->cap * h->n_embd));
    SP_TRY(new_rows(s, &s->z, s->cap * h->n_embd));
    SP_TRY(new_rows(s, &s->e, s->cap * h->n_embd));
    SP_TRY(new_rows(s, &s->gate, s->cap * h->n_ff));
    SP_TRY(new_rows(s, &s->up, s->cap * h->n_ff));
    SP_TRY(new_rows(s, &s->logits, s->cap * h->n_tok));
    s->host = sp_mem_raw(s->cap * h->n_tok * sizeof *s->host);
    s->of = sp_mem_array(s->cap, sizeof *s->of);
    s->newest = sp_mem_array(s->cap, sizeof *s->newest);
    s->tok = sp_mem_array(h->n_tok, sizeof *s->tok);
    return s->host && s->of && s->newest && s->tok ? SP_OK : SP_NOMEM;
}

static sp_err build(source *s, const sp_head_file *f)
{
    float one = 1;
    SP_TRY(new_buffers(s));
    for (size_t i = 0; i < s->shape.n_embd; i++)
        SP_TRY(s->dev->ops->mem_write(s->dev, s->ones + i, &one, sizeof one));
    SP_TRY(s->dev->ops->mem_write(s->dev, s->norm, f->norm, s->shape.n_embd * sizeof *s->norm));
    for (size_t i = 0; i < s->shape.n_tok; i++)
        s->tok[i] = sp_head_token(f, i);
    for (sp_head_mat i = 0; i < SP_HEAD_MATS; i++)
        SP_TRY(put_weight(s, &s->mat[i], &s->at[i], f->mat[i]->type, f->mat[i]->data,
                          sp_head_rows(&s->shape, i), sp_head_cols(&s->shape, i)));
    return put_output(s);
}

sp_err sp_draft_head_new(sp_draft_source **out, const sp_draft_head_cfg *cfg, sp_diag *d)
{
    SP_TRY(sp_head_fits(cfg->file, cfg->model, d));
    source *s = sp_mem_alloc(sizeof *s);
    if (!s)
        return SP_FAIL(d, SP_NOMEM, "draft head");
    *s = (source){.base.kind = &kind,
                  .model = cfg->model,
                  .dev = cfg->dev,
                  .shape = cfg->file->shape,
                  .cap = cfg->cap_seq};
    s->base.n_layer = s->shape.n_tap;
    memcpy(s->base.layer, s->shape.layer, sizeof s->shape.layer);
    memcpy(s->tenant, cfg->file->about.tenant, sizeof s->tenant);
    if (build(s, cfg->file) != SP_OK) {
        sp_draft_head_free(&s->base);
        return SP_FAIL(d, SP_NOMEM, "draft head");
    }
    *out = &s->base;
    return SP_OK;
}

size_t sp_draft_head_bytes(const sp_draft_source *base)
{
    return ((const source *)base)->n_bytes;
}

void sp_draft_head_free(sp_draft_source *base)
{
    source *s = (source *)base;
    if (!s)
        return;
    void *const dev[] = {s->out_at, s->norm, s->ones, s->x,  s->s,
                         s->z,      s->e,    s->gate, s->up, s->logits};
    for (size_t i = 0; i < sizeof dev / sizeof dev[0]; i++)
        s->dev->ops->mem_free(s->dev, dev[i]);
    for (size_t i = 0; i < SP_HEAD_MATS; i++)
        s->dev->ops->mem_free(s->dev, s->at[i]);
    void *const host[] = {s->host, s->of, s->newest, s->tok};
    for (size_t i = 0; i < sizeof host / sizeof host[0]; i++)
        sp_mem_free(host[i]);
    sp_mem_free(s);
}
