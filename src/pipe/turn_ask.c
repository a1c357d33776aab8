/* What comes before the prompt: the conversation so far and a search in documents. */
#include "pipe/turn_int.h"

#include "base/utf8.h"

#include <stdio.h>
#include <string.h>

enum {
    FRAME_TOK = 16,
    PASSAGE_SHARE = 3,  /* passages may take a third of the context */
    MAX_QUERY = 4096,   /* bytes */
    EARLIER = 3,        /* questions before the last one */
    MAX_EARLIER = 400   /* bytes of each */
};

static size_t room_for_answer(const sp_turn *t)
{
    size_t n_ctx = sp_engine_config(t->env->engine)->n_ctx, want = t->ask->plan.max_tok;
    return want && want < n_ctx / 2 ? want : n_ctx / 4;
}

/* Tokens that passages may take. */
static size_t room_for_passages(const sp_turn *t)
{
    return sp_engine_config(t->env->engine)->n_ctx / PASSAGE_SHARE;
}

/* --- documents -------------------------------------------------------------------------------- */

sp_err sp_turn_look(sp_turn *t, sp_diag *d)
{
    t->find = sp_know_op_new(t->env->know, SP_KNOW_SEARCH, t->ask->tenant);
    if (!t->find)
        return SP_FAIL(d, SP_NOMEM, "request");
    t->looked = true;
    t->find->by_name = t->env->retrieve;
    t->find->cap = t->ask->set.passages ? *t->ask->set.passages : SP_ASK_FOUND;
    return SP_OK;
}

static size_t cut(const sp_str *s, size_t most)
{
    return s->n <= most ? s->n : most - sp_utf8_tail(s->p, most);
}

/* The last questions before the last message, then it: what "and how often?" is about stands there.
 * NULL: there are none. */
static sp_err widen(const char **out, sp_arena *a, const sp_chat_msg *msg, size_t n_msg,
                    const char *query)
{
    sp_buf text = {0};
    size_t from = n_msg - 1, n = 0;
    for (size_t i = n_msg - 1; i-- > 0 && n < EARLIER;)
        if (sp_turn_is_user(&msg[i]) && msg[i].content.n) {
            from = i;
            n++;
        }
    for (size_t i = from; i + 1 < n_msg; i++)
        if (sp_turn_is_user(&msg[i]) && msg[i].content.n) {
            sp_buf_put(&text, msg[i].content.p, cut(&msg[i].content, MAX_EARLIER));
            sp_buf_putc(&text, '\n');
        }
    sp_buf_puts(&text, query);
    *out = n && !text.failed ? sp_arena_strndup(a, text.p, text.len) : NULL;
    sp_buf_fini(&text);
    return n && !*out ? SP_NOMEM : SP_OK;
}

/* The last message of the request is the question; the conversation is what was asked before. */
sp_err sp_turn_begin_search(sp_turn *t, sp_diag *d)
{
    sp_know_op *op = t->find;
    /* as it came: recall adds to the prompt's copy */
    const sp_str asked = t->prepare ? t->prepare->question : t->msg[t->n_msg - 1].content;
    memcpy(op->how, t->ask->search, sizeof op->how);
    sp_turn_about(t, "messages");
    if (!sp_turn_is_user(&t->msg[t->n_msg - 1 - (t->n_msg > 1 && t->ask->go_on)]) || asked.n == 0)
        return SP_FAIL(d, SP_INVAL,
                       "messages: with file_search the last one must be the user's question");
    op->query = sp_arena_strndup(&op->op.a, asked.p, cut(&asked, MAX_QUERY));
    if (!op->query || widen(&op->wide, &op->op.a, t->msg, t->n_msg, op->query) != SP_OK)
        return SP_FAIL(d, SP_NOMEM, "request");
    t->pending = true;
    return sp_op_submit(&op->op, sp_turn_ring, t, d);
}

sp_chat_msg *sp_turn_question(sp_turn *t)
{
    size_t i = t->n_msg - 1;
    while (t->ask->go_on && i && !sp_turn_is_user(&t->msg[i]))
        i--;
    return &t->msg[i];
}

/* What was found goes before the question. */
sp_err sp_turn_add_passages(sp_turn *t, sp_diag *d)
{
    sp_know_op *op = t->find;
    sp_chat_msg *last = sp_turn_question(t);
    sp_buf text = {0};
    bool bear = t->ask->insist || sp_passages_bear(op->hit, op->n);
    if (!bear && op->n_fact == 0)
        return SP_OK;
    if (bear) {
        t->n_passage =
            sp_passages_pick(op->hit, op->n, t->ask->n_near, t->env->tok, room_for_passages(t));
        t->n_left = op->n - t->n_passage;
    }
    t->n_fact = op->n_fact;
    if (t->n_passage + t->n_fact == 0)
        return SP_OK;
    sp_passages_put(&text, op->hit, t->n_passage, t->ask->n_near, op->fact, t->n_fact,
                    last->content.p, last->content.n);
    char *all = text.failed ? NULL : sp_arena_strndup(&op->op.a, text.p, text.len);
    t->question = last->content;
    last->content = (sp_str){all, text.len};
    sp_buf_fini(&text);
    return all ? SP_OK : SP_FAIL(d, SP_NOMEM, "request");
}

/* Passages that were put before the question go out again, so that they neither leave nor stand
 * there twice. */
void sp_turn_forget_search(sp_turn *t)
{
    if (!t->find)
        return;
    if (t->question.p)
        sp_turn_question(t)->content = t->question;
    sp_op_put(&t->find->op);
    t->find = NULL;
    t->question = (sp_str){0};
    t->n_passage = t->n_fact = t->n_left = t->receipt.chunks = t->receipt.left_out = 0;
}

/* --- the conversation ------------------------------------------------------------------------- */

/* Asks for the conversation; its messages come before those of the request. */
sp_err sp_turn_begin_history(sp_turn *t, sp_diag *d)
{
    const sp_ask *q = t->ask;
    const char *id = q->conversation ? q->conversation : q->previous ? q->previous : "";
    size_t n_ctx = sp_engine_config(t->env->engine)->n_ctx;
    size_t taken = room_for_answer(t) + FRAME_TOK + (t->find ? room_for_passages(t) : 0);
    const char *name = q->conversation ? "conversation"
                       : q->previous   ? "previous_response_id"
                                       : "store";
    sp_turn_about(t, name);
    if (!t->env->history)
        return SP_FAIL(d, SP_UNSUP,
                       "this server keeps no conversations; it was started without --history");
    if (q->conversation && q->previous)
        return SP_FAIL(d, SP_INVAL, "conversation and previous_response_id exclude each other");
    if (strlen(id) >= SP_ID_BYTES)
        return SP_FAIL(d, SP_INVAL, "%s is too long for an id", name);
    if (q->n != 1)
        return SP_FAIL(d, SP_INVAL, "n must be 1 in a conversation");
    sp_history_op *op = t->prepare =
        sp_history_op_new(t->env->history, SP_HISTORY_PREPARE, q->tenant);
    if (!op || sp_ask_copy(&op->msg, &op->op.a, q->msg, q->n_msg) != SP_OK)
        return SP_FAIL(d, SP_NOMEM, "request");
    sp_history_count_with(op, t->env);
    op->n_msg = q->n_msg;
    op->n_front = q->n_front;
    snprintf(op->conv, sizeof op->conv, "%s", q->conversation ? q->conversation : "");
    snprintf(op->previous, sizeof op->previous, "%s", q->previous ? q->previous : "");
    snprintf(op->message, sizeof op->message, "%s", q->message ? q->message : "");
    snprintf(op->parent, sizeof op->parent, "%s", q->parent ? q->parent : "");
    op->has_parent = q->parent != NULL;
    op->budget = n_ctx > taken ? n_ctx - taken : 1;
    t->pending = true;
    return sp_op_submit(&op->op, sp_turn_ring, t, d);
}
