/* What templates do with strings. Results keep which of their bytes are foreign. */
#include "text/jinja_run.h"

#include "base/utf8.h"

#include <ctype.h>

/* A character at p; a byte that is not UTF-8 stands for itself. */
static size_t take(uint32_t *cp, const char *p, size_t n)
{
    size_t len = sp_utf8_decode(cp, p, n);
    if (!len)
        *cp = 0x110000 + (unsigned char)*p;
    return len ? len : 1;
}

static bool is_blank(uint32_t cp) /* Python's str.isspace */
{
    return sp_utf8_is_space(cp) || (cp >= 0x1c && cp <= 0x1f);
}

static bool is_in(const sp_jval *set, const char *p, size_t n)
{
    uint32_t cp;
    if (!set) {
        (void)take(&cp, p, n);
        return is_blank(cp);
    }
    for (size_t i = 0; i < set->u.s.n; i += sp_jinja_char_len(set, i))
        if (sp_jinja_char_len(set, i) == n && memcmp(set->u.s.p + i, p, n) == 0)
            return true;
    return false;
}

sp_err sp_jinja_strip(jrun *r, sp_jval *out, const sp_jval *s, const sp_jval *set, bool left,
                      bool right)
{
    size_t a = 0, b = s->u.s.n;
    size_t each = set ? 1 + set->u.s.n / 16 : 1;
    SP_TRY(sp_jinja_spend_bytes(r, s->u.s.n + (set ? set->u.s.n : 0)));
    while (left && a < b && is_in(set, s->u.s.p + a, sp_jinja_char_len(s, a))) {
        SP_TRY(sp_jinja_spend(r, each / 16));
        a += sp_jinja_char_len(s, a);
    }
    while (right && b > a) {
        size_t at = b - 1;
        SP_TRY(sp_jinja_spend(r, each / 16));
        while (at > a && ((unsigned char)s->u.s.p[at] & 0xc0) == 0x80)
            at--;
        if (!is_in(set, s->u.s.p + at, b - at))
            break;
        b = at;
    }
    *out = sp_jinja_part(s, a, b);
    return SP_OK;
}

sp_err sp_jinja_recase(jrun *r, sp_jval *out, const sp_jval *s, char how)
{
    jtext t = {0};
    sp_err err = SP_OK;
    bool in_word = false;
    for (size_t i = 0; i < s->u.s.n && err == SP_OK;) {
        uint32_t cp;
        char c[4];
        size_t len = take(&cp, s->u.s.p + i, s->u.s.n - i);
        const char *mark = sp_jinja_mark_at(s->mark, i);
        if (mark && mark != sp_jinja_from)
            mark = *mark ? sp_jinja_from : NULL;
        bool up = how == 'u' || (how == 'c' && i == 0) || (how == 't' && !in_word);
        in_word = cp < 0x110000 && (sp_utf8_is_letter(cp));
        if (cp < 0x110000)
            err = sp_jinja_put(r, &t, c,
                               sp_utf8_encode(c, up ? sp_utf8_upper(cp) : sp_utf8_lower(cp)), mark);
        else
            err = sp_jinja_put(r, &t, s->u.s.p + i, 1, mark);
        i += len;
    }
    if (err == SP_OK)
        err = sp_jinja_spend_bytes(r, s->u.s.n);
    return sp_jinja_keep(r, out, &t, err);
}

/* An empty `from` stands before every character and at the end. */
static sp_err replace_between(jrun *r, jtext *t, const sp_jval *s, const sp_jval *to, int64_t most)
{
    size_t i = 0;
    for (; i < s->u.s.n && most != 0; most--) {
        sp_jval one = sp_jinja_part(s, i, i + sp_jinja_char_len(s, i));
        SP_TRY(sp_jinja_spend(r, 1));
        SP_TRY(sp_jinja_put_str(r, t, to));
        SP_TRY(sp_jinja_put_str(r, t, &one));
        i += one.u.s.n;
    }
    sp_jval rest = sp_jinja_part(s, i, s->u.s.n);
    SP_TRY(sp_jinja_put_str(r, t, &rest));
    return most != 0 ? sp_jinja_put_str(r, t, to) : SP_OK;
}

static sp_err replace_all(jrun *r, jtext *t, const sp_jval *s, const sp_jval *from,
                          const sp_jval *to, int64_t most)
{
    const char *p = s->u.s.p;
    size_t at = 0, n = s->u.s.n;
    SP_TRY(sp_jinja_spend_bytes(r, n));
    if (!from->u.s.n)
        return replace_between(r, t, s, to, most);
    for (const char *hit; most != 0 && (hit = memmem(p + at, n - at, from->u.s.p, from->u.s.n));
         most--) {
        sp_jval before = sp_jinja_part(s, at, (size_t)(hit - p));
        SP_TRY(sp_jinja_spend(r, 1));
        SP_TRY(sp_jinja_put_str(r, t, &before));
        SP_TRY(sp_jinja_put_str(r, t, to));
        at = (size_t)(hit - p) + from->u.s.n;
    }
    sp_jval rest = sp_jinja_part(s, at, n);
    return sp_jinja_put_str(r, t, &rest);
}

sp_err sp_jinja_replace(jrun *r, sp_jval *out, const sp_jval *s, const sp_jval *from,
                        const sp_jval *to, int64_t most)
{
    jtext t = {0};
    sp_err err = replace_all(r, &t, s, from, to, most);
    return sp_jinja_keep(r, out, &t, err);
}

static size_t skip(const sp_jval *s, size_t i, bool blank)
{
    uint32_t cp;
    while (i < s->u.s.n) {
        size_t len = take(&cp, s->u.s.p + i, s->u.s.n - i);
        if (is_blank(cp) != blank)
            break;
        i += len;
    }
    return i;
}

static sp_err split_words(jrun *r, sp_jval *out, const sp_jval *s, int64_t most)
{
    for (size_t i = skip(s, 0, true); i < s->u.s.n;) {
        size_t end = most-- == 0 ? s->u.s.n : skip(s, i, false);
        SP_TRY(sp_jinja_push(r, out, sp_jinja_part(s, i, end)));
        i = skip(s, end, true);
    }
    return SP_OK;
}

static sp_err split_right(jrun *r, sp_jval *out, const sp_jval *s, const sp_jval *sep, int64_t most)
{
    size_t end = s->u.s.n, n = sep->u.s.n, at = end;
    while (most != 0 && at >= n) {
        if (memcmp(s->u.s.p + at - n, sep->u.s.p, n) != 0) {
            at--;
            continue;
        }
        SP_TRY(sp_jinja_push(r, out, sp_jinja_part(s, at, end)));
        end = at -= n;
        most--;
    }
    SP_TRY(sp_jinja_push(r, out, sp_jinja_part(s, 0, end)));
    for (size_t i = 0, k = out->u.list->n; i + 1 < k; i++) { /* they came from the right */
        sp_jval v = out->u.list->item[i];
        out->u.list->item[i] = out->u.list->item[--k];
        out->u.list->item[k] = v;
    }
    return SP_OK;
}

sp_err sp_jinja_split(jrun *r, sp_jval *out, const sp_jval *s, const sp_jval *sep, int64_t most,
                      bool right)
{
    const char *p = s->u.s.p;
    size_t at = 0, n = s->u.s.n;
    SP_TRY(sp_jinja_spend_bytes(r, n));
    SP_TRY(sp_jinja_make(r, out, SP_J_LIST));
    if (!sep)
        return split_words(r, out, s, most);
    if (right)
        return split_right(r, out, s, sep, most);
    for (const char *hit; most != 0 && (hit = memmem(p + at, n - at, sep->u.s.p, sep->u.s.n));
         most--) {
        SP_TRY(sp_jinja_push(r, out, sp_jinja_part(s, at, (size_t)(hit - p))));
        at = (size_t)(hit - p) + sep->u.s.n;
    }
    return sp_jinja_push(r, out, sp_jinja_part(s, at, n));
}

sp_err sp_jinja_lines(jrun *r, sp_jval *out, const sp_jval *s)
{
    size_t from = 0, i = 0, n = s->u.s.n;
    SP_TRY(sp_jinja_spend_bytes(r, n));
    SP_TRY(sp_jinja_make(r, out, SP_J_LIST));
    while (i < n) {
        uint32_t cp;
        size_t len = take(&cp, s->u.s.p + i, n - i);
        bool end = (cp >= 0x0a && cp <= 0x0d) || (cp >= 0x1c && cp <= 0x1e) || cp == 0x85 ||
                   cp == 0x2028 || cp == 0x2029;
        if (end) {
            SP_TRY(sp_jinja_push(r, out, sp_jinja_part(s, from, i)));
            from = i + len + (cp == '\r' && i + 1 < n && s->u.s.p[i + 1] == '\n');
        }
        i = end ? from : i + len;
    }
    return from < n ? sp_jinja_push(r, out, sp_jinja_part(s, from, n)) : SP_OK;
}

sp_err sp_jinja_escape(jrun *r, sp_jval *out, const sp_jval *s)
{
    static const char signs[] = "&<>'\"";
    static const char *const names[] = {"&amp;", "&lt;", "&gt;", "&#39;", "&#34;"};
    jtext t = {0};
    size_t from = 0;
    sp_err err = sp_jinja_spend_bytes(r, s->u.s.n);
    for (size_t i = 0; i <= s->u.s.n && err == SP_OK; i++) {
        const char *hit = i < s->u.s.n && s->u.s.p[i] ? strchr(signs, s->u.s.p[i]) : NULL;
        if (!hit && i < s->u.s.n)
            continue;
        sp_jval plain = sp_jinja_part(s, from, i),
                sign = i < s->u.s.n ? sp_jinja_part(s, i, i + 1) : plain;
        const char *mark = sign.mark && sign.mark != sp_jinja_from
                               ? (*sign.mark ? sp_jinja_from : NULL)
                               : sign.mark;
        err = sp_jinja_put_str(r, &t, &plain);
        if (err == SP_OK && hit)
            err = sp_jinja_put(r, &t, names[hit - signs], strlen(names[hit - signs]), mark);
        from = i + 1;
    }
    SP_TRY(sp_jinja_keep(r, out, &t, err));
    out->is_safe = true;
    return SP_OK;
}

/* One field of str.format, from its brace on: {}, {0} and {name}. */
static sp_err put_field(jrun *r, jtext *t, const jnode *n, const sp_jval *s, size_t *at,
                        size_t *next, jargs *a)
{
    const char *p = s->u.s.p + *at + 1, *end = memchr(p, '}', s->u.s.n - *at - 1);
    if (!end)
        return SP_JINJA_TYPE(r, n, "format() of a text with a brace that nothing closes");
    size_t len = (size_t)(end - p), index = 0;
    bool digits = true;
    for (size_t i = 0; i < len; i++) {
        digits = digits && isdigit((unsigned char)p[i]);
        index = digits && index < 100 ? index * 10 + (size_t)(p[i] - '0') : index;
    }
    const sp_jval *v = NULL;
    if (len == 0)
        v = sp_jinja_arg(a, (*next)++, "");
    else if (digits)
        v = sp_jinja_arg(a, index, "");
    for (size_t i = 0; len && !digits && i < a->n; i++)
        if (a->key[i].n == len && memcmp(a->key[i].p, p, len) == 0) {
            a->used |= 1u << i;
            v = &a->v[i];
        }
    if (!v)
        return SP_JINJA_TYPE(r, n,
                             "format() knows the fields {}, {0} and {name} of what it is given");
    *at += len + 2;
    return sp_jinja_put_value(r, t, v);
}

sp_err sp_jinja_format(jrun *r, sp_jval *out, const jnode *n, const sp_jval *s, jargs *a)
{
    jtext t = {0};
    size_t next = 0;
    sp_err err = SP_OK;
    for (size_t i = 0; i < s->u.s.n && err == SP_OK;) {
        bool brace = s->u.s.p[i] == '{' || s->u.s.p[i] == '}';
        bool twice = brace && i + 1 < s->u.s.n && s->u.s.p[i + 1] == s->u.s.p[i];
        sp_jval one = sp_jinja_part(s, i, i + 1);
        if (!brace || twice) {
            err = sp_jinja_put_str(r, &t, &one);
            i += twice ? 2 : 1;
        } else if (s->u.s.p[i] == '}') {
            err = SP_JINJA_TYPE(r, n, "format() of a text with a brace that closes nothing");
        } else {
            err = put_field(r, &t, n, s, &i, &next, a);
        }
    }
    for (size_t i = 0; i < a->n; i++) /* Python takes arguments that no field names */
        a->used |= 1u << i;
    return sp_jinja_keep(r, out, &t, err);
}

/* Characters from bound[0] to before bound[1]: a stretch of the text itself, or a copy of some of
 * its characters. */
static sp_err slice_text(jrun *r, sp_jval *out, const sp_jval *s, const int64_t bound[2],
                         int64_t by)
{
    jtext t = {0};
    sp_err err = SP_OK;
    SP_TRY(sp_jinja_spend_bytes(r, 2 * s->u.s.n));
    if (by == 1) {
        size_t from = sp_jinja_char_at(s, (size_t)bound[0]),
               to = bound[1] > bound[0] ? sp_jinja_char_at(s, (size_t)bound[1]) : from;
        *out = sp_jinja_part(s, from, to);
        return SP_OK;
    }
    size_t len = sp_jinja_chars(s), at = 0;
    SP_TRY(sp_jinja_spend(r, len));
    uint32_t *start = sp_arena_alloc(r->a, (len + 1) * sizeof *start);
    if (!start)
        return sp_jinja_full(r);
    for (size_t i = 0; i < s->u.s.n; i++)
        if (((unsigned char)s->u.s.p[i] & 0xc0) != 0x80)
            start[at++] = (uint32_t)i;
    start[len] = (uint32_t)s->u.s.n;
    for (int64_t i = bound[0]; err == SP_OK && (by > 0 ? i < bound[1] : i > bound[1]); i += by) {
        sp_jval one = sp_jinja_part(s, start[i], start[i + 1]);
        err = sp_jinja_put_str(r, &t, &one);
    }
    return sp_jinja_keep(r, out, &t, err);
}

sp_err sp_jinja_slice(jrun *r, sp_jval *out, const jnode *n, const sp_jval *v,
                      const sp_jval part[3])
{
    if (v->kind != SP_J_LIST && v->kind != SP_J_STR)
        return SP_JINJA_TYPE(r, n, "only lists and strings can be sliced");
    SP_TRY(sp_jinja_spend_bytes(r, v->kind == SP_J_STR ? v->u.s.n : 0));
    int64_t len = (int64_t)(v->kind == SP_J_LIST ? v->u.list->n : sp_jinja_chars(v));
    int64_t by = part[2].kind == SP_J_INT ? part[2].u.i : 1;
    if (by == 0)
        return SP_JINJA_TYPE(r, n, "slice step is zero");
    by = by < -len - 1 ? -len - 1 : by > len + 1 ? len + 1 : by;
    int64_t bound[2] = {by > 0 ? 0 : len - 1, by > 0 ? len : -1};
    for (int i = 0; i < 2; i++) {
        if (part[i].kind != SP_J_INT)
            continue;
        int64_t x = part[i].u.i < -len ? -len - 1 : part[i].u.i > len ? len : part[i].u.i;
        x = x < 0 ? x + len : x;
        bound[i] = x < 0 ? (by > 0 ? 0 : -1) : by < 0 && x >= len ? len - 1 : x;
    }
    if (v->kind == SP_J_STR)
        return slice_text(r, out, v, bound, by);
    SP_TRY(sp_jinja_make(r, out, SP_J_LIST));
    for (int64_t i = bound[0]; by > 0 ? i < bound[1] : i > bound[1]; i += by)
        SP_TRY(sp_jinja_push(r, out, v->u.list->item[i]));
    return SP_OK;
}
