/* Strings of a schema: pattern, format, lengths; and names that are none of an object's. */
#include "gen/schema_int.h"

#include "base/utf8.h"
#include "gen/grammar_int.h"

#include <stdlib.h>
#include <string.h>

enum {
    MAX_SHARED = 40, /* characters that a free name may share with a known one */
    MATCH_STEPS = 20 /* what compiling a pattern is counted as */
};

#define YEAR_TO_DAY                                                                                \
    "[1-9]\\d{3}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\\d|"  \
    "30)|02-(?:0[1-9]|1\\d|2[0-8]))"
#define CLOCK                                                                                      \
    "(?:[01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(?:\\.\\d{1,6})?(?:Z|[+\\-](?:[01]\\d|2[0-3]):[0-5]\\d)"
#define LABEL "[A-Za-z0-9](?:[A-Za-z0-9\\-]{0,20}[A-Za-z0-9])?"
#define HOST LABEL "(?:\\." LABEL "){0,4}"
#define BYTE "(?:25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)"
#define HEX4 "[0-9A-Fa-f]{1,4}"
#define URI_CHAR "(?:[A-Za-z0-9._~!$&'()*+,;=:@\\-]|%[0-9A-Fa-f]{2})"

/* RFC 3339, 4122, 5321 (the plain form), 1123, 2673, 4291, 3986 (with a host); least and most
 * characters. */
static const struct format {
    const char *name, *pattern;
    json_int_t least, most;
} FORMATS[] = {
    {"date", YEAR_TO_DAY, 10, 10},
    {"time", CLOCK, 9, 21},
    {"date-time", YEAR_TO_DAY "T" CLOCK, 20, 32},
    {"uuid", "[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}", 36, 36},
    {"email",
     "[A-Za-z0-9_+\\-]{1,30}(?:\\.[A-Za-z0-9_+\\-]{1,15}){0,2}@(?:" LABEL "\\.){1,3}[A-Za-z]{2,10}",
     6, 141},
    {"hostname", HOST, 1, 114},
    {"ipv4", BYTE "(?:\\." BYTE "){3}", 7, 15},
    {"ipv6",
     "(?:" HEX4 ":){7}" HEX4 "|(?:" HEX4 ":){1,7}:|(?:" HEX4 ":){1,6}:" HEX4 "|(?:" HEX4
     ":){1,5}(?::" HEX4 "){1,2}|(?:" HEX4 ":){1,4}(?::" HEX4 "){1,3}|(?:" HEX4 ":){1,3}(?::" HEX4
     "){1,4}|(?:" HEX4 ":){1,2}(?::" HEX4 "){1,5}|" HEX4 ":(?::" HEX4 "){1,6}|:(?:(?::" HEX4
     "){1,7}|:)",
     2, 39},
    {"uri",
     "[A-Za-z][A-Za-z0-9+.\\-]{0,15}://" HOST "(?::\\d{1,4})?(?:/" URI_CHAR "*)*(?:\\?(?:" URI_CHAR
     "|[/?])*)?(?:#(?:" URI_CHAR "|[/?])*)?",
     5, SC_TIMES},
};

static const struct format *find_format(const char *name)
{
    for (size_t i = 0; i < sizeof FORMATS / sizeof FORMATS[0]; i++)
        if (strcmp(FORMATS[i].name, name) == 0)
            return &FORMATS[i];
    return NULL;
}

/* --- patterns --------------------------------------------------------------------------------- */

bool sc_is_pattern(const char *pattern)
{
    sp_buf text = {0};
    gr_program p = {0};
    sp_buf_printf(&text, "(?j:%s)", pattern);
    bool ok = !text.failed && gr_program_read(&p, text.p, NULL) == SP_OK;
    gr_program_fini(&p);
    sp_buf_fini(&text);
    return ok;
}

sp_err sc_matches(sc_walk *w, bool *out, const char *pattern, const char *text)
{
    sp_buf p = {0};
    sp_grammar *g = NULL;
    w->n_step += MATCH_STEPS;
    SP_TRY(sc_step(w));
    json_t *s = json_string(text);
    char *spelled = s ? json_dumps(s, JSON_ENCODE_ANY) : NULL;
    sp_buf_printf(&p, "(?j:%s)", pattern);
    sp_err err = spelled && !p.failed ? gr_plain(&g, sp_buf_str(&p), w->d)
                                      : SP_FAIL(w->d, SP_NOMEM, "schema");
    if (err == SP_OK) {
        sp_grammar_at at = sp_grammar_start(g);
        err = sp_grammar_step(g, &at, spelled + 1, strlen(spelled) - 2);
        *out = at.state && sp_grammar_may_end(g, at);
        if (err != SP_OK)
            err = SP_FAIL(w->d, SP_INVAL, "schema: pattern: " SP_GRAMMAR_LIMIT);
    }
    sp_grammar_put(g);
    sp_buf_fini(&p);
    free(spelled);
    json_decref(s);
    return err;
}

/* The end of a class that begins at p, or NULL. */
static const char *end_of_class(const char *p)
{
    if (*p == '.')
        return p + 1;
    if (*p == '\\')
        return p[1] && strchr("dws", p[1]) ? p + 2 : NULL;
    if (*p != '[')
        return NULL;
    p += p[1] == '^' ? 2 : 1;
    for (p += *p == ']'; *p && *p != ']'; p++)
        p += *p == '\\' && p[1];
    return *p ? p + 1 : NULL;
}

/* A pattern that is one class, repeated: its bounds. The class is text [*n]. */
static bool is_one_class(const char *pattern, size_t *n, json_int_t *lo, json_int_t *hi)
{
    const char *end = pattern[0] == '^' ? end_of_class(pattern + 1) : NULL;
    int used = 0;
    if (!end)
        return false;
    *n = (size_t)(end - pattern - 1);
    *lo = *end == '*' ? 0 : 1;
    *hi = *end == '*' || *end == '+' ? SC_TIMES : 1;
    if (*end == '*' || *end == '+')
        end++;
    else if (*end == '{' && sscanf(end, "{%7lld,%7lld}%n", lo, hi, &used) == 2 && used)
        end += used;
    else if (*end == '{' && sscanf(end, "{%7lld,}%n", lo, &used) == 1 && used)
        end += used, *hi = SC_TIMES;
    else if (*end == '{' && sscanf(end, "{%7lld}%n", lo, &used) == 1 && used)
        end += used, *hi = *lo;
    return end[0] == '$' && end[1] == 0;
}

static sp_err put_pattern(sc_walk *w, sp_buf *out, const char *pattern, json_int_t lo,
                          json_int_t hi)
{
    size_t n;
    json_int_t from, to;
    if (lo == 0 && hi == SC_TIMES) {
        sp_buf_printf(out, "\"(?j:%s)\"", pattern);
        return SP_OK;
    }
    if (is_one_class(pattern, &n, &from, &to)) {
        from = lo > from ? lo : from;
        to = hi < to ? hi : to;
        if (from > to)
            sp_buf_puts(out, "(?!)");
        else
            sp_buf_printf(out, "\"(?j:^%.*s{%lld,%lld}$)\"", (int)n, pattern + 1, (long long)from,
                          (long long)to);
        return SP_OK;
    }
    if (lo > 0)
        SP_TRY(sc_loose(w, "minLength"));
    if (hi < SC_TIMES)
        SP_TRY(sc_loose(w, "maxLength"));
    sp_buf_printf(out, "\"(?j:%s)\"", pattern);
    return SP_OK;
}

static sp_err put_format(sc_walk *w, sp_buf *out, const struct format *f, json_int_t lo,
                         json_int_t hi)
{
    if (hi < f->least || lo > f->most) {
        sp_buf_puts(out, "(?!)");
        return SP_OK;
    }
    if (lo > f->least)
        SP_TRY(sc_loose(w, "minLength"));
    if (hi < f->most)
        SP_TRY(sc_loose(w, "maxLength"));
    sp_buf_printf(out, "\"(?:%s)\"", f->pattern);
    return SP_OK;
}

sp_err sc_put_string(sc_walk *w, sp_buf *out, const json_t *s)
{
    const json_t *p = json_object_get(s, "pattern"), *f = json_object_get(s, "format");
    const char *pattern = json_string_value(p), *name = json_string_value(f);
    const struct format *format = name ? find_format(name) : NULL;
    json_int_t lo, hi;
    SP_TRY(sc_count(w, &lo, s, "minLength", 0));
    SP_TRY(sc_count(w, &hi, s, "maxLength", SC_TIMES));
    if ((p && !pattern) || (f && !name))
        return SP_FAIL(w->d, SP_INVAL, "schema: %s must be a string",
                       p && !pattern ? "pattern" : "format");
    if (pattern && (json_string_length(p) != strlen(pattern) || !sc_is_pattern(pattern))) {
        SP_TRY(sc_loose(w, "pattern"));
        pattern = NULL;
    }
    if (name && (!format || pattern))
        SP_TRY(sc_loose(w, "format"));
    if (lo > SC_TIMES || hi < lo) {
        sp_buf_puts(out, "(?!)");
        return SP_OK;
    }
    hi = hi < SC_TIMES ? hi : SC_TIMES;
    if (pattern)
        return put_pattern(w, out, pattern, lo, hi);
    if (format)
        return put_format(w, out, format, lo, hi);
    if (lo == 0 && hi == SC_TIMES) {
        sc_put_lib(w, out, SC_STRING);
        return SP_OK;
    }
    sp_buf_putc(out, '"');
    sc_put_lib(w, out, SC_CHAR);
    sp_buf_printf(out, hi == SC_TIMES ? "{%lld,}\"" : "{%lld,%lld}\"", (long long)lo,
                  (long long)hi);
    return SP_OK;
}

/* --- names that are none of an object's ------------------------------------------------------- */

typedef struct names {
    const char **name; /* [n] sorted */
    size_t n;
} names;

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static const char ESCAPED[] = "\"\\\b\f\n\r\t", SPELLED[] = "\"\\bfnrt";

/* One character as JSON strings spell it, as a pattern; is: it has an escape of its own. */
static void put_char(sp_buf *out, uint32_t cp, bool *is)
{
    const char *at = cp && cp < 0x80 ? strchr(ESCAPED, (int)cp) : NULL;
    *is = at != NULL;
    if (at)
        sp_buf_printf(out, "\\\\\\x%02x", (unsigned char)SPELLED[at - ESCAPED]);
    else
        sp_buf_printf(out, "\\u{%x}", cp);
}

/* Names from .. to share their first n_byte bytes, n_char characters: what may follow so that the
 * text is none of them, with the quote that ends it. The nesting is bounded by MAX_SHARED. */
static sp_err put_others(sc_walk *w, sp_buf *out, const names *all, size_t from, size_t to,
                         size_t n_byte, int n_char)
{
    sp_buf plain = {0};
    bool is_name = false, escaped[7] = {false}, is;
    SP_TRY(sc_step(w));
    sp_buf_puts(out, "(?:");
    for (size_t i = from; i < to;) {
        uint32_t cp = 0;
        const char *p = all->name[i] + n_byte;
        size_t n = sp_utf8_decode(&cp, p, strnlen(p, 4)), end = i + 1;
        if (!*p || n == 0) {
            is_name = true;
            i = end;
            continue;
        }
        while (end < to && strncmp(all->name[end] + n_byte, p, n) == 0)
            end++;
        const char *esc = cp < 0x80 ? strchr(ESCAPED, (int)cp) : NULL;
        if (esc)
            escaped[esc - ESCAPED] = true;
        else
            sp_buf_printf(&plain, "\\u{%x}", cp);
        if (n_char < MAX_SHARED &&
            (cp >= 0x20 || esc)) { /* other control characters stand in no free name */
            put_char(out, cp, &is);
            SP_TRY(put_others(w, out, all, i, end, n_byte + n, n_char + 1));
            sp_buf_putc(out, '|');
        }
        i = end;
    }
    sp_buf_printf(out, "(?:[^\"\\\\\\x00-\\x1f%s]", sp_buf_str(&plain));
    sp_buf_fini(&plain);
    for (size_t i = 0; i < 7; i++)
        if (!escaped[i])
            sp_buf_printf(out, "|\\\\\\x%02x", (unsigned char)SPELLED[i]);
    sp_buf_putc(out, ')');
    sc_put_lib(w, out, SC_NAME);
    sp_buf_puts(out, is_name ? "*\")" : "*\"|\")");
    return SP_OK;
}

sp_err sc_put_other_names(sc_walk *w, sp_buf *out, const json_t *known)
{
    const char *key;
    json_t *v;
    names all = {malloc((json_object_size(known) + 1) * sizeof *all.name), 0};
    if (!all.name)
        return SP_FAIL(w->d, SP_NOMEM, "schema");
    json_object_foreach ((json_t *)(uintptr_t)known, key, v)
        all.name[all.n++] = key;
    qsort(all.name, all.n, sizeof *all.name, by_text);
    sp_buf_putc(out, '"');
    sp_err err = put_others(w, out, &all, 0, all.n, 0, 0);
    free(all.name);
    return err;
}
