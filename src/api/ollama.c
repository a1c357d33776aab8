/* Ollama's /api/chat and /api/generate: answers as lines of JSON or as one object, errors, the
 * codecs.
 * Source: the shapes of Ollama's API as its clients read them (ollama 0.6.3 for Python). */
#include "api/ollama_int.h"

#include "api/ollama.h"
#include "base/clock.h"

#include <stdio.h>
#include <string.h>

void sp_ollama_error(sp_buf *out, int status, const char *message)
{
    (void)status;
    sp_buf_puts(out, "{\"error\":");
    sp_buf_json_str(out, message, strlen(message));
    sp_buf_putc(out, '}');
}

static void fail(sp_buf *out, int status, const sp_turn_error *e)
{
    sp_ollama_error(out, status, e->diag.msg);
}

void sp_ollama_time(sp_buf *out)
{
    struct timespec now;
    struct tm tm;
    char text[32];
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &tm);
    sp_buf_printf(out, "\"%s.%06ldZ\"", text, now.tv_nsec / 1000);
}

/* --- parts of an object ----------------------------------------------------------------------- */

static void put_head(sp_buf *out, const sp_turn *t)
{
    const char *name = sp_turn_env_of(t)->name;
    sp_buf_puts(out, "{\"model\":");
    sp_buf_json_str(out, name, strlen(name));
    sp_buf_puts(out, ",\"created_at\":");
    sp_ollama_time(out);
}

/* Calls [first, end) of an answer. */
static void put_calls(sp_buf *out, const sp_turn_answer *a, size_t first, size_t end)
{
    sp_buf_puts(out, ",\"tool_calls\":[");
    for (size_t i = first; i < end; i++) {
        const sp_turn_call *c = &a->call[i];
        sp_buf_puts(out, i > first ? ",{\"id\":" : "{\"id\":");
        sp_buf_json_str(out, sp_buf_str(&c->id), c->id.len);
        sp_buf_printf(out, ",\"function\":{\"index\":%zu,\"name\":", i);
        sp_buf_json_str(out, sp_buf_str(&c->name), c->name.len);
        sp_buf_puts(out, ",\"arguments\":");
        sp_api_put_args(out, &c->args);
        sp_buf_puts(out, "}}");
    }
    sp_buf_putc(out, ']');
}

/* The text of a line: of a message, or the response. */
static void open_text(sp_buf *out, const request *r, sp_str text, sp_str thinking)
{
    sp_buf_puts(out, r->chat ? ",\"message\":{\"role\":\"assistant\",\"content\":"
                             : ",\"response\":");
    sp_buf_json_str(out, text.n ? text.p : "", text.n);
    if (thinking.n) {
        sp_buf_puts(out, ",\"thinking\":");
        sp_buf_json_str(out, thinking.p, thinking.n);
    }
}

static void close_text(sp_buf *out, const request *r)
{
    sp_buf_puts(out, r->chat ? "}" : "");
}

static void put_logprobs(sp_buf *out, const request *r, const sp_event_tok *tok, size_t n)
{
    if (!r->logprobs || n == 0)
        return;
    sp_buf_puts(out, ",\"logprobs\":[");
    sp_api_put_logprobs(out, r->on->env.tok, tok, n, false);
    sp_buf_putc(out, ']');
}

static unsigned long long ns(double ms)
{
    return ms > 0 ? (unsigned long long)(ms * 1e6) : 0;
}

/* Why it ended, and what it took. Durations are in nanoseconds. */
static void put_done(sp_buf *out, const sp_turn *t)
{
    const sp_turn_answer *a = sp_turn_answer_of(t, 0);
    const sp_turn_usage u = sp_turn_used(t);
    sp_receipt sum;
    sp_turn_receipt(&sum, t);
    sp_buf_printf(out, ",\"done\":true,\"done_reason\":\"%s\",\"total_duration\":%llu",
                  a->finish == SP_FINISH_LENGTH ? "length" : "stop",
                  ns(sp_clock_ms(sp_turn_ask(t)->begin_ns)));
    sp_buf_printf(out,
                  ",\"load_duration\":0,\"prompt_eval_count\":%zu,\"prompt_eval_duration\":%llu,"
                  "\"eval_count\":%zu,\"eval_duration\":%llu,\"sparing\":",
                  u.n_prompt, ns(sum.ms_prefill), u.n_out, ns(sum.ms_decode));
    sp_receipt_write(&sum, out);
    sp_buf_putc(out, '}');
}

/* --- a stream --------------------------------------------------------------------------------- */

static void put_line(sp_buf *out, const request *r, const sp_turn *t, const sp_turn_event *ev)
{
    const sp_turn_answer *a = sp_turn_answer_of(t, ev->choice);
    const sp_str none = {"", 0};
    put_head(out, t);
    open_text(out, r, ev->kind == SP_TURN_TEXT ? ev->text : none,
              ev->kind == SP_TURN_REASONING ? ev->text : none);
    if (ev->kind == SP_TURN_CALL_END)
        put_calls(out, a, ev->call, ev->call + 1);
    close_text(out, r);
    put_logprobs(out, r, ev->tok, ev->n_tok);
    sp_buf_puts(out, ",\"done\":false}\n");
}

static void put_end(sp_buf *out, const request *r, const sp_turn *t)
{
    put_head(out, t);
    open_text(out, r, (sp_str){"", 0}, (sp_str){"", 0});
    close_text(out, r);
    put_done(out, t);
    sp_buf_putc(out, '\n');
}

static void event(void *state, sp_buf *out, const sp_turn *t, const sp_turn_event *ev)
{
    const request *r = state;
    switch (ev->kind) {
    case SP_TURN_TEXT:
    case SP_TURN_REASONING:
    case SP_TURN_CALL_END: put_line(out, r, t, ev); break;
    case SP_TURN_END: put_end(out, r, t); break;
    case SP_TURN_ERROR:
        sp_ollama_error(out, sp_api_status(ev->error->diag.code), ev->error->diag.msg);
        sp_buf_putc(out, '\n');
        break;
    case SP_TURN_BEGIN:
    case SP_TURN_CALL: /* a call leaves when it is whole */
    case SP_TURN_ARGS:
    case SP_TURN_CITATIONS:
    case SP_TURN_REFERENCE: /* is not asked for here */
    case SP_TURN_FINISH:
    case SP_TURN_AGAIN: break;
    }
}

/* --- a whole answer, the codecs --------------------------------------------------------------- */

static void whole(void *state, sp_buf *out, const sp_turn *t)
{
    const request *r = state;
    const sp_turn_answer *a = sp_turn_answer_of(t, 0);
    put_head(out, t);
    open_text(out, r, (sp_str){a->text.p, a->text.len},
              (sp_str){a->reasoning.p, a->reasoning.len});
    if (a->n_call)
        put_calls(out, a, 0, a->n_call);
    close_text(out, r);
    put_logprobs(out, r, a->tok, a->n_tok);
    put_done(out, t);
}

static sp_err read_chat(void *state, sp_ask *ask, const sp_app *app, const sp_served *on,
                        const json_t *body, const char **bad, sp_diag *d)
{
    request *r = state;
    *r = (request){.app = app, .on = on, .ask = ask, .chat = true};
    return sp_ollama_read(r, body, bad, d);
}

static sp_err read_generate(void *state, sp_ask *ask, const sp_app *app, const sp_served *on,
                            const json_t *body, const char **bad, sp_diag *d)
{
    request *r = state;
    *r = (request){.app = app, .on = on, .ask = ask};
    return sp_ollama_read(r, body, bad, d);
}

static void close_request(void *state)
{
    request *r = state;
    sp_buf_fini(&r->ignored);
}

#define LINES "application/x-ndjson"

/* A silent stream stays silent: its clients take every line for an answer. */
const sp_codec sp_codec_ollama_chat = {.span = "chat",
                                       .id_prefix = "ollama-",
                                       .stream_type = LINES,
                                       .stream_is_default = true,
                                       .state_bytes = sizeof(request),
                                       .read = read_chat,
                                       .event = event,
                                       .whole = whole,
                                       .fail = fail,
                                       .error_event = "",
                                       .close = close_request};
const sp_codec sp_codec_ollama_generate = {.span = "text_completion",
                                           .id_prefix = "ollama-",
                                           .stream_type = LINES,
                                           .stream_is_default = true,
                                           .state_bytes = sizeof(request),
                                           .read = read_generate,
                                           .event = event,
                                           .whole = whole,
                                           .fail = fail,
                                           .error_event = "",
                                           .close = close_request};
