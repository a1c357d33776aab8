/* A database behind one small interface: SQLite in a file, or PostgreSQL behind a URL. Statements
 * are SQL that both know, with ? or ?1 for values; where they differ, sp_db_is_pg says which it is.
 *
 * PostgreSQL holds neither U+0000 nor text that is not UTF-8: both come into it as U+FFFD. SQLite
 * keeps its prepared statements. Deleted text is overwritten there (secure_delete); in PostgreSQL
 * it goes with its VACUUM. What said SP_OK survives a crash. A connection that broke is made anew
 * by the next call outside of a transaction.
 * Threads: a database belongs to one thread at a time. Errors: SP_IO with the database's words,
 * SP_AGAIN while PostgreSQL cannot be reached, SP_NOMEM. */
#ifndef SP_BASE_DB_H
#define SP_BASE_DB_H

#include "base/err.h"
#include "base/mem.h"

#include <stdint.h>

typedef struct sp_db sp_db;
typedef struct sp_rows sp_rows;

/* postgresql://… or postgres://… */
bool sp_db_is_url(const char *path);
/* Runs the schema of the kind that path is. */
SP_MUST sp_err sp_db_open(sp_db **out, const char *path, const char *sqlite, const char *postgres,
                          sp_diag *d);
/* NULL allowed. */
void sp_db_close(sp_db *db);
bool sp_db_is_pg(const sp_db *db); /* PostgreSQL, not a file */
/* What the last call failed with: SP_IO, SP_NOMEM; SP_AGAIN while PostgreSQL cannot be reached. */
sp_err sp_db_error(sp_db *db, sp_diag *d);

/* Several statements without values. */
SP_MUST sp_err sp_db_script(sp_db *db, const char *sql, sp_diag *d);
/* Letters of types: s text (char *, may be NULL), S text of (pointer, size_t), i int64_t, b blob of
 * (pointer, size_t); a pointer that is NULL stands for NULL. Borrowed until sp_rows_end. NULL on
 * error. */
sp_rows *sp_db_query(sp_db *db, const char *sql, const char *types, ...);
/* One statement that gives no rows; types as of sp_db_query. Errors: of sp_db_error. */
SP_MUST sp_err sp_db_run(sp_db *db, sp_diag *d, const char *sql, const char *types, ...);
/* The first column of the first row; SP_NOTFOUND when there is no row. */
SP_MUST sp_err sp_db_int(sp_db *db, int64_t *out, sp_diag *d, const char *sql, const char *types,
                         ...);
/* Rows the last sp_db_run changed. */
int64_t sp_db_changes(const sp_db *db);
/* A transaction, until sp_db_finish; there is one at a time. */
SP_MUST sp_err sp_db_begin(sp_db *db, sp_diag *d);
/* Commits when err is SP_OK, else rolls back and returns err. */
SP_MUST sp_err sp_db_finish(sp_db *db, sp_err err, sp_diag *d);
/* After deletions: what was deleted leaves the log too. */
SP_MUST sp_err sp_db_settle(sp_db *db, sp_diag *d);

/* false: there are no more, or an error, which sp_rows_end tells. */
bool sp_rows_next(sp_rows *r);
/* Frees; r may be NULL. Gives err or, where that is SP_OK, SP_IO if the rows did not end well. */
SP_MUST sp_err sp_rows_end(sp_rows *r, sp_err err, sp_diag *d);
/* Of no row: SP_NOTFOUND without a diagnosis. r NULL: the query's error. */
SP_MUST sp_err sp_rows_first(sp_db *db, sp_rows *r, sp_diag *d);
bool sp_rows_is_null(sp_rows *r, int i);
int64_t sp_rows_int(sp_rows *r, int i);                        /* of a condition 0 or 1 */
const char *sp_rows_str(sp_rows *r, int i);                    /* "" for NULL; until the next row */
size_t sp_rows_bytes(sp_rows *r, int i);                       /* of that text */
const void *sp_rows_blob(sp_rows *r, int i, size_t *n);        /* NULL, 0 for NULL */
/* the arena's copy; NULL: no memory */
char *sp_rows_keep(sp_arena *a, sp_rows *r, int i);

#endif
