/* What http.c (the loop, connections as sockets) and http_conn.c (a request from head to answer)
 * share. */
#ifndef SP_NET_HTTP_INT_H
#define SP_NET_HTTP_INT_H

#include "base/lock.h"
#include "net/http.h"
#include "net/listen.h"
#include "net/pace.h"

#include <stdatomic.h>
#include <sys/socket.h>

enum {
    HEAD_S = 20,
    IDLE_S = 60,
    STALL_S = 60,
    BODY_S = 60,
    BODY_RATE = 32 * 1024,
    LINGER_S = 2,
    LINGER_BYTES = 8 << 20
};

/* READ_HEAD -> READ_BODY -> WORK (a task) -> STREAM or SEND -> READ_HEAD, or LINGER: all is sent,
 * and what still comes is dropped so that the answer is not lost with a reset. */
typedef enum sp_http_state { READ_HEAD, READ_BODY, WORK, STREAM, SEND, LINGER } sp_http_state;

struct sp_http_conn {
    sp_http *http;
    sp_http_conn *next, **at; /* of all connections */
    int fd;
    uint32_t events;          /* that epoll watches */
    struct sockaddr_storage peer;
    sp_http_state state;
    /* accepted; when it is closed unless it goes on (UINT64_MAX: never) */
    uint64_t begin_ns, end_ns;
    uint64_t last_ns;          /* WORK, STREAM: last sign of life */
    bool known, closing, ended, ping;
    sp_buf in;                 /* read and not yet used */
    size_t n_dropped;          /* while lingering */
    /* the request */
    char *text;                /* of its head; head points into it */
    sp_head *head;
    sp_http_pass pass;
    sp_chunks chunks;
    sp_buf body;
    size_t charged;            /* bytes of http.n_body that are its own */
    sp_http_task task;
    /* the answer */
    sp_buf fields;             /* header lines that the gate gave it */
    sp_buf out, payload;
    size_t sent;               /* of both */
    uint64_t n_taken;          /* bytes that the socket took, of all answers */
    sp_pace pace;
    /* guard: http.lock */
    sp_http_conn *next_woken;
    bool woken;
};

struct sp_http {
    sp_http_cfg cfg;
    sp_listen listen;
    int epoll, event;
    pthread_t thread;
    bool running;
    _Atomic bool stop, quiet;
    _Atomic size_t n_work;
    sp_http_conn *conns;      /* owner: the HTTP thread, as of the next three */
    size_t n_conn, n_unknown, n_body;
    uint64_t now_ns;          /* of this turn of the loop */
    char date[40];
    sp_lock lock;             /* rank NET; guards woken */
    sp_http_conn *woken;
    char scratch[64 * 1024];  /* one read */
};

typedef enum sp_http_next { GO_ON, WAIT, GONE } sp_http_next;

/* One step of a connection's way; GO_ON: another follows at once. GONE: the caller closes it. */
sp_http_next sp_http_conn_step(sp_http_conn *c);
/* Ends the request: its task is closed, its memory freed. */
void sp_http_conn_reset(sp_http_conn *c);
void sp_http_conn_know(sp_http_conn *c); /* from now on it counts among those that may ask */
bool sp_http_conn_is_idle(const sp_http_conn *c);

#endif
