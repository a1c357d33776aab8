/* Byte-level BPE: words of a pre-tokenizer, merged from bytes. The token texts of the file are
 * written in GPT-2's byte alphabet. */
#include "base/mem.h"
#include "base/utf8.h"
#include "text/tok_int.h"

#include <string.h>

typedef struct own {
    sp_bpe bpe;
    sp_pretok pretok;
    bool whole_words;       /* a word that is a token is taken as it is (llama3) */
    int16_t from_cp[512];   /* GPT-2's alphabet: byte of a code point, or -1 */
} own;

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

static sp_err begin(sp_tok *t, const sp_gguf *g, sp_diag *d)
{
    sp_str pre;
    sp_err err = sp_gguf_str(&pre, g, "tokenizer.ggml.pre", d);
    if (err == SP_NOTFOUND)
        return SP_FAIL(d, SP_UNSUP, "gguf: key tokenizer.ggml.pre is missing, so the pre-tokenizer is unknown");
    SP_TRY(err);
    own *o = t->own = sp_mem_alloc(sizeof *o);
    if (!o)
        return SP_FAIL(d, SP_NOMEM, "tokenizer");
    byte_alphabet(o->from_cp);
    o->pretok = sp_pretok_find(pre.p, pre.n);
    if (o->pretok == SP_PRETOK_KINDS)
        return SP_FAIL(d, SP_UNSUP, "gguf: pre-tokenizer %.*s is not supported (gpt-2, smollm, llama-bpe are)",
                       pre.n < 40 ? (int)pre.n : 40, pre.p);
    o->whole_words = t->add_bos = o->pretok == SP_PRETOK_LLAMA3;
    return SP_OK;
}

static bool spell(const sp_tok *t, char *out, size_t *n_out, sp_str text, uint8_t type)
{
    const own *o = t->own;
    bool ordinary = type == SP_TOK_NORMAL || type == SP_TOK_UNUSED || type == SP_TOK_BYTE;
    return ordinary && unmap(out, n_out, text, o->from_cp);
}

/* Ids of a merge's two sides and of their union. */
static bool find_merge(const sp_tok *t, char *raw, sp_str merge, size_t n_left, uint32_t id[3])
{
    const own *o = t->own;
    size_t na = 0, nb = 0;
    sp_str left = {merge.p, n_left}, right = {merge.p + n_left + 1, merge.n - n_left - 1};
    return unmap(raw, &na, left, o->from_cp) && unmap(raw + na, &nb, right, o->from_cp) &&
           sp_map_find(&t->by_piece, raw, na, &id[0]) && sp_map_find(&t->by_piece, raw + na, nb, &id[1]) &&
           sp_map_find(&t->by_piece, raw, na + nb, &id[2]);
}

static sp_err load(sp_tok *t, const sp_gguf *g, sp_diag *d)
{
    own *o = t->own;
    const sp_str *merge;
    size_t n;
    sp_err err = sp_gguf_strs(&merge, &n, g, "tokenizer.ggml.merges", d);
    if (err == SP_NOTFOUND)
        return SP_FAIL(d, SP_FORMAT, "gguf: key tokenizer.ggml.merges is missing");
    SP_TRY(err);
    SP_TRY(sp_bpe_init(&o->bpe, n));
    for (size_t i = 0; i < n; i++) {
        const char *gap = merge[i].n > 1 ? memchr(merge[i].p + 1, ' ', merge[i].n - 1) : NULL;
        if (!gap || merge[i].n > 2 * SP_TOK_MAX_BYTES)
            return SP_FAIL(d, SP_FORMAT, "gguf: tokenizer.ggml.merges[%zu] is not two tokens", i);
        char *raw = sp_mem_alloc(merge[i].n);
        if (!raw)
            return SP_FAIL(d, SP_NOMEM, "tokenizer");
        uint32_t id[3];
        bool ok = find_merge(t, raw, merge[i], (size_t)(gap - merge[i].p), id);
        sp_mem_free(raw);
        if (!ok)
            return SP_FAIL(d, SP_FORMAT, "gguf: tokenizer.ggml.merges[%zu] names a token that is not in the vocabulary", i);
        SP_TRY(sp_bpe_add(&o->bpe, id[0], id[1], id[2]));
    }
    for (int b = 0; b < 256; b++) {
        char c = (char)b;
        if (!sp_map_find(&t->by_piece, &c, 1, &o->bpe.byte_id[b]))
            o->bpe.byte_id[b] = SP_TOK_NONE;
    }
    return SP_OK;
}

static sp_err encode(const sp_tok *t, sp_tok_work *w, sp_ids *out, const char *s, size_t n, sp_diag *d)
{
    const own *o = t->own;
    while (n) {
        size_t len = sp_pretok_word(o->pretok, s, n), first = out->n;
        uint32_t whole;
        sp_err err;
        if (o->whole_words && sp_map_find(&t->by_piece, s, len, &whole))
            err = sp_ids_push(out, whole);
        else
            err = sp_bpe_word(&o->bpe, &w->bpe, out, s, len);
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

static void fini(sp_tok *t)
{
    own *o = t->own;
    if (!o)
        return;
    sp_bpe_fini(&o->bpe);
    sp_mem_free(o);
}

const sp_tok_kind sp_tok_kind_bpe = {.model = "gpt2", .begin = begin, .spell = spell, .load = load, .encode = encode, .fini = fini};
