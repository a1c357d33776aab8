#include "model/folder.h"

#include "base/file.h"
#include "base/mem.h"
#include "fmt/gguf_write.h"
#include "fmt/safetensors.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

enum {
    MAX_JSON_BYTES = 1 << 20,
    MAX_VOCAB_BYTES = 64 << 20,
    MAX_PATH = 1024,
    MAX_LAYER = 128,
    TOP_TENSORS = 5,
    LAYER_TENSORS = 16
};

/* Types of tokens. */
enum { TOKEN_NORMAL = 1, TOKEN_UNKNOWN = 2, TOKEN_CONTROL = 3, TOKEN_UNUSED = 5 };

typedef struct config {
    size_t n_layer, n_embd, n_ff, n_head, n_pos, n_vocab, n_type, cap;
    float eps;
} config;

/* A tensor of the folder. */
typedef struct item {
    const float *data;
    size_t rows, cols; /* cols 0: a vector */
    bool is_matrix;    /* of a layer: written as bf16, behind all others */
} item;

typedef struct writer {
    config c;
    sp_safe *file;
    sp_gguf_out *out;
    item *items;
    size_t n_item, matrix_bytes;
    sp_buf spelled;  /* tokens as GGUF spells them, one behind the other */
    sp_str *tokens;  /* [n_vocab] in it */
    int32_t *types;  /* [n_vocab] */
    sp_diag *d;
} writer;

/* --- reading ---------------------------------------------------------------------------------- */

static sp_err read_file(sp_buf *out, const char *folder, const char *name, size_t most, sp_diag *d)
{
    char path[MAX_PATH];
    if ((size_t)snprintf(path, sizeof path, "%s/%s", folder, name) >= sizeof path)
        return SP_FAIL(d, SP_INVAL, "path is too long");
    return sp_file_read(out, path, most, d);
}

static sp_err read_json(json_t **out, const char *folder, const char *name, sp_diag *d)
{
    sp_buf b = {0};
    json_error_t je;
    sp_err err = read_file(&b, folder, name, MAX_JSON_BYTES, d);
    if (err == SP_OK) {
        *out = json_loadb(sp_buf_str(&b), b.len, 0, &je);
        if (!*out)
            err = SP_FAIL(d, SP_FORMAT, "%.100s/%.30s: %.60s", folder, name, je.text);
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

static sp_err read_config(config *c, const json_t *j, sp_diag *d)
{
    const char *kind = json_string_value(json_object_get(j, "model_type"));
    const char *act = json_string_value(json_object_get(j, "hidden_act"));
    if (!kind || strcmp(kind, "bert") != 0 || !act || strcmp(act, "gelu") != 0)
        return SP_FAIL(
            d, SP_UNSUP,
            "config.json: model_type %.20s with hidden_act %.20s is not supported (bert, gelu)",
            kind ? kind : "(none)", act ? act : "(none)");
    SP_TRY(get(&c->n_layer, j, "num_hidden_layers", MAX_LAYER, d));
    SP_TRY(get(&c->n_embd, j, "hidden_size", 1 << 14, d));
    SP_TRY(get(&c->n_ff, j, "intermediate_size", 1 << 16, d));
    SP_TRY(get(&c->n_head, j, "num_attention_heads", 256, d));
    SP_TRY(get(&c->n_pos, j, "max_position_embeddings", 1 << 16, d));
    SP_TRY(get(&c->n_vocab, j, "vocab_size", 1 << 20, d));
    SP_TRY(get(&c->n_type, j, "type_vocab_size", 16, d));
    c->eps = (float)json_number_value(json_object_get(j, "layer_norm_eps"));
    if (c->n_embd % c->n_head || !(c->eps > 0))
        return SP_FAIL(
            d, SP_FORMAT,
            "config.json: hidden_size, num_attention_heads and layer_norm_eps do not fit");
    return SP_OK;
}

/* max_seq_length of sentence_bert_config.json, where there is one. */
static sp_err read_cap(config *c, const char *folder, sp_diag *d)
{
    json_t *j = NULL;
    sp_err err = read_json(&j, folder, "sentence_bert_config.json", d);
    c->cap = c->n_pos;
    if (err == SP_NOTFOUND)
        return SP_OK;
    if (err == SP_OK)
        err = get(&c->cap, j, "max_seq_length", c->n_pos, d);
    json_decref(j);
    return err;
}

/* --- tensors ---------------------------------------------------------------------------------- */

typedef struct name {
    const char *from, *to; /* in the folder, in GGUF */
    size_t rows, cols;
} name;

static sp_err add_item(writer *w, const char *from_prefix, const char *prefix, const name *n,
                       bool is_matrix)
{
    item *i = &w->items[w->n_item];
    char from[160], to[64];
    snprintf(from, sizeof from, "%s%s", from_prefix, n->from);
    snprintf(to, sizeof to, "%s%s", prefix, n->to);
    *i = (item){.rows = n->rows, .cols = n->cols, .is_matrix = is_matrix};
    SP_TRY(sp_safe_f32(&i->data, w->file, from, n->rows, n->cols, w->d));
    w->n_item++;
    w->matrix_bytes += is_matrix ? n->rows * n->cols * sizeof(uint16_t) : 0;
    const size_t dim[] = {n->cols ? n->cols : n->rows, n->rows};
    return sp_gguf_out_tensor(w->out, to, is_matrix ? SP_BF16 : SP_F32, dim, n->cols ? 2 : 1, w->d);
}

/* All that is no matrix of a layer, then those. */
static sp_err list_items(writer *w)
{
    const config *c = &w->c;
    size_t e = c->n_embd, f = c->n_ff;
    const name top[TOP_TENSORS] = {
        {"word_embeddings.weight", "token_embd.weight", c->n_vocab, e},
        {"position_embeddings.weight", "position_embd.weight", c->n_pos, e},
        {"token_type_embeddings.weight", "token_types.weight", c->n_type, e},
        {"LayerNorm.weight", "token_embd_norm.weight", e, 0},
        {"LayerNorm.bias", "token_embd_norm.bias", e, 0}};
    const name in_layer[LAYER_TENSORS] = {
        {"attention.self.query.bias", "attn_q.bias", e, 0},
        {"attention.self.key.bias", "attn_k.bias", e, 0},
        {"attention.self.value.bias", "attn_v.bias", e, 0},
        {"attention.output.dense.bias", "attn_output.bias", e, 0},
        {"attention.output.LayerNorm.weight", "attn_output_norm.weight", e, 0},
        {"attention.output.LayerNorm.bias", "attn_output_norm.bias", e, 0},
        {"intermediate.dense.bias", "ffn_up.bias", f, 0},
        {"output.dense.bias", "ffn_down.bias", e, 0},
        {"output.LayerNorm.weight", "layer_output_norm.weight", e, 0},
        {"output.LayerNorm.bias", "layer_output_norm.bias", e, 0},
        {"attention.self.query.weight", "attn_q.weight", e, e},
        {"attention.self.key.weight", "attn_k.weight", e, e},
        {"attention.self.value.weight", "attn_v.weight", e, e},
        {"attention.output.dense.weight", "attn_output.weight", e, e},
        {"intermediate.dense.weight", "ffn_up.weight", f, e},
        {"output.dense.weight", "ffn_down.weight", e, f}};
    w->items = sp_mem_array(TOP_TENSORS + c->n_layer * LAYER_TENSORS, sizeof *w->items);
    if (!w->items)
        return SP_FAIL(w->d, SP_NOMEM, "encoder");
    for (size_t i = 0; i < TOP_TENSORS; i++)
        SP_TRY(add_item(w, "embeddings.", "", &top[i], false));
    for (size_t l = 0; l < 2 * c->n_layer; l++) {
        bool matrices = l >= c->n_layer;
        char from[64], to[32];
        snprintf(from, sizeof from, "encoder.layer.%zu.", l % c->n_layer);
        snprintf(to, sizeof to, "blk.%zu.", l % c->n_layer);
        for (size_t i = 0; i < LAYER_TENSORS; i++)
            if ((in_layer[i].cols > 0) == matrices)
                SP_TRY(add_item(w, from, to, &in_layer[i], matrices));
    }
    return SP_OK;
}

static sp_err put_narrow(writer *w, const item *t)
{
    uint16_t *row = sp_mem_array(t->cols, sizeof *row);
    sp_err err = row ? SP_OK : SP_FAIL(w->d, SP_NOMEM, "encoder");
    for (size_t r = 0; r < t->rows && err == SP_OK; r++) {
        for (size_t i = 0; i < t->cols; i++) {
            union { float f; uint32_t u; } v = {t->data[r * t->cols + i]};
            row[i] = (uint16_t)((v.u + 0x7fff + (v.u >> 16 & 1)) >> 16);
        }
        err = sp_gguf_out_data(w->out, row, t->cols * sizeof *row, w->d);
    }
    sp_mem_free(row);
    return err;
}

/* --- vocabulary ------------------------------------------------------------------------------- */

/* One line of vocab.txt; *at moves behind it. */
static bool next_line(sp_buf const *text, size_t *at, const char **p, size_t *n)
{
    if (*at >= text->len)
        return false;
    const char *end = memchr(text->p + *at, '\n', text->len - *at);
    *p = text->p + *at;
    *n = end ? (size_t)(end - *p) : text->len - *at;
    *at += *n + 1;
    if (*n && (*p)[*n - 1] == '\r')
        (*n)--;
    return true;
}

static bool is_bracketed(const char *p, size_t n)
{
    return n > 2 && p[0] == '[' && p[n - 1] == ']';
}

/* "##ing" goes on with a word and stands bare in GGUF; what begins one has U+2581 before it. Gives
 * the length. */
static size_t spell(sp_buf *out, const char *p, size_t n)
{
    size_t before = out->len;
    bool goes_on = n > 2 && memcmp(p, "##", 2) == 0;
    if (!goes_on && !is_bracketed(p, n))
        sp_buf_puts(out, "\xe2\x96\x81");
    sp_buf_put(out, goes_on ? p + 2 : p, goes_on ? n - 2 : n);
    return out->len - before;
}

static int32_t token_type(const char *p, size_t n)
{
    static const struct { const char *name; int32_t type;
    } known[] = {{"[PAD]", TOKEN_CONTROL},
                 {"[CLS]", TOKEN_CONTROL},
                 {"[SEP]", TOKEN_CONTROL},
                 {"[MASK]", TOKEN_CONTROL},
                 {"[UNK]", TOKEN_UNKNOWN}};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strlen(known[i].name) == n && memcmp(known[i].name, p, n) == 0)
            return known[i].type;
    return is_bracketed(p, n) ? TOKEN_UNUSED : TOKEN_NORMAL;
}

/* Rows of the embedding without an entry are unused tokens without a text. */
static sp_err read_tokens(writer *w, const sp_buf *text)
{
    size_t n, i = 0, cap = w->c.n_vocab;
    const char *p;
    w->tokens = sp_mem_array(cap, sizeof *w->tokens);
    w->types = sp_mem_array(cap, sizeof *w->types);
    if (!w->tokens || !w->types)
        return SP_FAIL(w->d, SP_NOMEM, "encoder");
    for (size_t at = 0; next_line(text, &at, &p, &n); i++) {
        if (i == cap)
            return SP_FAIL(w->d, SP_FORMAT,
                           "vocab.txt has more entries than the %zu of config.json", cap);
        w->tokens[i].n = spell(&w->spelled, p, n);
        w->types[i] = token_type(p, n);
    }
    for (; i < cap; i++)
        w->types[i] = TOKEN_UNUSED;
    if (w->spelled.failed)
        return SP_FAIL(w->d, SP_NOMEM, "encoder");
    const char *at = sp_buf_str(&w->spelled);
    for (i = 0; i < cap; at += w->tokens[i++].n)
        w->tokens[i].p = at;
    return SP_OK;
}

static sp_err put_mark(writer *w, const char *mark, const char *key)
{
    for (size_t i = 0; i < w->c.n_vocab; i++) {
        if (w->tokens[i].n == strlen(mark) && memcmp(w->tokens[i].p, mark, w->tokens[i].n) == 0) {
            sp_gguf_out_u32(w->out, key, (uint32_t)i);
            return SP_OK;
        }
    }
    return SP_FAIL(w->d, SP_FORMAT, "vocab.txt: %s is missing", mark);
}

static sp_err put_vocab(writer *w, const sp_buf *text)
{
    SP_TRY(read_tokens(w, text));
    sp_gguf_out_str(w->out, "tokenizer.ggml.model", "bert", 4);
    sp_gguf_out_strs(w->out, "tokenizer.ggml.tokens", w->tokens, w->c.n_vocab);
    sp_gguf_out_i32s(w->out, "tokenizer.ggml.token_type", w->types, w->c.n_vocab);
    SP_TRY(put_mark(w, "[CLS]", "tokenizer.ggml.cls_token_id"));
    SP_TRY(put_mark(w, "[SEP]", "tokenizer.ggml.seperator_token_id"));
    return put_mark(w, "[UNK]", "tokenizer.ggml.unknown_token_id");
}

/* --- the whole -------------------------------------------------------------------------------- */

static void put_keys(writer *w)
{
    const config *c = &w->c;
    sp_gguf_out_str(w->out, "general.architecture", "bert", 4);
    sp_gguf_out_u32(w->out, "bert.block_count", (uint32_t)c->n_layer);
    sp_gguf_out_u32(w->out, "bert.context_length", (uint32_t)c->cap);
    sp_gguf_out_u32(w->out, "bert.embedding_length", (uint32_t)c->n_embd);
    sp_gguf_out_u32(w->out, "bert.feed_forward_length", (uint32_t)c->n_ff);
    sp_gguf_out_u32(w->out, "bert.attention.head_count", (uint32_t)c->n_head);
    sp_gguf_out_f32(w->out, "bert.attention.layer_norm_epsilon", (double)c->eps);
    sp_gguf_out_u32(w->out, "bert.pooling_type", 1);
}

static sp_err write_all(sp_folder *out, writer *w)
{
    size_t n = sp_gguf_out_bytes(w->out);
    void *p = sp_mem_align(n);
    sp_err err = p ? sp_gguf_out_open_mem(w->out, p, w->d) : SP_FAIL(w->d, SP_NOMEM, "encoder");
    for (size_t i = 0; i < w->n_item && err == SP_OK; i++) {
        const item *t = &w->items[i];
        err = t->is_matrix
                  ? put_narrow(w, t)
                  : sp_gguf_out_data(w->out, t->data,
                                     t->rows * (t->cols ? t->cols : 1) * sizeof(float), w->d);
    }
    if (err == SP_OK)
        err = sp_gguf_out_close(w->out, w->d);
    if (err == SP_OK)
        *out = (sp_folder){p, n, n - w->matrix_bytes};
    else
        sp_mem_free(p);
    return err;
}

static sp_err read_all(sp_folder *out, writer *w, const char *folder, sp_buf *vocab)
{
    char path[MAX_PATH];
    json_t *j = NULL;
    SP_TRY(read_json(&j, folder, "config.json", w->d));
    sp_err err = read_config(&w->c, j, w->d);
    json_decref(j);
    SP_TRY(err);
    SP_TRY(read_cap(&w->c, folder, w->d));
    SP_TRY(read_file(vocab, folder, "vocab.txt", MAX_VOCAB_BYTES, w->d));
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    SP_TRY(sp_safe_open(&w->file, path, w->d));
    SP_TRY(sp_gguf_out_new(&w->out, w->d));
    put_keys(w);
    SP_TRY(put_vocab(w, vocab));
    SP_TRY(list_items(w));
    return write_all(out, w);
}

sp_err sp_folder_read(sp_folder *out, const char *folder, sp_diag *d)
{
    writer w = {.d = d};
    sp_buf vocab = {0};
    sp_err err = read_all(out, &w, folder, &vocab);
    sp_buf_fini(&vocab);
    sp_buf_fini(&w.spelled);
    sp_mem_free(w.tokens);
    sp_mem_free(w.types);
    sp_mem_free(w.items);
    sp_gguf_out_free(w.out);
    sp_safe_close(w.file);
    return err;
}
