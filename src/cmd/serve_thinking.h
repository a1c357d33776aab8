/* What a server knows of its models' thoughts: the tokens around them, and --thinking-same, which
 * says after how many conclusions that are the same they end: a number for every model that marks
 * its thoughts, or MODEL=NUMBER for one, by commas. */
#ifndef SP_CMD_SERVE_THINKING_H
#define SP_CMD_SERVE_THINKING_H

#include "cmd/serve_models.h"

/* Behind sp_serve_models_new. SP_INVAL: the option is wrong, or names a model that is not here. */
SP_MUST sp_err sp_serve_thinking_check(const sp_serve_models *m, sp_diag *d);
/* Into env, whose name and tok are set. SP_UNSUP: the option names this model, or it is the only
 * one, and it marks no thoughts. */
SP_MUST sp_err sp_serve_thinking(sp_turn_env *env, const sp_serve_models *m, sp_diag *d);

#endif
