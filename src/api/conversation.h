/* /v1/conversations. */
#ifndef SP_API_CONVERSATION_H
#define SP_API_CONVERSATION_H

#include "api/app.h"

#include <jansson.h>

/* Fills task, or returns an error with *bad naming the parameter. SP_NOTFOUND for a path or method
 * there is not. */
SP_MUST sp_err sp_api_conversation(sp_app *app, const sp_api_req *req, const char *tenant,
                                   sp_http_task *task, char bad[64], sp_diag *d);

/* Messages of a request (a JSON list) as borrowed from a: roles system, developer, user, assistant;
 * content as text or parts of text. ignored: see known.h; NULL: nobody is told. name: of the list,
 * for errors. */
SP_MUST sp_err sp_api_messages(sp_chat_msg **out, size_t *n, sp_arena *a, const json_t *list,
                               const sp_app *app, sp_buf *ignored, const char *name, sp_diag *d);
/* Why a part of a message cannot be read: what this server would need for parts of this type (NULL:
 * it has none). Static. */
const char *sp_api_lacks(const char *type);

#endif
