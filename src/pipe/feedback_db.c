#include "pipe/feedback_db.h"

#include "base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_VALUES = 200000, MAX_METRICS = 64, MAX_STOPPED = 64 };

#define TABLES(seq)                                                                                \
    "CREATE TABLE IF NOT EXISTS answer(id TEXT PRIMARY KEY, tenant TEXT NOT NULL, conv TEXT, "     \
    "unit TEXT NOT NULL,"                                                                          \
    " created BIGINT NOT NULL, model TEXT NOT NULL, path TEXT NOT NULL, failed INT NOT NULL, ms "  \
    "TEXT NOT NULL,"                                                                               \
    " ms_first TEXT NOT NULL, cost TEXT NOT NULL, n_prompt BIGINT NOT NULL, n_out BIGINT NOT "     \
    "NULL, receipt TEXT NOT NULL);"                                                                \
    "CREATE INDEX IF NOT EXISTS answer_conv ON answer(tenant, conv);"                              \
    "CREATE INDEX IF NOT EXISTS answer_unit ON answer(unit, created, id);"                         \
    "CREATE TABLE IF NOT EXISTS exposure(answer TEXT NOT NULL, experiment TEXT NOT NULL, variant " \
    "TEXT NOT NULL,"                                                                               \
    " PRIMARY KEY(answer, experiment));"                                                           \
    "CREATE INDEX IF NOT EXISTS exposure_of ON exposure(experiment, variant);"                     \
    "CREATE TABLE IF NOT EXISTS feedback(seq " seq                                                 \
    ", id TEXT NOT NULL, tenant TEXT NOT NULL, answer TEXT, conv TEXT,"                            \
    " metric TEXT NOT NULL, kind TEXT NOT NULL, value TEXT NOT NULL, tags TEXT NOT NULL, created " \
    "BIGINT NOT NULL);"                                                                            \
    "CREATE INDEX IF NOT EXISTS feedback_of ON feedback(tenant, answer);"                          \
    "CREATE INDEX IF NOT EXISTS feedback_conv ON feedback(tenant, conv);"                          \
    "CREATE TABLE IF NOT EXISTS stopped(experiment TEXT PRIMARY KEY, created BIGINT NOT NULL);"    \
    "CREATE TABLE IF NOT EXISTS credit(answer TEXT NOT NULL, passage INT NOT NULL, experiment "    \
    "TEXT NOT NULL, team INT NOT NULL, cited INT NOT NULL, PRIMARY KEY(answer, passage));"         \
    "CREATE INDEX IF NOT EXISTS credit_of ON credit(experiment);"                                  \
    "CREATE TABLE IF NOT EXISTS exported(target TEXT PRIMARY KEY, seq BIGINT NOT NULL);"           \
    "CREATE TABLE IF NOT EXISTS epoch(experiment TEXT NOT NULL, number INT NOT NULL, share TEXT "  \
    "NOT NULL, mean TEXT NOT NULL, centre TEXT NOT NULL, evidence TEXT NOT NULL, best INT NOT "    \
    "NULL, done INT NOT NULL, created BIGINT NOT NULL, PRIMARY KEY(experiment, number));"          \
    "CREATE TABLE IF NOT EXISTS drawn(seq " seq                                                    \
    ", experiment TEXT NOT NULL, unit TEXT NOT NULL, epoch INT NOT NULL, variant TEXT NOT NULL, "  \
    "share TEXT NOT NULL, UNIQUE(experiment, unit));"

sp_err sp_fdb_open(sp_db **out, const char *path, sp_diag *d)
{
    return sp_db_open(out, path, TABLES("INTEGER PRIMARY KEY"), TABLES("BIGSERIAL PRIMARY KEY"), d);
}

sp_err sp_fdb_note(sp_db *db, const char *tenant, const char *conv, const sp_fdb_answer *a,
                   sp_diag *d)
{
    char ms[32], first[32], cost[32];
    snprintf(ms, sizeof ms, "%.3f", a->ms);
    snprintf(first, sizeof first, "%.3f", a->ms_first);
    snprintf(cost, sizeof cost, "%.9g", a->cost);
    return sp_db_run(db, d,
                     "INSERT INTO answer(id, tenant, conv, unit, created, model, path, failed, ms, "
                     "ms_first, cost, n_prompt, n_out, receipt)"
                     " VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT(id) DO NOTHING",
                     "ssssississsiis", a->id, tenant, conv, a->unit, sp_clock_wall(), a->model,
                     a->path, (int64_t)a->failed, ms, first, cost, (int64_t)a->n_prompt,
                     (int64_t)a->n_out, a->receipt);
}

sp_err sp_fdb_expose(sp_db *db, const char *answer, const char *experiment, const char *variant,
                     sp_diag *d)
{
    return sp_db_run(db, d,
                     "INSERT INTO exposure(answer, experiment, variant) VALUES(?,?,?) ON "
                     "CONFLICT(answer, experiment) DO NOTHING",
                     "sss", answer, experiment, variant);
}

sp_err sp_fdb_give(sp_db *db, const char *tenant, const char *id, const sp_fdb_given *g, sp_diag *d)
{
    char number[32];
    snprintf(number, sizeof number, "%.17g", g->value);
    const char *kind = g->text ? g->metric : g->is_boolean ? "boolean" : "float";
    return sp_db_run(db, d,
                     "INSERT INTO feedback(id, tenant, answer, conv, metric, kind, value, tags, "
                     "created) VALUES(?,?,?,?,?,?,?,?,?)",
                     "ssssssssi", id, tenant, g->answer, g->conv, g->metric, kind,
                     g->text ? g->text : number, g->tags, sp_clock_wall());
}

sp_err sp_fdb_knows(sp_db *db, const char *tenant, const sp_fdb_given *g, sp_diag *d)
{
    int64_t n = 0;
    SP_TRY(g->answer ? sp_db_int(db, &n, d, "SELECT count(*) FROM answer WHERE tenant=? AND id=?",
                                 "ss", tenant, g->answer)
                     : sp_db_int(db, &n, d, "SELECT count(*) FROM answer WHERE tenant=? AND conv=?",
                                 "ss", tenant, g->conv));
    return n ? SP_OK
             : SP_FAIL(d, SP_NOTFOUND, "there is no %s %.60s that feedback could be about",
                       g->answer ? "answer" : "conversation", g->answer ? g->answer : g->conv);
}

/* --- what was given --------------------------------------------------------------------------- */

static void put(sp_buf *out, const char *name, const char *text)
{
    sp_buf_printf(out, ",\"%s\":", name);
    if (*text)
        sp_buf_json_str(out, text, strlen(text));
    else
        sp_buf_puts(out, "null");
}

void sp_fdb_put_row(sp_buf *out, sp_rows *r, const char *tenant, bool text)
{
    const char *kind = sp_rows_str(r, 4), *value = sp_rows_str(r, 5);
    sp_buf_printf(out, "{\"object\":\"feedback\",\"seq\":%lld", (long long)sp_rows_int(r, 0));
    if (tenant)
        put(out, "tenant", tenant);
    put(out, "id", sp_rows_str(r, 1));
    put(out, "inference_id", sp_rows_str(r, 2));
    put(out, "episode_id", sp_rows_str(r, 7));
    put(out, "metric_name", sp_rows_str(r, 3));
    if (strcmp(kind, "boolean") == 0)
        sp_buf_printf(out, ",\"value\":%s", *value == '1' ? "true" : "false");
    else if (strcmp(kind, "float") == 0)
        sp_buf_printf(out, ",\"value\":%s", value);
    else
        put(out, "value", text ? value : "");
    sp_buf_printf(out, ",\"tags\":%s,\"created_at\":%lld}", text ? sp_rows_str(r, 6) : "{}",
                  (long long)sp_rows_int(r, 8));
}

sp_err sp_fdb_list(sp_db *db, const char *tenant, int64_t after, size_t cap, sp_buf *out,
                   int64_t *last, bool *more, sp_diag *d)
{
    sp_rows *r = sp_db_query(db,
                             "SELECT " SP_FDB_ROW " FROM feedback WHERE tenant=? AND seq>? "
                             "ORDER BY seq LIMIT ?",
                             "sii", tenant, after, (int64_t)cap + 1);
    size_t n = 0;
    *last = after;
    *more = false;
    while (r && sp_rows_next(r) && !*more) {
        *more = n == cap;
        if (*more)
            break;
        sp_buf_puts(out, n++ ? "," : "");
        sp_fdb_put_row(out, r, NULL, true);
        *last = sp_rows_int(r, 0);
    }
    return r ? sp_rows_end(r, out->failed ? SP_NOMEM : SP_OK, d) : sp_db_error(db, d);
}

/* --- going ------------------------------------------------------------------------------------ */

static sp_err forget(sp_db *db, const char *tenant, const char *conv, size_t *n, sp_diag *d)
{
    static const char *const sql[] = {
        "DELETE FROM credit WHERE answer IN (SELECT id FROM answer WHERE tenant=?1 AND (?2='' OR "
        "conv=?2))",
        "DELETE FROM drawn WHERE unit IN (SELECT unit FROM answer WHERE tenant=?1 AND (?2='' OR "
        "conv=?2))",
        "DELETE FROM exposure WHERE answer IN (SELECT id FROM answer WHERE tenant=?1 AND (?2='' OR "
        "conv=?2))",
        "DELETE FROM feedback WHERE tenant=?1 AND (?2='' OR conv=?2 OR answer IN (SELECT id FROM "
        "answer WHERE tenant=?1 AND conv=?2))",
        "DELETE FROM answer WHERE tenant=?1 AND (?2='' OR conv=?2)"};
    *n = 0;
    for (size_t i = 0; i < 5; i++) {
        SP_TRY(sp_db_run(db, d, sql[i], "ss", tenant, conv));
        *n += i > 2 ? (size_t)sp_db_changes(db) : 0;
    }
    return SP_OK;
}

sp_err sp_fdb_forget(sp_db *db, const char *tenant, const char *conv, size_t *n, sp_diag *d)
{
    SP_TRY(sp_db_begin(db, d));
    SP_TRY(sp_db_finish(db, forget(db, tenant, conv, n, d), d));
    return sp_db_settle(db, d);
}

/* --- for reports ------------------------------------------------------------------------------ */

sp_err sp_fdb_units(sp_db *db, const char *experiment, const char *variant, size_t *n, sp_diag *d)
{
    int64_t got = 0;
    SP_TRY(sp_db_int(db, &got, d,
                     "SELECT count(DISTINCT a.unit) FROM exposure e JOIN answer a ON a.id=e.answer "
                     "WHERE e.experiment=? AND e.variant=?",
                     "ss", experiment, variant));
    *n = (size_t)got;
    return SP_OK;
}

/* The column, or NULL: a metric that is given. */
static const char *column_of(const char *metric)
{
    static const char *const of[][2] = {{"failed", "a.failed"},
                                        {"ms", "CAST(a.ms AS DOUBLE PRECISION)"},
                                        {"ms_first", "CAST(a.ms_first AS DOUBLE PRECISION)"},
                                        {"cost", "CAST(a.cost AS DOUBLE PRECISION)"},
                                        {"tokens", "a.n_out"}};
    for (size_t i = 0; i < sizeof of / sizeof *of; i++)
        if (strcmp(metric, of[i][0]) == 0)
            return of[i][1];
    return NULL;
}

/* The numbers in the first column of r, which is ended. */
static sp_err take_values(sp_db *db, sp_rows *r, double **out, size_t *n, sp_diag *d)
{
    size_t cap = 0;
    sp_err err = SP_OK;
    *out = NULL;
    *n = 0;
    while (r && err == SP_OK && sp_rows_next(r)) {
        if (sp_mem_has_room(out, &cap, *n, sizeof **out))
            (*out)[(*n)++] = strtod(sp_rows_str(r, 0), NULL);
        else
            err = SP_FAIL(d, SP_NOMEM, "report");
    }
    err = r ? sp_rows_end(r, err, d) : sp_db_error(db, d);
    if (err != SP_OK) {
        sp_mem_free(*out);
        *out = NULL;
    }
    return err;
}

sp_err sp_fdb_values(sp_db *db, const char *experiment, const char *variant, const char *metric,
                     double **out, size_t *n, sp_diag *d)
{
    char sql[640];
    const char *column = column_of(metric);
    if (column)
        snprintf(sql, sizeof sql,
                 "SELECT avg(%s) FROM exposure e JOIN answer a ON a.id=e.answer WHERE "
                 "e.experiment=?1 AND e.variant=?2 AND ?3<>''"
                 " GROUP BY a.unit ORDER BY min(a.created), a.unit LIMIT %d",
                 column, MAX_VALUES);
    else
        snprintf(sql, sizeof sql,
                 "SELECT avg(CAST(f.value AS DOUBLE PRECISION)) FROM exposure e JOIN answer a ON "
                 "a.id=e.answer JOIN feedback f ON"
                 " f.tenant=a.tenant AND (f.answer=a.id OR (f.answer IS NULL AND f.conv=a.conv)) "
                 "WHERE e.experiment=?1 AND e.variant=?2"
                 " AND f.metric=?3 AND f.kind IN ('boolean','float') GROUP BY a.unit ORDER BY "
                 "min(a.created), a.unit LIMIT %d",
                 MAX_VALUES);
    return take_values(db, sp_db_query(db, sql, "sss", experiment, variant, metric), out, n, d);
}

/* What a receipt says of the question before anything was answered. */
static bool difficulty_of(double *out, const char *receipt)
{
    static const char key[] = "\"difficulty\":";
    const char *at = strstr(receipt, key);
    char *end = NULL;
    if (at)
        *out = strtod(at + sizeof key - 1, &end);
    return at && end > at + sizeof key - 1;
}

sp_err sp_fdb_values_before(sp_db *db, const char *experiment, const char *variant,
                            const char *metric, double **out, double **before, size_t *n,
                            sp_diag *d)
{
    char sql[640];
    size_t cap = 0, cap_before = 0;
    bool all = true;
    sp_err err = SP_OK;
    snprintf(sql, sizeof sql,
             "SELECT avg(%s), (SELECT b.receipt FROM answer b WHERE b.unit=a.unit ORDER BY "
             "b.created, b.id LIMIT 1) FROM exposure e JOIN answer a ON a.id=e.answer WHERE "
             "e.experiment=?1 AND e.variant=?2 GROUP BY a.unit ORDER BY min(a.created), a.unit "
             "LIMIT %d",
             column_of(metric), MAX_VALUES);
    sp_rows *r = sp_db_query(db, sql, "ss", experiment, variant);
    *out = *before = NULL;
    *n = 0;
    while (r && err == SP_OK && sp_rows_next(r)) {
        if (!sp_mem_has_room(out, &cap, *n, sizeof **out) ||
            !sp_mem_has_room(before, &cap_before, *n, sizeof **before)) {
            err = SP_FAIL(d, SP_NOMEM, "report");
            break;
        }
        all = difficulty_of(&(*before)[*n], sp_rows_str(r, 1)) && all;
        (*out)[(*n)++] = strtod(sp_rows_str(r, 0), NULL);
    }
    err = r ? sp_rows_end(r, err, d) : sp_db_error(db, d);
    if (err != SP_OK || !all) {
        sp_mem_free(*before);
        *before = NULL;
    }
    if (err != SP_OK) {
        sp_mem_free(*out);
        *out = NULL;
    }
    return err;
}

sp_rows *sp_fdb_drawn_values(sp_db *db, const char *experiment, const char *metric)
{
    char sql[640];
    const char *column = column_of(metric);
    snprintf(sql, sizeof sql,
             "SELECT w.epoch, w.variant, avg(%s) FROM exposure e JOIN answer a ON a.id=e.answer "
             "JOIN drawn w ON w.experiment=e.experiment AND w.unit=a.unit%s WHERE "
             "e.experiment=?1 AND ?2<>''%s GROUP BY w.unit, w.epoch, w.variant LIMIT %d",
             column ? column : "CAST(f.value AS DOUBLE PRECISION)",
             column ? ""
                    : " JOIN feedback f ON f.tenant=a.tenant AND (f.answer=a.id OR (f.answer IS "
                      "NULL AND f.conv=a.conv))",
             column ? "" : " AND f.metric=?2 AND f.kind IN ('boolean','float')", MAX_VALUES);
    return sp_db_query(db, sql, "ss", experiment, metric);
}

sp_err sp_fdb_put_credit(sp_db *db, const char *answer, const char *experiment,
                         const sp_fdb_credit *c, sp_diag *d)
{
    return sp_db_run(db, d,
                     "INSERT INTO credit(answer, passage, experiment, team, cited) "
                     "VALUES(?,?,?,?,?) ON CONFLICT(answer, passage) DO NOTHING",
                     "sisii", answer, (int64_t)c->passage, experiment, (int64_t)c->team,
                     (int64_t)c->cited);
}

sp_err sp_fdb_preferred(sp_db *db, const char *experiment, double **out, size_t *n, sp_diag *d)
{
    static const char sql[] =
        "SELECT CASE WHEN sum(by2)>sum(by1) THEN 1.0 WHEN sum(by2)<sum(by1) THEN 0.0 ELSE 0.5 END "
        "FROM (SELECT a.unit AS unit, CASE WHEN c.team=1 THEN 1 ELSE 0 END AS by1,"
        " CASE WHEN c.team=2 THEN 1 ELSE 0 END AS by2"
        " FROM credit c JOIN answer a ON a.id=c.answer WHERE c.experiment=?1"
        " AND (c.cited=1 OR EXISTS (SELECT 1 FROM feedback f WHERE f.tenant=a.tenant"
        " AND f.answer=c.answer AND f.metric='opened' AND f.kind='float'"
        " AND CAST(f.value AS DOUBLE PRECISION)=c.passage))) AS used GROUP BY unit LIMIT ?2";
    return take_values(db, sp_db_query(db, sql, "si", experiment, (int64_t)MAX_VALUES), out, n, d);
}

sp_err sp_fdb_metrics(sp_db *db, sp_arena *a, const char *experiment, const char ***name,
                      bool **is_boolean, size_t *n, sp_diag *d)
{
    sp_rows *r = sp_db_query(db,
                             "SELECT f.metric, min(f.kind), max(f.kind) FROM exposure e JOIN "
                             "answer a ON a.id=e.answer JOIN feedback f ON f.tenant=a.tenant AND"
                             " (f.answer=a.id OR (f.answer IS NULL AND f.conv=a.conv)) WHERE "
                             "e.experiment=? AND f.kind IN ('boolean','float')"
                             " GROUP BY f.metric ORDER BY f.metric LIMIT ?",
                             "si", experiment, (int64_t)MAX_METRICS);
    sp_err err = SP_OK;
    *n = 0;
    *name = sp_arena_alloc(a, MAX_METRICS * sizeof **name);
    *is_boolean = sp_arena_alloc(a, MAX_METRICS * sizeof **is_boolean);
    if (!*name || !*is_boolean)
        err = SP_FAIL(d, SP_NOMEM, "report");
    while (r && err == SP_OK && sp_rows_next(r)) {
        (*name)[*n] = sp_rows_keep(a, r, 0);
        (*is_boolean)[*n] =
            strcmp(sp_rows_str(r, 1), "boolean") == 0 && strcmp(sp_rows_str(r, 2), "boolean") == 0;
        err = (*name)[(*n)++] ? SP_OK : SP_FAIL(d, SP_NOMEM, "report");
    }
    return r ? sp_rows_end(r, err, d) : sp_db_error(db, d);
}

/* --- experiments that are stopped ------------------------------------------------------------- */

sp_err sp_fdb_stop(sp_db *db, const char *experiment, bool stop, sp_diag *d)
{
    return stop ? sp_db_run(db, d,
                            "INSERT INTO stopped(experiment, created) VALUES(?,?) ON "
                            "CONFLICT(experiment) DO NOTHING",
                            "si", experiment, sp_clock_wall())
                : sp_db_run(db, d, "DELETE FROM stopped WHERE experiment=?", "s", experiment);
}

sp_err sp_fdb_stopped(sp_db *db, sp_arena *a, const char *const **name, size_t *n, sp_diag *d)
{
    const char **list = sp_arena_alloc(a, MAX_STOPPED * sizeof *list);
    sp_rows *r = sp_db_query(db, "SELECT experiment FROM stopped ORDER BY created DESC LIMIT ?",
                             "i", (int64_t)MAX_STOPPED);
    sp_err err = list ? SP_OK : SP_FAIL(d, SP_NOMEM, "experiments");
    *n = 0;
    *name = list;
    while (r && err == SP_OK && sp_rows_next(r)) {
        list[*n] = sp_rows_keep(a, r, 0);
        err = list[(*n)++] ? SP_OK : SP_FAIL(d, SP_NOMEM, "experiments");
    }
    return r ? sp_rows_end(r, err, d) : sp_db_error(db, d);
}
