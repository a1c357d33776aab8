/* What the records of a server say went wrong, and what of them can be asked again.
 *
 * Counts come from the receipts of answers and from what people said of them. A question can be
 * asked again where its conversation is kept and something good is known to compare with: a better
 * answer that was given (demonstration), or an answer that was liked.
 *
 * Threads: one. Errors: as of base/db.h; SP_NOMEM. */
#ifndef SP_PIPE_FAILURES_H
#define SP_PIPE_FAILURES_H

#include "pipe/feedback_db.h"
#include "pipe/improve.h"

/* Counts answers from `since` (seconds since 1970) on; of very many, the newest. */
SP_MUST sp_err sp_failures_count(sp_failures *out, sp_db *feedback, int64_t since, sp_diag *d);

/* A signal that nobody gave as a rating. */
typedef struct sp_signal {
    const char *name; /* static */
    size_t n;         /* answers about which it was given */
} sp_signal;

enum { SP_SIGNALS = 6 };

/* regenerated, edited, copied, asked_again, stopped, opened */
SP_MUST sp_err sp_signals_count(sp_signal out[SP_SIGNALS], sp_db *feedback, int64_t since,
                                sp_diag *d);
/* Is a metric of this name one of them? */
bool sp_signal_is(const char *metric);

/* Told of each question, oldest first. messages [n]: up to the question; good: what the answer may
 * be compared with. All are borrowed. */
typedef sp_err (*sp_record_fn)(void *arg, int64_t at, const sp_hdb_item *messages, size_t n,
                               const char *good, sp_diag *d);

/* *left_out: ratings about answers whose conversation is not kept, or has more than texts. */
SP_MUST sp_err sp_records_walk(sp_db *feedback, sp_hdb *history, int64_t since, sp_record_fn fn,
                               void *arg, size_t *left_out, sp_diag *d);

#endif
