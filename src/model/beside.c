/* What stands beside the usual branches of a layer: a dense part next to experts, and what the
 * layer adds of its token. */
#include "model/forward_int.h"

#include <math.h>

/* RMS norm of rows [n_tok, n_embd] in place. */
static sp_err norm_rows(const sp_model *m, float *x, const float *norm, size_t n_tok)
{
    const sp_dev_heads h = {.x = x,
                            .n_row = n_tok,
                            .n_head = 1,
                            .d = m->arch.n_embd,
                            .norm = norm,
                            .eps = m->arch.norm_eps};
    return m->dev->ops->heads(m->dev, &h);
}

sp_err sp_forward_beside(const sp_model *m, sp_model_work *w, size_t i, size_t n_tok)
{
    const sp_arch *a = &m->arch;
    const sp_layer *l = &m->layer[i];
    const sp_dev_ops *ops = m->dev->ops;
    const sp_dev_matmul glu = {.out = (float *const[]){w->gate, w->up},
                               .x = w->x,
                               .norm = l->ffn_norm,
                               .eps = a->norm_eps,
                               .w = l->glu,
                               .n_w = 2,
                               .n_row = n_tok,
                               .stage = SP_STAGE_GLU};
    const sp_dev_matmul down = {.out = &w->y,
                                .x = w->gate,
                                .act = a->act,
                                .up = w->up,
                                .w = &l->ffn_down,
                                .n_w = 1,
                                .n_row = n_tok,
                                .stage = SP_STAGE_DOWN};
    sp_dev_experts e = sp_forward_experts_of(m, w, i, n_tok);
    e.out = w->z;
    e.norm = l->beside_norm[1];
    e.router_norm = l->router_norm;
    e.router_scale = 1 / sqrtf((float)a->n_embd);
    e.weight_scale = l->expert_scale;
    SP_TRY(ops->matmul(m->dev, &glu));
    SP_TRY(ops->matmul(m->dev, &down));
    SP_TRY(norm_rows(m, w->y, l->beside_norm[0], n_tok));
    SP_TRY(ops->experts(m->dev, &e));
    SP_TRY(norm_rows(m, w->z, l->beside_norm[2], n_tok));
    SP_TRY(ops->add(m->dev, w->y, w->z, n_tok * a->n_embd));
    return ops->join(m->dev, w->x, w->y, l->ffn_post_norm, a->norm_eps, a->branch_scale, n_tok,
                     a->n_embd);
}

/* To w->side what the layer is given: (norm(side_in . beginning / sqrt(n_embd)) + row of the token
 * * sqrt(n_side)) / sqrt(2). The norm takes a factor of its input away, so that it stands in its
 * eps. */
static sp_err make_side(const sp_model *m, sp_model_work *w, size_t i, size_t n_tok)
{
    const sp_arch *a = &m->arch;
    const sp_dev_ops *ops = m->dev->ops;
    size_t n = a->n_side;
    const sp_dev_matmul in = {.out = &w->side,
                              .x = w->first,
                              .w = &m->layer[i].side_in,
                              .n_w = 1,
                              .n_row = n_tok,
                              .stage = SP_STAGE_REST};
    const sp_dev_heads norm = {.x = w->side,
                               .n_row = n_tok,
                               .n_head = 1,
                               .d = n,
                               .norm = m->side_norm,
                               .eps = a->norm_eps * (float)a->n_embd};
    const sp_dev_embed_part rows = {.out = w->side_in,
                                    .w = &m->side_table,
                                    .id = w->tok,
                                    .n_row = n_tok,
                                    .from = i * n,
                                    .n = n,
                                    .scale = sqrtf((float)n)};
    SP_TRY(ops->matmul(m->dev, &in));
    SP_TRY(ops->heads(m->dev, &norm));
    SP_TRY(ops->embed_part(m->dev, &rows));
    SP_TRY(ops->add(m->dev, w->side, w->side_in, n_tok * n));
    return ops->soft_cap(m->dev, w->side, n_tok * n, sqrtf(0.5f), 0);
}

sp_err sp_forward_side(const sp_model *m, sp_model_work *w, size_t i, size_t n_tok)
{
    const sp_arch *a = &m->arch;
    const sp_layer *l = &m->layer[i];
    const sp_dev_ops *ops = m->dev->ops;
    const sp_dev_matmul gate = {.out = &w->side_in,
                                .x = w->x,
                                .w = &l->side_gate,
                                .n_w = 1,
                                .n_row = n_tok,
                                .stage = SP_STAGE_REST};
    const sp_dev_matmul out = {.out = &w->y,
                               .x = w->side_in,
                               .act = a->act,
                               .up = w->side,
                               .w = &l->side_out,
                               .n_w = 1,
                               .n_row = n_tok,
                               .stage = SP_STAGE_REST};
    SP_TRY(make_side(m, w, i, n_tok));
    SP_TRY(ops->matmul(m->dev, &gate));
    SP_TRY(ops->matmul(m->dev, &out));
    return ops->join(m->dev, w->x, w->y, l->side_post_norm, a->norm_eps, 1, n_tok, a->n_embd);
}
