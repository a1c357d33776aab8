/* Tokens of a template's tags, lexed on the fly; nodes of its tree. */
#include "text/jinja_parse.h"

#include "base/utf8.h"

#include <ctype.h>

sp_err sp_jinja_node(parser *p, jnode **out, jnode_kind kind)
{
    jnode *n = sp_arena_alloc(&p->j->arena, sizeof *n);
    if (!n)
        return SP_FAIL(p->d, SP_LIMIT, "chat template is too large");
    n->kind = kind;
    n->line = p->line;
    n->id = -1;
    *out = n;
    return SP_OK;
}

bool sp_jinja_is_op(const parser *p, const char *op)
{
    return p->kind == T_OP && strlen(op) == p->tok.n && memcmp(p->tok.p, op, p->tok.n) == 0;
}

bool sp_jinja_is_word(const parser *p, const char *w)
{
    return p->kind == T_NAME && strlen(w) == p->tok.n && memcmp(p->tok.p, w, p->tok.n) == 0;
}

/* Up to `most` hexadecimal digits, or octal ones. */
static uint32_t lex_digits(parser *p, size_t most, uint32_t base)
{
    uint32_t v = 0;
    for (; most > 0 && p->at < p->n; most--, p->at++) {
        int c = (unsigned char)p->s[p->at];
        uint32_t digit = isdigit(c)    ? (uint32_t)(c - '0')
                         : isxdigit(c) ? (uint32_t)((c | 32) - 'a' + 10)
                                       : 99;
        if (digit >= base)
            break;
        v = v * base + digit;
    }
    return v;
}

/* What stands after a backslash, as in Python; an unknown escape keeps it. Returns the bytes
 * written. */
static size_t lex_escape(parser *p, char *out)
{
    static const char letters[] = "ntrabfv\\'\"", means[] = "\n\t\r\a\b\f\v\\'\"";
    char c = p->s[p->at++];
    const char *hit = c ? strchr(letters, c) : NULL;
    if (c == '\n') { /* the literal goes on in the next line */
        p->line++;
        return 0;
    }
    if (hit) {
        out[0] = means[hit - letters];
        return 1;
    }
    bool octal = c >= '0' && c <= '7';
    size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : octal ? 3 : 0, from = p->at;
    if (octal)
        from = --p->at;
    if (digits) {
        uint32_t cp = lex_digits(p, digits, octal ? 8 : 16);
        if ((octal || p->at - from == digits) && cp <= 0x10ffff && (cp < 0xd800 || cp > 0xdfff))
            return sp_utf8_encode(out, cp);
        p->at = from;
    }
    out[0] = '\\';
    if (octal)
        return 1;
    out[1] = c;
    return 2;
}

static sp_err lex_string(parser *p)
{
    char quote = p->s[p->at++];
    size_t n = 0, end = p->at;
    while (end < p->n && p->s[end] != quote)
        end += p->s[end] == '\\' ? 2 : 1;
    end = end < p->n ? end : p->n;
    char *out = sp_arena_alloc(&p->j->arena, end - p->at + 5);
    if (!out)
        return SP_FAIL(p->d, SP_LIMIT, "chat template is too large");
    while (p->at < p->n && p->s[p->at] != quote) {
        char c = p->s[p->at++];
        if (c == '\n')
            p->line++;
        if (c == '\\' && p->at < p->n)
            n += lex_escape(p, out + n);
        else
            out[n++] = c;
    }
    if (p->at >= p->n)
        return BAD(p, "%u: string without an end", p->line);
    p->at++;
    p->kind = T_STR;
    p->tok = (sp_str){out, n};
    return SP_OK;
}

/* Next token of a tag. The tag's own end (%} }} -%} -}}) comes as T_END, not consumed. */
sp_err sp_jinja_advance(parser *p)
{
    static const char *const ops[] = {"==", "!=", "<=", ">=", "//", "**"};
    while (p->at < p->n && isspace((unsigned char)p->s[p->at]))
        if (p->s[p->at++] == '\n')
            p->line++;
    if (p->at >= p->n)
        return BAD(p, "%u: tag without an end", p->line);
    const char *s = p->s + p->at;
    size_t left = p->n - p->at;
    size_t dash = s[0] == '-' || s[0] == '+' ? 1 : 0;
    if (left >= dash + 2 && (s[dash] == '%' || s[dash] == '}') && s[dash + 1] == '}') {
        /* }} may also close two maps; a map inside an output tag is told apart by depth there */
        p->kind = T_END;
        p->tok = (sp_str){s, dash + 2};
        return SP_OK;
    }
    if (*s == '"' || *s == '\'')
        return lex_string(p);
    size_t len = 1;
    if (isalpha((unsigned char)*s) || *s == '_') {
        while (len < left && (isalnum((unsigned char)s[len]) || s[len] == '_'))
            len++;
        p->kind = T_NAME;
    } else if (isdigit((unsigned char)*s)) {
        while (len < left && isdigit((unsigned char)s[len]))
            len++;
        p->kind = T_INT;
        if (len + 1 < left && s[len] == '.' && isdigit((unsigned char)s[len + 1])) {
            p->kind = T_FLOAT;
            for (len++; len < left && isdigit((unsigned char)s[len]);)
                len++;
        }
        size_t sign = len + 1 < left && (s[len + 1] == '+' || s[len + 1] == '-');
        if (len + 1 + sign < left && (s[len] | 32) == 'e' &&
            isdigit((unsigned char)s[len + 1 + sign])) {
            p->kind = T_FLOAT;
            for (len += 1 + sign; len < left && isdigit((unsigned char)s[len]);)
                len++;
        }
    } else {
        p->kind = T_OP;
        for (size_t i = 0; i < sizeof ops / sizeof ops[0]; i++)
            if (left > 1 && memcmp(s, ops[i], 2) == 0)
                len = 2;
        if (len == 1 && !strchr("+-*/%~<>=()[]{}.,:|", *s))
            return BAD(p, "%u: unexpected character '%c'", p->line, *s);
    }
    p->tok = (sp_str){s, len};
    p->at += len;
    return SP_OK;
}

sp_err sp_jinja_expect(parser *p, const char *op)
{
    if (!sp_jinja_is_op(p, op))
        return BAD(p, "%u: expected '%s' before '%.*s'", p->line, op,
                   (int)(p->tok.n < 20 ? p->tok.n : 20), p->tok.p);
    return sp_jinja_advance(p);
}

sp_err sp_jinja_nest(parser *p)
{
    return ++p->depth > MAX_DEPTH
               ? SP_FAIL(p->d, SP_LIMIT, "chat template, line %u: nested deeper than %d", p->line,
                         MAX_DEPTH)
               : SP_OK;
}
