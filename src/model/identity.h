/* The identity of a model: a digest of every byte of its file or files, so that tensors,
 * hyper-parameters and tables all count. It is made while the weights are packed, so that the file
 * is read once: whoever has read a stretch of it gives it to sp_identity_take, and sp_identity_end
 * reads the rest. The digest is that of the SHA-256 of each 256 KiB of the file, in order, which
 * threads compute apart. Parts of a split file count as they lie in the map, behind each other.
 *
 * Kept: for files from 16 MiB on, in FILE.gguf.id (of a split file the first part's), or in
 * $XDG_CACHE_HOME/sparing where the model's folder cannot be written, with the size, inode and
 * times of each file. While these are unchanged, nothing is read again (docs/FORMATS.md).
 *
 * Owner:   sp_identity owns its table, and borrows the GGUF and the pool.
 * Threads: one; the hashing itself runs on the pool's. */
#ifndef SP_MODEL_IDENTITY_H
#define SP_MODEL_IDENTITY_H

#include "base/pool.h"
#include "base/sha256.h"
#include "fmt/gguf.h"

#include <stdbool.h>

typedef struct sp_identity {
    const sp_gguf *g;
    sp_pool *pool;
    sp_sha256 *blk; /* [n_blk] */
    uint8_t *done;  /* [n_blk] */
    size_t n_blk;
    bool known;     /* kept from an earlier start: nothing is hashed */
    sp_sha256 kept;
} sp_identity;

/* Is the digest of such a file kept: is it a large one, and opened by its path? */
bool sp_identity_is_kept(const sp_gguf *g);
/* Errors: SP_NOMEM. A kept digest that cannot be read is computed again. */
SP_MUST sp_err sp_identity_init(sp_identity *out, const sp_gguf *g, sp_pool *pool, sp_diag *d);
void sp_identity_fini(sp_identity *i);
/* Hashes the blocks of the file that have bytes in [p, p + n), as far as that was not done. */
SP_MUST sp_err sp_identity_take(sp_identity *i, const void *p, size_t n);
/* Hashes what is left and keeps the digest if it can. SP_FORMAT: the file was changed since it was
 * opened. */
SP_MUST sp_err sp_identity_end(sp_identity *i, sp_sha256 *out, sp_diag *d);

#endif
