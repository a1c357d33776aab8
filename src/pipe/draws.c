#include "pipe/draws.h"

#include "base/lock.h"
#include "base/map.h"
#include "base/mem.h"

enum { VARIANT_BITS = 3 };
_Static_assert(1 << VARIANT_BITS >= SP_TRACK_ARMS, "a variant fits into its bits");

struct sp_draws {
    sp_lock lock; /* rank NET */
    sp_map by_key; /* epoch and variant; guard: lock */
    sp_epoch share[SP_EPOCHS]; /* guard: lock, as is all below */
    unsigned now;
    size_t n;
};

sp_err sp_draws_new(sp_draws **out, size_t n)
{
    sp_draws *d = sp_mem_alloc(sizeof *d);
    if (!d || sp_map_init(&d->by_key, 0) != SP_OK) {
        sp_mem_free(d);
        return SP_NOMEM;
    }
    sp_lock_init(&d->lock, SP_RANK_NET);
    d->n = n;
    for (size_t i = 0; i < n; i++)
        d->share[0].share[i] = 1 / (double)n;
    *out = d;
    return SP_OK;
}

void sp_draws_free(sp_draws *d)
{
    if (!d)
        return;
    sp_map_fini(&d->by_key);
    sp_lock_fini(&d->lock);
    sp_mem_free(d);
}

static unsigned pick(const double *share, size_t n, double u)
{
    unsigned i = 0;
    for (double at = share[0]; u >= at && i + 1 < n;)
        at += share[++i];
    return i;
}

sp_draw sp_draws_take(sp_draws *d, uint64_t key, double u)
{
    uint32_t known;
    sp_lock_get(&d->lock);
    if (!sp_map_find_u64(&d->by_key, key, &known)) {
        known = d->now << VARIANT_BITS | pick(d->share[d->now].share, d->n, u);
        if (d->by_key.n < SP_DRAWS) /* without memory it is drawn alike while the epoch lasts */
            (void)!sp_map_set_u64(&d->by_key, key, known);
    }
    sp_draw out = {.epoch = known >> VARIANT_BITS, .variant = known & ((1u << VARIANT_BITS) - 1)};
    out.share = d->share[out.epoch].share[out.variant];
    sp_lock_put(&d->lock);
    return out;
}

void sp_draws_put(sp_draws *d, uint64_t key, unsigned epoch, unsigned variant)
{
    if (epoch >= SP_EPOCHS || variant >= d->n)
        return;
    sp_lock_get(&d->lock);
    if (d->by_key.n < SP_DRAWS)
        (void)!sp_map_set_u64(&d->by_key, key, epoch << VARIANT_BITS | variant);
    sp_lock_put(&d->lock);
}

void sp_draws_set(sp_draws *d, unsigned epoch, const sp_epoch *e)
{
    if (epoch >= SP_EPOCHS)
        return;
    sp_lock_get(&d->lock);
    d->share[epoch] = *e;
    d->now = epoch > d->now ? epoch : d->now;
    sp_lock_put(&d->lock);
}

bool sp_draws_is_full(sp_draws *d)
{
    sp_lock_get(&d->lock);
    bool full = d->by_key.n >= SP_DRAWS;
    sp_lock_put(&d->lock);
    return full;
}
