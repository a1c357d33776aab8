/* What this server says of itself and its models: /v1/models, /version, /props, /slots; and names
 * of models as clients write them.
 * Threads: pure, but for the engine's counts. */
#ifndef SP_API_ABOUT_H
#define SP_API_ABOUT_H

#include "api/app.h"


/* /v1/models and /v1/models/NAME, with OpenAI's fields and Anthropic's; of several models also
 * whether each is in memory. */
void sp_about_models(const sp_app *app, const sp_api_req *req, sp_http_reply *reply);
void sp_about_version(const sp_app *app, sp_http_reply *reply);
/* Of ?model=NAME, or of the default; 503 while it is not in memory. */
void sp_about_props(const sp_app *app, const sp_api_req *req, sp_http_reply *reply);
/* The same; one entry for each sequence that can run at once. */
void sp_about_slots(const sp_app *app, const sp_api_req *req, sp_http_reply *reply);
/* A path of OpenAI's API whose work this server cannot do: 400 with what is missing. */
void sp_about_lacking(const sp_api_req *req, sp_http_reply *reply);

/* Seconds since 1970 as a JSON string, 2026-11-30T09:00:00Z. */
void sp_about_time(sp_buf *out, int64_t seconds);

#endif
