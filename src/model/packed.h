/* Packed weights in a file: the matrices of a model as the device lays them, so that a later start
 * reads them and does not pack them again. docs/FORMATS.md has the format.
 *
 * A file says the model (its id, which covers every byte of the model's file), the matrices, the
 * layout and its own version, and all of that must be what the reader expects. Each MiB has a
 * checksum; a file that fails one is ignored. It may be deleted at any time.
 *
 * Owner:   the caller owns the memory; a keeper reads it until sp_packed_stop.
 * Threads: any; processes may share a folder. Readers see a whole file or none. */
#ifndef SP_MODEL_PACKED_H
#define SP_MODEL_PACKED_H

#include "base/pool.h"
#include "base/sha256.h"

#include <stdbool.h>
#include <stdint.h>

enum { SP_PACKED_NAME = 80, SP_PACKED_LAYOUT = 32, SP_PACKED_MODEL = 128, SP_PACKED_DIR = 800 };

/* Where files lie. */
typedef struct sp_packed_cfg {
    char dir[SP_PACKED_DIR]; /* "": nowhere */
    uint64_t cap_bytes;      /* of all files of the folder together */
} sp_packed_cfg;

/* What a file must hold. */
typedef struct sp_packed_key {
    sp_sha256 model, table; /* the model's id; of type, rows, columns and place of each matrix */
    char layout[SP_PACKED_LAYOUT];
    char name[SP_PACKED_MODEL]; /* of the model, for people */
    uint64_t n_bytes;
    bool is_part; /* experts stay in the model's file */
} sp_packed_key;

/* Reads the n_bytes into `to`. Errors leave it undefined: SP_NOTFOUND: there is no file; SP_FORMAT:
 * it is of another version, layout or model; SP_CORRUPT: it is damaged; SP_IO, SP_NOMEM. */
SP_MUST sp_err sp_packed_read(void *to, const sp_packed_key *key, const char *dir, sp_pool *pool,
                              sp_diag *d);

/* Removes the file of this key, if there is one. */
void sp_packed_drop(const char *dir, const sp_packed_key *key);

/* Writes n_bytes at `from` into the folder, which is made if it is not there. Files that were not
 * used for longest go until all are within the budget. *stop: set by another thread, it ends the
 * work with SP_CANCEL; NULL: nobody does. An error leaves the files as they were, but for those
 * that went. SP_LIMIT: the budget or the disk has no room, or would have less left than it takes;
 * SP_AGAIN: another process is writing this file. */
SP_MUST sp_err sp_packed_write(const void *from, const sp_packed_key *key, const sp_packed_cfg *cfg,
                               const _Atomic bool *stop, sp_diag *d);

/* The same on a thread of low priority, which logs how it ended; a file that is there already is
 * left. `from` must stay as it is until the stop. */
typedef struct sp_packed_keeper sp_packed_keeper;
SP_MUST sp_err sp_packed_keep(sp_packed_keeper **out, const void *from, const sp_packed_key *key,
                              const sp_packed_cfg *cfg, sp_diag *d);
void sp_packed_stop(sp_packed_keeper *k); /* NULL allowed */

/* A file of the folder. */
typedef struct sp_packed_file {
    char name[SP_PACKED_NAME];
    char model[SP_PACKED_MODEL], layout[SP_PACKED_LAYOUT];
    uint64_t n_bytes;
    int64_t used_s; /* when it was written or read last: wall clock */
    bool is_known;  /* its head can be read; else model and layout are empty */
} sp_packed_file;

/* All files, the one that was not used for longest first; the caller frees *out (sp_mem_free).
 * Errors: SP_NOTFOUND: there is no folder; SP_IO, SP_NOMEM. */
SP_MUST sp_err sp_packed_list(sp_packed_file **out, size_t *n, const char *dir, sp_diag *d);
/* Errors: SP_NOTFOUND, SP_IO. */
SP_MUST sp_err sp_packed_remove(const char *dir, const char *name, sp_diag *d);

#endif
