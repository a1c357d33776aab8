/* Any bytes as a document of each format but PDF, as triples, and as a form: parts are whole UTF-8 within their limit, and triples that were
 * read can be written and read again. */
#include "fuzz.h"

#include "api/multipart.h"
#include "base/utf8.h"
#include "rag/parse.h"
#include "rag/rdf.h"

static sp_err take_part(void *arg, const sp_rag_part *part)
{
    (void)arg;
    SP_ASSERT(part->n <= SP_RAG_PART_BYTES && sp_utf8_is_valid(part->p, part->n));
    return SP_OK;
}

typedef struct kept {
    sp_buf nt;
    size_t n;
} kept;

static sp_err take_triple(void *arg, const sp_triple *t)
{
    kept *k = arg;
    sp_buf label = {0};
    const char *const term[] = {t->subject, t->predicate, t->object};
    for (size_t i = 0; i < 3; i++) {
        SP_ASSERT(strlen(term[i]) <= SP_RDF_TERM && sp_utf8_is_valid(term[i], strlen(term[i])));
        sp_rdf_label(&label, term[i]);
    }
    sp_buf_fini(&label);
    k->n++;
    return sp_rdf_write(&k->nt, "x.csv", t, 1, NULL);
}

static sp_err count_triple(void *arg, const sp_triple *t)
{
    (void)t;
    ++*(size_t *)arg;
    return SP_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    static const char *const names[] = {"x.txt", "x.md", "x.html", "x.jsonl", "x.csv", "x.nt", "x.ttl", "x.csv"};
    if (n == 0)
        return 0;
    const char *name = names[p[0] % 8], *text = (const char *)p + 1;
    sp_diag d = {0};
    if (p[0] % 8 < 5) {
        const sp_rag_sink sink = {take_part, NULL};
        sp_rag_report report = {0};
        sp_err err = sp_rag_parse(&sink, &report, NULL, name, text, n - 1, &d);
        SP_ASSERT(err == SP_OK || d.msg[0]);
        sp_rag_report_fini(&report);
    } else {
        kept k = {{0}, 0};
        size_t again = 0;
        const sp_triple_sink sink = {take_triple, &k}, counter = {count_triple, &again};
        sp_err err = sp_rdf_read(&sink, name, "", text, n - 1, &d);
        SP_ASSERT(err == SP_OK || d.msg[0]);
        SP_ASSERT(sp_rdf_read(&counter, "x.csv", "", sp_buf_str(&k.nt), k.nt.len, &d) == SP_OK && again == k.n);
        sp_buf_fini(&k.nt);
    }
    sp_form_part part[SP_FORM_PARTS];
    size_t n_part;
    if (sp_form_parse(part, &n_part, "multipart/form-data; boundary=x", text, n - 1, &d) == SP_OK)
        for (size_t i = 0; i < n_part; i++)
            SP_ASSERT(part[i].p >= text && part[i].p + part[i].n <= text + n - 1);
    return 0;
}
