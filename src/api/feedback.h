/* Feedback over HTTP, and what is known of experiments.
 *
 *   POST /feedback, /v1/feedback   TensorZero's body: metric_name, value, inference_id or
 *   episode_id
 *                                  (an answer's id here, or a conversation's), tags, dryrun
 *   POST /api/public/scores        Langfuse's: name, value, traceId or sessionId, dataType, comment
 *   POST /api/v1/feedback          LangSmith's: run_id, key, score or value, comment
 *   GET  /v1/feedback              what the tenant gave, oldest first: after, limit
 *   GET  /v1/experiments           an operator's: variants, metrics, intervals
 *   GET  /v1/costs                 by tenant and class, and of budgets: since; tenant "": of all
 *
 * Source: the names are those of the three projects' interfaces as of November 2026. */
#ifndef SP_API_FEEDBACK_H
#define SP_API_FEEDBACK_H

#include "api/app.h"

/* Errors: SP_UNSUP (the server keeps none), SP_INVAL, SP_NOTFOUND; bad names the parameter. */
SP_MUST sp_err sp_api_feedback(sp_app *app, const sp_api_req *req, const char *tenant,
                               sp_http_task *task, char bad[64], sp_diag *d);

#endif
