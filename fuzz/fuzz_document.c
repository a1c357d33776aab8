/* Any bytes as a document of each format but PDF and CSV (fuzz_csv.c), and as a form: parts are whole UTF-8 within their limit, and a document without
 * any says why. */
#include "fuzz.h"

#include "api/multipart.h"
#include "base/utf8.h"
#include "rag/parse.h"

static sp_err take_part(void *arg, const sp_rag_part *part)
{
    (void)arg;
    SP_ASSERT(part->n <= SP_RAG_PART_BYTES && sp_utf8_is_valid(part->p, part->n));
    return SP_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    static const char *const names[] = {"x.txt", "x.md", "x.html", "x.jsonl", "x.json", "x.ipynb", "x.docx", "x.pptx", "x.xlsx", "x.odt", "x.epub", "x.eml", "x.py", "x.c"};
    if (n == 0)
        return 0;
    const char *text = (const char *)p + 1;
    sp_diag d = {0};
    sp_rag_report report = {0};
    const sp_rag_budget budget = {20, 8 << 20, NULL};
    const sp_rag_sink sink = {take_part, NULL};
    sp_err err = sp_rag_parse(&sink, &report, &budget, names[p[0] % (sizeof names / sizeof names[0])], text, n - 1, &d);
    SP_ASSERT(err == SP_OK || d.msg[0]);
    sp_rag_report_fini(&report);
    sp_form_part part[SP_FORM_PARTS];
    size_t n_part;
    if (sp_form_parse(part, &n_part, "multipart/form-data; boundary=x", text, n - 1, &d) == SP_OK)
        for (size_t i = 0; i < n_part; i++)
            SP_ASSERT(part[i].p >= text && part[i].p + part[i].n <= text + n - 1);
    return 0;
}
