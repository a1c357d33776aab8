/* Packed weights: the layout in which kernels read quantised matrices. The same bits as in GGUF,
 * permuted so that 16 rows lie beside each other: no value changes and no byte is added, except
 * that the last tile is filled up to 16 rows, and that fields which GGUF packs too tightly for
 * vectors are spread: IQ1_S, IQ1_M, IQ2_XXS, IQ2_XS and IQ3_XXS take 4 to 8 % more, TQ1_0 takes
 * TQ2_0's form.
 *
 * A matrix [n_row, k] is a sequence of tiles of 16 rows, a tile a sequence of units of 256 elements
 * of k (the last may be shorter), and a unit two sections:
 *   codes   for each 32 elements (a block), planes of 64 bytes [16 rows][4]: byte (r, i) of plane v
 *           holds codes of row r at k = 4 j + i, where the quad j is
 *             4-bit plane v = 0..3   low nibble: quad v, high nibble: quad v + 4
 *             2-bit plane v = 0..1   bits 2 s: quad 4 v + s
 *             1-bit plane            bit s: quad s
 *             8-bit plane v = 0..7   quad v
 *           A 5-bit code is a 4-bit plane set and a 1-bit plane (its top bit); 6 = 4 + 2; 3 = 2 +
 * 1.
 *           Types with a grid have planes [4 entries][16 rows] of the low bytes of indices instead
 * (one, of
 *           IQ3 two), and a 1-bit plane of signs (not IQ1). The rest of an index is a field.
 *   scales  for each GGUF block of the unit, its scale fields in the order of `field`, every one
 *           interleaved over the 16 rows: [count][16][bytes].
 * Codes and scales of a unit are neighbours, so that a product reads one stream of memory.
 * One vector instruction thus meets 4 elements of 4, 8 or 16 rows, and the sum of products of a row
 * stays in its lane: no shuffle, no horizontal sum.
 *
 * Pure. Source of the idea: interleaved weights as in KleidiAI and oneDNN; layout our own. */
#ifndef SP_KERN_PACK_H
#define SP_KERN_PACK_H

#include "fmt/quant.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SP_TILE_ROWS = 16, SP_PACK_FIELDS = 3 };
/* What levels without a sign are raised by: FP4 becomes 0 to 24, IQ1 0 to 18, IQ3_S 1 to 31. */
enum { SP_FP4_ZERO = 12, SP_IQ1_ZERO = 9, SP_IQ3_ZERO = 16 };

typedef struct sp_pack_info {
    const int8_t *level; /* codes are indices into these 16 levels; NULL: codes are numbers */
    uint8_t zero;        /* what sp_kern's expand adds to a level */
    struct {
        uint8_t at, bytes, count;
    } field[SP_PACK_FIELDS]; /* in the GGUF block, or sp_grid_blk; count 0: none */
    const uint32_t *grid;    /* entries that indices name; NULL: codes stand for themselves */
} sp_pack_info;

/* A block of a type with a grid, taken apart: what all of them have in common. */
typedef struct sp_grid_blk {
    uint8_t index[64]; /* low bytes of the indices of 32 entries of 8 values, or of 64 of 4 */
    uint8_t signs[32]; /* bit i % 8 of byte i / 8: value i is negative */
    sp_f16 d;
    uint8_t high[16];  /* the rest of the indices, in order: 4 bits an entry of IQ1, of which 8 says
                        * that it is shifted up; 2 bits of IQ2_S, 1 bit of IQ2_XS and IQ3_S */
    uint8_t scales[8]; /* 4 bits s for 16 or 32 values, the low half first, which have the scale
                        * (2 s + 1) d * sp_grid_unit */
} sp_grid_blk;

extern const sp_pack_info sp_pack_of[SP_TYPE_COUNT];

/* Bits of a code, or planes of a block of 32; 0 for types that are not packed. A switch, so that it
 * folds in the kernels. */
static inline size_t sp_pack_bits(sp_type type)
{
    switch (type) {
    case SP_IQ1_S:
    case SP_IQ1_M:
        return 1;
    case SP_Q2_K:
    case SP_TQ1_0:
    case SP_TQ2_0:
    case SP_IQ2_XXS:
    case SP_IQ2_XS:
    case SP_IQ2_S:
        return 2;
    case SP_Q3_K:
    case SP_IQ3_XXS:
    case SP_IQ3_S:
        return 3;
    case SP_Q4_0:
    case SP_Q4_1:
    case SP_Q4_K:
    case SP_IQ4_NL:
    case SP_IQ4_XS:
    case SP_MXFP4:
    case SP_NVFP4:
        return 4;
    case SP_Q5_0:
    case SP_Q5_1:
    case SP_Q5_K:
        return 5;
    case SP_Q6_K:
        return 6;
    case SP_Q8_0:
        return 8;
    default:
        return 0;
    }
}
static inline bool sp_pack_is(sp_type type)
{
    return sp_pack_bits(type) != 0;
}
/* Does it have a grid of 8 or 4 values an entry? */
static inline bool sp_grid_is(sp_type type)
{
    return type == SP_IQ1_S || type == SP_IQ1_M || type == SP_IQ2_XXS || type == SP_IQ2_XS ||
           type == SP_IQ2_S || type == SP_IQ3_XXS || type == SP_IQ3_S;
}
/* What the scales of a type with a grid are multiples of. */
static inline float sp_grid_unit(sp_type type)
{
    return type == SP_IQ3_S ? 1.0f : type == SP_IQ3_XXS ? 0.25f : 0.125f;
}
enum { SP_PACK_UNIT = 256 }; /* elements of k */
/* Bytes of the fields of a row for a unit. */
static inline size_t sp_pack_field_bytes(sp_type type)
{
    switch (type) {
    case SP_Q2_K:
        return 20;
    case SP_Q3_K:
        return 14;
    case SP_Q6_K:
        return 18;
    case SP_IQ4_XS:
    case SP_MXFP4:
        return 8;
    case SP_Q4_1:
    case SP_Q5_1:
        return 32;
    case SP_TQ1_0:
    case SP_TQ2_0:
        return 2;
    case SP_IQ1_S:
        return 22;
    case SP_IQ1_M:
        return 26;
    case SP_IQ2_XXS:
    case SP_IQ3_XXS:
        return 6;
    case SP_IQ2_XS:
    case SP_IQ3_S:
        return 14;
    case SP_IQ2_S:
        return 18;
    default: /* Q4_0, Q5_0, Q8_0, IQ4_NL, NVFP4; Q4_K, Q5_K */
        return 16;
    }
}
/* Bytes of a whole unit, of k elements of a row, of a tile, and of a matrix. */
static inline size_t sp_pack_unit_bytes(sp_type type)
{
    return SP_TILE_ROWS * (SP_PACK_UNIT / 8 * sp_pack_bits(type) + sp_pack_field_bytes(type));
}
static inline size_t sp_pack_row_bytes(sp_type type, size_t k)
{
    return k / 8 * sp_pack_bits(type) + k / 32 * sp_pack_field_bytes(type) / 8;
}
static inline size_t sp_pack_tile_bytes(sp_type type, size_t k)
{
    return (SP_TILE_ROWS * sp_pack_row_bytes(type, k) + 63) & ~(size_t)63;
}
static inline size_t sp_pack_tiles(size_t n_row)
{
    return (n_row + SP_TILE_ROWS - 1) / SP_TILE_ROWS;
}
static inline size_t sp_pack_bytes(sp_type type, size_t n_row, size_t k)
{
    return sp_pack_tiles(n_row) * sp_pack_tile_bytes(type, k);
}

/* How far ahead of their use kernels ask for weights. Those of one layer lie in the order of their
 * use, so this also reaches into the next product. Measured on Zen 5, SmolLM2 decode: none 342,
 * 1024 358, 2048 395, 4096 393, 8192 397 tok/s. */
enum { SP_AHEAD_BYTES = 8192 };

/* Packs n_row (1..16) GGUF rows into one tile. scratch: sp_pack_scratch(k) bytes. */
void sp_pack_tile(void *tile, sp_type type, const void *rows, size_t n_row, size_t k,
                  void *scratch);
static inline size_t sp_pack_scratch(size_t k)
{
    return k + k / 16 * 2 * sizeof(float);
}
/* Takes unit u of row r (0..15) of a tile apart: w[i] = d[i / 16] * q[i] + m[i / 16]. Returns n,
 * its elements (256 but for a last unit).
 *   q u8 [n]   d, m f32 [n / 16]
 * The specification of the layout. */
size_t sp_pack_get(uint8_t *q, float *d, float *m, const void *tile, sp_type type, size_t k,
                   size_t r, size_t u);

#endif
