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

struct row_q4_1 {
    SP_DEV void get(float *out, const char *row, const sp_cuda_rows &w, unsigned blk, unsigned i4)
    {
        uint32_t q = load_u32(row + 16 * blk + 4 * (i4 % 4)) >> (i4 % 8 < 4 ? 0 : 4);
        float d = half_at(row + w.at[0], 2 * blk), m = half_at(row + w.at[0], 2 * blk + 1);
        for (unsigned e = 0; e < 4; e++)
            out[e] = fmaf(d, (float)(q >> 8 * e & 15), m);
    }
};

/* Scale and minimum of block j of a super-block's eight; its head is {d, dmin, scales}. */
SP_DEV void k_scale(float *d, float *m, const char *head, unsigned j)
{
    const uint8_t *s = reinterpret_cast<const uint8_t *>(head) + 4;
    unsigned sc = j < 4 ? s[j] & 63u : (s[j + 4] & 15u) | (unsigned)(s[j - 4] >> 6) << 4;
    unsigned mn = j < 4 ? s[j + 4] & 63u : (unsigned)s[j + 4] >> 4 | (unsigned)(s[j] >> 6) << 4;
    *d = half_at(head, 0) * (float)sc;
    *m = half_at(head, 1) * (float)mn;
}

struct row_q4_k {
    SP_DEV void get(float *out, const char *row, const sp_cuda_rows &w, unsigned blk, unsigned i4)
    {
        unsigned sup = blk / 8, j = blk % 8;
        uint32_t q = load_u32(row + 128 * sup + 32 * (j / 2) + 4 * (i4 % 8)) >> 4 * (j % 2);
        float d, m;
        k_scale(&d, &m, row + w.at[0] + 16 * sup, j);
        for (unsigned e = 0; e < 4; e++)
            out[e] = fmaf(d, (float)(q >> 8 * e & 15), -m);
    }
};

struct row_q5_k {
    SP_DEV void get(float *out, const char *row, const sp_cuda_rows &w, unsigned blk, unsigned i4)
    {
        unsigned sup = blk / 8, j = blk % 8, l = 4 * (i4 % 8);
        uint32_t q = load_u32(row + 128 * sup + 32 * (j / 2) + l) >> 4 * (j % 2);
        uint32_t h = load_u32(row + w.at[1] + 32 * sup + l) >> j;
        float d, m;
        k_scale(&d, &m, row + w.at[0] + 16 * sup, j);
        for (unsigned e = 0; e < 4; e++)
            out[e] = fmaf(d, (float)((q >> 8 * e & 15) | (h >> 8 * e & 1) << 4), -m);
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

/* Exact in bf16, whatever the exponent. */
struct row_mxfp4 {
    SP_DEV float twice(unsigned code) /* of FP4: 0, 1, 2, 3, 4, 6, 8, 12 and their negatives */
    {
        unsigned e = code >> 1 & 3, m = code & 1;
        float v = (float)(e ? (2 | m) << (e - 1) : m);
        return code & 8 ? -v : v;
    }
    SP_DEV void get(float *out, const char *row, const sp_cuda_rows &w, unsigned blk, unsigned i4)
    {
        uint32_t q = load_u32(row + 16 * blk + 4 * (i4 % 4)) >> (i4 % 8 < 4 ? 0 : 4);
        unsigned e = reinterpret_cast<const uint8_t *>(row + w.at[0])[blk]; /* d is 2^(e - 128) */
        float d = float_of(e < 2 ? 0x00200000u << e : (e - 1) << 23);
        for (unsigned i = 0; i < 4; i++)
            out[i] = d * twice(q >> 8 * i & 15);
    }
};

#endif
