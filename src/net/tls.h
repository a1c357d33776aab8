/* TLS of a server's connections, over OpenSSL: 1.2 and newer, HTTP/2 by ALPN, and a client's
 * certificate where a CA for clients is named.
 *
 * Certificate, key and CA are read from files, and again when they have changed. New ones are in
 * force for new connections; those that are there keep what they have. Files that cannot be used
 * change nothing.
 *
 * Threads: new, reload and free from one; accept from another; a connection belongs to one. */
#ifndef SP_NET_TLS_H
#define SP_NET_TLS_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

typedef struct sp_tls sp_tls;
typedef struct sp_tls_conn sp_tls_conn;

/* Paths of PEM files; borrowed. */
typedef struct sp_tls_cfg {
    const char *cert, *key; /* a chain, the server's own first */
    const char *client_ca;  /* who signs for clients; NULL: none is asked for a certificate */
} sp_tls_cfg;

/* Errors: SP_INVAL with the file, and why it cannot be used. */
SP_MUST sp_err sp_tls_new(sp_tls **out, const sp_tls_cfg *cfg, sp_diag *d);
void sp_tls_free(sp_tls *t); /* NULL is fine. Connections may outlive it. */
/* Reads the files again if they are others than those last read, or in any case. *done: they were
 * read. Errors as of new; what was in force stays so. */
SP_MUST sp_err sp_tls_reload(bool *done, sp_tls *t, bool always, sp_diag *d);

/* A connection on a socket that does not block; the caller closes fd later. NULL: no memory. */
sp_tls_conn *sp_tls_accept(sp_tls *t, int fd);
void sp_tls_close(sp_tls_conn *c); /* NULL is fine */
/* As recv and send: bytes, recv 0 at the end, or -1 and errno, EAGAIN when the socket is waited
 * for. */
ssize_t sp_tls_recv(sp_tls_conn *c, void *p, size_t n);
ssize_t sp_tls_send(sp_tls_conn *c, const void *p, size_t n);
/* What the operation that came last waits for. */
bool sp_tls_wants_recv(const sp_tls_conn *c);
bool sp_tls_wants_send(const sp_tls_conn *c);

#endif
