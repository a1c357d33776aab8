/* A conversation as values: what a request asks a model's chat template to put into a prompt.
 *
 * Every text here is borrowed UTF-8. Arguments, tools and kwargs are JSON as text, so that a
 * message can be copied, stored and sent on without a tree; whoever takes them from outside checks
 * that they are JSON of the kind named.
 *
 * Threads: pure. */
#ifndef SP_TEXT_MESSAGE_H
#define SP_TEXT_MESSAGE_H

#include "base/mem.h"
#include "fmt/gguf.h"

/* A call of a tool, as an assistant's message holds it. */
typedef struct sp_chat_call {
    sp_str id;        /* may be empty */
    sp_str name;      /* of the function */
    sp_str arguments; /* a JSON object; empty: {}. A text that is not one reaches the template as a
                         string */
} sp_chat_call;

typedef struct sp_chat_msg {
    sp_str role;    /* system, developer, user, assistant, tool */
    sp_str content; /* empty where there is none; parts of text are joined by whoever reads them */
    sp_str name; /* of the speaker; of role tool: the function, found by call_id when it is empty */
    sp_str reasoning;         /* of an assistant: its thoughts, without their marks */
    const sp_chat_call *call; /* of an assistant: [n_call] */
    size_t n_call;
    sp_str call_id; /* of role tool: the call that this is the result of */
} sp_chat_msg;

typedef enum sp_chat_think { SP_THINK_UNSET, SP_THINK_OFF, SP_THINK_ON } sp_chat_think;

/* What a prompt is made of. */
typedef struct sp_chat_ask {
    const sp_chat_msg *msg; /* [n_msg] */
    size_t n_msg;
    sp_str tools;        /* JSON array of {"type": "function", "function": {...}}; empty: none */
    sp_str kwargs;       /* JSON object: more variables of the template; empty: none */
    sp_chat_think think; /* unset: as the template would have it */
    sp_str effort;       /* of reasoning, such as low; empty: unset */
    bool add_answer;     /* the prompt ends with the start of an assistant's turn */
    bool go_on; /* the prompt ends inside the last message, which the answer goes on with; not with
                   add_answer */
} sp_chat_ask;

/* A message of a role and a text alone; borrows both. */
sp_chat_msg sp_chat_say(const char *role, const char *text, size_t n);
/* Copies a message with all that it borrows into the arena. Errors: SP_NOMEM. */
SP_MUST sp_err sp_chat_msg_copy(sp_chat_msg *out, sp_arena *a, const sp_chat_msg *m);
/* The bytes of text that a message brings into a prompt. */
size_t sp_chat_msg_bytes(const sp_chat_msg *m);

#endif
