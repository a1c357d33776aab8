/* SQLite in one line a statement: prepare, bind by letters, run. What said SP_OK survives a crash
 * (WAL, synchronous=FULL); deleted text is overwritten (secure_delete).
 * Threads: a database belongs to one thread at a time. Errors: SP_IO with SQLite's words,
 * SP_NOMEM. */
#ifndef SP_BASE_SQL_H
#define SP_BASE_SQL_H

#include "base/err.h"
#include "base/mem.h"

#include <sqlite3.h>
#include <stdarg.h>
#include <stdint.h>

/* Opens or makes the file, mode 0600, and runs the schema. */
SP_MUST sp_err sp_sql_open(sqlite3 **out, const char *path, const char *schema, sp_diag *d);
sp_err sp_sql_error(sqlite3 *db, sp_diag *d);

/* Letters of types: s text (char *, may be NULL), S text of (pointer, size_t), i int64_t, f double,
 * b blob of (pointer, size_t), n null. Text and blobs are borrowed until the statement is
 * finalized. NULL on error. */
/* Binds from 1 on; letters as below. */
void sp_sql_bind(sqlite3_stmt *s, const char *types, va_list args);
sqlite3_stmt *sp_sql_query(sqlite3 *db, const char *sql, const char *types, ...);
SP_MUST sp_err sp_sql_run(sqlite3 *db, sp_diag *d, const char *sql, const char *types, ...);
/* The first column of the first row; SP_NOTFOUND when there is no row. */
SP_MUST sp_err sp_sql_int(sqlite3 *db, int64_t *out, sp_diag *d, const char *sql, const char *types,
                          ...);

SP_MUST sp_err sp_sql_begin(sqlite3 *db, sp_diag *d);
/* Commits when err is SP_OK, else rolls back and returns err. */
SP_MUST sp_err sp_sql_finish(sqlite3 *db, sp_err err, sp_diag *d);

/* A column's text as the arena's copy; *n its bytes, unless NULL. NULL: no memory. */
char *sp_sql_text(sp_arena *a, sqlite3_stmt *s, int i, size_t *n);

#endif
