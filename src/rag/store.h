/* Collections of documents in SQLite or PostgreSQL: chunks with their place, words (FTS5), int8
 * vectors, and the terms each chunk names.
 * Search fuses four ranks by reciprocal rank: of words, of vectors, of the best sentence of what
 * these two found, and of the graph of terms.
 *
 * A document changes in one transaction: a crash leaves it as it was or as it will be. Vectors lie
 * in the rows; the copy in memory that is scanned is made from them when a collection is first
 * searched, and again after another process or call has changed it. A deleted document takes its
 * text, words, vectors and terms with it, overwritten on disk.
 *
 * Tenants: every call names one and sees nothing of others.
 * Threads: one at a time. Errors: SP_NOTFOUND; SP_INVAL for a filter; SP_IO with SQLite's words. */
#ifndef SP_RAG_STORE_H
#define SP_RAG_STORE_H

#include "base/mem.h"
#include "rag/document.h"
#include "rag/rdf.h"
#include "rag/scan.h"
#include "rag/sentence.h"

#include <jansson.h>

typedef struct sp_rag_store sp_rag_store;

enum { SP_RAG_ID = 48, SP_RAG_MAX_FOUND = 50 };

typedef struct sp_rag_coll { /* texts in the arena given */
    int64_t seq;
    char id[SP_RAG_ID]; /* vs_… */
    const char *name, *metadata;
    int64_t created, active, n_doc, n_pending, n_failed, n_chunk, n_bytes;
} sp_rag_coll;

/* A failed document keeps the chunks of its last reading. */
typedef enum sp_rag_state {
    SP_RAG_READ,
    SP_RAG_WAITING,
    SP_RAG_PARTIAL,
    SP_RAG_EMPTY,
    SP_RAG_FAILED
} sp_rag_state;

typedef struct sp_rag_doc {
    int64_t seq;
    char id[SP_RAG_ID]; /* file-… */
    /* error NULL: none; else why nothing could be read, or why there is no text */
    const char *path, *title, *attributes, *error;
    int64_t created, n_bytes, n_chunk, n_bare;     /* n_bare: chunks that have no vector yet */
    sp_rag_state state;
    int64_t n_bad;     /* records that were left out */
    const char *notes; /* a line each of some of them */
} sp_rag_doc;

typedef struct sp_rag_file { /* an upload */
    char id[SP_RAG_ID];
    const char *name, *purpose;
    int64_t created, n_bytes;
    int64_t seq; /* its place; of a list only */
} sp_rag_file;

enum { SP_RAG_NEAR = 3 }; /* sentences of a hit that are kept */

typedef struct sp_rag_near { /* a sentence of a hit's text */
    const char *p; /* [n] */
    size_t n;
    double cosine; /* with the question */
} sp_rag_near;

/* Among the cap nearest, which come nearest first; of equals the earlier one stays. */
void sp_rag_near_put(sp_rag_near *best, size_t cap, size_t *n, const sp_rag_near *one);

typedef struct sp_rag_hit {
    int64_t seq;
    char chunk[SP_RAG_ID], doc[SP_RAG_ID];
    const char *path, *place, *text, *attributes;
    int64_t n_tok;
    double score;            /* of the fusion, 0..1: 1 is first in every rank that was asked */
    /* of the question's vector and the chunk's, as int8; 0 where one is missing. With a wide
     * question the larger one */
    double cosine;
    sp_rag_near near[SP_RAG_NEAR]; /* [n_near]; none without vectors */
    size_t n_near;
    int rank_word, rank_vec, rank_sent, rank_graph; /* from 1; 0: not among them */
    uint8_t team; /* of two ranks as one list, whose it is: 1 or 2 (pipe/interleave.h); 0: of one */
} sp_rag_hit;

/* What a search asks of; SP_RAG_PLAIN does best on bench/rag/. */
typedef enum sp_rag_how {
    SP_RAG_WORDS = 1,
    SP_RAG_VECTORS = 2,
    SP_RAG_SENTENCES = 4,
    SP_RAG_PLAIN = 7,
    SP_RAG_GRAPH = 8,
    SP_RAG_ALL = 15
} sp_rag_how;

typedef struct sp_rag_query {
    const char *tenant, *coll; /* id of the collection */
    const char *text;
    const int8_t *vec;     /* [SP_VEC_DIM], or NULL: no vectors */
    const char *wide;      /* the text behind what was asked before it, or NULL: it stands alone */
    const int8_t *wide_vec; /* of wide */
    const json_t *filter;  /* OpenAI's comparison or compound filter over attributes, or NULL */
    unsigned how;
    size_t cap;            /* <= SP_RAG_MAX_FOUND */
} sp_rag_query;

/* Before vectors are put or searched: vectors of two encoders mean nothing to each other. The first
 * encoder that is named is kept. SP_INVAL: the store's vectors are another's, by name. */
SP_MUST sp_err sp_rag_made_by(sp_rag_store *s, const char *encoder, sp_diag *d);
/* path: a file for SQLite, or postgresql://… for PostgreSQL with pgvector, where the tables lie in
 * a schema named sparing. Tables that are missing are made. kern is borrowed until close. Errors:
 * SP_IO, SP_NOMEM. */
SP_MUST sp_err sp_rag_open(sp_rag_store **out, const char *path, const sp_kern *kern, sp_diag *d);
void sp_rag_close(sp_rag_store *s); /* NULL allowed */
/* PostgreSQL: a collection of so many chunks is searched through an HNSW index of its own, which is
 * not exact; below, and with filters, every vector is looked at. */
enum { SP_RAG_HNSW_FROM = 20000 };
void sp_rag_hnsw_from(sp_rag_store *s, size_t n_chunk);

/* --- collections --- */
/* A new collection, also beside one of this name. metadata: a JSON object. id is written. */
SP_MUST sp_err sp_rag_coll_create(sp_rag_store *s, const char *tenant, const char *name,
                                  const char *metadata, char id[SP_RAG_ID], sp_diag *d);
/* One by its id. SP_NOTFOUND: the tenant has none of it. */
SP_MUST sp_err sp_rag_coll_get(sp_rag_store *s, sp_arena *a, const char *tenant, const char *id,
                               sp_rag_coll *out, sp_diag *d);
/* The oldest collection of this name; makes it when `create`. */
SP_MUST sp_err sp_rag_coll_named(sp_rag_store *s, const char *tenant, const char *name, bool create,
                                 char id[SP_RAG_ID], sp_diag *d);
/* All of the tenant, the oldest first, in the arena. */
SP_MUST sp_err sp_rag_coll_list(sp_rag_store *s, sp_arena *a, const char *tenant, sp_rag_coll **out,
                                size_t *n, sp_diag *d);
/* Another name or metadata; NULL: as it is. SP_NOTFOUND. */
SP_MUST sp_err sp_rag_coll_update(sp_rag_store *s, const char *tenant, const char *id,
                                  const char *name, const char *metadata, sp_diag *d);
/* With its documents, vectors, terms and facts; uploads stay. SP_NOTFOUND. */
SP_MUST sp_err sp_rag_coll_delete(sp_rag_store *s, const char *tenant, const char *id, sp_diag *d);

/* --- documents --- */
typedef struct sp_rag_put {
    const char *tenant, *coll, *id; /* id NULL: made from the path */
    const char *path;               /* what it is known by in its collection */
    const char *bytes;
    size_t n_bytes;
    /* JSON object; NULL: {} for a new document, else those it has */
    const char *attributes;
    const sp_tok *vocab;
    size_t max_tok;                 /* of a chunk */
    const sp_rag_budget *budget;    /* NULL: the usual one */
} sp_rag_put;

/* NOTHING: it holds no text */
typedef enum sp_rag_done { SP_RAG_ADDED, SP_RAG_CHANGED, SP_RAG_SAME, SP_RAG_NOTHING } sp_rag_done;

enum { SP_RAG_WHY = 1024 };
typedef struct sp_rag_outcome {
    sp_rag_done done;
    char id[SP_RAG_ID];
    size_t n_chunk, n_bad;  /* chunks it has now; records of it that were left out */
    /* NOTHING: the reason; else a line each of some records that were left out, or "" */
    char why[SP_RAG_WHY];
} sp_rag_outcome;

/* Parses and stores one document; its chunks have no vectors yet. The same bytes again are
 * SP_RAG_SAME and cost a hash.
 * On an error the document is as it was: see sp_rag_doc_fail. */
SP_MUST sp_err sp_rag_doc_put(sp_rag_store *s, const sp_rag_put *p, sp_rag_outcome *out,
                              sp_diag *d);
/* Registers an upload (p->id) that is to be read later: SP_RAG_SAME, or it waits. What it had stays
 * until then. */
SP_MUST sp_err sp_rag_doc_register(sp_rag_store *s, const sp_rag_put *p, sp_rag_outcome *out,
                                   sp_diag *d);

/* A document that waits to be read. One server works on it: its claim ends SP_RAG_CLAIM_S after it
 * was made or renewed. */
enum { SP_RAG_CLAIM_S = 180 };
typedef struct sp_rag_waiting {
    int64_t doc, coll_seq;
    const char *tenant, *coll, *path, *bytes; /* [n_bytes]; all in the arena */
    size_t n_bytes;
} sp_rag_waiting;
/* Claims the oldest one, of another tenant than `not_of` if there is one. SP_NOTFOUND: none
 * waits. */
SP_MUST sp_err sp_rag_waiting_next(sp_rag_store *s, sp_arena *a, const char *not_of,
                                   sp_rag_waiting *out, sp_diag *d);
/* Chunks [from, from + n) of its reading; from 0 takes away what an earlier reading found, and
 * after the last one the document is read. SP_NOTFOUND: it was deleted meanwhile, or another server
 * has it. */
SP_MUST sp_err sp_rag_waiting_store(sp_rag_store *s, const sp_rag_waiting *w,
                                    const sp_rag_document *x, size_t from, size_t n, sp_diag *d);
/* It could not be read; what an earlier reading found stays. SP_NOTFOUND as above. */
SP_MUST sp_err sp_rag_waiting_fail(sp_rag_store *s, const sp_rag_waiting *w, const char *error,
                                   sp_diag *d);
/* Notes that a document could not be read. What an earlier reading found of it stays. */
SP_MUST sp_err sp_rag_doc_fail(sp_rag_store *s, const sp_rag_put *p, const char *error, sp_diag *d);
/* Documents of a collection, the oldest first; one of them; and its deletion, with all that was
 * made of it. SP_NOTFOUND: no such collection or document. */
SP_MUST sp_err sp_rag_doc_list(sp_rag_store *s, sp_arena *a, const char *tenant, const char *coll,
                               sp_rag_doc **out, size_t *n, sp_diag *d);
SP_MUST sp_err sp_rag_doc_get(sp_rag_store *s, sp_arena *a, const char *tenant, const char *coll,
                              const char *id, sp_rag_doc *out, sp_diag *d);
SP_MUST sp_err sp_rag_doc_delete(sp_rag_store *s, const char *tenant, const char *coll,
                                 const char *id, sp_diag *d);

/* Uploads that were attached together. */
typedef struct sp_rag_batch {
    char id[SP_RAG_ID]; /* vsfb_… */
    int64_t created, n_doc, n_pending, n_failed;
} sp_rag_batch;
/* Notes n uploads of a collection as one batch, whose id is written; counts of it as they are now;
 * its documents, in the arena. SP_NOTFOUND: no such batch. */
SP_MUST sp_err sp_rag_batch_put(sp_rag_store *s, const char *tenant, const char *coll,
                                const char *const *file, size_t n, char id[SP_RAG_ID], sp_diag *d);
SP_MUST sp_err sp_rag_batch_get(sp_rag_store *s, const char *tenant, const char *coll,
                                const char *id, sp_rag_batch *out, sp_diag *d);
SP_MUST sp_err sp_rag_batch_docs(sp_rag_store *s, sp_arena *a, const char *tenant, const char *coll,
                                 const char *id, sp_rag_doc **out, size_t *n, sp_diag *d);

/* Its chunks in order; of a hit only seq, chunk, place, text and n_tok are set. */
SP_MUST sp_err sp_rag_doc_text(sp_rag_store *s, sp_arena *a, const sp_rag_doc *doc,
                               sp_rag_hit **out, size_t *n, sp_diag *d);

/* Chunks that still need a vector, in order: place and text. SP_NOTFOUND: none. */
typedef struct sp_rag_bare {
    int64_t seq;
    const char *place, *text;
} sp_rag_bare;
/* At most cap of them, in the arena; then vecs [n], one for each of bare [n]. */
SP_MUST sp_err sp_rag_bare_next(sp_rag_store *s, sp_arena *a, size_t cap, sp_rag_bare **out,
                                size_t *n, sp_diag *d);

/* Some chunk that has a vector, and whose it is: draw in [0, 1) says which. SP_NOTFOUND: there is
 * none. */
typedef struct sp_rag_probe {
    int64_t seq;
    const char *tenant, *coll, *text;
} sp_rag_probe;
SP_MUST sp_err sp_rag_probe_next(sp_rag_store *s, sp_arena *a, double draw, sp_rag_probe *out,
                                 sp_diag *d);

typedef struct sp_rag_vecs { /* of a chunk: the whole, and each sentence */
    int8_t whole[SP_VEC_DIM], sent[SP_RAG_SENTS][SP_VEC_DIM];
    size_t n_sent;
} sp_rag_vecs;
/* From unit vectors [1 + n_sent, SP_VEC_DIM]. */
void sp_rag_vecs_set(sp_rag_vecs *out, const float *unit, size_t n_sent);
SP_MUST sp_err sp_rag_bare_set(sp_rag_store *s, const sp_rag_bare *bare, const sp_rag_vecs *vecs,
                               size_t n, sp_diag *d);

/* --- uploads --- */
/* Keeps n bytes as an upload, whose id is written. */
SP_MUST sp_err sp_rag_file_put(sp_rag_store *s, const char *tenant, const char *name,
                               const char *purpose, const char *p, size_t n, char id[SP_RAG_ID],
                               sp_diag *d);
/* content NULL: not asked for; else in the arena, [out->n_bytes]. */
SP_MUST sp_err sp_rag_file_get(sp_rag_store *s, sp_arena *a, const char *tenant, const char *id,
                               sp_rag_file *out, const char **content, sp_diag *d);
/* All uploads of the tenant, the oldest first, without their bytes. */
SP_MUST sp_err sp_rag_file_list(sp_rag_store *s, sp_arena *a, const char *tenant, sp_rag_file **out,
                                size_t *n, sp_diag *d);
/* With every document made of it. */
SP_MUST sp_err sp_rag_file_delete(sp_rag_store *s, const char *tenant, const char *id, sp_diag *d);

typedef enum sp_rag_list { SP_RAG_FILES, SP_RAG_COLLS, SP_RAG_DOCS } sp_rag_list;
/* The place (seq) of a thing in its list, also for a day after it was deleted. coll: of
 * SP_RAG_DOCS. SP_INVAL: it was never there. */
SP_MUST sp_err sp_rag_place(sp_rag_store *s, const char *tenant, sp_rag_list list, const char *coll,
                            const char *id, int64_t *out, sp_diag *d);

/* Everything of the tenant. *n: documents and uploads there were. */
SP_MUST sp_err sp_rag_forget(sp_rag_store *s, const char *tenant, size_t *n, sp_diag *d);

/* --- search --- */
/* With a wide question both are asked, and what the wide one finds counts more. */
SP_MUST sp_err sp_rag_search(sp_rag_store *s, sp_arena *a, const sp_rag_query *q, sp_rag_hit **out,
                             size_t *n, sp_diag *d);
/* Is the filter one? SP_INVAL says what is wrong. */
SP_MUST sp_err sp_rag_filter_check(const json_t *filter, sp_diag *d);
/* Does it hold of these attributes, a JSON object? The filter has been checked. */
bool sp_rag_filter_holds(const json_t *filter, const json_t *attributes);

/* --- graph --- */
typedef struct sp_rag_fact {
    sp_triple t;              /* as kept; source never NULL */
    const char *name[3];      /* how subject, predicate and object read */
    /* the source without the folders of a file, which are nobody else's business */
    const char *shown;
} sp_rag_fact;

/* One fact; *is_new: it was not there. SP_INVAL: a term is none. */
SP_MUST sp_err sp_rag_fact_put(sp_rag_store *s, const char *tenant, const char *coll,
                               const sp_triple *t, bool *is_new, sp_diag *d);
/* The triples of a file, in place of those that came from a file of this name: its whole path,
 * because files of two folders may share the last part. Blank nodes of two files stay apart. *n:
 * how many there are now. */
SP_MUST sp_err sp_rag_fact_import(sp_rag_store *s, const char *tenant, const char *coll,
                                  const char *name, const char *p, size_t n_bytes, size_t *n,
                                  sp_diag *d);
/* SP_NOTFOUND: there is no such fact. source NULL: of any. */
SP_MUST sp_err sp_rag_fact_delete(sp_rag_store *s, const char *tenant, const char *coll,
                                  const sp_triple *t, sp_diag *d);
/* Facts whose subject or object reads as `name`; NULL: all of them. */
SP_MUST sp_err sp_rag_fact_list(sp_rag_store *s, sp_arena *a, const char *tenant, const char *coll,
                                const char *name, size_t cap, sp_rag_fact **out, size_t *n,
                                sp_diag *d);
/* Facts of the terms that the text names, then those one further, each by how many of the text's
 * words it holds. */
SP_MUST sp_err sp_rag_fact_about(sp_rag_store *s, sp_arena *a, const char *tenant, const char *coll,
                                 const char *text, size_t cap, sp_rag_fact **out, size_t *n,
                                 sp_diag *d);

typedef struct sp_rag_term {
    const char *name;
    int64_t n_chunk;
    double weight; /* neighbours: how closely it belongs to the term asked for */
} sp_rag_term;
/* Terms named together with `name`, closest first; NULL: those named most. */
SP_MUST sp_err sp_rag_graph(sp_rag_store *s, sp_arena *a, const char *tenant, const char *coll,
                            const char *name, size_t cap, sp_rag_term **out, size_t *n, sp_diag *d);

#endif
