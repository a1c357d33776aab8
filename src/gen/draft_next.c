#include "gen/draft_next.h"

#include "base/mem.h"
#include "kv/page.h"

#include <math.h>
#include <string.h>

enum {
    WAIT = SP_DRAFT_MAX + 1 + SP_PAGE_TOK, /* states that wait for the next run: of a step that
                                             decodes, and what a chunk of a prompt leaves */
    CHUNK = 256                            /* tokens of a prompt that are read at a time */
};
static const float LEAST =
    0.2f; /* a guess ends where it would be right as a whole with less than this */

typedef struct source {
    sp_draft_source base;
    sp_draft_next_cfg cfg;
    sp_model_work *work;
    float *state;        /* device [CHUNK, n_embd]: states on their way into the block */
    float *own;          /* device [cap_seq, n_embd]: the block's own, of its newest guesses */
    sp_model_span *span; /* [cap_seq] */
    size_t *of;          /* [cap_seq] whose span it is: a place in the runs */
    size_t n_embd;
} source;

/* Position i of the sequence stands for the model's state at token first + i and the token behind
 * it. */
typedef struct drafter {
    sp_drafter base;
    source *source;
    const char *tenant;
    bool has_seq;
    sp_kv_seq seq;
    size_t first, n_sure;  /* of the sequence's positions, those that are of the answer; behind them
                              stand guesses */
    float *wait;           /* device [WAIT, n_embd]: states behind the sure ones that are not read
                              yet */
    uint32_t tok[WAIT];    /* [n_wait] the token behind each */
    size_t n_wait;
    size_t guess_at; /* the guess is for a text of so many tokens */
    sp_draft guess;
    float each; /* probability of the guess as a whole */
} drafter;

static void let_go(drafter *p)
{
    if (p->has_seq)
        sp_kv_seq_fini(&p->seq, p->source->cfg.pool);
    p->has_seq = false;
    p->n_wait = p->n_sure = 0;
}

/* The next token that the drafter has not seen yet stands at this place of the text. */
static size_t seen_to(const drafter *p)
{
    return p->first + p->n_sure + p->n_wait;
}

/* Takes back what was guessed, and makes room for n more positions. false: there is none. */
static bool make_room(drafter *p, size_t n)
{
    const sp_draft_next_cfg *c = &p->source->cfg;
    if (!p->has_seq)
        p->has_seq = sp_kv_seq_init(&p->seq, c->pool, p->tenant, NULL) == SP_OK;
    if (p->has_seq && p->seq.n_tok > p->n_sure)
        (void)sp_kv_seq_take_back(&p->seq, c->pool, p->n_sure);
    if (p->has_seq && p->n_sure + n + SP_DRAFT_MAX <= c->n_ctx &&
        sp_kv_seq_reserve(&p->seq, c->pool, n) == SP_OK)
        return true;
    let_go(p);
    return false;
}

/* Reads states and the tokens behind them, without guessing. */
static sp_err read_some(drafter *p, const float *state, const uint32_t *tok, size_t n)
{
    source *s = p->source;
    const float *logits;
    const sp_model_span span = {.seq = &p->seq, .tok = tok, .n = n, .hidden = state};
    SP_TRY(sp_model_forward(s->cfg.block, s->work, s->cfg.pool, &span, 1, &logits, NULL));
    p->n_sure += n;
    return SP_OK;
}

/* Reads all that waits. */
static bool read_waiting(drafter *p)
{
    if (!p->n_wait)
        return true;
    bool is_read = make_room(p, p->n_wait) && read_some(p, p->wait, p->tok, p->n_wait) == SP_OK;
    if (is_read)
        p->n_wait = 0;
    else
        let_go(p);
    return is_read;
}

/* The states of a long span are read at once, all but the last, which the next run guesses from. */
static bool read_long(drafter *p, const sp_draft_text *t, const sp_draft_states *st, size_t n)
{
    source *s = p->source;
    const sp_dev_ops *ops = s->cfg.dev->ops;
    if (!read_waiting(p))
        return false;
    for (size_t at = 0, m; at < n; at += m) {
        m = n - at < CHUNK ? n - at : CHUNK;
        if (!make_room(p, m) ||
            ops->copy(s->cfg.dev, s->state, st->row[0] + at * s->n_embd,
                      m * s->n_embd * sizeof(float)) != SP_OK ||
            sp_model_norm_states(s->cfg.model, s->state, m) != SP_OK ||
            read_some(p, s->state, t->tok + st->first + at + 1, m) != SP_OK)
            return false;
    }
    return true;
}

static void see(sp_drafter *d, const sp_draft_text *t, const sp_draft_states *st)
{
    drafter *p = (drafter *)d;
    source *s = p->source;
    sp_draft_states rest = *st;
    if (seen_to(p) != st->first) { /* it begins, or begins again: what lies between was not
                                      computed */
        let_go(p);
        p->first = st->first;
    }
    if (p->n_wait + st->n > WAIT) {
        size_t n = st->n > WAIT ? st->n - 1 : 0;
        if (!read_long(p, t, st, n)) {
            let_go(p);
            p->first = st->first + n;
        }
        rest = (sp_draft_states){.row = {st->row[0] + n * s->n_embd},
                                 .first = st->first + n,
                                 .n = st->n - n};
    }
    float *to = p->wait + p->n_wait * s->n_embd;
    if (s->cfg.dev->ops->copy(s->cfg.dev, to, rest.row[0], rest.n * s->n_embd * sizeof(float)) !=
            SP_OK ||
        sp_model_norm_states(s->cfg.model, to, rest.n) != SP_OK) {
        let_go(p);
        p->first = SIZE_MAX; /* none is the next */
        return;
    }
    memcpy(p->tok + p->n_wait, t->tok + rest.first + 1, rest.n * sizeof *p->tok);
    p->n_wait += rest.n;
}

/* Plans reading what waits and guessing behind it. false: the drafter is left out. */
static bool plan_read(source *s, sp_draft_run *r, sp_model_span *span)
{
    drafter *p = (drafter *)r->drafter;
    p->guess = (sp_draft){0};
    p->guess_at = 0;
    if (!r->n || !p->n_wait || seen_to(p) + 1 != r->text.n ||
        r->text.n + SP_DRAFT_MAX > s->cfg.n_ctx || !make_room(p, p->n_wait))
        return false;
    r->n_read = p->n_wait;
    *span = (sp_model_span){.seq = &p->seq,
                            .tok = p->tok,
                            .n = p->n_wait,
                            .n_logits = 1,
                            .hidden = p->wait};
    return true;
}

/* The likeliest token and its probability. */
static uint32_t best_of(const float *logits, size_t n, float *p)
{
    size_t best = 0;
    float sum = 0;
    for (size_t i = 1; i < n; i++)
        best = logits[i] > logits[best] ? i : best;
    for (size_t i = 0; i < n; i++)
        sum += logits[i] > logits[best] - 16 ? expf(logits[i] - logits[best]) : 0;
    *p = 1 / sum;
    return (uint32_t)best;
}

/* Takes the next token of a span's guess. true: the guess may go on. */
static bool take_guess(source *s, sp_draft_run *r, const float *logits)
{
    drafter *p = (drafter *)r->drafter;
    size_t n = sp_model_n_logits(s->cfg.block);
    float own;
    uint32_t tok = best_of(logits, n < s->cfg.n_vocab ? n : s->cfg.n_vocab, &own);
    if (p->guess.n == 0) { /* what waited is read */
        p->n_sure += p->n_wait;
        p->n_wait = 0;
    }
    p->each = p->guess.n ? p->each * own : own;
    p->guess_at = r->text.n;
    if (p->each < LEAST || !isfinite(own))
        return false;
    p->guess.tok[p->guess.n] = tok;
    p->guess.p[p->guess.n++] = own;
    return p->guess.n < r->n && (p->seq.n_tok + 1) % SP_PAGE_TOK != 0 &&
           sp_kv_seq_reserve(&p->seq, s->cfg.pool, 1) == SP_OK;
}

/* Takes the next token of each span's guess, and plans computing those that go on: each from the
 * block's own state, normed as the model's. */
static sp_err take_guesses(source *s, sp_draft_run *r, size_t *n_span, const float *logits)
{
    const sp_dev_ops *ops = s->cfg.dev->ops;
    const float *states = sp_model_states(s->cfg.block, s->work, 0);
    size_t n_on = 0, row = 0;
    for (size_t i = 0; i < *n_span; i++) {
        sp_draft_run *x = &r[s->of[i]];
        drafter *p = (drafter *)x->drafter;
        row += s->span[i].n;
        bool goes_on = take_guess(s, x, logits + i * sp_model_n_logits(s->cfg.block));
        if (!goes_on)
            continue;
        SP_TRY(ops->copy(s->cfg.dev, s->own + n_on * s->n_embd, states + (row - 1) * s->n_embd,
                         s->n_embd * sizeof(float)));
        s->of[n_on] = s->of[i];
        s->span[n_on] = (sp_model_span){.seq = &p->seq,
                                        .tok = &p->guess.tok[p->guess.n - 1],
                                        .n = 1,
                                        .n_logits = 1,
                                        .hidden = s->own + n_on * s->n_embd};
        n_on++;
    }
    *n_span = n_on;
    return n_on ? sp_model_norm_states(s->cfg.block, s->own, n_on) : SP_OK;
}

static sp_err run(sp_draft_source *base, sp_draft_run *r, size_t n)
{
    source *s = (source *)base;
    size_t n_span = 0;
    for (size_t i = 0; i < n && n_span < s->cfg.cap_seq; i++) {
        s->of[n_span] = i;
        n_span += plan_read(s, &r[i], &s->span[n_span]);
    }
    while (n_span) {
        const float *logits;
        SP_TRY(
            sp_model_forward(s->cfg.block, s->work, s->cfg.pool, s->span, n_span, &logits, NULL));
        SP_TRY(take_guesses(s, r, &n_span, logits));
    }
    return SP_OK;
}

static void propose(sp_drafter *d, sp_draft *out, const sp_draft_text *t)
{
    const drafter *p = (const drafter *)d;
    if (p->guess_at == t->n)
        *out = p->guess;
}

static sp_err start(sp_draft_source *base, sp_drafter **out, const sp_draft_answer *a)
{
    source *s = (source *)base;
    drafter *p = sp_mem_alloc(sizeof *p);
    void *wait = NULL;
    if (!p)
        return SP_NOMEM;
    if (s->cfg.dev->ops->mem_raw(s->cfg.dev, &wait, WAIT * s->n_embd * sizeof(float)) != SP_OK) {
        sp_mem_free(p);
        return SP_NOMEM;
    }
    *p = (drafter){.base.kind = base->kind,
                   .source = s,
                   .tenant = a->tenant,
                   .first = SIZE_MAX,
                   .wait = wait};
    *out = &p->base;
    return SP_OK;
}

static void end(sp_drafter *d, const sp_draft_text *t)
{
    drafter *p = (drafter *)d;
    (void)t;
    let_go(p);
    p->source->cfg.dev->ops->mem_free(p->source->cfg.dev, p->wait);
    sp_mem_free(p);
}

static const sp_draft_kind kind = {
    .id = SP_DRAFT_MTP, .start = start, .run = run, .propose = propose, .see = see, .end = end};

static sp_err open_memory(source *s, sp_diag *d)
{
    const sp_draft_next_cfg *c = &s->cfg;
    const sp_dev_ops *ops = c->dev->ops;
    void *state = NULL, *own = NULL;
    s->span = sp_mem_array(c->cap_seq, sizeof *s->span);
    s->of = sp_mem_array(c->cap_seq, sizeof *s->of);
    sp_err err = s->span && s->of ? SP_OK : SP_NOMEM;
    if (err == SP_OK)
        err = ops->mem_raw(c->dev, &state, CHUNK * s->n_embd * sizeof(float));
    if (err == SP_OK)
        err = ops->mem_raw(c->dev, &own, c->cap_seq * s->n_embd * sizeof(float));
    s->state = state;
    s->own = own;
    if (err != SP_OK)
        return SP_FAIL(d, err, "the block that guesses");
    size_t cap_tok = CHUNK > c->cap_seq * WAIT ? CHUNK : c->cap_seq * WAIT;
    return sp_model_work_new(&s->work, c->block, cap_tok, c->cap_seq, d);
}

sp_err sp_draft_next_new(sp_draft_source **out, const sp_draft_next_cfg *cfg, sp_diag *d)
{
    const sp_arch *a = sp_model_arch(cfg->model);
    source *s = sp_mem_alloc(sizeof *s);
    if (!s)
        return SP_FAIL(d, SP_NOMEM, "the block that guesses");
    *s = (source){.base = {.kind = &kind, .layer = {a->n_layer - 1}, .n_layer = 1},
                  .cfg = *cfg,
                  .n_embd = a->n_embd};
    sp_err err = open_memory(s, d);
    if (err == SP_OK)
        *out = &s->base;
    else
        sp_draft_next_free(&s->base);
    return err;
}

void sp_draft_next_free(sp_draft_source *base)
{
    source *s = (source *)base;
    if (!s)
        return;
    sp_model_work_free(s->work);
    s->cfg.dev->ops->mem_free(s->cfg.dev, s->state);
    s->cfg.dev->ops->mem_free(s->cfg.dev, s->own);
    sp_mem_free(s->span);
    sp_mem_free(s->of);
    sp_mem_free(s);
}
