/* How a warp reads one head of a page as fragments of frag.h, for each format. With g = lane / 4
 * and t = lane % 4:
 *
 *   key(b, a, m)   of keys (columns g of tile a of four): KS steps of 16 dimensions from step KS m
 * on. Column g of tile a is token 8 (g / 2) + 2 a + g % 2, so that of the scores a lane has tokens
 * 8 t .. 8 t + 7. kdim(s, e)     the dimension that a lane's element e of step s is; -1: none (d is
 * less than a whole tile) val(b, m)      of values: VS tiles of 8 dimensions from tile VS m on;
 * b[i][2 u], b[i][2 u + 1] are tokens 8 t + 4 u + 0..3 vdim(n, g)     the dimension that column g
 * of tile n is; -1: none
 *
 * Both orders are such that lanes read whole words of a page, mostly side by side. */
#ifndef SP_DEV_CUDA_PAGES_H
#define SP_DEV_CUDA_PAGES_H

#include "dev/cuda/frag.h"

enum { PAGE_TOK = 32 };

SP_DEV unsigned token_of(unsigned a)
{
    unsigned g = lane_id() / 4;
    return 8 * (g / 2) + 2 * a + g % 2;
}

/* kern/planes.h. Codes are whole numbers that f16 holds; keys are scaled and their mean added where
 * scores are. */
struct page_q8 {
    enum { KS = 2, VS = 8, HAS_MEAN = 1 };
    const char *hi, *lo; /* lo NULL: demoted */
    unsigned d;

    SP_DEV void open(page_q8 &p, const sp_cuda_page &at, size_t hi_at, size_t lo_at, unsigned d)
    {
        p.hi = at.hi + hi_at;
        p.lo = at.lo ? at.lo + lo_at : NULL;
        p.d = d;
    }
    SP_DEV int kdim(unsigned s, unsigned e, unsigned d)
    {
        unsigned w = 4 * (s / 2) + lane_id() % 4;
        return w < d / 8 ? (int)(4 * w + e + s % 2 * (d / 2)) : -1;
    }
    SP_DEV int vdim(unsigned n, unsigned g, unsigned d)
    {
        unsigned w = 8 * (n / 8) + g;
        return w < d / 8 ? (int)(4 * w + n % 4 + n / 4 % 2 * (d / 2)) : -1;
    }
    /* Bytes 0..3 of nibbles h of both planes as f16, less 128. */
    SP_DEV void join(uint32_t out[2], const page_q8 &p, uint32_t hi, uint32_t lo, unsigned h)
    {
        uint32_t c = (hi >> 4 * h & 0x0f0f0f0fu) << 4 | (lo >> 4 * h & 0x0f0f0f0fu);
        for (unsigned i = 0; i < 2; i++, c >>= 16) {
            out[i] = codes_to_f16((c & 0xff) | (c & 0xff00) << 8, 0x64806480u);
            if (!p.lo)
                out[i] = f16_add2(out[i], 0x47804780u); /* 7.5 */
        }
    }
    SP_DEV void key(uint32_t b[KS][2], const page_q8 &p, unsigned a, unsigned m)
    {
        unsigned w = 4 * m + lane_id() % 4, j = token_of(a);
        for (unsigned h = 0; h < 2; h++)
            b[h][0] = b[h][1] = 0;
        if (w >= p.d / 8)
            return;
        uint32_t high = load_u32(p.hi + (w * PAGE_TOK + j) * 4),
                 low = p.lo ? load_u32(p.lo + j * p.d + 4 * w) : 0;
        for (unsigned h = 0; h < 2; h++)
            join(b[h], p, high, low, h);
    }
    SP_DEV void mean(uint32_t b[KS][2], const page_q8 &p, unsigned m)
    {
        for (unsigned h = 0; h < 2; h++) {
            int i = kdim(2 * m + h, 0, p.d);
            const char *at = p.hi + 32 * p.d + 4 * PAGE_TOK + 2 * (i < 0 ? 0 : i);
            b[h][0] = i < 0 ? 0 : load_u32(at);
            b[h][1] = i < 0 ? 0 : load_u32(at + 4);
        }
    }
    SP_DEV float key_scale(const page_q8 &p, unsigned j)
    {
        return f16_to_f32(reinterpret_cast<const uint16_t *>(p.hi + 32 * p.d)[j]);
    }
    SP_DEV float bound(const page_q8 &p, unsigned i) /* 0: err, 1: spec */
    {
        return reinterpret_cast<const float *>(p.hi + 34 * p.d + 4 * PAGE_TOK)[i];
    }
    SP_DEV void val(uint32_t b[VS][4], const page_q8 &p, unsigned m)
    {
        val_of(b, p, m, 0xffffffffu);
    }
    /* Only rows of tokens whose bit is set are read; the others are finite. */
    SP_DEV void val_of(uint32_t b[VS][4], const page_q8 &p, unsigned m, uint32_t kept)
    {
        unsigned w = 8 * m + lane_id() / 4, j0 = 8 * (lane_id() % 4);
        bool is_in = w < p.d / 8;
        for (unsigned i = 0; i < 4; i++) { /* pairs of tokens */
            uint32_t one[2][2][2],
                scale = load_u32(p.hi + 32 * p.d + 2 * PAGE_TOK + 2 * (j0 + 2 * i));
            for (unsigned k = 0; k < 2; k++) {
                unsigned j = j0 + 2 * i + k;
                bool reads = is_in && kept >> j & 1;
                uint32_t high = reads ? load_u32(p.hi + 16 * p.d + j * (p.d / 2) + 4 * w) : 0;
                uint32_t low = reads && p.lo ? load_u32(p.lo + j * p.d + p.d / 2 + 4 * w) : 0;
                for (unsigned h = 0; h < 2; h++)
                    join(one[k][h], p, high, low, h);
            }
            for (unsigned h = 0; h < 2; h++)
                for (unsigned e = 0; e < 4; e++) {
                    uint32_t x = one[0][h][e / 2] >> 16 * (e % 2) & 0xffff,
                             y = one[1][h][e / 2] >> 16 * (e % 2);
                    b[4 * h + e][i] = is_in ? f16_mul2(x | y << 16, scale) : 0;
                }
        }
    }
};

/* kern/fp8.h: a lane reads 16 bytes of a key, 8 of a dimension of values. */
struct page_fp8 {
    enum { KS = 4, VS = 1, HAS_MEAN = 0 };
    const char *at;
    unsigned d;

    SP_DEV void open(page_fp8 &p, const sp_cuda_page &at, size_t hi_at, size_t, unsigned d)
    {
        p.at = at.hi + hi_at;
        p.d = d;
    }
    SP_DEV int kdim(unsigned s, unsigned e, unsigned d)
    {
        unsigned i = 16 * (4 * (s / 4) + lane_id() % 4) + 4 * (s % 4) + e;
        return i < d ? (int)i : -1;
    }
    SP_DEV int vdim(unsigned n, unsigned g, unsigned d)
    {
        return 8 * n + g < d ? (int)(8 * n + g) : -1;
    }
    SP_DEV void key(uint32_t b[KS][2], const page_fp8 &p, unsigned a, unsigned m)
    {
        unsigned i = 16 * (4 * m + lane_id() % 4);
        uint32_t w[4] = {0, 0, 0, 0};
        if (i < p.d)
            load_16(w, p.at + token_of(a) * p.d + i);
        for (unsigned s = 0; s < 4; s++)
            e4m3_to_f16(b[s], w[s]);
    }
    SP_DEV void mean(uint32_t[KS][2], const page_fp8 &, unsigned)
    {
    }
    SP_DEV float key_scale(const page_fp8 &p, unsigned)
    {
        return reinterpret_cast<const float *>(p.at + 64 * p.d)[0];
    }
    SP_DEV void val(uint32_t b[VS][4], const page_fp8 &p, unsigned m)
    {
        int i = vdim(m, lane_id() / 4, p.d);
        uint32_t w[2] = {0, 0};
        if (i >= 0)
            load_8(w, p.at + 32 * p.d + i * PAGE_TOK + 8 * (lane_id() % 4));
        float scale = reinterpret_cast<const float *>(p.at + 64 * p.d)[1];
        uint32_t s = f16_pair(scale, scale); /* a power of two */
        for (unsigned u = 0; u < 2; u++) {
            e4m3_to_f16(b[0] + 2 * u, w[u]);
            b[0][2 * u] = f16_mul2(b[0][2 * u], s);
            b[0][2 * u + 1] = f16_mul2(b[0][2 * u + 1], s);
        }
    }
};

struct elem_f16 {
    SP_DEV uint32_t pair(const char *p, size_t i, size_t j)
    {
        const uint16_t *h = reinterpret_cast<const uint16_t *>(p);
        return (uint32_t)h[i] | (uint32_t)h[j] << 16;
    }
};
struct elem_bf16 { /* beyond f16's range they become infinite, and so does the answer */
    SP_DEV uint32_t pair(const char *p, size_t i, size_t j)
    {
        const uint16_t *b = reinterpret_cast<const uint16_t *>(p);
        return f16_pair(bf16_to_f32(b[i]), bf16_to_f32(b[j]));
    }
};
struct elem_f32 {
    SP_DEV uint32_t pair(const char *p, size_t i, size_t j)
    {
        const float *f = reinterpret_cast<const float *>(p);
        return f16_pair(f[i], f[j]);
    }
};

/* Plain elements, K^T [d, 32] and V [32, d], read in the order of dimensions of format F; tokens
 * from n_tok on are not there. */
template <class T, class F> struct page_plain {
    enum { KS = 1, VS = 1, HAS_MEAN = 0 };
    const char *at;
    unsigned d, n_tok;

    SP_DEV int kdim(unsigned s, unsigned e, unsigned d)
    {
        return F::kdim(s, e, d);
    }
    SP_DEV int vdim(unsigned n, unsigned g, unsigned d)
    {
        return F::vdim(n, g, d);
    }
    SP_DEV void key(uint32_t b[KS][2], const page_plain &p, unsigned a, unsigned m)
    {
        unsigned j = token_of(a);
        int i = kdim(m, 0, p.d); /* of four neighbours */
        b[0][0] = i < 0 ? 0 : T::pair(p.at, i * PAGE_TOK + j, (i + 1) * PAGE_TOK + j);
        b[0][1] = i < 0 ? 0 : T::pair(p.at, (i + 2) * PAGE_TOK + j, (i + 3) * PAGE_TOK + j);
    }
    SP_DEV void mean(uint32_t[KS][2], const page_plain &, unsigned)
    {
    }
    SP_DEV float key_scale(const page_plain &, unsigned)
    {
        return 1;
    }
    SP_DEV void val(uint32_t b[VS][4], const page_plain &p, unsigned m)
    {
        int i = vdim(m, lane_id() / 4, p.d);
        for (unsigned k = 0; k < 4; k++) {
            unsigned j = 8 * (lane_id() % 4) + 2 * k;
            size_t at = (size_t)PAGE_TOK * p.d + (size_t)j * p.d + (i < 0 ? 0 : i);
            b[0][k] = 0;
            if (i >= 0 &&
                j < p.n_tok) /* what lies behind may be anything, and 0 times a NaN is a NaN */
                b[0][k] =
                    j + 1 < p.n_tok ? T::pair(p.at, at, at + p.d) : T::pair(p.at, at, at) & 0xffff;
        }
    }
};

struct dims_plain {
    SP_DEV int kdim(unsigned s, unsigned e, unsigned d)
    {
        unsigned i = 16 * s + 4 * (lane_id() % 4) + e;
        return i < d ? (int)i : -1;
    }
    SP_DEV int vdim(unsigned n, unsigned g, unsigned d)
    {
        return 8 * n + g < d ? (int)(8 * n + g) : -1;
    }
};

/* Pages of plain pools. */
template <class T> struct page_of : page_plain<T, dims_plain> {
    SP_DEV void open(page_of &p, const sp_cuda_page &at, size_t hi_at, size_t, unsigned d)
    {
        p.at = at.hi + hi_at;
        p.d = d;
        p.n_tok = PAGE_TOK;
    }
};

#endif
