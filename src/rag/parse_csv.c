/* CSV: the dialect is found in the first rows; each row becomes "name: value" lines under the first
 * row's names. */
#include "rag/parse_int.h"

#include "base/mem.h"

#include <string.h>
#include <strings.h>

enum { MAX_COLS = 1024, MAX_ROW = 1 << 20, LOOK_ROWS = 50, LOOK_BYTES = 256 << 10, MAX_OPEN = 16 };

bool sp_rag_csv_field(sp_buf *out, const char **p, const char *end, char separator, bool *more)
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
        } else if (!quoted && (**p == separator || **p == '\n')) {
            break;
        }
        if (**p != '\r' || quoted)
            sp_buf_putc(out, **p);
    }
    *more = *p < end && **p == separator;
    *p += *p < end;
    return !quoted;
}

/* Fields of the next row, without empty ones at its end. 0: a quote stays open. *spaced: a space
 * follows a separator, as in a sentence. */
static size_t count_fields(sp_buf *field, const char **p, const char *end, char separator,
                           bool *spaced)
{
    size_t n = 0, full = 1;
    for (bool more = true; more; n++) {
        sp_buf_clear(field);
        if (!sp_rag_csv_field(field, p, end, separator, &more))
            return 0;
        full = field->len ? n + 1 : full;
        *spaced = *spaced || (n && field->len && field->p[0] == ' ');
    }
    return full;
}

/* The separator under which most rows have as many fields as the first; of equals the one that
 * makes more fields, and then the one that no space follows. Else a comma: one column. */
static char find_separator(const char *p, size_t n)
{
    static const char known[] = ",;\t|";
    const char *end = p + (n < LOOK_BYTES ? n : LOOK_BYTES);
    double best = 0;
    char found = ',';
    sp_buf field = {0};
    for (const char *s = known; *s; s++) {
        const char *at = p;
        bool spaced = false;
        size_t first = count_fields(&field, &at, end, *s, &spaced), rows = 1, same = 1;
        for (; first > 1 && at < end && rows < LOOK_ROWS; rows++)
            same += count_fields(&field, &at, end, *s, &spaced) == first;
        double score = first > 1
                           ? (double)same / (double)rows +
                                 1e-3 * (double)(first < 100 ? first : 100) - (spaced ? 5e-4 : 0)
                           : 0;
        if (score > best) {
            best = score;
            found = *s;
        }
    }
    sp_buf_fini(&field);
    return found;
}

/* Excel's first line "sep=;" says the separator. */
static bool said_separator(char *out, const char **p, const char *end)
{
    const char *nl = memchr(*p, '\n', (size_t)(end - *p));
    if (!nl || nl - *p != 5 || strncasecmp(*p, "sep=", 4) != 0)
        return false;
    *out = (*p)[4];
    *p = nl + 1;
    return true;
}

typedef struct table {
    sp_rag_reading *r;
    char separator;
    sp_buf *name; /* [MAX_COLS] */
    size_t n_name, n_row, n_open;
    sp_buf row, field;
} table;

static sp_err read_names(table *t, const char **p, const char *end)
{
    for (bool more = true; more && *p < end; t->n_name++) {
        if (t->n_name == MAX_COLS)
            return SP_FAIL(t->r->d, SP_LIMIT, "more than %d columns", MAX_COLS);
        sp_buf *name = &t->name[t->n_name];
        if (!sp_rag_csv_field(name, p, end, t->separator, &more))
            return SP_FAIL(t->r->d, SP_FORMAT, "row 1: a quote is never closed");
        if (!name->len && more)
            sp_buf_printf(name, "column %zu", t->n_name + 1);
        if (name->failed)
            return SP_FAIL(t->r->d, SP_NOMEM, "document");
    }
    return SP_OK;
}

/* The rest of a file behind a quote that stays open is read from the next line on. */
static sp_err skip_open(table *t, const char **p, const char *end)
{
    const char *nl = memchr(*p, '\n', (size_t)(end - *p));
    if (++t->n_open > MAX_OPEN) {
        sp_rag_bad(
            t->r,
            "more than %d rows open a quote and never close it: what follows row %zu is not read",
            MAX_OPEN, t->n_row);
        nl = NULL;
    } else {
        sp_rag_bad(t->r, "row %zu: a quote is never closed", t->n_row);
    }
    *p = nl ? nl + 1 : end;
    return sp_rag_on_time(t->r);
}

static sp_err read_row(table *t, const char **p, const char *end)
{
    const char *start = *p;
    size_t extra = 0;
    t->n_row++;
    sp_buf_clear(&t->row);
    bool more = true;
    for (size_t i = 0; more; i++) {
        sp_buf_clear(&t->field);
        if (!sp_rag_csv_field(&t->field, p, end, t->separator, &more)) {
            *p = start;
            return skip_open(t, p, end);
        }
        if (i >= t->n_name)
            extra = t->field.len ? i + 1 : extra;
        else if (t->field.len && t->row.len <= MAX_ROW)
            sp_buf_printf(&t->row, "%s%s: %s", t->row.len ? "\n" : "", sp_buf_str(&t->name[i]),
                          sp_buf_str(&t->field));
    }
    if (t->row.failed || t->field.failed)
        return SP_FAIL(t->r->d, SP_NOMEM, "document");
    if (extra)
        sp_rag_bad(t->r, "row %zu has %zu fields, the first row %zu", t->n_row, extra, t->n_name);
    else if (t->row.len > MAX_ROW)
        sp_rag_bad(t->r, "row %zu has more than %d bytes", t->n_row, MAX_ROW);
    else
        return sp_rag_give(t->r, SP_RAG_TEXT, 0, sp_buf_str(&t->row), t->row.len, true);
    return sp_rag_on_time(t->r);
}

sp_err sp_rag_parse_csv(sp_rag_reading *r, const char *p, size_t n)
{
    const char *end = p + n;
    table t = {.r = r, .n_row = 1, .name = sp_mem_alloc(MAX_COLS * sizeof *t.name)};
    if (!t.name)
        return SP_FAIL(r->d, SP_NOMEM, "document");
    if (!said_separator(&t.separator, &p, end))
        t.separator = find_separator(p, (size_t)(end - p));
    sp_err err = read_names(&t, &p, end);
    while (err == SP_OK && p < end)
        err = read_row(&t, &p, end);
    if (err == SP_OK && t.n_row == 1)
        sp_rag_because(r, "it holds a row of names and no other");
    for (size_t i = 0; i < MAX_COLS; i++)
        sp_buf_fini(&t.name[i]);
    sp_mem_free(t.name);
    sp_buf_fini(&t.row);
    sp_buf_fini(&t.field);
    return err;
}
