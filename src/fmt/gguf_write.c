#include "fmt/gguf_write.h"

#include "base/buf.h"
#include "base/mem.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { ALIGN = 32, MAX_NAME = 63, MAX_TENSORS = 1 << 16, PATH_BYTES = 1024 };
enum { HEAD_BYTES = 4 + 4 + 8 + 8 };
enum { U8 = 0, U32 = 4, I32 = 5, F32 = 6, BOOL = 7, STR = 8, ARRAY = 9 };

struct sp_gguf_out {
    sp_buf keys, table;
    uint64_t n_key, n_tensor;
    size_t *n_bytes; /* of each tensor */
    size_t at;       /* of the data, padded: where the next tensor begins */
    size_t i_tensor, done; /* the tensor that is written, and how much of it there is */
    FILE *file;
    char path[PATH_BYTES], part[PATH_BYTES];
};

sp_err sp_gguf_out_new(sp_gguf_out **out, sp_diag *d)
{
    sp_gguf_out *o = sp_mem_alloc(sizeof *o);
    if (!o)
        return SP_FAIL(d, SP_NOMEM, "gguf");
    *out = o;
    return SP_OK;
}

void sp_gguf_out_free(sp_gguf_out *o)
{
    if (!o)
        return;
    if (o->file) {
        fclose(o->file);
        if (o->path[0]) /* else it is memory */
            (void)unlink(o->part);
    }
    sp_buf_fini(&o->keys);
    sp_buf_fini(&o->table);
    sp_mem_free(o->n_bytes);
    sp_mem_free(o);
}

static void put_u32(sp_buf *b, uint32_t v)
{
    sp_buf_put(b, &v, sizeof v);
}

static void put_u64(sp_buf *b, uint64_t v)
{
    sp_buf_put(b, &v, sizeof v);
}

static void put_str(sp_buf *b, const char *s, size_t n)
{
    put_u64(b, n);
    sp_buf_put(b, s, n);
}

static void begin(sp_gguf_out *o, const char *key, uint32_t type)
{
    put_str(&o->keys, key, strlen(key));
    put_u32(&o->keys, type);
    o->n_key++;
}

static void begin_array(sp_gguf_out *o, const char *key, uint32_t type, size_t n)
{
    begin(o, key, ARRAY);
    put_u32(&o->keys, type);
    put_u64(&o->keys, n);
}

void sp_gguf_out_u32(sp_gguf_out *o, const char *key, uint32_t v)
{
    begin(o, key, U32);
    put_u32(&o->keys, v);
}

void sp_gguf_out_f32(sp_gguf_out *o, const char *key, double v)
{
    float f = (float)v;
    begin(o, key, F32);
    sp_buf_put(&o->keys, &f, sizeof f);
}

void sp_gguf_out_bool(sp_gguf_out *o, const char *key, bool v)
{
    begin(o, key, BOOL);
    sp_buf_putc(&o->keys, v ? 1 : 0);
}

void sp_gguf_out_str(sp_gguf_out *o, const char *key, const char *s, size_t n)
{
    begin(o, key, STR);
    put_str(&o->keys, s, n);
}

void sp_gguf_out_strs(sp_gguf_out *o, const char *key, const sp_str *s, size_t n)
{
    begin_array(o, key, STR, n);
    for (size_t i = 0; i < n; i++)
        put_str(&o->keys, s[i].p, s[i].n);
}

void sp_gguf_out_i32s(sp_gguf_out *o, const char *key, const int32_t *v, size_t n)
{
    begin_array(o, key, I32, n);
    sp_buf_put(&o->keys, v, n * sizeof *v);
}

void sp_gguf_out_f32s(sp_gguf_out *o, const char *key, const float *v, size_t n)
{
    begin_array(o, key, F32, n);
    sp_buf_put(&o->keys, v, n * sizeof *v);
}

void sp_gguf_out_u8s(sp_gguf_out *o, const char *key, const void *p, size_t n)
{
    begin_array(o, key, U8, n);
    sp_buf_put(&o->keys, p, n);
}

void sp_gguf_out_bools(sp_gguf_out *o, const char *key, const bool *v, size_t n)
{
    begin_array(o, key, BOOL, n);
    for (size_t i = 0; i < n; i++)
        sp_buf_putc(&o->keys, v[i] ? 1 : 0);
}

sp_err sp_gguf_out_tensor(sp_gguf_out *o, const char *name, sp_type type, const size_t *dim,
                          size_t n_dim, sp_diag *d)
{
    size_t n_bytes = sp_type_row_bytes(type, dim[0]);
    if (strlen(name) > MAX_NAME || o->n_tensor == MAX_TENSORS)
        return SP_FAIL(d, SP_LIMIT,
                       "gguf: tensor %.80s: its name is too long, or there are too many", name);
    size_t *more = sp_mem_grow(o->n_bytes, (size_t)(o->n_tensor + 1) * sizeof *more);
    if (!more)
        return SP_FAIL(d, SP_NOMEM, "gguf");
    put_str(&o->table, name, strlen(name));
    put_u32(&o->table, (uint32_t)n_dim);
    for (size_t i = 0; i < n_dim; i++) {
        put_u64(&o->table, dim[i]);
        n_bytes *= i ? dim[i] : 1;
    }
    put_u32(&o->table, (uint32_t)type);
    put_u64(&o->table, o->at);
    o->n_bytes = more;
    o->n_bytes[o->n_tensor++] = n_bytes;
    o->at += (n_bytes + ALIGN - 1) / ALIGN * ALIGN;
    return SP_OK;
}

static sp_err write_all(sp_gguf_out *o, const void *p, size_t n, sp_diag *d)
{
    if (n == 0 || fwrite(p, 1, n, o->file) == n)
        return SP_OK;
    return SP_FAIL(d, errno == ENOSPC ? SP_LIMIT : SP_IO, "%.150s: %s", o->part, strerror(errno));
}

static sp_err pad(sp_gguf_out *o, size_t n, sp_diag *d)
{
    static const char zero[ALIGN];
    return write_all(o, zero, (ALIGN - n % ALIGN) % ALIGN, d);
}

size_t sp_gguf_out_bytes(const sp_gguf_out *o)
{
    return (HEAD_BYTES + o->keys.len + o->table.len + ALIGN - 1) / ALIGN * ALIGN + o->at;
}

static sp_err write_head(sp_gguf_out *o, sp_diag *d)
{
    const uint32_t version = 3;
    SP_TRY(write_all(o, "GGUF", 4, d));
    SP_TRY(write_all(o, &version, sizeof version, d));
    SP_TRY(write_all(o, &o->n_tensor, sizeof o->n_tensor, d));
    SP_TRY(write_all(o, &o->n_key, sizeof o->n_key, d));
    SP_TRY(write_all(o, o->keys.p, o->keys.len, d));
    SP_TRY(write_all(o, o->table.p, o->table.len, d));
    return pad(o, HEAD_BYTES + o->keys.len + o->table.len, d);
}

sp_err sp_gguf_out_open_mem(sp_gguf_out *o, void *p, sp_diag *d)
{
    if (o->keys.failed || o->table.failed || !(o->file = fmemopen(p, sp_gguf_out_bytes(o), "w")))
        return SP_FAIL(d, SP_NOMEM, "gguf");
    return write_head(o, d);
}

sp_err sp_gguf_out_open(sp_gguf_out *o, const char *path, sp_diag *d)
{
    int n = snprintf(o->path, sizeof o->path, "%s", path),
        m = snprintf(o->part, sizeof o->part, "%s.part", path);
    if (n < 0 || m < 0 || (size_t)m >= sizeof o->part)
        return SP_FAIL(d, SP_INVAL, "%.120s: the path is too long", path);
    if (o->keys.failed || o->table.failed)
        return SP_FAIL(d, SP_NOMEM, "gguf");
    o->file = fopen(o->part, "wbe");
    if (!o->file)
        return SP_FAIL(d, SP_IO, "%.150s: %s", o->part, strerror(errno));
    return write_head(o, d);
}

sp_err sp_gguf_out_data(sp_gguf_out *o, const void *p, size_t n, sp_diag *d)
{
    SP_ASSERT(o->i_tensor < o->n_tensor && n <= o->n_bytes[o->i_tensor] - o->done);
    SP_TRY(write_all(o, p, n, d));
    o->done += n;
    if (o->done < o->n_bytes[o->i_tensor])
        return SP_OK;
    SP_TRY(pad(o, o->done, d));
    o->i_tensor++;
    o->done = 0;
    return SP_OK;
}

sp_err sp_gguf_out_close(sp_gguf_out *o, sp_diag *d)
{
    SP_ASSERT(o->i_tensor == o->n_tensor);
    bool is_whole = fflush(o->file) == 0 && (!o->path[0] || fsync(fileno(o->file)) == 0);
    int closed = fclose(o->file);
    o->file = NULL;
    if (!o->path[0])
        return is_whole && closed == 0 ? SP_OK : SP_FAIL(d, SP_NOMEM, "gguf");
    if (is_whole && closed == 0 && rename(o->part, o->path) == 0)
        return SP_OK;
    sp_err err =
        SP_FAIL(d, errno == ENOSPC ? SP_LIMIT : SP_IO, "%.150s: %s", o->part, strerror(errno));
    (void)unlink(o->part);
    return err;
}
