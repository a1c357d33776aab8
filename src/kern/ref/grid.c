/* Blocks of IQ1_S to IQ3_S taken apart into one form, and the values of that form.
 *
 * Every value is a small integer times a scale of at most 16 bits of mantissa, so it is exact in
 * f32 whatever the order of its products. Words are little-endian, as the files are. */
#include "kern/ref/ref.h"

#include "fmt/grid.h"

#include <string.h>

/* Seven stored signs; the eighth makes their number even. */
static uint8_t even_signs(unsigned s)
{
    s &= 127;
    return (uint8_t)(s | (unsigned)__builtin_parity(s) << 7);
}

/* Half a byte, the low one first. */
static void put_half(uint8_t *p, size_t i, unsigned v)
{
    p[i / 2] = (uint8_t)(p[i / 2] | (v & 15) << (i % 2 * 4));
}

/* Four times seven signs and a scale in each word, for 32 values. */
static void split_words(sp_grid_blk *out, const uint8_t *words, size_t step)
{
    for (size_t i = 0; i < 8; i++) {
        uint32_t w;
        memcpy(&w, words + i * step, 4);
        for (size_t l = 0; l < 4; l++)
            out->signs[4 * i + l] = even_signs(w >> 7 * l);
        put_half(out->scales, i, w >> 28);
    }
}

static void iq2_xxs(sp_grid_blk *out, const void *blk)
{
    const sp_blk_iq2_xxs *b = blk;
    out->d = b->d;
    for (size_t i = 0; i < 32; i++)
        out->index[i] = b->qs[i / 4 * 8 + i % 4];
    split_words(out, b->qs + 4, 8);
}

static void iq2_xs(sp_grid_blk *out, const void *blk)
{
    const sp_blk_iq2_xs *b = blk;
    out->d = b->d;
    for (size_t i = 0; i < 32; i++) {
        out->index[i] = (uint8_t)b->qs[i];
        out->signs[i] = even_signs((unsigned)b->qs[i] >> 9);
        put_half(out->high, i / 4, (b->qs[i] >> 8 & 1u) << i % 4);
    }
    memcpy(out->scales, b->scales, 8);
}

static void iq2_s(sp_grid_blk *out, const void *blk)
{
    const sp_blk_iq2_s *b = blk;
    out->d = b->d;
    memcpy(out->index, b->qs, 32);
    memcpy(out->signs, b->signs, 32);
    memcpy(out->high, b->qh, 8);
    memcpy(out->scales, b->scales, 8);
}

static void iq3_xxs(sp_grid_blk *out, const void *blk)
{
    const sp_blk_iq3_xxs *b = blk;
    out->d = b->d;
    memcpy(out->index, b->qs, 64);
    split_words(out, b->signs, 4);
}

static void iq3_s(sp_grid_blk *out, const void *blk)
{
    const sp_blk_iq3_s *b = blk;
    out->d = b->d;
    memcpy(out->index, b->qs, 64);
    memcpy(out->signs, b->signs, 32);
    memcpy(out->high, b->qh, 8);
    memcpy(out->scales, b->scales, 4);
}

static void iq1_s(sp_grid_blk *out, const void *blk)
{
    const sp_blk_iq1_s *b = blk;
    out->d = b->d;
    memcpy(out->index, b->qs, 32);
    for (size_t i = 0; i < 32; i++) {
        unsigned h = b->qh[i / 4];
        put_half(out->high, i, (h >> 3 * (i % 4) & 7) | (h >> 15 ^ 1) << 3);
    }
    for (size_t i = 0; i < 8; i++)
        put_half(out->scales, i, b->qh[i] >> 12 & 7u);
}

static void iq1_m(sp_grid_blk *out, const void *blk)
{
    const sp_blk_iq1_m *b = blk;
    const uint16_t *s = b->scales;
    out->d = (sp_f16)(s[0] >> 12 | (s[1] >> 8 & 0xf0) | (s[2] >> 4 & 0xf00) | (s[3] & 0xf000));
    memcpy(out->index, b->qs, 32);
    for (size_t i = 0; i < 16; i++) {
        out->high[i] = b->qh[i] ^ 0x88;
        put_half(out->scales, i, (unsigned)s[i / 4] >> i % 4 * 3 & 7u);
    }
}

bool sp_ref_grid_split(sp_grid_blk *out, sp_type type, const void *blk)
{
    static void (*const of[SP_TYPE_COUNT])(sp_grid_blk *, const void *) = {
        [SP_IQ1_S] = iq1_s, [SP_IQ1_M] = iq1_m,     [SP_IQ2_XXS] = iq2_xxs, [SP_IQ2_XS] = iq2_xs,
        [SP_IQ2_S] = iq2_s, [SP_IQ3_XXS] = iq3_xxs, [SP_IQ3_S] = iq3_s};
    if (!of[type])
        return false;
    memset(out, 0, sizeof *out);
    of[type](out, blk);
    return true;
}

/* Which entry of the grid values [8 e, 8 e + 8) are, or [4 e, 4 e + 4); bit 11 of IQ1: shifted
 * up. */
static unsigned entry_of(const sp_grid_blk *b, sp_type type, size_t e)
{
    switch (type) {
    case SP_IQ1_S:
    case SP_IQ1_M:
        return b->index[e] | ((unsigned)b->high[e / 2] >> (e % 2 * 4) & 15u) << 8;
    case SP_IQ2_XS:
        return b->index[e] | ((unsigned)b->high[e / 8] >> (e % 8) & 1u) << 8;
    case SP_IQ2_S:
        return b->index[e] | ((unsigned)b->high[e / 4] >> (e % 4 * 2) & 3u) << 8;
    case SP_IQ3_S:
        return b->index[e] | ((unsigned)b->high[e / 8] >> (e % 8) & 1u) << 8;
    default:
        return b->index[e];
    }
}

void sp_ref_grid_values(uint8_t *q, float *d, float *m, sp_type type, const sp_grid_blk *b)
{
    const sp_pack_info *info = &sp_pack_of[type];
    bool is_iq1 = type == SP_IQ1_S || type == SP_IQ1_M,
         is_four = type == SP_IQ3_XXS || type == SP_IQ3_S;
    float unit = sp_f16_to_f32(b->d) * sp_grid_unit(type);
    for (size_t i = 0; i < SP_PACK_UNIT; i++) {
        unsigned at = entry_of(b, type, is_four ? i / 4 : i / 8),
                 sign = (unsigned)b->signs[i / 8] >> (i % 8) & 1u;
        if (is_iq1)
            sign = at >> 11 ^ 1;
        unsigned digit =
            info->grid[at & 2047] >> (8 * (i % 4) + (is_four ? 0 : i % 8 / 4 * 4)) & 15;
        q[i] = (uint8_t)(info->level[digit | sign << 3] + info->zero);
    }
    for (size_t j = 0; j < SP_PACK_UNIT / 16; j++) {
        size_t i = info->field[2].count == 8 ? j : j / 2;
        d[j] = unit * (float)(2 * ((unsigned)b->scales[i / 2] >> (i % 2 * 4) & 15u) + 1);
        m[j] = -(float)info->zero * d[j];
    }
}
