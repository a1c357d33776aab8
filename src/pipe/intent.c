#include "pipe/intent.h"

#include "base/clock.h"

void sp_intent_plan(sp_plan *out, size_t max_tok, size_t n_ctx)
{
    uint64_t t = sp_clock_ns();
    *out = (sp_plan){.path = SP_PATH_FULL, .max_tok = max_tok ? max_tok : n_ctx};
    out->ms = sp_clock_ms(t);
}
