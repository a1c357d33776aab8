/* gRPC server: HTTP/2 by nghttp2, and the framing of messages on top of it. One thread over epoll,
 * as http.h.
 *
 * A call passes the application's gate when its header fields are there. Each whole message of the
 * client's is handed to the method; the first one may begin a task, which is asked to pull when it
 * is woken and there is room to send. The call ends with sp_grpc_finish: a status, a text and, of
 * RESOURCE_EXHAUSTED, a delay (grpc-retry-pushback-ms).
 *
 * Limits:  a message: its method's cap, 60 s and 1 s for each 32 KiB of the cap; compressed ones
 *          are refused. Fields: 16 KiB, 20 s. cfg.max_conn connections, cfg.max_calls calls at a
 *          time, half of which may be of methods that need no key, cfg.max_bytes of messages that
 *          are being received. An idle connection is closed after 10 min, one without a call after
 *          20 s. grpc-timeout is kept here: DEADLINE_EXCEEDED. What waits to be sent of a call is
 *          bounded by BUFFER, of a connection by OUT_MOST: then it is not read either. A call whose
 *          client does not take what it is sent (pace.h, 60 s) ends with RST_STREAM; a connection
 *          whose socket does not is closed.
 * Threads: gate, methods and tasks run on the server's thread, and so do send and finish;
 * sp_grpc_wake from any.
 * Source:  PROTOCOL-HTTP2.md and compression.md of gRPC; RFC 9113. */
#ifndef SP_NET_GRPC_H
#define SP_NET_GRPC_H

#include "base/buf.h"
#include "base/err.h"
#include "net/tls.h"
#include "obs/metric.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct sp_grpc sp_grpc;
typedef struct sp_grpc_call sp_grpc_call;

/* As gRPC numbers them. */
typedef enum sp_grpc_status {
    SP_GRPC_OK = 0,
    SP_GRPC_CANCELLED = 1,
    SP_GRPC_UNKNOWN = 2,
    SP_GRPC_INVALID_ARGUMENT = 3,
    SP_GRPC_DEADLINE_EXCEEDED = 4,
    SP_GRPC_NOT_FOUND = 5,
    SP_GRPC_PERMISSION_DENIED = 7,
    SP_GRPC_RESOURCE_EXHAUSTED = 8,
    SP_GRPC_FAILED_PRECONDITION = 9,
    SP_GRPC_UNIMPLEMENTED = 12,
    SP_GRPC_INTERNAL = 13,
    SP_GRPC_UNAVAILABLE = 14,
    SP_GRPC_DATA_LOSS = 15,
    SP_GRPC_UNAUTHENTICATED = 16
} sp_grpc_status;

typedef struct sp_grpc_task {
    void *arg;
    void (*pull)(void *arg);  /* sends what is ready, while sp_grpc_room says so, or finishes */
    void (*close)(void *arg); /* exactly once, also when the client left; frees arg */
} sp_grpc_task;

typedef struct sp_grpc_method {
    const char *path;   /* "/sparing.v1.Generation/Generate" */
    size_t max_message; /* bytes of one of the client's; 0: cfg.max_message */
    bool many;          /* the client may send more than one message */
    bool open;          /* no key is asked for */
    void (*message)(void *app, sp_grpc_call *c, const uint8_t *p, size_t n);
} sp_grpc_method;

typedef struct sp_grpc_cfg {
    const char *host;
    uint16_t port;                /* 0: any free one */
    const sp_grpc_method *method; /* [n_method]; borrowed, as app */
    size_t n_method;
    size_t max_message, max_bytes, max_conn, max_calls;
    unsigned patience_ms;         /* with who does not send or take; 0: 60 s; head: a third */
    /* May this call come in? false: it has finished it. who: the tenant's name, to be written. */
    bool (*gate)(void *app, sp_grpc_call *c, const sp_grpc_method *m, char who[64]);
    void *app;
    sp_metrics *metrics;          /* NULL: nothing is counted */
    sp_tls *tls;                  /* borrowed; NULL: plain */
} sp_grpc_cfg;

SP_MUST sp_err sp_grpc_new(sp_grpc **out, const sp_grpc_cfg *cfg, sp_diag *d);
uint16_t sp_grpc_port(const sp_grpc *g);
/* No new connections; those that are there are told to go elsewhere (GOAWAY). Calls go on. */
void sp_grpc_quiesce(sp_grpc *g);
size_t sp_grpc_open_count(const sp_grpc *g); /* calls */
/* Ends all calls and the thread; wakes do nothing any more. */
void sp_grpc_stop(sp_grpc *g);
/* Stops it. Nobody wakes calls any more. NULL is fine. */
void sp_grpc_free(sp_grpc *g);

uint64_t sp_grpc_id(const sp_grpc_call *c);
/* The call's task is asked to pull soon, if the call is still there. */
void sp_grpc_wake(sp_grpc *g, uint64_t id);

const char *sp_grpc_who(const sp_grpc_call *c);
/* A field of the client's, by its name in lower case; NULL: absent. */
const char *sp_grpc_field(const sp_grpc_call *c, const char *name);
uint64_t sp_grpc_deadline_ns(const sp_grpc_call *c); /* monotonic; 0: none */
sp_grpc *sp_grpc_of(const sp_grpc_call *c);
bool sp_grpc_ended(const sp_grpc_call *c); /* the client sends no more messages */
void sp_grpc_set_task(sp_grpc_call *c, const sp_grpc_task *t);
void *sp_grpc_task_arg(const sp_grpc_call *c); /* NULL: it has none */
/* Is there room for another message? Else pull comes again when there is. */
bool sp_grpc_room(const sp_grpc_call *c);
void sp_grpc_send(sp_grpc_call *c, const void *p, size_t n);
/* Where a message of n bytes is to be written before anything else is asked of the call. NULL: it
 * is finished, perhaps just now for want of memory. */
uint8_t *sp_grpc_add(sp_grpc_call *c, size_t n);
/* Behind everything that was sent. retry_ms: when the client may try again; 0: nothing is said.
 * Only the first one counts. */
void sp_grpc_finish(sp_grpc_call *c, sp_grpc_status status, const char *message, unsigned retry_ms);

/* A value of grpc-timeout ("250m") in nanoseconds; 0: it is none. */
uint64_t sp_grpc_timeout(const char *v);
/* A status message as a field: other than printable ASCII and '%' percent-encoded. */
void sp_grpc_encode(sp_buf *out, const char *message);
/* Takes what is one frame (flag, length, message) off the front of p [n]. SP_OK: *msg, *n_msg and
 * the *used bytes; SP_AGAIN: it is not whole; SP_LIMIT: it is longer than cap; SP_UNSUP: it is
 * compressed. */
SP_MUST sp_err sp_grpc_frame(const uint8_t **msg, size_t *n_msg, size_t *used, const uint8_t *p,
                             size_t n, size_t cap);

#endif
