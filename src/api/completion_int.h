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
    sp_call *call;   /* instead of a job, when it is answered upstream */
    bool ended, opened, given; /* given: some of its text has left */
    sp_finish finish;
    sp_buf text;     /* whole answer, when not streaming */
    sp_buf logprobs; /* JSON entries so far, joined by commas */
    json_t *calls;   /* tool calls of another server, put together; NULL: none */
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
    double t_begin, ms_first;   /* t_begin: nanoseconds */
    sp_trace trace;
    double wall_ns;             /* when it came, since 1970 */
    /* what is to be done with it, and why */
    sp_plan_ask ask;
    sp_plan plan;
    bool unsure, escalated;  /* a light answer was given up, and is not yet replaced; it was */
    sp_call_cfg away;        /* what goes upstream; strings in arena */
    int priority;
    double deadline_ms;
    sp_chat_msg *msg;        /* [n_msg] of the prompt; in arena, or prepare's */
    size_t n_msg;
    sp_str question;         /* the last message before passages went into it; p NULL: none did */
    sp_diag error;       /* code != SP_OK: the request failed */
    /* with a conversation: PREPARE, the answer, SAVE; with documents: a search before the answer */
    sp_history_op *prepare, *save;
    sp_know_op *find;
    bool find_auto;          /* the server looks, not the request */
    bool splice;             /* passages are computed by themselves and put in place */
    size_t n_near;           /* sentences nearest to the question that stand beside it once more */
    bool insist;             /* passages go into the prompt even if they do not bear on the question */
    size_t n_passage, n_fact; /* of find's hits and facts, in the prompt */
    size_t n_left;           /* hits behind n_passage that bear on the question and did not fit */
    sp_session_cfg *session; /* of a chat; lives as long as the request */
    bool pending;            /* prepare, find or both are awaited */
    int64_t max_tok, seed, n;
    size_t n_new;            /* messages of the request, in a conversation */
    sp_chat_msg *new_msg;    /* in prepare's arena */
    char tenant[SP_TENANT_BYTES];
    sp_work *work;
    sp_structured parts;       /* parts of the prompt; message.len 0: it has none */
    sp_arena arena;            /* of the parts */
    sp_buf ignored;            /* parameters that were accepted and had no effect; see known.h */
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
    const char *regex, *path;
    const json_t *forbid;
    bool is_private;
    int64_t priority, votes, think_tok, draft, nearest;
    double deadline_ms;
    const json_t *choices, *part[SP_PARTS];
    bool structured;
} body;

/* completion_read.c: everything of the body but messages and prompt. bad: the parameter that is wrong. */
SP_MUST sp_err sp_completion_read(request *r, body *b, sp_session_cfg *session, const json_t *j, const char **bad, sp_diag *d);
bool sp_completion_has_parts(const body *b);
/* As the server was told to: passages come in where they bear on the question. */
SP_MUST sp_err sp_completion_look(request *r, sp_diag *d);
/* Each answer compiles its own; here only to name the parameter that is wrong. */
SP_MUST sp_err sp_completion_check_pattern(const request *r, sp_diag *d);

/* completion_write.c. The request's receipt: the sum over its answers, and what its plan says. */
void sp_completion_receipt(sp_receipt *out, const request *r);
void sp_completion_put_plan(sp_buf *out, const request *r);
/* Takes in what the jobs have, and writes it to a stream (out), or keeps it (NULL). */
void sp_completion_drain(request *r, sp_buf *out);
void sp_completion_vote(request *r, sp_buf *out); /* all answers are there: the most common one becomes the answer */
void sp_completion_put(sp_buf *out, const request *r); /* a whole answer */
void sp_completion_end(sp_buf *out, const request *r); /* the last lines of a stream */

#endif
