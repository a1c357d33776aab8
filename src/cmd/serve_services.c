#include "cmd/serve_services.h"

#include "base/log.h"
#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* HOST:PORT, or [ADDRESS]:PORT. */
static sp_err read_address(char *host, size_t cap, uint16_t *port, const char *at, sp_diag *d)
{
    const char *colon = strrchr(at, ':');
    char *end = NULL;
    unsigned long n = colon ? strtoul(colon + 1, &end, 10) : 0;
    if (!colon || colon == at || end == colon + 1 || *end || n > 65535 ||
        (size_t)(colon - at) >= cap)
        return SP_FAIL(d, SP_INVAL, "grpc: '%.80s' is not HOST:PORT", at);
    bool bare = at[0] == '[' && colon[-1] == ']';
    snprintf(host, cap, "%.*s", (int)(colon - at) - (bare ? 2 : 0), at + bare);
    *port = (uint16_t)n;
    return SP_OK;
}

static sp_err check_peers(const char *const *peers, sp_diag *d)
{
    static const char secure[] = "grpcs://";
    for (; *peers; peers++) {
        bool tls = strncmp(*peers, secure, sizeof secure - 1) == 0;
        const char *at = *peers + (tls ? sizeof secure - 1 : 0), *colon = strrchr(at, ':');
        char *end = NULL;
        unsigned long port = colon ? strtoul(colon + 1, &end, 10) : 0;
        if (!colon || colon == at || strchr(at, '/') || *end || port == 0 || port > 65535)
            return SP_FAIL(d, SP_INVAL, "peers: '%.80s' is neither HOST:PORT nor grpcs://HOST:PORT",
                           *peers);
    }
    return SP_OK;
}

static sp_err open_tls(sp_serve_services *s, const sp_opts *o, sp_diag *d)
{
    const sp_tls_cfg cfg = {sp_opt_str(o, "grpc-tls-cert"), sp_opt_str(o, "grpc-tls-key"),
                            sp_opt_str(o, "grpc-tls-client-ca")};
    const char *alone = !cfg.cert && cfg.key                 ? "grpc-tls-key: --grpc-tls-cert"
                        : !cfg.cert && cfg.client_ca         ? "grpc-tls-client-ca: --grpc-tls-cert"
                        : cfg.cert && !cfg.key               ? "grpc-tls-cert: --grpc-tls-key"
                        : cfg.cert && !sp_opt_str(o, "grpc") ? "grpc-tls-cert: --grpc"
                                                             : NULL;
    if (alone)
        return SP_FAIL(d, SP_INVAL, "%s is needed too", alone);
    return cfg.cert ? sp_tls_new(&s->tls, &cfg, d) : SP_OK;
}

sp_err sp_serve_services_start(sp_serve_services *s, sp_app *app, const sp_opts *o,
                               const char *machine, sp_diag *d)
{
    const char *at = sp_opt_str(o, "grpc");
    const char *role = sp_opt_str(o, "role") ? sp_opt_str(o, "role") : "all";
    char host[128];
    sp_services_cfg cfg = {.host = host,
                           .max_conn = (size_t)sp_opt_int(o, "max-conn"),
                           .max_bytes = sp_opt_bytes(o, "max-bodies"),
                           .peers = s->peers,
                           .peer_tls = {sp_opt_str(o, "peer-ca"), sp_opt_str(o, "grpc-tls-cert"),
                                        sp_opt_str(o, "grpc-tls-key")}};
    SP_TRY(sp_role_read(&cfg.roles, role, d));
    SP_TRY(open_tls(s, o, d));
    if (!at)
        return SP_OK;
    SP_TRY(read_address(host, sizeof host, &cfg.port, at, d));
    SP_TRY(sp_serve_split(&s->peers_text, s->peers, sp_opt_str(o, "peers"), d));
    SP_TRY(check_peers(s->peers, d));
    bool closed = sp_opt_str(o, "keys") || sp_opt_str(o, "grpc-tls-client-ca");
    if (!closed && !sp_serve_is_loopback(host))
        return SP_FAIL(d, SP_INVAL,
                       "grpc: without --keys or --grpc-tls-client-ca this server listens on "
                       "loopback only, not on %.80s",
                       host);
    cfg.name = strcmp(host, "0.0.0.0") == 0 || strcmp(host, "::") == 0 ? machine : NULL;
    cfg.tls = s->tls;
    SP_TRY(sp_services_start(&s->services, app, &cfg, d));
    sp_log(SP_LOG_INFO, "gRPC services (%s%s) on %s:%u", role,
           !s->tls                               ? ""
           : sp_opt_str(o, "grpc-tls-client-ca") ? ", TLS for clients with a certificate"
                                                 : ", TLS",
           host, sp_services_port(s->services));
    return SP_OK;
}

void sp_serve_services_look(sp_serve_services *s, bool all)
{
    sp_diag d = {0};
    bool done = false;
    if (!s->tls)
        return;
    if (sp_tls_reload(&done, s->tls, all, &d) != SP_OK)
        sp_log(SP_LOG_ERROR, "certificates read again, the old ones are in force: %s", d.msg);
    else if (done)
        sp_log(SP_LOG_INFO, "certificates read again");
}

void sp_serve_services_stop(sp_serve_services *s)
{
    sp_services_stop(s->services);
    sp_tls_free(s->tls);
    sp_mem_free(s->peers_text);
}
