/* What is kept of an answer: with its question when it is whole, or from its beginning on where the
 * conversation is a tree. */
#include "pipe/turn_int.h"

#include "base/clock.h"
#include "base/log.h"

#include <stdio.h>
#include <string.h>

static const uint64_t DRAFT_NS = 2000000000; /* between two drafts; what a crash may take */

/* The answer as a message; borrows from it, except for the list of calls. SP_NOMEM. */
static sp_err answer_message(sp_chat_msg *out, sp_arena *a, const sp_turn_answer *from)
{
    sp_chat_call *call = sp_arena_alloc(a, (from->n_call + 1) * sizeof *call);
    if (!call)
        return SP_NOMEM;
    *out = sp_chat_say("assistant", sp_buf_str(&from->text), from->text.len);
    out->reasoning = (sp_str){sp_buf_str(&from->reasoning), from->reasoning.len};
    out->call = call;
    out->n_call = from->n_call;
    for (size_t i = 0; i < from->n_call; i++) {
        const sp_turn_call *c = &from->call[i];
        call[i] = (sp_chat_call){{sp_buf_str(&c->id), c->id.len},
                                 {sp_buf_str(&c->name), c->name.len},
                                 {sp_buf_str(&c->args), c->args.len}};
    }
    return SP_OK;
}

/* The answer is whole: it and the new messages are kept before the client hears of the end. The
 * operation may outlive the turn, if the client leaves: it has copies. */
static sp_err begin_save_list(sp_turn *t, sp_diag *d)
{
    sp_history_op *op = t->save =
        sp_history_op_new(t->env->history, SP_HISTORY_SAVE, t->ask->tenant);
    size_t n = t->ask->n_msg - t->ask->n_front;
    sp_chat_msg said;
    if (!op || sp_ask_copy(&op->msg, &op->op.a, t->ask->msg + t->ask->n_front, n) != SP_OK ||
        answer_message(&said, &op->op.a, &t->choice[0].answer) != SP_OK ||
        sp_chat_msg_copy(&op->msg[n], &op->op.a, &said) != SP_OK)
        return SP_FAIL(d, SP_NOMEM, "request");
    snprintf(op->conv, sizeof op->conv, "%s", t->prepare->conv);
    snprintf(op->response, sizeof op->response, "%s", t->ask->id);
    op->n_msg = n + 1;
    sp_history_count_with(op, t->env);
    return sp_op_submit(&op->op, sp_turn_ring, t, d);
}

/* --- an answer of a tree ---------------------------------------------------------------------- */

static sp_str keep_text(sp_arena *a, const sp_buf *text)
{
    char *p = text->failed || !text->len ? NULL : sp_arena_strndup(a, text->p, text->len);
    return (sp_str){p ? p : "", p ? text->len : 0};
}

static void put_words(sp_turn *t, sp_history_op *op)
{
    sp_receipt sum;
    sp_buf receipt = {0}, sources = {0};
    sp_turn_receipt(&sum, t);
    sp_receipt_write(&sum, &receipt);
    if (t->ask->sources)
        t->ask->sources(&sources, t);
    op->receipt = keep_text(&op->op.a, &receipt);
    op->sources = keep_text(&op->op.a, &sources);
    if (op->status == SP_HDB_FAILED && t->error.diag.code) {
        const char *why = sp_arena_strndup(&op->op.a, t->error.diag.msg, strlen(t->error.diag.msg));
        op->reason = (sp_str){why ? why : "", why ? strlen(why) : 0};
    }
    sp_buf_fini(&receipt);
    sp_buf_fini(&sources);
}

/* The operation that ends the answer. NULL: no memory. */
static sp_history_op *end_op(sp_turn *t, sp_hdb_status how)
{
    sp_history_op *op = sp_history_op_new(t->env->history, SP_HISTORY_FINISH, t->ask->tenant);
    const sp_turn_answer none = {0};
    sp_chat_msg said, *kept = op ? sp_arena_alloc(&op->op.a, sizeof *kept) : NULL;
    if (!kept ||
        answer_message(&said, &op->op.a, t->n_choice ? &t->choice[0].answer : &none) != SP_OK ||
        sp_chat_msg_copy(kept, &op->op.a, &said) != SP_OK) {
        sp_op_put((sp_op *)op);
        return NULL;
    }
    op->msg = kept;
    op->n_msg = 1;
    op->status = how;
    put_words(t, op);
    sp_history_count_with(op, t->env);
    return op;
}

/* How a whole answer stands. */
static sp_hdb_status status_of(const sp_turn *t)
{
    sp_finish how = t->choice[0].answer.finish;
    return how == SP_FINISH_LENGTH   ? SP_HDB_CUT
           : how == SP_FINISH_CANCEL ? SP_HDB_STOPPED
                                     : SP_HDB_COMPLETE;
}

static sp_err begin_save_tree(sp_turn *t, sp_diag *d)
{
    sp_history_op *op = t->save = end_op(t, status_of(t));
    if (!op)
        return SP_FAIL(d, SP_NOMEM, "request");
    op->begun = t->prepare;
    sp_op_share(&op->begun->op);
    return sp_op_submit(&op->op, sp_turn_ring, t, d);
}

sp_err sp_turn_begin_save(sp_turn *t, sp_diag *d)
{
    return t->ask->message ? begin_save_tree(t, d) : begin_save_list(t, d);
}

void sp_turn_keep_draft(sp_turn *t)
{
    uint64_t now = sp_clock_ns();
    const sp_buf *text = &t->choice[0].answer.text;
    if (!t->ask->message || !t->prepare || t->save || !t->n_choice || t->n_ended ||
        text->len == t->n_draft || now - t->draft_ns < DRAFT_NS)
        return;
    bool first = t->draft_ns == 0;
    t->draft_ns = now;
    if (first)
        return; /* two seconds from the first word on */
    sp_history_op *op = sp_history_op_new(t->env->history, SP_HISTORY_DRAFT, t->ask->tenant);
    if (!op)
        return; /* the next one */
    op->text = keep_text(&op->op.a, text);
    op->begun = t->prepare;
    sp_op_share(&op->begun->op);
    if (sp_op_submit(&op->op, NULL, NULL, NULL) == SP_OK)
        t->n_draft = text->len;
    sp_op_put(&op->op);
}

void sp_turn_leave(sp_turn *t)
{
    if (!t->ask->message || !t->prepare || t->save)
        return;
    sp_history_op *op = end_op(t, t->error.diag.code                         ? SP_HDB_FAILED
                                  : t->n_choice && t->n_ended == t->n_choice ? status_of(t)
                                                                             : SP_HDB_STOPPED);
    if (!op)
        return;             /* the next start of the server says that it failed */
    op->begun = t->prepare; /* its share goes along: it may not have begun yet */
    t->prepare = NULL;
    sp_op_quiet(&op->begun->op);
    if (sp_op_submit(&op->op, NULL, NULL, NULL) != SP_OK)
        sp_log(SP_LOG_WARN,
               "an answer is in the making until the server starts again: too much waits");
    sp_op_put(&op->op);
}
