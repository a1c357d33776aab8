#include "kern/pack.h"

#include "fmt/grid.h"
#include "kern/ref/ref.h"

#include <string.h>

/* Levels, grid and zero of a type with a grid, and how much there is of its fields. */
#define GRID(levels, entries, at, n_high, n_scale)                                                 \
    {.level = sp_grid_level_##levels, .zero = (at), .grid = sp_grid_##entries,                     \
     .field = {{offsetof(sp_grid_blk, d), 2, 1}, {offsetof(sp_grid_blk, high), 1, (n_high)},       \
               {offsetof(sp_grid_blk, scales), 1, (n_scale)}}}

const sp_pack_info sp_pack_of[SP_TYPE_COUNT] = {
    [SP_Q4_0] = {.field = {{offsetof(sp_blk_q4_0, d), 2, 1}}},
    [SP_Q4_1] = {.field = {{offsetof(sp_blk_q4_1, d), 2, 1}, {offsetof(sp_blk_q4_1, m), 2, 1}}},
    [SP_Q5_0] = {.field = {{offsetof(sp_blk_q5_0, d), 2, 1}}},
    [SP_Q5_1] = {.field = {{offsetof(sp_blk_q5_1, d), 2, 1}, {offsetof(sp_blk_q5_1, m), 2, 1}}},
    [SP_Q8_0] = {.field = {{offsetof(sp_blk_q8_0, d), 2, 1}}},
    [SP_Q2_K] = {.field = {{offsetof(sp_blk_q2_k, d), 2, 1},
                           {offsetof(sp_blk_q2_k, dmin), 2, 1},
                           {offsetof(sp_blk_q2_k, scales), 1, 16}}},
    [SP_Q3_K] = {.field = {{offsetof(sp_blk_q3_k, d), 2, 1},
                           {offsetof(sp_blk_q3_k, scales), 1, 12}}},
    [SP_Q4_K] = {.field = {{offsetof(sp_blk_q4_k, d), 2, 1},
                           {offsetof(sp_blk_q4_k, dmin), 2, 1},
                           {offsetof(sp_blk_q4_k, scales), 1, 12}}},
    [SP_Q5_K] = {.field = {{offsetof(sp_blk_q5_k, d), 2, 1},
                           {offsetof(sp_blk_q5_k, dmin), 2, 1},
                           {offsetof(sp_blk_q5_k, scales), 1, 12}}},
    [SP_Q6_K] = {.field = {{offsetof(sp_blk_q6_k, d), 2, 1},
                           {offsetof(sp_blk_q6_k, scales), 1, 16}}},
    [SP_IQ4_NL] = {.level = sp_iq4_level,
                   .zero = 128,
                   .field = {{offsetof(sp_blk_iq4_nl, d), 2, 1}}},
    [SP_MXFP4] = {.level = sp_fp4_level,
                  .zero = SP_FP4_ZERO,
                  .field = {{offsetof(sp_blk_mxfp4, e), 1, 1}}},
    [SP_NVFP4] = {.level = sp_fp4_level,
                  .zero = SP_FP4_ZERO,
                  .field = {{offsetof(sp_blk_nvfp4, d), 1, 4}}},
    [SP_IQ1_S] = GRID(iq1, iq1, SP_IQ1_ZERO, 16, 4),
    [SP_IQ1_M] = GRID(iq1, iq1, SP_IQ1_ZERO, 16, 8),
    [SP_IQ2_XXS] = GRID(iq2, iq2_xxs, 128, 0, 4),
    [SP_IQ2_XS] = GRID(iq2, iq2_xs, 128, 4, 8),
    [SP_IQ2_S] = GRID(iq2, iq2_s, 128, 8, 8),
    [SP_IQ3_XXS] = GRID(iq3_xxs, iq3_xxs, 128, 0, 4),
    [SP_IQ3_S] = GRID(iq3_s, iq3_s, SP_IQ3_ZERO, 8, 4),
    [SP_TQ1_0] = {.field = {{offsetof(sp_blk_tq1_0, d), 2, 1}}},
    [SP_TQ2_0] = {.field = {{offsetof(sp_blk_tq2_0, d), 2, 1}}},
    [SP_IQ4_XS] = {.level = sp_iq4_level,
                   .zero = 128,
                   .field = {{offsetof(sp_blk_iq4_xs, d), 2, 1},
                             {offsetof(sp_blk_iq4_xs, scales_h), 2, 1},
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

/* Block i of 32 values of a row of indices, and back. */
static void put_entries(uint8_t *planes, const sp_grid_blk *b, size_t i, size_t r, size_t n_bits)
{
    size_t n = n_bits == 3 ? 8 : 4;
    uint32_t plane = 0;
    for (size_t e = 0; e < n; e++)
        planes[SP_TILE_ROWS * e + r] = b->index[n * i + e];
    for (size_t j = 0; j < 32; j++)
        plane |= (uint32_t)(b->signs[4 * i + j / 8] >> (j % 8) & 1) << (8 * (j % 4) + j / 4);
    if (n_bits > 1)
        memcpy(planes + 64 * (n_bits - 1) + 4 * r, &plane, 4);
}

static void get_entries(sp_grid_blk *b, const uint8_t *planes, size_t i, size_t r, size_t n_bits)
{
    size_t n = n_bits == 3 ? 8 : 4;
    for (size_t e = 0; e < n; e++)
        b->index[n * i + e] = planes[SP_TILE_ROWS * e + r];
    const uint8_t *plane = planes + 64 * (n_bits - 1) + 4 * r;
    for (size_t j = 0; j < 32 && n_bits > 1; j++)
        b->signs[4 * i + j / 8] =
            (uint8_t)(b->signs[4 * i + j / 8] | (plane[j % 4] >> j / 4 & 1) << j % 8);
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

/* The fields of row r from a block, and back. Return where they end in the tile. */
static uint8_t *put_fields(uint8_t *to, const sp_pack_info *info, const uint8_t *blk, size_t r)
{
    for (size_t f = 0; f < SP_PACK_FIELDS; f++) {
        size_t each = info->field[f].bytes;
        for (size_t c = 0; c < info->field[f].count; c++, to += SP_TILE_ROWS * each)
            memcpy(to + r * each, blk + info->field[f].at + c * each, each);
    }
    return to;
}

static const uint8_t *get_fields(uint8_t *blk, const sp_pack_info *info, const uint8_t *from,
                                 size_t r)
{
    for (size_t f = 0; f < SP_PACK_FIELDS; f++) {
        size_t each = info->field[f].bytes;
        for (size_t c = 0; c < info->field[f].count; c++, from += SP_TILE_ROWS * each)
            memcpy(blk + info->field[f].at + c * each, from + r * each, each);
    }
    return from;
}

/* Row r of a type with a grid. */
static void put_grid_row(uint8_t *to, sp_type type, const uint8_t *raw, size_t r, size_t k)
{
    const sp_type_info *t = sp_type_get(type);
    size_t n_bits = sp_pack_bits(type);
    for (size_t u = 0; u < k / SP_PACK_UNIT; u++, raw += t->blk_bytes) {
        sp_grid_blk b;
        sp_ref_grid_split(&b, type, raw);
        for (size_t i = 0; i < SP_PACK_UNIT / 32; i++, to += 64 * n_bits)
            put_entries(to, &b, i, r, n_bits);
        to = put_fields(to, &sp_pack_of[type], (const uint8_t *)&b, r);
    }
}

/* Scales of NVFP4 (E4M3, half of its value, 127: nothing) with an exponent that is 3 larger, so
 * that none is subnormal and their bits are those of f32: a subnormal operand costs a CPU a hundred
 * times a product. And back. */
static uint8_t wider_scale(uint8_t x)
{
    unsigned m = x & 127u, e = 3;
    if (x == 127 || m == 0)
        return 0;
    if (m >= 8)
        return (uint8_t)(m + 24);
    for (; m < 8; m *= 2)
        e--;
    return (uint8_t)((e + 1) << 3 | (m & 7));
}

static uint8_t narrower_scale(uint8_t y)
{
    unsigned e = y >> 3, m = y & 7u;
    if (e > 3)
        return y - 24 == 127 ? 255 : (uint8_t)(y - 24);
    return (uint8_t)(e ? (8 + m) >> (4 - e) : 0);
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
        if (info->grid) {
            put_grid_row(to, type, raw, r, k);
            continue;
        }
        sp_ref_expand(type)(q, d, m, raw, k);
        if (info->level)
            to_index(q, k, info);
        for (size_t u = 0; u * SP_PACK_UNIT < k; u++) {
            size_t n = unit_elems(k, u);
            for (size_t i = 0; i < n; i += 32, to += 64 * n_bits)
                put_codes(to, q + u * SP_PACK_UNIT + i, r, (unsigned)n_bits);
            uint8_t *scales = to;
            for (size_t i = 0; i < n; i += t->blk_elem, raw += t->blk_bytes)
                to = put_fields(to, info, raw, r);
            for (size_t i = 0; type == SP_NVFP4 && i < n / 16; i++)
                scales[SP_TILE_ROWS * i + r] = wider_scale(scales[SP_TILE_ROWS * i + r]);
        }
    }
}

size_t sp_pack_get(uint8_t *q, float *d, float *m, const void *tile, sp_type type, size_t k,
                   size_t r, size_t u)
{
    const sp_pack_info *info = &sp_pack_of[type];
    const sp_type_info *t = sp_type_get(type);
    size_t n_bits = sp_pack_bits(type), n = unit_elems(k, u);
    const uint8_t *code = (const uint8_t *)tile + u * sp_pack_unit_bytes(type),
                  *scale = code + n / 32 * 64 * n_bits;
    if (info->grid) {
        sp_grid_blk b = {{0}, {0}, 0, {0}, {0}};
        for (size_t i = 0; i < n / 32; i++)
            get_entries(&b, code + i * 64 * n_bits, i, r, n_bits);
        get_fields((uint8_t *)&b, info, scale, r);
        sp_ref_grid_values(q, d, m, type, &b);
        return n;
    }
    uint8_t raw[SP_PACK_UNIT / 32 * 36 + 8] = {0}; /* GGUF blocks with their scales; codes are 0 */
    for (size_t b = 0; b < n / t->blk_elem; b++)
        scale = get_fields(raw + b * t->blk_bytes, info, scale, r);
    for (size_t b = 0; type == SP_NVFP4 && b < n / t->blk_elem; b++)
        for (size_t i = 0; i < 4; i++)
            raw[b * t->blk_bytes + i] = narrower_scale(raw[b * t->blk_bytes + i]);
    sp_ref_expand(type)(q, d, m, raw, n);
    for (size_t i = 0; i < n; i++) {
        uint8_t c = get_code(code + i / 32 * 64 * n_bits, r, i % 32, (unsigned)n_bits);
        q[i] = info->level ? (uint8_t)(info->level[c] + info->zero) : c;
    }
    return n;
}
