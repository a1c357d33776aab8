/* safetensors over a read-only map: header length, JSON header, data. Everything is checked against the file before use.
 * Owner: sp_safe owns the map and tables; data lives until close. Threads: immutable after open.
 * Source: the safetensors format description. */
#ifndef SP_FMT_SAFETENSORS_H
#define SP_FMT_SAFETENSORS_H

#include "base/err.h"
#include "fmt/quant.h"

#include <stddef.h>

typedef struct sp_safe sp_safe;

SP_MUST sp_err sp_safe_open(sp_safe **out, const char *path, sp_diag *d);
SP_MUST sp_err sp_safe_open_mem(sp_safe **out, const void *p, size_t n, sp_diag *d);
void sp_safe_close(sp_safe *s);
/* A tensor's bytes become the process's own, at the same address; see sp_gguf_own. */
SP_MUST sp_err sp_safe_own(const sp_safe *s, const void *p, size_t n_bytes, sp_diag *d);
typedef struct sp_safe_tensor {
    sp_type type;  /* SP_F32, SP_F16 or SP_BF16 */
    size_t n_dim, dim[2]; /* dim[1], where there are two, is the contiguous one */
    const void *data;
} sp_safe_tensor;

/* The name after this one, in no order that means anything; NULL: the first. NULL past the last. */
const char *sp_safe_next(const sp_safe *s, const char *name);
/* A vector or matrix of any of those types. Errors: SP_NOTFOUND, SP_UNSUP (dtype, dimensions), SP_FORMAT. */
SP_MUST sp_err sp_safe_find(sp_safe_tensor *out, const sp_safe *s, const char *name, sp_diag *d);
/* F32 tensor of exactly this shape (cols 0: a vector of rows elements).
 * Errors: SP_NOTFOUND, SP_UNSUP (dtype), SP_FORMAT (shape). Data is 4-byte aligned. */
SP_MUST sp_err sp_safe_f32(const float **out, const sp_safe *s, const char *name, size_t rows,
                           size_t cols, sp_diag *d);

#endif
