/* Products of one token with types that have a grid of eight values an entry, over AVX2.
 *
 * An entry is 8 bytes of a table, and a vector holds one of each of four rows, so that no digit is
 * taken apart. Vector v of 16 rows holds rows 8 (v / 2) + 2 (v % 2) + {0, 1, 4, 5}: this is what
 * unpacking and adding neighbours within 128 bits make of rows in order. Sums of integers are those
 * of tile_rows, and so are the operations on floats. */
#ifndef SP_KERN_X86_GRID_AVX2_H
#define SP_KERN_X86_GRID_AVX2_H

enum { GRID_V = 4 /* vectors of four rows */ };

INLINE const uint64_t *grid_table(sp_type type)
{
    switch (type) {
    case SP_IQ2_XXS:
        return sp_grid_iq2_xxs_bytes;
    case SP_IQ2_XS:
        return sp_grid_iq2_xs_bytes;
    case SP_IQ2_S:
        return sp_grid_iq2_s_bytes;
    default:
        return sp_grid_iq1_bytes;
    }
}

INLINE __m128i grid_load(const uint8_t *p)
{
    return _mm_loadu_si128((const __m128i *)(const void *)p);
}

/* Indices of entry e of block b for 16 rows. p: the block's planes; high: the rest of indices. */
INLINE __m256i grid_index(sp_type type, const uint8_t *p, const uint8_t *high, size_t b, size_t e)
{
    const bool is_iq1 = sp_pack_bits(type) == 1, is_s = type == SP_IQ2_S;
    __m256i at = _mm256_cvtepu8_epi16(grid_load(p + SP_TILE_ROWS * e));
    if (type == SP_IQ2_XXS)
        return at;
    /* bits [from, from + n) of byte `of` of a row */
    const int n = is_iq1 ? 3 : is_s ? 2 : 1;
    const size_t of = is_iq1 ? 2 * b + e / 2 : is_s ? b : b / 2,
                 from = is_iq1 ? e % 2 * 4 : is_s ? 2 * e : b % 2 * 4 + e;
    __m256i h = _mm256_cvtepu8_epi16(grid_load(high + SP_TILE_ROWS * of));
    h = _mm256_sll_epi16(h, _mm_cvtsi32_si128(8 - (int)from));
    h = _mm256_and_si256(h, _mm256_set1_epi16((short)(((1 << n) - 1) << 8)));
    return _mm256_or_si256(at, h);
}

INLINE __m128i grid_two(const uint64_t *table, uint64_t at)
{
    __m128 first =
        _mm_castsi128_ps(_mm_loadl_epi64((const __m128i *)(const void *)(table + (uint16_t)at)));
    return _mm_castps_si128(
        _mm_loadh_pi(first, (const __m64 *)(const void *)(table + (uint16_t)(at >> 16))));
}

/* Entries of four rows of eight. at: their indices, 16 bits each; v: 0, or 1 for rows 2 later. */
INLINE __m256i grid_four(const uint64_t *table, const uint64_t at[2], size_t v)
{
    return _mm256_inserti128_si256(_mm256_castsi128_si256(grid_two(table, at[0] >> 32 * v)),
                                   grid_two(table, at[1] >> 32 * v), 1);
}

/* The bytes of 16 rows to the 8 bytes that each row of vector v has. */
INLINE __m256i grid_spread(__m256i rows, size_t v)
{
    const char r = (char)(8 * (v / 2) + 2 * (v % 2));
    const __m256i from = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0404040404040404,
                                            0x0505050505050505);
    return _mm256_shuffle_epi8(rows, _mm256_add_epi8(from, _mm256_set1_epi8(r)));
}

/* x where the sign of entry e is positive, minus where it is negative. sign: bit 2 e of a byte for
 * the first four values, bit 2 e + 1 for the others. */
INLINE __m256i grid_signed(__m256i x, __m256i minus, __m256i sign, size_t e)
{
    const int low = 7 - 2 * (int)e, high = low - 1;
    const __m256i to_top = _mm256_setr_epi32(low, high, low, high, low, high, low, high);
    return _mm256_blendv_epi8(x, minus, _mm256_sllv_epi32(sign, to_top));
}

INLINE void grid_tile(const sp_gemm_args *g, float *out, const uint8_t *tile, size_t n_out,
                      sp_type type)
{
    const bool is_iq1 = sp_pack_bits(type) == 1, is_long = type == SP_IQ2_XXS;
    const size_t bits = sp_pack_bits(type), n_half = tile_halves(type),
                 unit_bytes = sp_pack_unit_bytes(type), n_entry = 4 / n_half;
    const uint64_t *table = grid_table(type);
    const __m256i one = _mm256_set1_epi16(1);
    const sp_act_blk *x = sp_acts_row(g->x, 0);
    vf acc[2] = {vf_zero(), vf_zero()};
    for (size_t i = 0; i < g->k / 32; i++, x++) {
        const size_t b = i % 8;
        const uint8_t *unit = tile + i / 8 * unit_bytes, *p = unit + b * 64 * bits,
                      *scale = unit + 8 * 64 * bits, *high = scale + 2 * SP_TILE_ROWS;
        UNROLL
        for (size_t line = 0; line < (unit_bytes / 8 + 63) / 64; line++)
            PREFETCH(unit + b * (unit_bytes / 8) + SP_AHEAD_BYTES + 64 * line);
        __m256i sign[GRID_V], a[GRID_V], dot[GRID_V];
        UNROLL
        for (size_t v = 0; v < GRID_V; v += 2) {
            __m256i all = is_iq1 ? va_zero() : vi_load(p + 64 * (bits - 1) + 16 * v);
            sign[v] = _mm256_unpacklo_epi32(all, all);
            sign[v + 1] = _mm256_unpackhi_epi32(all, all);
        }
        UNROLL
        for (size_t e = 0; e < 4; e++) {
            __m256i index = grid_index(type, p, high, b, e), up = va_zero();
            const __m128i first = _mm256_castsi256_si128(index),
                          second = _mm256_extracti128_si256(index, 1);
            /* by words: taking 16 bits out of a vector costs two instructions each, and so does a
             * load behind a wider store */
            const uint64_t at[4] = {
                (uint64_t)_mm_cvtsi128_si64(first), (uint64_t)_mm_extract_epi64(first, 1),
                (uint64_t)_mm_cvtsi128_si64(second), (uint64_t)_mm_extract_epi64(second, 1)};
            int64_t eight;
            memcpy(&eight, x->q + 8 * e, sizeof eight);
            const __m256i xe = _mm256_set1_epi64x(eight), minus = _mm256_sub_epi8(va_zero(), xe);
            if (is_iq1) { /* bit 3 of the field: 2 is added to each number */
                up = _mm256_broadcastsi128_si256(grid_load(high + SP_TILE_ROWS * (2 * b + e / 2)));
                up = _mm256_and_si256(_mm256_srli_epi16(up, e % 2 ? 6 : 2), _mm256_set1_epi8(2));
            }
            UNROLL
            for (size_t v = 0; v < GRID_V; v++) {
                __m256i w = grid_four(table, at + v / 2 * 2, v % 2);
                __m256i pair = is_iq1 ? _mm256_maddubs_epi16(vi_or(w, grid_spread(up, v)), xe)
                                      : _mm256_maddubs_epi16(w, grid_signed(xe, minus, sign[v], e));
                /* 16 bits hold three sums of two products with 43, and more with 18 */
                if (is_long && e == 2)
                    dot[v] = _mm256_madd_epi16(a[v], one);
                bool is_new = e % n_entry == 0 || (is_long && e == 2);
                a[v] = is_new ? pair : _mm256_add_epi16(a[v], pair);
            }
            if ((e + 1) % n_entry != 0)
                continue;
            const size_t h = n_half == 2 ? e / 2 : 0;
            UNROLL
            for (size_t r = 0; r < 2; r++) {
                vf d, m;
                vs lo = _mm256_madd_epi16(a[2 * r], one), hi = _mm256_madd_epi16(a[2 * r + 1], one);
                if (is_long) {
                    lo = vs_add(lo, dot[2 * r]);
                    hi = vs_add(hi, dot[2 * r + 1]);
                }
                tile_scale(&d, &m, type, scale, b, h, VR * r);
                acc[r] = tile_scaled(acc[r], _mm256_hadd_epi32(lo, hi), d, m, x, h, n_half,
                                     sp_pack_sign(type));
            }
        }
    }
    for (size_t r = 0; r < 2 && VR * r < n_out; r++) {
        size_t left = n_out - VR * r;
        tile_put(g, out + VR * r, acc[r], left < VR ? left : VR);
    }
}

#define GRID_GEMM(type)                                                                            \
    static void grid_##type(const sp_gemm_args *g)                                                 \
    {                                                                                              \
        if (g->n_tok != 1) {                                                                       \
            gemm_##type(g);                                                                        \
            return;                                                                                \
        }                                                                                          \
        const uint8_t *tile = g->w;                                                                \
        for (size_t i = 0; i < g->n_row; i += SP_TILE_ROWS) {                                      \
            grid_tile(g, g->out + i, tile, g->n_row - i, type);                                    \
            tile += sp_pack_tile_bytes(type, g->k);                                                \
        }                                                                                          \
    }
GRID_GEMM(SP_IQ1_S)
GRID_GEMM(SP_IQ1_M)
GRID_GEMM(SP_IQ2_XXS)
GRID_GEMM(SP_IQ2_XS)
GRID_GEMM(SP_IQ2_S)
#undef GRID_GEMM

static void grid_init(sp_kern *kern)
{
    kern->gemm_q[SP_IQ1_S] = grid_SP_IQ1_S;
    kern->gemm_q[SP_IQ1_M] = grid_SP_IQ1_M;
    kern->gemm_q[SP_IQ2_XXS] = grid_SP_IQ2_XXS;
    kern->gemm_q[SP_IQ2_XS] = grid_SP_IQ2_XS;
    kern->gemm_q[SP_IQ2_S] = grid_SP_IQ2_S;
}

#endif
