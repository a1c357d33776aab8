/* Conversations: operations, their desk, and what it does between two of them. */
#include "pipe/history_int.h"

#include "base/clock.h"
#include "base/log.h"
#include "pipe/embed.h"
#include "pipe/feedback.h"
#include "pipe/history_port.h"
#include "pipe/models.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

enum { RENEWALS = 3 /* in the time of a lease */ };

/* The model that counts the operation's tokens is in use as long as that lives. */
static void give_back(sp_op *base)
{
    sp_history_op *op = (sp_history_op *)base;
    sp_buf_fini(&op->siblings);
    sp_buf_fini(&op->file);
    json_decref(op->json);
    sp_op_put((sp_op *)op->begun);
    if (op->models)
        sp_models_done(op->models, op->on);
}

sp_history_op *sp_history_op_new(sp_history *h, sp_history_kind kind, const char *tenant)
{
    sp_history_op *op = sp_op_new(h->desk, sizeof *op);
    if (!op)
        return NULL;
    op->kind = kind;
    op->op.fini = give_back;
    snprintf(op->tenant, sizeof op->tenant, "%s", tenant);
    return op;
}

void sp_history_count_with(sp_history_op *op, const sp_turn_env *env)
{
    op->tok = env->tok;
    op->model = sp_arena_strndup(&op->op.a, env->name, strlen(env->name));
    if (!env->models)
        return;
    op->models = env->models;
    op->on = env->served;
    sp_models_use_again(env->models, env->served);
}

/* One vector a call, between operations. true: there was one to make. */
static bool embed_one(sp_history *h)
{
    sp_arena a;
    sp_hdb_item item;
    int8_t vec[SP_HDB_DIM] = {0};
    if (!h->cfg.vocab)
        return false;
    sp_arena_init(&a, 0);
    bool found = sp_hdb_unembedded(h->db, &a, &item) == SP_OK;
    if (found) {
        sp_err err = sp_embed(h->cfg.engine, h->cfg.vocab, vec, item.text.p, item.text.n, NULL);
        found =
            err != SP_CANCEL && err != SP_UNSUP; /* an item that cannot be embedded keeps zeros */
        if (found && err != SP_LIMIT && sp_hdb_set_vector(h->db, item.seq, vec, NULL) != SP_OK)
            found = false;
    }
    sp_arena_fini(&a);
    return found;
}

/* Where PostgreSQL is away the end waits for it. */
static sp_err finish_or_owe(sp_history *h, sp_history_op *op)
{
    sp_err err = sp_history_finish(h, op, &op->op.diag);
    if (err == SP_AGAIN && h->n_owed < SP_HISTORY_OWED) {
        sp_op_share(&op->op);
        h->owed[h->n_owed++] = op;
    }
    return err;
}

static void pay_owed(sp_history *h)
{
    sp_diag d = {0};
    size_t left = 0;
    for (size_t i = 0; i < h->n_owed; i++) {
        sp_history_op *op = h->owed[i];
        sp_err err = left ? SP_AGAIN : sp_history_finish(h, op, &d);
        if (err == SP_AGAIN) {
            h->owed[left++] = op;
            continue;
        }
        if (err != SP_OK)
            sp_log(SP_LOG_WARN, "the end of an answer is not kept: %s", d.msg);
        sp_op_put(&op->op);
    }
    h->n_owed = left;
}

/* --- the other operations --------------------------------------------------------------------- */

static sp_err append_msg(sp_history *h, sp_history_op *op)
{
    op->item = sp_arena_alloc(&op->op.a, (op->n_msg + 1) * sizeof *op->item);
    if (!op->item)
        return SP_FAIL(&op->op.diag, SP_NOMEM, "conversation");
    op->n_item = op->n_msg;
    for (size_t i = 0; i < op->n_msg; i++) {
        op->item[i] = (sp_hdb_item){.role = op->msg[i].role,
                                    .text = op->msg[i].content,
                                    .n_tok = sp_history_count(op->tok, &op->msg[i])};
        bool answers = op->model && i + 1 == op->n_msg; /* the answer is the last */
        if (sp_history_keep_more(&op->item[i].more, &op->op.a, &op->msg[i],
                                 answers ? (sp_str){op->model, strlen(op->model)} : (sp_str){"", 0},
                                 (sp_str){"", 0}) != SP_OK)
            return SP_FAIL(&op->op.diag, SP_NOMEM, "conversation");
    }
    return op->n_msg ? sp_hdb_append(h->db, op->tenant, op->conv, op->item, op->n_msg,
                                     op->response[0] ? op->response : NULL, &op->op.diag)
                     : SP_OK;
}

static sp_err run_search(sp_history *h, sp_history_op *op)
{
    int8_t vec[SP_HDB_DIM];
    sp_hdb_conv info;
    uint64_t t = sp_clock_ns();
    SP_TRY(sp_hdb_get(h->db, &op->op.a, op->tenant, op->conv, &info, &op->op.diag));
    bool has_vec =
        sp_embed(h->cfg.engine, h->cfg.vocab, vec, op->query, strlen(op->query), NULL) == SP_OK;
    op->ms_vector = sp_clock_ms(t);
    sp_err err = sp_hdb_search(h->db, &op->op.a, op->tenant, op->conv, INT64_MAX, op->query,
                               has_vec ? vec : NULL, op->cap, &op->item, &op->n_item, &op->op.diag);
    sp_metric_observe(h->recall_s, (double)(sp_clock_ns() - t) * 1e-9);
    return err;
}

/* Feedback, pages in RAM, then on disk and in the object store, then the text: whatever fails on
 * the way, the conversation is still there to be deleted again. No turn comes between: turns begin
 * on this thread. Feedback of a whole tenant (conv NULL) is deleted, and counted, by who asked. */
static sp_err forget(sp_history *h, const char *tenant, const char *conv, size_t *n_page,
                     size_t *n_conv, sp_diag *d)
{
    if (conv)
        SP_TRY(sp_feedback_forget(h->cfg.feedback, tenant, conv, d));
    SP_TRY(sp_models_forget(h->cfg.models, tenant, conv, n_page, d));
    return sp_hdb_delete(h->db, tenant, conv, n_conv, d);
}

static sp_err run_forget(sp_history *h, sp_history_op *op, const char *conv)
{
    sp_hdb_conv info;
    if (conv)
        SP_TRY(sp_hdb_get(h->db, &op->op.a, op->tenant, conv, &info, &op->op.diag));
    return forget(h, op->tenant, conv, &op->n_page, &op->n_conv, &op->op.diag);
}

/* A message goes with all pages of its conversation: they may hold it. */
static sp_err forget_message(sp_history *h, const char *tenant, const char *conv,
                             const char *message, size_t *n_page, sp_diag *d)
{
    SP_TRY(sp_models_forget(h->cfg.models, tenant, conv, n_page, d));
    return sp_hdb_remove_item(h->db, tenant, conv, message, d);
}

static sp_err run_delete(sp_history *h, sp_history_op *op)
{
    sp_hdb_item item;
    const char *message = op->message[0] ? op->message : NULL;
    if (message) {
        sp_err err =
            sp_hdb_item_get(h->db, &op->op.a, op->tenant, op->conv, message, &item, &op->op.diag);
        op->lost = err == SP_NOTFOUND;
        SP_TRY(err);
        if (item.status == SP_HDB_RUNNING)
            return SP_FAIL(&op->op.diag, SP_INVAL,
                           "the message is still being written; stop it first");
    }
    if (op->grace_s)
        return sp_hdb_hide(h->db, op->tenant, op->conv, message, sp_clock_wall() + op->grace_s,
                           &op->op.diag);
    return message ? forget_message(h, op->tenant, op->conv, message, &op->n_page, &op->op.diag)
                   : run_forget(h, op, op->conv);
}

/* The message that a page is to begin at; id NULL: none is named. */
static sp_err check_cursor(sp_history *h, sp_history_op *op, const char *name, const char *id)
{
    sp_hdb_item item;
    sp_err err =
        id ? sp_hdb_item_get(h->db, &op->op.a, op->tenant, op->conv, id, &item, NULL) : SP_OK;
    if (err != SP_NOTFOUND)
        return err;
    op->lost = true;
    op->cursor = name;
    return SP_FAIL(&op->op.diag, SP_NOTFOUND, "%s: the conversation has no message %.48s", name,
                   id);
}

static sp_err run_path(sp_history *h, sp_history_op *op)
{
    sp_hdb_conv info;
    SP_TRY(sp_hdb_get(h->db, &op->op.a, op->tenant, op->conv, &info, &op->op.diag));
    SP_TRY(check_cursor(h, op, "before", op->path.before));
    SP_TRY(check_cursor(h, op, "leaf", op->path.to));
    sp_err err = sp_hdb_path(h->db, &op->op.a, op->tenant, op->conv, &op->path, &op->item,
                             &op->n_item, &op->more, &op->op.diag);
    for (size_t i = 0; i < op->n_item && err == SP_OK; i++) {
        if (op->item[i].n_sibling < 2)
            continue;
        err = sp_hdb_children(h->db, op->conv, op->item[i].parent, &op->siblings, &op->op.diag);
        sp_buf_putc(&op->siblings, 0);
    }
    return err;
}

static sp_err run_response(sp_history *h, sp_history_op *op)
{
    int64_t end;
    SP_TRY(sp_hdb_response(h->db, op->tenant, op->response, op->conv, &end, &op->op.diag));
    SP_TRY(sp_hdb_object(h->db, &op->op.a, op->tenant, op->response, &op->object, &op->op.diag));
    return sp_hdb_items(h->db, &op->op.a, op->tenant, op->conv, end, &op->item, &op->n_item,
                        &op->op.diag);
}

static sp_err run_drop(sp_history *h, sp_history_op *op)
{
    bool last = false;
    SP_TRY(sp_hdb_drop(h->db, op->tenant, op->response, op->conv, &last, &op->op.diag));
    return last ? run_forget(h, op, op->conv) : SP_OK;
}

/* With an id of the client's, the second time gives what the first one made. */
static sp_err run_create(sp_history *h, sp_history_op *op)
{
    sp_hdb_conv info;
    if (op->conv[0] && sp_hdb_get(h->db, &op->op.a, op->tenant, op->conv, &info, NULL) == SP_OK)
        return SP_OK;
    if (!op->conv[0])
        sp_hdb_id(op->conv, "conv");
    SP_TRY(sp_hdb_create(h->db, op->tenant, op->conv, op->metadata ? op->metadata : "{}", false,
                         &op->op.diag));
    SP_TRY(append_msg(h, op));
    return sp_hdb_change(h->db, op->tenant, op->conv, &op->patch, &op->lost, &op->op.diag);
}

static sp_err run_kind(sp_history *h, sp_history_op *op)
{
    sp_err err = SP_OK;
    sp_metric_add(h->ops, 1);
    switch (op->kind) {
    case SP_HISTORY_CREATE: err = run_create(h, op); break;
    case SP_HISTORY_CHANGE:
        err = sp_hdb_change(h->db, op->tenant, op->conv, &op->patch, &op->lost, &op->op.diag);
        break;
    case SP_HISTORY_LIST:
        return sp_hdb_list(h->db, &op->op.a, op->tenant, op->after[0] ? op->after : NULL, op->query,
                           op->cap, &op->convs, &op->n_convs, &op->op.diag);
    case SP_HISTORY_EXPORT:
        return sp_history_export(h->db, &op->op.a, op->tenant, op->conv[0] ? op->conv : NULL,
                                 op->markdown, &op->file, &op->op.diag);
    case SP_HISTORY_IMPORT:
        return sp_history_import(h->db, op->tenant, op->json, &op->file, &op->op.diag);
    case SP_HISTORY_DELETE: return run_delete(h, op);
    case SP_HISTORY_RESTORE:
        err = sp_hdb_restore(h->db, op->tenant, op->conv, op->message[0] ? op->message : NULL,
                             &op->op.diag);
        break;
    case SP_HISTORY_PATH: return run_path(h, op);
    case SP_HISTORY_FORGET: return run_forget(h, op, NULL);
    case SP_HISTORY_ITEMS:
        err = sp_hdb_items(h->db, &op->op.a, op->tenant, op->conv, INT64_MAX, &op->item,
                           &op->n_item, &op->op.diag);
        break;
    case SP_HISTORY_SEARCH: err = run_search(h, op); break;
    case SP_HISTORY_PREPARE: return sp_history_prepare(h, op);
    case SP_HISTORY_DRAFT: return sp_history_keep_draft(h, op);
    case SP_HISTORY_FINISH: return finish_or_owe(h, op);
    case SP_HISTORY_RESPONSE: return run_response(h, op);
    case SP_HISTORY_OBJECT:
        return sp_hdb_set_object(h->db, op->tenant, op->response, op->object.p, &op->op.diag);
    case SP_HISTORY_DROP: return run_drop(h, op);
    case SP_HISTORY_ADD:
    case SP_HISTORY_SAVE: err = append_msg(h, op); break;
    case SP_HISTORY_GET: break;
    }
    return err == SP_OK
               ? sp_hdb_get(h->db, &op->op.a, op->tenant, op->conv, &op->info, &op->op.diag)
               : err;
}

/* --- desk ------------------------------------------------------------------------------------ */

/* Pages of what other servers deleted. */
static void forget_with_others(sp_history *h)
{
    sp_hdb_due due;
    sp_diag d = {0};
    int64_t seq;
    size_t n_page;
    sp_err err;
    while ((err = sp_hdb_next_forgotten(h->db, &due, &seq, &d)) == SP_OK) {
        err =
            sp_models_forget(h->cfg.models, due.tenant, due.conv[0] ? due.conv : NULL, &n_page, &d);
        if (err != SP_OK)
            break;
        sp_hdb_forgot(h->db, seq);
    }
    if (err != SP_NOTFOUND)
        sp_log(SP_LOG_WARN, "pages of what was deleted elsewhere are not yet deleted: %s", d.msg);
}

/* A few times in the time of a lease. */
static void keep_lease(sp_history *h)
{
    uint64_t now = sp_clock_ns(), each = (uint64_t)h->cfg.lease_s * 1000000000u / RENEWALS;
    sp_diag d = {0};
    if (h->t_lease && now - h->t_lease < each)
        return;
    h->t_lease = now;
    sp_err err = sp_hdb_renew(h->db, &d);
    h->is_away = err == SP_AGAIN;
    if (err != SP_OK && err != SP_AGAIN)
        sp_log(SP_LOG_WARN, "this server's lease is not renewed: %s", d.msg);
    if (err != SP_OK)
        return;
    pay_owed(h);
    forget_with_others(h);
}

static sp_err run_op(void *self, sp_op *base)
{
    keep_lease(self);
    return run_kind(self, (sp_history_op *)base);
}

static void freeze_some(sp_history *h)
{
    sp_diag d = {0};
    int64_t now = sp_clock_wall();
    if (!h->cfg.cold_after_s || now == h->t_freeze)
        return;
    h->t_freeze = now;
    sp_err err = sp_hdb_freeze(h->db, now - h->cfg.cold_after_s, &d);
    if (err != SP_OK && err != SP_NOTFOUND)
        sp_log(SP_LOG_WARN, "an old conversation stays as it is: %s", d.msg);
}

/* What was deleted with a grace that is over. */
static bool remove_due(sp_history *h)
{
    sp_hdb_due due;
    sp_diag d = {0};
    size_t n_page, n_conv;
    sp_err err = sp_hdb_next_due(h->db, sp_clock_wall(), &due, &d);
    if (err == SP_NOTFOUND)
        return false;
    if (err == SP_OK)
        err = due.item[0] ? forget_message(h, due.tenant, due.conv, due.item, &n_page, &d)
                          : forget(h, due.tenant, due.conv, &n_page, &n_conv, &d);
    if (err == SP_NOTFOUND) /* another server was faster */
        return false;
    if (err != SP_OK)
        sp_log(SP_LOG_WARN, "what was deleted is hidden, and not yet removed: %s", d.msg);
    return err == SP_OK;
}

static bool index_some(sp_history *h)
{
    sp_diag d = {0};
    bool left = false;
    if (sp_hdb_index_some(h->db, &left, &d) != SP_OK)
        sp_log(SP_LOG_WARN, "words of old messages are not yet found: %s", d.msg);
    return left;
}

/* Between operations: what is to go, old conversations, words of earlier files, then one vector. */
static bool idle(void *self)
{
    sp_history *h = self;
    keep_lease(h);
    if (h->is_away)
        return false;
    if (remove_due(h))
        return true;
    freeze_some(h);
    return index_some(h) || embed_one(h);
}

/* The last of the desk's thread. */
static void end(void *self)
{
    sp_history *h = self;
    pay_owed(h);
    if (h->n_owed)
        sp_log(SP_LOG_WARN, "the ends of %zu answers are not kept: PostgreSQL is away", h->n_owed);
    while (h->n_owed)
        sp_op_put(&h->owed[--h->n_owed]->op);
}

sp_err sp_history_open(sp_history **out, const sp_history_cfg *cfg, sp_diag *d)
{
    sp_history *h = sp_mem_alloc(sizeof *h);
    if (!h)
        return SP_FAIL(d, SP_NOMEM, "conversations");
    h->cfg = *cfg;
    h->recall_s = sp_metric_seconds(cfg->metrics, "sparing_history_recall_seconds",
                                    "Finding old turns, the question's vector included.", NULL);
    h->recalled = sp_metric_counter(cfg->metrics, "sparing_history_recalled_total",
                                    "Old turns put before a question.", NULL);
    h->ops = sp_metric_counter(cfg->metrics, "sparing_history_operations_total",
                               "Operations on conversations.", NULL);
    sp_err err = sp_hdb_open(&h->db, cfg->path, cfg->cold, d);
    const sp_encoder *enc = sp_engine_config(cfg->engine)->encoder;
    if (err == SP_OK && cfg->vocab && enc && sp_encoder_dim(enc) == SP_HDB_DIM)
        err = sp_hdb_made_by(h->db, sp_encoder_name(enc), d);
    if (err == SP_INVAL && cfg->is_default) {
        sp_log(SP_LOG_WARN, "old turns are found by their words alone: %s", d->msg);
        h->cfg.vocab = NULL;
        *d = (sp_diag){0};
        err = SP_OK;
    }
    if (err == SP_OK)
        err = sp_hdb_serve(h->db, cfg->lease_s, d);
    if (err == SP_OK)
        err = sp_desk_start(&h->desk, &(sp_desk_cfg){"conversations", run_op, idle, h, end}, d);
    if (err == SP_OK)
        *out = h;
    else
        sp_history_close(h);
    return err;
}

void sp_history_close(sp_history *h)
{
    if (!h)
        return;
    sp_desk_stop(h->desk);
    sp_hdb_close(h->db);
    sp_mem_free(h);
}
