/* Workbooks: .xlsx (ECMA-376, SpreadsheetML). A sheet is a heading; each row below its first
 * becomes "name: value" lines under the first row's names. */
#include "base/mem.h"
#include "rag/archive.h"
#include "rag/xml.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_COLS = 1024, MAX_FORMATS = 65536, MAX_CUSTOM = 1024, MAX_ROW = 1 << 20 };

typedef struct strings { /* shared ones: text of each, NUL-terminated, one behind the other */
    sp_buf text;
    size_t *at;
    size_t n, cap;
    bool in_t;
    int phonetic; /* open elements of readings, which are left out */
    sp_rag_reading *r;
} strings;

typedef struct formats { /* which cell styles are dates */
    bool is_date[MAX_FORMATS];
    size_t n;
    bool in_cells;
    unsigned custom[MAX_CUSTOM]; /* numbers of the workbook's own formats that are dates */
    size_t n_custom;
} formats;

typedef struct sheet {
    sp_rag_reading *r;
    const strings *shared;
    const formats *formats;
    bool date1904;
    sp_buf name[MAX_COLS];
    size_t n_name, col, n_row, n_given;
    sp_buf row, value, first; /* first: the row of names as text, for a sheet that has no other */
    char type[16];
    size_t style;
    bool in_value, wide; /* wide: the row goes on behind MAX_COLS */
} sheet;

/* --- shared strings --------------------------------------------------------------------------- */

static sp_err on_string(void *arg, const char *name, sp_xml *at)
{
    strings *s = arg;
    (void)at;
    if (strcmp(name, "si") == 0) {
        if (!sp_mem_has_room(&s->at, &s->cap, s->n, sizeof *s->at))
            return SP_FAIL(s->r->d, SP_NOMEM, "document");
        s->at[s->n++] = s->text.len;
    }
    s->in_t = strcmp(name, "t") == 0;
    s->phonetic += strcmp(name, "rPh") == 0;
    return SP_OK;
}

static sp_err on_string_end(void *arg, const char *name)
{
    strings *s = arg;
    s->in_t = false;
    s->phonetic -= strcmp(name, "rPh") == 0;
    if (strcmp(name, "si") == 0)
        sp_buf_putc(&s->text, 0);
    return s->text.failed ? SP_FAIL(s->r->d, SP_NOMEM, "document") : SP_OK;
}

static sp_err on_string_text(void *arg, const char *p, size_t n)
{
    strings *s = arg;
    if (s->in_t && !s->phonetic)
        sp_buf_put(&s->text, p, n);
    return SP_OK;
}

/* --- styles ----------------------------------------------------------------------------------- */

/* A format code of days or hours: y, m, d or h outside of quotes and brackets; "General", "0.00"
 * and "[Red]#" have none. "[h]:mm" is a duration. */
static bool is_date_code(const char *p)
{
    if (strstr(p, "[h") || strstr(p, "[m") || strstr(p, "[s"))
        return false;
    for (; *p; p++) {
        if (*p == '"' || *p == '[') {
            const char *stop = strchr(p + 1, *p == '"' ? '"' : ']');
            if (!stop)
                return false;
            p = stop;
        } else if (*p == '\\' && p[1]) {
            p++;
        } else if (*p == 'y' || *p == 'd' || *p == 'Y' || *p == 'D' || *p == 'h' || *p == 'm') {
            return true;
        }
    }
    return false;
}

static bool is_date_number(const formats *f, unsigned number)
{
    /* 46 is [h]:mm:ss (ECMA-376-1, 18.8.30) */
    if ((number >= 14 && number <= 22) || number == 45 || number == 47)
        return true;
    for (size_t i = 0; i < f->n_custom; i++)
        if (f->custom[i] == number)
            return true;
    return false;
}

static sp_err on_format(void *arg, const char *name, sp_xml *at)
{
    formats *f = arg;
    char number[16], code[256];
    if (strcmp(name, "numFmt") == 0) {
        sp_xml_attr(number, sizeof number, at, "numFmtId");
        sp_xml_attr(code, sizeof code, at, "formatCode");
        if (is_date_code(code) && f->n_custom < MAX_CUSTOM)
            f->custom[f->n_custom++] = (unsigned)strtoul(number, NULL, 10);
    } else if (strcmp(name, "cellXfs") == 0) {
        f->in_cells = true;
    } else if (strcmp(name, "xf") == 0 && f->in_cells && f->n < MAX_FORMATS) {
        sp_xml_attr(number, sizeof number, at, "numFmtId");
        f->is_date[f->n++] = is_date_number(f, (unsigned)strtoul(number, NULL, 10));
    }
    return SP_OK;
}

static sp_err on_format_end(void *arg, const char *name)
{
    formats *f = arg;
    f->in_cells = f->in_cells && strcmp(name, "cellXfs") != 0;
    return SP_OK;
}

/* Days as a date and, for a fraction, a time. They count from 1904-01-01, or from 1899-12-30 and
 * before March 1900 from the day after, as that calendar has a 29 February 1900. (ECMA-376-1,
 * 18.17.4; Hinnant, "chrono-compatible low-level date algorithms".) */
static void put_date(sp_buf *out, double serial, bool from_1904)
{
    double whole = floor(serial), seconds = floor((serial - whole) * 86400 + 0.5);
    if (!(whole >= 0 && whole < 2957000)) /* 9995 */
        return;
    if (seconds >= 86400) {
        seconds = 0;
        whole++;
    }
    bool has_day = from_1904 || whole >= 1;
    if (!from_1904 && whole >= 1 && whole < 60)
        whole++;
    long days = (long)whole - (from_1904 ? 24107 : 25569); /* since 1970-01-01 */
    long z = days + 719468, era = (z >= 0 ? z : z - 146096) / 146097, doe = z - era * 146097;
    long yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365,
         doy = doe - (365 * yoe + yoe / 4 - yoe / 100), mp = (5 * doy + 2) / 153;
    long day = doy - (153 * mp + 2) / 5 + 1, month = mp < 10 ? mp + 3 : mp - 9,
         year = yoe + era * 400 + (month <= 2);
    int t = (int)seconds;
    if (has_day)
        sp_buf_printf(out, "%04ld-%02ld-%02ld", year, month, day);
    if (t || !has_day)
        sp_buf_printf(out, "%s%02d:%02d:%02d", has_day ? " " : "", t / 3600, t / 60 % 60, t % 60);
}

/* --- rows ------------------------------------------------------------------------------------- */

/* "BC12": 54, from 0. */
static size_t column_of(const char *ref)
{
    size_t n = 0;
    for (; *ref >= 'A' && *ref <= 'Z' && n < 100000; ref++)
        n = n * 26 + (size_t)(*ref - 'A') + 1;
    return n ? n - 1 : SIZE_MAX;
}

static sp_err on_cell(void *arg, const char *name, sp_xml *at)
{
    sheet *s = arg;
    char ref[16], style[16];
    if (strcmp(name, "row") == 0) {
        s->n_row++;
        s->col = 0;
        s->wide = false;
        sp_buf_clear(&s->row);
    } else if (strcmp(name, "c") == 0) {
        sp_xml_attr(ref, sizeof ref, at, "r");
        sp_xml_attr(s->type, sizeof s->type, at, "t");
        sp_xml_attr(style, sizeof style, at, "s");
        s->col = column_of(ref) != SIZE_MAX ? column_of(ref) : s->col;
        s->style = strtoul(style, NULL, 10);
        sp_buf_clear(&s->value);
    } else if (strcmp(name, "v") == 0 || strcmp(name, "t") == 0) {
        s->in_value = true;
    }
    return SP_OK;
}

/* Excel writes 17 digits of a number and shows 15. */
static void shorten(sp_buf *value)
{
    char *end;
    double v = strtod(sp_buf_str(value), &end);
    if (value->len <= 15 || *end || !isfinite(v) || !strpbrk(sp_buf_str(value), ".eE"))
        return;
    sp_buf_clear(value);
    sp_buf_printf(value, "%.15g", v);
}

/* The cell's value as it reads. */
static void resolve(sheet *s)
{
    const char *v = sp_buf_str(&s->value);
    char *end;
    if (strcmp(s->type, "s") == 0) {
        size_t i = strtoul(v, NULL, 10);
        sp_buf_clear(&s->value);
        if (i < s->shared->n)
            sp_buf_puts(&s->value, s->shared->text.p + s->shared->at[i]);
    } else if (strcmp(s->type, "b") == 0) {
        bool yes = v[0] == '1';
        sp_buf_clear(&s->value);
        sp_buf_puts(&s->value, yes ? "true" : "false");
    } else if (s->type[0] && strcmp(s->type, "n") != 0) {
        return; /* text, an error, or a date as text */
    } else if (s->style >= s->formats->n || !s->formats->is_date[s->style]) {
        shorten(&s->value);
    } else {
        double serial = strtod(v, &end);
        sp_buf date = {0};
        if (end != v)
            put_date(&date, serial, s->date1904);
        if (date.len) {
            sp_buf_clear(&s->value);
            sp_buf_put(&s->value, date.p, date.len);
        }
        sp_buf_fini(&date);
    }
}

static void end_cell(sheet *s)
{
    resolve(s);
    s->wide = s->wide || (s->value.len && s->col >= MAX_COLS);
    if (!s->value.len || s->col >= MAX_COLS) {
        s->col++;
        return;
    }
    bool names = s->n_given == 0 && s->first.len == 0;
    if (names) {
        sp_buf_put(&s->name[s->col], s->value.p, s->value.len);
        s->n_name = s->col + 1 > s->n_name ? s->col + 1 : s->n_name;
        sp_buf_printf(&s->row, "%s%s", s->row.len ? " | " : "", sp_buf_str(&s->value));
    } else if (s->row.len <= MAX_ROW) {
        const sp_buf *name = &s->name[s->col];
        sp_buf_printf(&s->row, "%s", s->row.len ? "\n" : "");
        if (name->len)
            sp_buf_printf(&s->row, "%s: ", sp_buf_str(name));
        sp_buf_put(&s->row, s->value.p, s->value.len);
    }
    s->col++;
}

static sp_err end_row(sheet *s)
{
    if (s->row.failed || s->value.failed || s->first.failed)
        return SP_FAIL(s->r->d, SP_NOMEM, "document");
    if (!s->row.len)
        return SP_OK;
    if (s->row.len > MAX_ROW) {
        sp_rag_bad(s->r, "row %zu has more than %d bytes", s->n_row, MAX_ROW);
        return sp_rag_on_time(s->r);
    }
    if (s->wide)
        sp_rag_bad(s->r, "row %zu has more than %d columns: the others are left out", s->n_row,
                   MAX_COLS);
    if (!s->first.len) { /* the names */
        sp_buf_put(&s->first, s->row.p, s->row.len);
        return sp_rag_on_time(s->r);
    }
    s->n_given++;
    return sp_rag_give(s->r, SP_RAG_TEXT, 0, s->row.p, s->row.len, true);
}

static sp_err on_cell_end(void *arg, const char *name)
{
    sheet *s = arg;
    if (strcmp(name, "v") == 0 || strcmp(name, "t") == 0)
        s->in_value = false;
    else if (strcmp(name, "c") == 0)
        end_cell(s);
    else if (strcmp(name, "row") == 0)
        return end_row(s);
    return SP_OK;
}

static sp_err on_cell_text(void *arg, const char *p, size_t n)
{
    sheet *s = arg;
    if (s->in_value)
        sp_buf_put(&s->value, p, n);
    return SP_OK;
}

static sp_err read_sheet(sp_rag_reading *r, const sp_rag_member *m, const strings *shared,
                         const formats *f, bool date1904)
{
    sheet *s = sp_mem_alloc(sizeof *s);
    if (!s)
        return SP_FAIL(r->d, SP_NOMEM, "document");
    s->r = r;
    s->shared = shared;
    s->formats = f;
    s->date1904 = date1904;
    const sp_xml_walker w = {on_cell, on_cell_end, on_cell_text, s};
    sp_err err = sp_xml_walk(&w, r, m->name, sp_buf_str(&m->data), m->data.len);
    if (err == SP_OK && !s->n_given && s->first.len)
        err = sp_rag_give(r, SP_RAG_TEXT, 0, s->first.p, s->first.len, false);
    for (size_t i = 0; i < MAX_COLS; i++)
        sp_buf_fini(&s->name[i]);
    sp_buf_fini(&s->row);
    sp_buf_fini(&s->value);
    sp_buf_fini(&s->first);
    sp_mem_free(s);
    return err;
}

/* --- the workbook ----------------------------------------------------------------------------- */

typedef struct book {
    sp_rag_reading *r;
    const sp_rag_archive *a;
    const strings *shared;
    const formats *formats;
    bool date1904;
} book;

static bool wanted(const char *name)
{
    return (strncmp(name, "xl/worksheets/", 14) == 0 &&
            strncmp(name, "xl/worksheets/_rels", 19) != 0) ||
           strcmp(name, "xl/workbook.xml") == 0 || strcmp(name, "xl/sharedStrings.xml") == 0 ||
           strcmp(name, "xl/styles.xml") == 0 || strcmp(name, "xl/_rels/workbook.xml.rels") == 0;
}

/* *out NULL: there is none. path: where the workbook says it is. */
static sp_err find_sheet(const sp_rag_member **out, char path[SP_XML_PATH + 4], const book *b,
                         const char *id)
{
    const sp_rag_member *rels = sp_rag_archive_find(b->a, "xl/_rels/workbook.xml.rels");
    char target[SP_XML_PATH] = "";
    if (rels)
        SP_TRY(sp_xml_relation(target, sizeof target, b->r, rels->name, &rels->data, id, NULL));
    snprintf(path, SP_XML_PATH + 4, "%s%s", target[0] == '/' ? "" : "xl/",
             target[0] == '/' ? target + 1 : target);
    *out = sp_rag_archive_find(b->a, path);
    return SP_OK;
}

static sp_err on_book(void *arg, const char *name, sp_xml *at)
{
    book *b = arg;
    char v[256], id[64], path[SP_XML_PATH + 4];
    const sp_rag_member *m;
    if (strcmp(name, "workbookPr") == 0) {
        sp_xml_attr(v, sizeof v, at, "date1904");
        b->date1904 = strcmp(v, "1") == 0 || strcmp(v, "true") == 0;
    }
    if (strcmp(name, "sheet") != 0)
        return SP_OK;
    sp_xml_attr(id, sizeof id, at, "r:id");
    sp_xml_attr(v, sizeof v, at, "name");
    SP_TRY(find_sheet(&m, path, b, id));
    if (!m &&
        (strncmp(path, "xl/chartsheets/", 15) == 0 || strncmp(path, "xl/dialogsheets/", 16) == 0))
        return SP_OK; /* no cells */
    if (!m) {
        sp_rag_bad(b->r, "sheet %.80s is not in the archive", v);
        return SP_OK;
    }
    SP_TRY(sp_rag_give(b->r, SP_RAG_HEADING, 1, v, strlen(v), false));
    sp_err err = read_sheet(b->r, m, b->shared, b->formats, b->date1904);
    if (err == SP_FORMAT) {
        sp_rag_bad(b->r, "sheet %.80s: %.120s", v, b->r->d->msg);
        err = SP_OK;
    }
    return err;
}

static sp_err read_book(sp_rag_reading *r, const sp_rag_archive *a, strings *s, formats *f)
{
    book b = {r, a, s, f, false};
    const sp_rag_member *texts = sp_rag_archive_find(a, "xl/sharedStrings.xml"),
                        *looks = sp_rag_archive_find(a, "xl/styles.xml"),
                        *index = sp_rag_archive_find(a, "xl/workbook.xml");
    const sp_xml_walker text = {on_string, on_string_end, on_string_text, s},
                        look = {.start = on_format, .end = on_format_end, .arg = f},
                        sheets = {.start = on_book, .arg = &b};
    if (!index)
        return SP_FAIL(r->d, SP_FORMAT, "its archive holds no xl/workbook.xml");
    if (texts)
        SP_TRY(sp_xml_walk(&text, r, texts->name, sp_buf_str(&texts->data), texts->data.len));
    if (looks)
        SP_TRY(sp_xml_walk(&look, r, looks->name, sp_buf_str(&looks->data), looks->data.len));
    return sp_xml_walk(&sheets, r, index->name, sp_buf_str(&index->data), index->data.len);
}

sp_err sp_rag_parse_xlsx(sp_rag_reading *r, const char *p, size_t n)
{
    sp_rag_archive a;
    strings s = {.r = r};
    formats *f = sp_mem_alloc(sizeof *f);
    if (!f)
        return SP_FAIL(r->d, SP_NOMEM, "document");
    sp_err err = sp_rag_archive_open(&a, r, wanted, p, n);
    if (err == SP_OK)
        err = read_book(r, &a, &s, f);
    sp_rag_archive_fini(&a);
    sp_buf_fini(&s.text);
    sp_mem_free(s.at);
    sp_mem_free(f);
    return err;
}
