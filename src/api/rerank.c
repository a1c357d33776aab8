#include "api/rerank.h"

#include "api/embedding.h"
#include "api/known.h"
#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_DOCUMENT = 1000, MAX_DOCUMENT_BYTES = 256 << 10, MAX_QUERY_BYTES = 64 << 10 };

typedef struct ranked {
    size_t index;
    double score;
} ranked;

typedef struct request {
    sp_app *app;
    char tenant[SP_TENANT_BYTES];
    sp_served *on;             /* in use as long as the job; NULL: the job has it, or has had it */
    sp_encoder *model;
    json_t *body;              /* documents lie in it */
    const json_t *documents;
    sp_job *job;
    sp_ids ids;                /* of all pairs; or of the query and all documents, for an encoder */
    size_t *end, *second;      /* [1 + n] */
    size_t n, n_text, top_n;
    bool returns_documents;
    ranked *order;             /* [n] */
    /* parameters without effect; documents that stand by their beginning: both joined by commas */
    sp_buf ignored, cut;
    sp_diag error;
} request;

/* --- reading ---------------------------------------------------------------------------------- */

/* A string, or an object with a text. */
static sp_err read_document(sp_str *out, const json_t *v, size_t i, sp_diag *d)
{
    const json_t *text = json_is_object(v) ? json_object_get(v, "text") : v;
    if (!json_is_string(text))
        return SP_FAIL(d, SP_INVAL,
                       "documents[%zu] is neither a string nor an object with a string \"text\"",
                       i);
    *out = (sp_str){json_string_value(text), json_string_length(text)};
    if (out->n > MAX_DOCUMENT_BYTES)
        return SP_FAIL(d, SP_INVAL, "documents[%zu] has %zu bytes, a document may have %d", i,
                       out->n, MAX_DOCUMENT_BYTES);
    return SP_OK;
}

/* The ids of one more text go behind the others'. */
static sp_err keep_text(request *r, const sp_ids *ids, size_t second, sp_diag *d)
{
    if (sp_ids_add(&r->ids, ids->id, ids->n) != SP_OK)
        return SP_FAIL(d, SP_NOMEM, "request");
    r->second[r->n_text] = second;
    r->end[r->n_text++] = r->ids.n;
    return SP_OK;
}

/* Text i of an encoder, or pair i of a reranker. */
static sp_err add_text(request *r, sp_str query, sp_str text, sp_ids *ids, bool *is_cut, sp_diag *d)
{
    size_t second = 0, cap = sp_encoder_cap(r->model);
    if (sp_encoder_is_ranker(r->model)) {
        SP_TRY(sp_encoder_pair(r->model, ids, &second, is_cut, query, text, d));
    } else {
        SP_TRY(sp_tok_encode_whole(sp_encoder_vocab(r->model), ids, 0, text.p, text.n, d));
        *is_cut = ids->n > cap;
        if (*is_cut) {
            ids->id[cap - 1] = ids->id[ids->n - 1];
            ids->n = cap;
        }
    }
    return keep_text(r, ids, second, d);
}

static sp_err add_texts(request *r, sp_str query, sp_diag *d)
{
    r->n = json_array_size(r->documents);
    r->end = sp_mem_array(1 + r->n, sizeof *r->end);
    r->second = sp_mem_array(1 + r->n, sizeof *r->second);
    r->order = sp_mem_array(r->n, sizeof *r->order);
    if (!r->end || !r->second || !r->order)
        return SP_FAIL(d, SP_NOMEM, "request");
    for (size_t i = sp_encoder_is_ranker(r->model) ? 1 : 0; i <= r->n; i++) {
        sp_str text = query;
        sp_ids ids = {0};
        bool is_cut = false;
        sp_err err =
            i ? read_document(&text, json_array_get(r->documents, i - 1), i - 1, d) : SP_OK;
        if (err == SP_OK)
            err = add_text(r, query, text, &ids, &is_cut, d);
        if (err == SP_OK && is_cut && i)
            sp_buf_printf(&r->cut, "%s%zu", r->cut.len ? "," : "", i - 1);
        sp_ids_fini(&ids);
        SP_TRY(err);
    }
    return r->cut.failed ? SP_FAIL(d, SP_NOMEM, "request") : SP_OK;
}

static sp_err start_request(request *r, sp_work *work, const char **bad, sp_diag *d)
{
    static const sp_known known[] = {
        {"user", NULL, NULL},
        {"priority", NULL, NULL},
        {"request_id", NULL, NULL},
        {"truncation", "[true]", NULL},
        {"max_tokens_per_doc", NULL, NULL},
        {"max_chunks_per_doc", "[1]", NULL},
        {"rank_fields", "[[\"text\"]]", "documents are ranked by their text"},
        {NULL, NULL, NULL}};
    const char *model = NULL;
    const json_t *query = NULL;
    int64_t top_n = 0;
    const sp_param table[] = {{"model", SP_P_STR, &model, 0, 0},
                              {"query", SP_P_JSON, &query, 0, 0},
                              {"documents", SP_P_JSON, &r->documents, 0, 0},
                              {"top_n", SP_P_INT, &top_n, 1, 1 << 30},
                              {"return_documents", SP_P_BOOL, &r->returns_documents, 0, 0}};
    const sp_lists lists = {.known = known,
                            .lenient = r->app->lenient,
                            .ignored = &r->ignored,
                            .where = ""};
    SP_TRY(sp_known_read(r->body, table, sizeof table / sizeof table[0], &lists, bad, d));
    *bad = "query";
    if (!json_is_string(query) || json_string_length(query) == 0 ||
        json_string_length(query) > MAX_QUERY_BYTES)
        return SP_FAIL(d, SP_INVAL, "query must be a string of 1 to %d bytes", MAX_QUERY_BYTES);
    *bad = "documents";
    if (!json_is_array(r->documents) || json_array_size(r->documents) == 0 ||
        json_array_size(r->documents) > MAX_DOCUMENT)
        return SP_FAIL(d, SP_INVAL,
                       "documents must be a list of 1 to %d strings or objects with a text",
                       MAX_DOCUMENT);
    SP_TRY(add_texts(r, (sp_str){json_string_value(query), json_string_length(query)}, d));
    r->top_n = top_n && (size_t)top_n < r->n ? (size_t)top_n : r->n;
    const sp_texts texts = {.encoder = r->model,
                            .done = sp_embed_let_go,
                            .arg = r->on,
                            .id = r->ids.id,
                            .end = r->end,
                            .second = r->second,
                            .n = r->n_text};
    SP_TRY(sp_job_texts(&r->job, r->app->texts, &texts, sp_work_wake, work, d));
    r->on = NULL;
    return SP_OK;
}

/* --- writing ---------------------------------------------------------------------------------- */

static int best_first(const void *a, const void *b)
{
    const ranked *x = a, *y = b;
    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    return x->index < y->index ? -1 : x->index > y->index;
}

static void put_in_order(request *r)
{
    const float *v = sp_job_vector(r->job);
    size_t dim = sp_encoder_dim(r->model);
    bool ranks = sp_encoder_is_ranker(r->model);
    for (size_t i = 0; i < r->n; i++) {
        double dot = 0;
        for (size_t k = 0; k < dim && !ranks; k++)
            dot += (double)v[k] * (double)v[(i + 1) * dim + k];
        r->order[i] = (ranked){i, ranks ? (double)sp_encoder_relevance(r->model, v[i]) : dot};
    }
    qsort(r->order, r->n, sizeof *r->order, best_first);
}

static void put_document(sp_buf *out, const json_t *v)
{
    const json_t *text = json_is_object(v) ? json_object_get(v, "text") : v;
    sp_buf_puts(out, ",\"document\":{\"text\":");
    sp_buf_json_str(out, json_string_value(text), json_string_length(text));
    sp_buf_putc(out, '}');
}

static void put_answer(sp_buf *out, request *r)
{
    put_in_order(r);
    sp_buf_puts(out, "{\"object\":\"list\",\"model\":");
    sp_buf_json_str(out, sp_encoder_name(r->model), strlen(sp_encoder_name(r->model)));
    sp_buf_printf(out, ",\"method\":\"%s\",\"results\":[",
                  sp_encoder_is_ranker(r->model) ? "reranker" : "embedding cosine");
    for (size_t i = 0; i < r->top_n; i++) {
        sp_buf_printf(out, "%s{\"index\":%zu,\"relevance_score\":", i ? "," : "",
                      r->order[i].index);
        sp_buf_json_num(out, r->order[i].score);
        if (r->returns_documents)
            put_document(out, json_array_get(r->documents, r->order[i].index));
        sp_buf_putc(out, '}');
    }
    sp_buf_printf(out, "],\"usage\":{\"prompt_tokens\":%zu,\"total_tokens\":%zu", r->ids.n,
                  r->ids.n);
    if (r->ignored.len || r->cut.len)
        sp_buf_printf(out, ",\"sparing\":{\"ignored\":[%s],\"truncated\":[%s]}",
                      sp_buf_str(&r->ignored), sp_buf_str(&r->cut));
    sp_buf_puts(out, "}}");
}

static sp_err task_start(void *arg, sp_http_reply *reply)
{
    request *r = arg;
    SP_TRY(sp_embed_done(&r->error, r->job));
    if (r->error.code == SP_OK)
        sp_embed_pay(r->app, r->tenant, SP_PRICE_RERANK, r->model, r->ids.n);
    if (sp_api_reply_retry(reply, r->app, &r->error))
        put_answer(&reply->body, r);
    return SP_OK;
}

static void task_close(void *arg)
{
    request *r = arg;
    sp_job_put(r->job);
    sp_models_done(r->app->models, r->on);
    sp_ids_fini(&r->ids);
    sp_buf_fini(&r->ignored);
    sp_buf_fini(&r->cut);
    sp_mem_free(r->end);
    sp_mem_free(r->second);
    sp_mem_free(r->order);
    json_decref(r->body);
    sp_mem_free(r);
}

sp_err sp_api_rerank(const sp_api_place *at, const sp_api_req *req, sp_http_task *task,
                     char bad[64], sp_diag *d)
{
    const char *name = NULL;
    bad[0] = 0;
    request *r = sp_mem_alloc(sizeof *r);
    sp_err err = r ? SP_OK : SP_FAIL(d, SP_NOMEM, "request");
    if (err == SP_OK) {
        r->app = at->app;
        r->on = at->on;
        snprintf(r->tenant, sizeof r->tenant, "%s", at->tenant);
        r->model = at->on->encoder;
        r->body = json_incref(req->json);
        sp_models_use_again(at->app->models, at->on);
        err = start_request(r, req->work, &name, d);
    }
    if (err == SP_OK)
        *task = (sp_http_task){r, task_start, NULL, task_close};
    snprintf(bad, 64, "%.60s", name ? name : ""); /* it may lie in the body */
    if (err != SP_OK && r)
        task_close(r);
    return err;
}
