/* JSON text to values; each value is foreign where its text is. */
#include "text/jinja_run.h"

#include "base/utf8.h"

#include <ctype.h>
#include <stdlib.h>

typedef struct reader {
    jrun *r;
    const jnode *n; /* NULL: not of a template */
    const sp_jval *s;
    size_t at;
} reader;

static sp_err bad(reader *j)
{
    if (!j->n)
        return SP_FAIL(j->r->d, SP_FORMAT, "not JSON from byte %zu on", j->at);
    return SP_FAIL(j->r->d, SP_FORMAT,
                   "chat template, line %u: from_json of a text that is not JSON (byte %zu)",
                   j->n->line, j->at);
}

static char peek(reader *j)
{
    const char *p = j->s->u.s.p;
    while (j->at < j->s->u.s.n && strchr(" \t\r\n", p[j->at]) && p[j->at])
        j->at++;
    return j->at < j->s->u.s.n ? p[j->at] : 0;
}

static const char *mark_of(const reader *j, size_t at)
{
    const char *m = j->s->mark;
    return !m || m == sp_jinja_from ? m : m[at] ? sp_jinja_from : NULL;
}

static bool read_hex(reader *j, uint32_t *out)
{
    *out = 0;
    if (j->s->u.s.n - j->at < 4)
        return false;
    for (int i = 0; i < 4; i++) {
        int c = (unsigned char)j->s->u.s.p[j->at++];
        if (!isxdigit(c))
            return false;
        *out = *out << 4 | (uint32_t)(isdigit(c) ? c - '0' : (c | 32) - 'a' + 10);
    }
    return true;
}

static sp_err read_escape(reader *j, jtext *t)
{
    static const char letters[] = "\"\\/bfnrt", means[] = "\"\\/\b\f\n\r\t";
    const char *mark = mark_of(j, j->at), *hit;
    char c = ++j->at < j->s->u.s.n ? j->s->u.s.p[j->at++] : 0, utf8[4];
    uint32_t cp, low;
    if (c && (hit = strchr(letters, c)))
        return sp_jinja_put(j->r, t, &means[hit - letters], 1, mark);
    if (c != 'u' || !read_hex(j, &cp))
        return bad(j);
    if (cp >= 0xd800 && cp < 0xdc00 && j->s->u.s.n - j->at >= 6 &&
        memcmp(j->s->u.s.p + j->at, "\\u", 2) == 0) {
        j->at += 2;
        if (!read_hex(j, &low) || low < 0xdc00 || low > 0xdfff)
            return bad(j);
        cp = 0x10000 + ((cp - 0xd800) << 10) + (low - 0xdc00);
    }
    if (cp >= 0xd800 && cp < 0xe000)
        cp = 0xfffd;
    return sp_jinja_put(j->r, t, utf8, sp_utf8_encode(utf8, cp), mark);
}

static sp_err read_string(reader *j, sp_jval *out)
{
    jtext t = {0};
    const char *p = j->s->u.s.p;
    size_t n = j->s->u.s.n;
    sp_err err = SP_OK;
    j->at++;
    while (err == SP_OK && j->at < n && p[j->at] != '"') {
        size_t from = j->at;
        while (j->at < n && p[j->at] != '"' && p[j->at] != '\\' && (unsigned char)p[j->at] >= 0x20)
            j->at++;
        sp_jval plain = sp_jinja_part(j->s, from, j->at);
        err = sp_jinja_put_str(j->r, &t, &plain);
        if (err == SP_OK && j->at < n && p[j->at] == '\\')
            err = read_escape(j, &t);
        else if (err == SP_OK && j->at < n && p[j->at] != '"')
            err = bad(j);
    }
    if (err == SP_OK && j->at >= n)
        err = bad(j);
    j->at++;
    return sp_jinja_keep(j->r, out, &t, err);
}

static size_t digits(const char *s)
{
    return strspn(s, "0123456789");
}

/* Whether a text is a number as JSON writes it. */
static bool is_number(const char *s)
{
    s += *s == '-';
    if (!digits(s) || (*s == '0' && digits(s) > 1))
        return false;
    s += digits(s);
    if (*s == '.') {
        if (!digits(++s))
            return false;
        s += digits(s);
    }
    if (*s == 'e' || *s == 'E') {
        s++;
        s += *s == '+' || *s == '-';
        if (!digits(s))
            return false;
        s += digits(s);
    }
    return !*s;
}

static sp_err read_scalar(reader *j, sp_jval *out)
{
    static const struct { const char *word; sp_jval v;
    } words[] = {{"true", {.kind = SP_J_BOOL, .u.b = true}},
                 {"false", {.kind = SP_J_BOOL, .u.b = false}},
                 {"null", {.kind = SP_J_NONE}}};
    const char *p = j->s->u.s.p + j->at;
    size_t left = j->s->u.s.n - j->at, len = 0;
    char num[64], *end;
    for (size_t i = 0; i < 3; i++)
        if (left >= strlen(words[i].word) && memcmp(p, words[i].word, strlen(words[i].word)) == 0) {
            *out = words[i].v;
            out->mark = mark_of(j, j->at);
            j->at += strlen(words[i].word);
            return SP_OK;
        }
    while (len < left && len < sizeof num - 1 && p[len] && strchr("+-0123456789.eE", p[len]))
        len++;
    memcpy(num, p, len);
    num[len] = 0;
    if (!is_number(num))
        return bad(j);
    bool whole = !strpbrk(num, ".eE") && len < 19;
    *out = whole ? sp_jinja_int(strtoll(num, &end, 10))
                 : (sp_jval){.kind = SP_J_FLOAT, .u.f = strtod(num, &end)};
    out->mark = mark_of(j, j->at);
    j->at += len;
    return *end ? bad(j) : SP_OK;
}

static sp_err read_value(reader *j, sp_jval *out, size_t depth);

static sp_err read_items(reader *j, sp_jval *out, size_t depth)
{
    bool map = peek(j) == '{';
    char close = map ? '}' : ']';
    SP_TRY(sp_jinja_make(j->r, out, map ? SP_J_MAP : SP_J_LIST));
    out->mark = mark_of(j, j->at);
    j->at++;
    if (peek(j) == close) {
        j->at++;
        return SP_OK;
    }
    for (;;) {
        sp_jval key, v;
        if (map) {
            if (peek(j) != '"')
                return bad(j);
            SP_TRY(read_string(j, &key));
            if (peek(j) != ':')
                return bad(j);
            j->at++;
        }
        SP_TRY(read_value(j, &v, depth + 1));
        SP_TRY(sp_jinja_spend(j->r, out->u.list->n / 16));
        if (map ? sp_jinja_map_put(out, j->r->a, key, v) != SP_OK
                : sp_jinja_list_add(out, j->r->a, v) != SP_OK)
            return sp_jinja_full(j->r);
        char c = peek(j);
        j->at++;
        if (c == close)
            return SP_OK;
        if (c != ',')
            return bad(j);
    }
}

static sp_err read_value(reader *j, sp_jval *out, size_t depth)
{
    char c = peek(j);
    SP_TRY(sp_jinja_spend(j->r, 1));
    if (depth > SP_JINJA_DEPTH)
        return SP_FAIL(j->r->d, SP_LIMIT, "%sa value is nested deeper than %d",
                       j->n ? "chat template: " : "", SP_JINJA_DEPTH);
    if (c == '"')
        return read_string(j, out);
    return c == '{' || c == '[' ? read_items(j, out, depth) : read_scalar(j, out);
}

sp_err sp_jinja_from_json(jrun *r, sp_jval *out, const jnode *n, const sp_jval *s)
{
    reader j = {.r = r, .n = n, .s = s};
    if (s->kind != SP_J_STR)
        return SP_JINJA_TYPE(r, n, "from_json of a value that is not a string");
    SP_TRY(read_value(&j, out, 0));
    return peek(&j) || j.at < s->u.s.n ? bad(&j) : SP_OK;
}

sp_err sp_jinja_json(sp_jval *out, sp_arena *a, size_t *steps, const char *p, size_t n, sp_diag *d)
{
    jrun r = {.a = a, .d = d, .steps = *steps};
    const sp_jval s = sp_jinja_foreign(p, n);
    reader j = {.r = &r, .s = &s};
    sp_err err = read_value(&j, out, 0);
    *steps = r.steps;
    SP_TRY(err);
    return peek(&j) || j.at < n ? bad(&j) : SP_OK;
}
