#include "base/db.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/sql.h"
#include "base/utf8.h"

#include <libpq-fe.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_KEPT = 32, MAX_PARAM = 16, MAX_BLOB = 8 };

#define LOG_NS 10000000000u

/* One number for all processes that make the tables at the same time. */
#define SCHEMA_LOCK "4607182418800017408"

struct sp_db {
    sqlite3 *lite;
    PGconn *pg;
    struct {
        sqlite3_stmt *s;
        bool in_use;
    } kept[MAX_KEPT];
    size_t n_kept;
    int64_t changes;
    bool in_transaction, no_memory;
    char error[160]; /* of PostgreSQL's last statement */
    uint64_t logged_ns; /* when a lost connection was last told */
};

struct sp_rows {
    sp_db *db;
    sqlite3_stmt *s;
    size_t kept; /* its place, or MAX_KEPT: finalized at the end */
    int rc;
    PGresult *pg;
    int row;
    unsigned char *blob[MAX_BLOB]; /* of this row */
};

bool sp_db_is_url(const char *path)
{
    return strncmp(path, "postgresql://", 13) == 0 || strncmp(path, "postgres://", 11) == 0;
}

bool sp_db_is_pg(const sp_db *db)
{
    return db->pg != NULL;
}

sp_err sp_db_error(sp_db *db, sp_diag *d)
{
    if (db->no_memory)
        return SP_FAIL(d, SP_NOMEM, "database");
    if (db->pg && PQstatus(db->pg) != CONNECTION_OK)
        return SP_FAIL(
            d, SP_AGAIN,
            /* where it was looked for is the log's, not a client's */
            "PostgreSQL cannot be reached just now");
    return db->pg ? SP_FAIL(d, SP_IO, "PostgreSQL: %s", db->error) : sp_sql_error(db->lite, d);
}

/* --- PostgreSQL ------------------------------------------------------------------------------- */

static void ignore(void *arg, const PGresult *r)
{
    (void)arg;
    (void)r;
}

static void note_error(sp_db *db, const char *message)
{
    snprintf(db->error, sizeof db->error, "%s", message);
    for (char *p = db->error; *p; p++)
        *p = *p == '\n' ? ' ' : *p;
}

static sp_err open_pg(sp_db *db, const char *url, const char *schema, sp_diag *d)
{
    static const char options[] = "-c search_path=sparing,public -c hnsw.ef_search=400";
    db->pg =
        PQconnectdbParams((const char *const[]){"options", "client_encoding", "connect_timeout",
                                                "tcp_user_timeout", "dbname", NULL},
                          (const char *const[]){options, "UTF8", "5", "10000", url, NULL}, 1);
    if (!db->pg)
        return SP_FAIL(d, SP_NOMEM, "database");
    if (PQstatus(db->pg) != CONNECTION_OK) {
        note_error(db, PQerrorMessage(db->pg));
        return SP_FAIL(d, SP_AGAIN, "PostgreSQL: %s", db->error);
    }
    PQsetNoticeReceiver(db->pg, ignore, NULL);
    PQclear(PQexec(db->pg, "SELECT pg_advisory_lock(" SCHEMA_LOCK ")"));
    sp_err err = sp_db_script(db, schema, d);
    PQclear(PQexec(db->pg, "SELECT pg_advisory_unlock(" SCHEMA_LOCK ")"));
    return err;
}

/* ? and ?1 as $1. */
static char *to_pg(const char *sql)
{
    size_t n = strlen(sql);
    char *out = sp_mem_raw(2 * n + 1), *p = out;
    unsigned next = 1;
    if (!out)
        return NULL;
    for (; *sql; sql++) {
        if (*sql != '?')
            *p++ = *sql;
        else if (sql[1] >= '0' && sql[1] <= '9')
            *p++ = '$';
        else
            p += sprintf(p, "$%u", next++);
        if (*sql == '?' && sql[1] >= '0' && sql[1] <= '9' && (unsigned)(sql[1] - '0') >= next)
            next = (unsigned)(sql[1] - '0') + 1;
    }
    *p = 0;
    return out;
}

/* What a statement gets: text, but for blobs. */
typedef struct params {
    const char *at[MAX_PARAM];
    int length[MAX_PARAM], format[MAX_PARAM], n;
    char number[MAX_PARAM][24];
    char *own[MAX_PARAM]; /* texts that had no end */
} params;

/* Text as PostgreSQL holds it. NULL: no memory. */
static char *put_text(const char *p, size_t n)
{
    static const char wrong[] = "\xef\xbf\xbd";
    bool fine = sp_utf8_is_valid(p, n) && !memchr(p, 0, n);
    size_t cap, at = 0;
    char *out = sp_mul_ok(&cap, n, fine ? 1 : 3) && cap < SIZE_MAX ? sp_mem_raw(cap + 1) : NULL;
    for (size_t i = 0; out && i < n;) {
        uint32_t cp;
        size_t k = fine ? n : p[i] ? sp_utf8_decode(&cp, p + i, n - i) : 0;
        memcpy(out + at, k ? p + i : wrong, k ? k : 3);
        at += k ? k : 3;
        i += k ? k : 1;
    }
    if (out)
        out[at] = 0;
    return out;
}

static char *put_bytes(const void *p, size_t n)
{
    char *out = sp_mem_raw(n + 1);
    if (out && n)
        memcpy(out, p, n);
    return out;
}

static bool read_params(params *p, const char *types, va_list args)
{
    *p = (params){0};
    for (; types[p->n]; p->n++) {
        int i = p->n;
        const void *at = NULL;
        size_t n = 0;
        if (i == MAX_PARAM)
            return false;
        switch (types[i]) {
        case 's':
            p->at[i] = va_arg(args, const char *);
            if (!p->at[i] || sp_utf8_is_valid(p->at[i], strlen(p->at[i])))
                continue;
            p->own[i] = put_text(p->at[i], strlen(p->at[i]));
            break;
        case 'i':
            snprintf(p->number[i], sizeof p->number[i], "%lld", (long long)va_arg(args, int64_t));
            p->at[i] = p->number[i];
            continue;
        default:
            at = va_arg(args, const void *);
            n = va_arg(args, size_t);
            if (!at)
                continue;
            p->own[i] = types[i] == 'b' ? put_bytes(at, n) : put_text(at, n);
            p->format[i] = types[i] == 'b';
            p->length[i] = (int)n;
        }
        if (!p->own[i])
            return false;
        p->at[i] = p->own[i];
    }
    return true;
}

/* May be asked again after its connection broke: it changes nothing. */
static bool only_asks(const char *sql)
{
    return strncmp(sql, "SELECT", 6) == 0 || strncmp(sql, "WITH", 4) == 0 ||
           strcmp(sql, "BEGIN") == 0;
}

static PGresult *exec_pg(sp_db *db, const char *sql, const char *types, va_list args)
{
    params p;
    char *text = to_pg(sql);
    bool fine = read_params(&p, types, args) && text;
    db->no_memory = !fine;
    if (fine && !db->in_transaction && PQstatus(db->pg) != CONNECTION_OK) {
        PQreset(db->pg);
        PQsetNoticeReceiver(db->pg, ignore, NULL);
    }
    PGresult *r = fine ? PQexecParams(db->pg, text, p.n, NULL, p.at, p.length, p.format, 0) : NULL;
    if (fine && !db->in_transaction && PQstatus(db->pg) != CONNECTION_OK && only_asks(text)) {
        PQclear(r); /* it broke since the last statement: this one can be asked again */
        PQreset(db->pg);
        PQsetNoticeReceiver(db->pg, ignore, NULL);
        r = PQexecParams(db->pg, text, p.n, NULL, p.at, p.length, p.format, 0);
    }
    fine = r && (PQresultStatus(r) == PGRES_TUPLES_OK || PQresultStatus(r) == PGRES_COMMAND_OK);
    if (!fine)
        note_error(db, r ? PQresultErrorMessage(r) : PQerrorMessage(db->pg));
    if (!fine && PQstatus(db->pg) != CONNECTION_OK &&
        (!db->logged_ns || sp_clock_ns() - db->logged_ns > LOG_NS)) {
        sp_log(SP_LOG_WARN, "PostgreSQL cannot be reached: %s", db->error);
        db->logged_ns = sp_clock_ns();
    }
    if (fine)
        db->changes = strtoll(PQcmdTuples(r), NULL, 10);
    for (int i = 0; i < p.n; i++)
        sp_mem_free(p.own[i]);
    sp_mem_free(text);
    if (!fine) {
        PQclear(r);
        return NULL;
    }
    return r;
}

/* --- SQLite ----------------------------------------------------------------------------------- */

/* A statement that was prepared before and is not in use, or a new one. */
static sqlite3_stmt *take(sp_db *db, const char *sql, size_t *at)
{
    sqlite3_stmt *s = NULL;
    for (*at = 0; *at < db->n_kept; (*at)++)
        if (!db->kept[*at].in_use && strcmp(sqlite3_sql(db->kept[*at].s), sql) == 0) {
            db->kept[*at].in_use = true;
            return db->kept[*at].s;
        }
    if (sqlite3_prepare_v2(db->lite, sql, -1, &s, NULL) != SQLITE_OK)
        return NULL;
    *at = MAX_KEPT;
    if (db->n_kept < MAX_KEPT) {
        *at = db->n_kept++;
        db->kept[*at].s = s;
        db->kept[*at].in_use = true;
    }
    return s;
}

static void give_back(sp_db *db, sqlite3_stmt *s, size_t at)
{
    if (at == MAX_KEPT) {
        sqlite3_finalize(s);
        return;
    }
    sqlite3_reset(s);
    sqlite3_clear_bindings(s);
    db->kept[at].in_use = false;
}

/* --- both ------------------------------------------------------------------------------------- */

sp_err sp_db_open(sp_db **out, const char *path, const char *sqlite, const char *postgres,
                  sp_diag *d)
{
    sp_db *db = sp_mem_alloc(sizeof *db);
    if (!db)
        return SP_FAIL(d, SP_NOMEM, "database");
    sp_err err = sp_db_is_url(path) ? open_pg(db, path, postgres, d)
                                    : sp_sql_open(&db->lite, path, sqlite, d);
    if (err == SP_OK)
        *out = db;
    else
        sp_db_close(db);
    return err;
}

void sp_db_close(sp_db *db)
{
    if (!db)
        return;
    for (size_t i = 0; i < db->n_kept; i++)
        sqlite3_finalize(db->kept[i].s);
    sqlite3_close(db->lite);
    if (db->pg)
        PQfinish(db->pg);
    sp_mem_free(db);
}

sp_err sp_db_script(sp_db *db, const char *sql, sp_diag *d)
{
    if (!db->pg)
        return sqlite3_exec(db->lite, sql, NULL, NULL, NULL) == SQLITE_OK
                   ? SP_OK
                   : sp_sql_error(db->lite, d);
    PGresult *r = PQexec(db->pg, sql);
    ExecStatusType how = PQresultStatus(r);
    bool fine = how == PGRES_COMMAND_OK || how == PGRES_TUPLES_OK;
    if (!fine)
        note_error(db, PQresultErrorMessage(r));
    PQclear(r);
    return fine ? SP_OK : sp_db_error(db, d);
}

static sp_rows *query(sp_db *db, const char *sql, const char *types, va_list args)
{
    sp_rows *r = sp_mem_alloc(sizeof *r);
    db->no_memory = !r;
    if (!r)
        return NULL;
    r->db = db;
    r->row = -1;
    if (db->pg) {
        r->pg = exec_pg(db, sql, types, args);
    } else {
        r->s = take(db, sql, &r->kept);
        if (r->s)
            sp_sql_bind(r->s, types, args);
    }
    if (r->pg || r->s)
        return r;
    sp_mem_free(r);
    return NULL;
}

sp_rows *sp_db_query(sp_db *db, const char *sql, const char *types, ...)
{
    va_list args;
    va_start(args, types);
    sp_rows *r = query(db, sql, types, args);
    va_end(args);
    return r;
}

sp_err sp_db_run(sp_db *db, sp_diag *d, const char *sql, const char *types, ...)
{
    va_list args;
    va_start(args, types);
    sp_rows *r = query(db, sql, types, args);
    va_end(args);
    if (!r)
        return sp_db_error(db, d);
    while (sp_rows_next(r))
        ;
    if (!db->pg)
        db->changes = sqlite3_changes64(db->lite);
    return sp_rows_end(r, SP_OK, d);
}

sp_err sp_db_int(sp_db *db, int64_t *out, sp_diag *d, const char *sql, const char *types, ...)
{
    va_list args;
    va_start(args, types);
    sp_rows *r = query(db, sql, types, args);
    va_end(args);
    if (!r)
        return sp_db_error(db, d);
    bool found = sp_rows_next(r);
    if (found)
        *out = sp_rows_int(r, 0);
    sp_err err = sp_rows_end(r, SP_OK, d);
    return err == SP_OK && !found ? SP_NOTFOUND : err;
}

int64_t sp_db_changes(const sp_db *db)
{
    return db->changes;
}

sp_err sp_db_begin(sp_db *db, sp_diag *d)
{
    sp_err err = sp_db_run(db, d, db->pg ? "BEGIN" : "BEGIN IMMEDIATE", "");
    db->in_transaction = err == SP_OK;
    return err;
}

sp_err sp_db_finish(sp_db *db, sp_err err, sp_diag *d)
{
    sp_diag none = {0};
    if (err == SP_OK)
        err = sp_db_run(db, d, "COMMIT", "");
    if (err != SP_OK && sp_db_run(db, &none, "ROLLBACK", "") != SP_OK)
        none.code = SP_OK; /* it was rolled back already */
    db->in_transaction = false;
    return err;
}

sp_err sp_db_settle(sp_db *db, sp_diag *d)
{
    return db->pg ? SP_OK : sp_sql_run(db->lite, d, "PRAGMA wal_checkpoint(TRUNCATE)", "");
}

static void drop_blobs(sp_rows *r)
{
    for (size_t i = 0; i < MAX_BLOB; i++) {
        PQfreemem(r->blob[i]);
        r->blob[i] = NULL;
    }
}

bool sp_rows_next(sp_rows *r)
{
    if (r->pg) {
        drop_blobs(r);
        return ++r->row < PQntuples(r->pg);
    }
    r->rc = sqlite3_step(r->s);
    return r->rc == SQLITE_ROW;
}

sp_err sp_rows_end(sp_rows *r, sp_err err, sp_diag *d)
{
    if (!r)
        return err;
    if (err == SP_OK && r->s && r->rc != SQLITE_OK && r->rc != SQLITE_ROW && r->rc != SQLITE_DONE)
        err = sp_sql_error(r->db->lite, d);
    if (r->s)
        give_back(r->db, r->s, r->kept);
    drop_blobs(r);
    PQclear(r->pg);
    sp_mem_free(r);
    return err;
}

sp_err sp_rows_first(sp_db *db, sp_rows *r, sp_diag *d)
{
    if (!r)
        return sp_db_error(db, d);
    if (sp_rows_next(r))
        return SP_OK;
    return r->s && r->rc != SQLITE_DONE ? sp_sql_error(db->lite, d) : SP_NOTFOUND;
}

bool sp_rows_is_null(sp_rows *r, int i)
{
    return r->pg ? PQgetisnull(r->pg, r->row, i) : sqlite3_column_type(r->s, i) == SQLITE_NULL;
}

int64_t sp_rows_int(sp_rows *r, int i)
{
    if (!r->pg)
        return sqlite3_column_int64(r->s, i);
    const char *v = PQgetvalue(r->pg, r->row, i);
    return *v == 't' ? 1 : strtoll(v, NULL, 10);
}

const char *sp_rows_str(sp_rows *r, int i)
{
    const char *p =
        r->pg ? PQgetvalue(r->pg, r->row, i) : (const char *)sqlite3_column_text(r->s, i);
    return p ? p : "";
}

size_t sp_rows_bytes(sp_rows *r, int i)
{
    return (size_t)(r->pg ? PQgetlength(r->pg, r->row, i) : sqlite3_column_bytes(r->s, i));
}

const void *sp_rows_blob(sp_rows *r, int i, size_t *n)
{
    *n = 0;
    if (!r->pg) {
        const void *p = sqlite3_column_blob(r->s, i);
        *n = p ? (size_t)sqlite3_column_bytes(r->s, i) : 0;
        return p;
    }
    if (i >= MAX_BLOB || PQgetisnull(r->pg, r->row, i))
        return NULL;
    PQfreemem(r->blob[i]);
    r->blob[i] = PQunescapeBytea((const unsigned char *)PQgetvalue(r->pg, r->row, i), n);
    return r->blob[i];
}

char *sp_rows_keep(sp_arena *a, sp_rows *r, int i)
{
    if (!r->pg)
        return sp_sql_text(a, r->s, i, NULL);
    return sp_arena_strndup(a, PQgetvalue(r->pg, r->row, i), (size_t)PQgetlength(r->pg, r->row, i));
}
