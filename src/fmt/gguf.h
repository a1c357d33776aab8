/* GGUF v2 and v3 over a read-only map. Opening checks every count, length, type, dimension and
 * offset against the file before anything is used; the error names the key or tensor.
 * A split model (NAME-00001-of-0000N.gguf) is opened as a whole, whichever of its parts is named.
 *
 * Strings, arrays and tensor data point into the map: they live until sp_gguf_close.
 * Owner:   sp_gguf owns the map and its tables.
 * Threads: immutable after open.
 * Source:  the GGUF specification (ggml documentation). docs/FORMATS.md lists the limits. */
#ifndef SP_FMT_GGUF_H
#define SP_FMT_GGUF_H

#include "base/err.h"
#include "base/file.h"
#include "fmt/quant.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct sp_gguf sp_gguf;

typedef struct sp_str { /* borrowed bytes, not NUL-terminated */
    const char *p;
    size_t n;
} sp_str;

typedef struct sp_tensor {
    sp_str name;
    sp_type type;
    uint32_t n_dim;
    uint64_t dim[4];  /* dim[0] is the contiguous one; unused are 1 */
    const void *data; /* inside the map, aligned to general.alignment */
    size_t n_bytes;
} sp_tensor;

/* Maps and checks a file, and its other parts. Errors: SP_NOTFOUND, SP_IO, SP_FORMAT, SP_UNSUP (a
 * type of tensors), SP_LIMIT, SP_NOMEM. */
SP_MUST sp_err sp_gguf_open(sp_gguf **out, const char *path, sp_diag *d);
/* The keys of a file alone, or of the first part: it has no tensors, whatever the file says. For
 * files whose tensors cannot be read. */
SP_MUST sp_err sp_gguf_open_keys(sp_gguf **out, const char *path, sp_diag *d);
/* The same as sp_gguf_open over borrowed bytes (tests, fuzzing). The bytes must be 64-byte
 * aligned. */
SP_MUST sp_err sp_gguf_open_mem(sp_gguf **out, const void *p, size_t n, sp_diag *d);
void sp_gguf_close(sp_gguf *g); /* NULL allowed */

/* Begins to read up to n_bytes of the map from p on. A hint; nothing for borrowed bytes. */
void sp_gguf_ahead(const sp_gguf *g, const void *p, size_t n_bytes);
/* Lets the memory behind [p, p + n_bytes) of the map go: it is read again from the file if it is
 * touched again. A hint; nothing for borrowed bytes. */
void sp_gguf_forget(const sp_gguf *g, const void *p, size_t n_bytes);
/* After the last forget: keys and tensors that were not let go as a whole become the process's own,
 * at the same addresses. From here on nothing that is used lies in the file: it may be cut,
 * overwritten or removed. Nothing for borrowed bytes. Errors: SP_NOMEM. */
SP_MUST sp_err sp_gguf_own(sp_gguf *g, sp_diag *d);

/* Tensors of all parts, in the order of their tables; i < count. Borrowed until close. */
size_t sp_gguf_tensor_count(const sp_gguf *g);
const sp_tensor *sp_gguf_tensor_at(const sp_gguf *g, size_t i);
const sp_tensor *sp_gguf_tensor_find(const sp_gguf *g, const char *name); /* NULL: absent */
size_t sp_gguf_file_bytes(const sp_gguf *g); /* of all parts */
/* Every byte of it, part behind part; between parts there are zeros, fewer than 64 KiB. */
const uint8_t *sp_gguf_base(const sp_gguf *g);
size_t sp_gguf_base_bytes(const sp_gguf *g);
/* The files it was opened from, the first part first, and their stamps then; none for borrowed
 * bytes. */
size_t sp_gguf_part_count(const sp_gguf *g);
const char *sp_gguf_part_path(const sp_gguf *g, size_t i);
const sp_file_stamp *sp_gguf_part_stamp(const sp_gguf *g, size_t i);

/* Scalars. SP_NOTFOUND when absent (d untouched), SP_FORMAT when of another type or out of
 * [min, max]. Integers of any width are accepted where u64 is asked. */
SP_MUST sp_err sp_gguf_u64(uint64_t *out, const sp_gguf *g, const char *key, uint64_t min,
                           uint64_t max, sp_diag *d);
SP_MUST sp_err sp_gguf_f32(float *out, const sp_gguf *g, const char *key, sp_diag *d);
SP_MUST sp_err sp_gguf_bool(bool *out, const sp_gguf *g, const char *key, sp_diag *d);
SP_MUST sp_err sp_gguf_str(sp_str *out, const sp_gguf *g, const char *key, sp_diag *d);
/* Arrays of exactly that element type, *n of them; strings are checked, numbers lie in the map.
 * Errors as above. */
SP_MUST sp_err sp_gguf_strs(const sp_str **out, size_t *n, const sp_gguf *g, const char *key,
                            sp_diag *d);
SP_MUST sp_err sp_gguf_i32s(const void **out, size_t *n, const sp_gguf *g, const char *key,
                            sp_diag *d); /* may be unaligned: read with memcpy */
SP_MUST sp_err sp_gguf_f32s(const void **out, size_t *n, const sp_gguf *g, const char *key,
                            sp_diag *d);
/* A scalar, or element i of an array of exactly n integers or bools: keys that may differ from
 * layer to layer. */
SP_MUST sp_err sp_gguf_u64_at(uint64_t *out, const sp_gguf *g, const char *key, size_t i, size_t n,
                              uint64_t min, uint64_t max, sp_diag *d);
bool sp_gguf_is_array(const sp_gguf *g, const char *key); /* false: absent too */
SP_MUST sp_err sp_gguf_bytes(const void **out, size_t *n, const sp_gguf *g, const char *key,
                             sp_diag *d); /* elements u8 or i8 */
/* Is there a key of this name, of whatever type? */
bool sp_gguf_has(const sp_gguf *g, const char *key);

#endif
