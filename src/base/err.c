/* Error notes. Owns nothing. */
#include "base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

void sp_diag_set(sp_diag *d, sp_err code, const char *file, int line, const char *fmt, ...)
{
    if (!d)
        return;
    int os_errno = (code == SP_IO || code == SP_NET) ? errno : 0;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(d->msg, sizeof d->msg, fmt, ap);
    va_end(ap);
    d->code = code;
    d->file = file;
    d->line = line;
    d->os_errno = os_errno;
}

const char *sp_err_name(sp_err code)
{
    static const char *const names[] = {
        "ok",      "again",  "nomem",    "limit", "invalid", "format", "io",
        "network", "device", "timeout", "cancelled", "notfound", "unsupported", "corrupt"};
    return (unsigned)code < sizeof names / sizeof names[0] ? names[code] : "unknown";
}

void sp_assert_fail(const char *expr, const char *file, int line)
{
    fprintf(stderr, "sparing: internal error: %s (%s:%d)\n", expr, file, line);
    abort();
}
