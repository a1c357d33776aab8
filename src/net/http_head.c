#include "net/http_head.h"

#include <string.h>
#include <strings.h>

enum { MAX_CHUNK_LINE = 128, MAX_METHOD = 16 };

static sp_err refuse(sp_head *h, sp_diag *d, int status, const char *why)
{
    h->status = status;
    return SP_FAIL(d, SP_FORMAT, "%s", why);
}

static bool is_token(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           (c && strchr("!#$%&'*+-.^_`|~", c) != NULL);
}

static bool is_text(char c) /* of a field's value */
{
    unsigned char u = (unsigned char)c;
    return u == '\t' || (u >= 0x20 && u != 0x7f);
}

size_t sp_head_end(const char *p, size_t n)
{
    for (const char *at = p; (at = memchr(at, '\n', n - (size_t)(at - p))); at++) {
        size_t i = (size_t)(at - p) + 1;
        if (i < n && p[i] == '\n')
            return i + 1;
        if (i + 1 < n && p[i] == '\r' && p[i + 1] == '\n')
            return i + 2;
        if (i == 1 || (i == 2 && p[0] == '\r'))
            return i; /* an empty line where a request should begin */
    }
    return 0;
}

/* --- the request line ------------------------------------------------------------------------- */

static int hex(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* Decodes p in place up to its NUL. False: % without two digits, or a control character. plus: '+'
 * is a space. */
static bool decode(char *p, bool plus)
{
    char *to = p;
    for (; *p; p++) {
        int v = (unsigned char)*p;
        if (*p == '%') {
            int a = hex(p[1]), b = a < 0 ? -1 : hex(p[2]);
            if (b < 0)
                return false;
            v = a * 16 + b;
            p += 2;
            if (v < 0x20 || v == 0x7f)
                return false;
        } else if (*p == '+' && plus) {
            v = ' ';
        }
        *to++ = (char)v;
    }
    *to = 0;
    return true;
}

static bool has_dots(const char *path)
{
    for (const char *p = path; (p = strchr(p, '/')); p++)
        if (p[1] == '.' &&
            (p[2] == 0 || p[2] == '/' || (p[2] == '.' && (p[3] == 0 || p[3] == '/'))))
            return true;
    return false;
}

static sp_err parse_query(sp_head *h, char *q, sp_diag *d)
{
    char *save = NULL;
    for (char *p = strtok_r(q, "&", &save); p; p = strtok_r(NULL, "&", &save)) {
        char *value = strchr(p, '=');
        if (h->n_query == SP_HEAD_QUERY)
            return refuse(h, d, 400, "more than 16 query parameters");
        if (value)
            *value++ = 0;
        if (!decode(p, true) || (value && !decode(value, true)))
            return refuse(h, d, 400,
                          "the query holds an encoding that is not valid, or a control character");
        if (sp_head_query(h, p))
            return refuse(h, d, 400, "a query parameter comes twice");
        h->query[h->n_query++] = (sp_head_pair){p, value ? value : p + strlen(p)};
    }
    return SP_OK;
}

static sp_err parse_target(sp_head *h, char *p, sp_diag *d)
{
    if (*p != '/')
        return refuse(h, d, 400, "the request's target is not a path");
    for (const char *c = p; *c; c++)
        if ((unsigned char)*c <= 0x20 || (unsigned char)*c >= 0x7f || *c == '#' || *c == '\\')
            return refuse(h, d, 400, "the path holds a character that must be percent-encoded");
    char *query = strchr(p, '?');
    if (query)
        *query++ = 0;
    if (strcasestr(p, "%2f") || strcasestr(p, "%5c"))
        return refuse(h, d, 400, "the path holds an encoded slash");
    if (!decode(p, false))
        return refuse(h, d, 400,
                      "the path holds an encoding that is not valid, or a control character");
    if (has_dots(p))
        return refuse(h, d, 400, "the path holds . or .. as a part");
    size_t n = strlen(p);
    if (n > 1 && p[n - 1] == '/')
        p[n - 1] = 0;
    h->path = p;
    return query ? parse_query(h, query, d) : SP_OK;
}

static sp_err parse_first(sp_head *h, char *line, sp_diag *d)
{
    size_t n = 0;
    while (is_token(line[n]))
        n++;
    if (n == 0 || n > MAX_METHOD || line[n] != ' ')
        return refuse(h, d, 400, "the request does not begin with a method");
    char *target = line + n + 1, *version = strchr(target, ' ');
    line[n] = 0;
    h->method = line;
    if (!version || strncmp(version + 1, "HTTP/", 5) != 0)
        return refuse(h, d, 400, "the first line is not METHOD PATH HTTP/1.1");
    *version = 0;
    h->old = strcmp(version + 6, "1.0") == 0;
    h->keep = !h->old;
    if (!h->old && strcmp(version + 6, "1.1") != 0)
        return refuse(h, d, 505, "this server speaks HTTP/1.1 and 1.0");
    if (strcmp(line, "TRACE") == 0 || strcmp(line, "CONNECT") == 0)
        return refuse(h, d, 405, "this method is not taken at any path");
    return parse_target(h, target, d);
}

/* --- fields ----------------------------------------------------------------------------------- */

static sp_err parse_field(sp_head *h, char *line, sp_diag *d)
{
    size_t n = 0;
    while (is_token(line[n]))
        n++;
    if (n == 0 || line[n] != ':')
        return refuse(h, d, 400, "a header line is not NAME: VALUE");
    if (h->n_field == SP_HEAD_FIELDS)
        return refuse(h, d, 431, "more than 64 header fields");
    line[n] = 0;
    char *v = line + n + 1, *end = v + strlen(v);
    v += strspn(v, " \t");
    while (end > v && (end[-1] == ' ' || end[-1] == '\t'))
        *--end = 0;
    h->field[h->n_field++] = (sp_head_pair){line, v};
    return SP_OK;
}

static size_t count(const sp_head *h, const char *name)
{
    size_t n = 0;
    for (size_t i = 0; i < h->n_field; i++)
        n += strcasecmp(h->field[i].name, name) == 0;
    return n;
}

static bool has_word(const char *list, const char *word)
{
    size_t n = strlen(word);
    for (const char *p = list; *p; p += strcspn(p, ","), p += *p == ',') {
        p += strspn(p, " \t");
        size_t len = strcspn(p, ", \t");
        if (len == n && strncasecmp(p, word, n) == 0)
            return true;
    }
    return false;
}

/* How long the body is, by exactly one field. */
static sp_err find_length(sp_head *h, sp_diag *d)
{
    const char *length = sp_head_field(h, "Content-Length"),
               *coding = sp_head_field(h, "Transfer-Encoding");
    if (length && coding)
        return refuse(h, d, 400, "both Content-Length and Transfer-Encoding");
    if (coding && h->old)
        return refuse(h, d, 400, "Transfer-Encoding in HTTP/1.0");
    if (coding && strcasecmp(coding, "chunked") != 0)
        return refuse(h, d, 501, "Transfer-Encoding: only chunked is taken");
    h->chunked = coding != NULL;
    size_t n = length ? strlen(length) : 0;
    if (length && (n == 0 || n > 18 || strspn(length, "0123456789") != n))
        return refuse(h, d, 400, "Content-Length is not a number of at most 18 digits");
    for (size_t i = 0; i < n; i++)
        h->length = h->length * 10 + (uint64_t)(length[i] - '0');
    return SP_OK;
}

static sp_err check_fields(sp_head *h, sp_diag *d)
{
    static const char *const once[] = {"Host",          "Content-Length", "Transfer-Encoding",
                                       "Authorization", "Content-Type",   "Content-Encoding",
                                       "Origin",        "Expect"};
    for (size_t i = 0; i < sizeof once / sizeof once[0]; i++) {
        if (count(h, once[i]) > 1) {
            h->status = 400;
            return SP_FAIL(d, SP_FORMAT, "%s comes twice", once[i]);
        }
    }
    const char *host = sp_head_field(h, "Host"), *expect = sp_head_field(h, "Expect"),
               *connection = sp_head_field(h, "Connection");
    if (!host && !h->old)
        return refuse(h, d, 400, "Host is missing");
    for (const char *p = host; p && *p; p++)
        if (!strchr("-._:[]%", *p) && !(*p >= '0' && *p <= '9') &&
            !((*p | 0x20) >= 'a' && (*p | 0x20) <= 'z'))
            return refuse(h, d, 400, "Host is not a name or address with a port");
    SP_TRY(find_length(h, d));
    h->expect = expect && !h->old;
    if (expect && strcasecmp(expect, "100-continue") != 0)
        return refuse(h, d, 417, "Expect: only 100-continue is taken");
    if (connection && has_word(connection, "close"))
        h->keep = false;
    else if (connection && h->old && has_word(connection, "keep-alive"))
        h->keep = true;
    return SP_OK;
}

sp_err sp_head_parse(sp_head *out, char *p, size_t n, sp_diag *d)
{
    *out = (sp_head){.method = "", .path = ""};
    char *line = p, *end = p + n;
    for (bool first = true; line < end; first = false) {
        char *nl = memchr(line, '\n', (size_t)(end - line));
        if (!nl || nl == line || nl[-1] != '\r')
            return refuse(out, d, 400, "a line does not end with CR LF");
        nl[-1] = 0;
        for (const char *c = line; c < nl - 1; c++)
            if (!is_text(*c))
                return refuse(out, d, 400, "a control character in the head of the request");
        if (!*line && !first) /* the empty line */
            return check_fields(out, d);
        SP_TRY(first ? parse_first(out, line, d) : parse_field(out, line, d));
        line = nl + 1;
    }
    return refuse(out, d, 400, "the head of the request is not complete");
}

const char *sp_head_field(const sp_head *h, const char *name)
{
    for (size_t i = 0; i < h->n_field; i++)
        if (strcasecmp(h->field[i].name, name) == 0)
            return h->field[i].value;
    return NULL;
}

const char *sp_head_query(const sp_head *h, const char *name)
{
    for (size_t i = 0; i < h->n_query; i++)
        if (strcmp(h->query[i].name, name) == 0)
            return h->query[i].value;
    return NULL;
}

/* --- chunks ----------------------------------------------------------------------------------- */

/* One byte of a chunk's first line: SIZE[;EXTENSION] CR LF. */
static sp_err take_size(sp_chunks *c, char b)
{
    int v = hex(b);
    if (++c->n_line > MAX_CHUNK_LINE)
        return SP_FORMAT;
    if (c->cr) {
        if (b != '\n')
            return SP_FORMAT;
        c->state = c->left ? SP_CHUNK_DATA : SP_CHUNK_TAIL;
        c->cr = c->extra = false;
        c->n_line = c->n_digit = 0;
    } else if (b == '\r') {
        c->cr = true;
        return c->n_digit ? SP_OK : SP_FORMAT;
    } else if (c->extra) {
        return is_text(b) ? SP_OK : SP_FORMAT;
    } else if (b == ';') {
        c->extra = true;
        return c->n_digit ? SP_OK : SP_FORMAT;
    } else {
        if (v < 0 || ++c->n_digit > 15)
            return SP_FORMAT;
        c->left = c->left * 16 + (uint64_t)v;
    }
    return SP_OK;
}

/* CR LF, and nothing else: after a chunk's bytes, and after the last chunk, which no trailer
 * follows. */
static sp_err take_end(sp_chunks *c, char b)
{
    if (b != (c->cr ? '\n' : '\r'))
        return SP_FORMAT;
    if (c->cr)
        c->state = c->state == SP_CHUNK_TAIL ? SP_CHUNK_DONE : SP_CHUNK_SIZE;
    c->cr = !c->cr;
    return SP_OK;
}

sp_err sp_chunks_take(sp_chunks *c, sp_buf *out, size_t cap, const char *p, size_t n, size_t *used)
{
    size_t i = 0;
    sp_err err = SP_OK;
    while (i < n && c->state != SP_CHUNK_DONE && err == SP_OK) {
        if (c->state != SP_CHUNK_DATA) {
            err = c->state == SP_CHUNK_SIZE ? take_size(c, p[i]) : take_end(c, p[i]);
            i++;
            if (err == SP_OK && c->state == SP_CHUNK_DATA &&
                (c->left > cap || out->len > cap - c->left))
                err = SP_LIMIT;
            continue;
        }
        size_t take = c->left < n - i ? (size_t)c->left : n - i;
        sp_buf_put(out, p + i, take);
        if (out->failed)
            err = SP_NOMEM;
        i += take;
        c->left -= take;
        if (c->left == 0)
            c->state = SP_CHUNK_END;
    }
    *used = i;
    return err;
}
