#include "api/conversation_int.h"

#include "api/known.h"

#include <stdio.h>
#include <string.h>

enum {
    MAX_QUERY = 4096,
    MAX_FOUND = 50,
    MAX_LIST = 10000,
    MAX_TITLE = 512,
    MAX_SETTINGS = 64 << 10,
    MAX_GRACE = 60,
    PAGE = 50
};

typedef struct call {
    sp_history_op *op;
    int64_t limit; /* of a list, as the next two */
    bool descending;
    char after[SP_ID_BYTES];
} call;

/* --- answers ---------------------------------------------------------------------------------- */

/* Items [first, first + n) in the order asked for. */
static void put_items(sp_buf *out, const call *c, size_t first, size_t n)
{
    const sp_history_op *op = c->op;
    const char *head = "", *tail = "";
    sp_buf_puts(out, "{\"object\":\"list\",\"data\":[");
    for (size_t i = first; i < first + n; i++) {
        const sp_hdb_item *it = &op->item[c->descending ? op->n_item - 1 - i : i];
        sp_buf_puts(out, i > first ? "," : "");
        sp_conversation_put_item(out, &c->op->op.a, it, op->kind == SP_HISTORY_SEARCH);
        tail = it->id;
        head = i > first ? head : tail;
    }
    sp_buf_puts(out, "],");
    if (op->kind == SP_HISTORY_SEARCH)
        sp_buf_printf(out, "\"ms\":{\"all\":%.3f,\"vector\":%.3f},", op->op.ms, op->ms_vector);
    sp_buf_printf(out, "\"first_id\":\"%s\",\"last_id\":\"%s\",\"has_more\":%s}", head, tail,
                  first + n < op->n_item ? "true" : "false");
}

static void put_page(sp_http_reply *reply, const call *c)
{
    const sp_history_op *op = c->op;
    size_t first = 0, n = op->n_item;
    for (size_t i = 0; c->after[0] && i < op->n_item && !first; i++)
        if (strcmp(op->item[c->descending ? op->n_item - 1 - i : i].id, c->after) == 0)
            first = i + 1;
    if (c->after[0] && !first) {
        reply->status = 400;
        sp_api_error(&reply->body, 400, "after is not an item of this conversation", "after", NULL);
        return;
    }
    n = op->n_item - first;
    put_items(&reply->body, c, first, n < (size_t)c->limit ? n : (size_t)c->limit);
}

static sp_err task_start(void *arg, sp_http_reply *reply)
{
    const call *c = arg;
    sp_history_op *op = c->op;
    if (!sp_op_is_done(&op->op))
        return SP_AGAIN;
    if (op->lost && op->kind == SP_HISTORY_CHANGE) {
        reply->status = 409;
        reply->type = "application/json";
        sp_api_error(&reply->body, 409, op->op.diag.msg, "leaf", "leaf_not_found");
        return SP_OK;
    }
    if (op->cursor) { /* a page from nowhere, not a conversation that is not there */
        reply->status = 400;
        reply->type = "application/json";
        sp_api_error(&reply->body, 400, op->op.diag.msg, op->cursor, NULL);
        return SP_OK;
    }
    if (!sp_api_reply(reply, &op->op.diag))
        return SP_OK;
    switch (op->kind) {
    case SP_HISTORY_ITEMS: put_page(reply, c); break;
    case SP_HISTORY_ADD:
    case SP_HISTORY_SEARCH: put_items(&reply->body, c, 0, op->n_item); break;
    case SP_HISTORY_LIST: sp_conversation_put_list(&reply->body, op, (size_t)c->limit); break;
    case SP_HISTORY_EXPORT:
        reply->type = op->markdown ? "text/markdown; charset=utf-8" : "application/json";
        sp_http_reply_header(reply, "Content-Disposition",
                             op->markdown ? "attachment; filename=\"conversations.md\""
                                          : "attachment; filename=\"conversations.json\"");
        reply->body = op->file; /* it may be large: not a second time */
        op->file = (sp_buf){0};
        break;
    case SP_HISTORY_IMPORT: sp_buf_put(&reply->body, sp_buf_str(&op->file), op->file.len); break;
    case SP_HISTORY_PATH: sp_conversation_put_path(&reply->body, op); break;
    case SP_HISTORY_DELETE:
        sp_buf_printf(&reply->body,
                      "{\"id\":\"%s\",\"object\":\"conversation%s.deleted\",\"deleted\":true,"
                      "\"pages\":%zu,\"grace_s\":%lld}",
                      op->message[0] ? op->message : op->conv, op->message[0] ? ".item" : "",
                      op->n_page, (long long)op->grace_s);
        break;
    default:
        sp_conversation_put(&reply->body, &op->info);
        sp_buf_putc(&reply->body, '}');
    }
    return SP_OK;
}

static void task_close(void *arg)
{
    call *c = arg;
    sp_op_put((sp_op *)c->op);
    sp_mem_free(c);
}

/* --- requests --------------------------------------------------------------------------------- */

/* Letters, digits, - and _: it stands in addresses and in JSON as it is. */
static bool is_id(const char *id)
{
    size_t n = strlen(id);
    return n >= 8 && n < 40 &&
           strspn(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") == n;
}

/* What a body may say beside items. */
typedef struct said {
    const json_t *metadata, *items, *settings;
    const char *q, *id, *title, *leaf;
    bool pinned;
    int64_t limit;
} said;

static sp_err read_table(const sp_history_op *op, said *b, const json_t *j, const char **bad,
                         sp_diag *d)
{
    const sp_param meta = {"metadata", SP_P_JSON, &b->metadata, 0, 0},
                   list = {"items", SP_P_JSON, &b->items, 0, 0};
    const sp_param title = {"title", SP_P_STR, &b->title, 0, 0},
                   pinned = {"pinned", SP_P_BOOL, &b->pinned, 0, 0},
                   settings = {"settings", SP_P_JSON, &b->settings, 0, 0};
    const sp_param create[] = {meta, list, title, pinned, settings, {"id", SP_P_STR, &b->id, 0, 0}};
    const sp_param update[] = {meta, title, pinned, settings, {"leaf", SP_P_STR, &b->leaf, 0, 0}},
                   add[] = {list};
    const sp_param search[] = {{"query", SP_P_STR, &b->q, 0, 0},
                               {"limit", SP_P_INT, &b->limit, 1, MAX_FOUND}};
    switch (op->kind) {
    case SP_HISTORY_CREATE: return sp_params_read(j, create, 6, bad, d);
    case SP_HISTORY_CHANGE: return sp_params_read(j, update, 5, bad, d);
    case SP_HISTORY_ADD: return sp_params_read(j, add, 1, bad, d);
    case SP_HISTORY_SEARCH: return sp_params_read(j, search, 2, bad, d);
    default: return sp_params_read(j, NULL, 0, bad, d);
    }
}

static sp_err keep(const char **out, sp_arena *a, const char *text, sp_diag *d)
{
    if (text && !(*out = sp_arena_strndup(a, text, strlen(text))))
        return SP_FAIL(d, SP_NOMEM, "request");
    return SP_OK;
}

static sp_err read_patch(sp_history_op *op, const said *b, const json_t *j, const char **bad,
                         sp_diag *d)
{
    sp_hdb_patch *p = &op->patch;
    sp_arena *a = &op->op.a;
    *bad = "metadata";
    SP_TRY(sp_params_metadata(&p->metadata, a, b->metadata, "metadata", true, d));
    *bad = "title";
    if (b->title && (!*b->title || strlen(b->title) > MAX_TITLE))
        return SP_FAIL(d, SP_INVAL, "title must have 1 to %d bytes", MAX_TITLE);
    SP_TRY(keep(&p->title, a, b->title, d));
    *bad = "settings";
    if (b->settings && !json_is_object(b->settings))
        return SP_FAIL(d, SP_INVAL, "settings must be an object");
    if (b->settings)
        SP_TRY(sp_params_keep(&p->settings, a, b->settings, d));
    if (p->settings && strlen(p->settings) > MAX_SETTINGS)
        return SP_FAIL(d, SP_INVAL, "settings has more than %d bytes", MAX_SETTINGS);
    *bad = "leaf";
    SP_TRY(keep(&p->leaf, a, b->leaf, d));
    if (json_is_boolean(json_object_get(j, "pinned"))) {
        bool *pinned = sp_arena_alloc(a, sizeof *pinned);
        if (!pinned)
            return SP_FAIL(d, SP_NOMEM, "request");
        *pinned = b->pinned;
        p->pinned = pinned;
    }
    *bad = "title";
    if (op->kind == SP_HISTORY_CHANGE && !p->metadata && !p->title && !p->settings && !p->leaf &&
        !p->pinned)
        return SP_FAIL(
            d, SP_INVAL,
            "nothing is changed: one of title, pinned, leaf, settings and metadata is needed");
    return SP_OK;
}

static sp_err read_body(const sp_app *app, sp_history_op *op, const json_t *j, const char **bad,
                        sp_diag *d)
{
    said b = {.limit = 8};
    SP_TRY(read_table(op, &b, j, bad, d));
    SP_TRY(read_patch(op, &b, j, bad, d));
    op->metadata = op->patch.metadata;
    *bad = "id";
    if (b.id && !is_id(b.id))
        return SP_FAIL(d, SP_INVAL, "id must be 8 to 39 letters, digits, - and _");
    if (b.id)
        snprintf(op->conv, sizeof op->conv, "%s", b.id);
    *bad = "query";
    if (op->kind == SP_HISTORY_SEARCH && (!b.q || !*b.q || strlen(b.q) > MAX_QUERY))
        return SP_FAIL(d, SP_INVAL, "query must be a string of 1 to %d bytes", MAX_QUERY);
    SP_TRY(keep(&op->query, &op->op.a, b.q, d));
    op->cap = (size_t)b.limit;
    *bad = "items";
    if (b.items || op->kind == SP_HISTORY_ADD)
        SP_TRY(sp_api_messages(&op->msg, &op->n_msg, &op->op.a, b.items, app, NULL, "items", d));
    *bad = NULL;
    return SP_OK;
}

/* Which operation a path and a method ask for. An id in the path is %. */
static bool find_kind(const sp_api_req *req, sp_history_kind *kind, char id[SP_ID_BYTES],
                      char message[SP_ID_BYTES])
{
    static const char base[] = "/v1/conversations";
    static const struct {
        const char *method, *path;
        sp_history_kind kind;
    } of[] = {{"POST", "", SP_HISTORY_CREATE},
              {"GET", "", SP_HISTORY_LIST},
              {"GET", "/export", SP_HISTORY_EXPORT},
              {"POST", "/import", SP_HISTORY_IMPORT},
              {"GET", "/%", SP_HISTORY_GET},
              {"POST", "/%", SP_HISTORY_CHANGE},
              {"PATCH", "/%", SP_HISTORY_CHANGE},
              {"DELETE", "/%", SP_HISTORY_DELETE},
              {"POST", "/%/restore", SP_HISTORY_RESTORE},
              {"GET", "/%/items", SP_HISTORY_ITEMS},
              {"POST", "/%/items", SP_HISTORY_ADD},
              {"DELETE", "/%/items/%", SP_HISTORY_DELETE},
              {"POST", "/%/items/%/restore", SP_HISTORY_RESTORE},
              {"POST", "/%/search", SP_HISTORY_SEARCH}};
    for (size_t i = 0; i < sizeof of / sizeof of[0]; i++) {
        const char *p = req->path + sizeof base - 1, *q = of[i].path;
        char *to = id;
        id[0] = message[0] = 0;
        for (; *q && *p; q++) {
            size_t n = *q == '%' ? strcspn(p, "/") : 1;
            if (*q == '%' ? n == 0 || n >= SP_ID_BYTES : *q != *p)
                break;
            if (*q == '%') {
                memcpy(to, p, n);
                to[n] = 0;
                to = message;
            }
            p += n;
        }
        *kind = of[i].kind;
        if (!*q && !*p && strcmp(of[i].method, req->method) == 0)
            return true;
    }
    return false;
}

static sp_err read_id(char out[SP_ID_BYTES], const char *name, const char *id, const char **bad,
                      sp_diag *d)
{
    *bad = name;
    if (id && (!*id || strlen(id) >= SP_ID_BYTES))
        return SP_FAIL(d, SP_INVAL, "%s is not the id of an item", name);
    snprintf(out, SP_ID_BYTES, "%s", id ? id : "");
    *bad = NULL;
    return SP_OK;
}

/* ?leaf=ID&before=ID&limit=N: a page of a path through the tree, each message with what is known of
 * it. before=end: the last ones. */
static sp_err read_path(call *c, const sp_api_req *req, const char **bad, sp_diag *d)
{
    const char *leaf = sp_api_query(req, "leaf"), *before = sp_api_query(req, "before");
    sp_history_op *op = c->op;
    char id[SP_ID_BYTES];
    op->kind = SP_HISTORY_PATH;
    c->limit = PAGE;
    SP_TRY(sp_params_query(req->http, " leaf before limit ", bad, d));
    *bad = "limit";
    SP_TRY(sp_params_query_int(req->http, "limit", &c->limit, 1, MAX_LIST, d));
    SP_TRY(read_id(id, "leaf", leaf, bad, d));
    SP_TRY(read_id(id, "before", before, bad, d));
    op->path = (sp_hdb_path_args){.below = true, .cap = (size_t)c->limit};
    SP_TRY(keep(&op->path.to, &op->op.a, leaf, d));
    return before && strcmp(before, "end") != 0 ? keep(&op->path.before, &op->op.a, before, d)
                                                : SP_OK;
}

static sp_err read_list(call *c, const sp_api_req *req, const char **bad, sp_diag *d)
{
    const char *q = sp_api_query(req, "query");
    c->limit = PAGE;
    SP_TRY(sp_params_query(req->http, " limit after query ", bad, d));
    *bad = "limit";
    SP_TRY(sp_params_query_int(req->http, "limit", &c->limit, 1, MAX_LIST, d));
    *bad = "query";
    if (q && strlen(q) > MAX_QUERY)
        return SP_FAIL(d, SP_INVAL, "query has more than %d bytes", MAX_QUERY);
    c->op->cap = (size_t)c->limit + 1; /* one more: is there a next page? */
    SP_TRY(keep(&c->op->query, &c->op->op.a, q && *q ? q : NULL, d));
    return read_id(c->op->after, "after", sp_api_query(req, "after"), bad, d);
}

/* ?format=md|json&id=ID. */
static sp_err read_export(call *c, const sp_api_req *req, const char **bad, sp_diag *d)
{
    const char *format = sp_api_query(req, "format");
    SP_TRY(sp_params_query(req->http, " format id ", bad, d));
    *bad = "format";
    if (format && strcmp(format, "md") != 0 && strcmp(format, "json") != 0)
        return SP_FAIL(d, SP_INVAL, "format must be md or json");
    c->op->markdown = format && strcmp(format, "md") == 0;
    return read_id(c->op->conv, "id", sp_api_query(req, "id"), bad, d);
}

/* ?limit=N&order=asc|desc&after=ID of a list as OpenAI has it; no other operation takes a query,
 * but a removal its grace. */
static sp_err read_query(call *c, const sp_api_req *req, const char **bad, sp_diag *d)
{
    const char *order = sp_api_query(req, "order");
    if (c->op->kind == SP_HISTORY_LIST)
        return read_list(c, req, bad, d);
    if (c->op->kind == SP_HISTORY_EXPORT)
        return read_export(c, req, bad, d);
    if (c->op->kind == SP_HISTORY_ITEMS &&
        (sp_api_query(req, "leaf") || sp_api_query(req, "before")))
        return read_path(c, req, bad, d);
    SP_TRY(sp_params_query(req->http,
                           c->op->kind == SP_HISTORY_ITEMS    ? " limit order after "
                           : c->op->kind == SP_HISTORY_DELETE ? " grace "
                                                              : " ",
                           bad, d));
    *bad = "grace";
    SP_TRY(sp_params_query_int(req->http, "grace", &c->op->grace_s, 1, MAX_GRACE, d));
    *bad = "limit";
    c->limit = MAX_LIST;
    SP_TRY(sp_params_query_int(req->http, "limit", &c->limit, 1, MAX_LIST, d));
    *bad = "order";
    if (order && strcmp(order, "asc") != 0 && strcmp(order, "desc") != 0)
        return SP_FAIL(d, SP_INVAL, "order must be asc or desc");
    c->descending = order && strcmp(order, "desc") == 0;
    return read_id(c->after, "after", sp_api_query(req, "after"), bad, d);
}

/* bad_name: the parameter that is wrong, copied before the JSON it stands in is freed. */
static sp_err read_request(const sp_app *app, call *c, const sp_api_req *req, char bad_name[64],
                           sp_diag *d)
{
    const char *bad = NULL;
    json_t *j = NULL;
    sp_err err = read_query(c, req, &bad, d);
    if (err == SP_OK && (strcmp(req->method, "POST") == 0 || strcmp(req->method, "PATCH") == 0)) {
        err = req->n_body ? sp_params_parse(&j, req->body, req->n_body, d) : SP_OK;
        if (err == SP_OK && !j)
            j = json_object();
        if (err == SP_OK && c->op->kind == SP_HISTORY_IMPORT)
            c->op->json = json_incref(j);
        else if (err == SP_OK)
            err = read_body(app, c->op, j, &bad, d);
    }
    snprintf(bad_name, 64, "%.60s", err != SP_OK && bad ? bad : "");
    json_decref(j);
    return err;
}

/* By the model that is meant where none is named. Of several it may be away: then each turn counts
 * again. */
static void count_tokens(sp_history_op *op, const sp_app *app)
{
    sp_served *on;
    const char *name = sp_models_find(app->models, NULL);
    if (!name || sp_models_is_encoder(app->models, name) ||
        sp_models_use(&on, app->models, name) != SP_OK)
        return;
    sp_history_count_with(op, &on->env);
    sp_models_done(app->models, on);
}

sp_err sp_api_conversation(sp_app *app, const sp_api_req *req, const char *tenant,
                           sp_http_task *task, char bad[64], sp_diag *d)
{
    sp_history_kind kind;
    char id[SP_ID_BYTES], message[SP_ID_BYTES];
    bad[0] = 0;
    if (!app->shared->history)
        return SP_FAIL(d, SP_UNSUP,
                       "this server keeps no conversations; it was started without --history");
    if (!find_kind(req, &kind, id, message))
        return SP_FAIL(d, SP_NOTFOUND, "conversations: %.10s is not possible at this path",
                       req->method);
    call *c = sp_mem_alloc(sizeof *c);
    if (c)
        c->op = sp_history_op_new(app->shared->history, kind, tenant);
    if (!c || !c->op) {
        sp_mem_free(c);
        return SP_FAIL(d, SP_NOMEM, "request");
    }
    memcpy(c->op->conv, id, sizeof id);
    memcpy(c->op->message, message, sizeof message);
    count_tokens(c->op, app);
    sp_err err = read_request(app, c, req, bad, d);
    return sp_work_operate(task, err, &c->op->op, req->work,
                           &(sp_http_task){c, task_start, NULL, task_close}, d);
}
