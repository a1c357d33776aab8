#include "kv/state.h"

#include "base/mem.h"

#include <string.h>

enum { SPARE = 4 /* blocks that nobody holds and that keep their memory */ };

typedef struct snap {
    sp_kv_snap of;
    sp_kv_state *state;
    double worth; /* GreedyDual's H: when it was added or of use, plus what it saves */
    double n_use;
} snap;

struct sp_kv_states {
    sp_dev *dev;
    sp_kv_states_cfg cfg;
    size_t n_kept;
    snap *snap; /* [n_cap] */
    size_t n_snap, n_cap;
    sp_kv_state *spare; /* nobody's blocks */
    size_t n_spare, n_block;
    double clock; /* worth of the newest one that was given up */
    uint64_t n_taken, n_evicted;
};

sp_err sp_kv_states_new(sp_kv_states **out, sp_dev *dev, const sp_kv_states_cfg *cfg)
{
    sp_kv_states *p = sp_mem_alloc(sizeof *p);
    if (!p)
        return SP_NOMEM;
    *p = (sp_kv_states){.dev = dev, .cfg = *cfg, .n_cap = cfg->cap_bytes / cfg->state_bytes};
    p->snap = sp_mem_array(p->n_cap + 1, sizeof *p->snap);
    if (!p->snap) {
        sp_mem_free(p);
        return SP_NOMEM;
    }
    *out = p;
    return SP_OK;
}

static void free_spare(sp_kv_states *p)
{
    sp_kv_state *s = p->spare;
    p->spare = s->next;
    p->n_spare--;
    p->dev->ops->mem_free(p->dev, s->mem);
    sp_mem_free(s);
}

static void drop_snap(sp_kv_states *p, size_t i)
{
    sp_kv_state *s = p->snap[i].state;
    p->snap[i] = p->snap[--p->n_snap];
    sp_kv_state_put(p, s);
}

void sp_kv_states_free(sp_kv_states *p)
{
    if (!p)
        return;
    while (p->n_snap)
        drop_snap(p, p->n_snap - 1);
    SP_ASSERT(p->n_block == 0 && p->n_kept == 0);
    while (p->spare)
        free_spare(p);
    sp_mem_free(p->snap);
    sp_mem_free(p);
}

void sp_kv_states_stat(const sp_kv_states *p, sp_kv_state_stat *out)
{
    *out = (sp_kv_state_stat){.state_bytes = p->cfg.state_bytes,
                              .cap_bytes = p->cfg.cap_bytes,
                              .n_block = p->n_block,
                              .n_snap = p->n_snap,
                              .n_kept = p->n_kept,
                              .kept_bytes = p->cfg.kept_bytes,
                              .n_taken = p->n_taken,
                              .n_evicted = p->n_evicted};
}

bool sp_kv_states_keep(const sp_kv_states *p)
{
    return p->n_cap > 0;
}

static double saves(const snap *s)
{
    return (double)(s->of.n_tok - s->of.n_before) * (1 + s->n_use);
}

/* Gives up the snapshot of least worth. What follows it in its sequence saves more from then on. */
static void evict(sp_kv_states *p)
{
    size_t least = 0;
    for (size_t i = 1; i < p->n_snap; i++)
        if (p->snap[i].worth < p->snap[least].worth)
            least = i;
    const sp_kv_snap gone = p->snap[least].of;
    p->clock = p->snap[least].worth > p->clock ? p->snap[least].worth : p->clock;
    drop_snap(p, least);
    p->n_evicted++;
    for (size_t i = 0; i < p->n_snap; i++) {
        snap *s = &p->snap[i];
        if (s->of.n_before != gone.n_tok ||
            memcmp(s->of.before.b, gone.id.b, sizeof gone.id.b) != 0)
            continue;
        double was = saves(s);
        s->of.before = gone.before;
        s->of.n_before = gone.n_before;
        s->worth += saves(s) - was;
    }
}

sp_err sp_kv_state_take(sp_kv_states *p, sp_kv_state **out)
{
    sp_kv_state *s = p->spare;
    if (s) {
        p->spare = s->next;
        p->n_spare--;
    } else {
        s = sp_mem_alloc(sizeof *s);
        if (!s)
            return SP_NOMEM;
        while (p->dev->ops->mem_page(p->dev, &s->mem, p->cfg.state_bytes) != SP_OK) {
            if (p->n_snap == 0) {
                sp_mem_free(s);
                return SP_NOMEM;
            }
            evict(p);
            if (p->spare)
                free_spare(p);
        }
    }
    *s = (sp_kv_state){.mem = s->mem, .ref = 1};
    p->n_block++;
    *out = s;
    return SP_OK;
}

void sp_kv_state_put(sp_kv_states *p, sp_kv_state *s)
{
    if (!s)
        return;
    SP_ASSERT(s->ref > 0);
    if (--s->ref > 0)
        return;
    p->n_block--;
    s->next = p->spare;
    p->spare = s;
    p->n_spare++;
    if (p->n_spare > SPARE)
        free_spare(p);
}

sp_err sp_kv_kept_take(sp_kv_states *p, void **out)
{
    SP_TRY(p->dev->ops->mem_raw(p->dev, out, p->cfg.kept_bytes));
    p->n_kept++;
    return SP_OK;
}

void sp_kv_kept_put(sp_kv_states *p, void *kept)
{
    p->n_kept -= kept != NULL;
    p->dev->ops->mem_free(p->dev, kept);
}

static snap *find(const sp_kv_states *p, const sp_sha256 *id)
{
    for (size_t i = 0; i < p->n_snap; i++)
        if (memcmp(p->snap[i].of.id.b, id->b, sizeof id->b) == 0)
            return &p->snap[i];
    return NULL;
}

sp_kv_state *sp_kv_snap_find(sp_kv_states *p, const sp_sha256 *id, bool use)
{
    snap *s = find(p, id);
    if (s && use) {
        s->n_use++;
        s->worth = p->clock + saves(s);
    }
    return s ? s->state : NULL;
}

const sp_kv_snap *sp_kv_snap_of(const sp_kv_states *p, const sp_sha256 *id)
{
    const snap *s = find(p, id);
    return s ? &s->of : NULL;
}

void sp_kv_snap_add(sp_kv_states *p, const sp_kv_snap *of, sp_kv_state *s)
{
    if (p->n_cap == 0 || find(p, &of->id))
        return;
    if (p->n_snap == p->n_cap)
        evict(p);
    snap *now = &p->snap[p->n_snap++];
    *now = (snap){.of = *of, .state = s};
    now->worth = p->clock + saves(now);
    s->ref++;
    p->n_taken++;
}

void sp_kv_snap_forget(sp_kv_states *p, sp_kv_forget *f)
{
    for (size_t i = p->n_snap; i-- > 0;) {
        if (!sp_kv_forget_hits(f, p->snap[i].of.tag, p->snap[i].of.conv))
            continue;
        f->n_page++;
        drop_snap(p, i);
    }
}

sp_err sp_kv_states_check(const sp_kv_states *p, sp_diag *d)
{
    size_t n_spare = 0;
    for (const sp_kv_state *s = p->spare; s; s = s->next, n_spare++)
        if (s->ref)
            return SP_FAIL(d, SP_CORRUPT, "a spare state has %zu holders", s->ref);
    for (size_t i = 0; i < p->n_snap; i++)
        if (!p->snap[i].state->ref || p->snap[i].of.n_tok <= p->snap[i].of.n_before)
            return SP_FAIL(d, SP_CORRUPT, "snapshot %zu: %zu holders, tokens %zu behind %zu", i,
                           p->snap[i].state->ref, p->snap[i].of.n_tok, p->snap[i].of.n_before);
    if (n_spare != p->n_spare || p->n_snap > p->n_cap || p->n_snap > p->n_block)
        return SP_FAIL(d, SP_CORRUPT,
                       "states: %zu of %zu spare, %zu snapshots of %zu in %zu blocks", n_spare,
                       p->n_spare, p->n_snap, p->n_cap, p->n_block);
    return SP_OK;
}
