/* What the files of OpenAI's completions share: completion_read.c (parameters), completion_deep.c
 * (unsure answers), completion_control.c (rules), completion.c (messages, prompts, the codecs),
 * completion_write.c (answers) and completion_legacy.c (what only /v1/completions has). */
#ifndef SP_API_COMPLETION_INT_H
#define SP_API_COMPLETION_INT_H

#include "api/codec.h"
#include "api/file_search.h"
#include "api/params.h"
#include "api/structured.h"

/* The codecs' state: what of a request the answer's form depends on. */
typedef struct request {
    const sp_app *app;
    const sp_served *on; /* the model that answers */
    sp_ask *ask;
    bool chat, include_usage, logprobs;
    bool as_text;        /* of token ids in and out: text comes beside them */
    bool echo;           /* the prompt is part of the text */
    uint32_t begun;      /* a bit for each answer: its text has begun */
    size_t n_char[SP_ASK_CHOICES]; /* characters before the next token of each, for text_offset */
    int64_t created;
    sp_structured parts; /* parts of the prompt; message.len 0: it has none */
    sp_buf ignored;      /* parameters that were accepted and had no effect; see known.h */
    sp_buf pattern;      /* what the answer may be; empty: anything */
    sp_buf loose;        /* what of its schema is not enforced, as in gen/schema.h */
} request;

typedef struct format { /* what the answer may be, as it was asked for */
    const json_t *response, *choices;   /* response_format, sparing.choices */
    const char *regex, *grammar, *gbnf; /* sparing.regex, sparing.grammar, grammar */
    const json_t *structured, *guided_json, *guided_choice, *json_schema;
    const char *guided_regex, *guided_grammar;
} format;

/* A body as it was read, before anything follows from it; borrowed from the JSON. */
typedef struct body {
    const char *model;
    const char *conversation, *previous, *message;
    const json_t *parent;
    bool at_root; /* parent is null */
    bool store;
    const json_t *messages, *prompt, *stop, *logit_bias, *stream_options, *logprobs;
    bool stream, ignore_eos, splice, echo, keep_stop, no_answer;
    const json_t *stop_ids, *prediction;
    const char *suffix, *effort;
    const json_t *kwargs, *reasoning, *think, *opens;
    bool go_on;
    int64_t best_of, min_tok, last_tok, urgency;
    double temperature, top_p, min_p, presence, frequency, repetition, epsilon, keep;
    const json_t *references, *control, *uncertain;
    bool costs;
    const json_t *sparing, *dense, *tools, *tool_choice;
    int64_t top_k, max_tok, n, seed, top_logprobs;
    const char *path, *data_class;
    const json_t *forbid, *drafters;
    bool is_private, draft_fixed;
    int64_t priority, votes, think_tok, draft, nearest;
    double deadline_ms, least_known;
    const char *salt;
    format format;
    const json_t *part[SP_PARTS];
    bool structured, one_call;
} body;

/* completion_read.c: everything of the body but messages and prompt, into the ask. bad: the
 * parameter that is wrong. */
SP_MUST sp_err sp_completion_read(request *r, body *b, const json_t *j, const char **bad,
                                  sp_diag *d);
bool sp_completion_has_parts(const body *b);
/* completion_deep.c. sparing.uncertain as an object, behind everything else of sparing. */
SP_MUST sp_err sp_completion_deep(request *r, const body *b, sp_diag *d);
/* completion_control.c. sparing.control, behind the log-probabilities, forms and tools. */
SP_MUST sp_err sp_completion_control(request *r, const body *b, sp_diag *d);
/* completion_tree.c. message_id and parent, behind the messages; NULL messages count as none. */
SP_MUST sp_err sp_completion_tree(request *r, const body *b, const char **bad, sp_diag *d);
/* An answer that was given before: as a stream, or as an object. */
void sp_completion_stored(void *state, sp_buf *out, const sp_turn *t, const sp_hdb_item *item);
/* completion_format.c. What the answer may be, as a pattern, compiled. */
SP_MUST sp_err sp_completion_format(request *r, const body *b, const char **bad, sp_diag *d);
/* Compiles the pattern into the ask, if there is one. */
SP_MUST sp_err sp_completion_compile(request *r, sp_diag *d);

/* completion.c, for codecs that are read as /v1/completions. */
SP_MUST sp_err sp_completion_read_plain(void *state, sp_ask *ask, const sp_app *app,
                                        const sp_served *on, const json_t *j, const char **bad,
                                        sp_diag *d);
void sp_completion_fail(sp_buf *out, int status, const sp_turn_error *e);
void sp_completion_close(void *state);

/* completion_write.c; state is a request. */
const char *sp_completion_finish(sp_finish f); /* as finish_reason has it */
/* of an object, which stays open */
void sp_completion_head(sp_buf *out, const request *r, const sp_turn *t);
void sp_completion_usage(sp_buf *out, const sp_turn *t);
void sp_completion_event(void *state, sp_buf *out, const sp_turn *t, const sp_turn_event *ev);
void sp_completion_whole(void *state, sp_buf *out, const sp_turn *t);

/* completion_legacy.c. The prompt of an answer; its text; its tokens with log-probabilities, if
 * they are known (n 0: they are not). */
const sp_ask_prompt *sp_legacy_prompt(const sp_turn *t, size_t choice);
void sp_legacy_echo(sp_buf *out, const sp_tok *tok, const sp_ask_prompt *p);
const sp_event_tok *sp_legacy_prompt_tok(const sp_turn *t, size_t choice, size_t *n);
/* Before the first of an answer is written: where its tokens begin. */
void sp_legacy_begin(request *r, const sp_turn *t, size_t choice);
/* The member logprobs with its comma: of tokens of the prompt, then of the answer. */
void sp_legacy_logprobs(sp_buf *out, request *r, const sp_turn *t, size_t choice,
                        const sp_event_tok *prompt, size_t n_prompt, const sp_event_tok *tok,
                        size_t n_tok);

#endif
