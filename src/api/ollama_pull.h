/* POST /api/pull: a model is fetched, and known from then on. For operators' keys, where the server
 * has a models folder.
 * Threads: on a worker. */
#ifndef SP_API_OLLAMA_PULL_H
#define SP_API_OLLAMA_PULL_H

#include "api/codec.h"

/* Fills reply, or task with one that streams lines of progress. may: the key is an operator's. */
void sp_ollama_pull(sp_app *app, const sp_api_req *req, bool may, sp_http_reply *reply,
                    sp_http_task *task);

#endif
