#include "pipe/feedback_export.h"

#include "base/clock.h"
#include "pipe/feedback_db.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

enum { LATE_S = 10 /* for which a row of another server may come behind a later one */ };

/* Is the tenant one of those? */
static bool is_among(const char *list, const char *tenant)
{
    size_t n = strlen(tenant);
    for (const char *p = list; p; p = strchr(p, ',')) {
        p += *p == ',';
        if (*p == '*' || (strncmp(p, tenant, n) == 0 && (p[n] == ',' || !p[n])))
            return true;
    }
    return false;
}

/* --- OpenTelemetry ---------------------------------------------------------------------------- */

static void put_text(sp_buf *out, const char *key, const char *value)
{
    if (!*value)
        return;
    sp_buf_printf(out, ",{\"key\":\"%s\",\"value\":{\"stringValue\":", key);
    sp_buf_json_str(out, value, strlen(value));
    sp_buf_puts(out, "}}");
}

/* What a person wrote: a comment, a better answer, or the comment among the tags of a score. */
static void put_explanation(sp_buf *out, const char *kind, const char *value, const char *tags)
{
    bool number = strcmp(kind, "boolean") == 0 || strcmp(kind, "float") == 0;
    json_t *j = number ? json_loads(tags, 0, NULL) : NULL;
    const char *comment = json_string_value(json_object_get(j, "comment"));
    put_text(out, "gen_ai.evaluation.explanation", !number ? value : comment ? comment : "");
    json_decref(j);
}

static void put_event(sp_buf *out, sp_rows *r, bool text)
{
    const char *kind = sp_rows_str(r, 4), *value = sp_rows_str(r, 5);
    bool boolean = strcmp(kind, "boolean") == 0;
    sp_buf_printf(out,
                  "{\"timeUnixNano\":\"%lld000000000\",\"eventName\":\"gen_ai.evaluation.result\","
                  "\"attributes\":[{\"key\":\"gen_ai.evaluation.name\",\"value\":{\"stringValue\":",
                  (long long)sp_rows_int(r, 8));
    sp_buf_json_str(out, sp_rows_str(r, 3), sp_rows_bytes(r, 3));
    sp_buf_puts(out, "}}");
    if (boolean || strcmp(kind, "float") == 0) {
        sp_buf_puts(out, ",{\"key\":\"gen_ai.evaluation.score.value\",\"value\":{\"doubleValue\":");
        sp_buf_json_num(out, strtod(value, NULL));
        sp_buf_puts(out, "}}");
    }
    if (boolean)
        put_text(out, "gen_ai.evaluation.score.label", *value == '1' ? "true" : "false");
    if (text)
        put_explanation(out, kind, value, sp_rows_str(r, 6));
    put_text(out, "gen_ai.response.id", sp_rows_str(r, 2));
    put_text(out, "gen_ai.conversation.id", sp_rows_str(r, 7));
    put_text(out, "log.record.uid", sp_rows_str(r, 1));
    put_text(out, "tenant.id", sp_rows_str(r, 9));
    sp_buf_puts(out, "]}");
}

static const char HEAD[] =
    "{\"resourceLogs\":[{\"resource\":{\"attributes\":[{\"key\":\"service.name\",\"value\":{"
    "\"stringValue\":\"sparing\"}},{\"key\":\"service.version\",\"value\":{\"stringValue\":"
    "\"" SP_VERSION "\"}}]},\"scopeLogs\":[{\"scope\":{\"name\":\"sparing\"},\"logRecords\":[";

/* --- rows ------------------------------------------------------------------------------------- */

sp_err sp_feedback_export(sp_buf *out, size_t *n, int64_t *last, sp_db *db,
                          const sp_export_cfg *cfg, size_t cap, sp_diag *d)
{
    int64_t until = sp_clock_wall() - (sp_db_is_pg(db) ? LATE_S : 0);
    sp_rows *r = sp_db_query(db,
                             "SELECT " SP_FDB_ROW ", tenant FROM feedback WHERE seq>? AND "
                             "created<=? ORDER BY seq LIMIT ?",
                             "iii", *last, until, (int64_t)cap);
    *n = 0;
    sp_buf_puts(out, cfg->otlp ? HEAD : "");
    while (r && sp_rows_next(r)) {
        const char *tenant = sp_rows_str(r, 9);
        bool text = is_among(cfg->text, tenant);
        sp_buf_puts(out, cfg->otlp && *n ? "," : "");
        if (cfg->otlp)
            put_event(out, r, text);
        else
            sp_fdb_put_row(out, r, tenant, text);
        sp_buf_puts(out, cfg->otlp ? "" : "\n");
        *last = sp_rows_int(r, 0);
        ++*n;
    }
    sp_buf_puts(out, cfg->otlp ? "]}]}]}" : "");
    return r ? sp_rows_end(r, out->failed ? SP_NOMEM : SP_OK, d) : sp_db_error(db, d);
}

sp_err sp_feedback_exported(int64_t *last, sp_db *db, const char *target, sp_diag *d)
{
    sp_err err = sp_db_int(db, last, d, "SELECT seq FROM exported WHERE target=?", "s", target);
    if (err != SP_NOTFOUND)
        return err;
    *last = 0;
    return SP_OK;
}

sp_err sp_feedback_export_done(sp_db *db, const char *target, int64_t last, sp_diag *d)
{
    return sp_db_run(db, d,
                     "INSERT INTO exported(target, seq) VALUES(?,?) ON CONFLICT(target) DO UPDATE "
                     "SET seq = excluded.seq",
                     "si", target, last);
}
