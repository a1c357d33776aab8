/* Multi-head latent attention of one layer (sp_arch_latent), absorbed: all heads of a query meet
 * one key, and what they take from it is a latent, of which each head then makes its value. Chunks
 * of a prompt run the same way as single tokens, so that neither their size nor a batch changes a
 * bit. */
#include "model/forward_int.h"

/* Queries [n_head, d_query] to w->o, in one step from the stream or in two, and the token's key to
 * w->k. */
static sp_err project(const sp_model *m, sp_model_work *w, const sp_layer *l, size_t n_tok)
{
    const sp_dev_ops *ops = m->dev->ops;
    bool two = l->low_q.data;
    const sp_dev_weight first[] = {two ? l->low_q : l->qkv[0], l->qkv[1]};
    sp_dev_matmul in = {.out = (float *const[]){two ? w->v : w->o, w->k},
                        .w = first,
                        .n_w = 2,
                        .n_row = n_tok,
                        .stage = SP_STAGE_QKV};
    const sp_dev_matmul queries = {.out = &w->o,
                                   .x = w->v,
                                   .norm = l->low_q_norm,
                                   .eps = m->arch.norm_eps,
                                   .w = &l->qkv[0],
                                   .n_w = 1,
                                   .n_row = n_tok,
                                   .stage = SP_STAGE_QKV};
    SP_TRY(sp_forward_take(m, w, &in, l->attn_norm, l->attn_norm_bias));
    SP_TRY(ops->matmul(m->dev, &in));
    return two ? ops->matmul(m->dev, &queries) : SP_OK;
}

/* RoPE over the last d_rot elements of queries and of the key, whose latent is normed; then
 * queries [n_head, d_head] in w->q: what key elements weigh, behind it the part with RoPE. */
static sp_err absorb(const sp_model *m, sp_model_work *w, const sp_layer *l, size_t i, size_t n_tok)
{
    const sp_arch *a = &m->arch;
    const sp_dev_ops *ops = m->dev->ops;
    sp_dev_heads q = {.x = w->o,
                      .n_row = n_tok,
                      .n_head = a->n_head,
                      .d = a->latent.d_query,
                      .turn = sp_forward_turn(m, w, i)};
    const sp_dev_heads k = {.x = w->k,
                            .n_row = n_tok,
                            .n_head = 1,
                            .d = a->d_head,
                            .norm = l->head_norm[1],
                            .n_norm = a->latent.n,
                            .eps = a->norm_eps,
                            .turn = q.turn};
    q.turn.first = a->latent.d_query - a->d_rot;
    const sp_dev_each_head in = {.out = w->q,
                                 .ld_out = a->d_head,
                                 .x = w->o,
                                 .ld_x = a->latent.d_query,
                                 .w = &l->absorb,
                                 .n_copy = a->d_rot,
                                 .n_head = a->n_head,
                                 .n_row = n_tok,
                                 .stage = SP_STAGE_QKV};
    SP_TRY(ops->heads(m->dev, &q));
    SP_TRY(ops->heads(m->dev, &k));
    return ops->each_head(m->dev, &in);
}

sp_err sp_forward_latent(const sp_model *m, sp_model_work *w, const sp_kv_shape *shape, size_t i,
                         const sp_model_span *of, size_t n_tok, size_t n_span)
{
    const sp_arch *a = &m->arch;
    const sp_layer *l = &m->layer[i];
    const sp_dev_each_head values = {.out = w->q,
                                     .ld_out = a->latent.d_value,
                                     .x = w->o,
                                     .ld_x = a->latent.n,
                                     .w = &l->value,
                                     .n_head = a->n_head,
                                     .n_row = n_tok,
                                     .stage = SP_STAGE_ATTN_OUT};
    const sp_dev_matmul out = {.x = w->q,
                               .w = &l->attn_out,
                               .bias = (const float *const *)&l->attn_out_bias,
                               .n_w = 1,
                               .n_row = n_tok,
                               .stage = SP_STAGE_ATTN_OUT};
    SP_TRY(project(m, w, l, n_tok));
    SP_TRY(absorb(m, w, l, i, n_tok));
    SP_TRY(sp_forward_attend(m, w, shape, i, of, n_span));
    SP_TRY(m->dev->ops->each_head(m->dev, &values));
    return sp_forward_add(m, w, &out, l->attn_post_norm, l->attn_sum_norm);
}
