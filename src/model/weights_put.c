/* Weights into the device's layout: packed from the model's file, or read from a file of packed
 * ones (packed.h). They lie in one block of memory, in the order in which they are walked here. */
#include "model/weights.h"

#include "base/buf.h"
#include "base/log.h"

#include <string.h>

enum {
    SLICE_BYTES = 4 << 20,
    SLICE_MULTIPLE = 64 /* whole tiles of any device */,
    AHEAD_BYTES = 16 << 20
};

static size_t bytes_of(const sp_model *m, const sp_dev_weight *w, size_t n_row)
{
    const sp_dev_ops *ops = m->dev->ops;
    return w->is_fp8 ? ops->fp8_bytes(m->dev, n_row, w->k)
                     : ops->weight_bytes(m->dev, w->type, n_row, w->k);
}

/* One matrix, a slice of rows at a time: the file's pages are let go after each, so that hardly
 * anything is resident twice. */
static sp_err put_matrix(sp_model *m, sp_dev_weight *w, char *to, const sp_gguf *g, sp_identity *id,
                         sp_diag *d)
{
    const sp_dev_ops *ops = m->dev->ops;
    const char *rows = w->data;
    size_t row_bytes = sp_type_row_bytes(w->type, w->k), n_row = w->n_row;
    size_t slice = SLICE_BYTES / row_bytes / SLICE_MULTIPLE * SLICE_MULTIPLE + SLICE_MULTIPLE;
    if (!bytes_of(m, w, n_row))
        slice = n_row; /* used where it lies */
    for (size_t r = 0; r < n_row; r += slice) {
        size_t n = n_row - r < slice ? n_row - r : slice;
        sp_dev_weight part;
        sp_gguf_ahead(g, rows + (r + n) * row_bytes,
                      AHEAD_BYTES); /* mostly the next matrix, behind the last rows */
        if ((w->is_fp8 ? ops->fp8_put : ops->weight_put)(m->dev, &part, to + bytes_of(m, w, r),
                                                         w->type, rows + r * row_bytes, n,
                                                         w->k) != SP_OK)
            return SP_FAIL(d, SP_NOMEM, "packing the weights");
        if (id)
            SP_TRY(sp_identity_take(id, rows + r * row_bytes, n * row_bytes));
        if (slice < n_row || part.data != rows)
            sp_gguf_forget(g, rows + r * row_bytes, n * row_bytes);
        if (r == 0)
            w->data = part.data;
    }
    return SP_OK;
}

static size_t matrix_bytes(const sp_dev_weight *w)
{
    return w->data ? w->n_row * sp_type_row_bytes(w->type, w->k) : 0;
}

static size_t put_bytes(const sp_model *m, const sp_dev_weight *w, bool is_shelved)
{
    return w->data && !is_shelved ? bytes_of(m, w, w->n_row) : 0;
}

/* A matrix that stays in the file is read for its digest only. */
static sp_err read_matrix(const sp_dev_weight *w, const sp_gguf *g, sp_identity *id)
{
    const char *p = w->data;
    for (size_t at = 0, n, all = matrix_bytes(w); at < all; at += n) {
        n = all - at < SLICE_BYTES ? all - at : SLICE_BYTES;
        sp_gguf_ahead(g, p + at + n, AHEAD_BYTES);
        SP_TRY(sp_identity_take(id, p + at, n));
        sp_gguf_forget(g, p + at, n);
    }
    return SP_OK;
}

/* One expert of layer l, in the device's layout. */
static size_t one_expert_bytes(const sp_model *m, const sp_layer *l)
{
    const sp_dev_weight *const all[] = {&l->expert_glu[0], &l->expert_glu[1], &l->expert_pair,
                                        &l->expert_down};
    size_t n_bytes = 0;
    for (size_t i = 0; i < 4; i++)
        if (all[i]->data)
            n_bytes += m->dev->ops->weight_bytes(m->dev, all[i]->type,
                                                 all[i]->n_row / m->arch.route.n_expert, all[i]->k);
    return n_bytes;
}

static sp_err open_shelf(sp_model *m, size_t room_bytes, sp_diag *d)
{
    if (!m->dev->ops->shelf_new)
        return SP_FAIL(d, SP_UNSUP,
                       "expert-bytes: device %s does not leave experts in the file yet: "
                       "use --device cpu",
                       m->dev->ops->name);
    size_t each = 64, n_expert = m->arch.route.n_expert, all = m->arch.n_layer * n_expert;
    for (size_t i = 0; i < m->arch.n_layer; i++) {
        size_t n = one_expert_bytes(m, &m->layer[i]);
        each = n > each ? n : each;
    }
    size_t n_room = room_bytes / each < all ? room_bytes / each : all;
    if (n_room < n_expert)
        return SP_FAIL(
            d, SP_LIMIT,
            "expert-bytes: %zu KiB hold %zu experts of %zu that a layer has; %zu KiB are needed",
            room_bytes >> 10, n_room, n_expert, (n_expert * each + 1023) >> 10);
    if (m->dev->ops->shelf_new(m->dev, &m->shelf, all, n_room, each) != SP_OK)
        return SP_FAIL(d, SP_NOMEM, "%zu bytes for experts", n_room * each);
    return SP_OK;
}

/* Matrix i of all that are walked, which may be without data; NULL past the last. *stays: it is
 * left in the file. */
static sp_dev_weight *matrix_at(bool *stays, const sp_model *m, size_t i)
{
    size_t n_top = 0;
    sp_dev_weight *top;
    for (; (top = sp_weights_top((sp_model *)(uintptr_t)m, n_top)) && n_top < i; n_top++)
        ;
    *stays = !top && m->shelf && sp_weights_is_experts(i - n_top);
    return top ? top : sp_weights_matrix(m, i - n_top);
}

static size_t all_bytes(const sp_model *m)
{
    sp_dev_weight *w;
    size_t total = 0;
    bool stays;
    for (size_t i = 0; (w = matrix_at(&stays, m, i)); i++)
        total += put_bytes(m, w, stays);
    return total;
}

static size_t file_bytes(const sp_model *m)
{
    sp_dev_weight *w;
    size_t total = 0;
    bool stays;
    for (size_t i = 0; (w = matrix_at(&stays, m, i)); i++)
        total += matrix_bytes(w);
    return total;
}

static sp_err pack_all(sp_model *m, const sp_gguf *g, const sp_model_cfg *cfg, sp_identity *id,
                       sp_diag *d)
{
    sp_dev_weight *w;
    bool stays;
    char *at = m->packed;
    size_t done = 0, all = cfg->told ? file_bytes(m) : 0;
    for (size_t i = 0; (w = matrix_at(&stays, m, i)); i++) {
        size_t n_bytes = put_bytes(m, w, stays);
        done += matrix_bytes(w);
        if (stays)
            SP_TRY(read_matrix(w, g, id));
        else if (w->data)
            SP_TRY(put_matrix(m, w, at, g, id, d));
        at += n_bytes;
        if (cfg->told && matrix_bytes(w))
            cfg->told(cfg->told_arg, done, all);
    }
    return SP_OK;
}

/* The same of memory that was read. */
static void point_all(sp_model *m, const sp_gguf *g)
{
    sp_dev_weight *w;
    bool stays;
    char *at = m->packed;
    for (size_t i = 0; (w = matrix_at(&stays, m, i)); i++) {
        size_t n_bytes = put_bytes(m, w, stays);
        if (n_bytes || stays)
            sp_gguf_forget(g, w->data, matrix_bytes(w));
        if (n_bytes)
            w->data = at;
        at += n_bytes;
    }
}

/* What a file of these weights must hold, but for the model's id. */
static sp_err describe(sp_model *m, size_t total, sp_diag *d)
{
    sp_buf list = {0};
    sp_dev_weight *w;
    bool stays;
    uint64_t at = 0;
    sp_packed_key *key = &m->packed_key;
    for (size_t i = 0; (w = matrix_at(&stays, m, i)); i++) {
        const uint64_t row[] = {(uint64_t)w->type, w->n_row, w->k, at, w->data != NULL, stays};
        sp_buf_put(&list, row, sizeof row);
        at += put_bytes(m, w, stays);
    }
    sp_err err =
        list.failed ? SP_NOMEM : sp_sha256_of(&key->table, &(sp_sha256_part){list.p, list.len}, 1);
    sp_buf_fini(&list);
    key->n_bytes = total;
    key->is_part = m->shelf != NULL;
    if (m->dev->ops->layout)
        memcpy(key->layout, m->dev->ops->layout, strlen(m->dev->ops->layout));
    return err == SP_OK ? SP_OK : SP_FAIL(d, err, "weights");
}

/* A file that cannot be used costs time and nothing else; a damaged one goes. */
static bool read_all(sp_model *m, const char *dir, const sp_identity *id)
{
    sp_diag d = {0};
    if (!dir || !*dir || !id || !id->known || !m->packed_key.layout[0])
        return false;
    m->packed_key.model = id->kept;
    sp_err err = sp_packed_read(m->packed, &m->packed_key, dir, sp_dev_host_pool(m->dev), &d);
    if (err != SP_OK && err != SP_NOTFOUND)
        sp_log(SP_LOG_WARN, "%s; the weights are packed from the model's file", d.msg);
    if (err == SP_CORRUPT)
        sp_packed_drop(dir, &m->packed_key);
    return err == SP_OK;
}

sp_err sp_weights_put(sp_model *m, const sp_gguf *g, const sp_model_cfg *cfg, sp_identity *id,
                      sp_diag *d)
{
    sp_dev_weight *w;
    bool tied = !m->output.data;
    if (cfg->expert_bytes && m->arch.route.n_expert)
        SP_TRY(open_shelf(m, cfg->expert_bytes, d));
    size_t total = all_bytes(m);
    /* At least one byte: slices of matrices that stay where they lie are counted from it too. */
    if (m->dev->ops->mem_raw(m->dev, &m->packed, total ? total : 1) != SP_OK)
        return SP_FAIL(d, SP_NOMEM, "%zu bytes for the weights", total);
    SP_TRY(describe(m, total, d));
    m->from_file = read_all(m, cfg->packed_dir, id);
    if (m->from_file)
        point_all(m, g);
    else
        SP_TRY(pack_all(m, g, cfg, id, d));
    if (tied)
        m->output = m->embd;
    m->weight_bytes = matrix_bytes(&m->output);
    for (size_t i = 0; (w = sp_weights_matrix(m, i)); i++)
        *(sp_weights_is_experts(i) ? &m->expert_bytes : &m->weight_bytes) += matrix_bytes(w);
    return SP_OK;
}
