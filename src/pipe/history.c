#include "pipe/history.h"

#include "base/clock.h"
#include "base/log.h"
#include "pipe/embed.h"
#include "pipe/feedback.h"
#include "pipe/history_port.h"
#include "pipe/models.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    MSG_TOK = 8,      /* a message's frame in the template, about */
    RECALL_SHARE = 8, /* recalled turns get 1/8 of the prompt */
    RECALL_MAX = 8,
    RECALL_FROM = 32, /* candidates, of which other branches have some */
    MOST_OWED = 64,   /* so many may end while PostgreSQL is away */
    RENEWALS = 3      /* in the time of a lease */
};

struct sp_history {
    sp_history_cfg cfg;
    sp_desk *desk;
    sp_hdb *db; /* owner: the desk's thread */
    int64_t t_freeze;
    uint64_t t_lease;  /* when the lease was last seen to, in ns */
    bool is_away;      /* PostgreSQL did not answer then */
    sp_history_op *owed[MOST_OWED]; /* ends of answers that PostgreSQL has not taken yet */
    size_t n_owed;
    sp_metric *recall_s, *recalled, *ops;
};

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
        found = err != SP_CANCEL && err != SP_UNSUP; /* an item that cannot be embedded keeps zeros */
        if (found && err != SP_LIMIT && sp_hdb_set_vector(h->db, item.seq, vec, NULL) != SP_OK)
            found = false;
    }
    sp_arena_fini(&a);
    return found;
}

/* Without a vocabulary: about as many as most have. Whoever uses the text counts it again. */
static size_t count_tok(const sp_tok *tok, sp_str text)
{
    sp_ids ids = {0};
    size_t n = text.n / 3;
    if (tok)
        n = sp_tok_encode(tok, &ids, text.p, text.n, SP_SPECIAL_NONE, NULL) == SP_OK ? ids.n : text.n;
    sp_ids_fini(&ids);
    return n + MSG_TOK;
}

/* --- what a message holds beside its text ------------------------------------------------------- */

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

/* {"model", "error", "name", "reasoning", "call_id", "calls": [[id, name, arguments]]}; empty where
 * there is nothing. model: which gave it. */
static sp_err keep_more(sp_str *out, sp_arena *a, const sp_chat_msg *m, sp_str model, sp_str error)
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
    return json_is_string(v) ? (sp_str){json_string_value(v), json_string_length(v)} : (sp_str){"", 0};
}

const char *sp_history_model(sp_arena *a, const sp_hdb_item *item)
{
    json_t *more = item->more.n ? json_loadb(item->more.p, item->more.n, JSON_ALLOW_NUL, NULL) : NULL;
    const char *name = json_string_value(json_object_get(more, "model"));
    name = name ? sp_arena_strndup(a, name, strlen(name)) : NULL;
    json_decref(more);
    return name;
}

sp_err sp_history_message(sp_chat_msg *out, sp_arena *a, const sp_hdb_item *item)
{
    sp_chat_msg m = {.role = item->role, .content = item->text};
    json_t *more = item->more.n ? json_loadb(item->more.p, item->more.n, JSON_ALLOW_NUL, NULL) : NULL;
    const json_t *calls = json_object_get(more, "calls");
    sp_chat_call *call = sp_arena_alloc(a, (json_array_size(calls) + 1) * sizeof *call);
    for (size_t i = 0; call && i < json_array_size(calls); i++) {
        const json_t *v = json_array_get(calls, i);
        call[m.n_call++] = (sp_chat_call){str_of(json_array_get(v, 0)), str_of(json_array_get(v, 1)), str_of(json_array_get(v, 2))};
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

static size_t count_message(const sp_tok *tok, const sp_chat_msg *m)
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
        item[i].n_tok = count_message(op->tok, &m);
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
    bool has_vec = sp_embed(h->cfg.engine, h->cfg.vocab, vec, question, last->content.n, NULL) == SP_OK;
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
        item[n] =
            (sp_hdb_item){.role = m->role, .text = m->content, .n_tok = count_message(op->tok, m)};
        snprintf(item[n].id, SP_ID_BYTES, "%s", op->message);
        snprintf(item[n].parent, SP_ID_BYTES, "%s", to ? to->id : "");
        if (keep_more(&item[n++].more, &op->op.a, m, (sp_str){"", 0}, (sp_str){"", 0}) != SP_OK)
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

static sp_err run_prepare(sp_history *h, sp_history_op *op)
{
    sp_hdb_item *item = NULL;
    size_t n, n_new = 0, n_out = 0;
    if (sp_op_is_left(&op->op))
        return SP_FAIL(&op->op.diag, SP_CANCEL, "whoever asked has left");
    SP_TRY(find_items(h, op, &item, &n));
    for (size_t i = 0; i < op->n_msg; i++)
        n_new += count_message(op->tok, &op->msg[i]);
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
        if ((i >= start || is_role(item[i].role, "system")) && sp_history_message(&msg[n_out++], &op->op.a, &item[i]) != SP_OK)
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
static sp_err run_draft(sp_history *h, sp_history_op *op)
{
    const sp_history_op *of = op->begun;
    sp_str text;
    if (!of->is_begun)
        return SP_OK;
    SP_TRY(join_said(&text, op, op->text));
    return sp_hdb_draft(h->db, of->tenant, of->conv, of->answer, text, &op->op.diag);
}

static sp_err run_finish(sp_history *h, sp_history_op *op, sp_diag *d)
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
    it.n_tok = count_message(op->tok, &said);
    snprintf(it.id, sizeof it.id, "%s", of->answer);
    if (keep_more(&it.more, &op->op.a, &said,
                  op->model ? (sp_str){op->model, strlen(op->model)} : (sp_str){"", 0},
                  op->reason) != SP_OK)
        return SP_FAIL(d, SP_NOMEM, "conversation");
    return sp_hdb_finish(h->db, of->tenant, of->conv, &it, d);
}

/* Where PostgreSQL is away the end waits for it. */
static sp_err finish_or_owe(sp_history *h, sp_history_op *op)
{
    sp_err err = run_finish(h, op, &op->op.diag);
    if (err == SP_AGAIN && h->n_owed < MOST_OWED) {
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
        sp_err err = left ? SP_AGAIN : run_finish(h, op, &d);
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
        op->item[i] = (sp_hdb_item){.role = op->msg[i].role, .text = op->msg[i].content, .n_tok = count_message(op->tok, &op->msg[i])};
        bool answers = op->model && i + 1 == op->n_msg; /* the answer is the last */
        if (keep_more(&op->item[i].more, &op->op.a, &op->msg[i],
                      answers ? (sp_str){op->model, strlen(op->model)} : (sp_str){"", 0},
                      (sp_str){"", 0}) != SP_OK)
            return SP_FAIL(&op->op.diag, SP_NOMEM, "conversation");
    }
    return op->n_msg
               ? sp_hdb_append(h->db, op->tenant, op->conv, op->item, op->n_msg, op->response[0] ? op->response : NULL, &op->op.diag)
               : SP_OK;
}

static sp_err run_search(sp_history *h, sp_history_op *op)
{
    int8_t vec[SP_HDB_DIM];
    sp_hdb_conv info;
    uint64_t t = sp_clock_ns();
    SP_TRY(sp_hdb_get(h->db, &op->op.a, op->tenant, op->conv, &info, &op->op.diag));
    bool has_vec = sp_embed(h->cfg.engine, h->cfg.vocab, vec, op->query, strlen(op->query), NULL) == SP_OK;
    op->ms_vector = sp_clock_ms(t);
    sp_err err = sp_hdb_search(h->db, &op->op.a, op->tenant, op->conv, INT64_MAX, op->query, has_vec ? vec : NULL, op->cap,
                               &op->item, &op->n_item, &op->op.diag);
    sp_metric_observe(h->recall_s, (double)(sp_clock_ns() - t) * 1e-9);
    return err;
}

/* Pages in RAM, then on disk and in the object store, then the text: whatever fails on the way, the conversation is
 * still there to be deleted again. No turn comes between: turns begin on this thread. */
static sp_err forget(sp_history *h, const char *tenant, const char *conv, size_t *n_page,
                     size_t *n_conv, sp_diag *d)
{
    SP_TRY(sp_feedback_forget(h->cfg.feedback, tenant, conv ? conv : "", d));
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
    return sp_hdb_items(h->db, &op->op.a, op->tenant, op->conv, end, &op->item, &op->n_item, &op->op.diag);
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
    SP_TRY(sp_hdb_create(h->db, op->tenant, op->conv, op->metadata ? op->metadata : "{}", false, &op->op.diag));
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
        err = sp_hdb_items(h->db, &op->op.a, op->tenant, op->conv, INT64_MAX, &op->item, &op->n_item, &op->op.diag);
        break;
    case SP_HISTORY_SEARCH: err = run_search(h, op); break;
    case SP_HISTORY_PREPARE: return run_prepare(h, op);
    case SP_HISTORY_DRAFT: return run_draft(h, op);
    case SP_HISTORY_FINISH: return finish_or_owe(h, op);
    case SP_HISTORY_RESPONSE: return run_response(h, op);
    case SP_HISTORY_OBJECT: return sp_hdb_set_object(h->db, op->tenant, op->response, op->object.p, &op->op.diag);
    case SP_HISTORY_DROP: return run_drop(h, op);
    case SP_HISTORY_ADD:
    case SP_HISTORY_SAVE: err = append_msg(h, op); break;
    case SP_HISTORY_GET: break;
    }
    return err == SP_OK ? sp_hdb_get(h->db, &op->op.a, op->tenant, op->conv, &op->info, &op->op.diag) : err;
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
        err = sp_models_forget(h->cfg.models, due.tenant, due.conv[0] ? due.conv : NULL, &n_page,
                               &d);
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
    h->recalled = sp_metric_counter(cfg->metrics, "sparing_history_recalled_total", "Old turns put before a question.", NULL);
    h->ops = sp_metric_counter(cfg->metrics, "sparing_history_operations_total", "Operations on conversations.", NULL);
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
