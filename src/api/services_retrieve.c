/* Retrieval over gRPC: a search in documents. */
#include "api/services_int.h"

#include "api/knowledge.h"
#include "base/clock.h"

#include <sparing/v1/sparing.pb-c.h>
#include <stdio.h>
#include <string.h>

enum { QUERY_BYTES = 4096 };

typedef struct retrieve {
    sp_services *s;
    sp_grpc_call *c;
    uint64_t id;
    sp_know_op *op;
} retrieve;

static void wake(void *arg)
{
    const retrieve *r = arg;
    sp_grpc_wake(r->s->g, r->id);
}

static void send_found(retrieve *r)
{
    const sp_know_op *op = r->op;
    Sparing__V1__Passage passage[SP_RAG_MAX_FOUND], *at[SP_RAG_MAX_FOUND];
    Sparing__V1__RetrieveResponse out = SPARING__V1__RETRIEVE_RESPONSE__INIT;
    for (size_t i = 0; i < op->n && i < SP_RAG_MAX_FOUND; i++) {
        const sp_rag_hit *h = &op->hit[i];
        sparing__v1__passage__init(&passage[i]);
        passage[i].file_id = (char *)(uintptr_t)h->doc;
        passage[i].filename = (char *)(uintptr_t)sp_api_filename(h->path);
        passage[i].place = (char *)(uintptr_t)h->place;
        passage[i].text = (char *)(uintptr_t)h->text;
        passage[i].score = h->score;
        at[i] = &passage[i];
        out.n_passages = i + 1;
    }
    out.passages = at;
    out.ms = op->op.ms;
    sp_service_send(r->c, &out.base);
    sp_grpc_finish(r->c, SP_GRPC_OK, NULL, 0);
}

static void pull(void *arg)
{
    retrieve *r = arg;
    if (!sp_op_is_done(&r->op->op))
        return;
    if (r->op->op.diag.code)
        sp_service_fail(r->c, r->s, NULL, &(sp_turn_error){.diag = r->op->op.diag});
    else
        send_found(r);
}

static void close_retrieve(void *arg)
{
    retrieve *r = arg;
    sp_op_put((sp_op *)r->op);
    sp_mem_free(r);
}

static sp_err fill(sp_know_op *op, const Sparing__V1__RetrieveRequest *q, sp_diag *d)
{
    size_t n = strlen(q->query);
    if (n == 0 || n > QUERY_BYTES)
        return SP_FAIL(d, SP_INVAL, "query must be a text of 1 to %d bytes", QUERY_BYTES);
    if (q->limit > SP_RAG_MAX_FOUND)
        return SP_FAIL(d, SP_INVAL, "limit is more than %d", SP_RAG_MAX_FOUND);
    if ((q->n_collections == 0) == !q->collection_name[0] || q->n_collections > SP_KNOW_COLLS)
        return SP_FAIL(d, SP_INVAL, "a search needs collection_name, or 1 to %d ids of collections",
                       SP_KNOW_COLLS);
    for (size_t i = 0; i < q->n_collections; i++) {
        if (strlen(q->collections[i]) >= sizeof op->colls[i])
            return SP_FAIL(d, SP_INVAL, "collections[%zu] is not the id of a collection", i);
        snprintf(op->colls[i], sizeof op->colls[i], "%s", q->collections[i]);
    }
    op->n_colls = q->n_collections;
    op->cap = q->limit ? q->limit : SP_ASK_FOUND;
    op->query = sp_arena_strndup(&op->op.a, q->query, n);
    op->by_name = q->collection_name[0]
                      ? sp_arena_strndup(&op->op.a, q->collection_name, strlen(q->collection_name))
                      : NULL;
    return op->query && (op->by_name || !q->collection_name[0]) ? SP_OK
                                                                : SP_FAIL(d, SP_NOMEM, "request");
}

static sp_err begin(retrieve *r, const Sparing__V1__RetrieveRequest *q, sp_diag *d)
{
    sp_know *know = r->s->app->shared->know;
    if (!know)
        return SP_FAIL(d, SP_UNSUP,
                       "this server keeps no documents; it was started without --knowledge");
    r->op = sp_know_op_new(know, SP_KNOW_SEARCH, sp_grpc_who(r->c));
    if (!r->op)
        return SP_FAIL(d, SP_NOMEM, "request");
    SP_TRY(fill(r->op, q, d));
    return sp_op_submit(&r->op->op, wake, r, d);
}

void sp_service_retrieve(void *app, sp_grpc_call *c, const uint8_t *p, size_t n)
{
    sp_turn_error e = {0};
    retrieve *r = sp_mem_alloc(sizeof *r);
    ProtobufCMessage *m = sp_service_read(&sparing__v1__retrieve_request__descriptor, p, n);
    sp_err err = !r   ? SP_FAIL(&e.diag, SP_NOMEM, "request")
                 : !m ? SP_FAIL(&e.diag, SP_FORMAT, "the message cannot be read")
                      : SP_OK;
    if (r)
        *r = (retrieve){.s = app, .c = c, .id = sp_grpc_id(c)};
    if (err == SP_OK)
        err = begin(r, (Sparing__V1__RetrieveRequest *)m, &e.diag);
    if (err == SP_OK) {
        sp_grpc_set_task(c, &(sp_grpc_task){r, pull, close_retrieve});
    } else {
        sp_service_fail(c, app, NULL, &e);
        if (r)
            close_retrieve(r);
    }
    sp_service_free(m);
}
