/* What gateways and clients say of a request in header fields, beside its body. The names are those
 * of llm-d's router (pkg/common/routing, pkg/epp/metadata) and of RFC 7240:
 *
 *   x-llm-d-inference-fairness-id   who of the key's tenant asks: its requests take turns by it
 *   (sched/fair.h)
 *   x-llm-d-slo-ttft-ms             the first text should come within so many milliseconds
 *   x-llm-d-slo-tpot-ms             each further token within so many
 *   x-sparing-stream: keep          the answer goes on when the connection is lost (api/stream.h)
 *   prefer: if-available            answer only if the cache knows a beginning of the prompt; else
 *   412
 *
 * Errors:  SP_INVAL names the field.
 * Threads: the HTTP thread. */
#ifndef SP_API_HINTS_H
#define SP_API_HINTS_H

#include "net/http.h"
#include "pipe/ask.h"

typedef struct sp_hints {
    char flow[SP_ASK_FLOW]; /* "": nobody is told apart */
    double first_ms, tok_ms; /* 0: nothing is said */
    bool if_available, keep;
} sp_hints;

SP_MUST sp_err sp_hints_read(sp_hints *out, const sp_http_req *req, sp_diag *d);
/* Into an ask. */
void sp_hints_apply(sp_ask *q, const sp_hints *h);

#endif
