/* State spaces (Mamba-2) on the CPU. As in cpu_delta.c a head's state is worked on in parts of 16
 * values, which stay in the first cache while a block of tokens passes. Within a block a few tokens
 * share each load and store of the state. What a token gets depends on no other token's place in a
 * block, so that no chunk or batch changes a bit; the form that turns a chunk into products of
 * matrices (Dao and Gu 2024, section 6) would depend on it. */
#include "dev/cpu.h"

#include <math.h>

typedef struct ssm_job {
    cpu_dev *c;
    const sp_dev_ssm *a;
} ssm_job;

typedef struct ssm_head {
    const ssm_job *j;
    size_t head;
} ssm_head;

static void ssm_block(void *arg, float *state, size_t row, size_t n)
{
    const ssm_head *h = arg;
    const sp_dev_ssm *a = h->j->a;
    size_t head = h->head, n_inner = a->n_head * a->d_v, n_chan = n_inner + 2 * a->n_group * a->d_k;
    size_t group = head / (a->n_head / a->n_group);
    const float *x = a->x + row * n_chan;
    float decay[CPU_STATE_TOK], step[CPU_STATE_TOK];
    for (size_t t = 0; t < n; t++) {
        step[t] = cpu_soft_plus(a->dt[(row + t) * a->n_head + head] + a->dt_bias[head]);
        decay[t] = expf(a->a[head] * step[t]);
    }
    for (size_t i = 0; i < a->d_v; i += SP_DELTA_COLS) {
        const sp_ssm_args args = {.out = a->out + row * n_inner + head * a->d_v + i,
                                  .ld_out = n_inner,
                                  .state = state + i * a->d_k,
                                  .b = x + n_inner + group * a->d_k,
                                  .c = x + n_inner + (a->n_group + group) * a->d_k,
                                  .x = x + head * a->d_v + i,
                                  .ld = n_chan,
                                  .decay = decay,
                                  .step = step,
                                  .skip = a->skip[head],
                                  .n = n,
                                  .d = a->d_k};
        h->j->c->kern.ssm(&args);
    }
}

static void ssm_part(void *arg, size_t begin, size_t end, size_t i_thread)
{
    const ssm_job *j = arg;
    const sp_dev_ssm *a = j->a;
    size_t n_bytes = a->d_k * a->d_v * sizeof(float);
    (void)i_thread;
    for (size_t i = begin; i < end; i++) {
        ssm_head h = {j, i % a->n_head};
        cpu_state_walk(&a->span[i / a->n_head], a->state_at + h.head * n_bytes, n_bytes, ssm_block,
                       &h);
    }
}

sp_err cpu_ssm(sp_dev *dev, const sp_dev_ssm *a)
{
    cpu_dev *c = (cpu_dev *)dev;
    ssm_job j = {c, a};
    size_t n_row = 0, n_state = a->n_head * a->d_k * a->d_v;
    for (size_t i = 0; i < a->n_span; i++)
        n_row += a->span[i].n;
    uint64_t start = cpu_stat_begin(dev);
    sp_pool_run(c->pool, ssm_part, &j, a->n_span * a->n_head, 1);
    cpu_stat_end(dev, SP_STAGE_ATTN, start, (double)(2 * a->n_span * n_state * sizeof(float)),
                 2.5 * (double)(n_row * n_state));
    return SP_OK;
}
