/* Typed reads of a GGUF's keys. */
#include "fmt/gguf_int.h"

#include <string.h>

static const char *const kv_name[KV_TYPES] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                              "bool", "string", "array", "u64", "i64", "f64"};

const sp_gguf_kv *sp_gguf_kv_find(const sp_gguf *g, const char *key, size_t n)
{
    uint32_t i;
    return sp_map_find(&g->keys, key, n, &i) ? &g->kvs[i] : NULL;
}

static const sp_gguf_kv *find(const sp_gguf *g, const char *key)
{
    return sp_gguf_kv_find(g, key, strlen(key));
}

bool sp_gguf_has(const sp_gguf *g, const char *key)
{
    return find(g, key) != NULL;
}

static sp_err wrong_type(const sp_gguf_kv *e, const char *want, sp_diag *d)
{
    return SP_FAIL(d, SP_FORMAT, "gguf: key %.*s is %s, expected %s", (int)e->key.n, e->key.p,
                   kv_name[e->type], want);
}

/* The integer or bool of this type at p. */
static sp_err int_of(uint64_t *out, const sp_gguf_kv *e, uint32_t type, const void *p, uint64_t min,
                     uint64_t max, sp_diag *d)
{
    uint64_t v = 0;
    switch (type) {
    case KV_U8: case KV_U16: case KV_U32: case KV_U64:
        memcpy(&v, p, sp_gguf_kv_bytes[type]); /* little-endian */
        break;
    case KV_BOOL:
        v = *(const uint8_t *)p != 0;
        break;
    case KV_I8: case KV_I16: case KV_I32: case KV_I64: {
        int64_t s = 0;
        memcpy(&s, p, sp_gguf_kv_bytes[type]);
        unsigned shift = 64u - 8u * sp_gguf_kv_bytes[type];
        s = (int64_t)((uint64_t)s << shift) >> shift;
        if (s < 0)
            return SP_FAIL(d, SP_FORMAT, "gguf: key %.*s is %lld, expected %llu to %llu",
                           (int)e->key.n, e->key.p, (long long)s, (unsigned long long)min,
                           (unsigned long long)max);
        v = (uint64_t)s;
        break;
    }
    default:
        return wrong_type(e, "an integer", d);
    }
    if (v < min || v > max)
        return SP_FAIL(d, SP_FORMAT, "gguf: key %.*s is %llu, expected %llu to %llu", (int)e->key.n,
                       e->key.p, (unsigned long long)v, (unsigned long long)min,
                       (unsigned long long)max);
    *out = v;
    return SP_OK;
}

sp_err sp_gguf_u64(uint64_t *out, const sp_gguf *g, const char *key, uint64_t min, uint64_t max,
                   sp_diag *d)
{
    const sp_gguf_kv *e = find(g, key);
    if (!e)
        return SP_NOTFOUND;
    return e->type == KV_BOOL ? wrong_type(e, "an integer", d)
                              : int_of(out, e, e->type, e->p, min, max, d);
}

bool sp_gguf_is_array(const sp_gguf *g, const char *key)
{
    const sp_gguf_kv *e = find(g, key);
    return e && e->type == KV_ARR;
}

sp_err sp_gguf_u64_at(uint64_t *out, const sp_gguf *g, const char *key, size_t i, size_t n,
                      uint64_t min, uint64_t max, sp_diag *d)
{
    const sp_gguf_kv *e = find(g, key);
    if (!e || e->type != KV_ARR)
        return sp_gguf_u64(out, g, key, min, max, d);
    if (e->n != n)
        return SP_FAIL(d, SP_FORMAT, "gguf: key %s is an array of %llu, expected %zu", key,
                       (unsigned long long)e->n, n);
    if (e->elem >= KV_TYPES || sp_gguf_kv_bytes[e->elem] == 0)
        return wrong_type(e, "integers", d);
    return int_of(out, e, e->elem, (const char *)e->p + i * sp_gguf_kv_bytes[e->elem], min, max, d);
}

sp_err sp_gguf_f32(float *out, const sp_gguf *g, const char *key, sp_diag *d)
{
    const sp_gguf_kv *e = find(g, key);
    if (!e)
        return SP_NOTFOUND;
    if (e->type != KV_F32)
        return wrong_type(e, "f32", d);
    memcpy(out, e->p, sizeof *out);
    if (!__builtin_isfinite(*out))
        return SP_FAIL(d, SP_FORMAT, "gguf: key %s is not a finite number", key);
    return SP_OK;
}

sp_err sp_gguf_bool(bool *out, const sp_gguf *g, const char *key, sp_diag *d)
{
    const sp_gguf_kv *e = find(g, key);
    if (!e)
        return SP_NOTFOUND;
    if (e->type != KV_BOOL)
        return wrong_type(e, "bool", d);
    *out = *(const uint8_t *)e->p != 0;
    return SP_OK;
}

sp_err sp_gguf_str(sp_str *out, const sp_gguf *g, const char *key, sp_diag *d)
{
    const sp_gguf_kv *e = find(g, key);
    if (!e)
        return SP_NOTFOUND;
    if (e->type != KV_STR)
        return wrong_type(e, "string", d);
    *out = e->str;
    return SP_OK;
}

static sp_err find_array(const sp_gguf_kv **out, const sp_gguf *g, const char *key, uint32_t elem,
                         sp_diag *d)
{
    const sp_gguf_kv *e = find(g, key);
    if (!e)
        return SP_NOTFOUND;
    if (e->type != KV_ARR)
        return wrong_type(e, "array", d);
    if (e->elem != elem)
        return SP_FAIL(d, SP_FORMAT, "gguf: key %s is an array of %s, expected %s", key,
                       kv_name[e->elem], kv_name[elem]);
    *out = e;
    return SP_OK;
}

sp_err sp_gguf_strs(const sp_str **out, size_t *n, const sp_gguf *g, const char *key, sp_diag *d)
{
    const sp_gguf_kv *e;
    SP_TRY(find_array(&e, g, key, KV_STR, d));
    *out = e->strs;
    *n = (size_t)e->n;
    return SP_OK;
}

sp_err sp_gguf_i32s(const void **out, size_t *n, const sp_gguf *g, const char *key, sp_diag *d)
{
    const sp_gguf_kv *e;
    SP_TRY(find_array(&e, g, key, KV_I32, d));
    *out = e->p;
    *n = (size_t)e->n;
    return SP_OK;
}

sp_err sp_gguf_f32s(const void **out, size_t *n, const sp_gguf *g, const char *key, sp_diag *d)
{
    const sp_gguf_kv *e;
    SP_TRY(find_array(&e, g, key, KV_F32, d));
    *out = e->p;
    *n = (size_t)e->n;
    return SP_OK;
}

sp_err sp_gguf_bytes(const void **out, size_t *n, const sp_gguf *g, const char *key, sp_diag *d)
{
    const sp_gguf_kv *e;
    sp_err err = find_array(&e, g, key, KV_U8, d);
    if (err == SP_FORMAT)
        err = find_array(&e, g, key, KV_I8, d);
    SP_TRY(err);
    *out = e->p;
    *n = (size_t)e->n;
    return SP_OK;
}
