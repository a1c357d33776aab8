/* The gRPC server beside clients that send, take and leave as they like. Each test fails by hanging
 * until the program's time is up, or by an assert; none asks how fast something was, but for
 * processor time that must not be used. */
#include "test.h"

#include "net/grpc.h"
#include "net/pace.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <nghttp2/nghttp2.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { PATIENCE_MS = 300, SHORT = 10, SMALL = 1000 };

/* --- a server whose methods do what the tests need -------------------------------------------- */

static void nothing(void *arg)
{
    (void)arg;
}

static void send_on(void *arg)
{
    static const char text[16 << 10];
    while (sp_grpc_room(arg))
        sp_grpc_send(arg, text, sizeof text);
}

static void wake_self(void *arg)
{
    sp_grpc_wake(sp_grpc_of(arg), sp_grpc_id(arg));
}

/* Answers with what it got, and ends. */
static void echo(void *app, sp_grpc_call *c, const uint8_t *p, size_t n)
{
    (void)app;
    sp_grpc_send(c, p, n);
    sp_grpc_finish(c, SP_GRPC_OK, NULL, 0);
}

static void wait_on(void *app, sp_grpc_call *c, const uint8_t *p, size_t n)
{
    (void)app;
    sp_grpc_send(c, p, n);
    sp_grpc_set_task(c, &(sp_grpc_task){c, nothing, nothing});
}

static void pour(void *app, sp_grpc_call *c, const uint8_t *p, size_t n)
{
    (void)app, (void)p, (void)n;
    sp_grpc_set_task(c, &(sp_grpc_task){c, send_on, nothing});
    send_on(c);
}

static void busy(void *app, sp_grpc_call *c, const uint8_t *p, size_t n)
{
    (void)app, (void)p, (void)n;
    sp_grpc_set_task(c, &(sp_grpc_task){c, wake_self, nothing});
    wake_self(c);
}

static bool gate(void *app, sp_grpc_call *c, const sp_grpc_method *m, char who[64])
{
    (void)app, (void)c, (void)m, (void)who;
    return true;
}

static const sp_grpc_method methods[] = {{"/t/Echo", SMALL, false, false, echo},
                                         {"/t/Wait", SMALL, false, false, wait_on},
                                         {"/t/Pour", SMALL, false, false, pour},
                                         {"/t/Busy", SMALL, false, false, busy},
                                         {"/t/Watch", SMALL, false, true, wait_on}};

static sp_grpc *serve(size_t max_conn, size_t max_calls, size_t max_bytes, unsigned patience_ms)
{
    const sp_grpc_cfg cfg = {.host = "127.0.0.1",
                             .method = methods,
                             .n_method = sizeof methods / sizeof methods[0],
                             .max_message = SMALL,
                             .max_bytes = max_bytes,
                             .max_conn = max_conn,
                             .max_calls = max_calls,
                             .patience_ms = patience_ms,
                             .gate = gate};
    sp_grpc *g = NULL;
    sp_diag d = {0};
    assert_int_equal(sp_grpc_new(&g, &cfg, &d), SP_OK);
    return g;
}

/* --- a client --------------------------------------------------------------------------------- */

typedef struct client {
    int fd;
    nghttp2_session *session;
    int32_t stream; /* of the last one that closed */
    uint32_t code;  /* why */
    size_t n_closed, n_data;
    int status;   /* grpc-status that came last; -1: none */
    bool ended;   /* the connection has ended */
    bool settled; /* the server's SETTINGS are there */
} client;

static ssize_t on_send(nghttp2_session *s, const uint8_t *p, size_t n, int flags, void *arg)
{
    client *c = arg;
    (void)s, (void)flags;
    ssize_t k = send(c->fd, p, n, MSG_NOSIGNAL);
    return k >= 0 ? k : NGHTTP2_ERR_CALLBACK_FAILURE;
}

static int on_close(nghttp2_session *s, int32_t stream, uint32_t code, void *arg)
{
    client *c = arg;
    (void)s;
    c->stream = stream;
    c->code = code;
    c->n_closed++;
    return 0;
}

static int on_field(nghttp2_session *s, const nghttp2_frame *f, const uint8_t *name, size_t n_name,
                    const uint8_t *value, size_t n_value, uint8_t flags, void *arg)
{
    client *c = arg;
    char text[8] = "";
    (void)s, (void)f, (void)flags;
    if (n_name == 11 && memcmp(name, "grpc-status", 11) == 0 && n_value < sizeof text) {
        memcpy(text, value, n_value);
        c->status = atoi(text);
    }
    return 0;
}

static int on_data(nghttp2_session *s, uint8_t flags, int32_t stream, const uint8_t *p, size_t n,
                   void *arg)
{
    client *c = arg;
    (void)s, (void)flags, (void)stream, (void)p;
    c->n_data += n;
    return 0;
}

static int on_frame(nghttp2_session *s, const nghttp2_frame *f, void *arg)
{
    client *c = arg;
    (void)s;
    c->settled = c->settled || f->hd.type == NGHTTP2_SETTINGS;
    return 0;
}

static int dial(const sp_grpc *g)
{
    struct sockaddr_in at = {.sin_family = AF_INET,
                             .sin_port = htons(sp_grpc_port(g)),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0 && connect(fd, (struct sockaddr *)&at, sizeof at) == 0);
    /* else each window would wait 40 ms for the server to say that it has the one before */
    assert_int_equal(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int)), 0);
    return fd;
}

/* window: bytes of each stream that the client takes. */
static client *client_on(int fd, uint32_t window)
{
    const nghttp2_settings_entry all[] = {{NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, window}};
    nghttp2_session_callbacks *cb;
    client *c = calloc(1, sizeof *c);
    assert_non_null(c);
    c->fd = fd;
    c->status = -1;
    assert_int_equal(nghttp2_session_callbacks_new(&cb), 0);
    nghttp2_session_callbacks_set_send_callback(cb, on_send);
    nghttp2_session_callbacks_set_on_stream_close_callback(cb, on_close);
    nghttp2_session_callbacks_set_on_header_callback(cb, on_field);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cb, on_data);
    nghttp2_session_callbacks_set_on_frame_recv_callback(cb, on_frame);
    assert_int_equal(nghttp2_session_client_new(&c->session, cb, c), 0);
    nghttp2_session_callbacks_del(cb);
    assert_int_equal(nghttp2_submit_settings(c->session, NGHTTP2_FLAG_NONE, all, 1), 0);
    return c;
}

static void client_free(client *c)
{
    nghttp2_session_del(c->session);
    close(c->fd);
    free(c);
}

/* Sends what there is and takes what comes, once. */
static void turn(client *c)
{
    static uint8_t in[64 << 10];
    struct pollfd p = {.fd = c->fd, .events = POLLIN};
    assert_false(c->ended);
    if (nghttp2_session_send(c->session) != 0)
        c->ended = true;
    if (c->ended || poll(&p, 1, 20) <= 0)
        return;
    ssize_t n = recv(c->fd, in, sizeof in, 0);
    ssize_t used = n > 0 ? nghttp2_session_mem_recv(c->session, in, (size_t)n) : 0;
    if (used < 0)
        print_message("client: %s\n", nghttp2_strerror((int)used));
    c->ended = n <= 0 || used != n;
}

typedef struct text {
    uint8_t p[5 + SMALL];
    size_t n, at;
    bool open; /* the client does not say that this was all */
} text;

static ssize_t give_text(nghttp2_session *s, int32_t stream, uint8_t *to, size_t cap,
                         uint32_t *flags, nghttp2_data_source *source, void *arg)
{
    text *t = source->ptr;
    size_t n = t->n - t->at < cap ? t->n - t->at : cap;
    (void)s, (void)stream, (void)arg;
    if (n == 0 && t->open)
        return NGHTTP2_ERR_DEFERRED;
    memcpy(to, t->p + t->at, n);
    t->at += n;
    if (t->at == t->n && !t->open)
        *flags |= NGHTTP2_DATA_FLAG_EOF;
    return (ssize_t)n;
}

static nghttp2_nv nv(const char *name, const char *value)
{
    return (nghttp2_nv){(uint8_t *)name, (uint8_t *)value, strlen(name), strlen(value), 0};
}

/* A call with a message of n bytes, of which `of` leave. t lives as long as the call. */
static int32_t ask(client *c, const char *path, text *t, size_t n, size_t of, const char *timeout)
{
    nghttp2_nv head[] = {nv(":method", "POST"),
                         nv(":scheme", "http"),
                         nv(":path", path),
                         nv(":authority", "h"),
                         nv("content-type", "application/grpc"),
                         nv("grpc-timeout", timeout ? timeout : "1H")};
    const nghttp2_data_provider data = {.source.ptr = t, .read_callback = give_text};
    memset(t, 0, sizeof *t);
    t->p[3] = (uint8_t)(n >> 8);
    t->p[4] = (uint8_t)n;
    t->n = of;
    t->open = of < 5 + n;
    int32_t id = nghttp2_submit_request(c->session, NULL, head, 6, &data, NULL);
    assert_true(id > 0);
    return id;
}

/* A whole call; its status. */
static int call(client *c, const char *path)
{
    text t;
    size_t had = c->n_closed;
    c->status = -1;
    ask(c, path, &t, SHORT, 5 + SHORT, NULL);
    while (c->n_closed == had && !c->ended)
        turn(c);
    return c->status;
}

static uint64_t used_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Does the process sleep most of half a second? */
static bool is_asleep(void)
{
    const struct timespec half = {.tv_nsec = 500000000};
    uint64_t from = used_ns();
    nanosleep(&half, NULL);
    return used_ns() - from < 200000000;
}

/* --- tests ------------------------------------------------------------------------------------ */

/* Connections whose calls run; the server may not give them up. */
static client *hold(const sp_grpc *g, text *t)
{
    client *c = client_on(dial(g), 65535);
    ask(c, "/t/Wait", t, SHORT, 5 + SHORT, NULL);
    while (c->n_data < SHORT)
        turn(c);
    return c;
}

static void test_a_full_server_sleeps(void **state)
{
    (void)state;
    text t[2];
    sp_grpc *g = serve(2, 100, 1 << 20, 0);
    client *a = hold(g, &t[0]), *b = hold(g, &t[1]);
    client *late = client_on(dial(g), 65535);
    assert_true(is_asleep());
    assert_false(late->settled);
    client_free(a); /* there is room again */
    assert_int_equal(call(late, "/t/Echo"), 0);
    client_free(late);
    client_free(b);
    sp_grpc_free(g);
}

static void test_a_server_without_files_sleeps(void **state)
{
    (void)state;
    text t;
    struct rlimit had, none;
    sp_grpc *g = serve(10, 100, 1 << 20, 0);
    client *a = hold(g, &t);
    struct sockaddr_in at = {.sin_family = AF_INET,
                             .sin_port = htons(sp_grpc_port(g)),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0 && getrlimit(RLIMIT_NOFILE, &had) == 0);
    none = had;
    none.rlim_cur = 3; /* those that are open stay so */
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&at, sizeof at), 0);
    bool asleep = is_asleep();
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &had), 0);
    assert_true(asleep);
    client *late = client_on(fd, 65535);
    assert_int_equal(call(late, "/t/Echo"), 0);
    client_free(late);
    client_free(a);
    sp_grpc_free(g);
}

/* Who takes a byte a minute is late, who takes a piece in time is not. */
static void test_pace(void **state)
{
    (void)state;
    enum { MS = 1000000 };
    sp_pace slow = {0}, good = {0}, idle = {0};
    assert_false(sp_pace_is_late(&slow, 0, SP_PACE_PIECE * 2, 0, 60 * MS));
    assert_false(sp_pace_is_late(&slow, 1, SP_PACE_PIECE * 2, 60 * MS, 60 * MS));
    assert_true(sp_pace_is_late(&slow, 2, SP_PACE_PIECE * 2, 61 * MS, 60 * MS));
    for (uint64_t n = 0; n < 9; n++)
        assert_false(sp_pace_is_late(&good, n * SP_PACE_PIECE, SP_PACE_PIECE, n * 59 * MS, 60 * MS));
    assert_false(sp_pace_is_late(&idle, 0, 0, 1000 * MS, 60 * MS));
}

static void test_an_end_that_is_not_taken(void **state)
{
    (void)state;
    text t[2];
    sp_grpc *g = serve(10, 100, 1 << 20, PATIENCE_MS);
    client *c = client_on(dial(g), 0);
    ask(c, "/t/Echo", &t[0], SHORT, 5 + SHORT, NULL); /* it has finished */
    while (c->n_closed < 1)
        turn(c);
    assert_int_equal(c->code, NGHTTP2_CANCEL);
    ask(c, "/t/Wait", &t[1], SHORT, 5 + SHORT, "10m"); /* its deadline finishes it */
    while (c->n_closed < 2)
        turn(c);
    assert_int_equal(c->code, NGHTTP2_CANCEL);
    assert_true(c->n_data == 0 && !c->ended);
    while (sp_grpc_open_count(g))
        turn(c);
    client_free(c);
    sp_grpc_free(g);
}

static void test_a_socket_that_takes_nothing(void **state)
{
    (void)state;
    text t;
    sp_grpc *g = serve(10, 100, 1 << 20, PATIENCE_MS);
    client *c = client_on(dial(g), (1u << 31) - 1), *other = client_on(dial(g), 65535);
    assert_int_equal(
        nghttp2_session_set_local_window_size(c->session, NGHTTP2_FLAG_NONE, 0, (1u << 31) - 1), 0);
    ask(c, "/t/Pour", &t, SHORT, 5 + SHORT, NULL);
    while (nghttp2_session_want_write(c->session))
        assert_int_equal(nghttp2_session_send(c->session), 0);
    while (sp_grpc_open_count(g) == 0)
        assert_int_equal(call(other, "/t/Echo"), 0);
    while (sp_grpc_open_count(g)) /* nobody reads */
        assert_int_equal(call(other, "/t/Echo"), 0);
    client_free(c);
    client_free(other);
    sp_grpc_free(g);
}

static void test_messages_that_do_not_come(void **state)
{
    (void)state;
    static const uint8_t half_head[] = {0, 0, 1, 1, 0, 0, 0, 0, 1, 0x83}; /* no END_HEADERS */
    text t[2];
    sp_grpc *g = serve(10, 100, 1 << 20, PATIENCE_MS);
    client *c = client_on(dial(g), 65535);
    ask(c, "/t/Echo", &t[0], SHORT, 5 + SHORT / 2, NULL);
    ask(c, "/t/Echo", &t[1], SHORT, 0, NULL);
    while (c->n_closed < 2)
        turn(c);
    assert_int_equal(c->status, SP_GRPC_DEADLINE_EXCEEDED);
    while (nghttp2_session_want_write(c->session))
        assert_int_equal(nghttp2_session_send(c->session), 0);
    client *d = client_on(dial(g), 65535);
    while (!d->settled)
        turn(d);
    assert_true(send(d->fd, half_head, sizeof half_head, 0) == sizeof half_head);
    while (!d->ended)
        turn(d);
    client_free(c);
    client_free(d);
    sp_grpc_free(g);
}

/* One that always has more to do does not keep the thread. */
static void test_others_get_their_turn(void **state)
{
    (void)state;
    text t;
    sp_grpc *g = serve(10, 100, 1 << 20, 0);
    client *a = client_on(dial(g), 65535), *b = client_on(dial(g), 65535);
    ask(a, "/t/Busy", &t, SHORT, 5 + SHORT, NULL);
    while (sp_grpc_open_count(g) == 0)
        turn(a);
    for (int i = 0; i < 20; i++)
        assert_int_equal(call(b, "/t/Echo"), 0);
    client_free(a);
    client_free(b);
    sp_grpc_free(g);
}

static void test_wakes_beyond_the_list(void **state)
{
    (void)state;
    enum { WAKES = 20000 };
    text t;
    sp_grpc *g = serve(10, 100, 1 << 20, 0);
    client *c = client_on(dial(g), (1u << 31) - 1);
    ask(c, "/t/Pour", &t, SHORT, 5 + SHORT, NULL);
    for (int round = 0; round < 20; round++) {
        for (uint64_t i = 0; i < WAKES; i++)
            sp_grpc_wake(g, i);
        size_t had = c->n_data;
        while (c->n_data < had + (128 << 10))
            turn(c);
    }
    client_free(c);
    sp_grpc_free(g);
}

static void test_bytes_are_given_back(void **state)
{
    (void)state;
    static text t[40];
    sp_grpc *g = serve(10, 1000, 3 * SMALL, 0);
    for (int round = 0; round < 30; round++) {
        client *c = client_on(dial(g), 65535);
        size_t had = 0;
        for (int i = 0; i < 40; i++) /* of each a part, until there is no room for more */
            ask(c, i % 3 ? "/t/Echo" : "/t/Nothing", &t[i], SMALL - 5, SMALL / 2, NULL);
        while (c->n_closed < 20)
            turn(c);
        for (int i = 0; i < 40; i++)
            (void)nghttp2_submit_rst_stream(c->session, 0, 1 + 2 * i, NGHTTP2_CANCEL);
        while (c->n_closed < 40)
            turn(c);
        had = c->n_closed;
        int32_t id = ask(c, "/t/Echo", &t[0], SMALL - 5, SMALL, NULL);
        while (c->n_closed == had)
            turn(c);
        assert_true(c->stream == id && c->status == 0 && c->code == NGHTTP2_NO_ERROR);
        client_free(c);
    }
    sp_grpc_free(g);
}

static void test_calls_without_a_key_are_half(void **state)
{
    (void)state;
    text t[3];
    sp_grpc *g = serve(10, 4, 1 << 20, 0);
    client *c = client_on(dial(g), 65535);
    for (int round = 0; round < 3; round++) {
        size_t had = c->n_closed, got = c->n_data;
        int32_t a = ask(c, "/t/Watch", &t[0], SHORT, 5 + SHORT, NULL),
                b = ask(c, "/t/Watch", &t[1], SHORT, 5 + SHORT, NULL);
        while (c->n_data < got + 2 * (5 + SHORT))
            turn(c);
        assert_int_equal(call(c, "/t/Watch"), SP_GRPC_RESOURCE_EXHAUSTED);
        assert_int_equal(call(c, "/t/Echo"), SP_GRPC_OK);
        (void)nghttp2_submit_rst_stream(c->session, 0, a, NGHTTP2_CANCEL);
        (void)nghttp2_submit_rst_stream(c->session, 0, b, NGHTTP2_CANCEL);
        while (c->n_closed < had + 4)
            turn(c);
        while (sp_grpc_open_count(g))
            turn(c);
    }
    client_free(c);
    sp_grpc_free(g);
}

/* Frames that each want an answer, from a client that reads none: its connection ends, and memory
 * does not grow with what it sends. */
static void flood(const uint8_t *frames, size_t n, size_t n_times)
{
    text t;
    sp_grpc *g = serve(10, 1, 1 << 20, PATIENCE_MS);
    client *c = client_on(dial(g), 65535), *other = hold(g, &t);
    struct rusage from, to;
    while (!c->settled)
        turn(c);
    getrusage(RUSAGE_SELF, &from);
    bool ended = false;
    for (size_t i = 0; i < n_times && !ended; i++) {
        struct pollfd p = {.fd = c->fd, .events = POLLOUT};
        while (poll(&p, 1, 20) == 0)
            turn(other);
        ended = p.revents & (POLLERR | POLLHUP) || send(c->fd, frames, n, MSG_NOSIGNAL) < 0;
    }
    assert_true(ended);
    getrusage(RUSAGE_SELF, &to);
    assert_true(to.ru_maxrss - from.ru_maxrss < 32 << 10);
    assert_false(other->ended);
    client_free(c);
    client_free(other);
    sp_grpc_free(g);
}

static void put_frame(uint8_t *p, size_t n, uint8_t type, uint8_t flags, uint32_t stream)
{
    const uint8_t head[] = {(uint8_t)(n >> 16),
                            (uint8_t)(n >> 8),
                            (uint8_t)n,
                            type,
                            flags,
                            (uint8_t)(stream >> 24),
                            (uint8_t)(stream >> 16),
                            (uint8_t)(stream >> 8),
                            (uint8_t)stream};
    memcpy(p, head, sizeof head);
}

/* A client that takes on and on and never catches up: what has left the server is forgotten. */
static void test_what_has_left_is_forgotten(void **state)
{
    (void)state;
    text t;
    sp_grpc *g = serve(10, 100, 1 << 20, 0);
    client *c = client_on(dial(g), 65535);
    struct rusage from, to;
    getrusage(RUSAGE_SELF, &from);
    ask(c, "/t/Pour", &t, SHORT, 5 + SHORT, NULL);
    while (c->n_data < 128 << 20)
        turn(c);
    getrusage(RUSAGE_SELF, &to);
    assert_true(to.ru_maxrss - from.ru_maxrss < 16 << 10);
    client_free(c);
    sp_grpc_free(g);
}

static void test_floods(void **state)
{
    (void)state;
    enum { TIMES = 1000000 };
    uint8_t frames[1700] = {0};
    for (size_t i = 0; i < 100; i++)
        put_frame(frames + 17 * i, 8, NGHTTP2_PING, 0, 0);
    flood(frames, 1700, TIMES);
    for (size_t i = 0; i < 100; i++)
        put_frame(frames + 9 * i, 0, NGHTTP2_SETTINGS, 0, 0);
    flood(frames, 900, TIMES);
    put_frame(frames, 1, NGHTTP2_HEADERS, 0, 1); /* then CONTINUATION without an end */
    frames[9] = 0x83;
    for (size_t i = 0; i < 100; i++) {
        put_frame(frames + 10 + 10 * i, 1, NGHTTP2_CONTINUATION, 0, 1);
        frames[19 + 10 * i] = 0x86;
    }
    flood(frames, 1010, TIMES);
}

/* Calls that are opened and taken back at once. */
static void test_rapid_reset(void **state)
{
    (void)state;
    text t;
    sp_grpc *g = serve(10, 1000, 1 << 20, 0);
    client *c = client_on(dial(g), 65535);
    size_t n = 0;
    while (!c->ended && n < 1000000) {
        int32_t id = ask(c, "/t/Wait", &t, SHORT, 5 + SHORT, NULL);
        if (nghttp2_session_send(c->session) != 0 ||
            nghttp2_submit_rst_stream(c->session, 0, id, NGHTTP2_CANCEL) != 0)
            break;
        if (++n % 64 == 0)
            turn(c);
    }
    assert_true(n < 1000000);
    client_free(c);
    while (sp_grpc_open_count(g))
        sched_yield();
    sp_grpc_free(g);
}

const struct CMUnitTest net_grpc_tests[] = {cmocka_unit_test(test_a_full_server_sleeps),
                                            cmocka_unit_test(test_a_server_without_files_sleeps),
                                            cmocka_unit_test(test_pace),
                                            cmocka_unit_test(test_an_end_that_is_not_taken),
                                            cmocka_unit_test(test_a_socket_that_takes_nothing),
                                            cmocka_unit_test(test_messages_that_do_not_come),
                                            cmocka_unit_test(test_others_get_their_turn),
                                            cmocka_unit_test(test_wakes_beyond_the_list),
                                            cmocka_unit_test(test_bytes_are_given_back),
                                            cmocka_unit_test(test_calls_without_a_key_are_half),
                                            cmocka_unit_test(test_what_has_left_is_forgotten),
                                            cmocka_unit_test(test_floods),
                                            cmocka_unit_test(test_rapid_reset)};
const size_t n_net_grpc_tests = sizeof net_grpc_tests / sizeof net_grpc_tests[0];
