/* Anthropic's protocol, beside its codec (codec.h): the shape of its errors. */
#ifndef SP_API_ANTHROPIC_H
#define SP_API_ANTHROPIC_H

#include "base/buf.h"

/* {"type": "error", "error": {"type": ..., "message": ...}}; the type follows from the status. */
void sp_anthropic_error(sp_buf *out, int status, const char *message);

#endif
