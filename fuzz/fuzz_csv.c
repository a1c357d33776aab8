/* Any bytes as CSV, in any encoding: rows are whole UTF-8 within their limit, a bad row is named, and reading again gives the same. The fields of a row
 * that is written with quotes come back as they were. */
#include "fuzz.h"

#include "base/utf8.h"
#include "rag/parse.h"

#include <string.h>

typedef struct seen {
    size_t n_part, n_bytes;
} seen;

static sp_err take(void *arg, const sp_rag_part *part)
{
    seen *s = arg;
    SP_ASSERT(part->n > 0 && part->n <= SP_RAG_PART_BYTES && sp_utf8_is_valid(part->p, part->n));
    s->n_part++;
    s->n_bytes += part->n;
    return SP_OK;
}

static seen read_once(const char *name, const char *p, size_t n)
{
    seen s = {0, 0};
    sp_diag d = {0};
    sp_rag_report report = {0};
    const sp_rag_sink sink = {take, &s};
    sp_err err = sp_rag_parse(&sink, &report, NULL, name, p, n, &d);
    SP_ASSERT(err == SP_OK || d.msg[0]);
    SP_ASSERT(err != SP_OK || s.n_part > 0 || report.why.len > 0);
    SP_ASSERT(report.n_bad == 0 || report.notes.len > 0);
    sp_rag_report_fini(&report);
    return s;
}

/* Bytes, cut at each 0x1f, as fields of one row. */
static void write_and_read(const char *p, size_t n, char separator)
{
    sp_buf row = {0}, field = {0};
    for (size_t i = 0; i <= n; i++) {
        if (i == 0 || (i < n && p[i] == 0x1f))
            sp_buf_puts(&row, i ? "\"" : "");
        if (i == 0 || (i < n && p[i] == 0x1f)) {
            if (i)
                sp_buf_putc(&row, separator);
            sp_buf_putc(&row, '"');
        }
        if (i < n && p[i] != 0x1f) {
            sp_buf_puts(&row, p[i] == '"' ? "\"" : "");
            sp_buf_putc(&row, p[i]);
        }
    }
    sp_buf_putc(&row, '"');
    const char *at = sp_buf_str(&row), *end = at + row.len, *from = p;
    bool more = true;
    while (more) {
        const char *stop = memchr(from, 0x1f, (size_t)(p + n - from));
        size_t k = (size_t)((stop ? stop : p + n) - from);
        sp_buf_clear(&field);
        SP_ASSERT(sp_rag_csv_field(&field, &at, end, separator, &more));
        SP_ASSERT(field.len == k && memcmp(sp_buf_str(&field), from, k) == 0 && more == (stop != NULL));
        from = stop ? stop + 1 : p + n;
    }
    SP_ASSERT(at == end);
    sp_buf_fini(&row);
    sp_buf_fini(&field);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    const char *text = (const char *)p;
    seen a = read_once("x.csv", text, n), b = read_once("x.csv", text, n);
    SP_ASSERT(a.n_part == b.n_part && a.n_bytes == b.n_bytes);
    if (n && !memchr(text, 0x1f, 1))
        write_and_read(text, n, ",;\t|"[n % 4]);
    return 0;
}
