/* Responses that are kept with their conversation: GET and DELETE /v1/responses/{id}, its
 * input_items, and cancel. */
#include "api/response.h"

#include "api/params.h"
#include "api/response_int.h"
#include "base/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_LIST = 100, LIST = 20 };

typedef enum kind { GET, INPUT, DROP, CANCEL } kind;

typedef struct call {
    const sp_app *app;
    sp_history_op *op;
    kind kind;
    int64_t limit;
    bool ascending;
    char after[2 * SP_ID_BYTES];
} call;

/* --- items ------------------------------------------------------------------------------------ */

static void put_output(sp_buf *out, const char *id, const sp_chat_msg *m)
{
    sp_buf_puts(out, "{\"id\":");
    sp_response_put_id(out, "fco", id, 0);
    sp_buf_puts(out, ",\"type\":\"function_call_output\",\"status\":\"completed\",\"call_id\":");
    sp_buf_json_str(out, m->call_id.p, m->call_id.n);
    sp_buf_puts(out, ",\"output\":");
    sp_buf_json_str(out, m->content.p, m->content.n);
    sp_buf_putc(out, '}');
}

static void put_text(sp_buf *out, const char *id, size_t index, const sp_chat_msg *m, bool answer)
{
    sp_buf part = {0};
    char role[16];
    snprintf(role, sizeof role, "%.*s", (int)m->role.n, m->role.p);
    sp_buf_printf(&part,
                  answer ? "{\"type\":\"output_text\",\"annotations\":[],\"logprobs\":[],\"text\":"
                         : "{\"type\":\"input_text\",\"text\":");
    sp_buf_json_str(&part, m->content.p, m->content.n);
    sp_buf_putc(&part, '}');
    sp_response_put_message(out, id, index, "completed", role, sp_buf_str(&part));
    out->failed = out->failed || part.failed;
    sp_buf_fini(&part);
}

void sp_response_put_kept(sp_buf *out, const char *id, const sp_chat_msg *m)
{
    bool answer = m->role.n == 9 && memcmp(m->role.p, "assistant", 9) == 0;
    size_t n = 0;
    if (m->call_id.n) {
        put_output(out, id, m);
        return;
    }
    if (m->reasoning.n)
        sp_response_put_reasoning(out, id, n++, m->reasoning, true);
    if (m->content.n || !m->n_call) {
        sp_buf_puts(out, n ? "," : "");
        put_text(out, id, n++, m, answer);
    }
    for (size_t i = 0; i < m->n_call; i++) {
        sp_buf_puts(out, n ? "," : "");
        sp_response_put_call(out, id, n++, &m->call[i], true);
    }
}

static sp_err put_kept(sp_buf *out, const call *c, size_t at, const char *id)
{
    sp_history_op *op = c->op;
    sp_chat_msg m;
    if (sp_history_message(&m, &op->op.a, &op->item[at]) != SP_OK)
        return SP_NOMEM;
    sp_buf_puts(out, out->len ? "," : "");
    sp_response_put_kept(out, id, &m);
    return out->failed ? SP_NOMEM : SP_OK;
}

/* --- answers ---------------------------------------------------------------------------------- */

/* The object as it was answered. Of a response by an earlier version, or by chat completions, the
 * messages are kept, but neither what was asked nor what it cost. */
static sp_err put_response(sp_buf *out, const call *c)
{
    const sp_history_op *op = c->op;
    if (op->object.n) {
        sp_buf_put(out, op->object.p, op->object.n);
        return SP_OK;
    }
    const char *name =
        op->n_item ? sp_history_model(&c->op->op.a, &op->item[op->n_item - 1]) : NULL;
    const char *usual = sp_models_find(c->app->models, NULL); /* what was kept before names were */
    name = name ? name : usual ? usual : "";
    sp_buf items = {0};
    sp_err err = op->n_item ? put_kept(&items, c, op->n_item - 1, op->response) : SP_OK;
    sp_buf_printf(out,
                  "{\"id\":\"%s\",\"object\":\"response\",\"created_at\":%lld,\"status\":"
                  "\"completed\",\"background\":false,\"model\":",
                  op->response, op->n_item ? (long long)op->item[op->n_item - 1].created : 0);
    sp_buf_json_str(out, name, strlen(name));
    sp_buf_printf(out,
                  ",\"error\":null,\"incomplete_details\":null,\"instructions\":null,\"metadata\":{"
                  "},\"parallel_tool_calls\":true,\"tool_choice\":\"auto\","
                  "\"tools\":[],\"temperature\":null,\"top_p\":null,\"store\":true,"
                  "\"conversation\":{\"id\":\"%s\"},\"output\":[%s],\"usage\":null}",
                  op->conv, sp_buf_str(&items));
    sp_buf_fini(&items);
    return err;
}

void sp_response_keep(const sp_response *r, const sp_turn *t, const char *object, size_t n)
{
    const sp_ask *q = sp_turn_ask(t);
    sp_diag d = {0};
    if (!sp_turn_conversation(t) || !r->on->env.history || n == 0)
        return;
    sp_history_op *op = sp_history_op_new(r->on->env.history, SP_HISTORY_OBJECT, q->tenant);
    if (!op)
        return;
    snprintf(op->response, sizeof op->response, "%s", q->id);
    op->object = (sp_str){sp_arena_strndup(&op->op.a, object, n), n};
    if (!op->object.p || sp_op_submit(&op->op, NULL, NULL, &d) != SP_OK)
        sp_log(SP_LOG_WARN, "response %s is kept without its object: %s", q->id,
               d.code ? d.msg : "no memory");
    sp_op_put(&op->op);
}

/* The item behind the one that is named; n: there is no such item. */
static size_t find_after(const json_t *list, const call *c)
{
    size_t n = json_array_size(list), i = 0;
    while (i < n && strcmp(json_string_value(json_object_get(
                               json_array_get(list, c->ascending ? i : n - 1 - i), "id")),
                           c->after) != 0)
        i++;
    return i < n ? i + 1 : n + 1;
}

static void put_page(sp_http_reply *reply, const json_t *list, const call *c)
{
    size_t n = json_array_size(list), from = c->after[0] ? find_after(list, c) : 0,
           end = from + (size_t)c->limit < n ? from + (size_t)c->limit : n;
    const char *first = "", *last = "";
    if (from > n) {
        reply->status = 400;
        sp_api_error(&reply->body, 400, "after is not an item of this response's input", "after",
                     NULL);
        return;
    }
    sp_buf_puts(&reply->body, "{\"object\":\"list\",\"data\":[");
    for (size_t i = from; i < end; i++) {
        const json_t *item = json_array_get(list, c->ascending ? i : n - 1 - i);
        char *text = json_dumps(item, JSON_COMPACT);
        last = json_string_value(json_object_get(item, "id"));
        first = i == from ? last : first;
        sp_buf_printf(&reply->body, "%s%s", i > from ? "," : "", text ? text : "null");
        free(text);
    }
    sp_buf_printf(&reply->body, "],\"first_id\":\"%s\",\"last_id\":\"%s\",\"has_more\":%s}", first,
                  last, end < n ? "true" : "false");
}

/* Everything before the answer. */
static sp_err put_input(sp_http_reply *reply, const call *c)
{
    const sp_history_op *op = c->op;
    sp_buf all = {0}, list = {0};
    sp_err err = SP_OK;
    for (size_t i = 0; i + 1 < op->n_item && err == SP_OK; i++)
        err = put_kept(&all, c, i, op->item[i].id);
    sp_buf_printf(&list, "[%s]", sp_buf_str(&all));
    json_t *items = err == SP_OK && !list.failed
                        ? json_loadb(sp_buf_str(&list), list.len, JSON_ALLOW_NUL, NULL)
                        : NULL;
    if (items)
        put_page(reply, items, c);
    json_decref(items);
    sp_buf_fini(&list);
    sp_buf_fini(&all);
    return items ? SP_OK : SP_NOMEM;
}

static sp_err task_start(void *arg, sp_http_reply *reply)
{
    const call *c = arg;
    sp_history_op *op = c->op;
    if (!sp_op_is_done(&op->op))
        return SP_AGAIN;
    if (!op->op.diag.code && c->kind == CANCEL)
        (void)SP_FAIL(&op->op.diag, SP_INVAL,
                      "only a response in the background can be cancelled, and this server has "
                      "none: close the connection instead");
    if (!sp_api_reply(reply, &op->op.diag))
        return SP_OK;
    if (c->kind == DROP) {
        sp_buf_printf(&reply->body, "{\"id\":\"%s\",\"object\":\"response\",\"deleted\":true}",
                      op->response);
        return SP_OK;
    }
    return c->kind == GET ? put_response(&reply->body, c) : put_input(reply, c);
}

static void task_close(void *arg)
{
    call *c = arg;
    sp_op_put((sp_op *)c->op);
    sp_mem_free(c);
}

/* --- requests --------------------------------------------------------------------------------- */

/* /v1/responses/ID[/input_items|/cancel] */
static bool find_kind(const sp_api_req *req, kind *out, char id[SP_ID_BYTES])
{
    static const struct {
        const char *method, *tail;
        kind kind;
    } of[] = {{"GET", "", GET},
              {"GET", "/input_items", INPUT},
              {"DELETE", "", DROP},
              {"POST", "/cancel", CANCEL}};
    const char *p = req->path + strlen("/v1/responses/");
    size_t n = strcspn(p, "/");
    if (n == 0 || n >= SP_ID_BYTES)
        return false;
    snprintf(id, SP_ID_BYTES, "%.*s", (int)n, p);
    for (size_t i = 0; i < sizeof of / sizeof of[0]; i++)
        if (strcmp(of[i].method, req->method) == 0 && strcmp(of[i].tail, p + n) == 0) {
            *out = of[i].kind;
            return true;
        }
    return false;
}

/* A list is latest first, as OpenAI's is. */
static sp_err read_query(call *c, const sp_api_req *req, const char **bad, sp_diag *d)
{
    const char *order = sp_api_query(req, "order"), *after = sp_api_query(req, "after");
    SP_TRY(sp_params_query(req->http,
                           c->kind == INPUT ? " limit order after "
                           : c->kind == GET ? " include "
                                            : " ",
                           bad, d));
    *bad = "limit";
    c->limit = LIST;
    SP_TRY(sp_params_query_int(req->http, "limit", &c->limit, 1, MAX_LIST, d));
    *bad = "order";
    if (order && strcmp(order, "asc") != 0 && strcmp(order, "desc") != 0)
        return SP_FAIL(d, SP_INVAL, "order must be asc or desc");
    c->ascending = order && strcmp(order, "asc") == 0;
    *bad = "after";
    if (after && (!*after || strlen(after) >= sizeof c->after))
        return SP_FAIL(d, SP_INVAL, "after is not the id of an item");
    snprintf(c->after, sizeof c->after, "%s", after ? after : "");
    *bad = NULL;
    return SP_OK;
}

sp_err sp_api_response(sp_app *app, const sp_api_req *req, const char *tenant, sp_http_task *task,
                       char bad[64], sp_diag *d)
{
    kind what;
    char id[SP_ID_BYTES];
    const char *wrong = NULL;
    bad[0] = 0;
    if (!find_kind(req, &what, id))
        return SP_FAIL(d, SP_NOTFOUND, "responses: %.10s is not possible at this path",
                       req->method);
    if (!app->shared->history)
        return SP_FAIL(d, SP_NOTFOUND,
                       "this server keeps no responses; it was started without --history");
    call *c = sp_mem_alloc(sizeof *c);
    if (c)
        c->op = sp_history_op_new(app->shared->history,
                                  what == DROP ? SP_HISTORY_DROP : SP_HISTORY_RESPONSE, tenant);
    if (!c || !c->op) {
        sp_mem_free(c);
        return SP_FAIL(d, SP_NOMEM, "request");
    }
    c->app = app;
    c->kind = what;
    memcpy(c->op->response, id, sizeof id);
    sp_err err = read_query(c, req, &wrong, d);
    snprintf(bad, 64, "%.60s", err != SP_OK && wrong ? wrong : "");
    return sp_work_operate(task, err, &c->op->op, req->work,
                           &(sp_http_task){c, task_start, NULL, task_close}, d);
}
