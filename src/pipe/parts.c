#include "pipe/parts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_VALUE = 32 };

static const char *const names[SP_PARTS] = {"task", "steps", "output", "context"};

const char *sp_part_name(sp_part_kind kind)
{
    return names[kind];
}

static bool is(sp_str s, const char *word)
{
    return s.n == strlen(word) && memcmp(s.p, word, s.n) == 0;
}

static bool is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

sp_err sp_part_set(sp_part *p, const char *part, sp_str name, sp_str value, sp_diag *d)
{
    char text[MAX_VALUE], *end;
    if (value.n == 0 || value.n >= sizeof text)
        return SP_FAIL(d, SP_INVAL, "%s: the value of %.*s is empty or too long", part, (int)name.n,
                       name.p);
    memcpy(text, value.p, value.n);
    text[value.n] = 0;
    if (is(name, "life")) {
        p->is_private = strcmp(text, "none") == 0;
        return p->is_private || strcmp(text, "keep") == 0
                   ? SP_OK
                   : SP_FAIL(d, SP_INVAL, "%s: life is keep or none, not %s", part, text);
    }
    if (is(name, "budget")) {
        unsigned long v = strtoul(text, &end, 10);
        p->budget = v;
        return *end == 0 && text[0] >= '1' && text[0] <= '9' && v <= 1 << 30
                   ? SP_OK
                   : SP_FAIL(d, SP_INVAL, "%s: budget is a number of tokens from 1, not %s", part,
                             text);
    }
    if (is(name, "epsilon")) {
        p->epsilon = strtod(text, &end);
        return *end == 0 && p->epsilon >= 0 && p->epsilon <= 0.5
                   ? SP_OK
                   : SP_FAIL(d, SP_INVAL, "%s: epsilon is a number from 0 to 0.5, not %s", part,
                             text);
    }
    return SP_FAIL(d, SP_INVAL, "%s has no attribute %.*s (budget, life and epsilon are there)",
                   part, (int)(name.n < 40 ? name.n : 40), name.p);
}

/* What is read: text [n], now at `at`. */
typedef struct reader {
    const char *p;
    size_t n, at;
} reader;

static void skip_space(reader *r)
{
    while (r->at < r->n && is_space(r->p[r->at]))
        r->at++;
}

static sp_str word(reader *r)
{
    size_t from = r->at;
    while (r->at < r->n && ((r->p[r->at] >= 'a' && r->p[r->at] <= 'z') || r->p[r->at] == '_'))
        r->at++;
    return (sp_str){r->p + from, r->at - from};
}

/* An attribute's value: between quotes, or up to a space or >. */
static sp_str value(reader *r)
{
    char quote = r->at < r->n && (r->p[r->at] == '"' || r->p[r->at] == '\'') ? r->p[r->at++] : 0;
    size_t from = r->at;
    while (r->at < r->n &&
           (quote ? r->p[r->at] != quote : !is_space(r->p[r->at]) && r->p[r->at] != '>'))
        r->at++;
    sp_str v = {r->p + from, r->at - from};
    r->at += quote && r->at < r->n;
    return v;
}

/* <name attribute=value …>: which part begins. */
static sp_err read_open(reader *r, sp_parts *out, sp_part_kind *kind, sp_diag *d)
{
    size_t from = r->at;
    if (r->p[r->at++] != '<')
        return SP_FAIL(d, SP_INVAL, "structured prompt, byte %zu: text outside of its parts", from);
    sp_str name = word(r);
    for (*kind = 0; *kind < SP_PARTS && !is(name, names[*kind]);)
        *kind = (sp_part_kind)(*kind + 1);
    if (*kind == SP_PARTS)
        return SP_FAIL(
            d, SP_INVAL,
            "structured prompt, byte %zu: <%.*s> is none of task, steps, output and context", from,
            (int)(name.n < 40 ? name.n : 40), name.p);
    sp_part *p = &out->part[*kind];
    if (p->text.p)
        return SP_FAIL(d, SP_INVAL, "structured prompt, byte %zu: a second <%s>", from,
                       names[*kind]);
    for (skip_space(r); r->at < r->n && r->p[r->at] != '>'; skip_space(r)) {
        sp_str attribute = word(r);
        if (attribute.n == 0 || r->at >= r->n || r->p[r->at++] != '=')
            return SP_FAIL(d, SP_INVAL, "structured prompt, byte %zu: <%s> wants attribute=value",
                           r->at, names[*kind]);
        sp_str v = value(r);
        SP_TRY(sp_part_set(p, names[*kind], attribute, v, d));
    }
    if (r->at == r->n)
        return SP_FAIL(d, SP_INVAL, "structured prompt, byte %zu: <%s> is not closed", from,
                       names[*kind]);
    r->at++;
    return SP_OK;
}

sp_err sp_parts_read(sp_parts *out, const char *text, size_t n, sp_diag *d)
{
    reader r = {text, n, 0};
    *out = (sp_parts){0};
    for (size_t i = 0; i < SP_PARTS; i++)
        out->part[i].epsilon = -1;
    for (skip_space(&r); r.at < n; skip_space(&r)) {
        sp_part_kind kind = SP_PART_TASK;
        char close[16];
        size_t from = r.at;
        SP_TRY(read_open(&r, out, &kind, d));
        size_t n_close = (size_t)snprintf(close, sizeof close, "</%s>", names[kind]);
        const char *end = memmem(text + r.at, n - r.at, close, n_close);
        if (!end)
            return SP_FAIL(d, SP_INVAL, "structured prompt, byte %zu: <%s> has no %s", from,
                           names[kind], close);
        sp_str s = {text + r.at, (size_t)(end - text) - r.at};
        r.at = (size_t)(end - text) + n_close;
        while (s.n && is_space(s.p[0]))
            s.p++, s.n--;
        while (s.n && is_space(s.p[s.n - 1]))
            s.n--;
        if (s.n == 0)
            return SP_FAIL(d, SP_INVAL, "structured prompt, byte %zu: <%s> is empty", from,
                           names[kind]);
        out->part[kind].text = s;
    }
    return out->part[SP_PART_TASK].text.n
               ? SP_OK
               : SP_FAIL(d, SP_INVAL, "structured prompt: there is no <task>");
}

void sp_parts_put(sp_buf *out, const sp_parts *p, sp_str output)
{
    static const char *const before[SP_PARTS] = {"", "\n\nSteps:\n", "\n\n", "\n\nContext:\n"};
    for (size_t i = 0; i < SP_PARTS; i++) {
        sp_str text = i == SP_PART_OUTPUT ? output : p->part[i].text;
        if (text.n == 0)
            continue;
        sp_buf_puts(out, before[i]);
        sp_buf_put(out, text.p, text.n);
    }
}

sp_err sp_parts_find(sp_parts *p, const sp_context *ctx, const sp_tok *t, sp_diag *d)
{
    size_t from = 0;
    for (size_t i = 0; i < SP_PARTS; i++) {
        sp_part *q = &p->part[i];
        if (i == SP_PART_OUTPUT || q->text.n == 0)
            continue;
        if (sp_prompt_find(&q->first, &q->end, ctx, t, from, q->text.p, q->text.n) != SP_OK)
            return SP_FAIL(d, SP_UNSUP, "%s: the model's chat template changes its text", names[i]);
        if (q->budget && q->end - q->first > q->budget)
            return SP_FAIL(d, SP_INVAL, "%s has %zu tokens, its budget is %zu", names[i],
                           q->end - q->first, q->budget);
        /* a token may hold the end of one and the beginning of the next */
        from = q->end > q->first ? q->end - 1 : q->end;
    }
    return SP_OK;
}
