/* Values that are elements in elements, <key>…</key> and <item>…</item>, as JSON. */
#include "text/calls_int.h"

typedef struct nest {
    const char *p, *end;
    const sp_call_format *f;
    sp_buf *out;
} nest;

static bool at(const nest *r, const char *mark)
{
    size_t n = strlen(mark);
    return (size_t)(r->end - r->p) >= n && memcmp(r->p, mark, n) == 0;
}

/* A name up to the end of its tag. */
static bool read_tag(nest *r, const char *mark, sp_str *name)
{
    if (!at(r, mark))
        return false;
    r->p += strlen(mark);
    const char *close = memchr(r->p, '>', (size_t)(r->end - r->p));
    if (!close)
        return false;
    *name = (sp_str){r->p, (size_t)(close - r->p)};
    r->p = close + 1;
    return true;
}

static bool read_content(nest *r, unsigned depth);

/* Elements of one name are a list if they are items, else pairs of an object. */
static bool read_elements(nest *r, unsigned depth)
{
    bool list = false;
    size_t n = 0;
    for (;; n++) {
        while (r->p < r->end && sp_call_blank(*r->p))
            r->p++;
        sp_str name, close;
        if (at(r, r->f->value_end) || !at(r, r->f->key))
            break;
        if (!read_tag(r, r->f->key, &name))
            return false;
        bool item = name.n == 4 && memcmp(name.p, "item", 4) == 0;
        if (n && item != list)
            return false;
        list = item;
        sp_buf_puts(r->out, n ? ", " : list ? "[" : "{");
        if (!list) {
            sp_buf_json_str(r->out, name.p, name.n);
            sp_buf_puts(r->out, ": ");
        }
        if (!read_content(r, depth + 1) || !read_tag(r, r->f->value_end, &close))
            return false;
    }
    sp_buf_putc(r->out, list ? ']' : '}');
    return n != 0;
}

static bool read_content(nest *r, unsigned depth)
{
    const char *from = r->p;
    if (depth > SP_CALL_DEPTH)
        return false;
    if (at(r, r->f->key) && !at(r, r->f->value_end))
        return read_elements(r, depth);
    while (r->p < r->end && !at(r, r->f->key))
        r->p++;
    sp_call_guess(r->out, from, (size_t)(r->p - from));
    return true;
}

bool sp_call_nested(sp_buf *out, const char *p, size_t n, const sp_call_format *f)
{
    nest r = {.p = p, .end = p + n, .f = f, .out = out};
    size_t len = out->len;
    if (at(&r, f->key) && read_elements(&r, 0) && r.p == r.end)
        return true;
    out->len = len;
    return false;
}
