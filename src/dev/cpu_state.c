/* Recurrent layers on the CPU: how a sequence's tokens pass a state, and convolutions over its
 * newest inputs. A channel's outputs depend on its own inputs only, so that work is split by
 * sequence and channel, and never changes with the batch or the chunk. */
#include "dev/cpu.h"

#include <string.h>

enum {
    CONV_BLOCK = 256 /* channels that one thread takes at a time */,
    CONV_GRAIN = 16384 /* products below which one thread does all */
};

void cpu_state_walk(const sp_dev_span *s, size_t at, size_t n_bytes, cpu_state_block *block,
                    void *arg)
{
    size_t i_mark = 0, n;
    float *state = (float *)(void *)((char *)s->next + at);
    if (s->state && s->state != s->next)
        memcpy(state, (const char *)s->state + at, n_bytes);
    else if (!s->state)
        memset(state, 0, n_bytes);
    for (size_t t = 0; t < s->n; t += n) {
        size_t end = i_mark < s->n_mark ? s->mark[i_mark].n : s->n;
        n = end - t < CPU_STATE_TOK ? end - t : CPU_STATE_TOK;
        block(arg, state, s->row + t, n);
        if (i_mark < s->n_mark && t + n == s->mark[i_mark].n)
            memcpy((char *)s->mark[i_mark++].state + at, state, n_bytes);
    }
}

typedef struct conv_job {
    const cpu_dev *c;
    const sp_dev_conv *a;
    size_t n_block;
} conv_job;

/* Input `at` of a span, which may be negative: those before it are in the state. NULL: zeros. */
static const float *input_at(const sp_dev_conv *a, const sp_dev_span *s, ptrdiff_t at, size_t chan)
{
    if (at >= 0)
        return a->x + (s->row + (size_t)at) * a->ld + chan;
    if (!s->state)
        return NULL;
    return (const float *)(const void *)((const char *)s->state + a->state_at) +
           ((size_t)(at + (ptrdiff_t)a->n_tap) - 1) * a->n_chan + chan;
}

/* The inputs that what follows the first `end` tokens of a span sees. Where `state` is the span's
 * own, each row is read before it is written. */
static void put_inputs(const sp_dev_conv *a, const sp_dev_span *s, void *state, size_t end,
                       size_t chan, size_t n)
{
    float *to = (float *)(void *)((char *)state + a->state_at) + chan;
    for (size_t j = 0; j + 1 < a->n_tap; j++, to += a->n_chan) {
        const float *from = input_at(a, s, (ptrdiff_t)(end + j) - (ptrdiff_t)a->n_tap + 1, chan);
        if (from)
            memcpy(to, from, n * sizeof *to);
        else
            memset(to, 0, n * sizeof *to);
    }
}

static void conv_block(const conv_job *j, const sp_dev_span *s, size_t chan, size_t n)
{
    static const float zeros[CONV_BLOCK];
    const sp_dev_conv *a = j->a;
    const float *in[CPU_MAX_TAP];
    for (size_t t = 0; t < s->n && a->in_gate; t++) {
        float *x = a->x + (s->row + t) * a->ld + chan;
        j->c->kern.mul(x, x, a->in_gate + (s->row + t) * a->ld + chan, n);
    }
    for (size_t t = 0; t < s->n; t++) {
        float *out = a->out + (s->row + t) * a->n_chan + chan;
        for (size_t k = 0; k < a->n_tap; k++) {
            in[k] = input_at(a, s, (ptrdiff_t)(t + k) - (ptrdiff_t)a->n_tap + 1, chan);
            in[k] = in[k] ? in[k] : zeros;
        }
        j->c->kern.conv(out, in, a->w + chan, a->n_chan, a->bias ? a->bias + chan : NULL, a->n_tap,
                        n);
        if (a->act != SP_ACT_NONE)
            j->c->kern.glu[a->act](out, out, NULL, n);
        if (a->out_gate)
            j->c->kern.mul(out, out, a->out_gate + (s->row + t) * a->ld + chan, n);
    }
    for (size_t m = 0; m < s->n_mark; m++)
        put_inputs(a, s, s->mark[m].state, s->mark[m].n, chan, n);
    put_inputs(a, s, s->next, s->n, chan, n);
}

static void conv_part(void *arg, size_t begin, size_t end, size_t i_thread)
{
    const conv_job *j = arg;
    (void)i_thread;
    for (size_t i = begin; i < end; i++) {
        size_t chan = i % j->n_block * CONV_BLOCK, left = j->a->n_chan - chan;
        conv_block(j, &j->a->span[i / j->n_block], chan, left < CONV_BLOCK ? left : CONV_BLOCK);
    }
}

sp_err cpu_conv(sp_dev *dev, const sp_dev_conv *a)
{
    cpu_dev *c = (cpu_dev *)dev;
    conv_job j = {c, a, (a->n_chan + CONV_BLOCK - 1) / CONV_BLOCK};
    size_t n_row = 0;
    SP_ASSERT(a->n_tap <= CPU_MAX_TAP);
    for (size_t i = 0; i < a->n_span; i++)
        n_row += a->span[i].n;
    uint64_t start = cpu_stat_begin(dev);
    bool few = n_row * a->n_tap * a->n_chan < CONV_GRAIN;
    sp_pool_run(c->pool, conv_part, &j, a->n_span * j.n_block, few ? a->n_span * j.n_block : 1);
    cpu_stat_end(dev, SP_STAGE_ATTN, start, (double)(n_row * a->n_chan * sizeof(float)),
                 (double)(n_row * a->n_tap * a->n_chan));
    return SP_OK;
}
