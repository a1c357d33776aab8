/* Feedback: what answers cost, which variants they had, and what people said of them.
 *
 * One thread owns the database (SQLite, or PostgreSQL behind a URL). Every answer of this server is
 * noted with its receipt, without a word of its text, unless its request is private. Feedback names
 * an answer or a conversation of its own tenant: a boolean or a number under the name of a metric,
 * a comment, or a better answer (demonstration).
 *
 * A note is lost when the server is killed within the moment that it waits, or when more wait than
 * the desk takes; the latter is counted. Feedback that was acknowledged is on disk.
 *
 * Threads: everything here from any thread.
 * Errors:  in the operation's diag: SP_NOTFOUND, SP_INVAL, SP_IO, SP_AGAIN (PostgreSQL is away). */
#ifndef SP_PIPE_FEEDBACK_H
#define SP_PIPE_FEEDBACK_H

#include "obs/metric.h"
#include "obs/receipt.h"
#include "pipe/desk.h"
#include "pipe/experiment.h"
#include "pipe/feedback_db.h"

typedef struct sp_feedback sp_feedback;

typedef enum sp_feedback_kind {
    SP_FEEDBACK_NOTE,   /* answer, exposure: it is there already under this id: nothing happens */
    SP_FEEDBACK_GIVE,   /* given; id out. SP_NOTFOUND: the tenant has no such answer or
                           conversation */
    SP_FEEDBACK_LIST,   /* after, cap: json out, what was given, newest last */
    SP_FEEDBACK_FORGET, /* conv: what belongs to it; "": everything of the tenant. n out: rows */
    SP_FEEDBACK_REPORT, /* alpha: json out, all experiments of the file and what is known of them */
    SP_FEEDBACK_COSTS   /* after: since when; json out: objects, joined by commas, of what answers
                           cost by tenant and class. tenant "": of all */
} sp_feedback_kind;

typedef struct sp_feedback_op {
    sp_op op;
    sp_feedback_kind kind;
    bool dry;         /* GIVE: it is checked, and not kept */
    char tenant[64];
    char conv[SP_ID_BYTES];
    sp_fdb_answer answer; /* texts in op.a */
    sp_exposure exposure[SP_EXPERIMENTS]; /* [n_exposure] */
    size_t n_exposure;
    const sp_experiment *credited; /* whose passages are in `credit`; NULL: there are none */
    sp_fdb_credit credit[SP_FDB_PASSAGES]; /* [n_credit] */
    size_t n_credit;
    sp_fdb_given given;   /* likewise */
    char id[SP_ID_BYTES];
    int64_t after;    /* seq of the last one that is known; 0: from the start */
    size_t cap, n;
    double alpha;
    sp_buf json;
} sp_feedback_op;

typedef struct sp_feedback_cfg {
    const char *path;
    sp_experiments *experiments; /* NULL: none; borrowed. It is told which are stopped */
    const char *right; /* boolean metric that says that an answer is right; NULL: none; borrowed */
    sp_metrics *metrics;
} sp_feedback_cfg;
SP_MUST sp_err sp_feedback_open(sp_feedback **out, const sp_feedback_cfg *cfg, sp_diag *d);
/* What was submitted is done first. NULL is fine. */
void sp_feedback_close(sp_feedback *f);

/* NULL: no memory. */
sp_feedback_op *sp_feedback_op_new(sp_feedback *f, sp_feedback_kind kind, const char *tenant);
/* Submits a note, and does not wait. Takes the operation; NULL is fine. */
void sp_feedback_note(sp_feedback *f, sp_feedback_op *op);
/* Removes what belongs to a conversation, and waits. f may be NULL. */
SP_MUST sp_err sp_feedback_forget(sp_feedback *f, const char *tenant, const char *conv, sp_diag *d);

#endif
