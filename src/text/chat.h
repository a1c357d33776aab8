/* The chat template of a model: compiled once from the GGUF, run for each request over its
 * messages. No template from a request is ever run.
 *
 * A model may bring a second template for conversations with tools
 * (tokenizer.chat_template.tool_use); it is used for those. What a template can take is found out
 * when it is opened (chat_probe.c), and messages are given to it in that form: arguments of calls
 * as an object or as text, a system message on its own or before the user's text, tools as text
 * where it has none.
 *
 * Owner:   sp_chat owns its programs; the GGUF may be closed.
 * Threads: immutable after open; render is independent. */
#ifndef SP_TEXT_CHAT_H
#define SP_TEXT_CHAT_H

#include "text/calls.h"
#include "text/message.h"
#include "text/tokenizer.h"

typedef struct sp_chat sp_chat;

/* SP_NOTFOUND when the model has no template. One that cannot be used opens all the same, with a
 * warning in the log: every render then says why it cannot (SP_UNSUP). */
SP_MUST sp_err sp_chat_open(sp_chat **out, const sp_gguf *g, sp_diag *d);
/* The same for a template's text. */
SP_MUST sp_err sp_chat_open_text(sp_chat **out, const char *source, size_t n, sp_diag *d);
void sp_chat_close(sp_chat *c);
/* Why the template cannot be used; NULL where it can. Lives as long as c. */
const char *sp_chat_why(const sp_chat *c);
/* Appends the prompt's ids. The template sees the messages' texts unaltered; only its own bytes
 * become control tokens, whatever it does with theirs. answer, unless NULL, gets how to read what
 * the model answers, but for whom it is told (on, arg); its tools are ask's. Errors: SP_INVAL names
 * a budget that the template spends on these messages, or what of the request is no JSON; SP_LIMIT:
 * out->most ids are not enough. */
SP_MUST sp_err sp_chat_render(const sp_chat *c, const sp_tok *t, sp_ids *out, sp_answer_cfg *answer,
                              const sp_chat_ask *ask, sp_diag *d);
/* Appends the prompt as text. t may be NULL: the template then sees empty texts for the begin and
 * end tokens. Otherwise as sp_chat_render. */
SP_MUST sp_err sp_chat_text(const sp_chat *c, const sp_tok *t, sp_buf *out, sp_answer_cfg *answer,
                            const sp_chat_ask *ask, sp_diag *d);
/* The text of a template by its name, such as chatml; NULL: none is called so. */
const char *sp_chat_named(const char *name);
/* Appends the names, with commas. */
void sp_chat_names(sp_buf *out);
/* The format of calls in conversations with tools; NULL: the template cannot be used. */
const sp_call_format *sp_chat_format(const sp_chat *c);

#endif
