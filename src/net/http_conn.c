/* One connection's way from the head of a request to the end of its answer. */
#include "net/http_int.h"

#include "base/clock.h"
#include "base/mem.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

enum { CHARGE_STEP = 64 * 1024 };

const char *sp_http_header(const sp_http_req *r, const char *name)
{
    return r->head ? sp_head_field(r->head, name) : NULL;
}

const char *sp_http_query(const sp_http_req *r, const char *name)
{
    return r->head ? sp_head_query(r->head, name) : NULL;
}

void sp_http_reply_header(sp_http_reply *r, const char *name, const char *value)
{
    SP_ASSERT(r->n_header < SP_HTTP_HEADERS);
    r->header[r->n_header].name = name;
    snprintf(r->header[r->n_header++].value, sizeof r->header[0].value, "%s", value);
}

static void enter(sp_http_conn *c, sp_http_state state, uint64_t seconds)
{
    bool was = c->state != READ_HEAD && c->state != LINGER,
         is = state != READ_HEAD && state != LINGER;
    if (is && !was)
        atomic_fetch_add(&c->http->n_work, 1);
    if (was && !is)
        atomic_fetch_sub(&c->http->n_work, 1);
    c->state = state;
    c->end_ns = seconds ? c->http->now_ns + seconds * 1000000000u : UINT64_MAX;
}

void sp_http_conn_know(sp_http_conn *c)
{
    c->http->n_unknown -= !c->known;
    c->known = true;
}

bool sp_http_conn_is_idle(const sp_http_conn *c)
{
    return c->state == READ_HEAD && c->in.len == 0;
}

/* Books n bytes for the body of this request. False: all requests together hold too many. */
static bool charge(sp_http_conn *c, size_t n)
{
    sp_http *h = c->http;
    if (n > c->charged && n - c->charged > h->cfg.max_bodies - h->n_body)
        return false;
    h->n_body += n - c->charged;
    c->charged = n;
    return true;
}

static void drop_body(sp_http_conn *c)
{
    (void)charge(c, 0);
    sp_buf_fini(&c->body);
}

void sp_http_conn_reset(sp_http_conn *c)
{
    if (c->task.arg)
        c->task.close(c->task.arg); /* outside every lock: it waits for the engine's notify */
    c->task = (sp_http_task){0};
    drop_body(c);
    sp_buf_fini(&c->fields);
    sp_buf_fini(&c->out);
    sp_buf_fini(&c->payload);
    sp_mem_free(c->text);
    sp_mem_free(c->head);
    c->text = NULL;
    c->head = NULL;
    c->sent = 0;
    c->ended = c->ping = false;
    c->chunks = (sp_chunks){0};
    enter(c, READ_HEAD, IDLE_S);
}

/* --- answers ---------------------------------------------------------------------------------- */

static const char *reason(int status)
{
    static const struct { int status; const char *text;
    } of[] = {{200, "OK"},
              {204, "No Content"},
              {304, "Not Modified"},
              {400, "Bad Request"},
              {401, "Unauthorized"},
              {403, "Forbidden"},
              {404, "Not Found"},
              {405, "Method Not Allowed"},
              {408, "Request Timeout"},
              {409, "Conflict"},
              {410, "Gone"},
              {412, "Precondition Failed"},
              {413, "Content Too Large"},
              {415, "Unsupported Media Type"},
              {417, "Expectation Failed"},
              {429, "Too Many Requests"},
              {431, "Request Header Fields Too Large"},
              {500, "Internal Server Error"},
              {501, "Not Implemented"},
              {502, "Bad Gateway"},
              {503, "Service Unavailable"},
              {504, "Gateway Timeout"},
              {505, "HTTP Version Not Supported"}};
    for (size_t i = 0; i < sizeof of / sizeof of[0]; i++)
        if (of[i].status == status)
            return of[i].text;
    return "Other";
}

static void put_fields(sp_buf *out, const sp_http_reply *r)
{
    for (size_t i = 0; i < r->n_header; i++)
        sp_buf_printf(out, "%s: %s\r\n", r->header[i].name, r->header[i].value);
}

/* The head of the answer goes out, and its body behind it. */
static sp_http_next send_reply(sp_http_conn *c, sp_http_reply *r)
{
    bool is_head = c->head && strcmp(c->head->method, "HEAD") == 0;
    if (r->body.failed) {
        sp_buf_fini(&r->body);
        r->status = 503;
    }
    c->closing = c->closing || !c->head || !c->head->keep || atomic_load(&c->http->quiet) ||
                 (r->stream && c->head->old);
    sp_buf_printf(&c->out, "HTTP/1.1 %d %s\r\nDate: %s\r\n", r->status, reason(r->status),
                  c->http->date);
    if (c->closing)
        sp_buf_puts(&c->out, "Connection: close\r\n");
    else if (c->head->old)
        sp_buf_puts(&c->out, "Connection: keep-alive\r\n");
    if (r->type)
        sp_buf_printf(&c->out, "Content-Type: %s\r\n", r->type);
    sp_buf_put(&c->out, c->fields.p, c->fields.len);
    put_fields(&c->out, r);
    if (r->stream && !c->head->old)
        sp_buf_puts(&c->out, "Transfer-Encoding: chunked\r\n");
    else if (!r->stream && r->status != 204 && r->status != 304)
        sp_buf_printf(&c->out, "Content-Length: %zu\r\n", r->body.len);
    sp_buf_puts(&c->out, "\r\n");
    if (!is_head)
        c->payload = r->body;
    else
        sp_buf_fini(&r->body);
    drop_body(c);
    c->last_ns = c->http->now_ns;
    c->pace = (sp_pace){0};
    enter(c, r->stream ? STREAM : SEND, 0);
    return c->out.failed ? GONE : GO_ON;
}

bool sp_http_is_past_gate(const sp_http_conn *c)
{
    return c->fields.len > 0;
}

const char *sp_http_path(const sp_http_conn *c)
{
    return c->head && c->head->path ? c->head->path : "";
}

/* Refused before its body was read: the connection ends with the answer, because what follows is
 * not known to be a request. */
static sp_http_next refuse(sp_http_conn *c, int status, const char *why)
{
    sp_http_reply reply = {.status = status};
    c->http->cfg.refuse(c->http->cfg.app, c, status, why, &reply);
    c->closing = true;
    return send_reply(c, &reply);
}

/* Sends what is there. True: everything. */
static bool flush(sp_http_conn *c, bool *lost)
{
    while (c->sent < c->out.len + c->payload.len) {
        struct iovec v[2];
        struct msghdr m = {.msg_iov = v};
        if (c->sent < c->out.len)
            v[m.msg_iovlen++] = (struct iovec){c->out.p + c->sent, c->out.len - c->sent};
        size_t from = c->sent > c->out.len ? c->sent - c->out.len : 0;
        if (from < c->payload.len)
            v[m.msg_iovlen++] = (struct iovec){c->payload.p + from, c->payload.len - from};
        ssize_t n = sendmsg(c->fd, &m, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        *lost = n < 0 && errno != EAGAIN;
        if (n < 0)
            return false;
        c->sent += (size_t)n;
        c->n_taken += (size_t)n;
    }
    sp_buf_clear(&c->out);
    sp_buf_fini(&c->payload);
    c->sent = 0;
    return true;
}

/* The answer has left: to the next request, or to the end. */
static sp_http_next finish(sp_http_conn *c)
{
    bool closing = c->closing;
    sp_http_conn_reset(c);
    if (!closing)
        return GO_ON;
    if (shutdown(c->fd, SHUT_WR) != 0)
        return GONE;
    sp_buf_fini(&c->in);
    enter(c, LINGER, LINGER_S);
    return WAIT;
}

static sp_http_next step_send(sp_http_conn *c)
{
    bool lost = false;
    if (!flush(c, &lost))
        return lost ? GONE : WAIT;
    return finish(c);
}

static sp_http_next step_stream(sp_http_conn *c)
{
    bool lost = false, ping = c->ping;
    if (!flush(c, &lost))
        return lost ? GONE : WAIT;
    if (c->ended)
        return finish(c);
    c->ping = false;
    sp_buf text = {0};
    c->task.pull(c->task.arg, &text, ping, &c->ended);
    bool failed = text.failed;
    if (text.len && !c->head->old)
        sp_buf_printf(&c->out, "%zx\r\n", text.len);
    sp_buf_put(&c->out, text.p, text.len);
    if (text.len && !c->head->old)
        sp_buf_puts(&c->out, "\r\n");
    if (c->ended && !c->head->old)
        sp_buf_puts(&c->out, "0\r\n\r\n");
    bool more = text.len || c->ended;
    sp_buf_fini(&text);
    if (failed || c->out.failed)
        return GONE; /* without the last chunk: the client sees that the answer is not whole */
    if (more)
        c->last_ns = c->http->now_ns;
    return more ? GO_ON : WAIT;
}

/* --- requests --------------------------------------------------------------------------------- */

static sp_http_req request_of(sp_http_conn *c)
{
    return (
        sp_http_req){.method = c->head->method, .path = c->head->path, .head = c->head, .conn = c};
}

/* The head is parsed: the gate decides, then the body may come. */
static sp_http_next pass_gate(sp_http_conn *c)
{
    const sp_http_cfg *cfg = &c->http->cfg;
    sp_http_reply reply = {0};
    sp_http_req req = request_of(c);
    bool has_body = c->head->chunked || c->head->length;
    req.n_body = c->head->chunked ? SIZE_MAX : c->head->length;
    c->pass = (sp_http_pass){.max_body = cfg->max_body};
    cfg->gate(cfg->app, &req, &reply, &c->pass);
    if (reply.status) {
        c->closing = c->closing || has_body;
        return send_reply(c, &reply);
    }
    if (c->pass.known)
        sp_http_conn_know(c);
    put_fields(&c->fields, &reply);
    if (c->head->length > c->pass.max_body)
        return refuse(c, 413, NULL);
    if (!charge(c, c->head->length))
        return refuse(c, 503,
                      "the bodies of other requests take all the memory there is for bodies; see "
                      "--max-bodies");
    if (c->head->length)
        sp_buf_reserve(&c->body, c->head->length);
    if (c->body.failed)
        return refuse(c, 503, "no memory for the body");
    static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
    if (c->head->expect && has_body && c->in.len == 0 &&
        send(c->fd, go_on, sizeof go_on - 1, MSG_NOSIGNAL) != sizeof go_on - 1)
        return GONE;
    enter(c, READ_BODY,
          BODY_S + (c->head->chunked ? c->pass.max_body : c->head->length) / BODY_RATE);
    return GO_ON;
}

static sp_http_next step_head(sp_http_conn *c)
{
    sp_diag d = {0};
    size_t crlf = 0;
    while (c->in.len - crlf >= 2 && memcmp(c->in.p + crlf, "\r\n", 2) == 0)
        crlf += 2; /* some clients end a body with it */
    sp_buf_drop(&c->in, crlf);
    if (c->in.len == 0) {
        sp_buf_fini(&c->in);
        return atomic_load(&c->http->quiet) ? GONE : WAIT;
    }
    size_t n = sp_head_end(c->in.p, c->in.len);
    if (n > SP_HEAD_BYTES || (n == 0 && c->in.len >= SP_HEAD_BYTES))
        return refuse(c, 431, "the head of the request has more than 32 KiB");
    if (n == 0)
        return WAIT;
    c->text = sp_mem_alloc(n + 1);
    c->head = sp_mem_alloc(sizeof *c->head);
    if (!c->text || !c->head)
        return GONE;
    memcpy(c->text, c->in.p, n);
    sp_buf_drop(&c->in, n);
    if (sp_head_parse(c->head, c->text, n, &d) != SP_OK) {
        c->head->keep = false;
        return refuse(c, c->head->status, d.msg);
    }
    return pass_gate(c);
}

static sp_http_next take_chunks(sp_http_conn *c, bool *whole)
{
    size_t used = 0, want = c->body.len + c->in.len;
    if (want > c->charged && !charge(c, (want / CHARGE_STEP + 1) * CHARGE_STEP))
        return refuse(c, 503,
                      "the bodies of other requests take all the memory there is for bodies; see "
                      "--max-bodies");
    sp_err err = sp_chunks_take(&c->chunks, &c->body, c->pass.max_body, c->in.p, c->in.len, &used);
    if (err != SP_OK)
        return err == SP_LIMIT   ? refuse(c, 413, NULL)
               : err == SP_NOMEM ? refuse(c, 503, "no memory for the body")
                                 : refuse(c, 400, "the body is not in chunks as HTTP/1.1 has them");
    sp_buf_drop(&c->in, used);
    *whole = c->chunks.state == SP_CHUNK_DONE;
    return WAIT;
}

static sp_http_next step_body(sp_http_conn *c)
{
    const sp_http_cfg *cfg = &c->http->cfg;
    bool whole = false;
    if (c->head->chunked) {
        sp_http_next next = c->in.len ? take_chunks(c, &whole) : WAIT;
        if (next != WAIT)
            return next;
    } else {
        size_t left = c->head->length - c->body.len, n = c->in.len < left ? c->in.len : left;
        sp_buf_put(&c->body, c->in.p, n);
        sp_buf_drop(&c->in, n);
        if (c->body.failed)
            return refuse(c, 503, "no memory for the body");
        whole = n == left;
    }
    if (!whole)
        return WAIT;
    sp_http_reply reply = {0};
    sp_http_req req = request_of(c);
    req.body = sp_buf_str(&c->body);
    req.n_body = c->body.len;
    req.pass = &c->pass;
    enter(c, WORK, 0);
    c->last_ns = c->http->now_ns;
    cfg->handler(cfg->app, &req, &reply, &c->task);
    if (!c->task.arg)
        return send_reply(c, &reply);
    sp_buf_fini(&reply.body);
    return GO_ON;
}

static sp_http_next step_work(sp_http_conn *c)
{
    sp_http_reply reply = {0};
    c->ping = false;
    if (c->task.start(c->task.arg, &reply) == SP_OK)
        return send_reply(c, &reply);
    sp_buf_fini(&reply.body);
    return WAIT;
}

sp_http_next sp_http_conn_step(sp_http_conn *c)
{
    switch (c->state) {
    case READ_HEAD: return step_head(c);
    case READ_BODY: return step_body(c);
    case WORK: return step_work(c);
    case STREAM: return step_stream(c);
    case SEND: return step_send(c);
    default: return WAIT;
    }
}
