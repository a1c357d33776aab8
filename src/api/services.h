/* The gRPC services (proto/sparing/v1/sparing.proto): retrieval, reasoning, generation and pages,
 * with gRPC's health checks and reflection beside them. Each is a surface of what HTTP has: keys,
 * tenants, caps, plans, the one way of a request (pipe/turn.h).
 *
 * Threads: the methods run on the gRPC server's thread; what reads a message and grows with it on a
 * desk's. */
#ifndef SP_API_SERVICES_H
#define SP_API_SERVICES_H

#include "api/app.h"
#include "net/grpc.h"
#include "net/rpc.h"

typedef struct sp_services sp_services;

/* What a server does for others. */
typedef enum sp_role {
    SP_ROLE_RETRIEVAL = 1,
    SP_ROLE_REASONING = 2,
    SP_ROLE_GENERATION = 4,
    SP_ROLE_ALL = 7
} sp_role;

/* Roles by their names, joined by commas: all, retrieval, reasoning, generation. SP_INVAL names
 * what is none. */
SP_MUST sp_err sp_role_read(unsigned *out, const char *list, sp_diag *d);

typedef struct sp_services_cfg {
    const char *host;
    uint16_t port;       /* 0: any free one */
    unsigned roles;      /* bits of sp_role */
    size_t max_conn, max_bytes;
    const char *name;    /* of this host, as other servers reach it; NULL: host */
    const char *const *peers; /* servers whose pages are taken, HOST:PORT or grpcs://HOST:PORT,
                                 NULL-terminated; borrowed */
    sp_tls *tls;              /* borrowed; NULL: plain */
    sp_rpc_tls peer_tls;      /* of calls to peers with grpcs:// */
} sp_services_cfg;

/* app is borrowed. Errors: SP_NET: the address; SP_NOMEM. */
SP_MUST sp_err sp_services_start(sp_services **out, sp_app *app, const sp_services_cfg *cfg,
                                 sp_diag *d);
uint16_t sp_services_port(const sp_services *s);
/* Health says NOT_SERVING; no new connections. Calls go on. */
void sp_services_quiesce(sp_services *s);
size_t sp_services_busy_count(const sp_services *s); /* calls for which something is computed: not
                                                        those that watch health */
/* Ends all calls. NULL is fine. */
void sp_services_stop(sp_services *s);

#endif
