#include "rag/split.h"

#include "base/mem.h"

#include <stdint.h>
#include <string.h>
#include <unicode/ubrk.h>
#include <unicode/uchar.h>
#include <unicode/unorm2.h>
#include <unicode/uscript.h>
#include <unicode/ustring.h>
#include <unicode/utf16.h>

enum {
    MAX_WORD = 64,
    /* UTF-16 units; what is longer is cut, and each piece is a word */ MAX_RUN = 4096,
    MAX_FOLD = 16 * MAX_WORD,
    MAX_UTF8 = 4 * MAX_FOLD
};

/* DENSE: of a script whose words are not told by spaces alone */
typedef enum kind { GAP, SPACED, DENSE } kind;

typedef struct splitter {
    const UNormalizer2 *nfd, *nfc, *nfkc;
    UBreakIterator *words; /* NULL until a dense run comes */
    sp_err (*put)(void *arg, const sp_rag_token *t);
    void *arg;
    char whole[MAX_UTF8], parts[2 * MAX_UTF8];
} splitter;

static UChar32 next_cp(const UChar *p, int32_t *i, int32_t n)
{
    UChar32 c = p[(*i)++];
    if (c >= 0xd800 && c < 0xdc00 && *i < n && p[*i] >= 0xdc00 && p[*i] < 0xe000)
        c = 0x10000 + ((c - 0xd800) * 0x400) + (p[(*i)++] - 0xdc00);
    return c;
}

static kind kind_of(UChar32 c)
{
    UErrorCode bad = U_ZERO_ERROR;
    if (c < 0x80)
        return (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z') || c == '_' ? SPACED
                                                                                          : GAP;
    if (!(U_GET_GC_MASK(c) & (U_GC_L_MASK | U_GC_M_MASK | U_GC_N_MASK)))
        return GAP;
    switch (uscript_getScript(c, &bad)) {
    case USCRIPT_HAN:
    case USCRIPT_HIRAGANA:
    case USCRIPT_KATAKANA:
    case USCRIPT_BOPOMOFO:
    case USCRIPT_HANGUL:
    case USCRIPT_THAI:
    case USCRIPT_LAO:
    case USCRIPT_KHMER:
    case USCRIPT_MYANMAR: return DENSE;
    default: return c == 0x30fc ? DENSE : SPACED; /* the mark of a long vowel is of two scripts */
    }
}

static bool is_mark(UChar32 c)
{
    return U_GET_GC_MASK(c) & U_GC_M_MASK;
}

/* Takes the marks of Latin, Greek and Cyrillic letters out of decomposed text; elsewhere they are
 * part of the word. */
static int32_t drop_marks(UChar *p, int32_t n)
{
    int32_t k = 0;
    bool bare = true;
    for (int32_t i = 0; i < n;) {
        UChar32 c;
        int32_t from = i;
        UErrorCode bad = U_ZERO_ERROR;
        c = next_cp(p, &i, n);
        if (is_mark(c) && bare)
            continue;
        UScriptCode s = is_mark(c) ? USCRIPT_INHERITED : uscript_getScript(c, &bad);
        if (!is_mark(c))
            bare = s == USCRIPT_LATIN || s == USCRIPT_GREEK || s == USCRIPT_CYRILLIC;
        while (from < i)
            p[k++] = p[from++];
    }
    return k;
}

/* Appends p[n] as the index holds it to the UTF-8 in out, of which *at bytes are taken. */
static sp_err fold(const splitter *s, char *out, size_t cap, size_t *at, const UChar *p, int32_t n)
{
    UChar a[MAX_FOLD], b[MAX_FOLD];
    int32_t n_utf8 = 0;
    UErrorCode bad = U_ZERO_ERROR;
    int32_t k = u_strFoldCase(a, MAX_FOLD, p, n, U_FOLD_CASE_DEFAULT, &bad);
    k = unorm2_normalize(s->nfd, a, k, b, MAX_FOLD, &bad);
    if (U_SUCCESS(bad))
        k = drop_marks(b, k);
    k = unorm2_normalize(s->nfc, b, k, a, MAX_FOLD, &bad);
    u_strToUTF8(out + *at, (int32_t)(cap - *at), &n_utf8, a, k, &bad);
    if (U_FAILURE(bad) || (size_t)n_utf8 >= cap - *at)
        return SP_NOMEM;
    *at += (size_t)n_utf8;
    out[*at] = 0;
    return SP_OK;
}

static sp_err put(splitter *s, sp_rag_token *t, size_t n_part)
{
    t->whole = s->whole;
    t->parts = n_part > 1 ? s->parts : NULL;
    return s->whole[0] ? s->put(s->arg, t) : SP_OK;
}

/* --- words of scripts with spaces
 * ----------------------------------------------------------------- */

/* Does a part begin at i? Between a small letter or digit and a capital, and before the last of
 * some capitals. */
static bool is_border(const UChar *p, int32_t i, int32_t n)
{
    if (p[i - 1] == '_' || p[i] == '_')
        return true;
    return u_isupper(p[i]) && (!u_isupper(p[i - 1]) || (i + 1 < n && u_islower(p[i + 1])));
}

static sp_err put_spaced(splitter *s, const UChar *p, int32_t n)
{
    size_t n_whole = 0, n_parts = 0, n_part = 0;
    sp_rag_token t = {.n_char = (size_t)n};
    s->whole[0] = 0;
    for (int32_t from = 0, i = 1; i <= n; i++) {
        if (i < n && !is_border(p, i, n))
            continue;
        bool line = p[from] == '_';
        t.as_parts = t.as_parts || line;
        if (!line && n_part++)
            s->parts[n_parts++] = ' ';
        if (!line)
            SP_TRY(fold(s, s->parts, sizeof s->parts, &n_parts, p + from, i - from));
        if (!line)
            SP_TRY(fold(s, s->whole, sizeof s->whole, &n_whole, p + from, i - from));
        from = i;
    }
    return put(s, &t, n_part);
}

/* --- words of scripts without
 * --------------------------------------------------------------------- */

static sp_err put_dense_word(splitter *s, const UChar *p, int32_t n)
{
    size_t n_whole = 0, n_parts = 0, n_part = 0;
    sp_rag_token t = {.as_parts = true, .is_hiragana = true, .is_hangul = true};
    SP_TRY(fold(s, s->whole, sizeof s->whole, &n_whole, p, n));
    for (int32_t i = 0; i < n;) {
        int32_t from = i, next;
        UErrorCode bad = U_ZERO_ERROR;
        UChar32 c;
        c = next_cp(p, &i, n);
        UScriptCode script = uscript_getScript(c, &bad);
        t.is_hiragana = t.is_hiragana && script == USCRIPT_HIRAGANA;
        t.is_hangul = t.is_hangul && script == USCRIPT_HANGUL;
        for (next = i; next < n; i = next) { /* with its marks */
            c = next_cp(p, &next, n);
            if (!is_mark(c))
                break;
        }
        if (n_part++)
            s->parts[n_parts++] = ' ';
        SP_TRY(fold(s, s->parts, sizeof s->parts, &n_parts, p + from, i - from));
    }
    t.n_char = n_part;
    return put(s, &t, n_part);
}

static sp_err put_dense(splitter *s, const UChar *p, int32_t n)
{
    UErrorCode bad = U_ZERO_ERROR;
    if (!s->words)
        s->words = ubrk_open(UBRK_WORD, "", NULL, 0, &bad);
    if (U_SUCCESS(bad))
        ubrk_setText(s->words, p, n, &bad);
    if (U_FAILURE(bad))
        return SP_NOMEM;
    int32_t from = ubrk_first(s->words);
    for (int32_t to = ubrk_next(s->words); to != UBRK_DONE; to = ubrk_next(s->words))
        while (from < to) {
            int32_t end = to - from > MAX_WORD ? from + MAX_WORD : to;
            U16_SET_CP_START(p, from, end);
            SP_TRY(put_dense_word(s, p + from, end - from));
            from = end;
        }
    return SP_OK;
}

/* --- runs
 * ----------------------------------------------------------------------------------------- */

static sp_err split(splitter *s, const UChar *p, int32_t n)
{
    for (int32_t i = 0; i < n;) {
        int32_t from = i, end;
        UChar32 c;
        c = next_cp(p, &i, n);
        kind k = kind_of(c);
        int32_t most = (k == DENSE ? MAX_RUN : MAX_WORD) - 2;
        for (end = i; end < n && end - from < most; end = i) {
            c = next_cp(p, &i, n);
            kind next = kind_of(c);
            if (next != k && !(k != GAP && is_mark(c)))
                break;
        }
        i = end;
        if (k != GAP)
            SP_TRY(k == DENSE ? put_dense(s, p + from, end - from)
                              : put_spaced(s, p + from, end - from));
    }
    return SP_OK;
}

/* UTF-16 in NFKC; *out is the caller's. */
static sp_err to_utf16(const UNormalizer2 *nfkc, UChar **out, int32_t *n_out, const char *p,
                       size_t n)
{
    /* a letter becomes up to 18, but a text does not; one that does is read as it is */
    enum { GROWS = 4 };
    int32_t k = 0, cap = (int32_t)n * GROWS + 64;
    UErrorCode bad = U_ZERO_ERROR;
    UChar *raw = sp_mem_array(n + 1, sizeof *raw), *norm = sp_mem_array((size_t)cap, sizeof *norm);
    sp_err err = raw && norm ? SP_OK : SP_NOMEM;
    if (err == SP_OK)
        u_strFromUTF8WithSub(raw, (int32_t)n + 1, &k, p, (int32_t)n, 0xfffd, NULL, &bad);
    if (err == SP_OK && U_FAILURE(bad))
        err = SP_NOMEM;
    if (err == SP_OK)
        *n_out = unorm2_normalize(nfkc, raw, k, norm, cap, &bad);
    bool fits = err == SP_OK && U_SUCCESS(bad);
    if (err == SP_OK) {
        *out = fits ? norm : raw;
        *n_out = fits ? *n_out : k;
    }
    if (err != SP_OK || fits)
        sp_mem_free(raw);
    if (err != SP_OK || !fits)
        sp_mem_free(norm);
    return err;
}

sp_err sp_rag_split(const char *p, size_t n, sp_err (*take)(void *arg, const sp_rag_token *t),
                    void *arg)
{
    UErrorCode bad = U_ZERO_ERROR;
    splitter s = {.put = take, .arg = arg};
    UChar *text = NULL;
    int32_t n_text = 0;
    if (n > INT32_MAX / 8)
        return SP_LIMIT;
    s.nfd = unorm2_getNFDInstance(&bad);
    s.nfc = unorm2_getNFCInstance(&bad);
    s.nfkc = unorm2_getNFKCInstance(&bad);
    if (U_FAILURE(bad))
        return SP_NOMEM;
    SP_TRY(to_utf16(s.nfkc, &text, &n_text, p, n));
    sp_err err = split(&s, text, n_text);
    if (s.words)
        ubrk_close(s.words);
    sp_mem_free(text);
    return err;
}

/* --- what an index keeps
 * -------------------------------------------------------------------------- */

typedef struct pair {
    sp_buf *text, *parts;
} pair;

static void put_between_spaces(sp_buf *out, const char *p)
{
    if (!out->len)
        sp_buf_putc(out, ' ');
    sp_buf_puts(out, p);
    sp_buf_putc(out, ' ');
}

static sp_err on_token(void *arg, const sp_rag_token *t)
{
    pair *x = arg;
    put_between_spaces(x->text, t->parts && t->as_parts ? t->parts : t->whole);
    if (t->parts)
        put_between_spaces(x->parts, t->as_parts ? t->whole : t->parts);
    return x->text->failed || x->parts->failed ? SP_NOMEM : SP_OK;
}

sp_err sp_rag_split_index(sp_buf *text, sp_buf *parts, const char *p, size_t n)
{
    pair x = {text, parts};
    return sp_rag_split(p, n, on_token, &x);
}
