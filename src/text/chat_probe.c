/* What a chat template can take: small conversations of known words are rendered, and the output is
 * searched for them. Nothing is concluded from a template's name. A rendering that fails, for
 * whatever reason, shows nothing. */
#include "text/chat_int.h"

#include <string.h>

enum { PROBE_BYTES = 16 << 20 };

#define TEXT "Qcontentq"
#define SYSTEM "Qsystemq"
#define THOUGHT "Qthoughtq"
#define TOOL "Qtoolq"
#define KEY "Qkeyq"
#define VALUE "Qvalueq"
#define OTHER "Qotherq"
#define RESULT "Qresultq"
#define STR(s) {s, sizeof(s) - 1}

static const sp_str tools =
    STR("[{\"type\":\"function\",\"function\":{\"name\":\"" TOOL
        "\",\"description\":\"d\",\"parameters\":{\"type\":\"object\","
        "\"properties\":{\"" KEY
        "\":{\"type\":\"string\",\"description\":\"d\"}},\"required\":[\"" KEY "\"]}}}]");
static const sp_chat_call call[] = {
    {.id = STR("call_0123456789abcdef"),
     .name = STR(TOOL),
     .arguments = STR("{\"" KEY "\": \"" VALUE "\"}")},
    {.id = STR("call_0123456789abcdee"),
     .name = STR(TOOL),
     .arguments = STR("{\"" KEY "\": \"" OTHER "\"}")},
};
static const sp_chat_msg user = {.role = STR("user"), .content = STR(TEXT)};
static const sp_chat_msg system_says = {.role = STR("system"), .content = STR(SYSTEM)};
static const sp_chat_msg developer_says = {.role = STR("developer"), .content = STR(SYSTEM)};
static const sp_chat_msg calls = {
    .role = STR("assistant"), .content = STR(""), .call = call, .n_call = 1};
static const sp_chat_msg calls_two = {
    .role = STR("assistant"), .content = STR(""), .call = call, .n_call = 2};
static const sp_chat_msg says = {
    .role = STR("assistant"), .content = STR(TEXT "b"), .call = call, .n_call = 1};
static const sp_chat_msg says_only = {.role = STR("assistant"), .content = STR(TEXT "b")};
static const sp_chat_msg thinks = {.role = STR("assistant"),
                                   .content = STR(""),
                                   .reasoning = STR(THOUGHT),
                                   .call = call,
                                   .n_call = 1};
static const sp_chat_msg says_all = {.role = STR("assistant"),
                                     .content = STR(TEXT),
                                     .reasoning = STR(THOUGHT),
                                     .call = call,
                                     .n_call = 1};
static const sp_chat_msg result = {
    .role = STR("tool"), .content = STR(RESULT), .call_id = STR("call_0123456789abcdef")};

static const sp_chat_msg other_result = {
    .role = STR("tool"), .content = STR(RESULT), .call_id = STR("call_0123456789abcdee")};

typedef struct probe {
    const sp_jinja *program;
    sp_chat_caps *caps;
    sp_buf out;
    bool is_spent; /* a rendering ran into a budget: no more is tried */
} probe;

sp_err sp_chat_try(sp_buf *out, const sp_jinja *program, const sp_chat_caps *caps,
                   const sp_chat_ask *ask)
{
    static const sp_chat_words none = {{"", 0}, {"", 0}};
    sp_arena a;
    sp_jval vars;
    sp_diag d = {0};
    sp_buf_clear(out);
    sp_arena_init(&a, PROBE_BYTES);
    sp_err err = sp_chat_vars(&vars, &a, ask, caps, &none, &d);
    if (err == SP_OK)
        err = sp_jinja_run(program, out, NULL, &a, &vars, &d);
    sp_arena_fini(&a);
    return err;
}

/* Whether the messages render; their text is in p->out. */
static bool render(probe *p, const sp_chat_msg *const *msg, size_t n_msg, bool with_tools)
{
    sp_chat_msg list[4];
    if (p->is_spent)
        return false;
    sp_chat_ask ask = {.msg = list, .n_msg = n_msg, .add_answer = true};
    for (size_t i = 0; i < n_msg; i++)
        list[i] = *msg[i];
    if (with_tools)
        ask.tools = tools;
    sp_err err = sp_chat_try(&p->out, p->program, p->caps, &ask);
    p->is_spent = p->is_spent || err == SP_LIMIT; /* each more would take as long */
    return err == SP_OK;
}

static bool shows(const probe *p, const char *word)
{
    return p->out.len && memmem(p->out.p, p->out.len, word, strlen(word)) != NULL;
}

/* Whether a call and its result render, the arguments neither as Python writes them nor as a quoted
 * text. */
static bool shows_call(probe *p)
{
    const sp_chat_msg *const talk[] = {&user, &calls, &result};
    return render(p, talk, 3, true) && shows(p, TOOL) && shows(p, KEY) && shows(p, VALUE) &&
           shows(p, RESULT) && !shows(p, "'" KEY "'") && !shows(p, "\\\"" KEY "\\\"");
}

/* Several calls, and content beside one. */
static void probe_beside(probe *p)
{
    const sp_chat_msg *const two[] = {&user, &calls_two, &result, &other_result}, *const text[] = {
                                                                                      &user, &says,
                                                                                      &result};
    const sp_chat_msg *const apart[] = {&user, &says_only, &calls, &result};
    if (!p->caps->calls)
        return;
    p->caps->one_call = !(render(p, two, 4, true) && shows(p, VALUE) && shows(p, OTHER));
    bool together = render(p, text, 3, true) && shows(p, TEXT "b") && shows(p, VALUE);
    p->caps->split_text = !together && render(p, apart, 4, true) && shows(p, TEXT "b") &&
                          shows(p, VALUE) && shows(p, RESULT);
}

/* The first way that a template shows calls in, from the most usual on. */
static void probe_calls(probe *p)
{
    for (unsigned i = 0; i < 8 && !p->caps->calls; i++) {
        p->caps->args_text = i & 1;
        p->caps->null_content = i & 2;
        p->caps->short_ids = i & 4;
        p->caps->calls = shows_call(p);
    }
    if (!p->caps->calls)
        p->caps->args_text = p->caps->null_content = p->caps->short_ids = false;
}

static void probe_thinking(probe *p)
{
    const sp_chat_msg *const thought[] = {&user, &thinks, &result}, *const all[] = {
                                                                        &user, &says_all, &result};
    if (!p->caps->calls)
        return;
    if (!render(p, thought, 3, true) || !shows(p, THOUGHT)) {
        p->caps->think_part = true;
        p->caps->think_part =
            render(p, thought, 3, true) && shows(p, THOUGHT) && !shows(p, "thinking'");
    }
    p->caps->one_text = !render(p, all, 3, true);
}

static bool names(sp_str source, const char *word)
{
    return memmem(source.p, source.n, word, strlen(word)) != NULL;
}

void sp_chat_probe(sp_chat_caps *out, const sp_jinja *program, sp_str source)
{
    const sp_chat_msg *const one[] = {&user}, *const two[] = {&system_says, &user},
                             *const developed[] = {&developer_says, &user};
    const sp_chat_msg *const loop[] = {&system_says, &user, &calls, &result};
    probe p = {.program = program, .caps = out};
    *out = (sp_chat_caps){0};
    out->no_none = !render(&p, one, 1, false);
    if (!render(&p, one, 1, false) || !shows(&p, TEXT)) {
        out->parts = true;
        out->parts = render(&p, one, 1, false) && shows(&p, TEXT) && !shows(&p, "text'");
    }
    out->no_system = !(render(&p, two, 2, false) && shows(&p, SYSTEM));
    out->developer = (names(source, "'developer'") || names(source, "\"developer\"")) &&
                     render(&p, developed, 2, false) && shows(&p, SYSTEM);
    out->tools = render(&p, one, 1, true) && shows(&p, TOOL) && shows(&p, KEY);
    probe_calls(&p);
    probe_beside(&p);
    probe_thinking(&p);
    if (out->calls && !out->no_system) /* some show it with the last turn of the user only */
        out->no_system = !(render(&p, loop, 4, true) && shows(&p, SYSTEM));
    sp_buf_fini(&p.out);
}
