/* Conversations in SQLite: items (messages) in order, the responses that ended at them, and two ways
 * to find an old one: words (FTS5) and vectors (an exact scan of int8).
 *
 * Durability: WAL with synchronous=FULL: what a function said SP_OK to survives a crash. Deleted text is
 * overwritten (secure_delete, merged FTS segments, truncated WAL).
 * An old conversation is frozen: its items become one zstd object, in the object store if there is one, else in
 * the file; reading it brings it back.
 * Tenants: every call names one, and sees nothing of others.
 *
 * Threads: one. Errors: SP_NOTFOUND; SP_IO with SQLite's words. */
#ifndef SP_PIPE_HISTORY_DB_H
#define SP_PIPE_HISTORY_DB_H

#include "base/mem.h"
#include "kv/cold.h"
#include "text/chat.h"

#include <stdbool.h>

typedef struct sp_hdb sp_hdb;

enum { SP_ID_BYTES = 48, SP_HDB_DIM = 384 };

typedef struct sp_hdb_item {
    char id[SP_ID_BYTES];
    int64_t seq;     /* unique over all conversations */
    int64_t pos;     /* 0, 1, … in its conversation */
    int64_t created; /* seconds since 1970 */
    size_t n_tok;    /* as the writer counted them */
    sp_str role, text; /* in the arena given, as the next */
    sp_str more;     /* JSON object of what the message holds beside them; empty: nothing */
    double score;    /* of a search */
} sp_hdb_item;

typedef struct sp_hdb_conv {
    char id[SP_ID_BYTES];
    int64_t created, updated, n_item;
    sp_str metadata; /* JSON object, in the arena given */
} sp_hdb_conv;

SP_MUST sp_err sp_hdb_open(sp_hdb **out, const char *path, const sp_kv_cold *cold, sp_diag *d);
/* As sp_rag_made_by, of conversations. */
SP_MUST sp_err sp_hdb_made_by(sp_hdb *h, const char *encoder, sp_diag *d);
void sp_hdb_close(sp_hdb *h);

/* Makes an id: prefix, underscore, 32 random hex digits. */
void sp_hdb_id(char out[SP_ID_BYTES], const char *prefix);

/* by_response: a response began it, as those of sp_hdb_fork; it goes when the last of its responses does. */
SP_MUST sp_err sp_hdb_create(sp_hdb *h, const char *tenant, const char *id, const char *metadata, bool by_response, sp_diag *d);
SP_MUST sp_err sp_hdb_get(sp_hdb *h, sp_arena *a, const char *tenant, const char *id, sp_hdb_conv *out, sp_diag *d);
SP_MUST sp_err sp_hdb_set_metadata(sp_hdb *h, const char *tenant, const char *id, const char *metadata, sp_diag *d);
/* Removes a conversation, or all of a tenant (id NULL). *n: conversations removed. */
SP_MUST sp_err sp_hdb_delete(sp_hdb *h, const char *tenant, const char *id, size_t *n, sp_diag *d);

/* Items [n] get ids, seq and pos; created 0 means now. response: NULL or the id of the answer that ends here. */
SP_MUST sp_err sp_hdb_append(sp_hdb *h, const char *tenant, const char *id, sp_hdb_item *item, size_t n, const char *response,
                             sp_diag *d);
/* Items at pos < end (INT64_MAX: all), in order. */
SP_MUST sp_err sp_hdb_items(sp_hdb *h, sp_arena *a, const char *tenant, const char *id, int64_t end, sp_hdb_item **out, size_t *n,
                            sp_diag *d);
/* The conversation and the end of a response. */
SP_MUST sp_err sp_hdb_response(sp_hdb *h, const char *tenant, const char *response, char id[SP_ID_BYTES], int64_t *end, sp_diag *d);
/* Keeps the JSON object that the client was answered with; nothing happens where there is no such
 * response. */
SP_MUST sp_err sp_hdb_set_object(sp_hdb *h, const char *tenant, const char *response, const char *object, sp_diag *d);
/* That object, in a; out->p is NULL where none was kept. */
SP_MUST sp_err sp_hdb_object(sp_hdb *h, sp_arena *a, const char *tenant, const char *response, sp_str *out, sp_diag *d);
/* Forgets a response, not its items. id: its conversation. *last: no response refers to that one any more, and a response began it. */
SP_MUST sp_err sp_hdb_drop(sp_hdb *h, const char *tenant, const char *response, char id[SP_ID_BYTES], bool *last, sp_diag *d);
/* A new conversation with the items of another at pos < end. */
SP_MUST sp_err sp_hdb_fork(sp_hdb *h, const char *tenant, const char *from, int64_t end, const char *id, sp_diag *d);

/* The best [cap] items before `end` by words of query, and by likeness to vec (NULL: words only), fused by
 * reciprocal rank. */
SP_MUST sp_err sp_hdb_search(sp_hdb *h, sp_arena *a, const char *tenant, const char *id, int64_t end, const char *query,
                             const int8_t *vec, size_t cap, sp_hdb_item **out, size_t *n, sp_diag *d);
/* An item that has no vector yet; SP_NOTFOUND when all have one. */
SP_MUST sp_err sp_hdb_unembedded(sp_hdb *h, sp_arena *a, sp_hdb_item *out);
SP_MUST sp_err sp_hdb_set_vector(sp_hdb *h, int64_t seq, const int8_t *vec, sp_diag *d);

/* Freezes one conversation not touched since `before`; SP_NOTFOUND when there is none. */
SP_MUST sp_err sp_hdb_freeze(sp_hdb *h, int64_t before, sp_diag *d);

#endif
