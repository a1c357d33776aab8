/* Function tools of OpenAI's chat completions: {"type": "function", "function": {"name", "description", "parameters", "strict"}}, and which
 * of them is to be called.
 * Threads: pure. Errors: SP_INVAL and SP_UNSUP name the tool. */
#ifndef SP_API_TOOLS_H
#define SP_API_TOOLS_H

#include "api/known.h"
#include "pipe/ask.h"

/* Adds a tool to ask->tool, which has room for it. */
SP_MUST sp_err sp_api_tool(sp_ask *ask, const json_t *tool, const sp_lists *lists, sp_diag *d);
/* tool_choice where there are functions: none, auto, required, or {"type": "function", "function": {"name"}}; NULL: auto. */
SP_MUST sp_err sp_api_tool_choice(sp_ask *ask, const json_t *choice, sp_diag *d);

#endif
