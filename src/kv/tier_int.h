/* What tier.c (plan, cost, writing), load*.c (reading) and cold.c (objects in the background)
 * share. */
#ifndef SP_KV_TIER_INT_H
#define SP_KV_TIER_INT_H

#include "base/clock.h"
#include "base/lock.h"
#include "base/log.h"
#include "base/mem.h"
#include "kv/io.h"
#include "kv/tier.h"

#include <stdatomic.h>
#include <string.h>

/* a prefix of 8,000 tokens is 11 objects: one round trip each, together */
enum { SP_KV_FETCHERS = 16 };

/* Pages of one load that lie beside each other in one run. */
typedef struct sp_kv_piece {
    sp_kv_load *load;
    struct sp_kv_piece *next; /* in the queue of fetchers */
    sp_kv_run *run;
    size_t item;              /* its first item */
    uint32_t page, n;         /* pages [page, page + n) of the run */
    bool cold, bad;
    uint8_t *head_bytes;
    sp_kv_head *head;
    uint32_t layer;           /* cold: the next block to unpack */
} sp_kv_piece;

struct sp_kv_load {
    sp_kv_tier *tier;
    sp_kv_load *next;
    void *owner; /* step thread */
    sp_kv_item *item;
    size_t n_item;
    sp_kv_piece *piece;
    size_t n_piece;
    uint32_t n_layer;
    uint64_t bytes[2];      /* wanted from SSD, from objects */
    uint64_t t_start, t_end, ns_limit;
    uint64_t t_first, t_all; /* first and last layer ready; read after `ready` says so */
    /* guard: the tier's lock */
    uint32_t *left;         /* [n_layer] pieces that have not delivered it */
    size_t n_busy;          /* pieces in work */
    _Atomic uint32_t ready; /* layers; written under the lock */
    _Atomic size_t n_good;
};

typedef struct sp_kv_rate { /* seconds = lat_s + bytes / bps */
    double lat_s, bps;
} sp_kv_rate;

/* What fails is left alone for 1, 2, 4, ... 60 s. */
typedef struct sp_kv_backoff {
    unsigned fails;
    uint64_t until_ns;
} sp_kv_backoff;
/* Books an outcome; returns how many failures came right before it. */
unsigned sp_kv_backoff_went(sp_kv_backoff *b, sp_err err);

typedef struct sp_kv_op { /* work for the writer besides saves; on the caller's stack */
    struct sp_kv_op *next;
    sp_kv_forget *forget;
    sp_err err;
    sp_diag *d;
    bool done;
} sp_kv_op;

typedef struct sp_kv_tier_metrics {
    sp_metric *fetch[2], *choice[4], *bytes_read[2], *bytes_written[2], *load_s[2], *first_s[2],
        *mismatch, *write_fail[2], *unsaved, *folder_gone;
    sp_metric *held[2], *held_tok[2], *snaps[2], *evicted, *lost, *abandoned;
} sp_kv_tier_metrics;

struct sp_kv_tier {
    sp_kv_tier_cfg cfg;
    sp_kv_store *store;
    bool folder_gone; /* owner: writer thread */
    sp_kv_io *io; /* owner: warm thread */
    sp_lock lock; /* rank TIER; guards what follows */
    pthread_cond_t work_warm, work_fetch, work_write, work_cold, changed_cond;
    void (*changed)(void *arg);
    void *changed_arg;
    bool stop;
    sp_kv_load *warm, **warm_tail; /* loads with pieces on SSD */
    sp_kv_piece *fetch, **fetch_tail;
    sp_kv_load *done;
    size_t n_loading;
    sp_kv_save *save, **save_tail, *saved;
    size_t n_saving;
    sp_kv_op *op;
    uint64_t queued_bytes[2]; /* asked for and not read yet */
    sp_kv_rate rate[2];
    double tok_s;
    sp_kv_backoff write, cold; /* of the disk and of the object store */
    pthread_t thread[3 + SP_KV_FETCHERS];
    size_t n_thread;
    sp_kv_tier_metrics m;
};

void *sp_kv_warm_main(void *tier);
void *sp_kv_fetch_main(void *tier);
void *sp_kv_cold_main(void *tier);

/* What readers tell a load. Layers [from, to) of a piece are in place; pages from this piece on are
 * not coming; n pieces are done with, the first layer at t_first (0: learn nothing from it). */
void sp_kv_piece_delivered(sp_kv_piece *p, uint32_t from, uint32_t to);
void sp_kv_piece_failed(sp_kv_piece *p);
void sp_kv_load_finished(sp_kv_load *l, size_t n, int tier, uint64_t t_first);
bool sp_kv_piece_head(sp_kv_piece *p);       /* memory for its head */
bool sp_kv_piece_fits(const sp_kv_piece *p); /* is the head read the one the index promised? */

void sp_kv_notify(sp_kv_tier *t); /* calls changed; no lock held */
/* under the lock: configured, and not failing just now */
bool sp_kv_cold_usable(const sp_kv_tier *t);
/* Books the outcome of talking to the object store. */
void sp_kv_cold_went(sp_kv_tier *t, sp_err err, const sp_diag *d);
SP_MUST sp_err sp_kv_forget_object(sp_kv_tier *t, const sp_kv_run *r, sp_diag *d);

#endif
