/* The memory of a forward pass: which buffers a model needs, of which sizes. */
#include "base/mem.h"
#include "model/forward_int.h"

#include <string.h>

static bool has_beside(const sp_arch *a)
{
    return a->n_layer && a->layer[0].ffn == SP_FFN_BESIDE;
}

/* Device memory of f32 whose address stands in a work. */
typedef struct buffer {
    size_t at; /* of the address */
    size_t rows, cols;
} buffer;
enum { N_BUFFER = 23 };

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* Widest row that goes into the mixing of tokens by recurrent layers, or into gated attention. */
static size_t mix_width(const sp_arch *a)
{
    bool is_conv = a->state.n_bytes && !a->state.n_head;
    return larger(is_conv ? 3 * a->n_embd : a->state.n_chan,
                  a->attn_gate ? 2 * a->n_head * a->d_head : 0);
}

/* ... that comes out of recurrent layers. */
static size_t mixed_width(const sp_arch *a)
{
    return a->state.n_head ? a->state.n_head * a->state.d_v : a->state.n_chan;
}

static void list_buffers(buffer out[N_BUFFER], const sp_arch *a, size_t cap_tok, size_t cap_logits)
{
#define AT(field) offsetof(sp_model_work, field)
    const sp_arch_latent *t = &a->latent;
    size_t n_kv = a->n_head_kv * a->d_head, n_v = t->n ? t->n_query : n_kv;
    size_t n_q = a->n_head * larger(a->d_head, t->d_value),
           n_o = a->n_head * (t->n ? larger(t->n, t->d_query) : a->d_head);
    const buffer all[N_BUFFER] = {
        {AT(x), cap_tok, a->n_embd},
        {AT(y), sp_forward_joins(a) || a->layer_norm || a->route.n_expert ? cap_tok : 0, a->n_embd},
        {AT(cs[SP_ROPE_FULL]), cap_tok, a->d_rot},
        {AT(z), has_beside(a) ? cap_tok : 0, a->n_embd},
        {AT(first), a->n_side ? cap_tok : 0, a->n_embd},
        {AT(side), cap_tok, a->n_side},
        {AT(side_in), cap_tok, a->n_side},
        {AT(next), a->first ? cap_tok : 0, a->n_embd},
        {AT(next_in), a->first ? cap_tok : 0, 2 * a->n_embd},
        {AT(cs[SP_ROPE_WINDOW]), cap_tok, a->d_rot},
        {AT(q), cap_tok, n_q},
        {AT(k), cap_tok, n_kv},
        {AT(v), cap_tok, n_v},
        {AT(o), cap_tok, larger(n_o, mixed_width(a))},
        {AT(mix), cap_tok, mix_width(a)},
        {AT(mixed), cap_tok, a->state.n_head ? a->state.n_chan : 0},
        {AT(gates), cap_tok, larger(a->attn_gate ? n_q : 0, a->state.n_head * a->state.d_v)},
        {AT(ab), cap_tok, 2 * a->state.n_head + a->shared_gate},
        {AT(temp), a->temp_scale > 0 ? cap_tok : 0, 1},
        {AT(gate), cap_tok, a->n_ff},
        {AT(up), cap_tok, a->n_ff},
        {AT(last), cap_logits, a->n_embd},
        {AT(logits), cap_logits, a->n_vocab}};
#undef AT
    memcpy(out, all, sizeof all);
}

static float *buffer_at(const sp_model_work *w, size_t at)
{
    float *p;
    memcpy(&p, (const char *)w + at, sizeof p);
    return p;
}

size_t sp_model_work_bytes(const sp_arch *a, size_t cap_tok, size_t cap_logits)
{
    buffer all[N_BUFFER];
    size_t n_bytes = cap_logits * a->n_vocab * sizeof(float); /* the host's copy of the logits */
    list_buffers(all, a, cap_tok, cap_logits);
    for (size_t i = 0; i < N_BUFFER; i++)
        n_bytes += all[i].rows * all[i].cols * sizeof(float);
    /* the device's: each token at each of its experts, before and after each product */
    if (a->route.n_expert)
        n_bytes += cap_tok * a->route.n_used * (3 * a->n_ff_expert + 2 * a->n_embd) * sizeof(float);
    return n_bytes;
}

sp_err sp_model_work_new(sp_model_work **out, const sp_model *m, size_t cap_tok, size_t cap_logits,
                         sp_diag *d)
{
    const sp_arch *a = &m->arch;
    sp_model_work *w = sp_mem_alloc(sizeof *w);
    if (!w)
        return SP_FAIL(d, SP_NOMEM, "activations");
    *w = (sp_model_work){.dev = m->dev,
                         .cap_tok = cap_tok,
                         .cap_logits = cap_logits,
                         .n_vocab = a->n_vocab};
    buffer all[N_BUFFER];
    sp_err err = SP_OK;
    list_buffers(all, a, cap_tok, cap_logits);
    for (size_t i = 0; i < N_BUFFER && err == SP_OK; i++) {
        void *p = NULL;
        if (all[i].rows && all[i].cols)
            err = m->dev->ops->mem_raw(m->dev, &p, all[i].rows * all[i].cols * sizeof(float));
        memcpy((char *)w + all[i].at, &p, sizeof p);
    }
    w->host_logits = sp_mem_raw((cap_logits ? cap_logits * a->n_vocab : 1) * sizeof(float));
    w->tok = sp_mem_array(cap_tok, sizeof *w->tok);
    w->host_temp = sp_mem_array(cap_tok, sizeof *w->host_temp);
    w->best = sp_mem_array(cap_logits + 1, sizeof *w->best);
    w->temperature = sp_mem_array(cap_logits + 1, sizeof *w->temperature);
    w->is_left = sp_mem_array(cap_logits + 1, sizeof *w->is_left);
    w->pos = sp_mem_array(cap_tok, sizeof *w->pos);
    w->type = sp_mem_array(cap_tok, sizeof *w->type);
    w->span = sp_mem_array(cap_tok, sizeof *w->span);
    w->each = sp_mem_array(cap_tok, sizeof *w->each);
    w->kept = sp_mem_array(cap_tok, sizeof *w->kept);
    w->again = sp_mem_array(cap_tok, sizeof *w->again);
    w->view = sp_mem_array(a->n_layer, sizeof *w->view);
    w->turn = sp_mem_array(a->n_layer, sizeof *w->turn);
    if (err != SP_OK || !w->host_logits || !w->host_temp || !w->best || !w->temperature ||
        !w->is_left || !w->tok || !w->pos || !w->type ||
        !w->span || !w->each || !w->kept || !w->again || !w->view || !w->turn) {
        sp_model_work_free(w);
        return SP_FAIL(d, SP_NOMEM, "activations of %zu tokens", cap_tok);
    }
    *out = w;
    return SP_OK;
}

void sp_model_work_free(sp_model_work *w)
{
    static const sp_arch any; /* places do not depend on the model */
    buffer all[N_BUFFER];
    if (!w)
        return;
    list_buffers(all, &any, 0, 0);
    for (size_t i = 0; i < N_BUFFER; i++)
        w->dev->ops->mem_free(w->dev, buffer_at(w, all[i].at));
    for (size_t i = 0; i < w->n_keep; i++)
        w->dev->ops->mem_free(w->dev, w->keep[i]);
    void *const host[] = {w->host_logits, w->host_temp, w->tok,   w->pos,  w->type, w->span,
                          w->each,        w->kept,      w->again, w->view, w->turn, w->best,
                          w->temperature, w->is_left};
    for (size_t i = 0; i < sizeof host / sizeof host[0]; i++)
        sp_mem_free(host[i]);
    sp_mem_free(w);
}

sp_err sp_model_work_keep(sp_model_work *w, const sp_model *m, size_t i, sp_diag *d)
{
    void *p;
    SP_ASSERT(i + 1 < m->arch.n_layer);
    if (sp_model_states(m, w, i))
        return SP_OK;
    if (w->n_keep == SP_MODEL_KEEP)
        return SP_FAIL(d, SP_LIMIT, "hidden states of more than %d layers", SP_MODEL_KEEP);
    if (w->dev->ops->mem_raw(w->dev, &p, w->cap_tok * m->arch.n_embd * sizeof(float)) != SP_OK)
        return SP_FAIL(d, SP_NOMEM, "hidden states of %zu tokens", w->cap_tok);
    w->keep[w->n_keep] = p;
    w->keep_of[w->n_keep++] = i;
    return SP_OK;
}

const float *sp_model_states(const sp_model *m, const sp_model_work *w, size_t i)
{
    if (i + 1 == m->arch.n_layer)
        return w->x;
    for (size_t k = 0; k < w->n_keep; k++)
        if (w->keep_of[k] == i)
            return w->keep[k];
    return NULL;
}
