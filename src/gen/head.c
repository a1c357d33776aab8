/* The file of a draft head. */
#include "gen/head.h"

#include "base/mem.h"
#include "fmt/gguf_write.h"
#include "fmt/quantise.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const char ARCH[] = "sparing-draft-head";

static const char *const NAME[SP_HEAD_MATS] = {"tap.weight",  "state.weight", "token.weight",
                                               "gate.weight", "up.weight",    "down.weight"};

const char *sp_head_mat_name(sp_head_mat mat)
{
    return NAME[mat];
}

size_t sp_head_rows(const sp_head_shape *s, sp_head_mat mat)
{
    return mat == SP_HEAD_GATE || mat == SP_HEAD_UP ? s->n_ff : s->n_embd;
}

size_t sp_head_cols(const sp_head_shape *s, sp_head_mat mat)
{
    return mat == SP_HEAD_TAP ? s->n_tap * s->n_embd : mat == SP_HEAD_DOWN ? s->n_ff : s->n_embd;
}

uint32_t sp_head_token(const sp_head_file *f, size_t i)
{
    uint32_t t;
    memcpy(&t, f->tok + i * sizeof t, sizeof t);
    return t;
}

/* An absent key is a fault of the file. */
static sp_err must(sp_err err, const char *key, sp_diag *d)
{
    return err == SP_NOTFOUND ? SP_FAIL(d, SP_FORMAT, "draft head: key %s is missing", key) : err;
}

static sp_err read_u64(uint64_t *out, const sp_gguf *g, const char *key, uint64_t least,
                       uint64_t most, sp_diag *d)
{
    return must(sp_gguf_u64(out, g, key, least, most, d), key, d);
}

static sp_err read_size(size_t *out, const sp_gguf *g, const char *key, size_t most, sp_diag *d)
{
    uint64_t v = 0;
    SP_TRY(read_u64(&v, g, key, 1, most, d));
    *out = (size_t)v;
    return SP_OK;
}

static sp_err read_text(char *out, size_t cap, const sp_gguf *g, const char *key, sp_diag *d)
{
    sp_str s;
    SP_TRY(must(sp_gguf_str(&s, g, key, d), key, d));
    if (s.n >= cap || memchr(s.p, 0, s.n))
        return SP_FAIL(d, SP_FORMAT, "draft head: %s is longer than %zu bytes or has a zero", key,
                       cap - 1);
    memcpy(out, s.p, s.n);
    out[s.n] = 0;
    return SP_OK;
}

/* Integers in ascending order, each below most. */
static sp_err read_ascending(const uint8_t **out, size_t *n, const sp_gguf *g, const char *key,
                             int64_t most, sp_diag *d)
{
    const void *p;
    int64_t before = -1;
    SP_TRY(must(sp_gguf_i32s(&p, n, g, key, d), key, d));
    *out = p;
    for (size_t i = 0; i < *n; i++) {
        int32_t v;
        memcpy(&v, *out + i * sizeof v, sizeof v);
        if (v <= before || v >= most)
            return SP_FAIL(d, SP_FORMAT, "draft head: %s[%zu] is %d; they ascend below %lld", key,
                           i, v, (long long)most);
        before = v;
    }
    return SP_OK;
}

static sp_err read_shape(sp_head_file *f, sp_diag *d)
{
    const uint8_t *layer;
    sp_head_shape *s = &f->shape;
    SP_TRY(read_size(&s->n_embd, f->g, "draft.n_embd", SP_HEAD_WIDTH, d));
    SP_TRY(read_size(&s->n_ff, f->g, "draft.n_ff", SP_HEAD_WIDTH, d));
    SP_TRY(read_ascending(&f->tok, &s->n_tok, f->g, "draft.tokens", INT32_MAX, d));
    SP_TRY(read_ascending(&layer, &s->n_tap, f->g, "draft.layers", 1 << 16, d));
    if (!s->n_tok || s->n_tok > SP_HEAD_TOKENS || !s->n_tap || s->n_tap > SP_DRAFT_LAYERS)
        return SP_FAIL(d, SP_FORMAT, "draft head: %zu tokens and %zu layers; 1 to %d and 1 to %d",
                       s->n_tok, s->n_tap, SP_HEAD_TOKENS, SP_DRAFT_LAYERS);
    for (size_t i = 0; i < s->n_tap; i++) {
        int32_t v;
        memcpy(&v, layer + i * sizeof v, sizeof v);
        s->layer[i] = (size_t)v;
    }
    return SP_OK;
}

static sp_err read_about(sp_head_file *f, sp_diag *d)
{
    sp_head_about *a = &f->about;
    const void *right;
    size_t n;
    SP_TRY(read_text(a->model, sizeof a->model, f->g, "draft.model", d));
    SP_TRY(read_text(a->name, sizeof a->name, f->g, "draft.model_name", d));
    SP_TRY(read_text(a->data, sizeof a->data, f->g, "draft.data", d));
    SP_TRY(read_text(a->tenant, sizeof a->tenant, f->g, "draft.tenant", d));
    SP_TRY(read_u64(&a->seed, f->g, "draft.seed", 0, UINT32_MAX, d));
    SP_TRY(read_u64(&a->n_step, f->g, "draft.steps", 0, UINT32_MAX, d));
    SP_TRY(read_u64(&a->n_train, f->g, "draft.train_tokens", 0, UINT32_MAX, d));
    SP_TRY(read_u64(&a->n_held, f->g, "draft.held_tokens", 0, UINT32_MAX, d));
    SP_TRY(must(sp_gguf_f32s(&right, &n, f->g, "draft.held_right", d), "draft.held_right", d));
    if (n != SP_HEAD_DEPTH)
        return SP_FAIL(d, SP_FORMAT, "draft head: draft.held_right has %zu numbers, not %d", n,
                       SP_HEAD_DEPTH);
    memcpy(a->right, right, sizeof a->right);
    return SP_OK;
}

/* Tensor `name` of so many dimensions; cols, rows: dim[0] and dim[1]. */
static sp_err find_tensor(const sp_tensor **out, const sp_gguf *g, const char *name, size_t cols,
                          size_t rows, sp_diag *d)
{
    const sp_tensor *t = sp_gguf_tensor_find(g, name);
    if (!t)
        return SP_FAIL(d, SP_FORMAT, "draft head: tensor %s is missing", name);
    if (t->dim[0] != cols || t->dim[1] != rows || t->dim[2] != 1 || t->dim[3] != 1)
        return SP_FAIL(d, SP_FORMAT, "draft head: tensor %s is not [%zu, %zu]", name, rows, cols);
    if (!t->data)
        return SP_FAIL(d, SP_FORMAT, "draft head: tensor %s has no data", name);
    *out = t;
    return SP_OK;
}

static sp_err read_tensors(sp_head_file *f, sp_diag *d)
{
    const sp_tensor *norm;
    for (sp_head_mat i = 0; i < SP_HEAD_MATS; i++) {
        SP_TRY(find_tensor(&f->mat[i], f->g, NAME[i], sp_head_cols(&f->shape, i),
                           sp_head_rows(&f->shape, i), d));
        if (f->mat[i]->type != SP_Q8_0 && f->mat[i]->type != SP_F32)
            return SP_FAIL(d, SP_FORMAT, "draft head: tensor %s is %s, not Q8_0 or F32", NAME[i],
                           sp_type_name(f->mat[i]->type));
    }
    SP_TRY(find_tensor(&norm, f->g, "norm.weight", f->shape.n_embd, 1, d));
    if (norm->type != SP_F32)
        return SP_FAIL(d, SP_FORMAT, "draft head: tensor norm.weight is not F32");
    f->norm = norm->data;
    return SP_OK;
}

static sp_err read_head(sp_head_file *f, sp_diag *d)
{
    sp_str arch;
    uint64_t version = 0;
    sp_err err = sp_gguf_str(&arch, f->g, "general.architecture", d);
    if (err != SP_OK || arch.n != sizeof ARCH - 1 || memcmp(arch.p, ARCH, arch.n) != 0)
        return SP_FAIL(d, SP_FORMAT, "draft head: general.architecture is not %s", ARCH);
    SP_TRY(read_u64(&version, f->g, "draft.version", 0, UINT32_MAX, d));
    if (version != SP_HEAD_VERSION)
        return SP_FAIL(d, SP_UNSUP, "draft head: version %u; this program reads %d: train it again",
                       (unsigned)version, SP_HEAD_VERSION);
    SP_TRY(read_shape(f, d));
    SP_TRY(read_about(f, d));
    return read_tensors(f, d);
}

static sp_err finish_open(sp_head_file *out, sp_head_file *f, sp_err err, sp_diag *d)
{
    if (err == SP_OK)
        err = read_head(f, d);
    if (err == SP_OK)
        *out = *f;
    else
        sp_gguf_close(f->g);
    return err;
}

sp_err sp_head_open(sp_head_file *out, const char *path, sp_diag *d)
{
    sp_head_file f = {0};
    sp_err err = sp_gguf_open(&f.g, path, d);
    return finish_open(out, &f, err, d);
}

sp_err sp_head_open_mem(sp_head_file *out, const void *p, size_t n, sp_diag *d)
{
    sp_head_file f = {0};
    sp_err err = sp_gguf_open_mem(&f.g, p, n, d);
    return finish_open(out, &f, err, d);
}

void sp_head_close(sp_head_file *f)
{
    sp_gguf_close(f->g);
    *f = (sp_head_file){0};
}

/* --- writing ------------------------------------------------------------------------------------
 */

static sp_type type_of(const sp_head_shape *s, sp_head_mat i)
{
    return sp_head_cols(s, i) % sp_type_get(SP_Q8_0)->blk_elem ? SP_F32 : SP_Q8_0;
}

static sp_err put_keys(sp_gguf_out *o, const sp_head_shape *s, const sp_head_about *a,
                       const uint32_t *tok, sp_diag *d)
{
    int32_t layer[SP_DRAFT_LAYERS], *id = sp_mem_array(s->n_tok, sizeof *id);
    if (!id)
        return SP_FAIL(d, SP_NOMEM, "draft head");
    for (size_t i = 0; i < s->n_tap; i++)
        layer[i] = (int32_t)s->layer[i];
    for (size_t i = 0; i < s->n_tok; i++)
        id[i] = (int32_t)tok[i];
    sp_gguf_out_str(o, "general.architecture", ARCH, sizeof ARCH - 1);
    sp_gguf_out_u32(o, "draft.version", SP_HEAD_VERSION);
    sp_gguf_out_str(o, "draft.model", a->model, strlen(a->model));
    sp_gguf_out_str(o, "draft.model_name", a->name, strlen(a->name));
    sp_gguf_out_str(o, "draft.data", a->data, strlen(a->data));
    sp_gguf_out_str(o, "draft.tenant", a->tenant, strlen(a->tenant));
    sp_gguf_out_u32(o, "draft.seed", (uint32_t)a->seed);
    sp_gguf_out_u32(o, "draft.steps", (uint32_t)a->n_step);
    sp_gguf_out_u32(o, "draft.train_tokens", (uint32_t)a->n_train);
    sp_gguf_out_u32(o, "draft.held_tokens", (uint32_t)a->n_held);
    sp_gguf_out_f32s(o, "draft.held_right", a->right, SP_HEAD_DEPTH);
    sp_gguf_out_u32(o, "draft.n_embd", (uint32_t)s->n_embd);
    sp_gguf_out_u32(o, "draft.n_ff", (uint32_t)s->n_ff);
    sp_gguf_out_i32s(o, "draft.layers", layer, s->n_tap);
    sp_gguf_out_i32s(o, "draft.tokens", id, s->n_tok);
    sp_mem_free(id);
    return SP_OK;
}

static sp_err put_rows(sp_gguf_out *o, sp_type type, const float *x, size_t rows, size_t cols,
                       sp_diag *d)
{
    size_t n_bytes = sp_type_row_bytes(type, cols);
    void *row = sp_mem_alloc(n_bytes);
    sp_err err = row ? SP_OK : SP_FAIL(d, SP_NOMEM, "draft head");
    for (size_t r = 0; r < rows && err == SP_OK; r++) {
        if (type == SP_F32)
            memcpy(row, x + r * cols, n_bytes);
        else
            sp_quantise_row(row, type, x + r * cols, cols);
        err = sp_gguf_out_data(o, row, n_bytes, d);
    }
    sp_mem_free(row);
    return err;
}

static sp_err write_all(sp_gguf_out *o, const char *path, const sp_head_shape *s,
                        const sp_head_about *about, const float *const mat[SP_HEAD_MATS],
                        const float *norm, const uint32_t *tok, sp_diag *d)
{
    SP_TRY(put_keys(o, s, about, tok, d));
    for (sp_head_mat i = 0; i < SP_HEAD_MATS; i++)
        SP_TRY(sp_gguf_out_tensor(o, NAME[i], type_of(s, i),
                                  (size_t[]){sp_head_cols(s, i), sp_head_rows(s, i)}, 2, d));
    SP_TRY(sp_gguf_out_tensor(o, "norm.weight", SP_F32, &s->n_embd, 1, d));
    SP_TRY(sp_gguf_out_open(o, path, d));
    for (sp_head_mat i = 0; i < SP_HEAD_MATS; i++)
        SP_TRY(put_rows(o, type_of(s, i), mat[i], sp_head_rows(s, i), sp_head_cols(s, i), d));
    SP_TRY(put_rows(o, SP_F32, norm, 1, s->n_embd, d));
    return sp_gguf_out_close(o, d);
}

sp_err sp_head_write(const char *path, const sp_head_shape *s, const sp_head_about *about,
                     const float *const mat[SP_HEAD_MATS], const float *norm, const uint32_t *tok,
                     sp_diag *d)
{
    sp_gguf_out *o;
    SP_TRY(sp_gguf_out_new(&o, d));
    sp_err err = write_all(o, path, s, about, mat, norm, tok, d);
    sp_gguf_out_free(o);
    return err;
}
