#include "kern/pack.h"

#include "kern/ref/ref.h"

#include <string.h>


const sp_pack_info sp_pack_of[SP_TYPE_COUNT] = {
    [SP_Q4_0] = {.field = {{offsetof(sp_blk_q4_0, d), 2, 1}}},
    [SP_Q4_1] = {.field = {{offsetof(sp_blk_q4_1, d), 2, 1}, {offsetof(sp_blk_q4_1, m), 2, 1}}},
    [SP_Q5_0] = {.field = {{offsetof(sp_blk_q5_0, d), 2, 1}}},
    [SP_Q5_1] = {.field = {{offsetof(sp_blk_q5_1, d), 2, 1}, {offsetof(sp_blk_q5_1, m), 2, 1}}},
    [SP_Q8_0] = {.field = {{offsetof(sp_blk_q8_0, d), 2, 1}}},
    [SP_Q2_K] = {.field = {{offsetof(sp_blk_q2_k, d), 2, 1}, {offsetof(sp_blk_q2_k, dmin), 2, 1},
                            {offsetof(sp_blk_q2_k, scales), 1, 16}}},
    [SP_Q3_K] = {.field = {{offsetof(sp_blk_q3_k, d), 2, 1}, {offsetof(sp_blk_q3_k, scales), 1, 12}}},
    [SP_Q4_K] = {.field = {{offsetof(sp_blk_q4_k, d), 2, 1}, {offsetof(sp_blk_q4_k, dmin), 2, 1},
                            {offsetof(sp_blk_q4_k, scales), 1, 12}}},
    [SP_Q5_K] = {.field = {{offsetof(sp_blk_q5_k, d), 2, 1}, {offsetof(sp_blk_q5_k, dmin), 2, 1},
                            {offsetof(sp_blk_q5_k, scales), 1, 12}}},
    [SP_Q6_K] = {.field = {{offsetof(sp_blk_q6_k, d), 2, 1}, {offsetof(sp_blk_q6_k, scales), 1, 16}}},
    [SP_IQ4_NL] = {.level = sp_iq4_level, .zero = 128, .field = {{offsetof(sp_blk_iq4_nl, d), 2, 1}}},
    [SP_MXFP4] = {.level = sp_fp4_level, .zero = SP_FP4_ZERO, .field = {{offsetof(sp_blk_mxfp4, e), 1, 1}}},
    [SP_TQ2_0] = {.field = {{offsetof(sp_blk_tq2_0, d), 2, 1}}},
    [SP_IQ4_XS] = {.level = sp_iq4_level, .zero = 128, .field = {{offsetof(sp_blk_iq4_xs, d), 2, 1}, {offsetof(sp_blk_iq4_xs, scales_h), 2, 1},
                             {offsetof(sp_blk_iq4_xs, scales_l), 1, 4}}},
};

/* Four codes of one row, as the word they are moved by. */
static uint32_t word(const uint8_t *q)
{
    uint32_t w;
    memcpy(&w, q, 4);
    return w;
}

/* Bits [from, from + n) of each of four codes, moved to bit `to`. */
static uint32_t bits(uint32_t w, unsigned from, unsigned n, unsigned to)
{
    uint32_t each = (1u << n) - 1, mask = each * 0x01010101u;
    return ((w >> from) & mask) << to;
}

/* One block of 32 codes of row r into its planes. */
static void put_codes(uint8_t *planes, const uint8_t *q, size_t r, unsigned n_bits)
{
    uint32_t plane[8] = {0};
    size_t n = 0;
    if (n_bits == 8) {
        for (size_t j = 0; j < 8; j++)
            plane[n++] = word(q + 4 * j);
    }
    if (n_bits >= 4 && n_bits <= 6) {
        for (size_t v = 0; v < 4; v++)
            plane[n++] = bits(word(q + 4 * v), 0, 4, 0) | bits(word(q + 4 * v + 16), 0, 4, 4);
    }
    unsigned from = n_bits == 6 ? 4 : 0;
    if (n_bits == 2 || n_bits == 3 || n_bits == 6) {
        for (size_t v = 0; v < 2; v++, n++)
            for (unsigned s = 0; s < 4; s++)
                plane[n] |= bits(word(q + 16 * v + 4 * s), from, 2, 2 * s);
    }
    if (n_bits == 3 || n_bits == 5) {
        for (unsigned s = 0; s < 8; s++)
            plane[n] |= bits(word(q + 4 * s), n_bits - 1, 1, s);
        n++;
    }
    for (size_t v = 0; v < n; v++)
        memcpy(planes + 64 * v + 4 * r, &plane[v], 4);
}

static uint8_t get_code(const uint8_t *planes, size_t r, size_t i, unsigned n_bits)
{
    const uint8_t *p = planes + 4 * r + i % 4;
    size_t j = i / 4;
    if (n_bits == 8)
        return p[64 * j];
    unsigned code = 0;
    size_t two = 0, one = 128; /* where the 2-bit and 1-bit planes start */
    if (n_bits >= 4) {
        code = ((unsigned)p[64 * (j % 4)] >> (j / 4 * 4)) & 15u;
        two = one = 256;
    }
    if (n_bits == 2 || n_bits == 3 || n_bits == 6)
        code |= (((unsigned)p[two + 64 * (j / 4)] >> (j % 4 * 2)) & 3u) << (n_bits == 6 ? 4 : 0);
    if (n_bits == 3 || n_bits == 5)
        code |= (((unsigned)p[one] >> j) & 1u) << (n_bits - 1);
    return (uint8_t)code;
}

/* Codes of a row as the kernels want them, where they are indices of levels. */
static void to_index(uint8_t *q, size_t k, const sp_pack_info *info)
{
    uint8_t index[256] = {0};
    for (uint8_t i = 0; i < 16; i++)
        index[(uint8_t)(info->level[i] + info->zero)] = i;
    for (size_t i = 0; i < k; i++)
        q[i] = index[q[i]];
}

static size_t unit_elems(size_t k, size_t u)
{
    size_t left = k - u * SP_PACK_UNIT;
    return left < SP_PACK_UNIT ? left : SP_PACK_UNIT;
}

void sp_pack_tile(void *tile, sp_type type, const void *rows, size_t n_row, size_t k, void *scratch)
{
    const sp_pack_info *info = &sp_pack_of[type];
    const sp_type_info *t = sp_type_get(type);
    size_t n_bits = sp_pack_bits(type), row_bytes = sp_type_row_bytes(type, k);
    float *d = scratch, *m = d + k / 16;
    uint8_t *q = (uint8_t *)(m + k / 16);
    memset(tile, 0, sp_pack_tile_bytes(type, k));
    for (size_t r = 0; r < n_row; r++) {
        const uint8_t *raw = (const uint8_t *)rows + r * row_bytes;
        uint8_t *to = tile;
        sp_ref_expand(type)(q, d, m, raw, k);
        if (info->level)
            to_index(q, k, info);
        for (size_t u = 0; u * SP_PACK_UNIT < k; u++) {
            size_t n = unit_elems(k, u);
            for (size_t i = 0; i < n; i += 32, to += 64 * n_bits)
                put_codes(to, q + u * SP_PACK_UNIT + i, r, (unsigned)n_bits);
            for (size_t i = 0; i < n; i += t->blk_elem, raw += t->blk_bytes) {
                for (size_t f = 0; f < SP_PACK_FIELDS; f++) {
                    size_t each = info->field[f].bytes;
                    for (size_t c = 0; c < info->field[f].count; c++, to += SP_TILE_ROWS * each)
                        memcpy(to + r * each, raw + info->field[f].at + c * each, each);
                }
            }
        }
    }
}

size_t sp_pack_get(uint8_t *q, float *d, float *m, const void *tile, sp_type type, size_t k, size_t r, size_t u)
{
    const sp_pack_info *info = &sp_pack_of[type];
    const sp_type_info *t = sp_type_get(type);
    size_t n_bits = sp_pack_bits(type), n = unit_elems(k, u);
    const uint8_t *code = (const uint8_t *)tile + u * sp_pack_unit_bytes(type), *scale = code + n / 32 * 64 * n_bits;
    uint8_t raw[SP_PACK_UNIT / 32 * 36 + 8] = {0}; /* GGUF blocks with their scales; codes are 0 */
    for (size_t b = 0; b < n / t->blk_elem; b++) {
        for (size_t f = 0; f < SP_PACK_FIELDS; f++) {
            size_t each = info->field[f].bytes;
            for (size_t i = 0; i < info->field[f].count; i++, scale += SP_TILE_ROWS * each)
                memcpy(raw + b * t->blk_bytes + info->field[f].at + i * each, scale + r * each, each);
        }
    }
    sp_ref_expand(type)(q, d, m, raw, n);
    for (size_t i = 0; i < n; i++) {
        uint8_t c = get_code(code + i / 32 * 64 * n_bits, r, i % 32, (unsigned)n_bits);
        q[i] = info->level ? (uint8_t)(info->level[c] + info->zero) : c;
    }
    return n;
}
