#include "api/knowledge.h"

#include "api/multipart.h"
#include "api/params.h"
#include "pipe/feedback.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_QUERY = 4096, MAX_FILES = 500, MAX_LIST = 10000, DEFAULT_LIST = 20 };

typedef struct call {
    sp_know_op *op;
    int64_t limit;
    bool ascending;
    double threshold; /* of a search: hits below it are left out */
} call;

const char *sp_api_filename(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* --- answers ---------------------------------------------------------------------------------- */

static void put_str(sp_buf *out, const char *name, const char *v)
{
    sp_buf_printf(out, ",\"%s\":", name);
    sp_buf_json_str(out, v, strlen(v));
}

static void put_file(sp_buf *out, const sp_rag_file *f)
{
    sp_buf_printf(out,
                  "{\"id\":\"%s\",\"object\":\"file\",\"bytes\":%lld,\"created_at\":%lld,"
                  "\"status\":\"processed\"",
                  f->id, (long long)f->n_bytes, (long long)f->created);
    put_str(out, "filename", f->name);
    put_str(out, "purpose", f->purpose);
    sp_buf_putc(out, '}');
}

static void put_coll(sp_buf *out, const sp_rag_coll *c)
{
    int64_t done = c->n_doc - c->n_failed - c->n_pending;
    sp_buf_printf(out,
                  "{\"id\":\"%s\",\"object\":\"vector_store\",\"created_at\":%lld,\"last_active_"
                  "at\":%lld,\"usage_bytes\":%lld,\"status\":\"%s\","
                  "\"file_counts\":{\"in_progress\":%lld,\"completed\":%lld,\"failed\":%lld,"
                  "\"cancelled\":0,\"total\":%lld},\"chunk_count\":%lld,"
                  "\"expires_after\":null,\"expires_at\":null,\"metadata\":%s",
                  c->id, (long long)c->created, (long long)c->active, (long long)c->n_bytes,
                  c->n_pending ? "in_progress" : "completed", (long long)c->n_pending,
                  (long long)done, (long long)c->n_failed, (long long)c->n_doc,
                  (long long)c->n_chunk, c->metadata);
    put_str(out, "name", c->name);
    sp_buf_putc(out, '}');
}

static void put_doc(sp_buf *out, const sp_rag_doc *f, const char *coll)
{
    static const char *const outcome[] = {[SP_RAG_READ] = "read",
                                          [SP_RAG_WAITING] = "waiting",
                                          [SP_RAG_PARTIAL] = "partial",
                                          [SP_RAG_EMPTY] = "empty",
                                          [SP_RAG_FAILED] = "failed"};
    bool pending = f->state == SP_RAG_WAITING || f->n_bare;
    sp_buf_printf(out,
                  "{\"id\":\"%s\",\"object\":\"vector_store.file\",\"created_at\":%lld,\"vector_"
                  "store_id\":\"%s\",\"usage_bytes\":%lld,\"status\":\"%s\","
                  "\"outcome\":\"%s\",\"bad_records\":%lld,\"chunk_count\":%lld,"
                  "\"waiting_chunks\":%lld,\"attributes\":%s,\"last_error\":",
                  f->id, (long long)f->created, coll, (long long)f->n_bytes,
                  f->error  ? "failed"
                  : pending ? "in_progress"
                            : "completed",
                  outcome[f->state], (long long)f->n_bad, (long long)f->n_chunk,
                  (long long)f->n_bare, f->attributes);
    if (f->error) {
        sp_buf_puts(out, "{\"code\":\"invalid_file\",\"message\":");
        sp_buf_json_str(out, f->error, strlen(f->error));
        sp_buf_putc(out, '}');
    } else {
        sp_buf_puts(out, "null");
    }
    if (f->notes[0])
        put_str(out, "notes", f->notes);
    put_str(out, "filename", sp_api_filename(f->path));
    sp_buf_putc(out, '}');
}

static void put_batch(sp_buf *out, const sp_rag_batch *b, const char *coll)
{
    sp_buf_printf(out,
                  "{\"id\":\"%s\",\"object\":\"vector_store.files_batch\",\"created_at\":%lld,"
                  "\"vector_store_id\":\"%s\",\"status\":\"%s\","
                  "\"file_counts\":{\"in_progress\":%lld,\"completed\":%lld,\"failed\":%lld,"
                  "\"cancelled\":0,\"total\":%lld}}",
                  b->id, (long long)b->created, coll, b->n_pending ? "in_progress" : "completed",
                  (long long)b->n_pending, (long long)(b->n_doc - b->n_pending - b->n_failed),
                  (long long)b->n_failed, (long long)b->n_doc);
}

static const char *id_of(const sp_know_op *op, size_t i)
{
    return op->file_list   ? op->file_list[i].id
           : op->coll_list ? op->coll_list[i].id
                           : op->doc_list[i].id;
}

static int64_t seq_of(const sp_know_op *op, size_t i)
{
    return op->file_list   ? op->file_list[i].seq
           : op->coll_list ? op->coll_list[i].seq
                           : op->doc_list[i].seq;
}

/* Does it come behind what the client has seen last? */
static bool is_behind(const call *c, size_t i)
{
    int64_t seq = seq_of(c->op, i), last = c->op->after_seq;
    return seq == last    ? strcmp(id_of(c->op, i), c->op->after) != 0
           : c->ascending ? seq > last
                          : seq < last;
}

/* A page of a list, newest first unless asked otherwise. */
static void put_list(sp_buf *out, const call *c)
{
    const sp_know_op *op = c->op;
    size_t first = 0, n = 0;
    const char *head = "", *tail = "";
    while (op->after[0] && first < op->n && !is_behind(c, c->ascending ? first : op->n - 1 - first))
        first++;
    sp_buf_puts(out, "{\"object\":\"list\",\"data\":[");
    for (; n < (size_t)c->limit && first + n < op->n; n++) {
        size_t i = c->ascending ? first + n : op->n - 1 - first - n;
        if (n)
            sp_buf_putc(out, ',');
        if (op->file_list)
            put_file(out, &op->file_list[i]);
        else if (op->coll_list)
            put_coll(out, &op->coll_list[i]);
        else
            put_doc(out, &op->doc_list[i], op->coll);
        tail = id_of(op, i);
        head = n ? head : tail;
    }
    sp_buf_printf(out, "],\"first_id\":\"%s\",\"last_id\":\"%s\",\"has_more\":%s}", head, tail,
                  first + n < op->n ? "true" : "false");
}

static void put_hits(sp_buf *out, const call *c)
{
    const sp_know_op *op = c->op;
    sp_buf_puts(out, "{\"object\":\"vector_store.search_results.page\",\"search_query\":[");
    sp_buf_json_str(out, op->query, strlen(op->query));
    sp_buf_puts(out, "],\"data\":[");
    for (size_t i = 0, n = 0; i < op->n; i++) {
        const sp_rag_hit *h = &op->hit[i];
        if (h->score < c->threshold)
            continue;
        sp_buf_printf(
            out,
            "%s{\"file_id\":\"%s\",\"chunk_id\":\"%s\",\"score\":%.6f,\"cosine\":%.6f,\"ranks\":{"
            "\"words\":%d,\"vectors\":%d,\"sentences\":%d,\"graph\":%d},\"attributes\":%s",
            n++ ? "," : "", h->doc, h->chunk, h->score, h->cosine, h->rank_word, h->rank_vec,
            h->rank_sent, h->rank_graph, h->attributes);
        put_str(out, "filename", sp_api_filename(h->path));
        put_str(out, "place", h->place);
        sp_buf_puts(out, ",\"content\":[{\"type\":\"text\",\"text\":");
        sp_buf_json_str(out, h->text, strlen(h->text));
        sp_buf_puts(out, "}]}");
    }
    sp_buf_printf(out,
                  "],\"has_more\":false,\"next_page\":null,\"ms\":{\"all\":%.3f,\"vector\":%.3f}}",
                  op->op.ms, op->ms_vector);
}

static void put_text(sp_buf *out, const sp_know_op *op)
{
    sp_buf_printf(out,
                  "{\"object\":\"vector_store.file_content.page\",\"file_id\":\"%s\","
                  "\"attributes\":%s,\"data\":[",
                  op->doc_list->id, op->doc_list->attributes);
    for (size_t i = 0; i < op->n; i++) {
        sp_buf_printf(out, "%s{\"type\":\"text\",\"chunk_id\":\"%s\"", i ? "," : "",
                      op->hit[i].chunk);
        put_str(out, "place", op->hit[i].place);
        put_str(out, "text", op->hit[i].text);
        sp_buf_putc(out, '}');
    }
    sp_buf_puts(out, "],\"has_more\":false,\"next_page\":null}");
}

static void put_deleted(sp_buf *out, const char *id, const char *object)
{
    sp_buf_printf(out, "{\"id\":\"%s\",\"object\":\"%s\",\"deleted\":true}", id, object);
}

static sp_err task_start(void *arg, sp_http_reply *reply)
{
    call *c = arg;
    sp_know_op *op = c->op;
    sp_buf *out = &reply->body;
    if (!sp_op_is_done(&op->op))
        return SP_AGAIN;
    if (!sp_api_reply(reply, &op->op.diag))
        return SP_OK;
    switch (op->kind) {
    case SP_KNOW_FILE_PUT:
    case SP_KNOW_FILE_GET: put_file(out, op->file_list); break;
    case SP_KNOW_FILE_CONTENT: /* never as a type that a browser would run */
        reply->type = "application/octet-stream";
        sp_http_reply_header(reply, "X-Content-Type-Options", "nosniff");
        sp_http_reply_header(reply, "Content-Disposition", "attachment");
        sp_buf_put(out, op->content, (size_t)op->file_list->n_bytes);
        break;
    case SP_KNOW_COLL_PUT:
    case SP_KNOW_COLL_UPDATE:
    case SP_KNOW_COLL_GET: put_coll(out, op->coll_list); break;
    case SP_KNOW_BATCH_PUT:
    case SP_KNOW_BATCH_GET: put_batch(out, &op->batch, op->coll); break;
    case SP_KNOW_DOC_PUT:
    case SP_KNOW_DOC_GET: put_doc(out, op->doc_list, op->coll); break;
    case SP_KNOW_DOC_TEXT: put_text(out, op); break;
    case SP_KNOW_FILE_LIST:
    case SP_KNOW_COLL_LIST:
    case SP_KNOW_BATCH_LIST:
    case SP_KNOW_DOC_LIST: put_list(out, c); break;
    case SP_KNOW_SEARCH: put_hits(out, c); break;
    case SP_KNOW_FILE_DELETE: put_deleted(out, op->file, "file"); break;
    case SP_KNOW_DOC_DELETE: put_deleted(out, op->file, "vector_store.file.deleted"); break;
    default: put_deleted(out, op->coll, "vector_store.deleted");
    }
    return SP_OK;
}

static void task_close(void *arg)
{
    call *c = arg;
    sp_op_put((sp_op *)c->op);
    sp_mem_free(c);
}

/* --- requests --------------------------------------------------------------------------------- */

static sp_err keep(const char **out, sp_know_op *op, const char *p, size_t n, sp_diag *d)
{
    *out = sp_arena_strndup(&op->op.a, p, n);
    return *out ? SP_OK : SP_FAIL(d, SP_NOMEM, "request");
}

sp_err sp_api_filter(sp_know_op *op, const json_t *v, sp_diag *d)
{
    if (!v)
        return SP_OK;
    SP_TRY(sp_rag_filter_check(v, d));
    return sp_params_keep(&op->filter, &op->op.a, v, d);
}

static sp_err read_id(char out[SP_RAG_ID], const json_t *v, const char *name, sp_diag *d)
{
    if (!json_is_string(v) || json_string_length(v) == 0 || json_string_length(v) >= SP_RAG_ID)
        return SP_FAIL(d, SP_INVAL, "%s must be the id of a file", name);
    snprintf(out, SP_RAG_ID, "%s", json_string_value(v));
    return SP_OK;
}

static sp_err read_files(sp_know_op *op, const json_t *v, sp_diag *d)
{
    size_t n = json_array_size(v);
    char(*id)[SP_RAG_ID] = sp_arena_alloc(&op->op.a, (n + 1) * sizeof *id);
    const char **list = sp_arena_alloc(&op->op.a, (n + 1) * sizeof *list);
    if (v && (!json_is_array(v) || n > MAX_FILES))
        return SP_FAIL(d, SP_INVAL, "file_ids must be a list of at most %d ids", MAX_FILES);
    if (!id || !list)
        return SP_FAIL(d, SP_NOMEM, "request");
    for (size_t i = 0; i < n; i++) {
        SP_TRY(read_id(id[i], json_array_get(v, i), "file_ids", d));
        list[i] = id[i];
    }
    op->files = list;
    op->n_files = n;
    return SP_OK;
}

/* "auto", and what this server's encoder reads: chunks of --chunk-tokens. */
static sp_err read_strategy(const json_t *v, sp_diag *d)
{
    const char *type = json_string_value(json_object_get(v, "type"));
    return !v || (type && strcmp(type, "auto") == 0)
               ? SP_OK
               : SP_FAIL(d, SP_UNSUP,
                         "chunking_strategy: only {\"type\": \"auto\"} is supported; see "
                         "--chunk-tokens");
}

static sp_err read_coll(sp_know_op *op, const json_t *j, const char **bad, sp_diag *d)
{
    const char *name = NULL;
    const json_t *metadata = NULL, *files = NULL, *strategy = NULL;
    const sp_param table[] = {{"name", SP_P_STR, &name, 0, 0},
                              {"metadata", SP_P_JSON, &metadata, 0, 0},
                              {"expires_after", SP_P_REFUSE, NULL, 0, 0},
                              {"file_ids", SP_P_JSON, &files, 0, 0},
                              {"chunking_strategy", SP_P_JSON, &strategy, 0, 0}};
    SP_TRY(sp_params_read(j, table, op->kind == SP_KNOW_COLL_PUT ? 5 : 3, bad, d));
    *bad = "name";
    if (name && strlen(name) > 256)
        return SP_FAIL(d, SP_INVAL, "name must have at most 256 bytes");
    if (name)
        SP_TRY(keep(&op->name, op, name, strlen(name), d));
    *bad = "metadata";
    SP_TRY(sp_params_metadata(&op->metadata, &op->op.a, metadata, "metadata", true, d));
    *bad = "chunking_strategy";
    SP_TRY(read_strategy(strategy, d));
    *bad = "file_ids";
    return read_files(op, files, d);
}

static sp_err read_doc(sp_know_op *op, const json_t *j, const char **bad, sp_diag *d)
{
    const json_t *file = NULL, *attributes = NULL, *strategy = NULL;
    const sp_param table[] = {{"attributes", SP_P_JSON, &attributes, 0, 0},
                              {"file_id", SP_P_JSON, &file, 0, 0},
                              {"chunking_strategy", SP_P_JSON, &strategy, 0, 0}};
    bool update = op->file[0];
    SP_TRY(sp_params_read(j, table, update ? 1 : 3, bad, d));
    *bad = "file_id";
    if (!update)
        SP_TRY(read_id(op->file, file, "file_id", d));
    *bad = "attributes";
    SP_TRY(sp_params_metadata(&op->metadata, &op->op.a, attributes, "attributes", false, d));
    *bad = "chunking_strategy";
    return read_strategy(strategy, d);
}

static sp_err read_batch(sp_know_op *op, const json_t *j, const char **bad, sp_diag *d)
{
    const json_t *files = NULL, *attributes = NULL, *strategy = NULL;
    const sp_param table[] = {{"file_ids", SP_P_JSON, &files, 0, 0},
                              {"attributes", SP_P_JSON, &attributes, 0, 0},
                              {"chunking_strategy", SP_P_JSON, &strategy, 0, 0},
                              {"files", SP_P_REFUSE, NULL, 0, 0}};
    SP_TRY(sp_params_read(j, table, 4, bad, d));
    *bad = "file_ids";
    if (json_array_size(files) == 0)
        return SP_FAIL(d, SP_INVAL, "file_ids must be a list that is not empty");
    SP_TRY(read_files(op, files, d));
    *bad = "attributes";
    SP_TRY(sp_params_metadata(&op->metadata, &op->op.a, attributes, "attributes", false, d));
    *bad = "chunking_strategy";
    return read_strategy(strategy, d);
}

static sp_err read_search(call *c, const json_t *j, const char **bad, sp_diag *d)
{
    sp_know_op *op = c->op;
    const json_t *query = NULL, *filter = NULL, *ranking = NULL;
    int64_t n = 10;
    bool rewrite = false;
    const char *ranker = NULL;
    const sp_param table[] = {{"query", SP_P_JSON, &query, 0, 0},
                              {"max_num_results", SP_P_INT, &n, 1, SP_RAG_MAX_FOUND},
                              {"filters", SP_P_JSON, &filter, 0, 0},
                              {"ranking_options", SP_P_JSON, &ranking, 0, 0},
                              {"rewrite_query", SP_P_BOOL, &rewrite, 0, 0}};
    const sp_param inner[] = {{"ranker", SP_P_STR, &ranker, 0, 0},
                              {"score_threshold", SP_P_NUM, &c->threshold, 0, 1}};
    SP_TRY(sp_params_read(j, table, 5, bad, d));
    *bad = "ranking_options";
    if (ranking && !json_is_object(ranking))
        return SP_FAIL(d, SP_INVAL, "ranking_options must be an object");
    if (ranking)
        SP_TRY(sp_params_read(ranking, inner, 2, bad, d));
    if (ranker && strcmp(ranker, "auto") != 0 && strcmp(ranker, "default-2024-11-15") != 0)
        return SP_FAIL(d, SP_UNSUP, "ranking_options.ranker: only auto is supported");
    *bad = "rewrite_query";
    if (rewrite)
        return SP_FAIL(d, SP_UNSUP, "rewrite_query is not supported");
    *bad = "query";
    if (json_is_array(query) && json_array_size(query) == 1)
        query = json_array_get(query, 0);
    const char *q = json_string_value(query);
    if (!q || !*q || strlen(q) > MAX_QUERY)
        return SP_FAIL(d, SP_INVAL, "query must be a string of 1 to %d bytes", MAX_QUERY);
    SP_TRY(keep(&op->query, op, q, strlen(q), d));
    memcpy(op->colls[0], op->coll, sizeof op->coll);
    op->n_colls = 1;
    op->cap = (size_t)n;
    *bad = "filters";
    return sp_api_filter(op, filter, d);
}

static sp_err read_upload(sp_know_op *op, const sp_api_req *req, const char **bad, sp_diag *d)
{
    sp_form_part part[SP_FORM_PARTS];
    size_t n;
    SP_TRY(sp_form_parse(part, &n, req->content_type, req->body, req->n_body, d));
    for (size_t i = 0; i < n; i++)
        if (strcmp(part[i].name, "file") != 0 && strcmp(part[i].name, "purpose") != 0)
            return SP_FAIL(d, SP_INVAL, "%.60s: no such parameter", part[i].name);
    const sp_form_part *file = sp_form_find(part, n, "file"),
                       *purpose = sp_form_find(part, n, "purpose");
    *bad = "file";
    if (!file || !file->filename[0])
        return SP_FAIL(d, SP_INVAL, "file is missing: a part of the form with a filename");
    *bad = "purpose";
    if (!purpose || purpose->n == 0 || purpose->n > 32)
        return SP_FAIL(d, SP_INVAL, "purpose is missing; assistants or user_data, for instance");
    SP_TRY(keep(&op->name, op, sp_api_filename(file->filename),
                strlen(sp_api_filename(file->filename)), d));
    SP_TRY(keep(&op->purpose, op, purpose->p, purpose->n, d));
    op->n_content = file->n;
    return keep(&op->content, op, file->p, file->n, d);
}

static sp_err read_list(call *c, const sp_api_req *req, const char **bad, sp_diag *d)
{
    const char *order = sp_api_query(req, "order"), *after = sp_api_query(req, "after");
    *bad = "limit";
    c->limit = DEFAULT_LIST;
    SP_TRY(sp_params_query_int(req->http, "limit", &c->limit, 1, MAX_LIST, d));
    *bad = "order";
    if (order && strcmp(order, "asc") != 0 && strcmp(order, "desc") != 0)
        return SP_FAIL(d, SP_INVAL, "order must be asc or desc");
    c->ascending = order && strcmp(order, "asc") == 0;
    *bad = "after";
    if (after && (!*after || strlen(after) >= sizeof c->op->after))
        return SP_FAIL(d, SP_INVAL, "after is not the id of anything in a list");
    snprintf(c->op->after, sizeof c->op->after, "%s", after ? after : "");
    *bad = NULL;
    return SP_OK;
}

static bool is_list(sp_know_kind kind)
{
    return kind == SP_KNOW_FILE_LIST || kind == SP_KNOW_COLL_LIST || kind == SP_KNOW_DOC_LIST ||
           kind == SP_KNOW_BATCH_LIST;
}

static sp_err read_body(call *c, const json_t *j, const char **bad, sp_diag *d)
{
    switch (c->op->kind) {
    case SP_KNOW_SEARCH: return read_search(c, j, bad, d);
    case SP_KNOW_DOC_PUT: return read_doc(c->op, j, bad, d);
    case SP_KNOW_BATCH_PUT: return read_batch(c->op, j, bad, d);
    default: return read_coll(c->op, j, bad, d);
    }
}

/* bad_name: the parameter that is wrong, copied before the JSON it stands in is freed. */
static sp_err read_request(call *c, const sp_api_req *req, char bad_name[64], sp_diag *d)
{
    sp_know_kind kind = c->op->kind;
    const char *bad = NULL;
    json_t *j = NULL;
    sp_err err = sp_params_query(req->http, is_list(kind) ? " limit order after " : " ", &bad, d);
    if (err == SP_OK && kind == SP_KNOW_FILE_PUT) {
        err = read_upload(c->op, req, &bad, d);
    } else if (err == SP_OK && is_list(kind)) {
        err = read_list(c, req, &bad, d);
    /* which is cancelled: its documents are there already */
    } else if (err == SP_OK && strcmp(req->method, "POST") == 0 && kind != SP_KNOW_BATCH_GET) {
        err = req->n_body ? sp_params_parse(&j, req->body, req->n_body, d) : SP_OK;
        if (err == SP_OK && !j)
            j = json_object();
        if (err == SP_OK)
            err = read_body(c, j, &bad, d);
    }
    snprintf(bad_name, 64, "%.60s", err != SP_OK && bad ? bad : "");
    json_decref(j);
    return err;
}

/* Which operation a path and a method ask for; '*' stands for an id. */
static bool find_kind(const sp_api_req *req, sp_know_op *op)
{
    static const struct {
        const char *method, *path;
        sp_know_kind kind;
    } of[] = {{"POST", "/v1/files", SP_KNOW_FILE_PUT},
              {"GET", "/v1/files", SP_KNOW_FILE_LIST},
              {"GET", "/v1/files/*", SP_KNOW_FILE_GET},
              {"DELETE", "/v1/files/*", SP_KNOW_FILE_DELETE},
              {"GET", "/v1/files/*/content", SP_KNOW_FILE_CONTENT},
              {"POST", "/v1/vector_stores", SP_KNOW_COLL_PUT},
              {"GET", "/v1/vector_stores", SP_KNOW_COLL_LIST},
              {"GET", "/v1/vector_stores/*", SP_KNOW_COLL_GET},
              {"POST", "/v1/vector_stores/*", SP_KNOW_COLL_UPDATE},
              {"DELETE", "/v1/vector_stores/*", SP_KNOW_COLL_DELETE},
              {"POST", "/v1/vector_stores/*/search", SP_KNOW_SEARCH},
              {"POST", "/v1/vector_stores/*/file_batches", SP_KNOW_BATCH_PUT},
              {"GET", "/v1/vector_stores/*/file_batches/*", SP_KNOW_BATCH_GET},
              {"POST", "/v1/vector_stores/*/file_batches/*/cancel", SP_KNOW_BATCH_GET},
              {"GET", "/v1/vector_stores/*/file_batches/*/files", SP_KNOW_BATCH_LIST},
              {"POST", "/v1/vector_stores/*/files", SP_KNOW_DOC_PUT},
              {"GET", "/v1/vector_stores/*/files", SP_KNOW_DOC_LIST},
              {"GET", "/v1/vector_stores/*/files/*", SP_KNOW_DOC_GET},
              {"POST", "/v1/vector_stores/*/files/*", SP_KNOW_DOC_PUT},
              {"DELETE", "/v1/vector_stores/*/files/*", SP_KNOW_DOC_DELETE},
              {"GET", "/v1/vector_stores/*/files/*/content", SP_KNOW_DOC_TEXT}};
    for (size_t i = 0; i < sizeof of / sizeof of[0]; i++) {
        char id[2][SP_RAG_ID] = {"", ""};
        size_t n_id = 0;
        const char *p = req->path, *t = of[i].path;
        while (*t && (*t == '*' || *t == *p)) {
            size_t n = strcspn(p, "/");
            if (*t == '*' && (n == 0 || n >= SP_RAG_ID || n_id == 2))
                break;
            if (*t == '*')
                memcpy(id[n_id++], p, n);
            p += *t == '*' ? n : 1;
            t++;
        }
        if (*t || *p || strcmp(of[i].method, req->method) != 0)
            continue;
        bool file = strncmp(of[i].path, "/v1/files", 9) == 0;
        op->kind = of[i].kind;
        memcpy(op->coll, id[0], sizeof op->coll);
        memcpy(op->file, id[!file], sizeof op->file);
        return true;
    }
    return false;
}

sp_err sp_api_knowledge(sp_app *app, const sp_api_req *req, const char *tenant, sp_http_task *task,
                        char bad[64], sp_diag *d)
{
    bad[0] = 0;
    if (!app->shared->know)
        return SP_FAIL(d, SP_UNSUP,
                       "this server keeps no documents; it was started without --knowledge");
    call *c = sp_mem_alloc(sizeof *c);
    if (c)
        c->op = sp_know_op_new(app->shared->know, SP_KNOW_FILE_LIST, tenant);
    if (!c || !c->op) {
        sp_mem_free(c);
        return SP_FAIL(d, SP_NOMEM, "request");
    }
    sp_err err = find_kind(req, c->op)
                     ? SP_OK
                     : SP_FAIL(d, SP_NOTFOUND, "%.10s is not possible at this path", req->method);
    if (err == SP_OK)
        err = read_request(c, req, bad, d);
    return sp_work_operate(task, err, &c->op->op, req->work,
                           &(sp_http_task){c, task_start, NULL, task_close}, d);
}

/* --- everything of a tenant ------------------------------------------------------------------- */

typedef struct farewell {
    sp_history_op *talk; /* NULL: the server keeps none */
    sp_know_op *know;
    sp_feedback_op *said;
} farewell;

static sp_err farewell_start(void *arg, sp_http_reply *reply)
{
    const farewell *f = arg;
    const sp_op *all[] = {(sp_op *)f->talk, (sp_op *)f->know, (sp_op *)f->said};
    const sp_diag none = {0}, *bad = &none;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (all[i] && !sp_op_is_done((sp_op *)all[i]))
            return SP_AGAIN;
        bad = all[i] && !bad->code ? &all[i]->diag : bad;
    }
    if (sp_api_reply(reply, bad))
        sp_buf_printf(&reply->body,
                      "{\"object\":\"tenant.deleted\",\"deleted\":true,\"conversations\":%zu,"
                      "\"pages\":%zu,\"documents\":%zu,\"feedback\":%zu}",
                      f->talk ? f->talk->n_conv : 0, f->talk ? f->talk->n_page : 0,
                      f->know ? f->know->n : 0, f->said ? f->said->n : 0);
    return SP_OK;
}

static void farewell_close(void *arg)
{
    farewell *f = arg;
    sp_op_put((sp_op *)f->talk);
    sp_op_put((sp_op *)f->know);
    sp_op_put((sp_op *)f->said);
    sp_mem_free(f);
}

sp_err sp_api_tenant(sp_app *app, const sp_api_req *req, const char *tenant, sp_http_task *task,
                     sp_diag *d)
{
    if (strcmp(req->method, "DELETE") != 0)
        return SP_FAIL(d, SP_NOTFOUND, "%.10s is not possible at this path", req->method);
    const sp_turn_env *env = app->shared;
    if (!env->history && !env->know && !env->feedback)
        return SP_FAIL(d, SP_UNSUP,
                       "this server keeps nothing; it was started without --history, --knowledge "
                       "and --feedback");
    farewell *f = sp_mem_alloc(sizeof *f);
    sp_err err = f ? SP_OK : SP_FAIL(d, SP_NOMEM, "request");
    if (err == SP_OK &&
        ((env->history &&
          !(f->talk = sp_history_op_new(env->history, SP_HISTORY_FORGET, tenant))) ||
         (env->know && !(f->know = sp_know_op_new(env->know, SP_KNOW_FORGET, tenant))) ||
         (env->feedback &&
          !(f->said = sp_feedback_op_new(env->feedback, SP_FEEDBACK_FORGET, tenant)))))
        err = SP_FAIL(d, SP_NOMEM, "request");
    if (err == SP_OK && f->talk)
        err = sp_op_submit(&f->talk->op, sp_work_wake, req->work, d);
    if (err == SP_OK && f->know)
        err = sp_op_submit(&f->know->op, sp_work_wake, req->work, d);
    if (err == SP_OK && f->said)
        err = sp_op_submit(&f->said->op, sp_work_wake, req->work, d);
    if (err == SP_OK)
        *task = (sp_http_task){f, farewell_start, NULL, farewell_close};
    else if (f)
        farewell_close(f);
    return err;
}
