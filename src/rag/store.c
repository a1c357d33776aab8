/* Rows: collections, documents, uploads. */
#include "rag/store_int.h"

#include "base/clock.h"
#include "base/rng.h"
#include "base/sha256.h"
#include "base/utf8.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { VERSION = 1 /* of the tables; docs/FORMATS.md */ };
#define VERSION_TEXT "1"
#define FIRST_ENCODER "all-MiniLM-L6-v2" /* the only one there was before names were kept */

/* What both databases have. key: of rows that are counted; num, bytes: types; gone, of_doc: what
 * goes with a chunk, with a document; file: a row's number there. */
#define TABLES(key, num, bytes, of_chunk, gone, of_doc, file_row)                                                                                            \
    "CREATE TABLE IF NOT EXISTS collection(seq " key ", id TEXT UNIQUE NOT NULL, tenant TEXT NOT NULL, name TEXT NOT NULL,"                          \
    " created " num " NOT NULL, active " num " NOT NULL, metadata TEXT NOT NULL, version " num " NOT NULL DEFAULT 0);"                               \
    "CREATE INDEX IF NOT EXISTS collection_tenant ON collection(tenant, name);"                                                                      \
    "CREATE TABLE IF NOT EXISTS document(seq " key ", coll " num " NOT NULL, id TEXT NOT NULL, path TEXT NOT NULL, title TEXT NOT NULL,"             \
    " sha " bytes " NOT NULL, n_bytes " num " NOT NULL, created " num " NOT NULL, attributes TEXT NOT NULL, error TEXT, UNIQUE(coll, path));"        \
    "CREATE INDEX IF NOT EXISTS document_id ON document(id);"                                                                                        \
    /* of documents that are not simply read; state: waiting (to be read), partial, empty, remark; notes: a line each record left out, or why */     \
    "CREATE TABLE IF NOT EXISTS outcome(doc " num " PRIMARY KEY" of_doc ", state TEXT NOT NULL, n_bad " num " NOT NULL, notes TEXT NOT NULL);"       \
    "CREATE TABLE IF NOT EXISTS chunk(seq " key ", doc " num " NOT NULL, pos " num " NOT NULL, id TEXT NOT NULL, coll TEXT NOT NULL,"                \
    " place TEXT NOT NULL, text TEXT NOT NULL, n_tok " num " NOT NULL, vec " bytes ", sent " bytes of_chunk ");"                                     \
    "CREATE INDEX IF NOT EXISTS chunk_doc ON chunk(doc, pos);"                                                                                       \
    "CREATE INDEX IF NOT EXISTS chunk_bare ON chunk(seq) WHERE vec IS NULL;"                                                                         \
    "CREATE TABLE IF NOT EXISTS term(seq " key ", coll " num " NOT NULL, key TEXT NOT NULL, name TEXT NOT NULL, UNIQUE(coll, key));"                 \
    "CREATE TABLE IF NOT EXISTS mention(term " num " NOT NULL, chunk " num " NOT NULL" gone ", about " num " NOT NULL, PRIMARY KEY(term, chunk));"   \
    "CREATE INDEX IF NOT EXISTS mention_chunk ON mention(chunk);"                                                                                    \
    /* as N-Triples or a plain name; how it reads; and as it is looked up. id: a hash of collection, terms and source */                             \
    "CREATE TABLE IF NOT EXISTS fact(seq " key ", id TEXT UNIQUE NOT NULL, coll " num " NOT NULL, subj TEXT NOT NULL, pred TEXT NOT NULL,"           \
    " obj TEXT NOT NULL, subj_name TEXT NOT NULL, pred_name TEXT NOT NULL, obj_name TEXT NOT NULL, subj_key TEXT NOT NULL, obj_key TEXT NOT NULL,"   \
    " source TEXT NOT NULL);"                                                                                                                        \
    "CREATE INDEX IF NOT EXISTS fact_subj ON fact(coll, subj_key);"                                                                                  \
    "CREATE INDEX IF NOT EXISTS fact_obj ON fact(coll, obj_key);"                                                                                    \
    "CREATE TABLE IF NOT EXISTS batch(id TEXT NOT NULL, coll " num " NOT NULL, created " num " NOT NULL, file TEXT NOT NULL, PRIMARY KEY(id, file));"  \
    "CREATE TABLE IF NOT EXISTS gone(coll " num " NOT NULL, id TEXT NOT NULL, tenant TEXT NOT NULL, place " num " NOT NULL, at " num " NOT NULL, PRIMARY KEY(coll, id));" \
    "CREATE TABLE IF NOT EXISTS file(" file_row "id TEXT PRIMARY KEY, tenant TEXT NOT NULL, name TEXT NOT NULL, purpose TEXT NOT NULL,"              \
    " created " num " NOT NULL, n_bytes " num " NOT NULL, content " bytes " NOT NULL);"                                                              \
    "CREATE TABLE IF NOT EXISTS made(what TEXT PRIMARY KEY, value TEXT NOT NULL);"

static const char sqlite_schema[] =
    TABLES("INTEGER PRIMARY KEY", "INT", "BLOB", "", "", "", "")
    "CREATE TABLE IF NOT EXISTS word(chunk INTEGER PRIMARY KEY, coll TEXT NOT NULL, place TEXT NOT NULL, text TEXT NOT NULL, parts TEXT NOT NULL);"
    "CREATE VIRTUAL TABLE IF NOT EXISTS word_fts USING fts5(coll, place, text, parts, content='word', content_rowid='chunk',"
    " tokenize=\"porter unicode61 remove_diacritics 0 categories 'L* N* M* Co'\");"
    "CREATE TRIGGER IF NOT EXISTS word_in AFTER INSERT ON word BEGIN"
    " INSERT INTO word_fts(rowid, coll, place, text, parts) VALUES(new.chunk, new.coll, new.place, new.text, new.parts); END;"
    "CREATE TRIGGER IF NOT EXISTS word_out AFTER DELETE ON word BEGIN"
    " INSERT INTO word_fts(word_fts, rowid, coll, place, text, parts) VALUES('delete', old.chunk, old.coll, old.place, old.text, old.parts); END;"
    "CREATE TRIGGER IF NOT EXISTS chunk_gone AFTER DELETE ON chunk BEGIN"
    " DELETE FROM word WHERE chunk=old.seq; DELETE FROM mention WHERE chunk=old.seq; END;"
    "CREATE TRIGGER IF NOT EXISTS document_out AFTER DELETE ON document BEGIN DELETE FROM outcome WHERE doc=old.seq; END;";

/* In a schema of its own, which the connection's search path begins with. */
static const char postgres_schema[] =
    "CREATE SCHEMA IF NOT EXISTS sparing; CREATE EXTENSION IF NOT EXISTS vector;"
    TABLES("BIGSERIAL PRIMARY KEY", "BIGINT", "BYTEA",
           ", v vector(384)",
           " REFERENCES chunk(seq) ON DELETE CASCADE", " REFERENCES document(seq) ON DELETE CASCADE", "rowid BIGSERIAL, ")
    "CREATE TABLE IF NOT EXISTS word(chunk BIGINT PRIMARY KEY REFERENCES chunk(seq) ON DELETE CASCADE, coll TEXT NOT NULL, place TEXT NOT NULL, text TEXT NOT NULL,"
    " parts TEXT NOT NULL, words tsvector GENERATED ALWAYS AS (setweight(to_tsvector('english', place), 'A') || setweight(to_tsvector('english', text), 'B') ||"
    " setweight(to_tsvector('english', parts), 'C')) STORED);"
    "CREATE INDEX IF NOT EXISTS word_index ON word USING gin(words);"
    "CREATE INDEX IF NOT EXISTS chunk_coll ON chunk(coll);";

/* Files from before versions were kept are of version 1. The database tells its own. */
static sp_err check_version(sp_rag_store *s, sp_diag *d)
{
    sp_rows *q = sp_db_query(s->db, "SELECT value FROM made WHERE what='version'", "");
    int was = 0;
    if (!q)
        return sp_db_error(s->db, d);
    if (sp_rows_next(q))
        was = atoi(sp_rows_str(q, 0));
    SP_TRY(sp_rows_end(q, SP_OK, d));
    if (was > VERSION)
        return SP_FAIL(d, SP_UNSUP,
                       "--knowledge: the documents are of version %d, and this program knows "
                       "versions up to %d; use the newer program, or ingest into another file",
                       was, VERSION);
    if (was == VERSION)
        return SP_OK;
    return sp_db_run(
        s->db, d, "INSERT INTO made(what, value) VALUES('version', ?) ON CONFLICT DO NOTHING", "s",
        VERSION_TEXT);
}

sp_err sp_rag_open(sp_rag_store **out, const char *path, const sp_kern *kern, sp_diag *d)
{
    sp_rag_store *s = sp_mem_alloc(sizeof *s);
    if (!s)
        return SP_FAIL(d, SP_NOMEM, "collections");
    s->kern = kern;
    s->hnsw_from = SP_RAG_HNSW_FROM;
    snprintf(s->self, sizeof s->self, "%016llx", (unsigned long long)sp_rng_entropy());
    sp_err err = sp_db_open(&s->db, path, sqlite_schema, postgres_schema, d);
    if (err == SP_OK)
        err = check_version(s, d);
    if (err == SP_OK)
        err = sp_rag_word_catch_up(s, d);
    if (err == SP_OK)
        *out = s;
    else
        sp_rag_close(s);
    return err;
}

void sp_rag_close(sp_rag_store *s)
{
    if (!s)
        return;
    for (size_t i = 0; i < s->n_in_memory; i++) {
        sp_vecs_fini(&s->in_memory[i].vecs);
        sp_mem_free(s->in_memory[i].doc);
    }
    sp_db_close(s->db);
    sp_mem_free(s);
}

void sp_rag_hnsw_from(sp_rag_store *s, size_t n_chunk)
{
    s->hnsw_from = n_chunk;
}

/* Whose vectors these are; "" where nobody's name is kept. */
static sp_err read_maker(sp_rag_store *s, char *out, size_t cap, sp_diag *d)
{
    sp_rows *q = sp_db_query(s->db, "SELECT value FROM made WHERE what='vectors'", "");
    out[0] = 0;
    if (!q)
        return sp_db_error(s->db, d);
    if (sp_rows_next(q))
        snprintf(out, cap, "%s", sp_rows_str(q, 0));
    return sp_rows_end(q, SP_OK, d);
}

sp_err sp_rag_made_by(sp_rag_store *s, const char *encoder, sp_diag *d)
{
    char was[128];
    int64_t one;
    SP_TRY(read_maker(s, was, sizeof was, d));
    if (!was[0]) {
        sp_err err =
            sp_db_int(s->db, &one, d, "SELECT 1 FROM chunk WHERE vec IS NOT NULL LIMIT 1", "");
        if (err != SP_OK && err != SP_NOTFOUND)
            return err;
        SP_TRY(sp_db_run(
            s->db, d, "INSERT INTO made(what, value) VALUES('vectors', ?) ON CONFLICT DO NOTHING",
            "s", err == SP_OK ? FIRST_ENCODER : encoder));
        SP_TRY(read_maker(s, was, sizeof was, d));
    }
    if (strcmp(was, encoder) == 0)
        return SP_OK;
    return SP_FAIL(d, SP_INVAL,
                   "the vectors of these collections were made by the encoder %.60s, and --encoder "
                   "is %.60s: name the first one, or read the "
                   "documents into another --knowledge",
                   was, encoder);
}

static void make_id(char out[SP_RAG_ID], const char *prefix)
{
    snprintf(out, SP_RAG_ID, "%s%016llx%08llx", prefix, (unsigned long long)sp_rng_entropy(),
             (unsigned long long)(sp_rng_entropy() & 0xffffffff));
}

/* --- collections ------------------------------------------------------------------------------ */

sp_err sp_rag_coll_seq(sp_rag_store *s, const char *tenant, const char *id, int64_t *out,
                       sp_diag *d)
{
    sp_err err = sp_db_int(s->db, out, d, "SELECT seq FROM collection WHERE id=? AND tenant=?",
                           "ss", id, tenant);
    return err == SP_NOTFOUND ? SP_FAIL(d, err, "there is no vector store %.60s", id) : err;
}

sp_err sp_rag_coll_create(sp_rag_store *s, const char *tenant, const char *name,
                          const char *metadata, char id[SP_RAG_ID], sp_diag *d)
{
    int64_t now = sp_clock_wall();
    make_id(id, "vs_");
    return sp_db_run(
        s->db, d,
        "INSERT INTO collection(id, tenant, name, created, active, metadata) VALUES(?,?,?,?,?,?)",
        "sssiis", id, tenant, name, now, now, metadata ? metadata : "{}");
}

/* Of a document: its reading or its vectors are still to come. */
#define IS_PENDING                                                          \
    "(EXISTS(SELECT 1 FROM chunk WHERE doc=document.seq AND vec IS NULL) OR" \
    " EXISTS(SELECT 1 FROM outcome WHERE doc=document.seq AND state='waiting'))"

static const char coll_columns[] =
    "SELECT seq, id, name, metadata, created, active, (SELECT count(*) FROM document WHERE coll=c.seq),"
    " (SELECT count(*) FROM document WHERE coll=c.seq AND error IS NOT NULL),"
    " (SELECT count(*) FROM document WHERE coll=c.seq AND error IS NULL AND " IS_PENDING "),"
    " (SELECT coalesce(sum(n_bytes), 0) FROM document WHERE coll=c.seq),"
    " (SELECT count(*) FROM chunk JOIN document ON chunk.doc=document.seq WHERE document.coll=c.seq) FROM collection c ";

static sp_err read_coll(sp_arena *a, sp_rows *q, sp_rag_coll *out, sp_diag *d)
{
    *out = (sp_rag_coll){.seq = sp_rows_int(q, 0),
                         .name = sp_rows_keep(a, q, 2),
                         .metadata = sp_rows_keep(a, q, 3),
                         .created = sp_rows_int(q, 4),
                         .active = sp_rows_int(q, 5),
                         .n_doc = sp_rows_int(q, 6),
                         .n_failed = sp_rows_int(q, 7),
                         .n_pending = sp_rows_int(q, 8),
                         .n_bytes = sp_rows_int(q, 9),
                         .n_chunk = sp_rows_int(q, 10)};
    snprintf(out->id, sizeof out->id, "%s", sp_rows_str(q, 1));
    return out->name && out->metadata ? SP_OK : SP_FAIL(d, SP_NOMEM, "collections");
}

sp_err sp_rag_coll_get(sp_rag_store *s, sp_arena *a, const char *tenant, const char *id,
                       sp_rag_coll *out, sp_diag *d)
{
    char sql[1024];
    int64_t seq;
    SP_TRY(sp_rag_coll_seq(s, tenant, id, &seq, d));
    snprintf(sql, sizeof sql, "%sWHERE seq=?", coll_columns);
    sp_rows *q = sp_db_query(s->db, sql, "i", seq);
    sp_err err = sp_rows_first(s->db, q, d);
    if (err == SP_OK)
        err = read_coll(a, q, out, d);
    return sp_rows_end(q, err, d);
}

sp_err sp_rag_coll_named(sp_rag_store *s, const char *tenant, const char *name, bool create,
                         char id[SP_RAG_ID], sp_diag *d)
{
    sp_rows *q = sp_db_query(
        s->db,
        "SELECT id FROM collection WHERE tenant=? AND (name=?2 OR id=?2) ORDER BY seq LIMIT 1",
        "ss", tenant, name);
    sp_err err = sp_rows_first(s->db, q, d);
    if (err == SP_OK)
        snprintf(id, SP_RAG_ID, "%s", sp_rows_str(q, 0));
    err = sp_rows_end(q, err, d);
    if (err == SP_NOTFOUND)
        return create ? sp_rag_coll_create(s, tenant, name, NULL, id, d)
                      : SP_FAIL(d, err, "there is no collection %.80s", name);
    return err;
}

/* Rows of a query into an array of n elements of `each` bytes. */
typedef sp_err read_row(sp_arena *a, sp_rows *q, void *out, sp_diag *d);

static sp_err read_all(sp_rag_store *s, sp_arena *a, sp_rows *q, read_row *read, size_t each,
                       void **out, size_t *n, sp_diag *d)
{
    size_t cap = 0;
    char *list = NULL;
    sp_err err = q ? SP_OK : sp_db_error(s->db, d);
    *n = 0;
    while (err == SP_OK && sp_rows_next(q)) {
        if (*n == cap) {
            char *more = sp_arena_alloc(a, (cap * 2 + 16) * each);
            if (!more) {
                err = SP_FAIL(d, SP_NOMEM, "collections");
                break;
            }
            if (cap)
                memcpy(more, list, cap * each);
            list = more;
            cap = cap * 2 + 16;
        }
        err = read(a, q, list + (*n)++ * each, d);
    }
    err = sp_rows_end(q, err, d);
    *out = list;
    return err;
}

static sp_err row_coll(sp_arena *a, sp_rows *q, void *out, sp_diag *d)
{
    return read_coll(a, q, out, d);
}

sp_err sp_rag_coll_list(sp_rag_store *s, sp_arena *a, const char *tenant, sp_rag_coll **out,
                        size_t *n, sp_diag *d)
{
    char sql[1024];
    void *list;
    snprintf(sql, sizeof sql, "%sWHERE tenant=? ORDER BY seq", coll_columns);
    SP_TRY(
        read_all(s, a, sp_db_query(s->db, sql, "s", tenant), row_coll, sizeof **out, &list, n, d));
    *out = list;
    return SP_OK;
}

sp_err sp_rag_coll_update(sp_rag_store *s, const char *tenant, const char *id, const char *name,
                          const char *metadata, sp_diag *d)
{
    int64_t seq;
    SP_TRY(sp_rag_coll_seq(s, tenant, id, &seq, d));
    return sp_db_run(
        s->db, d,
        "UPDATE collection SET name=coalesce(?,name), metadata=coalesce(?,metadata) WHERE seq=?",
        "ssi", name, metadata, seq);
}

/* After rows are gone: terms nobody names, and words that segments of the index still hold. */
static sp_err sweep(sp_rag_store *s, sp_diag *d)
{
    SP_TRY(sp_db_run(s->db, d,
                     "DELETE FROM term WHERE NOT EXISTS(SELECT 1 FROM mention WHERE term=term.seq)",
                     ""));
    return sp_db_is_pg(s->db)
               ? SP_OK
               : sp_db_run(s->db, d, "INSERT INTO word_fts(word_fts) VALUES('optimize')", "");
}

sp_err sp_rag_touch(sp_rag_store *s, int64_t coll, sp_diag *d)
{
    return sp_db_run(s->db, d, "UPDATE collection SET version=version+1, active=? WHERE seq=?",
                     "ii", (int64_t)sp_clock_wall(), coll);
}

sp_err sp_rag_coll_delete(sp_rag_store *s, const char *tenant, const char *id, sp_diag *d)
{
    int64_t seq;
    SP_TRY(sp_rag_coll_seq(s, tenant, id, &seq, d));
    SP_TRY(sp_db_begin(s->db, d));
    sp_err err = sp_db_run(s->db, d,
                           "DELETE FROM chunk WHERE doc IN (SELECT seq FROM document WHERE coll=?)",
                           "i", seq);
    if (err == SP_OK)
        err = sp_db_run(s->db, d, "DELETE FROM document WHERE coll=?", "i", seq);
    if (err == SP_OK)
        err = sweep(s, d);
    if (err == SP_OK)
        err = sp_db_run(s->db, d, "DELETE FROM fact WHERE coll=?", "i", seq);
    if (err == SP_OK)
        err = sp_db_run(s->db, d, "DELETE FROM batch WHERE coll=?", "i", seq);
    if (err == SP_OK)
        err = sp_rag_gone_coll(s, tenant, seq, d);
    if (err == SP_OK)
        err = sp_db_run(s->db, d, "DELETE FROM collection WHERE seq=?", "i", seq);
    SP_TRY(sp_db_finish(s->db, err, d));
    return sp_db_settle(s->db, d);
}

/* --- documents -------------------------------------------------------------------------------- */

static sp_rag_state state_of(const char *name)
{
    static const char *const names[] =
        {[SP_RAG_WAITING] = "waiting", [SP_RAG_PARTIAL] = "partial", [SP_RAG_EMPTY] = "empty"};
    for (sp_rag_state s = SP_RAG_WAITING; s <= SP_RAG_EMPTY; s++)
        if (strcmp(names[s], name) == 0)
            return s;
    return SP_RAG_READ;
}

static sp_err row_doc(sp_arena *a, sp_rows *q, void *p, sp_diag *d)
{
    sp_rag_doc *out = p;
    *out = (sp_rag_doc){.seq = sp_rows_int(q, 0),
                        .path = sp_rows_keep(a, q, 2),
                        .title = sp_rows_keep(a, q, 3),
                        .attributes = sp_rows_keep(a, q, 4),
                        .created = sp_rows_int(q, 6),
                        .n_bytes = sp_rows_int(q, 7),
                        .n_chunk = sp_rows_int(q, 8),
                        .n_bare = sp_rows_int(q, 9)};
    snprintf(out->id, sizeof out->id, "%s", sp_rows_str(q, 1));
    if (!sp_rows_is_null(q, 5))
        out->error = sp_rows_keep(a, q, 5);
    out->state = out->error && strcmp(sp_rows_str(q, 10), "empty") != 0
                     ? SP_RAG_FAILED
                     : state_of(sp_rows_str(q, 10));
    bool waits = out->state == SP_RAG_WAITING; /* then these two are a claim, see store_doc.c */
    out->n_bad = waits ? 0 : sp_rows_int(q, 11);
    out->notes = waits ? "" : sp_rows_keep(a, q, 12);
    return out->path && out->title && out->attributes && out->notes
               ? SP_OK
               : SP_FAIL(d, SP_NOMEM, "documents");
}

static const char doc_columns[] =
    "SELECT seq, id, path, title, attributes, error, created, n_bytes, (SELECT count(*) FROM chunk "
    "WHERE doc=document.seq),"
    " (SELECT count(*) FROM chunk WHERE doc=document.seq AND vec IS NULL), outcome.state, "
    "outcome.n_bad, outcome.notes"
    " FROM document LEFT JOIN outcome ON outcome.doc=document.seq WHERE coll=? ";

sp_err sp_rag_doc_list(sp_rag_store *s, sp_arena *a, const char *tenant, const char *coll,
                       sp_rag_doc **out, size_t *n, sp_diag *d)
{
    int64_t seq;
    char sql[512];
    void *list;
    SP_TRY(sp_rag_coll_seq(s, tenant, coll, &seq, d));
    snprintf(sql, sizeof sql, "%sORDER BY seq", doc_columns);
    SP_TRY(read_all(s, a, sp_db_query(s->db, sql, "i", seq), row_doc, sizeof **out, &list, n, d));
    *out = list;
    return SP_OK;
}

sp_err sp_rag_doc_get(sp_rag_store *s, sp_arena *a, const char *tenant, const char *coll,
                      const char *id, sp_rag_doc *out, sp_diag *d)
{
    int64_t seq;
    char sql[512];
    SP_TRY(sp_rag_coll_seq(s, tenant, coll, &seq, d));
    snprintf(sql, sizeof sql, "%sAND id=?", doc_columns);
    sp_rows *q = sp_db_query(s->db, sql, "is", seq, id);
    sp_err err = sp_rows_first(s->db, q, d);
    if (err == SP_OK)
        err = row_doc(a, q, out, d);
    else if (err == SP_NOTFOUND)
        err = SP_FAIL(d, err, "the vector store has no file %.60s", id);
    return sp_rows_end(q, err, d);
}

/* --- batches ---------------------------------------------------------------------------------- */

sp_err sp_rag_batch_put(sp_rag_store *s, const char *tenant, const char *coll,
                        const char *const *file, size_t n, char id[SP_RAG_ID], sp_diag *d)
{
    int64_t seq, now = sp_clock_wall();
    SP_TRY(sp_rag_coll_seq(s, tenant, coll, &seq, d));
    make_id(id, "vsfb_");
    SP_TRY(sp_db_begin(s->db, d));
    sp_err err = SP_OK;
    for (size_t i = 0; i < n && err == SP_OK; i++)
        err = sp_db_run(
            s->db, d,
            "INSERT INTO batch(id, coll, created, file) VALUES(?,?,?,?) ON CONFLICT DO NOTHING",
            "siis", id, seq, now, file[i]);
    return sp_db_finish(s->db, err, d);
}

static sp_err find_batch(sp_rag_store *s, const char *tenant, const char *coll, const char *id,
                         int64_t *seq, int64_t *created, sp_diag *d)
{
    SP_TRY(sp_rag_coll_seq(s, tenant, coll, seq, d));
    sp_err err =
        sp_db_int(s->db, created, d, "SELECT created FROM batch WHERE id=? AND coll=? LIMIT 1",
                  "si", id, *seq);
    return err == SP_NOTFOUND ? SP_FAIL(d, err, "the vector store has no batch %.60s", id) : err;
}

sp_err sp_rag_batch_get(sp_rag_store *s, const char *tenant, const char *coll, const char *id,
                        sp_rag_batch *out, sp_diag *d)
{
    static const char which[] =
        "FROM document WHERE coll=?1 AND id IN (SELECT file FROM batch WHERE id=?2)";
    static const char *const and[] = {"", " AND error IS NOT NULL",
                                      " AND error IS NULL AND " IS_PENDING};
    char sql[512];
    int64_t seq, n[3];
    *out = (sp_rag_batch){0};
    SP_TRY(find_batch(s, tenant, coll, id, &seq, &out->created, d));
    for (size_t i = 0; i < 3; i++) {
        snprintf(sql, sizeof sql, "SELECT count(*) %s%s", which, and[i]);
        SP_TRY(sp_db_int(s->db, &n[i], d, sql, "is", seq, id));
    }
    snprintf(out->id, sizeof out->id, "%s", id);
    out->n_doc = n[0];
    out->n_failed = n[1];
    out->n_pending = n[2];
    return SP_OK;
}

sp_err sp_rag_batch_docs(sp_rag_store *s, sp_arena *a, const char *tenant, const char *coll,
                         const char *id, sp_rag_doc **out, size_t *n, sp_diag *d)
{
    int64_t seq, created;
    char sql[640];
    void *list;
    SP_TRY(find_batch(s, tenant, coll, id, &seq, &created, d));
    snprintf(sql, sizeof sql, "%sAND id IN (SELECT file FROM batch WHERE id=?) ORDER BY seq",
             doc_columns);
    SP_TRY(
        read_all(s, a, sp_db_query(s->db, sql, "is", seq, id), row_doc, sizeof **out, &list, n, d));
    *out = list;
    return SP_OK;
}

/* Every document of this id, in one collection (seq) or in all of the tenant's (0). */
static sp_err delete_docs(sp_rag_store *s, const char *tenant, int64_t seq, const char *id,
                          sp_diag *d)
{
    static const char which[] = "id=?1 AND coll IN (SELECT seq FROM collection WHERE tenant=?2 AND "
                                "(CAST(?3 AS BIGINT)=0 OR seq=?3))";
    char sql[512];
    SP_TRY(sp_rag_gone_docs(s, tenant, seq, id, d));
    snprintf(sql, sizeof sql, "DELETE FROM chunk WHERE doc IN (SELECT seq FROM document WHERE %s)",
             which);
    SP_TRY(sp_db_run(s->db, d, sql, "ssi", id, tenant, seq));
    snprintf(
        sql, sizeof sql,
        "UPDATE collection SET version=version+1 WHERE seq IN (SELECT coll FROM document WHERE %s)",
        which);
    SP_TRY(sp_db_run(s->db, d, sql, "ssi", id, tenant, seq));
    snprintf(sql, sizeof sql, "DELETE FROM document WHERE %s", which);
    SP_TRY(sp_db_run(s->db, d, sql, "ssi", id, tenant, seq));
    return sweep(s, d);
}

sp_err sp_rag_doc_delete(sp_rag_store *s, const char *tenant, const char *coll, const char *id,
                         sp_diag *d)
{
    int64_t seq, doc;
    SP_TRY(sp_rag_coll_seq(s, tenant, coll, &seq, d));
    sp_err err =
        sp_db_int(s->db, &doc, d, "SELECT seq FROM document WHERE coll=? AND id=?", "is", seq, id);
    if (err != SP_OK)
        return err == SP_NOTFOUND ? SP_FAIL(d, err, "the vector store has no file %.60s", id) : err;
    SP_TRY(sp_db_begin(s->db, d));
    SP_TRY(sp_db_finish(s->db, delete_docs(s, tenant, seq, id, d), d));
    return sp_db_settle(s->db, d);
}

static sp_err row_text(sp_arena *a, sp_rows *q, void *p, sp_diag *d)
{
    sp_rag_hit *out = p;
    *out = (sp_rag_hit){.seq = sp_rows_int(q, 0),
                        .place = sp_rows_keep(a, q, 2),
                        .text = sp_rows_keep(a, q, 3),
                        .n_tok = sp_rows_int(q, 4)};
    snprintf(out->chunk, sizeof out->chunk, "%s", sp_rows_str(q, 1));
    return out->place && out->text ? SP_OK : SP_FAIL(d, SP_NOMEM, "chunks");
}

sp_err sp_rag_doc_text(sp_rag_store *s, sp_arena *a, const sp_rag_doc *doc, sp_rag_hit **out,
                       size_t *n, sp_diag *d)
{
    void *list;
    SP_TRY(read_all(
        s, a,
        sp_db_query(s->db, "SELECT seq, id, place, text, n_tok FROM chunk WHERE doc=? ORDER BY pos",
                    "i", doc->seq),
        row_text, sizeof **out, &list, n, d));
    *out = list;
    return SP_OK;
}

static sp_err row_bare(sp_arena *a, sp_rows *q, void *p, sp_diag *d)
{
    sp_rag_bare *out = p;
    *out = (sp_rag_bare){sp_rows_int(q, 0), sp_rows_keep(a, q, 1), sp_rows_keep(a, q, 2)};
    return out->place && out->text ? SP_OK : SP_FAIL(d, SP_NOMEM, "chunks");
}

sp_err sp_rag_bare_next(sp_rag_store *s, sp_arena *a, size_t cap, sp_rag_bare **out, size_t *n,
                        sp_diag *d)
{
    void *list;
    SP_TRY(read_all(
        s, a,
        sp_db_query(s->db,
                    "SELECT seq, place, text FROM chunk WHERE vec IS NULL ORDER BY seq LIMIT ?",
                    "i", (int64_t)cap),
        row_bare, sizeof **out, &list, n, d));
    *out = list;
    return *n ? SP_OK : SP_NOTFOUND;
}

static sp_err row_probe(sp_arena *a, sp_rows *q, void *p, sp_diag *d)
{
    sp_rag_probe *out = p;
    *out = (sp_rag_probe){sp_rows_int(q, 0), sp_rows_keep(a, q, 1), sp_rows_keep(a, q, 2),
                          sp_rows_keep(a, q, 3)};
    return out->tenant && out->coll && out->text ? SP_OK : SP_FAIL(d, SP_NOMEM, "chunks");
}

sp_err sp_rag_probe_next(sp_rag_store *s, sp_arena *a, double draw, sp_rag_probe *out, sp_diag *d)
{
    void *list;
    size_t n;
    int64_t first, last;
    SP_TRY(sp_db_int(s->db, &first, d, "SELECT COALESCE(min(seq), 0) FROM chunk", ""));
    SP_TRY(sp_db_int(s->db, &last, d, "SELECT COALESCE(max(seq), 0) FROM chunk", ""));
    /* gaps make what follows them likelier: no matter here */
    int64_t from = first + (int64_t)(draw * (double)(last - first + 1));
    SP_TRY(read_all(s, a,
                    sp_db_query(s->db,
                                "SELECT c.seq, k.tenant, k.id, c.text FROM chunk c JOIN document o "
                                "ON o.seq=c.doc JOIN collection k ON k.seq=o.coll "
                                "WHERE c.seq>=? AND c.vec IS NOT NULL ORDER BY c.seq LIMIT 1",
                                "i", from),
                    row_probe, sizeof *out, &list, &n, d));
    if (n)
        *out = *(const sp_rag_probe *)list;
    return n ? SP_OK : SP_NOTFOUND;
}

void sp_rag_vecs_set(sp_rag_vecs *out, const float *unit, size_t n_sent)
{
    sp_vec_quantise(out->whole, unit);
    for (size_t i = 0; i < n_sent; i++)
        sp_vec_quantise(out->sent[i], unit + (i + 1) * SP_VEC_DIM);
    out->n_sent = n_sent;
}

sp_err sp_rag_bare_set(sp_rag_store *s, const sp_rag_bare *bare, const sp_rag_vecs *vecs, size_t n,
                       sp_diag *d)
{
    SP_TRY(sp_db_begin(s->db, d));
    sp_err err = SP_OK;
    for (size_t i = 0; i < n && err == SP_OK; i++) {
        char v[SP_RAG_VEC_TEXT];
        sp_rag_vec_text(v, vecs[i].whole);
        err = sp_db_is_pg(s->db)
                  ? sp_db_run(s->db, d,
                              "UPDATE chunk SET vec=?, sent=?, v=CAST(? AS vector) WHERE seq=?",
                              "bbsi", vecs[i].whole, (size_t)SP_VEC_DIM, vecs[i].sent,
                              vecs[i].n_sent * SP_VEC_DIM, v, bare[i].seq)
                  : sp_db_run(s->db, d, "UPDATE chunk SET vec=?, sent=? WHERE seq=?", "bbi",
                              vecs[i].whole, (size_t)SP_VEC_DIM, vecs[i].sent,
                              vecs[i].n_sent * SP_VEC_DIM, bare[i].seq);
    }
    if (err == SP_OK)
        err = sp_db_run(s->db, d,
                         "UPDATE collection SET version=version+1 WHERE seq IN (SELECT coll FROM document WHERE seq IN (SELECT doc FROM chunk WHERE seq "
                         "BETWEEN ? AND ?))",
                         "ii", bare[0].seq, bare[n - 1].seq);
    return sp_db_finish(s->db, err, d);
}

/* --- uploads ---------------------------------------------------------------------------------- */

sp_err sp_rag_file_put(sp_rag_store *s, const char *tenant, const char *name, const char *purpose,
                       const char *p, size_t n, char id[SP_RAG_ID], sp_diag *d)
{
    make_id(id, "file-");
    return sp_db_run(s->db, d,
                     "INSERT INTO file(id, tenant, name, purpose, created, n_bytes, content) "
                     "VALUES(?,?,?,?,?,?,?)",
                     "ssssiib", id, tenant, name, purpose, (int64_t)sp_clock_wall(), (int64_t)n,
                     n ? p : "", n);
}

static sp_err row_file(sp_arena *a, sp_rows *q, void *p, sp_diag *d)
{
    sp_rag_file *out = p;
    *out = (sp_rag_file){.name = sp_rows_keep(a, q, 1),
                         .purpose = sp_rows_keep(a, q, 2),
                         .created = sp_rows_int(q, 3),
                         .n_bytes = sp_rows_int(q, 4)};
    snprintf(out->id, sizeof out->id, "%s", sp_rows_str(q, 0));
    return out->name && out->purpose ? SP_OK : SP_FAIL(d, SP_NOMEM, "files");
}

sp_err sp_rag_file_get(sp_rag_store *s, sp_arena *a, const char *tenant, const char *id,
                       sp_rag_file *out, const char **content, sp_diag *d)
{
    sp_rows *q = sp_db_query(
        s->db,
        content ? "SELECT id, name, purpose, created, n_bytes, content FROM file WHERE id=? AND "
                  "tenant=?"
                : "SELECT id, name, purpose, created, n_bytes FROM file WHERE id=? AND tenant=?",
        "ss", id, tenant);
    sp_err err = sp_rows_first(s->db, q, d);
    if (err == SP_OK)
        err = row_file(a, q, out, d);
    else if (err == SP_NOTFOUND)
        err = SP_FAIL(d, err, "there is no file %.60s", id);
    if (err == SP_OK && content) {
        size_t n;
        const void *p = sp_rows_blob(q, 5, &n);
        *content = sp_arena_strndup(a, p ? p : "", n);
        err = *content ? SP_OK : SP_FAIL(d, SP_NOMEM, "file");
    }
    return sp_rows_end(q, err, d);
}

static sp_err row_listed(sp_arena *a, sp_rows *q, void *p, sp_diag *d)
{
    SP_TRY(row_file(a, q, p, d));
    ((sp_rag_file *)p)->seq = sp_rows_int(q, 5);
    return SP_OK;
}

sp_err sp_rag_file_list(sp_rag_store *s, sp_arena *a, const char *tenant, sp_rag_file **out,
                        size_t *n, sp_diag *d)
{
    void *list;
    SP_TRY(read_all(s, a,
                    sp_db_query(s->db,
                                "SELECT id, name, purpose, created, n_bytes, rowid FROM file WHERE "
                                "tenant=? ORDER BY rowid",
                                "s", tenant),
                    row_listed, sizeof **out, &list, n, d));
    *out = list;
    return SP_OK;
}

sp_err sp_rag_file_delete(sp_rag_store *s, const char *tenant, const char *id, sp_diag *d)
{
    sp_rag_file f;
    sp_arena a;
    sp_arena_init(&a, 0);
    sp_err err = sp_rag_file_get(s, &a, tenant, id, &f, NULL, d);
    sp_arena_fini(&a);
    SP_TRY(err);
    SP_TRY(sp_db_begin(s->db, d));
    err = delete_docs(s, tenant, 0, id, d);
    if (err == SP_OK)
        err = sp_rag_gone_file(s, tenant, id, d);
    if (err == SP_OK)
        err = sp_db_run(s->db, d, "DELETE FROM file WHERE id=?", "s", id);
    SP_TRY(sp_db_finish(s->db, err, d));
    return sp_db_settle(s->db, d);
}

static sp_err forget(sp_rag_store *s, const char *tenant, sp_diag *d)
{
    static const char *const sql[] = {
        "DELETE FROM chunk WHERE doc IN (SELECT seq FROM document WHERE coll IN (SELECT seq FROM collection WHERE tenant=?))",
        "DELETE FROM document WHERE coll IN (SELECT seq FROM collection WHERE tenant=?)",
        "DELETE FROM fact WHERE coll IN (SELECT seq FROM collection WHERE tenant=?)",
        "DELETE FROM batch WHERE coll IN (SELECT seq FROM collection WHERE tenant=?)",
        "DELETE FROM collection WHERE tenant=?", "DELETE FROM file WHERE tenant=?", "DELETE FROM gone WHERE tenant=?"};
    for (size_t i = 0; i < sizeof sql / sizeof sql[0]; i++)
        SP_TRY(sp_db_run(s->db, d, sql[i], "s", tenant));
    return sweep(s, d);
}

sp_err sp_rag_forget(sp_rag_store *s, const char *tenant, size_t *n, sp_diag *d)
{
    int64_t n_doc, n_file;
    SP_TRY(sp_db_int(
        s->db, &n_doc, d,
        "SELECT count(*) FROM document WHERE coll IN (SELECT seq FROM collection WHERE tenant=?)",
        "s", tenant));
    SP_TRY(sp_db_int(s->db, &n_file, d, "SELECT count(*) FROM file WHERE tenant=?", "s", tenant));
    SP_TRY(sp_db_begin(s->db, d));
    SP_TRY(sp_db_finish(s->db, forget(s, tenant, d), d));
    *n = (size_t)(n_doc + n_file);
    return sp_db_settle(s->db, d);
}
