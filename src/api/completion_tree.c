/* Chats whose conversation is a tree: message_id and parent of a request, and answers that were
 * given before. */
#include "api/completion_int.h"

#include <stdio.h>
#include <string.h>

enum { LEAST_ID = 8, MOST_ID = 37 /* and two of the answer's make an id */ };

/* --- requests --------------------------------------------------------------------------------- */

static bool is_role(const sp_chat_msg *m, const char *role)
{
    return m->role.n == strlen(role) && memcmp(m->role.p, role, m->role.n) == 0;
}

/* Text for the search, and passages, as a part of what is kept. */
static void put_sources(sp_buf *out, const sp_turn *t)
{
    const sp_turn_found f = sp_turn_searched(t);
    const sp_turn_answer *a = sp_turn_answer_of(t, 0);
    if (!f.op)
        return;
    sp_buf_putc(out, '{');
    if (a)
        sp_api_annotations(out, &a->text, f.op->hit, a->cite, a->n_cite);
    else
        sp_buf_puts(out, "\"annotations\":[]");
    sp_api_retrieved(out, f.op->hit, f.n_passage, f.op->fact, f.n_fact);
    sp_api_search(out, f.op, f.n_passage, f.n_fact, f.n_left);
    sp_buf_putc(out, '}');
}

static sp_err keep(const char **out, sp_ask *q, const char *text, sp_diag *d)
{
    *out = sp_arena_strndup(&q->a, text, strlen(text));
    return *out ? SP_OK : SP_FAIL(d, SP_NOMEM, "request");
}

static sp_err check_id(const char *id, sp_diag *d)
{
    size_t n = strlen(id);
    if (n < LEAST_ID || n > MOST_ID ||
        strspn(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") != n)
        return SP_FAIL(d, SP_INVAL, "message_id must be %d to %d letters, digits, - and _",
                       LEAST_ID, MOST_ID);
    return SP_OK;
}

/* System messages at the front are for this answer alone; behind them stands one message of the
 * user's, or none. */
static sp_err check_messages(sp_ask *q, sp_diag *d)
{
    while (q->n_front < q->n_msg && is_role(&q->msg[q->n_front], "system"))
        q->n_front++;
    if (q->n_msg > q->n_front + 1 ||
        (q->n_msg > q->n_front && !is_role(&q->msg[q->n_front], "user")))
        return SP_FAIL(d, SP_INVAL,
                       "messages: with message_id, at most one message of the user's may stand "
                       "behind system messages");
    return SP_OK;
}

sp_err sp_completion_tree(request *r, const body *b, const char **bad, sp_diag *d)
{
    sp_ask *q = r->ask;
    *bad = "parent";
    if ((b->parent || b->at_root) && !b->message)
        return SP_FAIL(d, SP_INVAL, "parent goes with message_id");
    if (!b->message)
        return SP_OK;
    if (b->parent && !json_is_string(b->parent))
        return SP_FAIL(d, SP_INVAL, "parent must be the id of a message, or null");
    *bad = "message_id";
    SP_TRY(check_id(b->message, d));
    if (q->previous)
        return SP_FAIL(d, SP_INVAL,
                       "message_id goes with conversation, not with previous_response_id");
    if (b->conversation && strlen(b->conversation) >= SP_ID_BYTES)
        return SP_FAIL(d, SP_INVAL, "conversation is too long for an id");
    *bad = "messages";
    SP_TRY(check_messages(q, d));
    SP_TRY(keep(&q->message, q, b->message, d));
    if (b->parent || b->at_root)
        SP_TRY(keep(&q->parent, q, b->parent ? json_string_value(b->parent) : "", d));
    snprintf(q->id, sizeof q->id, q->n_msg > q->n_front ? "%s-a" : "%s", q->message);
    q->sources = put_sources;
    return SP_OK;
}

/* --- answers that were given before ----------------------------------------------------------- */

static sp_finish finish_of(const sp_hdb_item *item, const sp_chat_msg *m)
{
    return item->status == SP_HDB_CUT ? SP_FINISH_LENGTH
           : m->n_call                ? SP_FINISH_CALLS
                                      : SP_FINISH_STOP;
}

/* Events as the answer had them, all at once. */
static void put_stream(request *r, sp_buf *out, const sp_turn *t, const sp_hdb_item *item,
                       const sp_chat_msg *m)
{
    sp_completion_event(r, out, t, &(sp_turn_event){.kind = SP_TURN_BEGIN});
    if (m->reasoning.n)
        sp_completion_event(r, out, t,
                            &(sp_turn_event){.kind = SP_TURN_REASONING, .text = m->reasoning});
    if (m->content.n)
        sp_completion_event(r, out, t, &(sp_turn_event){.kind = SP_TURN_TEXT, .text = m->content});
    for (size_t i = 0; i < m->n_call; i++) {
        const sp_chat_call *c = &m->call[i];
        sp_completion_event(
            r, out, t,
            &(sp_turn_event){.kind = SP_TURN_CALL, .call = i, .call_id = c->id, .name = c->name});
        sp_completion_event(
            r, out, t, &(sp_turn_event){.kind = SP_TURN_ARGS, .call = i, .text = c->arguments});
    }
    sp_completion_event(r, out, t,
                        &(sp_turn_event){.kind = SP_TURN_FINISH, .finish = finish_of(item, m)});
    if (item->receipt.n)
        sp_buf_printf(out, ": receipt %s\n\n", item->receipt.p);
    sp_buf_puts(out, "data: [DONE]\n\n");
}

static void put_object(request *r, sp_buf *out, const sp_turn *t, const sp_hdb_item *item,
                       const sp_chat_msg *m)
{
    sp_completion_head(out, r, t);
    sp_buf_puts(out, ",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":");
    sp_buf_json_str(out, m->content.p, m->content.n);
    if (m->reasoning.n) {
        sp_buf_puts(out, ",\"reasoning_content\":");
        sp_buf_json_str(out, m->reasoning.p, m->reasoning.n);
    }
    sp_buf_printf(out, ",\"refusal\":null},\"logprobs\":null,\"finish_reason\":\"%s\"}]",
                  sp_completion_finish(finish_of(item, m)));
    if (item->receipt.n)
        sp_buf_printf(out, ",\"sparing\":%s", item->receipt.p);
    sp_buf_putc(out, '}');
}

void sp_completion_stored(void *state, sp_buf *out, const sp_turn *t, const sp_hdb_item *item)
{
    request *r = state;
    sp_arena a;
    sp_chat_msg m = {0};
    sp_arena_init(&a, 0);
    if (sp_history_message(&m, &a, item) != SP_OK)
        out->failed = true;
    else if (r->ask->stream)
        put_stream(r, out, t, item, &m);
    else
        put_object(r, out, t, item, &m);
    sp_arena_fini(&a);
}
