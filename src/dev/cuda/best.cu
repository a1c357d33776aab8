/* The likeliest tokens of rows of logits. A block takes the largest of its part of a row one after
 * the other, each being the largest behind the one before it; a second launch does the same with
 * what parts gave. No memory is written but the result, so a row's result does not depend on how it
 * is divided or on other rows. */
#include "dev/cuda/frag.h"

namespace
{

enum { WARPS = 8, THREADS_ROW = 32 * WARPS, BEST = SP_CUDA_BEST };

/* Larger logits first, of equal ones the lower id. */
struct choice {
    float logit;
    uint32_t id;
};
SP_DEV bool is_before(choice a, choice b)
{
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}
SP_DEV choice no_choice()
{
    return {float_of(0xff800000u), 0xffffffffu};
}
SP_DEV bool is_finite(float x)
{
    return (bits_of(x) & 0x7f800000u) != 0x7f800000u;
}

/* The first of all lanes' or all warps' choices, in every thread; part: one for each warp. */
SP_DEV choice first_of(choice e, choice *part)
{
    for (int m = 16; m; m /= 2) {
        choice o = {warp_xor(e.logit, m), bits_of(warp_xor(float_of(e.id), m))};
        e = is_before(o, e) ? o : e;
    }
    block_sync();
    if (lane_id() == 0)
        part[warp_id()] = e;
    block_sync();
    for (unsigned w = 0; w < WARPS; w++)
        e = is_before(part[w], e) ? part[w] : e;
    return e;
}

/* What a row is divided into: elements of logits, or results of parts. */
struct of_logits {
    const float *x;
    unsigned from, to;

    SP_DEV_MEMBER choice at(unsigned i) const
    {
        return is_finite(x[from + i]) ? choice{x[from + i], from + i} : no_choice();
    }
    SP_DEV_MEMBER unsigned count() const
    {
        return to - from;
    }
};
struct of_parts {
    const sp_cuda_best_row *part;
    unsigned n_part;

    SP_DEV_MEMBER choice at(unsigned i) const
    {
        const sp_cuda_best_row &p = part[i / BEST];
        return i % BEST < p.n ? choice{p.logit[i % BEST], p.id[i % BEST]} : no_choice();
    }
    SP_DEV_MEMBER unsigned count() const
    {
        return n_part * BEST;
    }
};

/* This thread's first choice behind `last`. */
template <class S> SP_DEV choice next_of(const S &s, choice last)
{
    choice best = no_choice();
    for (unsigned i = thread_id(); i < s.count(); i += THREADS_ROW) {
        choice e = s.at(i);
        if (e.id != 0xffffffffu && is_before(last, e) && is_before(e, best))
            best = e;
    }
    return best;
}

template <class S> SP_DEV void list(sp_cuda_best_row *out, const S &s, choice *part)
{
    choice own = next_of(s, {float_of(0x7f800000u), 0});
    unsigned n = 0;
    for (; n < BEST; n++) {
        choice e = first_of(own, part);
        if (e.id == 0xffffffffu)
            break;
        if (thread_id() == 0) {
            out->id[n] = e.id;
            out->logit[n] = e.logit;
        }
        if (own.id == e.id)
            own = next_of(s, e);
    }
    if (thread_id() == 0)
        out->n = n;
}

struct shared_best {
    choice part[WARPS];
    float sum[WARPS], count[WARPS], odd[WARPS];
    float pad[4]; /* to a multiple of 16 bytes */
};

struct part_kernel {
    enum { THREADS = THREADS_ROW };
    typedef sp_cuda_best args;
    SP_DEV void run(const args &a)
    {
        shared_best *sh = reinterpret_cast<shared_best *>(block_mem());
        unsigned part = block_x(), row = block_y(), from = part * SP_CUDA_BEST_PART,
                 stop = from + SP_CUDA_BEST_PART;
        const of_logits s = {a.x + (size_t)row * a.n, from, stop < a.n ? stop : a.n};
        sp_cuda_best_row *out = &a.part[(size_t)row * a.n_part + part];
        list(out, s, sh->part);
        block_sync();
        float top = out->n ? out->logit[0] : 0, sum = 0, count = 0, odd = 0;
        for (unsigned i = thread_id(); i < s.count(); i += THREADS) {
            float x = s.x[from + i];
            count += is_finite(x);
            odd += !is_finite(x) && x != float_of(0xff800000u);
            sum += is_finite(x) ? expf((x - top) / a.temperature[row]) : 0;
        }
        sum = block_sum(sum, sh->sum, WARPS);
        count = block_sum(count, sh->count, WARPS);
        odd = block_sum(odd, sh->odd, WARPS);
        if (thread_id() == 0) {
            out->mass = sum;
            out->n_finite = (uint32_t)count;
            out->is_odd = odd > 0;
        }
    }
};

struct join_kernel {
    enum { THREADS = THREADS_ROW };
    typedef sp_cuda_best args;
    SP_DEV void run(const args &a)
    {
        shared_best *sh = reinterpret_cast<shared_best *>(block_mem());
        const unsigned row = block_x();
        const of_parts s = {a.part + (size_t)row * a.n_part, a.n_part};
        sp_cuda_best_row *out = &a.out[row];
        list(out, s, sh->part);
        if (thread_id())
            return;
        out->n_finite = 0;
        out->is_odd = 0;
        out->mass = 0;
        for (unsigned i = 0; i < a.n_part; i++) {
            const sp_cuda_best_row &p = s.part[i];
            out->n_finite += p.n_finite;
            out->is_odd |= p.is_odd;
            out->mass += p.n ? p.mass * expf((p.logit[0] - out->logit[0]) / a.temperature[row]) : 0;
        }
    }
};

} // namespace

extern "C" int sp_cuda_best_run(const sp_cuda_best *a)
{
    int err = launch<part_kernel>(a->n_part, a->n_row, sizeof(shared_best), *a);
    return err ? err : launch<join_kernel>(a->n_row, 1, sizeof(shared_best), *a);
}
