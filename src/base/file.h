/* Files: read-only maps and whole small files. Owner: the caller closes / frees. */
#ifndef SP_BASE_FILE_H
#define SP_BASE_FILE_H

#include "base/buf.h"
#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

typedef struct sp_file_map {
    const uint8_t *p; /* NULL when closed */
    size_t len;
} sp_file_map;

/* Maps a regular file read-only. Errors: SP_NOTFOUND, SP_IO, SP_FORMAT for an empty file. */
SP_MUST sp_err sp_file_map_open(sp_file_map *out, const char *path, sp_diag *d);
void sp_file_map_close(sp_file_map *m);
/* Drops the whole memory pages inside [p, p + n_bytes) of a map; they come back from the file. */
void sp_file_map_forget(const void *p, size_t n_bytes);
/* Appends the file (or stdin for "-") to out; at most cap_bytes. */
SP_MUST sp_err sp_file_read(sp_buf *out, const char *path, size_t cap_bytes, sp_diag *d);

#endif
