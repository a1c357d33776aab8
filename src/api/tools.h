/* Function tools of OpenAI's chat completions: {"type": "function", "function": {"name",
 * "description", "parameters", "strict"}}, and which of them is to be called.
 * Threads: pure. Errors: SP_INVAL and SP_UNSUP name the tool. */
#ifndef SP_API_TOOLS_H
#define SP_API_TOOLS_H

#include "api/known.h"
#include "pipe/ask.h"

/* Makes room in ask->tool for a list of tools; NULL: of none. */
SP_MUST sp_err sp_api_tool_room(sp_ask *ask, const json_t *list, sp_diag *d);
/* Adds a tool to ask->tool, which has room for it. */
SP_MUST sp_err sp_api_tool(sp_ask *ask, const json_t *tool, const sp_lists *lists, sp_diag *d);
/* tool_choice where there are functions: none, auto, required, or {"type": "function", "function":
 * {"name"}}; NULL: auto. */
SP_MUST sp_err sp_api_tool_choice(sp_ask *ask, const json_t *choice, sp_diag *d);
/* The tool of that name is to be called, whatever the protocol. */
SP_MUST sp_err sp_api_tool_named(sp_ask *ask, const char *name, sp_diag *d);

#endif
