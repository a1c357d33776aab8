/* A turn of a conversation: what it brings into the prompt, and how its answer is kept. */
#include "pipe/history_int.h"

#include "base/clock.h"
#include "pipe/embed.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    MSG_TOK = 8,      /* a message's frame in the template, about */
    RECALL_SHARE = 8, /* recalled turns get 1/8 of the prompt */
    RECALL_MAX = 8,
    RECALL_FROM = 32 /* candidates, of which other branches have some */
};

/* Without a vocabulary: about as many as most have. Whoever uses the text counts it again. */
static size_t count_tok(const sp_tok *tok, sp_str text)
{
    sp_ids ids = {0};
    size_t n = text.n / 3;
    if (tok)
        n = sp_tok_encode(tok, &ids, text.p, text.n, SP_SPECIAL_NONE, NULL) == SP_OK ? ids.n
                                                                                     : text.n;
    sp_ids_fini(&ids);
    return n + MSG_TOK;
}

/* --- what a message holds beside its text ----------------------------------------------------- */

static void put_field(sp_buf *out, const char *name, sp_str s)
{
    if (!s.n)
        return;
    sp_buf_printf(out, "%s\"%s\":", out->len > 1 ? "," : "", name);
    sp_buf_json_str(out, s.p, s.n);
}

static void put_calls(sp_buf *out, const sp_chat_msg *m)
{
    for (size_t i = 0; i < m->n_call; i++) {
        const sp_str part[] = {m->call[i].id, m->call[i].name, m->call[i].arguments};
        sp_buf_puts(out, i ? "," : out->len > 1 ? ",\"calls\":[" : "\"calls\":[");
        for (size_t k = 0; k < 3; k++) {
            sp_buf_puts(out, k ? "," : "[");
            sp_buf_json_str(out, part[k].p, part[k].n);
        }
        sp_buf_putc(out, ']');
    }
    sp_buf_puts(out, m->n_call ? "]" : "");
}

sp_err sp_history_keep_more(sp_str *out, sp_arena *a, const sp_chat_msg *m, sp_str model,
                            sp_str error)
{
    sp_buf text = {0};
    sp_buf_putc(&text, '{');
    put_field(&text, "model", model);
    put_field(&text, "error", error);
    put_field(&text, "name", m->name);
    put_field(&text, "reasoning", m->reasoning);
    put_field(&text, "call_id", m->call_id);
    put_calls(&text, m);
    sp_buf_putc(&text, '}');
    *out = (sp_str){"", 0};
    if (text.len > 2)
        *out = (sp_str){text.failed ? NULL : sp_arena_strndup(a, text.p, text.len), text.len};
    sp_buf_fini(&text);
    return out->p ? SP_OK : SP_NOMEM;
}

static sp_str str_of(const json_t *v)
{
    return json_is_string(v) ? (sp_str){json_string_value(v), json_string_length(v)}
                             : (sp_str){"", 0};
}

const char *sp_history_model(sp_arena *a, const sp_hdb_item *item)
{
    json_t *more =
        item->more.n ? json_loadb(item->more.p, item->more.n, JSON_ALLOW_NUL, NULL) : NULL;
    const char *name = json_string_value(json_object_get(more, "model"));
    name = name ? sp_arena_strndup(a, name, strlen(name)) : NULL;
    json_decref(more);
    return name;
}

sp_err sp_history_message(sp_chat_msg *out, sp_arena *a, const sp_hdb_item *item)
{
    sp_chat_msg m = {.role = item->role, .content = item->text};
    json_t *more =
        item->more.n ? json_loadb(item->more.p, item->more.n, JSON_ALLOW_NUL, NULL) : NULL;
    const json_t *calls = json_object_get(more, "calls");
    sp_chat_call *call = sp_arena_alloc(a, (json_array_size(calls) + 1) * sizeof *call);
    for (size_t i = 0; call && i < json_array_size(calls); i++) {
        const json_t *v = json_array_get(calls, i);
        call[m.n_call++] =
            (sp_chat_call){str_of(json_array_get(v, 0)), str_of(json_array_get(v, 1)),
                           str_of(json_array_get(v, 2))};
    }
    m.call = call;
    m.name = str_of(json_object_get(more, "name"));
    m.reasoning = str_of(json_object_get(more, "reasoning"));
    m.call_id = str_of(json_object_get(more, "call_id"));
    sp_err err = call ? sp_chat_msg_copy(out, a, &m) : SP_NOMEM;
    json_decref(more);
    return err;
}

/* --- the prompt of a turn --------------------------------------------------------------------- */

size_t sp_history_count(const sp_tok *tok, const sp_chat_msg *m)
{
    size_t n = count_tok(tok, m->content) + (m->reasoning.n ? count_tok(tok, m->reasoning) : 0);
    for (size_t i = 0; i < m->n_call; i++)
        n += count_tok(tok, m->call[i].name) + count_tok(tok, m->call[i].arguments);
    return n;
}

/* What is kept was counted for the model that it was said to. */
static sp_err count_again(const sp_history *h, sp_history_op *op, sp_hdb_item *item, size_t n)
{
    for (size_t i = 0; i < n && h->cfg.recount; i++) {
        sp_chat_msg m;
        SP_TRY(sp_history_message(&m, &op->op.a, &item[i]));
        item[i].n_tok = sp_history_count(op->tok, &m);
    }
    return SP_OK;
}

static bool is_role(sp_str s, const char *role)
{
    return s.n == strlen(role) && memcmp(s.p, role, s.n) == 0;
}

/* The first item that stays. Turns leave in steps of half the budget, so that the front of the
 * prompt changes seldom. System items always stay. */
static size_t window_start(const sp_hdb_item *item, size_t n, size_t n_fixed, size_t budget)
{
    size_t all = n_fixed, step = budget / 2 ? budget / 2 : 1, gone = 0, start = 0, want;
    for (size_t i = 0; i < n; i++)
        all += item[i].n_tok;
    if (all <= budget)
        return 0;
    want = (all - budget + step - 1) / step * step;
    while (start < n && (gone < want || !is_role(item[start].role, "user"))) {
        gone += is_role(item[start].role, "system") ? 0 : item[start].n_tok;
        start++;
    }
    return start;
}

static void add_date(sp_buf *out, int64_t seconds, sp_str role)
{
    char date[16];
    time_t t = (time_t)seconds;
    struct tm tm;
    gmtime_r(&t, &tm);
    strftime(date, sizeof date, "%Y-%m-%d", &tm);
    sp_buf_printf(out, "[%s, %.*s] ", date, (int)role.n, role.p);
}

static int by_pos(const void *a, const void *b)
{
    const sp_hdb_item *x = a, *y = b;
    return x->pos < y->pos ? -1 : x->pos > y->pos;
}

/* Other branches of a conversation are none of this one. */
static bool is_on(const sp_hdb_item *path, size_t n, int64_t seq)
{
    for (size_t i = 0; i < n; i++)
        if (path[i].seq == seq)
            return true;
    return false;
}

/* Old turns that bear on the question, before the question, oldest first. */
static sp_err recall(sp_history *h, sp_history_op *op, const sp_hdb_item *path, size_t n_path,
                     int64_t end, size_t budget)
{
    sp_chat_msg *last = &op->msg[op->n_msg - 1];
    char *question = sp_arena_strndup(&op->op.a, last->content.p, last->content.n);
    int8_t vec[SP_HDB_DIM];
    uint64_t t = sp_clock_ns();
    sp_hdb_item *found;
    size_t n, used = 0, kept = 0;
    sp_buf text = {0};
    if (!question)
        return SP_FAIL(&op->op.diag, SP_NOMEM, "recall");
    bool has_vec =
        sp_embed(h->cfg.engine, h->cfg.vocab, vec, question, last->content.n, NULL) == SP_OK;
    op->ms_vector = sp_clock_ms(t);
    SP_TRY(sp_hdb_search(h->db, &op->op.a, op->tenant, op->conv, end, question,
                         has_vec ? vec : NULL, RECALL_FROM, &found, &n, &op->op.diag));
    if (count_again(h, op, found, n) != SP_OK)
        return SP_FAIL(&op->op.diag, SP_NOMEM, "recall");
    for (size_t i = 0; i < n && kept < RECALL_MAX; i++) {
        if (used + found[i].n_tok + MSG_TOK > budget || !is_on(path, n_path, found[i].seq))
            continue;
        used += found[i].n_tok + MSG_TOK;
        found[kept++] = found[i];
    }
    qsort(found, kept, sizeof *found, by_pos);
    op->item = found;
    op->n_item = kept;
    sp_metric_observe(h->recall_s, (double)(sp_clock_ns() - t) * 1e-9);
    sp_metric_add(h->recalled, (double)kept);
    if (kept == 0)
        return SP_OK;
    sp_buf_puts(&text, "From earlier in this conversation:\n");
    for (size_t i = 0; i < kept; i++) {
        add_date(&text, found[i].created, found[i].role);
        sp_buf_put(&text, found[i].text.p, found[i].text.n);
        sp_buf_putc(&text, '\n');
    }
    sp_buf_putc(&text, '\n');
    sp_buf_put(&text, last->content.p, last->content.n);
    char *all = text.failed ? NULL : sp_arena_strndup(&op->op.a, text.p, text.len);
    last->content = (sp_str){all, text.len};
    sp_buf_fini(&text);
    return all ? SP_OK : SP_FAIL(&op->op.diag, SP_NOMEM, "recall");
}

static sp_err find_conversation(sp_history *h, sp_history_op *op, int64_t *end)
{
    char from[SP_ID_BYTES];
    sp_hdb_conv info;
    *end = INT64_MAX;
    if (op->conv[0])
        return sp_hdb_get(h->db, &op->op.a, op->tenant, op->conv, &info, &op->op.diag);
    sp_hdb_id(op->conv, "conv");
    if (!op->previous[0])
        return sp_hdb_create(h->db, op->tenant, op->conv, "{}", true, &op->op.diag);
    SP_TRY(sp_hdb_response(h->db, op->tenant, op->previous, from, end, &op->op.diag));
    SP_TRY(sp_hdb_get(h->db, &op->op.a, op->tenant, from, &info, &op->op.diag));
    sp_hdb_item leaf;
    if (info.end == *end && info.leaf[0] &&
        sp_hdb_item_get(h->db, &op->op.a, op->tenant, from, info.leaf, &leaf, NULL) == SP_OK &&
        leaf.pos + 1 == *end) { /* nothing came after it: the conversation goes on */
        snprintf(op->conv, sizeof op->conv, "%s", from);
        return SP_OK;
    }
    return sp_hdb_fork(h->db, op->tenant, from, *end, op->conv, &op->op.diag);
}

/* A conversation that is asked for by an id of the client's begins with its first message. */
static sp_err open_tree(sp_history *h, sp_history_op *op, sp_hdb_conv *out)
{
    bool fresh = !op->conv[0];
    if (fresh)
        sp_hdb_id(op->conv, "conv");
    else if (sp_hdb_get(h->db, &op->op.a, op->tenant, op->conv, out, &op->op.diag) == SP_OK)
        return SP_OK;
    else if (op->op.diag.code != SP_NOTFOUND || op->parent[0])
        return op->op.diag.code;
    op->op.diag = (sp_diag){0};
    SP_TRY(sp_hdb_create(h->db, op->tenant, op->conv, "{}", false, &op->op.diag));
    return sp_hdb_get(h->db, &op->op.a, op->tenant, op->conv, out, &op->op.diag);
}

/* Has the message been sent before? Then its answer is what there is to give. */
static sp_err find_answer(sp_history *h, sp_history_op *op)
{
    sp_hdb_item *old = sp_arena_alloc(&op->op.a, sizeof *old);
    if (!old)
        return SP_FAIL(&op->op.diag, SP_NOMEM, "conversation");
    sp_err err = sp_hdb_item_get(h->db, &op->op.a, op->tenant, op->conv, op->answer, old, NULL);
    if (err == SP_NOTFOUND)
        return SP_OK;
    SP_TRY(err);
    op->item = old;
    op->n_item = 1;
    op->repeated = true;
    return SP_FAIL(&op->op.diag, SP_INVAL, "message %.48s was answered before", op->message);
}

/* The new items. to: what they come behind; NULL: they are the first. */
static sp_err add_begun(sp_history *h, sp_history_op *op, const sp_hdb_item *to, bool asks)
{
    const sp_str answers = {"assistant", 9};
    sp_hdb_item item[2] = {0};
    size_t n = 0;
    if (asks) {
        const sp_chat_msg *m = &op->msg[op->n_msg - 1];
        item[n] = (sp_hdb_item){.role = m->role,
                                .text = m->content,
                                .n_tok = sp_history_count(op->tok, m)};
        snprintf(item[n].id, SP_ID_BYTES, "%s", op->message);
        snprintf(item[n].parent, SP_ID_BYTES, "%s", to ? to->id : "");
        if (sp_history_keep_more(&item[n++].more, &op->op.a, m, (sp_str){"", 0}, (sp_str){"", 0}) !=
            SP_OK)
            return SP_FAIL(&op->op.diag, SP_NOMEM, "conversation");
    }
    item[n] = (sp_hdb_item){.role = answers, .text = op->said, .status = SP_HDB_RUNNING};
    snprintf(item[n].id, SP_ID_BYTES, "%s", op->answer);
    snprintf(item[n].parent, SP_ID_BYTES, "%s",
             asks        ? op->message
             : op->go_on ? to->parent
                         : to->id);
    SP_TRY(sp_hdb_grow(h->db, op->tenant, op->conv, item, n + 1, &op->op.diag));
    op->is_begun = true;
    return SP_OK;
}

/* The end of the path, from the user's last message on, stands among the new messages: it is what
 * is asked. */
static sp_err take_tail(sp_history_op *op, const sp_hdb_item *item, size_t *n)
{
    size_t from = *n ? *n - 1 : 0;
    while (from && !is_role(item[from].role, "user"))
        from--;
    sp_chat_msg *msg = sp_arena_alloc(&op->op.a, (op->n_msg + *n + 1) * sizeof *msg);
    if (!msg)
        return SP_FAIL(&op->op.diag, SP_NOMEM, "conversation");
    if (op->n_msg)
        memcpy(msg, op->msg, op->n_msg * sizeof *msg);
    op->msg = msg;
    for (size_t i = from; i < *n; i++)
        if (sp_history_message(&msg[op->n_msg++], &op->op.a, &item[i]) != SP_OK)
            return SP_FAIL(&op->op.diag, SP_NOMEM, "conversation");
    *n = from;
    return SP_OK;
}

/* Question and answer come into the tree; *item [*n]: what the prompt has before them. */
static sp_err begin_answer(sp_history *h, sp_history_op *op, sp_hdb_item **item, size_t *n)
{
    sp_hdb_conv conv;
    sp_hdb_item to;
    bool asks = op->n_msg > op->n_front, more;
    sp_hdb_path_args p = {.cap = SIZE_MAX};
    snprintf(op->answer, sizeof op->answer, asks ? "%.45s-a" : "%.47s", op->message);
    SP_TRY(open_tree(h, op, &conv));
    SP_TRY(find_answer(h, op));
    const char *parent = op->has_parent ? op->parent : conv.leaf;
    *n = 0;
    if (!parent[0] && !asks)
        return SP_FAIL(
            &op->op.diag, SP_INVAL,
            "messages: there is no message, and parent names none that could be answered");
    if (parent[0]) {
        sp_err err =
            sp_hdb_item_get(h->db, &op->op.a, op->tenant, op->conv, parent, &to, &op->op.diag);
        op->lost = err == SP_NOTFOUND;
        SP_TRY(err);
        p.to = to.id;
        SP_TRY(
            sp_hdb_path(h->db, &op->op.a, op->tenant, op->conv, &p, item, n, &more, &op->op.diag));
    }
    op->go_on = !asks && is_role(to.role, "assistant");
    if (op->go_on && to.status == SP_HDB_RUNNING)
        return SP_FAIL(&op->op.diag, SP_INVAL, "parent: the answer %.48s is still being written",
                       to.id);
    op->said = op->go_on ? to.text : (sp_str){"", 0};
    sp_err err = add_begun(h, op, parent[0] ? &to : NULL, asks);
    if (err == SP_INVAL) { /* has another server been asked the same meanwhile? */
        const sp_diag why = op->op.diag;
        SP_TRY(find_answer(h, op));
        op->op.diag = why;
    }
    SP_TRY(err);
    return asks ? SP_OK : take_tail(op, *item, n);
}

static sp_err find_items(sp_history *h, sp_history_op *op, sp_hdb_item **item, size_t *n)
{
    int64_t end;
    if (op->message[0])
        return begin_answer(h, op, item, n);
    SP_TRY(find_conversation(h, op, &end));
    return sp_hdb_items(h->db, &op->op.a, op->tenant, op->conv, end, item, n, &op->op.diag);
}

sp_err sp_history_prepare(sp_history *h, sp_history_op *op)
{
    sp_hdb_item *item = NULL;
    size_t n, n_new = 0, n_out = 0;
    if (sp_op_is_left(&op->op))
        return SP_FAIL(&op->op.diag, SP_CANCEL, "whoever asked has left");
    SP_TRY(find_items(h, op, &item, &n));
    for (size_t i = 0; i < op->n_msg; i++)
        n_new += sp_history_count(op->tok, &op->msg[i]);
    if (count_again(h, op, item, n) != SP_OK)
        return SP_FAIL(&op->op.diag, SP_NOMEM, "conversation");
    size_t for_recall = op->budget / RECALL_SHARE, start = window_start(item, n, n_new, op->budget);
    if (start) /* something must go: leave room for what is recalled of it */
        start = window_start(item, n, n_new + for_recall, op->budget);
    sp_chat_msg *msg = sp_arena_alloc(&op->op.a, (n + op->n_msg + 1) * sizeof *msg);
    if (!msg)
        return SP_FAIL(&op->op.diag, SP_NOMEM, "conversation");
    bool ends_asking = op->n_msg > op->n_front && (!op->message[0] || !op->go_on);
    for (size_t i = op->n_front; i < op->n_msg; i++)
        op->question = is_role(op->msg[i].role, "user") ? op->msg[i].content : op->question;
    if (start && ends_asking)
        SP_TRY(
            recall(h, op, item, n, item[start < n ? start : n - 1].pos + (start == n), for_recall));
    for (size_t i = 0; i < op->n_front; i++)
        msg[n_out++] = op->msg[i];
    for (size_t i = 0; i < n; i++)
        if ((i >= start || is_role(item[i].role, "system")) &&
            sp_history_message(&msg[n_out++], &op->op.a, &item[i]) != SP_OK)
            return SP_FAIL(&op->op.diag, SP_NOMEM, "conversation");
    for (size_t i = op->n_front; i < op->n_msg; i++)
        msg[n_out++] = op->msg[i];
    op->msg = msg;
    op->n_msg = n_out;
    return SP_OK;
}

/* What the answer goes on with, and what it came to say. */
static sp_err join_said(sp_str *out, sp_history_op *op, sp_str more)
{
    const sp_str *said = &op->begun->said;
    char *p = sp_arena_alloc(&op->op.a, said->n + more.n + 1);
    if (!p)
        return SP_FAIL(&op->op.diag, SP_NOMEM, "conversation");
    if (said->n)
        memcpy(p, said->p, said->n);
    if (more.n)
        memcpy(p + said->n, more.p, more.n);
    p[said->n + more.n] = 0;
    *out = (sp_str){p, said->n + more.n};
    return SP_OK;
}

/* Of an answer that was begun; of another nothing is done. */
sp_err sp_history_keep_draft(sp_history *h, sp_history_op *op)
{
    const sp_history_op *of = op->begun;
    sp_str text;
    if (!of->is_begun)
        return SP_OK;
    SP_TRY(join_said(&text, op, op->text));
    return sp_hdb_draft(h->db, of->tenant, of->conv, of->answer, text, &op->op.diag);
}

sp_err sp_history_finish(sp_history *h, sp_history_op *op, sp_diag *d)
{
    const sp_history_op *of = op->begun;
    sp_hdb_item it = {.role = op->msg[0].role,
                      .status = op->status,
                      .receipt = op->receipt,
                      .sources = op->sources};
    sp_chat_msg said = op->msg[0];
    if (!of->is_begun)
        return SP_OK;
    SP_TRY(join_said(&it.text, op, said.content));
    said.content = it.text;
    it.n_tok = sp_history_count(op->tok, &said);
    snprintf(it.id, sizeof it.id, "%s", of->answer);
    if (sp_history_keep_more(&it.more, &op->op.a, &said,
                             op->model ? (sp_str){op->model, strlen(op->model)} : (sp_str){"", 0},
                             op->reason) != SP_OK)
        return SP_FAIL(d, SP_NOMEM, "conversation");
    return sp_hdb_finish(h->db, of->tenant, of->conv, &it, d);
}
