/* Loading a model: every weight the architecture needs, with its shape checked. */
#include "model/model.h"

#include "base/mem.h"
#include "model/identity.h"
#include "model/weights.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { HEAD_ROWS = 64 /* a slice of a matrix: sp_dev_ops.weight_bytes */ };

/* The divisors of one table of angles; *out NULL where the file has none. */
static sp_err rope_factors(const float **out, const sp_model *m, const sp_gguf *g, const char *name,
                           sp_diag *d)
{
    const sp_tensor *t = sp_gguf_tensor_find(g, name);
    size_t n = m->arch.rope[SP_ROPE_FULL].d_rot / 2;
    *out = NULL;
    if (!t)
        return SP_OK;
    if (t->type != SP_F32 || t->dim[0] != n || t->n_bytes != n * sizeof(float))
        return SP_FAIL(d, SP_FORMAT, "gguf: tensor %s is not %zu F32", name, n);
    const float *f = t->data;
    for (size_t i = 0; i < n; i++)
        if (!(f[i] > 0))
            return SP_FAIL(d, SP_FORMAT, "gguf: %s[%zu] is not positive", name, i);
    *out = f;
    return SP_OK;
}

static bool is_used(const sp_arch *a, sp_rope_of table)
{
    for (size_t i = 0; i < a->n_layer; i++)
        if (a->layer[i].rope == table)
            return true;
    return false;
}

/* Long contexts have factors of their own in some files, chosen once and not by a sequence's
 * length: what is in its pages must not change as it grows. */
static sp_err load_rope(sp_model *m, const sp_gguf *g, size_t n_ctx, sp_diag *d)
{
    bool is_long = (n_ctx ? n_ctx : m->arch.n_ctx) > m->arch.rope[SP_ROPE_FULL].ctx;
    const float *factors, *by_length;
    SP_TRY(rope_factors(&factors, m, g, "rope_freqs.weight", d));
    SP_TRY(rope_factors(&by_length, m, g,
                        is_long ? "rope_factors_long.weight" : "rope_factors_short.weight", d));
    m->is_long = is_long && by_length;
    factors = by_length ? by_length : factors;
    for (sp_rope_of i = SP_ROPE_FULL; i < SP_ROPE_TABLES; i++) {
        if (!is_used(&m->arch, i))
            continue;
        m->rope[i].freq = sp_mem_array(m->arch.rope[i].d_rot / 2, sizeof(float));
        if (!m->rope[i].freq)
            return SP_FAIL(d, SP_NOMEM, "weights");
        sp_arch_rope_table(&m->arch, i, m->arch.rope[i].is_plain ? NULL : factors, m->rope[i].freq,
                           &m->rope[i].scale);
    }
    return SP_OK;
}

/* The file's digest does not say which of its factors were chosen. */
static sp_err tell_length(sp_model *m)
{
    if (!m->is_long)
        return SP_OK;
    const sp_sha256_part part[] = {{m->id.b, sizeof m->id.b}, {"long", 4}};
    return sp_sha256_of(&m->id, part, 2);
}

/* Nor which of its matrices were rounded. */
static sp_err tell_fp8(sp_model *m)
{
    const sp_sha256_part part[] = {{m->id.b, sizeof m->id.b}, {"fp8", 3}};
    return sp_sha256_of(&m->id, part, 2);
}

static sp_err mark_fp8(sp_model *m, sp_diag *d)
{
    sp_dev_weight *w;
    size_t n = 0;
    if (!m->dev->ops->fp8_put)
        return SP_FAIL(d, SP_UNSUP, "device-weights: device %s holds none in fp8",
                       m->dev->ops->name);
    for (size_t i = 0; (w = sp_weights_matrix(m, i)); i++) {
        w->is_fp8 = w->data && sp_weights_may_be_fp8(i) &&
                    (w->type == SP_BF16 || w->type == SP_F16 || w->type == SP_Q8_0);
        n += w->is_fp8;
    }
    return n ? SP_OK
             : SP_FAIL(d, SP_UNSUP,
                       "device-weights: the file has no matrix in BF16, F16 or Q8_0 for fp8");
}

/* Factors that the host needs. */
static sp_err read_scales(sp_model *m)
{
    for (size_t i = 0; i < m->arch.n_layer; i++) {
        m->layer[i].scale = 1;
        if (m->layer[i].out_scale)
            SP_TRY(m->dev->ops->mem_read(m->dev, &m->layer[i].scale, m->layer[i].out_scale,
                                         sizeof(float)));
    }
    return SP_OK;
}

static sp_err load(sp_model *m, const sp_gguf *g, const sp_model_cfg *cfg, bool has_pages,
                   sp_diag *d)
{
    SP_TRY(sp_arch_read(&m->arch, g, d));
    SP_TRY(load_rope(m, g, cfg->n_ctx, d));
    sp_identity id;
    SP_TRY(sp_weights_bind(m, g, d));
    SP_TRY(read_scales(m));
    if (!has_pages)
        return sp_weights_put(m, g, &(sp_model_cfg){0}, NULL, d);
    if (cfg->fp8)
        SP_TRY(mark_fp8(m, d));
    SP_TRY(sp_identity_init(&id, g, sp_dev_host_pool(m->dev), d));
    sp_err err = sp_weights_put(m, g, cfg, &id, d);
    if (err == SP_OK)
        err = sp_identity_end(&id, &m->id, d);
    m->packed_key.model = m->id;
    m->may_keep = sp_identity_is_kept(g);
    if (err == SP_OK)
        err = tell_length(m);
    if (err == SP_OK && cfg->fp8)
        err = tell_fp8(m);
    sp_identity_fini(&id);
    return err;
}

static sp_err new_model(sp_model **out, const sp_gguf *g, sp_dev *dev, const sp_model_cfg *cfg,
                        bool has_pages, sp_diag *d)
{
    sp_model *m = sp_mem_alloc(sizeof *m);
    if (!m)
        return SP_FAIL(d, SP_NOMEM, "model");
    m->dev = dev;
    sp_err err = load(m, g, cfg, has_pages, d);
    if (err == SP_OK)
        *out = m;
    else
        sp_model_free(m);
    return err;
}

sp_err sp_model_load(sp_model **out, const sp_gguf *g, sp_dev *dev, const sp_model_cfg *cfg,
                     sp_diag *d)
{
    static const sp_model_cfg none;
    return new_model(out, g, dev, cfg ? cfg : &none, true, d);
}

sp_err sp_model_keep_packed(sp_model *m, const char *name, const sp_packed_cfg *cfg, sp_diag *d)
{
    if (m->from_file || m->keeper || !m->may_keep || !m->packed_key.layout[0] || !cfg->dir[0])
        return SP_OK;
    snprintf(m->packed_key.name, sizeof m->packed_key.name, "%s", name);
    return sp_packed_keep(&m->keeper, m->packed, &m->packed_key, cfg, d);
}

bool sp_model_is_from_packed(const sp_model *m)
{
    return m->from_file;
}

sp_err sp_model_load_texts(sp_model **out, const sp_gguf *g, sp_dev *dev, sp_diag *d)
{
    static const sp_model_cfg none;
    return new_model(out, g, dev, &none, false, d);
}

/* What the block has not of its own is the model's. The norm before the output is small, and
 * copied. */
static sp_err borrow(sp_model *m, const sp_model *from, sp_diag *d)
{
    size_t n_bytes = m->arch.n_embd * sizeof(float);
    void *p;
    if (!m->embd.data)
        m->embd = from->embd;
    if (!m->output.data)
        m->output = from->output;
    if (m->output_norm)
        return SP_OK;
    if (m->dev->ops->mem_raw(m->dev, &p, n_bytes) != SP_OK)
        return SP_FAIL(d, SP_NOMEM, "weights");
    m->output_norm = p;
    return m->dev->ops->copy(m->dev, p, from->output_norm, n_bytes);
}

/* n_head: rows of the output, which are its first ones, whole slices of it. */
static sp_err load_next(sp_model *m, const sp_gguf *g, const sp_model *from, size_t n_head,
                        sp_diag *d)
{
    SP_TRY(sp_arch_next(&m->arch, &from->arch, d));
    SP_TRY(load_rope(m, g, 0, d));
    SP_TRY(sp_weights_bind(m, g, d));
    SP_TRY(read_scales(m));
    SP_TRY(sp_weights_put(m, g, &(sp_model_cfg){0}, NULL, d));
    SP_TRY(borrow(m, from, d));
    n_head = n_head / HEAD_ROWS * HEAD_ROWS;
    if (n_head && n_head < m->output.n_row)
        m->output.n_row = n_head;
    return SP_OK;
}

sp_err sp_model_load_next(sp_model **out, const sp_gguf *g, const sp_model *from, size_t n_head,
                          sp_diag *d)
{
    sp_model *m = sp_mem_alloc(sizeof *m);
    if (!m)
        return SP_FAIL(d, SP_NOMEM, "model");
    m->dev = from->dev;
    m->is_next = true;
    m->id = from->id;
    sp_err err = load_next(m, g, from, n_head, d);
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
    sp_weights_free(m);
    for (size_t i = 0; i < SP_ROPE_TABLES; i++)
        sp_mem_free(m->rope[i].freq);
    sp_mem_free(m);
}

size_t sp_model_n_logits(const sp_model *m)
{
    return m->output.n_row;
}

const sp_arch *sp_model_arch(const sp_model *m)
{
    return &m->arch;
}

const sp_sha256 *sp_model_id(const sp_model *m)
{
    return &m->id;
}

sp_kv_shape sp_arch_kv_shape(const sp_arch *a, const sp_kv_format *format)
{
    const sp_kv_heads *last = &a->page_heads[a->n_page_layer - 1];
    return (sp_kv_shape){.format = format,
                         .n_layer = a->n_page_layer,
                         .n_head = last->n_head,
                         .d = last->d,
                         .of = a->has_own_heads ? a->page_heads : NULL,
                         .n_latent = a->latent.n};
}

sp_kv_shape sp_model_kv_shape(const sp_model *m, const sp_kv_format *format)
{
    return sp_arch_kv_shape(&m->arch, format);
}

size_t sp_model_state_bytes(const sp_model *m)
{
    return m->arch.state.n_bytes;
}

size_t sp_model_kept_bytes(const sp_model *m)
{
    return sp_arch_kept_bytes(&m->arch);
}

size_t sp_model_kv_window(const sp_model *m)
{
    size_t most = 0;
    for (size_t i = 0; i < m->arch.n_layer; i++) {
        if (!m->arch.layer[i].window) /* recurrent layers see all, too */
            return 0;
        most = m->arch.layer[i].window > most ? m->arch.layer[i].window : most;
    }
    return most;
}

double sp_model_weight_bytes(const sp_model *m, size_t n_tok)
{
    const sp_dev_route *r = &m->arch.route;
    double missed =
        r->n_expert ? pow(1 - (double)r->n_used / (double)r->n_expert, (double)n_tok) : 0;
    return (double)m->weight_bytes + (double)m->expert_bytes * (1 - missed);
}

sp_model_flops sp_model_flops_of(const sp_model *m)
{
    const sp_arch *a = &m->arch;
    sp_model_flops f = {.per_pair = 4.0 * (double)a->d_head,
                        .per_logits = 2.0 * (double)a->n_vocab * (double)a->n_embd};
    const sp_dev_weight *w;
    double met = a->route.n_expert ? (double)a->route.n_used / (double)a->route.n_expert : 1;
    for (size_t i = 0; (w = sp_weights_matrix(m, i)); i++)
        f.per_tok += 2.0 * (double)w->n_row * (double)w->k * (sp_weights_is_experts(i) ? met : 1);
    for (size_t i = 0; i < a->n_layer; i++) {
        if (sp_arch_has_state(&a->layer[i]))
            f.per_tok += 2.0 * (double)(a->state.n_tap * a->state.n_chan) +
                         7.0 * (double)(a->state.n_head * a->state.d_k * a->state.d_v);
        if (!sp_arch_attends(&a->layer[i]))
            continue;
        *(a->layer[i].window ? &f.per_near : &f.per_seen) +=
            4.0 * (double)(a->layer[i].d_head * a->n_head);
        f.n_near = a->layer[i].window ? a->layer[i].window : f.n_near; /* a model has one window */
    }
    return f;
}

double sp_model_flops_seen(const sp_model_flops *f, size_t pos, size_t n)
{
    size_t grow = f->n_near > pos ? f->n_near - pos : 0; /* tokens that see less than a window */
    double all = (double)n, few = (double)(grow < n ? grow : n), before = (double)pos;
    double seen = all * before + all * (all + 1) / 2,
           near = few * before + few * (few + 1) / 2 + (all - few) * (double)f->n_near;
    return seen * f->per_seen + near * f->per_near;
}
