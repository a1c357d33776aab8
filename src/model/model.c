/* Loading a decoder: every weight the architecture needs, with its shape checked. */
#include "model/model.h"

#include "base/mem.h"
#include "model/identity.h"
#include "model/weights.h"

#include <stdio.h>
#include <string.h>

static sp_err bind(sp_dev_weight *out, const sp_gguf *g, const char *name, size_t n_row, size_t k, sp_diag *d)
{
    const sp_tensor *t = sp_gguf_tensor_find(g, name);
    if (!t)
        return SP_FAIL(d, SP_FORMAT, "gguf: tensor %s is missing", name);
    if (t->dim[0] != k || t->dim[1] != n_row || t->dim[2] != 1 || t->dim[3] != 1)
        return SP_FAIL(d, SP_FORMAT, "gguf: tensor %s is %llu x %llu, expected %zu x %zu", name,
                       (unsigned long long)t->dim[0], (unsigned long long)t->dim[1], k, n_row);
    *out = (sp_dev_weight){t->data, t->type, n_row, k};
    return SP_OK;
}

/* Small vectors are kept as f32 on the device. required false: absent gives NULL. */
static sp_err load_vector(sp_model *m, float **out, const sp_gguf *g, const char *name, size_t n,
                          bool required, sp_diag *d)
{
    const sp_tensor *t = sp_gguf_tensor_find(g, name);
    if (!t && !required)
        return SP_OK;
    sp_dev_weight w;
    SP_TRY(bind(&w, g, name, 1, n, d));
    if (w.type != SP_F32)
        return SP_FAIL(d, SP_UNSUP, "gguf: tensor %s is %s, expected F32", name, sp_type_name(w.type));
    void *p;
    if (m->dev->ops->mem_new(m->dev, &p, n * sizeof(float)) != SP_OK)
        return SP_FAIL(d, SP_NOMEM, "weights");
    *out = p;
    return m->dev->ops->mem_write(m->dev, p, w.data, n * sizeof(float));
}

static sp_err load_layer(sp_model *m, sp_layer *l, size_t i, const sp_gguf *g, sp_diag *d)
{
    const sp_arch *a = &m->arch;
    size_t n_q = a->n_head * a->d_head, n_kv = a->n_head_kv * a->d_head;
    const struct { sp_dev_weight *w; const char *name; size_t n_row, k; } mats[] = {
        {&l->qkv[0], "attn_q", n_q, a->n_embd},     {&l->qkv[1], "attn_k", n_kv, a->n_embd},
        {&l->qkv[2], "attn_v", n_kv, a->n_embd},    {&l->attn_out, "attn_output", a->n_embd, n_q},
        {&l->glu[0], "ffn_gate", a->n_ff, a->n_embd}, {&l->glu[1], "ffn_up", a->n_ff, a->n_embd},
        {&l->ffn_down, "ffn_down", a->n_embd, a->n_ff}};
    const struct { float **p; const char *name; size_t n; bool required; } vecs[] = {
        {&l->attn_norm, "attn_norm.weight", a->n_embd, true},
        {&l->ffn_norm, "ffn_norm.weight", a->n_embd, true},
        {&l->qkv_bias[0], "attn_q.bias", n_q, false},
        {&l->qkv_bias[1], "attn_k.bias", n_kv, false},
        {&l->qkv_bias[2], "attn_v.bias", n_kv, false},
        {&l->attn_out_bias, "attn_output.bias", a->n_embd, false},
        {&l->glu_bias[0], "ffn_gate.bias", a->n_ff, false},
        {&l->glu_bias[1], "ffn_up.bias", a->n_ff, false},
        {&l->ffn_down_bias, "ffn_down.bias", a->n_embd, false}};
    char name[64];
    for (size_t j = 0; j < sizeof mats / sizeof mats[0]; j++) {
        snprintf(name, sizeof name, "blk.%zu.%s.weight", i, mats[j].name);
        SP_TRY(bind(mats[j].w, g, name, mats[j].n_row, mats[j].k, d));
    }
    for (size_t j = 0; j < sizeof vecs / sizeof vecs[0]; j++) {
        snprintf(name, sizeof name, "blk.%zu.%s", i, vecs[j].name);
        SP_TRY(load_vector(m, vecs[j].p, g, name, vecs[j].n, vecs[j].required, d));
    }
    return SP_OK;
}

static sp_err load_rope(sp_model *m, const sp_gguf *g, sp_diag *d)
{
    const sp_arch *a = &m->arch;
    const float *factors = NULL;
    sp_dev_weight w;
    if (sp_gguf_tensor_find(g, "rope_freqs.weight")) {
        SP_TRY(bind(&w, g, "rope_freqs.weight", 1, a->d_rot / 2, d));
        if (w.type != SP_F32)
            return SP_FAIL(d, SP_UNSUP, "gguf: tensor rope_freqs.weight is not F32");
        factors = w.data;
        for (size_t i = 0; i < a->d_rot / 2; i++)
            if (!(factors[i] > 0))
                return SP_FAIL(d, SP_FORMAT, "gguf: rope_freqs.weight[%zu] is not positive", i);
    }
    m->rope_freq = sp_mem_array(a->d_rot / 2, sizeof *m->rope_freq);
    if (!m->rope_freq)
        return SP_FAIL(d, SP_NOMEM, "weights");
    sp_arch_rope(a, factors, m->rope_freq, &m->rope_scale);
    return SP_OK;
}

enum { MATS = 7, SLICE_BYTES = 4 << 20, SLICE_MULTIPLE = 64 /* whole tiles of any device */ };

static sp_dev_weight *mat_at(sp_model *m, size_t i)
{
    sp_dev_weight *const top[] = {&m->embd, &m->output};
    if (i < 2)
        return top[i];
    sp_layer *l = &m->layer[(i - 2) / MATS];
    sp_dev_weight *const in[MATS] = {&l->qkv[0], &l->qkv[1], &l->qkv[2], &l->attn_out, &l->glu[0], &l->glu[1], &l->ffn_down};
    return in[(i - 2) % MATS];
}

/* One matrix, a slice of rows at a time: the file's pages are let go after each, so that hardly
 * anything is resident twice. */
static sp_err put_matrix(sp_model *m, sp_dev_weight *w, char *to, const sp_gguf *g, sp_identity *id, sp_diag *d)
{
    const sp_dev_ops *ops = m->dev->ops;
    const char *rows = w->data;
    size_t row_bytes = sp_type_row_bytes(w->type, w->k), n_row = w->n_row;
    size_t slice = SLICE_BYTES / row_bytes / SLICE_MULTIPLE * SLICE_MULTIPLE + SLICE_MULTIPLE;
    if (!ops->weight_bytes(m->dev, w->type, n_row, w->k))
        slice = n_row; /* used where it lies */
    for (size_t r = 0; r < n_row; r += slice) {
        size_t n = n_row - r < slice ? n_row - r : slice;
        sp_dev_weight part;
        if (ops->weight_put(m->dev, &part, to + ops->weight_bytes(m->dev, w->type, r, w->k), w->type, rows + r * row_bytes, n, w->k) != SP_OK)
            return SP_FAIL(d, SP_NOMEM, "packing the weights");
        SP_TRY(sp_identity_take(id, rows + r * row_bytes, n * row_bytes));
        if (slice < n_row || part.data != rows)
            sp_gguf_forget(g, rows + r * row_bytes, n * row_bytes);
        if (r == 0)
            w->data = part.data;
    }
    return SP_OK;
}

/* Brings every matrix into the device's layout, in one block of memory. */
static sp_err put_weights(sp_model *m, const sp_gguf *g, sp_identity *id, bool tied, sp_diag *d)
{
    const sp_dev_ops *ops = m->dev->ops;
    size_t n_mat = 2 + MATS * m->arch.n_layer, total = 0, at = 0;
    for (size_t i = 0; i < n_mat; i++) {
        const sp_dev_weight *w = mat_at(m, i);
        if (!(tied && w == &m->output))
            total += ops->weight_bytes(m->dev, w->type, w->n_row, w->k);
    }
    if (total && ops->mem_raw(m->dev, &m->packed, total) != SP_OK)
        return SP_FAIL(d, SP_NOMEM, "%zu bytes for the weights", total);
    for (size_t i = 0; i < n_mat; i++) {
        sp_dev_weight *w = mat_at(m, i);
        if (tied && w == &m->output)
            continue;
        SP_TRY(put_matrix(m, w, (char *)m->packed + at, g, id, d));
        at += ops->weight_bytes(m->dev, w->type, w->n_row, w->k);
    }
    if (tied)
        m->output = m->embd;
    return SP_OK;
}

static sp_err load(sp_model *m, const sp_gguf *g, sp_diag *d)
{
    SP_TRY(sp_arch_read(&m->arch, g, d));
    sp_arch *a = &m->arch;
    const sp_tensor *emb = sp_gguf_tensor_find(g, "token_embd.weight");
    if (!emb)
        return SP_FAIL(d, SP_FORMAT, "gguf: tensor token_embd.weight is missing (a vocabulary-only file?)");
    a->n_vocab = (size_t)emb->dim[1];
    SP_TRY(bind(&m->embd, g, "token_embd.weight", a->n_vocab, a->n_embd, d));
    bool tied = !sp_gguf_tensor_find(g, "output.weight");
    m->output = m->embd;
    if (!tied)
        SP_TRY(bind(&m->output, g, "output.weight", a->n_vocab, a->n_embd, d));
    SP_TRY(load_vector(m, &m->output_norm, g, "output_norm.weight", a->n_embd, true, d));
    m->layer = sp_mem_array(a->n_layer, sizeof *m->layer);
    if (!m->layer)
        return SP_FAIL(d, SP_NOMEM, "weights");
    for (size_t i = 0; i < a->n_layer; i++)
        SP_TRY(load_layer(m, &m->layer[i], i, g, d));
    SP_TRY(load_rope(m, g, d));
    for (size_t i = 0; i < sp_gguf_tensor_count(g); i++)
        m->weight_bytes += sp_gguf_tensor_at(g, i)->n_bytes;
    sp_identity id;
    SP_TRY(sp_identity_init(&id, g, sp_dev_cpu_pool(m->dev), d));
    sp_err err = put_weights(m, g, &id, tied, d);
    if (err == SP_OK)
        err = sp_identity_end(&id, &m->id, d);
    sp_identity_fini(&id);
    return err;
}

sp_err sp_model_load(sp_model **out, const sp_gguf *g, sp_dev *dev, sp_diag *d)
{
    sp_model *m = sp_mem_alloc(sizeof *m);
    if (!m)
        return SP_FAIL(d, SP_NOMEM, "model");
    m->dev = dev;
    sp_err err = load(m, g, d);
    if (err == SP_OK)
        *out = m;
    else
        sp_model_free(m);
    return err;
}

void sp_model_free(sp_model *m)
{
    if (!m)
        return;
    for (size_t i = 0; m->layer && i < m->arch.n_layer; i++) {
        const sp_layer *l = &m->layer[i];
        float *const own[] = {l->attn_norm,   l->ffn_norm,      l->qkv_bias[0], l->qkv_bias[1],
                              l->qkv_bias[2], l->attn_out_bias, l->glu_bias[0], l->glu_bias[1],
                              l->ffn_down_bias};
        for (size_t j = 0; j < sizeof own / sizeof own[0]; j++)
            m->dev->ops->mem_free(m->dev, own[j]);
    }
    m->dev->ops->mem_free(m->dev, m->output_norm);
    m->dev->ops->mem_free(m->dev, m->packed);
    sp_mem_free(m->layer);
    sp_mem_free(m->rope_freq);
    sp_mem_free(m);
}

const sp_arch *sp_model_arch(const sp_model *m)
{
    return &m->arch;
}

const sp_sha256 *sp_model_id(const sp_model *m)
{
    return &m->id;
}

sp_kv_shape sp_model_kv_shape(const sp_model *m, const sp_kv_format *format)
{
    return (sp_kv_shape){format, m->arch.n_layer, m->arch.n_head_kv, m->arch.d_head};
}

size_t sp_model_weight_bytes(const sp_model *m)
{
    return m->weight_bytes;
}

sp_model_flops sp_model_flops_of(const sp_model *m)
{
    const sp_arch *a = &m->arch;
    double layer = (double)(a->n_embd * a->d_head) * (double)(2 * a->n_head + 2 * a->n_head_kv) +
                   3.0 * (double)a->n_embd * (double)a->n_ff;
    return (sp_model_flops){.per_tok = 2.0 * layer * (double)a->n_layer,
                            .per_seen = 4.0 * (double)(a->n_head * a->d_head * a->n_layer),
                            .per_logits = 2.0 * (double)a->n_vocab * (double)a->n_embd};
}
