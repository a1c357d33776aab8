/* The requests that are being answered, by id, so that another request can speak of them.
 * Owner: owns its entries; a turn is borrowed from sp_running_add to sp_running_remove.
 * Threads: any. */
#ifndef SP_API_RUNNING_H
#define SP_API_RUNNING_H

#include "api/app.h"

typedef struct sp_running sp_running;

SP_MUST sp_err sp_running_new(sp_running **out);
void sp_running_free(sp_running *r);
/* Errors: SP_NOMEM. */
SP_MUST sp_err sp_running_add(sp_running *r, sp_turn *t);
/* Nobody speaks of the turn any more when this returns. One that was never added is fine. */
void sp_running_remove(sp_running *r, const sp_turn *t);

/* POST /v1/chat/completions/control: {"id": of an answer of the tenant's that is being written,
 * "action": "reasoning_end"}: the model stops thinking and answers.
 * Source: the path and the action are llama.cpp's server's. Errors: SP_INVAL, SP_NOTFOUND,
 * SP_UNSUP; bad names the parameter. */
SP_MUST sp_err sp_api_control(sp_app *app, const sp_api_req *req, const char *tenant, sp_buf *out,
                              char bad[64], sp_diag *d);

#endif
