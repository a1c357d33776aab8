/* AVX-512 kernels (F, BW, DQ, VL). Compiled with those flags; called only where cpuid and xgetbv
 * allow it. Integer products without VNNI go through vpmaddubsw, see avx512.h. */
#include "kern/x86/avx512.h"

#define MAX_T 8
#define TILES(T) T(1) T(2) T(3) T(4) T(5) T(6) T(7) T(8)
#include "kern/gemm_tile.h"
#include "kern/planes_tile.h"
#define ATTN_T 4
#include "kern/vec_tile.h"

#include "kern/dot_tile.h"
#include "kern/scan_tile.h"
#define ROWS_R 4
#define ROWS_T 6
#include "kern/gemm_rows.h"

/* x (+/-) its neighbour at distance h inside each group of 2 h lanes. */
INLINE __m512 butterfly(__m512 x, __m512 y, __mmask16 high)
{
    return _mm512_mask_sub_ps(_mm512_add_ps(x, y), high, y, x);
}

INLINE __m512 hadamard16(__m512 x)
{
    x = butterfly(x, _mm512_permute_ps(x, 0xb1), 0xaaaa);
    x = butterfly(x, _mm512_permute_ps(x, 0x4e), 0xcccc);
    x = butterfly(x, _mm512_shuffle_f32x4(x, x, 0xb1), 0xf0f0);
    return butterfly(x, _mm512_shuffle_f32x4(x, x, 0x4e), 0xff00);
}

/* Blocks of V vectors, each held in registers. */
INLINE void rotate_blocks(float *out, const float *x, float scale, size_t d, bool back,
                          const size_t V)
{
    const __m512 unit = _mm512_set1_ps(1.0f / __builtin_sqrtf((float)(16 * V))),
                 first = _mm512_set1_ps(scale);
    for (size_t at = 0; at < d; at += 16 * V) {
        __m512 v[32];
        UNROLL
        for (size_t i = 0; i < V; i++) {
            v[i] = _mm512_mul_ps(_mm512_loadu_ps(x + at + 16 * i), first);
            if (!back)
                v[i] =
                    _mm512_mask_sub_ps(v[i], sp_rot_minus(at + 16 * i), _mm512_setzero_ps(), v[i]);
            v[i] = hadamard16(v[i]);
        }
        UNROLL
        for (size_t h = 1; h < V; h *= 2) {
            UNROLL
            for (size_t i = 0; i < V; i++) {
                if (i & h)
                    continue;
                __m512 a = v[i], b = v[i + h];
                v[i] = _mm512_add_ps(a, b);
                v[i + h] = _mm512_sub_ps(a, b);
            }
        }
        UNROLL
        for (size_t i = 0; i < V; i++) {
            v[i] = _mm512_mul_ps(v[i], unit);
            if (back)
                v[i] =
                    _mm512_mask_sub_ps(v[i], sp_rot_minus(at + 16 * i), _mm512_setzero_ps(), v[i]);
            _mm512_storeu_ps(out + at + 16 * i, v[i]);
        }
    }
}

static void rotate(float *out, const float *x, float scale, size_t d, bool back)
{
    size_t n = d & (~d + 1); /* largest power of two that divides d; 16 to SP_MAX_HEAD */
    _Static_assert(SP_MAX_HEAD <= 512, "rotate");
    switch (n) {
    case 16: rotate_blocks(out, x, scale, d, back, 1); break;
    case 32: rotate_blocks(out, x, scale, d, back, 2); break;
    case 64: rotate_blocks(out, x, scale, d, back, 4); break;
    case 128: rotate_blocks(out, x, scale, d, back, 8); break;
    case 256: rotate_blocks(out, x, scale, d, back, 16); break;
    default: rotate_blocks(out, x, scale, d, back, 32); break;
    }
}

static uint64_t int_peak(size_t rounds, uint32_t *out)
{
    __m512i a[12], x = _mm512_set1_epi8(3);
    for (int k = 0; k < 12; k++)
        a[k] = _mm512_set1_epi16((short)k);
    for (size_t i = 0; i < rounds; i++)
        for (int k = 0; k < 12; k++)
            a[k] = _mm512_add_epi16(a[k], _mm512_maddubs_epi16(x, a[k]));
    for (int k = 1; k < 12; k++)
        a[0] = _mm512_add_epi32(a[0], a[k]);
    *out = (uint32_t)_mm512_cvtsi512_si32(a[0]);
    return (uint64_t)rounds * 12 * 64;
}

static uint64_t read_all(const void *p, size_t n_bytes)
{
    __m512i s[8];
    for (size_t k = 0; k < 8; k++)
        s[k] = _mm512_setzero_si512();
    for (size_t i = 0; i < n_bytes; i += 512) {
        UNROLL
        for (size_t k = 0; k < 8; k++)
            s[k] = _mm512_add_epi64(s[k], _mm512_loadu_si512((const char *)p + i + 64 * k));
    }
    for (size_t k = 1; k < 8; k++)
        s[0] = _mm512_add_epi64(s[0], s[k]);
    return (uint64_t)_mm512_reduce_add_epi64(s[0]);
}

void sp_kern_init_avx512(sp_kern *k)
{
    k->dot_i8 = dot_i8;
    k->isa = "avx512";
    tile_init(k);
    rows_init(k);
    vec_init(k);
    scan_init(k);
    /* of 8 bits in halves of registers: four times as fast as f32 in whole ones */
    sp_attn_avx2_init(k);
    k->rotate = rotate;
    k->int_peak = int_peak;
    k->read_all = read_all;
}
