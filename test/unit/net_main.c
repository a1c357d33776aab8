/* net: heads of requests and chunked bodies, in every cut, and a connection whose socket outlives it; the end-to-end tests have the
 * table of what is refused. */
#include "test.h"

#include "net/grpc.h"
#include "net/http_int.h"

#include <arpa/inet.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

extern const struct CMUnitTest net_grpc_tests[];
extern const size_t n_net_grpc_tests;
extern const struct CMUnitTest net_events_tests[];
extern const size_t n_net_events_tests;

static void test_head(void **state)
{
    (void)state;
    char text[] = "POST /a%20b/c?limit=4&q=x+%2B HTTP/1.1\r\nHost: h:1\r\nX-A:  b c \r\ncontent-length: 12\r\nConnection: Foo, close\r\n\r\nrest";
    sp_head h;
    size_t n = sp_head_end(text, sizeof text - 1);
    assert_int_equal(n, sizeof text - 1 - 4);
    for (size_t cut = 0; cut < n; cut++)
        assert_int_equal(sp_head_end(text, cut), 0);
    assert_int_equal(sp_head_parse(&h, text, n, NULL), SP_OK);
    assert_string_equal(h.method, "POST");
    assert_string_equal(h.path, "/a b/c");
    assert_string_equal(sp_head_query(&h, "limit"), "4");
    assert_string_equal(sp_head_query(&h, "q"), "x +");
    assert_null(sp_head_query(&h, "p"));
    assert_string_equal(sp_head_field(&h, "x-a"), "b c");
    assert_true(h.length == 12 && !h.chunked && !h.keep && !h.expect && !h.old);
}

/* Every cut into two gives what the whole gives, and what follows the last chunk is left alone. */
static void test_chunks(void **state)
{
    (void)state;
    static const char all[] = "5\r\nhello\r\n00B;x=\"y\"\r\n to all of \r\n0\r\n\r\nGET /";
    size_t n = sizeof all - 1;
    for (size_t cut = 0; cut <= n; cut++) {
        sp_chunks c = {0};
        sp_buf out = {0};
        size_t first, second = 0;
        assert_int_equal(sp_chunks_take(&c, &out, 16, all, cut, &first), SP_OK);
        assert_int_equal(sp_chunks_take(&c, &out, 16, all + first, n - first, &second), SP_OK);
        assert_int_equal(c.state, SP_CHUNK_DONE);
        assert_int_equal(first + second, n - 5);
        assert_string_equal(out.p, "hello to all of ");
        sp_buf_fini(&out);
    }
    sp_chunks c = {0};
    sp_buf out = {0};
    size_t used;
    assert_int_equal(sp_chunks_take(&c, &out, 15, all, n, &used), SP_LIMIT);
    assert_int_equal(out.len, 5);
    sp_buf_fini(&out);
}

/* Answers every request, and keeps a copy of its socket, as a child does between fork and exec. app: where the copy goes. */
static void keep_copy(void *app, const sp_http_req *req, sp_http_reply *reply, sp_http_pass *pass)
{
    (void)pass;
    atomic_store((atomic_int *)app, dup(req->conn->fd));
    reply->status = 204;
}

static void no_handler(void *app, const sp_http_req *req, sp_http_reply *reply, sp_http_task *task)
{
    (void)app, (void)req, (void)reply, (void)task;
}

static void refuse(void *app, const sp_http_conn *c, int status, const char *why, sp_http_reply *reply)
{
    (void)app, (void)c, (void)why;
    reply->status = status;
}

/* One request on a connection of its own, whose end the server sees before this returns. */
static void ask_and_leave(uint16_t port)
{
    static const char ask[] = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(port)};
    char reply[512];
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(send(fd, ask, sizeof ask - 1, MSG_NOSIGNAL), sizeof ask - 1);
    ssize_t n = recv(fd, reply, sizeof reply, 0);
    assert_true(n > 12 && memcmp(reply, "HTTP/1.1 204", 12) == 0);
    while (recv(fd, reply, sizeof reply, 0) > 0)
        ;
    close(fd);
}

/* A set of epoll goes on telling of a closed descriptor while a copy of it is open: what it tells of must not be a connection that
 * has gone. Without care the second request finds a freed connection at work. */
static void test_a_copy_outlives_the_connection(void **state)
{
    (void)state;
    atomic_int copy = -1;
    sp_http *h;
    sp_http_cfg cfg = {.host = "127.0.0.1", .max_body = 64, .max_bodies = 64, .max_conn = 4, .gate = keep_copy, .handler = no_handler,
                       .refuse = refuse, .app = &copy};
    assert_int_equal(sp_http_new(&h, &cfg, NULL), SP_OK);
    for (int i = 0; i < 20; i++) {
        ask_and_leave(sp_http_port(h));
        assert_true(atomic_load(&copy) >= 0);
    }
    sp_http_free(h);
}

static void test_grpc_timeouts(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        uint64_t ns;
    } of[] = {{"1n", 1}, {"2u", 2000}, {"3m", 3000000}, {"4S", 4000000000}, {"5M", 300000000000}, {"1H", 3600000000000}, {"0S", 1}, {"", 0}, {"S", 0},
              {"1", 0}, {"1s", 0}, {"-1S", 0}, {"1S ", 0}, {"123456789S", 0}, {"99999999H", UINT64_MAX / 2}};
    for (size_t i = 0; i < sizeof of / sizeof of[0]; i++)
        assert_true(sp_grpc_timeout(of[i].text) == of[i].ns);
    sp_buf b = {0};
    sp_grpc_encode(&b, "50% of \xc3\xa4\n");
    assert_string_equal(sp_buf_str(&b), "50%25 of %C3%A4%0A");
    sp_buf_fini(&b);
}

/* A frame is taken when it is whole, and refused as soon as it cannot be one. */
static void test_grpc_frames(void **state)
{
    (void)state;
    static const uint8_t two[] = {0, 0, 0, 0, 3, 'a', 'b', 'c', 0, 0, 0, 0, 0, 1};
    const uint8_t *msg = NULL;
    size_t n = 0, used = 0;
    for (size_t cut = 0; cut < 8; cut++)
        assert_int_equal(sp_grpc_frame(&msg, &n, &used, two, cut, 10), SP_AGAIN);
    assert_int_equal(sp_grpc_frame(&msg, &n, &used, two, sizeof two, 10), SP_OK);
    assert_true(n == 3 && used == 8 && memcmp(msg, "abc", 3) == 0);
    assert_int_equal(sp_grpc_frame(&msg, &n, &used, two + 8, sizeof two - 8, 10), SP_OK);
    assert_true(n == 0 && used == 5);
    assert_int_equal(sp_grpc_frame(&msg, &n, &used, two + 13, 1, 10), SP_UNSUP);
    assert_int_equal(sp_grpc_frame(&msg, &n, &used, two, sizeof two, 2), SP_LIMIT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_head), cmocka_unit_test(test_grpc_timeouts), cmocka_unit_test(test_grpc_frames), cmocka_unit_test(test_chunks),
                                       cmocka_unit_test(test_a_copy_outlives_the_connection)};
    alarm(600); /* servers are waited for: only a hang takes so long */
    int bad = cmocka_run_group_tests_name("net", tests, NULL, NULL);
    bad += _cmocka_run_group_tests("grpc", net_grpc_tests, n_net_grpc_tests, NULL, NULL);
    return bad + _cmocka_run_group_tests("events", net_events_tests, n_net_events_tests, NULL, NULL);
}
