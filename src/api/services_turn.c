#include "api/services_turn.h"

#include "api/codec.h"
#include "base/clock.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

/* The list of requests and the sums over receipts, as over HTTP. */
static void note(sp_service_turn *g)
{
    const sp_turn_error *bad = sp_turn_error_of(g->turn);
    const sp_ask *q = sp_turn_ask(g->turn);
    bool early = !sp_turn_is_over(g->turn);
    sp_entry e = {.created = g->created,
                  .ms = sp_clock_ms(q->begin_ns),
                  .ms_first = sp_turn_ms_first(g->turn),
                  .n_prompt = sp_turn_used(g->turn).n_prompt};
    snprintf(e.id, sizeof e.id, "%s", q->id);
    snprintf(e.tenant, sizeof e.tenant, "%s", q->tenant);
    e.status = early ? 499 : bad->diag.code ? sp_api_error_status(bad) : 200;
    snprintf(e.error, sizeof e.error, "%.119s",
             early            ? "the client left"
             : bad->diag.code ? bad->diag.msg
                              : "");
    sp_turn_receipt(&e.receipt, g->turn);
    e.receipt.handed = g->handed;
    sp_ledger_add(g->s->app->ledger, &e);
}

static void release(void *arg)
{
    sp_service_turn *g = arg;
    if (atomic_fetch_sub(&g->ref, 1) > 1)
        return;
    if (g->started)
        note(g);
    sp_turn_free(g->turn);
    sp_service_model_fini(&g->model, g->s);
    sp_service_free(g->asked);
    sp_ids_fini(&g->ids);
    sp_mem_free(g->page);
    sp_mem_free(g->body);
    sp_mem_free(g);
}

/* --- on a desk -------------------------------------------------------------------------------- */

static void wake(void *arg)
{
    const sp_service_turn *g = arg;
    sp_grpc_wake(g->s->g, g->id);
}

static sp_err submit(sp_service_turn *g, bool slow, void (*fn)(void *arg), void *arg, sp_diag *d)
{
    sp_op *old = g->op, *op;
    atomic_fetch_add(&g->ref, 1);
    sp_err err = sp_service_defer_for(&op, g->s, slow, g->id, fn, arg, release, g, d);
    if (err != SP_OK) {
        release(g);
        return err;
    }
    g->op = op;
    sp_op_put(old);
    return SP_OK;
}

static sp_err defer(void *arg, void (*fn)(void *arg), void *fn_arg, sp_diag *d)
{
    return submit(arg, false, fn, fn_arg, d);
}

double sp_service_turn_left_ms(const sp_service_turn *g)
{
    uint64_t now = sp_clock_ns();
    return !g->deadline_ns        ? 0
           : g->deadline_ns > now ? (double)(g->deadline_ns - now) * 1e-6
                                  : 1e-3;
}

sp_err sp_service_turn_start(sp_service_turn *g)
{
    g->created = sp_clock_wall();
    SP_TRY(sp_turn_start(g->turn, &(sp_turn_run){wake, defer, g}, &g->e));
    g->started = true;
    return SP_OK;
}

/* Reads the message, finds its model, and begins. Comes again when the model, or the ticket's
 * pages, are there. */
static void start(void *arg)
{
    sp_service_turn *g = arg;
    sp_err err = SP_OK;
    if (atomic_load(&g->left))
        return;
    if (g->body) {
        g->asked = sp_service_read(g->kind->type, g->body, g->n_body);
        sp_mem_free(g->body);
        g->body = NULL;
        if (!g->asked)
            err = SP_FAIL(&g->e.diag, SP_FORMAT,
                          "the message cannot be read, or is too large once it is");
    }
    if (err == SP_OK && !g->model.on)
        err = sp_service_model_find(&g->model, g->s, g->kind->model(g->asked), g->id, &g->e);
    const Sparing__V1__Ticket *ticket =
        err == SP_OK && g->kind->ticket ? g->kind->ticket(g->asked) : NULL;
    g->wants_pages = ticket && ticket->n_page && !g->has_pages;
    if (err == SP_OK && !g->wants_pages)
        err = g->kind->begin(g);
    if (err != SP_AGAIN && err != SP_OK && !g->e.diag.code)
        g->e.diag.code = err;
}

/* --- on the gRPC thread ----------------------------------------------------------------------- */

static void pull(void *arg)
{
    sp_service_turn *g = arg;
    sp_err err = SP_OK;
    if (g->op && !sp_op_is_done(g->op))
        return;
    if (g->e.diag.code) {
        sp_service_fail(g->c, g->s, g->model.on ? g->model.on->env.engine : NULL, &g->e);
    } else if (g->started) {
        g->kind->give(g);
    } else if (g->wants_pages) {
        g->wants_pages = false;
        g->has_pages = true;
        err = submit(g, true, sp_service_turn_take_pages, g, &g->e.diag);
    } else if (g->has_pages || sp_service_model_is_due(&g->model)) {
        err = submit(g, false, start, g, &g->e.diag);
    }
    if (err != SP_OK)
        sp_service_fail(g->c, g->s, NULL, &g->e);
}

static void close_turn(void *arg)
{
    sp_service_turn *g = arg;
    sp_service_turn_end_ahead(g);
    atomic_store(&g->left, true);
    sp_op *op = g->op;
    g->op = NULL;
    sp_op_put(op);
    release(g);
}

/* The key goes on to a peer as it came. */
static void keep_key(sp_service_turn *g, const sp_grpc_call *c)
{
    const char *auth = sp_grpc_field(c, "authorization"), *key = sp_grpc_field(c, "x-api-key");
    if (auth)
        snprintf(g->auth, sizeof g->auth, "%.300s", auth);
    else if (key)
        snprintf(g->auth, sizeof g->auth, "Bearer %.300s", key);
}

void sp_service_turn_new(sp_services *s, sp_grpc_call *c, const sp_service_kind *kind,
                         const uint8_t *p, size_t n)
{
    sp_turn_error e = {0};
    int64_t wait_s = 0;
    if (sp_budgets_check(s->app->budgets, sp_grpc_who(c), &wait_s, &e.diag) != SP_OK) {
        sp_grpc_finish(c, SP_GRPC_RESOURCE_EXHAUSTED, e.diag.msg, (unsigned)wait_s * 1000);
        return;
    }
    sp_service_turn *g = sp_mem_alloc(sizeof *g);
    uint8_t *body = sp_mem_alloc(n + 1);
    if (!g || !body) {
        sp_mem_free(g);
        sp_mem_free(body);
        sp_grpc_finish(c, SP_GRPC_RESOURCE_EXHAUSTED, "no memory for the request", 1000);
        return;
    }
    memcpy(body, p, n);
    *g = (sp_service_turn){.kind = kind,
                           .s = s,
                           .c = c,
                           .id = sp_grpc_id(c),
                           .deadline_ns = sp_grpc_deadline_ns(c),
                           .body = body,
                           .n_body = n,
                           .ref = 1};
    snprintf(g->who, sizeof g->who, "%s", sp_grpc_who(c));
    keep_key(g, c);
    if (submit(g, false, start, g, &e.diag) != SP_OK) {
        sp_service_fail(c, s, NULL, &e);
        close_turn(g);
        return;
    }
    sp_grpc_set_task(c, &(sp_grpc_task){g, pull, close_turn});
}
