/* Mixtures of experts on the CPU. The rows of a call are sorted by expert: a slot is one row at one
 * expert, and the slots of an expert are neighbours. Three products then run over slots: gate and
 * up, activation, down; each expert's matrices meet all its slots while they pass through the cache
 * once.
 *
 * 1. What a row gets depends on that row alone: products do not depend on the rows beside them
 * (kern.h), and a row's
 *    experts are added in the order of their choice, not of their slots.
 * 2. Threads share rows, slots or tiles of weights, never a sum. */
#include "dev/cpu.h"

#include <math.h>
#include <string.h>

enum { ROW_GRAIN = 4 };
/* 2^-14, f16's least normal number: what llama.cpp divides by at least */
static const float LEAST_SUM = 6.103515625e-5f;

typedef struct plan {
    cpu_dev *c;
    const sp_dev_experts *a;
    size_t k, n_slot, n_busy;
    float *logits;        /* [n_row, n_expert] */
    float *weight;        /* [n_row, n_used] */
    float *gate, *up, *y; /* [n_slot, n_ff] twice, [n_slot, k] */
    uint32_t *pick;       /* [n_row, n_used]: experts */
    uint32_t *slot;       /* [n_row, n_used] */
    uint32_t *first;      /* [n_expert + 1]: an expert's slots end where the next one's begin */
    uint32_t *busy;       /* [n_busy]: experts that have slots */
} plan;

/* Score of each expert in the place of its logit. */
static void scores(float *s, const sp_dev_route *r)
{
    float most = -INFINITY, sum = 0;
    for (size_t e = 0; e < r->n_expert && r->score == SP_SCORE_SOFTMAX; e++)
        most = s[e] > most ? s[e] : most;
    for (size_t e = 0; e < r->n_expert && r->score == SP_SCORE_SOFTMAX; e++)
        sum += s[e] = expf(s[e] - most);
    for (size_t e = 0; e < r->n_expert && r->score == SP_SCORE_SOFTMAX; e++)
        s[e] /= sum;
    for (size_t e = 0; e < r->n_expert && r->score == SP_SCORE_SIGMOID; e++)
        s[e] = 1.0f / (1.0f + expf(-s[e]));
}

/* The free one of the largest value, the first of equals; n where none is free. */
static size_t best_of(const float *v, const bool *taken, size_t n)
{
    size_t best = n;
    for (size_t i = 0; i < n; i++)
        if (!taken[i] && (best == n || v[i] > v[best]))
            best = i;
    return best;
}

/* Takes the experts of all groups but the best. left, dropped: [n_group]. */
static void keep_groups(bool *taken, const float *p, const sp_dev_route *r, float *sum, bool *kept)
{
    size_t each = r->n_expert / r->n_group;
    for (size_t g = 0; g < r->n_group; g++) {
        const float *of = p + g * each;
        float one = of[0], two = -INFINITY;
        for (size_t i = 1; i < each; i++) {
            two = of[i] > one ? one : of[i] > two ? of[i] : two;
            one = of[i] > one ? of[i] : one;
        }
        sum[g] = each > 1 && !r->group_by_one ? one + two : one;
        kept[g] = false;
    }
    for (size_t i = 0; i < r->n_group_used; i++)
        kept[best_of(sum, kept, r->n_group)] = true;
    for (size_t e = 0; e < r->n_expert; e++)
        taken[e] = !kept[e / each];
}

/* Weights of the chosen from their scores, in place. */
static void weigh(float *w, const sp_dev_route *r)
{
    float sum = 0, most = w[0]; /* the first choice has the largest logit */
    for (size_t i = 0; i < r->n_used; i++) {
        if (r->score == SP_SCORE_CHOSEN)
            w[i] = expf(w[i] - most);
        sum += w[i];
    }
    if (r->score != SP_SCORE_CHOSEN && !r->normed)
        sum = 1;
    else if (r->score != SP_SCORE_CHOSEN && !(sum > LEAST_SUM))
        sum = LEAST_SUM;
    for (size_t i = 0; i < r->n_used; i++)
        w[i] = w[i] / sum * r->scale;
}

/* Bytes of a thread's scratch for choosing. */
static size_t choose_bytes(const sp_dev_route *r)
{
    return 2 * r->n_expert * (sizeof(float) + sizeof(bool));
}

static void choose_part(void *arg, size_t begin, size_t end, size_t i_thread)
{
    const plan *j = arg;
    const sp_dev_route *r = &j->a->route;
    float *p = (float *)(void *)j->c->scratch[i_thread], *group = p + r->n_expert;
    bool *taken = (bool *)(group + r->n_expert), *kept = taken + r->n_expert;
    for (size_t t = begin; t < end; t++) {
        float *s = j->logits + t * r->n_expert, *w = j->weight + t * r->n_used;
        for (size_t e = 0; e < r->n_expert && j->a->router_scale != 0; e++)
            s[e] *= j->a->router_scale;
        scores(s, r);
        for (size_t e = 0; e < r->n_expert; e++)
            p[e] = j->a->pick_bias ? s[e] + j->a->pick_bias[e] : s[e];
        memset(taken, 0, r->n_expert);
        if (r->n_group > 1)
            keep_groups(taken, p, r, group, kept);
        for (size_t i = 0; i < r->n_used; i++) {
            size_t e = best_of(p, taken, r->n_expert);
            taken[e] = true;
            j->pick[t * r->n_used + i] = (uint32_t)e;
            w[i] = s[e];
        }
        weigh(w, r);
        for (size_t i = 0; i < r->n_used && j->a->weight_scale; i++)
            w[i] *= j->a->weight_scale[j->pick[t * r->n_used + i]];
    }
}

/* Gives each choice its slot: experts in order, and in each the rows in order. */
static void sort_slots(plan *j)
{
    size_t n_expert = j->a->route.n_expert;
    memset(j->first, 0, (n_expert + 1) * sizeof *j->first);
    for (size_t i = 0; i < j->n_slot; i++)
        j->first[j->pick[i] + 1]++;
    for (size_t e = 0; e < n_expert; e++) {
        if (j->first[e + 1])
            j->busy[j->n_busy++] = (uint32_t)e;
        j->first[e + 1] += j->first[e];
    }
    for (size_t i = 0; i < j->n_slot; i++)
        j->slot[i] = j->first[j->pick[i]]++;
    for (size_t e = n_expert; e > 0; e--) /* each now is where the next began */
        j->first[e] = j->first[e - 1];
    j->first[0] = 0;
}

/* Memory of the plan, one block. */
static sp_err make_room(plan *j)
{
    const sp_dev_experts *a = j->a;
    size_t n_expert = a->route.n_expert,
           n_float = a->n_row * n_expert + j->n_slot * (1 + 2 * a->n_ff + j->k);
    SP_TRY(cpu_scratch_reserve(j->c, choose_bytes(&a->route)));
    SP_TRY(
        cpu_grow(&j->c->experts, &j->c->experts_bytes,
                 n_float * sizeof(float) + (2 * j->n_slot + 2 * n_expert + 1) * sizeof(uint32_t)));
    j->logits = j->c->experts;
    j->weight = j->logits + a->n_row * n_expert;
    j->gate = j->weight + j->n_slot;
    j->up = j->gate + j->n_slot * a->n_ff;
    j->y = j->up + j->n_slot * a->n_ff;
    j->pick = (uint32_t *)(void *)(j->y + j->n_slot * j->k);
    j->slot = j->pick + j->n_slot;
    j->first = j->slot + j->n_slot;
    j->busy = j->first + n_expert + 1;
    return SP_OK;
}

/* One product over slots: each expert's n_row rows, from row `skip` of its `each` on. */
typedef struct product {
    const plan *j;
    cpu_input in;
    const sp_dev_weight *w[2];
    size_t n_w, n_row, each, skip[2], shelf[2]; /* shelf: which of a slot's matrices */
    float *out[2];
    const float *bias[2]; /* [n_expert * n_row] or NULL */
} product;

static sp_dev_weight weight_of(const product *p, size_t i_w, size_t e)
{
    const sp_dev_experts *a = p->j->a;
    const float *scale = p->w[i_w]->scale;
    sp_dev_weight w =
        a->shelf ? cpu_rows_of(&cpu_shelf_at(a->shelf, a->shelf_first + e)->w[p->shelf[i_w]],
                               p->skip[i_w], p->n_row)
                 : cpu_rows_of(p->w[i_w], e * p->each + p->skip[i_w], p->n_row);
    w.scale = scale ? scale + e : NULL;
    return w;
}

/* Items are tiles of the busy experts' matrices laid end to end. */
static void product_part(void *arg, size_t begin, size_t end, size_t i_thread)
{
    const product *p = arg;
    const plan *j = p->j;
    size_t n_tile = sp_pack_tiles(p->n_row), n;
    (void)i_thread;
    for (size_t i = begin; i < end; i += n) {
        size_t from = i % n_tile, i_w = i / n_tile % p->n_w, e = j->busy[i / n_tile / p->n_w],
               r = from * SP_TILE_ROWS;
        size_t first = j->first[e], n_tok = j->first[e + 1] - first;
        n = n_tile - from < end - i ? n_tile - from : end - i;
        const sp_dev_weight w = weight_of(p, i_w, e);
        float *out = p->out[i_w] + first * p->n_row;
        cpu_product(&p->in, &w, out, from, n, first, n_tok, false);
        size_t n_row = n * SP_TILE_ROWS < p->n_row - r ? n * SP_TILE_ROWS : p->n_row - r;
        for (size_t t = 0; t < n_tok && p->bias[i_w]; t++)
            j->c->kern.add(out + t * p->n_row + r, p->bias[i_w] + e * p->n_row + r, n_row);
    }
}

static void run_product(product *p, sp_dev_stage stage, uint64_t start)
{
    const plan *j = p->j;
    size_t n_bytes = 0, n_rows = p->n_w * p->n_row;
    sp_pool_run(j->c->pool, product_part, p, j->n_busy * p->n_w * sp_pack_tiles(p->n_row),
                CPU_MIN_TILES);
    for (size_t i = 0; i < p->n_w; i++)
        n_bytes += j->n_busy * p->n_row * sp_type_row_bytes(p->w[i]->type, p->in.k);
    cpu_stat_end(&j->c->dev, stage, start, (double)n_bytes,
                 (double)(n_rows * p->in.k) * (double)j->n_slot);
}

/* Rows normed and put into their slots. */
static void spread_part(void *arg, size_t begin, size_t end, size_t i_thread)
{
    const product *p = arg;
    const sp_dev_experts *a = p->j->a;
    for (size_t t = begin; t < end; t++) {
        const uint32_t *slot = p->j->slot + t * a->route.n_used;
        float *y = cpu_input_row(&p->in, slot[0], i_thread);
        p->j->c->kern.norm_rms(y, a->x + t * p->j->k, a->norm, p->j->k, a->eps);
        cpu_input_put(&p->in, slot[0], y);
        for (size_t i = 1; i < a->route.n_used; i++)
            cpu_input_copy(&p->in, slot[i], slot[0]);
    }
}

static void act_part(void *arg, size_t begin, size_t end, size_t i_thread)
{
    const product *p = arg;
    const plan *j = p->j;
    size_t n = j->a->n_ff;
    for (size_t s = begin; s < end; s++) {
        float *y = cpu_input_row(&p->in, s, i_thread);
        j->c->kern.glu[j->a->act](y, (j->a->is_plain ? j->up : j->gate) + s * n,
                                  j->a->is_plain ? NULL : j->up + s * n, n);
        cpu_input_put(&p->in, s, y);
    }
}

/* A row's experts, weighed and added. */
static void join_part(void *arg, size_t begin, size_t end, size_t i_thread)
{
    const plan *j = arg;
    size_t n_used = j->a->route.n_used;
    (void)i_thread;
    for (size_t t = begin; t < end; t++) {
        float *out = j->a->out + t * j->k;
        memset(out, 0, j->k * sizeof *out);
        for (size_t i = 0; i < n_used; i++) {
            const float *y = j->y + j->slot[t * n_used + i] * j->k, w = j->weight[t * n_used + i];
            for (size_t e = 0; e < j->k; e++)
                out[e] += w * y[e];
        }
    }
}

static sp_err run_glu(plan *j)
{
    const sp_dev_experts *a = j->a;
    const sp_dev_weight *up = a->is_pair ? &a->glu[0] : &a->glu[1];
    product p = {.j = j,
                 .in = {.c = j->c, .k = j->k},
                 .w = {&a->glu[0], up},
                 .n_w = 2,
                 .n_row = a->n_ff,
                 .each = a->is_pair ? 2 * a->n_ff : a->n_ff,
                 .skip = {0, a->is_pair ? a->n_ff : 0},
                 .shelf = {1, a->is_pair ? 1 : 2},
                 .out = {j->gate, j->up},
                 .bias = {a->glu_bias[0], a->glu_bias[1]}};
    uint64_t start = cpu_stat_begin(&j->c->dev);
    if (a->is_plain)
        p = (product){.j = j,
                      .in = p.in,
                      .w = {&a->glu[1]},
                      .n_w = 1,
                      .n_row = a->n_ff,
                      .each = a->n_ff,
                      .shelf = {1},
                      .out = {j->up},
                      .bias = {a->glu_bias[1]}};
    for (size_t i = 0; i < p.n_w; i++)
        cpu_input_want(&p.in, p.w[i]);
    SP_TRY(cpu_input_reserve(&p.in, j->n_slot, true));
    sp_pool_run(j->c->pool, spread_part, &p, a->n_row, ROW_GRAIN);
    run_product(&p, SP_STAGE_GLU, start);
    return SP_OK;
}

static sp_err run_down(plan *j)
{
    const sp_dev_experts *a = j->a;
    product p = {.j = j,
                 .in = {.c = j->c, .k = a->n_ff},
                 .w = {a->down},
                 .n_w = 1,
                 .n_row = j->k,
                 .each = j->k,
                 .shelf = {0},
                 .out = {j->y},
                 .bias = {a->down_bias}};
    uint64_t start = cpu_stat_begin(&j->c->dev);
    cpu_input_want(&p.in, p.w[0]);
    SP_TRY(cpu_input_reserve(&p.in, j->n_slot, true));
    sp_pool_run(j->c->pool, act_part, &p, j->n_slot, ROW_GRAIN);
    run_product(&p, SP_STAGE_DOWN, start);
    sp_pool_run(j->c->pool, join_part, j, a->n_row, ROW_GRAIN);
    return SP_OK;
}

sp_err cpu_experts(sp_dev *dev, const sp_dev_experts *a)
{
    plan j = {.c = (cpu_dev *)dev, .a = a, .k = a->router->k, .n_slot = a->n_row * a->route.n_used};
    SP_DASSERT(a->route.n_used >= 1 && a->route.n_used <= a->route.n_expert && a->n_row);
    SP_TRY(make_room(&j));
    const sp_dev_matmul router = {.out = &j.logits,
                                  .x = a->x,
                                  .norm = a->router_norm ? a->router_norm : a->norm,
                                  .eps = a->eps,
                                  .w = a->router,
                                  .bias = &a->router_bias,
                                  .n_w = 1,
                                  .n_row = a->n_row,
                                  .stage = SP_STAGE_GLU};
    SP_TRY(cpu_matmul(dev, &router));
    sp_pool_run(j.c->pool, choose_part, &j, a->n_row, ROW_GRAIN);
    sort_slots(&j);
    if (a->shelf) {
        const sp_dev_weight *const w[] = {a->down, a->is_plain ? &a->glu[1] : &a->glu[0],
                                          a->is_pair ? NULL : &a->glu[1]};
        const size_t each[] = {j.k, a->is_pair ? 2 * a->n_ff : a->n_ff, a->n_ff};
        SP_TRY(cpu_shelf_bring(j.c, a->shelf, a->shelf_first, j.busy, j.n_busy, w, each,
                               a->is_pair || a->is_plain ? 2 : 3));
    }
    SP_TRY(run_glu(&j));
    return run_down(&j);
}
