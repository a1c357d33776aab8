/* Attention over paged keys and values, of decoding steps and of prompts alike: flash attention on
 * tensor cores whose results do not depend on which queries share a call. A block has 16 queries or
 * fewer of one KV head, those of a group together, so that each key is read once for all; its warps
 * take the pages of a part (SP_CUDA_PART pages from a multiple of it) in turn and their states are
 * joined in the order of warps, then parts in order. A block attends one part or many; both give
 * the same bits.
 *
 * Queries are f16, weights are f16 against values of f16, sums are f32.
 * Source: Dao 2023 (FlashAttention-2) section 3; Kwon et al. 2023 (PagedAttention) section 4.1. */
#include "dev/cuda/flash.h"
#include "dev/cuda/rotate.h"

namespace
{

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

template <class F, class O, int D> struct attn_kernel {
    enum { THREADS = 32 * WARPS };
    typedef sp_cuda_attn args;

    SP_DEV void run(const args &a)
    {
        shared_attn<D> *sh = reinterpret_cast<shared_attn<D> *>(block_mem());
        const sp_cuda_attn_item it = a.item[block_x()];
        unsigned from[2], to[2];
        warp_state<D> w;
        if (a.only && !a.only[it.cert * a.n_head + block_y()].is_dense)
            return;
        load_queries<F, D>(sh->q, a, it.row, it.q0, it.n_q);
        start_rows(sh, a, it.starts, it.q0, it.n_q);
        block_sync();
        for (unsigned begin = it.from; begin < it.to;) {
            unsigned end = (begin / SP_CUDA_PART + 1) * SP_CUDA_PART,
                     stop = end < it.to ? end : it.to;
            clear(w);
            for (unsigned i = begin + (warp_id() + WARPS - begin % WARPS) % WARPS; i < stop;
                 i += WARPS) {
                F p;
                unsigned page = it.n_list ? a.list[it.list + block_y() * it.n_list + i] : i;
                F::open(p, a.tab[it.tab + page], a.hi_at + (size_t)block_y() * a.hi_bytes,
                        a.lo_at + (size_t)block_y() * a.lo_bytes, a.d);
                see(from, to, a, it, page, false);
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
        put_state(a, sh, it.state, it.n_q);
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
            for (unsigned i = lane_id(); i < a.n_out; i += 32)
                a.out[(tok * a.n_head * a.group + head) * a.n_out + i] = row[i];
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

size_t rows_bytes(const sp_cuda_attn *a)
{
    return (WARPS * a->d * sizeof(float) + 15) / 16 * 16;
}

} // namespace

extern "C" int sp_cuda_query_run(const sp_cuda_attn *a)
{
    return launch<query_kernel>(a->n_row, 1, rows_bytes(a), *a);
}

extern "C" int sp_cuda_attn_run(const sp_cuda_attn *a)
{
    switch (a->kind) {
    case SP_CUDA_KV_F32: return run_size<page_of<elem_f32>, page_plain<elem_f32, dims_plain>>(a);
    case SP_CUDA_KV_F16: return run_size<page_of<elem_f16>, page_plain<elem_f16, dims_plain>>(a);
    case SP_CUDA_KV_BF16:
        return run_size<page_of<elem_bf16>, page_plain<elem_bf16, dims_plain>>(a);
    case SP_CUDA_KV_Q8: return run_size<page_q8, page_plain<elem_f16, page_q8>>(a);
    case SP_CUDA_KV_FP8: return run_size<page_fp8, page_plain<elem_f16, page_fp8>>(a);
    default: return 1;
    }
}

extern "C" int sp_cuda_attn_end_run(const sp_cuda_attn *a)
{
    return launch<end_kernel>(a->n_end, a->n_head, rows_bytes(a), *a);
}

extern "C" int sp_cuda_full_run(const sp_cuda_full *a)
{
    return launch<full_kernel>((a->n * a->n_head + WARPS - 1) / WARPS, 1,
                               WARPS * (a->d + 32) * sizeof(float), *a);
}
