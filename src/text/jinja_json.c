/* Values as JSON (as Python's json.dumps writes it) and as Python's repr. */
#include "text/jinja_run.h"

#include "base/utf8.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define PUTS(r, t, s, mark) sp_jinja_put(r, t, s, strlen(s), mark)

/* Python's repr: the shortest digits that read back, an exponent from 1e16 on and below 1e-4. */
static sp_err put_float(jrun *r, jtext *t, double f, bool is_json, const char *mark)
{
    char s[48], out[64];
    int digits = 0;
    if (!isfinite(f)) {
        const char *name = isnan(f)  ? (is_json ? "NaN" : "nan")
                           : f > 0   ? (is_json ? "Infinity" : "inf")
                           : is_json ? "-Infinity"
                                     : "-inf";
        return PUTS(r, t, name, mark);
    }
    do
        snprintf(s, sizeof s, "%.*e", digits, f);
    while (strtod(s, NULL) != f && ++digits <= 16);
    int exp = atoi(strchr(s, 'e') + 1);
    if (exp >= -4 && exp < 16)
        snprintf(out, sizeof out, "%.*f", digits > exp ? digits - exp : 1, f);
    else
        snprintf(out, sizeof out, "%.*se%c%02d", (int)(strchr(s, 'e') - s), s, exp < 0 ? '-' : '+',
                 abs(exp));
    return PUTS(r, t, out, mark);
}

static sp_err put_u(jrun *r, jtext *t, uint32_t cp, const char *mark)
{
    char s[16];
    if (cp < 0x10000) {
        snprintf(s, sizeof s, "\\u%04x", cp);
        return PUTS(r, t, s, mark);
    }
    snprintf(s, sizeof s, "\\u%04x\\u%04x", 0xd800 + ((cp - 0x10000) >> 10),
             0xdc00 + ((cp - 0x10000) & 0x3ff));
    return PUTS(r, t, s, mark);
}

/* One character that JSON or repr writes in another way; *is_plain when there is none. */
static sp_err put_special(jrun *r, jtext *t, uint32_t cp, char quote, const jjson *how,
                          const char *mark, bool *is_plain)
{
    static const char names[] = "\b\f\n\r\t", letters[] = "bfnrt";
    const char *name = cp && cp < 0x20 ? strchr(names, (int)cp) : NULL;
    char s[16] = "\\";
    *is_plain = false;
    if (name && (how->is_json || *name == '\n' || *name == '\r' || *name == '\t')) {
        s[1] = letters[name - names];
        return PUTS(r, t, s, mark);
    }
    if (cp == (unsigned char)quote || cp == '\\') {
        s[1] = (char)cp;
        return PUTS(r, t, s, mark);
    }
    if (how->is_json && (cp < 0x20 || (how->is_ascii && cp > 0x7e)))
        return cp == 0x7f ? PUTS(r, t, "\x7f", mark) : put_u(r, t, cp, mark);
    if (!how->is_json && !sp_utf8_is_printable(cp)) {
        snprintf(s, sizeof s, cp < 0x100 ? "\\x%02x" : cp < 0x10000 ? "\\u%04x" : "\\U%08x", cp);
        return PUTS(r, t, s, mark);
    }
    *is_plain = true;
    return SP_OK;
}

static sp_err put_quoted(jrun *r, jtext *t, const sp_jval *v, const jjson *how)
{
    const char *p = v->u.s.p;
    size_t n = v->u.s.n, start = 0;
    char q = how->is_json || (n && memchr(p, '\'', n) && !memchr(p, '"', n)) ? '"' : '\'';
    SP_TRY(sp_jinja_spend_bytes(r, n));
    SP_TRY(sp_jinja_put(r, t, &q, 1, NULL));
    for (size_t i = 0; i < n;) {
        uint32_t cp = 0xfffd;
        size_t len = sp_utf8_decode(&cp, p + i, n - i);
        const char *mark =
            v->mark && v->mark != sp_jinja_from ? (v->mark[i] ? sp_jinja_from : NULL) : v->mark;
        bool is_plain = len > 0;
        sp_jval run = sp_jinja_part(v, start, i);
        if (!len || cp < 0x20 || cp == (unsigned char)q || cp == '\\' || cp > 0x7e) {
            jtext probe = {0};
            sp_err err = len ? put_special(r, &probe, cp, q, how, mark, &is_plain)
                             : PUTS(r, &probe, "\xef\xbf\xbd", mark);
            if (err == SP_OK && !is_plain)
                err = sp_jinja_put_str(r, t, &run);
            if (err == SP_OK && !is_plain)
                err = sp_jinja_put(r, t, sp_buf_str(&probe.b), probe.b.len, mark);
            sp_jinja_text_fini(&probe);
            SP_TRY(err);
        }
        i += len ? len : 1;
        if (!is_plain)
            start = i;
    }
    sp_jval rest = sp_jinja_part(v, start, n);
    SP_TRY(sp_jinja_put_str(r, t, &rest));
    return sp_jinja_put(r, t, &q, 1, NULL);
}

static sp_err new_line(jrun *r, jtext *t, const jjson *how, size_t depth, const char *mark)
{
    if (!how->indent)
        return SP_OK;
    SP_TRY(sp_jinja_put(r, t, "\n", 1, mark));
    for (size_t i = 0; i < depth; i++) {
        if (how->indent->kind == SP_J_STR)
            SP_TRY(sp_jinja_put_str(r, t, how->indent));
        for (int64_t k = 0; how->indent->kind == SP_J_INT && k < how->indent->u.i; k++)
            SP_TRY(sp_jinja_put(r, t, " ", 1, mark));
    }
    return SP_OK;
}

/* Order in which a map's pairs are written: as they stand, or by key. */
static sp_err pair_order(jrun *r, const sp_jval ***out, const sp_jval *v, const jjson *how)
{
    size_t n = v->u.list->n / 2;
    const sp_jval **order = sp_arena_alloc(r->a, (n + 1) * sizeof *order);
    if (!order)
        return sp_jinja_full(r);
    for (size_t i = 0; i < n; i++) {
        const sp_jval *key = &v->u.list->item[2 * i];
        size_t at = i;
        for (; how->is_sorted && at > 0; at--) {
            int c = 0;
            const jnode where = {0};
            SP_TRY(sp_jinja_spend(r, 1));
            SP_TRY(sp_jinja_compare(r, &where, &c, order[at - 1], key));
            if (c <= 0)
                break;
            order[at] = order[at - 1];
        }
        order[at] = key;
    }
    *out = order;
    return SP_OK;
}

static sp_err put_key(jrun *r, jtext *t, const sp_jval *key, const jjson *how, size_t depth)
{
    if (!how->is_json || key->kind == SP_J_STR)
        return sp_jinja_put_repr(r, t, key, how, depth);
    SP_TRY(sp_jinja_put(r, t, "\"", 1, key->mark));
    SP_TRY(sp_jinja_put_repr(r, t, key, how, depth));
    return sp_jinja_put(r, t, "\"", 1, key->mark);
}

static sp_err put_separator(jrun *r, jtext *t, const sp_jval *given, const char *usual,
                            const char *mark)
{
    return given->kind == SP_J_STR ? sp_jinja_put_str(r, t, given) : PUTS(r, t, usual, mark);
}

static sp_err put_items(jrun *r, jtext *t, const sp_jval *v, const jjson *how, size_t depth)
{
    bool map = v->kind == SP_J_MAP, tuple = !how->is_json && v->u.list->form == SP_J_TUPLE;
    size_t n = map ? v->u.list->n / 2 : v->u.list->n;
    const sp_jval **order = NULL;
    if (depth > SP_JINJA_DEPTH)
        return SP_FAIL(r->d, SP_LIMIT, "chat template: a value is nested deeper than %d",
                       SP_JINJA_DEPTH);
    SP_TRY(PUTS(r, t, map ? "{" : tuple ? "(" : "[", v->mark));
    if (map)
        SP_TRY(pair_order(r, &order, v, how));
    for (size_t i = 0; i < n; i++) {
        if (i)
            SP_TRY(put_separator(r, t, &how->item, how->indent ? "," : ", ", v->mark));
        SP_TRY(new_line(r, t, how, depth + 1, v->mark));
        if (map) {
            SP_TRY(put_key(r, t, order[i], how, depth + 1));
            SP_TRY(put_separator(r, t, &how->colon, ": ", v->mark));
        }
        SP_TRY(sp_jinja_put_repr(r, t, map ? order[i] + 1 : &v->u.list->item[i], how, depth + 1));
    }
    if (n)
        SP_TRY(new_line(r, t, how, depth, v->mark));
    return PUTS(r, t, map ? "}" : tuple ? (n == 1 ? ",)" : ")") : "]", v->mark);
}

sp_err sp_jinja_put_repr(jrun *r, jtext *t, const sp_jval *v, const jjson *how, size_t depth)
{
    char s[32];
    bool json = how->is_json;
    SP_TRY(sp_jinja_spend(r, 1));
    switch (v->kind) {
    case SP_J_UNDEF:
        return json ? SP_FAIL(r->d, SP_FORMAT, "chat template: an undefined value is not JSON")
                    : PUTS(r, t, "Undefined", NULL);
    case SP_J_NONE: return PUTS(r, t, json ? "null" : "None", v->mark);
    case SP_J_BOOL:
        return PUTS(r, t, v->u.b ? (json ? "true" : "True") : json ? "false" : "False", v->mark);
    case SP_J_INT:
        snprintf(s, sizeof s, "%lld", (long long)v->u.i);
        return PUTS(r, t, s, v->mark);
    case SP_J_FLOAT: return put_float(r, t, v->u.f, json, v->mark);
    case SP_J_STR: return put_quoted(r, t, v, how);
    case SP_J_FUNC:
        return json ? SP_FAIL(r->d, SP_FORMAT, "chat template: a function is not JSON")
                    : PUTS(r, t, "<function>", NULL);
    case SP_J_LIST: case SP_J_MAP: return put_items(r, t, v, how, depth);
    }
    return SP_OK;
}

sp_err sp_jinja_to_json(jrun *r, sp_jval *out, const jnode *n, const sp_jval *v, jargs *a)
{
    const sp_jval *ascii = sp_jinja_arg(a, 0, "ensure_ascii"),
                  *indent = sp_jinja_arg(a, 1, "indent");
    const sp_jval *sep = sp_jinja_arg(a, 2, "separators"),
                  *sorted = sp_jinja_arg(a, 3, "sort_keys");
    jjson how = {.is_json = true,
                 .is_ascii = ascii && sp_jinja_truthy(ascii),
                 .is_sorted = sorted && sp_jinja_truthy(sorted)};
    jtext t = {0};
    if (indent && indent->kind != SP_J_NONE)
        how.indent = indent;
    if (how.indent &&
        !(indent->kind == SP_J_STR || (indent->kind == SP_J_INT && indent->u.i <= 64)))
        return SP_JINJA_TYPE(r, n, "indent of tojson is a number up to 64 or a string");
    if (sep && sep->kind != SP_J_NONE) {
        if (sep->kind != SP_J_LIST || sep->u.list->n != 2 ||
            sep->u.list->item[0].kind != SP_J_STR || sep->u.list->item[1].kind != SP_J_STR)
            return SP_JINJA_TYPE(r, n, "separators of tojson are two strings");
        how.item = sep->u.list->item[0];
        how.colon = sep->u.list->item[1];
    }
    sp_err err = sp_jinja_put_repr(r, &t, v, &how, 0);
    return sp_jinja_keep(r, out, &t, err);
}
