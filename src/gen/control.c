#include "gen/control_int.h"

#include "base/mem.h"
#include "base/utf8.h"

#include <string.h>

/* --- least --------------------------------------------------------------------------------------
 */

bool sp_control_is_stop_id(const sp_session_cfg *cfg, uint32_t id)
{
    for (size_t i = 0; i < cfg->n_stop_id; i++)
        if (cfg->stop_id[i] == id)
            return true;
    return false;
}

bool sp_control_is_last(const sp_session_cfg *cfg, const sp_tok *t, uint32_t id)
{
    return sp_control_is_stop_id(cfg, id) || (!cfg->ignore_end && sp_tok_is_end(t, id));
}

static sp_err make_going(sp_control *c)
{
    size_t n_vocab = sp_tok_count(c->t);
    if (c->going)
        return SP_OK;
    c->going = sp_mem_alloc(n_vocab);
    for (size_t i = 0; c->going && i < n_vocab; i++)
        c->going[i] = !sp_control_is_last(c->cfg, c->t, (uint32_t)i);
    return c->going ? SP_OK : SP_NOMEM;
}

static sp_err start_least(sp_control *c, const uint32_t *tok, size_t n)
{
    (void)tok;
    (void)n;
    return c->cfg->min_tok ? make_going(c) : SP_OK;
}

/* An answer that has a form does not end in its thoughts either. */
static sp_err allow_least(sp_control *c, size_t n_out, const uint8_t **allowed)
{
    if (n_out < c->cfg->min_tok || (c->thinking && c->cfg->grammar))
        *allowed = c->going;
    return SP_OK;
}

/* --- thinking -----------------------------------------------------------------------------------
 */

/* The prompt may end inside: some templates open it. */
static sp_err start_thinking(sp_control *c, const uint32_t *tok, size_t n)
{
    if (c->cfg->think_open == c->cfg->think_close)
        return SP_OK;
    c->only = sp_mem_alloc(sp_tok_count(c->t));
    if (!c->only)
        return SP_NOMEM;
    c->only[c->cfg->think_close] = 1;
    for (size_t i = n; i-- > 0 && tok[i] != c->cfg->think_close && !c->thinking;)
        c->thinking = tok[i] == c->cfg->think_open;
    return c->thinking && c->cfg->grammar ? make_going(c) : SP_OK;
}

static sp_err allow_thinking(sp_control *c, size_t n_out, const uint8_t **allowed)
{
    (void)n_out;
    if (c->thinking && (c->n_thought >= c->cfg->think_tok || c->is_thought_out))
        *allowed = c->only;
    return SP_OK;
}

static sp_err took_thinking(sp_control *c, const sp_control_now *now, sp_verdict *v)
{
    (void)v;
    if (!c->only)
        return SP_OK;
    c->n_thought += c->thinking && now->id != c->cfg->think_close;
    c->thinking = now->id == c->cfg->think_open || (c->thinking && now->id != c->cfg->think_close);
    return SP_OK;
}

/* --- stop ---------------------------------------------------------------------------------------
 */

/* Where the first stop string begins in the held text, or its length; *which: its place in the
 * list, from 1. */
static size_t find_stop(const sp_session_cfg *cfg, const sp_buf *held, size_t *which)
{
    size_t first = held->len;
    *which = 0;
    for (size_t i = 0; i < cfg->n_stop && held->len; i++) {
        const char *hit = memmem(held->p, held->len, cfg->stop[i], strlen(cfg->stop[i]));
        if (hit && (size_t)(hit - held->p) < first) {
            first = (size_t)(hit - held->p);
            *which = i + 1;
        }
    }
    return first;
}

/* Bytes at the end of the held text that must wait: the longest beginning of a stop string, and a
 * character still open. */
static size_t wait_bytes(const sp_session_cfg *cfg, const sp_buf *held)
{
    size_t wait = sp_utf8_tail(sp_buf_str(held), held->len);
    for (size_t i = 0; i < cfg->n_stop; i++) {
        size_t n = strlen(cfg->stop[i]);
        for (size_t k = n - 1 < held->len ? n - 1 : held->len; k > wait; k--) {
            if (memcmp(held->p + held->len - k, cfg->stop[i], k) == 0) {
                wait = k;
                break;
            }
        }
    }
    return wait;
}

static sp_err took_stop(sp_control *c, const sp_control_now *now, sp_verdict *v)
{
    size_t which;
    if (now->n_out < c->cfg->min_tok) {
        v->n_give =
            now->held->text.len - sp_utf8_tail(sp_buf_str(&now->held->text), now->held->text.len);
        return SP_OK;
    }
    size_t stop = find_stop(c->cfg, &now->held->text, &which);
    if (!which) {
        v->n_give = now->held->text.len - wait_bytes(c->cfg, &now->held->text);
        return SP_OK;
    }
    v->ends = true;
    v->stop_at = which;
    v->n_give = stop + (c->cfg->keep_stop ? strlen(c->cfg->stop[which - 1]) : 0);
    return SP_OK;
}

/* --- length -------------------------------------------------------------------------------------
 */

static sp_err took_length(sp_control *c, const sp_control_now *now, sp_verdict *v)
{
    if (now->n_out < c->cfg->max_tok)
        return SP_OK;
    *v = (sp_verdict){.ends = true, .finish = SP_FINISH_LENGTH, .n_give = now->held->text.len};
    return SP_OK;
}

/* --- watch --------------------------------------------------------------------------------------
 */

static sp_err start_watch(sp_control *c, const uint32_t *tok, size_t n)
{
    (void)tok;
    (void)n;
    SP_ASSERT(!c->cfg->watch_all || (c->cfg->watch_tok && c->cfg->watch_tok <= SP_WATCH_TOK));
    c->is_trusted = c->cfg->watch_tok == 0;
    return SP_OK;
}

bool sp_control_looks(const sp_control *c)
{
    return c->cfg->doubt.n_tok || c->learned || !c->is_trusted || c->cfg->watch_all;
}

void sp_control_see(sp_control *c, const float *logits)
{
    if (!sp_control_looks(c))
        return;
    sp_control_look(c, logits);
    sp_learned_see(c->learned, logits, sp_tok_count(c->t));
    float logprob;
    sp_top top;
    if (c->is_trusted && !c->cfg->watch_all)
        return;
    sp_sample_logprobs(logits, sp_tok_count(c->t), 0, &logprob, &top, 1);
    c->watched +=
        (double)top.logprob; /* of the likeliest: how sure the model is, whatever was drawn */
    if (c->cfg->watch_all) {
        float *late = &c->late[c->n_watched % c->cfg->watch_tok];
        c->watched -= c->n_watched < c->cfg->watch_tok ? 0 : (double)*late;
        *late = top.logprob;
    }
    c->n_watched++;
}

static sp_err took_watch(sp_control *c, const sp_control_now *now, sp_verdict *v)
{
    (void)now;
    if (!c->is_trusted && c->n_watched < c->cfg->watch_tok)
        v->n_give = 0;
    return SP_OK;
}

bool sp_control_doubts(sp_control *c, bool done)
{
    size_t n = c->n_watched < c->cfg->watch_tok ? c->n_watched : c->cfg->watch_tok;
    if ((c->is_trusted && !c->cfg->watch_all) || (!done && n < c->cfg->watch_tok))
        return false;
    c->is_trusted = true;
    return n && c->watched / (double)n < c->cfg->watch_least;
}

/* --- the chain ----------------------------------------------------------------------------------
 */

static const sp_control_kind least = {.name = "least", .start = start_least, .allow = allow_least},
                             thinking = {.name = "thinking",
                                         .start = start_thinking,
                                         .allow = allow_thinking,
                                         .took = took_thinking},
                             stop = {.name = "stop", .took = took_stop},
                             length = {.name = "length", .took = took_length},
                             watch = {.name = "watch", .start = start_watch, .took = took_watch};

static const sp_control_kind *const chain[] = {
    &least,  &thinking, &sp_control_grammar, &stop, &sp_control_doubt, &sp_control_rules,
    &length, &watch};
enum { N_CHAIN = sizeof chain / sizeof chain[0] };

sp_err sp_control_new(sp_control **out, const sp_session_cfg *cfg, const sp_tok *t,
                      const uint32_t *tok, size_t n)
{
    sp_control *c = sp_mem_alloc(sizeof *c);
    sp_err err = c ? SP_OK : SP_NOMEM;
    if (c)
        *c = (sp_control){.cfg = cfg, .t = t};
    for (size_t i = 0; i < N_CHAIN && err == SP_OK; i++)
        err = chain[i]->start ? chain[i]->start(c, tok, n) : SP_OK;
    if (err == SP_OK)
        *out = c;
    else
        sp_control_free(c);
    return err;
}

void sp_control_free(sp_control *c)
{
    if (!c)
        return;
    sp_force_fini(&c->grammar.force);
    sp_mem_free(c->grammar.merged);
    sp_rules_free(c->rules);
    sp_doubt_free(c->doubt);
    sp_learned_free(c->learned);
    sp_mem_free(c->going);
    sp_mem_free(c->only);
    sp_mem_free(c);
}

sp_err sp_control_allow(sp_control *c, size_t n_out, const uint8_t **allowed)
{
    *allowed = NULL;
    for (size_t i = 0; i < N_CHAIN; i++)
        if (chain[i]->allow)
            SP_TRY(chain[i]->allow(c, n_out, allowed));
    return SP_OK;
}

sp_err sp_control_force(sp_control *c, uint32_t *id)
{
    *id = SP_TOK_NONE;
    for (size_t i = 0; i < N_CHAIN; i++)
        if (chain[i]->force)
            SP_TRY(chain[i]->force(c, id));
    return SP_OK;
}

sp_err sp_control_took(sp_control *c, const sp_control_now *now, sp_verdict *v)
{
    *v = (sp_verdict){.finish = SP_FINISH_STOP, .n_give = now->held->text.len};
    for (size_t i = 0; i < N_CHAIN && !v->ends; i++)
        if (chain[i]->took)
            SP_TRY(chain[i]->took(c, now, v));
    return SP_OK;
}

bool sp_control_may_bring(const sp_control *c)
{
    return (c->cfg->grammar || c->cfg->calls) && c->cfg->n_logprobs < 0 && c->is_trusted;
}

bool sp_control_is_thinking(const sp_control *c)
{
    return c->thinking && !c->is_thought_out;
}

size_t sp_control_thought(const sp_control *c)
{
    return c->n_thought;
}
