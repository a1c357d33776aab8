/* The decoder's one forward pass. Knows no architecture by name and allocates nothing. */
#include "base/mem.h"
#include "model/weights.h"

#include <string.h>

enum { DENSE_LAYERS = 2 };

struct sp_model_work {
    sp_dev *dev;
    size_t cap_tok, cap_logits, cap_span, n_vocab;
    float *x;              /* [cap_tok, n_embd]: the residual stream */
    float *cs;             /* [cap_tok, d_rot]: cos and sin of each position */
    float *q, *k, *v, *o;  /* [cap_tok, heads * d] */
    float *gate, *up;      /* [cap_tok, n_ff] */
    float *last, *logits;  /* [cap_logits, n_embd], [cap_logits, n_vocab] */
    float *host_logits;    /* what callers read */
    uint32_t *tok, *pos;   /* [cap_tok], host */
    sp_dev_span *span;     /* [cap_tok], host: a span has at least one token */
    sp_dev_kv_view *view;  /* [n_layer], host */
};

sp_err sp_model_work_new(sp_model_work **out, const sp_model *m, size_t cap_tok, size_t cap_logits,
                         sp_diag *d)
{
    const sp_arch *a = &m->arch;
    sp_model_work *w = sp_mem_alloc(sizeof *w);
    if (!w)
        return SP_FAIL(d, SP_NOMEM, "activations");
    *w = (sp_model_work){.dev = m->dev, .cap_tok = cap_tok, .cap_logits = cap_logits, .n_vocab = a->n_vocab};
    size_t n_q = a->n_head * a->d_head, n_kv = a->n_head_kv * a->d_head;
    const struct { float **p; size_t rows, cols; } bufs[] = {
        {&w->x, cap_tok, a->n_embd}, {&w->cs, cap_tok, a->d_rot}, {&w->q, cap_tok, n_q},
        {&w->k, cap_tok, n_kv},      {&w->v, cap_tok, n_kv},      {&w->o, cap_tok, n_q},
        {&w->gate, cap_tok, a->n_ff}, {&w->up, cap_tok, a->n_ff}, {&w->last, cap_logits, a->n_embd},
        {&w->logits, cap_logits, a->n_vocab}};
    sp_err err = SP_OK;
    for (size_t i = 0; i < sizeof bufs / sizeof bufs[0] && err == SP_OK; i++) {
        void *p = NULL;
        err = m->dev->ops->mem_raw(m->dev, &p, bufs[i].rows * bufs[i].cols * sizeof(float));
        *bufs[i].p = p;
    }
    w->host_logits = sp_mem_raw(cap_logits * a->n_vocab * sizeof(float));
    w->tok = sp_mem_array(cap_tok, sizeof *w->tok);
    w->pos = sp_mem_array(cap_tok, sizeof *w->pos);
    w->span = sp_mem_array(cap_tok, sizeof *w->span);
    w->view = sp_mem_array(a->n_layer, sizeof *w->view);
    if (err != SP_OK || !w->host_logits || !w->tok || !w->pos || !w->span || !w->view) {
        sp_model_work_free(w);
        return SP_FAIL(d, SP_NOMEM, "activations of %zu tokens", cap_tok);
    }
    *out = w;
    return SP_OK;
}

void sp_model_work_free(sp_model_work *w)
{
    if (!w)
        return;
    float *const own[] = {w->x, w->cs, w->q, w->k, w->v, w->o, w->gate, w->up, w->last, w->logits};
    for (size_t i = 0; i < sizeof own / sizeof own[0]; i++)
        w->dev->ops->mem_free(w->dev, own[i]);
    sp_mem_free(w->host_logits);
    sp_mem_free(w->tok);
    sp_mem_free(w->pos);
    sp_mem_free(w->span);
    sp_mem_free(w->view);
    sp_mem_free(w);
}

static sp_err run_layer(const sp_model *m, sp_model_work *w, const sp_kv_shape *shape, size_t i,
                        const sp_model_span *of, size_t n_tok, size_t n_span)
{
    const sp_arch *a = &m->arch;
    const sp_layer *l = &m->layer[i];
    const sp_dev_ops *ops = m->dev->ops;
    sp_dev *dev = m->dev;
    const sp_dev_kv_view kv = sp_kv_page_view(shape, i);
    const sp_dev_attn attn = {.out = w->o, .q = w->q, .k = w->k, .v = w->v, .kv = &kv, .n_q_head = a->n_head,
                              .scale = 1.0f / __builtin_sqrtf((float)a->d_head), .span = w->span, .n_span = n_span};
    const sp_dev_matmul qkv = {.out = (float *const[]){w->q, w->k, w->v}, .x = w->x, .norm = l->attn_norm,
                               .eps = a->norm_eps, .w = l->qkv, .bias = (const float *const *)l->qkv_bias,
                               .n_w = 3, .n_row = n_tok, .stage = SP_STAGE_QKV};
    const sp_dev_matmul attn_out = {.out = &w->x, .x = w->o, .w = &l->attn_out, .add = true,
                                    .bias = (const float *const *)&l->attn_out_bias, .n_w = 1, .n_row = n_tok,
                                    .stage = SP_STAGE_ATTN_OUT};
    const sp_dev_matmul glu = {.out = (float *const[]){w->gate, w->up}, .x = w->x, .norm = l->ffn_norm,
                               .eps = a->norm_eps, .w = l->glu, .bias = (const float *const *)l->glu_bias,
                               .n_w = 2, .n_row = n_tok, .stage = SP_STAGE_GLU};
    const sp_dev_matmul down = {.out = &w->x, .x = w->gate, .up = w->up, .w = &l->ffn_down, .add = true,
                                .bias = (const float *const *)&l->ffn_down_bias, .n_w = 1, .n_row = n_tok,
                                .stage = SP_STAGE_DOWN};

    SP_TRY(ops->matmul(dev, &qkv));
    SP_TRY(ops->rope(dev, w->q, w->cs, n_tok, a->n_head, a->d_head, a->d_rot));
    SP_TRY(ops->rope(dev, w->k, w->cs, n_tok, a->n_head_kv, a->d_head, a->d_rot));
    for (size_t k = 0; k < n_span; k++) /* the first layers are too flat to choose pages in */
        w->span[k].keep = i < DENSE_LAYERS || w->span[k].pos < of[k].seq->eps_from ? 0 : of[k].seq->keep;
    for (size_t k = 0; k < n_span; k++)
        SP_TRY(sp_kv_seq_wait(of[k].seq, i)); /* pages that are still being loaded come layer by layer */
    SP_TRY(ops->attn_paged(dev, &attn));
    SP_TRY(ops->matmul(dev, &attn_out));
    SP_TRY(ops->matmul(dev, &glu));
    return ops->matmul(dev, &down);
}

/* Gathers the rows whose logits are asked for; *n_out counts them. */
static sp_err run_output(const sp_model *m, sp_model_work *w, const sp_model_span *span, size_t n_span,
                         size_t *n_out)
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
    const sp_dev_matmul output = {.out = &w->logits, .x = w->last, .norm = m->output_norm, .eps = a->norm_eps,
                                  .w = &m->output, .n_w = 1, .n_row = n, .stage = SP_STAGE_OUTPUT};
    SP_TRY(ops->matmul(m->dev, &output));
    return ops->mem_read(m->dev, w->host_logits, w->logits, n * a->n_vocab * sizeof(float));
}

sp_err sp_model_forward(const sp_model *m, sp_model_work *w, sp_kv_pool *pool,
                        const sp_model_span *span, size_t n_span, const float **logits, sp_diag *d)
{
    const sp_kv_shape *shape = sp_kv_pool_shape(pool);
    size_t n_tok = 0, n_logits = 0;
    for (size_t i = 0; i < n_span; i++) {
        SP_ASSERT(span[i].n > 0 && span[i].n_logits <= span[i].n && n_tok + span[i].n <= w->cap_tok);
        const sp_kv_seq *s = span[i].seq;
        float eps = s->n_tok >= s->eps_from && (span[i].n == 1 || s->eps_prompt) ? s->eps : 0;
        w->span[i] = (sp_dev_span){n_tok, span[i].n, s->n_tok, s->page, s->lo, s->open, eps, 0, s->keep_to, s->dense,
                                   s->n_dense, s->cert};
        for (size_t j = 0; j < span[i].n; j++, n_tok++) {
            if (span[i].tok[j] >= m->arch.n_vocab)
                return SP_FAIL(d, SP_INVAL, "token %u is not in the vocabulary of %zu", span[i].tok[j],
                               m->arch.n_vocab);
            w->tok[n_tok] = span[i].tok[j];
            w->pos[n_tok] = (uint32_t)(span[i].seq->n_tok + j);
        }
        n_logits += span[i].n_logits;
    }
    SP_ASSERT(n_logits <= w->cap_logits);
    sp_err err = m->dev->ops->embed(m->dev, w->x, &m->embd, w->tok, n_tok);
    const sp_dev_rope rope = {m->rope_freq, m->arch.d_rot, m->rope_scale, false};
    if (err == SP_OK)
        err = m->dev->ops->rope_table(m->dev, w->cs, w->pos, n_tok, &rope);
    for (size_t i = 0; i < m->arch.n_layer && err == SP_OK; i++)
        err = run_layer(m, w, shape, i, span, n_tok, n_span);
    if (err == SP_OK)
        err = run_output(m, w, span, n_span, &n_logits);
    if (err != SP_OK)
        return SP_FAIL(d, err, "forward pass over %zu tokens failed: %s", n_tok, sp_err_name(err));
    for (size_t i = 0; i < n_span; i++)
        SP_TRY(sp_kv_seq_commit(span[i].seq, pool, span[i].tok, span[i].n));
    *logits = w->host_logits;
    return SP_OK;
}

sp_err sp_model_splice(const sp_model *m, sp_model_work *w, sp_kv_pool *pool, sp_kv_seq *to, sp_kv_seq *from, size_t at,
                       const uint32_t *tok, size_t n)
{
    const sp_kv_shape *shape = sp_kv_pool_shape(pool);
    const sp_dev_ops *ops = m->dev->ops;
    SP_ASSERT((at + n + SP_PAGE_TOK - 1) / SP_PAGE_TOK <= from->n_tok / SP_PAGE_TOK);
    for (size_t i = 0; i < m->arch.n_layer; i++) {
        w->view[i] = sp_kv_page_view(shape, i);
        SP_TRY(sp_kv_seq_wait(from, i));
    }
    const sp_dev_rope rope = {m->rope_freq, m->arch.d_rot, 1, to->n_tok < at};
    const sp_dev_span out = {.n = n, .pos = to->n_tok, .page = to->page, .lo = to->lo, .open = to->open};
    const sp_dev_span in = {.n = n, .pos = at, .page = from->page, .lo = from->lo, .open = from->open};
    w->pos[0] = (uint32_t)(rope.back ? at - to->n_tok : to->n_tok - at);
    SP_TRY(ops->rope_table(m->dev, w->cs, w->pos, 1, &rope));
    SP_TRY(ops->kv_move(m->dev, w->view, m->arch.n_layer, &out, &in, w->cs, m->arch.d_rot));
    to->inexact = true;
    return sp_kv_seq_commit(to, pool, tok, n);
}
