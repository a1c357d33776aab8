/* Sockets, time and wakes of the gRPC server. */
#include "net/grpc_int.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EVENTS = 64, TICK_MS = 100, SLICE = 256 /* connections and calls */ };

/* --- what methods ask ------------------------------------------------------------------------- */

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
    bool first = g->n_woken == 0 && !g->all_woken;
    if (g->n_woken < GRPC_WOKEN)
        g->woken[g->n_woken++] = id;
    else
        g->all_woken = true;
    sp_lock_put(&g->lock);
    if (first && write(g->event, &one, sizeof one) < 0)
        return; /* only a full counter, which wakes too */
}

/* --- connections ------------------------------------------------------------------------------ */

static void conn_free(grpc_conn *c)
{
    sp_grpc *g = c->g;
    while (c->calls)
        sp_grpc_call_free(c->calls);
    nghttp2_session_del(c->session);
    (void)epoll_ctl(g->epoll, EPOLL_CTL_DEL, c->fd, NULL);
    sp_tls_close(c->tls);
    close(c->fd);
    *c->at = c->next;
    if (c->next)
        c->next->at = c->at;
    if (g->round == c)
        g->round = c->next;
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
    /* Who takes nothing is not heard either: else what there is to say would grow with it. Of TLS
     * what waits to be sent may wait for the client's part of a handshake. */
    bool waits = c->sent < c->out.len, heard = c->tls && sp_tls_wants_recv(c->tls);
    uint32_t events = EPOLLRDHUP | (sp_grpc_conn_is_full(c) && !heard ? 0u : EPOLLIN) |
                      ((waits && !heard) || (c->tls && sp_tls_wants_send(c->tls)) ? EPOLLOUT : 0u);
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
    bool again = c->tls && sp_tls_wants_send(c->tls) && c->events & EPOLLIN;
    if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR) || again) {
        if (!(c->events & EPOLLIN)) { /* it has left without taking what was said to it */
            conn_free(c);
            return;
        }
        /* One record of TLS fits, so that none waits in memory where epoll does not see it. */
        ssize_t n = c->tls ? sp_tls_recv(c->tls, g->scratch, sizeof g->scratch)
                           : recv(c->fd, g->scratch, sizeof g->scratch, 0);
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
    grpc_conn *c = sp_mem_alloc(sizeof *c);
    struct epoll_event ev = {.events = EPOLLIN | EPOLLRDHUP, .data.ptr = c};
    if (c && g->cfg.tls)
        c->tls = sp_tls_accept(g->cfg.tls, fd);
    if (!c || (g->cfg.tls && !c->tls) || epoll_ctl(g->epoll, EPOLL_CTL_ADD, fd, &ev) != 0) {
        if (c)
            sp_tls_close(c->tls);
        sp_mem_free(c);
        close(fd);
        return;
    }
    c->g = g;
    c->fd = fd;
    c->events = ev.events;
    c->end_ns = g->now_ns + g->patience_ns / 3;
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
        struct sockaddr_storage peer;
        int fd;
        bool full = g->n_conn >= g->cfg.max_conn;
        if (full && i)
            return; /* whether another waits is known in the next turn: for nobody none is closed */
        if (full && !make_room(g)) {
            sp_listen_hear(&g->listen, false); /* until the next tick */
            return;
        }
        sp_listen_got got = sp_listen_accept(&g->listen, &fd, &peer);
        if (got == SP_LISTEN_ONE) {
            conn_new(g, fd);
        } else {
            if (got == SP_LISTEN_SHORT && !make_room(g))
                sp_listen_hear(&g->listen, false);
            return;
        }
    }
}

/* --- the loop --------------------------------------------------------------------------------- */

static sp_grpc_call *find(const sp_grpc *g, uint64_t id)
{
    sp_grpc_call *c = g->bucket[id % GRPC_BUCKETS];
    while (c && c->id != id)
        c = c->next_id;
    return c;
}

/* Those that were woken before this turn. Whoever is woken meanwhile comes in the next, so that one
 * that is always ready holds nobody up. */
static void pull_woken(sp_grpc *g)
{
    sp_lock_get(&g->lock);
    size_t n = g->n_woken;
    bool all = g->all_woken;
    memcpy(g->taken, g->woken, n * sizeof *g->taken);
    g->n_woken = 0;
    g->all_woken = false;
    sp_lock_put(&g->lock);
    for (size_t i = 0; i < n && !all; i++) {
        sp_grpc_call *c = find(g, g->taken[i]);
        grpc_conn *conn = c ? c->conn : NULL;
        if (!c)
            continue;
        sp_grpc_call_pull(c);
        (void)go_on(conn);
    }
    for (grpc_conn *c = g->conns, *next; all && c; c = next) {
        next = c->next;
        for (sp_grpc_call *x = c->calls; x; x = x->next)
            sp_grpc_call_pull(x);
        (void)go_on(c);
    }
}

/* What a connection and its calls owe in this moment. false: it is to be closed. */
static bool keep_time(grpc_conn *c, bool quiet)
{
    sp_grpc *g = c->g;
    bool fine = true;
    for (sp_grpc_call *x = c->calls; x && fine; x = x->next) {
        fine = sp_grpc_call_keep_time(x);
        sp_grpc_call_pull(x);
    }
    if (quiet && !c->leaving)
        sp_grpc_conn_leave(c);
    bool said = c->sent == c->out.len && !nghttp2_session_want_write(c->session);
    return fine && !(c->n_call == 0 && (g->now_ns > c->end_ns || (quiet && said))) &&
           !sp_pace_is_late(&c->pace, c->n_taken, c->out.len - c->sent, g->now_ns,
                            g->patience_ns);
}

static void begin_round(sp_grpc *g)
{
    bool quiet = atomic_load(&g->quiet);
    sp_listen_hear(&g->listen, !quiet);
    if (quiet)
        sp_listen_close(&g->listen);
    g->round = g->conns;
}

/* A part of the round over all connections: whoever calls meanwhile waits for this part alone. */
static void go_round(sp_grpc *g)
{
    bool quiet = atomic_load(&g->quiet);
    for (size_t n = 0; g->round && n < SLICE;) {
        grpc_conn *c = g->round;
        g->round = c->next;
        n += 1 + c->n_call;
        if (keep_time(c, quiet))
            (void)go_on(c);
        else
            conn_free(c);
    }
}

static void *grpc_main(void *arg)
{
    sp_grpc *g = arg;
    struct epoll_event ev[EVENTS];
    uint64_t next_tick = 0, count;
    while (!atomic_load(&g->stop)) {
        int n = epoll_wait(g->epoll, ev, EVENTS, g->round ? 0 : TICK_MS);
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
        if (heard && g->listen.fd >= 0)
            accept_all(g);
        bool is_due = g->now_ns >= next_tick && !g->round;
        if (is_due || (g->listen.fd >= 0 && atomic_load(&g->quiet))) {
            begin_round(g);
            next_tick = g->now_ns + TICK_MS * 1000000ull;
        }
        go_round(g);
    }
    while (g->conns)
        conn_free(g->conns);
    return NULL;
}

/* --- life ------------------------------------------------------------------------------------- */

static sp_err start(sp_grpc *g, sp_diag *d)
{
    struct epoll_event own = {.events = EPOLLIN, .data.ptr = g};
    if (sp_grpc_callbacks(g) != SP_OK)
        return SP_FAIL(d, SP_NOMEM, "grpc");
    SP_TRY(sp_listen_open(&g->listen, "grpc: ", g->cfg.host, g->cfg.port, d));
    g->epoll = epoll_create1(EPOLL_CLOEXEC);
    g->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (g->epoll < 0 || g->event < 0 || epoll_ctl(g->epoll, EPOLL_CTL_ADD, g->event, &own) != 0)
        return SP_FAIL(d, SP_NET, "grpc: cannot watch sockets: %s", strerror(errno));
    g->listen.epoll = g->epoll;
    sp_listen_hear(&g->listen, true);
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
    g->epoll = g->event = g->listen.fd = g->listen.epoll = -1;
    g->patience_ns = (cfg->patience_ms ? cfg->patience_ms : GRPC_PATIENCE_S * 1000) * 1000000ull;
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
    return g->listen.port;
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
    sp_listen_close(&g->listen);
    if (g->event >= 0)
        close(g->event);
    if (g->epoll >= 0)
        close(g->epoll);
    nghttp2_session_callbacks_del(g->callbacks);
    nghttp2_option_del(g->option);
    sp_lock_fini(&g->lock);
    sp_mem_free(g);
}
