/* HTTP/1.1 server over libmicrohttpd: one epoll thread, connections suspended while their answer is
 * being computed. A handler answers at once or returns a task that is asked again when woken.
 *
 * A suspended connection notices neither that its client left nor the time: a second thread watches
 * for hang-ups and wakes streams each second so that they can ping.
 *
 * Limits:  head 32 KiB, body cfg.max_body, idle timeout 60 s before a request is complete.
 * Threads: the handler and task calls run on the HTTP thread; sp_http_wake from any thread. */
#ifndef SP_NET_HTTP_H
#define SP_NET_HTTP_H

#include "base/buf.h"

#include <stdint.h>

typedef struct sp_http sp_http;
typedef struct sp_http_conn sp_http_conn;

typedef struct sp_http_req {
    const char *method, *path; /* path is percent-decoded, without the query */
    const char *body;          /* complete; not NUL-terminated */
    size_t n_body;
    bool too_large;            /* the body passed max_body and was dropped */
    sp_http_conn *conn;
} sp_http_req;

/* NULL when absent; valid during the handler. */
const char *sp_http_header(const sp_http_req *r, const char *name);
/* A value of the query string, percent-decoded; NULL when absent. */
const char *sp_http_query(const sp_http_req *r, const char *name);

enum { SP_HTTP_HEADERS = 8 };

typedef struct sp_http_reply {
    int status;
    const char *type;                    /* Content-Type; static */
    struct { const char *name; char value[256]; } header[SP_HTTP_HEADERS];
    size_t n_header;
    sp_buf body;                         /* whole body, unless stream */
    bool stream;                         /* the body comes from task.pull */
} sp_http_reply;

void sp_http_reply_header(sp_http_reply *r, const char *name, const char *value);

typedef struct sp_http_task {
    void *arg;
    /* Fills the reply once it is known; SP_AGAIN: wait for a wake. Never another error. */
    sp_err (*start)(void *arg, sp_http_reply *reply);
    /* Streams: appends what is ready; *done after the last byte. ping: a second passed in silence. */
    void (*pull)(void *arg, sp_buf *out, bool ping, bool *done);
    /* Exactly once, also when the client left; frees arg. */
    void (*close)(void *arg);
} sp_http_task;

/* Answers by filling reply (status != 0) or task (arg != NULL). */
typedef void sp_http_handler(void *app, const sp_http_req *req, sp_http_reply *reply, sp_http_task *task);

typedef struct sp_http_cfg {
    const char *host; /* numeric address or "localhost" */
    uint16_t port;    /* 0: any free one */
    size_t max_body;
    size_t max_conn;
    sp_http_handler *handler;
    void *app;
} sp_http_cfg;

/* Errors: SP_NET with the address. */
SP_MUST sp_err sp_http_new(sp_http **out, const sp_http_cfg *cfg, sp_diag *d);
/* Stops listening; open connections go on. */
void sp_http_quiesce(sp_http *h);
size_t sp_http_open_count(sp_http *h); /* connections with a request in work */
void sp_http_free(sp_http *h);
uint16_t sp_http_port(const sp_http *h);

/* Asks the connection's task again soon. Any thread; harmless after the connection has closed as
 * long as the caller got conn from a task that is not closed, and on NULL. */
void sp_http_wake(sp_http_conn *c);

#endif
