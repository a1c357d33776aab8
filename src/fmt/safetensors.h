/* safetensors over a read-only map: header length, JSON header, data. Everything is checked against
 * the file before use.
 * Owner: sp_safe owns the map and tables; data lives until close. Threads: immutable after open.
 * Source: the safetensors format description. */
#ifndef SP_FMT_SAFETENSORS_H
#define SP_FMT_SAFETENSORS_H

#include "base/err.h"
#include "fmt/quant.h"

#include <stdbool.h>
#include <stddef.h>

typedef struct sp_safe sp_safe;

/* Maps a file, or takes n bytes at p, which stay the caller's and live until close. Errors:
 * SP_NOTFOUND, SP_IO, SP_FORMAT, SP_NOMEM. */
SP_MUST sp_err sp_safe_open(sp_safe **out, const char *path, sp_diag *d);
SP_MUST sp_err sp_safe_open_mem(sp_safe **out, const void *p, size_t n, sp_diag *d);
void sp_safe_close(sp_safe *s); /* NULL allowed */
/* A tensor's bytes become the process's own, at the same address; see sp_gguf_own. */
SP_MUST sp_err sp_safe_own(const sp_safe *s, const void *p, size_t n_bytes, sp_diag *d);
enum { SP_SAFE_DIMS = 4 };
typedef struct sp_safe_tensor {
    sp_type type;  /* SP_F32, SP_F16 or SP_BF16 */
    bool is_bytes; /* U8, and type means nothing */
    size_t n_dim,
        dim[SP_SAFE_DIMS]; /* the last of them is the contiguous one; those behind it are 1 */
    const void *data;
} sp_safe_tensor;

/* The name after this one, in no order that means anything; NULL: the first. NULL past the last. */
const char *sp_safe_next(const sp_safe *s, const char *name);
/* A tensor of any of those types. Errors: SP_NOTFOUND, SP_UNSUP (dtype, dimensions), SP_FORMAT. */
SP_MUST sp_err sp_safe_find(sp_safe_tensor *out, const sp_safe *s, const char *name, sp_diag *d);
/* F32 tensor of exactly this shape (cols 0: a vector of rows elements).
 * Errors: SP_NOTFOUND, SP_UNSUP (dtype), SP_FORMAT (shape). Data is 4-byte aligned. */
SP_MUST sp_err sp_safe_f32(const float **out, const sp_safe *s, const char *name, size_t rows,
                           size_t cols, sp_diag *d);

#endif
