/* What grpc.c (sockets and the loop), grpc_conn.c (an HTTP/2 session and its calls) and grpc_text.c
 * (frames and fields) share. */
#ifndef SP_NET_GRPC_INT_H
#define SP_NET_GRPC_INT_H

#include "base/lock.h"
#include "net/grpc.h"
#include "net/listen.h"
#include "net/pace.h"

#include <nghttp2/nghttp2.h>
#include <pthread.h>
#include <stdatomic.h>

enum {
    GRPC_FIELDS = 16 << 10, /* bytes of a call's fields */
    GRPC_BUFFER = 64 << 10, /* of a call, waiting to be sent; beyond that its task is not asked */
    GRPC_BUCKETS = 1024,
    GRPC_WOKEN = 4096,      /* calls that wait to be pulled; beyond that all are */
    GRPC_IDLE_S = 600,
    GRPC_PATIENCE_S = 60,
    GRPC_RATE = 32 << 10 /* bytes of a message that come in a second at least */
};

typedef struct grpc_conn grpc_conn;

struct sp_grpc_call {
    grpc_conn *conn;
    sp_grpc_call *next, **at;       /* of its connection */
    sp_grpc_call *next_id, **at_id; /* of its bucket */
    uint64_t id;
    int32_t stream;
    const sp_grpc_method *method;   /* NULL: the head is not there yet */
    char who[64];
    sp_buf fields;                  /* name NUL value NUL …, in the order they came */
    char path[160];
    bool is_post, is_grpc, begun;   /* begun: the answer's head has left */
    bool ended;                     /* the client sends no more */
    size_t n_message;
    uint64_t deadline_ns;
    uint64_t due_ns;                /* its head, or its next message, must be whole then; 0: none
                                       is waited for */
    sp_buf in;
    sp_buf out;                     /* frames */
    size_t sent;
    uint64_t n_taken;               /* bytes that the connection took */
    sp_pace pace;
    bool open;                      /* it counts among those without a key */
    bool reset;                     /* it ends with RST_STREAM; its buffers are empty */
    bool full;                      /* it was told that there is no room */
    bool deferred;                  /* nghttp2 waits for more */
    bool finished;
    sp_grpc_status status;
    sp_buf message;
    unsigned retry_ms;
    sp_grpc_task task;
};

struct grpc_conn {
    sp_grpc *g;
    grpc_conn *next, **at;
    int fd;
    sp_tls_conn *tls;   /* NULL: plain */
    uint32_t events;
    nghttp2_session *session;
    sp_buf out;         /* of the session, not yet taken by the socket */
    size_t sent;
    uint64_t n_taken;   /* bytes that the socket took */
    sp_pace pace;
    sp_grpc_call *calls;
    size_t n_call;
    uint64_t end_ns;    /* closed then, unless there are calls */
    bool known, leaving; /* a call has passed the gate; GOAWAY was sent */
};

struct sp_grpc {
    sp_grpc_cfg cfg;
    sp_listen listen;
    int epoll, event;
    pthread_t thread;
    bool running;
    _Atomic bool stop, quiet;
    _Atomic size_t n_calls;
    grpc_conn *conns; /* owner: the thread, as all up to lock */
    grpc_conn *round; /* the next one whose time is looked at; NULL: all of a tick were */
    size_t n_conn, n_bytes, n_open;
    uint64_t patience_ns;
    sp_grpc_call *bucket[GRPC_BUCKETS];
    uint64_t next_id, now_ns;
    nghttp2_session_callbacks *callbacks;
    nghttp2_option *option;
    uint64_t taken[GRPC_WOKEN]; /* ids of this turn */
    sp_lock lock;               /* rank NET; guards the next three */
    uint64_t woken[GRPC_WOKEN];
    size_t n_woken;
    bool all_woken; /* more than fit */
    sp_metric *done, *failed;
    uint8_t scratch[64 * 1024];
};

/* grpc_conn.c. false: the connection is to be closed. */
SP_MUST sp_err sp_grpc_callbacks(sp_grpc *g);
bool sp_grpc_conn_open(grpc_conn *c);
bool sp_grpc_conn_read(grpc_conn *c, const uint8_t *p, size_t n);
bool sp_grpc_conn_flush(grpc_conn *c); /* what the session has to say goes into the socket */
void sp_grpc_conn_leave(grpc_conn *c); /* GOAWAY */
void sp_grpc_call_free(sp_grpc_call *c);
void sp_grpc_call_pull(sp_grpc_call *c);
void sp_grpc_call_end_task(sp_grpc_call *c); /* what is computed for it ends */
/* With each tick. false: the connection is to be closed. */
bool sp_grpc_call_keep_time(sp_grpc_call *c);
bool sp_grpc_conn_is_full(const grpc_conn *c); /* the socket takes less than there is to say */

#endif
