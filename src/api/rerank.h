/* /v1/rerank, /v2/rerank and /rerank, as Jina and Cohere have them: documents by how well they
 * answer a query. A reranker scores each pair; where none is loaded, the cosine of an encoder's
 * vectors stands for it, and the answer says so.
 * Budgets: documents and bytes of a document and a query; one job in the engine. */
#ifndef SP_API_RERANK_H
#define SP_API_RERANK_H

#include "api/codec.h"

/* at->on: the reranker or encoder, see api/seek.h. Fills task (arg != NULL), or returns an error
 * with *bad naming the parameter. */
SP_MUST sp_err sp_api_rerank(const sp_api_place *at, const sp_api_req *req, sp_http_task *task,
                             char bad[64], sp_diag *d);

#endif
