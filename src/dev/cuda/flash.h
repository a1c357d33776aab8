/* Flash attention of a block that has 16 queries or fewer: what dense (attn.cu) and certified
 * attention (cert.cu) share. Rows are queries; a warp has a page at a time. */
#ifndef SP_DEV_CUDA_FLASH_H
#define SP_DEV_CUDA_FLASH_H

#include "dev/cuda/pages.h"

enum { WARPS = 4, ROWS = SP_CUDA_ROWS };

SP_DEV float minus_inf()
{
    return float_of(0xff800000u);
}

typedef uint32_t query_frag[32][4]; /* 16 dimensions of 16 queries: a lane's registers of mma */

template <int D> struct shared_attn {
    query_frag q[D / 16];
    float run_max[ROWS], run_sum[ROWS], max[WARPS][ROWS], sum[WARPS][ROWS];
    float run[ROWS][D], acc[WARPS][ROWS][D];
};

template <int D> struct warp_state { /* of rows lane / 4 and lane / 4 + 8 */
    float acc[D / 8][4], max[2], sum[2];
};

template <int D> SP_DEV void clear(warp_state<D> &w)
{
#pragma unroll
    for (int n = 0; n < D / 8; n++)
        for (int i = 0; i < 4; i++)
            w.acc[n][i] = 0;
    for (int i = 0; i < 2; i++) {
        w.max[i] = minus_inf();
        w.sum[i] = 0;
    }
}

/* Scores of the lane's two rows and eight tokens, s[a][2 half + b]: token 8 t + 2 a + b. */
template <int D, class P> SP_DEV void score(float s[4][4], const query_frag *queries, const P &p)
{
    float mean[4] = {0, 0, 0, 0};
#pragma unroll
    for (int a = 0; a < 4; a++)
        for (int i = 0; i < 4; i++)
            s[a][i] = 0;
#pragma unroll
    for (int m = 0; m < D / 16 / P::KS; m++) {
        uint32_t q[P::KS][4], b[P::KS][2];
        for (int k = 0; k < P::KS; k++)
            for (int i = 0; i < 4; i++)
                q[k][i] = queries[m * P::KS + k][lane_id()][i];
#pragma unroll
        for (int a = 0; a < 4; a++) {
            P::key(b, p, a, m);
            for (int k = 0; k < P::KS; k++)
                mma_f16(s[a], q[k], b[k]);
        }
        if (P::HAS_MEAN) {
            P::mean(b, p, m);
            for (int k = 0; k < P::KS; k++)
                mma_f16(mean, q[k], b[k]);
        }
    }
#pragma unroll
    for (int a = 0; a < 4; a++)
        for (int i = 0; i < 4; i++)
            s[a][i] =
                s[a][i] * P::key_scale(p, 8 * (lane_id() % 4) + 2 * a + i % 2) + mean[i / 2 * 2];
}

SP_DEV float cap_of(float s, float cap)
{
    return cap > 0 ? cap * tanhf(s / cap) : s;
}

/* The page's tokens of scores s, -inf where a row does not see one, into the state. */
template <int D, class P> SP_DEV void take(warp_state<D> &w, float s[4][4], const P &p)
{
    float top[2] = {w.max[0], w.max[1]}, keep[2];
#pragma unroll
    for (int a = 0; a < 4; a++)
        for (int i = 0; i < 4; i++)
            top[i / 2] = fmaxf(top[i / 2], s[a][i]);
    for (int h = 0; h < 2; h++) {
        top[h] = fmaxf(top[h], warp_xor(top[h], 1));
        top[h] = fmaxf(top[h], warp_xor(top[h], 2));
        keep[h] = top[h] == minus_inf() ? 1 : exp2_of(w.max[h] - top[h]);
        w.max[h] = top[h];
        w.sum[h] *= keep[h];
    }
    uint32_t pa[2][4];
#pragma unroll
    for (int a = 0; a < 4; a++)
        for (int h = 0; h < 2; h++) {
            float x = top[h] == minus_inf() ? 0 : exp2_of(s[a][2 * h] - top[h]),
                  y = top[h] == minus_inf() ? 0 : exp2_of(s[a][2 * h + 1] - top[h]);
            w.sum[h] += x + y;
            pa[a / 2][a % 2 * 2 + h] = f16_pair(x, y);
        }
#pragma unroll
    for (int m = 0; m < D / 8 / P::VS; m++) {
        uint32_t b[P::VS][4];
        P::val(b, p, m);
#pragma unroll
        for (int k = 0; k < P::VS; k++) {
            float *o = w.acc[m * P::VS + k];
            for (int i = 0; i < 4; i++)
                o[i] *= keep[i / 2];
            mma_f16(o, pa[0], b[k]);
            mma_f16(o, pa[1], b[k] + 2);
        }
    }
}

/* One page. Row half sees tokens [from, to). */
template <int D, class P>
SP_DEV void attend(warp_state<D> &w, const shared_attn<D> *sh, const P &p, const unsigned from[2],
                   const unsigned to[2], float cap)
{
    float s[4][4];
    score<D, P>(s, sh->q, p);
#pragma unroll
    for (int a = 0; a < 4; a++)
        for (int i = 0; i < 4; i++) {
            unsigned tok = 8 * (lane_id() % 4) + 2 * a + i % 2;
            s[a][i] = tok >= from[i / 2] && tok < to[i / 2] ? cap_of(s[a][i], cap) : minus_inf();
        }
    take<D, P>(w, s, p);
}

/* Joins the state (p_max, p_sum, p) of other keys to (max, sum, x): what x is multiplied by, and p.
 */
struct joint {
    float max, keep, part;
};
SP_DEV joint join_of(float max, float p_max)
{
    joint j = {max, 1, 0};
    if (p_max == minus_inf())
        return j;
    j.max = fmaxf(max, p_max);
    j.keep = exp2_of(max - j.max);
    j.part = exp2_of(p_max - j.max);
    return j;
}

/* The warps' states of a part, joined to the block's. */
template <class F, int D>
SP_DEV void end_part(shared_attn<D> *sh, warp_state<D> &w, unsigned n_q, unsigned d)
{
    unsigned g = lane_id() / 4, t = lane_id() % 4;
    for (int h = 0; h < 2; h++) {
        float sum = w.sum[h] + warp_xor(w.sum[h], 1);
        sum += warp_xor(sum, 2);
        if (t == 0) {
            sh->max[warp_id()][g + 8 * h] = w.max[h];
            sh->sum[warp_id()][g + 8 * h] = sum;
        }
    }
#pragma unroll
    for (int n = 0; n < D / 8; n++)
        for (int i = 0; i < 4; i++) {
            int at = F::vdim(n, 2 * t + i % 2, d);
            if (at >= 0)
                sh->acc[warp_id()][g + 8 * (i / 2)][at] = w.acc[n][i];
        }
    block_sync();
    for (unsigned at = thread_id(); at < n_q * d; at += 32 * WARPS) {
        unsigned r = at / d, i = at % d;
        float max = minus_inf(), acc = 0;
        for (unsigned k = 0; k < WARPS; k++) {
            joint j = join_of(max, sh->max[k][r]);
            acc = acc * j.keep + sh->acc[k][r][i] * j.part;
            max = j.max;
        }
        joint j = join_of(sh->run_max[r], max);
        sh->run[r][i] = sh->run[r][i] * j.keep + acc * j.part;
    }
    block_sync();
    if (thread_id() < n_q) {
        unsigned r = thread_id();
        float max = minus_inf(), sum = 0;
        for (unsigned k = 0; k < WARPS; k++) {
            joint j = join_of(max, sh->max[k][r]);
            sum = sum * j.keep + sh->sum[k][r] * j.part;
            max = j.max;
        }
        joint j = join_of(sh->run_max[r], max);
        sh->run_sum[r] = sh->run_sum[r] * j.keep + sum * j.part;
        sh->run_max[r] = j.max;
    }
    block_sync();
}

SP_DEV size_t state_at(const sp_cuda_attn &a, unsigned state, unsigned r)
{
    return (((size_t)state * a.n_head + block_y()) * a.n_rows + r) * (a.d + 2);
}
SP_DEV float sink_of(const sp_cuda_attn &a, unsigned query)
{
    return a.sinks ? a.sinks[block_y() * a.group + query % a.group] * 1.44269504f : minus_inf();
}

/* Queries [q0, q0 + n_q) behind row `row` in the order of dimensions of format F. */
template <class F, int D>
SP_DEV void load_queries(query_frag *queries, const sp_cuda_attn &a, unsigned row, unsigned q0,
                         unsigned n_q)
{
    for (unsigned at = thread_id(); at < D / 16 * 32; at += 32 * WARPS) {
        unsigned s = at / 32, g = lane_id() / 4; /* at % 32 is the lane */
        int i = F::kdim(s, 0, a.d);
        for (unsigned half = 0; half < 2; half++) {
            unsigned r = g + 8 * half, query = q0 + r;
            uint32_t *q = queries[s][lane_id()];
            q[half] = q[half + 2] = 0;
            if (r >= n_q || i < 0)
                continue;
            size_t tok = row + query / a.group, head = block_y() * a.group + query % a.group;
            const uint16_t *from = a.qh + (tok * a.n_head * a.group + head) * a.d + i;
            q[half] = load_u32(from);
            q[half + 2] = load_u32(from + 2);
        }
    }
}

/* The state before any part: of the sinks, or of nothing. */
template <int D>
SP_DEV void start_rows(shared_attn<D> *sh, const sp_cuda_attn &a, bool has_sinks, unsigned q0,
                       unsigned n_q)
{
    for (unsigned at = thread_id(); at < ROWS * D; at += 32 * WARPS)
        sh->run[at / D][at % D] = 0;
    if (thread_id() < ROWS) {
        bool has_sink = has_sinks && a.sinks && thread_id() < n_q;
        sh->run_max[thread_id()] = has_sink ? sink_of(a, q0 + thread_id()) : minus_inf();
        sh->run_sum[thread_id()] = has_sink ? 1 : 0;
    }
}

template <int D>
SP_DEV void put_state(const sp_cuda_attn &a, const shared_attn<D> *sh, unsigned state, unsigned n_q)
{
    for (unsigned at = thread_id(); at < n_q * a.d; at += 32 * WARPS)
        a.state[state_at(a, state, at / a.d) + at % a.d] = sh->run[at / a.d][at % a.d];
    if (thread_id() < n_q) {
        float *end = a.state + state_at(a, state, thread_id()) + a.d;
        end[0] = sh->run_max[thread_id()];
        end[1] = sh->run_sum[thread_id()];
    }
}

/* Tokens [from, to) of page i that the lane's rows see. */
SP_DEV void see(unsigned from[2], unsigned to[2], const sp_cuda_attn &a,
                const sp_cuda_attn_item &it, unsigned i, bool is_own)
{
    for (unsigned h = 0; h < 2; h++) {
        unsigned r = lane_id() / 4 + 8 * h,
                 pos = it.pos + (it.q0 + (r < it.n_q ? r : it.n_q - 1)) / a.group;
        unsigned first = a.window && pos >= a.window ? pos + 1 - a.window : 0;
        from[h] = first > i * PAGE_TOK ? first - i * PAGE_TOK : 0;
        to[h] = is_own ? pos % PAGE_TOK + 1 : (unsigned)PAGE_TOK;
    }
}

#endif
