#include "fmt/safetensors.h"

#include "base/file.h"
#include "base/mem.h"
#include "base/rd.h"

#include <jansson.h>
#include <string.h>

enum { MAX_HEADER_BYTES = 16 << 20 };

struct sp_safe {
    sp_file_map map;
    json_t *header;
    const uint8_t *data;
    size_t n_bytes; /* of data */
};

static sp_err parse(sp_safe *s, const void *p, size_t n, sp_diag *d)
{
    sp_rd r = sp_rd_make(p, n);
    uint64_t len = sp_rd_u64(&r);
    if (r.failed || len > MAX_HEADER_BYTES || len > sp_rd_left(&r) || (8 + len) % 4)
        return SP_FAIL(d, SP_FORMAT, "safetensors: header of %llu bytes in a file of %zu",
                       (unsigned long long)len, n);
    json_error_t je;
    s->header = json_loadb(sp_rd_bytes(&r, len), (size_t)len, JSON_REJECT_DUPLICATES, &je);
    if (!json_is_object(s->header))
        return SP_FAIL(d, SP_FORMAT, "safetensors: header is not a JSON object: %.100s", je.text);
    s->data = (const uint8_t *)p + r.pos;
    s->n_bytes = sp_rd_left(&r);
    return SP_OK;
}

sp_err sp_safe_open_mem(sp_safe **out, const void *p, size_t n, sp_diag *d)
{
    sp_safe *s = sp_mem_alloc(sizeof *s);
    if (!s)
        return SP_FAIL(d, SP_NOMEM, "safetensors");
    sp_err err = parse(s, p, n, d);
    if (err == SP_OK)
        *out = s;
    else
        sp_safe_close(s);
    return err;
}

sp_err sp_safe_open(sp_safe **out, const char *path, sp_diag *d)
{
    sp_file_map map;
    SP_TRY(sp_file_map_open(&map, path, d));
    sp_err err = sp_safe_open_mem(out, map.p, map.len, d);
    if (err == SP_OK)
        (*out)->map = map;
    else
        sp_file_map_close(&map);
    return err;
}

sp_err sp_safe_own(const sp_safe *s, const void *p, size_t n_bytes, sp_diag *d)
{
    return s->map.p ? sp_file_map_own(p, n_bytes, d) : SP_OK;
}

void sp_safe_close(sp_safe *s)
{
    if (!s)
        return;
    json_decref(s->header);
    sp_file_map_close(&s->map);
    sp_mem_free(s);
}

static bool get_size(size_t *out, const json_t *v)
{
    json_int_t i = json_integer_value(v);
    if (!json_is_integer(v) || i < 0)
        return false;
    *out = (size_t)i;
    return true;
}

sp_err sp_safe_f32(const float **out, const sp_safe *s, const char *name, size_t rows, size_t cols,
                   sp_diag *d)
{
    const json_t *t = json_object_get(s->header, name);
    if (!t)
        return SP_FAIL(d, SP_NOTFOUND, "safetensors: no tensor %s", name);
    const char *dtype = json_string_value(json_object_get(t, "dtype"));
    if (!dtype || strcmp(dtype, "F32") != 0)
        return SP_FAIL(d, SP_UNSUP, "safetensors: %s has dtype %.20s, only F32 is supported", name,
                       dtype ? dtype : "(none)");
    const json_t *shape = json_object_get(t, "shape"), *offs = json_object_get(t, "data_offsets");
    size_t r = 0, c = 0, begin = 0, end = 0;
    bool ok = json_array_size(shape) == (cols ? 2u : 1u) &&
              get_size(&r, json_array_get(shape, 0)) && r == rows &&
              (!cols || (get_size(&c, json_array_get(shape, 1)) && c == cols));
    if (!ok)
        return SP_FAIL(d, SP_FORMAT, "safetensors: %s is not of shape [%zu, %zu]", name, rows,
                       cols);
    size_t need = rows * (cols ? cols : 1) * sizeof(float); /* callers pass small, checked shapes */
    ok = json_array_size(offs) == 2 && get_size(&begin, json_array_get(offs, 0)) &&
         get_size(&end, json_array_get(offs, 1)) && begin <= end && end <= s->n_bytes &&
         end - begin == need && begin % 4 == 0;
    if (!ok)
        return SP_FAIL(d, SP_FORMAT,
                       "safetensors: %s: data_offsets do not fit the shape or the file", name);
    *out = (const float *)(const void *)(s->data + begin);
    return SP_OK;
}

static bool is_meta(const char *name)
{
    return strcmp(name, "__metadata__") == 0;
}

const char *sp_safe_next(const sp_safe *s, const char *name)
{
    json_t *h = s->header;
    void *at = name ? json_object_iter_next(h, json_object_iter_at(h, name)) : json_object_iter(h);
    while (at && is_meta(json_object_iter_key(at)))
        at = json_object_iter_next(h, at);
    return at ? json_object_iter_key(at) : NULL;
}

/* Dimensions and place of a tensor whose elements have elem_bytes. */
static sp_err find_data(sp_safe_tensor *r, const sp_safe *s, const json_t *t, size_t elem_bytes,
                        const char *name, sp_diag *d)
{
    const json_t *shape = json_object_get(t, "shape"), *offs = json_object_get(t, "data_offsets");
    size_t begin = 0, end = 0, n_bytes = elem_bytes;
    r->n_dim = json_array_size(shape);
    if (r->n_dim < 1 || r->n_dim > SP_SAFE_DIMS)
        return SP_FAIL(d, SP_UNSUP, "safetensors: %.100s has %zu dimensions, not 1 to %d", name,
                       r->n_dim, SP_SAFE_DIMS);
    for (size_t k = 0; k < SP_SAFE_DIMS; k++)
        r->dim[k] = 1;
    for (size_t k = 0; k < r->n_dim; k++)
        if (!get_size(&r->dim[k], json_array_get(shape, k)) || !r->dim[k] ||
            !sp_mul_ok(&n_bytes, n_bytes, r->dim[k]))
            return SP_FAIL(d, SP_FORMAT, "safetensors: %.100s: dimension %zu is no size", name, k);
    if (json_array_size(offs) != 2 || !get_size(&begin, json_array_get(offs, 0)) ||
        !get_size(&end, json_array_get(offs, 1)) || begin > end || end > s->n_bytes ||
        end - begin != n_bytes || begin % elem_bytes)
        return SP_FAIL(d, SP_FORMAT,
                       "safetensors: %.100s: data_offsets do not fit the shape or the file", name);
    r->data = s->data + begin;
    return SP_OK;
}

sp_err sp_safe_find(sp_safe_tensor *out, const sp_safe *s, const char *name, sp_diag *d)
{
    static const struct { const char *name; sp_type type; size_t bytes; } types[] = {
        {"F32", SP_F32, 4}, {"F16", SP_F16, 2}, {"BF16", SP_BF16, 2}, {"U8", SP_TYPE_COUNT, 1}};
    const json_t *t = json_object_get(s->header, name);
    const char *dtype = json_string_value(json_object_get(t, "dtype"));
    if (!t)
        return SP_FAIL(d, SP_NOTFOUND, "safetensors: no tensor %s", name);
    for (size_t i = 0; dtype && i < sizeof types / sizeof types[0]; i++) {
        if (strcmp(types[i].name, dtype) != 0)
            continue;
        sp_safe_tensor r = {.type = types[i].type, .is_bytes = types[i].bytes == 1};
        SP_TRY(find_data(&r, s, t, types[i].bytes, name, d));
        *out = r;
        return SP_OK;
    }
    return SP_FAIL(d, SP_UNSUP,
                   "safetensors: %.100s has dtype %.20s; F32, F16, BF16 and U8 are supported", name,
                   dtype ? dtype : "(none)");
}
