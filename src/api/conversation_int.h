/* What the files of /v1/conversations share: conversation.c (requests) and conversation_write.c
 * (answers). */
#ifndef SP_API_CONVERSATION_INT_H
#define SP_API_CONVERSATION_INT_H

#include "api/conversation.h"
#include "api/file_search.h"

/* An object that stays open. */
void sp_conversation_put(sp_buf *out, const sp_hdb_conv *c);
void sp_conversation_put_list(sp_buf *out, const sp_history_op *op, size_t limit);
/* As OpenAI's clients know it; found: by a search. */
void sp_conversation_put_item(sp_buf *out, sp_arena *a, const sp_hdb_item *it, bool found);
/* As a part of a tree, with what is known of an answer. siblings: JSON strings, joined by commas;
 * NULL: it is alone. */
void sp_conversation_put_message(sp_buf *out, sp_arena *a, const sp_hdb_item *it,
                                 const char *siblings);
void sp_conversation_put_path(sp_buf *out, sp_history_op *op);

#endif
