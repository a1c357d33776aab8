/* Attention over quantised pages with queries and weights of 8 bits, written once for levels whose
 * registers are short: sums are exact integers, and a query's result depends on nothing but the
 * query and the pages. A page is laid out once for all queries of a call, then up to four queries
 * at a time read it. Before it is included, the level's own code has included attn_query.h and
 * defined
 *
 *   KEYS_BYTES(d), VALUES_BYTES(d)  of a page that is laid out, in a form of the level's own
 *   lay_keys(to, hi, lo, d)         hi NULL: no hi plane; lo: rows of 32 tokens, NULL: no lo plane
 *   lay_values(to, hi, lo, d)       rows of 32 tokens; lo NULL: no lo plane
 *   dot_keys(dot, k, h, prep, d, T, has_hi, has_lo)  products of T queries with the codes of group
 *                                   h's tokens, 16 hi + lo, of the planes that are there
 *   add_values(acc, to, v, d, use, n_use, T, has_lo)  acc = acc * keep + sum * scale, of the n_use
 *                                   quarters of the tokens in use; NULL: all
 *   used(use, to, T)                which tokens 4 u to 4 u + 3 and 16 further weigh anything to
 *                                   any of T queries; how many
 *   weights_of(w)                   32 weights, vs [GROUPS] from 0 to 255, as bytes
 *   vf_none_below(x, n)             -INFINITY in the first n lanes
 *   vf_or_none(x, raw)              raw where that is -INFINITY, else x
 *   turn_part(out, in)              pages of keys [16][32] to elements
 *
 * Source: the arithmetic of x86/attn_vnni.c. */

static void attn_prep(void *prep, const float *q, size_t n_q, size_t d)
{
    for (size_t t = 0; t < n_q; t++) {
        int8_t *to = (int8_t *)prep + t * query_bytes(d);
        float *f = (float *)(void *)(to + d);
        const float *x = q + t * d;
        vf top = vf_zero();
        vs total = vs_zero();
        for (size_t i = 0; i < d; i += VR)
            top = vf_absmax(top, vf_load(x + i));
        float most = vf_hmax(top), inv = most > 0 ? 127.0f / most : 0;
        for (size_t i = 0; i < d; i += VR) {
            vs v = vs_round(vf_mul1(vf_load(x + i), inv));
            total = vs_add(total, v);
            vs_put8(to + i, v);
        }
        memcpy(f, x, d * sizeof *f);
        f[d] = most / 127.0f;
        f[d + 1] = (float)vs_sum(total);
    }
}

typedef struct laid {
    uint8_t *k, *v;
    float *mean;
    float ks[TOK], vs[TOK];
    bool has_lo;
} laid;

static laid laid_at(void *scratch, size_t d)
{
    uint8_t *p = scratch;
    return (laid){.k = p,
                  .v = p + KEYS_BYTES(d),
                  .mean = (float *)(void *)(p + KEYS_BYTES(d) + VALUES_BYTES(d))};
}

/* The keys' mean and scales. */
static void lay_scales(laid *p, const sp_planes *g, size_t d)
{
    for (size_t i = 0; i < d; i += VR)
        vf_put(p->mean + i, vf_half((const uint8_t *)(g->k_mean + i)));
    for (size_t j = 0; j < TOK; j += VR)
        vf_put(p->ks + j, vf_half((const uint8_t *)(g->k_scale + j)));
}

static void lay_page(laid *p, const sp_planes *g, size_t d)
{
    const uint8_t *v_hi[TOK], *k_lo[TOK], *v_lo[TOK];
    for (size_t j = 0; j < TOK; j++) {
        v_hi[j] = g->v_hi + j * (d / 2);
        k_lo[j] = g->k_lo ? g->k_lo + j * d : NULL;
        v_lo[j] = g->k_lo ? g->v_lo + j * d : NULL;
    }
    p->has_lo = g->k_lo != NULL;
    lay_keys(p->k, g->k_hi, p->has_lo ? k_lo : NULL, d);
    lay_values(p->v, v_hi, p->has_lo ? v_lo : NULL, d);
    lay_scales(p, g, d);
    for (size_t j = 0; j < TOK; j += VR)
        vf_put(p->vs + j, vf_half((const uint8_t *)(g->v_scale + j)));
}

/* --- T queries -------------------------------------------------------------------------------- */

/* Keys of lower score than `least` weigh nothing; their weights are added to *drop. */
typedef struct cutting {
    const float *least;
    float *drop;
} cutting;

/* Joins 32 scores to the state of query t; -INFINITY weighs nothing, and one is larger. */
INLINE void join(weights *out, float *max, float *sum, const vf s[GROUPS], const float *vs_,
                 const cutting *cut, size_t t)
{
    vf p[GROUPS], high = s[0], most = vf_zero(), lost = vf_zero();
    vs mass = vs_zero(), w[GROUPS];
    UNROLL
    for (size_t h = 1; h < GROUPS; h++)
        high = vf_max(high, s[h]);
    float here = vf_hmax(high);
    UNROLL
    for (size_t h = 0; h < GROUPS; h++) {
        p[h] = vf_exp2(vf_sub(s[h], vf_set1(here)));
        if (cut) {
            vf off = vf_below(p[h], s[h], vf_set1(cut->least[t]));
            lost = vf_add(lost, off);
            p[h] = vf_sub(p[h], off);
        }
        mass = vs_add(mass, vs_round(vf_mul1(p[h], MASS_UNIT)));
        p[h] = vf_mul(p[h], vf_load(vs_ + h * GROUP));
        most = vf_max(most, p[h]);
    }
    float largest = vf_hmax(most), inv = largest > 0 ? 255.0f / largest : 0;
    vs total = vs_zero();
    UNROLL
    for (size_t h = 0; h < GROUPS; h++) {
        w[h] = vs_round(vf_mul1(p[h], inv));
        total = vs_add(total, w[h]);
    }
    float top = *max > here ? *max : here, pair[VR] = {*max - top, here - top};
    vf_put(pair, vf_exp2(vf_load(pair))); /* 2^(old maximum - top), 2^(theirs - top) */
    *out = (weights){.w = weights_of(w),
                     .keep = pair[0],
                     .scale = largest * (1.0f / 255.0f) * pair[1],
                     .sum = vs_sum(total)};
    *max = top;
    if (cut)
        cut->drop[t] = __builtin_fmaf(vf_sum(lost), pair[1], cut->drop[t] * pair[0]);
    *sum = __builtin_fmaf((float)vs_sum(mass) * (1.0f / MASS_UNIT), pair[1], *sum * pair[0]);
}

INLINE float query_mean(const float *f, const float *mean, size_t d)
{
    vf part = vf_zero();
    for (size_t i = 0; i < d; i += VR)
        part = vf_fma(vf_load(f + i), vf_load(mean + i), part);
    return vf_sum(part);
}

/* What T queries make of the mean of a page's keys. */
INLINE void query_means(float mean[MOST_T], const int8_t *prep, const laid *p, size_t d,
                        const size_t T)
{
    for (size_t t = 0; t < T; t++)
        mean[t] = query_mean(floats_of(prep, t, d), p->mean, d);
}

/* T queries over one page. Keys before `from`, at most 31, are not seen. Returns how many quarters
 * of the values were read. */
INLINE size_t page_of(float *acc, float *max, float *sum, const cutting *cut, const int8_t *prep,
                      const laid *p, size_t d, size_t from, float cap, const size_t T,
                      const bool has_lo)
{
    vf s[MOST_T][GROUPS];
    weights to[MOST_T];
    float mean[MOST_T];
    query_means(mean, prep, p, d, T);
    for (size_t h = 0; h < GROUPS; h++) {
        vs dot[MOST_T];
        vf ks = vf_load(p->ks + h * GROUP);
        dot_keys(dot, p->k, h, prep, d, T, true, has_lo);
        UNROLL
        for (size_t t = 0; t < T; t++) {
            const float *f = floats_of(prep, t, d);
            vf x = vf_cvt(vs_addi(dot[t], -128 * (int)f[d + 1]));
            if (!has_lo)
                x = vf_add(x, vf_set1(f[d + 1] * LO_MEAN));
            x = vf_fma(vf_mul(x, ks), vf_set1(f[d]), vf_set1(mean[t]));
            if (cap > 0)
                x = vf_cap(x, cap);
            if (from > h * GROUP)
                x = vf_none_below(x, from - h * GROUP);
            s[t][h] = x;
        }
    }
    UNROLL
    for (size_t t = 0; t < T; t++)
        join(&to[t], &max[t], &sum[t], s[t], p->vs, cut, t);
    uint8_t use[4];
    size_t n_use = cut ? used(use, to, T) : 4;
    add_values(acc, to, p->v, d, cut ? use : NULL, n_use, T, has_lo);
    return n_use;
}

#define PAGE_OF(cut, T)                                                      \
    (p->has_lo ? page_of(acc, max, sum, cut, prep, p, d, from, cap, T, true) \
               : page_of(acc, max, sum, cut, prep, p, d, from, cap, T, false))

static __attribute__((noinline)) size_t page_cut(float *acc, float *max, float *sum,
                                                 const cutting *cut, const int8_t *prep,
                                                 const laid *p, size_t d, size_t n, size_t from,
                                                 float cap)
{
    return n == 4   ? PAGE_OF(cut, 4)
           : n == 3 ? PAGE_OF(cut, 3)
           : n == 2 ? PAGE_OF(cut, 2)
                    : PAGE_OF(cut, 1);
}

static __attribute__((noinline)) size_t page_whole(float *acc, float *max, float *sum,
                                                   const int8_t *prep, const laid *p, size_t d,
                                                   size_t n, size_t from, float cap)
{
    return n == 4   ? PAGE_OF(NULL, 4)
           : n == 3 ? PAGE_OF(NULL, 3)
           : n == 2 ? PAGE_OF(NULL, 2)
                    : PAGE_OF(NULL, 1);
}

/* --- pages ------------------------------------------------------------------------------------ */

/* Pages lie far apart, and each is too short for the hardware to see a stream: ask for it early. */
static void fetch(const void *p, size_t n)
{
    for (size_t at = 0; at < n; at += 64)
        PREFETCH((const char *)p + at);
}

/* What a scan reads: the hi plane of keys, and all that is small. */
static void fetch_keys(const sp_planes *g, size_t d)
{
    fetch(g->k_hi, 16 * d);
    fetch(g->k_scale, sp_planes_hi_used(d) - 32 * d);
}

static void fetch_page(const sp_planes *g, size_t d)
{
    fetch(g->k_hi, sp_planes_hi_bytes(d));
    if (g->k_lo)
        fetch(g->k_lo, sp_planes_lo_bytes(d));
}

/* All queries over a page that is laid out. */
static void each_query(float *acc, float *max, float *sum, const sp_attn_pages *a, const laid *p,
                       size_t g)
{
    const size_t d = a->d, n_q = a->n_q;
    sp_cut *cut = n_q > SP_FEW ? a->cut : NULL;
    bool is_whole = true;
    size_t n_quad = (n_q + 15) / 16 * (TOK / 4), n_seen = 0, n_used = 0;
    for (size_t t = 0; a->see.from && t < n_q; t++)
        is_whole &= a->see.from[t] <= g * TOK;
    for (size_t t = 0, n; t < n_q; t += n) {
        const int8_t *q = (const int8_t *)a->prep + t * query_bytes(d);
        size_t from = is_whole || a->see.from[t] <= g * TOK ? 0 : a->see.from[t] - g * TOK;
        n = !is_whole ? 1 : n_q - t < MOST_T ? n_q - t : MOST_T;
        if (from >= TOK)
            continue;
        if (!cut) {
            page_whole(acc + t * d, max + t, sum + t, q, p, d, n, from, a->see.cap);
            continue;
        }
        const cutting by = {cut->least + t, cut->drop + t};
        n_seen += 4;
        n_used += page_cut(acc + t * d, max + t, sum + t, &by, q, p, d, n, from, a->see.cap);
    }
    if (cut) { /* in the unit of sp_cut */
        cut->n_quad += n_quad;
        cut->n_used += n_seen ? (n_quad * n_used + n_seen - 1) / n_seen : 0;
    }
}

static void attn_planes(float *acc, float *max, float *sum, const sp_attn_pages *a)
{
    const size_t d = a->d;
    laid p = laid_at(a->scratch, d);
    memset(acc, 0, a->n_q * d * sizeof *acc);
    for (size_t t = 0; t < a->n_q; t++) {
        max[t] = -__builtin_inff();
        sum[t] = 0;
        if (a->cut)
            a->cut->drop[t] = 0;
    }
    for (size_t g = 0; g < a->n_page && g < AHEAD; g++)
        fetch_page(&a->page[g], d);
    for (size_t g = 0; g < a->n_page; g++) {
        if (g + AHEAD < a->n_page)
            fetch_page(&a->page[g + AHEAD], d);
        lay_page(&p, &a->page[g], d);
        each_query(acc, max, sum, a, &p, g);
    }
}

/* --- certified attention: hi planes of all keys, then rows of those that are chosen ----------- */

/* Scores of T queries from the hi plane of a page, est [T][16 pages][32]. */
INLINE void scan_page(float *est, const int8_t *prep, const laid *p, size_t d, const size_t T)
{
    float mean[MOST_T];
    query_means(mean, prep, p, d, T);
    for (size_t h = 0; h < GROUPS; h++) {
        vs dot[MOST_T];
        vf ks = vf_load(p->ks + h * GROUP);
        dot_keys(dot, p->k, h, prep, d, T, true, false);
        UNROLL
        for (size_t t = 0; t < T; t++) {
            const float *f = floats_of(prep, t, d);
            vf x = vf_add(vf_cvt(dot[t]), vf_set1(f[d + 1] * (LO_MEAN - 128.0f)));
            x = vf_fma(x, vf_mul1(ks, f[d]), vf_set1(mean[t]));
            vf_put(est + t * SP_PART_TOK + h * GROUP, x);
        }
    }
}

static void attn_scan(const sp_scan *s, const float *q, const void *prep, const sp_planes *page,
                      size_t n_page, size_t n_q, size_t d)
{
    float est[(SP_FEW + 1) * SP_PART_TOK], *scale = est + n_q * SP_PART_TOK;
    uint8_t keys[KEYS_BYTES(SP_MAX_HEAD)];
    float mean[SP_MAX_HEAD];
    laid p = {.k = keys, .mean = mean};
    (void)q;
    for (size_t g = 0; g < n_page && g < SCAN_AHEAD; g++)
        fetch_keys(&page[g], d);
    for (size_t g = 0; g < n_page; g++) {
        const sp_planes *now = &page[g];
        if (g + SCAN_AHEAD < n_page)
            fetch_keys(&now[SCAN_AHEAD], d);
        lay_keys(keys, now->k_hi, NULL, d);
        lay_scales(&p, now, d);
        memcpy(scale + g * TOK, p.ks, sizeof p.ks);
        for (size_t t = 0; t < n_q; t += MOST_T) {
            const int8_t *of = (const int8_t *)prep + t * query_bytes(d);
            float *to = est + t * SP_PART_TOK + g * TOK;
            switch (n_q - t) {
            case 1: scan_page(to, of, &p, d, 1); break;
            case 2: scan_page(to, of, &p, d, 2); break;
            case 3: scan_page(to, of, &p, d, 3); break;
            default: scan_page(to, of, &p, d, 4); break;
            }
        }
    }
    for (size_t t = 0; t <= n_q; t++) {
        for (size_t i = n_page * TOK; i < SP_PART_TOK; i++)
            est[t * SP_PART_TOK + i] = t < n_q ? -__builtin_inff() : 0;
        turn_part(t < n_q ? s->raw + t * SP_PART_TOK : s->scale, est + t * SP_PART_TOK);
    }
    scan_cap(s, n_page, n_q);
}

/* 32 keys of a part, wherever they lie. */
typedef struct pick {
    const uint8_t *k_lo[TOK], *v_hi[TOK], *v_lo[TOK];
    float v_scale[TOK];
    size_t n;
} pick;

/* Looks up n keys and asks for their rows; the rest of 32 repeats the last one. */
static void pick_32(pick *p, const sp_planes *page, const uint16_t *at, size_t n, size_t d)
{
    p->n = n;
    for (size_t i = 0; i < TOK; i++) {
        size_t e = at[i < n ? i : n - 1], j = e / SP_PART_PAGES;
        const sp_planes *g = &page[e % SP_PART_PAGES];
        p->k_lo[i] = g->k_lo + j * d;
        p->v_lo[i] = g->v_lo + j * d;
        p->v_hi[i] = g->v_hi + j * (d / 2);
        p->v_scale[i] = sp_f16_to_f32(g->v_scale[j]);
        fetch(p->k_lo[i], d);
        fetch(p->v_hi[i], d / 2);
    }
}

/* The lo planes of 32 keys complete the scores of T queries. */
INLINE void rows_32(float *acc, float *max, float *sum, const float *est, const sp_scan *s,
                    const int8_t *prep, const pick *p, const laid *l, const uint16_t *at, size_t d,
                    const size_t T)
{
    vf x[MOST_T][GROUPS];
    weights to[MOST_T];
    float scale[TOK] = {0}, score[TOK];
    for (size_t i = 0; i < p->n; i++)
        scale[i] = s->scale[at[i]];
    for (size_t h = 0; h < GROUPS; h++) {
        vs dot[MOST_T];
        dot_keys(dot, l->k, h, prep, d, T, false, true);
        UNROLL
        for (size_t t = 0; t < T; t++)
            x[t][h] = vf_cvt(dot[t]);
    }
    UNROLL
    for (size_t t = 0; t < T; t++) {
        const float *f = floats_of(prep, t, d);
        for (size_t i = 0; i < TOK; i++)
            score[i] = i < p->n ? est[t * SP_PART_TOK + at[i]] : -__builtin_inff();
        UNROLL
        for (size_t h = 0; h < GROUPS; h++) {
            vf y = vf_sub(x[t][h], vf_set1(f[d + 1] * LO_MEAN)), raw = vf_load(score + h * GROUP);
            y = vf_fma(y, vf_mul1(vf_load(scale + h * GROUP), f[d]), raw);
            if (s->cap > 0) /* of what is not there a cap would make a number */
                y = vf_or_none(vf_cap(y, s->cap), raw);
            x[t][h] = y;
        }
        join(&to[t], &max[t], &sum[t], x[t], p->v_scale, NULL, t);
    }
    add_values(acc, to, l->v, d, NULL, 4, T, true);
}

static void attn_rows(float *acc, float *max, float *sum, const sp_scan *s, const float *q,
                      const void *prep, const sp_planes *page, const uint16_t *at, size_t n,
                      size_t n_q, size_t d, void *scratch)
{
    pick p[2];
    laid l = laid_at(scratch, d);
    (void)q;
    memset(acc, 0, n_q * d * sizeof *acc);
    for (size_t t = 0; t < n_q; t++) {
        max[t] = -__builtin_inff();
        sum[t] = 0;
    }
    if (n)
        pick_32(&p[0], page, at, n < TOK ? n : TOK, d);
    for (size_t from = 0, i = 0; from < n; from += TOK, i++) {
        size_t next = from + TOK;
        const pick *now = &p[i % 2];
        if (next < n)
            pick_32(&p[(i + 1) % 2], page, at + next, n - next < TOK ? n - next : TOK, d);
        lay_keys(l.k, NULL, now->k_lo, d);
        lay_values(l.v, now->v_hi, now->v_lo, d);
        for (size_t t = 0; t < n_q; t += MOST_T) {
            const int8_t *of = (const int8_t *)prep + t * query_bytes(d);
            const float *est = s->raw + t * SP_PART_TOK;
            float *o = acc + t * d;
            switch (n_q - t) {
            case 1: rows_32(o, max + t, sum + t, est, s, of, now, &l, at + from, d, 1); break;
            case 2: rows_32(o, max + t, sum + t, est, s, of, now, &l, at + from, d, 2); break;
            case 3: rows_32(o, max + t, sum + t, est, s, of, now, &l, at + from, d, 3); break;
            default: rows_32(o, max + t, sum + t, est, s, of, now, &l, at + from, d, 4); break;
            }
        }
    }
}

static void attn_init(sp_kern *k)
{
    k->attn_prep = attn_prep;
    k->attn_planes = attn_planes;
    k->attn_scan = attn_scan;
    k->attn_rows = attn_rows;
}
