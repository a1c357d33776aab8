/* The gated delta rule on the CPU, and gates. A head's state is worked on in parts of 16 values,
 * which stay in the first cache while a block of tokens passes; tokens are taken one after the
 * other, so that no chunk or batch changes a bit. The form over chunks of tokens (Yang et al. 2024,
 * section 3.3) would save little here: at a head of 128 the rule is about a hundredth of a layer's
 * products. */
#include "dev/cpu.h"

#include <math.h>
#include <string.h>

enum { GATE_GRAIN = 16384 };

typedef struct delta_job {
    cpu_dev *c;
    const sp_dev_delta *a;
} delta_job;

/* What a thread keeps of a block of tokens. */
typedef struct block {
    float *q, *k;            /* [CPU_STATE_TOK, d_k] */
    float *unit_q, *unit_k;  /* [d_k]: factors of queries and keys of length 1 */
    float *decay, *beta;     /* [CPU_STATE_TOK] */
} block;

static size_t block_bytes(size_t d_k)
{
    return ((2 * CPU_STATE_TOK + 2) * d_k + 2 * CPU_STATE_TOK) * sizeof(float);
}

static block block_at(char *scratch, size_t d_k)
{
    block b = {.q = (float *)(void *)scratch};
    b.k = b.q + CPU_STATE_TOK * d_k;
    b.unit_q = b.k + CPU_STATE_TOK * d_k;
    b.unit_k = b.unit_q + d_k;
    b.decay = b.unit_k + d_k;
    b.beta = b.decay + CPU_STATE_TOK;
    for (size_t i = 0; i < d_k; i++) {
        b.unit_k[i] = 1.0f / sqrtf((float)d_k);
        b.unit_q[i] = 1.0f / (float)d_k;
    }
    return b;
}

/* Makes tokens [row, row + n) of the batch ready. x / sqrt(sum + eps) is the RMS norm with eps /
 * d_k, times 1 / sqrt(d_k). */
static void fill_block(const delta_job *j, block *b, size_t head, size_t row, size_t n)
{
    const sp_dev_delta *a = j->a;
    size_t d = a->d_k, n_chan = 2 * a->n_head_k * d + a->n_head * a->d_v;
    size_t head_k = a->neighbours ? head / (a->n_head / a->n_head_k) : head % a->n_head_k;
    size_t at = head / a->n_beside * a->step + head % a->n_beside;
    for (size_t t = 0; t < n; t++) {
        const float *q = a->x + (row + t) * n_chan + head_k * d;
        j->c->kern.norm_rms(b->q + t * d, q, b->unit_q, d, a->eps / (float)d);
        j->c->kern.norm_rms(b->k + t * d, q + a->n_head_k * d, b->unit_k, d, a->eps / (float)d);
        b->decay[t] =
            expf(a->a[head] * cpu_soft_plus(a->alpha[(row + t) * a->ld + at] + a->dt[head]));
        b->beta[t] = 1.0f / (1.0f + expf(-a->beta[(row + t) * a->ld + at]));
    }
}

typedef struct delta_head {
    const delta_job *j;
    block b;
    size_t head;
} delta_head;

static void delta_block(void *arg, float *state, size_t row, size_t n)
{
    delta_head *h = arg;
    const sp_dev_delta *a = h->j->a;
    block *b = &h->b;
    size_t n_chan = 2 * a->n_head_k * a->d_k + a->n_head * a->d_v;
    fill_block(h->j, b, h->head, row, n);
    for (size_t i = 0; i < a->d_v; i += SP_DELTA_COLS) {
        const sp_delta_args args = {
            .out = a->out + (row * a->n_head + h->head) * a->d_v + i,
            .ld_out = a->n_head * a->d_v,
            .state = state + i * a->d_k,
            .q = b->q,
            .k = b->k,
            .ld_v = n_chan,
            .v = a->x + row * n_chan + 2 * a->n_head_k * a->d_k + h->head * a->d_v + i,
            .decay = b->decay,
            .beta = b->beta,
            .n = n,
            .d_k = a->d_k};
        h->j->c->kern.delta(&args);
    }
}

static void delta_part(void *arg, size_t begin, size_t end, size_t i_thread)
{
    const delta_job *j = arg;
    const sp_dev_delta *a = j->a;
    size_t n_bytes = a->d_k * a->d_v * sizeof(float);
    delta_head h = {.j = j, .b = block_at(j->c->scratch[i_thread], a->d_k)};
    for (size_t i = begin; i < end; i++) {
        h.head = i % a->n_head;
        cpu_state_walk(&a->span[i / a->n_head], a->state_at + h.head * n_bytes, n_bytes,
                       delta_block, &h);
    }
}

sp_err cpu_delta(sp_dev *dev, const sp_dev_delta *a)
{
    cpu_dev *c = (cpu_dev *)dev;
    delta_job j = {c, a};
    size_t n_row = 0, n_state = a->n_head * a->d_k * a->d_v;
    for (size_t i = 0; i < a->n_span; i++)
        n_row += a->span[i].n;
    uint64_t start = cpu_stat_begin(dev);
    SP_TRY(cpu_scratch_reserve(c, block_bytes(a->d_k)));
    sp_pool_run(c->pool, delta_part, &j, a->n_span * a->n_head, 1);
    cpu_stat_end(dev, SP_STAGE_ATTN, start, (double)(2 * a->n_span * n_state * sizeof(float)),
                 3.5 * (double)(n_row * n_state));
    return SP_OK;
}

typedef struct gate_job {
    const sp_kern *kern;
    const sp_dev_gate *a;
} gate_job;

static void gate_part(void *arg, size_t begin, size_t end, size_t i_thread)
{
    const gate_job *j = arg;
    const sp_dev_gate *a = j->a;
    size_t n = a->n_head * a->d;
    (void)i_thread;
    for (size_t t = begin; t < end; t++) {
        float *x = a->x + t * n, by;
        for (size_t i = 0; i < n && a->norm && !a->norm_last; i += a->d)
            j->kern->norm_rms(x + i, x + i, a->norm, a->d, a->eps);
        if (!a->is_row) {
            j->kern->glu[a->act](x, a->gate + t * n, x, n);
            for (size_t i = 0; i < n && a->norm && a->norm_last; i += a->d)
                j->kern->norm_rms(x + i, x + i, a->norm + i, a->d, a->eps);
            continue;
        }
        j->kern->glu[a->act](&by, a->gate + t, NULL, 1);
        for (size_t i = 0; i < n; i++)
            x[i] *= by;
    }
}

sp_err cpu_gate(sp_dev *dev, const sp_dev_gate *a)
{
    cpu_dev *c = (cpu_dev *)dev;
    gate_job j = {&c->kern, a};
    uint64_t start = cpu_stat_begin(dev);
    sp_pool_run(c->pool, gate_part, &j, a->n_row, GATE_GRAIN / (a->n_head * a->d) + 1);
    cpu_stat_end(dev, SP_STAGE_REST, start, 0, 0);
    return SP_OK;
}

sp_err cpu_halve(sp_dev *dev, float *first, float *second, const float *x, size_t n_row,
                 size_t n_head, size_t d)
{
    (void)dev;
    for (size_t i = 0; i < n_row * n_head; i++) {
        memcpy(first + i * d, x + 2 * i * d, d * sizeof *x);
        memcpy(second + i * d, x + (2 * i + 1) * d, d * sizeof *x);
    }
    return SP_OK;
}
