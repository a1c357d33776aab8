/* Input of OpenAI's responses: items become messages. */
#include "api/response_int.h"

#include "api/conversation.h"

#include <stdio.h>
#include <string.h>

enum { MAX_ITEM = 4096 };

typedef struct input {
    sp_arena *a;
    const sp_lists *lists;
    sp_chat_msg *msg;
    size_t n_msg;
    bool open; /* the last message is the assistant's, and may take more calls */
    /* [n_call], in the order of the items: those of one message lie side by side */
    sp_chat_call *call;
    size_t n_call;
    size_t n_result; /* results of calls */
    size_t at;       /* the item that is read */
} input;

static bool is(const char *s, const char *what)
{
    return s && strcmp(s, what) == 0;
}

static sp_err no_memory(sp_diag *d)
{
    return SP_FAIL(d, SP_NOMEM, "input");
}

static sp_err keep(sp_str *out, const input *in, const json_t *v, sp_diag *d)
{
    *out = (sp_str){sp_arena_strndup(in->a, json_string_value(v), json_string_length(v)),
                    json_string_length(v)};
    return out->p ? SP_OK : no_memory(d);
}

/* --- texts ------------------------------------------------------------------------------------ */

/* Is a part's type among kinds, where each stands between spaces? */
static bool is_among(const char *type, const char *kinds)
{
    char word[32];
    int n = type ? snprintf(word, sizeof word, " %.28s ", type) : 0;
    return n > 2 && strlen(type) < sizeof word - 3 && strstr(kinds, word);
}

/* A string, or a list of parts of these kinds, joined. */
static sp_err read_text(sp_str *out, const input *in, const json_t *v, const char *field,
                        const char *kinds, sp_diag *d)
{
    sp_buf all = {0};
    if (json_is_string(v))
        return keep(out, in, v, d);
    if (!json_is_array(v))
        return SP_FAIL(d, SP_INVAL, "input[%zu].%s must be a string or a list of parts", in->at,
                       field);
    for (size_t i = 0; i < json_array_size(v); i++) {
        const json_t *part = json_array_get(v, i), *text = json_object_get(part, "text");
        const char *type = json_string_value(json_object_get(part, "type"));
        if (!is_among(type, kinds) || !json_is_string(text)) {
            sp_buf_fini(&all);
            return SP_FAIL(d, SP_UNSUP, "input[%zu].%s[%zu]: %s", in->at, field, i,
                           sp_api_lacks(type));
        }
        sp_buf_put(&all, json_string_value(text), json_string_length(text));
    }
    *out =
        (sp_str){all.failed ? NULL : sp_arena_strndup(in->a, sp_buf_str(&all), all.len), all.len};
    sp_buf_fini(&all);
    return out->p ? SP_OK : no_memory(d);
}

/* --- items ------------------------------------------------------------------------------------ */

static sp_chat_msg *add(input *in, const char *role)
{
    sp_chat_msg *m = &in->msg[in->n_msg++];
    *m = sp_chat_say(role, "", 0);
    in->open = is(role, "assistant");
    return m;
}

/* The assistant's message that the next of its items belongs to. fresh: not if it holds text or
 * calls already. */
static sp_chat_msg *assistant(input *in, bool fresh)
{
    sp_chat_msg *last = in->open ? &in->msg[in->n_msg - 1] : NULL;
    return last && !(fresh && (last->content.n || last->n_call)) ? last : add(in, "assistant");
}

static sp_err read_message(input *in, const json_t *item, sp_diag *d)
{
    const char *role = NULL, *type, *bad;
    const json_t *content = NULL;
    const sp_param table[] = {{"type", SP_P_STR, &type, 0, 0},
                              {"role", SP_P_STR, &role, 0, 0},
                              {"content", SP_P_JSON, &content, 0, 0}};
    SP_TRY(sp_known_read(item, table, 3, in->lists, &bad, d));
    if (is(role, "assistant"))
        return read_text(&assistant(in, true)->content, in, content, "content",
                         " text input_text output_text ", d);
    if (!is(role, "user") && !is(role, "system") && !is(role, "developer"))
        return SP_FAIL(d, SP_INVAL, "input[%zu].role must be system, developer, user or assistant",
                       in->at);
    /* developer is OpenAI's newer name for system */
    return read_text(&add(in, is(role, "user") ? "user" : "system")->content, in, content,
                     "content", " text input_text output_text ", d);
}

static sp_err read_reasoning(input *in, const json_t *item, sp_diag *d)
{
    const char *type, *bad, *sealed = NULL;
    const json_t *content = NULL, *summary = NULL;
    const sp_param table[] = {{"type", SP_P_STR, &type, 0, 0},
                              {"content", SP_P_JSON, &content, 0, 0},
                              {"summary", SP_P_JSON, &summary, 0, 0},
                              {"encrypted_content", SP_P_STR, &sealed, 0, 0}};
    SP_TRY(sp_known_read(item, table, 4, in->lists, &bad, d));
    if (sealed) /* of another server: nothing here can open it */
        sp_known_ignore(in->lists, "encrypted_content");
    if (json_array_size(content) == 0 && json_array_size(summary) == 0)
        return SP_OK;
    sp_str *to = &assistant(in, true)->reasoning;
    return json_array_size(content)
               ? read_text(to, in, content, "content", " reasoning_text text ", d)
               : read_text(to, in, summary, "summary", " summary_text ", d);
}

/* custom: its input is one text, which becomes the only argument. */
static sp_err read_call(input *in, const json_t *item, bool custom, sp_diag *d)
{
    const char *type, *bad;
    const json_t *name = NULL, *id = NULL, *args = NULL;
    sp_chat_call *c = &in->call[in->n_call];
    const sp_param table[] = {{"type", SP_P_STR, &type, 0, 0},
                              {"name", SP_P_JSON, &name, 0, 0},
                              {"call_id", SP_P_JSON, &id, 0, 0},
                              {custom ? "input" : "arguments", SP_P_JSON, &args, 0, 0}};
    SP_TRY(sp_known_read(item, table, 4, in->lists, &bad, d));
    if (!json_string_length(name) || !json_string_length(id) || !json_is_string(args))
        return SP_FAIL(d, SP_INVAL, "input[%zu]: a call needs name, call_id and %s, all strings",
                       in->at, table[3].name);
    *c = (sp_chat_call){0};
    SP_TRY(keep(&c->name, in, name, d));
    SP_TRY(keep(&c->id, in, id, d));
    SP_TRY(keep(&c->arguments, in, args, d));
    if (custom) {
        sp_buf wrapped = {0};
        sp_buf_puts(&wrapped, "{\"input\":");
        sp_buf_json_str(&wrapped, c->arguments.p, c->arguments.n);
        sp_buf_putc(&wrapped, '}');
        c->arguments = (sp_str){
            wrapped.failed ? NULL : sp_arena_strndup(in->a, wrapped.p, wrapped.len), wrapped.len};
        sp_buf_fini(&wrapped);
        if (!c->arguments.p)
            return no_memory(d);
    }
    sp_chat_msg *m = assistant(in, false);
    if (!m->n_call)
        m->call = c;
    m->n_call++;
    in->n_call++;
    return SP_OK;
}

static sp_err read_result(input *in, const json_t *item, sp_diag *d)
{
    const char *type, *bad;
    const json_t *id = NULL, *output = NULL;
    const sp_param table[] = {{"type", SP_P_STR, &type, 0, 0},
                              {"call_id", SP_P_JSON, &id, 0, 0},
                              {"output", SP_P_JSON, &output, 0, 0}};
    SP_TRY(sp_known_read(item, table, 3, in->lists, &bad, d));
    if (!json_string_length(id))
        return SP_FAIL(d, SP_INVAL,
                       "input[%zu].call_id must name the call that this is the output of", in->at);
    sp_chat_msg *m = add(in, "tool");
    in->n_result++;
    SP_TRY(keep(&m->call_id, in, id, d));
    return read_text(&m->content, in, output, "output", " text input_text output_text ", d);
}

static sp_err read_item(input *in, const json_t *item, sp_diag *d)
{
    static const char searches[] =
        " file_search_call web_search_call code_interpreter_call image_generation_call ";
    const json_t *kind = json_object_get(item, "type");
    const char *type = json_string_value(kind);
    if (!json_is_object(item))
        return SP_FAIL(d, SP_INVAL, "input[%zu] is not an object", in->at);
    if (!kind || json_is_null(kind) || is(type, "message"))
        return read_message(in, item, d);
    if (is(type, "reasoning"))
        return read_reasoning(in, item, d);
    if (is(type, "function_call") || is(type, "custom_tool_call"))
        return read_call(in, item, type[0] == 'c', d);
    if (is(type, "function_call_output") || is(type, "custom_tool_call_output"))
        return read_result(in, item, d);
    if (is_among(type,
                 searches)) { /* what a server did by itself; its answer follows as a message */
        sp_known_ignore(in->lists, type);
        return SP_OK;
    }
    return SP_FAIL(d, SP_UNSUP,
                   "input[%zu].type: %.40s is not supported; message, reasoning, function_call and "
                   "function_call_output are",
                   in->at, type ? type : "what is no string");
}

/* An error that says which item it is about. */
static sp_err read_named(input *in, const json_t *item, sp_diag *d)
{
    sp_diag inner = {0};
    sp_err err = read_item(in, item, &inner);
    if (err == SP_OK)
        return SP_OK;
    return strncmp(inner.msg, "input", 5) == 0
               ? SP_FAIL(d, err, "%.190s", inner.msg)
               : SP_FAIL(d, err, "input[%zu]: %.160s", in->at, inner.msg);
}

sp_err sp_response_items(sp_chat_msg **msg, size_t *n_msg, size_t *n_call, sp_arena *a,
                         const json_t *list, const sp_lists *lists, sp_diag *d)
{
    size_t n = json_is_array(list) ? json_array_size(list) : 1, had = *n_msg;
    if (!list)
        return SP_FAIL(d, SP_INVAL, "input is missing");
    if ((!json_is_string(list) && !json_is_array(list)) || n == 0 || n > MAX_ITEM)
        return SP_FAIL(d, SP_INVAL, "input must be a string, or a list of 1 to %d items", MAX_ITEM);
    input in = {.a = a,
                .lists = lists,
                .msg = sp_arena_alloc(a, (had + n + 1) * sizeof *in.msg),
                .n_msg = had,
                .call = sp_arena_alloc(a, n * sizeof *in.call)};
    if (!in.msg || !in.call)
        return no_memory(d);
    if (had)
        memcpy(in.msg, *msg, had * sizeof *in.msg);
    if (json_is_string(list))
        SP_TRY(keep(&add(&in, "user")->content, &in, list, d));
    for (; json_is_array(list) && in.at < n; in.at++)
        SP_TRY(read_named(&in, json_array_get(list, in.at), d));
    *msg = in.msg;
    *n_msg = in.n_msg;
    *n_call = in.n_call + in.n_result;
    return in.n_msg > had ? SP_OK : SP_FAIL(d, SP_INVAL, "input holds no message");
}
