/* Certified attention: a decoding query reads all keys' hi planes, then only what it needs to leave
 * out provably less than eps of the softmax. docs/ATTENTION.md has the mathematics.
 *
 * An item is one KV head of one sequence, a unit one part of its pages. An item goes through
 * phases: its queries are loaded; its units are scanned (scores from the hi planes); a cut is
 * tried, that is, units say how much they would leave out, until one leaves out enough and not too
 * much; units are attended (the rows of keys above the cut). Threads take what tasks are there, of
 * any item; whoever ends the last task of a phase decides on the next. Sums over units are made
 * then, in order, so that neither threads nor their number change a bit. A head whose certificate
 * does not hold in the end is attended densely. The queries of a KV head choose together: a row
 * that one of them needs is read for all. */
#include "dev/cpu_attn.h"

#include <math.h>
#include <stdatomic.h>
#include <string.h>

enum { MAX_TRIES = 4, SAMPLE_UNITS = 4, TRY_UNITS = 4 /* a task */, MAX_BITS = 512 };

#define ENOUGH 0.3f /* bits below the allowance that end the search */

typedef struct unit { /* one part of one item */
    sp_scan scan;
    float *acc, *max, *sum;
    uint16_t *tok;
    size_t n_tok, n_pair; /* keys attended, and pairs of them side by side */
    uint32_t always;      /* pages that are read whatever they weigh, a bit each */
    float unit[SP_FEW];   /* 2^(scan.max - the item's top) */
    float z[SP_FEW];      /* turns 2^(est - max) into a share of the attention */
    /* of the keys below the cut, in units of 2^scan.max: at most; estimated */
    float tail[SP_FEW], about[SP_FEW];
} unit;

typedef enum phase { LOAD, SCAN, TRY, ATTEND, DONE } phase;

/* The cut, as a logarithm: the largest that leaves little enough, nearly, by a secant search. */
typedef struct search {
    float x, slope, last_x, last_y, best; /* best: 0, none yet */
    unsigned n_eval;                      /* of all units */
} search;

typedef struct item { /* one KV head of one sequence */
    tile t;
    tile_mem q;    /* its queries: q, prep */
    float norm[SP_FEW];
    size_t n_unit; /* the last is the own page */
    /* phase, and in the low half the first task of it that nobody has taken */
    _Atomic uint64_t next;
    atomic_size_t n_done;  /* tasks of the phase */
    unit *unit;
    float top[SP_FEW], mass[SP_FEW]; /* estimates over all keys */
    search find;
    float cut;                       /* keys of rank below are left out */
    float left[SP_FEW];              /* most that is left out, in units of 2^top */
    float kept[SP_FEW];              /* what a first attempt attended, exactly; 0: there was none */
    float loss;
    unsigned n_attempt;
    bool is_dense;
} item;

typedef struct sparse_job {
    const attn_job *j;
    size_t group, n_item, n_unit;
    item *item;
    unit *unit;
} sparse_job;

/* First page that a decoding query sees whole: those from there to its own are scanned. One before
 * it is attended with its own. */
static size_t first_whole(const attn_job *j, const sp_dev_span *s)
{
    return (first_seen(j->a, s->pos) + SP_PAGE_TOK - 1) / SP_PAGE_TOK;
}

bool cpu_is_sparse(const attn_job *j, const sp_dev_span *s)
{
    if (!(s->eps > 0) || s->n != 1 || !j->c->kern.attn_scan || !j->a->kv->is_planes ||
        j->a->kv->n_latent || j->a->n_q_head / j->a->kv->n_head > SP_FEW)
        return false;
    size_t n_page = first_page(s), first = first_whole(j, s);
    for (size_t i = first; i < n_page; i++)
        if (!s->lo[i]) /* a demoted page has nothing that could be read later */
            return false;
    return n_page >= first + SP_CERT_MIN_PAGES;
}

/* The pages of a part; returns how many. */
static size_t part_planes(const sparse_job *s, const item *it, size_t part, sp_planes *page)
{
    size_t from, to;
    part_range(&it->t, part, &from, &to);
    for (size_t i = from; i < to; i++)
        page[i - from] = cpu_planes_head(s->j->a->kv, it->t.span, i, it->t.head);
    return to - from;
}

/* What is never left out: sinks, the own page, and a page that the window begins in. */
static void attend_own(const sparse_job *s, const item *it, unit *u, tile_mem *m)
{
    const attn_job *j = s->j;
    size_t first = first_seen(j->a, it->t.span->pos) / SP_PAGE_TOK;
    m->q = it->q.q;
    m->prep = it->q.prep;
    if (j->is_plain) {
        cpu_attend_part(j, &it->t, m, u->acc, u->max, u->sum, it->n_unit - 1, NULL);
        return;
    }
    cpu_start_state(j, &it->t, u->acc, u->max, u->sum);
    if (first < it->t.first) {
        cpu_attend_range(j, &it->t, m, m->p_acc, m->p_max, m->p_sum, first, it->t.first, NULL);
        j->c->kern.attn_join(u->acc, u->max, u->sum, m->p_acc, m->p_max, m->p_sum, s->group,
                             j->a->kv->d);
    }
    cpu_attend_part(j, &it->t, m, m->p_acc, m->p_max, m->p_sum, it->n_unit - 1, NULL);
    j->c->kern.attn_join(u->acc, u->max, u->sum, m->p_acc, m->p_max, m->p_sum, s->group,
                         j->a->kv->d);
}

static void scan_unit(const sparse_job *s, const item *it, unit *u, size_t part, tile_mem *m)
{
    const sp_kern *kern = &s->j->c->kern;
    sp_planes page[SP_PART_PAGES];
    if (part + 1 == it->n_unit) {
        attend_own(s, it, u, m);
        return;
    }
    size_t n_page = part_planes(s, it, part, page), d = s->j->a->kv->d;
    kern->attn_scan(&u->scan, it->q.q, it->q.prep, page, n_page, s->group, d);
    kern->attn_mass(&u->scan, it->norm, page, n_page, s->group);
}

static void weigh_tail(const sparse_job *s, const item *it, unit *u)
{
    s->j->c->kern.attn_tail(u->tail, u->about, &u->scan, u->z, it->cut, u->always, s->group);
}

/* The most that keys of rank below the cut can weigh (left [SP_FEW], in units of 2^top) against
 * what is allowed, the worst of the queries, as a logarithm: <= 0 will do. From every step-th unit,
 * whose tails have been weighed; the others are taken to be alike. */
static float excess(const sparse_job *s, const item *it, size_t step, float *left)
{
    float worst = 0, eps = it->t.span->eps, all = (float)(it->n_unit - 1), n = 0;
    float plain[SP_FEW] = {0};
    memset(left, 0, SP_FEW * sizeof *left);
    for (size_t p = step / 2; p + 1 < it->n_unit; p += step, n++) {
        const unit *u = &it->unit[p];
        for (size_t t = 0; t < s->group; t++) {
            left[t] += u->unit[t] * u->tail[t];
            plain[t] += u->unit[t] * u->about[t];
        }
    }
    for (size_t t = 0; t < s->group; t++) {
        left[t] *= all / n * SP_SPEC_UP;
        float kept = it->kept[t] > 0 ? it->kept[t] : it->mass[t] - plain[t] * all / n;
        float r = kept > 0 ? left[t] / (kept * (eps / (1 - eps))) : INFINITY;
        worst = r <= worst ? worst : r;
    }
    return worst >= 0 ? log2f(fmaxf(worst, 1e-9f)) : INFINITY; /* not a number: read everything */
}

/* Sets the next cut to look at, y being the excess of this one. False: there is none. */
static bool move_cut(search *f, float *cut, float y)
{
    if (f->n_eval++ && fabsf(f->x - f->last_x) > 1e-3f)
        f->slope = fminf(fmaxf((y - f->last_y) / (f->x - f->last_x), 0.3f), 2.0f);
    f->last_x = f->x;
    f->last_y = y;
    f->x -= (y + ENOUGH / 2) / f->slope;
    *cut = exp2f(f->x);
    return f->x > -100 && f->x < 0;
}

/* What the search found, or everything. */
static phase end_search(item *it)
{
    it->cut = it->find.best;
    it->is_dense = !(it->cut > 0);
    return ATTEND;
}

/* All units have weighed their tails. */
static phase search_on(const sparse_job *s, item *it)
{
    float left[SP_FEW], y = excess(s, it, 1, left);
    bool ends = (y <= 0 && y > -ENOUGH) || it->find.n_eval + 1 == MAX_TRIES;
    if (y <= 0 && it->cut > it->find.best) {
        it->find.best = it->cut;
        memcpy(it->left, left, sizeof left);
    }
    return ends || !move_cut(&it->find, &it->cut, y) ? end_search(it) : TRY;
}

/* From a first guess, which a sample of the units betters. */
static phase search_from_start(const sparse_job *s, item *it)
{
    size_t n_part = it->n_unit - 1, step = n_part / SAMPLE_UNITS;
    it->find = (search){
        .x = log2f(it->t.span->eps / (float)((it->t.i_page - it->t.first) * SP_PAGE_TOK)) + 2.5f,
        .slope = 0.9f};
    it->cut = exp2f(it->find.x);
    if (step > 1 && !it->n_attempt) {
        float left[SP_FEW];
        for (size_t p = step / 2; p < n_part; p += step)
            weigh_tail(s, it, &it->unit[p]);
        if (!move_cut(&it->find, &it->cut, excess(s, it, step, left)))
            return end_search(it);
        it->find.n_eval = 0;
    }
    return TRY;
}

/* The bounds allow for the rounding of scores of this size; no sane model has larger ones. */
static bool fits_f32(const sparse_job *s, const item *it)
{
    for (size_t t = 0; t < s->group; t++)
        if (!(fabsf(it->top[t]) < MAX_BITS))
            return false;
    return true;
}

/* All units have been scanned. */
static phase start_search(const sparse_job *s, item *it)
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
    return fits_f32(s, it) ? search_from_start(s, it) : end_search(it);
}

static void attend_unit(const sparse_job *s, const item *it, unit *u, size_t part, tile_mem *m)
{
    const sp_kern *kern = &s->j->c->kern;
    sp_planes page[SP_PART_PAGES];
    if (it->is_dense) {
        m->q = it->q.q;
        m->prep = it->q.prep;
        cpu_attend_part(s->j, &it->t, m, u->acc, u->max, u->sum, part, NULL);
        return;
    }
    u->n_tok = kern->attn_pick(u->tok, &u->n_pair, &u->scan, u->z, it->cut, u->always, s->group);
    (void)part_planes(s, it, part, page);
    kern->attn_rows(u->acc, u->max, u->sum, &u->scan, it->q.q, it->q.prep, page, u->tok, u->n_tok,
                    s->group, s->j->a->kv->d, m->page);
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
        s->j->c->kern.attn_join(to->acc, to->max, to->sum, it->unit[p].acc, it->unit[p].max,
                                it->unit[p].sum, s->group, s->j->a->kv->d);
    cpu_store_answers(s->j, &it->t, to->acc, to->sum);
}

/* All units have been attended: joins them, or has it done again. */
static phase finish(const sparse_job *s, item *it)
{
    it->loss = certify(s, it);
    if (it->loss <= it->t.span->eps) {
        join_item(s, it);
        return DONE;
    }
    /* estimates were off: once more with what is known now, then densely */
    if (it->n_attempt++ == 0)
        return search_from_start(s, it);
    it->is_dense = true;
    return ATTEND;
}

/* Loads the queries, and bounds their norms as scores see them: rounded to 8 bits of the largest
 * element, half a step each, where there is attn_prep. */
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
        it->norm[t] =
            (float)(sqrt(sum) + (s->j->c->kern.attn_prep ? 0.5 * sqrt((double)d) * top / 127 : 0)) *
            SP_ERR_UP;
    }
}

/* Tasks of a phase. The own page is attended when it is scanned. */
static size_t task_count(const item *it, phase now)
{
    size_t n_part = it->n_unit - 1;
    return now == LOAD     ? 1
           : now == SCAN   ? n_part + 1
           : now == TRY    ? (n_part + TRY_UNITS - 1) / TRY_UNITS
           : now == ATTEND ? n_part
                           : 0;
}

static void run_task(const sparse_job *s, item *it, phase now, size_t i, tile_mem *m)
{
    if (now == LOAD)
        load_item(s, it);
    else if (now == SCAN)
        scan_unit(s, it, &it->unit[i], i, m);
    else if (now == ATTEND)
        attend_unit(s, it, &it->unit[i], i, m);
    for (size_t p = i * TRY_UNITS; now == TRY && p < (i + 1) * TRY_UNITS && p + 1 < it->n_unit; p++)
        weigh_tail(s, it, &it->unit[p]);
}

static phase next_phase(const sparse_job *s, item *it, phase now)
{
    return now == LOAD   ? SCAN
           : now == SCAN ? start_search(s, it)
           : now == TRY  ? search_on(s, it)
                         : finish(s, it);
}

/* Runs one task of an item, if there is one to take; *is_done: it is answered. A task that was
 * taken keeps its phase from ending, so what was read with its number holds. */
static bool step_item(const sparse_job *s, item *it, tile_mem *m, bool *is_done)
{
    uint64_t next = atomic_load_explicit(&it->next, memory_order_acquire);
    *is_done = next >> 32 == DONE;
    if ((uint32_t)next >= task_count(it, (phase)(next >> 32)))
        return false;
    next = atomic_fetch_add_explicit(&it->next, 1, memory_order_acq_rel);
    phase now = (phase)(next >> 32);
    size_t n_task = task_count(it, now);
    if ((uint32_t)next >= n_task)
        return false;
    run_task(s, it, now, (uint32_t)next, m);
    if (atomic_fetch_add_explicit(&it->n_done, 1, memory_order_acq_rel) + 1 == n_task) {
        atomic_store_explicit(&it->n_done, 0, memory_order_relaxed);
        atomic_store_explicit(&it->next, (uint64_t)next_phase(s, it, now) << 32,
                              memory_order_release);
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
    for (size_t n_done = 0; n_done < s->n_item;) { /* items in turn, until all are done */
        bool is_done, stepped = step_item(s, &s->item[at], &m, &is_done);
        if (!stepped)
            at = (at + 1) % s->n_item;
        n_done = is_done ? n_done + 1 : 0;
    }
}

static void account(const sparse_job *s, const item *it)
{
    sp_cert_call call = {.n_page = it->t.i_page - it->t.first,
                         .d = s->j->a->kv->d,
                         .is_dense = it->is_dense,
                         .loss = it->loss};
    for (const unit *u = it->unit; u + 1 < it->unit + it->n_unit && !it->is_dense; u++) {
        call.n_kept += u->n_tok;
        call.n_pair += u->n_pair;
    }
    if (it->t.span->cert)
        sp_cert_add(it->t.span->cert, &call);
}

/* Lays out all items; with p NULL, says how many bytes that takes. */
static size_t lay_out(sparse_job *s, char *p)
{
    const sp_dev_attn *a = s->j->a;
    size_t d = a->kv->d, n_scan = (sp_scan_bytes(s->group, s->j->cap) + 63) & ~(size_t)63;
    size_t n_state = (s->group * (d + 2) * sizeof(float) + 63) & ~(size_t)63,
           n_tok = (SP_PART_TOK + SP_PAGE_TOK) * sizeof(uint16_t);
    size_t n_q = (s->group * d * sizeof(float) + 63) & ~(size_t)63,
           n_prep = (sp_attn_prep_bytes(s->group, d) + 63) & ~(size_t)63;
    size_t at = (s->n_item * sizeof(item) + 63) & ~(size_t)63, at_unit = at;
    at += (s->n_unit * sizeof(unit) + 63) & ~(size_t)63;
    if (!p)
        return at + s->n_item * (n_q + n_prep) + s->n_unit * (n_scan + n_state + n_tok);
    item *it = s->item = (item *)(void *)p;
    unit *u = s->unit = (unit *)(void *)(p + at_unit);
    for (const sp_dev_span *sp = a->span; sp < a->span + a->n_span; sp++) {
        size_t n_head = cpu_is_sparse(s->j, sp) ? a->kv->n_head : 0;
        for (size_t h = 0; h < n_head; h++, it++) {
            *it = (item){.t = {.span = sp,
                               .i_page = first_page(sp),
                               .n_tok = 1,
                               .head = h,
                               .first = first_whole(s->j, sp)},
                         .unit = u};
            it->n_unit = part_count(&it->t);
            it->q.q = (float *)(void *)(p + at);
            it->q.prep = p + at + n_q;
            at += n_q + n_prep;
            for (; u < it->unit + it->n_unit; u++) {
                size_t part = (size_t)(u - it->unit), from = 0, to = 0;
                if (part + 1 < it->n_unit)
                    part_range(&it->t, part, &from, &to);
                *u = (unit){.scan = sp_scan_at(p + at, s->group, s->j->cap),
                            .always = sp_cert_always(sp, from, to)};
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

sp_err cpu_attn_sparse(const attn_job *j)
{
    cpu_dev *c = j->c;
    const sp_dev_attn *a = j->a;
    sparse_job s = {.j = j, .group = a->n_q_head / a->kv->n_head};
    for (const sp_dev_span *sp = a->span; sp < a->span + a->n_span; sp++) {
        if (cpu_is_sparse(j, sp)) {
            s.n_item += a->kv->n_head;
            const tile t = {.i_page = first_page(sp), .first = first_whole(j, sp)};
            s.n_unit += a->kv->n_head * part_count(&t);
        }
    }
    if (!s.n_item)
        return SP_OK;
    SP_TRY(cpu_grow(&c->sparse, &c->sparse_bytes, lay_out(&s, NULL)));
    (void)lay_out(&s, c->sparse);
    sp_pool_run(c->pool, work, &s, sp_pool_size(c->pool), 1);
    for (const item *it = s.item; it < s.item + s.n_item; it++)
        account(&s, it);
    return SP_OK;
}
