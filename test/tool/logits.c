/* Test tool: logits of every position. usage: logits MODEL f16|f32 [CPU_LEVEL [CHUNK [exact]]], token
 * ids on stdin, f32 rows [n_tok, n_vocab] on stdout. exact: weights are dequantised to f32 first, so
 * that activations are not rounded to 8 bits. */
#include "base/mem.h"
#include "model/weights.h"

#include <stdio.h>
#include <stdlib.h>

enum { CAP = 4096 };

static int fail(const sp_diag *d)
{
    fprintf(stderr, "logits: %s\n", d->msg);
    return 1;
}

static bool widen(const sp_kern *k, sp_dev_weight *w)
{
    float *p = sp_mem_align(w->n_row * w->k * sizeof *p);
    for (size_t i = 0; p && i < w->n_row; i++)
        sp_kern_row_f32(k, p + i * w->k, w->type, w->data, i, w->k);
    w->data = p;
    w->type = SP_F32;
    return p != NULL;
}

static bool make_exact(sp_model *m)
{
    const sp_kern *k = sp_dev_cpu_kern(m->dev);
    bool ok = widen(k, &m->embd);
    m->output = m->embd; /* SmolLM2 ties them */
    for (size_t i = 0; ok && i < m->arch.n_layer; i++) {
        sp_layer *l = &m->layer[i];
        sp_dev_weight *const all[] = {&l->qkv[0], &l->qkv[1], &l->qkv[2], &l->attn_out, &l->glu[0], &l->glu[1], &l->ffn_down};
        for (size_t j = 0; ok && j < 7; j++)
            ok = widen(k, all[j]);
    }
    return ok;
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
    size_t n = 0, chunk = argc > 4 ? strtoul(argv[4], NULL, 10) : CAP;
    sp_dev_cfg cfg = {.name = "cpu", .n_thread = 2, .mask = SP_CPU_LEVELS - 1};
    const sp_kv_format *format = argc > 2 ? sp_kv_format_find(argv[2]) : NULL;
    if (!format || (argc > 3 && !sp_cpu_level_parse(&cfg.mask, argv[3])) || chunk == 0)
        return 2;
    while (n < CAP && scanf("%u", &tok[n]) == 1)
        n++;
    if (sp_gguf_open(&g, argv[1], &d) != SP_OK || sp_dev_open(&dev, &cfg, &d) != SP_OK ||
        sp_model_load(&m, g, dev, &d) != SP_OK)
        return fail(&d);
    if (argc > 5 && !make_exact(m)) /* its memory lives as long as this process */
        return 1;
    const sp_kv_cfg kv = {.shape = sp_model_kv_shape(m, format), .cap_bytes = 1u << 30, .model_id = *sp_model_id(m), .reuse = true};
    if (sp_kv_pool_new(&pool, dev, &kv, &d) != SP_OK || sp_model_work_new(&w, m, n, n, &d) != SP_OK ||
        sp_kv_seq_init(&seq, pool, "t") != SP_OK || sp_kv_seq_reserve(&seq, pool, n) != SP_OK)
        return fail(&d);
    for (size_t at = 0; at < n; at += chunk) {
        size_t k = n - at < chunk ? n - at : chunk;
        const float *logits;
        const sp_model_span span = {&seq, tok + at, k, k};
        if (sp_model_forward(m, w, pool, &span, 1, &logits, &d) != SP_OK)
            return fail(&d);
        fwrite(logits, sizeof *logits, k * sp_model_arch(m)->n_vocab, stdout);
    }
    sp_kv_seq_fini(&seq, pool);
    sp_model_work_free(w);
    sp_kv_pool_free(pool);
    sp_model_free(m);
    sp_dev_close(dev);
    sp_gguf_close(g);
    return 0;
}
