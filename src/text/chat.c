#include "text/chat.h"

#include "base/log.h"
#include "text/chat_int.h"

#include <string.h>

enum { MAX_RUN_BYTES = 64 << 20 };

typedef struct form {
    sp_jinja *program; /* NULL: there is none */
    sp_chat_caps caps;
    sp_think_marks think;
} form;

struct sp_chat {
    form plain, tools; /* tools: for conversations with tools */
    sp_diag why;       /* why plain has no program */
};

/* One text with its foreign ranges. */
typedef struct page {
    sp_arena a;
    sp_buf text;
    sp_jranges foreign;
} page;

/* --- opening ---------------------------------------------------------------------------------- */

static sp_err open_form(form *f, sp_str source, sp_diag *d)
{
    SP_TRY(sp_jinja_compile(&f->program, source.p, source.n, d));
    sp_chat_probe(&f->caps, f->program, source);
    sp_chat_choose(&f->caps, &f->think, f->program, source);
    return SP_OK;
}

static sp_err open_forms(sp_chat **out, sp_str plain, sp_str tools, sp_diag *d)
{
    sp_diag inner = {0};
    sp_chat *c = sp_mem_alloc(sizeof *c);
    if (!c)
        return SP_FAIL(d, SP_NOMEM, "chat template");
    sp_err err = open_form(&c->plain, plain, &c->why);
    if (err != SP_OK && err != SP_NOMEM)
        sp_log(SP_LOG_WARN, "this model cannot chat: %s", c->why.msg);
    if (err == SP_OK && tools.n) {
        err = open_form(&c->tools, tools, &inner);
        if (err != SP_OK && err != SP_NOMEM)
            sp_log(SP_LOG_WARN, "the template for tools cannot be used, the other one is: %s",
                   inner.msg);
    }
    if (err == SP_NOMEM) {
        sp_chat_close(c);
        return SP_FAIL(d, SP_NOMEM, "chat template");
    }
    *out = c;
    return SP_OK;
}

sp_err sp_chat_open(sp_chat **out, const sp_gguf *g, sp_diag *d)
{
    static const char second[] = "tokenizer.chat_template.tool_use";
    sp_str plain, tools = {"", 0};
    SP_TRY(sp_gguf_str(&plain, g, "tokenizer.chat_template", d));
    if (sp_gguf_has(g, second))
        SP_TRY(sp_gguf_str(&tools, g, second, d));
    return open_forms(out, plain, tools, d);
}

sp_err sp_chat_open_text(sp_chat **out, const char *source, size_t n, sp_diag *d)
{
    return open_forms(out, (sp_str){source, n}, (sp_str){"", 0}, d);
}

const char *sp_chat_why(const sp_chat *c)
{
    return c->plain.program ? NULL : c->why.msg;
}

void sp_chat_close(sp_chat *c)
{
    if (!c)
        return;
    sp_jinja_free(c->plain.program);
    sp_jinja_free(c->tools.program);
    sp_mem_free(c);
}

/* --- rendering -------------------------------------------------------------------------------- */

static bool has_tools(const sp_chat_ask *ask)
{
    bool found = ask->tools.n != 0;
    for (size_t i = 0; i < ask->n_msg && !found; i++)
        found = ask->msg[i].n_call || sp_chat_is(ask->msg[i].role, "tool");
    return found;
}

static sp_chat_words words_of(const sp_tok *t)
{
    sp_chat_words w = {{"", 0}, {"", 0}};
    if (t && sp_tok_bos(t) != SP_TOK_NONE)
        w.bos = sp_tok_piece(t, sp_tok_bos(t));
    if (t && sp_tok_eos(t) != SP_TOK_NONE)
        w.eos = sp_tok_piece(t, sp_tok_eos(t));
    return w;
}

/* Ends the text where the last message's does. */
static sp_err cut(page *p, sp_diag *d)
{
    static const char mark[] = SP_CHAT_GO_ON;
    size_t n = sizeof mark - 1;
    for (size_t at = p->text.len; at >= n; at--)
        if (memcmp(p->text.p + at - n, mark, n) == 0) {
            p->text.len = at - n;
            p->text.p[p->text.len] = 0;
            return SP_OK;
        }
    return SP_FAIL(
        d, SP_INVAL,
        "the chat template does not end with the last message, so an answer cannot go on with it");
}

static const form *form_of(const sp_chat *c, const sp_chat_ask *ask)
{
    return has_tools(ask) && c->tools.program ? &c->tools : &c->plain;
}

/* How to read what comes behind this prompt: its own bytes at the end say where an answer begins.
 */
static void set_answer(sp_answer_cfg *out, const page *p, const form *f, const sp_chat_ask *ask)
{
    size_t from = p->foreign.n ? p->foreign.r[p->foreign.n - 1].end : 0;
    *out = (sp_answer_cfg){.format = f->caps.format,
                           .think = f->think,
                           .has_tools = ask->tools.n != 0,
                           .tools = ask->tools};
    if (!ask->go_on && from < p->text.len)
        out->at = sp_chat_answer_at(f->caps.format, f->think, p->text.p + from, p->text.len - from);
}

static sp_err write_page(page *p, const sp_chat *c, const sp_tok *t, const sp_chat_ask *ask,
                         sp_diag *d)
{
    const form *f = form_of(c, ask);
    const sp_chat_words words = words_of(t);
    sp_chat_ask shaped;
    sp_jval vars;
    sp_diag run = {0};
    if (!f->program)
        return SP_FAIL(d, SP_UNSUP, "this model cannot chat, but complete text: %s", c->why.msg);
    if (ask->go_on && (!ask->n_msg || !sp_chat_is(ask->msg[ask->n_msg - 1].role, "assistant") ||
                       ask->msg[ask->n_msg - 1].n_call))
        return SP_FAIL(
            d, SP_INVAL,
            "an answer can go on only with a last message of the assistant that calls nothing");
    sp_err err = sp_chat_shape(&shaped, &p->a, ask, &f->caps, d);
    if (err == SP_OK)
        err = sp_chat_vars(&vars, &p->a, &shaped, &f->caps, &words, d);
    if (err == SP_NOMEM)
        return SP_FAIL(d, SP_INVAL, "the messages are larger than %d bytes", MAX_RUN_BYTES);
    SP_TRY(err);
    err = sp_jinja_run(f->program, &p->text, &p->foreign, &p->a, &vars, &run);
    if (err != SP_OK) /* these messages spend a budget; others may not */
        return SP_FAIL(d, err == SP_LIMIT ? SP_INVAL : err, "%s", run.msg);
    return ask->go_on ? cut(p, d) : SP_OK;
}

static void page_fini(page *p)
{
    sp_buf_fini(&p->text);
    sp_arena_fini(&p->a);
}

sp_err sp_chat_text(const sp_chat *c, const sp_tok *t, sp_buf *out, sp_answer_cfg *answer,
                    const sp_chat_ask *ask, sp_diag *d)
{
    page p = {0};
    sp_arena_init(&p.a, MAX_RUN_BYTES);
    sp_err err = write_page(&p, c, t, ask, d);
    if (err == SP_OK && answer)
        set_answer(answer, &p, form_of(c, ask), ask);
    if (err == SP_OK)
        sp_buf_put(out, sp_buf_str(&p.text), p.text.len);
    page_fini(&p);
    return err == SP_OK && out->failed ? SP_FAIL(d, SP_NOMEM, "prompt") : err;
}

/* The ids of a rendered text; only its own bytes become control tokens. */
static sp_err encode(const sp_tok *t, sp_ids *ids, page *p, sp_diag *d)
{
    sp_tok_range *r = sp_arena_alloc(&p->a, (p->foreign.n + 1) * sizeof *r);
    if (!r)
        return SP_FAIL(d, SP_INVAL, "the messages are larger than %d bytes", MAX_RUN_BYTES);
    for (size_t i = 0; i < p->foreign.n; i++)
        r[i] = (sp_tok_range){p->foreign.r[i].at, p->foreign.r[i].end};
    return sp_tok_encode_marked(t, ids, sp_buf_str(&p->text), p->text.len, r, p->foreign.n, d);
}

sp_err sp_chat_render(const sp_chat *c, const sp_tok *t, sp_ids *out, sp_answer_cfg *answer,
                      const sp_chat_ask *ask, sp_diag *d)
{
    page p = {0};
    sp_ids ids = {.most = out->most};
    sp_arena_init(&p.a, MAX_RUN_BYTES);
    sp_err err = write_page(&p, c, t, ask, d);
    if (err == SP_OK)
        err = encode(t, &ids, &p, d);
    if (err == SP_OK && answer)
        set_answer(answer, &p, form_of(c, ask), ask);
    bool needs_bos =
        err == SP_OK && sp_tok_adds_bos(t) && (ids.n == 0 || ids.id[0] != sp_tok_bos(t));
    if (needs_bos)
        err = sp_ids_push(out, sp_tok_bos(t));
    if (err == SP_OK)
        err = sp_ids_add(out, ids.id, ids.n);
    sp_ids_fini(&ids);
    page_fini(&p);
    return err;
}

const sp_call_format *sp_chat_format(const sp_chat *c)
{
    return c->tools.program ? c->tools.caps.format : c->plain.caps.format;
}
