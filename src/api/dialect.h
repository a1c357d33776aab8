/* Errors in the shape of the protocol that a path belongs to: OpenAI's, unless it is another's.
 * Threads: pure. */
#ifndef SP_API_DIALECT_H
#define SP_API_DIALECT_H

#include "base/buf.h"

/* Writes the body of an error. param and code may be NULL, and are OpenAI's alone. */
void sp_api_error_at(const char *path, sp_buf *out, int status, const char *message,
                     const char *param, const char *code);

#endif
