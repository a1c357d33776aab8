/* Products of single heads on the CPU: head h's rows of the weight meet what each row of x holds
 * for head h.
 *
 * * The inputs of a head are neighbours, so that its weights are read once for all rows. As
 * everywhere, threads share tiles of weights, never a sum, and a row's result does not depend on
 * the rows beside it. */
#include "dev/cpu.h"

#include <string.h>

enum { ROW_GRAIN = 16 };

typedef struct each_job {
    cpu_input in;
    const sp_dev_each_head *a;
    size_t n_out; /* of each head */
    float *y;     /* [n_head][n_row][n_out] */
} each_job;

/* Items are inputs, [n_head][n_row]. */
static void gather_part(void *arg, size_t begin, size_t end, size_t i_thread)
{
    const each_job *j = arg;
    const sp_dev_each_head *a = j->a;
    for (size_t i = begin; i < end; i++) {
        size_t h = i / a->n_row, t = i % a->n_row;
        float *y = cpu_input_row(&j->in, i, i_thread);
        memcpy(y, a->x + (t * a->n_head + h) * a->ld_x, j->in.k * sizeof *y);
        cpu_input_put(&j->in, i, y);
    }
}

/* Items are tiles of 16 rows of the heads' weights laid end to end. */
static void product_part(void *arg, size_t begin, size_t end, size_t i_thread)
{
    const each_job *j = arg;
    size_t n_tile = sp_pack_tiles(j->n_out), n;
    (void)i_thread;
    for (size_t i = begin; i < end; i += n) {
        size_t h = i / n_tile, from = i % n_tile;
        n = n_tile - from < end - i ? n_tile - from : end - i;
        sp_dev_weight w = cpu_rows_of(j->a->w, h * j->n_out, j->n_out);
        w.scale = j->a->w->scale;
        cpu_product(&j->in, &w, j->y + h * j->a->n_row * j->n_out, from, n, h * j->a->n_row,
                    j->a->n_row, false);
    }
}

static void scatter_part(void *arg, size_t begin, size_t end, size_t i_thread)
{
    const each_job *j = arg;
    const sp_dev_each_head *a = j->a;
    (void)i_thread;
    for (size_t i = begin * a->n_head; i < end * a->n_head; i++) {
        size_t t = i / a->n_head, h = i % a->n_head;
        float *out = a->out + i * a->ld_out;
        memcpy(out, j->y + (h * a->n_row + t) * j->n_out, j->n_out * sizeof *out);
        if (a->n_copy)
            memcpy(out + j->n_out, a->x + i * a->ld_x + j->in.k, a->n_copy * sizeof *out);
    }
}

sp_err cpu_each_head(sp_dev *dev, const sp_dev_each_head *a)
{
    cpu_dev *c = (cpu_dev *)dev;
    each_job j = {.in = {.c = c, .k = a->w->k}, .a = a, .n_out = a->w->n_row / a->n_head};
    uint64_t start = cpu_stat_begin(dev);
    size_t n_in = a->n_head * a->n_row;
    SP_TRY(cpu_grow(&c->heads, &c->heads_bytes, n_in * j.n_out * sizeof(float)));
    j.y = c->heads;
    cpu_input_want(&j.in, a->w);
    SP_TRY(cpu_input_reserve(&j.in, n_in, true));
    sp_pool_run(c->pool, gather_part, &j, n_in, ROW_GRAIN);
    sp_pool_run(c->pool, product_part, &j, a->n_head * sp_pack_tiles(j.n_out), CPU_MIN_TILES);
    sp_pool_run(c->pool, scatter_part, &j, a->n_row, ROW_GRAIN);
    cpu_stat_end(dev, a->stage, start,
                 (double)(a->w->n_row * sp_type_row_bytes(a->w->type, a->w->k)),
                 (double)(a->w->n_row * a->w->k) * (double)a->n_row);
    return SP_OK;
}
