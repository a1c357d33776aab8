/* Layers with a state on the CUDA device: which sequences pass, and where their states go. */
#include "dev/cuda/cuda.h"

#include "base/mem.h"

/* Copies the spans of a call to the device: passes, then marks. */
static sp_err put_passes(cuda_dev *c, const sp_cuda_pass **pass, const sp_cuda_mark **mark,
                         const sp_dev_span *span, size_t n_span)
{
    size_t n_mark = 0, at = 0;
    for (size_t i = 0; i < n_span; i++)
        n_mark += span[i].n_mark;
    const size_t n_bytes = n_span * sizeof(sp_cuda_pass) + n_mark * sizeof(sp_cuda_mark);
    sp_cuda_pass *p = sp_mem_alloc(n_bytes);
    if (!p)
        return SP_NOMEM;
    sp_cuda_mark *m = (sp_cuda_mark *)(p + n_span);
    for (size_t i = 0; i < n_span; i++) {
        const sp_dev_span *s = &span[i];
        p[i] = (sp_cuda_pass){.row = (uint32_t)s->row,
                              .n = (uint32_t)s->n,
                              .mark = (uint32_t)at,
                              .n_mark = (uint32_t)s->n_mark,
                              .state = s->state,
                              .next = s->next};
        for (size_t j = 0; j < s->n_mark; j++)
            m[at++] = (sp_cuda_mark){.n = (uint32_t)s->mark[j].n, .state = s->mark[j].state};
    }
    sp_err err = cuda_put(c, &c->passes, p, n_bytes);
    sp_mem_free(p);
    *pass = c->passes.p;
    *mark = (const sp_cuda_mark *)(*pass + n_span);
    return err;
}

static size_t rows_of(const sp_dev_span *span, size_t n_span)
{
    size_t n = 0;
    for (size_t i = 0; i < n_span; i++)
        n += span[i].n;
    return n;
}

sp_err cuda_conv(sp_dev *dev, const sp_dev_conv *a)
{
    cuda_dev *c = (cuda_dev *)dev;
    const size_t n_row = rows_of(a->span, a->n_span);
    uint64_t start = cuda_stat_begin(dev);
    sp_cuda_conv v = {.out = a->out,
                      .x = a->x,
                      .in_gate = a->in_gate,
                      .out_gate = a->out_gate,
                      .w = a->w,
                      .bias = a->bias,
                      .ld = (uint32_t)a->ld,
                      .n_tap = (uint32_t)a->n_tap,
                      .n_chan = (uint32_t)a->n_chan,
                      .is_silu = a->act == SP_ACT_SILU,
                      .n_pass = (uint32_t)a->n_span,
                      .state_at = a->state_at};
    SP_DASSERT(a->act == SP_ACT_SILU || a->act == SP_ACT_NONE);
    SP_TRY(put_passes(c, &v.pass, &v.mark, a->span, a->n_span));
    SP_TRY(cuda_try(c, c->lib->conv(&v), "a convolution"));
    cuda_stat_end(dev, SP_STAGE_ATTN, start, (double)(n_row * a->n_chan * sizeof(float)),
                  (double)(n_row * a->n_tap * a->n_chan));
    return SP_OK;
}

sp_err cuda_delta(sp_dev *dev, const sp_dev_delta *a)
{
    cuda_dev *c = (cuda_dev *)dev;
    const size_t n_state = a->n_head * a->d_k * a->d_v;
    uint64_t start = cuda_stat_begin(dev);
    sp_cuda_delta v = {.out = a->out,
                       .x = a->x,
                       .beta = a->beta,
                       .alpha = a->alpha,
                       .dt = a->dt,
                       .a = a->a,
                       .ld = (uint32_t)a->ld,
                       .n_beside = (uint32_t)a->n_beside,
                       .step = (uint32_t)a->step,
                       .n_head_k = (uint32_t)a->n_head_k,
                       .n_head = (uint32_t)a->n_head,
                       .d_k = (uint32_t)a->d_k,
                       .d_v = (uint32_t)a->d_v,
                       .neighbours = a->neighbours,
                       .n_pass = (uint32_t)a->n_span,
                       .eps = a->eps,
                       .state_at = a->state_at};
    SP_TRY(put_passes(c, &v.pass, &v.mark, a->span, a->n_span));
    SP_TRY(cuda_try(c, c->lib->delta(&v), "the delta rule"));
    cuda_stat_end(dev, SP_STAGE_ATTN, start, (double)(2 * a->n_span * n_state * sizeof(float)),
                  3.5 * (double)(rows_of(a->span, a->n_span) * n_state));
    return SP_OK;
}

sp_err cuda_ssm(sp_dev *dev, const sp_dev_ssm *a)
{
    cuda_dev *c = (cuda_dev *)dev;
    const size_t n_state = a->n_head * a->d_k * a->d_v;
    uint64_t start = cuda_stat_begin(dev);
    sp_cuda_ssm v = {.out = a->out,
                     .x = a->x,
                     .dt = a->dt,
                     .dt_bias = a->dt_bias,
                     .a = a->a,
                     .skip = a->skip,
                     .n_group = (uint32_t)a->n_group,
                     .n_head = (uint32_t)a->n_head,
                     .d_k = (uint32_t)a->d_k,
                     .d_v = (uint32_t)a->d_v,
                     .n_pass = (uint32_t)a->n_span,
                     .state_at = a->state_at};
    SP_TRY(put_passes(c, &v.pass, &v.mark, a->span, a->n_span));
    SP_TRY(cuda_try(c, c->lib->ssm(&v), "a state space"));
    cuda_stat_end(dev, SP_STAGE_ATTN, start, (double)(2 * a->n_span * n_state * sizeof(float)),
                  2.5 * (double)(rows_of(a->span, a->n_span) * n_state));
    return SP_OK;
}
