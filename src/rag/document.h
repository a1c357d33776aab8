/* A document that was read: its chunks in memory, and what was left out. Reading needs no database,
 * so it may run on any thread.
 *
 * Owner: sp_rag_document_fini frees everything. Threads: pure. Errors: those of rag/parse.h;
 * SP_NOMEM. */
#ifndef SP_RAG_DOCUMENT_H
#define SP_RAG_DOCUMENT_H

#include "base/mem.h"
#include "rag/chunk.h"

typedef struct sp_rag_document {
    sp_arena a; /* of title and chunks */
    const char *title;
    sp_rag_chunk *chunk; /* [n_chunk], texts in the arena */
    size_t n_chunk, cap;
    sp_rag_report report;
} sp_rag_document;

typedef struct sp_rag_source {
    /* its ending says the format, its last part is the title of a document that has none */
    const char *path;
    const char *bytes; /* [n_bytes] */
    size_t n_bytes;
    const sp_tok *vocab; /* as sp_rag_chunker_new takes it */
    size_t max_tok;     /* of a chunk */
    const sp_rag_budget *budget; /* NULL: the usual one */
} sp_rag_source;

/* out: written in any case, and to be given to sp_rag_document_fini. A document without text is
 * SP_OK, without chunks and with report.why. */
SP_MUST sp_err sp_rag_document_read(sp_rag_document *out, const sp_rag_source *in, sp_diag *d);
void sp_rag_document_fini(sp_rag_document *x);

#endif
