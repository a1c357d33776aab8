/* /v1/files and /v1/vector_stores as OpenAI's clients drive them, and DELETE /v1/tenant.
 * Errors: those of the store and of bad parameters; *bad names the parameter, or is empty. */
#ifndef SP_API_KNOWLEDGE_H
#define SP_API_KNOWLEDGE_H

#include "api/app.h"

#include <jansson.h>

SP_MUST sp_err sp_api_knowledge(sp_app *app, const sp_api_req *req, const char *tenant,
                                sp_http_task *task, char bad[64], sp_diag *d);
/* Everything of the tenant: conversations, files, collections and pages. */
SP_MUST sp_err sp_api_tenant(sp_app *app, const sp_api_req *req, const char *tenant,
                             sp_http_task *task, sp_diag *d);

/* Filters, checked, as text in the operation. v NULL: none. */
SP_MUST sp_err sp_api_filter(sp_know_op *op, const json_t *v, sp_diag *d);
/* The last part of a document's path. */
const char *sp_api_filename(const char *path);

#endif
