/* One pass over the text: GBNF and patterns have the same shape, so each word is written as the
 * pattern spells it. */
#include "gen/gbnf.h"

#include "base/utf8.h"

#include <jansson.h>
#include <string.h>

enum { MAX_DEPTH = 90, MAX_NAME = 100 };

typedef struct reader {
    const char *p;
    sp_buf *out;
    size_t id; /* sets the rules apart from those of others in the same pattern */
    size_t line;
    int depth;
    json_t *defined, *used; /* names; used: the line */
    bool may_repeat;        /* the last word can be repeated */
    sp_diag *d;
} reader;

static sp_err fail(const reader *r, const char *what)
{
    return SP_FAIL(r->d, SP_INVAL, "grammar, line %zu: %s", r->line, what);
}

/* Past blanks and comments; lines: past line ends too. */
static void skip(reader *r, bool lines)
{
    for (;; r->p++) {
        if (*r->p == '#')
            while (r->p[0] && r->p[1] && r->p[1] != '\n')
                r->p++;
        else if (*r->p == '\n' && lines)
            r->line++;
        else if (*r->p != ' ' && *r->p != '\t' && *r->p != '\r')
            return;
    }
}

static size_t name_length(const char *p)
{
    size_t n = 0;
    while ((p[n] >= '0' && p[n] <= '9') || ((p[n] | 32) >= 'a' && (p[n] | 32) <= 'z') ||
           p[n] == '-' || p[n] == '_')
        n++;
    return n;
}

/* Does a rule begin here? */
static bool is_rule(const char *p)
{
    p += name_length(p);
    while (*p == ' ' || *p == '\t')
        p++;
    return strncmp(p, "::=", 3) == 0;
}

static int hex(char c)
{
    return c >= '0' && c <= '9'                 ? c - '0'
           : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10
                                                : -1;
}

/* One character of a literal or a class. */
static sp_err read_char(reader *r, uint32_t *cp)
{
    static const char name[] = "nrt\\\"[]", is[] = "\n\r\t\\\"[]";
    if (*r->p == '\n' || !*r->p)
        return fail(r, "a literal or a class is not closed");
    if (*r->p != '\\') {
        size_t n = sp_utf8_decode(cp, r->p, strnlen(r->p, 4));
        r->p += n;
        return n ? SP_OK : fail(r, "text that is not UTF-8");
    }
    char c = r->p[1];
    const char *at = c ? strchr(name, c) : NULL;
    int n = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (!at && !n)
        return fail(r, "an escape that is not known");
    r->p += 2;
    *cp = at ? (uint32_t)is[at - name] : 0;
    for (int i = 0; i < n; i++, r->p++) {
        if (hex(*r->p) < 0)
            return fail(r, "an escape with too few hexadecimal digits");
        *cp = *cp << 4 | (uint32_t)hex(*r->p);
    }
    return *cp > 0x10ffff || (*cp >= 0xd800 && *cp < 0xe000)
               ? fail(r, "an escape that is no character")
               : SP_OK;
}

static sp_err read_literal(reader *r)
{
    sp_buf_puts(r->out, "(?:");
    for (r->p++; *r->p != '"';) {
        uint32_t cp = 0;
        SP_TRY(read_char(r, &cp));
        sp_buf_printf(r->out, "\\u{%x}", cp);
    }
    r->p++;
    sp_buf_putc(r->out, ')');
    return SP_OK;
}

static sp_err read_class(reader *r)
{
    size_t n = 0;
    r->p++;
    sp_buf_putc(r->out, '[');
    if (*r->p == '^')
        sp_buf_putc(r->out, *r->p++);
    for (; *r->p != ']'; n++) {
        uint32_t from = 0, to = 0;
        SP_TRY(read_char(r, &from));
        sp_buf_printf(r->out, "\\u{%x}", from);
        if (r->p[0] != '-' || r->p[1] == ']')
            continue;
        r->p++;
        SP_TRY(read_char(r, &to));
        sp_buf_printf(r->out, "-\\u{%x}", to);
    }
    r->p++;
    sp_buf_putc(r->out, ']');
    return n ? SP_OK : fail(r, "an empty class");
}

static sp_err read_call(reader *r)
{
    char name[MAX_NAME + 1];
    size_t n = name_length(r->p);
    if (n > MAX_NAME)
        return fail(r, "a name of more than 100 characters");
    memcpy(name, r->p, n);
    name[n] = 0;
    r->p += n;
    sp_buf_printf(r->out, "(?&g%zu_%s)", r->id, name);
    return json_object_set_new(r->used, name, json_integer((json_int_t)r->line)) == 0
               ? SP_OK
               : fail(r, "no memory");
}

/* {m}, {m,} or {m,n}, as patterns have them. */
static sp_err read_bounds(reader *r)
{
    const char *end = strchr(r->p, '}');
    if (!end || end - r->p > 20 || strspn(r->p + 1, "0123456789, ") + 1 < (size_t)(end - r->p))
        return fail(r, "{ needs a number, or two apart by a comma, and }");
    for (; r->p <= end; r->p++)
        if (*r->p != ' ')
            sp_buf_putc(r->out, *r->p);
    return SP_OK;
}

static sp_err read_repeat(reader *r)
{
    if (!r->may_repeat)
        return fail(r, "nothing to repeat, or a repeat of a repeat without brackets");
    r->may_repeat = false;
    if (*r->p == '{')
        return read_bounds(r);
    sp_buf_putc(r->out, *r->p++);
    return SP_OK;
}

/* A word of a rule's body. */
static sp_err read_word(reader *r)
{
    char c = *r->p;
    bool repeats = c && strchr("*+?{", c) != NULL;
    if (repeats)
        return read_repeat(r);
    r->may_repeat = c != '(' && c != '|';
    if (c == '"')
        return read_literal(r);
    if (c == '[')
        return read_class(r);
    if (name_length(r->p))
        return read_call(r);
    if (c == '<' || c == '!')
        return SP_FAIL(r->d, SP_UNSUP, "grammar, line %zu: tokens (<…>) are not supported",
                       r->line);
    if (c == '(' && ++r->depth > MAX_DEPTH)
        return fail(r, "brackets are nested too deep");
    if (c == ')' && --r->depth < 0)
        return fail(r, ") without (");
    if (!strchr("(|).", c))
        return fail(r, "a character that means nothing here");
    sp_buf_puts(r->out, c == '('   ? "(?:"
                        : c == '.' ? "[\\u{0}-\\u{10ffff}]"
                        : c == ')' ? ")"
                                   : "|");
    r->p++;
    return SP_OK;
}

/* The body of a rule up to its end. */
static sp_err read_body(reader *r)
{
    bool open = true; /* a line end here does not end the rule */
    r->may_repeat = false;
    for (;;) {
        skip(r, open || r->depth > 0);
        if (*r->p == '\n') {
            skip(r, true);
            if (*r->p != '|')
                return r->depth ? fail(r, "( without )") : SP_OK;
        }
        if (!*r->p || (r->depth == 0 && is_rule(r->p) && open))
            return r->depth ? fail(r, "( without )") : SP_OK;
        open = *r->p == '|';
        SP_TRY(read_word(r));
    }
}

static sp_err read_rule(reader *r)
{
    char name[MAX_NAME + 1];
    size_t n = name_length(r->p);
    if (n == 0 || n > MAX_NAME || !is_rule(r->p))
        return fail(r, "a rule is expected: name ::= …");
    memcpy(name, r->p, n);
    name[n] = 0;
    r->p = strstr(r->p, "::=") + 3;
    if (json_object_get(r->defined, name))
        return fail(r, "a rule that is defined twice");
    if (json_object_set_new(r->defined, name, json_true()) != 0)
        return fail(r, "no memory");
    sp_buf_printf(r->out, "(?<g%zu_%s>", r->id, name);
    SP_TRY(read_body(r));
    sp_buf_putc(r->out, ')');
    return r->out->len > SP_GRAMMAR_PATTERN ? fail(r, "the grammar is too large") : SP_OK;
}

static sp_err check_names(const reader *r)
{
    const char *name;
    json_t *line;
    json_object_foreach (r->used, name, line)
        if (!json_object_get(r->defined, name))
            return SP_FAIL(r->d, SP_INVAL, "grammar, line %lld: the rule %s is not defined",
                           (long long)json_integer_value(line), name);
    return json_object_get(r->defined, "root")
               ? SP_OK
               : SP_FAIL(r->d, SP_INVAL, "grammar: the rule root is not defined");
}

sp_err sp_grammar_gbnf(sp_buf *out, const char *text, sp_diag *d)
{
    reader r = {.p = text,
                .out = out,
                .id = out->len,
                .line = 1,
                .defined = json_object(),
                .used = json_object(),
                .d = d};
    sp_err err = r.defined && r.used ? SP_OK : SP_FAIL(d, SP_NOMEM, "grammar");
    sp_buf_puts(out, "(?:(?(DEFINE)");
    for (skip(&r, true); *r.p && err == SP_OK; skip(&r, true))
        err = read_rule(&r);
    sp_buf_printf(out, ")(?&g%zu_root))", r.id);
    if (err == SP_OK)
        err = check_names(&r);
    if (err == SP_OK && out->failed)
        err = SP_FAIL(d, SP_NOMEM, "grammar");
    json_decref(r.defined);
    json_decref(r.used);
    return err;
}
