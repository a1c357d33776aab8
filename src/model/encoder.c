#include "model/encoder.h"

#include "base/file.h"
#include "base/mem.h"
#include "fmt/safetensors.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MAX_JSON_BYTES = 1 << 20, MAX_PATH = 1024, N_SCRATCH = 6 };

typedef struct layer {
    sp_dev_weight qkv[3], out, up, down;
    const float *qkv_bias[3], *out_bias, *up_bias, *down_bias;
    const float *norm1_w, *norm1_b, *norm2_w, *norm2_b;
} layer;

struct sp_encoder {
    sp_dev *dev;
    sp_safe *file;
    sp_wp *vocab;
    size_t n_layer, n_embd, n_ff, n_head, n_pos, n_vocab, n_type, cap;
    float eps;
    const float *word, *position, *type0, *norm_w, *norm_b;
    layer *layers;
    void *packed; /* device memory of the matrices */
    float *scratch[N_SCRATCH]; /* x, h, q, k, v [cap, n_embd]; ff [cap, n_ff] */
};

static sp_err read_json(json_t **out, const char *folder, const char *name, sp_diag *d)
{
    char path[MAX_PATH];
    sp_buf b = {0};
    json_error_t je;
    if ((size_t)snprintf(path, sizeof path, "%s/%s", folder, name) >= sizeof path)
        return SP_FAIL(d, SP_INVAL, "path is too long");
    sp_err err = sp_file_read(&b, path, MAX_JSON_BYTES, d);
    if (err == SP_OK) {
        *out = json_loadb(sp_buf_str(&b), b.len, 0, &je);
        if (!*out)
            err = SP_FAIL(d, SP_FORMAT, "%.120s: %.60s", path, je.text);
    }
    sp_buf_fini(&b);
    return err;
}

static sp_err get(size_t *out, const json_t *j, const char *key, size_t max, sp_diag *d)
{
    const json_t *v = json_object_get(j, key);
    if (!json_is_integer(v) || json_integer_value(v) < 1 || (size_t)json_integer_value(v) > max)
        return SP_FAIL(d, SP_FORMAT, "config.json: %s is missing or out of 1..%zu", key, max);
    *out = (size_t)json_integer_value(v);
    return SP_OK;
}

static sp_err read_config(sp_encoder *e, const json_t *j, sp_diag *d)
{
    const char *kind = json_string_value(json_object_get(j, "model_type"));
    const char *act = json_string_value(json_object_get(j, "hidden_act"));
    if (!kind || strcmp(kind, "bert") != 0 || !act || strcmp(act, "gelu") != 0)
        return SP_FAIL(d, SP_UNSUP, "config.json: model_type %.20s with hidden_act %.20s is not supported (bert, gelu)",
                       kind ? kind : "(none)", act ? act : "(none)");
    SP_TRY(get(&e->n_layer, j, "num_hidden_layers", 128, d));
    SP_TRY(get(&e->n_embd, j, "hidden_size", 1 << 14, d));
    SP_TRY(get(&e->n_ff, j, "intermediate_size", 1 << 16, d));
    SP_TRY(get(&e->n_head, j, "num_attention_heads", 256, d));
    SP_TRY(get(&e->n_pos, j, "max_position_embeddings", 1 << 16, d));
    SP_TRY(get(&e->n_vocab, j, "vocab_size", 1 << 20, d));
    SP_TRY(get(&e->n_type, j, "type_vocab_size", 16, d));
    e->eps = (float)json_number_value(json_object_get(j, "layer_norm_eps"));
    if (e->n_embd % e->n_head || !(e->eps > 0))
        return SP_FAIL(d, SP_FORMAT, "config.json: hidden_size, num_attention_heads and layer_norm_eps do not fit");
    return SP_OK;
}

typedef struct want {
    const float **p;
    sp_dev_weight *w; /* or a matrix */
    const char *name;
    size_t rows, cols;
} want;

static sp_err fetch(const sp_encoder *e, const want *list, size_t n, const char *prefix, sp_diag *d)
{
    char name[160];
    for (size_t i = 0; i < n; i++) {
        const float *p;
        snprintf(name, sizeof name, "%s%s", prefix, list[i].name);
        SP_TRY(sp_safe_f32(&p, e->file, name, list[i].rows, list[i].cols, d));
        if (list[i].w)
            *list[i].w = (sp_dev_weight){p, SP_F32, list[i].rows, list[i].cols, NULL};
        else
            *list[i].p = p;
        if (!list[i].w) /* matrices are packed; all else is used where it lies */
            SP_TRY(sp_safe_own(e->file, p, list[i].rows * (list[i].cols ? list[i].cols : 1) * sizeof *p, d));
    }
    return SP_OK;
}

static sp_err fetch_weights(sp_encoder *e, sp_diag *d)
{
    size_t c = e->n_embd, f = e->n_ff;
    const want top[] = {{&e->word, NULL, "word_embeddings.weight", e->n_vocab, c},
                        {&e->position, NULL, "position_embeddings.weight", e->n_pos, c},
                        {&e->type0, NULL, "token_type_embeddings.weight", e->n_type, c},
                        {&e->norm_w, NULL, "LayerNorm.weight", c, 0},
                        {&e->norm_b, NULL, "LayerNorm.bias", c, 0}};
    SP_TRY(fetch(e, top, sizeof top / sizeof top[0], "embeddings.", d));
    e->layers = sp_mem_array(e->n_layer, sizeof *e->layers);
    if (!e->layers)
        return SP_FAIL(d, SP_NOMEM, "encoder");
    for (size_t i = 0; i < e->n_layer; i++) {
        layer *l = &e->layers[i];
        char prefix[64];
        snprintf(prefix, sizeof prefix, "encoder.layer.%zu.", i);
        const want in[] = {{NULL, &l->qkv[0], "attention.self.query.weight", c, c},
                           {NULL, &l->qkv[1], "attention.self.key.weight", c, c},
                           {NULL, &l->qkv[2], "attention.self.value.weight", c, c},
                           {&l->qkv_bias[0], NULL, "attention.self.query.bias", c, 0},
                           {&l->qkv_bias[1], NULL, "attention.self.key.bias", c, 0},
                           {&l->qkv_bias[2], NULL, "attention.self.value.bias", c, 0},
                           {NULL, &l->out, "attention.output.dense.weight", c, c},
                           {&l->out_bias, NULL, "attention.output.dense.bias", c, 0},
                           {&l->norm1_w, NULL, "attention.output.LayerNorm.weight", c, 0},
                           {&l->norm1_b, NULL, "attention.output.LayerNorm.bias", c, 0},
                           {NULL, &l->up, "intermediate.dense.weight", f, c},
                           {&l->up_bias, NULL, "intermediate.dense.bias", f, 0},
                           {NULL, &l->down, "output.dense.weight", c, f},
                           {&l->down_bias, NULL, "output.dense.bias", c, 0},
                           {&l->norm2_w, NULL, "output.LayerNorm.weight", c, 0},
                           {&l->norm2_b, NULL, "output.LayerNorm.bias", c, 0}};
        SP_TRY(fetch(e, in, sizeof in / sizeof in[0], prefix, d));
    }
    return SP_OK;
}

/* The matrices in bf16: some CPUs multiply them twice as fast as f32, and rounding to 8 bits of mantissa moves an embedding
 * by less than 1e-4 in cosine (blocks of 8 bits, faster still, move it by 3e-4). */
static void narrow(uint16_t *out, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        union { float f; uint32_t u; } v = {x[i]};
        out[i] = (uint16_t)((v.u + 0x7fff + (v.u >> 16 & 1)) >> 16);
    }
}

static sp_err pack(sp_encoder *e, sp_diag *d)
{
    enum { N_MATRIX = 6 };
    size_t c = e->n_embd, f = e->n_ff, at = 0;
    const sp_dev_ops *ops = e->dev->ops;
    size_t each = 4 * ops->weight_bytes(e->dev, SP_BF16, c, c) + ops->weight_bytes(e->dev, SP_BF16, f, c) +
                  ops->weight_bytes(e->dev, SP_BF16, c, f);
    uint16_t *rows = sp_mem_array(c * f, sizeof *rows);
    if (!rows || ops->mem_raw(e->dev, &e->packed, each * e->n_layer) != SP_OK) {
        sp_mem_free(rows);
        return SP_FAIL(d, SP_NOMEM, "encoder");
    }
    sp_err err = SP_OK;
    for (size_t i = 0; i < e->n_layer; i++) {
        layer *l = &e->layers[i];
        sp_dev_weight *const of[N_MATRIX] = {&l->qkv[0], &l->qkv[1], &l->qkv[2], &l->out, &l->up, &l->down};
        for (size_t k = 0; k < N_MATRIX && err == SP_OK; k++) {
            size_t n = of[k]->n_row, w = of[k]->k;
            narrow(rows, of[k]->data, n * w);
            err = ops->weight_put(e->dev, of[k], (char *)e->packed + at, SP_BF16, rows, n, w);
            at += ops->weight_bytes(e->dev, SP_BF16, n, w);
        }
    }
    sp_mem_free(rows);
    return err == SP_OK ? SP_OK : SP_FAIL(d, err, "encoder");
}

/* max_seq_length of sentence_bert_config.json, where there is one. */
static sp_err read_cap(sp_encoder *e, const char *folder, sp_diag *d)
{
    json_t *j = NULL;
    sp_err err = read_json(&j, folder, "sentence_bert_config.json", d);
    e->cap = e->n_pos;
    if (err == SP_NOTFOUND)
        return SP_OK;
    if (err == SP_OK)
        err = get(&e->cap, j, "max_seq_length", e->n_pos, d);
    json_decref(j);
    return err;
}

static sp_err open_all(sp_encoder *e, const char *folder, sp_diag *d)
{
    char path[MAX_PATH];
    json_t *config = NULL;
    SP_TRY(read_json(&config, folder, "config.json", d));
    sp_err err = read_config(e, config, d);
    json_decref(config);
    SP_TRY(err);
    SP_TRY(read_cap(e, folder, d));
    snprintf(path, sizeof path, "%s/vocab.txt", folder);
    SP_TRY(sp_wp_open(&e->vocab, path, d));
    if (sp_wp_count(e->vocab) > e->n_vocab)
        return SP_FAIL(d, SP_FORMAT, "vocab.txt has %zu entries, config.json says %zu", sp_wp_count(e->vocab), e->n_vocab);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    SP_TRY(sp_safe_open(&e->file, path, d));
    SP_TRY(fetch_weights(e, d));
    SP_TRY(pack(e, d));
    for (size_t i = 0; i < N_SCRATCH; i++) {
        void *p;
        size_t cols = i == N_SCRATCH - 1 ? e->n_ff : e->n_embd;
        if (e->dev->ops->mem_new(e->dev, &p, e->cap * cols * sizeof(float)) != SP_OK)
            return SP_FAIL(d, SP_NOMEM, "encoder");
        e->scratch[i] = p;
    }
    return SP_OK;
}

sp_err sp_encoder_open(sp_encoder **out, const char *folder, sp_dev *dev, sp_diag *d)
{
    sp_encoder *e = sp_mem_alloc(sizeof *e);
    if (!e)
        return SP_FAIL(d, SP_NOMEM, "encoder");
    e->dev = dev;
    sp_err err = open_all(e, folder, d);
    if (err == SP_OK)
        *out = e;
    else
        sp_encoder_close(e);
    return err;
}

void sp_encoder_close(sp_encoder *e)
{
    if (!e)
        return;
    for (size_t i = 0; i < N_SCRATCH; i++)
        e->dev->ops->mem_free(e->dev, e->scratch[i]);
    e->dev->ops->mem_free(e->dev, e->packed);
    sp_mem_free(e->layers);
    sp_safe_close(e->file);
    sp_wp_close(e->vocab);
    sp_mem_free(e);
}

size_t sp_encoder_dim(const sp_encoder *e)
{
    return e->n_embd;
}

size_t sp_encoder_cap(const sp_encoder *e)
{
    return e->cap;
}

const sp_wp *sp_encoder_vocab(const sp_encoder *e)
{
    return e->vocab;
}

static sp_err run_layer(sp_encoder *e, const layer *l, size_t n)
{
    const sp_dev_ops *ops = e->dev->ops;
    float *x = e->scratch[0], *h = e->scratch[1], *ff = e->scratch[5];
    size_t c = e->n_embd, d = c / e->n_head;
    const sp_dev_matmul qkv = {.out = e->scratch + 2, .x = x, .w = l->qkv, .bias = l->qkv_bias, .n_w = 3, .n_row = n, .stage = SP_STAGE_REST};
    const sp_dev_matmul out = {.out = &x, .x = h, .w = &l->out, .bias = &l->out_bias, .n_w = 1, .n_row = n, .add = true, .stage = SP_STAGE_REST};
    const sp_dev_matmul up = {.out = &ff, .x = x, .w = &l->up, .bias = &l->up_bias, .n_w = 1, .n_row = n, .stage = SP_STAGE_REST};
    const sp_dev_matmul down = {.out = &x, .x = ff, .w = &l->down, .bias = &l->down_bias, .n_w = 1, .n_row = n, .add = true, .stage = SP_STAGE_REST};
    SP_TRY(ops->matmul(e->dev, &qkv));
    const sp_dev_attn_full attn = {.out = h, .q = e->scratch[2], .k = e->scratch[3], .v = e->scratch[4], .n = n, .n_head = e->n_head,
                                   .n_head_kv = e->n_head, .d = d, .scale = 1.0f / sqrtf((float)d)};
    SP_TRY(ops->attn_full(e->dev, &attn));
    SP_TRY(ops->matmul(e->dev, &out));
    SP_TRY(ops->norm_layer(e->dev, x, x, l->norm1_w, l->norm1_b, n, c, e->eps));
    SP_TRY(ops->matmul(e->dev, &up));
    SP_TRY(ops->gelu(e->dev, ff, n * e->n_ff));
    SP_TRY(ops->matmul(e->dev, &down));
    return ops->norm_layer(e->dev, x, x, l->norm2_w, l->norm2_b, n, c, e->eps);
}

/* The mean of rows [first, end), to unit length. */
static void mean(float *out, const float *x, size_t first, size_t end, size_t c)
{
    double norm = 0;
    for (size_t i = 0; i < c; i++) {
        double sum = 0;
        for (size_t t = first; t < end; t++)
            sum += (double)x[t * c + i];
        out[i] = (float)(sum / (double)(end - first));
        norm += (double)out[i] * (double)out[i];
    }
    for (size_t i = 0; i < c; i++)
        out[i] = (float)((double)out[i] / fmax(sqrt(norm), 1e-12));
}

sp_err sp_encoder_run(sp_encoder *e, float *out, const uint32_t *id, size_t n, const sp_enc_part *part, size_t n_part, sp_diag *d)
{
    if (n == 0 || n > e->cap)
        return SP_FAIL(d, SP_INVAL, "the text has %zu tokens, the encoder takes at most %zu", n, e->cap);
    size_t c = e->n_embd;
    float *x = e->scratch[0];
    const sp_dev_weight word = {.data = e->word, .type = SP_F32, .n_row = e->n_vocab, .k = c};
    const sp_dev_ops *ops = e->dev->ops;
    sp_err err = ops->embed(e->dev, x, &word, id, n, 1);
    for (size_t t = 0; t < n && err == SP_OK; t++) {
        err = ops->add(e->dev, x + t * c, e->position + t * c, c);
        if (err == SP_OK)
            err = ops->add(e->dev, x + t * c, e->type0, c);
    }
    if (err == SP_OK)
        err = ops->norm_layer(e->dev, x, x, e->norm_w, e->norm_b, n, c, e->eps);
    for (size_t i = 0; i < e->n_layer && err == SP_OK; i++)
        err = run_layer(e, &e->layers[i], n);
    if (err != SP_OK)
        return SP_FAIL(d, err, "encoding %zu tokens", n);
    mean(out, x, 0, n, c);
    for (size_t i = 0; i < n_part; i++)
        mean(out + (i + 1) * c, x, part[i].first, part[i].end, c);
    return SP_OK;
}
