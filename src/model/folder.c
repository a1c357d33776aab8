#include "model/folder.h"

#include "base/file.h"
#include "base/mem.h"
#include "fmt/quant.h"
#include "fmt/safetensors.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

enum {
    MAX_JSON_BYTES = 1 << 20, MAX_VOCAB_BYTES = 64 << 20, MAX_PATH = 1024, MAX_LAYER = 128, ALIGN = 64,
    TOP_TENSORS = 5, LAYER_TENSORS = 16, MAX_TENSOR = TOP_TENSORS + MAX_LAYER * LAYER_TENSORS, MAX_NAME = 64
};

/* Types of GGUF's keys. */
enum { KV_U32 = 4, KV_I32 = 5, KV_F32 = 6, KV_BOOL = 7, KV_STR = 8, KV_ARR = 9 };
/* Types of tokens. */
enum { TOKEN_NORMAL = 1, TOKEN_UNKNOWN = 2, TOKEN_CONTROL = 3, TOKEN_UNUSED = 5 };

typedef struct config {
    size_t n_layer, n_embd, n_ff, n_head, n_pos, n_vocab, n_type, cap;
    float eps;
} config;

/* A tensor of the folder and what it is called in GGUF. */
typedef struct item {
    char name[MAX_NAME];
    const float *data;
    size_t rows, cols; /* cols 0: a vector */
    bool is_matrix;    /* of a layer: written as bf16, behind all others */
    size_t at;         /* bytes from where tensors begin */
} item;

typedef struct writer {
    config c;
    sp_safe *file;
    item *items;
    size_t n_item, n_key, data_bytes, matrices_at;
    sp_buf keys;
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
        return SP_FAIL(d, SP_UNSUP, "config.json: model_type %.20s with hidden_act %.20s is not supported (bert, gelu)",
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
        return SP_FAIL(d, SP_FORMAT, "config.json: hidden_size, num_attention_heads and layer_norm_eps do not fit");
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

static sp_err add_item(writer *w, const char *from_prefix, const char *from, const char *prefix, const char *name, size_t rows, size_t cols,
                       bool is_matrix)
{
    item *i = &w->items[w->n_item];
    char full[160];
    snprintf(full, sizeof full, "%s%s", from_prefix, from);
    snprintf(i->name, sizeof i->name, "%s%s", prefix, name);
    i->rows = rows;
    i->cols = cols;
    i->is_matrix = is_matrix;
    SP_TRY(sp_safe_f32(&i->data, w->file, full, rows, cols, w->d));
    w->n_item++;
    return SP_OK;
}

static sp_err list_items(writer *w)
{
    const config *c = &w->c;
    size_t e = c->n_embd, f = c->n_ff;
    const struct { const char *from, *name; size_t rows, cols; } top[TOP_TENSORS] = {
        {"word_embeddings.weight", "token_embd.weight", c->n_vocab, e}, {"position_embeddings.weight", "position_embd.weight", c->n_pos, e},
        {"token_type_embeddings.weight", "token_types.weight", c->n_type, e}, {"LayerNorm.weight", "token_embd_norm.weight", e, 0},
        {"LayerNorm.bias", "token_embd_norm.bias", e, 0}};
    const struct { const char *from, *name; size_t rows, cols; } in_layer[LAYER_TENSORS] = {
        {"attention.self.query.bias", "attn_q.bias", e, 0}, {"attention.self.key.bias", "attn_k.bias", e, 0},
        {"attention.self.value.bias", "attn_v.bias", e, 0}, {"attention.output.dense.bias", "attn_output.bias", e, 0},
        {"attention.output.LayerNorm.weight", "attn_output_norm.weight", e, 0}, {"attention.output.LayerNorm.bias", "attn_output_norm.bias", e, 0},
        {"intermediate.dense.bias", "ffn_up.bias", f, 0}, {"output.dense.bias", "ffn_down.bias", e, 0},
        {"output.LayerNorm.weight", "layer_output_norm.weight", e, 0}, {"output.LayerNorm.bias", "layer_output_norm.bias", e, 0},
        {"attention.self.query.weight", "attn_q.weight", e, e}, {"attention.self.key.weight", "attn_k.weight", e, e},
        {"attention.self.value.weight", "attn_v.weight", e, e}, {"attention.output.dense.weight", "attn_output.weight", e, e},
        {"intermediate.dense.weight", "ffn_up.weight", f, e}, {"output.dense.weight", "ffn_down.weight", e, f}};
    w->items = sp_mem_array(TOP_TENSORS + c->n_layer * LAYER_TENSORS, sizeof *w->items);
    if (!w->items)
        return SP_FAIL(w->d, SP_NOMEM, "encoder");
    for (size_t i = 0; i < TOP_TENSORS; i++)
        SP_TRY(add_item(w, "embeddings.", top[i].from, "", top[i].name, top[i].rows, top[i].cols, false));
    for (size_t l = 0; l < c->n_layer; l++) {
        char from[64], prefix[32];
        snprintf(from, sizeof from, "encoder.layer.%zu.", l);
        snprintf(prefix, sizeof prefix, "blk.%zu.", l);
        for (size_t i = 0; i < LAYER_TENSORS; i++)
            SP_TRY(add_item(w, from, in_layer[i].from, prefix, in_layer[i].name, in_layer[i].rows, in_layer[i].cols, in_layer[i].cols));
    }
    return SP_OK;
}

static size_t item_bytes(const item *i)
{
    return i->rows * (i->cols ? i->cols : 1) * (i->is_matrix ? sizeof(uint16_t) : sizeof(float));
}

/* Matrices of layers come last. */
static void place_items(writer *w)
{
    for (int matrices = 0; matrices < 2; matrices++) {
        w->matrices_at = w->data_bytes;
        for (size_t i = 0; i < w->n_item; i++) {
            if (w->items[i].is_matrix != matrices)
                continue;
            w->items[i].at = w->data_bytes;
            w->data_bytes = (w->data_bytes + item_bytes(&w->items[i]) + ALIGN - 1) / ALIGN * ALIGN;
        }
    }
}

/* --- writing ---------------------------------------------------------------------------------- */

static void put_u32(sp_buf *b, uint32_t v)
{
    sp_buf_put(b, &v, sizeof v);
}

static void put_u64(sp_buf *b, uint64_t v)
{
    sp_buf_put(b, &v, sizeof v);
}

static void put_str(sp_buf *b, const char *p, size_t n)
{
    put_u64(b, n);
    sp_buf_put(b, p, n);
}

static void begin_key(writer *w, const char *key, uint32_t type)
{
    put_str(&w->keys, key, strlen(key));
    put_u32(&w->keys, type);
    w->n_key++;
}

static void key_u32(writer *w, const char *key, size_t v)
{
    begin_key(w, key, KV_U32);
    put_u32(&w->keys, (uint32_t)v);
}

static void key_str(writer *w, const char *key, const char *v)
{
    begin_key(w, key, KV_STR);
    put_str(&w->keys, v, strlen(v));
}

static void begin_array(writer *w, const char *key, uint32_t type, size_t n)
{
    begin_key(w, key, KV_ARR);
    put_u32(&w->keys, type);
    put_u64(&w->keys, n);
}

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

/* "##ing" goes on with a word and stands bare in GGUF; what begins one has U+2581 before it. */
static void put_token(sp_buf *out, const char *p, size_t n)
{
    sp_buf piece = {0};
    bool goes_on = n > 2 && memcmp(p, "##", 2) == 0;
    if (!goes_on && !is_bracketed(p, n))
        sp_buf_puts(&piece, "\xe2\x96\x81");
    sp_buf_put(&piece, goes_on ? p + 2 : p, goes_on ? n - 2 : n);
    put_str(out, sp_buf_str(&piece), piece.len);
    out->failed = out->failed || piece.failed;
    sp_buf_fini(&piece);
}

static int32_t token_type(const char *p, size_t n)
{
    static const struct { const char *name; int32_t type; } known[] = {
        {"[PAD]", TOKEN_CONTROL}, {"[CLS]", TOKEN_CONTROL}, {"[SEP]", TOKEN_CONTROL}, {"[MASK]", TOKEN_CONTROL}, {"[UNK]", TOKEN_UNKNOWN}};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strlen(known[i].name) == n && memcmp(known[i].name, p, n) == 0)
            return known[i].type;
    return is_bracketed(p, n) ? TOKEN_UNUSED : TOKEN_NORMAL;
}

static sp_err put_vocab(writer *w, const sp_buf *text)
{
    static const struct { const char *name, *key; } marks[] = {{"[CLS]", "tokenizer.ggml.cls_token_id"}, {"[SEP]", "tokenizer.ggml.seperator_token_id"},
                                                               {"[UNK]", "tokenizer.ggml.unknown_token_id"}};
    size_t n = 0, n_line = 0, found[3] = {SIZE_MAX, SIZE_MAX, SIZE_MAX};
    const char *p;
    for (size_t at = 0; next_line(text, &at, &p, &n); n_line++)
        for (size_t i = 0; i < 3; i++)
            if (strlen(marks[i].name) == n && memcmp(marks[i].name, p, n) == 0)
                found[i] = n_line;
    if (n_line > w->c.n_vocab)
        return SP_FAIL(w->d, SP_FORMAT, "vocab.txt has %zu entries, config.json says %zu", n_line, w->c.n_vocab);
    key_str(w, "tokenizer.ggml.model", "bert");
    for (size_t i = 0; i < 3; i++) {
        if (found[i] == SIZE_MAX)
            return SP_FAIL(w->d, SP_FORMAT, "vocab.txt: %s is missing", marks[i].name);
        key_u32(w, marks[i].key, found[i]);
    }
    begin_array(w, "tokenizer.ggml.tokens", KV_STR, w->c.n_vocab);
    for (size_t at = 0; next_line(text, &at, &p, &n);)
        put_token(&w->keys, p, n);
    for (size_t i = n_line; i < w->c.n_vocab; i++) /* rows without an entry */
        put_str(&w->keys, "", 0);
    begin_array(w, "tokenizer.ggml.token_type", KV_I32, w->c.n_vocab);
    for (size_t at = 0; next_line(text, &at, &p, &n);)
        put_u32(&w->keys, (uint32_t)token_type(p, n));
    for (size_t i = n_line; i < w->c.n_vocab; i++)
        put_u32(&w->keys, TOKEN_UNUSED);
    return SP_OK;
}

static sp_err put_keys(writer *w, const sp_buf *vocab)
{
    const config *c = &w->c;
    key_str(w, "general.architecture", "bert");
    key_u32(w, "bert.block_count", c->n_layer);
    key_u32(w, "bert.context_length", c->cap);
    key_u32(w, "bert.embedding_length", c->n_embd);
    key_u32(w, "bert.feed_forward_length", c->n_ff);
    key_u32(w, "bert.attention.head_count", c->n_head);
    key_u32(w, "bert.pooling_type", 1);
    key_u32(w, "general.alignment", ALIGN);
    begin_key(w, "bert.attention.layer_norm_epsilon", KV_F32);
    sp_buf_put(&w->keys, &c->eps, sizeof c->eps);
    return put_vocab(w, vocab);
}

static void put_tensor_table(sp_buf *b, const writer *w)
{
    for (size_t i = 0; i < w->n_item; i++) {
        const item *t = &w->items[i];
        put_str(b, t->name, strlen(t->name));
        put_u32(b, t->cols ? 2 : 1);
        put_u64(b, t->cols ? t->cols : t->rows);
        if (t->cols)
            put_u64(b, t->rows);
        put_u32(b, t->is_matrix ? SP_BF16 : SP_F32);
        put_u64(b, t->at);
    }
}

static void narrow(uint16_t *out, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        union { float f; uint32_t u; } v = {x[i]};
        out[i] = (uint16_t)((v.u + 0x7fff + (v.u >> 16 & 1)) >> 16);
    }
}

static void put_data(char *at, const writer *w)
{
    for (size_t i = 0; i < w->n_item; i++) {
        const item *t = &w->items[i];
        if (t->is_matrix)
            narrow((uint16_t *)(void *)(at + t->at), t->data, t->rows * t->cols);
        else
            memcpy(at + t->at, t->data, item_bytes(t));
    }
}

static sp_err write_all(sp_folder *out, writer *w)
{
    sp_buf head = {0};
    sp_buf_puts(&head, "GGUF");
    put_u32(&head, 3);
    put_u64(&head, w->n_item);
    put_u64(&head, w->n_key);
    sp_buf_put(&head, sp_buf_str(&w->keys), w->keys.len);
    put_tensor_table(&head, w);
    size_t begin = (head.len + ALIGN - 1) / ALIGN * ALIGN;
    char *p = head.failed || w->keys.failed ? NULL : sp_mem_align(begin + w->data_bytes);
    if (p) {
        memcpy(p, head.p, head.len);
        put_data(p + begin, w);
        *out = (sp_folder){p, begin + w->data_bytes, begin + w->matrices_at};
    }
    sp_buf_fini(&head);
    return p ? SP_OK : SP_FAIL(w->d, SP_NOMEM, "encoder");
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
    SP_TRY(list_items(w));
    place_items(w);
    SP_TRY(put_keys(w, vocab));
    return write_all(out, w);
}

sp_err sp_folder_read(sp_folder *out, const char *folder, sp_diag *d)
{
    writer w = {.d = d};
    sp_buf vocab = {0};
    sp_err err = read_all(out, &w, folder, &vocab);
    sp_buf_fini(&vocab);
    sp_buf_fini(&w.keys);
    sp_mem_free(w.items);
    sp_safe_close(w.file);
    return err;
}
