/* Test tool: takes answers apart. stdin: JSON a line, {"format": name or null, "think": [open,
 * close], "at": "text" | "think" | "head", "tools": […], "pieces": [text, …], "control": [bool,
 * …]}; stdout: a JSON list of events a line, neighbouring texts of a kind joined: ["says", text],
 * ["thinks", text], ["open"], ["call", name, id], ["args", text], ["end", ok]. */
#include "base/mem.h"
#include "text/calls.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const kinds[] = {"says", "thinks", "open", "call", "args", "end"};

/* Texts need not be UTF-8: they are written a code point a byte, as latin-1. */
static json_t *latin(sp_str s)
{
    char *p = malloc(2 * s.n + 1);
    size_t n = 0;
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        if (c >= 0x80)
            p[n++] = (char)(0xc0 | c >> 6);
        p[n++] = (char)(c >= 0x80 ? 0x80 | (c & 63) : c);
    }
    json_t *v = json_stringn(p, n);
    free(p);
    return v;
}

static void on_event(void *arg, const sp_answer_event *e)
{
    json_t *list = arg, *last = json_array_get(list, json_array_size(list) - 1);
    const char *kind = kinds[e->kind];
    bool is_text =
        e->kind == SP_ANSWER_SAYS || e->kind == SP_ANSWER_THINKS || e->kind == SP_ANSWER_ARGS;
    if (is_text && last && strcmp(json_string_value(json_array_get(last, 0)), kind) == 0) {
        json_t *add = latin(e->text), *old = json_array_get(last, 1);
        size_t n = json_string_length(old), m = json_string_length(add);
        char *both = malloc(n + m + 1);
        memcpy(both, json_string_value(old), n);
        memcpy(both + n, json_string_value(add), m);
        json_string_setn(old, both, n + m);
        free(both);
        json_decref(add);
        return;
    }
    json_t *v = json_array();
    json_array_append_new(v, json_string(kind));
    if (e->kind != SP_ANSWER_OPEN)
        json_array_append_new(v, e->kind == SP_ANSWER_END ? json_boolean(e->ok) : latin(e->text));
    if (e->kind == SP_ANSWER_CALL)
        json_array_append_new(v, latin(e->id));
    json_array_append_new(list, v);
}

/* A piece that latin-1 holds as bytes. */
static size_t bytes(char *out, const json_t *v)
{
    const unsigned char *p = (const unsigned char *)json_string_value(v);
    size_t n = 0;
    for (size_t i = 0; i < json_string_length(v); i++)
        out[n++] = (char)(p[i] >= 0x80 ? (p[i] & 3) << 6 | (p[i + 1] & 63) : p[i]),
        i += p[i] >= 0x80;
    return n;
}

static void put_frame(const sp_call_format *f)
{
    sp_call_frame frame;
    sp_call_frame_of(&frame, f);
    json_t *v =
        json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:b}", "trigger", frame.trigger, "before",
                  frame.before, "between", frame.between, "after", frame.after, "again",
                  frame.again, "close", frame.close, "is_json", frame.is_json);
    char *out = json_dumps(v, JSON_COMPACT);
    printf("%s\n", out);
    free(out);
    json_decref(v);
}

int main(void)
{
    char *line = NULL;
    size_t cap = 0;
    while (getline(&line, &cap, stdin) > 0) {
        json_t *j = json_loads(line, JSON_ALLOW_NUL, NULL), *events = json_array(), *piece;
        const json_t *think = json_object_get(j, "think"), *control = json_object_get(j, "control");
        const char *name = json_string_value(json_object_get(j, "format")),
                   *at = json_string_value(json_object_get(j, "at"));
        char *tools =
            json_object_get(j, "tools") ? json_dumps(json_object_get(j, "tools"), 0) : NULL;
        sp_answer *a;
        size_t i;
        if (json_object_get(j, "frame")) {
            put_frame(sp_call_format_find(json_string_value(json_object_get(j, "frame"))));
            json_decref(events);
            json_decref(j);
            continue;
        }
        const sp_answer_cfg cfg = {
            .format = name ? sp_call_format_find(name) : NULL,
            .has_tools = true,
            .is_either = json_is_true(json_object_get(j, "either")),
            .think = {json_string_value(json_array_get(think, 0)),
                      json_string_value(json_array_get(think, 1))},
            .at = !at || *at == 't' ? (at && at[1] == 'h' ? SP_ANSWER_THINK : SP_ANSWER_TEXT)
                                    : SP_ANSWER_HEAD,
            .tools = {tools ? tools : "", tools ? strlen(tools) : 0},
            .on = on_event,
            .arg = events};
        if (sp_answer_new(&a, &cfg, NULL) != SP_OK)
            return 1;
        json_array_foreach(json_object_get(j, "pieces"), i, piece)
        {
            char *p = malloc(json_string_length(piece) + 1);
            size_t n = bytes(p, piece);
            if (sp_answer_feed(a, p, n, json_is_true(json_array_get(control, i))) != SP_OK)
                return 1;
            free(p);
        }
        if (sp_answer_finish(a) != SP_OK)
            return 1;
        sp_answer_free(a);
        char *out = json_dumps(events, JSON_COMPACT);
        printf("%s\n", out);
        free(out);
        free(tools);
        json_decref(events);
        json_decref(j);
    }
    free(line);
    return 0;
}
