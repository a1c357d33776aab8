/* PDF through poppler's pdftotext, in a sandbox: a document can crash or hang that one, not this
 * one. */
#include "rag/parse_int.h"

#include "base/clock.h"
#include "base/sandbox.h"

#include <string.h>

enum { MAX_MEMORY = 1 << 30 };

/* What pdftotext's exit status and its words mean. */
static sp_err judge(sp_rag_reading *r, int code, const sp_buf *said)
{
    const char *words = sp_buf_str(said);
    if (strstr(words, "Incorrect password"))
        return SP_FAIL(r->d, SP_UNSUP, "PDF: it is encrypted and opens only with a password");
    if (code == 3)
        return SP_FAIL(r->d, SP_UNSUP, "PDF: its author allows no copying of text");
    if (code >= 128)
        return SP_FAIL(
            r->d, SP_FORMAT,
            "PDF: pdftotext was ended by signal %d: its limits of CPU time and memory, or a fault",
            code - 128);
    if (code != 0)
        return SP_FAIL(r->d, SP_FORMAT, "PDF: pdftotext could not read it: %.*s",
                       (int)strcspn(words, "\n"), words);
    return SP_OK;
}

/* Pages and those without text; pdftotext ends each with a form feed. */
static void count_pages(const sp_buf *text, size_t *n, size_t *n_empty)
{
    const char *p = sp_buf_str(text), *end = p + text->len, *ff;
    *n = *n_empty = 0;
    for (; p < end && (ff = memchr(p, '\f', (size_t)(end - p))); p = ff + 1) {
        const char *q = p;
        while (q < ff && (*q == ' ' || *q == '\n' || *q == '\t'))
            q++;
        ++*n;
        *n_empty += q == ff;
    }
}

static void say_pages(sp_rag_reading *r, const sp_buf *text, const sp_buf *said, const char *p,
                      size_t n)
{
    size_t n_page, n_empty;
    bool pack = strstr(sp_buf_str(said), "Missing language pack") != NULL;
    count_pages(text, &n_page, &n_empty);
    if (pack)
        sp_rag_bad(r, "text in fonts that need the Debian package poppler-data");
    if (memmem(p, n, "/XFA", 4) && memmem(sp_buf_str(text), text->len, "Please wait", 11))
        sp_rag_bad(r, "an XFA form: its text is made by the program that shows it");
    if (n_empty && n_empty < n_page)
        sp_rag_remark(r, "%zu of %zu pages hold no text", n_empty, n_page);
    sp_rag_because(r, "%zu %s without text: a scan or drawings, which need OCR first", n_page,
                   n_page == 1 ? "page" : "pages");
}

/* Paragraphs by blank lines; a form feed ends one too. */
static sp_err give_pages(sp_rag_reading *r, sp_buf *text)
{
    for (size_t i = 0; i < text->len; i++)
        if (text->p[i] == '\f')
            text->p[i] = '\n';
    return sp_rag_parse_text(r, sp_buf_str(text), text->len);
}

sp_err sp_rag_parse_pdf(sp_rag_reading *r, const char *p, size_t n)
{
    static const char *const argv[] = {"pdftotext", "-enc", "UTF-8", "-", "-", NULL};
    sp_buf text = {0}, said = {0};
    int code = 0;
    sp_err err = sp_rag_on_time(r);
    if (err != SP_OK)
        return err;
    const sp_sandbox_cfg cfg = {.argv = argv,
                                .in = p,
                                .n_in = n,
                                .seconds = r->seconds,
                                .wait_seconds =
                                    (uint32_t)((r->end_ns - sp_clock_ns()) / 1000000000) + 1,
                                .memory_bytes = MAX_MEMORY,
                                .out_bytes = r->text_left,
                                .gives_way = true,
                                .stop = r->stop};
    err = sp_sandbox_run(&text, &said, &code, &cfg, r->d);
    if (err == SP_NOTFOUND)
        err = SP_FAIL(r->d, SP_UNSUP,
                      "PDF: pdftotext is not installed (Debian package poppler-utils)");
    else if (err == SP_IO) /* of the pipes, not of a store */
        err = SP_UNSUP;
    if (err == SP_OK)
        err = judge(r, code, &said);
    if (err == SP_OK) {
        say_pages(r, &text, &said, p, n);
        err = give_pages(r, &text);
    }
    sp_buf_fini(&text);
    sp_buf_fini(&said);
    return err;
}
