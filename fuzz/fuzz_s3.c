/* Any bytes as an object store's answer: a header line up to the first line feed, then a body as a list, an error and a range. The
 * reading functions are file-private: this target includes their file. */
#include "fuzz.h"

#include "net/s3.c"

static bool on_key(void *arg, const char *key, uint64_t bytes)
{
    (void)bytes;
    SP_ASSERT(strlen(key) < 1024 && is_plain(key, strlen(key)));
    return ++*(size_t *)arg < 1000;
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    static char prefix[] = "a/";
    static sp_s3 s = {.prefix = prefix};
    const uint8_t *nl = n ? memchr(p, '\n', n) : NULL;
    size_t n_head = nl ? (size_t)(nl - p) + 1 : 0, n_key = 0;
    char more[TOKEN_BYTES] = "", code[64];
    request r = {.method = "GET", .url = "http://x"};
    sp_buf line = {0}, url = {0};
    sp_buf_put(&line, p, n_head);
    SP_ASSERT(on_header(line.p ? line.p : (char *)(uintptr_t)"", 1, n_head, &r) == n_head);
    SP_ASSERT(memchr(r.etag, 0, sizeof r.etag));
    sp_buf_put(&r.reply, p + n_head, n - n_head);
    sp_err err = read_list(&s, sp_buf_str(&r.reply), more, on_key, &n_key, NULL);
    SP_ASSERT(err == SP_OK || err == SP_CANCEL);
    query_escape(&url, more);
    const char *at = sp_buf_str(&r.reply);
    (void)xml_next(&at, "Code", code, sizeof code);
    sp_buf_fini(&r.reply);
    sp_buf_fini(&line);
    sp_buf_fini(&url);
    return 0;
}
