#include "text/chat.h"

#include "base/log.h"
#include "text/jinja.h"

#include <string.h>

enum { MAX_RUN_BYTES = 64 << 20 };

struct sp_chat {
    sp_jinja *program; /* NULL: the template cannot be used, for the reason in why */
    sp_diag why;
};

sp_err sp_chat_open(sp_chat **out, const sp_gguf *g, sp_diag *d)
{
    sp_str src;
    SP_TRY(sp_gguf_str(&src, g, "tokenizer.chat_template", d));
    sp_chat *c = sp_mem_alloc(sizeof *c);
    if (!c)
        return SP_FAIL(d, SP_NOMEM, "chat template");
    sp_err err = sp_jinja_compile(&c->program, src.p, src.n, &c->why);
    if (err == SP_NOMEM) {
        sp_mem_free(c);
        return SP_FAIL(d, SP_NOMEM, "chat template");
    }
    if (err != SP_OK)
        sp_log(SP_LOG_WARN, "this model cannot chat: %s", c->why.msg);
    *out = c;
    return SP_OK;
}

const char *sp_chat_why(const sp_chat *c)
{
    return c->program ? NULL : c->why.msg;
}

void sp_chat_close(sp_chat *c)
{
    if (!c)
        return;
    sp_jinja_free(c->program);
    sp_mem_free(c);
}

/* A role is the template's own word where it is one that templates know: some make a control token of it. */
static sp_jval role_value(sp_str role)
{
    static const char *const known[] = {"system", "developer", "user", "assistant", "tool"};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strlen(known[i]) == role.n && memcmp(known[i], role.p, role.n) == 0)
            return sp_jinja_str(known[i], role.n);
    return sp_jinja_foreign(role.p, role.n);
}

static sp_err add_message(sp_jval *list, sp_arena *a, const sp_chat_msg *m)
{
    sp_jval map;
    SP_TRY(sp_jinja_map_new(&map, a));
    SP_TRY(sp_jinja_map_set(&map, a, "role", role_value(m->role)));
    SP_TRY(sp_jinja_map_set(&map, a, "content", sp_jinja_foreign(m->content.p ? m->content.p : "", m->content.n)));
    return sp_jinja_list_add(list, a, map);
}

static sp_err make_vars(sp_jval *vars, sp_arena *a, const sp_tok *t, const sp_chat_msg *msg, size_t n_msg,
                        bool add_answer)
{
    sp_jval list;
    sp_str bos = {"", 0}, eos = {"", 0};
    SP_TRY(sp_jinja_map_new(vars, a));
    SP_TRY(sp_jinja_list_new(&list, a));
    for (size_t i = 0; i < n_msg; i++)
        SP_TRY(add_message(&list, a, &msg[i]));
    if (sp_tok_bos(t) != SP_TOK_NONE)
        bos = sp_tok_piece(t, sp_tok_bos(t));
    if (sp_tok_eos(t) != SP_TOK_NONE)
        eos = sp_tok_piece(t, sp_tok_eos(t));
    SP_TRY(sp_jinja_map_set(vars, a, "messages", list));
    SP_TRY(sp_jinja_map_set(vars, a, "add_generation_prompt", sp_jinja_bool(add_answer)));
    SP_TRY(sp_jinja_map_set(vars, a, "bos_token", sp_jinja_str(bos.p, bos.n)));
    return sp_jinja_map_set(vars, a, "eos_token", sp_jinja_str(eos.p, eos.n));
}

/* The ids of a rendered text; only its own bytes become control tokens. */
static sp_err encode(const sp_tok *t, sp_ids *ids, sp_arena *a, const sp_buf *text, const sp_jranges *foreign, sp_diag *d)
{
    sp_tok_range *r = sp_arena_alloc(a, (foreign->n + 1) * sizeof *r);
    if (!r)
        return SP_FAIL(d, SP_INVAL, "the messages are larger than %d bytes", MAX_RUN_BYTES);
    for (size_t i = 0; i < foreign->n; i++)
        r[i] = (sp_tok_range){foreign->r[i].at, foreign->r[i].end};
    return sp_tok_encode_marked(t, ids, sp_buf_str(text), text->len, r, foreign->n, d);
}

sp_err sp_chat_render(const sp_chat *c, const sp_tok *t, sp_ids *out, const sp_chat_msg *msg, size_t n_msg,
                      bool add_answer, sp_diag *d)
{
    sp_arena a;
    sp_buf text = {0};
    sp_ids ids = {.most = out->most};
    sp_jranges foreign;
    sp_jval vars;
    sp_diag run = {0};
    if (!c->program)
        return SP_FAIL(d, SP_UNSUP, "this model cannot chat, but complete text: %s", c->why.msg);
    sp_arena_init(&a, MAX_RUN_BYTES);
    sp_err err = make_vars(&vars, &a, t, msg, n_msg, add_answer);
    if (err != SP_OK)
        err = SP_FAIL(d, SP_INVAL, "the messages are larger than %d bytes", MAX_RUN_BYTES);
    if (err == SP_OK && (err = sp_jinja_run(c->program, &text, &foreign, &a, &vars, &run)) != SP_OK)
        err = SP_FAIL(d, err == SP_LIMIT ? SP_INVAL : err, "%s", run.msg); /* these messages spend a budget; others may not */
    if (err == SP_OK)
        err = encode(t, &ids, &a, &text, &foreign, d);
    bool needs_bos = err == SP_OK && sp_tok_adds_bos(t) && (ids.n == 0 || ids.id[0] != sp_tok_bos(t));
    if (needs_bos)
        err = sp_ids_push(out, sp_tok_bos(t));
    if (err == SP_OK)
        err = sp_ids_add(out, ids.id, ids.n);
    sp_ids_fini(&ids);
    sp_buf_fini(&text);
    sp_arena_fini(&a);
    return err;
}
