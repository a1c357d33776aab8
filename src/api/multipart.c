#include "api/multipart.h"

#include <string.h>
#include <strings.h>

enum { MAX_BOUNDARY = 70 };

/* The value of `key=value` or `key="value"` in a header line, at most cap - 1 bytes; false when it
 * is not there or too long. */
static bool value_of(char *out, size_t cap, const char *p, size_t n, const char *key)
{
    size_t len = strlen(key), k = 0;
    bool quoted = false;
    for (size_t i = 0; i + len < n; i++) {
        quoted ^= p[i] == '"' && (i == 0 || p[i - 1] != '\\');
        if (quoted || strncasecmp(p + i, key, len) != 0 || p[i + len] != '=' ||
            (i > 0 && p[i - 1] != ' ' && p[i - 1] != ';'))
            continue;
        i += len + 1;
        char end = i < n && p[i] == '"' ? '"' : ';';
        for (i += end == '"'; i < n && p[i] != end && (end == '"' || p[i] != ' '); i++) {
            i += end == '"' && p[i] == '\\' && i + 1 < n;
            if (k + 1 >= cap)
                return false;
            out[k++] = p[i];
        }
        out[k] = 0;
        return true;
    }
    return false;
}

/* The next boundary line at or after p, which begins a line; NULL: none. *line: its length with the
 * line end. *last: it closes the form. */
static const char *find_boundary(const char *p, const char *end, const char *mark, size_t n_mark,
                                 size_t *line, bool *last)
{
    const char *at = p;
    while ((at = memmem(at, (size_t)(end - at), mark, n_mark))) {
        const char *tail = at + n_mark;
        *last = end - tail >= 2 && tail[0] == '-' && tail[1] == '-';
        if (*last || (end - tail >= 2 && tail[0] == '\r' && tail[1] == '\n')) {
            *line = n_mark + 2;
            return at;
        }
        at = tail;
    }
    return NULL;
}

/* Headers of a part up to the empty line; returns what follows, or NULL. */
static const char *read_head(sp_form_part *out, const char *p, const char *end)
{
    static const char disposition[] = "content-disposition:";
    bool named = false;
    for (;;) {
        const char *nl = memmem(p, (size_t)(end - p), "\r\n", 2);
        size_t n = nl ? (size_t)(nl - p) : 0;
        if (!nl)
            return NULL;
        if (n == 0)
            return named ? nl + 2 : NULL;
        if (n > sizeof disposition && strncasecmp(p, disposition, sizeof disposition - 1) == 0) {
            named = value_of(out->name, sizeof out->name, p, n, "name");
            if (!value_of(out->filename, sizeof out->filename, p, n, "filename"))
                out->filename[0] = 0;
        }
        p = nl + 2;
    }
}

sp_err sp_form_parse(sp_form_part part[SP_FORM_PARTS], size_t *n_part, const char *type,
                     const char *body, size_t n, sp_diag *d)
{
    char mark[MAX_BOUNDARY + 5] = "\r\n--";
    const char *end = body + n;
    size_t line;
    bool last = false;
    *n_part = 0;
    if (!type || strncasecmp(type, "multipart/form-data", 19) != 0 ||
        !value_of(mark + 4, sizeof mark - 4, type, strlen(type), "boundary") || !mark[4])
        return SP_FAIL(d, SP_INVAL, "Content-Type must be multipart/form-data with a boundary");
    size_t n_mark = strlen(mark);
    /* the first has no line before it */
    const char *p = find_boundary(body, end, mark + 2, n_mark - 2, &line, &last);
    while (p && !last) {
        sp_form_part *out = &part[*n_part];
        if (*n_part == SP_FORM_PARTS)
            return SP_FAIL(d, SP_INVAL, "the form has more than %d parts", SP_FORM_PARTS);
        out->p = read_head(out, p + line, end);
        if (!out->p)
            return SP_FAIL(d, SP_INVAL, "part %zu of the form has no complete head with a name",
                           *n_part + 1);
        /* -2: an empty part ends where it begins */
        p = find_boundary(out->p - 2, end, mark, n_mark, &line, &last);
        if (!p)
            return SP_FAIL(d, SP_INVAL, "part %zu of the form is not closed by its boundary",
                           *n_part + 1);
        out->n = p > out->p ? (size_t)(p - out->p) : 0;
        (*n_part)++;
    }
    return p ? SP_OK : SP_FAIL(d, SP_INVAL, "the form does not begin with its boundary");
}

const sp_form_part *sp_form_find(const sp_form_part *part, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(part[i].name, name) == 0)
            return &part[i];
    return NULL;
}
