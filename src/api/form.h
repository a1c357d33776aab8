/* The form of an answer, for codecs that know JSON schemas and nothing else.
 * Threads: pure. Errors: of gen/schema.h and gen/grammar.h. */
#ifndef SP_API_FORM_H
#define SP_API_FORM_H

#include "api/app.h"

#include <jansson.h>

/* The answer is JSON: valid under schema, or an object where schema is NULL. Keywords that cannot
 * be enforced are refused where strict, else named in the receipt. */
SP_MUST sp_err sp_api_form(sp_ask *ask, const sp_served *on, const json_t *schema, bool strict,
                           sp_diag *d);

#endif
