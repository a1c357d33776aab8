/* What the files of feedback share. */
#ifndef SP_PIPE_FEEDBACK_INT_H
#define SP_PIPE_FEEDBACK_INT_H

#include "pipe/experiment.h"
#include "pipe/feedback_db.h"

/* Writes a JSON object: every experiment with its variants, their metrics with intervals that hold
 * at all times with chance 1 - alpha, the differences to the control, and whether the assignment is
 * as the file says. x may be NULL. */
SP_MUST sp_err sp_feedback_report(sp_db *db, const sp_experiments *x, double alpha, sp_buf *out,
                                  sp_diag *d);

#endif
