/* Products of e4m3 weights and e4m3 rows (lib.h: sp_cuda_fp8). Sums of 128 elements of k are made
 * by the tensor cores, then multiplied by the row's scale for them and added in f32: Hopper's
 * accumulator of e4m3 products has fewer bits than f32's 24 (DeepSeek-V3, section 3.3.2). Each sum
 * runs over k in order in one thread, so that a row's result never depends on the other rows of
 * the call.
 *
 * On sm_90a `wgmma` takes tiles from shared memory, into which one warp copies ahead of those that
 * multiply. Elsewhere codes are widened to f16, which is exact, for `mma`. */
#include "dev/cuda/bulk.h"

namespace
{

enum { TILE = 64 * 128 /* bytes */, GROUP = 8 * 128 };

SP_DEV const char *band_of(const sp_cuda_fp8 &a, unsigned band)
{
    return static_cast<const char *>(a.w) + (size_t)band * (a.n_kb * TILE + 64 * sizeof(float));
}
SP_DEV void put(const sp_cuda_fp8 &a, unsigned row, unsigned tok, float sum)
{
    if (row >= a.n_out || tok >= a.n_tok)
        return;
    const float *scale = reinterpret_cast<const float *>(band_of(a, row / 64) + a.n_kb * TILE);
    float *out = &a.out[(size_t)tok * a.ld + row], v = sum * scale[row % 64] * a.scale;
    if (a.add)
        v += *out;
    *out = a.bias ? v + a.bias[row] : v;
}

/* A block computes 64 GROUPS rows of the weight for 8 NT tokens: a warpgroup for each 64 rows and
 * the warp that copies. STAGES pieces of 128 elements of k are on their way. */
template <int GROUPS, int NT, int STAGES> struct wgmma_kernel {
    enum { THREADS = 128 * GROUPS + 32, N = 8 * NT };
    typedef sp_cuda_fp8 args;

    enum {
        X_AT = GROUPS * TILE,
        UNIT_AT = X_AT + NT * GROUP,
        STAGE = (UNIT_AT + N * 4 + 1023) / 1024 * 1024,
        BARS_AT = STAGES * STAGE,
        SHARED = BARS_AT + 1024 + 1024 /* to begin at a multiple of 1024 */
    };
    struct place { /* of what a block computes */
        unsigned band, n_band, group, n_group;
    };

    SP_DEV void copy(const args &a, const place &p, char *stage, uint64_t *bar, unsigned kb)
    {
        size_t from = (size_t)kb * ((a.n_tok + 7) / 8) + p.group;
        bar_expect(bar, p.n_band * TILE + p.n_group * (GROUP + 32));
        for (unsigned i = 0; i < p.n_band; i++)
            bulk_copy(stage + i * TILE, band_of(a, p.band + i) + (size_t)kb * TILE, TILE, bar);
        bulk_copy(stage + X_AT, static_cast<const char *>(a.x) + from * GROUP, p.n_group * GROUP,
                  bar);
        bulk_copy(stage + UNIT_AT, a.unit + from * 8, p.n_group * 32, bar);
    }
    SP_DEV void multiply(float sum[N / 2], const char *stage)
    {
        const float *unit = reinterpret_cast<const float *>(stage + UNIT_AT) + lane_id() % 4 * 2;
        float c[N / 2];
        wg_begin();
#pragma unroll
        for (int s = 0; s < 4; s++)
            wg_product<N>(c, stage + warp_id() / 4 * TILE + 32 * s, stage + X_AT + 32 * s, s > 0);
        wg_wait<N>(c);
#pragma unroll
        for (int i = 0; i < N / 2; i++)
            sum[i] = fmaf(c[i], unit[i / 4 * 8 + i % 2], sum[i]);
    }
    SP_DEV void run(const args &a)
    {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDACC__)
        char *mem = block_mem();
        mem += (1024 - ((uintptr_t)mem & 1023)) & 1023;
        uint64_t *full = reinterpret_cast<uint64_t *>(mem + BARS_AT), *empty = full + STAGES;
        const unsigned n_band = (a.n_out + 63) / 64, n_group = (a.n_tok + 7) / 8;
        place p = {block_x() * GROUPS, GROUPS, block_y() * NT, NT};
        p.n_band = p.band + GROUPS > n_band ? n_band - p.band : GROUPS;
        p.n_group = p.group + NT > n_group ? n_group - p.group : NT;
        if (thread_id() == 0) {
            for (unsigned i = 0; i < STAGES; i++) {
                bar_init(&full[i], 1);
                bar_init(&empty[i], 4 * GROUPS);
            }
            bars_made();
        }
        block_sync();
        if (warp_id() == 4 * GROUPS) {
            for (unsigned kb = 0; lane_id() == 0 && kb < a.n_kb; kb++) {
                unsigned s = kb % STAGES, turn = kb / STAGES;
                if (turn)
                    bar_wait(&empty[s], (turn - 1) & 1);
                copy(a, p, mem + s * STAGE, &full[s], kb);
            }
            return;
        }
        float sum[N / 2] = {};
        for (unsigned kb = 0; kb < a.n_kb; kb++) {
            unsigned s = kb % STAGES;
            bar_wait(&full[s], kb / STAGES & 1);
            multiply(sum, mem + s * STAGE);
            warp_sync(); /* all lanes have read the stage */
            if (lane_id() == 0)
                bar_arrive(&empty[s]);
        }
        const unsigned row = p.band * 64 + warp_id() * 16 + lane_id() / 4,
                       tok = p.group * 8 + lane_id() % 4 * 2;
#pragma unroll
        for (int i = 0; i < N / 2; i++)
            put(a, row + i % 4 / 2 * 8, tok + i / 4 * 8 + i % 2, sum[i]);
#else
        (void)a;
#endif
    }
};

/* A block computes 64 rows for 8 NT tokens, each of its warps 16 of them. Lane t of a row reads
 * whole units: elements 16 (4 q + t) + 4 j + 0..3 are its part of step j of k. */
template <int NT> struct widened_kernel {
    enum { THREADS = 128 };
    typedef sp_cuda_fp8 args;

    SP_DEV void load(uint32_t w[4], const char *rows, unsigned q)
    {
        unsigned g = lane_id() / 4, u = 4 * q + lane_id() % 4;
        load_16(w, rows + g * 128 + ((u ^ g) << 4));
    }
    SP_DEV void run(const args &a)
    {
        const unsigned n_group = (a.n_tok + 7) / 8, first = block_y() * NT;
        const char *rows = band_of(a, block_x()) + warp_id() * 16 * 128;
        float sum[NT][4] = {};
        for (unsigned kb = 0; kb < a.n_kb; kb++, rows += TILE) {
            float c[NT][4] = {};
            for (unsigned q = 0; q < 2; q++) {
                uint32_t top[4], low[4];
                load(top, rows, q);
                load(low, rows + GROUP, q);
#pragma unroll
                for (int n = 0; n < NT; n++) {
                    uint32_t x[4] = {0, 0, 0, 0};
                    if (first + n < n_group)
                        load(x,
                             static_cast<const char *>(a.x) +
                                 ((size_t)kb * n_group + first + n) * GROUP,
                             q);
#pragma unroll
                    for (int j = 0; j < 4; j++) {
                        uint32_t g[2], g8[2], b[2];
                        e4m3_to_f16(g, top[j]);
                        e4m3_to_f16(g8, low[j]);
                        e4m3_to_f16(b, x[j]);
                        const uint32_t w[4] = {g[0], g8[0], g[1], g8[1]};
                        mma_f16(c[n], w, b);
                    }
                }
            }
#pragma unroll
            for (int n = 0; n < NT; n++) {
                if (first + n >= n_group)
                    continue;
                const float *unit =
                    a.unit + ((size_t)kb * n_group + first + n) * 8 + lane_id() % 4 * 2;
                for (unsigned i = 0; i < 4; i++)
                    sum[n][i] = fmaf(c[n][i], unit[i % 2], sum[n][i]);
            }
        }
        const unsigned row = block_x() * 64 + warp_id() * 16 + lane_id() / 4,
                       tok = first * 8 + lane_id() % 4 * 2;
#pragma unroll
        for (int n = 0; n < NT; n++)
            for (unsigned i = 0; i < 4; i++)
                put(a, row + i / 2 * 8, tok + 8 * n + i % 2, sum[n][i]);
    }
};

template <int GROUPS, int NT, int STAGES> int run_wgmma(const sp_cuda_fp8 *a)
{
    typedef wgmma_kernel<GROUPS, NT, STAGES> kernel;
    return launch<kernel>((a->n_out + 64 * GROUPS - 1) / (64 * GROUPS),
                          (a->n_tok + kernel::N - 1) / kernel::N, kernel::SHARED, *a);
}
template <int NT> int run_widened(const sp_cuda_fp8 *a)
{
    return launch<widened_kernel<NT>>((a->n_out + 63) / 64, (a->n_tok + 8 * NT - 1) / (8 * NT), 0,
                                      *a);
}

} // namespace

extern "C" int sp_cuda_fp8_run(const sp_cuda_fp8 *a)
{
    if (sp_cuda_has_wgmma())
        return a->n_tok <= 8    ? run_wgmma<1, 1, 8>(a)
               : a->n_tok <= 64 ? run_wgmma<1, 8, 6>(a)
                                : run_wgmma<2, 16, 6>(a);
    return a->n_tok <= 8    ? run_widened<1>(a)
           : a->n_tok <= 32 ? run_widened<4>(a)
                            : run_widened<8>(a);
}
