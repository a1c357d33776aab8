/* Files: read-only maps and whole small files. Owner: the caller closes / frees. */
#ifndef SP_BASE_FILE_H
#define SP_BASE_FILE_H

#include "base/buf.h"
#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What tells whether a file is still the one it was: any write changes it, also one that sets the
 * times back. */
typedef struct sp_file_stamp {
    uint64_t ino, n_bytes;
    int64_t mtime_ns, ctime_ns;
} sp_file_stamp;

typedef struct sp_file_map {
    const uint8_t *p; /* NULL when closed */
    size_t len;
    sp_file_stamp stamp; /* when it was opened */
} sp_file_map;

/* Maps a regular file read-only. Errors: SP_NOTFOUND, SP_IO, SP_FORMAT for an empty file. */
SP_MUST sp_err sp_file_map_open(sp_file_map *out, const char *path, sp_diag *d);
void sp_file_map_close(sp_file_map *m);
/* A range of addresses that reads as zeros, for files to be mapped into; sp_file_map_close gives
 * all of it back. Errors: SP_NOMEM. */
SP_MUST sp_err sp_file_range_open(sp_file_map *out, size_t n_bytes, sp_diag *d);
/* Maps the first n_bytes of a file over the range at `at`, which is at a page. Errors: as
 * sp_file_map_open; SP_FORMAT: it has another size. */
SP_MUST sp_err sp_file_map_at(const uint8_t *at, size_t n_bytes, const char *path,
                              sp_file_stamp *stamp, sp_diag *d);
/* Begins to read [p, p + n_bytes) of a map into memory, and does not wait. A hint. */
void sp_file_map_ahead(const void *p, size_t n_bytes);
/* Drops the whole memory pages inside [p, p + n_bytes) of a map; they come back from the file. */
void sp_file_map_forget(const void *p, size_t n_bytes);
/* Makes the bytes [p, p + n_bytes) of a map the process's own, at the same addresses: whatever
 * becomes of the file, they stay. They take memory that cannot be dropped and read again. Errors:
 * SP_NOMEM. */
SP_MUST sp_err sp_file_map_own(const void *p, size_t n_bytes, sp_diag *d);
/* The stamp of the file that path names now. Errors: SP_NOTFOUND, SP_IO. */
SP_MUST sp_err sp_file_stamp_of(sp_file_stamp *out, const char *path, sp_diag *d);
bool sp_file_stamp_eq(const sp_file_stamp *a, const sp_file_stamp *b);
/* Writes a small file beside its place and renames it there, so that a reader sees the old or the
 * new one. Not durable: a crash may lose it. Errors: SP_IO. */
SP_MUST sp_err sp_file_replace(const char *path, const void *p, size_t n, sp_diag *d);
/* Appends the file (or stdin for "-") to out; at most cap_bytes. */
SP_MUST sp_err sp_file_read(sp_buf *out, const char *path, size_t cap_bytes, sp_diag *d);

#endif
