/* What the files of OpenAI's responses share: response.c (parameters, the codec), response_items.c
 * (input), response_write.c (the object and its items), response_stream.c (events). */
#ifndef SP_API_RESPONSE_INT_H
#define SP_API_RESPONSE_INT_H

#include "api/codec.h"
#include "api/file_search.h"
#include "api/known.h"

/* What is being written of an answer's output. */
typedef enum sp_response_item {
    SP_ITEM_NONE,
    SP_ITEM_REASONING,
    SP_ITEM_MESSAGE,
    SP_ITEM_CALL
} sp_response_item;

/* The codec's state. */
typedef struct sp_response {
    const sp_app *app;
    const sp_served *on; /* the model that answers */
    int64_t created;
    bool results;     /* the answer shows what a search found */
    const char *echo; /* JSON members that say what was asked; in the ask's arena */
    sp_buf ignored;   /* see known.h */
    /* a stream */
    size_t sequence;    /* number of the next event */
    bool begun, listed; /* its head was written; what was searched was written */
    sp_response_item open;
    size_t n_item;                    /* items before the open one */
    size_t from, n_text, n_reasoning; /* bytes of the answer: where the open item begins, and how
                                         many were written */
    size_t call;                      /* the open call */
    sp_buf output;                    /* JSON of the items that are whole, joined by commas */
    sp_finish finish;
} sp_response;

/* response_items.c: input, a string or items, as messages behind the n that are there already.
 * Reasoning, text and calls of one turn of the assistant's become one message. *n_call: calls and
 * results among them. Errors: SP_INVAL and SP_UNSUP name the item. */
SP_MUST sp_err sp_response_items(sp_chat_msg **msg, size_t *n_msg, size_t *n_call, sp_arena *a,
                                 const json_t *input, const sp_lists *lists, sp_diag *d);

/* response_write.c. The id of an item: a prefix, the hexadecimal digits of its answer's or
 * message's id, and its place there. */
void sp_response_put_id(sp_buf *out, const char *prefix, const char *id, size_t index);
/* Items, as JSON objects. done: with what they hold, else empty and in progress. */
void sp_response_put_search(sp_buf *out, const sp_response *r, const sp_turn *t, size_t index);
void sp_response_put_reasoning(sp_buf *out, const char *id, size_t index, sp_str text, bool done);
void sp_response_put_call(sp_buf *out, const char *id, size_t index, const sp_chat_call *call,
                          bool done);
/* content: its parts as JSON, joined by commas. */
void sp_response_put_message(sp_buf *out, const char *id, size_t index, const char *status,
                             const char *role, const char *content);
/* The content part of a message; with its annotations when it is whole. */
void sp_response_put_part(sp_buf *out, const sp_turn *t, sp_str text, bool done);
/* The n-th annotation of the answer. */
void sp_response_put_annotation(sp_buf *out, const sp_turn *t, size_t i);
/* A call of an answer, borrowed. */
sp_chat_call sp_response_call(const sp_turn_call *c);
/* The status of a message. */
const char *sp_response_message_status(sp_finish finish);
/* The object. output: its items, joined by commas; usage: is it known? */
void sp_response_put(sp_buf *out, const sp_response *r, const sp_turn *t, const char *status,
                     const char *output, bool usage);
const char *sp_response_status(sp_finish finish);
void sp_response_whole(void *state, sp_buf *out, const sp_turn *t); /* state: an sp_response */

/* response_kept.c: keeps the object of an answer that is kept, for who asks for it later. Should
 * that fail, it is logged: the answer is on its way, and its messages are kept all the same. */
void sp_response_keep(const sp_response *r, const sp_turn *t, const char *object, size_t n);

/* response_stream.c; state: an sp_response. */
void sp_response_event(void *state, sp_buf *out, const sp_turn *t, const sp_turn_event *ev);

#endif
