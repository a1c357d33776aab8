/* The tables of feedback: answers with their receipts, the variants they had, and what was said.
 * Threads: one. Errors: SP_NOTFOUND; SP_IO and SP_AGAIN as of base/db.h. */
#ifndef SP_PIPE_FEEDBACK_DB_H
#define SP_PIPE_FEEDBACK_DB_H

#include "base/buf.h"
#include "base/db.h"
#include "pipe/history_db.h"

typedef struct sp_fdb_answer {
    const char *id, *model, *path, *receipt; /* receipt: JSON object */
    const char *unit;    /* 64 hex digits: what was assigned, a hash of it; "": nothing was */
    bool failed;
    double ms, ms_first, cost;
    size_t n_prompt, n_out;
} sp_fdb_answer;

typedef struct sp_fdb_given {
    const char *metric;      /* comment and demonstration are texts; others numbers */
    const char *answer, *conv; /* one of them; the other is NULL */
    const char *text;        /* NULL: it is a number */
    double value;
    bool is_boolean;
    const char *tags;        /* JSON object */
} sp_fdb_given;

enum { SP_FDB_PASSAGES = 32 };

/* A passage of an answer whose search had two ranks. */
typedef struct sp_fdb_credit {
    size_t passage; /* from 1, as clients know it */
    unsigned team;  /* whose it is: 1, 2 */
    bool cited;
} sp_fdb_credit;

SP_MUST sp_err sp_fdb_open(sp_db **out, const char *path, sp_diag *d);
SP_MUST sp_err sp_fdb_note(sp_db *db, const char *tenant, const char *conv, const sp_fdb_answer *a,
                           sp_diag *d);
SP_MUST sp_err sp_fdb_expose(sp_db *db, const char *answer, const char *experiment,
                             const char *variant, sp_diag *d);
/* id: of the feedback. */
SP_MUST sp_err sp_fdb_give(sp_db *db, const char *tenant, const char *id, const sp_fdb_given *g,
                           sp_diag *d);
/* Is there such an answer, or conversation, of the tenant? SP_NOTFOUND. */
SP_MUST sp_err sp_fdb_knows(sp_db *db, const char *tenant, const sp_fdb_given *g, sp_diag *d);
/* Writes objects, joined by commas, of what was given after `after`: at most cap. *last: seq of the
 * last one; *more: there are others. */
SP_MUST sp_err sp_fdb_list(sp_db *db, const char *tenant, int64_t after, size_t cap, sp_buf *out,
                           int64_t *last, bool *more, sp_diag *d);
/* Columns of a row of feedback, and such a row as a JSON object. tenant NULL: it is not said. text
 * false: without what people wrote, which are texts and tags. */
#define SP_FDB_ROW "seq, id, answer, metric, kind, value, tags, conv, created"
void sp_fdb_put_row(sp_buf *out, sp_rows *r, const char *tenant, bool text);
/* conv "": everything of the tenant. *n: answers and feedback removed. */
SP_MUST sp_err sp_fdb_forget(sp_db *db, const char *tenant, const char *conv, size_t *n,
                             sp_diag *d);

/* Writes objects, joined by commas, of what answers since a time have cost by tenant and class, and
 * of those that were rated by the metric `right`, which may be NULL. tenant "": of all. */
SP_MUST sp_err sp_fdb_costs(sp_db *db, const char *tenant, const char *right, int64_t since,
                            sp_buf *out, sp_diag *d);
/* What an answer cost. SP_NOTFOUND: it is not there, or was rated by the metric before. */
SP_MUST sp_err sp_fdb_unrated(sp_db *db, const char *tenant, const char *answer,
                              const char *metric, double *cost, sp_diag *d);

/* An experiment is stopped, or goes on. */
SP_MUST sp_err sp_fdb_stop(sp_db *db, const char *experiment, bool stop, sp_diag *d);
/* Names of those that are stopped, in a. */
SP_MUST sp_err sp_fdb_stopped(sp_db *db, sp_arena *a, const char *const **name, size_t *n,
                              sp_diag *d);

SP_MUST sp_err sp_fdb_put_credit(sp_db *db, const char *answer, const char *experiment,
                                 const sp_fdb_credit *c, sp_diag *d);
/* For each conversation in which a passage was cited, or opened by feedback of that name: 1 where
 * more of the second team's were, 0 where more of the first one's, else 0.5. out is allocated;
 * sp_mem_free. */
SP_MUST sp_err sp_fdb_preferred(sp_db *db, const char *experiment, double **out, size_t *n,
                                sp_diag *d);

/* Conversations that a variant answered. */
SP_MUST sp_err sp_fdb_units(sp_db *db, const char *experiment, const char *variant, size_t *n,
                            sp_diag *d);
/* One mean a conversation of a metric, the first conversation first: one that was given, or failed,
 * ms, ms_first, cost, tokens of its answers. out is allocated; sp_mem_free. */
SP_MUST sp_err sp_fdb_values(sp_db *db, const char *experiment, const char *variant,
                             const char *metric, double **out, size_t *n, sp_diag *d);
/* The same of a metric that answers have themselves. *before: beside each value [n] how difficult
 * intent held the conversation's first question, which no variant changes; NULL: it was not judged
 * in all of them. Allocated likewise. */
SP_MUST sp_err sp_fdb_values_before(sp_db *db, const char *experiment, const char *variant,
                                    const char *metric, double **out, double **before, size_t *n,
                                    sp_diag *d);
/* One row a conversation that an adapting experiment drew, and that has the metric: epoch, variant,
 * and its mean. As of sp_db_query. */
sp_rows *sp_fdb_drawn_values(sp_db *db, const char *experiment, const char *metric);
/* Names of metrics that were given as booleans (is_boolean) or numbers about an experiment's
 * answers, as (name, is_boolean) rows in a. */
SP_MUST sp_err sp_fdb_metrics(sp_db *db, sp_arena *a, const char *experiment, const char ***name,
                              bool **is_boolean, size_t *n, sp_diag *d);

#endif
