/* Calls that look like a language: name(key="text", …) and name{key:<|"|>text<|"|>,…}. The
 * arguments are held back until they are whole, and reported as JSON. */
#include "text/calls_int.h"

#include <ctype.h>

static const char gemma_quote[] = "<|\"|>";
enum { QUOTE = sizeof gemma_quote - 1 };

/* --- literals to JSON ------------------------------------------------------------------------- */

typedef struct reader {
    const char *p, *end;
    sp_buf *out;
    bool is_gemma;
} reader;

static bool read_value(reader *r, unsigned depth);

static void skip_blank(reader *r)
{
    while (r->p < r->end && sp_call_blank(*r->p))
        r->p++;
}

static bool at_quote(const reader *r)
{
    return r->is_gemma && r->end - r->p >= QUOTE && memcmp(r->p, gemma_quote, QUOTE) == 0;
}

static bool hex(reader *r, int n, uint32_t *out)
{
    *out = 0;
    if (r->end - r->p < n)
        return false;
    for (; n; n--, r->p++) {
        int c = (unsigned char)*r->p;
        if (!isxdigit(c))
            return false;
        *out = *out << 4 | (uint32_t)(isdigit(c) ? c - '0' : (c | 32) - 'a' + 10);
    }
    return true;
}

static void put_utf8(sp_buf *b, uint32_t cp)
{
    if (cp >= 0x10000)
        sp_buf_printf(b, "%c%c", (int)(0xf0 | cp >> 18), (int)(0x80 | (cp >> 12 & 63)));
    else if (cp >= 0x800)
        sp_buf_putc(b, (char)(0xe0 | cp >> 12));
    else if (cp >= 0x80)
        sp_buf_putc(b, (char)(0xc0 | cp >> 6));
    if (cp >= 0x800)
        sp_buf_putc(b, (char)(0x80 | (cp >> 6 & 63)));
    sp_buf_putc(b, (char)(cp >= 0x80 ? 0x80 | (cp & 63) : cp));
}

static bool read_escape(reader *r, sp_buf *text)
{
    static const char letters[] = "ntrbf0", means[] = "\n\t\r\b\f";
    uint32_t cp;
    char c = *r->p++;
    const char *hit = strchr(letters, c);
    if (c == 'x' || c == 'u' || c == 'U') {
        if (!hex(r, c == 'x' ? 2 : c == 'u' ? 4 : 8, &cp) || cp > 0x10ffff)
            return false;
        put_utf8(text, cp);
    } else if (c && hit) {
        sp_buf_putc(text, means[hit - letters]);
    } else {
        if (c != '\\' && c != '"' && c != '\'')
            sp_buf_putc(text, '\\'); /* as in Python */
        sp_buf_putc(text, c);
    }
    return true;
}

/* Whether a quote before this ends a text: not every template escapes those inside one. */
static bool closes(const char *p, const char *end)
{
    while (p < end && sp_call_blank(*p))
        p++;
    return p == end || strchr(",)]}:", *p);
}

static bool read_string(reader *r)
{
    sp_buf text = {0};
    bool marked = at_quote(r), ok = false;
    char quote = *r->p;
    r->p += marked ? QUOTE : 1;
    while (r->p < r->end && !ok) {
        if (marked ? at_quote(r) : *r->p == quote && closes(r->p + 1, r->end)) {
            r->p += marked ? QUOTE : 1;
            ok = true;
        } else if (!marked && *r->p == '\\' && r->p + 1 < r->end) {
            r->p++;
            if (!read_escape(r, &text))
                break;
        } else {
            sp_buf_putc(&text, *r->p++);
        }
    }
    sp_buf_json_str(r->out, sp_buf_str(&text), text.len);
    sp_buf_fini(&text);
    return ok;
}

static bool is_string(const reader *r)
{
    return r->p < r->end && (*r->p == '"' || *r->p == '\'' || at_quote(r));
}

/* A key without quotes. */
static bool read_word(reader *r, sp_buf *word)
{
    while (
        r->p < r->end &&
        (isalnum((unsigned char)*r->p) || strchr("_-.$", *r->p) || (unsigned char)*r->p >= 0x80) &&
        *r->p)
        sp_buf_putc(word, *r->p++);
    return word->len != 0;
}

static bool read_key(reader *r)
{
    sp_buf word = {0};
    skip_blank(r);
    if (is_string(r))
        return read_string(r);
    bool ok = read_word(r, &word);
    sp_buf_json_str(r->out, sp_buf_str(&word), word.len);
    sp_buf_fini(&word);
    return ok;
}

/* Pairs or values up to a closing bracket; close 0: up to the end. */
static bool read_items(reader *r, char close, char colon, unsigned depth)
{
    sp_buf_putc(r->out, colon ? '{' : '[');
    for (bool first = true;; first = false) {
        skip_blank(r);
        if (r->p == r->end ? !close : *r->p == close && close) {
            r->p += close != 0;
            break;
        }
        if (!first) {
            if (r->p == r->end || *r->p++ != ',')
                return false;
            sp_buf_puts(r->out, ", ");
            skip_blank(r);
            if (r->p < r->end && *r->p == close && close) { /* a comma behind the last one */
                r->out->len -= 2;
                continue;
            }
        }
        if (colon) {
            if (!read_key(r))
                return false;
            skip_blank(r);
            if (r->p == r->end || *r->p++ != colon)
                return false;
            sp_buf_puts(r->out, ": ");
        }
        if (!read_value(r, depth + 1))
            return false;
    }
    sp_buf_putc(r->out, colon ? '}' : ']');
    return true;
}

/* A number, one of the words of Python or JSON; Gemma leaves out the quotes of what has no other
 * meaning. */
static bool read_bare(reader *r)
{
    static const char *const words[][2] = {{"True", "true"}, {"False", "false"}, {"None", "null"},
                                           {"true", "true"}, {"false", "false"}, {"null", "null"}};
    const char *from = r->p;
    sp_arena arena;
    sp_jval v;
    while (r->p < r->end && !strchr(",)]}:", *r->p))
        r->p++;
    const char *to = r->p;
    while (to > from && sp_call_blank(to[-1]))
        to--;
    size_t n = (size_t)(to - from);
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (n == strlen(words[i][0]) && memcmp(from, words[i][0], n) == 0) {
            sp_buf_puts(r->out, words[i][1]);
            return true;
        }
    sp_arena_init(&arena, 4096);
    bool number = n && n < 64 && sp_call_parse(&v, &arena, from, n) &&
                  (v.kind == SP_J_INT || v.kind == SP_J_FLOAT);
    sp_arena_fini(&arena);
    if (number)
        sp_buf_put(r->out, from, n);
    else if (r->is_gemma)
        sp_buf_json_str(r->out, from, n);
    return number || r->is_gemma;
}

static bool read_value(reader *r, unsigned depth)
{
    skip_blank(r);
    if (depth > SP_CALL_DEPTH || r->p == r->end)
        return false;
    if (is_string(r))
        return read_string(r);
    char c = *r->p;
    if (c != '[' && c != '{' && (c != '(' || r->is_gemma))
        return read_bare(r);
    r->p++;
    return read_items(r, c == '[' ? ']' : c == '{' ? '}' : ')', c == '{' ? ':' : 0, depth);
}

bool sp_call_convert(sp_buf *out, const char *p, size_t n, bool is_gemma)
{
    reader r = {.p = p, .end = p + n, .out = out, .is_gemma = is_gemma};
    return read_items(&r, 0, is_gemma ? ':' : '=', 0);
}

bool sp_call_python(sp_buf *out, const char *p, size_t n)
{
    reader r = {.p = p, .end = p + n, .out = out};
    if (!read_value(&r, 0))
        return false;
    skip_blank(&r);
    return r.p == r.end;
}

/* --- the call --------------------------------------------------------------------------------- */

enum { L_NAME, L_ARGS, L_NEXT, L_END };

/* Whether the arguments go on after this byte of theirs, which is in a->value. */
static bool is_closed(sp_answer *a, char c, bool is_gemma)
{
    const sp_buf *v = &a->value;
    bool mark =
        is_gemma && v->len >= QUOTE && memcmp(v->p + v->len - QUOTE, gemma_quote, QUOTE) == 0;
    if (a->quote && a->is_text &&
        !sp_call_blank(c)) { /* what follows a quote says whether it ends the text */
        a->is_text = false;
        a->quote = strchr(",)]}:", c) ? 0 : a->quote;
    }
    if (a->quote) { /* 1: Gemma's mark */
        bool escaped = a->scan.is_escaped;
        a->scan.is_escaped = a->quote != 1 && !escaped && c == '\\';
        if (a->quote == 1 && mark)
            a->quote = 0;
        else if (a->quote != 1 && c == a->quote && !escaped)
            a->is_text = true;
        return false;
    }
    if (mark || (!is_gemma && (c == '"' || c == '\'')))
        a->quote = mark ? 1 : c;
    else if (c == '(' || c == '[' || c == '{')
        a->scan.depth++;
    else if (c == ')' || c == ']' || c == '}')
        return a->scan.depth-- == 0;
    return false;
}

static step end_args(sp_answer *a, bool is_gemma)
{
    sp_buf out = {0};
    a->value.len--;
    bool ok = sp_call_convert(&out, sp_buf_str(&a->value), a->value.len, is_gemma) && !out.failed;
    if (ok)
        sp_call_args(a, out.p, out.len);
    sp_buf_fini(&out);
    if (!ok)
        return STEP_BAD;
    sp_call_end(a);
    sp_buf_clear(&a->raw);
    sp_buf_clear(&a->name);
    a->sub = is_gemma ? L_END : L_NEXT;
    return STEP_MORE;
}

static step take_name(sp_answer *a, char c, bool is_gemma)
{
    if (c != (is_gemma ? '{' : '('))
        return sp_call_add(&a->name, c, SP_CALL_NAME) ? STEP_MORE : STEP_BAD;
    if (!sp_call_named(a))
        return STEP_BAD;
    sp_buf_clear(&a->value);
    sp_buf_clear(&a->args);
    a->has_args = false;
    a->scan = (sp_scan){0};
    a->quote = 0;
    a->is_text = false;
    a->sub = L_ARGS;
    return STEP_MORE;
}

step sp_call_literal(sp_answer *a, char c)
{
    bool is_gemma = a->cfg.format->kind == SP_CALL_GEMMA;
    const char *const end[] = {a->cfg.format->end};
    if (a->sub == L_NAME)
        return take_name(a, c, is_gemma);
    if (a->sub == L_ARGS) {
        if (!sp_call_add(&a->value, c, SP_CALL_VALUE) || a->scan.depth > SP_CALL_DEPTH)
            return STEP_BAD;
        return is_closed(a, c, is_gemma) ? end_args(a, is_gemma) : STEP_MORE;
    }
    sp_buf_clear(&a->raw);
    if (!a->held.n && sp_call_blank(c))
        return STEP_MORE;
    if (a->sub == L_NEXT && (c == ',' || c == ']')) {
        a->sub = c == ',' ? L_NAME : L_END;
        return STEP_MORE;
    }
    int hit = sp_mark_take(&a->held, c, end, 1, &a->loose);
    return hit == 0 ? STEP_DONE : a->loose.len ? STEP_LEAVE : STEP_MORE;
}
