/* Page formats: how 32 tokens of all layers' keys and values lie in one block of bytes.
 *
 *   q8   the default: kern/planes.h with both planes, keys and values of 8 bits
 *   q4   the same, and every page but a sequence's first is demoted: it has no lo planes. The first
 *        stays whole because attention sinks lie there: at 8k its demotion alone costs more
 *        perplexity than that of all other pages (docs/BENCHMARKS.md)
 *   fp8  kern/fp8.h, for GPUs: half of f16; `sparing certify-format` says whether it does for a
 *   model
 *   f16  plain elements, the reference
 *   bf16 plain elements of 8 bits of precision, for keys beyond the range of f16
 *   f32  exists for proofs against full-precision references
 *
 * A latent page has no V: the first elements of a key are its value.
 *
 * A plain page is [layer][KV head] of { K^T [d, 32], V [32, d] }; K is transposed so that one query
 * meets 32 keys without a horizontal sum. A quantised page is two blocks of memory, [layer][KV
 * head] of hi parts and the same of lo parts, so that letting the second go demotes it. The page
 * being filled cannot be quantised yet: a sequence keeps it beside the pool as a plain f16 page,
 * the open page. docs/FORMATS.md gives the bytes. Pure. */
#ifndef SP_KV_PAGE_H
#define SP_KV_PAGE_H

#include "dev/dev.h"

typedef struct sp_kv_format {
    const char *name;
    sp_type type; /* of plain elements; of the open page of quantised formats */
    bool is_planes;
    bool is_fp8;     /* kern/fp8.h */
    bool is_demoted; /* planes: only first pages have lo parts */
} sp_kv_format;

/* KV heads of one layer, and elements of each. */
typedef struct sp_kv_heads {
    size_t n_head, d;
} sp_kv_heads;

typedef struct sp_kv_shape {
    const sp_kv_format *format;
    size_t n_layer;    /* that have pages */
    size_t n_head, d;  /* of each layer; with `of`, of the last */
    const sp_kv_heads *of; /* [n_layer], borrowed; NULL: all layers are alike */
    /* 0; or pages hold keys only, of which the first n_latent elements are the values; n_head is
     * 1 */
    size_t n_latent;
} sp_kv_shape;

/* NULL if there is no format of that name. */
const sp_kv_format *sp_kv_format_find(const char *name);
/* Can it hold the heads? */
bool sp_kv_shape_fits(const sp_kv_shape *s);
/* Bytes of a whole page; of them, of the lo parts (0 for plain formats). */
size_t sp_kv_page_bytes(const sp_kv_shape *s);
size_t sp_kv_lo_bytes(const sp_kv_shape *s);
/* Bytes of the open page; 0 for plain formats. */
size_t sp_kv_open_bytes(const sp_kv_shape *s);
sp_dev_kv_view sp_kv_page_view(const sp_kv_shape *s, size_t layer);
/* A page divides into blocks of equally many bytes, of whole layers and as few of them as can be:
 * what leaves RAM is written and read block by block. How many blocks there are, and which one a
 * layer is in. */
size_t sp_kv_page_blocks(const sp_kv_shape *s);
size_t sp_kv_page_block_of(const sp_kv_shape *s, size_t layer);

#endif
