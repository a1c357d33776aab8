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

/* One tensor of the file that is written. */
typedef struct plan {
    char name[64];
    sp_safe_tensor from;
    sp_type type;
    size_t n_pair; /* heads whose rows change from halves to pairs; 0: none */
    bool plus_one;
} plan;

typedef struct job {
    const char *dir;
    sp_type type;
    json_t *config;
    const sp_convert_family *family;
    sp_safe *shard[MAX_SHARDS];
    size_t n_shard;
    plan *tensor;
    size_t n_tensor, n_vocab;
    sp_convert_factors factors[SP_CONVERT_FACTORS];
    sp_gguf_out *out;
    sp_convert_report report;
    sp_diag *d;
} job;

/* --- what the folder has ---------------------------------------------------------------------- */

sp_err sp_convert_json(json_t **out, const char *dir, const char *name, sp_diag *d)
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
    if (!json_is_object(root)) {
        json_decref(root);
        return SP_FAIL(d, SP_FORMAT, "%s: not a JSON object%s%.100s", name, root ? "" : ": ", root ? "" : why.text);
    }
    *out = root;
    return SP_OK;
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
            err = SP_FAIL(j->d, SP_FORMAT, "model.safetensors.index.json: %.80s is in no file", name);
    }
    if (err == SP_OK)
        json_object_foreach(files, name, file)
            err = err == SP_OK ? open_shard(j, name) : err;
    json_decref(files);
    json_decref(index);
    return err;
}

/* --- the plan --------------------------------------------------------------------------------- */

/* 4-bit types cost most where each number is a token's own. */
static sp_type type_of(const job *j, const plan *p)
{
    bool is_token = strcmp(p->name, "token_embd.weight") == 0 || strcmp(p->name, "output.weight") == 0;
    sp_type type = is_token && (j->type == SP_Q4_0 || j->type == SP_Q4_K) ? SP_Q8_0 : j->type;
    size_t k = p->from.dim[1];
    if (p->from.n_dim == 1)
        return SP_F32;
    if (k % sp_type_get(type)->blk_elem)
        type = k % sp_type_get(SP_Q8_0)->blk_elem ? SP_F16 : SP_Q8_0;
    return type;
}

static sp_err plan_tensor(job *j, const sp_safe *shard, const char *name)
{
    plan p = {0};
    SP_TRY(sp_convert_name(p.name, &p.n_pair, &p.plus_one, j->family, j->config, name, j->d));
    if (!p.name[0])
        return SP_OK;
    SP_TRY(sp_safe_find(&p.from, shard, name, j->d));
    size_t n_row = p.from.dim[0];
    if (p.n_pair && (n_row % p.n_pair || n_row / p.n_pair % 2))
        return SP_FAIL(j->d, SP_FORMAT, "%.80s: %zu rows are no %zu heads", name, n_row, p.n_pair);
    for (size_t i = 0; i < j->n_tensor; i++)
        if (strcmp(j->tensor[i].name, p.name) == 0)
            return SP_FAIL(j->d, SP_FORMAT, "%.80s: a second tensor that is %s", name, p.name);
    p.type = type_of(j, &p);
    j->n_vocab = strcmp(p.name, "token_embd.weight") == 0 ? n_row : j->n_vocab;
    j->report.n_other += p.from.n_dim == 2 && p.type != j->type;
    if (j->n_tensor == MAX_TENSORS)
        return SP_FAIL(j->d, SP_LIMIT, "more than %d tensors", MAX_TENSORS);
    plan *more = sp_mem_grow(j->tensor, (j->n_tensor + 1) * sizeof *more);
    if (!more)
        return SP_FAIL(j->d, SP_NOMEM, "convert");
    j->tensor = more;
    j->tensor[j->n_tensor++] = p;
    return SP_OK;
}

/* Layers in their order, what is no layer before them; in each by name. */
static int by_layer(const void *a, const void *b)
{
    const plan *x = a, *y = b;
    bool is_x = strncmp(x->name, "blk.", 4) == 0, is_y = strncmp(y->name, "blk.", 4) == 0;
    unsigned long m = is_x ? strtoul(x->name + 4, NULL, 10) : 0, n = is_y ? strtoul(y->name + 4, NULL, 10) : 0;
    if (is_x != is_y)
        return is_x ? 1 : -1;
    return m != n ? (m > n) - (m < n) : strcmp(x->name, y->name);
}

static sp_err make_plan(job *j)
{
    for (size_t i = 0; i < j->n_shard; i++)
        for (const char *name = NULL; (name = sp_safe_next(j->shard[i], name));)
            SP_TRY(plan_tensor(j, j->shard[i], name));
    if (!j->n_vocab)
        return SP_FAIL(j->d, SP_FORMAT, "model.embed_tokens.weight is missing");
    qsort(j->tensor, j->n_tensor, sizeof *j->tensor, by_layer);
    return sp_convert_factors_of(j->factors, j->config, j->d);
}

static sp_err declare(job *j)
{
    for (size_t i = 0; i < SP_CONVERT_FACTORS; i++)
        if (j->factors[i].name)
            SP_TRY(sp_gguf_out_tensor(j->out, j->factors[i].name, SP_F32, j->factors[i].n, 1, true, j->d));
    for (size_t i = 0; i < j->n_tensor; i++) {
        const plan *p = &j->tensor[i];
        bool is_vector = p->from.n_dim == 1;
        SP_TRY(sp_gguf_out_tensor(j->out, p->name, p->type, is_vector ? p->from.dim[0] : p->from.dim[1], is_vector ? 1 : p->from.dim[0], is_vector, j->d));
    }
    return SP_OK;
}

/* --- the numbers ------------------------------------------------------------------------------ */

/* n numbers from number `at` on. */
static void widen(float *out, const plan *p, size_t at, size_t n)
{
    if (p->from.type == SP_F32)
        memcpy(out, (const char *)p->from.data + at * sizeof(float), n * sizeof *out);
    for (size_t i = 0; i < n && p->from.type != SP_F32; i++) {
        uint16_t half;
        memcpy(&half, (const char *)p->from.data + (at + i) * sizeof half, sizeof half);
        out[i] = p->from.type == SP_F16 ? sp_f16_to_f32(half) : sp_bf16_to_f32(half);
    }
    for (size_t i = 0; i < n && p->plus_one; i++)
        out[i] += 1;
}

/* Where row r of the file comes from: of a head's rows 2i and 2i + 1 those at i and half a head further. */
static size_t source_row(const plan *p, size_t r)
{
    if (!p->n_pair)
        return r;
    size_t each = p->from.dim[0] / p->n_pair, in = r % each;
    return r - in + in % 2 * (each / 2) + in / 2;
}

/* A vector whose numbers stay in their order is one row. */
static sp_err put_tensor(job *j, const plan *p, float *row, void *packed)
{
    bool is_whole = p->from.n_dim == 1 && !p->n_pair;
    size_t n_row = is_whole ? 1 : p->from.dim[0], k = is_whole ? p->from.dim[0] : p->from.n_dim == 1 ? 1 : p->from.dim[1];
    for (size_t r = 0; r < n_row; r++) {
        widen(row, p, source_row(p, r) * k, k);
        sp_quantise_row(packed, p->type, row, k);
        SP_TRY(sp_gguf_out_data(j->out, packed, sp_type_row_bytes(p->type, k), j->d));
    }
    return SP_OK;
}

static sp_err put_data(job *j)
{
    size_t most = 1;
    for (size_t i = 0; i < SP_CONVERT_FACTORS; i++)
        if (j->factors[i].name)
            SP_TRY(sp_gguf_out_data(j->out, j->factors[i].v, j->factors[i].n * sizeof(float), j->d));
    for (size_t i = 0; i < j->n_tensor; i++) {
        size_t k = j->tensor[i].from.dim[j->tensor[i].from.n_dim - 1];
        most = k > most ? k : most;
    }
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

sp_err sp_convert(sp_convert_report *out, const char *dir, const char *path, sp_type type, sp_diag *d)
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
    sp_mem_free(j->tensor);
    sp_mem_free(j);
    return err;
}
