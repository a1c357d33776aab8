/* What the files of feedback share. */
#ifndef SP_PIPE_FEEDBACK_INT_H
#define SP_PIPE_FEEDBACK_INT_H

#include "pipe/experiment.h"
#include "pipe/feedback_db.h"

/* The chance that an experiment that adapts names a variant that is not the best. */
#define SP_ADAPT_ALPHA 0.05

/* Writes a JSON object: every experiment with its variants, their metrics with intervals that hold
 * at all times with chance 1 - alpha, the differences to the control, and whether the assignment is
 * as the file says. x may be NULL. */
SP_MUST sp_err sp_feedback_report(sp_db *db, const sp_experiments *x, double alpha, sp_buf *out,
                                  sp_diag *d);

/* Experiments that adapt (stat/track.h). A draw is kept once for each conversation, with its
 * share. */
SP_MUST sp_err sp_adapt_draw(sp_db *db, const sp_exposure *x, const char *unit, sp_diag *d);
/* Reads what all servers drew and which epoch is now, and ends the epoch if it is over. seen: what
 * was read before, zeroed at first. SP_FORMAT: the records are of other variants. */
SP_MUST sp_err sp_adapt_look(sp_db *db, const sp_experiments *x, int64_t seen[SP_EXPERIMENTS],
                             sp_diag *d);
/* Writes ,"adapt":{…}: its epochs with shares, estimates and evidence. *mismatch: the logarithm of
 * the evidence that conversations were not drawn by these shares. */
SP_MUST sp_err sp_adapt_report(sp_buf *out, double *mismatch, sp_db *db, const sp_experiment *e,
                               sp_diag *d);

#endif
