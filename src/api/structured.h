/* Structured prompts in requests: parts as JSON fields of `sparing`, or as tags in the last
 * message; see pipe/parts.h.
 * Threads: pure. Errors: SP_INVAL and SP_UNSUP name the field. */
#ifndef SP_API_STRUCTURED_H
#define SP_API_STRUCTURED_H

#include "base/mem.h"
#include "pipe/parts.h"

#include <jansson.h>

typedef struct sp_structured {
    sp_parts parts;
    sp_buf message;  /* what the model reads */
    sp_buf pattern;  /* what the answer may be; empty: anything */
    sp_buf loose;    /* what of its schema is not enforced, as in gen/schema.h */
    json_t *output;  /* owned, from text */
} sp_structured;

void sp_structured_fini(sp_structured *s);
/* field [SP_PARTS]: the JSON fields, NULL where one is absent. Each is a text, or {"text",
 * "budget", "life", "epsilon"}; steps may be a list of texts; output a text, or one of {"schema"},
 * {"choices"}, {"regex"} with or without a text. out: zeroed. */
SP_MUST sp_err sp_structured_json(sp_structured *out, sp_arena *a,
                                  const json_t *const field[SP_PARTS], sp_diag *d);
/* text: parts in tags; an output that begins with { is read as JSON. */
SP_MUST sp_err sp_structured_text(sp_structured *out, const char *text, size_t n, sp_diag *d);
/* Appends the pattern of one of these texts. */
SP_MUST sp_err sp_structured_choices(sp_buf *out, const json_t *list, const char *name, sp_diag *d);

#endif
