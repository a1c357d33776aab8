/* From parts to chunks: paragraphs under the same headings, together as long as the encoder reads
 * them whole. A chunk knows its place ("Title > Section"), so that it can be found and understood
 * alone. The same document always gives the same chunks.
 * Owner: the caller. Threads: pure. */
#ifndef SP_RAG_CHUNK_H
#define SP_RAG_CHUNK_H

#include "rag/parse.h"
#include "text/tokenizer.h"

#define SP_RAG_ABOUT 1  /* first byte of a term that the chunk is about */
#define SP_RAG_PHRASE 2 /* of a noun phrase of its text */

/* A chunk has at most so many bytes for each token it may have, and its place beside: so it is
 * bounded in every tokenizer. */
enum { SP_RAG_TOK_BYTES = 8 };

typedef struct sp_rag_chunk {
    const char *place; /* NUL-terminated: title and headings joined by " > " */
    const char *text;  /* [n] */
    /* tokens of place and text together: wordpieces, or more where a model needs more */
    size_t n, n_tok;
    /* names marked in it, then noun phrases, each NUL-terminated, [n_terms] bytes in all */
    const char *terms;
    size_t n_terms;
} sp_rag_chunk;

typedef struct sp_rag_chunker sp_rag_chunker;

/* vocab NULL: length is estimated from bytes. put: takes each chunk, valid during the call. */
SP_MUST sp_err sp_rag_chunker_new(sp_rag_chunker **out, const sp_tok *vocab, size_t max_tok,
                                  sp_err (*put)(void *arg, const sp_rag_chunk *c), void *arg);
void sp_rag_chunker_free(sp_rag_chunker *c);
/* A sink for the parser; fallback_title is used until the document says its own. */
sp_rag_sink sp_rag_chunker_sink(sp_rag_chunker *c, const char *fallback_title);
/* Gives the last chunk. */
SP_MUST sp_err sp_rag_chunker_end(sp_rag_chunker *c);
const char *sp_rag_chunker_title(const sp_rag_chunker *c);

#endif
