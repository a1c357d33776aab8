/* Test tool: the hi-plane bound on a model's own keys. usage: bounds MODEL, token ids on stdin.
 * Runs the model with plain f16 pages, quantises every full page of every layer and head, takes keys of
 * the last page as queries, and prints "CHECKS VIOLATIONS LARGEST", the last as a share of the bound. */
#include "opened.h"

#include <math.h>
#include <string.h>

enum { D = 128 };

typedef struct tally {
    size_t n, n_over;
    double largest;
} tally;

/* Key j of a plain f16 head, rotated. */
static void rotated(float *out, const sp_kern *k, const sp_f16 *kt, size_t j, size_t d)
{
    for (size_t i = 0; i < d; i++)
        out[i] = sp_f16_to_f32(kt[i * SP_PAGE_TOK + j]);
    k->rotate(out, out, 1, d, false);
}

static void check_head(tally *t, const sp_kern *k, const sp_f16 *page, const sp_f16 *last, size_t d)
{
    static sp_f16 turned[2 * D * SP_PAGE_TOK];
    static float row[D], q[D], kt[D * SP_PAGE_TOK], hi[D * SP_PAGE_TOK], v[D * SP_PAGE_TOK];
    static _Alignas(64) uint8_t hi_mem[64 * D], lo_mem[64 * D];
    for (size_t j = 0; j < SP_PAGE_TOK; j++) {
        rotated(row, k, page, j, d);
        for (size_t i = 0; i < d; i++)
            turned[i * SP_PAGE_TOK + j] = sp_f16_from_f32(row[i]);
    }
    memcpy(turned + d * SP_PAGE_TOK, page + d * SP_PAGE_TOK, d * SP_PAGE_TOK * sizeof *page);
    const sp_planes full = sp_planes_at(hi_mem, lo_mem, d), demoted = sp_planes_at(hi_mem, NULL, d);
    k->planes_put(&full, turned, turned + d * SP_PAGE_TOK, d);
    k->planes_get(kt, v, &full, d);
    k->planes_get(hi, v, &demoted, d);
    for (size_t iq = 0; iq < SP_PAGE_TOK; iq++) {
        rotated(q, k, last, iq, d);
        for (size_t j = 0; j < SP_PAGE_TOK; j++) {
            double gap = 0, norm = 0;
            for (size_t i = 0; i < d; i++) {
                gap += (double)q[i] * ((double)kt[i * SP_PAGE_TOK + j] - (double)hi[i * SP_PAGE_TOK + j]);
                norm += (double)q[i] * (double)q[i];
            }
            double bound = sqrt(norm) * (double)sp_f16_to_f32(full.k_scale[j]) * (double)full.bound->err;
            t->n++;
            t->n_over += fabs(gap) > bound * (1 + 1e-5);
            t->largest = bound > 0 ? fmax(t->largest, fabs(gap) / bound) : t->largest;
        }
    }
}

int main(int argc, char **argv)
{
    static opened o;
    const float *logits;
    if (argc < 2 || !open_model(&o, argv[1], SP_CPU_LEVELS - 1, 0, 0) || o.n < 2 * SP_PAGE_TOK ||
        !open_seq(&o, sp_kv_format_find("f16"), 1))
        return 1;
    const sp_model_span span = {.seq = &o.seq, .tok = o.tok, .n = o.n, .n_logits = 1};
    const sp_kv_shape *shape = sp_kv_pool_shape(o.pool);
    if (shape->d > D || sp_model_forward(o.model, o.work, o.pool, &span, 1, &logits, &o.d) != SP_OK)
        return 1;
    tally t = {0};
    size_t last = o.n / SP_PAGE_TOK - 1;
    for (size_t layer = 0; layer < shape->n_layer; layer++) {
        const sp_dev_kv_view view = sp_kv_page_view(shape, layer);
        for (size_t h = 0; h < view.n_head; h++) {
            size_t at = view.layer_at + h * view.head_bytes;
            for (size_t p = 0; p <= last; p++)
                check_head(&t, sp_dev_cpu_kern(o.dev), (const sp_f16 *)(const void *)((char *)o.seq.page[p] + at),
                           (const sp_f16 *)(const void *)((char *)o.seq.page[last] + at), view.d);
        }
    }
    printf("%zu %zu %.4f\n", t.n, t.n_over, t.largest);
    close_all(&o);
    return 0;
}
