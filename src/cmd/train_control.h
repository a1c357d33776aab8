/* What a policy is trained in: an engine that answers many prompts together. */
#ifndef SP_CMD_TRAIN_CONTROL_H
#define SP_CMD_TRAIN_CONTROL_H

#include "cmd/cmd.h"

#include "pipe/turn.h"

/* Fills env with an engine of its own over l, and with the tokens that the model marks its thoughts
 * with. env->engine is the caller's to free; m must outlive it. */
SP_MUST sp_err sp_cmd_train_env(sp_turn_env *env, const sp_loaded *l, sp_metrics *m, sp_diag *d);

#endif
