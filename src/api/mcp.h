/* POST /mcp: the Model Context Protocol over HTTP, with one tool, a search in documents.
 * Source: modelcontextprotocol.io, revision 2025-06-18 (streamable HTTP; JSON-RPC 2.0). */
#ifndef SP_API_MCP_H
#define SP_API_MCP_H

#include "api/app.h"

/* Answers one JSON-RPC message: fills reply or task. There are no sessions: each request stands
 * alone. */
void sp_api_mcp(sp_app *app, const sp_api_req *req, const char *tenant, sp_http_reply *reply,
                sp_http_task *task);

#endif
