/* Keys and values into pages: rotated where pages are, as plain elements first; a page that is full
 * is quantised then. A block has one head of one page. Bytes are those that the CPU writes
 * (kern/ref/planes.c, kern/fp8.h), so that pages travel between devices: compiled without
 * contraction. */
#include "dev/cuda/rotate.h"

#include <float.h>

namespace
{

enum { WARPS = 4, TOK = 32, MAX_D = 576 /* of latents; others have 256 at most */, GRAM_STEPS = 3 };

struct shared_store {
    float row[WARPS][MAX_D]; /* then means */
    float part[WARPS][TOK], inv[TOK];
    float gram[2][TOK * TOK], trace[4];
    uint8_t low[MAX_D * TOK];
};

SP_DEV uint16_t f16_up(float x)
{
    uint16_t h = f32_to_f16(x);
    return f16_to_f32(h) < x ? (uint16_t)(h + 1) : h;
}

SP_DEV unsigned code_of(float x, float inv)
{
    float c = rintf(x * inv) + 128.0f;
    return (unsigned)fminf(fmaxf(c, 0), 255.0f);
}

/* The largest magnitude over dimensions of each token's x(i, j), in every thread: of token
 * lane_id(). */
template <class X> SP_DEV float top_of(shared_store *s, unsigned d, const X &x)
{
    float top = 0;
    for (unsigned i = warp_id(); i < d; i += WARPS)
        top = fmaxf(top, fabsf(x(i, lane_id())));
    s->part[warp_id()][lane_id()] = top;
    block_sync();
    for (unsigned w = 0; w < WARPS; w++)
        top = fmaxf(top, s->part[w][lane_id()]);
    block_sync();
    return top;
}

struct key_of {
    const uint16_t *kt;
    const float *mean;
    SP_DEV_MEMBER float operator()(unsigned i, unsigned j) const
    {
        return f16_to_f32(kt[i * TOK + j]) - (mean ? mean[i] : 0);
    }
};
struct value_of {
    const uint16_t *v;
    unsigned d;
    SP_DEV_MEMBER float operator()(unsigned i, unsigned j) const
    {
        return f16_to_f32(v[j * d + i]);
    }
};

SP_DEV void gram_of_low(shared_store *s, unsigned d)
{
    for (unsigned at = thread_id(); at < TOK * TOK; at += 32 * WARPS) {
        unsigned i = at / TOK, j = at % TOK;
        float acc = 0;
        for (unsigned k = 0; k < d; k++)
            acc = fmaf((float)s->low[k * TOK + j] - 7.5f, (float)s->low[k * TOK + i] - 7.5f, acc);
        s->gram[0][at] = acc;
    }
    block_sync();
}

/* See sp_spec_bound in kern/planes.h. */
SP_DEV void put_bound(float *bound, shared_store *s, unsigned d)
{
    gram_of_low(s, d);
    float rest = 0;
    for (unsigned j = 0; j < TOK; j++)
        rest = fmaxf(rest, s->gram[0][j * TOK + j]);
    for (unsigned step = 0; step < GRAM_STEPS; step++) {
        float *g = s->gram[step % 2], *to = s->gram[(step + 1) % 2], t = 0;
        for (unsigned i = 0; i < TOK; i++)
            t += g[i * TOK + i];
        block_sync();
        if (thread_id() == 0)
            s->trace[step] = t;
        for (unsigned at = thread_id(); at < TOK * TOK; at += 32 * WARPS)
            g[at] *= 1.0f / t;
        block_sync();
        for (unsigned at = thread_id(); at < TOK * TOK; at += 32 * WARPS) {
            float acc = 0;
            for (unsigned k = 0; k < TOK; k++)
                acc = fmaf(g[k * TOK + at % TOK], g[k * TOK + at / TOK], acc);
            to[at] = acc;
        }
        block_sync();
    }
    if (thread_id())
        return;
    double f = 0;
    for (unsigned i = 0; i < TOK * TOK; i++)
        f += (double)s->gram[GRAM_STEPS % 2][i] * (double)s->gram[GRAM_STEPS % 2][i];
    float l = (float)sqrt(f);
    for (unsigned step = GRAM_STEPS; step-- > 0;)
        l = s->trace[step] * sqrtf(l);
    bound[0] = sqrtf(rest) * 1.000001f;
    bound[1] = sqrtf(l) * 1.0005f;
}

/* alone: there are no values beside them. */
SP_DEV void put_keys(char *hi, char *lo, const uint16_t *kt, shared_store *s, unsigned d,
                     bool alone)
{
    float *mean = s->row[0];
    uint16_t *k_scale = reinterpret_cast<uint16_t *>(hi + (alone ? 16 : 32) * d),
             *k_mean = k_scale + (alone ? 1 : 2) * TOK;
    for (unsigned i = thread_id(); i < d; i += 32 * WARPS) {
        float sum[TOK];
        for (unsigned j = 0; j < TOK; j++)
            sum[j] = f16_to_f32(kt[i * TOK + j]);
        for (unsigned n = TOK / 2; n; n /= 2)
            for (unsigned j = 0; j < n; j++)
                sum[j] += sum[j + n];
        k_mean[i] = f32_to_f16(sum[0] / TOK);
        mean[i] = f16_to_f32(k_mean[i]);
    }
    block_sync();
    const key_of key = {kt, mean};
    float top = top_of(s, d, key);
    if (warp_id() == 0) {
        k_scale[lane_id()] = f16_up(top / 127.0f);
        float scale = f16_to_f32(k_scale[lane_id()]);
        s->inv[lane_id()] = scale > 0 ? 1.0f / scale : 0;
    }
    block_sync();
    for (unsigned at = thread_id(); at < d / 8 * TOK; at += 32 * WARPS) {
        unsigned g = at / TOK, j = at % TOK;
        uint32_t high = 0, low = 0;
        for (unsigned e = 0; e < 4; e++) {
            unsigned i = 4 * g + e, c = code_of(key(i, j), s->inv[j]),
                     b = code_of(key(i + d / 2, j), s->inv[j]);
            high |= (c >> 4 | (b & 0xf0)) << 8 * e;
            low |= ((c & 15) | (b & 15) << 4) << 8 * e;
            s->low[i * TOK + j] = c & 15;
            s->low[(i + d / 2) * TOK + j] = b & 15;
        }
        memcpy(hi + at * 4, &high, 4);
        if (lo)
            memcpy(lo + j * (alone ? d / 2 : d) + 4 * g, &low, 4);
    }
    block_sync();
    put_bound(reinterpret_cast<float *>(k_mean + d), s, d);
}

SP_DEV void put_values(char *hi, char *lo, const uint16_t *v, shared_store *s, unsigned d)
{
    uint8_t *v_hi = reinterpret_cast<uint8_t *>(hi + 16 * d);
    uint16_t *v_scale = reinterpret_cast<uint16_t *>(hi + 32 * d) + TOK;
    const value_of value = {v, d};
    float top = top_of(s, d, value);
    if (warp_id() == 0) {
        v_scale[lane_id()] = f16_up(top / 127.0f);
        float scale = f16_to_f32(v_scale[lane_id()]);
        s->inv[lane_id()] = scale > 0 ? 1.0f / scale : 0;
    }
    block_sync();
    for (unsigned at = thread_id(); at < d / 2 * TOK; at += 32 * WARPS) {
        unsigned b = at % (d / 2), j = at / (d / 2), c = code_of(value(b, j), s->inv[j]),
                 e = code_of(value(b + d / 2, j), s->inv[j]);
        v_hi[at] = (uint8_t)(c >> 4 | (e & 0xf0));
        if (lo)
            reinterpret_cast<uint8_t *>(lo)[j * d + d / 2 + b] =
                (uint8_t)((c & 15) | (e & 15) << 4);
    }
}

/* The power of two of the smallest exponent that brings `top` to 448 or less. */
SP_DEV float fp8_scale(float top)
{
    uint32_t u = bits_of(top / 448.0f) + 0x7fffffu;
    u &= 0x7f800000u;
    return top > 0 ? float_of(u < 0x1000000u ? 0x1000000u : u) : 1;
}

SP_DEV void put_fp8(char *hi, const uint16_t *kt, const uint16_t *v, shared_store *s, unsigned d)
{
    float *scale = reinterpret_cast<float *>(hi + 64 * d);
    const key_of key = {kt, NULL};
    const value_of value = {v, d};
    float ks = fp8_scale(warp_max(top_of(s, d, key))),
          vs = fp8_scale(warp_max(top_of(s, d, value)));
    for (unsigned at = thread_id(); at < d * TOK; at += 32 * WARPS) {
        hi[at] = (char)f32_to_e4m3(key(at % d, at / d) * (1 / ks));
        hi[d * TOK + at] = (char)f32_to_e4m3(value(at / TOK, at % TOK) * (1 / vs));
    }
    if (thread_id() < 16)
        scale[thread_id()] = thread_id() == 0 ? ks : thread_id() == 1 ? vs : 0;
}

struct store_kernel {
    enum { THREADS = 32 * WARPS };
    typedef sp_cuda_store args;
    SP_DEV void put_row(const args &a, char *plain, unsigned slot, const float *x, float *row,
                        bool is_key)
    {
        for (unsigned i = lane_id(); i < a.d; i += 32)
            row[i] = x[i];
        if (a.kind >= SP_CUDA_KV_Q8)
            rotate_row(row, a.d, false);
        for (unsigned i = lane_id(); i < a.d; i += 32) {
            unsigned at = is_key ? i * TOK + slot : a.d * TOK + slot * a.d + i;
            if (a.kind == SP_CUDA_KV_F32)
                reinterpret_cast<float *>(plain)[at] = row[i];
            else if (a.kind == SP_CUDA_KV_BF16)
                reinterpret_cast<uint16_t *>(plain)[at] = f32_to_bf16(row[i]);
            else
                reinterpret_cast<uint16_t *>(plain)[at] = f32_to_f16(row[i]);
        }
        warp_sync();
    }
    SP_DEV void run(const args &a)
    {
        shared_store *s = reinterpret_cast<shared_store *>(block_mem());
        const sp_cuda_store_item it = a.item[block_x()];
        const size_t head = block_y();
        char *plain = it.own + a.own_at + head * a.plain_bytes;
        for (unsigned t = warp_id(); t < it.n; t += WARPS) {
            size_t from = ((size_t)(it.row + t) * a.n_head + head) * a.d;
            put_row(a, plain, it.slot + t, a.k + from, s->row[warp_id()], true);
            if (a.v)
                put_row(a, plain, it.slot + t, a.v + from, s->row[warp_id()], false);
        }
        block_sync();
        if (!it.hi)
            return;
        char *hi = it.hi + a.hi_at + head * a.hi_bytes;
        char *lo = it.lo ? it.lo + a.lo_at + head * a.lo_bytes : NULL;
        const uint16_t *kt = reinterpret_cast<const uint16_t *>(plain), *v = kt + a.d * TOK;
        if (a.kind == SP_CUDA_KV_FP8) {
            put_fp8(hi, kt, v, s, a.d);
            return;
        }
        for (unsigned i = (a.v ? 34 * a.d + 136 : 18 * a.d + 72) + thread_id(); i < a.hi_bytes;
             i += THREADS)
            hi[i] = 0;
        put_keys(hi, lo, kt, s, a.d, !a.v);
        if (a.v)
            put_values(hi, lo, v, s, a.d);
    }
};

} // namespace

extern "C" int sp_cuda_store_run(const sp_cuda_store *a)
{
    return launch<store_kernel>(a->n_item, a->n_head, (sizeof(shared_store) + 15) / 16 * 16, *a);
}
