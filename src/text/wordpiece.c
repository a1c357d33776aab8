#include "text/wordpiece.h"

#include "base/map.h"
#include "base/utf8.h"

#include <string.h>
#include <utf8proc.h>

enum { MAX_WORD_CHARS = 100 /* BERT's own limit; longer is [UNK] */ };

static bool is_cjk(uint32_t c)
{
    return (c >= 0x4e00 && c <= 0x9fff) || (c >= 0x3400 && c <= 0x4dbf) ||
           (c >= 0x20000 && c <= 0x2a6df) || (c >= 0x2a700 && c <= 0x2b73f) ||
           (c >= 0x2b740 && c <= 0x2b81f) || (c >= 0x2b920 && c <= 0x2ceaf) ||
           (c >= 0xf900 && c <= 0xfaff) || (c >= 0x2f800 && c <= 0x2fa1f);
}

static bool is_punct(uint32_t c)
{
    if (c < 0x80)
        return (c >= 33 && c <= 47) || (c >= 58 && c <= 64) || (c >= 91 && c <= 96) ||
               (c >= 123 && c <= 126);
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    return k >= UTF8PROC_CATEGORY_PC && k <= UTF8PROC_CATEGORY_PO;
}

static bool is_dropped(uint32_t c)
{
    if (c == '\t' || c == '\n' || c == '\r')
        return false;
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    return c == 0 || c == 0xfffd || k == UTF8PROC_CATEGORY_CC || k == UTF8PROC_CATEGORY_CF ||
           k == UTF8PROC_CATEGORY_CO || k == UTF8PROC_CATEGORY_CN || k == UTF8PROC_CATEGORY_CS;
}

/* Greedy longest match of one word (UTF-8, n_char characters). Where only first pieces carry a
 * mark, a piece inside the word that begins with the mark's character would be the first one of
 * another word: it does not match. */
static sp_err match_word(const sp_wp_rules *r, sp_ids *out, const char *s, size_t n, size_t n_char)
{
    enum { MAX_MARK = 4 };
    size_t first = out->n, at = 0, n_mark = strlen(r->goes_on), n_begin = strlen(r->begins);
    char word[4 * MAX_WORD_CHARS + MAX_MARK], piece[sizeof word + MAX_MARK];
    if (n_char > MAX_WORD_CHARS)
        return sp_ids_push(out, r->unk);
    memcpy(word, r->begins, n_begin);
    memcpy(word + n_begin, s, n);
    memcpy(piece, r->goes_on, n_mark);
    n += n_begin;
    while (at < n) {
        size_t len = n - at, mark = at ? n_mark : 0, least = at ? 0 : n_begin;
        uint32_t id = 0;
        if (at && n_begin && len >= n_begin && memcmp(word + at, r->begins, n_begin) == 0)
            break;
        memcpy(piece + n_mark, word + at, len);
        while (len && !sp_map_find(r->by_piece, piece + n_mark - mark, len + mark, &id))
            do
                len--;
            while (len && ((unsigned char)word[at + len] & 0xc0) == 0x80);
        if (len <= least)
            break;
        SP_TRY(sp_ids_push(out, id));
        at += len;
    }
    if (at < n) {
        out->n = first;
        return sp_ids_push(out, r->unk);
    }
    return SP_OK;
}

typedef struct word {
    sp_buf text;
    size_t n_char;
} word;

static sp_err flush(const sp_wp_rules *r, sp_ids *out, word *cur)
{
    sp_err err = SP_OK;
    if (cur->text.failed)
        return SP_NOMEM;
    if (cur->text.len)
        err = match_word(r, out, cur->text.p, cur->text.len, cur->n_char);
    sp_buf_clear(&cur->text);
    cur->n_char = 0;
    return err;
}

/* One code point after decomposition: accents vanish, capitals fold, separators end the word. */
static sp_err add_char(const sp_wp_rules *r, sp_ids *out, word *cur, uint32_t c)
{
    if (r->strip && utf8proc_category((utf8proc_int32_t)c) == UTF8PROC_CATEGORY_MN)
        return SP_OK;
    c = r->lower ? (uint32_t)utf8proc_tolower((utf8proc_int32_t)c) : c;
    char u[4];
    size_t n = sp_utf8_encode(u, c);
    bool alone = is_cjk(c) || is_punct(c);
    if (alone || sp_utf8_is_space(c))
        SP_TRY(flush(r, out, cur));
    if (sp_utf8_is_space(c))
        return SP_OK;
    sp_buf_put(&cur->text, u, n);
    cur->n_char++;
    return alone ? flush(r, out, cur) : SP_OK;
}

static sp_err add_text(const sp_wp_rules *r, sp_ids *out, word *cur, const char *text, size_t n)
{
    for (size_t i = 0; i < n;) {
        uint32_t c;
        size_t step = sp_utf8_decode(&c, text + i, n - i);
        i += step ? step : 1;
        if (!step || is_dropped(c))
            continue;
        utf8proc_int32_t part[32] = {(utf8proc_int32_t)c};
        utf8proc_ssize_t k = r->strip ? utf8proc_decompose_char((utf8proc_int32_t)c, part, 32,
                                                                UTF8PROC_DECOMPOSE, NULL)
                                      : 1;
        for (utf8proc_ssize_t j = 0; j < k && j < 32; j++)
            SP_TRY(add_char(r, out, cur, (uint32_t)part[j]));
    }
    return flush(r, out, cur);
}

sp_err sp_wp_words(const sp_wp_rules *r, sp_ids *out, const char *text, size_t n)
{
    word cur = {0};
    sp_err err = add_text(r, out, &cur, text, n);
    sp_buf_fini(&cur.text);
    return err;
}
