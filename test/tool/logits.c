/* Test tool: logits of every position. usage: logits MODEL KV_FORMAT [CPU_LEVEL [CHUNK [exact]]], token
 * ids on stdin, f32 rows [n_tok, n_vocab] on stdout. exact: weights are dequantised to f32 first, so
 * that activations are not rounded to 8 bits. */
#include "opened.h"

#include "base/mem.h"

#include <stdlib.h>

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
    bool tied = m->output.data == m->embd.data, ok = widen(k, &m->embd) && (tied || widen(k, &m->output));
    if (tied)
        m->output = m->embd;
    sp_dev_weight *w;
    for (size_t i = 0; ok && (w = sp_weights_matrix(m, i)); i++)
        ok = !w->data || widen(k, w);
    return ok;
}

int main(int argc, char **argv)
{
    static opened o;
    sp_cpu_level mask = SP_CPU_LEVELS - 1;
    size_t chunk = argc > 4 ? strtoul(argv[4], NULL, 10) : CAP_TOK;
    const sp_kv_format *format = argc > 2 ? sp_kv_format_find(argv[2]) : NULL;
    if (!format || (argc > 3 && !sp_cpu_level_parse(&mask, argv[3])) || chunk == 0)
        return 2;
    if (!open_model(&o, argv[1], mask))
        return fail(&o.d);
    if (argc > 5 && !make_exact(o.model)) /* its memory lives as long as this process */
        return 1;
    if (!open_seq(&o, format, o.n))
        return fail(&o.d);
    for (size_t at = 0; at < o.n; at += chunk) {
        size_t k = o.n - at < chunk ? o.n - at : chunk;
        const float *logits;
        const sp_model_span span = {&o.seq, o.tok + at, k, k};
        if (sp_model_forward(o.model, o.work, o.pool, &span, 1, &logits, &o.d) != SP_OK)
            return fail(&o.d);
        fwrite(logits, sizeof *logits, k * sp_model_arch(o.model)->n_vocab, stdout);
    }
    close_all(&o);
    return 0;
}
