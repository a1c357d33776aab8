/* Page formats: how 32 tokens of all layers' keys and values lie in one block of bytes.
 *
 * A page is [layer][KV head] of { K^T [d, 32], V [32, d] } in the format's element type. K is
 * stored transposed so that one query meets 32 keys without a horizontal sum. f16 is the reference
 * format; f32 exists for proofs against full-precision references. Formats with several planes join
 * here. docs/FORMATS.md gives the bytes. Pure. */
#ifndef SP_KV_PAGE_H
#define SP_KV_PAGE_H

#include "dev/dev.h"

typedef struct sp_kv_format {
    const char *name;
    sp_type type;
} sp_kv_format;

typedef struct sp_kv_shape {
    const sp_kv_format *format;
    size_t n_layer, n_head, d;
} sp_kv_shape;

/* NULL if there is no format of that name. */
const sp_kv_format *sp_kv_format_find(const char *name);
size_t sp_kv_page_bytes(const sp_kv_shape *s);
sp_dev_kv_view sp_kv_page_view(const sp_kv_shape *s, size_t layer);

#endif
