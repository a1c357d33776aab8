/* Certified attention for attn_nibbles.h, which includes it: queries of 8 bits over the hi planes
 * of all keys, then over the rows of those that are chosen. */

/* 8 rows of 8 floats, ld apart, to columns SP_PART_PAGES apart. */
static void turn_8(float *out, const float *in, size_t ld)
{
    vf a[8], b[8];
    UNROLL
    for (size_t i = 0; i < 8; i++)
        a[i] = vf_load(in + i * ld);
    UNROLL
    for (size_t i = 0; i < 8; i += 2) {
        b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]);
        b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
    }
    UNROLL
    for (size_t i = 0; i < 8; i += 4) {
        a[i] = _mm256_shuffle_ps(b[i], b[i + 2], 0x44);
        a[i + 1] = _mm256_shuffle_ps(b[i], b[i + 2], 0xee);
        a[i + 2] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0x44);
        a[i + 3] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0xee);
    }
    UNROLL
    for (size_t i = 0; i < 4; i++) {
        vf_put(out + i * SP_PART_PAGES, _mm256_permute2f128_ps(a[i], a[i + 4], 0x20));
        vf_put(out + (i + 4) * SP_PART_PAGES, _mm256_permute2f128_ps(a[i], a[i + 4], 0x31));
    }
}

/* Pages of keys [16][32] to elements. */
static void turn_part(float *out, const float *in)
{
    for (size_t j = 0; j < TOK; j += 8) {
        for (size_t g = 0; g < SP_PART_PAGES; g += 8)
            turn_8(out + j * SP_PART_PAGES + g, in + g * TOK + j, TOK);
    }
}

/* Scores of T queries from the hi plane of a page, est [T][16 pages][32]. */
INLINE void scan_page(float *est, const int8_t *prep, const laid *p, size_t d, const size_t T)
{
    float mean[MOST_T];
    for (size_t t = 0; t < T; t++)
        mean[t] = query_mean(floats_of(prep, t, d), p->mean, d);
    for (size_t h = 0; h < GROUPS; h++) {
        __m256i dot[MOST_T];
        vf ks = vf_load(p->ks + h * GROUP);
        dot_keys(dot, p->k + h * d * 16, prep, d, T, true, false);
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
    uint8_t keys[64 * SP_MAX_HEAD];
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
        p->v_scale[i] = _cvtsh_ss(g->v_scale[j]);
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
        __m256i dot[MOST_T];
        dot_keys(dot, l->k + h * d * 16, prep, d, T, false, true);
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
            if (s->cap > 0) { /* of what is not there a cap would make a number */
                vf none = _mm256_cmp_ps(raw, vf_set1(-__builtin_inff()), _CMP_EQ_OQ);
                y = _mm256_blendv_ps(vf_cap(y, s->cap), raw, none);
            }
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
        lay_values(l.v, 0, now->v_hi, d);
        lay_values(l.v, 1, now->v_lo, d);
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
