/* Conversations as a file that another server takes, or that people read.
 *
 * {"object": "sparing.conversations", "version": 1, "conversations": [{"id", "title", "pinned",
 * "created_at", "updated_at", "leaf", "settings", "metadata", "items": [{"id", "parent", "role",
 * "state", "created_at", "text", "more", "receipt", "sources"}]}]}: items in the order in which
 * they came, a parent before its children.
 * Threads: that of the database. Errors: SP_INVAL says which conversation is wrong, and that those
 *          before it are there; SP_LIMIT. */
#ifndef SP_PIPE_HISTORY_PORT_H
#define SP_PIPE_HISTORY_PORT_H

#include "pipe/history_db.h"

#include <jansson.h>

/* One conversation, or (id NULL) all that no response began. */
SP_MUST sp_err sp_history_export(sp_hdb *db, sp_arena *a, const char *tenant, const char *id,
                                 bool markdown, sp_buf *out, sp_diag *d);
/* out: {"object": "import", "conversations", "items", "ids"}. An id that is taken is replaced by a
 * new one. */
SP_MUST sp_err sp_history_import(sp_hdb *db, const char *tenant, const json_t *from, sp_buf *out,
                                 sp_diag *d);

#endif
