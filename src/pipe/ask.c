#include "pipe/ask.h"

#include "base/clock.h"
#include "base/rng.h"
#include "pipe/passages.h"

#include <stdio.h>
#include <string.h>

sp_ask *sp_ask_new(const char *tenant)
{
    sp_ask *q = sp_mem_alloc(sizeof *q);
    if (!q)
        return NULL;
    sp_arena_init(&q->a, 0);
    q->session = sp_arena_alloc(&q->a, sizeof *q->session);
    if (!q->session) {
        sp_ask_free(q);
        return NULL;
    }
    sp_sample_cfg_init(&q->session->sample);
    q->session->n_logprobs = -1;
    snprintf(q->tenant, sizeof q->tenant, "%s", tenant);
    q->begin_ns = sp_clock_ns();
    q->chat = true;
    q->n = 1;
    q->n_near = SP_PASSAGES_NEAR;
    q->plan.think_tok = q->plan.draft = -1;
    q->seed = -1;
    q->epsilon = -1;
    return q;
}

void sp_ask_free(sp_ask *q)
{
    if (!q)
        return;
    sp_op_put((sp_op *)q->find);
    sp_grammar_put(q->grammar);
    sp_arena_fini(&q->a);
    sp_mem_free(q);
}

void sp_ask_name(sp_ask *q, const char *prefix)
{
    uint64_t v[2] = {sp_rng_entropy(), sp_rng_entropy()};
    size_t n = strlen(prefix);
    const char *apart = n && prefix[n - 1] == '_' ? "" : "-";
    snprintf(q->id, sizeof q->id, "%s%s%016llx%04x", prefix, apart, (unsigned long long)v[0],
             (unsigned)(v[1] & 0xffff));
}

static bool is_name(sp_str s)
{
    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i];
        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
              c == '_' || c == '-' || c == '.'))
            return false;
    }
    return s.n > 0 && s.n <= SP_ASK_TOOL_NAME;
}

sp_err sp_ask_check_tools(const sp_ask *q, sp_diag *d)
{
    if (q->n_tool > SP_ASK_TOOLS)
        return SP_FAIL(d, SP_INVAL, "%zu tools are more than %d", q->n_tool, SP_ASK_TOOLS);
    for (size_t i = 0; i < q->n_tool; i++) {
        sp_str name = q->tool[i].name;
        if (!is_name(name))
            return SP_FAIL(d, SP_INVAL,
                           "tools[%zu]: the name '%.*s' is not 1 to %d letters, digits, _, - and .",
                           i, (int)(name.n < 40 ? name.n : 40), name.p, SP_ASK_TOOL_NAME);
        for (size_t k = 0; k < i; k++)
            if (name.n == q->tool[k].name.n && memcmp(name.p, q->tool[k].name.p, name.n) == 0)
                return SP_FAIL(d, SP_INVAL, "tools[%zu]: there is another tool named %.*s", i,
                               (int)name.n, name.p);
    }
    if (q->n_tool == 0 && q->calls >= SP_CALLS_REQUIRED)
        return SP_FAIL(d, SP_INVAL, "tool_choice asks for a tool and tools has none");
    return SP_OK;
}

sp_err sp_ask_copy(sp_chat_msg **out, sp_arena *a, const sp_chat_msg *msg, size_t n)
{
    sp_chat_msg *to = sp_arena_alloc(a, (n + 1) * sizeof *to);
    if (!to)
        return SP_NOMEM;
    for (size_t i = 0; i < n; i++)
        SP_TRY(sp_chat_msg_copy(&to[i], a, &msg[i]));
    *out = to;
    return SP_OK;
}
