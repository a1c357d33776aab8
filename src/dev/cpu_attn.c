/* KV pages and attention on the CPU.
 *
 * A query sees its own page as plain elements (the open page, f16 or f32) and every earlier page in
 * the format of the pool, wherever chunks of a prompt begin and end: so neither chunking nor
 * batching changes a bit. Earlier pages are taken in fixed parts of SP_PART_PAGES, each from an
 * empty state, and joined in order; few queries over a long sequence are split over threads by
 * these parts, many queries are not, and both give the same bits.
 *
 * With a window a tile begins at the page its first query sees first. Its later queries may see
 * less of that page and the next; a part that a query sees nothing of leaves its state to the bit,
 * so again it does not matter which queries share a tile. With a window or sinks all parts join a
 * state that holds the sink alone; without, the first part is that state. */
#include "dev/cpu_attn.h"

#include <math.h>
#include <string.h>

enum {
    SPLIT_BELOW = 4 /* tiles a thread, if all were as large as the largest */,
    ALONE = 256 /* rows to load or join that wake nobody */
};

#define BOLD 16.0f /* shares of eps that a key may weigh and be left out: most weigh far less */

static size_t round64(size_t n)
{
    return (n + 63) & ~(size_t)63;
}

/* Lays the parts of a tile_mem out in p; with p NULL, says how many bytes that takes. */
size_t cpu_tile_mem_at(tile_mem *m, char *p, size_t n_q, size_t d)
{
    const size_t state = round64(n_q * sizeof(float)), rows = round64(n_q * d * sizeof(float));
    const struct { void *at; size_t n; } part[] = {
        {&m->q, rows}, {&m->acc, rows}, {&m->p_acc, rows}, {&m->max, state}, {&m->sum, state},
        {&m->p_max, state},
        {&m->p_sum, state}, {&m->least, state}, {&m->drop, state}, {&m->lost, state},
        {&m->page, 2 * d * SP_PAGE_TOK * sizeof(float)},
        {&m->prep, round64(sp_attn_prep_bytes(n_q, d))},
        {&m->scratch, round64(sp_attn_scratch_bytes(n_q, d))},
        {&m->from, round64(n_q * sizeof(uint16_t))}, {&m->to, round64(n_q * sizeof(uint16_t))}};
    size_t at = 0;
    for (size_t i = 0; i < sizeof part / sizeof part[0]; i++) {
        char *here = p ? p + at : NULL;
        memcpy(part[i].at, &here, sizeof here);
        at += part[i].n;
    }
    return at;
}

/* One head of a page in plain elements: K^T [d, 32], then V [32, d]. In a quantised pool the last
 * page written to is the sequence's open page, earlier ones of this call are in scratch. */
static char *plain_head(const attn_job *j, const sp_dev_span *s, size_t own, size_t i_page,
                        size_t head)
{
    const sp_dev_kv_view *kv = j->a->kv;
    if (!cpu_has_open(kv))
        return (char *)s->page[i_page] + kv->layer_at + head * kv->head_bytes;
    if (i_page == last_page(s))
        return (char *)s->open + kv->open_at + head * kv->open_bytes;
    return j->c->own[j->a->kept] +
           ((own + i_page - first_page(s)) * kv->n_head + head) * kv->open_bytes;
}

sp_planes cpu_planes_head(const sp_dev_kv_view *kv, const sp_dev_span *s, size_t i_page,
                          size_t head)
{
    char *hi = s->page[i_page], *lo = s->lo[i_page];
    hi += kv->layer_at + head * kv->head_bytes;
    lo = lo ? lo + kv->lo_at + head * kv->lo_bytes : NULL;
    return kv->n_latent ? sp_planes_keys_at(hi, lo, kv->d) : sp_planes_at(hi, lo, kv->d);
}

void cpu_store_token(const cpu_dev *c, const sp_dev_kv_view *kv, char *head, size_t slot,
                     const float *k, const float *v)
{
    size_t d = kv->d;
    sp_f16 kh[SP_MAX_HEAD];
    if (kv->type == SP_F32) {
        float *f = (float *)(void *)head;
        for (size_t e = 0; e < d; e++)
            f[e * SP_PAGE_TOK + slot] = k[e];
        if (v)
            memcpy(f + d * SP_PAGE_TOK + slot * d, v, d * sizeof *f);
        return;
    }
    if (kv->type == SP_BF16) {
        uint16_t *b = (uint16_t *)(void *)head;
        for (size_t e = 0; e < d; e++)
            b[e * SP_PAGE_TOK + slot] = sp_bf16_from_f32(k[e]);
        for (size_t e = 0; v && e < d; e++)
            b[(SP_PAGE_TOK + slot) * d + e] = sp_bf16_from_f32(v[e]);
        return;
    }
    sp_f16 *h = (sp_f16 *)(void *)head;
    for (size_t e = 0; e < d; e += SP_MAX_HEAD) {
        size_t n = d - e < SP_MAX_HEAD ? d - e : SP_MAX_HEAD;
        c->kern.narrow_f16(kh, k + e, n);
        for (size_t i = 0; i < n; i++)
            h[(e + i) * SP_PAGE_TOK + slot] = kh[i];
    }
    if (v)
        c->kern.narrow_f16(h + d * SP_PAGE_TOK + slot * d, v, d);
}

void cpu_fill_page(const cpu_dev *c, const sp_dev_kv_view *kv, const sp_dev_span *s, size_t i_page,
                   size_t head, const char *plain)
{
    const sp_f16 *kt = (const sp_f16 *)(const void *)plain;
    if (kv->is_fp8) {
        char *out = (char *)s->page[i_page] + kv->layer_at + head * kv->head_bytes;
        sp_fp8_put(out, kt, kt + kv->d * SP_PAGE_TOK, kv->d);
        return;
    }
    const sp_planes out = cpu_planes_head(kv, s, i_page, head);
    c->kern.planes_put(&out, kt, kv->n_latent ? NULL : kt + kv->d * SP_PAGE_TOK, kv->d);
}

static void store_token(const attn_job *j, char *head, size_t slot, const float *k, const float *v)
{
    float kr[SP_MAX_KEY], vr[SP_MAX_HEAD];
    size_t d = j->a->kv->d;
    if (cpu_has_open(j->a->kv)) {
        j->c->kern.rotate(kr, k, 1, d, false);
        if (v)
            j->c->kern.rotate(vr, v, 1, d, false);
        k = kr;
        v = v ? vr : NULL;
    }
    cpu_store_token(j->c, j->a->kv, head, slot, k, v);
}

/* Items are (span, page written to, KV head). */
static void write_part(void *arg, size_t begin, size_t end, size_t i_thread)
{
    const attn_job *j = arg;
    const sp_dev_kv_view *kv = j->a->kv;
    size_t first = 0, own = 0;
    (void)i_thread;
    for (const sp_dev_span *s = j->a->span; s < j->a->span + j->a->n_span && first < end; s++) {
        size_t n_page = last_page(s) - first_page(s) + 1, n_item = n_page * kv->n_head;
        for (size_t i = begin > first ? begin - first : 0; i < n_item && first + i < end; i++) {
            size_t i_page = first_page(s) + i / kv->n_head, head = i % kv->n_head,
                   stop = (i_page + 1) * SP_PAGE_TOK;
            size_t from = i_page == first_page(s) ? s->pos : i_page * SP_PAGE_TOK;
            size_t to = stop < s->pos + s->n ? stop : s->pos + s->n;
            char *plain = plain_head(j, s, own, i_page, head);
            for (size_t at = from; at < to; at++) {
                size_t row = ((s->row + at - s->pos) * kv->n_head + head) * kv->d;
                store_token(j, plain, at % SP_PAGE_TOK, j->a->k + row,
                            kv->n_latent ? NULL : j->a->v + row);
            }
            if (cpu_has_open(kv) && to == stop)
                cpu_fill_page(j->c, kv, s, i_page, head, plain);
        }
        first += n_item;
        own += n_page - 1;
    }
}

/* Makes room for plain pages of this layer that are not the open one, and starts each span's first
 * with what its open page holds. */
static sp_err open_pages(const attn_job *j)
{
    const sp_dev_kv_view *kv = j->a->kv;
    size_t n_own = 0, layer_bytes = kv->n_head * kv->open_bytes;
    for (size_t i = 0; i < j->a->n_span; i++)
        n_own += last_page(&j->a->span[i]) - first_page(&j->a->span[i]);
    void *p = j->c->own[j->a->kept];
    sp_err err = cpu_grow(&p, &j->c->own_bytes[j->a->kept], n_own * layer_bytes);
    j->c->own[j->a->kept] = p;
    SP_TRY(err);
    n_own = 0;
    for (const sp_dev_span *s = j->a->span; s < j->a->span + j->a->n_span; s++) {
        if (s->pos % SP_PAGE_TOK && last_page(s) > first_page(s))
            memcpy((char *)p + n_own * layer_bytes, (const char *)s->open + kv->open_at,
                   layer_bytes);
        n_own += last_page(s) - first_page(s);
    }
    return SP_OK;
}

static size_t query_count(const attn_job *j, const tile *t)
{
    return t->n_tok * (j->a->n_q_head / j->a->kv->n_head);
}

/* Query i of a tile: head by head, so that those side by side in a register attend alike. */
static size_t query_row(const attn_job *j, const tile *t, size_t i)
{
    size_t group = j->a->n_q_head / j->a->kv->n_head;
    return (t->span->row + t->tok + i % t->n_tok) * j->a->n_q_head + t->head * group + i / t->n_tok;
}

/* The tile's queries, scaled to bits, rotated where pages are. */
void cpu_load_queries(const attn_job *j, const tile *t, tile_mem *m)
{
    size_t d = j->a->kv->d, n_q = query_count(j, t);
    float scale = j->a->scale * 1.44269504f; /* log2(e) */
    for (size_t i = 0; i < n_q; i++) {
        const float *src = j->a->q + query_row(j, t, i) * d;
        if (cpu_has_open(j->a->kv)) {
            j->c->kern.rotate(m->q + i * d, src, scale, d, false);
            continue;
        }
        for (size_t e = 0; e < d; e++)
            m->q[i * d + e] = src[e] * scale;
    }
    if (cpu_is_fused(j))
        j->c->kern.attn_prep(m->prep, m->q, n_q, d);
}

/* What the tile's queries see of the pages from i_page on; before the tile's own page. */
static sp_attn_see see_from(const attn_job *j, const tile *t, const tile_mem *m, size_t i_page)
{
    sp_attn_see see = {.cap = j->cap};
    size_t n_q = query_count(j, t), last = t->span->pos + t->tok + t->n_tok - 1,
           begin = i_page * SP_PAGE_TOK;
    if (first_seen(j->a, last) <= begin)
        return see;
    for (size_t i = 0; i < n_q; i++) {
        size_t first = first_seen(j->a, t->span->pos + t->tok + i % t->n_tok);
        m->from[i] = (uint16_t)(first > begin ? first - begin : 0);
    }
    see.from = m->from;
    return see;
}

/* What they see of their own page. */
static sp_attn_see see_own(const attn_job *j, const tile *t, const tile_mem *m)
{
    sp_attn_see see = see_from(j, t, m, t->i_page);
    for (size_t i = 0; i < query_count(j, t); i++)
        m->to[i] = (uint16_t)((t->span->pos + t->tok + i % t->n_tok) % SP_PAGE_TOK + 1);
    see.to = m->to;
    return see;
}

/* Latent pages have no values: those of kt, which may be m->page, are written beside it. */
static const float *values_of(const attn_job *j, const tile_mem *m, const float *kt)
{
    size_t d = j->a->kv->d;
    float *v = m->page + d * SP_PAGE_TOK;
    if (!j->a->kv->n_latent)
        return kt + d * SP_PAGE_TOK;
    for (size_t e = 0; e < d; e++)
        for (size_t t = 0; t < SP_PAGE_TOK; t++)
            v[t * d + e] = kt[e * SP_PAGE_TOK + t];
    return v;
}

static void attend_f32(const attn_job *j, const tile_mem *m, float *acc, float *max, float *sum,
                       const float *kt, const sp_attn_see *see, size_t n_q)
{
    j->c->kern.attn_page(acc, max, sum, m->q, kt, values_of(j, m, kt), see, n_q, j->a->kv->d);
}

static void attend_plain(const attn_job *j, const tile *t, tile_mem *m, float *acc, float *max,
                         float *sum, size_t i_page, const sp_attn_see *see)
{
    const sp_dev_kv_view *kv = j->a->kv;
    const char *raw = plain_head(j, t->span, t->own, i_page, t->head);
    const float *kt = (const float *)(const void *)raw;
    if (kv->type != SP_F32) {
        j->c->kern.widen[kv->type](m->page, raw, (kv->n_latent ? 1 : 2) * kv->d * SP_PAGE_TOK);
        kt = m->page;
    }
    attend_f32(j, m, acc, max, sum, kt, see, query_count(j, t));
}

static void empty_state(float *acc, float *max, float *sum, size_t n_q, size_t d)
{
    memset(acc, 0, n_q * d * sizeof *acc);
    for (size_t i = 0; i < n_q; i++) {
        max[i] = -INFINITY;
        sum[i] = 0;
    }
}

void cpu_attend_range(const attn_job *j, const tile *t, tile_mem *m, float *acc, float *max,
                      float *sum, size_t from, size_t to, sp_cut *cut)
{
    const sp_dev_kv_view *kv = j->a->kv;
    const sp_kern *kern = &j->c->kern;
    size_t n_q = query_count(j, t), d = kv->d;
    if (cpu_is_fused(j)) {
        sp_planes page[SP_PART_PAGES];
        for (size_t i = from; i < to; i++)
            page[i - from] = cpu_planes_head(kv, t->span, i, t->head);
        const sp_attn_pages a = {m->prep, page,      to - from, n_q, d, see_from(j, t, m, from),
                                 cut,     m->scratch};
        kern->attn_planes(acc, max, sum, &a);
        return;
    }
    empty_state(acc, max, sum, n_q, d);
    for (size_t i = from; i < to; i++) {
        const sp_attn_see see = see_from(j, t, m, i);
        if (kv->is_fp8) {
            const char *page = (const char *)t->span->page[i] + kv->layer_at;
            sp_fp8_get(m->page, m->page + d * SP_PAGE_TOK, page + t->head * kv->head_bytes, d);
            attend_f32(j, m, acc, max, sum, m->page, &see, n_q);
        } else if (kv->is_planes) {
            const sp_planes page = cpu_planes_head(kv, t->span, i, t->head);
            kern->planes_get(m->page, kv->n_latent ? NULL : m->page + d * SP_PAGE_TOK, &page, d);
            attend_f32(j, m, acc, max, sum, m->page, &see, n_q);
        } else {
            attend_plain(j, t, m, acc, max, sum, i, &see);
        }
    }
}

void cpu_attend_part(const attn_job *j, const tile *t, tile_mem *m, float *acc, float *max,
                     float *sum, size_t part, sp_cut *cut)
{
    size_t from, to;
    if (part + 1 < part_count(t)) {
        part_range(t, part, &from, &to);
        cpu_attend_range(j, t, m, acc, max, sum, from, to, cut);
        return;
    }
    const sp_attn_see see = see_own(j, t, m);
    empty_state(acc, max, sum, query_count(j, t), j->a->kv->d);
    attend_plain(j, t, m, acc, max, sum, t->i_page, &see);
}

/* The state before any part: of the sinks, if there are any. */
void cpu_start_state(const attn_job *j, const tile *t, float *acc, float *max, float *sum)
{
    size_t n_q = query_count(j, t), group = j->a->n_q_head / j->a->kv->n_head;
    memset(acc, 0, n_q * j->a->kv->d * sizeof *acc);
    for (size_t i = 0; i < n_q; i++) {
        max[i] = sink_bits(j, t->head * group + i / t->n_tok);
        sum[i] = j->a->sinks ? 1 : 0;
    }
}

void cpu_store_answers(const attn_job *j, const tile *t, const float *acc, const float *sum)
{
    const sp_dev_kv_view *kv = j->a->kv;
    size_t d = kv->d, n_out = kv->n_latent ? kv->n_latent : d, n_q = query_count(j, t);
    float whole[SP_MAX_KEY];
    for (size_t i = 0; i < n_q; i++) {
        float *dst = j->a->out + query_row(j, t, i) * n_out, inv = 1.0f / sum[i];
        if (cpu_has_open(kv) && !kv->n_latent) {
            j->c->kern.rotate(dst, acc + i * d, inv, d, true);
        } else if (kv->is_planes) {
            j->c->kern.rotate(whole, acc + i * d, inv, d, true);
            memcpy(dst, whole, n_out * sizeof *dst);
        } else {
            for (size_t e = 0; e < n_out; e++)
                dst[e] = acc[i * d + e] * inv;
        }
    }
}

/* State of a part of a tile of a split call. */
static void part_state(const attn_job *j, const tile *t, size_t part, float **acc, float **max,
                       float **sum)
{
    size_t d = j->a->kv->d, n_q = query_count(j, t);
    *acc = (float *)(void *)j->c->part + (t->row + part * n_q) * (d + 2);
    *max = *acc + n_q * d;
    *sum = *max + n_q;
}

static size_t state_bytes(const attn_job *j)
{
    return round64(j->n_row * (j->a->kv->d + 2) * sizeof(float));
}

/* As they are and prepared. */
static size_t query_bytes(const attn_job *j, size_t n)
{
    return n * j->a->kv->d * sizeof(float) + round64(sp_attn_prep_bytes(n, j->a->kv->d));
}

/* Makes m's queries those of a tile of a split call, which all its parts share. */
static void split_queries(const attn_job *j, const tile *t, tile_mem *m)
{
    m->q = (float *)(void *)(j->c->part + state_bytes(j) + query_bytes(j, t->query));
    m->prep = m->q + query_count(j, t) * j->a->kv->d;
}

/* A tile's first part becomes its state, or joins that of its sinks. */
static void begin_with(const attn_job *j, const tile *t, tile_mem *m, size_t part)
{
    if (j->is_plain) {
        cpu_attend_part(j, t, m, m->acc, m->max, m->sum, part, NULL);
        return;
    }
    cpu_start_state(j, t, m->acc, m->max, m->sum);
    cpu_attend_part(j, t, m, m->p_acc, m->p_max, m->p_sum, part, NULL);
    j->c->kern.attn_join(m->acc, m->max, m->sum, m->p_acc, m->p_max, m->p_sum, query_count(j, t),
                         j->a->kv->d);
}

/* What a tile left out. */
typedef struct tile_cut {
    size_t n_quad, n_used;
    float loss;
} tile_cut;

/* Many queries with eps > 0: own page and first part come first, for they hold most of the mass; of
 * the rest, keys are left out that weigh less than an equal share of eps of what is known by then.
 * The sum can only grow, so what is lost is below eps whatever follows. */
static void run_cut(const attn_job *j, const tile *t, tile_mem *m, tile_cut *out)
{
    size_t d = j->a->kv->d, n_q = query_count(j, t), last = part_count(t) - 1;
    float bits = log2f(t->span->eps * BOLD / (float)((t->i_page - t->first) * SP_PAGE_TOK));
    sp_cut cut = {.least = m->least, .drop = m->drop};
    memset(m->lost, 0, n_q * sizeof *m->lost);
    begin_with(j, t, m, last);
    for (size_t p = 0, from, to; p < last; p++) {
        /* what is left of eps must do for this part, should all of it be just below */
        for (size_t i = 0; i < n_q; i++)
            m->least[i] =
                m->max[i] + log2f(m->sum[i]) +
                fminf(bits, log2f(fmaxf(t->span->eps - m->lost[i], 1e-30f) / SP_PART_TOK));
        part_range(t, p, &from, &to);
        bool cuts = p && !sp_cert_always(t->span, from, to);
        cpu_attend_part(j, t, m, m->p_acc, m->p_max, m->p_sum, p, cuts ? &cut : NULL);
        for (size_t i = 0; i < n_q && cuts; i++)
            m->lost[i] +=
                m->drop[i] > 0 ? m->drop[i] * exp2f(m->p_max[i] - m->max[i]) / m->sum[i] : 0;
        j->c->kern.attn_join(m->acc, m->max, m->sum, m->p_acc, m->p_max, m->p_sum, n_q, d);
    }
    *out = (tile_cut){cut.n_quad, cut.n_used, 0};
    for (size_t i = 0; i < n_q; i++)
        out->loss = fmaxf(out->loss, m->lost[i]);
}

static const chosen *chosen_of(const attn_job *j, const tile *t)
{
    const chosen *c =
        j->chosen ? &j->chosen[(size_t)(t->span - j->a->span) * j->a->kv->n_head + t->head] : NULL;
    return c && c->page && t->span->pos + t->tok < t->span->keep_to ? c : NULL;
}

/* Does this tile, of a call that is not split, leave anything out? */
static bool is_cut(const attn_job *j, const tile *t)
{
    return !chosen_of(j, t) && t->span->eps > 0 && cpu_is_fused(j) &&
           query_count(j, t) > SP_FEW && t->i_page - t->first > 2 * SP_PART_PAGES;
}

/* A tile of a span whose pages were chosen: those, then the span's own. */
static void run_chosen(const attn_job *j, const tile *t, tile_mem *m, const chosen *c)
{
    size_t d = j->a->kv->d, n_q = query_count(j, t), first = first_page(t->span),
           n_all = c->n + t->i_page - first;
    begin_with(j, t, m, part_count(t) - 1);
    for (size_t from = 0; from < n_all; from += SP_PART_PAGES) {
        sp_planes page[SP_PART_PAGES];
        size_t n = n_all - from < SP_PART_PAGES ? n_all - from : SP_PART_PAGES;
        for (size_t i = 0; i < n; i++)
            page[i] = cpu_planes_head(j->a->kv, t->span,
                                      from + i < c->n ? c->page[from + i] : first + from + i - c->n,
                                      t->head);
        const sp_attn_pages a = {m->prep, page, n, n_q, d, {.cap = j->cap}, NULL, m->scratch};
        j->c->kern.attn_planes(m->p_acc, m->p_max, m->p_sum, &a);
        j->c->kern.attn_join(m->acc, m->max, m->sum, m->p_acc, m->p_max, m->p_sum, n_q, d);
    }
}

static void run_tile(const attn_job *j, const tile *t, tile_mem *m, tile_cut *out)
{
    size_t d = j->a->kv->d, n_q = query_count(j, t);
    cpu_load_queries(j, t, m);
    if (chosen_of(j, t)) {
        run_chosen(j, t, m, chosen_of(j, t));
        cpu_store_answers(j, t, m->acc, m->sum);
        return;
    }
    if (is_cut(j, t)) {
        run_cut(j, t, m, out);
        cpu_store_answers(j, t, m->acc, m->sum);
        return;
    }
    begin_with(j, t, m, 0);
    for (size_t p = 1; p < part_count(t); p++) {
        cpu_attend_part(j, t, m, m->p_acc, m->p_max, m->p_sum, p, NULL);
        j->c->kern.attn_join(m->acc, m->max, m->sum, m->p_acc, m->p_max, m->p_sum, n_q, d);
    }
    cpu_store_answers(j, t, m->acc, m->sum);
}

static void join_tile(const attn_job *j, const tile *t, const tile_mem *m)
{
    size_t d = j->a->kv->d, n_q = query_count(j, t);
    float *acc = m->acc, *max = m->max, *sum = m->sum, *p_acc, *p_max, *p_sum;
    if (j->is_plain)
        part_state(j, t, 0, &acc, &max, &sum);
    else
        cpu_start_state(j, t, acc, max, sum);
    for (size_t p = j->is_plain; p < part_count(t); p++) {
        part_state(j, t, p, &p_acc, &p_max, &p_sum);
        j->c->kern.attn_join(acc, max, sum, p_acc, p_max, p_sum, n_q, d);
    }
    cpu_store_answers(j, t, acc, sum);
}

/* Walks tiles in order (span, page, head) and calls for those items that begin within rows [begin,
 * end): a tile is one item, or by_part as many as it has parts. A row is a query that meets a part,
 * so equal ranges of rows are about equal work, however prompts and answers are mixed. Returns how
 * many there are in all. */
typedef void tile_fn(const attn_job *j, const tile *t, tile_mem *m, size_t item, size_t from,
                     size_t to);

typedef struct tile_sum {
    size_t n_tile, n_part, n_row, n_query; /* rows and queries: as in a tile */
    size_t most;                           /* rows of the largest */
} tile_sum;

static tile_sum walk(const attn_job *j, tile_fn *fn, tile_mem *m, size_t begin, size_t end,
                     bool by_part)
{
    size_t own = 0;
    tile_sum all = {0};
    for (const sp_dev_span *s = j->a->span; s < j->a->span + j->a->n_span; s++) {
        for (size_t i = first_page(s); i <= last_page(s) && !cpu_is_sparse(j, s); i++) {
            size_t from = i == first_page(s) ? s->pos : i * SP_PAGE_TOK,
                   stop = (i + 1) * SP_PAGE_TOK;
            size_t to = stop < s->pos + s->n ? stop : s->pos + s->n,
                   first_page_seen = first_seen(j->a, from) / SP_PAGE_TOK;
            for (size_t h = 0; h < j->a->kv->n_head; h++) {
                tile t = {s,         own,        i, from - s->pos, to - from, h, first_page_seen,
                          all.n_row, all.n_query};
                size_t n_q = query_count(j, &t), n_part = part_count(&t),
                       n_item = by_part ? n_part : 1, n_row = n_q * n_part / n_item;
                size_t first = begin > t.row ? (begin - t.row + n_row - 1) / n_row : 0,
                       last = end > t.row ? (end - t.row + n_row - 1) / n_row : 0;
                if (fn && first < n_item && last > first)
                    fn(j, &t, m, all.n_tile, first, last < n_item ? last : n_item);
                all.n_tile++;
                all.n_part += n_part;
                all.n_row += n_q * n_part;
                all.n_query += (n_q + 15) & ~(size_t)15;
                all.most = n_q * n_part > all.most ? n_q * n_part : all.most;
            }
        }
        own += last_page(s) - first_page(s);
    }
    return all;
}

static void tile_items(const attn_job *j, const tile *t, tile_mem *m, size_t item, size_t from,
                       size_t to)
{
    if (!j->is_split) {
        run_tile(j, t, m, (tile_cut *)(void *)j->c->part + item);
        return;
    }
    split_queries(j, t, m);
    for (size_t p = from; p < to; p++) {
        float *acc, *max, *sum;
        part_state(j, t, p, &acc, &max, &sum);
        cpu_attend_part(j, t, m, acc, max, sum, p, NULL);
    }
}

static void load_items(const attn_job *j, const tile *t, tile_mem *m, size_t item, size_t from,
                       size_t to)
{
    (void)item;
    (void)from;
    (void)to;
    split_queries(j, t, m);
    cpu_load_queries(j, t, m);
}

static void join_items(const attn_job *j, const tile *t, tile_mem *m, size_t item, size_t from,
                       size_t to)
{
    (void)item;
    (void)from;
    (void)to;
    join_tile(j, t, m);
}

static void count_cut(const attn_job *j, const tile *t, tile_mem *m, size_t item, size_t from,
                      size_t to)
{
    const tile_cut *cut = (tile_cut *)(void *)j->c->part + item;
    sp_dev_cert *c = t->span->cert;
    (void)m;
    (void)from;
    (void)to;
    if (!c || !is_cut(j, t))
        return;
    c->n_quad += cut->n_quad;
    c->n_used += cut->n_used;
    c->max_loss = fmaxf(c->max_loss, cut->loss);
}

static void attn_part(void *arg, size_t begin, size_t end, size_t i_thread)
{
    const attn_job *j = arg;
    tile_mem m;
    cpu_tile_mem_at(&m, j->c->scratch[i_thread], j->cap_q, j->a->kv->d);
    walk(j, tile_items, &m, begin, end, j->is_split);
}

static void load_part(void *arg, size_t begin, size_t end, size_t i_thread)
{
    tile_mem m = {0}; /* queries lie in c->part */
    (void)i_thread;
    walk(arg, load_items, &m, begin, end, false);
}

static void join_part(void *arg, size_t begin, size_t end, size_t i_thread)
{
    const attn_job *j = arg;
    tile_mem m;
    cpu_tile_mem_at(&m, j->c->scratch[i_thread], j->cap_q, j->a->kv->d);
    walk(j, join_items, &m, begin, end, false);
}

/* What cpu_attn_sparse does not attend. */
static sp_err run_tiles(attn_job *j)
{
    cpu_dev *c = j->c;
    const tile_sum all = walk(j, NULL, NULL, 0, 0, false);
    if (all.n_tile == 0)
        return SP_OK;
    j->is_split = !j->chosen && all.n_row < SPLIT_BELOW * sp_pool_size(c->pool) * all.most &&
                  all.n_part > all.n_tile;
    j->n_row = all.n_row;
    size_t tile_rows = all.n_row / all.n_tile, grain = all.n_row < ALONE ? all.n_row : tile_rows;
    void *p = c->part;
    sp_err err = cpu_grow(&p, &c->part_bytes,
                          j->is_split ? state_bytes(j) + query_bytes(j, all.n_query)
                                      : all.n_tile * sizeof(tile_cut));
    c->part = p;
    SP_TRY(err);
    if (!j->is_split) {
        sp_pool_run(c->pool, attn_part, j, all.n_row, tile_rows);
        walk(j, count_cut, NULL, 0, all.n_row, false);
        return SP_OK;
    }
    sp_pool_run(c->pool, load_part, j, all.n_row, grain);
    sp_pool_run(c->pool, attn_part, j, all.n_row, all.n_row / all.n_part);
    sp_pool_run(c->pool, join_part, j, all.n_row, grain);
    return SP_OK;
}

sp_err cpu_attn_paged(sp_dev *dev, const sp_dev_attn *a)
{
    cpu_dev *c = (cpu_dev *)dev;
    const sp_dev_kv_view *kv = a->kv;
    attn_job j = {.c = c,
                  .a = a,
                  .is_plain = !a->window && !(a->cap > 0) && !a->sinks,
                  .cap = a->cap > 0 ? a->cap * 1.44269504f : 0};
    size_t n_write = 0, n_seen = 0, n_kv = 0;
    uint64_t start = cpu_stat_begin(dev);
    SP_DASSERT(a->n_q_head % kv->n_head == 0 && kv->d % 16 == 0 && a->kept < CPU_KEPT);
    for (const sp_dev_span *s = a->span; s < a->span + a->n_span; s++) {
        size_t most = s->n < SP_PAGE_TOK ? s->n : SP_PAGE_TOK;
        j.cap_q = most > j.cap_q ? most : j.cap_q;
        n_write += (last_page(s) - first_page(s) + 1) * kv->n_head;
        n_kv += s->pos + s->n - first_seen(a, s->pos);
        for (size_t i = s->pos; i < s->pos + s->n; i++)
            n_seen += i + 1 - first_seen(a, i);
    }
    double bytes =
        (double)(n_kv * kv->n_head) * (double)(kv->head_bytes + kv->lo_bytes) / SP_PAGE_TOK;
    double macs = 2.0 * (double)(n_seen * a->n_q_head) * (double)kv->d;
    j.cap_q = (j.cap_q > SP_FEW ? j.cap_q : SP_FEW) * (a->n_q_head / kv->n_head);
    tile_mem none;
    SP_TRY(cpu_scratch_reserve(c, cpu_tile_mem_at(&none, NULL, j.cap_q, kv->d)));
    if (cpu_has_open(kv) && a->k)
        SP_TRY(open_pages(&j));
    if (a->k)
        sp_pool_run(c->pool, write_part, &j, n_write, 16);

    SP_TRY(cpu_attn_sparse(&j));
    SP_TRY(cpu_select(&j));
    SP_TRY(run_tiles(&j));
    cpu_stat_end(dev, SP_STAGE_ATTN, start, bytes, macs);
    return SP_OK;
}

enum { FULL_MULTIPLE = 16 /* queries: states begin where vectors may be loaded */ };

typedef struct full_job {
    cpu_dev *c;
    const sp_dev_attn_full *a;
} full_job;

/* Scratch of one head: q and acc [n, d], max and sum [n], a page, from and to [n]. */
static size_t full_bytes(const sp_dev_attn_full *a)
{
    return (2 * a->n * a->d + 2 * a->n + 2 * SP_PAGE_TOK * a->d) * sizeof(float) +
           2 * a->n * sizeof(uint16_t);
}

/* Keys and values [first, first + n_key) of a head as a page of attn_page. */
static void full_page(const sp_dev_attn_full *a, float *kt, size_t head, size_t first, size_t n_key)
{
    size_t d = a->d, ld = a->n_head_kv * d;
    float *v = kt + SP_PAGE_TOK * d;
    memset(kt, 0, 2 * SP_PAGE_TOK * d * sizeof *kt);
    for (size_t t = 0; t < n_key; t++) {
        const float *k = a->k + (first + t) * ld + head * d;
        for (size_t e = 0; e < d; e++)
            kt[e * SP_PAGE_TOK + t] = k[e];
        memcpy(v + t * d, a->v + (first + t) * ld + head * d, d * sizeof *v);
    }
}

/* A head's keys and values, 32 tokens at a time as the pages of attn_page, meet the queries of the
 * head that see any of them. */
static void full_part(void *arg, size_t begin, size_t end, size_t i_thread)
{
    const full_job *j = arg;
    const sp_dev_attn_full *a = j->a;
    size_t n = a->n, d = a->d, ld = a->n_head * d,
           ahead = a->causal   ? 0
                   : a->window ? a->window / 2
                               : n;
    size_t back = !a->window ? n : a->causal ? a->window - 1 : a->window / 2;
    float *q = (float *)(void *)j->c->scratch[i_thread], *acc = q + n * d, *max = acc + n * d,
          *sum = max + n, *kt = sum + n;
    uint16_t *from = (uint16_t *)(void *)(kt + 2 * SP_PAGE_TOK * d), *to = from + n;
    for (size_t h = begin; h < end; h++) {
        for (size_t t = 0; t < n; t++)
            for (size_t e = 0; e < d; e++)
                q[t * d + e] = a->q[t * ld + h * d + e] * a->scale * 1.44269504f;
        memset(acc, 0, (n * d) * sizeof *acc);
        for (size_t t = 0; t < n; t++)
            max[t] = -INFINITY, sum[t] = 0;
        for (size_t first = 0; first < n; first += SP_PAGE_TOK) {
            size_t n_key = n - first < SP_PAGE_TOK ? n - first : SP_PAGE_TOK;
            size_t t0 = first > ahead ? (first - ahead) / FULL_MULTIPLE * FULL_MULTIPLE : 0,
                   t1 = first + n_key + back < n ? first + n_key + back : n;
            for (size_t t = t0; t < t1; t++) {
                size_t low = t > first + back ? t - back - first : 0,
                       high = t + ahead + 1 > first ? t + ahead + 1 - first : 0;
                from[t] = (uint16_t)(low < n_key ? low : n_key);
                to[t] = (uint16_t)(high < n_key ? high : n_key);
            }
            const sp_attn_see see = {from + t0, to + t0, 0};
            full_page(a, kt, h / (a->n_head / a->n_head_kv), first, n_key);
            j->c->kern.attn_page(acc + t0 * d, max + t0, sum + t0, q + t0 * d, kt,
                                 kt + SP_PAGE_TOK * d, &see, t1 - t0, d);
        }
        for (size_t t = 0; t < n; t++)
            for (size_t e = 0; e < d; e++)
                a->out[t * ld + h * d + e] = acc[t * d + e] / sum[t];
    }
}

sp_err cpu_attn_full(sp_dev *dev, const sp_dev_attn_full *a)
{
    cpu_dev *c = (cpu_dev *)dev;
    SP_DASSERT(a->n_head % a->n_head_kv == 0);
    SP_TRY(cpu_scratch_reserve(c, full_bytes(a)));
    full_job j = {c, a};
    sp_pool_run(c->pool, full_part, &j, a->n_head, 1);
    return SP_OK;
}
