/* Which pages a long prompt attends (docs/ATTENTION.md, prefill_keep): a few tokens of a span whose
 * queries are least like their mean, what each page weighs to them, and the pages that weigh most.
 * The same rules as on the CPU (cpu_select.c). */
#include "dev/cuda/flash.h"

namespace
{

enum { SAMPLE = SP_CUDA_SAMPLE, LOOK = SP_CUDA_LOOK, THREADS_ALL = 32 * WARPS };

/* A row of queries of the span: token `tok`, head g of the group. */
SP_DEV size_t query_at(const sp_cuda_keep &a, const sp_cuda_keep_item &it, unsigned tok, unsigned g)
{
    return ((size_t)(it.row + tok) * a.a.n_head + block_y()) * a.a.group + g;
}

struct sample_kernel {
    enum { THREADS = THREADS_ALL };
    typedef sp_cuda_keep args;
    SP_DEV void run(const args &a)
    {
        const sp_cuda_keep_item it = a.item[block_x()];
        const unsigned d = a.a.d;
        float *score = reinterpret_cast<float *>(block_mem()), *mean = score + LOOK;
        for (unsigned i = thread_id(); i < LOOK; i += THREADS)
            score[i] = i < it.n_look ? 0 : float_of(0xff800000u);
        for (unsigned g = 0; g < a.a.group; g++) {
            block_sync();
            for (unsigned e = thread_id(); e < d; e += THREADS) {
                float sum = 0;
                for (unsigned i = 0; i < it.n_look; i++)
                    sum += a.a.q[query_at(a, it, i * it.step, g) * d + e];
                mean[e] = sum;
            }
            block_sync();
            for (unsigned i = warp_id(); i < it.n_look; i += WARPS) {
                const float *q = a.a.q + query_at(a, it, i * it.step, g) * d;
                float dot = 0, norm = 0;
                for (unsigned e = lane_id(); e < d; e += 32) {
                    dot += q[e] * mean[e];
                    norm += q[e] * q[e];
                }
                dot = warp_sum(dot);
                norm = warp_sum(norm) + 1e-30f;
                if (lane_id() == 0)
                    score[i] -= dot / sqrtf(norm);
            }
        }
        block_sync();
        if (thread_id())
            return;
        for (unsigned k = 0; k < SAMPLE; k++) {
            unsigned best = 0;
            for (unsigned i = 1; i < it.n_look; i++)
                best = score[i] > score[best] ? i : best;
            score[best] = float_of(0xff800000u);
            a.sample[(block_x() * a.a.n_head + block_y()) * SAMPLE + k] = best * it.step;
        }
    }
};

/* Masses of up to SP_CUDA_PART pages, a warp has one at a time; query k of the sample is token k %
 * SAMPLE of head k / SAMPLE of the group. */
template <int D> struct mass_kernel {
    enum { THREADS = THREADS_ALL };
    typedef sp_cuda_keep args;

    SP_DEV void load(query_frag *queries, const args &a, const sp_cuda_keep_item &it, unsigned item,
                     unsigned first, unsigned n_q)
    {
        const uint32_t *sample = a.sample + (item * a.a.n_head + block_y()) * SAMPLE;
        for (unsigned at = thread_id(); at < D / 16 * 32; at += THREADS) {
            unsigned s = at / 32;
            int i = page_q8::kdim(s, 0, a.a.d);
            for (unsigned half = 0; half < 2; half++) {
                unsigned k = first + lane_id() / 4 + 8 * half;
                uint32_t *q = queries[s][lane_id()];
                q[half] = q[half + 2] = 0;
                if (k >= n_q || i < 0)
                    continue;
                const uint16_t *from =
                    a.a.qh + query_at(a, it, sample[k % SAMPLE], k / SAMPLE) * a.a.d + i;
                q[half] = load_u32(from);
                q[half + 2] = load_u32(from + 2);
            }
        }
    }
    SP_DEV void run(const args &a)
    {
        query_frag *queries = reinterpret_cast<query_frag *>(block_mem());
        const sp_cuda_keep_part part = a.part[block_x()];
        const sp_cuda_keep_item it = a.item[part.item];
        const unsigned n_q = SAMPLE * a.a.group;
        for (unsigned first = 0; first < n_q; first += ROWS) {
            block_sync();
            load(queries, a, it, part.item, first, n_q);
            block_sync();
            for (unsigned i = part.from + warp_id(); i < part.to; i += WARPS) {
                page_q8 p;
                float s[4][4];
                page_q8::open(p, a.a.tab[it.tab + i], a.a.hi_at + (size_t)block_y() * a.a.hi_bytes,
                              a.a.lo_at + (size_t)block_y() * a.a.lo_bytes, a.a.d);
                score<D, page_q8>(s, queries, p);
                for (unsigned h = 0; h < 2; h++) {
                    float top = minus_inf(), sum = 0;
                    for (unsigned k = 0; k < 8; k++)
                        top = fmaxf(top, cap_of(s[k / 2][2 * h + k % 2], a.a.cap));
                    top = fmaxf(top, warp_xor(top, 1));
                    top = fmaxf(top, warp_xor(top, 2));
                    for (unsigned k = 0; k < 8; k++)
                        sum += exp2_of(cap_of(s[k / 2][2 * h + k % 2], a.a.cap) - top);
                    sum += warp_xor(sum, 1);
                    sum += warp_xor(sum, 2);
                    unsigned k = first + lane_id() / 4 + 8 * h;
                    if (lane_id() % 4 == 0 && k < n_q)
                        a.mass[((size_t)it.mass * a.a.n_head + block_y() * it.n_page + i) * n_q +
                               k] = top + log2f(sum);
                }
            }
        }
    }
};

struct choose_kernel {
    enum { THREADS = THREADS_ALL };
    typedef sp_cuda_keep args;

    /* The n_chosen largest ranks, of equal ones the first pages: the rank of the last of them and
     * how many of that rank are taken. Ranks are no less than 0, so that their bits are in
     * order. */
    SP_DEV uint32_t find_least(unsigned *n_equal, const float *rank, unsigned n_page, unsigned n,
                               float *part)
    {
        uint32_t least = 0;
        unsigned above = 0;
        for (int bit = 30; bit >= -1; bit--) {
            const uint32_t cut = bit >= 0 ? least | 1u << bit : least + 1;
            float count = 0;
            for (unsigned i = thread_id(); i < n_page; i += THREADS)
                count += bits_of(rank[i]) >= cut;
            block_sync();
            count = block_sum(count, part, WARPS);
            if (bit < 0)
                above = (unsigned)count;
            else if (count >= (float)n)
                least = cut;
        }
        *n_equal = n - above;
        return least;
    }
    SP_DEV void run(const args &a)
    {
        const sp_cuda_keep_item it = a.item[block_x()];
        const unsigned n_q = SAMPLE * a.a.group, first = it.n_list - it.n_own;
        float *part = reinterpret_cast<float *>(block_mem());
        float *mass = a.mass + ((size_t)it.mass * a.a.n_head + block_y() * it.n_page) * n_q;
        float *rank = a.rank + (size_t)it.mass * a.a.n_head + block_y() * it.n_page;
        uint32_t *list = a.list + (size_t)it.list + (size_t)block_y() * it.n_list;
        float sum_missed = 0, max_missed = 0;
        for (unsigned i = thread_id(); i < it.n_page; i += THREADS)
            rank[i] = a.must[it.must + i / 32] >> i % 32 & 1 ? float_of(0x7f800000u) : 0;
        for (unsigned k = 0; k < n_q; k++) { /* masses become shares */
            const float sink = sink_of(a.a, k / SAMPLE);
            float top = sink, sum = 0;
            for (unsigned i = thread_id(); i < it.n_page; i += THREADS)
                top = fmaxf(top, mass[(size_t)i * n_q + k]);
            block_sync();
            top = block_max(top, part, WARPS);
            for (unsigned i = thread_id(); i < it.n_page; i += THREADS)
                sum += exp2_of(mass[(size_t)i * n_q + k] - top);
            block_sync();
            sum = block_sum(sum, part, WARPS) + exp2_of(sink - top);
            for (unsigned i = thread_id(); i < it.n_page; i += THREADS) {
                float share = exp2_of(mass[(size_t)i * n_q + k] - top) / sum;
                mass[(size_t)i * n_q + k] = share;
                rank[i] = fmaxf(rank[i], share);
            }
        }
        unsigned n_equal;
        block_sync();
        const uint32_t least = find_least(&n_equal, rank, it.n_page, first, part);
        for (unsigned k = 0; k < n_q; k++) {
            float missed = 0;
            unsigned seen = 0;
            for (unsigned i = 0; i < it.n_page && thread_id() < 32; i += 32) {
                unsigned page = i + lane_id();
                bool is_in = page < it.n_page, is_equal = is_in && bits_of(rank[page]) == least;
                uint32_t equal = warp_vote(is_equal);
                unsigned before = seen + bit_count(equal & ((1u << lane_id()) - 1));
                bool takes = is_in && (bits_of(rank[page]) > least ||
                                       (is_equal && before < n_equal));
                missed += is_in && !takes ? mass[(size_t)page * n_q + k] : 0;
                seen += bit_count(equal);
            }
            missed = warp_sum(missed);
            sum_missed += missed;
            max_missed = fmaxf(max_missed, missed);
        }
        unsigned seen = 0, at = 0;
        for (unsigned i = 0; i < it.n_page && thread_id() < 32; i += 32) {
            unsigned page = i + lane_id();
            bool is_in = page < it.n_page, is_equal = is_in && bits_of(rank[page]) == least;
            uint32_t equal = warp_vote(is_equal);
            unsigned before = seen + bit_count(equal & ((1u << lane_id()) - 1));
            bool takes =
                is_in && (bits_of(rank[page]) > least || (is_equal && before < n_equal));
            uint32_t taken = warp_vote(takes);
            if (takes)
                list[at + bit_count(taken & ((1u << lane_id()) - 1))] = page;
            seen += bit_count(equal);
            at += bit_count(taken);
        }
        for (unsigned i = thread_id(); i < it.n_own; i += THREADS)
            list[first + i] = it.n_page + i;
        if (thread_id() == 0) {
            sp_cuda_kept *out = &a.out[it.out * a.a.n_head + block_y()];
            out->sum_missed = sum_missed;
            out->max_missed = max_missed;
        }
    }
};

template <int D> int run_mass(const sp_cuda_keep *a)
{
    return launch<mass_kernel<D>>(a->n_part, a->a.n_head, D / 16 * sizeof(query_frag), *a);
}

} // namespace

extern "C" int sp_cuda_keep_run(const sp_cuda_keep *a)
{
    int err = launch<sample_kernel>(a->n_item, a->a.n_head,
                                    ((LOOK + a->a.d) * sizeof(float) + 15) / 16 * 16, *a);
    if (!err)
        err = a->a.d <= 64    ? run_mass<64>(a)
              : a->a.d <= 128 ? run_mass<128>(a)
                              : run_mass<256>(a);
    return err ? err
               : launch<choose_kernel>(a->n_item, a->a.n_head, WARPS * sizeof(float), *a);
}
