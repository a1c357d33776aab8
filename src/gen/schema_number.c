/* Numbers within bounds, and multiples: bounds become patterns of digits.
 *
 * A range of natural numbers is cut by the number of digits; in each length, digits follow one
 * bound as long as they are tight, and are free from the first one on that is not. Multiples add
 * the remainder so far: what may follow k free digits with remainder r is a rule of its own. */
#include "gen/schema_int.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    DIGITS = 18,
    MULTIPLE_DIGITS = 9,
    MAX_MULTIPLE = 100,
    MAX_LISTED = 512,
    FEW = 9 /* digits */,
    LARGE = 1000000000
};
static const long long TOP = 999999999999999999, MULTIPLE_TOP = 999999999;

/* --- natural numbers -------------------------------------------------------------------------- */

typedef struct range {
    sc_walk *w;
    char lo[DIGITS + 2], hi[DIGITS + 2]; /* of equal length */
    int len;
    long long m;  /* multiples of it; 1: all */
    size_t *rule; /* [(MULTIPLE_DIGITS + 1) * m] of k free digits and a remainder, + 1; 0: not
                     written */
} range;

static sp_err put_tail(range *r, sp_buf *out, int k, long long rest);

/* k free digits that bring the remainder to 0, as a rule. */
static sp_err tail_rule(range *r, int k, long long rest, size_t *id)
{
    size_t *slot = &r->rule[k * r->m + rest];
    if (!*slot) {
        sp_buf body = {0};
        size_t n = 0;
        *slot = ++r->w->n_rule;
        for (long long to = 0; to < r->m; to++) { /* digits that lead to one remainder, together */
            char digits[12] = {0};
            size_t n_digit = 0;
            for (int d = 0; d < 10; d++)
                if ((rest * 10 + d) % r->m == to)
                    digits[n_digit++] = (char)('0' + d);
            if (!n_digit || (k == 1 && to != 0))
                continue;
            sp_buf_printf(&body, "%s[%s]", n++ ? "|" : "", digits);
            sp_err err = put_tail(r, &body, k - 1, to);
            if (err != SP_OK)
                return sp_buf_fini(&body), err;
        }
        if (!n)
            sp_buf_puts(&body, "(?!)");
        SP_TRY(sc_define(r->w, *slot - 1, &body));
    }
    *id = *slot - 1;
    return SP_OK;
}

static sp_err put_tail(range *r, sp_buf *out, int k, long long rest)
{
    size_t id;
    if (k == 0 || r->m == 1) {
        sp_buf_puts(out, rest ? "(?!)" : "");
        if (k)
            sp_buf_printf(out, "\\d{%d}", k);
        return SP_OK;
    }
    SP_TRY(tail_rule(r, k, rest, &id));
    sc_put_rule(r->w, out, id);
    return SP_OK;
}

/* Digits from place `at` on; low, high: so far they are those of the bound. */
static sp_err put_digits(range *r, sp_buf *out, int at, bool low, bool high, long long rest)
{
    char from = low ? r->lo[at] : '0', to = high ? r->hi[at] : '9';
    size_t n = 0;
    SP_TRY(sc_step(r->w));
    if (at == r->len || (!low && !high))
        return put_tail(r, out, r->len - at, rest);
    sp_buf_puts(out, "(?:");
    for (char c = from; c <= to; c++) {
        bool l = low && c == from, h = high && c == to;
        char last = c;
        if (!l && !h && r->m == 1) /* all that are free, at once */
            last = high ? (char)(to - 1) : to;
        if (last == c)
            sp_buf_printf(out, "%s%c", n++ ? "|" : "", c);
        else
            sp_buf_printf(out, "%s[%c-%c]", n++ ? "|" : "", c, last);
        SP_TRY(put_digits(r, out, at + 1, l, h, (rest * 10 + (c - '0')) % r->m));
        c = last;
    }
    sp_buf_putc(out, ')');
    return SP_OK;
}

/* lo .. hi, both at least 0; in groups. */
static sp_err put_natural(sc_walk *w, sp_buf *out, long long lo, long long hi, long long m)
{
    range r = {
        .w = w, .m = m, .rule = calloc((size_t)(MULTIPLE_DIGITS + 1) * (size_t)m, sizeof *r.rule)};
    long long first = 0, last = 9;
    size_t n = 0;
    sp_err err = r.rule ? SP_OK : SP_FAIL(w->d, SP_NOMEM, "schema");
    sp_buf_puts(out, "(?:");
    for (r.len = 1; r.len <= DIGITS && err == SP_OK; r.len++) {
        long long a = lo > first ? lo : first, b = hi < last ? hi : last;
        first = last + 1;
        last = r.len < DIGITS ? last * 10 + 9 : last;
        if (a > b)
            continue;
        for (int i = r.len; i-- > 0; a /= 10, b /= 10) {
            r.lo[i] = (char)('0' + a % 10);
            r.hi[i] = (char)('0' + b % 10);
        }
        sp_buf_puts(out, n++ ? "|" : "");
        err = put_digits(&r, out, 0, true, true, 0);
    }
    sp_buf_puts(out, n ? ")" : "(?!))");
    free(r.rule);
    return err;
}

/* --- integers --------------------------------------------------------------------------------- */

static sp_err put_integer(sc_walk *w, sp_buf *out, long long lo, long long hi, long long m)
{
    int zeros = 0;
    long long one = m;
    for (; one % 10 == 0; one /= 10)
        zeros++;
    if (m > 1 && (hi / m - lo / m) <= MAX_LISTED) {
        size_t n = 0;
        sp_buf_puts(out, "(?:");
        for (long long k = lo / m - 1; k <= hi / m + 1; k++)
            if (k * m >= lo && k * m <= hi)
                sp_buf_printf(out, "%s%lld", n++ ? "|" : "", k * m);
        sp_buf_puts(out, n ? ")" : "(?!))");
        return SP_OK;
    }
    if (one > MAX_MULTIPLE) {
        SP_TRY(sc_loose(w, "multipleOf"));
        return put_integer(w, out, lo, hi, 1);
    }
    long long scale = m / one, top = one > 1 ? MULTIPLE_TOP : TOP / scale,
              a = lo > 0 ? (lo - 1) / scale + 1 : 1, b = hi / scale,
              c = hi < 0 ? (-hi - 1) / scale + 1 : 1, e = -lo / scale;
    if (one > 1 && (a > top || c > top)) {
        SP_TRY(sc_loose(w, "multipleOf"));
        return put_integer(w, out, lo, hi, 1);
    }
    sp_buf_puts(out, lo <= 0 && hi >= 0 ? "(?:0" : "(?:(?!)");
    if (hi > 0) {
        sp_buf_putc(out, '|');
        SP_TRY(put_natural(w, out, a, b < top ? b : top, one));
        sp_buf_printf(out, "0{%d}", zeros);
    }
    if (lo < 0) {
        sp_buf_puts(out, "|-");
        SP_TRY(put_natural(w, out, c, e < top ? e : top, one));
        sp_buf_printf(out, "0{%d}", zeros);
    }
    sp_buf_putc(out, ')');
    return SP_OK;
}

/* --- numbers with a fraction ------------------------------------------------------------------ */

/* Digits behind the point: as many as the bound has, and six. */
typedef struct bound { /* at least 0 */
    bool is, open;     /* open: the value itself is outside */
    long long whole;
    char part[24]; /* digits behind the point, without zeros at the end */
} bound;

/* 0: it has no short decimal form. */
static bool read_bound(bound *b, double v, bool open)
{
    char text[64];
    *b = (bound){.is = true, .open = open};
    if (!(v >= 0 && v < 1e15))
        return false;
    for (int n = 0; n <= 18; n++) {
        snprintf(text, sizeof text, "%.*f", n, v);
        if (strtod(text, NULL) != v)
            continue;
        char *dot = strchr(text, '.');
        b->whole = strtoll(text, NULL, 10);
        snprintf(b->part, sizeof b->part, "%s", dot ? dot + 1 : "");
        for (size_t k = strlen(b->part); k && b->part[k - 1] == '0';)
            b->part[--k] = 0;
        return true;
    }
    return false;
}

/* Digits behind the point that make at least (open: more than) 0.p; at least one, or where `none`
 * is set maybe none. */
static void put_above(sp_buf *out, const char *p, bool open, bool none)
{
    if (!*p) {
        sp_buf_printf(out, open ? "0{0,2}[1-9]\\d{0,2}" : "\\d{%d,6}", !none);
        return;
    }
    sp_buf_puts(out, "(?:");
    for (int i = 0; p[i]; i++)
        if (p[i] < '9')
            sp_buf_printf(out, "%.*s[%c-9]\\d{0,6}|", i, p, p[i] + 1);
    if (open && strlen(p) > FEW) /* more digits would be read as the same number */
        sp_buf_puts(out, "(?!))");
    else
        sp_buf_printf(out, open ? "%s0{0,2}[1-9]\\d{0,2})" : "%s\\d{0,6})", p);
}

/* The same for at most (open: less than) 0.p, which may always be none where that is allowed. */
static void put_below(sp_buf *out, const char *p, bool open, bool none)
{
    sp_buf_puts(out, "(?:");
    for (int i = 0; p[i]; i++) {
        if (p[i] > '0')
            sp_buf_printf(out, "%.*s[0-%c]\\d{0,6}|", i, p, p[i] - 1);
        if (p[i + 1])
            sp_buf_printf(out, "%.*s|", i + 1, p);
    }
    if (*p && none)
        sp_buf_putc(out, '|');
    sp_buf_printf(out, open ? "(?!))" : "%s0{%d,3})", p, !*p && !none);
}

/* Between two fractions that belong to the same whole number. */
static void put_between(sp_buf *out, const bound *a, const bound *b)
{
    size_t i = 0, n = strlen(a->part), m = strlen(b->part);
    char from = '0', to = '0';
    for (; (i < n || i < m) && from == to; i++) {
        from = i < n ? a->part[i] : '0';
        to = i < m ? b->part[i] : '0';
    }
    if (from >= to) { /* one value, or none */
        sp_buf_puts(out, from == to && n && !a->open && !b->open ? a->part : "(?!)");
        return;
    }
    int same = (int)i - 1;
    sp_buf_puts(out, "(?:");
    for (int k = 0; k < same; k++)
        sp_buf_putc(out, (size_t)k < m ? b->part[k] : '0');
    sp_buf_printf(out, "(?:%c", from);
    put_above(out, i < n ? a->part + i : "", a->open, true);
    if (to - from > 1)
        sp_buf_printf(out, "|[%c-%c]\\d{0,6}", from + 1, to - 1);
    sp_buf_printf(out, "|%c", to);
    put_below(out, i < m ? b->part + i : "", b->open, true);
    sp_buf_puts(out, "))");
}

/* A bound that is outside itself, and so large that what is next to it is read as the same number:
 * the next whole one inside. */
static bound step_in(const bound *b, bool up)
{
    bool far = b->is && b->open && b->whole >= LARGE;
    return far ? (bound){.is = true, .whole = up ? b->whole + 1 : b->whole - !b->part[0]} : *b;
}

/* From `from` to `to` (is false: no end). */
static sp_err put_positive(sc_walk *w, sp_buf *out, const bound *from, const bound *to)
{
    const bound inner[] = {step_in(from, true), step_in(to, false)}, *a = &inner[0], *b = &inner[1];
    bool closed_end = !b->is || b->part[0] || !b->open;
    long long top = 999999999999999, last = b->is ? b->whole : top + 1;
    if (a->whole > last) {
        sp_buf_puts(out, "(?!)");
        return SP_OK;
    }
    sp_buf_puts(out, "(?:");
    if (a->whole == last) {
        bool bare = !a->part[0] && !a->open && closed_end;
        sp_buf_printf(out, "%lld(?:\\.", a->whole);
        put_between(out, a, b);
        sp_buf_puts(out, bare ? ")?)" : "))");
        return SP_OK;
    }
    bool bare = !a->part[0] && !a->open;
    sp_buf_printf(out, "%lld(?:\\.", a->whole);
    put_above(out, a->part, a->open, false);
    sp_buf_puts(out, bare ? ")?" : ")");
    if (a->whole + 1 < last) {
        sp_buf_putc(out, '|');
        SP_TRY(put_natural(w, out, a->whole + 1, last - 1, 1));
        sp_buf_puts(out, "(?:\\.\\d{1,6})?");
    }
    if (b->is && closed_end) {
        sp_buf_printf(out, "|%lld(?:\\.", last);
        put_below(out, b->part, b->open, false);
        sp_buf_puts(out, ")?");
    }
    sp_buf_putc(out, ')');
    return SP_OK;
}

typedef struct limits {
    double lo, hi; /* infinite: none */
    bool lo_open, hi_open;
} limits;

/* A bound whose digits are too many to follow is not enforced. */
static sp_err put_real(sc_walk *w, sp_buf *out, const limits *l)
{
    const bound zero = {.is = true}, none = {0};
    bound lo = zero, hi = none;
    bool has_lo = isfinite(l->lo), has_hi = isfinite(l->hi);
    if (has_lo && !read_bound(&lo, fabs(l->lo), l->lo_open)) {
        SP_TRY(sc_loose(w, "minimum"));
        has_lo = false;
    }
    if (has_hi && !read_bound(&hi, fabs(l->hi), l->hi_open)) {
        SP_TRY(sc_loose(w, "maximum"));
        has_hi = false;
    }
    if (!has_lo && !has_hi) {
        sc_put_lib(w, out, SC_NUMBER);
        return SP_OK;
    }
    sp_buf_puts(out, "(?:(?!)");
    if (!has_hi || l->hi >= 0) {
        bound from = zero;
        if (has_lo && l->lo >= 0)
            from = lo;
        sp_buf_putc(out, '|');
        SP_TRY(put_positive(w, out, &from, has_hi ? &hi : &none));
    }
    if (!has_lo || l->lo < 0) {
        bound from = {.is = true, .open = true}; /* -0 is left out */
        if (has_hi && l->hi < 0)
            from = hi;
        sp_buf_puts(out, "|-");
        SP_TRY(put_positive(w, out, &from, has_lo ? &lo : &none));
    }
    sp_buf_putc(out, ')');
    return SP_OK;
}

/* --- a schema's ------------------------------------------------------------------------------- */

static sp_err read_limits(sc_walk *w, limits *l, const json_t *s)
{
    const json_t *lo = json_object_get(s, "minimum"), *hi = json_object_get(s, "maximum"),
                 *lo_open = json_object_get(s, "exclusiveMinimum"),
                 *hi_open = json_object_get(s, "exclusiveMaximum");
    const json_t *const all[] = {lo, hi};
    *l = (limits){.lo = -INFINITY, .hi = INFINITY};
    for (size_t i = 0; i < 2; i++)
        if (all[i] && !json_is_number(all[i]))
            return SP_FAIL(w->d, SP_INVAL, "schema: %s must be a number",
                           i ? "maximum" : "minimum");
    if ((lo_open && !json_is_number(lo_open) && !json_is_boolean(lo_open)) ||
        (hi_open && !json_is_number(hi_open) && !json_is_boolean(hi_open)))
        return SP_FAIL(w->d, SP_INVAL,
                       "schema: exclusiveMinimum and exclusiveMaximum must be numbers");
    if (lo)
        l->lo = json_number_value(lo), l->lo_open = json_is_true(lo_open); /* true: draft 4 */
    if (hi)
        l->hi = json_number_value(hi), l->hi_open = json_is_true(hi_open);
    if (json_is_number(lo_open) && json_number_value(lo_open) >= l->lo)
        l->lo = json_number_value(lo_open), l->lo_open = true;
    if (json_is_number(hi_open) && json_number_value(hi_open) <= l->hi)
        l->hi = json_number_value(hi_open), l->hi_open = true;
    return SP_OK;
}

/* Whole numbers inside the limits. false: there are none. */
static bool whole_limits(const limits *l, long long *lo, long long *hi)
{
    double a = ceil(l->lo), b = floor(l->hi);
    a += l->lo_open && a == l->lo;
    b -= l->hi_open && b == l->hi;
    *lo = a > -1e18 ? (a < 1e18 ? (long long)a : TOP) : -TOP;
    *hi = b < 1e18 ? (b > -1e18 ? (long long)b : -TOP) : TOP;
    return a <= b && a < 1e18 && b > -1e18 && *lo <= *hi;
}

sp_err sc_put_number(sc_walk *w, sp_buf *out, const json_t *s, bool whole)
{
    const json_t *multiple = json_object_get(s, "multipleOf");
    double m = json_number_value(multiple);
    limits l;
    long long lo, hi;
    SP_TRY(read_limits(w, &l, s));
    if (multiple && !(m > 0))
        return SP_FAIL(w->d, SP_INVAL, "schema: multipleOf must be a number above 0");
    if (multiple && (m != floor(m) || m > 1e9) && !(whole && m < 1 && floor(1 / m) == 1 / m)) {
        SP_TRY(sc_loose(w, "multipleOf"));
        m = 0;
    }
    bool bounded = isfinite(l.lo) || isfinite(l.hi);
    if (!whole && m < 1)
        return put_real(w, out, &l);
    if (!bounded && m <= 1) {
        sc_put_lib(w, out, SC_INTEGER);
        return SP_OK;
    }
    if (!whole_limits(&l, &lo, &hi)) {
        sp_buf_puts(out, "(?!)");
        return SP_OK;
    }
    return put_integer(w, out, lo, hi, m > 1 ? (long long)m : 1);
}
