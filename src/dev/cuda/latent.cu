/* Paged attention over latents: all query heads of a token meet one key, whose first elements are
 * its value. A block has 32 queries or fewer. Each page is widened to f16 in shared memory once,
 * where it serves as keys and then as values; warps share the scores of a page by tokens, and its
 * answer by elements. As in attn.cu, pages come in parts whose states are joined in order, and a
 * block that attends one part or many gives the same bits.
 *
 * Source: DeepSeek-AI 2024 (DeepSeek-V2) section 2.1; Dao 2023 (FlashAttention-2) section 3. */
#include "dev/cuda/flash.h"

namespace
{

enum {
    ALL_WARPS = 8,
    TALL = SP_CUDA_LATENT_ROWS,
    MOST_D = 576,
    STEPS = MOST_D / 16,
    TILES = MOST_D / 8 / ALL_WARPS, /* of 8 elements of an answer, a warp's */
    LD_KEY = MOST_D + 8,            /* rows begin in other banks */
    LD_WEIGHT = PAGE_TOK + 8
};

struct shared_latent {
    query_frag q[TALL / 16][STEPS];
    uint16_t key[PAGE_TOK][LD_KEY], weight[TALL][LD_WEIGHT];
    float score[TALL][PAGE_TOK + 1];
    float max[TALL], sum[TALL], keep[TALL]; /* of a part; keep: what a page multiplies it by */
    float run_max[TALL], run_sum[TALL], run_keep[TALL], part[TALL];
};

typedef float answer[TALL / 16][TILES][4]; /* a lane's, as mma leaves them */

/* Plain elements, K^T [d, 32]; tokens from n_tok on are not there. */
template <class T> struct keys_plain {
    SP_DEV void load(shared_latent *sh, const char *hi, const char *, unsigned d, unsigned n_tok)
    {
        for (unsigned at = thread_id(); at < d * PAGE_TOK; at += 32 * ALL_WARPS)
            sh->key[at % PAGE_TOK][at / PAGE_TOK] =
                at % PAGE_TOK < n_tok ? (uint16_t)T::pair(hi, at, at) : 0;
    }
};

/* kern/planes.h of keys only; lo NULL: demoted. */
struct keys_q8 {
    SP_DEV void load(shared_latent *sh, const char *hi, const char *lo, unsigned d, unsigned)
    {
        const uint16_t *scale = reinterpret_cast<const uint16_t *>(hi + 16 * d),
                       *mean = scale + PAGE_TOK;
        for (unsigned at = thread_id(); at < d / 8 * PAGE_TOK; at += 32 * ALL_WARPS) {
            unsigned w = at / PAGE_TOK, j = at % PAGE_TOK;
            uint32_t high = load_u32(hi + 4 * at),
                     low = lo ? load_u32(lo + j * (d / 2) + 4 * w) : 0;
            float s = f16_to_f32(scale[j]);
            for (unsigned e = 0; e < 8; e++) {
                unsigned i = 4 * w + e % 4 + e / 4 * (d / 2), shift = 8 * (e % 4) + 4 * (e / 4);
                float code = (float)((high >> shift & 15) << 4 | (low >> shift & 15));
                float x = fmaf(s, code - (lo ? 128.0f : 120.5f), f16_to_f32(mean[i]));
                sh->key[j][i] = f32_to_f16(x);
            }
        }
    }
};

/* Each warp has 16 queries and 8 tokens. */
SP_DEV void score_page(shared_latent *sh, const sp_cuda_attn &a)
{
    unsigned g = lane_id() / 4, t = lane_id() % 4, tile = warp_id() / 4, tok = warp_id() % 4 * 8;
    float s[4] = {0, 0, 0, 0};
    for (unsigned m = 0; 16 * m < a.d; m++) {
        uint32_t q[4], b[2];
        for (unsigned i = 0; i < 4; i++)
            q[i] = sh->q[tile][m][lane_id()][i];
        load_8(b, &sh->key[tok + g][16 * m + 4 * t]);
        mma_f16(s, q, b);
    }
    for (unsigned i = 0; i < 4; i++)
        sh->score[16 * tile + g + 8 * (i / 2)][tok + 2 * t + i % 2] = s[i];
}

/* Eight neighbouring lanes have a query, each four tokens of the page that begins at token `begin`.
 */
SP_DEV void weigh_page(shared_latent *sh, const sp_cuda_attn &a, const sp_cuda_attn_item &it,
                       unsigned begin)
{
    unsigned r = thread_id() / 8, first = thread_id() % 8 * 4,
             pos = it.pos + (it.q0 + (r < it.n_q ? r : it.n_q - 1)) / a.group,
             from = a.window && pos >= a.window ? pos + 1 - a.window : 0;
    float s[4], top = sh->max[r], sum = 0;
    for (unsigned e = 0; e < 4; e++) {
        unsigned tok = begin + first + e;
        s[e] = tok >= from && tok <= pos ? cap_of(sh->score[r][first + e], a.cap) : minus_inf();
        top = fmaxf(top, s[e]);
    }
    for (int m = 1; m < 8; m *= 2)
        top = fmaxf(top, warp_xor(top, m));
    for (unsigned e = 0; e < 4; e++) {
        float x = top == minus_inf() ? 0 : exp2_of(s[e] - top);
        sh->weight[r][first + e] = f32_to_f16(x);
        sum += x;
    }
    for (int m = 1; m < 8; m *= 2)
        sum += warp_xor(sum, m);
    if (first == 0) {
        float keep = top == minus_inf() ? 1 : exp2_of(sh->max[r] - top);
        sh->keep[r] = keep;
        sh->sum[r] = sh->sum[r] * keep + sum;
    }
    warp_sync();
    if (first == 0)
        sh->max[r] = top;
}

/* Warp w has every ALL_WARPS-th tile of 8 elements from the w-th on. */
SP_DEV void take_page(answer acc, const shared_latent *sh, unsigned d)
{
    unsigned g = lane_id() / 4, t = lane_id() % 4;
#pragma unroll
    for (int r = 0; r < TALL / 16; r++)
#pragma unroll
        for (int n = 0; n < TILES; n++)
            for (int i = 0; i < 4; i++)
                acc[r][n][i] *= sh->keep[16 * r + g + 8 * (i / 2)];
    for (unsigned s = 0; s < PAGE_TOK / 16; s++) {
        uint32_t w[TALL / 16][4];
        for (unsigned r = 0; r < TALL / 16; r++)
            for (unsigned i = 0; i < 4; i++)
                w[r][i] =
                    load_u32(&sh->weight[16 * r + g + 8 * (i % 2)][16 * s + 2 * t + 8 * (i / 2)]);
#pragma unroll
        for (int n = 0; n < TILES; n++) {
            unsigned at = 8 * (warp_id() + ALL_WARPS * n);
            uint32_t b[2];
            if (at >= d)
                continue;
            load_columns(b, &sh->key[16 * s][at], LD_KEY);
#pragma unroll
            for (int r = 0; r < TALL / 16; r++)
                mma_f16(acc[r][n], w[r], b);
        }
    }
}

template <class F, class O> struct latent_kernel {
    enum { THREADS = 32 * ALL_WARPS };
    typedef sp_cuda_attn args;

    SP_DEV void load_rows(shared_latent *sh, const args &a, const sp_cuda_attn_item &it)
    {
        for (unsigned at = thread_id(); at < TALL / 16 * STEPS * 32; at += THREADS) {
            unsigned tile = at / 32 / STEPS, m = at / 32 % STEPS, i = 16 * m + 4 * (lane_id() % 4);
            for (unsigned half = 0; half < 2; half++) {
                unsigned r = 16 * tile + lane_id() / 4 + 8 * half, query = it.q0 + r;
                uint32_t *q = sh->q[tile][m][lane_id()];
                q[half] = q[half + 2] = 0;
                if (r >= it.n_q || i >= a.d)
                    continue;
                size_t row = (size_t)(it.row + query / a.group) * a.group + query % a.group;
                q[half] = load_u32(a.qh + row * a.d + i);
                q[half + 2] = load_u32(a.qh + row * a.d + i + 2);
            }
        }
    }
    SP_DEV void start_part(shared_latent *sh, answer acc)
    {
#pragma unroll
        for (int r = 0; r < TALL / 16; r++)
#pragma unroll
            for (int n = 0; n < TILES; n++)
                for (int i = 0; i < 4; i++)
                    acc[r][n][i] = 0;
        if (thread_id() < TALL) {
            sh->max[thread_id()] = minus_inf();
            sh->sum[thread_id()] = 0;
        }
    }
    SP_DEV void end_part(shared_latent *sh, answer run, const answer acc)
    {
        block_sync();
        if (thread_id() < TALL) {
            unsigned r = thread_id();
            joint j = join_of(sh->run_max[r], sh->max[r]);
            sh->run_sum[r] = sh->run_sum[r] * j.keep + sh->sum[r] * j.part;
            sh->run_max[r] = j.max;
            sh->run_keep[r] = j.keep;
            sh->part[r] = j.part;
        }
        block_sync();
#pragma unroll
        for (int r = 0; r < TALL / 16; r++)
#pragma unroll
            for (int n = 0; n < TILES; n++)
                for (int i = 0; i < 4; i++) {
                    unsigned at = 16 * r + lane_id() / 4 + 8 * (i / 2);
                    run[r][n][i] = run[r][n][i] * sh->run_keep[at] + acc[r][n][i] * sh->part[at];
                }
    }
    /* The page in sh->key. */
    SP_DEV void attend(shared_latent *sh, answer acc, const args &a, const sp_cuda_attn_item &it,
                       unsigned begin)
    {
        block_sync();
        score_page(sh, a);
        block_sync();
        weigh_page(sh, a, it, begin);
        block_sync();
        take_page(acc, sh, a.d);
        block_sync();
    }
    SP_DEV void put(const args &a, const shared_latent *sh, const answer run,
                    const sp_cuda_attn_item &it)
    {
#pragma unroll
        for (int r = 0; r < TALL / 16; r++)
#pragma unroll
            for (int n = 0; n < TILES; n++)
                for (int i = 0; i < 4; i++) {
                    unsigned q = 16 * r + lane_id() / 4 + 8 * (i / 2),
                             e = 8 * (warp_id() + ALL_WARPS * n) + 2 * (lane_id() % 4) + i % 2;
                    if (q < it.n_q && e < a.d)
                        a.state[state_at(a, it.state, q) + e] = run[r][n][i];
                }
        if (thread_id() < it.n_q) {
            float *end = a.state + state_at(a, it.state, thread_id()) + a.d;
            end[0] = sh->run_max[thread_id()];
            end[1] = sh->run_sum[thread_id()];
        }
    }
    SP_DEV void run(const args &a)
    {
        shared_latent *sh = reinterpret_cast<shared_latent *>(block_mem());
        const sp_cuda_attn_item it = a.item[block_x()];
        answer run = {}, acc;
        load_rows(sh, a, it);
        if (thread_id() < TALL) {
            bool has_sink = it.starts && a.sinks && thread_id() < it.n_q;
            sh->run_max[thread_id()] = has_sink ? sink_of(a, it.q0 + thread_id()) : minus_inf();
            sh->run_sum[thread_id()] = has_sink ? 1 : 0;
        }
        for (unsigned begin = it.from; begin < it.to;) {
            unsigned end = (begin / SP_CUDA_PART + 1) * SP_CUDA_PART,
                     stop = end < it.to ? end : it.to;
            start_part(sh, acc);
            for (unsigned i = begin; i < stop; i++) {
                const sp_cuda_page p = a.tab[it.tab + i];
                F::load(sh, p.hi + a.hi_at, p.lo ? p.lo + a.lo_at : NULL, a.d, PAGE_TOK);
                attend(sh, acc, a, it, i * PAGE_TOK);
            }
            end_part(sh, run, acc);
            begin = stop;
        }
        if (it.own) {
            unsigned n_tok = (it.pos + (it.q0 + it.n_q - 1) / a.group) % PAGE_TOK + 1;
            start_part(sh, acc);
            O::load(sh, it.own + a.own_at, NULL, a.d, n_tok);
            attend(sh, acc, a, it, it.pos / PAGE_TOK * PAGE_TOK);
            end_part(sh, run, acc);
        }
        put(a, sh, run, it);
    }
};

template <class F, class O> int run_latent(const sp_cuda_attn *a)
{
    return launch<latent_kernel<F, O>>(a->n_item, 1, sizeof(shared_latent), *a);
}

} // namespace

extern "C" int sp_cuda_latent_run(const sp_cuda_attn *a)
{
    switch (a->kind) {
    case SP_CUDA_KV_F32: return run_latent<keys_plain<elem_f32>, keys_plain<elem_f32>>(a);
    case SP_CUDA_KV_F16: return run_latent<keys_plain<elem_f16>, keys_plain<elem_f16>>(a);
    case SP_CUDA_KV_BF16: return run_latent<keys_plain<elem_bf16>, keys_plain<elem_bf16>>(a);
    case SP_CUDA_KV_Q8: return run_latent<keys_q8, keys_plain<elem_f16>>(a);
    default: return 1;
    }
}
