/* OpenAI's completions, chat and plain: a body becomes an ask. */
#include "api/completion_int.h"

#include "api/conversation.h"
#include "base/clock.h"

#include <string.h>

/* --- parts ------------------------------------------------------------------------------------ */

/* The parts' own texts, for the ask: those that were read borrow from the body. */
static sp_err keep_parts(request *r, sp_diag *d)
{
    sp_ask *q = r->ask;
    q->parts = sp_arena_alloc(&q->a, sizeof *q->parts);
    if (!q->parts)
        return SP_FAIL(d, SP_NOMEM, "request");
    *q->parts = r->parts.parts;
    for (size_t i = 0; i < SP_PARTS; i++) {
        sp_str *s = &q->parts->part[i].text;
        if (s->n && !(s->p = sp_arena_strndup(&q->a, s->p, s->n)))
            return SP_FAIL(d, SP_NOMEM, "request");
    }
    return SP_OK;
}

/* Parts of the prompt take the place of the last message, or come after the others. */
static sp_err read_parts(request *r, const body *b, sp_diag *d)
{
    sp_ask *q = r->ask;
    bool as_json = sp_completion_has_parts(b);
    if (!as_json && !b->structured)
        return SP_OK;
    if (as_json && b->structured)
        return SP_FAIL(d, SP_INVAL,
                       "sparing.structured is for parts written as tags; task, steps, context and "
                       "output are there too");
    if (as_json) {
        SP_TRY(sp_structured_json(&r->parts, &q->a, b->part, d));
        q->n_msg++;
    } else {
        const sp_chat_msg *last = q->n_msg ? &q->msg[q->n_msg - 1] : NULL;
        if (!last || last->role.n != 4 || memcmp(last->role.p, "user", 4) != 0)
            return SP_FAIL(d, SP_INVAL, "sparing.structured: the last message must be the user's");
        SP_TRY(sp_structured_text(&r->parts, last->content.p, last->content.n, d));
    }
    const char *text = sp_arena_strndup(&q->a, r->parts.message.p, r->parts.message.len);
    if (!text)
        return SP_FAIL(d, SP_NOMEM, "request");
    SP_TRY(keep_parts(r, d));
    q->msg[q->n_msg - 1] = sp_chat_say("user", text, r->parts.message.len);
    if (r->parts.parts.part[SP_PART_OUTPUT].budget && !q->plan.max_tok)
        q->plan.max_tok = r->parts.parts.part[SP_PART_OUTPUT].budget;
    if (r->parts.pattern.len && r->pattern.len)
        return SP_FAIL(d, SP_INVAL,
                       "output says what the answer may be, and so does another parameter");
    if (r->parts.pattern.len)
        sp_buf_put(&r->pattern, r->parts.pattern.p, r->parts.pattern.len);
    if (r->parts.loose.len)
        sp_buf_put(&r->loose, r->parts.loose.p, r->parts.loose.len);
    return sp_completion_compile(r, d);
}

/* --- sources
 * ----------------------------------------------------------------------------------- */

/* Texts of the request that marks may name: whole strings, as the client has them. */
static sp_err keep_sources(sp_ask *q, const json_t *list, const char *member, sp_diag *d)
{
    size_t n = json_is_array(list) ? json_array_size(list) : 1;
    if (!q->refer)
        return SP_OK;
    q->source = sp_arena_alloc(&q->a, (n + 1) * sizeof *q->source);
    for (size_t i = 0; i < n && q->source; i++) {
        const json_t *v = json_is_array(list) ? json_array_get(list, i) : list;
        v = member ? json_object_get(v, member) : v;
        sp_str *s = &q->source[q->n_source++];
        *s = (sp_str){json_is_string(v)
                          ? sp_arena_strndup(&q->a, json_string_value(v), json_string_length(v))
                          : "",
                      json_string_length(v)};
        if (!s->p)
            return SP_FAIL(d, SP_NOMEM, "request");
    }
    return q->source ? SP_OK : SP_FAIL(d, SP_NOMEM, "request");
}

/* --- what is asked ---------------------------------------------------------------------------- */

static sp_err read_messages(request *r, const body *b, const char **bad, sp_diag *d)
{
    sp_ask *q = r->ask;
    bool elsewhere = q->find || q->plan.conversation;
    *bad = elsewhere && (b->structured || sp_completion_has_parts(b)) ? "sparing" : "messages";
    if (**bad == 's')
        return SP_FAIL(
            d, SP_UNSUP,
            "a structured prompt cannot be part of a conversation or of a search in documents");
    if (b->messages && !(b->message && json_is_array(b->messages) && !json_array_size(b->messages)))
        SP_TRY(sp_api_messages(&q->msg, &q->n_msg, &q->a, b->messages, r->app, &r->ignored,
                               "messages", d));
    else
        q->msg = sp_arena_alloc(&q->a, sizeof *q->msg);
    for (size_t i = 0; i < q->n_msg; i++)
        /* they are not passed on */
        q->plan.bare = q->plan.bare && !q->msg[i].n_call && !q->msg[i].call_id.n;
    q->plan.plain = q->plan.plain && q->plan.bare;
    SP_TRY(q->msg ? read_parts(r, b, d) : SP_FAIL(d, SP_NOMEM, "request"));
    SP_TRY(sp_completion_tree(r, b, bad, d));
    return keep_sources(q, b->messages, "content", d);
}

static bool is_ids(const json_t *v)
{
    return json_is_array(v) && json_is_integer(json_array_get(v, 0));
}

/* One prompt: a string or a list of token ids. */
static sp_err read_prompt(sp_ask_prompt *out, sp_ask *q, const json_t *v, sp_diag *d)
{
    static const char rule[] = "prompt must be a string, a list of strings, or lists of token ids";
    size_t n = json_array_size(v);
    if (json_is_string(v)) {
        out->text = (sp_str){sp_arena_strndup(&q->a, json_string_value(v), json_string_length(v)),
                             json_string_length(v)};
        return out->text.p ? SP_OK : SP_FAIL(d, SP_NOMEM, "prompt");
    }
    if (!json_is_array(v))
        return SP_FAIL(d, SP_INVAL, "%s", rule);
    uint32_t *id = sp_arena_alloc(&q->a, (n + 1) * sizeof *id);
    if (!id)
        return SP_FAIL(d, SP_NOMEM, "prompt");
    for (size_t i = 0; i < n; i++) {
        json_int_t x = json_integer_value(json_array_get(v, i));
        if (!json_is_integer(json_array_get(v, i)) || x < 0 || x > UINT32_MAX)
            return SP_FAIL(d, SP_INVAL, "%s", rule);
        id[i] = (uint32_t)x;
    }
    out->id = id;
    out->n_id = n;
    return SP_OK;
}

static sp_err read_suffix(sp_ask_prompt *p, sp_ask *q, const char *suffix, const char **bad,
                          sp_diag *d)
{
    size_t n = suffix ? strlen(suffix) : 0;
    if (!n)
        return SP_OK;
    *bad = "suffix";
    if (p->id)
        return SP_FAIL(
            d, SP_INVAL,
            "suffix goes with a prompt of text; one of token ids holds its marks already");
    p->suffix = (sp_str){sp_arena_strndup(&q->a, suffix, n), n};
    return p->suffix.p ? SP_OK : SP_FAIL(d, SP_NOMEM, "request");
}

static sp_err read_prompts(request *r, const body *b, const char **bad, sp_diag *d)
{
    sp_ask *q = r->ask;
    const json_t *v = b->prompt;
    bool many = json_is_array(v) && !is_ids(v);
    size_t n = many ? json_array_size(v) : 1;
    *bad = "prompt";
    if (!v)
        return SP_FAIL(d, SP_INVAL, "prompt is missing");
    q->chat = false;
    q->n_prompt = n;
    if (n > SP_ASK_CHOICES)
        return SP_OK; /* the turn refuses so many */
    q->prompt = sp_arena_alloc(&q->a, (n + 1) * sizeof *q->prompt);
    if (!q->prompt)
        return SP_FAIL(d, SP_NOMEM, "request");
    for (size_t i = 0; i < n; i++) {
        SP_TRY(read_prompt(&q->prompt[i], q, many ? json_array_get(v, i) : v, d));
        SP_TRY(read_suffix(&q->prompt[i], q, b->suffix, bad, d));
    }
    return keep_sources(q, v, NULL, d);
}

static sp_err read_any(request *r, bool chat, sp_ask *ask, const sp_app *app, const sp_served *on,
                       const json_t *j, const char **bad, sp_diag *d)
{
    body b;
    r->app = app;
    r->on = on;
    r->ask = ask;
    r->chat = chat;
    r->created = sp_clock_wall();
    SP_TRY(sp_completion_read(r, &b, j, bad, d));
    SP_TRY(chat ? read_messages(r, &b, bad, d) : read_prompts(r, &b, bad, d));
    SP_TRY(sp_api_keep(&ask->ignored, ask, &r->ignored, d));
    return sp_api_keep(&ask->not_enforced, ask, &r->loose, d);
}

static sp_err read_chat(void *state, sp_ask *ask, const sp_app *app, const sp_served *on,
                        const json_t *j, const char **bad, sp_diag *d)
{
    return read_any(state, true, ask, app, on, j, bad, d);
}

sp_err sp_completion_read_plain(void *state, sp_ask *ask, const sp_app *app, const sp_served *on,
                                const json_t *j, const char **bad, sp_diag *d)
{
    return read_any(state, false, ask, app, on, j, bad, d);
}

/* --- the codecs ------------------------------------------------------------------------------- */

void sp_completion_fail(sp_buf *out, int status, const sp_turn_error *e)
{
    sp_api_error(out, status, e->diag.msg, e->param[0] ? e->param : NULL, sp_api_error_code(e));
}

void sp_completion_close(void *state)
{
    request *r = state;
    sp_structured_fini(&r->parts);
    sp_buf_fini(&r->pattern);
    sp_buf_fini(&r->loose);
    sp_buf_fini(&r->ignored);
}

const sp_codec sp_codec_chat = {.span = "chat",
                                .id_prefix = "chatcmpl",
                                .stream_type = SP_CODEC_SSE,
                                .state_bytes = sizeof(request),
                                .read = read_chat,
                                .event = sp_completion_event,
                                .whole = sp_completion_whole,
                                .stored = sp_completion_stored,
                                .ping = sp_api_ping,
                                .fail = sp_completion_fail,
                                .close = sp_completion_close};
const sp_codec sp_codec_completion = {.span = "text_completion",
                                      .id_prefix = "cmpl",
                                      .stream_type = SP_CODEC_SSE,
                                      .state_bytes = sizeof(request),
                                      .read = sp_completion_read_plain,
                                      .event = sp_completion_event,
                                      .whole = sp_completion_whole,
                                      .ping = sp_api_ping,
                                      .fail = sp_completion_fail,
                                      .close = sp_completion_close};
