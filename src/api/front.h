/* This server in front of an existing one (--shadow-of): its answers are given unchanged, ours are
 * computed afterwards at the lowest priority, compared and counted by the class of work, so that a
 * team sees what it may move over (docs/MIGRATING.md).
 *
 *   passed on   POST /v1/chat/completions, /v1/completions and /v1/embeddings, GET /v1/models
 *   compared    whole chats whose answer is text; one at a time, at most a few waiting; more are
 *               not taken
 *
 * Nothing of a comparison is kept but sums, and the names of what this server refuses. Its requests
 * are private: they go nowhere, are noted nowhere and belong to no conversation.
 *
 * Threads: passing on the HTTP thread and the relay's; comparing on the desk's; the report from
 *          any. */
#ifndef SP_API_FRONT_H
#define SP_API_FRONT_H

#include "api/app.h"
#include "net/relay.h"

typedef struct sp_front sp_front;

typedef struct sp_front_cfg {
    sp_relay_cfg relay; /* url up to /v1 */
    double share;       /* of whole chats, that are compared */
    sp_app *app;        /* complete before the first request */
    sp_metrics *metrics;
} sp_front_cfg;

SP_MUST sp_err sp_front_new(sp_front **out, const sp_front_cfg *cfg, sp_diag *d);
/* Finishes the comparison that runs. After every connection is closed. NULL is fine. */
void sp_front_free(sp_front *f);

/* Is this a request of the existing server's? */
bool sp_front_takes(const sp_front *f, const sp_http_req *req);
/* Passes it on: fills task, or reply with an error. */
void sp_front_pass(sp_front *f, const sp_http_req *req, sp_http_reply *reply, sp_http_task *task);
/* The report, as JSON. */
void sp_front_report(sp_front *f, sp_buf *out);

#endif
