/* What the three files of a completion share: completion_read.c (a body becomes a request), completion.c (it is run) and
 * completion_write.c (answers). */
#ifndef SP_API_COMPLETION_INT_H
#define SP_API_COMPLETION_INT_H

#include "api/completion.h"
#include "api/file_search.h"
#include "api/params.h"
#include "api/structured.h"
#include "base/mem.h"

enum { MAX_CHOICE = 16 };

typedef struct choice {
    sp_job *job;
    bool ended, opened;
    sp_finish finish;
    sp_buf text;     /* whole answer, when not streaming */
    sp_buf logprobs; /* JSON entries so far, joined by commas */
} choice;

typedef struct request {
    sp_app *app;
    bool chat, stream, include_usage, logprobs;
    char id[40];
    int64_t created;
    choice choice[MAX_CHOICE];
    size_t n_choice, n_ended;
    size_t n_prompt_tok; /* each prompt counted once */
    sp_receipt receipt;
    sp_diag error;       /* code != SP_OK: the request failed */
    /* with a conversation: PREPARE, the answer, SAVE; with documents: a search before the answer */
    sp_history_op *prepare, *save;
    sp_know_op *find;
    bool splice;             /* passages are computed by themselves and put in place */
    bool insist;             /* passages go into the prompt even if they do not bear on the question */
    size_t n_passage, n_fact; /* of find's hits and facts, in the prompt */
    sp_session_cfg *session; /* until the prompt is there */
    int64_t max_tok, seed, n;
    size_t n_new;            /* messages of the request */
    sp_chat_msg *new_msg;    /* in prepare's or find's arena */
    char tenant[SP_TENANT_BYTES];
    sp_http_conn *conn;
    sp_structured parts;       /* parts of the prompt; message.len 0: it has none */
    sp_arena arena;            /* of the parts */
    sp_buf pattern;            /* what the answer may be; empty: anything */
    char *dense[SP_DENSE_MAX]; /* texts that attention never leaves out */
    size_t n_dense;
} request;

typedef struct body {
    const char *model;
    const char *conversation, *previous;
    bool store;
    const json_t *messages, *prompt, *stop, *logit_bias, *stream_options, *response_format, *logprobs;
    bool stream, ignore_eos, splice;
    double temperature, top_p, min_p, presence, frequency, repetition, epsilon, keep;
    const json_t *sparing, *dense, *tools, *tool_choice;
    int64_t top_k, max_tok, n, seed, top_logprobs;
    const char *regex;
    const json_t *choices, *part[SP_PARTS];
    bool structured;
} body;

/* completion_read.c: everything of the body but messages and prompt. bad: the parameter that is wrong. */
SP_MUST sp_err sp_completion_read(request *r, body *b, sp_session_cfg *session, const json_t *j, const char **bad, sp_diag *d);
bool sp_completion_has_parts(const body *b);
/* Each answer compiles its own; here only to name the parameter that is wrong. */
SP_MUST sp_err sp_completion_check_pattern(const request *r, sp_diag *d);

/* completion_write.c: takes in what the jobs have, and writes it to a stream (out), or keeps it (NULL). */
void sp_completion_drain(request *r, sp_buf *out);
void sp_completion_put(sp_buf *out, const request *r); /* a whole answer */
void sp_completion_end(sp_buf *out, const request *r); /* the last lines of a stream */

#endif
