/* What store.c and store_doc.c (rows), store_word.c, search.c and graph.c share. */
#ifndef SP_RAG_STORE_INT_H
#define SP_RAG_STORE_INT_H

#include "base/db.h"
#include "rag/store.h"
#include "rag/word.h"

#include <string.h>

typedef struct loaded { /* a collection's vectors in memory */
    int64_t coll, version, n_write; /* version of the row they are made of; when used last */
    sp_vecs vecs;
    int64_t *doc; /* [n_doc] sequence numbers of its documents */
    size_t n_doc, n_chunk;
} loaded;

enum { MAX_LOADED = 16 };

struct sp_rag_store {
    sp_db *db;
    const sp_kern *kern;
    size_t hnsw_from; /* PostgreSQL: collections of so many chunks get an index of vectors */
    loaded in_memory[MAX_LOADED];
    size_t n_in_memory;
    int64_t clock;
    char self[24]; /* how other servers on the same database tell this one's claims */
};

typedef struct vote {
    int64_t seq;
    double score;
    int rank[4];
} vote;

/* As pgvector reads it. */
enum { SP_RAG_VEC_TEXT = SP_VEC_DIM * 5 + 2 };
void sp_rag_vec_text(char out[SP_RAG_VEC_TEXT], const int8_t vec[SP_VEC_DIM]);
/* The collection's number, if it is the tenant's. */
SP_MUST sp_err sp_rag_coll_seq(sp_rag_store *s, const char *tenant, const char *id, int64_t *out,
                               sp_diag *d);
/* The collection has changed: vectors in memory are loaded again. */
SP_MUST sp_err sp_rag_touch(sp_rag_store *s, int64_t coll, sp_diag *d);
/* May a document of l be found? ok: a byte for each, or NULL: all may. */
bool sp_rag_is_allowed(const loaded *l, const uint8_t *ok, int64_t doc);
/* store_word.c: the words of a chunk that has just been written. */
SP_MUST sp_err sp_rag_word_put(sp_rag_store *s, int64_t chunk, const char *coll, const char *place,
                               const char *text, size_t n_text, sp_diag *d);
/* Fills the index of words from the chunks of a database that an earlier version made. */
SP_MUST sp_err sp_rag_word_catch_up(sp_rag_store *s, sp_diag *d);
/* Chunks by the words of the text, best first: [*n <= cap]. *exact: the text has phrases in quotes,
 * and these chunks hold all of them. */
SP_MUST sp_err sp_rag_word_rank(sp_rag_store *s, const loaded *l, const uint8_t *ok,
                                const char *text, int64_t *out, size_t cap, size_t *n, bool *exact,
                                sp_diag *d);
/* store_place.c: notes what is about to be deleted. coll 0: in all of the tenant's collections. */
SP_MUST sp_err sp_rag_gone_docs(sp_rag_store *s, const char *tenant, int64_t coll, const char *id,
                                sp_diag *d);
SP_MUST sp_err sp_rag_gone_file(sp_rag_store *s, const char *tenant, const char *id, sp_diag *d);
SP_MUST sp_err sp_rag_gone_coll(sp_rag_store *s, const char *tenant, int64_t seq, sp_diag *d);
/* A term as it is looked up: lower case, letters and digits, single spaces; false when too little
 * is left. */
bool sp_rag_term_key(char out[96], const char *p, size_t n);
/* Calls `found` with the key of each of the longest runs of the text's words for which it says that
 * it knows them. */
SP_MUST sp_err sp_rag_named(const char *text,
                            sp_err (*found)(void *arg, const char *key, bool *known), void *arg);
/* Chunks near the terms of the question, best first: [*n <= cap]. */
SP_MUST sp_err sp_rag_graph_rank(sp_rag_store *s, int64_t coll, const char *text,
                                 const int64_t *start, size_t n_start, int64_t *out, size_t cap,
                                 size_t *n, sp_diag *d);

#endif
