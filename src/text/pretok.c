/* Patterns (alternatives in order, first match wins):
 *   gpt2:   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
 *   smollm: every \p{N} alone first; gpt2 on the stretches between
 *   llama3: (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|
 *           ' '?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+ */
#include "text/pretok.h"

#include "base/utf8.h"

#include <string.h>

typedef enum kind { LETTER, NUMBER, SPACE, OTHER, END } kind;

typedef struct cursor {
    const char *s;
    size_t n;
} cursor;

/* Class of the code point at `at`, and its length. */
static kind look(const cursor *c, size_t at, size_t *step)
{
    uint32_t cp;
    if (at >= c->n) {
        *step = 0;
        return END;
    }
    *step = sp_utf8_decode(&cp, c->s + at, c->n - at);
    if (*step == 0) {
        *step = 1;
        return OTHER;
    }
    return sp_utf8_is_letter(cp) ? LETTER : sp_utf8_is_number(cp) ? NUMBER : sp_utf8_is_space(cp) ? SPACE : OTHER;
}

static size_t run(const cursor *c, size_t at, kind want, size_t max)
{
    size_t step;
    for (size_t i = 0; i < max && look(c, at, &step) == want; i++)
        at += step;
    return at;
}

static size_t contraction(const char *s, size_t n, bool fold)
{
    if (n < 2 || s[0] != '\'')
        return 0;
    char a = s[1], b = n > 2 ? s[2] : 0;
    if (fold) {
        a = (char)(a >= 'A' && a <= 'Z' ? a | 32 : a);
        b = (char)(b >= 'A' && b <= 'Z' ? b | 32 : b);
    }
    if (a == 's' || a == 't' || a == 'm' || a == 'd')
        return 2;
    return (a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l') ? 3 : 0;
}

/* \s+(?!\S)|\s+ : all of a run that ends the text, else all but its last character. */
static size_t spaces(const cursor *c, bool stop_at_number)
{
    size_t at = 0, last = 0, step;
    kind k;
    while ((k = look(c, at, &step)) == SPACE) {
        last = at;
        at += step;
    }
    bool ends = k == END || (stop_at_number && k == NUMBER);
    return ends || last == 0 ? at : last;
}

static size_t gpt2(const cursor *c, bool split_numbers)
{
    size_t len = contraction(c->s, c->n, false), step, first = c->s[0] == ' ' ? 1 : 0;
    if (len)
        return len;
    kind k = look(c, first, &step);
    if (k == NUMBER && split_numbers)
        return first ? 1 : step;
    if (k == LETTER || k == NUMBER || k == OTHER)
        return run(c, first, k, SIZE_MAX);
    return spaces(c, split_numbers);
}

static bool is_newline(char b)
{
    return b == '\r' || b == '\n';
}

static size_t llama3(const cursor *c)
{
    size_t len = contraction(c->s, c->n, true), step, next;
    if (len)
        return len;
    kind k = look(c, 0, &step);
    if (k == LETTER || (k != NUMBER && !is_newline(c->s[0]) && look(c, step, &next) == LETTER))
        return run(c, k == LETTER ? 0 : step, LETTER, SIZE_MAX);
    if (k == NUMBER)
        return run(c, 0, NUMBER, 3);
    size_t first = c->s[0] == ' ' ? 1 : 0;
    if (look(c, first, &step) == OTHER) {
        size_t at = run(c, first, OTHER, SIZE_MAX);
        while (at < c->n && is_newline(c->s[at]))
            at++;
        return at;
    }
    size_t end = run(c, 0, SPACE, SIZE_MAX), at = end;
    while (at > 0 && !is_newline(c->s[at - 1]))
        at--;
    return at ? at : spaces(c, false);
}

size_t sp_pretok_word(sp_pretok kind_of, const char *s, size_t n)
{
    const cursor c = {s, n};
    return kind_of == SP_PRETOK_LLAMA3 ? llama3(&c) : gpt2(&c, kind_of == SP_PRETOK_SMOLLM);
}

sp_pretok sp_pretok_find(const char *name, size_t n)
{
    static const struct { const char *name; sp_pretok kind; } known[] = {
        {"gpt-2", SP_PRETOK_GPT2},       {"gpt2", SP_PRETOK_GPT2},       {"smollm", SP_PRETOK_SMOLLM},
        {"llama-bpe", SP_PRETOK_LLAMA3}, {"llama3", SP_PRETOK_LLAMA3}, {"llama-v3", SP_PRETOK_LLAMA3}};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strlen(known[i].name) == n && memcmp(known[i].name, name, n) == 0)
            return known[i].kind;
    return SP_PRETOK_KINDS;
}
