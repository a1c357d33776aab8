/* Attention over paged keys and values, of decoding steps and of prompts alike: flash attention on
 * tensor cores whose results do not depend on which queries share a call. A block has 16 queries or
 * fewer of one KV head, those of a group together, so that each key is read once for all; its warps
 * take the pages of a part (SP_CUDA_PART pages from a multiple of it) in turn and their states are
 * joined in the order of warps, then parts in order. A block attends one part or many; both give
 * the same bits.
 *
 * Queries are f16, weights are f16 against values of f16, sums are f32.
 * Source: Dao 2023 (FlashAttention-2) section 3; Kwon et al. 2023 (PagedAttention) section 4.1. */
#include "dev/cuda/pages.h"
#include "dev/cuda/rotate.h"

namespace
{

enum { WARPS = 4, ROWS = SP_CUDA_ROWS };

SP_DEV float minus_inf()
{
    return float_of(0xff800000u);
}

struct query_kernel { /* one block a token; a warp has a head */
    enum { THREADS = 32 * WARPS };
    typedef sp_cuda_attn args;
    SP_DEV void run(const args &a)
    {
        float *row = reinterpret_cast<float *>(block_mem()) + warp_id() * a.d;
        unsigned n_head = a.n_head * a.group;
        for (unsigned h = warp_id(); h < n_head; h += WARPS) {
            size_t at = ((size_t)block_x() * n_head + h) * a.d;
            for (unsigned i = lane_id(); i < a.d; i += 32)
                row[i] = a.q[at + i] * (a.scale * 1.44269504f);
            if (a.kind >= SP_CUDA_KV_Q8)
                rotate_row(row, a.d, false);
            for (unsigned i = lane_id(); i < a.d; i += 32)
                a.qh[at + i] = f32_to_f16(row[i]);
            warp_sync();
        }
    }
};

template <int D> struct shared_attn {
    uint32_t q[D / 16][32][4];
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
template <int D, class P> SP_DEV void score(float s[4][4], const shared_attn<D> *sh, const P &p)
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
                q[k][i] = sh->q[m * P::KS + k][lane_id()][i];
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

/* One page. Row half sees tokens [from, to). */
template <int D, class P>
SP_DEV void attend(warp_state<D> &w, const shared_attn<D> *sh, const P &p, const unsigned from[2],
                   const unsigned to[2], float cap)
{
    float s[4][4], top[2] = {w.max[0], w.max[1]}, keep[2];
    score<D, P>(s, sh, p);
#pragma unroll
    for (int a = 0; a < 4; a++)
        for (int i = 0; i < 4; i++) {
            unsigned tok = 8 * (lane_id() % 4) + 2 * a + i % 2, half = i / 2;
            float x = cap > 0 ? cap * tanhf(s[a][i] / cap) : s[a][i];
            s[a][i] = tok >= from[half] && tok < to[half] ? x : minus_inf();
            top[half] = fmaxf(top[half], s[a][i]);
        }
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
    return (((size_t)state * a.n_head + block_y()) * ROWS + r) * (a.d + 2);
}
SP_DEV float sink_of(const sp_cuda_attn &a, unsigned query)
{
    return a.sinks ? a.sinks[block_y() * a.group + query % a.group] * 1.44269504f : minus_inf();
}

template <class F, class O, int D> struct attn_kernel {
    enum { THREADS = 32 * WARPS };
    typedef sp_cuda_attn args;

    SP_DEV void load_queries(shared_attn<D> *sh, const args &a, const sp_cuda_attn_item &it)
    {
        for (unsigned at = thread_id(); at < D / 16 * 32; at += THREADS) {
            unsigned s = at / 32,
                     g = lane_id() / 4; /* THREADS is a multiple of 32: at % 32 is the lane */
            int i = F::kdim(s, 0, a.d);
            for (unsigned half = 0; half < 2; half++) {
                unsigned r = g + 8 * half, query = it.q0 + r;
                uint32_t *q = sh->q[s][lane_id()];
                q[half] = q[half + 2] = 0;
                if (r >= it.n_q || i < 0)
                    continue;
                size_t row = it.row + query / a.group, head = block_y() * a.group + query % a.group;
                const uint16_t *from = a.qh + (row * a.n_head * a.group + head) * a.d + i;
                q[half] = load_u32(from);
                q[half + 2] = load_u32(from + 2);
            }
        }
        for (unsigned at = thread_id(); at < ROWS * D; at += THREADS)
            sh->run[at / D][at % D] = 0;
        if (thread_id() < ROWS) {
            bool has_sink = it.starts && a.sinks && thread_id() < it.n_q;
            sh->run_max[thread_id()] = has_sink ? sink_of(a, it.q0 + thread_id()) : minus_inf();
            sh->run_sum[thread_id()] = has_sink ? 1 : 0;
        }
    }
    /* Tokens [from, to) of page i that the lane's rows see. */
    SP_DEV void see(unsigned from[2], unsigned to[2], const args &a, const sp_cuda_attn_item &it,
                    unsigned i, bool is_own)
    {
        for (unsigned h = 0; h < 2; h++) {
            unsigned r = lane_id() / 4 + 8 * h,
                     pos = it.pos + (it.q0 + (r < it.n_q ? r : it.n_q - 1)) / a.group;
            unsigned first = a.window && pos >= a.window ? pos + 1 - a.window : 0;
            from[h] = first > i * PAGE_TOK ? first - i * PAGE_TOK : 0;
            to[h] = is_own ? pos % PAGE_TOK + 1 : (unsigned)PAGE_TOK;
        }
    }
    SP_DEV void run(const args &a)
    {
        shared_attn<D> *sh = reinterpret_cast<shared_attn<D> *>(block_mem());
        const sp_cuda_attn_item it = a.item[block_x()];
        unsigned from[2], to[2];
        warp_state<D> w;
        load_queries(sh, a, it);
        block_sync();
        for (unsigned begin = it.from; begin < it.to;) {
            unsigned end = (begin / SP_CUDA_PART + 1) * SP_CUDA_PART,
                     stop = end < it.to ? end : it.to;
            clear(w);
            for (unsigned i = begin + (warp_id() + WARPS - begin % WARPS) % WARPS; i < stop;
                 i += WARPS) {
                F p;
                F::open(p, a.tab[it.tab + i], a.hi_at + (size_t)block_y() * a.hi_bytes,
                        a.lo_at + (size_t)block_y() * a.lo_bytes, a.d);
                see(from, to, a, it, i, false);
                attend<D, F>(w, sh, p, from, to, a.cap);
            }
            end_part<F, D>(sh, w, it.n_q, a.d);
            begin = stop;
        }
        if (it.own) {
            clear(w);
            if (warp_id() == 0) {
                O p;
                p.at = it.own + a.own_at + (size_t)block_y() * a.plain_bytes;
                p.d = a.d;
                p.n_tok = (it.pos + (it.q0 + it.n_q - 1) / a.group) % PAGE_TOK + 1;
                see(from, to, a, it, it.pos / PAGE_TOK, true);
                attend<D, O>(w, sh, p, from, to, a.cap);
            }
            end_part<F, D>(sh, w, it.n_q, a.d);
        }
        for (unsigned at = thread_id(); at < it.n_q * a.d; at += THREADS)
            a.state[state_at(a, it.state, at / a.d) + at % a.d] = sh->run[at / a.d][at % a.d];
        if (thread_id() < it.n_q) {
            float *end = a.state + state_at(a, it.state, thread_id()) + a.d;
            end[0] = sh->run_max[thread_id()];
            end[1] = sh->run_sum[thread_id()];
        }
    }
};

/* States of parts, joined and brought back; a warp has a query. */
struct end_kernel {
    enum { THREADS = 32 * WARPS };
    typedef sp_cuda_attn args;
    SP_DEV void run(const args &a)
    {
        const sp_cuda_attn_end it = a.end[block_x()];
        float *row = reinterpret_cast<float *>(block_mem()) + warp_id() * a.d;
        for (unsigned r = warp_id(); r < it.n_q; r += WARPS) {
            unsigned query = it.q0 + r;
            float max = it.starts ? sink_of(a, query) : minus_inf(),
                  sum = it.starts && a.sinks ? 1 : 0;
            for (unsigned i = lane_id(); i < a.d; i += 32)
                row[i] = 0;
            for (unsigned s = 0; s < it.n_state; s++) {
                const float *from = a.state + state_at(a, it.state + s, r);
                joint j = join_of(max, from[a.d]);
                for (unsigned i = lane_id(); i < a.d; i += 32)
                    row[i] = row[i] * j.keep + from[i] * j.part;
                sum = sum * j.keep + from[a.d + 1] * j.part;
                max = j.max;
            }
            for (unsigned i = lane_id(); i < a.d; i += 32)
                row[i] *= 1 / sum;
            if (a.kind >= SP_CUDA_KV_Q8)
                rotate_row(row, a.d, true);
            size_t tok = it.row + query / a.group, head = block_y() * a.group + query % a.group;
            for (unsigned i = lane_id(); i < a.d; i += 32)
                a.out[(tok * a.n_head * a.group + head) * a.d + i] = row[i];
            warp_sync();
        }
    }
};

template <class F, class O, int D> int run_attn(const sp_cuda_attn *a)
{
    return launch<attn_kernel<F, O, D>>(a->n_item, a->n_head, sizeof(shared_attn<D>), *a);
}

template <class F, class O> int run_size(const sp_cuda_attn *a)
{
    return a->d <= 64    ? run_attn<F, O, 64>(a)
           : a->d <= 128 ? run_attn<F, O, 128>(a)
                         : run_attn<F, O, 256>(a);
}

/* Without pages: a warp has a query and goes through keys 32 at a time. */
struct full_kernel {
    enum { THREADS = 32 * WARPS };
    typedef sp_cuda_full args;
    SP_DEV void run(const args &a)
    {
        unsigned row = block_x() * WARPS + warp_id(), p = row / a.n_head, h = row % a.n_head,
                 kv = h / (a.n_head / a.n_head_kv);
        float *acc = reinterpret_cast<float *>(block_mem()) + warp_id() * (a.d + 32),
              *weight = acc + a.d;
        if (row >= a.n * a.n_head)
            return;
        const float *q = a.q + (size_t)row * a.d;
        unsigned ahead = a.causal   ? 0
                         : a.window ? a.window / 2
                                    : a.n,
                 back = !a.window  ? a.n
                        : a.causal ? a.window - 1
                                   : a.window / 2;
        float max = minus_inf(), sum = 0;
        for (unsigned i = lane_id(); i < a.d; i += 32)
            acc[i] = 0;
        for (unsigned first = 0; first < a.n; first += 32) {
            unsigned j = first + lane_id();
            float s = minus_inf();
            if (j < a.n && j <= p + ahead && p <= j + back) {
                const float *k = a.k + ((size_t)j * a.n_head_kv + kv) * a.d;
                s = 0;
                for (unsigned i = 0; i < a.d; i++)
                    s += q[i] * k[i];
                s *= a.scale * 1.44269504f;
            }
            joint to = join_of(max, warp_max(s));
            weight[lane_id()] = to.part > 0 ? exp2_of(s - to.max) : 0;
            sum = sum * to.keep + warp_sum(weight[lane_id()]);
            max = to.max;
            warp_sync();
            for (unsigned i = lane_id(); i < a.d; i += 32) {
                float x = acc[i] * to.keep;
                for (unsigned t = 0; t < 32 && first + t < a.n; t++)
                    x += weight[t] * a.v[((size_t)(first + t) * a.n_head_kv + kv) * a.d + i];
                acc[i] = x;
            }
            warp_sync();
        }
        for (unsigned i = lane_id(); i < a.d; i += 32)
            a.out[(size_t)row * a.d + i] = acc[i] / sum;
    }
};

} // namespace

extern "C" int sp_cuda_attn_run(const sp_cuda_attn *a)
{
    size_t rows = (WARPS * a->d * sizeof(float) + 15) / 16 * 16;
    int err = launch<query_kernel>(a->n_row, 1, rows, *a);
    if (err)
        return err;
    switch (a->kind) {
    case SP_CUDA_KV_F32:
        err = run_size<page_of<elem_f32>, page_plain<elem_f32, dims_plain>>(a);
        break;
    case SP_CUDA_KV_F16:
        err = run_size<page_of<elem_f16>, page_plain<elem_f16, dims_plain>>(a);
        break;
    case SP_CUDA_KV_Q8: err = run_size<page_q8, page_plain<elem_f16, page_q8>>(a); break;
    case SP_CUDA_KV_FP8: err = run_size<page_fp8, page_plain<elem_f16, page_fp8>>(a); break;
    default: err = 1;
    }
    return err ? err : launch<end_kernel>(a->n_end, a->n_head, rows, *a);
}

extern "C" int sp_cuda_full_run(const sp_cuda_full *a)
{
    return launch<full_kernel>((a->n * a->n_head + WARPS - 1) / WARPS, 1,
                               WARPS * (a->d + 32) * sizeof(float), *a);
}
