/* Test tool: the hi-plane bound on a model's own keys. usage: bounds MODEL, token ids on stdin.
 * Runs the model with plain f16 pages, quantises every full page of every layer and head, takes keys of
 * the last page as queries, and prints "CHECKS VIOLATIONS LARGEST", the last as a share of the bound. */
#include "base/mem.h"
#include "model/weights.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { CAP = 1024, D = 128 };

typedef struct tally {
    size_t n, n_over;
    double largest;
} tally;

/* Key j of a plain f16 head, rotated. */
static void rotated(float *out, const sp_kern *k, const sp_f16 *kt, size_t j, size_t d)
{
    for (size_t i = 0; i < d; i++)
        out[i] = sp_f16_to_f32(kt[i * SP_PAGE_TOK + j]);
    k->rotate(out, d, false);
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
            double bound = sqrt(norm) * (double)sp_bf16_to_f32(full.k_err[j]);
            t->n++;
            t->n_over += fabs(gap) > bound * (1 + 1e-5);
            t->largest = bound > 0 ? fmax(t->largest, fabs(gap) / bound) : t->largest;
        }
    }
}

int main(int argc, char **argv)
{
    static uint32_t tok[CAP];
    sp_diag d = {0};
    sp_gguf *g;
    sp_dev *dev;
    sp_model *m;
    sp_kv_pool *pool;
    sp_model_work *w;
    sp_kv_seq seq;
    size_t n = 0;
    sp_dev_cfg cfg = {.name = "cpu", .n_thread = 2, .mask = SP_CPU_LEVELS - 1};
    while (n < CAP && scanf("%u", &tok[n]) == 1)
        n++;
    if (argc < 2 || sp_gguf_open(&g, argv[1], &d) != SP_OK || sp_dev_open(&dev, &cfg, &d) != SP_OK ||
        sp_model_load(&m, g, dev, &d) != SP_OK)
        return 1;
    const sp_kv_cfg kv = {.shape = sp_model_kv_shape(m, sp_kv_format_find("f16")), .cap_bytes = 1u << 30, .model_id = *sp_model_id(m)};
    const float *logits;
    const sp_model_span span = {&seq, tok, n, 1};
    if (kv.shape.d > D || n < 2 * SP_PAGE_TOK || sp_kv_pool_new(&pool, dev, &kv, &d) != SP_OK ||
        sp_model_work_new(&w, m, n, 1, &d) != SP_OK || sp_kv_seq_init(&seq, pool, "t") != SP_OK ||
        sp_kv_seq_reserve(&seq, pool, n) != SP_OK || sp_model_forward(m, w, pool, &span, 1, &logits, &d) != SP_OK)
        return 1;
    tally t = {0};
    size_t last = n / SP_PAGE_TOK - 1;
    for (size_t layer = 0; layer < kv.shape.n_layer; layer++) {
        const sp_dev_kv_view view = sp_kv_page_view(&kv.shape, layer);
        for (size_t h = 0; h < view.n_head; h++) {
            size_t at = view.layer_at + h * view.head_bytes;
            for (size_t p = 0; p <= last; p++)
                check_head(&t, sp_dev_cpu_kern(dev), (const sp_f16 *)(const void *)((char *)seq.page[p] + at),
                           (const sp_f16 *)(const void *)((char *)seq.page[last] + at), view.d);
        }
    }
    printf("%zu %zu %.4f\n", t.n, t.n_over, t.largest);
    sp_kv_seq_fini(&seq, pool);
    sp_model_work_free(w);
    sp_kv_pool_free(pool);
    sp_model_free(m);
    sp_dev_close(dev);
    sp_gguf_close(g);
    return 0;
}
