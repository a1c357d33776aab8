/* States of recurrent layers: what such layers of a model hold of a sequence, of a size that does
 * not grow with it. A block of device memory holds those of all layers; it is counted, and never
 * written again once its sequence has moved on, so that sequences and snapshots share it (a fork
 * copies nothing).
 *
 * A snapshot is a block that is kept for reuse. It is known by the identity that a sequence's pages
 * have at its position, which covers every token before it: a state cannot be cut as pages can, so
 * a prefix is known as far as pages and a snapshot reach.
 *
 * Snapshots stay within a budget of bytes. Each is worth the tokens that would be computed again
 * without it, times how often it was of use; who was not of use for long is worth less (GreedyDual:
 * Cao and Irani 1997, "Cost-aware WWW proxy caching algorithms", section 3; all are of one size).
 *
 * Owner: the pool of pages owns them. Threads: owner: step thread. */
#ifndef SP_KV_STATE_H
#define SP_KV_STATE_H

#include "base/sha256.h"
#include "dev/dev.h"
#include "kv/tier.h"

typedef struct sp_kv_states sp_kv_states;

typedef struct sp_kv_state {
    void *mem; /* device memory */
    size_t ref;
    struct sp_kv_state *next; /* of those nobody holds */
} sp_kv_state;

/* What a snapshot is of. */
typedef struct sp_kv_snap {
    sp_sha256 id, before;       /* of its position; of the snapshot before it in its sequence */
    size_t n_tok, n_before;     /* positions; n_before 0: there is none before it */
    uint8_t tag[SP_KV_TAG], conv[SP_KV_TAG];
} sp_kv_snap;

typedef struct sp_kv_state_stat {
    size_t state_bytes, cap_bytes;
    size_t n_block, n_snap;      /* blocks that somebody holds; of them, snapshots */
    size_t n_kept, kept_bytes;   /* sequences that keep what a step took; bytes of each */
    uint64_t n_taken, n_evicted; /* snapshots since start */
} sp_kv_state_stat;

typedef struct sp_kv_states_cfg {
    size_t state_bytes; /* of one sequence, > 0 */
    size_t kept_bytes;  /* of what its layers take of a step whose guesses may be taken back; 0:
                           none may */
    size_t cap_bytes;   /* of snapshots; fewer than state_bytes: none are kept */
} sp_kv_states_cfg;

SP_MUST sp_err sp_kv_states_new(sp_kv_states **out, sp_dev *dev, const sp_kv_states_cfg *cfg);
void sp_kv_states_free(sp_kv_states *p); /* every block must have been put back; NULL allowed */
void sp_kv_states_stat(const sp_kv_states *p, sp_kv_state_stat *out);

/* A block with one holder, contents undefined. SP_NOMEM: there is no memory even without
 * snapshots. */
SP_MUST sp_err sp_kv_state_take(sp_kv_states *p, sp_kv_state **out);
/* Lets go; NULL allowed. */
void sp_kv_state_put(sp_kv_states *p, sp_kv_state *s);
/* Memory of kept_bytes for a sequence that guesses, contents undefined. SP_NOMEM. */
SP_MUST sp_err sp_kv_kept_take(sp_kv_states *p, void **out);
void sp_kv_kept_put(sp_kv_states *p, void *kept); /* NULL allowed */
/* May snapshots be kept at all? */
bool sp_kv_states_keep(const sp_kv_states *p);

/* The snapshot of an identity: its block, borrowed, or NULL. use: it is counted as of use. */
sp_kv_state *sp_kv_snap_find(sp_kv_states *p, const sp_sha256 *id, bool use);
/* What the snapshot of an identity is of, borrowed until the next call, or NULL. */
const sp_kv_snap *sp_kv_snap_of(const sp_kv_states *p, const sp_sha256 *id);
/* Keeps a block as a snapshot, in the place of the least worthy where there is no room: takes a
 * share of s. One that is known already stays as it is. */
void sp_kv_snap_add(sp_kv_states *p, const sp_kv_snap *of, sp_kv_state *s);
/* Forgets what f says; counts them in f->n_page. */
void sp_kv_snap_forget(sp_kv_states *p, sp_kv_forget *f);
/* Counts holders of all blocks; false after printing to d what is inconsistent. For tests. */
SP_MUST sp_err sp_kv_states_check(const sp_kv_states *p, sp_diag *d);

#endif
