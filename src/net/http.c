/* The loop: sockets, time and wakes. Everything but the list of woken connections belongs to the
 * HTTP thread. A turn handles the events of connections first, then wakes, new connections and
 * time, so that no event of a turn is left for a connection that has gone. */
#include "net/http_int.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { TICK_MS = 250, PING_NS = 1000000000, EVENTS = 64, OTHER_FILES = 256, UNKNOWN_LEAST = 16 };

/* --- connections ------------------------------------------------------------------------------ */

static void address(char out[SP_HTTP_ADDRESS], const struct sockaddr_storage *a, bool brackets)
{
    char text[INET6_ADDRSTRLEN] = "";
    const struct sockaddr_in6 *six = (const void *)a;
    const struct sockaddr_in *four = (const void *)a;
    bool is_six = a->ss_family == AF_INET6 && !IN6_IS_ADDR_V4MAPPED(&six->sin6_addr);
    if (is_six)
        inet_ntop(AF_INET6, &six->sin6_addr, text, sizeof text);
    else if (a->ss_family == AF_INET6)
        inet_ntop(AF_INET, six->sin6_addr.s6_addr + 12, text, sizeof text);
    else if (a->ss_family == AF_INET)
        inet_ntop(AF_INET, &four->sin_addr, text, sizeof text);
    snprintf(out, SP_HTTP_ADDRESS, brackets && is_six ? "[%s]" : "%s", text);
}

void sp_http_peer(const sp_http_conn *c, char out[SP_HTTP_ADDRESS])
{
    out[0] = 0;
    if (c)
        address(out, &c->peer, false);
}

void sp_http_local(const sp_http_conn *c, char out[SP_HTTP_ADDRESS])
{
    struct sockaddr_storage a = {0};
    socklen_t n = sizeof a;
    out[0] = 0;
    if (c && getsockname(c->fd, (struct sockaddr *)&a, &n) == 0)
        address(out, &a, true);
}

static void conn_free(sp_http_conn *c)
{
    sp_http *h = c->http;
    sp_http_conn_reset(c); /* its task lets go: from here on nobody wakes it */
    sp_lock_get(&h->lock);
    for (sp_http_conn **p = &h->woken; c->woken && *p; p = &(*p)->next_woken) {
        if (*p == c) {
            *p = c->next_woken;
            break;
        }
    }
    sp_lock_put(&h->lock);
    *c->at = c->next;
    if (c->next)
        c->next->at = c->at;
    h->n_conn--;
    h->n_unknown -= !c->known;
    /* Between fork and exec a child holds a copy of every descriptor. Closing ours then leaves the
     * socket in the set, and the set would go on telling of a connection that has gone. */
    epoll_ctl(h->epoll, EPOLL_CTL_DEL, c->fd, NULL);
    close(c->fd);
    sp_buf_fini(&c->in);
    sp_mem_free(c);
}

static uint32_t wanted_events(const sp_http_conn *c)
{
    bool pending = c->sent < c->out.len + c->payload.len;
    switch (c->state) {
    case WORK: return EPOLLRDHUP;
    case STREAM: return EPOLLRDHUP | (pending ? EPOLLOUT : 0u);
    case SEND: return EPOLLOUT;
    default: return EPOLLIN;
    }
}

/* As far as it goes; frees the connection when that is its end. */
static void go_on(sp_http_conn *c)
{
    sp_http_next next;
    while ((next = sp_http_conn_step(c)) == GO_ON)
        ;
    struct epoll_event ev = {.events = wanted_events(c), .data.ptr = c};
    if (next == WAIT &&
        (ev.events == c->events || epoll_ctl(c->http->epoll, EPOLL_CTL_MOD, c->fd, &ev) == 0)) {
        c->events = ev.events;
        return;
    }
    conn_free(c);
}

/* False: the connection has gone. */
static bool read_some(sp_http_conn *c)
{
    sp_http *h = c->http;
    ssize_t n = recv(c->fd, h->scratch, sizeof h->scratch, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return true;
    if (n <= 0)
        return false;
    if (c->state == LINGER) {
        c->n_dropped += (size_t)n;
        return c->n_dropped < LINGER_BYTES;
    }
    if (c->state == READ_HEAD && c->in.len == 0)
        c->end_ns = h->now_ns + HEAD_S * 1000000000ull; /* its first bytes */
    sp_buf_put(&c->in, h->scratch, (size_t)n);
    return !c->in.failed;
}

static void on_event(sp_http_conn *c, uint32_t events)
{
    bool reads = c->state == READ_HEAD || c->state == READ_BODY || c->state == LINGER;
    bool left = events & (EPOLLERR | EPOLLHUP) || (events & EPOLLRDHUP && !reads);
    if ((left && !reads) || ((left || events & EPOLLIN) && reads && !read_some(c)))
        conn_free(c);
    else
        go_on(c);
}

/* --- new connections -------------------------------------------------------------------------- */

/* The oldest connection that no gate has let through, or that is idle if there is none. NULL: all
 * are at work. */
static sp_http_conn *find_spare(const sp_http *h)
{
    sp_http_conn *unknown = NULL, *idle = NULL;
    for (sp_http_conn *c = h->conns; c; c = c->next) { /* the newest comes first */
        unknown = !c->known && c->state != WORK ? c : unknown;
        idle = sp_http_conn_is_idle(c) ? c : idle;
    }
    return unknown ? unknown : idle;
}

static bool make_room(sp_http *h)
{
    sp_http_conn *c = find_spare(h);
    if (c)
        conn_free(c);
    return c != NULL;
}

static void conn_new(sp_http *h, int fd, const struct sockaddr_storage *peer)
{
    sp_http_conn *c = sp_mem_alloc(sizeof *c);
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = c};
    if (!c || epoll_ctl(h->epoll, EPOLL_CTL_ADD, fd, &ev) != 0) {
        sp_mem_free(c);
        close(fd);
        return;
    }
    c->http = h;
    c->fd = fd;
    c->peer = *peer;
    c->events = EPOLLIN;
    c->begin_ns = h->now_ns;
    c->end_ns = h->now_ns + HEAD_S * 1000000000ull;
    c->next = h->conns;
    c->at = &h->conns;
    if (c->next)
        c->next->at = &c->next;
    h->conns = c;
    h->n_conn++;
    h->n_unknown++;
}

static void accept_all(sp_http *h)
{
    for (int i = 0; i < EVENTS; i++) { /* the others wait for the next turn */
        bool full = h->n_conn >= h->cfg.max_conn || h->n_unknown >= h->cfg.max_unknown;
        struct sockaddr_storage peer;
        int fd;
        if (full && i)
            return; /* whether another waits is known in the next turn: for nobody none is closed */
        if (full && !make_room(h)) {
            sp_listen_hear(&h->listen, false); /* until the next tick */
            return;
        }
        sp_listen_got got = sp_listen_accept(&h->listen, &fd, &peer);
        if (got == SP_LISTEN_ONE) {
            conn_new(h, fd, &peer);
        } else {
            if (got == SP_LISTEN_SHORT && !make_room(h))
                sp_listen_hear(&h->listen, false);
            return;
        }
    }
}

/* --- the loop --------------------------------------------------------------------------------- */

void sp_http_wake(sp_http_conn *c)
{
    if (!c)
        return;
    sp_http *h = c->http;
    const uint64_t one = 1;
    sp_lock_get(&h->lock);
    bool first = !c->woken && !h->woken;
    if (!c->woken) {
        c->woken = true;
        c->next_woken = h->woken;
        h->woken = c;
    }
    sp_lock_put(&h->lock);
    if (first && write(h->event, &one, sizeof one) < 0)
        return; /* only a full counter, which wakes too */
}

static void go_on_woken(sp_http *h)
{
    for (;;) { /* one at a time: another of the list may go meanwhile */
        sp_lock_get(&h->lock);
        sp_http_conn *c = h->woken;
        if (c) {
            h->woken = c->next_woken;
            c->woken = false;
        }
        sp_lock_put(&h->lock);
        if (!c)
            return;
        if (c->state == WORK || c->state == STREAM)
            go_on(c);
    }
}

static void tick(sp_http *h)
{
    bool quiet = atomic_load(&h->quiet);
    sp_http_conn *next;
    sp_listen_hear(&h->listen, !quiet);
    if (quiet)
        sp_listen_close(&h->listen);
    for (sp_http_conn *c = h->conns; c; c = next) {
        next = c->next;
        bool answers = c->state == STREAM || c->state == SEND;
        size_t waiting = answers ? c->out.len + c->payload.len - c->sent : 0;
        bool waits = c->state == WORK || (c->state == STREAM && waiting == 0);
        bool late =
            sp_pace_is_late(&c->pace, c->n_taken, waiting, h->now_ns, STALL_S * 1000000000ull);
        if (late || h->now_ns > c->end_ns || (quiet && sp_http_conn_is_idle(c))) {
            conn_free(c);
        } else if (waits && h->now_ns - c->last_ns >= PING_NS) {
            c->last_ns = h->now_ns;
            c->ping = true;
            go_on(c);
        }
    }
}

static void set_now(sp_http *h)
{
    struct tm t;
    time_t now = time(NULL);
    h->now_ns = sp_clock_ns();
    if (gmtime_r(&now, &t))
        strftime(h->date, sizeof h->date, "%a, %d %b %Y %H:%M:%S GMT", &t);
}

static void *http_main(void *arg)
{
    sp_http *h = arg;
    struct epoll_event ev[EVENTS];
    uint64_t next_tick = 0, count;
    while (!atomic_load(&h->stop)) {
        int n = epoll_wait(h->epoll, ev, EVENTS, TICK_MS);
        bool heard = false;
        set_now(h);
        for (int i = 0; i < n; i++) {
            if (ev[i].data.ptr == &h->listen)
                heard = true;
            else if (ev[i].data.ptr != h)
                on_event(ev[i].data.ptr, ev[i].events);
            else if (read(h->event, &count, sizeof count) < 0 && errno != EAGAIN)
                sp_log(SP_LOG_ERROR, "http: %s", strerror(errno));
        }
        go_on_woken(h);
        if (heard && h->listen.fd >= 0)
            accept_all(h);
        if (h->now_ns >= next_tick || (h->listen.fd >= 0 && atomic_load(&h->quiet))) {
            tick(h);
            next_tick = h->now_ns + TICK_MS * 1000000ull;
        }
    }
    return NULL;
}

/* --- life ------------------------------------------------------------------------------------- */

/* Files for max_conn connections and everything else, or fewer connections. */
static void fit_files(sp_http_cfg *cfg)
{
    struct rlimit r;
    rlim_t want = (rlim_t)cfg->max_conn + OTHER_FILES;
    if (getrlimit(RLIMIT_NOFILE, &r) != 0 || r.rlim_cur >= want)
        return;
    r.rlim_cur = r.rlim_max < want ? r.rlim_max : want;
    if (setrlimit(RLIMIT_NOFILE, &r) != 0 && getrlimit(RLIMIT_NOFILE, &r) != 0)
        return;
    if (r.rlim_cur >= want)
        return;
    size_t had = cfg->max_conn;
    cfg->max_conn =
        r.rlim_cur > 2 * OTHER_FILES ? (size_t)r.rlim_cur - OTHER_FILES : (size_t)r.rlim_cur / 2;
    sp_log(SP_LOG_WARN,
           "max-conn is %zu instead of %zu: this process may open %llu files (ulimit -n)",
           cfg->max_conn, had, (unsigned long long)r.rlim_cur);
}

static sp_err start(sp_http *h, sp_diag *d)
{
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = h};
    SP_TRY(sp_listen_open(&h->listen, "", h->cfg.host, h->cfg.port, d));
    h->epoll = epoll_create1(EPOLL_CLOEXEC);
    h->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (h->epoll < 0 || h->event < 0 || epoll_ctl(h->epoll, EPOLL_CTL_ADD, h->event, &ev) != 0)
        return SP_FAIL(d, SP_NET, "cannot watch sockets: %s", strerror(errno));
    h->listen.epoll = h->epoll;
    sp_listen_hear(&h->listen, true);
    if (pthread_create(&h->thread, NULL, http_main, h) != 0)
        return SP_FAIL(d, SP_NET, "cannot start the HTTP thread");
    h->running = true;
    return SP_OK;
}

sp_err sp_http_new(sp_http **out, const sp_http_cfg *cfg, sp_diag *d)
{
    sp_http *h = sp_mem_alloc(sizeof *h);
    if (!h)
        return SP_FAIL(d, SP_NOMEM, "http");
    h->cfg = *cfg;
    h->epoll = h->event = h->listen.fd = h->listen.epoll = -1;
    sp_lock_init(&h->lock, SP_RANK_NET);
    fit_files(&h->cfg);
    if (h->cfg.max_unknown == 0)
        h->cfg.max_unknown =
            h->cfg.max_conn / 4 > UNKNOWN_LEAST ? h->cfg.max_conn / 4 : UNKNOWN_LEAST;
    sp_err err = start(h, d);
    if (err == SP_OK)
        *out = h;
    else
        sp_http_free(h);
    return err;
}

static void rouse(sp_http *h)
{
    const uint64_t one = 1;
    if (write(h->event, &one, sizeof one) < 0)
        return; /* only a full counter, which wakes too */
}

void sp_http_quiesce(sp_http *h)
{
    atomic_store(&h->quiet, true);
    rouse(h);
}

size_t sp_http_open_count(sp_http *h)
{
    return atomic_load(&h->n_work);
}

uint16_t sp_http_port(const sp_http *h)
{
    return h->listen.port;
}

void sp_http_free(sp_http *h)
{
    if (!h)
        return;
    atomic_store(&h->stop, true);
    if (h->running) {
        rouse(h);
        pthread_join(h->thread, NULL);
    }
    while (h->conns)
        conn_free(h->conns);
    sp_listen_close(&h->listen);
    const int fd[] = {h->event, h->epoll};
    for (size_t i = 0; i < sizeof fd / sizeof fd[0]; i++)
        if (fd[i] >= 0)
            close(fd[i]);
    sp_lock_fini(&h->lock);
    sp_mem_free(h);
}
