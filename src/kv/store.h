/* The warm tier on disk, and the index of all that has left RAM, cold objects included.
 *
 * A folder holds LOCK (one process at a time), `index` (a log of what lies where) and segments
 * `seg-XXXXXXXX` to which records are appended (record.h). A record given up leaves a hole that
 * costs no space; a segment that is mostly holes is copied together and removed.
 *
 * Order of writes: record, then its entry in the log. An entry whose record did not reach the disk
 * fails its checksum when read, and the pages are computed again. A deletion is acknowledged after
 * the log's entry and the hole are on the disk.
 *
 * What is given up when the budget is reached: the run with the least (floor at its last use +
 * reuse x cost of computing it / bytes), never one that others continue (GreedyDual-Size-Frequency:
 * Cherkasova 1998).
 *
 * Owner:   the store owns runs; a pin keeps one and its bytes in place.
 * Threads: find, pins, stat and select from any; add, tidy and forget from the writer thread;
 * set_cold and drop from any
 *          thread but the step thread (they write). Lock rank KV, never held over I/O.
 * Errors:  SP_IO with errno; SP_LIMIT: the folder is in use; SP_CORRUPT only for bytes read. */
#ifndef SP_KV_STORE_H
#define SP_KV_STORE_H

#include "kv/record.h"

typedef struct sp_kv_store sp_kv_store;

typedef struct sp_kv_run {
    sp_kv_rec rec; /* immutable; rec.packed is false */
    /* guard: the store's lock */
    uint32_t seg;  /* 0: not on disk */
    uint32_t pins, n_child;
    uint64_t at, bytes;
    uint64_t cold_bytes; /* 0: no object */
    int64_t used_s;      /* wall clock of the last use */
    uint32_t hits;
    bool dead, counted;  /* in no index, freed when unpinned; counted in its parent's n_child */
    double prio;
    size_t slot;
    struct sp_kv_run *next_dead;
    /* [n_page] */
    struct sp_kv_slot { struct sp_kv_run *run; uint32_t page; struct sp_kv_slot *next; } *hash;
} sp_kv_run;

typedef struct sp_kv_store_cfg {
    const char *dir;      /* made if it is not there */
    uint64_t cap_bytes;   /* of records on disk */
    double depth_cost;    /* cost of a token at position p is 1 + p * depth_cost */
} sp_kv_store_cfg;

typedef struct sp_kv_store_stat {
    size_t n_run, n_seg, n_cold;
    uint64_t warm_bytes, cold_bytes, warm_tok, cold_tok, index_bytes;
    uint64_t warm_snap, cold_snap; /* snapshots of states */
    /* since start: runs given up; of them in no tier any more; mismatches */
    uint64_t n_evicted, n_lost, n_corrupt;
    double open_ms;
} sp_kv_store_stat;

/* A page looked for, and where it was found. */
typedef struct sp_kv_key {
    sp_sha256 id, parent;
    const uint32_t *tok;
} sp_kv_key;
typedef struct sp_kv_hit {
    sp_kv_run *run; /* pinned once for each hit, so that it stays where it was found */
    uint32_t page;
    bool warm;           /* on disk */
    uint64_t cold_bytes; /* else: of its object */
} sp_kv_hit;

SP_MUST sp_err sp_kv_store_open(sp_kv_store **out, const sp_kv_store_cfg *cfg, sp_diag *d);
void sp_kv_store_close(sp_kv_store *s); /* no pins may be left */
void sp_kv_store_stat_of(sp_kv_store *s, sp_kv_store_stat *out);
uint64_t sp_kv_store_cap(const sp_kv_store *s);

/* Finds keys [n] in order up to the first that is nowhere, and pins. cold: objects count too. */
size_t sp_kv_store_find(sp_kv_store *s, const sp_kv_key *key, size_t n, bool cold, sp_kv_hit *out);
void sp_kv_store_unpin(sp_kv_store *s, sp_kv_run *r);
void sp_kv_store_used(sp_kv_store *s, sp_kv_run *r); /* counts a reuse */
bool sp_kv_store_has(sp_kv_store *s, const sp_sha256 *id);

/* Appends a record of the pages; makes room first. *rec is copied. None of them may be on the disk
 * already; a run known only by its object lies there again afterwards. */
SP_MUST sp_err sp_kv_store_add(sp_kv_store *s, const sp_kv_rec *rec, void *const *hi,
                               void *const *lo, sp_diag *d);
/* The same of a whole unpacked record as bytes, which are checked. Pages known already are left out
 * silently. */
SP_MUST sp_err sp_kv_store_add_record(sp_kv_store *s, const uint8_t *p, size_t n, sp_diag *d);
/* Adds a run of which only the cold object exists (found on another machine's bucket). */
SP_MUST sp_err sp_kv_store_add_cold(sp_kv_store *s, const sp_kv_rec *rec, uint64_t cold_bytes,
                                    sp_diag *d);
/* Holes, segments to copy together, and a flush now and then. Call when there is time. */
void sp_kv_store_tidy(sp_kv_store *s);
/* SP_IO: the folder or a file in it was deleted, moved or replaced under the store; d says which.
 * From then on nothing is found in the store and nothing written, until it is opened anew: what
 * lies there was given up by whoever deleted it. Any thread. */
SP_MUST sp_err sp_kv_store_check(sp_kv_store *s, sp_diag *d);
/* Where a pinned run lies. Its bytes may be read until it is unpinned. SP_NOTFOUND: not on disk. */
SP_MUST sp_err sp_kv_store_place(sp_kv_store *s, const sp_kv_run *r, int *fd, uint64_t *at);
/* The whole record, checked, in memory the caller frees. */
SP_MUST sp_err sp_kv_store_read(sp_kv_store *s, const sp_kv_run *r, uint8_t **out, size_t *n,
                                sp_diag *d);

/* 0: gone */
SP_MUST sp_err sp_kv_store_set_cold(sp_kv_store *s, sp_kv_run *r, uint64_t bytes, sp_diag *d);
/* Gives up a run altogether. */
void sp_kv_store_drop(sp_kv_store *s, sp_kv_run *r);
void sp_kv_store_corrupt(sp_kv_store *s, sp_kv_run *r); /* drop, and count a mismatch */
/* Everything given up so far is off the disk when this returns SP_OK. Waits for pins, at most
 * timeout_ms. */
SP_MUST sp_err sp_kv_store_flush(sp_kv_store *s, int timeout_ms, sp_diag *d);

/* All runs for which pick says yes, pinned, in memory the caller frees. pick runs under the
 * lock. */
typedef bool sp_kv_pick(const sp_kv_run *r, void *arg);
SP_MUST sp_err sp_kv_store_select(sp_kv_store *s, sp_kv_pick *pick, void *arg, sp_kv_run ***out,
                                  size_t *n);
/* The run whose page has this identity, pinned; NULL. */
sp_kv_run *sp_kv_store_get(sp_kv_store *s, const sp_sha256 *id, uint32_t *page);

#endif
