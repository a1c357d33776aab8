/* The retrieval stage's last act: a context, that is, the ids of the prompt.
 * Owner: the caller frees with sp_context_fini. Threads: pure. */
#ifndef SP_PIPE_PROMPT_H
#define SP_PIPE_PROMPT_H

#include "gen/stage.h"
#include "text/chat.h"

void sp_context_fini(sp_context *c);
/* Messages through the model's own template. SP_UNSUP when chat is NULL (the model has none).
 * cap_tok, here and below: the budget in tokens, 0: none. A text of more bytes than so many of the
 * longest tokens hold is not looked at, and tokenising stops at the budget; both are SP_LIMIT. */
SP_MUST sp_err sp_prompt_chat(sp_context *out, const sp_tok *t, const sp_chat *chat,
                              const sp_chat_msg *msg, size_t n_msg, size_t cap_tok, sp_diag *d);
/* The same for all that a prompt is made of. answer, unless NULL: how to read what the model
 * answers; it borrows from ask. */
SP_MUST sp_err sp_prompt_ask(sp_context *out, sp_answer_cfg *answer, const sp_tok *t,
                             const sp_chat *chat, const sp_chat_ask *ask, size_t cap_tok,
                             sp_diag *d);
/* Plain text, with begin-of-text where the model asks for it. */
SP_MUST sp_err sp_prompt_text(sp_context *out, const sp_tok *t, const char *text, size_t n,
                              size_t cap_tok, sp_diag *d);
/* A gap between two texts, as a model that fills in reads it: both behind their marks, then the
 * mark of the answer. SP_UNSUP: the vocabulary has no such marks. */
SP_MUST sp_err sp_prompt_gap(sp_context *out, const sp_tok *t, sp_str before, sp_str behind,
                             size_t cap_tok, sp_diag *d);
/* Ids as they are, checked against the vocabulary. */
SP_MUST sp_err sp_prompt_ids(sp_context *out, const sp_tok *t, const uint32_t *id, size_t n,
                             sp_diag *d);

/* The tokens of the prompt that hold the text, from token `from` on. SP_NOTFOUND: none do. */
SP_MUST sp_err sp_prompt_find(size_t *first, size_t *end, const sp_context *c, const sp_tok *t,
                              size_t from, const char *text, size_t n);

#endif
