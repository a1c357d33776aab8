/* The tables of the codebooks in grid_list.h. */
#include "fmt/grid.h"

#include "fmt/grid_list.h"

const int8_t sp_grid_level_iq1[16] = {-7, 1, 9, 0, 0, 0, 0, 0, -9, -1, 7, 0, 0, 0, 0, 0};
const int8_t sp_grid_level_iq2[16] = {8, 25, 43, 0, 0, 0, 0, 0, -8, -25, -43, 0, 0, 0, 0, 0};
const int8_t sp_grid_level_iq3_xxs[16] = {4,  12,  20,  28,  36,  44,  52,  62,
                                          -4, -12, -20, -28, -36, -44, -52, -62};
const int8_t sp_grid_level_iq3_s[16] = {1,  3,  5,  7,  9,  11,  13,  15,
                                        -1, -3, -5, -7, -9, -11, -13, -15};

/* Value i of an entry of eight is byte i: F(digit i) of its word w. */
#define AT(F, w, i) ((uint64_t)F((w) >> ((i) % 4 * 8 + (i) / 4 * 4) & 15) << 8 * (i))
#define EIGHT(F, w)                                                                                \
    (AT(F, w, 0) | AT(F, w, 1) | AT(F, w, 2) | AT(F, w, 3) | AT(F, w, 4) | AT(F, w, 5) |           \
     AT(F, w, 6) | AT(F, w, 7))
#define IQ1_OF(digit) (8 * (digit))
#define IQ2_OF(digit) ((digit) == 0 ? 8 : (digit) == 1 ? 25 : 43)
#define DIGITS(w) w
#define IQ1(w) EIGHT(IQ1_OF, w)
#define IQ2(w) EIGHT(IQ2_OF, w)

const uint32_t sp_grid_iq1[2048] = {SP_GRID_IQ1(DIGITS)};
const uint32_t sp_grid_iq2_xxs[256] = {SP_GRID_IQ2_XXS(DIGITS)};
const uint32_t sp_grid_iq2_xs[512] = {SP_GRID_IQ2_XS(DIGITS)};
const uint32_t sp_grid_iq2_s[1024] = {SP_GRID_IQ2_S(DIGITS)};
const uint32_t sp_grid_iq3_xxs[256] = {SP_GRID_IQ3_XXS(DIGITS)};
const uint32_t sp_grid_iq3_s[512] = {SP_GRID_IQ3_S(DIGITS)};
const uint64_t sp_grid_iq1_bytes[2048] = {SP_GRID_IQ1(IQ1)};
const uint64_t sp_grid_iq2_xxs_bytes[256] = {SP_GRID_IQ2_XXS(IQ2)};
const uint64_t sp_grid_iq2_xs_bytes[512] = {SP_GRID_IQ2_XS(IQ2)};
const uint64_t sp_grid_iq2_s_bytes[1024] = {SP_GRID_IQ2_S(IQ2)};
