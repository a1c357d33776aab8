/* HTTP over libmicrohttpd. Per connection:
 *   READING -> RUNNING (handler called) <-> SUSPENDED -> gone (request completed)
 * Guard: conn.state, woken, ping, gone, last_ns: conn.lock. The list of connections: http.lock.
 * A wake that comes while RUNNING is remembered (woken), so that none is lost between a pull that
 * found nothing and the suspend that follows it. */
#include "net/http.h"

#include "base/clock.h"
#include "base/lock.h"
#include "base/mem.h"

#include <arpa/inet.h>
#include <errno.h>
#include <microhttpd.h>
#include <netdb.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { HEAD_BYTES = 32 * 1024, IDLE_S = 60, STREAM_BLOCK = 16 * 1024, TICK_MS = 250, PING_NS = 1000000000 };

typedef enum state { READING, RUNNING, SUSPENDED } state;

struct sp_http_conn {
    sp_http *http;
    sp_http_conn *next, **at; /* list of requests in work; guard: http.lock */
    struct MHD_Connection *mhd;
    char *method, *path;
    sp_buf body;
    bool too_large, handled;
    sp_http_task task;
    sp_buf out;       /* stream bytes not yet sent */
    bool done;
    sp_lock lock;     /* rank NET */
    state state;
    bool woken, ping, gone;
    uint64_t id, last_ns;
};

struct sp_http {
    sp_http_cfg cfg;
    struct MHD_Daemon *daemon;
    uint16_t port;
    int epoll;
    pthread_t watcher;
    bool watching;
    _Atomic bool stop;
    sp_lock lock; /* rank API: outside a connection's */
    sp_http_conn *conns;
    uint64_t next_id;
    size_t n_conn;
};

const char *sp_http_header(const sp_http_req *r, const char *name)
{
    return MHD_lookup_connection_value(r->conn->mhd, MHD_HEADER_KIND, name);
}

const char *sp_http_query(const sp_http_req *r, const char *name)
{
    return MHD_lookup_connection_value(r->conn->mhd, MHD_GET_ARGUMENT_KIND, name);
}

void sp_http_reply_header(sp_http_reply *r, const char *name, const char *value)
{
    SP_ASSERT(r->n_header < SP_HTTP_HEADERS);
    r->header[r->n_header].name = name;
    snprintf(r->header[r->n_header++].value, sizeof r->header[0].value, "%s", value);
}

/* --- waking ----------------------------------------------------------------------------------- */

static void wake(sp_http_conn *c, bool ping)
{
    sp_lock_get(&c->lock);
    c->ping = c->ping || ping;
    bool resume = c->state == SUSPENDED;
    if (resume)
        c->state = RUNNING;
    else
        c->woken = true;
    sp_lock_put(&c->lock);
    if (resume)
        MHD_resume_connection(c->mhd);
}

void sp_http_wake(sp_http_conn *c)
{
    if (c)
        wake(c, false);
}

/* Suspends unless a wake has come meanwhile; true when suspended. */
static bool suspend(sp_http_conn *c)
{
    sp_lock_get(&c->lock);
    bool go = !c->woken;
    c->woken = false;
    if (go) {
        c->state = SUSPENDED;
        MHD_suspend_connection(c->mhd);
    }
    sp_lock_put(&c->lock);
    return go;
}

static void on_hangup(sp_http *h, uint64_t id)
{
    sp_lock_get(&h->lock);
    for (sp_http_conn *c = h->conns; c; c = c->next) {
        if (c->id != id)
            continue;
        sp_lock_get(&c->lock);
        c->gone = true;
        sp_lock_put(&c->lock);
        wake(c, false);
        break;
    }
    sp_lock_put(&h->lock);
}

static void ping_quiet(sp_http *h)
{
    uint64_t now = sp_clock_ns();
    sp_lock_get(&h->lock);
    for (sp_http_conn *c = h->conns; c; c = c->next) {
        sp_lock_get(&c->lock);
        bool quiet = c->state == SUSPENDED && now - c->last_ns >= PING_NS;
        if (quiet)
            c->last_ns = now;
        sp_lock_put(&c->lock);
        if (quiet)
            wake(c, true);
    }
    sp_lock_put(&h->lock);
}

static void *watcher_main(void *arg)
{
    sp_http *h = arg;
    struct epoll_event ev[64];
    while (!atomic_load(&h->stop)) {
        int n = epoll_wait(h->epoll, ev, 64, TICK_MS);
        for (int i = 0; i < n; i++)
            on_hangup(h, ev[i].data.u64);
        ping_quiet(h);
    }
    return NULL;
}

/* --- requests --------------------------------------------------------------------------------- */

static sp_http_conn *conn_new(sp_http *h, struct MHD_Connection *mhd, const char *method, const char *path)
{
    sp_http_conn *c = sp_mem_alloc(sizeof *c);
    if (!c)
        return NULL;
    c->http = h;
    c->mhd = mhd;
    c->method = sp_mem_strdup(method);
    c->path = sp_mem_strdup(path);
    if (!c->method || !c->path) {
        sp_mem_free(c->method);
        sp_mem_free(c->path);
        sp_mem_free(c);
        return NULL;
    }
    sp_lock_init(&c->lock, SP_RANK_NET);
    sp_lock_get(&h->lock);
    c->id = ++h->next_id;
    c->next = h->conns;
    c->at = &h->conns;
    if (c->next)
        c->next->at = &c->next;
    h->conns = c;
    h->n_conn++;
    sp_lock_put(&h->lock);
    return c;
}

static void conn_free(sp_http_conn *c)
{
    sp_http *h = c->http;
    sp_lock_get(&h->lock);
    *c->at = c->next;
    if (c->next)
        c->next->at = c->at;
    h->n_conn--;
    sp_lock_put(&h->lock);
    if (c->task.arg)
        c->task.close(c->task.arg); /* outside every lock: it waits for the engine's notify */
    sp_lock_fini(&c->lock);
    sp_buf_fini(&c->body);
    sp_buf_fini(&c->out);
    sp_mem_free(c->method);
    sp_mem_free(c->path);
    sp_mem_free(c);
}

/* Hang-ups matter from the moment work starts. EPOLLONESHOT: told once. */
static void watch(sp_http_conn *c)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(c->mhd, MHD_CONNECTION_INFO_CONNECTION_FD);
    struct epoll_event ev = {.events = EPOLLRDHUP | EPOLLONESHOT, .data.u64 = c->id};
    if (!info)
        return;
    if (epoll_ctl(c->http->epoll, EPOLL_CTL_ADD, info->connect_fd, &ev) != 0 && errno == EEXIST)
        epoll_ctl(c->http->epoll, EPOLL_CTL_MOD, info->connect_fd, &ev); /* a kept-alive connection */
}

static ssize_t read_stream(void *cls, uint64_t pos, char *buf, size_t max)
{
    sp_http_conn *c = cls;
    (void)pos;
    for (;;) {
        if (c->out.len) {
            size_t n = c->out.len < max ? c->out.len : max;
            memcpy(buf, c->out.p, n);
            sp_buf_drop(&c->out, n);
            return (ssize_t)n;
        }
        if (c->done)
            return MHD_CONTENT_READER_END_OF_STREAM;
        sp_lock_get(&c->lock);
        bool ping = c->ping, gone = c->gone;
        c->ping = false;
        c->last_ns = sp_clock_ns();
        sp_lock_put(&c->lock);
        if (gone || c->out.failed)
            return MHD_CONTENT_READER_END_WITH_ERROR;
        c->task.pull(c->task.arg, &c->out, ping, &c->done);
        if (!c->out.len && !c->done && suspend(c))
            return 0;
    }
}

static enum MHD_Result send_reply(sp_http_conn *c, sp_http_reply *r)
{
    struct MHD_Response *resp;
    if (r->stream) {
        resp = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, STREAM_BLOCK, read_stream, c, NULL);
    } else {
        if (r->body.failed) {
            r->status = 503;
            sp_buf_clear(&r->body);
        }
        resp = MHD_create_response_from_buffer(r->body.len, (void *)(uintptr_t)sp_buf_str(&r->body), MHD_RESPMEM_MUST_COPY);
    }
    sp_buf_fini(&r->body);
    if (!resp)
        return MHD_NO;
    if (r->type)
        MHD_add_response_header(resp, "Content-Type", r->type);
    for (size_t i = 0; i < r->n_header; i++)
        MHD_add_response_header(resp, r->header[i].name, r->header[i].value);
    enum MHD_Result ok = MHD_queue_response(c->mhd, (unsigned)r->status, resp);
    MHD_destroy_response(resp);
    return ok;
}

/* Asks a task for its reply; suspends while there is none. */
static enum MHD_Result run_task(sp_http_conn *c)
{
    for (;;) {
        sp_http_reply reply = {0};
        sp_lock_get(&c->lock);
        bool gone = c->gone;
        c->ping = false;
        sp_lock_put(&c->lock);
        if (gone)
            return MHD_NO; /* closes the connection; the task is closed with it */
        if (c->task.start(c->task.arg, &reply) == SP_OK)
            return send_reply(c, &reply);
        if (suspend(c))
            return MHD_YES;
    }
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *mhd, const char *url, const char *method,
                                  const char *version, const char *data, size_t *n_data, void **state_of)
{
    sp_http *h = cls;
    sp_http_conn *c = *state_of;
    (void)version;
    if (!c) {
        c = conn_new(h, mhd, method, url);
        *state_of = c;
        return c ? MHD_YES : MHD_NO;
    }
    if (*n_data) {
        if (c->body.len + *n_data > h->cfg.max_body)
            c->too_large = true;
        if (c->too_large)
            sp_buf_fini(&c->body);
        else
            sp_buf_put(&c->body, data, *n_data);
        *n_data = 0;
        return c->body.failed ? MHD_NO : MHD_YES;
    }
    if (!c->handled) {
        const sp_http_req req = {c->method, c->path, sp_buf_str(&c->body), c->body.len, c->too_large, c};
        sp_http_reply reply = {0};
        c->handled = true;
        sp_lock_get(&c->lock);
        c->state = RUNNING;
        c->last_ns = sp_clock_ns();
        sp_lock_put(&c->lock);
        h->cfg.handler(h->cfg.app, &req, &reply, &c->task);
        if (!c->task.arg)
            return send_reply(c, &reply);
        sp_buf_fini(&reply.body);
        watch(c);
    }
    return run_task(c);
}

static void on_completed(void *cls, struct MHD_Connection *mhd, void **state_of, enum MHD_RequestTerminationCode why)
{
    (void)cls;
    (void)mhd;
    (void)why;
    if (*state_of)
        conn_free(*state_of);
    *state_of = NULL;
}

/* --- life ------------------------------------------------------------------------------------- */

static sp_err listen_on(int *out, const sp_http_cfg *cfg, uint16_t *port, sp_diag *d)
{
    struct addrinfo want = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *list = NULL;
    char service[8];
    snprintf(service, sizeof service, "%u", cfg->port);
    int rc = getaddrinfo(cfg->host, service, &want, &list);
    if (rc != 0)
        return SP_FAIL(d, SP_NET, "cannot listen on %s: %s", cfg->host, gai_strerror(rc));
    int fd = socket(list->ai_family, list->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), one = 1;
    sp_err err = SP_OK;
    if (fd >= 0)
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (fd < 0 || bind(fd, list->ai_addr, list->ai_addrlen) != 0 || listen(fd, 512) != 0)
        err = SP_FAIL(d, SP_NET, "cannot listen on %s port %u: %s", cfg->host, cfg->port, strerror(errno));
    struct sockaddr_storage at;
    socklen_t len = sizeof at;
    if (err == SP_OK && getsockname(fd, (struct sockaddr *)&at, &len) == 0)
        *port = ntohs(at.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&at)->sin6_port : ((struct sockaddr_in *)&at)->sin_port);
    freeaddrinfo(list);
    if (err == SP_OK)
        *out = fd;
    else if (fd >= 0)
        close(fd);
    return err;
}

sp_err sp_http_new(sp_http **out, const sp_http_cfg *cfg, sp_diag *d)
{
    sp_http *h = sp_mem_alloc(sizeof *h);
    int fd = -1;
    if (!h)
        return SP_FAIL(d, SP_NOMEM, "http");
    h->cfg = *cfg;
    h->epoll = -1;
    sp_lock_init(&h->lock, SP_RANK_API);
    sp_err err = listen_on(&fd, cfg, &h->port, d);
    if (err == SP_OK) {
        h->epoll = epoll_create1(EPOLL_CLOEXEC);
        h->daemon = MHD_start_daemon(
            MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ITC, 0, NULL, NULL, on_request, h,
            MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_LIMIT, (unsigned)cfg->max_conn,
            MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)IDLE_S, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)HEAD_BYTES,
            MHD_OPTION_NOTIFY_COMPLETED, on_completed, NULL, MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_END);
        if (!h->daemon) {
            close(fd);
            err = SP_FAIL(d, SP_NET, "cannot start the HTTP thread");
        }
    }
    if (err == SP_OK && (h->epoll < 0 || pthread_create(&h->watcher, NULL, watcher_main, h) != 0))
        err = SP_FAIL(d, SP_NET, "cannot start the connection watcher");
    h->watching = err == SP_OK;
    if (err == SP_OK)
        *out = h;
    else
        sp_http_free(h);
    return err;
}

void sp_http_quiesce(sp_http *h)
{
    int fd = MHD_quiesce_daemon(h->daemon);
    if (fd >= 0)
        close(fd);
}

size_t sp_http_open_count(sp_http *h)
{
    sp_lock_get(&h->lock);
    size_t n = h->n_conn;
    sp_lock_put(&h->lock);
    return n;
}

uint16_t sp_http_port(const sp_http *h)
{
    return h->port;
}

void sp_http_free(sp_http *h)
{
    if (!h)
        return;
    atomic_store(&h->stop, true);
    if (h->watching)
        pthread_join(h->watcher, NULL);
    if (h->daemon) {
        sp_lock_get(&h->lock); /* a suspended connection would keep the daemon from stopping */
        for (sp_http_conn *c = h->conns; c; c = c->next) {
            sp_lock_get(&c->lock);
            c->gone = true;
            sp_lock_put(&c->lock);
            wake(c, false);
        }
        sp_lock_put(&h->lock);
        MHD_stop_daemon(h->daemon);
    }
    if (h->epoll >= 0)
        close(h->epoll);
    sp_lock_fini(&h->lock);
    sp_mem_free(h);
}
