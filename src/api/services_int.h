/* What the files of the gRPC services share: services.c (who may call what, health, work on the
 * desk), services_reflect.c, services_turn.c (calls with a prompt: services_generate.c,
 * services_reason.c), services_pages.c and services_retrieve.c. */
#ifndef SP_API_SERVICES_INT_H
#define SP_API_SERVICES_INT_H

#include "api/asset.h"
#include "api/services.h"
#include "pipe/desk.h"

#include <protobuf-c/protobuf-c.h>
#include <stdatomic.h>

enum {
    SERVICE_PROMPT = 4 << 20, /* bytes of a message with a prompt */
    SERVICE_SMALL = 64 << 10,
    SERVICE_SLOW = 16 /* calls to other servers at a time: one may wait for as long as its prompt
                         is computed there */
};

struct sp_services {
    sp_app *app;
    sp_grpc *g;
    sp_desk *desk, *slow[SERVICE_SLOW];
    _Atomic size_t n_slow[SERVICE_SLOW]; /* operations that each of them has */
    char name[128];           /* of this server, as its tickets have it */
    const char *const *peers; /* servers that pages are fetched from, as the options have them */
    sp_rpc_tls peer_tls;
    sp_metric *fetched, *states, *whole, *broken, *slower, *refused, *given_ahead, *given_after;
    struct sp_service_turn *ahead; /* prompts that are being computed and whose tickets are out;
                                      owner: the gRPC thread */
    unsigned roles;
    _Atomic size_t n_watch; /* calls that watch health, for as long as they like */
    sp_grpc_method method[12];
    size_t n_method;
    const sp_asset *files; /* the descriptors of all services, as protoc writes them */
};

/* Reads a message within a budget that its bytes bound. NULL: it is none, or too large once it is
 * read. sp_service_free. */
ProtobufCMessage *sp_service_read(const ProtobufCMessageDescriptor *of, const uint8_t *p, size_t n);
/* Sends a message. */
void sp_service_free(ProtobufCMessage *m); /* NULL is fine */
void sp_service_send(sp_grpc_call *c, const ProtobufCMessage *m);
/* Ends a call with an error of the engine's. e: whose work waits; NULL: the encoders'. */
void sp_service_fail(sp_grpc_call *c, sp_services *s, sp_engine *e, const sp_turn_error *why);
/* is a service of this name offered? */
bool sp_service_is_open(const sp_services *s, const char *name);

/* Work of a call on a desk, slow: on one of those that wait for other servers. fn(arg) runs there,
 * then the call is woken. When desk and caller have both let go of *out, release(of) is called, on
 * any thread; on failure it is not. */
SP_MUST sp_err sp_service_defer_for(sp_op **out, sp_services *s, bool slow, uint64_t call,
                                    void (*fn)(void *arg), void *arg, void (*release)(void *of),
                                    void *of, sp_diag *d);

/* services_reflect.c; app is the sp_services. */
void sp_service_reflect(void *app, sp_grpc_call *c, const uint8_t *p, size_t n);
/* services_generate.c */
void sp_service_generate(void *app, sp_grpc_call *c, const uint8_t *p, size_t n);
/* services_reason.c, services_pages.c */
void sp_service_reason(void *app, sp_grpc_call *c, const uint8_t *p, size_t n);
void sp_service_reason_ahead(void *app, sp_grpc_call *c, const uint8_t *p, size_t n);
void sp_service_fetch(void *app, sp_grpc_call *c, const uint8_t *p, size_t n);
/* services_retrieve.c */
void sp_service_retrieve(void *app, sp_grpc_call *c, const uint8_t *p, size_t n);

#endif
