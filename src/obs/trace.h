/* Traces as OpenTelemetry has them: the W3C traceparent of a request, and its spans as OTLP JSON.
 * Threads: pure.      Source: W3C Trace Context; OTLP/HTTP 1.x, JSON encoding; OpenTelemetry
 * semantic conventions, gen_ai. */
#ifndef SP_OBS_TRACE_H
#define SP_OBS_TRACE_H

#include "obs/receipt.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct sp_trace {
    uint8_t id[16], span[8], parent[8]; /* span: ours */
    bool has_parent, sampled;
} sp_trace;

/* header: the caller's traceparent or NULL. One that is not well-formed begins a new trace, as the
 * standard says. */
void sp_trace_start(sp_trace *out, const char *header);
/* What goes on to others: "00-…-…-01". */
void sp_trace_header(char out[56], const sp_trace *t);

/* How a request ended. Names of attributes follow OpenTelemetry's conventions for generative AI. */
typedef struct sp_trace_end {
    /* chat, text_completion, embeddings; the span is named so, then the model */
    const char *operation;
    const char *model;
    const char *id;         /* of the answer; NULL: there is none */
    /* JSON strings, joined by commas: why each answer ended; NULL: there is none */
    const char *finish;
    const char *error;      /* what went wrong; NULL: nothing did */
    const char *error_type; /* with error: one of a few words */
    const char *address;    /* of this server */
    uint16_t port;
    double begin_ns, ms;    /* since 1970; how long */
    int status;
    size_t n_prompt, n_cached; /* tokens; of them, not computed anew */
    size_t max_tok;         /* as the next two, of the request; 0: it named none */
    double temperature, top_p; /* < 0: there is none */
} sp_trace_end;

/* Appends the spans of a request, joined by commas: itself, and its stages one behind the other. r
 * NULL: nothing was computed. */
void sp_trace_write(sp_buf *out, const sp_trace *t, const sp_trace_end *e, const sp_receipt *r);

#endif
