/* Ollama's protocol, beside its codecs (codec.h).
 * Threads: as the handlers of route.c: on a worker for POST, else on the HTTP thread. */
#ifndef SP_API_OLLAMA_H
#define SP_API_OLLAMA_H

#include "api/codec.h"

/* {"error": "..."} */
void sp_ollama_error(sp_buf *out, int status, const char *message);

/* A body of /api/chat or /api/generate without a question and with keep_alive 0: the model leaves
 * when nobody uses it any more. Then reply says so, and the answer is true. */
bool sp_ollama_leaves(const sp_app *app, const sp_api_req *req, sp_http_reply *reply);
/* Obeys keep_alive. true: reply is filled, because the body asks for nothing but that the model is
 * there, or because keep_alive is wrong. */
bool sp_ollama_is_load(const sp_api_place *at, const sp_api_req *req, sp_http_reply *reply);

/* /api/embed, and /api/embeddings with one text. Fills task, or returns an error with *bad naming
 * the parameter. */
SP_MUST sp_err sp_ollama_embed(const sp_api_place *at, const sp_api_req *req, sp_http_task *task,
                               char bad[64], sp_diag *d);

/* GET /api/tags, /api/ps and /api/version; POST /api/show; other paths below /api/
 * change models, which this server does not: 501. */
void sp_ollama_about(const sp_app *app, const sp_api_req *req, sp_http_reply *reply);

#endif
