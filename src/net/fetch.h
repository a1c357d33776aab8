/* A file from an HTTP server onto the disk, whole or not at all.
 *
 * 1. Bytes go to PATH.part, which becomes PATH by a rename when length and digest are right. A
 * reader never sees half a file.
 * 2. A part that lies there is gone on with: the server is asked for the rest under If-Range with
 * the strong ETag that was noted
 *    beside it (PATH.part.etag). A server that has another file now, or does not say, is read from
 *    the beginning.
 * 3. The addresses a name resolves to are judged when the socket is made, after every redirect too:
 * those of this machine, of private
 *    networks and of links are refused unless allowed. A proxy of the environment is spoken to
 *    wherever it lies.
 * 4. A token goes to the host of the URL only.
 *
 * Budgets: redirects (5), silence, attempts that brought no byte (5), attempts in all (100), bytes
 * (the length that was promised).
 * Threads: any; two fetches of one path exclude each other by a lock on the part.
 * Errors:  SP_INVAL: no http or https URL; SP_NOTFOUND: 404, 410; SP_NET: refused, private, or
 *          broken off for good; SP_TIMEOUT: silence;
 *          SP_LIMIT: too large, no space, or another fetch is at it; SP_CORRUPT: another length or
 *          digest than promised, and the part is
 *          removed; SP_CANCEL: progress said stop, and the part stays; SP_IO.
 * Source:  RFC 9110 sections 13.1.5 (If-Range), 14.4 (Content-Range); RFC 6890 (addresses). */
#ifndef SP_NET_FETCH_H
#define SP_NET_FETCH_H

#include "base/buf.h"

#include <stdint.h>

typedef struct sp_fetch_cfg {
    const char *url;
    const char *token;     /* bearer token, or NULL; never shown */
    const char *sha256;    /* hex, or NULL: any */
    uint64_t n_bytes;      /* 0: as many as the server says */
    const char *accept;    /* media types for the header of this name, or NULL */
    bool allow_private;
    long silence_s;        /* without a byte */
    /* total 0: not known. false: stop. About once a second, and at the end. Or NULL */
    bool (*progress)(void *arg, uint64_t done, uint64_t total);
    void *arg;
} sp_fetch_cfg;

/* hex [65]: the digest of what was fetched. */
SP_MUST sp_err sp_fetch_file(char *hex, const char *path, const sp_fetch_cfg *cfg, sp_diag *d);
/* A small answer into memory. */
SP_MUST sp_err sp_fetch_text(sp_buf *out, size_t cap_bytes, const sp_fetch_cfg *cfg, sp_diag *d);
/* hex [65]: the SHA-256 of a file. Errors: of opening it, SP_NOMEM. */
SP_MUST sp_err sp_fetch_digest(char *hex, const char *path, sp_diag *d);
/* Is it an address of this machine, a private network, a link, or of no host? addr: struct
 * sockaddr. */
bool sp_fetch_is_private(const void *addr);

#endif
