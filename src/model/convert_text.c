/* tokenizer.json as GGUF's keys: byte-level BPE, whose way of splitting text is known by its
 * patterns, and BPE with byte fallback, where the rank of a merge becomes a score. That is the same
 * where any two pieces that make a token are a merge, as in what is made of SentencePiece's models.
 * What GGUF has no place for is left out: a normaliser to NFC, and that a text which begins with a
 * space gets no second one before it (SentencePiece itself puts one). */
#include "model/convert_int.h"

#include "base/map.h"
#include "base/mem.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

enum {
    NORMAL = 1,
    UNKNOWN = 2,
    CONTROL = 3,
    OWN = 4,
    UNUSED = 5,
    BYTE = 6,
    PAD_BYTES = 32,
    TEMPLATE_BYTES = 4 << 20
};

#define SHORT "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define WORD "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+"
#define SPACES "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define UP "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOW "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define CASED(end) \
    "[^\\r\\n\\p{L}\\p{N}]?" UP "*" LOW "+" end "|[^\\r\\n\\p{L}\\p{N}]?" UP "+" LOW "*" end

/* Steps of a pre-tokenizer, each behind a newline, and the name that GGUF has for them. */
static const struct {
    const char *steps, *pre, *whole;
} splits[] = {
    /* whole: where the vocabulary's entries are taken at once */
    {"\nbytes", "gpt-2", NULL},
    {"\ndigits\nbytes", "smollm", NULL},
    {"\n" SHORT "|" WORD "|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" SPACES, "dbrx",
     "llama-bpe"},
    {"\n" SHORT "|" WORD "|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" SPACES, "qwen2", NULL},
    {"\n" SHORT
     "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|" SPACES,
     "qwen35", NULL},
    {"\n" CASED(SHORT "?") "|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" SPACES, "gpt-4o", NULL},
    {"\n" CASED("") "|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" SPACES, NULL, "tekken"},
};

typedef struct vocab {
    const json_t *root, *model, *conf; /* tokenizer.json, its model, tokenizer_config.json */
    const json_t *config;              /* config.json */
    sp_str *tok;
    int32_t *type;
    float *score;
    char *pad;    /* [n][PAD_BYTES] */
    sp_buf spelt; /* tokens whose spelling changes */
    size_t n;
    sp_map id;
    bool is_bytes; /* byte-level */
    sp_diag *d;
} vocab;

static const char *text_of(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

/* --- how text is cut -------------------------------------------------------------------------- */

/* Whether one step of the pre-tokenizer is known; its pattern goes to `steps`. */
static bool put_step(sp_buf *steps, bool *is_bytes, const json_t *step)
{
    const json_t *pattern = json_object_get(step, "pattern");
    const char *type = text_of(step, "type"),
               *regex = json_string_value(json_object_get(pattern, "Regex"));
    if (strcmp(type, "ByteLevel") == 0) {
        *is_bytes = true;
        if (!json_is_false(json_object_get(step, "use_regex")))
            sp_buf_puts(steps, "\nbytes");
        return !json_is_true(json_object_get(step, "add_prefix_space"));
    }
    if (strcmp(type, "Digits") == 0 && json_is_true(json_object_get(step, "individual_digits"))) {
        sp_buf_puts(steps, "\ndigits");
        return true;
    }
    if (strcmp(type, "Split") == 0 && regex && strcmp(text_of(step, "behavior"), "Isolated") == 0 &&
        !json_is_true(json_object_get(step, "invert"))) {
        sp_buf_printf(steps, "\n%s", regex);
        return true;
    }
    return false;
}

static sp_err find_pre(const char **out, vocab *v)
{
    const json_t *pre = json_object_get(v->root, "pre_tokenizer"),
                 *list = json_object_get(pre, "pretokenizers");
    bool is_known = true, is_whole = json_is_true(json_object_get(v->model, "ignore_merges"));
    sp_buf steps = {0};
    *out = NULL;
    for (size_t i = 0; i < (list ? json_array_size(list) : 1); i++)
        is_known = put_step(&steps, &v->is_bytes, list ? json_array_get(list, i) : pre) && is_known;
    for (size_t i = 0; is_known && i < sizeof splits / sizeof splits[0]; i++)
        if (strcmp(sp_buf_str(&steps), splits[i].steps) == 0)
            *out = is_whole ? splits[i].whole : splits[i].pre;
    sp_err err = *out ? SP_OK
                      : SP_FAIL(v->d, SP_UNSUP,
                                "tokenizer.json: the pre-tokenizer%s is none that is known:%.120s",
                                is_whole ? " with ignore_merges" : "",
                                steps.len ? sp_buf_str(&steps) : text_of(pre, "type"));
    sp_buf_fini(&steps);
    return err;
}

/* --- the vocabulary --------------------------------------------------------------------------- */

static sp_err put_token(vocab *v, json_int_t id, const char *s, size_t n, int32_t type)
{
    if (id < 0 || (size_t)id >= v->n)
        return SP_FAIL(v->d, SP_FORMAT,
                       "tokenizer.json: token %lld (%.40s), the embedding has %zu rows",
                       (long long)id, s, v->n);
    v->tok[id] = (sp_str){s, n};
    v->type[id] = type;
    return sp_map_set(&v->id, s, n, (uint32_t)id);
}

static bool is_byte(const char *s)
{
    return strlen(s) == 6 && strncmp(s, "<0x", 3) == 0 && strspn(s + 3, "0123456789ABCDEF") == 2 &&
           s[5] == '>';
}

/* Unigram's: [piece, score], in order. */
static sp_err read_scored(vocab *v)
{
    const json_t *all = json_object_get(v->model, "vocab");
    json_int_t unknown = json_integer_value(json_object_get(v->model, "unk_id"));
    if (!json_is_integer(json_object_get(v->model, "unk_id")))
        return SP_FAIL(v->d, SP_UNSUP,
                       "tokenizer.json: a Unigram model without unk_id is not supported");
    for (size_t i = 0; i < json_array_size(all); i++) {
        const json_t *one = json_array_get(all, i), *score = json_array_get(one, 1);
        const char *s = json_string_value(json_array_get(one, 0));
        if (!s || !json_is_number(score))
            return SP_FAIL(v->d, SP_FORMAT,
                           "tokenizer.json: entry %zu of model.vocab is no piece with a score", i);
        SP_TRY(
            put_token(v, (json_int_t)i, s, strlen(s), (json_int_t)i == unknown ? UNKNOWN : NORMAL));
        v->score[i] = (float)json_number_value(score);
    }
    return SP_OK;
}

static sp_err read_named(vocab *v)
{
    const char *key, *unknown = text_of(v->model, "unk_token");
    json_t *id, *all = json_object_get(v->model, "vocab");
    if (!json_is_object(all))
        return SP_FAIL(v->d, SP_FORMAT, "tokenizer.json: model.vocab is missing");
    json_object_foreach(all, key, id) {
        int32_t type = v->is_bytes                 ? NORMAL
                       : is_byte(key)              ? BYTE
                       : strcmp(key, unknown) == 0 ? UNKNOWN
                                                   : NORMAL;
        SP_TRY(put_token(v, json_is_integer(id) ? json_integer_value(id) : -1, key, strlen(key),
                         type));
    }
    return SP_OK;
}

static sp_err read_tokens(vocab *v)
{
    const char *unknown = text_of(v->model, "unk_token");
    const json_t *added = json_object_get(v->root, "added_tokens");
    SP_TRY(json_is_array(json_object_get(v->model, "vocab")) ? read_scored(v) : read_named(v));
    for (size_t i = 0; i < json_array_size(added); i++) {
        const json_t *t = json_array_get(added, i);
        const char *s = text_of(t, "content");
        bool is_special = json_is_true(json_object_get(t, "special")),
             is_unknown = !v->is_bytes && *unknown && strcmp(s, unknown) == 0;
        json_int_t at = json_integer_value(json_object_get(t, "id"));
        if (at >= 0 && (size_t)at < v->n && v->type[at] == UNKNOWN)
            continue; /* special all the same */
        SP_TRY(put_token(v, json_integer_value(json_object_get(t, "id")), s, strlen(s),
                         is_unknown   ? UNKNOWN
                         : is_special ? CONTROL
                                      : OWN));
    }
    for (size_t i = 0; i < v->n; i++) {
        if (v->tok[i].p)
            continue;
        char *to = v->pad + i * PAD_BYTES;
        snprintf(to, PAD_BYTES, "[PAD%zu]", i);
        v->tok[i] = (sp_str){to, strlen(to)};
        v->type[i] = UNUSED;
    }
    return SP_OK;
}

/* The two halves of a merge: "a b", or ["a", "b"]. */
static bool read_merge(sp_str out[2], const json_t *m)
{
    const char *s = json_string_value(m), *gap = s ? strchr(s + (*s == ' '), ' ') : NULL;
    if (gap) {
        out[0] = (sp_str){s, (size_t)(gap - s)};
        out[1] = (sp_str){gap + 1, strlen(gap + 1)};
        return true;
    }
    for (size_t i = 0; i < 2; i++) {
        const char *half = json_string_value(json_array_get(m, i));
        if (!half || json_array_size(m) != 2)
            return false;
        out[i] = (sp_str){half, strlen(half)};
    }
    return true;
}

/* The k-th merge makes its token with score -k, the first one that makes it: by scores merges come
 * in the order of their ranks. */
static sp_err score_merge(vocab *v, const sp_str half[2], size_t k)
{
    char joined[512];
    uint32_t id;
    size_t n = half[0].n + half[1].n;
    if (n >= sizeof joined)
        return SP_FAIL(v->d, SP_LIMIT, "tokenizer.json: merge %zu is longer than %zu bytes", k,
                       sizeof joined);
    memcpy(joined, half[0].p, half[0].n);
    memcpy(joined + half[0].n, half[1].p, half[1].n);
    if (!sp_map_find(&v->id, joined, n, &id))
        return SP_FAIL(v->d, SP_FORMAT,
                       "tokenizer.json: merge %zu makes no token of the vocabulary", k);
    if (v->score[id] == 0)
        v->score[id] = -(float)(k + 1);
    return SP_OK;
}

/* Pairs of tokens that make one and are no merge would be merged by scores; a few are, for special
 * tokens take no part. */
static sp_err check_pairs(const vocab *v, size_t n_merge)
{
    size_t n_pair = 0;
    uint32_t id;
    for (size_t i = 0; i < v->n; i++)
        for (size_t k = 1; v->type[i] == NORMAL && k < v->tok[i].n; k++)
            n_pair += ((unsigned char)v->tok[i].p[k] & 0xc0) != 0x80 &&
                      sp_map_find(&v->id, v->tok[i].p, k, &id) &&
                      sp_map_find(&v->id, v->tok[i].p + k, v->tok[i].n - k, &id);
    if (n_pair > n_merge + n_merge / 100)
        return SP_FAIL(v->d, SP_UNSUP,
                       "tokenizer.json: %zu pairs make a token and %zu of them are merges: not "
                       "SentencePiece's, not supported",
                       n_pair, n_merge);
    return SP_OK;
}

static sp_err put_merges(sp_gguf_out *o, vocab *v)
{
    const json_t *list = json_object_get(v->model, "merges");
    size_t n = json_array_size(list);
    sp_buf text = {0};
    size_t *at = sp_mem_array(n + 1, sizeof *at);
    sp_str *line = sp_mem_array(n + 1, sizeof *line);
    sp_err err = at && line ? SP_OK : SP_FAIL(v->d, SP_NOMEM, "merges");
    for (size_t i = 0; i < n && err == SP_OK; i++) {
        sp_str half[2];
        if (!read_merge(half, json_array_get(list, i)))
            err = SP_FAIL(v->d, SP_FORMAT, "tokenizer.json: merge %zu is no pair", i);
        else if (!v->is_bytes)
            err = score_merge(v, half, i);
        else
            sp_buf_put(&text, half[0].p, half[0].n), sp_buf_putc(&text, ' '),
                sp_buf_put(&text, half[1].p, half[1].n);
        at[i + 1] = text.len;
    }
    if (err == SP_OK && text.failed)
        err = SP_FAIL(v->d, SP_NOMEM, "merges");
    for (size_t i = 0; i < n && err == SP_OK && v->is_bytes; i++)
        line[i] = (sp_str){text.p + at[i], at[i + 1] - at[i]};
    if (err == SP_OK && !v->is_bytes)
        err = check_pairs(v, n);
    if (err == SP_OK && v->is_bytes)
        sp_gguf_out_strs(o, "tokenizer.ggml.merges", line, n);
    else if (err == SP_OK)
        sp_gguf_out_f32s(o, "tokenizer.ggml.scores", v->score, v->n);
    sp_buf_fini(&text);
    sp_mem_free(at);
    sp_mem_free(line);
    return err;
}

/* --- what is special -------------------------------------------------------------------------- */

/* By its text in tokenizer_config.json, else by its number in config.json, of a list the first. */
static void put_special(sp_gguf_out *o, const vocab *v, const char *key, const char *name,
                        const char *number)
{
    const json_t *t = json_object_get(v->conf, name), *n = json_object_get(v->config, number);
    const char *s = json_is_object(t) ? text_of(t, "content") : json_string_value(t);
    uint32_t id;
    if (s && sp_map_find(&v->id, s, strlen(s), &id)) {
        sp_gguf_out_u32(o, key, id);
        return;
    }
    n = json_is_array(n) ? json_array_get(n, 0) : n;
    if (json_is_integer(n) && json_integer_value(n) >= 0 && (size_t)json_integer_value(n) < v->n)
        sp_gguf_out_u32(o, key, (uint32_t)json_integer_value(n));
}

/* Does a text begin with a special token? The post-processor's template for one text says so. */
static bool begins_special(const json_t *post)
{
    const json_t *list = json_object_get(post, "processors"),
                 *single = json_object_get(post, "single");
    for (size_t i = 0; i < json_array_size(list); i++) /* of steps, which hold no further ones */
        single = single ? single : json_object_get(json_array_get(list, i), "single");
    return json_object_get(json_array_get(single, 0), "SpecialToken") != NULL;
}

/* Is a space put before the text? */
static bool has_prefix(const json_t *root)
{
    const json_t *norm = json_object_get(root, "normalizer"),
                 *list = json_object_get(norm, "normalizers"),
                 *pre = json_object_get(root, "pre_tokenizer");
    bool is = strcmp(text_of(norm, "type"), "Prepend") == 0;
    for (size_t i = 0; i < json_array_size(list); i++)
        is = is || strcmp(text_of(json_array_get(list, i), "type"), "Prepend") == 0;
    const char *scheme = text_of(pre, "prepend_scheme");
    return is || (strcmp(text_of(pre, "type"), "Metaspace") == 0 && strcmp(scheme, "never") != 0);
}

static void put_specials(sp_gguf_out *o, const vocab *v)
{
    const json_t *bos = json_object_get(v->conf, "add_bos_token"),
                 *eos = json_object_get(v->conf, "add_eos_token");
    put_special(o, v, "tokenizer.ggml.bos_token_id", "bos_token", "bos_token_id");
    put_special(o, v, "tokenizer.ggml.eos_token_id", "eos_token", "eos_token_id");
    put_special(o, v, "tokenizer.ggml.unknown_token_id", "unk_token", "unk_token_id");
    put_special(o, v, "tokenizer.ggml.padding_token_id", "pad_token", "pad_token_id");
    sp_gguf_out_bool(o, "tokenizer.ggml.add_bos_token",
                     json_is_boolean(bos)
                         ? json_is_true(bos)
                         : begins_special(json_object_get(v->root, "post_processor")));
    if (json_is_boolean(eos))
        sp_gguf_out_bool(o, "tokenizer.ggml.add_eos_token", json_is_true(eos));
    if (!v->is_bytes)
        sp_gguf_out_bool(o, "tokenizer.ggml.add_space_prefix", has_prefix(v->root));
}

/* chat_template.jinja, or the string of tokenizer_config.json, of several the one called default.
 */
static sp_err put_template(sp_gguf_out *o, bool *has, const char *dir, const json_t *conf,
                           sp_diag *d)
{
    char path[1024];
    sp_buf text = {0};
    const json_t *t = json_object_get(conf, "chat_template");
    snprintf(path, sizeof path, "%s/chat_template.jinja", dir);
    sp_err err = sp_file_read(&text, path, TEMPLATE_BYTES, d);
    const char *s = err == SP_OK ? sp_buf_str(&text) : json_string_value(t);
    for (size_t i = 0; i < json_array_size(t) && err == SP_NOTFOUND; i++)
        s = strcmp(text_of(json_array_get(t, i), "name"), "default") == 0
                ? text_of(json_array_get(t, i), "template")
                : s;
    *has = s != NULL;
    if (s)
        sp_gguf_out_str(o, "tokenizer.chat_template", s, strlen(s));
    sp_buf_fini(&text);
    return err == SP_NOTFOUND ? SP_OK : err;
}

/* --- WordPiece and Unigram -------------------------------------------------------------------- */

/* BERT's normaliser and splits, of which GGUF knows case and accents. */
static sp_err put_bert_rules(sp_gguf_out *o, const vocab *v)
{
    const json_t *norm = json_object_get(v->root, "normalizer"),
                 *strip = json_object_get(norm, "strip_accents");
    const char *pre = text_of(json_object_get(v->root, "pre_tokenizer"), "type");
    bool is_plain = json_is_false(json_object_get(norm, "clean_text")) ||
                    json_is_false(json_object_get(norm, "handle_chinese_chars"));
    if (strcmp(text_of(norm, "type"), "BertNormalizer") != 0 || is_plain ||
        strcmp(pre, "BertPreTokenizer") != 0 ||
        strcmp(text_of(v->model, "continuing_subword_prefix"), "##") != 0)
        return SP_FAIL(v->d, SP_UNSUP,
                       "tokenizer.json: WordPiece with other rules than BERT's is not supported");
    if (json_is_false(json_object_get(norm, "lowercase")))
        sp_gguf_out_bool(o, "tokenizer.ggml.normalizer.lowercase", false);
    if (json_is_boolean(strip))
        sp_gguf_out_bool(o, "tokenizer.ggml.normalizer.strip_accents", json_is_true(strip));
    return SP_OK;
}

/* U+2581 before what begins a word, nothing before what goes on. */
static sp_err spell_pieces(vocab *v)
{
    for (size_t pass = 0; pass < 2; pass++) { /* write, then point to what was written */
        size_t at = 0;
        for (size_t i = 0; i < v->n; i++) {
            const sp_str t = v->tok[i];
            bool goes_on = t.n > 2 && memcmp(t.p, "##", 2) == 0;
            const char *before = goes_on ? "" : "\xe2\x96\x81";
            size_t n = strlen(before) + t.n - 2 * goes_on;
            if (v->type[i] != NORMAL)
                continue;
            if (pass == 0)
                sp_buf_puts(&v->spelt, before),
                    sp_buf_put(&v->spelt, t.p + 2 * goes_on, t.n - 2 * goes_on);
            else
                v->tok[i] = (sp_str){v->spelt.p + at, n};
            at += n;
        }
        if (v->spelt.failed)
            return SP_FAIL(v->d, SP_NOMEM, "vocabulary");
    }
    return SP_OK;
}

/* Characters that a normaliser replaces, as SentencePiece has them: base64 in tokenizer.json. */
static sp_err put_charsmap(sp_gguf_out *o, const char *text, sp_diag *d)
{
    size_t n = strlen(text);
    unsigned char *out = sp_mem_array(n / 4 + 1, 3);
    if (!out)
        return SP_FAIL(d, SP_NOMEM, "vocabulary");
    int got =
        n < 1 << 24 && n % 4 == 0 ? EVP_DecodeBlock(out, (const unsigned char *)text, (int)n) : -1;
    for (size_t i = n; i > n - 2 && i > 0 && text[i - 1] == '='; i--)
        got--;
    if (got > 0)
        sp_gguf_out_u8s(o, "tokenizer.ggml.precompiled_charsmap", out, (size_t)got);
    sp_mem_free(out);
    return got > 0 ? SP_OK
                   : SP_FAIL(d, SP_FORMAT, "tokenizer.json: precompiled_charsmap is no base64");
}

/* Which of SentencePiece's rules a text goes through before it is split. Others are refused. */
static sp_err put_unigram_rules(sp_gguf_out *o, const vocab *v)
{
    const json_t *norm = json_object_get(v->root, "normalizer"),
                 *list = json_object_get(norm, "normalizers");
    const json_t *pre = json_object_get(v->root, "pre_tokenizer"),
                 *steps = json_object_get(pre, "pretokenizers");
    bool merges = false;
    for (size_t i = 0; i < (list ? json_array_size(list) : norm ? 1 : 0); i++) {
        const json_t *one = list ? json_array_get(list, i) : norm;
        const char *type = text_of(one, "type"), *map = text_of(one, "precompiled_charsmap");
        const char *regex = text_of(json_object_get(one, "pattern"), "Regex");
        if (strcmp(type, "Precompiled") == 0 && *map)
            SP_TRY(put_charsmap(o, map, v->d));
        else if (strcmp(type, "Replace") == 0 && strcmp(regex, " {2,}") == 0)
            merges = true;
        else if (json_is_object(one) && strcmp(type, "Precompiled") != 0 &&
                 strcmp(type, "Strip") != 0)
            return SP_FAIL(v->d, SP_UNSUP,
                           "tokenizer.json: Unigram with a normalizer %.40s is not supported",
                           type);
    }
    for (size_t i = 0; i < (steps ? json_array_size(steps) : 1); i++) {
        const char *type = text_of(steps ? json_array_get(steps, i) : pre, "type");
        merges = merges || strcmp(type, "WhitespaceSplit") == 0;
        if (strcmp(type, "WhitespaceSplit") != 0 && strcmp(type, "Metaspace") != 0)
            return SP_FAIL(v->d, SP_UNSUP,
                           "tokenizer.json: Unigram with a pre-tokenizer %.40s is not supported",
                           *type ? type : "(none)");
    }
    sp_gguf_out_bool(o, "tokenizer.ggml.remove_extra_whitespaces", merges);
    return SP_OK;
}

/* --- all of it -------------------------------------------------------------------------------- */

static void put_tokens(sp_gguf_out *o, const vocab *v, const char *kind, const char *pre)
{
    double n_type = json_number_value(json_object_get(v->config, "type_vocab_size"));
    sp_gguf_out_str(o, "tokenizer.ggml.model", kind, strlen(kind));
    sp_gguf_out_str(o, "tokenizer.ggml.pre", pre, strlen(pre));
    sp_gguf_out_strs(o, "tokenizer.ggml.tokens", v->tok, v->n);
    sp_gguf_out_i32s(o, "tokenizer.ggml.token_type", v->type, v->n);
    if (n_type >= 1 && n_type <= UINT32_MAX)
        sp_gguf_out_u32(o, "tokenizer.ggml.token_type_count", (uint32_t)n_type);
    if (strcmp(kind, "bert") == 0 || strcmp(kind, "t5") == 0)
        put_special(o, v, "tokenizer.ggml.seperator_token_id", "sep_token", "sep_token_id");
}

static sp_err put_wordpiece(sp_gguf_out *o, vocab *v)
{
    SP_TRY(put_bert_rules(o, v));
    SP_TRY(read_tokens(v));
    for (size_t i = 0; i < v->n; i++) /* [UNK] is as special as the others */
        v->type[i] = v->type[i] == UNKNOWN ? CONTROL : v->type[i];
    SP_TRY(spell_pieces(v));
    put_tokens(o, v, "bert", "jina-v2-en");
    put_special(o, v, "tokenizer.ggml.unknown_token_id", "unk_token", "unk_token_id");
    put_special(o, v, "tokenizer.ggml.padding_token_id", "pad_token", "pad_token_id");
    put_special(o, v, "tokenizer.ggml.cls_token_id", "cls_token", "cls_token_id");
    return SP_OK;
}

static sp_err put_unigram(sp_gguf_out *o, vocab *v)
{
    SP_TRY(put_unigram_rules(o, v));
    SP_TRY(read_tokens(v));
    put_tokens(o, v, "t5", "default");
    sp_gguf_out_f32s(o, "tokenizer.ggml.scores", v->score, v->n);
    put_specials(o, v);
    return SP_OK;
}

static sp_err put_bpe(sp_gguf_out *o, vocab *v)
{
    const char *pre = "default";
    bool falls_back = json_is_true(json_object_get(v->model, "byte_fallback"));
    if (!falls_back)
        SP_TRY(find_pre(&pre, v));
    if (!falls_back && !v->is_bytes)
        return SP_FAIL(v->d, SP_UNSUP,
                       "tokenizer.json: BPE that is neither byte-level nor falls back to bytes is "
                       "not supported");
    SP_TRY(read_tokens(v));
    put_tokens(o, v, falls_back ? "llama" : "gpt2", pre);
    SP_TRY(put_merges(o, v));
    put_specials(o, v);
    return SP_OK;
}

static sp_err put_vocab(sp_gguf_out *o, vocab *v)
{
    static const struct { const char *type; sp_err (*put)(sp_gguf_out *, vocab *); } kinds[] = {
        {"BPE", put_bpe}, {"WordPiece", put_wordpiece}, {"Unigram", put_unigram}};
    const char *type = text_of(v->model, "type");
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (strcmp(kinds[i].type, type) == 0)
            return kinds[i].put(o, v);
    return SP_FAIL(
        v->d, SP_UNSUP,
        "tokenizer.json: a model of type %.40s is not supported (BPE, WordPiece, Unigram)",
        *type ? type : "(none)");
}

sp_err sp_convert_text(sp_gguf_out *o, bool *has_template, const char *dir, const json_t *config,
                       size_t n_vocab, sp_diag *d)
{
    json_t *root = NULL, *conf = NULL;
    SP_TRY(sp_convert_json(&root, dir, "tokenizer.json", d));
    sp_err err = sp_convert_json(&conf, dir, "tokenizer_config.json", d);
    vocab v = {.root = root,
               .model = json_object_get(root, "model"),
               .conf = conf,
               .config = config,
               .n = n_vocab,
               .d = d};
    v.tok = sp_mem_array(n_vocab, sizeof *v.tok);
    v.type = sp_mem_array(n_vocab, sizeof *v.type);
    v.score = sp_mem_array(n_vocab, sizeof *v.score);
    v.pad = sp_mem_array(n_vocab, PAD_BYTES);
    if (err == SP_OK || err == SP_NOTFOUND)
        err = v.tok && v.type && v.score && v.pad && sp_map_init(&v.id, n_vocab) == SP_OK
                  ? put_vocab(o, &v)
                  : SP_FAIL(d, SP_NOMEM, "vocabulary");
    if (err == SP_OK)
        err = put_template(o, has_template, dir, conf, d);
    sp_map_fini(&v.id);
    sp_buf_fini(&v.spelt);
    sp_mem_free(v.tok);
    sp_mem_free(v.type);
    sp_mem_free(v.score);
    sp_mem_free(v.pad);
    json_decref(root);
    json_decref(conf);
    return err;
}
