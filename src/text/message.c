#include "text/message.h"

#include <string.h>

sp_chat_msg sp_chat_say(const char *role, const char *text, size_t n)
{
    return (sp_chat_msg){.role = {role, strlen(role)}, .content = {text, n}};
}

static bool copy(sp_str *s, sp_arena *a)
{
    if (!s->p || !s->n) {
        *s = (sp_str){"", 0};
        return true;
    }
    s->p = sp_arena_strndup(a, s->p, s->n);
    return s->p != NULL;
}

sp_err sp_chat_msg_copy(sp_chat_msg *out, sp_arena *a, const sp_chat_msg *m)
{
    sp_chat_msg c = *m;
    sp_chat_call *call = NULL;
    bool ok = copy(&c.role, a) && copy(&c.content, a) && copy(&c.name, a) &&
              copy(&c.reasoning, a) && copy(&c.call_id, a);
    if (ok && m->n_call) {
        call = sp_arena_alloc(a, m->n_call * sizeof *call);
        ok = call != NULL;
    }
    for (size_t i = 0; ok && i < m->n_call; i++) {
        call[i] = m->call[i];
        ok = copy(&call[i].id, a) && copy(&call[i].name, a) && copy(&call[i].arguments, a);
    }
    if (!ok)
        return SP_NOMEM;
    c.call = call;
    *out = c;
    return SP_OK;
}

size_t sp_chat_msg_bytes(const sp_chat_msg *m)
{
    size_t n = m->content.n + m->name.n + m->reasoning.n + m->call_id.n;
    for (size_t i = 0; i < m->n_call; i++)
        n += m->call[i].id.n + m->call[i].name.n + m->call[i].arguments.n;
    return n;
}
