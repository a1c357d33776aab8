#include "api/hints.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static const double MOST_MS = 1e9;

static sp_err read_ms(double *out, const sp_http_req *req, const char *name, sp_diag *d)
{
    const char *v = sp_http_header(req, name);
    char *end = NULL;
    if (!v)
        return SP_OK;
    double ms = strtod(v, &end);
    if (end == v || *end || !(ms > 0) || ms > MOST_MS)
        return SP_FAIL(d, SP_INVAL, "%s must be a number of milliseconds above 0", name);
    *out = ms;
    return SP_OK;
}

/* Is the preference in a list as RFC 7240 has it: tokens by commas, each with parameters behind
 * semicolons? */
static bool prefers(const char *list, const char *what)
{
    size_t n = strlen(what);
    while (list && *list) {
        list += strspn(list, ", \t");
        size_t len = strcspn(list, ",; \t");
        if (len == n && strncasecmp(list, what, n) == 0)
            return true;
        list += strcspn(list, ",");
    }
    return false;
}

sp_err sp_hints_read(sp_hints *out, const sp_http_req *req, sp_diag *d)
{
    static const char flow[] = "x-llm-d-inference-fairness-id";
    const char *v = sp_http_header(req, flow);
    *out = (sp_hints){.if_available = prefers(sp_http_header(req, "prefer"), "if-available")};
    const char *keep = sp_http_header(req, "x-sparing-stream");
    if (keep && strcasecmp(keep, "keep") != 0)
        return SP_FAIL(d, SP_INVAL, "x-sparing-stream: the only word for it is keep");
    out->keep = keep != NULL;
    if (v && strlen(v) >= sizeof out->flow)
        return SP_FAIL(d, SP_INVAL, "%s has more than %zu bytes", flow, sizeof out->flow - 1);
    snprintf(out->flow, sizeof out->flow, "%s", v ? v : "");
    SP_TRY(read_ms(&out->first_ms, req, "x-llm-d-slo-ttft-ms", d));
    return read_ms(&out->tok_ms, req, "x-llm-d-slo-tpot-ms", d);
}

void sp_hints_apply(sp_ask *q, const sp_hints *h)
{
    memcpy(q->flow, h->flow, sizeof q->flow);
    q->goal_first_ms = h->first_ms;
    q->goal_tok_ms = h->tok_ms;
    q->if_available = h->if_available;
}
