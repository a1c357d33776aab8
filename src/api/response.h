/* Responses that are kept: /v1/responses/{id}. Making one is sp_codec_response's (codec.h). */
#ifndef SP_API_RESPONSE_H
#define SP_API_RESPONSE_H

#include "api/app.h"

/* Fills task, or returns an error with bad naming the parameter. SP_NOTFOUND for a path or method
 * there is not, and on a server that keeps no conversations. */
SP_MUST sp_err sp_api_response(sp_app *app, const sp_api_req *req, const char *tenant,
                               sp_http_task *task, char bad[64], sp_diag *d);

/* A kept message as the items that it was, joined by commas. id: of its answer, or its own. */
void sp_response_put_kept(sp_buf *out, const char *id, const sp_chat_msg *m);

#endif
