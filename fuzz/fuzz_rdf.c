/* Any bytes as triples: what was read can be written and read again, and a scope is on every blank node. */
#include "fuzz.h"

#include "base/utf8.h"
#include "rag/rdf.h"

#include <string.h>

typedef struct kept {
    sp_buf csv;
    size_t n;
    const char *scope;
} kept;

static bool has_scope(const char *term, const char *scope)
{
    return strncmp(term, "_:", 2) != 0 || strncmp(term + 2, scope, strlen(scope)) == 0;
}

static sp_err take(void *arg, const sp_triple *t)
{
    kept *k = arg;
    sp_buf label = {0};
    const char *const term[] = {t->subject, t->predicate, t->object};
    for (size_t i = 0; i < 3; i++) {
        SP_ASSERT(strlen(term[i]) <= SP_RDF_TERM && sp_utf8_is_valid(term[i], strlen(term[i])));
        sp_rdf_label(&label, term[i]);
    }
    SP_ASSERT(has_scope(t->subject, k->scope) && has_scope(t->object, k->scope));
    sp_buf_fini(&label);
    k->n++;
    return sp_rdf_write(&k->csv, "x.csv", t, 1, NULL);
}

static sp_err count(void *arg, const sp_triple *t)
{
    (void)t;
    ++*(size_t *)arg;
    return SP_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    static const char *const names[] = {"x.nt", "x.ttl", "x.csv"};
    if (n == 0)
        return 0;
    kept k = {.scope = p[0] & 4 ? "f0123456789abcd" : ""};
    size_t again = 0;
    sp_diag d = {0};
    const sp_triple_sink sink = {take, &k}, counter = {count, &again};
    sp_err err = sp_rdf_read(&sink, names[p[0] % 3], k.scope, (const char *)p + 1, n - 1, &d);
    SP_ASSERT(err == SP_OK || d.msg[0]);
    SP_ASSERT(sp_rdf_read(&counter, "x.csv", "", sp_buf_str(&k.csv), k.csv.len, &d) == SP_OK && again == k.n);
    sp_buf_fini(&k.csv);
    return 0;
}
