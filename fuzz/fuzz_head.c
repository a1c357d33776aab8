/* Any bytes as the head of a request, and what follows it as a body in chunks. */
#include "fuzz.h"

#include "net/http_head.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    const char *text = (const char *)p;
    size_t len = sp_head_end(text, n), used = 0;
    sp_diag d = {0};
    sp_chunks c = {0};
    sp_buf body = {0};
    sp_head h;
    char *copy = malloc(len + 1);
    SP_ASSERT(copy && len <= n);
    memcpy(copy, text, len);
    if (len && sp_head_parse(&h, copy, len, &d) == SP_OK)
        SP_ASSERT(h.method[0] && h.path[0] == '/' && !(h.chunked && h.length) && (h.old || sp_head_field(&h, "Host")));
    else if (len)
        SP_ASSERT(h.status >= 400 && h.status < 600 && d.msg[0]);
    free(copy);
    sp_err err = sp_chunks_take(&c, &body, 1000, text + len, n - len, &used);
    SP_ASSERT(body.len <= 1000 && used <= n - len && (err != SP_OK || c.state == SP_CHUNK_DONE || used == n - len));
    sp_buf_fini(&body);
    return 0;
}
