/* Conversations in SQLite, or in PostgreSQL for several servers: items (messages), the responses
 * that ended at them, and two ways to find an old one: words (FTS5, tsvector) and vectors (an exact
 * scan of int8).
 *
 * Items are a tree: each names the one before it, and a conversation its leaf. pos counts them as
 * they came, so that a parent always comes before its children. What is read as the conversation is
 * the path to the leaf, or to another item. What was deleted with a grace has the second in which
 * it goes (`gone`); until then it is hidden and can come back.
 *
 * Durability: what a function said SP_OK to survives a crash. Deleted text is overwritten in a file
 *             (secure_delete, merged FTS segments, truncated WAL); in PostgreSQL it goes with its
 *             VACUUM. An old conversation is frozen: its items become one zstd object, in the
 *             object store if there is one, else in its row; reading it brings it back.
 * Servers: a file has one. In PostgreSQL an answer in the making is its server's as long as the
 *          server's lease is renewed; then any other one says that it failed.
 * Tenants: every call names one, and sees nothing of others.
 *
 * Threads: one. Errors: SP_NOTFOUND; SP_IO with the database's words; SP_AGAIN while PostgreSQL
 *          cannot be reached. */
#ifndef SP_PIPE_HISTORY_DB_H
#define SP_PIPE_HISTORY_DB_H

#include "base/mem.h"
#include "kv/cold.h"
#include "text/chat.h"

#include <stdbool.h>

typedef struct sp_hdb sp_hdb;

enum { SP_ID_BYTES = 48, SP_HDB_DIM = 384 };

/* How an answer stands. Names: sp_hdb_status_name. */
typedef enum sp_hdb_status {
    SP_HDB_COMPLETE,
    SP_HDB_RUNNING,
    SP_HDB_CUT,     /* it was longer than it might be */
    SP_HDB_STOPPED, /* by a client */
    SP_HDB_FAILED
} sp_hdb_status;

typedef struct sp_hdb_item {
    char id[SP_ID_BYTES];
    char parent[SP_ID_BYTES]; /* "": it is the first */
    sp_hdb_status status;
    int64_t seq;     /* unique over all conversations */
    int64_t pos;     /* 0, 1, … in its conversation */
    int64_t created; /* seconds since 1970 */
    size_t n_tok;    /* as the writer counted them */
    sp_str role, text; /* in the arena given, as the next */
    sp_str more;     /* JSON object of what the message holds beside them; empty: nothing */
    sp_str receipt, sources; /* JSON objects; empty: there is none */
    size_t n_sibling; /* of sp_hdb_path: children of the same parent, itself included */
    double score;    /* of a search */
} sp_hdb_item;

typedef struct sp_hdb_conv {
    char id[SP_ID_BYTES];
    int64_t created, updated, n_item;
    int64_t end;     /* pos of the next item */
    char leaf[SP_ID_BYTES]; /* "": there are no items */
    bool pinned;
    bool live;       /* an answer is being written */
    sp_str metadata, settings; /* JSON objects, in the arena given, as the next */
    sp_str title;
    char found[SP_ID_BYTES]; /* of a list by words: the item that has them; "": the title has */
    sp_str snippet;  /* a part of its text, */
    size_t (*mark)[2]; /* [n_mark] in which these bytes are the words */
    size_t n_mark;
} sp_hdb_conv;

/* What is changed of a conversation; NULL: that stays. */
typedef struct sp_hdb_patch {
    const char *title, *settings, *metadata, *leaf;
    const bool *pinned;
} sp_hdb_patch;

/* As rows and exports write it; static. */
const char *sp_hdb_status_name(sp_hdb_status s);

/* path: a file, or postgresql://…. cold: borrowed. */
SP_MUST sp_err sp_hdb_open(sp_hdb **out, const char *path, const sp_kv_cold *cold, sp_diag *d);
/* This process writes answers from now on: what a server that ended was writing has failed.
 * lease_s: in PostgreSQL, so long it is believed to live after each renewal. */
SP_MUST sp_err sp_hdb_serve(sp_hdb *h, int64_t lease_s, sp_diag *d);
/* Renews the lease, and sees whose has run out. Nothing happens with a file. */
SP_MUST sp_err sp_hdb_renew(sp_hdb *h, sp_diag *d);
/* As sp_rag_made_by, of conversations. */
SP_MUST sp_err sp_hdb_made_by(sp_hdb *h, const char *encoder, sp_diag *d);
void sp_hdb_close(sp_hdb *h);

/* Makes an id: prefix, underscore, 32 random hex digits. */
void sp_hdb_id(char out[SP_ID_BYTES], const char *prefix);

/* by_response: a response began it, as those of sp_hdb_fork; it goes when the last of its responses
 * does. */
SP_MUST sp_err sp_hdb_create(sp_hdb *h, const char *tenant, const char *id, const char *metadata,
                             bool by_response, sp_diag *d);
/* The tenant's conversation of this id, its texts in a. SP_NOTFOUND. */
SP_MUST sp_err sp_hdb_get(sp_hdb *h, sp_arena *a, const char *tenant, const char *id,
                          sp_hdb_conv *out, sp_diag *d);
/* leaf: the newest item at or below this one. SP_NOTFOUND of it: *lost is set. */
SP_MUST sp_err sp_hdb_change(sp_hdb *h, const char *tenant, const char *id, const sp_hdb_patch *p,
                             bool *lost, sp_diag *d);
/* A page of the tenant's conversations that no response began, pinned ones first, then by their
 * last change. after: behind this one; NULL: from the first. words: those in whose texts or titles
 * all of them are, the last one as a beginning; NULL: all. */
SP_MUST sp_err sp_hdb_list(sp_hdb *h, sp_arena *a, const char *tenant, const char *after,
                           const char *words, size_t cap, sp_hdb_conv **out, size_t *n, sp_diag *d);
/* Removes a conversation, or all of a tenant (id NULL). *n: conversations removed. */
SP_MUST sp_err sp_hdb_delete(sp_hdb *h, const char *tenant, const char *id, size_t *n, sp_diag *d);

/* Items [n] get ids, seq and pos; created 0 means now. response: NULL or the id of the answer that
 * ends here. */
SP_MUST sp_err sp_hdb_append(sp_hdb *h, const char *tenant, const char *id, sp_hdb_item *item,
                             size_t n, const char *response, sp_diag *d);
/* The path to the last item at pos < end; INT64_MAX: to the leaf. */
SP_MUST sp_err sp_hdb_items(sp_hdb *h, sp_arena *a, const char *tenant, const char *id, int64_t end,
                            sp_hdb_item **out, size_t *n, sp_diag *d);
/* The path to an item (NULL: the leaf), from the first on; of it the last cap before `before`
 * (NULL: at its end). below: to the newest item below it. *more: there are some before them.
 * SP_NOTFOUND also of the items that are named. */
typedef struct sp_hdb_path_args {
    const char *to, *before;
    bool below;
    size_t cap;
} sp_hdb_path_args;
SP_MUST sp_err sp_hdb_path(sp_hdb *h, sp_arena *a, const char *tenant, const char *id,
                           const sp_hdb_path_args *p, sp_hdb_item **out, size_t *n, bool *more,
                           sp_diag *d);
/* All items of a conversation, of every branch, as they came. */
SP_MUST sp_err sp_hdb_all(sp_hdb *h, sp_arena *a, const char *tenant, const char *id,
                          sp_hdb_item **out, size_t *n, sp_diag *d);
/* Ids of the children of a parent ("": the first ones), in order, as JSON strings joined by
 * commas. */
SP_MUST sp_err sp_hdb_children(sp_hdb *h, const char *conv, const char *parent, sp_buf *out,
                               sp_diag *d);
/* One item, and the last one below it; SP_NOTFOUND. */
SP_MUST sp_err sp_hdb_item_get(sp_hdb *h, sp_arena *a, const char *tenant, const char *conv,
                               const char *id, sp_hdb_item *out, sp_diag *d);

/* Items [n], each the next one's parent, behind the parent that the first one names; the last
 * becomes the leaf. Their ids are given, and are refused with SP_INVAL where the conversation has
 * them. */
SP_MUST sp_err sp_hdb_grow(sp_hdb *h, const char *tenant, const char *conv, sp_hdb_item *item,
                           size_t n, sp_diag *d);
/* The text of an answer in the making, as far as it is. Nothing happens where it is not running. */
SP_MUST sp_err sp_hdb_draft(sp_hdb *h, const char *tenant, const char *conv, const char *id,
                            sp_str text, sp_diag *d);
/* It is over: text, more, n_tok, status, receipt and sources of it are kept. Nothing happens where
 * it is not running. */
SP_MUST sp_err sp_hdb_finish(sp_hdb *h, const char *tenant, const char *conv, const sp_hdb_item *it,
                             sp_diag *d);

/* Removal with a grace: a conversation, or (item not NULL) one message, whose children then are its
 * parent's. due: when; restore takes it back until then. SP_NOTFOUND. */
SP_MUST sp_err sp_hdb_hide(sp_hdb *h, const char *tenant, const char *conv, const char *item,
                           int64_t due, sp_diag *d);
SP_MUST sp_err sp_hdb_restore(sp_hdb *h, const char *tenant, const char *conv, const char *item,
                              sp_diag *d);
/* Something whose time has come. item "": the whole conversation. SP_NOTFOUND: there is nothing. */
typedef struct sp_hdb_due {
    char tenant[64], conv[SP_ID_BYTES], item[SP_ID_BYTES];
} sp_hdb_due;
SP_MUST sp_err sp_hdb_next_due(sp_hdb *h, int64_t now, sp_hdb_due *out, sp_diag *d);
/* A conversation, or (conv "") a tenant, of which another server deleted something: its pages are
 * to go here too. Then sp_hdb_forgot its number. SP_NOTFOUND: there is none. */
SP_MUST sp_err sp_hdb_next_forgotten(sp_hdb *h, sp_hdb_due *out, int64_t *seq, sp_diag *d);
/* What has numbers up to seq has been seen to here. */
void sp_hdb_forgot(sp_hdb *h, int64_t seq);
/* The message goes, at once. */
SP_MUST sp_err sp_hdb_remove_item(sp_hdb *h, const char *tenant, const char *conv, const char *item,
                                  sp_diag *d);

/* Makes the index of words of a few items that have none, of files that an earlier version wrote.
 * *left: there may be more. */
SP_MUST sp_err sp_hdb_index_some(sp_hdb *h, bool *left, sp_diag *d);

/* The conversation and the end of a response. */
SP_MUST sp_err sp_hdb_response(sp_hdb *h, const char *tenant, const char *response,
                               char id[SP_ID_BYTES], int64_t *end, sp_diag *d);
/* Keeps the JSON object that the client was answered with; nothing happens where there is no such
 * response. */
SP_MUST sp_err sp_hdb_set_object(sp_hdb *h, const char *tenant, const char *response,
                                 const char *object, sp_diag *d);
/* That object, in a; out->p is NULL where none was kept. */
SP_MUST sp_err sp_hdb_object(sp_hdb *h, sp_arena *a, const char *tenant, const char *response,
                             sp_str *out, sp_diag *d);
/* Forgets a response, not its items. id: its conversation. *last: no response refers to that one
 * any more, and a response began it. */
SP_MUST sp_err sp_hdb_drop(sp_hdb *h, const char *tenant, const char *response,
                           char id[SP_ID_BYTES], bool *last, sp_diag *d);
/* A new conversation with the items of another at pos < end. */
SP_MUST sp_err sp_hdb_fork(sp_hdb *h, const char *tenant, const char *from, int64_t end,
                           const char *id, sp_diag *d);

/* The best [cap] items before `end` by words of query, and by likeness to vec (NULL: words only),
 * fused by reciprocal rank. */
SP_MUST sp_err sp_hdb_search(sp_hdb *h, sp_arena *a, const char *tenant, const char *id,
                             int64_t end, const char *query, const int8_t *vec, size_t cap,
                             sp_hdb_item **out, size_t *n, sp_diag *d);
/* An item that has no vector yet; SP_NOTFOUND when all have one. */
SP_MUST sp_err sp_hdb_unembedded(sp_hdb *h, sp_arena *a, sp_hdb_item *out);
/* The vector of the item of that number. */
SP_MUST sp_err sp_hdb_set_vector(sp_hdb *h, int64_t seq, const int8_t *vec, sp_diag *d);

/* Freezes one conversation not touched since `before`; SP_NOTFOUND when there is none. */
SP_MUST sp_err sp_hdb_freeze(sp_hdb *h, int64_t before, sp_diag *d);

#endif
