#include "net/grpc.h"

#include <string.h>

uint64_t sp_grpc_timeout(const char *v)
{
    static const struct {
        char unit;
        uint64_t ns;
    } of[] = {{'n', 1},          {'u', 1000},        {'m', 1000000},
              {'S', 1000000000}, {'M', 60000000000}, {'H', 3600000000000}};
    uint64_t x = 0;
    size_t n = strspn(v, "0123456789");
    if (n == 0 || n > 8 || !v[n] || v[n + 1])
        return 0;
    for (size_t i = 0; i < n; i++)
        x = x * 10 + (uint64_t)(v[i] - '0');
    for (size_t i = 0; i < sizeof of / sizeof of[0]; i++)
        if (of[i].unit == v[n])
            return x > UINT64_MAX / 2 / of[i].ns ? UINT64_MAX / 2 : x ? x * of[i].ns : 1;
    return 0;
}

void sp_grpc_encode(sp_buf *out, const char *message)
{
    for (const unsigned char *p = (const unsigned char *)message; *p; p++) {
        if (*p >= 0x20 && *p <= 0x7e && *p != '%')
            sp_buf_putc(out, (char)*p);
        else
            sp_buf_printf(out, "%%%02X", *p);
    }
}

sp_err sp_grpc_frame(const uint8_t **msg, size_t *n_msg, size_t *used, const uint8_t *p, size_t n,
                     size_t cap)
{
    if (n < 5)
        return n && p[0] ? SP_UNSUP : SP_AGAIN;
    if (p[0])
        return SP_UNSUP;
    size_t len = (size_t)p[1] << 24 | (size_t)p[2] << 16 | (size_t)p[3] << 8 | p[4];
    if (len > cap)
        return SP_LIMIT;
    if (n - 5 < len)
        return SP_AGAIN;
    *msg = p + 5;
    *n_msg = len;
    *used = 5 + len;
    return SP_OK;
}
