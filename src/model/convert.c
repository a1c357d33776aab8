#include "model/convert.h"

#include "base/file.h"
#include "base/mem.h"
#include "fmt/quantise.h"
#include "fmt/safetensors.h"
#include "model/arch.h"
#include "model/convert_int.h"
#include "text/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { JSON_BYTES = 256 << 20, MAX_SHARDS = 1000, MAX_TENSORS = 1 << 16, PATH_BYTES = 1024 };

/* One tensor of the file that is written. Number (e, r, i) of it, of expert e, row r and place i in
 * the row, is number first + e * by_expert + r * by_row + i * by_place of the source, or of
 * each[e]. */
typedef struct plan {
    sp_convert_slot to;
    sp_safe_tensor from;
    const void **each; /* owned [n_expert]: each a tensor of the checkpoint; NULL: all are one */
    /* of MXFP4 blocks: a byte for 32 numbers, in their order; NULL: other types */
    const void *scales;
    size_t first, by_expert, by_row, by_place;
    size_t n_expert, n_row, k, n_dim; /* n_expert: 1 where there are none */
    sp_type type;
} plan;

typedef struct job {
    const char *dir;
    sp_type type;
    json_t *config;
    const sp_convert_family *family;
    sp_safe *shard[MAX_SHARDS];
    size_t n_shard;
    plan *tensor;
    size_t n_tensor, n_vocab, n_expert;
    sp_convert_factors factors[SP_CONVERT_FACTORS];
    sp_gguf_out *out;
    sp_convert_report report;
    sp_diag *d;
} job;

/* --- what the folder has ---------------------------------------------------------------------- */

static sp_err read_json(json_t **out, const char *dir, const char *name, json_type type, sp_diag *d)
{
    char path[PATH_BYTES];
    sp_buf text = {0};
    json_error_t why;
    int n = snprintf(path, sizeof path, "%s/%s", dir, name);
    if (n < 0 || (size_t)n >= sizeof path)
        return SP_FAIL(d, SP_INVAL, "%.120s: the path is too long", dir);
    sp_err err = sp_file_read(&text, path, JSON_BYTES, d);
    json_t *root = err == SP_OK ? json_loadb(sp_buf_str(&text), text.len, 0, &why) : NULL;
    sp_buf_fini(&text);
    SP_TRY(err);
    if (!root || json_typeof(root) != type) {
        json_decref(root);
        return SP_FAIL(d, SP_FORMAT, "%s: not a JSON %s%s%.100s", name,
                       type == JSON_OBJECT ? "object" : "list", root ? "" : ": ",
                       root ? "" : why.text);
    }
    *out = root;
    return SP_OK;
}

sp_err sp_convert_json(json_t **out, const char *dir, const char *name, sp_diag *d)
{
    return read_json(out, dir, name, JSON_OBJECT, d);
}

sp_err sp_convert_list(json_t **out, const char *dir, const char *name, sp_diag *d)
{
    return read_json(out, dir, name, JSON_ARRAY, d);
}

static sp_err open_shard(job *j, const char *name)
{
    char path[PATH_BYTES];
    int n = snprintf(path, sizeof path, "%s/%s", j->dir, name);
    if (n < 0 || (size_t)n >= sizeof path || strchr(name, '/'))
        return SP_FAIL(j->d, SP_FORMAT, "%.120s: no name of a file in the folder", name);
    if (j->n_shard == MAX_SHARDS)
        return SP_FAIL(j->d, SP_LIMIT, "more than %d files of tensors", MAX_SHARDS);
    SP_TRY(sp_safe_open(&j->shard[j->n_shard], path, j->d));
    j->n_shard++;
    return SP_OK;
}

/* The one file, or those that the index names, each once. */
static sp_err open_shards(job *j)
{
    json_t *index = NULL, *files, *file;
    const char *name;
    sp_err err = sp_convert_json(&index, j->dir, "model.safetensors.index.json", j->d);
    if (err == SP_NOTFOUND)
        return open_shard(j, "model.safetensors");
    SP_TRY(err);
    files = json_object();
    err = files ? SP_OK : SP_FAIL(j->d, SP_NOMEM, "convert");
    json_object_foreach(json_object_get(index, "weight_map"), name, file) {
        const char *in = json_string_value(file);
        if (err == SP_OK && (!in || json_object_set_new(files, in, json_true()) != 0))
            err =
                SP_FAIL(j->d, SP_FORMAT, "model.safetensors.index.json: %.80s is in no file", name);
    }
    if (err == SP_OK)
        json_object_foreach(files, name, file)
            err = err == SP_OK ? open_shard(j, name) : err;
    json_decref(files);
    json_decref(index);
    return err;
}

/* --- the plan --------------------------------------------------------------------------------- */

/* 4-bit types cost most where each number is a token's own. A router's few numbers choose: they
 * stay. Experts are packed by 32 rows. */
static sp_type type_of(const job *j, const plan *p)
{
    bool is_token =
        strcmp(p->to.name, "token_embd.weight") == 0 || strcmp(p->to.name, "output.weight") == 0;
    sp_type type = is_token && (j->type == SP_Q4_0 || j->type == SP_Q4_K) ? SP_Q8_0 : j->type;
    if (p->scales)
        return SP_MXFP4;
    static const char *const few[] = {".bias", "ffn_gate_inp", "position_embd", "token_types",
                                      "cls.output"};
    for (size_t i = 0; i < sizeof few / sizeof few[0]; i++)
        if (p->n_dim == 1 || strstr(p->to.name, few[i]))
            return SP_F32;
    if (p->k % sp_type_get(type)->blk_elem)
        type = p->k % sp_type_get(SP_Q8_0)->blk_elem ? SP_F16 : SP_Q8_0;
    if (p->n_dim == 3 && p->n_row % 32 && sp_type_get(type)->blk_elem > 1)
        type = SP_F16;
    return type;
}

/* Sizes and steps, from the source's dimensions. */
static sp_err set_steps(plan *p, const job *j, const char *name)
{
    const sp_safe_tensor *t = &p->from;
    const sp_convert_slot *to = &p->to;
    bool is_vector = t->n_dim == 1 + (size_t)to->is_all;
    size_t n_blk = to->is_blocks ? 2 : 0, n_dim = t->n_dim - n_blk + (size_t)to->is_blocks;
    size_t rows = is_vector ? 1 : t->dim[to->is_all],
           cols = t->dim[is_vector ? (size_t)to->is_all : (size_t)to->is_all + 1];
    bool is_half = to->part == SP_CONVERT_FIRST || to->part == SP_CONVERT_SECOND,
         is_turn = to->part >= SP_CONVERT_EVEN;
    if (t->is_bytes != to->is_blocks || n_dim < 1 || n_dim > 2 + (size_t)to->is_all ||
        (to->is_each && n_dim != 2) || (to->is_all && n_dim < 2))
        return SP_FAIL(j->d, SP_FORMAT, "%.80s has %zu dimensions%s, which %s has not", name,
                       t->n_dim, t->is_bytes ? " of U8" : "", to->name);
    p->n_expert = to->is_all || to->is_each ? j->n_expert : 1;
    if (p->n_expert == 0 || (to->is_all && t->dim[0] != p->n_expert) ||
        (to->is_each && to->expert >= p->n_expert))
        return SP_FAIL(j->d, SP_FORMAT, "%.80s: config.json says that there are %zu experts", name,
                       j->n_expert);
    cols *= to->is_blocks ? 32 : 1;
    p->n_row = to->is_turned ? cols : rows;
    p->k = to->is_turned ? rows : cols;
    p->by_expert = rows * cols;
    p->by_row = to->is_turned ? 1 : cols;
    p->by_place = to->is_turned ? cols : 1;
    size_t *halved = is_vector ? &p->k : &p->n_row, *step = is_vector ? &p->by_place : &p->by_row;
    if ((is_half || is_turn) && *halved % 2)
        return SP_FAIL(j->d, SP_FORMAT, "%.80s: %zu rows are no two halves", name, *halved);
    *halved /= is_half || is_turn ? 2 : 1;
    p->first = to->part == SP_CONVERT_SECOND ? *halved * *step
               : to->part == SP_CONVERT_ODD  ? *step
                                             : 0;
    *step *= is_turn ? 2 : 1;
    if (to->skip >= p->n_row && to->skip)
        return SP_FAIL(j->d, SP_FORMAT, "%.80s has only %zu rows", name, p->n_row);
    p->n_row -= to->skip;
    p->first += to->skip * p->by_row;
    p->n_dim = is_vector ? 1 + (size_t)to->is_all : to->is_all || to->is_each ? 3 : 2;
    if (to->n_pair && (rows % to->n_pair || rows / to->n_pair % 2) && !is_vector)
        return SP_FAIL(j->d, SP_FORMAT, "%.80s: %zu rows are no %zu heads", name, rows, to->n_pair);
    if (to->n_pair && is_vector && (cols % to->n_pair || cols / to->n_pair % 2))
        return SP_FAIL(j->d, SP_FORMAT, "%.80s: %zu rows are no %zu heads", name, cols, to->n_pair);
    return SP_OK;
}

/* The scales of MXFP4 blocks, in whichever file they are. */
static sp_err find_scales(plan *p, const job *j, const char *name)
{
    char other[128];
    sp_safe_tensor t;
    sp_err err = SP_NOTFOUND;
    snprintf(other, sizeof other, "%.*s_scales", (int)(strlen(name) - strlen("_blocks")), name);
    for (size_t i = 0; i < j->n_shard && err == SP_NOTFOUND; i++)
        err = sp_safe_find(&t, j->shard[i], other, j->d);
    SP_TRY(err);
    const size_t *a = p->from.dim, *b = t.dim;
    if (!t.is_bytes || t.n_dim != 3 || a[3] != 16 || a[0] != b[0] || a[1] != b[1] || a[2] != b[2])
        return SP_FAIL(j->d, SP_FORMAT, "%.80s: its shape is not that of %.80s", other, name);
    p->scales = t.data;
    return SP_OK;
}

/* Makes room for another tensor. */
static sp_err add_plan(job *j, const plan *p)
{
    if (j->n_tensor == MAX_TENSORS)
        return SP_FAIL(j->d, SP_LIMIT, "more than %d tensors", MAX_TENSORS);
    plan *more = sp_mem_grow(j->tensor, (j->n_tensor + 1) * sizeof *more);
    if (!more)
        return SP_FAIL(j->d, SP_NOMEM, "convert");
    j->tensor = more;
    j->tensor[j->n_tensor++] = *p;
    return SP_OK;
}

/* The matrix of one expert finds its place among those that are there. */
static sp_err plan_expert(job *j, plan *p, const plan *p_new, const char *name)
{
    const sp_safe_tensor *a = &p->from, *b = &p_new->from;
    if (!p_new->to.is_each || !p->each || p->each[p_new->to.expert])
        return SP_FAIL(j->d, SP_FORMAT, "%.80s: a second tensor that is %s", name, p->to.name);
    if (a->type != b->type || a->dim[0] != b->dim[0] || a->dim[1] != b->dim[1])
        return SP_FAIL(j->d, SP_FORMAT, "%.80s: its type and shape are not those of other experts",
                       name);
    p->each[p_new->to.expert] = b->data;
    return SP_OK;
}

static sp_err plan_slot(job *j, const sp_safe_tensor *from, const sp_convert_slot *to,
                        const char *name)
{
    plan p = {.to = *to, .from = *from};
    SP_TRY(set_steps(&p, j, name));
    for (size_t i = 0; i < j->n_tensor; i++)
        if (strcmp(j->tensor[i].to.name, to->name) == 0)
            return plan_expert(j, &j->tensor[i], &p, name);
    if (to->is_blocks)
        SP_TRY(find_scales(&p, j, name));
    p.type = type_of(j, &p);
    j->n_vocab = strcmp(to->name, "token_embd.weight") == 0 ? p.n_row : j->n_vocab;
    j->report.n_other += p.n_dim >= 2 && p.type != j->type;
    SP_TRY(add_plan(j, &p));
    if (!to->is_each)
        return SP_OK;
    plan *kept = &j->tensor[j->n_tensor - 1];
    if (!(kept->each = sp_mem_array(p.n_expert, sizeof *kept->each)))
        return SP_FAIL(j->d, SP_NOMEM, "convert");
    kept->each[to->expert] = from->data;
    return SP_OK;
}

static sp_err plan_tensor(job *j, const sp_safe *shard, const char *name)
{
    sp_convert_slot to[2];
    sp_safe_tensor from;
    size_t n;
    SP_TRY(sp_convert_name(to, &n, j->family, j->config, name, j->d));
    if (!n)
        return SP_OK;
    SP_TRY(sp_safe_find(&from, shard, name, j->d));
    for (size_t i = 0; i < n; i++)
        SP_TRY(plan_slot(j, &from, &to[i], name));
    return SP_OK;
}

static sp_err check_experts(const job *j)
{
    for (size_t i = 0; i < j->n_tensor; i++)
        for (size_t e = 0; j->tensor[i].each && e < j->tensor[i].n_expert; e++)
            if (!j->tensor[i].each[e])
                return SP_FAIL(j->d, SP_FORMAT, "%s: expert %zu is missing", j->tensor[i].to.name,
                               e);
    return SP_OK;
}

/* Layers in their order, what is no layer before them; in each by name. */
static int by_layer(const void *a, const void *b)
{
    const plan *x = a, *y = b;
    bool is_x = strncmp(x->to.name, "blk.", 4) == 0, is_y = strncmp(y->to.name, "blk.", 4) == 0;
    unsigned long m = is_x ? strtoul(x->to.name + 4, NULL, 10) : 0,
                  n = is_y ? strtoul(y->to.name + 4, NULL, 10) : 0;
    if (is_x != is_y)
        return is_x ? 1 : -1;
    return m != n ? (m > n) - (m < n) : strcmp(x->to.name, y->to.name);
}

static sp_err make_plan(job *j)
{
    SP_TRY(sp_convert_experts(&j->n_expert, j->config, j->d));
    for (size_t i = 0; i < j->n_shard; i++)
        for (const char *name = NULL; (name = sp_safe_next(j->shard[i], name));)
            SP_TRY(plan_tensor(j, j->shard[i], name));
    if (!j->n_vocab)
        return SP_FAIL(j->d, SP_FORMAT, "model.embed_tokens.weight is missing");
    SP_TRY(check_experts(j));
    qsort(j->tensor, j->n_tensor, sizeof *j->tensor, by_layer);
    return sp_convert_factors_of(j->factors, j->config, j->d);
}

static sp_err declare(job *j)
{
    for (size_t i = 0; i < SP_CONVERT_FACTORS; i++)
        if (j->factors[i].name)
            SP_TRY(
                sp_gguf_out_tensor(j->out, j->factors[i].name, SP_F32, &j->factors[i].n, 1, j->d));
    for (size_t i = 0; i < j->n_tensor; i++) {
        const plan *p = &j->tensor[i];
        bool is_matrix = p->n_row > 1 || p->n_dim != 2; /* else a vector of each expert */
        const size_t dim[] = {p->k, is_matrix ? p->n_row : p->n_expert, p->n_expert};
        SP_TRY(sp_gguf_out_tensor(j->out, p->to.name, p->type, dim, p->n_dim, j->d));
    }
    return SP_OK;
}

/* --- the numbers ------------------------------------------------------------------------------ */

/* Row r of expert e. */
static void widen(float *out, const plan *p, size_t e, size_t r)
{
    size_t at = p->first + (p->each ? 0 : e * p->by_expert) + r * p->by_row;
    const char *data = p->each ? p->each[e] : p->from.data;
    for (size_t i = 0; i < p->k; i++, at += p->by_place) {
        uint16_t half;
        if (p->from.type == SP_F32) {
            memcpy(&out[i], data + at * sizeof(float), sizeof(float));
        } else {
            memcpy(&half, data + at * sizeof half, sizeof half);
            out[i] = p->from.type == SP_F16 ? sp_f16_to_f32(half) : sp_bf16_to_f32(half);
        }
        if (p->to.plus_one)
            out[i] += 1;
    }
}

/* Row r of expert e of MXFP4: neighbours share a byte in the checkpoint, numbers 16 apart in the
 * file. */
static void turn_nibbles(sp_blk_mxfp4 *out, const plan *p, size_t e, size_t r)
{
    size_t at = (p->first + e * p->by_expert + r * p->by_row) / 32;
    const uint8_t *qs = (const uint8_t *)p->from.data + at * 16,
                  *scale = (const uint8_t *)p->scales + at;
    for (size_t b = 0; b < p->k / 32; b++, qs += 16) {
        out[b].e = scale[b];
        for (size_t i = 0; i < 16; i++) {
            uint8_t low = qs[i / 2] >> (i % 2 * 4) & 15, high = qs[8 + i / 2] >> (i % 2 * 4) & 15;
            out[b].qs[i] = (uint8_t)(low | high << 4);
        }
    }
}

/* Where row r of the file, or number r of its one row, comes from: of a head's 2i and 2i + 1 those
 * at i and half a head further. */
static size_t source_of(const plan *p, size_t n, size_t r)
{
    if (!p->to.n_pair)
        return r;
    size_t each = n / p->to.n_pair, in = r % each;
    return r - in + in % 2 * (each / 2) + in / 2;
}

static sp_err put_tensor(job *j, const plan *p, float *row, float *other)
{
    for (size_t i = 0; i < p->n_expert * p->n_row; i++) {
        size_t e = i / p->n_row, r = i % p->n_row;
        void *packed = other;
        if (p->scales) {
            turn_nibbles(packed, p, e, r);
        } else {
            widen(row, p, e, p->n_dim == 1 ? 0 : source_of(p, p->n_row, r));
            for (size_t n = 0; p->n_dim == 1 && n < p->k; n++)
                other[n] = row[source_of(p, p->k, n)];
            if (p->n_dim != 1)
                sp_quantise_row(packed, p->type, row, p->k);
        }
        SP_TRY(sp_gguf_out_data(j->out, packed, sp_type_row_bytes(p->type, p->k), j->d));
    }
    return SP_OK;
}

static sp_err put_data(job *j)
{
    size_t most = 1;
    for (size_t i = 0; i < SP_CONVERT_FACTORS; i++)
        if (j->factors[i].name)
            SP_TRY(
                sp_gguf_out_data(j->out, j->factors[i].v, j->factors[i].n * sizeof(float), j->d));
    for (size_t i = 0; i < j->n_tensor; i++)
        most = j->tensor[i].k > most ? j->tensor[i].k : most;
    float *row = sp_mem_array(most, 2 * sizeof *row);
    sp_err err = row ? SP_OK : SP_FAIL(j->d, SP_NOMEM, "a row of %zu numbers", most);
    for (size_t i = 0; i < j->n_tensor && err == SP_OK; i++)
        err = put_tensor(j, &j->tensor[i], row, row + most);
    sp_mem_free(row);
    return err;
}

/* --- all of it -------------------------------------------------------------------------------- */

static void put_general(job *j)
{
    const char *dir = j->dir;
    size_t n = strlen(dir);
    while (n > 1 && dir[n - 1] == '/')
        n--;
    size_t at = n;
    while (at && dir[at - 1] != '/')
        at--;
    sp_gguf_out_str(j->out, "general.architecture", j->family->arch, strlen(j->family->arch));
    sp_gguf_out_str(j->out, "general.name", dir + at, n - at);
    sp_gguf_out_u32(j->out, "general.quantization_version", 2);
}

static sp_err convert(job *j, const char *path)
{
    SP_TRY(sp_convert_json(&j->config, j->dir, "config.json", j->d));
    SP_TRY(sp_convert_family_of(&j->family, j->config, j->d));
    SP_TRY(open_shards(j));
    SP_TRY(make_plan(j));
    SP_TRY(sp_gguf_out_new(&j->out, j->d));
    put_general(j);
    SP_TRY(sp_convert_arch(j->out, j->family, j->config, j->d));
    SP_TRY(sp_convert_pooling(j->out, j->family, j->dir, j->config, j->d));
    SP_TRY(sp_convert_text(j->out, &j->report.has_template, j->dir, j->config, j->n_vocab, j->d));
    SP_TRY(declare(j));
    SP_TRY(sp_gguf_out_open(j->out, path, j->d));
    SP_TRY(put_data(j));
    return sp_gguf_out_close(j->out, j->d);
}

/* What was written must read. */
static sp_err check(job *j, const char *path)
{
    sp_gguf *g;
    sp_tok *tok = NULL;
    sp_arch *arch = sp_mem_alloc(sizeof *arch);
    if (!arch)
        return SP_FAIL(j->d, SP_NOMEM, "convert");
    sp_err err = sp_gguf_open(&g, path, j->d);
    if (err == SP_OK) {
        err = sp_arch_read(arch, g, j->d);
        err = err == SP_OK ? sp_tok_open(&tok, g, j->d) : err;
        j->report.n_bytes = sp_gguf_file_bytes(g);
        sp_tok_close(tok);
        sp_gguf_close(g);
    }
    sp_mem_free(arch);
    return err;
}

sp_err sp_convert(sp_convert_report *out, const char *dir, const char *path, sp_type type,
                  sp_diag *d)
{
    job *j = sp_mem_alloc(sizeof *j);
    if (!j)
        return SP_FAIL(d, SP_NOMEM, "convert");
    j->dir = dir;
    j->type = type;
    j->d = d;
    sp_err err = convert(j, path);
    if (err == SP_OK)
        err = check(j, path);
    if (err == SP_OK) {
        j->report.arch = j->family->arch;
        j->report.n_tensor = j->n_tensor;
        *out = j->report;
    }
    sp_gguf_out_free(j->out);
    for (size_t i = 0; i < SP_CONVERT_FACTORS; i++)
        sp_mem_free(j->factors[i].v);
    for (size_t i = 0; i < j->n_shard; i++)
        sp_safe_close(j->shard[i]);
    json_decref(j->config);
    for (size_t i = 0; i < j->n_tensor; i++)
        sp_mem_free(j->tensor[i].each);
    sp_mem_free(j->tensor);
    sp_mem_free(j);
    return err;
}
