/* Sockets, time and wakes of the gRPC server. */
#include "net/grpc_int.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EVENTS = 64, TICK_MS = 100 };

/* --- what methods ask
 * ----------------------------------------------------------------------------- */

uint64_t sp_grpc_id(const sp_grpc_call *c)
{
    return c->id;
}

const char *sp_grpc_who(const sp_grpc_call *c)
{
    return c->who;
}

uint64_t sp_grpc_deadline_ns(const sp_grpc_call *c)
{
    return c->deadline_ns;
}

sp_grpc *sp_grpc_of(const sp_grpc_call *c)
{
    return c->conn->g;
}

bool sp_grpc_ended(const sp_grpc_call *c)
{
    return c->ended;
}

void sp_grpc_set_task(sp_grpc_call *c, const sp_grpc_task *t)
{
    c->task = *t;
}

void *sp_grpc_task_arg(const sp_grpc_call *c)
{
    return c->task.arg;
}

void sp_grpc_wake(sp_grpc *g, uint64_t id)
{
    const uint64_t one = 1;
    sp_lock_get(&g->lock);
    bool first = g->n_woken == 0;
    if (g->n_woken == g->cap_woken) {
        size_t cap = g->cap_woken * 2 + 64;
        uint64_t *all = sp_mem_grow(g->woken, cap * sizeof *all);
        if (all) {
            g->woken = all;
            g->cap_woken = cap;
        }
    }
    if (g->n_woken < g->cap_woken)
        g->woken[g->n_woken++] = id; /* else the next tick looks at all */
    sp_lock_put(&g->lock);
    if (first && write(g->event, &one, sizeof one) < 0)
        return; /* only a full counter, which wakes too */
}

/* --- connections
 * ---------------------------------------------------------------------------------- */

static void conn_free(grpc_conn *c)
{
    sp_grpc *g = c->g;
    while (c->calls)
        sp_grpc_call_free(c->calls);
    nghttp2_session_del(c->session);
    (void)epoll_ctl(g->epoll, EPOLL_CTL_DEL, c->fd, NULL);
    close(c->fd);
    *c->at = c->next;
    if (c->next)
        c->next->at = c->at;
    g->n_conn--;
    sp_buf_fini(&c->out);
    sp_mem_free(c);
}

/* Sends what there is to send, and asks tasks that wait for room. false: it was closed. */
static bool go_on(grpc_conn *c)
{
    if (!sp_grpc_conn_flush(c)) {
        conn_free(c);
        return false;
    }
    uint32_t events = EPOLLIN | EPOLLRDHUP | (c->sent < c->out.len ? EPOLLOUT : 0);
    struct epoll_event ev = {.events = events, .data.ptr = c};
    if (events != c->events && epoll_ctl(c->g->epoll, EPOLL_CTL_MOD, c->fd, &ev) == 0)
        c->events = events;
    if (c->n_call)
        c->end_ns = c->g->now_ns + GRPC_IDLE_S * 1000000000ull;
    return true;
}

static void on_event(grpc_conn *c, uint32_t events)
{
    sp_grpc *g = c->g;
    if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) {
        ssize_t n = recv(c->fd, g->scratch, sizeof g->scratch, 0);
        bool fine = n > 0 ? sp_grpc_conn_read(c, g->scratch, (size_t)n)
                          : n < 0 && (errno == EAGAIN || errno == EINTR);
        if (!fine) {
            (void)sp_grpc_conn_flush(c); /* why it ends */
            conn_free(c);
            return;
        }
    }
    if (!go_on(c) || !(events & EPOLLOUT))
        return;
    /* the socket took some: there is room again */
    for (sp_grpc_call *x = c->calls, *next; x; x = next) {
        next = x->next;
        sp_grpc_call_pull(x);
    }
    (void)go_on(c);
}

static void conn_new(sp_grpc *g, int fd)
{
    const int one = 1;
    grpc_conn *c = sp_mem_alloc(sizeof *c);
    struct epoll_event ev = {.events = EPOLLIN | EPOLLRDHUP, .data.ptr = c};
    if (!c || epoll_ctl(g->epoll, EPOLL_CTL_ADD, fd, &ev) != 0) {
        sp_mem_free(c);
        close(fd);
        return;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
    c->g = g;
    c->fd = fd;
    c->events = ev.events;
    c->end_ns = g->now_ns + GRPC_FIRST_S * 1000000000ull;
    c->next = g->conns;
    c->at = &g->conns;
    if (c->next)
        c->next->at = &c->next;
    g->conns = c;
    g->n_conn++;
    if (!sp_grpc_conn_open(c))
        conn_free(c);
    else
        (void)go_on(c);
}

/* The oldest connection without calls goes, those first that have shown no key. */
static bool make_room(sp_grpc *g)
{
    grpc_conn *unknown = NULL, *idle = NULL;
    for (grpc_conn *c = g->conns; c; c = c->next) {
        unknown = !c->known ? c : unknown;
        idle = c->n_call == 0 ? c : idle;
    }
    if (unknown || idle)
        conn_free(unknown ? unknown : idle);
    return unknown || idle;
}

static void accept_all(sp_grpc *g)
{
    for (int i = 0; i < EVENTS; i++) {
        if (g->n_conn >= g->cfg.max_conn && !make_room(g))
            return; /* the system's queue holds them */
        int fd = accept4(g->listen, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0)
            return;
        conn_new(g, fd);
    }
}

/* --- the loop
 * ------------------------------------------------------------------------------------- */

static sp_grpc_call *find(const sp_grpc *g, uint64_t id)
{
    sp_grpc_call *c = g->bucket[id % GRPC_BUCKETS];
    while (c && c->id != id)
        c = c->next_id;
    return c;
}

static void pull_woken(sp_grpc *g)
{
    for (;;) {
        sp_lock_get(&g->lock);
        uint64_t id = g->n_woken ? g->woken[--g->n_woken] : 0;
        sp_lock_put(&g->lock);
        sp_grpc_call *c = id ? find(g, id) : NULL;
        if (!id)
            return;
        if (!c)
            continue;
        grpc_conn *conn = c->conn;
        sp_grpc_call_pull(c);
        (void)go_on(conn);
    }
}

static void tick(sp_grpc *g)
{
    bool quiet = atomic_load(&g->quiet);
    if (quiet && g->listen >= 0) {
        close(g->listen);
        g->listen = -1;
    }
    for (grpc_conn *c = g->conns, *next; c; c = next) {
        next = c->next;
        for (sp_grpc_call *x = c->calls, *after; x; x = after) {
            after = x->next;
            if (!x->finished && x->deadline_ns && g->now_ns > x->deadline_ns)
                sp_grpc_finish(x, SP_GRPC_DEADLINE_EXCEEDED, "the deadline has passed", 0);
            sp_grpc_call_pull(x);
        }
        if (quiet && !c->leaving)
            sp_grpc_conn_leave(c);
        if (c->n_call == 0 &&
            (g->now_ns > c->end_ns || (quiet && c->leaving && c->sent == c->out.len &&
                                       !nghttp2_session_want_write(c->session))))
            conn_free(c);
        else
            (void)go_on(c);
    }
}

static void *grpc_main(void *arg)
{
    sp_grpc *g = arg;
    struct epoll_event ev[EVENTS];
    uint64_t next_tick = 0, count;
    while (!atomic_load(&g->stop)) {
        int n = epoll_wait(g->epoll, ev, EVENTS, TICK_MS);
        bool heard = false;
        g->now_ns = sp_clock_ns();
        for (int i = 0; i < n; i++) { /* each connection is in the list once, and only its own event
                                         frees it */
            if (ev[i].data.ptr == &g->listen)
                heard = true;
            else if (ev[i].data.ptr != g)
                on_event(ev[i].data.ptr, ev[i].events);
            else if (read(g->event, &count, sizeof count) < 0 && errno != EAGAIN)
                sp_log(SP_LOG_ERROR, "grpc: %s", strerror(errno));
        }
        pull_woken(g);
        if (heard && g->listen >= 0)
            accept_all(g);
        if (g->now_ns >= next_tick || (g->listen >= 0 && atomic_load(&g->quiet))) {
            tick(g);
            next_tick = g->now_ns + TICK_MS * 1000000ull;
        }
    }
    while (g->conns)
        conn_free(g->conns);
    return NULL;
}

/* --- life
 * ----------------------------------------------------------------------------------------- */

static sp_err listen_on(sp_grpc *g, sp_diag *d)
{
    const struct addrinfo want = {.ai_socktype = SOCK_STREAM,
                                  .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct addrinfo *list = NULL;
    struct sockaddr_storage at;
    socklen_t len = sizeof at;
    char service[8];
    int one = 1, rc;
    snprintf(service, sizeof service, "%u", g->cfg.port);
    if ((rc = getaddrinfo(g->cfg.host, service, &want, &list)) != 0)
        return SP_FAIL(d, SP_NET, "grpc: cannot listen on %.100s: %s", g->cfg.host,
                       gai_strerror(rc));
    int fd = socket(list->ai_family, list->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0)
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    bool fine = fd >= 0 && bind(fd, list->ai_addr, list->ai_addrlen) == 0 && listen(fd, 512) == 0 &&
                getsockname(fd, (struct sockaddr *)&at, &len) == 0;
    freeaddrinfo(list);
    g->listen = fd;
    if (!fine)
        return SP_FAIL(d, SP_NET, "grpc: cannot listen on %.100s port %u: %s", g->cfg.host,
                       g->cfg.port, strerror(errno));
    g->port = ntohs(at.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&at)->sin6_port
                                             : ((struct sockaddr_in *)&at)->sin_port);
    return SP_OK;
}

static sp_err start(sp_grpc *g, sp_diag *d)
{
    struct epoll_event own = {.events = EPOLLIN, .data.ptr = g},
                       hear = {.events = EPOLLIN, .data.ptr = &g->listen};
    if (sp_grpc_callbacks(g) != SP_OK)
        return SP_FAIL(d, SP_NOMEM, "grpc");
    SP_TRY(listen_on(g, d));
    g->epoll = epoll_create1(EPOLL_CLOEXEC);
    g->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (g->epoll < 0 || g->event < 0 || epoll_ctl(g->epoll, EPOLL_CTL_ADD, g->event, &own) != 0 ||
        epoll_ctl(g->epoll, EPOLL_CTL_ADD, g->listen, &hear) != 0)
        return SP_FAIL(d, SP_NET, "grpc: cannot watch sockets: %s", strerror(errno));
    if (pthread_create(&g->thread, NULL, grpc_main, g) != 0)
        return SP_FAIL(d, SP_NET, "grpc: cannot start its thread");
    g->running = true;
    return SP_OK;
}

sp_err sp_grpc_new(sp_grpc **out, const sp_grpc_cfg *cfg, sp_diag *d)
{
    sp_grpc *g = sp_mem_alloc(sizeof *g);
    if (!g)
        return SP_FAIL(d, SP_NOMEM, "grpc");
    g->cfg = *cfg;
    g->epoll = g->event = g->listen = -1;
    g->now_ns = sp_clock_ns();
    sp_lock_init(&g->lock, SP_RANK_NET);
    if (cfg->metrics) {
        g->done = sp_metric_counter(cfg->metrics, "sparing_grpc_calls_total", "Ended gRPC calls.",
                                    "result=\"ok\"");
        g->failed = sp_metric_counter(cfg->metrics, "sparing_grpc_calls_total", "Ended gRPC calls.",
                                      "result=\"other\"");
    }
    sp_err err = start(g, d);
    if (err == SP_OK)
        *out = g;
    else
        sp_grpc_free(g);
    return err;
}

uint16_t sp_grpc_port(const sp_grpc *g)
{
    return g->port;
}

size_t sp_grpc_open_count(const sp_grpc *g)
{
    return atomic_load(&g->n_calls);
}

static void rouse(const sp_grpc *g)
{
    const uint64_t one = 1;
    if (write(g->event, &one, sizeof one) < 0)
        return; /* only a full counter, which wakes too */
}

void sp_grpc_quiesce(sp_grpc *g)
{
    atomic_store(&g->quiet, true);
    rouse(g);
}

void sp_grpc_stop(sp_grpc *g)
{
    if (!g->running)
        return;
    atomic_store(&g->stop, true);
    rouse(g);
    pthread_join(g->thread, NULL);
    g->running = false;
}

void sp_grpc_free(sp_grpc *g)
{
    if (!g)
        return;
    sp_grpc_stop(g);
    if (g->listen >= 0)
        close(g->listen);
    if (g->event >= 0)
        close(g->event);
    if (g->epoll >= 0)
        close(g->epoll);
    nghttp2_session_callbacks_del(g->callbacks);
    nghttp2_option_del(g->option);
    sp_mem_free(g->woken);
    sp_lock_fini(&g->lock);
    sp_mem_free(g);
}
