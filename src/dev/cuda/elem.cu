/* Operations on rows that no tensor core takes part in: norms, RoPE, gates, what goes into
 * products. */
#include "dev/cuda/row.h"

namespace
{

enum {
    ACT_NONE,
    ACT_SILU,
    ACT_GELU_TANH,
    ACT_GELU_ERF,
    ACT_RELU2,
    ACT_SIGMOID,
    ACT_CLAMPED
}; /* sp_act of kern.h */

SP_DEV float act_of(unsigned act, float x)
{
    switch (act) {
    case ACT_SILU: return x / (1 + expf(-x));
    case ACT_GELU_TANH: {
        float z = 0.7978845608f * (x + 0.044715f * x * x * x);
        return x / (1 + expf(-2 * z));
    }
    case ACT_GELU_ERF: return x * (1 + erff(x * 0.7071067812f)) * 0.5f;
    case ACT_RELU2: return x > 0 ? x * x : 0;
    case ACT_SIGMOID: return 1 / (1 + expf(-x));
    case ACT_CLAMPED: {
        float y = fminf(x, 7);
        return y / (1 + expf(-1.702f * y));
    }
    default: return x;
    }
}

SP_DEV float gated(unsigned act, float gate, float up)
{
    return act_of(act, gate) * (act == ACT_CLAMPED ? fminf(fmaxf(up, -7), 7) + 1 : up);
}

/* 1 / sqrt(mean of squares + eps) over x [n]; part: WARPS floats. */
enum { WARPS = 4, THREADS_ROW = 32 * WARPS };
SP_DEV float rms_of(const float *x, unsigned n, float eps, float *part)
{
    float sum = 0;
    for (unsigned i = thread_id(); i < n; i += THREADS_ROW)
        sum += x[i] * x[i];
    sum = block_sum(sum, part, WARPS);
    return 1 / sqrtf(sum / (float)n + eps);
}

struct prep_kernel {
    enum { THREADS = THREADS_ROW };
    typedef sp_cuda_prep args;
    SP_DEV float value(const args &a, const float *x, const float *up, float rms, unsigned i)
    {
        if (a.norm)
            return x[i] * rms * a.norm[i];
        return a.act ? (up ? gated(a.act, x[i], up[i]) : act_of(a.act, x[i])) : x[i];
    }
    /* A warp takes 128 elements, a lane four neighbours of them. The scale is a power of two, so
     * that it rounds nothing; the largest becomes 224 to 448. */
    SP_DEV void codes(const args &a, const float *x, const float *up, float rms)
    {
        const unsigned n_group = (a.n_row + 7) / 8, r = block_x() % 8;
        for (unsigned kb = warp_id(); kb < a.k_pad / SP_CUDA_FP8_K; kb += WARPS) {
            float v[4], top = 0, unit = 1;
            bool is_odd = false;
            for (unsigned i = 0; i < 4; i++) {
                unsigned k = kb * SP_CUDA_FP8_K + 4 * lane_id() + i;
                v[i] = k < a.k ? value(a, x, up, rms, k) : 0;
                is_odd |= !(fabsf(v[i]) < float_of(0x7f800000u));
                top = fmaxf(top, fabsf(v[i]));
            }
            top = warp_max(top);
            if (warp_vote(is_odd))
                unit = float_of(0x7fc00000u); /* all of the row's results are no numbers */
            else if (top > 0)
                unit = e4m3_unit(top);
            uint32_t four = 0;
            for (unsigned i = 0; i < 4; i++)
                four |= (uint32_t)f32_to_e4m3(v[i] * (1 / unit)) << 8 * i;
            size_t tile = (size_t)kb * n_group + block_x() / 8;
            *reinterpret_cast<uint32_t *>(a.codes + tile * 8 * SP_CUDA_FP8_K + r * SP_CUDA_FP8_K +
                                          ((lane_id() / 4 ^ r) << 4) + lane_id() % 4 * 4) = four;
            if (lane_id() == 0)
                a.unit[tile * 8 + r] = unit;
        }
    }
    SP_DEV void run(const args &a)
    {
        float *part = reinterpret_cast<float *>(block_mem());
        const float *x = a.x + (size_t)(a.row ? a.row[block_x()] : block_x()) * a.ld,
                    *up = a.up ? a.up + (size_t)block_x() * a.k : NULL;
        if (a.codes) {
            codes(a, x, up, a.norm ? rms_of(x, a.k, a.eps, part) : 0);
            return;
        }
        uint16_t *hi = a.hi + (size_t)block_x() * a.k_pad,
                 *lo = a.lo ? a.lo + (size_t)block_x() * a.k_pad : NULL;
        float rms = a.norm ? rms_of(x, a.k, a.eps, part) : 0, top = 0, unit = 1;
        if (!lo) {
            for (unsigned i = thread_id(); i < a.k; i += THREADS)
                top = fmaxf(top, fabsf(value(a, x, up, rms, i)));
            top = block_max(top, part + WARPS, WARPS);
            if (top > 0 && top < float_of(0x7f800000u)) { /* the largest becomes 2^14 to 2^15 */
                int e = (int)(bits_of(top) >> 23) - 127 - 14;
                unit = pow2(e < -126 ? -126 : e > 126 ? 126 : e);
            }
            if (thread_id() == 0)
                a.unit[block_x()] = unit;
        }
        for (unsigned i = thread_id(); i < a.k_pad; i += THREADS) {
            float v = i < a.k ? value(a, x, up, rms, i) : 0;
            if (lo) {
                hi[i] = f32_to_bf16(v);
                lo[i] = f32_to_bf16(v - bf16_to_f32(hi[i]));
            } else {
                hi[i] = f32_to_f16(v * (1 / unit));
            }
        }
    }
};

/* Norm with mean and bias, or, b NULL, RMS. May run in place. */
struct norm_kernel {
    enum { THREADS = THREADS_ROW };
    typedef sp_cuda_norm args;
    SP_DEV void run(const args &a)
    {
        float *part = reinterpret_cast<float *>(block_mem());
        const float *x = a.x + (size_t)block_x() * a.n;
        float *out = a.out + (size_t)block_x() * a.n, sum = 0, mean = 0;
        for (unsigned i = thread_id(); i < a.n && a.b; i += THREADS)
            sum += x[i];
        if (a.b)
            mean = block_sum(sum, part, WARPS) / (float)a.n;
        sum = 0;
        for (unsigned i = thread_id(); i < a.n; i += THREADS)
            sum += (x[i] - mean) * (x[i] - mean);
        float scale = 1 / sqrtf(block_sum(sum, part + WARPS, WARPS) / (float)a.n + a.eps);
        for (unsigned i = thread_id(); i < a.n; i += THREADS)
            out[i] = (x[i] - mean) * scale * a.w[i] + (a.b ? a.b[i] : 0);
    }
};

struct table_kernel {
    enum { THREADS = THREADS_ROW };
    typedef sp_cuda_table args;
    SP_DEV void run(const args &a)
    {
        float *cs = a.cs + (size_t)block_x() * 2 * a.half;
        for (unsigned i = thread_id(); i < a.half; i += THREADS) {
            float angle = (float)a.pos[block_x()] * a.freq[i];
            cs[i] = cosf(angle) * a.scale;
            cs[a.half + i] = (a.back ? -sinf(angle) : sinf(angle)) * a.scale;
        }
    }
};

/* One block a row: norm over heads or all of it, RoPE, norm, scale. */
struct heads_kernel {
    enum { THREADS = THREADS_ROW };
    typedef sp_cuda_heads args;
    SP_DEV void norm(const args &a, float *row, float *part)
    {
        unsigned n = a.whole ? a.n_head * a.d : a.d, over = a.n_norm ? a.n_norm : n;
        if (a.whole) {
            float rms = rms_of(row, n, a.eps, part);
            for (unsigned i = thread_id(); i < n; i += THREADS)
                row[i] = row[i] * rms * a.norm[i];
            return;
        }
        for (unsigned h = warp_id(); h < a.n_head; h += WARPS) {
            float *x = row + h * n, sum = 0;
            for (unsigned i = lane_id(); i < over; i += 32)
                sum += x[i] * x[i];
            float rms = 1 / sqrtf(warp_sum(sum) / (float)over + a.eps);
            for (unsigned i = lane_id(); i < over; i += 32)
                x[i] = x[i] * rms * a.norm[i];
        }
    }
    SP_DEV void turn(const args &a, float *row)
    {
        unsigned half = a.d_rot / 2;
        const float *cs = a.cs + (size_t)block_x() * a.d_rot;
        for (unsigned j = thread_id(); j < a.n_head * half; j += THREADS) {
            unsigned i = j % half;
            float *x = row + j / half * a.d + a.first, *p = x + (a.halves ? i : 2 * i),
                  *q = x + (a.halves ? i + half : 2 * i + 1);
            float u = *p, v = *q;
            *p = u * cs[i] - v * cs[half + i];
            *q = u * cs[half + i] + v * cs[i];
        }
    }
    SP_DEV void run(const args &a)
    {
        float *part = reinterpret_cast<float *>(block_mem()),
              *row = a.x + (size_t)block_x() * a.n_head * a.d;
        if (a.norm && !a.norm_last) {
            norm(a, row, part);
            block_sync();
        }
        if (a.cs)
            turn(a, row);
        block_sync();
        if (a.norm && a.norm_last) {
            norm(a, row, part);
            block_sync();
        }
        for (unsigned i = thread_id(); i < a.n_head * a.d && a.scale; i += THREADS)
            row[i] *= a.scale[block_x()];
    }
};

struct join_kernel {
    enum { THREADS = THREADS_ROW };
    typedef sp_cuda_join args;
    SP_DEV void run(const args &a)
    {
        float *part = reinterpret_cast<float *>(block_mem()), *x = a.x + (size_t)block_x() * a.n;
        const float *y = a.y + (size_t)block_x() * a.n;
        float rms = a.norm ? rms_of(y, a.n, a.eps, part) : 1;
        for (unsigned i = thread_id(); i < a.n; i += THREADS)
            x[i] += (a.norm ? y[i] * rms * a.norm[i] : y[i]) * a.scale;
    }
};

/* One warp a head. */
struct gate_kernel {
    enum { THREADS = THREADS_ROW };
    typedef sp_cuda_gate args;
    SP_DEV void run(const args &a)
    {
        const size_t row = block_x();
        for (unsigned h = warp_id(); h < a.n_head; h += WARPS) {
            const size_t at = (row * a.n_head + h) * a.d;
            float *x = a.x + at, sum = 0;
            const float *w = a.norm ? a.norm + (a.norm_last ? h * a.d : 0) : NULL;
            for (unsigned i = lane_id(); i < a.d; i += 32) {
                if (a.norm && a.norm_last)
                    x[i] *= act_of(a.act, a.is_row ? a.gate[row] : a.gate[at + i]);
                sum += x[i] * x[i];
            }
            float rms = a.norm ? 1 / sqrtf(warp_sum(sum) / (float)a.d + a.eps) : 1;
            for (unsigned i = lane_id(); i < a.d; i += 32) {
                float v = a.norm ? x[i] * rms * w[i] : x[i];
                x[i] = a.norm && a.norm_last
                           ? v
                           : v * act_of(a.act, a.is_row ? a.gate[row] : a.gate[at + i]);
            }
        }
    }
};

enum { EACH = 4 * THREADS_ROW };
struct vec_args {
    float *x;
    const float *y;
    size_t n;
    float scale, cap;
};
struct cap_kernel {
    enum { THREADS = THREADS_ROW };
    typedef vec_args args;
    SP_DEV void run(const args &a)
    {
        for (size_t i = (size_t)block_x() * EACH + thread_id();
             i < (size_t)(block_x() + 1) * EACH && i < a.n; i += THREADS)
            a.x[i] = a.cap > 0 ? a.cap * tanhf(a.x[i] * a.scale / a.cap) : a.x[i] * a.scale;
    }
};
struct add_kernel {
    enum { THREADS = THREADS_ROW };
    typedef vec_args args;
    SP_DEV void run(const args &a)
    {
        for (size_t i = (size_t)block_x() * EACH + thread_id();
             i < (size_t)(block_x() + 1) * EACH && i < a.n; i += THREADS)
            a.x[i] += a.y[i];
    }
};

struct halve_args {
    float *first, *second;
    const float *x;
    size_t n, d;
};
struct halve_kernel {
    enum { THREADS = THREADS_ROW };
    typedef halve_args args;
    SP_DEV void run(const args &a)
    {
        for (size_t i = (size_t)block_x() * EACH + thread_id();
             i < (size_t)(block_x() + 1) * EACH && i < a.n; i += THREADS) {
            size_t h = i / a.d, e = i % a.d;
            a.first[i] = a.x[h * 2 * a.d + e];
            a.second[i] = a.x[(h * 2 + 1) * a.d + e];
        }
    }
};

struct tail_kernel {
    enum { THREADS = THREADS_ROW };
    typedef sp_cuda_tail args;
    SP_DEV void run(const args &a)
    {
        for (size_t i = (size_t)block_x() * EACH + thread_id();
             i < (size_t)(block_x() + 1) * EACH && i < (size_t)a.n_row * a.n; i += THREADS)
            a.out[i / a.n * a.ld_out + i % a.n] = a.x[i / a.n * a.ld_x + i % a.n];
    }
};

/* Rows of a weight as f32, four elements a thread. */
template <class T> struct embed_kernel {
    enum { THREADS = THREADS_ROW };
    typedef sp_cuda_embed args;
    SP_DEV void run(const args &a)
    {
        const char *row =
            static_cast<const char *>(a.w.data) + (size_t)a.id[block_x()] * a.w.row_bytes;
        float *out = a.out + (size_t)block_x() * a.n;
        for (unsigned i = thread_id(); 4 * i < a.n; i += THREADS) {
            float v[4];
            T::get(v, row, a.w, (a.from + 4 * i) / 32, i + a.from / 4);
            for (unsigned e = 0; e < 4 && 4 * i + e < a.n; e++)
                out[4 * i + e] = v[e] * a.scale;
        }
    }
};

size_t blocks(size_t n)
{
    return (n + EACH - 1) / EACH;
}

enum { PART = 2 * WARPS * sizeof(float) };

} // namespace

extern "C" int sp_cuda_prep_run(const sp_cuda_prep *a)
{
    return launch<prep_kernel>(a->n_row, 1, PART, *a);
}
extern "C" int sp_cuda_norm_run(const sp_cuda_norm *a)
{
    return launch<norm_kernel>(a->n_row, 1, PART, *a);
}
extern "C" int sp_cuda_table_run(const sp_cuda_table *a)
{
    return launch<table_kernel>(a->n_row, 1, 0, *a);
}
extern "C" int sp_cuda_heads_run(const sp_cuda_heads *a)
{
    return launch<heads_kernel>(a->n_row, 1, PART, *a);
}
extern "C" int sp_cuda_join_run(const sp_cuda_join *a)
{
    return launch<join_kernel>(a->n_row, 1, PART, *a);
}
extern "C" int sp_cuda_gate_run(const sp_cuda_gate *a)
{
    return launch<gate_kernel>(a->n_row, 1, 0, *a);
}
extern "C" int sp_cuda_soft_cap_run(float *x, size_t n, float scale, float cap)
{
    return launch<cap_kernel>(blocks(n), 1, 0, {x, NULL, n, scale, cap});
}
extern "C" int sp_cuda_add_run(float *x, const float *y, size_t n)
{
    return launch<add_kernel>(blocks(n), 1, 0, {x, y, n, 0, 0});
}
extern "C" int sp_cuda_tail_run(const sp_cuda_tail *a)
{
    return launch<tail_kernel>(blocks((size_t)a->n_row * a->n), 1, 0, *a);
}
extern "C" int sp_cuda_halve_run(float *first, float *second, const float *x, size_t n_row,
                                 size_t n_head, size_t d)
{
    return launch<halve_kernel>(blocks(n_row * n_head * d), 1, 0,
                                {first, second, x, n_row * n_head * d, d});
}
extern "C" int sp_cuda_embed_run(const sp_cuda_embed *a)
{
    switch (a->w.type) {
    case SP_CUDA_F32: return launch<embed_kernel<row_f32>>(a->n_id, 1, 0, *a);
    case SP_CUDA_F16: return launch<embed_kernel<row_f16>>(a->n_id, 1, 0, *a);
    case SP_CUDA_BF16: return launch<embed_kernel<row_bf16>>(a->n_id, 1, 0, *a);
    case SP_CUDA_Q8_0: return launch<embed_kernel<row_q8_0>>(a->n_id, 1, 0, *a);
    case SP_CUDA_Q4_0: return launch<embed_kernel<row_q4_0>>(a->n_id, 1, 0, *a);
    case SP_CUDA_Q4_1: return launch<embed_kernel<row_q4_1>>(a->n_id, 1, 0, *a);
    case SP_CUDA_Q4_K: return launch<embed_kernel<row_q4_k>>(a->n_id, 1, 0, *a);
    case SP_CUDA_Q5_K: return launch<embed_kernel<row_q5_k>>(a->n_id, 1, 0, *a);
    case SP_CUDA_Q6_K: return launch<embed_kernel<row_q6_k>>(a->n_id, 1, 0, *a);
    case SP_CUDA_MXFP4: return launch<embed_kernel<row_mxfp4>>(a->n_id, 1, 0, *a);
    default: return 1;
    }
}
