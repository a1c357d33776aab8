/* multipart/form-data (RFC 7578) in memory: the parts of a body, without copying them.
 * Threads: pure. Errors: SP_INVAL says what is wrong. */
#ifndef SP_API_MULTIPART_H
#define SP_API_MULTIPART_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>

enum { SP_FORM_PARTS = 16, SP_FORM_NAME = 256 };

typedef struct sp_form_part {
    char name[SP_FORM_NAME], filename[SP_FORM_NAME]; /* filename "": none was given */
    const char *p;                                   /* [n], in the body */
    size_t n;
} sp_form_part;

/* type: the request's Content-Type, which names the boundary. */
SP_MUST sp_err sp_form_parse(sp_form_part part[SP_FORM_PARTS], size_t *n_part, const char *type,
                             const char *body, size_t n, sp_diag *d);
/* The part of this name, or NULL. */
const sp_form_part *sp_form_find(const sp_form_part *part, size_t n, const char *name);

#endif
