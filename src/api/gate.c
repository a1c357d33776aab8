#include "api/gate.h"

#include "api/dialect.h"
#include "api/params.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

enum { LOG_NS = 1000000000 };

typedef enum cause {
    C_HOST,
    C_ORIGIN,
    C_KEY,
    C_ROLE,
    C_METHOD,
    C_TYPE,
    C_LENGTH,
    C_HEAD,
    C_CAUSES
} cause;

struct sp_gate {
    sp_metric *refused[C_CAUSES];
    uint64_t logged_ns;  /* last line about a key */
    size_t n_unlogged;
};

sp_err sp_gate_new(sp_gate **out, sp_metrics *m)
{
    static const char *const label[C_CAUSES] = {
        "cause=\"host\"",   "cause=\"origin\"", "cause=\"key\"",    "cause=\"role\"",
        "cause=\"method\"", "cause=\"type\"",   "cause=\"length\"", "cause=\"head\""};
    sp_gate *g = sp_mem_alloc(sizeof *g);
    if (!g)
        return SP_NOMEM;
    for (int i = 0; i < C_CAUSES; i++)
        g->refused[i] = sp_metric_counter(m, "sparing_refused_total",
                                          "Requests refused before their body was read.", label[i]);
    *out = g;
    return SP_OK;
}

void sp_gate_free(sp_gate *g)
{
    sp_mem_free(g);
}

void sp_gate_count_head(sp_gate *g)
{
    sp_metric_add(g->refused[C_HEAD], 1);
}

void sp_gate_count_key(sp_gate *g)
{
    sp_metric_add(g->refused[C_KEY], 1);
}

static void refuse(const sp_app *app, cause why, const sp_http_req *req, sp_http_reply *reply,
                   int status, const char *message, const char *code)
{
    sp_metric_add(app->gate->refused[why], 1);
    reply->status = status;
    reply->type = "application/json";
    sp_api_error_at(req->path, &reply->body, status, message, NULL, code);
}

/* --- Host and Origin -------------------------------------------------------------------------- */

static bool in_list(const char *const *list, const char *p, size_t n)
{
    for (; *list; list++)
        if (strlen(*list) == n && strncasecmp(*list, p, n) == 0)
            return true;
    return false;
}

/* A page that rebinds a name to this address sends its own name. An address that the connection
 * itself came to is no such name. */
static bool host_ok(const sp_app *app, const sp_http_req *req)
{
    const char *host = sp_http_header(req, "Host");
    char local[SP_HTTP_ADDRESS];
    if (!host)
        return false;
    const char *end = host[0] == '[' ? strchr(host, ']') : NULL;
    size_t n = end ? (size_t)(end + 1 - host) : strcspn(host, ":");
    if (host[n] && (host[n] != ':' || strspn(host + n + 1, "0123456789") != strlen(host + n + 1)))
        return false;
    sp_http_local(req->conn, local);
    return in_list(app->hosts, host, n) ||
           (n && strlen(local) == n && strncasecmp(local, host, n) == 0);
}

/* Absent, this server itself, or on the list. */
static bool origin_ok(const sp_app *app, const sp_http_req *req, const char *origin)
{
    const char *host = sp_http_header(req, "Host");
    size_t scheme = !origin                                   ? 0
                    : strncasecmp(origin, "http://", 7) == 0  ? 7
                    : strncasecmp(origin, "https://", 8) == 0 ? 8
                                                              : 0;
    if (!origin)
        return true;
    if (scheme && host && strcasecmp(origin + scheme, host) == 0)
        return true;
    return in_list(app->origins, origin, strlen(origin));
}

/* Fields that SDKs send beside their bodies, by name or by how the name begins. */
static bool is_expected(const char *name, size_t n)
{
    static const char *const names[] = {"authorization",
                                        "content-type",
                                        "accept",
                                        "api-key",
                                        "x-api-key",
                                        "idempotency-key",
                                        "x-request-id",
                                        "x-session-id",
                                        "x-session-affinity",
                                        "traceparent",
                                        "tracestate",
                                        "x-sparing-stream",
                                        "last-event-id",
                                        "http-referer",
                                        "x-title",
                                        "user-agent",
                                        NULL};
    static const char *const begin[] = {"x-stainless-", "anthropic-", "openai-"};
    for (size_t i = 0; i < sizeof begin / sizeof begin[0]; i++)
        if (n > strlen(begin[i]) && strncasecmp(name, begin[i], strlen(begin[i])) == 0 &&
            strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-") >= n)
            return true;
    return in_list(names, name, n);
}

/* Answers a preflight: of the fields that the page wants to send, those that are expected. */
static void allow_fields(const sp_http_req *req, sp_http_reply *reply)
{
    const char *p = sp_http_header(req, "Access-Control-Request-Headers");
    sp_buf list = {0};
    sp_buf_puts(&list, "Authorization, Content-Type");
    while (p && *p) {
        p += strspn(p, ", \t");
        size_t n = strcspn(p, ", \t");
        bool twice = (n == 13 && strncasecmp(p, "authorization", n) == 0) ||
                     (n == 12 && strncasecmp(p, "content-type", n) == 0);
        if (n && !twice && is_expected(p, n) && list.len + n + 3 < sizeof reply->header[0].value) {
            sp_buf_puts(&list, ", ");
            sp_buf_put(&list, p, n);
        }
        p += n;
    }
    sp_http_reply_header(reply, "Access-Control-Allow-Headers", sp_buf_str(&list));
    sp_buf_fini(&list);
}

/* Says which other origin may read the answer, if there is one. */
static void allow_origin(const sp_http_req *req, sp_http_reply *reply)
{
    const char *origin = sp_http_header(req, "Origin");
    if (!origin)
        return;
    sp_http_reply_header(reply, "Access-Control-Allow-Origin", origin);
    sp_http_reply_header(reply, "Vary", "Origin");
    sp_http_reply_header(reply, "Access-Control-Expose-Headers",
                         "X-Request-Id, Request-Id, Retry-After, X-Sparing-Stream-Id");
    if (strcmp(req->method, "OPTIONS") == 0) {
        sp_http_reply_header(reply, "Access-Control-Allow-Methods", "GET, POST, PATCH, DELETE");
        allow_fields(req, reply);
    }
}

/* --- names of requests ------------------------------------------------------------------------ */

enum { MAX_NAME = 128 };

void sp_gate_name(const char *own, const char *path, sp_http_reply *reply)
{
    static const char fine[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:/+=@-";
    char made[40];
    size_t n = own ? strlen(own) : 0;
    if (!n || n > MAX_NAME || strspn(own, fine) != n) {
        snprintf(made, sizeof made, "req_%016llx%04x", (unsigned long long)sp_rng_entropy(),
                 (unsigned)(sp_rng_entropy() & 0xffff));
        own = made;
    }
    sp_http_reply_header(reply, "X-Request-Id", own);
    if (strncmp(path, "/v1/messages", 12) == 0) /* as Anthropic's SDKs look for it */
        sp_http_reply_header(reply, "Request-Id", own);
}

/* --- keys ------------------------------------------------------------------------------------- */

static void log_key(sp_gate *g, const sp_http_req *req)
{
    char peer[SP_HTTP_ADDRESS];
    uint64_t now = sp_clock_ns();
    g->n_unlogged++;
    if (g->logged_ns && now - g->logged_ns < LOG_NS)
        return;
    sp_http_peer(req->conn, peer);
    sp_log(SP_LOG_WARN, "refused a key from %s at %.60s (%zu since the last such line)", peer,
           req->path, g->n_unlogged);
    g->n_unlogged = 0;
    g->logged_ns = now;
}

/* The key of a request: of Authorization: Bearer, or as Anthropic's and Azure's clients send it.
 * NULL: there is none. */
static const char *find_key(const sp_http_req *req)
{
    static const char bearer[] = "Bearer ";
    const char *header = sp_http_header(req, "Authorization"),
               *key = sp_http_header(req, "X-Api-Key");
    if (header)
        return strncasecmp(header, bearer, sizeof bearer - 1) == 0 ? header + sizeof bearer - 1
                                                                   : NULL;
    return key ? key : sp_http_header(req, "Api-Key");
}

static bool key_ok(const sp_app *app, const sp_rule *rule, const sp_http_req *req,
                   sp_http_reply *reply, sp_http_pass *pass)
{
    const char *key = find_key(req);
    if (rule->access == SP_PROBE || rule->access == SP_PAGE)
        return true;
    if (!sp_auth_check(app->auth, key, pass->who, &pass->all)) {
        refuse(app, C_KEY, req, reply, 401,
               "a valid API key is needed: Authorization: Bearer KEY, or x-api-key: KEY",
               "invalid_api_key");
        sp_http_reply_header(reply, "WWW-Authenticate", "Bearer");
        if (key)
            log_key(app->gate, req);
        return false;
    }
    pass->known = true;
    if (rule->access != SP_OPERATOR || pass->all)
        return true;
    refuse(app, C_ROLE, req, reply, 403, "this path is for keys whose role is operator",
           "operator_only");
    return false;
}

/* --- the body --------------------------------------------------------------------------------- */

static bool has_method(const char *methods, const char *name)
{
    size_t n = strlen(name);
    for (const char *p = methods; (p = strstr(p, name)); p++)
        if ((p == methods || p[-1] == ' ') && (p[n] == 0 || p[n] == ','))
            return true;
    return strcmp(name, "HEAD") == 0 && has_method(methods, "GET");
}

static size_t type_length(const char *type)
{
    size_t n = strcspn(type, ";");
    while (n && (type[n - 1] == ' ' || type[n - 1] == '\t'))
        n--;
    return n;
}

/* JSON under its own names, and under those that curl -d and fetch put there unasked. */
static bool is_json(const char *type)
{
    static const char *const names[] = {"application/json", "text/json", "text/plain",
                                        "application/x-www-form-urlencoded", NULL};
    size_t n = type_length(type);
    return in_list(names, type, n) || (n > 17 && strncasecmp(type, "application/", 12) == 0 &&
                                       strncasecmp(type + n - 5, "+json", 5) == 0);
}

static bool is_utf8(const char *type)
{
    const char *set = strcasestr(type, "charset=");
    set = set ? set + 8 + (set[8] == '"') : "utf-8";
    size_t n = strcspn(set, "\"; \t");
    static const char *const names[] = {"utf-8", "utf8", "us-ascii", NULL};
    return in_list(names, set, n);
}

bool sp_gate_takes_body(const char *method)
{
    return strcmp(method, "POST") == 0 || strcmp(method, "PATCH") == 0;
}

static bool body_ok(const sp_app *app, const sp_rule *rule, const sp_http_req *req,
                    sp_http_reply *reply)
{
    const char *coding = sp_http_header(req, "Content-Encoding"),
               *type = sp_http_header(req, "Content-Type");
    bool post = sp_gate_takes_body(req->method);
    if (coding && strcasecmp(coding, "identity") != 0)
        refuse(app, C_TYPE, req, reply, 415,
               "Content-Encoding: only bodies that are not compressed are taken",
               "unsupported_media_type");
    else if (!post && req->n_body)
        refuse(app, C_LENGTH, req, reply, 400, "this method takes no body", "body_not_taken");
    else if (post && rule->body == SP_BODY_FORM &&
             (!type || strncasecmp(type, "multipart/form-data", 19) != 0 ||
              type_length(type) != 19))
        refuse(app, C_TYPE, req, reply, 415, "Content-Type: this path takes multipart/form-data",
               "unsupported_media_type");
    else if (post && rule->body == SP_BODY_JSON && type && req->n_body &&
             (!is_json(type) || !is_utf8(type)))
        refuse(app, C_TYPE, req, reply, 415,
               "Content-Type: this path takes application/json in UTF-8", "unsupported_media_type");
    return reply->status == 0;
}

/* --- all of it -------------------------------------------------------------------------------- */

static bool from_here(const sp_app *app, const sp_rule *rule, const sp_http_req *req,
                      sp_http_reply *reply)
{
    const char *origin = sp_http_header(req, "Origin");
    if (!(rule && rule->access == SP_PROBE) && !host_ok(app, req))
        refuse(app, C_HOST, req, reply, 403,
               "this server does not answer to that Host; see --allow-host", "host_not_allowed");
    else if (!origin_ok(app, req, origin))
        refuse(app, C_ORIGIN, req, reply, 403,
               "requests from that Origin are not allowed; see --cors-origin",
               "origin_not_allowed");
    return reply->status == 0;
}

void sp_gate_judge(const sp_app *app, const sp_rule *rule, const sp_http_req *req,
                   sp_http_reply *reply, sp_http_pass *pass)
{
    char allow[64];
    if (!from_here(app, rule, req, reply))
        return;
    allow_origin(req, reply);
    if (!rule) {
        pass->known = sp_auth_is_open(app->auth);
        refuse(app, C_METHOD, req, reply, 404, "there is nothing at this path", "not_found");
        return;
    }
    if (strcmp(req->method, "OPTIONS") == 0) {
        if (req->n_body == 0)
            reply->status = 204;
        else
            refuse(app, C_LENGTH, req, reply, 400, "this method takes no body", "body_not_taken");
        return;
    }
    if (!key_ok(app, rule, req, reply, pass))
        return;
    if (!has_method(rule->methods, req->method)) {
        snprintf(allow, sizeof allow, "%s, OPTIONS", rule->methods);
        refuse(app, C_METHOD, req, reply, 405,
               "this path does not take this method; see the Allow header", "method_not_allowed");
        sp_http_reply_header(reply, "Allow", allow);
        return;
    }
    if (!body_ok(app, rule, req, reply))
        return;
    pass->max_body =
        rule->max_body && rule->max_body < pass->max_body ? rule->max_body : pass->max_body;
    pass->route = rule;
}
