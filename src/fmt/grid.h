/* Blocks of NVFP4, of ternary digits, and of IQ1_S to IQ3_S, whose values are entries of codebooks
 * (grids).
 * Source: ggml's published block layouts. Pure, immutable. */
#ifndef SP_FMT_GRID_H
#define SP_FMT_GRID_H

#include "fmt/quant.h"

/* Four times 16 values: an E4M3 scale without a sign, and level[q] / 2; low nibbles are the first 8
 * of the 16. */
typedef struct sp_blk_nvfp4 { uint8_t d[4], qs[32]; } sp_blk_nvfp4;
/* d * (q - 1), five base-3 digits a byte. */
typedef struct sp_blk_tq1_0 { uint8_t qs[48], qh[4]; sp_f16 d; } sp_blk_tq1_0;

/* Blocks of 256: entries of a grid, of 8 or 4 magnitudes, with signs; those of IQ1 are of -1, 0 and
 * 1, with a shift of 1/8 up or down. kern/ref/grid.c takes them apart. */
typedef struct sp_blk_iq2_xxs { sp_f16 d; uint8_t qs[64]; } sp_blk_iq2_xxs;
typedef struct sp_blk_iq2_xs { sp_f16 d; uint16_t qs[32]; uint8_t scales[8]; } sp_blk_iq2_xs;
typedef struct sp_blk_iq2_s { sp_f16 d; uint8_t qs[32], signs[32], qh[8], scales[8]; } sp_blk_iq2_s;
typedef struct sp_blk_iq3_xxs { sp_f16 d; uint8_t qs[64], signs[32]; } sp_blk_iq3_xxs;
typedef struct sp_blk_iq3_s { sp_f16 d; uint8_t qs[64], qh[8], signs[32], scales[4]; } sp_blk_iq3_s;
typedef struct sp_blk_iq1_s { sp_f16 d; uint8_t qs[32]; uint16_t qh[8]; } sp_blk_iq1_s;
typedef struct sp_blk_iq1_m { uint8_t qs[32], qh[16]; uint16_t scales[4]; } sp_blk_iq1_m;

/* Entries as digits of 4 bits. Digit i of an entry of four (IQ3) is byte i; of an entry of eight
 * (IQ1, IQ2) digits i and i + 4 are the low and the high half of byte i. */
extern const uint32_t sp_grid_iq1[2048], sp_grid_iq2_xxs[256], sp_grid_iq2_xs[512],
    sp_grid_iq2_s[1024];
extern const uint32_t sp_grid_iq3_xxs[256], sp_grid_iq3_s[512];
/* Entries of eight as bytes: value i without its sign is byte i. Of IQ1: eight times digit i. */
extern const uint64_t sp_grid_iq1_bytes[2048], sp_grid_iq2_xxs_bytes[256],
    sp_grid_iq2_xs_bytes[512], sp_grid_iq2_s_bytes[1024];
/* What a digit stands for, and digit + 8 of a value that is negative, or of IQ1 shifted down. IQ1
 * is in eighths. */
extern const int8_t sp_grid_level_iq1[16], sp_grid_level_iq2[16], sp_grid_level_iq3_xxs[16],
    sp_grid_level_iq3_s[16];

#endif
