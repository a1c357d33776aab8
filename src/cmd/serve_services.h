/* The gRPC services of a server: what the options say of their address, roles, peers and TLS.
 *
 * Owner:   sp_serve_services until sp_serve_services_stop. Threads: the main one. */
#ifndef SP_CMD_SERVE_SERVICES_H
#define SP_CMD_SERVE_SERVICES_H

#include "api/services.h"
#include "base/opt.h"

enum { SP_SERVE_LIST = 32 /* names in an option that is a list */ };

typedef struct sp_serve_services {
    sp_services *services; /* NULL: none */
    sp_tls *tls;           /* NULL: plain */
    char *peers_text;
    const char *peers[SP_SERVE_LIST + 1];
} sp_serve_services;

/* machine: this host's name. Errors: SP_INVAL with the option, SP_NET with the address. */
SP_MUST sp_err sp_serve_services_start(sp_serve_services *s, sp_app *app, const sp_opts *o,
                                       const char *machine, sp_diag *d);
/* Reads certificates again: those that have changed, or all. It is logged. */
void sp_serve_services_look(sp_serve_services *s, bool all);
void sp_serve_services_stop(sp_serve_services *s);

/* serve.c: splits a list at commas into out [SP_SERVE_LIST + 1], which points into *text. */
SP_MUST sp_err sp_serve_split(char **text, const char **out, const char *list, sp_diag *d);
bool sp_serve_is_loopback(const char *host);

#endif
