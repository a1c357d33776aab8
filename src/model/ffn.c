/* What a layer does with each token alone: a dense network, or experts and what all tokens take
 * beside them. */
#include "model/forward_int.h"

sp_err sp_forward_dense(const sp_model *m, sp_model_work *w, size_t i, size_t n_tok)
{
    const sp_layer *l = &m->layer[i];
    bool has_gate = l->glu[0].data;
    size_t first = has_gate ? 0 : 1;
    sp_dev_matmul glu = {.out = (float *const[]){w->gate, w->up} + first,
                         .w = l->glu + first,
                         .bias = (const float *const *)l->glu_bias + first,
                         .n_w = 2 - first,
                         .n_row = n_tok,
                         .stage = SP_STAGE_GLU};
    const sp_dev_matmul down = {.x = has_gate ? w->gate : w->up,
                                .act = m->arch.act,
                                .up = has_gate ? w->up : NULL,
                                .w = &l->ffn_down,
                                .bias = (const float *const *)&l->ffn_down_bias,
                                .n_w = 1,
                                .n_row = n_tok,
                                .stage = SP_STAGE_DOWN};
    SP_TRY(sp_forward_take(m, w, &glu, l->ffn_norm, l->ffn_norm_bias));
    SP_TRY(m->dev->ops->matmul(m->dev, &glu));
    return sp_forward_add(m, w, &down, l->ffn_post_norm, l->ffn_sum_norm);
}

sp_dev_experts sp_forward_experts_of(const sp_model *m, const sp_model_work *w, size_t i,
                                     size_t n_tok)
{
    const sp_arch *a = &m->arch;
    const sp_layer *l = &m->layer[i];
    return (sp_dev_experts){.x = w->x,
                            .eps = a->norm_eps,
                            .n_row = n_tok,
                            .n_ff = a->n_ff_expert,
                            .route = a->route,
                            .router = &l->router,
                            .router_bias = l->router_bias,
                            .pick_bias = l->pick_bias,
                            .glu = l->expert_pair.data ? &l->expert_pair : l->expert_glu,
                            .is_pair = l->expert_pair.data,
                            .glu_bias = (const float *const *)l->expert_glu_bias,
                            .act = a->act,
                            .down = &l->expert_down,
                            .down_bias = l->expert_down_bias,
                            .shelf = m->shelf,
                            .shelf_first = i * a->route.n_expert};
}

sp_err sp_forward_experts(const sp_model *m, sp_model_work *w, size_t i, size_t n_tok)
{
    const sp_arch *a = &m->arch;
    const sp_layer *l = &m->layer[i];
    const sp_dev_ops *ops = m->dev->ops;
    bool plain = a->plain_experts;
    sp_dev_experts e = sp_forward_experts_of(m, w, i, n_tok);
    e.out = w->y;
    e.norm = l->ffn_norm;
    e.is_plain = plain;
    const sp_dev_matmul glu = {.out = (float *const[]){w->gate, w->up} + plain,
                               .x = w->x,
                               .norm = l->ffn_norm,
                               .eps = a->norm_eps,
                               .w = l->shared_glu + plain,
                               .n_w = 2u - plain,
                               .n_row = n_tok,
                               .stage = SP_STAGE_GLU};
    const sp_dev_matmul down = {.out = &w->y,
                                .x = plain ? w->up : w->gate,
                                .act = a->act,
                                .up = plain ? NULL : w->up,
                                .w = &l->shared_down,
                                .n_w = 1,
                                .n_row = n_tok,
                                .add = true,
                                .stage = SP_STAGE_DOWN};
    const sp_dev_matmul one = {.out = &w->ab,
                               .x = w->x,
                               .norm = l->ffn_norm,
                               .eps = a->norm_eps,
                               .w = &l->shared_gate,
                               .n_w = 1,
                               .n_row = n_tok,
                               .stage = SP_STAGE_GLU};
    const sp_dev_gate gate = {.x = w->up,
                              .n_row = n_tok,
                              .n_head = 1,
                              .d = a->layer[i].n_ff,
                              .act = SP_ACT_SIGMOID,
                              .gate = w->ab,
                              .is_row = true};
    SP_TRY(ops->experts(m->dev, &e));
    if (a->layer[i].n_ff) {
        SP_TRY(ops->matmul(m->dev, &glu));
        if (a->shared_gate) { /* of up, not of the product's result: it is the same, and narrower */
            SP_TRY(ops->matmul(m->dev, &one));
            SP_TRY(ops->gate(m->dev, &gate));
        }
        SP_TRY(ops->matmul(m->dev, &down));
    }
    return ops->join(m->dev, w->x, w->y, l->ffn_post_norm, a->norm_eps, a->branch_scale, n_tok,
                     a->n_embd);
}
