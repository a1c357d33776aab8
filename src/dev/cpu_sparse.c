/* Certified attention: a decoding query reads all keys' hi planes, then only what it needs to leave out
 * provably less than eps of the softmax. docs/ATTENTION.md has the mathematics.
 *
 * An item is one KV head of one sequence, a unit one part of its pages. Units are scanned (scores from the
 * hi planes); whoever scans the last one of an item chooses the keys worth reading; then its units are
 * attended (their rows). Threads take what is ready, so that choosing, which is serial, overlaps. A head
 * whose attention is flat, or whose certificate does not hold in the end, is attended densely. The queries of a KV head
 * choose together: a row that one of them needs is read for all. */
#include "dev/cpu_attn.h"

#include <math.h>
#include <stdatomic.h>
#include <string.h>

enum { MIN_PAGES = 8, MAX_EVALS = 4, FLAT_PERCENT = 60, MAX_BITS = 512 };

#define ENOUGH 0.3f /* bits below the allowance that end the search */

typedef struct unit { /* one part of one item */
    sp_scan scan;
    float *acc, *max, *sum;
    uint16_t *tok;
    size_t n_tok;
    uint32_t always;    /* pages that are read whatever they weigh, a bit each */
    float unit[SP_FEW]; /* 2^(scan.max - the item's top) */
    float z[SP_FEW];    /* turns 2^(est - max) into a share of the attention */
} unit;

typedef struct item { /* one KV head of one sequence */
    tile t;
    tile_mem q;    /* its queries: q, prep */
    float norm[SP_FEW];
    size_t n_unit; /* the last is the own page */
    atomic_size_t next_scan, n_scanned, next, n_attended; /* units; next: the first nobody scans, attends yet */
    atomic_bool ready, done;                   /* chosen; answered */
    unit *unit;
    float top[SP_FEW], mass[SP_FEW]; /* estimates over all keys */
    float left[SP_FEW];              /* most that is left out, in units of 2^top */
    float kept[SP_FEW];              /* what a first attempt attended, exactly; 0: there was none */
    float loss;
    size_t n_kept, n_pair;
    unsigned n_try;
    bool is_dense;
} item;

typedef struct sparse_job {
    const attn_job *j;
    size_t group, n_item, n_unit;
    item *item;
    unit *unit;
} sparse_job;

bool cpu_is_sparse(const attn_job *j, const sp_dev_span *s)
{
    if (!(s->eps > 0) || s->n != 1 || !j->c->kern.attn_scan || !j->a->kv->is_planes || j->a->n_q_head / j->a->kv->n_head > SP_FEW)
        return false;
    size_t n_page = first_page(s);
    for (size_t i = 0; i < n_page; i++)
        if (!s->lo[i]) /* a demoted page has nothing that could be read later */
            return false;
    return n_page >= MIN_PAGES;
}

static size_t part_pages(const item *it, size_t part)
{
    size_t left = it->t.i_page - part * SP_PART_PAGES;
    return left < SP_PART_PAGES ? left : SP_PART_PAGES;
}

static void part_planes(const sparse_job *s, const item *it, size_t part, sp_planes *page)
{
    for (size_t i = 0; i < part_pages(it, part); i++)
        page[i] = cpu_planes_head(s->j->a->kv, it->t.span, part * SP_PART_PAGES + i, it->t.head);
}

static void scan_unit(const sparse_job *s, const item *it, unit *u, size_t part, tile_mem *m)
{
    const sp_kern *kern = &s->j->c->kern;
    size_t n_page = part_pages(it, part), d = s->j->a->kv->d;
    sp_planes page[SP_PART_PAGES];
    if (part + 1 == it->n_unit) {
        m->q = it->q.q;
        cpu_attend_part(s->j, &it->t, m, u->acc, u->max, u->sum, part, NULL);
        return;
    }
    part_planes(s, it, part, page);
    kern->attn_scan(&u->scan, it->q.q, it->q.prep, page, n_page, s->group, d);
    kern->attn_mass(&u->scan, it->norm, page, n_page, s->group);
}

/* The most that keys of rank < cut can weigh against what is allowed, the worst of the queries: <= 1 will
 * do. Looks at every step-th part only, and takes the others to be alike. */
static float excess(const sparse_job *s, item *it, float cut, size_t step)
{
    float worst = 0, eps = it->t.span->eps, all = (float)(it->n_unit - 1), n = 0;
    float left[SP_FEW] = {0}, plain[SP_FEW] = {0}, of[SP_FEW], about[SP_FEW];
    for (size_t p = step / 2; p + 1 < it->n_unit; p += step, n++) {
        const unit *u = &it->unit[p];
        s->j->c->kern.attn_tail(of, about, &u->scan, u->z, cut, u->always, s->group);
        for (size_t t = 0; t < s->group; t++) {
            left[t] += u->unit[t] * of[t];
            plain[t] += u->unit[t] * about[t];
        }
    }
    for (size_t t = 0; t < s->group; t++) {
        it->left[t] = left[t] * all / n * SP_SPEC_UP;
        float kept = it->kept[t] > 0 ? it->kept[t] : it->mass[t] - plain[t] * all / n;
        float r = kept > 0 ? it->left[t] / (kept * (eps / (1 - eps))) : INFINITY;
        worst = r <= worst ? worst : r;
    }
    return worst >= 0 ? worst : INFINITY; /* not a number: read everything */
}

/* The largest cut that leaves little enough, nearly: a secant search over logarithms, first on a sample of
 * the parts. 0: none does. */
static float find_cut(const sparse_job *s, item *it)
{
    size_t step = it->n_unit > 8 && !it->n_try ? 4 : 1, n_full = 0;
    float x = log2f(it->t.span->eps / (float)(it->t.i_page * SP_PAGE_TOK)) + 2.5f, slope = 0.9f, last_x = 0, last_y = 0, best = 0;
    float left[SP_FEW] = {0};
    for (size_t i = 0; n_full < MAX_EVALS && i < 2 * MAX_EVALS; i++) {
        float cut = exp2f(x), y = log2f(fmaxf(excess(s, it, cut, step), 1e-9f));
        if (i && fabsf(x - last_x) > 1e-3f)
            slope = fminf(fmaxf((y - last_y) / (x - last_x), 0.3f), 2.0f);
        last_x = x;
        last_y = y;
        n_full += step == 1;
        if (step == 1 && y <= 0 && cut > best) {
            best = cut;
            memcpy(left, it->left, sizeof left);
            if (y > -ENOUGH)
                break;
        }
        if (fabsf(y) < ENOUGH || i == 2)
            step = 1;
        x -= (y + ENOUGH / 2) / slope;
        if (!(x > -100 && x < 0))
            break;
    }
    memcpy(it->left, left, sizeof left);
    return best;
}

/* The bounds allow for the rounding of scores of this size; no sane model has larger ones. */
static bool fits_f32(const sparse_job *s, const item *it)
{
    for (size_t t = 0; t < s->group; t++)
        if (!(fabsf(it->top[t]) < MAX_BITS))
            return false;
    return true;
}

/* Sets what an item reads, and how much it leaves out at most. */
static void choose(const sparse_job *s, item *it)
{
    const unit *own = &it->unit[it->n_unit - 1];
    size_t n_part = it->n_unit - 1;
    for (size_t t = 0; t < s->group; t++) {
        it->top[t] = own->max[t];
        for (size_t p = 0; p < n_part; p++)
            it->top[t] = fmaxf(it->top[t], it->unit[p].scan.max[t]);
        it->mass[t] = own->sum[t] * exp2f(own->max[t] - it->top[t]);
        for (size_t p = 0; p < n_part; p++) {
            it->unit[p].unit[t] = exp2f(it->unit[p].scan.max[t] - it->top[t]);
            it->mass[t] += it->unit[p].scan.sum[t] * it->unit[p].unit[t];
        }
        for (size_t p = 0; p < n_part; p++)
            it->unit[p].z[t] = it->unit[p].unit[t] / it->mass[t];
    }
    float cut = fits_f32(s, it) ? find_cut(s, it) : 0;
    it->n_kept = it->n_pair = 0;
    for (size_t p = 0; p < n_part; p++) {
        unit *u = &it->unit[p];
        size_t n_pair;
        u->n_tok = s->j->c->kern.attn_pick(u->tok, &n_pair, &u->scan, u->z, cut, u->always, s->group);
        it->n_kept += u->n_tok;
        it->n_pair += n_pair;
    }
    it->is_dense = !(cut > 0) || it->n_kept * 100 > it->t.i_page * SP_PAGE_TOK * FLAT_PERCENT;
}

static void attend_unit(const sparse_job *s, const item *it, unit *u, size_t part, tile_mem *m)
{
    sp_planes page[SP_PART_PAGES];
    if (it->is_dense) {
        m->q = it->q.q;
        m->prep = it->q.prep;
        cpu_attend_part(s->j, &it->t, m, u->acc, u->max, u->sum, part, NULL);
        return;
    }
    part_planes(s, it, part, page);
    s->j->c->kern.attn_rows(u->acc, u->max, u->sum, &u->scan, it->q.q, it->q.prep, page, u->tok, u->n_tok, s->group,
                            s->j->a->kv->d, m->page);
}

/* The certified loss of each query from the exact scores of what was kept; the largest. */
static float certify(const sparse_job *s, item *it)
{
    float worst = 0;
    for (size_t t = 0; t < s->group && !it->is_dense; t++) {
        double kept = 0;
        for (size_t p = 0; p < it->n_unit; p++) {
            const unit *u = &it->unit[p];
            if (u->sum[t] > 0)
                kept += (double)u->sum[t] * (double)exp2f(u->max[t] - it->top[t]);
        }
        it->kept[t] = (float)(kept * (1 - 1e-4)); /* the roundings of scores and sums */
        double loss = (double)it->left[t] / ((double)it->left[t] + (double)it->kept[t]);
        worst = loss <= (double)worst ? worst : (float)loss;
    }
    return worst;
}

static void join_item(const sparse_job *s, const item *it)
{
    unit *to = it->unit;
    for (size_t p = 1; p < it->n_unit; p++)
        s->j->c->kern.attn_join(to->acc, to->max, to->sum, it->unit[p].acc, it->unit[p].max, it->unit[p].sum, s->group, s->j->a->kv->d);
    cpu_store_answers(s->j, &it->t, to->acc, to->sum);
}

/* Cache lines that rows of n_bytes take, of n keys in n_pair pairs; at most. */
static size_t row_lines(size_t n, size_t n_pair, size_t n_bytes)
{
    return n_bytes <= 32 ? n_pair : n * ((n_bytes + 63) / 64);
}

/* Joins what was attended, or has it attended again. */
static void finish(const sparse_job *s, item *it)
{
    it->loss = certify(s, it);
    if (it->loss <= it->t.span->eps) {
        join_item(s, it);
        atomic_store_explicit(&it->done, true, memory_order_release);
        return;
    }
    if (it->n_try++ == 0) /* estimates were off: once more with what is known now, then densely */
        choose(s, it);
    else
        it->is_dense = true;
    atomic_store_explicit(&it->n_attended, 0, memory_order_relaxed);
    atomic_store_explicit(&it->next, 0, memory_order_release);
}

static bool take(atomic_size_t *next, size_t n, size_t *out)
{
    if (atomic_load_explicit(next, memory_order_acquire) >= n)
        return false;
    *out = atomic_fetch_add_explicit(next, 1, memory_order_acq_rel);
    return *out < n;
}

/* One step of an item, if there is one to take. What a thread scans it also attends, as far as it can: the
 * scores are in its cache. */
static bool step_item(const sparse_job *s, item *it, tile_mem *m)
{
    size_t part;
    if (atomic_load_explicit(&it->ready, memory_order_acquire) && take(&it->next, it->n_unit - 1, &part)) {
        attend_unit(s, it, &it->unit[part], part, m);
        if (atomic_fetch_add_explicit(&it->n_attended, 1, memory_order_acq_rel) + 2 == it->n_unit)
            finish(s, it);
        return true;
    }
    if (!take(&it->next_scan, it->n_unit, &part))
        return false;
    scan_unit(s, it, &it->unit[part], part, m);
    if (atomic_fetch_add_explicit(&it->n_scanned, 1, memory_order_acq_rel) + 1 == it->n_unit) {
        choose(s, it);
        atomic_store_explicit(&it->ready, true, memory_order_release);
    }
    return true;
}

static void work(void *arg, size_t begin, size_t end, size_t i_thread)
{
    sparse_job *s = arg;
    tile_mem m;
    (void)end;
    cpu_tile_mem_at(&m, s->j->c->scratch[i_thread], s->j->cap_q, s->j->a->kv->d);
    size_t at = begin * s->n_item / sp_pool_size(s->j->c->pool);
    for (size_t n_idle = 0; n_idle < s->n_item;) { /* items in turn, until all are done */
        item *it = &s->item[at];
        bool stepped = step_item(s, it, &m);
        if (!stepped)
            at = (at + 1) % s->n_item;
        n_idle = !stepped && atomic_load_explicit(&it->done, memory_order_acquire) ? n_idle + 1 : 0;
    }
}

static void account(const sparse_job *s, const item *it)
{
    sp_dev_cert *c = it->t.span->cert;
    size_t d = s->j->a->kv->d, n_page = it->t.i_page, all = n_page * (sp_planes_hi_bytes(d) + sp_planes_lo_bytes(d));
    size_t scanned = n_page * (16 * d + (sp_planes_hi_used(d) - 32 * d + 63) / 64 * 64);
    size_t lines = row_lines(it->n_kept, it->n_pair, d) + row_lines(it->n_kept, it->n_pair, d / 2);
    if (!c)
        return;
    c->n_call++;
    c->n_dense += it->is_dense;
    c->n_seen += n_page * SP_PAGE_TOK;
    c->n_kept += it->is_dense ? n_page * SP_PAGE_TOK : it->n_kept;
    c->dense_bytes += all;
    c->bytes += scanned + (it->is_dense ? all : lines * 64);
    c->sum_loss += (double)it->loss;
    c->max_loss = fmaxf(c->max_loss, it->loss);
}

/* Lays out all items; with p NULL, says how many bytes that takes. */
static size_t lay_out(sparse_job *s, char *p)
{
    const sp_dev_attn *a = s->j->a;
    size_t d = a->kv->d, n_scan = (sp_scan_bytes(s->group) + 63) & ~(size_t)63;
    size_t n_state = (s->group * (d + 2) * sizeof(float) + 63) & ~(size_t)63, n_tok = (SP_PART_TOK + SP_PAGE_TOK) * sizeof(uint16_t);
    size_t n_q = (s->group * d * sizeof(float) + 63) & ~(size_t)63, n_prep = (sp_attn_prep_bytes(s->group, d) + 63) & ~(size_t)63;
    size_t at = (s->n_item * sizeof(item) + 63) & ~(size_t)63, at_unit = at;
    at += (s->n_unit * sizeof(unit) + 63) & ~(size_t)63;
    if (!p)
        return at + s->n_item * (n_q + n_prep) + s->n_unit * (n_scan + n_state + n_tok);
    item *it = s->item = (item *)(void *)p;
    unit *u = s->unit = (unit *)(void *)(p + at_unit);
    for (const sp_dev_span *sp = a->span; sp < a->span + a->n_span; sp++) {
        size_t n_head = cpu_is_sparse(s->j, sp) ? a->kv->n_head : 0;
        for (size_t h = 0; h < n_head; h++, it++) {
            *it = (item){.t = {sp, 0, first_page(sp), 0, 1, h}, .n_unit = part_count(first_page(sp)), .unit = u};
            it->q.q = (float *)(void *)(p + at);
            it->q.prep = p + at + n_q;
            at += n_q + n_prep;
            for (; u < it->unit + it->n_unit; u++) {
                *u = (unit){.scan = sp_scan_at(p + at, s->group), .always = always_pages(sp, (size_t)(u - it->unit))};
                u->acc = (float *)(void *)(p + at + n_scan);
                u->max = u->acc + s->group * d;
                u->sum = u->max + s->group;
                u->tok = (uint16_t *)(void *)(p + at + n_scan + n_state);
                at += n_scan + n_state + n_tok;
            }
        }
    }
    return at;
}

/* Loads the queries, and bounds their norms as scores see them: rounded to 8 bits of the largest element, half a
 * step each, where there is attn_prep. */
static void load_item(const sparse_job *s, item *it)
{
    size_t d = s->j->a->kv->d;
    cpu_load_queries(s->j, &it->t, &it->q);
    for (size_t t = 0; t < s->group; t++) {
        double sum = 0, top = 0;
        for (size_t i = 0; i < d; i++) {
            double x = (double)it->q.q[t * d + i];
            sum += x * x;
            top = fmax(top, fabs(x));
        }
        it->norm[t] = (float)(sqrt(sum) + (s->j->c->kern.attn_prep ? 0.5 * sqrt((double)d) * top / 127 : 0)) * SP_ERR_UP;
    }
}

sp_err cpu_attn_sparse(const attn_job *j)
{
    cpu_dev *c = j->c;
    const sp_dev_attn *a = j->a;
    sparse_job s = {.j = j, .group = a->n_q_head / a->kv->n_head};
    for (const sp_dev_span *sp = a->span; sp < a->span + a->n_span; sp++) {
        if (cpu_is_sparse(j, sp)) {
            s.n_item += a->kv->n_head;
            s.n_unit += a->kv->n_head * part_count(first_page(sp));
        }
    }
    if (!s.n_item)
        return SP_OK;
    SP_TRY(cpu_grow(&c->sparse, &c->sparse_bytes, lay_out(&s, NULL)));
    (void)lay_out(&s, c->sparse);
    for (item *it = s.item; it < s.item + s.n_item; it++)
        load_item(&s, it);
    sp_pool_run(c->pool, work, &s, sp_pool_size(c->pool), 1);
    for (const item *it = s.item; it < s.item + s.n_item; it++)
        account(&s, it);
    return SP_OK;
}
