/* Layers with a state in the place of keys: what stands between the stream and the stream. */
#include "model/forward_int.h"

sp_err sp_forward_conv(const sp_model *m, sp_model_work *w, size_t i, size_t n_tok, size_t n_span)
{
    const sp_arch *a = &m->arch;
    const sp_layer *l = &m->layer[i];
    size_t n = a->n_embd;
    sp_dev_matmul in = {.out = &w->mix, .w = &l->mix_in, .n_w = 1, .n_row = n_tok, .stage = SP_STAGE_QKV};
    const sp_dev_conv conv = {.out = w->o, .x = w->mix + 2 * n, .ld = 3 * n, .in_gate = w->mix, .out_gate = w->mix + n, .w = l->conv,
                              .n_tap = a->state.n_tap, .n_chan = n, .span = w->span, .n_span = n_span, .state_at = a->layer[i].state_at};
    const sp_dev_matmul out = {.x = w->o, .w = &l->mix_out, .n_w = 1, .n_row = n_tok, .stage = SP_STAGE_ATTN_OUT};
    SP_TRY(sp_forward_take(m, w, &in, l->attn_norm, l->attn_norm_bias));
    SP_TRY(m->dev->ops->matmul(m->dev, &in));
    SP_TRY(m->dev->ops->conv(m->dev, &conv));
    return sp_forward_add(m, w, &out, l->attn_post_norm, l->attn_sum_norm);
}

sp_err sp_forward_delta(const sp_model *m, sp_model_work *w, size_t i, size_t n_tok, size_t n_span)
{
    const sp_arch *a = &m->arch;
    const sp_arch_state *s = &a->state;
    const sp_layer *l = &m->layer[i];
    const sp_dev_ops *ops = m->dev->ops;
    size_t at = a->layer[i].state_at, n_beside = s->joined ? s->n_head / s->n_head_k : s->n_head;
    float *alpha = w->ab + (s->joined ? n_beside : n_tok * s->n_head);
    const sp_dev_weight weight[] = {l->mix_in, l->mix_gate, l->mix_beta, l->mix_alpha};
    sp_dev_matmul in = {.out = (float *const[]){w->mix, w->gates, w->ab, alpha}, .w = weight, .n_w = s->joined ? 3 : 4, .n_row = n_tok,
                        .stage = SP_STAGE_QKV};
    const sp_dev_conv conv = {.out = w->mixed, .x = w->mix, .ld = s->n_chan, .w = l->conv, .act = SP_ACT_SILU, .n_tap = s->n_tap,
                              .n_chan = s->n_chan, .span = w->span, .n_span = n_span, .state_at = at};
    const sp_dev_delta delta = {.out = w->o, .x = w->mixed, .beta = w->ab, .alpha = alpha, .ld = s->joined ? 2 * s->n_head : s->n_head,
                                .n_beside = n_beside, .step = s->joined ? 2 * n_beside : 0, .dt = l->mix_dt, .a = l->mix_a,
                                .n_head_k = s->n_head_k, .n_head = s->n_head, .d_k = s->d_k, .d_v = s->d_v, .neighbours = s->neighbours,
                                .eps = a->norm_eps, .span = w->span, .n_span = n_span, .state_at = at + sp_arch_state_conv(a)};
    const sp_dev_gate gate = {.x = w->o, .n_row = n_tok, .n_head = s->n_head, .d = s->d_v, .norm = l->mix_norm, .eps = a->norm_eps,
                              .act = SP_ACT_SILU, .gate = w->gates};
    const sp_dev_matmul out = {.x = w->o, .w = &l->mix_out, .n_w = 1, .n_row = n_tok, .stage = SP_STAGE_ATTN_OUT};
    SP_TRY(sp_forward_take(m, w, &in, l->attn_norm, l->attn_norm_bias));
    SP_TRY(ops->matmul(m->dev, &in));
    SP_TRY(ops->conv(m->dev, &conv));
    SP_TRY(ops->delta(m->dev, &delta));
    SP_TRY(ops->gate(m->dev, &gate));
    return sp_forward_add(m, w, &out, l->attn_post_norm, l->attn_sum_norm);
}

sp_err sp_forward_ssm_take(const sp_model *m, sp_model_work *w, size_t i, size_t n_tok)
{
    const sp_layer *l = &m->layer[i];
    const sp_dev_weight weight[] = {l->mix_gate, l->mix_in, l->mix_step};
    sp_dev_matmul in = {.out = (float *const[]){w->gates, w->mix, w->ab}, .w = weight, .n_w = 3, .n_row = n_tok, .stage = SP_STAGE_QKV};
    SP_TRY(sp_forward_take(m, w, &in, l->attn_norm, l->attn_norm_bias));
    return m->dev->ops->matmul(m->dev, &in);
}

sp_err sp_forward_ssm(const sp_model *m, sp_model_work *w, size_t i, size_t n_tok, size_t n_span)
{
    const sp_arch *a = &m->arch;
    const sp_arch_state *s = &a->state;
    const sp_layer *l = &m->layer[i];
    const sp_dev_ops *ops = m->dev->ops;
    size_t at = a->layer[i].state_at, n_inner = s->n_head * s->d_v;
    const sp_dev_conv conv = {.out = w->mixed, .x = w->mix, .ld = s->n_chan, .w = l->conv, .bias = l->conv_bias, .act = SP_ACT_SILU,
                              .n_tap = s->n_tap, .n_chan = s->n_chan, .span = w->span, .n_span = n_span, .state_at = at};
    const sp_dev_ssm ssm = {.out = w->o, .x = w->mixed, .dt = w->ab, .dt_bias = l->mix_dt, .a = l->mix_a, .skip = l->mix_skip,
                            .n_group = s->n_head_k, .n_head = s->n_head, .d_k = s->d_k, .d_v = s->d_v, .span = w->span, .n_span = n_span,
                            .state_at = at + sp_arch_state_conv(a)};
    const sp_dev_gate gate = {.x = w->o, .n_row = n_tok, .n_head = s->n_head_k, .d = n_inner / s->n_head_k, .norm = l->mix_norm,
                              .norm_last = true, .eps = a->norm_eps, .act = SP_ACT_SILU, .gate = w->gates};
    const sp_dev_matmul out = {.x = w->o, .w = &l->mix_out, .n_w = 1, .n_row = n_tok, .stage = SP_STAGE_ATTN_OUT};
    SP_TRY(ops->conv(m->dev, &conv));
    SP_TRY(ops->ssm(m->dev, &ssm));
    SP_TRY(ops->gate(m->dev, &gate));
    return sp_forward_add(m, w, &out, l->attn_post_norm, l->attn_sum_norm);
}
