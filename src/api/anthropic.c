/* Anthropic's /v1/messages: answers as a message or as a stream of its blocks, errors, the codec.
 * Source: the shapes of Anthropic's Messages API as its clients read them (anthropic 2.14.0). */
#include "api/anthropic_int.h"

#include "api/anthropic.h"

#include <string.h>

/* --- errors ----------------------------------------------------------------------------------- */

static const char *error_type(int status)
{
    switch (status) {
    case 401: return "authentication_error";
    case 403: return "permission_error";
    case 404: return "not_found_error";
    case 413: return "request_too_large";
    case 429: return "rate_limit_error";
    case 503: return "overloaded_error";
    case 504: return "timeout_error";
    default: return status >= 500 ? "api_error" : "invalid_request_error";
    }
}

/* details: JSON that follows the message. */
static void put_refusal(sp_buf *out, int status, const char *message, const char *details)
{
    sp_buf_printf(out, "{\"type\":\"error\",\"error\":{\"type\":\"%s\",\"message\":",
                  error_type(status));
    sp_buf_json_str(out, message, strlen(message));
    sp_buf_printf(out, "%s}}", details);
}

void sp_anthropic_error(sp_buf *out, int status, const char *message)
{
    put_refusal(out, status, message, "");
}

/* A client whose thread is refused in these words sends the whole conversation instead. */
static void fail(sp_buf *out, int status, const sp_turn_error *e)
{
    static const char no_threads[] = ",\"details\":{\"error_code\":\"thread_unsupported_request\","
                                     "\"unsupported\":[\"thread\"]}";
    put_refusal(out, status, e->diag.msg, strcmp(e->param, "thread") == 0 ? no_threads : "");
}

/* --- what both forms have --------------------------------------------------------------------- */

static const char *stop_reason(const sp_turn_answer *a)
{
    switch (a->finish) {
    case SP_FINISH_LENGTH: return "max_tokens";
    case SP_FINISH_CALLS: return "tool_use";
    case SP_FINISH_FILTER: return "refusal";
    default: return a->stop ? "stop_sequence" : "end_turn";
    }
}

/* "stop_reason": ..., "stop_sequence": ... */
static void put_reason(sp_buf *out, const sp_turn *t)
{
    const sp_turn_answer *a = sp_turn_answer_of(t, 0);
    sp_buf_printf(out, "\"stop_reason\":\"%s\",\"stop_sequence\":", stop_reason(a));
    if (a->stop)
        sp_buf_json_str(out, a->stop, strlen(a->stop));
    else
        sp_buf_puts(out, "null");
}

/* Tokens that were read from the cache are no input_tokens there. */
static void put_usage(sp_buf *out, const sp_turn *t)
{
    const sp_turn_usage u = sp_turn_used(t);
    sp_receipt sum;
    sp_turn_receipt(&sum, t);
    sp_buf_printf(out,
                  "{\"input_tokens\":%zu,\"cache_creation_input_tokens\":0,"
                  "\"cache_read_input_tokens\":%zu,\"output_tokens\":%zu,\"sparing\":",
                  u.n_prompt - u.n_cached, u.n_cached, u.n_out);
    sp_receipt_write(&sum, out);
    sp_buf_putc(out, '}');
}

static void put_head(sp_buf *out, const sp_turn *t)
{
    const char *model = sp_turn_env_of(t)->name;
    sp_buf_printf(out, "{\"id\":\"%s\",\"type\":\"message\",\"role\":\"assistant\",\"model\":",
                  sp_turn_ask(t)->id);
    sp_buf_json_str(out, model, strlen(model));
}

/* --- a stream --------------------------------------------------------------------------------- */

static void begin_event(sp_buf *out, const char *type)
{
    sp_buf_printf(out, "event: %s\ndata: {\"type\":\"%s\"", type, type);
}

static void end_event(sp_buf *out)
{
    sp_buf_puts(out, "}\n\n");
}

/* How much of the prompt is read from the cache is known at the end: message_delta says it. */
static void put_start(sp_buf *out, const sp_turn *t)
{
    begin_event(out, "message_start");
    sp_buf_puts(out, ",\"message\":");
    put_head(out, t);
    sp_buf_printf(out,
                  ",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,\"usage\":"
                  "{\"input_tokens\":%zu,\"cache_creation_input_tokens\":0,"
                  "\"cache_read_input_tokens\":0,\"output_tokens\":0}}",
                  sp_turn_used(t).n_prompt);
    end_event(out);
}

static void close_block(request *r, sp_buf *out)
{
    if (r->open == BLOCK_NONE)
        return;
    begin_event(out, "content_block_stop");
    sp_buf_printf(out, ",\"index\":%zu", r->n_block - 1);
    end_event(out);
    r->open = BLOCK_NONE;
}

static void begin_block(request *r, sp_buf *out, block_kind kind, const sp_turn_event *ev)
{
    close_block(r, out);
    begin_event(out, "content_block_start");
    sp_buf_printf(out, ",\"index\":%zu,\"content_block\":", r->n_block++);
    r->open = kind;
    if (kind == BLOCK_TEXT) {
        sp_buf_puts(out, "{\"type\":\"text\",\"text\":\"\"}");
    } else if (kind == BLOCK_THINKING) {
        sp_buf_puts(out, "{\"type\":\"thinking\",\"thinking\":\"\",\"signature\":\"\"}");
    } else {
        sp_buf_puts(out, "{\"type\":\"tool_use\",\"id\":");
        sp_buf_json_str(out, ev->call_id.p, ev->call_id.n);
        sp_buf_puts(out, ",\"name\":");
        sp_buf_json_str(out, ev->name.p, ev->name.n);
        sp_buf_puts(out, ",\"input\":{}}");
    }
    end_event(out);
}

/* More of a block, which is begun where another one is open. */
static void put_delta(request *r, sp_buf *out, block_kind kind, const sp_turn_event *ev)
{
    static const char *const type[] = {[BLOCK_TEXT] = "text_delta",
                                       [BLOCK_THINKING] = "thinking_delta",
                                       [BLOCK_CALL] = "input_json_delta"};
    static const char *const name[] = {
        [BLOCK_TEXT] = "text", [BLOCK_THINKING] = "thinking", [BLOCK_CALL] = "partial_json"};
    if (ev->text.n == 0)
        return;
    if (r->open != kind)
        begin_block(r, out, kind, ev);
    begin_event(out, "content_block_delta");
    sp_buf_printf(out, ",\"index\":%zu,\"delta\":{\"type\":\"%s\",\"%s\":", r->n_block - 1,
                  type[kind], name[kind]);
    sp_buf_json_str(out, ev->text.p, ev->text.n);
    sp_buf_putc(out, '}');
    end_event(out);
}

static void put_end(request *r, sp_buf *out, const sp_turn *t)
{
    close_block(r, out);
    begin_event(out, "message_delta");
    sp_buf_puts(out, ",\"delta\":{");
    put_reason(out, t);
    sp_buf_puts(out, "},\"usage\":");
    put_usage(out, t);
    end_event(out);
    begin_event(out, "message_stop");
    end_event(out);
}

static void put_error(sp_buf *out, const sp_turn_error *e)
{
    sp_buf_puts(out, "event: error\ndata: ");
    sp_anthropic_error(out, sp_api_status(e->diag.code), e->diag.msg);
    sp_buf_puts(out, "\n\n");
}

static void event(void *state, sp_buf *out, const sp_turn *t, const sp_turn_event *ev)
{
    request *r = state;
    switch (ev->kind) {
    case SP_TURN_BEGIN: put_start(out, t); break;
    case SP_TURN_TEXT: put_delta(r, out, BLOCK_TEXT, ev); break;
    case SP_TURN_REASONING: put_delta(r, out, BLOCK_THINKING, ev); break;
    case SP_TURN_CALL: begin_block(r, out, BLOCK_CALL, ev); break;
    case SP_TURN_ARGS: put_delta(r, out, BLOCK_CALL, ev); break;
    case SP_TURN_CALL_END:
    case SP_TURN_FINISH: close_block(r, out); break;
    case SP_TURN_AGAIN: sp_buf_printf(out, ": %.*s\n\n", (int)ev->text.n, ev->text.p); break;
    case SP_TURN_END: put_end(r, out, t); break;
    case SP_TURN_ERROR: put_error(out, ev->error); break;
    case SP_TURN_REFERENCE: /* nor is any asked for */
    case SP_TURN_CITATIONS: break; /* no documents are searched here */
    }
}

static void ping(sp_buf *out)
{
    begin_event(out, "ping");
    end_event(out);
}

/* --- a whole answer --------------------------------------------------------------------------- */

static void put_call(sp_buf *out, const sp_turn_call *c)
{
    sp_buf_puts(out, "{\"type\":\"tool_use\",\"id\":");
    sp_buf_json_str(out, sp_buf_str(&c->id), c->id.len);
    sp_buf_puts(out, ",\"name\":");
    sp_buf_json_str(out, sp_buf_str(&c->name), c->name.len);
    sp_buf_puts(out, ",\"input\":");
    sp_api_put_args(out, &c->args);
    sp_buf_putc(out, '}');
}

static void put_content(sp_buf *out, const sp_turn_answer *a)
{
    size_t n = 0;
    sp_buf_putc(out, '[');
    if (a->reasoning.len) {
        sp_buf_puts(out, "{\"type\":\"thinking\",\"thinking\":");
        sp_buf_json_str(out, a->reasoning.p, a->reasoning.len);
        sp_buf_puts(out, ",\"signature\":\"\"}");
        n++;
    }
    if (a->text.len) {
        sp_buf_puts(out, n++ ? ",{\"type\":\"text\",\"text\":" : "{\"type\":\"text\",\"text\":");
        sp_buf_json_str(out, a->text.p, a->text.len);
        sp_buf_putc(out, '}');
    }
    for (size_t i = 0; i < a->n_call; i++) {
        sp_buf_puts(out, n++ ? "," : "");
        put_call(out, &a->call[i]);
    }
    sp_buf_putc(out, ']');
}

static void whole(void *state, sp_buf *out, const sp_turn *t)
{
    (void)state;
    put_head(out, t);
    sp_buf_puts(out, ",\"content\":");
    put_content(out, sp_turn_answer_of(t, 0));
    sp_buf_putc(out, ',');
    put_reason(out, t);
    sp_buf_puts(out, ",\"usage\":");
    put_usage(out, t);
    sp_buf_putc(out, '}');
}

static void close_request(void *state)
{
    request *r = state;
    sp_buf_fini(&r->ignored);
}

const sp_codec sp_codec_anthropic = {.span = "chat",
                                     .id_prefix = "msg_",
                                     .stream_type = SP_CODEC_SSE,
                                     .state_bytes = sizeof(request),
                                     .read = sp_anthropic_read,
                                     .event = event,
                                     .whole = whole,
                                     .ping = ping,
                                     .fail = fail,
                                     .error_event = "event: error\ndata: ",
                                     .close = close_request};
