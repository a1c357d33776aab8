/* Types whose rows are widened to f32 before a product, since no kernel reads their blocks: NVFP4 (whose tensors have factors),
 * the grids of IQ1 to IQ3, and base-3 digits.
 * Source: ggml's published block layouts. Pure, immutable. */
#ifndef SP_FMT_GRID_H
#define SP_FMT_GRID_H

#include "fmt/quant.h"

/* Four times 16 values: an E4M3 scale without a sign, and level[q] / 2; low nibbles are the first 8 of the 16. */
typedef struct sp_blk_nvfp4 { uint8_t d[4], qs[32]; } sp_blk_nvfp4;
/* Blocks of 256 as entries of a grid of 4 or 8 magnitudes, with signs; IQ1: of -1, 0, 1 and a shift of 1/8. kern/ref/widen.c. */
typedef struct sp_blk_iq2_xxs { sp_f16 d; uint8_t qs[64]; } sp_blk_iq2_xxs;
typedef struct sp_blk_iq2_xs { sp_f16 d; uint16_t qs[32]; uint8_t scales[8]; } sp_blk_iq2_xs;
typedef struct sp_blk_iq2_s { sp_f16 d; uint8_t qs[32], signs[32], qh[8], scales[8]; } sp_blk_iq2_s;
typedef struct sp_blk_iq3_xxs { sp_f16 d; uint8_t qs[64], signs[32]; } sp_blk_iq3_xxs;
typedef struct sp_blk_iq3_s { sp_f16 d; uint8_t qs[64], qh[8], signs[32], scales[4]; } sp_blk_iq3_s;
typedef struct sp_blk_iq1_s { sp_f16 d; uint8_t qs[32]; uint16_t qh[8]; } sp_blk_iq1_s;
typedef struct sp_blk_iq1_m { uint8_t qs[32], qh[16]; uint16_t scales[4]; } sp_blk_iq1_m;
typedef struct sp_blk_tq1_0 { uint8_t qs[48], qh[4]; sp_f16 d; } sp_blk_tq1_0; /* d * (q - 1), five base-3 digits a byte */

/* Grids of IQ1 to IQ3 as digits, the first lowest: 8 digits of 2 bits, or 4 of 3 bits. */
extern const uint16_t sp_grid_iq1[2048], sp_grid_iq2_xxs[256], sp_grid_iq2_xs[512], sp_grid_iq2_s[1024], sp_grid_iq3_xxs[256], sp_grid_iq3_s[512];

#endif
