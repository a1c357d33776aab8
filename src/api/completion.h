/* /v1/chat/completions and /v1/completions: a body to a running task. */
#ifndef SP_API_COMPLETION_H
#define SP_API_COMPLETION_H

#include "api/app.h"

/* Fills task (arg != NULL), or returns an error with *bad naming the parameter (static or inside
 * the body's JSON copy in bad_buf). */
SP_MUST sp_err sp_api_completion(sp_app *app, bool chat, const sp_api_req *req, const char *tenant,
                                 sp_http_task *task, char bad[64], sp_diag *d);
/* /v1/embeddings, the same way. */
SP_MUST sp_err sp_api_embedding(sp_app *app, const sp_api_req *req, sp_http_task *task, char bad[64], sp_diag *d);

/* POST /v1/plan: the plan of a chat body, without running it. */
SP_MUST sp_err sp_api_plan(sp_app *app, const sp_api_req *req, const char *tenant, sp_buf *out, char bad[64], sp_diag *d);

#endif
