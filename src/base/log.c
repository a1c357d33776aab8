#include "base/log.h"

#include "base/buf.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static _Atomic int log_level = SP_LOG_INFO;
static _Atomic bool log_json;

void sp_log_set(sp_log_level level, bool json)
{
    log_level = (int)level;
    log_json = json;
}

void sp_log(sp_log_level level, const char *fmt, ...)
{
    static const char *const name[] = {"error", "warn", "info", "debug"};
    if ((int)level > log_level)
        return;
    char msg[1024], when[40];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    struct timespec t;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &t);
    gmtime_r(&t.tv_sec, &tm);
    size_t n = strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(when + n, sizeof when - n, ".%03ldZ", t.tv_nsec / 1000000);
    sp_buf line = {0};
    if (log_json) {
        sp_buf_printf(&line, "{\"ts\":\"%s\",\"level\":\"%s\",\"msg\":", when, name[level]);
        sp_buf_json_str(&line, msg, strlen(msg));
        sp_buf_puts(&line, "}\n");
    } else {
        sp_buf_printf(&line, "%s %-5s %s\n", when, name[level], msg);
    }
    if (line.p && write(STDERR_FILENO, line.p, line.len) < 0)
        (void)0; /* nowhere left to say so */
    sp_buf_fini(&line);
}
