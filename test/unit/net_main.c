/* net: heads of requests and chunked bodies, in every cut; the end-to-end tests have the table of what is refused. */
#include "test.h"

#include "net/http_head.h"

#include <stdlib.h>
#include <string.h>

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

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_head), cmocka_unit_test(test_chunks)};
    return cmocka_run_group_tests_name("net", tests, NULL, NULL);
}
