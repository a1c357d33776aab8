/* Feedback for others: rows of all tenants as lines of JSON, or as events of OpenTelemetry
 * (gen_ai.evaluation.result, one log record each).
 *
 * Texts, which are comments, better answers and tags, go along for those tenants only that are
 * named; the others' rows say that there was one.
 *
 * Threads: one. Errors: of base/db.h, SP_NOMEM.
 * Source:  opentelemetry.io, semantic conventions for generative AI, "Event:
 *          gen_ai.evaluation.result". */
#ifndef SP_PIPE_FEEDBACK_EXPORT_H
#define SP_PIPE_FEEDBACK_EXPORT_H

#include "base/buf.h"
#include "base/db.h"

typedef struct sp_export_cfg {
    bool otlp;        /* else lines of JSON */
    const char *text; /* tenants, by commas, whose texts go along; "*": all; NULL: none */
} sp_export_cfg;

/* Writes what was given after *last, at most cap rows: a whole body of OTLP, or lines. *n: rows;
 * *last: the last one. */
SP_MUST sp_err sp_feedback_export(sp_buf *out, size_t *n, int64_t *last, sp_db *db,
                                  const sp_export_cfg *cfg, size_t cap, sp_diag *d);
/* The last row that a target took, which it is known for; 0: none. */
SP_MUST sp_err sp_feedback_exported(int64_t *last, sp_db *db, const char *target, sp_diag *d);
SP_MUST sp_err sp_feedback_export_done(sp_db *db, const char *target, int64_t last, sp_diag *d);

#endif
