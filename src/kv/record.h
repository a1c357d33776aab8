/* A record: a run of consecutive pages as bytes, the one form in which pages leave RAM. Warm
 * segments, cold objects and exports hold records.
 *
 * A record is a head and then one block a layer: the hi parts of all pages in order, then the lo
 * parts of those that have one. A reader that wants one layer of the run's pages reads one range.
 * In a packed record (cold) each block is a zstd frame. docs/FORMATS.md gives the bytes.
 *
 * Every part of every page has a checksum of its own in the head (XXH3, 64 bits), and the head has
 * one over itself: whatever is read is known to be what was written, before a key is compared.
 * Pure. Errors: SP_CORRUPT for bytes that are not what was written. */
#ifndef SP_KV_RECORD_H
#define SP_KV_RECORD_H

#include "base/sha256.h"
#include "kv/page.h"

enum { SP_KV_RUN = 24, SP_KV_TAG = 16, SP_KV_ALIGN = 4096, SP_KV_HEAD_MIN = 128 };

typedef struct sp_kv_rec_page {
    sp_sha256 id;
    uint32_t tok[SP_PAGE_TOK];
} sp_kv_rec_page;

typedef struct sp_kv_rec {
    uint32_t n_page;             /* 1..SP_KV_RUN */
    /* blocks of sp_kv_page_blocks: one of each layer where all are alike */
    uint32_t n_layer;
    uint32_t hi_bytes, lo_bytes; /* of one of them in one page; plain pages are all hi */
    uint32_t lo_mask;            /* bit i: page i has lo parts */
    uint32_t first;              /* number of its first page in the sequence */
    bool packed;
    uint8_t tag[SP_KV_TAG];      /* of the tenant; see sp_kv_tag */
    uint8_t conv[SP_KV_TAG];     /* of the conversation that computed it; zeros: none */
    sp_sha256 parent;            /* identity of the page before the first */
    sp_kv_rec_page *page;        /* [n_page] */
} sp_kv_rec;

/* The head of a record beyond sp_kv_rec. */
typedef struct sp_kv_head {
    sp_kv_rec rec;
    sp_kv_rec_page page[SP_KV_RUN];
    size_t head_bytes;    /* multiple of SP_KV_ALIGN */
    uint64_t body_bytes;
    const uint8_t *sums;  /* in the bytes decoded: u64 [n_layer][n_page][2] */
    const uint8_t *sizes; /* u64 [n_layer]: bytes of each block as stored */
} sp_kv_head;

/* A snapshot of recurrent layers' states (state.h) is a record of one page without tokens. Its
 * parent is the identity of the pages at its position, its identity that one with all bits turned,
 * its `first` the number of the page behind it, and its lo_bytes, for it has no lo parts, the
 * tokens that are computed again without it. In the place of tokens stand the form and the bytes of
 * a state. */
bool sp_kv_rec_is_state(const sp_kv_rec *r);
/* Identity and the words in the place of tokens, of the state at the end of a chain of pages. */
void sp_kv_rec_state_name(sp_kv_rec_page *out, const sp_sha256 *chain, bool squeeze,
                          size_t state_bytes);

void sp_kv_rec_shape(sp_kv_rec *r, const sp_kv_shape *s); /* n_layer, hi_bytes, lo_bytes */
size_t sp_kv_rec_head_bytes(const sp_kv_rec *r);
size_t sp_kv_rec_layer_bytes(const sp_kv_rec *r); /* of an unpacked block */
/* unpacked, head and blocks, multiple of SP_KV_ALIGN */
size_t sp_kv_rec_bytes(const sp_kv_rec *r);
/* Where the hi (lo) part of page i lies in an unpacked block. lo: the page has one. */
size_t sp_kv_rec_hi_at(const sp_kv_rec *r, uint32_t i);
size_t sp_kv_rec_lo_at(const sp_kv_rec *r, uint32_t i);
uint64_t sp_kv_sum(const void *p, size_t n);

/* Lays a whole unpacked record at out [sp_kv_rec_bytes]. hi[i], lo[i]: the pages' host memory. */
void sp_kv_rec_build(uint8_t *out, const sp_kv_rec *r, void *const *hi, void *const *lo);
/* The same with one page at a time in host memory: begin, put for each page in any order, end.
 * lo may be NULL where the page has none. */
void sp_kv_rec_begin(uint8_t *out, const sp_kv_rec *r);
void sp_kv_rec_put(uint8_t *out, const sp_kv_rec *r, uint32_t i, const void *hi, const void *lo);
void sp_kv_rec_end(uint8_t *out, const sp_kv_rec *r);
/* Reads a head from p [n]; n may be more than the head. The pointers of *out borrow p.
 * sp_kv_head_bytes_of: what the first SP_KV_HEAD_MIN bytes say the head is long; 0: no head. */
size_t sp_kv_head_bytes_of(const void *p);
SP_MUST sp_err sp_kv_head_read(sp_kv_head *out, const void *p, size_t n, sp_diag *d);
uint64_t sp_kv_head_sum(const sp_kv_head *h, uint32_t layer, uint32_t page, bool lo);
uint64_t sp_kv_head_size(const sp_kv_head *h, uint32_t layer);
/* from the start of the record */
uint64_t sp_kv_head_block_at(const sp_kv_head *h, uint32_t layer);

/* Packs a whole unpacked record; unpacks one block into out [layer_bytes] and checks every part.
 * out of pack: memory the caller frees. */
SP_MUST sp_err sp_kv_rec_pack(uint8_t **out, size_t *n_out, const uint8_t *record, size_t n,
                              sp_diag *d);
SP_MUST sp_err sp_kv_block_unpack(void *out, const sp_kv_head *h, uint32_t layer, const void *frame,
                                  size_t n);
/* A whole packed record as an unpacked one, checked; memory the caller frees. */
SP_MUST sp_err sp_kv_rec_unpack(uint8_t **out, size_t *n_out, const uint8_t *packed, size_t n,
                                sp_diag *d);
/* Checks every part of a whole record, packed or not. */
SP_MUST sp_err sp_kv_rec_verify(const void *p, size_t n, sp_diag *d);

/* The tag of a tenant or conversation: everything of it can be found without knowing its tokens. */
SP_MUST sp_err sp_kv_tag(uint8_t out[SP_KV_TAG], const char *name);
enum { SP_KV_TAG_HEX = 2 * SP_KV_TAG + 1 };
void sp_kv_tag_hex(char out[SP_KV_TAG_HEX], const uint8_t tag[SP_KV_TAG]);

#endif
