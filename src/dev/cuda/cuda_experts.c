/* Mixtures of experts on the CUDA device. Who goes where stays on the device: choices become slots
 * there (experts.cu), and products run over as many pieces of slots as there could be, of which
 * those that hold nothing end at once. So an expert's matrices are read once for up to a piece's
 * rows, and nothing waits for the host. */
#include "dev/cuda/cuda.h"

typedef struct plan {
    cuda_dev *c;
    const sp_dev_experts *a;
    uint32_t n_slot, k, n_tile, tile_tok;
    float *logits, *weight;
    uint32_t *pick, *slot, *row, *first;
    sp_cuda_tile *tile;
    float *gate, *up, *y; /* of slots: n_ff twice, k */
} plan;

/* Pieces are as long as an expert's rows are likely to be, of the sizes that products have. */
static uint32_t piece(size_t n_slot, size_t n_expert)
{
    size_t n = 2 * n_slot / n_expert;
    return n <= 8 ? 8 : n <= 32 ? 32 : 64;
}

static sp_err make_room(plan *j)
{
    const sp_dev_experts *a = j->a;
    const size_t n_expert = a->route.n_expert, n = j->n_slot;
    j->tile_tok = piece(n, n_expert);
    j->n_tile = (uint32_t)((n < n_expert ? n : n_expert) + n / j->tile_tok);
    SP_TRY(cuda_grow(j->c, &j->c->routes,
                     (a->n_row * n_expert + 4 * n + n_expert + 1) * sizeof(float) +
                         j->n_tile * sizeof *j->tile));
    SP_TRY(cuda_grow(j->c, &j->c->slots, n * (2 * a->n_ff + j->k) * sizeof(float)));
    j->logits = j->c->routes.p;
    j->weight = j->logits + a->n_row * n_expert;
    j->pick = (uint32_t *)(j->weight + n);
    j->slot = j->pick + n;
    j->row = j->slot + n;
    j->first = j->row + n;
    j->tile = (sp_cuda_tile *)(j->first + n_expert + 1);
    j->gate = j->c->slots.p;
    j->up = j->gate + n * a->n_ff;
    j->y = j->up + n * a->n_ff;
    return SP_OK;
}

static sp_err choose(const plan *j)
{
    const sp_dev_experts *a = j->a;
    const sp_dev_route *r = &a->route;
    float *const out = j->logits;
    const sp_dev_matmul router = {.out = &out,
                                  .x = a->x,
                                  .norm = a->router_norm ? a->router_norm : a->norm,
                                  .eps = a->eps,
                                  .w = a->router,
                                  .bias = &a->router_bias,
                                  .n_w = 1,
                                  .n_row = a->n_row,
                                  .stage = SP_STAGE_GLU};
    const sp_cuda_choose choice = {.pick = j->pick,
                                   .weight = j->weight,
                                   .score = j->logits,
                                   .pick_bias = a->pick_bias,
                                   .weight_scale = a->weight_scale,
                                   .n_row = (uint32_t)a->n_row,
                                   .n_expert = (uint32_t)r->n_expert,
                                   .n_used = (uint32_t)r->n_used,
                                   .n_group = (uint32_t)r->n_group,
                                   .n_group_used = (uint32_t)r->n_group_used,
                                   .by_one = r->group_by_one,
                                   .kind = (uint32_t)r->score,
                                   .normed = r->normed,
                                   .router_scale = a->router_scale,
                                   .scale = r->scale};
    const sp_cuda_sort sort = {.pick = j->pick,
                               .slot = j->slot,
                               .row = j->row,
                               .first = j->first,
                               .tile = j->tile,
                               .n_slot = j->n_slot,
                               .n_used = (uint32_t)r->n_used,
                               .n_expert = (uint32_t)r->n_expert,
                               .n_tile = j->n_tile,
                               .tile_tok = j->tile_tok};
    SP_TRY(cuda_matmul(&j->c->dev, &router));
    SP_TRY(cuda_try(j->c, j->c->lib->choose(&choice), "a choice of experts"));
    return cuda_try(j->c, j->c->lib->sort(&sort), "rows of experts");
}

/* Of each expert's `each` rows of w the n_out from `skip` on meet its slots. */
typedef struct piece_rows {
    float *out;
    const sp_dev_weight *w;
    const float *bias;
    size_t each, skip, n_out;
} piece_rows;

/* Products that share their rows; *n_bytes counts what they read if all experts are busy. */
static sp_err multiply(const plan *j, const sp_cuda_prep *in, const piece_rows *m, size_t n)
{
    cuda_dev *c = j->c;
    bool is_ready[2] = {false, false};
    for (size_t i = 0; i < n; i++) {
        const bool two = cuda_takes_two(m[i].w);
        const float *scale = m[i].w->scale;
        if (!is_ready[two])
            SP_TRY(cuda_prepare(c, *in, two));
        is_ready[two] = true;
        if (scale)
            SP_TRY(cuda_put(c, &c->scales, scale, j->a->route.n_expert * sizeof *scale));
        const sp_cuda_product p = {.out = m[i].out,
                                   .w = cuda_rows(m[i].w),
                                   .hi = two ? c->hi.p : c->half.p,
                                   .lo = two ? c->lo.p : NULL,
                                   .unit = c->unit.p,
                                   .bias = m[i].bias,
                                   .tile = j->tile,
                                   .scales = scale ? c->scales.p : NULL,
                                   .n_tok = j->n_slot,
                                   .ld = (uint32_t)m[i].n_out,
                                   .n_out = (uint32_t)m[i].n_out,
                                   .n_tile = j->n_tile,
                                   .tile_tok = j->tile_tok,
                                   .each = (uint32_t)m[i].each,
                                   .skip = (uint32_t)m[i].skip,
                                   .scale = 1};
        SP_TRY(cuda_try(c, c->lib->product(&p), "a product of experts"));
    }
    return SP_OK;
}

/* Books a product as if every expert that can be busy was. */
static void note(const plan *j, sp_dev_stage stage, uint64_t start, const sp_dev_weight *w,
                 size_t n_w, size_t n_out)
{
    const size_t n_expert = j->a->route.n_expert, n = j->n_slot < n_expert ? j->n_slot : n_expert;
    cuda_stat_end(&j->c->dev, stage, start,
                  (double)(n * n_w * n_out * sp_type_row_bytes(w->type, w->k)),
                  (double)(n_w * n_out * w->k) * (double)j->n_slot);
}

static sp_err run_glu(const plan *j)
{
    const sp_dev_experts *a = j->a;
    const size_t n = a->n_ff, each = a->is_pair ? 2 * n : n, first = a->is_plain ? 1 : 0;
    const sp_cuda_prep in =
        {.x = a->x, .row = j->row, .norm = a->norm, .n_row = j->n_slot, .k = j->k, .eps = a->eps};
    const sp_dev_weight *up = a->is_pair ? &a->glu[0] : &a->glu[1];
    const piece_rows m[] = {{j->gate, &a->glu[0], a->glu_bias[0], each, 0, n},
                            {j->up, up, a->glu_bias[1], each, a->is_pair ? n : 0, n}};
    uint64_t start = cuda_stat_begin(&j->c->dev);
    SP_TRY(multiply(j, &in, m + first, 2 - first));
    note(j, SP_STAGE_GLU, start, up, 2 - first, n);
    return SP_OK;
}

static sp_err run_down(const plan *j)
{
    const sp_dev_experts *a = j->a;
    const sp_cuda_prep in = {.x = a->is_plain ? j->up : j->gate,
                             .up = a->is_plain ? NULL : j->up,
                             .n_row = j->n_slot,
                             .k = (uint32_t)a->n_ff,
                             .act = (uint32_t)a->act};
    const piece_rows m = {j->y, a->down, a->down_bias, j->k, 0, j->k};
    const sp_cuda_gather gather = {.out = a->out,
                                   .y = j->y,
                                   .weight = j->weight,
                                   .slot = j->slot,
                                   .n_row = (uint32_t)a->n_row,
                                   .n_used = (uint32_t)a->route.n_used,
                                   .k = j->k};
    uint64_t start = cuda_stat_begin(&j->c->dev);
    SP_TRY(multiply(j, &in, &m, 1));
    SP_TRY(cuda_try(j->c, j->c->lib->gather(&gather), "a sum of experts"));
    note(j, SP_STAGE_DOWN, start, a->down, 1, j->k);
    return SP_OK;
}

sp_err cuda_experts(sp_dev *dev, const sp_dev_experts *a)
{
    plan j = {.c = (cuda_dev *)dev,
              .a = a,
              .n_slot = (uint32_t)(a->n_row * a->route.n_used),
              .k = (uint32_t)a->router->k};
    SP_DASSERT(!a->shelf && a->route.n_used >= 1 && a->route.n_used <= a->route.n_expert);
    SP_TRY(make_room(&j));
    SP_TRY(choose(&j));
    SP_TRY(run_glu(&j));
    return run_down(&j);
}
