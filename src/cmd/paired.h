/* Variants side by side: the same prompts answered by the control and by each other variant. */
#ifndef SP_CMD_PAIRED_H
#define SP_CMD_PAIRED_H

#include "cmd/cmd.h"
#include "pipe/experiment.h"

/* path: lines of {"messages": […]} or {"prompt": "…"}, each with what a right answer has; without
 * it where the experiment has a judge (cmd/judge.h):
 *   {"check": {"contains": ["…"]}}  all of these texts, in any case of letters
 *   {"check": {"any": ["…"]}}       one of them
 *   {"check": {"equals": "…"}}      this text, without spaces around it
 *   {"check": {"number": 12.5}}     this is its last number
 * Prints wins, losses and evidence that may be looked at after every prompt; returns an exit
 * code. */
int sp_cmd_paired(const sp_opts *o, const sp_experiment *e, const char *path);

#endif
