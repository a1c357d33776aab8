/* Weights of each type, four neighbouring elements at a time: get(out, row, w, blk, i4) gives
 * elements 4 i4 .. 4 i4 + 3, which lie in block blk of 32. The formats are those of fmt/quant.h,
 * each row's parts laid apart (sp_cuda_rows). */
#ifndef SP_DEV_CUDA_ROW_H
#define SP_DEV_CUDA_ROW_H

#include "dev/cuda/frag.h"

struct row_f32 {
    SP_DEV void get(float *out, const char *row, const sp_cuda_rows &, unsigned, unsigned i4)
    {
        const float *x = reinterpret_cast<const float *>(row) + 4 * i4;
        for (unsigned e = 0; e < 4; e++)
            out[e] = x[e];
    }
};

struct row_f16 {
    SP_DEV void get(float *out, const char *row, const sp_cuda_rows &, unsigned, unsigned i4)
    {
        uint32_t lo = load_u32(row + 8 * i4), hi = load_u32(row + 8 * i4 + 4);
        out[0] = f16_to_f32((uint16_t)lo);
        out[1] = f16_to_f32((uint16_t)(lo >> 16));
        out[2] = f16_to_f32((uint16_t)hi);
        out[3] = f16_to_f32((uint16_t)(hi >> 16));
    }
};
struct row_bf16 {
    SP_DEV void get(float *out, const char *row, const sp_cuda_rows &, unsigned, unsigned i4)
    {
        uint32_t lo = load_u32(row + 8 * i4), hi = load_u32(row + 8 * i4 + 4);
        out[0] = float_of(lo << 16);
        out[1] = float_of(lo & 0xffff0000u);
        out[2] = float_of(hi << 16);
        out[3] = float_of(hi & 0xffff0000u);
    }
};

SP_DEV float half_at(const char *p, unsigned i)
{
    return f16_to_f32(reinterpret_cast<const uint16_t *>(p)[i]);
}

struct row_q8_0 {
    SP_DEV void get(float *out, const char *row, const sp_cuda_rows &w, unsigned blk, unsigned i4)
    {
        uint32_t q = load_u32(row + 4 * i4);
        float d = half_at(row + w.at[0], blk);
        for (unsigned e = 0; e < 4; e++)
            out[e] = d * (float)(int8_t)(q >> 8 * e);
    }
};

struct row_q4_0 {
    SP_DEV void get(float *out, const char *row, const sp_cuda_rows &w, unsigned blk, unsigned i4)
    {
        uint32_t q = load_u32(row + 16 * blk + 4 * (i4 % 4)) >> (i4 % 8 < 4 ? 0 : 4);
        float d = half_at(row + w.at[0], blk);
        for (unsigned e = 0; e < 4; e++)
            out[e] = d * ((float)(q >> 8 * e & 15) - 8);
    }
};

struct row_q4_k {
    SP_DEV void get(float *out, const char *row, const sp_cuda_rows &w, unsigned blk, unsigned i4)
    {
        unsigned sup = blk / 8, j = blk % 8;
        uint32_t q = load_u32(row + 128 * sup + 32 * (j / 2) + 4 * (i4 % 8)) >> 4 * (j % 2);
        const char *head = row + w.at[0] + 16 * sup;
        const uint8_t *s = reinterpret_cast<const uint8_t *>(head) + 4;
        unsigned sc = j < 4 ? s[j] & 63u : (s[j + 4] & 15u) | (unsigned)(s[j - 4] >> 6) << 4;
        unsigned mn = j < 4 ? s[j + 4] & 63u : (unsigned)s[j + 4] >> 4 | (unsigned)(s[j] >> 6) << 4;
        float d = half_at(head, 0) * (float)sc, m = half_at(head, 1) * (float)mn;
        for (unsigned e = 0; e < 4; e++)
            out[e] = fmaf(d, (float)(q >> 8 * e & 15), -m);
    }
};

struct row_q6_k {
    SP_DEV void get(float *out, const char *row, const sp_cuda_rows &w, unsigned blk, unsigned i4)
    {
        unsigned sup = blk / 8, n = blk % 8 / 4, j = blk % 4, l = 4 * (i4 % 8);
        uint32_t q = load_u32(row + 128 * sup + 64 * n + 32 * (j % 2) + l) >> 4 * (j / 2);
        uint32_t h = load_u32(row + w.at[0] + 64 * sup + 32 * n + l) >> 2 * j;
        float d =
            half_at(row + w.at[2], sup) * (float)reinterpret_cast<const int8_t *>(
                                              row + w.at[1])[16 * sup + 8 * n + 2 * j + l / 16];
        for (unsigned e = 0; e < 4; e++)
            out[e] = d * ((float)((q >> 8 * e & 15) | (h >> 8 * e & 3) << 4) - 32);
    }
};

#endif
