#include "gen/session.h"

#include "base/mem.h"
#include "base/utf8.h"

#include <math.h>
#include <string.h>

struct sp_session {
    sp_session_cfg cfg;
    const sp_tok *t;
    sp_sampler *sampler;
    sp_grammar_at at; /* where the answer stands in cfg.grammar, or in cfg.calls while in_call */
    bool in_call;
    char tail[64 + 256]; /* [n_tail] the newest bytes of the answer, in which cfg.trigger is looked for */
    size_t n_tail;
    sp_force force;      /* what its grammar leaves no choice about */
    size_t n_brought, n_forced; /* tokens put without being chosen: behind the newest chosen one, and in all */
    sp_kv_seq seq, part; /* part: computed by itself, for the splice at i_splice */
    bool has_seq, has_part;
    size_t i_splice;     /* the next one to put in place, or behind the last */
    size_t part_known;   /* tokens of it that were attached */
    char *tenant;
    sp_ids tok;      /* prompt, then answer */
    size_t n_prompt;
    sp_guesser guesser;      /* who guesses what may follow tok */
    sp_ids predicted; /* cfg.predicted */
    uint32_t ahead[1 + SP_DRAFT_MAX]; /* the newest token and the guesses that are computed beside it */
    sp_session_source reused;
    sp_dev_cert cert;
    bool thinking;   /* between think_open and think_close */
    size_t n_thought;
    uint8_t *going;  /* [n_vocab] forbids what ends the answer; NULL: cfg.min_tok is 0 */
    sp_event_tok *prompt_tok; /* [n_prompt] log-probabilities of the prompt; NULL: not asked for, or given */
    uint8_t *only;   /* [n_vocab] allows think_close alone; NULL: the model does not think */
    double watched;  /* sum of the log-probabilities of the likeliest tokens, while it is watched */
    size_t n_watched;
    bool is_trusted; /* the watch is over */
    size_t stop_at;  /* which of cfg.stop ended the answer, from 1; 0: none yet */
    sp_buf held;     /* text of the answer not yet given out */
    sp_event_tok *held_tok; /* logprobs of tokens whose text is held */
    size_t n_held_tok, cap_held_tok;
    sp_event_mark *held_mark; /* control tokens in held */
    size_t n_held_mark, cap_held_mark;
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

void sp_event_free(sp_event *e)
{
    if (!e)
        return;
    sp_buf_fini(&e->text);
    sp_mem_free(e->tok);
    sp_mem_free(e->mark);
    sp_mem_free(e);
}

static bool is_stop_id(const sp_session *s, uint32_t id)
{
    for (size_t i = 0; i < s->cfg.n_stop_id; i++)
        if (s->cfg.stop_id[i] == id)
            return true;
    return false;
}

/* What would end the answer, by itself. */
static bool is_last(const sp_session *s, uint32_t id)
{
    return is_stop_id(s, id) || (!s->cfg.ignore_end && sp_tok_is_end(s->t, id));
}

static sp_err prepare_least(sp_session *s)
{
    size_t n = sp_tok_count(s->t);
    if (!s->cfg.min_tok)
        return SP_OK;
    s->going = sp_mem_alloc(n);
    for (size_t i = 0; s->going && i < n; i++)
        s->going[i] = !is_last(s, (uint32_t)i);
    return s->going ? SP_OK : SP_NOMEM;
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

/* The prompt may end inside: some templates open it. */
static sp_err prepare_thinking(sp_session *s)
{
    if (s->cfg.think_open == s->cfg.think_close)
        return SP_OK;
    s->only = sp_mem_alloc(sp_tok_count(s->t));
    if (!s->only)
        return SP_NOMEM;
    s->only[s->cfg.think_close] = 1;
    for (size_t i = s->tok.n; i-- > 0 && s->tok.id[i] != s->cfg.think_close && !s->thinking;)
        s->thinking = s->tok.id[i] == s->cfg.think_open;
    return SP_OK;
}

static void note_thinking(sp_session *s, uint32_t id)
{
    if (!s->only)
        return;
    s->n_thought += s->thinking && id != s->cfg.think_close;
    s->thinking = id == s->cfg.think_open || (s->thinking && id != s->cfg.think_close);
}

sp_err sp_session_new(sp_session **out, const sp_session_cfg *cfg, const sp_tok *t, const uint32_t *tok, size_t n, sp_diag *d)
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
    if (cfg->grammar)
        s->at = sp_grammar_start(cfg->grammar);
    if (err == SP_OK)
        err = sp_ids_add(&s->tok, tok, n);
    if (err == SP_OK)
        err = sp_ids_add(&s->predicted, cfg->predicted, cfg->n_predicted);
    for (size_t i = 0; i < n && err == SP_OK; i++)
        sp_sampler_see(s->sampler, tok[i]);
    s->n_prompt = n;
    if (err == SP_OK)
        err = prepare_thinking(s);
    if (err == SP_OK)
        err = prepare_least(s);
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
    sp_grammar_put(s->cfg.grammar);
    sp_grammar_put(s->cfg.calls);
    sp_force_fini(&s->force);
    sp_mem_free(s->only);
    sp_mem_free(s->going);
    sp_mem_free(s->prompt_tok);
    sp_ids_fini(&s->tok);
    sp_ids_fini(&s->predicted);
    sp_buf_fini(&s->held);
    sp_mem_free(s->held_tok);
    sp_mem_free(s->held_mark);
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
    s->seq.n_dense = s->cfg.n_dense;
}

static sp_draft_text text_of(const sp_session *s)
{
    return (sp_draft_text){s->tok.id, s->tok.n, s->n_prompt};
}

/* On the step thread, where drafters live. */
static sp_err start_drafters(sp_session *s)
{
    const sp_draft_answer a = {.tenant = s->tenant, .conv = s->cfg.conv[0] ? s->cfg.conv : NULL, .is_private = s->cfg.is_private,
                               .predicted = s->predicted.id, .n_predicted = s->predicted.n};
    return s->cfg.drafts && !s->guesser.is_started ? sp_guesser_start(&s->guesser, s->cfg.drafts, s->cfg.drafters, &a) : SP_OK;
}

void sp_session_end(sp_session *s)
{
    sp_draft_text t = text_of(s);
    sp_guesser_end(&s->guesser, &t);
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
    SP_TRY(sp_kv_seq_init(&s->seq, pool, s->tenant, s->cfg.conv[0] ? s->cfg.conv : NULL));
    s->has_seq = true;
    set_eps(s);
    size_t n = s->cfg.n_splice ? s->cfg.splice[0].first + 1 : s->prompt_tok ? 1 : s->tok.n; /* whatever is cached, the answer is the same */
    sp_err err = sp_kv_seq_attach(&s->seq, pool, s->tok.id, n, fetch, &n_found);
    s->i_splice = 0;
    if (err != SP_OK)
        sp_session_preempt(s, pool);
    else if (s->tok.n == s->n_prompt)
        s->reused = (sp_session_source){.ram = s->seq.n_tok_ram, .ssd = s->seq.n_tok_ssd, .s3 = s->seq.n_tok_s3, .demoted = s->seq.n_tok_demoted};
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
    s->has_seq = true;
    s->i_splice = s->cfg.n_splice;
    set_eps(s);
    s->reused = (sp_session_source){.ram = s->n_prompt};
    return SP_OK;
}

void sp_session_preempt(sp_session *s, sp_kv_pool *pool)
{
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

size_t sp_session_stop(const sp_session *s)
{
    return s->stop_at;
}

bool sp_session_is_decoding(const sp_session *s)
{
    return s->tok.n > s->n_prompt && s->seq.n_tok + 1 == s->tok.n;
}

/* Guesses stay inside the page that is being filled: a full one is quantised, and others may use it. A step that may leave out attention
 * takes one token. */
size_t sp_session_guess_cap(const sp_session *s, size_t cap)
{
    size_t slot = (s->seq.n_tok + 1) % SP_PAGE_TOK, room = SP_PAGE_TOK - 1 - slot, last = s->cfg.max_tok - sp_session_out(s) - 1;
    if (!s->guesser.is_started || (s->cfg.eps > 0 && s->seq.n_tok + 1 + SP_DRAFT_MAX >= s->cfg.eps_from))
        return 0;
    cap = cap < room ? cap : room;
    return cap < last ? cap : last; /* the token behind the guesses is not one */
}

size_t sp_session_look(sp_session *s, const sp_guess_ask *ask)
{
    sp_draft_text t = text_of(s);
    return sp_guesser_look(&s->guesser, &t, ask);
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

sp_draft_id sp_session_drafter(const sp_session *s)
{
    return s->guesser.chosen;
}

bool sp_session_was_guessed(const sp_session *s)
{
    return s->guesser.was_right;
}

sp_model_span sp_session_span(sp_session *s, size_t n)
{
    size_t at = s->seq.n_tok;
    if (s->has_part && !is_part_ready(s))
        return (sp_model_span){&s->part, next_part(s)->alone.id + s->part.n_tok, n, 0};
    if (n > 1 && sp_session_is_decoding(s)) {
        s->ahead[0] = s->tok.id[at];
        memcpy(s->ahead + 1, s->guesser.draft[s->guesser.chosen].tok, (n - 1) * sizeof *s->ahead);
        return (sp_model_span){&s->seq, s->ahead, n, n};
    }
    return (sp_model_span){&s->seq, s->tok.id + at, n, s->prompt_tok ? n : at + n == s->tok.n};
}

bool sp_session_asks_all(const sp_session *s)
{
    return s->prompt_tok != NULL;
}

sp_err sp_session_note_prompt(sp_session *s, const float *logits, size_t n_row, size_t n, sp_event **out)
{
    size_t first = s->seq.n_tok - n, n_top = (size_t)s->cfg.n_logprobs;
    *out = NULL;
    for (size_t i = first; i < first + n && i + 1 < s->n_prompt; i++) { /* position i says how likely what follows it is */
        sp_event_tok *t = &s->prompt_tok[i + 1];
        *t = (sp_event_tok){.id = s->tok.id[i + 1], .n_top = n_top};
        sp_sample_logprobs(logits + (i - first) * n_row, sp_tok_count(s->t), t->id, &t->logprob, t->top, n_top);
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

sp_err sp_session_part(sp_session *s, sp_kv_pool *pool, bool fetch, size_t *n_ready)
{
    const sp_splice *p = next_part(s);
    sp_err err = SP_OK;
    *n_ready = 0;
    if (!p || p->first != s->seq.n_tok)
        return SP_OK;
    if (!s->has_part) {
        SP_TRY(sp_kv_seq_init(&s->part, pool, s->tenant, NULL));
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

size_t sp_session_thought(const sp_session *s)
{
    return s->n_thought;
}

const sp_dev_cert *sp_session_cert(const sp_session *s)
{
    return &s->cert;
}

sp_session_source sp_session_reused(const sp_session *s)
{
    return s->reused;
}

static sp_err note_logprobs(sp_session *s, const float *logits, uint32_t id)
{
    if (s->cfg.n_logprobs < 0)
        return SP_OK;
    if (s->n_held_tok == s->cap_held_tok) {
        size_t cap = s->cap_held_tok * 2 + 4;
        sp_event_tok *p = sp_mem_grow(s->held_tok, cap * sizeof *p);
        if (!p)
            return SP_NOMEM;
        s->held_tok = p;
        s->cap_held_tok = cap;
    }
    sp_event_tok *e = &s->held_tok[s->n_held_tok++];
    e->id = id;
    e->n_top = (size_t)s->cfg.n_logprobs;
    sp_sample_logprobs(logits, sp_tok_count(s->t), id, &e->logprob, e->top, e->n_top);
    return SP_OK;
}

/* Where the first stop string begins in the held text, or held.len; *which: its place in the list, from 1. */
static size_t find_stop(const sp_session *s, size_t *which)
{
    size_t first = s->held.len;
    *which = 0;
    for (size_t i = 0; i < s->cfg.n_stop && s->held.len; i++) {
        const char *hit = memmem(s->held.p, s->held.len, s->cfg.stop[i], strlen(s->cfg.stop[i]));
        if (hit && (size_t)(hit - s->held.p) < first) {
            first = (size_t)(hit - s->held.p);
            *which = i + 1;
        }
    }
    return first;
}

/* Bytes at the end of the held text that must wait: the longest beginning of a stop string, and a
 * character still open. */
static size_t wait_bytes(const sp_session *s)
{
    size_t wait = sp_utf8_tail(sp_buf_str(&s->held), s->held.len);
    for (size_t i = 0; i < s->cfg.n_stop; i++) {
        size_t n = strlen(s->cfg.stop[i]);
        for (size_t k = n - 1 < s->held.len ? n - 1 : s->held.len; k > wait; k--) {
            if (memcmp(s->held.p + s->held.len - k, s->cfg.stop[i], k) == 0) {
                wait = k;
                break;
            }
        }
    }
    return wait;
}

/* Notes that the held text from at on is a control token's. */
static sp_err note_mark(sp_session *s, size_t at)
{
    if (s->n_held_mark == s->cap_held_mark) {
        size_t cap = s->cap_held_mark * 2 + 4;
        sp_event_mark *p = sp_mem_grow(s->held_mark, cap * sizeof *p);
        if (!p)
            return SP_NOMEM;
        s->held_mark = p;
        s->cap_held_mark = cap;
    }
    s->held_mark[s->n_held_mark++] = (sp_event_mark){at, s->held.len - at};
    return SP_OK;
}

/* Moves the marks of the first n bytes into an event; the others stay with theirs. */
static sp_err give_marks(sp_session *s, sp_event *e, size_t n)
{
    size_t k = 0;
    while (k < s->n_held_mark && s->held_mark[k].at < n)
        k++;
    e->mark = k ? sp_mem_array(k, sizeof *e->mark) : NULL;
    if (k && !e->mark)
        return SP_NOMEM;
    e->n_mark = k;
    if (k)
        memcpy(e->mark, s->held_mark, k * sizeof *e->mark);
    for (size_t i = k; i < s->n_held_mark; i++)
        s->held_mark[i - k] = (sp_event_mark){s->held_mark[i].at - n, s->held_mark[i].n};
    s->n_held_mark -= k;
    return SP_OK;
}

/* Moves n bytes of held text, and the logprobs noted so far, into an event. A control token is never cut. */
static sp_err give(sp_session *s, size_t n, sp_event **out)
{
    *out = NULL;
    for (size_t i = 0; i < s->n_held_mark; i++)
        if (s->held_mark[i].at < n && s->held_mark[i].at + s->held_mark[i].n > n)
            n = s->held_mark[i].at;
    if (n == 0)
        return SP_OK;
    sp_event *e = sp_mem_alloc(sizeof *e);
    if (!e)
        return SP_NOMEM;
    e->kind = SP_EVENT_TEXT;
    sp_buf_put(&e->text, s->held.p, n);
    if (e->text.failed || give_marks(s, e, n) != SP_OK) {
        sp_event_free(e);
        return SP_NOMEM;
    }
    sp_buf_drop(&s->held, n);
    e->tok = s->held_tok;
    e->n_tok = s->n_held_tok;
    s->held_tok = NULL;
    s->n_held_tok = s->cap_held_tok = 0;
    *out = e;
    return SP_OK;
}

/* --- grammars --------------------------------------------------------------------------------- */

/* The grammar that holds just now; NULL: none. */
static sp_grammar *binding(const sp_session *s)
{
    return s->in_call ? s->cfg.calls : s->cfg.grammar;
}

/* A call begins with these bytes behind its trigger, unless the grammar knows none that does. */
static sp_err enter_call(sp_session *s, const char *p, size_t n)
{
    s->at = sp_grammar_start(s->cfg.calls);
    SP_TRY(sp_grammar_step(s->cfg.calls, &s->at, p, n));
    s->in_call = s->at.state != 0;
    s->n_tail = 0;
    return SP_OK;
}

/* Looks for the trigger in what the answer has become by a token more. */
static sp_err watch_calls(sp_session *s, sp_str piece)
{
    size_t n = strlen(s->cfg.trigger), before = s->n_tail;
    if (!s->cfg.calls || s->thinking)
        return SP_OK;
    if (n == 0)
        return sp_session_out(s) == s->n_thought + 1 ? enter_call(s, piece.p, piece.n) : SP_OK;
    if (piece.n > sizeof s->tail - n) /* a token that long is no mark */
        return SP_OK;
    if (before > n - 1) { /* only the last bytes can begin one */
        memmove(s->tail, s->tail + before - (n - 1), n - 1);
        before = n - 1;
    }
    memcpy(s->tail + before, piece.p, piece.n);
    s->n_tail = before + piece.n;
    const char *hit = memmem(s->tail, s->n_tail, s->cfg.trigger, n);
    return hit ? enter_call(s, hit + n, s->n_tail - (size_t)(hit + n - s->tail)) : SP_OK;
}

/* A token more. *ends: nothing can follow. */
static sp_err step_grammar(sp_session *s, uint32_t id, bool *ends)
{
    sp_str p = sp_tok_piece(s->t, id);
    sp_grammar *g = binding(s);
    *ends = false;
    if (!g) {
        SP_TRY(watch_calls(s, p));
        g = binding(s);
    } else {
        SP_TRY(sp_grammar_step(g, &s->at, p.p, p.n));
    }
    if (!g || !sp_grammar_must_end(g, s->at))
        return SP_OK;
    *ends = !s->in_call || s->cfg.one_call;
    s->in_call = false;
    return SP_OK;
}

/* Which tokens may come next: NULL, or a byte for each. */
static sp_err find_allowed(sp_session *s, const uint8_t **allowed)
{
    *allowed = sp_session_out(s) < s->cfg.min_tok ? s->going : NULL;
    if (binding(s))
        return sp_grammar_mask(binding(s), s->at, allowed);
    if (s->thinking && s->n_thought >= s->cfg.think_tok)
        *allowed = s->only;
    return SP_OK;
}

/* The answer's text has one token more: does it end here, and how much of the text may leave? */
static sp_err check_end(sp_session *s, uint32_t id, size_t *n_give, bool *done, sp_finish *finish)
{
    size_t n_out = sp_session_out(s), which;
    bool held = s->cfg.watch_tok && !s->is_trusted && s->n_watched + 1 < s->cfg.watch_tok;
    bool ends;
    *n_give = s->held.len;
    *done = true;
    SP_TRY(step_grammar(s, id, &ends));
    if (ends)
        return SP_OK;
    bool may_stop = n_out >= s->cfg.min_tok;
    size_t stop = may_stop ? find_stop(s, &which) : s->held.len;
    if (stop < s->held.len) {
        s->stop_at = which;
        *n_give = stop + (s->cfg.keep_stop ? strlen(s->cfg.stop[which - 1]) : 0);
        return SP_OK;
    }
    if (n_out >= s->cfg.max_tok) {
        *finish = SP_FINISH_LENGTH;
        return SP_OK;
    }
    *done = false;
    *n_give = held ? 0 : s->held.len - (may_stop ? wait_bytes(s) : sp_utf8_tail(sp_buf_str(&s->held), s->held.len));
    return SP_OK;
}

/* Puts a token behind the answer. */
static sp_err push_token(sp_session *s, const float *logits, uint32_t id)
{
    SP_TRY(note_logprobs(s, logits, id));
    uint32_t prev = s->tok.n ? s->tok.id[s->tok.n - 1] : SP_TOK_NONE;
    SP_TRY(sp_ids_push(&s->tok, id));
    sp_draft_text text = text_of(s);
    if (s->guesser.is_started)
        sp_guesser_note(&s->guesser, &text);
    size_t at = s->held.len;
    sp_tok_decode_after(s->t, &s->held, prev, id, s->cfg.marks || s->cfg.ignore_end || is_stop_id(s, id));
    if (s->held.failed)
        return SP_NOMEM;
    return s->cfg.marks && s->held.len > at && sp_tok_is_control(s->t, id) ? note_mark(s, at) : SP_OK;
}

/* The token that the grammar leaves alone, or SP_TOK_NONE. */
static sp_err find_forced(sp_session *s, uint32_t *id)
{
    *id = SP_TOK_NONE;
    return binding(s) ? sp_force_look(&s->force, id, binding(s), s->at, s->t) : SP_OK;
}

/* Tokens that must come are put without a forward pass of their own, where nothing is asked of each one's logits, and where a step
 * that may leave out attention does not take one token at a time. */
static sp_err bring_forced(sp_session *s, size_t *n_give, bool *done, sp_finish *finish)
{
    uint32_t id;
    bool may = (s->cfg.grammar || s->cfg.calls) && s->cfg.n_logprobs < 0 && (!s->cfg.watch_tok || s->is_trusted);
    for (; may && !*done; s->n_brought++, s->n_forced++) {
        SP_TRY(find_forced(s, &id));
        if (id == SP_TOK_NONE || is_last(s, id) || (s->cfg.eps > 0 && s->tok.n + 1 >= s->cfg.eps_from))
            break;
        sp_force_take(&s->force);
        sp_sampler_take(s->sampler, id);
        note_thinking(s, id);
        SP_TRY(push_token(s, NULL, id));
        *done = true;
        SP_TRY(check_end(s, id, n_give, done, finish));
    }
    return SP_OK;
}

static sp_err choose_token(sp_session *s, const float *logits, sp_event **out, bool *done, sp_finish *finish)
{
    uint32_t id;
    size_t n_give;
    const uint8_t *allowed;
    *done = true;
    *finish = SP_FINISH_LENGTH;
    *out = NULL;
    if (s->cfg.no_answer)
        return SP_OK;
    s->n_brought = 0;
    if (s->guesser.is_started)
        sp_window_see(&s->guesser.window, logits, sp_tok_count(s->t));
    SP_TRY(find_forced(s, &id));
    if (id != SP_TOK_NONE) {
        sp_force_take(&s->force);
        sp_sampler_take(s->sampler, id);
    } else {
        SP_TRY(find_allowed(s, &allowed));
        SP_TRY(sp_sampler_next(s->sampler, &id, logits, allowed));
    }
    note_thinking(s, id);
    *finish = SP_FINISH_STOP;
    if (s->cfg.watch_tok && !s->is_trusted) {
        float logprob;
        sp_top top;
        sp_sample_logprobs(logits, sp_tok_count(s->t), id, &logprob, &top, 1);
        s->watched += (double)top.logprob; /* of the likeliest: how sure the model is, whatever was drawn */
    }
    if (is_last(s, id)) {
        if (s->cfg.keep_stop && is_stop_id(s, id))
            SP_TRY(push_token(s, logits, id));
        return give(s, s->held.len, out);
    }
    SP_TRY(push_token(s, logits, id));
    SP_TRY(check_end(s, id, &n_give, done, finish));
    SP_TRY(bring_forced(s, &n_give, done, finish));
    return give(s, n_give, out);
}

static sp_err accept(sp_session *s, const float *logits, sp_event **out, bool *done, sp_finish *finish)
{
    SP_TRY(choose_token(s, logits, out, done, finish));
    if (!s->cfg.watch_tok || s->is_trusted)
        return SP_OK;
    s->n_watched++;
    if (!*done && s->n_watched < s->cfg.watch_tok)
        return SP_OK;
    s->is_trusted = true;
    if (s->watched / (double)s->n_watched >= s->cfg.watch_least)
        return SP_OK;
    sp_event_free(*out);
    *out = NULL;
    *done = true;
    *finish = SP_FINISH_UNSURE;
    return SP_OK;
}

sp_err sp_session_accept(sp_session *s, const float *logits, sp_event **out, bool *done, sp_finish *finish, sp_diag *d)
{
    sp_err err = accept(s, logits, out, done, finish);
    if (err == SP_FORMAT)
        return SP_FAIL(d, err, binding(s) ? "no token of the vocabulary continues the answer within its schema" : "the model gave no finite logit");
    if (err == SP_LIMIT && binding(s))
        return SP_FAIL(d, SP_INVAL, SP_GRAMMAR_LIMIT);
    return err == SP_OK ? SP_OK : SP_FAIL(d, err, "choosing the next token");
}
