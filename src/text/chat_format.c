/* In which format a model writes calls, and between which marks it thinks: its template is given a
 * call, and each format is tried on what it makes of it. The first that reads the call back is the
 * model's. */
#include "text/calls_int.h"
#include "text/chat_int.h"

#include <string.h>

#define NAME "Qtoolq"
#define ARGS "{\"Qkeyq\": \"Qvalueq\", \"Qnumberq\": 7}"
#define STR(s) {s, sizeof(s) - 1}

enum { LOOK_BACK = 32 };

static const sp_str tools = STR("[{\"type\":\"function\",\"function\":{\"name\":\"" NAME
                                "\",\"description\":\"d\",\"parameters\":{\"type\":\"object\","
                                "\"properties\":{\"Qkeyq\":{\"type\":\"string\",\"description\":"
                                "\"d\"},\"Qnumberq\":{\"type\":\"integer\","
                                "\"description\":\"d\"}},\"required\":[\"Qkeyq\"]}}}]");
static const sp_chat_call call = {
    .id = STR("call_0123456789abcdef"), .name = STR(NAME), .arguments = STR(ARGS)};
static const sp_chat_msg talk[] = {
    {.role = STR("user"), .content = STR("Qcontentq")},
    {.role = STR("assistant"), .content = STR(""), .call = &call, .n_call = 1}};

static const sp_chat_msg thought[] = {
    {.role = STR("user"), .content = STR("Qcontentq")},
    {.role = STR("assistant"), .content = STR("Qanswerq"), .reasoning = STR("Qthoughtq")}};

/* What a trial has read. */
typedef struct trial {
    sp_answer *answer;
    sp_buf name, args;
    size_t n_call;
    bool ok, is_in_section;
} trial;

static void on_event(void *arg, const sp_answer_event *e)
{
    trial *t = arg;
    if (e->kind == SP_ANSWER_CALL) {
        t->n_call++;
        t->is_in_section = t->answer->in_section;
        sp_buf_put(&t->name, e->text.p, e->text.n);
    } else if (e->kind == SP_ANSWER_ARGS) {
        sp_buf_put(&t->args, e->text.p, e->text.n);
    } else if (e->kind == SP_ANSWER_END) {
        t->ok = e->ok;
    }
}

static bool is_str(const sp_jval *v, const char *s)
{
    return v && v->kind == SP_J_STR && sp_chat_is((sp_str){v->u.s.p, v->u.s.n}, s);
}

static bool is_the_call(const trial *t)
{
    sp_arena a;
    sp_jval v;
    if (t->n_call != 1 || !t->ok || t->name.len != strlen(NAME) ||
        memcmp(t->name.p, NAME, t->name.len) != 0)
        return false;
    sp_arena_init(&a, 1 << 20);
    bool same = sp_call_parse(&v, &a, sp_buf_str(&t->args), t->args.len) && v.kind == SP_J_MAP &&
                v.u.list->n == 4;
    if (same) {
        const sp_jval *n = sp_jinja_map_get(&v, "Qnumberq");
        same = is_str(sp_jinja_map_get(&v, "Qkeyq"), "Qvalueq") && n && n->kind == SP_J_INT &&
               n->u.i == 7;
    }
    sp_arena_fini(&a);
    return same;
}

static bool reads_back(const sp_call_format *f, sp_think_marks think, sp_answer_at at,
                       const char *p, size_t n)
{
    trial t = {0};
    const sp_answer_cfg cfg = {.format = f,
                               .has_tools = true,
                               .think = think,
                               .at = at,
                               .tools = tools,
                               .on = on_event,
                               .arg = &t};
    if (sp_answer_new(&t.answer, &cfg, NULL) != SP_OK)
        return false;
    bool ok = sp_answer_feed(t.answer, p, n, false) == SP_OK &&
              sp_answer_finish(t.answer) == SP_OK && is_the_call(&t);
    ok = ok && (!f->section || t.is_in_section);
    sp_answer_free(t.answer);
    sp_buf_fini(&t.name);
    sp_buf_fini(&t.args);
    return ok;
}

/* --- thoughts --------------------------------------------------------------------------------- */

static const char *last(const char *p, size_t n, const char *mark)
{
    const char *found = NULL, *end = p + n;
    size_t m = strlen(mark);
    for (const char *at = p; n && (at = memmem(at, (size_t)(end - at), mark, m)) != NULL; at++)
        found = at;
    return found;
}

static bool holds(sp_str text, const char *word)
{
    return text.n && memmem(text.p, text.n, word, strlen(word)) != NULL;
}

/* The pair of marks that a text holds: of most models the closing one is enough, and not every
 * template writes the opening one. */
static bool find_marks(sp_think_marks *out, sp_str text)
{
    sp_think_marks m;
    for (size_t i = 0; (m = sp_think_marks_at(i)).open; i++)
        if (holds(text, m.close) && (holds(text, m.open) || m.close[1] == '/')) {
            *out = m;
            return true;
        }
    return false;
}

/* The marks stand in the template, or in what it makes of thoughts. */
static sp_think_marks choose_marks(const sp_jinja *program, const sp_chat_caps *caps, sp_str source)
{
    const sp_chat_ask ask = {.msg = thought, .n_msg = 2};
    sp_think_marks m = {NULL, NULL};
    sp_buf out = {0};
    if (!find_marks(&m, source) && sp_chat_try(&out, program, caps, &ask) == SP_OK)
        (void)find_marks(&m, (sp_str){sp_buf_str(&out), out.len});
    sp_buf_fini(&out);
    return m;
}

sp_answer_at sp_chat_answer_at(const sp_call_format *f, sp_think_marks think, const char *tail,
                               size_t n)
{
    if (f && f->head_end)
        return SP_ANSWER_HEAD;
    const char *open = think.open ? last(tail, n, think.open) : NULL,
               *close = think.open ? last(tail, n, think.close) : NULL;
    return open && (!close || close < open) ? SP_ANSWER_THINK : SP_ANSWER_TEXT;
}

/* --- the choice ------------------------------------------------------------------------------- */

static const sp_call_format *find_format(const sp_jinja *program, const sp_chat_caps *caps,
                                         sp_think_marks think)
{
    const sp_call_format *f = NULL;
    sp_buf with = {0}, start = {0};
    const sp_chat_ask asks[] = {{.msg = talk, .n_msg = 2, .tools = tools},
                                {.msg = talk, .n_msg = 1, .tools = tools, .add_answer = true}};
    bool ok = sp_chat_try(&with, program, caps, &asks[0]) == SP_OK &&
              sp_chat_try(&start, program, caps, &asks[1]) == SP_OK && with.len && start.len;
    size_t n = 0;
    while (ok && n < with.len && n < start.len && with.p[n] == start.p[n])
        n++;
    bool is_after = n == start.len;
    size_t from = is_after || n < LOOK_BACK ? n : n - LOOK_BACK;
    for (size_t i = 0; ok && (f = sp_call_format_at(i)) != NULL; i++) {
        sp_answer_at at =
            is_after ? sp_chat_answer_at(f, think, start.p, start.len) : SP_ANSWER_TEXT;
        if (reads_back(f, think, at, with.p + from, with.len - from))
            break;
    }
    sp_buf_fini(&with);
    sp_buf_fini(&start);
    return ok ? f : NULL;
}

void sp_chat_choose(sp_chat_caps *caps, sp_think_marks *think, const sp_jinja *program,
                    sp_str source)
{
    sp_call_frame frame;
    *think = choose_marks(program, caps, source);
    caps->format = caps->calls ? find_format(program, caps, *think) : NULL;
    if (caps->format)
        sp_call_frame_of(&frame, caps->format);
    if (caps->format && (caps->tools || frame.is_json))
        return;
    caps->calls = false; /* what cannot be read back, or told to a model, is written as text */
    caps->format = sp_call_format_find("hermes");
}
