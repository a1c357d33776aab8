#include "rag/parse.h"

#include "base/utf8.h"

#include <jansson.h>
#include <string.h>
#include <strings.h>

enum { MAX_LINE = 16 << 20, MAX_COLS = 256, MAX_TERM = 80 };

/* --- parts ------------------------------------------------------------------------------------ */

/* Valid UTF-8, no control characters; out may end in space. */
static void clean(sp_buf *out, const char *p, size_t n, bool keep_lines)
{
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        size_t k = sp_utf8_decode(&cp, p + i, n - i);
        if (k == 0) {
            sp_buf_puts(out, "\xef\xbf\xbd");
            i++;
            continue;
        }
        bool space = sp_utf8_is_space(cp) || cp < 0x20 || cp == 0x7f;
        if (!space)
            sp_buf_put(out, p + i, k);
        else if (keep_lines && (cp == '\n' || cp == ' ' || cp == '\t'))
            sp_buf_putc(out, (char)cp);
        else if (!keep_lines && out->len && out->p[out->len - 1] != ' ')
            sp_buf_putc(out, ' ');
        i += k;
    }
    while (out->len && (out->p[out->len - 1] == ' ' || out->p[out->len - 1] == '\n'))
        out->p[--out->len] = 0;
}

sp_err sp_rag_give(const sp_rag_sink *to, sp_rag_kind kind, int level, const char *p, size_t n, bool keep_lines)
{
    sp_buf b = {0};
    sp_err err = SP_OK;
    clean(&b, p, n, keep_lines);
    if (kind == SP_RAG_TERM && b.len > MAX_TERM)
        b.len = 0; /* too long for a name */
    for (size_t at = 0; at < b.len && err == SP_OK;) {
        size_t k = b.len - at;
        if (k > SP_RAG_PART_BYTES)
            k = SP_RAG_PART_BYTES - sp_utf8_tail(b.p + at, SP_RAG_PART_BYTES);
        err = to->put(to->arg, &(sp_rag_part){kind, level, b.p + at, k});
        at += k;
    }
    if (b.failed)
        err = SP_NOMEM;
    sp_buf_fini(&b);
    return err;
}

/* The next line, without its end; false at the end. */
static bool next_line(const char **line, size_t *len, const char **p, const char *end)
{
    if (*p == end)
        return false;
    const char *nl = memchr(*p, '\n', (size_t)(end - *p));
    *line = *p;
    *len = (size_t)((nl ? nl : end) - *p);
    *p = nl ? nl + 1 : end;
    if (*len && (*line)[*len - 1] == '\r')
        (*len)--;
    return true;
}

static bool is_blank(const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (p[i] != ' ' && p[i] != '\t' && p[i] != '\f')
            return false;
    return true;
}

/* Paragraphs end at blank lines, form feeds and the part limit, so a file of one line stays within it too. */
sp_err sp_rag_parse_text(const sp_rag_sink *to, const char *p, size_t n)
{
    const char *end = p + n, *line, *start = p;
    size_t len;
    sp_err err = SP_OK;
    while (err == SP_OK && next_line(&line, &len, &p, end)) {
        if (!is_blank(line, len) && p < end && (size_t)(p - start) < SP_RAG_PART_BYTES)
            continue;
        while (err == SP_OK && start < p) {
            size_t k = (size_t)(p - start);
            if (k > SP_RAG_PART_BYTES)
                k = SP_RAG_PART_BYTES - sp_utf8_tail(start, SP_RAG_PART_BYTES);
            err = sp_rag_give(to, SP_RAG_TEXT, 0, start, k, false);
            start += k;
        }
    }
    return err;
}

/* --- Markdown --------------------------------------------------------------------------------- */

/* `code` and [text](target) are terms; the target leaves the text. */
static sp_err give_inline(const sp_rag_sink *to, sp_rag_kind kind, int level, const char *p, size_t n)
{
    sp_buf b = {0};
    sp_err err = SP_OK;
    for (size_t i = 0; i < n && err == SP_OK;) {
        char shut = p[i] == '`' ? '`' : p[i] == '[' ? ']' : 0;
        const char *close = shut ? memchr(p + i + 1, shut, n - i - 1) : NULL;
        const char *paren = close && shut == ']' && close + 1 < p + n && close[1] == '(' ? memchr(close, ')', (size_t)(p + n - close)) : NULL;
        if (!close || (shut == ']' && !paren)) {
            sp_buf_putc(&b, p[i++]);
            continue;
        }
        size_t len = (size_t)(close - (p + i + 1));
        err = sp_rag_give(to, SP_RAG_TERM, 0, p + i + 1, len, false);
        sp_buf_put(&b, p + i + 1, len);
        i = (size_t)((paren ? paren : close) + 1 - p);
    }
    if (err == SP_OK)
        err = b.failed ? SP_NOMEM : sp_rag_give(to, kind, level, sp_buf_str(&b), b.len, false);
    sp_buf_fini(&b);
    return err;
}

static int heading_level(const char *p, size_t n)
{
    size_t k = 0;
    while (k < n && k < 7 && p[k] == '#')
        k++;
    return k >= 1 && k <= 6 && k < n && p[k] == ' ' ? (int)k : 0;
}

static bool is_rule(const char *p, size_t n, char c)
{
    size_t k = 0;
    while (k < n && p[k] == c)
        k++;
    return k >= 2 && is_blank(p + k, n - k);
}

sp_err sp_rag_parse_markdown(const sp_rag_sink *to, const char *p, size_t n)
{
    const char *end = p + n, *line;
    size_t len;
    bool titled = false, code = false;
    sp_buf para = {0};
    sp_err err = SP_OK;
    while (err == SP_OK && next_line(&line, &len, &p, end)) {
        bool fence = len >= 3 && (memcmp(line, "```", 3) == 0 || memcmp(line, "~~~", 3) == 0);
        int level = code ? 0 : heading_level(line, len);
        int under = code || !para.len ? 0 : is_rule(line, len, '=') ? 1 : is_rule(line, len, '-') ? 2 : 0;
        bool item = len > 1 && (line[0] == '-' || line[0] == '*' || line[0] == '+') && line[1] == ' ';
        if (level || under || fence || item || (!code && is_blank(line, len)) || para.len > SP_RAG_PART_BYTES) {
            if (code)
                err = sp_rag_give(to, SP_RAG_TEXT, 0, sp_buf_str(&para), para.len, true);
            else if (under && !titled)
                titled = true, err = give_inline(to, SP_RAG_TITLE, 0, sp_buf_str(&para), para.len);
            else
                err = give_inline(to, under ? SP_RAG_HEADING : SP_RAG_TEXT, under, sp_buf_str(&para), para.len);
            sp_buf_clear(&para);
        }
        if (err == SP_OK && level) {
            size_t cut = (size_t)level + 1, to_end = len;
            while (to_end > cut && (line[to_end - 1] == '#' || line[to_end - 1] == ' '))
                to_end--;
            err = give_inline(to, level == 1 && !titled ? SP_RAG_TITLE : SP_RAG_HEADING, level, line + cut, to_end - cut);
            titled = titled || level == 1;
        } else if (fence) {
            code = !code;
        } else if (!level && !under && (code || !is_blank(line, len))) {
            sp_buf_put(&para, line, len);
            sp_buf_putc(&para, '\n');
        }
        if (para.failed)
            err = SP_NOMEM;
    }
    if (err == SP_OK)
        err = code ? sp_rag_give(to, SP_RAG_TEXT, 0, sp_buf_str(&para), para.len, true) : give_inline(to, SP_RAG_TEXT, 0, sp_buf_str(&para), para.len);
    sp_buf_fini(&para);
    return err;
}

/* --- records ---------------------------------------------------------------------------------- */

/* A record: its title as a heading, then "name: value" lines of the rest; a single text stands alone. */
static sp_err give_record(const sp_rag_sink *to, const json_t *j)
{
    const char *key;
    json_t *v;
    sp_buf b = {0};
    const json_t *title = json_object_get(j, "title"), *text = json_object_get(j, "text");
    sp_err err = SP_OK;
    if (json_is_string(title))
        err = sp_rag_give(to, SP_RAG_HEADING, 1, json_string_value(title), json_string_length(title), false);
    if (json_is_string(text))
        sp_buf_put(&b, json_string_value(text), json_string_length(text));
    json_object_foreach ((json_t *)(uintptr_t)j, key, v) {
        char *other = json_is_string(v) ? NULL : json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY);
        if ((v != title || !json_is_string(v)) && (v != text || !json_is_string(v)) && !json_is_null(v))
            sp_buf_printf(&b, "%s%s: %s", b.len ? "\n" : "", key, other ? other : json_is_string(v) ? json_string_value(v) : "");
        free(other);
    }
    if (err == SP_OK)
        err = b.failed ? SP_NOMEM : sp_rag_give(to, SP_RAG_TEXT, 0, sp_buf_str(&b), b.len, true);
    sp_buf_fini(&b);
    return err;
}

static bool is_deep(const char *p, size_t n)
{
    size_t depth = 0;
    for (size_t i = 0; i < n; i++) /* brackets in strings count too: a bound, not a parser */
        if ((p[i] == '[' || p[i] == '{') && ++depth > 512)
            return true;
        else if ((p[i] == ']' || p[i] == '}') && depth)
            depth--;
    return false;
}

sp_err sp_rag_parse_jsonl(const sp_rag_sink *to, const char *p, size_t n, sp_diag *d)
{
    const char *end = p + n, *line;
    size_t len, at = 0;
    sp_err err = SP_OK;
    while (err == SP_OK && next_line(&line, &len, &p, end)) {
        json_error_t je;
        at++;
        if (is_blank(line, len))
            continue;
        if (len > MAX_LINE)
            return SP_FAIL(d, SP_LIMIT, "line %zu has %zu bytes, at most %d are read", at, len, MAX_LINE);
        json_t *j = is_deep(line, len) ? NULL : json_loadb(line, len, 0, &je);
        if (!json_is_object(j))
            err = SP_FAIL(d, SP_FORMAT, "line %zu is not a JSON object", at);
        else
            err = give_record(to, j);
        json_decref(j);
    }
    return err;
}

bool sp_rag_csv_field(sp_buf *out, const char **p, const char *end, bool *more)
{
    bool quoted = *p < end && **p == '"';
    *p += quoted;
    for (; *p < end; (*p)++) {
        if (quoted && **p == '"') {
            if (*p + 1 < end && (*p)[1] == '"')
                (*p)++;
            else {
                quoted = false;
                continue;
            }
        } else if (!quoted && (**p == ',' || **p == '\n')) {
            break;
        }
        if (**p != '\r' || quoted)
            sp_buf_putc(out, **p);
    }
    *more = *p < end && **p == ',';
    *p += *p < end;
    return !quoted;
}

sp_err sp_rag_parse_csv(const sp_rag_sink *to, const char *p, size_t n, sp_diag *d)
{
    const char *end = p + n;
    sp_buf name[MAX_COLS] = {{0}}, row = {0}, field = {0};
    size_t n_name = 0, n_row = 0;
    sp_err err = SP_OK;
    bool more = true;
    for (; more && p < end && err == SP_OK; n_name++) {
        if (n_name == MAX_COLS)
            err = SP_FAIL(d, SP_LIMIT, "more than %d columns", MAX_COLS);
        else if (!sp_rag_csv_field(&name[n_name], &p, end, &more))
            err = SP_FAIL(d, SP_FORMAT, "row 1: a quote is never closed");
        if (err != SP_OK)
            break;
    }
    while (p < end && err == SP_OK) {
        n_row++;
        more = true;
        sp_buf_clear(&row);
        for (size_t i = 0; more && err == SP_OK; i++) {
            sp_buf_clear(&field);
            if (!sp_rag_csv_field(&field, &p, end, &more))
                err = SP_FAIL(d, SP_FORMAT, "row %zu: a quote is never closed", n_row + 1);
            else if (i >= n_name)
                err = SP_FAIL(d, SP_FORMAT, "row %zu has more fields than the first row's %zu", n_row + 1, n_name);
            else if (field.len)
                sp_buf_printf(&row, "%s%s: %s", row.len ? "\n" : "", sp_buf_str(&name[i]), sp_buf_str(&field));
            if (row.len > MAX_LINE)
                err = SP_FAIL(d, SP_LIMIT, "row %zu has more than %d bytes", n_row + 1, MAX_LINE);
        }
        if (err == SP_OK)
            err = row.failed || field.failed ? SP_NOMEM : sp_rag_give(to, SP_RAG_TEXT, 0, sp_buf_str(&row), row.len, true);
    }
    for (size_t i = 0; i < MAX_COLS; i++)
        sp_buf_fini(&name[i]);
    sp_buf_fini(&row);
    sp_buf_fini(&field);
    return err;
}

/* --- by ending -------------------------------------------------------------------------------- */

enum format { NONE, TEXT, MARKDOWN, HTML, JSONL, CSV, PDF };

static enum format format_of(const char *name)
{
    static const struct {
        const char *end;
        enum format format;
    } of[] = {{".txt", TEXT}, {".text", TEXT}, {".md", MARKDOWN}, {".markdown", MARKDOWN}, {".html", HTML}, {".htm", HTML}, {".xhtml", HTML},
              {".jsonl", JSONL}, {".ndjson", JSONL}, {".csv", CSV}, {".pdf", PDF}};
    const char *dot = strrchr(name, '.');
    for (size_t i = 0; dot && i < sizeof of / sizeof of[0]; i++)
        if (strcasecmp(dot, of[i].end) == 0)
            return of[i].format;
    return NONE;
}

bool sp_rag_can_parse(const char *name)
{
    return format_of(name) != NONE;
}

sp_err sp_rag_parse(const sp_rag_sink *to, const char *name, const char *p, size_t n, sp_diag *d)
{
    enum format f = format_of(name);
    if (f != PDF && f != NONE && memchr(p, 0, n < 4096 ? n : 4096))
        return SP_FAIL(d, SP_FORMAT, "holds zero bytes: it is not text");
    switch (f) {
    case TEXT: return sp_rag_parse_text(to, p, n);
    case MARKDOWN: return sp_rag_parse_markdown(to, p, n);
    case HTML: return sp_rag_parse_html(to, p, n, d);
    case JSONL: return sp_rag_parse_jsonl(to, p, n, d);
    case CSV: return sp_rag_parse_csv(to, p, n, d);
    case PDF: return sp_rag_parse_pdf(to, p, n, d);
    default: return SP_FAIL(d, SP_UNSUP, "%.80s: only .txt, .md, .html, .jsonl, .csv and .pdf are read", name);
    }
}
