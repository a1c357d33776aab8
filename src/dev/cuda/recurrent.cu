/* Layers with a state: convolutions over the newest inputs, the gated delta rule and state spaces
 * (dev.h). Tokens are taken one after the other, so neither chunks nor company change a bit. A
 * block has 16 values of one head of one sequence, whose part of the state, [d_k, 16], stays in
 * shared memory while the tokens pass; a thread has one value and every eighth row of it. */
#include "dev/cuda/frag.h"

namespace
{

enum { COLS = 16, WARPS = 4, LANES_K = 32 * WARPS / COLS };

/* Tokens of one sequence, and one head's place in its states. */
struct walk {
    float *state; /* [d_k, COLS], shared */
    float *sums;  /* [WARPS, COLS], shared */
    unsigned d_k;

    SP_DEV_MEMBER void begin(const sp_cuda_pass &p, size_t at)
    {
        const float *from = p.state ? reinterpret_cast<const float *>(p.state + at) : NULL;
        for (unsigned i = thread_id(); i < d_k * COLS; i += 32 * WARPS)
            state[i] = from ? from[i] : 0;
    }
    SP_DEV_MEMBER void put(char *to, size_t at) const
    {
        float *out = reinterpret_cast<float *>(to + at);
        for (unsigned i = thread_id(); i < d_k * COLS; i += 32 * WARPS)
            out[i] = state[i];
    }
    /* The sum over all rows of the state for this thread's value; the same in all its threads. */
    SP_DEV_MEMBER float sum(float v) const
    {
        v += warp_xor(v, COLS);
        block_sync(); /* the sums before have been read */
        if (lane_id() < COLS)
            sums[warp_id() * COLS + lane_id()] = v;
        block_sync();
        float all = 0;
        for (unsigned w = 0; w < WARPS; w++)
            all += sums[w * COLS + thread_id() % COLS];
        return all;
    }
};

SP_DEV float soft_plus(float x)
{
    return x > 20 ? x : log1pf(expf(x));
}

/* What the parts of a head's state have in common: the walk, and copies of it on the way. */
template <class RULE> struct pass_kernel {
    enum { THREADS = 32 * WARPS };
    typedef typename RULE::args args;
    SP_DEV void run(const args &a)
    {
        const unsigned n_part = a.d_v / COLS, head = block_x() / n_part, part = block_x() % n_part;
        const sp_cuda_pass p = a.pass[block_y()];
        float *mem = reinterpret_cast<float *>(block_mem());
        walk w = {mem, mem + a.d_k * COLS, a.d_k};
        const size_t at = a.state_at + ((size_t)head * a.d_v + part * COLS) * a.d_k * sizeof(float);
        unsigned mark = 0;
        w.begin(p, at);
        for (unsigned t = 0; t < p.n; t++) {
            RULE::token(a, w, w.sums + WARPS * COLS, p.row + t, head,
                        part * COLS + thread_id() % COLS);
            if (mark < p.n_mark && a.mark[p.mark + mark].n == t + 1)
                w.put(a.mark[p.mark + mark++].state, at);
        }
        w.put(p.next, at);
    }
};

struct delta_rule {
    typedef sp_cuda_delta args;
    /* Queries and keys of length 1 to unit [2, d_k]. */
    SP_DEV void make_unit(const args &a, float *unit, const float *x, unsigned head_k)
    {
        float *part = unit + 2 * a.d_k;
        for (unsigned kind = 0; kind < 2; kind++) {
            const float *of = x + (kind * a.n_head_k + head_k) * a.d_k;
            float sum = 0;
            for (unsigned i = thread_id(); i < a.d_k; i += 32 * WARPS)
                sum += of[i] * of[i];
            sum = block_sum(sum, part + kind * WARPS, WARPS);
            float by = (kind ? 1 : 1 / sqrtf((float)a.d_k)) / sqrtf(sum + a.eps);
            for (unsigned i = thread_id(); i < a.d_k; i += 32 * WARPS)
                unit[kind * a.d_k + i] = of[i] * by;
        }
        block_sync();
    }
    SP_DEV void token(const args &a, const walk &w, float *unit, unsigned row, unsigned head,
                      unsigned value)
    {
        const unsigned n_chan = 2 * a.n_head_k * a.d_k + a.n_head * a.d_v,
                       head_k = a.neighbours ? head / (a.n_head / a.n_head_k) : head % a.n_head_k,
                       at = head / a.n_beside * a.step + head % a.n_beside;
        const float *x = a.x + (size_t)row * n_chan, *key = unit + a.d_k;
        make_unit(a, unit, x, head_k);
        float decay = expf(a.a[head] * soft_plus(a.alpha[(size_t)row * a.ld + at] + a.dt[head])),
              beta = 1 / (1 + expf(-a.beta[(size_t)row * a.ld + at])), known = 0, sum = 0;
        float *s = w.state + thread_id() % COLS;
        for (unsigned k = thread_id() / COLS; k < a.d_k; k += LANES_K) {
            s[k * COLS] *= decay;
            known += key[k] * s[k * COLS];
        }
        float v = x[2 * a.n_head_k * a.d_k + head * a.d_v + value],
              more = beta * (v - w.sum(known));
        for (unsigned k = thread_id() / COLS; k < a.d_k; k += LANES_K) {
            s[k * COLS] += key[k] * more;
            sum += unit[k] * s[k * COLS];
        }
        sum = w.sum(sum);
        if (thread_id() < COLS)
            a.out[((size_t)row * a.n_head + head) * a.d_v + value] = sum;
    }
};

struct ssm_rule {
    typedef sp_cuda_ssm args;
    SP_DEV void token(const args &a, const walk &w, float *, unsigned row, unsigned head,
                      unsigned value)
    {
        const unsigned n_inner = a.n_head * a.d_v, n_chan = n_inner + 2 * a.n_group * a.d_k,
                       group = head / (a.n_head / a.n_group);
        const float *x = a.x + (size_t)row * n_chan, *b = x + n_inner + group * a.d_k,
                    *c = b + a.n_group * a.d_k;
        float step = soft_plus(a.dt[(size_t)row * a.n_head + head] + a.dt_bias[head]),
              decay = expf(a.a[head] * step), v = x[head * a.d_v + value], sum = 0;
        float *s = w.state + thread_id() % COLS;
        for (unsigned k = thread_id() / COLS; k < a.d_k; k += LANES_K) {
            s[k * COLS] = s[k * COLS] * decay + b[k] * (step * v);
            sum += c[k] * s[k * COLS];
        }
        sum = w.sum(sum);
        if (thread_id() < COLS)
            a.out[(size_t)row * n_inner + head * a.d_v + value] = sum + a.skip[head] * v;
    }
};

/* One thread a channel. */
struct conv_kernel {
    enum { THREADS = 128 };
    typedef sp_cuda_conv args;
    /* Input i of a span, or, before it, of its state. */
    SP_DEV float input(const args &a, const sp_cuda_pass &p, int i, unsigned c)
    {
        if (i >= 0)
            return a.x[(size_t)(p.row + (unsigned)i) * a.ld + c];
        if (!p.state)
            return 0;
        const float *before = reinterpret_cast<const float *>(p.state + a.state_at);
        return before[(size_t)(i + (int)a.n_tap - 1) * a.n_chan + c];
    }
    /* What tokens behind the first n see; `to` may be where the state came from. */
    SP_DEV void put(const args &a, const sp_cuda_pass &p, char *to, unsigned n, unsigned c)
    {
        float *out = reinterpret_cast<float *>(to + a.state_at) + c;
        for (unsigned j = 0; j + 1 < a.n_tap; j++)
            out[(size_t)j * a.n_chan] = input(a, p, (int)(n + j) - (int)a.n_tap + 1, c);
    }
    SP_DEV void run(const args &a)
    {
        const sp_cuda_pass p = a.pass[block_y()];
        const unsigned c = block_x() * THREADS + thread_id();
        if (c >= a.n_chan)
            return;
        for (unsigned t = 0; t < p.n; t++) {
            const size_t at = (size_t)(p.row + t) * a.ld + c;
            if (a.in_gate)
                a.x[at] *= a.in_gate[at];
            float sum = a.bias ? a.bias[c] : 0;
            for (unsigned j = 0; j < a.n_tap; j++)
                sum +=
                    a.w[(size_t)j * a.n_chan + c] * input(a, p, (int)(t + j) - (int)a.n_tap + 1, c);
            sum = a.is_silu ? sum / (1 + expf(-sum)) : sum;
            a.out[(size_t)(p.row + t) * a.n_chan + c] = a.out_gate ? sum * a.out_gate[at] : sum;
        }
        for (unsigned m = 0; m < p.n_mark; m++)
            put(a, p, a.mark[p.mark + m].state, a.mark[p.mark + m].n, c);
        put(a, p, p.next, p.n, c);
    }
};

/* A part of the state, sums of warps, and `more` floats. */
size_t shared_bytes(uint32_t d_k, uint32_t more)
{
    return (((size_t)d_k * COLS + WARPS * COLS + more) * sizeof(float) + 15) & ~(size_t)15;
}

} // namespace

extern "C" int sp_cuda_delta_run(const sp_cuda_delta *a)
{
    return launch<pass_kernel<delta_rule>>((size_t)a->n_head * (a->d_v / COLS), a->n_pass,
                                           shared_bytes(a->d_k, 2 * a->d_k + 2 * WARPS), *a);
}
extern "C" int sp_cuda_ssm_run(const sp_cuda_ssm *a)
{
    return launch<pass_kernel<ssm_rule>>((size_t)a->n_head * (a->d_v / COLS), a->n_pass,
                                         shared_bytes(a->d_k, 0), *a);
}
extern "C" int sp_cuda_conv_run(const sp_cuda_conv *a)
{
    return launch<conv_kernel>((a->n_chan + conv_kernel::THREADS - 1) / conv_kernel::THREADS,
                               a->n_pass, 0, *a);
}
