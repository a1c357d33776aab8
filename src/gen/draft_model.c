#include "gen/draft_model.h"

#include "base/mem.h"
#include "kv/page.h"

#include <math.h>
#include <string.h>

enum { READ = 256 /* tokens that a run reads at most, as a step does */ };
static const float LEAST =
    0.2f; /* a guess ends where it would be right as a whole with less than this */

typedef struct source {
    sp_draft_source base;
    sp_draft_model_cfg cfg;
    sp_model_work *work;
    sp_model_span *span; /* [cap_seq] */
    size_t *of;          /* [cap_seq] whose span it is: a place in the runs */
} source;

typedef struct drafter {
    sp_drafter base;
    source *source;
    const char *tenant, *conv, *salt;
    bool is_private, has_seq;
    sp_kv_seq seq;
    size_t n_sure;   /* of seq's tokens, those that are the answer's; behind them stand guesses */
    size_t guess_at; /* the guess is for a text of so many tokens */
    sp_draft guess;
    float each; /* probability of the guess as a whole */
} drafter;

static void let_go(drafter *p)
{
    if (p->has_seq)
        sp_kv_seq_fini(&p->seq, p->source->cfg.pool);
    p->has_seq = false;
}

/* A sequence with what is known of the text. */
static bool open_seq(drafter *p, const sp_draft_text *t)
{
    size_t n_found;
    if (p->has_seq)
        return true;
    if (sp_kv_seq_init(&p->seq, p->source->cfg.pool, p->tenant, p->conv) != SP_OK)
        return false;
    p->has_seq = true;
    if (p->salt && sp_kv_seq_salt(&p->seq, p->salt) != SP_OK) {
        let_go(p);
        return false;
    }
    p->seq.private_from = p->is_private ? 1 : 0;
    if (sp_kv_seq_attach(&p->seq, p->source->cfg.pool, t->tok, t->n, false, &n_found) != SP_OK)
        let_go(p);
    p->n_sure = p->has_seq ? p->seq.n_tok : 0;
    return p->has_seq;
}

/* Takes back guesses that did not come true. false: the newest token is read already and cannot be
 * taken back. */
static bool settle(drafter *p, const sp_draft_text *t)
{
    size_t n = p->n_sure < p->seq.n_tok
                   ? p->n_sure
                   : p->seq.n_tok; /* less was read than planned, where a pass failed */
    p->n_sure = n;
    while (n < p->seq.n_tok && n + 1 < t->n && p->guess.tok[n - p->n_sure] == t->tok[n])
        n++;
    if (n < p->seq.n_tok)
        n = sp_kv_seq_take_back(&p->seq, p->source->cfg.pool, n);
    p->n_sure = n;
    return p->seq.n_tok < t->n;
}

/* Plans reading what is new to a drafter, at most `room` tokens. Returns how many; 0: it is left
 * out. */
static size_t plan_read(source *s, sp_draft_run *r, sp_model_span *span, size_t room)
{
    drafter *p = (drafter *)r->drafter;
    if (r->text.n + SP_DRAFT_MAX > s->cfg.n_ctx || !open_seq(p, &r->text) || !settle(p, &r->text))
        return 0;
    p->guess = (sp_draft){0};
    p->guess_at = 0;
    size_t n = r->text.n - p->seq.n_tok;
    n = n < room ? n : room;
    if (n && sp_kv_seq_reserve(&p->seq, s->cfg.pool, n) != SP_OK) {
        let_go(p);
        return 0;
    }
    *span = (sp_model_span){.seq = &p->seq,
                            .tok = r->text.tok + p->seq.n_tok,
                            .n = n,
                            .n_logits = p->seq.n_tok + n == r->text.n};
    p->n_sure = p->seq.n_tok + n;
    return n;
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

/* Takes the next token of each span's guess, and plans computing those that go on. Returns the
 * number of spans that do. */
static size_t take_guesses(source *s, sp_draft_run *r, size_t n_span, const float *logits)
{
    size_t n_on = 0;
    for (size_t i = 0; i < n_span; i++) {
        sp_draft_run *x = &r[s->of[i]];
        drafter *p = (drafter *)x->drafter;
        if (!s->span[i].n_logits)
            continue;
        float own;
        uint32_t tok = best_of(logits, s->cfg.n_vocab, &own);
        logits += sp_model_arch(s->cfg.model)->n_vocab;
        p->each = p->guess.n ? p->each * own : own;
        p->guess_at = x->text.n;
        if (p->each < LEAST || !x->n || !isfinite(own))
            continue;
        p->guess.tok[p->guess.n] = tok;
        p->guess.p[p->guess.n++] = own;
        if (p->guess.n == x->n || (p->seq.n_tok + 1) % SP_PAGE_TOK == 0 ||
            sp_kv_seq_reserve(&p->seq, s->cfg.pool, 1) != SP_OK)
            continue;
        if (p->guess.n == 1)
            sp_kv_seq_hold(&p->seq, s->cfg.pool);
        s->of[n_on] = s->of[i];
        s->span[n_on++] = (sp_model_span){.seq = &p->seq,
                                          .tok = &p->guess.tok[p->guess.n - 1],
                                          .n = 1,
                                          .n_logits = 1};
    }
    return n_on;
}

static sp_err run(sp_draft_source *base, sp_draft_run *r, size_t n)
{
    source *s = (source *)base;
    size_t n_span = 0, room = READ;
    for (size_t i = 0; i < n && n_span < s->cfg.cap_seq && room; i++) {
        size_t n_tok = plan_read(s, &r[i], &s->span[n_span], room);
        room -= n_tok;
        r[i].n_read = n_tok;
        s->of[n_span] = i;
        n_span += n_tok > 0;
    }
    while (n_span) {
        const float *logits;
        SP_TRY(
            sp_model_forward(s->cfg.model, s->work, s->cfg.pool, s->span, n_span, &logits, NULL));
        n_span = take_guesses(s, r, n_span, logits);
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
    drafter *p = sp_mem_alloc(sizeof *p);
    if (!p)
        return SP_NOMEM;
    *p = (drafter){.base.kind = base->kind,
                   .source = (source *)base,
                   .tenant = a->tenant,
                   .conv = a->conv,
                   .salt = a->salt,
                   .is_private = a->is_private};
    *out = &p->base;
    return SP_OK;
}

static void end(sp_drafter *d, const sp_draft_text *t)
{
    (void)t;
    let_go((drafter *)d);
    sp_mem_free(d);
}

static void forget(sp_draft_source *base, const uint8_t *tag, const uint8_t *conv)
{
    sp_kv_forget f = {.tag = tag, .conv = conv};
    sp_kv_pool_forget(((source *)base)->cfg.pool, &f);
}

static const sp_draft_kind kind = {.id = SP_DRAFT_MODEL,
                                   .start = start,
                                   .run = run,
                                   .propose = propose,
                                   .end = end,
                                   .forget = forget};

sp_err sp_draft_model_new(sp_draft_source **out, const sp_draft_model_cfg *cfg, sp_diag *d)
{
    source *s = sp_mem_alloc(sizeof *s);
    if (!s)
        return SP_FAIL(d, SP_NOMEM, "draft model");
    *s = (source){.base.kind = &kind, .cfg = *cfg};
    s->span = sp_mem_array(cfg->cap_seq, sizeof *s->span);
    s->of = sp_mem_array(cfg->cap_seq, sizeof *s->of);
    sp_err err = s->span && s->of ? SP_OK : SP_FAIL(d, SP_NOMEM, "draft model");
    if (err == SP_OK)
        err = sp_model_work_new(&s->work, cfg->model, READ + cfg->cap_seq, cfg->cap_seq, d);
    if (err == SP_OK)
        *out = &s->base;
    else
        sp_draft_model_free(&s->base);
    return err;
}

void sp_draft_model_free(sp_draft_source *base)
{
    source *s = (source *)base;
    if (!s)
        return;
    sp_model_work_free(s->work);
    sp_mem_free(s->span);
    sp_mem_free(s->of);
    sp_mem_free(s);
}

sp_err sp_draft_same_vocab(const sp_tok *a, const sp_tok *b, sp_diag *d)
{
    size_t n = sp_tok_count(a);
    if (n != sp_tok_count(b))
        return SP_FAIL(d, SP_UNSUP, "the vocabularies have %zu and %zu tokens", n, sp_tok_count(b));
    for (size_t i = 0; i < n; i++) {
        sp_str x = sp_tok_piece(a, (uint32_t)i), y = sp_tok_piece(b, (uint32_t)i);
        if (x.n != y.n || memcmp(x.p, y.p, x.n) != 0)
            return SP_FAIL(d, SP_UNSUP, "token %zu of the vocabularies is %.40s and %.40s", i, x.p,
                           y.p);
    }
    return SP_OK;
}
