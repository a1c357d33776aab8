/* The controller that holds an answer to a grammar: all of it, or calls of tools within it. */
#include "gen/control_int.h"

#include <string.h>

/* The grammar that holds just now; NULL: none. */
static sp_grammar *binding(const sp_control *c)
{
    return c->grammar.in_call ? c->cfg->calls : c->cfg->grammar;
}

bool sp_control_is_bound(const sp_control *c)
{
    return binding(c) != NULL;
}

static sp_err start(sp_control *c, const uint32_t *tok, size_t n)
{
    (void)tok;
    (void)n;
    if (c->cfg->grammar)
        c->grammar.at = sp_grammar_start(c->cfg->grammar);
    return SP_OK;
}

static sp_err allow(sp_control *c, size_t n_out, const uint8_t **allowed)
{
    (void)n_out;
    return binding(c) ? sp_grammar_mask(binding(c), c->grammar.at, allowed) : SP_OK;
}

static sp_err force(sp_control *c, uint32_t *id)
{
    return binding(c) ? sp_force_look(&c->grammar.force, id, binding(c), c->grammar.at, c->t)
                      : SP_OK;
}

void sp_control_take_forced(sp_control *c)
{
    sp_force_take(&c->grammar.force);
}

/* A call begins with these bytes behind its trigger, unless the grammar knows none that does. */
static sp_err enter_call(sp_control *c, const char *p, size_t n)
{
    sp_grammar_control *g = &c->grammar;
    g->at = sp_grammar_start(c->cfg->calls);
    SP_TRY(sp_grammar_step(c->cfg->calls, &g->at, p, n));
    g->in_call = g->at.state != 0;
    g->n_tail = 0;
    return SP_OK;
}

/* Looks for the trigger in what the answer has become by a token more. */
static sp_err watch_calls(sp_control *c, size_t n_out, sp_str piece)
{
    sp_grammar_control *g = &c->grammar;
    const char *trigger = c->cfg->trigger;
    size_t n = strlen(trigger), before = g->n_tail;
    if (!c->cfg->calls || c->thinking)
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

static sp_err took(sp_control *c, const sp_control_now *now, sp_verdict *v)
{
    sp_str p = sp_tok_piece(c->t, now->id);
    sp_grammar *g = binding(c);
    if (!g) {
        SP_TRY(watch_calls(c, now->n_out, p));
        g = binding(c);
    } else {
        SP_TRY(sp_grammar_step(g, &c->grammar.at, p.p, p.n));
    }
    if (!g || !sp_grammar_must_end(g, c->grammar.at))
        return SP_OK;
    v->ends = !c->grammar.in_call || c->cfg->one_call;
    c->grammar.in_call = false;
    return SP_OK;
}

const sp_control_kind sp_control_grammar = {
    .name = "grammar", .start = start, .allow = allow, .force = force, .took = took};
