/* What the files of Anthropic's Messages share: anthropic_read.c (parameters), anthropic_message.c
 * (messages and their blocks) and anthropic.c (answers, errors, the codec). */
#ifndef SP_API_ANTHROPIC_INT_H
#define SP_API_ANTHROPIC_INT_H

#include "api/codec.h"
#include "api/known.h"

/* The block of a stream that is open. */
typedef enum block_kind { BLOCK_NONE, BLOCK_TEXT, BLOCK_THINKING, BLOCK_CALL } block_kind;

/* The codec's state. */
typedef struct request {
    const sp_app *app;
    const sp_served *on; /* the model that answers */
    sp_ask *ask;
    sp_buf ignored; /* parameters that were accepted and had no effect; see known.h */
    block_kind open;
    size_t n_block; /* blocks of the stream that were begun */
} request;

/* anthropic_read.c; as sp_codec.read. */
SP_MUST sp_err sp_anthropic_read(void *state, sp_ask *ask, const sp_app *app, const sp_served *on,
                                 const json_t *body, const char **bad, sp_diag *d);

/* anthropic_message.c: system (may be NULL) and messages into the ask; *bad names what is wrong. */
SP_MUST sp_err sp_anthropic_messages(request *r, const json_t *system, const json_t *messages,
                                     const char **bad, sp_diag *d);
/* anthropic_tools.c: tools and tool_choice (either may be NULL) into the ask. */
SP_MUST sp_err sp_anthropic_tools(request *r, const json_t *tools, const json_t *choice,
                                  const char **bad, sp_diag *d);

#endif
