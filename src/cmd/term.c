#include "cmd/term.h"

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
    const char *no = getenv("NO_COLOR");
    return sp_term_is(to) && !(no && *no);
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
