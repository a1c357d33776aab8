#include "api/mcp.h"

#include "api/knowledge.h"
#include "api/params.h"
#include "base/mem.h"

#include <stdio.h>
#include <string.h>

enum {
    BAD_JSON = -32700,
    BAD_REQUEST = -32600,
    NO_METHOD = -32601,
    BAD_PARAMS = -32602,
    FAILED = -32603,
    MAX_QUERY = 4096, /* bytes */
    MAX_FOUND = 50,
    FOUND = 6
};

/* One call of the tool, until its search has ended. */
typedef struct call {
    sp_know_op *op;
    char id[256]; /* of the message, as JSON */
} call;

/* --- JSON-RPC --------------------------------------------------------------------------------- */

static void open_reply(sp_http_reply *reply, const char *id)
{
    reply->status = 200;
    reply->type = "application/json";
    sp_buf_printf(&reply->body, "{\"jsonrpc\":\"2.0\",\"id\":%s,", id);
}

static void put_error(sp_http_reply *reply, const char *id, int code, const char *message)
{
    open_reply(reply, id);
    if (code == BAD_JSON || code == BAD_REQUEST)
        reply->status = 400;
    sp_buf_printf(&reply->body, "\"error\":{\"code\":%d,\"message\":", code);
    sp_buf_json_str(&reply->body, message, strlen(message));
    sp_buf_puts(&reply->body, "}}");
}

/* id of a message: a string or a number. SP_NOTFOUND: it has none, and is a notification. */
static sp_err read_id(char out[256], const json_t *v)
{
    if (!v)
        return SP_NOTFOUND;
    char *text = json_is_string(v) || json_is_integer(v) ? json_dumps(v, JSON_ENCODE_ANY) : NULL;
    bool fits = text && strlen(text) < 256;
    if (fits)
        snprintf(out, 256, "%s", text);
    free(text);
    return fits ? SP_OK : SP_INVAL;
}

/* --- the tool --------------------------------------------------------------------------------- */

static const char TOOLS[] =
    "\"result\":{\"tools\":[{\"name\":\"search\",\"title\":\"Search documents\",\"description\":"
    "\"Finds passages in a collection of documents that this server keeps, by words and by "
    "meaning. Each passage comes with its file and its place there.\",\"inputSchema\":{"
    "\"type\":\"object\",\"properties\":{\"query\":{\"type\":\"string\",\"description\":\"what is "
    "looked for, in a few words or as a question\"},\"collection\":{\"type\":\"string\","
    "\"description\":\"name or id of the collection\"},\"max_results\":{\"type\":\"integer\","
    "\"minimum\":1,\"maximum\":50,\"default\":6}},\"required\":[\"query\"],"
    "\"additionalProperties\":false},\"annotations\":{\"readOnlyHint\":true,"
    "\"openWorldHint\":false}}]}}";

static void put_passage(sp_buf *text, const sp_rag_hit *h, size_t i)
{
    sp_buf_printf(text, "%s[%zu] %s, %s\n%s", i ? "\n\n" : "", i + 1, sp_api_filename(h->path),
                  h->place, h->text);
}

static void put_hit(sp_buf *out, const sp_rag_hit *h, size_t i)
{
    const char *file = sp_api_filename(h->path);
    sp_buf_printf(out, "%s{\"file_id\":\"%s\",\"score\":%.6f,\"filename\":", i ? "," : "", h->doc,
                  h->score);
    sp_buf_json_str(out, file, strlen(file));
    sp_buf_puts(out, ",\"place\":");
    sp_buf_json_str(out, h->place, strlen(h->place));
    sp_buf_puts(out, ",\"text\":");
    sp_buf_json_str(out, h->text, strlen(h->text));
    sp_buf_putc(out, '}');
}

/* What a tool cannot do is told to the model, not to the protocol. */
static void put_result(sp_http_reply *reply, const char *id, const char *text, size_t n,
                       bool failed)
{
    open_reply(reply, id);
    sp_buf_puts(&reply->body, "\"result\":{\"content\":[{\"type\":\"text\",\"text\":");
    sp_buf_json_str(&reply->body, text, n);
    sp_buf_printf(&reply->body, "}],\"isError\":%s", failed ? "true" : "false");
}

static sp_err task_start(void *arg, sp_http_reply *reply)
{
    const call *c = arg;
    const sp_know_op *op = c->op;
    sp_buf text = {0};
    if (!sp_op_is_done(&c->op->op))
        return SP_AGAIN;
    bool failed = op->op.diag.code != SP_OK;
    if (failed)
        sp_buf_puts(&text, op->op.diag.msg);
    for (size_t i = 0; !failed && i < op->n; i++)
        put_passage(&text, &op->hit[i], i);
    if (!text.len)
        sp_buf_puts(&text, "nothing was found");
    put_result(reply, c->id, sp_buf_str(&text), text.len, failed);
    reply->body.failed = reply->body.failed || text.failed;
    sp_buf_puts(&reply->body, ",\"structuredContent\":{\"passages\":[");
    for (size_t i = 0; !failed && i < op->n; i++)
        put_hit(&reply->body, &op->hit[i], i);
    sp_buf_puts(&reply->body, "]}}}");
    sp_buf_fini(&text);
    return SP_OK;
}

static void task_close(void *arg)
{
    call *c = arg;
    sp_op_put((sp_op *)c->op);
    sp_mem_free(c);
}

/* A collection by its id, or by its name; none: the one that every chat looks into. */
static sp_err read_place(sp_know_op *op, const sp_app *app, const char *place, sp_diag *d)
{
    if (!place && !app->shared->retrieve)
        return SP_FAIL(d, SP_INVAL, "collection is missing: the name or id of a collection");
    if (place && strncmp(place, "vs_", 3) == 0 && strlen(place) < SP_RAG_ID) {
        snprintf(op->colls[0], SP_RAG_ID, "%s", place);
        op->n_colls = 1;
        return SP_OK;
    }
    op->by_name = place ? sp_arena_strndup(&op->op.a, place, strlen(place)) : app->shared->retrieve;
    return op->by_name ? SP_OK : SP_FAIL(d, SP_NOMEM, "request");
}

static sp_err read_arguments(sp_know_op *op, const sp_app *app, const json_t *v, sp_diag *d)
{
    const char *query = NULL, *place = NULL, *bad;
    int64_t n = FOUND;
    const sp_param table[] = {{"query", SP_P_STR, &query, 0, 0},
                              {"collection", SP_P_STR, &place, 0, 0},
                              {"max_results", SP_P_INT, &n, 1, MAX_FOUND}};
    if (!json_is_object(v))
        return SP_FAIL(d, SP_INVAL, "arguments must be an object");
    SP_TRY(sp_params_read(v, table, 3, &bad, d));
    if (!query || !*query || strlen(query) > MAX_QUERY)
        return SP_FAIL(d, SP_INVAL, "query must be a text of 1 to %d bytes", MAX_QUERY);
    op->query = sp_arena_strndup(&op->op.a, query, strlen(query));
    op->cap = (size_t)n;
    return op->query ? read_place(op, app, place, d) : SP_FAIL(d, SP_NOMEM, "request");
}

static sp_err begin_call(call **out, const sp_app *app, const sp_api_req *req, const char *tenant,
                         const json_t *params, sp_diag *d)
{
    call *c = sp_mem_alloc(sizeof *c);
    if (c)
        c->op = sp_know_op_new(app->shared->know, SP_KNOW_SEARCH, tenant);
    if (!c || !c->op) {
        sp_mem_free(c);
        return SP_FAIL(d, SP_NOMEM, "request");
    }
    sp_err err = read_arguments(c->op, app, json_object_get(params, "arguments"), d);
    if (err == SP_OK)
        err = sp_op_submit(&c->op->op, sp_work_wake, req->work, d);
    if (err == SP_OK)
        *out = c;
    else
        task_close(c);
    return err;
}

/* --- methods ---------------------------------------------------------------------------------- */

/* The client's revision where it is one of these, else the newest of them. */
static void initialize(sp_http_reply *reply, const char *id, const json_t *params)
{
    static const char *const known[] = {"2025-06-18", "2025-03-26", "2024-11-05"};
    const char *asked = json_string_value(json_object_get(params, "protocolVersion"));
    const char *version = known[0];
    for (size_t i = 0; asked && i < sizeof known / sizeof known[0]; i++)
        version = strcmp(known[i], asked) == 0 ? known[i] : version;
    open_reply(reply, id);
    sp_buf_printf(&reply->body,
                  "\"result\":{\"protocolVersion\":\"%s\",\"capabilities\":{\"tools\":{}},"
                  "\"serverInfo\":{\"name\":\"sparing\",\"version\":\"" SP_VERSION "\"}}}",
                  version);
}

typedef struct message {
    char id[256];
    const char *method;
    const json_t *params;
} message;

static void answer(sp_app *app, const sp_api_req *req, const char *tenant, const message *m,
                   sp_http_reply *reply, sp_http_task *task)
{
    const char *tool = json_string_value(json_object_get(m->params, "name"));
    sp_diag d = {0};
    call *c = NULL;
    if (strcmp(m->method, "initialize") == 0) {
        initialize(reply, m->id, m->params);
    } else if (strcmp(m->method, "ping") == 0) {
        open_reply(reply, m->id);
        sp_buf_puts(&reply->body, "\"result\":{}}");
    } else if (strcmp(m->method, "tools/list") == 0) {
        open_reply(reply, m->id);
        sp_buf_puts(&reply->body, TOOLS);
    } else if (strcmp(m->method, "tools/call") != 0) {
        put_error(reply, m->id, NO_METHOD, "there is no such method here");
    } else if (!tool || strcmp(tool, "search") != 0) {
        put_error(reply, m->id, BAD_PARAMS, "there is one tool here: search");
    } else if (begin_call(&c, app, req, tenant, m->params, &d) == SP_OK) {
        snprintf(c->id, sizeof c->id, "%s", m->id);
        *task = (sp_http_task){c, task_start, NULL, task_close};
    } else if (d.code == SP_INVAL || d.code == SP_UNSUP) {
        put_result(reply, m->id, d.msg, strlen(d.msg), true);
        sp_buf_puts(&reply->body, "}}");
    } else {
        put_error(reply, m->id, FAILED, d.msg);
    }
}

void sp_api_mcp(sp_app *app, const sp_api_req *req, const char *tenant, sp_http_reply *reply,
                sp_http_task *task)
{
    json_t *j = NULL;
    message m = {.id = "null"};
    sp_diag d = {0};
    if (!app->shared->know) {
        reply->status = 404;
        reply->type = "application/json";
        sp_api_error(&reply->body, 404,
                     "this server keeps no documents; it was started without --knowledge", NULL,
                     "not_found");
        return;
    }
    if (sp_params_parse(&j, req->body, req->n_body, &d) != SP_OK) {
        put_error(reply, m.id, BAD_JSON, d.msg);
        return;
    }
    const char *version = json_string_value(json_object_get(j, "jsonrpc"));
    sp_err id = read_id(m.id, json_object_get(j, "id"));
    m.method = json_string_value(json_object_get(j, "method"));
    m.params = json_object_get(j, "params");
    if (!version || strcmp(version, "2.0") != 0 || id == SP_INVAL)
        put_error(reply, "null", BAD_REQUEST, "not a message of JSON-RPC 2.0");
    else if (!m.method || id == SP_NOTFOUND)
        reply->status = 202; /* a notification, or an answer to nothing that was asked */
    else
        answer(app, req, tenant, &m, reply, task);
    json_decref(j);
}
