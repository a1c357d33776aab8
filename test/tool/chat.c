/* Test tool: a chat template and a conversation as the server gives it to it. stdin: JSON a line,
 * {"template": … or "named": …, "messages": […], "tools": […], "kwargs": {…}, "think": true, "effort": "low",
 * "add_answer": true, "go_on": true}; stdout: JSON {"out": …} or
 * {"error": …} a line. */
#include "text/chat.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static sp_str text_of(const json_t *v)
{
    return json_is_string(v) ? (sp_str){json_string_value(v), json_string_length(v)}
                             : (sp_str){"", 0};
}

static sp_str dump(sp_arena *a, const json_t *v)
{
    char *s = v && !json_is_null(v) ? json_dumps(v, JSON_ENCODE_ANY) : NULL;
    sp_str out = {"", 0};
    if (s)
        out = (sp_str){sp_arena_strndup(a, s, strlen(s)), strlen(s)};
    free(s);
    return out;
}

static sp_chat_msg message(sp_arena *a, const json_t *m)
{
    const json_t *calls = json_object_get(m, "tool_calls");
    sp_chat_msg out = {.role = text_of(json_object_get(m, "role")),
                       .content = text_of(json_object_get(m, "content")),
                       .name = text_of(json_object_get(m, "name")),
                       .reasoning = text_of(json_object_get(m, "reasoning_content")),
                       .call_id = text_of(json_object_get(m, "tool_call_id")),
                       .n_call = json_array_size(calls)};
    sp_chat_call *call = sp_arena_alloc(a, (out.n_call + 1) * sizeof *call);
    for (size_t i = 0; i < out.n_call; i++) {
        const json_t *c = json_array_get(calls, i), *f = json_object_get(c, "function"),
                     *args = json_object_get(f, "arguments");
        call[i] =
            (sp_chat_call){text_of(json_object_get(c, "id")), text_of(json_object_get(f, "name")),
                           json_is_string(args) ? text_of(args) : dump(a, args)};
    }
    out.call = call;
    return out;
}

static sp_chat_ask ask_of(sp_arena *a, const json_t *j)
{
    const json_t *list = json_object_get(j, "messages"), *think = json_object_get(j, "think");
    size_t n = json_array_size(list);
    sp_chat_msg *msg = sp_arena_alloc(a, (n + 1) * sizeof *msg);
    for (size_t i = 0; i < n; i++)
        msg[i] = message(a, json_array_get(list, i));
    return (sp_chat_ask){.msg = msg,
                         .n_msg = n,
                         .tools = dump(a, json_object_get(j, "tools")),
                         .kwargs = dump(a, json_object_get(j, "kwargs")),
                         .think = json_is_boolean(think)
                                      ? (json_is_true(think) ? SP_THINK_ON : SP_THINK_OFF)
                                      : SP_THINK_UNSET,
                         .effort = text_of(json_object_get(j, "effort")),
                         .add_answer = json_is_true(json_object_get(j, "add_answer")),
                         .go_on = json_is_true(json_object_get(j, "go_on"))};
}

int main(void)
{
    char *line = NULL;
    size_t cap = 0;
    while (getline(&line, &cap, stdin) > 0) {
        json_t *j = json_loads(line, JSON_ALLOW_NUL, NULL);
        const json_t *source = json_object_get(j, "template");
        sp_diag d = {0};
        static const char *const at[] = {"text", "think", "head"};
        sp_chat *c = NULL;
        sp_answer_cfg answer = {0};
        sp_arena a;
        sp_buf out = {0}, text = {0};
        sp_arena_init(&a, 0);
        const sp_chat_ask ask = ask_of(&a, j);
        const char *name = json_string_value(json_object_get(j, "named"));
        sp_str text_in = name ? (sp_str){sp_chat_named(name), strlen(sp_chat_named(name))} : text_of(source);
        sp_err err =
            sp_chat_open_text(&c, text_in.p, text_in.n, &d);
        if (err == SP_OK)
            err = sp_chat_text(c, NULL, &out, &answer, &ask, &d);
        if (err == SP_OK) {
            sp_buf_printf(&text, "{\"format\":\"%s\",\"at\":\"%s\",\"think\":[",
                          answer.format->name, at[answer.at]);
            if (answer.think.open) {
                sp_buf_json_str(&text, answer.think.open, strlen(answer.think.open));
                sp_buf_puts(&text, ",");
                sp_buf_json_str(&text, answer.think.close, strlen(answer.think.close));
            }
        }
        sp_buf_puts(&text, err == SP_OK ? "],\"out\":" : "{\"error\":");
        sp_buf_json_str(&text, err == SP_OK ? sp_buf_str(&out) : d.msg,
                        err == SP_OK ? out.len : strlen(d.msg));
        printf("%s}\n", sp_buf_str(&text));
        sp_buf_fini(&out);
        sp_buf_fini(&text);
        sp_chat_close(c);
        sp_arena_fini(&a);
        json_decref(j);
    }
    free(line);
    return 0;
}
