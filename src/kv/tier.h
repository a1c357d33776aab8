/* Pages beyond RAM: what is known of a prefix on SSD and S3, whether to fetch it or compute it
 * again, loading it layer by layer, and writing what RAM holds.
 *
 * Fetch or recompute: the cheapest of three, by rates measured as the server runs: compute
 * everything, fetch the part on SSD, fetch all. A load that takes longer than computing would have
 * is given up.
 *
 * Owner:   the tier owns its threads and loads; a load borrows the page memory it fills until it is
 *          released, however the sequence fares.
 * Threads: plan, load, release, save, done and note_compute from the step thread; wait from the
 * step
 *          thread; forget and stat from any. `changed` is called from the tier's threads, without
 *          locks.
 * Errors:  of a load: SP_CORRUPT, SP_IO, SP_NET; never wrong bytes. */
#ifndef SP_KV_TIER_H
#define SP_KV_TIER_H

#include "kv/cold.h"
#include "kv/store.h"
#include "obs/metric.h"

typedef struct sp_kv_tier sp_kv_tier;
typedef struct sp_kv_load sp_kv_load;

typedef enum sp_kv_fetch { SP_KV_FETCH_AUTO, SP_KV_FETCH_ALWAYS, SP_KV_FETCH_NEVER } sp_kv_fetch;

typedef struct sp_kv_tier_cfg {
    const char *dir;
    uint64_t cap_bytes;
    const char *io;          /* auto, uring, threads */
    sp_kv_fetch fetch;
    const sp_kv_cold *cold;  /* NULL: no objects; borrowed */
    int64_t cold_after_s;    /* a run unused for so long becomes an object too */
    int64_t cold_expire_s;   /* an object unused for so long is removed; 0: never */
    double depth_cost;       /* cost of a token at position p is 1 + p * depth_cost */
    double tok_s;            /* first guess of seconds a prompt token takes */
    sp_metrics *metrics;     /* may be NULL */
} sp_kv_tier_cfg;

SP_MUST sp_err sp_kv_tier_open(sp_kv_tier **out, const sp_kv_tier_cfg *cfg, sp_diag *d);
/* Finishes what is being written. Every load must be released. */
void sp_kv_tier_close(sp_kv_tier *t);
void sp_kv_tier_on_change(sp_kv_tier *t, void (*changed)(void *arg), void *arg);
sp_kv_store *sp_kv_tier_store(sp_kv_tier *t);
const char *sp_kv_tier_io(const sp_kv_tier *t);

/* --- reading
 * ----------------------------------------------------------------------------------- */

/* How many of keys [n], the pages from number `first` of a prompt on, should be fetched. out [n]:
 * where they lie, pinned; the caller hands them to load or unpins them. */
size_t sp_kv_tier_plan(sp_kv_tier *t, const sp_kv_key *key, size_t n, size_t first, sp_kv_hit *out);

/* The snapshot of states with this key, pinned. */
bool sp_kv_tier_find_state(sp_kv_tier *t, const sp_kv_key *key, sp_kv_hit *out);
/* Does fetching it pay, if without it n_page pages from number `first` on are computed again? */
bool sp_kv_tier_state_pays(sp_kv_tier *t, const sp_kv_hit *hit, size_t first, size_t n_page);

typedef struct sp_kv_item {
    sp_kv_hit hit;
    void *hi, *lo;  /* host memory to fill; NULL: that part is not wanted */
    uint32_t page;  /* the pool's */
} sp_kv_item;

/* Starts reading; items [n] are copied, their hits go to the load. */
SP_MUST sp_err sp_kv_tier_load(sp_kv_load **out, sp_kv_tier *t, const sp_kv_item *item, size_t n);
/* Layers that can be used; n_layer when all is there. A failed load never gets further. */
size_t sp_kv_load_layers(const sp_kv_load *l);
bool sp_kv_load_failed(const sp_kv_load *l);
bool sp_kv_load_expired(const sp_kv_load *l); /* computing would have been faster */
/* Until layer i can be used. SP_TIMEOUT when expired. */
SP_MUST sp_err sp_kv_load_wait(sp_kv_load *l, size_t layer);
/* The next load that has ended, or NULL. Of its items the first n_good are filled. */
sp_kv_load *sp_kv_tier_done(sp_kv_tier *t);
const sp_kv_item *sp_kv_load_items(const sp_kv_load *l, size_t *n, size_t *n_good);
void sp_kv_load_release(sp_kv_load *l);
/* Milliseconds from the start to the first layer and to the last; 0: not yet. */
void sp_kv_load_times(const sp_kv_load *l, double *first_ms, double *all_ms);
/* Whom the load is for; the pool's to use. */
void sp_kv_load_set_owner(sp_kv_load *l, void *owner);
void *sp_kv_load_owner(const sp_kv_load *l);
size_t sp_kv_tier_loading(const sp_kv_tier *t); /* loads not yet released */

/* --- writing
 * ----------------------------------------------------------------------------------- */

/* Writes a run of pages some time later. Their memory must not change until it comes back. */
typedef struct sp_kv_save {
    struct sp_kv_save *next;
    sp_kv_rec rec;
    sp_kv_rec_page page[SP_KV_RUN];
    void *hi[SP_KV_RUN], *lo[SP_KV_RUN];
    uint32_t number[SP_KV_RUN]; /* the pool's */
    uint32_t stored;            /* out: bit i: page i is on the disk */
    /* NULL; or makes hi[0] before it is written; false: it is not written */
    bool (*form)(struct sp_kv_save *s);
    struct sp_kv_state *state;  /* the pool's, for form: a snapshot */
    size_t state_bytes;
    bool squeeze;
} sp_kv_save;

void sp_kv_tier_save(sp_kv_tier *t, sp_kv_save *s); /* takes s */
sp_kv_save *sp_kv_tier_saved(sp_kv_tier *t);        /* the next that is done; the caller frees it */

/* --- bookkeeping
 * -------------------------------------------------------------------------------- */

/* tok tokens, counted with their depth cost, took seconds. */
void sp_kv_tier_note_compute(sp_kv_tier *t, double tok, double seconds);

/* Deletes on SSD and in the object store: all of a tenant (tag), or of it what a conversation
 * computed (conv); NULL: any. Blocks; off the disk and out of the store when SP_OK. What another
 * conversation of the same tenant shares by the same tokens goes too, and is computed again when
 * asked for. */
typedef struct sp_kv_forget {
    const uint8_t *tag, *conv;
    size_t n_page; /* out: pages removed */
} sp_kv_forget;
bool sp_kv_forget_hits(const sp_kv_forget *f, const uint8_t *tag, const uint8_t *conv);
SP_MUST sp_err sp_kv_tier_forget(sp_kv_tier *t, sp_kv_forget *f, sp_diag *d);

void sp_kv_object_key(char out[128], const sp_kv_run *r); /* of its object */

#endif
