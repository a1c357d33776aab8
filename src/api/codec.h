/* A protocol, as far as a request for answers goes: how its body is read and how its answers are
 * written. The rest is the same for all of them: answer.c runs the turn, tells errors, keeps the
 * books.
 *
 * A codec lives in a file of its own and knows no other. Its state is a struct of its own, zeroed,
 * one for each request.
 * Threads: read on a worker; the others one at a time, on any thread. No call blocks. */
#ifndef SP_API_CODEC_H
#define SP_API_CODEC_H

#include "api/app.h"

#include <jansson.h>

typedef struct sp_codec {
    const char *span;        /* name of its spans: "chat" */
    const char *id_prefix;   /* of ids: "chatcmpl" */
    const char *stream_type; /* Content-Type of a stream */
    bool stream_is_default;  /* a request that does not say gets a stream */
    size_t state_bytes;
    /* Reads a body (an object) into ask, which has its defaults; on: the model that will answer, in
     * use until the state is closed. What it keeps must not borrow from body. On failure *bad names
     * the parameter (in body, or static). */
    sp_err (*read)(void *state, sp_ask *ask, const sp_app *app, const sp_served *on,
                   const json_t *body, const char **bad, sp_diag *d);
    /* One event of a stream; END and ERROR close it. An answer that is not streamed has no
     * events. */
    void (*event)(void *state, sp_buf *out, const sp_turn *t, const sp_turn_event *ev);
    void (*whole)(void *state, sp_buf *out, const sp_turn *t); /* all answers at once, as JSON */
    /* An answer that the request asked for before, as the stream or the object it asks for now;
     * NULL: no request of this kind can. */
    void (*stored)(void *state, sp_buf *out, const sp_turn *t, const sp_hdb_item *item);
    /* keeps a silent stream alive; NULL: nothing is sent */
    void (*ping)(sp_buf *out);
    /* the body of an error before anything was sent */
    void (*fail)(sp_buf *out, int status, const sp_turn_error *e);
    /* what stands before that body in a stream that has begun without an answer; NULL: "data: " */
    const char *error_event;
    /* frees what state holds; NULL: nothing */
    void (*close)(void *state);
} sp_codec;

/* One name a protocol. */
extern const sp_codec sp_codec_chat;       /* OpenAI /v1/chat/completions */
extern const sp_codec sp_codec_completion; /* OpenAI /v1/completions */
extern const sp_codec sp_codec_response;   /* OpenAI /v1/responses */
extern const sp_codec sp_codec_tokens;     /* vLLM /inference/v1/generate */
extern const sp_codec sp_codec_anthropic;  /* Anthropic /v1/messages */
extern const sp_codec sp_codec_ollama_chat;     /* Ollama /api/chat */
extern const sp_codec sp_codec_ollama_generate; /* Ollama /api/generate */

/* What several codecs do the same way (codec.c). */
#define SP_CODEC_SSE "text/event-stream; charset=utf-8"
/* top_p as the sampler takes it: the likeliest token is always there. */
float sp_api_top_p(double asked);
/* A text as the ask's own; *out is NULL where it is empty. Errors: SP_NOMEM, of text too. */
SP_MUST sp_err sp_api_keep(const char **out, sp_ask *ask, const sp_buf *text, sp_diag *d);
/* The arguments of a call as an object; those that broke off are kept as text in one. */
void sp_api_put_args(sp_buf *out, const sp_buf *args);
/* Tokens with their log-probabilities as objects, joined by commas: "token", "logprob", "bytes"
 * where asked for, "top_logprobs". */
void sp_api_put_logprobs(sp_buf *out, const sp_tok *vocab, const sp_event_tok *tok, size_t n,
                         bool bytes);
/* A comment, as the ping of an event stream. */
void sp_api_ping(sp_buf *out);

/* Where a request is answered. */
typedef struct sp_api_place {
    sp_app *app;
    /* the name of one that goes on without its client; NULL or "": it ends with it */
    const char *stream;
    const char *tenant; /* who pays, where the function is not told otherwise */
    /* the model; in use by the caller, and by what the functions below begin until that is
     * closed */
    sp_served *on;
} sp_api_place;

/* An error in the codec's words. on NULL: no model is in use. */
void sp_api_fail(sp_http_reply *reply, const sp_app *app, const sp_served *on,
                 const sp_codec *codec, const sp_turn_error *e);
/* The same for a request whose model cannot be used; the refusal is traced. asked: as the body
 * names it; NULL: it names none. */
void sp_api_refuse_model(sp_app *app, const sp_codec *codec, const sp_api_req *req,
                         const char *asked, const sp_turn_error *e, sp_http_reply *reply);
/* Answers a request: fills task, or reply with an error in the codec's words. */
void sp_api_answer(const sp_api_place *at, const sp_codec *codec, const sp_api_req *req,
                   const char *tenant, sp_http_reply *reply, sp_http_task *task);
/* POST /v1/plan: the plan of a body, without running it. */
void sp_api_plan(const sp_api_place *at, const sp_codec *codec, const sp_api_req *req,
                 const char *tenant, sp_http_reply *reply);
/* The prompt of a body, without running it. text: as the model reads it, else as token ids. */
typedef enum sp_api_render_kind { SP_RENDER_IDS, SP_RENDER_TEXT } sp_api_render_kind;
void sp_api_prompt(const sp_api_place *at, const sp_codec *codec, const sp_api_req *req,
                   const char *tenant, sp_api_render_kind kind, sp_http_reply *reply);
/* render.c: what sp_api_prompt writes. */
SP_MUST sp_err sp_api_render(sp_buf *out, sp_turn *t, sp_api_render_kind kind, sp_turn_error *e);
/* How many tokens the prompt of a body has, without running it. false: reply is an error in the
 * codec's words. */
bool sp_api_count(size_t *out, const sp_api_place *at, const sp_codec *codec, const sp_api_req *req,
                  const char *tenant, sp_http_reply *reply);
/* The code of OpenAI's error object; NULL: it has none. */
const char *sp_api_error_code(const sp_turn_error *e);
/* Its HTTP status. */
int sp_api_error_status(const sp_turn_error *e);

#endif
