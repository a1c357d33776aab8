#include "pipe/knowledge.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/rng.h"
#include "base/utf8.h"
#include "pipe/interleave.h"
#include "pipe/models.h"
#include "pipe/reader.h"

#include <stdio.h>
#include <string.h>

enum { BATCH = 8, STORE_BATCH = 32, PROBE_TOP = 10 };

struct sp_know {
    sp_know_cfg cfg;
    sp_desk *desk;
    sp_rag_store *store; /* owner: the desk's thread */
    sp_metric *search_s, *ops, *chunks, *probes[2];
    sp_rng rng;          /* owner: the desk's thread, as the next */
    uint64_t next_probe;
    sp_reader *reader;
    /* owner: the desk's thread; a document that was read and is being stored */
    sp_read_job *read;
    char last_of[64];        /* tenant of the document that was given to the reader last */
};

sp_know_op *sp_know_op_new(sp_know *k, sp_know_kind kind, const char *tenant)
{
    sp_know_op *op = sp_op_new(k->desk, sizeof *op);
    if (!op)
        return NULL;
    op->kind = kind;
    snprintf(op->tenant, sizeof op->tenant, "%s", tenant);
    return op;
}

/* --- documents -------------------------------------------------------------------------------- */

/* An upload becomes a document of the collection, to be read between operations. */
static sp_err attach(sp_know *k, sp_know_op *op, const char *file)
{
    sp_rag_file f;
    sp_rag_outcome out;
    sp_diag *d = &op->op.diag;
    sp_buf path = {0};
    sp_rag_put p = {.tenant = op->tenant,
                    .coll = op->coll,
                    .id = file,
                    .attributes = op->metadata,
                    .vocab = k->cfg.vocab,
                    .max_tok = k->cfg.chunk_tok};
    SP_TRY(sp_rag_file_get(k->store, &op->op.a, op->tenant, file, &f, &p.bytes, d));
    p.n_bytes = (size_t)f.n_bytes;
    sp_buf_printf(&path, "%s/%s", f.id, f.name); /* two uploads of one name are two documents */
    p.path = sp_buf_str(&path);
    sp_err err =
        path.failed ? SP_FAIL(d, SP_NOMEM, "document") : sp_rag_doc_register(k->store, &p, &out, d);
    sp_buf_fini(&path);
    return err;
}

/* Some chunks of the document that was read. SP_NOTFOUND: it was deleted meanwhile. */
static sp_err store_some(sp_know *k, sp_diag *d)
{
    sp_read_job *j = k->read;
    if (j->err != SP_OK)
        return sp_rag_waiting_fail(k->store, &j->from, j->why.msg, d);
    size_t left = j->doc.n_chunk - j->n_stored, n = left < STORE_BATCH ? left : STORE_BATCH;
    SP_TRY(sp_rag_waiting_store(k->store, &j->from, &j->doc, j->n_stored, n, d));
    j->n_stored += n;
    return SP_OK;
}

/* true: there may be more to do at once. */
static bool store_read(sp_know *k)
{
    sp_diag d = {0};
    if (!k->read)
        k->read = sp_reader_take(k->reader);
    if (!k->read)
        return false;
    sp_err err = k->read->err == SP_CANCEL ? SP_CANCEL : store_some(k, &d);
    if (err == SP_OK && k->read->err == SP_OK && k->read->n_stored < k->read->doc.n_chunk)
        return true;
    if (err != SP_OK && err != SP_NOTFOUND && err != SP_CANCEL)
        sp_log(SP_LOG_WARN, "a document was read and cannot be stored: %s", d.msg);
    /* after another error it waits for the next tick */
    bool again = err == SP_OK || err == SP_NOTFOUND;
    sp_read_job_free(k->read);
    k->read = NULL;
    return again;
}

static void start_reading(sp_know *k)
{
    sp_diag d = {0};
    if (k->read || !sp_reader_is_free(k->reader))
        return;
    sp_read_job *j = sp_read_job_new();
    sp_err err = j ? sp_rag_waiting_next(k->store, &j->a, k->last_of, &j->from, &d) : SP_NOMEM;
    if (err == SP_OK) {
        snprintf(k->last_of, sizeof k->last_of, "%s", j->from.tenant);
        sp_reader_give(k->reader, j);
        return;
    }
    if (err != SP_NOTFOUND)
        sp_log(SP_LOG_WARN, "documents wait to be read: %s", d.msg);
    sp_read_job_free(j);
}

static sp_err one_doc(sp_know *k, sp_know_op *op)
{
    op->doc_list = sp_arena_alloc(&op->op.a, sizeof *op->doc_list);
    if (!op->doc_list)
        return SP_NOMEM;
    op->n = 1;
    return sp_rag_doc_get(k->store, &op->op.a, op->tenant, op->coll, op->file, op->doc_list,
                          &op->op.diag);
}

static sp_err one_coll(sp_know *k, sp_know_op *op)
{
    op->coll_list = sp_arena_alloc(&op->op.a, sizeof *op->coll_list);
    if (!op->coll_list)
        return SP_NOMEM;
    op->n = 1;
    return sp_rag_coll_get(k->store, &op->op.a, op->tenant, op->coll, op->coll_list, &op->op.diag);
}

static sp_err one_file(sp_know *k, sp_know_op *op, bool with_content)
{
    op->file_list = sp_arena_alloc(&op->op.a, sizeof *op->file_list);
    if (!op->file_list)
        return SP_NOMEM;
    op->n = 1;
    return sp_rag_file_get(k->store, &op->op.a, op->tenant, op->file, op->file_list,
                           with_content ? &op->content : NULL, &op->op.diag);
}

/* All or none. */
static sp_err check_files(sp_know *k, sp_know_op *op)
{
    sp_rag_file f;
    for (size_t i = 0; i < op->n_files; i++)
        SP_TRY(
            sp_rag_file_get(k->store, &op->op.a, op->tenant, op->files[i], &f, NULL, &op->op.diag));
    return SP_OK;
}

static sp_err put_batch(sp_know *k, sp_know_op *op)
{
    SP_TRY(check_files(k, op));
    SP_TRY(sp_rag_batch_put(k->store, op->tenant, op->coll, op->files, op->n_files, op->file,
                            &op->op.diag));
    for (size_t i = 0; i < op->n_files; i++)
        SP_TRY(attach(k, op, op->files[i]));
    return sp_rag_batch_get(k->store, op->tenant, op->coll, op->file, &op->batch, &op->op.diag);
}

static sp_err put_coll(sp_know *k, sp_know_op *op)
{
    SP_TRY(check_files(k, op));
    SP_TRY(sp_rag_coll_create(k->store, op->tenant, op->name ? op->name : "", op->metadata,
                              op->coll, &op->op.diag));
    op->metadata = NULL;
    for (size_t i = 0; i < op->n_files; i++)
        SP_TRY(attach(k, op, op->files[i]));
    return one_coll(k, op);
}

/* Pages before and after the rows: if something fails, the document is still there to be deleted
 * again; and nothing that was computed meanwhile stays. */
static sp_err remove_it(sp_know *k, sp_know_op *op)
{
    size_t n_page;
    sp_diag *d = &op->op.diag;
    sp_err err = SP_OK;
    if (op->kind == SP_KNOW_COLL_DELETE)
        err = one_coll(k, op);
    else if (op->kind == SP_KNOW_DOC_DELETE)
        err = one_doc(k, op);
    else if (op->kind == SP_KNOW_FILE_DELETE)
        err = one_file(k, op, false);
    SP_TRY(err);
    SP_TRY(sp_models_forget(k->cfg.models, op->tenant, NULL, &n_page, d));
    switch (op->kind) {
    case SP_KNOW_COLL_DELETE: err = sp_rag_coll_delete(k->store, op->tenant, op->coll, d); break;
    case SP_KNOW_DOC_DELETE:
        err = sp_rag_doc_delete(k->store, op->tenant, op->coll, op->file, d);
        break;
    case SP_KNOW_FILE_DELETE: err = sp_rag_file_delete(k->store, op->tenant, op->file, d); break;
    default: err = sp_rag_forget(k->store, op->tenant, &op->n, d);
    }
    return err == SP_OK ? sp_models_forget(k->cfg.models, op->tenant, NULL, &n_page, d) : err;
}

/* --- search ----------------------------------------------------------------------------------- */

static int best_first(const void *a, const void *b)
{
    const sp_rag_hit *x = a, *y = b;
    return x->score != y->score ? (x->score < y->score ? 1 : -1)
           : x->seq < y->seq    ? -1
                                : x->seq > y->seq;
}

/* A search as it is asked of each collection. */
typedef struct question {
    int8_t vec[SP_VEC_DIM], wide[SP_VEC_DIM];
    bool has_vec, has_wide;
    json_t *filter;
} question;

/* What one rank finds in all collections, best first: out [n_colls * cap]. */
static sp_err rank(sp_rag_hit *out, size_t *n, sp_know *k, sp_know_op *op, const question *ask,
                   unsigned how)
{
    *n = 0;
    for (size_t i = 0; i < op->n_colls; i++) {
        sp_rag_hit *hit;
        size_t found;
        const sp_rag_query q = {.tenant = op->tenant,
                                .coll = op->colls[i],
                                .text = op->query,
                                .vec = ask->has_vec ? ask->vec : NULL,
                                .wide = op->wide,
                                .wide_vec = ask->has_wide ? ask->wide : NULL,
                                .filter = ask->filter,
                                .how = how ? how : SP_RAG_PLAIN,
                                .cap = op->cap};
        SP_TRY(sp_rag_search(k->store, &op->op.a, &q, &hit, &found, &op->op.diag));
        if (found)
            memcpy(out + *n, hit, found * sizeof *hit);
        *n += found;
    }
    qsort(out, *n, sizeof *out, best_first);
    *n = *n < op->cap ? *n : op->cap;
    return SP_OK;
}

/* One rank, or two as one list. */
static sp_err find_hits(sp_know *k, sp_know_op *op, const question *ask)
{
    size_t cap = (op->n_colls + 1) * op->cap, n[2];
    sp_rag_hit *list[2] = {NULL};
    op->hit = sp_arena_alloc(&op->op.a, cap * sizeof *op->hit);
    for (size_t i = 0; i < 2 && op->how[1]; i++)
        list[i] = sp_arena_alloc(&op->op.a, cap * sizeof *op->hit);
    if (!op->hit || (op->how[1] && (!list[0] || !list[1])))
        return SP_FAIL(&op->op.diag, SP_NOMEM, "search");
    if (!op->how[1])
        return rank(op->hit, &op->n, k, op, ask, op->how[0]);
    for (size_t i = 0; i < 2; i++)
        SP_TRY(rank(list[i], &n[i], k, op, ask, op->how[i]));
    op->n = sp_interleave(op->hit, op->cap, list[0], n[0], list[1], n[1], sp_rng_entropy());
    return SP_OK;
}

static sp_err find_facts(sp_know *k, sp_know_op *op)
{
    op->fact = sp_arena_alloc(&op->op.a, SP_KNOW_FACTS * sizeof *op->fact);
    if (!op->fact)
        return SP_FAIL(&op->op.diag, SP_NOMEM, "search");
    for (size_t i = 0; i < op->n_colls; i++) {
        sp_rag_fact *fact;
        size_t n;
        SP_TRY(sp_rag_fact_about(k->store, &op->op.a, op->tenant, op->colls[i],
                                 op->wide ? op->wide : op->query, SP_KNOW_FACTS - op->n_fact,
                                 &fact, &n, &op->op.diag));
        if (n)
            memcpy(op->fact + op->n_fact, fact, n * sizeof *fact);
        op->n_fact += n;
    }
    return SP_OK;
}

static sp_err search(sp_know *k, sp_know_op *op)
{
    question ask = {0};
    uint64_t t = sp_clock_ns();
    if (op->by_name) {
        sp_diag none = {0};
        sp_err err =
            sp_rag_coll_named(k->store, op->tenant, op->by_name, false, op->colls[0], &none);
        op->n_colls = err == SP_OK;
        if (err != SP_OK && err != SP_NOTFOUND)
            return op->op.diag = none, err;
    }
    ask.has_vec = op->n_colls && sp_embed(k->cfg.engine, k->cfg.vocab, ask.vec, op->query,
                                          strlen(op->query), NULL) == SP_OK;
    ask.has_wide = ask.has_vec && op->wide &&
                   sp_embed(k->cfg.engine, k->cfg.vocab, ask.wide, op->wide, strlen(op->wide),
                            NULL) == SP_OK;
    op->ms_vector = sp_clock_ms(t);
    ask.filter = op->filter ? json_loads(op->filter, 0, NULL) : NULL;
    sp_err err = find_hits(k, op, &ask);
    if (err == SP_OK)
        err = find_facts(k, op);
    json_decref(ask.filter);
    SP_TRY(err);
    sp_metric_observe(k->search_s, sp_clock_ms(t) * 1e-3);
    return SP_OK;
}

/* --- desk ------------------------------------------------------------------------------------- */

static sp_err run_op(void *self, sp_op *base)
{
    sp_know *k = self;
    sp_know_op *op = (sp_know_op *)base;
    sp_arena *a = &op->op.a;
    sp_diag *d = &op->op.diag;
    sp_metric_add(k->ops, 1);
    bool files = op->kind == SP_KNOW_FILE_LIST, colls = op->kind == SP_KNOW_COLL_LIST;
    if (op->after[0])
        SP_TRY(sp_rag_place(k->store, op->tenant,
                            files   ? SP_RAG_FILES
                            : colls ? SP_RAG_COLLS
                                    : SP_RAG_DOCS,
                            op->coll, op->after, &op->after_seq, d));
    switch (op->kind) {
    case SP_KNOW_FILE_PUT:
        SP_TRY(sp_rag_file_put(k->store, op->tenant, op->name, op->purpose, op->content,
                               op->n_content, op->file, d));
        return one_file(k, op, false);
    case SP_KNOW_FILE_GET: return one_file(k, op, false);
    case SP_KNOW_FILE_CONTENT: return one_file(k, op, true);
    case SP_KNOW_FILE_LIST:
        return sp_rag_file_list(k->store, a, op->tenant, &op->file_list, &op->n, d);
    case SP_KNOW_COLL_PUT: return put_coll(k, op);
    case SP_KNOW_COLL_GET: return one_coll(k, op);
    case SP_KNOW_COLL_LIST:
        return sp_rag_coll_list(k->store, a, op->tenant, &op->coll_list, &op->n, d);
    case SP_KNOW_COLL_UPDATE:
        SP_TRY(sp_rag_coll_update(k->store, op->tenant, op->coll, op->name, op->metadata, d));
        return one_coll(k, op);
    case SP_KNOW_BATCH_PUT: return put_batch(k, op);
    case SP_KNOW_BATCH_GET:
        return sp_rag_batch_get(k->store, op->tenant, op->coll, op->file, &op->batch, d);
    case SP_KNOW_BATCH_LIST:
        return sp_rag_batch_docs(k->store, a, op->tenant, op->coll, op->file, &op->doc_list, &op->n,
                                 d);
    case SP_KNOW_DOC_PUT:
        SP_TRY(attach(k, op, op->file));
        return one_doc(k, op);
    case SP_KNOW_DOC_GET: return one_doc(k, op);
    case SP_KNOW_DOC_TEXT:
        SP_TRY(one_doc(k, op));
        return sp_rag_doc_text(k->store, a, op->doc_list, &op->hit, &op->n, d);
    case SP_KNOW_DOC_LIST:
        return sp_rag_doc_list(k->store, a, op->tenant, op->coll, &op->doc_list, &op->n, d);
    case SP_KNOW_SEARCH: return search(k, op);
    case SP_KNOW_COLL_DELETE:
    case SP_KNOW_DOC_DELETE:
    case SP_KNOW_FILE_DELETE:
    case SP_KNOW_FORGET: return remove_it(k, op);
    }
    return SP_INVAL;
}

/* --- is what lies here found? ----------------------------------------------------------------- */

/* A sentence from the middle of a text, or what there is. */
static const char *middle_sentence(sp_arena *a, const char *text)
{
    enum { LEAST = 30, MOST = 300 };
    size_t n = strlen(text), at = 0;
    /* the first that begins in the second half, else all */
    for (size_t i = n / 2; i + 1 < n && !at; i++)
        at = (text[i] == '.' || text[i] == '\n') && n - i > LEAST ? i + 1 : 0;
    size_t end = at + 1;
    while (end < n && end - at < MOST && !(text[end] == '.' && end - at > LEAST))
        end++;
    end -= end < n ? sp_utf8_tail(text + at, end - at) : 0;
    return sp_arena_strndup(a, text + at, end - at);
}

/* Asks for a chunk by a sentence of its own: a live measure of recall, which needs no labelled
 * questions. */
static void probe(sp_know *k)
{
    sp_arena a;
    sp_rag_probe p;
    sp_diag d = {0};
    sp_know_op op = {.kind = SP_KNOW_SEARCH, .n_colls = 1, .cap = PROBE_TOP};
    sp_arena_init(&a, 0);
    sp_arena_init(&op.op.a, 0);
    sp_err err = sp_rag_probe_next(k->store, &a, sp_rng_unit(&k->rng), &p, &d);
    op.query = err == SP_OK ? middle_sentence(&a, p.text) : NULL;
    if (op.query) {
        bool found = false;
        snprintf(op.tenant, sizeof op.tenant, "%s", p.tenant);
        snprintf(op.colls[0], sizeof op.colls[0], "%s", p.coll);
        err = search(k, &op);
        for (size_t i = 0; i < op.n; i++)
            found = found || op.hit[i].seq == p.seq;
        if (err == SP_OK)
            sp_metric_add(k->probes[found ? 0 : 1], 1);
    }
    sp_arena_fini(&op.op.a);
    sp_arena_fini(&a);
}

/* Vectors for some chunks that have none; now and then, a probe. */
static bool make_vectors(sp_know *k)
{
    if (k->cfg.probe_s > 0 && sp_clock_ns() >= k->next_probe) {
        k->next_probe = sp_clock_ns() + (uint64_t)(k->cfg.probe_s * 1e9);
        probe(k);
    }
    sp_arena a;
    sp_rag_bare *bare;
    size_t n = 0, done = 0;
    sp_diag d = {0};
    sp_rag_vecs vecs[BATCH];
    if (!k->cfg.vocab || sp_encoder_dim(sp_engine_config(k->cfg.engine)->encoder) != SP_VEC_DIM)
        return false;
    sp_arena_init(&a, 0);
    sp_err err = sp_rag_bare_next(k->store, &a, BATCH, &bare, &n, &d);
    while (done < n && err == SP_OK) {
        err = sp_embed_chunk(k->cfg.engine, k->cfg.vocab, &bare[done], &vecs[done], &d);
        done += err == SP_OK;
    }
    if (err == SP_OK)
        err = sp_rag_bare_set(k->store, bare, vecs, done, &d);
    if (err != SP_OK && err != SP_NOTFOUND && err != SP_CANCEL && err != SP_LIMIT)
        sp_log(SP_LOG_WARN, "vectors of documents wait: %s", d.msg);
    sp_metric_add(k->chunks, (double)done);
    sp_arena_fini(&a);
    return err == SP_OK && done;
}

static bool idle(void *self)
{
    sp_know *k = self;
    bool stored = store_read(k);
    start_reading(k);
    return make_vectors(k) || stored;
}

static void on_read(void *arg)
{
    sp_desk_wake(((sp_know *)arg)->desk);
}

sp_err sp_know_open(sp_know **out, const sp_know_cfg *cfg, sp_diag *d)
{
    sp_know *k = sp_mem_alloc(sizeof *k);
    if (!k)
        return SP_FAIL(d, SP_NOMEM, "collections");
    k->cfg = *cfg;
    k->search_s = sp_metric_seconds(cfg->metrics, "sparing_knowledge_search_seconds",
                                    "Searching collections, the question's vector included.", NULL);
    k->ops = sp_metric_counter(cfg->metrics, "sparing_knowledge_operations_total",
                               "Operations on files and collections.", NULL);
    k->chunks = sp_metric_counter(cfg->metrics, "sparing_knowledge_chunks_total",
                                  "Chunks of documents that were given a vector.", NULL);
    k->probes[0] = sp_metric_counter(
        cfg->metrics, "sparing_knowledge_probes_total",
        "Chunks asked for by a sentence of their own: among the ten found or not.",
        "result=\"found\"");
    k->probes[1] = sp_metric_counter(
        cfg->metrics, "sparing_knowledge_probes_total",
        "Chunks asked for by a sentence of their own: among the ten found or not.",
        "result=\"missed\"");
    sp_rng_init(&k->rng, sp_rng_entropy());
    k->next_probe = sp_clock_ns() + (uint64_t)(cfg->probe_s * 1e9);
    sp_err err = sp_rag_open(&k->store, cfg->path, cfg->kern, d);
    const sp_encoder *enc = sp_engine_config(cfg->engine)->encoder;
    if (err == SP_OK)
        sp_rag_hnsw_from(k->store, cfg->hnsw_from);
    if (err == SP_OK && cfg->vocab && enc && sp_encoder_dim(enc) == SP_VEC_DIM)
        err = sp_rag_made_by(k->store, sp_encoder_name(enc), d);
    const sp_reader_cfg reading = {cfg->vocab,        cfg->chunk_tok, SP_RAG_SECONDS,
                                   SP_RAG_TEXT_BYTES, on_read,        k};
    if (err == SP_OK)
        err = sp_reader_start(&k->reader, &reading, d);
    if (err == SP_OK)
        err = sp_desk_start(&k->desk, &(sp_desk_cfg){"collections", run_op, idle, k, NULL}, d);
    if (err == SP_OK)
        *out = k;
    else
        sp_know_close(k);
    return err;
}

void sp_know_close(sp_know *k)
{
    if (!k)
        return;
    sp_reader_stop(k->reader); /* it wakes the desk, and the desk asks it for jobs */
    sp_desk_stop(k->desk);
    sp_reader_free(k->reader);
    sp_read_job_free(k->read);
    sp_rag_close(k->store);
    sp_mem_free(k);
}
