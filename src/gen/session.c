#include "gen/control.h"
#include "gen/held.h"

#include "base/mem.h"
#include "gen/borders.h"
#include "gen/trial.h"

#include <math.h>
#include <string.h>

/* Tokens from one look at the model's distribution to the next: a look at 49,152 logits takes 60
 * us, 2 % of the default model's step. */
enum { SEE_EVERY = 4 };

struct sp_session {
    sp_session_cfg cfg;
    const sp_tok *t;
    sp_sampler *sampler;
    sp_control *control; /* what may come next, and when it is over */
    /* tokens put without being chosen: behind the newest chosen one, and in all */
    size_t n_brought, n_forced;
    sp_kv_seq seq, part; /* part: computed by itself, for the splice at i_splice */
    bool has_seq, has_part;
    size_t i_splice;     /* the next one to put in place, or behind the last */
    size_t part_known;   /* tokens of it that were attached */
    char *tenant;
    sp_ids tok;      /* prompt, then answer */
    size_t n_prompt;
    size_t *border, n_border; /* where the prompt's messages begin */
    sp_guesser guesser;      /* who guesses what may follow tok */
    sp_ids predicted; /* cfg.predicted */
    /* the newest token and the guesses that are computed beside it */
    uint32_t ahead[1 + SP_DRAFT_MAX];
    size_t n_ahead;  /* of these guesses, those that may still turn out right */
    sp_session_source reused;
    sp_dev_cert cert;
    /* [n_prompt] log-probabilities of the prompt; NULL: not asked for, or given */
    sp_event_tok *prompt_tok;
    const sp_dev_best *best; /* NULL; or what is known of the next token's logits, */
    sp_session_read *read;   /* and how all of them come */
    void *read_arg;
    size_t stop_at;  /* which of cfg.stop ended the answer, from 1; 0: none yet */
    sp_held held;    /* text of the answer not yet given out */
    sp_trial *trial; /* NULL: it makes none */
};

void sp_splice_free(sp_splice *p, size_t n)
{
    for (size_t i = 0; p && i < n; i++)
        sp_ids_fini(&p[i].alone);
    sp_mem_free(p);
}

/* The session's own, so that its configuration can be a copy of the caller's. */
static sp_err copy_splices(sp_session *s, const sp_session_cfg *cfg)
{
    sp_splice *own = sp_mem_array(cfg->n_splice + 1, sizeof *own);
    s->cfg.splice = own;
    s->cfg.n_splice = 0;
    if (!own)
        return SP_NOMEM;
    for (; s->cfg.n_splice < cfg->n_splice; s->cfg.n_splice++) {
        const sp_splice *from = &cfg->splice[s->cfg.n_splice];
        sp_splice *to = &own[s->cfg.n_splice];
        *to = (sp_splice){.first = from->first, .n = from->n, .at = from->at};
        if (sp_ids_add(&to->alone, from->alone.id, from->alone.n) != SP_OK) {
            sp_ids_fini(&to->alone);
            return SP_NOMEM;
        }
    }
    return SP_OK;
}

void sp_event_cut_free(sp_event_cut *c)
{
    if (!c)
        return;
    sp_ids_fini(&c->id);
    sp_buf_fini(&c->rest);
    sp_buf_fini(&c->steps);
    sp_mem_free(c);
}

void sp_event_free(sp_event *e)
{
    if (!e)
        return;
    sp_buf_fini(&e->text);
    sp_mem_free(e->tok);
    sp_mem_free(e->mark);
    sp_buf_fini(&e->how);
    sp_event_cut_free(e->cut);
    sp_mem_free(e);
}

static sp_err prepare_prompt_logprobs(sp_session *s)
{
    if (!s->cfg.prompt_logprobs)
        return SP_OK;
    s->prompt_tok = sp_mem_array(s->n_prompt, sizeof *s->prompt_tok);
    if (!s->prompt_tok)
        return SP_NOMEM;
    s->prompt_tok[0] = (sp_event_tok){.id = s->tok.id[0], .logprob = NAN};
    return SP_OK;
}

void sp_session_answer_now(sp_session *s)
{
    s->cfg.think_tok = 0; /* the controllers look at it with each token */
}

sp_err sp_session_new(sp_session **out, const sp_session_cfg *cfg, const sp_tok *t,
                      const uint32_t *tok, size_t n, sp_diag *d)
{
    sp_session *s = sp_mem_alloc(sizeof *s);
    if (!s)
        return SP_FAIL(d, SP_NOMEM, "request");
    s->cfg = *cfg;
    s->t = t;
    sp_err err = copy_splices(s, cfg);
    if (err == SP_OK)
        err = sp_sampler_new(&s->sampler, &cfg->sample, sp_tok_count(t));
    s->cfg.grammar = sp_grammar_share(cfg->grammar);
    s->cfg.calls = sp_grammar_share(cfg->calls);
    if (err == SP_OK)
        err = sp_ids_add(&s->tok, tok, n);
    if (err == SP_OK)
        err = sp_ids_add(&s->predicted, cfg->predicted, cfg->n_predicted);
    for (size_t i = 0; i < n && err == SP_OK; i++) {
        if (i + cfg->n_said < n)
            sp_sampler_see(s->sampler, tok[i]);
        else
            sp_sampler_take(s->sampler, tok[i]);
    }
    s->n_prompt = n;
    if (err == SP_OK)
        err = sp_control_new(&s->control, &s->cfg, t, tok, n);
    if (err == SP_OK)
        err = sp_trial_new(&s->trial, &s->cfg, t);
    if (err == SP_OK)
        err = sp_borders_find(&s->border, &s->n_border, t, tok, n);
    if (err == SP_OK)
        err = prepare_prompt_logprobs(s);
    if (err == SP_OK)
        *out = s;
    else
        sp_session_free(s, NULL);
    return err == SP_OK || (d && d->code) ? err : SP_FAIL(d, err, "request");
}

void sp_session_free(sp_session *s, sp_kv_pool *pool)
{
    if (!s)
        return;
    if (s->has_seq)
        sp_session_preempt(s, pool);
    sp_guesser_end(&s->guesser, NULL);
    sp_splice_free((sp_splice *)(uintptr_t)s->cfg.splice, s->cfg.n_splice);
    sp_sampler_free(s->sampler);
    sp_control_free(s->control);
    sp_trial_free(s->trial);
    sp_grammar_put(s->cfg.grammar);
    sp_grammar_put(s->cfg.calls);
    sp_mem_free(s->prompt_tok);
    sp_mem_free(s->border);
    sp_ids_fini(&s->tok);
    sp_ids_fini(&s->predicted);
    sp_held_fini(&s->held);
    sp_mem_free(s->tenant);
    sp_mem_free(s);
}

static void set_eps(sp_session *s)
{
    s->seq.eps = s->cfg.eps;
    s->seq.keep = s->cfg.keep;
    s->seq.keep_to = sp_kv_keep_to(s->n_prompt);
    s->seq.eps_prompt = s->cfg.eps_prompt;
    s->seq.eps_from = s->cfg.eps_from;
    s->seq.private_from = s->cfg.private_from;
    s->seq.cert = &s->cert;
    s->seq.dense = s->cfg.dense;
    s->seq.n_prompt = s->n_prompt + s->cfg.beginning;
    s->seq.border = s->border;
    s->seq.n_border = s->n_border;
    s->seq.n_dense = s->cfg.n_dense;
}

static sp_draft_text text_of(const sp_session *s)
{
    return (sp_draft_text){s->tok.id, s->tok.n, s->n_prompt};
}

/* On the step thread, where drafters live. */
static sp_err start_drafters(sp_session *s)
{
    const sp_draft_answer a = {.tenant = s->tenant,
                               .conv = s->cfg.conv[0] ? s->cfg.conv : NULL,
                               .is_private = s->cfg.is_private,
                               .salt = s->cfg.salt[0] ? s->cfg.salt : NULL,
                               .predicted = s->predicted.id,
                               .n_predicted = s->predicted.n};
    return s->cfg.drafts && !s->guesser.is_started
               ? sp_guesser_start(&s->guesser, s->cfg.drafts, s->cfg.drafters, &a)
               : SP_OK;
}

void sp_session_end(sp_session *s)
{
    sp_draft_text t = text_of(s);
    sp_guesser_end(&s->guesser, &t);
}

static sp_err init_seq(const sp_session *s, sp_kv_seq *seq, const sp_kv_pool *pool,
                       const char *conv)
{
    SP_TRY(sp_kv_seq_init(seq, pool, s->tenant, conv));
    return s->cfg.salt[0] ? sp_kv_seq_salt(seq, s->cfg.salt) : SP_OK;
}

sp_err sp_session_attach(sp_session *s, sp_kv_pool *pool, const char *tenant, bool fetch)
{
    size_t n_found;
    SP_ASSERT(!s->has_seq);
    if (!s->tenant) {
        s->tenant = sp_mem_strdup(tenant);
        if (!s->tenant)
            return SP_NOMEM;
    }
    SP_TRY(start_drafters(s));
    SP_TRY(init_seq(s, &s->seq, pool, s->cfg.conv[0] ? s->cfg.conv : NULL));
    s->has_seq = true;
    set_eps(s);
    /* a state has seen all that came before: nothing can be put in place behind it */
    s->i_splice = sp_kv_pool_states(pool) ? s->cfg.n_splice : 0;
    /* whatever is cached, the answer is the same */
    size_t n = s->i_splice < s->cfg.n_splice ? s->cfg.splice[0].first + 1
               : s->prompt_tok               ? 1
                                             : s->tok.n + s->cfg.beginning;
    sp_err err = sp_kv_seq_attach(&s->seq, pool, s->tok.id, n, fetch, &n_found);
    if (err != SP_OK)
        sp_session_preempt(s, pool);
    else if (s->tok.n == s->n_prompt)
        s->reused = (sp_session_source){.ram = s->seq.n_tok_ram,
                                        .ssd = s->seq.n_tok_ssd,
                                        .s3 = s->seq.n_tok_s3,
                                        .demoted = s->seq.n_tok_demoted};
    return err;
}

sp_err sp_session_fork(sp_session *s, const sp_session *from, sp_kv_pool *pool)
{
    SP_ASSERT(!s->has_seq);
    s->tenant = sp_mem_strdup(from->tenant);
    if (!s->tenant)
        return SP_NOMEM;
    SP_TRY(start_drafters(s));
    SP_TRY(sp_kv_seq_fork(&s->seq, &from->seq, pool));
    s->seq.salt = s->cfg.salt[0] ? s->cfg.salt : NULL;
    s->has_seq = true;
    s->i_splice = s->cfg.n_splice;
    set_eps(s);
    s->reused = (sp_session_source){.ram = s->n_prompt};
    return SP_OK;
}

void sp_session_preempt(sp_session *s, sp_kv_pool *pool)
{
    if (s->trial)
        sp_trial_drop(s->trial, pool, true);
    if (s->has_part)
        sp_kv_seq_fini(&s->part, pool);
    sp_kv_seq_fini(&s->seq, pool);
    s->has_seq = s->has_part = false;
}

/* The part to put in place next, or NULL. */
static const sp_splice *next_part(const sp_session *s)
{
    return s->i_splice < s->cfg.n_splice ? &s->cfg.splice[s->i_splice] : NULL;
}

/* Its tokens are computed. */
static bool is_part_ready(const sp_session *s)
{
    return s->has_part && s->part.n_tok + 1 >= next_part(s)->alone.n;
}

size_t sp_session_todo(const sp_session *s)
{
    const sp_splice *p = next_part(s);
    if (s->has_part && !is_part_ready(s))
        return p->alone.n - 1 - s->part.n_tok;
    return (p ? p->first : s->tok.n) - s->seq.n_tok;
}

bool sp_session_is_read(const sp_session *s)
{
    return s->cfg.beginning && s->seq.n_tok == s->tok.n && !s->seq.load && !s->seq.snap_load;
}

size_t sp_session_stop(const sp_session *s)
{
    return s->stop_at;
}

bool sp_session_is_decoding(const sp_session *s)
{
    return s->tok.n > s->n_prompt && s->seq.n_tok + 1 == s->tok.n;
}

/* Guesses stay inside the page that is being filled: a full one is quantised, and others may use
 * it. Where attention may be left out each of them is a span of its own, and spans of one step do
 * not share a page that one of them fills. */
size_t sp_session_guess_cap(const sp_session *s, size_t cap)
{
    size_t slot = (s->seq.n_tok + 1) % SP_PAGE_TOK, room = SP_PAGE_TOK - 1 - slot,
           last = s->cfg.max_tok - sp_session_out(s) - 1;
    bool is_due = s->trial && sp_trial_is_due(s->trial); /* it begins where the text then stands */
    if (!s->guesser.is_started || is_due || (s->cfg.eps > 0 && slot == 0))
        return 0;
    cap = cap < room ? cap : room;
    return cap < last ? cap : last; /* the token behind the guesses is not one */
}

size_t sp_session_look(sp_session *s, const sp_guess_ask *ask, sp_draft_id *runner)
{
    sp_draft_text t = text_of(s);
    size_t n = sp_guesser_look(&s->guesser, &t, ask);
    *runner = s->guesser.runner;
    return n;
}

sp_draft_run sp_session_run(sp_session *s, size_t n)
{
    sp_draft_text t = text_of(s);
    return sp_guesser_run(&s->guesser, &t, n);
}

size_t sp_session_choose(sp_session *s, const sp_guess_ask *ask, double *p)
{
    sp_draft_text t = text_of(s);
    return sp_guesser_choose(&s->guesser, &t, ask, p);
}

void sp_session_see(sp_session *s, const sp_model *m, const sp_model_work *w, size_t row, size_t n)
{
    sp_draft_text t = text_of(s);
    for (size_t id = 0; id < SP_DRAFTERS && n; id++) {
        sp_drafter *d = s->guesser.drafter[id];
        const sp_draft_source *from = s->guesser.source[id];
        sp_draft_states seen = {.first = s->seq.n_tok - n, .n = n};
        if (!d || !d->kind->see)
            continue;
        for (size_t i = 0; i < from->n_layer; i++)
            seen.row[i] = sp_model_states(m, w, from->layer[i]) + row * sp_model_arch(m)->n_embd;
        d->kind->see(d, &t, &seen);
    }
}

sp_draft_id sp_session_drafter(const sp_session *s)
{
    return s->guesser.chosen;
}

bool sp_session_was_guessed(const sp_session *s)
{
    bool stops = s->trial && (sp_trial_is_due(s->trial) || sp_trial_is_awaited(s->trial));
    return s->guesser.was_right && !stops;
}

sp_err sp_session_trial(sp_session *s, sp_kv_pool *pool, bool *is_on)
{
    *is_on = false;
    if (!s->trial || !sp_trial_is_on(s->trial))
        return SP_OK;
    if (!sp_control_is_thinking(s->control)) {
        sp_trial_drop(s->trial, pool, false);
        return SP_OK;
    }
    if (sp_trial_begins_at(s->trial, s->seq.n_tok))
        SP_TRY(sp_trial_fork(s->trial, &s->seq, pool));
    *is_on = !sp_trial_is_due(s->trial);
    return SP_OK;
}

bool sp_session_awaits_trial(const sp_session *s)
{
    return s->trial && sp_trial_is_awaited(s->trial);
}

sp_err sp_session_trial_span(sp_session *s, sp_kv_pool *pool, sp_model_span *out)
{
    return sp_trial_span(s->trial, pool, out);
}

sp_err sp_session_trial_take(sp_session *s, sp_kv_pool *pool, const float *logits)
{
    bool ends;
    SP_TRY(sp_trial_take(s->trial, pool, logits, &ends));
    if (ends)
        sp_control_end_thoughts(s->control, SP_PRUNE_TRIAL);
    return SP_OK;
}

void sp_session_trial_drop(sp_session *s, sp_kv_pool *pool)
{
    sp_trial_drop(s->trial, pool, true);
}

sp_model_span sp_session_span(sp_session *s, size_t n)
{
    size_t at = s->seq.n_tok;
    if (s->has_part && !is_part_ready(s))
        return (
            sp_model_span){.seq = &s->part, .tok = next_part(s)->alone.id + s->part.n_tok, .n = n};
    s->n_ahead = 0;
    if (n > 1 && sp_session_is_decoding(s)) {
        s->n_ahead = n - 1;
        s->ahead[0] = s->tok.id[at];
        memcpy(s->ahead + 1, s->guesser.draft[s->guesser.chosen].tok, (n - 1) * sizeof *s->ahead);
        return (sp_model_span){.seq = &s->seq,
                               .tok = s->ahead,
                               .n = n,
                               .n_logits = n,
                               .may_go_back = true};
    }
    return (sp_model_span){.seq = &s->seq,
                           .tok = s->tok.id + at,
                           .n = n,
                           .n_logits = s->prompt_tok         ? n
                                       : s->cfg.beginning ? 0
                                                          : at + n == s->tok.n};
}

bool sp_session_asks_all(const sp_session *s)
{
    return s->prompt_tok != NULL;
}

sp_err sp_session_note_prompt(sp_session *s, const float *logits, size_t n_row, size_t n,
                              sp_event **out)
{
    size_t first = s->seq.n_tok - n, n_top = (size_t)s->cfg.n_logprobs;
    *out = NULL;
    /* position i says how likely what follows it is */
    for (size_t i = first; i < first + n && i + 1 < s->n_prompt; i++) {
        sp_event_tok *t = &s->prompt_tok[i + 1];
        *t = (sp_event_tok){.id = s->tok.id[i + 1], .n_top = n_top};
        sp_sample_logprobs(logits + (i - first) * n_row, sp_tok_count(s->t), t->id, &t->logprob,
                           t->top, n_top);
    }
    if (first + n < s->n_prompt)
        return SP_OK;
    sp_event *e = sp_mem_alloc(sizeof *e);
    if (!e)
        return SP_NOMEM;
    *e = (sp_event){.kind = SP_EVENT_PROMPT, .tok = s->prompt_tok, .n_tok = s->n_prompt};
    s->prompt_tok = NULL;
    *out = e;
    return SP_OK;
}

sp_kv_seq *sp_session_seq(sp_session *s)
{
    bool is_placeable = s->has_part && is_part_ready(s) && !s->part.load && !s->part.load_failed;
    return s->has_part && !is_placeable ? &s->part : &s->seq;
}

const sp_kv_seq *sp_session_text_seq(const sp_session *s)
{
    return &s->seq;
}

sp_err sp_session_part(sp_session *s, sp_kv_pool *pool, bool fetch, size_t *n_ready)
{
    const sp_splice *p = next_part(s);
    sp_err err = SP_OK;
    *n_ready = 0;
    if (!p || p->first != s->seq.n_tok)
        return SP_OK;
    if (!s->has_part) {
        SP_TRY(init_seq(s, &s->part, pool, NULL));
        s->part.holds_all = true;
        err = sp_kv_seq_attach(&s->part, pool, p->alone.id, p->alone.n, fetch, &s->part_known);
        s->has_part = err == SP_OK;
        if (err != SP_OK)
            sp_kv_seq_fini(&s->part, pool);
    }
    if (err == SP_OK && sp_session_seq(s) == &s->seq)
        *n_ready = p->n;
    return err;
}

sp_err sp_session_splice(sp_session *s, sp_kv_pool *pool, const sp_model *m, sp_model_work *w)
{
    const sp_splice *p = next_part(s);
    SP_TRY(sp_model_splice(m, w, pool, &s->seq, &s->part, p->at, s->tok.id + p->first, p->n));
    size_t known = s->part_known > p->at ? s->part_known - p->at : 0;
    if (s->tok.n == s->n_prompt) {
        s->reused.placed += p->n;
        s->reused.spliced += known < p->n ? known : p->n;
    }
    sp_kv_seq_fini(&s->part, pool);
    s->has_part = false;
    s->i_splice++;
    return SP_OK;
}

size_t sp_session_brought(const sp_session *s)
{
    return s->n_brought;
}

size_t sp_session_forced(const sp_session *s)
{
    return s->n_forced;
}

size_t sp_session_tokens(const sp_session *s)
{
    return s->tok.n;
}

size_t sp_session_out(const sp_session *s)
{
    return s->tok.n - s->n_prompt;
}

sp_session_end_at sp_session_cut(const sp_session *s)
{
    sp_window_look mean = {0};
    size_t n_out = sp_session_out(s), n_kept = n_out;
    if (!sp_control_unsure(s->control, &n_kept, &mean))
        mean = (sp_window_look){0};
    n_kept = s->held.text.len ? n_kept : n_out; /* all of it was given */
    return (sp_session_end_at){.id = s->tok.id + s->n_prompt,
                               .n_id = n_out,
                               .n_kept = n_kept < n_out ? n_kept : n_out,
                               .rest = sp_buf_str(&s->held.text),
                               .n_rest = s->held.text.len,
                               .steps = sp_control_steps(s->control),
                               .logprob = mean.logprob,
                               .entropy = mean.entropy,
                               .margin = mean.margin};
}

sp_receipt_control sp_session_control(const sp_session *s)
{
    sp_receipt_control did = sp_control_did(s->control);
    sp_trial_did(s->trial, &did);
    return did;
}

size_t sp_session_thought(const sp_session *s)
{
    return sp_control_thought(s->control);
}

const sp_dev_cert *sp_session_cert(const sp_session *s)
{
    return &s->cert;
}

sp_session_source sp_session_reused(const sp_session *s)
{
    return s->reused;
}

/* Puts a token behind the answer. */
static sp_err push_token(sp_session *s, const float *logits, uint32_t id)
{
    uint32_t prev = s->tok.n ? s->tok.id[s->tok.n - 1] : SP_TOK_NONE;
    size_t at = s->held.text.len;
    if (s->cfg.n_logprobs >= 0)
        SP_TRY(
            sp_held_logprobs(&s->held, logits, sp_tok_count(s->t), id, (size_t)s->cfg.n_logprobs));
    SP_TRY(sp_ids_push(&s->tok, id));
    sp_draft_text text = text_of(s);
    if (s->guesser.is_started)
        sp_guesser_note(&s->guesser, &text);
    bool guessed = s->n_ahead && logits && s->guesser.was_right;
    s->n_ahead = guessed ? s->n_ahead - 1 : 0;
    sp_tok_decode_after(s->t, &s->held.text, prev, id,
                        s->cfg.marks || s->cfg.ignore_end || sp_control_is_stop_id(&s->cfg, id));
    if (s->held.text.failed)
        return SP_NOMEM;
    if (s->cfg.how)
        SP_TRY(sp_held_how(&s->held, at,
                           guessed  ? SP_TOK_GUESSED
                           : logits ? SP_TOK_CHOSEN
                                    : SP_TOK_FORCED));
    return s->cfg.marks && s->held.text.len > at && sp_tok_is_control(s->t, id)
               ? sp_held_mark(&s->held, at)
               : SP_OK;
}

/* A token more: puts it behind the answer and hears what the controllers say. */
static sp_err take_token(sp_session *s, const float *logits, uint32_t id, sp_verdict *v)
{
    SP_TRY(push_token(s, logits, id));
    const sp_control_now now = {.n_out = sp_session_out(s), .id = id, .held = &s->held};
    SP_TRY(sp_control_took(s->control, &now, v));
    s->stop_at = v->stop_at;
    if (s->trial && sp_control_ended_thought(s->control) &&
        sp_trial_at_line(s->trial, s->tok.n))
        sp_control_end_thoughts(s->control, SP_PRUNE_TRIAL);
    return SP_OK;
}

/* Tokens that must come are put without a forward pass of their own, where nothing is asked of each
 * one's logits, and where a step that may leave out attention does not take one token at a time. */
static sp_err bring_forced(sp_session *s, sp_verdict *v)
{
    uint32_t id;
    for (; sp_control_may_bring(s->control) && !v->ends; s->n_brought++, s->n_forced++) {
        SP_TRY(sp_control_force(s->control, &id));
        if (id == SP_TOK_NONE || sp_control_is_last(&s->cfg, s->t, id) ||
            (s->cfg.eps > 0 && s->tok.n + 1 >= s->cfg.eps_from))
            break;
        sp_control_take_forced(s->control);
        sp_sampler_take(s->sampler, id);
        SP_TRY(take_token(s, NULL, id, v));
    }
    return SP_OK;
}

/* The next token: the one that must come, or one that the sampler draws of those that may. */
static sp_err draw_token(sp_session *s, const float *logits, uint32_t *id)
{
    const uint8_t *allowed;
    SP_TRY(sp_control_force(s->control, id));
    if (*id != SP_TOK_NONE) {
        sp_control_take_forced(s->control);
        sp_sampler_take(s->sampler, *id);
        return SP_OK;
    }
    SP_TRY(sp_control_allow(s->control, sp_session_out(s), &allowed));
    size_t n_bend;
    const sp_bias *bend = sp_control_bend(s->control, &n_bend);
    sp_sampler_bend(s->sampler, bend, n_bend);
    if (s->best && sp_sampler_best(s->sampler, id, s->best, allowed))
        return SP_OK;
    if (s->best)
        SP_TRY(s->read(s->read_arg));
    return sp_sampler_next(s->sampler, id, logits, allowed);
}

/* Text leaves; at the end that which rules held back, unless they take it back. */
static sp_err give(sp_session *s, const sp_verdict *v, sp_event **out)
{
    size_t n = v->n_give;
    if (v->ends)
        sp_control_end(s->control, &s->held, &n);
    size_t before = s->held.text.len;
    SP_TRY(sp_held_give(&s->held, n < before ? n : before, out));
    sp_control_gave(s->control, before - s->held.text.len);
    return SP_OK;
}

/* *v: what became of the answer. */
static sp_err choose_token(sp_session *s, const float *logits, sp_event **out, sp_verdict *v)
{
    uint32_t id;
    s->n_brought = 0;
    if (s->guesser.is_started && sp_session_out(s) % SEE_EVERY == 0)
        sp_window_see(&s->guesser.window, logits, sp_tok_count(s->t));
    SP_TRY(draw_token(s, logits, &id));
    sp_control_see(s->control, logits);
    if (sp_control_is_last(&s->cfg, s->t, id)) {
        *v = (sp_verdict){.ends = true, .finish = SP_FINISH_STOP, .n_give = SIZE_MAX};
        if (sp_control_doubts_end(s->control, v))
            return give(s, v, out);
        if (s->cfg.keep_stop && sp_control_is_stop_id(&s->cfg, id))
            SP_TRY(push_token(s, logits, id));
        return give(s, v, out);
    }
    SP_TRY(take_token(s, logits, id, v));
    SP_TRY(bring_forced(s, v));
    return give(s, v, out);
}

static sp_err accept(sp_session *s, const float *logits, sp_event **out, sp_verdict *v)
{
    *out = NULL;
    *v = (sp_verdict){.ends = true, .finish = SP_FINISH_LENGTH};
    if (s->cfg.no_answer)
        return SP_OK;
    SP_TRY(choose_token(s, logits, out, v));
    if (!sp_control_doubts(s->control, v->ends))
        return SP_OK;
    sp_event_free(*out);
    *out = NULL;
    *v = (sp_verdict){.ends = true, .finish = SP_FINISH_UNSURE};
    return SP_OK;
}

bool sp_session_takes_best(const sp_session *s, float *temperature)
{
    bool sees = s->guesser.is_started && sp_session_out(s) % SEE_EVERY == 0;
    if (s->cfg.no_answer || s->prompt_tok || s->cfg.n_logprobs >= 0 || sees ||
        sp_sampler_bends(s->sampler) || sp_control_looks(s->control))
        return false;
    *temperature = s->cfg.sample.temperature > 0 ? s->cfg.sample.temperature : 1;
    return true;
}

void sp_session_offer(sp_session *s, const sp_dev_best *best, sp_session_read *read, void *arg)
{
    s->best = best;
    s->read = read;
    s->read_arg = arg;
}

sp_err sp_session_accept(sp_session *s, const float *logits, sp_event **out, bool *done,
                         sp_finish *finish, sp_diag *d)
{
    sp_verdict v;
    sp_err err = accept(s, logits, out, &v);
    s->best = NULL;
    *done = v.ends;
    *finish = v.finish;
    bool is_bound = sp_control_is_bound(s->control);
    if (err == SP_FORMAT)
        return SP_FAIL(d, err,
                       is_bound
                           ? "no token of the vocabulary continues the answer within its schema"
                           : "the model gave no finite logit");
    if (err == SP_LIMIT && is_bound)
        return SP_FAIL(d, SP_INVAL, SP_GRAMMAR_LIMIT);
    return err == SP_OK ? SP_OK : SP_FAIL(d, err, "choosing the next token");
}
