/* Collections for the surfaces: a desk that owns the store of documents.
 *
 * A document is registered at once and read by a thread of its own (pipe/reader.h), with a budget.
 * Its chunks are stored and its vectors made between operations, a few at a time; until it has
 * vectors, words and graph find it. Documents of several tenants are read by turns. Deleting a
 * document also drops the tenant's pages from every tier, because its text may have been in a
 * prompt.
 *
 * Threads: everything here from any thread.
 * Errors:  in the operation's diag: SP_NOTFOUND, SP_INVAL, SP_IO; SP_FORMAT and others for a
 *          document that cannot be read. */
#ifndef SP_PIPE_KNOWLEDGE_H
#define SP_PIPE_KNOWLEDGE_H

#include "pipe/desk.h"
#include "pipe/embed.h"
#include "kv/tier.h"
#include "rag/store.h"

typedef struct sp_know sp_know;
struct sp_models;

typedef struct sp_know_cfg {
    const char *path;      /* as sp_rag_open takes it */
    size_t hnsw_from;      /* see sp_rag_hnsw_from */
    sp_engine *engine;     /* for vectors; borrowed */
    struct sp_models *models; /* whose pages are forgotten; borrowed */
    const sp_tok *vocab;    /* NULL: no vectors */
    const sp_kern *kern;
    size_t chunk_tok;
    double probe_s;        /* between two live measures of recall; 0: none */
    sp_metrics *metrics;
} sp_know_cfg;

typedef enum sp_know_kind {
    SP_KNOW_FILE_PUT,    /* name, purpose, content */
    SP_KNOW_FILE_GET,
    SP_KNOW_FILE_CONTENT,
    SP_KNOW_FILE_LIST,
    SP_KNOW_FILE_DELETE, /* and every document made of it */
    SP_KNOW_COLL_PUT,    /* name, metadata; files: attached at once */
    SP_KNOW_COLL_GET,
    SP_KNOW_COLL_LIST,
    SP_KNOW_COLL_UPDATE, /* name, metadata; NULL: stays */
    SP_KNOW_COLL_DELETE,
    SP_KNOW_DOC_PUT,     /* file, metadata: its attributes */
    SP_KNOW_BATCH_PUT,   /* files, metadata: attributes of all; the batch's id comes in file */
    SP_KNOW_BATCH_GET,   /* file: the batch's id */
    SP_KNOW_BATCH_LIST,  /* its documents */
    SP_KNOW_DOC_GET,
    SP_KNOW_DOC_TEXT,    /* its chunks, in order, as hits */
    SP_KNOW_DOC_LIST,
    SP_KNOW_DOC_DELETE,
    SP_KNOW_SEARCH,      /* coll, or colls; query, filter, cap */
    SP_KNOW_FORGET       /* everything of the tenant */
} sp_know_kind;

enum { SP_KNOW_COLLS = 8, SP_KNOW_FACTS = 8 };

typedef struct sp_know_op {
    sp_op op;
    sp_know_kind kind;
    char tenant[64];
    char file[SP_RAG_ID], coll[SP_RAG_ID]; /* in; out where one is made */
    /* in; texts in op.a */
    const char *name, *purpose, *metadata, *content, *query;
    size_t n_content;
    const char *wide;   /* of a search: the query behind what was asked before it, or NULL */
    const char *filter; /* JSON, or NULL */
    unsigned how[2];    /* as sp_rag_query; 0: SP_RAG_PLAIN. The second: a rank that is interleaved
                           with the first (pipe/interleave.h); 0: there is none */
    const char *const *files;
    size_t n_files;
    char colls[SP_KNOW_COLLS][SP_RAG_ID];
    size_t n_colls, cap;
    char after[SP_RAG_ID]; /* of a list: what the client has seen last; "": nothing */
    int64_t after_seq;     /* out: its place; things of that place with another id come behind it */
    /* instead of colls: the tenant's collection of this name, if there is one */
    const char *by_name;
    /* out, in op.a: n of the kind's */
    sp_rag_file *file_list;
    sp_rag_coll *coll_list;
    sp_rag_doc *doc_list;
    sp_rag_batch batch;
    sp_rag_hit *hit;
    sp_rag_fact *fact; /* of a search: [n_fact], of the terms the question names */
    size_t n_fact;
    size_t n;
    double ms_vector; /* of op.ms, the question's vector */
} sp_know_op;

SP_MUST sp_err sp_know_open(sp_know **out, const sp_know_cfg *cfg, sp_diag *d);
/* Finishes what was submitted. NULL is fine. */
void sp_know_close(sp_know *k);

/* An operation of the tenant, to be filled and given to sp_op_submit. NULL: no memory. */
sp_know_op *sp_know_op_new(sp_know *k, sp_know_kind kind, const char *tenant);

#endif
