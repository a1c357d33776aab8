/* Triples as files: N-Triples and Turtle through serd, and CSV (subject,predicate,object with or
 * without a source, no heading).
 *
 * A term is text in one of the forms of N-Triples, <iri>, _:blank or "literal" with a language or
 * datatype behind it, or else a plain name, as CSV has them. Names are written to RDF as
 * <urn:sparing:name:…>, percent-encoded, and read back as names. Untrusted input: terms are valid
 * UTF-8 of at most SP_RDF_TERM bytes; nothing is fetched.
 * Threads: pure. Errors: SP_FORMAT with the line; SP_UNSUP for another ending; what the sink
 * returned. */
#ifndef SP_RAG_RDF_H
#define SP_RAG_RDF_H

#include "base/buf.h"

enum { SP_RDF_TERM = 4096 };

typedef struct sp_triple {
    const char *subject, *predicate, *object;
    const char *source; /* NULL: none of its own */
} sp_triple;

typedef struct sp_triple_sink {
    sp_err (*put)(void *arg, const sp_triple *t);
    void *arg;
} sp_triple_sink;

/* The format goes by the name's ending: .nt, .ttl, .csv. scope: put before the name of each
 * blank node, because such a name means something only within its file; letters and digits, ""
 * for none. */
SP_MUST sp_err sp_rdf_read(const sp_triple_sink *to, const char *name, const char *scope,
                           const char *p, size_t n, sp_diag *d);
SP_MUST sp_err sp_rdf_write(sp_buf *out, const char *name, const sp_triple *t, size_t n,
                            sp_diag *d);
/* How a term reads: a literal's value, a name, the end of an IRI
 * ("https://example.org/wasFoundedIn": "was founded in"). */
void sp_rdf_label(sp_buf *out, const char *term);

#endif
