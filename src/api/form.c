#include "api/form.h"

#include "api/codec.h"
#include "gen/schema.h"

sp_err sp_api_form(sp_ask *q, const sp_served *on, const json_t *schema, bool strict, sp_diag *d)
{
    sp_buf pattern = {0}, loose = {0};
    sp_err err = schema ? sp_grammar_schema(&pattern, strict ? NULL : &loose, schema, d)
                        : sp_grammar_object(&pattern, d);
    if (err == SP_OK && pattern.failed)
        err = SP_FAIL(d, SP_NOMEM, "request");
    if (err == SP_OK)
        err = sp_api_keep(&q->not_enforced, q, &loose, d);
    if (err == SP_OK)
        err = sp_grammar_get(&q->grammar, on->env.grammars, sp_buf_str(&pattern), d);
    sp_buf_fini(&pattern);
    sp_buf_fini(&loose);
    return err;
}
