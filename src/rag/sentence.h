/* A chunk as the encoder reads it: the tokens of its place and text, and which of them are each
 * sentence's. One pass of the encoder gives a vector of the whole and one of every sentence in its
 * context.
 * Owner: the caller frees ids with sp_ids_fini. Threads: pure.
 * Source: Günther et al. 2024 (late chunking: pooling after the whole text was read). */
#ifndef SP_RAG_SENTENCE_H
#define SP_RAG_SENTENCE_H

#include "model/encoder.h"

enum { SP_RAG_SENTS = 16 }; /* short ones count with the next; what is beyond, with the last */

typedef struct sp_rag_read {
    sp_ids ids;
    sp_enc_part sent[SP_RAG_SENTS];
    size_t n_sent;
} sp_rag_read;

/* Bytes of sentence i_sent of a chunk's text, which begins at p: to a newline, or . ! ? before a
 * space, but at least 40; the last one is the rest. */
size_t sp_rag_sentence(const char *p, size_t n, size_t i_sent);
/* At most cap tokens: what does not fit is left out of the vectors. */
SP_MUST sp_err sp_rag_read_chunk(sp_rag_read *out, const sp_tok *vocab, size_t cap,
                                 const char *place, const char *text, sp_diag *d);

#endif
