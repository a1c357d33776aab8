/* The chat template of a model: compiled once from the GGUF, run for each request over its messages.
 * No template from a request is ever run.
 * Owner: sp_chat owns its program. Threads: immutable after open; render is independent. */
#ifndef SP_TEXT_CHAT_H
#define SP_TEXT_CHAT_H

#include "text/tokenizer.h"

typedef struct sp_chat sp_chat;

typedef struct sp_chat_msg {
    sp_str role, content; /* UTF-8, borrowed */
} sp_chat_msg;

/* SP_NOTFOUND when the model has no template. One that cannot be used opens all the same, with a warning in the log:
 * every render then says why it cannot (SP_UNSUP). */
SP_MUST sp_err sp_chat_open(sp_chat **out, const sp_gguf *g, sp_diag *d);
void sp_chat_close(sp_chat *c);
/* Why the template cannot be used; NULL where it can. Lives as long as c. */
const char *sp_chat_why(const sp_chat *c);
/* Appends the prompt's ids; add_answer: end with the start of an assistant turn. The template sees
 * the messages unaltered; only its own bytes become control tokens, whatever it does with theirs. Errors: SP_INVAL names a budget that the
 * template spends on these messages; SP_LIMIT: out->most ids are not enough. */
SP_MUST sp_err sp_chat_render(const sp_chat *c, const sp_tok *t, sp_ids *out, const sp_chat_msg *msg,
                              size_t n_msg, bool add_answer, sp_diag *d);

#endif
