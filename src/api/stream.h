/* Answers that go on without their client: a request with the header X-Sparing-Stream: keep gets an
 * id, and its events are kept.
 *
 *   GET    /v1/streams       the tenant's, live ones and those that ended less than ten minutes ago
 *   GET    /v1/streams/ID    the events behind Last-Event-ID, and those that come; 410: they are no
 *          longer kept
 *   DELETE /v1/streams/ID    the answer stops where it is; harmless when it is over
 *
 * Each event has a line `id: N`, from 1. Beside them go `event: sparing.progress` (at most four a
 * second, not kept) and a comment each five seconds of silence.
 *
 * Limits:  1 MiB of events a stream (the oldest go), 64 live streams a tenant, 1024 and 128 MiB in
 *          all; what is over goes first.
 * Owner:   a stream owns its source until that is over. Threads: one of its own runs all sources
 *          and what they defer has another; sp_stream_open, go and attach from any, the rest on the
 *          HTTP thread. */
#ifndef SP_API_STREAM_H
#define SP_API_STREAM_H

#include "api/app.h"
#include "pipe/turn.h"

typedef struct sp_streams sp_streams;
typedef struct sp_stream sp_stream;

/* Where events come from. Calls come one at a time, from the thread of streams. */
typedef struct sp_stream_source {
    void *arg;
    sp_turn *turn; /* that arg runs */
    void (*pull)(void *arg, sp_buf *out, bool ping, bool *done);
    void (*close)(void *arg); /* once */
} sp_stream_source;

SP_MUST sp_err sp_streams_start(sp_streams **out, sp_diag *d);
/* Ends what runs. NULL is fine. */
void sp_streams_stop(sp_streams *s);

size_t sp_streams_live(sp_streams *s);

enum { SP_STREAM_ID = 40 };
void sp_stream_name(char out[SP_STREAM_ID]);

/* A stream of this name, which is still; run is for its turn. Errors: SP_LIMIT, SP_NOMEM. */
SP_MUST sp_err sp_stream_open(sp_stream **out, sp_streams *all, const char *id, const sp_ask *q,
                              sp_turn_run *run, sp_diag *d);
/* The turn has started: the stream runs, and owns the source. */
void sp_stream_go(sp_stream *s, const sp_stream_source *source);
/* Instead of sp_stream_go: it never was. */
void sp_stream_drop(sp_stream *s);
/* The live stream that answers this message; NULL: there is none. One that was found is held until
 * sp_stream_put. */
sp_stream *sp_stream_find(sp_streams *all, const sp_ask *q);
void sp_stream_put(sp_stream *s);
const char *sp_stream_id(const sp_stream *s);
/* A task that tells the events from the first on. SP_NOMEM, SP_LIMIT. */
SP_MUST sp_err sp_stream_attach(sp_http_task *task, sp_stream *s, const char *name, sp_work *work,
                                sp_diag *d);

/* The routes above: fills reply or task. */
void sp_api_streams(sp_app *app, const sp_api_req *req, const char *tenant, sp_http_reply *reply,
                    sp_http_task *task);

#endif
