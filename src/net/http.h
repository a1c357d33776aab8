/* HTTP/1.1 server: one thread over epoll. A request passes the application's gate when its head is
 * there, before a byte of its body is kept. A handler then answers at once or returns a task that
 * is asked again when woken.
 *
 * While a task works, its connection is watched: a client that leaves ends the task at once, and a
 * stream pings each second.
 *
 * Limits:  head: see http_head.h, 20 s. Body: what the gate allows, cfg.max_bodies over all
 *          requests, 60 s and 1 s for each 32 KiB. Idle between requests: 60 s. A client that does
 *          not take its answer (pace.h, 60 s) is closed. Connections: cfg.max_conn, of which those
 *          that no gate has let through may be cfg.max_unknown; beyond that the oldest of them is
 *          closed.
 * Threads: gate, handler and task calls run on the HTTP thread; sp_http_wake from any thread. */
#ifndef SP_NET_HTTP_H
#define SP_NET_HTTP_H

#include "net/http_head.h"

#include <stdint.h>

typedef struct sp_http sp_http;
typedef struct sp_http_conn sp_http_conn;

/* What the gate found out about a request; the handler gets it again. */
typedef struct sp_http_pass {
    size_t max_body;   /* in: cfg.max_body; out: what this request may have */
    bool known;        /* the client has shown that it may ask here */
    const void *route; /* the application's own, as are the next two */
    char who[64];
    bool all;
} sp_http_pass;

typedef struct sp_http_req {
    const char *method, *path; /* path: see sp_head */
    /* complete, until the reply is known; not NUL-terminated; NULL at the gate */
    const char *body;
    size_t n_body;             /* at the gate: as announced, SIZE_MAX for chunks */
    const sp_head *head;
    const sp_http_pass *pass;  /* NULL at the gate */
    sp_http_conn *conn;
} sp_http_req;

/* NULL when absent; valid during the handler. */
const char *sp_http_header(const sp_http_req *r, const char *name);
/* A value of the query string, percent-decoded; NULL when absent. */
const char *sp_http_query(const sp_http_req *r, const char *name);

enum { SP_HTTP_ADDRESS = 64 };
/* Numeric addresses of the two ends, without port; "" when unknown. local: IPv6 in brackets, as it
 * stands in a Host. */
void sp_http_peer(const sp_http_conn *c, char out[SP_HTTP_ADDRESS]);
void sp_http_local(const sp_http_conn *c, char out[SP_HTTP_ADDRESS]);

enum { SP_HTTP_HEADERS = 12 };

typedef struct sp_http_reply {
    int status;
    const char *type;                    /* Content-Type; static */
    struct { const char *name; char value[512]; } header[SP_HTTP_HEADERS];
    size_t n_header;
    sp_buf body;                         /* whole body, unless stream */
    bool stream;                         /* the body comes from task.pull */
} sp_http_reply;

void sp_http_reply_header(sp_http_reply *r, const char *name, const char *value);

/* Has the gate let the request through? Then the fields it gave go into the answer. */
bool sp_http_is_past_gate(const sp_http_conn *c);
/* The path of the request, as far as its head was read; "" before that. Lives as long as the
 * request. */
const char *sp_http_path(const sp_http_conn *c);

typedef struct sp_http_task {
    void *arg;
    /* Fills the reply once it is known; SP_AGAIN: wait for a wake. Never another error. */
    sp_err (*start)(void *arg, sp_http_reply *reply);
    /* Streams: appends what is ready; *done after the last byte. ping: a second passed in
     * silence. */
    void (*pull)(void *arg, sp_buf *out, bool ping, bool *done);
    /* Exactly once, also when the client left; frees arg. */
    void (*close)(void *arg);
} sp_http_task;

/* Judges a head: fills reply (status != 0) to refuse it, or pass. Header fields of a reply without
 * status go into the answer, whoever makes it. */
typedef void sp_http_gate(void *app, const sp_http_req *req, sp_http_reply *reply,
                          sp_http_pass *pass);
/* Answers by filling reply (status != 0) or task (arg != NULL). */
typedef void sp_http_handler(void *app, const sp_http_req *req, sp_http_reply *reply,
                             sp_http_task *task);
/* Words the refusals of this file: bad heads and chunks, bodies that are too large. conn: who
 * asked. */
typedef void sp_http_refuser(void *app, const sp_http_conn *conn, int status, const char *why,
                             sp_http_reply *reply);

typedef struct sp_http_cfg {
    const char *host; /* numeric address or "localhost" */
    uint16_t port;    /* 0: any free one */
    size_t max_body, max_bodies;
    size_t max_conn, max_unknown; /* max_unknown 0: a quarter of max_conn, but at least 16 */
    sp_http_gate *gate;
    sp_http_handler *handler;
    sp_http_refuser *refuse;
    void *app;
} sp_http_cfg;

/* Raises the limit of open files to what max_conn needs, or lowers max_conn with a warning. Errors:
 * SP_NET with the address. */
SP_MUST sp_err sp_http_new(sp_http **out, const sp_http_cfg *cfg, sp_diag *d);
/* Stops listening and closes idle connections; requests in work go on. */
void sp_http_quiesce(sp_http *h);
size_t sp_http_open_count(sp_http *h); /* requests in work, whose answers have not all left */
void sp_http_free(sp_http *h);
uint16_t sp_http_port(const sp_http *h);

/* Asks the connection's task again soon. Any thread; harmless after the connection has closed as
 * long as the caller got conn from a task that is not closed, and on NULL. */
void sp_http_wake(sp_http_conn *c);

#endif
