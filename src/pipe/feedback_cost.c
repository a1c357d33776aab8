/* What answers cost, and what a right one costs. */
#include "pipe/feedback_db.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* %s: the class within a receipt. An answer's last rating counts. */
static const char SQL[] =
    "SELECT a.tenant, COALESCE(%s, 'none') AS cls, count(*),"
    " CAST(sum(CAST(a.cost AS DOUBLE PRECISION)) AS TEXT), count(f.value),"
    " sum(CASE WHEN f.value='1' THEN 1 ELSE 0 END),"
    " CAST(sum(CASE WHEN f.value IS NULL THEN 0 ELSE CAST(a.cost AS DOUBLE PRECISION) END) AS TEXT)"
    " FROM answer a LEFT JOIN feedback f ON f.tenant=a.tenant AND f.answer=a.id AND f.metric=?1"
    " AND f.kind='boolean' AND f.seq=(SELECT max(g.seq) FROM feedback g WHERE g.tenant=a.tenant"
    " AND g.answer=a.id AND g.metric=?1 AND g.kind='boolean')"
    " WHERE a.created>=?2 AND (?3='' OR a.tenant=?3) GROUP BY a.tenant, cls ORDER BY a.tenant, cls";

static void put_row(sp_buf *out, sp_rows *r)
{
    int64_t right = sp_rows_int(r, 5);
    double cost = strtod(sp_rows_str(r, 3), NULL), rated = strtod(sp_rows_str(r, 6), NULL);
    sp_buf_puts(out, "{\"tenant\":");
    sp_buf_json_str(out, sp_rows_str(r, 0), strlen(sp_rows_str(r, 0)));
    sp_buf_puts(out, ",\"class\":");
    sp_buf_json_str(out, sp_rows_str(r, 1), strlen(sp_rows_str(r, 1)));
    sp_buf_printf(
        out, ",\"answers\":%lld,\"cost\":%.9g,\"rated\":%lld,\"right\":%lld,\"rated_cost\":%.9g",
        (long long)sp_rows_int(r, 2), cost, (long long)sp_rows_int(r, 4), (long long)right, rated);
    if (right)
        sp_buf_printf(out, ",\"cost_per_right\":%.9g}", rated / (double)right);
    else
        sp_buf_puts(out, ",\"cost_per_right\":null}");
}

sp_err sp_fdb_costs(sp_db *db, const char *tenant, const char *right, int64_t since, sp_buf *out,
                    sp_diag *d)
{
    char sql[sizeof SQL + 40];
    snprintf(sql, sizeof sql, SQL,
             sp_db_is_pg(db) ? "CAST(a.receipt AS json)->>'class'"
                             : "json_extract(a.receipt, '$.class')");
    sp_rows *r = sp_db_query(db, sql, "sis", right ? right : "", since, tenant);
    for (size_t n = 0; r && sp_rows_next(r); n++) {
        sp_buf_puts(out, n ? "," : "");
        put_row(out, r);
    }
    return r ? sp_rows_end(r, out->failed ? SP_NOMEM : SP_OK, d) : sp_db_error(db, d);
}

sp_err sp_fdb_unrated(sp_db *db, const char *tenant, const char *answer, const char *metric,
                      double *cost, sp_diag *d)
{
    sp_rows *r = sp_db_query(db,
                             "SELECT cost FROM answer a WHERE tenant=?1 AND id=?2 AND NOT EXISTS "
                             "(SELECT 1 FROM feedback f WHERE f.tenant=a.tenant AND f.answer=a.id "
                             "AND f.metric=?3 AND f.kind='boolean')",
                             "sss", tenant, answer, metric);
    sp_err err = sp_rows_first(db, r, d);
    if (err == SP_OK)
        *cost = strtod(sp_rows_str(r, 0), NULL);
    return sp_rows_end(r, err, d);
}
