/* The intent stage: from what was asked to a plan. This build has one path, full and dense; the
 * plan is where more will be decided. Pure. */
#ifndef SP_PIPE_INTENT_H
#define SP_PIPE_INTENT_H

#include "gen/stage.h"

/* max_tok 0: as many as the context leaves. */
void sp_intent_plan(sp_plan *out, size_t max_tok, size_t n_ctx);

#endif
