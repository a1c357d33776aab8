#include "gen/trial.h"

#include "base/mem.h"
#include "gen/control_int.h"
#include "gen/prose.h"

#include <math.h>
#include <string.h>

struct sp_trial {
    const sp_session_cfg *cfg;
    const sp_tok *t;
    size_t at;      /* tokens of the text that it stands behind; 0: none is due or being made */
    size_t next_at; /* the text has come to the end of a line, and waits there; 0: it does not */
    bool has_seq;
    sp_kv_seq seq;
    uint32_t newest; /* the token to compute next */
    size_t n_drawn;
    double sum;                          /* their log-probabilities */
    sp_buf text;                         /* of them */
    uint64_t came;                       /* what the trial before came to; 0: nothing */
    bool is_over;                        /* two came to the same */
    size_t n, n_same, n_left_out, n_tok; /* trials that were made, of them the same as the one
                                            before; not made; tokens computed */
};

sp_err sp_trial_new(sp_trial **out, const sp_session_cfg *cfg, const sp_tok *t)
{
    bool asks = cfg->rules & 1u << SP_PRUNE_TRIAL && cfg->think_open != cfg->think_close;
    *out = NULL;
    if (!asks || cfg->grammar)
        return SP_OK;
    sp_trial *x = sp_mem_alloc(sizeof *x);
    if (!x)
        return SP_NOMEM;
    *x = (sp_trial){.cfg = cfg, .t = t};
    *out = x;
    return SP_OK;
}

void sp_trial_free(sp_trial *x)
{
    if (!x)
        return;
    SP_ASSERT(!x->has_seq);
    sp_buf_fini(&x->text);
    sp_mem_free(x);
}

static void begin(sp_trial *x, size_t at)
{
    size_t most = x->cfg->trial_tok ? x->cfg->trial_tok : SP_TRIAL_ALL;
    x->at = x->next_at = 0;
    if (x->n_tok + SP_TRIAL_TOK <= most)
        x->at = at;
}

bool sp_trial_at_line(sp_trial *x, size_t n_tok)
{
    if (x->is_over)
        return true;
    if (x->at)
        x->next_at = n_tok;
    else
        begin(x, n_tok);
    return false;
}

bool sp_trial_is_on(const sp_trial *x)
{
    return x->at > 0;
}

bool sp_trial_is_due(const sp_trial *x)
{
    return x->at > 0 && !x->has_seq;
}

bool sp_trial_begins_at(const sp_trial *x, size_t n_tok)
{
    SP_ASSERT(!sp_trial_is_due(x) || n_tok <= x->at); /* no guess goes beyond it */
    return sp_trial_is_due(x) && x->at == n_tok;
}

bool sp_trial_is_awaited(const sp_trial *x)
{
    return x->next_at > 0;
}

sp_err sp_trial_fork(sp_trial *x, const sp_kv_seq *text, sp_kv_pool *pool)
{
    SP_ASSERT(sp_trial_is_due(x) && text->n_tok == x->at);
    SP_TRY(sp_kv_seq_fork(&x->seq, text, pool));
    x->has_seq = true;
    x->seq.private_from = text->private_from ? text->private_from : x->at;
    x->newest = x->cfg->think_close;
    x->n_drawn = 0;
    x->sum = 0;
    sp_buf_clear(&x->text);
    return SP_OK;
}

sp_err sp_trial_span(sp_trial *x, sp_kv_pool *pool, sp_model_span *out)
{
    SP_ASSERT(x->has_seq);
    SP_TRY(sp_kv_seq_reserve(&x->seq, pool, 1));
    *out = (sp_model_span){.seq = &x->seq, .tok = &x->newest, .n = 1, .n_logits = 1};
    return SP_OK;
}

static bool says_something(char c)
{
    return sp_prose_letter(c) || sp_prose_digit(c);
}

/* What the text comes to; 0: nothing. */
static uint64_t came_to(const sp_buf *text)
{
    uint64_t h = sp_rules_conclusion(text);
    bool says = false;
    for (size_t i = 0; i < text->len && !says; i++)
        says = says_something(text->p[i]);
    if (h || !says)
        return h;
    for (size_t i = 0; i < text->len; i++)
        if (says_something(text->p[i]))
            h = sp_rules_hash(h, text->p[i]);
    return h | 1;
}

/* The trial is whole. true: its text waits, and the thoughts end there. */
static bool finish(sp_trial *x, sp_kv_pool *pool)
{
    double least = x->cfg->trial_sure > 0 ? x->cfg->trial_sure : SP_TRIAL_SURE;
    uint64_t came = came_to(&x->text);
    bool same = came && came == x->came;
    bool sure = x->n_drawn && exp(x->sum / (double)x->n_drawn) >= least;
    x->n++;
    x->n_same += same;
    x->came = came;
    x->is_over = same && sure;
    size_t waits_at = x->next_at;
    sp_kv_seq_fini(&x->seq, pool);
    x->has_seq = false;
    x->at = x->next_at = 0;
    if (waits_at && !x->is_over)
        begin(x, waits_at);
    return waits_at && x->is_over;
}

sp_err sp_trial_take(sp_trial *x, sp_kv_pool *pool, const float *logits, bool *ends)
{
    float logprob;
    sp_top top;
    *ends = false;
    x->n_tok++;
    sp_sample_logprobs(logits, sp_tok_count(x->t), 0, &logprob, &top, 1);
    if (!isfinite(top.logprob) || sp_control_is_last(x->cfg, x->t, top.id)) {
        *ends = finish(x, pool);
        return SP_OK;
    }
    size_t from = x->text.len;
    uint32_t before = x->newest;
    x->newest = top.id;
    x->n_drawn++;
    x->sum += (double)top.logprob;
    sp_tok_decode_after(x->t, &x->text, before, top.id, false);
    if (x->text.failed)
        return SP_NOMEM;
    bool says = false, is_line = false;
    for (size_t i = 0; i < x->text.len && !is_line; i++) {
        is_line = says && i >= from && x->text.p[i] == '\n';
        says = says || says_something(x->text.p[i]);
    }
    if (is_line || x->n_drawn == SP_TRIAL_TOK)
        *ends = finish(x, pool);
    return SP_OK;
}

void sp_trial_drop(sp_trial *x, sp_kv_pool *pool, bool left_out)
{
    if (x->has_seq)
        sp_kv_seq_fini(&x->seq, pool);
    x->n_left_out += left_out && x->at;
    x->has_seq = false;
    x->at = x->next_at = 0;
}

void sp_trial_did(const sp_trial *x, sp_receipt_control *did)
{
    if (!x)
        return;
    did->trials = x->n;
    did->trials_same = x->n_same;
    did->trials_left_out = x->n_left_out;
    did->trial_tok = x->n_tok;
}
