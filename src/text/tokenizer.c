/* What every kind of tokenizer shares: the vocabulary, special tokens and decoding.
 * Token texts are turned into raw bytes once, at open. */
#include "text/tokenizer.h"

#include "base/mem.h"
#include "text/tok_int.h"

#include <string.h>

enum { MAX_VOCAB = 1 << 22 };

static const sp_tok_kind *const KINDS[] = {&sp_tok_kind_bpe, &sp_tok_kind_raw, &sp_tok_kind_spm,
                                           &sp_tok_kind_unigram, &sp_tok_kind_wordpiece};

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

sp_err sp_tok_read_flag(bool *out, const sp_gguf *g, const char *key, sp_diag *d)
{
    sp_err err = sp_gguf_bool(out, g, key, d);
    return err == SP_NOTFOUND ? SP_OK : err;
}

/* Texts of all tokens; *n_bytes is their length together. */
static sp_err read_texts(sp_tok *t, size_t *n_bytes, const sp_gguf *g, sp_diag *d)
{
    size_t total = 0;
    sp_err err = sp_gguf_strs(&t->text, &t->n_vocab, g, "tokenizer.ggml.tokens", d);
    if (err == SP_NOTFOUND)
        return SP_FAIL(d, SP_FORMAT, "gguf: key tokenizer.ggml.tokens is missing");
    SP_TRY(err);
    if (t->n_vocab == 0 || t->n_vocab > MAX_VOCAB)
        return SP_FAIL(d, SP_FORMAT, "gguf: tokenizer.ggml.tokens has %zu entries", t->n_vocab);
    for (size_t i = 0; i < t->n_vocab; i++) {
        if (t->text[i].n > SP_TOK_MAX_BYTES)
            return SP_FAIL(d, SP_LIMIT, "gguf: token %zu is %zu bytes long", i, t->text[i].n);
        total += t->text[i].n;
    }
    *n_bytes = total;
    return SP_OK;
}

static sp_err read_types(sp_tok *t, const sp_gguf *g, sp_diag *d)
{
    const void *types = NULL;
    size_t n = 0;
    sp_err err = sp_gguf_i32s(&types, &n, g, "tokenizer.ggml.token_type", d);
    if (err != SP_OK && err != SP_NOTFOUND)
        return err;
    if (err == SP_OK && n != t->n_vocab)
        return SP_FAIL(d, SP_FORMAT,
                       "gguf: tokenizer.ggml.token_type has %zu entries for %zu tokens", n,
                       t->n_vocab);
    for (size_t i = 0; i < t->n_vocab; i++) {
        int32_t type = SP_TOK_NORMAL;
        if (err == SP_OK)
            memcpy(&type, (const char *)types + 4 * i, 4);
        if (type < SP_TOK_NORMAL || type > SP_TOK_BYTE)
            return SP_FAIL(d, SP_FORMAT, "gguf: tokenizer.ggml.token_type[%zu] is %d", i, type);
        t->type[i] = (uint8_t)type;
    }
    return SP_OK;
}

static sp_err spell_pieces(sp_tok *t)
{
    char *at = t->bytes;
    SP_TRY(sp_map_init(&t->by_piece, t->n_vocab));
    for (size_t i = 0; i < t->n_vocab; i++) {
        size_t n;
        bool spelled = t->kind->spell(t, at, &n, t->text[i], t->type[i]);
        t->piece[i] = spelled ? (sp_str){at, n} : t->text[i];
        at += spelled ? n : 0;
        sp_str key = t->kind->by_text ? t->text[i] : t->piece[i];
        if (key.n && (1u << t->type[i] & t->kind->takes))
            SP_TRY(sp_map_set(&t->by_piece, key.p, key.n, (uint32_t)i));
    }
    return SP_OK;
}

static sp_err collect_special(sp_tok *t)
{
    sp_trie_key *key = sp_mem_array(t->n_vocab, sizeof *key);
    size_t n = 0;
    if (!key)
        return SP_NOMEM;
    for (uint32_t i = 0; i < t->n_vocab; i++)
        if (t->type[i] == SP_TOK_CONTROL || t->type[i] == SP_TOK_USER ||
            t->type[i] == SP_TOK_UNKNOWN)
            key[n++] = (sp_trie_key){t->text[i], i};
    sp_err err = sp_trie_init(&t->special, key, n);
    sp_mem_free(key);
    return err;
}

static sp_err load_vocab(sp_tok *t, const sp_gguf *g, sp_diag *d)
{
    size_t n_bytes;
    SP_TRY(read_texts(t, &n_bytes, g, d));
    t->piece = sp_mem_array(t->n_vocab, sizeof *t->piece);
    t->type = sp_mem_alloc(t->n_vocab);
    t->strip = sp_mem_alloc(t->n_vocab);
    t->is_end = sp_mem_alloc(t->n_vocab);
    t->bytes = sp_mem_alloc(n_bytes);
    if (!t->piece || !t->type || !t->strip || !t->is_end || !t->bytes)
        return SP_FAIL(d, SP_NOMEM, "tokenizer");
    SP_TRY(read_types(t, g, d));
    SP_TRY(sp_tok_read_roles(t, g, d));
    SP_TRY(sp_tok_read_strips(t, g, d));
    sp_err err = spell_pieces(t);
    if (err == SP_OK)
        err = collect_special(t);
    return err == SP_OK ? SP_OK : SP_FAIL(d, err, "tokenizer");
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
    return SP_FAIL(
        d, SP_UNSUP,
        "gguf: tokenizer model %.*s is not supported (gpt2, gemma4, llama, t5 and bert are)",
        model.n < 40 ? (int)model.n : 40, model.p);
}

static sp_err load(sp_tok *t, const sp_gguf *g, sp_diag *d)
{
    t->bos = t->eos = t->unk = t->sep = SP_TOK_NONE;
    SP_TRY(find_kind(t, g, d));
    SP_TRY(t->kind->begin(t, g, d));
    SP_TRY(load_vocab(t, g, d));
    SP_TRY(t->kind->load(t, g, d));
    SP_TRY(sp_tok_read_flag(&t->add_bos, g, "tokenizer.ggml.add_bos_token", d));
    SP_TRY(sp_tok_read_flag(&t->add_eos, g, "tokenizer.ggml.add_eos_token", d));
    SP_TRY(sp_tok_read_flag(&t->add_sep, g, "tokenizer.ggml.add_sep_token", d));
    t->add_bos = (t->add_bos || t->force_bos) && t->bos != SP_TOK_NONE;
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
    if (t->kind)
        t->kind->fini(t);
    sp_map_fini(&t->by_piece);
    sp_trie_fini(&t->special);
    sp_mem_free(t->piece);
    sp_mem_free(t->type);
    sp_mem_free(t->strip);
    sp_mem_free(t->bytes);
    sp_mem_free(t->is_end);
    sp_mem_free(t);
}

static void fini_work(sp_tok_work *w)
{
    sp_bpe_work_fini(&w->bpe);
    sp_merge_fini(&w->merge);
    sp_buf_fini(&w->text);
    sp_mem_free(w->best);
}

/* One text on its way into ids. */
typedef struct job {
    const sp_tok *t;
    const char *s;
    size_t n;
    sp_special special;
    const sp_tok_range *foreign; /* ranges that end behind the place looked at */
    size_t n_foreign;
    sp_tok_work work;
    sp_ids *out;
    sp_diag *d;
} job;

/* The special token at `at`, as far as foreign text lets one be. */
static uint32_t special_at(job *j, size_t at)
{
    while (j->n_foreign && (j->foreign->end <= at || j->foreign->at == j->foreign->end)) {
        j->foreign++;
        j->n_foreign--;
    }
    size_t limit = j->n_foreign ? j->foreign->at : j->n;
    return sp_tok_special_at(j->t, j->s, at, j->n, j->special != SP_SPECIAL_NONE, limit);
}

static bool is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* A stretch without special tokens. */
static sp_err encode_stretch(job *j, size_t at, size_t end, bool first)
{
    return end > at ? j->t->kind->encode(j->t, &j->work, j->out, j->s + at, end - at, first, j->d)
                    : SP_OK;
}

static sp_err encode_text(job *j)
{
    size_t start = 0;
    bool first = true;
    for (size_t i = 0; i < j->n;) {
        uint32_t id = special_at(j, i);
        if (id == SP_TOK_NONE) {
            i++;
            continue;
        }
        size_t end = i;
        while ((j->t->strip[id] & SP_TOK_LSTRIP) && end > start && is_blank(j->s[end - 1]))
            end--;
        SP_TRY(encode_stretch(j, start, end, first));
        sp_err err = sp_ids_push(j->out, id);
        if (err != SP_OK)
            return SP_FAIL(j->d, err, "tokenizing");
        i += j->t->text[id].n;
        while ((j->t->strip[id] & SP_TOK_RSTRIP) && i < j->n && is_blank(j->s[i]))
            i++;
        start = i;
        first = true;
    }
    return encode_stretch(j, start, j->n, first);
}

sp_err sp_tok_encode(const sp_tok *t, sp_ids *out, const char *text, size_t n, sp_special special,
                     sp_diag *d)
{
    job j = {.t = t, .s = text, .n = n, .special = special, .out = out, .d = d};
    sp_err err = encode_text(&j);
    fini_work(&j.work);
    return err;
}

sp_err sp_tok_encode_whole(const sp_tok *t, sp_ids *out, size_t cap, const char *text, size_t n,
                           sp_diag *d)
{
    uint32_t end = sp_tok_closing(t);
    sp_err err = t->add_bos ? sp_ids_push(out, t->bos) : SP_OK;
    if (err == SP_OK)
        err = sp_tok_encode(t, out, text, n, SP_SPECIAL_NONE, d);
    if (err == SP_OK && end != SP_TOK_NONE)
        err = sp_ids_push(out, end);
    if (err == SP_OK && cap && out->n > cap) {
        out->id[cap - 1] = end != SP_TOK_NONE ? end : out->id[cap - 1];
        out->n = cap;
    }
    return err;
}

sp_err sp_tok_encode_marked(const sp_tok *t, sp_ids *out, const char *text, size_t n,
                            const sp_tok_range *foreign, size_t n_foreign, sp_diag *d)
{
    for (size_t i = 0; i < n_foreign; i++)
        if (foreign[i].end < foreign[i].at || (i && foreign[i].at < foreign[i - 1].end))
            return SP_FAIL(d, SP_INVAL, "foreign range %zu of a text is out of order", i);
    job j = {.t = t,
             .s = text,
             .n = n,
             .special = SP_SPECIAL_ALL,
             .foreign = foreign,
             .n_foreign = n_foreign,
             .out = out,
             .d = d};
    sp_err err = encode_text(&j);
    fini_work(&j.work);
    return err;
}

void sp_tok_add_eos(sp_tok *t)
{
    t->add_eos = t->eos != SP_TOK_NONE;
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

void sp_tok_decode_after(const sp_tok *t, sp_buf *out, uint32_t prev, uint32_t id, bool special)
{
    bool begins =
        prev == SP_TOK_NONE ||
        (prev < t->n_vocab && (t->type[prev] == SP_TOK_CONTROL || t->type[prev] == SP_TOK_USER));
    size_t before = out->len;
    sp_tok_decode(t, out, id, special);
    if (!t->add_space || !begins || out->failed || id >= t->n_vocab || out->len == before ||
        out->p[before] != ' ' || !(t->type[id] == SP_TOK_NORMAL || t->type[id] == SP_TOK_UNUSED))
        return;
    memmove(out->p + before, out->p + before + 1, out->len - before); /* the NUL too */
    out->len--;
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

uint32_t sp_tok_unknown(const sp_tok *t)
{
    return t->unk;
}

bool sp_tok_adds_bos(const sp_tok *t)
{
    return t->add_bos;
}

uint32_t sp_tok_closing(const sp_tok *t)
{
    return t->add_eos ? t->eos : t->add_sep ? t->sep : SP_TOK_NONE;
}
