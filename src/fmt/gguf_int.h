/* The inside of sp_gguf: the parser (gguf.c), what files it lies in (gguf_file.c), and typed reads
 * of keys (gguf_get.c). */
#ifndef SP_FMT_GGUF_INT_H
#define SP_FMT_GGUF_INT_H

#include "base/map.h"
#include "fmt/gguf.h"

typedef enum sp_gguf_kv_type {
    KV_U8, KV_I8, KV_U16, KV_I16, KV_U32, KV_I32, KV_F32, KV_BOOL, KV_STR, KV_ARR, KV_U64, KV_I64,
    KV_F64, KV_TYPES
} sp_gguf_kv_type;

typedef struct sp_gguf_kv {
    sp_str key;
    uint32_t type, elem; /* elem: type inside an array */
    uint64_t n;          /* array length; 1 for scalars */
    const void *p;       /* scalar or array bytes */
    sp_str str;          /* KV_STR */
    sp_str *strs;        /* array of strings: owned */
} sp_gguf_kv;

/* A file that it lies in. */
typedef struct sp_gguf_part {
    char *path;          /* owned */
    sp_file_stamp stamp; /* when it was opened */
    const uint8_t *p;    /* its bytes in the map */
    size_t n_bytes;
} sp_gguf_part;

struct sp_gguf {
    const uint8_t *base;
    size_t n_bytes;
    sp_gguf_kv *kvs;
    size_t n_kv;
    sp_tensor *tensors;
    size_t n_tensor;
    sp_map keys, names;
    /* empty when opened from memory */
    sp_file_map map; /* of all parts */
    sp_gguf_part *part;
    size_t n_part;
    size_t *forgotten; /* [n_tensor] bytes let go of each */
};

/* Bytes of one element, 0 for strings and arrays. */
extern const uint8_t sp_gguf_kv_bytes[KV_TYPES];
const sp_gguf_kv *sp_gguf_kv_find(const sp_gguf *g, const char *key, size_t n); /* NULL: absent */
/* As sp_gguf_open_mem. only_keys: the tensors are not looked at. */
SP_MUST sp_err sp_gguf_parse(sp_gguf **out, const void *p, size_t n, bool only_keys, sp_diag *d);

#endif
