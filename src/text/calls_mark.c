/* Marks in a text that comes byte by byte, and where a JSON value ends in one. */
#include "text/calls_int.h"

static bool may_be(const sp_held *h, const char *mark)
{
    return mark && *mark && strncmp(mark, h->p, h->n) == 0;
}

int sp_mark_take(sp_held *h, char c, const char *const *mark, size_t n_mark, sp_buf *loose)
{
    h->p[h->n++] = c;
    while (h->n) {
        bool wait = false;
        for (size_t i = 0; i < n_mark; i++)
            if (may_be(h, mark[i])) {
                if (!mark[i][h->n]) {
                    h->n = 0;
                    return (int)i;
                }
                wait = true;
            }
        if (wait && h->n < SP_MARK_BYTES)
            return SP_MARK_NONE;
        sp_buf_putc(loose, h->p[0]);
        memmove(h->p, h->p + 1, --h->n);
    }
    return SP_MARK_NONE;
}

sp_scanned sp_scan_take(sp_scan *s, char c)
{
    if (s->in_string) {
        s->in_string = s->is_escaped || c != '"';
        s->is_escaped = !s->is_escaped && c == '\\';
        return s->in_string || s->depth ? SCAN_MORE : SCAN_END;
    }
    bool close = c == '}' || c == ']';
    if (s->is_scalar && (close || c == ',' || sp_call_blank(c)))
        return SCAN_BEFORE;
    if (c == '{' || c == '[') {
        if (s->is_scalar || s->depth == SP_CALL_DEPTH)
            return SCAN_BAD;
        s->braces = s->braces << 1 | (c == '{');
        s->depth++;
    } else if (close) {
        if (!s->depth || (s->braces & 1) != (c == '}'))
            return SCAN_BAD;
        s->braces >>= 1;
        if (--s->depth == 0)
            return SCAN_END;
    } else if (c == '"') {
        if (s->is_scalar)
            return SCAN_BAD;
        s->in_string = true;
    } else if (!s->depth) {
        s->is_scalar = true;
    }
    s->has_begun = true;
    return SCAN_MORE;
}
