/* Texts of a template's run: building them with the marks of their bytes, and their characters. */
#include "text/jinja_run.h"

/* Room for n more bytes of a text. */
static sp_err room(jrun *r, const jtext *t, size_t n)
{
    if (t->b.failed || t->mark.failed || n > SP_JINJA_TEXT || t->b.len > SP_JINJA_TEXT - n)
        return SP_FAIL(r->d, SP_LIMIT, "chat template: a text larger than %d bytes", SP_JINJA_TEXT);
    return sp_jinja_spend_bytes(r, n);
}

static void put_marks(sp_buf *b, size_t n, const char *mark)
{
    sp_buf_reserve(b, n);
    if (mark && mark != sp_jinja_from) {
        sp_buf_put(b, mark, n);
        return;
    }
    for (size_t i = 0; i < n; i++)
        sp_buf_putc(b, mark ? 1 : 0);
}

sp_err sp_jinja_put(jrun *r, jtext *t, const char *p, size_t n, const char *mark)
{
    if (!n)
        return SP_OK;
    SP_TRY(room(r, t, n));
    bool is_uniform = !mark || mark == sp_jinja_from;
    if (t->b.len == 0 && is_uniform)
        t->from = mark;
    else if (!t->is_mixed && (!is_uniform || mark != t->from)) {
        put_marks(&t->mark, t->b.len, t->from);
        t->is_mixed = true;
    }
    sp_buf_put(&t->b, p, n);
    if (t->is_mixed)
        put_marks(&t->mark, n, mark);
    return SP_OK;
}

sp_err sp_jinja_put_str(jrun *r, jtext *t, const sp_jval *s)
{
    return sp_jinja_put(r, t, s->u.s.p, s->u.s.n, s->mark);
}

sp_err sp_jinja_put_value(jrun *r, jtext *t, const sp_jval *v)
{
    static const jjson repr = {0};
    if (v->kind == SP_J_UNDEF)
        return SP_OK;
    return v->kind == SP_J_STR ? sp_jinja_put_str(r, t, v) : sp_jinja_put_repr(r, t, v, &repr, 0);
}

void sp_jinja_text_fini(jtext *t)
{
    sp_buf_fini(&t->b);
    sp_buf_fini(&t->mark);
    *t = (jtext){0};
}

sp_err sp_jinja_keep(jrun *r, sp_jval *out, jtext *t, sp_err err)
{
    bool bad = t->b.failed || t->mark.failed || err != SP_OK;
    size_t n = t->b.len;
    const char *mark = t->from;
    char *p = bad ? NULL : sp_arena_strndup(r->a, sp_buf_str(&t->b), n);
    if (p && t->is_mixed)
        mark = sp_arena_strndup(r->a, sp_buf_str(&t->mark), n);
    bad = bad || !p || (t->is_mixed && !mark);
    sp_jinja_text_fini(t);
    SP_TRY(err);
    if (bad)
        return sp_jinja_full(r);
    *out = sp_jinja_str(p, n);
    out->mark = mark;
    return SP_OK;
}

sp_jval sp_jinja_part(const sp_jval *s, size_t at, size_t end)
{
    sp_jval v = sp_jinja_str(s->u.s.p + at, end - at);
    v.mark = sp_jinja_mark_at(s->mark, at);
    return v;
}

sp_err sp_jinja_as_text(jrun *r, sp_jval *out, const sp_jval *v)
{
    jtext t = {0};
    if (v->kind == SP_J_STR) {
        *out = *v;
        return SP_OK;
    }
    sp_err err = sp_jinja_put_value(r, &t, v);
    return sp_jinja_keep(r, out, &t, err);
}

size_t sp_jinja_chars(const sp_jval *s)
{
    size_t n = 0;
    for (size_t i = 0; i < s->u.s.n; i++)
        n += ((unsigned char)s->u.s.p[i] & 0xc0) != 0x80;
    return n;
}

size_t sp_jinja_char_at(const sp_jval *s, size_t i)
{
    size_t at = 0;
    for (; at < s->u.s.n; at++)
        if (((unsigned char)s->u.s.p[at] & 0xc0) != 0x80 && i-- == 0)
            break;
    return at;
}

size_t sp_jinja_char_len(const sp_jval *s, size_t at)
{
    size_t len = 1;
    while (at + len < s->u.s.n && ((unsigned char)s->u.s.p[at + len] & 0xc0) == 0x80)
        len++;
    return len;
}
