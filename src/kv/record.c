#include "kv/record.h"

#include "base/mem.h"
#include "base/rd.h"

#include <stdio.h>
#include <string.h>
#include <xxhash.h>
#include <zstd.h>

#define MAGIC "SPKVREC1"

enum { PAGE_BYTES = 160, ZSTD_LEVEL = 1, MAX_LAYER = 4096, MAX_PART = 1 << 26 };

void sp_kv_rec_shape(sp_kv_rec *r, const sp_kv_shape *s)
{
    size_t lo = sp_kv_lo_bytes(s), n = sp_kv_page_blocks(s);
    r->n_layer = (uint32_t)n;
    r->lo_bytes = (uint32_t)(lo / n);
    r->hi_bytes = (uint32_t)((sp_kv_page_bytes(s) - lo) / n);
}

bool sp_kv_rec_is_state(const sp_kv_rec *r)
{
    size_t i = 0;
    while (i + 1 < sizeof r->parent.b && (r->page[0].id.b[i] ^ r->parent.b[i]) == 0xff)
        i++;
    return r->n_page == 1 && i + 1 == sizeof r->parent.b;
}

void sp_kv_rec_state_name(sp_kv_rec_page *out, const sp_sha256 *chain, bool squeeze,
                          size_t state_bytes)
{
    uint64_t n = state_bytes;
    for (size_t i = 0; i < sizeof chain->b; i++)
        out->id.b[i] = chain->b[i] ^ 0xff;
    out->id.b[sizeof chain->b - 1] ^= squeeze; /* either form has a place of its own */
    memset(out->tok, 0, sizeof out->tok);
    out->tok[0] = squeeze;
    memcpy(out->tok + 1, &n, sizeof n);
}

static size_t round_up(size_t n)
{
    return (n + SP_KV_ALIGN - 1) / SP_KV_ALIGN * SP_KV_ALIGN;
}

size_t sp_kv_rec_head_bytes(const sp_kv_rec *r)
{
    return round_up(SP_KV_HEAD_MIN + (size_t)r->n_page * PAGE_BYTES +
                    (size_t)r->n_layer * r->n_page * 16 + (size_t)r->n_layer * 8);
}

size_t sp_kv_rec_layer_bytes(const sp_kv_rec *r)
{
    return (size_t)r->n_page * r->hi_bytes + (size_t)__builtin_popcount(r->lo_mask) * r->lo_bytes;
}

size_t sp_kv_rec_bytes(const sp_kv_rec *r)
{
    return round_up(sp_kv_rec_head_bytes(r) + r->n_layer * sp_kv_rec_layer_bytes(r));
}

size_t sp_kv_rec_hi_at(const sp_kv_rec *r, uint32_t i)
{
    return (size_t)i * r->hi_bytes;
}

size_t sp_kv_rec_lo_at(const sp_kv_rec *r, uint32_t i)
{
    return (size_t)r->n_page * r->hi_bytes +
           (size_t)__builtin_popcount(r->lo_mask & ((1u << i) - 1)) * r->lo_bytes;
}

uint64_t sp_kv_sum(const void *p, size_t n)
{
    return XXH3_64bits(p, n);
}

static uint8_t *put(uint8_t *at, const void *p, size_t n)
{
    memcpy(at, p, n);
    return at + n;
}

/* Everything of the head but the checksums of parts and of itself, which must be in place. */
static void finish_head(uint8_t *out, const sp_kv_rec *r, size_t head_bytes, uint64_t body_bytes)
{
    const uint32_t num[] = {(uint32_t)head_bytes, r->n_page,  r->n_layer, r->hi_bytes,
                            r->lo_bytes,          r->lo_mask, r->first,   r->packed};
    uint8_t *at = put(out + 16, num, sizeof num);
    at = put(at, r->tag, SP_KV_TAG);
    at = put(at, r->parent.b, sizeof r->parent.b);
    at = put(at, &body_bytes, 8);
    put(at, r->conv, SP_KV_TAG);
    at = out + SP_KV_HEAD_MIN;
    for (uint32_t i = 0; i < r->n_page; i++) {
        at = put(at, r->page[i].id.b, 32);
        at = put(at, r->page[i].tok, sizeof r->page[i].tok);
    }
    uint64_t sum = sp_kv_sum(out + 16, head_bytes - 16);
    memcpy(out, MAGIC, 8);
    memcpy(out + 8, &sum, 8);
}

static uint8_t *sums_of(uint8_t *record, const sp_kv_rec *r)
{
    return record + SP_KV_HEAD_MIN + (size_t)r->n_page * PAGE_BYTES;
}

void sp_kv_rec_begin(uint8_t *out, const sp_kv_rec *r)
{
    size_t head = sp_kv_rec_head_bytes(r), end = head + r->n_layer * sp_kv_rec_layer_bytes(r);
    uint8_t *sizes = sums_of(out, r) + (size_t)r->n_layer * r->n_page * 16;
    uint64_t size = sp_kv_rec_layer_bytes(r);
    memset(out, 0, head);
    memset(out + end, 0, sp_kv_rec_bytes(r) - end);
    for (uint32_t l = 0; l < r->n_layer; l++)
        sizes = put(sizes, &size, 8);
}

void sp_kv_rec_put(uint8_t *out, const sp_kv_rec *r, uint32_t i, const void *hi, const void *lo)
{
    size_t layer_bytes = sp_kv_rec_layer_bytes(r);
    uint8_t *block = out + sp_kv_rec_head_bytes(r);
    for (uint32_t l = 0; l < r->n_layer; l++, block += layer_bytes) {
        uint64_t sum[2] = {0};
        uint8_t *to = block + sp_kv_rec_hi_at(r, i);
        memcpy(to, (const uint8_t *)hi + (size_t)l * r->hi_bytes, r->hi_bytes);
        sum[0] = sp_kv_sum(to, r->hi_bytes);
        if (r->lo_mask >> i & 1) {
            to = block + sp_kv_rec_lo_at(r, i);
            memcpy(to, (const uint8_t *)lo + (size_t)l * r->lo_bytes, r->lo_bytes);
            sum[1] = sp_kv_sum(to, r->lo_bytes);
        }
        put(sums_of(out, r) + ((size_t)l * r->n_page + i) * sizeof sum, sum, sizeof sum);
    }
}

void sp_kv_rec_end(uint8_t *out, const sp_kv_rec *r)
{
    finish_head(out, r, sp_kv_rec_head_bytes(r), r->n_layer * sp_kv_rec_layer_bytes(r));
}

void sp_kv_rec_build(uint8_t *out, const sp_kv_rec *r, void *const *hi, void *const *lo)
{
    sp_kv_rec_begin(out, r);
    for (uint32_t i = 0; i < r->n_page; i++)
        sp_kv_rec_put(out, r, i, hi[i], r->lo_mask >> i & 1 ? lo[i] : NULL);
    sp_kv_rec_end(out, r);
}

size_t sp_kv_head_bytes_of(const void *p)
{
    uint32_t n;
    memcpy(&n, (const uint8_t *)p + 16, sizeof n);
    return memcmp(p, MAGIC, 8) == 0 && n % SP_KV_ALIGN == 0 && n <= 1u << 24 ? n : 0;
}

static bool is_sane(const sp_kv_head *h)
{
    const sp_kv_rec *r = &h->rec;
    return r->n_page >= 1 && r->n_page <= SP_KV_RUN && r->n_layer >= 1 && r->n_layer <= MAX_LAYER &&
           r->hi_bytes >= 1 && r->hi_bytes <= MAX_PART && r->lo_bytes <= MAX_PART &&
           r->lo_mask >> r->n_page == 0 && (r->lo_bytes || !r->lo_mask) &&
           h->head_bytes == sp_kv_rec_head_bytes(r);
}

sp_err sp_kv_head_read(sp_kv_head *out, const void *p, size_t n, sp_diag *d)
{
    sp_kv_head *h = out;
    size_t head_bytes = n >= SP_KV_HEAD_MIN ? sp_kv_head_bytes_of(p) : 0;
    if (head_bytes == 0 || head_bytes > n)
        return SP_FAIL(d, SP_CORRUPT, "no record head in %zu bytes", n);
    uint64_t sum;
    memcpy(&sum, (const uint8_t *)p + 8, 8);
    if (sum != sp_kv_sum((const uint8_t *)p + 16, head_bytes - 16))
        return SP_FAIL(d, SP_CORRUPT, "the head of a record does not match its checksum");
    sp_rd rd = sp_rd_make((const uint8_t *)p + 16, head_bytes - 16);
    h->head_bytes = sp_rd_u32(&rd);
    h->rec = (sp_kv_rec){.page = h->page};
    h->rec.n_page = sp_rd_u32(&rd);
    h->rec.n_layer = sp_rd_u32(&rd);
    h->rec.hi_bytes = sp_rd_u32(&rd);
    h->rec.lo_bytes = sp_rd_u32(&rd);
    h->rec.lo_mask = sp_rd_u32(&rd);
    h->rec.first = sp_rd_u32(&rd);
    h->rec.packed = sp_rd_u32(&rd) != 0;
    if (!is_sane(h))
        return SP_FAIL(d, SP_CORRUPT, "the head of a record has impossible sizes");
    memcpy(h->rec.tag, sp_rd_bytes(&rd, SP_KV_TAG), SP_KV_TAG);
    memcpy(h->rec.parent.b, sp_rd_bytes(&rd, 32), 32);
    h->body_bytes = sp_rd_u64(&rd);
    memcpy(h->rec.conv, sp_rd_bytes(&rd, SP_KV_TAG), SP_KV_TAG);
    rd.pos = SP_KV_HEAD_MIN - 16;
    for (uint32_t i = 0; i < h->rec.n_page; i++) {
        memcpy(h->page[i].id.b, sp_rd_bytes(&rd, 32), 32);
        memcpy(h->page[i].tok, sp_rd_bytes(&rd, sizeof h->page[i].tok), sizeof h->page[i].tok);
    }
    h->sums = sp_rd_bytes(&rd, (uint64_t)h->rec.n_layer * h->rec.n_page * 16);
    h->sizes = sp_rd_bytes(&rd, (uint64_t)h->rec.n_layer * 8);
    uint64_t total = 0;
    for (uint32_t l = 0; l < h->rec.n_layer; l++) {
        uint64_t size = sp_kv_head_size(h, l);
        if (size > 2 * (uint64_t)sp_kv_rec_layer_bytes(&h->rec) + 4096 ||
            (!h->rec.packed && size != sp_kv_rec_layer_bytes(&h->rec)))
            return SP_FAIL(d, SP_CORRUPT, "layer %u of a record has %llu bytes", l,
                           (unsigned long long)size);
        total += size;
    }
    if (total != h->body_bytes)
        return SP_FAIL(d, SP_CORRUPT, "the blocks of a record do not add up");
    return SP_OK;
}

uint64_t sp_kv_head_sum(const sp_kv_head *h, uint32_t layer, uint32_t page, bool lo)
{
    uint64_t v;
    memcpy(&v, h->sums + (((size_t)layer * h->rec.n_page + page) * 2 + lo) * 8, 8);
    return v;
}

uint64_t sp_kv_head_size(const sp_kv_head *h, uint32_t layer)
{
    uint64_t v;
    memcpy(&v, h->sizes + (size_t)layer * 8, 8);
    return v;
}

uint64_t sp_kv_head_block_at(const sp_kv_head *h, uint32_t layer)
{
    uint64_t at = h->head_bytes;
    for (uint32_t l = 0; l < layer; l++)
        at += sp_kv_head_size(h, l);
    return at;
}

static sp_err check_block(const sp_kv_head *h, uint32_t layer, const uint8_t *block)
{
    const sp_kv_rec *r = &h->rec;
    for (uint32_t i = 0; i < r->n_page; i++) {
        if (sp_kv_sum(block + sp_kv_rec_hi_at(r, i), r->hi_bytes) !=
            sp_kv_head_sum(h, layer, i, false))
            return SP_CORRUPT;
        if (r->lo_mask >> i & 1 && sp_kv_sum(block + sp_kv_rec_lo_at(r, i), r->lo_bytes) !=
                                       sp_kv_head_sum(h, layer, i, true))
            return SP_CORRUPT;
    }
    return SP_OK;
}

sp_err sp_kv_rec_pack(uint8_t **out, size_t *n_out, const uint8_t *record, size_t n, sp_diag *d)
{
    sp_kv_head h;
    SP_TRY(sp_kv_head_read(&h, record, n, d));
    size_t layer_bytes = sp_kv_rec_layer_bytes(&h.rec), cap = h.head_bytes;
    if (h.rec.packed || n < h.head_bytes + h.body_bytes)
        return SP_FAIL(d, SP_INVAL, "not a whole unpacked record");
    for (uint32_t l = 0; l < h.rec.n_layer; l++)
        cap += ZSTD_compressBound(layer_bytes);
    uint8_t *to = sp_mem_raw(cap);
    if (!to)
        return SP_FAIL(d, SP_NOMEM, "packing a record");
    memcpy(to, record, h.head_bytes);
    uint8_t *sizes = to + (h.sizes - record);
    size_t at = h.head_bytes;
    for (uint32_t l = 0; l < h.rec.n_layer; l++) {
        size_t size = ZSTD_compress(to + at, cap - at, record + h.head_bytes + l * layer_bytes,
                                    layer_bytes, ZSTD_LEVEL);
        if (ZSTD_isError(size)) {
            sp_mem_free(to);
            return SP_FAIL(d, SP_NOMEM, "zstd: %s", ZSTD_getErrorName(size));
        }
        uint64_t size64 = size;
        memcpy(sizes + (size_t)l * 8, &size64, 8);
        at += size;
    }
    h.rec.packed = true;
    finish_head(to, &h.rec, h.head_bytes, at - h.head_bytes);
    *out = to;
    *n_out = at;
    return SP_OK;
}

sp_err sp_kv_block_unpack(void *out, const sp_kv_head *h, uint32_t layer, const void *frame,
                          size_t n)
{
    size_t want = sp_kv_rec_layer_bytes(&h->rec);
    size_t got = ZSTD_decompress(out, want, frame, n);
    return ZSTD_isError(got) || got != want ? SP_CORRUPT : check_block(h, layer, out);
}

sp_err sp_kv_rec_verify(const void *p, size_t n, sp_diag *d)
{
    sp_kv_head h;
    SP_TRY(sp_kv_head_read(&h, p, n, d));
    if (n < h.head_bytes + h.body_bytes)
        return SP_FAIL(d, SP_CORRUPT, "a record of %llu bytes has only %zu",
                       (unsigned long long)(h.head_bytes + h.body_bytes), n);
    uint8_t *plain = h.rec.packed ? sp_mem_raw(sp_kv_rec_layer_bytes(&h.rec)) : NULL;
    if (h.rec.packed && !plain)
        return SP_FAIL(d, SP_NOMEM, "verifying a record");
    sp_err err = SP_OK;
    for (uint32_t l = 0; l < h.rec.n_layer && err == SP_OK; l++) {
        const uint8_t *block = (const uint8_t *)p + sp_kv_head_block_at(&h, l);
        err = plain ? sp_kv_block_unpack(plain, &h, l, block, sp_kv_head_size(&h, l))
                    : check_block(&h, l, block);
        if (err != SP_OK)
            (void)SP_FAIL(d, err, "layer %u of a record does not match its checksum", l);
    }
    sp_mem_free(plain);
    return err;
}

sp_err sp_kv_rec_unpack(uint8_t **out, size_t *n_out, const uint8_t *packed, size_t n, sp_diag *d)
{
    sp_kv_head h;
    SP_TRY(sp_kv_head_read(&h, packed, n, d));
    if (!h.rec.packed || n < h.head_bytes + h.body_bytes)
        return SP_FAIL(d, SP_CORRUPT, "not a whole packed record");
    size_t bytes = sp_kv_rec_bytes(&h.rec), layer_bytes = sp_kv_rec_layer_bytes(&h.rec),
           end = h.head_bytes + h.rec.n_layer * layer_bytes;
    uint8_t *p = sp_mem_raw(bytes);
    if (!p)
        return SP_FAIL(d, SP_NOMEM, "a record of %zu bytes", bytes);
    memcpy(p, packed, h.head_bytes);
    memset(p + end, 0, bytes - end);
    sp_err err = SP_OK;
    for (uint32_t l = 0; l < h.rec.n_layer && err == SP_OK; l++) {
        err = sp_kv_block_unpack(p + h.head_bytes + l * layer_bytes, &h, l,
                                 packed + sp_kv_head_block_at(&h, l), sp_kv_head_size(&h, l));
        uint64_t size = layer_bytes;
        memcpy(p + (h.sizes - packed) + (size_t)l * 8, &size, 8);
    }
    if (err != SP_OK) {
        sp_mem_free(p);
        return SP_FAIL(d, err, "a packed record does not match its checksums");
    }
    h.rec.packed = false;
    finish_head(p, &h.rec, h.head_bytes, h.rec.n_layer * layer_bytes);
    *out = p;
    *n_out = bytes;
    return SP_OK;
}

sp_err sp_kv_tag(uint8_t out[SP_KV_TAG], const char *name)
{
    sp_sha256 h;
    const sp_sha256_part part[] = {{"sparing tenant", 15}, {name, strlen(name)}};
    SP_TRY(sp_sha256_of(&h, part, 2));
    memcpy(out, h.b, SP_KV_TAG);
    return SP_OK;
}

void sp_kv_tag_hex(char out[SP_KV_TAG_HEX], const uint8_t tag[SP_KV_TAG])
{
    for (size_t i = 0; i < SP_KV_TAG; i++)
        snprintf(out + 2 * i, 3, "%02x", tag[i]);
}
