/* What the files of Ollama's protocol share: ollama_read.c (parameters and messages), ollama.c
 * (answers, the codecs) and ollama_about.c (what the server says of its models). */
#ifndef SP_API_OLLAMA_INT_H
#define SP_API_OLLAMA_INT_H

#include "api/codec.h"
#include "api/known.h"

/* The codecs' state. */
typedef struct request {
    const sp_app *app;
    const sp_served *on; /* the model that answers */
    sp_ask *ask;
    bool chat;      /* /api/chat, else /api/generate */
    bool logprobs;
    sp_buf ignored; /* parameters that were accepted and had no effect; see known.h */
} request;

/* ollama_read.c: a body into the ask; as sp_codec.read. */
SP_MUST sp_err sp_ollama_read(request *r, const json_t *body, const char **bad, sp_diag *d);
/* Now, as a JSON string. */
void sp_ollama_time(sp_buf *out);

#endif
