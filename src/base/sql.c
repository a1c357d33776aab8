#include "base/sql.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

static const char pragmas[] = "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA "
                              "secure_delete=ON; PRAGMA busy_timeout=5000;"
                              "PRAGMA cache_size=-65536; PRAGMA mmap_size=1073741824;";

sp_err sp_sql_open(sqlite3 **out, const char *path, const char *schema, sp_diag *d)
{
    /* For its owner's eyes; SQLite gives the log beside it the same mode. */
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return SP_FAIL(d, SP_IO, "%.150s: %s", path, strerror(errno));
    close(fd);
    sqlite3 *db = NULL;
    if (sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX,
                        NULL) != SQLITE_OK ||
        sqlite3_exec(db, pragmas, NULL, NULL, NULL) != SQLITE_OK ||
        sqlite3_exec(db, schema, NULL, NULL, NULL) != SQLITE_OK) {
        sp_err err =
            SP_FAIL(d, SP_IO, "%.100s: %.80s", path, db ? sqlite3_errmsg(db) : "no memory");
        sqlite3_close(db);
        return err;
    }
    *out = db;
    return SP_OK;
}

sp_err sp_sql_error(sqlite3 *db, sp_diag *d)
{
    const char *name = sqlite3_db_filename(db, "main");
    const char *base = name ? strrchr(name, '/') : NULL;
    return SP_FAIL(d, sqlite3_errcode(db) == SQLITE_NOMEM ? SP_NOMEM : SP_IO, "%.60s: %.120s",
                   base ? base + 1 : "database", sqlite3_errmsg(db));
}

void sp_sql_bind(sqlite3_stmt *s, const char *types, va_list args)
{
    for (int i = 1; types[i - 1]; i++) {
        const void *p;
        switch (types[i - 1]) {
        case 's': sqlite3_bind_text(s, i, va_arg(args, const char *), -1, SQLITE_STATIC); break;
        case 'S':
            p = va_arg(args, const void *);
            sqlite3_bind_text64(s, i, p, va_arg(args, size_t), SQLITE_STATIC, SQLITE_UTF8);
            break;
        case 'i': sqlite3_bind_int64(s, i, va_arg(args, int64_t)); break;
        case 'f': sqlite3_bind_double(s, i, va_arg(args, double)); break;
        case 'b':
            p = va_arg(args, const void *);
            sqlite3_bind_blob64(s, i, p, va_arg(args, size_t), SQLITE_STATIC);
            break;
        default: break;
        }
    }
}

static sqlite3_stmt *prepare(sqlite3 *db, const char *sql, const char *types, va_list args)
{
    sqlite3_stmt *s = NULL;
    if (sqlite3_prepare_v2(db, sql, -1, &s, NULL) != SQLITE_OK)
        return NULL;
    sp_sql_bind(s, types, args);
    return s;
}

sqlite3_stmt *sp_sql_query(sqlite3 *db, const char *sql, const char *types, ...)
{
    va_list args;
    va_start(args, types);
    sqlite3_stmt *s = prepare(db, sql, types, args);
    va_end(args);
    return s;
}

sp_err sp_sql_run(sqlite3 *db, sp_diag *d, const char *sql, const char *types, ...)
{
    va_list args;
    va_start(args, types);
    sqlite3_stmt *s = prepare(db, sql, types, args);
    va_end(args);
    int rc = s ? sqlite3_step(s) : SQLITE_ERROR;
    sp_err err = rc == SQLITE_DONE || rc == SQLITE_ROW ? SP_OK : sp_sql_error(db, d);
    sqlite3_finalize(s);
    return err;
}

sp_err sp_sql_int(sqlite3 *db, int64_t *out, sp_diag *d, const char *sql, const char *types, ...)
{
    va_list args;
    va_start(args, types);
    sqlite3_stmt *s = prepare(db, sql, types, args);
    va_end(args);
    int rc = s ? sqlite3_step(s) : SQLITE_ERROR;
    sp_err err = rc == SQLITE_ROW ? SP_OK : rc == SQLITE_DONE ? SP_NOTFOUND : sp_sql_error(db, d);
    if (err == SP_OK)
        *out = sqlite3_column_int64(s, 0);
    sqlite3_finalize(s);
    return err;
}

sp_err sp_sql_begin(sqlite3 *db, sp_diag *d)
{
    return sp_sql_run(db, d, "BEGIN IMMEDIATE", "");
}

sp_err sp_sql_finish(sqlite3 *db, sp_err err, sp_diag *d)
{
    if (err == SP_OK)
        err = sp_sql_run(db, d, "COMMIT", "");
    if (err != SP_OK)
        sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
    return err;
}

char *sp_sql_text(sp_arena *a, sqlite3_stmt *s, int i, size_t *n)
{
    const unsigned char *p = sqlite3_column_text(s, i);
    size_t len = p ? (size_t)sqlite3_column_bytes(s, i) : 0;
    if (n)
        *n = len;
    return sp_arena_strndup(a, p ? (const char *)p : "", len);
}
