#include "fmt/split.h"

#include <stdio.h>
#include <string.h>

enum { TAIL_BYTES = 20 }; /* "-00002-of-00005.gguf" */

static bool five_digits(unsigned *out, const char *p)
{
    *out = 0;
    for (int i = 0; i < 5; i++) {
        if (p[i] < '0' || p[i] > '9')
            return false;
        *out = *out * 10 + (unsigned)(p[i] - '0');
    }
    return true;
}

bool sp_split_parse(sp_split *out, const char *path)
{
    size_t n = strlen(path);
    const char *tail = path + n - TAIL_BYTES;
    sp_split s = {.stem = n - TAIL_BYTES};
    bool is_part = n > TAIL_BYTES && tail[-1] != '/' && *tail == '-' &&
                   five_digits(&s.no, tail + 1) && memcmp(tail + 6, "-of-", 4) == 0 &&
                   five_digits(&s.count, tail + 10) && strcmp(tail + 15, ".gguf") == 0 &&
                   s.count > 1 && s.no >= 1 && s.no <= s.count;
    if (is_part)
        *out = s;
    return is_part;
}

sp_err sp_split_path(char *out, size_t cap, const char *path, const sp_split *s, unsigned no,
                     sp_diag *d)
{
    int n = snprintf(out, cap, "%.*s-%05u-of-%05u.gguf", (int)s->stem, path, no, s->count);
    return n >= 0 && (size_t)n < cap ? SP_OK
                                     : SP_FAIL(d, SP_INVAL, "%.120s: the path is too long", path);
}
