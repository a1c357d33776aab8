/* The one forward pass, of decoders over pages and of encoders over whole texts. Knows no
 * architecture by name and allocates nothing. */
#include "base/mem.h"
#include "model/forward_int.h"

#include <math.h>
#include <string.h>

enum { DENSE_LAYERS = 2 };

sp_err sp_model_embed(const sp_model *m, float *out, const uint32_t *tok, size_t n)
{
    return m->dev->ops->embed(m->dev, out, &m->embd, tok, n, m->arch.embd_scale);
}

sp_err sp_model_output_rows(const sp_model *m, float *out, const uint32_t *tok, size_t n)
{
    return m->dev->ops->embed(m->dev, out, &m->output, tok, n, 1);
}

const float *sp_model_output_norm(const sp_model *m)
{
    return m->output_norm;
}

/* Copies the stream behind layer i to where callers look for it, if one does. */
static sp_err keep_states(const sp_model *m, sp_model_work *w, size_t i, size_t n_tok)
{
    for (size_t k = 0; k < w->n_keep; k++)
        if (w->keep_of[k] == i)
            return m->dev->ops->copy(m->dev, w->keep[k], w->x,
                                     n_tok * m->arch.n_embd * sizeof(float));
    return SP_OK;
}

sp_dev_turn sp_forward_turn(const sp_model *m, const sp_model_work *w, size_t i_layer)
{
    sp_rope_of of = m->arch.layer[i_layer].rope;
    return (sp_dev_turn){.cs = of == SP_ROPE_OFF ? NULL : w->cs[of],
                         .d_rot = of == SP_ROPE_OFF ? 0 : m->arch.rope[of].d_rot,
                         .halves = m->arch.rope_halves,
                         .first = m->arch.latent.n};
}

sp_err sp_forward_take(const sp_model *m, sp_model_work *w, sp_dev_matmul *first, const float *norm,
                       const float *bias)
{
    const sp_arch *a = &m->arch;
    bool is_normed = norm && a->layer_norm;
    first->x = is_normed ? w->y : w->x;
    first->norm = is_normed ? NULL : norm;
    first->eps = a->norm_eps;
    return is_normed ? m->dev->ops->norm_layer(m->dev, w->y, w->x, norm, bias, first->n_row,
                                               a->n_embd, a->norm_eps)
                     : SP_OK;
}

sp_err sp_forward_add(const sp_model *m, sp_model_work *w, const sp_dev_matmul *last,
                      const float *post_norm, float *const sum_norm[2])
{
    const sp_arch *a = &m->arch;
    sp_dev_matmul p = *last;
    p.out = sp_forward_joins(a) ? &w->y : &w->x;
    p.add = !sp_forward_joins(a);
    SP_TRY(m->dev->ops->matmul(m->dev, &p));
    if (sp_forward_joins(a))
        SP_TRY(m->dev->ops->join(m->dev, w->x, w->y, post_norm, a->norm_eps, a->branch_scale,
                                 p.n_row, a->n_embd));
    return sum_norm[0] ? m->dev->ops->norm_layer(m->dev, w->x, w->x, sum_norm[0], sum_norm[1],
                                                 p.n_row, a->n_embd, a->norm_eps)
                       : SP_OK;
}

/* Guesses of a sequence that may leave out attention become queries of their own, so that each
 * leaves out just what a step of one token would: a guess stays in the page that is being filled,
 * and so all of them see the same whole pages. Returns the number of spans; *out: those. */
static size_t part_guesses(sp_model_work *w, const sp_model_span *of, size_t n_span,
                           const sp_dev_span **out)
{
    size_t n = 0;
    bool any = false;
    for (size_t s = 0; s < n_span; s++) {
        const sp_kv_seq *q = of[s].seq;
        bool apart = of[s].may_go_back && q->eps > 0;
        for (size_t i = 0; i < (apart ? of[s].n : 1); i++) {
            sp_dev_span *x = &w->each[n++];
            *x = w->span[s];
            if (!apart)
                continue;
            x->row += i;
            x->pos += i;
            x->n = 1;
            x->eps = x->pos >= q->eps_from ? q->eps : 0;
        }
        any = any || apart;
    }
    *out = any ? w->each : w->span;
    return any ? n : n_span;
}

sp_err sp_forward_attend(const sp_model *m, sp_model_work *w, const sp_kv_shape *shape, size_t i,
                         const sp_model_span *of, size_t n_span)
{
    const sp_arch *a = &m->arch;
    const sp_arch_layer *al = &a->layer[i];
    size_t n_q = a->n_head * al->d_head, n_kv = al->n_head_kv * al->d_head;
    for (size_t s = 0; s < n_span && !shape; s++) {
        size_t row = w->span[s].row;
        const sp_dev_attn_full full = {.out = w->o + row * n_q,
                                       .q = w->q + row * n_q,
                                       .k = w->k + row * n_kv,
                                       .v = w->v + row * n_kv,
                                       .n = w->span[s].n,
                                       .n_head = a->n_head,
                                       .n_head_kv = al->n_head_kv,
                                       .d = al->d_head,
                                       .scale = a->attn_scale,
                                       .causal = !a->both_ways,
                                       .window = a->layer[i].window};
        SP_TRY(m->dev->ops->attn_full(m->dev, &full));
    }
    if (!shape)
        return SP_OK;
    const sp_dev_kv_view kv = sp_kv_page_view(shape, al->i_page);
    sp_dev_attn attn = {.out = w->o,
                        .q = w->q,
                        .k = al->is_shared ? NULL : w->k,
                        .v = w->v,
                        .kept = al->kept,
                        .kv = &kv,
                        .n_q_head = a->n_head,
                        .scale = a->attn_scale,
                        .window = a->layer[i].window,
                        .cap = a->attn_cap,
                        .sinks = m->layer[i].sinks};
    for (size_t s = 0; s < n_span; s++) /* the first layers are too flat to choose pages in */
        w->span[s].keep =
            i < DENSE_LAYERS || w->span[s].pos < of[s].seq->eps_from ? 0 : of[s].seq->keep;
    for (size_t s = 0; s < n_span; s++)
        SP_TRY(sp_kv_seq_wait(
            of[s].seq,
            sp_kv_page_block_of(
                shape, al->i_page))); /* pages that are still being loaded come block by block */
    attn.n_span = part_guesses(w, of, n_span, &attn.span);
    return m->dev->ops->attn_paged(m->dev, &attn);
}

static sp_err run_attn(const sp_model *m, sp_model_work *w, const sp_kv_shape *shape, size_t i,
                       const sp_model_span *of, size_t n_tok, size_t n_span)
{
    const sp_arch *a = &m->arch;
    const sp_arch_layer *al = &a->layer[i];
    const sp_layer *l = &m->layer[i];
    const sp_dev_ops *ops = m->dev->ops;
    sp_dev *dev = m->dev;
    sp_dev_matmul qkv = {.out = (float *const[]){a->attn_gate ? w->mix : w->q, w->k, w->v},
                         .w = l->qkv,
                         .bias = (const float *const *)l->qkv_bias,
                         .n_w = al->is_shared    ? 1
                                : l->qkv[2].data ? 3
                                                 : 2,
                         .n_row = n_tok,
                         .stage = SP_STAGE_QKV};
    const sp_dev_matmul attn_out = {.x = w->o,
                                    .w = &l->attn_out,
                                    .bias = (const float *const *)&l->attn_out_bias,
                                    .n_w = 1,
                                    .n_row = n_tok,
                                    .stage = SP_STAGE_ATTN_OUT};
    sp_dev_heads q = {.x = w->q,
                      .n_row = n_tok,
                      .n_head = a->n_head,
                      .d = al->d_head,
                      .norm = l->head_norm[0],
                      .is_whole = a->head_norm == SP_HEAD_NORM_WHOLE,
                      .norm_last = a->head_norm == SP_HEAD_NORM_LAST,
                      .eps = a->norm_eps,
                      .turn = sp_forward_turn(m, w, i)};
    const sp_dev_gate gate = {.x = w->o,
                              .n_row = n_tok,
                              .n_head = a->n_head,
                              .d = a->d_head,
                              .act = SP_ACT_SIGMOID,
                              .gate = w->gates};
    sp_dev_heads k = q;
    q.scale = a->temp_scale > 0 ? w->temp : NULL;
    k.x = w->k;
    k.n_head = al->n_head_kv;
    k.norm = l->head_norm[1];
    const sp_dev_heads v = {.x = w->v,
                            .n_row = n_tok,
                            .n_head = al->n_head_kv,
                            .d = al->d_head,
                            .norm = l->value_norm,
                            .eps = a->norm_eps};

    SP_TRY(sp_forward_take(m, w, &qkv, l->attn_norm, l->attn_norm_bias));
    SP_TRY(ops->matmul(dev, &qkv));
    if (a->attn_gate)
        SP_TRY(ops->halve(dev, w->q, w->gates, w->mix, n_tok, a->n_head, a->d_head));
    SP_TRY(ops->heads(dev, &q));
    if (!al->is_shared && !l->qkv[2].data)
        SP_TRY(ops->copy(dev, w->v, w->k, n_tok * al->n_head_kv * al->d_head * sizeof(float)));
    if (!al->is_shared)
        SP_TRY(ops->heads(dev, &k));
    if (l->value_norm)
        SP_TRY(ops->heads(dev, &v));
    SP_TRY(sp_forward_attend(m, w, shape, i, of, n_span));
    if (a->attn_gate)
        SP_TRY(ops->gate(dev, &gate));
    return sp_forward_add(m, w, &attn_out, l->attn_post_norm, l->attn_sum_norm);
}

static sp_err run_layer(const sp_model *m, sp_model_work *w, const sp_kv_shape *shape, size_t i,
                        const sp_model_span *of, size_t n_tok, size_t n_span)
{
    switch (m->arch.layer[i].mix) {
    case SP_MIX_ATTN:
        SP_TRY(m->arch.latent.n ? sp_forward_latent(m, w, shape, i, of, n_tok, n_span)
                                : run_attn(m, w, shape, i, of, n_tok, n_span));
        break;
    case SP_MIX_CONV:
        SP_TRY(sp_forward_conv(m, w, i, n_tok, n_span));
        break;
    case SP_MIX_DELTA:
        SP_TRY(sp_forward_delta(m, w, i, n_tok, n_span));
        break;
    case SP_MIX_SSM:
        SP_TRY(sp_forward_ssm_take(m, w, i, n_tok, n_span));
        SP_TRY(sp_forward_ssm(m, w, i, n_tok, n_span));
        break;
    case SP_MIX_BOTH:
        SP_TRY(sp_forward_ssm_take(m, w, i, n_tok, n_span));
        SP_TRY(run_attn(m, w, shape, i, of, n_tok, n_span));
        SP_TRY(sp_forward_ssm(m, w, i, n_tok, n_span));
        break;
    case SP_MIX_NONE:
        break;
    }
    switch (m->arch.layer[i].ffn) {
    case SP_FFN_GLU:
    case SP_FFN_PLAIN:
        SP_TRY(sp_forward_dense(m, w, i, n_tok));
        break;
    case SP_FFN_EXPERTS:
        SP_TRY(sp_forward_experts(m, w, i, n_tok));
        break;
    case SP_FFN_BESIDE:
        SP_TRY(sp_forward_beside(m, w, i, n_tok));
        break;
    case SP_FFN_NONE:
        break;
    }
    if (m->arch.n_side)
        SP_TRY(sp_forward_side(m, w, i, n_tok));
    return m->layer[i].scale != 1
               ? m->dev->ops->soft_cap(m->dev, w->x, n_tok * m->arch.n_embd, m->layer[i].scale, 0)
               : SP_OK;
}

bool sp_model_gives_best(const sp_model *m)
{
    return m->dev->ops->best != NULL;
}

/* Rows [row, row + n) to the host. */
static sp_err read_rows(const sp_model *m, sp_model_work *w, size_t row, size_t n)
{
    const size_t at = row * m->output.n_row;
    memset(w->is_left + row, 0, n * sizeof *w->is_left);
    return n ? m->dev->ops->mem_read(m->dev, w->host_logits + at, w->logits + at,
                                     n * m->output.n_row * sizeof(float))
             : SP_OK;
}

sp_err sp_model_read_logits(const sp_model *m, sp_model_work *w, size_t row)
{
    return w->is_left[row] ? read_rows(m, w, row, 1) : SP_OK;
}

/* Whoever reads a row that stays on the device finds no number there. */
static void leave_row(const sp_model *m, sp_model_work *w, size_t row)
{
    if (!w->is_left[row])
        memset(w->host_logits + row * m->output.n_row, 0xff, m->output.n_row * sizeof(float));
    w->is_left[row] = true;
}

/* Of n rows of logits the best where that is asked for, all of the others. */
static sp_err give_logits(const sp_model *m, sp_model_work *w, const sp_model_span *span,
                          size_t n_span, size_t n)
{
    size_t row = 0, n_read = 0, n_best = 0;
    for (size_t i = 0; i < n_span; i++) {
        for (size_t k = 0; k < span[i].n_logits; k++)
            w->temperature[row++] = span[i].best ? span[i].temperature : 1;
        n_best += span[i].best != NULL;
    }
    if (n_best)
        SP_TRY(m->dev->ops->best(m->dev, w->best, w->logits, w->temperature, n, m->output.n_row));
    row = 0;
    for (size_t i = 0; i < n_span; row += span[i++].n_logits) {
        if (!span[i].best)
            continue;
        SP_ASSERT(span[i].n_logits == 1);
        *span[i].best = w->best[row];
        SP_TRY(read_rows(m, w, n_read, row - n_read));
        n_read = row + 1;
        leave_row(m, w, row);
    }
    return read_rows(m, w, n_read, n - n_read);
}

/* Gathers the rows whose logits are asked for; *n_out counts them. */
static sp_err run_output(const sp_model *m, sp_model_work *w, const sp_model_span *span,
                         size_t n_span, size_t *n_out)
{
    const sp_arch *a = &m->arch;
    const sp_dev_ops *ops = m->dev->ops;
    size_t n = 0;
    for (size_t i = 0; i < n_span; i++) {
        size_t first = w->span[i].row + span[i].n - span[i].n_logits;
        if (span[i].n_logits)
            SP_TRY(ops->copy(m->dev, w->last + n * a->n_embd, w->x + first * a->n_embd,
                             span[i].n_logits * a->n_embd * sizeof(float)));
        n += span[i].n_logits;
    }
    *n_out = n;
    if (n == 0)
        return SP_OK;
    const sp_dev_matmul output = {.out = &w->logits,
                                  .x = w->last,
                                  .norm = m->output_norm,
                                  .eps = a->norm_eps,
                                  .w = &m->output,
                                  .n_w = 1,
                                  .n_row = n,
                                  .stage = SP_STAGE_OUTPUT};
    SP_TRY(ops->matmul(m->dev, &output));
    if (a->logit_cap > 0 || a->logit_scale != 1.0f)
        SP_TRY(ops->soft_cap(m->dev, w->logits, n * m->output.n_row, a->logit_scale, a->logit_cap));
    return give_logits(m, w, span, n_span, n);
}

sp_err sp_model_norm_states(const sp_model *m, float *x, size_t n)
{
    const sp_dev_heads rms = {.x = x,
                              .n_row = n,
                              .n_head = 1,
                              .d = m->arch.n_embd,
                              .norm = m->output_norm,
                              .eps = m->arch.norm_eps};
    return m->dev->ops->heads(m->dev, &rms);
}

/* The stream of a block that guesses: of each token what it is and what the model gave at the one
 * before it. */
static sp_err begin_next(const sp_model *m, sp_model_work *w, const sp_model_span *span,
                         size_t n_span, size_t n_tok)
{
    const sp_dev_ops *ops = m->dev->ops;
    size_t n = m->arch.n_embd;
    sp_dev_heads rms = {.x = w->x,
                        .n_row = n_tok,
                        .n_head = 1,
                        .d = n,
                        .norm = m->next_norm[0],
                        .eps = m->arch.norm_eps};
    const sp_dev_matmul in = {.out = &w->x,
                              .x = w->next_in,
                              .w = &m->next_in,
                              .n_w = 1,
                              .n_row = n_tok,
                              .stage = SP_STAGE_QKV};
    for (size_t i = 0; i < n_span; i++)
        SP_TRY(ops->copy(m->dev, w->next + w->span[i].row * n, span[i].hidden,
                         span[i].n * n * sizeof(float)));
    SP_TRY(ops->heads(m->dev, &rms));
    rms.x = w->next;
    rms.norm = m->next_norm[1];
    SP_TRY(ops->heads(m->dev, &rms));
    for (size_t t = 0; t < n_tok; t++) {
        SP_TRY(ops->copy(m->dev, w->next_in + 2 * t * n, w->x + t * n, n * sizeof(float)));
        SP_TRY(ops->copy(m->dev, w->next_in + (2 * t + 1) * n, w->next + t * n, n * sizeof(float)));
    }
    return ops->matmul(m->dev, &in);
}

/* cos and sin of w->pos [n] in every table that a layer uses. is_way: not of positions but of the
 * way between two, back or forth, by which keys turn that have their scale already. */
static sp_err fill_tables(const sp_model *m, sp_model_work *w, size_t n, bool is_way, bool back)
{
    for (sp_rope_of i = SP_ROPE_FULL; i < SP_ROPE_TABLES; i++) {
        const sp_dev_rope rope = {m->rope[i].freq, m->arch.rope[i].d_rot,
                                  is_way ? 1 : m->rope[i].scale, back};
        if (rope.freq)
            SP_TRY(m->dev->ops->rope_table(m->dev, w->cs[i], w->pos, n, &rope));
    }
    return SP_OK;
}

/* Queries far behind the context that the model was first trained for are made sharper. */
static sp_err fill_temp(const sp_model *m, sp_model_work *w, size_t n)
{
    const sp_arch *a = &m->arch;
    if (!(a->temp_scale > 0))
        return SP_OK;
    for (size_t i = 0; i < n; i++)
        w->host_temp[i] =
            1.0f + a->temp_scale * logf(1.0f + (float)(w->pos[i] / a->rope[SP_ROPE_FULL].ctx));
    return m->dev->ops->mem_write(m->dev, w->temp, w->host_temp, n * sizeof(float));
}

/* Where the span's recurrent layers begin, and what they leave. */
static sp_err begin_states(sp_model_work *w, size_t i, const sp_model_span *of, sp_kv_pool *pool)
{
    sp_kv_seq *s = of->seq;
    sp_dev_span *span = &w->span[i];
    size_t n_keep = of->may_go_back && s->kept ? of->n - 1 : 0;
    SP_TRY(sp_kv_seq_begin(s, pool, of->n, n_keep));
    w->kept[i] = (sp_forward_kept){.mem = s->kept, .n_keep = n_keep, .n_again = s->n_again};
    if (!s->next)
        return SP_OK;
    span->state = s->state ? s->state->mem : NULL;
    span->next = s->next->mem;
    span->mark = s->mark;
    span->n_mark = s->n_mark;
    if (s->n_again) {
        w->kept[i].before = span->state;
        span->state = w->kept[i].settled = s->settled->mem;
    }
    return SP_OK;
}

/* Is it a step of decoding, which is like others? A prompt is not, and its layers may wait for
 * pages that are being loaded. */
static bool is_decoding(const sp_model_span *span, size_t n_span)
{
    enum { FEW = 8 };
    for (size_t i = 0; i < n_span; i++)
        if (span[i].n > FEW || span[i].seq->load)
            return false;
    return true;
}

sp_err sp_model_forward(const sp_model *m, sp_model_work *w, sp_kv_pool *pool,
                        const sp_model_span *span, size_t n_span, const float **logits, sp_diag *d)
{
    const sp_kv_shape *shape = sp_kv_pool_shape(pool);
    size_t n_tok = 0, n_logits = 0;
    for (size_t i = 0; i < n_span; i++) {
        SP_ASSERT(span[i].n > 0 && span[i].n_logits <= span[i].n &&
                  n_tok + span[i].n <= w->cap_tok);
        const sp_kv_seq *s = span[i].seq;
        float eps = s->n_tok >= s->eps_from && (span[i].n == 1 || s->eps_prompt) ? s->eps : 0;
        w->span[i] = (sp_dev_span){.row = n_tok,
                                   .n = span[i].n,
                                   .pos = s->n_tok,
                                   .page = s->page,
                                   .lo = s->lo,
                                   .open = s->open,
                                   .eps = eps,
                                   .keep_to = s->keep_to,
                                   .dense = s->dense,
                                   .n_dense = s->n_dense,
                                   .cert = s->cert};
        SP_TRY(begin_states(w, i, &span[i], pool));
        for (size_t j = 0; j < span[i].n; j++, n_tok++) {
            if (span[i].tok[j] >= m->arch.n_vocab)
                return SP_FAIL(d, SP_INVAL, "token %u is not in the vocabulary of %zu",
                               span[i].tok[j], m->arch.n_vocab);
            w->tok[n_tok] = span[i].tok[j];
            w->pos[n_tok] = (uint32_t)(span[i].seq->n_tok + j);
        }
        n_logits += span[i].n_logits;
    }
    SP_ASSERT(n_logits <= w->cap_logits);
    sp_err err = SP_OK;
    if (m->dev->ops->begin_step && is_decoding(span, n_span))
        err = m->dev->ops->begin_step(m->dev);
    if (err == SP_OK)
        err = m->dev->ops->embed(m->dev, w->x, &m->embd, w->tok, n_tok, m->arch.embd_scale);
    if (err == SP_OK && m->arch.n_side)
        err = m->dev->ops->copy(m->dev, w->first, w->x, n_tok * m->arch.n_embd * sizeof(float));
    if (err == SP_OK && m->is_next)
        err = begin_next(m, w, span, n_span, n_tok);
    if (err == SP_OK)
        err = fill_tables(m, w, n_tok, false, false);
    if (err == SP_OK)
        err = fill_temp(m, w, n_tok);
    for (size_t i = 0; i < m->arch.n_layer && err == SP_OK; i++) {
        err = run_layer(m, w, shape, i, span, n_tok, n_span);
        if (err == SP_OK)
            err = keep_states(m, w, i, n_tok);
    }
    if (err == SP_OK)
        err = run_output(m, w, span, n_span, &n_logits);
    sp_err settled = m->dev->ops->settle ? m->dev->ops->settle(m->dev) : SP_OK;
    sp_err ended = m->dev->ops->end_step ? m->dev->ops->end_step(m->dev) : SP_OK;
    err = err == SP_OK ? settled : err;
    err = err == SP_OK ? ended : err;
    for (size_t i = 0; i < n_span && err != SP_OK; i++)
        span[i].seq->is_lost = span[i].seq->n_again > 0;
    if (err != SP_OK)
        return SP_FAIL(d, err, "forward pass over %zu tokens failed: %s", n_tok, sp_err_name(err));
    for (size_t i = 0; i < n_span; i++)
        SP_TRY(sp_kv_seq_commit(span[i].seq, pool, span[i].tok, span[i].n));
    *logits = w->host_logits;
    return SP_OK;
}

/* An encoder's stream before the first layer. */
static sp_err begin_stream(const sp_model *m, sp_model_work *w, size_t n)
{
    const sp_arch *a = &m->arch;
    const sp_dev_ops *ops = m->dev->ops;
    SP_TRY(ops->embed(m->dev, w->x, &m->embd, w->tok, n, a->embd_scale));
    if (a->learned_pos) {
        SP_TRY(ops->embed(m->dev, w->y, &m->position, w->pos, n, 1));
        SP_TRY(ops->add(m->dev, w->x, w->y, n * a->n_embd));
    }
    if (m->type.data) {
        SP_TRY(ops->embed(m->dev, w->y, &m->type, w->type, n, 1));
        SP_TRY(ops->add(m->dev, w->x, w->y, n * a->n_embd));
    }
    return a->embd_norm ? ops->norm_layer(m->dev, w->x, w->x, m->embd_norm[0], m->embd_norm[1], n,
                                          a->n_embd, a->norm_eps)
                        : SP_OK;
}

/* ... and behind the last. */
static sp_err end_stream(const sp_model *m, sp_model_work *w, size_t n)
{
    const sp_arch *a = &m->arch;
    const sp_dev_heads rms = {.x = w->x,
                              .n_row = n,
                              .n_head = 1,
                              .d = a->n_embd,
                              .norm = m->output_norm,
                              .eps = a->norm_eps};
    if (!a->final_norm)
        return SP_OK;
    return a->layer_norm ? m->dev->ops->norm_layer(m->dev, w->x, w->x, m->output_norm,
                                                   m->output_norm_bias, n, a->n_embd, a->norm_eps)
                         : m->dev->ops->heads(m->dev, &rms);
}

sp_err sp_model_encode(const sp_model *m, sp_model_work *w, const sp_model_text *text,
                       size_t n_text, float *states, sp_diag *d)
{
    size_t n = 0;
    for (size_t i = 0; i < n_text; i++) {
        SP_ASSERT(text[i].n > 0 && n + text[i].n <= w->cap_tok);
        w->span[i] = (sp_dev_span){.row = n, .n = text[i].n};
        w->kept[i] = (sp_forward_kept){0};
        for (size_t j = 0; j < text[i].n; j++, n++) {
            if (text[i].tok[j] >= m->arch.n_vocab)
                return SP_FAIL(d, SP_INVAL, "token %u is not in the vocabulary of %zu",
                               text[i].tok[j], m->arch.n_vocab);
            w->tok[n] = text[i].tok[j];
            w->pos[n] = (uint32_t)j;
            w->type[n] = m->arch.n_type > 1 && text[i].second && j >= text[i].second;
        }
    }
    sp_err err = begin_stream(m, w, n);
    if (err == SP_OK)
        err = fill_tables(m, w, n, false, false);
    if (err == SP_OK)
        err = fill_temp(m, w, n);
    for (size_t i = 0; i < m->arch.n_layer && err == SP_OK; i++)
        err = run_layer(m, w, NULL, i, NULL, n, n_text);
    if (err == SP_OK)
        err = end_stream(m, w, n);
    if (err == SP_OK)
        err = m->dev->ops->mem_read(m->dev, states, w->x, n * m->arch.n_embd * sizeof *states);
    return err == SP_OK ? SP_OK
                        : SP_FAIL(d, err, "encoding %zu tokens failed: %s", n, sp_err_name(err));
}

sp_err sp_model_splice(const sp_model *m, sp_model_work *w, sp_kv_pool *pool, sp_kv_seq *to,
                       sp_kv_seq *from, size_t at, const uint32_t *tok, size_t n)
{
    const sp_kv_shape *shape = sp_kv_pool_shape(pool);
    const sp_dev_ops *ops = m->dev->ops;
    SP_ASSERT((at + n + SP_PAGE_TOK - 1) / SP_PAGE_TOK <= from->n_tok / SP_PAGE_TOK);
    SP_ASSERT(!m->arch.state.n_bytes); /* a state is of all that came before */
    if (!ops->kv_move)
        return SP_UNSUP;
    for (size_t i = 0; i < m->arch.n_layer; i++) {
        size_t p = m->arch.layer[i].i_page;
        if (m->arch.layer[i].is_shared)
            continue;
        w->view[p] = sp_kv_page_view(shape, p);
        w->turn[p] = sp_forward_turn(m, w, i);
        w->turn[p].norm = m->arch.head_norm == SP_HEAD_NORM_LAST ? m->layer[i].head_norm[1] : NULL;
        SP_TRY(sp_kv_seq_wait(from, sp_kv_page_block_of(shape, p)));
    }
    const bool back = to->n_tok < at;
    const sp_dev_span out = {.n = n,
                             .pos = to->n_tok,
                             .page = to->page,
                             .lo = to->lo,
                             .open = to->open};
    const sp_dev_span in = {.n = n,
                            .pos = at,
                            .page = from->page,
                            .lo = from->lo,
                            .open = from->open};
    w->pos[0] = (uint32_t)(back ? at - to->n_tok : to->n_tok - at);
    SP_TRY(fill_tables(m, w, 1, true, back));
    SP_TRY(ops->kv_move(m->dev, w->view, m->arch.n_page_layer, &out, &in, w->turn));
    to->inexact = true;
    return sp_kv_seq_commit(to, pool, tok, n);
}
