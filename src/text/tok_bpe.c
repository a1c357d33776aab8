/* BPE with a list of merges. Two kinds: over bytes (texts in GPT-2's byte alphabet), and over
 * UTF-8 (spaces as U+2581, bytes without a token as <0xNN>; Gemma 4). The pre-tokenizer's row
 * says which. */
#include "base/log.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "text/pretok.h"
#include "text/tok_int.h"

#include <string.h>

typedef struct own {
    sp_bpe bpe;
    const sp_pretok *pretok;
    int16_t from_cp[512];  /* GPT-2's alphabet: byte of a code point, or -1 */
    bool has_gaps;         /* some byte has no token */
    uint32_t byte_id[256]; /* raw kind: <0xNN> */
    sp_pairs pairs;        /* raw kind */
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

static sp_err find_pretok(const sp_pretok **out, const sp_gguf *g, sp_diag *d)
{
    sp_str pre;
    sp_err err = sp_gguf_str(&pre, g, "tokenizer.ggml.pre", d);
    if (err == SP_NOTFOUND) {
        sp_log(SP_LOG_WARN,
               "gguf: key tokenizer.ggml.pre is missing: words are split as old files expect");
        pre = (sp_str){"default", 7};
    } else {
        SP_TRY(err);
    }
    *out = sp_pretok_find(pre.p, pre.n);
    return *out ? SP_OK
                : SP_FAIL(d, SP_UNSUP,
                          "gguf: pre-tokenizer %.*s (tokenizer.ggml.pre) is not supported",
                          pre.n < 40 ? (int)pre.n : 40, pre.p);
}

static sp_err begin_with(sp_tok *t, const sp_pretok *pretok, sp_diag *d)
{
    own *o = t->own = sp_mem_alloc(sizeof *o);
    if (!o)
        return SP_FAIL(d, SP_NOMEM, "tokenizer");
    byte_alphabet(o->from_cp);
    o->pretok = pretok;
    t->add_bos = pretok->flags & SP_PRETOK_ADDS_BOS;
    t->add_sep = pretok->flags & SP_PRETOK_ADDS_SEP;
    t->force_bos = pretok->flags & SP_PRETOK_LINES;
    if (pretok->flags & SP_PRETOK_RAW)
        t->kind = &sp_tok_kind_raw;
    return SP_OK;
}

static sp_err begin(sp_tok *t, const sp_gguf *g, sp_diag *d)
{
    const sp_pretok *pretok;
    SP_TRY(find_pretok(&pretok, g, d));
    return begin_with(t, pretok, d);
}

static sp_err begin_gemma4(sp_tok *t, const sp_gguf *g, sp_diag *d)
{
    (void)g;
    return begin_with(t, sp_pretok_find("gemma4", 6), d);
}

static bool spell(const sp_tok *t, char *out, size_t *n_out, sp_str text, uint8_t type)
{
    const own *o = t->own;
    bool ordinary = type == SP_TOK_NORMAL || type == SP_TOK_UNUSED || type == SP_TOK_BYTE;
    return ordinary && unmap(out, n_out, text, o->from_cp);
}

/* A side of a merge as by_piece spells it. */
static bool side(const sp_tok *t, char *out, size_t *n_out, sp_str s)
{
    const own *o = t->own;
    if (!t->kind->by_text)
        return unmap(out, n_out, s, o->from_cp);
    memcpy(out, s.p, s.n);
    *n_out = s.n;
    return true;
}

/* A special token has this text. */
static bool is_special(const sp_tok *t, const char *p, size_t n)
{
    uint32_t node = n && t->special.node ? 0 : SP_TRIE_NONE;
    for (size_t i = 0; i < n && node != SP_TRIE_NONE; i++)
        node = sp_trie_step(&t->special, node, (unsigned char)p[i]);
    return node != SP_TRIE_NONE && t->special.node[node].id != SP_TRIE_NONE;
}

/* Adds one merge. A merge into or out of a control token is left out: no text becomes one. raw is
 * room for both sides: the caller has one for all merges, for the compiler zeroes variables. */
static sp_err add_merge(sp_tok *t, size_t i, sp_str left, sp_str right,
                        char raw[2 * SP_TOK_MAX_BYTES], sp_diag *d)
{
    own *o = t->own;
    size_t n[2] = {0, 0};
    uint32_t id[3];
    bool spelled = side(t, raw, &n[0], left) && side(t, raw + n[0], &n[1], right), special = false;
    const sp_str part[3] = {{raw, n[0]}, {raw + n[0], n[1]}, {raw, n[0] + n[1]}};
    for (int k = 0; k < 3 && spelled; k++) {
        if (sp_map_find(&t->by_piece, part[k].p, part[k].n, &id[k]))
            continue;
        spelled = is_special(t, part[k].p, part[k].n);
        special = true;
    }
    if (!spelled)
        return SP_FAIL(
            d, SP_FORMAT,
            "gguf: tokenizer.ggml.merges[%zu] names a token that is not in the vocabulary", i);
    if (special) /* keeps the ranks of the others */
        return sp_bpe_add(&o->bpe, SP_TOK_NONE, SP_TOK_NONE, SP_TOK_NONE);
    return sp_bpe_add(&o->bpe, id[0], id[1], id[2]);
}

static sp_err load_merges(sp_tok *t, const sp_gguf *g, sp_diag *d)
{
    own *o = t->own;
    char raw[2 * SP_TOK_MAX_BYTES];
    const sp_str *merge;
    size_t n;
    sp_err err = sp_gguf_strs(&merge, &n, g, "tokenizer.ggml.merges", d);
    if (err == SP_NOTFOUND)
        return SP_FAIL(d, SP_FORMAT, "gguf: key tokenizer.ggml.merges is missing");
    SP_TRY(err);
    SP_TRY(sp_bpe_init(&o->bpe, n));
    for (size_t i = 0; i < n; i++) {
        const char *gap = merge[i].n > 1 ? memchr(merge[i].p + 1, ' ', merge[i].n - 1) : NULL;
        size_t n_left = gap ? (size_t)(gap - merge[i].p) : 0;
        if (!gap || n_left > SP_TOK_MAX_BYTES || merge[i].n - n_left - 1 > SP_TOK_MAX_BYTES)
            return SP_FAIL(d, SP_FORMAT, "gguf: tokenizer.ggml.merges[%zu] is not two tokens", i);
        sp_str left = {merge[i].p, n_left}, right = {gap + 1, merge[i].n - n_left - 1};
        SP_TRY(add_merge(t, i, left, right, raw, d));
    }
    if (o->pretok->flags & SP_PRETOK_NO_BOS)
        t->bos = SP_TOK_NONE;
    return SP_OK;
}

static sp_err load(sp_tok *t, const sp_gguf *g, sp_diag *d)
{
    own *o = t->own;
    SP_TRY(load_merges(t, g, d));
    for (int b = 0; b < 256; b++) {
        char c = (char)b;
        if (!sp_map_find(&t->by_piece, &c, 1, &o->bpe.byte_id[b])) {
            o->bpe.byte_id[b] = SP_TOK_NONE;
            o->has_gaps = true;
        }
    }
    return SP_OK;
}

static sp_err load_raw(sp_tok *t, const sp_gguf *g, sp_diag *d)
{
    own *o = t->own;
    SP_TRY(load_merges(t, g, d));
    sp_tok_byte_ids(o->byte_id, t);
    if (sp_pairs_init(&o->pairs) != SP_OK)
        return SP_FAIL(d, SP_NOMEM, "tokenizer");
    for (size_t i = 0; i < t->n_vocab; i++)
        if (1u << t->type[i] & t->kind->takes)
            sp_pairs_add(&o->pairs, t->text[i]);
    return SP_OK;
}

/* Words of a text whose bytes all have tokens. */
static sp_err encode_known(const sp_tok *t, sp_tok_work *w, sp_ids *out, const char *s, size_t n,
                           sp_diag *d)
{
    const own *o = t->own;
    sp_pretok_cut cut;
    sp_pretok_start(&cut, o->pretok, s, n);
    for (size_t len; (len = sp_pretok_next(&cut)) != 0; s += len) {
        uint32_t whole;
        sp_err err;
        if ((o->pretok->flags & SP_PRETOK_WHOLE) && sp_map_find(&t->by_piece, s, len, &whole))
            err = sp_ids_push(out, whole);
        else
            err = sp_bpe_word(&o->bpe, &w->bpe, out, s, len);
        if (err != SP_OK)
            return SP_FAIL(d, err, "tokenizing a word of %zu bytes", len);
    }
    return SP_OK;
}

static bool spells(const own *o, const char *s, size_t n)
{
    for (size_t i = 0; i < n && o->has_gaps; i++)
        if (o->bpe.byte_id[(unsigned char)s[i]] == SP_TOK_NONE)
            return false;
    return true;
}

/* Encodes a text in which some byte has no token: such a character is read as U+FFFD, and as the
 * unknown token where U+FFFD cannot be spelled either. */
static sp_err encode_gaps(const sp_tok *t, sp_tok_work *w, sp_ids *out, const char *s, size_t n,
                          sp_diag *d)
{
    static const char UNKNOWN[] = "\xef\xbf\xbd";
    const own *o = t->own;
    size_t start = 0;
    sp_buf_clear(&w->text);
    bool has_sign = spells(o, UNKNOWN, 3);
    if (!has_sign && t->unk == SP_TOK_NONE)
        return SP_FAIL(d, SP_INVAL,
                       "the vocabulary has no token for a byte of the text, none for U+FFFD, and "
                       "no unknown token");
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        size_t step = sp_utf8_decode(&cp, s + i, n - i);
        step = step ? step : 1;
        bool known = spells(o, s + i, step);
        if (has_sign)
            sp_buf_put(&w->text, known ? s + i : UNKNOWN, known ? step : 3);
        i += step;
        if (has_sign || known)
            continue;
        SP_TRY(encode_known(t, w, out, s + start, i - step - start, d));
        sp_err err = sp_ids_push(out, t->unk);
        if (err != SP_OK)
            return SP_FAIL(d, err, "tokenizing");
        start = i;
    }
    if (w->text.failed)
        return SP_FAIL(d, SP_NOMEM, "tokenizing");
    return has_sign ? encode_known(t, w, out, sp_buf_str(&w->text), w->text.len, d)
                    : encode_known(t, w, out, s + start, n - start, d);
}

static sp_err encode(const sp_tok *t, sp_tok_work *w, sp_ids *out, const char *s, size_t n,
                     bool first, sp_diag *d)
{
    (void)first;
    return spells(t->own, s, n) ? encode_known(t, w, out, s, n, d)
                                : encode_gaps(t, w, out, s, n, d);
}

static bool find_pair(uint32_t *rank, uint32_t *id, const sp_tok *t, const char *s,
                      const sp_merge_sym *l, const sp_merge_sym *r)
{
    const own *o = t->own;
    (void)s;
    if (l->id == SP_TOK_NONE || r->id == SP_TOK_NONE ||
        !sp_map_find_u64(&o->bpe.rank, (uint64_t)l->id << 32 | r->id, rank))
        return false;
    *id = o->bpe.made[*rank];
    return true;
}

/* Merges the symbols collected so far and appends their ids; bytes where there is no token. */
static sp_err flush_raw(const sp_tok *t, sp_tok_work *w, sp_ids *out, const char *s)
{
    const own *o = t->own;
    SP_TRY(sp_merge_run(&w->merge, find_pair, t, s));
    for (uint32_t i = w->merge.n_sym ? 0 : SP_TOK_NONE; i != SP_TOK_NONE;
         i = w->merge.sym[i].next) {
        const sp_merge_sym *y = &w->merge.sym[i];
        if (y->id != SP_TOK_NONE)
            SP_TRY(sp_ids_push(out, y->id));
        for (size_t k = 0; k < y->len && y->id == SP_TOK_NONE; k++) {
            uint32_t id = o->byte_id[(unsigned char)s[y->at + k]];
            if (id == SP_TOK_NONE)
                return SP_INVAL;
            SP_TRY(sp_ids_push(out, id));
        }
    }
    sp_merge_clear(&w->merge);
    return SP_OK;
}

static sp_err raw_word(const sp_tok *t, sp_tok_work *w, sp_ids *out, const char *s, size_t n)
{
    const own *o = t->own;
    uint32_t left = 0, cp, id;
    if ((o->pretok->flags & SP_PRETOK_LINES) && s[0] == '\n' &&
        sp_map_find(&t->by_piece, s, n, &id))
        return sp_ids_push(out, id);
    for (size_t i = 0, step; i < n; i += step, left = cp) {
        step = sp_pairs_char(&cp, s + i, n - i);
        if (i && !sp_pairs_may_join(&o->pairs, left, cp))
            SP_TRY(flush_raw(t, w, out, s));
        SP_TRY(sp_merge_add(&w->merge, i, (uint32_t)step,
                            sp_map_find(&t->by_piece, s + i, step, &id) ? id : SP_TOK_NONE));
    }
    return flush_raw(t, w, out, s);
}

static sp_err encode_raw(const sp_tok *t, sp_tok_work *w, sp_ids *out, const char *s, size_t n,
                         bool first, sp_diag *d)
{
    const own *o = t->own;
    (void)first;
    sp_buf_clear(&w->text);
    sp_tok_put_spaced(&w->text, s, n);
    if (w->text.failed)
        return SP_FAIL(d, SP_NOMEM, "tokenizing");
    sp_pretok_cut cut;
    sp_pretok_start(&cut, o->pretok, sp_buf_str(&w->text), w->text.len);
    s = sp_buf_str(&w->text);
    for (size_t len; (len = sp_pretok_next(&cut)) != 0; s += len) {
        sp_err err = raw_word(t, w, out, s, len);
        if (err != SP_OK)
            return SP_FAIL(d, err,
                           err == SP_INVAL
                               ? "the vocabulary has no token for a byte of a line of %zu bytes"
                               : "tokenizing a line of %zu bytes",
                           len);
    }
    return SP_OK;
}

static void fini(sp_tok *t)
{
    own *o = t->own;
    if (!o)
        return;
    sp_bpe_fini(&o->bpe);
    sp_pairs_fini(&o->pairs);
    sp_mem_free(o);
}

enum { ORDINARY = 1u << SP_TOK_NORMAL | 1u << SP_TOK_UNUSED };

const sp_tok_kind sp_tok_kind_bpe = {.model = "gpt2",
                                     .takes = ORDINARY | 1u << SP_TOK_BYTE,
                                     .begin = begin,
                                     .spell = spell,
                                     .load = load,
                                     .encode = encode,
                                     .fini = fini};
const sp_tok_kind sp_tok_kind_raw = {.model = "gemma4",
                                     .takes = ORDINARY | 1u << SP_TOK_USER,
                                     .by_text = true,
                                     .begin = begin_gemma4,
                                     .spell = sp_tok_spell_spaced,
                                     .load = load_raw,
                                     .encode = encode_raw,
                                     .fini = fini};
