/* What the files of the database of conversations share: history_schema.c (tables, versions, who
 * owns what), history_db.c (conversations, items, responses), history_tree.c (messages as a tree),
 * history_ice.c (frozen conversations) and history_find.c (search, lists).
 *
 * Where several servers write: whoever changes a conversation's items has its row first, by
 * sp_hdb_hold in a transaction. */
#ifndef SP_PIPE_HISTORY_DB_INT_H
#define SP_PIPE_HISTORY_DB_INT_H

#include "base/db.h"
#include "pipe/history_db.h"

struct sp_hdb {
    sp_db *db;
    const sp_kv_cold *cold; /* NULL: frozen items stay in the database */
    bool is_pg;
    char self[24];       /* owner of the answers that this server writes */
    int64_t lease_s;     /* 0: no other server writes here, or this one does not */
    int64_t n_forgotten; /* number of the last row of what others deleted that was obeyed */
};

/* history_schema.c. In a transaction that deletes: the other servers' pages of it are to go too.
 * conv NULL: all of the tenant's. */
SP_MUST sp_err sp_hdb_tell_others(sp_hdb *h, const char *tenant, const char *conv, sp_diag *d);

/* history_db.c. A column in the arena; p NULL: no memory. */
sp_str sp_hdb_column(sp_arena *a, sp_rows *r, int i);
/* The conversation is nobody else's until the transaction ends. SP_NOTFOUND. */
SP_MUST sp_err sp_hdb_hold(sp_hdb *h, const char *conv, sp_diag *d);
/* After a deletion, in its transaction: no index holds deleted words. */
SP_MUST sp_err sp_hdb_scrub(sp_hdb *h, sp_diag *d);
/* "SELECT … FROM item ", and a row of it. */
extern const char sp_hdb_columns[];
SP_MUST sp_err sp_hdb_read(sp_arena *a, sp_rows *r, sp_hdb_item *out, sp_diag *d);
/* All of it but seq, which is set. vec [n_vec]; n_vec 0: none yet. */
SP_MUST sp_err sp_hdb_insert(sp_hdb *h, const char *conv, sp_hdb_item *it, const void *vec,
                             size_t n_vec, sp_diag *d);
sp_err sp_hdb_not_found(const char *id, sp_diag *d);
/* SP_NOTFOUND; a conversation that waits for its removal is not there. */
SP_MUST sp_err sp_hdb_exists(sp_hdb *h, const char *tenant, const char *id, sp_diag *d);
/* The words of a text for the index, in out. */
SP_MUST sp_err sp_hdb_words(sp_buf *out, sp_str text, sp_diag *d);
/* The title that a conversation without one gets from what was said. */
SP_MUST sp_err sp_hdb_entitle(sp_hdb *h, const char *id, sp_str said, sp_diag *d);
/* The same where there is none. */
SP_MUST sp_err sp_hdb_entitle_bare(sp_hdb *h, const char *id, sp_str said, sp_diag *d);

/* Likewise of conversations. */
extern const char sp_hdb_conv_columns[];
SP_MUST sp_err sp_hdb_read_conv(sp_arena *a, sp_rows *r, sp_hdb_conv *out, sp_diag *d);

/* history_tree.c. The newest item at or below one. SP_NOTFOUND. */
SP_MUST sp_err sp_hdb_newest(sp_hdb *h, sp_arena *a, const char *tenant, const char *conv,
                             const char *id, sp_hdb_item *out, sp_diag *d);

/* history_ice.c. A frozen conversation lives again before anything reads its items. */
SP_MUST sp_err sp_hdb_thaw(sp_hdb *h, const char *tenant, const char *id, sp_diag *d);

#endif
