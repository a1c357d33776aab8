/* /v1/embeddings. */
#ifndef SP_API_EMBEDDING_H
#define SP_API_EMBEDDING_H

#include "api/app.h"

/* Fills task (arg != NULL), or returns an error with *bad naming the parameter. */
SP_MUST sp_err sp_api_embedding(sp_app *app, const sp_api_req *req, sp_http_task *task, char bad[64], sp_diag *d);

#endif
