#include "cmd/term.h"

#include "base/clock.h"

#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { MIN_WIDTH = 40, USUAL_WIDTH = 80, MAX_WIDTH = 200 };

bool sp_term_is(FILE *to)
{
    const char *kind = getenv("TERM");
    return isatty(fileno(to)) && kind && *kind && strcmp(kind, "dumb") != 0;
}

bool sp_term_has_color(FILE *to)
{
    const char *no = getenv("NO_COLOR"), *forced = getenv("CLICOLOR_FORCE");
    if (no && *no)
        return false;
    return sp_term_is(to) || (forced && *forced && strcmp(forced, "0") != 0);
}

sp_err sp_term_choose_color(const char *when, sp_diag *d)
{
    bool always = strcmp(when, "always") == 0;
    if (!always && strcmp(when, "never") != 0)
        return SP_OK;
    if (setenv("NO_COLOR", always ? "" : "1", 1) != 0 ||
        setenv("CLICOLOR_FORCE", always ? "1" : "0", 1) != 0)
        return SP_FAIL(d, SP_NOMEM, "environment");
    return SP_OK;
}

sp_err sp_term_copy(FILE *to, const char *text, size_t n, sp_diag *d)
{
    sp_buf out = {0};
    if (!sp_term_is(to))
        return SP_FAIL(d, SP_UNSUP, "this is no terminal that has a clipboard");
    if (n > SP_TERM_COPY)
        return SP_FAIL(d, SP_LIMIT, "%zu bytes are more than the %d that terminals take", n,
                       SP_TERM_COPY);
    sp_buf_puts(&out, "\33]52;c;");
    sp_buf_base64(&out, text, n);
    sp_buf_puts(&out, "\a");
    sp_err err = out.failed ? SP_FAIL(d, SP_NOMEM, "text") : SP_OK;
    if (err == SP_OK && (fputs(out.p, to) < 0 || fflush(to) != 0))
        err = SP_FAIL(d, SP_IO, "the terminal took nothing");
    sp_buf_fini(&out);
    return err;
}

size_t sp_term_width(FILE *to)
{
    struct winsize w = {0};
    const char *given = getenv("COLUMNS");
    size_t n = given ? (size_t)strtoul(given, NULL, 10) : 0;
    if (isatty(fileno(to)) && ioctl(fileno(to), TIOCGWINSZ, &w) == 0 && w.ws_col)
        n = w.ws_col;
    if (n == 0)
        n = USUAL_WIDTH;
    return n < MIN_WIDTH ? MIN_WIDTH : n > MAX_WIDTH ? MAX_WIDTH : n;
}

size_t sp_term_columns(const char *s, size_t n)
{
    size_t cols = 0;
    for (size_t i = 0; i < n; i++)
        cols += ((unsigned char)s[i] & 0xc0) != 0x80;
    return cols;
}

void sp_term_put_left(FILE *to, uint64_t since_ns, size_t done, size_t all)
{
    double ms = sp_clock_ms(since_ns);
    if (ms >= 1000 && done && done < all)
        fprintf(to, ", %.0f s left", ms / 1e3 * (double)(all - done) / (double)done);
}

void sp_term_wrap(sp_buf *out, const char *text, size_t at, size_t indent, size_t width)
{
    bool is_first = true;
    while (*(text += strspn(text, " "))) {
        size_t n = strcspn(text, " "), cols = sp_term_columns(text, n);
        if (!is_first && at + 1 + cols > width) {
            sp_buf_printf(out, "\n%*s", (int)indent, "");
            at = indent;
        } else if (!is_first) {
            sp_buf_putc(out, ' ');
            at++;
        }
        sp_buf_put(out, text, n);
        at += cols;
        text += n;
        is_first = false;
    }
}
