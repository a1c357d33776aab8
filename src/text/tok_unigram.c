/* Unigram language model (T5, XLM-R): the split of a text with the highest sum of
 * log-probabilities.
 *
 * The text is first normalised: SentencePiece's compiled character map replaces the longest prefix
 * it knows, white space is escaped and, on request, merged. The map is a double array of 32-bit
 * units (darts-clone) followed by NUL-terminated replacements.
 * Cost: characters x the longest token's bytes.
 * Source: Kudo 2018 (unigram); darts-clone for the layout of units. */
#include "base/mem.h"
#include "base/utf8.h"
#include "text/tok_int.h"

#include <float.h>
#include <string.h>

typedef struct own {
    float *score;          /* [n_vocab] */
    float unknown;         /* score of a character without a token */
    sp_trie tokens, user;  /* all that a text may become; user-defined ones */
    const unsigned char *unit; /* character map: n_unit little-endian units; NULL: none */
    size_t n_unit;
    const char *text;      /* its replacements, each with a NUL */
    size_t n_text;
    bool merges_spaces;
} own;

typedef struct best {
    double score;
    uint32_t id, from; /* the last token of the best split up to here, and where it begins */
} best;

static sp_err begin(sp_tok *t, const sp_gguf *g, sp_diag *d)
{
    own *o = t->own = sp_mem_alloc(sizeof *o);
    if (!o)
        return SP_FAIL(d, SP_NOMEM, "tokenizer");
    t->eos = 1;
    t->unk = 2;
    t->add_eos = true;
    SP_TRY(sp_tok_read_flag(&t->add_space, g, "tokenizer.ggml.add_space_prefix", d));
    return sp_tok_read_flag(&o->merges_spaces, g, "tokenizer.ggml.remove_extra_whitespaces", d);
}

static sp_err load_map(own *o, const sp_gguf *g, sp_diag *d)
{
    static const char KEY[] = "tokenizer.ggml.precompiled_charsmap";
    const void *p;
    size_t n;
    sp_err err = sp_gguf_bytes(&p, &n, g, KEY, d);
    if (err == SP_NOTFOUND)
        return SP_OK;
    SP_TRY(err);
    if (n == 0)
        return SP_OK;
    uint32_t n_bytes = 0;
    if (n >= 4)
        memcpy(&n_bytes, p, 4);
    if (n < 5 || n_bytes % 4 || n_bytes >= n - 4 || ((const char *)p)[n - 1] != 0)
        return SP_FAIL(d, SP_FORMAT, "gguf: %s is cut short (%zu bytes)", KEY, n);
    o->unit = (const unsigned char *)p + 4;
    o->n_unit = n_bytes / 4;
    o->text = (const char *)p + 4 + n_bytes;
    o->n_text = n - 4 - n_bytes;
    return SP_OK;
}

static sp_err load_trees(sp_tok *t, sp_diag *d)
{
    own *o = t->own;
    sp_trie_key *key = sp_mem_array(t->n_vocab, sizeof *key);
    if (!key)
        return SP_FAIL(d, SP_NOMEM, "tokenizer");
    size_t n = 0;
    for (uint32_t i = 0; i < t->n_vocab; i++)
        if (1u << t->type[i] & t->kind->takes)
            key[n++] = (sp_trie_key){t->text[i], i};
    sp_err err = sp_trie_init(&o->tokens, key, n);
    n = 0;
    for (uint32_t i = 0; i < t->n_vocab; i++)
        if (t->type[i] == SP_TOK_USER)
            key[n++] = (sp_trie_key){t->text[i], i};
    if (err == SP_OK)
        err = sp_trie_init(&o->user, key, n);
    sp_mem_free(key);
    return err == SP_OK ? SP_OK : SP_FAIL(d, err, "tokenizer");
}

static sp_err load(sp_tok *t, const sp_gguf *g, sp_diag *d)
{
    own *o = t->own;
    float least = FLT_MAX;
    SP_TRY(sp_tok_read_scores(&o->score, t, g, d));
    for (size_t i = 0; i < t->n_vocab; i++)
        if (t->type[i] == SP_TOK_NORMAL && o->score[i] < least)
            least = o->score[i];
    o->unknown = least - 10.0f; /* SentencePiece's penalty of the unknown token */
    if (t->unk == SP_TOK_NONE)
        return SP_FAIL(
            d, SP_FORMAT,
            "gguf: the vocabulary has no unknown token, which a unigram tokenizer needs");
    SP_TRY(load_map(o, g, d));
    return load_trees(t, d);
}

static uint32_t unit_at(const own *o, size_t i)
{
    uint32_t u = 0;
    if (i < o->n_unit)
        memcpy(&u, o->unit + 4 * i, 4);
    return u;
}

static uint32_t unit_offset(uint32_t u)
{
    return (u >> 10) << ((u & 1u << 9) >> 6);
}

/* The replacement of the longest prefix of s that the map knows: bytes consumed, or 0. */
static size_t map_prefix(sp_str *out, const own *o, const char *s, size_t n)
{
    size_t longest = 0, at = unit_offset(unit_at(o, 0));
    for (size_t i = 0; i < n && o->unit && s[i]; i++) {
        at ^= (unsigned char)s[i];
        uint32_t u = unit_at(o, at);
        if (at >= o->n_unit || (u & (1u << 31 | 0xff)) != (unsigned char)s[i])
            break;
        at ^= unit_offset(u);
        uint32_t value = unit_at(o, at) & 0x7fffffffu;
        if ((u >> 8 & 1) && value < o->n_text) {
            longest = i + 1;
            *out = (sp_str){o->text + value, strlen(o->text + value)};
        }
    }
    return longest;
}

static size_t user_prefix(const own *o, const char *s, size_t n)
{
    size_t longest = 0;
    uint32_t node = 0;
    for (size_t i = 0; i < n && o->user.node; i++) {
        node = sp_trie_step(&o->user, node, (unsigned char)s[i]);
        if (node == SP_TRIE_NONE)
            break;
        if (o->user.node[node].id != SP_TRIE_NONE)
            longest = i + 1;
    }
    return longest;
}

/* One normalised piece of s, and the bytes of s that it stands for. */
static size_t normal_piece(sp_str *out, const own *o, const char *s, size_t n)
{
    uint32_t cp;
    size_t step = user_prefix(o, s, n);
    if (!step) {
        step = map_prefix(out, o, s, n);
        if (step)
            return step;
        step = sp_utf8_decode(&cp, s, n);
        if (!step) {
            *out = (sp_str){"\xef\xbf\xbd", 3};
            return 1;
        }
    }
    *out = (sp_str){s, step};
    return step;
}

static void normalise(const sp_tok *t, sp_buf *out, const char *s, size_t n)
{
    const own *o = t->own;
    bool in_word = false, begun = false;
    for (size_t i = 0; i < n && !out->failed;) {
        sp_str p;
        i += normal_piece(&p, o, s + i, n - i);
        for (size_t k = 0; k < p.n; k++) {
            if (p.p[k] == ' ') {
                in_word = false;
                if (!o->merges_spaces)
                    sp_buf_put(out, SP_TOK_SPACE, 3);
                continue;
            }
            if (!in_word && ((t->add_space && !begun) || o->merges_spaces)) {
                sp_buf_put(out, SP_TOK_SPACE, 3);
                begun = true;
            }
            in_word = true;
            sp_buf_putc(out, p.p[k]);
        }
    }
}

static void better(best *b, double score, uint32_t id, size_t from)
{
    if (score > b->score)
        *b = (best){score, id, (uint32_t)from};
}

/* Best splits of every prefix that ends with a character. */
static void forward(const sp_tok *t, best *b, const char *s, size_t n)
{
    const own *o = t->own;
    for (size_t i = 0; i <= n; i++)
        b[i] = (best){i ? -DBL_MAX : 0, t->unk, 0};
    for (size_t at = 0, step; at < n; at += step) {
        uint32_t cp, node = 0;
        bool whole = false;
        step = sp_pairs_char(&cp, s + at, n - at);
        for (size_t i = at; i < n && o->tokens.node; i++) {
            node = sp_trie_step(&o->tokens, node, (unsigned char)s[i]);
            if (node == SP_TRIE_NONE)
                break;
            uint32_t id = o->tokens.node[node].id;
            if (id == SP_TRIE_NONE)
                continue;
            whole |= i + 1 - at == step;
            better(&b[i + 1],
                   b[at].score + (t->type[id] == SP_TOK_USER ? 0.0 : (double)o->score[id]), id, at);
        }
        if (!whole)
            better(&b[at + step], b[at].score + (double)o->unknown, t->unk, at);
    }
}

/* Reads the best split off backwards, a run of unknown tokens as one, and puts it in order. */
static sp_err backward(const sp_tok *t, sp_ids *out, const best *b, size_t n)
{
    size_t first = out->n;
    for (size_t at = n; at;) {
        bool again = b[at].id == t->unk && out->n > first && out->id[out->n - 1] == t->unk;
        if (!again)
            SP_TRY(sp_ids_push(out, b[at].id));
        at = b[at].from;
    }
    for (size_t i = first, j = out->n; i + 1 < j; i++) {
        uint32_t x = out->id[--j];
        out->id[j] = out->id[i];
        out->id[i] = x;
    }
    return SP_OK;
}

static sp_err encode(const sp_tok *t, sp_tok_work *w, sp_ids *out, const char *s, size_t n,
                     bool first, sp_diag *d)
{
    (void)first;
    sp_buf_clear(&w->text);
    normalise(t, &w->text, s, n);
    size_t len = w->text.len;
    if (w->text.failed || len >= UINT32_MAX)
        return SP_FAIL(d, w->text.failed ? SP_NOMEM : SP_LIMIT, "tokenizing %zu bytes", n);
    if (!len)
        return SP_OK;
    if (len + 1 > w->n_best) {
        void *p = sp_mem_grow(w->best, (len + 1) * sizeof(best));
        if (!p)
            return SP_FAIL(d, SP_NOMEM, "tokenizing %zu bytes", n);
        w->best = p;
        w->n_best = len + 1;
    }
    forward(t, w->best, w->text.p, len);
    sp_err err = backward(t, out, w->best, len);
    return err == SP_OK ? SP_OK : SP_FAIL(d, err, "tokenizing %zu bytes", n);
}

static void fini(sp_tok *t)
{
    own *o = t->own;
    if (!o)
        return;
    sp_mem_free(o->score);
    sp_trie_fini(&o->tokens);
    sp_trie_fini(&o->user);
    sp_mem_free(o);
}

const sp_tok_kind sp_tok_kind_unigram = {.model = "t5",
                                         .takes = 1u << SP_TOK_NORMAL | 1u << SP_TOK_UNUSED |
                                                  1u << SP_TOK_USER,
                                         .by_text = true,
                                         .begin = begin,
                                         .spell = sp_tok_spell_spaced,
                                         .load = load,
                                         .encode = encode,
                                         .fini = fini};
