/* From a text file's bytes to UTF-8, by evidence (see parse_int.h). ICU converts, uchardet
 * guesses. */
#include "rag/parse_int.h"

#include "base/utf8.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <uchardet.h>
#include <unicode/ucnv.h>

enum { LOOK = 4096, MAX_NAME = 64, GUESS_BYTES = 1 << 20 };

typedef struct mark {
    const char *name;
    size_t n;
    unsigned char b[4];
} mark;

/* Longer marks first: UTF-32's little-endian one begins as UTF-16's. */
static const mark marks[] = {{"UTF-32LE", 4, {0xff, 0xfe, 0, 0}},
                             {"UTF-32BE", 4, {0, 0, 0xfe, 0xff}},
                             {"UTF-8", 3, {0xef, 0xbb, 0xbf, 0}},
                             {"UTF-16LE", 2, {0xff, 0xfe, 0, 0}},
                             {"UTF-16BE", 2, {0xfe, 0xff, 0, 0}}};

static const mark *find_mark(const char *p, size_t n)
{
    for (size_t i = 0; i < sizeof marks / sizeof marks[0]; i++)
        if (n >= marks[i].n && memcmp(p, marks[i].b, marks[i].n) == 0)
            return &marks[i];
    return NULL;
}

static bool is_name(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_' || c == ':' || c == '.';
}

/* The value behind `key`, '=' and perhaps a quote, in [p, end). */
static bool read_value(char out[MAX_NAME], const char *key, const char *p, const char *end)
{
    size_t k = strlen(key);
    for (; p + k < end; p++) {
        if (strncasecmp(p, key, k) != 0)
            continue;
        const char *v = p + k;
        while (v < end && (*v == ' ' || *v == '\t'))
            v++;
        if (v >= end || *v++ != '=')
            continue;
        while (v < end && (*v == ' ' || *v == '"' || *v == '\''))
            v++;
        size_t n = 0;
        while (v + n < end && n < MAX_NAME - 1 && is_name(v[n]))
            n++;
        memcpy(out, v, n);
        out[n] = 0;
        return n > 0;
    }
    return false;
}

/* What <?xml encoding="…"?> or a <meta> with a charset says; scripts, styles, links and text that
 * say "charset" do not count. */
static bool find_declared(char out[MAX_NAME], const char *p, size_t n)
{
    const char *end = p + (n < LOOK ? n : LOOK);
    if (n > 5 && memcmp(p, "<?xml", 5) == 0) {
        const char *stop = memchr(p, '>', (size_t)(end - p));
        if (stop && read_value(out, "encoding", p, stop))
            return true;
    }
    for (; p + 5 < end; p++) {
        if (*p != '<')
            continue;
        if (p + 4 < end && memcmp(p, "<!--", 4) == 0) {
            const char *stop = memmem(p, (size_t)(end - p), "-->", 3);
            if (!stop)
                return false;
            p = stop;
        } else if (strncasecmp(p, "<meta", 5) == 0) {
            const char *stop = memchr(p, '>', (size_t)(end - p));
            if (stop && read_value(out, "charset", p, stop))
                return true;
        } else if (strncasecmp(p, "<body", 5) == 0) {
            return false;
        }
    }
    return false;
}

/* UTF-16 of mostly Latin text has a zero byte at every second place. */
static const char *find_wide(const char *p, size_t n)
{
    size_t zero[2] = {0, 0};
    n = n < LOOK ? n & ~(size_t)1 : LOOK;
    for (size_t i = 0; i < n; i++)
        zero[i & 1] += p[i] == 0;
    if (n < 4 || 3 * (zero[0] + zero[1]) < n)
        return NULL;
    return zero[1] > 8 * zero[0] ? "UTF-16LE" : zero[0] > 8 * zero[1] ? "UTF-16BE" : NULL;
}

/* Sequences of several bytes that are well formed, and bytes that are not. */
static void count_utf8(const char *p, size_t n, size_t *n_good, size_t *n_bad)
{
    *n_good = *n_bad = 0;
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        size_t k = sp_utf8_decode(&cp, p + i, n - i);
        *n_good += k > 1;
        *n_bad += k == 0;
        i += k ? k : 1;
    }
}

static bool guess(char out[MAX_NAME], const char *p, size_t n)
{
    uchardet_t u = uchardet_new();
    if (!u)
        return false;
    bool fine = uchardet_handle_data(u, p, n < GUESS_BYTES ? n : GUESS_BYTES) == 0;
    uchardet_data_end(u);
    snprintf(out, MAX_NAME, "%s", fine ? uchardet_get_charset(u) : "");
    uchardet_delete(u);
    return out[0] != 0;
}

/* As the web reads these names (Latin-1 and ASCII are Windows-1252), and as ICU knows
 * uchardet's. */
static const char *as_the_web(const char *name)
{
    static const char *const of[][2] = {
        {"iso-8859-1", "windows-1252"}, {"iso8859-1", "windows-1252"},
        {"latin1", "windows-1252"},     {"l1", "windows-1252"},
        {"ascii", "windows-1252"},      {"us-ascii", "windows-1252"},
        {"uhc", "windows-949"},         {"mac-cyrillic", "x-mac-cyrillic"}};
    for (size_t i = 0; i < sizeof of / sizeof of[0]; i++)
        if (strcasecmp(name, of[i][0]) == 0)
            return of[i][1];
    return name;
}

/* false: ICU does not know the name. */
static bool convert(sp_buf *out, const char *name, const char *p, size_t n)
{
    UErrorCode st = U_ZERO_ERROR;
    UConverter *from = ucnv_open(name, &st), *to = ucnv_open("UTF-8", &st);
    UChar pivot[1024], *in = pivot, *behind = pivot;
    char block[4096];
    const char *s = p;
    bool known = U_SUCCESS(st), first = true, more = known;
    while (more) {
        char *t = block;
        st = U_ZERO_ERROR;
        ucnv_convertEx(to, from, &t, block + sizeof block, &s, p + n, pivot, &in, &behind,
                       pivot + 1024, first, true, &st);
        sp_buf_put(out, block, (size_t)(t - block));
        first = false;
        more = st == U_BUFFER_OVERFLOW_ERROR && !out->failed;
    }
    ucnv_close(from);
    ucnv_close(to);
    return known;
}

/* "\r\n" and a lone "\r" become "\n", in place. */
static void one_line_end(sp_buf *b)
{
    size_t k = 0;
    for (size_t i = 0; i < b->len; i++) {
        if (b->p[i] != '\r')
            b->p[k++] = b->p[i];
        else if (i + 1 == b->len || b->p[i + 1] != '\n')
            b->p[k++] = '\n';
    }
    if (b->p)
        b->p[b->len = k] = 0;
}

static void say_damage(sp_rag_reading *r, const char *name, const sp_buf *text)
{
    size_t n = 0;
    for (const char *p = sp_buf_str(text);
         (p = memmem(p, text->len - (size_t)(p - text->p), "\xef\xbf\xbd", 3)); p += 3)
        n++;
    if (n)
        sp_rag_remark(r, "%zu %s not valid as %s and read as U+FFFD", n,
                      n == 1 ? "byte or character is" : "bytes or characters are", name);
}

/* The encoding's name, in `name` or static. */
static const char *find_encoding(char name[MAX_NAME], bool markup, const char *charset,
                                 const char *p, size_t n)
{
    size_t n_good, n_bad;
    count_utf8(p, n, &n_good, &n_bad);
    bool declared =
        charset ? snprintf(name, MAX_NAME, "%s", charset) > 0 : markup && find_declared(name, p, n);
    /* a declaration that could be read byte by byte is not in UTF-16 */
    bool wide = declared && strncasecmp(name, "utf-16", 6) == 0;
    if (declared && !wide && (strcasecmp(name, "utf-8") != 0 || n_bad == 0))
        return as_the_web(name);
    const char *utf16 = find_wide(p, n);
    if (utf16)
        return utf16;
    if (n_good >= n_bad || !guess(name, p, n)) /* some damage does not make UTF-8 something else */
        return "UTF-8";
    return as_the_web(name);
}

sp_err sp_rag_decode(sp_buf *out, sp_rag_reading *r, bool markup, const char *charset,
                     const char *p, size_t n)
{
    char name[MAX_NAME];
    const mark *m = find_mark(p, n);
    const char *enc = m ? m->name : find_encoding(name, markup, charset, p, n);
    p += m ? m->n : 0;
    n -= m ? m->n : 0;
    if (!convert(out, enc, p, n)) {
        sp_rag_remark(r, "its encoding %.40s is not known here: read as UTF-8", enc);
        enc = "UTF-8";
        (void)convert(out, enc, p, n);
    }
    if (out->failed)
        return SP_FAIL(r->d, SP_NOMEM, "document");
    if (memchr(sp_buf_str(out), 0, out->len < LOOK ? out->len : LOOK))
        return SP_FAIL(r->d, SP_FORMAT, "zero bytes: not a text");
    say_damage(r, enc, out);
    one_line_end(out);
    return SP_OK;
}
