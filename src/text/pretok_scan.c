/* Scanners of the published patterns. A pattern's alternatives are tried in order and the first
 * that matches wins, as in the regular expressions; each comment gives the expression. */
#include "text/pretok_scan.h"

#include "base/utf8.h"

#include <string.h>

enum { L = SP_CLASS_L, M = SP_CLASS_M, N = SP_CLASS_N, SPACE = SP_CLASS_SPACE };

/* Code point at s[at] and its length in *step; class 0 at the end. */
static unsigned look(const char *s, size_t at, size_t end, size_t *step, uint32_t *cp)
{
    *cp = UINT32_MAX;
    if (at >= end) {
        *step = 0;
        return 0;
    }
    *step = sp_utf8_decode(cp, s + at, end - at);
    if (*step == 0) {
        *step = 1;
        *cp = UINT32_MAX;
        return SP_CLASS_S;
    }
    return sp_pretok_class(*cp);
}

static unsigned class_at(const char *s, size_t at, size_t end)
{
    size_t step;
    uint32_t cp;
    return look(s, at, end, &step, &cp);
}

/* End of a run of at most max code points (0: any number) whose class is in `in`. */
static size_t run(const char *s, size_t at, size_t end, unsigned in, size_t max)
{
    size_t step;
    uint32_t cp;
    for (size_t i = 0; (!max || i < max) && (look(s, at, end, &step, &cp) & in); i++)
        at += step;
    return at;
}

static bool in_ranges(uint32_t cp, const sp_pretok_range *r, size_t n)
{
    size_t lo = 0, hi = n;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (r[mid].last < cp)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < n && r[lo].first <= cp;
}

static bool in_set(const sp_pretok_set *set, unsigned k, uint32_t cp)
{
    return (k & set->classes) || (k && in_ranges(cp, set->range, set->n_range));
}

static bool is_han(uint32_t cp)
{
    return cp >= 0x2e80 && in_ranges(cp, sp_pretok_han, SP_PRETOK_N_HAN);
}

size_t sp_pretok_set_run(const char *s, size_t at, size_t end, const void *opt, size_t *memo)
{
    const sp_pretok_set *set = opt;
    size_t step;
    uint32_t cp;
    (void)memo;
    unsigned k = look(s, at, end, &step, &cp);
    bool spaced = set->after_space && (k & SPACE), alone = spaced && in_set(set, k, cp);
    size_t from = spaced ? at + step : at, to = from;
    for (size_t i = 0; !set->max || i < set->max; i++) {
        k = look(s, to, end, &step, &cp);
        if (!in_set(set, k, cp))
            break;
        to += step;
    }
    if (to > from)
        return to;
    /* a white space of the set itself, with nothing of the set behind it */
    return alone ? from : at;
}

/* 's|'t|'re|'ve|'m|'ll|'d at s[at]: its end, or at. With fold: of any case, which for `s` includes
 * the long s (U+017F). */
static size_t shortened(const char *s, size_t at, size_t end, bool fold)
{
    if (end - at < 2 || s[at] != '\'')
        return at;
    if (fold && end - at >= 3 && memcmp(s + at + 1, "\xc5\xbf", 2) == 0)
        return at + 3;
    char a = s[at + 1], b = end - at > 2 ? s[at + 2] : 0;
    if (fold) {
        a = (char)(a >= 'A' && a <= 'Z' ? a | 32 : a);
        b = (char)(b >= 'A' && b <= 'Z' ? b | 32 : b);
    }
    if (a == 's' || a == 't' || a == 'm' || a == 'd')
        return at + 2;
    return (a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l') ? at + 3 : at;
}

/* \s+(?!\S)|\s+ : all of a run that ends the piece, else all but its last character. */
static size_t spaces(const char *s, size_t at, size_t end)
{
    size_t to = at, last = at, step;
    uint32_t cp;
    while (look(s, to, end, &step, &cp) & SPACE) {
        last = to;
        to += step;
    }
    return to >= end || last == at ? to : last;
}

size_t sp_pretok_gpt2(const char *s, size_t at, size_t end, const void *opt, size_t *memo)
{
    (void)opt;
    (void)memo;
    size_t to = shortened(s, at, end, false), first = s[at] == ' ' ? at + 1 : at;
    if (to > at)
        return to;
    unsigned k = class_at(s, first, end);
    if (!k || (k & SPACE))
        return spaces(s, at, end);
    return run(s, first, end, k & L ? L : k & N ? N : ~(unsigned)(L | N | SPACE), 0);
}

static bool is_newline(char b)
{
    return b == '\r' || b == '\n';
}

/* \s*[\r\n]+ : up to the last newline of a run of white space; at when it holds none. The memo then
 * says how far there is none, so that a run is searched once. */
static size_t newlines(const char *s, size_t at, size_t end, size_t *memo)
{
    if (at < *memo)
        return at;
    size_t to = run(s, at, end, SPACE, 0);
    *memo = to;
    while (to > at && !is_newline(s[to - 1]))
        to--;
    return to;
}

/* \s{512}(?!\S)|\s{256}(?!\S)|...|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1} */
static size_t halving_spaces(const char *s, size_t at, size_t end)
{
    size_t to[514], n = 0, step;
    uint32_t cp;
    to[0] = at;
    while (n < 513 && (look(s, to[n], end, &step, &cp) & SPACE)) {
        to[n + 1] = to[n] + step;
        n++;
    }
    size_t most = to[n] >= end || n == 513 ? n : n - 1; /* what no black character follows */
    for (size_t k = 512; k >= 4; k /= 2)
        if (k <= most)
            return to[k];
    return to[most >= 2 ? 2 : 1];
}

enum { UPPER = SP_CLASS_LU | SP_CLASS_LT | SP_CLASS_LM | SP_CLASS_LO | SP_CLASS_M,
       LOWER = SP_CLASS_LL | SP_CLASS_LM | SP_CLASS_LO | SP_CLASS_M };

/* Class of a word's character: Han is none where it stands alone. */
static unsigned word_class(const sp_pretok_words *o, const char *s, size_t at, size_t end,
                           size_t *step)
{
    uint32_t cp;
    unsigned k = look(s, at, end, step, &cp);
    return o->no_han && is_han(cp) ? 0 : k;
}

/* U*W+|U+W* from `at`, U = [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}], W = [\p{Ll}\p{Lm}\p{Lo}\p{M}].
 * U* takes all it can. If no W follows, it gives back up to its last character that is in W, which
 * then is the whole of W+. *first_choice: the first alternative matched. */
static size_t cased_word(const sp_pretok_words *o, const char *s, size_t at, size_t end,
                         bool *first_choice)
{
    size_t to = at, both_end = 0, step;
    unsigned k;
    while ((k = word_class(o, s, to, end, &step)) & UPPER) {
        to += step;
        if (k & LOWER)
            both_end = to;
    }
    *first_choice = (k & LOWER) || both_end;
    if (k & LOWER) {
        while (word_class(o, s, to, end, &step) & LOWER)
            to += step;
        return to;
    }
    return both_end ? both_end : to;
}

/* [^\r\n\p{L}\p{N}]? and a cased word. A mark is both a prefix and a letter: without a word of the
 * first choice behind it, the mark is the word. */
static size_t prefixed_cased(const sp_pretok_words *o, const char *s, size_t at, size_t end)
{
    size_t step, own;
    uint32_t cp;
    bool first;
    unsigned k = look(s, at, end, &step, &cp);
    own = word_class(o, s, at, end, &step);
    if (!(k & (L | N)) && !is_newline(s[at])) {
        size_t to = cased_word(o, s, at + step, end, &first);
        if (to > at + step && (first || !(own & M)))
            return to;
        if (!(own & M))
            return at;
    }
    return cased_word(o, s, at, end, &first);
}

/* \p{L}\p{M}*(?: \p{L}\p{M}*)* again and again */
static size_t spaced_word(const char *s, size_t at, size_t end)
{
    while (class_at(s, at, end) & L) {
        at = run(s, at, end, L, 1);
        at = run(s, at, end, M, 0);
        if (at + 1 < end && s[at] == ' ' && (class_at(s, at + 1, end) & L))
            at++;
    }
    return at;
}

static size_t word(const sp_pretok_words *o, const char *s, size_t at, size_t end)
{
    size_t step, to = at;
    uint32_t cp;
    unsigned k = look(s, at, end, &step, &cp);
    if (o->cased) {
        to = prefixed_cased(o, s, at, end);
    } else {
        size_t from = !(k & (o->letters | N)) && !is_newline(s[at]) ? at + step : at;
        to = o->spaced ? spaced_word(s, from, end) : run(s, from, end, o->letters, 0);
        to = to > from ? to : at;
    }
    return to > at && o->ends_short ? shortened(s, to, end, true) : to;
}

/* ' '?[^\s\p{L}\p{N}]+ and what may follow it */
static size_t symbols(const sp_pretok_words *o, const char *s, size_t at, size_t end, unsigned in)
{
    size_t first = s[at] == ' ' ? at + 1 : at, to = run(s, first, end, in, 0);
    if (to == first)
        return at;
    while (to < end && s[to] && strchr(o->tail, s[to])) {
        to++;
        if (o->one_tail)
            break;
    }
    return to;
}

size_t sp_pretok_scan_words(const char *s, size_t at, size_t end, const void *opt, size_t *memo)
{
    const sp_pretok_words *o = opt;
    size_t to = o->begins_short ? shortened(s, at, end, true) : at, step;
    uint32_t cp;
    if (to == at && o->no_han) {
        while (look(s, to, end, &step, &cp) && is_han(cp))
            to += step;
    }
    if (to == at)
        to = word(o, s, at, end);
    if (to == at)
        to = run(s, at, end, N, o->max_digits);
    if (to == at)
        to = symbols(o, s, at, end, ~(L | N | SPACE | o->letters));
    if (to == at)
        to = newlines(s, at, end, memo);
    if (to == at && (class_at(s, at, end) & SPACE))
        to = o->halving_spaces ? halving_spaces(s, at, end) : spaces(s, at, end);
    return to;
}

/* [!-/:-@\[-`{-~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|
 * \s*[\r\n]+|\s+(?!\S)|\s+ */
size_t sp_pretok_scan_v3(const char *s, size_t at, size_t end, const void *opt, size_t *memo)
{
    enum { SYMBOL = SP_CLASS_P | SP_CLASS_S };
    const sp_pretok_words *o = opt;
    size_t to = at + 1, step;
    uint32_t cp;
    unsigned k = look(s, at, end, &step, &cp);
    if (cp < 128 && (k & SYMBOL)) {
        while (to < end && ((s[to] | 32) >= 'a' && (s[to] | 32) <= 'z'))
            to++;
        if (to > at + 1)
            return to;
    }
    size_t from = !(k & (L | SYMBOL)) && !is_newline(s[at]) ? at + step : at;
    to = run(s, from, end, L | M, 0);
    if (to > from || (k & M))
        return to;
    to = symbols(o, s, at, end, SYMBOL);
    if (to == at)
        to = *o->tail ? newlines(s, at, end, memo) : is_newline(s[at]) ? at + 1 : at;
    return to == at && (k & SPACE) ? spaces(s, at, end) : to;
}

size_t sp_pretok_last_spaces(const char *s, size_t at, size_t end, const void *opt, size_t *memo)
{
    (void)opt;
    if (at >= *memo)
        *memo = run(s, at, end, SPACE, 0);
    return *memo == end ? end : at;
}

size_t sp_pretok_three_digits(const char *s, size_t at, size_t end, const void *opt, size_t *memo)
{
    (void)opt;
    (void)memo;
    for (size_t i = at; i < at + 3; i++)
        if (i >= end || s[i] < '0' || s[i] > '9')
            return at;
    return at + 3;
}

size_t sp_pretok_digits_from_right(const char *s, size_t at, size_t end, const void *opt,
                                   size_t *memo)
{
    (void)opt;
    if (at < *memo) /* what is left of the run is a multiple of three */
        return run(s, at, end, N, 3);
    size_t step, n = 0;
    uint32_t cp;
    for (*memo = at; look(s, *memo, end, &step, &cp) & N; n++)
        *memo += step;
    return n ? run(s, at, end, N, n % 3 ? n % 3 : 3) : at;
}

size_t sp_pretok_lines(const char *s, size_t at, size_t end, const void *opt, size_t *memo)
{
    (void)opt;
    (void)memo;
    bool newline = s[at] == '\n';
    if (!newline) {
        const char *p = memchr(s + at, '\n', end - at);
        return p ? (size_t)(p - s) : end;
    }
    while (at < end && s[at] == '\n')
        at++;
    return at;
}

size_t sp_pretok_bloom(const char *s, size_t at, size_t end, const void *opt, size_t *memo)
{
    static const uint32_t stop[] = {'(',   ')',   '|',   '.',    ',',    '!',    '?',
                                    0x60c, 0x6d4, 0x964, 0x2026, 0x3001, 0x3002, 0xff0c};
    (void)opt;
    (void)memo;
    size_t first = s[at] == ' ' ? at + 1 : at, to = first, step;
    uint32_t cp;
    for (unsigned k; (k = look(s, to, end, &step, &cp)) && !(k & SPACE); to += step)
        for (size_t i = 0; i < sizeof stop / sizeof stop[0]; i++)
            if (cp == stop[i])
                return to > first ? to : at;
    return to > first ? to : at;
}
