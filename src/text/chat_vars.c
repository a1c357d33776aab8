/* The variables that a chat template sees: messages and tools as values, each byte of them foreign.
 */
#include "text/chat_int.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

enum { LOOK_CALLS = 256, ID_CHARS = 9 };

typedef struct maker {
    sp_arena *a;
    const sp_chat_caps *caps;
    const sp_chat_ask *ask;
    const sp_chat_msg *caller; /* the last message with calls */
    size_t n_result;           /* results since then */
    size_t steps;              /* spent on reading JSON */
    sp_diag *d;
} maker;

#define SET(m, map, key, v) SP_TRY(sp_jinja_map_set(map, (m)->a, key, v))

static sp_jval text_value(sp_str s)
{
    return sp_jinja_foreign(s.p ? s.p : "", s.n);
}

static sp_jval own(const char *s)
{
    return sp_jinja_str(s, strlen(s));
}

/* A role is the template's own word where it is one that templates know: some make a control token
 * of it. */
static sp_jval role_value(sp_str role)
{
    static const char *const known[] = {"system", "developer", "user", "assistant", "tool"};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (sp_chat_is(role, known[i]))
            return own(known[i]);
    return text_value(role);
}

/* --- calls ------------------------------------------------------------------------------------ */

/* An id as this template takes it: one of another length becomes nine letters and digits made of
 * its bytes. */
static sp_err id_value(maker *m, sp_jval *out, sp_str id)
{
    static const char digit[] = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    char s[ID_CHARS + 1];
    uint64_t h = 1469598103934665603u; /* FNV-1a */
    *out = text_value(id);
    if (!m->caps->short_ids)
        return SP_OK;
    for (size_t i = 0; i < id.n; i++)
        h = (h ^ (unsigned char)id.p[i]) * 1099511628211u;
    for (int i = 0; i < ID_CHARS; i++, h /= 62)
        s[i] = digit[h % 62];
    char *kept = sp_arena_strndup(m->a, s, ID_CHARS);
    *out = sp_jinja_foreign(kept, ID_CHARS);
    return kept ? SP_OK : SP_NOMEM;
}

/* The id of a call that has none: its place. */
static sp_err place_id(maker *m, sp_str *id, size_t i)
{
    char s[32];
    if (id->n)
        return SP_OK;
    int n = snprintf(s, sizeof s, "call_%zu", i);
    *id = (sp_str){sp_arena_strndup(m->a, s, (size_t)n), (size_t)n};
    return id->p ? SP_OK : SP_NOMEM;
}

static sp_err arguments_value(maker *m, sp_jval *out, sp_str json)
{
    sp_diag why = {0};
    if (!json.n)
        json = (sp_str){"{}", 2};
    *out = text_value(json);
    if (m->caps->args_text)
        return SP_OK;
    sp_jval v;
    sp_err err = sp_jinja_json(&v, m->a, &m->steps, json.p, json.n, &why);
    if (err == SP_OK && v.kind == SP_J_MAP)
        *out = v;
    return err == SP_FORMAT ? SP_OK : err;
}

static sp_err call_value(maker *m, sp_jval *out, const sp_chat_call *c, size_t i)
{
    sp_jval function, arguments, id;
    sp_str key = c->id;
    SP_TRY(place_id(m, &key, i));
    SP_TRY(id_value(m, &id, key));
    SP_TRY(arguments_value(m, &arguments, c->arguments));
    SP_TRY(sp_jinja_map_new(&function, m->a));
    SET(m, &function, "name", text_value(c->name));
    SET(m, &function, "arguments", arguments);
    SP_TRY(sp_jinja_map_new(out, m->a));
    SET(m, out, "id", id);
    SET(m, out, "type", own("function"));
    SET(m, out, "function", function);
    return SP_OK;
}

/* The call that a result belongs to: by its id, else by its place; NULL: none is near. */
static const sp_chat_call *call_of(const maker *m, const sp_chat_msg *result, size_t *at)
{
    const sp_chat_msg *c = m->caller;
    size_t n = c ? c->n_call : 0;
    for (size_t i = 0; result->call_id.n && i < n && i < LOOK_CALLS; i++) {
        size_t k = (m->n_result + i) % n; /* most come in order */
        if (c->call[k].id.n == result->call_id.n &&
            memcmp(c->call[k].id.p, result->call_id.p, result->call_id.n) == 0) {
            *at = k;
            return &c->call[k];
        }
    }
    *at = m->n_result;
    return !result->call_id.n && m->n_result < n ? &c->call[m->n_result] : NULL;
}

static sp_err set_result(maker *m, sp_jval *map, const sp_chat_msg *msg)
{
    size_t at;
    const sp_chat_call *c = call_of(m, msg, &at);
    sp_str id = msg->call_id.n ? msg->call_id
                : c            ? c->id
                               : (sp_str){"", 0},
           name = msg->name.n ? msg->name
                  : c         ? c->name
                              : (sp_str){"", 0};
    sp_jval v;
    m->n_result++;
    SP_TRY(place_id(m, &id, at));
    SP_TRY(id_value(m, &v, id));
    SET(m, map, "tool_call_id", v);
    if (name.n)
        SET(m, map, "name", text_value(name));
    return SP_OK;
}

static sp_err set_calls(maker *m, sp_jval *map, const sp_chat_msg *msg)
{
    sp_jval list;
    m->caller = msg;
    m->n_result = 0;
    SP_TRY(sp_jinja_list_new(&list, m->a));
    for (size_t i = 0; i < msg->n_call; i++) {
        sp_jval c;
        SP_TRY(call_value(m, &c, &msg->call[i], i));
        SP_TRY(sp_jinja_list_add(&list, m->a, c));
    }
    SET(m, map, "tool_calls", list);
    return SP_OK;
}

/* --- messages --------------------------------------------------------------------------------- */

/* Two texts with what stands between them. */
static sp_err join(maker *m, sp_str *out, sp_str a, const char *between, sp_str b)
{
    size_t mid = strlen(between);
    char *p = sp_arena_alloc(m->a, a.n + mid + b.n + 1);
    if (!p)
        return SP_NOMEM;
    if (a.n)
        memcpy(p, a.p, a.n);
    memcpy(p + a.n, between, mid);
    if (b.n)
        memcpy(p + a.n + mid, b.p, b.n);
    *out = (sp_str){p, a.n + mid + b.n};
    return SP_OK;
}

static sp_err add_part(maker *m, sp_jval *list, const char *type, sp_str text)
{
    sp_jval part;
    SP_TRY(sp_jinja_map_new(&part, m->a));
    SET(m, &part, "type", own(type));
    SET(m, &part, type, text_value(text));
    return sp_jinja_list_add(list, m->a, part);
}

static sp_err set_content(maker *m, sp_jval *map, sp_str content, sp_str reasoning, bool has_calls)
{
    bool think_part = m->caps->think_part && reasoning.n;
    sp_jval v = text_value(content);
    if (!content.n && has_calls && m->caps->null_content)
        v = (sp_jval){.kind = SP_J_NONE};
    if (think_part || m->caps->parts) {
        SP_TRY(sp_jinja_list_new(&v, m->a));
        if (think_part)
            SP_TRY(add_part(m, &v, "thinking", reasoning));
        if (content.n || !think_part)
            SP_TRY(add_part(m, &v, "text", content));
    }
    SET(m, map, "content", v);
    return SP_OK;
}

static sp_err set_reasoning(maker *m, sp_jval *map, sp_str reasoning)
{
    static const char *const names[] = {"reasoning_content", "reasoning", "thinking"};
    for (size_t i = 0; i < 3 && reasoning.n && !m->caps->think_part; i++)
        SET(m, map, names[i], text_value(reasoning));
    return SP_OK;
}

static sp_err add_message(maker *m, sp_jval *list, const sp_chat_msg *msg, bool go_on)
{
    sp_jval map;
    sp_str content = msg->content, reasoning = msg->reasoning;
    bool tool = sp_chat_is(msg->role, "tool");
    if (go_on)
        SP_TRY(join(m, &content, content, SP_CHAT_GO_ON, (sp_str){"", 0}));
    if (m->caps->one_text && msg->n_call && content.n && reasoning.n) {
        SP_TRY(join(m, &reasoning, reasoning, "\n\n", content));
        content = (sp_str){"", 0};
    }
    SP_TRY(sp_jinja_map_new(&map, m->a));
    SET(m, &map, "role", role_value(msg->role));
    SP_TRY(set_content(m, &map, content, reasoning, msg->n_call != 0));
    SP_TRY(set_reasoning(m, &map, reasoning));
    if (msg->n_call)
        SP_TRY(set_calls(m, &map, msg));
    if (tool)
        SP_TRY(set_result(m, &map, msg));
    else if (msg->name.n)
        SET(m, &map, "name", text_value(msg->name));
    return sp_jinja_list_add(list, m->a, map);
}

/* --- the other variables ---------------------------------------------------------------------- */

sp_err sp_chat_json(sp_jval *out, sp_arena *a, size_t *steps, sp_str json, sp_jkind kind,
                    const char *what, sp_diag *d)
{
    sp_diag why = {0};
    if (sp_jinja_json(out, a, steps, json.p, json.n, &why) != SP_OK)
        return SP_FAIL(d, SP_INVAL, "%s: %.150s", what, why.msg);
    if (out->kind != kind)
        return SP_FAIL(d, SP_INVAL, "%s is not a JSON %s", what,
                       kind == SP_J_LIST ? "array" : "object");
    return SP_OK;
}

static sp_err set_kwargs(maker *m, sp_jval *vars)
{
    sp_jval kw;
    if (!m->ask->kwargs.n)
        return SP_OK;
    SP_TRY(
        sp_chat_json(&kw, m->a, &m->steps, m->ask->kwargs, SP_J_MAP, "chat_template_kwargs", m->d));
    for (size_t i = 0; i < kw.u.list->n; i += 2)
        SP_TRY(sp_jinja_map_put(vars, m->a, kw.u.list->item[i], kw.u.list->item[i + 1]));
    return SP_OK;
}

static sp_err set_thinking(maker *m, sp_jval *vars)
{
    if (m->ask->think != SP_THINK_UNSET) {
        SET(m, vars, "enable_thinking", sp_jinja_bool(m->ask->think == SP_THINK_ON));
        SET(m, vars, "thinking", sp_jinja_bool(m->ask->think == SP_THINK_ON));
    }
    if (m->ask->effort.n)
        SET(m, vars, "reasoning_effort", text_value(m->ask->effort));
    return SP_OK;
}

/* functions and datetime are what Firefunction reads in the place of tools and strftime_now. */
static sp_err set_tools(maker *m, sp_jval *vars)
{
    char date[64];
    struct tm tm;
    time_t now = time(NULL);
    sp_jval list = {.kind = SP_J_NONE};
    if (m->ask->tools.n)
        SP_TRY(sp_chat_json(&list, m->a, &m->steps, m->ask->tools, SP_J_LIST, "tools", m->d));
    if (m->ask->tools.n || !m->caps->no_none)
        SET(m, vars, "tools", list);
    SET(m, vars, "functions", text_value(m->ask->tools.n ? m->ask->tools : (sp_str){"[]", 2}));
    size_t n = localtime_r(&now, &tm) ? strftime(date, sizeof date, "%Y-%m-%d", &tm) : 0;
    char *kept = sp_arena_strndup(m->a, date, n);
    if (!kept)
        return SP_NOMEM;
    SET(m, vars, "datetime", sp_jinja_str(kept, n));
    return SP_OK;
}

sp_err sp_chat_vars(sp_jval *vars, sp_arena *a, const sp_chat_ask *ask, const sp_chat_caps *caps,
                    const sp_chat_words *w, sp_diag *d)
{
    maker m = {.a = a, .caps = caps, .ask = ask, .d = d};
    sp_jval list;
    SP_TRY(sp_jinja_map_new(vars, a));
    SP_TRY(set_kwargs(&m, vars));
    SP_TRY(sp_jinja_list_new(&list, a));
    for (size_t i = 0; i < ask->n_msg; i++)
        SP_TRY(add_message(&m, &list, &ask->msg[i], ask->go_on && i + 1 == ask->n_msg));
    SET(&m, vars, "messages", list);
    SP_TRY(set_tools(&m, vars));
    SP_TRY(set_thinking(&m, vars));
    SET(&m, vars, "add_generation_prompt", sp_jinja_bool(ask->add_answer && !ask->go_on));
    SET(&m, vars, "bos_token", sp_jinja_str(w->bos.p, w->bos.n));
    SET(&m, vars, "eos_token", sp_jinja_str(w->eos.p, w->eos.n));
    return SP_OK;
}
