/* A gRPC call to another server, over libcurl's HTTP/2, without TLS (h2c) or with it. One call at a
 * time a thread; it blocks.
 * Limits:  connecting 2 s; less than 4 KiB/s for slow_s; a message: cap bytes.
 * Errors:  SP_NET: it cannot be reached or broke off; SP_LIMIT: RESOURCE_EXHAUSTED, or a message
 * that is too large; SP_NOTFOUND, SP_UNSUP;
 *          SP_CANCEL: on_message said so. d has the server's own words. */
#ifndef SP_NET_RPC_H
#define SP_NET_RPC_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Paths of PEM files; NULL: the system's CAs; no certificate of our own. */
typedef struct sp_rpc_tls {
    const char *ca, *cert, *key;
} sp_rpc_tls;

typedef struct sp_rpc_cfg {
    const char *target;        /* HOST:PORT */
    const sp_rpc_tls *tls;     /* NULL: plain. The files are read with each call. */
    const char *method;        /* "/sparing.v1.Pages/Fetch" */
    const char *authorization; /* metadata; NULL: none */
    const void *request;       /* [n_request] packed */
    size_t n_request, cap;
    unsigned slow_s;           /* 0: 10 */
    bool (*on_message)(void *arg, const uint8_t *p, size_t n); /* false: no more */
    bool (*is_wanted)(void *arg); /* asked about once a second; false: no more. NULL: it is */
    void *arg;
} sp_rpc_cfg;

SP_MUST sp_err sp_rpc_call(const sp_rpc_cfg *cfg, sp_diag *d);

#endif
