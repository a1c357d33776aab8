/* Free text to a structured prompt, by its form alone: quotes, fences, lists, and how sentences
 * begin and what they name. No model is asked; what is not understood stays, as context. Courtesies
 * go.
 * Owner: the caller frees the four buffers with sp_buf_fini. Threads: pure.
 * Errors: SP_NOTFOUND: nothing in the text asks for anything. */
#ifndef SP_PIPE_LINT_H
#define SP_PIPE_LINT_H

#include "pipe/parts.h"

/* part [SP_PARTS], zeroed: the text of each. The output is JSON when the text lists choices or asks
 * for yes or no. */
SP_MUST sp_err sp_lint(sp_buf part[SP_PARTS], const char *text, size_t n, sp_diag *d);
/* Appends them as tags. */
void sp_lint_write(sp_buf *out, const sp_buf part[SP_PARTS]);

#endif
