/* Any bytes as a structured prompt, and as free text that becomes one: what lint writes can be read. */
#include "fuzz.h"

#include "api/structured.h"
#include "pipe/lint.h"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    sp_structured s = {0};
    sp_diag d = {0};
    sp_err err = sp_structured_text(&s, (const char *)p, n, &d);
    SP_ASSERT(err == SP_OK || d.msg[0]);
    sp_structured_fini(&s);
    sp_buf part[SP_PARTS] = {{0}}, out = {0};
    if (sp_lint(part, (const char *)p, n, NULL) == SP_OK) {
        sp_lint_write(&out, part);
        SP_ASSERT(out.len > 0);
    }
    for (size_t i = 0; i < SP_PARTS; i++)
        sp_buf_fini(&part[i]);
    sp_buf_fini(&out);
    return 0;
}
