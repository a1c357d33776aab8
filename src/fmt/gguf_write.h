/* Writes a GGUF v3 file: first all keys and the table of tensors, then the tensors' bytes in the
 * order of the table. The file is PATH.part until it is whole; sp_gguf_out_close renames it,
 * sp_gguf_out_free removes what was not closed.
 * Owner: the caller frees. Threads: one. Source: the GGUF specification. */
#ifndef SP_FMT_GGUF_WRITE_H
#define SP_FMT_GGUF_WRITE_H

#include "fmt/gguf.h"

typedef struct sp_gguf_out sp_gguf_out;

/* An empty file, nowhere yet. Errors: SP_NOMEM. */
SP_MUST sp_err sp_gguf_out_new(sp_gguf_out **out, sp_diag *d);
/* What was not closed is removed. */
void sp_gguf_out_free(sp_gguf_out *o); /* NULL allowed */
/* A key with one value, of n bytes where it is text, or with n values. Out of memory is remembered
 * until sp_gguf_out_open. */
void sp_gguf_out_u32(sp_gguf_out *o, const char *key, uint32_t v);
void sp_gguf_out_f32(sp_gguf_out *o, const char *key, double v);
void sp_gguf_out_bool(sp_gguf_out *o, const char *key, bool v);
void sp_gguf_out_str(sp_gguf_out *o, const char *key, const char *s, size_t n);
void sp_gguf_out_strs(sp_gguf_out *o, const char *key, const sp_str *s, size_t n);
void sp_gguf_out_i32s(sp_gguf_out *o, const char *key, const int32_t *v, size_t n);
void sp_gguf_out_f32s(sp_gguf_out *o, const char *key, const float *v, size_t n);
void sp_gguf_out_u8s(sp_gguf_out *o, const char *key, const void *p, size_t n);
void sp_gguf_out_bools(sp_gguf_out *o, const char *key, const bool *v, size_t n);
/* A tensor of dim [n_dim] numbers, dim[0] those of a row; its bytes fit a size_t. Errors: SP_LIMIT,
 * SP_NOMEM. */
SP_MUST sp_err sp_gguf_out_tensor(sp_gguf_out *o, const char *name, sp_type type, const size_t *dim,
                                  size_t n_dim, sp_diag *d);
/* Writes the head: no key and no tensor may follow. Errors: SP_INVAL (path), SP_IO, SP_LIMIT (a
 * full disk), SP_NOMEM. */
SP_MUST sp_err sp_gguf_out_open(sp_gguf_out *o, const char *path, sp_diag *d);
/* Bytes that the whole file will have; before it is opened. */
size_t sp_gguf_out_bytes(const sp_gguf_out *o);
/* As sp_gguf_out_open, into p [sp_gguf_out_bytes], the caller's memory. */
SP_MUST sp_err sp_gguf_out_open_mem(sp_gguf_out *o, void *p, sp_diag *d);
/* Bytes of the tensors, one behind the other; each tensor's must be all that its table says, in any
 * pieces. Errors: SP_IO, SP_LIMIT (a full disk). */
SP_MUST sp_err sp_gguf_out_data(sp_gguf_out *o, const void *p, size_t n, sp_diag *d);
/* Makes the file durable and gives it its name; all data must have been written. Errors: SP_IO,
 * SP_LIMIT, SP_NOMEM. */
SP_MUST sp_err sp_gguf_out_close(sp_gguf_out *o, sp_diag *d);

#endif
