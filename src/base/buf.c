/* Growable byte buffer and the JSON writer's primitives. */
#include "base/buf.h"

#include "base/mem.h"
#include "base/utf8.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void sp_buf_fini(sp_buf *b)
{
    sp_mem_free(b->p);
    *b = (sp_buf){0};
}

void sp_buf_clear(sp_buf *b)
{
    b->len = 0;
    b->failed = false;
    if (b->p)
        b->p[0] = 0;
}

static bool reserve(sp_buf *b, size_t more)
{
    size_t need;
    if (b->failed || !sp_add_ok(&need, b->len, more) || !sp_add_ok(&need, need, 1)) {
        b->failed = true;
        return false;
    }
    if (need <= b->cap)
        return true;
    size_t cap = b->cap < 64 ? 64 : b->cap;
    while (cap < need)
        cap = cap > need / 2 ? need + need / 2 : cap * 2;
    char *p = sp_mem_grow(b->p, cap);
    if (!p) {
        b->failed = true;
        return false;
    }
    b->p = p;
    b->cap = cap;
    return true;
}

void sp_buf_reserve(sp_buf *b, size_t more)
{
    size_t need;
    b->failed = b->failed || !sp_add_ok(&need, b->len, more) || !sp_add_ok(&need, need, 1);
    if (b->failed || need <= b->cap)
        return;
    char *p = sp_mem_grow(b->p, need);
    b->failed = p == NULL;
    if (!p)
        return;
    b->p = p;
    b->cap = need;
    b->p[b->len] = 0;
}

void sp_buf_put(sp_buf *b, const void *p, size_t n)
{
    if (!reserve(b, n))
        return;
    if (n)
        memcpy(b->p + b->len, p, n);
    b->len += n;
    b->p[b->len] = 0;
}

void sp_buf_puts(sp_buf *b, const char *s)
{
    sp_buf_put(b, s, strlen(s));
}

void sp_buf_putc(sp_buf *b, char c)
{
    sp_buf_put(b, &c, 1);
}

void sp_buf_printf(sp_buf *b, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n >= 0 && reserve(b, (size_t)n)) {
        vsnprintf(b->p + b->len, (size_t)n + 1, fmt, again);
        b->len += (size_t)n;
    }
    va_end(again);
}

void sp_buf_drop(sp_buf *b, size_t n)
{
    SP_ASSERT(n <= b->len);
    if (!n)
        return;
    memmove(b->p, b->p + n, b->len - n);
    b->len -= n;
    b->p[b->len] = 0;
}

void sp_buf_json_str(sp_buf *b, const char *s, size_t n)
{
    sp_buf_putc(b, '"');
    size_t i = 0, start = 0;
    while (i < n) {
        unsigned char c = (unsigned char)s[i];
        uint32_t cp;
        size_t step = c < 0x80 ? 1 : sp_utf8_decode(&cp, s + i, n - i);
        if (c >= 0x20 && c != '"' && c != '\\' && c != 0x7f && step) {
            i += step;
            continue;
        }
        sp_buf_put(b, s + start, i - start);
        if (!step)
            sp_buf_puts(b, "\xef\xbf\xbd");
        else if (c == '"' || c == '\\')
            sp_buf_printf(b, "\\%c", c);
        else if (c == '\n')
            sp_buf_puts(b, "\\n");
        else
            sp_buf_printf(b, "\\u%04x", c);
        start = ++i;
    }
    sp_buf_put(b, s + start, i - start);
    sp_buf_putc(b, '"');
}

void sp_buf_json_num(sp_buf *b, double v)
{
    if (!isfinite(v))
        sp_buf_puts(b, "null");
    else
        sp_buf_printf(b, "%.9g", v);
}

void sp_buf_base64(sp_buf *b, const void *p, size_t n)
{
    static const char set[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const unsigned char *s = p;
    for (size_t i = 0; i < n; i += 3) {
        unsigned v = (unsigned)s[i] << 16 | (i + 1 < n ? (unsigned)s[i + 1] << 8 : 0) |
                     (i + 2 < n ? s[i + 2] : 0);
        const char q[4] = {set[v >> 18], set[v >> 12 & 63], i + 1 < n ? set[v >> 6 & 63] : '=',
                           i + 2 < n ? set[v & 63] : '='};
        sp_buf_put(b, q, 4);
    }
}

const char *sp_buf_str(const sp_buf *b)
{
    return b->p ? b->p : "";
}
