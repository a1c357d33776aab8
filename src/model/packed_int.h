/* What reading and writing of packed weights share: the head of a file and where things lie. */
#ifndef SP_MODEL_PACKED_INT_H
#define SP_MODEL_PACKED_INT_H

#include "model/packed.h"

#define SP_PACKED_MAGIC "SPWEIGHT"
#define SP_PACKED_TAIL ".weights"
#define SP_PACKED_NEW ".weights.new" /* while it is written: locked by its writer */

enum { SP_PACKED_VERSION = 1, SP_PACKED_BLK = 1 << 20, SP_PACKED_PAGE = 4096 };

/* Little-endian, at the file's beginning. Behind it zeros up to SP_PACKED_PAGE, the checksums of
 * all blocks (u64, XXH3), zeros up to data_at, then the data. */
typedef struct sp_packed_head {
    char magic[8];
    uint32_t version, blk_bytes;
    uint64_t n_bytes, data_at; /* of the data; where it begins: a multiple of SP_PACKED_PAGE */
    sp_sha256 model, table;
    char layout[SP_PACKED_LAYOUT], name[SP_PACKED_MODEL];
    uint64_t sum; /* XXH3 of the head before it, then of the checksums: sp_packed_sum */
} sp_packed_head;
_Static_assert(sizeof(sp_packed_head) == 264, "as docs/FORMATS.md has it");

/* All but the sum. */
sp_packed_head sp_packed_head_of(const sp_packed_key *key);
uint64_t sp_packed_sum(const sp_packed_head *h, const uint64_t *sums, size_t n_blk);
/* Bytes [at, at + n) of a file. Errors: SP_CORRUPT: it ends before; SP_IO. */
SP_MUST sp_err sp_packed_pread(int fd, void *to, size_t n, uint64_t at, const char *path,
                               sp_diag *d);
/* The head of the file that is open. Errors as sp_packed_read. */
SP_MUST sp_err sp_packed_check(sp_packed_head *out, int fd, const sp_packed_key *key,
                               const char *path, sp_diag *d);
/* DIR/ID.weights, of the id its first 16 digits; or with the tail given. */
void sp_packed_path(char *out, size_t cap, const char *dir, const sp_packed_key *key,
                    const char *tail);

static inline size_t sp_packed_n_blk(uint64_t n_bytes)
{
    return (size_t)((n_bytes + SP_PACKED_BLK - 1) / SP_PACKED_BLK);
}

#endif
