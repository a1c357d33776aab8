/* AMX: products of 8-bit matrices of 16 tokens by 16 rows in one instruction, for prompts and other
 * steps of many tokens. The rest is avx512bf16.c. With SP_DPBUSD_BODY the instruction is imitated
 * for tests: over AVX2, where 8 rows are one vector. */
#ifdef SP_DPBUSD_BODY
#include "kern/x86/avx2.h"

static void mx_begin(void)
{
}

static void mx_end(void)
{
}

INLINE void mx_dot(int32_t c[][VR], const int8_t *a, size_t stride, const uint8_t *b, size_t n)
{
    for (size_t t = 0; t < SP_GEMM_TALL; t++) {
        vs sum = vs_zero();
        for (size_t j = 0; j < n; j++)
            sum = dot256(sum, vi_load(b + 4 * VR * j), quad256(a + t * stride + 4 * j));
        vs_store((uint8_t *)c[t], sum);
    }
}
#else
#include "kern/x86/avx512.h"

/* Tile registers: 0 sums; 1 and 2 tokens and rows of a block of 32; 3 and 4 of its half. */
static void mx_begin(void)
{
    static const struct {
        uint8_t palette, start_row, zero[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } shapes = {1, 0, {0}, {64, 32, 64, 16, 64}, {16, 16, 8, 16, 4}};
    _tile_loadconfig(&shapes);
}

static void mx_end(void)
{
    _tile_release();
}

INLINE void mx_dot(int32_t c[][VR], const int8_t *a, size_t stride, const uint8_t *b, size_t n)
{
    _tile_zero(0);
    if (n == 8) {
        _tile_loadd(1, a, stride);
        _tile_loadd(2, b, 4 * VR);
        _tile_dpbsud(0, 1, 2);
    } else {
        _tile_loadd(3, a, stride);
        _tile_loadd(4, b, 4 * VR);
        _tile_dpbsud(0, 3, 4);
    }
    _tile_stored(0, c, 4 * VR);
}
#endif

#include "kern/gemm_tall.h"

void sp_kern_init_amx(sp_kern *k)
{
    k->isa = "amx";
    tall_init(k);
}
