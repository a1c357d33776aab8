/* What every kind of tokenizer shares: the vocabulary, special tokens and decoding.
 * Token texts are turned into raw bytes once, at open. */
#include "text/tokenizer.h"

#include "base/mem.h"
#include "text/tok_int.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_VOCAB = 1 << 22 };
#define GUARD '\xff'

static const sp_tok_kind *const KINDS[] = {&sp_tok_kind_bpe};

sp_err sp_ids_push(sp_ids *ids, uint32_t id)
{
    if (ids->most && ids->n >= ids->most)
        return SP_LIMIT;
    if (ids->n == ids->cap) {
        size_t cap = ids->cap ? ids->cap * 2 : 64;
        uint32_t *p = sp_mem_grow(ids->id, cap * sizeof *p);
        if (!p)
            return SP_NOMEM;
        ids->id = p;
        ids->cap = cap;
    }
    ids->id[ids->n++] = id;
    return SP_OK;
}

sp_err sp_ids_add(sp_ids *ids, const uint32_t *id, size_t n)
{
    for (size_t i = 0; i < n; i++)
        SP_TRY(sp_ids_push(ids, id[i]));
    return SP_OK;
}

void sp_ids_fini(sp_ids *ids)
{
    sp_mem_free(ids->id);
    *ids = (sp_ids){0};
}

static sp_err load_pieces(sp_tok *t, const sp_gguf *g, sp_diag *d)
{
    const sp_str *text;
    const void *types;
    size_t n_type, total = 0;
    sp_err err = sp_gguf_strs(&text, &t->n_vocab, g, "tokenizer.ggml.tokens", d);
    if (err == SP_NOTFOUND)
        return SP_FAIL(d, SP_FORMAT, "gguf: key tokenizer.ggml.tokens is missing");
    SP_TRY(err);
    if (t->n_vocab == 0 || t->n_vocab > MAX_VOCAB)
        return SP_FAIL(d, SP_FORMAT, "gguf: tokenizer.ggml.tokens has %zu entries", t->n_vocab);
    err = sp_gguf_i32s(&types, &n_type, g, "tokenizer.ggml.token_type", d);
    if (err == SP_NOTFOUND)
        types = NULL;
    else
        SP_TRY(err);
    if (types && n_type != t->n_vocab)
        return SP_FAIL(d, SP_FORMAT, "gguf: tokenizer.ggml.token_type has %zu entries for %zu tokens",
                       n_type, t->n_vocab);
    for (size_t i = 0; i < t->n_vocab; i++) {
        if (text[i].n > SP_TOK_MAX_BYTES)
            return SP_FAIL(d, SP_LIMIT, "gguf: token %zu is %zu bytes long", i, text[i].n);
        total += text[i].n;
    }
    t->text = text;
    t->piece = sp_mem_array(t->n_vocab, sizeof *t->piece);
    t->type = sp_mem_alloc(t->n_vocab);
    t->is_end = sp_mem_alloc(t->n_vocab);
    t->bytes = sp_mem_alloc(total);
    if (!t->piece || !t->type || !t->is_end || !t->bytes)
        return SP_FAIL(d, SP_NOMEM, "tokenizer");
    SP_TRY(sp_map_init(&t->by_piece, t->n_vocab));
    char *at = t->bytes;
    for (size_t i = 0; i < t->n_vocab; i++) {
        int32_t type = SP_TOK_NORMAL;
        if (types)
            memcpy(&type, (const char *)types + 4 * i, 4);
        if (type < SP_TOK_NORMAL || type > SP_TOK_BYTE)
            return SP_FAIL(d, SP_FORMAT, "gguf: tokenizer.ggml.token_type[%zu] is %d", i, type);
        t->type[i] = (uint8_t)type;
        size_t n;
        bool ordinary = type == SP_TOK_NORMAL || type == SP_TOK_UNUSED || type == SP_TOK_BYTE;
        bool spelled = t->kind->spell(t, at, &n, text[i], t->type[i]);
        t->piece[i] = spelled ? (sp_str){at, n} : text[i];
        at += spelled ? n : 0;
        if (ordinary && t->piece[i].n)
            SP_TRY(sp_map_set(&t->by_piece, t->piece[i].p, t->piece[i].n, (uint32_t)i));
    }
    return SP_OK;
}

static int longer_first(const void *x, const void *y, void *arg)
{
    const sp_tok *t = arg;
    size_t a = t->piece[*(const uint32_t *)x].n, b = t->piece[*(const uint32_t *)y].n;
    return a < b ? 1 : a > b ? -1 : 0;
}

static sp_err load_special(sp_tok *t)
{
    static const char *const ends[] = {"<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<|endoftext|>",
                                       "</s>", "<|end|>", "<end_of_turn>", "<|eom_id|>"};
    t->special = sp_mem_array(t->n_vocab, sizeof *t->special);
    if (!t->special)
        return SP_NOMEM;
    for (uint32_t i = 0; i < t->n_vocab; i++) {
        if ((t->type[i] != SP_TOK_CONTROL && t->type[i] != SP_TOK_USER && t->type[i] != SP_TOK_UNKNOWN) || !t->piece[i].n)
            continue;
        t->special[t->n_special++] = i;
        t->starts_special[(unsigned char)t->piece[i].p[0]] = true;
        for (size_t j = 0; j < sizeof ends / sizeof ends[0]; j++)
            if (t->piece[i].n == strlen(ends[j]) && memcmp(t->piece[i].p, ends[j], t->piece[i].n) == 0)
                t->is_end[i] = true;
    }
    qsort_r(t->special, t->n_special, sizeof *t->special, longer_first, t);
    return SP_OK;
}

static sp_err load_id(uint32_t *out, const sp_tok *t, const sp_gguf *g, const char *key, sp_diag *d)
{
    uint64_t v;
    sp_err err = sp_gguf_u64(&v, g, key, 0, t->n_vocab - 1, d);
    *out = err == SP_OK ? (uint32_t)v : SP_TOK_NONE;
    return err == SP_NOTFOUND ? SP_OK : err;
}

static sp_err find_kind(sp_tok *t, const sp_gguf *g, sp_diag *d)
{
    sp_str model;
    sp_err err = sp_gguf_str(&model, g, "tokenizer.ggml.model", d);
    if (err == SP_NOTFOUND)
        return SP_FAIL(d, SP_FORMAT, "gguf: key tokenizer.ggml.model is missing");
    SP_TRY(err);
    for (size_t i = 0; i < sizeof KINDS / sizeof KINDS[0]; i++) {
        if (strlen(KINDS[i]->model) == model.n && memcmp(KINDS[i]->model, model.p, model.n) == 0) {
            t->kind = KINDS[i];
            return SP_OK;
        }
    }
    return SP_FAIL(d, SP_UNSUP, "gguf: tokenizer model %.*s is not supported (gpt2 is)",
                   model.n < 40 ? (int)model.n : 40, model.p);
}

static sp_err load(sp_tok *t, const sp_gguf *g, sp_diag *d)
{
    SP_TRY(find_kind(t, g, d));
    SP_TRY(t->kind->begin(t, g, d));
    SP_TRY(load_pieces(t, g, d));
    if (load_special(t) != SP_OK)
        return SP_FAIL(d, SP_NOMEM, "tokenizer");
    uint32_t eot;
    SP_TRY(load_id(&t->bos, t, g, "tokenizer.ggml.bos_token_id", d));
    SP_TRY(load_id(&t->eos, t, g, "tokenizer.ggml.eos_token_id", d));
    SP_TRY(load_id(&t->unk, t, g, "tokenizer.ggml.unknown_token_id", d));
    SP_TRY(load_id(&eot, t, g, "tokenizer.ggml.eot_token_id", d));
    if (t->eos != SP_TOK_NONE)
        t->is_end[t->eos] = true;
    if (eot != SP_TOK_NONE)
        t->is_end[eot] = true;
    SP_TRY(t->kind->load(t, g, d));
    sp_err err = sp_gguf_bool(&t->add_bos, g, "tokenizer.ggml.add_bos_token", d);
    if (err != SP_OK && err != SP_NOTFOUND)
        return err;
    t->add_bos = t->add_bos && t->bos != SP_TOK_NONE;
    return SP_OK;
}

sp_err sp_tok_open(sp_tok **out, const sp_gguf *g, sp_diag *d)
{
    sp_tok *t = sp_mem_alloc(sizeof *t);
    if (!t)
        return SP_FAIL(d, SP_NOMEM, "tokenizer");
    sp_err err = load(t, g, d);
    if (err == SP_OK)
        *out = t;
    else
        sp_tok_close(t);
    return err;
}

void sp_tok_close(sp_tok *t)
{
    if (!t)
        return;
    sp_map_fini(&t->by_piece);
    if (t->kind)
        t->kind->fini(t);
    sp_mem_free(t->piece);
    sp_mem_free(t->type);
    sp_mem_free(t->bytes);
    sp_mem_free(t->special);
    sp_mem_free(t->is_end);
    sp_mem_free(t);
}

/* The special token at s, or NONE. User-defined tokens are always taken, control ones on request. */
static uint32_t special_at(const sp_tok *t, const char *s, size_t n, bool control)
{
    if (!t->starts_special[(unsigned char)s[0]])
        return SP_TOK_NONE;
    for (size_t i = 0; i < t->n_special; i++) {
        sp_str p = t->piece[t->special[i]];
        if ((control || t->type[t->special[i]] == SP_TOK_USER) && p.n <= n && memcmp(p.p, s, p.n) == 0)
            return t->special[i];
    }
    return SP_TOK_NONE;
}

void sp_tok_guard(const sp_tok *t, sp_buf *out, const char *text, size_t n)
{
    size_t start = 0;
    for (size_t i = 0; i < n; i++) {
        if (special_at(t, text + i, n - i, true) == SP_TOK_NONE)
            continue;
        sp_buf_put(out, text + start, i + 1 - start);
        sp_buf_putc(out, GUARD);
        start = i + 1;
    }
    sp_buf_put(out, text + start, n - start);
}

/* A stretch without special tokens; guard marks are taken out first. */
static sp_err encode_stretch(const sp_tok *t, sp_tok_work *w, sp_ids *out, const char *s, size_t n,
                             sp_special special, sp_diag *d)
{
    if (special != SP_SPECIAL_GUARDED || !memchr(s, GUARD, n))
        return t->kind->encode(t, w, out, s, n, d);
    sp_buf clean = {0};
    for (size_t i = 0; i < n; i++)
        if (s[i] != GUARD)
            sp_buf_putc(&clean, s[i]);
    sp_err err = clean.failed ? SP_FAIL(d, SP_NOMEM, "tokenizing")
                              : t->kind->encode(t, w, out, sp_buf_str(&clean), clean.len, d);
    sp_buf_fini(&clean);
    return err;
}

sp_err sp_tok_encode(const sp_tok *t, sp_ids *out, const char *text, size_t n, sp_special special,
                     sp_diag *d)
{
    sp_tok_work w = {0};
    size_t start = 0, i = 0;
    sp_err err = SP_OK;
    while (i < n && err == SP_OK) {
        uint32_t id = special_at(t, text + i, n - i, special != SP_SPECIAL_NONE);
        if (id == SP_TOK_NONE) {
            i++;
            continue;
        }
        err = encode_stretch(t, &w, out, text + start, i - start, special, d);
        if (err == SP_OK && (err = sp_ids_push(out, id)) != SP_OK)
            err = SP_FAIL(d, err, "tokenizing");
        start = i += t->piece[id].n;
    }
    if (err == SP_OK)
        err = encode_stretch(t, &w, out, text + start, n - start, special, d);
    sp_bpe_work_fini(&w.bpe);
    return err;
}

sp_str sp_tok_piece(const sp_tok *t, uint32_t id)
{
    return id < t->n_vocab ? t->piece[id] : (sp_str){"", 0};
}

void sp_tok_decode(const sp_tok *t, sp_buf *out, uint32_t id, bool special)
{
    if (id < t->n_vocab && (special || !sp_tok_is_control(t, id)))
        sp_buf_put(out, t->piece[id].p, t->piece[id].n);
}

size_t sp_tok_count(const sp_tok *t)
{
    return t->n_vocab;
}

bool sp_tok_is_control(const sp_tok *t, uint32_t id)
{
    return t->type[id] == SP_TOK_CONTROL || t->type[id] == SP_TOK_UNKNOWN;
}

bool sp_tok_is_end(const sp_tok *t, uint32_t id)
{
    return t->is_end[id];
}

uint32_t sp_tok_bos(const sp_tok *t)
{
    return t->bos;
}

uint32_t sp_tok_eos(const sp_tok *t)
{
    return t->eos;
}

bool sp_tok_adds_bos(const sp_tok *t)
{
    return t->add_bos;
}
