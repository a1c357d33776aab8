#include "api/conversation.h"

#include "api/known.h"
#include "api/response.h"

#include <stdio.h>
#include <string.h>

enum { MAX_CALLS = 128 /* of one message */, MAX_ITEM = 4096, MAX_QUERY = 4096, MAX_FOUND = 50, MAX_LIST = 10000 };

typedef struct call {
    sp_history_op *op;
    int64_t limit; /* of a list, as the next two */
    bool descending;
    char after[SP_ID_BYTES];
} call;

/* --- messages --------------------------------------------------------------------------------- */

const char *sp_api_lacks(const char *type)
{
    static const struct {
        const char *type, *lacks;
    } of[] = {{"image_url", "images cannot be read: this server has no vision encoder"},
              {"input_image", "images cannot be read: this server has no vision encoder"},
              {"image", "images cannot be read: this server has no vision encoder"},
              {"input_audio", "audio cannot be read: this server has no speech encoder"},
              {"video_url", "videos cannot be read: this server has no vision encoder"},
              {"file", "files cannot be read here: put them into a vector store and search it with file_search"},
              {"input_file", "files cannot be read here: put them into a vector store and search it with file_search"}};
    for (size_t i = 0; type && i < sizeof of / sizeof of[0]; i++)
        if (strcmp(of[i].type, type) == 0)
            return of[i].lacks;
    return "only parts of type text are supported";
}

/* Text of a message: a string, or a list of {"type": "text", "text": …} parts, joined; null or absent, of an assistant: none. */
static sp_err read_content(sp_str *out, sp_arena *a, const json_t *v, const char *name, size_t at, sp_diag *d)
{
    static const char *const kinds[] = {"text", "input_text", "output_text"};
    size_t n = 0;
    if (!json_is_string(v) && !json_is_array(v))
        return SP_FAIL(d, SP_INVAL, "%s[%zu].content must be a string or a list of text parts", name, at);
    for (int pass = 0; pass < 2; pass++) {
        char *p = pass ? sp_arena_alloc(a, n + 1) : NULL;
        if (pass && !p)
            return SP_FAIL(d, SP_NOMEM, "messages");
        *out = (sp_str){p, n};
        n = 0;
        for (size_t i = 0; i < (json_is_string(v) ? 1 : json_array_size(v)); i++) {
            const json_t *part = json_array_get(v, i), *text = json_is_string(v) ? v : json_object_get(part, "text");
            const char *type = json_string_value(json_object_get(part, "type"));
            bool known = json_is_string(v);
            for (size_t k = 0; k < 3 && type; k++)
                known = known || strcmp(type, kinds[k]) == 0;
            if (!known || !json_is_string(text))
                return SP_FAIL(d, SP_UNSUP, "%s[%zu].content[%zu]: %s", name, at, i, sp_api_lacks(type));
            if (pass)
                memcpy(p + n, json_string_value(text), json_string_length(text));
            n += json_string_length(text);
        }
    }
    return SP_OK;
}

/* A copy in the arena; NULL: empty. */
static sp_err keep_text(sp_str *out, sp_arena *a, const char *text, sp_diag *d)
{
    *out = (sp_str){text ? sp_arena_strndup(a, text, strlen(text)) : "", text ? strlen(text) : 0};
    return out->p ? SP_OK : SP_FAIL(d, SP_NOMEM, "messages");
}

/* {"id", "type": "function", "function": {"name", "arguments"}}; arguments are JSON as text, or an object. */
static sp_err read_call(sp_chat_call *out, sp_arena *a, const json_t *v, const sp_lists *lists, sp_diag *d)
{
    const char *id = NULL, *type = "function", *name = NULL, *bad;
    const json_t *fn = NULL, *arguments = NULL, *index = NULL, *extra = NULL;
    const sp_param table[] = {{"id", SP_P_STR, &id, 0, 0}, {"type", SP_P_STR, &type, 0, 0}, {"function", SP_P_JSON, &fn, 0, 0}, {"index", SP_P_JSON, &index, 0, 0},
                              {"extra_content", SP_P_JSON, &extra, 0, 0}};
    const sp_param inner[] = {{"name", SP_P_STR, &name, 0, 0}, {"arguments", SP_P_JSON, &arguments, 0, 0}};
    if (!json_is_object(v))
        return SP_FAIL(d, SP_INVAL, "it is not an object");
    SP_TRY(sp_known_read(v, table, sizeof table / sizeof table[0], lists, &bad, d));
    if (strcmp(type, "function") != 0)
        return SP_FAIL(d, SP_UNSUP, "its type must be function");
    if (!json_is_object(fn))
        return SP_FAIL(d, SP_INVAL, "its function is missing");
    SP_TRY(sp_known_read(fn, inner, sizeof inner / sizeof inner[0], lists, &bad, d));
    if (!name || !*name)
        return SP_FAIL(d, SP_INVAL, "function.name is missing");
    SP_TRY(keep_text(&out->id, a, id, d));
    SP_TRY(keep_text(&out->name, a, name, d));
    if (json_is_object(arguments)) {
        const char *text;
        SP_TRY(sp_params_keep(&text, a, arguments, d));
        out->arguments = (sp_str){text, strlen(text)};
        return SP_OK;
    }
    if (arguments && !json_is_string(arguments))
        return SP_FAIL(d, SP_INVAL, "function.arguments must be JSON as a string");
    out->arguments = (sp_str){sp_arena_strndup(a, arguments ? json_string_value(arguments) : "", json_string_length(arguments)), json_string_length(arguments)};
    return out->arguments.p ? SP_OK : SP_FAIL(d, SP_NOMEM, "messages");
}

static sp_err read_calls(sp_chat_msg *out, sp_arena *a, const json_t *list, const sp_lists *lists, sp_diag *d)
{
    size_t n = json_array_size(list);
    if (!json_is_array(list) || n > MAX_CALLS)
        return SP_FAIL(d, SP_INVAL, "tool_calls must be a list of at most %d calls", MAX_CALLS);
    sp_chat_call *all = sp_arena_alloc(a, (n + 1) * sizeof *all);
    if (!all)
        return SP_FAIL(d, SP_NOMEM, "messages");
    for (size_t i = 0; i < n; i++) {
        sp_diag inner = {0};
        sp_err err = read_call(&all[i], a, json_array_get(list, i), lists, &inner);
        if (err != SP_OK)
            return SP_FAIL(d, err, "tool_calls[%zu]: %.120s", i, inner.msg);
    }
    out->call = all;
    out->n_call = n;
    return SP_OK;
}

/* What a message has beside its text. */
typedef struct beside {
    const char *role, *who, *type, *call_id, *thought[2];
    const json_t *content, *calls;
} beside;

static const char *role_of(const char *role)
{
    static const char *const known[][2] = {{"system", "system"}, {"developer", "system"} /* OpenAI's newer name for it */, {"user", "user"},
                                           {"assistant", "assistant"}, {"tool", "tool"}, {"function", "tool"}};
    for (size_t k = 0; role && k < sizeof known / sizeof known[0]; k++)
        if (strcmp(role, known[k][0]) == 0)
            return known[k][1];
    return NULL;
}

static sp_err read_beside(sp_chat_msg *out, sp_arena *a, const beside *b, const sp_lists *lists, sp_diag *d)
{
    bool answers = strcmp(out->role.p, "assistant") == 0;
    const char *thought = b->thought[0] ? b->thought[0] : b->thought[1];
    bool results = strcmp(out->role.p, "tool") == 0;
    if (b->call_id && !results)
        return SP_FAIL(d, SP_INVAL, "tool_call_id is for the role tool");
    if (results && !b->call_id && !b->who)
        return SP_FAIL(d, SP_INVAL, "tool_call_id is missing");
    if (json_array_size(b->calls) && !answers)
        return SP_FAIL(d, SP_INVAL, "tool_calls is for the role assistant");
    if (thought && !answers)
        sp_known_ignore(lists, b->thought[0] ? "reasoning_content" : "reasoning");
    SP_TRY(keep_text(&out->name, a, b->who, d));
    SP_TRY(keep_text(&out->call_id, a, b->call_id, d));
    SP_TRY(keep_text(&out->reasoning, a, answers ? thought : NULL, d));
    return b->calls ? read_calls(out, a, b->calls, lists, d) : SP_OK;
}

static sp_err read_message(sp_chat_msg *out, sp_arena *a, const json_t *m, const sp_lists *lists, const char *name, size_t i, sp_diag *d)
{
    beside b = {.type = "message"};
    const char *bad;
    const sp_param table[] = {{"role", SP_P_STR, &b.role, 0, 0},
                              {"content", SP_P_JSON, &b.content, 0, 0},
                              {"name", SP_P_STR, &b.who, 0, 0},
                              {"type", SP_P_STR, &b.type, 0, 0},
                              {"tool_calls", SP_P_JSON, &b.calls, 0, 0},
                              {"tool_call_id", SP_P_STR, &b.call_id, 0, 0},
                              {"reasoning_content", SP_P_STR, &b.thought[0], 0, 0},
                              {"reasoning", SP_P_STR, &b.thought[1], 0, 0}};
    if (!json_is_object(m))
        return SP_FAIL(d, SP_INVAL, "%s[%zu] is not an object", name, i);
    sp_diag inner = {0};
    if (sp_known_read(m, table, sizeof table / sizeof table[0], lists, &bad, &inner) != SP_OK)
        return SP_FAIL(d, inner.code, "%s[%zu]: %.140s", name, i, inner.msg);
    if (strcmp(b.type, "message") != 0)
        return SP_FAIL(d, SP_UNSUP, "%s[%zu].type: only message is supported", name, i);
    const char *role = role_of(b.role);
    if (!role)
        return SP_FAIL(d, SP_INVAL, "%s[%zu].role must be system, developer, user, assistant or tool", name, i);
    *out = sp_chat_say(role, "", 0);
    if (read_beside(out, a, &b, lists, &inner) != SP_OK)
        return SP_FAIL(d, inner.code, "%s[%zu]: %.140s", name, i, inner.msg);
    if (!b.content && strcmp(role, "assistant") == 0)
        return SP_OK;
    return read_content(&out->content, a, b.content, name, i, d);
}

sp_err sp_api_messages(sp_chat_msg **out, size_t *n, sp_arena *a, const json_t *list, const sp_app *app, sp_buf *ignored, const char *name, sp_diag *d)
{
    const sp_lists lists = {.known = sp_known_message, .lenient = app->lenient, .ignored = ignored, .where = "messages[]."};
    *n = json_array_size(list);
    if (!json_is_array(list) || *n == 0 || *n > MAX_ITEM)
        return SP_FAIL(d, SP_INVAL, "%s must be a list of 1 to %d messages", name, MAX_ITEM);
    *out = sp_arena_alloc(a, (*n + 1) * sizeof **out); /* room for an answer */
    if (!*out)
        return SP_FAIL(d, SP_NOMEM, "messages");
    for (size_t i = 0; i < *n; i++)
        SP_TRY(read_message(&(*out)[i], a, json_array_get(list, i), &lists, name, i, d));
    return SP_OK;
}

/* --- answers ---------------------------------------------------------------------------------- */

static void put_conversation(sp_buf *out, const sp_hdb_conv *c)
{
    sp_buf_printf(
        out,
        "{\"id\":\"%s\",\"object\":\"conversation\",\"created_at\":%lld,\"updated_at\":%lld,\"item_count\":%lld,\"metadata\":%s}",
        c->id, (long long)c->created, (long long)c->updated, (long long)c->n_item, c->metadata.p);
}

/* Calls and their results are items as /v1/responses has them; what was found by its text is shown
 * as a message. */
static void put_item(sp_buf *out, sp_arena *a, const sp_hdb_item *it, bool found)
{
    sp_chat_msg m = {0};
    if (it->more.n && !found && sp_history_message(&m, a, it) != SP_OK)
        out->failed = true;
    if (m.n_call || m.call_id.n || m.reasoning.n || m.name.n) {
        sp_response_put_kept(out, it->id, &m);
        return;
    }
    bool answer = it->role.n && it->role.p[0] == 'a';
    sp_buf_printf(out, "{\"id\":\"%s\",\"type\":\"message\",\"status\":\"completed\",\"created_at\":%lld,\"role\":\"%.*s\",", it->id, (long long)it->created,
                  (int)it->role.n, it->role.p);
    if (found)
        sp_buf_printf(out, "\"position\":%lld,\"score\":%.6f,", (long long)it->pos, it->score);
    sp_buf_printf(out, "\"content\":[{\"type\":\"%s\",\"text\":", answer ? "output_text" : "input_text");
    sp_buf_json_str(out, it->text.p, it->text.n);
    sp_buf_puts(out, "}]}");
}

/* Items [first, first + n) in the order asked for. */
static void put_items(sp_buf *out, const call *c, size_t first, size_t n)
{
    const sp_history_op *op = c->op;
    const char *head = "", *tail = "";
    sp_buf_puts(out, "{\"object\":\"list\",\"data\":[");
    for (size_t i = first; i < first + n; i++) {
        const sp_hdb_item *it = &op->item[c->descending ? op->n_item - 1 - i : i];
        sp_buf_puts(out, i > first ? "," : "");
        put_item(out, &c->op->op.a, it, op->kind == SP_HISTORY_SEARCH);
        tail = it->id;
        head = i > first ? head : tail;
    }
    sp_buf_puts(out, "],");
    if (op->kind == SP_HISTORY_SEARCH)
        sp_buf_printf(out, "\"ms\":{\"all\":%.3f,\"vector\":%.3f},", op->op.ms, op->ms_vector);
    sp_buf_printf(out, "\"first_id\":\"%s\",\"last_id\":\"%s\",\"has_more\":%s}", head, tail, first + n < op->n_item ? "true" : "false");
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
    if (!sp_api_reply(reply, &op->op.diag))
        return SP_OK;
    switch (op->kind) {
    case SP_HISTORY_ITEMS: put_page(reply, c); break;
    case SP_HISTORY_ADD:
    case SP_HISTORY_SEARCH: put_items(&reply->body, c, 0, op->n_item); break;
    case SP_HISTORY_DELETE:
        sp_buf_printf(&reply->body, "{\"id\":\"%s\",\"object\":\"conversation.deleted\",\"deleted\":true,\"pages\":%zu}",
                      op->conv, op->n_page);
        break;
    default: put_conversation(&reply->body, &op->info);
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

static sp_err read_body(const sp_app *app, sp_history_op *op, const json_t *j, const char **bad, sp_diag *d)
{
    const json_t *metadata = NULL, *items = NULL;
    const char *q = NULL;
    int64_t limit = 8;
    const sp_param meta = {"metadata", SP_P_JSON, &metadata, 0, 0}, list = {"items", SP_P_JSON, &items, 0, 0};
    const sp_param create[] = {meta, list}, update[] = {meta}, add[] = {list};
    const sp_param search[] = {{"query", SP_P_STR, &q, 0, 0}, {"limit", SP_P_INT, &limit, 1, MAX_FOUND}};
    const struct {
        const sp_param *table;
        size_t n;
    } of[] = {[SP_HISTORY_CREATE] = {create, 2},
              [SP_HISTORY_UPDATE] = {update, 1},
              [SP_HISTORY_ADD] = {add, 1},
              [SP_HISTORY_SEARCH] = {search, 2}};
    SP_TRY(sp_params_read(j, of[op->kind].table, of[op->kind].n, bad, d));
    *bad = "metadata";
    SP_TRY(sp_params_metadata(&op->metadata, &op->op.a, metadata, "metadata", true, d));
    if (op->kind == SP_HISTORY_UPDATE && !metadata)
        return SP_FAIL(d, SP_INVAL, "metadata is missing");
    *bad = "query";
    if (op->kind == SP_HISTORY_SEARCH && (!q || !*q || strlen(q) > MAX_QUERY))
        return SP_FAIL(d, SP_INVAL, "query must be a string of 1 to %d bytes", MAX_QUERY);
    if (q && !(op->query = sp_arena_strndup(&op->op.a, q, strlen(q))))
        return SP_FAIL(d, SP_NOMEM, "query");
    op->cap = (size_t)limit;
    *bad = "items";
    if (items || op->kind == SP_HISTORY_ADD)
        SP_TRY(sp_api_messages(&op->msg, &op->n_msg, &op->op.a, items, app, NULL, "items", d));
    *bad = NULL;
    return SP_OK;
}

/* Which operation a path and a method ask for: [/ID[/items|/search]]. */
static bool find_kind(const sp_api_req *req, sp_history_kind *kind, char id[SP_ID_BYTES])
{
    static const char base[] = "/v1/conversations";
    static const struct {
        const char *method, *tail;
        bool one;
        sp_history_kind kind;
    } of[] = {{"POST", "", false, SP_HISTORY_CREATE},      {"GET", "", true, SP_HISTORY_GET},
              {"POST", "", true, SP_HISTORY_UPDATE},       {"DELETE", "", true, SP_HISTORY_DELETE},
              {"GET", "/items", true, SP_HISTORY_ITEMS},   {"POST", "/items", true, SP_HISTORY_ADD},
              {"POST", "/search", true, SP_HISTORY_SEARCH}};
    id[0] = 0;
    const char *p = req->path + sizeof base - 1;
    bool one = *p == '/' && p[1];
    size_t n = one ? strcspn(p + 1, "/") : 0;
    if (n >= SP_ID_BYTES)
        return false;
    memcpy(id, p + 1, n);
    id[n] = 0;
    const char *tail = one ? p + 1 + n : p;
    for (size_t i = 0; i < sizeof of / sizeof of[0]; i++) {
        if (of[i].one == one && strcmp(of[i].method, req->method) == 0 && strcmp(of[i].tail, tail) == 0) {
            *kind = of[i].kind;
            return true;
        }
    }
    return false;
}

/* ?limit=N&order=asc|desc&after=ID of a list; no other operation takes a query. */
static sp_err read_query(call *c, const sp_api_req *req, const char **bad, sp_diag *d)
{
    const char *order = sp_api_query(req, "order"), *after = sp_api_query(req, "after");
    SP_TRY(sp_params_query(req->http, c->op->kind == SP_HISTORY_ITEMS ? " limit order after " : " ", bad, d));
    *bad = "limit";
    c->limit = MAX_LIST;
    SP_TRY(sp_params_query_int(req->http, "limit", &c->limit, 1, MAX_LIST, d));
    *bad = "order";
    if (order && strcmp(order, "asc") != 0 && strcmp(order, "desc") != 0)
        return SP_FAIL(d, SP_INVAL, "order must be asc or desc");
    c->descending = order && strcmp(order, "desc") == 0;
    *bad = "after";
    if (after && (!*after || strlen(after) >= sizeof c->after))
        return SP_FAIL(d, SP_INVAL, "after is not the id of an item");
    snprintf(c->after, sizeof c->after, "%s", after ? after : "");
    *bad = NULL;
    return SP_OK;
}

/* bad_name: the parameter that is wrong, copied before the JSON it stands in is freed. */
static sp_err read_request(const sp_app *app, call *c, const sp_api_req *req, char bad_name[64], sp_diag *d)
{
    const char *bad = NULL;
    json_t *j = NULL;
    sp_err err = read_query(c, req, &bad, d);
    if (err == SP_OK && strcmp(req->method, "POST") == 0) {
        err = req->n_body ? sp_params_parse(&j, req->body, req->n_body, d) : SP_OK;
        if (err == SP_OK && !j)
            j = json_object();
        if (err == SP_OK)
            err = read_body(app, c->op, j, &bad, d);
    }
    snprintf(bad_name, 64, "%.60s", err != SP_OK && bad ? bad : "");
    json_decref(j);
    return err;
}

/* By the model that is meant where none is named. Of several it may be away: then each turn counts again. */
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

sp_err sp_api_conversation(sp_app *app, const sp_api_req *req, const char *tenant, sp_http_task *task, char bad[64], sp_diag *d)
{
    sp_history_kind kind;
    char id[SP_ID_BYTES];
    bad[0] = 0;
    if (!app->shared->history)
        return SP_FAIL(d, SP_UNSUP, "this server keeps no conversations; it was started without --history");
    if (!find_kind(req, &kind, id))
        return SP_FAIL(d, SP_NOTFOUND, "conversations: %.10s is not possible at this path", req->method);
    call *c = sp_mem_alloc(sizeof *c);
    if (c)
        c->op = sp_history_op_new(app->shared->history, kind, tenant);
    if (!c || !c->op) {
        sp_mem_free(c);
        return SP_FAIL(d, SP_NOMEM, "request");
    }
    memcpy(c->op->conv, id, sizeof id);
    count_tokens(c->op, app);
    sp_err err = read_request(app, c, req, bad, d);
    if (err == SP_OK)
        err = sp_op_submit(&c->op->op, sp_work_wake, req->work, d);
    if (err == SP_OK)
        *task = (sp_http_task){c, task_start, NULL, task_close};
    else
        task_close(c);
    return err;
}
