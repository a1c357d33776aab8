/* Certified attention over quantised pages, written once for every ISA over the primitives of
 * gemm_tile.h and vec_tile.h and vf_pow2_up. Lanes are pages. x86/attn_vnni.c and
 * x86/attn_nibbles.h replace attn_scan and attn_rows, which use the queries as they are, by 8-bit
 * ones. */

#include "kern/scan_rank.h"

#define POW2_UP_MEAN 0.9609f /* 1 / what vf_pow2_up makes of a number on average */

static void attn_scan(const sp_scan *s, const float *q, const void *prep, const sp_planes *page,
                      size_t n_page, size_t n_q, size_t d)
{
    float kt[SP_MAX_HEAD * SP_PAGE_TOK];
    (void)prep;
    for (size_t g = 0; g < SP_PART_PAGES; g++) {
        for (size_t j = 0; g >= n_page && j < SP_PAGE_TOK; j++) {
            s->scale[j * SP_PART_PAGES + g] = 0;
            for (size_t t = 0; t < n_q; t++)
                s->raw[t * SP_PART_TOK + j * SP_PART_PAGES + g] = -__builtin_inff();
        }
        if (g >= n_page)
            continue;
        sp_planes hi = page[g];
        hi.k_lo = NULL;
        planes_keys(kt, &hi, d);
        for (size_t j = 0; j < SP_PAGE_TOK; j++)
            s->scale[j * SP_PART_PAGES + g] = sp_f16_to_f32(hi.k_scale[j]);
        for (size_t t = 0; t < n_q; t++) {
            for (size_t j = 0; j < SP_PAGE_TOK; j += VR) {
                float lane[VR];
                vf sum = vf_zero();
                for (size_t i = 0; i < d; i++)
                    sum = vf_fma1(vf_load(kt + i * SP_PAGE_TOK + j), q[t * d + i], sum);
                vf_put(lane, sum);
                for (size_t i = 0; i < VR; i++)
                    s->raw[t * SP_PART_TOK + (j + i) * SP_PART_PAGES + g] = lane[i];
            }
        }
    }
    scan_cap(s, n_page, n_q);
}

/* In nats, for the keys of one page: a score differs from est by x with |x| <= b = |q| scale err,
 * and the sum of (x / scale)^2 over the page is at most (|q| spec)^2. With a = 2^est and
 *     e^x <= 1 + x + f(b) (x / b)^2,   f(b) = e^b - 1 - b,
 * the sum of a e^x is at most
 *     (sum of a) + |q| spec (norm of a scale) + f(b max) (sum of a (scale / scale max)^2 y), where
 *     0 <= y <= 1 and the sum of y is at most few = (spec / err)^2; for f(b) / b^2 grows. So the
 *     last sum is at most its largest term and few - 1 times the next.
 *
 * A cap maps both est and the score by one function whose slope lies in [0, 1]: the capped score
 * differs from the capped est by x' of x's sign with |x'| <= |x|, so all of this holds of x'
 * too. */
static void attn_mass(const sp_scan *s, const float *norm, const sp_planes *page, size_t n_page,
                      size_t n_q)
{
    const float ln2 = 0.69314719f;
    float err[SP_PART_PAGES], spec[SP_PART_PAGES];
    for (size_t g = 0; g < SP_PART_PAGES; g++) {
        err[g] = g < n_page ? page[g].bound->err : 1;
        spec[g] = g < n_page ? page[g].bound->spec : 1;
    }
    for (size_t t = 0; t < n_q; t++) {
        const float *est = s->est + t * SP_PART_TOK;
        vf top[2] = {vf_set1(-__builtin_inff()), vf_set1(-__builtin_inff())},
           sum[2] = {vf_zero(), vf_zero()};
        for (size_t i = 0; i < SP_PART_TOK; i += 2 * VR) {
            top[0] = vf_max(top[0], vf_load(est + i));
            top[1] = vf_max(top[1], vf_load(est + i + VR));
        }
        s->max[t] = vf_hmax(vf_max(top[0], top[1]));
        for (size_t i = 0; i < SP_PART_TOK; i += 2 * VR) {
            sum[0] = vf_add(sum[0], vf_pow2_up(vf_load(est + i), s->max[t]));
            sum[1] = vf_add(sum[1], vf_pow2_up(vf_load(est + i + VR), s->max[t]));
        }
        s->sum[t] = POW2_UP_MEAN * vf_sum(vf_add(sum[0], sum[1]));
        for (size_t g = 0; g < SP_PART_PAGES; g += VR) {
            vf most = vf_set1(1e-15f), e = vf_load(err + g), r = vf_load(spec + g),
               one = vf_set1(1.0f);
            for (size_t j = 0; j < SP_PAGE_TOK; j++)
                most = vf_max(most, vf_load(s->scale + j * SP_PART_PAGES + g));
            vf b = vf_mul1(vf_mul(most, e), norm[t] * ln2), few = vf_div(r, e);
            vf f = vf_max(vf_sub(vf_exp2(vf_mul1(b, 1.442696f)), vf_add(b, one)), vf_zero());
            f = vf_add(f, vf_set1(1e-6f)); /* it cancels where b is small */
            vf_put(s->tail[t].lin + g, vf_mul1(r, norm[t] * ln2));
            vf_put(s->tail[t].quad + g, vf_div(f, vf_mul(most, most)));
            vf_put(s->tail[t].few + g, vf_max(vf_sub(vf_mul(few, few), one), vf_zero()));
        }
    }
}

INLINE void tail_of(float *left, float *plain, const sp_scan *s, const float *z, float cut,
                    uint32_t always, const size_t T)
{
    for (size_t g = 0; g < SP_PART_PAGES; g += VR) {
        vf sum[SP_FEW], square[SP_FEW], first[SP_FEW], second[SP_FEW];
        UNROLL
        for (size_t t = 0; t < T; t++)
            sum[t] = square[t] = first[t] = second[t] = vf_zero();
        for (size_t i = g; i < SP_PART_TOK; i += SP_PART_PAGES) {
            vf a[SP_FEW], scale = vf_load(s->scale + i), least = vf_set1(cut);
            vf rank = scan_rank(a, s, z, i, T);
            UNROLL
            for (size_t t = 0; t < T; t++) {
                vf x = vf_below(a[t], rank, least), as = vf_mul(x, scale), ass = vf_mul(as, scale);
                sum[t] = vf_add(sum[t], x);
                square[t] = vf_fma(as, as, square[t]);
                second[t] = vf_max(second[t], vf_min(first[t], ass));
                first[t] = vf_max(first[t], ass);
            }
        }
        float off[VR] = {0};
        for (size_t i = 0; i < VR; i++)
            off[i] = !(always >> (g + i) & 1);
        for (size_t t = 0; t < T; t++) {
            vf r = vf_fma(vf_load(s->tail[t].lin + g), vf_sqrt(square[t]), sum[t]);
            vf y = vf_fma(vf_load(s->tail[t].few + g), second[t], first[t]);
            /* quad may be infinite */
            r = vf_add(vf_below(vf_mul(vf_load(s->tail[t].quad + g), y), vf_zero(), y), r);
            /* the roundings of est and of these sums */
            left[t] += vf_sum(vf_mul(r, vf_load(off))) * SP_SPEC_UP;
            plain[t] += vf_sum(vf_mul(sum[t], vf_load(off))) * POW2_UP_MEAN;
        }
    }
}

static void attn_tail(float *left, float *plain, const sp_scan *s, const float *z, float cut,
                      uint32_t always, size_t n_q)
{
    for (size_t t = 0; t < n_q; t++) {
        left[t] = 0;
        plain[t] = 0;
    }
    switch (n_q) {
#define CASE(n) case n: tail_of(left, plain, s, z, cut, always, n); break
        CASE(1);
        CASE(2);
        CASE(3);
        CASE(4);
        CASE(5);
        CASE(6);
        CASE(7);
        CASE(8);
#undef CASE
    }
}

static size_t attn_pick(uint16_t *at, size_t *n_pair, const sp_scan *s, const float *z, float cut,
                        uint32_t always, size_t n_q)
{
    size_t n = 0;
    uint32_t pairs[SP_PART_PAGES] = {0};
    for (size_t i = 0; i < SP_PART_TOK; i += VR) {
        float rank[VR];
        vf a[SP_FEW];
        vf_put(rank, scan_rank(a, s, z, i, n_q));
        for (size_t e = 0; e < VR; e++) {
            size_t g = (i + e) % SP_PART_PAGES;
            bool keep = rank[e] >= cut || always >> g & 1;
            at[n] = (uint16_t)(i + e);
            n += keep;
            pairs[g] |= (uint32_t)keep << (i + e) / SP_PART_PAGES / 2;
        }
    }
    *n_pair = 0;
    for (size_t g = 0; g < SP_PART_PAGES; g++)
        *n_pair += (size_t)__builtin_popcount(pairs[g]);
    return n;
}

static void attn_rows(float *acc, float *max, float *sum, const sp_scan *s, const float *q,
                      const void *prep, const sp_planes *page, const uint16_t *at, size_t n,
                      size_t n_q, size_t d, void *scratch)
{
    float *kt = scratch, *v = kt + d * SP_PAGE_TOK;
    uint16_t some[SP_FEW];
    const sp_attn_see see = {.to = some, .cap = s->cap};
    (void)prep;
    memset(acc, 0, n_q * d * sizeof *acc);
    for (size_t t = 0; t < n_q; t++) {
        max[t] = -__builtin_inff();
        sum[t] = 0;
    }
    for (size_t from = 0; from < n; from += SP_PAGE_TOK) {
        size_t n_some = n - from < SP_PAGE_TOK ? n - from : SP_PAGE_TOK;
        memset(kt, 0, 2 * d * SP_PAGE_TOK * sizeof *kt);
        for (size_t t = 0; t < n_q; t++)
            some[t] = (uint16_t)n_some;
        for (size_t i = 0; i < n_some; i++) {
            const sp_planes *g = &page[at[from + i] % SP_PART_PAGES];
            size_t j = at[from + i] / SP_PART_PAGES;
            float scale = sp_f16_to_f32(g->k_scale[j]);
            for (size_t e = 0; e < d; e++) {
                sp_nibble key = sp_planes_key(g, e, j, d);
                unsigned code = ((unsigned)*key.hi >> key.shift & 15u) << 4 |
                                ((unsigned)*key.lo >> key.shift & 15u);
                kt[e * SP_PAGE_TOK + i] =
                    sp_f16_to_f32(g->k_mean[e]) + scale * ((float)code - 128.0f);
            }
            planes_value(v + i * d, g, j, d);
        }
        attn_page(acc, max, sum, q, kt, v, &see, n_q, d);
    }
}

static void scan_init(sp_kern *kern)
{
    kern->attn_scan = attn_scan;
    kern->attn_mass = attn_mass;
    kern->attn_tail = attn_tail;
    kern->attn_pick = attn_pick;
    kern->attn_rows = attn_rows;
}
