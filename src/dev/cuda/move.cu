/* Keys and values out of pages, as f32 rows that are stored elsewhere (store.cu): keys turned by
 * the way between the two places. A block has one head of one page; a warp has a token. */
#include "dev/cuda/rotate.h"

namespace
{

enum { WARPS = 4, TOK = 32 };

/* One head of a page, whose elements are read one by one. */
struct source {
    const char *hi, *lo;
    unsigned d, kind;
    bool alone; /* keys only */

    SP_DEV_MEMBER float plain(size_t at) const
    {
        if (kind == SP_CUDA_KV_F32)
            return reinterpret_cast<const float *>(hi)[at];
        uint16_t x = reinterpret_cast<const uint16_t *>(hi)[at];
        return kind == SP_CUDA_KV_BF16 ? bf16_to_f32(x) : f16_to_f32(x);
    }
    SP_DEV_MEMBER float code8(size_t at, unsigned i_scale) const
    {
        uint32_t two[2];
        e4m3_to_f16(two, (uint8_t)hi[at]);
        return f16_to_f32((uint16_t)two[0]) *
               reinterpret_cast<const float *>(hi + 64 * d)[i_scale];
    }
    /* Nibbles of both planes, less what stands for zero. */
    SP_DEV_MEMBER float code4(size_t at_hi, size_t at_lo, unsigned shift) const
    {
        unsigned high = (uint8_t)hi[at_hi] >> shift & 15,
                 low = lo ? (uint8_t)lo[at_lo] >> shift & 15 : 0;
        return (float)(high << 4 | low) - (lo ? 128.0f : 120.5f);
    }
    SP_DEV_MEMBER float key(unsigned i, unsigned j) const
    {
        if (kind < SP_CUDA_KV_Q8)
            return plain((size_t)i * TOK + j);
        if (kind == SP_CUDA_KV_FP8)
            return code8((size_t)j * d + i, 0);
        const uint16_t *scale = reinterpret_cast<const uint16_t *>(hi + (alone ? 16 : 32) * d),
                       *mean = scale + (alone ? 1 : 2) * TOK;
        unsigned b = i % (d / 2);
        float c = code4((b / 4 * TOK + j) * 4 + b % 4, j * (alone ? d / 2 : d) + b,
                        i < d / 2 ? 0 : 4);
        return f16_to_f32(mean[i]) + f16_to_f32(scale[j]) * c;
    }
    SP_DEV_MEMBER float value(unsigned i, unsigned j) const
    {
        if (kind < SP_CUDA_KV_Q8)
            return plain((size_t)TOK * d + (size_t)j * d + i);
        if (kind == SP_CUDA_KV_FP8)
            return code8((size_t)TOK * d + (size_t)i * TOK + j, 1);
        const uint16_t *scale = reinterpret_cast<const uint16_t *>(hi + 32 * d) + TOK;
        unsigned b = i % (d / 2);
        return f16_to_f32(scale[j]) *
               code4(16 * d + j * (d / 2) + b, j * d + d / 2 + b, i < d / 2 ? 0 : 4);
    }
};

struct move_kernel {
    enum { THREADS = 32 * WARPS };
    typedef sp_cuda_move args;

    SP_DEV void turn(const args &a, float *row)
    {
        unsigned half = a.d_rot / 2;
        for (unsigned i = lane_id(); i < a.d && a.norm; i += 32)
            row[i] = a.norm[i] == 0 ? 0 : row[i] / a.norm[i];
        warp_sync();
        for (unsigned i = lane_id(); i < half && a.cs; i += 32) {
            float *p = row + a.first + (a.halves ? i : 2 * i), *q = p + (a.halves ? half : 1);
            float u = *p, v = *q;
            *p = u * a.cs[i] - v * a.cs[half + i];
            *q = u * a.cs[half + i] + v * a.cs[i];
        }
        warp_sync();
        for (unsigned i = lane_id(); i < a.d && a.norm; i += 32)
            row[i] *= a.norm[i];
    }
    SP_DEV void run(const args &a)
    {
        float *row = reinterpret_cast<float *>(block_mem()) + warp_id() * a.d;
        const sp_cuda_move_item it = a.item[block_x()];
        const size_t head = block_y();
        const source s = {it.hi + a.hi_at + head * a.hi_bytes,
                          it.lo ? it.lo + a.lo_at + head * a.lo_bytes : NULL, a.d, a.kind, !a.v};
        for (unsigned t = warp_id(); t < it.n; t += WARPS) {
            size_t to = ((size_t)(it.row + t) * a.n_head + head) * a.d;
            for (unsigned i = lane_id(); i < a.d; i += 32)
                row[i] = s.key(i, it.slot + t);
            if (a.kind >= SP_CUDA_KV_Q8)
                rotate_row(row, a.d, true);
            turn(a, row);
            for (unsigned i = lane_id(); i < a.d; i += 32)
                a.k[to + i] = row[i];
            warp_sync();
            for (unsigned i = lane_id(); i < a.d && a.v; i += 32)
                row[i] = s.value(i, it.slot + t);
            if (a.kind >= SP_CUDA_KV_Q8 && a.v)
                rotate_row(row, a.d, true);
            for (unsigned i = lane_id(); i < a.d && a.v; i += 32)
                a.v[to + i] = row[i];
            warp_sync();
        }
    }
};

} // namespace

extern "C" int sp_cuda_move_run(const sp_cuda_move *a)
{
    return launch<move_kernel>(a->n_item, a->n_head, (WARPS * a->d * sizeof(float) + 15) / 16 * 16,
                               *a);
}
