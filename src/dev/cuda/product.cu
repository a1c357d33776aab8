/* Products of weights and rows on tensor cores. A block computes 16 RT weight rows for 8 NT tokens;
 * its warps share k: warp w takes blocks w, w + WARPS, … of 32 elements, and their sums are added
 * in the order of warps. So a result never depends on how many tokens or rows share the call, and a
 * small call reads the weights once on many warps.
 *
 * Weights are widened to f16 (each a rounding of 2^-11) and meet f16 rows; bf16 and MXFP4 weights
 * meet rows of two bf16 terms, f32 ones are two terms themselves. Elements of k lie in lanes as
 * frag.h wants them: lane t of a k step s has elements 16 s + 4 t + 0..3 of a block. */
#include "dev/cuda/row.h"

namespace
{

enum { WARPS = 8 };
enum terms { F16, BF16, F32 };

SP_DEV uint32_t bf16_pair(float lo, float hi)
{
    return (uint32_t)f32_to_bf16(lo) | (uint32_t)f32_to_bf16(hi) << 16;
}
SP_DEV float bf16_rest(float x)
{
    return x - bf16_to_f32(f32_to_bf16(x));
}

template <class T, terms KIND, int RT, int NT> struct product_kernel {
    enum { THREADS = 32 * WARPS };
    typedef sp_cuda_product args;

    /* What a block does: rows [row, n_out) of the weight that begins at `at`, tokens [tok, end). */
    struct part {
        const char *at;
        unsigned row, tok, end, head;
    };
    /* Which row of hi, lo, unit and out a token is. */
    SP_DEV size_t place(const args &a, const part &p, unsigned tok)
    {
        return a.n_beside ? (size_t)tok * a.n_beside + p.head : tok;
    }

    SP_DEV void get_rows(uint32_t hi[4], uint32_t lo[4], const args &a, const part &p, unsigned row,
                         unsigned blk, unsigned s)
    {
        unsigned g = lane_id() / 4, i4 = 8 * blk + 4 * s + lane_id() % 4;
        for (unsigned half = 0; half < 2; half++) {
            float w[4] = {0, 0, 0, 0};
            unsigned r = row + g + 8 * half;
            if (r < a.n_out)
                T::get(w, p.at + (size_t)r * a.w.row_bytes, a.w, blk, i4);
            if (KIND == F16) {
                hi[half] = f16_pair(w[0], w[1]);
                hi[half + 2] = f16_pair(w[2], w[3]);
            } else {
                hi[half] = bf16_pair(w[0], w[1]);
                hi[half + 2] = bf16_pair(w[2], w[3]);
            }
            if (KIND == F32) {
                lo[half] = bf16_pair(bf16_rest(w[0]), bf16_rest(w[1]));
                lo[half + 2] = bf16_pair(bf16_rest(w[2]), bf16_rest(w[3]));
            }
        }
    }
    SP_DEV void get_tok(uint32_t out[2], const uint16_t *x, const args &a, const part &p,
                        unsigned tok, unsigned blk, unsigned s)
    {
        unsigned t = tok + lane_id() / 4;
        out[0] = out[1] = 0;
        if (t < p.end) {
            const uint16_t *at =
                x + place(a, p, t) * a.w.k_pad + 32 * blk + 16 * s + 4 * (lane_id() % 4);
            out[0] = load_u32(at);
            out[1] = load_u32(at + 2);
        }
    }
    SP_DEV void step(float acc[RT][NT][4], const args &a, const part &p, unsigned blk, unsigned s)
    {
        uint32_t hi[RT][4], lo[RT][4];
#pragma unroll
        for (int r = 0; r < RT; r++)
            get_rows(hi[r], lo[r], a, p, p.row + 16 * r, blk, s);
#pragma unroll
        for (int n = 0; n < NT; n++) {
            uint32_t b[2];
            get_tok(b, a.hi, a, p, p.tok + 8 * n, blk, s);
#pragma unroll
            for (int r = 0; r < RT; r++) {
                if (KIND == F16)
                    mma_f16(acc[r][n], hi[r], b);
                else
                    mma_bf16(acc[r][n], hi[r], b);
                if (KIND == F32)
                    mma_bf16(acc[r][n], lo[r], b);
            }
            if (KIND == F16)
                continue;
            get_tok(b, a.lo, a, p, p.tok + 8 * n, blk, s);
#pragma unroll
            for (int r = 0; r < RT; r++)
                mma_bf16(acc[r][n], hi[r], b);
        }
    }
    /* Sums of the warps before this one, then its own. */
    SP_DEV void gather(float *all, const float acc[RT][NT][4])
    {
        for (unsigned w = 0; w < WARPS; w++) {
            if (w == warp_id()) {
#pragma unroll
                for (int i = 0; i < RT * NT * 4; i++) {
                    float *at = &all[i * 32 + lane_id()], v = acc[i / (4 * NT)][i / 4 % NT][i % 4];
                    *at = w ? *at + v : v;
                }
            }
            block_sync();
        }
    }
    SP_DEV void run(const args &a)
    {
        sp_cuda_tile tile = {0, block_y() * 8 * NT, a.n_tok};
        if (a.tile)
            tile = a.tile[block_y()];
        if (a.n_beside)
            tile = {block_y() % a.n_beside, block_y() / a.n_beside * 8 * NT, a.n_tok};
        if (!tile.n)
            return;
        const size_t first = (size_t)tile.expert * a.each + a.skip;
        const part p = {static_cast<const char *>(a.w.data) + first * a.w.row_bytes,
                        block_x() * 16 * RT, tile.from, a.tile ? tile.from + tile.n : a.n_tok,
                        tile.expert};
        const float *bias = a.bias ? a.bias + (size_t)tile.expert * a.n_out : NULL,
                    scale = a.tile && a.scales ? a.scales[tile.expert] : a.scale;
        unsigned n_blk = a.w.k_pad / 32;
        float *all = reinterpret_cast<float *>(block_mem());
        float acc[RT][NT][4] = {};
        for (unsigned blk = warp_id(); blk < n_blk; blk += WARPS)
            for (unsigned s = 0; s < 2; s++)
                step(acc, a, p, blk, s);
        gather(all, acc);
        for (unsigned i = thread_id(); i < RT * NT * 128; i += THREADS) {
            unsigned lane = i % 32, e = i / 32 % 4, n = i / 128 % NT, r = i / (128 * NT);
            unsigned to_row = p.row + 16 * r + lane / 4 + 8 * (e / 2),
                     to_tok = p.tok + 8 * n + 2 * (lane % 4) + e % 2;
            if (to_row >= a.n_out || to_tok >= p.end)
                continue;
            const size_t to = place(a, p, to_tok);
            float *out = &a.out[to * a.ld + to_row], v = all[i] * scale;
            if (KIND == F16)
                v *= a.unit[to];
            if (a.add)
                v += *out;
            *out = bias ? v + bias[to_row] : v;
        }
    }
};

template <class T, terms KIND, int RT, int NT> int run_tile(const sp_cuda_product *a)
{
    return launch<product_kernel<T, KIND, RT, NT>>(
        (a->n_out + 16 * RT - 1) / (16 * RT),
        a->tile ? a->n_tile
                : (a->n_tok + 8 * NT - 1) / (8 * NT) * (a->n_beside ? a->n_beside : 1),
        RT * NT * 128 * sizeof(float), *a);
}

template <class T, terms KIND> int run_type(const sp_cuda_product *a)
{
    uint32_t n = a->tile ? a->tile_tok : a->n_tok;
    if (n <= 8)
        return run_tile<T, KIND, 1, 1>(a);
    if (n <= 32)
        return run_tile<T, KIND, 1, 4>(a);
    return run_tile<T, KIND, 4, 8>(a);
}

} // namespace

extern "C" int sp_cuda_product_run(const sp_cuda_product *a)
{
    switch (a->w.type) {
    case SP_CUDA_F32: return run_type<row_f32, F32>(a);
    case SP_CUDA_F16: return run_type<row_f16, F16>(a);
    case SP_CUDA_BF16: return run_type<row_bf16, BF16>(a);
    case SP_CUDA_Q8_0: return run_type<row_q8_0, F16>(a);
    case SP_CUDA_Q4_0: return run_type<row_q4_0, F16>(a);
    case SP_CUDA_Q4_1: return run_type<row_q4_1, F16>(a);
    case SP_CUDA_Q4_K: return run_type<row_q4_k, F16>(a);
    case SP_CUDA_Q5_K: return run_type<row_q5_k, F16>(a);
    case SP_CUDA_Q6_K: return run_type<row_q6_k, F16>(a);
    case SP_CUDA_MXFP4: return run_type<row_mxfp4, BF16>(a);
    default: return 1;
    }
}
