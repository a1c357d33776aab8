/* Layers with a state in the place of keys: what stands between the stream and the stream. Each has
 * three parts: products that take of the stream, the pass of what was taken through a state, and
 * what the stream is given. A step some of whose tokens may be taken back keeps what it took of
 * them; the step behind them passes it again through the state before. */
#include "model/forward_int.h"

/* Rows that pass states. */
typedef struct pass {
    const sp_dev_span *span;
    size_t n_span, n_row;
} pass;

/* What a pass takes beside w->mix: alpha, behind beta of all rows where these are matrices of their
 * own. */
static float *alpha_at(const sp_model *m, const sp_model_work *w, size_t n_row)
{
    const sp_arch_state *s = &m->arch.state;
    return w->ab + (s->joined ? s->n_head / s->n_head_k : n_row * s->n_head);
}

static sp_err pass_conv(const sp_model *m, sp_model_work *w, size_t i, const pass *p)
{
    const sp_arch *a = &m->arch;
    size_t n = a->n_embd;
    const sp_dev_conv conv = {.out = w->o,
                              .x = w->mix + 2 * n,
                              .ld = 3 * n,
                              .in_gate = w->mix,
                              .out_gate = w->mix + n,
                              .w = m->layer[i].conv,
                              .n_tap = a->state.n_tap,
                              .n_chan = n,
                              .span = p->span,
                              .n_span = p->n_span,
                              .state_at = a->layer[i].state_at};
    return m->dev->ops->conv(m->dev, &conv);
}

/* What a state is made of: each channel with those of the tokens before it. */
static sp_err mix_taps(const sp_model *m, sp_model_work *w, size_t i, const pass *p)
{
    const sp_arch_state *s = &m->arch.state;
    const sp_dev_conv conv = {.out = w->mixed,
                              .x = w->mix,
                              .ld = s->n_chan,
                              .w = m->layer[i].conv,
                              .bias = m->layer[i].conv_bias,
                              .act = SP_ACT_SILU,
                              .n_tap = s->n_tap,
                              .n_chan = s->n_chan,
                              .span = p->span,
                              .n_span = p->n_span,
                              .state_at = m->arch.layer[i].state_at};
    return m->dev->ops->conv(m->dev, &conv);
}

static sp_err pass_delta(const sp_model *m, sp_model_work *w, size_t i, const pass *p)
{
    const sp_arch *a = &m->arch;
    const sp_arch_state *s = &a->state;
    const sp_layer *l = &m->layer[i];
    size_t at = a->layer[i].state_at, n_beside = s->joined ? s->n_head / s->n_head_k : s->n_head;
    const sp_dev_delta delta = {.out = w->o,
                                .x = w->mixed,
                                .beta = w->ab,
                                .alpha = alpha_at(m, w, p->n_row),
                                .ld = s->joined ? 2 * s->n_head : s->n_head,
                                .n_beside = n_beside,
                                .step = s->joined ? 2 * n_beside : 0,
                                .dt = l->mix_dt,
                                .a = l->mix_a,
                                .n_head_k = s->n_head_k,
                                .n_head = s->n_head,
                                .d_k = s->d_k,
                                .d_v = s->d_v,
                                .neighbours = s->neighbours,
                                .eps = a->norm_eps,
                                .span = p->span,
                                .n_span = p->n_span,
                                .state_at = at + sp_arch_state_conv(a)};
    SP_TRY(mix_taps(m, w, i, p));
    return m->dev->ops->delta(m->dev, &delta);
}

static sp_err pass_ssm(const sp_model *m, sp_model_work *w, size_t i, const pass *p)
{
    const sp_arch *a = &m->arch;
    const sp_arch_state *s = &a->state;
    const sp_layer *l = &m->layer[i];
    size_t at = a->layer[i].state_at;
    const sp_dev_ssm ssm = {.out = w->o,
                            .x = w->mixed,
                            .dt = w->ab,
                            .dt_bias = l->mix_dt,
                            .a = l->mix_a,
                            .skip = l->mix_skip,
                            .n_group = s->n_head_k,
                            .n_head = s->n_head,
                            .d_k = s->d_k,
                            .d_v = s->d_v,
                            .span = p->span,
                            .n_span = p->n_span,
                            .state_at = at + sp_arch_state_conv(a)};
    SP_TRY(mix_taps(m, w, i, p));
    return m->dev->ops->ssm(m->dev, &ssm);
}

static sp_err pass_any(const sp_model *m, sp_model_work *w, size_t i, const pass *p)
{
    switch (m->arch.layer[i].mix) {
    case SP_MIX_CONV:
        return pass_conv(m, w, i, p);
    case SP_MIX_DELTA:
        return pass_delta(m, w, i, p);
    default:
        return pass_ssm(m, w, i, p);
    }
}

/* --- taking back ------------------------------------------------------------------------------ */

/* Rows that a pass takes, and the same rows of tokens in sp_kv_seq.kept. */
typedef struct part {
    float *x;
    size_t n;  /* elements of a row */
    size_t at; /* of the first row in `kept` */
} part;
enum { MAX_PART = 3 };

/* The parts of layer i where n_row rows are passed. */
static size_t parts_of(part out[MAX_PART], const sp_model *m, const sp_model_work *w, size_t i,
                       size_t n_row)
{
    const sp_arch *a = &m->arch;
    size_t i_state = a->layer[i].state_at / sp_arch_state_bytes(a), n_mix = sp_arch_kept_mix(a),
           n_beside = sp_arch_kept_beside(a);
    size_t at = i_state * (SP_KV_GUESS_TOK - 1) * (n_mix + n_beside), n = 0;
    bool is_split = a->layer[i].mix == SP_MIX_DELTA && !a->state.joined;
    out[n++] = (part){w->mix, n_mix, at};
    at += (SP_KV_GUESS_TOK - 1) * n_mix;
    if (n_beside)
        out[n++] = (part){w->ab, is_split ? n_beside / 2 : n_beside, at};
    if (is_split)
        out[n++] =
            (part){alpha_at(m, w, n_row), n_beside / 2, at + (SP_KV_GUESS_TOK - 1) * n_beside / 2};
    return n;
}

/* Keeps what was taken of the spans' leading tokens. */
static sp_err keep(const sp_model *m, sp_model_work *w, size_t i, size_t n_tok, size_t n_span)
{
    part all[MAX_PART];
    size_t n_part = parts_of(all, m, w, i, n_tok);
    for (size_t s = 0; s < n_span; s++) {
        const sp_forward_kept *k = &w->kept[s];
        for (size_t j = 0; j < n_part && k->n_keep; j++)
            SP_TRY(m->dev->ops->copy(m->dev, k->mem + all[j].at,
                                     all[j].x + w->span[s].row * all[j].n,
                                     k->n_keep * all[j].n * sizeof(float)));
    }
    return SP_OK;
}

/* Brings states to where the accepted tokens of the step before ended, by what was kept of these:
 * as many spans from *next on as there are rows for. */
static sp_err settle(const sp_model *m, sp_model_work *w, size_t i, size_t n_span, size_t *next)
{
    part all[MAX_PART];
    pass p = {.span = w->again};
    size_t first = *next;
    for (; *next < n_span && p.n_row + w->kept[*next].n_again <= w->cap_tok; ++*next) {
        const sp_forward_kept *k = &w->kept[*next];
        if (!k->n_again)
            continue;
        w->again[p.n_span++] =
            (sp_dev_span){.row = p.n_row, .n = k->n_again, .state = k->before, .next = k->settled};
        p.n_row += k->n_again;
    }
    if (!p.n_span)
        return SP_OK;
    size_t n_part = parts_of(all, m, w, i, p.n_row);
    for (size_t s = first, row = 0; s < *next; row += w->kept[s++].n_again)
        for (size_t j = 0; j < n_part && w->kept[s].n_again; j++)
            SP_TRY(m->dev->ops->copy(m->dev, all[j].x + row * all[j].n, w->kept[s].mem + all[j].at,
                                     w->kept[s].n_again * all[j].n * sizeof(float)));
    return pass_any(m, w, i, &p);
}

static sp_err settle_all(const sp_model *m, sp_model_work *w, size_t i, size_t n_span)
{
    for (size_t next = 0; next < n_span;)
        SP_TRY(settle(m, w, i, n_span, &next));
    return SP_OK;
}

/* --- layers ----------------------------------------------------------------------------------- */

sp_err sp_forward_conv(const sp_model *m, sp_model_work *w, size_t i, size_t n_tok, size_t n_span)
{
    const sp_layer *l = &m->layer[i];
    const pass p = {w->span, n_span, n_tok};
    sp_dev_matmul in = {.out = &w->mix,
                        .w = &l->mix_in,
                        .n_w = 1,
                        .n_row = n_tok,
                        .stage = SP_STAGE_QKV};
    const sp_dev_matmul out = {.x = w->o,
                               .w = &l->mix_out,
                               .n_w = 1,
                               .n_row = n_tok,
                               .stage = SP_STAGE_ATTN_OUT};
    SP_TRY(settle_all(m, w, i, n_span));
    SP_TRY(sp_forward_take(m, w, &in, l->attn_norm, l->attn_norm_bias));
    SP_TRY(m->dev->ops->matmul(m->dev, &in));
    SP_TRY(keep(m, w, i, n_tok, n_span));
    SP_TRY(pass_conv(m, w, i, &p));
    return sp_forward_add(m, w, &out, l->attn_post_norm, l->attn_sum_norm);
}

sp_err sp_forward_delta(const sp_model *m, sp_model_work *w, size_t i, size_t n_tok, size_t n_span)
{
    const sp_arch *a = &m->arch;
    const sp_arch_state *s = &a->state;
    const sp_layer *l = &m->layer[i];
    const pass p = {w->span, n_span, n_tok};
    const sp_dev_weight weight[] = {l->mix_in, l->mix_gate, l->mix_beta, l->mix_alpha};
    sp_dev_matmul in = {.out = (float *const[]){w->mix, w->gates, w->ab, alpha_at(m, w, n_tok)},
                        .w = weight,
                        .n_w = s->joined ? 3 : 4,
                        .n_row = n_tok,
                        .stage = SP_STAGE_QKV};
    const sp_dev_gate gate = {.x = w->o,
                              .n_row = n_tok,
                              .n_head = s->n_head,
                              .d = s->d_v,
                              .norm = l->mix_norm,
                              .eps = a->norm_eps,
                              .act = SP_ACT_SILU,
                              .gate = w->gates};
    const sp_dev_matmul out = {.x = w->o,
                               .w = &l->mix_out,
                               .n_w = 1,
                               .n_row = n_tok,
                               .stage = SP_STAGE_ATTN_OUT};
    SP_TRY(settle_all(m, w, i, n_span));
    SP_TRY(sp_forward_take(m, w, &in, l->attn_norm, l->attn_norm_bias));
    SP_TRY(m->dev->ops->matmul(m->dev, &in));
    SP_TRY(keep(m, w, i, n_tok, n_span));
    SP_TRY(pass_delta(m, w, i, &p));
    SP_TRY(m->dev->ops->gate(m->dev, &gate));
    return sp_forward_add(m, w, &out, l->attn_post_norm, l->attn_sum_norm);
}

sp_err sp_forward_ssm_take(const sp_model *m, sp_model_work *w, size_t i, size_t n_tok,
                           size_t n_span)
{
    const sp_layer *l = &m->layer[i];
    const sp_dev_weight weight[] = {l->mix_gate, l->mix_in, l->mix_step};
    sp_dev_matmul in = {.out = (float *const[]){w->gates, w->mix, w->ab},
                        .w = weight,
                        .n_w = 3,
                        .n_row = n_tok,
                        .stage = SP_STAGE_QKV};
    SP_TRY(settle_all(m, w, i, n_span));
    SP_TRY(sp_forward_take(m, w, &in, l->attn_norm, l->attn_norm_bias));
    SP_TRY(m->dev->ops->matmul(m->dev, &in));
    return keep(m, w, i, n_tok, n_span);
}

sp_err sp_forward_ssm(const sp_model *m, sp_model_work *w, size_t i, size_t n_tok, size_t n_span)
{
    const sp_arch *a = &m->arch;
    const sp_arch_state *s = &a->state;
    const sp_layer *l = &m->layer[i];
    const pass p = {w->span, n_span, n_tok};
    const sp_dev_gate gate = {.x = w->o,
                              .n_row = n_tok,
                              .n_head = s->n_head_k,
                              .d = s->n_head * s->d_v / s->n_head_k,
                              .norm = l->mix_norm,
                              .norm_last = true,
                              .eps = a->norm_eps,
                              .act = SP_ACT_SILU,
                              .gate = w->gates};
    const sp_dev_matmul out = {.x = w->o,
                               .w = &l->mix_out,
                               .n_w = 1,
                               .n_row = n_tok,
                               .stage = SP_STAGE_ATTN_OUT};
    SP_TRY(pass_ssm(m, w, i, &p));
    SP_TRY(m->dev->ops->gate(m->dev, &gate));
    return sp_forward_add(m, w, &out, l->attn_post_norm, l->attn_sum_norm);
}
