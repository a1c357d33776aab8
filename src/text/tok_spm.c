/* SentencePiece BPE: neighbours merge into the token with the highest score, leftmost first; what
 * has no token is spelled in bytes <0xNN>. Spaces are U+2581, and a text begins with one.
 * Source: Kudo & Richardson 2018 (SentencePiece); the order is that of llama.cpp. */
#include "base/mem.h"
#include "text/tok_int.h"

#include <math.h>
#include <string.h>

typedef struct own {
    float *score;          /* [n_vocab] */
    uint32_t *rank;        /* [n_vocab] ascending where scores descend; equal for equal scores */
    size_t max_bytes;      /* of a token's text */
    uint32_t byte_id[256];
    sp_pairs pairs;
} own;

bool sp_tok_spell_spaced(const sp_tok *t, char *out, size_t *n_out, sp_str s, uint8_t type)
{
    (void)t;
    if (type == SP_TOK_BYTE && s.n == 6 && memcmp(s.p, "<0x", 3) == 0 && s.p[5] == '>') {
        static const char HEX[] = "0123456789ABCDEF";
        const char *hi = memchr(HEX, s.p[3], 16), *lo = memchr(HEX, s.p[4], 16);
        if (hi && lo)
            *out = (char)((hi - HEX) << 4 | (lo - HEX));
        *n_out = 1;
        return hi && lo;
    }
    if (type != SP_TOK_NORMAL && type != SP_TOK_UNUSED)
        return false;
    *n_out = 0;
    for (size_t i = 0; i < s.n;) {
        bool space = s.n - i >= 3 && memcmp(s.p + i, SP_TOK_SPACE, 3) == 0;
        out[(*n_out)++] = space ? ' ' : s.p[i];
        i += space ? 3 : 1;
    }
    return true;
}

void sp_tok_put_spaced(sp_buf *out, const char *s, size_t n)
{
    for (size_t i = 0; i < n;) {
        const char *gap = memchr(s + i, ' ', n - i);
        size_t to = gap ? (size_t)(gap - s) : n;
        sp_buf_put(out, s + i, to - i);
        if (gap)
            sp_buf_put(out, SP_TOK_SPACE, 3);
        i = to + 1;
    }
}

void sp_tok_byte_ids(uint32_t id[256], const sp_tok *t)
{
    for (int b = 0; b < 256; b++)
        id[b] = SP_TOK_NONE;
    for (uint32_t i = 0; i < t->n_vocab; i++)
        if (t->type[i] == SP_TOK_BYTE && t->piece[i].n == 1)
            id[(unsigned char)t->piece[i].p[0]] = i;
}

sp_err sp_tok_read_scores(float **out, const sp_tok *t, const sp_gguf *g, sp_diag *d)
{
    static const char KEY[] = "tokenizer.ggml.scores";
    const void *p = NULL;
    size_t n = t->n_vocab;
    bool whole = false;
    sp_err err = sp_gguf_f32s(&p, &n, g, KEY, d);
    if (err == SP_FORMAT) { /* Mistral's files hold integers */
        whole = true;
        err = sp_gguf_i32s(&p, &n, g, KEY, d);
    }
    if (err != SP_OK && err != SP_NOTFOUND)
        return err;
    if (n != t->n_vocab)
        return SP_FAIL(d, SP_FORMAT, "gguf: %s has %zu entries for %zu tokens", KEY, n, t->n_vocab);
    float *score = sp_mem_array(t->n_vocab, sizeof *score);
    if (!score)
        return SP_FAIL(d, SP_NOMEM, "tokenizer");
    for (size_t i = 0; i < n && p && err == SP_OK; i++) {
        int32_t v;
        memcpy(&v, (const char *)p + 4 * i, 4);
        memcpy(&score[i], &v, 4);
        score[i] = whole ? (float)v : score[i];
        if (isnan(score[i]))
            err = SP_FAIL(d, SP_FORMAT, "gguf: %s[%zu] is not a number", KEY, i);
    }
    if (err == SP_FORMAT)
        sp_mem_free(score);
    else
        *out = score;
    return err == SP_NOTFOUND ? SP_OK : err;
}

/* Order of a score: the highest score has the least rank. */
static uint32_t rank_of(float score)
{
    uint32_t u;
    float v = score == 0 ? 0 : score; /* -0 is 0 */
    memcpy(&u, &v, 4);
    return u & 0x80000000u ? u : 0x7fffffffu - u;
}

static sp_err begin(sp_tok *t, const sp_gguf *g, sp_diag *d)
{
    t->bos = 1;
    t->eos = 2;
    t->unk = 0;
    t->add_bos = t->add_space = true;
    return sp_tok_read_flag(&t->add_space, g, "tokenizer.ggml.add_space_prefix", d);
}

static sp_err load(sp_tok *t, const sp_gguf *g, sp_diag *d)
{
    own *o = t->own = sp_mem_alloc(sizeof *o);
    if (!o)
        return SP_FAIL(d, SP_NOMEM, "tokenizer");
    SP_TRY(sp_tok_read_scores(&o->score, t, g, d));
    sp_tok_byte_ids(o->byte_id, t);
    o->rank = sp_mem_array(t->n_vocab, sizeof *o->rank);
    if (!o->rank || sp_pairs_init(&o->pairs) != SP_OK)
        return SP_FAIL(d, SP_NOMEM, "tokenizer");
    for (size_t i = 0; i < t->n_vocab; i++) {
        o->rank[i] = rank_of(o->score[i]);
        if (!(1u << t->type[i] & t->kind->takes))
            continue;
        sp_pairs_add(&o->pairs, t->text[i]);
        if (t->text[i].n > o->max_bytes)
            o->max_bytes = t->text[i].n;
    }
    return SP_OK;
}

static bool find_pair(uint32_t *rank, uint32_t *id, const sp_tok *t, const char *s,
                      const sp_merge_sym *l, const sp_merge_sym *r)
{
    const own *o = t->own;
    size_t n = (size_t)l->len + r->len;
    if (n > o->max_bytes || !sp_map_find(&t->by_piece, s + l->at, n, id))
        return false;
    *rank = o->rank[*id];
    return true;
}

/* A character without a token: its bytes, or the unknown token once. */
static sp_err spell_out(const sp_tok *t, sp_ids *out, const char *s, size_t n)
{
    const own *o = t->own;
    bool bytes = true;
    for (size_t i = 0; i < n; i++)
        bytes &= o->byte_id[(unsigned char)s[i]] != SP_TOK_NONE;
    if (!bytes)
        return t->unk != SP_TOK_NONE && t->type[t->unk] == SP_TOK_UNKNOWN ? sp_ids_push(out, t->unk)
                                                                          : SP_INVAL;
    for (size_t i = 0; i < n; i++)
        SP_TRY(sp_ids_push(out, o->byte_id[(unsigned char)s[i]]));
    return SP_OK;
}

static sp_err flush(const sp_tok *t, sp_tok_work *w, sp_ids *out, const char *s)
{
    SP_TRY(sp_merge_run(&w->merge, find_pair, t, s));
    for (uint32_t i = w->merge.n_sym ? 0 : SP_TOK_NONE; i != SP_TOK_NONE;
         i = w->merge.sym[i].next) {
        const sp_merge_sym *y = &w->merge.sym[i];
        SP_TRY(y->id != SP_TOK_NONE ? sp_ids_push(out, y->id)
                                    : spell_out(t, out, s + y->at, y->len));
    }
    sp_merge_clear(&w->merge);
    return SP_OK;
}

static sp_err merge_text(const sp_tok *t, sp_tok_work *w, sp_ids *out, const char *s, size_t n)
{
    const own *o = t->own;
    uint32_t left = 0, cp, id;
    for (size_t i = 0, step; i < n; i += step, left = cp) {
        step = sp_pairs_char(&cp, s + i, n - i);
        if (i && !sp_pairs_may_join(&o->pairs, left, cp))
            SP_TRY(flush(t, w, out, s));
        SP_TRY(sp_merge_add(&w->merge, i, (uint32_t)step,
                            sp_map_find(&t->by_piece, s + i, step, &id) ? id : SP_TOK_NONE));
    }
    return flush(t, w, out, s);
}

static sp_err encode(const sp_tok *t, sp_tok_work *w, sp_ids *out, const char *s, size_t n,
                     bool first, sp_diag *d)
{
    if (!n)
        return SP_OK;
    sp_buf_clear(&w->text);
    if (first && t->add_space)
        sp_buf_put(&w->text, SP_TOK_SPACE, 3);
    sp_tok_put_spaced(&w->text, s, n);
    if (w->text.failed)
        return SP_FAIL(d, SP_NOMEM, "tokenizing");
    sp_err err = merge_text(t, w, out, w->text.p, w->text.len);
    if (err == SP_INVAL)
        return SP_FAIL(
            d, err,
            "the vocabulary has neither bytes nor an unknown token for a character of the text");
    return err == SP_OK ? SP_OK : SP_FAIL(d, err, "tokenizing %zu bytes", n);
}

static void fini(sp_tok *t)
{
    own *o = t->own;
    if (!o)
        return;
    sp_mem_free(o->score);
    sp_mem_free(o->rank);
    sp_pairs_fini(&o->pairs);
    sp_mem_free(o);
}

const sp_tok_kind sp_tok_kind_spm = {.model = "llama",
                                     .takes = 1u << SP_TOK_NORMAL | 1u << SP_TOK_UNUSED |
                                              1u << SP_TOK_USER,
                                     .by_text = true,
                                     .begin = begin,
                                     .spell = sp_tok_spell_spaced,
                                     .load = load,
                                     .encode = encode,
                                     .fini = fini};
