/* The head of an HTTP/1.1 request, and bodies in chunks: one strict reading (RFC 9112).
 *
 * A head that a proxy in front could read in another way is refused, not repaired. That covers two
 * lengths, a length beside chunks, spaces around a field's name, folded lines, bare CR or LF, NUL
 * anywhere, two Hosts, and paths with `..` or an encoded slash.
 *
 * Limits:  SP_HEAD_BYTES of head, SP_HEAD_FIELDS fields, SP_HEAD_QUERY query parameters, 128 bytes
 *          of a chunk's first line.
 * Threads: pure. */
#ifndef SP_NET_HTTP_HEAD_H
#define SP_NET_HTTP_HEAD_H

#include "base/buf.h"

#include <stdint.h>

enum { SP_HEAD_BYTES = 32 * 1024, SP_HEAD_FIELDS = 64, SP_HEAD_QUERY = 16 };

typedef struct sp_head_pair {
    const char *name, *value;
} sp_head_pair;

typedef struct sp_head {
    /* path: percent-decoded, without the query and without one slash at its end */
    const char *method, *path;
    /* queries: percent-decoded, '+' a space */
    sp_head_pair field[SP_HEAD_FIELDS], query[SP_HEAD_QUERY];
    size_t n_field, n_query;
    uint64_t length; /* bytes of the body; 0 when there is none, or chunked */
    bool chunked, keep, expect; /* keep: another request may follow; expect: 100-continue */
    bool old;                   /* HTTP/1.0 */
    int status;                 /* of a refusal: 400, 405, 417, 431, 501 or 505 */
} sp_head;

/* Bytes of the head in p[n] with its empty line; 0: it is not complete. A line that ends in a bare
 * LF counts as an end too, so that sp_head_parse can refuse it. */
size_t sp_head_end(const char *p, size_t n);
/* Parses p[n], which sp_head_end measured, in place: out points into p. SP_FORMAT: refused with
 * out->status, and d says why. */
SP_MUST sp_err sp_head_parse(sp_head *out, char *p, size_t n, sp_diag *d);
/* The value of a field, by name without case; NULL when absent. */
const char *sp_head_field(const sp_head *h, const char *name);
const char *sp_head_query(const sp_head *h, const char *name);

typedef struct sp_chunks {
    enum { SP_CHUNK_SIZE, SP_CHUNK_DATA, SP_CHUNK_END, SP_CHUNK_TAIL, SP_CHUNK_DONE } state;
    uint64_t left;    /* bytes of the chunk still to come */
    size_t n_line;    /* of its first line, so far */
    size_t n_digit;
    bool extra, cr;   /* inside a chunk extension; a CR was read */
} sp_chunks;

/* Takes bytes of p[n], at most until out holds cap bytes; *used of them were taken. c starts as
 * zeros and ends in SP_CHUNK_DONE.
 * Errors: SP_FORMAT for bytes that are no chunks; SP_LIMIT when the next chunk would pass cap;
 * SP_NOMEM. */
SP_MUST sp_err sp_chunks_take(sp_chunks *c, sp_buf *out, size_t cap, const char *p, size_t n,
                              size_t *used);

#endif
