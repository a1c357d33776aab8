/* Messages in the roles and kinds that a template has. Where it has none for tools, they become
 * text: definitions go into the system message, calls into the assistant's text, results into a
 * user's turn, in the format that the parser of answers then reads. */
#include "text/chat_int.h"

#include "base/buf.h"

#include <string.h>

static const char before_tools[] =
    "You can call functions. These are the functions, as JSON:\n<tools>\n";
static const char between_tools[] = "\n</tools>\n\nTo call a function, write its name and its "
                                    "arguments as a JSON object in this form, "
                                    "once for each call:\n";
static const char after_tools[] =
    "\nThe results come in the next message. Answer without a call where none is needed.";

enum { MOST_CALLS = 256 }; /* of a message that is taken apart */

typedef struct shaper {
    sp_arena *a;
    const sp_chat_caps *caps;
    sp_chat_msg *msg;
    size_t n;
    sp_str system;   /* waits for the next message of a user */
    bool is_results; /* the last message holds results of calls only */
} shaper;

static sp_err keep(sp_str *out, sp_arena *a, sp_buf *b)
{
    size_t n = b->len;
    char *p = b->failed ? NULL : sp_arena_strndup(a, sp_buf_str(b), n);
    sp_buf_fini(b);
    if (!p)
        return SP_NOMEM;
    *out = (sp_str){p, n};
    return SP_OK;
}

static void put(sp_buf *b, sp_str s)
{
    if (s.n)
        sp_buf_put(b, s.p, s.n);
}

static sp_err paragraphs(sp_str *out, sp_arena *a, sp_str one, sp_str two)
{
    sp_buf b = {0};
    put(&b, one);
    if (one.n && two.n)
        sp_buf_puts(&b, "\n\n");
    put(&b, two);
    return keep(out, a, &b);
}

static sp_err calls_as_text(shaper *s, sp_chat_msg *m)
{
    sp_buf b = {0};
    put(&b, m->content);
    for (size_t i = 0; i < m->n_call; i++) {
        const sp_chat_call *c = &m->call[i];
        sp_buf_puts(&b, b.len ? "\n<tool_call>\n{\"name\": " : "<tool_call>\n{\"name\": ");
        sp_buf_json_str(&b, c->name.n ? c->name.p : "", c->name.n);
        sp_buf_puts(&b, ", \"arguments\": ");
        put(&b, c->arguments.n ? c->arguments : (sp_str){"{}", 2});
        sp_buf_puts(&b, "}\n</tool_call>");
    }
    m->call = NULL;
    m->n_call = 0;
    return keep(&m->content, s->a, &b);
}

/* Results in a row are one turn of the user. */
static sp_err result_as_text(shaper *s, const sp_chat_msg *m)
{
    sp_buf b = {0};
    if (!s->is_results)
        s->msg[s->n++] = sp_chat_say("user", "", 0);
    sp_chat_msg *last = &s->msg[s->n - 1];
    put(&b, last->content);
    sp_buf_puts(&b, b.len ? "\n<tool_response>\n" : "<tool_response>\n");
    put(&b, m->content);
    sp_buf_puts(&b, "\n</tool_response>");
    s->is_results = true;
    return keep(&last->content, s->a, &b);
}

/* The text beside a call as a message before it. */
static void split_text(shaper *s, sp_chat_msg *m)
{
    s->msg[s->n] = *m;
    s->msg[s->n].call = NULL;
    s->msg[s->n++].n_call = 0;
    m->content = m->reasoning = (sp_str){"", 0};
}

static sp_err add(shaper *s, const sp_chat_msg *in)
{
    sp_chat_msg m = *in;
    bool generic = !s->caps->calls;
    if (generic && sp_chat_is(m.role, "tool"))
        return result_as_text(s, &m);
    s->is_results = false;
    if (generic && m.n_call)
        SP_TRY(calls_as_text(s, &m));
    if (s->caps->split_text && m.n_call && m.content.n)
        split_text(s, &m);
    if (sp_chat_is(m.role, "developer") && !s->caps->developer)
        m.role = (sp_str){"system", 6};
    if (s->caps->no_system && sp_chat_is(m.role, "system"))
        return paragraphs(&s->system, s->a, s->system, m.content);
    if (s->system.n && sp_chat_is(m.role, "user")) {
        SP_TRY(paragraphs(&m.content, s->a, s->system, m.content));
        s->system = (sp_str){"", 0};
    }
    s->msg[s->n++] = m;
    return SP_OK;
}

/* Whether a result is the call's: by its id, else by its place. */
static bool is_of(const sp_chat_msg *result, size_t place, const sp_chat_call *c, size_t i)
{
    if (!result->call_id.n || !c->id.n)
        return place == i;
    return result->call_id.n == c->id.n && memcmp(result->call_id.p, c->id.p, c->id.n) == 0;
}

/* Each call of m[0] as a message of its own with its result, of the n_result that follow m[0],
 * behind it. */
static sp_err one_by_one(shaper *s, const sp_chat_msg *m, size_t n_result)
{
    for (size_t i = 0; i < m->n_call; i++) {
        sp_chat_msg one = *m;
        one.call = &m->call[i];
        one.n_call = 1;
        if (i)
            one.content = one.reasoning = (sp_str){"", 0};
        SP_TRY(add(s, &one));
        size_t k =
            i < n_result && is_of(&m[1 + i], i, one.call, i) ? i : 0; /* most come in order */
        while (k < n_result && !is_of(&m[1 + k], k, one.call, i))
            k++;
        if (k < n_result)
            SP_TRY(add(s, &m[1 + k]));
    }
    return SP_OK;
}

/* The results that follow a message. */
static size_t results_after(const sp_chat_ask *ask, size_t at)
{
    size_t n = 0;
    while (at + 1 + n < ask->n_msg && sp_chat_is(ask->msg[at + 1 + n].role, "tool"))
        n++;
    return n;
}

static bool is_system(const sp_chat_msg *m)
{
    return sp_chat_is(m->role, "system") || sp_chat_is(m->role, "developer");
}

/* The first message, with the definitions of tools in it. */
static sp_err tools_as_text(shaper *s, const sp_chat_ask *ask, size_t *used, sp_diag *d)
{
    bool has_system = ask->n_msg && is_system(&ask->msg[0]);
    sp_chat_msg first = has_system ? ask->msg[0] : sp_chat_say("system", "", 0);
    sp_buf b = {0};
    sp_str text;
    sp_jval list;
    sp_call_frame frame;
    size_t steps = 0;
    SP_TRY(sp_chat_json(&list, s->a, &steps, ask->tools, SP_J_LIST, "tools", d));
    sp_buf_puts(&b, before_tools);
    put(&b, ask->tools);
    sp_buf_puts(&b, between_tools);
    sp_call_frame_of(&frame, s->caps->format);
    sp_buf_printf(&b, "%sNAME%s{}%s%s", frame.before, frame.between, frame.after, frame.close);
    sp_buf_puts(&b, after_tools);
    SP_TRY(keep(&text, s->a, &b));
    SP_TRY(paragraphs(&first.content, s->a, first.content, text));
    *used = has_system;
    return add(s, &first);
}

sp_err sp_chat_shape(sp_chat_ask *out, sp_arena *a, const sp_chat_ask *ask,
                     const sp_chat_caps *caps, sp_diag *d)
{
    shaper s = {.a = a, .caps = caps, .system = {"", 0}};
    size_t used = 0;
    size_t cap = 2; /* a system message, and a user's for its text, may be added */
    for (size_t i = 0; i < ask->n_msg; i++)
        cap += 2 + ask->msg[i].n_call;
    s.msg = sp_arena_alloc(a, cap * sizeof *s.msg);
    if (!s.msg)
        return SP_NOMEM;
    *out = *ask;
    if (ask->tools.n && !(caps->tools && caps->calls)) {
        SP_TRY(tools_as_text(&s, ask, &used, d));
        out->tools = (sp_str){"", 0};
    }
    for (size_t i = used; i < ask->n_msg; i++) {
        bool apart = caps->one_call && ask->msg[i].n_call > 1 && ask->msg[i].n_call <= MOST_CALLS;
        size_t n = apart ? results_after(ask, i) : 0;
        SP_TRY(apart ? one_by_one(&s, &ask->msg[i], n) : add(&s, &ask->msg[i]));
        i += n;
    }
    if (s.system.n) {
        const sp_chat_msg user = sp_chat_say("user", s.system.p, s.system.n);
        s.msg[s.n++] = user;
    }
    out->msg = s.msg;
    out->n_msg = s.n;
    return SP_OK;
}
