/* Rows to train a draft head from: texts that the model reads, and answers that it writes. */
#include "gen/head_train.h"

#include "base/clock.h"
#include "base/mem.h"

#include <math.h>
#include <string.h>

enum {
    SLOTS = 32,      /* answers that are written side by side */
    PROMPT = 384,    /* tokens of a prompt; longer ones are left out */
    PIECE = 256,     /* tokens of a text that are read as one sequence */
    REPEAT = 8,      /* an answer ends before so many tokens in a row that it has said before */
    SLOT_TOK = 1024  /* tokens of an answer, at most */
};

void sp_head_data_fini(sp_head_data *r)
{
    sp_mem_free(r->state);
    sp_mem_free(r->tok);
    sp_mem_free(r->next);
    sp_mem_free(r->seq);
    *r = (sp_head_data){0};
}

static sp_err grow(sp_head_data *r, size_t n_more)
{
    size_t cap = r->cap ? r->cap : 1024;
    if (r->n + n_more <= r->cap)
        return SP_OK;
    while (cap < r->n + n_more)
        cap *= 2;
    void **const list[] = {(void **)&r->state, (void **)&r->tok, (void **)&r->next,
                           (void **)&r->seq};
    const size_t each[] = {r->n_state * sizeof *r->state, sizeof *r->tok, sizeof *r->next,
                           sizeof *r->seq};
    for (size_t i = 0; i < 4; i++) {
        void *p;
        memcpy(&p, list[i], sizeof p);
        p = sp_mem_grow(p, cap * each[i]);
        if (!p)
            return SP_NOMEM;
        memcpy(list[i], &p, sizeof p);
    }
    r->cap = cap;
    return SP_OK;
}

static uint16_t to_bf16(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

/* What a pass computed, on the host. */
typedef struct pass {
    const sp_head_gather *g;
    sp_model_work *work;
    float *row; /* [n_embd] */
    size_t n_embd, n_vocab;
} pass;

/* The states of row i of the last pass, each layer's part brought to a mean square of 1. */
static sp_err read_states(const pass *p, uint16_t *out, size_t i)
{
    for (size_t k = 0; k < p->g->n_tap; k++) {
        const float *all = sp_model_states(p->g->model, p->work, p->g->layer[k]);
        SP_TRY(p->g->dev->ops->mem_read(p->g->dev, p->row, all + i * p->n_embd,
                                        p->n_embd * sizeof *p->row));
        float sum = 0;
        for (size_t e = 0; e < p->n_embd; e++)
            sum += p->row[e] * p->row[e];
        float scale = 1 / sqrtf(sum / (float)p->n_embd + SP_HEAD_EPS);
        for (size_t e = 0; e < p->n_embd; e++)
            out[k * p->n_embd + e] = to_bf16(p->row[e] * scale);
    }
    return SP_OK;
}

static uint32_t likeliest(const float *logits, size_t n)
{
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        best = logits[i] > logits[best] ? i : best;
    return (uint32_t)best;
}

static void close_pass(pass *p)
{
    sp_model_work_free(p->work);
    sp_mem_free(p->row);
}

static sp_err open_pass(pass *p, const sp_head_gather *g, size_t cap_tok, size_t cap_logits,
                        sp_diag *d)
{
    const sp_arch *a = sp_model_arch(g->model);
    *p = (pass){.g = g, .n_embd = a->n_embd, .n_vocab = a->n_vocab};
    p->row = sp_mem_array(a->n_embd, sizeof *p->row);
    sp_err err = p->row ? sp_model_work_new(&p->work, g->model, cap_tok, cap_logits, d)
                        : SP_FAIL(d, SP_NOMEM, "hidden states");
    for (size_t k = 0; k < g->n_tap && err == SP_OK; k++)
        if (g->layer[k] + 1 < a->n_layer)
            err = sp_model_work_keep(p->work, g->model, g->layer[k], d);
    if (err != SP_OK)
        close_pass(p);
    return err;
}

static bool is_over(const sp_head_gather *g, size_t n_row)
{
    return n_row >= g->most || (g->until_ns && sp_clock_ns() >= g->until_ns);
}

/* --- texts --------------------------------------------------------------------------------------
 */

static sp_err read_piece(sp_head_data *out, const pass *p, const uint32_t *tok, size_t n,
                         sp_diag *d)
{
    sp_kv_seq seq;
    const float *logits;
    if (sp_kv_seq_init(&seq, p->g->pool, "local", NULL) != SP_OK)
        return SP_FAIL(d, SP_NOMEM, "a sequence");
    sp_err err = sp_kv_seq_reserve(&seq, p->g->pool, n);
    if (err != SP_OK)
        err = SP_FAIL(d, err, "no memory for %zu positions; see --kv-bytes", n);
    const sp_model_span span = {.seq = &seq, .tok = tok, .n = n, .n_logits = n};
    if (err == SP_OK)
        err = sp_model_forward(p->g->model, p->work, p->g->pool, &span, 1, &logits, d);
    if (err == SP_OK)
        err = grow(out, n);
    for (size_t i = 0; i < n && err == SP_OK; i++) {
        err = read_states(p, out->state + out->n * out->n_state, i);
        out->tok[out->n] = tok[i];
        out->next[out->n] = likeliest(logits + i * p->n_vocab, p->n_vocab);
        out->seq[out->n] = out->n_seq;
        out->n += err == SP_OK;
    }
    out->n_seq++;
    sp_kv_seq_fini(&seq, p->g->pool);
    return err == SP_OK || (d && d->code) ? err : SP_FAIL(d, err, "hidden states");
}

sp_err sp_head_gather_texts(sp_head_data *out, const sp_head_gather *g, const sp_head_text *text,
                            size_t n_text, sp_diag *d)
{
    pass p;
    SP_TRY(open_pass(&p, g, PIECE, PIECE, d));
    sp_err err = SP_OK;
    out->n_state = g->n_tap * p.n_embd;
    for (size_t i = 0; i < n_text && err == SP_OK; i++)
        for (size_t at = 0; at < text[i].n && err == SP_OK && !is_over(g, out->n); at += PIECE) {
            size_t n = text[i].n - at < PIECE ? text[i].n - at : PIECE;
            if (n > SP_HEAD_DEPTH)
                err = read_piece(out, &p, text[i].tok + at, n, d);
            if (g->tell)
                g->tell(g->arg, out->n);
        }
    close_pass(&p);
    return err;
}

/* --- answers ------------------------------------------------------------------------------------
 */

/* An answer that is being written: row i is the token before answer token i. */
typedef struct slot {
    sp_kv_seq seq;
    bool is_open, is_held;
    const sp_head_text *prompt;
    uint16_t *state;             /* [SLOT_TOK, n_state] */
    uint32_t tok[SLOT_TOK], next[SLOT_TOK];
    size_t n;
} slot;

typedef struct writer {
    pass p;
    sp_head_data *list[2]; /* to learn from; held out */
    slot *slot;            /* [SLOTS] */
    size_t n_state, n_out;
    const sp_head_text *text;
    const bool *is_held;
    size_t n_text, i_text; /* i_text: the next one */
} writer;

/* Its newest REPEAT tokens are there before. */
static bool repeats(const slot *s)
{
    if (s->n < REPEAT)
        return false;
    const uint32_t *newest = s->next + s->n - REPEAT;
    for (size_t i = 0; i + REPEAT < s->n; i++)
        if (memcmp(s->next + i, newest, REPEAT * sizeof *newest) == 0)
            return true;
    return false;
}

/* An answer is whole: its rows go into a list, and its place is free. */
static sp_err close_slot(writer *w, slot *s, bool keep)
{
    sp_head_data *r = w->list[s->is_held];
    sp_err err = SP_OK;
    sp_kv_seq_fini(&s->seq, w->p.g->pool);
    s->is_open = false;
    if (!keep || s->n <= SP_HEAD_DEPTH)
        return SP_OK;
    err = grow(r, s->n);
    if (err != SP_OK)
        return err;
    memcpy(r->state + r->n * r->n_state, s->state, s->n * w->n_state * sizeof *s->state);
    memcpy(r->tok + r->n, s->tok, s->n * sizeof *s->tok);
    memcpy(r->next + r->n, s->next, s->n * sizeof *s->next);
    for (size_t i = 0; i < s->n; i++)
        r->seq[r->n + i] = r->n_seq;
    r->n += s->n;
    r->n_seq++;
    return SP_OK;
}

/* Takes the next prompt that fits. false: there is none. */
static sp_err open_slot(writer *w, slot *s, sp_diag *d)
{
    while (w->i_text < w->n_text &&
           (!w->text[w->i_text].n || w->text[w->i_text].n > PROMPT))
        w->i_text++;
    if (w->i_text == w->n_text)
        return SP_OK;
    if (sp_kv_seq_init(&s->seq, w->p.g->pool, "local", NULL) != SP_OK)
        return SP_FAIL(d, SP_NOMEM, "a sequence");
    s->prompt = &w->text[w->i_text];
    s->is_held = w->is_held[w->i_text++];
    s->is_open = true;
    s->n = 0;
    return SP_OK;
}

/* What is computed next: a token of each answer that is being written, and one prompt. */
static sp_err plan(writer *w, sp_model_span *span, slot **of, size_t *n, sp_diag *d)
{
    bool has_prompt = false;
    *n = 0;
    for (size_t i = 0; i < SLOTS; i++) {
        slot *s = &w->slot[i];
        if (!s->is_open && !has_prompt && !is_over(w->p.g, w->list[0]->n))
            SP_TRY(open_slot(w, s, d));
        if (!s->is_open || (!s->n && has_prompt))
            continue;
        has_prompt = has_prompt || !s->n;
        span[*n] =
            s->n ? (sp_model_span){.seq = &s->seq, .tok = &s->next[s->n - 1], .n = 1, .n_logits = 1}
                 : (sp_model_span){.seq = &s->seq,
                                   .tok = s->prompt->tok,
                                   .n = s->prompt->n,
                                   .n_logits = 1};
        if (sp_kv_seq_reserve(&s->seq, w->p.g->pool, span[*n].n) != SP_OK)
            return SP_FAIL(d, SP_NOMEM, "no memory for %d answers; see --kv-bytes", SLOTS);
        of[(*n)++] = s;
    }
    return SP_OK;
}

/* The rows of a pass. */
static sp_err take(writer *w, const sp_model_span *span, slot *const *of, size_t n,
                   const float *logits)
{
    size_t row = 0;
    for (size_t i = 0; i < n; i++) {
        slot *s = of[i];
        row += span[i].n;
        SP_TRY(read_states(&w->p, s->state + s->n * w->n_state, row - 1));
        s->tok[s->n] = span[i].tok[span[i].n - 1];
        s->next[s->n] = likeliest(logits + i * w->p.n_vocab, w->p.n_vocab);
        bool ends = sp_tok_is_end(w->p.g->tok, s->next[s->n]);
        s->n++;
        bool again = repeats(s);
        s->n -= again ? REPEAT : 0;
        if (ends || again || s->n == w->n_out)
            SP_TRY(close_slot(w, s, true));
    }
    return SP_OK;
}

static sp_err write_answers(writer *w, sp_diag *d)
{
    sp_model_span span[SLOTS];
    slot *of[SLOTS];
    const float *logits;
    for (;;) {
        size_t n;
        SP_TRY(plan(w, span, of, &n, d));
        if (!n)
            return SP_OK;
        SP_TRY(sp_model_forward(w->p.g->model, w->p.work, w->p.g->pool, span, n, &logits, d));
        sp_err err = take(w, span, of, n, logits);
        if (err != SP_OK)
            return SP_FAIL(d, err, "hidden states");
        if (w->p.g->tell)
            w->p.g->tell(w->p.g->arg, w->list[0]->n);
    }
}

sp_err sp_head_gather_answers(sp_head_data *train, sp_head_data *held, const sp_head_gather *g,
                              const sp_head_text *text, const bool *is_held, size_t n_text,
                              sp_diag *d)
{
    writer w = {.list = {train, held},
                .text = text,
                .is_held = is_held,
                .n_text = n_text,
                .n_out = g->n_out < SLOT_TOK ? g->n_out : SLOT_TOK};
    SP_TRY(open_pass(&w.p, g, PROMPT + SLOTS, SLOTS, d));
    w.n_state = train->n_state = held->n_state = g->n_tap * w.p.n_embd;
    w.slot = sp_mem_array(SLOTS, sizeof *w.slot);
    sp_err err = w.slot ? SP_OK : SP_FAIL(d, SP_NOMEM, "answers");
    for (size_t i = 0; i < SLOTS && err == SP_OK; i++) {
        w.slot[i].state = sp_mem_array(w.n_out, w.n_state * sizeof *w.slot[i].state);
        if (!w.slot[i].state)
            err = SP_FAIL(d, SP_NOMEM, "answers");
    }
    if (err == SP_OK)
        err = write_answers(&w, d);
    for (size_t i = 0; w.slot && i < SLOTS; i++) {
        if (w.slot[i].is_open)
            (void)close_slot(&w, &w.slot[i], false);
        sp_mem_free(w.slot[i].state);
    }
    sp_mem_free(w.slot);
    close_pass(&w.p);
    return err;
}
