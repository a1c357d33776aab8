/* Which reader a name's ending asks for, and what all readers share: parts, budget, report. */
#include "rag/parse_int.h"

#include "base/clock.h"
#include "base/utf8.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

enum { MAX_TERM = 80 };

/* --- parts ------------------------------------------------------------------------------------ */

/* Valid UTF-8, no control characters, no mark of order; out may end in space. */
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
        if (!space && cp != 0xfeff)
            sp_buf_put(out, p + i, k);
        else if (space && keep_lines && (cp == '\n' || cp == ' ' || cp == '\t'))
            sp_buf_putc(out, (char)cp);
        else if (space && !keep_lines && out->len && out->p[out->len - 1] != ' ')
            sp_buf_putc(out, ' ');
        i += k;
    }
    while (out->len && (out->p[out->len - 1] == ' ' || out->p[out->len - 1] == '\n'))
        out->p[--out->len] = 0;
}

sp_err sp_rag_on_time(sp_rag_reading *r)
{
    if (r->stop && atomic_load(r->stop))
        return SP_FAIL(r->d, SP_CANCEL, "reading it was stopped");
    if (sp_clock_cpu_ns() >= r->cpu_end_ns)
        return SP_FAIL(r->d, SP_TIMEOUT, "reading it took more than %u s of processor time",
                       r->seconds);
    if (sp_clock_ns() >= r->end_ns)
        return SP_FAIL(r->d, SP_TIMEOUT, "reading it took more than %u s: the cores were busy",
                       r->seconds * SP_RAG_WAITS);
    return SP_OK;
}

sp_err sp_rag_spend(sp_rag_reading *r, size_t n_bytes)
{
    if (n_bytes > r->text_left)
        return SP_FAIL(r->d, SP_LIMIT, "it holds more than %zu bytes of text", r->text_bytes);
    r->text_left -= n_bytes;
    return SP_OK;
}

sp_err sp_rag_give(sp_rag_reading *r, sp_rag_kind kind, int level, const char *p, size_t n,
                   bool keep_lines)
{
    sp_buf b = {0};
    sp_err err = sp_rag_on_time(r);
    if (err != SP_OK)
        return err;
    clean(&b, p, n, keep_lines);
    if (kind == SP_RAG_TITLE && r->titled) {
        kind = SP_RAG_HEADING;
        level = 1;
    }
    if (kind == SP_RAG_TERM && b.len > MAX_TERM)
        b.len = 0; /* too long for a name */
    err = b.failed ? SP_FAIL(r->d, SP_NOMEM, "document") : sp_rag_spend(r, b.len);
    for (size_t at = 0; at < b.len && err == SP_OK;) {
        size_t k = b.len - at;
        if (k > SP_RAG_PART_BYTES)
            k = SP_RAG_PART_BYTES - sp_utf8_tail(b.p + at, SP_RAG_PART_BYTES);
        err = r->to->put(r->to->arg, &(sp_rag_part){kind, level, b.p + at, k});
        r->any = r->any || kind == SP_RAG_TEXT;
        r->headed = r->headed || kind == SP_RAG_HEADING || kind == SP_RAG_TITLE;
        at += k;
    }
    sp_buf_fini(&b);
    return err;
}

bool sp_rag_line(const char **line, size_t *len, const char **p, const char *end)
{
    if (*p == end)
        return false;
    const char *nl = memchr(*p, '\n', (size_t)(end - *p));
    *line = *p;
    *len = (size_t)((nl ? nl : end) - *p);
    *p = nl ? nl + 1 : end;
    return true;
}

bool sp_rag_is_blank(const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (p[i] != ' ' && p[i] != '\t' && p[i] != '\f')
            return false;
    return true;
}

/* --- report ----------------------------------------------------------------------------------- */

static void note(sp_buf *to, const char *fmt, va_list args)
{
    char text[256];
    vsnprintf(text, sizeof text, fmt, args);
    text[strlen(text) - sp_utf8_tail(text, strlen(text))] = 0;
    sp_buf_printf(to, "%s%s", to->len ? "\n" : "", text);
}

void sp_rag_bad(sp_rag_reading *r, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    if (r->report->n_bad++ < SP_RAG_NOTES)
        note(&r->report->notes, fmt, args);
    va_end(args);
}

void sp_rag_remark(sp_rag_reading *r, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    if (r->report->notes.len < SP_RAG_NOTES * 256)
        note(&r->report->notes, fmt, args);
    va_end(args);
}

void sp_rag_because(sp_rag_reading *r, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    if (!r->report->why.len)
        note(&r->report->why, fmt, args);
    va_end(args);
}

void sp_rag_report_fini(sp_rag_report *r)
{
    sp_buf_fini(&r->notes);
    sp_buf_fini(&r->why);
    r->n_bad = 0;
}

/* --- by ending -------------------------------------------------------------------------------- */

/* what a reader takes: the file as it is, decoded text, or markup that may declare its encoding */
typedef enum input { BYTES, TEXT, MARKUP } input;

typedef struct format {
    const char *end;
    input in;
    sp_err (*read)(sp_rag_reading *r, const char *p, size_t n);
} format;

static const format formats[] = {
    {".txt", TEXT, sp_rag_parse_text},          {".text", TEXT, sp_rag_parse_text},
    {".log", TEXT, sp_rag_parse_text},
    {".rst", TEXT, sp_rag_parse_text},          {".md", TEXT, sp_rag_parse_markdown},
    {".markdown", TEXT, sp_rag_parse_markdown},
    {".html", MARKUP, sp_rag_parse_html},       {".htm", MARKUP, sp_rag_parse_html},
    {".xhtml", MARKUP, sp_rag_parse_html},
    {".jsonl", TEXT, sp_rag_parse_jsonl},       {".ndjson", TEXT, sp_rag_parse_jsonl},
    {".json", TEXT, sp_rag_parse_json},
    {".ipynb", TEXT, sp_rag_parse_notebook},    {".csv", TEXT, sp_rag_parse_csv},
    {".tsv", TEXT, sp_rag_parse_csv},
    {".pdf", BYTES, sp_rag_parse_pdf},          {".docx", BYTES, sp_rag_parse_docx},
    {".pptx", BYTES, sp_rag_parse_pptx},
    {".xlsx", BYTES, sp_rag_parse_xlsx},        {".odt", BYTES, sp_rag_parse_odf},
    {".odp", BYTES, sp_rag_parse_odf},
    {".ods", BYTES, sp_rag_parse_odf},          {".docm", BYTES, sp_rag_parse_docx},
    {".pptm", BYTES, sp_rag_parse_pptx},
    {".xlsm", BYTES, sp_rag_parse_xlsx},        {".epub", BYTES, sp_rag_parse_epub},
    {".eml", BYTES, sp_rag_parse_mail},
};

/* Source code, and what keeps its lines as well. */
static const char *const code[] = {".c",   ".h",     ".cc",   ".cpp", ".cxx",  ".hpp",   ".hh",
                                   ".cu",  ".py",    ".js",   ".mjs", ".jsx",  ".ts",    ".tsx",
                                   ".go",  ".rs",    ".java", ".kt",  ".cs",   ".swift", ".rb",
                                   ".php", ".pl",    ".lua",  ".sh",  ".bash", ".sql",   ".r",
                                   ".jl",  ".scala", ".ex",   ".hs",  ".ml",   ".clj"};
static const char *const config[] = {".yaml", ".yml",   ".toml",  ".ini", ".cfg",
                                     ".conf", ".proto", ".cmake", ".css", ".vue"};

enum { N_FORMAT = sizeof formats / sizeof formats[0] };

static bool is_one_of(const char *end, const char *const *list, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (strcasecmp(end, list[i]) == 0)
            return true;
    return false;
}

static const format *format_of(const char *name)
{
    static const format of_code = {"", TEXT, sp_rag_parse_code},
                        of_config = {"", TEXT, sp_rag_parse_config};
    const char *dot = strrchr(name, '.'), *slash = strrchr(name, '/');
    if (!dot || (slash && dot < slash))
        return NULL;
    for (size_t i = 0; i < N_FORMAT; i++)
        if (strcasecmp(dot, formats[i].end) == 0)
            return &formats[i];
    return is_one_of(dot, code, sizeof code / sizeof code[0])       ? &of_code
           : is_one_of(dot, config, sizeof config / sizeof config[0]) ? &of_config
                                                                      : NULL;
}

bool sp_rag_can_parse(const char *name)
{
    return format_of(name) != NULL;
}

const char *sp_rag_formats(void)
{
    return ".txt, .log, .rst, .md, .html, .csv, .tsv, .json, .jsonl, .ipynb, .pdf, .docx, .pptx, "
           ".xlsx, .odt, .odp, .ods, .epub, .eml, source code, .yaml and .toml";
}

/* A format that is not read, and what its program can write instead. */
static sp_err refuse(const char *name, sp_diag *d)
{
    static const char *const instead[][2] = {
        {".doc", ".docx"},  {".rtf", ".docx"},     {".pages", ".docx"}, {".xls", ".xlsx"},
        {".xlsb", ".xlsx"}, {".numbers", ".xlsx"}, {".ppt", ".pptx"},   {".mobi", ".epub"},
        {".azw3", ".epub"}, {".msg", ".eml"}};
    const char *dot = strrchr(name, '.');
    for (size_t i = 0; dot && i < sizeof instead / sizeof instead[0]; i++)
        if (strcasecmp(dot, instead[i][0]) == 0)
            return SP_FAIL(d, SP_UNSUP, "%s is not read: save it as %s", instead[i][0],
                           instead[i][1]);
    return SP_FAIL(d, SP_UNSUP, "not a format that is read: those are %s", sp_rag_formats());
}

static sp_err read_as(sp_rag_reading *r, const format *f, const char *p, size_t n)
{
    sp_buf text = {0};
    if (f->in == BYTES)
        return f->read(r, p, n);
    sp_err err = sp_rag_decode(&text, r, f->in == MARKUP, NULL, p, n);
    if (err == SP_OK)
        err = f->read(r, sp_buf_str(&text), text.len);
    sp_buf_fini(&text);
    return err;
}

sp_err sp_rag_parse_within(sp_rag_reading *r, const char *name, const char *p, size_t n)
{
    const format *f = format_of(name);
    bool titled = r->titled;
    if (!f)
        return SP_FAIL(r->d, SP_UNSUP, "not a format that is read");
    r->titled = true;
    r->depth++;
    sp_err err = n ? read_as(r, f, p, n) : SP_OK;
    r->depth--;
    r->titled = titled;
    return err;
}

sp_err sp_rag_parse(const sp_rag_sink *to, sp_rag_report *report, const sp_rag_budget *budget,
                    const char *name, const char *p, size_t n, sp_diag *d)
{
    const sp_rag_budget usual = {SP_RAG_SECONDS, SP_RAG_TEXT_BYTES, NULL};
    const format *f = format_of(name);
    if (!f)
        return refuse(name, d);
    budget = budget ? budget : &usual;
    sp_diag why = {0};
    const uint64_t budget_ns = budget->seconds * UINT64_C(1000000000);
    sp_rag_reading r = {.to = to,
                        .report = report,
                        .cpu_end_ns = sp_clock_cpu_ns() + budget_ns,
                        .end_ns = sp_clock_ns() + SP_RAG_WAITS * budget_ns,
                        .seconds = budget->seconds,
                        .stop = budget->stop,
                        .text_left = budget->text_bytes,
                        .text_bytes = budget->text_bytes,
                        .d = &why};
    sp_err err = n ? read_as(&r, f, p, n) : SP_OK;
    if (err == SP_OK && (report->notes.failed || report->why.failed))
        err = SP_FAIL(&why, SP_NOMEM, "document");
    if (err == SP_OK && !r.any && report->n_bad)
        err = SP_FAIL(&why, SP_FORMAT, "%.*s", (int)strcspn(sp_buf_str(&report->notes), "\n"),
                      sp_buf_str(&report->notes));
    if (err == SP_OK && !r.any)
        sp_rag_because(&r, !n         ? "the file has no bytes"
                           : r.headed ? "it holds headings and no text"
                                      : "it holds no text");
    if (r.any)
        sp_buf_clear(&report->why);
    return err == SP_OK ? SP_OK : SP_FAIL(d, err, "%s", why.msg[0] ? why.msg : sp_err_name(err));
}
