/* What the files of the store share: store.c (the interface), index.c (the index in memory),
 * journal.c (the index on disk), segment.c (the bytes). Invariants:
 * 1. A page identity is in the hash at most once; every slot of a live run is in it, of a dead run
 * none.
 * 2. key[i] is runs[i]'s priority, or infinity while it must not be given up: not on disk, pinned,
 * or
 *    continued by another run on disk.
 * 3. A segment's live bytes are the sum of its live runs' bytes. A dead run keeps its bytes until
 * swept.
 * 4. The log holds, in order, what was added and given up; replaying it gives the index. */
#ifndef SP_KV_STORE_INT_H
#define SP_KV_STORE_INT_H

#include "base/buf.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/lock.h"
#include "base/log.h"
#include "base/mem.h"
#include "kv/store.h"

#include <stdatomic.h>

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef enum sp_kvs_log_kind { LOG_ADD = 1, LOG_COLD, LOG_DROP_WARM, LOG_DROP } sp_kvs_log_kind;

typedef struct sp_kvs_segment {
    uint32_t serial;
    int fd;
    uint64_t len, live;
    bool dirty;
} sp_kvs_segment;

struct sp_kv_store {
    sp_kv_store_cfg cfg;
    char *dir;
    int dir_fd, lock_fd;
    uint64_t seg_cap;
    /* guard: lock (rank KV) */
    sp_lock lock;
    sp_kv_run **runs;
    double *key; /* beside runs, for eviction */
    size_t n_run, cap_run;
    struct sp_kv_slot **bucket;
    size_t n_bucket, n_slot;
    sp_kv_run *dead;
    double floor;
    uint64_t warm_bytes;
    sp_kv_store_stat stat;
    sp_kvs_segment *seg; /* writers are on the writer thread and hold the lock */
    size_t n_seg, cap_seg;
    /* guard: log_lock (rank KV_LOG) */
    sp_lock log_lock;
    int log_fd;
    uint64_t log_len;
    bool log_broken;  /* an entry is half written: the log must be rewritten */
    uint64_t t_flush; /* owner: writer thread */
    bool can_punch;
    _Atomic bool gone; /* the folder was deleted: nothing is found and nothing written any more */
};

/* store.c: whole reads and writes; what names the file in the error. */
SP_MUST sp_err sp_kvs_io_error(const sp_kv_store *s, const char *what, sp_diag *d);
SP_MUST sp_err sp_kvs_write_all(const sp_kv_store *s, int fd, const void *p, size_t n, uint64_t at,
                                const char *what, sp_diag *d);
SP_MUST sp_err sp_kvs_read_all(const sp_kv_store *s, int fd, void *p, size_t n, uint64_t at,
                               const char *what, sp_diag *d);

/* index.c; everything under the lock, but run_new and name_of. */
struct sp_kv_slot *sp_kvs_find_slot(const sp_kv_store *s, const sp_sha256 *id);
const sp_sha256 *sp_kvs_name_of(const sp_kv_run *r); /* identity of the last page names a run */
void sp_kvs_set_key(sp_kv_store *s, const sp_kv_run *r);
void sp_kvs_set_prio(sp_kv_store *s, sp_kv_run *r);
/* A run on disk counts in the one it continues, if that is known. */
void sp_kvs_count_in(sp_kv_store *s, sp_kv_run *r);
void sp_kvs_count_out(sp_kv_store *s, sp_kv_run *r);
sp_kv_run *sp_kvs_run_new(const sp_kv_rec *rec);
SP_MUST sp_err sp_kvs_index_add(sp_kv_store *s, sp_kv_run *r);
void sp_kvs_index_remove(sp_kv_store *s, sp_kv_run *r);
sp_kvs_segment *sp_kvs_seg_of(const sp_kv_store *s, uint32_t serial);
void sp_kvs_leave_warm(sp_kv_store *s, sp_kv_run *r);
/* A grave of its own for the place of a run that lives on; swept like a dead run. false: no
 * memory. */
bool sp_kvs_bury_place(sp_kv_store *s, const sp_kv_run *r);

/* journal.c; log_rewrite and open_log under the log's lock or before there are threads. */
SP_MUST sp_err sp_kvs_open_log(sp_kv_store *s, sp_diag *d);
SP_MUST sp_err sp_kvs_log_rewrite(sp_kv_store *s, sp_diag *d);
sp_err sp_kvs_log_about(sp_kv_store *s, sp_kvs_log_kind kind, const sp_sha256 *name, uint64_t bytes,
                        sp_diag *d);
SP_MUST sp_err sp_kvs_log_run(sp_kv_store *s, const sp_kv_run *r, sp_diag *d);

/* segment.c; on the writer thread or before there is one. */
SP_MUST sp_err sp_kvs_open_segments(sp_kv_store *s, sp_diag *d);
SP_MUST sp_err sp_kvs_punch_gaps(sp_kv_store *s);
SP_MUST sp_err sp_kvs_append(sp_kv_store *s, const uint8_t *p, size_t n, uint32_t *seg,
                             uint64_t *at, sp_diag *d);
void sp_kvs_sweep(sp_kv_store *s);
void sp_kvs_clean_segments(sp_kv_store *s);

#endif
