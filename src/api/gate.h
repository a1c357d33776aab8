/* Who may ask what: judged by the head of a request, before a byte of its body is kept.
 * Order: route, Host, Origin, key, role, method, coding and type of the body, its length.
 *
 * Every refusal is counted (sparing_refused_total); refused keys are logged with the address they
 * came from, at most once a second, and never with the key.
 * Threads: the HTTP thread. */
#ifndef SP_API_GATE_H
#define SP_API_GATE_H

#include "api/app.h"

/* PROBE: no key, and any Host: a load balancer asks by address. PAGE: no key. */
typedef enum sp_access { SP_TENANTS, SP_PROBE, SP_PAGE, SP_OPERATOR } sp_access;
/* ANY: of whatever type, for it is not read. */
typedef enum sp_body_kind { SP_BODY_JSON, SP_BODY_FORM, SP_BODY_ANY } sp_body_kind;

typedef struct sp_rule {
    const char *path;
    bool prefix;
    const char *methods; /* joined by ", ", as in an Allow header; GET takes HEAD too */
    sp_access access;
    sp_body_kind body;   /* of POST and PATCH; other methods take none */
    size_t max_body;     /* 0: the server's --max-body */
} sp_rule;

struct sp_gate;
typedef struct sp_gate sp_gate;

SP_MUST sp_err sp_gate_new(sp_gate **out, sp_metrics *m);
void sp_gate_free(sp_gate *g);
/* rule NULL: there is nothing at this path. Fills reply (status != 0) or pass: who, all (an
 * operator), known, max_body, route: the rule; reply then has the fields that tell which other
 * origin may read the answer. */
void sp_gate_judge(const sp_app *app, const sp_rule *rule, const sp_http_req *req,
                   sp_http_reply *reply, sp_http_pass *pass);
/* Puts the name of the request into the reply, as X-Request-Id: the client's own, if it is one that
 * can be written into a log, else a new one. */
void sp_gate_name(const char *own, const char *path, sp_http_reply *reply);
bool sp_gate_takes_body(const char *method);
/* Counts a refusal of the HTTP layer. */
void sp_gate_count_head(sp_gate *g);
/* Counts a refused key of another surface. */
void sp_gate_count_key(sp_gate *g);

#endif
