/* Vocabulary, special tokens and decoding; the merging itself is in bpe.c.
 * Token texts are turned from GPT-2's byte alphabet into raw bytes once, at open. */
#include "text/tokenizer.h"

#include "base/map.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "text/bpe.h"
#include "text/pretok.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_VOCAB = 1 << 22, MAX_TOKEN_BYTES = 1 << 16 };
#define GUARD '\xff'

enum { TYPE_NORMAL = 1, TYPE_UNKNOWN, TYPE_CONTROL, TYPE_USER, TYPE_UNUSED, TYPE_BYTE };

struct sp_tok {
    size_t n_vocab;
    sp_str *piece;       /* [n_vocab] raw bytes, into `bytes` or the GGUF */
    uint8_t *type;       /* [n_vocab] */
    char *bytes;
    sp_map by_piece;     /* ordinary tokens only */
    sp_bpe bpe;
    sp_pretok pretok;
    bool whole_words;    /* a word that is a token is taken as it is (llama3) */
    uint32_t *special;   /* control and user-defined ids, longest text first */
    size_t n_special;
    bool starts_special[256];
    uint32_t bos, eos, unk;
    bool add_bos;
    bool *is_end;        /* [n_vocab] */
};

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

/* GPT-2's alphabet: printable Latin-1 stands for itself, other bytes for U+0100 and up. */
static void byte_alphabet(int16_t from_cp[512])
{
    int next = 256;
    for (int i = 0; i < 512; i++)
        from_cp[i] = -1;
    for (int b = 0; b < 256; b++) {
        bool plain = (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
        from_cp[plain ? b : next++] = (int16_t)b;
    }
}

/* Raw bytes of a token text; false if a character is outside the alphabet. */
static bool unmap(char *out, size_t *n_out, sp_str s, const int16_t from_cp[512])
{
    size_t n = 0;
    for (size_t i = 0; i < s.n;) {
        uint32_t cp;
        size_t step = sp_utf8_decode(&cp, s.p + i, s.n - i);
        if (!step || cp >= 512 || from_cp[cp] < 0)
            return false;
        out[n++] = (char)from_cp[cp];
        i += step;
    }
    *n_out = n;
    return true;
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
        if (text[i].n > MAX_TOKEN_BYTES)
            return SP_FAIL(d, SP_LIMIT, "gguf: token %zu is %zu bytes long", i, text[i].n);
        total += text[i].n;
    }
    t->piece = sp_mem_array(t->n_vocab, sizeof *t->piece);
    t->type = sp_mem_alloc(t->n_vocab);
    t->is_end = sp_mem_alloc(t->n_vocab);
    t->bytes = sp_mem_alloc(total);
    if (!t->piece || !t->type || !t->is_end || !t->bytes)
        return SP_FAIL(d, SP_NOMEM, "tokenizer");
    SP_TRY(sp_map_init(&t->by_piece, t->n_vocab));
    int16_t from_cp[512];
    byte_alphabet(from_cp);
    char *at = t->bytes;
    for (size_t i = 0; i < t->n_vocab; i++) {
        int32_t type = TYPE_NORMAL;
        if (types)
            memcpy(&type, (const char *)types + 4 * i, 4);
        if (type < TYPE_NORMAL || type > TYPE_BYTE)
            return SP_FAIL(d, SP_FORMAT, "gguf: tokenizer.ggml.token_type[%zu] is %d", i, type);
        t->type[i] = (uint8_t)type;
        size_t n;
        bool ordinary = type == TYPE_NORMAL || type == TYPE_UNUSED || type == TYPE_BYTE;
        if (ordinary && unmap(at, &n, text[i], from_cp)) {
            t->piece[i] = (sp_str){at, n};
            at += n;
        } else {
            t->piece[i] = text[i];
        }
        if (ordinary && t->piece[i].n)
            SP_TRY(sp_map_set(&t->by_piece, t->piece[i].p, t->piece[i].n, (uint32_t)i));
    }
    return SP_OK;
}

static sp_err load_merges(sp_tok *t, const sp_gguf *g, sp_diag *d)
{
    const sp_str *merge;
    size_t n;
    sp_err err = sp_gguf_strs(&merge, &n, g, "tokenizer.ggml.merges", d);
    if (err == SP_NOTFOUND)
        return SP_FAIL(d, SP_FORMAT, "gguf: key tokenizer.ggml.merges is missing");
    SP_TRY(err);
    SP_TRY(sp_bpe_init(&t->bpe, n));
    int16_t from_cp[512];
    byte_alphabet(from_cp);
    for (size_t i = 0; i < n; i++) {
        const char *gap = merge[i].n > 1 ? memchr(merge[i].p + 1, ' ', merge[i].n - 1) : NULL;
        if (!gap || merge[i].n > 2 * MAX_TOKEN_BYTES)
            return SP_FAIL(d, SP_FORMAT, "gguf: tokenizer.ggml.merges[%zu] is not two tokens", i);
        char *raw = sp_mem_alloc(merge[i].n);
        if (!raw)
            return SP_FAIL(d, SP_NOMEM, "tokenizer");
        size_t na = 0, nb = 0;
        uint32_t a, b, c;
        sp_str left = {merge[i].p, (size_t)(gap - merge[i].p)}, right = {gap + 1, merge[i].n - left.n - 1};
        bool ok = unmap(raw, &na, left, from_cp) && unmap(raw + na, &nb, right, from_cp) &&
                  sp_map_find(&t->by_piece, raw, na, &a) && sp_map_find(&t->by_piece, raw + na, nb, &b) &&
                  sp_map_find(&t->by_piece, raw, na + nb, &c);
        sp_mem_free(raw);
        if (!ok)
            return SP_FAIL(d, SP_FORMAT, "gguf: tokenizer.ggml.merges[%zu] names a token that is not in the vocabulary", i);
        SP_TRY(sp_bpe_add(&t->bpe, a, b, c));
    }
    for (int b = 0; b < 256; b++) {
        char c = (char)b;
        if (!sp_map_find(&t->by_piece, &c, 1, &t->bpe.byte_id[b]))
            t->bpe.byte_id[b] = SP_TOK_NONE;
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
        if ((t->type[i] != TYPE_CONTROL && t->type[i] != TYPE_USER && t->type[i] != TYPE_UNKNOWN) || !t->piece[i].n)
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

static sp_err load(sp_tok *t, const sp_gguf *g, sp_diag *d)
{
    sp_str model, pre;
    sp_err err = sp_gguf_str(&model, g, "tokenizer.ggml.model", d);
    if (err == SP_NOTFOUND)
        return SP_FAIL(d, SP_FORMAT, "gguf: key tokenizer.ggml.model is missing");
    SP_TRY(err);
    if (model.n != 4 || memcmp(model.p, "gpt2", 4) != 0)
        return SP_FAIL(d, SP_UNSUP, "gguf: tokenizer model %.*s is not supported (gpt2 is)",
                       model.n < 40 ? (int)model.n : 40, model.p);
    err = sp_gguf_str(&pre, g, "tokenizer.ggml.pre", d);
    if (err == SP_NOTFOUND)
        return SP_FAIL(d, SP_UNSUP, "gguf: key tokenizer.ggml.pre is missing, so the pre-tokenizer is unknown");
    SP_TRY(err);
    t->pretok = sp_pretok_find(pre.p, pre.n);
    if (t->pretok == SP_PRETOK_KINDS)
        return SP_FAIL(d, SP_UNSUP, "gguf: pre-tokenizer %.*s is not supported (gpt-2, smollm, llama-bpe are)",
                       pre.n < 40 ? (int)pre.n : 40, pre.p);
    t->whole_words = t->add_bos = t->pretok == SP_PRETOK_LLAMA3;
    SP_TRY(load_pieces(t, g, d));
    SP_TRY(load_merges(t, g, d));
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
    err = sp_gguf_bool(&t->add_bos, g, "tokenizer.ggml.add_bos_token", d);
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
    sp_bpe_fini(&t->bpe);
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
        if ((control || t->type[t->special[i]] == TYPE_USER) && p.n <= n && memcmp(p.p, s, p.n) == 0)
            return t->special[i];
    }
    return SP_TOK_NONE;
}

static sp_err encode_plain(const sp_tok *t, sp_bpe_work *w, sp_ids *out, const char *s, size_t n, sp_diag *d)
{
    while (n) {
        size_t len = sp_pretok_word(t->pretok, s, n), first = out->n;
        uint32_t whole;
        sp_err err;
        if (t->whole_words && sp_map_find(&t->by_piece, s, len, &whole))
            err = sp_ids_push(out, whole);
        else
            err = sp_bpe_word(&t->bpe, w, out, s, len);
        if (err != SP_OK)
            return SP_FAIL(d, err, "tokenizing a word of %zu bytes", len);
        for (size_t i = first; i < out->n; i++) {
            if (out->id[i] != SP_TOK_NONE)
                continue;
            if (t->unk == SP_TOK_NONE)
                return SP_FAIL(d, SP_INVAL, "the vocabulary has no token for a byte of the text");
            out->id[i] = t->unk;
        }
        s += len;
        n -= len;
    }
    return SP_OK;
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
static sp_err encode_stretch(const sp_tok *t, sp_bpe_work *w, sp_ids *out, const char *s, size_t n,
                             sp_special special, sp_diag *d)
{
    if (special != SP_SPECIAL_GUARDED || !memchr(s, GUARD, n))
        return encode_plain(t, w, out, s, n, d);
    sp_buf clean = {0};
    for (size_t i = 0; i < n; i++)
        if (s[i] != GUARD)
            sp_buf_putc(&clean, s[i]);
    sp_err err = clean.failed ? SP_FAIL(d, SP_NOMEM, "tokenizing")
                              : encode_plain(t, w, out, sp_buf_str(&clean), clean.len, d);
    sp_buf_fini(&clean);
    return err;
}

sp_err sp_tok_encode(const sp_tok *t, sp_ids *out, const char *text, size_t n, sp_special special,
                     sp_diag *d)
{
    sp_bpe_work w = {0};
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
    sp_bpe_work_fini(&w);
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
    return t->type[id] == TYPE_CONTROL || t->type[id] == TYPE_UNKNOWN;
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
