/* Messages of a request: text, calls and their results, as values. */
#include "api/conversation.h"
#include "api/known.h"

#include <string.h>

enum { MAX_CALLS = 128 /* of one message */, MAX_ITEM = 4096 };

const char *sp_api_lacks(const char *type)
{
    static const struct {
        const char *type, *lacks;
    } of[] = {
        {"image_url", "images cannot be read: this server has no vision encoder"},
        {"input_image", "images cannot be read: this server has no vision encoder"},
        {"image", "images cannot be read: this server has no vision encoder"},
        {"input_audio", "audio cannot be read: this server has no speech encoder"},
        {"video_url", "videos cannot be read: this server has no vision encoder"},
        {"file",
         "files cannot be read here: put them into a vector store and search it with file_search"},
        {"input_file",
         "files cannot be read here: put them into a vector store and search it with file_search"}};
    for (size_t i = 0; type && i < sizeof of / sizeof of[0]; i++)
        if (strcmp(of[i].type, type) == 0)
            return of[i].lacks;
    return "only parts of type text are supported";
}

/* Text of a message: a string, or a list of {"type": "text", "text": …} parts, joined; null or
 * absent, of an assistant: none. */
static sp_err read_content(sp_str *out, sp_arena *a, const json_t *v, const char *name, size_t at,
                           sp_diag *d)
{
    static const char *const kinds[] = {"text", "input_text", "output_text"};
    size_t n = 0;
    if (!json_is_string(v) && !json_is_array(v))
        return SP_FAIL(d, SP_INVAL, "%s[%zu].content must be a string or a list of text parts",
                       name, at);
    for (int pass = 0; pass < 2; pass++) {
        char *p = pass ? sp_arena_alloc(a, n + 1) : NULL;
        if (pass && !p)
            return SP_FAIL(d, SP_NOMEM, "messages");
        *out = (sp_str){p, n};
        n = 0;
        for (size_t i = 0; i < (json_is_string(v) ? 1 : json_array_size(v)); i++) {
            const json_t *part = json_array_get(v, i),
                         *text = json_is_string(v) ? v : json_object_get(part, "text");
            const char *type = json_string_value(json_object_get(part, "type"));
            bool known = json_is_string(v);
            for (size_t k = 0; k < 3 && type; k++)
                known = known || strcmp(type, kinds[k]) == 0;
            if (!known || !json_is_string(text))
                return SP_FAIL(d, SP_UNSUP, "%s[%zu].content[%zu]: %s", name, at, i,
                               sp_api_lacks(type));
            if (pass)
                memcpy(p + n, json_string_value(text), json_string_length(text));
            n += json_string_length(text);
        }
    }
    return SP_OK;
}

/* A copy in the arena; NULL: empty. */
static sp_err keep_text(sp_str *out, sp_arena *a, const char *text, sp_diag *d)
{
    *out = (sp_str){text ? sp_arena_strndup(a, text, strlen(text)) : "", text ? strlen(text) : 0};
    return out->p ? SP_OK : SP_FAIL(d, SP_NOMEM, "messages");
}

/* {"id", "type": "function", "function": {"name", "arguments"}}; arguments are JSON as text, or an
 * object. */
static sp_err read_call(sp_chat_call *out, sp_arena *a, const json_t *v, const sp_lists *lists,
                        sp_diag *d)
{
    const char *id = NULL, *type = "function", *name = NULL, *bad;
    const json_t *fn = NULL, *arguments = NULL, *index = NULL, *extra = NULL;
    const sp_param table[] = {{"id", SP_P_STR, &id, 0, 0},
                              {"type", SP_P_STR, &type, 0, 0},
                              {"function", SP_P_JSON, &fn, 0, 0},
                              {"index", SP_P_JSON, &index, 0, 0},
                              {"extra_content", SP_P_JSON, &extra, 0, 0}};
    const sp_param inner[] = {{"name", SP_P_STR, &name, 0, 0},
                              {"arguments", SP_P_JSON, &arguments, 0, 0}};
    if (!json_is_object(v))
        return SP_FAIL(d, SP_INVAL, "it is not an object");
    SP_TRY(sp_known_read(v, table, sizeof table / sizeof table[0], lists, &bad, d));
    if (strcmp(type, "function") != 0)
        return SP_FAIL(d, SP_UNSUP, "its type must be function");
    if (!json_is_object(fn))
        return SP_FAIL(d, SP_INVAL, "its function is missing");
    SP_TRY(sp_known_read(fn, inner, sizeof inner / sizeof inner[0], lists, &bad, d));
    if (!name || !*name)
        return SP_FAIL(d, SP_INVAL, "function.name is missing");
    SP_TRY(keep_text(&out->id, a, id, d));
    SP_TRY(keep_text(&out->name, a, name, d));
    if (json_is_object(arguments)) {
        const char *text;
        SP_TRY(sp_params_keep(&text, a, arguments, d));
        out->arguments = (sp_str){text, strlen(text)};
        return SP_OK;
    }
    if (arguments && !json_is_string(arguments))
        return SP_FAIL(d, SP_INVAL, "function.arguments must be JSON as a string");
    out->arguments = (sp_str){sp_arena_strndup(a, arguments ? json_string_value(arguments) : "",
                                               json_string_length(arguments)),
                              json_string_length(arguments)};
    return out->arguments.p ? SP_OK : SP_FAIL(d, SP_NOMEM, "messages");
}

static sp_err read_calls(sp_chat_msg *out, sp_arena *a, const json_t *list, const sp_lists *lists,
                         sp_diag *d)
{
    size_t n = json_array_size(list);
    if (!json_is_array(list) || n > MAX_CALLS)
        return SP_FAIL(d, SP_INVAL, "tool_calls must be a list of at most %d calls", MAX_CALLS);
    sp_chat_call *all = sp_arena_alloc(a, (n + 1) * sizeof *all);
    if (!all)
        return SP_FAIL(d, SP_NOMEM, "messages");
    for (size_t i = 0; i < n; i++) {
        sp_diag inner = {0};
        sp_err err = read_call(&all[i], a, json_array_get(list, i), lists, &inner);
        if (err != SP_OK)
            return SP_FAIL(d, err, "tool_calls[%zu]: %.120s", i, inner.msg);
    }
    out->call = all;
    out->n_call = n;
    return SP_OK;
}

/* What a message has beside its text. */
typedef struct beside {
    const char *role, *who, *type, *call_id, *thought[2];
    const json_t *content, *calls;
} beside;

static const char *role_of(const char *role)
{
    static const char *const known[][2] = {
        {"system", "system"}, {"developer", "system"} /* OpenAI's newer name for it */,
        {"user", "user"},     {"assistant", "assistant"},
        {"tool", "tool"},     {"function", "tool"}};
    for (size_t k = 0; role && k < sizeof known / sizeof known[0]; k++)
        if (strcmp(role, known[k][0]) == 0)
            return known[k][1];
    return NULL;
}

static sp_err read_beside(sp_chat_msg *out, sp_arena *a, const beside *b, const sp_lists *lists,
                          sp_diag *d)
{
    bool answers = strcmp(out->role.p, "assistant") == 0;
    const char *thought = b->thought[0] ? b->thought[0] : b->thought[1];
    bool results = strcmp(out->role.p, "tool") == 0;
    if (b->call_id && !results)
        return SP_FAIL(d, SP_INVAL, "tool_call_id is for the role tool");
    if (results && !b->call_id && !b->who)
        return SP_FAIL(d, SP_INVAL, "tool_call_id is missing");
    if (json_array_size(b->calls) && !answers)
        return SP_FAIL(d, SP_INVAL, "tool_calls is for the role assistant");
    if (thought && !answers)
        sp_known_ignore(lists, b->thought[0] ? "reasoning_content" : "reasoning");
    SP_TRY(keep_text(&out->name, a, b->who, d));
    SP_TRY(keep_text(&out->call_id, a, b->call_id, d));
    SP_TRY(keep_text(&out->reasoning, a, answers ? thought : NULL, d));
    return b->calls ? read_calls(out, a, b->calls, lists, d) : SP_OK;
}

static sp_err read_message(sp_chat_msg *out, sp_arena *a, const json_t *m, const sp_lists *lists,
                           const char *name, size_t i, sp_diag *d)
{
    beside b = {.type = "message"};
    const char *bad;
    const sp_param table[] = {{"role", SP_P_STR, &b.role, 0, 0},
                              {"content", SP_P_JSON, &b.content, 0, 0},
                              {"name", SP_P_STR, &b.who, 0, 0},
                              {"type", SP_P_STR, &b.type, 0, 0},
                              {"tool_calls", SP_P_JSON, &b.calls, 0, 0},
                              {"tool_call_id", SP_P_STR, &b.call_id, 0, 0},
                              {"reasoning_content", SP_P_STR, &b.thought[0], 0, 0},
                              {"reasoning", SP_P_STR, &b.thought[1], 0, 0}};
    if (!json_is_object(m))
        return SP_FAIL(d, SP_INVAL, "%s[%zu] is not an object", name, i);
    sp_diag inner = {0};
    if (sp_known_read(m, table, sizeof table / sizeof table[0], lists, &bad, &inner) != SP_OK)
        return SP_FAIL(d, inner.code, "%s[%zu]: %.140s", name, i, inner.msg);
    if (strcmp(b.type, "message") != 0)
        return SP_FAIL(d, SP_UNSUP, "%s[%zu].type: only message is supported", name, i);
    const char *role = role_of(b.role);
    if (!role)
        return SP_FAIL(d, SP_INVAL,
                       "%s[%zu].role must be system, developer, user, assistant or tool", name, i);
    *out = sp_chat_say(role, "", 0);
    if (read_beside(out, a, &b, lists, &inner) != SP_OK)
        return SP_FAIL(d, inner.code, "%s[%zu]: %.140s", name, i, inner.msg);
    if (!b.content && strcmp(role, "assistant") == 0)
        return SP_OK;
    return read_content(&out->content, a, b.content, name, i, d);
}

sp_err sp_api_messages(sp_chat_msg **out, size_t *n, sp_arena *a, const json_t *list,
                       const sp_app *app, sp_buf *ignored, const char *name, sp_diag *d)
{
    const sp_lists lists = {.known = sp_known_message,
                            .lenient = app->lenient,
                            .ignored = ignored,
                            .where = "messages[]."};
    *n = json_array_size(list);
    if (!json_is_array(list) || *n == 0 || *n > MAX_ITEM)
        return SP_FAIL(d, SP_INVAL, "%s must be a list of 1 to %d messages", name, MAX_ITEM);
    *out = sp_arena_alloc(a, (*n + 1) * sizeof **out); /* room for an answer */
    if (!*out)
        return SP_FAIL(d, SP_NOMEM, "messages");
    for (size_t i = 0; i < *n; i++)
        SP_TRY(read_message(&(*out)[i], a, json_array_get(list, i), &lists, name, i, d));
    return SP_OK;
}
