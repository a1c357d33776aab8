/* GGUF parser: keys and tensors of one file's bytes; knows no model.
 * Invariants after open: every pointer handed out lies inside the map; keys and tensor names are
 * unique; tensor ranges are aligned, inside the file, and do not overlap. */
#include "fmt/gguf_int.h"

#include "base/mem.h"
#include "base/rd.h"
#include "base/utf8.h"

#include <stdlib.h>
#include <string.h>

enum {
    MAX_TENSOR = 1 << 16,  /* the largest public models have a few thousand */
    MAX_KV = 1 << 14,
    MAX_KEY_BYTES = 1 << 10,
    MAX_NAME_BYTES = 63,   /* ggml's own limit */
    MAX_ALIGN = 1 << 16,
    MIN_KV_BYTES = 8 + 1 + 4 + 1,
    MIN_TENSOR_BYTES = 8 + 1 + 4 + 8 + 4 + 8
};

const uint8_t sp_gguf_kv_bytes[KV_TYPES] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

static sp_err read_str(sp_str *out, sp_rd *r, size_t max, const char *what, sp_diag *d)
{
    size_t at = r->pos;
    uint64_t n = sp_rd_u64(r);
    if (!r->failed && n > max && n <= sp_rd_left(r))
        return SP_FAIL(d, SP_LIMIT, "gguf: %s at byte %zu is %llu bytes long, limit %zu", what, at,
                       (unsigned long long)n, max);
    const char *p = sp_rd_bytes(r, n);
    if (!p)
        return SP_FAIL(d, SP_FORMAT, "gguf: %s at byte %zu runs past the end of the file", what,
                       at);
    *out = (sp_str){p, (size_t)n};
    return SP_OK;
}

static sp_err read_array(sp_gguf_kv *e, sp_rd *r, sp_diag *d)
{
    e->elem = sp_rd_u32(r);
    e->n = sp_rd_u64(r);
    if (r->failed)
        return SP_FAIL(d, SP_FORMAT, "gguf: key %.*s: array header cut short", (int)e->key.n,
                       e->key.p);
    if (e->elem >= KV_TYPES || e->elem == KV_ARR)
        return SP_FAIL(d, SP_FORMAT, "gguf: key %.*s: array of element type %u is not supported",
                       (int)e->key.n, e->key.p, e->elem);
    size_t least = e->elem == KV_STR ? 8 : sp_gguf_kv_bytes[e->elem];
    if (e->n > sp_rd_left(r) / least)
        return SP_FAIL(d, SP_FORMAT, "gguf: key %.*s: array of %llu elements runs past the end",
                       (int)e->key.n, e->key.p, (unsigned long long)e->n);
    if (e->elem != KV_STR) {
        e->p = sp_rd_bytes(r, e->n * least);
        return SP_OK;
    }
    e->strs = sp_mem_array((size_t)e->n, sizeof *e->strs);
    if (!e->strs)
        return SP_FAIL(d, SP_NOMEM, "gguf: key %.*s", (int)e->key.n, e->key.p);
    for (uint64_t i = 0; i < e->n; i++)
        SP_TRY(read_str(&e->strs[i], r, r->len, "array string", d));
    return SP_OK;
}

static sp_err read_kv(sp_gguf *g, sp_gguf_kv *e, sp_rd *r, sp_diag *d)
{
    size_t at = r->pos;
    uint32_t twin;
    SP_TRY(read_str(&e->key, r, MAX_KEY_BYTES, "key", d));
    if (e->key.n == 0 || !sp_utf8_is_valid(e->key.p, e->key.n) || memchr(e->key.p, 0, e->key.n))
        return SP_FAIL(d, SP_FORMAT, "gguf: the key at byte %zu is empty or not text", at);
    if (sp_map_find(&g->keys, e->key.p, e->key.n, &twin))
        return SP_FAIL(d, SP_FORMAT, "gguf: key %.*s appears twice", (int)e->key.n, e->key.p);
    SP_TRY(sp_map_set(&g->keys, e->key.p, e->key.n, (uint32_t)(e - g->kvs)));
    e->type = sp_rd_u32(r);
    e->n = 1;
    if (r->failed || e->type >= KV_TYPES)
        return SP_FAIL(d, SP_FORMAT, "gguf: key %.*s: unknown value type %u", (int)e->key.n,
                       e->key.p, e->type);
    if (e->type == KV_STR)
        return read_str(&e->str, r, r->len, "string value", d);
    if (e->type == KV_ARR)
        return read_array(e, r, d);
    e->p = sp_rd_bytes(r, sp_gguf_kv_bytes[e->type]);
    if (!e->p)
        return SP_FAIL(d, SP_FORMAT, "gguf: key %.*s: value cut short", (int)e->key.n, e->key.p);
    if (e->type == KV_BOOL && *(const uint8_t *)e->p > 1)
        return SP_FAIL(d, SP_FORMAT, "gguf: key %.*s: bool value %u is neither 0 nor 1",
                       (int)e->key.n, e->key.p, *(const uint8_t *)e->p);
    return SP_OK;
}

/* Reads one tensor record; .data holds the offset until place_tensors. */
static sp_err read_tensor(sp_gguf *g, sp_tensor *t, sp_rd *r, sp_diag *d)
{
    uint32_t twin;
    SP_TRY(read_str(&t->name, r, MAX_NAME_BYTES, "tensor name", d));
    int nn = (int)t->name.n;
    if (nn == 0 || !sp_utf8_is_valid(t->name.p, t->name.n) || memchr(t->name.p, 0, t->name.n))
        return SP_FAIL(d, SP_FORMAT, "gguf: tensor %zu has an empty or unreadable name",
                       (size_t)(t - g->tensors));
    if (sp_map_find(&g->names, t->name.p, t->name.n, &twin))
        return SP_FAIL(d, SP_FORMAT, "gguf: tensor %.*s appears twice", nn, t->name.p);
    SP_TRY(sp_map_set(&g->names, t->name.p, t->name.n, (uint32_t)(t - g->tensors)));
    t->n_dim = sp_rd_u32(r);
    if (r->failed || t->n_dim < 1 || t->n_dim > 4)
        return SP_FAIL(d, SP_FORMAT, "gguf: tensor %.*s has %u dimensions, not 1 to 4", nn,
                       t->name.p, t->n_dim);
    size_t n_elem = 1;
    for (uint32_t i = 0; i < 4; i++) {
        t->dim[i] = i < t->n_dim ? sp_rd_u64(r) : 1;
        if (!r->failed && (t->dim[i] == 0 || !sp_mul_ok(&n_elem, n_elem, t->dim[i])))
            return SP_FAIL(d, SP_FORMAT,
                           "gguf: tensor %.*s: dimension %u is %llu: zero or too large", nn,
                           t->name.p, i, (unsigned long long)t->dim[i]);
    }
    uint32_t type = sp_rd_u32(r);
    uint64_t offset = sp_rd_u64(r);
    if (r->failed)
        return SP_FAIL(d, SP_FORMAT, "gguf: tensor %.*s: record cut short", nn, t->name.p);
    const sp_type_info *ti = sp_type_get(type);
    if (!ti)
        return SP_FAIL(d, SP_UNSUP, "gguf: tensor %.*s has type %s (%u), which is not supported",
                       nn, t->name.p, sp_type_name(type), type);
    if (t->dim[0] % ti->blk_elem)
        return SP_FAIL(d, SP_FORMAT, "gguf: tensor %.*s: row of %llu is not whole %s blocks of %u",
                       nn, t->name.p, (unsigned long long)t->dim[0], ti->name, ti->blk_elem);
    if (!sp_mul_ok(&t->n_bytes, n_elem / ti->blk_elem, ti->blk_bytes) || offset > SIZE_MAX / 2)
        return SP_FAIL(d, SP_FORMAT, "gguf: tensor %.*s: size overflows", nn, t->name.p);
    t->type = (sp_type)type;
    t->data = (const void *)(uintptr_t)offset;
    return SP_OK;
}

static int by_offset(const void *a, const void *b)
{
    uintptr_t x = (uintptr_t)(*(sp_tensor *const *)a)->data;
    uintptr_t y = (uintptr_t)(*(sp_tensor *const *)b)->data;
    return (x > y) - (x < y);
}

static sp_err place_tensors(sp_gguf *g, const uint8_t *base, size_t data_at, size_t align,
                            sp_diag *d)
{
    size_t room = g->n_bytes - data_at, end = 0;
    sp_tensor **order = sp_mem_array(g->n_tensor, sizeof *order);
    if (!order)
        return SP_FAIL(d, SP_NOMEM, "gguf: tensor table");
    for (size_t i = 0; i < g->n_tensor; i++)
        order[i] = &g->tensors[i];
    qsort(order, g->n_tensor, sizeof *order, by_offset);
    sp_err err = SP_OK;
    for (size_t i = 0; i < g->n_tensor && err == SP_OK; i++) {
        sp_tensor *t = order[i];
        size_t offset = (size_t)(uintptr_t)t->data;
        int nn = (int)t->name.n;
        if (offset % align)
            err = SP_FAIL(d, SP_FORMAT, "gguf: tensor %.*s: offset %zu is not aligned to %zu", nn,
                          t->name.p, offset, align);
        else if (offset > room || t->n_bytes > room - offset)
            err = SP_FAIL(d, SP_FORMAT,
                          "gguf: tensor %.*s: bytes %zu + %zu lie past the end of the file (%zu of "
                          "data)",
                          nn, t->name.p, offset, t->n_bytes, room);
        else if (i > 0 && offset < end)
            err = SP_FAIL(d, SP_FORMAT, "gguf: tensor %.*s overlaps the one before it", nn,
                          t->name.p);
        end = offset + t->n_bytes;
        t->data = base + data_at + offset;
    }
    sp_mem_free(order);
    return err;
}

static sp_err read_all(sp_gguf *g, const uint8_t *p, size_t n, bool only_keys, sp_diag *d)
{
    sp_rd r = sp_rd_make(p, n);
    const char *magic = sp_rd_bytes(&r, 4);
    if (!magic || memcmp(magic, "GGUF", 4) != 0)
        return SP_FAIL(d, SP_FORMAT, "gguf: this is not a GGUF file (bad magic)");
    uint32_t version = sp_rd_u32(&r);
    if (version == 0x02000000 || version == 0x03000000)
        return SP_FAIL(d, SP_UNSUP, "gguf: big-endian files are not supported");
    if (r.failed || version < 2 || version > 3)
        return SP_FAIL(d, SP_UNSUP, "gguf: version %u is not supported (2 and 3 are)", version);
    uint64_t n_tensor = sp_rd_u64(&r), n_kv = sp_rd_u64(&r);
    if (r.failed)
        return SP_FAIL(d, SP_FORMAT, "gguf: header cut short");
    if (n_kv > MAX_KV || n_kv > sp_rd_left(&r) / MIN_KV_BYTES)
        return SP_FAIL(d, SP_FORMAT, "gguf: %llu keys cannot fit in this file",
                       (unsigned long long)n_kv);
    if (n_tensor > MAX_TENSOR || n_tensor > sp_rd_left(&r) / MIN_TENSOR_BYTES)
        return SP_FAIL(d, SP_FORMAT, "gguf: %llu tensors cannot fit in this file",
                       (unsigned long long)n_tensor);
    g->kvs = sp_mem_array((size_t)n_kv, sizeof *g->kvs);
    g->tensors = sp_mem_array((size_t)n_tensor, sizeof *g->tensors);
    if (!g->kvs || !g->tensors)
        return SP_FAIL(d, SP_NOMEM, "gguf: tables");
    SP_TRY(sp_map_init(&g->keys, (size_t)n_kv));
    SP_TRY(sp_map_init(&g->names, (size_t)n_tensor));
    for (; g->n_kv < n_kv; g->n_kv++) {
        sp_err err = read_kv(g, &g->kvs[g->n_kv], &r, d);
        if (err != SP_OK) {
            g->n_kv++; /* so that close frees a half-read array */
            return err;
        }
    }
    if (only_keys)
        return SP_OK;
    for (; g->n_tensor < n_tensor; g->n_tensor++)
        SP_TRY(read_tensor(g, &g->tensors[g->n_tensor], &r, d));
    uint64_t align = 32;
    sp_err err = sp_gguf_u64(&align, g, "general.alignment", 1, MAX_ALIGN, d);
    if (err != SP_OK && err != SP_NOTFOUND)
        return err;
    if (align & (align - 1))
        return SP_FAIL(d, SP_FORMAT, "gguf: general.alignment %llu is not a power of two",
                       (unsigned long long)align);
    if (n_tensor == 0)
        return SP_OK; /* vocabulary only */
    size_t data_at = (r.pos + align - 1) / align * align;
    if (data_at > n)
        return SP_FAIL(d, SP_FORMAT, "gguf: the file ends before its tensor data");
    return place_tensors(g, p, data_at, align, d);
}

sp_err sp_gguf_parse(sp_gguf **out, const void *p, size_t n, bool only_keys, sp_diag *d)
{
    sp_gguf *g = sp_mem_alloc(sizeof *g);
    if (!g)
        return SP_FAIL(d, SP_NOMEM, "gguf");
    g->base = p;
    g->n_bytes = n;
    sp_err err = read_all(g, p, n, only_keys, d);
    if (err == SP_OK)
        *out = g;
    else
        sp_gguf_close(g);
    return err;
}

sp_err sp_gguf_open_mem(sp_gguf **out, const void *p, size_t n, sp_diag *d)
{
    return sp_gguf_parse(out, p, n, false, d);
}

void sp_gguf_close(sp_gguf *g)
{
    if (!g)
        return;
    for (size_t i = 0; i < g->n_kv; i++)
        sp_mem_free(g->kvs[i].strs);
    sp_mem_free(g->kvs);
    sp_mem_free(g->tensors);
    sp_mem_free(g->forgotten);
    sp_map_fini(&g->keys);
    sp_map_fini(&g->names);
    for (size_t i = 0; i < g->n_part; i++)
        sp_mem_free(g->part[i].path);
    sp_mem_free(g->part);
    sp_file_map_close(&g->map);
    sp_mem_free(g);
}

size_t sp_gguf_tensor_count(const sp_gguf *g)
{
    return g->n_tensor;
}

const sp_tensor *sp_gguf_tensor_at(const sp_gguf *g, size_t i)
{
    return &g->tensors[i];
}

const sp_tensor *sp_gguf_tensor_find(const sp_gguf *g, const char *name)
{
    uint32_t i;
    return sp_map_find(&g->names, name, strlen(name), &i) ? &g->tensors[i] : NULL;
}
