/* One HTTP/2 session and the calls in it. nghttp2 calls back with what came, and asks for what is
 * to be sent. */
#include "net/grpc_int.h"

#include "base/clock.h"
#include "base/mem.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

enum { MAX_STREAMS = 1000 /* of a connection */, WINDOW = 1 << 20, OUT_MOST = 256 << 10 /* bytes
                             that the socket has not taken */ };

/* --- calls ------------------------------------------------------------------------------------ */

static sp_grpc_call *call_new(grpc_conn *conn, int32_t stream)
{
    sp_grpc *g = conn->g;
    sp_grpc_call *c = sp_mem_alloc(sizeof *c);
    if (!c)
        return NULL;
    c->conn = conn;
    c->stream = stream;
    c->id = ++g->next_id;
    c->due_ns = g->now_ns + g->patience_ns / 3;
    c->next = conn->calls;
    c->at = &conn->calls;
    if (c->next)
        c->next->at = &c->next;
    conn->calls = c;
    conn->n_call++;
    sp_grpc_call **bucket = &g->bucket[c->id % GRPC_BUCKETS];
    c->next_id = *bucket;
    c->at_id = bucket;
    if (c->next_id)
        c->next_id->at_id = &c->next_id;
    *bucket = c;
    atomic_fetch_add(&g->n_calls, 1);
    return c;
}

void sp_grpc_call_end_task(sp_grpc_call *c)
{
    if (c->task.close)
        c->task.close(c->task.arg);
    c->task = (sp_grpc_task){0};
}

static void drop_in(sp_grpc_call *c)
{
    c->conn->g->n_bytes -= c->in.len;
    sp_buf_fini(&c->in);
}

void sp_grpc_call_free(sp_grpc_call *c)
{
    sp_grpc *g = c->conn->g;
    sp_grpc_call_end_task(c);
    sp_metric_add(c->finished && c->status == SP_GRPC_OK ? g->done : g->failed, 1);
    *c->at = c->next;
    if (c->next)
        c->next->at = c->at;
    *c->at_id = c->next_id;
    if (c->next_id)
        c->next_id->at_id = c->at_id;
    c->conn->n_call--;
    g->n_open -= c->open;
    drop_in(c);
    atomic_fetch_sub(&g->n_calls, 1);
    sp_buf_fini(&c->fields);
    sp_buf_fini(&c->out);
    sp_buf_fini(&c->message);
    sp_mem_free(c);
}

const char *sp_grpc_field(const sp_grpc_call *c, const char *name)
{
    for (size_t at = 0; at < c->fields.len;) {
        const char *n = c->fields.p + at, *v = n + strlen(n) + 1;
        if (strcmp(n, name) == 0)
            return v;
        at += strlen(n) + strlen(v) + 2;
    }
    return NULL;
}

/* --- the answer ------------------------------------------------------------------------------- */

static nghttp2_nv field(const char *name, const char *value)
{
    return (nghttp2_nv){(uint8_t *)(uintptr_t)name, (uint8_t *)(uintptr_t)value, strlen(name),
                        strlen(value), NGHTTP2_NV_FLAG_NONE};
}

/* Status, message and delay, behind n fields that stand in nv already. */
static size_t put_end(nghttp2_nv *nv, size_t n, const sp_grpc_call *c, char status[8],
                      char retry[16])
{
    snprintf(status, 8, "%d", (int)c->status);
    nv[n++] = field("grpc-status", status);
    if (c->message.len)
        nv[n++] = field("grpc-message", sp_buf_str(&c->message));
    if (c->retry_ms) {
        snprintf(retry, 16, "%u", c->retry_ms);
        nv[n++] = field("grpc-retry-pushback-ms", retry);
    }
    return n;
}

static ssize_t on_read(nghttp2_session *s, int32_t stream, uint8_t *to, size_t cap, uint32_t *flags,
                       nghttp2_data_source *source, void *arg)
{
    sp_grpc_call *c = source->ptr;
    (void)stream, (void)arg;
    size_t n = c->out.len - c->sent < cap ? c->out.len - c->sent : cap;
    if (c->reset || (n == 0 && !c->finished)) {
        c->deferred = true;
        return NGHTTP2_ERR_DEFERRED;
    }
    if (n)
        memcpy(to, c->out.p + c->sent, n);
    c->sent += n;
    c->n_taken += n;
    if (c->full && c->out.len - c->sent < GRPC_BUFFER) {
        c->full = false;
        sp_grpc_wake(c->conn->g, c->id); /* in the next turn of the loop: here it may not send */
    }
    if (c->sent == c->out.len) {
        sp_buf_clear(&c->out);
        c->sent = 0;
    }
    if (c->finished && c->out.len == 0) {
        nghttp2_nv nv[3];
        char status[8], retry[16];
        *flags |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM;
        if (nghttp2_submit_trailer(s, c->stream, nv, put_end(nv, 0, c, status, retry)) != 0)
            return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    }
    return (ssize_t)n;
}

static void begin(sp_grpc_call *c)
{
    const nghttp2_data_provider data = {.source.ptr = c, .read_callback = on_read};
    nghttp2_nv nv[5] = {field(":status", "200"), field("content-type", "application/grpc")};
    char status[8], retry[16];
    bool alone = c->finished && c->out.len == 0;
    size_t n = alone ? put_end(nv, 2, c, status, retry) : 2;
    c->begun = true;
    if (nghttp2_submit_response(c->conn->session, c->stream, nv, n, alone ? NULL : &data) != 0)
        (void)nghttp2_submit_rst_stream(c->conn->session, NGHTTP2_FLAG_NONE, c->stream,
                                        NGHTTP2_INTERNAL_ERROR);
}

static void go_on(sp_grpc_call *c)
{
    if (!c->begun)
        begin(c);
    else if (c->deferred) {
        c->deferred = false;
        (void)nghttp2_session_resume_data(c->conn->session, c->stream);
    }
}

bool sp_grpc_room(const sp_grpc_call *c)
{
    return !c->finished && c->out.len - c->sent < GRPC_BUFFER;
}

/* Forgets bytes that have left, before more come behind them: a client that never catches up would
 * else have the whole answer in memory. */
static void forget_sent(sp_buf *out, size_t *sent, size_t most)
{
    if (*sent < most)
        return;
    sp_buf_drop(out, *sent);
    *sent = 0;
}

uint8_t *sp_grpc_add(sp_grpc_call *c, size_t n)
{
    const uint8_t head[5] = {0, (uint8_t)(n >> 24), (uint8_t)(n >> 16), (uint8_t)(n >> 8),
                             (uint8_t)n};
    if (c->finished)
        return NULL;
    forget_sent(&c->out, &c->sent, GRPC_BUFFER);
    sp_buf_put(&c->out, head, sizeof head);
    sp_buf_reserve(&c->out, n);
    if (c->out.failed) {
        sp_grpc_finish(c, SP_GRPC_RESOURCE_EXHAUSTED, "no memory for the answer", 1000);
        return NULL;
    }
    uint8_t *to = (uint8_t *)c->out.p + c->out.len;
    c->out.len += n;
    c->out.p[c->out.len] = 0;
    c->full = c->out.len - c->sent >= GRPC_BUFFER;
    go_on(c); /* it is read in the next flush, not here */
    return to;
}

void sp_grpc_send(sp_grpc_call *c, const void *p, size_t n)
{
    uint8_t *to = sp_grpc_add(c, n);
    if (to && n)
        memcpy(to, p, n);
}

void sp_grpc_finish(sp_grpc_call *c, sp_grpc_status status, const char *message, unsigned retry_ms)
{
    if (c->finished)
        return;
    if (c->out.failed) {
        sp_buf_fini(&c->out);
        c->sent = 0;
    }
    c->finished = true;
    c->status = status;
    c->retry_ms = retry_ms;
    if (message)
        sp_grpc_encode(&c->message, message);
    go_on(c);
}

void sp_grpc_call_pull(sp_grpc_call *c)
{
    if (c->task.pull && sp_grpc_room(c))
        c->task.pull(c->task.arg);
    if (c->finished) {
        sp_grpc_call_end_task(c);
        drop_in(c);
    }
}

/* It ends without what it has to say, for a client that does not take it. */
static void reset(sp_grpc_call *c)
{
    c->finished = c->reset = true;
    c->status = SP_GRPC_CANCELLED;
    sp_buf_fini(&c->out);
    c->sent = 0;
    (void)nghttp2_submit_rst_stream(c->conn->session, NGHTTP2_FLAG_NONE, c->stream,
                                    NGHTTP2_CANCEL);
}

bool sp_grpc_call_keep_time(sp_grpc_call *c)
{
    const sp_grpc *g = c->conn->g;
    if (!c->finished && c->deadline_ns && g->now_ns > c->deadline_ns)
        sp_grpc_finish(c, SP_GRPC_DEADLINE_EXCEEDED, "the deadline has passed", 0);
    if (!c->finished && !c->ended && c->due_ns && g->now_ns > c->due_ns) {
        if (!c->method) /* in the middle of its head: nothing else can come on this connection */
            return false;
        sp_grpc_finish(c, SP_GRPC_DEADLINE_EXCEEDED, "the message did not come in time", 0);
    }
    size_t waiting = c->out.len - c->sent + c->finished; /* the end waits too */
    if (!c->reset && sp_pace_is_late(&c->pace, c->n_taken, waiting, g->now_ns, g->patience_ns))
        reset(c);
    return true;
}

/* The next message must be whole in time. */
static void expect_message(sp_grpc_call *c)
{
    const sp_grpc *g = c->conn->g;
    size_t cap = c->method->max_message ? c->method->max_message : g->cfg.max_message;
    c->due_ns = g->now_ns + g->patience_ns + cap * 1000000000ull / GRPC_RATE;
}

/* --- what came -------------------------------------------------------------------------------- */

static sp_grpc_call *call_of(nghttp2_session *s, int32_t stream)
{
    return stream ? nghttp2_session_get_stream_user_data(s, stream) : NULL;
}

static int on_begin_headers(nghttp2_session *s, const nghttp2_frame *f, void *arg)
{
    grpc_conn *conn = arg;
    if (f->hd.type != NGHTTP2_HEADERS || f->headers.cat != NGHTTP2_HCAT_REQUEST)
        return 0;
    sp_grpc_call *c = atomic_load(&conn->g->n_calls) < conn->g->cfg.max_calls
                          ? call_new(conn, f->hd.stream_id)
                          : NULL;
    if (!c) /* the client may try another time, or another server */
        return nghttp2_submit_rst_stream(s, NGHTTP2_FLAG_NONE, f->hd.stream_id,
                                         NGHTTP2_REFUSED_STREAM);
    return nghttp2_session_set_stream_user_data(s, f->hd.stream_id, c);
}

static int on_header(nghttp2_session *s, const nghttp2_frame *f, const uint8_t *name, size_t n_name,
                     const uint8_t *value, size_t n_value, uint8_t flags, void *arg)
{
    sp_grpc_call *c = call_of(s, f->hd.stream_id);
    (void)flags, (void)arg;
    if (!c || f->headers.cat != NGHTTP2_HCAT_REQUEST)
        return 0;
    if (c->fields.len + n_name + n_value + 2 > GRPC_FIELDS || memchr(value, 0, n_value))
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    if (n_name == 5 && memcmp(name, ":path", 5) == 0)
        snprintf(c->path, sizeof c->path, "%.*s",
                 (int)(n_value < sizeof c->path ? n_value : sizeof c->path - 1),
                 (const char *)value);
    c->is_post = c->is_post || (n_name == 7 && memcmp(name, ":method", 7) == 0 && n_value == 4 &&
                                memcmp(value, "POST", 4) == 0);
    c->is_grpc = c->is_grpc || (n_name == 12 && memcmp(name, "content-type", 12) == 0 &&
                                n_value >= 16 && memcmp(value, "application/grpc", 16) == 0);
    if (name[0] == ':')
        return 0;
    sp_buf_put(&c->fields, (const char *)name, n_name);
    sp_buf_putc(&c->fields, 0);
    sp_buf_put(&c->fields, (const char *)value, n_value);
    sp_buf_putc(&c->fields, 0);
    return c->fields.failed ? NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE : 0;
}

/* The head is whole: which method it is, and may it be called? */
static void judge(sp_grpc_call *c)
{
    sp_grpc *g = c->conn->g;
    const sp_grpc_cfg *cfg = &g->cfg;
    const char *timeout = sp_grpc_field(c, "grpc-timeout"),
               *coding = sp_grpc_field(c, "grpc-encoding");
    if (!c->is_post || !c->is_grpc) {
        const nghttp2_nv nv[] = {field(":status", c->is_post ? "415" : "405")};
        c->finished = c->begun = true;
        c->status = SP_GRPC_UNIMPLEMENTED;
        (void)nghttp2_submit_response(c->conn->session, c->stream, nv, 1, NULL);
        return;
    }
    for (size_t i = 0; i < cfg->n_method && !c->method; i++)
        c->method = strcmp(cfg->method[i].path, c->path) == 0 ? &cfg->method[i] : NULL;
    if (timeout && !sp_grpc_timeout(timeout))
        sp_grpc_finish(c, SP_GRPC_INVALID_ARGUMENT, "grpc-timeout is no time", 0);
    else if (!c->method)
        sp_grpc_finish(c, SP_GRPC_UNIMPLEMENTED, "there is no such method here", 0);
    else if (coding && strcmp(coding, "identity") != 0)
        sp_grpc_finish(c, SP_GRPC_UNIMPLEMENTED, "messages must not be compressed", 0);
    else if (c->method->open && g->n_open >= (cfg->max_calls + 1) / 2)
        sp_grpc_finish(c, SP_GRPC_RESOURCE_EXHAUSTED, "too many calls that need no key", 1000);
    if (timeout)
        c->deadline_ns = g->now_ns + sp_grpc_timeout(timeout);
    if (c->finished)
        return;
    expect_message(c);
    c->open = c->method->open;
    g->n_open += c->open;
    if (cfg->gate(cfg->app, c, c->method, c->who))
        c->conn->known = true;
}

/* Hands over each whole message. */
static void take_messages(sp_grpc_call *c)
{
    sp_grpc *g = c->conn->g;
    size_t cap = c->method && c->method->max_message ? c->method->max_message : g->cfg.max_message;
    while (!c->finished && c->method) {
        const uint8_t *msg;
        size_t n, used;
        sp_err err = sp_grpc_frame(&msg, &n, &used, (const uint8_t *)c->in.p, c->in.len, cap);
        if (err == SP_AGAIN)
            break;
        if (err != SP_OK) {
            sp_grpc_finish(c, err == SP_LIMIT ? SP_GRPC_RESOURCE_EXHAUSTED : SP_GRPC_UNIMPLEMENTED,
                           err == SP_LIMIT ? "the message is larger than this method accepts"
                                           : "messages must not be compressed",
                           0);
        } else if (c->n_message++ && !c->method->many) {
            sp_grpc_finish(c, SP_GRPC_INVALID_ARGUMENT, "this method takes one message", 0);
        } else {
            c->method->message(g->cfg.app, c, msg, n);
            sp_buf_drop(&c->in, used);
            g->n_bytes -= used;
            c->due_ns = 0;
            if (c->method->many)
                c->due_ns = g->now_ns + GRPC_IDLE_S * 1000000000ull;
            if (c->in.len)
                expect_message(c);
        }
    }
}

static int on_data(nghttp2_session *s, uint8_t flags, int32_t stream, const uint8_t *p, size_t n,
                   void *arg)
{
    sp_grpc_call *c = call_of(s, stream);
    grpc_conn *conn = arg;
    sp_grpc *g = conn->g;
    (void)flags;
    if (!c || c->finished)
        return 0;
    size_t had = c->in.len;
    if (g->n_bytes + n <= g->cfg.max_bytes)
        sp_buf_put(&c->in, (const char *)p, n);
    g->n_bytes += c->in.len - had;
    if (c->in.len == had + n) {
        if (had == 0 && c->n_message)
            expect_message(c);
        take_messages(c);
    } else {
        sp_grpc_finish(c, SP_GRPC_RESOURCE_EXHAUSTED,
                       c->in.failed ? "no memory for the message"
                                    : "too many messages are being received",
                       1000);
    }
    if (c->finished)
        drop_in(c);
    return 0;
}

static int on_frame(nghttp2_session *s, const nghttp2_frame *f, void *arg)
{
    sp_grpc_call *c = call_of(s, f->hd.stream_id);
    (void)arg;
    if (!c)
        return 0;
    if (f->hd.type == NGHTTP2_HEADERS && f->headers.cat == NGHTTP2_HCAT_REQUEST)
        judge(c);
    if ((f->hd.type == NGHTTP2_HEADERS || f->hd.type == NGHTTP2_DATA) &&
        f->hd.flags & NGHTTP2_FLAG_END_STREAM) {
        c->ended = true;
        if (!c->finished && (c->in.len || (c->n_message == 0 && !c->method->many)))
            sp_grpc_finish(c, SP_GRPC_INVALID_ARGUMENT, "the message is not whole", 0);
        else if (!c->finished && c->method->many && !c->task.arg)
            sp_grpc_finish(c, SP_GRPC_OK, NULL, 0);
        else
            sp_grpc_call_pull(c);
    }
    return 0;
}

/* What is said to a client that has not said all: it need not go on. */
static int on_frame_sent(nghttp2_session *s, const nghttp2_frame *f, void *arg)
{
    sp_grpc_call *c = call_of(s, f->hd.stream_id);
    (void)arg;
    if (c && c->finished && !c->ended && f->hd.type == NGHTTP2_HEADERS &&
        f->hd.flags & NGHTTP2_FLAG_END_STREAM)
        return nghttp2_submit_rst_stream(s, NGHTTP2_FLAG_NONE, f->hd.stream_id, NGHTTP2_NO_ERROR);
    return 0;
}

static int on_stream_close(nghttp2_session *s, int32_t stream, uint32_t code, void *arg)
{
    sp_grpc_call *c = call_of(s, stream);
    (void)code, (void)arg;
    if (c) {
        (void)nghttp2_session_set_stream_user_data(s, stream, NULL);
        sp_grpc_call_free(c);
    }
    return 0;
}

sp_err sp_grpc_callbacks(sp_grpc *g)
{
    if (nghttp2_session_callbacks_new(&g->callbacks) != 0 || nghttp2_option_new(&g->option) != 0)
        return SP_NOMEM;
    nghttp2_session_callbacks_set_on_begin_headers_callback(g->callbacks, on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(g->callbacks, on_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(g->callbacks, on_data);
    nghttp2_session_callbacks_set_on_frame_recv_callback(g->callbacks, on_frame);
    nghttp2_session_callbacks_set_on_frame_send_callback(g->callbacks, on_frame_sent);
    nghttp2_session_callbacks_set_on_stream_close_callback(g->callbacks, on_stream_close);
    nghttp2_option_set_stream_reset_rate_limit(g->option, 2000, 200);
    return SP_OK;
}

bool sp_grpc_conn_open(grpc_conn *c)
{
    const nghttp2_settings_entry all[] = {{NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, MAX_STREAMS},
                                          {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, WINDOW},
                                          {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, GRPC_FIELDS}};
    return nghttp2_session_server_new2(&c->session, c->g->callbacks, c, c->g->option) == 0 &&
           nghttp2_submit_settings(c->session, NGHTTP2_FLAG_NONE, all,
                                   sizeof all / sizeof all[0]) == 0 &&
           nghttp2_session_set_local_window_size(c->session, NGHTTP2_FLAG_NONE, 0, 4 * WINDOW) == 0;
}

bool sp_grpc_conn_read(grpc_conn *c, const uint8_t *p, size_t n)
{
    return nghttp2_session_mem_recv(c->session, p, n) == (ssize_t)n;
}

void sp_grpc_conn_leave(grpc_conn *c)
{
    c->leaving = true;
    (void)nghttp2_submit_goaway(c->session, NGHTTP2_FLAG_NONE,
                                nghttp2_session_get_last_proc_stream_id(c->session),
                                NGHTTP2_NO_ERROR, NULL, 0);
}

bool sp_grpc_conn_is_full(const grpc_conn *c)
{
    return c->out.len - c->sent >= OUT_MOST;
}

bool sp_grpc_conn_flush(grpc_conn *c)
{
    for (;;) {
        const uint8_t *p;
        while (c->out.len - c->sent < OUT_MOST) {
            ssize_t n = nghttp2_session_mem_send(c->session, &p);
            if (n < 0)
                return false;
            if (n == 0)
                break;
            forget_sent(&c->out, &c->sent, OUT_MOST);
            sp_buf_put(&c->out, (const char *)p, (size_t)n);
        }
        if (c->out.failed)
            return false;
        if (c->sent == c->out.len)
            return nghttp2_session_want_read(c->session) || nghttp2_session_want_write(c->session);
        const char *from = c->out.p + c->sent;
        size_t left = c->out.len - c->sent;
        ssize_t n = c->tls ? sp_tls_send(c->tls, from, left)
                           : send(c->fd, from, left, MSG_NOSIGNAL);
        if (n < 0)
            return errno == EAGAIN || errno == EINTR;
        c->sent += (size_t)n;
        c->n_taken += (size_t)n;
        if (c->sent == c->out.len) {
            sp_buf_clear(&c->out);
            c->sent = 0;
        }
    }
}
