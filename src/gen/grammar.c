/* Nodes become states as they are met; see grammar_int.h for what a state is.
 *
 * Budgets, counted by work done and checked before it is spent: states, frames, bytes of both, and
 * nodes visited for one token or one mask. A set never holds an item whose stack would have to grow
 * beyond GR_DEPTH before its rule can end, so a bounded stack leads into no dead end: whatever else
 * an item may become, one way on fits (need in grammar_int.h). */
#include "gen/grammar_int.h"

#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

enum { INTERN_COST = 16 };

static sp_err spend(sp_grammar *g, size_t bytes)
{
    if (g->n_bytes + bytes > GR_BYTES)
        return SP_LIMIT;
    g->n_bytes += bytes;
    if (g->n_bytes > GR_BYTES / 2)
        atomic_store(&g->is_worn, true);
    return SP_OK;
}

/* Room for one more in a growing list. */
static sp_err room(sp_grammar *g, void *list, size_t *cap, size_t n, size_t each)
{
    void **p = list;
    if (n < *cap)
        return SP_OK;
    size_t more = *cap * 2 + 64;
    SP_TRY(spend(g, (more - *cap) * each));
    void *q = sp_mem_grow(*p, more * each);
    if (!q)
        return SP_NOMEM;
    *p = q;
    *cap = more;
    return SP_OK;
}

/* --- frames ----------------------------------------------------------------------------------- */

static uint64_t hash_one_frame(const gr_frame *f)
{
    return gr_mix(gr_mix(gr_mix(2, (uint64_t)f->node), f->count), f->below);
}

static uint64_t hash_frame(const void *all, uint32_t i)
{
    return hash_one_frame(&((const sp_grammar *)all)->frame[i]);
}

static bool same_frame(const void *all, uint32_t i, const void *one)
{
    const gr_frame *a = &((const sp_grammar *)all)->frame[i], *b = one;
    return a->node == b->node && a->count == b->count && a->below == b->below;
}

static sp_err push(sp_grammar *g, uint32_t *out, int32_t node, uint32_t count, uint32_t below)
{
    const gr_frame f = {node, count, below, g->frame[below].depth + 1};
    if (!gr_index_room(&g->by_frame, hash_frame, g))
        return SP_NOMEM;
    uint32_t *slot = gr_index_find(&g->by_frame, hash_one_frame(&f), same_frame, g, &f);
    if (!*slot) {
        if (g->n_frame == GR_FRAMES)
            return SP_LIMIT;
        SP_TRY(room(g, &g->frame, &g->cap_frame, g->n_frame, sizeof *g->frame));
        g->frame[g->n_frame] = f;
        g->by_frame.n++;
        *slot = (uint32_t)++g->n_frame;
    }
    *out = *slot - 1;
    return SP_OK;
}

/* The frames from `from` down to above `base`, put onto `below`. */
static sp_err move(sp_grammar *g, uint32_t *out, uint32_t from, uint32_t base, uint32_t below)
{
    size_t n = 0;
    for (; from != base; from = g->frame[from].below) {
        if (n == sizeof g->path / sizeof g->path[0])
            return SP_LIMIT;
        g->path[n++] = g->frame[from];
    }
    while (n--)
        SP_TRY(push(g, &below, g->path[n].node, g->path[n].count, below));
    *out = below;
    return SP_OK;
}

static uint32_t common(const sp_grammar *g, uint32_t a, uint32_t b)
{
    while (a != b) {
        if (g->frame[a].depth >= g->frame[b].depth)
            a = g->frame[a].below;
        else
            b = g->frame[b].below;
    }
    return a;
}

/* --- sets ------------------------------------------------------------------------------------- */

static void begin_set(sp_grammar *g)
{
    g->n_work = g->n_seen = 0;
    g->work_over = false;
    if (++g->now == 0) {
        memset(g->seen_when, 0, 2 * GR_CLOSE * sizeof *g->seen_when);
        g->now = 1;
    }
}

/* false: it is there already. */
static bool is_new(sp_grammar *g, gr_item x)
{
    uint64_t key = (uint64_t)(uint32_t)x.node << 32 | x.frame;
    size_t i = gr_mix(3, key) & (2 * GR_CLOSE - 1);
    for (; g->seen_when[i] == g->now; i = (i + 1) & (2 * GR_CLOSE - 1))
        if (g->seen[i] == key)
            return false;
    g->seen[i] = key;
    g->seen_when[i] = g->now;
    return true;
}

/* A repeat that has had `count` rounds: it may go on, or in again. */
static sp_err go_round(sp_grammar *g, int32_t node, uint32_t count, uint32_t below, size_t *n)
{
    const gr_node *k = &g->p.node[node];
    if (k->max == UINT32_MAX && count > k->min)
        count = k->min;
    if (count >= k->min)
        g->todo[(*n)++] = (gr_item){k->next, below};
    if (count < k->max) {
        uint32_t f;
        SP_TRY(push(g, &f, node, count, below));
        g->todo[(*n)++] = (gr_item){k->other, f};
    }
    return SP_OK;
}

/* Adds an item and what it reaches for free to the set in the making. */
static sp_err close_over(sp_grammar *g, gr_item first)
{
    size_t n = 0;
    g->todo[n++] = first;
    while (n) {
        gr_item x = g->todo[--n];
        const gr_node *k = &g->p.node[x.node];
        const gr_frame f = g->frame[x.frame];
        if (f.depth + k->need > GR_DEPTH || !is_new(g, x))
            continue;
        g->n_visit++;
        if (++g->n_seen >= GR_CLOSE || g->n_visit > GR_VISIT)
            return SP_LIMIT;
        switch ((gr_kind)k->kind) {
        case GR_BYTE: g->work[g->n_work++] = x; break;
        case GR_FREE:
            g->todo[n++] = (gr_item){k->other, x.frame};
            g->todo[n++] = (gr_item){k->next, x.frame};
            break;
        case GR_CALL:
            if (k->next != GR_END) /* else the rule returns where this one does */
                SP_TRY(push(g, &x.frame, k->next, GR_CALLED, x.frame));
            g->todo[n++] = (gr_item){g->p.rule[k->other].start, x.frame};
            break;
        case GR_REPEAT: SP_TRY(go_round(g, x.node, 0, x.frame, &n)); break;
        case GR_RULE_END:
            if (f.depth == 0)
                g->work_over = true;
            else if (f.count != GR_CALLED)
                SP_TRY(go_round(g, f.node, f.count + 1, f.below, &n));
            else
                g->todo[n++] = (gr_item){f.node, f.below};
            break;
        case GR_NEVER: break;
        }
    }
    return SP_OK;
}

static int by_value(const void *a, const void *b)
{
    const gr_item *x = a, *y = b;
    if (x->node != y->node)
        return x->node < y->node ? -1 : 1;
    return (x->frame > y->frame) - (x->frame < y->frame);
}

/* The set in the making, for a search. */
static uint64_t hash_work(const sp_grammar *g)
{
    uint64_t h = gr_mix(4, g->work_over);
    for (size_t i = 0; i < g->n_work; i++)
        h = gr_mix(h, (uint64_t)(uint32_t)g->work[i].node << 32 | g->work[i].frame);
    return h;
}

static uint64_t hash_state(const void *all, uint32_t i)
{
    return ((const sp_grammar *)all)->state[i].hash;
}

static bool same_state(const void *all, uint32_t i, const void *one)
{
    const gr_state *s = &((const sp_grammar *)all)->state[i];
    const sp_grammar *g = one;
    return s->n == g->n_work && s->is_over == g->work_over &&
           memcmp(s->item, g->work, s->n * sizeof *s->item) == 0;
}

/* The one byte that the set in the making lets in; -1: see gr_state. */
static int16_t only_byte(const sp_grammar *g)
{
    gr_set all = {{0}};
    int n = 0, at = 0;
    for (size_t i = 0; i < g->n_work; i++)
        for (int k = 0; k < 4; k++)
            all.bits[k] |= g->p.set[g->p.node[g->work[i].node].set].bits[k];
    for (int k = 0; k < 4; k++) {
        n += __builtin_popcountll(all.bits[k]);
        at = all.bits[k] ? 64 * k + __builtin_ctzll(all.bits[k]) : at;
    }
    return (int16_t)(n == 1 && !g->work_over ? at : -1);
}

static sp_err new_state(sp_grammar *g, uint64_t hash, uint32_t *out)
{
    if (g->n_state == GR_STATES)
        return SP_LIMIT;
    if (g->n_state > GR_STATES / 2)
        atomic_store(&g->is_worn, true);
    SP_TRY(room(g, &g->state, &g->cap_state, g->n_state, sizeof *g->state));
    SP_TRY(spend(g, (g->n_work + 1) * sizeof(gr_item)));
    gr_state s = {
        .n = (uint32_t)g->n_work, .hash = hash, .is_over = g->work_over, .only = only_byte(g)};
    s.item = sp_mem_array(g->n_work + 1, sizeof *s.item);
    if (!s.item)
        return SP_NOMEM;
    if (g->n_work)
        memcpy(s.item, g->work, g->n_work * sizeof *s.item);
    for (size_t i = 0; i < g->n_work; i++) {
        uint32_t most = g->frame[s.item[i].frame].depth + g->p.node[s.item[i].node].need;
        s.most = most > s.most ? most : s.most;
    }
    g->state[g->n_state] = s;
    *out = (uint32_t)g->n_state++;
    return SP_OK;
}

/* The state of the set in the making, made if new; what all its stacks share is taken off. */
static sp_err intern(sp_grammar *g, gr_edge *out)
{
    uint32_t base = g->n_work && !g->work_over ? g->work[0].frame : 0;
    if (!g->n_work && !g->work_over) {
        *out = (gr_edge){0, 0};
        return SP_OK;
    }
    for (size_t i = 1; i < g->n_work && base; i++)
        base = common(g, base, g->work[i].frame);
    for (size_t i = 0; i < g->n_work && base; i++)
        SP_TRY(move(g, &g->work[i].frame, g->work[i].frame, base, 0));
    qsort(g->work, g->n_work, sizeof *g->work, by_value);
    g->n_visit += g->n_work + INTERN_COST;
    uint64_t hash = hash_work(g);
    if (!gr_index_room(&g->by_set, hash_state, g))
        return SP_NOMEM;
    uint32_t *slot = gr_index_find(&g->by_set, hash, same_state, g, g), id;
    if (!*slot) {
        SP_TRY(new_state(g, hash, &id));
        g->by_set.n++;
        *slot = id + 1;
    }
    *out = (gr_edge){*slot - 1, base};
    return SP_OK;
}

/* --- steps ------------------------------------------------------------------------------------ */

static sp_err find_edge(sp_grammar *g, uint32_t from, unsigned class, gr_edge *out)
{
    unsigned c = g->p.byte_of[class];
    if (!g->state[from].to) {
        SP_TRY(spend(g, g->p.n_class * sizeof(gr_edge)));
        gr_edge *to = sp_mem_array(g->p.n_class, sizeof *to);
        if (!to)
            return SP_NOMEM;
        memset(to, 0xff, g->p.n_class * sizeof *to);
        g->state[from].to = to;
    }
    if (g->n_visit + g->state[from].n > GR_VISIT)
        return SP_LIMIT;
    g->n_visit += g->state[from].n;
    begin_set(g);
    for (size_t i = 0; i < g->state[from].n; i++) {
        gr_item x = g->state[from].item[i];
        const gr_node *k = &g->p.node[x.node];
        if (g->p.set[k->set].bits[c >> 6] >> (c & 63) & 1)
            SP_TRY(close_over(g, (gr_item){k->next, x.frame}));
    }
    SP_TRY(intern(g, out));
    g->state[from].to[class] = *out;
    return SP_OK;
}

static uint64_t hash_one_return(const gr_return *r)
{
    return gr_mix(gr_mix(gr_mix(5, r->state), r->count), (uint64_t)r->node);
}

static uint64_t hash_return(const void *all, uint32_t i)
{
    return hash_one_return(&((const sp_grammar *)all)->ret[i]);
}

static bool same_return(const void *all, uint32_t i, const void *one)
{
    const gr_return *a = &((const sp_grammar *)all)->ret[i], *b = one;
    return a->state == b->state && a->count == b->count && a->node == b->node;
}

/* What state `from`, which is over, becomes above a frame: its items with the frame below them, and
 * what returns to it. */
static sp_err find_return(sp_grammar *g, uint32_t from, const gr_frame *f, gr_edge *out)
{
    gr_return r = {.state = from, .count = f->count, .node = f->node};
    if (!gr_index_room(&g->by_ret, hash_return, g))
        return SP_NOMEM;
    uint32_t *slot = gr_index_find(&g->by_ret, hash_one_return(&r), same_return, g, &r), base;
    if (*slot) {
        *out = g->ret[*slot - 1].edge;
        return SP_OK;
    }
    SP_TRY(room(g, &g->ret, &g->cap_ret, g->n_ret, sizeof *g->ret));
    SP_TRY(push(g, &base, f->node, f->count, 0));
    begin_set(g);
    SP_TRY(close_over(g, (gr_item){GR_END, base}));
    for (size_t i = 0; i < g->state[from].n; i++) {
        gr_item x = g->state[from].item[i];
        SP_TRY(move(g, &x.frame, x.frame, 0, base));
        SP_TRY(close_over(g, x));
    }
    SP_TRY(intern(g, &r.edge));
    slot = gr_index_find(&g->by_ret, hash_one_return(&r), same_return, g, &r);
    g->ret[g->n_ret] = r;
    g->by_ret.n++;
    *slot = (uint32_t)++g->n_ret;
    *out = r.edge;
    return SP_OK;
}

/* Leaves out what would need more of the stack than is left. */
static sp_err prune(sp_grammar *g, sp_grammar_at *at)
{
    uint32_t left = GR_DEPTH - g->frame[at->below].depth;
    gr_edge e;
    if (g->frame[at->below].depth > GR_DEPTH)
        return SP_LIMIT;
    begin_set(g);
    g->work_over = g->state[at->state].is_over;
    for (size_t i = 0; i < g->state[at->state].n; i++) {
        gr_item x = g->state[at->state].item[i];
        if (g->frame[x.frame].depth + g->p.node[x.node].need <= left)
            g->work[g->n_work++] = x;
    }
    g->n_visit += g->state[at->state].n;
    SP_TRY(intern(g, &e));
    at->state = e.state;
    return move(g, &at->below, e.push, 0, at->below);
}

/* Returns from rules that are over, as long as it is known to where. */
static sp_err settle(sp_grammar *g, sp_grammar_at *at)
{
    while (g->state[at->state].is_over && at->below) {
        const gr_frame f = g->frame[at->below];
        gr_edge e;
        SP_TRY(find_return(g, at->state, &f, &e));
        at->state = e.state;
        SP_TRY(move(g, &at->below, e.push, 0, f.below));
    }
    uint32_t deep = g->frame[at->below].depth + g->state[at->state].most;
    g->deepest = deep > g->deepest ? deep : g->deepest;
    return deep > GR_DEPTH ? prune(g, at) : SP_OK;
}

sp_err gr_step_byte(sp_grammar *g, sp_grammar_at *at, unsigned char c)
{
    unsigned class = g->p.class_of[c];
    gr_edge e = {UINT32_MAX, 0};
    if (at->state == 0)
        return SP_OK;
    if (g->state[at->state].to)
        e = g->state[at->state].to[class];
    if (e.state == UINT32_MAX)
        SP_TRY(find_edge(g, at->state, class, &e));
    at->state = e.state;
    if (e.push)
        SP_TRY(move(g, &at->below, e.push, 0, at->below));
    return e.state ? settle(g, at) : SP_OK;
}

sp_err sp_grammar_step(sp_grammar *g, sp_grammar_at *at, const char *p, size_t n)
{
    sp_grammar_at to = *at;
    g->n_visit = 0;
    for (size_t i = 0; i < n && to.state; i++)
        SP_TRY(gr_step_byte(g, &to, (unsigned char)p[i]));
    *at = to;
    return SP_OK;
}

sp_grammar_at sp_grammar_start(const sp_grammar *g)
{
    return g->start;
}

sp_err sp_grammar_run(sp_grammar *g, sp_grammar_at at, char *run, size_t cap, size_t *n, bool *ends)
{
    g->n_visit = 0;
    for (*n = 0; *n < cap && at.state && g->state[at.state].only >= 0; (*n)++) {
        run[*n] = (char)g->state[at.state].only;
        SP_TRY(gr_step_byte(g, &at, (unsigned char)run[*n]));
    }
    *ends = *n < cap && at.state && sp_grammar_must_end(g, at);
    return SP_OK;
}

bool sp_grammar_may_end(const sp_grammar *g, sp_grammar_at at)
{
    return g->state[at.state].is_over; /* it is settled: nothing is below */
}

bool sp_grammar_must_end(const sp_grammar *g, sp_grammar_at at)
{
    return g->state[at.state].n == 0;
}

/* --- places that share a mask ----------------------------------------------------------------- */

/* A count whose ends are further away than a token reaches is as good as any other such: it ends
 * this round, and passes as many more as have room in it. Rounds that may be empty have no such
 * count. */
static uint32_t move_count(const sp_grammar *g, const gr_frame *f, size_t reach)
{
    const gr_node *k = &g->p.node[f->node];
    if (f->count == GR_CALLED || !g->p.node[k->other].least)
        return f->count;
    uint32_t far = (uint32_t)reach / g->p.node[k->other].least + 1;
    if (f->count < k->min)
        return k->min - f->count > far ? k->min - far : f->count;
    if (k->max != UINT32_MAX && k->max - f->count > far && k->max - far > k->min)
        return k->max - far;
    return f->count;
}

static sp_err move_counts(sp_grammar *g, uint32_t *frame, size_t reach)
{
    size_t n = 0;
    uint32_t to = 0;
    for (uint32_t f = *frame; f; f = g->frame[f].below)
        g->path[n++] = g->frame[f];
    while (n--)
        SP_TRY(push(g, &to, g->path[n].node, move_count(g, &g->path[n], reach), to));
    *frame = to;
    return SP_OK;
}

static sp_err like_state(sp_grammar *g, uint32_t s, size_t reach, uint32_t *out)
{
    uint32_t base = 0;
    bool moved = false;
    gr_edge e;
    *out = s;
    if (g->state[s].like) {
        *out = g->state[s].like;
        return SP_OK;
    }
    begin_set(g);
    g->work_over = g->state[s].is_over;
    for (size_t i = 0; i < g->state[s].n; i++) {
        gr_item x = g->state[s].item[i];
        SP_TRY(move_counts(g, &x.frame, reach));
        moved = moved || x.frame != g->state[s].item[i].frame;
        base = i ? common(g, base, x.frame) : x.frame;
        if (is_new(g, x))
            g->work[g->n_work++] = x;
    }
    if (moved && g->n_work == g->state[s].n &&
        (base == 0 || g->work_over)) { /* else it would be another state */
        SP_TRY(intern(g, &e));
        *out = e.state;
    }
    g->state[s].like = *out;
    return SP_OK;
}

sp_err gr_like(sp_grammar *g, sp_grammar_at at, size_t reach, sp_grammar_at *out)
{
    *out = at;
    SP_TRY(like_state(g, at.state, reach, &out->state));
    return move_counts(g, &out->below, reach);
}

/* --- as an object ----------------------------------------------------------------------------- */

static sp_err alloc_tables(sp_grammar *g)
{
    g->work = sp_mem_array(GR_CLOSE, sizeof *g->work);
    g->todo = sp_mem_array(2 * GR_CLOSE, sizeof *g->todo);
    g->seen = sp_mem_array(2 * GR_CLOSE, sizeof *g->seen);
    g->seen_when = sp_mem_array(2 * GR_CLOSE, sizeof *g->seen_when);
    if (!g->work || !g->todo || !g->seen || !g->seen_when)
        return SP_NOMEM;
    SP_TRY(room(g, &g->frame, &g->cap_frame, 0, sizeof *g->frame));
    SP_TRY(room(g, &g->state, &g->cap_state, 0, sizeof *g->state));
    g->frame[0] = (gr_frame){0};
    g->state[0] = (gr_state){0};
    g->n_frame = g->n_state = 1;
    return SP_OK;
}

sp_err gr_open(sp_grammar *g)
{
    gr_edge e;
    SP_TRY(alloc_tables(g));
    g->n_visit = 0;
    begin_set(g);
    SP_TRY(close_over(g, (gr_item){g->p.start, 0}));
    SP_TRY(intern(g, &e));
    g->start = (sp_grammar_at){e.state, e.push};
    return settle(g, &g->start);
}

void gr_close(sp_grammar *g)
{
    for (size_t i = 0; i < GR_MASKS; i++)
        gr_mask_free(g->mask[i]);
    for (size_t i = 0; i < GR_PLACES; i++)
        sp_mem_free(g->filled[i].bits);
    for (size_t i = 0; i < g->n_state; i++) {
        sp_mem_free(g->state[i].item);
        sp_mem_free(g->state[i].to);
    }
    sp_mem_free(g->state);
    sp_mem_free(g->frame);
    sp_mem_free(g->ret);
    sp_mem_free(g->by_set.slot);
    sp_mem_free(g->by_frame.slot);
    sp_mem_free(g->by_ret.slot);
    sp_mem_free(g->work);
    sp_mem_free(g->todo);
    sp_mem_free(g->seen);
    sp_mem_free(g->seen_when);
    sp_mem_free(g->out);
    gr_program_fini(&g->p);
    sp_mem_free(g->pattern);
    sp_mem_free(g);
}
