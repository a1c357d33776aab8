/* Which experts rows go to, and what becomes of their results. The products between are
 * product.cu's, over slots: a slot is one row at one expert, and the slots of an expert are
 * neighbours. What a row gets depends on that row alone. */
#include "dev/cuda/frag.h"

namespace
{

enum { SOFTMAX, SIGMOID, CHOSEN }; /* sp_score of dev.h */

/* A value and whose it is; n: nobody's. */
struct best {
    float v;
    unsigned of;
};

/* The larger value, the lower number of equal ones. */
SP_DEV best better(best a, best b, unsigned n)
{
    if (b.of == n || (a.of != n && (a.v > b.v || (a.v == b.v && a.of < b.of))))
        return a;
    return b;
}

/* The best of all lanes. */
SP_DEV best warp_best(best b, unsigned n)
{
    for (int m = 16; m; m /= 2) {
        best other = {warp_xor(b.v, m), (unsigned)warp_xor((float)b.of, m)};
        b = better(b, other, n);
    }
    return b;
}

/* One warp a row; lane l has experts l, l + 32, …. Shared memory: what is picked by, [n_expert],
 * then sums of groups, [n_group]. */
struct choose_kernel {
    enum { THREADS = 32 };
    typedef sp_cuda_choose args;

    SP_DEV void scores(const args &a, float *s)
    {
        float most = -INFINITY, sum = 0;
        for (unsigned e = lane_id(); e < a.n_expert; e += 32) {
            s[e] = a.router_scale != 0 ? s[e] * a.router_scale : s[e];
            most = fmaxf(most, s[e]);
        }
        if (a.kind == CHOSEN)
            return;
        most = warp_max(most);
        for (unsigned e = lane_id(); e < a.n_expert; e += 32) {
            s[e] = a.kind == SOFTMAX ? expf(s[e] - most) : 1 / (1 + expf(-s[e]));
            sum += s[e];
        }
        sum = warp_sum(sum);
        for (unsigned e = lane_id(); e < a.n_expert && a.kind == SOFTMAX; e += 32)
            s[e] /= sum;
    }
    /* Experts outside the best groups are not there any more. */
    SP_DEV void keep_groups(const args &a, float *by, float *sum)
    {
        unsigned each = a.n_expert / a.n_group;
        for (unsigned g = lane_id(); g < a.n_group; g += 32) {
            float one = by[g * each], two = -INFINITY;
            for (unsigned i = 1; i < each; i++) {
                float v = by[g * each + i];
                two = v > one ? one : fmaxf(two, v);
                one = fmaxf(one, v);
            }
            sum[g] = each > 1 && !a.by_one ? one + two : one;
        }
        warp_sync();
        for (unsigned e = lane_id(); e < a.n_expert; e += 32) {
            unsigned g = e / each, n_before = 0; /* groups that come before this one's */
            for (unsigned o = 0; o < a.n_group; o++)
                n_before += sum[o] > sum[g] || (sum[o] == sum[g] && o < g);
            if (n_before >= a.n_group_used)
                by[e] = NAN;
        }
        warp_sync();
    }
    SP_DEV void run(const args &a)
    {
        float *s = a.score + (size_t)block_x() * a.n_expert,
              *by = reinterpret_cast<float *>(block_mem()), sum = 0, most = 0;
        uint32_t *pick = a.pick + (size_t)block_x() * a.n_used;
        float *weight = a.weight + (size_t)block_x() * a.n_used;
        scores(a, s);
        for (unsigned e = lane_id(); e < a.n_expert; e += 32) {
            float v = a.pick_bias ? s[e] + a.pick_bias[e] : s[e];
            by[e] = v == v ? v : -INFINITY;
        }
        warp_sync();
        if (a.n_group > 1)
            keep_groups(a, by, by + a.n_expert);
        for (unsigned i = 0; i < a.n_used; i++) {
            best b = {0, a.n_expert};
            for (unsigned e = lane_id(); e < a.n_expert; e += 32)
                if (by[e] == by[e])
                    b = better(b, {by[e], e}, a.n_expert);
            b = warp_best(b, a.n_expert);
            float w = s[b.of];
            most = i ? most : w;
            w = a.kind == CHOSEN ? expf(w - most) : w;
            sum += w;
            warp_sync();
            if (lane_id() == b.of % 32)
                by[b.of] = NAN;
            if (lane_id() == 0) {
                pick[i] = b.of;
                weight[i] = w;
            }
        }
        if (a.kind != CHOSEN)
            sum = a.normed ? fmaxf(sum, 0x1p-14f) : 1; /* f16's least normal number */
        for (unsigned i = 0; i < a.n_used && lane_id() == 0; i++) {
            weight[i] = weight[i] / sum * a.scale;
            if (a.weight_scale)
                weight[i] *= a.weight_scale[pick[i]];
        }
    }
};

/* One block an expert: its slots, in the order of rows. Shared memory: for each thread the choices
 * of its part that are of lower experts, then those that are of this one. */
struct sort_kernel {
    enum { THREADS = 128 };
    typedef sp_cuda_sort args;
    SP_DEV void run(const args &a)
    {
        unsigned *lower = reinterpret_cast<unsigned *>(block_mem()), *own = lower + THREADS;
        unsigned e = block_x(), t = thread_id(), each = (a.n_slot + THREADS - 1) / THREADS,
                 from = t * each, to = from + each < a.n_slot ? from + each : a.n_slot, at = 0;
        lower[t] = own[t] = 0;
        for (unsigned i = from; i < to; i++) {
            lower[t] += a.pick[i] < e;
            own[t] += a.pick[i] == e;
        }
        block_sync();
        for (unsigned i = 0; i < THREADS; i++)
            at += lower[i] + (i < t ? own[i] : 0);
        if (t == 0)
            a.first[e] = at;
        if (t == 0 && e == 0)
            a.first[a.n_expert] = a.n_slot;
        for (unsigned i = from; i < to; i++)
            if (a.pick[i] == e) {
                a.slot[i] = at;
                a.row[at++] = i / a.n_used;
            }
    }
};

/* Slots in pieces of tile_tok at most, each of one expert. */
struct tile_kernel {
    enum { THREADS = 128 };
    typedef sp_cuda_sort args;
    SP_DEV unsigned count(const args &a, unsigned e)
    {
        return (a.first[e + 1] - a.first[e] + a.tile_tok - 1) / a.tile_tok;
    }
    SP_DEV void run(const args &a)
    {
        for (unsigned e = thread_id(); e <= a.n_expert; e += THREADS) {
            unsigned at = 0, n = e < a.n_expert ? count(a, e) : 0;
            for (unsigned i = 0; i < e; i++)
                at += count(a, i);
            for (unsigned i = 0; i < n; i++) {
                unsigned from = a.first[e] + i * a.tile_tok, left = a.first[e + 1] - from;
                a.tile[at + i] = {e, from, left < a.tile_tok ? left : a.tile_tok};
            }
            for (unsigned i = at; i < a.n_tile && e == a.n_expert; i++)
                a.tile[i] = {0, 0, 0};
        }
    }
};

/* A row's experts, weighed and added in the order of their choice. */
struct gather_kernel {
    enum { THREADS = 128 };
    typedef sp_cuda_gather args;
    SP_DEV void run(const args &a)
    {
        const uint32_t *slot = a.slot + (size_t)block_x() * a.n_used;
        const float *weight = a.weight + (size_t)block_x() * a.n_used;
        for (unsigned i = block_y() * THREADS + thread_id();
             i < a.k && i < (block_y() + 1) * THREADS; i += THREADS) {
            float sum = 0;
            for (unsigned u = 0; u < a.n_used; u++)
                sum += weight[u] * a.y[(size_t)slot[u] * a.k + i];
            a.out[(size_t)block_x() * a.k + i] = sum;
        }
    }
};

} // namespace

extern "C" int sp_cuda_choose_run(const sp_cuda_choose *a)
{
    size_t n = (a->n_expert + a->n_group) * sizeof(float);
    return launch<choose_kernel>(a->n_row, 1, (n + 15) & ~(size_t)15, *a);
}
extern "C" int sp_cuda_sort_run(const sp_cuda_sort *a)
{
    int err = launch<sort_kernel>(a->n_expert, 1, 2 * sort_kernel::THREADS * sizeof(unsigned), *a);
    return err ? err : launch<tile_kernel>(1, 1, 0, *a);
}
extern "C" int sp_cuda_gather_run(const sp_cuda_gather *a)
{
    return launch<gather_kernel>(
        a->n_row, (a->k + gather_kernel::THREADS - 1) / gather_kernel::THREADS, 0, *a);
}
