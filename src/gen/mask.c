/* Masks: which tokens keep an answer inside its grammar.
 *
 * The vocabulary is walked as a tree, so that what tokens have in common is followed once, and what
 * has died takes all that begins with it along. A state's mask is made with nothing known of what
 * is below it: a token that leaves the state's own rules is not decided there but asked about in
 * each place. What is kept is bits; a place's mask is bytes: the last one is kept, and of places
 * that took a walk the bits, for they come again. */
#include "gen/grammar_int.h"

#include "base/mem.h"

#include <string.h>

void gr_mask_free(gr_mask *m)
{
    if (!m)
        return;
    sp_mem_free(m->bits);
    sp_mem_free(m->ask);
    sp_mem_free(m);
}

/* --- of a state ------------------------------------------------------------------------------- */

/* Walks the whole tree from a state above an unknown stack. ask has room for every node. */
static sp_err walk_open(sp_grammar *g, gr_mask *m, uint32_t *ask)
{
    const gr_vocab *v = g->vocab;
    sp_grammar_at *at = g->level;
    g->deepest = 0;
    at[0] = (sp_grammar_at){m->state, 0};
    for (size_t i = 0; i < v->n_node;) {
        sp_grammar_at *to = &at[v->level[i]];
        *to = to[-1];
        SP_TRY(gr_step_byte(g, to, v->byte[i]));
        bool unknown = to->state && to->below == 0 && g->state[to->state].is_over;
        if (unknown)
            ask[m->n_ask++] = (uint32_t)i;
        if (unknown || !to->state) {
            i = v->end[i];
            continue;
        }
        for (size_t k = v->first[i]; k < v->first[i + 1]; k++, m->count++)
            m->bits[v->id[k] >> 3] |= (uint8_t)(1u << (v->id[k] & 7));
        i++;
    }
    m->most = g->deepest;
    return SP_OK;
}

static sp_err make_mask(sp_grammar *g, uint32_t state, gr_mask **out)
{
    gr_mask *m = sp_mem_alloc(sizeof *m);
    uint32_t *ask = sp_mem_array(g->vocab->n_node + 1, sizeof *ask);
    sp_err err = SP_NOMEM;
    if (m) {
        m->state = state;
        m->bits = sp_mem_alloc(sp_tok_count(g->vocab->tok) / 8 + 1);
    }
    if (m && m->bits && ask)
        err = walk_open(g, m, ask);
    if (err == SP_OK) {
        m->ask = sp_mem_array(m->n_ask + 1, sizeof *m->ask);
        err = m->ask ? SP_OK : SP_NOMEM;
    }
    if (err == SP_OK) {
        memcpy(m->ask, ask, m->n_ask * sizeof *ask);
        *out = m;
    } else {
        gr_mask_free(m);
    }
    sp_mem_free(ask);
    return err;
}

/* The state keeps its mask; of GR_MASKS masks the oldest makes room. */
static void keep(sp_grammar *g, gr_mask *m)
{
    gr_mask **place = &g->mask[g->n_mask++ % GR_MASKS];
    if (*place)
        g->state[(*place)->state].mask = NULL;
    gr_mask_free(*place);
    *place = m;
    g->state[m->state].mask = m;
}

/* --- of a place ------------------------------------------------------------------------------- */

/* Walks what begins with node i, up to `end`; the place before it is that of its level. */
static sp_err walk_place(sp_grammar *g, size_t i, size_t end)
{
    const gr_vocab *v = g->vocab;
    sp_grammar_at *at = g->level;
    while (i < end) {
        sp_grammar_at *to = &at[v->level[i]];
        *to = to[-1];
        SP_TRY(gr_step_byte(g, to, v->byte[i]));
        if (!to->state) {
            i = v->end[i];
            continue;
        }
        for (size_t k = v->first[i]; k < v->first[i + 1]; k++, g->n_out++)
            g->out[v->id[k]] = 1;
        i++;
    }
    return SP_OK;
}

/* A byte of 0 or 1 for each bit, eight at a time: byte k of a little-endian word keeps bit k, and
 * what is not 0 becomes 1. */
static void spread(uint8_t *out, const uint8_t *bits, size_t n)
{
    const uint64_t ones = 0x0101010101010101;
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        uint64_t word = (bits[i >> 3] * ones) & 0x8040201008040201;
        word = ((word + 0x7f * ones) >> 7) & ones;
        memcpy(out + i, &word, sizeof word);
    }
    for (; i < n; i++)
        out[i] = bits[i >> 3] >> (i & 7) & 1;
}

/* Bytes that two texts of at least n begin with alike. */
static size_t alike(const char *p, const char *q, size_t n)
{
    size_t i = 0;
    while (i < n && p[i] == q[i])
        i++;
    return i;
}

/* The state's mask, and what it asks about. */
static sp_err fill(sp_grammar *g, sp_grammar_at at, const gr_mask *m)
{
    const gr_vocab *v = g->vocab;
    size_t n = sp_tok_count(v->tok), known = 0; /* levels that hold the places of the last one */
    const char *last = "";
    spread(g->out, m->bits, n);
    g->n_out = m->count;
    g->level[0] = at;
    for (size_t a = 0; a < m->n_ask; a++) {
        size_t i = m->ask[a], top = v->level[i] - 1u;
        /* it begins with the node's bytes */
        const char *p = sp_tok_piece(v->tok, v->id[v->first[i]]).p;
        for (size_t k = alike(p, last, top < known ? top : known); k < top; k++) {
            g->level[k + 1] = g->level[k];
            SP_TRY(gr_step_byte(g, &g->level[k + 1], (unsigned char)p[k]));
        }
        known = top;
        last = p;
        SP_TRY(walk_place(g, i, v->end[i]));
    }
    return SP_OK;
}

/* --- places that are kept --------------------------------------------------------------------- */

static uint8_t pack(const uint8_t *bytes)
{
    uint64_t word;
    memcpy(&word, bytes, sizeof word);
    return (uint8_t)(word * 0x0102040810204080 >> 56); /* byte k of a little-endian word becomes bit
                                                          k */
}

static const gr_filled *find_filled(const sp_grammar *g, sp_grammar_at at)
{
    for (size_t i = 0; i < GR_PLACES; i++)
        if (g->filled[i].at.state == at.state && g->filled[i].at.below == at.below)
            return &g->filled[i];
    return NULL;
}

/* Keeps the mask in `out`; without memory it is made again. */
static void keep_filled(sp_grammar *g, sp_grammar_at at)
{
    gr_filled *f = &g->filled[g->n_filled++ % GR_PLACES];
    size_t n = sp_tok_count(g->vocab->tok), i = 0;
    f->at = (sp_grammar_at){0};
    if (!f->bits && !(f->bits = sp_mem_alloc(n / 8 + 1)))
        return;
    for (; i + 8 <= n; i += 8)
        f->bits[i >> 3] = pack(g->out + i);
    if (i < n)
        f->bits[i >> 3] = 0;
    for (; i < n; i++)
        f->bits[i >> 3] |= (uint8_t)(g->out[i] << (i & 7));
    f->n = g->n_out;
    f->at = at;
}

static sp_err mask_of(sp_grammar *g, sp_grammar_at at)
{
    const gr_filled *f = find_filled(g, at);
    if (f) {
        spread(g->out, f->bits, sp_tok_count(g->vocab->tok));
        g->n_out = f->n;
        return SP_OK;
    }
    if (!g->state[at.state].mask) {
        gr_mask *m;
        SP_TRY(make_mask(g, at.state, &m));
        keep(g, m);
    }
    const gr_mask *m = g->state[at.state].mask;
    if (g->frame[at.below].depth + m->most <= GR_DEPTH) {
        SP_TRY(fill(g, at, m));
    } else { /* near the stack's end, where depth counts */
        memset(g->out, 0, sp_tok_count(g->vocab->tok));
        g->n_out = 0;
        g->level[0] = at;
        SP_TRY(walk_place(g, 0, g->vocab->n_node));
    }
    if (m->n_ask)
        keep_filled(g, at);
    return SP_OK;
}

sp_err sp_grammar_mask(sp_grammar *g, sp_grammar_at at, const uint8_t **out)
{
    if (!g->out && !(g->out = sp_mem_alloc(sp_tok_count(g->vocab->tok) + 1)))
        return SP_NOMEM;
    /* rounds of a repeat far from its ends share one */
    SP_TRY(gr_like(g, at, g->vocab->longest, &at));
    if (g->of.state != at.state || g->of.below != at.below || !at.state) {
        g->n_visit = 0;
        g->of = (sp_grammar_at){0};
        SP_TRY(mask_of(g, at));
        for (size_t i = 0; sp_grammar_may_end(g, at) && i < g->vocab->n_stop; i++, g->n_out++)
            g->out[g->vocab->stop[i]] = 1;
        g->of = at;
    }
    *out = g->out;
    return SP_OK;
}
