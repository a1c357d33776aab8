/* The controller that holds an answer to grammars: the whole answer to a form, calls of tools
 * within a free answer, or an answer that is either a form or calls. */
#include "gen/control_int.h"

#include "base/mem.h"

#include <string.h>

/* A model's thoughts are free. */
static bool is_bound(const sp_control *c)
{
    return !c->thinking && (c->grammar.form.holds || c->grammar.call.holds);
}

bool sp_control_is_bound(const sp_control *c)
{
    return is_bound(c);
}

static sp_err start(sp_control *c, const uint32_t *tok, size_t n)
{
    sp_grammar *form = c->cfg->grammar, *calls = c->cfg->calls;
    (void)tok;
    (void)n;
    c->grammar.form = (sp_grammar_hold){form, form ? sp_grammar_start(form) : c->grammar.form.at,
                                        form != NULL};
    c->grammar.call = (sp_grammar_hold){calls, form && calls ? sp_grammar_start(calls)
                                                             : c->grammar.call.at,
                                        form && calls};
    return SP_OK;
}

/* --- what may come ---------------------------------------------------------------------------- */

static bool is_mark(const sp_control *c, uint32_t id)
{
    for (size_t i = 0; i < c->cfg->n_mark; i++)
        if (c->cfg->mark[i] == id)
            return true;
    return false;
}

/* The place behind a token. */
static sp_err step(const sp_control *c, sp_grammar *g, sp_grammar_at *at, uint32_t id)
{
    sp_str p = sp_tok_piece(c->t, id);
    if (is_mark(c, id))
        SP_TRY(sp_grammar_step(g, at, SP_GRAMMAR_MARK, 1));
    return sp_grammar_step(g, at, p.p, p.n);
}

static sp_err continues(bool *out, const sp_control *c, const sp_grammar_hold *h, uint32_t id)
{
    sp_grammar_at at = h->at;
    *out = false;
    if (!h->holds)
        return SP_OK;
    SP_TRY(step(c, h->grammar, &at, id));
    *out = at.state != 0;
    return SP_OK;
}

/* The controller's own mask, which begins as a copy of *allowed. */
static sp_err own_mask(sp_control *c, const uint8_t **allowed)
{
    sp_grammar_control *g = &c->grammar;
    size_t n = sp_tok_count(c->t);
    if (*allowed == g->merged)
        return SP_OK;
    if (!g->merged && !(g->merged = sp_mem_alloc(n)))
        return SP_NOMEM;
    memcpy(g->merged, *allowed, n);
    *allowed = g->merged;
    return SP_OK;
}

/* Masks know no control tokens: those that the format of calls is written with are tried here. */
static sp_err allow_marks(sp_control *c, const uint8_t **allowed)
{
    for (size_t i = 0; i < c->cfg->n_mark; i++) {
        bool in_form, in_call;
        uint32_t id = c->cfg->mark[i];
        SP_TRY(continues(&in_form, c, &c->grammar.form, id));
        SP_TRY(continues(&in_call, c, &c->grammar.call, id));
        if (!in_form && !in_call)
            continue;
        SP_TRY(own_mask(c, allowed));
        c->grammar.merged[id] = 1;
    }
    return SP_OK;
}

static sp_err allow(sp_control *c, size_t n_out, const uint8_t **allowed)
{
    sp_grammar_control *g = &c->grammar;
    const uint8_t *more;
    (void)n_out;
    if (!is_bound(c))
        return SP_OK;
    const sp_grammar_hold *h = g->form.holds ? &g->form : &g->call;
    SP_TRY(sp_grammar_mask(h->grammar, h->at, allowed));
    if (g->form.holds && g->call.holds) {
        SP_TRY(own_mask(c, allowed));
        SP_TRY(sp_grammar_mask(g->call.grammar, g->call.at, &more));
        for (size_t i = 0, n = sp_tok_count(c->t); i < n; i++)
            g->merged[i] |= more[i];
    }
    return allow_marks(c, allowed);
}

/* Nothing is forced while the answer may still become the one or the other. */
static sp_err force(sp_control *c, uint32_t *id)
{
    sp_grammar_control *g = &c->grammar;
    if (!is_bound(c) || (g->form.holds && g->call.holds))
        return SP_OK;
    const sp_grammar_hold *h = g->form.holds ? &g->form : &g->call;
    const sp_force_ask ask = {h->grammar, h->at, c->t, c->cfg->mark, c->cfg->n_mark};
    return sp_force_look(&g->force, id, &ask);
}

void sp_control_take_forced(sp_control *c)
{
    sp_force_take(&c->grammar.force);
}

/* --- what has come ---------------------------------------------------------------------------- */

/* A call begins with these bytes behind its trigger, unless the grammar knows none that does. */
static sp_err enter_call(sp_control *c, const char *p, size_t n)
{
    sp_grammar_control *g = &c->grammar;
    g->call.at = sp_grammar_start(g->call.grammar);
    SP_TRY(sp_grammar_step(g->call.grammar, &g->call.at, p, n));
    g->call.holds = g->call.at.state != 0;
    g->n_tail = 0;
    return SP_OK;
}

/* Looks for the trigger in what the answer has become by a token more. */
static sp_err watch_calls(sp_control *c, size_t n_out, sp_str piece)
{
    sp_grammar_control *g = &c->grammar;
    const char *trigger = c->cfg->trigger;
    size_t n = strlen(trigger), before = g->n_tail;
    if (!c->cfg->calls || c->cfg->grammar || c->thinking)
        return SP_OK;
    if (n == 0)
        return n_out == c->n_thought + 1 ? enter_call(c, piece.p, piece.n) : SP_OK;
    if (piece.n > sizeof g->tail - n) /* a token that long is no mark */
        return SP_OK;
    if (before > n - 1) { /* only the last bytes can begin one */
        memmove(g->tail, g->tail + before - (n - 1), n - 1);
        before = n - 1;
    }
    memcpy(g->tail + before, piece.p, piece.n);
    g->n_tail = before + piece.n;
    const char *hit = memmem(g->tail, g->n_tail, trigger, n);
    return hit ? enter_call(c, hit + n, g->n_tail - (size_t)(hit + n - g->tail)) : SP_OK;
}

/* Of a form and calls, that one holds on which the token continues; a grammar alone always does. */
static sp_err follow(sp_control *c, uint32_t id)
{
    sp_grammar_control *g = &c->grammar;
    bool both = g->form.holds && g->call.holds;
    sp_grammar_hold *const all[] = {&g->form, &g->call};
    for (size_t i = 0; i < 2; i++) {
        if (!all[i]->holds)
            continue;
        SP_TRY(step(c, all[i]->grammar, &all[i]->at, id));
        all[i]->holds = !both || all[i]->at.state != 0;
    }
    return SP_OK;
}

static bool is_complete(const sp_grammar_hold *h)
{
    return !h->holds || sp_grammar_must_end(h->grammar, h->at);
}

static sp_err took(sp_control *c, const sp_control_now *now, sp_verdict *v)
{
    sp_grammar_control *g = &c->grammar;
    const sp_session_cfg *cfg = c->cfg;
    if (c->thinking || (c->only && (now->id == cfg->think_open || now->id == cfg->think_close)))
        return SP_OK;
    if (is_bound(c))
        SP_TRY(follow(c, now->id));
    else
        SP_TRY(watch_calls(c, now->n_out, sp_tok_piece(c->t, now->id)));
    if (!is_bound(c) || !is_complete(&g->form) || !is_complete(&g->call))
        return SP_OK;
    bool is_call = !g->form.holds;
    v->ends = !is_call || (!cfg->is_loose && (cfg->grammar || cfg->one_call));
    g->call.holds = false;
    return SP_OK;
}

const sp_control_kind sp_control_grammar = {
    .name = "grammar", .start = start, .allow = allow, .force = force, .took = took};
