/* Layers with a state on the CUDA device, against the CPU device; in chunks they give the same
 * bits. */
#include "cuda.h"

#include <stdio.h>

enum {
    ROWS = 8,
    FIRST = 5, /* rows of the first sequence */
    MARK = 2,  /* a copy of its state behind so many tokens */
    HEADS = 4,
    HEADS_K = 2,
    DK = 32,
    DV = 48,
    TAPS = 4,
    CHANS = 2 * HEADS_K * DK + HEADS * DV,
    AT = 64, /* bytes before what a layer keeps */
    FLOATS = AT / 4 + HEADS * DK * DV,
    N_STATE = 4 /* before the first, behind both, the copy */
};

typedef struct inputs {
    float x[ROWS * CHANS], in[ROWS * CHANS], out[ROWS * CHANS], w[TAPS * CHANS], bias[CHANS];
    float heads[3][HEADS], beta[ROWS * HEADS], alpha[ROWS * HEADS], state[FLOATS];
} inputs;

typedef struct results {
    float out[ROWS * CHANS], state[N_STATE][FLOATS];
} results;

/* An operation over spans with one form of it; out [ROWS, CHANS] or less. */
typedef void operate(sp_dev *dev, float *out, const inputs *of, const sp_dev_span *span,
                     size_t n_span, unsigned form);

static void run_conv(sp_dev *dev, float *out, const inputs *of, const sp_dev_span *span,
                     size_t n_span, unsigned form)
{
    const sp_dev_conv a = {.out = out,
                           .x = on(dev, of->x, sizeof of->x),
                           .ld = CHANS,
                           .in_gate = form ? on(dev, of->in, sizeof of->in) : NULL,
                           .out_gate = form ? on(dev, of->out, sizeof of->out) : NULL,
                           .w = on(dev, of->w, sizeof of->w),
                           .bias = form ? NULL : on(dev, of->bias, sizeof of->bias),
                           .act = form ? SP_ACT_NONE : SP_ACT_SILU,
                           .n_tap = TAPS,
                           .n_chan = CHANS,
                           .span = span,
                           .n_span = n_span,
                           .state_at = AT};
    assert_int_equal(dev->ops->conv(dev, &a), SP_OK);
}

static void run_delta(sp_dev *dev, float *out, const inputs *of, const sp_dev_span *span,
                      size_t n_span, unsigned form)
{
    const sp_dev_delta a = {.out = out,
                            .x = on(dev, of->x, sizeof of->x),
                            .beta = on(dev, of->beta, sizeof of->beta),
                            .alpha = on(dev, of->alpha, sizeof of->alpha),
                            .ld = HEADS,
                            .n_beside = form ? 2 : HEADS,
                            .step = form ? 2 : 0,
                            .dt = on(dev, of->heads[0], sizeof of->heads[0]),
                            .a = on(dev, of->heads[1], sizeof of->heads[1]),
                            .n_head_k = HEADS_K,
                            .n_head = HEADS,
                            .d_k = DK,
                            .d_v = DV,
                            .neighbours = form,
                            .eps = 1e-6f,
                            .span = span,
                            .n_span = n_span,
                            .state_at = AT};
    assert_int_equal(dev->ops->delta(dev, &a), SP_OK);
}

static void run_ssm(sp_dev *dev, float *out, const inputs *of, const sp_dev_span *span,
                    size_t n_span, unsigned form)
{
    const sp_dev_ssm a = {.out = out,
                          .x = on(dev, of->x, sizeof of->x),
                          .dt = on(dev, of->alpha, sizeof of->alpha),
                          .dt_bias = on(dev, of->heads[0], sizeof of->heads[0]),
                          .a = on(dev, of->heads[1], sizeof of->heads[1]),
                          .skip = on(dev, of->heads[2], sizeof of->heads[2]),
                          .n_group = form ? 2 : 1,
                          .n_head = HEADS,
                          .d_k = DK,
                          .d_v = DV,
                          .span = span,
                          .n_span = n_span,
                          .state_at = AT};
    assert_int_equal(dev->ops->ssm(dev, &a), SP_OK);
}

/* Two sequences, of which the second begins; the first one's rows in one span or, in chunks, in
 * two, the second of which finds its state in the place where it leaves it. */
static void run(sp_dev *dev, results *r, operate *op, const inputs *of, unsigned form,
                bool in_chunks)
{
    char *state[N_STATE], *out = on(dev, r->out, sizeof r->out);
    for (size_t i = 0; i < N_STATE; i++)
        state[i] = on(dev, of->state, sizeof of->state);
    const sp_dev_mark mark = {MARK, state[3]};
    sp_dev_span span[] = {{.row = 0,
                           .n = in_chunks ? MARK + 1 : FIRST,
                           .state = state[0],
                           .next = state[1],
                           .mark = &mark,
                           .n_mark = 1},
                          {.row = FIRST, .n = ROWS - FIRST, .next = state[2]}};
    const sp_dev_span rest = {.row = MARK + 1,
                              .n = FIRST - MARK - 1,
                              .state = state[1],
                              .next = state[1]};
    op(dev, (float *)(void *)out, of, span, 2, form);
    if (in_chunks)
        op(dev, (float *)(void *)out, of, &rest, 1, form);
    get(dev, r->out, out, sizeof r->out);
    for (size_t i = 0; i < N_STATE; i++)
        get(dev, r->state[i], state[i], sizeof of->state);
    done();
}

static void check(const devices *d, const char *name, operate *op, const inputs *of, unsigned form)
{
    static results got, again, cpu;
    static double want[sizeof(results) / sizeof(float)];
    char what[64];
    snprintf(what, sizeof what, "%s, form %u", name, form);
    memset(&cpu, 0, sizeof cpu);
    run(d->cpu, &cpu, op, of, form, false);
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++)
        want[i] = (double)((const float *)(const void *)&cpu)[i];
    for (size_t o = 0; o < ORDERS; o++) {
        results *r = o ? &again : &got;
        memset(r, 0, sizeof *r);
        set_order(orders[o]);
        run(d->cuda, r, op, of, form, false);
        if (o)
            assert_memory_equal(&got, &again, sizeof got);
    }
    set_order(0);
    check_near(what, (const float *)(const void *)&got, want, sizeof want / sizeof want[0], 3e-5);
    memset(&again, 0, sizeof again);
    run(d->cuda, &again, op, of, form, true);
    assert_memory_equal(&got, &again, sizeof got);
}

void test_cuda_states(void **state)
{
    (void)state;
    static inputs of;
    uint64_t seed = 29;
    devices d = open_devices();
    for (size_t i = 0; i < sizeof of / sizeof(float); i++)
        ((float *)(void *)&of)[i] = test_float(&seed);
    for (size_t i = 0; i < HEADS; i++) /* they decay */
        of.heads[1][i] = -fabsf(of.heads[1][i]);
    for (unsigned form = 0; form < 2; form++) {
        check(&d, "convolution", run_conv, &of, form);
        check(&d, "delta rule", run_delta, &of, form);
        check(&d, "state space", run_ssm, &of, form);
    }
    close_devices(&d);
}
