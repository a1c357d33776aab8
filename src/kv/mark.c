/* States of a sequence's recurrent layers: where a step puts them, and which become snapshots. */
#include "kv/pool_int.h"

sp_err sp_kvp_state_reserve(sp_kv_seq *s, sp_kv_pool *p)
{
    if (!p->states || (s->next && s->next->ref == 1))
        return SP_OK;
    sp_kv_state_put(p->states, s->next);
    s->next = NULL;
    return sp_kv_state_take(p->states, &s->next);
}

static void drop_marks(sp_kv_seq *s, sp_kv_pool *p)
{
    while (s->n_mark)
        sp_kv_state_put(p->states, s->mark_state[--s->n_mark]);
}

/* Does a message of the prompt begin in the page behind pos? */
static bool is_border(const sp_kv_seq *s, size_t pos)
{
    size_t lo = 0, hi = s->n_border;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (s->border[mid] < pos)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < s->n_border && s->border[lo] < pos + SP_PAGE_TOK;
}

/* Is the state at the end of a page worth keeping? The last page of a prompt is left out where it
 * ends with it: the same prompt again needs a token to compute. Behind the prompt each is kept
 * until the next, for what follows the answer. */
static bool is_wanted(const sp_kv_seq *s, const sp_kv_pool *p, size_t pos)
{
    if (!sp_kv_states_keep(p->states) || s->inexact || (s->private_from && pos > s->private_from))
        return false;
    return pos > s->n_prompt || pos % SP_KV_SNAP_TOK == 0 ||
           pos == (s->n_prompt - 1) / SP_PAGE_TOK * SP_PAGE_TOK || is_border(s, pos);
}

/* Where a step puts the state behind what it passes again. */
static sp_err begin_settling(sp_kv_seq *s, sp_kv_pool *p)
{
    SP_ASSERT(!s->is_lost);
    if (!s->n_again || s->settled)
        return SP_OK;
    if (s->state && s->state->ref == 1)
        s->settled = s->state;
    else
        SP_TRY(sp_kv_state_take(p->states, &s->settled));
    return SP_OK;
}

sp_err sp_kv_seq_begin(sp_kv_seq *s, sp_kv_pool *p, size_t n, size_t n_kept)
{
    size_t end = (s->n_tok + n) / SP_PAGE_TOK * SP_PAGE_TOK, n_wanted = 0, first = end;
    if (!p->states)
        return SP_OK;
    SP_TRY(sp_kvp_snap_wait(s, p));
    SP_TRY(sp_kvp_state_reserve(s, p));
    SP_TRY(begin_settling(s, p));
    SP_ASSERT(n_kept < SP_KV_GUESS_TOK && (!n_kept || s->kept));
    s->n_kept = n_kept;
    drop_marks(s, p);
    for (size_t pos = end; pos > s->n_tok && n_wanted < SP_KV_MARKS; pos -= SP_PAGE_TOK) {
        if (!is_wanted(s, p, pos))
            continue;
        n_wanted++;
        first = pos;
    }
    for (size_t pos = first; pos > s->n_tok && pos <= end; pos += SP_PAGE_TOK) {
        if (!is_wanted(s, p, pos))
            continue;
        if (sp_kv_state_take(p->states, &s->mark_state[s->n_mark]) != SP_OK)
            break; /* a snapshot less */
        s->mark_at[s->n_mark] = pos;
        s->mark[s->n_mark] = (sp_dev_mark){pos - s->n_tok, s->mark_state[s->n_mark]->mem};
        s->n_mark++;
    }
    return SP_OK;
}

/* Takes a share of state. */
static void keep(sp_kv_seq *s, sp_kv_pool *p, const sp_sha256 *id, size_t pos, sp_kv_state *state)
{
    sp_kv_snap of = {.id = *id, .before = s->snap_id, .n_tok = pos, .n_before = s->n_snap};
    memcpy(of.tag, s->tag, sizeof of.tag);
    memcpy(of.conv, s->conv, sizeof of.conv);
    sp_kv_snap_add(p->states, &of, state);
    sp_kvp_snap_save(p, &of, state);
    s->snap_id = *id;
    s->n_snap = pos;
}

void sp_kvp_state_at_page_end(sp_kv_seq *s, sp_kv_pool *p, bool share)
{
    for (size_t i = 0; i < s->n_mark && share; i++) {
        if (s->mark_at[i] != s->n_tok)
            continue;
        if (s->n_tok <= s->n_prompt || s->n_tok % SP_KV_SNAP_TOK == 0) {
            keep(s, p, &s->chain, s->n_tok, s->mark_state[i]);
            continue;
        }
        sp_kv_state_put(p->states, s->trail);
        s->trail = s->mark_state[i];
        s->trail->ref++;
        s->trail_id = s->chain;
        s->n_trail = s->n_tok;
    }
}

void sp_kvp_state_move(sp_kv_seq *s, sp_kv_pool *p, size_t n)
{
    if (!p->states)
        return;
    sp_kv_state *before = s->n_again ? s->settled : s->state;
    drop_marks(s, p);
    if (before != s->state)
        sp_kv_state_put(p->states, s->state);
    s->state = s->next;
    s->next = before; /* written over by the next step, if nobody else holds it and nothing is taken
                         back */
    s->settled = NULL;
    s->n_again = 0;
    s->n_step = n;
}

size_t sp_kvp_state_back(sp_kv_seq *s, sp_kv_pool *p, size_t n)
{
    if (s->sure) {
        SP_ASSERT(n >= s->n_sure);
        sp_kv_state_put(p->states, s->state);
        s->state = s->sure;
        s->sure = NULL;
        return s->n_sure;
    }
    size_t first = s->n_tok - s->n_step;
    SP_ASSERT(!s->n_again && n > first && n - first <= s->n_kept);
    sp_kv_state *after = s->state;
    s->state = s->next;
    s->next = after;
    s->n_again = n - first;
    return n;
}

void sp_kv_seq_hold(sp_kv_seq *s, sp_kv_pool *p)
{
    if (!p->states)
        return;
    SP_ASSERT(s->state && !s->n_again);
    sp_kv_state_put(p->states, s->sure);
    s->sure = s->state;
    s->sure->ref++;
    s->n_sure = s->n_tok;
}

void sp_kvp_state_attach(sp_kv_seq *s, sp_kv_pool *p)
{
    if (!p->states)
        return;
    if (!s->snap_load) {
        s->state = sp_kv_snap_find(p->states, &s->chain, true);
        SP_ASSERT(s->state);
        s->state->ref++;
    }
    s->snap_id = s->chain;
    s->n_snap = s->n_tok;
}

void sp_kvp_state_fini(sp_kv_seq *s, sp_kv_pool *p)
{
    if (!p->states)
        return;
    if (s->trail && s->n_trail > s->n_snap)
        keep(s, p, &s->trail_id, s->n_trail, s->trail);
    drop_marks(s, p);
    if (s->settled != s->state)
        sp_kv_state_put(p->states, s->settled);
    sp_kv_state_put(p->states, s->state);
    sp_kv_state_put(p->states, s->next);
    sp_kv_state_put(p->states, s->trail);
    sp_kv_state_put(p->states, s->sure);
    sp_kv_kept_put(p->states, s->kept);
    s->state = s->next = s->trail = s->settled = s->sure = NULL;
    s->kept = NULL;
}
